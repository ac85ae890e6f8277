"""95 % intervals of parts of a test set, over seeds: of each forgery method, and of other scores of the same frames.

They are made from the score tables when a page is drawn, in closed form (`measures.influence`). In shapes, N is the
number of rows (frames or clips), V of videos.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.training.board.errors import mean_interval, metric_errors
from resproto_fd.training.board.limits import Limits
from resproto_fd.training.board.score_facts import ScoreReader, stored_scores
from resproto_fd.training.measures.clusters import Clusters
from resproto_fd.training.measures.comparisons import aligned_scores
from resproto_fd.training.measures.intervals import failure_cost
from resproto_fd.training.measures.roc import Ranking
from resproto_fd.training.measures.videos import mean_by_video
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ScoreTable

MOST = 5_000_000
"""Frames that are ranked for the parts of one table on a page; more would take seconds a page."""
TOO_MANY = f"no interval: the parts of this table hold more than {MOST:,} frames"

PartLimits = dict[str, dict[str, Limits | tuple[None, None]]]
"""Limits by part and metric; (None, None) where the data do not tell them."""


def method_limits(
    runs: Sequence[RunResult],
    test_set: str,
    metrics: Sequence[str],
    reader: ScoreReader,
    at_hand: ScoreTable | None = None,
) -> PartLimits:
    """Limits of each forgery method's metrics, its fakes against all reals; means over the runs.

    Empty without score tables of the same frames of all runs.

    Args:
        runs: Runs that have the test set.
        test_set: Name.
        metrics: "frame_auc", ...
        reader: Knows the clusters.
        at_hand: The first run's table, if it was read already.

    Raises:
        TooManyFrames: See `MOST`.
    """
    _refuse_too_many(sum(each.frames for run in runs for each in run.tests[test_set].per_method.values()))
    found = _of_seeds(runs, test_set, at_hand)
    if found is None:
        return {}
    first, scores = found
    of_video, label = reader.of_video(first), first.video_label
    methods = sorted(set(first.video_method[label == 1].tolist()))
    kept = {method: (label == 0) | ((label == 1) & (first.video_method == method)) for method in methods}
    return {method: dict(_limits(first, scores, of_video, each, metrics)) for method, each in kept.items()}


def variant_limits(
    runs: Sequence[RunResult],
    test_set: str,
    metrics: Sequence[str],
    reader: ScoreReader,
    at_hand: ScoreTable | None = None,
) -> PartLimits:
    """Limits of other scores of the same frames, by the name of the score; as `method_limits`."""
    names = sorted({name for run in runs if test_set in run.tests for name in run.tests[test_set].variants})
    _refuse_too_many(len(names) * sum(run.tests[test_set].frames for run in runs))
    result = {}
    for name in names:
        try:
            found = _of_seeds(runs, test_set, at_hand, name)
        except KeyError:  # a seed lacks this score
            continue
        if found is None:
            return {}
        first, scores = found
        everything = np.ones(len(first.videos), bool)
        result[name] = dict(_limits(first, scores, reader.of_video(first), everything, metrics))
    return result


class TooManyFrames(Exception):
    """More than `MOST` frames would be ranked."""


def _refuse_too_many(frames: int) -> None:
    if frames > MOST:
        raise TooManyFrames


def _of_seeds(
    runs: Sequence[RunResult], test_set: str, at_hand: ScoreTable | None, variant: str | None = None
) -> tuple[ScoreTable, list[np.ndarray]] | None:
    """The first run's table, and each run's scores in its order; None without tables of the same frames of all runs."""
    try:
        tables = {"seed 0": at_hand or stored_scores(runs[0], test_set)}
        tables |= {f"seed {number}": stored_scores(run, test_set) for number, run in enumerate(runs[1:], start=1)}
        first, scores = aligned_scores(tables, variant)
    except UserError:
        return None
    return first, list(scores.values())


def _limits(
    table: ScoreTable, of_seeds: Sequence[np.ndarray], of_video: np.ndarray, kept: np.ndarray, metrics: Sequence[str]
) -> Iterator[tuple[str, Limits | tuple[None, None]]]:
    """(metric, limits) of some of a table's videos, `kept` [V], with the scores of each seed, [N] each."""
    frames = np.flatnonzero(kept[table.video_index])
    index = (np.cumsum(kept) - 1)[table.video_index[frames]]
    label, video_label = table.label[frames], table.video_label[kept].astype(np.int64)
    clusters = Clusters(of_video[kept], video_label)
    if clusters.fewest < 2:
        yield from ((metric, (None, None)) for metric in metrics)
        return
    errors = []
    for scores in of_seeds:
        video = Ranking(video_label, mean_by_video(scores[frames], index, len(video_label)))
        levels = {"frame": Ranking(label, scores[frames])} if "frame" in table.levels else {}
        errors.append(metric_errors(levels | {"video": video}, index, len(video_label), metrics))
    for metric in errors[0]:
        level, _, name = metric.partition("_")
        cost = failure_cost(name, float((label if level == "frame" else video_label).mean()))
        interval = mean_interval([each[metric] for each in errors], clusters, cost)
        yield metric, (interval.low, interval.high)
