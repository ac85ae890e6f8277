"""Workers made for tests of worker processes; light to import, as each process imports it anew."""

import os
import signal
import time
from pathlib import Path


def make_stub(answer):
    """A worker that hangs, dies or faults, as the task says; it gives other tasks back, and its answer for None.

    The task ("hang", path) leaves a file there before.
    """

    def work(task):
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "fault":
            raise ValueError("the file's own words")
        if isinstance(task, tuple):
            Path(task[1]).touch()
        if task == "hang" or isinstance(task, tuple):
            time.sleep(3600)
        return answer if task is None else task

    return work


def make_waiting(folder):
    """A worker that leaves a file for each task; the first task waits for one named `go`, and tells what is there."""

    def work(task):
        if task:
            Path(folder, str(task)).touch()
            return None
        while not Path(folder, "go").exists():
            time.sleep(0.01)
        time.sleep(0.3)  # would be enough for another to begin
        return sorted(os.listdir(folder))

    return work
