"""Stores of frames: DeepfakeBench's LMDBs (with keys written on Linux, on Windows or by us) and folders of files.

A frame is read by its canonical path, "Celeb-DF-v2/YouTube-real/frames/00000/000.png" (see `manifest`), from any store.
A store is opened in each process when it is first used. It survives fork and can be pickled for spawn.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.readers.text import kind_instead
from resproto_fd.configs.suggestions import nearest
from resproto_fd.preprocessing.store import lmdb_files
from resproto_fd.preprocessing.store.beside_frames import decode_landmarks, landmark_path, mask_path
from resproto_fd.preprocessing.store.image_codec import UnreadableFrame, checksum_of, decode_frame, decode_mask
from resproto_fd.preprocessing.store.lmdb_files import KEY_FORMS


class MissingFrame(UserError):
    """The store does not have the frame."""


class FrameStore(ABC):
    """Encoded frames by canonical path. `path` is the path with which the store was opened."""

    path: Path
    statement: dict[str, Any] | None = None
    """Statement of a packed store about itself (codec, counts, sources, content); None for other stores."""

    def __str__(self) -> str:
        return str(self.path)

    @property
    def content(self) -> str | None:
        """Digest of what is in a packed store, in hexadecimal; None for other stores, which keep none.

        It is the SHA-256 over every key and the SHA-256 of its value, in the order of the keys. It does not depend on
        the order of packing, and changes when frames are added. `pack --verify` compares it with the bytes.
        """
        return self.statement["content"] if self.statement else None

    @abstractmethod
    def read_bytes(self, path: str) -> bytes:
        """Reads a file as it is stored.

        Raises:
            MissingFrame: The store does not have it.
            UnreadableFrame: It cannot be read.
        """

    @abstractmethod
    def __contains__(self, path: str) -> bool: ...

    @abstractmethod
    def missing(self, paths: Iterable[str]) -> list[str]:
        """Lists the paths that the store does not have, in the order given. It reads no frame."""

    def read(self, path: str) -> np.ndarray:
        """Reads a frame: RGB uint8, [H, W, 3].

        Raises:
            MissingFrame: The store does not have it.
            UnreadableFrame: It is empty, cut short, damaged, no image, or has other than three 8-bit channels.
        """
        image = decode_frame(self.read_bytes(path), f"{self.path}: {path}")
        return image if image.flags.writeable else image.copy()

    def read_each(self, paths: Sequence[str]) -> Iterator[np.ndarray | UserError]:
        """Yields each frame as `read` does, in the order given; for an unreadable frame, the error.

        It is cheaper than as many calls of `read`. A frame may be read-only, and is valid until the next is asked for.
        """
        for path in paths:
            try:
                yield self.read(path)
            except UserError as error:
                yield error

    def read_each_with_checksum(self, paths: Sequence[str]) -> Iterator[tuple[np.ndarray, int] | UserError]:
        """Yields each frame as `read_each` does, with its `checksum_of`."""
        for image in self.read_each(paths):
            yield image if isinstance(image, UserError) else (image, checksum_of(image))

    def identity(self, paths: Sequence[str]) -> str | None:
        """Tells the stored files of some frames by size, times and place, without reading them.

        While it stays the same, so do the frames. It also changes when the files are copied. None: it cannot be told.
        """
        return None

    def read_mask(self, path: str) -> np.ndarray:
        """Reads the forgery mask of a frame, at its path with `frames` replaced by `masks`: uint8, 255 forged, [H, W].

        Raises:
            MissingFrame: The store has no mask of it; real frames have none.
            UnreadableFrame: The mask is not a whole image.
        """
        mask = mask_path(path)
        return decode_mask(self.read_bytes(mask), f"{self.path}: {mask}")

    def read_landmarks(self, path: str) -> np.ndarray:
        """Reads the facial landmarks of a frame: float32 (x, y) in pixels of the stored frame, [81, 2].

        Their path is the frame's, with `frames` replaced by `landmarks` and the suffix by `.npy`. DeepfakeBench's LMDBs
        have the bare numbers, int64 if made on Linux and int32 if made on Windows; the length tells which. Files are
        .npy with a header, and may have another number of points.

        Raises:
            MissingFrame: The store has no landmarks of it.
            UnreadableFrame: They have another length or form.
        """
        beside = landmark_path(path)
        return decode_landmarks(self.read_bytes(beside), f"{self.path}: {beside}").astype(np.float32)


def open_store(path: str | os.PathLike) -> FrameStore:
    """Opens the store at a path: an LMDB if the folder has data.mdb, else a folder of files.

    Args:
        path: Folder of an LMDB; or the folder that has the data set folders (`datasets/rgb`), or a data set folder.

    Raises:
        UserError: There is no such folder, or it has nothing but LMDBs.
    """
    path = Path(path)
    if path.name == "data.mdb" and path.is_file():
        path = path.parent
    if not path.is_dir():
        beside = sorted(other.name for other in path.parent.iterdir()) if path.parent.is_dir() else []
        raise UserError(
            f"{path}: no such frame store{nearest(path.name, beside)}; expected a folder with data.mdb or with frames"
        )
    if (path / "data.mdb").is_file():
        return LmdbStore(path)
    folders = [other for other in path.iterdir() if other.is_dir()]
    stores = sorted(other.name for other in folders if (other / "data.mdb").is_file())
    if stores and len(stores) == len(folders):
        raise UserError(f"{path}: expected a frame store, got a folder of stores ({', '.join(stores[:5])}); set one")
    return FileStore(path)


class FileStore(FrameStore):
    """Frames as files.

    Args:
        path: The folder that has the data set folders, or the data set folder itself.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)

    def _locate(self, path: str) -> str:
        first = path.partition("/")[0]
        root = self.path
        if root.name == first and not (root / first).is_dir():
            root = root.parent
        return f"{root}/{path}"

    def read_bytes(self, path: str) -> bytes:
        place = self._locate(path)
        try:
            if found := kind_instead(place):
                raise UnreadableFrame(f"{self.path}: {path}: expected a file, got {found}")
            with open(place, "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            raise MissingFrame(f"{self.path}: no file for {path}") from None
        except OSError as error:
            raise UnreadableFrame(f"{self.path}: {path}: {error.strerror}") from error

    def identity(self, paths: Sequence[str]) -> str | None:
        return _identity_of([self._locate(path) for path in paths])

    def __contains__(self, path: str) -> bool:
        return os.path.isfile(self._locate(path))

    def missing(self, paths: Iterable[str]) -> list[str]:
        folders: dict[str, frozenset[str]] = {}

        def held(path: str) -> bool:
            folder, _, name = path.rpartition("/")
            if folder not in folders:
                folders[folder] = _file_names(self._locate(folder))
            return name in folders[folder]

        return [path for path in paths if not held(path)]


class LmdbStore(FrameStore):
    """Frames in an LMDB: DeepfakeBench's, `LmdbWriter`'s or a packed one.

    Args:
        path: The folder with data.mdb. It may grow while it is open.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._real_path = os.path.realpath(path)
        self._forms = list(KEY_FORMS)
        self._identity: tuple[int, int] | None = None
        lmdb_files.forget_if_replaced(self._real_path)

    @property
    def statement(self) -> dict[str, Any] | None:
        return self._opened().statement

    def _opened(self) -> lmdb_files.Opened:
        found = lmdb_files.opened(self._real_path, self._identity)
        self._identity = found.identity
        return found

    def _begin(self) -> lmdb.Transaction:
        try:
            return self._opened().environment.begin(buffers=True)
        except lmdb.MapResizedError:
            raise UserError(f"{self.path}: has grown while it was read; run the same command again") from None

    def _get(self, transaction: lmdb.Transaction, path: str) -> memoryview | None:
        """Gets the value of a path. Its key may be written in three ways; the last right way is tried first."""
        for place, form in enumerate(self._forms):
            value = transaction.get(form(path))
            if value is not None:
                if place:
                    self._forms = [form, *(other for other in KEY_FORMS if other is not form)]
                return value
        return None

    def _found(self, transaction: lmdb.Transaction, path: str) -> memoryview:
        try:
            value = self._get(transaction, path)
        except lmdb.Error as error:
            raise UnreadableFrame(
                f"{self.path}: {path}: the LMDB is damaged ({error}); copy or pack it again"
            ) from error
        if value is None:
            tried = ", ".join(lmdb_files.text(form(path)) for form in KEY_FORMS)
            raise MissingFrame(f"{self.path}: no key for {path} (tried {tried})")
        return value

    def read_bytes(self, path: str) -> bytes:
        with self._begin() as transaction:
            return bytes(self._found(transaction, path))

    def read_each(self, paths: Sequence[str]) -> Iterator[np.ndarray | UserError]:
        """Yields frames as any store does, without a copy.

        Each has a transaction of its own. There are no locks: two transactions later, a process that adds to the store
        may write over the pages by which an old one finds its keys.
        """
        for path in paths:
            with self._begin() as transaction:
                try:
                    yield decode_frame(self._found(transaction, path), f"{self.path}: {path}")
                except UserError as error:
                    yield error

    def read_each_with_checksum(self, paths: Sequence[str]) -> Iterator[tuple[np.ndarray, int] | UserError]:
        for path in paths:
            with self._begin() as transaction:  # see `read_each`
                try:
                    value = self._found(transaction, path)
                    image = decode_frame(value, f"{self.path}: {path}")
                    yield image, checksum_of(image, value)
                except UserError as error:
                    yield error

    def identity(self, paths: Sequence[str]) -> str | None:
        last = lmdb_files.opened(self._real_path).environment.info()["last_txnid"]
        return _identity_of([os.path.join(self._real_path, "data.mdb")], last)

    def __contains__(self, path: str) -> bool:
        return not self.missing([path])

    def missing(self, paths: Iterable[str]) -> list[str]:
        paths = list(paths)
        absent = set()
        try:
            with self._begin() as transaction:
                for path in sorted(set(paths)):  # neighbours share pages: each page is read once
                    if self._get(transaction, path) is None:
                        absent.add(path)
        except lmdb.Error as error:
            raise UserError(f"{self.path}: the LMDB is damaged ({error}); copy or pack it again") from error
        return [path for path in paths if path in absent]


def _file_names(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()


def _identity_of(files: Iterable[str], *further: int) -> str:
    hasher = hashlib.sha256(repr(further).encode())
    for file in files:
        try:
            found = os.stat(file)
            # A change of content that keeps size and mtime (touch -r, cp -p) still shows in ctime.
            facts = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        except OSError as error:
            facts = (error.errno,)
        hasher.update(f"{facts}\n".encode())
    return hasher.hexdigest()
