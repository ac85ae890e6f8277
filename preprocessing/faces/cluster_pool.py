"""Tasks done by the nodes of a Ray cluster. If a node dies, others do its tasks."""

import os
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from resproto_fd.configs import stop_signals
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import make_folder
from resproto_fd.configs.ray_cluster import connected
from resproto_fd.preprocessing.faces.shards import versions
from resproto_fd.preprocessing.faces.sources import STATE, Source
from resproto_fd.preprocessing.faces.worker_pool import LastingWorker, WorkerDied

MOST_LOSSES = 5
"""Nodes or Ray workers that may be lost with one task. A decoder's crash is none of these."""
GLANCE = 0.5
"""Seconds between looks for stop signals."""
LOOKS = 3
"""Looks for the mark: a network's file system may show a new file late."""
COUNTED_FOR = 3.0
"""Seconds for which a count of the cluster's processors is used."""
WAITING = 60.0
"""Seconds without an answer after which a note tells that the tasks wait."""

_workers: dict[tuple, LastingWorker] = {}
"""In a Ray worker: its one worker process, by what it was made from."""


@dataclass
class Cluster:
    """How tasks are done on a cluster.

    Attributes:
        address: "HOST:PORT" of its head, or "auto".
        processes: Tasks at a time; None means one for each processor of the cluster.
        cards: Cards that a task takes.
        fault: Tells in words what a node lacks for a task, "" if nothing. It is called on the node, and must be
            picklable.
    """

    address: str
    processes: int | None = None
    cards: int = 0
    fault: Callable[[Any], str] = field(default=lambda task: "")


@dataclass(frozen=True)
class SharedFolders:
    """What a node must have: the same output folder, the source's files, and the same libraries.

    Attributes:
        out: The output folder.
        mark: A file in it that was made for this run.
        versions: Of the libraries on which crops depend.
    """

    out: str
    mark: str
    versions: tuple[tuple[str, str], ...]

    @classmethod
    @contextmanager
    def marked(cls, out: Path, tmp: str) -> Iterator["SharedFolders"]:
        """Makes the mark in the folder `tmp` of this run alone, and removes it after the block."""
        place = make_folder(out / STATE / tmp)
        with tempfile.NamedTemporaryFile(prefix="cluster-", dir=place) as mark:
            yield cls(str(out), mark.name, tuple(sorted(versions().items())))

    def __call__(self, source: Source) -> str:
        """Tells what is missing, "" if nothing."""
        for attempt in range(LOOKS):
            if os.path.exists(self.mark):
                break
            time.sleep(attempt)
        else:
            return f"it does not see the same {self.out}; mount the same folder there"
        if not os.path.exists(source.files[0]):
            return f"it does not see {source.files[0]}; mount the folder of the videos there, under the same name"
        here = versions()
        differing = [
            f"{name} {here.get(name)}, not {wanted}" for name, wanted in self.versions if here.get(name) != wanted
        ]
        return f"it has {'; '.join(differing)}; install the same versions on every node" if differing else ""


def run_on_cluster(
    make_worker: Callable[..., Callable[[Any], Any]], arguments: tuple, tasks: Sequence[Any], cluster: Cluster
) -> Iterator[tuple[int, Any]]:
    """Yields each task's number and answer, in the order in which the answers come.

    Each task is done by a worker in a process of its own, as `worker_pool.run_tasks` does it, so that a crash of a
    decoder gives the same answer here and there. A task whose node dies is given to another node. A node that lacks
    something is given no further task, and a note on stderr names it.

    Args:
        make_worker, arguments, tasks: As in `run_tasks`.
        cluster: Where.

    Raises:
        Interrupted, KeyboardInterrupt: A stop signal came.
        UserError: There is no such cluster, or none of its nodes can do the tasks.
        Exception: What make_worker or the worker raised.
    """
    if not tasks:
        return
    with stop_signals.noted(), connected(cluster.address) as ray:
        yield from _Run(ray, (make_worker, arguments), tasks, cluster).answers()


class _Run:
    def __init__(self, ray: ModuleType, make: tuple, tasks: Sequence[Any], cluster: Cluster) -> None:
        self.ray, self.tasks, self.cluster = ray, tasks, cluster
        do = ray.remote(num_cpus=1, num_gpus=cluster.cards, max_retries=0, scheduling_strategy="SPREAD")(_do)
        self.do, self.make = do, ray.put(make)
        self.waiting, self.running = deque(range(len(tasks))), {}
        self.losses = [0] * len(tasks)
        self.unfit: dict[str, str] = {}
        self.unchecked: set[int] = set()
        self._counted = (-COUNTED_FOR, 0)

    def answers(self) -> Iterator[tuple[int, Any]]:
        answered = time.monotonic()
        while self.waiting or self.running:
            stop_signals.look("stopped; finished videos are kept")
            while self.waiting and len(self.running) < self._at_a_time():
                self._hand_out(self.waiting.popleft())
            ready, _ = self.ray.wait(list(self.running), timeout=GLANCE)
            if not ready and time.monotonic() - answered > WAITING:
                print("note: no task has ended for a while; are the cluster's processors in use?", file=sys.stderr)
            if ready or time.monotonic() - answered > WAITING:
                answered = time.monotonic()
            for reference in ready:
                number = self.running.pop(reference)
                answer = self._answer(number, reference)
                if answer is not None:
                    yield number, answer

    def _hand_out(self, number: int) -> None:
        do = self.do
        if self.unfit:
            do = do.options(label_selector={"ray.io/node-id": f"!in({','.join(self.unfit)})"})
        fault = None if number in self.unchecked else self.cluster.fault
        self.running[do.remote(self.make, fault, self.tasks[number])] = number

    def _at_a_time(self) -> int:
        """Tasks that are handed out at a time: some wait, so that a node that joins finds work."""
        if self.cluster.processes:
            return self.cluster.processes
        when, count = self._counted
        if time.monotonic() - when >= COUNTED_FOR:
            count = int(self.ray.cluster_resources().get("CPU", 0))
            self._counted = (time.monotonic(), count)
        return 2 * count + 2

    def _answer(self, number: int, reference: Any) -> Any:
        """Returns the answer; None if the task has to be done again."""
        errors = self.ray.exceptions
        try:
            kind, node, value = self.ray.get(reference)
        except (errors.RayTaskError, errors.RuntimeEnvSetupError) as error:
            reason = str(error).strip().rpartition("\n")[2]
            raise UserError(
                f"a node of the cluster cannot do the work ({reason}); install the same version of resproto-fd, Python "
                "and Ray on every node"
            ) from error
        except errors.RayError as error:
            self.losses[number] += 1
            if self.losses[number] < MOST_LOSSES:
                self.waiting.appendleft(number)
                return None
            return WorkerDied(f"its node or its Ray worker was lost {MOST_LOSSES} times ({type(error).__name__})")
        if kind == "error":
            raise value
        if kind == "unfit":
            if self.cluster.fault(self.tasks[number]):  # it lacks here, too: the answer tells, and the node is sound
                self.unchecked.add(number)
            else:
                self._leave_out(node, value)
            self.waiting.appendleft(number)
            return None
        return value

    def _leave_out(self, node: tuple[str, str], fault: str) -> None:
        name, host = node
        if name not in self.unfit:
            self.unfit[name] = fault
            print(f"note: node {host} gets no further videos: {fault}", file=sys.stderr)
        fit = [one for one in self.ray.nodes() if one["Alive"] and one["Resources"].get("CPU")]
        if all(one["NodeID"] in self.unfit for one in fit):
            raise UserError(f"no node of the cluster can do the work; node {host}: {fault}")


def _do(make: tuple, fault: Callable[[Any], str] | None, task: Any) -> tuple[str, tuple[str, str], Any]:
    """Does a task in a Ray worker: ("answer" | "unfit" | "error", node, the answer | what it lacks | the error)."""
    import ray

    context = ray.get_runtime_context()
    node = context.get_node_id(), f"{ray.util.get_node_ip_address()} ({socket.gethostname()})"
    if fault and (found := fault(task)):
        return "unfit", node, found
    key = (make, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if key not in _workers:
        _workers.clear()
        _workers[key] = LastingWorker(*make)
    try:
        return "answer", node, _workers[key](task)
    except UserError as error:
        return "error", node, type(error)(f"node {node[1]}: {error}")
