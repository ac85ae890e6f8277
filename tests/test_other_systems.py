"""What Windows and macOS lack: signals, fork, modules of POSIX; workers that are spawned; Apple's GPU."""

import multiprocessing
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from made import TinyDetector, made_config, made_dataset

from resproto_fd.configs.errors import UserError
from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.data import Normaliser
from resproto_fd.trainer.distributed import World, choose_device, joined
from resproto_fd.trainer.scoring import ScoringOptions, score_frames
from resproto_fd.trainer.trainer import Trainer
from resproto_fd.training import child_process

ROOT = Path(__file__).parent.parent
FOLDERS = ("configs", "detectors", "losses", "preprocessing", "trainer", "training")
CPU = World(0, 1, torch.device("cpu"))

# The libraries come first: those of this machine were built for it and may use what it has.
WITHOUT_POSIX = """
import importlib, os, signal, sys
import cv2, filelock, lmdb, open_clip, scipy.stats, sklearn.metrics, timm, torch.utils.data

signals = ["SIGALRM", "SIGCHLD", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGUSR1", "SIGUSR2", "pthread_sigmask", "sigwait"]
calls = ["fork", "register_at_fork", "getpgid", "killpg", "setsid", "getuid", "sched_getaffinity", "sysconf", "uname",
         "statvfs", "pread", "O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC", "WNOHANG"]
for module, names in ((signal, signals), (os, calls)):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
modules = ("fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog", "readline")


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


for name in modules:
    sys.modules.pop(name, None)
sys.meta_path.insert(0, Missing())
for name in sys.argv[1:]:
    importlib.import_module(name)
from resproto_fd.training.cli import main

sys.exit(main(["list", "detectors"]))
"""


@pytest.mark.slow
def test_every_module_is_imported_and_detectors_are_listed_without_posix():
    files = [file.relative_to(ROOT).with_suffix("") for folder in FOLDERS for file in (ROOT / folder).rglob("*.py")]
    names = [".".join(("resproto_fd", *file.parts)).removesuffix(".__init__") for file in files]
    names.remove("resproto_fd.detectors.deepfakebench")  # it works within a DeepfakeBench checkout alone
    assert len(names) > 150
    done = subprocess.run([sys.executable, "-c", WITHOUT_POSIX, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {"resproto_fd", "sbi", "effort"} <= {line.split()[0] for line in done.stdout.splitlines() if line.strip()}


def test_a_child_asks_itself_to_stop_through_its_handler_on_windows(monkeypatch):
    """There os.kill ends a process at once, so that nothing would be saved."""
    calls = []
    monkeypatch.setattr(child_process.os, "read", lambda number, count: b"")
    monkeypatch.setattr(child_process.os, "name", "nt")
    monkeypatch.setattr(child_process.os, "kill", lambda *args: calls.append("killed"))
    monkeypatch.setattr(child_process.os, "_exit", lambda status: calls.append(status))
    monkeypatch.setattr(child_process.signal, "raise_signal", calls.append)
    monkeypatch.setattr(child_process.time, "sleep", lambda seconds: None)
    child_process._end_at_close()
    monkeypatch.undo()
    assert calls == [signal.SIGTERM, 75]


@pytest.mark.slow
def test_spawned_workers_give_the_bits_of_the_main_process(tmp_path):
    start = multiprocessing.get_start_method()
    found = []
    for workers in (0, 2):
        multiprocessing.set_start_method("spawn" if workers else start, force=True)
        try:
            config = made_config(epochs=1, run={"workers": workers})
            checkpoint.seed_everything(0)
            detector = TinyDetector()
            Trainer(detector, made_dataset(config), config, CPU, tmp_path / str(workers), None, "f").fit()
            data = made_dataset(made_config(), split="test")
            normaliser = Normaliser([0.5] * 3, [0.5] * 3, CPU.device, torch.float32, False)
            scored = score_frames(detector, data, normaliser, CPU, ScoringOptions(4, workers, progress=False))
            found.append((detector.state_dict(), scored.scores.tolist()))
        finally:
            multiprocessing.set_start_method(start, force=True)
    (one, scores), (two, others) = found
    assert scores == others and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    ("name", "mps", "found"),
    [("mps", True, "mps"), ("auto", True, "cpu"), ("auto", False, "cpu"), ("cpu", True, "cpu")],
)
def test_apples_gpu_is_used_if_it_is_named(name, mps, found, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(name).type == found


def test_a_machine_without_apples_gpu_says_so(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"no MPS device \(Apple's GPU\), got 'mps'; set run\.device=cpu"):
        choose_device("mps")
    with pytest.raises(UserError, match=r"expected auto, cpu, cuda, cuda:N or mps, got 'gpu'"):
        choose_device("gpu")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"WORLD_SIZE": "abc"}, "WORLD_SIZE: expected a whole number, 1 or more, got 'abc'; start with torchrun"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE: expected a whole number, 1 or more, got '0'"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK: expected a whole number, 0 or more, got 'x'"),
        ({"WORLD_SIZE": "2"}, "RANK: expected a whole number, 0 to 1, got none"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK: expected a whole number, 0 to 1, got '2'"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "MASTER_PORT: expected a whole number, 0 to 65535, got none"),
        ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_PORT": "1"}, "MASTER_ADDR: expected the address of process 0"),
    ],
)
def test_an_environment_that_names_no_whole_set_of_processes_is_refused(monkeypatch, changes, message):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=re.escape(message)), joined("cpu"):
        pass
