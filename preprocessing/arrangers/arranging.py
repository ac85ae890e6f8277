"""From a tree of frames and a data set's description to labels and splits."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.suggestions import nearest
from resproto_fd.preprocessing.arrangers.description import ALL, SPLIT_WORDS, Catalogue, Clip, Description, Said, Source
from resproto_fd.preprocessing.arrangers.tree import Tree
from resproto_fd.preprocessing.video import COMPRESSIONS

SPLIT_KINDS = ("official", "deepfakebench")
ALL_TEST = (0.0, 0.0, 1.0)
"""Shares of train, val and test where none are given."""
ROLES = ("identity", "target", "source")


@dataclass(frozen=True)
class Arranged:
    """A clip with its place in the data set.

    Attributes:
        clip: The clip.
        label: Label string.
        means: Label string that tells the method; mostly the same.
        splits: One under official splits; DeepfakeBench has some videos in several.
        level: Compression level, where the data set has levels.
        masks: Paths of its masks; None where the data set has none for it.
        people: Its identity, or target and source: names with the prefix of the people they are of.
        original: Path of the real clip it was made from, empty if not known.
        name: Its name in the JSON; the clip's own unless another has the same.
    """

    clip: Clip
    label: str
    means: str
    splits: tuple[str, ...]
    level: str | None = None
    masks: tuple[str, ...] | None = None
    people: Mapping[str, str] = field(default_factory=dict)
    original: str = ""
    name: str = ""


@dataclass
class Arrangement:
    """What was made of a tree.

    Attributes:
        description: The data set.
        splits: "official" or "deepfakebench".
        videos: The clips that are part of it.
        left_out: Those that are not, by reason.
        empty: Clips without a picture.
        absent: Folders of the description that the tree does not have.
        not_found: Names in the data set's lists that the tree does not have.
    """

    description: Description
    splits: str
    videos: list[Arranged] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    not_found: list[str] = field(default_factory=list)


def arrange(
    description: Description,
    root: str | os.PathLike,
    *,
    splits: str = "official",
    levels: Sequence[str] = COMPRESSIONS,
    shares: tuple[float, float, float] | None = None,
    val_share: float = 0,
    seed: int = 0,
) -> Arrangement:
    """Labels and splits of every clip of a data set that lies below a root.

    Under official splits a clip has one split at most: a test video is never in train.

    Args:
        description: The data set.
        root: The folder that holds the data set folders, or the data set folder.
        splits: "official": as the data set's authors publish them; "deepfakebench": as its script makes them.
        levels: Compression levels wanted, of a data set that has them.
        shares: Shares of train, val and test for clips to which the data set publishes no split, drawn by the people
            seen in them; clips of people of different splits are left out. Their sum is 1. All for testing if not
            given.
        val_share: Share of train to move to val, by target or identity, where the data set publishes no val.
        seed: Of the two draws. A draw depends on it and on the name of the person alone.

    Raises:
        UserError: No such splits for this data set, the data set's lists are missing or wrong, a folder that must be
            there is not, nothing is found, or there are shares and no clip that they are for.
    """
    _check(description, splits, levels, shares, val_share)
    tree = Tree(root, description.folders)
    catalogue = description.catalogue(tree.root) if description.catalogue else None
    result = Arrangement(description, splits)
    listed = _collect(result, tree, catalogue, levels)
    if shares and result.videos and not any(video.splits == ("open",) for video in result.videos):
        raise UserError(
            f"--shares: every video of {description.name} has a split already ({splits} ones); remove --shares"
        )
    if splits == "official":
        result.videos = _share_out(result, shares or ALL_TEST, seed)
        result.videos = _make_val(result.videos, val_share, seed)
    result.videos = _named(result.videos)
    result.empty = tree.empty
    result.not_found = sorted(set(catalogue.entries) - listed) if catalogue else []
    if not result.videos:
        raise UserError(_nothing(result, tree))
    return result


def _collect(result: Arrangement, tree: Tree, catalogue: Catalogue | None, levels: Sequence[str]) -> set[str]:
    """Adds every clip of the tree to the videos of an arrangement, or to what is left out.

    Returns:
        The keys of the catalogue's entries for which there is a clip.
    """
    description, listed = result.description, set()
    for source in description.sources:
        if source.mode not in ("", result.splits):
            continue
        if not tree.there(source.folder):
            if source.required:
                raise UserError(f"{tree.root}: no folder {_shown(source.folder)}; {description.name} needs it")
            if (tree.root / source.folder.split("/")[0]).is_dir():
                result.absent.append(_shown(source.folder))
            continue
        for clip in tree.clips(source.folder, source.pictures):
            if description.levels and clip.parts.get("level", levels[0]) not in levels:
                continue
            said = None
            if catalogue and source.listed:
                key = catalogue.key(clip)
                said = catalogue.entries.get(key)
                listed.add(key)
            arranged, reason = _arranged(description, source, clip, said, catalogue, result.splits, tree)
            if reason:
                result.left_out.setdefault(reason, []).append(clip.path)
            else:
                result.videos.append(arranged)
    return listed


def _arranged(
    description: Description,
    source: Source,
    clip: Clip,
    said: Said | None,
    catalogue: Catalogue | None,
    splits: str,
    tree: Tree,
) -> tuple[Arranged | None, str]:
    """(the clip with its place, "") or (None, the reason why it has none)."""
    label = (said and said.label) or _label(source, clip)
    if label is None:
        return None, f"no folder on its way has a name known in {description.name}"
    of_folder = source.split or _split_word(source, clip)
    of_list = said.split if said else None
    if splits == "official":
        chosen, reason = _official(source, of_folder, of_list, catalogue)
    else:
        chosen, reason = _peer(source, of_folder or of_list or "unlisted", catalogue)
    if reason:
        return None, reason
    groups = re.fullmatch(source.names, clip.name) if source.names else None
    words = {**clip.parts, **({k: v for k, v in groups.groupdict().items() if v} if groups else {})}
    words |= {"name": clip.name, "below": clip.folder.removeprefix(source.folder.removesuffix("/**")).strip("/")}
    people = {role: words[role] for role in ROLES if role in words} | dict(said.people if said else {})
    original = people.pop("original", "") or _filled(source.original, words)
    prefix = source.people or description.name
    return Arranged(
        clip=clip,
        label=label,
        means=source.means or label,
        splits=chosen,
        level=clip.parts.get("level") if description.levels else None,
        masks=tree.pictures(f"{_filled(source.masks, words)}/{clip.name}") if source.masks else None,
        people={role: f"{prefix}/{who}" for role, who in people.items()},
        original=original,
    ), ""


def _official(
    source: Source, of_folder: str | None, of_list: str | None, catalogue: Catalogue | None
) -> tuple[tuple[str, ...], str]:
    if of_folder and of_list and of_folder != of_list:
        if (of_folder, of_list) == ("train", "val"):  # a tree of two splits, cut further by the lists
            return ("val",), ""
        return (), f"lies in a {of_folder} folder, but the lists say {of_list}"
    if of_folder or of_list:
        return (of_folder or of_list,), ""
    if source.unlisted is None:
        return ("open",), ""
    if not source.unlisted:
        return (), f"named in none of the lists, {catalogue.where if catalogue else ''}"
    return source.unlisted, ""


def _peer(source: Source, kind: str, catalogue: Catalogue | None) -> tuple[tuple[str, ...], str]:
    if kind in source.peer:
        chosen = source.peer[kind]
        return chosen, "" if chosen else "put into no split by the script of its JSONs"
    if kind == "unlisted":
        return (), f"named in none of the lists, {catalogue.where if catalogue else ''}"
    return (kind,), ""


def _label(source: Source, clip: Clip) -> str | None:
    if isinstance(source.label, str):
        return source.label
    found = [source.label[part.lower()] for part in clip.path.split("/")[1:] if part.lower() in source.label]
    return found[-1] if found else None


def _split_word(source: Source, clip: Clip) -> str | None:
    if source.unlisted is not None or not source.folder.endswith("/**"):
        return None
    found = [SPLIT_WORDS[part.lower()] for part in clip.folder.split("/")[1:] if part.lower() in SPLIT_WORDS]
    return found[0] if found else None


def _share_out(result: Arrangement, shares: Sequence[float], seed: int) -> list[Arranged]:
    videos = []
    for video in result.videos:
        if video.splits != ("open",):
            videos.append(video)
            continue
        people = list(video.people.values()) or [video.clip.path]
        drawn = {_drawn(who, shares, seed) for who in people}
        if len(drawn) > 1:
            reason = "shows or is made of people of different splits"
            result.left_out.setdefault(reason, []).append(video.clip.path)
        else:
            videos.append(replace(video, splits=(drawn.pop(),)))
    return videos


def _make_val(videos: list[Arranged], share: float, seed: int) -> list[Arranged]:
    if not share or any("val" in video.splits for video in videos):
        return videos
    moved = []
    for video in videos:
        who = video.people.get("target") or video.people.get("identity") or video.clip.path
        to_val = video.splits == ("train",) and _drawn(who, (1 - share, share, 0), seed) == "val"
        moved.append(replace(video, splits=("val",)) if to_val else video)
    return moved


def _drawn(who: str, shares: Sequence[float], seed: int) -> str:
    digest = hashlib.sha256(f"{seed}/{who}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64 * sum(shares)
    for split, share in zip(ALL, shares):
        if place < share:
            return split
        place -= share
    return next(split for split, share in reversed(list(zip(ALL, shares))) if share)


def _named(videos: list[Arranged]) -> list[Arranged]:
    """With a name each: DeepfakeBench's layout keeps one video of a name in a label and split."""
    taken = Counter((video.label, video.level, video.clip.name) for video in videos)
    return [
        replace(
            video,
            name=video.clip.name
            if taken[video.label, video.level, video.clip.name] == 1
            else video.clip.path.partition("/")[2].replace("/", "_"),
        )
        for video in videos
    ]


def _filled(template: str, words: Mapping[str, str]) -> str:
    """The template with its `{words}` filled in; empty when one is not known."""
    try:
        return re.sub("/+", "/", template.format(**words))
    except KeyError:
        return ""


def _shown(pattern: str) -> str:
    return re.sub(r"\{(\w+)\}", r"<\1>", pattern.removesuffix("/**"))


def _check(
    description: Description, splits: str, levels: Iterable[str], shares: Sequence[float] | None, val_share
) -> None:
    if splits not in SPLIT_KINDS:
        raise UserError(f"splits '{splits}'{nearest(splits, SPLIT_KINDS)}; there are {', '.join(SPLIT_KINDS)}")
    if splits == "deepfakebench" and not description.peer:
        raise UserError(f"{description.name}: DeepfakeBench has no script for it, hence no splits of its own")
    if unknown := sorted(set(levels) - set(COMPRESSIONS)):
        raise UserError(
            f"compression '{unknown[0]}'{nearest(unknown[0], COMPRESSIONS)}; there are {', '.join(COMPRESSIONS)}"
        )
    if shares is not None and (len(shares) != 3 or min(shares) < 0 or not abs(sum(shares) - 1) <= 1e-6):
        raise UserError(
            f"--shares {' '.join(map(str, shares))}: expected three numbers that are not negative, of train, val and "
            f"test, whose sum is 1; it is {sum(shares):g}"
        )
    if not 0 <= val_share < 1:
        raise UserError(f"val share {val_share}: expected a number from 0 to below 1")


def _nothing(result: Arrangement, tree: Tree) -> str:
    folders = sorted({_shown(source.folder) for source in result.description.sources})
    wanted = ", ".join(folders[:6]) + (", ..." if len(folders) > 6 else "")
    found = [f"{len(paths)} left out ({reason}; {paths[0]})" for reason, paths in result.left_out.items()]
    if result.empty:
        found.append(f"{len(result.empty)} videos without a frame ({result.empty[0]})")
    return (
        f"{tree.root}: no video of {result.description.name} is left; looked in {wanted}; "
        f"found {'; '.join(found) or 'no frames (videos are made into frames by `resproto faces`)'}"
    )
