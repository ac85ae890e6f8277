"""A lock that one process at a time can hold: a file in the folder that the process works in."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import make_folder


class SoleLock:
    """Keeps other processes out from `acquire` to `release`, which also comes when the process ends.

    Args:
        path: The lock's file; its folder must exist.
    """

    def __init__(self, path: str | os.PathLike):
        self._lock = FileLock(Path(path))

    def acquire(self, patience: float = 0) -> bool:
        """Takes the lock; returns False if another process holds it for longer than `patience` seconds.

        On a file system without locks the process works unprotected, and a note on stderr tells so.
        """
        try:
            self._lock.acquire(timeout=patience)
        except Timeout:
            return False
        except NotImplementedError:
            file = self._lock.lock_file
            print(f"note: {file}: this file system has no locks; do not start a second process there", file=sys.stderr)
        return True

    def release(self) -> None:
        """Gives the lock back; does nothing if it is not held."""
        self._lock.release()


@contextmanager
def held(path: str | os.PathLike, taken: str, patience: float = 0) -> Iterator[None]:
    """Holds a lock in the block.

    Args:
        path: The lock's file; its folder is made.
        taken: The error if another process holds it.
        patience: Seconds to wait for it.

    Raises:
        UserError: That, or the folder cannot be made.
    """
    make_folder(Path(path).parent)
    lock = SoleLock(path)
    if not lock.acquire(patience):
        raise UserError(taken)
    try:
        yield
    finally:
        lock.release()
