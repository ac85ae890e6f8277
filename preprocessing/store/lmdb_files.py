"""LMDBs as files: how keys are written, one open environment a path and process, and writing without a size known."""

import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import lmdb

from resproto_fd.configs.errors import UserError

ALLOWED_SHORTFALL = 1 << 20
"""Bytes by which a sound data.mdb may be shorter than its page count says: pages freed before they were written."""
STATEMENT_KEY = b"resproto_fd"
"""Key of a packed store's statement of what it holds, JSON. No frame has it: a frame's key has a data set folder."""
STORE_FORMAT = 1
DIGESTS = b"resproto_fd/digests"
"""Name of the inner database with the SHA-256 of every value, under the value's own key."""
SEAL = "packed.json"
"""File beside a packed store's data.mdb: its statement, and the size that data.mdb must have."""
MAP_SIZE = 1 << 30


def windows_key(path: str) -> bytes:
    """A canonical path as DeepfakeBench's released LMDBs and JSONs write it."""
    return path.replace("/", "\\").encode()


def linux_key(path: str) -> bytes:
    """DeepfakeBench's script joins the data set folder with a backslash whatever the machine's separator is."""
    return path.replace("/", "\\", 1).encode()


KEY_FORMS = (windows_key, linux_key, str.encode)


def text(key: bytes) -> str:
    """A key for messages."""
    return bytes(key).decode(errors="replace")


def is_frame_key(key: bytes) -> bool:
    """Whether a key is a file's, not one of a packed store's own two."""
    return key not in (STATEMENT_KEY, DIGESTS)


# --- reading ---------------------------------------------------------------------------------------------------


class Opened(NamedTuple):
    """An environment opened for reading, which file it was, and what the store says of itself."""

    environment: lmdb.Environment
    identity: tuple[int, int]
    statement: dict[str, Any] | None


# LMDB forbids a process to open a path twice, and stores of one path (FF-DF and FF-NT, say) share it.
_opened: dict[str, Opened] = {}
_lock = threading.Lock()


def opened(real_path: str) -> Opened:
    """This process's environment of a path, opened when first asked for.

    Raises:
        UserError: Not a readable LMDB, cut short, packed only in part, or packed in a format unknown here.
    """
    known = _opened.get(real_path)
    if known is None:
        with _lock:
            known = _opened.get(real_path)
            if known is None:
                known = _opened[real_path] = _open(real_path)
    return known


def _open(real_path: str) -> Opened:
    try:
        # Readahead stays on: a frame spans 25 pages, and page by page from a cold disk it takes ten times as long.
        environment = lmdb.open(real_path, create=False, readonly=True, lock=False, max_dbs=1)
    except (OSError, lmdb.Error) as error:
        raise UserError(f"{real_path}: not a readable LMDB ({error}); copy or pack it again") from error
    try:
        _refuse_cut(environment, real_path)
        statement = read_statement(environment, real_path)
        if statement is not None and not statement["complete"]:
            raise UserError(
                f"{real_path}: only part of it is packed; finish it with the `resproto pack` command that began it"
            )
    except BaseException:
        environment.close()
        raise
    return Opened(environment, _identity(real_path), statement)


def _refuse_cut(environment: lmdb.Environment, real_path: str) -> None:
    """A page beyond the end of the file would end this process with a bus error, not an exception."""
    size = os.path.getsize(os.path.join(real_path, "data.mdb"))
    shortfall = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"] - size
    allowed = ALLOWED_SHORTFALL
    seal = os.path.join(real_path, SEAL)
    if os.path.exists(seal):
        try:
            with open(seal, encoding="utf-8") as file:
                shortfall, allowed = json.load(file)["bytes"] - size, 0
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{seal}: damaged ({error!r}); copy or pack the store again") from error
    if shortfall > allowed:
        raise UserError(f"{real_path}: data.mdb is cut short, {shortfall} bytes are missing; copy or pack it again")


def read_statement(environment: lmdb.Environment, where: str) -> dict[str, Any] | None:
    """What a packed store says of itself; None of any other LMDB.

    Raises:
        UserError: It cannot be read, or is of another format.
    """
    try:
        with environment.begin() as transaction:
            value = transaction.get(STATEMENT_KEY)
        statement = None if value is None else json.loads(value)
    except (lmdb.Error, ValueError) as error:
        raise UserError(f"{where}: the store's statement is damaged ({error}); copy or pack it again") from error
    if statement is not None and statement.get("format") != STORE_FORMAT:
        raise UserError(
            f"{where}: packed in format {statement.get('format')} by {statement.get('tool')}; this version reads "
            f"format {STORE_FORMAT}"
        )
    return statement


def _identity(real_path: str) -> tuple[int, int]:
    status = os.stat(os.path.join(real_path, "data.mdb"))
    return status.st_dev, status.st_ino


def forget_if_replaced(real_path: str) -> None:
    """Close a path's environment if another file stands there now."""
    known = _opened.get(real_path)
    if known is not None and known.identity != _identity(real_path):
        forget(real_path)


def forget(real_path: str) -> None:
    """Close this process's environment of a path, if it has one open."""
    with _lock:
        known = _opened.pop(real_path, None)
        if known is not None:
            known.environment.close()


def close_all() -> None:
    """Close every LMDB this process has open. Stores stay valid: the next read opens theirs again."""
    for real_path in list(_opened):
        forget(real_path)


def _start_afresh_in_child() -> None:
    """An environment does not survive fork, and lmdb refuses a second open until the inherited one is closed."""
    global _lock
    _lock = threading.Lock()
    close_all()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_in_child)


# --- writing ---------------------------------------------------------------------------------------------------


class GrowingLmdb:
    """An LMDB opened for writing whose map is doubled whenever it is full.

    Args:
        folder: Where it is or is to be; made if need be.
        name: What messages call it.
        durable: Each transaction is on the disk when `write` returns, so that a crash of the machine costs no more
            than the last; otherwise call `sync` before trusting it.
        kept: Whether the folder stays after a failure, to be gone on from; messages say so.
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
        """Store (database or None, key, value) in one transaction: all of them or none.

        Raises:
            UserError: A key is there with another value (unless `replace`), or the disk is full or cannot be written.
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
        """Bring everything to the disk.

        Raises:
            UserError: The disk is full or cannot be written.
        """
        try:
            self.environment.sync(True)
        except (OSError, lmdb.Error) as error:
            raise failed(self.name, error, self._kept) from error

    def close(self) -> None:
        """Let go of the files; what was written stays."""
        self.environment.close()


def failed(path: str | os.PathLike, error: Exception, kept: Path | None = None) -> UserError:
    """The error of a store that could not be written; `kept` is what is left of it, to be gone on from."""
    again = f"run the same command again: it goes on from {kept}" if kept else "start again"
    return UserError(f"{path}: cannot be written: {error}; see that the disk has room and can be written, then {again}")
