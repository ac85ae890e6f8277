"""Times a sweep against the same runs one after another, or kills its processes and compares every bit.

    python benchmarks/sweep.py                        # the demo's sweep, tiny data; --size default is the real one
    python benchmarks/sweep.py --kills 10             # kill its driver, a Ray worker or the Ray node at random moments

A killed sweep is typed again, on the same folder, until it is through. Then each run is compared with one that
`resproto train` made alone (see `kill_and_resume.traces`), its optimiser steps are counted, and it is looked whether a
process was left over. Processes of other programs, also of other Ray clusters, are not touched. Linux only: processes
are found in /proc.
"""

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
sys.path.append(str(Path(__file__).resolve().parent))

from kill_and_resume import CLI, DETECTOR, PROTOCOL, differences, traces  # noqa: E402

TARGETS = ("driver", "worker", "node")
TAG = "RESPROTO_SWEEP_BENCHMARK"
"""Variable in the environment of every process of one sweep, by which they are found."""
ENDING = 300
"""Seconds that processes may take to end after those they belong to were killed."""
PATIENCE = 900
"""Seconds that a sweep may take."""
ATTEMPTS = 10
"""Times that a sweep is typed beside those after kills, before it is given up."""
SWEEP = """
title: Four tiny runs
seeds: [{seeds}]
needs: {{cards: 0, cpus: 1}}
settings: [run.workers=0, run.log_every=1, run.save_every=2, run.test_batch_size=4]
cells:
  - detectors: [./tiny.yaml]
    protocols: [./kill.yaml]
"""
# Python imports it at its start. It counts the optimiser steps of cells, in a file that survives a kill. While there is
# a file `hold` beside it, a run that has a checkpoint waits until it is asked to stop.
COUNTER = """
import glob, os, sys, time
if any("training.cli import main" in word for word in sys.orig_argv):
    from torch.optim.optimizer import register_optimizer_step_post_hook
    words = dict(word[2:].split("=", 1) for word in sys.orig_argv if word.startswith("--") and "=" in word)
    name = os.path.basename(words["detector"]).split(".")[0] + "-seed" + words["seed"]
    file = os.open(os.path.join(os.environ["STEP_COUNTS"], name), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    hold = os.path.join(os.environ["STEP_COUNTS"], "hold")
    saved = os.path.join(glob.escape(words["out"]), "*", "*", "seed" + words["seed"], "checkpoints", "step_*.pt")
    def count(*arguments):
        from resproto_fd.configs import stop_signals
        os.write(file, b".")
        while os.path.exists(hold) and glob.glob(saved) and not stop_signals.asked():
            time.sleep(0.02)
    register_optimizer_step_post_hook(count)
"""


class Typed:
    """A sweep's command as it is typed once.

    Args:
        sweep: The sweep's YAML, or its name.
        runs: Its folder of runs.
        data: The folder of data.
        log: Where its output goes.
        words: Further words.
    """

    def __init__(self, sweep: Path | str, runs: Path, data: Path, log: Path, words: tuple[str, ...] = ()):
        self.log, self.counts = log, runs.with_name(f"{runs.name}.steps")
        self.counts.mkdir(exist_ok=True)
        (self.counts / "sitecustomize.py").write_text(COUNTER)
        self.tag = uuid.uuid4().hex
        self.temporary = Path(tempfile.mkdtemp(prefix="rs", dir="/tmp"))  # sockets have short paths
        own = {TAG: self.tag, "STEP_COUNTS": str(self.counts), "PYTHONPATH": str(self.counts), "OMP_NUM_THREADS": "1"}
        argv = ["sweep", str(sweep), "--out", str(runs), f"--ray-temp={self.temporary}", f"data.root={data}", *words]
        with open(log, "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(CLI), *argv], stdout=output, stderr=output, stdin=subprocess.DEVNULL,
                env=os.environ | own, start_new_session=True,
            )  # fmt: skip

    def processes(self) -> dict[int, tuple[int, str]]:
        """Its processes, by number: their parents and command lines."""
        everything = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    tagged = f"{TAG}={self.tag}".encode() in (entry / "environ").read_bytes()
                    if state not in "ZX":
                        everything[int(entry.name)] = int(parent), words, tagged
        # Ray's workers write their titles over their environment; they are children of tagged ones.
        found = {pid for pid, (_, _, tagged) in everything.items() if tagged}
        while more := {pid for pid, (parent, _, _) in everything.items() if parent in found} - found:
            found |= more
        return {pid: everything[pid][:2] for pid in found}

    def target(self, kind: str) -> int | None:
        """Number of the process to be killed; None if there is none yet."""
        if kind == "driver":
            return self.process.pid
        found = self.processes()
        if kind == "node":
            return next((pid for pid, (_, words) in found.items() if "/raylet/raylet" in words), None)
        runs = [parent for parent, words in found.values() if "training.child_process" in words and parent in found]
        return min(runs, default=None)

    def kill(self, kind: str) -> bool:
        """Kills one of its processes as soon as there is one; False if the sweep has ended before."""
        deadline = time.monotonic() + PATIENCE
        while self.process.poll() is None and time.monotonic() < deadline:
            if (pid := self.target(kind)) is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    return True
            time.sleep(0.05)
        return False

    def wait(self, seconds: float = PATIENCE) -> int | None:
        """Exit status; None if it has not ended."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def left_over(self, seconds: float = ENDING) -> tuple[list[str], float]:
        """Command lines of its processes that are there after it has ended; and seconds until there were none."""
        began, known = time.monotonic(), {}
        while time.monotonic() - began < seconds:
            now = self.processes()
            known = {pid: words for pid, (_, words) in now.items()}
            if not known:
                break
            time.sleep(0.1)
        return list(known.values()), time.monotonic() - began

    def end(self) -> None:
        """Ends whatever is left of it, and removes Ray's files."""
        for pid in self.processes():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def __enter__(self) -> "Typed":
        return self

    def __exit__(self, *error) -> None:
        self.end()

    def output(self) -> str:
        return self.log.read_text(errors="replace")


class Bench:
    """A sweep of tiny runs, and the same runs made alone.

    Args:
        work: Where everything goes.
        data: The demo data.
        seeds: Of the runs.
    """

    def __init__(self, work: Path, data: Path, seeds: int = 4):
        self.work, self.data = Path(work), Path(data)
        self.work.mkdir(parents=True, exist_ok=True)
        (self.work / "tiny.yaml").write_text(DETECTOR)
        (self.work / "kill.yaml").write_text(PROTOCOL)
        self.sweep = self.work / "sweep.yaml"
        self.sweep.write_text(SWEEP.format(seeds=", ".join(map(str, range(seeds)))))
        self.traces: dict[str, Any] = {}

    def cells(self) -> list:
        from resproto_fd.configs import loading
        from resproto_fd.training.sweeps.cells import cells_of

        words = [f"data.root={os.path.abspath(self.data)}"]
        return cells_of(loading.load("sweeps", str(self.sweep)), self.work, words)

    def type(self, name: str, *words: str) -> Typed:
        return Typed(self.sweep, self.work / name, self.data, self.work / f"{name}.log", words)

    def left_alone(self, folder: str) -> dict[str, Any]:
        """What a cell's run leaves if `resproto train` makes it alone, once."""
        if folder not in self.traces:
            cell = next(cell for cell in self.cells() if cell.folder == folder)
            log = self.work / "alone.log"
            with open(log, "ab") as output:
                command = [sys.executable, str(CLI), *cell.words(self.work / "alone")]
                subprocess.run(command, stdout=output, stderr=output, timeout=PATIENCE, check=True)
            self.traces[folder] = traces(self.work / "alone" / folder)
        return self.traces[folder]

    def compare(self, name: str) -> list[str]:
        """Where the runs of a sweep differ from those made alone."""
        return [
            f"{cell.folder}{line}"
            for cell in self.cells()
            for line in differences(self.left_alone(cell.folder), traces(self.work / name / cell.folder))
        ]

    def steps(self, name: str) -> dict[str, int]:
        """Optimiser steps that were made for each cell, repeated ones too."""
        counts = self.work / f"{name}.steps"
        return {file.name: file.stat().st_size for file in sorted(counts.glob("*-seed*"))}

    def steps_needed(self) -> int:
        """Optimiser steps of a run."""
        return self.left_alone(self.cells()[0].folder)["checkpoint"]["progress"]["step"]


def killed(bench: Bench, kills: int, seed: int, seconds: float, report: Callable[[str], None]) -> dict[str, Any]:
    """Kills sweeps until there were enough kills, types each again until it is through, and compares."""
    rng, done, found, kinds, number = random.Random(seed), 0, [], Counter(), 0
    repeated, left, endings, typed_again = 0, [], [], 0
    while done < kills:
        name, number = f"killed{number}", number + 1
        for _ in range(kills + ATTEMPTS):
            with bench.type(name) as typed:
                while done < kills:
                    kind = TARGETS[done % len(TARGETS)]
                    delay = rng.uniform(0, seconds)
                    if typed.wait(delay) is not None or not typed.kill(kind):
                        break
                    done += 1
                    kinds[kind] += 1
                    status = typed.wait(ENDING if kind == "node" else 5 if kind == "driver" else 0.1)
                    report(f"kill {done:2}: {kind} after {delay:.1f} s; the sweep {_said(status)}")
                    if status is not None:
                        break
                status = typed.wait()
                rest, took = typed.left_over()
                left += rest
                endings.append(took)
                if status == 0:
                    break
                typed_again += 1
                if status not in (1, 75, -signal.SIGKILL):
                    report(typed.output()[-1500:])
        else:
            raise SystemExit(
                f"{name}: not through after it was typed {kills + ATTEMPTS} times:\n{typed.output()[-3000:]}"
            )
        found += bench.compare(name)
        steps = bench.steps(name)
        extra = {cell: count - bench.steps_needed() for cell, count in steps.items()}
        repeated += sum(extra.values())
        report(f"{name}: through; steps made beside those needed: {extra}; differences: {found[:3] or 'none'}")
    return {
        "kills": done,
        "kills_by_process": dict(kinds),
        "sweeps": number,
        "typed_again": typed_again,
        "cells_compared": number * len(bench.cells()),
        "cells_that_differ": len({line.partition("/best")[0] for line in found}),
        "differences": found[:5],
        "steps_needed": number * len(bench.cells()) * bench.steps_needed(),
        "steps_repeated": repeated,
        "processes_left": left,
        "slowest_end_s": round(max(endings), 1),
    }


def _said(status: int | None) -> str:
    return "goes on" if status is None else f"ended with {status}"


def timed(work: Path, size: str, sweep: str, report: Callable[[str], None]) -> dict[str, Any]:
    """Wall seconds of a sweep, and of its cells one after another; whether their results are equal."""
    from resproto_fd.configs import loading
    from resproto_fd.preprocessing.demo.data import make_demo
    from resproto_fd.training.sweeps.cells import cells_of

    data = work / "data"
    make_demo(data, size=size, workers=os.cpu_count())
    began = time.perf_counter()
    with Typed(sweep, work / "swept", data, work / "sweep.log") as typed:
        status = typed.wait(6 * 3600)
        if status:
            raise SystemExit(f"the sweep ended with {status}:\n{typed.output()[-3000:]}")
    swept = time.perf_counter() - began
    report(f"sweep: {swept:.0f} s")
    cells = cells_of(loading.load("sweeps", sweep), None, [f"data.root={data}"])
    began = time.perf_counter()
    for cell in cells:
        with open(work / "alone.log", "ab") as log:
            command = [sys.executable, str(CLI), *cell.words(work / "alone")]
            subprocess.run(command, stdout=log, stderr=log, check=True)
    alone = time.perf_counter() - began
    report(f"one after another: {alone:.0f} s")
    found = [
        f"{cell.folder}{line}"
        for cell in cells
        for line in differences(_result(work / "alone" / cell.folder), _result(work / "swept" / cell.folder))
    ]
    return {
        "cells": len(cells),
        "size": size,
        "sweep_s": round(swept, 1),
        "one_after_another_s": round(alone, 1),
        "times_faster": round(alone / swept, 2),
        "differences": found[:5],
    }


def _result(folder: Path) -> dict[str, Any]:
    """A run's result without what differs between two runs of one cell; its score tables and weights, as bytes."""
    result = json.loads((folder / "result.json").read_text())
    for key in ("timing", "commit", "dirty"):
        result.pop(key, None)
    del result["config"]["run"]["out"]
    files = [*sorted((folder / "scores").glob("*.npz")), *folder.glob("best.pt")]
    return {"result": result, **{file.name: file.read_bytes() for file in files}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, help="kill so often instead of measuring time")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--seeds", type=int, default=4, help="runs of a sweep that is killed (default: 4)")
    parser.add_argument("--within", type=float, default=40, help="longest seconds between two kills (default: 40)")
    parser.add_argument("--size", choices=["default", "tiny"], default="tiny", help="of the demo's data")
    parser.add_argument("--sweep", default="demo", help="the sweep whose time is measured (default: demo)")
    parser.add_argument("--json-only", action="store_true", help="print the line of JSON alone")
    args = parser.parse_args()
    report = (lambda line: None) if args.json_only else (lambda line: print(line, flush=True))
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if args.kills:
            from resproto_fd.preprocessing.demo.data import make_demo

            make_demo(work / "data", size="tiny", workers=1)
            bench = Bench(work / "bench", work / "data", args.seeds)
            figures = killed(bench, args.kills, args.seed, args.within, report)
            wrong = figures["cells_that_differ"] or figures["processes_left"]
        else:
            figures = timed(work, args.size, args.sweep, report)
            wrong = figures["differences"]
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(json.dumps({"benchmark": "sweep", "machine": machine, **figures}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
