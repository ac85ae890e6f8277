"""Claims: several sweeps on one folder of runs share its cells, also over NFS, without doing one twice.

A claim is a small file whose name ends in a number. The one with the highest number tells who has the cell. A file is
made by a hard link, which only one of several processes can make, and is never changed or removed: who takes a cell
over, or gives it back, makes the file of the next number. So nothing depends on locks or on clocks that agree.

An owner shows that it lives by a counter in a file, which it raises every few seconds. Others compare the counter over
their own clock. On the owner's machine they ask the system for its process instead, and need not wait.
"""

import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import make_folder, write_text
from resproto_fd.configs.readers.json_reader import read_json

BEAT_EVERY = 10.0
"""Seconds between two beats of an owner."""
STALE_AFTER = 90.0
"""Seconds without a beat after which an owner is taken for dead. NFS may show a file as it was up to 60 seconds ago."""
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
FREE = "free"
"""Stands in a claim's file instead of an owner: the cell was given back."""


class Claims:
    """This process's claims in a folder; a context manager, which gives all of them back at its end.

    Args:
        folder: Where claims are kept; made when missing.
        beat_every, stale_after: See `BEAT_EVERY` and `STALE_AFTER`.
        clock: Seconds of this process's clock.
        owner: Name of this owner, which no other has.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        beat_every: float = BEAT_EVERY,
        stale_after: float = STALE_AFTER,
        clock: Callable[[], float] = time.monotonic,
        owner: str | None = None,
    ):
        self.folder, self.owner = Path(folder), owner or uuid.uuid4().hex
        self._every, self._stale_after, self._clock = beat_every, stale_after, clock
        self._held: dict[str, int] = {}
        self._numbers: dict[str, int] = {}
        self._beats: dict[str, tuple[bytes, float]] = {}
        self._count, self._ended = 0, threading.Event()

    def __enter__(self) -> "Claims":
        make_folder(self.folder / "owners")
        write_text(self.folder / "owners" / f"{self.owner}.json", json.dumps(_this_process()) + "\n")
        self.beat()
        threading.Thread(target=self._beat_on, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self._ended.set()
        for digest in list(self._held):
            with suppress(OSError):
                self.release(digest)

    def _beat_on(self) -> None:
        while not self._ended.wait(self._every):
            with suppress(OSError):  # a server that is away for a while; the next beat may reach it
                self.beat()

    def beat(self) -> None:
        """Shows that this owner lives."""
        self._count += 1
        # Written in place: NFS may go on showing a replaced file's old content under its name.
        descriptor = os.open(self.folder / "owners" / f"{self.owner}.beat", os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.write(descriptor, b"%020d\n" % self._count)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def take(self, digest: str) -> bool:
        """Claims a cell; False if a living owner has it. A claim of a dead owner is taken over."""
        number, owner = self._newest(digest)
        if owner == self.owner and self._held.get(digest) == number:
            return True
        if owner not in (None, FREE) and self.lives(owner):
            return False
        if not self._make(digest, number + 1, self.owner):
            return False  # another one was quicker
        self._held[digest] = number + 1
        return True

    def holds(self, digest: str) -> bool:
        """Whether the cell is still this owner's: one that was stopped for long finds its cells taken over."""
        return digest in self._held and self._newest(digest) == (self._held[digest], self.owner)

    def release(self, digest: str) -> None:
        """Gives a cell back; does nothing if it is not this owner's any more."""
        number = self._held.pop(digest, None)
        if number is not None and self._newest(digest)[0] == number:
            self._make(digest, number + 1, FREE)

    def owner_of(self, digest: str) -> str | None:
        """The living owner of a cell; None if nobody works on it, as far as is known."""
        owner = self._newest(digest)[1]
        return owner if owner not in (None, FREE) and self.lives(owner) else None

    def lives(self, owner: str) -> bool:
        """Whether an owner lives. One on another machine counts as alive until its counter stood still for long."""
        if owner == self.owner:
            return True
        with suppress(OSError, ValueError, LookupError, TypeError, UserError):  # also of a damaged file
            process = read_json(self.folder / "owners" / f"{owner}.json")
            if process["machine"] == _machine():
                return _started(process["pid"]) == process["started"]
        try:
            beat = (self.folder / "owners" / f"{owner}.beat").read_bytes()
        except (OSError, ValueError):  # no such file, or no name of one
            beat = b""
        known, since = self._beats.get(owner, (None, 0.0))
        if beat != known:
            self._beats[owner] = beat, self._clock()
            return True
        return self._clock() - since <= self._stale_after

    def others(self) -> list[str]:
        """The other owners that live, as `lives` tells."""
        names = sorted(path.stem for path in (self.folder / "owners").glob("*.json"))
        return [name for name in names if name != self.owner and self.lives(name)]

    def _path(self, digest: str, number: int) -> Path:
        return self.folder / f"{digest}.{number}"

    def _newest(self, digest: str) -> tuple[int, str | None]:
        """Number and owner of a cell's newest claim; (0, None) if there is none."""
        number = self._numbers.get(digest, 0)
        while self._path(digest, number + 1).exists():
            number += 1
        self._numbers[digest] = number
        return (number, self._path(digest, number).read_text(errors="replace").strip()) if number else (0, None)

    def _make(self, digest: str, number: int, owner: str) -> bool:
        """Makes a claim's file with its content; False if it exists.

        Raises:
            UserError: The file system has no hard links.
        """
        path, own = self._path(digest, number), self.folder / f".{digest}.{self.owner}.part"
        own.write_text(f"{owner}\n")
        try:
            os.link(own, path)
            return True
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise UserError(
                    f"{self.folder}: expected a file system with hard links, by which sweeps share their cells, got "
                    f"'{error.strerror}'; set --out to a folder on another one"
                ) from error
            # A server that answered twice says "exists" of the link that it has just made.
            return path.exists() and os.path.samefile(own, path)
        finally:
            own.unlink(missing_ok=True)


def _this_process() -> dict:
    return {"machine": _machine(), "host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def _machine() -> str:
    """Name of the set of processes that this one can see: the machine since it was started, and its container."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
        return " ".join(parts)
    return f"{parts[0]} {uuid.getnode()} unknown {os.getpid()}"  # no such files: the counters alone decide


def _started(pid: int) -> str | None:
    """When a process of this machine was started, in ticks since the machine was; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *rest = stat.rpartition(")")[2].split()
    return None if state in "ZX" else rest[18]
