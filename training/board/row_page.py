"""A page for each row of the leaderboard: curves, histograms, forgery methods, calibration, and where it all came from.

Numbers are from the result files. What is drawn of single scores is from the score tables beside them; where they are
missing or of other frames the page is made without, and says so.
"""

import json
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

from markupsafe import Markup

from resproto_fd.configs.errors import UserError
from resproto_fd.training.board import charts, curves
from resproto_fd.training.board.page_parts import (
    NOT_STORED,
    SmallTable,
    Td,
    backbone,
    count,
    fidelity,
    input_size,
    metric_cell,
    rate_cell,
    recipe,
    render_page,
    row_page,
    search_text,
    small_table,
    text_cell,
    value_cell,
)
from resproto_fd.training.board.table import METRICS, Cell, Row, Section
from resproto_fd.training.board.ties import stored_scores
from resproto_fd.training.measures.deepfakebench import explained
from resproto_fd.training.measures.intervals import method_auc_intervals
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
_PROBIT = NormalDist().inv_cdf


def render_row(section: Section, row: Row) -> str:
    """The page of one row."""
    run = row.first
    tables = stored_tables(row)
    parts = [
        ("facts", "What it is", _facts(section, row)),
        ("numbers", "Numbers with 95 % intervals", _estimates(section, row)),
        ("curves", "ROC and DET curves", _curves(tables, run)),
        ("scores", "Scores of real and fake frames", _histograms(tables)),
        ("methods", "Forgery methods", _methods(section, row, tables)),
        ("shift", "Score shift", _shift(section, run)),
        ("calibration", "Calibration", _reliability(tables)),
        ("robustness", "Robustness", _robustness(row)),
        ("old", "DeepfakeBench's metrics", _old_metrics(tables)),
        ("variants", "Other scores of the same frames", _variants(section, row)),
        ("runs", "Every run", _runs_table(section, row)),
        ("config", "Configuration", _config(row)),
    ]
    return render_page(
        "row.html",
        f"{run.title}: {section.protocol}",
        row_page(section, row),
        search=search_text(row),
        protocol=section.protocol,
        heading=run.title,
        row_tags=["oracle" * row.oracle, "control" * row.control, run.source if run.source != "measured" else ""],
        sub=f"{row.name} · {section.protocol} · {count(len(row.runs), 'seed')} · {row.selection}",
        seed=run.seed,
        missing=[name for name in section.test_sets if name in run.tests and name not in tables],
        parts=[{"name": name, "title": title, "data": data} for name, title, data in parts if data],
    )


def stored_tables(row: Row) -> dict[str, ScoreTable]:
    """Score tables of the row's first run by test set, without those that its numbers were not made of."""
    tables = {}
    for name in sorted(row.first.tests):
        try:
            tables[name] = stored_scores(row.first, name)
        except UserError:
            continue
    return tables


def _facts(section: Section, row: Row) -> list[tuple[str, str]]:
    run = row.first
    badge, deviations = fidelity(run)
    size = input_size(run)
    found = {
        "Detector": f"{run.detector}{f' (class {run.detector_class})' if run.detector_class else ''}",
        "Paper": run.paper,
        "Fidelity to the paper": badge or "not stated",
        "Deviations": "; ".join(deviations),
        "Changed from the preset": ", ".join(run.overrides),
        "Checkpoint": row.selection,
        "Chosen at": "; ".join(filter(None, (_chosen(run) for run in row.runs))),
        "Backbone": backbone(run),
        "Parameters": NOT_STORED
        if run.parameters is None
        else f"{run.parameters:,}"
        + ("" if run.trainable_parameters is None else f", {run.trainable_parameters:,} of them trained"),
        "FLOPs of one frame": NOT_STORED
        if run.compute.gflops is None
        else f"{run.compute.gflops:.3g} billion, two a multiply-add",
        "Input": f"{size} x {size} pixels" if size else NOT_STORED,
        "Training sets": _training_sets(run, section.train),
        "Training images seen": NOT_STORED if run.train_images is None else f"{run.train_images:,}",
        "Recipe": recipe(run),
        "Timing": "; ".join(_timing(run) for run in row.runs if run.timing),
        "Commit": ", ".join(dict.fromkeys(_commit(run) for run in row.runs)),
        "Versions": ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items())),
        "Fingerprint of the protocol": run.fingerprint,
        "Weights (SHA-256)": "; ".join(
            f"seed {run.seed}: {run.checkpoint_sha256}" for run in row.runs if run.checkpoint_sha256
        ),
        "Note": "; ".join(dict.fromkeys(run.note for run in row.runs if run.note)),
    }
    return list(found.items())


def _training_sets(run: RunResult, of_protocol: Sequence[str]) -> str:
    """Of given weights those that they were trained on, where it is known; else the protocol's."""
    if run.trained_on is not None:
        return ", ".join(run.trained_on)
    return NOT_STORED if run.selected_on.rule == "given" else ", ".join(of_protocol)


def _chosen(run: RunResult) -> str:
    epoch, value = run.selected_on.epoch, run.selected_on.value
    words = [f"epoch {epoch}" if epoch is not None else "", f"{value:.3f}" if value is not None else ""]
    words = " with ".join(filter(None, words))
    return words and f"seed {run.seed}: {words}"


def _timing(run: RunResult) -> str:
    return f"seed {run.seed}: " + ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in sorted(run.timing.items()))


def _commit(run: RunResult) -> str:
    return (run.commit or "not run from a git checkout")[:40] + (" with uncommitted changes" if run.dirty else "")


def _estimates(section: Section, row: Row) -> dict[str, Any]:
    """Every metric with its interval, of the first run; a column a test set."""
    run = row.first
    sets = [name for name in section.test_sets if name in run.tests]
    lines = []
    for level in ("frame", "video"):
        for short, title in FURTHER.items():
            found = [run.tests[name].intervals.get(f"{level}_{short}") for name in sets]
            if any(each is not None for each in found):
                lines.append(([f"{level.capitalize()} {title}"], list(map(_estimate_cell, found))))
    if not lines:
        return {"seed": run.seed, "table": None}
    if len(row.runs) > 1:
        over = [row.limits(name, "frame_auc") for name in sets]
        lines.insert(0, (["Frame AUC, mean over seeds"], [_pair_cell(row.cell(n, "frame_auc").mean, o)
                                                           for n, o in zip(sets, over)]))  # fmt: skip
    table = small_table(["Metric", *sets], lines, "Every metric with its 95 % interval", texts=1)
    return {"seed": run.seed, "table": table}


def _estimate_cell(found) -> Td:
    if found is None or found.value is None:
        return rate_cell(None)
    return _pair_cell(found.value, None if found.low is None else (found.low, found.high))


def _pair_cell(value: float | None, limits: tuple[float, float] | None) -> Td:
    if value is None:
        return rate_cell(None)
    shown = "" if limits is None else f"{limits[0]:.3f}–{limits[1]:.3f}"
    return Td(f"{value:.3f}", sort=repr(value), limits=shown)


def _curves(tables: dict[str, ScoreTable], run: RunResult) -> dict[str, Any] | None:
    found = {name: curves.curves(table).roc for name, table in tables.items()}
    found = {name: points for name, points in found.items() if points}
    if not found:
        return None
    roc = [
        charts.Series(name, points, [f"FPR {x:.3f}, TPR {y:.3f}" for x, y in points]) for name, points in found.items()
    ]
    det = []
    for name, points in found.items():
        inner = [(x, 1 - y) for x, y in points if 0 < x < 1 and 0 < y < 1]
        det.append(charts.Series(name, inner, [f"false alarms {x:.3f}, misses {y:.3f}" for x, y in inner]))
    rates = [(0.001, "0.1 %"), (0.01, "1 %"), (0.05, "5 %"), (0.2, "20 %"), (0.5, "50 %"), (0.9, "90 %")]

    def probit(title: str):
        return charts.Axis(title, rates, 0.001, 0.95, _PROBIT)

    fpr, tpr = charts.tenths("false positive rate"), charts.tenths("true positive rate")
    drawn = [
        charts.line_chart("ROC", roc, fpr, tpr, diagonal=True),
        charts.line_chart("DET", det, probit("false alarms (FPR)"), probit("misses (1 − TPR)")),
    ]
    return {"seed": run.seed, "charts": drawn}


def _histograms(tables: dict[str, ScoreTable]) -> list[Markup]:
    out = []
    for name, table in tables.items():
        found = curves.curves(table)
        width = 1 / curves.HISTOGRAM_BINS
        series = []
        for kind, shares in (("real", found.real), ("fake", found.fake)):
            if not any(shares):
                continue
            steps = [(edge, share) for i, share in enumerate(shares) for edge in (i * width, (i + 1) * width)]
            words = [
                f"score {i * width:.2f} to {(i + 1) * width:.2f}: {share:.3f} of the {kind} frames"
                for i, share in enumerate(shares)
                for _ in range(2)
            ]
            series.append(charts.Series(kind, steps, words))
        high = max(0.2, *(y for one in series for _, y in one.points))
        high = -(-high // 0.2) * 0.2
        ticks = [(i * high / 4, f"{i * high / 4:.2f}") for i in range(5)]
        axis = charts.Axis("share of frames", ticks, 0, high)
        out.append(charts.line_chart(name, series, charts.tenths("score, P(fake)"), axis))
    return out


def _methods(section: Section, row: Row, tables: dict[str, ScoreTable]) -> dict[str, Any] | None:
    drawn, shown = [], []
    for name, table in tables.items():
        found = {method: each["frame_auc"] for method, each in method_auc_intervals(table).items()}
        bars = [
            charts.Bar(method, each.value, each.low, each.high)
            for method, each in found.items()
            if each.value is not None
        ]
        drawn.append(charts.bar_chart(f"Frame AUC by forgery method on {name}", bars, low=0.4, chance=0.5))
    drawn = [chart for chart in drawn if chart]
    for name in section.test_sets:
        if lines := _method_lines(row, name):
            heads = ["Method", "Type", "Fake frames", "Real frames", *(METRICS[m].title for m in DETAIL_METRICS)]
            shown.append(small_table(heads, lines, f"By forgery method on {name}"))
    return {"charts": drawn, "tables": shown} if drawn or shown else None


def _method_lines(row: Row, test_set: str) -> list[tuple]:
    tests = [run.tests[test_set] for run in row.runs if test_set in run.tests]
    lines = []
    for method in sorted({method for test in tests for method in test.per_method}):
        found = [test.per_method[method] for test in tests if method in test.per_method]
        fakes = found[0].frames - found[0].real_frames
        start = [method, found[0].forgery_type, f"{fakes:,}", f"{found[0].real_frames:,}"]
        lines.append((start, [metric_cell(found, metric) for metric in DETAIL_METRICS]))
    return lines


_RULES = {"eer": "as many false alarms as misses", "fpr_5": "5 % false alarms"}


def _shift(section: Section, run: RunResult) -> dict[str, Any]:
    """How one threshold fares on other sets, and whether scores of different sets can be compared."""
    sets, thresholds = [name for name in section.test_sets if name in run.tests], []
    for rule, words in _RULES.items():
        found = {name: run.tests[name].transfer[rule] for name in sets if rule in run.tests[name].transfer}
        if found:
            threshold = next(iter(found.values())).threshold
            lines = [([name], [rate_cell(each.fpr), rate_cell(each.tpr)]) for name, each in found.items()]
            title = f"Threshold {threshold:.3f}, fixed at {words} on the split of the selection"
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


def _reliability(tables: dict[str, ScoreTable]) -> list[Markup]:
    series = []
    for name, table in tables.items():
        bins = curves.curves(table).reliability
        words = [f"mean score {x:.3f}, {y:.3f} of {n:,} frames fake" for x, y, n in bins]
        series.append(charts.Series(name, [(x, y) for x, y, _ in bins], words))
    chart = charts.line_chart(
        "Reliability",
        series,
        charts.tenths("mean score of the bin"),
        charts.tenths("share of fakes"),
        diagonal=True,
        dots=True,
    )
    return [chart] if chart else []


def _robustness(row: Row) -> list[tuple[Markup, SmallTable]]:
    """Frame AUC under corruptions by severity, as a chart and a table for each test set."""
    return [_robust(row, name) for name in sorted({name for run in row.runs for name in run.robustness})]


def _robust(row: Row, test_set: str) -> tuple[Markup, SmallTable]:
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
    return chart, small_table(heads, lines, title, texts=1)


def _severity_cells(runs: list[RunResult], test_set: str, corruption: str, levels: list[str]) -> list[Cell]:
    """Frame AUC on clean frames, then at each severity."""
    clean = [run.tests[test_set].frame_auc for run in runs]
    cells = [Cell(tuple(clean)) if None not in clean else Cell(reason="undefined")]
    for level in levels:
        found = [run.robustness[test_set].get(corruption, {}).get(level) for run in runs]
        values = [each.frame_auc for each in found if each is not None and each.frame_auc is not None]
        cells.append(Cell(tuple(values)) if len(values) == len(runs) else Cell(reason="not run"))
    return cells


def _old_metrics(tables: dict[str, ScoreTable]) -> SmallTable | None:
    """DeepfakeBench's numbers beside ours, with what makes them differ."""
    if not tables:
        return None
    lines = []
    for name, table in tables.items():
        for found in explained(table)[1]:
            cells = [rate_cell(found.deepfakebench), rate_cell(found.corrected), _difference_cell(found)]
            lines.append(([name, found.metric], [*cells, text_cell(found.cause or "the same")]))
    heads = ["Test set", "Metric", "DeepfakeBench", "Corrected", "Difference", "Cause"]
    return small_table(heads, lines, "DeepfakeBench's metrics and ours")


def _difference_cell(found) -> Td:
    if found.deepfakebench is None or found.corrected is None:
        return rate_cell(None)
    difference = found.deepfakebench - found.corrected
    return Td(f"{difference:+.4f}", sort=repr(difference))


def _variants(section: Section, row: Row) -> SmallTable | None:
    lines = []
    for name in section.test_sets:
        tests = [run.tests[name] for run in row.runs if name in run.tests]
        variants = sorted({variant for test in tests for variant in test.variants})
        if variants:
            lines.append(([name, "main"], [metric_cell(tests, metric) for metric in DETAIL_METRICS]))
        for variant in variants:
            found = [test.variants[variant] for test in tests if variant in test.variants]
            lines.append(([name, variant], [metric_cell(found, metric) for metric in DETAIL_METRICS]))
    if not lines:
        return None
    heads = ["Test set", "Score", *(METRICS[m].title for m in DETAIL_METRICS)]
    return small_table(heads, lines, "Other scores of the same frames")


def _runs_table(section: Section, row: Row) -> SmallTable:
    heads = ["Seed", "Test set", "Frames", "Videos", "Skipped", *(m.title for m in METRICS.values())]
    lines = []
    for run in row.runs:
        for name in section.test_sets:
            if name in run.tests:
                test = run.tests[name]
                counts = [run.seed, name, f"{test.frames:,}", f"{test.videos:,}", test.skipped]
                lines.append((counts, [metric_cell([test], metric) for metric in METRICS]))
    return small_table(heads, lines, "Every run of this row")


def _config(row: Row) -> dict[str, Any]:
    flat = [_flat(run.config) for run in row.runs]
    keys = sorted({key for config in flat for key in config})
    differing = [key for key in keys if len({config.get(key) for config in flat}) > 1]
    text = json.dumps(row.first.config, indent=2, sort_keys=True, ensure_ascii=False)
    return {"seed": row.first.seed, "differing": ", ".join(differing), "text": text}


def _flat(value, prefix: str = "") -> dict[str, str]:
    """{"model.lr": "5e-07"} of {"model": {"lr": 5e-7}}."""
    if not isinstance(value, dict):
        return {prefix: json.dumps(value)}
    found = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{prefix}.{key}" if prefix else key)
    return found
