"""A run that judges pictures: its detector with its own input, precision, weights and calibration."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resproto_fd.configs import loading
from resproto_fd.configs.errors import MissingFile, UserError
from resproto_fd.configs.files import sha256_of
from resproto_fd.configs.schema import RunConfig
from resproto_fd.detectors.weights import tensors_sha256
from resproto_fd.preprocessing.store.frame_store import FrameStore, MissingFrame
from resproto_fd.preprocessing.video import Video
from resproto_fd.trainer.augment.transforms import plain_transform
from resproto_fd.trainer.checkpoint import seed_everything
from resproto_fd.trainer.data import FrameDataset
from resproto_fd.trainer.distributed import World, choose_device
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.scoring import ScoringOptions, score_frames
from resproto_fd.training import provenance
from resproto_fd.training.answers.reasons import distances, of_length_one, sharpness
from resproto_fd.training.bench import change_of, normaliser_of
from resproto_fd.training.calibration import FILE, Calibration, settings_digest
from resproto_fd.training.run import create
from resproto_fd.training.settings import as_deepfakebench_fed, refuse_clips

CROPS = "crops"


class Judged(NamedTuple):
    """What a run finds in N crops: P(fake) [N], distances to the reference [N] or None, sharpness [N] or None."""

    scores: np.ndarray
    distances: np.ndarray | None
    sharpness: np.ndarray | None


class Judge:
    """A run's detector, ready to score crops as `resproto test` scores stored frames, by the same code.

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
        refuse_clips(self.config.detector, "predict and calibrate")
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
        """Frames of a batch, as in the run's own tests."""
        return self.config.run.test_batch_size

    def score(self, crops: Sequence[np.ndarray], copy: tuple[str, int] | None = None) -> Judged:
        """Scores crops in batches of the run's own size.

        Args:
            crops: RGB uint8, each [H, W, 3].
            copy: A corruption's name and severity: scores changed copies instead, without distances and sharpness.

        Raises:
            UserError: A score is not a finite number.
        """
        transform, store = plain_transform(self.config.detector.input), _Crops(crops)
        frames = store.frames()
        data = FrameDataset(frames, {CROPS: store}, transform, change=change_of(self.config.protocol, copy))
        compared = copy is None and self._reference is not None
        options = ScoringOptions(self.batch_size, progress=False, keep_features=compared)
        scored = score_frames(self.detector, data, self.normalise, self.world, options)
        away = distances(scored.features, self._reference, self.calibration.reference.neighbours) if compared else None
        known = copy is None and self.calibration is not None and self.calibration.reference is not None
        sharp = np.asarray([sharpness(shown_to(data, crop, "")) for crop in crops]) if known else None
        return Judged(scored.scores, away, sharp)

    def features(self, data: FrameDataset) -> np.ndarray:
        """Features of the frames of a data set, of length 1, float32 [N, D]; see `of_length_one`."""
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
        raise UserError(f"--run: expected the folder of a run, with config.yaml in it, got {folder}")
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
        video = Video(CROPS, "test", CROPS, 0, "unknown", "unknown", "unknown", tuple(self._crops))
        return FrameList.of([video], None)
