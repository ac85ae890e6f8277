"""Numbers that papers print, as data: read, checked, looked up. configs/published/SOURCES.yaml explains them.

They are never mixed with measured results: a published number has no checkpoint, no frames and no fingerprint.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from resproto_fd.configs.errors import UnreadableFile, UserError, shown
from resproto_fd.configs.loading import load_yaml, validated
from resproto_fd.configs.readers.csv_reader import read_csv
from resproto_fd.configs.readers.text import is_number
from resproto_fd.configs.suggestions import nearest

FRACTIONS = ("auc", "ap", "eer", "acc", "hter", "m_eer")
SIZES = ("parameters_m", "flops_g")  # of the model: millions, billions; no test set
COUNTS = ("top3_count",)
LARGEST, MOST_DECIMALS = 10**9, 12  # of a value
LEVELS = ("frame", "video", "image", "none")  # none: SIZES and COUNTS


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """One printed number.

    Attributes:
        method: Name used in this project, one for all sources ("RECCE" for "Recce" and "REECE").
        method_printed: Name in the source.
        venue: The method's, from the source or its reference list; empty if neither names it.
        train_set: Data set names joined by " & ".
        test_set: Data set name, "average..." for a printed average, names joined by " & " for one number over several,
            empty for SIZES.
        test_set_printed: Name in the source.
        level: What was counted, one of LEVELS; "image" for sets of still images.
        metric: One of FRACTIONS, SIZES, COUNTS.
        value: In [0, 1] for FRACTIONS.
        decimals: Digits after the point that the source's number has in the unit of `value`.
        source: Key in SOURCES.yaml and name of the CSV.
        table: The source's name of the table.
        setting: What an ablation or a training scale varies; empty for a method as it is proposed.
        note: From where the source cites it, marks, doubts.
    """

    method: str
    method_printed: str
    venue: str
    train_set: str
    test_set: str
    test_set_printed: str
    level: str
    metric: str
    value: float
    decimals: int
    source: str
    table: str
    setting: str
    note: str

    @property
    def is_average(self) -> bool:
        """Whether the source computed it from other cells."""
        return self.test_set.startswith("average")

    @property
    def is_doubtful(self) -> bool:
        """Whether the printed number could not be read with certainty."""
        return self.note.startswith("doubtful")

    @property
    def printed(self) -> Decimal:
        """The value with exactly the printed digits."""
        return Decimal(f"{self.value:.{self.decimals}f}")

    @property
    def run(self) -> tuple[str, str, str, str, str]:
        """What shares a line of a table: (source, table, method, train_set, setting)."""
        return self.source, self.table, self.method, self.train_set, self.setting


COLUMNS = tuple(field.name for field in fields(PublishedRow) if field.name != "decimals")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PublishedTable(_Strict):
    """What a table of a source holds, as counted by hand.

    Attributes:
        content: "results", or what it varies.
        unit: How the source prints fractions.
        level_stated: Whether the source states what was counted; if not, frames are assumed, unless the source's
            note says otherwise.
        runs: Method x training set x setting.
        cells: Printed numbers.
        absent: Printed dashes.
        doubtful: Cells that could not be read with certainty.
        averages: Test sets that each printed average covers.
    """

    content: Literal["results", "ablation", "training scale"]
    unit: Literal["percent", "fraction"]
    level_stated: bool
    runs: int
    cells: int
    absent: int
    doubtful: int = 0
    averages: dict[str, list[str]] = {}
    note: str = ""


class Discrepancy(_Strict):
    """Where a source contradicts its own cells or another source. The CSV holds what is printed.

    Attributes:
        kind: "average" and "count": a printed mean or count against its cells; "text": a sentence against the table;
            "repeat": the same cell elsewhere, or the same number in cells that should differ.
        found: The number by the cells or the other source.
    """

    kind: Literal["average", "count", "text", "repeat"]
    table: str
    method: str
    test_set: str
    metric: str
    printed: float
    found: float
    setting: str = ""
    note: str


class PublishedSource(_Strict):
    """One paper or README: what was taken, what was left out, where it disagrees with itself."""

    title: str
    authors: str
    venue: str
    note: str
    left_out: list[str]
    tables: dict[str, PublishedTable]
    discrepancies: list[Discrepancy]


def published_folder() -> Path:
    """The folder of the CSVs that come with the package."""
    return Path(str(files("resproto_fd.configs"))) / "published"


def load_sources(folder: Path | None = None) -> dict[str, PublishedSource]:
    """The sources by key, as SOURCES.yaml describes them.

    Raises:
        UserError: The file is missing, or does not fit.
    """
    path = Path(folder or published_folder()) / "SOURCES.yaml"
    return {key: validated(PublishedSource, value, f"{path}: {key}") for key, value in load_yaml(path).items()}


def load_published(folder: Path | None = None) -> list[PublishedRow]:
    """Every published number, by source and in the order of print.

    Args:
        folder: Holds SOURCES.yaml and one CSV for each source in it; the package's own by default.

    Raises:
        UserError: A file is missing or unknown, a column is not as expected, a value is not a number or out of range,
            a cell stands twice, or a table has not the cells that SOURCES.yaml counts.
    """
    folder = Path(folder or published_folder())
    sources = load_sources(folder)
    stray = sorted(path.name for path in folder.glob("*.csv") if path.stem not in sources)
    if stray:
        raise UserError(f"{folder}: {', '.join(stray)} has no entry in SOURCES.yaml{nearest(stray[0][:-4], sources)}")
    return [row for key, source in sources.items() for row in _read_source(folder / f"{key}.csv", key, source)]


def count_published(rows: Iterable[PublishedRow]) -> dict[tuple[str, str], tuple[int, int]]:
    """(source, table) -> (runs, cells)."""
    rows = list(rows)
    runs = Counter(run[:2] for run in {row.run for row in rows})
    cells = Counter((row.source, row.table) for row in rows)
    return {key: (runs[key], cells[key]) for key in cells}


def _read_source(path: Path, key: str, source: PublishedSource) -> list[PublishedRow]:
    header, lines = read_csv(path)
    if tuple(header) != COLUMNS:
        raise UnreadableFile(f"{path}: expected the columns {', '.join(COLUMNS)}, got {shown(header)}")
    rows, seen = [], {}
    for number, line in lines:
        where = f"{path}: line {number}"
        row = _row(dict(zip(COLUMNS, line)), key, source, where)
        first = seen.setdefault((row.run, row.method_printed, row.test_set, row.level, row.metric), number)
        if first != number:
            raise UserError(f"{where}: {row.method}, {row.test_set} {row.metric} of {row.table} stands in line {first}")
        rows.append(row)
    _check_counts(path, rows, source)
    return rows


def _row(cells: dict[str, str], key: str, source: PublishedSource, where: str) -> PublishedRow:
    def wrong(column: str, wanted: str):
        return UserError(f"{where}: column '{column}': expected {wanted}, got {shown(cells[column])}")

    for column, text in cells.items():
        if text != text.strip():
            raise wrong(column, "no space around it")
    metric = cells["metric"]
    if metric not in FRACTIONS + SIZES + COUNTS:
        raise wrong("metric", f"one of {', '.join(FRACTIONS + SIZES + COUNTS)}")
    for column in ("method", "method_printed", "train_set"):
        if not cells[column]:
            raise wrong(column, "a name")
    if bool(cells["test_set"]) != (metric not in SIZES):
        raise wrong("test_set", "nothing, the number is the model's" if metric in SIZES else "a name")
    if cells["level"] not in LEVELS or (cells["level"] == "none") != (metric not in FRACTIONS):
        raise wrong("level", f"one of {', '.join(LEVELS[:-1])}" if metric in FRACTIONS else "none")
    if cells["source"] != key:
        raise wrong("source", f"'{key}', the name of the file")
    if cells["table"] not in source.tables:
        raise wrong("table", f"one that SOURCES.yaml names{nearest(cells['table'], source.tables)}")
    if cells["test_set"].startswith("average") and cells["test_set"] not in source.tables[cells["table"]].averages:
        raise wrong("test_set", f"an average of {cells['table']} that SOURCES.yaml names")
    if not is_number(cells["value"]):
        raise wrong("value", "a number")
    value = Decimal(cells["value"])
    if value < 0 or value > (1 if metric in FRACTIONS else LARGEST):
        raise wrong("value", "a fraction in [0, 1]" if metric in FRACTIONS else f"a number of 0 to {LARGEST}")
    if -value.as_tuple().exponent > MOST_DECIMALS:
        raise wrong("value", f"at most {MOST_DECIMALS} digits after the point")
    return PublishedRow(**cells | {"value": float(value)}, decimals=max(0, -value.as_tuple().exponent))


def _check_counts(path: Path, rows: list[PublishedRow], source: PublishedSource) -> None:
    counts = count_published(rows)
    doubtful = Counter(row.table for row in rows if row.is_doubtful)
    for name, table in source.tables.items():
        found = (*counts.get((path.stem, name), (0, 0)), doubtful[name])
        wanted = (table.runs, table.cells, table.doubtful)
        if found != wanted:
            raise UserError(
                f"{path}: {name} has (runs, cells, doubtful cells) {found}, SOURCES.yaml counts {wanted}: "
                "one of the two has lost or gained a line"
            )
