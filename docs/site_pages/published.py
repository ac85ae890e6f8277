"""Tables of the numbers that papers print."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import cache

from resproto_fd.training.board.published_beside import published_lines
from resproto_fd.training.published import PublishedRow, PublishedSource, load_published, load_sources
from site_pages.markdown import table

TITLES = {"parameters_m": "millions of parameters", "flops_g": "GFLOPs", "top3_count": "times among the best three"}


@cache
def all_rows() -> list[PublishedRow]:
    """Every published number."""
    return load_published()


@cache
def all_sources() -> dict[str, PublishedSource]:
    """The sources of the published numbers by key."""
    return load_sources()


def rows_of(names: Iterable[str]) -> list[PublishedRow]:
    """What papers print about a method that has one of these names; only letters and digits count."""
    wanted = {_letters(name) for name in names}
    return [row for row in all_rows() if _letters(row.method) in wanted]


def tables_of(rows: Sequence[PublishedRow]) -> list[str]:
    """One table for each table, metric and level of a source."""
    if not rows:
        return []
    sources, found = all_sources(), defaultdict(list)
    for row in rows:
        found[row.source, row.table, row.metric, row.level].append(row)
    text = ["## Published numbers", ""]
    text += ["The sources named here print these numbers, and may restate those of others. None was measured with this"]
    text += ["code. Rates are in [0, 1].", ""]
    for (source, name, metric, level), cells in found.items():
        of_level = f" of {level}s" if level != "none" else ""
        if level != "none" and not sources[source].tables[name].level_stated:
            of_level += ", which is assumed: the source does not say what is counted"
        text += [
            f"**{name}** of {sources[source].title}: {TITLES.get(metric, metric.upper())}{of_level}",
            "",
            _by_test_set(cells),
            "",
        ]
    return text


def without_code(known: Iterable[PublishedRow]) -> str:
    """Methods that have published numbers and no code here."""
    methods = {row.method for row in known}
    counts = Counter((row.method, row.venue) for row in all_rows() if row.method not in methods)
    return table(["method", "venue", "cells"], [[*key, count] for key, count in sorted(counts.items())], ["cells"])


def beside(config, metric: str) -> list[str]:
    """Published rows with a protocol's training sets and some of its test sets."""
    lines = published_lines(config.train, config.test, metric)
    if not lines:
        return []
    sets = [name for name in config.test if any(name in line.values for line in lines)]
    text = [f"## Published {metric.replace('_auc', ' AUC')}", ""]
    text += ["The named sources print these numbers for the same training and test sets, and may restate those of"]
    text += ["others. We do not know their frames or how their checkpoints were chosen.", ""]
    sources, rows = all_sources(), []
    for line in lines:
        values = [line.values[name].printed if name in line.values else "" for name in sets]
        doubt = "" if sources[line.source].tables[line.table].level_stated else ", level not stated"
        rows.append([line.method, *values, f"{line.source}, {line.table}{doubt}"])
    return [*text, table(["method", *sets, "printed in"], rows, sets), ""]


def _by_test_set(cells: Sequence[PublishedRow]) -> str:
    printed = {row.test_set or row.metric: row.test_set_printed or row.metric for row in cells}
    often = Counter(printed.values())
    columns = {name: head if often[head] == 1 else name for name, head in printed.items()}  # two averages: "Avg."
    lines = defaultdict(dict)
    for row in cells:
        lines[row.train_set, row.setting][row.test_set or row.metric] = row.printed
    varied = ["setting"] if any(setting for _, setting in lines) else []
    rows = []
    for (train, setting), values in lines.items():
        start = [train, *([setting or "as proposed"] if varied else [])]
        rows.append([*start, *(values.get(column, "") for column in columns)])
    return table(["trained on", *varied, *columns.values()], rows, list(columns.values()))


@cache
def _letters(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
