"""Kinds of pictures and videos: read right, read with a note, or refused; docs/how_to/pictures.md has the table."""

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing import picture_kinds
from resproto_fd.preprocessing.faces.picture_reader import read_picture_noted
from resproto_fd.preprocessing.faces.sources import find_sources
from resproto_fd.preprocessing.faces.video_reader import UnreadableMedia, VideoFile
from resproto_fd.preprocessing.picture_kinds import HEAD, kind_of, picture_header
from resproto_fd.preprocessing.store.image_codec import UnreadableFrame, decode_frame, decode_mask

PAGE = Path(__file__).parent.parent / "docs" / "how_to" / "pictures.md"
HEIGHT, WIDTH = 48, 64


def scene(channels=3):
    """A smooth picture, brighter to the right and downwards, with unequal channels; uint8."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    planes = [40 + 2 * x + y, 20 + x + 2 * y, 200 - x - y]
    return np.dstack(planes[:channels]).astype(np.uint8) if channels > 1 else planes[0].astype(np.uint8)


COLOUR, GREY = Image.fromarray(scene()), Image.fromarray(scene(1))


def saved(image, kind, **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def coded(suffix, image):
    return cv2.imencode(suffix, image)[1].tobytes()


def holed(image):
    """The picture, its upper left quarter transparent."""
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[: HEIGHT // 2, : WIDTH // 2] = 0
    image = image.copy()
    image.putalpha(Image.fromarray(alpha))
    return image


def turned(kind, orientation):
    """A picture stored on its side, which its EXIF data turn upright."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    side = COLOUR.transpose(Image.Transpose.ROTATE_90)
    return saved(side, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {"lossless": True}))


def damaged_scan():
    data = bytearray(saved(COLOUR, "JPEG", quality=95))
    middle = len(data) * 3 // 4
    data[middle : middle + 60] = bytes(60)
    return bytes(data)


def png_of(width, height, depth=8, colour=2, body=b"\0"):
    """A PNG whose header promises any size; its checksums are right."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return picture_kinds.PNG_START + header + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def flipped(data, place):
    changed = bytearray(data)
    changed[place] ^= 1
    return bytes(changed)


def without_table():
    """A JPEG whose quantisation table is empty."""
    data = saved(COLOUR, "JPEG")
    at = data.index(b"\xff\xdb")
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    return data[: at + 2] + b"\0\2" + data[at + 2 + length :]


def heic():
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    return saved(COLOUR, "HEIF", quality=95)


TWO = {"save_all": True, "append_images": [COLOUR.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]}
PICTURES = {
    "JPEG": lambda: saved(COLOUR, "JPEG", quality=95),
    "JPEG, progressive": lambda: saved(COLOUR, "JPEG", quality=95, progressive=True),
    "JPEG, grey": lambda: saved(GREY, "JPEG", quality=95),
    "JPEG, CMYK": lambda: saved(COLOUR.convert("CMYK"), "JPEG", quality=95),
    "JPEG turned by EXIF": lambda: turned("JPEG", 6),
    "JPEG, cut": lambda: saved(COLOUR, "JPEG", quality=95)[:-300],
    "JPEG, damaged in its scan": damaged_scan,
    "JPEG without a table": without_table,
    "PNG": lambda: saved(COLOUR, "PNG"),
    "PNG, palette": lambda: saved(COLOUR.quantize(256), "PNG"),
    "PNG, grey": lambda: saved(GREY, "PNG"),
    "PNG, 16-bit grey": lambda: coded(".png", scene(1).astype(np.uint16) * 257),
    "PNG, 12-bit grey in 16 bits": lambda: coded(".png", scene(1).astype(np.uint16) * 16),
    "PNG, 16-bit colour": lambda: coded(".png", scene()[..., ::-1].astype(np.uint16) * 257),
    "PNG, opaque alpha": lambda: saved(COLOUR.convert("RGBA"), "PNG"),
    "PNG, transparent": lambda: saved(holed(COLOUR), "PNG"),
    "PNG, palette with transparency": lambda: saved(COLOUR.quantize(256), "PNG", transparency=0),
    "PNG, wrong checksum": lambda: flipped(saved(COLOUR, "PNG"), -20),
    "PNG, cut": lambda: saved(COLOUR, "PNG")[:-40],
    "PNG, animated": lambda: saved(COLOUR, "PNG", **TWO),
    "PNG of 32000 x 32000": lambda: png_of(32000, 32000),
    "WebP": lambda: saved(COLOUR, "WEBP", lossless=True),
    "WebP, transparent": lambda: saved(holed(COLOUR), "WEBP", lossless=True, exact=True),
    "WebP turned by EXIF": lambda: turned("WEBP", 6),
    "WebP, animated": lambda: saved(COLOUR, "WEBP", lossless=True, **TWO),
    "WebP, cut": lambda: saved(COLOUR, "WEBP", lossless=True)[:-6],
    "TIFF": lambda: saved(COLOUR, "TIFF"),
    "TIFF, 16-bit grey": lambda: coded(".tiff", scene(1).astype(np.uint16) * 257),
    "TIFF, floating point, 0 to 1": lambda: saved(Image.fromarray(scene(1).astype(np.float32) / 255), "TIFF"),
    "TIFF, floating point, other range": lambda: saved(Image.fromarray(scene(1).astype(np.float32) * 99), "TIFF"),
    "TIFF, several pages": lambda: saved(COLOUR, "TIFF", **TWO),
    "TIFF, cut": lambda: saved(COLOUR, "TIFF")[:-400],
    "BMP": lambda: saved(COLOUR, "BMP"),
    "BMP, cut": lambda: saved(COLOUR, "BMP")[:-400],
    "AVIF": lambda: saved(COLOUR, "AVIF", quality=95),
    "HEIC": heic,
    "JPEG 2000": lambda: saved(COLOUR, "JPEG2000"),
    "PPM": lambda: saved(COLOUR, "PPM"),
    "a page of HTML": lambda: b"<!DOCTYPE html><html><body>404</body></html>",
    "a pointer of git-lfs": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a script": lambda: b"#!/bin/sh\necho hello\n",
    "one byte": lambda: b"\x89",
    "an empty file": lambda: b"",
}


def rows():
    """The page's table: {kind: (outcome of faces, outcome of a store, what is done)}."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.read_text().splitlines()]
    return {row[0]: tuple(row[1:]) for row in cells if len(row) == 4 and row[1] in OUTCOMES}


OUTCOMES = ("read", "noted", "refused")


def wanted_picture(name):
    picture = scene()
    if "grey" in name or "floating" in name:
        picture = np.repeat(scene(1)[:, :, None], 3, axis=2)
    if name in ("PNG, transparent", "WebP, transparent"):
        picture[: HEIGHT // 2, : WIDTH // 2] = 255
    return picture.astype(int)


def outcome(read, name):
    try:
        picture, note = read()
    except (UnreadableMedia, UnreadableFrame):
        return "refused"
    assert picture.shape == (HEIGHT, WIDTH, 3) and picture.dtype == np.uint8
    if name != "PNG, palette with transparency":
        assert np.abs(picture - wanted_picture(name)).mean() < 4
    return "noted" if note else "read"


@pytest.mark.parametrize("name", PICTURES)
def test_each_kind_of_picture_is_read_right_or_refused_as_the_page_says(tmp_path, name):
    data = PICTURES[name]()
    (tmp_path / "a").write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged TIFFs
        found = (
            outcome(lambda: read_picture_noted(tmp_path / "a"), name),
            outcome(lambda: (decode_frame(data, ""), None), name),
        )
    assert found == rows()[name][:2]


def test_the_page_has_no_kind_that_is_not_tried():
    assert set(rows()) == {*PICTURES, *VIDEOS}
    assert len(rows()) >= 30


# --- videos ----------------------------------------------------------------------------------------------------


def film(path, frames=12, matrix=None, codec="libx264", **options):
    av = pytest.importorskip("av")
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.gop_size = WIDTH, HEIGHT, 4
        stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        stream.bit_rate = 4_000_000
        for i in range(frames):
            image = np.clip(scene().astype(int) + i, 0, 255).astype(np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=stream.pix_fmt)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    if matrix:
        content = bytearray(path.read_bytes())
        at = content.index(b"tkhd") + 44  # after version, times, layer and volume
        a, b, c, d = (value * 65536 for value in matrix)
        content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path.write_bytes(content)
    return path


def with_more_promised(path):
    """The film's header says ten times as many frames as there are."""
    content = bytearray(film(path, codec="mjpeg").read_bytes())
    at = content.index(b"strh") + 8 + 32
    assert struct.unpack_from("<I", content, at) == (12,)
    struct.pack_into("<I", content, at, 120)
    path.write_bytes(content)


def sound(path):
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 16000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)


def cut_film(path):
    film(path, frames=60, options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


UP = scene().astype(int)
VIDEOS = {
    "video": ("a.mp4", film, UP),
    "video, VP9": ("a.webm", lambda path: film(path, codec="libvpx-vp9"), UP),
    "video turned by 90 degrees": ("a.mp4", lambda path: film(path, matrix=(0, 1, -1, 0)), np.rot90(UP, -1)),
    "video turned by 180 degrees": ("a.mp4", lambda path: film(path, matrix=(-1, 0, 0, -1)), np.rot90(UP, 2)),
    "video, mirrored": ("a.mp4", lambda path: film(path, matrix=(-1, 0, 0, 1)), UP[:, ::-1]),
    "video, upside down in a mirror": ("a.mp4", lambda path: film(path, matrix=(1, 0, 0, -1)), UP[::-1]),
    "video, mirrored and turned": ("a.mp4", lambda path: film(path, matrix=(0, 1, 1, 0)), UP.swapaxes(0, 1)),
    "GIF, animated": ("a.gif", lambda path: film(path, codec="gif"), UP),
    "video with fewer frames than promised": ("a.avi", with_more_promised, UP),
    "video, cut": ("a.mp4", cut_film, UP),
    "sound without pictures": ("a.mp4", sound, None),
}


@pytest.mark.parametrize("name", VIDEOS)
def test_each_kind_of_video_is_read_right_or_refused_as_the_page_says(tmp_path, name):
    file, make, wanted = VIDEOS[name]
    make(tmp_path / file)
    said = rows()[name]
    assert said[1] == "-"
    if said[0] == "refused":
        with pytest.raises(UnreadableMedia):
            VideoFile(tmp_path / file)
        return
    reader = VideoFile(tmp_path / file)
    image = dict(reader.read([0]))[0]
    assert image.shape == wanted.shape
    assert np.abs(image - wanted).mean() < (20 if "GIF" in name else 6)
    assert said[0] == ("noted" if reader.damage else "read")


# --- bounds ----------------------------------------------------------------------------------------------------


def big(kind):
    """A picture of 2000 x 3000 pixels of one colour."""
    return saved(Image.new("RGB", (2000, 3000)), kind)


COSTLY = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("WEBP", "JPEG2000", "GIF")]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "AVIF", "PPM", *COSTLY])
def test_pictures_larger_than_the_bound_are_refused_before_they_are_decoded(tmp_path, monkeypatch, kind):
    data = big(kind)
    assert picture_header(data)[:2] == (2000, 3000)
    (tmp_path / "a").write_bytes(data)
    monkeypatch.setenv("RESPROTO_MAX_PIXELS", "5999999")
    monkeypatch.setattr(cv2, "imdecode", None)
    monkeypatch.setattr(Image.Image, "convert", None)
    for read in (decode_frame, decode_mask):
        with pytest.raises(UnreadableFrame, match=r"a: 2000 x 3000 pixels.*5999999 at most; set RESPROTO_MAX_PIXELS"):
            read(data, "a")
    with pytest.raises(UnreadableMedia, match="2000 x 3000 pixels"):
        read_picture_noted(tmp_path / "a")
    assert kind_of(data[:HEAD]) is not None


def test_a_video_larger_than_the_bound_is_refused(tmp_path, monkeypatch):
    film(tmp_path / "a.mp4")
    monkeypatch.setenv("RESPROTO_MAX_PIXELS", str(WIDTH * HEIGHT - 1))
    with pytest.raises(UnreadableMedia, match="64 x 48 pixels"):
        VideoFile(tmp_path / "a.mp4")


@pytest.mark.parametrize("given", ["", "many", "-3", "0", "٣"])
def test_a_bound_that_is_no_number_is_named(monkeypatch, given):
    monkeypatch.setenv("RESPROTO_MAX_PIXELS", given)
    with pytest.raises(UserError, match="RESPROTO_MAX_PIXELS: expected a number of pixels"):
        picture_header(PICTURES["PNG"]())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_jpegs_of_a_store_are_turned_as_opencv_turns_them(orientation):
    data = turned("JPEG", orientation)
    np.testing.assert_array_equal(decode_frame(data, ""), cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1])


@pytest.mark.parametrize("options", [{"quality": 30}, {"quality": 95, "subsampling": 0}, {"progressive": True}])
def test_jpegs_of_a_store_have_opencvs_pixels(options):
    noise = np.random.default_rng(0).integers(0, 256, (53, 37, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), "JPEG", **options)
    np.testing.assert_array_equal(decode_frame(data, ""), cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1])
    grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(decode_mask(data, ""), grey)


# --- names -----------------------------------------------------------------------------------------------------


def test_files_are_found_by_suffix_and_those_without_one_by_content(tmp_path):
    for name in ("a.jfif", "b.jpe", "c.avif", "d.HEIC", "e.tif", "f", "frame.12", "g.jpg_large", "page", "notes.txt"):
        (tmp_path / name).write_bytes(PICTURES["JPEG"]())
    (tmp_path / "page").write_text("no picture")
    (tmp_path / "half.jpg.part").write_bytes(PICTURES["JPEG"]())
    (tmp_path / "raw.dng").write_bytes(PICTURES["TIFF"]())
    film(tmp_path / "h.mp4").rename(tmp_path / "film")
    (tmp_path / "gif").write_bytes(saved(COLOUR, "GIF"))
    found, others = find_sources([tmp_path], tmp_path / "out")
    kinds = {Path(source.name).name: (source.kind, source.stem) for source in found}
    assert kinds == {
        **{name: ("picture", name.partition(".")[0]) for name in ("a.jfif", "b.jpe", "c.avif", "d.HEIC", "e.tif", "f")},
        **{name: ("picture", name) for name in ("frame.12", "g.jpg_large")},
        **{name: ("video", name) for name in ("film", "gif")},
    }
    assert dict(others) == {"no suffix": 1, ".txt": 1, ".part": 1, ".dng": 1}


def test_without_pillow_heif_the_error_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    with pytest.raises(UnreadableMedia, match=r"HEIC picture; .*pip install 'resproto-fd\[heic\]'"):
        read_picture_noted(tmp_path / "a.heic")
