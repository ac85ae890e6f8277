"""One detector trained with several seeds: mean, spread, and an interval that covers seeds and test videos.

In shapes, S is the number of seeds.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from resproto_fd.training.measures.clusters import Clusters, positive_part, table_clusters
from resproto_fd.training.measures.comparisons import aligned_scores
from resproto_fd.training.measures.intervals import (
    Interval,
    auc_covariance,
    cluster_components,
    degrees_of_freedom,
    failure_cost,
    logit_interval,
)
from resproto_fd.training.measures.resampling import REPLICATES, Replicates, Resampling, bootstrap
from resproto_fd.training.measures.roc import Ranking
from resproto_fd.training.measures.videos import aggregate_videos
from resproto_fd.training.scores import ScoreTable


class SeedSummary(NamedTuple):
    """One metric over the seeds of a detector: what training it anew, tested on new videos, would give on average."""

    mean: float
    sd: float | None  # between seeds on these frames; None for one seed
    interval: Interval  # of the mean, from both sources
    between: float | None  # standard error of the mean from the seeds alone
    within: float  # and from the test videos alone


def combine_seeds(
    values: Sequence[float] | np.ndarray,
    covariance: np.ndarray,
    df: float,
    fewest: int,
    confidence: float = 0.95,
    cost: float = 0.5,
) -> SeedSummary:
    """Mean over seeds with an interval of both sources: other seeds, other test videos.

    The seeds' errors have the same videos in common. With s^2 the variance between the S seeds' values and c the mean
    covariance of the sampling errors of two of them, the variance of the mean is estimated by

        s^2 / S + c,

    without bias, as s^2 already holds what the sampling errors do not share. Its degrees of freedom are
    Satterthwaite's, from S - 1 and `df`. With one seed there is no s^2: c alone, and the interval is of that seed.

    Args:
        values: The metric of each seed, [S].
        covariance: Of their sampling errors, [S, S].
        df: Degrees of freedom of that covariance.
        fewest: Clusters of the class that has fewer, see `logit_interval`.
        confidence: Share of such intervals that hold the true value.
        cost: See `failure_cost`.
    """
    values = np.asarray(values, dtype=np.float64)
    seeds, mean = len(values), float(np.mean(values))
    if seeds == 1:
        within = math.sqrt(max(float(covariance[0, 0]), 0))
        return SeedSummary(mean, None, logit_interval(mean, within, df, fewest, confidence, cost), None, within)
    between = float(np.var(values, ddof=1)) / seeds
    shared = max(float(covariance.sum() - np.trace(covariance)) / (seeds * (seeds - 1)), 0)
    variance = between + shared
    free = variance**2 / (between**2 / (seeds - 1) + shared**2 / df) if variance else df
    interval = logit_interval(mean, math.sqrt(variance), free, fewest, confidence, cost)
    return SeedSummary(mean, math.sqrt(between * seeds), interval, math.sqrt(between), math.sqrt(shared))


def over_seeds(
    tables: Sequence[ScoreTable],
    *,
    variant: str | None = None,
    clusters: str | np.ndarray = "source",
    aggregation: str = "mean",
    confidence: float = 0.95,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> dict[str, SeedSummary]:
    """Every metric over a detector's seeds, by the names of `table_intervals`; undefined metrics are left out.

    The sampling covariance of two seeds is Obuchowski's for the AUC, and for the other metrics that of bootstrap
    replicates with the same draws. (So a true positive rate at a false positive rate that only a handful of reals
    reach has too short an interval here; `table_intervals` knows better.)

    Args:
        tables: One a seed; the same frames, or clips, in any order. Clips have metrics of videos alone.
        others: As `table_intervals`.

    Raises:
        UserError: The tables are not of the same frames.
    """
    named = {f"seed table {i + 1}": table for i, table in enumerate(tables)}
    first, scores = aligned_scores(named, variant)
    of_video = table_clusters(first, clusters) if isinstance(clusters, str) else np.asarray(clusters)
    result = {}
    for level in first.levels:
        if level == "frame":
            labels, index, values = first.label, of_video[first.video_index], list(scores.values())
        else:
            labels, index = first.video_label, of_video
            values = [aggregate_videos(v, first.video_index, len(first.videos), aggregation) for v in scores.values()]
        found = _summaries(labels.astype(np.int64), values, index, confidence, replicates, seed)
        result |= {f"{level}_{name}": summary for name, summary in found.items()}
    return result


def mean_over_seeds(
    values: Sequence[float],
    fake: Sequence[np.ndarray],
    real: Sequence[np.ndarray],
    clusters: Clusters,
    confidence: float = 0.95,
    cost: float = 0.5,
) -> SeedSummary:
    """The mean of a metric over seeds, from each seed's value and error.

    Args:
        values: The metric, [S].
        fake: Influences of the fakes (`influence.influences`), summed over each cluster, [S, K].
        real: Those of the reals, [S, K].
        clusters: The clusters; each class in at least two of them.
        confidence: Share of such intervals that hold the true value.
        cost: See `failure_cost`.
    """
    covariance = auc_covariance(np.stack(fake), np.stack(real), clusters)
    free = degrees_of_freedom(sum(fake) + sum(real), clusters)
    return combine_seeds(values, covariance, free, clusters.fewest, confidence, cost)


def _drawn_covariance(drawn: Sequence[Replicates], name: str) -> np.ndarray:
    """Covariance of the seeds' errors of a metric, from replicates with the same draws; in two ways as the AUC's."""
    clusters = drawn[0].clusters
    covariance = clusters.fewest / (clusters.fewest - 1) * np.atleast_2d(np.cov([d.values[name] for d in drawn]))
    if drawn[0].further:
        second, cells = (_drawn_covariance(way, name) for way in zip(*(d.further for d in drawn)))
        covariance = covariance + positive_part(second - cells)
    return covariance


def _summaries(labels, values, index, confidence: float, replicates: int, seed: int) -> dict[str, SeedSummary]:
    found = Clusters(index, labels)
    rankings = [Ranking(labels, v) for v in values]
    if not rankings[0].defined or found.fewest < 2:
        return {}
    resampling = Resampling(found, replicates, seed)
    drawn = [bootstrap(ranking, resampling) for ranking in rankings]
    parts = [cluster_components(ranking, found) for ranking in rankings]
    result = {}
    for name in drawn[0].point:
        if name == "auc":
            result[name] = mean_over_seeds(*zip(*parts), found, confidence)
            continue
        covariance = _drawn_covariance(drawn, name)
        free, cost = min(d.degrees_of_freedom(name) for d in drawn), failure_cost(name, float(labels.mean()))
        result[name] = combine_seeds([d.point[name] for d in drawn], covariance, free, found.fewest, confidence, cost)
    return result
