"""Reads videos, single pictures and folders of pictures, and decodes only the frames that were asked for.

Each reader has `info`, `read(numbers)`, `damage`, the faults of a file that can be read in part, and `note`, what was
changed to read it. Both are complete when `read` has ended. Frames are RGB uint8 [H, W, 3], upright, with
OpenCV's colours (BT.601 whatever the file states), so that crops match those made with OpenCV.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resproto_fd.preprocessing.faces.picture_reader import UnreadableMedia, read_picture_noted
from resproto_fd.preprocessing.faces.picture_reader import read_picture as read_picture  # its public place
from resproto_fd.preprocessing.picture_kinds import TooManyPixels, max_pixels, refuse_too_large

# Text formats (playlists, concat scripts, subtitles) are excluded: they can make FFmpeg open other files and addresses.
CONTAINERS = "asf,avi,dv,flv,gif,h264,hevc,ivf,m4v,matroska,mjpeg,mov,mpeg,mpegts,mpegvideo,mxf,nut,ogg,rm,wtv"
# Counting packets counts frames if each packet has a time stamp and is one shown frame. (VP8 has hidden frames.)
TIMED = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
COUNTABLE = {"h264", "hevc", "mpeg4", "mjpeg", "vp9", "av1"}
SKIPPABLE = {"h264", "hevc"}


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """Facts of a video or picture file.

    Attributes:
        frames: Number of frames.
        width, height: Pixels, as stored (a video may be marked to be turned when shown).
        fps: Frames a second; None for pictures, and if the file does not tell.
        codec: "h264", "jpeg", ...
    """

    frames: int
    width: int
    height: int
    fps: float | None
    codec: str


class VideoFile:
    """Reads a video's frames by number, and decodes as little as possible.

    Packets are listed first, without decoding. That gives the exact number of frames and the place of each key frame.
    Reading seeks if a key frame lies between the current position and the next wanted frame. It skips frames to which
    no other frame refers, and converts to RGB only what was asked for. The frames equal those of plain decoding, bit by
    bit. A file is decoded from end to end if its packets have no usable time stamps, or if seeking loses frames.

    Raises:
        UnreadableMedia: It is not a video, or no frame in it can be decoded.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.damage = self.note = None
        if Path(path).stat().st_size == 0:
            raise UnreadableMedia("empty file (0 bytes)")
        with self._open() as container:
            stream = container.streams.video[0]
            context = stream.codec_context
            self._order = [(p.pts, p.is_keyframe, p.is_discard) for p in _packets(container, stream) if p.size]
            shown = [pts for pts, _, discard in self._order if not discard]
            declared = stream.frames
            rate = stream.average_rate
            codec = context.codec.canonical_name
            timed = container.format.name in TIMED and codec in COUNTABLE
        countable = timed and None not in shown and len(set(shown)) == len(shown)
        self._times = sorted(shown) if countable else self._decoded_times()
        if not self._times:
            raise UnreadableMedia("no frame can be decoded")
        self._skips = codec in SKIPPABLE
        self._seekable = countable
        if countable:
            self._position = {pts: i for i, (pts, _, _) in enumerate(self._order)}
            keys = [(pts, i) for i, (pts, key, _) in enumerate(self._order) if key]
            self._key_times = [pts for pts, _ in keys]
            self._key_positions = [i for _, i in keys]
        if declared > len(self._order):
            self.damage = f"cut short: {len(self._order)} of {declared} frames are in the file"
        self.info = MediaInfo(
            frames=len(self._times),
            width=context.width,
            height=context.height,
            fps=round(float(rate), 3) if rate else None,
            codec=codec,
        )

    def read(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(number, frame) of the wanted frames, in order; frames that only plain decoding finds come after the others.

        A frame that is lost or that the decoder marks as damaged does not come at all.
        """
        wanted = {self._times[n]: n for n in numbers}
        if self._seekable:
            for time, frame in self._decode_few(sorted(wanted)):
                yield wanted.pop(time), frame
        if wanted:
            for time, frame in self._decode_all():
                if time in wanted and not self._is_damaged(frame):
                    yield wanted.pop(time), _rgb(frame)
                    if not wanted:
                        return

    def _open(self):
        import av

        try:
            # "file:" keeps a name like "concat:a.mp4" a name.
            container = av.open(
                f"file:{Path(self.path).absolute()}",
                options={"format_whitelist": CONTAINERS, "protocol_whitelist": "file"},
                metadata_errors="replace",
            )
        except av.error.FFmpegError as error:
            raise UnreadableMedia(f"not a video that FFmpeg can open ({error.strerror})") from error
        if not container.streams.video:
            container.close()
            raise UnreadableMedia("has no video stream")
        context = container.streams.video[0].codec_context
        if context is None or not context.width:
            container.close()
            raise UnreadableMedia("the video stream cannot be decoded")
        try:
            refuse_too_large(context.width, context.height)
        except TooManyPixels as error:
            container.close()
            raise UnreadableMedia(str(error)) from error
        context.options = {"max_pixels": str(max_pixels())}  # a frame's own header may promise more than the file's
        context.thread_count = 1  # processes work side by side already
        return container

    def _decode_few(self, times: list[int]) -> Iterator[tuple[int, np.ndarray]]:
        import av

        todo, wanted, position = times[::-1], set(times), 0
        with self._open() as container:
            stream = container.streams.video[0]
            context = stream.codec_context
            while todo:
                key = self._key_position(todo[-1])
                if key > position:
                    try:
                        container.seek(self._order[key][0], stream=stream)
                    except av.error.FFmpegError:
                        return
                for packet in _packets(container, stream):
                    position = self._position.get(packet.pts, position) + 1
                    if self._skips:
                        context.skip_frame = "DEFAULT" if packet.pts in wanted or not packet.size else "NONREF"
                    left = len(todo)
                    for frame in self._decoded(packet):
                        if not self._is_damaged(frame) and frame.pts in wanted:
                            wanted.discard(frame.pts)
                            yield frame.pts, _rgb(frame)
                        while todo and frame.pts is not None and todo[-1] <= frame.pts:
                            todo.pop()
                    # Only after progress, else a seek that lands too early is tried again for ever.
                    if len(todo) < left and (not todo or self._key_position(todo[-1]) > position):
                        break
                else:
                    return

    def _key_position(self, time: int) -> int:
        at = bisect_right(self._key_times, time) - 1
        return self._key_positions[at] if at >= 0 else 0

    def _decode_all(self) -> Iterator[tuple]:
        """Yields (time, frame) of every frame. If packets have no usable time, it is the frame's position."""
        with self._open() as container:
            stream = container.streams.video[0]
            count = 0
            for packet in _packets(container, stream):
                for frame in self._decoded(packet):
                    yield (frame.pts if self._seekable else count), frame
                    count += 1

    def _decoded_times(self) -> list[int]:
        self._seekable = False
        return [time for time, _ in self._decode_all()]

    def _decoded(self, packet) -> list:
        import av

        try:
            return packet.decode()
        except av.error.FFmpegError as error:
            self.damage = self.damage or f"the decoder met errors ({error.strerror})"
            return []

    def _is_damaged(self, frame) -> bool:
        if frame.is_corrupt:
            self.damage = self.damage or "the decoder met damaged frames"
        return frame.is_corrupt


class PictureFile:
    """One picture as a video of one frame.

    Raises:
        UnreadableMedia: Empty, cut short, or not a picture.
    """

    def __init__(self, path: str | Path) -> None:
        self.damage = None
        self._picture, self.note = read_picture_noted(path)
        self.info = _picture_info(1, self._picture, path)

    def read(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """(0, picture) if 0 is among the numbers."""
        if 0 in numbers:
            yield 0, self._picture


class PictureSequence:
    """The pictures of one folder as the frames of one video, in the order given; `info` describes the first readable.

    Raises:
        UnreadableMedia: None of the pictures can be read.
    """

    def __init__(self, paths: Sequence[str | Path]) -> None:
        self.paths = [str(path) for path in paths]
        self.damage = self.note = None
        reason = "holds no picture"
        for path in self.paths:
            try:
                self.info = _picture_info(len(self.paths), read_picture_noted(path)[0], path)
                return
            except UnreadableMedia as error:
                reason = f"no picture in it can be read; {Path(path).name}: {error}"
        raise UnreadableMedia(reason)

    def read(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number, picture) of the wanted pictures, in order. Unreadable ones are left out."""
        for number in sorted(set(numbers)):
            try:
                picture, note = read_picture_noted(self.paths[number])
            except UnreadableMedia as error:
                self.damage = self.damage or f"{Path(self.paths[number]).name}: {error}"
                continue
            if note:
                self.note = self.note or f"{Path(self.paths[number]).name}: {note}"
            yield number, picture


def _picture_info(count: int, picture: np.ndarray, path: str | Path) -> MediaInfo:
    suffix = Path(path).suffix.lower()[1:]
    height, width = picture.shape[:2]
    return MediaInfo(count, width, height, None, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix))


def natural_key(name: str) -> list:
    """Sorts names by the numbers in them: frame2 before frame10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _packets(container, stream) -> Iterator:
    """Yields the stream's packets up to the first unreadable one. The last packet is empty and flushes the decoder."""
    import av

    try:
        yield from container.demux(stream)
    except av.error.FFmpegError:
        return


def _rgb(frame) -> np.ndarray:
    """Converts a frame to RGB, turned and mirrored as its display matrix says."""
    image = frame.to_ndarray(format="rgb24")
    side_data = frame.side_data.get("DISPLAYMATRIX")
    if side_data is None:
        return image
    a, b, _, c, d = np.frombuffer(bytes(side_data), np.int32)[:5].astype(np.int64)
    if abs(a) + abs(d) < abs(b) + abs(c):
        image, a, d = image.swapaxes(0, 1), c, b
    return np.ascontiguousarray(image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])
