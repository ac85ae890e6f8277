"""Tree of frames: its folders, clips and pictures."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.arrangers.description import Clip
from resproto_fd.preprocessing.faces.video_reader import natural_key
from resproto_fd.preprocessing.picture_kinds import PICTURE_SUFFIXES, VIDEO_SUFFIXES, kind_of_file, stem_of

PICTURES = PICTURE_SUFFIXES
BESIDE_FRAMES = ("masks", "landmarks")
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".rar", ".7z")
BESIDE_VIDEOS = "pictures beside the folders of videos, in none of them"


class Tree:
    """Folders below a root that has data set folders. Names may differ from the description's in letter case.

    Args:
        root: That folder, or the data set folder itself.
        folders: The data set folders to look for.

    Attributes:
        root: The folder that has the data set folders.
        empty: Clips without a picture, as far as they were seen.
        linked: Folders left out because they are links to a folder already taken.

    Raises:
        UserError: None of the folders exists.
    """

    def __init__(self, root: str | os.PathLike, folders: tuple[str, ...]):
        self.root = Path(root)
        self.empty: list[str] = []
        self.linked: list[str] = []
        self._passed_over: dict[str, Counter] = {}
        if not self.root.is_dir():
            raise UserError(f"{root}: no such folder; --root is the folder that holds {' or '.join(folders)}")
        if not any((self.root / folder).is_dir() for folder in folders) and self.root.resolve().name in folders:
            self.root = self.root.resolve().parent
        if not any((self.root / folder).is_dir() for folder in folders):
            there = ", ".join(sorted(path.name for path in self.root.iterdir() if path.is_dir())[:20]) or "no folder"
            raise UserError(f"{root}: holds no folder {' or '.join(map(repr, folders))}; it has {there}")

    def clips(self, pattern: str, pictures: bool = False) -> Iterator[Clip]:
        """Yields the clips of a `Source.folder`, in natural order."""
        below = pattern.endswith("/**")
        for folder, parts in self.folders(pattern.removesuffix("/**")):
            if below:
                yield from self._below(folder, parts, pictures, set())
                continue
            if beside := self.pictures(f"{folder}/frames"):
                suffixes = (os.path.splitext(frame)[1].lower() for frame in beside)
                self._passed_over[f"{folder}/frames"] += Counter((suffix, BESIDE_VIDEOS) for suffix in suffixes)
            for name in self.names(f"{folder}/frames"):
                frames = self.pictures(f"{folder}/frames/{name}")
                if frames:
                    yield Clip(folder, name, frames, parts)
                else:
                    self.empty.append(f"{folder}/{name}")

    def pictures(self, folder: str) -> tuple[str, ...]:
        """Lists the canonical paths of the pictures directly in a folder, in natural order.

        Its other files are counted for `passed_over`.
        """
        names = self._names(folder, folders=False)
        place = self.root / folder
        held = {name for name in names if kind_of_file(os.path.join(place, name)) == "picture"}
        found = tuple(f"{folder}/{name}" for name in names if name in held)
        others = (os.path.splitext(name)[1].lower() for name in names if name not in held)
        self._passed_over[folder] = Counter((suffix, reason_for(suffix)) for suffix in others)
        return found

    def passed_over(self) -> Counter:
        """Number of files that are no frames, in the folders looked at, by (suffix, reason)."""
        return sum(self._passed_over.values(), Counter())

    def names(self, folder: str) -> list[str]:
        """Lists the names of the visible folders directly in a folder, in natural order."""
        return self._names(folder, folders=True)

    def there(self, pattern: str) -> bool:
        """Whether a folder of that pattern exists."""
        return next(self.folders(pattern.removesuffix("/**")), None) is not None

    def folders(self, pattern: str) -> Iterator[tuple[str, dict[str, str]]]:
        found = [("", {})]
        for part in pattern.split("/"):
            words = words_of(part)
            wider = []
            for folder, parts in found:
                if words:
                    for name in self.names(folder):
                        if match := words.fullmatch(name):
                            wider.append((f"{folder}/{name}".lstrip("/"), {**parts, **match.groupdict()}))
                else:
                    exact = (self.root / folder / part).is_dir()
                    names = [part] if exact else [n for n in self.names(folder) if n.lower() == part.lower()]
                    wider += [(f"{folder}/{name}".lstrip("/"), parts) for name in names]
            found = wider
        yield from found

    def _below(self, folder: str, parts: dict[str, str], pictures: bool, seen: set[str]) -> Iterator[Clip]:
        real = os.path.realpath(self.root / folder)
        if real in seen:
            self.linked.append(folder)
            return
        seen.add(real)
        inner = [name for name in self.names(folder) if name not in BESIDE_FRAMES]
        frames = self.pictures(folder)
        if frames:
            outer = _without_frames(folder)
            if pictures and "frames" not in folder.split("/"):
                names = [frame.rpartition("/")[2] for frame in frames]
                stems = Counter(map(stem_of, names))
                for frame, name in zip(frames, names):  # a.png beside a.jpg keeps its suffix
                    yield Clip(outer, stem_of(name) if stems[stem_of(name)] == 1 else name, (frame,), parts)
            else:
                above, _, name = outer.rpartition("/")
                yield Clip(above, name, frames, parts)
        elif not inner and len(seen) > 1:
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


def words_of(part: str) -> re.Pattern | None:
    """The regular expression of a part of a path with `{words}`; None if it has none.

    >>> words_of("{identity}_{take}").fullmatch("id3_0001").groupdict()
    {'identity': 'id3', 'take': '0001'}
    """
    pieces = re.split(r"\{([^\W\d]\w*)\}", part)  # {0} is no word, but part of a name
    if len(pieces) == 1:
        return None
    made = (f"(?P<{piece}>.+?)" if place % 2 else re.escape(piece) for place, piece in enumerate(pieces))
    return re.compile("".join(made))


def reason_for(suffix: str) -> str:
    """Why a file of a suffix that is no picture's is passed over."""
    if suffix in VIDEO_SUFFIXES:
        return "videos; `resproto faces` makes frames of them"
    if suffix in ARCHIVES:
        return "archives; unpack them"
    return f"no pictures that are read ({', '.join(PICTURES)})"


def _without_frames(folder: str) -> str:
    return "/".join(part for part in folder.split("/") if part != "frames")
