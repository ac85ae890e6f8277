"""Decides which cell runs next and where, and what follows when one ends. It starts nothing itself.

An `Engine` starts cells and tells how they end. There is one that uses Ray (`ray_engine`); tests and the simulation in
`benchmarks/` drive this very code with made ones, in time of their own.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Protocol

from resproto_fd.training.sweeps.pool import Node, Placement, Pool, whole_cards

Ending = Literal["done", "stopped", "refused", "memory", "crashed", "lost", "busy"]
"""How an attempt ended.

done: exit status 0. stopped: 75, its state is saved. refused: 2, a fault that a person must mend. memory: the card's
memory was too small. crashed: any other status, or a signal. lost: its process went away with the worker or the node
that watched it. busy: another process is at work in the run folder, so that nothing was started.
"""
CRASHES = 3
"""Attempts that may crash, without progress in between, before the cell has failed."""
LOSSES = 10
"""The same for attempts that were lost or stopped: mostly the cell is not at fault."""
PARTS = (2, 4, 8, 16, 32, 64)
"""Parts that a batch is computed in after the card's memory was too small for all of it."""


class Cell(Protocol):
    """What the scheduler knows of a cell, see `cells.Cell`."""

    digest: str
    needs: object


@dataclass(frozen=True)
class Attempt:
    """One start of a cell.

    Attributes:
        number: 1 for the first.
        parts: Parts that each batch is computed in; 1 is as configured.
    """

    number: int = 1
    parts: int = 1


@dataclass(frozen=True)
class Ended:
    """An attempt has ended.

    Attributes:
        handle: What `start` returned.
        ending: How.
        text: What a person should read: the exit status and the last lines of the log.
        progress: How far the cell has come, in any unit that only grows; None if it is not known.
    """

    handle: Hashable
    ending: Ending
    text: str = ""
    progress: int | None = None


@dataclass(frozen=True)
class NodeJoined:
    """A node may be used from now on."""

    node: Node


@dataclass(frozen=True)
class NodeLost:
    """A node is gone. Attempts on it end as "lost", each by an event of its own, before or after this one."""

    name: str


Event = Ended | NodeJoined | NodeLost


class Engine(Protocol):
    """Starts cells and reports how they end. Its time is its own: seconds of a clock, or of a simulation."""

    def start(self, cell: Cell, placement: Placement, attempt: Attempt) -> Hashable:
        """Starts a cell there; the handle stands for this attempt. It does not wait."""

    def wait(self, timeout: float) -> list[Event]:
        """Waits until something has happened, at most `timeout` seconds; returns all that has."""

    def stop(self, handle: Hashable) -> None:
        """Asks an attempt to save its state and end. Its end is reported by `wait` like any other."""

    def now(self) -> float:
        """Seconds on the engine's clock."""


class Claims(Protocol):
    """Who has which cell, see `claims.Claims`."""

    def take(self, digest: str) -> bool: ...

    def release(self, digest: str) -> None: ...

    def holds(self, digest: str) -> bool: ...


@dataclass(frozen=True)
class Rules:
    """What a sweep may do.

    Attributes:
        hours: No cell is begun after so many hours; None means no limit.
        runs: Cells that are begun at most; None means no limit.
        crashes, losses: See `CRASHES` and `LOSSES`.
        patience: Seconds to wait for a node that is large enough, if none is left.
    """

    hours: float | None = None
    runs: int | None = None
    crashes: int = CRASHES
    losses: int = LOSSES
    patience: float = 600.0


@dataclass
class Job:
    """A cell and what has become of it.

    Attributes:
        state: "waiting"; "running"; "elsewhere", another sweep has it; "done"; "failed"; or "left", the budget is spent
            or the sweep was stopped.
        text: Why it failed.
        attempts: Starts so far.
        parts: See `Attempt`.
    """

    cell: Cell
    state: Literal["waiting", "running", "elsewhere", "done", "failed", "left"] = "waiting"
    text: str = ""
    attempts: int = 0
    parts: int = 1
    alone: bool = False
    crashes: int = 0
    losses: int = 0
    progress: int | None = None
    began: float = 0.0
    placement: Placement | None = None
    handle: Hashable = None
    not_before: float = 0.0
    stopping: bool = field(default=False, repr=False)
    short_of_memory: str = field(default="", repr=False)  # what the last attempt of that kind told


class Scheduler:
    """Runs the cells of a sweep.

    Args:
        jobs: The cells that are not done, in the order in which a person wants them.
        engine: Starts them.
        pool: What there is to run them on; the engine's events change it.
        peak_of: A cell's peak of memory on a card in GiB, if it is known.
        seconds_of: How long a cell takes, if it is known: of cells with equal needs the longest is begun first.
        parts_of: Parts that a cell's batch can be computed in, from few to many, when a card's memory is too small.
        is_done: Whether the files say that a cell is done; asked after its claim, since another sweep may have done it.
        has_failed: Whether the files say that another sweep gave the cell up; its text, or None.
        claims: Shared with other sweeps on the folder; None if there are none.
        rules: Limits.
        changed: Called with a job after its state has changed.
        poll: Longest wait for events, in seconds.
    """

    def __init__(
        self,
        jobs: Iterable[Job],
        engine: Engine,
        pool: Pool,
        *,
        peak_of: Callable[[Cell], float | None] = lambda cell: None,
        seconds_of: Callable[[Cell], float | None] = lambda cell: None,
        parts_of: Callable[[Cell], Sequence[int]] = lambda cell: PARTS,
        is_done: Callable[[Cell], bool] = lambda cell: False,
        has_failed: Callable[[Cell], str | None] = lambda cell: None,
        claims: Claims | None = None,
        rules: Rules = Rules(),
        changed: Callable[[Job], None] = lambda job: None,
        poll: float = 2.0,
    ):
        self.jobs = list(jobs)
        self.engine, self.pool, self.rules = engine, pool, rules
        self._peak_of, self._seconds_of, self._parts_of = peak_of, seconds_of, parts_of
        self._is_done, self._has_failed, self._claims = is_done, has_failed, claims
        self._changed, self._poll = changed, poll
        self._running: dict[Hashable, Job] = {}
        self._queues: dict[tuple, deque[Job]] = {}
        self._begun = 0
        self._began_at = engine.now()
        self._looked = self._began_at
        self._stopped = False
        self._stuck_since: float | None = None
        for job in sorted(self.jobs, key=lambda job: -(seconds_of(job.cell) or 0.0)):
            self._enqueue(job)

    # --- the loop ----------------------------------------------------------------------------------------------

    def run(self, asked_to_stop: Callable[[], bool] = lambda: False) -> list[Job]:
        """Runs until nothing is left to do; returns the jobs.

        Args:
            asked_to_stop: Looked at between events; once true, running cells are asked to save their state and end.
        """
        while self._has_work():
            if not self._stopped and asked_to_stop():
                self.stop()
            self._begin_all()
            if not self._has_work():
                break
            for event in self.engine.wait(self._timeout()):
                self._take_in(event)
            self._look_around()
        for job in self.jobs:
            if job.state in ("waiting", "elsewhere"):
                self._set(job, "left")
        return self.jobs

    def stop(self) -> None:
        """Begins nothing more, and asks every running cell to save its state and end."""
        self._stopped = True
        for job in list(self._running.values()):
            self._ask_to_stop(job)

    def _has_work(self) -> bool:
        if self._running:
            self._stuck_since = None
            return True
        return not self._stopped and not self._is_spent() and any(self._queues.values()) and not self._is_stuck()

    def _is_stuck(self) -> bool:
        """Whether for long no node was large enough for any cell that waits, as after all nodes were lost."""
        if any(self.pool.ever_fits(queue[0].cell.needs) for queue in self._queues.values() if queue):
            self._stuck_since = None
            return False
        now = self.engine.now()
        self._stuck_since = now if self._stuck_since is None else self._stuck_since
        return now - self._stuck_since > self.rules.patience

    def _is_spent(self) -> bool:
        """Whether the budget allows no further beginning."""
        hours, runs = self.rules.hours, self.rules.runs
        late = hours is not None and self.engine.now() - self._began_at >= hours * 3600
        return late or (runs is not None and self._begun >= runs and not self._has_begun_waiting())

    def _has_begun_waiting(self) -> bool:
        """Whether a cell waits that was begun before: going on with it is no further run."""
        return any(job.attempts for queue in self._queues.values() for job in queue)

    def _timeout(self) -> float:
        waiting = [job.not_before for queue in self._queues.values() for job in list(queue)[:1]]
        soonest = min((at - self.engine.now() for at in waiting if at > self.engine.now()), default=self._poll)
        return max(0.01, min(self._poll, soonest))

    # --- beginning ---------------------------------------------------------------------------------------------

    def _kind(self, job: Job) -> tuple:
        """What decides where a job fits: jobs of one kind wait in one queue. Kinds with many cards come first."""
        needs = job.cell.needs
        peak = self._peak(job)
        shares = 0 < needs.cards < 1 and not job.alone and peak is not None
        return (
            -whole_cards(needs) if not shares else -needs.cards,
            job.alone,
            -(peak or 0.0),
            -(needs.cpus or 1),
            needs.cards,
        )

    def _peak(self, job: Job) -> float | None:
        return self._peak_of(job.cell) if job.cell.needs.cards else None

    def _enqueue(self, job: Job) -> None:
        self._queues.setdefault(self._kind(job), deque()).append(job)

    def _begin_all(self) -> None:
        """Begins whatever fits. A run that waits for whole cards keeps smaller ones from them, so its time comes."""
        if self._stopped or self._is_spent():
            return
        held: frozenset = frozenset()
        for kind in sorted(self._queues):
            queue = self._queues[kind]
            blocked, passed_over = None, []
            for _ in range(len(queue)):
                job = queue.popleft()
                if job.not_before > self.engine.now() or not self._may_begin(job):
                    passed_over.append(job)
                    continue
                outcome = self._try(job, kind, held)
                if outcome == "no room":
                    queue.appendleft(job)
                    blocked = job
                    break
                if outcome == "later":
                    queue.append(job)
            queue.extendleft(reversed(passed_over))  # they keep their places
            if blocked is not None and kind[0] <= -1:
                held |= self.pool.hold(blocked.cell.needs, self._peak(blocked))
            if not queue:
                del self._queues[kind]

    def _may_begin(self, job: Job) -> bool:
        return bool(job.attempts) or self.rules.runs is None or self._begun < self.rules.runs

    def _try(self, job: Job, kind: tuple, held: frozenset) -> Literal["begun", "over", "later", "no room"]:
        needs = job.cell.needs
        placement = self.pool.place(needs, self._peak(job), job.alone, held)
        if placement is None:
            return "no room"
        if not self._claimed(job):
            self.pool.give_back(placement)
            if job.state in ("done", "failed"):
                return "over"
            job.not_before = self.engine.now() + self._poll * 5
            return "later"
        if not job.attempts:
            self._begun += 1
        job.attempts += 1
        job.placement, job.began, job.stopping = placement, self.engine.now(), False
        job.handle = self.engine.start(job.cell, placement, Attempt(job.attempts, job.parts))
        self._running[job.handle] = job
        self._set(job, "running")
        return "begun"

    def _claimed(self, job: Job) -> bool:
        """Takes the job's claim; False if another sweep has it or has done it, as the job's state then tells."""
        digest = job.cell.digest
        if self._claims is not None and not self._claims.take(digest):
            if job.state != "elsewhere":
                self._set(job, "elsewhere")
            return False
        text = self._has_failed(job.cell)
        if self._is_done(job.cell):
            self._set(job, "done")
        elif text is not None:
            self._set(job, "failed", text)
        else:
            return True
        self._release(job)
        return False

    # --- ends --------------------------------------------------------------------------------------------------

    def _take_in(self, event: Event) -> None:
        if isinstance(event, NodeJoined):
            self.pool.add(event.node)
        elif isinstance(event, NodeLost):
            self.pool.remove(event.name)
        elif (job := self._running.pop(event.handle, None)) is not None:
            self.pool.give_back(job.placement)
            self._after(job, event)

    def _after(self, job: Job, event: Ended) -> None:
        """Decides what becomes of a job whose attempt has ended."""
        if event.ending == "done":
            self._after_done(job)
            return
        if event.progress is not None and event.progress > (job.progress or 0):
            job.progress, job.crashes, job.losses = event.progress, 0, 0
        if event.ending == "refused":
            self._fail(job, f"{job.short_of_memory}\n{event.text}".strip())
        elif event.ending == "memory":
            self._after_memory(job, event)
        elif event.ending == "crashed":
            job.crashes += 1
            self._again(job, event, job.crashes, self.rules.crashes)
        elif self._stopped or job.stopping:
            self._requeue(job)
        elif event.ending == "busy":  # somebody trains the very cell; that may take as long as it takes
            self._requeue(job, wait=30 * self._poll)
        else:
            job.losses += 1
            self._again(job, event, job.losses, self.rules.losses)

    def _after_done(self, job: Job) -> None:
        known = self._peak_of(job.cell)
        self._set(job, "done")
        self._release(job)
        if known is None and self._peak_of(job.cell) is not None:  # now its equals can share a card
            waiting = [job for queue in self._queues.values() for job in queue]
            self._queues.clear()
            for other in waiting:
                self._enqueue(other)

    def _after_memory(self, job: Job, event: Ended) -> None:
        """Once more alone on its card, then in more and more parts of a batch."""
        if not job.alone and job.cell.needs.cards:
            job.alone = True
            self._requeue(job)
            return
        further = [parts for parts in self._parts_of(job.cell) if parts > job.parts]
        if further:
            job.parts, job.short_of_memory = further[0], event.text
            self._requeue(job)
        else:
            self._fail(job, event.text)

    def _again(self, job: Job, event: Ended, count: int, limit: int) -> None:
        if count >= limit and not self._stopped:
            self._fail(job, f"{event.text}\nthe last of {job.attempts} attempts".strip())
        else:
            self._requeue(job, wait=min(60.0, 3 * self._poll * count) if event.ending != "stopped" else 0.0)

    def _fail(self, job: Job, text: str) -> None:
        self._set(job, "failed", text)
        self._release(job)

    def _requeue(self, job: Job, wait: float = 0.0) -> None:
        job.not_before = self.engine.now() + wait
        self._set(job, "waiting")
        if self._stopped:
            self._release(job)
        # First of its kind: what was begun ends before others begin, else the longest would end last of all.
        self._queues.setdefault(self._kind(job), deque()).appendleft(job)

    def _look_around(self) -> None:
        """Stops cells that another sweep has taken over, as happens to a sweep that was suspended for long."""
        if self._claims is None or self.engine.now() - self._looked < self._poll * 5:
            return
        self._looked = self.engine.now()
        for job in list(self._running.values()):
            with suppress(OSError):  # a server that is away for a while; the next look may reach it
                if not job.stopping and not self._claims.holds(job.cell.digest):
                    self._ask_to_stop(job)

    def _ask_to_stop(self, job: Job) -> None:
        job.stopping = True
        self.engine.stop(job.handle)

    def _release(self, job: Job) -> None:
        if self._claims is not None:
            self._claims.release(job.cell.digest)

    def _set(self, job: Job, state: str, text: str = "") -> None:
        job.state, job.text = state, text
        if state != "running":
            job.placement = job.handle = None
        self._changed(job)
