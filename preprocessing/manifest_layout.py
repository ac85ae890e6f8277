"""The nesting of a dataset JSON: `{key: {label: {split: {video: entry}}}}`, with or without compression levels."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from resproto_fd.configs.errors import MissingFile, UnreadableFile, UserError, shown
from resproto_fd.configs.readers.json_reader import LARGEST_MANIFEST, read_json
from resproto_fd.configs.suggestions import nearest
from resproto_fd.preprocessing.video import COMPRESSIONS, SPLITS


class Layout:
    """The nesting of one data set, filled video by video.

    Every label has all three splits, even empty ones, because DeepfakeBench asks for each by name.

    Args:
        where: The file or data set, for messages.
        levels: Compression levels above the videos; none if empty.
    """

    def __init__(self, where: str | os.PathLike, levels: Sequence[str] = ()):
        self.where, self.levels = where, levels
        self.tables: dict[str, dict] = {}

    def add(self, label: str, split: str, level: str | None, name: str, entry: Mapping) -> None:
        """Puts a video into its place.

        Raises:
            UserError: The place is taken: DeepfakeBench's layout keeps one video of a name.
        """
        levels = self.levels
        splits = self.tables.setdefault(
            label, {each: {level: {} for level in levels} if levels else {} for each in SPLITS}
        )
        table = splits[split][level] if levels else splits[split]
        if name in table:
            raise UserError(
                f"{self.where}: two videos of {label}, {split} are called '{name}'; DeepfakeBench's layout keeps one"
            )
        table[name] = entry


def load_manifest(json_path: str | os.PathLike) -> Mapping:
    """Loads a dataset JSON.

    Raises:
        UnreadableFile: Missing or unreadable file, see `read_json`, or no mapping of data sets in it.
    """
    path = Path(json_path)
    try:
        content = read_json(path, largest=LARGEST_MANIFEST)
    except MissingFile:
        there = sorted(other.name for other in path.parent.glob("*.json")) if path.parent.is_dir() else []
        hint = f"; the folder has {', '.join(there[:20])}" if there else "; the folder has no JSON"
        raise MissingFile(f"{path}: no such dataset JSON{nearest(path.name, there)}{hint}") from None
    if not isinstance(content, dict) or not content:
        found = f"{type(content).__name__} {shown(content)}"
        raise UnreadableFile(f"{path}: expected {{data set: {{label: {{split: ...}}}}}}, got {found}")
    return content


def labels_of(content: Mapping, key: str | None, dataset: str, json_path) -> tuple[str, Mapping]:
    """Finds the data set in a JSON's content: its top key and the tables under its labels."""
    if key is None:
        key = dataset if dataset in content or len(content) > 1 else next(iter(content))
    if key not in content:
        raise UserError(
            f"{json_path}: no data set '{key}' in it{nearest(key, content)}; it has {', '.join(map(repr, content))} "
            "(set `key:` in the data set's YAML)"
        )
    if not isinstance(content[key], dict) or not content[key]:
        raise UserError(f"{json_path}: '{key}' holds no labels")
    return key, content[key]


def entries_of(tables: Mapping, split: str, compression: str | None, where: str) -> list[tuple[str, str, Mapping]]:
    """Lists (label, video name, entry) of a split."""
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
            f"{where}: compression '{compression}' is set, but the JSON has no compression levels; "
            "set `compression: null` in the data set's YAML"
        )
    return found


def _is_nested(table, where: str) -> bool:
    """Tells whether a split's table has compression levels above its videos."""
    broken = (
        f"{where}: expected a table of videos; DeepfakeBench's script writes a broken split 'val' for DFDC. "
        "Use another split, or make the JSON again"
    )
    if not isinstance(table, dict) or not all(isinstance(value, dict) for value in table.values()):
        raise UserError(broken)
    refuse_empty_entries(table, where)
    videos = ["frames" in value for value in table.values()]
    if not videos or all(videos):
        return False
    entries = [entry for value in table.values() for entry in value.values()]
    if any(videos) or not all(isinstance(entry, dict) and "frames" in entry for entry in entries):
        raise UserError(broken)
    return True


def refuse_empty_entries(table: Mapping, where: str) -> None:
    """Refuses a video with the entry {}, which looks like a compression level without videos.

    Raises:
        UserError: There is one; the first is named.
    """
    for name, entry in table.items():
        if entry == {} and name not in COMPRESSIONS:
            raise UserError(
                f"{where}: video {shown(name)} has the entry {{}}; expected {{'label': ..., 'frames': [...]}}: give "
                "its frames, or remove it"
            )


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


def filled_splits(tables: Mapping) -> str:
    """Names the splits that hold anything, for a message."""

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
