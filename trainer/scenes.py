"""Who is seen in a video, and from which video it was made: from the side file, else from names like FaceForensics++'s.

There a real video is called "003", a fake "000_003": made from 000, with the face or the motion of 003.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from resproto_fd.preprocessing.side_file import SideRecord, read_side, seen_in_it
from resproto_fd.preprocessing.video import Video
from resproto_fd.trainer.frame_list import FrameList

PAIR = re.compile(r"(?P<target>\d+)_(?P<source>\d+)")


def side_records(frames: FrameList, sides: Mapping[str, Path]) -> dict[str, SideRecord]:
    """What the side files say of the videos of a list, by video id; nothing where there is no side file.

    Args:
        frames: The list.
        sides: Side file of each data set, by name; it need not be there.
    """
    names = {video.dataset for video in frames.videos}
    files = {name: read_side(sides[name]).records for name in names if name in sides and sides[name].is_file()}
    found = {video.id: files.get(video.dataset, {}).get(video.id) for video in frames.videos}
    return {video_id: record for video_id, record in found.items() if record}


def identity_of(video: Video, record: SideRecord | None) -> str:
    """Whose face is seen: of a swap the person swapped in. A video that does not tell is a person of its own.

    >>> swap = Video("FF-DF", "train", "FaceForensics++/Deepfakes/000_003", 1, "FF-DF", "Deepfakes", "face swap", ())
    >>> identity_of(swap, None)
    'FaceForensics++/003'
    """
    if record and record.identity:
        return record.identity
    folder, name, pair = _named(video)
    return f"{folder}/{seen_in_it(video.forgery_type, *pair.group('target', 'source')) if pair else name}"


def target_of(video: Video, record: SideRecord | None) -> str:
    """Whose video it is: of a fake the person whose face was covered or moved. One that does not tell has its own.

    >>> swap = Video("FF-DF", "train", "FaceForensics++/Deepfakes/000_003", 1, "FF-DF", "Deepfakes", "face swap", ())
    >>> target_of(swap, None)
    'FaceForensics++/000'
    """
    told = record and (record.target if video.label else record.identity)
    folder, name, pair = _named(video)
    return told or f"{folder}/{pair['target'] if pair else name}"


def originals(frames: FrameList, records: Mapping[str, SideRecord]) -> dict[int, int]:
    """Position of the real video that each fake was made from, by the fake's, where both are in the list."""
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
    """First folder and last part of a video's id, and of a fake's the two videos that the latter names."""
    name = video.id.rpartition("/")[2]
    return video.id.partition("/")[0], name, PAIR.fullmatch(name) if video.label else None
