"""Options of face extraction, and the videos and pictures that it finds."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import sha256_of
from resproto_fd.configs.schema import LONGEST_CLIP
from resproto_fd.preprocessing.faces.video_reader import natural_key
from resproto_fd.preprocessing.picture_kinds import kind_of_file, stem_of

MOST_LINKS = 256
"""Ways to one folder through links. Few data sets have ten; links that lead to links may make millions."""
RUNS = 4
OF_RUNS = {"clips": 0, "runs": RUNS}
"""Options that a record without runs lacks, and their values then."""
STATE = ".faces"  # records and half-done work, inside the output folder


@dataclass(frozen=True, slots=True)
class Options:
    """Options on which the crops depend. Every record has them, and they are compared before a run is resumed.

    Attributes:
        frames: Frames a video, evenly spaced from the first to the last; 0 takes all.
        clips: Consecutive frames of a run; 0 takes no runs. Runs are kept beside the evenly spaced frames.
        runs: Runs a video, with evenly spaced starts.
        detector: "mtcnn", or "none" for pictures that are already cropped; those are only resized.
        track: "persistent": the face that lasts; "largest": each frame's largest face.
        size: Side of the crop in pixels.
        scale: Room around the face: 1.3 is DeepfakeBench's, 1 is ArcFace's tight crop.
        min_face: Side in pixels of the smallest face to find.
        min_score: P(face) in [0, 1] from which a find is a face by itself.
        weak_score: P(face) from which a find is accepted if it continues the track of such a face.
        masks: Whether mask videos are cropped too.
        pictures: "separate": each picture is a video of one frame; "sequence": the pictures of a folder are one video.
    """

    frames: int = 32
    detector: str = "mtcnn"
    track: str = "persistent"
    size: int = 256
    scale: float = 1.3
    min_face: int = 40
    min_score: float = 0.95
    weak_score: float = 0.7
    masks: bool = True
    pictures: str = "separate"
    clips: int = 0
    runs: int = RUNS

    def __post_init__(self) -> None:
        choices = {
            "detector": ("mtcnn", "none"),
            "track": ("persistent", "largest"),
            "pictures": ("separate", "sequence"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name}: expected {' or '.join(allowed)}, got {getattr(self, name)!r}")
        ranges = {
            "frames": (0, 10**9),
            "clips": (0, LONGEST_CLIP),
            "runs": (1, 10**6),
            "size": (8, 4096),
            "scale": (0.5, 10),
            "min_face": (12, 10**4),
            "min_score": (0, 1),
            "weak_score": (0, 1),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name}: expected {low} to {high}, got {getattr(self, name)}")
        if self.clips == 1:
            raise UserError("clips: expected 0 or at least 2 frames of a run, got 1")
        if not self.clips and self.runs != RUNS:
            raise UserError(f"runs: expected no such option without clips, got {self.runs}; set clips too")

    def as_dict(self) -> dict:
        """Returns the options for a record; those of runs only if there are runs, so that older records stand."""
        options = asdict(self)
        return options if self.clips else {name: options[name] for name in options if name not in OF_RUNS}


@dataclass(frozen=True, slots=True)
class Source:
    """One video, picture, or folder of pictures.

    Attributes:
        name: Path below the root, "/" separators.
        kind: "video", "picture", "sequence".
        files: Its files; several only for a sequence.
        folder: Folder of its crops, below the output folder: the name's folder without a last "videos" or "frames".
        stem: Name of its own folder there: FOLDER/frames/STEM/000.png.
    """

    name: str
    kind: str
    files: tuple[str, ...]
    folder: str
    stem: str

    def place(self, kind: str) -> PurePosixPath:
        """Its folder of "frames", "landmarks" or "masks", below the output folder."""
        return PurePosixPath(self.folder, kind, self.stem)

    @property
    def record(self) -> PurePosixPath:
        """Its record, below the output folder."""
        return PurePosixPath(STATE, "records", self.folder, f"{self.stem}.json")

    def size(self) -> int:
        """Bytes of its files."""
        return sum(os.stat(path).st_size for path in self.files)

    def inputs(self, masks: bool) -> list[str]:
        """Its files, and its mask video if masks are made."""
        mask = self.mask_video() if masks and self.kind == "video" else None
        return [*self.files, *([mask] if mask else [])]

    def stamps(self, masks: bool) -> list[tuple[int, ...]]:
        """What the system keeps of its inputs; it differs after one was changed.

        Raises:
            OSError: A file is not there.
        """
        found = [os.stat(path) for path in self.inputs(masks)]
        return [(file.st_ino, file.st_size, file.st_mtime_ns, file.st_ctime_ns) for file in found]

    def sha256(self, masks: bool) -> str:
        """Digest of the bytes of its inputs.

        Raises:
            UnreadableFile: The system refused to read some of them.
            OSError: A file cannot be opened.
        """
        digests = [sha256_of(path) for path in self.inputs(masks)]
        return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()

    def mask_video(self) -> str | None:
        """Finds the video of the manipulated area; None without one.

        FaceForensics++ has it in masks/videos/NAME, beside the folder of the compression or beside "videos".
        """
        path = Path(self.files[0])
        above = path.parent.parent if path.parent.name == "videos" else path.parent
        for base in (above, above.parent):
            for name in dict.fromkeys((path.name, f"{path.stem}.mp4", f"{path.stem}.avi")):
                mask = base / "masks" / "videos" / name
                if mask.is_file():
                    return str(mask)
        return None


def find_sources(
    places: Sequence[str | Path], out: str | Path, root: str | Path | None = None, pictures: str = "separate"
) -> tuple[list[Source], Counter]:
    """Finds every video and picture in the places, and counts the other files by suffix.

    Hidden files, folders named "masks", and earlier crops are ignored. A file without a suffix is known by its content.

    Args:
        places: Files and folders.
        out: The output folder.
        root: The folder below which names begin; by default a place's parent, so that names in DATA/Celeb-DF-v2 begin
            with Celeb-DF-v2.
        pictures: As in `Options`.

    Raises:
        UserError: A place does not exist or lies outside the root.
    """
    out = Path(os.path.abspath(out))
    found: dict[str, Source] = {}
    others: Counter = Counter()
    for place in places:
        place = Path(os.path.abspath(place))
        if not place.exists():
            raise UserError(f"{place}: no such file or folder")
        top = Path(os.path.abspath(root)) if root else place.parent
        if not place.is_relative_to(top):
            raise UserError(f"{place}: expected a place inside the root {top}; set another --root")
        if place.is_file():
            source = _source(place.relative_to(top), kind_of_file(place) or "video", [place])
            found[source.name] = source
            continue
        for folder, names in _walk(place, out):
            by_kind: dict[str, list[Path]] = {"video": [], "picture": []}
            for name in names:
                kind = kind_of_file(folder / name)
                if kind:
                    by_kind[kind].append(folder / name)
                else:
                    others[Path(name).suffix.lower() or "no suffix"] += 1
            sources = [_source(path.relative_to(top), "video", [path]) for path in by_kind["video"]]
            if pictures == "separate":
                sources += [_source(path.relative_to(top), "picture", [path]) for path in by_kind["picture"]]
            elif by_kind["picture"]:
                sources.append(_source(folder.relative_to(top), "sequence", by_kind["picture"]))
            found.update((source.name, source) for source in sources)
    return sorted(found.values(), key=lambda source: natural_key(source.name)), others


def _source(name: Path, kind: str, files: list[Path]) -> Source:
    folder = name.parent
    if folder.name in ("videos", "frames"):
        folder = folder.parent
    files = sorted(files, key=lambda path: natural_key(path.name))
    stem = name.name if kind == "sequence" else stem_of(name.name)
    return Source(name.as_posix(), kind, tuple(map(str, files)), folder.as_posix(), stem)


def _walk(place: Path, out: Path):
    """Yields (folder, visible file names) of the folders below a place.

    Links are followed, but not into a folder that they are in. A folder that several links lead to comes several times.

    Raises:
        UserError: More than `MOST_LINKS` ways lead to one folder.
    """
    ways: Counter = Counter()
    chains: dict[str, frozenset[str]] = {}  # the real folders that each folder is in
    for folder, folders, names in os.walk(place, followlinks=True):
        real = os.path.realpath(folder)
        above = chains.get(os.path.dirname(folder), frozenset())
        if real in above:
            folders.clear()
            continue
        chains[folder] = above | {real}
        ways[real] += 1
        if ways[real] > MOST_LINKS:
            raise UserError(f"{folder}: more than {MOST_LINKS} links lead to {real}; remove some")
        made_here = (
            Path(folder).is_relative_to(out) and (out / STATE / "records" / Path(folder).relative_to(out)).is_dir()
        )
        passed = {"masks", "frames", "landmarks"} if made_here else {"masks"}
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in passed)
        yield Path(folder), sorted(name for name in names if not name.startswith("."))
