"""Result files: what a run leaves behind, and that a file which is not whole is refused by name."""

import json
import subprocess

import numpy as np
import pytest

from resproto_fd.configs.errors import UserError
from resproto_fd.training.environment import git_state, versions
from resproto_fd.training.measures.metrics import method_metrics, table_metrics
from resproto_fd.training.results import SCHEMA_VERSION, RunResult, Selection, test_result
from resproto_fd.training.scores import ScoreTable


def table(seed=0, only=None):
    """Eight videos of two methods and reals; `only` keeps one label."""
    rng = np.random.default_rng(seed)
    method = np.repeat(["real", "real", "real", "swap", "swap", "warp", "warp", "warp"], 4)
    label = (method != "real").astype(int)
    video = np.repeat([f"D/{i}" for i in range(8)], 4)
    score = np.clip(rng.normal(0.4 + 0.2 * label, 0.2), 0, 1)
    kept = np.full(32, True) if only is None else label == only
    columns = (c[kept] for c in (video, np.tile(range(4), 8), label, method, score))
    types = np.where(method == "swap", "face swap", np.where(label == 1, "reenactment", "real"))[kept]
    return ScoreTable("D", *columns, forgery_type=types, variants={"grp": score[kept] ** 2}, skipped=1)


def result(**changed):
    fields = {
        "detector": "resproto_fd",
        "title": "ResProto-FD",
        "protocol": "demo_cross",
        "fingerprint": "0123456789abcdef",
        "seed": 0,
        "config": {"model": {"lr": 5e-7, "layers": [1, None]}},
        "selected_on": Selection(rule="best", dataset="D", split="val", metric="frame_auc", epoch=3, value=0.9),
        "tests": {"D": test_result(table(), in_domain=True), "E": test_result(table(1, only=1))},
        "checkpoint_sha256": "a" * 64,
        "parameters": 86_000_000,
        "timing": {"train_seconds": 12.5},
    }
    return RunResult(**(fields | changed))


def test_the_numbers_of_a_test_set_are_those_of_the_metrics():
    scores = table()
    found = test_result(scores, in_domain=False).model_dump()
    expected = table_metrics(scores)
    assert {name: found[name] for name in expected} == expected
    assert found["variants"]["grp"] == table_metrics(scores, "grp")
    assert list(found["per_method"]) == ["swap", "warp"]
    assert found["per_method"]["warp"] == method_metrics(scores)["warp"] | {"forgery_type": "reenactment"}
    assert (found["skipped"], found["in_domain"], found["frames_hash"]) == (1, False, scores.frames_hash())


def test_an_absent_class_is_undefined_with_its_reason():
    assert test_result(table()).undefined is None
    assert test_result(table(only=1)).undefined == "no real frames in this test set"
    assert test_result(table(only=0)).undefined == "no fake frames in this test set"


def test_a_saved_result_is_the_result_again_digit_for_digit(tmp_path):
    run = result()
    run.save(tmp_path / "run" / "result.json")
    assert RunResult.load(tmp_path / "run" / "result.json") == run
    RunResult.load(tmp_path / "run" / "result.json").save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "run" / "result.json").read_bytes()
    assert json.loads((tmp_path / "again.json").read_text())["tests"]["E"]["frame_auc"] is None


def test_a_field_set_to_nonsense_after_the_fact_is_not_saved(tmp_path):
    run = result()
    run.tests["D"].frame_auc = float("nan")
    with pytest.raises(ValueError, match="frame_auc"):
        run.save(tmp_path / "result.json")
    assert not list(tmp_path.iterdir())


def broken(change):
    data = json.loads(json.dumps(result().model_dump(mode="json")))
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable result file"),
        (result().model_dump_json()[:-40], "not a readable result file"),
        ("[1, 2]", "not a result file: a list"),
        (broken(lambda d: d["tests"]["D"].update(frame_auc=float("nan"))), "NaN is not a number of a result"),
        (broken(lambda d: d["config"].update(lr=float("inf"))), "Infinity is not a number"),
        (broken(lambda d: d["tests"]["D"].update(frame_auc=87.3)), "tests.D.frame_auc: .*less than or equal to 1"),
        (broken(lambda d: d["tests"]["D"].update(frame_auc="0.9")), "tests.D.frame_auc: .*valid number"),
        (broken(lambda d: d["tests"]["D"].pop("video_auc")), "tests.D.video_auc: Field required"),
        (broken(lambda d: d["tests"]["D"].update(real_videos=99)), "tests.D: .*more real frames or videos"),
        (broken(lambda d: d.update(tests={})), "no test set"),
        (broken(lambda d: d.pop("fingerprint")), "fingerprint: Field required"),
        (broken(lambda d: d.update(seed="0")), "seed: .*valid integer"),
        (broken(lambda d: d.update(colour="red")), "colour: Extra inputs"),
        (broken(lambda d: d.update(schema_version=SCHEMA_VERSION + 1)), "newer than this version"),
        (broken(lambda d: d["selected_on"].update(split="test")), "selected_on: .*oracle must be true"),
        (broken(lambda d: d["selected_on"].update(metric=None)), "selected_on: .*needs the data set"),
        (broken(lambda d: d["selected_on"].update(rule="last")), "selected_on: .*looks at no data set"),
    ],
)
def test_a_file_that_is_not_a_whole_result_is_refused_with_its_name_and_the_key(tmp_path, text, message):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"result\.json: .*{message}"):
        RunResult.load(path)


def test_a_missing_file_and_bytes_that_are_no_text_are_named(tmp_path):
    with pytest.raises(UserError, match=r"absent\.json: no such result file"):
        RunResult.load(tmp_path / "absent.json")
    (tmp_path / "result.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"result\.json: not a readable result file"):
        RunResult.load(tmp_path / "result.json")


def test_the_choice_of_a_checkpoint_reads_as_words():
    assert result().selected_on.text() == "best frame_auc on D val"
    assert Selection(rule="last").text() == "last epoch"
    assert Selection(rule="none").text() == "not trained"


def test_git_state_is_the_commit_and_whether_tracked_files_changed(tmp_path):
    def git(*arguments):
        name = ["-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false"]
        return subprocess.run(
            ["git", *name, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout

    (tmp_path / "code.py").write_text("1")
    assert git_state(tmp_path / "code.py") == (None, None)
    git("init", "-q")
    assert git_state(tmp_path / "code.py") == (None, None)  # inside a checkout, but not of it
    git("add", "code.py")
    git("commit", "-q", "-m", "one")
    assert git_state(tmp_path / "code.py") == (git("rev-parse", "HEAD").strip(), False)
    (tmp_path / "code.py").write_text("2")
    assert git_state(tmp_path / "code.py")[1] is True


def test_versions_name_what_numbers_depend_on():
    assert {"python", "numpy", "scikit-learn", "torch"} <= set(versions())


def test_m_eer_is_the_largest_equal_error_rate_of_the_unseen_test_sets():
    tests = {name: test_result(table(seed), in_domain=seed == 0) for seed, name in enumerate("ABC")}
    found = result(tests=tests)
    assert found.unseen() == ["B", "C"]
    assert found.m_eer() == max(tests["B"].frame_eer, tests["C"].frame_eer)
    assert result(tests={"A": tests["A"]}).m_eer() == tests["A"].frame_eer
    assert result(tests={"A": tests["A"], "E": test_result(table(1, only=1))}).m_eer() is None
