"""Processes that do one task after another. If one dies, the others go on."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
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


def run_tasks(
    make_worker: Callable[..., Callable[[Any], Any]], arguments: tuple, tasks: Sequence[Any], processes: int
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
    yield from _run_in_processes(make_worker, arguments, tasks, processes)


def _run_in_processes(
    make_worker: Callable[..., Callable[[Any], Any]], arguments: tuple, tasks: Sequence[Any], processes: int
) -> Iterator[tuple[int, Any]]:
    waiting = iter(enumerate(tasks))
    pool: dict[Connection, _Process] = {}
    try:
        for _ in range(min(processes, len(tasks))):
            process = _Process(make_worker, arguments)
            pool[process.pipe] = process
        while pool:
            for pipe in wait(list(pool)):
                process = pool[pipe]
                try:
                    kind, value = pipe.recv()
                except (EOFError, ConnectionError):
                    number, answer = process.task, WorkerDied(process.ending())
                    if number is None:
                        raise CannotStart(f"a worker process could not start: {answer}") from None
                    del pool[pipe]
                    process = _Process(make_worker, arguments)
                    pool[process.pipe] = process
                    yield number, answer
                    continue
                if kind == "error":
                    raise value
                number, process.task = process.task, None
                try:
                    process.task, task = next(waiting)
                    process.pipe.send(task)
                except StopIteration:
                    pipe.close()
                    process.join()
                    del pool[pipe]
                except ConnectionError:
                    pass  # it died just now; the next round finds out
                if kind == "answer":
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

    def __call__(self, task: Any) -> Any:
        """Does a task; returns the answer, or a WorkerDied.

        Raises:
            CannotStart, Exception: See `run_tasks`.
        """
        process, self._process = self._process, None
        ready = process is not None
        process = process or _Process(*self._make)
        try:
            kind, value = ("ready", None) if ready else process.pipe.recv()
            if kind == "ready":
                ready = True
                process.pipe.send(task)
                kind, value = process.pipe.recv()
        except (EOFError, ConnectionError):
            ending = process.ending()
            if not ready:
                raise CannotStart(f"a worker process could not start: {ending}") from None
            return WorkerDied(ending)
        if kind == "error":
            process.kill()
            process.join()
            raise value
        self._process = process
        return value


class _Process:
    def __init__(self, make_worker: Callable, arguments: tuple) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.task: int | None = None
        self._process = context.Process(target=_serve, args=(theirs, make_worker, arguments), daemon=True)
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
