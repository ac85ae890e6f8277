"""Pages of an LMDB file, read without mapping it: whether any are missing, and whether its index is sound.

LMDB itself trusts the file: a page beyond its end kills the process with a bus error, and a cursor that meets a page of
another kind aborts it. The layout is that of LMDB 0.9's mdb.c (data version 1) on 64-bit little-endian machines; of
other files nothing is told.
"""

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

_PAGE = struct.Struct("<QHHHH")  # number, padding, flags, and the bounds of the free space or a count
_META = struct.Struct("<IIQQ")
_TREE = struct.Struct("<IHHQQQQQ")
_NODE = struct.Struct("<HHHH")
_LAST = struct.Struct("<QQ")
MAGIC, VERSION = 0xBEEFC0DE, 1
BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8
IN_OVERFLOW, IS_TREE = 1, 2
NO_PAGE = 2**64 - 1
DEEPEST = 32
LONGEST_FREE_LIST = 8 << 20
"""Bytes of one list of free pages. LMDB's are at most 1 MiB (MDB_IDL_UM_SIZE)."""


class _Damaged(Exception):
    """A page is not what its place in the file says; the message tells which."""


class _Node(NamedTuple):
    key: bytes
    flags: int
    value: bytes
    length: int


@dataclass
class IndexFaults:
    """What a walk over the index found.

    Attributes:
        pages: The damaged pages, in words.
        keys: Keys of each tree whose pages could be read, by the tree's name; b"" is the main one.
    """

    pages: list[str] = field(default_factory=list)
    keys: dict[bytes, list[bytes]] = field(default_factory=dict)


class LmdbPages:
    """The pages of a data.mdb, read one by one.

    Args:
        path: The file.

    Attributes:
        known: Whether its layout is one that is understood here; if not, nothing else may be asked.
        size: Its bytes.
    """

    def __init__(self, path: str | os.PathLike):
        self._file = open(path, "rb")  # noqa: SIM115  (this object is the context manager)
        self._page_size = 0
        metas = [meta for meta in map(self._meta, range(2)) if meta]
        self.size = os.fstat(self._file.fileno()).st_size  # after the pages' number: the file may grow
        self.known = bool(metas)
        if self.known:
            _, self._free, self._main, last = max(metas)
            self._pages = last + 1

    def __enter__(self) -> "LmdbPages":
        return self

    def __exit__(self, *_) -> None:
        self._file.close()

    def _read(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        return self._file.read(length)

    def _meta(self, number: int) -> tuple[int, int, int, int] | None:
        """Reads a meta page: (transaction, root of the free list, root of the main tree, last page)."""
        data = self._read(number * self._page_size, 4096)
        if len(data) < 152 or _META.unpack_from(data, 16)[:2] != (MAGIC, VERSION):
            return None
        free, main = (_TREE.unpack_from(data, 40 + 48 * i) for i in range(2))
        last, transaction = _LAST.unpack_from(data, 136)
        if number == 0:
            self._page_size = free[0]
        if not 512 <= self._page_size <= 1 << 16:
            return None
        return transaction, free[-1], main[-1], last

    def missing_bytes(self) -> int:
        """Counts the bytes by which the file is too short; 0 if every page in use is there.

        A sound file may lack pages at its end: those that were freed before they were written.
        """
        first = self.size // self._page_size
        if first >= self._pages:
            return 0
        try:
            free = {number for number in self._free_numbers() if number >= first}
        except _Damaged:
            free = set()
        needed = self._pages
        while needed > first and needed - 1 in free:
            needed -= 1
        return max(0, needed * self._page_size - self.size) if needed > first else 0

    def index_faults(self) -> IndexFaults:
        """Reads every page of the index, those with the values' keys; pages with long values are not read."""
        found = IndexFaults()
        self._walk(b"", self._main, found, set())
        return found

    def _walk(self, name: bytes, root: int, found: IndexFaults, seen: set[int]) -> None:
        keys, inner = found.keys.setdefault(name, []), []
        for node in self._nodes(root, found.pages, seen):
            keys.append(node.key)
            if node.flags & IS_TREE and not name and len(node.value) == _TREE.size:
                inner.append((node.key, _TREE.unpack(node.value)[-1]))
        for below, start in inner:
            self._walk(below, start, found, seen)

    def _free_numbers(self) -> Iterator[int]:
        for node in self._nodes(self._free, None, set()):
            value = self._long_value(node) if node.flags & IN_OVERFLOW else node.value
            count = int.from_bytes(value[:8], "little")
            if 8 + 8 * count > len(value):
                raise _Damaged("the list of free pages")
            yield from struct.unpack_from(f"<{count}Q", value, 8)

    def _long_value(self, node: _Node) -> bytes:
        number = int.from_bytes(node.value, "little")
        if node.length > LONGEST_FREE_LIST:
            raise _Damaged("the list of free pages")
        self._page(number, (OVERFLOW,))
        return self._read(number * self._page_size + _PAGE.size, node.length)

    def _nodes(
        self, root: int, faults: list[str] | None, seen: set[int], above: tuple[int, ...] = ()
    ) -> Iterator[_Node]:
        """Yields the nodes of a tree's leaves in order. Damaged pages are listed; without a list they are an error.

        Pages that were `seen` are damage: a walk over an index in which many pages lead to one might never end.
        """
        if root == NO_PAGE:
            return
        try:
            if len(above) > DEEPEST or root in above:
                raise _Damaged(f"page {root} lies {'within itself' if root in above else 'too deep'}")
            if root in seen:
                raise _Damaged(f"page {root} lies in two places")
            seen.add(root)
            data, flags = self._page(root, (BRANCH, LEAF))
            nodes = list(self._read_nodes(root, data, flags))
        except _Damaged as error:
            if faults is None:
                raise
            faults.append(str(error))
            return
        for node in nodes:
            if flags & LEAF:
                yield node
            else:
                yield from self._nodes(node.length, faults, seen, (*above, root))

    def _page(self, number: int, kinds: tuple[int, ...]) -> tuple[bytes, int]:
        there = number < min(self._pages, self.size // self._page_size)
        data = self._read(number * self._page_size, self._page_size) if there else b""
        if len(data) < self._page_size:
            raise _Damaged(f"page {number} is missing")
        stated, _, flags, _, _ = _PAGE.unpack_from(data)
        if stated != number or flags & (BRANCH | LEAF | OVERFLOW | META) not in kinds:
            zero = "holds zeros" if not any(data) else "is damaged"
            raise _Damaged(f"page {number} {zero}")
        return data, flags

    def _read_nodes(self, number: int, data: bytes, flags: int) -> Iterator[_Node]:
        lower = _PAGE.unpack_from(data)[3]
        if not _PAGE.size <= lower <= self._page_size:
            raise _Damaged(f"page {number} is damaged")
        for place in struct.unpack_from(f"<{(lower - _PAGE.size) // 2}H", data, _PAGE.size):
            if place + _NODE.size > len(data):
                raise _Damaged(f"page {number} is damaged")
            low, high, more, key_size = _NODE.unpack_from(data, place)
            key_end = place + _NODE.size + key_size
            key, length = data[place + _NODE.size : key_end], low | high << 16
            if flags & BRANCH:
                yield _Node(key, 0, b"", length | more << 32)
            else:
                held = 8 if more & IN_OVERFLOW else length
                if key_end + held > len(data):
                    raise _Damaged(f"page {number} is damaged")
                yield _Node(key, more, data[key_end : key_end + held], length)
