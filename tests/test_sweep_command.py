"""The command `resproto sweep`: its plan, what it says before anything starts, and its exit statuses."""

import builtins
import importlib.util
import subprocess
import sys

import pytest
import yaml
from made_runs import put_checkpoint, put_result, sweep

from resproto_fd.configs import loading
from resproto_fd.training import cli
from resproto_fd.training.cli import main
from resproto_fd.training.sweeps.cells import SIDE, cells_of
from resproto_fd.training.sweeps.claims import Claims
from resproto_fd.training.sweeps.plan import datasets_of, plan_of, text_of

MADE = """
title: A made table
cells:
  - {detectors: [clip_tiny, clip_zero_shot_tiny], protocols: [demo_cross], seeds: [0, 1]}
needs: {cards: 0, cpus: 1}
settings: [run.workers=0]
images_per_second: {default: 100, clip_tiny: 50}
"""


@pytest.fixture
def made(tmp_path):
    (tmp_path / "made.yaml").write_text(MADE)
    return tmp_path / "made.yaml"


def cells_in(path):
    return cells_of(loading.load("sweeps", str(path)), path.parent)


def test_the_plan_tells_what_is_done_and_what_the_rest_costs(made, tmp_path, capsys):
    runs = tmp_path / "runs"
    done, begun, failed, _ = cells_in(made)
    put_result(done, runs)
    put_checkpoint(begun, runs)
    failed.failed_file(runs).parent.mkdir(parents=True)
    failed.failed_file(runs).write_text("{}")
    assert main(["sweep", str(made), "--out", str(runs), "--dry-run"]) == 0
    out = capsys.readouterr().out
    for state, count in (("done", 1), ("begun", 1), ("to do", 1), ("failed", 1)):
        assert f"{count} {state}" in out
    # 4 epochs of 576 + 72 videos with 5 frames, and 120 + 120 + 100 tested ones; at 50, and at 100 without training
    tests = 5 * sum(loading.load("datasets", f"Demo-{name}").size["test"].videos for name in "ABC")
    images = 4 * 5 * (576 + 72) + tests
    assert f"on paper: {2 * images + 2 * tests:,} images" in out
    left = (images / 50 + tests / 100) / 3600
    assert f"{left:.1f} of them to do" in out
    assert str(failed.failed_file(runs)) in out
    assert not (runs / "demo_data").exists()


@pytest.mark.parametrize(
    ("overrides", "training", "testing"),
    [
        (["input.frames=2"], 4, 4),
        (["input.frames=2", "input.clips=3"], 4, 6),
        (["input.frames=2", "input.clips=9"], 4, 8),
        (["input.frames=32"], 32, 32),
    ],
)
def test_on_paper_a_clip_costs_all_its_frames(tmp_path, overrides, training, testing):
    """Videos of Demo-A have five stored frames: two clips of two fill them, and four can start."""
    group = {"detectors": ["i3d"], "overrides": [[*overrides, "train.epochs=1"]]}
    protocol = {"name": "own", "train": ["Demo-A"], "test": ["Demo-A"], "selection": {"dataset": "Demo-A"}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(protocol))
    cells = cells_of(sweep(group | {"protocols": ["own.yaml"]}), tmp_path)
    plan = plan_of(sweep(group), cells, tmp_path / "runs", None)
    assert [row.images for row in plan.rows] == [576 * training + (72 + 120) * testing]


def test_on_paper_forgeries_come_beside_all_clips_or_in_the_place_of_the_fakes(tmp_path):
    size = loading.load("datasets", "FaceForensics++").size["train"]
    protocol = {"name": "own", "train": ["FaceForensics++"], "test": ["Demo-A"], "selection": {"rule": "last"}}
    protocol["frames"] = {"train": 8, "val": 8, "test": 8}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(protocol))
    found = {}
    for detector, samples, *words in (
        ("i3d", "frames", "input.frames=4"),
        ("i3d", "video_blended", "input.frames=4"),
        ("meso4", "warped"),
    ):
        overrides = [[f"train.samples={samples}", "train.epochs=1", *words]]
        group = {"detectors": [detector], "overrides": overrides, "protocols": ["own.yaml"]}
        (row,) = plan_of(sweep(group), cells_of(sweep(group), tmp_path), tmp_path / "runs", None).rows
        found[samples] = row.images
    assert 0 < size.reals < size.videos
    assert found["video_blended"] - found["frames"] == 2 * 4 * size.reals
    assert found["warped"] == 8 * 2 * size.reals + 5 * 120


def test_the_status_is_told_by_the_exit_status(made, tmp_path, capsys):
    runs = tmp_path / "runs"
    words = ["sweep", str(made), "--out", str(runs), "--status"]
    assert main(words) == 75
    cells = cells_in(made)
    for cell in cells:
        put_result(cell, runs)
    assert main(words) == 0
    (runs / cells[0].folder / "result.json").unlink()
    cells[0].failed_file(runs).parent.mkdir(parents=True)
    cells[0].failed_file(runs).write_text("{}")
    assert main(words) == 1
    assert "1 failed" in capsys.readouterr().out


def test_the_status_tells_what_is_at_work(made, tmp_path, capsys):
    runs = tmp_path / "runs"
    words = ["sweep", str(made), "--out", str(runs), "--status"]
    cells = cells_in(made)
    with Claims(runs / SIDE / "claims") as claims:
        for cell in cells[:2]:
            assert claims.take(cell.digest)
        claims.release(cells[0].digest)
        assert main(words) == 75
        assert "1 of these are at work now" in capsys.readouterr().out
    assert main(words) == 75
    assert "at work" not in capsys.readouterr().out


def test_a_moved_folder_of_runs_keeps_its_states(made, tmp_path):
    runs = tmp_path / "runs"
    for cell in cells_in(made):
        put_result(cell, runs)
    runs.rename(tmp_path / "moved")
    assert main(["sweep", str(made), "--out", str(tmp_path / "moved"), "--status"]) == 0


def test_the_times_of_done_runs_take_the_place_of_those_on_paper(made, tmp_path):
    runs, cells, config = tmp_path / "runs", cells_in(made), loading.load("sweeps", str(made))
    put_result(cells[0], runs, timing={"train_seconds": 100.0, "test_seconds": 20.0})
    plan = plan_of(config, cells, runs)
    assert [plan.seconds_of(cell) for cell in cells[:2]] == [120.0, 120.0]
    assert [row.measured for row in plan.rows] == [True, True, False, False]
    assert "the times of 2 cells" in text_of(plan, runs)


def test_sets_of_unknown_size_are_named_and_not_counted(tmp_path):
    (tmp_path / "own.yaml").write_text("train: [Mine]\nselection: {rule: last}\ntest: [Demo-A]\n")
    config = sweep({"protocols": ["own.yaml"]}, {}, images_per_second={"default": 1})
    plan = plan_of(config, cells_of(config, tmp_path), tmp_path / "runs")
    assert plan.unknown == ["Mine"] and [row.seconds is None for row in plan.rows] == [True, False]
    assert "of unknown size: Mine" in text_of(plan, tmp_path)


def test_every_fault_of_the_folder_is_named_before_anything_starts(made, tmp_path, capsys):
    runs = tmp_path / "runs"
    first, second, *_ = cells_in(made)
    for cell in (first, second):
        put_result(cell, runs, source="submitted")
    assert main(["sweep", str(made), "--out", str(runs)]) == 2
    told = capsys.readouterr().err
    assert first.folder in told and second.folder in told
    assert not (runs / "demo_data").exists()


def test_absent_data_are_named_before_anything_starts(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RESPROTO_DATA", raising=False)
    for folder in ("dataset_json", "lmdb"):
        (tmp_path / folder).mkdir()
    words = ["sweep", "deepfakebench", "--out", str(tmp_path / "runs")]
    assert main([*words, f"data.root={tmp_path}"]) == 2
    told = capsys.readouterr().err
    assert f"{tmp_path / 'dataset_json'} has no manifest of FaceForensics++, " in told and "DFDCP" in told
    assert "has frames of FaceForensics++, " in told
    assert main(words) == 2
    assert "neither data.root is given nor RESPROTO_DATA is set" in capsys.readouterr().err
    assert main([*words, "data.root=/no/such"]) == 2
    assert "no folder /no/such" in capsys.readouterr().err


def test_the_data_of_a_changed_protocol_are_looked_for_beside_those_of_the_plain_one():
    for overrides in ([[], ["protocol.test=[DFDC]"]], [["protocol.test=[DFDC]"], []]):
        config = sweep({"overrides": overrides}, {})
        assert {"Demo-A", "Demo-C", "DFDC"} <= {*datasets_of(cells_of(config))}


def test_without_the_extra_the_plan_works_and_a_start_says_what_to_install(made, tmp_path, capsys, monkeypatch):
    found, imported = importlib.util.find_spec, builtins.__import__

    def no_engine(name, *rest, **more):
        if name.partition(".")[0] in ("ray", "rich"):
            raise ModuleNotFoundError(name)
        return imported(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", no_engine)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *r: None if name in ("ray", "rich") else found(name, *r)
    )
    words = ["sweep", str(made), "--out", str(tmp_path / "runs"), f"data.root={tmp_path}"]
    assert main([*words, "--dry-run"]) == 0
    assert main([*words, "--status"]) == 75
    (tmp_path / "dataset_json").mkdir()
    assert main([*words, "--slurm", str(tmp_path / "jobs")]) == 0
    told = capsys.readouterr()
    assert (
        "jobs/array-1.slurm" in told.out
        and f"note: on this machine: {tmp_path / 'dataset_json'} has no manifest of Demo-A" in told.err
    )
    assert main(words) == 2
    assert "expected ray and rich installed; pip install 'resproto-fd[cluster]'" in capsys.readouterr().err


@pytest.mark.slow
def test_the_plan_imports_no_engine(made, tmp_path):
    """A subprocess tells, since other tests import it."""
    text = (
        "import sys; from resproto_fd.training.cli import main; "
        f"main(['sweep', {str(made)!r}, '--dry-run', '--out', {str(tmp_path)!r}]); "
        "sys.exit('ray' in sys.modules or 'rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", text], capture_output=True).returncode == 0


@pytest.mark.parametrize(
    "words, message",
    [
        (["no_such"], "no sweep is called 'no_such'"),
        (["demo", "--hours", "0", "--slurm", "x"], "--hours"),
        (["demo", "seed=3"], "which a sweep sets itself; set seeds: instead"),
        (["demo", "run.out=x"], "which a sweep sets itself; set --out instead"),
        (["demo", "train.epoch=3"], "train.epoch"),
    ],
)
def test_wrong_words_are_errors(words, message, capsys, tmp_path):
    assert main(["sweep", *words, "--out", str(tmp_path / "runs"), f"data.root={tmp_path}"]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", ["--status", "--dry-run"])
def test_a_file_is_no_folder_of_runs(made, tmp_path, capsys, word):
    (tmp_path / "file").write_text("x")
    assert main(["sweep", str(made), "--out", str(tmp_path / "file"), word, f"data.root={tmp_path}"]) == 2
    assert "file: expected a folder of runs, got a file; set another --out" in capsys.readouterr().err


def test_paths_of_the_command_line_mean_the_same_in_every_process(made, tmp_path, monkeypatch):
    from resproto_fd.training.commands import sweep as command

    monkeypatch.chdir(tmp_path)
    data, words = command._machine_words(["data.root=a b", "train.epochs=1", "data.on_bad_frame=skip"], tmp_path)
    assert data.root == str(tmp_path / "a b")
    assert words == ["train.epochs=1", f"data.root={tmp_path / 'a b'}", "data.on_bad_frame=skip"]
    monkeypatch.setenv("RESPROTO_DATA", "from_env")
    assert command._machine_words([], tmp_path)[0].root == str(tmp_path / "from_env")
    assert cli.COMMANDS["sweep"][0] == command.__name__.removeprefix("resproto_fd.")
