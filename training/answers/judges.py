"""A run that judges pictures or clips: its detector with its own input, precision, weights and calibration.

In shapes, N is the number of pictures or clips, T of the frames of a clip, F of a face's frames.
"""

from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resproto_fd.configs import loading
from resproto_fd.configs.errors import MissingFile, UserError
from resproto_fd.configs.files import sha256_of
from resproto_fd.configs.readers.text import LARGEST_NUMBER
from resproto_fd.configs.schema import InputConfig, RunConfig
from resproto_fd.detectors.weights import tensors_sha256
from resproto_fd.preprocessing.store.frame_store import FrameStore, MissingFrame
from resproto_fd.preprocessing.video import Video
from resproto_fd.trainer.augment.transforms import plain_transform
from resproto_fd.trainer.checkpoint import seed_everything
from resproto_fd.trainer.clip_data import ClipDataset
from resproto_fd.trainer.clip_list import ClipList, span
from resproto_fd.trainer.data import FrameDataset
from resproto_fd.trainer.distributed import World, choose_device
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.scoring import ScoringOptions, score_frames
from resproto_fd.training import provenance
from resproto_fd.training.answers.reasons import distances, of_length_one, sharpness
from resproto_fd.training.bench import change_of, normaliser_of
from resproto_fd.training.calibration import FILE, Calibration, settings_digest
from resproto_fd.training.run import create
from resproto_fd.training.settings import as_deepfakebench_fed

CROPS = "crops"
_UNTOLD = ("test", CROPS, 0, "unknown", "unknown", "unknown")
"""Facts of a `Video` that is asked about."""


class Judged(NamedTuple):
    """What a run finds in N crops or clips: P(fake) [N], distances to the reference [N] or None, sharpness [N] or None.

    A clip's sharpness is the median of its frames'.
    """

    scores: np.ndarray
    distances: np.ndarray | None
    sharpness: np.ndarray | None


class Judge:
    """A run's detector, ready to score crops as `resproto test` scores stored frames or clips, by the same code.

    Args:
        folder: The run's folder, with config.yaml, and with best.pt if the detector has weights to learn.
        device: As run.device; the detector's device.
        trusted: Whether code that the run's configuration names may be imported.
        config: The run's configuration, if it was read already and changed.

    Attributes:
        name: The run's title and seed.
        weights, tensors, settings: What a calibration is known by, see `Calibration.of_others`.
        calibration: The run's calibration; None if there is none of these weights.
        notes: What a reader of the scores must know.

    Raises:
        UserError: It is no run's folder, the weights are missing or do not fit, or there is no such device.
    """

    def __init__(
        self, folder: str | Path, device: str = "auto", trusted: bool = False, config: RunConfig | None = None
    ):
        self.folder = Path(folder)
        self.config = config or read_config(self.folder, trusted)
        self.world = World(0, 1, choose_device(device))
        best = self.folder / "best.pt"
        seed_everything(self.config.seed)
        detector, loaded = create(self.config.detector, best if best.is_file() else None)
        if not best.is_file() and any(p.requires_grad for p in detector.parameters()):
            raise UserError(f"{self.folder}: expected best.pt, the run's weights, got none; end its training first")
        if loaded:
            self.config = as_deepfakebench_fed(self.config)
        self.normalise = normaliser_of(self.config.detector, self.world.device)
        self.detector = detector.to(self.world.device, self.normalise.dtype).eval()
        self.name = f"{self.config.detector.title or self.config.detector.name}, seed {self.config.seed}"
        self.weights = sha256_of(best) if best.is_file() else None
        self.tensors = None if self.weights else tensors_sha256(detector.state_dict())
        self.settings = settings_digest(provenance.detector_parts(self.config.detector, detector, self.weights, 1))
        self.notes = [*filter(None, [loaded]), *detector.notes()]
        self.calibration, self._reference = self._own_calibration()

    @property
    def batch_size(self) -> int:
        """Frames, or clips, of a batch, as in the run's own tests."""
        return self.config.run.test_batch_size

    @property
    def given(self) -> InputConfig:
        """The detector's input. It scores clips if `frames` is more than 1."""
        return self.config.detector.input

    @property
    def sees_runs(self) -> bool:
        """Whether its clips are of consecutive frames, as most of those are that it was calibrated on."""
        known = self.calibration and self.calibration.clips
        return not known or known.consecutive >= 0.5

    def clips_of(self, numbers: Sequence[int], budget: int) -> np.ndarray:
        """Positions of the frames of a face's clips, [C, T], as `resproto test` takes them of the same stored frames.

        Args:
            numbers: Number within the video of each of the face's frames, ascending, [F].
            budget: Frames of the video in a protocol's list, which the clips fill unless `input.clips` gives a number.

        Returns:
            None, C = 0, of a face in too few frames if `input.short` leaves them out.
        """
        if len(numbers) < span(self.given) and self.given.short == "leave_out":
            return np.empty((0, self.given.frames), dtype=np.int64)
        if numbers[-1] > LARGEST_NUMBER:
            numbers = range(len(numbers))
        face = Video(CROPS, *_UNTOLD, tuple(f"{number:09d}" for number in numbers))
        return ClipList.within(FrameList.of([face], budget), self.given, self.given.clips).places

    def still(self, picture: np.ndarray) -> np.ndarray | list[np.ndarray]:
        """What `score` takes of one picture: the picture, or a clip that does not move."""
        return picture if self.given.frames == 1 else [picture] * self.given.frames

    def score(
        self, samples: Sequence[np.ndarray] | Sequence[Sequence[np.ndarray]], copy: tuple[str, int] | None = None
    ) -> Judged:
        """Scores crops, or clips of T crops, in batches of the run's own size.

        Args:
            samples: Crops, RGB uint8, each [H, W, 3]; or of a detector of clips, T of them each.
            copy: A corruption's name and severity: scores changed copies instead, without distances and sharpness.

        Raises:
            UserError: A score is not a finite number.
        """
        length, change = self.given.frames, change_of(self.config.protocol, copy)
        crops = samples if length == 1 else list(chain.from_iterable(samples))
        store = _Crops(crops)
        kind, frames = (FrameDataset, store.frames()) if length == 1 else (ClipDataset, store.clips(self.given))
        data = kind(frames, {CROPS: store}, plain_transform(self.given), change=change)
        compared = copy is None and self._reference is not None
        options = ScoringOptions(self.batch_size, progress=False, keep_features=compared)
        scored = score_frames(self.detector, data, self.normalise, self.world, options)
        away = distances(scored.features, self._reference, self.calibration.reference.neighbours) if compared else None
        known = copy is None and self.calibration is not None and self.calibration.reference is not None
        sharp = np.asarray([sharpness(shown_to(data, crop, "")) for crop in crops]) if known else None
        if sharp is not None and length > 1:
            sharp = np.median(sharp.reshape(-1, length), axis=1)
        return Judged(scored.scores, away, sharp)

    def features(self, data: FrameDataset) -> np.ndarray:
        """Features of the frames or clips of a data set, of length 1, float32 [N, D]; see `of_length_one`."""
        options = ScoringOptions(self.batch_size, progress=False, keep_features=True)
        return of_length_one(score_frames(self.detector, data, self.normalise, self.world, options).features)

    def _own_calibration(self) -> tuple[Calibration | None, np.ndarray | None]:
        try:
            found = Calibration.load(self.folder)
        except MissingFile:
            return None, None
        if why := found.of_others(self.weights, self.tensors, self.settings):
            self.notes.append(f"{self.folder / FILE} is not used: {why}; run: resproto calibrate {self.folder}")
            return None, None
        return found, found.features(self.folder)


def read_config(folder: Path, trusted: bool = False) -> RunConfig:
    """The configuration in a run's folder.

    Raises:
        UserError: There is none, or it is damaged.
    """
    path = folder / "config.yaml"
    if not path.is_file():
        found = "a file" if folder.is_file() else "a folder without it" if folder.is_dir() else "no such folder"
        raise UserError(f"{folder}: expected the folder of a run, with config.yaml in it, got {found}; name another")
    config = loading.validated(RunConfig, loading.load_yaml(path), str(path))
    detector = config.detector.trusting(None if trusted else ())
    return config.model_copy(update={"detector": detector})


def shown_to(data: FrameDataset, image: np.ndarray, path: str) -> np.ndarray:
    """The picture that a detector gets of a stored frame, RGB uint8 [S, S, 3]."""
    return data.transform(image if data.change is None else data.change(image, path), 0)


class _Crops(FrameStore):
    """Crops in memory, by their number."""

    path = Path(CROPS)

    def __init__(self, crops: Sequence[np.ndarray]):
        self._crops = {f"{i:09d}": crop for i, crop in enumerate(crops)}

    def read(self, path: str) -> np.ndarray:
        return self._crops[path]

    def read_bytes(self, path: str) -> bytes:
        raise MissingFrame(f"{path}: crops in memory are not files")

    def __contains__(self, path: str) -> bool:
        return path in self._crops

    def missing(self, paths: Iterable[str]) -> list[str]:
        return [path for path in paths if path not in self]

    def frames(self) -> FrameList:
        """All crops, in order; their label says nothing."""
        return FrameList.of([Video(CROPS, *_UNTOLD, tuple(self._crops))], None)

    def clips(self, given: InputConfig) -> ClipList:
        """All crops as clips of T, one after another."""
        stored = self.frames()
        places = np.arange(len(stored), dtype=np.int64).reshape(-1, given.frames)
        firsts = stored.at(places[:, 0])
        facts = firsts.videos, firsts.paths, firsts.video_index, firsts.numbers, firsts.labels
        return ClipList(*facts, stored=stored, places=places, given=given)
