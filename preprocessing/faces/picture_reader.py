"""Reads single pictures of many kinds as RGB. What changes the picture is noted; what would falsify it is refused."""

from pathlib import Path
from typing import Any

import numpy as np

from resproto_fd.preprocessing.picture_kinds import (
    JPEG_START,
    PNG_START,
    decode_jpeg,
    open_with_pillow,
    picture_header,
)

DEPTHS = (8, 10, 12, 14, 16)
"""Bits that sensors have. Whole numbers are scaled from the fewest that hold the picture's largest value."""
PLAIN = ("RGB", "L", "P", "1")
"""Pillow's modes that `convert` turns into RGB without loss, if nothing in them is transparent."""
STILLS = ("MPO",)
"""Formats with further pictures in one file that no one means: a phone's second view or depth."""


class UnreadableMedia(Exception):
    """The file has no readable picture; the message is the reason."""


def read_picture(path: str | Path) -> np.ndarray:
    """Reads a picture file as RGB uint8 [H, W, 3], turned upright by its EXIF data.

    Raises:
        UnreadableMedia: As `read_picture_noted`.
    """
    return read_picture_noted(path)[0]


def read_picture_noted(path: str | Path) -> tuple[np.ndarray, str | None]:
    """Reads a picture as `read_picture` does; also returns what was changed on the way, None if nothing was.

    Transparent pictures are laid on white, as viewers show them. Grey pictures of more than 8 bits or of floating
    point are scaled. Of several pictures in one file the first is taken.

    Raises:
        UnreadableMedia: The file is empty, cut short, damaged, too large, no picture, or of unknown range; or reading
            it needs a library that is not installed.
    """
    from PIL import ImageOps

    path = Path(path)
    if path.stat().st_size == 0:
        raise UnreadableMedia("empty file (0 bytes)")
    try:
        notes = _check_file(path)
        with open_with_pillow(path) as image:
            if image.format not in STILLS and getattr(image, "n_frames", 1) > 1:
                notes.append(f"the first of {image.n_frames} pictures in the file")
            picture, more = _as_rgb(ImageOps.exif_transpose(image))
        return picture, "; ".join(notes + more) or None
    except Exception as error:  # Pillow's decoders raise many kinds
        raise UnreadableMedia(f"not a picture that Pillow can read ({error})") from error


def _check_file(path: Path) -> list[str]:
    """Finds the damage that Pillow overlooks, and notes what it changes without a word."""
    with open(path, "rb") as file:
        start = file.read(len(PNG_START))
    if start.startswith((PNG_START, JPEG_START)):
        data = path.read_bytes()
        header = picture_header(data)
        if header.depth == 16 and header.mode != "L":
            return ["16 bits a channel, of which the upper 8 are taken"]
        if start.startswith(JPEG_START):
            _check_jpeg(data, {"L": "GRAY"}.get(header.mode, header.mode))
    return []


def _check_jpeg(data: bytes, colours: str) -> None:
    """Decodes a JPEG strictly: Pillow hides what libjpeg warns of."""
    try:
        decode_jpeg(data, colours)
    except ValueError as error:
        cut = data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
        raise ValueError(f"{'truncated' if cut else 'damaged'}: {error}") from error


def _as_rgb(image: Any) -> tuple[np.ndarray, list[str]]:
    """Converts a picture of any mode to RGB: (uint8 [H, W, 3], notes)."""
    if image.mode in PLAIN and "transparency" not in image.info:
        return np.array(image.convert("RGB")), []
    if image.mode.startswith("I") or image.mode == "F":
        grey, note = _as_bytes(np.asarray(image))
        return np.repeat(grey[:, :, None], 3, axis=2), [note]
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image.convert("RGBA"))
    note = f"{image.mode} turned into RGB without a colour profile"
    return np.array(image.convert("RGB")), [note]


def _on_white(image: Any) -> tuple[np.ndarray, list[str]]:
    from PIL import Image

    if image.getextrema()[3][0] == 255:  # nothing is transparent
        return np.array(image.convert("RGB")), []
    white = Image.new("RGBA", image.size, "white")
    return np.array(Image.alpha_composite(white, image).convert("RGB")), ["transparent parts are laid on white"]


def _as_bytes(values: np.ndarray) -> tuple[np.ndarray, str]:
    """Scales grey values to bytes: (uint8 [H, W], note).

    Raises:
        ValueError: They are negative, not finite, or of unknown range.
    """
    low, high = values.min(), values.max()
    if not (np.isfinite(low) and np.isfinite(high)) or low < 0:
        raise ValueError(f"grey values from {low:g} to {high:g}; expected none below 0, none infinite")
    if values.dtype.kind == "f":
        top = 1 if high <= 1 else 255
        if high > top:
            raise ValueError(f"grey values from {low:g} to {high:g}; expected 0 to 1, or 0 to 255; save 8-bit pictures")
        note = f"floating point, scaled from 0 to {top}"
    else:
        bits = next((bits for bits in DEPTHS if high < 1 << bits), None)
        if bits is None:
            raise ValueError(f"grey values up to {high}; expected 16 bits at most; save 8-bit pictures")
        top = (1 << bits) - 1
        note = f"grey of more than 8 bits, scaled from 0 to {top}"
    return np.round(values.astype(np.float32) * (255 / top)).astype(np.uint8), note
