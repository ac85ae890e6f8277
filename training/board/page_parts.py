"""What the leaderboard's pages share: templates, the shell with its policy, names of pages, tables, facts of a run.

The templates escape every value; charts, style and script alone come as `Markup`.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from resproto_fd.training.board.table import DIGITS, METRICS, TIE, TIE_RULE, Cell, Row, Section, number
from resproto_fd.training.results import RunResult

INDEX, PUBLISHED, ROWS = "index.html", "published.html", "rows"
EXPORTS = {
    "CSV": "leaderboard.csv",
    "Markdown": "leaderboard.md",
    "LaTeX": "leaderboard.tex",
    "JSON": "leaderboard.json",
}
NOT_STORED = "not stored"
_EARLY = 'document.documentElement.classList.add("js");'


def render_page(template: str, title: str, here: str, **content: Any) -> str:
    """A whole page.

    Args:
        template: File in `templates/`.
        title: The page's title.
        here: The page's own path from the site's root.
        content: What the template shows.
    """
    up = "../" * here.count("/")
    links = {"Leaderboard": INDEX, "Published numbers": PUBLISHED, **EXPORTS}
    style, script = _asset("board.css"), _asset("board.js")
    shell = {
        "policy": _policy(_EARLY, "\n" + script),
        "title": title,
        "style": Markup(style),
        "early": Markup(_EARLY),
        "script": Markup(script),
        "links": [{"name": name, "path": up + path, "here": path == here} for name, path in links.items()],
    }
    return _environment().get_template(template).render(shell=shell, **content) + "\n"


@cache
def _environment() -> Environment:
    loader = PackageLoader("resproto_fd.training.board", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined)
    environment.globals |= {"count": count, "DIGITS": DIGITS, "INDEX": INDEX, "TIE": TIE, "TIE_RULE": TIE_RULE}
    return environment


@cache
def _asset(name: str) -> str:
    return (files("resproto_fd.training.board") / "templates" / name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """Content security policy: nothing is fetched, and only the shell's own scripts run."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}"


def row_page(section: Section, row: Row) -> str:
    """Path of a row's own page: readable, and no other row's."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{section.protocol} {row.name}".lower()).strip("-")[:60]
    digest = hashlib.sha256("\n".join([section.protocol, section.fingerprint, row.key]).encode()).hexdigest()
    return f"{ROWS}/{words}-{digest[:8]}.html"


@dataclass(frozen=True)
class Td:
    """One table cell, as the macro `td` shows it.

    Attributes:
        text: What it says.
        sort: What sorting goes by; None for the text.
        kind: CSS class.
        title: Shown when pointed at.
        best, tied: Marks.
        strong: Whether the text is bold.
        doubt: Why the number is doubtful; empty if it is not.
        small: Beside the text; None for nothing.
        limits: The 95 % interval in words.
        test_set: The test set that the filter goes by; None where it does not.
    """

    text: str
    sort: str | None = None
    kind: str = ""
    title: str = ""
    best: bool = False
    tied: bool = False
    strong: bool = False
    doubt: str = ""
    small: str | None = None
    limits: str = ""
    test_set: str | None = None


@dataclass(frozen=True)
class Head:
    """A column's title in a small table; `tip` is shown when pointed at."""

    text: str
    tip: str = ""


@dataclass(frozen=True)
class TableLine:
    """A row of a small table: texts that start it, then cells."""

    start: Sequence[Any]
    cells: Sequence[Td]


@dataclass(frozen=True)
class SmallTable:
    """A sortable table; `label` is its caption, and the first `texts` columns are left-aligned."""

    heads: Sequence[Head]
    lines: Sequence[TableLine]
    label: str
    texts: int = 2


def small_table(heads: Sequence[str], lines: Sequence[tuple], label: str, texts: int = 2) -> SmallTable:
    """A sortable table from (texts that start a row, further cells); heads that name a metric explain it."""
    meanings = {metric.title: metric.meaning for metric in METRICS.values()}
    shown = [Head(text, meanings.get(text, "")) for text in heads]
    return SmallTable(shown, [TableLine(*line) for line in lines], label, texts)


def value_cell(cell: Cell, best: bool = False, test_set: str | None = None, tied: bool = False, limits: str = "") -> Td:
    """A number as a table cell, with its spread over seeds, 95 % limits and marks."""
    if cell.mean is None:
        return Td(number(cell), sort="", kind="none", title=cell.reason, test_set=test_set)
    spread = "" if cell.sd is None else f"± {cell.sd:.{DIGITS}f}"
    values = ", ".join(f"{value:.6f}" for value in cell.values)
    return Td(
        f"{cell.mean:.{DIGITS}f}",
        sort=repr(cell.mean),
        title=f"by seed: {values}",
        best=best,
        tied=tied,
        small=spread,
        limits=limits,
        test_set=test_set,
    )


def metric_cell(found: list, metric: str) -> Td:
    """One metric over seeds, as a table cell."""
    values = [getattr(metrics, metric) for metrics in found]
    if None in values:
        return value_cell(Cell(reason=next(filter(None, (metrics.undefined for metrics in found)), "not defined")))
    return value_cell(Cell(tuple(values)))


def rate_cell(value: float | None, reason: str = "not defined", strong: bool = False) -> Td:
    """A single rate as a table cell."""
    if value is None:
        return value_cell(Cell(reason=reason))
    return Td(f"{value:.{DIGITS}f}", sort=repr(value), strong=strong)


def text_cell(text: str) -> Td:
    """Text as a table cell."""
    return Td(text, kind="t")


def search_text(row: Row) -> str:
    """What the search box looks through."""
    run = row.first
    return f"{run.title} {row.name} {run.detector_class} {run.paper} {row.selection} {run.source}".lower()


def count(amount: int, noun: str) -> str:
    """
    >>> count(1, "run"), count(2, "run")
    ('1 run', '2 runs')
    """
    return f"{amount} {noun}{'' if amount == 1 else 's'}"


def _part(run: RunResult, *keys: str):
    """A value of the resolved configuration, None where a file of another make has none."""
    found = run.config
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def backbone(run: RunResult) -> str:
    """The backbone's name, as the result or its configuration has it; "own" for one that is spelt out there."""
    found = run.compute.backbone or _part(run, "detector", "model", "backbone")
    return "own" if isinstance(found, dict) else str(found) if found else NOT_STORED


def input_size(run: RunResult) -> int | None:
    """Side of the image that the detector sees, in pixels."""
    found = run.compute.input_size or _part(run, "detector", "input", "size")
    return found if isinstance(found, int) else None


def fidelity(run: RunResult) -> tuple[str, list[str]]:
    """How close the implementation is to the paper, and where it deviates; ("", []) where the preset does not say."""
    found, listed = _part(run, "detector", "fidelity"), _part(run, "detector", "deviations")
    return str(found or ""), [str(text) for text in listed] if isinstance(listed, list) else []


def recipe(run: RunResult) -> str:
    """The training recipe in words."""
    train = _part(run, "detector", "train")
    if not isinstance(train, dict):
        return ""
    parts = []
    for key, value in sorted(train.items()):
        if key in ("optimizer", "schedule") and isinstance(value, dict):
            rest = ", ".join(f"{k} {_plain(v)}" for k, v in sorted(value.items()) if k != "name" and v is not None)
            parts.append(f"{key} {value.get('name')} ({rest})")
        elif key in ("epochs", "batch_size", "augment", "samples", "ema", "accumulate") and value is not None:
            parts.append(f"{key.replace('_', ' ')} {_plain(value)}")
    return "; ".join(parts)


def _plain(value) -> str:
    return value if isinstance(value, str) else json.dumps(value)
