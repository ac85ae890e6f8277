"""Writes files atomically: into a temporary file, which is flushed to the disk and then renamed."""

import errno
import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from resproto_fd.configs import stop_signals
from resproto_fd.configs.errors import UnreadableFile, UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMOVE = "import shutil, sys; sys.stdin.buffer.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"


@contextmanager
def atomic_file(
    path: str | os.PathLike, durable: bool = True, scratch: str | os.PathLike | None = None
) -> Iterator[IO[bytes]]:
    """Opens a binary file for writing; it gets its name only when it is complete.

    Args:
        path: The file; folders above it are made.
        durable: Flush the file to the disk before it takes its name, so that it also survives a crash of the machine.
            False is faster, for the many small files that can be made again.
        scratch: Folder of the same file system in which the file lies until it is complete, so that a killed process
            leaves nothing elsewhere. None: the file's own.

    Raises:
        UserError: No space is left, the folder cannot be written, or a folder has the file's name; an earlier file at
            `path` is unchanged.
    """
    path = Path(path)
    _refuse_folder(path)
    if _is_of_system(path):  # a file in its place would be one for every program
        try:
            with open(path, "wb") as file:
                yield file
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); set a file") from error
        return
    temporary = Path(scratch or path.parent, f".{path.name}.{os.getpid()}.part")
    make_folder(path.parent)
    try:
        with stop_signals.half_done(temporary):
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        if durable:
            sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        code = _os_error_code(error)
        if code is None:
            raise
        kept = f"the {path.name} from before is untouched" if path.exists() else "no half-written file was left"
        remedy = "free some space and run the same command again" if code in DISK_FULL else "check the folder"
        raise UserError(f"{path}: cannot be written ({os.strerror(code)}); {kept}; {remedy}") from error


def _is_of_system(path: Path) -> bool:
    """Whether a path is a device or a stream as the system names it: /dev/null, /dev/stdout, /dev/fd/63."""
    place = os.path.abspath(path)
    if not place.startswith(("/dev/", "/proc/")):
        return False
    return os.path.islink(place) or (os.path.exists(place) and not os.path.isfile(place) and not os.path.isdir(place))


def refuse_same(outputs: Mapping[str, str | os.PathLike | None], inputs: Iterable[str | os.PathLike] = ()) -> None:
    """Refuses, before the work, output files in the place of a file that is read, of each other, or of a folder.

    Args:
        outputs: The file of each option; None where the option is not given.
        inputs: Files that the command reads; they need not exist.

    Raises:
        UserError: An output stands in such a place.
    """
    taken = [(path, "one that this command reads") for path in inputs]
    for option, path in outputs.items():
        if path is None:
            continue
        _refuse_folder(path, option)
        if what := next((what for other, what in taken if _is_same(path, other)), None):
            raise UserError(f"{option} {path}: expected a file of its own, got {what}; set another {option}")
        taken.append((path, f"the file of {option}"))


def _refuse_folder(path: str | os.PathLike, option: str = "") -> None:
    """Refuses to write a file where a folder is."""
    if os.path.isdir(path):
        raise UserError(f"{option} {path}: expected a file, got a folder; set another {option or 'path'}".lstrip())


def _is_same(one: str | os.PathLike, other: str | os.PathLike) -> bool:
    with suppress(OSError):
        if os.path.samefile(one, other):
            return True
    return os.path.realpath(one) == os.path.realpath(other)


def make_folder(path: str | os.PathLike) -> Path:
    """Makes a folder and those above it, if they are missing.

    Raises:
        UserError: A file is in the way, or nothing may be written there.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        in_the_way = next((place for place in (path, *path.parents) if os.path.lexists(place)), path)
        in_the_way = None if in_the_way.is_dir() else in_the_way
        reason = f"{in_the_way} is a file" if in_the_way else error.strerror
        remedy = "free some space" if error.errno in DISK_FULL else "set another folder, or change its permissions"
        raise UserError(f"{path}: cannot be written ({reason}); {remedy}") from error
    return path


@contextmanager
def scratch_folder(place: str | os.PathLike | None = None, prefix: str = "resproto-") -> Iterator[Path]:
    """A folder that is removed after the block, or before a stop signal ends the command.

    Args:
        place: Folder that it lies in; the system's folder of temporary files if None.
        prefix: Begin of its name.
    """
    suffix = ".part" if place else None
    with tempfile.TemporaryDirectory(suffix, prefix, place) as folder, stop_signals.half_done(folder):
        yield Path(folder)


@contextmanager
def passing_folder(prefix: str = "resproto-") -> Iterator[Path]:
    """A folder for people's pictures, removed after the block by a process that does it also if this one is killed."""
    with scratch_folder(prefix=prefix) as folder:
        command = [sys.executable, "-I", "-c", _REMOVE, str(folder)]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        remover = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **silent)
        try:
            yield folder
        finally:
            remover.stdin.close()
            remover.wait()


def sync_folder(folder: Path) -> None:
    """Flushes a directory to the disk (fsync), so that a rename in it survives a crash; does nothing on Windows."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _os_error_code(error: BaseException | None) -> int | None:
    """The errno behind an exception, also where a library wrapped it in an error of its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a UTF-8 text file atomically, see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(text.encode())


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        UnreadableFile: The system refused to read some of them.
        OSError: The file cannot be opened.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        try:
            while block := file.read(1 << 20):
                digest.update(block)
        except OSError as error:  # it does not name the file
            reason = f"cannot be read to its end ({error.strerror or error})"
            raise UnreadableFile(f"{path}: {reason}; check the disk, or copy or make it again") from error
    return digest.hexdigest()
