"""A video of a data set: its frames, label and method; and the order and choice of its frames."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from resproto_fd.configs.schema import COMPRESSIONS as COMPRESSIONS

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Video:
    """One video of one split of a data set.

    Attributes:
        dataset: The data set as a protocol names it ("Celeb-DF-v2", "FF-DF").
        split: "train", "val" or "test".
        id: Data set folder, source and name, "FaceForensics++/manipulated_sequences/Deepfakes/c23/000_003":
            the folder of its frames without the part "frames". The name alone, "000_003", belongs to four videos.
            If one folder holds frames of several videos, the last part is the JSON's name of the video.
        label: 0 real, 1 fake.
        label_name: The JSON's label string ("FF-DF", "CelebDFv2_real").
        method: What made it ("Deepfakes"), "real" for real videos.
        forgery_type: "real", "face swap", "reenactment", "entire synthesis", "editing" or "unknown".
        frames: Canonical paths in the order of the frame numbers. If a name is not a number, in natural order
            ("seed2" before "seed10").
    """

    dataset: str
    split: str
    id: str
    label: int
    label_name: str
    method: str
    forgery_type: str
    frames: tuple[str, ...]

    def frame_numbers(self) -> tuple[int, ...]:
        """Returns the number of each frame, unique within the video.

        It is the place in the source video if every file is named by a number ("027.png"), otherwise the position in
        `frames`, counted from 0.

        >>> frames = ("D/frames/a/000.png", "D/frames/a/027.png")
        >>> Video("D", "test", "D/a", 0, "real", "real", "real", frames).frame_numbers()
        (0, 27)
        """
        stems = [_stem(path) for path in self.frames]
        if all(map(_is_number, stems)):
            numbers = tuple(map(int, stems))
            if len(set(numbers)) == len(numbers):
                return numbers
        return tuple(range(len(self.frames)))


def evenly_spaced(n: int, wanted: int | None) -> list[int]:
    """Chooses positions of `wanted` frames spread evenly over `n`, the first and the last among them.

    Position i is floor(i (n - 1) / (wanted - 1)), computed in whole numbers so that it is the same on every machine. A
    single frame is the middle one. If `wanted` is None or at least `n`, all positions are chosen. Positions count the
    frames that exist: where a face was missed, the gap between two neighbours is larger.

    Raises:
        ValueError: `wanted` is less than 1.

    >>> evenly_spaced(10, 4), evenly_spaced(10, 1), evenly_spaced(3, 8)
    ([0, 3, 6, 9], [4], [0, 1, 2])
    """
    if wanted is not None and wanted < 1:
        raise ValueError(f"expected at least 1 frame a video, got {wanted}")
    if wanted is None or wanted >= n:
        return list(range(n))
    if wanted == 1:
        return [(n - 1) // 2]
    return [i * (n - 1) // (wanted - 1) for i in range(wanted)]


def _stem(path: str) -> str:
    name = path.rpartition("/")[2]
    return name.rpartition(".")[0] or name


def _is_number(stem: str) -> bool:
    return stem.isascii() and stem.isdigit()


def by_number(frames: Iterable[str]) -> tuple[str, ...]:
    """Sorts paths by the numbers in their file names: "seed2.png" before "seed10.png"."""
    frames = list(frames)
    stems = list(map(_stem, frames))
    if all(map(_is_number, stems)):  # the same order, several times faster
        return tuple(path for _, path in sorted(zip(map(int, stems), frames)))
    return tuple(path for _, path in sorted(zip(map(_natural, stems), frames)))


def _natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key in which runs of digits count as numbers: "seed2" before "seed10"."""
    return tuple(
        (0, int(run), "") if _is_number(run) else (1, 0, run) for run in re.split(r"([0-9]+)", text) if run
    )  # fmt: skip
