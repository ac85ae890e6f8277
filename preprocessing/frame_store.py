"""Where frames are kept: DeepfakeBench's LMDBs (keys written on Linux or Windows, or by us) and folders of files.

A frame is asked for by its canonical path, "Celeb-DF-v2/YouTube-real/frames/00000/000.png" (see `manifest`), whichever
store holds it. A store is opened lazily in each process, survives fork and can be pickled for spawn.
"""

import io
import os
import shutil
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import cv2
import lmdb
import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.loading import nearest

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
PNG_COLOUR = (b"\x08\x02", b"\x08\x03")  # bit depth 8; RGB or a palette of RGB
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
NPY_START = b"\x93NUMPY"
LANDMARKS = (81, 2)
ALLOWED_SHORTFALL = 1 << 20
"""Bytes by which a sound data.mdb may be shorter than its page count says: pages freed before they were written."""


class MissingFrame(UserError):
    """A store does not hold the frame asked of it."""


class UnreadableFrame(UserError):
    """A frame is there, but is not a whole RGB image."""


class FrameStore(ABC):
    """Encoded frames by canonical path. The path of a store is the one it was opened with."""

    path: Path

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
        return decode_frame(self.read_bytes(path), f"{self.path}: {path}")

    def read_mask(self, path: str) -> np.ndarray:
        """The forgery mask of a frame, at its path with `frames` replaced by `masks`: uint8, 255 forged, [H, W].

        Raises:
            MissingFrame: The store holds no mask for it, as for every real frame.
            UnreadableFrame: The mask is not a whole image.
        """
        mask_path = path.replace("frames", "masks")
        where = f"{self.path}: {mask_path}"
        data = self.read_bytes(mask_path)
        _check_whole(data, where)
        return _decode(data, cv2.IMREAD_GRAYSCALE, where)

    def read_landmarks(self, path: str) -> np.ndarray:
        """Facial landmarks of a frame, at its path with `frames` replaced by `landmarks` and the suffix by `.npy`:
        float32 (x, y) in pixels of the stored frame, [81, 2].

        DeepfakeBench's LMDBs hold the bare numbers, int64 when made on Linux and int32 when made on Windows; the
        length tells which. Files are .npy with a header, and may hold another number of points.

        Raises:
            MissingFrame: The store holds no landmarks for it.
            UnreadableFrame: They have another length or form.
        """
        landmark_path = str(PurePosixPath(path.replace("frames", "landmarks")).with_suffix(".npy"))
        data = self.read_bytes(landmark_path)
        where = f"{self.path}: {landmark_path}"
        if data.startswith(NPY_START):
            try:
                points = np.load(io.BytesIO(data), allow_pickle=False)
            except (ValueError, EOFError) as error:
                raise UnreadableFrame(f"{where}: not a whole .npy file ({error})") from error
        else:
            kinds = {np.dtype(kind).itemsize * LANDMARKS[0] * LANDMARKS[1]: kind for kind in ("<i4", "<i8")}
            if len(data) not in kinds:
                raise UnreadableFrame(
                    f"{where}: {len(data)} bytes; wants {' or '.join(map(str, kinds))} ({LANDMARKS} int32 or int64)"
                )
            points = np.frombuffer(data, kinds[len(data)]).reshape(LANDMARKS)
        if points.ndim != 2 or points.shape[1] != 2 or points.dtype.kind not in "iuf":
            raise UnreadableFrame(f"{where}: {points.dtype} {list(points.shape)}; wants numbers [K, 2]")
        return points.astype(np.float32)


def decode_frame(data: bytes, where: str) -> np.ndarray:
    """RGB uint8 [H, W, 3] of an encoded image.

    The pixels are OpenCV's, as in DeepfakeBench. Some of its versions return a cut JPEG with grey below the cut and
    no error, so that the end of the file is looked at first. Grey and transparent images and 16-bit ones are refused:
    turned to RGB they would be another picture than the one that was stored.

    Args:
        data: A PNG, JPEG or other format OpenCV reads.
        where: Store and path, for messages.

    Raises:
        UnreadableFrame: Empty, cut short, damaged, not an image, or not of three 8-bit channels.
    """
    _check_whole(data, where)
    if data.startswith(PNG_START) and data[24:26] not in PNG_COLOUR:
        raise UnreadableFrame(f"{where}: PNG of bit depth and colour type {list(data[24:26])}; wants 8-bit RGB, [8, 2]")
    image = _decode(data, cv2.IMREAD_ANYCOLOR, where)
    if image.ndim != 3 or image.shape[2] != 3:
        raise UnreadableFrame(f"{where}: image of shape {list(image.shape)}; wants [H, W, 3]")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def open_store(path: str | os.PathLike) -> FrameStore:
    """The store at a path: an LMDB if the folder holds data.mdb, else a folder of files.

    Args:
        path: Folder of an LMDB; or the folder that holds the data set folders (`datasets/rgb`), or a data set folder.

    Raises:
        UserError: No such folder.
    """
    path = Path(path)
    if path.name == "data.mdb" and path.is_file():
        path = path.parent
    if not path.is_dir():
        beside = sorted(other.name for other in path.parent.iterdir()) if path.parent.is_dir() else []
        raise UserError(
            f"{path}: no such frame store{nearest(path.name, beside)}; wants a folder with data.mdb, or one of frames"
        )
    return LmdbStore(path) if (path / "data.mdb").is_file() else FileStore(path)


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
    """Frames in an LMDB, DeepfakeBench's or `LmdbWriter`'s.

    Args:
        path: The folder with data.mdb. It must not change while it is open.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self._real_path = os.path.realpath(path)
        self._forms = list(KEY_FORMS)
        _forget_if_replaced(self._real_path)

    def _get(self, transaction: lmdb.Transaction, path: str) -> memoryview | None:
        """Value of the key, which may be written in three ways; the way that was right last is tried first."""
        for place, form in enumerate(self._forms):
            value = transaction.get(form(path))
            if value is not None:
                if place:
                    self._forms = [form, *(other for other in KEY_FORMS if other is not form)]
                return value
        return None

    def read_bytes(self, path: str) -> bytes:
        try:
            with _environment(self._real_path).begin(buffers=True) as transaction:
                value = self._get(transaction, path)
                if value is not None:
                    return bytes(value)
        except lmdb.Error as error:
            raise UnreadableFrame(
                f"{self.path}: {path}: {error}; the LMDB is damaged, copy or pack it again"
            ) from error
        raise MissingFrame(
            f"{self.path}: no key for {path} (tried {', '.join(_text(form(path)) for form in KEY_FORMS)})"
        )

    def __contains__(self, path: str) -> bool:
        return not self.missing([path])

    def missing(self, paths: Iterable[str]) -> list[str]:
        paths = list(paths)
        absent = set()
        try:
            with _environment(self._real_path).begin(buffers=True) as transaction:
                for path in sorted(set(paths)):  # neighbours in the tree: each of its pages is read once
                    if self._get(transaction, path) is None:
                        absent.add(path)
        except lmdb.Error as error:
            raise UserError(f"{self.path}: {error}; the LMDB is damaged, copy or pack it again") from error
        return [path for path in paths if path in absent]


class LmdbWriter:
    """Writes an LMDB that DeepfakeBench's loader reads: the files' bytes, under keys of its released (Windows) form.

    A context manager. The store is written into a hidden folder beside its place and renamed when all is in it; after
    an error nothing is left. The map grows as needed.

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
        map_size: int = 1 << 30,
        batch_bytes: int = 32 << 20,
    ):
        self.path = Path(path)
        self.replace = replace
        self.batch_bytes = batch_bytes
        self.count = 0
        self._map_size = map_size
        self._partial = self.path.parent / f".{self.path.name}.{uuid.uuid4().hex[:8]}.partial"
        self._environment: lmdb.Environment | None = None
        self._batch: list[tuple[bytes, bytes]] = []
        self._held = 0

    def __enter__(self) -> "LmdbWriter":
        if not self.replace and self.path.exists():
            raise UserError(f"{self.path}: is there already; remove it, or choose another place")
        try:
            self._partial.mkdir(parents=True)
            self._environment = lmdb.open(
                str(self._partial), map_size=self._map_size, lock=False, sync=False, metasync=False, mode=0o644
            )
        except (OSError, lmdb.Error) as error:
            self._discard()
            raise self._failed(error) from error
        return self

    def put(self, path: str, data: bytes) -> None:
        """Store a file's bytes under its canonical path."""
        key = _windows_key(path)
        if not data:
            raise UserError(f"{self.path}: {path}: no bytes to store")
        if len(key) > self._environment.max_key_size():
            raise UserError(
                f"{self.path}: {path}: {len(key)} bytes; a key has {self._environment.max_key_size()} at most"
            )
        self._batch.append((key, bytes(data)))
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
        while self._batch:
            try:
                with self._environment.begin(write=True) as transaction:
                    for key, data in self._batch:
                        if not transaction.put(key, data, overwrite=False) and transaction.get(key) != data:
                            raise UserError(f"{self.path}: {_text(key)} is put twice with different bytes")
                self.count += len(self._batch)
                self._batch, self._held = [], 0
            except lmdb.MapFullError:
                self._grow()
            except (OSError, lmdb.Error) as error:
                raise self._failed(error) from error

    def _grow(self) -> None:
        self._map_size *= 2
        try:
            self._environment.set_mapsize(self._map_size)
        except (OSError, MemoryError, OverflowError, lmdb.Error) as error:
            raise self._failed(error) from error

    def _finish(self) -> None:
        self._commit()
        old = self._partial.with_suffix(".old")
        try:
            self._environment.sync(True)
            self._environment.close()
            _forget(os.path.realpath(self.path))
            if self.replace and self.path.exists():
                os.rename(self.path, old)
            os.rename(self._partial, self.path)
        except (OSError, lmdb.Error) as error:
            if old.exists() and not self.path.exists():
                os.rename(old, self.path)
            raise self._failed(error) from error
        shutil.rmtree(old, ignore_errors=True)

    def _discard(self) -> None:
        """Remove what is not finished; after `_finish` nothing is left to remove."""
        self._batch = []
        if self._environment is not None:
            self._environment.close()
        shutil.rmtree(self._partial, ignore_errors=True)

    def _failed(self, error: Exception) -> UserError:
        return UserError(
            f"{self.path}: cannot be written: {error}; see that the disk has room and can be written, then start again"
        )


def _windows_key(path: str) -> bytes:
    return path.replace("/", "\\").encode()


def _linux_key(path: str) -> bytes:
    """DeepfakeBench's script joins the data set folder with a backslash whatever the machine's separator is."""
    return path.replace("/", "\\", 1).encode()


KEY_FORMS = (_windows_key, _linux_key, str.encode)

# One environment a path and process: LMDB forbids a second, and stores of one path (FF-DF and FF-NT, say) share it.
_environments: dict[str, tuple[lmdb.Environment, tuple[int, int]]] = {}
_lock = threading.Lock()


def _environment(real_path: str) -> lmdb.Environment:
    opened = _environments.get(real_path)
    if opened is None:
        with _lock:
            opened = _environments.get(real_path)
            if opened is None:
                opened = _environments[real_path] = (_open_environment(real_path), _identity(real_path))
    return opened[0]


def _open_environment(real_path: str) -> lmdb.Environment:
    try:
        # Readahead stays on: a frame spans 25 pages, and page by page from a cold disk it takes ten times as long.
        environment = lmdb.open(real_path, create=False, readonly=True, lock=False)
    except (OSError, lmdb.Error) as error:
        raise UserError(f"{real_path}: not a readable LMDB ({error}); copy or pack it again") from error
    pages = environment.info()["last_pgno"] + 1
    shortfall = pages * environment.stat()["psize"] - os.path.getsize(os.path.join(real_path, "data.mdb"))
    if shortfall > ALLOWED_SHORTFALL:
        environment.close()
        raise UserError(f"{real_path}: data.mdb is cut short, {shortfall} bytes are missing; copy or pack it again")
    return environment


def _identity(real_path: str) -> tuple[int, int]:
    status = os.stat(os.path.join(real_path, "data.mdb"))
    return status.st_dev, status.st_ino


def _forget_if_replaced(real_path: str) -> None:
    opened = _environments.get(real_path)
    if opened is not None and opened[1] != _identity(real_path):
        _forget(real_path)


def _forget(real_path: str) -> None:
    with _lock:
        opened = _environments.pop(real_path, None)
        if opened is not None:
            opened[0].close()


def close_all() -> None:
    """Close every LMDB this process has open. Stores stay valid: the next read opens theirs again."""
    for real_path in list(_environments):
        _forget(real_path)


def _start_afresh_in_child() -> None:
    """An environment does not survive fork, and lmdb refuses a second open until the inherited one is closed."""
    global _lock
    _lock = threading.Lock()
    close_all()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_afresh_in_child)


def _check_whole(data: bytes, where: str) -> None:
    if not data:
        raise UnreadableFrame(f"{where}: has no bytes")
    png_cut = data.startswith(PNG_START) and PNG_END not in data[-1024:]
    jpeg_cut = data.startswith(JPEG_START) and data.rfind(JPEG_END) < data.rfind(JPEG_SCAN)
    if png_cut or jpeg_cut:
        raise UnreadableFrame(f"{where}: {'PNG' if png_cut else 'JPEG'} of {len(data)} bytes is cut short")


def _decode(data: bytes, flags: int, where: str) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise UnreadableFrame(f"{where}: {error}") from error
    if image is None:
        raise UnreadableFrame(f"{where}: {len(data)} bytes that are no whole image")
    return image


def _file_names(folder: str) -> frozenset[str]:
    try:
        with os.scandir(folder) as entries:
            return frozenset(entry.name for entry in entries if entry.is_file())
    except OSError:
        return frozenset()


def _text(key: bytes) -> str:
    return key.decode(errors="replace")
