"""The people in a video, and the video from which it was made. Side files tell it, else names like FaceForensics++'s.

There a real video is called "003". A fake is called "000_003" if it was made from 000 with the face or motion of 003.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from resproto_fd.preprocessing.side_file import SideRecord, read_side, seen_in_it
from resproto_fd.preprocessing.video import Video
from resproto_fd.trainer.frame_list import FrameList

PAIR = re.compile(r"(?P<target>\d+)_(?P<source>\d+)")


def side_records(frames: FrameList, sides: Mapping[str, Path]) -> dict[str, SideRecord]:
    """Reads the side files' records of the videos of a list, by video id. Data sets without a side file have none.

    Args:
        frames: The list.
        sides: Side file of each data set, by name; the file may be absent.
    """
    names = {video.dataset for video in frames.videos}
    files = {name: read_side(sides[name]).records for name in names if name in sides and sides[name].is_file()}
    found = {video.id: files.get(video.dataset, {}).get(video.id) for video in frames.videos}
    return {video_id: record for video_id, record in found.items() if record}


def identity_of(video: Video, record: SideRecord | None) -> str:
    """Names the person whose face is seen; in a swap, the person swapped in. If unknown, a video has its own person.

    >>> swap = Video("FF-DF", "train", "FaceForensics++/Deepfakes/000_003", 1, "FF-DF", "Deepfakes", "face swap", ())
    >>> identity_of(swap, None)
    'FaceForensics++/003'
    """
    if record and record.identity:
        return record.identity
    folder, name, pair = _named(video)
    return f"{folder}/{seen_in_it(video.forgery_type, *pair.group('target', 'source')) if pair else name}"


def target_of(video: Video, record: SideRecord | None) -> str:
    """Names the person whose video it is; in a fake, the one whose face was covered or moved. If unknown, as above.

    >>> swap = Video("FF-DF", "train", "FaceForensics++/Deepfakes/000_003", 1, "FF-DF", "Deepfakes", "face swap", ())
    >>> target_of(swap, None)
    'FaceForensics++/000'
    """
    told = record and (record.target if video.label else record.identity)
    folder, name, pair = _named(video)
    return told or f"{folder}/{pair['target'] if pair else name}"


def originals(frames: FrameList, records: Mapping[str, SideRecord]) -> dict[int, int]:
    """Finds the real video from which each fake was made: {fake's position: original's}, if both are in the list."""
    places = {video.id: place for place, video in enumerate(frames.videos) if not video.label}
    named: dict[tuple[str, str], int] = {}
    for video_id, place in places.items():
        named.setdefault((video_id.partition("/")[0], video_id.rpartition("/")[2]), place)
    found = {}
    for place, video in enumerate(frames.videos):
        if not video.label:
            continue
        record, pair = records.get(video.id), PAIR.fullmatch(video.id.rpartition("/")[2])
        original = places.get(record.original) if record and record.original else None
        if original is None and pair:
            original = named.get((video.id.partition("/")[0], pair["target"]))
        if original is not None:
            found[place] = original
    return found


def _named(video: Video) -> tuple[str, str, re.Match | None]:
    """Splits a video's id: (first folder, last part, for fakes the match of the two videos it names)."""
    name = video.id.rpartition("/")[2]
    return video.id.partition("/")[0], name, PAIR.fullmatch(name) if video.label else None
