"""Gives labels and splits to a tree of frames, from a data set's description."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.loading import load, names
from resproto_fd.configs.suggestions import nearest
from resproto_fd.preprocessing.arrangers.description import (
    SPLIT_WORDS,
    Catalogue,
    Clip,
    Description,
    ListEntry,
    Source,
)
from resproto_fd.preprocessing.arrangers.shares import allocate
from resproto_fd.preprocessing.arrangers.tree import Tree
from resproto_fd.preprocessing.taxonomy import Taxonomy, load_taxonomy
from resproto_fd.preprocessing.video import COMPRESSIONS

SPLIT_KINDS = ("official", "deepfakebench")
ALL_TEST = (0.0, 0.0, 1.0)
"""Shares of train, val and test where none are given."""
ROLES = ("identity", "target", "source")
BELONGS_ELSEWHERE = "belongs to another data set"
OTHER_SPELLING = "lies in another spelling of a folder that is there too"
UNKNOWN_LABEL = "none of its folders has a name that {} knows"


@dataclass(frozen=True)
class Arranged:
    """A clip with its place in the data set.

    Attributes:
        clip: The clip.
        label: Label string.
        means: Label string that tells the method; usually the same.
        splits: One under official splits; DeepfakeBench has some videos in several.
        level: Compression level, if the data set has levels.
        masks: Paths of its masks; None if the data set has none of it.
        people: Its identity, or target and source: names with the prefix of their group of people.
        original: Path of the real clip from which it was made; empty if not known.
        name: Its name in the JSON: the clip's own, unless another clip has the same.
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
    """Clips of a tree with their places in the data set.

    Attributes:
        description: The data set.
        splits: Where the splits are from: "official", "deepfakebench", "drawn", "as given".
        videos: The clips that are part of it.
        left_out: Those that are not, by reason.
        empty: Clips without a picture.
        absent: Folders of the description that the tree does not have.
        not_found: Names in the data set's lists that the tree does not have.
        expected: Labels that the data set has: those of its folders and lists; for a label of several methods, theirs.
        seen: Number of clips of each (label, compression level), those left out included.
        passed_over: Number of files that are no frames, by (suffix, reason).
        unknown: Folders with pictures that no rule took, with their number of pictures.
        linked: Folders that are links to a folder already taken.
        folders: Folders with clips, by the pattern of their source.
        drawn: Number of videos with a drawn split.
    """

    description: Description
    splits: str
    videos: list[Arranged] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    not_found: list[str] = field(default_factory=list)
    expected: set[str] = field(default_factory=set)
    seen: Counter = field(default_factory=Counter)
    passed_over: Counter = field(default_factory=Counter)
    unknown: dict[str, int] = field(default_factory=dict)
    linked: list[str] = field(default_factory=list)
    folders: dict[str, set[str]] = field(default_factory=dict)
    drawn: int = 0


def taxonomy_of(description: Description, labels: Mapping | None = None) -> Taxonomy:
    """The taxonomy, extended by the meanings that a data set and its YAML give.

    Args:
        description: The data set.
        labels: Further meanings of label strings.
    """
    known = load("datasets", description.name) if description.name in names("datasets") else None
    own = {**(known.labels if known else {}), **description.labels, **(labels or {})}
    return load_taxonomy().extended(own, f"labels of {description.name}") if own else load_taxonomy()


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
    """Gives labels and splits to every clip of a data set below a root.

    Under official splits a clip has one split at most: a test video is never in train.

    Args:
        description: The data set.
        root: The folder that has the data set folders, or the data set folder.
        splits: "official": as the data set's authors publish them; "deepfakebench": as its script makes them.
        levels: Compression levels to take, for a data set that has them.
        shares: Shares of train, val and test for clips without a published split; their sum is 1. See `share_out`. None
            means all for testing.
        val_share: Share of train that becomes val, by target or identity, if the data set publishes no val.
        seed: Seed of both draws.

    Raises:
        UserError: The data set has no such splits, its lists are missing or wrong, a required folder is missing,
            nothing is found, or there are shares but no clip needs them.
    """
    _check(description, splits, levels, shares, val_share)
    tree = Tree(root, description.folders)
    catalogue = description.catalogue(tree.root) if description.catalogue else None
    result = Arrangement(description, splits)
    listed = _collect(result, tree, catalogue, levels)
    if shares and result.videos and not any(video.splits == ("open",) for video in result.videos):
        raise UserError(
            f"--shares: every video of {description.name} already has a split ({splits} ones); remove --shares"
        )
    if splits == "official":
        share_out(result, shares or ALL_TEST, seed)
        _make_val(result, val_share, seed)
    result.videos = named(result.videos)
    result.empty, result.linked = list(dict.fromkeys(tree.empty)), result.linked + tree.linked
    result.passed_over = tree.passed_over()
    result.not_found = sorted(set(catalogue.entries) - listed) if catalogue else []
    if not result.videos:
        raise UserError(_nothing(result, tree))
    return result


def _collect(result: Arrangement, tree: Tree, catalogue: Catalogue | None, levels: Sequence[str]) -> set[str]:
    """Adds every clip of the tree to the videos of an arrangement, or to the clips left out.

    Returns:
        Keys of the catalogue's entries that have a clip.
    """
    description, listed, places = result.description, set(), {}
    result.expected = {entry.label for entry in catalogue.entries.values() if entry.label} if catalogue else set()
    for source in description.sources:
        if source.mode not in ("", result.splits):
            continue
        result.expected |= _labels(source)
        if not tree.there(source.folder):
            if source.required:
                raise UserError(f"{tree.root}: no folder {_shown(source.folder)}; {description.name} needs it")
            if (tree.root / source.folder.split("/")[0]).is_dir() and not source.spare:
                result.absent.append(_shown(source.folder))
            continue
        for clip in tree.clips(source.folder, source.pictures):
            if description.levels and clip.parts.get("level", levels[0]) not in levels:
                result.left_out.setdefault("is of a compression level that is not asked for", []).append(clip.path)
                continue
            result.folders.setdefault(source.folder, set()).add(clip.folder)
            if source.only and (reason := _not_taken(source, clip, description, tree)):
                if reason != BELONGS_ELSEWHERE:
                    result.left_out.setdefault(reason, []).append(clip.path)
                continue
            place = clip.frames[0].rpartition("/")[0]
            if place != places.setdefault(os.path.realpath(tree.root / place), place):
                result.linked.append(place)
            entry = None
            if catalogue and source.listed:
                key = catalogue.key(clip)
                entry = catalogue.entries.get(key)
                listed.add(key)
            arranged, reason = _arranged(description, source, clip, entry, catalogue, result.splits, tree)
            if label := (entry and entry.label) or _label(source, clip):
                result.seen[label, clip.parts.get("level") if description.levels else None] += 1
            if reason:
                result.left_out.setdefault(reason, []).append(clip.path)
            else:
                result.videos.append(arranged)
    return listed


def _arranged(
    description: Description,
    source: Source,
    clip: Clip,
    entry: ListEntry | None,
    catalogue: Catalogue | None,
    splits: str,
    tree: Tree,
) -> tuple[Arranged | None, str]:
    """(the clip with its place, "") or (None, the reason why it has none)."""
    label = (entry and entry.label) or _label(source, clip)
    if label is None:
        return None, UNKNOWN_LABEL.format(description.name)
    of_folder = source.split or _split_word(source, clip)
    of_list = entry.split if entry else None
    if splits == "official":
        chosen, reason = _official(source, of_folder, of_list, catalogue)
    else:
        chosen, reason = _peer(source, of_folder or of_list or "unlisted", catalogue)
    if reason:
        return None, reason
    groups = re.fullmatch(source.names, clip.name) if source.names else None
    words = {**clip.parts, **({k: v for k, v in groups.groupdict().items() if v} if groups else {})}
    words |= {"name": clip.name, "below": clip.folder.removeprefix(source.folder.removesuffix("/**")).strip("/")}
    people = {role: words[role] for role in ROLES if role in words} | dict(entry.people if entry else {})
    seen = re.search(source.identity, clip.path.partition("/")[2]) if source.identity else None
    who = seen and seen.group("identity" if "identity" in seen.groupdict() else seen.re.groups and 1)
    if who:  # an optional group may match nothing, which is nobody
        people["identity"] = who
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


def _not_taken(source: Source, clip: Clip, description: Description, tree: Tree) -> str:
    """Why a source with `only` leaves a clip out; empty if it does not."""
    below = clip.path.split("/", source.folder.count("/"))[-1]
    if re.fullmatch(source.only, below):
        return OTHER_SPELLING if source.instead and tree.there(source.instead) else ""
    fits = source.others and re.fullmatch(source.others, below)
    return BELONGS_ELSEWHERE if fits else UNKNOWN_LABEL.format(description.name)


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
        return chosen, "" if chosen else "in no split of DeepfakeBench's script"
    if kind == "unlisted":
        return (), f"named in none of the lists, {catalogue.where if catalogue else ''}"
    return (kind,), ""


def _labels(source: Source) -> set[str]:
    """Labels that a complete data set has below a source."""
    if source.means:
        return {source.means}
    return {source.label} if isinstance(source.label, str) else set(source.label.values())


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


def share_out(result: Arrangement, shares: Sequence[float], seed: int) -> None:
    """Gives each clip without a published split one, by the people in it.

    Classes keep the shares (see `shares.allocate`). Clips with people of different splits are left out.

    Args:
        result: The arrangement; such clips have the one split "open".
        shares: Shares of train, val and test.
        seed: Seed of the draw.
    """
    taxonomy, weights, fixed = taxonomy_of(result.description), {}, {}
    for video in result.videos:
        people = _people(video)
        if video.splits != ("open",):
            fixed |= dict.fromkeys(people, video.splits[-1])
            continue
        for who in people:
            weights.setdefault(who, Counter())
        if len(set(people)) == 1:
            weights[people[0]][taxonomy[video.label].label] += 1
    splits = allocate(weights, shares, seed, fixed)
    videos = []
    for video in result.videos:
        given = {splits[who] for who in _people(video)} if video.splits == ("open",) else set()
        if len(given) > 1:
            result.left_out.setdefault("has people of different splits", []).append(video.clip.path)
        else:
            videos.append(replace(video, splits=tuple(given)) if given else video)
            result.drawn += bool(given) and max(shares) < 1
    result.videos = videos
    if result.drawn:
        result.splits = "drawn"


def _people(video: Arranged) -> list[str]:
    return list(video.people.values()) or [video.clip.path]


def _make_val(result: Arrangement, share: float, seed: int) -> None:
    if not share or any("val" in video.splits for video in result.videos):
        return
    taxonomy, weights = taxonomy_of(result.description), {}

    def whose(video: Arranged) -> str:
        return video.people.get("target") or video.people.get("identity") or video.clip.path

    train = [video for video in result.videos if video.splits == ("train",)]
    for video in train:
        weights.setdefault(whose(video), Counter())[taxonomy[video.label].label] += 1
    splits = allocate(weights, (1 - share, share, 0), seed)
    result.videos = [
        replace(video, splits=(splits[whose(video)],)) if video.splits == ("train",) else video
        for video in result.videos
    ]


def named(videos: list[Arranged]) -> list[Arranged]:
    """Names the videos so that no two of a label and level share a name; DeepfakeBench's layout would drop one."""
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
    """Fills in the `{words}` of a template; empty if one is unknown."""
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
        raise UserError(f"--splits: expected {' or '.join(SPLIT_KINDS)}, got '{splits}'{nearest(splits, SPLIT_KINDS)}")
    if splits == "deepfakebench" and not description.peer:
        raise UserError(f"{description.name}: DeepfakeBench has no script for it; set --splits official")
    if unknown := sorted(set(levels) - set(COMPRESSIONS)):
        raise UserError(
            f"--compression: expected some of {', '.join(COMPRESSIONS)}, got '{unknown[0]}'"
            f"{nearest(unknown[0], COMPRESSIONS)}"
        )
    if shares is not None and (len(shares) != 3 or min(shares) < 0 or not abs(sum(shares) - 1) <= 1e-6):
        raise UserError(
            f"--shares: expected three numbers of 0 or more for train, val and test, whose sum is 1, got "
            f"{' '.join(map(str, shares))}, whose sum is {sum(shares):g}"
        )
    if not 0 <= val_share < 1:
        raise UserError(f"--val-share: expected a number from 0 to below 1, got {val_share}")


def _nothing(result: Arrangement, tree: Tree) -> str:
    folders = sorted({_shown(source.folder) for source in result.description.sources})
    wanted = ", ".join(folders[:6]) + (", ..." if len(folders) > 6 else "")
    found = [f"{len(paths)} left out ({reason}; {paths[0]})" for reason, paths in result.left_out.items()]
    if result.empty:
        found.append(f"{len(result.empty)} videos without a frame ({result.empty[0]})")
    return (
        f"{tree.root}: no video of {result.description.name} is left; looked in {wanted}; "
        f"found {'; '.join(found) or 'no frames (`resproto faces` makes frames from videos)'}"
    )
