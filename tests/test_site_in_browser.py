"""The leaderboard's site in a real browser, from files: sort, filter, open, follow a curve, and nothing fetched."""

import numpy as np
import pytest
from patience import PATIENCE
from test_evaluate import of_generators

from resproto_fd.training.board.building import build
from resproto_fd.training.results import RunResult, Selection, test_result
from resproto_fd.training.scores import ScoreTable

TITLE = "<script>document.title = 'run'</script>"
STRENGTHS = {"weak": 0.3, "strong": 2.0, "middle": 1.9}


def made_table(strength: float, dataset: str) -> ScoreTable:
    """Twelve real and twelve fake videos of four frames, apart by `strength` standard deviations."""
    rng = np.random.default_rng(len(dataset))
    labels = np.repeat([0, 1], 48)
    videos = [f"{dataset}/{'fake' if i >= 12 else 'real'}/{i:02d}" for i in range(24) for _ in range(4)]
    methods = ["real"] * 48 + ["swap"] * 24 + ["reenact"] * 24
    logits = rng.normal(size=96) + strength * labels
    return ScoreTable(dataset, videos, np.tile(np.arange(4), 24), labels, methods, 1 / (1 + np.exp(-logits)))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    root = tmp_path_factory.mktemp("site")
    for name, strength in STRENGTHS.items():
        folder = root / "runs" / name / "seed0"
        tables = {dataset: made_table(strength, dataset) for dataset in ("Made-A", "Other-B", "Third-C")}
        for dataset, table in tables.items():
            table.save(folder / "scores" / f"{dataset}.npz")
        result = RunResult(
            detector=name,
            title=TITLE if name == "weak" else name.capitalize(),
            protocol="made",
            fingerprint="ab" * 16,
            seed=0,
            config={"model": {"width": 3}},
            selected_on=Selection(rule="last"),
            tests={dataset: test_result(table, in_domain=False) for dataset, table in tables.items()},
        )
        result.save(folder / "result.json")
    (root / "runs" / "broken").mkdir()
    (root / "runs" / "broken" / "result.json").write_text('{"detector": "<img src=x onerror=alert(1)>"')
    build([root / "runs"], root / "site")
    return root / "site"


@pytest.fixture
def page(browser, site):
    """The first page; after the test, no error was said and nothing but the site's own files was asked for."""
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    opened.set_default_timeout(1000 * PATIENCE)
    said, asked = [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto((site / "index.html").as_uri())
    yield opened
    opened.close()
    assert said == []
    assert [url for url in asked if not (url.startswith(site.as_uri()) or url == "data:,")] == []


def names(page) -> list[str]:
    """The rows of the table in view, from the top."""
    return [
        text.split("\n")[0].strip() for text in page.locator("div.on table.board tbody tr:visible th").all_inner_texts()
    ]


@pytest.mark.slow
def test_rows_are_ranked_then_sorted_both_ways(page):
    ranked = names(page)
    assert [name.lower().startswith(start) for name, start in zip(ranked, ("strong", "middle", "<script"))] == [
        True
    ] * 3
    header = page.locator("div.on table.board th[data-set='Other-B'] button").first
    header.click()
    first = page.locator("div.on table.board th[data-set='Other-B']").first.get_attribute("aria-sort")
    one_way = names(page)
    header.press("Enter")
    assert page.locator("div.on table.board th[data-set='Other-B']").first.get_attribute("aria-sort") != first
    assert names(page) == one_way[::-1]


@pytest.mark.slow
def test_search_leaves_the_rows_that_hold_its_words(page):
    assert page.locator("#count").inner_text() == "3 of 3 rows"
    page.fill("#search", "midd")
    assert len(names(page)) == 1
    assert page.locator("#count").inner_text() == "1 of 3 rows"
    page.fill("#search", "nothing of the kind")
    assert names(page) == []
    page.fill("#search", "")
    page.select_option("#test-set", "Made-A")
    assert not page.locator("div.on table.board td[data-set='Other-B']").first.is_visible()


@pytest.mark.slow
def test_a_long_table_of_methods_has_a_search_of_its_own(browser, tmp_path):
    of_generators(tmp_path, 40)
    build([tmp_path / "runs"], tmp_path / "site")
    (path,) = (tmp_path / "site" / "rows").glob("*.html")
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    opened.set_default_timeout(1000 * PATIENCE)
    opened.goto(path.as_uri())
    opened.fill("input.within", "generator 01")
    shown = opened.locator("#methods tbody tr:visible th").all_inner_texts()
    opened.close()
    assert sorted(shown) == [f"generator {number:03d}" for number in (1, *range(10, 20))]


@pytest.mark.slow
def test_another_metric_shows_another_table(page):
    before = page.locator("div.on table.board").inner_text()
    page.get_by_role("radio", name="Video EER").check(force=True)
    assert page.locator("div.on table.board").inner_text() != before
    assert page.locator("section.protocol > div.on").count() == 1


@pytest.mark.slow
def test_text_from_outside_stays_text(page):
    assert page.title() == "Face-forgery leaderboard"
    assert TITLE in page.locator("div.on table.board").inner_text()
    assert "1 result file left out" in page.locator("#problems").inner_text()


@pytest.mark.slow
def test_a_rows_page_opens_and_its_curve_is_followed_by_pointer_and_keys(page):
    page.locator("div.on table.board tbody th a", has_text="Strong").click()
    assert page.locator("h1").inner_text().startswith("Strong")
    roc = page.locator("figure.chart").filter(has_text="ROC").first
    chart, tip = roc.locator("svg.lines"), roc.locator(".tip")
    chart.scroll_into_view_if_needed()
    chart.hover()
    read = tip.inner_text()
    assert "Made-A: FPR" in read
    assert "Other-B: FPR" in read
    chart.focus()
    page.keyboard.press("Home")
    assert "FPR 0.000" in tip.inner_text()
    page.keyboard.press("End")
    assert "FPR 1.000, TPR 1.000" in tip.inner_text()
    page.keyboard.press("Escape")
    assert tip.inner_text() == ""
    page.go_back()
    assert len(names(page)) == 3


@pytest.mark.slow
def test_the_theme_turns_dark_and_is_kept_on_the_next_page(page):
    from playwright.sync_api import expect

    def ground() -> str:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    button = page.locator("#theme")
    button.click()
    light = ground()
    button.click()
    dark = ground()
    assert light != dark
    page.locator("nav a", has_text="Published").click()
    page.wait_for_url("**/published.html")
    expect(page.locator("body")).to_have_css("background-color", dark)  # waits for the page's script
    assert page.locator("#theme").inner_text() == "Theme: dark"


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, pytest.param(1200, marks=pytest.mark.slow)])
def test_no_page_is_wider_than_its_window(page, site, width):
    page.set_viewport_size({"width": width, "height": 800})
    for path in [site / "index.html", site / "published.html", *sorted((site / "rows").iterdir())]:
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path.name


@pytest.mark.slow
def test_without_scripts_every_table_is_there(browser, site):
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.set_default_timeout(1000 * PATIENCE)
    opened.goto((site / "index.html").as_uri())
    assert opened.locator("table.board:visible").count() > 1
    context.close()
