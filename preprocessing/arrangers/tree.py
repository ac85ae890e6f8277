"""Looking through a tree of frames."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.arrangers.description import Clip
from resproto_fd.preprocessing.faces.video_reader import natural_key

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
BESIDE_FRAMES = ("masks", "landmarks")


class Tree:
    """The folders below a root that holds data set folders. Names of other letter case than the description's will do.

    Args:
        root: That folder; or the data set folder itself.
        folders: The data set folders that are wanted.

    Attributes:
        root: The folder that holds the data set folders.
        empty: Clips without a picture that were met.

    Raises:
        UserError: None of the folders is there.
    """

    def __init__(self, root: str | os.PathLike, folders: tuple[str, ...]):
        self.root = Path(root)
        self.empty: list[str] = []
        if not self.root.is_dir():
            raise UserError(f"{root}: no such folder; --root is the folder that holds {' or '.join(folders)}")
        if not any((self.root / folder).is_dir() for folder in folders) and self.root.resolve().name in folders:
            self.root = self.root.resolve().parent
        if not any((self.root / folder).is_dir() for folder in folders):
            there = ", ".join(sorted(path.name for path in self.root.iterdir() if path.is_dir())[:20]) or "no folder"
            raise UserError(f"{root}: holds no folder {' or '.join(map(repr, folders))}; it has {there}")

    def clips(self, pattern: str, pictures: bool = False) -> Iterator[Clip]:
        """The clips of a `Source.folder`, in natural order."""
        below = pattern.endswith("/**")
        for folder, parts in self._folders(pattern.removesuffix("/**")):
            if below:
                yield from self._below(folder, parts, pictures, set())
                continue
            for name in self.names(f"{folder}/frames"):
                frames = self.pictures(f"{folder}/frames/{name}")
                if frames:
                    yield Clip(folder, name, frames, parts)
                else:
                    self.empty.append(f"{folder}/{name}")

    def pictures(self, folder: str) -> tuple[str, ...]:
        """Canonical paths of the pictures right in a folder, in natural order."""
        names = self._names(folder, folders=False)
        return tuple(f"{folder}/{name}" for name in names if name.lower().endswith(PICTURES))

    def names(self, folder: str) -> list[str]:
        """Names of the visible folders right in a folder, in natural order."""
        return self._names(folder, folders=True)

    def there(self, pattern: str) -> bool:
        """Whether a folder of that pattern exists."""
        return next(self._folders(pattern.removesuffix("/**")), None) is not None

    def _folders(self, pattern: str) -> Iterator[tuple[str, dict[str, str]]]:
        found = [("", {})]
        for part in pattern.split("/"):
            word = re.fullmatch(r"\{(\w+)\}", part)
            wider = []
            for folder, parts in found:
                if word:
                    names = self.names(folder)
                    wider += [(f"{folder}/{name}".lstrip("/"), {**parts, word[1]: name}) for name in names]
                else:
                    exact = (self.root / folder / part).is_dir()
                    names = [part] if exact else [n for n in self.names(folder) if n.lower() == part.lower()]
                    wider += [(f"{folder}/{name}".lstrip("/"), parts) for name in names]
            found = wider
        yield from found

    def _below(self, folder: str, parts: dict[str, str], pictures: bool, seen: set[str]) -> Iterator[Clip]:
        real = os.path.realpath(self.root / folder)
        if real in seen:
            return
        seen.add(real)
        inner = [name for name in self.names(folder) if name not in BESIDE_FRAMES]
        frames = self.pictures(folder)
        if frames:
            outer = _without_frames(folder)
            if pictures and "frames" not in folder.split("/"):
                for frame in frames:
                    yield Clip(outer, frame.rpartition("/")[2].rpartition(".")[0], (frame,), parts)
            else:
                above, _, name = outer.rpartition("/")
                yield Clip(above, name, frames, parts)
        elif not inner and "/frames/" in folder:
            self.empty.append(_without_frames(folder))
        for name in inner:
            yield from self._below(f"{folder}/{name}", parts, pictures, seen)

    def _names(self, folder: str, folders: bool) -> list[str]:
        try:
            with os.scandir(self.root / folder) as entries:
                names = [
                    entry.name
                    for entry in entries
                    if not entry.name.startswith(".") and (entry.is_dir() if folders else entry.is_file())
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise UserError(f"{self.root / folder}: cannot be read: {error.strerror}") from error
        return sorted(names, key=natural_key)


def _without_frames(folder: str) -> str:
    return "/".join(part for part in folder.split("/") if part != "frames")
