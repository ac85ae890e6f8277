"""Clips for training beside a data set's own: a forgery made from each real clip (see `drifting`).

The list holds all clips of the training sets, then a forgery of each real one. An epoch shows each clip once and one
forgery of each real clip; as everywhere, a clip starts elsewhere in each epoch, and a forgery is drawn anew.

In shapes, C is the number of clips of the list, F of the stored frames, K of the landmarks of a face.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.store.frame_store import FrameStore
from resproto_fd.trainer.augment.drifting import drifted, feature_outlines
from resproto_fd.trainer.clip_list import ClipList
from resproto_fd.trainer.companions import read_landmarks

VIDEO_BLENDED = "video_blended"
"""Their name in `train.samples`, and the method of a forgery's video."""


@dataclass(frozen=True, eq=False)
class BlendedClips:
    """Clips and forgeries of the real ones.

    Attributes:
        clips: All clips, then a forgery of each real one.
        made_of: Position of the real clip of which each is made; for a clip that is read as it is, its own, [C].
        landmarks: Of the stored frames of real videos, [., K, 2].
        row_of: Position in `landmarks` of each stored frame; -1 for frames of fakes, [F].
    """

    clips: ClipList
    made_of: np.ndarray
    landmarks: np.ndarray
    row_of: np.ndarray

    @classmethod
    def of(cls, clips: ClipList, stores: Mapping[str, FrameStore]) -> "BlendedClips":
        """Adds forgeries of the real clips to a list.

        Raises:
            UserError: There is no real clip, or landmarks are missing or of an unknown number.
        """
        reals = np.flatnonzero(clips.labels == 0)
        if not len(reals):
            raise UserError(
                f"train.samples={VIDEO_BLENDED}: forgeries are made from real clips, and the training data have none; "
                "set other training sets"
            )
        real_frames = np.flatnonzero(clips.stored.labels == 0)
        landmarks = read_landmarks(clips.stored.at(real_frames), stores)
        try:
            feature_outlines(landmarks[0])
        except ValueError as error:
            raise UserError(
                f"train.samples={VIDEO_BLENDED}: {clips.stored.paths[real_frames[0]]}: {error}; crop the training "
                "frames with `resproto faces`, or set train.samples=frames"
            ) from error
        row_of = np.full(len(clips.stored), -1)
        row_of[real_frames] = np.arange(len(real_frames))
        owners, owner_of = np.unique(clips.video_index[reals], return_inverse=True)
        forged = [
            replace(clips.videos[owner], label=1, method=VIDEO_BLENDED, forgery_type="face swap") for owner in owners
        ]
        made_of = np.concatenate([np.arange(len(clips)), reals])
        doubled = replace(
            clips.at(made_of),
            videos=[*clips.videos, *forged],
            video_index=np.concatenate([clips.video_index, len(clips.videos) + owner_of]),
            labels=np.concatenate([clips.labels, np.ones_like(reals)]),
        )
        return cls(doubled, made_of, landmarks, row_of)

    def is_forged(self, clip: int) -> bool:
        """Whether a clip of the list is made from another one."""
        return int(self.made_of[clip]) != clip

    def blend(self, image: np.ndarray, stored: int, frame: int, seed: int) -> np.ndarray:
        """Makes a frame of a forgery.

        Args:
            image: The real frame, RGB uint8 [H, W, 3].
            stored: Its position in the stored frames.
            frame: Its number in the clip.
            seed: Fixes the forgery of the clip.

        Raises:
            UserError: The frame's landmarks make no face.
        """
        try:
            return drifted(image, self.landmarks[self.row_of[stored]], seed, frame)
        except ValueError as error:
            raise UserError(f"{self.clips.stored.paths[stored]}: {error}") from error
