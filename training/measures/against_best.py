"""Which detectors may be the best of a table: the mean AUC of each over its seeds, tested against the best other.

The quantity is the one that a table ranks: the mean over a row's seeds, on one test set or averaged over several. Two
things make it uncertain. Other seeds would give other numbers, and so would other test videos; the rows share the
videos, so their errors go together. The covariance of the means has both parts:

    Sigma = data + diag(s_i^2 / S_i),

with `data` Obuchowski's (1997) clustered covariance of the AUCs, averaged over pairs of seeds (the diagonal over pairs
of different seeds, as in `seeds.combine_seeds`), and s_i the standard deviation over the S_i seeds of row i.

The test is Hsu's (1981) comparison with the best. Row i may be the best unless some other row is surely above it, where
"surely" holds for all other rows at once. The set of rows that may be the best contains the best row in 95 % of such
tables. It costs far less power than a correction over all pairs: D - 1 correlated comparisons, each on one side.

In shapes, D is the number of rows, S of seeds, K of clusters.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from resproto_fd.training.measures.clusters import Clusters
from resproto_fd.training.measures.intervals import (
    NO_ERROR,
    Interval,
    auc_covariance,
    cluster_components,
    degrees_of_freedom,
    logit_interval,
)
from resproto_fd.training.measures.roc import Ranking

DRAWS = 20_000
"""Draws of the largest of the correlated differences; the error of a p-value of .05 is .0015."""


@dataclass(frozen=True)
class SetErrors:
    """The AUCs of D rows on one test set, and their errors.

    Attributes:
        values: AUC of each seed, by row, [S] each.
        fake: Structural components of the fakes, summed over each cluster, by row, [S, K] each.
        real: Those of the reals.
        clusters: What is independent.
    """

    values: dict[str, np.ndarray]
    fake: dict[str, np.ndarray]
    real: dict[str, np.ndarray]
    clusters: Clusters

    @classmethod
    def of(
        cls, labels: np.ndarray, scores: Mapping[str, Sequence[np.ndarray]], clusters: np.ndarray | None
    ) -> "SetErrors | None":
        """Compute from scores; None where a class is missing or in one cluster alone.

        Args:
            labels: 0 real, 1 fake, [N].
            scores: P(fake) of the same N frames for each seed, by row.
            clusters: Which frames are not independent of each other, numbers from 0, [N]; all are if None.
        """
        labels = np.asarray(labels).astype(np.int64)
        found = Clusters(clusters, labels)
        if found.fewest < 2:
            return None
        values, fake, real = {}, {}, {}
        for name, seeds in scores.items():
            parts = [cluster_components(Ranking(labels, one), found) for one in seeds]
            values[name] = np.array([part[0] for part in parts])
            fake[name], real[name] = (np.stack([part[i] for part in parts]) for i in (1, 2))
        return cls(values, fake, real, found)

    def covariance(self, names: Sequence[str]) -> np.ndarray:
        """Covariance of the rows' means over seeds that comes of the test videos, [D, D]."""
        fake, real = (np.stack([part[name].mean(axis=0) for name in names]) for part in (self.fake, self.real))
        result = auc_covariance(fake, real, self.clusters)
        for place, name in enumerate(names):
            seeds = len(self.values[name])
            if seeds > 1:  # s^2 holds what the seeds' errors do not share
                own = auc_covariance(self.fake[name], self.real[name], self.clusters)
                result[place, place] = max(float(own.sum() - np.trace(own)) / (seeds * (seeds - 1)), 0)
        return result

    def errors(self, name: str) -> np.ndarray:
        """What each cluster adds to the error of a row's mean, [K]."""
        return (self.fake[name] + self.real[name]).mean(axis=0)


@dataclass(frozen=True)
class Standing:
    """The rows of one column against the best.

    Attributes:
        means: Mean AUC over seeds, by row.
        p: Probability of so large a lag behind some other row if this row were the best, by row; 1 for the best.
        intervals: Of the means, by row.
        seed_variance: Whether the spread over seeds is in the test. It is not where no row has two seeds.
    """

    means: dict[str, float]
    p: dict[str, float]
    intervals: dict[str, Interval]
    seed_variance: bool

    def may_be_best(self, alpha: float = 0.05) -> set[str]:
        """The rows that the data cannot tell from the best one."""
        return {name for name, p in self.p.items() if p >= alpha}


def against_best(sets: Sequence[SetErrors], confidence: float = 0.95, seed: int = 0) -> Standing:
    """Test each row against the best of the others.

    Args:
        sets: One test set; or several with the same rows and seeds, whose unweighted mean is then tested. Different
            sets are independent of each other.
        confidence: Of the intervals.
        seed: Of the draws.
    """
    found = _Means.of(sets)
    names, means, between, free_seeds = found.names, found.means, found.between, found.free_seeds
    fewest = min(each.clusters.fewest for each in sets)
    z = np.zeros((len(names), len(names)))  # how far row j is above row i, as a normal deviate
    for i in range(len(names)):
        for j in range(len(names)):
            lag = means[j] - means[i]
            if lag < 1e-12:
                continue
            pieces = [
                (max(part[i, i] + part[j, j] - 2 * part[i, j], 0), degrees_of_freedom(e[i] - e[j], each.clusters))
                for part, e, each in zip(found.parts, found.errors, sets)
            ]
            pieces += [(between[i], free_seeds[i]), (between[j], free_seeds[j])]
            z[i, j] = _deviate(lag, math.sqrt(sum(variance for variance, _ in pieces)), _freedom(pieces), fewest)
    p = _largest_p(z, found.covariance, seed)
    intervals = found.intervals(sets, confidence, 0.5)
    return Standing(dict(zip(names, means.tolist())), dict(zip(names, p.tolist())), intervals, found.several_seeds)


def mean_intervals(sets: Sequence[SetErrors], confidence: float = 0.95, cost: float = 0.5) -> dict[str, Interval]:
    """The interval of each row's mean over seeds and sets, of any metric with influences.

    Args:
        sets: As for `against_best`; `fake` and `real` hold the influences of the metric.
        confidence: Share of such intervals that hold the true value.
        cost: See `failure_cost`.
    """
    return _Means.of(sets).intervals(sets, confidence, cost)


@dataclass(frozen=True)
class _Means:
    """The rows' means over seeds and sets, and what makes them uncertain.

    Attributes:
        names: The rows.
        means: Their means, [D].
        parts: Of each set, its part of the covariance that comes of the test videos, [D, D] each.
        errors: Of each set and row, what each cluster adds to the error.
        between: Variance of each mean that comes of the seeds, [D].
        free_seeds: Its degrees of freedom, [D].
        several_seeds: Whether a row has several seeds.
    """

    names: list[str]
    means: np.ndarray
    parts: list[np.ndarray]
    errors: list[list[np.ndarray]]
    between: np.ndarray
    free_seeds: np.ndarray
    several_seeds: bool

    @classmethod
    def of(cls, sets: Sequence[SetErrors]) -> "_Means":
        names, count = list(sets[0].values), len(sets)
        by_seed = [np.mean([each.values[name] for each in sets], axis=0) for name in names]
        return cls(
            names,
            np.array([values.mean() for values in by_seed]),
            [each.covariance(names) / count**2 for each in sets],
            [[each.errors(name) for name in names] for each in sets],
            *_between(by_seed),
            any(len(values) > 1 for values in by_seed),
        )

    @property
    def covariance(self) -> np.ndarray:
        """Of the means, from both sources, [D, D]."""
        return np.sum(self.parts, axis=0) + np.diag(self.between)

    def intervals(self, sets: Sequence[SetErrors], confidence: float, cost: float) -> dict[str, Interval]:
        """See `mean_intervals`."""
        variance, fewest = np.diag(self.covariance), min(each.clusters.fewest for each in sets)
        result = {}
        for i, name in enumerate(self.names):
            own = [
                (part[i, i], degrees_of_freedom(e[i], each.clusters))
                for part, e, each in zip(self.parts, self.errors, sets)
            ]
            free = _freedom([*own, (self.between[i], self.free_seeds[i])]) if variance[i] > 0 else own[0][1]
            se = math.sqrt(max(variance[i], 0))
            result[name] = logit_interval(float(self.means[i]), se, free, fewest, confidence, cost)
        return result


def _freedom(pieces: list[tuple[float, float]]) -> float:
    """Satterthwaite's degrees of freedom of a sum of (variance, degrees of freedom)."""
    total = sum(variance for variance, _ in pieces)
    spread = sum(variance**2 / free for variance, free in pieces)
    return total**2 / spread if spread > 0 else math.inf


def _between(values: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Variance of each mean that comes of the seeds, and its degrees of freedom, [D] each.

    A row of one seed is given the variance of one seed pooled over the rows that have several.
    """
    several = [(len(v) - 1, float(np.var(v, ddof=1))) for v in values if len(v) > 1]
    free = sum(count for count, _ in several)
    pooled = sum(count * variance for count, variance in several) / free if free else 0.0
    between = [float(np.var(v, ddof=1)) / len(v) if len(v) > 1 else pooled for v in values]
    return np.array(between), np.array([len(v) - 1 if len(v) > 1 else max(free, 1) for v in values], dtype=float)


def _deviate(lag: float, se: float, free: float, fewest: int) -> float:
    """A t statistic as a normal deviate of the same one-sided p-value."""
    from scipy.special import ndtri, stdtr

    p = float(stdtr(free, -lag / se)) if se >= NO_ERROR else 2.0**-fewest
    return float(-ndtri(max(p, 1e-300)))


def _largest_p(z: np.ndarray, covariance: np.ndarray, seed: int) -> np.ndarray:
    """For each row, how often the largest of the correlated differences is above the largest one seen, [D]."""
    from scipy.special import ndtr

    values, vectors = np.linalg.eigh(covariance)
    draws = (
        np.random.default_rng(seed).standard_normal((DRAWS, len(z))) @ (vectors * np.sqrt(np.clip(values, 0, None))).T
    )
    variance = np.diag(covariance)
    result = np.ones(len(z))
    for i in range(len(z)):
        if not z[i].max() > 0:
            continue
        sd = np.sqrt(np.clip(variance[i] + variance - 2 * covariance[i], 0, None))
        apart = sd > 1e-9  # rows of equal scores, and the row itself, do not differ in any draw
        if not apart.any():
            result[i] = float(ndtr(-z[i].max()))
            continue
        largest = ((draws[:, apart] - draws[:, i : i + 1]) / sd[apart]).max(axis=1)
        result[i] = (1 + np.count_nonzero(largest >= z[i].max())) / (DRAWS + 1)
    return result
