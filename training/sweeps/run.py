"""Runs a sweep: its cells, the engine and the files that hold its state, put together."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from pathlib import Path

from resproto_fd.configs import loading, stop_signals
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import write_text
from resproto_fd.configs.readers.json_reader import read_json
from resproto_fd.configs.schema import TrainConfig
from resproto_fd.configs.sweep_schema import SweepConfig
from resproto_fd.detectors.registry import detector_class
from resproto_fd.training.sweeps import cells as of_cells
from resproto_fd.training.sweeps.cells import SIDE, Cell
from resproto_fd.training.sweeps.claims import Claims
from resproto_fd.training.sweeps.live import BoardKeeper, Live
from resproto_fd.training.sweeps.pool import Placement, Pool
from resproto_fd.training.sweeps.ray_engine import Order, RayEngine
from resproto_fd.training.sweeps.scheduler import Attempt, Job, Rules, Scheduler

EXIT_FAILED = 1
MOST_PARTS = 64
"""Parts of a batch that are tried at most when a card's memory is too small."""
BOARD = "leaderboard"
"""Folder of the board, in the folder of runs."""


def run_sweep(
    config: SweepConfig,
    cells: Sequence[Cell],
    runs: str | Path,
    address: str | None = None,
    *,
    temporary: str | None = None,
    retry: bool = False,
    seconds_of: Callable[[Cell], float | None] = lambda cell: None,
) -> int:
    """Runs what is not done of a sweep, and tells on stderr what becomes of it.

    Args:
        config: The sweep; its budget is used.
        cells: Its cells.
        runs: The folder of runs.
        address: A Ray cluster's; "auto" for the one on this machine; None starts Ray for this sweep alone.
        temporary: Folder for Ray's own files.
        retry: Begin cells that failed before once more.
        seconds_of: How long a cell takes, if it is known.

    Returns:
        0 if all cells are done, 1 if any failed, 75 if some are left to do: the budget is spent.

    Raises:
        UserError: Ray is missing or cannot be reached; no machine has the cards that a cell needs; or a run folder
            holds another run.
        Interrupted, KeyboardInterrupt: A stop signal came. Running cells have saved their state.
    """
    runs = Path(runs)
    jobs = [_job(cell, runs, retry) for cell in cells]
    waiting = [job for job in jobs if job.state == "waiting"]
    with Live(jobs) as live, BoardKeeper(jobs, runs, runs / BOARD) as board:
        if waiting:
            peaks = Peaks(jobs, runs)
            told = (partial(_record, runs), peaks.changed, live.changed, board.changed)
            with _connected(runs, address, temporary) as (engine, pool), Claims(runs / SIDE / "claims") as claims:
                _refuse_unfitting(waiting, pool)
                _forget_failures(waiting, runs, claims)
                scheduler = Scheduler(
                    waiting,
                    engine,
                    pool,
                    peak_of=peaks.of,
                    seconds_of=seconds_of,
                    parts_of=parts_of,
                    is_done=partial(_is_done, runs),
                    has_failed=partial(_why_failed, runs),
                    claims=claims,
                    rules=_rules(config, address),
                    changed=lambda job: [tell(job) for tell in told],
                )
                scheduler.run(stop_signals.asked)
    return _report(jobs, runs, board)


def _rules(config: SweepConfig, address: str | None) -> Rules:
    """The sweep's limits. Ray's only node on this machine does not come back by itself; one of a cluster may."""
    patience = {} if address else {"patience": 0.0}
    return Rules(hours=config.budget.hours, runs=config.budget.runs, **patience)


def _job(cell: Cell, runs: Path, retry: bool) -> Job:
    """A cell as its files tell it."""
    found = of_cells.state(cell, runs)
    if found == "done":
        return Job(cell, "done")
    if found == "failed" and not retry:
        return Job(cell, "failed", of_cells.fault_in(cell, runs) or _why_failed(runs, cell) or "")
    return Job(cell)


@contextmanager
def _connected(runs: Path, address: str | None, temporary: str | None) -> Iterator[tuple[RayEngine, Pool]]:
    """The engine, and the pool of what it has now."""

    def order_of(cell: Cell, placement: Placement, attempt: Attempt) -> Order:
        return order(cell, runs, placement, attempt)

    with RayEngine(order_of, address, temporary) as engine, stop_signals.noted():
        nodes = engine.first_nodes()
        if not nodes:
            raise UserError("Ray has no node with a CPU; start one with `ray start`, or leave out --address")
        yield engine, Pool(nodes)


def order(cell: Cell, runs: Path, placement: Placement, attempt: Attempt) -> Order:
    """What a task is to do for one attempt of a cell."""
    words = cell.words(runs)
    if attempt.parts > 1:
        words = loading.in_one_line([*words, f"run.split_batch={attempt.parts}"])
    title = f"attempt {attempt.number} of {cell.folder}: resproto {' '.join(words)}"
    return Order(
        words=tuple(words),
        folder=str(Path(runs, cell.folder).absolute()),
        log=str(log_of(cell, runs).absolute()),
        cwd=os.getcwd(),
        cards=len(placement.cards),
        threads=cell.threads,
        title=title,
    )


def log_of(cell: Cell, runs: str | Path) -> Path:
    """The file that has what all attempts of a cell printed."""
    return cell.side(runs) / "log.txt"


def parts_of(cell: Cell) -> list[int]:
    """Parts that a cell's batch can be computed in when a card's memory is too small for more of it.

    They are more than those that the cell's own settings ask for.
    """
    detector = json.loads(cell.spec)["detector"]
    if detector_class(detector["detector"]).steps_alone:
        return []
    unit = max(1, int(cell.needs.cards)) * (2 if TrainConfig.model_validate(detector["train"]).in_pairs else 1)
    unit *= detector["train"]["accumulate"]
    whole, found, parts = detector["train"]["batch_size"], [], 2
    while parts <= min(whole, MOST_PARTS):
        if parts > cell.split_batch and whole % (unit * parts) == 0:
            found.append(parts)
        parts *= 2
    return found


class Peaks:
    """Peaks of memory on a card, as results of runs tell them: those of one detector, batch and precision are equal.

    Args:
        jobs: The cells of the sweep.
        runs: The folder of runs.
    """

    def __init__(self, jobs: Sequence[Job], runs: Path):
        self._runs, self._known = runs, {}
        if any(0 < job.cell.needs.cards < 1 for job in jobs):
            for job in jobs:
                self.changed(job)

    def of(self, cell: Cell) -> float | None:
        """GiB, if the cell states them or an equal one has measured them."""
        return cell.needs.memory_gib or self._known.get(memory_key(cell))

    def changed(self, job: Job) -> None:
        """Takes in a job's measurement when it is done."""
        if job.state == "done" and job.cell.needs.cards and (peak := measured_peak(self._runs / job.cell.folder)):
            key = memory_key(job.cell)
            self._known[key] = max(peak, self._known.get(key, 0.0))


def memory_key(cell: Cell) -> str:
    """What decides how much memory of a card a cell takes: its detector, batch and precision, and how it is run."""
    detector = json.loads(cell.spec)["detector"]
    train = {key: value for key, value in detector["train"].items() if key not in ("epochs", "schedule")}
    settings = sorted(word for word in cell.settings if word.startswith(("run.", "train.")))
    return json.dumps([detector["detector"], detector["model"], detector["input"], train, settings], sort_keys=True)


def measured_peak(folder: Path) -> float | None:
    """GiB that a run took of a card, from its result; None if it is not told, or its batches were split."""
    try:
        result = read_json(folder / "result.json")
        if result["config"]["run"].get("split_batch", 1) > 1:
            return None
        peak = float(result["timing"]["card_peak_gib"])
        return peak if 0 < peak < inf else None
    except (UserError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _refuse_unfitting(jobs: Sequence[Job], pool: Pool) -> None:
    for job in jobs:
        if not pool.ever_fits(job.cell.needs):
            most = max(len(node.cards) for node in pool.nodes)
            raise UserError(
                f"{job.cell.folder} needs {job.cell.needs.cards:g} cards on one machine, and the largest has {most}; "
                "set needs.cards in the sweep's file (0 is a run on the CPU), or give --address of a cluster"
            )


def _forget_failures(jobs: Sequence[Job], runs: Path, claims: Claims) -> None:
    """Removes the record of failures that are to be tried again, unless another sweep is at the cell."""
    for job in jobs:
        if job.cell.failed_file(runs).is_file() and claims.owner_of(job.cell.digest) is None:
            job.cell.failed_file(runs).unlink(missing_ok=True)


def _is_done(runs: Path, cell: Cell) -> bool:
    try:
        return of_cells.state(cell, runs) == "done"
    except UserError:  # training says what is wrong with the folder
        return False


def _why_failed(runs: Path, cell: Cell) -> str | None:
    """Why a sweep gave a cell up; None if none did."""
    try:
        return str(read_json(cell.failed_file(runs), file_names=True)["text"])
    except (UserError, KeyError, TypeError):
        return "it failed; its record cannot be read" if cell.failed_file(runs).is_file() else None


def _record(runs: Path, job: Job) -> None:
    """Writes down what must outlive this process: that a cell was given up."""
    file = job.cell.failed_file(runs)
    if job.state == "failed" and not file.is_file():
        about = {"run": job.cell.folder, "attempts": job.attempts, "log": f"{SIDE}/{job.cell.digest}/log.txt"}
        text = job.text.replace("\0", "\N{REPLACEMENT CHARACTER}")  # of a log; our own reader refuses NUL
        write_text(file, json.dumps(about | {"text": text}, indent=1) + "\n")
    elif job.state == "done":
        with suppress(OSError):
            file.unlink(missing_ok=True)


def _report(jobs: Sequence[Job], runs: Path, board: BoardKeeper) -> int:
    """Tells which cells failed and what is left; the exit status."""
    failed = [job for job in jobs if job.state == "failed"]
    for job in failed:
        print(f"failed: {job.cell.folder}: {job.text}", file=sys.stderr)
    if board.problem:
        print(f"note: the leaderboard could not be made: {board.problem}", file=sys.stderr)
    elif any(job.state == "done" for job in jobs):
        print(f"leaderboard: {runs / BOARD / 'index.html'}")
    if failed:
        return EXIT_FAILED
    left = sum(job.state != "done" for job in jobs)
    if left:
        print(f"{left} cells are left to do; run the same command to go on from there", file=sys.stderr)
    return stop_signals.EXIT_INTERRUPTED if left else 0
