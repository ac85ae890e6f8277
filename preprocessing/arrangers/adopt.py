"""Adopts dataset JSONs made elsewhere, such as DF40's own lists. Only frames that are not in the tree are dropped."""

import os
import re
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.arrangers.arranging import Arranged, Arrangement
from resproto_fd.preprocessing.arrangers.description import Clip, Description
from resproto_fd.preprocessing.arrangers.tree import Tree
from resproto_fd.preprocessing.faces.video_reader import natural_key
from resproto_fd.preprocessing.frame_paths import canonical_path
from resproto_fd.preprocessing.manifest_layout import load_manifest, refuse_empty_entries
from resproto_fd.preprocessing.video import SPLITS

PEOPLE = (
    (r"(?P<target>\d{3})_(?P<source>\d{3})", "FaceForensics++", ("DF40", "DF40_train", "FaceForensics++")),
    (r"(?P<target>id\d+)_(?P<source>id\d+)_\d+", "Celeb-DF-v2", ("DF40", "DF40_train", "Celeb-DF-v2")),
    (r"(?P<identity>\d{3})", "FaceForensics++", ("FaceForensics++",)),
    (r"(?P<identity>id\d+)_\d+", "Celeb-DF-v2", ("Celeb-DF-v2",)),
)
"""Form of a video's name, the prefix of the people that it names, and the data set folders in which it holds."""


def adopt(path: str | os.PathLike, root: str | os.PathLike) -> Arrangement:
    """Makes the arrangement that a dataset JSON describes, without the frames that the tree does not have.

    Splits and labels stay as they are. Masks in the list are dropped, because nothing reads them.

    Args:
        path: The JSON; its one top key is the data set's name.
        root: The folder that has the data set folders of the JSON's paths.

    Raises:
        UserError: It is no dataset JSON, a path goes through no folder of the root, or no frame is in the tree.
    """
    path, root = Path(path), Path(root)
    content = load_manifest(path)
    if len(content) != 1:
        raise UserError(f"{path}: expected one top key, the data set's name, got {len(content)} keys")
    name, labels = next(iter(content.items()))
    folders = tuple(sorted(each.name for each in root.iterdir() if each.is_dir())) if root.is_dir() else ()
    tree = Tree(root, folders or (str(root),))
    there: dict[str, frozenset[str]] = {}
    found: dict[tuple, list[str]] = {}
    result = Arrangement(
        Description(name, folders, (), store=f"{name}_lmdb", source=f"the list {path.name}"), "as given"
    )
    for label, split, level, video, frames in _entries(labels, path):
        kept = []
        for raw in frames:
            try:
                frame = canonical_path(raw, folders)
            except UserError as error:
                raise UserError(f"{path}: {label}, {split}, '{video}': {error}; --root {root} has {folders}") from error
            folder, _, file = frame.rpartition("/")
            if folder not in there:
                there[folder] = frozenset(each.rpartition("/")[2] for each in tree.pictures(folder))
            (kept if file in there[folder] else result.not_found).append(frame)
        if kept:
            found.setdefault((label, level, video, tuple(sorted(kept, key=natural_key))), []).append(split)
        else:
            result.empty.append(f"{label}/{video}")
    for (label, level, video, frames), splits in found.items():
        place = "/".join(part for part in os.path.commonpath(frames).split("/") if part != "frames")
        place = place if len(frames) > 1 else place.rpartition("/")[0]
        folder = place.rpartition("/")[0] if place.rpartition("/")[2] == video else place
        clip = Clip(folder, video, frames)
        result.videos.append(
            Arranged(clip, label, label, tuple(dict.fromkeys(splits)), level, None, _people(clip), name=video)
        )
    if not result.videos:
        raise UserError(f"{path}: none of its {len(result.not_found)} frames is below {root}")
    return result


def _entries(labels, path: Path):
    """Yields (label, split, level, name, frames) of every video."""
    if not isinstance(labels, dict):
        raise UserError(f"{path}: expected {{data set: {{label: {{split: ...}}}}}}; make the list again")
    for label, splits in labels.items():
        for split in SPLITS:
            table = splits.get(split, {}) if isinstance(splits, dict) else None
            if not isinstance(table, dict):
                raise UserError(f"{path}: {label}, {split}: expected a table of videos")
            refuse_empty_entries(table, f"{path}: {label}, {split}")
            for name, entry in table.items():
                nested = isinstance(entry, dict) and "frames" not in entry
                for level, video, inner in (
                    [(name, *pair) for pair in entry.items()] if nested else [(None, name, entry)]
                ):
                    frames = inner.get("frames") if isinstance(inner, dict) else None
                    if not isinstance(frames, list) or not all(isinstance(frame, str) for frame in frames):
                        raise UserError(f"{path}: {label}, {split}, '{video}': expected a list of paths under 'frames'")
                    yield str(inner.get("label", label)), split, level, video, frames


def _people(clip: Clip) -> dict[str, str]:
    for pattern, prefix, folders in PEOPLE:
        match = re.fullmatch(pattern, clip.name)
        if match and clip.folder.split("/")[0] in folders:
            return {role: f"{prefix}/{who}" for role, who in match.groupdict().items()}
    return {}
