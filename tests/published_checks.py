"""Look-ups and recomputed averages of published numbers, for tests."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from resproto_fd.training.published import FRACTIONS, PublishedRow, PublishedSource


@dataclass(frozen=True, slots=True)
class AverageCheck:
    """A printed average against the cells it covers.

    Attributes:
        row: The printed average.
        mean: Mean of the printed cells; None if the source does not print all of them.
        verdict: "exact": the mean rounds to the print; "rounding": one unit of the last digit apart at most, which
            cells rounded before printing explain; "differs"; "incomplete": cells are not printed.
    """

    row: PublishedRow
    mean: Decimal | None
    verdict: Literal["exact", "rounding", "differs", "incomplete"]


def find_published(rows: Iterable[PublishedRow], setting: str | None = "", **wanted: str) -> list[PublishedRow]:
    """Rows that have all the wanted values (`test_set="DFDC"`, `metric`, `method`, ...), in the order of print.

    Args:
        rows: From `load_published`.
        setting: Methods as proposed by default; None for ablations and training scales too.
        wanted: Values of the fields of `PublishedRow`.
    """
    wanted |= {} if setting is None else {"setting": setting}
    return [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]


def check_averages(rows: Iterable[PublishedRow], sources: dict[str, PublishedSource]) -> list[AverageCheck]:
    """Every printed average of a metric, recomputed from the printed cells of its line."""
    rows = [row for row in rows if row.metric in FRACTIONS]
    cells = {(row.run, row.level, row.metric, row.test_set): row.printed for row in rows}
    checks = []
    for row in (row for row in rows if row.is_average):
        covered = sources[row.source].tables[row.table].averages[row.test_set]
        values = [cells.get((row.run, row.level, row.metric, name)) for name in covered]
        mean = None if None in values else sum(values) / len(values)
        checks.append(AverageCheck(row, mean, _verdict(row, mean)))
    return checks


def _verdict(row: PublishedRow, mean: Decimal | None) -> str:
    if mean is None:
        return "incomplete"
    unit = Decimal(1).scaleb(-row.decimals)
    apart = abs(mean - row.printed)
    return "exact" if apart <= unit / 2 else "rounding" if apart <= unit else "differs"
