"""Files as text: UTF-8 alone, of bounded size, without NUL; and numbers in text."""

import codecs
import os
import re
import stat

from resproto_fd.configs.errors import MissingFile, UnreadableFile, shown

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
REMEDY = "copy or make it again"
LARGEST_NUMBER = 2**63 - 1
"""Integers of files and settings fit 64 bits."""


def kind_instead(path: str | os.PathLike) -> str | None:
    """What stands in a file's place; None if it is a regular file, or a link to one.

    It is asked before a stored file is opened: to open a pipe that nobody writes to takes for ever.

    Raises:
        OSError: There is nothing, or the system does not tell.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode):
        return None
    return next((name for is_one, name in _KINDS if is_one(mode)), "something else")


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def read_bytes(path: str | os.PathLike, limit: int, remedy: str = REMEDY, pipes: bool = False) -> bytes:
    """The bytes of a file.

    Args:
        path: The file.
        limit: Most bytes that it may have; no more are read.
        remedy: What to do about a file that cannot be read.
        pipes: Whether it may be a pipe or a device, as of a list that a user typed as `<(...)`.

    Raises:
        MissingFile: There is none.
        UnreadableFile: It is longer, is no regular file, or cannot be read.
    """
    try:
        if not pipes and (found := kind_instead(path)):
            raise UnreadableFile(f"{shown_path(path)}: cannot be read: expected a file, got {found}; {remedy}")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            parts = [file.read(size) if size <= limit else b""]
            while size <= limit and (part := file.read(MIB)):  # pipes tell no size
                parts.append(part)
                size = sum(map(len, parts))
        data = b"".join(filter(None, parts))
    except FileNotFoundError:
        raise MissingFile(f"{path}: cannot be read: no such file") from None
    except (OSError, ValueError, MemoryError) as error:  # ValueError: NUL in the path
        reason = getattr(error, "strerror", None) or error or "not enough memory"
        raise UnreadableFile(f"{shown_path(path)}: cannot be read: {reason}") from error
    if size > limit:
        raise UnreadableFile(f"{path}: expected at most {in_units(limit)}, got more; {remedy}")
    return data


def read_text(path: str | os.PathLike, limit: int, remedy: str = REMEDY, pipes: bool = False) -> str:
    """The text of a file, see `read_bytes` and `decoded`."""
    return decoded(read_bytes(path, limit, remedy, pipes), str(path), remedy)


def decoded(data: bytes, where: str, remedy: str = REMEDY) -> str:
    """Bytes as text. A byte order mark of UTF-8, as Windows writes it, is dropped.

    Args:
        data: The bytes.
        where: The file, for messages.
        remedy: What to do about text that cannot be read.

    Raises:
        UnreadableFile: They are not UTF-8, or hold NUL. The line is named.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnreadableFile(f"{where}: expected UTF-8, got UTF-16; save it as UTF-8")
    if (place := data.find(b"\0")) >= 0:
        line = data.count(b"\n", 0, place) + 1
        raise UnreadableFile(f"{where}: line {line}: expected text in UTF-8, got a NUL; {remedy}, or save it as UTF-8")
    try:
        return str(memoryview(data)[3:] if data.startswith(codecs.BOM_UTF8) else data, "utf-8")
    except UnicodeDecodeError as error:
        byte, line = error.object[error.start], data.count(b"\n", 0, error.start) + 1
        found = f"line {line}: expected UTF-8, got the byte 0x{byte:02x}"
        raise UnreadableFile(f"{where}: {found}; save it as UTF-8") from error
    except MemoryError as error:
        raise UnreadableFile(f"{where}: cannot be read: not enough memory") from error


def shown_path(path: str | os.PathLike) -> str:
    """A path as a message prints it, also if it has NUL or other control characters."""
    text = os.fspath(path)
    return text if isinstance(text, str) and text.isprintable() else shown(text)


def in_units(count: int) -> str:
    """A number of bytes in words.

    >>> in_units(1 << 20), in_units(3 << 30), in_units(5)
    ('1 MiB', '3 GiB', '5 bytes')
    """
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} bytes"


_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]{1,6})?")
LONGEST_NUMBER = 400


def is_number(text: str) -> bool:
    """Whether a text is a decimal number in ASCII digits: no `0_1`, no digits of other scripts, no `inf`, no `nan`.

    >>> [is_number(text) for text in ("0.5", "1e-3", "0_1", "nan", "")]
    [True, True, False, False, False]
    """
    return len(text) <= LONGEST_NUMBER and _NUMBER.fullmatch(text) is not None


def whole_number(text: str) -> int:
    """The integer that a text of ASCII digits is.

    Raises:
        ValueError: It is another text, or does not fit 64 bits.
    """
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        raise ValueError(f"expected an integer of 64 bits, got {shown(text)}")
    value = int(text)
    if not -LARGEST_NUMBER <= value <= LARGEST_NUMBER:
        raise ValueError(f"expected an integer of 64 bits, got {shown(text)}")
    return value
