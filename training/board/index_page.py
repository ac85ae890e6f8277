"""The leaderboard's first page: a table and small charts for each protocol and metric.

Ranks, best values and order are decided in `leaderboard`; the page's script only sorts, filters and switches.
"""

from html import escape

from resproto_fd.training.board.collecting import Problem
from resproto_fd.training.board.page_parts import (
    INDEX,
    NOT_STORED,
    backbone,
    count,
    fidelity,
    input_size,
    note,
    page,
    row_page,
    search_text,
    value_cell,
)
from resproto_fd.training.board.published_page import beside
from resproto_fd.training.board.table import (
    DIGITS,
    METRICS,
    TIE_RULE,
    Cell,
    Line,
    Row,
    Section,
    fingerprint_warnings,
    number,
)

FIRST_METRIC = "frame_auc"


def render(sections: list[Section], problems: list[Problem]) -> str:
    """The whole page.

    Args:
        sections: One table each.
        problems: Result files that are left out; the page names them.
    """
    content = "\n".join(_section(section, i) for i, section in enumerate(sections))
    body = (
        f"<main id='content'>{_intro(sections, problems)}</main>"
        "<div class='bar'><div class='bar-in' role='group' aria-label='What the tables show'>"
        f"{_controls(sections)}</div></div><main>{_overview(sections)}{content}</main>"
    )
    return page("Face-forgery leaderboard", body, INDEX)


def _intro(sections: list[Section], problems: list[Problem]) -> str:
    rows = [row for section in sections for row in section.rows]
    runs = sum(len(row.runs) for row in rows)
    detectors = len({row.first.detector for row in rows})
    out = [
        "<h1>Face-forgery leaderboard</h1>",
        f"<p class='soft'>{count(runs, 'run')} of {count(detectors, 'detector')}. Rates are in [0, 1]; ± is "
        "the standard "
        "deviation over seeds. A row's name leads to its curves, forgery methods and configuration.</p>",
        "<details class='rules'><summary>How to read the tables</summary><ul>"
        "<li>A row's rank is that of its mean over the test sets nobody was trained on; numbers equal to "
        f"{DIGITS} decimals share it.</li>"
        f"<li>The best of each column is bold, with a star. {escape(TIE_RULE)}</li>"
        "<li>Small figures below a number are its 95 % interval, which respects that frames of one video, "
        "and videos of "
        "one source, are not independent; with several seeds it also holds what other seeds would give.</li>"
        "<li>Controls are there to be compared with and are not ranked. A checkpoint chosen on a test set is marked as "
        "an oracle, stands below and is never ranked.</li>"
        "<li>Backbone, size, FLOPs of one frame (two a multiply-add), input and training images stand beside "
        "every row: rows that differ in them do not run the same race.</li></ul></details>",
    ]
    out += [note(escape(text)) for text in fingerprint_warnings(sections)]
    if problems:
        items = "".join(f"<li><code>{escape(p.path)}</code>: {escape(p.reason)}</li>" for p in problems)
        out.append(note(f"{count(len(problems), 'result file')} left out:<ul>{items}</ul>", "problems"))
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


def _overview(sections: list[Section]) -> str:
    """A line a protocol: what is there, and what leads."""
    if len(sections) < 2:
        return ""
    lines = ""
    for i, section in enumerate(sections):
        ranked = [line for line in section.table(FIRST_METRIC) if line.rank == 1]
        leads = ", ".join(line.row.first.title for line in ranked)
        best = ranked[0].cells[-1].shown if ranked else None
        lines += (
            f"<tr><th scope='row'><a href='#s{i}'>{escape(section.protocol)}</a> "
            f"<code>{escape(section.fingerprint[:8])}"
            f"</code></th><td>{len(section.rows)}</td><td>{sum(len(row.runs) for row in section.rows)}</td>"
            f"<td>{len(section.test_sets)}</td><td class='t'>{escape(leads) or '–'}</td>"
            f"<td>{'–' if best is None else f'{best:.{DIGITS}f}'}</td></tr>"
        )
    heads = (
        ("Protocol", "t"),
        ("Rows", ""),
        ("Runs", ""),
        ("Test sets", ""),
        ("Leads by frame AUC", "t"),
        ("Mean", ""),
    )
    head = "".join(f"<th scope='col' class='{kind}'><button type='button'>{text}</button></th>" for text, kind in heads)
    return (
        "<div class='scroll' role='region' tabindex='0' aria-label='Overview of protocols'><table class='sortable'>"
        f"<caption class='unseen'>Overview of protocols</caption><thead><tr>{head}</tr></thead><tbody>{lines}</tbody>"
        "</table></div>"
    )


def _section(section: Section, position: int) -> str:
    tables = {name: section.table(name) for name in METRICS}
    boards = "".join(
        f"<div class='{_on(name)}' data-metric='{name}'>{_board(section, name, table)}"
        f"{_plots(section, name, table)}{beside(section, name)}</div>"
        for name, table in tables.items()
    )
    warnings = "".join(note(f"<b>Warning.</b> {escape(text)}") for text in section.warnings)
    rest = [text for text in section.notes if text not in section.warnings]
    notes = "".join(f"<li>{escape(text)}</li>" for text in rest)
    notes = note(f"Before comparing:<ul>{notes}</ul>") if notes else ""
    sets = escape("\n".join(section.test_sets))
    return f"""
<section class="protocol" id="s{position}" data-sets="{sets}" aria-labelledby="h{position}">
<div class="title"><h2 id="h{position}">{escape(section.protocol)}</h2>
<span class="soft" title="Hash of the protocol's content and of the frame lists it resolved to. Rows with another
fingerprint saw other rules or other frames and are in another table.">fingerprint
<code>{escape(section.fingerprint[:16])}</code></span></div>
{warnings}{notes}{boards}
</section>"""


def _board(section: Section, name: str, lines: list[Line]) -> str:
    metric = METRICS[name]
    first = "descending" if metric.higher_is_better else "ascending"
    where = ", ".join(section.mean_sets)
    heads = [_head("#", "Rank by the mean; equal printed means share a rank", "rank", "ascending", "", "")]
    heads.append(
        _head("Detector", "Name of the preset; its page holds curves, runs and configuration", "t name", "ascending")
    )
    for test_set in section.test_sets:
        domain = "in-domain" if test_set in section.in_domain else "cross-domain" if section.in_domain else ""
        tip = f"{metric.title} on {test_set}: {metric.meaning}"
        heads.append(_head(test_set, tip, "", first, domain, test_set))
    heads.append(_head("Mean", f"Unweighted mean over {where or 'no test set'}; the rank is by it", "", first,
                       f"of {count(len(section.mean_sets), 'set')}", ""))  # fmt: skip
    heads.append(_head("Seeds", "Number of runs that differ in nothing but the seed", "", "descending"))
    if section.probe_mean(name) is not None:
        tip = f"Mean {metric.title} minus that of the frozen-CLIP probe, {section.probe_mean(name):.{DIGITS}f}"
        heads.append(_head("Over probe", tip, "", first))
    heads.append(_head("Backbone", "Of the detector; own: spelt out in its configuration", "t", "ascending"))
    heads.append(_head("Parameters", "All parameters of the detector, trained or not, in millions", "", "ascending"))
    heads.append(_head("FLOPs", "Of one frame, in billions, two a multiply-add", "", "ascending"))
    heads.append(_head("Input", "Side of the image that the detector sees, in pixels", "", "ascending"))
    heads.append(_head("Training images", "Seen in training, repeats counted", "", "ascending"))
    heads.append(
        _head("Fidelity", "How close to its paper the implementation is; see the row's page", "t", "ascending")
    )
    heads.append(_head("Checkpoint", "How the tested checkpoint was chosen: part of every number", "t", "ascending"))
    bodies = ""
    for kind, of_kind in (
        ("ranked", lambda row: row.ranks),
        ("controls", lambda row: row.control and not row.oracle),
        ("oracles", lambda row: row.oracle),
    ):
        body = "".join(_line(line, section, name) for line in lines if of_kind(line.row))
        title = _GROUPS.get(kind)
        head = f"<tr class='group'><th colspan='{len(heads)}' scope='rowgroup'>{title}</th></tr>" if title else ""
        bodies += f"<tbody class='{kind}'>{head}{body}</tbody>" if body else ""
    label = escape(f"{metric.title}, {section.protocol}")
    return (
        f"<p class='about'><b>{metric.title}.</b> {escape(metric.meaning)}.</p>"
        f"<div class='scroll' role='region' tabindex='0' aria-label='{label}'>"
        f"<table class='board sortable{_spread(lines)}'><caption "
        f"class='unseen'>{label}</caption><thead><tr>{''.join(heads)}</tr></thead>{bodies}"
        "</table></div>"
    )


_GROUPS = {
    "controls": "Controls: to compare with, not ranked",
    "oracles": "Oracles: chosen on a test set, not ranked",
}


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


def _line(line: Line, section: Section, name: str) -> str:
    row, run = line.row, line.row.first
    sets = [*section.test_sets, ""]
    best = line.best or [False] * len(line.cells)
    tied = [*line.tied, False] if line.tied else [False] * len(sets)
    limits = [*(_limits(row, test_set, name) for test_set in section.test_sets), ""]
    cells = "".join(map(value_cell, line.cells, best, sets, tied, limits))
    rank = line.rank or ""
    tags = ["oracle" * row.oracle, "control" * row.control, run.source if run.source != "measured" else ""]
    tag = "".join(f"<span class='tag'>{escape(text)}</span>" for text in tags if text)
    return (
        f"<tr data-name='{search_text(row)}'><td class='rank' data-v='{rank}' data-set=''>{rank or '–'}</td>"
        f"<th scope='row' data-v='{escape(run.title.lower())}'><a "
        f"href='{row_page(section, row)}'>{escape(run.title)}</a>"
        f"{tag}<small class='sub'>{escape(row.name)}</small></th>{cells}"
        f"<td data-v='{len(row.runs)}'>{len(row.runs)}</td>{_over_probe(line, section, name)}{_race(row)}"
        f"<td class='t choice' data-v='{escape(row.selection.lower())}'>{escape(row.selection)}</td></tr>"
    )


def _over_probe(line: Line, section: Section, name: str) -> str:
    probe, mean = section.probe_mean(name), line.cells[-1].mean
    if probe is None:
        return ""
    if mean is None:
        return "<td class='none' data-v=''>–</td>"
    return f"<td data-v='{mean - probe!r}'>{mean - probe:+.{DIGITS}f}</td>"


def _race(row: Row) -> str:
    """What makes a comparison fair or not: backbone, size, cost, input, training images, fidelity."""
    run = row.first
    missing = f"<td class='none' data-v=''>{NOT_STORED}</td>"

    def amount(value: float | None, text: str) -> str:
        return missing if value is None else f"<td data-v='{value}'>{text}</td>"

    name = backbone(run)
    badge, deviations = fidelity(run)
    size = input_size(run)
    return (
        (missing if name == NOT_STORED else f"<td class='t'>{escape(name)}</td>")
        + amount(run.parameters, f"{(run.parameters or 0) / 1e6:.3g} M")
        + amount(run.compute.gflops, f"{run.compute.gflops or 0:.3g} G")
        + amount(size, f"{size}")
        + amount(run.train_images, f"{run.train_images or 0:,}")
        + f"<td class='t' title='{escape('; '.join(deviations))}'>{escape(badge) or 'not stated'}</td>"
    )


def _limits(row: Row, test_set: str, metric: str) -> str:
    """The 95 % interval of a number in words."""
    found = row.limits(test_set, metric)
    return "" if found is None else f"{found[0]:.{DIGITS}f}–{found[1]:.{DIGITS}f}"


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
    return f"<div class='plots'>{figures}<p class='soft'>{legend}</p></div>"


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
        out.append(f"<g{kind} data-name='{search_text(row)}'><title>{escape(tip)}</title>{''.join(marks)}</g>")
    label = escape(f"{metric.title} on {test_set} by detector; the numbers are in the table")
    return f"<svg viewBox='0 0 360 {bottom + 18}' role='img' aria-label='{label}'>{''.join(out)}</svg>"


def _on(metric: str) -> str:
    return "on" if metric == FIRST_METRIC else ""
