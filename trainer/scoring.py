"""Scoring of many frames: the ranks share them, and the scores are gathered in the order of the frame list."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from resproto_fd.configs import stop_signals
from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.base import Detector, features_of
from resproto_fd.trainer.batches import EvaluationBatches
from resproto_fd.trainer.data import BadFrame, FrameDataset, Normaliser
from resproto_fd.trainer.detector_faults import faults_of
from resproto_fd.trainer.distributed import World, gather_objects
from resproto_fd.trainer.loader import make_loader, watched

VERSION = 1
"""Version of the code from a stored frame to its score. Raise it whenever the same weights may score otherwise: kept
scores of an earlier version are then made again."""
FEATURES, CHECKSUM = "features", "checksum"


@dataclass(frozen=True)
class Scored:
    """Scores of a frame list.

    Attributes:
        index: Positions in the frame list of the frames that were scored, ascending, [N].
        scores: P(fake), [N].
        variants: Other scores of the same frames by name, [N] each.
        skipped: The frames that could not be read.
        checksums: CRC-32 of each stored frame (see `checksum_of`), uint32 [N], if the data set gives them.
        features: Result of `Detector.encode`, float32 [N, D], if it was asked for.
    """

    index: np.ndarray
    scores: np.ndarray
    variants: dict[str, np.ndarray]
    skipped: list[BadFrame]
    features: np.ndarray | None = None
    checksums: np.ndarray | None = None


@dataclass(frozen=True)
class ScoringOptions:
    """How frames are scored.

    Attributes:
        batch_size: Frames of a batch.
        workers: Data workers of each process.
        skip_bad: Whether unreadable frames are left out; otherwise they are an error.
        title: Title of the progress bar.
        progress: Whether a bar is shown.
        keep_features: Whether the features are kept too.
    """

    batch_size: int
    workers: int = 0
    skip_bad: bool = False
    title: str = "scoring"
    progress: bool = True
    keep_features: bool = False


@stop_signals.noted()
@torch.no_grad()
def score_frames(
    detector: Detector,
    dataset: FrameDataset,
    normalise: Normaliser,
    world: World,
    options: ScoringOptions,
) -> Scored:
    """Computes P(fake) of every frame of a data set, by a detector in evaluation mode and in full precision.

    Raises:
        UserError: A frame cannot be read and `options.skip_bad` is off; or a score is not a finite number. The message
            names the frame. Or no frame can be read. Or the detector's code fails; see `faults_of`.
        Interrupted, KeyboardInterrupt: A stop signal came. Only scores are lost, which can be computed again.
    """
    was_training = detector.training
    detector.eval()
    batches = EvaluationBatches(len(dataset), options.batch_size, world.rank, world.size)
    parts, skipped = [], []
    try:
        with make_loader(dataset, batches, options.workers, world.device) as loader:
            for batch in tqdm(
                watched(loader),
                total=len(batches),
                desc=options.title,
                disable=None if options.progress and world.is_main else True,
                leave=False,
            ):
                skipped += batch["bad"]
                if batch["bad"] and not options.skip_bad:
                    raise UserError(batch["bad"][0].message)
                if "image" not in batch:
                    continue
                images = normalise(batch["image"])
                with faults_of(detector, options.title):
                    scores, kept = _scored(detector, images, options.keep_features)
                if CHECKSUM in batch:
                    kept[CHECKSUM] = batch[CHECKSUM]
                parts.append((batch["index"], scores, kept))
    finally:
        detector.train(was_training)
    own = _concatenate(parts)
    everyone = gather_objects(world, (*own, skipped))
    index = np.concatenate([part[0] for part in everyone])
    order = np.argsort(index, kind="stable")
    names = sorted({name for part in everyone for name in part[2]})
    scores = np.concatenate([part[1] for part in everyone])[order]
    variants = {name: np.concatenate([part[2][name] for part in everyone if name in part[2]])[order] for name in names}
    features, checksums = variants.pop(FEATURES, None), variants.pop(CHECKSUM, None)
    checksums = None if checksums is None else checksums.astype(np.uint32)
    bad = sorted((frame for part in everyone for frame in part[3]), key=lambda frame: frame.index)
    result = Scored(index[order], scores, variants, bad, features, checksums)
    _refuse_unusable(result, dataset)
    return result


def _scored(detector: Detector, images: Tensor, keep_features: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Scores of images, and what is kept beside them: other scores, and the features if they are asked for."""
    features = features_of(detector, images) if keep_features else None
    output = detector(images) if features is None else detector.head(features)
    for name, values in {"scores": output.scores, **output.variants}.items():
        if values.shape != (len(images),):
            raise ValueError(f"expected {name} of shape [{len(images)}], one an image, got {list(values.shape)}")
    return output.scores, output.variants | ({} if features is None else {FEATURES: features.float()})


def _concatenate(parts: list) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    if not parts:
        return np.empty(0, dtype=np.int64), np.empty(0), {}
    index = torch.cat([part[0] for part in parts]).numpy()
    scores = torch.cat([part[1] for part in parts]).cpu().double().numpy()
    joined = {name: torch.cat([part[2][name] for part in parts]).cpu() for name in parts[0][2]}
    kept = (FEATURES, CHECKSUM)
    variants = {name: (values if name in kept else values.double()).numpy() for name, values in joined.items()}
    return index, scores, variants


def _refuse_unusable(result: Scored, dataset: FrameDataset) -> None:
    if result.skipped and not len(result.index):
        first = result.skipped[0]
        raise UserError(
            f"data set '{dataset.frames.videos[0].dataset}': expected frames that can be read, got none of "
            f"{len(result.skipped)}; the first: {first.message}"
        )
    bad = np.flatnonzero(~np.isfinite(result.scores))
    if bad.size:
        frames = dataset.frames
        names = [frames.paths[result.index[i]] for i in bad[:3]]
        raise UserError(
            f"{bad.size} of {result.scores.size} scores are not finite numbers, first of {', '.join(names)}: "
            "the detector's weights are damaged, or the precision is too low (set train.precision=fp32)"
        )
