"""The engine of sweeps: Ray, on one machine or a cluster.

A Ray task attends one attempt of a cell. It starts `resproto train` in a process of its own, so that a card's memory is
surely free afterwards, keeps its log, and tells how it ended. The process ends when its task does, in whatever way: it
watches a pipe that the task's process holds open.
"""

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from resproto_fd.configs import stop_signals
from resproto_fd.configs.files import make_folder
from resproto_fd.configs.locks import SoleLock
from resproto_fd.configs.ray_cluster import connected
from resproto_fd.configs.stop_signals import EXIT_INTERRUPTED
from resproto_fd.training.child_process import GRACE, start
from resproto_fd.training.sweeps.pool import Node, Placement
from resproto_fd.training.sweeps.scheduler import Attempt, Ended, Ending, Event, NodeJoined, NodeLost

LINES = 20
"""Lines of a log that are told when a cell has failed."""
MOST_READ = 2**16
"""Bytes at a log's end that are searched for why an attempt ended: several processes tell much after the cause."""
LOOK_EVERY = 0.2
"""Seconds between two looks at a cell's process."""
NODES_EVERY = 2.0
"""Seconds between two looks at the cluster's nodes."""
_TOO_LARGE = re.compile(
    r"OutOfMemoryError|(CUDA|HIP|MPS backend)[^\n]{0,20} out of memory|CU(BLAS|DNN|SOLVER)_STATUS_ALLOC_FAILED"
)
_STEP = re.compile(r"step_(\d+)\.pt")


@dataclass(frozen=True)
class Order:
    """What a task is to do.

    Attributes:
        words: The command's words.
        folder: The run folder.
        log: The cell's log, which is appended to.
        cwd: Folder that the command runs in.
        cards: How many it has.
        threads: Threads of each process.
        title: Written above the attempt's output.
    """

    words: tuple[str, ...]
    folder: str
    log: str
    cwd: str
    cards: int
    threads: int
    title: str


def attend(order: Order) -> tuple[Ending, str, int | None]:
    """Does one attempt of a cell, in a Ray worker; see `Ended`."""
    _heed_cancelling()
    log = Path(order.log)
    make_folder(log.parent)
    if not _is_free(Path(order.folder)):
        return "busy", "another process is at work in the run folder", _progress(order)
    with open(log, "ab") as output:
        output.write(f"--- {order.title}\n".encode())
        output.flush()
        began = output.tell()
        # A run on the CPU sees no card; otherwise Ray has set which ones.
        environment = {} if order.cards else {"CUDA_VISIBLE_DEVICES": ""}
        options = {"cwd": order.cwd, "env": environment, "start_new_session": os.name != "nt"}
        process = start(order.words, output, order.threads, max(1, order.cards), **options)
    code = _attended(process)
    printed = _printed(log, began)
    place = "/".join(log.parts[-3:])  # from the folder of runs: the text is kept there and shown on the leaderboard
    tail = "\n".join(printed.strip().splitlines()[-LINES:])
    return _ending(code, printed), f"{_status(code)}; {place} ends with:\n{tail}", _progress(order)


def _heed_cancelling() -> None:
    """Ray cancels a task by SIGINT, which a Ray that a script started in the background ignores."""
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL):
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _attended(process: subprocess.Popen) -> int:
    """Waits for a process; its exit status.

    The process is asked to stop if this task is cancelled, or if Ray's node, whose child this worker is, was killed:
    Ray lets a worker that is at a task go on then.
    """
    node = os.getppid()
    try:
        while not _has_ended(process) and os.getppid() == node:
            time.sleep(LOOK_EVERY)
        _ask_to_stop(process)
    except BaseException:  # Ray cancels by an exception that it raises here
        _ask_to_stop(process)
    finally:
        with suppress(OSError):
            process.stdin.close()
        _end_group(process)
    return process.wait()


def _ask_to_stop(process: subprocess.Popen) -> None:
    """Asks a process to save its state and end, and gives it the time."""
    with suppress(OSError):
        process.stdin.close()
    deadline = time.monotonic() + GRACE + 5
    while not _has_ended(process) and time.monotonic() < deadline:
        time.sleep(LOOK_EVERY)


def _has_ended(process: subprocess.Popen) -> bool:
    """Whether a process has ended. Its number is not given to another one yet: `_end_group` may still use it."""
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    return process.returncode is not None or os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)


def _end_group(process: subprocess.Popen) -> None:
    """Kills what is left of a process and its children, which have a group of their own."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _is_free(folder: Path) -> bool:
    """Whether nobody works in a run folder; the process of an attempt that was lost has some seconds to end."""
    deadline = time.monotonic() + GRACE + 10
    while folder.is_dir():
        lock = SoleLock(folder / ".lock")
        if lock.acquire():
            lock.release()
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(LOOK_EVERY)
    return True


def _ending(code: int, printed: str) -> Ending:
    if code == 0:
        return "done"
    if code == EXIT_INTERRUPTED:
        return "stopped"
    if _TOO_LARGE.search(printed):
        return "memory"
    return "refused" if code == 2 else "crashed"


def _status(code: int) -> str:
    return f"ended by {stop_signals.name_of(-code)}" if code < 0 else f"exit status {code}"


def _printed(log: Path, began: int) -> str:
    """The end of what was appended to a log."""
    with open(log, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(began, size - MOST_READ))
        return file.read().decode(errors="replace")


def _progress(order: Order) -> int | None:
    """The step of the newest checkpoint."""
    steps = [_STEP.fullmatch(path.name) for path in Path(order.folder, "checkpoints").glob("step_*.pt")]
    return max((int(match[1]) for match in steps if match), default=None)


def card_memory() -> list[float]:
    """GiB of this node's cards that nobody uses now, in a Ray worker; [] if nvidia-smi does not tell.

    Cards that CUDA_VISIBLE_DEVICES of Ray's node leaves out are not listed.
    """
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
        cards = [[part.strip() for part in line.split(",")] for line in lines if line.strip()]
        free = {key: (float(total) - float(used)) / 1024 for *keys, total, used in cards for key in keys}
        visible = _visible_cards()
        return [free[key] for key in (visible if visible is not None else [card[0] for card in cards])]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return []


def _visible_cards() -> list[str] | None:
    """CUDA_VISIBLE_DEVICES of the node: a worker's own is set by Ray, its parent's is the user's."""
    try:
        variables = Path(f"/proc/{os.getppid()}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    found = [line.decode().partition("=")[2] for line in variables if line.startswith(b"CUDA_VISIBLE_DEVICES=")]
    return [word.strip() for word in found[0].split(",") if word.strip()] if found else None


class RayEngine:
    """Starts cells as Ray tasks; a context manager that connects to Ray and leaves it. See `scheduler.Engine`.

    Args:
        order_of: What a task is to do for a cell, its placement and attempt.
        address: A cluster's; "auto" for the one on this machine; None starts Ray for this sweep alone.
        temporary: Folder for Ray's own files; None leaves it to Ray. Only where Ray is started here.
    """

    def __init__(
        self,
        order_of: Callable[[object, Placement, Attempt], Order],
        address: str | None = None,
        temporary: str | None = None,
    ):
        self._order_of, self._address, self._temporary = order_of, address, temporary
        self._running: dict = {}
        self._nodes: dict[str, Node] = {}
        self._asked: dict = {}
        self._looked = 0.0

    def __enter__(self) -> "RayEngine":
        self._connection = connected(self._address, self._temporary)
        self._ray = self._connection.__enter__()
        self._attend = self._ray.remote(max_retries=0, max_calls=1)(attend)
        self._memory = self._ray.remote(max_retries=0, num_cpus=0)(card_memory)
        return self

    def __exit__(self, *error) -> None:
        self._connection.__exit__(*error)

    def first_nodes(self, patience: float = 60.0) -> list[Node]:
        """The nodes that there are at the beginning."""
        deadline, found = time.monotonic() + patience, []
        while time.monotonic() < deadline:
            found += [event.node for event in self._look_at_nodes() if isinstance(event, NodeJoined)]
            if found and not self._asked:
                break
            time.sleep(0.1)
        return found

    # --- scheduler.Engine --------------------------------------------------------------------------------------

    def now(self) -> float:
        return time.monotonic()

    def start(self, cell: object, placement: Placement, attempt: Attempt) -> Hashable:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        cards = placement.share if len(placement.cards) == 1 else len(placement.cards)
        options = {
            "num_cpus": placement.cpus,
            "num_gpus": cards,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(placement.node, soft=False),
            "name": f"resproto {cell.digest}",
        }
        task = self._attend.options(**options).remote(self._order_of(cell, placement, attempt))
        self._running[task] = False
        return task

    def stop(self, handle: Hashable) -> None:
        if handle in self._running:
            self._running[handle] = True
            self._ray.cancel(handle, force=False)

    def wait(self, timeout: float) -> list[Event]:
        events = self._look_at_nodes() if time.monotonic() - self._looked > NODES_EVERY else []
        if not self._running:
            time.sleep(0 if events else timeout)
            return events
        tasks = list(self._running)
        ready, _ = self._ray.wait(tasks, num_returns=1, timeout=0 if events else timeout)
        if ready:
            ready, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
        return events + [self._ended(task) for task in ready]

    def _ended(self, task) -> Ended:
        from ray import exceptions

        stopping = self._running.pop(task)
        try:
            ending, text, progress = self._ray.get(task)
            return Ended(task, ending, text, progress)
        except exceptions.TaskCancelledError:
            return Ended(task, "stopped")
        except exceptions.RayTaskError as error:
            return Ended(task, "stopped" if stopping else "crashed", f"its task failed: {error.cause or error}")
        except exceptions.RayError as error:
            return Ended(task, "lost", f"its worker or node was lost: {type(error).__name__}: {error}")

    def _look_at_nodes(self) -> list[Event]:
        """Nodes that came or went. One with cards comes when it has told their memory."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._looked = time.monotonic()
        alive = {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}
        events: list[Event] = [NodeLost(name) for name in self._nodes if name not in alive]
        for event in events:
            del self._nodes[event.name]
        for name, resources in alive.items():
            cards, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
            if name in self._nodes or name in self._asked or not cpus:
                continue
            if cards:
                strategy = NodeAffinitySchedulingStrategy(name, soft=False)
                self._asked[name] = self._memory.options(scheduling_strategy=strategy).remote(), cards, cpus
            else:
                events.append(self._joined(Node(name, (), cpus)))
        for name, (task, cards, cpus) in list(self._asked.items()):
            if name not in alive:
                del self._asked[name]
            elif self._ray.wait([task], timeout=0)[0]:
                del self._asked[name]
                memory = self._told(task)
                # Unknown memory is none: such cards are shared by no two runs.
                known = memory if len(memory) == cards else [0.0] * cards
                events.append(self._joined(Node(name, tuple(known), cpus)))
        return events

    def _told(self, task) -> list[float]:
        from ray import exceptions

        try:
            return self._ray.get(task)
        except exceptions.RayError:
            return []

    def _joined(self, node: Node) -> NodeJoined:
        self._nodes[node.name] = node
        return NodeJoined(node)
