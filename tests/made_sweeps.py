"""Cells and an engine for tests of sweeps, in a time of their own."""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from resproto_fd.training.sweeps.pool import Node, Pool
from resproto_fd.training.sweeps.scheduler import Ended, Job, Scheduler


@dataclass(frozen=True)
class MadeNeeds:
    cards: float = 1
    cpus: int | None = 1


@dataclass(frozen=True)
class MadeCell:
    digest: str
    needs: MadeNeeds = MadeNeeds()
    seconds: float = 10.0


@dataclass
class MadeEngine:
    """Ends each attempt after the cell's seconds, as `ends(cell, attempt, number of starts)` says; "done" by default.

    Attributes:
        starts: (time, cell's digest, attempt, placement) of each start.
        later: Events at given times.
    """

    ends: Callable = lambda cell, attempt, starts: "done"
    time: float = 0.0
    starts: list = field(default_factory=list)
    later: list = field(default_factory=list)
    stopped: set = field(default_factory=set)
    placed: dict = field(default_factory=dict)

    def at(self, time, event):
        heapq.heappush(self.later, (time, len(self.starts) * 1000 + len(self.later), event))

    def now(self):
        return self.time

    def start(self, cell, placement, attempt):
        handle = len(self.starts)
        self.starts.append((self.time, cell.digest, attempt, placement))
        mine = sum(digest == cell.digest for _, digest, _, _ in self.starts)
        ending = self.ends(cell, attempt, mine)
        ended = ending if isinstance(ending, Ended) else Ended(handle, ending, f"{cell.digest} ended: {ending}")
        self.placed[handle] = placement.node
        self.at(self.time + cell.seconds, Ended(handle, ended.ending, ended.text, ended.progress))
        return handle

    def stop(self, handle):
        self.stopped.add(handle)
        self.at(self.time + 1, Ended(handle, "stopped"))

    def lose(self, name):
        """The events of a lost node: its attempts are lost and will not end otherwise."""
        from resproto_fd.training.sweeps.scheduler import NodeLost

        gone = {handle for handle, node in self.placed.items() if node == name}
        lost = [event.handle for _, _, event in self.later if isinstance(event, Ended) and event.handle in gone]
        self.later = [each for each in self.later if not (isinstance(each[2], Ended) and each[2].handle in gone)]
        heapq.heapify(self.later)
        return [NodeLost(name), *(Ended(handle, "lost", "its node was lost") for handle in lost)]

    def wait(self, timeout):
        if not self.later or self.later[0][0] > self.time + timeout:
            self.time += timeout
            return []
        self.time = max(self.time, self.later[0][0])
        found = []
        while self.later and self.later[0][0] <= self.time:
            event = heapq.heappop(self.later)[2]
            found += self.lose(event[1]) if isinstance(event, tuple) else [event]
        return found


def swept(cells, engine=None, nodes=None, asked=lambda: False, **options):
    """Runs the cells; the jobs by digest, and the engine."""
    engine = engine or MadeEngine()
    scheduler = Scheduler([Job(cell) for cell in cells], engine, Pool(nodes or [Node("a", (80.0,), 16)]), **options)
    scheduler.run(asked)
    return {job.cell.digest: job for job in scheduler.jobs}, engine
