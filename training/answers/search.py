"""Finds the faces in anybody's files: the worker that reads one file after another, whatever is in it."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from resproto_fd.configs.errors import UserError, cut
from resproto_fd.preprocessing.faces import tracks as face_tracks
from resproto_fd.preprocessing.faces.alignment import crop_template
from resproto_fd.preprocessing.faces.finding import MOST_FACES, Candidates, FaceFinder
from resproto_fd.preprocessing.faces.job import frame_numbers, one_thread, open_source, wanted_frames
from resproto_fd.preprocessing.faces.sources import Options, Source, find_sources
from resproto_fd.preprocessing.faces.video_reader import UnreadableMedia
from resproto_fd.training.answers.reasons import turn_of

LARGEST_CROP = 1024
"""Side in pixels that an already cropped face is made smaller to, if it is larger."""
SQUARE, IN_PLACE = 0.02, 0.05
"""An already cropped face: how far from square, and how far its points are from their places, in sides."""
MOST_FRAMES = 1000
"""Frames of runs that are looked at, and pictures of a folder that clips are taken of."""
NOWHERE = Path(os.devnull)
"""No file of the user's lies below it."""


@dataclass
class FoundFace:
    """One person's face in one file.

    Attributes:
        main: It is the one that `resproto faces` would keep.
        frames: Numbers of its frames.
        crops: RGB uint8, one a frame; as `resproto faces` makes them, or as they are if the file is a cropped face.
        sides: Width of the face in pixels of the file, one a frame.
        turns: See `turn_of`; None where the points are not known.
        numbers: Of its frames by their files' names, as `resproto faces` numbers them; clips are chosen by these.
    """

    main: bool
    frames: list[int]
    crops: list[np.ndarray]
    sides: list[float]
    turns: list[float | None]
    numbers: list[int] = field(default_factory=list)


@dataclass
class Found:
    """What is in one file.

    Attributes:
        failed: Why it could not be read; None if it could.
        frames: Frames of the file.
        looked: Numbers of the frames that were looked at.
        without: Those of them without any face.
        unreadable: Those of them that could not be decoded.
        cropped: The file is an already cropped face.
        note: What was changed to read it, or is damaged.
        seconds: By stage: "read", "find" and "crop".
    """

    failed: str | None = None
    frames: int = 0
    width: int = 0
    height: int = 0
    fps: float | None = None
    looked: list[int] = field(default_factory=list)
    without: list[int] = field(default_factory=list)
    unreadable: list[int] = field(default_factory=list)
    cropped: bool = False
    note: str = ""
    faces: list[FoundFace] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)


class FaceSearch:
    """Finds the faces of one source after another; see `worker_pool.run_tasks`.

    Args:
        options: As of `resproto faces`.
        cropped: Whether every picture is an already cropped face.
        seconds: Most seconds for a file.
        device: Device of the face detector.
    """

    def __init__(self, options: Options, cropped: bool, seconds: float, device: str = "cpu") -> None:
        self.options, self.cropped, self.seconds = options, cropped, seconds
        self._finder = None if cropped else FaceFinder(options, device)

    def __call__(self, source: Source) -> Found:
        """What is in a source. Whatever is wrong with it is the answer's `failed`."""
        try:
            with one_thread(), _limited(self.seconds):
                return self._search(source)
        except _TooLong:
            return Found(failed=f"reading it took more than {self.seconds:g} seconds")
        except UnreadableMedia as error:
            return Found(failed=cut(str(error)))
        except OSError as error:
            return Found(failed=cut(error.strerror or str(error)))
        except MemoryError:
            return Found(failed="not enough memory to read it")
        except Exception as error:  # no fault of one file may stop the others
            return Found(failed=cut(f"{type(error).__name__}: {error}"))

    def _search(self, source: Source) -> Found:
        began = time.perf_counter()
        reader = _Timed(open_source(source))
        opened = time.perf_counter() - began
        info = reader.info
        wanted = self._wanted(source, info.frames)
        found = Found(frames=info.frames, width=info.width, height=info.height, fps=info.fps, looked=wanted)
        began = time.perf_counter()
        candidates = None if self.cropped else self._finder.candidates(reader, wanted)
        found.cropped = self.cropped or is_cropped(candidates, self.options)
        if found.cropped:
            found.faces = _as_they_are(reader, wanted)
            read = found.faces[0].frames if found.faces else []
        else:
            found.faces, read = self._tracked(candidates), candidates.order
        numbered = frame_numbers(source)
        for face in found.faces:
            face.numbers = [numbered(place) for place in face.frames]
        seen = {number for face in found.faces for number in face.frames}
        found.without = [number for number in read if number not in seen]
        found.unreadable = [number for number in wanted if number not in read]
        if not read:
            raise UnreadableMedia(reader.damage or "no frame can be decoded")
        found.note = "; ".join(filter(None, [reader.note, reader.damage]))
        spent = time.perf_counter() - began - reader.seconds
        cropping = 0.0 if candidates is None else candidates.cropping
        found.seconds = {"read": opened + reader.seconds, "find": spent - cropping, "crop": cropping}
        return found

    def _wanted(self, source: Source, frames: int) -> list[int]:
        """Frames to look at. Of a folder of pictures for clips, all: runs are told by the pictures' numbers."""
        if self.options.clips and source.kind == "sequence" and frames <= MOST_FRAMES:
            return list(range(frames))
        return wanted_frames(frames, self.options)

    def _tracked(self, found: Candidates) -> list[FoundFace]:
        """Every tracked face, the main one first; further ones that last at least as long as a main one must."""
        chosen = self._finder.chosen(found)
        main = [(place, row) for place, row in enumerate(chosen) if row is not None]
        tracks = [t for t in face_tracks.link_boxes(found.boxes) if any(found.sure[f][row] for f, row in t)]
        shortest = min(2, max(map(len, tracks), default=0))
        others = [track for track in tracks if len(track) >= shortest and not set(track) & set(main)]
        others.sort(key=lambda track: (-len(track), track))
        faces = [_face(found, track, i == 0) for i, track in enumerate([main, *others]) if track]
        return faces[:MOST_FACES]


def is_cropped(found: Candidates, options: Options) -> bool:
    """Whether a file shows one face, already cropped and aligned as `resproto faces` and DeepfakeBench do it.

    It is if at least half of its frames have a face, and each of these is square, has this face alone, and has its five
    points where the crop would put them: on the mean within `IN_PLACE` of the side.
    """
    places = crop_template(1, options.scale)
    with_faces = [place for place, sure in enumerate(found.sure) if sure.any()]
    if not with_faces or 2 * len(with_faces) < len(found.order):
        return False
    for place in with_faces:
        faces = found.finds[found.order[place]]
        if int(found.sure[place].sum()) != 1:
            return False
        width, height = faces[0].size
        if abs(width - height) > SQUARE * max(width, height):
            return False
        points = np.asarray(faces[int(np.argmax(found.sure[place]))].face["points"]) / [width, height]
        if np.linalg.norm(points - places, axis=1).mean() > IN_PLACE:
            return False
    return True


def _face(found: Candidates, track: Sequence[tuple[int, int]], main: bool) -> FoundFace:
    finds = [found.finds[found.order[place]][row] for place, row in track]
    boxes = [find.face["box"] for find in finds]
    return FoundFace(
        main,
        [found.order[place] for place, _ in track],
        [find.crop for find in finds],
        [float(np.sqrt(max(box[2] - box[0], 0) * max(box[3] - box[1], 0))) for box in boxes],
        [turn_of(find.face["points"]) for find in finds],
    )


def _as_they_are(reader, wanted: Sequence[int]) -> list[FoundFace]:
    """The frames as crops, made smaller only above `LARGEST_CROP`."""
    import cv2

    face = FoundFace(True, [], [], [], [])
    for number, image in reader.read(wanted):
        height, width = image.shape[:2]
        shrink = LARGEST_CROP / max(width, height)
        if shrink < 1:
            size = max(1, round(width * shrink)), max(1, round(height * shrink))
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        face.frames.append(number)
        face.crops.append(np.ascontiguousarray(image))
        face.sides.append(min(width, height) / 1.3)
        face.turns.append(None)
    return [face] if face.frames else []


class _Timed:
    """A reader that adds up the seconds it reads."""

    def __init__(self, reader) -> None:
        self._reader, self.seconds, self.info = reader, 0.0, reader.info

    def read(self, numbers: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        frames = self._reader.read(numbers)
        while True:
            began = time.perf_counter()
            item = next(frames, None)
            self.seconds += time.perf_counter() - began
            if item is None:
                return
            yield item

    @property
    def damage(self) -> str | None:
        return self._reader.damage

    @property
    def note(self) -> str | None:
        return self._reader.note


class _TooLong(Exception):
    """A file took longer than it may."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises `_TooLong` in the block after some seconds, where the system and the thread allow it."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def sources_of(places: Sequence[str | Path], pictures: str) -> tuple[list[tuple[str, Source | str]], int]:
    """The files to look at, each with its name, or with the reason why it is not one; and how many others there were.

    A place that does not exist costs its own row alone. Folders are searched as `resproto faces` does it.

    Args:
        places: Files and folders.
        pictures: As in `Options`.
    """
    found: list[tuple[str, Source | str]] = []
    others = 0
    for place in map(str, places):
        try:
            if not os.path.isdir(place) and not os.path.lexists(place):
                found.append((place, "no such file or folder"))
                continue
            if os.path.islink(place) and not os.path.exists(place):
                found.append((place, "a link to nothing"))
                continue
            if not os.path.isdir(place) and not os.path.isfile(place):
                found.append((place, "not a regular file"))
                continue
            sources, passed = find_sources([place], NOWHERE, None, pictures)
        except (UserError, OSError, ValueError) as error:  # a name with NUL, a loop of links
            found.append((place, cut(str(error))))
            continue
        others += sum(passed.values())
        folder = os.path.isdir(place)
        found += [(source.name if folder else place, source) for source in sources]
    return found, others
