"""The embedding map on the leaderboard: linked from its row, only with the run's own weights, and text is text."""

from functools import cache

import pytest
from test_site_in_browser import made_table

from resproto_fd.configs.files import write_text
from resproto_fd.training.board.building import build
from resproto_fd.training.board.rendering import ROWS
from resproto_fd.training.explaining.embedding import STORED, Scatter
from resproto_fd.training.results import RunResult, Selection, test_result

OWN, OTHER = "a" * 64, "b" * 64
EVIL = "<script>alert(1)</script>"


@cache
def made_result() -> RunResult:
    table = made_table(1.0, "Made-A")
    return RunResult(
        detector="made",
        title="Made",
        protocol="made",
        fingerprint="ab" * 16,
        seed=0,
        config={},
        checkpoint_sha256=OWN,
        selected_on=Selection(rule="last"),
        tests={"Made-A": test_result(table, in_domain=False)},
    )


@pytest.fixture
def run(tmp_path):
    """The folder of a run whose score tables are not at hand."""
    folder = tmp_path / "runs" / "made" / "seed0"
    made_result().save(folder / "result.json")
    return folder


def made_map(**changes) -> Scatter:
    points = [(20.0, 30.0, 0, "a.png"), (700.0, 500.0, 1, EVIL), (40.0, 30.0, 2, "real 0")]
    fields = {"how": "t-SNE", "groups": ["real", EVIL, "prototype, real"], "points": points, "prototypes": 1}
    return Scatter(**fields | {"weights": OWN} | changes)


def site(run):
    """The row's page, and the page of its map or None."""
    build([run], run.parents[2] / "site")
    pages = sorted((run.parents[2] / "site" / ROWS).glob("*.html"), key=lambda path: len(path.name))
    return pages[0], pages[1] if len(pages) > 1 else None


def test_a_map_of_the_runs_own_weights_has_a_page_that_its_row_links_to(run):
    write_text(run / STORED, made_map().model_dump_json())
    row, page = site(run)
    assert f'href="{page.name}"' in row.read_text()
    text = page.read_text()
    assert f'href="{row.name}"' in text
    assert "default-src &#39;none&#39;" in text
    assert EVIL not in text
    assert "&lt;script&gt;alert(1)" in text
    assert [text.count(f'<path d="M{place}m') for place in ("20.0 30.0", "700.0 500.0", "40.0 30.0")] == [1, 1, 1]


@pytest.mark.slow
def test_a_map_of_other_weights_is_not_shown_and_its_old_page_goes(run):
    write_text(run / STORED, made_map().model_dump_json())
    assert site(run)[1]
    for weights in (OTHER, None):
        write_text(run / STORED, made_map(weights=weights).model_dump_json())
        row, page = site(run)
        assert page is None
        assert "is of other weights than the result" in row.read_text()


@pytest.mark.parametrize(
    "spoil",
    [
        {"points": [(20.0, 30.0, 9, "a.png")]},
        *(
            pytest.param(spoil, marks=pytest.mark.slow)
            for spoil in (
                {"points": [(2000.0, 30.0, 0, "a.png")]},
                {"prototypes": 4},
                {"how": "by hand"},
                {"weights": "short"},
                {"more": 1},
            )
        ),
    ],
)
def test_a_file_that_is_no_map_is_named_and_the_site_is_built(run, spoil):
    whole = made_map()
    write_text(run / STORED, Scatter.model_construct(**vars(whole) | spoil).model_dump_json(warnings=False))
    if "more" in spoil:
        write_text(run / STORED, whole.model_dump_json()[:-1] + ', "more": 1}')
    row, page = site(run)
    assert page is None
    assert "cannot be read" in row.read_text()
    assert "embedding.json" in row.read_text()
