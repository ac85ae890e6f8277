"""Compares what an arranger found with what a data set is known to have, before anything is written.

Each difference has a name. A user who means it so says that name: `resproto manifest ... --allow NAME`.
"""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.suggestions import nearest
from resproto_fd.preprocessing.arrangers.arranging import OTHER_SPELLING, UNKNOWN_LABEL, Arrangement, taxonomy_of
from resproto_fd.preprocessing.arrangers.description import Description, Source
from resproto_fd.preprocessing.arrangers.tree import BESIDE_FRAMES, BESIDE_VIDEOS, PICTURES, Tree, reason_for, words_of
from resproto_fd.preprocessing.taxonomy import Taxonomy
from resproto_fd.preprocessing.video import COMPRESSIONS, SPLITS

ALLOWANCES = {
    "one-class": "only real or only fake videos, in all or in one split",
    "unknown-folders": "folders or pictures that no rule took",
    "fewer-videos": "fewer videos or folders than the data set is known to have",
    "missing-methods": "forgery methods of the data set without a video",
    "linked-folders": "folders that are links to another folder of the data set",
}
NO_CLIPS = (*BESIDE_FRAMES, "videos", "frames")
CLASSES = ("real", "fake")


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between a tree and what its data set is known to have.

    Attributes:
        name: One of `ALLOWANCES`.
        text: What was seen and what was expected.
    """

    name: str
    text: str


def differences(arrangement: Arrangement) -> list[Difference]:
    """Finds the differences between an arrangement and what its data set is known to have; see `look_around`."""
    taxonomy = taxonomy_of(arrangement.description)
    return [
        *_one_class(arrangement, taxonomy),
        *_unknown_folders(arrangement),
        *_fewer_videos(arrangement, taxonomy),
        *_missing_methods(arrangement),
        *_linked(arrangement),
    ]


def check_allowed(allowed: Sequence[str]) -> None:
    """Checks the names of differences that a user allows, before a tree is looked at.

    Raises:
        UserError: A name is none of `ALLOWANCES`.
    """
    if unknown := [name for name in allowed if name not in ALLOWANCES]:
        raise UserError(
            f"--allow: expected {', '.join(ALLOWANCES)}, got '{unknown[0]}'{nearest(unknown[0], ALLOWANCES)}"
        )


def refuse(arrangements: Sequence[Arrangement], allowed: Sequence[str], shown: str = "") -> None:
    """Refuses arrangements with differences that the user did not allow.

    Args:
        arrangements: What was found.
        allowed: Names of `ALLOWANCES`.
        shown: What was seen, put in front of the message.

    Raises:
        UserError: There are such differences.
    """
    found = [(each, difference) for each in arrangements for difference in differences(each)]
    left = [(each, difference) for each, difference in found if difference.name not in allowed]
    if not left:
        return
    of: dict[Difference, list[str]] = {}
    for each, difference in left:
        of.setdefault(difference, []).append(each.description.name)
    several = len(arrangements) > 1
    lines = [
        f"  {'' if not several else f'{names[0]}, ' if len(names) == 1 else f'{len(names)} lists, '}"
        f"{difference.name}: {difference.text}"
        for difference, names in of.items()
    ]
    named = " ".join(dict.fromkeys(difference.name for _, difference in left))
    raise UserError(
        "\n".join([f"{shown}\nnothing was written. What was seen is not what was expected:".lstrip(), *lines])
        + f"\nmend the tree; or, if you mean it so, add --allow {named}"
    )


def look_around(arrangement: Arrangement, root: str | os.PathLike, every: Iterable[Description]) -> None:
    """Finds the folders with pictures that no rule of any data set takes, and counts the files passed over there.

    Args:
        arrangement: The arrangement; `unknown` and `passed_over` are filled.
        root: As for `arrange`.
        every: All descriptions there are.
    """
    description = arrangement.description
    tree = Tree(root, description.folders)
    own = set(description.folders)
    patterns = [
        (source.folder.removesuffix("/**").split("/"), source.folder.endswith("/**"))
        for each in (description, *every)
        for source in each.sources
        if source.folder.split("/")[0] in own
    ]
    firsts = {each.folders[0] for each in every} - {description.folders[0]}
    for folder in description.folders:
        # A folder from which a data set takes its reals alone, such as FaceForensics++, is that data set's own affair.
        if (tree.root / folder).is_dir() and folder not in firsts:
            _walk(tree, folder, 1, patterns, arrangement)


def _walk(tree: Tree, folder: str, depth: int, patterns: list, arrangement: Arrangement) -> None:
    here = [(parts, below) for parts, below in patterns if len(parts) >= depth and _matches(parts[depth - 1], folder)]
    if any(below and len(parts) == depth for parts, below in here):
        return
    leaf = any(len(parts) == depth for parts, _ in here)
    _count(tree, folder, arrangement, unknown=False)
    for name in tree.names(folder):
        inner = f"{folder}/{name}"
        if leaf and name in NO_CLIPS:
            continue
        if any(len(parts) > depth and _matches(parts[depth], inner) for parts, _ in here):
            _walk(tree, inner, depth + 1, here, arrangement)
        elif name not in BESIDE_FRAMES:
            _count(tree, inner, arrangement, unknown=True)


def _matches(part: str, folder: str) -> bool:
    name = folder.rpartition("/")[2]
    if part == "{level}":
        return name in (*COMPRESSIONS, *BESIDE_FRAMES)
    words = words_of(part)
    return bool(words.fullmatch(name)) if words else name.lower() == part.lower()


def _count(tree: Tree, folder: str, arrangement: Arrangement, unknown: bool) -> None:
    """Counts the files of a folder; of an unknown one also those below."""
    pictures, others = 0, Counter()
    for place, inner, files in os.walk(tree.root / folder):
        suffixes = [os.path.splitext(name)[1].lower() for name in files if not name.startswith(".")]
        pictures += sum(suffix in PICTURES for suffix in suffixes)
        if unknown or place != str(tree.root / folder):
            others += Counter((suffix, reason_for(suffix)) for suffix in suffixes if suffix not in PICTURES)
        if not unknown:
            inner.clear()
    arrangement.passed_over += others
    if pictures:
        arrangement.unknown[folder if unknown else f"{folder}/*"] = pictures


def _one_class(arrangement: Arrangement, taxonomy: Taxonomy) -> Iterable[Difference]:
    counts = Counter((split, taxonomy[v.label].label) for v in arrangement.videos for split in v.splits)
    classes = {label for _, label in counts}
    if len(classes) == 1:
        there = CLASSES[classes.pop()]
        number = len(arrangement.videos)
        yield Difference("one-class", f"{number} {there} videos, none {'fake' if there == 'real' else 'real'}")
        return
    for split in SPLITS:
        numbers = [counts[split, label] for label in (0, 1)]
        if any(numbers) and not all(numbers):
            text = " and ".join(f"{number} {cls}" for number, cls in zip(numbers, CLASSES, strict=True))
            yield Difference("one-class", f"split {split} has {text} videos; expected both or none")


def _unknown_folders(arrangement: Arrangement) -> Iterable[Difference]:
    sources: list[Source] = list(arrangement.description.sources)
    looked = dict.fromkeys(source.folder.removesuffix("/**") for source in sources)
    if arrangement.unknown:
        seen = [f"{folder} ({number} pictures)" for folder, number in arrangement.unknown.items()]
        wanted = f"; expected pictures below {some(list(looked))}" if looked else ""
        yield Difference("unknown-folders", f"no rule took {some(seen)}{wanted}")
    for reason in (UNKNOWN_LABEL.format(arrangement.description.name), OTHER_SPELLING):
        if left_out := arrangement.left_out.get(reason):
            folders = Counter(path.rpartition("/")[0] for path in left_out)
            seen = [f"{folder} ({number} videos)" for folder, number in folders.items()]
            words = {word for source in sources if not isinstance(source.label, str) for word in source.label}
            known = f"; known folders: {some(sorted(words), 40)}" if words else ""
            yield Difference("unknown-folders", f"{reason}: {some(seen)}{known}")
    loose = sum(count for (_, reason), count in arrangement.passed_over.items() if reason == BESIDE_VIDEOS)
    if loose:
        yield Difference("unknown-folders", f"{loose} {BESIDE_VIDEOS}; expected .../frames/VIDEO/PICTURE")


def _fewer_videos(arrangement: Arrangement, taxonomy: Taxonomy) -> Iterable[Difference]:
    description = arrangement.description
    for level in sorted({level for _, level in arrangement.seen}, key=str):
        for what, expected in description.complete.items():
            seen = sum(
                number
                for (label, of), number in arrangement.seen.items()
                if of == level and what in (label, CLASSES[taxonomy[label].label])
            )
            if 0 < seen < expected or (not seen and what in CLASSES):
                at = f" of {level}" if level else ""
                yield Difference("fewer-videos", f"{seen} videos {what}{at}; the whole data set has {expected}")
    for patterns, expected in description.folders_whole.items():
        seen = sum(len(arrangement.folders.get(pattern, ())) for pattern in patterns)
        if seen < expected:
            yield Difference(
                "fewer-videos", f"{seen} folders {patterns[0]} with frames; the whole data set has {expected}"
            )
    if description.lists_all and arrangement.not_found:
        yield Difference("fewer-videos", f"in the lists, not in the tree: {some(arrangement.not_found)}")


def _missing_methods(arrangement: Arrangement) -> Iterable[Difference]:
    found = {video.means for video in arrangement.videos} | {video.label for video in arrangement.videos}
    missing = sorted(arrangement.expected - found - set(arrangement.description.optional))
    if missing:
        number = len(arrangement.expected)
        yield Difference("missing-methods", f"no video of {some(missing, 40)}; the data set has {number} labels")


def _linked(arrangement: Arrangement) -> Iterable[Difference]:
    if arrangement.linked:
        yield Difference(
            "linked-folders",
            f"{some(arrangement.linked)}: links to folders taken already; expected other pictures in each folder",
        )


def some(names: Sequence[str], most: int = 4) -> str:
    """The number of names, and the first of them."""
    return f"{len(names)} ({', '.join(names[:most])}{', ...' if len(names) > most else ''})"
