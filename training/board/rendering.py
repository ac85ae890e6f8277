"""Fills the page templates in `templates/`, and names the site's files.

The templates escape every value. Only charts, style and scripts come as `Markup`.
"""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from resproto_fd.training.board.table import DIGITS, TIE, TIE_RULE, Row, Section

INDEX, PUBLISHED, ROWS = "index.html", "published.html", "rows"
EXPORTS = {
    "CSV": "leaderboard.csv",
    "Markdown": "leaderboard.md",
    "LaTeX": "leaderboard.tex",
    "JSON": "leaderboard.json",
}


SITE = {"Leaderboard": INDEX, "Published numbers": PUBLISHED, **EXPORTS}
"""Links of every page of the site, from its root."""


def render_page(
    template: str,
    title: str,
    path: str,
    links: Mapping[str, str] = SITE,
    scripts: Sequence[str] = (),
    allowed: str = "",
    **content: Any,
) -> str:
    """Fill a page's template.

    Args:
        template: File in `templates/`.
        title: The page's title.
        path: The page's own path from the site's root.
        links: What it links to above all else.
        scripts: Files in `templates/` of scripts that this page has beside the site's own.
        allowed: Further directives of its content security policy.
        content: What the template shows.
    """
    up = "../" * path.count("/")
    early, script, *more = map(_asset, ("early.js", "board.js", *scripts))
    return (
        _environment()
        .get_template(template)
        .render(
            page={
                "policy": "; ".join(filter(None, [_policy(early, script, *more), allowed])),
                "title": title,
                "style": _asset("board.css"),
                "early_script": early,
                "script": script,
                "more_scripts": more,
                "links": [{"name": name, "path": up + file, "here": file == path} for name, file in links.items()],
            },
            **content,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("resproto_fd.training.board", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals |= {"count": count, "DIGITS": DIGITS, "INDEX": INDEX, "TIE": TIE, "TIE_RULE": TIE_RULE}
    return environment


@cache
def _asset(name: str) -> Markup:
    return Markup((files("resproto_fd.training.board") / "templates" / name).read_text(encoding="utf-8"))


def _policy(*scripts: str) -> str:
    """Content security policy: nothing is fetched, and only the site's own scripts run."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src {allowed}"


def row_path(section: Section, row: Row) -> str:
    """Path of a row's own page: readable, and different for each row."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{section.protocol} {row.name}".lower()).strip("-")[:60]
    digest = hashlib.sha256("\n".join([section.protocol, section.fingerprint, row.key]).encode()).hexdigest()
    return f"{ROWS}/{words}-{digest[:8]}.html"


def map_path(section: Section, row: Row) -> str:
    """Path of the page of a row's embedding map."""
    return row_path(section, row).replace(".html", "-map.html")


def count(amount: int, noun: str) -> str:
    """A number with its noun.

    >>> count(1, "run"), count(2, "run")
    ('1 run', '2 runs')
    """
    return f"{amount} {noun}{'' if amount == 1 else 's'}"
