"""Metrics of groups of videos, and the largest gap between groups, with intervals that hold for all pairs at once.

Groups of one test set share people and chance, so their errors go together: the covariance is that of influences
summed over the same clusters. The largest of many gaps is large by chance. Its interval is therefore made of intervals
of all pairs that hold together: difference -+ c se, with c the 95 % point of the largest of all |difference| / se
(Tukey's studentised range, with the groups' own variances and correlations; Hochberg & Tamhane, "Multiple comparison
procedures", 1987).

In shapes, N is the number of frames, V of videos, K of clusters, G of groups.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from resproto_fd.training.measures.clusters import Clusters, table_clusters
from resproto_fd.training.measures.influence import influences
from resproto_fd.training.measures.intervals import (
    NO_ERROR,
    Interval,
    auc_covariance,
    degrees_of_freedom,
    failure_cost,
    logit_interval,
    unseen_share,
)
from resproto_fd.training.measures.roc import Ranking
from resproto_fd.training.measures.videos import aggregate_videos
from resproto_fd.training.scores import ScoreTable

METRICS = ("auc", "eer")
FEWEST = 5
"""Clusters of a class that a group must have; with fewer it is not estimable."""
DRAWS = 20_000


class Group(NamedTuple):
    """One group of videos; no estimates where a class is in fewer than `FEWEST` clusters."""

    name: str
    real_videos: int
    fake_videos: int
    estimates: dict[str, Interval]  # by metric


class Gap(NamedTuple):
    """The largest difference between two groups; limits and p are of all pairs together."""

    highest: str
    lowest: str
    value: float
    low: float
    high: float
    p: float  # of so large a gap if all groups were equal


class Grouping(NamedTuple):
    """The groups of one test set by one fact."""

    groups: list[Group]
    gaps: dict[str, Gap]  # by metric; without it fewer than two groups are estimable
    unknown: int  # videos of which the fact is not known
    all_reals: bool  # the fact is known of fakes alone: each group's fakes stand against all reals


def group_metrics(
    table: ScoreTable, facts: Mapping[str, str], level: str = "frame", clusters: str | np.ndarray = "source"
) -> Grouping:
    """AUC and EER of each group's fakes against its reals.

    Args:
        table: The scores.
        facts: Each video's group, by video id; a video that it lacks is in no group.
        level: Scores of "frame" or of "video"; of a table of clips always of videos.
        clusters: As `table_intervals`.
    """
    of_video = table_clusters(table, clusters) if isinstance(clusters, str) else np.asarray(clusters)
    values = np.array([facts.get(video, "") for video in table.videos.tolist()])
    known, fake = values != "", table.video_label == 1
    all_reals = not (known & ~fake).any()
    if level in table.levels and level == "frame":
        labels, scores, video = table.label, table.score, table.video_index
    else:
        labels, video = table.video_label, np.arange(len(table.videos))
        scores = aggregate_videos(table.score, table.video_index, len(table.videos))
    whole = Clusters(of_video, table.video_label.astype(np.int64))
    names = sorted(set(values[known].tolist()))
    groups, errors = [], {}
    for name in names:
        member = (values == name) | (~fake if all_reals else False)
        counts = int((member & ~fake).sum()), int((member & fake).sum())
        own = Clusters(of_video[member], table.video_label[member].astype(np.int64))
        if own.fewest < FEWEST:
            groups.append(Group(name, *counts, {}))
            continue
        frames = member[video]
        errors[name] = _of_group(Ranking(labels[frames], scores[frames]), video[frames], own, whole)
        groups.append(Group(name, *counts, {metric: each[0] for metric, each in errors[name].items()}))
    fewest = min((each["auc"][3] for each in errors.values()), default=0)
    gaps = {
        metric: _largest_gap(metric, {n: e[metric] for n, e in errors.items()}, whole, fewest) for metric in METRICS
    }
    unknown = int((~known & (fake if all_reals else True)).sum())
    return Grouping(groups, {metric: gap for metric, gap in gaps.items() if gap}, unknown, all_reals)


def _of_group(ranking: Ranking, video: np.ndarray, own: Clusters, whole: Clusters) -> dict[str, tuple]:
    """By metric: its interval, and sums of the fakes' and the reals' influences over all clusters, [K]; and `fewest`.

    The sums are scaled so that the whole set's n / (n - 1) becomes that of the group's own clusters.
    """
    scales = []
    for mine, theirs in ((own.main.fake, whole.main.fake), (own.main.real, whole.main.real)):
        few, many = int(mine.sum()), int(theirs.sum())
        scales.append(math.sqrt(few / (few - 1) * (many - 1) / many))
    found = {}
    for metric in METRICS:
        value, parts = influences(ranking, metric)
        sums = [
            scale * whole.sums(np.bincount(video, parts * (ranking.labels == label), len(whole.labels)))
            for label, scale in ((1, scales[0]), (0, scales[1]))
        ]
        variance = auc_covariance(sums[0][None], sums[1][None], whole).item()
        free = min(degrees_of_freedom(sums[0] + sums[1], whole), own.fewest - 1)
        se = math.sqrt(max(variance, 0))
        interval = logit_interval(value, se, free, own.fewest, cost=failure_cost(metric))
        found[metric] = interval, *sums, own.fewest
    return found


def _largest_gap(metric: str, errors: Mapping[str, tuple], whole: Clusters, fewest: int) -> Gap | None:
    from scipy.special import ndtri

    if len(errors) < 2:
        return None
    names, fake, real = list(errors), *(np.stack([each[i] for each in errors.values()]) for i in (1, 2))
    values = np.array([each[0].value for each in errors.values()])
    covariance = auc_covariance(fake, real, whole)
    # Few errors do not show what an unseen one would do: see `logit_interval`.
    unseen = [failure_cost(metric) * unseen_share(each[3]) for each in errors.values()]
    least = np.clip(unseen - np.minimum(values, 1 - values), 0, None) / ndtri(0.975)
    covariance += np.diag(np.clip(least**2 - np.diag(covariance), 0, None))
    first, second = np.triu_indices(len(names), 1)
    apart = np.abs(values[first] - values[second])
    variance = np.diag(covariance)
    se = np.sqrt(np.clip(variance[first] + variance[second] - 2 * covariance[first, second], 0, None))
    at = int(np.argmax(apart))
    pair = sorted((names[first[at]], names[second[at]]), key=lambda name: -errors[name][0].value)
    se = np.maximum(se, NO_ERROR)
    largest = _largest_deviates(covariance, first, second, se, fewest - 1)
    critical = float(np.quantile(largest, 0.95))
    low, high = float(np.max(apart - critical * se)), float(np.max(apart + critical * se))
    p = (1 + np.count_nonzero(largest >= np.max(apart / se))) / (DRAWS + 1)
    return Gap(*pair, float(apart[at]), max(low, 0.0), min(high, 1.0), float(p))


def _largest_deviates(
    covariance: np.ndarray, first: Sequence[int], second: Sequence[int], se: np.ndarray, free: int
) -> np.ndarray:
    """Draws of the largest |difference| / se of all pairs where all groups are equal, [DRAWS]; always the same."""
    generator = np.random.default_rng(0)
    values, vectors = np.linalg.eigh(covariance)
    normal = generator.standard_normal((DRAWS, len(values))) @ (vectors * np.sqrt(np.clip(values, 0, None))).T
    scale = np.sqrt(generator.chisquare(max(free, 1), DRAWS) / max(free, 1))
    result = np.zeros(DRAWS)
    for i, j, each in zip(first, second, se):
        np.maximum(result, np.abs(normal[:, i] - normal[:, j]) / each, out=result)
    return result / scale
