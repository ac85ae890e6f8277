"""Charts as SVG text: lines and bars, with what a script or a screen reader needs to read their values.

Lines differ in their dashes as well as their colour. Every text from outside is escaped here.
"""

import json
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from markupsafe import Markup

STYLES = 6
WIDTH, HEIGHT = 300, 230
LEFT, TOP = 54, 8


class Axis(NamedTuple):
    """
    Attributes:
        title: What is measured.
        ticks: (value, label).
        low: Value at its start.
        high: Value at its end.
        scale: Where a value lies, as a number; itself by default.
    """

    title: str
    ticks: Sequence[tuple[float, str]]
    low: float = 0.0
    high: float = 1.0
    scale: Callable[[float], float] = float

    def place(self, value: float) -> float:
        """Where a value lies between the axis' ends, in [0, 1]; beyond them at the end."""
        start, end = self.scale(self.low), self.scale(self.high)
        return (self.scale(min(max(value, self.low), self.high)) - start) / (end - start)


class Series(NamedTuple):
    """A line: its name and (x, y) values; `shown` are the words of each point, made from its values if not given."""

    name: str
    points: Sequence[tuple[float, float]]
    shown: Sequence[str] | None = None


def tenths(title: str, low: float = 0.0, high: float = 1.0) -> Axis:
    """An axis of rates with a tick every 0.2."""
    start, end = round(low * 10), round(high * 10)
    return Axis(title, [(i / 10, f"{i / 10:.1f}") for i in range(start, end + 1) if i % 2 == 0], low, high)


def line_chart(
    title: str, series: Sequence[Series], x: Axis, y: Axis, *, diagonal: bool = False, dots: bool = False
) -> Markup:
    """A figure with a line a series and a legend; points are read with the pointer or the arrow keys.

    Args:
        title: Its caption, and what a screen reader says.
        series: Lines; those without points are left out.
        x: The horizontal axis.
        y: The vertical axis.
        diagonal: Whether to draw the line of equal values, corner to corner as the axes go.
        dots: Whether points are marked.
    """
    series = [one for one in series if one.points]
    if not series:
        return Markup()

    def at(px: float, py: float) -> tuple[float, float]:
        return round(LEFT + x.place(px) * WIDTH, 1), round(TOP + (1 - y.place(py)) * HEIGHT, 1)

    out = [_grid(x, y, at)]
    if diagonal:
        (ax, ay), (bx, by) = at(x.low, y.low), at(x.high, y.high)
        out.append(f"<line class='chance' x1='{ax}' y1='{ay}' x2='{bx}' y2='{by}'/>")
    legend = ""
    for i, one in enumerate(series):
        places = [at(*point) for point in one.points]
        words = one.shown or [f"{px:.3f}, {py:.3f}" for px, py in one.points]
        data = escape(json.dumps([[*place, text] for place, text in zip(places, words)], ensure_ascii=True))
        path = " ".join(f"{px},{py}" for px, py in places)
        kind = f"s{i % STYLES}"
        out.append(
            f"<g class='{kind}' data-series='{escape(one.name)}' data-points='{data}'>"
            f"<polyline fill='none' points='{path}'/>"
        )
        out += [f"<circle cx='{px}' cy='{py}' r='3'/>" for px, py in places if dots]
        out.append("</g>")
        legend += (
            f"<li><svg class='key' viewBox='0 0 28 8' aria-hidden='true'><g class='{kind}'><line x1='0' x2='28' y1='4' "
            f"y2='4'/></g></svg>{escape(one.name)}</li>"
        )
    label = escape(f"{title}. {y.title} by {x.title}. Arrow keys read its points.")
    return Markup(
        f"<figure class='chart'><figcaption>{escape(title)}</figcaption>"
        f"<svg class='lines' viewBox='0 0 {LEFT + WIDTH + 12} {TOP + HEIGHT + 36}' role='img' tabindex='0' "
        f"aria-label='{label}'>{''.join(out)}"
        f"<line class='cursor' y1='{TOP}' y2='{TOP + HEIGHT}' visibility='hidden'/></svg>"
        f"<ul class='legend'>{legend}</ul><p class='tip' role='status' aria-live='polite'></p></figure>"
    )


def _grid(x: Axis, y: Axis, at) -> str:
    out = []
    bottom, right = TOP + HEIGHT, LEFT + WIDTH
    for value, text in x.ticks:
        px = at(value, y.low)[0]
        out.append(f"<line class='grid' x1='{px}' x2='{px}' y1='{TOP}' y2='{bottom}'/>")
        out.append(f"<text x='{px}' y='{bottom + 14}' text-anchor='middle'>{escape(text)}</text>")
    for value, text in y.ticks:
        py = at(x.low, value)[1]
        out.append(f"<line class='grid' x1='{LEFT}' x2='{right}' y1='{py}' y2='{py}'/>")
        out.append(f"<text x='{LEFT - 6}' y='{py + 4}' text-anchor='end'>{escape(text)}</text>")
    middle, half = LEFT + WIDTH / 2, TOP + HEIGHT / 2
    out.append(f"<text class='axis' x='{middle}' y='{bottom + 31}' text-anchor='middle'>{escape(x.title)}</text>")
    turned = f"<text class='axis' transform='translate(11 {half}) rotate(-90)' text-anchor='middle'>"
    out.append(f"{turned}{escape(y.title)}</text>")
    return "".join(out)


class Bar(NamedTuple):
    """A value with its interval, where there is one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def words(self) -> str:
        limits = "" if self.low is None else f" ({self.low:.3f} to {self.high:.3f})"
        return f"{self.value:.3f}{limits}"


def bar_chart(title: str, bars: Sequence[Bar], low: float = 0.0, chance: float | None = None) -> Markup:
    """Horizontal bars from `low` to 1, each with its number in words and its interval as a line."""
    if not bars:
        return Markup()
    left, right, pitch = 130, 320, 24
    low = min(low, *(bar.value for bar in bars))
    bottom = 6 + pitch * len(bars)

    def x(value: float) -> float:
        return round(left + (min(max(value, low), 1) - low) / (1 - low) * (right - left), 1)

    out = []
    for i, bar in enumerate(bars):
        y = 6 + pitch * i
        name = bar.name if len(bar.name) <= 19 else bar.name[:18] + "…"
        out.append(f"<g><title>{escape(f'{bar.name}: {bar.words}')}</title>")
        out.append(f"<text class='row' x='{left - 8}' y='{y + 15}' text-anchor='end'>{escape(name)}</text>")
        out.append(f"<rect class='bar' x='{left}' y='{y + 4}' width='{x(bar.value) - left:.1f}' height='{pitch - 8}'/>")
        if bar.low is not None:
            ends = f"x1='{x(bar.low)}' x2='{x(bar.high)}'"
            out.append(f"<line class='whisker' {ends} y1='{y + pitch / 2}' y2='{y + pitch / 2}'/>")
        out.append(f"<text x='{right + 8}' y='{y + 15}'>{bar.value:.3f}</text></g>")
    if chance is not None and low <= chance <= 1:
        out.append(f"<line class='chance' x1='{x(chance)}' x2='{x(chance)}' y1='2' y2='{bottom}'/>")
    label = escape(f"{title}: " + "; ".join(f"{bar.name} {bar.words}" for bar in bars))
    return Markup(
        f"<figure class='chart'><figcaption>{escape(title)}</figcaption>"
        f"<svg viewBox='0 0 360 {bottom + 4}' role='img' aria-label='{label}'>{''.join(out)}</svg></figure>"
    )


class Dots(NamedTuple):
    """One row's values: a dot for their mean, a faint one for each.

    Attributes:
        label: The row's name.
        tip: Shown when pointed at.
        values: One a seed.
        mean: Their mean; None if there is none.
        words: Shown in the place of a mean that is missing.
        hollow: Whether the dot is hollow.
        search: What the page's search box looks through.
    """

    label: str
    tip: str
    values: Sequence[float]
    mean: float | None
    words: str
    hollow: bool
    search: str


def dot_chart(label: str, rows: Sequence[Dots], low: float, high: float, chance: float | None) -> Markup:
    """A line of dots a row, on one axis from `low` to `high`, `chance` dashed."""
    left, right, pitch, top = 140, 348, 20, 6
    bottom = top + pitch * len(rows)

    def x(value: float) -> str:
        return f"{left + (value - low) / (high - low) * (right - left):.1f}"

    out = []
    for tenth in range(round(low * 10), round(high * 10) + 1):
        at = x(tenth / 10)
        out.append(f"<line class='grid' x1='{at}' x2='{at}' y1='{top}' y2='{bottom}'/>")
        if tenth % 2 == 0 or high - low <= 0.5:
            out.append(f"<text x='{at}' y='{bottom + 13}' text-anchor='middle'>{tenth / 10:.1f}</text>")
    if chance is not None and low <= chance <= high:
        at = x(chance)
        out.append(f"<line class='chance' x1='{at}' x2='{at}' y1='{top}' y2='{bottom}'><title>chance</title></line>")
    for i, row in enumerate(rows):
        y = top + pitch * (i + 0.5)
        name = row.label if len(row.label) <= 21 else row.label[:20] + "…"
        marks = [f"<text class='row' x='{left - 8}' y='{y + 4}' text-anchor='end'>{escape(name)}</text>"]
        if row.mean is None:
            marks.append(f"<text x='{left + 6}' y='{y + 4}'>{escape(row.words)}</text>")
        else:
            if len(row.values) > 1:
                ends = f"x1='{x(min(row.values))}' x2='{x(max(row.values))}'"
                marks.append(f"<line class='span' {ends} y1='{y}' y2='{y}'/>")
                marks += [f"<circle class='seed' cx='{x(value)}' cy='{y}' r='2.5'/>" for value in row.values]
            marks.append(f"<circle class='dot' cx='{x(row.mean)}' cy='{y}' r='5'/>")
        kind = " class='oracle'" if row.hollow else ""
        data = f" data-name='{escape(row.search)}'"
        out.append(f"<g{kind}{data}><title>{escape(row.tip)}</title>{''.join(marks)}</g>")
    return Markup(f"<svg viewBox='0 0 360 {bottom + 18}' role='img' aria-label='{escape(label)}'>{''.join(out)}</svg>")
