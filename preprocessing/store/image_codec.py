"""Stored bytes to pixels: the formats OpenCV reads, and `native`, the pixels themselves.

A native value is 16 bytes of header and the pixels, row by row, RGB uint8:

    "\\x8fRPF"  format 1  channels 3  height  width  0    CRC-32 of the twelve bytes before it and of the pixels
    4 bytes    1 byte    1 byte      2       2      2    4, all little-endian

Raw pixels are twice the size of a PNG and are had 100 times faster. What compresses in between costs more than all the
rest of reading (a 256 x 256 crop of an FF++ video, one core):

    raw   192 KiB  0.003 ms, with its checksum 0.03      lz4                      153 KiB  0.05 ms
    PNG    98 KiB  0.9 ms                                QOI                       97 KiB  0.29 ms
    WebP   53 KiB  0.9 ms (9 ms to write)                zstd of colour and row differences  73 KiB  0.38 ms
"""

import struct
import zlib

import cv2
import numpy as np

from resproto_fd.configs.errors import UserError

PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"
PNG_COLOUR = (b"\x08\x02", b"\x08\x03")  # bit depth 8; RGB or a palette of RGB
JPEG_START, JPEG_SCAN, JPEG_END = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"

NATIVE_START = b"\x8fRPF"
NATIVE_FORMAT = 1
_NATIVE_HEADER = struct.Struct("<4sBBHHH")
_NATIVE_CRC = struct.Struct("<I")
NATIVE_HEADER_SIZE = _NATIVE_HEADER.size + _NATIVE_CRC.size


class UnreadableFrame(UserError):
    """A frame is there, but is not a whole RGB image."""


def encode_native(image: np.ndarray) -> bytes:
    """The native value of a picture.

    Args:
        image: RGB uint8, [H, W, 3].

    Raises:
        ValueError: Another type or shape, no pixels, or a side longer than 65535.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"{image.dtype} {list(image.shape)}; expected uint8 [H, W, 3]")
    if max(image.shape) > 0xFFFF:
        raise ValueError(f"{list(image.shape)}; sides have 65535 pixels at most")
    height, width, channels = image.shape
    head = _NATIVE_HEADER.pack(NATIVE_START, NATIVE_FORMAT, channels, height, width, 0)
    pixels = image.tobytes()
    return b"".join((head, _NATIVE_CRC.pack(zlib.crc32(pixels, zlib.crc32(head))), pixels))


def encode_png(image: np.ndarray) -> bytes:
    """A PNG of a picture: RGB uint8, [H, W, 3]."""
    return cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()


def is_native(data: bytes | memoryview) -> bool:
    """Whether a stored value says that it is native."""
    return data[:4] == NATIVE_START


def view_native(data: bytes | memoryview, where: str) -> np.ndarray:
    """The pixels within a native value, not copied: read-only uint8, [H, W, 3].

    Raises:
        UnreadableFrame: Cut short or longer than it says, of another format, or its checksum differs.
    """
    if len(data) < NATIVE_HEADER_SIZE:
        raise UnreadableFrame(f"{where}: native frame of {len(data)} bytes; its header alone has {NATIVE_HEADER_SIZE}")
    _, version, channels, height, width, _ = _NATIVE_HEADER.unpack_from(data)
    if (version, channels) != (NATIVE_FORMAT, 3):
        raise UnreadableFrame(
            f"{where}: native format {version} with {channels} channels; this version reads format {NATIVE_FORMAT} "
            "with 3: it is damaged, or a newer version packed it"
        )
    wanted = NATIVE_HEADER_SIZE + height * width * channels
    if len(data) != wanted:
        raise UnreadableFrame(f"{where}: native frame of {len(data)} bytes; {height} x {width} pixels want {wanted}")
    data = memoryview(data)
    (stored,) = _NATIVE_CRC.unpack_from(data, _NATIVE_HEADER.size)
    pixels = data[NATIVE_HEADER_SIZE:]
    found = zlib.crc32(pixels, zlib.crc32(data[: _NATIVE_HEADER.size]))
    if found != stored:
        raise UnreadableFrame(f"{where}: damaged: CRC-32 of its pixels is {found:08x}, stored is {stored:08x}")
    return np.frombuffer(pixels, np.uint8).reshape(height, width, channels)


def decode_frame(data: bytes | memoryview, where: str) -> np.ndarray:
    """RGB uint8 [H, W, 3] of a stored value: native, or an encoded image.

    An image's pixels are OpenCV's, as in DeepfakeBench. Some of its versions return a cut JPEG with grey below the cut
    and no error, so that the end of the file is looked at first. Grey and transparent images and 16-bit ones are
    refused: turned to RGB they would be another picture than the one that was stored.

    Args:
        data: A native value, or a PNG, JPEG or other format OpenCV reads.
        where: Store and path, for messages.

    Returns:
        An array of its own; of a native value a view of `data`, read-only.

    Raises:
        UnreadableFrame: Empty, cut short, damaged, not an image, or not of three 8-bit channels.
    """
    if is_native(data):
        return view_native(data, where)
    check_value(data, where)
    image = decode_image(data, cv2.IMREAD_ANYCOLOR, where)
    if image.ndim != 3 or image.shape[2] != 3:
        raise UnreadableFrame(f"{where}: image of shape {list(image.shape)}; expected [H, W, 3]")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def check_value(data: bytes | memoryview, where: str) -> None:
    """Looks at a frame's stored value without decoding it.

    Raises:
        UnreadableFrame: A native value that is damaged, an encoded image that is cut, a PNG that is not 8-bit RGB.
    """
    if is_native(data):
        view_native(data, where)
        return
    check_whole(data, where)
    if data[:8] == PNG_START and bytes(data[24:26]) not in PNG_COLOUR:
        raise UnreadableFrame(
            f"{where}: PNG of bit depth and colour type {list(data[24:26])}; expected 8-bit RGB, [8, 2]"
        )


def check_whole(data: bytes | memoryview, where: str) -> None:
    """Looks at the ends of an encoded image.

    Raises:
        UnreadableFrame: Empty, or a PNG or JPEG without its end.
    """
    if not len(data):
        raise UnreadableFrame(f"{where}: has no bytes")
    png_cut = data[:8] == PNG_START and PNG_END not in bytes(data[-1024:])
    if png_cut or (data[:3] == JPEG_START and _jpeg_is_cut(bytes(data))):
        raise UnreadableFrame(f"{where}: {'PNG' if png_cut else 'JPEG'} of {len(data)} bytes is cut short")


def _jpeg_is_cut(data: bytes) -> bool:
    return data.rfind(JPEG_END) < data.rfind(JPEG_SCAN)


def decode_image(data: bytes | memoryview, flags: int, where: str) -> np.ndarray:
    """What OpenCV makes of an encoded image under its flags (colours in BGR order).

    Raises:
        UnreadableFrame: It makes nothing of it.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise UnreadableFrame(f"{where}: {error}") from error
    if image is None:
        raise UnreadableFrame(f"{where}: {len(data)} bytes that are no whole image")
    return image
