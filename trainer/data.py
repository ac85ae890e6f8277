"""Frames in a fixed order, the data set that reads them, and the samplers that deal them out.

The order of samples is a function of seed and epoch, a sample's augmentation of seed, epoch and index: neither depends
on workers, ranks or where an interrupted run was taken up again.
"""

import hashlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.frame_store import FrameStore
from resproto_fd.preprocessing.manifest import Video, evenly_spaced

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@dataclass(frozen=True)
class FrameList:
    """Frames of one split of one or several data sets, in a fixed order.

    Attributes:
        videos: The videos they come from.
        paths: Canonical path of each frame, [N].
        video_index: Position of each frame's video in `videos`, [N].
        numbers: Frame number within the original video, [N].
        labels: 0 real, 1 fake, [N].
    """

    videos: list[Video]
    paths: list[str]
    video_index: np.ndarray
    numbers: np.ndarray
    labels: np.ndarray

    @classmethod
    def of(cls, videos: Sequence[Video], frames_per_video: int | None) -> "FrameList":
        """Evenly spaced frames of each video; all of them when None or when there are fewer."""
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
        """N^(c): frames of each class, [2]."""
        return np.bincount(self.labels, minlength=2)

    def without(self, paths: set[str]) -> "FrameList":
        """The same list, some frames left out."""
        keep = np.asarray([path not in paths for path in self.paths], dtype=bool)
        kept = [path for path, kept_ in zip(self.paths, keep, strict=True) if kept_]
        return FrameList(self.videos, kept, self.video_index[keep], self.numbers[keep], self.labels[keep])

    def with_labels(self, labels: np.ndarray) -> "FrameList":
        """The same frames under other labels (a control: shuffled labels must teach nothing)."""
        return FrameList(self.videos, self.paths, self.video_index, self.numbers, labels)

    def digest(self) -> str:
        """SHA-256 over each frame's video, file name and label: the same list has the same digest on any machine."""
        hasher = hashlib.sha256()
        for path, owner, label in zip(self.paths, self.video_index, self.labels, strict=True):
            hasher.update(f"{self.videos[owner].id}/{path.rsplit('/', 1)[-1]}={label}\n".encode())
        return hasher.hexdigest()


@dataclass(frozen=True)
class BadFrame:
    """A frame that could not be read, as a worker hands it to the main process."""

    index: int
    message: str


class FrameDataset(Dataset):
    """Reads frames: {"image" uint8 [3, S, S], "label", "index"}; a frame that cannot be read comes as a BadFrame.

    Args:
        frames: What to read.
        stores: The frame store of each data set's name.
        transform: From the stored image and a seed to the square that the detector is fed.
        seed: With epoch and index, fixes each sample's augmentation.
        replace_bad: A frame that cannot be read gives way to the next one that can, and is reported beside it;
            otherwise it comes alone, as a BadFrame.
    """

    def __init__(
        self,
        frames: FrameList,
        stores: Mapping[str, FrameStore],
        transform: Callable[[np.ndarray, int], np.ndarray],
        seed: int = 0,
        replace_bad: bool = False,
    ):
        self.frames = frames
        self.replace_bad = replace_bad
        self.stores = dict(stores)
        self.transform = transform
        self.seed = seed
        self.being_read = torch.full((256,), -1, dtype=torch.int64).share_memory_()

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: tuple[int, int]) -> dict | BadFrame:
        epoch, index = key
        sample = self._read(epoch, index)
        if not (isinstance(sample, BadFrame) and self.replace_bad):
            return sample
        for other in range(index + 1, index + len(self)):
            replacement = self._read(epoch, other % len(self))
            if not isinstance(replacement, BadFrame):
                return replacement | {"replaces": sample}
        return sample

    def _read(self, epoch: int, index: int) -> dict | BadFrame:
        worker = get_worker_info()
        slot = worker.id if worker else 0
        self.being_read[slot] = index
        frames = self.frames
        store = self.stores[frames.videos[frames.video_index[index]].dataset]
        try:
            image = store.read(frames.paths[index])
        except UserError as error:
            return BadFrame(index, str(error))
        sample_seed = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1)[0]
        image = self.transform(image, int(sample_seed))
        self.being_read[slot] = -1
        return {
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "label": int(frames.labels[index]),
            "index": index,
        }

    def frames_in_hand(self) -> list[str]:
        """The frames that workers were reading just now: the suspects when one has died."""
        return [self.frames.paths[i] for i in self.being_read.tolist() if 0 <= i < len(self.frames)]


def collate(samples: list[dict | BadFrame]) -> dict:
    """A batch of the readable samples, the unreadable beside it.

    Returns:
        {"image" uint8 [B, 3, S, S], "label" int64 [B], "index" int64 [B], "bad" list of BadFrame}; without the first
        three when no sample is readable.
    """
    good = [sample for sample in samples if not isinstance(sample, BadFrame)]
    bad = [sample if isinstance(sample, BadFrame) else sample.get("replaces") for sample in samples]
    batch = {"bad": [frame for frame in bad if frame is not None]}
    if good:
        batch["image"] = torch.stack([sample["image"] for sample in good])
        batch["label"] = torch.tensor([sample["label"] for sample in good])
        batch["index"] = torch.tensor([sample["index"] for sample in good])
    return batch


class TrainBatches:
    """This rank's share of every global batch, shuffled anew each epoch.

    Each global batch is a run of the epoch's order, each rank's share of it a run of that, cut into micro-batches:
    gathered in rank order, the shares are the batch that one process would see. The last, incomplete batch is left out.
    """

    def __init__(self, count: int, batch_size: int, accumulate: int, rank: int, world: int, seed: int):
        if batch_size % (world * accumulate):
            raise UserError(
                f"train.batch_size {batch_size} (of all processes together) is not a multiple of "
                f"{world} processes x train.accumulate {accumulate}"
            )
        if count < batch_size:
            raise UserError(f"train.batch_size {batch_size} is more than the {count} training frames; make it smaller")
        self.count, self.batch_size, self.accumulate = count, batch_size, accumulate
        self.rank, self.world, self.seed = rank, world, seed
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
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        share = self.batch_size // self.world
        micro = share // self.accumulate
        for step in range(self.first_step, self.steps):
            begin = step * self.batch_size + self.rank * share
            for part in range(self.accumulate):
                chosen = order[begin + part * micro : begin + (part + 1) * micro]
                yield [(self.epoch, int(index)) for index in chosen]


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


def _settle(worker: int) -> None:
    """One thread a worker: OpenCV's and BLAS's own pools would fight for the cores.

    Stop signals are for the main process, which still needs its workers; batch systems send them to all.
    """
    import cv2

    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


def make_loader(dataset: FrameDataset, batches, workers: int, device: torch.device) -> DataLoader:
    """A loader over given batches.

    It draws from a random generator of its own: the global one must not depend on how often a loader was started.
    """
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        worker_init_fn=_settle,
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
    """Images as the detector wants them, made on the device: uint8 [B, 3, S, S] -> (x / 255 - mean) / std."""

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

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        images = images.to(self.device, non_blocking=True)
        return images.to(self.dtype, memory_format=self.format).mul_(self.scale).sub_(self.shift)
