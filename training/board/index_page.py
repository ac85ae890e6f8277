"""The leaderboard's first page: a table and small charts for each protocol and metric.

`table` decides ranks, best values and order. The page's script only sorts, filters and switches.
"""

from collections.abc import Sequence
from typing import Any

from resproto_fd.training.board.cells import (
    CellView,
    Column,
    TableView,
    difference_cell,
    limits_text,
    small_table,
    small_texts,
    value_cell,
)
from resproto_fd.training.board.charts import Dots, dot_chart
from resproto_fd.training.board.collecting import Pending, Problem
from resproto_fd.training.board.notes import about_protocol, fingerprint_warnings, notes, warnings
from resproto_fd.training.board.published_page import beside
from resproto_fd.training.board.rendering import INDEX, count, render_page, row_path
from resproto_fd.training.board.run_facts import (
    NOT_STORED,
    backbone,
    fidelity,
    fidelity_words,
    input_size,
    search_text,
    tags,
)
from resproto_fd.training.board.score_facts import CLUSTERINGS
from resproto_fd.training.board.table import DIGITS, METRICS, Line, Row, Section, number
from resproto_fd.training.board.ties import MEAN
from resproto_fd.training.results import BY_CLIPS

FIRST_METRIC = "frame_auc"
_GROUP_TITLES = {
    "ranked": "",
    "unstated": "History not stated: what the weights learnt from, or how they were chosen; ranked apart",
    "seen": "Trained on a test set of the mean: not ranked",
    "controls": "Controls: not ranked",
    "oracles": "Oracles: checkpoints chosen on a test set, not ranked",
}


def render(sections: list[Section], problems: list[Problem], pending: Sequence[Pending] = ()) -> str:
    """The whole page.

    Args:
        sections: One table each.
        problems: Result files that are left out; the page names them.
        pending: Runs of a sweep that have no result yet.
    """
    rows = [row for section in sections for row in section.rows]
    levels = [(level, [metric for metric in METRICS.values() if metric.level == level]) for level in ("frame", "video")]
    return render_page(
        "index.html",
        "Face-forgery leaderboard",
        INDEX,
        FIRST_METRIC=FIRST_METRIC,
        runs=sum(len(row.runs) for row in rows),
        detectors=len({row.first.detector for row in rows}),
        warnings=fingerprint_warnings(sections),
        problems=problems,
        pending=pending,
        levels=levels,
        test_sets=sorted({name for section in sections for name in section.test_sets}),
        overview={"columns": _OVERVIEW, "lines": [_overview(section) for section in sections]},
        sections=[_section(section) for section in sections],
    )


_OVERVIEW = [
    Column("Protocol", kind="t"),
    Column("Rows"),
    Column("Runs"),
    Column("Test sets"),
    Column("Leads by frame AUC", "By video AUC where all rows score clips", kind="t"),
    Column("Mean"),
]


def _overview(section: Section) -> dict[str, Any]:
    """A line for each protocol: its counts, and the row that leads."""
    ranked = [line for line in section.table(section.auc) if line.rank == 1 and line.row.ranks]
    best = ranked[0].cells[-1].shown if ranked else None
    counts = len(section.rows), sum(len(row.runs) for row in section.rows), len(section.test_sets)
    leads = ", ".join(line.row.first.title for line in ranked) + " (video AUC)" * (section.auc != FIRST_METRIC)
    return {
        "protocol": section.protocol,
        "fingerprint": section.fingerprint,
        "cells": [
            *(CellView(str(amount)) for amount in counts),
            CellView(leads or "–", kind="t"),
            CellView("–" if best is None else f"{best:.{DIGITS}f}"),
        ],
    }


def _section(section: Section) -> dict[str, Any]:
    found = warnings(section)
    return {
        "protocol": section.protocol,
        "fingerprint": section.fingerprint,
        "test_sets": section.test_sets,
        "about": about_protocol(section),
        "warnings": found,
        "notes": [text for text in notes(section) if text not in found],
        "by_clustering": _by_clustering(section),
        "boards": [_board(section, name) for name in METRICS],
    }


def _by_clustering(section: Section) -> TableView | None:
    """Intervals and marks of the mean AUC under each clustering; None where all are one."""
    marks = section.by_clustering
    if not marks:
        return None
    lines = []
    for line in section.table(section.auc):
        if line.row.ranks and line.cells[-1].reason != BY_CLIPS:
            key = line.row.key
            cells = [
                value_cell(
                    line.cells[-1], tied=key in each.tied.get(MEAN, ()), limits=limits_text(each.limits_of_mean(key))
                )
                for each in marks.values()
            ]
            lines.append(([f"{line.row.first.title} ({line.row.name})"], cells))
    heads = ["Detector", *(CLUSTERINGS[name] for name in marks)]
    title = METRICS[section.auc].title
    return small_table(heads, lines, f"Mean {title[0].lower()}{title[1:]} under each clustering", texts=1)


def _board(section: Section, name: str) -> dict[str, Any]:
    """The table of one metric, its charts, and published numbers beside it."""
    lines = section.table(name)
    groups = []
    for kind, title in _GROUP_TITLES.items():
        shown = [_line(line, section, name) for line in lines if line.row.group == kind]
        if shown:
            groups.append({"kind": kind, "title": title, "lines": shown})
    return {
        "metric": METRICS[name],
        "label": f"{METRICS[name].title}, {section.protocol}",
        # Room for standard deviations, so that the means stand under each other.
        "has_spread": any(cell.sd is not None for line in lines for cell in line.cells),
        "columns": _columns(section, name),
        "groups": groups,
        "plots": _plots(section, name, lines),
        "published": beside(section, name),
    }


def _columns(section: Section, name: str) -> list[Column]:
    metric = METRICS[name]
    best_first = "descending" if metric.higher_is_better else "ascending"
    where = ", ".join(section.mean_sets) or "no test set"
    tip = f"Unweighted mean over {where}; it decides the rank"
    small = f"of {count(len(section.mean_sets), 'set')}"
    columns = [
        Column("#", "Rank by the mean; means that print the same share a rank", "rank", first="ascending", test_set=""),
        Column("Detector", "Name of the preset; its page holds curves, runs and configuration", "t name",
               first="ascending"),
        *(_set_column(section, name, test_set) for test_set in section.test_sets),
        Column("Mean", tip, small=small, first=best_first, test_set=""),
        Column("Seeds", "Number of runs that differ only in the seed", first="descending"),
    ]  # fmt: skip
    if (probe := section.probe_mean(name)) is not None:
        tip = f"Mean {metric.title} minus that of the frozen-CLIP probe, {probe:.{DIGITS}f}"
        columns.append(Column("Over probe", tip, first=best_first))
    return [*columns, *_RACE, _CHECKPOINT]


def _set_column(section: Section, name: str, test_set: str) -> Column:
    metric = METRICS[name]
    clustering = section.clustering.get(test_set, "")
    return Column(
        test_set,
        f"{metric.title} on {test_set}: {metric.meaning}. {clustering}".strip(),
        small="in-domain" if test_set in section.in_domain else "cross-domain" if section.in_domain else "",
        first="descending" if metric.higher_is_better else "ascending",
        test_set=test_set,
    )


_RACE = [
    Column("Backbone", "Backbone of the detector; own: its configuration describes it", "t", first="ascending"),
    Column("Parameters", "All parameters of the detector, trained or not, in millions", first="ascending"),
    Column("FLOPs", "FLOPs of one frame or clip in billions; a multiply-add counts as two", first="ascending"),
    Column("Input", "Side of the image that the detector sees, in pixels; of clips, frames x side", first="ascending"),
    Column("Training images", "Images seen in training; repeats count", first="ascending"),
    Column("Fidelity", "How close the implementation is to its paper; see the row's page", "t", first="ascending"),
]
_CHECKPOINT = Column("Checkpoint", "How the tested checkpoint was chosen", "t", first="ascending")


def _line(line: Line, section: Section, name: str) -> dict[str, Any]:
    row, run = line.row, line.row.first
    sets = [*section.test_sets, ""]
    best = line.best or [False] * len(line.cells)
    tied = line.tied or [False] * len(sets)
    limits = small_texts(line, section.test_sets)
    return {
        "rank": line.rank or "",
        "title": run.title,
        "name": row.name,
        "search": search_text(row),
        "page": row_path(section, row),
        "tags": tags(row),
        "cells": [
            *map(value_cell, line.cells, best, sets, tied, limits),
            CellView(str(len(row.runs)), sort=str(len(row.runs))),
            *_over_probe(line, section, name),
            *_race(row),
            CellView(row.selection, sort=row.selection.lower(), kind="t choice"),
        ],
    }


def _over_probe(line: Line, section: Section, name: str) -> list[CellView]:
    probe, mean = section.probe_mean(name), line.cells[-1].mean
    if probe is None:
        return []
    if mean is None:
        return [CellView("–", sort="", kind="none")]
    return [difference_cell(mean - probe)]


def _race(row: Row) -> list[CellView]:
    """What decides whether a comparison is fair: backbone, size, cost, input, training images, fidelity."""
    run, missing = row.first, CellView(NOT_STORED, sort="", kind="none")

    def amount(value: float | None, text: str) -> CellView:
        return missing if value is None else CellView(text, sort=str(value))

    name, size = backbone(run), input_size(run)
    deviations = fidelity(run)[1]
    return [
        CellView(name, sort="", kind="t none") if name == NOT_STORED else CellView(name, kind="t"),
        amount(run.parameters, f"{(run.parameters or 0) / 1e6:.3g} M"),
        amount(run.compute.gflops, f"{run.compute.gflops or 0:.3g} G"),
        amount(size, f"{run.clip_frames} x {size}" if row.by_clips else f"{size}"),
        amount(run.train_images, f"{run.train_images or 0:,}"),
        CellView(fidelity_words(run), kind="t", tip="; ".join(deviations)),
    ]


def _plots(section: Section, name: str, lines: list[Line]) -> list[tuple[str, str]]:
    """A small chart for each test set, all on one axis: a dot for each row's mean and a faint one for each seed."""
    values = [value for line in lines for cell in line.cells[:-1] for value in cell.values]
    if not values:
        return []
    metric = METRICS[name]
    if metric.higher_is_better:
        low, high = min(0.5, int(min(values) * 10) / 10), 1.0
    else:
        low, high = 0.0, max(0.5, -int(-max(values) * 10 // 1) / 10)
    titles = [line.row.first.title for line in lines]
    plots = []
    for i, test_set in enumerate(section.test_sets):
        if any(line.cells[i].values for line in lines):
            label = f"{metric.title} on {test_set} by detector; the numbers are in the table"
            dots = [_dots(line, i, titles) for line in lines if line.cells[i].reason != BY_CLIPS]
            plots.append((test_set, dot_chart(label, dots, low, high, metric.chance)))
    return plots


def _dots(line: Line, column: int, titles: list[str]) -> Dots:
    row, cell = line.row, line.cells[column]
    # In a sweep of one detector, what was changed tells the rows apart.
    title = row.first.title
    label = title if titles.count(title) == 1 else " ".join(row.changes) or title
    tip = f"{row.name}{', oracle' if row.oracle else ''}: {number(cell)}"
    return Dots(label, tip, cell.values, cell.mean, number(cell), row.oracle, search_text(row))
