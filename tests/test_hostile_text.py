"""Text from result files, published numbers and data sets cannot change a page: it stays text, whatever it holds."""

from html.parser import HTMLParser

import pytest
from patience import PATIENCE
from test_leaderboard import numbers, run, saved, scored
from tiny import quick_and_slow

from resproto_fd.preprocessing.audit.case import Audit, Finding
from resproto_fd.preprocessing.audit.report import as_html
from resproto_fd.training.board import published_page
from resproto_fd.training.board.building import build
from resproto_fd.training.board.collecting import Pending, Problem
from resproto_fd.training.board.index_page import render
from resproto_fd.training.board.published_beside import PublishedLine
from resproto_fd.training.board.row_page import render_row
from resproto_fd.training.board.table import sections
from resproto_fd.training.published import PublishedRow, PublishedSource
from resproto_fd.training.results import MethodResult, Metrics, RunResult, Selection, Transfer

HOSTILE = [
    "<script>alert(1)</script>",
    '"><script>alert(1)</script>',
    "'><img src=x onerror=alert(1)>",
    "</title><script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "</pre></code><h1>large</h1>",
    "</table></main></body></html><form action=//a.example>",
    "</svg><svg onload=alert(1)>",
    "<!-- everything after this is a comment",
    "--><img src=x onerror=alert(1)><!--",
    "<![CDATA[<b>bold</b>]]>",
    '" onmouseover="alert(1)" x="',
    "' onfocus='alert(1)' autofocus='",
    "x onfocus=alert(1) autofocus",
    "javascript:alert(1)//` onclick=`alert(1)",
    "{{ 7 * 7 }} {{ page.policy }}",
    "{% raw %} {% for x in [1] %} {# gone #} ${7*7}",
    "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#60;b&#62;",
    "first\nsecond\t\u2028\u202ethird",
    "\\\"'<>&/ \x7f é 漢 \U0001f600",
]


class Outline(HTMLParser):
    """The elements of a page with their attributes' names, and everything a reader can see."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.texts = [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, sorted(name for name, _ in attributes)))
        self.texts += [value for _, value in attributes if value]

    def handle_endtag(self, tag):
        self.elements.append(("/" + tag, []))

    def handle_comment(self, text):
        self.elements.append(("comment", []))

    def handle_data(self, data):
        self.texts.append(data)


def result_with(text) -> RunResult:
    """A result with the text in every field that takes one."""
    details = {
        "per_method": {text: MethodResult(**numbers(0.7), forgery_type=text)},
        "variants": {text: Metrics(**numbers(0.7))},
        "transfer": {"eer": Transfer(threshold=0.5, fpr=0.1, tpr=0.7)},
    }
    other = f"{text} 2"
    return run(
        text, {}, tests={text: scored(0.7, **details), other: scored(0.8, **details)}, title=text, paper=text,
        protocol=text, fingerprint=f"{text}12345678", note=text, overrides=[text], detector_class=text, commit=text,
        versions={text: text}, timing={text: 1.0}, source="submitted", trained_on=[text],
        selected_on=Selection(rule="best", dataset=text, split=text, metric=text),
        robustness={text: {text: {"1": Metrics(**numbers(0.6))}}}, cross_auc={text: {text: 0.7}, other: {text: 0.6}},
        config={
            "protocol": {"train": [text], "title": text, "source": text, "note": text},
            "detector": {"fidelity": text, "deviations": [text], "model": {"backbone": text}},
            text: text,
        },
    )  # fmt: skip


def published_row(text) -> PublishedRow:
    return PublishedRow(
        method=text, method_printed=text, venue=text, train_set=text, test_set=text, test_set_printed=text,
        level="frame", metric="auc", value=0.5, decimals=3, source="made", table=text, setting=text, note=text,
    )  # fmt: skip


def board_pages(text, monkeypatch) -> dict[str, tuple[str, int]]:
    """Each page with the text in it, and in how many places it must be seen at least."""
    row = published_row(text)
    lines = [PublishedLine(text, text, text, text, {text: row})]
    monkeypatch.setattr(published_page, "published_lines", lambda *_: lines)
    (section,) = sections([result_with(text)])
    source = PublishedSource.model_validate(
        {
            "title": text,
            "authors": text,
            "venue": text,
            "note": text,
            "left_out": [],
            "tables": {text: {"content": "results", "unit": "percent", "level_stated": False, "runs": 1, "cells": 1,
                              "absent": 0, "note": text}},
            "discrepancies": [{"kind": "text", "table": text, "method": text, "test_set": text, "metric": "auc",
                               "printed": 0.5, "found": 0.6, "note": text}],
        }
    )  # fmt: skip
    monkeypatch.setattr(published_page, "load_sources", lambda: {text: source})
    return {
        "index": (render([section], [Problem(text, text)], [Pending(text, text, text)]), 100),
        "row": (render_row(section, section.rows[0]), 40),
        "published": (published_page.render_published([row], {"made": source}), 12),
    }


def audit_page(*texts) -> str:
    """The audit's page with each text in every field that takes one."""
    counts = {"videos": 1, "frames": 1, "frames_a_video": (1, 1), "fake_share": 0.5, "people": 0}
    sets = [{"dataset": text, "split": text, "methods": [text], "sizes": [text], **counts} for text in texts]
    found = [Finding(text, "error", text, text, 2, (text,), ((text, text),)) for text in texts]
    return as_html(Audit(sets, found, list(texts)))


def assert_only_text_differs(page, plain, text, least):
    shown, expected = Outline(page), Outline(plain)
    assert shown.elements == expected.elements
    assert sum(text in each for each in shown.texts) >= least


@pytest.fixture(scope="module")
def plain_pages():
    with pytest.MonkeyPatch.context() as monkeypatch:
        return board_pages("plain", monkeypatch)


@pytest.mark.parametrize("text", quick_and_slow(HOSTILE, HOSTILE[::3]))
def test_hostile_text_changes_no_element_of_the_board(text, plain_pages, monkeypatch):
    for name, (page, least) in board_pages(text, monkeypatch).items():
        assert_only_text_differs(page, plain_pages[name][0], text, least)


@pytest.mark.parametrize("text", quick_and_slow(HOSTILE, HOSTILE[::3]))
def test_hostile_text_changes_no_element_of_the_audit(text):
    assert_only_text_differs(audit_page(text), audit_page("plain"), text, 10)


@pytest.mark.slow
def test_a_browser_runs_none_of_it(browser, tmp_path):
    runs = [run(f"d{i}", {"B": 0.5}, title=text, overrides=[text], note=text) for i, text in enumerate(HOSTILE)]
    site = build([saved(tmp_path / "runs", runs)], tmp_path / "site").page.parent
    (tmp_path / "audit.html").write_text(audit_page(*HOSTILE))
    page = browser.new_page()
    page.set_default_timeout(1000 * PATIENCE)
    heard = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
    rows = sorted((site / "rows").iterdir())
    for path in [tmp_path / "audit.html", *rows[:4], site / "index.html"]:
        page.goto(path.as_uri())
    assert page.locator("div.on table.board tbody tr:visible").count() == len(HOSTILE)
    page.close()
    assert heard == []
