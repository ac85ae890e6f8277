"""Facts of each frame for an audit: size, format, and the look of its picture."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.picture_kinds import JPEG_START, PNG_START
from resproto_fd.preprocessing.store.frame_store import FrameStore
from resproto_fd.preprocessing.store.image_codec import decode_frame, is_native

GRID = 8
THUMB = 32
BLACK = 3
"""Highest level of a channel in a pixel that counts as black."""
BLANK = 3.0
"""Standard deviation, in grey levels, below which a thumbnail shows nothing."""
LUMINANCE_SUM = 3688
"""Sum of the luminance table of the JPEG standard's annex K, which libjpeg scales by quality."""


@dataclass(frozen=True)
class FrameFacts:
    """Facts of N frames that could be read, in columns.

    Attributes:
        paths: Canonical, N.
        size: Width and height in pixels, [N, 2].
        length: Bytes as stored, [N].
        form: "png", "jpeg", "native" or "other", N.
        quality: Of JPEGs, 1 to 100, from their quantisation table; NaN of others, [N].
        digest: Of the pixels, 64 bits: equal for equal pictures, [N].
        look: Signs of the horizontal and the vertical grey gradients on an 8 x 8 grid, 128 bits, [N, 2] uint64.
        mirrored: The same of the picture's mirror image.
        thumbs: Grey thumbnails, uint8 [N, 32, 32].
        black: Share of the pixels that are black, as padding is, [N].
        border: Mean and deviation of the grey levels in the outer eighth of the picture, [N, 2].
        faults: Unreadable frames, with the reason.
    """

    paths: tuple[str, ...]
    size: np.ndarray
    length: np.ndarray
    form: tuple[str, ...]
    quality: np.ndarray
    digest: np.ndarray
    look: np.ndarray
    mirrored: np.ndarray
    thumbs: np.ndarray
    black: np.ndarray
    border: np.ndarray
    faults: dict[str, str]

    def blank(self) -> np.ndarray:
        """Which frames show nothing, [N] bool."""
        return self.thumbs.std(axis=tuple(range(1, self.thumbs.ndim))) < BLANK


def read_facts(store: FrameStore, paths: Sequence[str], jobs: int = 1, progress: bool = False) -> FrameFacts:
    """Reads the facts of some frames of a store, in the order given.

    Args:
        store: The store.
        paths: Canonical paths; those that the store does not have are faults.
        jobs: Threads.
        progress: Whether to show a bar.
    """
    from resproto_fd.preprocessing.store.threads import in_chunks

    rows, faults = [], {}
    for chunk in in_chunks(
        lambda paths: [_row(store, path) for path in paths], paths, jobs, progress, "reading frames"
    ):
        for row in chunk:
            if isinstance(row[1], str):
                faults[row[0]] = row[1]
            else:
                rows.append(row)
    columns = list(zip(*rows)) or [()] * 11
    n = len(rows)
    return FrameFacts(
        paths=tuple(columns[0]),
        size=np.array(columns[1], np.int32).reshape(n, 2),
        length=np.array(columns[2], np.int64),
        form=tuple(columns[3]),
        quality=np.array(columns[4], np.float64),
        digest=np.array(columns[5], np.uint64),
        look=np.array(columns[6], np.uint64).reshape(n, 2),
        mirrored=np.array(columns[7], np.uint64).reshape(n, 2),
        thumbs=np.array(columns[8], np.uint8).reshape(n, THUMB, THUMB),
        black=np.array(columns[9], np.float64),
        border=np.array(columns[10], np.float64).reshape(n, 2),
        faults=faults,
    )


def gradient_signs(grey: np.ndarray) -> tuple[int, int]:
    """64 bits each of the signs of horizontal and vertical differences on the 8 x 8 grid (a "difference hash").

    >>> ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    >>> gradient_signs(ramp) == (2**64 - 1, 0)
    True
    """
    across = cv2.resize(grey, (GRID + 1, GRID), interpolation=cv2.INTER_AREA).astype(np.int16)
    down = cv2.resize(grey, (GRID, GRID + 1), interpolation=cv2.INTER_AREA).astype(np.int16)
    signs = across[:, 1:] > across[:, :-1], down[1:] > down[:-1]
    return tuple(int.from_bytes(np.packbits(sign).tobytes(), "big") for sign in signs)


def jpeg_quality(data: bytes) -> float:
    """Quality of a JPEG, 1 to 100, as libjpeg would have it for its first quantisation table; NaN if there is none."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == 0xDB:
            table = data[place + 4 : place + 2 + length]
            wide = table[0] >> 4 if table else 0
            if len(table) < 1 + 64 * (1 + wide) or wide > 1:
                break
            values = np.frombuffer(table[1 : 1 + 64 * (1 + wide)], ">u2" if wide else np.uint8)
            scale = 100 * float(values.sum()) / LUMINANCE_SUM
            return min(100.0, max(1.0, (200 - scale) / 2 if scale <= 100 else 5000 / scale))
        if marker == 0xDA:
            break
        place += 2 + length
    return float("nan")


def _row(store: FrameStore, path: str) -> tuple:
    where = f"{store}: {path}"
    try:
        data = store.read_bytes(path)
        image = decode_frame(data, where)
    except UserError as error:
        return path, str(error)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return (
        path,
        image.shape[1::-1],
        len(data),
        _form(data),
        jpeg_quality(data) if data.startswith(JPEG_START) else float("nan"),
        int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=8, salt=_salt(image)).digest(), "big"),
        gradient_signs(grey),
        gradient_signs(grey[:, ::-1]),
        cv2.resize(grey, (THUMB, THUMB), interpolation=cv2.INTER_AREA),
        float((image.max(axis=2) <= BLACK).mean()),
        border_levels(grey),
    )


def border_levels(grey: np.ndarray) -> tuple[float, float]:
    """Mean and deviation of the grey levels in the outer eighth of a picture, where the background is.

    >>> picture = np.full((16, 16), 9, np.uint8); picture[2:-2, 2:-2] = 200
    >>> border_levels(picture)
    (9.0, 0.0)
    """
    height, width = (max(1, side // 8) for side in grey.shape)
    inside = np.zeros(grey.shape, bool)
    inside[height:-height, width:-width] = True
    levels = grey[~inside]
    return float(levels.mean()), float(levels.std())


def _salt(image: np.ndarray) -> bytes:
    """Salt of the digest: the same bytes in another shape are another picture."""
    return image.shape[0].to_bytes(4, "big") + image.shape[1].to_bytes(4, "big")


def _form(data: bytes) -> str:
    if is_native(data):
        return "native"
    return "png" if data.startswith(PNG_START) else "jpeg" if data.startswith(JPEG_START) else "other"
