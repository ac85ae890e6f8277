"""Where frames are kept: DeepfakeBench's LMDBs (keys written on Linux or Windows, or by us) and folders of files.

A frame is asked for by its canonical path, "Celeb-DF-v2/YouTube-real/frames/00000/000.png" (see `manifest`), whichever
store holds it. A store is opened lazily in each process, survives fork and can be pickled for spawn.
"""

import io
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import lmdb
import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.suggestions import nearest
from resproto_fd.preprocessing.store import lmdb_files
from resproto_fd.preprocessing.store.image_codec import UnreadableFrame, check_whole, decode_frame, decode_image
from resproto_fd.preprocessing.store.lmdb_files import KEY_FORMS, MAP_SIZE, GrowingLmdb, close_all, failed, windows_key

__all__ = [
    "FileStore",
    "FrameStore",
    "LmdbStore",
    "LmdbWriter",
    "MissingFrame",
    "UnreadableFrame",
    "close_all",
    "decode_frame",
    "open_store",
]

NPY_START = b"\x93NUMPY"
LANDMARKS = (81, 2)
LONGEST_KEY = 511
"""What LMDB takes, as it is built everywhere."""


class MissingFrame(UserError):
    """A store does not hold the frame asked of it."""


class FrameStore(ABC):
    """Encoded frames by canonical path. The path of a store is the one it was opened with."""

    path: Path
    statement: dict[str, Any] | None = None
    """What a packed store says of itself (codec, counts, sources, content); None of any other."""

    def __str__(self) -> str:
        return str(self.path)

    @abstractmethod
    def read_bytes(self, path: str) -> bytes:
        """The file as stored.

        Raises:
            MissingFrame: The store does not hold it.
            UnreadableFrame: It cannot be fetched.
        """

    @abstractmethod
    def __contains__(self, path: str) -> bool: ...

    @abstractmethod
    def missing(self, paths: Iterable[str]) -> list[str]:
        """The paths that the store does not hold, in the order given. Looks at keys and folders, reads no frame."""

    def read(self, path: str) -> np.ndarray:
        """A frame: RGB uint8, [H, W, 3].

        Raises:
            MissingFrame: The store does not hold it.
            UnreadableFrame: Empty, cut short, damaged, not an image, or not of three 8-bit channels.
        """
        image = decode_frame(self.read_bytes(path), f"{self.path}: {path}")
        return image if image.flags.writeable else image.copy()

    def read_each(self, paths: Sequence[str]) -> Iterator[np.ndarray | UserError]:
        """Frames in the order given, as `read` gives them, each once; of one that cannot be read, the error.

        Cheaper than as many reads. A frame may be read-only, and is valid only until the next is asked for.
        """
        for path in paths:
            try:
                yield self.read(path)
            except UserError as error:
                yield error

    def read_mask(self, path: str) -> np.ndarray:
        """The forgery mask of a frame, at its path with `frames` replaced by `masks`: uint8, 255 forged, [H, W].

        Raises:
            MissingFrame: The store holds no mask for it, as for every real frame.
            UnreadableFrame: The mask is not a whole image.
        """
        mask = mask_path(path)
        where = f"{self.path}: {mask}"
        data = self.read_bytes(mask)
        check_whole(data, where)
        return decode_image(data, cv2.IMREAD_GRAYSCALE, where)

    def read_landmarks(self, path: str) -> np.ndarray:
        """Facial landmarks of a frame, at its path with `frames` replaced by `landmarks` and the suffix by `.npy`:
        float32 (x, y) in pixels of the stored frame, [81, 2].

        DeepfakeBench's LMDBs hold the bare numbers, int64 when made on Linux and int32 when made on Windows; the
        length tells which. Files are .npy with a header, and may hold another number of points.

        Raises:
            MissingFrame: The store holds no landmarks for it.
            UnreadableFrame: They have another length or form.
        """
        beside = landmark_path(path)
        return _landmarks(self.read_bytes(beside), f"{self.path}: {beside}").astype(np.float32)


def mask_path(path: str) -> str:
    """Where DeepfakeBench keeps the mask of a frame.

    >>> mask_path("D/frames/a/000.png")
    'D/masks/a/000.png'
    """
    return path.replace("frames", "masks")


def landmark_path(path: str) -> str:
    """Where DeepfakeBench keeps the landmarks of a frame.

    >>> landmark_path("D/frames/a/000.png")
    'D/landmarks/a/000.npy'
    """
    return str(PurePosixPath(path.replace("frames", "landmarks")).with_suffix(".npy"))


def _landmarks(data: bytes, where: str) -> np.ndarray:
    if data.startswith(NPY_START):
        try:
            points = np.load(io.BytesIO(data), allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise UnreadableFrame(f"{where}: not a whole .npy file ({error})") from error
    else:
        kinds = {np.dtype(kind).itemsize * LANDMARKS[0] * LANDMARKS[1]: kind for kind in ("<i4", "<i8")}
        if len(data) not in kinds:
            raise UnreadableFrame(
                f"{where}: {len(data)} bytes; expected {' or '.join(map(str, kinds))} ({LANDMARKS} int32 or int64)"
            )
        points = np.frombuffer(data, kinds[len(data)]).reshape(LANDMARKS)
    if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "iuf":
        raise UnreadableFrame(f"{where}: {points.dtype} {list(points.shape)}; expected numbers [K, 2]")
    return points


def bare_landmarks(data: bytes, where: str) -> bytes:
    """Landmarks as DeepfakeBench's released LMDBs hold them, bare int32 [81, 2]; of any other shape as they are.

    Raises:
        UnreadableFrame: They have another length or form than any known one.
    """
    points = _landmarks(data, where)
    if points.shape == LANDMARKS and points.dtype.kind in "iu":
        return points.astype("<i4").tobytes()
    return data


def open_store(path: str | os.PathLike) -> FrameStore:
    """The store at a path: an LMDB if the folder holds data.mdb, else a folder of files.

    Args:
        path: Folder of an LMDB; or the folder that holds the data set folders (`datasets/rgb`), or a data set folder.

    Raises:
        UserError: No such folder, or one that holds LMDBs and nothing else.
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
        raise UserError(f"{path}: holds stores ({', '.join(stores[:5])}) and is none itself; name one of them")
    return FileStore(path)


class FileStore(FrameStore):
    """Frames as files.

    Args:
        path: The folder that holds the data set folders; the data set folder itself will do.
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
        try:
            with open(self._locate(path), "rb") as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            raise MissingFrame(f"{self.path}: no file for {path}") from None
        except OSError as error:
            raise UnreadableFrame(f"{self.path}: {path}: {error.strerror}") from error

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
    """Frames in an LMDB: DeepfakeBench's, `LmdbWriter`'s or one that was packed.

    Args:
        path: The folder with data.mdb. It must not change while it is open.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._real_path = os.path.realpath(path)
        self._forms = list(KEY_FORMS)
        lmdb_files.forget_if_replaced(self._real_path)

    @property
    def statement(self) -> dict[str, Any] | None:
        return lmdb_files.opened(self._real_path).statement

    def _begin(self) -> lmdb.Transaction:
        return lmdb_files.opened(self._real_path).environment.begin(buffers=True)

    def _get(self, transaction: lmdb.Transaction, path: str) -> memoryview | None:
        """Value of the key, which may be written in three ways; the way that was right last is tried first."""
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
                f"{self.path}: {path}: {error}; the LMDB is damaged, copy or pack it again"
            ) from error
        if value is None:
            tried = ", ".join(lmdb_files.text(form(path)) for form in KEY_FORMS)
            raise MissingFrame(f"{self.path}: no key for {path} (tried {tried})")
        return value

    def read_bytes(self, path: str) -> bytes:
        with self._begin() as transaction:
            return bytes(self._found(transaction, path))

    def read_each(self, paths: Sequence[str]) -> Iterator[np.ndarray | UserError]:
        """As of any store; in one transaction, nothing copied."""
        with self._begin() as transaction:
            for path in paths:
                try:
                    yield decode_frame(self._found(transaction, path), f"{self.path}: {path}")
                except UserError as error:
                    yield error

    def __contains__(self, path: str) -> bool:
        return not self.missing([path])

    def missing(self, paths: Iterable[str]) -> list[str]:
        paths = list(paths)
        absent = set()
        try:
            with self._begin() as transaction:
                for path in sorted(set(paths)):  # neighbours in the tree: each of its pages is read once
                    if self._get(transaction, path) is None:
                        absent.add(path)
        except lmdb.Error as error:
            raise UserError(f"{self.path}: {error}; the LMDB is damaged, copy or pack it again") from error
        return [path for path in paths if path in absent]


class LmdbWriter:
    """Writes an LMDB that DeepfakeBench's loader reads: the files' bytes, under keys of its released (Windows) form.

    A context manager. The store is written into a hidden folder beside its place and renamed when all is in it; after
    an error nothing is left. The map grows as needed. For stores that are resumed or added to, see `pack`.

    Args:
        path: Folder to make.
        replace: Put the new store in the place of one that exists; without it an existing one is an error.
        map_size: First size of the map in bytes; doubled whenever it is full.
        batch_bytes: Bytes written in one transaction, which is what is held in memory.

    Raises:
        UserError: The place is taken, a key is put twice with different bytes, a value is empty, a key is too long
            for LMDB, or the disk is full or cannot be written.
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
            raise UserError(f"{self.path}: is there already; remove it, or choose another place")
        try:
            self._lmdb = GrowingLmdb(self._partial, self.path, durable=False, map_size=self._map_size)
        except UserError:
            self._discard()
            raise
        return self

    def put(self, path: str, data: bytes) -> None:
        """Store a file's bytes under its canonical path."""
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
        """Remove what is not finished; after `_finish` nothing is left to remove."""
        self._batch = []
        if self._lmdb is not None:
            self._lmdb.close()
        shutil.rmtree(self._partial, ignore_errors=True)


def checked_key(store: Path, path: str, data: bytes) -> bytes:
    """The key under which a file's bytes are written.

    Raises:
        UserError: No bytes, or a path too long for LMDB.
    """
    key = windows_key(path)
    if not data:
        raise UserError(f"{store}: {path}: no bytes to store")
    if len(key) > LONGEST_KEY:
        raise UserError(f"{store}: {path}: {len(key)} bytes; a key has {LONGEST_KEY} at most")
    return key


def _file_names(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()
