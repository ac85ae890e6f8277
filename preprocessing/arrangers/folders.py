"""A data set that is no more than a folder for each class."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.suggestions import nearest
from resproto_fd.preprocessing.arrangers.description import SPLIT_WORDS, Description, Source
from resproto_fd.preprocessing.arrangers.tree import Tree
from resproto_fd.preprocessing.taxonomy import ForgeryType, Taxonomy

REAL_WORDS = ("real", "0_real", "original", "originals", "pristine", "genuine", "live", "bonafide", "authentic")
FAKE_WORDS = ("fake", "1_fake", "deepfake", "deepfakes", "manipulated", "synthetic", "forged", "spoof")
TYPES = tuple(kind for kind in ForgeryType.__args__ if kind != "real")


def describe_folders(
    root: str | os.PathLike, taxonomy: Taxonomy, classes: Sequence[str] = (), pictures: bool = False, name: str = ""
) -> tuple[Description, dict[str, object]]:
    """The description of a folder per class, and its own `labels:` for the data set's YAML.

    Folders may be SPLIT/CLASS or CLASS/SPLIT, with more below; without folders of splits none is published. A class
    called real, fake or as a method of the taxonomy needs no explanation.

    Args:
        root: The data set folder.
        taxonomy: What is known.
        classes: "FOLDER=real", "FOLDER=METHOD", "FOLDER=fake", or "FOLDER=TYPE" with a kind of forgery, for a method
            called as the folder.
        pictures: Whether each picture is a video by itself.
        name: Of the data set; by default the folder's.

    Raises:
        UserError: No classes, one that is not explained, or an explanation that is not understood.
    """
    path = Path(root).resolve()
    if not path.is_dir():
        raise UserError(f"{root}: no such folder")
    folder, name = path.name, name or path.name
    given = _given(classes)
    labels, meanings = {}, {}
    found = _classes(path)
    if unknown := sorted(set(given) - {each.lower() for each in found}):
        raise UserError(f"{root}: no folder of a class '{unknown[0]}'{nearest(unknown[0], found)}; it has {found}")
    for each in found:
        label = f"{name}_{each}"
        labels[each.lower()] = label
        meanings[label] = _meaning(each, given.get(each.lower(), each), taxonomy, root, found)
    source = Source(f"{folder}/**", labels, listed=False, unlisted=None, pictures=pictures)
    description = Description(
        name,
        (folder,),
        (source,),
        store=f"{name}_lmdb",
        source=f"the user's folder {folder}",
        layout="a folder a class",
    )
    return description, meanings


def _given(classes: Sequence[str]) -> dict[str, str]:
    pairs = [each.partition("=") for each in classes]
    for folder, equals, meaning in pairs:
        if not (folder and equals and meaning):
            raise UserError(
                f"--class '{folder}{equals}{meaning}': expected FOLDER=real, FOLDER=fake, FOLDER=METHOD or TYPE"
            )
    return {folder.lower(): meaning for folder, _, meaning in pairs}


def _classes(path: Path) -> list[str]:
    """Names of the folders of classes: those right below, or right below folders of splits."""
    tree = Tree(path.parent, (path.name,))
    right_below = tree.names(path.name)
    splits = [name for name in right_below if name.lower() in SPLIT_WORDS]
    found = dict.fromkeys(name for name in right_below if name not in splits and name != "frames")
    for split in splits:
        found.update(dict.fromkeys(tree.names(f"{path.name}/{split}")))
    if not found:
        raise UserError(f"{path}: holds no folders of classes; expected {path.name}/real, {path.name}/fake, ...")
    return list(found)


def _meaning(folder: str, said: str, taxonomy: Taxonomy, root, found: list[str]) -> str | Mapping[str, str]:
    by_lower = {method.lower(): method for method in taxonomy.types}
    if said.lower() in REAL_WORDS:
        return "real"
    if said.lower() in FAKE_WORDS:
        return {"method": f"{folder} (not told)", "type": "unknown"}
    if said.lower() in by_lower:
        return by_lower[said.lower()]
    if said in TYPES:
        return {"method": folder, "type": said}
    raise UserError(
        f"{root}: what the class '{folder}' is, is not known{nearest(said, taxonomy.types)}; say --class "
        f"{folder}=real, {folder}=fake, {folder}=METHOD of the taxonomy, or {folder}=TYPE "
        f"({', '.join(TYPES)}). Classes found: {', '.join(found)}"
    )
