"""DeepfakeBench's dataset JSONs: the videos and frames of a data set, in every form in which they are met.

A JSON is `{key: {label: {split: {video: entry}}}}`, for the FaceForensics++ family with one more level,
`{split: {compression: {video: entry}}}`; an entry is `{"label": str, "frames": [path, ...]}`. Paths are relative with
backslashes and the data set folder first (as released), begin with `./datasets/rgb/` or
`deepfakes_detection_datasets/` (made on Linux, DF40), or are absolute. Here every path becomes canonical:
"/" between parts, the data set folder first.
"""

import json
import os
import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import write_text
from resproto_fd.configs.suggestions import nearest
from resproto_fd.preprocessing.taxonomy import Taxonomy, load_taxonomy

SPLITS = ("train", "val", "test")
COMPRESSIONS = ("raw", "c23", "c40")


@dataclass(frozen=True, slots=True)
class Video:
    """One video of one split of a data set.

    Attributes:
        dataset: The data set as a protocol names it ("Celeb-DF-v2", "FF-DF").
        split: "train", "val" or "test".
        id: Data set folder, source and name, "FaceForensics++/manipulated_sequences/Deepfakes/c23/000_003":
            the folder of its frames without the part "frames". The name alone, "000_003", is that of four videos.
            Where one folder holds frames of several videos, the JSON's name of the video is its last part.
        label: 0 real, 1 fake.
        label_name: The JSON's label string ("FF-DF", "CelebDFv2_real").
        method: What made it ("Deepfakes"), "real" for real videos.
        forgery_type: "real", "face swap", "reenactment", "entire synthesis", "editing" or "unknown".
        frames: Canonical paths by frame number. Where a name is no number they are in natural order
            ("seed2" before "seed10").
    """

    dataset: str
    split: str
    id: str
    label: int
    label_name: str
    method: str
    forgery_type: str
    frames: tuple[str, ...]

    def frame_numbers(self) -> tuple[int, ...]:
        """Number of each frame: its place in the source video where every file is named by a number ("027.png"),
        else its position in `frames`, counted from 0. Unique within the video either way.

        >>> frames = ("D/frames/a/000.png", "D/frames/a/027.png")
        >>> Video("D", "test", "D/a", 0, "real", "real", "real", frames).frame_numbers()
        (0, 27)
        """
        stems = [_stem(path) for path in self.frames]
        if all(map(_is_number, stems)):
            numbers = tuple(map(int, stems))
            if len(set(numbers)) == len(numbers):
                return numbers
        return tuple(range(len(self.frames)))

    def frame_number(self, path: str) -> int:
        """Number of one of this video's frames, as in `frame_numbers`."""
        return self.frame_numbers()[self.frames.index(path)]


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


def evenly_spaced(n: int, wanted: int | None) -> list[int]:
    """Positions of `wanted` frames spread over `n`, first and last among them.

    Position i is floor(i (n - 1) / (wanted - 1)), in whole numbers, so that it is the same everywhere; a single frame
    is the middle one. All positions when `wanted` is None or at least `n`. The positions count the frames that exist:
    where a face was missed, the neighbours are as far apart as the gap.

    Raises:
        ValueError: `wanted` is less than 1.

    >>> evenly_spaced(10, 4), evenly_spaced(10, 1), evenly_spaced(3, 8)
    ([0, 3, 6, 9], [4], [0, 1, 2])
    """
    if wanted is not None and wanted < 1:
        raise ValueError(f"wants at least one frame a video, got {wanted}")
    if wanted is None or wanted >= n:
        return list(range(n))
    if wanted == 1:
        return [(n - 1) // 2]
    return [i * (n - 1) // (wanted - 1) for i in range(wanted)]


def canonical_path(raw: str, folder: str | Sequence[str] | None = None) -> str:
    """A JSON's path with "/" between its parts and the data set folder first.

    Args:
        raw: Relative or absolute, of Linux or Windows, separators mixed or doubled.
        folder: Name of the data set folder, or names where a list borrows frames of another data set (DF40 takes its
            real videos from FaceForensics++ and Celeb-DF-v2). The path is cut before the last part so called.
            None: the path must be relative and have the folder first already.

    Raises:
        UserError: The path does not go through the folder, climbs up from it, or names no file in it.

    >>> canonical_path(r"C:\\data\\Celeb-DF-v2\\YouTube-real\\frames/00000/000.png", "Celeb-DF-v2")
    'Celeb-DF-v2/YouTube-real/frames/00000/000.png'
    """
    slashed = raw.replace("\\", "/")
    parts = [part for part in slashed.split("/") if part not in ("", ".")]
    if folder is None:
        if slashed.startswith(("/", ".")) or re.match(r"[A-Za-z]:", slashed):
            raise UserError(
                f"path '{raw}' does not begin with its data set folder; name that folder (`folder:` in the data set's "
                "YAML)"
            )
    else:
        names = (folder,) if isinstance(folder, str) else tuple(folder)
        places = [i for i, part in enumerate(parts[:-1]) if part in names]
        if not places:
            raise UserError(
                f"path '{raw}' does not go through a folder {' or '.join(map(repr, names))}; correct `folder:` in the "
                "data set's YAML"
            )
        parts = parts[places[-1] :]
    if ".." in parts or len(parts) < 2:
        raise UserError(f"path '{raw}' names no file inside its data set folder")
    return "/".join(parts)


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
    """The videos of one split of a dataset JSON. Other splits are not looked at, so that a broken one does no harm.

    A frame or a whole video named twice alike is kept once (`repeated`); one that contradicts itself is an error.

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
        UserError: Missing or unreadable file, no such key, split or compression level, a split without videos, a label
            outside the taxonomy, a path outside the data set folder, a video id with two lists of frames, or a frame
            in two videos. File, key, choices and remedy are named.
    """
    taxonomy = load_taxonomy() if taxonomy is None else taxonomy
    key, tables = _labels_of(_load(json_path), key, dataset, json_path)
    paths = _Paths(folder, key)
    videos: dict[str, Video] = {}
    owner: dict[str, str] = {}
    empty, repeated = [], []
    for label, name, entry in _entries_of(tables, split, compression, str(json_path)):
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
            continue
        if video.id in videos:
            raise UserError(
                f"{where}: '{video.id}' is named twice with other frames or another label "
                f"('{videos[video.id].label_name}', '{video.label_name}'); a video has one entry"
            )
        videos[video.id] = video
        for frame in frames:
            other = owner.setdefault(frame, video.id)
            if other != video.id:
                raise UserError(f"{where}: frame '{frame}' belongs to '{other}' already; a frame has one video")
    if not videos:
        emptied = f" ({len(empty)} lists of frames are empty)" if empty else ""
        raise UserError(
            f"{json_path}: split '{split}' has no video with frames{emptied}; splits with videos: "
            f"{_filled_splits(tables)}"
        )
    return Manifest((videos[video_id] for video_id in sorted(videos)), empty, repeated)


def write_manifest(
    json_path: str | os.PathLike, dataset: str, videos: Iterable[Video], compression: str | None = None
) -> None:
    """Write a dataset JSON that DeepfakeBench reads: its nesting, and its released form of paths (backslashes).

    The file appears whole or not at all. Every label gets all three splits, empty ones too, because DeepfakeBench
    asks for each by name.

    Args:
        json_path: File to write; folders above it are made.
        dataset: The top key.
        videos: Of any splits. A video's name in the JSON is the last part of its id.
        compression: Adds the compression level of the FaceForensics++ family; DeepfakeBench looks for it in JSONs of
            those names only.

    Raises:
        UserError: No videos, two videos of one label and split with one name, or a file that cannot be written.
    """
    layout: dict[str, dict] = {}
    for video in videos:
        label = layout.setdefault(
            video.label_name, {split: {} if compression is None else {compression: {}} for split in SPLITS}
        )
        table = label[video.split] if compression is None else label[video.split][compression]
        name = video.id.rpartition("/")[2]
        if name in table:
            raise UserError(
                f"{json_path}: two videos of {video.label_name}, {video.split} are called '{name}' "
                f"(the second is '{video.id}'); DeepfakeBench's layout keeps one of a name"
            )
        table[name] = {"label": video.label_name, "frames": [frame.replace("/", "\\") for frame in video.frames]}
    if not layout:
        raise UserError(f"{json_path}: no videos to write")
    write_text(json_path, json.dumps({dataset: layout}))


def listed_frames(
    json_path: str | os.PathLike,
    *,
    splits: Sequence[str] | None = None,
    compressions: Sequence[str] | None = None,
    folder: str | Sequence[str] | None = None,
) -> list[str]:
    """Every frame that a dataset JSON names, whatever its labels mean and however it is nested, each once, sorted.

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
    for key, tables in _load(json_path).items():
        paths, waiting = _Paths(folder, key), [(key, 1, tables)]
        while waiting:
            where, depth, table = waiting.pop()
            if not isinstance(table, dict):
                continue
            if isinstance(table.get("frames"), list):
                found.update(_frames_of(table, paths, f"{json_path}: {where}"))
                continue
            for name, inner in table.items():
                is_video = depth == 3 and isinstance(inner, dict) and "frames" in inner
                if is_video or name not in left_out.get(depth, ()):
                    waiting.append((f"{where}, {name}", depth + 1, inner))
    if not found:
        chosen = [*(splits or ()), *(compressions or ())]
        raise UserError(f"{json_path}: names no frames{f' under {chosen}' if chosen else ''}")
    return sorted(found)


def _load(json_path: str | os.PathLike) -> Mapping:
    path = Path(json_path)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        there = sorted(other.name for other in path.parent.glob("*.json")) if path.parent.is_dir() else []
        hint = f"; the folder has {', '.join(there[:20])}" if there else "; the folder has no JSON"
        raise UserError(f"{path}: no such dataset JSON{nearest(path.name, there)}{hint}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not a whole JSON ({error}); copy or make it again") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path}: wants {{data set: {{label: {{split: ...}}}}}}, holds {type(content).__name__}")
    return content


def _labels_of(content: Mapping, key: str | None, dataset: str, json_path) -> tuple[str, Mapping]:
    if key is None:
        key = dataset if dataset in content or len(content) > 1 else next(iter(content))
    if key not in content:
        raise UserError(
            f"{json_path}: no data set '{key}' in it{nearest(key, content)}; it has {', '.join(map(repr, content))} "
            "(`key:` in the data set's YAML says which is meant)"
        )
    if not isinstance(content[key], dict) or not content[key]:
        raise UserError(f"{json_path}: '{key}' holds no labels")
    return key, content[key]


def _entries_of(tables: Mapping, split: str, compression: str | None, where: str) -> list[tuple[str, str, Mapping]]:
    """(label, video name, entry) of a split."""
    found, levels, flat = [], set(), []
    for label, splits in tables.items():
        if not isinstance(splits, dict):
            raise UserError(f"{where}: label '{label}' holds no splits")
        if not splits:
            continue
        if split not in splits:
            raise UserError(
                f"{where}: label '{label}' has no split '{split}'{nearest(split, splits)}; it has "
                f"{', '.join(map(repr, splits))}"
            )
        table, place = splits[split], f"{where}: {label}, {split}"
        if _is_nested(table, place):
            levels.update(table)
            table = _level(table, compression, place)
        elif table:
            flat.append(label)
        found.extend((label, name, entry) for name, entry in table.items())
    if flat and not levels and compression is not None:
        raise UserError(
            f"{where}: compression '{compression}' is asked for, but the JSON has no compression levels; "
            "set `compression: null` in the data set's YAML"
        )
    return found


def _is_nested(table, where: str) -> bool:
    """Whether a split's table has compression levels above its videos."""
    broken = (
        f"{where}: is not a table of videos; DeepfakeBench's script writes the split 'val' of DFDC so. "
        "Use another split, or make the JSON again"
    )
    if not isinstance(table, dict) or not all(isinstance(value, dict) for value in table.values()):
        raise UserError(broken)
    videos = ["frames" in value for value in table.values()]
    if not videos or all(videos):
        return False
    entries = [entry for value in table.values() for entry in value.values()]
    if any(videos) or not all(isinstance(entry, dict) and "frames" in entry for entry in entries):
        raise UserError(broken)
    return True


def _level(table: Mapping, compression: str | None, where: str) -> Mapping:
    if compression is None and len(table) == 1:
        return next(iter(table.values()))
    if compression not in table:
        asked = f"no compression level '{compression}'" if compression else "several compression levels"
        raise UserError(
            f"{where}: {asked}; it has {', '.join(map(repr, table))}; name one under `compression:` in the data set's "
            "YAML"
        )
    return table[compression]


def _filled_splits(tables: Mapping) -> str:
    def holds(table) -> bool:
        return isinstance(table, dict) and any(isinstance(value, dict) and value for value in table.values())

    splits = dict.fromkeys(
        split
        for by_split in tables.values()
        if isinstance(by_split, dict)
        for split, table in by_split.items()
        if holds(table)
    )
    return ", ".join(map(repr, splits)) or "none"


class _Paths:
    """Canonical paths of one JSON. Folders are few and frames many, so each folder is worked out once."""

    def __init__(self, folder: str | Sequence[str] | None, key: str):
        self.folder, self.key = folder, key
        self.folders: dict[str, str] = {}

    def canonical(self, raw: str) -> str:
        cut = max(raw.rfind("/"), raw.rfind("\\")) + 1
        folder, name = raw[:cut], raw[cut:]
        if name in ("", ".", ".."):
            raise UserError(f"path '{raw}' names no file")
        if folder not in self.folders:
            self.folders[folder] = self._canonical(raw)[: -len(name)]
        return self.folders[folder] + name

    def _canonical(self, raw: str) -> str:
        try:
            return canonical_path(raw, self.folder)
        except UserError:
            if self.folder is None and self.key in re.split(r"[\\/]", raw):
                return canonical_path(raw, self.key)
            raise


def _frames_of(entry: Mapping, paths: _Paths, where: str) -> tuple[str, ...]:
    frames = entry["frames"]
    if not isinstance(frames, list) or not all(isinstance(frame, str) for frame in frames):
        raise UserError(f"{where}: wants a list of paths under 'frames'")
    try:
        return _by_number({paths.canonical(frame) for frame in frames})
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
        id=_video_id(frames, name),
        label=meaning.label,
        label_name=label_name,
        method=meaning.method,
        forgery_type=meaning.forgery_type,
        frames=frames,
    )


def _video_id(frames: Sequence[str], name: str) -> str:
    folder = posixpath.commonpath({frame.rpartition("/")[0] for frame in frames})
    base = "/".join(part for part in folder.split("/") if part != "frames")
    name = name.replace("\\", "/").strip("/")
    return base if base.rpartition("/")[2] == name else f"{base}/{name}"


def _stem(path: str) -> str:
    name = path.rpartition("/")[2]
    return name.rpartition(".")[0] or name


def _is_number(stem: str) -> bool:
    return stem.isascii() and stem.isdigit()


def _by_number(frames: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(frames, key=lambda path: (_natural(_stem(path)), path)))


def _natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key in which runs of digits count as numbers: "seed2" before "seed10"."""
    return tuple(
        (0, int(run), "") if _is_number(run) else (1, 0, run) for run in re.split(r"([0-9]+)", text) if run
    )  # fmt: skip
