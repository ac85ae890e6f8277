"""The scheduler of sweeps in virtual time: how long a sweep takes beside the least time that it could take.

    python benchmarks/scheduler.py

The very code that runs sweeps (`training/sweeps/scheduler.py`, `pool.py`) is driven by a made engine, whose clock jumps
from event to event. Cells take a lognormal time (median an hour, sigma 0.8) and a card each. What they take is known to
the scheduler within a fifth. A start costs a minute, and a checkpoint is saved every ten. Where faults are on, a cell
crashes once in 100 card-hours on average, and a node of 8 cards is taken away once in 200 node-hours for half an hour:
what ran there goes on elsewhere from its last checkpoint.

The bound is the larger of the longest cell and of all cells' time by the number of cards, starts included, faults not.
A ratio is the makespan over the bound. The milliseconds are processor time of the scheduler and the made engine
together, by start of a cell.
"""

import heapq
import itertools
import time
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from measure import make_parser, parse, report

from resproto_fd.training.sweeps.pool import Node, Pool
from resproto_fd.training.sweeps.scheduler import Ended, Job, NodeJoined, NodeLost, Rules, Scheduler

HOUR = 3600.0
START, SAVE = 60.0, 600.0
CARDS_A_NODE = 8
CRASHES, TAKEN = 1 / (100 * HOUR), 1 / (200 * HOUR)
"""Crashes a second of a running cell, and takings a second of a node."""
AWAY = HOUR / 2
GIB = 80.0
FULL = [(cells, cards) for cells in (10, 100, 1000, 10_000) for cards in (1, 8, 64, 512)]


@dataclass(frozen=True)
class Made:
    """A cell of so many seconds."""

    digest: str
    seconds: float
    needs: SimpleNamespace


class VirtualEngine:
    """Runs made cells in virtual time; see `scheduler.Engine`.

    Attributes:
        starts: Attempts that were begun.
        lost_seconds: Card time whose work had to be done again.
    """

    def __init__(self, nodes: list[Node], faults: bool, seed: int):
        self.clock, self.starts, self.lost_seconds = 0.0, 0, 0.0
        self._nodes, self._faults, self._rng = {node.name: node for node in nodes}, faults, np.random.default_rng(seed)
        self._events: list[tuple[float, int, object]] = []
        self._order = itertools.count()
        self._left: dict[str, float] = {}
        self._running: dict[int, tuple[Made, str, float]] = {}
        if faults:
            for node in nodes:
                self._at(self._rng.exponential(1 / TAKEN), NodeLost(node.name))

    def _at(self, after: float, event: object) -> None:
        heapq.heappush(self._events, (self.clock + after, next(self._order), event))

    def start(self, cell: Made, placement, attempt) -> int:
        handle, self.starts = self.starts, self.starts + 1
        left = self._left.setdefault(cell.digest, cell.seconds)
        crash = self._rng.exponential(1 / CRASHES) if self._faults else np.inf
        ending = "done" if START + left <= crash else "crashed"
        self._running[handle] = cell, placement.node, self.clock
        self._at(min(START + left, crash), Ended(handle, ending))
        return handle

    def wait(self, timeout: float) -> list:
        if not self._events or self._events[0][0] > self.clock + timeout:
            self.clock += timeout
            return []
        found: list = []
        self.clock = self._events[0][0]
        while self._events and self._events[0][0] <= self.clock:
            found += self._happens(heapq.heappop(self._events)[2])
        return found

    def _happens(self, event) -> list:
        if isinstance(event, NodeLost):
            ended = [handle for handle, (_, node, _) in self._running.items() if node == event.name]
            self._at(AWAY, NodeJoined(self._nodes[event.name]))
            return [*(self._ends(Ended(handle, "lost")) for handle in ended), event]
        if isinstance(event, NodeJoined):
            self._at(self._rng.exponential(1 / TAKEN), NodeLost(event.node.name))
            return [event]
        return [self._ends(event)] if event.handle in self._running else []

    def _ends(self, event: Ended) -> Ended:
        cell, _, began = self._running.pop(event.handle)
        if event.ending == "done":
            return event
        worked = max(0.0, self.clock - began - START)
        saved = worked // SAVE * SAVE
        self.lost_seconds += self.clock - began - saved
        self._left[cell.digest] -= saved
        return Ended(event.handle, event.ending, progress=int((cell.seconds - self._left[cell.digest]) / SAVE))

    def stop(self, handle: int) -> None:
        raise AssertionError("nothing is stopped here")

    def now(self) -> float:
        return self.clock


def nodes_of(cards: int) -> list[Node]:
    """Nodes that have so many cards together."""
    whole, rest = divmod(cards, CARDS_A_NODE)
    sizes = [CARDS_A_NODE] * whole + [rest] * bool(rest)
    return [Node(f"node{i}", (GIB,) * size, 16 * size) for i, size in enumerate(sizes)]


def simulate(count: int, cards: int, faults: bool, seed: int = 0) -> dict[str, float]:
    """Runs one sweep to its end.

    Returns:
        "hours" (the makespan), "bound_hours", "ratio", "starts", "lost_share" of the card time and "ms_a_start".
    """
    rng = np.random.default_rng((seed, count))
    seconds, needs = HOUR * rng.lognormal(0.0, 0.8, count), SimpleNamespace(cards=1, cpus=4)
    cells = [Made(f"cell{i}", float(value), needs) for i, value in enumerate(seconds)]
    guess = {cell.digest: cell.seconds * rng.lognormal(0.0, 0.2) for cell in cells}
    nodes = nodes_of(cards)
    engine = VirtualEngine(nodes, faults, seed)
    rules = Rules(patience=24 * HOUR)
    began = time.process_time()
    jobs = Scheduler(
        map(Job, cells), engine, Pool(nodes), seconds_of=lambda cell: guess[cell.digest], rules=rules, poll=SAVE
    ).run()
    cpu = time.process_time() - began
    undone = [job.cell.digest for job in jobs if job.state != "done"]
    if undone:
        raise RuntimeError(f"{len(undone)} of {count} cells were not done, first {undone[0]}")
    took = seconds + START
    bound = max(took.max(), took.sum() / cards)
    return {
        "hours": engine.clock / HOUR,
        "bound_hours": bound / HOUR,
        "ratio": engine.clock / bound,
        "starts": engine.starts,
        "lost_share": engine.lost_seconds / (engine.lost_seconds + took.sum()),
        "ms_a_start": 1e3 * cpu / engine.starts,
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--cells", type=int, nargs="+", help="numbers of cells; by default 10 to 10,000")
    parser.add_argument("--cards", type=int, nargs="+", help="numbers of cards; by default 1 to 512")
    args = parse(parser)
    wanted = [(10, 1), (20, 8)] if args.tiny else FULL
    if args.cells or args.cards:
        wanted = list(itertools.product(args.cells or [1000], args.cards or [8]))
    rows, results = [], []
    for cells, cards in wanted:
        calm, faulty = (simulate(cells, cards, faults) for faults in (False, True))
        results.append({"cells": cells, "cards": cards, "calm": calm, "faults": faulty})
        row = {"cells": f"{cells:,}", "cards": str(cards), "bound, h": f"{calm['bound_hours']:.2f}"}
        row |= {"ratio": f"{calm['ratio']:.3f}", "ratio, faults": f"{faulty['ratio']:.3f}"}
        row |= {"starts": f"{faulty['starts']:,}", "time lost": f"{100 * faulty['lost_share']:.1f} %"}
        rows.append(row | {"ms a start": f"{faulty['ms_a_start']:.2f}"})
    report("Sweeps in virtual time", rows, {"benchmark": "scheduler", "results": results}, args)


if __name__ == "__main__":
    main()
