"""Clips of one split: runs of stored frames of one video, in a fixed order.

In shapes, C is the number of clips, T of the frames of a clip, F of the stored frames, S of a video's possible starts
and V of the videos.
"""

import hashlib
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import InputConfig
from resproto_fd.preprocessing.video import evenly_spaced
from resproto_fd.trainer.frame_list import FrameList

UNREAD = -1
"""In place of the checksum of what cannot be read."""


@dataclass(frozen=True, kw_only=True)
class ClipList(FrameList):
    """Clips of one split of one or several data sets; label and facts of a clip are those of its video.

    The attributes of `FrameList` have one entry a clip: `paths` and `numbers` are those of its first frame.

    Attributes:
        stored: All stored frames of the videos, [F].
        places: Positions in `stored` of the frames of each clip, [C, T].
        given: The detector's input: frames and stride of a clip, and what becomes of short videos.
        short: Number of videos that have fewer stored frames than a clip takes.
        left_out: Number of these that are left out.
    """

    unit: ClassVar[str] = "clip"
    stored: FrameList
    places: np.ndarray
    given: InputConfig
    short: int = 0
    left_out: int = 0

    @classmethod
    def within(
        cls, frames: FrameList, given: InputConfig, clips: int | None = None, absent: Collection[str] = ()
    ) -> "ClipList":
        """Takes clips of the videos of a frame list; a video without a frame in that list has none.

        Args:
            frames: The frames that a detector of single frames would get.
            given: The detector's input.
            clips: Clips of each video; None means as many as the video's frames in the list fill, and at least one.
                They are evenly spaced over its possible starts (see `starts`). A video has no more clips than starts.
            absent: Paths of frames that the stores lack; they are passed over.

        Raises:
            UserError: All videos are too short, and short ones are left out.
        """
        counts = np.bincount(frames.video_index, minlength=len(frames.videos))
        stored = FrameList.of(frames.videos, None)
        stored = stored.without(set(absent)) if absent else stored
        bounds = _bounds(stored)
        owners, places, short, left_out = [], [], 0, 0
        for video in np.flatnonzero(counts).tolist():
            first, length = int(bounds[video]), int(bounds[video + 1] - bounds[video])
            if not length:
                continue
            if length < span(given):
                short += 1
                if given.short == "leave_out":
                    left_out += 1
                    continue
            possible = starts(stored.numbers[first : first + length], given)
            wanted = clips_of_video(int(counts[video]), length, given, clips)
            for chosen in evenly_spaced(len(possible), wanted):
                owners.append(video)
                places.append(first + steps(length, int(possible[chosen]), given))
        if len(frames) and not owners:
            raise UserError(
                f"none of {short} videos has the {span(given)} stored frames of a clip (input.frames={given.frames}, "
                f"input.stride={given.stride}); set input.short=repeat or mirror, or shorter clips"
            )
        places = np.asarray(places, dtype=np.int64).reshape(-1, given.frames)
        owners, firsts = np.asarray(owners, dtype=np.int64), places[:, 0]
        labels = np.asarray([video.label for video in frames.videos], dtype=np.int64)[owners]
        paths = [stored.paths[place] for place in firsts]
        own = {"stored": stored, "places": places, "given": given, "short": short, "left_out": left_out}
        return cls(frames.videos, paths, owners, stored.numbers[firsts], labels, **own)

    @property
    def clip_numbers(self) -> np.ndarray:
        """Number within the original video of each frame of each clip, [C, T]."""
        return self.stored.numbers[self.places]

    def drawn(self, clip: int, share: float) -> np.ndarray:
        """Positions in `stored` of the frames of a clip of the same video that starts elsewhere, [T].

        Args:
            clip: Position in this list.
            share: Where the clip starts among the video's possible starts, in [0, 1).
        """
        owner = self.video_index[clip]
        first, end = np.searchsorted(self.stored.video_index, [owner, owner + 1])
        possible = starts(self.stored.numbers[first:end], self.given)
        return first + steps(int(end - first), int(possible[int(share * len(possible))]), self.given)

    def frames_read(self) -> tuple[FrameList, np.ndarray]:
        """The frames that are in any clip, once each, and the positions of each clip's frames among these, [C, T]."""
        used, places = np.unique(self.places, return_inverse=True)
        return self.stored.at(used), places.reshape(self.places.shape)

    def without(self, paths: set[str]) -> "ClipList":
        """Returns the list without clips that have one of some frames."""
        bad = np.asarray([path in paths for path in self.stored.paths], dtype=bool)
        return self.at(np.flatnonzero(~bad[self.places].any(axis=1)))

    def at(self, chosen: np.ndarray) -> "ClipList":
        """Returns the clips at some positions."""
        kept = super().at(chosen)
        own = {"stored": self.stored, "given": self.given, "short": self.short, "left_out": self.left_out}
        return ClipList(
            kept.videos, kept.paths, kept.video_index, kept.numbers, kept.labels, places=self.places[chosen], **own
        )

    def digest(self) -> str:
        """SHA-256 over each clip's video, file names and label. The same list has the same digest on any machine."""
        hasher, names = hashlib.sha256(), [path.rsplit("/", 1)[-1] for path in self.stored.paths]
        for places, owner, label in zip(self.places.tolist(), self.video_index, self.labels, strict=True):
            files = "/".join(names[place] for place in places)
            hasher.update(f"{self.videos[owner].id}/{files}={label}\n".encode())
        return hasher.hexdigest()


def span(given: InputConfig) -> int:
    """Number of stored frames from the first frame of a clip to its last."""
    return (given.frames - 1) * given.stride + 1


def clips_of_video(frames: int, length: int, given: InputConfig, clips: int | None) -> int:
    """Number of clips of a video, see `ClipList.within`; at most so many if `starts` leaves some out.

    Args:
        frames: Frames of the video in the frame list, at least 1.
        length: Stored frames of the video.
        given: The detector's input.
        clips: Clips that are asked for; None means as many as the frames fill.

    >>> clips_of_video(32, 300, InputConfig(frames=8), None), clips_of_video(32, 10, InputConfig(frames=8), 9)
    (4, 3)
    """
    return min(clips or max(1, frames // given.frames), max(1, length - span(given) + 1))


def starts(numbers: np.ndarray, given: InputConfig) -> np.ndarray:
    """Positions in a video where a clip may start, ascending, [S]; S is at least 1.

    If any clip of the video has frames whose numbers step by exactly `stride`, only such clips count. So a video that
    is stored as runs of consecutive frames beside single ones has clips of the runs alone. Else every clip of stored
    frames counts. A video that is too short has one start, 0.

    Args:
        numbers: Number within the original video of each stored frame, ascending, [F].
        given: The detector's input.

    >>> starts(np.array([0, 1, 2, 9, 19, 20, 21]), InputConfig(frames=3))
    array([0, 4])
    """
    reach = span(given) - 1
    if len(numbers) <= reach:
        return np.zeros(1, dtype=np.int64)
    consecutive = np.flatnonzero(numbers[reach:] - numbers[: len(numbers) - reach] == reach)
    return consecutive if len(consecutive) else np.arange(len(numbers) - reach)


def steps(length: int, start: int, given: InputConfig) -> np.ndarray:
    """Positions of a clip's frames in its video, [T].

    A video that is too short is repeated from its first frame on, or gone through forwards and backwards in turn.

    Args:
        length: Stored frames of the video.
        start: Position of the clip's first frame.
        given: The detector's input.

    >>> steps(5, 1, InputConfig(frames=3)), steps(3, 0, InputConfig(frames=5, short="mirror"))
    (array([1, 2, 3]), array([0, 1, 2, 1, 0]))
    """
    places = start + given.stride * np.arange(given.frames, dtype=np.int64)
    if given.short == "mirror" and length > 1:
        places %= 2 * (length - 1)
        return np.minimum(places, 2 * (length - 1) - places)
    return places % length


def clip_checksum(checksums: Sequence[int] | np.ndarray) -> int:
    """CRC-32 of the checksums of a clip's frames, in their order; `UNREAD` if one of the frames is."""
    checksums = np.asarray(checksums, dtype=np.int64)
    if (checksums == UNREAD).any():
        return UNREAD
    return zlib.crc32(np.ascontiguousarray(checksums, "<u4").tobytes())


def _bounds(stored: FrameList) -> np.ndarray:
    """Position of each video's first frame in a list of whole videos, [V + 1]."""
    return np.searchsorted(stored.video_index, np.arange(len(stored.videos) + 1))
