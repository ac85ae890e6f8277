"""The leaderboard as one HTML file: no network, no library, everything that came from outside escaped.

Ranks, best values and order are decided in `leaderboard`; the page's script only sorts, filters and switches.
"""

import base64
import hashlib
import json
import re
from html import escape
from importlib.resources import files

from resproto_fd.training.leaderboard import (
    DIGITS,
    METRICS,
    TIE,
    TIE_RULE,
    Cell,
    Line,
    Problem,
    Row,
    Section,
    fingerprint_warnings,
    number,
)
from resproto_fd.training.published_board import published_lines
from resproto_fd.training.results import RunResult

FIRST_METRIC = "frame_auc"
DETAIL_METRICS = ("frame_auc", "frame_ap", "frame_eer", "frame_acc", "video_auc", "video_eer")


def render(sections: list[Section], problems: list[Problem]) -> str:
    """The whole page.

    Args:
        sections: One table each.
        problems: Result files that are left out; the page names them.
    """
    template = files("resproto_fd.training").joinpath("leaderboard.html").read_text(encoding="utf-8")
    parts = {
        "policy": _policy(template),
        "intro": _intro(sections, problems),
        "controls": _controls(sections),
        "content": "\n".join(_section(section, i) for i, section in enumerate(sections)),
        "footer": "<p>Made by <code>resproto leaderboard</code> from result files alone; the same files give the same "
        "page. Every digit is in <code>leaderboard.csv</code>.</p>",
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template)


def _policy(template: str) -> str:
    """Content security policy: nothing is fetched, and only the template's own scripts run."""
    scripts = re.findall(r"<script>(.*?)</script>", template, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}"


def _intro(sections: list[Section], problems: list[Problem]) -> str:
    rows = [row for section in sections for row in section.rows]
    runs = sum(len(row.runs) for row in rows)
    detectors = len({row.first.detector for row in rows})
    out = [
        "<h1>Face-forgery leaderboard</h1>",
        f"<p class='soft'>{_count(runs, 'run')} of {_count(detectors, 'detector')}. Rates are in [0, 1]; ± is the "
        "standard deviation over seeds. A row's rank is that of its mean over the test sets nobody was trained on; "
        f"numbers equal to {DIGITS} decimals share it. The best of each column is bold; {escape(TIE_RULE)} Small "
        "figures below a number are its 95 % interval, which respects that frames of one video, and videos of one "
        "source, are not independent. Controls are there to be compared with, and are not ranked. A checkpoint "
        "chosen on a test set is marked as an oracle, stands below and is never ranked.</p>",
    ]
    out += [f"<div class='note' role='note'>{escape(text)}</div>" for text in fingerprint_warnings(sections)]
    if problems:
        items = "".join(f"<li><code>{escape(p.path)}</code>: {escape(p.reason)}</li>" for p in problems)
        title = f"{_count(len(problems), 'result file')} left out:"
        out.append(f"<div class='note' role='note' id='problems'>{title}<ul>{items}</ul></div>")
    return "".join(out)


def _controls(sections: list[Section]) -> str:
    radios = []
    for level in ("frame", "video"):
        options = "".join(
            f"<label title='{escape(metric.meaning)}'><input type='radio' name='metric' value='{name}'"
            f"{' checked' if name == FIRST_METRIC else ''} aria-label='{metric.title}'>"
            f"<span>{metric.title.split()[1]}</span></label>"
            for name, metric in METRICS.items()
            if metric.level == level
        )
        legend = f"<legend>{level.capitalize()}s</legend>"
        radios.append(f"<fieldset>{legend}<span class='segment'>{options}</span></fieldset>")
    protocols = "".join(
        f"<option value='s{i}'>{escape(section.protocol)} ({escape(section.fingerprint[:8])})</option>"
        for i, section in enumerate(sections)
    )
    names = sorted({name for section in sections for name in section.test_sets})
    sets = "".join(f"<option value='{escape(name)}'>{escape(name)}</option>" for name in names)
    everything = "<option value=''>all</option>"
    return (
        "".join(radios)
        + f"<label class='field'>Protocol <select id='protocol'>{everything}{protocols}</select></label>"
        + f"<label class='field'>Test set <select id='test-set'>{everything}{sets}</select></label>"
        + "<label class='field'>Detector <input type='search' id='search' placeholder='name'></label>"
        + "<span class='count' id='count' role='status' aria-live='polite'></span>"
    )


def _section(section: Section, position: int) -> str:
    ids = {id(row): f"s{position}d{i}" for i, row in enumerate(section.rows)}
    tables = {name: section.table(name) for name in METRICS}
    boards = "".join(
        _board(section, name, table, ids) + _plots(section, name, table) + _published(section, name)
        for name, table in tables.items()
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in section.notes)
    notes = f"<div class='note' role='note'>Before comparing:<ul>{notes}</ul></div>" if notes else ""
    details = "".join(_detector(section, line.row, ids[id(line.row)]) for line in tables[FIRST_METRIC])
    sets = escape("\n".join(section.test_sets))
    return f"""
<section class="protocol" id="s{position}" data-sets="{sets}" aria-labelledby="h{position}">
<div class="title"><h2 id="h{position}">{escape(section.protocol)}</h2>
<span class="soft" title="Hash of the protocol's content and of the frame lists it resolved to. Rows with another
fingerprint saw other rules or other frames and are in another table.">fingerprint
<code>{escape(section.fingerprint[:16])}</code></span></div>
{notes}{boards}
<h3>Each row: facts, runs, forgery methods, configuration</h3>
{details}
</section>"""


def _board(section: Section, name: str, lines: list[Line], ids: dict[int, str]) -> str:
    metric = METRICS[name]
    first = "descending" if metric.higher_is_better else "ascending"
    where = ", ".join(section.mean_sets)
    heads = [_head("#", "Rank by the mean; equal printed means share a rank", "rank", "ascending", "", "")]
    heads.append(
        _head("Detector", "Name of the preset; its runs, numbers and configuration are below", "t name", "ascending")
    )
    for test_set in section.test_sets:
        domain = "in-domain" if test_set in section.in_domain else "cross-domain" if section.in_domain else ""
        tip = f"{metric.title} on {test_set}: {metric.meaning}"
        heads.append(_head(test_set, tip, "", first, domain, test_set))
    heads.append(_head("Mean", f"Unweighted mean over {where or 'no test set'}; the rank is by it", "", first,
                       f"of {_count(len(section.mean_sets), 'set')}", ""))  # fmt: skip
    heads.append(_head("Seeds", "Number of runs that differ in nothing but the seed", "", "descending"))
    heads.append(_head("Parameters", "All parameters of the detector, trained or not, in millions", "", "ascending"))
    heads.append(_head("Checkpoint", "How the tested checkpoint was chosen: part of every number", "t", "ascending"))
    bodies = ""
    for kind, of_kind in (
        ("ranked", lambda row: row.ranks),
        ("controls", lambda row: row.control and not row.oracle),
        ("oracles", lambda row: row.oracle),
    ):
        body = "".join(_line(line, section, name, ids) for line in lines if of_kind(line.row))
        bodies += f"<tbody class='{kind}'>{body}</tbody>" if body else ""
    label = escape(f"{metric.title}, {section.protocol}")
    return (
        f"<div class='{_on(name)}' data-metric='{name}'>"
        f"<p class='about'><b>{metric.title}.</b> {escape(metric.meaning)}.</p>"
        f"<div class='scroll' role='region' tabindex='0' aria-label='{label}'>"
        f"<table class='board{_spread(lines)}' aria-label='{label}'><thead><tr>{''.join(heads)}</tr></thead>{bodies}"
        "</table></div></div>"
    )


def _spread(lines: list[Line]) -> str:
    """A class that keeps room for standard deviations, so that the means stand under each other."""
    return " spread" if any(cell.sd is not None for line in lines for cell in line.cells) else ""


def _head(text: str, tip: str, kind: str, first: str, small: str = "", test_set: str | None = None) -> str:
    """A sortable column header; `test_set` is what the test-set filter goes by ("": only with all sets shown)."""
    data = "" if test_set is None else f" data-set='{escape(test_set)}'"
    small = f"<small>{escape(small)}</small>" if small else ""
    return (
        f"<th scope='col' class='{kind}' title='{escape(tip)}' data-first='{first}'{data}>"
        f"<button type='button'>{escape(text)}</button>{small}</th>"
    )


def _line(line: Line, section: Section, name: str, ids: dict[int, str]) -> str:
    row, run = line.row, line.row.first
    sets = [*section.test_sets, ""]
    best = line.best or [False] * len(line.cells)
    tied = [*line.tied, False] if line.tied else [False] * len(sets)
    limits = [*(_limits(row, test_set, name) for test_set in section.test_sets), ""]
    cells = "".join(map(_cell, line.cells, best, sets, tied, limits))
    millions = "" if run.parameters is None else f"{run.parameters / 1e6:.1f} M"
    rank = line.rank or ""
    tag = "<span class='tag'>oracle</span>" if row.oracle else ""
    tag += "<span class='tag'>control</span>" if row.control else ""
    tag += f"<span class='tag'>{escape(run.source)}</span>" if run.source != "measured" else ""
    return (
        f"<tr data-name='{_search_text(row)}'><td class='rank' data-v='{rank}' data-set=''>{rank or '–'}</td>"
        f"<th scope='row' data-v='{escape(run.title.lower())}'><a href='#{ids[id(row)]}'>{escape(run.title)}</a>{tag}"
        f"<small class='sub'>{escape(row.name)}</small></th>{cells}"
        f"<td data-v='{len(row.runs)}'>{len(row.runs)}</td><td data-v='{run.parameters or ''}'>{millions}</td>"
        f"<td class='t choice' data-v='{escape(row.selection.lower())}'>{escape(row.selection)}</td></tr>"
    )


def _limits(row: Row, test_set: str, metric: str) -> str:
    """The 95 % interval of a row with one seed; with several their spread is shown, and each run's interval below."""
    estimate = row.first.tests[test_set].intervals.get(metric) if test_set in row.first.tests else None
    if len(row.runs) > 1 or estimate is None or estimate.low is None:
        return ""
    return f"{estimate.low:.{DIGITS}f}–{estimate.high:.{DIGITS}f}"


def _cell(cell: Cell, best: bool = False, test_set: str | None = None, tied: bool = False, limits: str = "") -> str:
    data = "" if test_set is None else f" data-set='{escape(test_set)}'"
    if cell.mean is None:
        return f"<td class='none' data-v='' title='{escape(cell.reason)}'{data}>{number(cell)}</td>"
    spread = "" if cell.sd is None else f"± {cell.sd:.{DIGITS}f}"
    values = ", ".join(f"{value:.6f}" for value in cell.values)
    return (
        f"<td{' class=best' if best else ''} data-v='{cell.mean!r}' title='by seed: {values}'{data}>"
        f"{cell.mean:.{DIGITS}f}{_TIED if tied else ''}<small>{spread}</small>"
        f"{f'<small class=ci>{limits}</small>' if limits else ''}</td>"
    )


_TIED = f"<abbr class='tie' title='not distinguishable from the best of this test set'>{TIE}</abbr>"


def _plots(section: Section, name: str, lines: list[Line]) -> str:
    """A dot for each detector's mean and a faint one for each seed, one small chart a test set, one common axis."""
    values = [value for line in lines for cell in line.cells[:-1] for value in cell.values]
    if not values:
        return ""
    if METRICS[name].higher_is_better:
        low, high = min(0.5, int(min(values) * 10) / 10), 1.0
    else:
        low, high = 0.0, max(0.5, -int(-max(values) * 10 // 1) / 10)
    figures = "".join(
        f"<figure data-set='{escape(test_set)}'><figcaption>{escape(test_set)}</figcaption>"
        f"{_plot(METRICS[name], test_set, [(line.row, line.cells[i]) for line in lines], low, high)}</figure>"
        for i, test_set in enumerate(section.test_sets)
        if any(line.cells[i].values for line in lines)
    )
    legend = "Filled: mean over seeds; faint: each seed; hollow: oracle" + (
        "; dashed: chance." if METRICS[name].chance is not None else "."
    )
    return f"<div class='plots {_on(name)}' data-metric='{name}'>{figures}<p class='soft'>{legend}</p></div>"


def _plot(metric, test_set: str, cells: list[tuple[Row, Cell]], low: float, high: float) -> str:
    left, right, pitch, top = 140, 348, 20, 6
    bottom = top + pitch * len(cells)

    def x(value: float) -> str:
        return f"{left + (value - low) / (high - low) * (right - left):.1f}"

    out = []
    for tenth in range(round(low * 10), round(high * 10) + 1):
        at = x(tenth / 10)
        out.append(f"<line class='grid' x1='{at}' x2='{at}' y1='{top}' y2='{bottom}'/>")
        if tenth % 2 == 0 or high - low <= 0.5:
            out.append(f"<text x='{at}' y='{bottom + 13}' text-anchor='middle'>{tenth / 10:.1f}</text>")
    if metric.chance is not None and low <= metric.chance <= high:
        at = x(metric.chance)
        out.append(f"<line class='chance' x1='{at}' x2='{at}' y1='{top}' y2='{bottom}'><title>chance</title></line>")
    titles = [row.first.title for row, _ in cells]
    for i, (row, cell) in enumerate(cells):
        y = top + pitch * (i + 0.5)
        # In a sweep of one detector, what was changed tells the rows apart.
        label = titles[i] if titles.count(titles[i]) == 1 else " ".join(row.first.overrides) or titles[i]
        label = label if len(label) <= 21 else label[:20] + "…"
        tip = f"{row.name}{', oracle' if row.oracle else ''}: {number(cell)}"
        marks = [f"<text class='row' x='{left - 8}' y='{y + 4}' text-anchor='end'>{escape(label)}</text>"]
        if cell.mean is None:
            marks.append(f"<text x='{left + 6}' y='{y + 4}'>{number(cell)}</text>")
        else:
            if len(cell.values) > 1:
                ends = f"x1='{x(min(cell.values))}' x2='{x(max(cell.values))}'"
                marks.append(f"<line class='span' {ends} y1='{y}' y2='{y}'/>")
                marks += [f"<circle class='seed' cx='{x(value)}' cy='{y}' r='2.5'/>" for value in cell.values]
            marks.append(f"<circle class='dot' cx='{x(cell.mean)}' cy='{y}' r='5'/>")
        kind = " class='oracle'" if row.oracle else ""
        out.append(f"<g{kind} data-name='{_search_text(row)}'><title>{escape(tip)}</title>{''.join(marks)}</g>")
    label = escape(f"{metric.title} on {test_set} by detector; the numbers are in the table")
    return f"<svg viewBox='0 0 360 {bottom + 18}' role='img' aria-label='{label}'>{''.join(out)}</svg>"


def _detector(section: Section, row: Row, identity: str) -> str:
    run = row.first
    sub = escape(f"{row.name} · {_count(len(row.runs), 'seed')} · {row.selection}")
    return (
        f"<details class='detector' id='{identity}' data-name='{_search_text(row)}'>"
        f"<summary>{escape(run.title)} <small>{sub}</small></summary><div class='inside'>"
        f"{_facts(row)}{_runs_table(section, row)}{_methods(section, row)}{_variants(section, row)}"
        f"{_robustness(row)}{_config(row)}"
        "</div></details>"
    )


def _facts(row: Row) -> str:
    run = row.first
    facts = {
        "Detector": f"{run.detector}{f' (class {run.detector_class})' if run.detector_class else ''}",
        "Paper": run.paper,
        "Changed from the preset": ", ".join(run.overrides),
        "Checkpoint": row.selection,
        "Chosen at": "; ".join(filter(None, (_chosen(run) for run in row.runs))),
        "Parameters": "" if run.parameters is None else f"{run.parameters:,}"
        + ("" if run.trainable_parameters is None else f", {run.trainable_parameters:,} of them trained"),
        "Training images": "" if run.train_images is None else f"{run.train_images:,}",
        "Timing": "; ".join(_timing(run) for run in row.runs if run.timing),
        "Commit": ", ".join(dict.fromkeys(_commit(run) for run in row.runs)),
        "Versions": ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items())),
        "Weights (SHA-256)": "; ".join(
            f"seed {run.seed}: {run.checkpoint_sha256}" for run in row.runs if run.checkpoint_sha256
        ),
        "Note": "; ".join(dict.fromkeys(run.note for run in row.runs if run.note)),
    }  # fmt: skip
    items = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items() if value)
    return f"<dl>{items}</dl>"


def _chosen(run: RunResult) -> str:
    epoch, value = run.selected_on.epoch, run.selected_on.value
    words = [f"epoch {epoch}" if epoch is not None else "", f"{value:.{DIGITS}f}" if value is not None else ""]
    words = " with ".join(filter(None, words))
    return words and f"seed {run.seed}: {words}"


def _timing(run: RunResult) -> str:
    return f"seed {run.seed}: " + ", ".join(f"{k.replace('_', ' ')} {v:.4g}" for k, v in sorted(run.timing.items()))


def _commit(run: RunResult) -> str:
    return (run.commit or "not run from a git checkout")[:40] + (" with uncommitted changes" if run.dirty else "")


def _runs_table(section: Section, row: Row) -> str:
    heads = ["Seed", "Test set", "Frames", "Videos", "Skipped", *(m.title for m in METRICS.values())]
    lines = []
    for run in row.runs:
        for name in section.test_sets:
            if name in run.tests:
                test = run.tests[name]
                counts = [run.seed, name, f"{test.frames:,}", f"{test.videos:,}", test.skipped]
                lines.append((counts, [_metric_cell([test], metric) for metric in METRICS]))
    return "<h4>Every run</h4>" + _small_table(heads, lines, "Every run of this row")


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
            lines.append((start, [_metric_cell(found, metric) for metric in DETAIL_METRICS]))
        if lines:
            heads = ["Method", "Type", "Fake frames", "Real frames", *(METRICS[m].title for m in DETAIL_METRICS)]
            table = _small_table(heads, lines, f"By forgery method on {name}")
            out.append(f"<div data-set='{escape(name)}'><h4>By forgery method on {escape(name)}</h4>{table}</div>")
    if out:
        out.insert(0, "<p class='soft'>Each method's fakes against all reals of the same test set.</p>")
    return "".join(out)


def _variants(section: Section, row: Row) -> str:
    lines = []
    for name in section.test_sets:
        tests = [run.tests[name] for run in row.runs if name in run.tests]
        variants = sorted({variant for test in tests for variant in test.variants})
        if variants:
            lines.append(([name, "main"], [_metric_cell(tests, metric) for metric in DETAIL_METRICS]))
        for variant in variants:
            found = [test.variants[variant] for test in tests if variant in test.variants]
            lines.append(([name, variant], [_metric_cell(found, metric) for metric in DETAIL_METRICS]))
    if not lines:
        return ""
    heads = ["Test set", "Score", *(METRICS[m].title for m in DETAIL_METRICS)]
    return "<h4>Other scores of the same frames</h4>" + _small_table(heads, lines, "Other scores of the same frames")


def _published(section: Section, name: str) -> str:
    """Published numbers of the same training and test sets, with what our own run of a method of that title gave."""
    lines = published_lines(section.train, section.test_sets, name)
    if not lines:
        return ""
    sets = [test_set for test_set in section.test_sets if any(test_set in line.values for line in lines)]
    measured = {row.first.title: row for row in section.rows if row.ranks}
    body = []
    for line in lines:
        cells = []
        for test_set in sets:
            row = line.values.get(test_set)
            own = measured[line.method].cell(test_set, name).mean if line.method in measured else None
            apart = f"<small>ours {own - row.value:+.{DIGITS}f}</small>" if row and own is not None else ""
            note = escape(f"{row.test_set_printed}; {row.note}".strip("; ")) if row else "not printed"
            cells.append(f"<td title='{note}'>{row.printed if row else '–'}{apart}</td>")
        body.append(([line.method, line.venue], [*cells, f"<td>{escape(f'{line.source}, {line.table}')}</td>"]))
    title = f"Published, not measured here: {METRICS[name].title}"
    table = _small_table(["Method", "Venue", *sets, "Source"], body, f"{title}, {section.protocol}")
    return (
        f"<details class='published {_on(name)}' data-metric='{name}'><summary>{title} ({_count(len(lines), 'row')})"
        "</summary><p class='soft'>As their papers print them, trained on the same sets: frames, checkpoints and how "
        "these were chosen are theirs. Small: our own run of the method minus the paper's number.</p>"
        f"{table}</details>"
    )


def _robustness(row: Row) -> str:
    """Frame AUC under corruptions by severity, the mean over seeds, with the mean over corruptions as a curve."""
    sets = sorted({name for run in row.runs for name in run.robustness})
    out = []
    for name in sets:
        runs = [run for run in row.runs if name in run.robustness]
        clean = [run.tests[name].frame_auc for run in runs]
        levels = sorted({level for run in runs for by in run.robustness[name].values() for level in by})
        lines, curves = [], []
        for corruption in runs[0].robustness[name]:
            cells = [Cell(tuple(clean)) if None not in clean else Cell(reason="undefined")]
            for level in levels:
                found = [run.robustness[name].get(corruption, {}).get(level) for run in runs]
                values = [each.frame_auc for each in found if each is not None and each.frame_auc is not None]
                cells.append(Cell(tuple(values)) if len(values) == len(runs) else Cell(reason="not run"))
            curves.append([cell.mean for cell in cells])
            lines.append(([corruption], [_cell(cell) for cell in cells]))
        mean = [sum(column) / len(column) if None not in column else None for column in zip(*curves)]
        lines.append((["mean"], [_cell(Cell(() if value is None else (value,), "not run")) for value in mean]))
        title = f"Frame AUC under corruptions on {name}"
        heads = ["Corruption", "clean", *(f"severity {level}" for level in levels)]
        plot = _curve(["0", *levels], mean, title)
        out.append(f"<h4>{escape(title)}</h4>{plot}{_small_table(heads, lines, title)}")
    return "".join(out)


def _curve(ticks: list[str], values: list[float | None], title: str) -> str:
    """A line through the values, one a tick, on an axis from 0.4 or below to 1."""
    points = [(i, value) for i, value in enumerate(values) if value is not None]
    if len(points) < 2:
        return ""
    low = min(0.4, *(value for _, value in points))
    left, top, width, height = 34, 8, 260, 110

    def at(i: int, value: float) -> tuple[float, float]:
        return left + i * width / (len(ticks) - 1), top + (1 - value) / (1 - low) * height

    marks = [f"<text x='{at(i, 0)[0]:.1f}' y='{top + height + 14}' text-anchor='middle'>{escape(t)}</text>"
             for i, t in enumerate(ticks)]  # fmt: skip
    for tenth in range(int(low * 10), 11, 2):
        y = at(0, tenth / 10)[1]
        marks.append(f"<line class='grid' x1='{left}' x2='{left + width}' y1='{y:.1f}' y2='{y:.1f}'/>")
        marks.append(f"<text x='{left - 6}' y='{y + 4:.1f}' text-anchor='end'>{tenth / 10:.1f}</text>")
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(i, value) for i, value in points))
    marks.append(f"<polyline class='span' fill='none' points='{line}'/>")
    for i, value in points:
        x, y = at(i, value)
        tip = f"<title>severity {escape(ticks[i])}: {value:.3f}</title>"
        marks.append(f"<circle class='dot' cx='{x:.1f}' cy='{y:.1f}' r='4'>{tip}</circle>")
    label = escape(f"{title}, mean over corruptions, by severity; the numbers are in the table")
    return (
        f"<figure class='curve'><svg viewBox='0 0 {left + width + 12} {top + height + 20}' role='img' "
        f"aria-label='{label}'>{''.join(marks)}</svg></figure>"
    )


def _metric_cell(found: list, metric: str) -> str:
    """One metric over seeds, as a table cell."""
    values = [getattr(metrics, metric) for metrics in found]
    if None in values:
        return _cell(Cell(reason=next(filter(None, (metrics.undefined for metrics in found)), "not defined")))
    return _cell(Cell(tuple(values)))


def _small_table(heads: list[str], lines: list[tuple[list, list[str]]], label: str) -> str:
    meanings = {metric.title: metric.meaning for metric in METRICS.values()}
    head = "".join(
        f"<th scope='col' class='{'t' if i < 2 else ''}' title='{escape(meanings.get(text, ''))}'>{escape(text)}</th>"
        for i, text in enumerate(heads)
    )
    body = "".join(
        "<tr>" + "".join(f"<td class='{'t' if i < 2 else ''}'>{escape(str(text))}</td>" for i, text in enumerate(start))
        + "".join(cells) + "</tr>"
        for start, cells in lines
    )  # fmt: skip
    return (
        f"<div class='scroll' role='region' tabindex='0' aria-label='{escape(label)}'>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _config(row: Row) -> str:
    flat = [_flat(run.config) for run in row.runs]
    keys = sorted({key for config in flat for key in config})
    differing = [key for key in keys if len({config.get(key) for config in flat}) > 1]
    note = f"<p class='soft'>Differs between these runs: {escape(', '.join(differing))}.</p>" if differing else ""
    text = json.dumps(row.first.config, indent=2, sort_keys=True, ensure_ascii=False)
    return (
        f"<details><summary>Resolved configuration of seed {row.first.seed}</summary>{note}"
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


def _search_text(row: Row) -> str:
    run = row.first
    return escape(f"{run.title} {row.name} {run.detector_class} {run.paper} {row.selection} {run.source}".lower())


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _on(metric: str) -> str:
    return "on" if metric == FIRST_METRIC else ""
