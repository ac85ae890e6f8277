"""Scores of many frames: sharded over the ranks, gathered exactly, in the order of the frame list."""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from resproto_fd.configs.errors import Interrupted, UserError
from resproto_fd.detectors.base import Detector
from resproto_fd.trainer.data import (
    BadFrame,
    EvaluationBatches,
    FrameDataset,
    Normaliser,
    make_loader,
    on_stop_signal,
    watched,
)
from resproto_fd.trainer.distributed import World, gather_objects

FEATURES = "features"


@dataclass(frozen=True)
class Scored:
    """Scores of a frame list.

    Attributes:
        index: Positions in the frame list of the frames that were scored, ascending, [N].
        scores: P(fake), [N].
        variants: Other scores of the same frames by name, [N] each.
        skipped: The frames that could not be read.
        features: What `Detector.encode` gave, float32 [N, D], if it was asked for.
    """

    index: np.ndarray
    scores: np.ndarray
    variants: dict[str, np.ndarray]
    skipped: list[BadFrame]
    features: np.ndarray | None = None


@dataclass(frozen=True)
class ScoringOptions:
    """
    Attributes:
        batch_size: Frames at a time, of all processes together.
        workers: Data workers of each process.
        skip_bad: Leave out frames that cannot be read, instead of stopping.
        title: Shown by the progress bar.
        progress: Whether a bar is shown.
        keep_features: Whether the features are kept too.
    """

    batch_size: int
    workers: int = 0
    skip_bad: bool = False
    title: str = "scoring"
    progress: bool = True
    keep_features: bool = False


@contextmanager
def interruptible():
    """Within it a stop signal raises Interrupted at once: nothing is lost but what can be computed again."""

    def stop(signum, frame):
        raise Interrupted("stopped while scoring")

    with on_stop_signal(stop):
        yield


@interruptible()
@torch.no_grad()
def score_frames(
    detector: Detector,
    dataset: FrameDataset,
    normalise: Normaliser,
    world: World,
    options: ScoringOptions,
) -> Scored:
    """P(fake) of every frame of a data set, by a detector in evaluation mode and in full precision.

    Raises:
        UserError: A frame cannot be read and `options.skip_bad` is off; or a score is not a finite number. The frame is
            named.
        Interrupted: A stop signal came.
    """
    was_training = detector.training
    detector.eval()
    batches = EvaluationBatches(len(dataset), options.batch_size, world.rank, world.size)
    loader = make_loader(dataset, batches, options.workers, world.device)
    parts, skipped = [], []
    try:
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
            if options.keep_features:
                features = detector.encode(images)
                output = detector.head(features)
            else:
                output = detector(images)
            kept = {FEATURES: features.float()} if options.keep_features else {}
            parts.append((batch["index"], output.scores, output.variants | kept))
    finally:
        detector.train(was_training)
    own = _concatenate(parts)
    everyone = gather_objects(world, (*own, skipped))
    index = np.concatenate([part[0] for part in everyone])
    order = np.argsort(index, kind="stable")
    names = sorted({name for part in everyone for name in part[2]})
    scores = np.concatenate([part[1] for part in everyone])[order]
    variants = {name: np.concatenate([part[2][name] for part in everyone if name in part[2]])[order] for name in names}
    features = variants.pop(FEATURES, None)
    bad = sorted((frame for part in everyone for frame in part[3]), key=lambda frame: frame.index)
    result = Scored(index[order], scores, variants, bad, features)
    _refuse_unusable(result, dataset)
    return result


def _concatenate(parts: list) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    if not parts:
        return np.empty(0, dtype=np.int64), np.empty(0), {}
    index = torch.cat([part[0] for part in parts]).numpy()
    scores = torch.cat([part[1] for part in parts]).double().cpu().numpy()
    joined = {name: torch.cat([part[2][name] for part in parts]).cpu() for name in parts[0][2]}
    variants = {name: (values if name == FEATURES else values.double()).numpy() for name, values in joined.items()}
    return index, scores, variants


def _refuse_unusable(result: Scored, dataset: FrameDataset) -> None:
    bad = np.flatnonzero(~np.isfinite(result.scores))
    if bad.size:
        frames = dataset.frames
        names = [frames.paths[result.index[i]] for i in bad[:3]]
        raise UserError(
            f"{bad.size} of {result.scores.size} scores are not finite numbers, first of {', '.join(names)}: "
            "the detector's weights are damaged or its precision is too low (train.precision=fp32)"
        )
