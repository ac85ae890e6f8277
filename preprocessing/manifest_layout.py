"""The nesting of a dataset JSON: `{key: {label: {split: {video: entry}}}}`, with or without compression levels."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.suggestions import nearest


def load_manifest(json_path: str | os.PathLike) -> Mapping:
    """Loads a dataset JSON.

    Raises:
        UserError: Missing or unreadable file, or no mapping of data sets in it.
    """
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
        raise UserError(f"{path}: expected {{data set: {{label: {{split: ...}}}}}}, got {type(content).__name__}")
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
