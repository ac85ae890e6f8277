"""Stops training runs with SIGTERM at random moments, resumes them, and compares every bit with the run left alone.

    python benchmarks/stops.py --forked                   # 40 stops: 20 without data workers, 20 with two

The moments are a random time of the run (`time`), a time at which it then gets the signal again and again until it ends
(`often`), right after a data worker was forked (`fork`), and while validating or testing (`score`). Every run must end
with 75, and the same command must bring it to the bits of the run left alone. See `kill_and_resume.py` for what is
compared.
"""

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from kill_and_resume import ATTEMPTS, Bench

MOMENTS = {0: ("time", "often", "score"), 2: ("fork", "time", "often", "score")}
"""By the number of data workers."""
PAUSE = 0.01
"""Seconds between the signals of `often`."""


class Stops:
    """Stops runs of one command line.

    Args:
        bench: The runs; one was left alone.
        number: The signal.
        rng: Chooses the moments.
    """

    def __init__(self, bench: Bench, number: int, rng: random.Random):
        self.bench, self.number, self.rng = bench, number, rng

    def stop(self, name: str, moment: str) -> tuple[str, int, str, int]:
        """Stops a run; returns (its name, its exit status, when that was, the signals sent)."""
        for attempt in range(ATTEMPTS):
            name_now = f"{name}_{attempt}"
            if moment in ("fork", "score"):
                count = self.rng.randint(1, self.bench.passed[moment])
                run = self.bench.start(name_now, fuse=(moment, count, self.number))
                return name_now, run.wait(), f"{moment} {count} of {self.bench.passed[moment]}", 1
            run, delay = self.bench.start(name_now), self.rng.uniform(0, self.bench.seconds)
            run.wait_for(self.bench.folder(name_now).exists)
            time.sleep(delay)
            sent, done = 0, (self.bench.folder(name_now) / "result.json").exists()
            while not run.ended() and (not sent or moment == "often"):
                run.kill(self.number)
                sent += 1
                time.sleep(PAUSE)
            status = run.wait()
            if sent and not done:
                return name_now, status, f"{moment}, after {delay:.2f} s of {self.bench.seconds:.2f}", sent
            # It was done before its time was up; the next attempt begins anew.
        raise SystemExit(f"{name}: done before its time was up, {ATTEMPTS} times")


def measure(stops: int, seed: int, forked: bool, number: int, work: Path, report=print) -> dict[str, Any]:
    """The whole measurement; the figures."""
    from resproto_fd.preprocessing.demo.data import make_demo

    make_demo(work / "data", size="tiny", workers=1)
    rng, statuses, differing, kinds, signals = random.Random(seed), Counter(), {}, Counter(), 0
    for workers, moments in MOMENTS.items():
        bench = Bench(work / f"workers{workers}", work / "data", forked, [f"run.workers={workers}"])
        bench.left_alone()
        report(f"{workers} workers; left alone: {bench.seconds:.1f} s; places passed: {bench.passed}")
        stopping = Stops(bench, number, rng)
        for i in range(stops // len(MOMENTS)):
            kind = moments[i % len(moments)]
            name, status, when, sent = stopping.stop(f"stopped{i:02d}", kind)
            there = len(list(bench.folder(name).glob("checkpoints/*.pt")))
            found = bench.finish(name)
            kinds[kind] += 1
            statuses[status] += 1
            signals += sent
            if found:
                differing[f"{workers} workers, {when}"] = found[:5]
            report(
                f"{i + 1:4}  {when:30} {sent:3} signals, exit {status:3}, {there} cp  {'; '.join(found[:3]) or 'none'}"
            )
    return {
        "benchmark": "stops",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "signal": signal.Signals(number).name,
        "stops": sum(kinds.values()),
        "stops_by_moment": dict(kinds),
        "signals": signals,
        "exit_statuses": {str(status): count for status, count in sorted(statuses.items())},
        "runs_that_differ": len(differing),
        "differences": differing,
        "forked": forked,
        "seed": seed,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stops", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--signal", choices=["SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP"], default="SIGTERM")
    parser.add_argument("--forked", action="store_true", help="fork the runs from a warm process")
    parser.add_argument("--json-only", action="store_true", help="print the line of JSON alone")
    args = parser.parse_args()
    report = (lambda line: None) if args.json_only else (lambda line: print(line, flush=True))
    number = signal.Signals[args.signal]
    with tempfile.TemporaryDirectory() as work:
        figures = measure(args.stops, args.seed, args.forked, number, Path(work), report)
    print(json.dumps(figures))
    expected = {str(130 if args.signal == "SIGINT" else 75)}
    return 0 if set(figures["exit_statuses"]) == expected and not figures["runs_that_differ"] else 1


if __name__ == "__main__":
    sys.exit(main())
