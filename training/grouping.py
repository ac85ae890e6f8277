"""Facts of test videos that groups are made by: columns of side files, or of a CSV."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from resproto_fd.configs.errors import UserError, cut
from resproto_fd.configs.loading import data_folders
from resproto_fd.configs.readers.csv_reader import read_csv
from resproto_fd.configs.schema import DataConfig
from resproto_fd.preprocessing.side_file import SideRecord, read_side

ENDING = ".side.jsonl"
_COLUMNS = ("identity", "target", "source", "original", "compression", "family", "method", "forgery_type", "label_name")


def read_groups(columns: Sequence[str], paths: Iterable[str | Path]) -> dict[str, dict[str, str]]:
    """The value of each video, by column and video id.

    Args:
        columns: Names of columns: of a side file's record or its `facts`, of its `media` ("media.codec"), of a CSV.
        paths: Side files, CSVs with a column `video`, or folders of them.

    Raises:
        UserError: No such file, a damaged one, or a column that none of them has; the message lists those there are.
    """
    found: dict[str, dict[str, str]] = {column: {} for column in columns}
    known: set[str] = set()
    for path in _files(paths):
        for video, facts in _rows(path):
            known |= facts.keys()
            for column in columns:
                if value := facts.get(column):
                    found[column][video] = value
    for column, values in found.items():
        if not values:
            there = ", ".join(sorted(known)) or "none"
            raise UserError(f"--groups {column}: no video has a value of it; columns with values: {there}")
    return found


def side_folders(configs: Iterable[Mapping]) -> list[Path]:
    """Folders of the manifests that runs were tested on, where their configurations name folders that exist."""
    folders = {}
    for config in configs:
        try:
            json_dir = data_folders(DataConfig.model_validate(config.get("data") or {}))["json"]
        except (UserError, ValueError):
            continue
        if json_dir and json_dir.is_dir():
            folders[json_dir.resolve()] = json_dir
    return list(folders.values())


def _files(paths: Iterable[str | Path]) -> list[Path]:
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(path.glob(f"*{ENDING}"))
        elif path.is_file() and path.name.endswith((ENDING, ".csv")):
            files.append(path)
        else:
            raise UserError(f"{path}: expected a NAME{ENDING}, a CSV, or a folder of side files; set --side")
    if not files:
        raise UserError("no side file is known for these runs: give --side NAME.side.jsonl, or a CSV with 'video'")
    return files


def _rows(path: Path) -> Iterable[tuple[str, dict[str, str]]]:
    if path.suffix == ".csv":
        header, lines = read_csv(path)
        if "video" not in header:
            raise UserError(f"{path}: expected a column 'video', got {cut(', '.join(header))}")
        for _, cells in lines:
            row = dict(zip(header, cells))
            yield row["video"], {key: value for key, value in row.items() if key and key != "video" and value}
        return
    for video, record in read_side(path).records.items():
        yield video, _facts(record)


def _facts(record: SideRecord) -> dict[str, str]:
    facts = {name: getattr(record, name) for name in _COLUMNS}
    media = {f"media.{key}": value for key, value in (record.media or {}).items() if isinstance(value, str | int)}
    facts |= media | dict(record.facts)
    return {key: str(value) for key, value in facts.items() if value not in (None, "")}
