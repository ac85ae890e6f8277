"""Published numbers on the site: a page of all of them, and those that stand beside a measured table.

They are printed apart from measured rows, never ranked, and differ from a reproduction by more than the detector: other
frames, other crops, often a checkpoint chosen on the test set.
"""

from collections import defaultdict
from collections.abc import Sequence
from html import escape

from resproto_fd.training.board.page_parts import PUBLISHED, count, page, small_table, text_cell
from resproto_fd.training.board.published_beside import published_lines
from resproto_fd.training.board.table import DIGITS, METRICS, Section
from resproto_fd.training.published import PublishedRow, PublishedSource


def render_published(rows: Sequence[PublishedRow], sources: dict[str, PublishedSource]) -> str:
    """The page of all published numbers, a table a table of the paper."""
    parts = [
        "<main id='content'><h1>Published numbers</h1><p class='soft'>"
        f"{len(rows):,} numbers as {len(sources)} sources print them, none of them measured here. Rates are in [0, 1] "
        "with the printed digits. Frames, crops, compression and the choice of the checkpoint differ between "
        "sources: a "
        "difference between two tables is not one between two detectors.</p>"
        "<div class='bar'><div class='bar-in'><label class='field'>Search <input type='search' id='search' "
        "placeholder='method, data set'></label><span class='count' id='count' role='status' aria-live='polite'></span>"
        "</div></div>"
    ]
    for key, source in sources.items():
        facts = ", ".join(filter(None, (source.authors, source.venue)))
        parts.append(f"<section><h2>{escape(source.title)}</h2><p class='soft'>{escape(facts)}</p>")
        if source.note:
            parts.append(f"<p class='soft'>{escape(source.note)}</p>")
        for name, table in source.tables.items():
            found = [row for row in rows if (row.source, row.table) == (key, name)]
            about = [
                f"{table.content}, printed in {table.unit}s"
                if table.unit == "fraction"
                else f"{table.content}, printed in percent",
                "" if table.level_stated else "the source does not say whether frames or videos are counted",
                table.note,
            ]
            wrong = [d for d in source.discrepancies if d.table == name]
            listed = "".join(f"<li>{escape(f'{d.method}, {d.test_set}: {d.note}')}</li>" for d in wrong)
            listed = listed and f"<p>It contradicts itself or another source:</p><ul>{listed}</ul>"
            parts.append(
                f"<details class='published' open><summary>{escape(name)} <small>{count(len(found), 'number')}; "
                f"{escape('; '.join(filter(None, about)))}</small></summary><div class='inside'>"
                f"{_pivot(found, f'{source.title}, {name}')}"
                f"{listed}</div></details>"
            )
        parts.append("</section>")
    return page("Published numbers", "".join(parts) + "</main>", PUBLISHED)


_NOT_PRINTED = "<td class='none' data-v='' title='not printed'>–</td>"


def _pivot(rows: list[PublishedRow], label: str) -> str:
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


def _number(row: PublishedRow | None) -> str:
    if row is None:
        return _NOT_PRINTED
    mark = "<abbr title='could not be read with certainty'>?</abbr>" if row.is_doubtful else ""
    return f"<td data-v='{row.value!r}' title='{escape(row.note or row.method_printed)}'>{row.printed}{mark}</td>"


def beside(section: Section, metric: str) -> str:
    """Published numbers of the same training and test sets, with what our own run of a method of that title gave."""
    lines = published_lines(section.train, section.test_sets, metric)
    if not lines:
        return ""
    sets = [name for name in section.test_sets if any(name in line.values for line in lines)]
    measured = {row.first.title: row for row in section.rows if row.ranks}
    body = []
    for line in lines:
        own = measured.get(line.method)
        cells = [_beside(line.values.get(name), own.cell(name, metric).mean if own else None) for name in sets]
        body.append(([line.method, line.venue], [*cells, text_cell(f"{line.source}, {line.table}")]))
    title = f"Published, not measured here: {METRICS[metric].title}"
    table = small_table(["Method", "Venue", *sets, "Source"], body, f"{title}, {section.protocol}")
    return (
        f"<details class='published'><summary>{title} <small>{count(len(lines), 'row')}</small></summary>"
        "<div class='inside'><p class='soft'>As their papers print them, trained on the same sets: frames, checkpoints "
        "and how these were chosen are theirs. Small: our own run of the method minus the paper's number.</p>"
        f"{table}</div></details>"
    )


def _beside(row: PublishedRow | None, own: float | None) -> str:
    if row is None:
        return _NOT_PRINTED
    apart = "" if own is None else f"<small>ours {own - row.value:+.{DIGITS}f}</small>"
    about = escape(f"{row.test_set_printed}; {row.note}".strip("; "))
    return f"<td data-v='{row.value!r}' title='{about}'>{row.printed}{apart}</td>"
