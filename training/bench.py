"""What validation and testing share: stores, input and batch size, and the score tables that come out."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from resproto_fd.configs.schema import ProtocolConfig, RunConfig
from resproto_fd.detectors.base import Detector
from resproto_fd.trainer.augment.corruptions import corrupted, through_jpeg
from resproto_fd.trainer.augment.transforms import plain_transform
from resproto_fd.trainer.data import FrameDataset, Normaliser
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.scoring import Scored, ScoringOptions, score_frames
from resproto_fd.training.features import features_path, save_features
from resproto_fd.training.measures.metrics import table_metrics
from resproto_fd.training.protocols import ResolvedProtocol
from resproto_fd.training.scores import ScoreTable

Change = Callable[[np.ndarray, str], np.ndarray] | None


def change_of(protocol: ProtocolConfig, corruption: str | None = None, severity: int = 0) -> Change:
    """What is done to each stored frame before anything else; None for nothing.

    The protocol's `recode` makes all frames alike; then the corruption is applied.
    """
    if protocol.recode is None and corruption is None:
        return None
    return partial(_change, protocol.recode, corruption, severity)


def _change(quality: int | None, corruption: str | None, severity: int, image: np.ndarray, frame: str) -> np.ndarray:
    image = image if quality is None else through_jpeg(image, quality)
    return image if corruption is None else corrupted(image, corruption, severity, frame)


@dataclass(frozen=True)
class Job:
    """One set of frames to be scored, and where its score table is kept.

    Attributes:
        dataset: The data set, as the score table names it.
        frames: The frames.
        path: The score table's file; None if it is not kept.
        title: Shown by the progress bar.
        keep_features: Whether the detector's features are kept too.
        change: What is done to each stored frame first; None for what the protocol does.
    """

    dataset: str
    frames: FrameList
    path: Path | None
    title: str
    keep_features: bool = False
    change: Change = None


class Bench:
    """Scores frame lists under a run's configuration, and keeps the tables in the run folder.

    Attributes:
        seconds: Time spent on scoring test sets so far.
        frames: Frames of test sets scored so far; tables that were there already do not count.
    """

    def __init__(self, config: RunConfig, resolved: ResolvedProtocol, world: World, folder: Path):
        self.config, self.resolved, self.world, self.folder = config, resolved, world, folder
        self.seconds, self.frames = 0.0, 0
        dtype = torch.float64 if config.detector.train.precision == "fp64" else torch.float32
        given = config.detector.input
        channels_last = config.detector.train.channels_last
        self.normalise = Normaliser(given.channel_mean(), given.channel_std(), world.device, dtype, channels_last)

    def validate(self, detector: Detector) -> dict[str, float | None]:
        """The protocol's metrics on the split that checkpoints are selected on."""
        chosen = self.config.protocol.selection
        job = Job(chosen.dataset, self.resolved.selection, None, "validating")
        scored = self._score(detector, job)
        table = self._table(job, scored, None)
        wanted = {*self.config.protocol.metrics, chosen.metric}
        return {name: value for name, value in table_metrics(table).items() if name in wanted}

    def test_tables(self, detector: Detector, sha: str | None) -> dict[str, ScoreTable]:
        """The score table of each test set; a set that these weights have scored already is not scored again.

        Args:
            detector: On its device.
            sha: SHA-256 of its weights, None if they are no file.
        """
        keep, tables = self.config.run.save_features, {}
        for name, frames in self.resolved.tests.items():
            job = Job(name, frames, self.folder / "scores" / f"{name}.npz", f"testing {name}", keep)
            tables[name] = self._kept_table(detector, job, sha, count=True)
        return tables

    def corrupted_tables(self, detector: Detector, sha: str | None) -> Iterator[tuple[str, str, int, ScoreTable]]:
        """(test set, corruption, severity, score table) under each of the protocol's corruptions."""
        for name, frames in self.resolved.tests.items():
            for corruption, severities in self.config.protocol.corruptions.items():
                for severity in severities:
                    path = self.folder / "scores_corrupted" / f"{name}@{corruption}-{severity}.npz"
                    change = change_of(self.config.protocol, corruption, severity)
                    job = Job(name, frames, path, f"testing {name}, {corruption} {severity}", change=change)
                    yield name, corruption, severity, self._kept_table(detector, job, sha)

    def selection_table(self, detector: Detector, sha: str | None) -> ScoreTable | None:
        """Scores of the split that checkpoints are selected on; None if it is not on this machine."""
        frames, chosen = self.resolved.selection, self.config.protocol.selection
        if frames is None or chosen.dataset is None:
            return None
        path = self.folder / "scores_selection" / f"{chosen.dataset}.npz"
        job = Job(chosen.dataset, frames, path, f"scoring {chosen.dataset} {chosen.split}")
        return self._kept_table(detector, job, sha)

    def _kept_table(self, detector: Detector, job: Job, sha: str | None, count: bool = False) -> ScoreTable:
        if (table := self._finished(job, sha)) is not None:
            return table
        began = time.perf_counter()
        scored = self._score(detector, job)
        if count:
            self.seconds += time.perf_counter() - began
            self.frames += len(scored.index)
        table = self._table(job, scored, sha)
        if self.world.is_main:
            if scored.features is not None:
                save_features(features_path(self.folder, job.dataset), scored.features, table)
            table.save(job.path)
        return table

    def _finished(self, job: Job, sha: str | None) -> ScoreTable | None:
        """The score table of these weights on these frames, when an earlier run got that far."""
        if sha is None or not job.path.is_file():
            return None
        if job.keep_features and not features_path(self.folder, job.dataset).is_file():
            return None
        table = ScoreTable.load(job.path)
        same = table.checkpoint == sha and len(table) + table.skipped >= len(job.frames)
        return table if same else None

    def _score(self, detector: Detector, job: Job) -> Scored:
        run = self.config.run
        transform = plain_transform(self.config.detector.input)
        change = job.change or change_of(self.config.protocol)
        dataset = FrameDataset(job.frames, self.resolved.stores, transform, change=change)
        options = ScoringOptions(
            batch_size=run.test_batch_size,
            workers=run.workers,
            skip_bad=self.config.data.on_bad_frame == "skip",
            title=job.title,
            progress=run.progress,
            keep_features=job.keep_features,
        )
        return score_frames(detector, dataset, self.normalise, self.world, options)

    def _table(self, job: Job, scored: Scored, sha: str | None) -> ScoreTable:
        return ScoreTable.of_frames(
            job.dataset,
            job.frames,
            scored.scores,
            index=scored.index,
            variants=scored.variants,
            detector=self.config.detector.name,
            checkpoint=sha,
            skipped=len(scored.skipped) + self.resolved.left_out.get(job.dataset, 0),
        )
