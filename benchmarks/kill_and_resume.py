"""Kills a training run with SIGKILL at random moments, resumes it, and compares every bit with the run left alone.

    python benchmarks/kill_and_resume.py                  # 25 kills, each run a command line of its own
    python benchmarks/kill_and_resume.py --forked         # the same in processes forked from a warm one: quicker
    python benchmarks/kill_and_resume.py --detector i3d_tiny train.batch_size=3        # a detector of clips

A kill comes after a random time, or at a place counted from within: before an optimiser step (`step`), while a
checkpoint, score table or result file is being written (`write`), before one is flushed to the disk (`fsync`), right
after one has taken its name (`rename`), while validating or testing (`score`), in the middle of a TensorBoard record
(`record`). Compared are best.pt (bytes), the last checkpoint (model, memory, optimiser, schedule, average, random
states, progress), score tables, result.json, every TensorBoard scalar; all but timings.
"""

import argparse
import json
import logging
import multiprocessing
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

CLI = Path(__file__).resolve().parents[1] / "training" / "cli.py"
PRESETS = Path(__file__).resolve().parents[1] / "configs" / "detectors"
PATIENCE = 900
"""Seconds that a run may take. One that takes longer hangs: it is killed, and the error has what it printed."""
ATTEMPTS = 20
"""Runs that may be done before the random moment at which they were to be killed."""
MOST_RELAYS = 50
"""Kills after which the run that is killed again and again must be through."""
PLACES = ("time", "step", "write", "fsync", "rename", "score", "record")
PRELOADED = ["resproto_fd.training.cli", "resproto_fd.training.run", "resproto_fd.detectors.resproto_fd"]
PRELOADED += ["sklearn.metrics"]

DETECTOR = """
detector: resproto_fd
title: ResProto-FD, tiny
model:
  backbone:
    embed_dim: 16
    vision_cfg: {image_size: 32, patch_size: 8, width: 32, layers: 2, head_width: 16, patch_dropout: 0.3}
    text_cfg: {context_length: 32, vocab_size: 49408, width: 16, heads: 2, layers: 1}
  pretrained: null
  start_epoch: 0
  capacity: 6
  top_k: 4
input: {size: 32}
train:
  epochs: 2
  batch_size: 8
  optimizer: {lr: 1e-3}
  schedule: {name: cosine, warmup_steps: 2}
  augment: resproto_fd
  ema: 0.9
"""
PROTOCOL = """
train: [Demo-A]
frames: {train: 3, val: 1, test: 1}
selection: {rule: best, dataset: Demo-A, split: val, metric: frame_auc}
test: [Demo-A, Demo-B]
"""

# --- a run that kills itself ----------------------------------------------------------------------------------------


class Fuse:
    """Counts how often each place is passed, and sends a signal to its own process at the n-th time at one of them."""

    def __init__(self, place: str | None = None, count: int = 0, number: int = signal.SIGKILL):
        self.place, self.count, self.signal = place, count, number
        self.passed: Counter[str] = Counter()

    def burns(self, place: str) -> bool:
        self.passed[place] += 1
        return place == self.place and self.passed[place] == self.count

    def blow(self) -> None:
        os.kill(os.getpid(), self.signal)

    def tick(self, place: str) -> None:
        if self.burns(place):
            self.blow()

    def lay(self) -> None:
        """Puts itself into the places."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        from resproto_fd.configs import files
        from resproto_fd.trainer import scoring, trainer

        step, fsync, replace = trainer.Trainer._step, os.fsync, os.replace
        watched, record = scoring.watched, RecordWriter.write
        fuse = self

        def tick_before_step(self, micro):
            fuse.tick("step")
            step(self, micro)

        def tick_before_fsync(descriptor):
            fuse.tick("fsync")
            fsync(descriptor)

        def replace_then_tick(*names):
            replace(*names)
            fuse.tick("rename")

        def watched_and_ticking(loader):
            for batch in watched(loader):
                fuse.tick("score")
                yield batch

        def half_a_record(self, data):
            if fuse.burns("record"):
                self._writer.write(data[: len(data) // 2])
                self.flush()
                fuse.blow()
            record(self, data)

        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_parent=lambda: fuse.tick("fork"))
        trainer.Trainer._step = tick_before_step
        os.fsync, os.replace = tick_before_fsync, replace_then_tick
        scoring.watched, RecordWriter.write = watched_and_ticking, half_a_record
        files.open = lambda *args: _TickingFile(open(*args), fuse)  # noqa: SIM115


class _TickingFile:
    """A file whose n-th write stops half-way."""

    def __init__(self, file, fuse: Fuse):
        self.file, self.fuse = file, fuse

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, data) -> int:
        if self.fuse.burns("write"):
            data = bytes(data)
            self.file.write(data[: len(data) // 2])
            self.file.flush()
            self.fuse.blow()
        return self.file.write(data)


def run_here(
    argv: list[str],
    fuse: tuple | None,
    log: str,
    environment: dict[str, str] | None = None,
    file_limit: int | None = None,
) -> None:
    """The command line in this process, what it prints in a file; ends the process with its exit status."""
    import resource

    from tqdm import tqdm

    from resproto_fd.training import cli

    multiprocessing.set_start_method(None, force=True)  # the default again, as in a process of its own
    tqdm.set_lock(threading.RLock())  # its own is a semaphore that outlives a killed process
    os.environ.update(environment or {})
    if os.getpgid(0) != os.getpid():  # torchrun has done it
        os.setpgid(0, 0)
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    laid = Fuse(*fuse) if fuse is not None else None
    if laid:
        laid.lay()
    status = cli.main(argv)
    if laid:
        Path(f"{log}.passed").write_text(json.dumps(laid.passed))
    sys.exit(status)


class Run:
    """A command line at work.

    Args:
        argv: Its words after `resproto`.
        log: Where its output goes.
        fuse: Arguments of its `Fuse`; None lays none.
        forked: From a process that has everything imported already, instead of a new interpreter.
        environment: Changes of its environment.
        file_limit: The largest file that it may write, bytes; for forked ones.
    """

    def __init__(
        self,
        argv: list[str],
        log: Path,
        fuse: tuple | None = None,
        forked: bool = False,
        environment: dict[str, str] | None = None,
        file_limit: int | None = None,
    ):
        self.log, self.forked = Path(log), forked
        if forked:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(PRELOADED)
            self.process = context.Process(target=run_here, args=(argv, fuse, str(log), environment, file_limit))
            self.process.start()
            return
        command = [sys.executable, str(CLI)]
        if fuse is not None:
            command = [sys.executable, __file__, "--fuse", json.dumps([fuse, str(log)])]
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [*command, *argv], stdout=output, stderr=output, env=os.environ | (environment or {})
            )

    def kill(self, number: int = signal.SIGKILL) -> None:
        if not self.ended():
            os.kill(self.process.pid, number)

    def ended(self) -> bool:
        return (self.process.exitcode if self.forked else self.process.poll()) is not None

    def wait(self) -> int:
        """Exit status; minus the signal's number when one killed it. It may raise what `wait_for` raises."""
        self.wait_for(lambda: False)
        return self.process.exitcode if self.forked else self.process.returncode

    def wait_for(self, there: Callable[[], bool]) -> None:
        """Waits until something is there, or the run has ended.

        Raises:
            TimeoutError: Neither came within `PATIENCE` seconds.
        """
        deadline = time.monotonic() + PATIENCE
        while not there() and not self.ended():
            if time.monotonic() > deadline:
                self.kill()
                printed = self.output()[-2000:]
                raise TimeoutError(f"{self.log}: not at its end after {PATIENCE} s; it printed:\n{printed}")
            time.sleep(0.005)

    def output(self) -> str:
        return self.log.read_text(errors="replace")


# --- what a run leaves behind -----------------------------------------------------------------------------------------


def traces(folder: Path) -> dict[str, Any]:
    """Everything a finished run has learnt and found, timings left out: to be compared by `differences`."""
    import numpy as np
    import torch
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from resproto_fd.trainer import checkpoint

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # else it tells of every purge
    *older, newest = checkpoint.stored(folder / "checkpoints")
    last = torch.load(newest, weights_only=True)
    last["progress"].pop("seconds")
    result = json.loads((folder / "result.json").read_text())
    for key in ("timing", "commit", "dirty"):  # the checkout may be worked on meanwhile
        del result[key]
    del result["config"]["run"]["out"]
    found = {
        # A run that was asked to stop has saved a step more: which older checkpoints are left depends on the moment.
        "files": sorted(path.name for path in folder.rglob("*") if "events.out" not in path.name and path not in older),
        "best.pt": (folder / "best.pt").read_bytes(),
        "checkpoint": last,
        "result": result,
    }
    for path in sorted((folder / "scores").glob("*.npz")):
        with np.load(path) as table:
            found[f"scores of {path.stem}"] = {name: table[name] for name in table.files}
    for log in ("train", "val"):
        events = EventAccumulator(str(folder / "tb" / log), size_guidance={"scalars": 0}).Reload()
        for tag in events.Tags()["scalars"]:
            if not tag.startswith("speed/"):
                found[f"tb {log} {tag}"] = [(event.step, event.value) for event in events.Scalars(tag)]
    return found


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Where two nested results differ in as much as a bit."""
    import numpy as np
    import torch

    if type(a) is not type(b):
        return [f"{where}: {type(a).__name__} against {type(b).__name__}"]
    if isinstance(a, dict):
        found = [f"{where}/{key}: only in one" for key in sorted(a.keys() ^ b.keys(), key=str)]
        return found + [line for key in a if key in b for line in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list | tuple):
        if len(a) != len(b):
            return [f"{where}: {len(a)} entries against {len(b)}"]
        return [line for i, (x, y) in enumerate(zip(a, b)) for line in differences(x, y, f"{where}[{i}]")]
    if isinstance(a, torch.Tensor):
        a, b = a.numpy(), b.numpy()
    if isinstance(a, np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    else:
        same = a == b or (a != a and b != b)
    if same:
        return []
    return [f"{where}: differs" if isinstance(a, bytes | np.ndarray) else f"{where}: {a!r} against {b!r}"]


# --- killing ----------------------------------------------------------------------------------------------------------


class Bench:
    """Runs of one command line, each in a folder of its own: one left alone, the others killed and resumed.

    Args:
        work: Where everything goes.
        data: The demo data.
        forked: See `Run`.
        settings: Further `key=value` words of every run.
        detector: Its YAML.
    """

    def __init__(self, work: Path, data: Path, forked: bool, settings: Sequence[str] = (), detector: str = DETECTOR):
        self.work, self.data, self.forked, self.settings = Path(work), Path(data), forked, list(settings)
        self.work.mkdir(parents=True, exist_ok=True)
        self.detector, self.protocol = self.work / "tiny.yaml", self.work / "kill.yaml"
        self.detector.write_text(detector)
        self.protocol.write_text(PROTOCOL)

    def argv(self, name: str, *settings: str) -> list[str]:
        own = [f"data.root={self.data}", f"run.out={self.work / name}", "run.progress=false", "run.device=cpu"]
        own += ["run.workers=0", "run.log_every=1", "run.save_every=2", "run.test_batch_size=4"]
        chosen = ["--detector_path", str(self.detector), "--protocol", str(self.protocol)]
        said = {word.partition("=")[0]: word for word in [*own, *self.settings, *settings]}  # the last word on each
        return ["train", *chosen, *said.values()]

    def folder(self, name: str) -> Path:
        return self.work / name / "kill" / "tiny" / "seed0"

    def start(self, name: str, *settings: str, **options) -> Run:
        return Run(self.argv(name, *settings), self.work / f"{name}.log", forked=self.forked, **options)

    def finish(self, name: str) -> list[str]:
        """Resumes a run to its end; where it differs from the one left alone."""
        run = self.start(name)
        if run.wait():
            return [f"the resumed run ended with {run.wait()}: {run.output()[-500:]}"]
        return differences(self.traces, traces(self.folder(name)))

    def left_alone(self) -> None:
        """The run that the others are compared with; how long it takes, and how often it passes each place."""
        run = self.start("alone", fuse=())
        run.wait_for(self.folder("alone").exists)
        began = time.perf_counter()
        if run.wait():
            raise SystemExit(f"the run to compare with ended with {run.wait()}:\n{run.output()}")
        self.seconds = time.perf_counter() - began
        self.traces = traces(self.folder("alone"))
        self.passed = json.loads(Path(f"{run.log}.passed").read_text())

    def kill(self, name: str, place: str, rng: random.Random) -> str:
        """Kills a run at a random moment of a kind; says which it was."""
        for attempt in range(ATTEMPTS):
            if place != "time":
                count = rng.randint(1, self.passed[place])
                run, moment = self.start(name, fuse=(place, count)), f"{place} {count} of {self.passed[place]}"
            else:
                run, delay = self.start(name), rng.uniform(0, self.seconds * 0.8**attempt)  # it may be quicker now
                run.wait_for(self.folder(name).exists)
                time.sleep(delay)
                run.kill()
                moment = f"after {delay:.2f} s of {self.seconds:.2f}"
            status = run.wait()
            if status == -signal.SIGKILL:
                return moment
            if status or place != "time":
                raise SystemExit(f"{name}, {moment}: ended with {status} instead of being killed:\n{run.output()}")
            shutil.rmtree(self.work / name)  # it was done before its time was up; the next attempt begins anew
        raise SystemExit(f"{name}: done before its time was up, {ATTEMPTS} times")


def preset(name: str) -> str:
    """The YAML of a detector's preset."""
    return (PRESETS / f"{name}.yaml").read_text()


def measure(args: argparse.Namespace, work: Path, report=print) -> dict[str, Any]:
    """The whole measurement; the figures."""
    from resproto_fd.preprocessing.demo.data import make_demo

    make_demo(work / "data", size="tiny", workers=1)
    text = preset(args.detector) if args.detector else DETECTOR
    bench = Bench(work / "runs", work / "data", args.forked, args.settings, text)
    bench.left_alone()
    report(f"left alone: {bench.seconds:.1f} s; places passed: {bench.passed}")
    report(f"{'kill':>4}  {'moment':28} {'then':>6}  difference")
    rng = random.Random(args.seed)
    kinds, differing, places = Counter(), {}, [PLACES[i % len(PLACES)] for i in range(args.kills)]
    for i, place in enumerate(places):
        name = f"killed{i:02d}"
        moment = bench.kill(name, place, rng)
        there = len(list(bench.folder(name).glob("checkpoints/*.pt")))
        found = bench.finish(name)
        kinds[place] += 1
        if found:
            differing[f"{place}: {moment}"] = found[:5]
        report(f"{i + 1:4}  {moment:28} {there:4} cp  {'; '.join(found[:3]) or 'none'}")
    relay = 0
    while relay < MOST_RELAYS:  # one run, killed again and again until it is through
        run = bench.start("relay", fuse=("step", 4))
        status = run.wait()
        if status != -signal.SIGKILL:
            break
        relay += 1
    found = differences(bench.traces, traces(bench.folder("relay"))) if not status else [run.output()[-500:]]
    if found:
        differing["relay"] = found[:5]
    report(f"one run killed {relay} times, always before its 4th step: {'; '.join(found[:3]) or 'no difference'}")
    return {
        "benchmark": "kill_and_resume",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "kills": sum(kinds.values()),
        "kills_by_place": dict(kinds),
        "relay_kills": relay,
        "values_compared": len(bench.traces),
        "runs_that_differ": len(differing),
        "differences": differing,
        "detector": args.detector or "resproto_fd, tiny",
        "forked": args.forked,
        "settings": args.settings,
        "seed": args.seed,
    }


def main() -> int:
    if sys.argv[1:2] == ["--fuse"]:
        fuse, log = json.loads(sys.argv[2])
        run_here(sys.argv[3:], tuple(fuse), log)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--detector", metavar="PRESET", help="train this one instead of a tiny ResProto-FD")
    parser.add_argument("--forked", action="store_true", help="fork the runs from a warm process")
    parser.add_argument("--json-only", action="store_true", help="print the line of JSON alone")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of every run, e.g. run.workers=2")
    args = parser.parse_args()
    report = (lambda line: None) if args.json_only else (lambda line: print(line, flush=True))
    with tempfile.TemporaryDirectory() as work:
        figures = measure(args, Path(work), report)
    print(json.dumps(figures))
    return 1 if figures["runs_that_differ"] else 0


if __name__ == "__main__":
    sys.exit(main())
