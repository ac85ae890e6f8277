"""Arrangement of videos or pictures that a CSV lists, with their labels."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.readers.csv_reader import read_csv_lines
from resproto_fd.configs.suggestions import nearest
from resproto_fd.preprocessing.arrangers.arranging import ALL_TEST, Arranged, Arrangement, named, share_out
from resproto_fd.preprocessing.arrangers.description import SPLIT_WORDS, Clip, Description
from resproto_fd.preprocessing.arrangers.folders import FAKE_WORDS, REAL_WORDS, method_meaning
from resproto_fd.preprocessing.arrangers.tree import PICTURES, Tree
from resproto_fd.preprocessing.faces.video_reader import natural_key
from resproto_fd.preprocessing.taxonomy import Taxonomy

COLUMNS = {
    "path": "picture, folder of frames, or video from which `resproto faces` cut frames; below --root",
    "label": "real or fake, 0 or 1",
    "method": "forgery method of a fake",
    "type": "kind of forgery of a method that the taxonomy lacks",
    "identity": "who is seen",
    "split": "train, val or test",
    "video": "video of a picture; without it each picture is a video by itself",
}
"""Columns of the table. The first two are required."""
REQUIRED = ("path", "label")
CLASS_WORDS = {**dict.fromkeys(("0", *REAL_WORDS), 0), **dict.fromkeys(("1", *FAKE_WORDS), 1)}


@dataclass
class _Row:
    """Video of the table: what its lines say of it, and its frames so far."""

    facts: tuple
    line: int
    folder: str
    frames: list[str] = field(default_factory=list)


def arrange_table(
    path: str | os.PathLike,
    root: str | os.PathLike,
    taxonomy: Taxonomy,
    *,
    name: str = "",
    shares: Sequence[float] | None = None,
    seed: int = 0,
) -> Arrangement:
    """Makes the arrangement that a CSV describes; see `COLUMNS`.

    Args:
        path: The CSV, with a line of column names.
        root: The data set folder; paths of the CSV are below it.
        taxonomy: The known methods.
        name: Name of the data set; by default the folder's.
        shares, seed: As for `arrange`, for lines without a split.

    Raises:
        UserError: The file cannot be read; a column is missing or unknown; a value has no meaning, or contradicts
            another line of the same video; or there are shares and every line has a split. File and line are named.
    """
    path, root = Path(path), Path(root).resolve()
    tree = Tree(root.parent, (root.name,))
    name = name or root.name
    meanings: dict[str, str | Mapping[str, str]] = {}
    result = Arrangement(Description(name, (root.name,), (), store=f"{name}_lmdb"), "official")
    videos: dict[str, _Row] = {}
    for line, row in _rows(path):
        where = f"{path}:{line}"
        found = _frames(tree, root.name, row["path"], where)
        if not found:
            result.not_found.append(row["path"])
            continue
        folder, clip, frames = found
        clip = row["video"] or clip
        facts = (*_label(row, name, taxonomy, meanings, where), row["identity"], _split(row["split"], where))
        video = videos.setdefault(clip if row["video"] else f"{folder}/{clip}", _Row(facts, line, folder))
        if video.facts != facts:
            raise UserError(f"{where}: '{row['path']}' contradicts line {video.line} on the same video")
        video.frames += frames
    result.description = Description(
        name,
        (root.name,),
        (),
        store=f"{name}_lmdb",
        source=f"the user's table {path.name}",
        lists_all=True,
        labels=meanings,
    )
    for key, video in videos.items():
        label, identity, split = video.facts
        frames = tuple(sorted(dict.fromkeys(video.frames), key=natural_key))
        people = {"identity": f"{name}/{identity}"} if identity else {}
        clip = Clip(video.folder, key.rpartition("/")[2], frames)
        result.videos.append(Arranged(clip, label, label, (split,), people=people))
    _finish(result, path, shares, seed)
    return result


def _finish(result: Arrangement, path: Path, shares: Sequence[float] | None, seed: int) -> None:
    if not result.videos:
        raise UserError(f"{path}: none of its {len(result.not_found)} paths is below --root")
    if shares and not any(video.splits == ("open",) for video in result.videos):
        raise UserError(f"--shares: every line of {path} already has a split; remove --shares")
    share_out(result, shares or ALL_TEST, seed)
    result.videos = named(result.videos)


def _rows(path: Path):
    """Yields (line, values by column) of a CSV; absent columns are empty."""
    lines = read_csv_lines(path)
    head = [each.strip().lower() for each in next(lines, (1, []))[1]]
    _check_head(head, path)
    for number, cells in lines:
        if not any(cells):
            continue
        if len(cells) != len(head):
            raise UserError(f"{path}:{number}: expected {len(head)} cells, got {len(cells)}")
        values = dict(zip(head, (cell.strip() for cell in cells), strict=True))
        yield number, dict.fromkeys(COLUMNS, "") | values


def _check_head(head: Sequence[str], path: Path) -> None:
    if missing := [each for each in REQUIRED if each not in head]:
        raise UserError(f"{path}:1: expected a column '{missing[0]}', got {', '.join(head) or 'an empty file'}")
    for each in head:
        if each not in COLUMNS or head.count(each) > 1:
            what = "twice the column" if each in COLUMNS else "an unknown column"
            raise UserError(f"{path}:1: {what} '{each}'{nearest(each, COLUMNS)}; expected {', '.join(COLUMNS)}")


def _frames(tree: Tree, top: str, given: str, where: str) -> tuple[str, str, list[str]] | None:
    """(folder, name, frames) of a path of the table; None if the tree does not have it."""
    parts = [part for part in given.replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts or ".." in parts or given.startswith(("/", "\\")) or ":" in parts[0]:
        raise UserError(f"{where}: expected a path below --root, got '{given}'")
    if parts[0] == top and not (tree.root / top / top).is_dir():
        parts = parts[1:]
    stem = parts[-1].rpartition(".")[0] or parts[-1]
    above = "/".join([top, *parts[:-1]])
    outer = "/".join(part for part in above.split("/") if part != "frames")
    path = f"{above}/{parts[-1]}"
    if parts[-1].lower().endswith(PICTURES) and (tree.root / path).is_file():
        return outer, stem, [path]
    for folder, name in ((path, parts[-1]), (f"{above}/frames/{stem}", stem)):
        if frames := tree.pictures(folder):
            return outer, name, list(frames)
    return None


def _label(row: Mapping[str, str], name: str, taxonomy: Taxonomy, meanings: dict, where: str) -> tuple[str]:
    """The label string of a line; its meaning is added to `meanings`."""
    label = CLASS_WORDS.get(row["label"].lower())
    if label is None:
        raise UserError(f"{where}: expected label real or fake, 0 or 1, got '{row['label']}'")
    if not label:
        if row["method"].lower() not in ("", *REAL_WORDS):
            raise UserError(f"{where}: label real with method '{row['method']}'; leave the method empty")
        meanings[f"{name}_real"] = "real"
        return (f"{name}_real",)
    method = row["method"]
    string = f"{name}_{method or 'fake'}"
    if string == f"{name}_real":
        raise UserError(f"{where}: label fake with method 'real'; name the method or leave it empty")
    meaning: str | Mapping[str, str] = {"method": "fake (not told)", "type": row["type"] or "unknown"}
    if method:
        meaning = method_meaning(method, row["type"] or None, taxonomy, where)
    if meanings.setdefault(string, meaning) != meaning:
        raise UserError(f"{where}: method '{method}' has two kinds of forgery in this table; it has one")
    return (string,)


def _split(word: str, where: str) -> str:
    if not word:
        return "open"
    if word.lower() not in SPLIT_WORDS:
        raise UserError(f"{where}: expected split train, val or test, got '{word}'{nearest(word, SPLIT_WORDS)}")
    return SPLIT_WORDS[word.lower()]
