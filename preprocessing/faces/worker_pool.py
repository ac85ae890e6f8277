"""Processes that do one task after another. If one dies, the others go on."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any

from resproto_fd.configs import stop_signals
from resproto_fd.configs.errors import UserError

# Every numeric library would otherwise start as many threads as there are cores, in every process.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class WorkerDied(Exception):
    """The process of a task ended without an answer; the message tells how."""


class CannotStart(UserError):
    """A process ended before its first task; the message tells how."""


class TooSlow(WorkerDied):
    """A process was ended because its task took longer than it may."""


def run_tasks(
    make_worker: Callable[..., Callable[[Any], Any]],
    arguments: tuple,
    tasks: Sequence[Any],
    processes: int,
    ahead: int | None = None,
) -> Iterator[tuple[int, Any]]:
    """Yields each task's number and answer, in the order in which the answers come.

    make_worker(*arguments) makes a worker once in each process. If a process dies (a decoder crashes, or the kernel is
    out of memory), the answer of its task is a WorkerDied, and a new process replaces it. All processes end at once
    when this one ends, in whatever way.

    Args:
        make_worker: An importable function. It, its arguments, the tasks and the answers must be picklable.
        arguments: Its arguments.
        tasks: The tasks; a worker gets one at a time.
        processes: Number of processes; 0 does the tasks in this one.
        ahead: How many tasks may be begun beyond the oldest without an answer. It bounds the answers that a caller
            holds who takes them in order. None: any number.

    Raises:
        CannotStart: A process ended before its first task.
        Exception: What make_worker or the worker raised. No further task is begun then.
    """
    if not tasks:
        return
    if processes <= 0:
        work = make_worker(*arguments)
        yield from ((number, work(task)) for number, task in enumerate(tasks))
        return
    yield from _run_in_processes(make_worker, arguments, tasks, processes, len(tasks) if ahead is None else ahead)


def _run_in_processes(
    make_worker: Callable[..., Callable[[Any], Any]], arguments: tuple, tasks: Sequence[Any], processes: int, ahead: int
) -> Iterator[tuple[int, Any]]:
    pool: dict[Connection, _Process] = {}
    begun, unanswered = 0, set()
    try:
        for _ in range(min(processes, len(tasks))):
            process = _Process(make_worker, arguments)
            pool[process.pipe] = process
        while pool:
            for pipe in wait(list(pool)):
                if pipe not in pool:  # closed a moment ago, when there was no task left for it
                    continue
                process = pool[pipe]
                try:
                    kind, value = pipe.recv()
                except (EOFError, ConnectionError):
                    kind, value = "died", WorkerDied(process.ending())
                    if not process.ready:
                        raise CannotStart(f"a worker process could not start: {value}") from None
                    del pool[pipe]
                    fresh = _Process(make_worker, arguments)
                    pool[fresh.pipe] = fresh
                if kind == "error":
                    raise value
                process.ready = True
                number, process.task = process.task, None
                unanswered.discard(number)
                for idle in [each for each in pool.values() if each.ready and each.task is None]:
                    if begun == len(tasks):
                        idle.pipe.close()
                        idle.join()
                        del pool[idle.pipe]
                    elif begun <= min(unanswered, default=begun) + ahead:
                        idle.task = begun
                        unanswered.add(begun)
                        with suppress(ConnectionError):  # it died just now; the next round finds out
                            idle.pipe.send(tasks[begun])
                        begun += 1
                if number is not None:
                    yield number, value
    finally:
        for process in pool.values():
            process.kill()
        for process in pool.values():
            process.join()


class LastingWorker:
    """A worker in a process of its own, which is replaced if it dies.

    Args:
        make_worker, arguments: As in `run_tasks`.
    """

    def __init__(self, make_worker: Callable[..., Callable[[Any], Any]], arguments: tuple) -> None:
        self._make = make_worker, arguments
        self._process: _Process | None = None

    def begin(self) -> "_Process":
        """Starts the process unless it lives, and waits until it can take a task.

        Raises:
            CannotStart, Exception: See `run_tasks`.
        """
        process = self._process
        if process is not None:
            if not process.pipe.poll():
                return process
            self.end()  # a pipe with news, though no task is at work, is one that has closed
        process = self._process = _Process(*self._make)
        try:
            news = process.pipe.recv()
        except (EOFError, ConnectionError):
            self._process = None
            raise CannotStart(f"a worker process could not start: {process.ending()}") from None
        self._taken(*news)
        return process

    def __call__(self, task: Any, seconds: float | None = None) -> Any:
        """Does a task; returns the answer, or a WorkerDied.

        Args:
            task: What to do.
            seconds: Most seconds for it, after which the process is ended and the answer is TooSlow; None: any number.

        Raises:
            CannotStart, Exception: See `run_tasks`.
        """
        process = self.begin()
        try:
            process.pipe.send(task)
            if seconds is not None and not process.pipe.poll(seconds):
                self.end()
                return TooSlow(f"it took more than {seconds:g} seconds")
            news = process.pipe.recv()
        except (EOFError, ConnectionError):
            self._process = None
            return WorkerDied(process.ending())
        return self._taken(*news)

    def end(self) -> None:
        """Ends the process at once, from any thread; a task that it does is answered by WorkerDied."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.join()

    def _taken(self, kind: str, value: Any) -> Any:
        if kind == "error":
            self.end()
            raise value
        return value


_starting = threading.Lock()
"""Held while the environment is that of a new process."""


class _Process:
    def __init__(self, make_worker: Callable, arguments: tuple) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.task: int | None = None
        self.ready = False
        self._process = context.Process(target=_serve, args=(theirs, make_worker, arguments), daemon=True)
        with _starting:
            before = {name: os.environ.get(name) for name in ONE_THREAD}
            os.environ.update(ONE_THREAD)
            try:
                self._process.start()
            finally:
                for name, value in before.items():
                    if value is None:
                        del os.environ[name]
                    else:
                        os.environ[name] = value
        theirs.close()
        self.kill, self.join = self._process.kill, self._process.join

    def ending(self) -> str:
        self.join()
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"its process was ended by signal {-code} ({stop_signals.name_of(-code)})"
        return f"its process ended with exit code {code}"


def _serve(pipe: Connection, make_worker: Callable, arguments: tuple) -> None:
    for name in ("SIGINT", "SIGHUP"):  # those of a terminal reach all its processes; the parent decides
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    tasks: SimpleQueue = SimpleQueue()

    def receive() -> None:
        try:
            while True:
                tasks.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)  # the parent has ended or closed the pipe: write nothing more

    threading.Thread(target=receive, daemon=True).start()
    try:
        work = make_worker(*arguments)
        pipe.send(("ready", None))
        while True:
            pipe.send(("answer", work(tasks.get())))
    except ConnectionError:
        os._exit(0)
    except Exception as error:
        pipe.send(("error", error))
