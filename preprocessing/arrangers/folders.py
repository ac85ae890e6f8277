"""Description of a data set that is a folder for each class, or whose paths follow a pattern."""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.suggestions import nearest
from resproto_fd.preprocessing.arrangers.description import SPLIT_WORDS, Description, Source
from resproto_fd.preprocessing.arrangers.tree import Tree, words_of
from resproto_fd.preprocessing.taxonomy import ForgeryType, Taxonomy

REAL_WORDS = ("real", "0_real", "original", "originals", "pristine", "genuine", "live", "bonafide", "authentic")
FAKE_WORDS = ("fake", "1_fake", "deepfake", "deepfakes", "manipulated", "synthetic", "forged", "spoof")
TYPES = tuple(kind for kind in ForgeryType.__args__ if kind != "real")
MEANT = {"split", "class", "method"}
TYPO = 0.75
"""A new method's name that is this similar to a known one is taken for a misspelling."""


def describe_folders(
    root: str | os.PathLike,
    taxonomy: Taxonomy,
    classes: Sequence[str] = (),
    pictures: bool = False,
    name: str = "",
    pattern: str = "",
    identity: str = "",
) -> tuple[Description, dict[str, object]]:
    """Describes a folder for each class; also returns its `labels:` for the data set's YAML.

    Folders may be SPLIT/CLASS or CLASS/SPLIT, with more folders below, or METHOD/CLASS with or without splits. Without
    folders of splits the data set has no published split. A class called real, fake or like a method of the taxonomy
    needs no explanation.

    Args:
        root: The data set folder.
        taxonomy: The known methods.
        classes: "FOLDER=real", "FOLDER=fake", "FOLDER=METHOD", "FOLDER=METHOD:TYPE" for a new method, or "FOLDER=TYPE"
            with a kind of forgery, for a method called like the folder.
        pictures: Whether each picture is a video by itself.
        name: Name of the data set; by default the folder's.
        pattern: Paths below the root, for other layouts: "{split}/{method}/{class}/{video}". It needs {class} or
            {method}; {identity} says who is seen; other {words} match any folder.
        identity: Regular expression searched in the path of a video below the root, for who is seen.

    Raises:
        UserError: There are no classes, one has no known meaning, or `classes`, `pattern` or `identity` has another
            form.
    """
    path = Path(root).resolve()
    if not path.is_dir():
        raise UserError(f"{root}: no such folder")
    name, given = name or path.name, _given(classes)
    _check_identity(identity)
    found = {} if pattern else _classes(path)
    pattern = pattern or _pattern_of(path, found)
    shared = {"listed": False, "unlisted": None, "pictures": pictures, "identity": identity}
    if pattern:
        reading = _Reading(path, name, taxonomy, given, root)
        sources, meanings = reading.sources(pattern, shared), reading.meanings
    else:
        if unknown := sorted(set(given) - {each.lower() for each in found}):
            raise UserError(
                f"{root}: no folder of a class '{unknown[0]}'{nearest(unknown[0], found)}; it has {list(found)}"
            )
        meanings = {f"{name}_{c}": _meaning(c, given.get(c.lower()), taxonomy, root, list(found)) for c in found}
        sources = (Source(f"{path.name}/**", {each.lower(): f"{name}_{each}" for each in found}, **shared),)
    description = Description(
        name,
        (path.name,),
        sources,
        store=f"{name}_lmdb",
        source=f"the user's folder {path.name}",
        layout=pattern or "a folder a class",
        note=_note(pattern, meanings),
        labels=meanings,
    )
    return description, meanings


def method_meaning(method: str, kind: str | None, taxonomy: Taxonomy, where: str) -> str | Mapping[str, str]:
    """Meaning of a method's name, for `labels:`: a method of the taxonomy, or a new one.

    Letter case, spaces and signs of a known name do not count.

    Args:
        method: The name.
        kind: Its kind of forgery, if it is told.
        taxonomy: The known methods.
        where: File or word that has the name, for messages.

    Raises:
        UserError: The kind is none, or another one than that of the known method; or the name is no known one, has no
            kind and looks like a misspelling.
    """
    if kind and kind not in TYPES:
        raise UserError(f"{where}: expected a kind of forgery, {', '.join(TYPES)}, got '{kind}'{nearest(kind, TYPES)}")
    known = {_plain(each): each for each in taxonomy.types}
    if found := known.get(_plain(method)):
        if kind and taxonomy.types[found] != kind:
            raise UserError(f"{where}: method '{found}' is known as {taxonomy.types[found]}, not as {kind}")
        return found
    if not kind and difflib.get_close_matches(_plain(method), known, n=1, cutoff=TYPO):
        raise UserError(
            f"{where}: no method is called '{method}'{nearest(method, taxonomy.types)} (`resproto list methods` shows "
            f"all); for a new one set its kind too: {method}:TYPE, with {', '.join(TYPES)}"
        )
    return {"method": method, "type": kind or "unknown"}


def is_real(word: str) -> bool | None:
    """Whether a word means real (True) or fake (False); None if it means neither."""
    return True if word.lower() in REAL_WORDS else False if word.lower() in FAKE_WORDS else None


class _Reading:
    """Reads the folders of a pattern."""

    def __init__(self, path: Path, name: str, taxonomy: Taxonomy, given: Mapping[str, str], root):
        self.path, self.name, self.taxonomy, self.given, self.root = path, name, taxonomy, given, root
        self.meanings: dict[str, str | Mapping[str, str]] = {}
        self.used: set[str] = set()
        self.seen: set[str] = set()

    def sources(self, pattern: str, shared: Mapping) -> tuple[Source, ...]:
        """A source for each split, method and class, without the folders that the pattern does not fit."""
        words = re.findall(r"\{(\w+)\}", pattern)
        *folders, last = parts = pattern.strip("/").split("/")
        if not {"class", "method"} & set(words) or len(words) != len(set(words)) or "{video}" in "".join(folders):
            raise UserError(
                f"--pattern '{pattern}': expected a path with {{class}} or {{method}}, each word once, and {{video}} "
                'at its end if at all, for example "{split}/{method}/{class}/{video}"'
            )
        if any("{identity}" in part and MEANT & set(re.findall(r"\{(\w+)\}", part)) for part in parts):
            raise UserError(
                f"--pattern '{pattern}': expected {{identity}} in a part without {{split}}, class or method"
            )
        if "{video}" not in last:
            folders, last = parts, "{video}"
        found: dict[tuple, Source] = {}
        tree = Tree(self.path.parent, (self.path.name,))
        for folder, values in tree.folders("/".join([self.path.name, *folders])):
            split = SPLIT_WORDS.get(values["split"].lower()) if "split" in values else None
            if ("split" in values and not split) or not (label := self._label(values)):
                continue
            # Who is seen is told by the folder, so it stays a word of the source's own.
            place, own = [self.path.name], folder.split("/")[1:]
            for part, actual in zip(folders, own, strict=True):
                place.append(part if "{identity}" in part else actual)
            pattern_here = "/".join(place)
            names = words_of(last).pattern if last != "{video}" else ""
            found.setdefault(
                (pattern_here, label),
                Source(f"{pattern_here}/**", label, split=split, names=names, **shared),
            )
        if not found:
            raise UserError(f"{self.root}: no folder is of the form {pattern}; it has {_shown(self.path)}")
        if unused := sorted(set(self.given) - self.used):
            raise UserError(f"{self.root}: no folder of a class '{unused[0]}'{nearest(unused[0], self.seen)}")
        return tuple(found.values())

    def _label(self, values: Mapping[str, str]) -> str | None:
        """The label of a folder; None if its class is neither real nor fake nor explained."""
        method, cls = values.get("method"), values.get("class")
        explained = {word: self.given[word.lower()] for word in (cls, method) if word and word.lower() in self.given}
        self.used.update(word.lower() for word in explained)
        self.seen.update(filter(None, (cls, method)))
        real = is_real(explained.get(cls, cls)) if cls else is_real(explained.get(method, method))
        if real:
            self.meanings[f"{self.name}_real"] = "real"
            return f"{self.name}_real"
        if real is None and cls and cls not in explained:
            return None
        named = method or cls
        label = f"{self.name}_{named}"
        word = explained.get(method) or explained.get(cls)
        if word is None and method and is_real(method) is None:
            self.meanings[label] = method_meaning(method, None, self.taxonomy, f"{self.root}: folder '{method}'")
        else:
            self.meanings[label] = _meaning(named, word, self.taxonomy, self.root, [named])
        return label


def _given(classes: Sequence[str]) -> dict[str, str]:
    pairs = [each.partition("=") for each in classes]
    for folder, equals, meaning in pairs:
        if not (folder and equals and meaning):
            raise UserError(
                f"--class '{folder}{equals}{meaning}': expected FOLDER=real, FOLDER=fake, FOLDER=METHOD or TYPE"
            )
    return {folder.lower(): meaning for folder, _, meaning in pairs}


def _check_identity(identity: str) -> None:
    if not identity:
        return
    try:
        expression = re.compile(identity)
    except re.error as error:
        raise UserError(f"--identity '{identity}': not a regular expression ({error})") from error
    if not expression.groups:
        raise UserError(f"--identity '{identity}': expected a group that is the person, for example '(id\\d+)_'")


def _classes(path: Path) -> dict[str, list[str]]:
    """Class folders, by name: the places of those directly below the folder, or directly below folders of splits."""
    tree = Tree(path.parent, (path.name,))
    right_below = tree.names(path.name)
    splits = [name for name in right_below if name.lower() in SPLIT_WORDS]
    found: dict[str, list[str]] = {}
    for name in right_below:
        if name not in splits and name != "frames":
            found.setdefault(name, []).append(name)
    for split in splits:
        for name in tree.names(f"{path.name}/{split}"):
            found.setdefault(name, []).append(f"{split}/{name}")
    if not found:
        raise UserError(f"{path}: holds no folders of classes; expected {path.name}/real, {path.name}/fake, ...")
    return found


def _pattern_of(path: Path, found: Mapping[str, Sequence[str]]) -> str:
    """The pattern METHOD/CLASS, if folders taken for classes hold a folder of reals or fakes; else empty."""
    tree = Tree(path.parent, (path.name,))
    for name, places in found.items():
        if is_real(name) is not None:
            continue
        for place in places:
            if any(is_real(inner) is not None for inner in tree.names(f"{path.name}/{place}")):
                return "{split}/{method}/{class}/{video}" if "/" in place else "{method}/{class}/{video}"
    return ""


def _meaning(folder: str, given: str | None, taxonomy: Taxonomy, root, found: Sequence[str]) -> str | Mapping[str, str]:
    word = given or folder
    if (real := is_real(word)) is not None:
        return "real" if real else {"method": f"{folder} (not told)", "type": "unknown"}
    if word in TYPES:
        return {"method": folder, "type": word}
    method, _, kind = word.partition(":")
    if given or _plain(word) in map(_plain, taxonomy.types):
        return method_meaning(method, kind.strip() or None, taxonomy, f"{root}: class '{folder}'")
    raise UserError(
        f"{root}: the meaning of class '{folder}' is not known{nearest(word, taxonomy.types)}; set --class "
        f"{folder}=real, {folder}=fake, {folder}=METHOD (`resproto list methods` shows them; for a new one METHOD:TYPE)"
        f", or {folder}=TYPE ({', '.join(TYPES)}). Classes found: {', '.join(found)}"
    )


def _plain(name: str) -> str:
    return re.sub(r"[^0-9a-z]+", "", name.lower())


def _note(pattern: str, meanings: Mapping) -> str:
    new = [each["method"] for each in meanings.values() if isinstance(each, Mapping) and each["type"] == "unknown"]
    notes = [f"Layout: {pattern}."] if pattern else []
    if new:
        notes.append(
            f"Kind of forgery unknown: {', '.join(sorted(set(new)))}; tell it with --class FOLDER=METHOD:TYPE."
        )
    return " ".join(notes)


def _shown(path: Path) -> str:
    return ", ".join(sorted(each.name for each in path.iterdir() if each.is_dir())[:10]) or "no folder"
