"""The tables of a row's page, from its result files and score tables."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from resproto_fd.training.board import charts
from resproto_fd.training.board.cells import (
    NOT_ESTIMABLE,
    CellView,
    TableView,
    difference_cell,
    interval_cell,
    limits_text,
    metric_cell,
    rate_cell,
    small_table,
    text_cell,
    value_cell,
)
from resproto_fd.training.board.limits import Limits, corrupted_limits, rate_limits
from resproto_fd.training.board.part_limits import (
    MOST,
    TOO_MANY,
    PartLimits,
    TooManyFrames,
    method_limits,
    variant_limits,
)
from resproto_fd.training.board.table import METRICS, Cell, Row, Section
from resproto_fd.training.calibration import calibration_of
from resproto_fd.training.measures.calibration import KINDS
from resproto_fd.training.measures.deepfakebench import CLIPS_ARE_FRAMES, explained
from resproto_fd.training.measures.groups import METRICS as GROUP_METRICS
from resproto_fd.training.measures.groups import Grouping, group_metrics
from resproto_fd.training.measures.shift import across_intervals
from resproto_fd.training.results import BY_CLIPS, RunResult
from resproto_fd.training.scores import ScoreTable

DETAIL_METRICS = {
    "frame": ("frame_auc", "frame_ap", "frame_eer", "frame_acc", "video_auc", "video_eer"),
    "video": ("video_auc", "video_ap", "video_eer", "video_acc"),
}
"""Metrics of parts of a test set, by `RunResult.level`."""
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
            found = [row.checked.of(run, name).get(f"{level}_{short}") for name in sets]
            if any(each is not None for each in found):
                lines.append(([f"{level.capitalize()} {title}"], list(map(_estimate_cell, found))))
    if not lines:
        return None
    if len(row.runs) > 1:
        over = [
            ([f"{metric.title}, mean over seeds"], [_mean_cell(row, name, metric.name) for name in sets])
            for metric in METRICS.values()
            if metric.level == "video" or not row.by_clips
        ]
        lines = over + lines
    return small_table(["Metric", *sets], lines, "Every metric with its 95 % interval", texts=1)


def _mean_cell(row: Row, test_set: str, metric: str) -> CellView:
    return interval_cell(row.cell(test_set, metric).mean, row.limits(test_set, metric))


def _estimate_cell(found) -> CellView:
    if found is None or found.value is None:
        return rate_cell(None)
    return interval_cell(found.value, (found.low, found.high))


def method_tables(section: Section, row: Row, tables: Mapping[str, ScoreTable]) -> list[TableView]:
    """Metrics of each forgery method over seeds, a table for each test set, the lowest AUC first."""
    heads = ["Method", "Type", "Fake frames", "Real frames", *(METRICS[m].title for m in _details(row))]
    lines = {name: _method_lines(row, name, tables.get(name)) for name in section.test_sets}
    return [small_table(heads, found, f"By forgery method on {name}") for name, found in lines.items() if found]


def _method_lines(row: Row, test_set: str, table: ScoreTable | None) -> list[tuple]:
    limits, why = _part_limits(method_limits, row, test_set, table)
    tests = [run.tests[test_set] for run in row.runs if test_set in run.tests]
    methods = {
        method: [test.per_method[method] for test in tests if method in test.per_method]
        for method in sorted({method for test in tests for method in test.per_method})
    }

    def order(method: str) -> float:
        values = [getattr(each, row.auc) for each in methods[method]]
        return 2.0 if None in values else statistics.fmean(values)

    lines = []
    for method in sorted(methods, key=order):
        found = methods[method]
        fakes = found[0].frames - found[0].real_frames
        start = [method, found[0].forgery_type, f"{fakes:,}", f"{found[0].real_frames:,}"]
        lines.append((start, _detail_cells(_details(row), found, limits.get(method, {}), why)))
    return lines


def _details(row: Row) -> tuple[str, ...]:
    return DETAIL_METRICS[row.first.level]


def _part_limits(make, row: Row, test_set: str, table: ScoreTable | None) -> tuple[PartLimits, str]:
    """Limits of the parts of a test set over the row's runs that have it, and why there are none, if they are many.

    Without the first run's score table there are none.
    """
    runs = [run for run in row.runs if test_set in run.tests]
    if table is None or not runs or runs[0] is not row.first:
        return {}, ""
    try:
        return make(runs, test_set, _details(row), row.reader, table), ""
    except TooManyFrames:
        return {}, TOO_MANY


def _detail_cells(metrics: Sequence[str], found: list, limits: Mapping[str, tuple], why_none: str) -> list[CellView]:
    return [metric_cell(found, metric, limits_text(limits.get(metric)), why_none) for metric in metrics]


def group_tables(row: Row, tables: dict[str, ScoreTable], groups: Mapping[str, Mapping[str, str]]) -> list[TableView]:
    """AUC and EER of groups of videos on each test set, and the largest gap; a table for each fact.

    Args:
        row: The row.
        tables: Score tables of its first run, by test set.
        groups: Each video's value, by fact and video id.
    """
    found = []
    for column, facts in groups.items():
        lines = []
        for name, table in tables.items():
            if any(video in facts for video in table.videos.tolist()):
                lines += _group_lines(name, group_metrics(table, facts, clusters=row.reader.of_video(table)))
        if lines:
            level = row.first.level.capitalize()
            heads = ["Test set", column, "Real videos", "Fake videos", f"{level} AUC", f"{level} EER"]
            found.append(small_table(heads, lines, f"By {column}"))
    return found


def _group_lines(test_set: str, grouping: Grouping) -> list[tuple]:
    lines = []
    for group in grouping.groups:
        estimates = [group.estimates.get(metric) for metric in GROUP_METRICS]
        cells = [
            text_cell(NOT_ESTIMABLE) if each is None else interval_cell(each.value, (each.low, each.high))
            for each in estimates
        ]
        reals = f"{group.real_videos}{' (all)' * grouping.all_reals}"
        lines.append(([test_set, group.name, reals, group.fake_videos], cells))
    if grouping.gaps:
        gaps = [grouping.gaps[metric] for metric in GROUP_METRICS]
        names = "; ".join(
            f"{metric.upper()}: {gap.highest} above {gap.lowest}" for metric, gap in grouping.gaps.items()
        )
        cells = [interval_cell(gap.value, (gap.low, gap.high)) for gap in gaps]
        lines.append(([test_set, f"largest gap ({names})", "", ""], cells))
    if grouping.unknown:
        lines.append(([test_set, f"not known: {grouping.unknown} videos", "", ""], [text_cell(""), text_cell("")]))
    return lines


def shift(section: Section, row: Row, tables: dict[str, ScoreTable]) -> dict[str, Any] | None:
    """What one threshold gives on other test sets, and whether the scores of two sets can be compared.

    None for a row of clips: all of this is of scores of frames.

    Args:
        section: The row's table.
        row: The row.
        tables: Score tables of its first run, by test set.
    """
    if row.by_clips:
        return None
    run = row.first
    sets, thresholds = [name for name in section.test_sets if name in run.tests], []
    for rule, words in _RULES.items():
        found = {name: run.tests[name].transfer[rule] for name in sets if rule in run.tests[name].transfer}
        if found:
            threshold = next(iter(found.values())).threshold
            with_acc = all(each.acc is not None for each in found.values())
            lines = [([name], _transfer_cells(row, name, rule, with_acc)) for name in found]
            title = f"Threshold {threshold:.3f}, set {words} on the selection split"
            heads = ["Test set", "False positive rate", "True positive rate", "Accuracy"]
            thresholds.append(small_table(heads[: 3 + with_acc], lines, title, texts=1))
    cross, pooled = None, "undefined" if run.pooled_auc is None else f"{run.pooled_auc:.3f}"
    if len(run.cross_auc) > 1:
        names = [name for name in sets if any(name in by for by in run.cross_auc.values())]
        all_sets, limits, why = _across_limits(run, tables)
        pooled += f" ({why or limits_text(all_sets)})" if run.pooled_auc is not None and (why or all_sets) else ""
        lines = []
        for real, by in sorted(run.cross_auc.items()):
            cells = [interval_cell(by.get(n), limits.get((real, n)), strong=n == real) for n in names]
            lines.append(([f"reals of {real}"], [replace(cell, tip=why) if why else cell for cell in cells]))
        cross = small_table(["", *(f"fakes of {name}" for name in names)], lines, "Cross AUC", texts=1)
    return {"thresholds": thresholds, "cross": cross, "pooled": pooled}


def _across_limits(
    run: RunResult, tables: dict[str, ScoreTable]
) -> tuple[Limits | None, dict[tuple[str, str], Limits], str]:
    """Limits of the pooled AUC, those of the cross AUCs by sets of the reals and of the fakes, and why there are none.

    None, and none, without the score tables of all test sets.
    """
    if tables.keys() != run.tests.keys():
        return None, {}, ""
    if len(tables) * sum(len(table.label) for table in tables.values()) > MOST:
        return None, {}, TOO_MANY
    pooled, cross = across_intervals(tables)
    found = {(real, fake): (one.low, one.high) for real, by in cross.items() for fake, one in by.items()}
    return (pooled.low, pooled.high), found, ""


def _transfer_cells(row: Row, test_set: str, rule: str, with_acc: bool) -> list[CellView]:
    given, limits = row.first.tests[test_set].transfer[rule], rate_limits(row.first, test_set, rule, row.reader)
    values = [given.fpr, given.tpr, given.acc][: 2 + with_acc]
    return [interval_cell(value, each) for value, each in zip(values, limits)]


def robustness(row: Row) -> list[dict[str, Any]]:
    """AUC of frames, or of clips' videos, under corruptions by severity, as a chart and a table for each test set."""
    return [_robust(row, name) for name in sorted({name for run in row.runs for name in run.robustness})]


def _robust(row: Row, test_set: str) -> dict[str, Any]:
    """The mean over seeds, with the mean over corruptions as a last line."""
    runs = [run for run in row.runs if test_set in run.robustness]
    levels = sorted({level for run in runs for by in run.robustness[test_set].values() for level in by})
    lines, means = [], {}
    for corruption in sorted({each for run in runs for each in run.robustness[test_set]}):
        cells = _severity_cells(runs, row.auc, test_set, corruption, levels)
        means[corruption] = [cell.mean for cell in cells]
        limits = [row.limits(test_set, row.auc) if len(runs) == len(row.runs) else None]
        limits += [corrupted_limits(runs, test_set, [corruption], level, row.reader) for level in levels]
        lines.append(([corruption], [value_cell(c, limits=limits_text(each)) for c, each in zip(cells, limits)]))
    mean = [sum(column) / len(column) if None not in column else None for column in zip(*means.values())]
    limits = [None, *(corrupted_limits(runs, test_set, list(means), level, row.reader) for level in levels)]
    cells = [Cell(() if value is None else (value,), "not run") for value in mean]
    lines.append((["mean"], [value_cell(c, limits=limits_text(each)) for c, each in zip(cells, limits)]))
    title = f"{METRICS[row.auc].title} under corruptions on {test_set}"
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
    chart = charts.line_chart(title, series, x, charts.tenths(f"{row.first.level} AUC", low, 1.0), dots=True)
    return {"chart": chart, "table": small_table(heads, lines, title, texts=1)}


def _severity_cells(runs: list[RunResult], auc: str, test_set: str, corruption: str, levels: list[str]) -> list[Cell]:
    """AUC on clean frames, then at each severity."""
    clean = [getattr(run.tests[test_set], auc) for run in runs]
    cells = [Cell(tuple(clean)) if None not in clean else Cell(reason="undefined")]
    for level in levels:
        found = [run.robustness[test_set].get(corruption, {}).get(level) for run in runs]
        values = [value for each in found if each is not None and (value := getattr(each, auc)) is not None]
        cells.append(Cell(tuple(values)) if len(values) == len(runs) else Cell(reason="not run"))
    return cells


def calibration(section: Section, row: Row) -> TableView | None:
    """Calibration errors of the first run's frames, or of clips' videos, before and after its calibration; None if it
    has none."""
    found = calibration_of(row.first)
    if found is None or row.first.level not in found.levels:
        return None
    level, lines = found.levels[row.first.level], []
    split = {"before": level.before, **level.held_out}
    for name, errors in {f"{found.dataset} {found.split}, held out": split, **level.tests}.items():
        if name in level.tests and name not in section.test_sets:
            continue
        shown = [errors.get(kind) for kind in ("before", *KINDS)]
        pairs = [(each and each.ece, each and each.brier) for each in shown]
        lines.append(([name], [rate_cell(value) for pair in pairs for value in pair]))
    heads = [f"{what}, {kind}" for kind in ("before", *KINDS) for what in ("ECE", "Brier")]
    return small_table([f"{row.first.level.capitalize()}s of", *heads], lines, "Calibration before and after", texts=1)


def thresholds(row: Row) -> TableView | None:
    """The first run's thresholds for stated shares of false alarms, with what they do; None without a calibration."""
    found, lines = calibration_of(row.first), []
    if found is None:
        return None
    for level, given in found.levels.items():
        for rate, each in given.thresholds.items():
            shown = [(part.value, (part.low, part.high)) for part in (each.false_alarms, each.misses)]
            cells = [rate_cell(each.threshold), *(interval_cell(*part) for part in shown)]
            lines.append(([f"{level}s", f"{float(rate):.0%}"], cells))
    heads = ["Of", "False alarms asked for", "Threshold", "False alarms", "Misses"]
    return small_table(heads, lines, f"Thresholds set on {found.dataset} {found.split}")


def old_metrics(tables: dict[str, ScoreTable]) -> TableView | None:
    """DeepfakeBench's numbers beside ours, with the cause of each difference; None without score tables."""
    if not tables:
        return None
    lines = []
    for name, table in tables.items():
        for found in explained(table)[1]:
            cells = [rate_cell(found.deepfakebench), rate_cell(found.corrected), _difference(found)]
            if found.cause == CLIPS_ARE_FRAMES:
                cells[1:] = [value_cell(Cell(reason=BY_CLIPS))] * 2
            lines.append(([name, found.metric], [*cells, text_cell(found.cause or "the same")]))
    heads = ["Test set", "Metric", "DeepfakeBench", "Corrected", "Difference", "Cause"]
    return small_table(heads, lines, "DeepfakeBench's metrics and ours")


def _difference(found) -> CellView:
    if found.deepfakebench is None or found.corrected is None:
        return rate_cell(None)
    return difference_cell(found.deepfakebench - found.corrected, digits=4)


def variants(section: Section, row: Row, tables: Mapping[str, ScoreTable]) -> TableView | None:
    """Metrics of every score that the detector gave the same frames; None if it gave one."""
    lines, metrics = [], _details(row)
    for name in section.test_sets:
        tests = [run.tests[name] for run in row.runs if name in run.tests]
        names = sorted({variant for test in tests for variant in test.variants})
        alone = [test.over_answered for test in tests if test.over_answered is not None]
        limits, why = _part_limits(variant_limits, row, name, tables.get(name))
        if names or alone:
            main = {metric: row.limits(name, metric) for metric in metrics}
            lines.append(([name, "main"], _detail_cells(metrics, tests, main, "")))
        for variant in names:
            found = [test.variants[variant] for test in tests if variant in test.variants]
            lines.append(([name, variant], _detail_cells(metrics, found, limits.get(variant, {}), why)))
        if alone:
            unit = "clips" if row.by_clips else "frames"
            lines.append(([name, f"answered {unit} alone"], [metric_cell(alone, metric) for metric in metrics]))
    if not lines:
        return None
    heads = ["Test set", "Score", *(METRICS[metric].title for metric in metrics)]
    return small_table(heads, lines, f"Other scores of the same {'clips' if row.by_clips else 'frames'}")


def runs(section: Section, row: Row) -> TableView:
    """Every run on every test set."""
    of_clips = ["Clips", "Short videos"] if row.by_clips else []
    heads = ["Seed", "Test set", "Frames", "Videos", "Skipped", *of_clips, *(m.title for m in METRICS.values())]
    lines = []
    for run in row.runs:
        for name in section.test_sets:
            if name in run.tests:
                test = run.tests[name]
                counts = [run.seed, name, f"{test.frames:,}", f"{test.videos:,}", test.skipped]
                counts += [f"{test.clips:,}", test.short_videos] if of_clips else []
                found = row.checked.of(run, name)
                limits = {metric: (found[metric].low, found[metric].high) for metric in METRICS if metric in found}
                cells = [metric_cell([test], metric, limits_text(limits.get(metric))) for metric in METRICS]
                lines.append((counts, cells))
    return small_table(heads, lines, "Every run of this row")
