"""The data set that reads frames, and the samplers that deal them out.

The order of samples is a function of seed and epoch, a sample's augmentation of seed, epoch and index: neither depends
on workers, ranks or where an interrupted run was taken up again.
"""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.faces.alignment import move_points
from resproto_fd.preprocessing.store.frame_store import FrameStore
from resproto_fd.trainer.augment.blending import Blend
from resproto_fd.trainer.augment.device_transforms import OnDevice, Unaugmented
from resproto_fd.trainer.augment.views import Transform
from resproto_fd.trainer.batch_memory import BatchMemory, ByValue, batch_memory
from resproto_fd.trainer.blended_pairs import BlendedPairs
from resproto_fd.trainer.companions import LANDMARKS, MASK, PARTNER, SECOND_VIEW, Companions, as_tensors, moved_mask
from resproto_fd.trainer.frame_list import FrameList

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass(frozen=True)
class BadFrame:
    """A frame that could not be read, as a worker hands it to the main process."""

    index: int
    message: str


class FrameDataset(Dataset):
    """Reads frames, a batch at a time: in the order of their keys, each store in one transaction, every picture put
    straight into its place in the batch.

    A batch is {"image" uint8 [B, 3, S, S], "label" int64 [B], "index" int64 [B], "bad" list of BadFrame} with the
    readable samples in the order asked for; without the first three when no sample is readable. With an `OnDevice`
    transform, "image" is `Unaugmented`. Further fields stand beside them under their names, pictures and masks among
    them as bytes.

    Args:
        frames: What to read.
        stores: The frame store of each data set's name.
        transform: From the stored image and a seed to the square that the detector is fed.
        seed: With epoch and index, fixes each sample's augmentation.
        replace_bad: A frame that cannot be read gives way to the next one that can, and is reported beside it;
            otherwise it is only reported.
        fields: What else a batch holds of each frame: numbers [N], or a list of N texts.
        change: Done to each stored frame before the transform: from image and canonical path to an image.
        companions: What is made beside each sample's picture.
        pairs: Half of the frames are forgeries made of the others; `frames` is then its list.

    Raises:
        UserError: Companions of pictures that are augmented on the device.
    """

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
    ):
        if companions and isinstance(transform, OnDevice):
            raise UserError(
                "run.augment_on=device: this detector needs masks, landmarks, second views or partners of the frames, "
                "which are made on the host; set run.augment_on=host"
            )
        self.frames = frames
        self.companions = companions
        self.pairs = pairs
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
        """One sample: as a batch of one, without the batch dimension."""
        batch = self.__getitems__([key])
        if "image" not in batch:
            return batch["bad"][0]
        return {name: value[0] for name, value in batch.items() if name != "bad"}

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict:
        """The batch of some (epoch, index)."""
        epochs, chosen = [epoch for epoch, _ in keys], [index for _, index in keys]
        batch, bad = _Canvas(len(keys), self._empty), {}
        for place, image in self._read_in_key_order(chosen):
            if error := self._put(batch, place, image, epochs[place], chosen[place]):
                bad[place] = BadFrame(chosen[place], str(error))
        lost = [place for place in bad if not (self.replace_bad and self._replaced(batch, place, epochs, chosen))]
        found: dict = {"bad": [bad[place] for place in sorted(bad)]}
        good = [place for place in range(len(keys)) if place not in lost]
        if good:
            index = torch.tensor([chosen[place] for place in good])
            image = batch.images if not lost else batch.images[good]
            if isinstance(self.transform, OnDevice):
                image = self.transform.batch(image, [batch.views[place] for place in good])
            found |= {"image": image, "label": torch.from_numpy(self.frames.labels[index.numpy()]), "index": index}
            for name, values in self.fields.items():
                texts = isinstance(values, list)
                found[name] = [values[i] for i in index] if texts else torch.from_numpy(values[index.numpy()])
            found |= as_tensors(batch.beside, good)
        return found

    def _read_in_key_order(self, chosen: Sequence[int]) -> Iterator[tuple[int, np.ndarray | UserError]]:
        """(place in the batch, its stored image, valid until the next is asked for; or why there is none)."""
        frames, slot = self.frames, self._worker()
        names = [frames.videos[frames.video_index[index]].dataset for index in chosen]
        paths = [frames.paths[index] for index in chosen]
        order = sorted(range(len(chosen)), key=lambda place: (names[place], paths[place]))
        for name, group in groupby(order, key=names.__getitem__):
            frames_of = [list(places) for _, places in groupby(group, key=paths.__getitem__)]
            images = self.stores[name].read_each([paths[places[0]] for places in frames_of])
            for places in frames_of:
                self.being_read[slot] = chosen[places[0]]
                image = next(images)
                for place in places:
                    yield place, image
        self.being_read[slot] = -1

    def _put(
        self, batch: "_Canvas", place: int, image: np.ndarray | UserError, epoch: int, index: int
    ) -> UserError | None:
        """Puts a stored image into its place; or says why it, or what belongs to it, is not to be had."""
        if isinstance(image, UserError):
            return image
        seed = self._seed(epoch, self._scene(index))
        try:
            image, mask = self._prepared(image, epoch, index)
            if self.companions is not None:
                self._accompany(batch, place, image, mask, epoch, index, seed)
        except UserError as error:
            return error
        if isinstance(self.transform, OnDevice):
            batch.views[place] = self.transform.draw(seed, *image.shape[:2])
        else:
            image = self.transform(image, seed)
        batch.put(place, image)
        return None

    def _prepared(self, image: np.ndarray, epoch: int, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """A stored frame as it comes to the transform; of a pair also what was blended in, float32 [H, W]."""
        if self.pairs is None:
            return self._changed(image, index), None
        pair, forged = divmod(index, 2)
        if self._last_blend is None or self._last_blend[0] != (epoch, pair):
            seed, real = self._seed(epoch, pair, 4), self._changed(image, index).copy()  # it outlives the reading
            blend = self.pairs.blend(real, pair, seed, lambda other: self._read(2 * other))
            self._last_blend = (epoch, pair), blend
        blend = self._last_blend[1]
        return (blend.fake, blend.mask) if forged else (blend.real, np.zeros_like(blend.mask))

    def _changed(self, image: np.ndarray, index: int) -> np.ndarray:
        return image if self.change is None else self.change(image, self.frames.paths[index])

    def _read(self, index: int) -> np.ndarray:
        """A frame out of its turn."""
        return self._changed(self._store_of(index).read(self.frames.paths[index]), index)

    def _accompany(
        self,
        batch: "_Canvas",
        place: int,
        image: np.ndarray,
        blended: np.ndarray | None,
        epoch: int,
        index: int,
        seed: int,
    ) -> None:
        wanted, (height, width) = self.companions, image.shape[:2]
        matrix = self.transform.geometry(seed, height, width)
        if wanted.masks is not None:
            if wanted.masks[index] == Companions.BLENDED:
                mask = np.round(255 * blended).astype(np.uint8)
            else:
                mask = self._mask(wanted.masks[index], index, height, width)
            batch.put_beside(MASK, place, moved_mask(mask, matrix, self.transform.side))
        if wanted.landmarks is not None:
            batch.put_beside(LANDMARKS, place, move_points(matrix, wanted.landmarks[index]).astype(np.float32))
        if wanted.second_view:
            view = self.transform(image, self._seed(epoch, self._scene(index), 1))
            batch.put_beside(SECOND_VIEW, place, view)
        if wanted.partner_of is not None:
            partner = wanted.partner_of(index, self._seed(epoch, index, 2))
            stored = self._store_of(partner).read(self.frames.paths[partner])
            view = self.transform(self._prepared(stored, epoch, partner)[0], self._seed(epoch, index, 3))
            batch.put_beside(PARTNER, place, view)

    def _mask(self, source: int, index: int, height: int, width: int) -> np.ndarray:
        if source != Companions.STORED:
            return np.full((height, width), 0 if source == Companions.NOTHING else 255, np.uint8)
        mask = self._store_of(index).read_mask(self.frames.paths[index])
        return mask if mask.shape == (height, width) else cv2.resize(mask, (width, height))

    def _scene(self, index: int) -> int:
        """What a sample's augmentation depends on: both of a pair are augmented alike."""
        return index if self.pairs is None else index // 2

    def _store_of(self, index: int) -> FrameStore:
        return self.stores[self.frames.videos[self.frames.video_index[index]].dataset]

    def _seed(self, *of: int) -> int:
        """The seed of one draw: of a sample's augmentation, (epoch, index)."""
        return int(np.random.SeedSequence((self.seed, *of)).generate_state(1)[0])

    def _replaced(self, batch: "_Canvas", place: int, epochs: Sequence[int], chosen: list[int]) -> bool:
        """Puts the next readable frame into a place; whether there is one."""
        first, step = chosen[place], 1 if self.pairs is None else 2
        for other in range(first + step, first + len(self), step):
            index = other % len(self)
            reading = self._read_in_key_order([index])
            _, image = next(reading)
            if not self._put(batch, place, image, epochs[place], index):
                chosen[place] = index
                return True
        return False

    def _worker(self) -> int:
        worker = get_worker_info()
        return worker.id if worker else 0

    def _empty(self, shape: tuple[int, ...]) -> torch.Tensor:
        return self.memory.empty(self._worker(), shape) if self.memory else torch.empty(shape, dtype=torch.uint8)

    def frames_in_hand(self) -> list[str]:
        """The frames that workers were reading just now: the suspects when one has died."""
        return [self.frames.paths[i] for i in self.being_read.tolist() if 0 <= i < len(self.frames)]


class _Canvas:
    """The pictures of a batch, uint8 [B, 3, H, W], as large as the largest; what is beside a smaller one is undefined.

    Args:
        count: Pictures.
        empty: Makes room for a shape.
    """

    def __init__(self, count: int, empty: Callable[[tuple[int, ...]], torch.Tensor]):
        self.images: torch.Tensor | None = None
        self.views: list = [None] * count
        self.beside: dict[str, list] = {}
        self._count, self._empty = count, empty

    def put(self, place: int, image: np.ndarray) -> None:
        """A picture, RGB uint8 [H, W, 3], into its place."""
        height, width = image.shape[:2]
        if self.images is None or height > self.images.shape[2] or width > self.images.shape[3]:
            self._grow(height, width)
        cv2.split(image, list(self._array[place, :, :height, :width]))

    def put_beside(self, name: str, place: int, made: np.ndarray) -> None:
        """What belongs to a picture, under its name."""
        self.beside.setdefault(name, [None] * self._count)[place] = made

    def _grow(self, height: int, width: int) -> None:
        old = self.images
        if old is not None:
            height, width = max(height, old.shape[2]), max(width, old.shape[3])
        self.images = self._empty((self._count, 3, height, width))
        if old is not None:
            self.images[:, :, : old.shape[2], : old.shape[3]] = old.clone()
        self._array = self.images.numpy()


class TrainBatches:
    """This rank's share of every global batch, shuffled anew each epoch.

    Each global batch is a run of the epoch's order, each rank's share of it a run of that, cut into micro-batches:
    gathered in rank order, the shares are the batch that one process would see. The last, incomplete batch is left out.

    Args:
        count: Frames, N.
        batch_size: Of all ranks together.
        accumulate: Micro-batches of a batch.
        rank, world: This process among how many.
        seed: Of the order.
        groups: Group of each frame, [N]: the places of a batch are dealt to the groups in turn, from batch to batch,
            and each group's frames come in an order of their own, over and over. None: frames come as they are.
        pairs: Frames 2k and 2k + 1 come together, one after the other.
    """

    def __init__(
        self,
        count: int,
        batch_size: int,
        accumulate: int,
        rank: int,
        world: int,
        seed: int,
        groups: np.ndarray | None = None,
        pairs: bool = False,
    ):
        self.unit = 2 if pairs else 1
        if batch_size % (world * accumulate * self.unit):
            raise UserError(
                f"train.batch_size {batch_size} (of all processes together) is not a multiple of "
                f"{world} processes x train.accumulate {accumulate}{' x 2 pictures of a pair' if pairs else ''}"
            )
        if count < batch_size:
            raise UserError(f"train.batch_size {batch_size} is more than the {count} training frames; make it smaller")
        self.count, self.batch_size, self.accumulate = count, batch_size, accumulate
        self.rank, self.world, self.seed, self.groups = rank, world, seed, groups
        self.epoch = self.first_step = 0

    def __len__(self) -> int:
        return (self.steps - self.first_step) * self.accumulate

    @property
    def steps(self) -> int:
        """Optimiser steps in an epoch."""
        return self.count // self.batch_size

    def start(self, epoch: int, first_step: int = 0) -> None:
        """Sets where the next pass begins."""
        self.epoch, self.first_step = epoch, first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = self._order()
        share = self.batch_size // self.world
        micro = share // self.accumulate
        for step in range(self.first_step, self.steps):
            begin = step * self.batch_size + self.rank * share
            for part in range(self.accumulate):
                chosen = order[begin + part * micro : begin + (part + 1) * micro]
                yield [(self.epoch, int(index)) for index in chosen]

    def _order(self) -> np.ndarray:
        """Frames of the epoch in order, at least as many as its batches take."""
        order = self._order_of_units(self.count // self.unit, self.steps * self.batch_size // self.unit)
        return order if self.unit == 1 else (2 * order[:, None] + [0, 1]).ravel()

    def _order_of_units(self, count: int, wanted: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.groups is None:
            return rng.permutation(count)
        groups = self.groups[:: self.unit]
        members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
        order = np.empty(wanted, dtype=np.int64)
        for position, group in enumerate(members):
            places = order[position :: len(members)]
            rounds = -(-len(places) // len(group))
            places[:] = np.concatenate([rng.permutation(group) for _ in range(rounds)])[: len(places)]
        return order


class EvaluationBatches:
    """Every rank's share of the frames in order: whole batches dealt in turn, none twice, none dropped.

    A batch holds the same frames whatever the number of ranks, so that scores are the same to the last bit.
    """

    def __init__(self, count: int, batch_size: int, rank: int, world: int):
        self.count, self.batch_size, self.rank, self.world = count, batch_size, rank, world

    def _starts(self) -> range:
        return range(self.rank * self.batch_size, self.count, self.world * self.batch_size)

    def __len__(self) -> int:
        return len(self._starts())

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for start in self._starts():
            yield [(0, index) for index in range(start, min(start + self.batch_size, self.count))]


def _settle(memory: BatchMemory | None, worker: int) -> None:
    """One thread a worker: OpenCV's, BLAS's and torch's own pools would fight for the cores.

    Stop signals are for the main process, which still needs its workers; batch systems send them to all.
    """
    from threadpoolctl import threadpool_limits

    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threadpool_limits(1)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # not 1: that joins the threads of a pool which a forked process does not have, and hangs
    get_worker_info().dataset.memory = memory


def _as_sent(memory: BatchMemory | None, batch: dict) -> dict:
    """A batch as it leaves the dataset; a worker's as it travels to the main process."""
    if memory is None or get_worker_info() is None or "image" not in batch:
        return batch
    image = batch["image"]
    if isinstance(image, Unaugmented):
        sent = replace(image, images=memory.send(image.images), views=ByValue(image.views))
    else:
        sent = memory.send(image)
    small = {name: ByValue(value) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    return batch | small | {"image": sent}


def make_loader(dataset: FrameDataset, batches, workers: int, device: torch.device) -> DataLoader:
    """A loader over given batches.

    It draws from a random generator of its own: the global one must not depend on how often a loader was started.
    """
    side = getattr(dataset.transform, "side", 0)
    memory = batch_memory(workers, getattr(batches, "batch_size", 0) * 3 * side * side)
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=partial(_as_sent, memory),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        worker_init_fn=partial(_settle, memory),
        generator=torch.Generator().manual_seed(0),
    )


def watched(loader: DataLoader) -> Iterator[dict]:
    """The loader's batches; a worker that dies is reported with the frames it may have died on.

    Raises:
        UserError: A worker process was killed or crashed.
    """
    try:
        yield from loader
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        suspects = ", ".join(loader.dataset.frames_in_hand()) or "unknown"
        raise UserError(
            f"a data worker died ({str(error).splitlines()[0]}); frames being read: {suspects}. "
            "Look at those files, or at the memory left (run.workers=0 reads in the main process)"
        ) from error


class Normaliser:
    """Images as the detector wants them, made on the device: uint8 [B, 3, S, S] -> (x / 255 - mean) / std.

    Those that were left to the device to augment are augmented first.
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

    def __call__(self, images: torch.Tensor | Unaugmented) -> torch.Tensor:
        images = images.to(self.device, non_blocking=True)
        if isinstance(images, Unaugmented):
            images = images.augmented()
        return images.to(self.dtype, memory_format=self.format).mul_(self.scale).sub_(self.shift)


@contextmanager
def on_stop_signal(handler: Callable) -> Iterator[None]:
    """Within it a stop signal calls `handler(number, frame)`; outside the main thread, whoever runs us handles it."""
    try:
        before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    except ValueError:
        yield
        return
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)
