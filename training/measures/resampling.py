"""The cluster bootstrap of every metric at once.

In shapes, N is the number of frames (or videos), K of clusters, R of replicates.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from resproto_fd.training.measures.clusters import Clusters, positive_part
from resproto_fd.training.measures.roc import (
    Ranking,
    bin_errors,
    curve_metrics,
    point_metrics,
    threshold_metrics,
    threshold_sums,
)

REPLICATES = 1000
LEVELS = 2048  # distinct scores that replicates see; the metric itself sees all
BATCH = 128  # replicates at a time
MOST_UNITS = 50_000  # drawn one by one


class Draws(NamedTuple):
    """Replicates and seed of a bootstrap: the same seed gives the same intervals."""

    replicates: int = REPLICATES
    seed: int = 0


DRAWS = Draws()


class Resampling:
    """How often each replicate draws each cluster: with replacement, within each stratum, always the same for a seed.

    Several detectors of one test set share one object: their replicates then are of the same draws, paired.

    In two ways, the first is drawn here, and `further` draws the second and the cells.

    Beyond `MOST_UNITS` clusters, random groups of them are drawn instead, as `units`: groups of independent clusters
    are independent too, and 50,000 of them estimate the error as well as a million frames.
    """

    def __init__(self, clusters: Clusters, replicates: int = REPLICATES, seed: int = 0):
        self.clusters, self.replicates, self.seed = clusters, replicates, seed
        main = clusters.main
        self.units = main if main.count <= MOST_UNITS else _random_groups(main, seed)
        further = (clusters.ways[1][0], clusters.cells()) if clusters.ways else ()
        self.further = tuple(Resampling(each, replicates, seed) for each in further)
        self._batches: list[np.ndarray | None] = [None] * math.ceil(replicates / BATCH)

    def fits(self, index: np.ndarray, labels: np.ndarray, replicates: int, seed: int) -> bool:
        """Whether these draws serve frames of such clusters and labels too."""
        return (self.replicates, self.seed) == (replicates, seed) and self.clusters.same_as(index, labels)

    def batches(self) -> Iterator[np.ndarray]:
        """Counts of each unit in the next replicates, float32 [K, up to BATCH]."""
        for number, batch in enumerate(self._batches):
            if batch is None:
                batch = self._batches[number] = self._draw(number)
            yield batch.astype(np.float32)

    def _draw(self, number: int) -> np.ndarray:
        generator = np.random.default_rng([self.seed, number])
        width = min(BATCH, self.replicates - number * BATCH)
        counts = np.zeros((self.units.count, width), np.uint8)
        for stratum in range(3):
            members = np.flatnonzero(self.units.strata == stratum)
            drawn = generator.integers(0, max(len(members), 1), (len(members), width)) * width + np.arange(width)
            counts[members] = np.bincount(drawn.ravel(), minlength=len(members) * width).reshape(-1, width)
        return counts


def _random_groups(clusters: Clusters, seed: int) -> Clusters:
    generator, group, first = np.random.default_rng(seed), np.empty(clusters.count, np.int64), 0
    for stratum in range(3):
        members = generator.permutation(np.flatnonzero(clusters.strata == stratum))
        groups = max(MOST_UNITS * len(members) // clusters.count, min(len(members), 100))
        group[members] = first + np.arange(len(members)) % max(groups, 1)
        first += groups
    return Clusters(group[clusters.index], clusters.labels)


class Replicates(NamedTuple):
    """A cluster bootstrap of every metric of `point_metrics`."""

    point: dict[str, float]  # the metrics of the scores themselves
    values: dict[str, np.ndarray]  # of each replicate, [R]
    influence: dict[str, np.ndarray]  # covariance of each cluster's draws with the metric, [K]
    clusters: Clusters
    bins: np.ndarray  # what each bin adds to the calibration error, with its sign, [ECE_BINS]
    drawn_bins: np.ndarray  # the same of each replicate, [R, ECE_BINS]
    further: tuple["Replicates", ...] = ()  # in two ways: of the second way, and of the cells

    def degrees_of_freedom(self, name: str) -> float:
        """As `degrees_of_freedom`, from the influences.

        R replicates add normal noise of variance 1/R to an influence (in units of the standard error); its part in
        the fourth moment is taken out.
        """
        if self.further:
            one_way = self._replace(further=())
            return min(one_way.degrees_of_freedom(name), self.further[0].degrees_of_freedom(name))
        variance, replicates, count = self.values[name].var(), len(self.values[name]), self.clusters.count
        if not variance:
            return self.clusters.fewest - 1
        fourth = np.sum(self.influence[name] ** 4) / variance**2 - 6 / replicates - 3 * count / replicates**2
        fourth = max(fourth, 3 / count)  # of normal errors
        return float(np.clip(2 / (fourth - 1 / count), 1, self.clusters.fewest - 1))

    def standard_error(self, name: str) -> float:
        """Standard deviation of the replicates; n draws from n clusters vary as if there were n - 1 of them.

        In two ways, what the second adds to the cells' variance is added; see `intervals.auc_covariance`.
        """
        few = self.clusters.fewest / (self.clusters.fewest - 1)
        variance = self.values[name].var(ddof=1) * few
        if self.further:
            second, cells = (each.standard_error(name) ** 2 for each in self.further)
            variance += max(second - cells, 0)
        return float(np.sqrt(variance))

    def bin_covariance(self) -> np.ndarray:
        """Covariance of the bins' errors, [ECE_BINS, ECE_BINS]; see `standard_error`."""
        few = self.clusters.fewest / (self.clusters.fewest - 1)
        result = few * np.cov(self.drawn_bins.T)
        if self.further:
            second, cells = (each.bin_covariance() for each in self.further)
            result = result + positive_part(second - cells)
        return result

    def bin_noise(self, draws: int) -> tuple[np.ndarray, np.ndarray]:
        """The bins' errors, [ECE_BINS], and draws of their sampling noise, [draws, ECE_BINS]; the same at each call."""
        generator = np.random.default_rng(0)
        values, vectors = np.linalg.eigh(self.bin_covariance())
        normal = generator.standard_normal((draws, len(values))) * np.sqrt(np.clip(values, 0, None))
        free = self.clusters.fewest - 1
        return self.bins, normal @ vectors.T / np.sqrt(generator.chisquare(free, (draws, 1)) / free)


def bootstrap(ranking: Ranking, resampling: Resampling, levels: int = LEVELS) -> Replicates:
    """Every metric in each replicate of a cluster bootstrap.

    The share of fakes is the test set's own in every replicate: the classes are weighted to it. (Clusters of both
    classes would else let it wander, and with it AP, ACC, Brier score and ECE. A test set's make-up is by design.)

    Replicates see the scores through a grid of `levels` values, and are shifted by what the grid does to the metric
    itself. Nothing is resampled frame by frame: one sparse product counts all replicates' frames at each level.

    Args:
        ranking: The scores; both classes are there.
        resampling: The draws, of the same frames' clusters.
        levels: About how many distinct scores the replicates see.
    """
    from scipy.sparse import coo_matrix

    clusters = resampling.units
    level = ranking.coarse(levels)
    used = int(level.max()) + 1
    rows = level + used * ranking.labels
    ones = np.ones(len(level), np.float32)
    counts = coo_matrix((ones, (rows, clusters.index)), (2 * used, clusters.count)).tocsr()
    sums = threshold_sums(ranking, clusters)
    totals = np.bincount(rows, minlength=2 * used)
    make_up = float(totals[used:].sum()), float(totals[:used].sum())
    centre = curve_metrics(totals[used:], totals[:used]) | threshold_metrics(sums.sum(1))
    bins = bin_errors(sums.sum(1))
    sums = sums.astype(np.float32)

    parts, calibration, cross, draws = [], [], 0, 0
    for weights in resampling.batches():
        drawn = np.ascontiguousarray((counts @ weights).T, np.float64)
        fakes, reals = (_weighted(*each) for each in ((drawn[:, used:], make_up[0]), (drawn[:, :used], make_up[1])))
        weighted = (sums @ weights).astype(np.float64)
        metrics = curve_metrics(fakes, reals) | threshold_metrics(weighted, make_up)
        calibration.append(bin_errors(weighted, make_up).T)
        deviation = np.stack([values - centre[name] for name, values in metrics.items()], 1)
        cross, draws = cross + weights @ deviation.astype(np.float32), draws + weights.sum(1)
        parts.append(deviation)
    deviations = np.concatenate(parts)
    influence = (cross - np.outer(draws, deviations.mean(0))) / len(deviations)
    point = point_metrics(ranking)
    return Replicates(
        point,
        {name: point[name] + deviations[:, i] for i, name in enumerate(centre)},
        {name: influence[:, i].astype(np.float64) for i, name in enumerate(centre)},
        clusters,
        bins,
        np.concatenate(calibration),
        tuple(bootstrap(ranking, each, levels) for each in resampling.further),
    )


def _weighted(counts: np.ndarray, total: float) -> np.ndarray:
    """Counts of each replicate weighted to one total, [R, L]."""
    return counts * (total / counts.sum(1, keepdims=True))
