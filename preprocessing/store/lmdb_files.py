"""LMDB files: forms of keys, one open environment for each path in a process, and writing without a known size."""

import os
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from resproto_fd.configs.errors import MissingFile, UserError, cut, shown
from resproto_fd.configs.readers.json_reader import parse_json
from resproto_fd.configs.readers.text import MIB, read_bytes
from resproto_fd.preprocessing.store.lmdb_pages import LmdbPages

STATEMENT_KEY = b"resproto_fd"
"""Key of a packed store's statement about its content, JSON. No frame has it: a frame's key has a data set folder."""
STORE_FORMAT = 1
DIGESTS = b"resproto_fd/digests"
"""Name of the inner database with the SHA-256 of every value, under the value's own key."""
SEAL = "packed.json"
"""File beside a packed store's data.mdb: its statement, and the size that data.mdb must have."""
MAP_SIZE = 1 << 30
"""First size of the map in bytes; it is doubled whenever it is full."""
ROOM_TO_GROW = 1 << 39 if os.name == "posix" and sys.maxsize > 1 << 32 else 0
"""Bytes by which a store may grow while it is open for reading. They are addresses, and take no memory."""
LONGEST_KEY = 511
"""Longest key in bytes that every build of LMDB takes."""


def windows_key(path: str) -> bytes:
    """Writes a canonical path as DeepfakeBench's released LMDBs and JSONs do."""
    return path.replace("/", "\\").encode()


def linux_key(path: str) -> bytes:
    """Writes a canonical path as DeepfakeBench's script does on Linux: a backslash after the data set folder only."""
    return path.replace("/", "\\", 1).encode()


KEY_FORMS = (windows_key, linux_key, str.encode)


def checked_key(store: Path, path: str, data: bytes) -> bytes:
    """Returns the key under which a file's bytes are written.

    Raises:
        UserError: There are no bytes, or the path is too long for LMDB.
    """
    key = windows_key(path)
    if not data:
        raise UserError(f"{store}: {path}: no bytes to store")
    if len(key) > LONGEST_KEY:
        raise UserError(f"{store}: {path}: the key has {len(key)} bytes; a key has {LONGEST_KEY} at most")
    return key


def text(key: bytes) -> str:
    """Decodes a key for messages."""
    return bytes(key).decode(errors="replace")


def is_frame_key(key: bytes) -> bool:
    """Whether a key is a file's, and not one of the two that a packed store has for itself."""
    return key not in (STATEMENT_KEY, DIGESTS)


# --- reading ---------------------------------------------------------------------------------------------------


class Opened(NamedTuple):
    """Environment that is open for reading, identity of its file, and the store's statement."""

    environment: lmdb.Environment
    identity: tuple[int, int]
    statement: dict[str, Any] | None


# LMDB forbids a process to open a path twice; several data sets may have one path, such as FF-DF and FF-NT.
_opened: dict[str, Opened] = {}
_lock = threading.Lock()


def opened(real_path: str, identity: tuple[int, int] | None = None) -> Opened:
    """Returns this process's environment of a path; the first call opens it.

    Args:
        real_path: The store's folder.
        identity: That of the store's file, if this run has opened it before, perhaps in another process. The same file
            is then found while `resproto pack` adds to it, under its other name, and taken although it is incomplete.

    Raises:
        UserError: It is no readable LMDB, cut short, packed only in part, or packed in an unknown format.
    """
    known = _opened.get(real_path)
    if known is None:
        with _lock:
            known = _opened.get(real_path)
            if known is None:
                known = _opened[real_path] = _open(real_path, identity)
    return known


def partial_of(path: str | os.PathLike) -> Path:
    """Returns the hidden folder beside a store's path, in which the store is while it is written."""
    return Path(path).parent / f".{Path(path).name}.partial"


def _open(real_path: str, identity: tuple[int, int] | None) -> Opened:
    for place in (real_path, str(partial_of(real_path)), real_path) if identity else ():
        with suppress(OSError):  # it may get its other name at any moment
            if _identity(place) == identity:
                environment = _environment(place)
                return Opened(environment, identity, read_statement(environment, place))
    try:
        refuse_cut(real_path)
    except OSError as error:
        raise UserError(f"{real_path}: not a readable LMDB ({error}); copy or pack it again") from error
    environment = _environment(real_path)
    try:
        statement = read_statement(environment, real_path)
        if statement is not None and not statement["complete"]:
            raise UserError(
                f"{real_path}: only part of it is packed; finish it with the `resproto pack` command that began it"
            )
        return Opened(environment, _identity(real_path), statement)
    except BaseException:
        environment.close()
        raise


def _environment(folder: str, room: int = ROOM_TO_GROW) -> lmdb.Environment:
    try:
        size = os.path.getsize(os.path.join(folder, "data.mdb")) + room
        # Readahead stays on: a frame spans 25 pages, and one by one from a cold disk they take ten times longer.
        return lmdb.open(folder, create=False, readonly=True, lock=False, max_dbs=1, map_size=size)
    except (OSError, MemoryError, lmdb.Error) as error:
        if room:
            return _environment(folder, 0)  # addresses may be limited, as by `ulimit -v`
        raise UserError(f"{folder}: not a readable LMDB ({error}); copy or pack it again") from error


def refuse_cut(real_path: str) -> None:
    """Refuses a file that is cut short, before it is mapped: a page beyond its end would kill this process.

    Raises:
        UserError: Pages of data.mdb are missing, or its seal is damaged.
        OSError: It cannot be read.
    """
    with LmdbPages(os.path.join(real_path, "data.mdb")) as pages:
        size, shortfall = pages.size, pages.missing_bytes() if pages.known else 0
    sealed = read_seal(Path(real_path))
    if sealed is not None:
        shortfall = max(shortfall, sealed["bytes"] - size)
    if shortfall > 0:
        raise UserError(f"{real_path}: data.mdb is cut short, {shortfall} bytes are missing; copy or pack it again")


def read_seal(path: Path) -> dict[str, Any] | None:
    """Reads the file beside a packed store; None if there is none.

    Raises:
        UserError: It cannot be read, or lacks the size of data.mdb.
    """
    seal, remedy = path / SEAL, "copy or pack the store again"
    try:
        found = parse_json(read_bytes(seal, MIB, remedy), f"{seal}: damaged", remedy)
    except MissingFile:
        return None
    if not isinstance(found, dict) or type(found.get("bytes")) is not int:
        raise UserError(f"{seal}: damaged: expected an object with 'bytes', got {shown(found)}; {remedy}")
    return found


def read_statement(environment: lmdb.Environment, where: str) -> dict[str, Any] | None:
    """Reads a packed store's statement; None for other LMDBs.

    Raises:
        UserError: It cannot be read, has another format, or lacks a key.
    """
    try:
        with environment.begin() as transaction:
            value = transaction.get(STATEMENT_KEY)
    except lmdb.Error as error:
        raise UserError(
            f"{where}: the store's statement is damaged ({cut(str(error))}); copy or pack it again"
        ) from error
    if value is None:
        return None
    statement = parse_json(value, f"{where}: the store's statement is damaged", "copy or pack it again")
    if isinstance(statement, dict) and "format" in statement and statement["format"] != STORE_FORMAT:
        raise UserError(
            f"{where}: packed in format {shown(statement['format'])} by {cut(str(statement.get('tool')))}; this "
            f"version reads format {STORE_FORMAT}"
        )
    if fault := _fault_of(statement):
        raise UserError(f"{where}: the store's statement is damaged ({fault}); copy or pack it again")
    return statement


def _fault_of(statement: Any) -> str | None:
    """Finds what is wrong with a statement's keys; None if nothing is."""
    if not isinstance(statement, dict):
        return f"expected an object, got {type(statement).__name__}"
    wanted = {"format": int, "complete": bool, "codec": str, "sources": list}
    wanted |= {"values": int, "content": str} if statement.get("complete") is True else {"packing": dict}
    for key, kind in wanted.items():
        if type(statement.get(key)) is not kind:
            return f"'{key}': expected {kind.__name__}, got {type(statement.get(key)).__name__}"
    if not all(isinstance(source, dict) and "request" in source for source in statement["sources"]):
        return "'sources': expected objects with 'request'"
    return None


def _identity(real_path: str) -> tuple[int, int]:
    status = os.stat(os.path.join(real_path, "data.mdb"))
    return status.st_dev, status.st_ino


def forget_if_replaced(real_path: str) -> None:
    """Closes a path's environment if another file is there now."""
    known = _opened.get(real_path)
    if known is not None and known.identity != _identity(real_path):
        forget(real_path)


def forget(real_path: str) -> None:
    """Closes this process's environment of a path, if one is open."""
    with _lock:
        known = _opened.pop(real_path, None)
        if known is not None:
            known.environment.close()


def close_all() -> None:
    """Closes every LMDB that this process has open. Stores stay valid: the next read opens them again."""
    for real_path in list(_opened):
        forget(real_path)


def _start_afresh_in_child() -> None:
    """Closes inherited environments: they do not survive fork, and lmdb refuses to open a path again before that."""
    global _lock
    _lock = threading.Lock()
    close_all()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_in_child)


# --- writing ---------------------------------------------------------------------------------------------------


class GrowingLmdb:
    """LMDB that is open for writing. Its map is doubled whenever it is full.

    Args:
        folder: Folder of the LMDB; it is made if it is missing.
        name: Name of the store in messages.
        durable: Whether each transaction is on the disk when `write` returns, so that a crash of the machine costs the
            last one at most. Otherwise call `sync` at the end.
        kept: Whether the folder stays after a failure and can be resumed; messages tell it.
        map_size: First size of the map in bytes.

    Raises:
        UserError: It cannot be made or opened.
    """

    def __init__(self, folder: Path, name: Path, *, durable: bool, kept: bool = False, map_size: int = MAP_SIZE):
        self.name = name
        self._kept = folder if kept else None
        self._map_size = map_size
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.environment = lmdb.open(
                str(folder), map_size=map_size, max_dbs=1, lock=False, sync=durable, metasync=durable, mode=0o644
            )
        except (OSError, lmdb.Error) as error:
            raise failed(name, error, self._kept) from error
        self._map_size = self.environment.info()["map_size"]

    def write(self, items: Iterable[tuple[Any, bytes, bytes]], replace: bool = False) -> None:
        """Stores (database or None, key, value) in one transaction: all of them or none.

        Raises:
            UserError: A key has another value already (unless `replace`), or the disk is full or cannot be written.
        """
        while True:
            try:
                with self.environment.begin(write=True) as transaction:
                    for database, key, value in items:
                        if not transaction.put(key, value, db=database, overwrite=replace) and (
                            transaction.get(key, db=database) != value
                        ):
                            raise UserError(f"{self.name}: {text(key)} is put twice with different bytes")
                return
            except lmdb.MapFullError:
                self._grow()
            except (OSError, lmdb.Error) as error:
                raise failed(self.name, error, self._kept) from error

    def _grow(self) -> None:
        self._map_size *= 2
        try:
            self.environment.set_mapsize(self._map_size)
        except (OSError, MemoryError, OverflowError, lmdb.Error) as error:
            raise failed(self.name, error, self._kept) from error

    def sync(self) -> None:
        """Writes everything to the disk.

        Raises:
            UserError: The disk is full or cannot be written.
        """
        try:
            self.environment.sync(True)
        except (OSError, lmdb.Error) as error:
            raise failed(self.name, error, self._kept) from error

    def close(self) -> None:
        """Closes the files; what was written stays."""
        self.environment.close()


def failed(path: str | os.PathLike, error: Exception, kept: Path | None = None) -> UserError:
    """Makes the error of a store that cannot be written; `kept` is the part that stays and can be resumed."""
    again = f"run the same command again: it goes on from {kept}" if kept else "start again"
    return UserError(f"{path}: cannot be written: {error}; check the disk's space and permissions, then {again}")
