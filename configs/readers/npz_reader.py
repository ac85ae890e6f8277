"""The reader of npz files: known arrays of known kinds, whose sizes are checked before anything is unpacked."""

import io
import os
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import numpy as np
from numpy.lib import format as npy

from resproto_fd.configs.errors import MissingFile, UnreadableFile, shown
from resproto_fd.configs.readers.text import GIB, MIB, in_units, kind_instead

LARGEST = GIB
"""Bytes of a file's arrays. A score table of 3 million frames and 100,000 videos has some 0.1 GiB."""
MOST_MEMBERS = 1000
_LARGEST_FILE = 64 * MIB
"""Bytes that a file may have beyond those of its arrays: names and checksums of its members."""
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_PARSING = threading.Lock()
"""Held while NumPy parses a header. Python 3.11 mixes up the depths of two threads that parse at once (SystemError)."""


def _start_afresh_in_child() -> None:
    """Makes the lock anew: a thread that the child does not have may hold it."""
    global _PARSING
    _PARSING = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_in_child)


@dataclass(frozen=True)
class Kind:
    """What an array must be.

    Attributes:
        kinds: Letters of `numpy.dtype.kind`: "b" true or false, "i" and "u" integers, "f" floats, "U" text.
        dimensions: How many.
        needed: Whether the file must have it.
    """

    kinds: str
    dimensions: int
    needed: bool = True


def read_npz(
    path: str | os.PathLike, members: Mapping[str, Kind], remedy: str = "make it again", largest: int = LARGEST
) -> dict[str, np.ndarray]:
    """The arrays of an npz file; pickled objects are never read.

    Args:
        path: The file.
        members: What it may have. A name that ends in "/" stands for all names that begin so.
        remedy: What to do about a file that cannot be read.
        largest: Bytes that the arrays may have together.

    Raises:
        MissingFile: There is none.
        UnreadableFile: It is no npz file, is damaged or too large, lacks an array or has one that is not known, twice,
            or of another kind. Arrays are named.
    """
    with _named(path, remedy):
        if found := kind_instead(path):
            raise _Fault(f"cannot be read: expected a file, got {found}")
        with open(path, "rb") as opened, zipfile.ZipFile(opened) as archive:
            size = os.fstat(opened.fileno()).st_size
            return _arrays(archive, size, members, largest)


def parse_npy(data: bytes, where: str, name: str, kind: Kind, remedy: str = "make it again") -> np.ndarray:
    """The array of an npy file's bytes; pickled objects are never read, and nothing beyond the bytes is reserved.

    Args:
        data: The bytes.
        where: Where they stand, for messages.
        name: What the array is called there.
        kind: What the array must be.
        remedy: What to do if they cannot be read.

    Raises:
        UnreadableFile: They are no npy file, are damaged, or hold an array of another kind.
    """
    with _named(where, remedy):
        return _array(io.BytesIO(data), len(data), name, kind)


@contextmanager
def _named(path: str | os.PathLike, remedy: str) -> Iterator[None]:
    """Names the file in what NumPy, zipfile and the checks here raise."""
    try:
        yield
    except FileNotFoundError:
        raise MissingFile(f"{path}: cannot be read: no such file") from None
    except _Fault as fault:
        raise UnreadableFile(f"{path}: {fault}; {remedy}") from None
    except (OSError, ValueError, LookupError, EOFError, TypeError, AttributeError, ArithmeticError) as error:
        raise UnreadableFile(f"{path}: cannot be read ({_reason(error)}); {remedy}") from error
    except (RuntimeError, MemoryError, SyntaxError, zipfile.BadZipFile, zlib.error, tokenize.TokenError) as error:
        raise UnreadableFile(f"{path}: cannot be read ({_reason(error)}); {remedy}") from error


class _Fault(Exception):
    """What is wrong, without the file."""


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {shown(str(error))[1:-1]}"


def _arrays(archive: zipfile.ZipFile, size: int, members: Mapping[str, Kind], largest: int) -> dict[str, np.ndarray]:
    entries = archive.infolist()
    if len(entries) > MOST_MEMBERS:
        raise _Fault(f"expected at most {MOST_MEMBERS} arrays, got {len(entries)}")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > largest or size > largest + _LARGEST_FILE:
        raise _Fault(f"expected at most {in_units(largest)} of arrays, got {in_units(max(unpacked, size))}")
    names = {entry.filename.removesuffix(".npy") for entry in entries}
    if lacking := [name for name, kind in members.items() if kind.needed and name not in names and name[-1] != "/"]:
        raise _Fault(f"it lacks {', '.join(map(repr, lacking))}")
    found: dict[str, np.ndarray] = {}
    for entry in entries:
        name = entry.filename.removesuffix(".npy")
        group, slash, _ = name.partition("/")
        kind = members.get(group + slash) if slash else members.get(name)
        if kind is None or not entry.filename.endswith(".npy"):
            raise _Fault(f"unknown array {shown(name)}; known: {', '.join(members)}")
        if name in found:
            raise _Fault(f"array {shown(name)} stands twice")
        if entry.compress_type not in _PACKINGS or entry.flag_bits & 1:
            raise _Fault(f"array {shown(name)} is packed in another way than npz files are, or encrypted")
        with archive.open(entry) as file:
            found[name] = _array(file, entry.file_size, name, kind)
    return found


def _array(file: IO[bytes], size: int, name: str, kind: Kind) -> np.ndarray:
    version = npy.read_magic(file)
    read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if read_header is None:
        raise _Fault(f"array {shown(name)} is of version {version}, expected 1.0 or 2.0")
    with _PARSING:
        shape, by_columns, dtype = read_header(file)
    if dtype.hasobject:
        raise _Fault(f"array {shown(name)} holds pickled objects, which are never read (allow_pickle is off)")
    if dtype.kind not in kind.kinds or dtype.names or len(shape) != kind.dimensions or dtype.itemsize < 1:
        wanted = " or ".join(_WORDS[letter] for letter in kind.kinds)
        raise _Fault(
            f"array {shown(name)}: expected {wanted} with {kind.dimensions} dimensions, got {dtype} {shown(shape)}"
        )
    count = 1
    for length in shape:
        count *= int(length)
    if count < 0 or count * dtype.itemsize != size - file.tell():
        raise _Fault(f"array {shown(name)}: its data are not as long as its shape {shown(shape)} tells")
    array = np.empty(count, dtype)
    data, place = memoryview(array.view(np.uint8)), 0
    while read := file.readinto(data[place : place + MIB]):
        place += read
    if place != len(data) or file.read(1):  # the end is read too: there the checksum is compared
        raise _Fault(f"array {shown(name)}: its data are not as long as the file tells")
    array = array.reshape(shape, order="F" if by_columns else "C").astype(dtype.newbyteorder("="), copy=False)
    if dtype.kind == "U":
        _refuse_strange_text(array, name)
    return array


_WORDS = {"b": "true or false", "i": "integers", "u": "integers without sign", "f": "floats", "U": "text"}


def _refuse_strange_text(array: np.ndarray, name: str) -> None:
    """Refuses what is no Unicode text: NumPy keeps any 32 bits as a letter. NUL fills up a text at its end alone."""
    if not array.dtype.itemsize or not array.size:
        return
    letters = np.ascontiguousarray(array).reshape(-1).view(np.uint32).reshape(array.size, -1)
    strange = (letters > 0x10FFFF) | ((letters >= 0xD800) & (letters <= 0xDFFF))
    strange[:, :-1] |= (letters[:, :-1] == 0) & (letters[:, 1:] != 0)
    if strange.any():
        raise _Fault(f"array {shown(name)}: text {int(strange.any(1).argmax())} holds NUL or what is no character")
