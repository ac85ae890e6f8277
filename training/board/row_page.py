"""A page for each row of the leaderboard: curves, histograms, forgery methods, calibration, and where it all came from.

Numbers are from the result files. What is drawn of single scores is from the score tables beside them; where they are
missing or of other frames the page is made without, and says so.
"""

import json
from collections.abc import Sequence
from html import escape
from statistics import NormalDist

from resproto_fd.configs.errors import UserError
from resproto_fd.training.board import charts, curves
from resproto_fd.training.board.page_parts import (
    INDEX,
    NOT_STORED,
    backbone,
    count,
    facts,
    fidelity,
    input_size,
    metric_cell,
    note,
    page,
    rate_cell,
    recipe,
    row_page,
    search_text,
    small_table,
    text_cell,
    value_cell,
)
from resproto_fd.training.board.table import METRICS, Cell, Row, Section
from resproto_fd.training.board.ties import stored_scores
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
    missing = [name for name in section.test_sets if name in run.tests and name not in tables]
    warning = ""
    if missing:
        warning = note(
            f"No score table of {escape(', '.join(missing))} beside the result file of seed {run.seed}, or "
            "one of other "
            "frames or weights: curves, histograms, calibration and score shift are drawn without."
        )
    sub = f"{row.name} · {section.protocol} · {count(len(row.runs), 'seed')} · {row.selection}"
    parts = [
        ("facts", "What it is", _facts(section, row)),
        ("numbers", "Numbers with 95 % intervals", _estimates(section, row)),
        ("curves", "ROC and DET curves", _curves(tables, run)),
        ("scores", "Scores of real and fake frames", _histograms(tables)),
        ("methods", "Forgery methods", _method_bars(tables) + _methods(section, row)),
        ("shift", "Score shift", _shift(section, run)),
        ("calibration", "Calibration", _reliability(tables)),
        ("robustness", "Robustness", _robustness(row)),
        ("old", "DeepfakeBench's metrics", _old_metrics(tables)),
        ("variants", "Other scores of the same frames", _variants(section, row)),
        ("runs", "Every run", _runs_table(section, row)),
        ("config", "Configuration", _config(row)),
    ]
    parts = [part for part in parts if part[2]]
    contents = "".join(f"<li><a href='#{name}'>{title}</a></li>" for name, title, _ in parts)
    body = "".join(
        f"<section id='{name}' aria-labelledby='h-{name}'><h2 id='h-{name}'>{title}</h2>{html}</section>"
        for name, title, html in parts
    )
    tags = "".join(
        f"<span class='tag'>{escape(text)}</span>"
        for text in (
            "oracle" if row.oracle else "",
            "control" if row.control else "",
            run.source if run.source != "measured" else "",
        )
        if text
    )
    return page(
        f"{run.title}: {section.protocol}",
        f"<main id='content' class='row' data-name='{search_text(row)}'><p class='soft'><a "
        f"href='../{INDEX}'>Leaderboard"
        f"</a> › {escape(section.protocol)}</p><h1>{escape(run.title)}{tags}</h1><p class='soft'>{escape(sub)}</p>"
        f"{warning}<nav aria-label='On this page'><ul class='contents'>{contents}</ul></nav>{body}</main>",
        row_page(section, row),
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


def _facts(section: Section, row: Row) -> str:
    run = row.first
    badge, deviations = fidelity(run)
    size = input_size(run)
    return facts(
        {
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
    )


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


def _estimates(section: Section, row: Row) -> str:
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
        return "<p class='soft'>Not stored in this result file: it is from an older version.</p>"
    if len(row.runs) > 1:
        over = [row.limits(name, "frame_auc") for name in sets]
        lines.insert(0, (["Frame AUC, mean over seeds"], [_pair_cell(row.cell(n, "frame_auc").mean, o)
                                                           for n, o in zip(sets, over)]))  # fmt: skip
    about = (
        f"<p class='soft'>Of seed {run.seed}. Intervals respect that frames of one video, and videos of one "
        "source, are "
        "not independent; that of a mean over seeds also holds what other seeds would give.</p>"
    )
    return about + small_table(["Metric", *sets], lines, "Every metric with its 95 % interval", texts=1)


def _estimate_cell(found) -> str:
    if found is None or found.value is None:
        return rate_cell(None)
    return _pair_cell(found.value, None if found.low is None else (found.low, found.high))


def _pair_cell(value: float | None, limits: tuple[float, float] | None) -> str:
    if value is None:
        return rate_cell(None)
    small = "" if limits is None else f"<small class='ci'>{limits[0]:.3f}–{limits[1]:.3f}</small>"
    return f"<td data-v='{value!r}'>{value:.3f}{small}</td>"


def _curves(tables: dict[str, ScoreTable], run: RunResult) -> str:
    found = {name: curves.curves(table).roc for name, table in tables.items()}
    found = {name: points for name, points in found.items() if points}
    if not found:
        return ""
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

    drawn = charts.line_chart(
        "ROC", roc, charts.tenths("false positive rate"), charts.tenths("true positive rate"), diagonal=True
    ) + charts.line_chart("DET", det, probit("false alarms (FPR)"), probit("misses (1 − TPR)"))
    return (
        f"<p class='soft'>Frames of seed {run.seed}, a line a test set. Both axes of the DET curve are in normal "
        f"deviates, which makes straight lines of normally distributed scores.</p><div class='charts'>{drawn}</div>"
    )


def _histograms(tables: dict[str, ScoreTable]) -> str:
    out = ""
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
        out += charts.line_chart(name, series, charts.tenths("score, P(fake)"), axis)
    return f"<div class='charts'>{out}</div>" if out else ""


def _method_bars(tables: dict[str, ScoreTable]) -> str:
    out = ""
    for name, table in tables.items():
        found = {method: each["frame_auc"] for method, each in method_auc_intervals(table).items()}
        bars = [
            charts.Bar(method, each.value, each.low, each.high)
            for method, each in found.items()
            if each.value is not None
        ]
        out += charts.bar_chart(f"Frame AUC by forgery method on {name}", bars, low=0.4, chance=0.5)
    if not out:
        return ""
    legend = "<p class='soft'>The line is the 95 % interval, dashed is chance. Bars begin at 0.4, or below.</p>"
    return f"<div class='charts'>{out}</div>{legend}"


def _methods(section: Section, row: Row) -> str:
    out = []
    for name in section.test_sets:
        tests = [run.tests[name] for run in row.runs if name in run.tests]
        methods = sorted({method for test in tests for method in test.per_method})
        lines = []
        for method in methods:
            found = [test.per_method[method] for test in tests if method in test.per_method]
            fakes = found[0].frames - found[0].real_frames
            start = [method, found[0].forgery_type, f"{fakes:,}", f"{found[0].real_frames:,}"]
            lines.append((start, [metric_cell(found, metric) for metric in DETAIL_METRICS]))
        if lines:
            heads = ["Method", "Type", "Fake frames", "Real frames", *(METRICS[m].title for m in DETAIL_METRICS)]
            table = small_table(heads, lines, f"By forgery method on {name}")
            out.append(f"<h3>By forgery method on {escape(name)}</h3>{table}")
    if out:
        out.insert(0, "<p class='soft'>Each method's fakes against all reals of the same test set, over seeds.</p>")
    return "".join(out)


_RULES = {"eer": "as many false alarms as misses", "fpr_5": "5 % false alarms"}


def _shift(section: Section, run: RunResult) -> str:
    """How one threshold fares on other sets, and whether scores of different sets can be compared."""
    out = []
    sets = [name for name in section.test_sets if name in run.tests]
    for rule, words in _RULES.items():
        found = {name: run.tests[name].transfer[rule] for name in sets if rule in run.tests[name].transfer}
        if found:
            threshold = next(iter(found.values())).threshold
            lines = [([name], [rate_cell(each.fpr), rate_cell(each.tpr)]) for name, each in found.items()]
            title = f"Threshold {threshold:.3f}, fixed at {words} on the split of the selection"
            heads = ["Test set", "False positive rate", "True positive rate"]
            out.append(f"<h3>{escape(title)}</h3>{small_table(heads, lines, title, texts=1)}")
    if not out:
        out.append("<p class='soft'>Thresholds carried over from the split of the selection: not stored.</p>")
    if len(run.cross_auc) > 1:
        names = [name for name in sets if any(name in by for by in run.cross_auc.values())]
        lines = [
            ([f"reals of {real}"], [rate_cell(by.get(name), strong=name == real) for name in names])
            for real, by in sorted(run.cross_auc.items())
        ]
        pooled = "undefined" if run.pooled_auc is None else f"{run.pooled_auc:.3f}"
        heads = ["", *(f"fakes of {name}" for name in names)]
        out.append(
            f"<h3>Reals of one set against fakes of another</h3><p>Frame AUC of all test sets as one: <b>{pooled}</b>. "
            "Where a number below is far from the bold ones, scores of the two sets do not mean the same.</p>"
            + small_table(heads, lines, "Cross AUC", texts=1)
        )
    return "".join(out)


def _reliability(tables: dict[str, ScoreTable]) -> str:
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
    if not chart:
        return ""
    about = "Scores that are probabilities lie on the dashed line; a test set's share of fakes moves its line."
    return f"<p class='soft'>{about}</p><div class='charts'>{chart}</div>"


def _robustness(row: Row) -> str:
    """Frame AUC under corruptions by severity, the mean over seeds, with the mean over corruptions as a last line."""
    out = []
    for name in sorted({name for run in row.runs for name in run.robustness}):
        runs = [run for run in row.runs if name in run.robustness]
        clean = [run.tests[name].frame_auc for run in runs]
        levels = sorted({level for run in runs for by in run.robustness[name].values() for level in by})
        lines, curves = [], {}
        for corruption in sorted({each for run in runs for each in run.robustness[name]}):
            cells = [Cell(tuple(clean)) if None not in clean else Cell(reason="undefined")]
            for level in levels:
                found = [run.robustness[name].get(corruption, {}).get(level) for run in runs]
                values = [each.frame_auc for each in found if each is not None and each.frame_auc is not None]
                cells.append(Cell(tuple(values)) if len(values) == len(runs) else Cell(reason="not run"))
            curves[corruption] = [cell.mean for cell in cells]
            lines.append(([corruption], [value_cell(cell) for cell in cells]))
        mean = [sum(column) / len(column) if None not in column else None for column in zip(*curves.values())]
        lines.append((["mean"], [value_cell(Cell(() if value is None else (value,), "not run")) for value in mean]))
        title = f"Frame AUC under corruptions on {name}"
        heads = ["Corruption", "clean", *(f"severity {level}" for level in levels)]
        series = [
            charts.Series(
                corruption,
                points := [(i, value) for i, value in enumerate(values) if value is not None],
                [f"severity {['clean', *levels][i]}: {value:.3f}" for i, value in points],
            )
            for corruption, values in [*curves.items(), ("mean", mean)]
        ]
        low = min([0.4, *(int(y * 10) / 10 for one in series for _, y in one.points)])
        x = charts.Axis("severity", list(enumerate(["0", *levels])), 0, max(len(levels), 1))
        chart = charts.line_chart(title, series, x, charts.tenths("frame AUC", low, 1.0), dots=True)
        out.append(f"<div class='charts'>{chart}</div>{small_table(heads, lines, title, texts=1)}")
    return "".join(out)


def _old_metrics(tables: dict[str, ScoreTable]) -> str:
    """DeepfakeBench's numbers beside ours, with what makes them differ."""
    if not tables:
        return ""
    from resproto_fd.training.measures.deepfakebench import explained

    lines = []
    for name, table in tables.items():
        for found in explained(table)[1]:
            cells = [rate_cell(found.deepfakebench), rate_cell(found.corrected), _difference_cell(found)]
            lines.append(([name, found.metric], [*cells, text_cell(found.cause or "the same")]))
    about = "What its evaluation would print for these scores, for comparison with old tables alone."
    heads = ["Test set", "Metric", "DeepfakeBench", "Corrected", "Difference", "Cause"]
    return f"<p class='soft'>{about}</p>" + small_table(heads, lines, "DeepfakeBench's metrics and ours")


def _difference_cell(found) -> str:
    if found.deepfakebench is None or found.corrected is None:
        return rate_cell(None)
    difference = found.deepfakebench - found.corrected
    return f"<td data-v='{difference!r}'>{difference:+.4f}</td>"


def _variants(section: Section, row: Row) -> str:
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
        return ""
    heads = ["Test set", "Score", *(METRICS[m].title for m in DETAIL_METRICS)]
    return small_table(heads, lines, "Other scores of the same frames")


def _runs_table(section: Section, row: Row) -> str:
    heads = ["Seed", "Test set", "Frames", "Videos", "Skipped", *(m.title for m in METRICS.values())]
    lines = []
    for run in row.runs:
        for name in section.test_sets:
            if name in run.tests:
                test = run.tests[name]
                counts = [run.seed, name, f"{test.frames:,}", f"{test.videos:,}", test.skipped]
                lines.append((counts, [metric_cell([test], metric) for metric in METRICS]))
    return small_table(heads, lines, "Every run of this row")


def _config(row: Row) -> str:
    flat = [_flat(run.config) for run in row.runs]
    keys = sorted({key for config in flat for key in config})
    differing = [key for key in keys if len({config.get(key) for config in flat}) > 1]
    differs = f"<p class='soft'>Differs between these runs: {escape(', '.join(differing))}.</p>" if differing else ""
    text = json.dumps(row.first.config, indent=2, sort_keys=True, ensure_ascii=False)
    return (
        f"<details><summary>Resolved configuration of seed {row.first.seed}</summary>{differs}"
        f"<pre tabindex='0'>{escape(text)}</pre></details>"
    )


def _flat(value, prefix: str = "") -> dict[str, str]:
    """{"model.lr": "5e-07"} of {"model": {"lr": 5e-7}}."""
    if not isinstance(value, dict):
        return {prefix: json.dumps(value)}
    found = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{prefix}.{key}" if prefix else key)
    return found
