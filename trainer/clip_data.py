"""Data set that reads clips into batches.

In shapes, B is the number of clips of a batch, T of the frames of a clip, K of the landmarks of a face.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.store.frame_store import FrameStore
from resproto_fd.trainer.augment.device_transforms import OnDevice
from resproto_fd.trainer.augment.views import Transform, uniforms
from resproto_fd.trainer.clip_list import ClipList, clip_checksum
from resproto_fd.trainer.companions import LANDMARKS, Companions, as_tensors, carried
from resproto_fd.trainer.data import BadFrame, Canvas, FrameDataset

START = 5
"""Number of the draw of a clip's start, among the draws of a sample (see `FrameDataset._seed`)."""


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
        draws: Whether clips start elsewhere in each epoch: a start is drawn from seed, epoch and position in the list.

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
        draws: bool = False,
    ):
        super().__init__(
            clips, stores, transform, seed, replace_bad, fields, change, companions=companions, checksums=checksums
        )
        self.stored, self.pictures, self.draws = clips.stored, clips.given.frames, draws

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict:
        """Reads the batch of some keys (epoch, index)."""
        epochs, chosen, length = [epoch for epoch, _ in keys], [index for _, index in keys], self.pictures
        batch = Canvas(len(keys) * length, self._empty)
        self._checksum_of.clear()
        bad = self._fill(batch, range(len(keys)), epochs, chosen)
        lost = [place for place in bad if not (self.replace_bad and self._replaced(batch, place, epochs, chosen))]
        found: dict = {"bad": [bad[place] for place in sorted(bad)]}
        good = [place for place in range(len(keys)) if place not in lost]
        if not good:
            return found
        pictures = [place * length + frame for place in good for frame in range(length)]
        image = batch.images if not lost else batch.images[pictures]
        if isinstance(self.transform, OnDevice):
            drawn = self.transform.batch(image, [batch.views[picture] for picture in pictures])
            image = replace(drawn, frames=length)
        else:
            image = image.unflatten(0, (-1, length))
        index = torch.tensor([chosen[place] for place in good])
        beside = as_tensors(batch.beside, pictures)
        found |= {"image": image, **self._facts(index)}
        found |= {name: value.unflatten(0, (-1, length)) for name, value in beside.items()}
        if self.checksums:
            frames = [self._frames_of(epochs[place], chosen[place]) for place in good]
            sums = [clip_checksum([self._checksum_of[frame] for frame in clip]) for clip in frames]
            found["checksum"] = torch.tensor(sums)
        return found

    def _frames_of(self, epoch: int, clip: int) -> list[int]:
        """Positions in the stored frames of a clip's, T."""
        if not self.draws:
            return self.frames.places[clip].tolist()
        return self.frames.drawn(clip, uniforms(self._seed(epoch, clip, START), 1)[0]).tolist()

    def _fill(
        self, batch: Canvas, places: Sequence[int], epochs: Sequence[int], chosen: Sequence[int]
    ) -> dict[int, BadFrame]:
        """Puts clips into their places in the batch; returns what is wrong with a clip, by its place."""
        length, bad = self.pictures, {}
        seeds = {place: self._seed(epochs[place], chosen[place]) for place in places}
        frames = [frame for place in places for frame in self._frames_of(epochs[place], chosen[place])]
        for number, image in self._read_in_key_order(frames):
            place = places[number // length]
            if place not in bad:
                picture = place * length + number % length
                if error := self._put_frame(batch, picture, image, frames[number], seeds[place]):
                    bad[place] = BadFrame(chosen[place], str(error))
        return bad

    def _put_frame(
        self, batch: Canvas, picture: int, image: np.ndarray | UserError, frame: int, seed: int
    ) -> UserError | None:
        """Puts a stored image into its place; returns the error if it cannot be had."""
        if isinstance(image, UserError):
            return image
        try:
            image = self._changed(image, frame)
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

    def _replaced(self, batch: Canvas, place: int, epochs: Sequence[int], chosen: list[int]) -> bool:
        """Puts the next readable clip into a place; returns whether there is one."""
        first = chosen[place]
        for other in range(first + 1, first + len(self)):
            chosen[place] = other % len(self)
            if not self._fill(batch, [place], epochs, chosen):
                return True
        chosen[place] = first
        return False
