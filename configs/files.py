"""Files that are whole or not there: written beside, flushed to the disk, renamed."""

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from resproto_fd.configs.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def atomic_file(path: str | os.PathLike, durable: bool = True) -> Iterator[IO[bytes]]:
    """Opens a binary file for writing; the file takes its name only when it is whole.

    Args:
        path: The file; folders above it are made.
        durable: Flush the file to the disk before it takes its name, so that it also survives a crash of the machine.
            False is faster, for the many small files that can be made again.

    Raises:
        UserError: No space is left, or the folder cannot be written; what stood at `path` still does.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
        kept = f"the {path.name} from before is untouched" if path.exists() else "nothing half-written was left"
        remedy = "free some space and run the same command again" if code in DISK_FULL else "check the folder"
        raise UserError(f"{path}: cannot be written ({os.strerror(code)}); {kept}; {remedy}") from error


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
    """Writes a UTF-8 text file that is whole or not there, see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(text.encode())


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
