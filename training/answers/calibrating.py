"""Fits a run's calibration: `resproto calibrate`, and the end of `resproto train`."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from resproto_fd.configs.errors import MissingFile, UserError
from resproto_fd.configs.schema import RunConfig, Selection
from resproto_fd.preprocessing.store.frame_store import FrameStore
from resproto_fd.trainer.augment.transforms import plain_transform
from resproto_fd.trainer.clip_data import ClipDataset
from resproto_fd.trainer.clip_list import ClipList
from resproto_fd.trainer.data import FrameDataset
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.run_folder import exclusive
from resproto_fd.training import calibration as records
from resproto_fd.training import protocols
from resproto_fd.training.answers.judges import Judge, shown_to
from resproto_fd.training.answers.reasons import BLUR, FAR, NEIGHBOURS, distances, sharpness
from resproto_fd.training.bench import Bench, change_of
from resproto_fd.training.board.errors import mean_interval, rate_errors
from resproto_fd.training.calibration import Calibration, Level, Reference, Threshold
from resproto_fd.training.measures.calibration import KINDS, Calibrator, errors, fit, held_out
from resproto_fd.training.measures.clusters import Clusters, table_clusters
from resproto_fd.training.measures.roc import Ranking
from resproto_fd.training.measures.shift import threshold_at
from resproto_fd.training.measures.videos import mean_by_video
from resproto_fd.training.results import Estimate, RunResult
from resproto_fd.training.scores import ScoreTable, table_path

MOST_FRAMES = 1000
"""Frames, or clips, of the selection split that the reference is made of, at most."""
SAME = 1e-4
"""Features whose distances stay below this are all alike, as those of a control that does not look."""


def calibrate(config: RunConfig, folder: Path, device: str = "auto") -> Calibration:
    """Fits the calibration of a run on the split that its checkpoint was selected on, and keeps it in the run's folder.

    The run's kept scores of that split are used. The split is scored again if there are none of these weights, settings
    and frames with their labels. Without the split's frames the kept scores are taken as they are, there is no
    reference, and a note says so.

    Args:
        config: The run's configuration; its data may lie elsewhere by now.
        folder: The run's folder.
        device: As run.device.

    Raises:
        UserError: The protocol has no selection split; neither its scores nor its frames are at hand; it lacks a
            class; or another process works in the folder.
    """
    chosen = config.protocol.selection
    if chosen.rule != "best":
        raise UserError(
            f"{folder}: protocol {config.protocol.name} selects on no split, so that there is none to calibrate on; "
            "set protocol.selection.rule=best, protocol.selection.dataset=, .split= and .metric="
        )
    judge, result = Judge(folder, device, config=config), _result_in(folder)
    with exclusive(folder, judge.world):
        table, frames, bench = _kept_scores(judge), None, None
        try:
            bench = _bench(judge, table)
            frames = bench.selection
        except UserError as error:
            if table is None:
                raise UserError(f"{folder}: no kept scores of {chosen.dataset} {chosen.split}, and {error}") from error
            print(
                f"note: no reference of what frames look like is made, and the kept scores are not compared with the "
                f"frames, since {error}",
                file=sys.stderr,
            )
        if bench is not None:
            table = bench.selection_table(judge.detector, judge.weights)
        reference, features = _reference(judge, bench, frames) if frames is not None else (None, None)
        made = Calibration(
            weights=judge.weights,
            tensors=judge.tensors or _known_tensors(result, judge.weights),
            settings=judge.settings,
            scores=records.scores_digest(table),
            dataset=chosen.dataset,
            split=chosen.split,
            oracle=chosen.oracle or _looked_at_tests(result, chosen),
            levels=fitted_levels(table, _test_tables(judge)),
            reference=reference,
            clips=_clips_of(table, judge.given.stride),
        )
        made.save(folder, features)
    return made


def fitted_levels(table: ScoreTable, tests: Mapping[str, ScoreTable]) -> dict[str, Level]:
    """Calibrators and thresholds of frames and of videos; of clips, of videos alone.

    Args:
        table: Scores of the selection split.
        tests: Scores of test sets, which tell how the calibration holds elsewhere; nothing is fitted to them.

    Raises:
        UserError: The split lacks real or fake frames.
    """
    if len(np.unique(table.video_label)) < 2:
        raise UserError(f"{table.dataset}: expected real and fake frames to calibrate on, got one class")
    owners = table_clusters(table)
    clusters = Clusters(owners, table.video_label.astype(np.int64))
    of_person = owners if owners.ndim == 1 else owners[:, 0]
    found = {}
    for level in table.levels:
        scores, labels, index = _at(level, table)
        others = {name: _at(level, test)[:2] for name, test in tests.items()}
        fitted = {kind: fit(kind, scores, labels) for kind in KINDS}
        unseen = {kind: held_out(kind, scores, labels, of_person[index]) for kind in KINDS}
        found[level] = Level(
            count=len(scores),
            reals=int(np.sum(labels == 0)),
            fakes=float(np.mean(labels)),
            calibrators={kind: dict(each.parameters) for kind, each in fitted.items()},
            before=errors(scores, labels),
            held_out={kind: errors(made, labels) for kind, made in unseen.items() if made is not None},
            tests={name: _errors_on(fitted, *each) for name, each in others.items()},
            thresholds={
                f"{rate:g}": _threshold(rate, scores, labels, index, clusters, others) for rate in records.RATES
            },
        )
    return found


def _errors_on(fitted: Mapping[str, Calibrator], scores: np.ndarray, labels: np.ndarray) -> dict[str, dict]:
    return {"before": errors(scores, labels)} | {kind: errors(made(scores), labels) for kind, made in fitted.items()}


def _at(level: str, table: ScoreTable) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels and each one's video, of a table's frames or videos."""
    if level == "frame":
        return table.score, table.label.astype(np.int64), table.video_index
    means = mean_by_video(table.score, table.video_index, len(table.videos))
    return means, table.video_label.astype(np.int64), np.arange(len(table.videos))


def _threshold(rate, scores, labels, index, clusters, others) -> Threshold:
    cut = threshold_at(scores[labels == 0], scores[labels == 1], rate)
    found = rate_errors(Ranking(labels, scores), {"cut": cut}, index, len(clusters.labels))["cut"]
    alarms, hits = found
    limits = [(None, None)] * 2
    if clusters.fewest >= 2:
        intervals = [mean_interval([each], clusters, 1.0) for each in found]
        limits = [(each.low, each.high) for each in intervals]
    (low, high), (least, most) = limits
    return Threshold(
        threshold=cut,
        false_alarms=_estimate(alarms.value, low, high),
        misses=_estimate(1 - hits.value, None if most is None else 1 - most, None if least is None else 1 - least),
        elsewhere={name: _rates(cut, *each) for name, each in others.items()},
    )


def _estimate(value: float, low: float | None, high: float | None) -> Estimate:
    kept = [None if part is None else min(max(float(part), 0.0), 1.0) for part in (value, low, high)]
    return Estimate(value=kept[0], low=kept[1], high=kept[2])


def _rates(cut: float, scores: np.ndarray, labels: np.ndarray) -> records.Rates:
    shares = [float(np.mean(scores[labels == label] >= cut)) if (labels == label).any() else None for label in (0, 1)]
    return records.Rates(fpr=shares[0], tpr=shares[1])


def _kept_scores(judge: Judge) -> ScoreTable | None:
    """The run's kept scores of the selection split; None if there are none of these weights and settings."""
    path = table_path(judge.folder, judge.config.protocol.selection.dataset, "scores_selection")
    return _own(path, judge)


def _test_tables(judge: Judge) -> dict[str, ScoreTable]:
    found = {name: _own(table_path(judge.folder, name), judge) for name in judge.config.protocol.test}
    return {name: table for name, table in found.items() if table is not None}


def _own(path: Path, judge: Judge) -> ScoreTable | None:
    try:
        table = ScoreTable.load(path)
    except MissingFile:
        return None
    except UserError as error:
        print(f"note: {error}", file=sys.stderr)
        return None
    parts = table.made_from
    known = parts is None or records.settings_digest(parts) == judge.settings
    # Weights that are no file have no digest in a table: its scores may be of others.
    return table if judge.weights is not None and table.checkpoint == judge.weights and known else None


def _result_in(folder: Path) -> RunResult | None:
    try:
        return RunResult.load(folder / "result.json")
    except UserError:
        return None


def _known_tensors(result: RunResult | None, weights: str | None) -> str | None:
    """The digest of the weights' values, as the result file tells it."""
    return result.tensors_sha256 if result and result.checkpoint_sha256 == weights else None


def _looked_at_tests(result: RunResult | None, chosen: Selection) -> bool:
    """Whether the result file tells that the split has videos that are tested."""
    known = result and result.selected_on
    return bool(known and known.oracle and (known.dataset, known.split) == (chosen.dataset, chosen.split))


def _bench(judge: Judge, kept: ScoreTable | None) -> Bench:
    """A bench with the selection split alone: neither training nor test sets need be on this machine.

    The people of kept scores are taken from these: they were those of the test sets.
    """
    alone = judge.config.protocol.model_copy(update={"train": [], "test": [], "corruptions": {}})
    resolved = protocols.resolve(alone, judge.config.data)
    if kept is not None:
        resolved = replace(resolved, people=kept.people())
    return Bench(judge.config, resolved, judge.world, judge.folder)


def _clips_of(table: ScoreTable, stride: int) -> records.Clips | None:
    """What clips a table has scores of; None if it is of frames."""
    if table.clips is None:
        return None
    steps = np.diff(table.clips, axis=1)
    consecutive = ((steps == stride) | (steps <= 0)).all(axis=1)  # a short video's frames come again
    return records.Clips(count=len(table), frames=table.clips.shape[1], consecutive=float(consecutive.mean()))


def _reference(judge: Judge, bench: Bench, frames: FrameList) -> tuple[Reference, np.ndarray | None]:
    """What frames, or clips, of the split look like, and their features; None if these tell nothing."""
    some, stores = _spread(frames, MOST_FRAMES), bench.resolved.stores
    transform, change = plain_transform(judge.given), change_of(judge.config.protocol)
    if judge.config.data.on_bad_frame == "skip":
        some = some.without(_unreadable(_pictures_of(some), stores))
    samples = ClipDataset if isinstance(some, ClipList) else FrameDataset
    features = judge.features(samples(some, stores, transform, change=change))
    step = -(-features.size // records.MOST_VALUES)
    features = features[::step]
    kept = features.astype(np.float16).astype(np.float32)  # as they are stored
    owners = some.video_index[::step]
    away = distances(features, kept, NEIGHBOURS, (owners, owners))
    tells = bool(np.isfinite(away).all()) and float(np.quantile(away, FAR)) > SAME
    pictures = _spread(_pictures_of(some), MOST_FRAMES)
    sides, sharp = _looks(FrameDataset(pictures, stores, transform, change=change))
    reference = Reference(
        frames=len(some),
        frame_side=int(np.median(sides)),
        neighbours=NEIGHBOURS if tells else 0,
        far=float(np.quantile(away, FAR)) if tells else None,
        distances={f"{q:g}": float(np.quantile(away, q)) for q in (0.5, 0.95, 0.99)} if tells else {},
        sharp=float(np.quantile(sharp, BLUR)),
    )
    return reference, features if tells else None


def _spread(frames: FrameList, most: int) -> FrameList:
    return frames.at(np.unique(np.linspace(0, len(frames) - 1, most).round().astype(int)))


def _pictures_of(samples: FrameList) -> FrameList:
    """The frames themselves; of clips, the frames that are in any."""
    return samples.frames_read()[0] if isinstance(samples, ClipList) else samples


def _unreadable(frames: FrameList, stores: Mapping[str, FrameStore]) -> set[str]:
    found = set()
    for owner, path in zip(frames.video_index, frames.paths):
        try:
            stores[frames.videos[owner].dataset].read(path)
        except UserError:
            found.add(path)
    return found


def _looks(data: FrameDataset) -> tuple[np.ndarray, np.ndarray]:
    """The shorter side of each stored frame, and the sharpness of the picture that the detector gets of it."""
    sides, sharp = [], []
    names = [data.frames.videos[i].dataset for i in data.frames.video_index]
    for name, path in zip(names, data.frames.paths):
        image = data.stores[name].read(path)
        sides.append(min(image.shape[:2]))
        sharp.append(sharpness(shown_to(data, image, path)))
    return np.asarray(sides), np.asarray(sharp)
