"""DeepfakeBench's dataset JSONs: reads, writes and lists the videos and frames of a data set.

A JSON is `{key: {label: {split: {video: entry}}}}`; the FaceForensics++ family has one more level,
`{split: {compression: {video: entry}}}`. An entry is `{"label": str, "frames": [path, ...]}`. Released JSONs have
relative paths with backslashes and the data set folder first. JSONs made on Linux have paths below `./datasets/rgb/`,
DF40's have paths below `deepfakes_detection_datasets/`, and others have absolute paths. All are read; `frame_paths`
makes them canonical.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import write_text
from resproto_fd.preprocessing.frame_paths import CanonicalPaths, video_id
from resproto_fd.preprocessing.manifest_layout import (
    Layout,
    entries_of,
    filled_splits,
    labels_of,
    load_manifest,
    refuse_empty_entries,
)
from resproto_fd.preprocessing.taxonomy import Taxonomy, load_taxonomy
from resproto_fd.preprocessing.video import COMPRESSIONS, SPLITS, Video, by_number


class EmptySplit(UserError):
    """A split has no video with frames.

    Args:
        message: The error's text.
        empty: "LABEL/NAME" of each video whose list of frames is empty.
    """

    def __init__(self, message: str, empty: Sequence[str] = ()):
        super().__init__(message)
        self.empty = tuple(empty)


class Manifest(list[Video]):
    """The videos of one split, sorted by id, and what was left out in reading.

    Attributes:
        empty: "LABEL/NAME" of each video whose list of frames is empty; they are not in the list.
        repeated: Videos and frames that were named a second time, with the same label, and are here once.
    """

    def __init__(self, videos: Iterable[Video] = (), empty: Sequence[str] = (), repeated: Sequence[str] = ()):
        super().__init__(videos)
        self.empty = tuple(empty)
        self.repeated = tuple(repeated)


def read_manifest(
    json_path: str | os.PathLike,
    dataset: str,
    *,
    split: str,
    key: str | None = None,
    compression: str | None = None,
    folder: str | Sequence[str] | None = None,
    taxonomy: Taxonomy | None = None,
) -> Manifest:
    """Reads the videos of one split of a dataset JSON; the other splits are not checked and may be broken.

    A frame or a video that is named twice in the same way is kept once and listed in `Manifest.repeated`. Entries that
    contradict each other are an error.

    Args:
        json_path: The JSON.
        dataset: The data set as a protocol names it; `Video.dataset`.
        split: "train", "val" or "test".
        key: The JSON's top key. None: `dataset` if it is there, else the only key there is.
        compression: Which compression level, where the JSON has levels; may be None when it has just one.
        folder: Data set folder(s), see `canonical_path`. None: paths have it first, or go through a folder named
            as the key.
        taxonomy: What label strings mean; the installed one if None.

    Raises:
        EmptySplit: The split has no video with frames.
        UserError: Missing or unreadable file, no such key, split or compression level, a label
            outside the taxonomy, a path outside the data set folder, a video id with two lists of frames, or a frame
            in two videos. File, key, choices and remedy are named.
    """
    taxonomy = load_taxonomy() if taxonomy is None else taxonomy
    key, tables = labels_of(load_manifest(json_path), key, dataset, json_path)
    paths = CanonicalPaths(folder, key)
    videos: dict[str, Video] = {}
    owner: dict[str, str] = {}
    empty, repeated = [], []
    for label, name, entry in entries_of(tables, split, compression, str(json_path)):
        where = f"{json_path}: {label}, {split}, video '{name}'"
        frames = _frames_of(entry, paths, where)
        if not frames:
            empty.append(f"{label}/{name}")
            continue
        if len(frames) < len(entry["frames"]):
            repeated.append(f"{label}/{name}: {len(entry['frames']) - len(frames)} frames")
        video = _video(dataset, split, name, str(entry.get("label", label)), frames, taxonomy, where)
        if videos.get(video.id) == video:
            repeated.append(f"{label}/{name}")
        else:
            _enter(video, videos, owner, where)
    if not videos:
        emptied = f" ({len(empty)} lists of frames are empty)" if empty else ""
        raise EmptySplit(
            f"{json_path}: split '{split}' has no video with frames{emptied}; splits with videos: "
            f"{filled_splits(tables)}",
            empty,
        )
    return Manifest((videos[key] for key in sorted(videos)), empty, repeated)


def write_manifest(
    json_path: str | os.PathLike, dataset: str, videos: Iterable[Video], compression: str | None = None
) -> None:
    """Writes a dataset JSON that DeepfakeBench reads: its nesting and its released form of paths (backslashes).

    The file appears whole or not at all. See `Layout` for the nesting.

    Args:
        json_path: File to write; folders above it are made.
        dataset: The top key.
        videos: Of any splits. A video's name in the JSON is the last part of its id.
        compression: Adds the compression level of the FaceForensics++ family; DeepfakeBench looks for it in JSONs of
            those names only.

    Raises:
        UserError: No videos, two videos of one label and split with one name, or a file that cannot be written.
    """
    layout = Layout(json_path, [] if compression is None else [compression])
    for video in videos:
        entry = {"label": video.label_name, "frames": [frame.replace("/", "\\") for frame in video.frames]}
        layout.add(video.label_name, video.split, compression, video.id.rpartition("/")[2], entry)
    if not layout.tables:
        raise UserError(f"{json_path}: no videos to write")
    write_text(json_path, json.dumps({dataset: layout.tables}))


def listed_frames(
    json_path: str | os.PathLike,
    *,
    splits: Sequence[str] | None = None,
    compressions: Sequence[str] | None = None,
    folder: str | Sequence[str] | None = None,
) -> list[str]:
    """Lists every frame that a dataset JSON names, each once, sorted; labels need no meaning, any nesting is read.

    Args:
        json_path: The JSON.
        splits: Only these; all if None.
        compressions: Only these levels, where the JSON has levels; all if None.
        folder: Data set folder(s), see `canonical_path`. None: paths have it first, or go through a folder named as
            the top key.

    Raises:
        UserError: Missing or unreadable file, a path outside the data set folder, or no frame at all.
    """
    left_out = {
        2: set() if splits is None else set(SPLITS) - set(splits),
        3: set() if compressions is None else set(COMPRESSIONS) - set(compressions),
    }
    found: set[str] = set()
    for key, tables in load_manifest(json_path).items():
        paths, waiting = CanonicalPaths(folder, key), [(key, 1, tables)]
        while waiting:
            where, depth, table = waiting.pop()
            if not isinstance(table, dict):
                continue
            if isinstance(table.get("frames"), list):
                found.update(_frames_of(table, paths, f"{json_path}: {where}"))
                continue
            if depth >= 3:
                refuse_empty_entries(table, f"{json_path}: {where}")
            for name, inner in table.items():
                is_video = depth == 3 and isinstance(inner, dict) and "frames" in inner
                if is_video or name not in left_out.get(depth, ()):
                    waiting.append((f"{where}, {name}", depth + 1, inner))
    if not found:
        chosen = [*(splits or ()), *(compressions or ())]
        raise UserError(f"{json_path}: names no frames{f' under {chosen}' if chosen else ''}")
    return sorted(found)


def _frames_of(entry: Mapping, paths: CanonicalPaths, where: str) -> tuple[str, ...]:
    frames = entry["frames"]
    if not isinstance(frames, list) or not all(isinstance(frame, str) for frame in frames):
        raise UserError(f"{where}: expected a list of paths under 'frames', got {type(frames).__name__}")
    try:
        return by_number({paths.canonical(frame) for frame in frames})
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _video(
    dataset: str, split: str, name: str, label_name: str, frames: tuple[str, ...], taxonomy: Taxonomy, where: str
) -> Video:
    try:
        meaning = taxonomy[label_name]
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return Video(
        dataset=dataset,
        split=split,
        id=video_id(frames, name),
        label=meaning.label,
        label_name=label_name,
        method=meaning.method,
        forgery_type=meaning.forgery_type,
        frames=frames,
    )


def _enter(video: Video, videos: dict[str, Video], owner: dict[str, str], where: str) -> None:
    """Adds a video to `videos` and its frames to `owner`, the id of each frame's video."""
    if video.id in videos:
        raise UserError(
            f"{where}: '{video.id}' is named twice with other frames or another label "
            f"('{videos[video.id].label_name}', '{video.label_name}'); a video has one entry"
        )
    videos[video.id] = video
    for frame in video.frames:
        other = owner.setdefault(frame, video.id)
        if other != video.id:
            raise UserError(f"{where}: frame '{frame}' belongs to '{other}' already; a frame has one video")
