"""Data set that reads frames into batches, and the normaliser that hands them to the detector.

A sample's augmentation is a function of seed, epoch and index. It does not depend on workers, on ranks, or on the step
at which a run was resumed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.base import Encoded
from resproto_fd.preprocessing.store.frame_store import FrameStore
from resproto_fd.trainer.augment.blending import Blend
from resproto_fd.trainer.augment.device_transforms import OnDevice, Unaugmented
from resproto_fd.trainer.augment.views import Transform
from resproto_fd.trainer.batch_memory import BatchMemory
from resproto_fd.trainer.blended_pairs import BlendedPairs
from resproto_fd.trainer.companions import (
    LANDMARKS,
    MASK,
    PARTNER,
    SECOND_VIEW,
    Companions,
    Partners,
    as_tensors,
    carried,
)
from resproto_fd.trainer.frame_list import FrameList


@dataclass(frozen=True)
class BadFrame:
    """A frame that could not be read. Workers send it to the main process."""

    index: int
    message: str


class FrameDataset(Dataset):
    """Reads frames in batches.

    Frames are read store by store, in the order of their keys, and each picture is written straight into its place in
    the batch.

    `ClipDataset` reads clips of several frames.

    A batch is {"image" uint8 [B, 3, S, S], "label" int64 [B], "index" int64 [B], "bad" list of BadFrame}. It has the
    readable samples in the order asked for; if no sample is readable, it has only "bad". With an `OnDevice` transform,
    "image" is `Unaugmented`. Further fields have their own names; pictures and masks among them are bytes.

    Args:
        frames: The frames to read.
        stores: The frame store of each data set, by name.
        transform: Turns a stored image and a seed into the square that the detector gets.
        seed: Fixes each sample's augmentation, together with epoch and index.
        replace_bad: Replaces an unreadable frame by the next readable one. It is reported either way.
        fields: Further facts of each frame, by name: numbers [N], or a list of N texts.
        change: Changes each stored frame before the transform, given the image and its canonical path.
        companions: Further fields that are made with each sample's picture.
        pairs: Makes half of the frames, as forgeries of the others; `frames` is then its list.
        checksums: Whether a batch has "checksum" too, int64 [B]: the CRC-32 of each stored frame, see `checksum_of`.
        partners: Chooses the real frame of each fake. In a batch each fake is then followed by a real frame, and an
            unreadable frame is replaced together with the other one of its pair.

    Raises:
        UserError: There are companions, and pictures are augmented on the device.
    """

    in_memory = False
    """Whether batches are at hand, so that no worker processes are needed."""
    pictures = 1
    """Pictures of a sample."""

    def __init__(
        self,
        frames: FrameList,
        stores: Mapping[str, FrameStore],
        transform: Transform | OnDevice,
        seed: int = 0,
        replace_bad: bool = False,
        fields: Mapping[str, np.ndarray | list[str]] | None = None,
        change: Callable[[np.ndarray, str], np.ndarray] | None = None,
        companions: Companions | None = None,
        pairs: BlendedPairs | None = None,
        checksums: bool = False,
        partners: Partners | None = None,
    ):
        if companions and isinstance(transform, OnDevice):
            raise UserError(
                "run.augment_on=device: this detector needs masks, landmarks, second views or partners of the frames, "
                "which are made on the host; set run.augment_on=host"
            )
        self.frames = self.stored = frames
        self.companions = companions
        self.pairs = pairs
        self.partners = partners
        self.checksums = checksums
        self._checksum_of: dict[int, int] = {}  # of the batch that is read now, by position in the frame list
        self._last_blend: tuple[tuple[int, int], Blend] | None = None
        self.change = change
        self.fields = dict(fields or {})
        self.replace_bad = replace_bad
        self.stores = dict(stores)
        self.transform = transform
        self.seed = seed
        self.being_read = torch.full((256,), -1, dtype=torch.int64).share_memory_()
        self.memory: BatchMemory | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: tuple[int, int]) -> dict | BadFrame:
        """Reads one sample: a batch of one, without the batch dimension."""
        batch = self.__getitems__([key])
        if "image" not in batch:
            return batch["bad"][0]
        return {name: value[0] for name, value in batch.items() if name != "bad"}

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict:
        """Reads the batch of some keys (epoch, index)."""
        epochs, chosen = [epoch for epoch, _ in keys], [index for _, index in keys]
        batch = Canvas(len(keys) * self.pictures, self._empty)
        self._checksum_of.clear()
        bad = self._fill(batch, range(len(keys)), epochs, chosen)
        lost = self._replaced(batch, bad, epochs, chosen)
        found: dict = {"bad": [bad[place] for place in sorted(bad)]}
        good = [place for place in range(len(keys)) if place not in lost]
        if good:
            found |= self._facts(torch.tensor([chosen[place] for place in good])) | self._made(batch, good)
            if self.checksums:
                found["checksum"] = torch.tensor([self._checksum(epochs[place], chosen[place]) for place in good])
        return found

    def _fill(
        self, batch: "Canvas", places: Sequence[int], epochs: Sequence[int], chosen: Sequence[int]
    ) -> dict[int, BadFrame]:
        """Puts samples into their places in the batch; returns what is wrong with a sample, by its place."""
        bad = {}
        for number, image in self._read_in_key_order([chosen[place] for place in places]):
            place = places[number]
            if error := self._put(batch, place, image, epochs[place], chosen[place]):
                bad[place] = BadFrame(chosen[place], str(error))
        return bad

    def _made(self, batch: "Canvas", pictures: list[int]) -> dict:
        """The pictures at some places of a batch, and what was made with them."""
        image = batch.images if len(pictures) == len(batch.images) else batch.images[pictures]
        if isinstance(self.transform, OnDevice):
            image = self.transform.batch(image, [batch.views[picture] for picture in pictures])
        return {"image": image, **as_tensors(batch.beside, pictures)}

    def _checksum(self, epoch: int, index: int) -> int:
        return self._checksum_of[index]

    def _facts(self, index: torch.Tensor) -> dict:
        """What a batch has of its samples beside what was read."""
        found = {"label": torch.from_numpy(self.frames.labels[index.numpy()]), "index": index}
        for name, values in self.fields.items():
            texts = isinstance(values, list)
            found[name] = [values[i] for i in index] if texts else torch.from_numpy(values[index.numpy()])
        return found

    def _read_in_key_order(self, chosen: Sequence[int]) -> Iterator[tuple[int, np.ndarray | UserError]]:
        """Yields (place in `chosen`, stored image or error). An image is valid until the next one is asked for."""
        frames, slot = self.stored, self._worker()
        names = [frames.videos[frames.video_index[index]].dataset for index in chosen]
        paths = [frames.paths[index] for index in chosen]
        order = sorted(range(len(chosen)), key=lambda place: (names[place], paths[place]))
        for name, group in groupby(order, key=names.__getitem__):
            frames_of = [list(places) for _, places in groupby(group, key=paths.__getitem__)]
            store, wanted = self.stores[name], [paths[places[0]] for places in frames_of]
            images = store.read_each_with_checksum(wanted) if self.checksums else store.read_each(wanted)
            for places in frames_of:
                self.being_read[slot] = chosen[places[0]]
                image = next(images)
                if isinstance(image, tuple):
                    image, self._checksum_of[chosen[places[0]]] = image
                for place in places:
                    yield place, image

    def _put(
        self, batch: "Canvas", place: int, image: np.ndarray | UserError, epoch: int, index: int
    ) -> UserError | None:
        """Puts a stored image into its place; returns the error if it, or what belongs to it, cannot be had."""
        if isinstance(image, UserError):
            return image
        seed = self._seed(epoch, self._scene(index))
        try:
            image, mask = self._prepared(image, epoch, index)
            if self.companions is not None:
                image = self._accompany(batch, place, image, mask, epoch, index, seed)
            elif isinstance(self.transform, OnDevice):
                batch.views[place] = self.transform.draw(seed, *image.shape[:2])
            else:
                image = self.transform(image, seed)
        except UserError as error:
            return error
        batch.put(place, image)
        return None

    def _prepared(self, image: np.ndarray, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Prepares a stored frame for the transform. For a pair, also returns its blended area, float32 [H, W]."""
        if self.pairs is None:
            return self._changed(image, index), None
        pair, forged = divmod(index, 2)
        if self._last_blend is None or self._last_blend[0] != (epoch, pair):
            seed, real = self._seed(epoch, pair, 4), self._changed(image, index).copy()  # outlives the store's memory
            blend = self.pairs.blend(real, pair, seed, lambda other: self._read(2 * other))
            self._last_blend = (epoch, pair), blend
        blend = self._last_blend[1]
        return blend.fake if forged else blend.real, blend.mask

    def _changed(self, image: np.ndarray, index: int) -> np.ndarray:
        return image if self.change is None else self.change(image, self.stored.paths[index])

    def _read(self, index: int) -> np.ndarray:
        """Reads a frame that is not in the batch."""
        return self._changed(self._store_of(index).read(self.frames.paths[index]), index)

    def _accompany(
        self,
        batch: "Canvas",
        place: int,
        image: np.ndarray,
        blended: np.ndarray | None,
        epoch: int,
        index: int,
        seed: int,
    ) -> np.ndarray:
        """Augments a sample's picture with its companions, keeps these and returns the picture."""
        wanted, (height, width), mask = self.companions, image.shape[:2], None
        if wanted.masks is not None:
            if wanted.masks[index] == Companions.BLENDED:
                mask = np.round(255 * self.frames.labels[index] * blended).astype(np.uint8)
            else:
                mask = self._mask(wanted.masks[index], index, height, width)
        points = None if wanted.landmarks is None else wanted.landmarks[index]
        shown, mask, points = carried(self.transform, image, seed, mask, points)
        for name, made in ((MASK, mask), (LANDMARKS, points)):
            if made is not None:
                batch.put_beside(name, place, made)
        if wanted.second_view:
            view = self.transform(image, self._seed(epoch, self._scene(index), 1))
            batch.put_beside(SECOND_VIEW, place, view)
        if wanted.partner_of is not None:
            partner = wanted.partner_of(index, self._seed(epoch, index, 2))
            if wanted.blends:
                image = image.copy()  # outlives the store's memory
            stored = self._store_of(partner).read(self.frames.paths[partner])
            prepared = self._prepared(stored, epoch, partner)[0]
            batch.put_beside(PARTNER, place, self.transform(prepared, self._seed(epoch, index, 3)))
            if wanted.blends:
                real = (prepared.copy(), partner) if self.frames.labels[index] else (image, index)
                self._put_blends(batch, place, *real, epoch, index, seed)
        return shown

    def _put_blends(
        self, batch: "Canvas", place: int, real: np.ndarray, of: int, epoch: int, index: int, seed: int
    ) -> None:
        """Makes the forgeries of the real frame at position `of`, augments them as the sample, and keeps them."""
        for number, (name, make) in enumerate(self.companions.blends.items()):
            forged = make(real, of, self._seed(epoch, index, 5 + number), self._read)
            batch.put_beside(name, place, self.transform(forged, seed))

    def _mask(self, source: int, index: int, height: int, width: int) -> np.ndarray:
        if source != Companions.STORED:
            return np.full((height, width), 0 if source == Companions.NOTHING else 255, np.uint8)
        index = index if self.frames.told is None else int(self.frames.told[index])
        mask = self._store_of(index).read_mask(self.frames.paths[index])
        return mask if mask.shape == (height, width) else cv2.resize(mask, (width, height))

    def _scene(self, index: int) -> int:
        """Number that fixes a sample's augmentation: both pictures of a pair are augmented alike."""
        return index if self.pairs is None else index // 2

    def _store_of(self, index: int) -> FrameStore:
        return self.stores[self.frames.videos[self.frames.video_index[index]].dataset]

    def _seed(self, *of: int) -> int:
        """Seed of one draw; a sample's augmentation has the numbers (epoch, index)."""
        return int(np.random.SeedSequence((self.seed, *of)).generate_state(1)[0])

    def _replaced(
        self, batch: "Canvas | None", bad: Mapping[int, BadFrame], epochs: Sequence[int], chosen: list[int]
    ) -> set[int]:
        """Puts the next readable samples into the places of bad ones; returns the places that get none."""
        lost: set[int] = set()
        for place, what in bad.items():
            if chosen[place] != what.index:  # replaced with the other one of its pair
                continue
            places = [place] if self.partners is None else [place - place % 2, place - place % 2 + 1]
            before = [chosen[each] for each in places]
            for others in self._next_ones(before[0], epochs[place]) if self.replace_bad else ():
                for each, other in zip(places, others, strict=True):
                    chosen[each] = other
                if not self._fill(batch, places, epochs, chosen):
                    break
            else:
                for each, index in zip(places, before, strict=True):
                    chosen[each] = index
                lost.update(places)
        return lost

    def _next_ones(self, first: int, epoch: int) -> Iterator[tuple[int, ...]]:
        """What may replace the sample at a position of the list, or the pair of the fake there: the nearest first."""
        if self.partners is not None:
            yield from self.partners.pairs_after(first, lambda fake: self._seed(epoch, fake, 2))
            return
        step = 1 if self.pairs is None else 2
        for other in range(first + step, first + len(self), step):
            yield (other % len(self),)

    def _worker(self) -> int:
        worker = get_worker_info()
        return worker.id if worker else 0

    def _empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        return self.memory.empty(self._worker(), shape) if self.memory else torch.empty(shape, dtype=torch.uint8)

    def frame_at(self, worker: int) -> str | None:
        """The frame that a data worker began to read last. If the worker died, the frame may be the cause."""
        index = int(self.being_read[worker])
        return self.stored.paths[index] if index >= 0 else None


class Canvas:
    """Pictures of a batch, uint8 [B, 3, H, W], of the largest one's size. Pixels beside a smaller one are undefined.

    Args:
        count: Number of pictures.
        empty: Allocates a tensor of a shape.
    """

    def __init__(self, count: int, empty: Callable[[tuple[int, ...]], torch.Tensor]):
        self.images: torch.Tensor | None = None
        self.views: list = [None] * count
        self.beside: dict[str, list] = {}
        self._count, self._empty = count, empty

    def put(self, place: int, image: np.ndarray) -> None:
        """Writes a picture, RGB uint8 [H, W, 3], into its place."""
        height, width = image.shape[:2]
        if self.images is None or height > self.images.shape[2] or width > self.images.shape[3]:
            self._grow(height, width)
        cv2.split(image, list(self._array[place, :, :height, :width]))

    def put_beside(self, name: str, place: int, made: np.ndarray) -> None:
        """Keeps a field that belongs to a picture, under its name."""
        self.beside.setdefault(name, [None] * self._count)[place] = made

    def _grow(self, height: int, width: int) -> None:
        old = self.images
        if old is not None:
            height, width = max(height, old.shape[2]), max(width, old.shape[3])
        self.images = self._empty((self._count, 3, height, width))
        if old is not None:
            self.images[:, :, : old.shape[2], : old.shape[3]] = old.clone()
        self._array = self.images.numpy()


class Normaliser:
    """Normalises images on the device: uint8 [B, 3, S, S], or clips [B, T, 3, S, S] -> (x / 255 - mean) / std.

    Images that the device has to augment are augmented first. Those that are encoded already are only moved.
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], device: torch.device, dtype: torch.dtype, channels_last: bool
    ):
        self.device, self.dtype = device, dtype
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.scale = (1 / (255 * torch.tensor(std, dtype=torch.float64))).view(3, 1, 1).to(device, dtype)
        self.shift = (
            (torch.tensor(mean, dtype=torch.float64) / torch.tensor(std, dtype=torch.float64))
            .view(3, 1, 1)
            .to(device, dtype)
        )

    def __call__(self, images: torch.Tensor | Unaugmented | Encoded) -> torch.Tensor | Encoded:
        images = images.to(self.device, non_blocking=True)
        if isinstance(images, Encoded):
            return images
        if isinstance(images, Unaugmented):
            images = images.augmented()
        if images.ndim == 5:  # a memory order of channels is one of pictures
            return self._normalised(images.flatten(0, 1)).unflatten(0, images.shape[:2])
        return self._normalised(images)

    def _normalised(self, images: torch.Tensor) -> torch.Tensor:
        return images.to(self.dtype, memory_format=self.format).mul_(self.scale).sub_(self.shift)
