"""What the leaderboard's pages share: the shell with its policy, names of pages, tables, the facts of a run.

Everything that came from outside is escaped here or where it is put together.
"""

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files

from resproto_fd.training.board.table import DIGITS, METRICS, TIE, Cell, Row, Section, number
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


def page(title: str, body: str, here: str) -> str:
    """A whole page.

    Args:
        title: Its name, from outside.
        body: HTML from the first heading on, with an element of id "content".
        here: Its own path from the site's root.
    """
    up = "../" * here.count("/")
    links = {"Leaderboard": INDEX, "Published numbers": PUBLISHED, **EXPORTS}
    here_too = {name: " aria-current='page'" if path == here else "" for name, path in links.items()}
    style, script = _asset("leaderboard.css"), _asset("leaderboard.js")
    parts = {
        "policy": _policy(_EARLY, "\n" + script),
        "title": escape(title),
        "style": style,
        "early": _EARLY,
        "script": script,
        "pages": "".join(f"<a href='{up}{path}'{here_too[name]}>{name}</a>" for name, path in links.items()),
        "body": body,
        "footer": "<p>Made by <code>resproto leaderboard</code> from result files and the score tables "
        "beside them; the "
        "same files give the same pages. Every digit is in <code>leaderboard.csv</code>.</p>",
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("leaderboard.html"))


def _asset(name: str) -> str:
    return files("resproto_fd.training.board").joinpath(name).read_text(encoding="utf-8")


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


def note(html: str, identity: str = "") -> str:
    """A box that a reader should not miss."""
    return f"<div class='note' role='note'{f' id={identity}' if identity else ''}>{html}</div>"


def value_cell(
    cell: Cell, best: bool = False, test_set: str | None = None, tied: bool = False, limits: str = "", beside: str = ""
) -> str:
    """A number as a table cell, with its spread over seeds, 95 % limits and marks."""
    data = "" if test_set is None else f" data-set='{escape(test_set)}'"
    if cell.mean is None:
        return f"<td class='none' data-v='' title='{escape(cell.reason)}'{data}>{number(cell)}</td>"
    spread = "" if cell.sd is None else f"± {cell.sd:.{DIGITS}f}"
    values = ", ".join(f"{value:.6f}" for value in cell.values)
    mark = "<abbr class='star' title='best of this column'>★</abbr>" if best else ""
    return (
        f"<td{' class=best' if best else ''} data-v='{cell.mean!r}' title='by seed: {values}'{data}>"
        f"{mark}{_TIED if tied else ''}{cell.mean:.{DIGITS}f}<small>{spread}</small>"
        f"{f'<small class=ci>{limits}</small>' if limits else ''}{beside}</td>"
    )


_TIED = (
    f"<abbr class='tie' title='not distinguishable from the best of this test set'>{TIE}"
    "<span class='unseen'> not distinguishable from the best</span></abbr>"
)


def metric_cell(found: list, metric: str) -> str:
    """One metric over seeds, as a table cell."""
    values = [getattr(metrics, metric) for metrics in found]
    if None in values:
        return value_cell(Cell(reason=next(filter(None, (metrics.undefined for metrics in found)), "not defined")))
    return value_cell(Cell(tuple(values)))


def rate_cell(value: float | None, reason: str = "not defined", strong: bool = False) -> str:
    """A single rate as a table cell."""
    if value is None:
        return value_cell(Cell(reason=reason))
    text = f"{value:.{DIGITS}f}"
    return f"<td data-v='{value!r}'>{f'<b>{text}</b>' if strong else text}</td>"


def text_cell(text: str) -> str:
    """Text from outside as a table cell."""
    return f"<td class='t'>{escape(text)}</td>"


def small_table(heads: Sequence[str], lines: Sequence[tuple[list, list[str]]], label: str, texts: int = 2) -> str:
    """A sortable table.

    Args:
        heads: Titles of its columns.
        lines: (texts that start a row, HTML of its further cells).
        label: What it shows: its caption.
        texts: How many of the first columns are left-aligned.
    """
    meanings = {metric.title: metric.meaning for metric in METRICS.values()}
    head = "".join(
        f"<th scope='col' class='{'t' if i < texts else ''}' title='{escape(meanings.get(text, ''))}'>"
        f"<button type='button'>{escape(text)}</button></th>"
        for i, text in enumerate(heads)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f"<th scope='row'>{escape(str(text))}</th>"
            if i == 0
            else f"<td class='{'t' if i < texts else ''}'>{escape(str(text))}</td>"
            for i, text in enumerate(start)
        )
        + "".join(cells)
        + "</tr>"
        for start, cells in lines
    )
    return (
        f"<div class='scroll' role='region' tabindex='0' aria-label='{escape(label)}'>"
        f"<table class='sortable'><caption class='unseen'>{escape(label)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts(items: dict[str, str]) -> str:
    """A list of facts, those without text left out."""
    found = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in items.items() if value)
    return f"<dl>{found}</dl>"


def search_text(row: Row) -> str:
    """What the search box looks through, escaped."""
    run = row.first
    return escape(f"{run.title} {row.name} {run.detector_class} {run.paper} {row.selection} {run.source}".lower())


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
