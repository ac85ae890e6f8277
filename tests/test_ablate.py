"""Ablations that need no retraining: numbers from kept features are those of testing with other keywords."""

import csv
import json

import numpy as np
import pytest

from resproto_fd.training.cli import main
from resproto_fd.training.commands.ablate import VIDEO_SCORES
from resproto_fd.training.measures.intervals import table_intervals
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ScoreTable

QUIET = ["run.workers=0", "run.progress=false", "run.device=cpu"]


@pytest.fixture(scope="module")
def folder(demo, tmp_path_factory):
    """A run of ResProto-FD on tiny data, with its features."""
    place = tmp_path_factory.mktemp("ablate")
    words = ["--detector", "resproto_fd_tiny", "--protocol", "demo_cross", "--out", str(place / "runs")]
    settings = ["train.epochs=1", "model.start_epoch=0", "train.batch_size=8", "run.save_features=true"]
    assert main(["train", *words, f"data.root={demo}", *settings, *QUIET]) == 0
    return place / "runs" / "demo_cross" / "resproto_fd_tiny" / "seed0"


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


def test_without_features_the_scores_alone_are_looked_at_and_a_sweep_is_an_error(folder, tmp_path, capsys):
    import shutil

    shutil.copytree(folder, tmp_path / "run", ignore=shutil.ignore_patterns("features"))
    assert main(["ablate", str(tmp_path / "run")]) == 0
    assert "no features were kept; test again with run.save_features=true" in capsys.readouterr().out
    assert main(["ablate", str(tmp_path / "run"), "model.top_k=2"]) == 2
    assert "run.save_features=true" in capsys.readouterr().err


def test_features_of_other_weights_are_refused(folder, tmp_path, capsys):
    import shutil

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
    ],
)
def test_a_wrong_sweep_is_an_error_that_names_it(folder, capsys, words, message):
    assert main(["ablate", str(folder), *words]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    assert main(["ablate", str(tmp_path)]) == 2
    assert "no scores/*.npz" in capsys.readouterr().err
