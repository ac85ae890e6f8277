"""What a person sees of a sweep at work: a table on the terminal, and the leaderboard as cells finish."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from resproto_fd.configs.locks import held
from resproto_fd.training.board.collecting import Pending
from resproto_fd.training.sweeps.scheduler import Job

ROWS = 30
"""Lines of the table on the terminal; running cells come first, then failed ones."""
PENDING = 500
"""Cells that the leaderboard's page names."""
BOARD_EVERY = 15.0
"""Seconds between two boards; more if making one takes long."""
PATIENCE = 600
"""Seconds to wait while another sweep on the folder makes its board."""
_ORDER = {"running": 0, "failed": 1, "elsewhere": 2, "waiting": 3, "left": 4, "done": 5}
_SHOWN = {"waiting": "to come", "left": "to come", "elsewhere": "running elsewhere"}
_COLOURS = {"running": "cyan", "failed": "red", "done": "green", "elsewhere": "blue"}


def shown_state(job: Job) -> str:
    """A job's state in words."""
    return _SHOWN.get(job.state, job.state)


class Live:
    """The table; a context manager. On a terminal it is drawn again and again, else each change is a line.

    Args:
        jobs: All cells of the sweep, those that were done before too.
        output: Where it is shown.
    """

    def __init__(self, jobs: Sequence[Job], output: IO[str] | None = None):
        self._jobs, self._output = jobs, output or sys.stderr
        self._began = time.monotonic()
        self._done_before = sum(job.state == "done" for job in jobs)
        self._started: dict[str, float] = {}
        self._drawn = None

    def __enter__(self) -> "Live":
        if self._output.isatty():
            from rich.console import Console
            from rich.live import Live as Drawn

            self._drawn = Drawn(
                console=Console(file=self._output), get_renderable=self.table, refresh_per_second=1, transient=True
            )
            self._drawn.start()
        return self

    def __exit__(self, *error) -> None:
        if self._drawn is not None:
            self._drawn.stop()
        print(self.summary(), file=self._output, flush=True)

    def changed(self, job: Job) -> None:
        """Notes that a job's state has changed."""
        digest, now = job.cell.digest, time.monotonic()
        took = f" after {_clock(now - self._started[digest])}" if digest in self._started else ""
        if job.state == "running":
            self._started[digest] = now
        if self._drawn is None:
            number = f", attempt {job.attempts}" if job.state == "running" and job.attempts > 1 else ""
            parts = f", batches in {job.parts} parts" if job.parts > 1 else ""
            ended = took if job.state in ("done", "failed", "waiting") else ""
            print(f"{shown_state(job)}: {job.cell.folder}{ended}{number}{parts}", file=self._output, flush=True)

    def summary(self) -> str:
        """Counts of the states, and how long the rest may take."""
        counts = Counter(shown_state(job) for job in self._jobs)
        words = ("done", "running", "running elsewhere", "failed", "to come")
        parts = [f"{counts[word]} {word}" for word in words if counts[word] or word == "done"]
        done, elapsed = counts["done"] - self._done_before, time.monotonic() - self._began
        left = sum(counts[word] for word in words if word not in ("done", "failed"))
        rest = f"; about {_clock(elapsed / done * left)} left" if done > 0 and left else ""
        return f"{len(self._jobs)} cells: {', '.join(parts)}; {_clock(elapsed)} so far{rest}"

    def table(self):
        """The table for a terminal."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=self.summary(), title_justify="left", expand=False)
        for name in ("run", "state", "time", "attempt", "where"):
            table.add_column(name, overflow="fold" if name == "run" else "ellipsis")
        for job in sorted(self._jobs, key=lambda job: _ORDER[job.state])[:ROWS]:
            state = Text(shown_state(job), style=_COLOURS.get(job.state, ""))
            begun = self._started.get(job.cell.digest)
            spent = _clock(time.monotonic() - begun) if job.state == "running" and begun else ""
            table.add_row(Text(job.cell.folder), state, spent, str(job.attempts or ""), _where(job))
        return table


def _where(job: Job) -> str:
    placement = job.placement  # read once: the table is drawn while another thread changes jobs
    if placement is None:
        return ""
    cards = ", ".join(map(str, placement.cards))
    return f"{placement.node[:8]}{f' card {cards}' if cards else ''}"


def _clock(seconds: float) -> str:
    """
    >>> _clock(59), _clock(3700)
    ('59 s', '1:01:40')
    """
    whole = int(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"


class BoardKeeper:
    """Makes the leaderboard again after cells have finished, beside the sweep; a context manager that makes the last.

    Args:
        jobs: All cells of the sweep.
        runs: The folder of runs.
        out: Where the board goes.
        build: Makes it, see `board.building.build`.
        every: Seconds between two boards.
    """

    def __init__(
        self, jobs: Sequence[Job], runs: Path, out: Path, build: Callable | None = None, every: float = BOARD_EVERY
    ):
        self._jobs, self._runs, self._out, self._every = jobs, runs, out, every
        self._build = build or _build
        self._wanted, self._ended = threading.Event(), threading.Event()
        self.problem = ""

    def __enter__(self) -> "BoardKeeper":
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error) -> None:
        self._ended.set()
        self._wanted.set()
        self._thread.join()
        self._make()

    def changed(self, job: Job) -> None:
        """Notes that a job's state has changed."""
        self._wanted.set()

    def _keep(self) -> None:
        while True:
            self._wanted.wait()
            if self._ended.is_set():
                return
            self._wanted.clear()
            began = time.monotonic()
            self._make()
            self._ended.wait(max(self._every, 5 * (time.monotonic() - began)))

    def _make(self) -> None:
        """Makes the board if there is a result; what is wrong with it must not end the sweep."""
        folders = [self._runs / job.cell.folder for job in self._jobs if job.state == "done"]
        folders = [folder for folder in folders if (folder / "result.json").is_file()]
        if not folders:
            return
        lock = self._out.with_name(f".{self._out.name}.lock")
        try:
            with held(lock, f"another sweep makes {self._out}; run the same command again after it", PATIENCE):
                self._build(folders, self._out, pending=self.pending())
            self.problem = ""
        except Exception as error:  # of whatever kind: the runs matter more
            self.problem = str(error) or type(error).__name__

    def pending(self) -> list[Pending]:
        """The cells that have no result yet."""
        jobs = sorted(self._jobs, key=lambda job: _ORDER[job.state])
        shown = [
            Pending(job.cell.folder, shown_state(job), job.text.partition("\n")[0])
            for job in jobs
            if job.state != "done"
        ]
        return shown[:PENDING]


def _build(*arguments, **options):
    from resproto_fd.training.board.building import build

    return build(*arguments, **options)
