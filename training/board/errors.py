"""Metrics of a score table with their errors by video, from which the board makes intervals and tests.

In shapes, N is the number of frames, V of videos, K of clusters.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from resproto_fd.training.measures.clusters import Clusters
from resproto_fd.training.measures.influence import INFLUENCES, influences
from resproto_fd.training.measures.intervals import Interval, failure_cost, tpr_intervals
from resproto_fd.training.measures.roc import FALSE_POSITIVE_RATES, Ranking
from resproto_fd.training.measures.seeds import mean_over_seeds

TESTED = ("frame_auc", "video_auc")
"""Metrics whose means are tested against the best."""
MEASURED = tuple(f"{level}_{name}" for level in ("frame", "video") for name in ("auc", "ap", "eer", "acc"))
"""Metrics whose errors are kept, for intervals of means."""


class Errors(NamedTuple):
    """A metric and its influences (`measures.influence`), summed over the frames of each video."""

    value: float
    by_video: np.ndarray  # [V]

    def summed(self, clusters: Clusters) -> tuple[np.ndarray, np.ndarray]:
        """Influences of the fakes and of the reals, summed over clusters of videos, [K] and [K]."""
        fake = clusters.sums(self.by_video * clusters.labels)
        return fake, clusters.sums(self.by_video) - fake


def metric_errors(
    levels: Mapping[str, Ranking], video_index: np.ndarray, videos: int, metrics: Sequence[str] = MEASURED
) -> dict[str, Errors]:
    """Metrics and their errors by name; those of frames are left out where the levels have none.

    Args:
        levels: Scores of both classes, see `RankedTable.levels`.
        video_index: Each frame's video, [N].
        videos: How many videos there are.
        metrics: Which, "frame_auc", ...
    """
    found = {}
    for metric in metrics:
        level, _, name = metric.partition("_")
        if level not in levels:
            continue
        value, parts = influences(levels[level], name)
        found[metric] = Errors(value, np.bincount(video_index, parts, videos) if level == "frame" else parts)
    return found


def rate_errors(
    frame: Ranking, thresholds: Mapping[str, float], video_index: np.ndarray, videos: int
) -> dict[str, tuple[Errors, Errors]]:
    """The share of the reals and of the fakes at or above each threshold.

    Args:
        frame: Frames (or videos) of both classes.
        thresholds: By rule.
        video_index: Each frame's video, [N].
        videos: How many videos there are.
    """
    sizes, found = np.bincount(frame.labels), {}
    for rule, threshold in thresholds.items():
        called = frame.scores >= threshold
        shares = np.bincount(frame.labels, called) / sizes
        parts = (called - shares[frame.labels]) / sizes[frame.labels]
        by_class = [np.bincount(video_index, parts * (frame.labels == label), videos) for label in (0, 1)]
        found[rule] = Errors(float(shares[0]), by_class[0]), Errors(float(shares[1]), by_class[1])
    return found


def closed_limits(levels: Mapping[str, Ranking], video_index: np.ndarray, clusters: Clusters) -> dict[str, Interval]:
    """The interval of every metric in closed form.

    Args:
        levels: Scores of both classes, see `RankedTable.levels`.
        video_index: Each frame's video, [N].
        clusters: The videos in clusters.
    """
    found, names = {}, [f"{level}_{name}" for level in levels for name in INFLUENCES]
    for metric, errors in metric_errors(levels, video_index, len(clusters.labels), names).items():
        level, _, name = metric.partition("_")
        cost = failure_cost(name, float(levels[level].labels.mean()))
        found[metric] = mean_interval([errors], clusters, cost)
    main, rates = clusters.main, list(FALSE_POSITIVE_RATES.values())
    for level, ranking in levels.items():
        index = main.index[video_index] if level == "frame" else main.index
        intervals = tpr_intervals(ranking, Clusters(index, ranking.labels), rates)
        found |= {f"{level}_{name}": each for name, each in zip(FALSE_POSITIVE_RATES, intervals)}
    return found


def mean_interval(of_seeds: Sequence[Errors], clusters: Clusters, cost: float = 0.5) -> Interval:
    """The interval of a metric's mean over seeds.

    Args:
        of_seeds: The metric and its errors, of each seed.
        clusters: The videos in clusters.
        cost: See `failure_cost`.
    """
    fake, real = zip(*(each.summed(clusters) for each in of_seeds))
    return mean_over_seeds([each.value for each in of_seeds], fake, real, clusters, cost=cost).interval
