"""Canonical paths of frames: "/" between the parts, the data set folder first."""

import posixpath
import re
from collections.abc import Sequence

from resproto_fd.configs.errors import UserError, shown
from resproto_fd.configs.readers.text import LARGEST_NUMBER

LONGEST = 4096
"""Characters of a frame's path."""


def canonical_path(raw: str, folder: str | Sequence[str] | None = None) -> str:
    """Makes a JSON's path canonical: "/" between its parts, the data set folder first.

    Args:
        raw: Relative or absolute, of Linux or Windows, separators mixed or doubled.
        folder: Name of the data set folder; several names if a list borrows frames of another data set (DF40 takes its
            real videos from FaceForensics++ and Celeb-DF-v2). The path is cut before the last part with such a name.
            None: the path must be relative and already begin with the folder.

    Raises:
        UserError: The path does not go through the folder, climbs up from it, or names no file in it.

    >>> canonical_path(r"C:\\data\\Celeb-DF-v2\\YouTube-real\\frames/00000/000.png", "Celeb-DF-v2")
    'Celeb-DF-v2/YouTube-real/frames/00000/000.png'
    """
    slashed = raw.replace("\\", "/")
    parts = [part for part in slashed.split("/") if part not in ("", ".")]
    if folder is None:
        if slashed.startswith(("/", ".")) or re.match(r"[A-Za-z]:", slashed):
            raise UserError(
                f"path {shown(raw)} does not begin with its data set folder; set `folder:` in the data set's YAML"
            )
    else:
        names = (folder,) if isinstance(folder, str) else tuple(folder)
        places = [i for i, part in enumerate(parts[:-1]) if part in names]
        if not places:
            raise UserError(
                f"path {shown(raw)} does not go through a folder {' or '.join(map(repr, names))}; correct `folder:` in "
                "the data set's YAML"
            )
        parts = parts[places[-1] :]
    if ".." in parts or len(parts) < 2:
        raise UserError(f"path {shown(raw)} names no file inside its data set folder")
    return "/".join(parts)


class CanonicalPaths:
    """Makes the paths of one JSON canonical. Each folder is computed once, since few folders hold many frames.

    Args:
        folder: See `canonical_path`; None also allows paths that go through a folder named as `key`.
        key: The JSON's top key.
    """

    def __init__(self, folder: str | Sequence[str] | None, key: str):
        self.folder, self.key = folder, key
        self.folders: dict[str, str] = {}

    def canonical(self, raw: str) -> str:
        """Returns the canonical path of a frame."""
        cut = max(raw.rfind("/"), raw.rfind("\\")) + 1
        folder, name = raw[:cut], raw[cut:]
        if name in ("", ".", ".."):
            raise UserError(f"path {shown(raw)} names no file")
        if len(name) > 18:
            _refuse_long(raw, name)
        if folder not in self.folders:
            self.folders[folder] = self._canonical(raw)[: -len(name)]
        return self.folders[folder] + name

    def _canonical(self, raw: str) -> str:
        try:
            return canonical_path(raw, self.folder)
        except UserError:
            if self.folder is None and self.key in re.split(r"[\\/]", raw):
                return canonical_path(raw, self.key)
            raise


def _refuse_long(raw: str, name: str) -> None:
    """Refuses a path that no file system keeps, and a file whose number does not fit 64 bits."""
    if len(raw) > LONGEST:
        raise UserError(f"path {shown(raw)} has {len(raw)} characters; expected at most {LONGEST}: shorten it")
    stem = name.rpartition(".")[0] or name
    if stem.isascii() and stem.isdigit() and int(stem) > LARGEST_NUMBER:
        raise UserError(f"path {shown(raw)}: the frame's number does not fit 64 bits; rename the file")


def video_id(frames: Sequence[str], name: str) -> str:
    """Builds the id of a video from its canonical frames and its name in the JSON, see `Video.id`."""
    folder = posixpath.commonpath({frame.rpartition("/")[0] for frame in frames})
    base = "/".join(part for part in folder.split("/") if part != "frames")
    name = name.replace("\\", "/").strip("/")
    return base if base.rpartition("/")[2] == name else f"{base}/{name}"
