"""A function of the user's as a detector: its pictures, its answers, and its row on the board."""

import csv
import sys
import types

import numpy as np
import pytest

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.store.frame_store import open_store
from resproto_fd.trainer.augment.corruptions import through_jpeg
from resproto_fd.training.board.building import build
from resproto_fd.training.cli import main
from resproto_fd.training.commands.callables import answers, imported
from resproto_fd.training.protocols import resolve
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ScoreTable

GREEN = '''
"""P(fake) from the mean of the green channel; dark pictures get no answer."""
import numpy as np

def score(pictures):
    assert all(p.dtype == np.uint8 and p.ndim == 3 and p.shape[2] == 3 for p in pictures)
    means = [float(p[..., 1].mean()) for p in pictures]
    return [m / 255 if m >= 90 else float("nan") for m in means]
'''
FRAMES = ["a.png", "b.png"]


@pytest.fixture(scope="module")
def green(tmp_path_factory):
    path = tmp_path_factory.mktemp("code") / "green.py"
    path.write_text(GREEN)
    return path


@pytest.fixture(scope="module")
def row(demo, green, tmp_path_factory):
    """The run folder of a function's scores of one test set."""
    out = tmp_path_factory.mktemp("runs")
    assert scored_by(demo, out, green, "--test_dataset", "Demo-C") == 0
    (path,) = out.rglob("result.json")
    return path.parent


def scored_by(demo, out, target, *words):
    common = ["--protocol", "demo_cross", "--out", str(out), "--name", "green", "run.progress=false"]
    return main(["test", "--callable", f"{target}:score", *common, *words, f"data.root={demo}"])


@pytest.mark.slow
def test_a_functions_row_is_that_of_the_same_scores_submitted(demo, green, tmp_path):
    stated = ["--trained-on", "protocol", "--selected", "last", "--title", "Green"]
    assert scored_by(demo, tmp_path / "runs", green, *stated) == 0
    folder = tmp_path / "runs" / "demo_cross" / "green" / "seed0"
    own = RunResult.load(folder / "result.json")
    assert (own.source, own.detector_class, own.title) == ("callable", "green.py:score", "Green")
    assert own.tests["Demo-A"].in_domain
    assert 0 < own.tests["Demo-B"].answered < 1

    template = str(tmp_path / "t.csv")
    assert main(["submit", "--protocol", "demo_cross", "--template", template, f"data.root={demo}"]) == 0
    with open(template, newline="") as file:
        rows = list(csv.DictReader(file))
    stores = {name: open_store(demo / "lmdb" / f"{name}_lmdb") for name in own.tests}
    score, _ = imported(f"{green}:score")
    for row in rows:
        row["score"] = score([stores[row["test_set"]].read(row["frame"])])[0]
    with open(tmp_path / "s.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    words = ["submit", str(tmp_path / "s.csv"), "--protocol", "demo_cross", "--name", "sent", *stated]
    assert main([*words, "--out", str(tmp_path / "runs"), f"data.root={demo}"]) == 0
    sent = RunResult.load(tmp_path / "runs" / "demo_cross" / "sent" / "seed0" / "result.json")
    assert sent.fingerprint == own.fingerprint
    for name, test in own.tests.items():
        assert test.model_dump(exclude={"made_from"}) == sent.tests[name].model_dump(exclude={"made_from"})
        tables = [ScoreTable.load(one.folder / "scores" / f"{name}.npz") for one in (own, sent)]
        assert tables[0].score.tolist() == tables[1].score.tolist()
    build([tmp_path / "runs"], tmp_path / "board")
    page = (tmp_path / "board" / "index.html").read_text()
    assert "Green" in page
    assert "callable" in page


def test_the_pictures_are_those_that_the_protocol_makes_of_the_stored_frames(demo, tmp_path, monkeypatch):

    seen = []
    module = types.ModuleType("made_elsewhere")
    module.score = lambda pictures: [seen.append(p) or 0.25 for p in pictures]
    monkeypatch.setitem(sys.modules, "made_elsewhere", module)
    words = ["--test_dataset", "Demo-C", "protocol.recode=40", "run.test_batch_size=7"]
    assert scored_by(demo, tmp_path / "runs", "made_elsewhere", *words) == 0
    (path,) = (tmp_path / "runs").rglob("result.json")
    result = RunResult.load(path)
    assert (list(result.tests), result.detector_class) == (["Demo-C"], "made_elsewhere:score")
    assert len(seen) == result.tests["Demo-C"].frames
    table = ScoreTable.load(path.parent / "scores" / "Demo-C.npz")
    assert set(table.score.tolist()) == {0.25}
    store = open_store(demo / "lmdb" / "Demo-C_lmdb")
    frames = resolve(loading.load("protocols", "demo_cross"), loading.data_settings([f"data.root={demo}"], "x")).tests
    assert np.array_equal(seen[0], through_jpeg(store.read(frames["Demo-C"].paths[0]), 40))


def test_frames_without_an_answer_are_told_apart_and_count_as_a_half(demo, row, green):
    result, table = RunResult.load(row / "result.json"), ScoreTable.load(row / "scores" / "Demo-C.npz")
    assert (result.source, result.detector_class, result.trained_on) == ("callable", "green.py:score", None)
    frames = resolve(loading.load("protocols", "demo_cross"), loading.data_settings([f"data.root={demo}"], "x"))
    store, score = open_store(demo / "lmdb" / "Demo-C_lmdb"), imported(f"{green}:score")[0]
    expected = np.asarray(score([store.read(path) for path in frames.tests["Demo-C"].paths]))
    silent = np.isnan(expected)
    assert 0 < silent.sum() < len(silent)
    assert np.array_equal(table.answered, ~silent)
    assert np.array_equal(table.score, np.where(silent, 0.5, expected))
    assert result.tests["Demo-C"].answered == pytest.approx(1 - silent.mean())


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([0.5], "one for each picture, got shape [1]"),
        ([[0.1, 0.9], [0.2, 0.8]], "got shape [2, 2]"),
        ([0.5, 1.5], "got 1.5 for b.png; scores outside [0, 1] look like logits"),
        ([-3.0, 0.5], "got -3 for a.png"),
        ([0.5, float("inf")], "got inf for b.png"),
        (["fake", "real"], "expected 2 numbers in [0, 1] (nan for no answer)"),
        (None, "one for each picture, got "),
    ],
)
def test_another_answer_than_a_probability_for_each_picture_is_an_error(answer, message):
    pictures = [np.zeros((4, 4, 3), np.uint8)] * 2
    with pytest.raises(UserError) as caught:
        answers(lambda given: answer, "my.py:score", pictures, FRAMES)
    assert message in str(caught.value)
    assert str(caught.value).startswith("--callable my.py:score: ")


def test_a_tensor_with_a_gradient_and_no_answer_are_taken():
    import torch

    pictures = [np.zeros((4, 4, 3), np.uint8)] * 2
    found = answers(lambda given: torch.tensor([0.25, torch.nan], requires_grad=True), "m:f", pictures, FRAMES)
    assert found[0] == 0.25
    assert np.isnan(found[1])


def test_a_function_that_raises_is_an_error_with_its_line(tmp_path):
    (tmp_path / "bad.py").write_text("def score(pictures):\n    return 1 / 0\n")
    score, _ = imported(f"{tmp_path}/bad.py:score")
    with pytest.raises(UserError, match=r"failed on 1 pictures from a.png: ZeroDivisionError: .*bad.py, line 2"):
        answers(score, "bad.py:score", [np.zeros((4, 4, 3), np.uint8)], FRAMES)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("good.py", "expected FILE.py:FUNCTION or MODULE:FUNCTION"),
        ("absent.py:score", "no such file"),
        ("good.py:scor", "good.py: has no scor; the nearest is 'score'"),
        ("good.py:NUMBER", "NUMBER is no function"),
        ("broken.py:score", "broken.py cannot be imported: ModuleNotFoundError"),
        ("leaves.py:score", "leaves.py cannot be imported: SystemExit"),
        ("no_such_module:score", "no_such_module cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_target_that_cannot_be_had_is_named(tmp_path, monkeypatch, target, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.py").write_text("NUMBER = 1\ndef score(pictures): ...\n")
    (tmp_path / "broken.py").write_text("import a_module_that_is_nowhere\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(UserError) as caught:
        imported(target)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--callable", "x.py:f", "--name", "x", "--detector", "xception"], "--detector: not with --callable"),
        (["--callable", "x.py:f", "--name", "x", "--run", "there"], "--run: not with --callable"),
        (["--callable", "x.py:f", "--name", "x", "model.width=3"], "takes data.*, protocol.* and run.* settings"),
        (["--callable", "x.py:f"], "set --name NAME"),
        (["--callable", "x.py:f", "--name", "x", "--selected", "some"], "expected last or best/METRIC/SET/SPLIT"),
        (["--detector", "chance", "--name", "x"], "--name: only with --callable"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused_before_code_is_imported(words, message, capsys):
    assert main(["test", *words, "--protocol", "demo_cross"]) == 2
    assert message in capsys.readouterr().err


def test_a_result_in_the_way_is_named_before_code_is_imported(demo, row, tmp_path, capsys):
    before = (row / "result.json").read_bytes()
    (tmp_path / "other.py").write_text("raise RuntimeError('it was imported')")
    assert scored_by(demo, row.parents[2], tmp_path / "other.py", "--test_dataset", "Demo-C") == 2
    assert "holds a result already; give another --name" in capsys.readouterr().err
    assert (row / "result.json").read_bytes() == before


def test_no_file_can_name_a_function(demo, green, row, tmp_path, capsys):
    """A run folder of a function's scores names it for readers; testing that folder runs nothing."""
    assert main(["test", "--run", str(row)]) == 2
    assert "with config.yaml in it" in capsys.readouterr().err
    (tmp_path / "mine.yaml").write_text(f"detector: callable\nmodel: {{target: '{green}:score'}}\n")
    assert main(["test", "--detector_path", str(tmp_path / "mine.yaml"), "--trust-code", f"data.root={demo}"]) == 2
    assert "no detector class is called 'callable'" in capsys.readouterr().err
