"""Published numbers on the site: a page of all of them, and those that stand beside a measured table.

They are printed apart from measured rows, never ranked, and differ from a reproduction by more than the detector: other
frames, other crops, often a checkpoint chosen on the test set.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from resproto_fd.configs import loading
from resproto_fd.training.board.cells import CellView, TableView, small_table
from resproto_fd.training.board.published_beside import published_lines
from resproto_fd.training.board.rendering import PUBLISHED, render_page
from resproto_fd.training.board.table import DIGITS, METRICS, Row, Section
from resproto_fd.training.published import PublishedRow, PublishedSource, load_sources

_NOT_PRINTED = CellView("–", sort="", kind="none", tip="not printed")


def render_published(rows: Sequence[PublishedRow], sources: dict[str, PublishedSource]) -> str:
    """The page of all published numbers, a table a table of the paper."""
    shown = [_source(key, source, rows) for key, source in sources.items()]
    return render_page("published.html", "Published numbers", PUBLISHED, numbers=len(rows), sources=shown)


def _source(key: str, source: PublishedSource, rows: Sequence[PublishedRow]) -> dict[str, Any]:
    tables = []
    for name, table in source.tables.items():
        found = [row for row in rows if (row.source, row.table) == (key, name)]
        unit = f"{table.unit}s" if table.unit == "fraction" else "percent"
        about = [
            f"{table.content}, printed in {unit}",
            "" if table.level_stated else "the source does not say whether frames or videos are counted",
            table.note,
        ]
        wrong = [d for d in source.discrepancies if d.table == name]
        tables.append(
            {
                "name": name,
                "numbers": len(found),
                "about": "; ".join(filter(None, about)),
                "content": _pivot(found, f"{source.title}, {name}"),
                "contradictions": [f"{d.method}, {d.test_set}: {d.note}" for d in wrong],
            }
        )
    origin = ", ".join(filter(None, (source.authors, source.venue)))
    return {"title": source.title, "origin": origin, "note": source.note, "tables": tables}


def _pivot(rows: list[PublishedRow], label: str) -> TableView:
    """A line a method, training set and setting; a column a test set, level and metric."""
    columns = list(dict.fromkeys((row.test_set, row.level, row.metric) for row in rows))
    lines: dict[tuple, dict[tuple, PublishedRow]] = defaultdict(dict)
    for row in rows:
        lines[row.method, row.venue, row.train_set, row.setting][row.test_set, row.level, row.metric] = row
    heads = ["Method", "Venue", "Trained on", "Setting"]
    heads += [
        f"{test_set} {'' if level == 'none' else level} {_word(metric)}".strip() for test_set, level, metric in columns
    ]
    table = [(list(start), [_number(found.get(column)) for column in columns]) for start, found in lines.items()]
    return small_table(heads, table, label, texts=4)


def _word(metric: str) -> str:
    return {"m_eer": "M_EER", "parameters_m": "million parameters", "flops_g": "GFLOPs"}.get(metric, metric.upper())


def _number(row: PublishedRow | None) -> CellView:
    if row is None:
        return _NOT_PRINTED
    return CellView(
        str(row.printed), sort=repr(row.value), tip=row.note or row.method_printed, doubtful=row.is_doubtful
    )


def beside(section: Section, metric: str) -> dict[str, Any] | None:
    """Published numbers of the same training and test sets, with what our own run of that method gave."""
    lines = published_lines(section.train, section.test_sets, metric)
    if not lines:
        return None
    sets = [name for name in section.test_sets if any(name in line.values for line in lines)]
    measured = _own_rows(section)
    sources, body = load_sources(), []
    for line in lines:
        source = sources[line.source]
        own, known = measured.get(line.method), source.tables[line.table].level_stated
        cells = [_beside(line.values.get(name), own.cell(name, metric).mean if own else None, known) for name in sets]
        origin = f"{line.source}, {line.table}" + ("" if known else ", level not stated")
        body.append(([line.method, line.venue], [*cells, CellView(origin, kind="t", tip=source.title)]))
    title = f"Published, not measured here: {METRICS[metric].title}"
    heads = ["Method", "Venue", *sets, "Source"]
    return {"title": title, "table": small_table(heads, body, f"{title}, {section.protocol}")}


def _own_rows(section: Section) -> dict[str, Row]:
    """Our runs of this project's presets, unchanged, by the title that the preset has; under a protocol of its own.

    Titles in result files, submissions and runs with changed settings are not asked: they may be another method.
    """
    presets, ours = loading.names("detectors"), {}
    if section.protocol not in loading.names("protocols"):
        return {}
    protocol = loading.load("protocols", section.protocol).model_dump(mode="json")
    if any(protocol[key] != section.protocol_content.get(key) for key in ("train", "frames")):
        return {}
    for row in section.rows:
        run = row.first
        if row.ranks and run.source == "measured" and not run.overrides and run.detector in presets:
            ours[loading.load("detectors", run.detector).title] = row
    return ours


def _beside(row: PublishedRow | None, own: float | None, level_stated: bool) -> CellView:
    if row is None:
        return _NOT_PRINTED
    doubt = "" if level_stated else ", level not stated"
    apart = None if own is None else f"ours {own - row.value:+.{DIGITS}f}{doubt}"
    about = f"{row.test_set_printed}; {row.note}".strip("; ")
    return CellView(str(row.printed), sort=repr(row.value), tip=about, small=apart)
