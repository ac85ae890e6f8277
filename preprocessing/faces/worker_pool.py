"""Processes that do one task after another and may die without taking the others with them."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any

# Every numeric library would otherwise start as many threads as there are cores, in every process.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class WorkerDied(Exception):
    """The process that held a task ended without an answer; the message says how."""


def run_tasks(
    make_worker: Callable[..., Callable[[Any], Any]], arguments: tuple, tasks: Sequence[Any], processes: int
) -> Iterator[tuple[int, Any]]:
    """Each task's number and answer, in the order in which the answers come.

    A worker is made once in each process, by make_worker(*arguments). A process that dies (a decoder's crash, the
    kernel's memory killer) costs the task it held, whose answer is then a WorkerDied; a new process takes its place.
    Processes end at once when this one ends, however it ends.

    Args:
        make_worker: An importable function; with its arguments, tasks and answers it must be picklable.
        arguments: What it is called with.
        tasks: Given to the worker one by one.
        processes: How many processes; 0 does the tasks in this one.

    Raises:
        Exception: What make_worker or the worker raised; no further task is begun.
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
                        raise RuntimeError(f"a worker process could not start: {answer}") from None
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
                    pass  # it died just now: the next round hears of it
                if kind == "answer":
                    yield number, value
    finally:
        for process in pool.values():
            process.kill()
        for process in pool.values():
            process.join()


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
            return f"its process was ended by signal {-code} ({signal.Signals(-code).name})"
        return f"its process ended with exit code {code}"


def _serve(pipe: Connection, make_worker: Callable, arguments: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    tasks: SimpleQueue = SimpleQueue()

    def receive() -> None:
        try:
            while True:
                tasks.put(pipe.recv())
        except (EOFError, OSError):
            os._exit(0)  # the parent is gone or has closed the pipe: nothing may be written any more

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
