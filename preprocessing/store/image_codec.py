"""Codecs between stored bytes and pixels: the formats that OpenCV reads, and `native`, which is bare pixels.

A native value is 16 bytes of header and the pixels, row by row, RGB uint8:

    "\\x8fRPF"  format 1  channels 3  height  width  0    CRC-32 of the twelve bytes before it and of the pixels
    4 bytes    1 byte    1 byte      2       2      2    4, all little-endian

Raw pixels take twice the space of a PNG and are decoded 100 times faster. Decoding any compression in between costs
more than all the rest of reading (a 256 x 256 crop of an FF++ video, one core):

    raw   192 KiB  0.003 ms, with its checksum 0.03      lz4                      153 KiB  0.05 ms
    PNG    98 KiB  0.9 ms                                QOI                       97 KiB  0.29 ms
    WebP   53 KiB  0.9 ms (9 ms to write)                zstd of colour and row differences  73 KiB  0.38 ms
"""

import io
import struct
import zlib

import cv2
import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.picture_kinds import (
    JPEG_START,
    PNG_START,
    Header,
    decode_jpeg,
    open_with_pillow,
    picture_header,
)

RGB = (("RGB", 8), ("P", 8))
"""Modes and depths of frames: RGB, or a palette of it."""
JPEG_SCAN, JPEG_END = b"\xff\xda", b"\xff\xd9"
EXIF, EXIF_WITHIN = b"Exif\0\0", 1 << 16
_TURNS = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: np.rot90,
}
"""How to turn a picture upright, by its EXIF orientation; OpenCV does so."""

NATIVE_START = b"\x8fRPF"
NATIVE_FORMAT = 1
_NATIVE_HEADER = struct.Struct("<4sBBHHH")
_NATIVE_CRC = struct.Struct("<I")
NATIVE_HEADER_SIZE = _NATIVE_HEADER.size + _NATIVE_CRC.size


class UnreadableFrame(UserError):
    """The store has the frame, but it is not a whole RGB image."""


def encode_native(image: np.ndarray) -> bytes:
    """Encodes a picture as a native value.

    Args:
        image: RGB uint8, [H, W, 3].

    Raises:
        ValueError: Another type or shape, no pixels, or a side longer than 65535.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    if max(image.shape) > 0xFFFF:
        raise ValueError(f"expected sides of 65535 pixels at most, got {list(image.shape)}")
    return b"".join((_native_head(image), _NATIVE_CRC.pack(checksum_of(image)), image.tobytes()))


def _native_head(image: np.ndarray) -> bytes:
    height, width, channels = image.shape
    return _NATIVE_HEADER.pack(NATIVE_START, NATIVE_FORMAT, channels, height, width, 0)


def checksum_of(image: np.ndarray, data: bytes | memoryview = b"") -> int:
    """Computes the CRC-32 of a picture's size and pixels; it is the same in whatever codec the picture is stored.

    Args:
        image: RGB uint8, [H, W, 3].
        data: The stored value that the picture was decoded from, if it is at hand. A native value has the checksum in
            it, so that nothing is computed.
    """
    if is_native(data):
        return _NATIVE_CRC.unpack_from(data, _NATIVE_HEADER.size)[0]
    return zlib.crc32(np.ascontiguousarray(image), zlib.crc32(_native_head(image)))


def encode_png(image: np.ndarray) -> bytes:
    """Encodes a picture, RGB uint8 [H, W, 3], as a PNG."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def is_native(data: bytes | memoryview) -> bool:
    """Whether a stored value has the mark of native values."""
    return data[:4] == NATIVE_START


def view_native(data: bytes | memoryview, where: str) -> np.ndarray:
    """Returns the pixels in a native value without a copy: read-only uint8, [H, W, 3].

    Raises:
        UnreadableFrame: Its length is not the one in its header, its format is unknown, or its checksum differs.
    """
    if len(data) < NATIVE_HEADER_SIZE:
        raise UnreadableFrame(f"{where}: native frame of {len(data)} bytes; the header alone has {NATIVE_HEADER_SIZE}")
    _, version, channels, height, width, _ = _NATIVE_HEADER.unpack_from(data)
    if (version, channels) != (NATIVE_FORMAT, 3):
        raise UnreadableFrame(
            f"{where}: native format {version} with {channels} channels; this version reads format {NATIVE_FORMAT} "
            "with 3. The frame is damaged, or a newer version packed it"
        )
    wanted = NATIVE_HEADER_SIZE + height * width * channels
    if len(data) != wanted:
        raise UnreadableFrame(f"{where}: native frame of {len(data)} bytes; {height} x {width} pixels need {wanted}")
    data = memoryview(data)
    (stored,) = _NATIVE_CRC.unpack_from(data, _NATIVE_HEADER.size)
    pixels = data[NATIVE_HEADER_SIZE:]
    found = zlib.crc32(pixels, zlib.crc32(data[: _NATIVE_HEADER.size]))
    if found != stored:
        raise UnreadableFrame(f"{where}: damaged: the CRC-32 of its pixels is {found:08x}, the stored one {stored:08x}")
    return np.frombuffer(pixels, np.uint8).reshape(height, width, channels)


def decode_frame(data: bytes | memoryview, where: str) -> np.ndarray:
    """Decodes a stored value, native or an encoded image: RGB uint8 [H, W, 3].

    An image's pixels are OpenCV's, as in DeepfakeBench. JPEGs are decoded by the library that OpenCV has for them,
    libjpeg-turbo, called directly: OpenCV hides what it warns of, so that a JPEG with a damaged scan looked sound.
    Grey, transparent, animated and 16-bit images are refused: turned into RGB, they would be another picture than the
    stored one.

    Args:
        data: A native value, or a PNG, JPEG, WebP, TIFF, BMP or another format that Pillow and OpenCV know.
        where: Store and path, for messages.

    Returns:
        A new array; for a native value a read-only view of `data`.

    Raises:
        UnreadableFrame: It is empty, cut short, damaged, no image, too large, or has other than three 8-bit channels.
    """
    if is_native(data):
        return view_native(data, where)
    check_value(data, where)
    if data[:3] == JPEG_START:
        return _decode_jpeg(data, "RGB", where)
    image = _decode_other(data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH, where)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise UnreadableFrame(f"{where}: expected an image [H, W, 3] of 8 bits, got {image.dtype} {list(image.shape)}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def decode_mask(data: bytes | memoryview, where: str) -> np.ndarray:
    """Decodes a mask, grey uint8 [H, W].

    Raises:
        UnreadableFrame: It is empty, cut short, damaged, no image, or too large.
    """
    _header(data, where)
    if data[:3] == JPEG_START:
        return _decode_jpeg(data, "GRAY", where)[:, :, 0]
    return _decode_other(data, cv2.IMREAD_GRAYSCALE, where)


def check_value(data: bytes | memoryview, where: str) -> None:
    """Checks a frame's stored value without decoding it: its header, and the checksums and lengths that it has.

    Raises:
        UnreadableFrame: A native value that is damaged; an encoded image that is cut, damaged, too large, or of another
            kind than one picture of 8-bit RGB; or no image.
    """
    if is_native(data):
        view_native(data, where)
        return
    header = _header(data, where)
    if header.frames != 1:
        raise UnreadableFrame(f"{where}: expected one picture, got {header.frames} in one file")
    if (header.mode, header.depth) in RGB:
        return
    if data[:8] == PNG_START:
        raise UnreadableFrame(
            f"{where}: expected a PNG of 8-bit RGB, [8, 2], got bit depth and colour type {list(data[24:26])} "
            f"({header.mode})"
        )
    if header.mode == "L":
        raise UnreadableFrame(
            f"{where}: expected an image [H, W, 3], got [{header.height}, {header.width}]; it is grey"
        )
    raise UnreadableFrame(f"{where}: expected a picture of 8-bit RGB, got {header.mode}")


def _header(data: bytes | memoryview, where: str) -> Header:
    """Reads the header of an encoded image.

    Raises:
        UnreadableFrame: It is empty, no image, too large, cut short or damaged, as far as can be told without decoding.
    """
    if not len(data):
        raise UnreadableFrame(f"{where}: has no bytes")
    if data[:3] == JPEG_START and _jpeg_is_cut(bytes(data)):
        raise UnreadableFrame(f"{where}: JPEG of {len(data)} bytes is cut short")
    try:
        return picture_header(data)
    except ValueError as error:
        raise UnreadableFrame(f"{where}: {error}") from error


def _jpeg_is_cut(data: bytes) -> bool:
    return data.rfind(JPEG_END) < data.rfind(JPEG_SCAN)


def _decode_jpeg(data: bytes | memoryview, colours: str, where: str) -> np.ndarray:
    try:
        image = decode_jpeg(data, colours)
    except ValueError as error:
        raise UnreadableFrame(f"{where}: the JPEG is damaged ({error})") from error
    turn = _TURNS.get(_orientation(data)) if EXIF in bytes(data[:EXIF_WITHIN]) else None
    return image if turn is None else np.ascontiguousarray(turn(image))


def _orientation(data: bytes | memoryview) -> int:
    """Reads the orientation that a JPEG's EXIF data state; 1 if they state none."""
    try:
        with open_with_pillow(io.BytesIO(data)) as image:
            return image.getexif().get(0x0112, 1)
    except Exception:  # damaged EXIF data turn nothing, in OpenCV too
        return 1


def _decode_other(data: bytes | memoryview, flags: int, where: str) -> np.ndarray:
    """Decodes an encoded image with OpenCV, colours in BGR order.

    Raises:
        UnreadableFrame: OpenCV cannot decode it.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise UnreadableFrame(f"{where}: {error}") from error
    if image is None:
        raise UnreadableFrame(f"{where}: the {len(data)} bytes are not a whole image that OpenCV reads")
    return image
