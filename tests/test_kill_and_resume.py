"""Runs of the command line that are killed, stopped, starved of disk or poisoned, and what they leave behind.

The runs are processes forked from one that has imported everything; the slow tier starts each anew.
"""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from filelock import FileLock
from made import made_config, made_dataset
from patience import PATIENCE

from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.batches import EvaluationBatches
from resproto_fd.trainer.loader import make_loader, watched

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from kill_and_resume import PLACES, Bench, differences, preset  # noqa: E402

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its runs")


@pytest.fixture(scope="module")
def bench(demo, tmp_path_factory):
    """Runs of a tiny ResProto-FD on the tiny demo data; one is done and was left alone."""
    bench = Bench(tmp_path_factory.mktemp("runs"), demo, forked=True)
    bench.left_alone()
    return bench


@pytest.fixture(scope="module")
def clips(demo, tmp_path_factory):
    """Runs of a tiny detector of clips of two frames, whose first one is drawn; one is done and was left alone."""
    settings = ["input.frames=2", "input.size=32", "train.batch_size=3", "train.ema=0.9"]
    bench = Bench(tmp_path_factory.mktemp("clips"), demo, forked=True, settings=settings, detector=preset("i3d_tiny"))
    bench.left_alone()
    return bench


def checkpoints(folder):
    return {path.name: path.read_bytes() for path in checkpoint.stored(folder / "checkpoints")}


def refused(run):
    """The message of a run that ended with a fault the user can mend."""
    assert run.wait() == 2, run.output()
    assert "Traceback" not in run.output()
    return run.output()


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_run_killed_anywhere_and_resumed_ends_with_the_bits_of_the_one_left_alone(bench, place):
    moment = bench.kill(f"killed_{place}", place, random.Random(place))
    assert bench.finish(f"killed_{place}") == [], moment


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_run_on_clips_killed_anywhere_and_resumed_ends_with_the_bits_of_the_one_left_alone(clips, place):
    moment = clips.kill(f"killed_{place}", place, random.Random(place))
    assert clips.finish(f"killed_{place}") == [], moment


@pytest.mark.slow
@pytest.mark.parametrize("place", ["step", "score", "last score"])
def test_a_run_on_clips_that_is_asked_to_stop_ends_with_75_and_loses_nothing(clips, place):
    name = f"stopped_{place.replace(' ', '_')}"
    count = clips.passed["score"] if place == "last score" else 3
    run = clips.start(name, fuse=(place.removeprefix("last "), count, signal.SIGTERM))
    assert run.wait() == 75, run.output()
    assert "run the same command to go on from there" in run.output() and "Traceback" not in run.output()
    assert clips.finish(name) == []


@pytest.mark.slow
def test_scalars_logged_before_the_first_checkpoint_are_not_there_twice(bench):
    bench.start("early", fuse=("write", bench.passed["write"] // 50)).wait()
    assert not checkpoints(bench.folder("early"))
    assert list(bench.folder("early").glob("tb/train/*"))
    assert list(bench.folder("early").rglob(".*.part"))
    assert bench.finish("early") == []


@pytest.mark.slow
def test_a_run_killed_again_and_again_gets_through(bench):
    kills = 0
    while (run := bench.start("relay", fuse=("step", 3))).wait() == -signal.SIGKILL:
        kills += 1
    assert run.wait() == 0, run.output()
    assert kills >= 3
    assert bench.finish("relay") == []


def test_the_comparison_sees_a_single_bit():
    a = {"x": [torch.ones(3), (1, 2.0)], "y": np.zeros(2), "z": b"ab"}
    same = {"x": [torch.ones(3), (1, 2.0)], "y": np.zeros(2), "z": b"ab"}
    assert differences(a, same) == []
    same["x"][0][1] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert differences(a, same) == ["/x[0]: differs"]
    assert differences(a, {**a, "y": -np.zeros(2)}) == ["/y: differs"]
    assert differences(a, {**a, "z": b"ac"}) == ["/z: differs"]
    assert differences(a, {"x": [torch.ones(3), (1, 2.5)], "z": b"ab"}) == [
        "/y: only in one",
        "/x[1][1]: 2.0 against 2.5",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "number"),
    [
        ("step", signal.SIGUSR1),
        ("score", signal.SIGTERM),
        ("last score", signal.SIGUSR1),
    ],
)
def test_a_stop_signal_while_training_validating_or_testing_ends_with_75_and_loses_nothing(bench, place, number):
    name = f"stopped_{place.replace(' ', '_')}"
    count = bench.passed["score"] if place == "last score" else 3
    run = bench.start(name, fuse=(place.removeprefix("last "), count, number))
    assert run.wait() == 75, run.output()
    assert "run the same command to go on from there" in run.output()
    assert "Traceback" not in run.output()
    assert bench.finish(name) == []


@pytest.mark.slow
def test_a_stop_signal_to_the_whole_process_group_spares_the_data_workers(bench):
    run = bench.start("group", "train.epochs=500", "run.workers=2")
    run.wait_for(lambda: checkpoint.stored(bench.folder("group") / "checkpoints"))
    os.killpg(run.process.pid, signal.SIGTERM)
    assert run.wait() == 75, run.output()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_data_workers_leave_stop_signals_to_the_main_process(number):
    data = made_dataset(made_config())
    loader = make_loader(data, EvaluationBatches(len(data), 1, 0, 1), 1, torch.device("cpu"))
    before = set(multiprocessing.active_children())
    arriving = watched(loader)
    next(arriving)
    (worker,) = set(multiprocessing.active_children()) - before
    os.kill(worker.pid, number)
    assert len(list(arriving)) == len(data) - 1


def start_a_worker_and_die(ends):
    """Kills its own process while its data worker is not ready yet."""
    data = made_dataset(made_config())
    loader = make_loader(data, EvaluationBatches(len(data), 1, 0, 1), 1, torch.device("cpu"))
    with mock.patch("cv2.setNumThreads", lambda number: time.sleep(0.5)):
        iter(loader)
    ends.send(True)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_data_worker_ends_with_a_main_process_that_dies_before_the_worker_is_ready():
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=start_a_worker_and_die, args=(theirs,))
    process.start()
    theirs.close()
    assert ours.poll(PATIENCE) and ours.recv()
    process.join()
    assert ours.poll(PATIENCE)  # the last process that has the other end is gone
    with pytest.raises(EOFError):
        ours.recv()


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_the_older_checkpoint_goes_on(bench):
    assert bench.start("full", fuse=("step", 3, signal.SIGTERM)).wait() == 75
    folder = bench.folder("full")
    before = checkpoints(folder)
    size = max(len(contents) for contents in before.values())
    message = refused(bench.start("full", file_limit=size // 2))
    newest = list(before)[-1]
    assert f"{folder}/checkpoints/step_" in message
    assert "cannot be written (File too large)" in message
    assert f"the run can go on from {newest}" in message
    assert checkpoints(folder) == before
    assert not list(folder.rglob("*.part"))
    assert bench.finish("full") == []


@pytest.mark.slow
def test_a_disk_that_is_full_when_scalars_are_logged_ends_the_run_with_a_message(bench):
    config = (bench.folder("alone") / "config.yaml").stat().st_size
    settings = ["train.batch_size=2", "run.save_every=null"]
    run = bench.start("full_log", *settings, file_limit=max(2048, config) + 500)
    assert run.wait() == 2, run.output()
    message = f"{bench.folder('full_log')}/tb: cannot be written (File too large); free some space"
    assert message in run.output()  # TensorBoard's own thread has its say too


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_the_run_with_its_step_and_frames(bench):
    settings = ("train.optimizer.name=sgd", "train.optimizer.lr=1000", "train.optimizer.weight_decay=100")
    message = refused(bench.start("nan", *settings, "train.schedule.warmup_steps=0"))
    assert "loss or gradient is not finite (total" in message
    assert "frames of the batch: Demo-A/" in message
    assert "The last good checkpoint is" in message


@pytest.mark.slow
def test_a_run_folder_in_use_is_refused(bench):
    folder = bench.folder("locked")
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"):
        assert f"{folder}: another process is at work" in refused(bench.start("locked"))
    assert os.listdir(folder) == [".lock"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--kills", "7"], ["--kills", "14", "--forked", "--seed", "1", "run.workers=2"]])
def test_kills_of_the_whole_command_line_change_no_bit(options):
    command = [sys.executable, str(BENCHMARKS / "kill_and_resume.py"), "--json-only", *options]
    done = subprocess.run(command, capture_output=True, text=True)
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["differences"] == {}
    assert figures["kills"] == int(options[1])
    assert set(figures["kills_by_place"]) == set(PLACES)
    assert figures["relay_kills"] > 2
    assert done.returncode == 0
