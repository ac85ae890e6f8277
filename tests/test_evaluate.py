"""Stored scores looked at again: the command's numbers are those of the functions; ties with the best."""

import json
import re

import numpy as np
import pytest

from resproto_fd.training.board import part_limits
from resproto_fd.training.board.building import build
from resproto_fd.training.board.collecting import collect
from resproto_fd.training.board.errors import MEASURED, TESTED
from resproto_fd.training.board.limits import rate_limits
from resproto_fd.training.board.notes import margins, notes, warnings
from resproto_fd.training.board.part_limits import method_limits, variant_limits
from resproto_fd.training.board.row_page import render_row
from resproto_fd.training.board.score_facts import ScoreReader
from resproto_fd.training.board.table import sections
from resproto_fd.training.board.ties import MEAN, NO_TABLES
from resproto_fd.training.board.ties import test_against_best as against_best
from resproto_fd.training.cli import main
from resproto_fd.training.measures import shift
from resproto_fd.training.measures.comparisons import compare_tables
from resproto_fd.training.measures.deepfakebench import explained
from resproto_fd.training.measures.intervals import method_auc_intervals, table_intervals
from resproto_fd.training.measures.metrics import table_metrics
from resproto_fd.training.measures.seeds import over_seeds
from resproto_fd.training.results import Estimate, Metrics, RunResult, Selection, Transfer, test_result
from resproto_fd.training.scores import ScoreTable

SIGNAL = {"good": 3.0, "also_good": 2.9, "poor": 0.3}


def made_table(detector: str, test_set: str = "D", frames: int = 6) -> ScoreTable:
    """120 videos of two methods and reals; detectors share the hardness of each video and its noise."""
    rng = np.random.default_rng(len(test_set))
    video = np.repeat(np.arange(120), frames)
    label = (np.arange(120) % 3 > 0).astype(int)
    hard, noise = rng.normal(size=120), rng.normal(size=len(video))
    own = np.random.default_rng(list(detector.encode())).normal(size=120)
    score = SIGNAL[detector] * label[video] + hard[video] + 0.4 * own[video] + 0.5 * noise
    method = np.array(["real", "swap", "warp"])[np.arange(120) % 3]
    # The two fakes of a real video have one folder name, as in FF++.
    ids = [f"{test_set}/{method[i]}/{'' if i % 3 else 'r'}{i // 3:03d}" for i in video]
    return ScoreTable(
        test_set, ids, np.tile(np.arange(frames), 120), label[video], method[video], 1 / (1 + np.exp(-score)),
        forgery_type=np.where(label == 1, "face swap", "real")[video], detector=detector,
    )  # fmt: skip


def made_run(folder, detector: str, seed: int = 0, test_sets=("D", "EE")) -> RunResult:
    place = folder / "runs" / "made" / detector / f"seed{seed}"
    tables = {name: made_table(detector, name) for name in test_sets}
    for name, table in tables.items():
        table.save(place / "scores" / f"{name}.npz")
    result = RunResult(
        detector=detector,
        title=detector,
        protocol="made",
        fingerprint="0123456789abcdef",
        seed=seed,
        config={},
        selected_on=Selection(rule="last"),
        tests={name: test_result(table, in_domain=name == "D") for name, table in tables.items()},
    )
    result.save(place / "result.json")
    return result


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    for detector in SIGNAL:
        made_run(folder, detector)
    return folder / "runs"


@pytest.mark.slow
def test_the_command_prints_each_metric_with_its_interval(runs, capsys):
    assert main(["evaluate", str(runs / "made" / "good")]) == 0
    text = capsys.readouterr().out
    found = table_intervals(made_table("good"))
    for name in ("frame_auc", "video_auc", "frame_eer"):
        value, low, high = found[name][:3]
        assert re.search(rf"{name} +{value:.4f}  95 % interval {low:.4f} to {high:.4f}", text)
    assert "made/good/seed0" in text


@pytest.mark.slow
@pytest.mark.parametrize("how", ["median", "top-2"])
def test_a_videos_score_can_be_made_otherwise(runs, capsys, how):
    assert main(["evaluate", str(runs / "made" / "poor"), "--video", how]) == 0
    expected = table_intervals(made_table("poor"), aggregation=how)["video_auc"].value
    assert f"{expected:.4f}" in capsys.readouterr().out
    assert expected != table_intervals(made_table("poor"))["video_auc"].value


def test_an_unknown_way_of_scoring_a_video_is_an_error_that_lists_them(runs, capsys):
    assert main(["evaluate", str(runs), "--video", "best"]) == 2
    assert "there are mean, median and top-K" in capsys.readouterr().err


def test_deepfakebenchs_numbers_stand_beside_the_corrected_ones_with_the_cause(runs, capsys):
    assert main(["evaluate", str(runs / "made" / "good"), "--metrics", "deepfakebench"]) == 0
    text = capsys.readouterr().out
    for row in explained(made_table("good"))[1]:
        assert f"{row.deepfakebench:.4f}, corrected {row.corrected:.4f}  {row.cause or 'the same'}" in text
    assert "share their folder's name" in text
    assert "the first n are taken" in text


@pytest.mark.slow
def test_several_runs_are_compared_in_pairs_and_ties_with_the_best_are_named(runs, capsys):
    assert main(["evaluate", str(runs)]) == 0
    text = capsys.readouterr().out
    tables = {name: made_table(name) for name in sorted(SIGNAL)}
    comparison = compare_tables(tables)
    part = text[text.index("Differences of frame AUC") :].split("EE: best")[0]
    for row in comparison.differences:
        assert f"made/{row.first}/seed0 - made/{row.second}/seed0: {row.difference:+.4f}" in part
    assert re.search(r"best made/(also_)?good/seed0\n    not distinguishable from it: made/(also_)?good/seed0\n", part)


@pytest.mark.parametrize(("words", "message"), [(["nowhere"], "no such folder"), (["."], r"no scores/\*\.npz under")])
def test_a_folder_without_scores_is_named(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *words]) == 2
    assert re.search(message, capsys.readouterr().err)


# --- on the leaderboard ----------------------------------------------------------------------------------------------


def test_result_files_hold_the_intervals_and_older_ones_are_still_read(runs):
    path = runs / "made" / "good" / "seed0" / "result.json"
    result = RunResult.load(path)
    found = table_intervals(made_table("good"))
    assert result.tests["D"].intervals["frame_auc"].low == found["frame_auc"].low
    assert {"frame_brier", "video_tpr_at_fpr_1_in_100"} <= set(result.tests["D"].intervals)
    old = result.model_dump(mode="json")
    for test in old["tests"].values():
        del test["intervals"]
    assert RunResult.model_validate_json(RunResult.model_validate(old, strict=False).model_dump_json())


@pytest.mark.slow
def test_rows_that_a_test_set_cannot_tell_from_its_best_are_marked(runs, tmp_path):
    results, _ = collect([runs])
    section = sections(results)[0]
    ties = section.marks["frame_auc"].tied
    assert {row.key.split(" ")[0] for row in section.rows if row.key in ties["D"]} == {"good", "also_good"}
    build([runs], tmp_path)
    page, markdown = (tmp_path / "index.html").read_text(), (tmp_path / "leaderboard.md").read_text()
    lines = {
        line.split("(")[1].split(")")[0]: line
        for line in markdown.splitlines()
        if "| also" in line or "(good)" in line or "(poor)" in line
    }
    assert "≈" in lines["good"]
    assert "≈" not in lines["poor"]
    assert page.count('class="tie"') >= 4
    low = results[0].tests["D"].intervals["frame_auc"].low
    assert f"{low:.3f}–" in page
    header, first = (tmp_path / "leaderboard.csv").read_text().splitlines()[:2]
    assert dict(zip(header.split(","), first.split(",")))["frame_auc_low"] == repr(low)


@pytest.mark.slow
def test_rows_without_score_tables_are_named_and_the_others_keep_their_marks(tmp_path):
    rows = {name: [made_run(tmp_path, name)] for name in ("good", "also_good", "poor")}
    marks = against_best(rows, ["D", "EE"], ["D", "EE"], ScoreReader())
    assert set(marks["video_auc"].tied) == {"D", "EE", MEAN}
    assert set(marks) == set(MEASURED) and all(not marks[name].tied for name in MEASURED if name not in TESTED)
    alone = against_best({"good": rows["good"]}, ["D"], ["D"], ScoreReader())["frame_auc"]
    assert alone.tied == {} and alone.mean_limits["good"].low < 1
    (tmp_path / "runs/made/good/seed0/scores/EE.npz").unlink()
    found = against_best(rows, ["D", "EE"], ["D", "EE"], ScoreReader())["frame_auc"]
    assert found.untested["EE"] == {"good": NO_TABLES}
    assert found.untested[MEAN] == {"good": "not tested on EE"}
    assert "good" in found.tied["D"] and found.tied["EE"] == {"also_good"}
    made_table("poor", frames=5).save(tmp_path / "runs/made/poor/seed0/scores/D.npz")
    assert against_best(rows, ["D"], ["D"], ScoreReader())["frame_auc"].untested["D"] == {"poor": NO_TABLES}


@pytest.mark.slow
@pytest.mark.parametrize("where", ["value", "method", pytest.param("interval", marks=pytest.mark.slow)])
def test_a_number_that_its_score_table_denies_leaves_the_file_out(tmp_path, where):
    result = made_run(tmp_path, "good")
    test = result.tests["D"]
    changed = {"frame_auc": 0.999} if where == "value" else {}
    intervals = test.intervals | {"frame_auc": test.intervals["frame_auc"].model_copy(update={"value": 0.999})}
    changed |= {"intervals": intervals} if where == "interval" else {}
    swap = test.per_method["swap"].model_copy(update={"frame_auc": 0.999})
    changed |= {"per_method": test.per_method | {"swap": swap}} if where == "method" else {}
    result.tests["D"] = test.model_copy(update=changed)
    result.save(tmp_path / "runs/made/good/seed0/result.json")
    made_run(tmp_path, "poor")
    results, problems = collect([tmp_path / "runs"])
    assert [one.detector for one in results] == ["poor"]
    assert re.search(
        r"frame_auc of D( swap)? is 0\.999 in the file; its score table gives 0\.\d+; test again", problems[0].reason
    )


OTHERS = ["frame_ap", "frame_tpr_at_fpr_1_in_100", "video_acc"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "metric", ["frame_auc", "frame_eer", *(pytest.param(metric, marks=pytest.mark.slow) for metric in OTHERS)]
)
def test_limits_that_a_score_table_denies_are_not_shown_and_named(tmp_path, metric):
    result = made_run(tmp_path, "good", test_sets=("D",))
    right = result.tests["D"].intervals[metric]
    length = right.high - right.low
    shorter = right.model_copy(update={"low": right.low + 0.3 * length, "high": right.high})
    result.tests["D"].intervals |= {metric: shorter}
    result.save(result.folder / "result.json")
    summary = build([tmp_path / "runs"], tmp_path / "board")
    (row,) = summary.sections[0].rows
    assert row.checked.denied(row.first, "D") == [metric]
    assert row.checked.of(row.first, "D")[metric] == right
    written = {path.name: path.read_text() for path in (tmp_path / "board").rglob("*.*")}
    assert f"good, seed 0 ({metric})" in written["index.html"]
    assert all(repr(shorter.low) not in text for text in written.values())
    if metric == "frame_auc":
        assert repr(right.low) in written["leaderboard.csv"] and repr(right.low) in written["leaderboard.json"]


def rescored(folder, detector: str, change) -> RunResult:
    """A run whose scores of D are changed."""
    run = made_run(folder, detector, test_sets=("D",))
    table = made_table(detector)
    table.score = change(table.score).astype(np.float32)
    table.save(run.folder / "scores" / "D.npz")
    run.tests = {"D": test_result(table, in_domain=False)}
    run.save(run.folder / "result.json")
    return run


@pytest.mark.slow
@pytest.mark.parametrize(("change", "share"), [(lambda s: 0.6 + 0.4 * s, "100.0%"), (lambda s: 0.5 * s, "0.0%")])
def test_an_accuracy_with_all_frames_on_one_side_of_the_threshold_is_named(tmp_path, change, share):
    rescored(tmp_path, "good", change), made_run(tmp_path, "poor", test_sets=("D",))
    found = [note for note in notes(sections(collect([tmp_path / "runs"])[0])[0]) if "one side" in note]
    assert len(found) == 1 and f"called fake: good {share}. ACC" in found[0] and "poor" not in found[0]


@pytest.mark.slow
def test_an_auc_whose_interval_is_below_one_half_is_called_turned_round(tmp_path):
    rescored(tmp_path, "good", lambda s: 1 - s), made_run(tmp_path, "poor", test_sets=("D",))
    found = [note for note in notes(sections(collect([tmp_path / "runs"])[0])[0]) if "turned round" in note]
    assert len(found) == 1 and "below .5: good 0." in found[0] and "poor" not in found[0]
    assert "turned" in (build([tmp_path / "runs"], tmp_path / "b").out_dir / "leaderboard.md").read_text()


def with_corruption(folder, detector="good") -> RunResult:
    """A run with one corruption, a threshold from its selection split, and AUCs across its two sets."""
    run = made_run(folder, detector)
    table = made_table("poor")
    table.save(run.folder / "scores_corrupted" / "D@blur-3.npz")
    selection = made_table("also_good", "SEL")
    selection.save(run.folder / "scores_selection" / "SEL.npz")
    run.robustness = {"D": {"blur": {"3": Metrics(**table_metrics(table))}}}
    tables = {name: made_table(detector, name) for name in run.tests}
    run.pooled_auc, run.cross_auc = shift.pooled_auc(tables), shift.cross_aucs(tables)
    for rule, threshold in shift.thresholds(selection).items():
        for name, each in tables.items():
            fpr, tpr = shift.transferred(each, threshold)
            acc = shift.transferred_acc(each, threshold)
            run.tests[name].transfer[rule] = Transfer(threshold=threshold, fpr=fpr, tpr=tpr, acc=acc)
    run.save(run.folder / "result.json")
    return run


OTHER_PLACES = ["acc", "threshold", "cross"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "where",
    ["", "robustness", "fpr", "pooled", *(pytest.param(where, marks=pytest.mark.slow) for where in OTHER_PLACES)],
)
def test_corruptions_and_transfers_are_computed_again(tmp_path, where):
    run = with_corruption(tmp_path)
    if where == "robustness":
        run.robustness["D"]["blur"]["3"].frame_auc = 0.98
    elif where in ("fpr", "acc", "threshold"):
        setattr(run.tests["EE"].transfer["eer"], where, 0.001)
    elif where == "pooled":
        run.pooled_auc = 0.98
    elif where == "cross":
        run.cross_auc["D"]["EE"] = 0.98
    run.save(run.folder / "result.json")
    made_run(tmp_path, "poor")
    results, problems = collect([tmp_path / "runs"])
    assert len(results) == (1 if where else 2)
    if where:
        text = {"robustness": "frame_auc of D under blur 3 is 0.98", "fpr": "fpr of EE at the threshold 'eer' is 0.001"}
        text |= {"pooled": "all test sets as one is 0.98", "cross": "fakes of EE against reals of D is 0.98"}
        assert text.get(where, "threshold 'eer'") in problems[0].reason


@pytest.mark.slow
def test_corruptions_and_transferred_rates_have_intervals(tmp_path):
    run = with_corruption(tmp_path)
    (section,) = build([tmp_path / "runs"], tmp_path / "board").sections
    found = table_intervals(made_table("poor"))["frame_auc"]
    (page,) = (tmp_path / "board" / "rows").glob("*.html")
    text = page.read_text()
    assert text.count(f"{found.low:.3f}–{found.high:.3f}") == 2  # of blur, and of the mean over corruptions
    (row,) = section.rows
    fpr, tpr, acc = rate_limits(run, "EE", "fpr_5", row.reader)
    given = run.tests["EE"].transfer["fpr_5"]
    assert fpr[0] < given.fpr < fpr[1] and tpr[0] < given.tpr < tpr[1] and acc[0] < given.acc < acc[1]
    assert f"{tpr[0]:.3f}–{tpr[1]:.3f}" in text
    (run.folder / "scores_corrupted" / "D@blur-3.npz").unlink()
    again = collect([tmp_path / "runs"])
    assert len(again[0]) == 1 and again[1] == []  # without its table it is taken as it is


@pytest.mark.slow
def test_methods_other_scores_and_single_runs_have_the_intervals_of_their_frames(tmp_path, monkeypatch):
    """A method's AUC has the interval that `method_auc_intervals` gives; another score that of its own table."""
    table = made_table("poor")
    table.variants["half"] = table.score / 2
    run = made_run(tmp_path, "poor", test_sets=("D",))
    table.save(run.folder / "scores" / "D.npz")
    run.model_copy(update={"tests": {"D": test_result(table)}}).save(run.folder / "result.json")
    run = RunResult.load(run.folder / "result.json")
    (section,) = build([tmp_path / "runs"], tmp_path / "board").sections
    (row,) = section.rows
    found = method_limits([run], "D", ("frame_auc", "video_auc", "frame_ap", "frame_acc"), row.reader)
    for method, of_method in method_auc_intervals(table).items():
        for metric, interval in of_method.items():
            assert found[method][metric] == pytest.approx(interval[1:3], abs=1e-9)
        value = run.tests["D"].per_method[method]
        assert found[method]["frame_ap"][0] < value.frame_ap < found[method]["frame_ap"][1]
    of_half = variant_limits([run], "D", ("frame_auc",), row.reader)["half"]["frame_auc"]
    assert of_half == pytest.approx(table_intervals(table)["frame_auc"][1:3], abs=1e-9)
    (page,) = (tmp_path / "board" / "rows").glob("*.html")
    low, high = found["swap"]["frame_acc"]
    assert f"{low:.3f}–{high:.3f}" in page.read_text() and "not computed" not in page.read_text()
    monkeypatch.setattr(part_limits, "MOST", 100)
    assert "not computed" in render_row(section, row)


@pytest.mark.slow
def test_the_pooled_auc_and_that_of_two_sets_have_intervals(tmp_path):
    run = made_run(tmp_path, "poor")
    tables = {name: made_table("poor", name) for name in ("D", "EE")}
    across = {"pooled_auc": shift.pooled_auc(tables), "cross_auc": shift.cross_aucs(tables)}
    run.model_copy(update=across).save(run.folder / "result.json")
    build([tmp_path / "runs"], tmp_path / "board")
    (page,) = (tmp_path / "board" / "rows").glob("*.html")
    pooled, cross = shift.across_intervals(tables)
    for interval in (pooled, cross["D"]["EE"], cross["EE"]["D"]):
        assert f"{interval.low:.3f}–{interval.high:.3f}" in page.read_text()


@pytest.mark.slow
def test_a_result_that_chose_on_tested_frames_is_an_oracle_whatever_its_file_says(tmp_path):
    made_run(tmp_path, "good")
    run = made_run(tmp_path, "poor")
    chosen = Selection(rule="best", dataset="Other", split="val", metric="frame_auc")
    run.model_copy(update={"selected_on": chosen}).save(run.folder / "result.json")
    for name, oracle in (("F", False), ("EE", True)):
        made_table("poor", name).save(run.folder / "scores_selection" / "Other.npz")
        (section,) = sections(collect([tmp_path / "runs"])[0])
        assert {row.first.detector: row.oracle for row in section.rows} == {"good": False, "poor": oracle}


@pytest.mark.slow
def test_limits_as_they_were_made_are_shown_without_a_word(tmp_path):
    for name in ("good", "also_good", "poor"):
        made_run(tmp_path, name)
    (section,) = build([tmp_path / "runs"], tmp_path / "board").sections
    assert not any("differ from those" in note for note in notes(section))
    for row in section.rows:
        for name, test in row.first.tests.items():
            assert row.checked.of(row.first, name) == test.intervals


@pytest.mark.slow
def test_means_over_seeds_have_an_interval_of_every_metric(tmp_path):
    for seed in range(3):
        place = made_run(tmp_path, "good", seed).folder
        for name in ("D", "EE"):
            table = made_table("good", name)
            table.score = np.clip(table.score + 0.05 * np.random.default_rng(seed).normal(size=len(table)), 0, 1)
            table.save(place / "scores" / f"{name}.npz")
        tests = {
            name: test_result(ScoreTable.load(place / "scores" / f"{name}.npz"), in_domain=False)
            for name in ("D", "EE")
        }
        RunResult.load(place / "result.json").model_copy(update={"tests": tests}).save(place / "result.json")
    (section,) = build([tmp_path / "runs"], tmp_path / "board").sections
    (row,) = section.rows
    tables = [ScoreTable.load(run.folder / "scores" / "D.npz") for run in row.runs]
    slow = over_seeds(tables, replicates=400)
    for metric in MEASURED:
        low, high = row.limits("D", metric)
        wanted, length = slow[metric].interval, slow[metric].interval.high - slow[metric].interval.low
        assert low < row.cell("D", metric).mean < high
        assert low == pytest.approx(wanted.low, abs=0.2 * length), metric
        assert high == pytest.approx(wanted.high, abs=0.2 * length), metric
        (line,) = section.table(metric)
        assert None not in line.limits, metric
        assert line.limits[2][1] - line.limits[2][0] < max(b - a for a, b in line.limits[:2])
    page = (tmp_path / "board" / "rows").glob("*.html").__next__().read_text()
    for title in ("Frame AP", "Frame EER", "Video ACC"):
        assert f"{title}, mean over seeds" in page
    shown = json.loads((tmp_path / "board" / "leaderboard.json").read_text())["tables"][0]["metrics"]["frame_eer"][0]
    assert shown["test_sets"]["D"]["low"] == row.limits("D", "frame_eer")[0] and shown["mean_limits"]
    low, high = row.limits("D", "frame_ap")
    for name in ("leaderboard.md", "leaderboard.tex"):
        assert f"[{low:.3f}" in (tmp_path / "board" / name).read_text()


@pytest.mark.slow
def test_score_tables_of_other_weights_leave_the_file_out(tmp_path):
    result = made_run(tmp_path, "good")
    result.checkpoint_sha256 = "a" * 64
    result.save(tmp_path / "runs/made/good/seed0/result.json")
    results, problems = collect([tmp_path / "runs"])
    assert results == []
    assert "scores of D are not those of result.json" in problems[0].reason


def test_scores_that_are_labels_or_two_values_or_another_rows_are_named(tmp_path):
    def of_scores(name, scores):
        run = made_run(tmp_path, name)
        table = made_table("good")
        table.score = scores.astype(np.float64)
        table.save(run.folder / "scores" / "D.npz")
        run.tests = {"D": test_result(table, in_domain=False)}
        run.save(run.folder / "result.json")

    good = made_table("good")
    SIGNAL.update(dict.fromkeys(("labels", "halves", "copy"), 3.0))
    try:
        of_scores("labels", good.label)
        of_scores("halves", 0.2 + 0.5 * (good.score > 0.5))
        of_scores("copy", good.score**2)
        made_run(tmp_path, "good")
    finally:
        for name in ("labels", "halves", "copy"):
            del SIGNAL[name]
    (section,) = sections(collect([tmp_path / "runs"])[0])
    found = section.oddities
    assert "D: labels, seed 0: its scores are the labels." in found
    assert "D: halves, seed 0: its scores have two values, so that its curve has one point." in found
    assert "D: copy (measured), good (measured) rank all frames alike: one may be a copy of the other." in found
    assert len(found) == 3
    assert set(found) <= set(notes(section))


@pytest.mark.slow
def test_a_seed_that_is_a_copy_of_another_is_named(tmp_path):
    made_run(tmp_path, "good", seed=0)
    copy = made_run(tmp_path, "good", seed=1)  # of the same scores
    note = "D: good (measured): seeds 0, 1 rank all frames alike: one may be a copy of the other."
    (section,) = sections(collect([tmp_path / "runs"])[0])
    assert any(note in found for found in section.oddities)
    table = made_table("good")
    table.score = table.score[::-1].copy()
    table.save(copy.folder / "scores" / "D.npz")
    copy.tests |= {"D": test_result(table, in_domain=True)}
    copy.save(copy.folder / "result.json")
    (section,) = sections(collect([tmp_path / "runs"])[0])
    assert not any(note in found for found in section.oddities)


@pytest.mark.slow
def test_a_row_with_another_seed_is_tested_with_the_others(tmp_path):
    rows = {"good": [made_run(tmp_path, "good", 0)], "poor": [made_run(tmp_path, "poor", 1)]}
    assert against_best(rows, ["D"], ["D"], ScoreReader())["frame_auc"].tied["D"] == {"good"}


@pytest.mark.slow
def test_a_board_says_how_each_column_is_clustered(tmp_path):
    for name in ("good", "poor"):
        made_run(tmp_path, name)
    build([tmp_path / "runs"], tmp_path / "board")
    (table,) = json.loads((tmp_path / "board" / "leaderboard.json").read_text())["tables"]
    said = re.fullmatch(
        r"Clustered in one way: 120 clusters of videos or people; 40 clusters in the class that has fewer; "
        r"degrees of freedom of the frame AUC: (\d+) to (\d+)\.", table["clustering"]["D"]
    )  # fmt: skip
    assert 1 <= int(said[1]) <= int(said[2]) <= 39
    assert table["clustering"]["D"] in (tmp_path / "board" / "index.html").read_text()


def test_two_way_clusters_are_named_with_both_counts(tmp_path):
    names = [f"Celeb-DF-v2/id{i % 7}_{f'id{i % 5}_' * (i % 2)}{i:04d}" for i in range(70)]
    label = np.arange(70) % 2
    score = np.random.default_rng(0).random(70)
    table = ScoreTable("D", names, np.zeros(70, int), label, np.where(label, "swap", "real"), score)
    result = made_run(tmp_path, "good", test_sets=("D",))
    table.save(result.folder / "scores" / "D.npz")
    result.tests = {"D": test_result(table)}
    result.save(result.folder / "result.json")
    assert "two ways: 7 people recorded, 7 people whose face is seen" in ScoreReader().clustering([result], "D")


@pytest.mark.slow
def test_a_panel_shows_the_mean_under_each_clustering_where_people_are_known(tmp_path):
    rng = np.random.default_rng(1)
    label, recorded, seen = np.arange(400) % 2, rng.integers(0, 12, 400), rng.integers(0, 12, 400)
    names = [f"C/id{a}_{f'id{b}_' * y}{i:04d}" for i, (a, b, y) in enumerate(zip(recorded, seen, label))]
    person = rng.normal(size=12)
    for detector, strength in (("good", 2.0), ("poor", 0.2)):
        latent = strength * label + person[recorded] + person[seen] + rng.normal(size=400)
        table = ScoreTable(
            "C", names, np.zeros(400, int), label, np.where(label, "swap", "real"), 1 / (1 + np.exp(-latent))
        )
        result = made_run(tmp_path, detector, test_sets=("D",))
        table.save(result.folder / "scores" / "C.npz")
        result.tests = {"C": test_result(table, in_domain=False)}
        result.save(result.folder / "result.json")
    (section,) = sections(collect([tmp_path / "runs"])[0])
    key = next(row.key for row in section.rows if row.name == "good")
    length = {}
    for name, marks in section.by_clustering.items():
        low, high = marks.limits_of_mean(key)
        length[name] = high - low
    assert length["video"] < length["recorded"] <= length["people"]
    assert section.by_clustering["people"].tied == section.marks["frame_auc"].tied
    build([tmp_path / "runs"], tmp_path / "board")
    page = (tmp_path / "board" / "index.html").read_text()
    assert "Mean frame AUC under each clustering" in page and "People recorded and people whose face is seen" in page


def test_an_interval_that_tells_nothing_is_called_not_estimable(tmp_path, capsys):
    result = made_run(tmp_path, "good", test_sets=("D",))
    wide = Estimate(value=0.5, low=0.02, high=0.97)
    result.tests["D"].intervals |= {
        "video_tpr_at_fpr_1_in_100": wide,
        "frame_ece": Estimate(value=0.1, low=None, high=None),
    }
    result.save(result.folder / "result.json")
    (result.folder / "scores" / "D.npz").unlink()  # which would give other limits
    build([tmp_path / "runs"], tmp_path / "board")
    (page,) = (tmp_path / "board" / "rows").glob("*.html")
    assert page.read_text().count("not estimable") == 2


def of_generators(folder, count: int):
    """A run on pictures of many generators; generator 7 is the hardest."""
    rng, pictures = np.random.default_rng(0), 2 * 12 * count
    label, which = np.arange(pictures) % 2, np.arange(pictures) // 2 % count
    score = 1 / (1 + np.exp(-(3 * label * (which != 7) + rng.normal(size=pictures))))
    names = [f"G/{'fake' if y else 'real'}/{i:05d}" for i, y in enumerate(label)]
    method = np.where(label == 1, [f"generator {g:03d}" for g in which], "real")
    table = ScoreTable("G", names, np.zeros(pictures, int), label, method, score)
    result = made_run(folder, "good", test_sets=("D",))
    table.save(result.folder / "scores" / "G.npz")
    result.tests = {"G": test_result(table, in_domain=False)}
    result.save(result.folder / "result.json")
    return result.tests["G"]


@pytest.mark.slow
def test_of_many_methods_the_worst_stand_first_and_the_chart_says_how_many_it_leaves_out(tmp_path):
    test = of_generators(tmp_path, 400)
    assert len(test.per_method) == 400
    build([tmp_path / "runs"], tmp_path / "board")
    (path,) = (tmp_path / "board" / "rows").glob("*.html")
    page = path.read_text()
    assert "the 30 lowest of 400" in page and 'class="within"' in page
    listed = re.findall(r'<th scope="row">(generator \d+)</th>', page)
    assert len(listed) == 400 and listed[0] == "generator 007"
    values = [test.per_method[name].frame_auc for name in listed]
    assert values == sorted(values)


def reordered(folder):
    """Write one row's frames and videos in another order, as another machine may list them."""
    path = folder / "scores" / "D.npz"
    table = ScoreTable.load(path)
    order = np.random.default_rng(0).permutation(len(table))
    columns = (table.video, table.frame, table.label, table.method, table.score)
    kinds = {"forgery_type": table.forgery_type[order], "detector": table.detector}
    ScoreTable("D", *(column[order] for column in columns), **kinds).save(path)


@pytest.mark.slow
def test_the_order_in_which_a_table_lists_its_frames_changes_no_mark_and_no_limit(tmp_path):
    rows = {name: [made_run(tmp_path, name)] for name in ("good", "also_good", "poor")}
    before = against_best(rows, ["D"], ["D"], ScoreReader())["frame_auc"]
    reordered(rows["also_good"][0].folder)
    after = against_best(rows, ["D"], ["D"], ScoreReader())["frame_auc"]
    assert after.tied == before.tied and after.untested == before.untested
    for name, limits in before.mean_limits.items():
        assert after.mean_limits[name] == pytest.approx(limits, abs=1e-12)


@pytest.mark.slow
def test_a_copy_that_lists_the_frames_in_another_order_is_still_named(tmp_path):
    made_run(tmp_path, "good")
    copy = made_run(tmp_path, "good", seed=1)
    copy.detector, copy.title, copy.seed = "copy", "copy", 0
    copy.save(copy.folder / "result.json")
    reordered(copy.folder)
    (section,) = sections(collect([tmp_path / "runs"])[0])
    assert any("copy" in note and "rank all frames alike" in note for note in section.oddities)


@pytest.mark.slow
def test_a_board_reads_each_score_table_once_and_once_more_for_pages(tmp_path, monkeypatch):
    for seed in (0, 1):
        made_run(tmp_path, "good", seed), made_run(tmp_path, "poor", seed)
    loaded, load = [], ScoreTable.load
    monkeypatch.setattr(ScoreTable, "load", lambda path: (loaded.append(path), load(path))[1])
    build([tmp_path / "runs"], tmp_path / "board")
    assert sorted(loaded) == sorted([*set(loaded)] * 2) and len(set(loaded)) == 8
    loaded.clear()
    monkeypatch.setattr(part_limits, "MOST", 1)  # of many frames, a page reads those of its first run alone
    build([tmp_path / "runs"], tmp_path / "board")
    of_pages = {path for path in loaded if "seed0" in str(path)}
    assert sorted(loaded) == sorted([*set(loaded), *of_pages])


# --- controls --------------------------------------------------------------------------------------------------------


def with_controls(folder, blind_sees: bool):
    """A detector, the probe, and a control without faces that is above chance or is not."""
    made = made_run(folder, "good")
    for name, cls, score, faces in (("probe", "clip_probe", "poor", True), ("blind", "border", "poor", False)):
        run = made_run(folder, score)
        run.detector, run.title, run.detector_class, run.role, run.sees_faces = name, name, cls, "control", faces
        if name == "blind":
            low = 0.56 if blind_sees else 0.4
            for test in [run.tests["EE"]] if blind_sees else run.tests.values():
                test.intervals["frame_auc"] = test.intervals["frame_auc"].model_copy(update={"low": low})
        run.save(folder / "runs" / "made" / name / "seed0" / "result.json")
    (folder / "runs" / "made" / "poor" / "seed0" / "result.json").unlink()
    return made


@pytest.mark.slow
@pytest.mark.parametrize("blind_sees", [True, False])
def test_a_control_without_faces_above_chance_is_warned_of(tmp_path, blind_sees):
    with_controls(tmp_path, blind_sees)
    section = sections(collect([tmp_path / "runs"])[0])[0]
    assert bool(warnings(section)) == blind_sees
    build([tmp_path / "runs"], tmp_path / "board")
    page = (tmp_path / "board" / "index.html").read_text()
    assert ("something other than the face goes with the label" in page) == blind_sees


@pytest.mark.slow
def test_controls_are_not_ranked_and_the_margin_over_the_probe_is_printed(tmp_path):
    made = with_controls(tmp_path, True)
    section = sections(collect([tmp_path / "runs"])[0])[0]
    ranks = {line.row.name: line.rank for line in section.table("frame_auc")}
    assert ranks == {"good": 1, "probe": None, "blind": None}
    margin = made.tests["EE"].frame_auc - made_run(tmp_path, "poor").tests["EE"].frame_auc
    assert f"good {margin:+.3f}" in margins(section)[0]
    assert "blind" not in margins(section)[0]


@pytest.mark.slow
def test_runs_of_one_name_from_different_roots_are_all_shown_with_longer_names(tmp_path, monkeypatch, capsys):
    for root, detector in (("old/x", "good"), ("new/x", "poor")):
        made_run(tmp_path / root, detector)
        (tmp_path / root / "runs" / "made" / detector).rename(tmp_path / root / "runs" / "made" / "same")
    made_run(tmp_path / "new", "good")
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "old", "new", "old/x", str(tmp_path / "old")]) == 0
    names = [line for line in capsys.readouterr().out.splitlines() if re.fullmatch(r"[\w/]+seed0", line)]
    assert names == ["old/x/runs/made/same/seed0", "made/good/seed0", "new/x/runs/made/same/seed0"]


def agreeing(detector: str, scores: list[float]) -> ScoreTable:
    """Two people whose six frames have the same scores each: no metric has a standard error."""
    ids = [
        f"T/{kind}/{who}{tail}" for who in ("id0", "id1") for kind, tail in (("real", "_0000"), ("swap", "_id9_0000"))
    ]
    label = np.tile([0, 0, 0, 1, 1, 1], 2)
    return ScoreTable(
        "T", np.repeat(ids, 3), np.tile([0, 1, 2], 4), label, np.where(label == 1, "swap", "real"), scores * 2,
        forgery_type=np.where(label == 1, "face swap", "real"), detector=detector,
    )  # fmt: skip


@pytest.mark.slow
def test_a_number_without_limits_goes_through_commands_pages_and_exports(tmp_path, capsys):
    for name, scores in (("one", [0.1, 0.2, 0.7, 0.3, 0.8, 0.9]), ("two", [0.1, 0.7, 0.8, 0.2, 0.3, 0.9])):
        for seed in (0, 1):
            table = agreeing(name, scores)
            place = tmp_path / "runs" / "made" / name / f"seed{seed}"
            table.save(place / "scores" / "T.npz")
            result = RunResult(
                detector=name, title=name, protocol="made", fingerprint="0123456789abcdef", seed=seed, config={},
                selected_on=Selection(rule="last"), tests={"T": test_result(table)},
            )  # fmt: skip
            assert result.tests["T"].intervals["frame_auc"].low is None
            result.save(place / "result.json")

    assert main(["evaluate", str(tmp_path / "runs")]) == 0
    text = capsys.readouterr().out
    assert re.search(r"frame_auc +0.8889  95 % interval not estimable$", text, re.MULTILINE) and "(no interval)" in text
    for runs in ("runs", "runs/made/one/seed0"):
        summary = build([tmp_path / runs], tmp_path / "out")
        assert all(row.limits("T", "frame_auc") is None for row in summary.sections[0].rows)
        assert "0.889" in (tmp_path / "out" / "leaderboard.md").read_text() + summary.page.read_text()
