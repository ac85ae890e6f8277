"""Kinds of picture and video files: told by their first bytes, checked by their headers, before anything is decoded."""

import os
import re
import struct
import zlib
from typing import Any, NamedTuple

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.readers.text import kind_instead

VIDEO_SUFFIXES = (
    *(".3gp", ".asf", ".avi", ".dv", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg"),
    *(".mts", ".mxf", ".ogv", ".ts", ".webm", ".wmv"),
)
PICTURE_SUFFIXES = (
    *(".apng", ".avif", ".bmp", ".heic", ".heif", ".hif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png"),
    *(".ppm", ".tif", ".tiff", ".webp"),
)
_KIND_OF_SUFFIX = {**dict.fromkeys(PICTURE_SUFFIXES, "picture"), **dict.fromkeys(VIDEO_SUFFIXES, "video")}
UNFINISHED = ("~", ".bak", ".crdownload", ".old", ".orig", ".part", ".tmp")
"""Ends of names of copies and of downloads that did not end."""
_SUFFIX = re.compile(r"\.[a-z][a-z0-9]{0,6}")
"""What ends a name as a suffix does; `frame.12` and `a.jpg_large` have none."""
HEAD = 400
"""Bytes that `kind_of` looks at."""

MAX_PIXELS = 120_000_000
"""Most pixels of a picture or of a video's frame, unless RESPROTO_MAX_PIXELS is set. Photographs of today have less."""
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "HEIF", "JPEG2000", "PPM")
"""Formats that Pillow may open. Others could start programs (EPS) or fetch files."""

PNG_START = b"\x89PNG\r\n\x1a\n"
JPEG_START = b"\xff\xd8\xff"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_CHUNK = struct.Struct(">I4s")
_PNG_SIZE = struct.Struct(">IIBB")
_CRC = struct.Struct(">I")


class Header(NamedTuple):
    """What a picture's header promises.

    Attributes:
        width, height: Pixels, as stored.
        mode: Its channels in Pillow's words: "RGB", "L", "P", "RGBA", "CMYK", "I;16", "F", ...
        depth: Bits of a channel.
        frames: Number of pictures in the file.
    """

    width: int
    height: int
    mode: str
    depth: int = 8
    frames: int = 1


class TooManyPixels(ValueError):
    """A picture, or a frame of a video, has more than `max_pixels`."""


def max_pixels() -> int:
    """Returns the most pixels that are decoded: the environment variable RESPROTO_MAX_PIXELS, or 120 million.

    Raises:
        UserError: The variable is not a positive whole number.
    """
    given = os.environ.get("RESPROTO_MAX_PIXELS")
    if given is None:
        return MAX_PIXELS
    if not (given.isascii() and given.isdecimal() and len(given) < 20 and int(given) > 0):
        raise UserError(f"RESPROTO_MAX_PIXELS: expected a number of pixels, got {given[:40]!r}")
    return int(given)


def refuse_too_large(width: int, height: int) -> None:
    """Refuses a picture of more than `max_pixels`.

    Raises:
        TooManyPixels: It has more.
    """
    if width * height > max_pixels():
        raise TooManyPixels(
            f"{width} x {height} pixels; expected {max_pixels()} at most; set RESPROTO_MAX_PIXELS to read larger ones"
        )


def kind_of(head: bytes) -> str | None:
    """Tells a file's kind by its first `HEAD` bytes.

    Returns:
        "png", "jpeg", "webp", "tiff", "bmp", "gif", "avif", "heif", "jpeg2000", "pnm"; "video" for any container of
        videos; None for what is neither.

    >>> kind_of(b"GIF89a..."), kind_of(b"<!DOCTYPE html>")
    ('gif', None)
    """
    starts = {PNG_START: "png", JPEG_START: "jpeg", b"GIF8": "gif", b"\0\0\0\x0cjP  ": "jpeg2000"}
    starts |= dict.fromkeys(TIFF_STARTS, "tiff")
    starts |= dict.fromkeys((b"\x1aE\xdf\xa3", b"FLV\x01", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"\0\0\1\xba"), "video")
    for start, kind in starts.items():
        if head.startswith(start):
            return kind
    if head[:4] == b"RIFF":
        return {b"WEBP": "webp", b"AVI ": "video"}.get(head[8:12])
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "bmp"
    if head[:1] == b"P" and head[1:2] in b"56" and head[2:3] in b" \t\r\n#" and len(head) > 2:
        return "pnm"
    if head[4:8] == b"ftyp":
        brands = head[8 : min(int.from_bytes(head[:4], "big"), HEAD)]
        if b"avif" in brands or b"avis" in brands:
            return "avif"
        return "heif" if brands[:4] in (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1") else "video"
    packets = head[0:1], head[188:189], head[376:377]
    if head[4:8] in (b"moov", b"mdat", b"wide") or packets == (b"G", b"G", b"G"):
        return "video"
    return None


def kind_of_file(path: str | os.PathLike) -> str | None:
    """Tells what a file is taken for, "picture" or "video"; None for neither.

    The suffix decides. The first bytes do if there is none: raw photographs and sound begin like TIFFs and films.
    """
    name = os.path.basename(path).lower()
    stem, _, end = name.rpartition(".")
    suffix = f".{end}" if stem and end else ""
    if suffix in _KIND_OF_SUFFIX:
        return _KIND_OF_SUFFIX[suffix]
    if _SUFFIX.fullmatch(suffix) or name.endswith(UNFINISHED):
        return None
    try:
        if kind_instead(path):
            return None
        with open(path, "rb") as file:
            kind = kind_of(file.read(HEAD))
    except OSError:
        return None
    return kind if kind in (None, "video") else "video" if kind == "gif" else "picture"


def stem_of(name: str) -> str:
    """Returns a file's name without its suffix; only known suffixes are ones.

    >>> stem_of("a.b.jpg"), stem_of("frame.12")
    ('a.b', 'frame.12')
    """
    stem, dot, suffix = name.rpartition(".")
    known = f".{suffix.lower()}" in _KIND_OF_SUFFIX
    return stem if dot and stem and known else name


def png_header(data: bytes | memoryview) -> Header:
    """Reads a PNG's header and compares the CRC-32 of every chunk.

    Raises:
        ValueError: It is cut short, or a checksum differs.
    """
    place, seen, size = len(PNG_START), set(), (0, 0, 0, 0)
    frames = 1
    data = memoryview(data)
    while True:
        if place + 12 > len(data):
            raise ValueError(f"PNG of {len(data)} bytes is cut short")
        length, name = _PNG_CHUNK.unpack_from(data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            raise ValueError(f"PNG of {len(data)} bytes is cut short")
        if zlib.crc32(data[place + 4 : end]) != _CRC.unpack_from(data, end)[0]:
            raise ValueError(f"damaged: the CRC-32 of the PNG's chunk {_shown(name)} differs")
        if name == b"IHDR" and length == 13:
            size = _PNG_SIZE.unpack_from(data, place + 8)
        elif name == b"acTL" and length == 8:
            frames = int.from_bytes(data[place + 8 : place + 12], "big")
        elif name == b"IEND":
            break
        seen.add(name)
        place = end + 4
    width, height, depth, colour = size
    mode = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}.get(colour, f"colour type {colour}")
    if b"tRNS" in seen:
        mode += " with transparency"
    return Header(width, height, mode, depth, frames)


def jpeg_header(data: bytes | memoryview) -> Header:
    """Reads a JPEG's header.

    Raises:
        ValueError: It is no JPEG, or damaged.
    """
    import simplejpeg

    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    return Header(width, height, {"Gray": "L", "YCbCr": "RGB", "YCCK": "CMYK"}.get(colours, colours))


def decode_jpeg(data: bytes | memoryview, colours: str) -> Any:
    """Decodes a JPEG with libjpeg-turbo, uint8 [H, W, C]. What libjpeg only warns of is an error: a damaged scan.

    Args:
        data: The file.
        colours: "RGB", "GRAY" or "CMYK".

    Raises:
        ValueError: It is damaged, or has other colours; the message is libjpeg's.
    """
    import simplejpeg

    return simplejpeg.decode_jpeg(data, colours)


def webp_header(data: bytes | memoryview) -> Header:
    """Reads a WebP's header.

    Raises:
        ValueError: It is cut short, or no WebP.
    """
    length = 8 + int.from_bytes(data[4:8], "little")
    if length > len(data) or len(data) < 30:
        raise ValueError(f"WebP of {len(data)} bytes is cut short")
    kind, flags = bytes(data[12:16]), data[20]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[place : place + 3], "little") for place in (24, 27))
        return Header(width, height, "RGBA" if flags & 0x10 else "RGB", 8, 2 if flags & 2 else 1)
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return Header(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF), "RGBA" if bits >> 28 & 1 else "RGB")
    if kind == b"VP8 ":
        width, height = (int.from_bytes(data[place : place + 2], "little") & 0x3FFF for place in (26, 28))
        return Header(width, height, "RGB")
    raise ValueError(f"not a WebP (its first chunk is {_shown(kind)})")


def other_header(data: bytes | memoryview) -> Header:
    """Reads the header of a picture of another format, with Pillow.

    Raises:
        ValueError: It is no picture of a known format, or its header is damaged.
    """
    import io

    try:
        with open_with_pillow(io.BytesIO(data)) as image:
            mode = f"{image.mode} with transparency" if "transparency" in image.info else image.mode
            return Header(*image.size, mode, 8, getattr(image, "n_frames", 1))
    except ValueError:
        raise
    except Exception as error:  # Pillow's readers raise many kinds
        raise ValueError(f"damaged {kind_of(bytes(data[:HEAD])) or 'picture'} ({error})") from error


def picture_header(data: bytes | memoryview) -> Header:
    """Reads a picture's header and refuses one that is too large.

    Raises:
        ValueError: It is no picture of a known format, cut short, damaged, or has more than `max_pixels`.
    """
    start = bytes(data[:12])
    if start.startswith(PNG_START):
        header = png_header(data)
    elif start.startswith(JPEG_START):
        header = jpeg_header(data)
    elif start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        header = webp_header(data)
    else:
        header = other_header(data)
    refuse_too_large(header.width, header.height)
    return header


def open_with_pillow(file: Any) -> Any:
    """Opens a picture with Pillow and reads its header; no pixel is decoded.

    Args:
        file: A path or an open binary file.

    Raises:
        ValueError: It is not of a known format, too large, or needs a library that is not installed; the message names
            it. Pillow's readers raise errors of other kinds too.
    """
    from PIL import Image, UnidentifiedImageError, features

    if Image.MAX_IMAGE_PIXELS is not None:  # our own limit holds, also where it is higher
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, max_pixels())
    head = _head(file)
    kind = kind_of(head)
    if kind == "heif":
        _register_heif()
    if kind == "avif" and not features.check("avif"):
        raise ValueError("an AVIF picture; reading it needs Pillow 11.3 or later: pip install -U pillow")
    try:
        Image.init()  # AVIF and HEIF are not in every Pillow
        image = Image.open(file, formats=[name for name in FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        what = (
            f"a {kind} picture that Pillow cannot read"
            if kind
            else f"not a whole image; it begins with {_shown(head[:24])}"
        )
        raise ValueError(what) from None
    except Image.DecompressionBombError as error:
        raise TooManyPixels(f"{error}; set RESPROTO_MAX_PIXELS to read larger ones") from None
    try:
        refuse_too_large(*image.size)
    except ValueError:
        image.close()
        raise
    return image


def _register_heif() -> None:
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ValueError("a HEIC picture; reading it needs pillow-heif: pip install 'resproto-fd[heic]'") from None
    register_heif_opener()


def _head(file: Any) -> bytes:
    if hasattr(file, "read"):
        head = file.read(HEAD)
        file.seek(0)
        return head
    with open(file, "rb") as opened:
        return opened.read(HEAD)


def _shown(data: bytes) -> str:
    return repr(bytes(data))[1:]
