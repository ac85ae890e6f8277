"""The tables of a row's page, from its result files and score tables."""

from typing import Any

from resproto_fd.training.board import charts
from resproto_fd.training.board.cells import (
    CellView,
    TableView,
    difference_cell,
    interval_cell,
    metric_cell,
    rate_cell,
    small_table,
    text_cell,
    value_cell,
)
from resproto_fd.training.board.table import METRICS, Cell, Row, Section
from resproto_fd.training.measures.deepfakebench import explained
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ScoreTable

DETAIL_METRICS = ("frame_auc", "frame_ap", "frame_eer", "frame_acc", "video_auc", "video_eer")
FURTHER = {
    "auc": "AUC",
    "partial_auc": "Partial AUC",
    "ap": "AP",
    "eer": "EER",
    "tpr_at_fpr_1_in_100": "TPR at 1 % FPR",
    "tpr_at_fpr_1_in_1000": "TPR at 0.1 % FPR",
    "acc": "Accuracy",
    "balanced_acc": "Balanced accuracy",
    "ece": "Calibration error (ECE)",
    "brier": "Brier score",
}
"""Metrics with intervals, in the order of print."""
_RULES = {"eer": "where false alarms equal misses", "fpr_5": "at 5 % false alarms"}


def estimates(section: Section, row: Row) -> TableView | None:
    """Every metric of the first run with its interval; None if the result file is too old to hold them."""
    run = row.first
    sets = [name for name in section.test_sets if name in run.tests]
    lines = []
    for level in ("frame", "video"):
        for short, title in FURTHER.items():
            found = [run.tests[name].intervals.get(f"{level}_{short}") for name in sets]
            if any(each is not None for each in found):
                lines.append(([f"{level.capitalize()} {title}"], list(map(_estimate_cell, found))))
    if not lines:
        return None
    if len(row.runs) > 1:
        over = [interval_cell(row.cell(name, "frame_auc").mean, row.limits(name, "frame_auc")) for name in sets]
        lines.insert(0, (["Frame AUC, mean over seeds"], over))
    return small_table(["Metric", *sets], lines, "Every metric with its 95 % interval", texts=1)


def _estimate_cell(found) -> CellView:
    if found is None or found.value is None:
        return rate_cell(None)
    return interval_cell(found.value, None if found.low is None else (found.low, found.high))


def method_tables(section: Section, row: Row) -> list[TableView]:
    """Metrics of each forgery method over seeds, a table for each test set."""
    heads = ["Method", "Type", "Fake frames", "Real frames", *(METRICS[m].title for m in DETAIL_METRICS)]
    lines = {name: _method_lines(row, name) for name in section.test_sets}
    return [small_table(heads, found, f"By forgery method on {name}") for name, found in lines.items() if found]


def _method_lines(row: Row, test_set: str) -> list[tuple]:
    tests = [run.tests[test_set] for run in row.runs if test_set in run.tests]
    lines = []
    for method in sorted({method for test in tests for method in test.per_method}):
        found = [test.per_method[method] for test in tests if method in test.per_method]
        fakes = found[0].frames - found[0].real_frames
        start = [method, found[0].forgery_type, f"{fakes:,}", f"{found[0].real_frames:,}"]
        lines.append((start, [metric_cell(found, metric) for metric in DETAIL_METRICS]))
    return lines


def shift(section: Section, run: RunResult) -> dict[str, Any]:
    """What one threshold gives on other test sets, and whether the scores of two sets can be compared."""
    sets, thresholds = [name for name in section.test_sets if name in run.tests], []
    for rule, words in _RULES.items():
        found = {name: run.tests[name].transfer[rule] for name in sets if rule in run.tests[name].transfer}
        if found:
            threshold = next(iter(found.values())).threshold
            lines = [([name], [rate_cell(each.fpr), rate_cell(each.tpr)]) for name, each in found.items()]
            title = f"Threshold {threshold:.3f}, set {words} on the selection split"
            heads = ["Test set", "False positive rate", "True positive rate"]
            thresholds.append(small_table(heads, lines, title, texts=1))
    cross, pooled = None, "undefined" if run.pooled_auc is None else f"{run.pooled_auc:.3f}"
    if len(run.cross_auc) > 1:
        names = [name for name in sets if any(name in by for by in run.cross_auc.values())]
        lines = [
            ([f"reals of {real}"], [rate_cell(by.get(name), strong=name == real) for name in names])
            for real, by in sorted(run.cross_auc.items())
        ]
        cross = small_table(["", *(f"fakes of {name}" for name in names)], lines, "Cross AUC", texts=1)
    return {"thresholds": thresholds, "cross": cross, "pooled": pooled}


def robustness(row: Row) -> list[dict[str, Any]]:
    """Frame AUC under corruptions by severity, as a chart and a table for each test set."""
    return [_robust(row, name) for name in sorted({name for run in row.runs for name in run.robustness})]


def _robust(row: Row, test_set: str) -> dict[str, Any]:
    """The mean over seeds, with the mean over corruptions as a last line."""
    runs = [run for run in row.runs if test_set in run.robustness]
    levels = sorted({level for run in runs for by in run.robustness[test_set].values() for level in by})
    lines, means = [], {}
    for corruption in sorted({each for run in runs for each in run.robustness[test_set]}):
        cells = _severity_cells(runs, test_set, corruption, levels)
        means[corruption] = [cell.mean for cell in cells]
        lines.append(([corruption], [value_cell(cell) for cell in cells]))
    mean = [sum(column) / len(column) if None not in column else None for column in zip(*means.values())]
    lines.append((["mean"], [value_cell(Cell(() if value is None else (value,), "not run")) for value in mean]))
    title = f"Frame AUC under corruptions on {test_set}"
    heads = ["Corruption", "clean", *(f"severity {level}" for level in levels)]
    series = [
        charts.Series(
            corruption,
            points := [(i, value) for i, value in enumerate(values) if value is not None],
            [f"severity {['clean', *levels][i]}: {value:.3f}" for i, value in points],
        )
        for corruption, values in [*means.items(), ("mean", mean)]
    ]
    low = min([0.4, *(int(y * 10) / 10 for one in series for _, y in one.points)])
    x = charts.Axis("severity", list(enumerate(["0", *levels])), 0, max(len(levels), 1))
    chart = charts.line_chart(title, series, x, charts.tenths("frame AUC", low, 1.0), dots=True)
    return {"chart": chart, "table": small_table(heads, lines, title, texts=1)}


def _severity_cells(runs: list[RunResult], test_set: str, corruption: str, levels: list[str]) -> list[Cell]:
    """Frame AUC on clean frames, then at each severity."""
    clean = [run.tests[test_set].frame_auc for run in runs]
    cells = [Cell(tuple(clean)) if None not in clean else Cell(reason="undefined")]
    for level in levels:
        found = [run.robustness[test_set].get(corruption, {}).get(level) for run in runs]
        values = [each.frame_auc for each in found if each is not None and each.frame_auc is not None]
        cells.append(Cell(tuple(values)) if len(values) == len(runs) else Cell(reason="not run"))
    return cells


def old_metrics(tables: dict[str, ScoreTable]) -> TableView | None:
    """DeepfakeBench's numbers beside ours, with the cause of each difference; None without score tables."""
    if not tables:
        return None
    lines = []
    for name, table in tables.items():
        for found in explained(table)[1]:
            cells = [rate_cell(found.deepfakebench), rate_cell(found.corrected), _difference(found)]
            lines.append(([name, found.metric], [*cells, text_cell(found.cause or "the same")]))
    heads = ["Test set", "Metric", "DeepfakeBench", "Corrected", "Difference", "Cause"]
    return small_table(heads, lines, "DeepfakeBench's metrics and ours")


def _difference(found) -> CellView:
    if found.deepfakebench is None or found.corrected is None:
        return rate_cell(None)
    return difference_cell(found.deepfakebench - found.corrected, digits=4)


def variants(section: Section, row: Row) -> TableView | None:
    """Metrics of every score that the detector gave the same frames; None if it gave one."""
    lines = []
    for name in section.test_sets:
        tests = [run.tests[name] for run in row.runs if name in run.tests]
        names = sorted({variant for test in tests for variant in test.variants})
        if names:
            lines.append(([name, "main"], [metric_cell(tests, metric) for metric in DETAIL_METRICS]))
        for variant in names:
            found = [test.variants[variant] for test in tests if variant in test.variants]
            lines.append(([name, variant], [metric_cell(found, metric) for metric in DETAIL_METRICS]))
    if not lines:
        return None
    heads = ["Test set", "Score", *(METRICS[m].title for m in DETAIL_METRICS)]
    return small_table(heads, lines, "Other scores of the same frames")


def runs(section: Section, row: Row) -> TableView:
    """Every run on every test set."""
    heads = ["Seed", "Test set", "Frames", "Videos", "Skipped", *(m.title for m in METRICS.values())]
    lines = []
    for run in row.runs:
        for name in section.test_sets:
            if name in run.tests:
                test = run.tests[name]
                counts = [run.seed, name, f"{test.frames:,}", f"{test.videos:,}", test.skipped]
                lines.append((counts, [metric_cell([test], metric) for metric in METRICS]))
    return small_table(heads, lines, "Every run of this row")
