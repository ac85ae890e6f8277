"""The leaderboard: a function of result files, that ranks only what may be compared and shows foreign text as text."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import DataConfig
from resproto_fd.training.board import table
from resproto_fd.training.board.building import build
from resproto_fd.training.board.charts import Bar, Series, bar_chart, line_chart, tenths
from resproto_fd.training.board.collecting import Pending, collect
from resproto_fd.training.board.exports import MARKDOWN_METRICS, to_csv, to_markdown
from resproto_fd.training.board.index_page import render
from resproto_fd.training.board.notes import about_protocol, margins, notes, warnings
from resproto_fd.training.board.rendering import EXPORTS, INDEX, PUBLISHED, ROWS, row_path
from resproto_fd.training.board.row_page import render_row
from resproto_fd.training.board.run_facts import NOT_STORED, short_videos
from resproto_fd.training.board.table import METRICS, Cell, number, sections
from resproto_fd.training.cli import main
from resproto_fd.training.domains import in_domain
from resproto_fd.training.results import Estimate, MethodResult, Metrics, RunResult, Selection, TestResult

COUNTS = {"frames": 40, "real_frames": 20, "videos": 8, "real_videos": 4}


def numbers(auc, **changed):
    """Metrics that all follow from one number; None: a test set without reals."""
    if auc is None:
        values = dict.fromkeys([f"{level}_{m}" for level in ("frame", "video") for m in ("auc", "ap", "eer")])
        values |= {f"{level}_balanced_acc": None for level in ("frame", "video")}
        return COUNTS | {"real_frames": 0, "real_videos": 0} | values | {"frame_acc": 0.5, "video_acc": 0.5} | changed
    rates = {"auc": auc, "ap": auc, "eer": 1 - auc, "acc": auc, "balanced_acc": auc}
    return COUNTS | {f"{level}_{m}": v for level in ("frame", "video") for m, v in rates.items()} | changed


def scored(auc, in_domain=None, **changed):
    return TestResult(
        **numbers(auc),
        **(
            {
                "per_method": {"swap": MethodResult(**numbers(auc), forgery_type="face swap")},
                "variants": {"grp": Metrics(**numbers(auc))},
                "frames_hash": "f" * 64,
                "in_domain": in_domain,
            }
            | changed
        ),
    )


def run(detector, aucs, seed=0, **changed):
    """A run with a frame AUC for each test set; "Demo-A" is in-domain."""
    fields = {
        "detector": detector,
        "title": detector.upper(),
        "protocol": "demo_cross",
        "fingerprint": "aaaaaaaaaaaaaaaa",
        "seed": seed,
        "config": {"lr": 5e-7, "seed": seed},
        "selected_on": Selection(rule="best", dataset="Demo-A", split="val", metric="frame_auc"),
        "tests": {name: scored(auc, in_domain=name == "Demo-A") for name, auc in aucs.items()},
    }
    return RunResult(**(fields | changed))


ORACLE = Selection(rule="best", dataset="B", split="test", metric="frame_auc", oracle=True)


def test_runs_of_a_changed_yaml_of_the_users_own_are_rows_of_their_own(tmp_path):
    def own(seed, lr=1e-3, **more):
        recipe = {"name": "mine", "detector": "chance", "model": {}, "train": {"optimizer": {"lr": lr}} | more}
        return run("mine", {"Demo-B": 0.7}, seed, config={"detector": recipe})

    same = [own(0), own(1), own(2, batch_size=32)]  # as the default
    assert [len(row.runs) for row in only(same).rows] == [3] and only(same).rows[0].name == "mine"
    rows = only([*same, own(3, lr=1e-2)]).rows
    assert sorted(len(row.runs) for row in rows) == [1, 3]
    assert all(re.fullmatch("mine recipe=[0-9a-f]{8}", row.name) for row in rows) and rows[0].name != rows[1].name
    found, problems = collect([saved(tmp_path, [own(0), own(0, lr=1e-2)])])
    assert len(found) == 2 and not problems
    lines = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert {f"mine recipe={line['recipe']}" for line in lines} == {row.name for row in rows}


def only(results):
    (section,) = sections(results)
    return section


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def saved(folder, runs):
    for i, result in enumerate(runs):
        result.save(folder / f"run{i}" / "result.json")
    return folder


class Page(HTMLParser):
    """Tags, attributes and text of a page, as a browser would see them."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def test_seeds_of_one_detector_are_one_row_with_mean_and_standard_deviation():
    section = only([run("a", {"B": 0.7}, 0), run("a", {"B": 0.8}, 1), run("a", {"B": 0.9}, 2)])
    (row,) = section.rows
    cell = row.cell("B", "frame_auc")
    assert cell.values == (0.7, 0.8, 0.9)
    assert (cell.mean, cell.sd) == (pytest.approx(0.8), pytest.approx(0.1))
    assert number(cell) == "0.800 ± 0.100"


def test_what_the_command_line_changed_and_how_the_checkpoint_was_chosen_make_another_row():
    section = only(
        [
            run("a", {"B": 0.7}),
            run("a", {"B": 0.8}, overrides=["model.top_k=16"]),
            run("a", {"B": 0.9}, selected_on=Selection(rule="last")),
            run("a", {"B": 0.6}, source="submitted"),
        ]
    )
    assert len(section.rows) == 4


def test_rows_are_ranked_by_the_mean_over_sets_that_nobody_was_trained_on():
    section = only([run("a", {"Demo-A": 0.9, "B": 0.6, "C": 0.6}), run("b", {"Demo-A": 0.5, "B": 0.7, "C": 0.8})])
    assert section.mean_sets == ["B", "C"]
    assert [(line.rank, line.row.name) for line in section.table("frame_auc")] == [(1, "b"), (2, "a")]
    assert section.table("frame_auc")[0].cells[-1].mean == pytest.approx(0.75)


def test_with_in_domain_sets_only_the_mean_is_over_all():
    assert only([run("a", {"Demo-A": 0.9})]).mean_sets == ["Demo-A"]


PROTOCOL = {"protocol": {"train": ["Demo-A"], "test": ["Demo-A", "B", "C"]}}


def test_a_part_of_a_training_set_is_no_set_of_the_mean():
    protocol = {"protocol": {"train": ["FaceForensics++"], "test": ["FF-DF", "B", "C"]}}
    tests = {"FF-DF": scored(0.9, in_domain=False), "B": scored(0.6, in_domain=False), "C": scored(0.7, in_domain=True)}
    section = only([run("a", {}, tests=tests, config=protocol, trained_on=["FaceForensics++"])])
    assert (section.in_domain, section.mean_sets) == ({"FF-DF", "C"}, ["B"])  # C: by the manifests that the run had


def test_a_section_says_what_was_trained_on_and_that_data_are_made():
    content = loading.load("protocols", "demo_cross").model_dump() | {
        "source": "",
        "frames": {"train": 4, "test": None},
    }
    text = " ".join(about_protocol(only([run("a", {"Demo-A": 0.9, "Demo-B": 0.6}, config={"protocol": content})])))
    assert "Training sets: Demo-A. Frames of each video: train 4, test all." in text
    assert "Checkpoint: best frame_auc Demo-A val." in text
    assert "Demo-A, Demo-B, Demo-C: drawn by code." in text


def test_the_protocol_fixes_the_sets_of_the_mean_whichever_rows_are_there():
    rows = [run("a", {"Demo-A": 0.9, "B": 0.6, "C": 0.7}, config=PROTOCOL), run("b", {"B": 0.9}, config=PROTOCOL)]
    seen = {"B": scored(0.99, in_domain=True), "C": scored(0.9, in_domain=False)}
    other = run("c", {}, tests=seen, config=PROTOCOL, overrides=["trained_under=theirs"])
    for results in (rows[:1], rows, [*rows, other]):
        section = only(results)
        assert section.mean_sets == ["B", "C"]
        assert section.in_domain == {"Demo-A"}
        assert section.table("frame_auc")[0].cells[-1].mean == pytest.approx(0.65)
    lines = {line.row.first.detector: line for line in section.table("frame_auc")}
    assert (lines["b"].rank, lines["b"].cells[-1].mean) == (None, None)
    assert (lines["c"].row.group, lines["c"].rank, lines["c"].best) == ("seen", None, [])
    assert "c trained_under=theirs: was trained on B, a set of the mean; not ranked." in notes(section)
    assert "Trained on a test set of the mean: not ranked" in render([section], [])


@pytest.mark.parametrize(
    ("protocol", "rows"),
    [
        (
            "celeb_df_pp_gf",
            {
                "swaps": (["Celeb-DF-v2"], "seen", "Celeb-DF++-FS"),
                "talks": (["Celeb-DF++-TF"], "seen", "Celeb-DF++-TF"),
                "other": (["FaceForensics++"], "ranked", ""),
                "nothing": ([], "ranked", ""),
                "unknown": (None, "unstated", ""),
            },
        ),
        (
            "hydrafake",
            {
                "own": (["HydraFake"], "seen", "HydraFake-ID"),
                "part": (["FF-DF_c40", "UADFV"], "seen", "HydraFake-ID"),
                "wild": (["FFIW"], "seen", "HydraFake-CD"),
                "other": (["Celeb-DF-v2"], "ranked", ""),
            },
        ),
        ("scaledf", {"own": (["ScaleDF"], "seen", "ScaleDF"), "other": (["DFDC"], "ranked", "")}),
    ],
)
def test_on_a_board_for_tests_alone_no_column_is_in_domain_and_who_has_seen_one_stands_apart(tmp_path, protocol, rows):
    content = loading.load("protocols", protocol).model_dump()
    runs, data = [], DataConfig(root=str(tmp_path))
    for name, (trained, *_) in rows.items():
        seen = in_domain(trained, content["test"], data)
        tests = {test: scored(0.8, in_domain=seen[test]) for test in content["test"]}
        runs.append(run(name, {}, tests=tests, trained_on=trained, protocol=protocol, config={"protocol": content}))
    section = only(runs)
    assert (section.in_domain, section.mean_sets) == (set(), sorted(content["test"]))
    found = {row.name: (row.group, ", ".join(row.seen)) for row in section.rows}
    assert found == {name: (group, seen) for name, (_, group, seen) in rows.items()}


def test_a_set_of_the_protocol_that_no_row_has_leaves_no_mean_and_is_named():
    section = only([run("a", {"Demo-A": 0.9, "B": 0.6}, config=PROTOCOL)])
    assert section.table("frame_auc")[0].rank is None
    assert "C: no row was tested on it, so no row has a mean; test on it." in notes(section)


def test_weights_of_unknown_history_are_ranked_apart_and_never_best():
    given = run("given", {"B": 0.99}, selected_on=Selection(rule="given"))
    unknown = run("unknown", {}, tests={"B": scored(0.98)})
    section = only([run("a", {"B": 0.7}), given, unknown])
    lines = section.table("frame_auc")
    assert [(line.row.name, line.row.group, line.rank, line.best) for line in lines] == [
        ("a", "ranked", 1, [False, False]), ("given", "unstated", 1, []), ("unknown", "unstated", 2, []),
    ]  # fmt: skip
    assert '<tbody class="unstated">' in render([section], [])


def test_a_lower_equal_error_rate_is_better():
    section = only([run("a", {"B": 0.6}), run("b", {"B": 0.9})])
    lines = section.table("frame_eer")
    assert [(line.rank, line.row.name, line.best) for line in lines] == [(1, "b", [True, True]), (2, "a", [False] * 2)]


def test_numbers_that_print_the_same_share_rank_and_bold():
    lines = only([run("a", {"B": 0.80001}), run("b", {"B": 0.80002}), run("c", {"B": 0.7})]).table("frame_auc")
    assert [(line.row.name, line.rank, line.best[0]) for line in lines] == [
        ("b", 1, True), ("a", 1, True), ("c", 3, False)
    ]  # fmt: skip


def test_a_lone_row_is_not_the_best_of_anything():
    (line,) = only([run("a", {"B": 0.8})]).table("frame_auc")
    assert line.best == [False, False]


def test_an_oracle_is_last_marked_never_ranked_never_best_and_takes_no_rank_from_others():
    results = [run("a", {"B": 0.7}), run("b", {"B": 0.99}, selected_on=ORACLE), run("c", {"B": 0.6})]
    lines = only(results).table("frame_auc")
    assert [(line.row.name, line.rank) for line in lines] == [("a", 1), ("c", 2), ("b", None)]
    assert lines[-1].best == []
    assert lines[0].best == [True, True]
    markdown = [text for text in to_markdown(sections(results), []).splitlines() if "| B (b) |" in text]
    assert len(markdown) == len(MARKDOWN_METRICS)
    assert all(text.startswith("| – |") and "oracle (chosen on test)" in text for text in markdown)
    assert not any("**" in text for text in markdown)
    body = render(sections(results), []).split('<tbody class="oracles">')[1].split("</tbody>")[0]
    assert "oracle (chosen on test)" in body
    assert 'class="best"' not in body


def test_different_fingerprints_are_never_in_one_table_and_the_reader_is_told():
    results = [run("a", {"B": 0.7}), run("b", {"B": 0.9}, fingerprint="bbbbbbbbbbbbbbbb")]
    found = sections(results)
    assert [[row.name for row in section.rows] for section in found] == [["a"], ["b"]]
    assert [section.table("frame_auc")[0].rank for section in found] == [1, 1]
    for text in (render(found, []), to_markdown(found, [])):
        assert "has 2 fingerprints" in text
    assert "fingerprints" not in to_markdown(sections(results[:1]), [])


def test_an_absent_class_is_shown_as_undefined_with_its_reason_and_kept_out_of_the_mean():
    results = [run("a", {"B": 0.7, "C": None}), run("b", {"B": 0.8, "C": None})]
    section = only(results)
    assert section.mean_sets == ["B"]
    assert number(section.rows[0].cell("C", "frame_auc")) == "undefined"
    assert section.rows[0].cell("C", "frame_auc").reason == "no real frames in this test set"
    assert any("C: no real frames" in note for note in notes(section))
    assert "| undefined |" in to_markdown([section], [])
    page = render([section], [])
    assert 'title="no real frames in this test set"' in page
    assert ">undefined<" in page


def test_runs_of_a_sweep_without_a_result_are_named_on_the_first_page():
    section = only([run("a", {"B": 0.7})])
    pending = [Pending("p/b/seed0", "running"), Pending("p/c/seed0", "failed", "expected 3, got 4")]
    page = render([section], [], pending)
    assert "2 runs not in these tables yet" in page
    assert "running: <code>p/b/seed0</code>" in page
    assert "failed: <code>p/c/seed0</code>: expected 3, got 4" in page
    assert "not in these tables" not in render([section], [])


def test_a_row_that_lacks_a_test_set_has_no_rank_and_says_so():
    section = only([run("a", {"B": 0.7, "C": 0.7}), run("b", {"B": 0.9})])
    lines = section.table("frame_auc")
    assert [(line.row.name, line.rank) for line in lines] == [("a", 1), ("b", None)]
    assert number(lines[1].cells[1]) == "not run"
    assert "not tested on C" in " ".join(notes(section))


def test_a_mean_takes_only_the_seeds_that_have_all_test_sets():
    (row,) = only([run("a", {"B": 0.7, "C": 0.9}), run("a", {"B": 0.5}, 1)]).rows
    assert row.cell("B", "frame_auc").values == (0.7, 0.5)
    assert row.mean(["B", "C"], "frame_auc").values == (pytest.approx(0.8),)


def test_rows_scored_on_other_frames_and_skipped_frames_are_noted():
    results = [run(name, {"B": 0.7}) for name in ("a", "b", "c", "d")]
    results[2].tests["B"] = scored(0.7, frames_hash="e" * 64)
    results[3].tests["B"] = scored(0.7, frames_hash="d" * 64, skipped=3)
    assert notes(only(results)) == [
        "B: c, seed 0 was not scored on the same frames as the rest, so the row is not tested.",
        "B: d, seed 0: 3 frames could not be read and are left out.",
        "B: score tables are not at hand of a, b: not recomputed, and not tested for ≈.",
    ]


def test_the_csv_has_a_line_for_each_run_and_test_set_with_all_digits():
    auc = 0.1 + 0.2
    text = to_csv([run("a", {"B": auc, "C": None}, seed) for seed in (0, 1)])
    lines = list(csv.DictReader(text.splitlines()))
    assert [(line["detector"], line["seed"], line["test_set"]) for line in lines] == [
        ("a", "0", "B"), ("a", "0", "C"), ("a", "1", "B"), ("a", "1", "C")
    ]  # fmt: skip
    wanted = "protocol detector seed test_set source frames videos frame_auc frame_ap frame_eer frame_acc video_auc"
    assert set(wanted.split()) <= set(lines[0])
    assert float(lines[0]["frame_auc"]) == auc
    assert (lines[0]["source"], lines[0]["oracle"], lines[0]["undefined"]) == ("measured", "false", "")
    assert (lines[1]["frame_auc"], lines[1]["undefined"]) == ("", "no real frames in this test set")


NASTY = "<script>alert(1)</script>\"'>&|`*\n</pre></script><img src=x onerror=alert(1)>"


def test_text_from_outside_is_shown_as_text_everywhere_on_the_page():
    tests = {NASTY: scored(0.7, per_method={NASTY: MethodResult(**numbers(0.7), forgery_type=NASTY)},
                           variants={NASTY: Metrics(**numbers(0.7))})}  # fmt: skip
    nasty = run(
        NASTY, {}, tests=tests, title=NASTY, paper=NASTY, protocol=NASTY, fingerprint=NASTY, note=NASTY,
        overrides=[NASTY], detector_class=NASTY, commit=NASTY, versions={NASTY: NASTY}, config={NASTY: NASTY},
        timing={NASTY: 1.0}, selected_on=Selection(rule="best", dataset=NASTY, split=NASTY, metric=NASTY),
    )  # fmt: skip
    plain = run("a", {"B": 0.7})
    for oracle in (False, True):
        nasty.selected_on.oracle = oracle
        for page, expected in zip(pages(nasty), pages(plain), strict=True):
            assert_text_is_text(page, expected)


def pages(result):
    (section,) = sections([result])
    return Page(render([section], [])), Page(render_row(section, section.rows[0]))


def assert_text_is_text(page, expected):
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in expected.tags} | {"code", "span", "tbody"}
    assert sum(tag == "script" for tag, _ in page.tags) == sum(tag == "script" for tag, _ in expected.tags)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert any(NASTY in text for text in page.text)


def test_text_from_outside_is_text_in_charts():
    axis = tenths(NASTY)
    lines = Page(line_chart(NASTY, [Series(NASTY, [(0.1, 0.2), (0.5, 0.6)], [NASTY, NASTY])], axis, axis))
    bars = Page(bar_chart(NASTY, [Bar(NASTY, 0.7, 0.6, 0.8)]))
    for chart in (lines, bars):
        assert {tag for tag, _ in chart.tags} <= {
            *["figure", "figcaption", "svg", "g", "line", "polyline", "text", "title", "rect", "ul", "li", "p"]
        }
        assert NASTY in chart.text
    (group,) = [a for tag, a in lines.tags if tag == "g" and "data-points" in a]
    assert [point[2] for point in json.loads(group["data-points"])] == [NASTY, NASTY]
    assert group["data-series"] == NASTY


def test_text_from_outside_cannot_break_out_of_a_markdown_table():
    text = to_markdown(sections([run("a", {"B": 0.7}, title=NASTY)]), [])
    (line, *_) = [line for line in text.splitlines() if line.startswith("| 1 |")]
    assert "<" not in line
    assert line.replace("\\|", "").count("|") == 7


def test_the_page_asks_for_nothing_and_its_policy_allows_nothing():
    (section,) = sections([run("a", {"B": 0.7})])
    page = Page(render([section], []))
    addresses = [a[name] for _, a in page.tags for name in ("src", "href", "action", "data") if name in a]
    links = {a["href"] for tag, a in page.tags if tag == "a"}
    site = {INDEX, PUBLISHED, *EXPORTS.values(), row_path(section, section.rows[0]), "#content"}
    assert links == site
    assert set(addresses) - links == {"data:,"}
    (policy,) = [a["content"] for tag, a in page.tags if tag == "meta" and "http-equiv" in a]
    assert policy.startswith("default-src 'none';")
    assert policy.count("'sha256-") == sum(tag == "script" for tag, _ in page.tags)


def test_every_header_can_be_sorted_and_explains_itself():
    page = Page(render(sections([run("a", {"Demo-A": 0.7, "B": 0.8})]), []))
    headers = [a for tag, a in page.tags if tag == "th" and a.get("scope") == "col" and "data-first" in a]
    assert len(headers) == 13 * len(METRICS)
    assert all(a["title"] for a in headers)
    buttons = [a for tag, a in page.tags if tag == "button"]
    assert len(buttons) == len(headers) + 1
    assert [a.get("id") for a in buttons].count("theme") == 1


def test_the_links_of_the_tables_lead_to_pages_that_exist_and_back(tmp_path):
    saved(tmp_path / "runs", [run("a", {"B": 0.7}), run("b", {"B": 0.7}, fingerprint="b" * 16)])
    index = build([tmp_path / "runs"], tmp_path / "out").page
    pages = [index, tmp_path / "out" / PUBLISHED, *sorted((tmp_path / "out" / ROWS).iterdir())]
    assert len(pages) == 4
    for path in pages:
        page = Page(path.read_text())
        ids = {a["id"] for _, a in page.tags if "id" in a}
        for address in [a["href"] for tag, a in page.tags if tag == "a"]:
            if address.startswith("#"):
                assert address[1:] in ids
            else:
                assert (path.parent / address).is_file()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, "Protocol-Train"),
        pytest.param({"trained_on": ["Other-1", "Other-2"]}, "Other-1, Other-2", marks=pytest.mark.slow),
        pytest.param({"selected_on": Selection(rule="given")}, NOT_STORED, marks=pytest.mark.slow),
    ],
)
def test_a_rows_page_names_the_sets_that_its_weights_were_trained_on(changed, said, tmp_path):
    config = {"protocol": {"train": ["Protocol-Train"]}}
    saved(tmp_path / "runs", [run("a", {"B": 0.7}, config=config, **changed)])
    build([tmp_path / "runs"], tmp_path / "out")
    (path,) = (tmp_path / "out" / ROWS).glob("*.html")
    text = [part.strip() for part in Page(path.read_text()).text if part.strip()]
    assert text[text.index("Training sets") + 1] == said


@pytest.mark.slow
def test_a_page_of_a_row_that_is_gone_is_removed_and_foreign_files_stay(tmp_path):
    saved(tmp_path / "runs", [run("a", {"B": 0.7}), run("b", {"B": 0.8})])
    build([tmp_path / "runs"], tmp_path / "out")
    rows = tmp_path / "out" / ROWS
    (rows / "notes.html").write_text("<p>mine</p>")
    build([tmp_path / "runs" / "run0"], tmp_path / "out")
    assert len(list(rows.iterdir())) == 2
    assert (rows / "notes.html").read_text() == "<p>mine</p>"


def test_cells_that_a_spreadsheet_would_run_are_made_text():
    (line,) = csv.DictReader(to_csv([run("a", {"B": 0.7}, title="=1+1")]).splitlines())
    assert line["title"] == "'=1+1"


def test_configurations_that_differ_between_seeds_are_named():
    results = [run("a", {"B": 0.7}, seed, config={"model": {"k": seed, "m": 1}}) for seed in (0, 1)]
    (section,) = sections(results)
    assert "These settings differ between the runs: model.k." in render_row(section, section.rows[0])


@pytest.mark.slow
def test_building_writes_the_site_and_the_same_bytes_again(tmp_path):
    saved(tmp_path / "runs", [run("a", {"B": 0.7}), run("a", {"B": 0.8}, 1), run("b", {"B": 0.9})])
    summary = build([tmp_path / "runs"], tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "index.html",
        "leaderboard.csv",
        "leaderboard.json",
        "leaderboard.md",
        "leaderboard.tex",
        "published.html",
        "rows",
    ]
    assert len(list((tmp_path / "one" / "rows").iterdir())) == 2
    assert (summary.runs, len(summary.sections), summary.problems) == (3, 1, [])
    assert summary.page.read_text().startswith("<!doctype html>")
    build([tmp_path / "runs"], tmp_path / "two")
    for path in files_of(tmp_path / "one"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


@pytest.mark.slow
def test_the_order_of_the_given_files_does_not_matter(tmp_path):
    saved(tmp_path, [run("b", {"B": 0.7}), run("a", {"B": 0.8}, 1), run("a", {"B": 0.9})])
    files = sorted(tmp_path.rglob("result.json"))
    build(files, tmp_path / "one")
    build(files[::-1], tmp_path / "two")
    for path in files_of(tmp_path / "one"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_broken_files_are_left_out_and_named_and_the_rest_is_built(tmp_path):
    saved(tmp_path, [run("a", {"B": 0.7})])
    whole = (tmp_path / "run0" / "result.json").read_text()
    lacking = json.loads(whole)
    del lacking["fingerprint"]
    for name, text in {
        "cut": whole[:-30],
        "nan": whole.replace("0.7", "NaN"),
        "lacking": json.dumps(lacking),
        "percent": whole.replace("0.7", "70.0"),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(text)
    summary = build([tmp_path], tmp_path / "out")
    assert summary.runs == 1
    assert [problem.path.split("/")[-2] for problem in summary.problems] == ["cut", "lacking", "nan", "percent"]
    page = "".join(Page(summary.page.read_text()).text)
    for problem in summary.problems:
        assert problem.path in page
        assert problem.reason in page
    assert "Left out" in (tmp_path / "out" / "leaderboard.md").read_text()


def test_a_page_of_something_else_is_not_replaced(tmp_path, capsys):
    saved(tmp_path / "runs", [run("a", {"B": 0.7})])
    (tmp_path / "index.html").write_text("<!doctype html>mine")
    assert main(["leaderboard", str(tmp_path / "runs"), "--out", str(tmp_path)]) == 2
    assert "expected no file or a page of an earlier leaderboard" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "index.html"}


def test_a_good_site_is_not_replaced_by_an_empty_one(tmp_path, capsys):
    saved(tmp_path / "good", [run("a", {"B": 0.7})])
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "result.json").write_text("{")
    assert main(["leaderboard", str(tmp_path / "good"), str(tmp_path / "bad"), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert f"left out: {tmp_path / 'bad' / 'result.json'}: not a readable result file" in said
    assert "Problem(" not in said
    before = {path: path.read_bytes() for path in files_of(tmp_path / "out")}
    assert main(["leaderboard", str(tmp_path / "bad"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'bad' / 'result.json'}: not a readable result file" in said
    assert "Problem(" not in said
    assert {path: path.read_bytes() for path in files_of(tmp_path / "out")} == before
    assert main(["leaderboard", str(tmp_path / "bad"), "--out", str(tmp_path / "new")]) == 2
    assert not (tmp_path / "new").exists()


def control(auc, low, seed):
    """A control that sees no face, of one seed, with its frame AUC's interval."""
    around = {"frame_auc": Estimate(value=auc, low=low, high=0.95)}
    tests = {"B": scored(auc, in_domain=False, intervals=around)}
    return run("files", {}, seed, tests=tests, role="control", sees_faces=False)


def test_the_warning_of_a_control_above_chance_looks_at_every_seed(monkeypatch):
    (warning,) = warnings(only([control(0.8, 0.7, 0)]))
    assert warning.startswith("B: FILES sees no face, and its frame AUC is 0.800 (95 % interval 0.700 to 0.950)")
    (warning,) = warnings(only([control(0.5, 0.4, 0), control(0.8, 0.7, 1)]))
    assert "is 0.800 with seed 1 (95 % interval 0.700 to 0.950)" in warning
    assert warnings(only([control(0.5, 0.4, 0), control(0.52, 0.45, 1)])) == []

    def over_seeds(low):
        monkeypatch.setattr(table, "limits_over_seeds", lambda *_: {"frame_auc": (low, 0.9)})

    over_seeds(0.6)
    (warning,) = warnings(only([control(0.5, 0.4, 0), control(0.8, 0.7, 1)]))
    assert "is 0.650, the mean of 2 seeds (95 % interval 0.600 to 0.900)" in warning
    over_seeds(0.3)
    assert warnings(only([control(0.5, 0.4, 0), control(0.8, 0.7, 1)])) == []  # by chance one of many is above
    assert "0.700 with seed 0" in warnings(only([control(0.7, 0.6, 0), control(0.72, 0.62, 1)]))[0]  # the less sure one


def test_a_control_below_chance_leaks_as_surely_and_many_controls_raise_no_false_alarm():
    def blind(auc, low, high, place=0):
        estimate = {"frame_auc": Estimate(value=auc, low=low, high=high)}
        tests = {"B": scored(auc, in_domain=False, intervals=estimate)}
        return run(f"files{place}", {}, tests=tests, role="control", sees_faces=False)

    (warning,) = warnings(only([blind(0.096, 0.05, 0.18)]))
    assert "its frame AUC is 0.096 (95 % interval 0.050 to 0.180)" in warning
    barely = (0.58, 0.503, 0.653)  # p = .04 alone
    assert len(warnings(only([blind(*barely)]))) == 1
    chance = [blind(0.5, 0.42, 0.58, place) for place in range(1, 8)]
    assert warnings(only([blind(*barely), *chance])) == []


def test_rows_of_one_name_each_have_their_margin_over_the_probe():
    theirs = run("a", {"B": 0.9}, source="submitted", selected_on=Selection(rule="given"))
    probe = run("clip_probe", {"B": 0.6}, role="control", detector_class="clip_probe")
    (margin,) = margins(only([run("a", {"B": 0.7}), theirs, run("b", {"B": 0.8}), probe]))
    assert "a (measured, best frame_auc on Demo-A val) +0.100" in margin
    assert "a (submitted, given weights, choice unknown) +0.300" in margin
    assert ", b +0.200." in margin


def test_the_same_run_twice_counts_once_and_a_contradicting_twin_is_named(tmp_path):
    saved(tmp_path, [run("a", {"B": 0.7}), run("a", {"B": 0.7}, note="again"), run("a", {"B": 0.8})])
    results, problems = collect([tmp_path, tmp_path / "run0"])
    assert [result.tests["B"].frame_auc for result in results] == [0.7]
    assert [problem.path.split("/")[-2] for problem in problems] == ["run2"]
    assert "same detector, protocol, selection and seed" in problems[0].reason


@pytest.mark.parametrize("which", ["tensors_sha256", "checkpoint_sha256"])
def test_a_seed_that_has_the_weights_of_another_is_left_out_and_named(tmp_path, which):
    same, other = {which: "a" * 64}, {which: "b" * 64}
    rows = [run("a", {"B": 0.7}, seed, **weights) for seed, weights in ((0, same), (1, same), (2, other))]
    rows += [run("b", {"B": 0.7}, 1, **same)]  # another row
    rows += [run("chance", {"B": 0.5}, seed) for seed in (0, 1)]  # no weights
    rows += [run("zero", {"B": 0.5}, seed, selected_on=Selection(rule="none"), **same) for seed in (0, 1)]
    rows += [run("function", {"B": 0.5}, seed, source="callable", **same) for seed in (0, 1)]  # it may load any
    saved(tmp_path, rows)
    results, (problem,) = collect([tmp_path])
    assert [result.seed for result in results if result.detector == "a"] == [0, 2]
    assert len(results) == len(rows) - 1
    assert "run1" in problem.path and "has the weights of seed 0" in problem.reason and "run0" in problem.reason


def test_a_missing_folder_and_a_folder_without_results_are_named(tmp_path):
    with pytest.raises(UserError, match="absent: no such"):
        build([tmp_path / "absent"], tmp_path / "out")
    with pytest.raises(UserError, match=r"no result\.json under"):
        build([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_cell_without_values_reads_as_words():
    assert number(Cell(reason="not run")) == "not run"
    assert number(Cell(reason="no real frames")) == "undefined"
    assert number(Cell((0.8734,))) == "0.873"


def test_the_fidelity_of_a_row_without_a_paper_is_not_called_unstated():
    from resproto_fd.training.board.run_facts import fidelity_words

    rated = {"config": {"detector": {"fidelity": "faithful"}}}
    assert fidelity_words(run("one", {"Demo-B": 0.7}, paper="A, B", **rated)) == "faithful"
    assert fidelity_words(run("one", {"Demo-B": 0.7}, paper="A, B", config={})) == "not stated"
    assert fidelity_words(run("border", {"Demo-B": 0.7}, paper="", config={})) == "no paper"
    assert fidelity_words(run("theirs", {"Demo-B": 0.7}, paper="", config={}, source="submitted")) == "not stated"


@pytest.mark.parametrize("rule, words", [("mirror", "their frames are mirrored"), ([], "see the configuration")])
def test_what_became_of_short_videos_is_told_whatever_a_result_states(rule, words):
    one = SimpleNamespace(config={"detector": {"input": {"short": rule}}}, tests={"A": SimpleNamespace(short_videos=2)})
    row = SimpleNamespace(first=one, runs=[one])
    assert short_videos(row, ["A"]) == [f"A: 2 of its videos shorter than a clip ({words})"]
