"""Stored scores looked at again: the command's numbers are those of the functions; ties with the best."""

import re

import numpy as np
import pytest

from resproto_fd.training.board.building import build
from resproto_fd.training.board.collecting import collect
from resproto_fd.training.board.notes import margins, notes, warnings
from resproto_fd.training.board.table import sections
from resproto_fd.training.board.ties import MEAN, NO_TABLES
from resproto_fd.training.board.ties import test_against_best as against_best
from resproto_fd.training.cli import main
from resproto_fd.training.measures.comparisons import compare_tables
from resproto_fd.training.measures.deepfakebench import explained
from resproto_fd.training.measures.intervals import table_intervals
from resproto_fd.training.results import RunResult, Selection, test_result
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


def test_the_command_prints_each_metric_with_its_interval(runs, capsys):
    assert main(["evaluate", str(runs / "made" / "good")]) == 0
    text = capsys.readouterr().out
    found = table_intervals(made_table("good"))
    for name in ("frame_auc", "video_auc", "frame_eer"):
        value, low, high = found[name][:3]
        assert re.search(rf"{name} +{value:.4f}  95 % interval {low:.4f} to {high:.4f}", text)
    assert "made/good/seed0" in text


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


def test_rows_without_score_tables_are_named_and_the_others_keep_their_marks(tmp_path):
    rows = {name: [made_run(tmp_path, name)] for name in ("good", "also_good", "poor")}
    marks = against_best(rows, ["D", "EE"], ["D", "EE"])
    assert set(marks["video_auc"].tied) == {"D", "EE", MEAN}
    assert set(marks) == {"frame_auc", "video_auc"}
    alone = against_best({"good": rows["good"]}, ["D"], ["D"])["frame_auc"]
    assert alone.tied == {} and alone.mean_limits["good"].low < 1
    (tmp_path / "runs/made/good/seed0/scores/EE.npz").unlink()
    found = against_best(rows, ["D", "EE"], ["D", "EE"])["frame_auc"]
    assert found.untested["EE"] == {"good": NO_TABLES}
    assert found.untested[MEAN] == {"good": "not tested on EE"}
    assert "good" in found.tied["D"] and found.tied["EE"] == {"also_good"}
    made_table("poor", frames=5).save(tmp_path / "runs/made/poor/seed0/scores/D.npz")
    assert against_best(rows, ["D"], ["D"])["frame_auc"].untested["D"] == {"poor": NO_TABLES}


@pytest.mark.parametrize("where", ["value", "interval", "method"])
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


def test_a_row_with_another_seed_is_tested_with_the_others(tmp_path):
    rows = {"good": [made_run(tmp_path, "good", 0)], "poor": [made_run(tmp_path, "poor", 1)]}
    assert against_best(rows, ["D"], ["D"])["frame_auc"].tied["D"] == {"good"}


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


@pytest.mark.parametrize("blind_sees", [True, False])
def test_a_control_without_faces_above_chance_is_warned_of(tmp_path, blind_sees):
    with_controls(tmp_path, blind_sees)
    section = sections(collect([tmp_path / "runs"])[0])[0]
    assert bool(warnings(section)) == blind_sees
    build([tmp_path / "runs"], tmp_path / "board")
    page = (tmp_path / "board" / "index.html").read_text()
    assert ("something other than the face goes with the label" in page) == blind_sees


def test_controls_are_not_ranked_and_the_margin_over_the_probe_is_printed(tmp_path):
    made = with_controls(tmp_path, True)
    section = sections(collect([tmp_path / "runs"])[0])[0]
    ranks = {line.row.name: line.rank for line in section.table("frame_auc")}
    assert ranks == {"good": 1, "probe": None, "blind": None}
    margin = made.tests["EE"].frame_auc - made_run(tmp_path, "poor").tests["EE"].frame_auc
    assert f"good {margin:+.3f}" in margins(section)[0]
    assert "blind" not in margins(section)[0]


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
    assert re.search(r"frame_auc +0.8889$", text, re.MULTILINE) and "(no interval)" in text
    for runs in ("runs", "runs/made/one/seed0"):
        summary = build([tmp_path / runs], tmp_path / "out")
        assert all(row.limits("T", "frame_auc") is None for row in summary.sections[0].rows)
        assert "0.889" in (tmp_path / "out" / "leaderboard.md").read_text() + summary.page.read_text()
