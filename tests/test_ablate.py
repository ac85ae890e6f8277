"""Ablations that need no retraining: numbers from kept features are those of testing with other keywords."""

import csv
import json
import shutil

import numpy as np
import pytest

from resproto_fd.training.cli import main
from resproto_fd.training.commands.ablate import AS_TESTED, VIDEO_SCORES, mark_rows
from resproto_fd.training.measures.intervals import table_intervals
from resproto_fd.training.measures.metrics import table_metrics
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ScoreTable

QUIET = ["run.workers=0", "run.progress=false", "run.device=cpu"]


@pytest.fixture(scope="module")
def folder(resproto_run, tmp_path_factory):
    """A run of ResProto-FD on tiny data, with its features; ablations are written into it."""
    return shutil.copytree(resproto_run, tmp_path_factory.mktemp("ablate") / "run")


def rows_of(folder) -> list[dict]:
    with open(folder / "ablation.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_scores_and_aggregations_are_those_of_the_tables(folder, capsys):
    assert main(["ablate", str(folder)]) == 0
    rows = rows_of(folder)
    table = ScoreTable.load(folder / "scores" / "Demo-B.npz")
    for how in VIDEO_SCORES:
        row = next(r for r in rows if r["what"] == f"score as tested, video score {how}" and r["test_set"] == "Demo-B")
        found = table_intervals(table, aggregation=how)
        assert float(row["video_auc"]) == pytest.approx(found["video_auc"].value)
        assert float(row["frame_auc"]) == pytest.approx(found["frame_auc"].value)
    clip = next(r for r in rows if r["what"].startswith("score clip") and r["test_set"] == "Demo-B")
    result = RunResult.load(folder / "result.json").tests["Demo-B"]
    assert float(clip["frame_auc"]) == pytest.approx(result.variants["clip"].frame_auc)
    assert json.loads((folder / "ablation.json").read_text())[0]["test_set"] == "Demo-A"
    assert "score grp" in capsys.readouterr().out


@pytest.mark.slow
def test_other_keywords_give_the_numbers_of_testing_with_them(folder, tmp_path):
    assert main(["ablate", str(folder), "model.top_k=2,5", "model.temperature=0.1,1.0"]) == 0
    rows = rows_of(folder)
    for k, temperature in ((2, 0.1), (5, 1.0)):
        changed = [f"model.top_k={k}", f"model.temperature={temperature}"]
        assert main(["test", "--run", str(folder), "--out", str(tmp_path / str(k)), *changed, *QUIET]) == 0
        tested = next((tmp_path / str(k)).rglob("result.json"))
        for name, test in RunResult.load(tested).tests.items():
            row = next(r for r in rows if r["what"] == " ".join(changed) and r["test_set"] == name)
            assert float(row["frame_auc"]) == pytest.approx(test.frame_auc, abs=1e-9)
            assert float(row["video_auc"]) == pytest.approx(test.video_auc, abs=1e-9)
    assert (
        len({row["frame_auc"] for row in rows if row["what"].startswith("model.") and row["test_set"] == "Demo-A"}) > 1
    )


@pytest.mark.slow
def test_by_default_figure_4s_values_of_k_are_tried(folder):
    assert main(["ablate", str(folder)]) == 0
    tried = {row["what"] for row in rows_of(folder)}
    assert {f"model.top_k={k} model.temperature={t}" for k in (16, 32, 64, 128) for t in (0.1, 1.0)} <= tried


def test_the_selection_splits_value_stands_beside_the_tests_and_its_choice_is_named(folder, capsys):
    assert main(["ablate", str(folder), "model.top_k=2,5"]) == 0
    printed, rows = capsys.readouterr().out, rows_of(folder)
    stored = RunResult.load(folder / "result.json").selected_on
    by_what = {row["what"]: float(row["selection_value"]) for row in rows}
    assert by_what[AS_TESTED] == pytest.approx(stored.value, abs=1e-9)
    table = ScoreTable.load(folder / "scores_selection" / "Demo-A.npz")
    assert by_what["score clip, video score mean"] == pytest.approx(table_metrics(table, "clip")["frame_auc"])
    assert {row["selected_on"] for row in rows} == {"frame_auc on Demo-A val"}
    best = max(by_what, key=by_what.__getitem__)
    assert {row["what"] for row in rows if row["mark"] == "chosen"} == {best}
    assert f"frame_auc on Demo-A val would have chosen: {best}" in printed
    assert "A choice by the tests' columns is an oracle choice" in printed


@pytest.mark.slow
def test_a_swept_keyword_has_the_value_that_validating_with_it_gives(folder, tmp_path):
    assert main(["ablate", str(folder), "model.top_k=2"]) == 0
    found = float(next(row for row in rows_of(folder) if row["what"] == "model.top_k=2")["selection_value"])
    assert main(["test", "--run", str(folder), "--out", str(tmp_path), "model.top_k=2", *QUIET]) == 0
    table = ScoreTable.load(next(tmp_path.rglob("scores_selection/Demo-A.npz")))
    assert found == pytest.approx(table_metrics(table)["frame_auc"], abs=1e-9)


def marked(metric: str, *cells) -> list[tuple[str, str]]:
    """(variant, mark) of rows of one test set, from (variant, value on the selection split, value on the test)."""
    rows = [{"what": what, "test_set": "T", metric: test, "selection_value": value} for what, value, test in cells]
    mark_rows(rows, metric)
    return [(row["what"], row["mark"]) for row in rows]


def test_the_best_row_of_a_test_is_an_oracle_unless_the_selection_split_chooses_it():
    assert marked("frame_auc", ("a", 0.9, 0.6), ("b", 0.8, 0.7)) == [("a", "chosen"), ("b", "oracle")]
    assert marked("frame_auc", ("a", 0.8, 0.6), ("b", 0.9, 0.7)) == [("a", ""), ("b", "chosen")]
    assert marked("frame_eer", ("a", 0.9, 0.6), ("b", 0.8, 0.7)) == [("a", "oracle"), ("b", "chosen")]


def test_of_equal_rows_the_first_is_chosen_and_no_equal_one_is_an_oracle():
    assert marked("frame_auc", ("a", 0.9, 0.7), ("b", 0.9, 0.7)) == [("a", "chosen"), ("b", "")]


def test_a_row_without_a_value_on_the_selection_split_cannot_be_chosen_but_can_be_an_oracle():
    assert marked("frame_auc", ("a", 0.5, 0.6), ("b", None, 0.7)) == [("a", "chosen"), ("b", "oracle")]
    assert marked("frame_auc", ("a", None, 0.6), ("b", None, 0.7)) == [("a", ""), ("b", "")]
    assert marked("frame_auc", ("a", 0.5, None), ("b", None, None)) == [("a", "chosen"), ("b", "")]


@pytest.mark.parametrize(
    ("selected_on", "reason"),
    [
        ({"rule": "last", "epoch": 0}, "no value is stored (last epoch)"),
        ({"rule": "none"}, "no value is stored (not trained)"),
        ({"rule": "given"}, "no value is stored (given weights, choice unknown)"),
    ],
)
def test_without_a_stored_value_the_output_says_so_and_marks_no_row(folder, tmp_path, capsys, selected_on, reason):
    shutil.copytree(folder, tmp_path / "run")
    file = tmp_path / "run" / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "selected_on": selected_on}))
    assert main(["ablate", str(tmp_path / "run"), "model.top_k=2"]) == 0
    printed = capsys.readouterr().out
    assert reason in printed and "A choice by the tests' columns is an oracle choice" in printed
    assert "would have chosen" not in printed
    assert {(row["mark"], row["selection_value"], row["selected_on"]) for row in rows_of(tmp_path / "run")} == {
        ("",) * 3
    }


@pytest.mark.slow
def test_a_selection_split_that_was_not_scored_gives_the_stored_value_of_the_tested_variant_alone(
    folder, tmp_path, capsys
):
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "scores_selection")
    assert main(["ablate", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "no scores of Demo-A val" in printed and "would have chosen" not in printed
    stored = RunResult.load(folder / "result.json").selected_on.value
    values = {row["what"]: row["selection_value"] for row in rows_of(tmp_path / "run")}
    assert float(values.pop(AS_TESTED)) == pytest.approx(stored) and set(values.values()) == {""}


def test_a_sweep_without_features_of_the_selection_split_says_what_to_set(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "features_selection")
    assert main(["ablate", str(tmp_path / "run"), "model.top_k=2"]) == 0
    assert "run.save_features=true" in capsys.readouterr().out
    rows = rows_of(tmp_path / "run")
    assert {row["selection_value"] for row in rows if row["what"] == "model.top_k=2"} == {""}


def test_a_choice_on_frames_of_the_tests_is_called_an_oracle_itself(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "run")
    file = tmp_path / "run" / "result.json"
    content = json.loads(file.read_text())
    content["selected_on"]["oracle"] = True
    file.write_text(json.dumps(content))
    assert main(["ablate", str(tmp_path / "run"), "model.top_k=2"]) == 0
    assert "Demo-A val holds test frames: its choice is an oracle choice too" in capsys.readouterr().out


def test_without_features_the_scores_alone_are_looked_at_and_a_sweep_is_an_error(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("features"))
    assert main(["ablate", str(tmp_path / "run")]) == 0
    assert "no features were kept; test again with run.save_features=true" in capsys.readouterr().out
    assert main(["ablate", str(tmp_path / "run"), "model.top_k=2"]) == 2
    assert "run.save_features=true" in capsys.readouterr().err


def test_features_of_other_weights_are_refused(folder, tmp_path, capsys):
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run" / "features" / "Demo-A.npz"
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "checkpoint": np.array("0" * 64)})
    assert main(["ablate", str(tmp_path / "run"), "model.top_k=2"]) == 2
    assert "belongs to other frames or weights" in capsys.readouterr().err
    np.savez(path, **{**arrays, "features": arrays["features"] + 1})
    assert main(["ablate", str(tmp_path / "run"), "model.top_k=2"]) == 2
    assert "off the stored ones" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.top_k"], "expected model.KEYWORD=VALUE"),
        (["train.epochs=3"], "expected model.KEYWORD=VALUE"),
        (["model.top_q=3"], "top_q"),
        (["model.top_k=many"], "top_k"),
        (
            ["model.top_k=2", "model.top_k=5"],
            "'model.top_k=5': model.top_k has values already; give all of them in one",
        ),
    ],
)
def test_a_wrong_sweep_is_an_error_that_names_it(folder, capsys, words, message):
    assert main(["ablate", str(folder), *words]) == 2
    assert message in capsys.readouterr().err


def test_keywords_that_do_not_fit_each_other_are_named(folder, capsys, monkeypatch):
    def fail(config):
        raise AttributeError("'FeatureListNet' object has no attribute 'num_features'")

    monkeypatch.setattr("resproto_fd.detectors.registry.build_detector", fail)
    assert main(["ablate", str(folder), "model.top_k=2"]) == 2
    assert "with these settings (AttributeError: 'FeatureListNet'" in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    assert main(["ablate", str(tmp_path)]) == 2
    assert "no scores/*.npz" in capsys.readouterr().err
