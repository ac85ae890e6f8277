"""Files that are whole or not there: written beside, flushed to the disk, renamed."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from resproto_fd.configs.errors import UserError


def write_atomically(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Lets `write` fill a file that takes `path`'s name only once it is whole and on the disk.

    Raises:
        UserError: No space is left, or the folder cannot be written; what stood at `path` still does.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        code = _os_error_code(error)
        if code is None:
            raise
        kept = f"the {path.name} from before is untouched" if path.exists() else "nothing was left half-written"
        full = code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "free some space and run the same command again" if full else os.strerror(code)
        raise UserError(f"{path}: cannot be written ({os.strerror(code)}); {kept}; {remedy}") from error


def _os_error_code(error: BaseException) -> int | None:
    """The errno behind an exception, also where torch's writer wrapped it in a RuntimeError of its own."""
    while error is not None:
        if isinstance(error, OSError) and error.errno:
            return error.errno
        error = error.__cause__ or error.__context__
    return None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
