"""What a detector may ask for beside a sample's picture: made anew with each augmentation.

    "mask"          float32 [B, 1, S, S] in [0, 1], 1 forged: kept where DeepfakeBench keeps it (`frames` replaced by
                    `masks` in the frame's path); 0 all over for real frames, 1 for wholly synthesised ones without;
                    of forgeries made while training as `blending` says
    "landmarks"     float32 [B, K, 2], (x, y) in pixels of the picture that the detector is fed; kept as .npy files,
                    `frames` replaced by `landmarks`
    "second_view"   [B, 3, S, S]: the same frame under another augmentation, normalised
    "partner"       [B, 3, S, S]: a frame of the other class under an augmentation of its own, normalised: of the video
                    that a fake was made from, or of a fake that was made from a real one, at the same moment; where
                    none is known, any of the same data set's

Masks and landmarks follow the picture's geometry; what an augmentation does to values (blur, a part set to black) does
not touch them. Until they are on the device, pictures and masks are bytes.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.store.frame_store import FrameStore, landmark_path, mask_path
from resproto_fd.trainer.augment.views import uniforms
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.scenes import originals, side_records

MASK, LANDMARKS, SECOND_VIEW, PARTNER = "mask", "landmarks", "second_view", "partner"
PICTURES = (SECOND_VIEW, PARTNER)
COMPANIONS = (MASK, LANDMARKS, *PICTURES)


@dataclass(frozen=True, eq=False)
class Companions:
    """What of these is wanted, and what must be known to make it.

    Attributes:
        masks: Where each frame's mask comes from, [N]: `NOTHING` and `EVERYTHING` are 0 and 1 all over, `STORED` is in
            the store, `BLENDED` what was blended in (see `blended_pairs`); None: not wanted.
        landmarks: Of each frame, in pixels as stored, float32 [N, K, 2]; None: not wanted.
        second_view: Whether it is wanted.
        partner_of: Which frame goes with one, from its place in the list and a seed; None: not wanted.
    """

    NOTHING, EVERYTHING, STORED, BLENDED = range(4)
    masks: np.ndarray | None = None
    landmarks: np.ndarray | None = None
    second_view: bool = False
    partner_of: Callable[[int, int], int] | None = None


def find_companions(
    wanted: Iterable[str],
    frames: FrameList,
    sides: Mapping[str, Path],
    stores: Mapping[str, FrameStore],
    some_missing: bool = False,
) -> Companions | None:
    """What is wanted of `COMPANIONS` for the frames of a list, found in stores and side files.

    Args:
        wanted: Names of fields; others are passed over.
        frames: The training frames.
        sides: Side file of each data set, by name; it need not be there.
        stores: Frame store of each data set, by name.
        some_missing: Some of a data set's masks may be missing: their frames cannot be read then.

    Returns:
        None if nothing is wanted.

    Raises:
        UserError: A mask or landmarks are missing: the data set, the first frame and the remedy are named.
    """
    wanted = set(wanted) & set(COMPANIONS)
    if not wanted:
        return None
    return Companions(
        masks=_mask_sources(frames, stores, some_missing) if MASK in wanted else None,
        landmarks=read_landmarks(frames, stores) if LANDMARKS in wanted else None,
        second_view=SECOND_VIEW in wanted,
        partner_of=Partners(frames, originals(frames, side_records(frames, sides))).of if PARTNER in wanted else None,
    )


class Partners:
    """Frames of the other class.

    Args:
        frames: The list.
        originals: Position of the real video that each fake was made from, by the fake's, where it is known.
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
        labels = np.asarray([video.label for video in frames.videos])[frames.video_index]
        self._group = 2 * frames.groups() + labels
        self._others: dict[int, np.ndarray] = {}
        for group in np.unique(self._group):
            same_set = np.flatnonzero(self._group == group ^ 1)
            self._others[group] = same_set if len(same_set) else np.flatnonzero(labels != group % 2)

    def of(self, index: int, seed: int) -> int:
        """The partner of a frame, by their positions in the list."""
        u, v = uniforms(seed, 2)
        scene = self._same_scene[self._video_index[index]]
        if scene:
            members = self._frames_of[scene[int(u * len(scene))]]
            return int(members[np.abs(self._numbers[members] - self._numbers[index]).argmin()])
        others = self._others[self._group[index]]
        return int(others[int(v * len(others))])


def read_landmarks(frames: FrameList, stores: Mapping[str, FrameStore]) -> np.ndarray:
    """Facial landmarks of every frame, (x, y) in pixels of the stored frame, float32 [N, K, 2].

    Raises:
        UserError: Some are missing, cannot be read, or have another number of points than the first.
    """
    remedy = "`resproto faces` writes them beside the frames, and `resproto pack` packs them unless it is told not to"
    _refuse_missing("landmarks", landmark_path, frames, np.arange(len(frames)), stores, remedy)
    found = None
    for index, path in enumerate(frames.paths):
        store = stores[frames.videos[frames.video_index[index]].dataset]
        points = store.read_landmarks(path)
        if found is None:
            found = np.empty((len(frames), *points.shape), np.float32)
        if points.shape != found.shape[1:]:
            raise UserError(
                f"{store}: {landmark_path(path)}: {len(points)} landmarks, of {frames.paths[0]} there are "
                f"{found.shape[1]}; training frames must have as many: crop them alike with `resproto faces`"
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
        "`resproto faces` makes them from the mask videos that come with a data set, and `resproto pack` packs them; "
        "or choose training sets that have masks, or switch off the loss that needs them in the detector's keywords. "
        "If only some are missing, data.on_bad_frame=skip puts other frames in their place"
    )
    _refuse_missing("masks", mask_path, frames, forged, stores, remedy, some_missing)
    return sources


def _missing(
    beside: Callable[[str], str], frames: FrameList, chosen: np.ndarray, stores: Mapping[str, FrameStore]
) -> dict[str, np.ndarray]:
    """Of some frames, those beside which a store lacks a file; by data set, where there are any."""
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


def moved_mask(mask: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """A mask as its picture is looked at.

    Args:
        mask: uint8, [H, W].
        matrix: See `views.Transform.geometry`.
        size: Side S of what comes out.

    Returns:
        uint8 [S, S]; beyond its border a mask is mirrored, as the picture is.
    """
    return cv2.warpAffine(mask, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def as_tensors(rows: Mapping[str, list], good: list[int]) -> dict[str, torch.Tensor]:
    """Fields of a batch from what was made for each of its places: of the good ones.

    Args:
        rows: By field, for each place: a picture uint8 [S, S, 3], a mask uint8 [S, S] or landmarks [K, 2].
        good: Places.
    """
    found = {}
    for name, made in rows.items():
        stacked = np.stack([made[place] for place in good])
        if name in PICTURES:
            stacked = np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))
        found[name] = torch.from_numpy(stacked[:, None] if name == MASK else stacked)
    return found
