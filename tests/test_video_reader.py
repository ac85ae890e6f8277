"""Reading frames by number: exact in every container, sparing where it can be, and honest about damage."""

import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from resproto_fd.preprocessing.faces import video_reader
from resproto_fd.preprocessing.faces.video_reader import (
    PictureFile,
    PictureSequence,
    UnreadableMedia,
    VideoFile,
    natural_key,
    read_picture,
)

av = pytest.importorskip("av")

FRAMES = 48
ENCODINGS = {
    "h264_b.mp4": ("libx264", {"bf": "3"}),
    "h264_open.mkv": ("libx264", {"x264-params": "open-gop=1:bframes=3:keyint=12:scenecut=0"}),
    "h264.avi": ("libx264", {"bf": "3"}),
    "h264.ts": ("libx264", {"bf": "3"}),
    "mpeg4.avi": ("mpeg4", {"bf": "2"}),
    "vp8.webm": ("libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    "vp9.webm": ("libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}),
    "mjpeg.mov": ("mjpeg", {}),
}


def film(path, codec="libx264", options=None, gop=12, noise=0, movflags=""):
    """A video whose frame number can be read from its brightness: 4 grey levels a frame."""
    random = np.random.default_rng(0)
    with av.open(str(path), "w", options={"movflags": movflags} if movflags else {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.bit_rate = 2_000_000
        stream.width, stream.height, stream.gop_size = 64, 48, gop
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for i in range(FRAMES):
            image = np.full((48, 64, 3), 20 + 4 * i, np.uint8)
            if noise:
                image[:, 32:] = random.integers(0, noise, (48, 32, 3))
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def number_in(image):
    return round((float(image[:, :24].mean()) - 20) / 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODINGS)
def test_frames_are_those_asked_for_and_equal_plain_decoding(tmp_path, name):
    codec, options = ENCODINGS[name]
    path = film(tmp_path / name, codec, options, noise=200)
    reader = VideoFile(path)
    assert reader.info.frames == FRAMES and (reader.info.width, reader.info.height) == (64, 48)
    with av.open(str(path)) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    wanted = [0, 1, 11, 12, 13, 25, 40, 46, 47]
    found = dict(reader.read(wanted))
    assert sorted(found) == wanted
    for i, image in found.items():
        assert number_in(image) == i
        assert np.array_equal(image, plain[i])
    assert reader.damage is None


def test_colours_are_those_of_opencv(tmp_path):
    path = film(tmp_path / "a.mp4", noise=200)
    capture = cv2.VideoCapture(str(path))
    shown, image = capture.read()
    if not shown:
        pytest.skip("this OpenCV reads no videos")
    assert np.array_equal(dict(VideoFile(path).read([0]))[0], image[..., ::-1])


def test_only_wanted_frames_are_converted_and_far_ones_are_reached_by_seeking(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", options={"bf": "0"}, gop=4)
    reader = VideoFile(path)
    converted, decoded = [], []
    convert, packets = video_reader._rgb, video_reader._packets
    monkeypatch.setattr(video_reader, "_rgb", lambda frame: converted.append(1) or convert(frame))

    def counted(container, stream):
        for packet in packets(container, stream):
            decoded.append(1)
            yield packet

    monkeypatch.setattr(video_reader, "_packets", counted)
    assert [i for i, _ in reader.read([0, 24, 47])] == [0, 24, 47]
    assert len(converted) == 3
    assert len(decoded) < FRAMES / 2


def test_a_seek_that_always_lands_at_the_start_costs_time_but_no_frame(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4")
    reader = VideoFile(path)
    honest = VideoFile._open

    class Stubborn:
        def __init__(self, container):
            self.inner = container

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.inner.close()

        def seek(self, offset, **rest):
            self.inner.seek(0, **rest)

    monkeypatch.setattr(VideoFile, "_open", lambda self: Stubborn(honest(self)))
    assert {i: number_in(image) for i, image in reader.read([3, 30, 45])} == {3: 3, 30: 30, 45: 45}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"this is only text\n" * 50, "not a video"),
        (b"#EXTM3U\n#EXTINF:10,\nhttp://localhost/a.ts\n", "not a video"),
        (b"ffconcat version 1.0\nfile 'a.mp4'\n", "not a video"),
        (bytes(range(256)) * 200, "not a video"),
    ],
)
def test_what_is_no_video_is_refused_with_the_reason(tmp_path, content, reason):
    film(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes(content)
    with pytest.raises(UnreadableMedia, match=reason):
        VideoFile(tmp_path / "b.mp4")


def test_a_file_with_sound_only_is_refused(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.rate = 16000
        for packet in [*stream.encode(sound), *stream.encode()]:
            container.mux(packet)
    with pytest.raises(UnreadableMedia, match="no video stream"):
        VideoFile(tmp_path / "a.mp4")


def test_a_video_cut_short_gives_its_first_part_and_says_so(tmp_path):
    path = film(tmp_path / "a.mp4", noise=255, movflags="faststart")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reader = VideoFile(path)
    assert 5 < reader.info.frames < FRAMES - 5
    assert f"of {FRAMES} frames" in reader.damage
    found = dict(reader.read([0, 1, 2]))
    assert {i: number_in(image) for i, image in found.items()} == {0: 0, 1: 1, 2: 2}


def test_damage_in_the_middle_is_reported_and_damaged_frames_do_not_come(tmp_path):
    path = film(tmp_path / "a.mp4", noise=255)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + len(content) // 8] = bytes(len(content) // 8)
    path.write_bytes(content)
    reader = VideoFile(path)
    found = dict(reader.read(range(FRAMES)))
    assert 20 < len(found) < FRAMES
    assert "the decoder met" in reader.damage
    assert all(number_in(found[i]) == i for i in range(5))


@pytest.mark.parametrize(("degrees", "matrix"), [(90, (0, 1, -1, 0)), (180, (-1, 0, 0, -1)), (270, (0, -1, 1, 0))])
def test_a_video_filmed_on_its_side_comes_upright_as_in_opencv(tmp_path, degrees, matrix):
    path = film(tmp_path / "a.mp4", noise=200)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # after version, times, layer and volume
    a, b, c, d = (value * 65536 for value in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    image = dict(VideoFile(path).read([7]))[7]
    assert image.shape == ((64, 48, 3) if degrees != 180 else (48, 64, 3))
    capture = cv2.VideoCapture(str(path))
    shown = [capture.read() for _ in range(8)][-1]
    if shown[0]:
        assert np.array_equal(image, shown[1][..., ::-1])


def test_a_name_that_looks_like_an_address_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "a.mp4").rename(tmp_path / "concat:a.mp4")
    assert VideoFile("concat:a.mp4").info.frames == FRAMES


def test_pictures_are_turned_as_their_exif_says(tmp_path):
    image = Image.fromarray(np.dstack([np.full((20, 30), v, np.uint8) for v in (200, 100, 50)]))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    reader = PictureFile(tmp_path / "a.jpg")
    ((number, picture),) = reader.read([0])
    assert number == 0 and picture.shape == (30, 20, 3)
    assert np.abs(picture.astype(int) - [200, 100, 50]).max() < 6  # RGB, not BGR
    assert reader.info.codec == "jpeg"


@pytest.mark.parametrize("cut", [0, 0.5])
def test_a_picture_cut_short_is_refused_not_half_grey(tmp_path, cut):
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (90, 90, 3), dtype=np.uint8)).save(tmp_path / "a.jpg")
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[: int(len(whole) * cut)])
    with pytest.raises(UnreadableMedia, match=r"truncated|empty file"):
        read_picture(tmp_path / "a.jpg")


def test_a_folder_of_pictures_is_a_video_that_may_lack_frames(tmp_path):
    paths = []
    for i in range(4):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(paths[-1])
    paths[2].write_text("no picture")
    reader = PictureSequence(paths)
    assert {i: int(image.mean()) for i, image in reader.read([0, 2, 3])} == {0: 0, 3: 3}
    assert reader.info.frames == 4 and reader.damage.startswith("2.png")
    with pytest.raises(UnreadableMedia, match=r"2\.png"):
        PictureSequence([paths[2]])


def test_names_sort_by_their_numbers():
    assert sorted(["f10", "f9", "e", "10", "f9b"], key=natural_key) == ["10", "e", "f9", "f9b", "f10"]


@pytest.mark.slow
def test_real_videos_read_as_plain_decoding_reads_them(shared):
    paths = sorted((shared / "real" / "videos" / "real").glob("*.mp4"))
    path = min(paths, key=lambda path: path.stat().st_size)
    reader = VideoFile(path)
    with av.open(str(path)) as container:
        plain = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert reader.info.frames == len(plain)
    wanted = np.linspace(0, len(plain) - 1, 8, dtype=int).tolist()
    assert all(np.array_equal(image, plain[i]) for i, image in reader.read(wanted))
