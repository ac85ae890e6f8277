"""Training on pairs of a real frame and a forgery made from it (see `blending`), instead of a data set's own forgeries.

The list holds each real frame twice, first as it is and then as the forgery: an epoch shows each real frame and one
forgery of it, another in each epoch. Both of a pair stand beside one another in a batch, whose size counts pictures,
and are augmented alike.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.store.frame_store import FrameStore
from resproto_fd.trainer.augment.blending import Blend, cross_blended, i2g, self_blended, warped
from resproto_fd.trainer.companions import COMPANIONS, LANDMARKS, MASK, PARTNER, SECOND_VIEW, Companions, read_landmarks
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.scenes import identity_of, side_records

OF_TWO = {"cross_blended": cross_blended, "i2g": i2g}
ALONE = {"self_blended": self_blended, "warped": warped}
SEARCHED, NEAREST = 2000, 100
"""Frames of other people that are looked through for a face to blend in, and nearest ones of which one is drawn."""


@dataclass(frozen=True, eq=False)
class BlendedPairs:
    """What the forgeries are made of.

    Attributes:
        kind: "self_blended", "cross_blended", "i2g" or "warped".
        frames: Real frame k at place 2k, its forgery at 2k + 1, whose video has `kind` as its method.
        landmarks: Of real frame k, [N, K, 2].
        people: Who is seen in real frame k, [N].
    """

    kind: str
    frames: FrameList
    landmarks: np.ndarray
    people: np.ndarray

    @classmethod
    def of(
        cls, kind: str, frames: FrameList, sides: Mapping[str, Path], stores: Mapping[str, FrameStore]
    ) -> "BlendedPairs":
        """Pairs of the real frames of a list.

        Raises:
            UserError: There are none, or of one person only where two are needed; or landmarks are missing.
        """
        real = frames.without({path for path, label in zip(frames.paths, frames.labels, strict=True) if label})
        if not len(real):
            raise UserError(f"train.samples={kind}: forgeries are made from real frames, of which there are none")
        landmarks = read_landmarks(real, stores)
        records = side_records(real, sides)
        names = [identity_of(video, records.get(video.id)) for video in real.videos]
        people = np.unique(names, return_inverse=True)[1][real.video_index]
        if kind in OF_TWO and len(np.unique(people)) < 2:
            raise UserError(f"train.samples={kind}: the training frames show one person only; others are blended in")
        forged = [replace(video, label=1, method=kind, forgery_type="face swap") for video in real.videos]
        owners = np.stack([real.video_index, real.video_index + len(forged)], axis=1).ravel()
        paths, numbers = [path for path in real.paths for _ in range(2)], np.repeat(real.numbers, 2)
        doubled = FrameList([*real.videos, *forged], paths, owners, numbers, np.arange(len(paths)) % 2)
        return cls(kind, doubled, landmarks, people)

    def blend(self, image: np.ndarray, pair: int, seed: int, read: Callable[[int], np.ndarray]) -> Blend:
        """A pair, from its real frame.

        Args:
            image: The frame, RGB uint8 [H, W, 3].
            pair: Its number k.
            seed: Decides the forgery.
            read: Gives other real frames by their numbers.

        Raises:
            UserError: The frame's landmarks make no face, or another frame cannot be read.
        """
        rng = np.random.default_rng(seed)
        try:
            if self.kind in ALONE:
                return ALONE[self.kind](image, self.landmarks[pair], rng)
            other = self.other(pair, rng)
            return OF_TWO[self.kind](image, self.landmarks[pair], read(other), self.landmarks[other], rng)
        except ValueError as error:
            raise UserError(f"{self.frames.paths[2 * pair]}: {error}") from error

    def other(self, pair: int, rng: np.random.Generator) -> int:
        """A frame of another person, one of those of a sample whose landmarks lie nearest (Face X-ray, section 3.3)."""
        drawn = np.unique(rng.integers(0, len(self.people), SEARCHED))
        candidates = drawn[self.people[drawn] != self.people[pair]]
        if not len(candidates):
            candidates = np.flatnonzero(self.people != self.people[pair])
        distances = np.square(self.landmarks[candidates] - self.landmarks[pair]).sum((1, 2))
        nearest = candidates[np.argsort(distances, kind="stable")[: max(1, min(NEAREST, len(candidates) // 5))]]
        return int(rng.choice(nearest))

    def companions(self, wanted: Iterable[str]) -> Companions | None:
        """What is wanted of `companions.COMPANIONS`; a mask is what the blending makes of it, a partner is the other of
        the pair."""
        wanted = set(wanted)
        if not wanted & set(COMPANIONS):
            return None
        return Companions(
            masks=np.full(len(self.frames), Companions.BLENDED) if MASK in wanted else None,
            landmarks=np.repeat(self.landmarks, 2, axis=0) if LANDMARKS in wanted else None,
            second_view=SECOND_VIEW in wanted,
            partner_of=_other_of_pair if PARTNER in wanted else None,
        )


def _other_of_pair(index: int, seed: int) -> int:
    return index ^ 1
