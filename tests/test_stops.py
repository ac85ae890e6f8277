"""Stop signals at any moment, any number of them, and data workers that die at any moment."""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from made import MadeStore, TinyDetector, made_config, made_dataset
from patience import PATIENCE, wait_until
from tiny import quick_and_slow

from resproto_fd.configs import stop_signals
from resproto_fd.configs.errors import Interrupted, UserError
from resproto_fd.configs.files import atomic_file, scratch_folder
from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.data import Normaliser
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.scoring import ScoringOptions, score_frames
from resproto_fd.trainer.trainer import Trainer
from resproto_fd.training import cli
from resproto_fd.training.commands import listing

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="signals of POSIX")
CPU = World(0, 1, torch.device("cpu"))
AT_FORK = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_parent=lambda: [call() for call in AT_FORK])


@pytest.fixture
def at_fork():
    """Calls what is appended to it whenever this process has forked, where Python drops exceptions."""
    yield AT_FORK
    AT_FORK.clear()


def trainer_of(folder, store=None, **run):
    config = made_config(epochs=3, run={"workers": 2, "save_every": 100, **run})
    checkpoint.seed_everything(0)
    return Trainer(TinyDetector(), made_dataset(config, store=store), config, CPU, folder, None, "f")


def scores(store=None, workers=2):
    data = made_dataset(made_config(), split="test", store=store)
    normaliser = Normaliser([0.5] * 3, [0.5] * 3, CPU.device, torch.float32, False)
    return score_frames(TinyDetector(), data, normaliser, CPU, ScoringOptions(4, workers, progress=False))


def exception_of(number):
    return KeyboardInterrupt if number == signal.SIGINT else Interrupted


# --- stop signals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", quick_and_slow(stop_signals.STOP_SIGNALS, [signal.SIGTERM]))
def test_a_stop_signal_while_workers_are_started_is_not_lost(at_fork, number, tmp_path):
    at_fork.append(lambda: signal.raise_signal(number))
    with pytest.raises(exception_of(number)):
        scores()
    trainer = trainer_of(tmp_path)
    with pytest.raises(exception_of(number)):
        trainer.fit()
    assert trainer.progress.step == 0
    assert not multiprocessing.active_children()


class StuckStore(MadeStore):
    """Reading a frame of `broken` takes for ever; `ready` tells that it has begun."""

    def __init__(self, broken):
        super().__init__(broken)
        self.ready = multiprocessing.get_context("fork").Event()

    def read(self, path):
        if path in self.broken:
            self.ready.set()
            time.sleep(3600)
        return super().read(path)


def stop_when(ready, progress=None, step=0):
    def send():
        ready.wait(PATIENCE)
        while progress and progress.step < step:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send, daemon=True).start()


@pytest.mark.slow
def test_a_stop_signal_while_a_worker_is_stuck_saves_and_ends_the_worker(tmp_path):
    frames = made_dataset(made_config()).frames.paths
    last = trainer_of(tmp_path / "order").batches
    last.start(0, 0)
    store = StuckStore([frames[list(last)[-1][-1][1]]])
    trainer = trainer_of(tmp_path / "run", store)
    steps = trainer.batches.steps - 1
    stop_when(store.ready, trainer.progress, steps)
    with pytest.raises(Interrupted, match=f"stopped after step {steps}"):
        trainer.fit()
    assert len(checkpoint.stored(tmp_path / "run" / "checkpoints")) == 1
    assert not multiprocessing.active_children()
    whole, resumed = trainer_of(tmp_path / "whole"), trainer_of(tmp_path / "run")
    whole.fit(), resumed.fit()
    for name, value in whole.detector.state_dict().items():
        assert torch.equal(value, resumed.detector.state_dict()[name]), name


def test_a_stop_signal_while_testing_does_not_wait_for_a_stuck_worker():
    store = StuckStore([made_dataset(made_config(), split="test").frames.paths[5]])
    stop_when(store.ready)
    with pytest.raises(Interrupted):
        scores(store)
    assert not multiprocessing.active_children()


def test_a_stop_signal_that_comes_after_the_last_look_is_not_lost():
    with pytest.raises(Interrupted), stop_signals.noted():
        signal.raise_signal(signal.SIGTERM)
    assert not stop_signals.asked()
    with stop_signals.noted():
        stop_signals.look()


def command(saves, ready):
    """A command that takes for ever; one that saves takes its time for it."""
    status = 1
    with stop_signals.ending_at_once("resproto", at_end=True):
        try:
            if not saves:
                ready.set()
                time.sleep(3600)
            with stop_signals.noted():
                ready.set()
                while True:
                    stop_signals.look()
                    time.sleep(0.01)
        except Interrupted:
            time.sleep(0.1)
            status = 75
        except KeyboardInterrupt:
            time.sleep(0.1)
            status = 130
    time.sleep(0.1)
    os._exit(status)


def half_written(folder, ready):
    with stop_signals.ending_at_once("resproto", at_end=True), atomic_file(folder / "file") as file:
        file.write(b"half")
        with scratch_folder(folder) as scratch:
            (scratch / "inner").mkdir()
            (scratch / "inner/file").write_text("half")
            ready.set()
            time.sleep(3600)


def test_a_command_that_is_stopped_at_once_leaves_nothing_half_written(tmp_path):
    (tmp_path / "file").write_text("old")
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=half_written, args=(tmp_path, ready), daemon=True)
    process.start()
    assert ready.wait(PATIENCE)
    assert len(list(tmp_path.iterdir())) == 3
    os.kill(process.pid, signal.SIGTERM)
    process.join(PATIENCE)
    assert process.exitcode == 75
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "old"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_picture_from_the_standard_input_is_not_kept_after_a_stop(tmp_path, number):
    command = [sys.executable, "-m", "resproto_fd.training.cli", "predict", "--run", "none", "-"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
    with process.stdin as given:
        given.write(b"\x89PNG\r\n\x1a\n" + bytes(2 << 20))
        given.flush()
        wait_until(lambda: list(tmp_path.rglob("standard input")))
        process.send_signal(number)
        process.wait(PATIENCE)
    assert process.returncode == (75 if number == signal.SIGTERM else -signal.SIGKILL)
    wait_until(lambda: not list(tmp_path.iterdir()))


def interrupted_in_a_callback():
    with stop_signals.ending_at_once("resproto", at_end=True):
        gc.callbacks.append(lambda phase, info: os.kill(os.getpid(), signal.SIGINT))  # what it raises, Python drops
        gc.collect()
    os._exit(0)


def test_a_ctrl_c_that_comes_in_a_callback_is_not_lost():
    process = multiprocessing.get_context("fork").Process(target=interrupted_in_a_callback, daemon=True)
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 130


@pytest.mark.parametrize("saves", [True, False])
@pytest.mark.parametrize("number", quick_and_slow(stop_signals.STOP_SIGNALS, [signal.SIGINT, signal.SIGTERM]))
def test_any_number_of_stop_signals_ends_a_command_as_one_does(number, saves):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    process = context.Process(target=command, args=(saves, ready), daemon=True)
    process.start()
    assert ready.wait(PATIENCE)
    while process.exitcode is None:
        os.kill(process.pid, number)
        process.join(0.01)
    assert process.exitcode == (130 if number == signal.SIGINT else 75)


def listing_that_takes_for_ever(ready, taken):
    listing.run = lambda args: (ready.set(), time.sleep(3600))
    descriptor = os.open(taken, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 2)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    os._exit(cli.main(["list"]))


@pytest.mark.parametrize(
    ("number", "status", "says"),
    [
        (signal.SIGTERM, 75, "resproto: stopped; run the same command to go on from there"),
        (signal.SIGINT, 130, "resproto list: interrupted"),
    ],
)
def test_a_command_with_nothing_to_save_ends_at_once(number, status, says, tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    taken = tmp_path / "stderr"
    process = context.Process(target=listing_that_takes_for_ever, args=(ready, taken), daemon=True)
    process.start()
    assert ready.wait(PATIENCE)
    os.kill(process.pid, number)
    process.join(PATIENCE)
    assert process.exitcode == status
    assert taken.read_text().strip() == says


ON_A_TERMINAL = """
import fcntl, sys, termios, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from resproto_fd.configs import stop_signals
from resproto_fd.training import cli
from resproto_fd.training.commands import listing
@stop_signals.noted()
def run(args):
    print("ready", flush=True)
    while True:
        stop_signals.look()
        time.sleep(0.01)
listing.run = run
sys.argv = ["resproto", "list"]
sys.exit(cli.main())
"""


@pytest.mark.slow
def test_a_terminal_that_is_closed_is_a_stop_signal_and_what_is_written_to_it_then_is_no_error():
    master, slave = os.openpty()
    command = [sys.executable, "-c", ON_A_TERMINAL]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    shown = b""
    while b"ready" not in shown:
        shown += os.read(master, 100)  # raises if the process has ended
    os.close(master)
    assert process.wait(PATIENCE) == 75


def hear_hangups():
    """The tests themselves may run under nohup, which programs inherit."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_under_nohup_a_closed_terminal_is_not_a_stop_signal():
    code = "from resproto_fd.configs.stop_signals import STOP_SIGNALS as s; import signal; print(signal.SIGHUP in s)"
    found = [
        subprocess.run(
            [*words, sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=hear_hangups
        ).stdout.strip()
        for words in ([], ["nohup"])
    ]
    assert found == ["True", "False"]


# --- data workers that die ----------------------------------------------------------------------------------------


class DeadlyStore(MadeStore):
    """Reading a frame of `broken` kills the process."""

    def read(self, path):
        if path in self.broken:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(path)


@pytest.mark.slow
@pytest.mark.parametrize("place", [0, 17, 35], ids=["first", "middle", "last"])
def test_a_worker_that_is_killed_while_reading_is_an_error_that_names_the_frame(place, tmp_path):
    path = made_dataset(made_config(), split="test").frames.paths[place]
    with pytest.raises(UserError, match=rf"a data worker died \(ended by SIGKILL\); the frame it was at: {path}"):
        scores(DeadlyStore([path]))
    path = made_dataset(made_config()).frames.paths[place]
    with pytest.raises(UserError, match=rf"a data worker died \(ended by SIGKILL\); the frame it was at: {path}"):
        trainer_of(tmp_path, DeadlyStore([path])).fit()
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("step", [0, 4, 8], ids=["start", "middle", "end"])
def test_a_worker_that_is_killed_while_the_main_process_computes_is_the_same_error(step, tmp_path):
    trainer = trainer_of(tmp_path)
    steps = 3 * trainer.batches.steps
    compute = trainer._step

    def kill_and_compute(micro):
        if trainer.progress.step == min(step, steps - 1):
            worker = multiprocessing.active_children()[0]
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()  # so that the signal of its end has come
            time.sleep(0.01)
        compute(micro)

    trainer._step = kill_and_compute
    with pytest.raises(
        UserError, match=r"a data worker died \(ended by SIGKILL\); the frame it was at: (Made/|none yet)"
    ):
        trainer.fit()
    assert not multiprocessing.active_children()


def test_a_worker_of_training_that_is_killed_while_validation_waits_is_the_same_error(tmp_path):
    class Slow(MadeStore):
        def read(self, path):
            time.sleep(0.1)
            return super().read(path)

    def validate(detector):
        worker = multiprocessing.active_children()[0]
        threading.Timer(0.3, lambda: os.kill(worker.pid, signal.SIGKILL)).start()
        scores(Slow([]))
        return {"frame_auc": 0.5}

    trainer = trainer_of(tmp_path)
    trainer.validate = validate
    with pytest.raises(UserError, match=r"a data worker died \(ended by SIGKILL\); the frame it was at: Made/"):
        trainer.fit()
    assert not multiprocessing.active_children()


def test_a_worker_that_is_killed_before_its_first_frame_is_the_same_error(at_fork):
    at_fork.append(lambda: [os.kill(child.pid, signal.SIGKILL) for child in multiprocessing.active_children()])
    with pytest.raises(UserError, match=r"a data worker died \(ended by SIGKILL\); the frame it was at: none yet"):
        scores()
