"""What face extraction is asked to do: its options, and the videos and pictures it finds."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.faces.video_reader import natural_key

VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".dv", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
    *(".mts", ".mxf", ".ogv", ".ts", ".webm", ".wmv"),
)
PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
STATE = ".faces"  # records and half-done work, inside the output folder


@dataclass(frozen=True, slots=True)
class Options:
    """What the crops depend on; kept in every record, and compared before a run is continued.

    Attributes:
        frames: Frames a video, evenly spaced from the first to the last; 0 takes all.
        detector: "mtcnn", or "none" for pictures that are cropped already: they are only resized.
        track: "persistent": the face that lasts; "largest": each frame's largest face.
        size: Side of the crop in pixels.
        scale: Room round the face: 1.3 is DeepfakeBench's, 1 is ArcFace's tight crop.
        min_face: Side in pixels of the smallest face looked for.
        min_score: P(face) in [0, 1] from which a find is a face by itself.
        weak_score: P(face) from which a find is taken where it continues the track of such a face.
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

    def __post_init__(self) -> None:
        choices = {
            "detector": ("mtcnn", "none"),
            "track": ("persistent", "largest"),
            "pictures": ("separate", "sequence"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"{name} is {getattr(self, name)!r}; choices: {', '.join(allowed)}")
        ranges = {
            "frames": (0, 10**9),
            "size": (8, 4096),
            "scale": (0.5, 10),
            "min_face": (12, 10**4),
            "min_score": (0, 1),
            "weak_score": (0, 1),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} is {getattr(self, name)}; wanted {low} to {high}")

    def as_dict(self) -> dict:
        """For a record."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Source:
    """One video, picture, or folder of pictures.

    Attributes:
        name: Path below the root, "/" separators.
        kind: "video", "picture", "sequence".
        files: Where it is read from; several only for a sequence.
        folder: Where its crops go, below the output folder: the name's folder without a last "videos" or "frames".
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

    def mask_video(self) -> str | None:
        """The video of the manipulated area, where FaceForensics++ keeps it: masks/videos/NAME beside the folder of the
        compression (or beside the folder "videos"). None where there is none."""
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
    """Every video and picture in the places, and how many other files there are, by suffix.

    Hidden files, folders named "masks", and crops made before are passed over.

    Args:
        places: Files and folders.
        out: The output folder.
        root: The folder that names begin below; by default a place's parent, so that DATA/Celeb-DF-v2 gives names that
            begin with Celeb-DF-v2.
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
            raise UserError(f"{place} is not inside the root {top}")
        if place.is_file():
            kind = "picture" if place.suffix.lower() in PICTURE_SUFFIXES else "video"
            source = _source(place.relative_to(top), kind, [place])
            found[source.name] = source
            continue
        for folder, names in _walk(place, out):
            by_kind: dict[str, list[Path]] = {"video": [], "picture": []}
            for name in names:
                suffix = Path(name).suffix.lower()
                kind = "video" if suffix in VIDEO_SUFFIXES else "picture" if suffix in PICTURE_SUFFIXES else None
                if kind:
                    by_kind[kind].append(folder / name)
                else:
                    others[suffix or "no suffix"] += 1
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
    stem = name.name if kind == "sequence" else name.stem
    return Source(name.as_posix(), kind, tuple(map(str, files)), folder.as_posix(), stem)


def _walk(place: Path, out: Path):
    """(folder, visible file names) of the folders below a place; links are followed, each folder is visited once."""
    seen = set()
    for folder, folders, names in os.walk(place, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        made_here = (
            Path(folder).is_relative_to(out) and (out / STATE / "records" / Path(folder).relative_to(out)).is_dir()
        )
        passed = {"masks", "frames", "landmarks"} if made_here else {"masks"}
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in passed)
        yield Path(folder), sorted(name for name in names if not name.startswith("."))
