"""The reader of CSV: a header without repeated names, as many cells in each line; bounds on lines."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from resproto_fd.configs.errors import MissingFile, UnreadableFile, shown
from resproto_fd.configs.readers.text import MIB, kind_instead

LONGEST_LINE = MIB
"""Characters of a line."""
MOST_COLUMNS = 1000


class Table(NamedTuple):
    """A CSV that is being read: its header, and its lines as (line number, cells)."""

    header: list[str]
    lines: Iterator[tuple[int, list[str]]]


def read_csv(path: str | os.PathLike, columns: Sequence[str] = ()) -> Table:
    """A CSV in UTF-8, line by line; empty lines are passed over.

    Args:
        path: The file.
        columns: What the header must have, in any order, among others.

    Raises:
        MissingFile: There is none.
        UnreadableFile: It is empty or cannot be read; the header has too many columns, or one twice, or lacks one; and,
            while it is read, a line has more or fewer cells than the header, is too long, or holds NUL or other bytes
            than UTF-8.
    """
    lines = read_csv_lines(path)
    _, header = next(lines, (1, []))
    if len(header) > MOST_COLUMNS:
        raise UnreadableFile(f"{path}: line 1: expected at most {MOST_COLUMNS} columns, got {len(header)}")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise UnreadableFile(f"{path}: line 1: column {shown(twice[0])} stands twice; name each column once")
    lacking = [column for column in columns if column not in header]
    if lacking or not header:
        raise UnreadableFile(
            f"{path}: lacks the column {', '.join(lacking)}; expected {', '.join(columns)}, "
            f"got {shown(header) if header else 'nothing'}"
        )
    return Table(header, _of_width(path, lines, len(header)))


def _of_width(path, lines: Iterator[tuple[int, list[str]]], width: int) -> Iterator[tuple[int, list[str]]]:
    for number, cells in lines:
        if len(cells) != width:
            found = f"expected {width} cells, got {len(cells)}"
            raise UnreadableFile(f"{path}: line {number} has more or fewer fields than the header: {found}")
        yield number, cells


def read_csv_lines(path: str | os.PathLike) -> Iterator[tuple[int, list[str]]]:
    """The lines of a CSV that may have no header, as (line number, cells); empty lines are passed over.

    Raises:
        MissingFile: There is none.
        UnreadableFile: It cannot be read; or a line is too long, or holds NUL or other bytes than UTF-8.
    """
    try:
        if found := kind_instead(path):  # a pipe can be read once, and its digest is kept as well
            raise UnreadableFile(f"{path}: cannot be read: expected a file, got {found}; write it to a file first")
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(_plain_lines(file, path), strict=True)
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
    except FileNotFoundError:
        raise MissingFile(f"{path}: cannot be read: no such file") from None
    except UnicodeDecodeError as error:
        raise UnreadableFile(f"{path}: expected a CSV in UTF-8, got other bytes ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise UnreadableFile(f"{path}: line {reader.line_num}: not a readable CSV: {error}") from error
    except (OSError, ValueError, MemoryError) as error:
        raise UnreadableFile(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _plain_lines(file: io.TextIOBase, path) -> Iterator[str]:
    number = 0
    while line := file.readline(LONGEST_LINE + 1):
        number += 1
        if len(line) > LONGEST_LINE:
            raise UnreadableFile(f"{path}: line {number}: expected at most {LONGEST_LINE} characters, got more")
        if "\0" in line:
            raise UnreadableFile(f"{path}: line {number}: expected text in UTF-8, got a NUL; save it as UTF-8")
        yield line
