"""Commands in processes of their own, which end when the process that started them ends, in whatever way."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from resproto_fd.configs.errors import Interrupted
from resproto_fd.configs.stop_signals import EXIT_INTERRUPTED

GRACE = 20
"""Seconds that a command has to save its state after it was asked to stop."""

# Python puts the current folder first on its path for -c and -m, and has no -P before 3.11.
_BEGIN = (
    "import sys; sys.path[:] = [place for place in sys.path if place]; "
    "from resproto_fd.training.child_process import end_with_parent; end_with_parent(); "
)
_COMMAND = f"{_BEGIN}from resproto_fd.training.cli import main; sys.exit(main())"
_SEVERAL = f"{_BEGIN}from resproto_fd.training.child_process import run_several; sys.exit(run_several(sys.argv[1:]))"


def start(words: Sequence[str], output: int | IO, threads: int = 1, processes: int = 1, **options) -> subprocess.Popen:
    """Starts `resproto WORDS` with a pipe as standard input: the command ends when that closes.

    Args:
        words: The command's words.
        output: Where it prints, errors too, as subprocess has it.
        threads: Threads of each process.
        processes: Processes that do the command together, as under torchrun.
        options: Of subprocess.Popen; `env` has changes of the environment.
    """
    begin = [_COMMAND, *words] if processes == 1 else [_SEVERAL, str(processes), *words]
    capped = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    options["env"] = os.environ | capped | options.get("env", {})
    pipes = {"stdin": subprocess.PIPE, "stdout": output, "stderr": subprocess.STDOUT}  # nothing is written to stdin
    return subprocess.Popen([sys.executable, "-c", *begin], **pipes, **options)


def run_several(words: Sequence[str]) -> int:
    """Runs a command in processes that train together, as torchrun does; the first word is their number.

    Returns:
        0; 2 if a process met a fault that a person must mend; 75 if all were stopped with their state saved; else 1.
        (torchrun's own status is 1 in all these cases but the first.)
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    count, *command = words
    try:
        main(["--standalone", f"--nproc_per_node={count}", "--no-python", sys.executable, "-c", _COMMAND, *command])
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        return 2 if 2 in codes else EXIT_INTERRUPTED if codes == {EXIT_INTERRUPTED} else 1
    except SignalException:
        return EXIT_INTERRUPTED
    return 0


class Children:
    """Runs commands of `resproto` in processes of their own, each on one thread, from several threads of this one."""

    def __init__(self):
        self._lock, self._running, self._stopped = threading.Lock(), set(), False

    @contextmanager
    def started(self, words: Sequence[str]) -> Iterator[subprocess.Popen]:
        """Starts `resproto WORDS`; what it prints, errors too, is the process's `stdout`.

        Raises:
            Interrupted: `stop` was called.
        """
        with self._lock:
            if self._stopped:
                raise Interrupted("stopped")
            process = start(words, subprocess.PIPE, text=True, errors="replace")
            self._running.add(process)
        try:
            yield process
        finally:
            with self._lock:
                self._running.discard(process)
                process.stdin.close()
            process.stdout.close()
            process.wait()

    def stop(self) -> None:
        """Asks every process to stop, and starts no more."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.stdin.close()


def end_with_parent() -> None:
    """Ends this process if its standard input closes: by SIGTERM, and after `GRACE` seconds at once."""
    threading.Thread(target=_end_at_close, daemon=True).start()


def _end_at_close() -> None:
    while os.read(0, 1):
        pass
    if os.name == "nt":  # os.kill would end the process there at once, before its handler
        signal.raise_signal(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(75)
