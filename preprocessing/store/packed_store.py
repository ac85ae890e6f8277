"""Packed stores, which state their content. Writing one can be killed, resumed and extended; a store can be verified.

See `pack` for the layout. LMDB's transactions are all or nothing, and a value's SHA-256 is in the same transaction as
the value. What a killed process leaves is therefore sound, only incomplete.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lmdb

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import sync_folder, write_text
from resproto_fd.configs.locks import SoleLock
from resproto_fd.preprocessing.store import lmdb_files
from resproto_fd.preprocessing.store.beside_frames import decode_landmarks
from resproto_fd.preprocessing.store.image_codec import decode_frame, decode_mask
from resproto_fd.preprocessing.store.lmdb_files import (
    DIGESTS,
    SEAL,
    STATEMENT_KEY,
    STORE_FORMAT,
    GrowingLmdb,
    checked_key,
    failed,
    is_frame_key,
    text,
    windows_key,
)
from resproto_fd.preprocessing.store.lmdb_pages import LmdbPages
from resproto_fd.preprocessing.store.threads import in_chunks

BATCH_BYTES = 32 << 20
SHOWN = 100
"""Most faults that a message lists."""


def statement_of(path: str | os.PathLike) -> dict[str, Any] | None:
    """Returns the statement of the store at a path; None if there is no store, or it has no statement.

    Raises:
        UserError: The store cannot be read, or is packed only in part.
    """
    path = Path(path)
    if not (path / "data.mdb").is_file():
        return None
    real_path = os.path.realpath(path)
    lmdb_files.forget_if_replaced(real_path)
    return lmdb_files.opened(real_path).statement


class PackedWriter:
    """Makes a packed store, finishes an incomplete one, or extends one.

    It is a context manager. The store is in a hidden folder beside its path while it is written, and is renamed when
    everything is on the disk. After an error it stays in the hidden folder and can be resumed.

    Args:
        path: The store.
        codec: Codec of the frames, the same for the whole store; it is recorded.
        request: What is packed, as JSON. An incomplete store is resumed only for the request that began it.
        tool: Name and version of the program.

    Raises:
        UserError: The path has something else, a store of another codec, or an incomplete one of another request;
            another process is packing it; or the disk is full or cannot be written.
    """

    def __init__(self, path: str | os.PathLike, codec: str, request: dict[str, Any], tool: str):
        self.path = Path(path)
        self.partial = lmdb_files.partial_of(self.path)
        self.codec, self.request, self.tool = codec, request, tool
        self.statement: dict[str, Any] = {}
        self.added = 0
        self.counts: dict[str, int] = {}
        """Results of the request, which the statement records with it."""
        self._lmdb: GrowingLmdb | None = None
        self._digests: Any = None
        self._lock: SoleLock | None = None
        self._batch: list[tuple[Any, bytes, bytes]] = []
        self._held = 0
        self._background = ThreadPoolExecutor(1)  # the next batch is read while one goes to the disk
        self._being_written: Future | None = None

    def __enter__(self) -> "PackedWriter":
        if self.path.exists() and self.partial.exists():
            raise UserError(f"{self.path} and {self.partial} both exist: a store and an incomplete one; remove one")
        if self.path.exists():
            self._refuse_other_codec(statement_of(self.path), self.path)
            lmdb_files.forget(os.path.realpath(self.path))
        try:
            if self.path.exists():
                os.rename(self.path, self.partial)
            self.partial.mkdir(parents=True, exist_ok=True)
            self._take_lock()
        except OSError as error:
            raise failed(self.path, error, self.partial) from error
        try:
            if (self.partial / "data.mdb").exists():
                lmdb_files.refuse_cut(str(self.partial))
            self._lmdb = GrowingLmdb(self.partial, self.path, durable=True, kept=True)
            self._digests = self._lmdb.environment.open_db(DIGESTS)
            self._begin()
        except BaseException as error:
            self._let_go()
            if isinstance(error, (OSError, lmdb.Error)):
                raise failed(self.path, error, self.partial) from error
            raise
        return self

    def _take_lock(self) -> None:
        self._lock = SoleLock(self.partial / "packing.lock")
        if not self._lock.acquire():
            raise UserError(f"{self.path}: another process is packing it; wait for it, or set another --out")

    def _refuse_other_codec(self, statement: dict[str, Any] | None, where: Path) -> None:
        if statement is None:
            raise UserError(
                f"{where}: exists, but `resproto pack` did not make it; set another --out (--frames {where} packs its "
                "frames there)"
            )
        if statement["codec"] != self.codec:
            raise UserError(
                f"{where}: expected frames as {self.codec}, got {statement['codec']}; set --codec {statement['codec']} "
                "or another --out"
            )

    def _begin(self) -> None:
        """Marks the store as incomplete. An incomplete one must be of the same request."""
        statement = lmdb_files.read_statement(self._lmdb.environment, str(self.partial))
        if statement is None:
            statement = {"format": STORE_FORMAT, "codec": self.codec, "sources": []}
        self._refuse_other_codec(statement, self.partial)
        if statement.get("packing", self.request) != self.request:
            raise UserError(
                f"{self.partial}: is an incomplete store of another request, {json.dumps(statement['packing'])}; "
                "finish it with the command that began it, or remove the folder"
            )
        self.statement = statement | {"complete": False, "tool": self.tool, "packing": self.request}
        (self.partial / SEAL).unlink(missing_ok=True)
        self._state()

    def _state(self) -> None:
        value = json.dumps(self.statement, sort_keys=True).encode()
        self._lmdb.write([(None, STATEMENT_KEY, value)], replace=True)

    def absent(self, paths: Iterable[str]) -> list[str]:
        """Lists the paths that are not in the store yet."""
        with self._lmdb.environment.begin(db=self._digests, buffers=True) as transaction:
            return [path for path in paths if transaction.get(windows_key(path)) is None]

    def put(self, path: str, data: bytes, digest: bytes) -> None:
        """Stores a value and its SHA-256 under a canonical path."""
        key = checked_key(self.path, path, data)
        self._batch += [(None, key, data), (self._digests, key, digest)]
        self._held += len(data)
        self.added += 1
        if self._held >= BATCH_BYTES:
            self._commit()

    def _commit(self) -> None:
        """Begins to write the batch, after the batch before it is written."""
        self._wait()
        self._being_written = self._background.submit(self._lmdb.write, self._batch)
        self._batch, self._held = [], 0

    def _wait(self) -> None:
        if self._being_written is not None:
            self._being_written.result()
            self._being_written = None

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._let_go()

    def _finish(self) -> None:
        self._commit()
        self._wait()
        del self.statement["packing"]
        sources = [other for other in self.statement["sources"] if other["request"] != self.request]
        values, content = content_of(self._lmdb.environment, self._digests)
        self.statement |= {
            "complete": True,
            "sources": [*sources, {"request": self.request, **self.counts}],
            "values": values,
            "content": content,
        }
        self._state()
        self._lmdb.close()
        seal = {"bytes": (self.partial / "data.mdb").stat().st_size, **self.statement}
        write_text(self.partial / SEAL, json.dumps(seal, indent=1) + "\n")
        try:
            for name in ("packing.lock", "lock.mdb"):
                (self.partial / name).unlink(missing_ok=True)
            os.rename(self.partial, self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise failed(self.path, error, self.partial) from error

    def _let_go(self) -> None:
        self._batch = []
        self._background.shutdown()
        if self._lmdb is not None:
            self._lmdb.close()
        if self._lock is not None:
            self._lock.release()


def content_of(environment: lmdb.Environment, digests: Any) -> tuple[int, str]:
    """Computes (number of values, SHA-256 over every key and its value's digest, in hexadecimal)."""
    hasher, count = hashlib.sha256(), 0
    with environment.begin(db=digests, buffers=True) as transaction:
        for key, digest in transaction.cursor():
            hasher.update(b"%s\0%s" % (key, digest))
            count += 1
    return count, hasher.hexdigest()


def verify(
    path: str | os.PathLike, paths: Sequence[str] | None = None, *, jobs: int = 1, progress: bool = False
) -> dict[str, Any]:
    """Reads every value of a store again, compares its digest and decodes its pixels.

    A store that was not packed has no digests; its pictures are still decoded.

    Args:
        path: The store.
        paths: Canonical paths that must be in it.
        jobs: Threads.
        progress: Whether to show a bar.

    Returns:
        The store's statement. For a store that was not packed, the number of values and a content of None.

    Raises:
        UserError: There are faults; the message has each with its key: missing, not listed, changed, unreadable. Or the
            store as a whole is cut short, incomplete, or not an LMDB.
    """
    path = Path(path)
    if not (path / "data.mdb").is_file():
        raise UserError(f"{path}: no such store (it has no data.mdb)")
    real_path = os.path.realpath(path)
    lmdb_files.forget(real_path)
    _check_index(path)
    environment, _, statement = lmdb_files.opened(real_path)
    try:
        keys, digests, faults = _read_keys(environment, statement, path)
        faults += [f"{wanted}: missing" for wanted in paths or () if not _held(wanted, digests or set(keys))]
        check = _Check(environment, digests)
        for found in in_chunks(check, keys, jobs, progress, "verifying"):
            faults += found
    except lmdb.Error as error:
        raise UserError(f"{path}: the LMDB is damaged ({error}); copy or pack it again") from error
    _refuse(path, faults, len(keys))
    return statement or {"values": len(keys), "content": None}


def _refuse(path: Path, faults: Sequence[str], values: int) -> None:
    if faults:
        more = f"\n  and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        listed = "\n  ".join(faults[:SHOWN])
        raise UserError(f"{path}: {len(faults)} faults in {values} values:\n  {listed}{more}")


def _check_index(path: Path) -> None:
    """Refuses a store whose index is damaged; names the keys whose values or digests cannot be found any more.

    LMDB's cursors would abort this process at such a page.
    """
    try:
        with LmdbPages(path / "data.mdb") as pages:
            if not pages.known or pages.missing_bytes():
                return  # opening it tells
            found = pages.index_faults()
    except OSError as error:
        raise UserError(f"{path}: data.mdb cannot be read ({error.strerror})") from error
    if not found.pages:
        return
    keys = {key for key in found.keys[b""] if is_frame_key(key)}
    digests = set(found.keys.get(DIGESTS, ()))
    faults = [f"{text(key)}: its place in data.mdb is damaged" for key in sorted(digests - keys)]
    faults += [f"{text(key)}: its digest is damaged" for key in sorted(keys - digests) if digests]
    faults += [f"(whole store): data.mdb's index: {page}" for page in found.pages]
    _refuse(path, [*faults, "(whole store): copy or pack it again"], len(keys | digests))


def _held(path: str, keys: Iterable[bytes]) -> bool:
    return any(form(path) in keys for form in lmdb_files.KEY_FORMS)


def _read_keys(environment: lmdb.Environment, statement: dict | None, path: Path):
    """Reads (keys of the values, digests by key or None if the store has none, faults of both)."""
    with environment.begin() as transaction:
        keys = [key for key in transaction.cursor().iternext(values=False) if is_frame_key(key)]
    if statement is None:
        return keys, None, []
    inner = environment.open_db(DIGESTS, create=False)
    with environment.begin(db=inner) as transaction:
        digests = dict(transaction.cursor())
    held = set(keys)
    faults = [f"{text(key)}: missing" for key in digests if key not in held]
    faults += [f"{text(key)}: was not packed, but added later" for key in keys if key not in digests]
    values, content = content_of(environment, inner)
    sealed = lmdb_files.read_seal(path)
    for name, found in (("values", values), ("content", content)):
        for place, stated in (("its statement", statement), (SEAL, sealed or statement)):
            if stated.get(name) != found:
                faults.append(f"(whole store): {name} {found}; {place} says {stated.get(name)}")
    return keys, digests, faults


class _Check:
    """Finds the faults of some keys' values."""

    def __init__(self, environment: lmdb.Environment, digests: dict[bytes, bytes] | None):
        self.environment, self.digests = environment, digests

    def __call__(self, keys: Sequence[bytes]) -> list[str]:
        faults = []
        with self.environment.begin(buffers=True) as transaction:
            for key in keys:
                try:
                    value = transaction.get(key)
                    wanted = self.digests.get(key) if self.digests is not None else None
                    if self.digests is not None and wanted is None:
                        continue  # it was not packed, which is a fault already
                    if wanted is not None and hashlib.sha256(value).digest() != wanted:
                        faults.append(f"{text(key)}: {len(value)} bytes differ from those that were packed")
                    else:
                        _look(value, text(key))
                except (lmdb.Error, UserError) as error:
                    faults.append(str(error) if isinstance(error, UserError) else f"{text(key)}: {error}")
        return faults


def _look(value: memoryview, name: str) -> None:
    """Decodes a value: landmarks, a mask or a frame, as its path tells."""
    path = name.replace("\\", "/")
    if path.endswith(".npy"):
        decode_landmarks(bytes(value), name)
    elif "/masks/" in path and "/frames/" not in path:
        decode_mask(value, name)
    else:
        decode_frame(value, name)
