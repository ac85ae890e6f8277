"""Frames of one split, in a fixed order."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from resproto_fd.preprocessing.video import Video, evenly_spaced


@dataclass(frozen=True)
class FrameList:
    """Frames of one split of one or several data sets, in a fixed order.

    Attributes:
        videos: The videos from which the frames are.
        paths: Canonical path of each frame, [N].
        video_index: Position of each frame's video in `videos`, [N].
        numbers: Frame number within the original video, [N].
        labels: 0 real, 1 fake, [N].
        told: Position of the frame whose label and facts each frame is given, [N]; None means its own.
    """

    unit: ClassVar[str] = "frame"
    """What the list lists, for messages."""
    videos: list[Video]
    paths: list[str]
    video_index: np.ndarray
    numbers: np.ndarray
    labels: np.ndarray
    told: np.ndarray | None = None

    @classmethod
    def of(cls, videos: Sequence[Video], frames_per_video: int | None) -> "FrameList":
        """Takes evenly spaced frames of each video; all of them if the number is None or larger than the video."""
        paths, owners, numbers = [], [], []
        for position, video in enumerate(videos):
            all_numbers = video.frame_numbers()
            for chosen in evenly_spaced(len(video.frames), frames_per_video):
                paths.append(video.frames[chosen])
                owners.append(position)
                numbers.append(all_numbers[chosen])
        owners = np.asarray(owners, dtype=np.int64)
        labels = np.asarray([video.label for video in videos], dtype=np.int64)
        return cls(list(videos), paths, owners, np.asarray(numbers, dtype=np.int64), labels[owners])

    def __len__(self) -> int:
        return len(self.paths)

    def class_counts(self) -> np.ndarray:
        """Counts the frames of each class, N^(c), [2]."""
        return np.bincount(self.labels, minlength=2)

    def without(self, paths: set[str]) -> "FrameList":
        """Returns the list without some frames."""
        return self.at(np.flatnonzero(np.asarray([path not in paths for path in self.paths], dtype=bool)))

    def at(self, chosen: np.ndarray) -> "FrameList":
        """Returns the frames at some positions, with their own labels."""
        kept = [self.paths[place] for place in chosen.tolist()]
        return FrameList(self.videos, kept, self.video_index[chosen], self.numbers[chosen], self.labels[chosen])

    def thinned(self, share: float) -> "FrameList":
        """Keeps about a share of the frames, chosen by their paths. A smaller share is part of a larger one."""
        if share == 1:
            return self
        limit = int(share * 2**64)
        chosen = (int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") < limit for path in self.paths)
        return self.without({path for path, kept in zip(self.paths, chosen, strict=True) if not kept})

    def shuffled(self, order: np.ndarray) -> "FrameList":
        """Returns the same frames, each with the label and the facts of another one.

        For a control: nothing can be learnt from them. Facts (method, kind, data set, person, mask) must go with the
        labels, since a detector that is told the true ones would learn from these.

        Args:
            order: Position of the frame whose label and facts each frame gets, a permutation, [N].
        """
        return replace(self, labels=self.labels[order], told=order)

    @property
    def fact_index(self) -> np.ndarray:
        """Position in `videos` of the video whose facts each frame is given, [N]."""
        return self.video_index if self.told is None else self.video_index[self.told]

    def groups(self) -> np.ndarray:
        """Numbers the data set of each frame, in the order of the videos, [N]."""
        names = list(dict.fromkeys(video.dataset for video in self.videos))
        return np.asarray([names.index(video.dataset) for video in self.videos], dtype=np.int64)[self.video_index]

    def digest(self) -> str:
        """SHA-256 over each frame's video, file name and label. The same list has the same digest on any machine."""
        hasher = hashlib.sha256()
        for path, owner, label in zip(self.paths, self.video_index, self.labels, strict=True):
            hasher.update(f"{self.videos[owner].id}/{path.rsplit('/', 1)[-1]}={label}\n".encode())
        return hasher.hexdigest()
