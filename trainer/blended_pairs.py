"""Pairs for training: a real frame and a forgery made from it (see `blending`), instead of a data set's own forgeries.

The list holds each real frame twice: first the frame, then its forgery. An epoch shows each real frame and one forgery
of it, which differs from epoch to epoch. The two pictures of a pair are neighbours in a batch and are augmented alike.
The batch size counts pictures.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.store.frame_store import FrameStore
from resproto_fd.trainer.augment.blending import Blend, cross_blended, i2g, self_blended, self_shifted, warped
from resproto_fd.trainer.companions import (
    BLENDS,
    COMPANIONS,
    CROSS_BLENDED,
    LANDMARKS,
    MASK,
    PARTNER,
    SECOND_VIEW,
    SELF_BLENDED,
    SELF_SHIFTED,
    Companions,
    read_landmarks,
)
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.scenes import identity_of, side_records

OF_TWO = {"cross_blended": cross_blended, "i2g": i2g}
ALONE = {"self_blended": self_blended, "warped": warped}
SEARCHED, NEAREST = 2000, 100
"""Number of frames that are searched for another face, and of the nearest ones, from which one is drawn."""


@dataclass(frozen=True, eq=False)
class BlendedPairs:
    """Real frames, and what is needed to make forgeries of them.

    Attributes:
        kind: "self_blended", "cross_blended", "i2g", "warped" or, beside a data set's own forgeries, "self_shifted".
        frames: Real frame k at position 2k, its forgery at 2k + 1. The forgery's video has the method `kind`.
        landmarks: Landmarks of each real frame, [N, K, 2].
        people: Number of the person who is seen in each real frame, [N].
    """

    kind: str
    frames: FrameList
    landmarks: np.ndarray
    people: np.ndarray

    @classmethod
    def of(
        cls,
        kind: str,
        frames: FrameList,
        sides: Mapping[str, Path],
        stores: Mapping[str, FrameStore],
        beside: bool = False,
    ) -> "BlendedPairs":
        """Makes pairs of the real frames of a list.

        Args:
            kind: See the class.
            frames: The list; its fakes are left out.
            sides: Side files by data set: whose video a frame is of.
            stores: Where the landmarks are.
            beside: Whether a detector requires them beside a data set's own fakes, for messages; else `train.samples`.

        Raises:
            UserError: There are no real frames, the kind needs two people and there is one, or landmarks are missing.
        """
        who = f"{kind}, which the detector requires" if beside else f"train.samples={kind}"
        real = frames.without({path for path, label in zip(frames.paths, frames.labels, strict=True) if label})
        if not len(real):
            raise UserError(
                f"{who}: forgeries are made from real frames, and the training data have none; set other training sets"
            )
        landmarks = read_landmarks(real, stores)
        records = side_records(real, sides)
        names = [identity_of(video, records.get(video.id)) for video in real.videos]
        people = np.unique(names, return_inverse=True)[1][real.video_index]
        if kind in OF_TWO and len(np.unique(people)) < 2:
            raise UserError(
                f"{who}: the training frames show one person only, but another person's face is blended in; set "
                f"{'' if beside else 'train.samples=self_blended or '}other training sets"
            )
        forged = [replace(video, label=1, method=kind, forgery_type="face swap") for video in real.videos]
        owners = np.stack([real.video_index, real.video_index + len(forged)], axis=1).ravel()
        paths, numbers = [path for path in real.paths for _ in range(2)], np.repeat(real.numbers, 2)
        doubled = FrameList([*real.videos, *forged], paths, owners, numbers, np.arange(len(paths)) % 2)
        return cls(kind, doubled, landmarks, people)

    def blend(self, image: np.ndarray, pair: int, seed: int, read: Callable[[int], np.ndarray]) -> Blend:
        """Makes a pair from its real frame.

        Args:
            image: The frame, RGB uint8 [H, W, 3].
            pair: Its number k.
            seed: Fixes the forgery.
            read: Reads another real frame, by its number.

        Raises:
            UserError: The frame's landmarks make no face, or another frame cannot be read.
        """
        rng = np.random.default_rng(seed)
        try:
            if self.kind in ALONE:
                return ALONE[self.kind](image, self.landmarks[pair], rng)
            if self.kind == SELF_SHIFTED:
                other = self.neighbour(pair)
                return self_shifted(image, self.landmarks[pair], read(other), self.landmarks[other], rng)
            other = self.other(pair, rng)
            return OF_TWO[self.kind](image, self.landmarks[pair], read(other), self.landmarks[other], rng)
        except ValueError as error:
            raise UserError(f"{self.frames.paths[2 * pair]}: {error}") from error

    def other(self, pair: int, rng: np.random.Generator) -> int:
        """Draws a frame of another person, among those whose landmarks are nearest (Face X-ray, section 3.3)."""
        drawn = np.unique(rng.integers(0, len(self.people), SEARCHED))
        candidates = drawn[self.people[drawn] != self.people[pair]]
        if not len(candidates):
            candidates = np.flatnonzero(self.people != self.people[pair])
        distances = np.square(self.landmarks[candidates] - self.landmarks[pair]).sum((1, 2))
        nearest = candidates[np.argsort(distances, kind="stable")[: max(1, min(NEAREST, len(candidates) // 5))]]
        return int(rng.choice(nearest))

    def neighbour(self, pair: int) -> int:
        """Finds the frame of the same video that is nearest in time, of two the later; the frame itself if alone."""
        owners, numbers = self.frames.video_index[::2], self.frames.numbers[::2]
        others = np.flatnonzero((owners == owners[pair]) & (numbers != numbers[pair]))
        if not len(others):
            return pair
        apart = numbers[others] - numbers[pair]
        return int(others[np.lexsort([-apart, np.abs(apart)])[0]])

    def companions(self, wanted: Iterable[str]) -> Companions | None:
        """Finds the required `companions.COMPANIONS`. A partner is the other picture of the pair.

        Raises:
            UserError: Forgeries of real frames are required beside a data set's own.
        """
        wanted = set(wanted)
        if wanted & set(BLENDS):
            raise UserError(
                f"train.samples={self.kind}: this detector trains on a data set's own fakes and on forgeries made "
                "beside them; set train.samples=frames"
            )
        if not wanted & set(COMPANIONS):
            return None
        return Companions(
            masks=np.full(len(self.frames), Companions.BLENDED) if MASK in wanted else None,
            landmarks=np.repeat(self.landmarks, 2, axis=0) if LANDMARKS in wanted else None,
            second_view=SECOND_VIEW in wanted,
            partner_of=_other_of_pair if PARTNER in wanted else None,
        )


@dataclass(frozen=True, eq=False)
class _Forgeries:
    """Makes one kind of forgeries of the real frames of a list; see `Companions.blends`."""

    pairs: BlendedPairs
    real: np.ndarray
    number_of: np.ndarray

    def __call__(self, image: np.ndarray, index: int, seed: int, read: Callable[[int], np.ndarray]) -> np.ndarray:
        def read_real(number: int) -> np.ndarray:
            return read(int(self.real[number]))

        return self.pairs.blend(image, int(self.number_of[index]), seed, read_real).fake


def with_blends(
    found: Companions | None,
    wanted: Iterable[str],
    frames: FrameList,
    sides: Mapping[str, Path],
    stores: Mapping[str, FrameStore],
) -> Companions | None:
    """Adds the required `companions.BLENDS` to the companions of a list.

    Raises:
        UserError: As `BlendedPairs.of`; or no partner is required.
    """
    wanted = set(wanted)
    kinds = [kind for kind in BLENDS if kind in wanted]
    if not kinds:
        return found
    if PARTNER not in wanted:
        raise UserError(f"a detector that requires {' and '.join(kinds)} has to require {PARTNER} too; add it")
    of_two = CROSS_BLENDED in kinds
    pairs = BlendedPairs.of(CROSS_BLENDED if of_two else SELF_BLENDED, frames, sides, stores, beside=True)
    real, number_of = np.flatnonzero(frames.labels == 0), np.cumsum(frames.labels == 0) - 1
    return replace(found, blends={kind: _Forgeries(replace(pairs, kind=kind), real, number_of) for kind in kinds})


def _other_of_pair(index: int, seed: int) -> int:
    return index ^ 1
