"""Data set that reads clips into batches.

In shapes, B is the number of clips of a batch, T of the frames of a clip, K of the landmarks of a face.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.store.frame_store import FrameStore
from resproto_fd.trainer.augment.device_transforms import OnDevice, Unaugmented
from resproto_fd.trainer.augment.views import Transform, uniforms
from resproto_fd.trainer.blended_clips import BlendedClips
from resproto_fd.trainer.clip_list import ClipList, clip_checksum
from resproto_fd.trainer.companions import LANDMARKS, Companions, Partners, carried
from resproto_fd.trainer.data import BadFrame, Canvas, FrameDataset

FORGERY, START = 4, 5
"""Numbers of the draws of a forgery and of a clip's start, among those of a sample (see `FrameDataset._seed`)."""


class ClipDataset(FrameDataset):
    """Reads clips in batches; all frames of a clip are augmented alike.

    A batch is as `FrameDataset` says, but "image" is uint8 [B, T, 3, S, S], and a companion is of each frame:
    "landmarks" [B, T, K, 2]. A clip with an unreadable frame is an unreadable sample; its `BadFrame` has the clip's
    position and names the frame.

    Args:
        clips: The clips to read.
        stores, transform, seed, fields, change: See `FrameDataset`.
        replace_bad: Replaces an unreadable clip by the next readable one. It is reported either way.
        companions: Landmarks of the stored frames, if they are required.
        checksums: Whether a batch has "checksum" too: of each clip, see `clip_checksum`.
        partners: See `FrameDataset`; it chooses clips.
        draws: Whether clips start elsewhere in each epoch: a start is drawn from seed, epoch and position in the list.
        blends: Makes some of the clips, as forgeries of others; `clips` is then its list.

    Raises:
        UserError: As `FrameDataset`.
    """

    def __init__(
        self,
        clips: ClipList,
        stores: Mapping[str, FrameStore],
        transform: Transform | OnDevice,
        seed: int = 0,
        replace_bad: bool = False,
        fields: Mapping[str, np.ndarray | list[str]] | None = None,
        change: Callable[[np.ndarray, str], np.ndarray] | None = None,
        companions: Companions | None = None,
        checksums: bool = False,
        partners: Partners | None = None,
        draws: bool = False,
        blends: BlendedClips | None = None,
    ):
        super().__init__(
            clips, stores, transform, seed, replace_bad, fields, change, companions, None, checksums, partners
        )
        self.stored, self.pictures, self.draws = clips.stored, clips.given.frames, draws
        self.blends = blends

    def _made(self, batch: Canvas, places: list[int]) -> dict:
        """The clips at some places of a batch, and what was made with them."""
        length = self.pictures
        made = super()._made(batch, [place * length + frame for place in places for frame in range(length)])
        image = made.pop("image")
        of_clips = replace(image, frames=length) if isinstance(image, Unaugmented) else image.unflatten(0, (-1, length))
        return {"image": of_clips, **{name: value.unflatten(0, (-1, length)) for name, value in made.items()}}

    def _checksum(self, epoch: int, index: int) -> int:
        return clip_checksum([self._checksum_of[frame] for frame in self._frames_of(epoch, index)])

    def _frames_of(self, epoch: int, clip: int) -> list[int]:
        """Positions in the stored frames of a clip's, T."""
        if not self.draws:
            return self.frames.places[clip].tolist()
        share = uniforms(self._seed(epoch, clip, START), 1)[0]
        real = clip if self.blends is None else int(self.blends.made_of[clip])
        return self.frames.drawn(real, share).tolist()

    def _fill(
        self, batch: Canvas, places: Sequence[int], epochs: Sequence[int], chosen: Sequence[int]
    ) -> dict[int, BadFrame]:
        length, bad = self.pictures, {}
        seeds = {place: self._seed(epochs[place], chosen[place]) for place in places}
        frames = [frame for place in places for frame in self._frames_of(epochs[place], chosen[place])]
        for number, image in self._read_in_key_order(frames):
            place = places[number // length]
            if place not in bad:
                image = self._prepared_frame(image, frames[number], number % length, epochs[place], chosen[place])
                picture = place * length + number % length
                if error := self._put_frame(batch, picture, image, frames[number], seeds[place]):
                    bad[place] = BadFrame(chosen[place], str(error))
        return bad

    def _prepared_frame(
        self, image: np.ndarray | UserError, stored: int, frame: int, epoch: int, clip: int
    ) -> np.ndarray | UserError:
        """Changes a stored image as asked, and blends it in a forgery; returns the error if that cannot be done."""
        if isinstance(image, UserError):
            return image
        try:
            image = self._changed(image, stored)
            if self.blends is not None and self.blends.is_forged(clip):
                image = self.blends.blend(image, stored, frame, self._seed(epoch, clip, FORGERY))
        except UserError as error:
            return error
        return image

    def _put_frame(
        self, batch: Canvas, picture: int, image: np.ndarray | UserError, frame: int, seed: int
    ) -> UserError | None:
        """Puts an image into its place; returns the error if it cannot be had."""
        if isinstance(image, UserError):
            return image
        try:
            if self.companions is not None:
                points = self.companions.landmarks[frame]
                image, _, points = carried(self.transform, image, seed, None, points)
                batch.put_beside(LANDMARKS, picture, points)
            elif isinstance(self.transform, OnDevice):
                batch.views[picture] = self.transform.draw(seed, *image.shape[:2])
            else:
                image = self.transform(image, seed)
        except UserError as error:
            return error
        batch.put(picture, image)
        return None
