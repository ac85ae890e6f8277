"""What validation and testing share: stores, input and batch size, and the score tables that come out."""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import DetectorConfig, ProtocolConfig, RunConfig
from resproto_fd.detectors.base import Detector
from resproto_fd.trainer.augment.corruptions import corrupted, through_jpeg
from resproto_fd.trainer.augment.transforms import plain_transform
from resproto_fd.trainer.clip_data import ClipDataset
from resproto_fd.trainer.clip_list import ClipList
from resproto_fd.trainer.data import FrameDataset, Normaliser
from resproto_fd.trainer.distributed import World, gather_objects
from resproto_fd.trainer.encoded import Passing
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.scoring import Scored, ScoringOptions, score_frames
from resproto_fd.trainer.trainer import Trainer
from resproto_fd.training import provenance
from resproto_fd.training.encode_once import EncodeOnce, encoded_folder
from resproto_fd.training.features import features_path, save_features
from resproto_fd.training.measures.metrics import table_metrics
from resproto_fd.training.protocols import ResolvedProtocol
from resproto_fd.training.samples import samples_of
from resproto_fd.training.scores import ScoreTable, table_path

Change = Callable[[np.ndarray, str], np.ndarray] | None


def change_of(protocol: ProtocolConfig, corrupted_by: tuple[str, int] | None = None) -> Change:
    """What is done to each stored frame before anything else; None for nothing.

    The protocol's `recode` makes all frames alike; then a corruption of some severity is applied.
    """
    corruption, severity = corrupted_by or (None, 0)
    if protocol.recode is None and corruption is None:
        return None
    return partial(_change, protocol.recode, corruption, severity)


def _change(quality: int | None, corruption: str | None, severity: int, image: np.ndarray, frame: str) -> np.ndarray:
    image = image if quality is None else through_jpeg(image, quality)
    return image if corruption is None else corrupted(image, corruption, severity, frame)


def normaliser_of(config: DetectorConfig, device: torch.device) -> Normaliser:
    """Makes a detector's input of pictures: its mean and deviation, on its device and in its precision."""
    dtype = torch.float64 if config.train.precision == "fp64" else torch.float32
    given, channels_last = config.input, config.train.channels_last
    return Normaliser(given.channel_mean(), given.channel_std(), device, dtype, channels_last)


@dataclass(frozen=True)
class Job:
    """One set of frames or clips to be scored, and where its score table is kept.

    Attributes:
        dataset: The data set, as the score table names it.
        frames: The frames, or clips.
        path: The score table's file; None if it is not kept.
        title: Shown by the progress bar.
        keep_features: Whether the detector's features are kept too.
        corruption: Name and severity of the corruption that the frames get after what the protocol does; None for none.
    """

    dataset: str
    frames: FrameList
    path: Path | None
    title: str
    keep_features: bool = False
    corruption: tuple[str, int] | None = None


class Bench:
    """Scores frame lists under a run's configuration, and keeps the tables in the run folder.

    Attributes:
        tests: Frames, or clips, of each test set, by name.
        selection: Frames, or clips, that the checkpoint is selected on; None if there are none.
        seconds: Time spent on scoring test sets so far.
        frames: Frames of test sets scored so far; tables that were there already do not count.

    Raises:
        UserError: See `samples_of`.
    """

    def __init__(self, config: RunConfig, resolved: ResolvedProtocol, world: World, folder: Path):
        self.config, self.resolved, self.world, self.folder = config, resolved, world, folder
        self.seconds, self.frames = 0.0, 0
        self.normalise = normaliser_of(config.detector, world.device)
        self.tests = {
            name: samples_of(frames, config, resolved.stores, f"testing {name}")
            for name, frames in resolved.tests.items()
        }
        self.selection = samples_of(resolved.selection, config, resolved.stores, "selecting checkpoints")
        place = encoded_folder(config)
        self.encodings = EncodeOnce(place, config, world) if place else None

    def placed(self, detector: Detector) -> Detector:
        """The detector on this process's device, in the precision in which it was trained if that is fp64."""
        return detector.to(self.world.device, self.normalise.dtype)

    def validate(self, detector: Detector) -> dict[str, float | None]:
        """The protocol's metrics on the split that checkpoints are selected on."""
        chosen = self.config.protocol.selection
        job = Job(chosen.dataset, self.selection, None, "validating")
        scored = self._score(detector, job)
        table = self._table(job, scored, None)
        wanted = {*map(self.config.metric_of, self.config.protocol.metrics), self.config.selection_metric}
        return {name: value for name, value in table_metrics(table).items() if name in wanted}

    def test_tables(self, detector: Detector, sha: str | None) -> dict[str, ScoreTable]:
        """The score table of each test set; a set that these weights have scored already is not scored again.

        Args:
            detector: On its device.
            sha: SHA-256 of its weights, None if they are no file.
        """
        keep, tables = self.config.run.save_features, {}
        for name, frames in self.tests.items():
            job = Job(name, frames, table_path(self.folder, name), f"testing {name}", keep)
            tables[name] = self._kept_table(detector, job, sha, count=True)
        return tables

    def corrupted_tables(self, detector: Detector, sha: str | None) -> Iterator[tuple[str, str, int, ScoreTable]]:
        """(test set, corruption, severity, score table) under each of the protocol's corruptions."""
        for name, frames in self.tests.items():
            for corruption, severities in self.config.protocol.corruptions.items():
                for severity in severities:
                    path = table_path(self.folder, name, "scores_corrupted", f"@{corruption}-{severity}")
                    title = f"testing {name}, {corruption} {severity}"
                    job = Job(name, frames, path, title, corruption=(corruption, severity))
                    yield name, corruption, severity, self._kept_table(detector, job, sha)

    def selection_table(self, detector: Detector, sha: str | None) -> ScoreTable | None:
        """Scores of the split that checkpoints are selected on; None if it is not on this machine."""
        frames, chosen = self.selection, self.config.protocol.selection
        if frames is None or chosen.dataset is None:
            return None
        path = table_path(self.folder, chosen.dataset, "scores_selection")
        keep = self.config.run.save_features
        job = Job(chosen.dataset, frames, path, f"scoring {chosen.dataset} {chosen.split}", keep)
        return self._kept_table(detector, job, sha)

    def _kept_table(self, detector: Detector, job: Job, sha: str | None, count: bool = False) -> ScoreTable:
        parts = self._parts(detector, job, sha)
        if self._is_finished(job, parts):
            return ScoreTable.load(job.path)
        files = provenance.identity_of(job.frames, self.resolved.stores)  # before the frames are read
        began = time.perf_counter()
        scored = self._score(detector, job)
        if count:
            self.seconds += time.perf_counter() - began
            self.frames += len(scored.index) * self.config.detector.input.frames
        parts["pixels"] = provenance.pixels_part(scored.checksums)
        table = self._table(job, scored, sha, made_from=parts, checksums=scored.checksums, files=files)
        if self.world.is_main:
            if scored.features is not None:
                save_features(features_path(job.path), scored.features, table)
            table.save(job.path)
        return table

    def _parts(self, detector: Detector, job: Job, sha: str | None) -> dict[str, Any]:
        """All that the scores of a job are made from, but for the pixels."""
        of_detector = provenance.detector_parts(self.config.detector, detector, sha, self.config.run.test_batch_size)
        of_frames = provenance.frame_parts(job.frames, self.resolved.people)
        return of_detector | of_frames | self._change_parts(job.corruption)

    def _is_finished(self, job: Job, parts: dict[str, Any]) -> bool:
        """Whether the job's scores are kept, of exactly these parts. Says what differs if they are of others."""
        found = self._differences(job, parts) if self.world.is_main else None
        found = gather_objects(self.world, found)[0]  # files may have other times on another machine
        if found and self.world.is_main:
            print(f"note: {job.path}: scored again, since {'; '.join(found)}", file=sys.stderr)
        return found == []

    def _differences(self, job: Job, parts: dict[str, Any]) -> list[str] | None:
        """What differs from the kept scores; None if there are none, or weights that are no file made them."""
        if parts["weights"] is None or not job.path.is_file():
            return None
        if job.keep_features and not features_path(job.path).is_file():
            return None
        run, stores, skip = self.config.run, self.resolved.stores, self.config.data.on_bad_frame == "skip"
        try:
            table = ScoreTable.load(job.path)
        except UserError as error:
            return [str(error)]
        unread = table.skipped - self._lacking(job)
        if unread > 0 and not skip:
            return [f"{unread} unreadable frames were left out"]
        # What could not be read then may be readable now, of the same files.
        files = None if unread > 0 else provenance.identity_of(job.frames, stores)

        def checksums() -> np.ndarray:
            return provenance.stored_checksums(job.frames, stores, run.workers, run.progress)

        return provenance.differences(table, parts, job.frames, self.resolved.people, files, checksums)

    def _score(self, detector: Detector, job: Job) -> Scored:
        run = self.config.run
        transform = plain_transform(self.config.detector.input)
        change = change_of(self.config.protocol, job.corruption)
        kept = job.path is not None
        cls = ClipDataset if isinstance(job.frames, ClipList) else FrameDataset
        dataset = cls(job.frames, self.resolved.stores, transform, change=change, checksums=kept)
        if self.encodings:
            dataset = self._encoded(dataset, detector, job)
        options = ScoringOptions(
            batch_size=run.test_batch_size,
            workers=run.workers,
            skip_bad=self.config.data.on_bad_frame == "skip",
            title=job.title,
            progress=run.progress,
            keep_features=job.keep_features,
        )
        return score_frames(detector, dataset, self.normalise, self.world, options)

    def _encoded(self, dataset: FrameDataset, detector: Detector, job: Job) -> FrameDataset:
        change = self._change_parts(job.corruption)
        precision = "fp64" if self.normalise.dtype == torch.float64 else "fp32"
        return self.encodings.of(dataset, detector, Passing(self.normalise, change, precision=precision))

    def trained_on(self, dataset: FrameDataset, trainer: Trainer) -> FrameDataset:
        """What a trainer reads its batches from: its data set or, where `run.encode_once` allows it, its features."""
        if not self.encodings:
            return dataset
        passing = Passing(
            trainer.normalise, self._change_parts(), trainer.autocast, self.config.detector.train.precision
        )
        return self.encodings.of(dataset, trainer.detector, passing)

    def _change_parts(self, corruption: tuple[str, int] | None = None) -> dict[str, Any]:
        return {"recode": self.config.protocol.recode, "corruption": corruption and list(corruption)}

    def _lacking(self, job: Job) -> int:
        """Frames that the stores lack; of clips, videos that are too short for one and were left out."""
        clips = isinstance(job.frames, ClipList)
        return job.frames.left_out if clips else self.resolved.left_out.get(job.dataset, 0)

    def _table(self, job: Job, scored: Scored, sha: str | None, **made) -> ScoreTable:
        return ScoreTable.of_frames(
            job.dataset,
            job.frames,
            scored.scores,
            index=scored.index,
            variants=scored.variants,
            people=self.resolved.people,
            detector=self.config.detector.name,
            checkpoint=sha,
            skipped=len(scored.skipped) + self._lacking(job),
            **made,
        )
