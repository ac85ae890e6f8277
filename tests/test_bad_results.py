"""One bad result costs one row: it is left out and named, and the commands go on with the others."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from tiny import quick_and_slow

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import sha256_of
from resproto_fd.preprocessing.side_file import SideRecord, write_side
from resproto_fd.training.board.building import build
from resproto_fd.training.board.collecting import collect
from resproto_fd.training.board.table import sections
from resproto_fd.training.cli import main
from resproto_fd.training.lineage import run_that_made
from resproto_fd.training.results import Metrics, RunResult, Selection, test_result
from resproto_fd.training.scores import ScoreTable


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run's folder with a result and the scores of two test sets."""
    folder = tmp_path_factory.mktemp("run")
    tests = {}
    for name in ("A", "B"):
        rng = np.random.default_rng(ord(name))
        video = np.repeat([f"{name}/{i}" for i in range(8)], 3)
        label = np.repeat([0, 1] * 4, 3)
        method = np.where(label == 1, "swap", "real")
        scores = rng.random(24)
        table = ScoreTable(name, video, np.tile(range(3), 8), label, method, scores, variants={"clip": scores})
        table.save(folder / "scores" / f"{name}.npz")
        tests[name] = test_result(table)
    first = tests["A"]
    RunResult(
        detector="d", title="D", protocol="p", fingerprint="a" * 16, seed=0, config={}, tests=tests,
        selected_on=Selection(rule="last"), parameters=7,
        robustness={"A": {"blur": {"1": Metrics(**{name: getattr(first, name) for name in Metrics.model_fields})}}},
    ).save(folder / "result.json")  # fmt: skip
    return folder


@pytest.fixture
def runs(run_folder, tmp_path):
    """Two runs; a test spoils the second, `bad`."""
    for name in ("good", "bad"):
        shutil.copytree(run_folder, tmp_path / "runs" / name)
    path = tmp_path / "runs" / "bad" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"detector": "bad", "title": "BAD"}))
    return tmp_path / "runs"


def is_left_out(runs, *words):
    """The good run is collected; the bad one is named."""
    results, (problem,) = collect([runs])
    assert [result.detector for result in results] == ["d"]
    assert "bad" in problem.path
    for word in words:
        assert word in problem.reason


ARRAYS = {
    "format is text": {"format": np.array("one")},
    "format is a list": {"format": np.array([1, 2])},
    "format is NaN": {"format": np.array(np.nan)},
    "format is pickled": {"format": np.array({"a": 1}, dtype=object)},
    "format is a complex number": {"format": np.array(1j)},
    "format is of a newer version": {"format": np.array(99)},
    "skipped is text": {"skipped": np.array("none")},
    "skipped is a list": {"skipped": np.zeros((2, 2), int)},
    "skipped is infinite": {"skipped": np.array(np.inf)},
    "skipped is negative": {"skipped": np.array(-1)},
    "skipped needs 65 bits": {"skipped": np.array(2**64 - 1, dtype=np.uint64)},
    "dataset is a number": {"dataset": np.array(3)},
    "videos are numbers": {"videos": np.arange(8)},
    "videos are a table": {"videos": np.array([["a", "b"]] * 8)},
    "videos hold surrogates": {"videos": np.array([f"A/{i}\ud800" for i in range(8)])},
    "videos hold no characters": {"videos": np.full((8, 1), 0x7FFFFFFF, np.uint32).view("U1")[:, 0]},
    "labels are floats": {"video_label": np.zeros(8)},
    "labels are two": {"video_label": np.full(8, 2)},
    "videos of frames are missing": {"video_index": np.full(24, 99)},
    "videos of frames are dates": {"video_index": np.zeros(24, "M8[s]")},
    "frames need 65 bits": {"frame": np.arange(24, dtype=np.uint64) + 2**63},
    "frames are few": {"frame": np.arange(3)},
    "scores are text": {"score": np.array(["0.5"] * 24)},
    "scores are NaN": {"score": np.full(24, np.nan)},
    "scores have no dimension": {"score": np.array(0.5)},
    "scores have fields": {"score": np.zeros(24, [("a", "f4")])},
    "answers are numbers": {"answered": np.ones(24)},
    "people are one a video": {"video_people": np.array(["a"] * 8)},
    "people have three columns": {"video_people": np.array([["a", "b", "c"]] * 8)},
    "a variant is text": {"variant/clip": np.array(["x"] * 24)},
    "an array is unknown": {"other": np.zeros(3)},
}


@pytest.mark.parametrize("what", quick_and_slow(ARRAYS, [*ARRAYS][::4]))
def test_a_score_table_of_wrong_arrays_costs_its_row(runs, what):
    arrays = ARRAYS[what]
    path = runs / "bad" / "scores" / "A.npz"
    with np.load(path) as file:
        whole = dict(file)
    np.savez(path, **(whole | arrays))
    is_left_out(runs, "A.npz")


def in_its_place(make):
    """Puts something that is no file in a file's place."""
    return lambda path: (path.unlink(), make(path))


NO_FILES = {"pipe": in_its_place(os.mkfifo), "folder": in_its_place(os.mkdir)}


@pytest.mark.parametrize("name", ["result.json", "scores/A.npz"])
@pytest.mark.parametrize("spoil", NO_FILES.values(), ids=NO_FILES.keys())
def test_what_is_no_file_costs_its_row(runs, name, spoil):
    spoil(runs / "bad" / name)
    if name == "result.json":
        is_left_out(runs, "expected a file, got a")
    else:
        results, problems = collect([runs])
        assert len(results) == 2 and not problems  # as where the table is missing
        with pytest.raises(UserError, match="expected a file, got a"):
            ScoreTable.load(runs / "bad" / name)


@pytest.mark.parametrize("spoil", [*NO_FILES.values(), in_its_place(lambda path: path.symlink_to("gone"))])
def test_a_run_is_known_by_its_weights_whatever_lies_among_the_results(runs, tmp_path, spoil):
    weights = tmp_path / "weights.pt"
    weights.write_bytes(b"tensors")
    result = RunResult.load(runs / "good" / "result.json")
    result.model_copy(update={"checkpoint_sha256": sha256_of(weights)}).save(runs / "good" / "result.json")
    spoil(runs / "bad" / "result.json")
    assert run_that_made(weights, runs).folder == runs / "good"


def bomb(path):
    """An array of zeros whose 8 GB take 8 MB in the file; the header alone is enough here."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("variant/zeros.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**9,)})


FILES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("video,score"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-99]),
    "npy": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'"),
    "a longer shape than data": bomb,
    "twice": lambda path: zipfile.ZipFile(path, "a").writestr("score.npy", b""),
    "no npy": lambda path: zipfile.ZipFile(path, "a").writestr("score.txt", b""),
}


@pytest.mark.parametrize("spoil", FILES.values(), ids=FILES.keys())
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_score_table_that_is_no_whole_file_costs_its_row(runs, spoil):
    spoil(runs / "bad" / "scores" / "A.npz")
    is_left_out(runs, "A.npz")


RESULTS = {
    "parameters of 400 digits": ("parameters", "1" + "0" * 400),
    "parameters that need 65 bits": ("parameters", str(2**64)),
    "a lone surrogate": ("title", '"\\ud800"'),
    "NUL": ("note", '"a\\u0000"'),
    "robustness of an unknown set": ("robustness", '{"C": {"blur": {}}}'),
    "robustness of another severity": ("robustness", '{"A": {"blur": {"9": {}}}}'),
    "robustness that is a list": ("robustness", "[1]"),
    "cross_auc of an unknown set": ("cross_auc", '{"A": {"C": 0.5}}'),
    "tests that are a list": ("tests", "[]"),
    "a test set of 300 letters": ("tests", '{"' + "x" * 300 + '": {}}'),
    "a number for a text": ("title", "3"),
    "a text for a number": ("seed", '"3"'),
    "NaN": ("pooled_auc", "NaN"),
    "Infinity": ("timing", '{"test_seconds": Infinity}'),
    "1e400": ("timing", '{"test_seconds": 1e400}'),
    "deep nesting": ("config", '{"a":' * 200 + "1" + "}" * 200),
    "nesting beyond the stack": ("config", "[" * 100_000 + "]" * 100_000),
    "a key twice": ("title", '"x", "title": "y"'),
    "null": ("selected_on", "null"),
}


@pytest.mark.parametrize("what", quick_and_slow(RESULTS, [*RESULTS][::4]))
def test_a_result_file_of_wrong_values_costs_its_row(runs, what):
    key, text = RESULTS[what]
    path = runs / "bad" / "result.json"
    parts = [f'"{name}": {json.dumps(value)}' for name, value in json.loads(path.read_text()).items() if name != key]
    path.write_text("{" + ", ".join([*parts, f'"{key}": {text}']) + "}")
    is_left_out(runs)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe{\x00", b"\xef\xbb\xbf", b"\xe9", b"null", b"[]", b"{}", b"\0"])
def test_a_result_file_that_is_no_whole_json_costs_its_row(runs, data):
    (runs / "bad" / "result.json").write_bytes(data)
    is_left_out(runs)


@pytest.mark.slow
def test_a_bad_result_is_named_on_the_page_and_by_the_command(runs, tmp_path, capsys):
    (runs / "bad" / "scores" / "A.npz").write_bytes(b"PK")
    assert main(["leaderboard", str(runs), "--out", str(tmp_path / "out")]) == 0
    assert "left out: " in capsys.readouterr().err
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "bad/result.json" in page and "A.npz" in page


def test_groups_are_made_where_a_result_that_tells_of_side_files_is_damaged(runs, tmp_path, capsys):
    folder = tmp_path / "data" / "dataset_json"
    folder.mkdir(parents=True)
    common = {"splits": ("test",), "label_name": "x", "method": "swap", "forgery_type": "x", "facts": {"gender": "f"}}
    names = ScoreTable.load(runs / "good" / "scores" / "A.npz").videos.tolist()
    records = [SideRecord(id=name, label=i % 2, **common) for i, name in enumerate(names)]
    write_side(folder / "D.side.jsonl", {"dataset": "D"}, records)
    path = runs / "good" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"config": {"data": {"root": str(tmp_path / "data")}}}))
    (runs / "bad" / "result.json").write_text("{")
    assert main(["evaluate", str(runs), "--groups", "gender"]) == 0
    out = capsys.readouterr().out
    assert "groups by gender" in out and "left out: " in out and "bad/result.json" in out
    path.write_text("{")
    assert main(["evaluate", str(runs), "--groups", "gender"]) == 2
    assert "good/result.json" in capsys.readouterr().err


def test_a_test_set_whose_labels_are_in_dispute_costs_its_comparison_alone(runs, capsys):
    path = runs / "bad" / "scores" / "A.npz"
    with np.load(path) as file:
        arrays = dict(file)
    label = arrays["video_label"].copy()
    label[:2] = label[1::-1]
    method = np.where(label == 1, "swap", "real")
    np.savez(path, **(arrays | {"video_label": label, "video_method": method}))
    (runs / "bad" / "result.json").unlink()  # it tells the labels too
    assert main(["evaluate", str(runs)]) == 0
    out = capsys.readouterr().out
    assert "  B: best " in out and "  A: left out: " in out and "disagree about A/0" in out
    for folder in ("good", "bad"):
        (runs / folder / "scores" / "B.npz").unlink()
    assert main(["evaluate", str(runs)]) == 2
    assert "A: " in (err := capsys.readouterr().err) and "disagree about A/0" in err


def test_a_board_of_bad_results_alone_is_refused(runs, tmp_path):
    shutil.rmtree(runs / "good")
    (runs / "bad" / "result.json").write_text("{}")
    with pytest.raises(UserError, match="no usable result"):
        build([runs], tmp_path / "out")


def test_evaluate_and_ablate_name_a_bad_table_and_go_on(runs, capsys):
    (runs / "bad" / "scores" / "A.npz").write_bytes(b"PK")
    assert main(["evaluate", str(runs)]) == 0
    out = capsys.readouterr().out
    assert "left out: " in out and "A.npz" in out and "runs/good" in out
    assert main(["ablate", str(runs / "bad")]) == 0
    out = capsys.readouterr().out
    assert "left out: " in out and "A.npz" in out and "as tested" in out
    (runs / "bad" / "result.json").write_text("[")
    assert main(["ablate", str(runs / "bad")]) == 0
    assert "result.json" in capsys.readouterr().out
    (runs / "bad" / "scores" / "B.npz").write_bytes(b"")
    assert main(["ablate", str(runs / "bad")]) == 2


def of_other_weights(folder):
    table = ScoreTable.load(folder / "scores" / "A.npz")
    table.checkpoint = "0" * 64
    table.save(folder / "scores" / "A.npz")


def made_from_other_settings(folder):
    table, result = ScoreTable.load(folder / "scores" / "A.npz"), RunResult.load(folder / "result.json")
    table.made_from = {"class": "one"}
    result.tests["A"].made_from = table.made_from_hash()
    result.save(folder / "result.json")
    table.made_from = {"class": "other"}
    table.save(folder / "scores" / "A.npz")


def of_another_set(folder):
    shutil.copy(folder / "scores" / "B.npz", folder / "scores" / "A.npz")


def of_another_set_without_a_result(folder):
    of_another_set(folder)
    (folder / "result.json").unlink()


FOREIGN = {
    of_other_weights: "scores of A are not those of result.json",
    made_from_other_settings: "its score table was made from other weights, settings or frames",
    of_another_set: "expected scores of 'A', got those of 'B'",
    of_another_set_without_a_result: "expected scores of 'A', got those of 'B'",
}


@pytest.mark.parametrize("spoil", FOREIGN)
def test_a_score_table_that_is_not_the_runs_own_is_left_out_by_every_command_that_reads_it(runs, capsys, spoil):
    spoil(runs / "bad")
    if (runs / "bad" / "result.json").is_file():
        is_left_out(runs, FOREIGN[spoil])
    for command in ("evaluate", "ablate"):
        assert main([command, str(runs / "bad")]) == 0
        out = capsys.readouterr().out
        assert "left out: " in out and FOREIGN[spoil] in out
        assert re.findall("^ *([AB])(?:: 24 frames| +frame_auc)", out, re.MULTILINE) == ["B"]
    (runs / "bad" / "scores" / "B.npz").unlink()
    for command in ("evaluate", "ablate"):
        assert main([command, str(runs / "bad")]) == 2
        assert FOREIGN[spoil] in capsys.readouterr().err


def test_a_table_that_is_left_out_costs_the_other_runs_no_comparison(runs, capsys):
    shutil.copytree(runs / "good", runs / "third")
    of_another_set(runs / "bad")
    assert main(["evaluate", str(runs)]) == 0
    of_a, of_b = capsys.readouterr().out.split("  A: best ")[1].split("  B: best ")
    assert "runs/good - " in of_a and "runs/bad" not in of_a and "runs/bad - " in of_b
    shutil.rmtree(runs / "third")
    assert main(["evaluate", str(runs)]) == 0
    assert "  A: left out: fewer than two runs have scores of it" in capsys.readouterr().out


@pytest.fixture
def on_other_pixels(runs):
    """Runs `good`, `third` and `bad` of the same frames, where `bad` read other pixels of A; `submitted` read none."""
    for name in ("third", "submitted"):
        shutil.copytree(runs / "good", runs / name)
    for name in ("good", "bad", "third", "submitted"):
        result = RunResult.load(runs / name / "result.json")
        for test in result.tests.values():
            test.in_domain = False
        result.model_copy(update={"detector": name, "title": name}).save(runs / name / "result.json")
    for name in ("good", "third", "bad"):
        for file in sorted((runs / name / "scores").glob("*.npz")):
            table = ScoreTable.load(file)
            table.checksums = np.arange(24, dtype=np.uint32)
            if (name, file.stem) == ("bad", "A"):
                table.checksums[5:9] = 99
            table.save(file)
    return runs


def test_a_run_on_other_pixels_of_the_same_frames_is_named_on_the_board_and_not_tested(
    on_other_pixels, tmp_path, capsys
):
    assert main(["leaderboard", str(on_other_pixels), "--out", str(tmp_path / "out")]) == 0
    said = "A: bad, seed 0 was scored on other pixels of the same frames than the rest"
    err = capsys.readouterr().err
    assert f"note: p: {said}" in err and err.count("pixels") == 1
    for name in ("index.html", "leaderboard.md", "leaderboard.json"):
        assert (tmp_path / "out" / name).read_text().count(said) == 1
    (section,) = sections(collect([on_other_pixels])[0])
    (bad,) = (row.key for row in section.rows if row.name == "bad")
    for metric in ("frame_auc", "video_auc"):
        marks = section.marks[metric]
        assert marks.untested["A"] == {bad: "seed 0 was scored on other pixels"} and not marks.untested["B"]
        assert len(marks.tied["A"]) == 3 and len(marks.tied["B"]) == 4


@pytest.mark.parametrize("level", ["frame", "video"])
def test_runs_on_other_pixels_of_the_same_frames_are_not_compared(on_other_pixels, capsys, level):
    assert main(["evaluate", str(on_other_pixels), "--level", level]) == 0
    of_a, of_b = capsys.readouterr().out.split("  A: best ")[1].split("  B: best ")
    assert "runs/good - " in of_a and "runs/bad" not in of_a
    assert "runs/bad - " in of_b and re.search("  A: left out: .*runs/bad, whose frames hold other pixels", of_b)
    for name in ("third", "submitted"):
        shutil.rmtree(on_other_pixels / name)
    assert main(["evaluate", str(on_other_pixels), "--level", level]) == 0
    out = capsys.readouterr().out
    assert "  A: best" not in out and re.search("  A: left out: .*other pixels than those of .*again", out)


@pytest.mark.slow
def test_a_title_beyond_ascii_comes_to_the_board_in_a_locale_of_ascii(demo, tmp_path):
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)

    def resproto(*words):
        command = [sys.executable, "-m", "resproto_fd.training.cli", *words]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True)

    data = f"data.root={demo}"
    assert resproto("submit", data, "--protocol", "demo_cross", "--template", "empty.csv").returncode == 0
    lines = (tmp_path / "empty.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "full.csv").write_text("\n".join([lines[0], *(line + "0.25" for line in lines[1:])]), encoding="utf-8")
    made = resproto("submit", "full.csv", data, "--protocol", "demo_cross", "--name", "mine", "--title", "Détecteur 臉")
    assert made.returncode == 0, made.stderr
    built = resproto("leaderboard", "runs", "--out", "board")
    assert built.returncode == 0, built.stderr
    assert "Détecteur 臉" in (tmp_path / "board" / "index.html").read_text(encoding="utf-8")
    assert resproto("list", "datasets").returncode == 0
    refused = resproto("submit", "full.csv", data, "--protocol", "demo_cross", "--name", "né")
    assert refused.returncode == 2 and b"Traceback" not in refused.stderr
