"""The reader of JSON: no key twice, no NaN, no lone surrogate; bounds on depth and size."""

import json
import math
import os
import re
from collections.abc import Iterator
from typing import Any

from resproto_fd.configs.errors import UnreadableFile, shown
from resproto_fd.configs.readers.text import GIB, MIB, REMEDY, decoded, in_units, read_bytes, whole_number

DEEPEST = 64
"""Levels of objects and lists."""
LARGEST = 256 * MIB
"""Memory that a JSON may need, if the caller sets no other bound."""
LARGEST_MANIFEST = 4 * GIB
"""Memory that a dataset JSON may need. One of 100,000 videos and 3 million frames needs some 0.9 GiB."""
_OBJECT, _LIST, _PAIR, _VALUE = 232, 72, 100, 60
"""Bytes that an object, a list, a key and another value need at most, beside their text."""


def read_json(path: str | os.PathLike, remedy: str = REMEDY, largest: int = LARGEST, file_names: bool = False) -> Any:
    """The value in a JSON file.

    Args:
        path: The file.
        remedy: What to do about a file that cannot be read.
        largest: Memory in bytes that it may need.
        file_names: Whether texts may be names of files that are not UTF-8, as Python keeps them.

    Raises:
        MissingFile: There is none.
        UnreadableFile: See `parse_json` and `text.read_bytes`.
    """
    return parse_json(read_bytes(path, largest // 2, remedy), str(path), remedy, largest, file_names=file_names)


def read_json_object(
    path: str | os.PathLike, remedy: str = REMEDY, largest: int = LARGEST, file_names: bool = False
) -> dict[str, Any]:
    """The object in a JSON file; see `read_json`.

    Raises:
        MissingFile: There is none.
        UnreadableFile: See `read_json`; or it holds another value.
    """
    value = read_json(path, remedy, largest, file_names)
    if not isinstance(value, dict):
        found = f"{type(value).__name__} {shown(value)}"
        raise UnreadableFile(f"{path}: expected an object {{...}}, got {found}; {remedy}")
    return value


def read_json_lines(path: str | os.PathLike, remedy: str = REMEDY, largest: int = LARGEST_MANIFEST) -> Iterator:
    """The objects of a file with a JSON object a line, as (line number, object); empty lines are passed over.

    Raises:
        MissingFile: There is none.
        UnreadableFile: As `read_json_object`; the line is named.
    """
    text = decoded(read_bytes(path, largest // 4, remedy), str(path), remedy)
    start, number = 0, 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        line, start, number = text[start:end], end + 1, number + 1
        if not line.strip():
            continue
        value = parse_json(line, f"{path}:{number}", remedy, what="line of JSON")
        if not isinstance(value, dict):
            found = f"{type(value).__name__} {shown(value)}"
            raise UnreadableFile(f"{path}:{number}: expected {{...}}, got {found}; {remedy}")
        yield number, value


def parse_json(
    text: str | bytes,
    where: str,
    remedy: str = REMEDY,
    largest: int = LARGEST,
    what: str = "JSON",
    file_names: bool = False,
) -> Any:
    """The value of a JSON text.

    Args:
        text: The text, or its bytes in UTF-8.
        where: The file, for messages.
        remedy: What to do about a text that cannot be read.
        largest: Memory in bytes that it may need.
        what: What the text should be, for messages.
        file_names: See `read_json`.

    Raises:
        UnreadableFile: The text is no JSON, or not whole; a key stands twice in one object; a number is NaN or
            infinite, or does not fit 64 bits; a text has a lone surrogate or NUL; it is too deep or too large.
    """
    if not text or text.isspace():
        raise UnreadableFile(f"{where}: not a whole {what} (it is empty); {remedy}")
    try:
        if (needed := _needed(text)) > largest:
            raise UnreadableFile(
                f"{where}: expected a JSON that needs at most {in_units(largest)} of memory, got one that may need "
                f"{in_units(needed)}; {remedy}"
            )
        text = decoded(text, where, remedy) if isinstance(text, bytes) else text
        value = json.loads(
            text, object_pairs_hook=_unique, parse_int=_integer, parse_float=_float, parse_constant=_no_number
        )
        _refuse_depth(value)
        if _SUSPECT.search(text):
            _refuse_strange_text(value, "surrogateescape" if file_names else "strict")
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise UnreadableFile(f"{where}: not a whole {what} ({place}: {error.msg}); {remedy}") from error
    except _Fault as fault:
        raise UnreadableFile(f"{where}: {fault}; {remedy}") from None
    except RecursionError:
        raise UnreadableFile(f"{where}: expected at most {DEEPEST} levels, got more; {remedy}") from None
    except MemoryError:
        raise UnreadableFile(
            f"{where}: cannot be read: not enough memory; leave more to this command, or {remedy}"
        ) from None
    return value


_OTHER = bytes(set(range(256)) - set(b"{[:,"))


class _Fault(Exception):
    """What is wrong, without the file."""


_SUSPECT = re.compile(r"\\u[0dD]")


def _needed(text: str | bytes) -> int:
    """Bytes of memory that a text and its value need at most, nearly."""
    letters = len(text) * (1 if text.isascii() else 4)
    marks = text.translate(None, _OTHER) if isinstance(text, bytes) else text  # one pass instead of four
    objects, lists, pairs, values = (marks.count(mark) for mark in (b"{[:," if isinstance(marks, bytes) else "{[:,"))
    return 2 * letters + objects * _OBJECT + lists * _LIST + pairs * _PAIR + values * _VALUE


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _Fault(f"key {shown(twice)} stands twice in one object (its keys: {shown(list(found))})")
    return found


def _integer(text: str) -> int:
    try:
        return whole_number(text)
    except ValueError as error:
        raise _Fault(str(error)) from None


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Fault(f"expected a number that fits 64 bits, got {shown(text)}")
    return value


def _no_number(name: str):
    raise _Fault(f"{name} is not a number of a result or a list; undefined is null")


def _refuse_depth(value: Any) -> None:
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(DEEPEST):
        if not level:
            return
        deeper: list = []
        for each in level:
            inner = each.values() if type(each) is dict else each
            if not _CONTAINERS.isdisjoint(map(type, inner)):
                deeper += [one for one in inner if type(one) in _CONTAINERS]
        level = deeper
    raise _Fault(f"expected at most {DEEPEST} levels, got more")


_CONTAINERS = {dict, list}


def _refuse_strange_text(value: Any, errors: str) -> None:
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            waiting += [*each, *each.values()]
        elif isinstance(each, list):
            waiting += each
        elif isinstance(each, str) and not _is_plain(each, errors):
            raise _Fault(f"expected text without NUL and lone surrogates, got {shown(each)}")


def _is_plain(text: str, errors: str) -> bool:
    try:
        text.encode(errors=errors)
    except UnicodeEncodeError:
        return False
    return "\0" not in text
