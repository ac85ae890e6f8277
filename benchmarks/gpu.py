"""All that is measured on a card, part by part, in 8 minutes at most; benchmarks/gpu.sh starts it.

    benchmarks/gpu.sh --out gpu.jsonl
    benchmarks/gpu.sh --dry-run         # tiny sizes on the CPU: shows that every part runs, its figures mean nothing

Each part is another program of this folder, or the tests, in a process of its own with a limit of time. A part that is
over its limit is ended, and one for which no time is left is not begun; the table names both. First come the lines of
JSON, one a part as it ends, then one table with the goals. The exit status is 1 if a part was not done, a test failed
or was skipped, or the K-means of the card differs from the CPU's; a missed goal of speed does not change it.

Warm-up is as the programs state: one round, or one pass, that is not counted. Times are on the wall with the card
synchronised at both ends; figures are medians of the rounds.
"""

import argparse
import contextlib
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measure import machine

from resproto_fd.configs.files import write_text

FOLDER = Path(__file__).resolve().parent
GRP_GOAL, TRAINER_GOAL, MFU_GOAL = 1.03, 1.03, 0.40
LEAST = 10
"""Seconds under which no part is begun."""
ROOMY = 60 * 2**30
"""Bytes of a card's memory that a step of 256 images needs; a smaller card takes 64."""


@dataclass(frozen=True)
class Row:
    """One figure for people: its name, its value in words, the goal in words, and whether the goal is met."""

    figure: str
    value: str
    goal: str = ""
    met: bool | None = None


@dataclass(frozen=True)
class Part:
    """Something to measure.

    Attributes:
        name: What --only calls it.
        command: The program and its arguments, without Python.
        limit: Seconds that it may take.
        rows: From its figures to lines of the table.
        read: From what it prints to its figures.
        must_hold: Whether a goal that is not met changes the exit status.
    """

    name: str
    command: list[str]
    limit: float
    rows: Callable[[dict[str, Any]], list[Row]]
    read: Callable[[str], dict[str, Any]] = lambda printed: json.loads(printed.splitlines()[-1])
    must_hold: bool = False


def read_pytest(printed: str) -> dict[str, int]:
    """The counts of pytest's last line.

    Raises:
        ValueError: It has none.
    """
    counts = dict.fromkeys(("passed", "failed", "skipped", "error"), 0)
    found = re.findall(r"(\d+) (passed|failed|skipped|error)", printed.strip().rpartition("\n")[2])
    if not found:
        raise ValueError("expected pytest's counts in its last line")
    return counts | {word: int(number) for number, word in found}


def test_rows(figures: dict[str, Any]) -> list[Row]:
    words = ", ".join(f"{number} {word}" for word, number in figures.items() if number)
    met = figures["passed"] > 0 and not figures["failed"] + figures["error"] + figures["skipped"]
    return [Row("GPU tests", words, "all pass", met)]


def kmeans_rows(figures: dict[str, Any]) -> list[Row]:
    same = figures["same_clusters_on_cpu"]
    return [
        Row("K-means: the card's clusters are the CPU's", "yes" if same else "no", "yes", same),
        Row("K-means, a call", f"{figures['ms']:.2f} ms"),
    ]


def step_rows(figures: dict[str, Any]) -> list[Row]:
    """Price of the prototypes where it was measured, images a second, MFU and memory of ResProto-FD's step."""
    rows = []
    for result in figures["results"]:
        label = f"{figures['model']}{', compiled' * figures['compiled']}, batch {result['batch']}"
        price, step = result["prototypes"], result["kinds"]["resproto_fd"]
        if price:
            value = "{ratio:.4f} ({ratio_low:.3f}-{ratio_high:.3f})".format(**price)
            met = price["ratio"] <= GRP_GOAL
            rows.append(Row(f"{label}: step with prototypes / without", value, f"<= {GRP_GOAL}", met))
        rows.append(Row(f"{label}: training", f"{step['images_per_second']:.0f} images/s, {step['ms']:.1f} ms a step"))
        mfu = step["mfu"]
        value = f"{mfu:.1%} of {figures['peak_tflops']:.0f} TFLOP/s ({figures['peak_from']})" if mfu else "peak unknown"
        rows.append(Row(f"{label}: MFU", value, f"> {MFU_GOAL:.0%}", mfu and mfu > MFU_GOAL))
        rows.append(Row(f"{label}: peak memory", f"{step['peak_mib']:.0f} MiB, {step['extra_memory']:+.2%} of plain"))
    return rows


def trainer_rows(figures: dict[str, Any]) -> list[Row]:
    return [
        Row(
            f"{figures['model']}, batch {result['batch']}: trainer / bare loop",
            "{ratio:.4f} ({ratio_low:.3f}-{ratio_high:.3f})".format(**result),
            f"<= {TRAINER_GOAL}",
            result["ratio"] <= TRAINER_GOAL,
        )
        for result in figures["results"]
    ]


def scoring_rows(figures: dict[str, Any]) -> list[Row]:
    rows = []
    for result in figures["results"]:
        label = f"{figures['model']}, batch {result['batch']}"
        rows.append(Row(f"{label}: tested from the store", f"{result['scored']:.0f} images/s"))
        for name, share in result["share"].items():
            value = f"{result['store'][name]:.0f} / {result['takes'][name]:.0f} images/s = {share:.2f}"
            rows.append(Row(f"{label}, {name}: native store / what the device takes", value, ">= 1", share >= 1))
        if result["peak_mib"]:
            rows.append(Row(f"{label}: peak memory of the process", f"{result['peak_mib']:.0f} MiB"))
    return rows


def sharing_rows(figures: dict[str, Any]) -> list[Row]:
    rows = []
    for result in figures["results"]:
        value = "{beside_s:.2f} s / {one_after_the_other_s:.2f} s = {ratio:.3f}".format(**result)
        rows.append(Row(f"{figures['model']}, batch {result['batch']}: two runs at once / one after the other", value))
    return rows


def parts(dry_run: bool, large: int) -> list[Part]:
    """What is measured, the most wanted first; what compiles comes last, since it takes longest."""
    files = [path for path in sorted((FOLDER.parent / "tests").glob("test_*.py")) if "mark.gpu" in path.read_text()]
    tests = ["-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *map(str, files)]  # to collect all takes a minute

    def program(name: str, *arguments: str) -> list[str]:
        sizes = ("--device", "cpu", "--threads", "1", "--tiny") if dry_run else ("--device", "cuda:0")
        return [str(FOLDER / f"{name}.py"), "--json-only", *(() if dry_run else arguments), *sizes]

    def step(*arguments: str, compiled: bool = False) -> list[str]:
        kinds = ("resproto_fd", "--compile") if compiled else ("residual", "resproto_fd")
        return [*program("grp_overhead", "--precision", "bf16", *arguments), "--kinds", *kinds]

    batches = ("--batch", "32", str(large))
    base, other = ("--model", "ViT-B-16"), ("--model", "ViT-L-14", "--batch", str(large // 2))
    few, runs = ("--steps", "8", "--burst", "5"), ("--steps", "3", "--run-steps", "200")
    return [
        Part("tests", tests, 60, test_rows, read_pytest, must_hold=True),
        Part("kmeans", program("kmeans", "--batches", "100"), 40, kmeans_rows, must_hold=True),
        Part("prototypes", step(*base, *batches), 80, step_rows),
        Part("trainer", program("train_step", *base, *batches, "--steps", "10"), 70, trainer_rows),
        Part("large", step(*other, *few), 50, step_rows),
        Part("scoring", program("scoring", *base, "--batch", "64", "--steps", "10"), 80, scoring_rows),
        Part("sharing", program("sharing", *base, "--batch", "16", *runs), 70, sharing_rows),
        Part("compiled", step(*base, "--batch", str(large), *few, compiled=True), 80, step_rows),
        Part("large_compiled", step(*other, *few, compiled=True), 110, step_rows),
    ]


class Runner:
    """Runs parts until a moment; ends what runs when it is left.

    Args:
        until: The moment, as `time.monotonic` gives it.
        dry_run: Whether the parts are hidden from any card.
        factor: What the parts' limits are multiplied by.
    """

    def __init__(self, until: float, dry_run: bool, factor: float = 1):
        self.until, self.dry_run, self.factor = until, dry_run, factor
        self._lock, self._running, self._over = threading.Lock(), set(), False

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *error) -> None:
        with self._lock:
            self._over = True
            for process in self._running:
                self._end(process)

    def run(self, part: Part) -> dict[str, Any]:
        """The part's record: state (done, failed, too long, no time left), seconds, figures, rows."""
        begin = time.monotonic()
        limit = min(part.limit * self.factor, self.until - begin)
        record = {"part": part.name, "dry_run": self.dry_run, "limit_s": round(limit, 1), "figures": None, "rows": []}
        if limit < LEAST and limit < part.limit * self.factor:
            return record | {"state": "no time left", "seconds": 0.0, "why": "not begun"}
        status, printed, errors = self._output([sys.executable, *part.command], limit)
        record["seconds"] = round(time.monotonic() - begin, 1)
        if status is None:
            return record | {"state": "too long", "why": f"ended after {limit:.0f} s"}
        why = ""
        try:
            record["figures"] = part.read(printed)
            record["rows"] = [vars(row) for row in part.rows(record["figures"])]
        except (ValueError, KeyError, IndexError) as error:
            why = f"printed no figures: {error!r}"
        if status:
            why = (errors.strip() or printed.strip() or why).splitlines()[-1:] or [""]
            why = f"exit status {status}: {why[0]}"
        return record | {"state": "failed" if why else "done", "why": why}

    def _output(self, command: list[str], limit: float) -> tuple[int | None, str, str]:
        """(Exit status, or None if it was over the limit; standard output; standard error)."""
        hidden = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"} if self.dry_run else {}
        with self._lock:
            if self._over:
                return None, "", ""
            process = subprocess.Popen(
                command,
                cwd=FOLDER.parent,
                env=os.environ | hidden,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,  # so that its own processes end with it
            )
            self._running.add(process)
        try:
            printed, errors = process.communicate(timeout=limit)
            return process.returncode, printed, errors
        except subprocess.TimeoutExpired:
            return None, "", ""
        finally:
            self._end(process)
            process.communicate()
            with self._lock:
                self._running.discard(process)

    @staticmethod
    def _end(process: subprocess.Popen) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def table(records: list[dict[str, Any]], dry_run: bool) -> list[str]:
    """Lines for people: every figure beside its goal, and every part that was not done."""
    rows = [("part", "figure", "value", "goal", "met")]
    for record in records:
        for row in record["rows"]:
            met = "" if row["met"] is None or dry_run else "yes" if row["met"] else "NO"
            rows.append((record["part"], row["figure"], row["value"], row["goal"], met))
        if record["state"] != "done":
            rows.append((record["part"], f"({record['state'].upper()})", record["why"], "", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def context(args: argparse.Namespace) -> dict[str, Any]:
    """The machine, the commit and the time: the first line."""
    words = argparse.Namespace(device="cpu" if args.dry_run else "cuda", threads=torch.get_num_threads())
    git = ["git", "-C", str(FOLDER.parent), "describe", "--always", "--dirty"]
    found = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    return {"part": "machine", "dry_run": args.dry_run, "machine": machine(words), "commit": found, "time": now}


def arguments() -> argparse.Namespace:
    names = [part.name for part in parts(True, 64)]
    parser = argparse.ArgumentParser(prog="benchmarks/gpu.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes on the CPU: the figures mean nothing")
    parser.add_argument("--minutes", type=float, default=8, help="in which all must be over (default: 8)")
    parser.add_argument("--limit-factor", type=float, default=1, help="multiplies the parts' own limits (default: 1)")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART", help=", ".join(names))
    parser.add_argument("--out", type=Path, help="a file that gets the lines of JSON too, after every part")
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        parser.error("expected a CUDA card, got none; set --dry-run to see that every part runs, on the CPU")
    return args


def main() -> int:
    begin = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    args = arguments()
    large = 64 if args.dry_run or torch.cuda.get_device_properties(0).total_memory < ROOMY else 256
    chosen = [part for part in parts(args.dry_run, large) if part.name in args.only]
    lines, records = [context(args)], []
    print(json.dumps(lines[0]))
    runner = Runner(begin + 60 * args.minutes - 5, args.dry_run, args.limit_factor)  # the last seconds are the table's
    # Where nothing is measured it only has to be over soon: two parts at once, and of equal commands (the tiny models
    # are all the same) the first.
    with ThreadPoolExecutor(2 if args.dry_run else 1) as pool, runner:
        first = {tuple(part.command): part for part in reversed(chosen)}
        ends = {key: pool.submit(runner.run, first[key]) for key in dict.fromkeys(tuple(p.command) for p in chosen)}
        for part in chosen:
            record = ends[tuple(part.command)].result() | {"part": part.name}
            records.append(record)
            lines.append(record)
            print(json.dumps(record))
            if args.out:
                write_text(args.out, "".join(json.dumps(line) + "\n" for line in lines))
    print(f"\n{lines[0]['machine']}; commit {lines[0]['commit']}; {time.monotonic() - begin:.0f} s")
    if args.dry_run:
        print("DRY RUN: tiny sizes on the CPU, two parts at once. These figures mean nothing.")
    print("\n".join(["", *table(records, args.dry_run)]))
    must = {part.name for part in chosen if part.must_hold and not args.dry_run}
    wrong = [r for r in records if r["part"] in must and any(row["met"] is False for row in r["rows"])]
    return int(bool(wrong) or any(record["state"] != "done" for record in records))


if __name__ == "__main__":
    sys.exit(main())
