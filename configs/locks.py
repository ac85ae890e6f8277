"""A lock that one process at a time can hold: a file in the folder that the process works in."""

import os
import sys
from pathlib import Path

from filelock import FileLock, Timeout


class SoleLock:
    """Keeps other processes out from `acquire` to `release`, which also comes when the process ends.

    Args:
        path: The lock's file; its folder must exist.
    """

    def __init__(self, path: str | os.PathLike):
        self._lock = FileLock(Path(path))

    def acquire(self) -> bool:
        """Takes the lock without waiting; returns False if another process holds it.

        On a file system without locks the process works unprotected, and a note on stderr tells so.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            return False
        except NotImplementedError:
            file = self._lock.lock_file
            print(f"note: {file}: this file system has no locks; do not start a second process there", file=sys.stderr)
        return True

    def release(self) -> None:
        """Gives the lock back; does nothing if it is not held."""
        self._lock.release()
