"""Encoding each frame once: a fixed encoder's features of frames, kept for all runs that have that encoder.

    FOLDER/KEY/                  features under one encoder: KEY is the hash of all in `parts.json` beside them
    FOLDER/KEY/SET/*.npz         of a data set's frames (see `trainer.encoded.Shelf`)
    FOLDER/checksums/*.npz       checksums of a frame list's stored frames, and the identity of the files they are of

Features are used for the pixels, the weights and the settings that they were made of, and for no others.
"""

import hashlib
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from resproto_fd.configs import stop_signals
from resproto_fd.configs.errors import UnreadableFile, UserError
from resproto_fd.configs.file_names import plain_name
from resproto_fd.configs.files import atomic_file, make_folder, write_text
from resproto_fd.configs.locks import SoleLock
from resproto_fd.configs.readers.npz_reader import Kind, read_npz
from resproto_fd.configs.schema import RunConfig
from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.weights import tensors_sha256
from resproto_fd.trainer import scoring
from resproto_fd.trainer.augment.device_transforms import OnDevice
from resproto_fd.trainer.augment.transforms import plain_transform
from resproto_fd.trainer.checkpoint import rng_state_kept
from resproto_fd.trainer.data import FrameDataset
from resproto_fd.trainer.detector_faults import faults_of
from resproto_fd.trainer.distributed import World, any_rank, barrier, gather_objects
from resproto_fd.trainer.encoded import EncodedFrames, Passing, Shelf, encode_frames, flips_of, frame_names
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.scoring import ScoringOptions
from resproto_fd.training import provenance

FORMAT = 1
LOOK_EVERY = 1.0
"""Seconds between two looks whether another process has encoded the frames."""
UNKNOWN = -1
"""In place of the checksum of a frame that cannot be read."""


def encoded_folder(config: RunConfig) -> Path | None:
    """The folder of kept features that a run's configuration names; None if frames are to be encoded each time."""
    given = config.run.encode_once
    return Path(config.run.out, "encoded") if given is True else Path(given) if given else None


class EncodeOnce:
    """Gives frames' features in the place of their pictures, where that makes no difference.

    Args:
        folder: Where features are kept.
        config: Of the run.
        world: This process among the others. All call each method.

    Attributes:
        seconds: Time spent on encoding so far.
        used: Whether features were given in the place of pictures.
    """

    def __init__(self, folder: Path, config: RunConfig, world: World):
        self.folder, self.config, self.world = folder, config, world
        self.seconds, self.used = 0.0, False
        self._noted: set[str] = set()
        self._last: tuple[Any, str] | None = None

    def of(self, pictures: FrameDataset, detector: Detector, passing: Passing) -> FrameDataset:
        """The frames of a data set, encoded: kept features are read, and others are made and kept first.

        Returns:
            The data set itself if its pictures must be encoded anew each time; a note says why.

        Raises:
            UserError: The folder cannot be written.
            Interrupted, KeyboardInterrupt: A stop signal came. What was encoded is kept.
        """
        if reason := _reason_against(pictures, detector):
            self._note(reason)
            return pictures
        files = provenance.identity_of(pictures.frames, pictures.stores)  # before frames are read
        flips = flips_of(pictures.transform)
        with rng_state_kept(self.world.device):
            shelves = self._shelves(pictures, detector, passing)
        checksums, features = self._look_up(pictures, shelves, flips, files)
        bad: dict[int, str] = {}
        if any_rank(self.world, self._missing(checksums, features).any()):
            with self._alone(shelves.folder), rng_state_kept(self.world.device), stop_signals.noted():
                checksums, features = self._look_up(pictures, shelves, flips, files)
                missing = gather_objects(self.world, np.flatnonzero(self._missing(checksums, features)))[0]
                began = time.perf_counter()
                bad = self._encode(pictures, detector, passing, shelves, missing, checksums)
                self._remember(pictures.frames, checksums, files)
                self.seconds += time.perf_counter() - began
            _, features = self._look_up(pictures, shelves, flips, files, checksums)
            self._refuse_unseen(int(self._missing(checksums, features).sum()) - len(bad))
        self.used = True
        return EncodedFrames(pictures, {flip: values for flip, (_, values) in features.items()}, checksums, bad)

    def _refuse_unseen(self, count: int) -> None:
        if any_rank(self.world, count > 0):
            raise UserError(
                f"{self.folder}: features of {count} frames, which were just written, are not to be seen there; set "
                "run.encode_once to a folder of a file system that all processes share, and free some space"
            )

    def _note(self, reason: str) -> None:
        if self.world.is_main and reason not in self._noted:
            print(f"note: run.encode_once: {reason}; these frames are encoded each time", file=sys.stderr)
        self._noted.add(reason)

    # --- what is kept ------------------------------------------------------------------------------------------

    def _shelves(self, pictures: FrameDataset, detector: Detector, passing: Passing) -> "_Shelves":
        recipe = self.config.detector.train
        on_device = isinstance(pictures.transform, OnDevice)
        parts = {
            "format": FORMAT,
            **self._encoder_parts(detector, passing),
            "input": provenance.input_part(self.config.detector),
            "change": dict(passing.change),
            "view": "device" if on_device else "host",
            "batch": self.config.run.test_batch_size,
            "channels_last": recipe.channels_last,
            "compile": recipe.compile,
            "scoring": scoring.VERSION,
            "opencv": cv2.__version__,
        }
        folders = {flip: self.folder / _key(parts | {"flipped": flip}) for flip in flips_of(pictures.transform)}
        if self.world.is_main:
            for flip, folder in folders.items():
                write_once(folder / "parts.json", json.dumps(parts | {"flipped": flip}, indent=1, sort_keys=True))
        return _Shelves(folders, pictures.frames)

    def _encoder_parts(self, detector: Detector, passing: Passing) -> dict[str, Any]:
        """The weights, the code and the arithmetic; and what the encoder makes of two pictures, for all else.

        The last tells apart what no digest does: keywords of the constructor, libraries, kinds of processor.
        """
        tensors = encoder_tensors(detector)
        state = [(name, t.data_ptr(), t._version, t.dtype) for name, t in tensors.items()], passing.precision
        if self._last is None or self._last[0] != state:
            size, normalise, was_training = self.config.detector.input.size, passing.normalise, detector.training
            images = torch.randint(256, (2, 3, size, size), generator=torch.Generator().manual_seed(0))
            with torch.no_grad(), passing.autocast(), faults_of(detector, "encoding two drawn pictures"):
                features = detector.eval().encode(normalise(images.to(torch.uint8))).cpu()
            detector.train(was_training)
            device = normalise.device
            parts = {
                "weights": tensors_sha256(tensors),
                "code": provenance.encoder_code(detector),
                "example": tensors_sha256({"features": features}),
                "precision": passing.precision,
                "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
                "torch": torch.__version__,
            }
            self._last = state, gather_objects(self.world, parts)[0]
        return self._last[1]

    def _look_up(self, pictures, shelves, flips, files, checksums=None):
        """(checksums [N]; found [N] and features [N, D], by flip), of what is kept now."""
        if checksums is None:
            checksums = self._checksums(pictures, shelves, files)
        names = frame_names(pictures.frames.paths, checksums)
        return checksums, {flip: shelves.take(flip, names) for flip in flips}

    @staticmethod
    def _missing(checksums: np.ndarray, features: Mapping[bool, tuple[np.ndarray, Tensor | None]]) -> np.ndarray:
        found = np.logical_and.reduce([found for found, _ in features.values()])
        return ~found | (checksums == UNKNOWN)

    def _checksums(self, pictures: FrameDataset, shelves: "_Shelves", files: str | None) -> np.ndarray:
        """Checksums of the frames as they are stored now, int64 [N]; `UNKNOWN` for those that are not read here."""
        frames = pictures.frames
        found = self._remembered(frames, files) if self.world.is_main else None
        if self.world.is_main and found is None:
            run = self.config.run
            found = np.full(len(frames), UNKNOWN, np.int64)
            if not shelves.empty():
                found = provenance.stored_checksums(frames, pictures.stores, run.workers, run.progress)
                self._remember(frames, found, files)
        return gather_objects(self.world, found)[0].copy()

    def _memory(self, frames: FrameList) -> Path:
        sets = [frames.videos[owner].dataset for owner in frames.video_index.tolist()]
        return self.folder / "checksums" / f"{_key([sets, frames.paths])}.npz"

    def _remembered(self, frames: FrameList, files: str | None) -> np.ndarray | None:
        path = self._memory(frames)
        if files is None or not path.is_file():
            return None
        try:
            kept = read_npz(path, {"checksums": Kind("i", 1), "files": Kind("U", 0)}, "the frames are read again")
        except UnreadableFile as error:
            print(f"note: {error}", file=sys.stderr)
            return None
        return kept["checksums"] if str(kept["files"]) == files and len(kept["checksums"]) == len(frames) else None

    def _remember(self, frames: FrameList, checksums: np.ndarray, files: str | None) -> None:
        if self.world.is_main and files is not None:
            with atomic_file(self._memory(frames)) as file:
                np.savez(file, checksums=checksums, files=files)

    # --- encoding ----------------------------------------------------------------------------------------------

    @contextmanager
    def _alone(self, folder: Path) -> Iterator[None]:
        """Waits while another run encodes with the same encoder, so that the work is not done twice."""
        lock = None
        if self.world.is_main:
            make_folder(folder)
            lock = SoleLock(folder / ".lock")
        with stop_signals.noted():
            while any_rank(self.world, lock is not None and not lock.acquire()):
                if any_rank(self.world, stop_signals.asked()):
                    raise stop_signals.stopped("stopped while another run encodes the same frames")
                time.sleep(LOOK_EVERY)
        try:
            yield
        finally:
            if lock:
                lock.release()

    def _encode(
        self,
        pictures: FrameDataset,
        detector: Detector,
        passing: Passing,
        shelves: "_Shelves",
        missing: np.ndarray,
        checksums: np.ndarray,
    ) -> dict[int, str]:
        """Encodes frames and keeps their features; fills in their checksums; returns what is wrong with bad ones."""
        frames, run = pictures.frames, self.config.run
        transform = plain_transform(self.config.detector.input)
        if isinstance(pictures.transform, OnDevice):
            transform = OnDevice(transform)
        plain = FrameDataset(frames, pictures.stores, transform, change=pictures.change, checksums=True)
        options = ScoringOptions(run.test_batch_size, run.workers, title="encoding", progress=run.progress)
        own, bad = [], {}
        found = encode_frames(detector, plain, missing, shelves.flips, passing, self.world, options)
        for index, sums, features, unreadable in found:
            bad |= {frame.index: frame.message for frame in unreadable}
            own.append((index, sums))
            for flip, values in features.items():
                shelves.put(flip, index, sums, values)
        for others, faults in gather_objects(self.world, (own, bad)):
            bad |= faults
            for index, sums in others:
                checksums[index] = sums
        checksums[list(bad)] = UNKNOWN
        barrier(self.world)
        return bad


class _Shelves:
    """The shelf of each data set in a frame list, with and without a flip."""

    def __init__(self, folders: Mapping[bool, Path], frames: FrameList):
        self.folder, self.flips, self._folders, self._frames = folders[False], tuple(folders), folders, frames
        sets = list(dict.fromkeys(video.dataset for video in frames.videos))
        self._sets = [plain_name(name, "name of the data set") for name in sets]
        self._set_of = frames.groups()

    def _of(self, flip: bool, place: int) -> Shelf:
        return Shelf(self._folders[flip] / self._sets[place])

    def empty(self) -> bool:
        """Whether nothing is kept under this encoder yet."""
        return not any(True for folder in self._folders.values() for _ in folder.glob("*/*.npz"))

    def put(self, flip: bool, index: np.ndarray, checksums: np.ndarray, features: Tensor) -> None:
        """Keeps the features of the frames at some positions."""
        names, sets = frame_names([self._frames.paths[i] for i in index], checksums), self._set_of[index]
        for place in np.unique(sets):
            rows = np.flatnonzero(sets == place)
            self._of(flip, place).put(names[rows], features[torch.from_numpy(rows)])

    def take(self, flip: bool, names: np.ndarray) -> tuple[np.ndarray, Tensor | None]:
        """See `Shelf.take`, over all data sets."""
        found, features = np.zeros(len(names), dtype=bool), None
        for place in range(len(self._sets)):
            rows = np.flatnonzero(self._set_of == place)
            found[rows], part = self._of(flip, place).take(names[rows])
            if part is not None:
                features = part.new_zeros((len(names), part.shape[1])) if features is None else features
                features[torch.from_numpy(rows)] = part
        return found, features


def encoder_tensors(detector: Detector) -> dict[str, Tensor]:
    """The tensors of a detector's state that its fixed encoder reads, by name.

    Raises:
        ValueError: A part that the class declares fixed has parameters that train, or there is none of that name.
    """
    parts, state = detector.fixed_encoder, detector.state_dict()
    found = {}
    for part in parts:
        own = {name: value for name, value in state.items() if name == part or name.startswith(f"{part}.")}
        if not own:
            raise ValueError(f"{type(detector).__name__}.fixed_encoder names '{part}', which has no state")
        found |= own
    trained = {name for name, parameter in detector.named_parameters() if parameter.requires_grad}
    if trains := sorted(trained & set(found)):
        raise ValueError(
            f"{type(detector).__name__}.fixed_encoder: {trains[0]} trains; freeze it, or do not declare it"
        )
    return found


def _reason_against(pictures: FrameDataset, detector: Detector) -> str:
    """Why pictures must be encoded anew each time; "" if features can be kept."""
    own = type(detector)
    if not detector.fixed_encoder:
        return f"the encoder of {own.__name__} trains, or is not declared fixed"
    if (own.forward, own.training_step) != (Detector.forward, Detector.training_step):
        return f"{own.__name__} has a forward pass of its own"
    if pictures.pairs is not None or pictures.companions is not None:
        return "forgeries are made in training, or the detector needs masks, landmarks or a second picture"
    if not flips_of(pictures.transform):
        return "train.augment makes a new picture each time (set none or flip)"
    return ""


def write_once(path: Path, text: str) -> None:
    """Writes a text file if it is not there.

    Raises:
        UserError: It is there, and holds something else.
    """
    if not path.is_file():
        write_text(path, text)
    elif path.read_bytes() != text.encode():
        raise UserError(f"{path}: is not what this program wrote for the features beside it; remove {path.parent}")


def _key(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
