"""Table cells and small tables as plain data; the macros in `templates/macros.html` show them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from resproto_fd.training.board.table import DIGITS, METRICS, Cell, Line, number
from resproto_fd.training.measures.intervals import estimable

NOT_ESTIMABLE = "not estimable"
NOT_COMPUTED = "not computed"


@dataclass(frozen=True)
class CellView:
    """A table cell as the macro `td` shows it.

    Attributes:
        text: What it shows.
        sort: What its column is sorted by; None for the text.
        kind: CSS classes.
        tip: Shown when pointed at.
        best: Whether it is the best of its column.
        tied: Whether it is not distinguishable from the best.
        strong: Whether the text is bold.
        doubtful: Whether the number could not be read with certainty.
        small: Text beside it; None for nothing.
        limits: The 95 % interval.
        test_set: The test set that the filter goes by; None if the filter leaves the cell alone.
    """

    text: str
    sort: str | None = None
    kind: str = ""
    tip: str = ""
    best: bool = False
    tied: bool = False
    strong: bool = False
    doubtful: bool = False
    small: str | None = None
    limits: str = ""
    test_set: str | None = None


@dataclass(frozen=True)
class Column:
    """A column's title as the macro `head` shows it.

    Attributes:
        text: The title; a click on it sorts by the column.
        tip: Shown when pointed at.
        kind: CSS classes.
        small: Text below it.
        first: Order of the first click, "ascending" or "descending"; None for ascending.
        test_set: As in `CellView`; "" hides the column while one test set is chosen.
    """

    text: str
    tip: str = ""
    kind: str = ""
    small: str = ""
    first: str | None = None
    test_set: str | None = None


@dataclass(frozen=True)
class TableView:
    """A sortable table.

    Attributes:
        label: Its caption, for screen readers.
        columns: Titles.
        lines: (text of the row's header cell, further cells).
    """

    label: str
    columns: Sequence[Column]
    lines: Sequence[tuple[str, Sequence[CellView]]]


def small_table(
    heads: Sequence[str], lines: Sequence[tuple[Sequence[Any], list]], label: str, texts: int = 2
) -> TableView:
    """Make a table from texts and cells.

    Args:
        heads: Titles of the columns. A title that names a metric explains it.
        lines: (texts that start a row, further cells); the first text may be `Markup`, a link.
        label: Caption.
        texts: How many of the first columns are left-aligned.
    """
    meanings = {metric.title: metric.meaning for metric in METRICS.values()}
    columns = [Column(text, meanings.get(text, ""), "t" if i < texts else "") for i, text in enumerate(heads)]
    shown = []
    for (name, *further), cells in lines:
        starts = [CellView(str(text), kind="t" if i < texts else "") for i, text in enumerate(further, start=1)]
        shown.append((name if isinstance(name, Markup) else str(name), [*starts, *cells]))
    return TableView(label, columns, shown)


def value_cell(
    cell: Cell, best: bool = False, test_set: str | None = None, tied: bool = False, limits: str = ""
) -> CellView:
    """A number with its spread over seeds, 95 % limits and marks."""
    if cell.mean is None:
        return CellView(number(cell), sort="", kind="none", tip=cell.reason, test_set=test_set)
    return CellView(
        f"{cell.mean:.{DIGITS}f}",
        sort=repr(cell.mean),
        tip="by seed: " + ", ".join(f"{value:.6f}" for value in cell.values),
        kind="best" if best else "",
        best=best,
        tied=tied,
        small="" if cell.sd is None else f"± {cell.sd:.{DIGITS}f}",
        limits=limits,
        test_set=test_set,
    )


def metric_cell(found: list, metric: str, limits: str = "", why_none: str = "") -> CellView:
    """One metric over seeds, with its limits as text, or why there are none."""
    values = [getattr(metrics, metric) for metrics in found]
    if None in values:
        return value_cell(Cell(reason=next(m.why_none(metric) for m, v in zip(found, values) if v is None)))
    cell = value_cell(Cell(tuple(values)), limits=limits)
    return replace(cell, tip=f"{cell.tip}; {why_none}", limits=NOT_COMPUTED) if why_none else cell


def rate_cell(value: float | None, strong: bool = False) -> CellView:
    """A single rate."""
    if value is None:
        return value_cell(Cell(reason="not defined"))
    return CellView(f"{value:.{DIGITS}f}", sort=repr(value), strong=strong)


def interval_cell(
    value: float | None, limits: tuple[float | None, float | None] | None, strong: bool = False
) -> CellView:
    """A single rate with its 95 % interval: None if it is not known, (None, None) if the data do not tell it."""
    if value is None:
        return rate_cell(None)
    return CellView(f"{value:.{DIGITS}f}", sort=repr(value), strong=strong, limits=limits_text(limits))


def limits_text(limits: tuple[float | None, float | None] | None) -> str:
    """A 95 % interval as text; empty if it is not known.

    >>> limits_text((0.25, 0.5)), limits_text((0.03, 0.98))
    ('0.250–0.500', 'not estimable')
    """
    if limits is not None and not estimable(*limits):
        return NOT_ESTIMABLE
    return "" if limits is None else f"{limits[0]:.{DIGITS}f}–{limits[1]:.{DIGITS}f}"


def small_texts(line: Line, test_sets: Sequence[str]) -> list[str]:
    """Beside each cell of a line: its interval, and of a test set the share of the frames that were answered."""
    shares = [*map(line.row.answered, test_sets), None]  # none of the mean
    answers = ["" if share is None else f"answered {share:.1%}" for share in shares]
    return [", ".join(filter(None, parts)) for parts in zip(map(limits_text, line.limits), answers)]


def difference_cell(value: float, digits: int = DIGITS) -> CellView:
    """A difference with its sign."""
    return CellView(f"{value:+.{digits}f}", sort=repr(value))


def text_cell(text: str) -> CellView:
    """A text, left-aligned."""
    return CellView(text, kind="t")
