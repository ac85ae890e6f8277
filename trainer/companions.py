"""Companions: fields that a detector may require beside a sample's picture, made again with each augmentation.

    "mask"          float32 [B, 1, S, S] in [0, 1], 1 is forged. Stored where DeepfakeBench stores it (`frames` replaced
                    by `masks` in the frame's path). Real frames have 0 everywhere. Wholly synthesised ones have 1,
                    if the store has no mask of them. For forgeries made in training see `blending`.
    "landmarks"     float32 [B, K, 2], of clips [B, T, K, 2], (x, y) in pixels of the picture that the detector gets.
                    Stored as .npy files, `frames` replaced by `landmarks`. Clips have no other companions.
    "second_view"   [B, 3, S, S]: the same frame under another augmentation, normalised.
    "partner"       [B, 3, S, S]: a frame of the other class, normalised, under its own augmentation. It is the frame at
                    the same moment of the video from which a fake was made, or of a fake made from a real video. If
                    none is known, it is any frame of the same data set.
    "self_blended"  [B, 3, S, S]: a forgery made from the real one of the sample and its partner, normalised, augmented
                    as the sample's picture. See `blending`; these need landmarks, and "partner".
    "cross_blended" [B, 3, S, S]: the same with another person's face.
    "self_shifted"  [B, 3, S, S]: the same with the same face of the video's frame nearest in time.

Masks and landmarks follow the picture's geometry. Changes of values alone (blur, a part set to black) do not affect
them. Pictures and masks are bytes until they are on the device.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.faces.alignment import move_points
from resproto_fd.preprocessing.store.beside_frames import landmark_path, mask_path
from resproto_fd.preprocessing.store.frame_store import FrameStore
from resproto_fd.trainer.augment.library import LibraryTransform
from resproto_fd.trainer.augment.views import Transform, uniforms
from resproto_fd.trainer.clip_list import ClipList
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.scenes import originals, side_records

MASK, LANDMARKS, SECOND_VIEW, PARTNER = "mask", "landmarks", "second_view", "partner"
SELF_BLENDED, CROSS_BLENDED, SELF_SHIFTED = BLENDS = ("self_blended", "cross_blended", "self_shifted")
PICTURES = (SECOND_VIEW, PARTNER, *BLENDS)
COMPANIONS = (MASK, LANDMARKS, *PICTURES)


@dataclass(frozen=True, eq=False)
class Companions:
    """The companions that a detector requires, and what is needed to make them. None means not required.

    Attributes:
        masks: Where each frame's mask comes from, [N]: `NOTHING` and `EVERYTHING` are 0 and 1 everywhere, `STORED` is
            in the store, `BLENDED` is the blended area (see `blended_pairs`).
        landmarks: Landmarks of each frame (of clips, of each in `ClipList.stored`), in pixels of the stored frame,
            float32 [N, K, 2].
        second_view: Whether it is required.
        partner_of: Chooses a frame's partner, from the frame's position in the list and a seed.
        blends: Makes forgeries of real frames, by their names in `BLENDS` (see `blended_pairs.with_blends`), from the
            frame, its position in the list, a seed, and a function that reads another frame by its position.
    """

    NOTHING, EVERYTHING, STORED, BLENDED = range(4)
    masks: np.ndarray | None = None
    landmarks: np.ndarray | None = None
    second_view: bool = False
    partner_of: Callable[[int, int], int] | None = None
    blends: Mapping[str, "Blending"] = field(default_factory=dict)


Blending = Callable[[np.ndarray, int, int, Callable[[int], np.ndarray]], np.ndarray]


def find_companions(
    wanted: Iterable[str],
    frames: FrameList,
    sides: Mapping[str, Path],
    stores: Mapping[str, FrameStore],
    some_missing: bool = False,
) -> Companions | None:
    """Finds the required `COMPANIONS` but `BLENDS` of the frames of a list in stores and side files.

    Args:
        wanted: Names of the required fields; those that are no companions are ignored.
        frames: The training frames, or clips.
        sides: Side file of each data set, by name; the file may be absent.
        stores: Frame store of each data set, by name.
        some_missing: Whether some masks of a data set may be missing; their frames are then unreadable.

    Returns:
        None if no companion is required.

    Raises:
        UserError: A mask or landmarks are missing. The message has the data set, the first frame and the remedy. Or
            others than landmarks are required of clips.
    """
    wanted = set(wanted) & set(COMPANIONS)
    if not wanted:
        return None
    if isinstance(frames, ClipList):
        if others := sorted(wanted - {LANDMARKS}):
            raise UserError(
                f"this detector requires {' and '.join(others)}, which clips do not have (input.frames="
                f"{frames.given.frames}); switch off in model.* what needs them"
            )
        return Companions(landmarks=read_landmarks(frames.stored, stores))
    return Companions(
        masks=_mask_sources(frames, stores, some_missing) if MASK in wanted else None,
        landmarks=read_landmarks(frames, stores) if LANDMARKS in wanted else None,
        second_view=SECOND_VIEW in wanted,
        partner_of=find_partners(frames, sides).of if PARTNER in wanted else None,
    )


def find_partners(frames: FrameList, sides: Mapping[str, Path]) -> "Partners":
    """Finds out which frames of a list are of one scene; arguments as in `find_companions`."""
    # With shuffled labels a fake's original is no longer of the other class.
    shuffled = frames.told is not None
    return Partners(frames, {} if shuffled else originals(frames, side_records(frames, sides)))


class Partners:
    """Chooses frames of the other class.

    Args:
        frames: The list.
        originals: Position of the real video from which a fake was made, by the fake's position, if it is known.
    """

    def __init__(self, frames: FrameList, originals: Mapping[int, int]):
        self._numbers, self._video_index = frames.numbers, frames.video_index
        order = np.argsort(frames.video_index, kind="stable")
        bounds = np.searchsorted(frames.video_index[order], np.arange(len(frames.videos) + 1))
        self._frames_of = [order[begin:end] for begin, end in pairwise(bounds)]
        self._same_scene: list[list[int]] = [[] for _ in frames.videos]
        for fake, original in originals.items():
            for video, other in ((fake, original), (original, fake)):
                if len(self._frames_of[other]):
                    self._same_scene[video].append(other)
        labels = frames.labels
        self._group = 2 * frames.groups() + labels
        self._others: dict[int, np.ndarray] = {}
        for group in np.unique(self._group):
            same_set = np.flatnonzero(self._group == group ^ 1)
            self._others[group] = same_set if len(same_set) else np.flatnonzero(labels != group % 2)

    def of_fakes(self) -> np.ndarray:
        """The partners of the fakes whose original is known; -1 for the other fakes and for real frames, [N]."""
        return self._of_fakes

    @cached_property
    def _of_fakes(self) -> np.ndarray:
        found = np.full(len(self._numbers), -1)
        for members, scene in zip(self._frames_of, self._same_scene, strict=True):
            if len(members) and scene and self._group[members[0]] % 2:
                others = self._frames_of[scene[0]]
                apart = np.abs(self._numbers[others][None] - self._numbers[members][:, None])
                found[members] = others[apart.argmin(axis=1)]
        return found

    def pairs_after(self, fake: int, seed_of: Callable[[int], int]) -> Iterator[tuple[int, int]]:
        """Yields the pairs of all other fakes, (fake, its real frame), in the order of the list, from a fake on.

        Args:
            fake: Position of the fake after which they begin.
            seed_of: Gives the seed with which a fake's real frame is drawn, if the fake's original is not known.
        """
        fakes, reals = np.flatnonzero(self._group % 2), self.of_fakes()
        for other in np.roll(fakes, -1 - np.searchsorted(fakes, fake))[:-1].tolist():
            yield other, int(reals[other]) if reals[other] >= 0 else self.of(other, seed_of(other))

    def of(self, index: int, seed: int) -> int:
        """Chooses the partner of a frame; both are positions in the list."""
        u, v = uniforms(seed, 2)
        scene = self._same_scene[self._video_index[index]]
        if scene:
            members = self._frames_of[scene[int(u * len(scene))]]
            return int(members[np.abs(self._numbers[members] - self._numbers[index]).argmin()])
        others = self._others[self._group[index]]
        return int(others[int(v * len(others))])


def read_landmarks(frames: FrameList, stores: Mapping[str, FrameStore]) -> np.ndarray:
    """Reads the facial landmarks of every frame, (x, y) in pixels of the stored frame, float32 [N, K, 2].

    Raises:
        UserError: Some are missing, cannot be read, or have another number of points than the first.
    """
    remedy = "`resproto faces` writes them beside the frames, and `resproto pack` packs them"
    _refuse_missing("landmarks", landmark_path, frames, np.arange(len(frames)), stores, remedy)
    found = None
    for index, path in enumerate(frames.paths):
        store = stores[frames.videos[frames.video_index[index]].dataset]
        points = store.read_landmarks(path)
        if found is None:
            found = np.empty((len(frames), *points.shape), np.float32)
        if points.shape != found.shape[1:]:
            raise UserError(
                f"{store}: {landmark_path(path)}: expected {found.shape[1]} landmarks, as {frames.paths[0]} has, got "
                f"{len(points)}; crop all training frames with `resproto faces`"
            )
        found[index] = points
    return found


def _mask_sources(frames: FrameList, stores: Mapping[str, FrameStore], some_missing: bool) -> np.ndarray:
    kinds = np.asarray([video.forgery_type for video in frames.videos])[frames.video_index]
    sources = np.where(kinds == "real", Companions.NOTHING, Companions.STORED)
    synthesised = np.flatnonzero(kinds == "entire synthesis")
    for absent in _missing(mask_path, frames, synthesised, stores).values():
        sources[absent] = Companions.EVERYTHING
    forged = np.flatnonzero((sources == Companions.STORED) & (kinds != "entire synthesis"))
    remedy = (
        "`resproto faces` makes them from a data set's mask videos, and `resproto pack` packs them. Or choose training "
        "sets that have masks, or switch off the loss that needs masks in the detector's keywords. If only some are "
        "missing, set data.on_bad_frame=skip to use other frames instead"
    )
    _refuse_missing("masks", mask_path, frames, forged, stores, remedy, some_missing)
    return sources if frames.told is None else sources[frames.told]


def _missing(
    beside: Callable[[str], str], frames: FrameList, chosen: np.ndarray, stores: Mapping[str, FrameStore]
) -> dict[str, np.ndarray]:
    """Finds the chosen frames that lack a file beside them in the store: {data set: positions}, if there are any."""
    names = list(dict.fromkeys(video.dataset for video in frames.videos))
    groups, found = frames.groups(), {}
    for place, name in enumerate(names):
        paths = {beside(frames.paths[i]): i for i in chosen[groups[chosen] == place]}
        absent = set(stores[name].missing(list(paths)))
        if absent:
            found[name] = np.asarray([i for path, i in paths.items() if path in absent])
    return found


def _refuse_missing(
    what: str,
    beside: Callable[[str], str],
    frames: FrameList,
    chosen: np.ndarray,
    stores: Mapping[str, FrameStore],
    remedy: str,
    some_missing: bool = False,
) -> None:
    asked = np.bincount(frames.groups()[chosen])
    names = list(dict.fromkeys(video.dataset for video in frames.videos))
    for name, absent in _missing(beside, frames, chosen, stores).items():
        if some_missing and len(absent) < asked[names.index(name)]:
            continue
        raise UserError(
            f"data set '{name}': {stores[name]} lacks the {what} of {len(absent)} training frames, first: "
            f"{beside(frames.paths[absent[0]])}. {remedy}"
        )


def carried(
    transform: Transform | LibraryTransform,
    image: np.ndarray,
    seed: int,
    mask: np.ndarray | None,
    points: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Carries out one draw of an augmentation on a picture, its mask and its landmarks.

    Args:
        transform: The augmentation.
        image: RGB uint8, [H, W, 3].
        seed: The sample's seed.
        mask: uint8, [H, W]; None if it is not required.
        points: Landmarks (x, y), [K, 2]; None if they are not required.

    Returns:
        (uint8 [S, S, 3], uint8 [S, S] or None, float32 [K, 2] or None).
    """
    if isinstance(transform, LibraryTransform):
        shown, mask, points = transform.carry(image, seed, mask, points)
    else:
        matrix = transform.geometry(seed, *image.shape[:2])
        mask = None if mask is None else moved_mask(mask, matrix, transform.side)
        points = None if points is None else move_points(matrix, points)
        shown = transform(image, seed)
    return shown, mask, None if points is None else points.astype(np.float32)


def moved_mask(mask: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Moves a mask as its picture is moved.

    Args:
        mask: uint8, [H, W].
        matrix: See `views.Transform.geometry`.
        size: Side S of the result.

    Returns:
        uint8 [S, S]. A mask is mirrored at its border, as the picture is.
    """
    return cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def as_tensors(rows: Mapping[str, list], good: list[int]) -> dict[str, torch.Tensor]:
    """Makes the fields of a batch from the companions of its readable places.

    Args:
        rows: By field, for each place: a picture uint8 [S, S, 3], a mask uint8 [S, S] or landmarks [K, 2].
        good: The readable places.
    """
    found = {}
    for name, made in rows.items():
        stacked = np.stack([made[place] for place in good])
        if name in PICTURES:
            stacked = np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))
        found[name] = torch.from_numpy(stacked[:, None] if name == MASK else stacked)
    return found
