"""What a server takes at most."""

from dataclasses import dataclass

from resproto_fd.configs.errors import UserError, shown
from resproto_fd.configs.readers.text import MIB

LONGEST = 86_400
"""Seconds, one day."""


@dataclass(frozen=True)
class Limits:
    """Most of everything that a stranger's file may take.

    Attributes:
        upload: MiB of a file.
        film: Seconds that a film lasts.
        pixels: Pixels of a picture, or of a film's frame.
        seconds: Seconds until a file has come; and, after that, until it is answered.
        memory: GiB that a worker may take for one file, beside what it needs for its runs. It holds on Linux.
        workers: Processes, each of which answers one file at a time.
        queue: Files that may wait for a worker.
    """

    upload: int = 200
    film: float = 600.0
    pixels: int = 50_000_000
    seconds: float = 120.0
    memory: float = 4.0
    workers: int = 1
    queue: int = 8

    def __post_init__(self) -> None:
        ranges = {
            "upload": (1, 1 << 20),
            "film": (0.1, LONGEST),
            "pixels": (1, 10**10),
            "seconds": (0.1, LONGEST),
            "memory": (0.25, 1 << 20),
            "workers": (1, 1024),
            "queue": (0, 10_000),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise UserError(f"--{name}: expected {low:,} to {high:,}, got {shown(value)}")

    @property
    def bytes(self) -> int:
        """Bytes of a file."""
        return self.upload * MIB

    @property
    def places(self) -> int:
        """Files that are in the house at the same time."""
        return self.workers + self.queue
