"""Where files wait for a worker: a bounded number of them, each answered, refused or given up in bounded time."""

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from resproto_fd.configs.errors import UserError, cut
from resproto_fd.preprocessing.faces.worker_pool import LastingWorker, TooSlow, WorkerDied
from resproto_fd.training.serving.limits import Limits

STOPPING = "The server is stopping. Send the file again later."


class Refused(Exception):
    """A file gets no answer.

    Args:
        status: HTTP status.
        text: A sentence that says why.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status, self.text = status, text


class Desk:
    """Gives tasks to workers in processes of their own; a worker that hangs or dies costs its task alone.

    Args:
        make_worker, arguments: What makes a worker, see `worker_pool.run_tasks`.
        limits: How many workers there are, and how long a task may take.
    """

    def __init__(self, make_worker: Callable[..., Callable[[Any], Any]], arguments: tuple, limits: Limits) -> None:
        self.limits = limits
        self._workers = [LastingWorker(make_worker, arguments) for _ in range(limits.workers)]
        self._threads = ThreadPoolExecutor(limits.workers, "worker")
        self._idle: asyncio.Queue[LastingWorker] = asyncio.Queue()
        self._inside, self._ended = 0, False

    def begin(self) -> Any:
        """Starts all workers; returns what one of them tells about itself, see `answerer.Answerer`.

        Raises:
            CannotStart, UserError: One cannot start.
        """
        for _ in self._threads.map(LastingWorker.begin, self._workers):
            pass
        for worker in self._workers:
            self._idle.put_nowait(worker)
        return self._workers[0](None)

    def enter(self) -> None:
        """Takes a place for a file; `leave` gives it back.

        Raises:
            Refused: The server stops, or all places are taken.
        """
        if self._ended:
            raise Refused(503, STOPPING)
        if self._inside >= self.limits.places:
            raise Refused(503, f"{self._inside} files are waiting or at work. Send the file again in a minute.")
        self._inside += 1

    def leave(self) -> None:
        """Gives a place back."""
        self._inside -= 1

    async def answer(self, task: Any) -> Any:
        """A worker's answer.

        Raises:
            Refused: It took too long, its process died, or the server stops.
        """
        worker = await self._idle.get()
        try:
            if self._ended:
                raise Refused(503, STOPPING)
            # A request that is given up does not free its worker: the thread waits for it.
            done = asyncio.get_running_loop().run_in_executor(self._threads, self._do, worker, task)
        except BaseException:
            self._idle.put_nowait(worker)
            raise
        done.add_done_callback(lambda _: self._idle.put_nowait(worker))
        found = await asyncio.shield(done)
        if self._ended and isinstance(found, WorkerDied):
            raise Refused(503, STOPPING)
        if isinstance(found, TooSlow):
            text = f"Reading the file took more than {self.limits.seconds:g} seconds. Send a smaller one."
            raise Refused(504, text)
        if isinstance(found, WorkerDied):
            raise Refused(500, f"The process that read the file ended without an answer: {found}.")
        return found

    def _do(self, worker: LastingWorker, task: Any) -> Any:
        try:
            return WorkerDied(STOPPING) if self._ended else worker(task, self.limits.seconds)
        except UserError as error:  # it cannot start again
            fault = cut(str(error))
        except Exception as error:  # a fault of ours; its message may quote the file
            fault = f"a fault of the program ({type(error).__name__})"
        if not self._ended:
            print(f"resproto serve: {fault}", file=sys.stderr)
        return WorkerDied(fault)

    def end(self) -> None:
        """Ends all workers at once; what they did is refused. One that was being started ends at the next call."""
        self._ended = True
        for worker in self._workers:
            worker.end()
