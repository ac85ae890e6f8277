"""Scores made elsewhere: exactly the protocol's frames, or refused by name."""

import csv
import math

import numpy as np
import pytest

from resproto_fd.training.board.building import build
from resproto_fd.training.cli import main
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ScoreTable


@pytest.fixture(scope="module")
def data(demo):
    return demo


@pytest.fixture
def template(data, tmp_path, capsys):
    assert main(["submit", "--protocol", "demo_cross", "--template", str(tmp_path / "t.csv"), f"data.root={data}"]) == 0
    assert "fill the column 'score'" in capsys.readouterr().out
    with open(tmp_path / "t.csv", newline="") as file:
        return list(csv.DictReader(file))


def filled(path, rows, **changed):
    """The template with a score for each row, as a file; `changed` scores go by row number, "r3"."""
    rng = np.random.default_rng(0)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["test_set", "frame", "score"])
        writer.writeheader()
        for i, row in enumerate(rows):
            writer.writerow({**row, "score": changed.get(f"r{i}", f"{rng.uniform():.6f}")})
    return str(path)


def submit(data, path, out, *words):
    return main(
        ["submit", path, "--protocol", "demo_cross", "--name", "theirs", "--out", str(out), *words, f"data.root={data}"]
    )


def test_scores_of_exactly_the_protocols_frames_become_a_result_that_stands_on_the_board(data, template, tmp_path):
    path = filled(tmp_path / "s.csv", template)
    stated = ["--trained-on", "protocol", "--selected", "best/frame_auc/Demo-A/val"]
    assert submit(data, path, tmp_path / "runs", "--title", "Their method", "--parameters", "123", *stated) == 0
    folder = tmp_path / "runs" / "demo_cross" / "theirs" / "seed0"
    result = RunResult.load(folder / "result.json")
    assert (result.source, result.title, result.parameters) == ("submitted", "Their method", 123)
    assert result.selected_on.text() == "best frame_auc on Demo-A val"
    assert result.trained_on == ["Demo-A"]
    assert result.tests["Demo-A"].in_domain
    assert not result.tests["Demo-B"].in_domain
    with open(path, newline="") as file:
        given = {(row["test_set"], row["frame"]): float(row["score"]) for row in csv.DictReader(file)}
    table = ScoreTable.load(folder / "scores" / "Demo-B.npz")
    expected = [score for (name, _), score in given.items() if name == "Demo-B"]
    assert table.score.tolist() == expected
    build([tmp_path / "runs"], tmp_path / "board")
    page = (tmp_path / "board" / "index.html").read_text()
    assert "Their method" in page
    assert "submitted" in page


def test_a_submission_that_states_nothing_is_ranked_apart(data, template, tmp_path):
    assert submit(data, filled(tmp_path / "s.csv", template), tmp_path / "runs") == 0
    result = RunResult.load(tmp_path / "runs" / "demo_cross" / "theirs" / "seed0" / "result.json")
    assert (result.selected_on.rule, result.trained_on) == ("given", None)
    assert {test.in_domain for test in result.tests.values()} == {None}
    build([tmp_path / "runs"], tmp_path / "board")
    assert '<tbody class="unstated">' in (tmp_path / "board" / "index.html").read_text()


def test_a_choice_made_on_test_frames_is_an_oracle_and_another_form_is_refused(data, template, tmp_path, capsys):
    path = filled(tmp_path / "s.csv", template)
    assert submit(data, path, tmp_path / "runs", "--trained-on", "X,Demo-B", "--selected", "best/auc/Demo-B/test") == 0
    result = RunResult.load(tmp_path / "runs" / "demo_cross" / "theirs" / "seed0" / "result.json")
    assert result.selected_on.oracle
    assert (result.trained_on, result.tests["Demo-B"].in_domain) == (["X", "Demo-B"], True)
    assert submit(data, path, tmp_path / "other", "--selected", "best/auc") == 2
    assert "expected last or best/METRIC/SET/SPLIT" in capsys.readouterr().err


def test_a_submission_has_the_fingerprint_of_a_run_under_the_same_protocol(data, template, tmp_path):
    assert submit(data, filled(tmp_path / "s.csv", template), tmp_path / "runs") == 0
    words = ["--detector", "clip_zero_shot_tiny", "--protocol", "demo_cross", "--out", str(tmp_path / "runs")]
    assert main(["test", *words, f"data.root={data}", "run.workers=0", "run.progress=false", "run.device=cpu"]) == 0
    results = [RunResult.load(path) for path in (tmp_path / "runs").rglob("result.json")]
    assert len({result.fingerprint for result in results}) == 1
    assert len({result.tests["Demo-C"].frames_hash for result in results}) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows[1:], "1 missing: Demo-A, Demo-A/"),
        (lambda rows: [*rows, {**rows[0], "frame": "Demo-A/other.png"}], "1 of no frame of the protocol: line"),
        (lambda rows: [*rows, {**rows[0], "test_set": "Demo-Z"}], "1 of no frame of the protocol: line"),
        (lambda rows: [*rows, rows[5]], "1 repeated: line"),
    ],
)
def test_missing_extra_and_repeated_rows_are_counted_and_named(data, template, tmp_path, capsys, spoil, message):
    assert submit(data, filled(tmp_path / "s.csv", spoil(template)), tmp_path / "runs") == 2
    error = capsys.readouterr().err
    assert message in error
    assert "nothing was written" in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["nan", "inf", "-0.1", "1.5", "", "high"])
def test_a_score_that_is_no_number_from_0_to_1_is_named_with_its_line(data, template, tmp_path, capsys, text):
    assert submit(data, filled(tmp_path / "s.csv", template, r2=text), tmp_path / "runs") == 2
    assert f"1 no number in [0, 1]: line 4: Demo-A, {template[2]['frame']}: {text!r}" in capsys.readouterr().err


def test_many_faults_are_counted_and_the_first_named(data, template, tmp_path, capsys):
    assert submit(data, filled(tmp_path / "s.csv", template[7:]), tmp_path / "runs") == 2
    assert "7 missing: " in (error := capsys.readouterr().err)
    assert "; and 4 more" in error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("frame,score\n", "lacks the column test_set"),
        ("", "lacks the column test_set, frame, score"),
        ("test_set,frame,score\nDemo-A,x\n", "line 2 has more or fewer fields"),
    ],
)
def test_another_form_of_file_is_an_error(data, tmp_path, capsys, content, message):
    (tmp_path / "s.csv").write_text(content)
    assert submit(data, str(tmp_path / "s.csv"), tmp_path / "runs") == 2
    assert message in capsys.readouterr().err


def test_wrong_words_are_errors_before_data_are_read(tmp_path, capsys):
    for words, message in (
        (["--name", "x"], "name the CSV"),
        (["s.csv"], "expected letters"),
        (["s.csv", "--name", "../x"], "expected letters"),
        (["s.csv", "--name", "x", "train.epochs=3"], "submit takes data.* settings alone, not train"),
        (["s.csv", "--name", "x", "--parameters", "-5"], "--parameters -5: expected the model's number"),
    ):
        assert main(["submit", *words, "--protocol", "demo_cross"]) == 2
        assert message in capsys.readouterr().err


def test_a_result_is_not_overwritten(data, template, tmp_path, capsys):
    path = filled(tmp_path / "s.csv", template)
    assert submit(data, path, tmp_path / "runs") == 0
    assert submit(data, path, tmp_path / "runs") == 2
    assert "holds a result already; give another --name or --seed, or remove the folder" in capsys.readouterr().err
    assert submit(data, path, tmp_path / "runs", "--seed", "1") == 0
    assert math.isclose(RunResult.load(tmp_path / "runs/demo_cross/theirs/seed1/result.json").seed, 1)
