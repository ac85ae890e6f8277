"""Writes a new LMDB of frames in one go, in the form of DeepfakeBench's released ones."""

import os
import shutil
import uuid
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.store import lmdb_files
from resproto_fd.preprocessing.store.lmdb_files import MAP_SIZE, GrowingLmdb, checked_key, failed


class LmdbWriter:
    """Writes an LMDB that DeepfakeBench's loader reads: the files' bytes, under keys of its released (Windows) form.

    It is a context manager. It writes the store into a hidden folder and renames that at the end. After an error
    nothing is left. The map grows as needed. For stores that can be resumed or added to, see `pack`.

    Args:
        path: Folder to make.
        replace: Whether the new store replaces an existing one; otherwise an existing one is an error.
        map_size: First size of the map in bytes; doubled whenever it is full.
        batch_bytes: Bytes written in one transaction, and held in memory until then.

    Raises:
        UserError: The path exists, a key is put twice with different bytes, a value is empty, a key is too long for
            LMDB, or the disk is full or cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        replace: bool = False,
        map_size: int = MAP_SIZE,
        batch_bytes: int = 32 << 20,
    ):
        self.path = Path(path)
        self.replace = replace
        self.batch_bytes = batch_bytes
        self.count = 0
        self._map_size = map_size
        self._partial = self.path.parent / f".{self.path.name}.{uuid.uuid4().hex[:8]}.partial"
        self._lmdb: GrowingLmdb | None = None
        self._batch: list[tuple[None, bytes, bytes]] = []
        self._held = 0

    def __enter__(self) -> "LmdbWriter":
        if not self.replace and self.path.exists():
            raise UserError(f"{self.path}: already exists; remove it, or set another path")
        try:
            self._lmdb = GrowingLmdb(self._partial, self.path, durable=False, map_size=self._map_size)
        except UserError:
            self._discard()
            raise
        return self

    def put(self, path: str, data: bytes) -> None:
        """Stores a file's bytes under its canonical path."""
        self._batch.append((None, checked_key(self.path, path, data), bytes(data)))
        self._held += len(data)
        if self._held >= self.batch_bytes:
            self._commit()

    def __exit__(self, kind, error, traceback) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    def _commit(self) -> None:
        self._lmdb.write(self._batch)
        self.count += len(self._batch)
        self._batch, self._held = [], 0

    def _finish(self) -> None:
        self._commit()
        self._lmdb.sync()
        self._lmdb.close()
        lmdb_files.forget(os.path.realpath(self.path))
        old = self._partial.with_suffix(".old")
        try:
            if self.replace and self.path.exists():
                os.rename(self.path, old)
            os.rename(self._partial, self.path)
        except OSError as error:
            if old.exists() and not self.path.exists():
                os.rename(old, self.path)
            raise failed(self.path, error) from error
        shutil.rmtree(old, ignore_errors=True)

    def _discard(self) -> None:
        """Removes an unfinished store; after `_finish` there is none."""
        self._batch = []
        if self._lmdb is not None:
            self._lmdb.close()
        shutil.rmtree(self._partial, ignore_errors=True)
