"""Features of frames, kept in files and dealt out in batches: a fixed encoder then sees each frame once.

Features are kept by a frame's path and the checksum of its pixels, so that they are never taken for other pixels. In
shapes, N is the number of frames, B of a batch's, D the feature size.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import atomic_file
from resproto_fd.configs.readers.npz_reader import Kind, read_npz
from resproto_fd.detectors.base import Detector, Encoded
from resproto_fd.trainer.augment.device_transforms import OnDevice
from resproto_fd.trainer.augment.transforms import Flip
from resproto_fd.trainer.augment.views import Viewing
from resproto_fd.trainer.batches import EvaluationBatches
from resproto_fd.trainer.data import BadFrame, FrameDataset, Normaliser
from resproto_fd.trainer.detector_faults import faults_of
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.loader import make_loader, watched
from resproto_fd.trainer.scoring import ScoringOptions

FRAMES_A_FILE = 4096
SECONDS_A_FILE = 60.0
"""Features are written after so many frames, or so many seconds: a killed run loses no more."""
MEMBERS = {"names": Kind("u", 2), "features": Kind("f", 2), "dtype": Kind("U", 0), "digest": Kind("U", 0)}


@dataclass(frozen=True)
class Passing:
    """How frames go through the encoder.

    Attributes:
        normalise: Brings pictures to the device.
        change: What is done to each stored frame before all else, in parts that JSON can hold.
        autocast: The context in which the encoder runs.
        precision: The name of its arithmetic.
    """

    normalise: Normaliser
    change: Mapping[str, Any]
    autocast: Callable[[], AbstractContextManager] = nullcontext
    precision: str = "fp32"


def flips_of(transform) -> tuple[bool, ...]:
    """Whether each picture that an augmentation can make of a frame is flipped; () if it makes others too."""
    viewing = transform.viewing if isinstance(transform, OnDevice) else transform
    return {Viewing: (False,), Flip: (False, True)}.get(type(viewing), ())


def frame_names(paths: Sequence[str], checksums: np.ndarray) -> np.ndarray:
    """What features are kept by: 128 bits of the hash of a frame's path and its checksum, uint64 [N, 2]."""
    pairs = zip(paths, checksums.tolist(), strict=True)
    hashes = b"".join(hashlib.sha256(f"{path}\n{checksum}".encode()).digest()[:16] for path, checksum in pairs)
    return np.frombuffer(hashes, "<u8").reshape(-1, 2)


class Shelf:
    """Features of one data set's frames under one encoder: files that are whole, or not there.

    Args:
        folder: Its files alone lie there. Several processes may write at once.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def put(self, names: np.ndarray, features: Tensor) -> None:
        """Writes the features, [N, D], of frames, by their `frame_names`.

        Raises:
            UserError: The disk is full, or the folder cannot be written.
        """
        # NumPy has no bfloat16; float32 holds its values exactly.
        values = (features.float() if features.dtype == torch.bfloat16 else features).numpy()
        dtype = str(features.dtype).removeprefix("torch.")
        with atomic_file(self.folder / f"{_digest(names)[:16]}.npz") as file:
            np.savez(file, names=names, features=values, dtype=dtype, digest=_digest(names, values, dtype))

    def take(self, names: np.ndarray) -> tuple[np.ndarray, Tensor | None]:
        """Reads the features of frames, by their `frame_names`; a damaged file is left out, and a note names it.

        Returns:
            (whether each frame was found, [N]; the features, [N, D], 0 where there are none, or None if none is found).
        """
        found, features = np.zeros(len(names), dtype=bool), None
        order = np.argsort(names[:, 0], kind="stable")
        wanted = names[order]
        for path in sorted(self.folder.glob("*.npz")) if len(names) else ():
            try:
                arrays = read_npz(path, MEMBERS, "its frames are encoded again")
                dtype = _checked(path, arrays)
            except UserError as error:
                print(f"note: {error}", file=sys.stderr)
                continue
            kept = arrays["names"]
            place = np.searchsorted(wanted[:, 0], kept[:, 0]).clip(max=len(wanted) - 1)
            same = (wanted[place] == kept).all(axis=1)
            if not same.any():
                continue
            if features is None:
                features = torch.zeros((len(names), arrays["features"].shape[1]), dtype=dtype)
            if arrays["features"].shape[1] != features.shape[1]:
                print(f"note: {path}: its features are of another size; its frames are encoded again", file=sys.stderr)
                continue
            rows = order[place[same]]
            features[torch.from_numpy(rows)] = torch.from_numpy(arrays["features"][same]).to(dtype)
            found[rows] = True
        return found, features


def _digest(*arrays: np.ndarray | str) -> str:
    hasher = hashlib.sha256()
    for array in arrays:
        hasher.update(array.encode() if isinstance(array, str) else np.ascontiguousarray(array))
    return hasher.hexdigest()


def _checked(path: Path, arrays: Mapping[str, np.ndarray]) -> torch.dtype:
    names, features, dtype = arrays["names"], arrays["features"], str(arrays["dtype"])
    known = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
    fits = names.shape == (len(features), 2) and features.dtype in (np.float16, np.float32, np.float64)
    if not fits or dtype not in known or str(arrays["digest"]) != _digest(names, features, dtype):
        raise UserError(f"{path}: its features are not those of its digest; they are encoded again")
    return known[dtype]


class EncodedFrames(FrameDataset):
    """Frames whose features are known: a batch has them as `Encoded` in the place of pictures, and none is read.

    Which frames a batch has, which are flipped, and what is done about unreadable ones is as with the pictures.

    Args:
        pictures: The same frames as pictures.
        features: Of each frame, [N, D], by whether its picture is flipped.
        checksums: Of each stored frame, int64 [N]; see `FrameDataset`.
        bad: What is wrong with each unreadable frame, by its position.
    """

    in_memory = True

    def __init__(
        self,
        pictures: FrameDataset,
        features: Mapping[bool, Tensor],
        checksums: np.ndarray,
        bad: Mapping[int, str],
    ):
        super().__init__(
            pictures.frames,
            pictures.stores,
            pictures.transform,
            pictures.seed,
            pictures.replace_bad,
            pictures.fields,
            checksums=pictures.checksums,
            partners=pictures.partners,
        )
        self.features, self._checksums, self._bad = dict(features), torch.from_numpy(checksums), dict(bad)

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> dict:
        epochs, chosen = [epoch for epoch, _ in keys], [index for _, index in keys]
        bad = self._fill(None, range(len(keys)), epochs, chosen)
        lost = self._replaced(None, bad, epochs, chosen)
        found: dict = {"bad": list(bad.values())}
        shown = [place for place in range(len(keys)) if place not in lost]
        if not shown:
            return found
        index = torch.tensor([chosen[place] for place in shown])
        features = self.features[False][index]
        if True in self.features:
            flipped = torch.tensor([self._is_flipped(epochs[place], chosen[place]) for place in shown])
            features[flipped] = self.features[True][index[flipped]]
        found |= {"image": Encoded(features), **self._facts(index)}
        if self.checksums:
            found["checksum"] = self._checksums[index]
        return found

    def _fill(
        self, batch: None, places: Sequence[int], epochs: Sequence[int], chosen: Sequence[int]
    ) -> dict[int, BadFrame]:
        """What is wrong with the samples at some places, by the place; their features are at hand."""
        unread = [place for place in places if chosen[place] in self._bad]
        return {place: BadFrame(chosen[place], self._bad[chosen[place]]) for place in unread}

    def _is_flipped(self, epoch: int, index: int) -> bool:
        viewing = self.transform.viewing if isinstance(self.transform, OnDevice) else self.transform
        return viewing.draw(self._seed(epoch, index), viewing.side, viewing.side).flipped


@torch.no_grad()
def encode_frames(
    detector: Detector,
    pictures: FrameDataset,
    chosen: np.ndarray,
    flips: Sequence[bool],
    passing: Passing,
    world: World,
    options: ScoringOptions,
) -> Iterator[tuple[np.ndarray, np.ndarray, dict[bool, Tensor], list[BadFrame]]]:
    """Encodes this process's share of some frames, in batches that all have the same size.

    The last batch is filled up, since a matrix product may round otherwise for another number of rows.

    Args:
        detector: Its encoder is fixed.
        pictures: The frames, through a plain view, with checksums.
        chosen: Positions of the frames to encode.
        flips: Which pictures to encode of each: as it is (False), flipped (True).
        passing: How they go through the encoder.
        world, options: As in `score_frames`.

    Yields:
        For some thousand frames: (positions [n], checksums [n], features [n, D] by flip, unreadable frames).

    Raises:
        UserError: The detector's code fails; see `faults_of`.
        Interrupted, KeyboardInterrupt: A stop signal came.
    """
    size, was_training = options.batch_size, detector.training
    batches = EvaluationBatches(len(chosen), size, world.rank, world.size, chosen.tolist())
    parts, bad, began = [], [], time.monotonic()
    detector.eval()
    try:
        with make_loader(pictures, batches, options.workers, world.device) as loader:
            hidden = None if options.progress and world.is_main else True
            for batch in tqdm(watched(loader), total=len(batches), desc=options.title, disable=hidden, leave=False):
                bad += batch["bad"]
                if "image" in batch:
                    images, count = passing.normalise(batch["image"]), len(batch["index"])
                    if count < size:
                        filled = images[torch.arange(size, device=images.device) % count]
                        images = filled.contiguous(memory_format=passing.normalise.format)
                    with passing.autocast(), faults_of(detector, options.title):
                        features = {flip: detector.encode(images.flip(-1) if flip else images) for flip in flips}
                    kept = {flip: values[:count].cpu() for flip, values in features.items()}
                    parts.append((batch["index"], batch["checksum"], kept))
                if len(parts) * size >= FRAMES_A_FILE or time.monotonic() - began > SECONDS_A_FILE:
                    yield _joined(parts, bad, flips)
                    parts, bad, began = [], [], time.monotonic()
    finally:
        detector.train(was_training)
    if parts or bad:
        yield _joined(parts, bad, flips)


def _joined(parts: list, bad: list[BadFrame], flips: Sequence[bool]):
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), {}, bad
    index, checksums = (torch.cat([part[i] for part in parts]).numpy() for i in (0, 1))
    return index, checksums, {flip: torch.cat([part[2][flip] for part in parts]) for flip in flips}, bad
