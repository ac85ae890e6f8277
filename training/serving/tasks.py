"""What goes between a server and its workers. It is light to import: a server needs no PyTorch."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """A file to answer.

    Attributes:
        path: Where it lies; its name there has no suffix.
        name: What the reader calls it; it is shown, and is no path.
    """

    path: str
    name: str


@dataclass(frozen=True)
class Outcome:
    """What became of a file.

    Attributes:
        status: HTTP status: 200 answered, 413 too large or too long, 422 it cannot be read, or another fault.
        text: A sentence, if it was not answered.
        row: Its line of `answers.jsonl`, if it was.
        report: The page of `resproto predict` about it, if it was answered.
    """

    status: int
    text: str = ""
    row: dict[str, Any] | None = None
    report: str = ""


@dataclass(frozen=True)
class Opinionated:
    """A run that judges here: its name, what its verdicts mean, and notes."""

    name: str
    meaning: list[str]
    notes: list[str]
