"""What each frame adds to the error of a metric, in closed form: the error of a mean over seeds without a bootstrap.

A metric of a large sample is nearly a mean over frames: metric = truth + the sum of all frames' influences (von Mises
1947; for the AUC they are DeLong's structural components). Summed over clusters, they give variances and covariances
with other seeds, other detectors and other groups by the formula that the AUC has (`intervals.auc_covariance`). A table
of a million frames takes a tenth of a second for each metric, where replicates take seconds.

In shapes, N is the number of frames (or videos), L of distinct scores, K of clusters.
"""

from typing import NamedTuple

import numpy as np

from resproto_fd.training.measures.clusters import Clusters
from resproto_fd.training.measures.roc import (
    ECE_BINS,
    PARTIAL_MAX_FPR,
    Ranking,
    average_precision,
    curve_metrics,
    equal_error_rate,
)

INFLUENCES = ("auc", "ap", "eer", "acc", "balanced_acc", "brier", "partial_auc", "ece")
"""Metrics that have influences. That of the ECE holds where no bin's error is near 0."""


class Influences(NamedTuple):
    """A metric and what each frame (or video) adds to its error."""

    value: float
    parts: np.ndarray  # [N]; their sum over each class is 0

    def summed(self, clusters: Clusters) -> tuple[np.ndarray, np.ndarray]:
        """Sums over each cluster, of the fakes and of the reals, [K] and [K]."""
        fake = clusters.sums(self.parts * clusters.labels)
        return fake, clusters.sums(self.parts) - fake


def influences(ranking: Ranking, name: str) -> Influences:
    """A metric of `INFLUENCES` with the influence of each score. The share of fakes is taken as fixed.

    Args:
        ranking: The scores; both classes are there.
        name: The metric.
    """
    if name == "auc":
        return Influences(*ranking.auc_components())
    if name in ("acc", "balanced_acc"):
        return _of_accuracy(ranking, name)
    if name in ("brier", "ece"):
        return _of_probability(ranking, name)
    return {"ap": _average_precision, "eer": _equal_error_rate, "partial_auc": _partial_auc}[name](ranking)


def _of_probability(ranking: Ranking, name: str) -> Influences:
    """Means of squared errors, or of errors with the sign that they have in their bin."""
    errors = ranking.scores.astype(np.float64) - ranking.labels
    if name == "brier":
        errors = errors**2
    else:
        bins = np.clip(np.ceil(ranking.scores * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
        errors = errors * np.sign(np.bincount(bins, errors, ECE_BINS))[bins]
    means = np.bincount(ranking.labels, errors) / np.bincount(ranking.labels)
    return Influences(float(errors.mean()), (errors - means[ranking.labels]) / len(errors))


def _of_accuracy(ranking: Ranking, name: str) -> Influences:
    right = (ranking.scores > 0.5) == (ranking.labels == 1)
    weights = np.full(2, 1 / len(right)) if name == "acc" else 0.5 / np.bincount(ranking.labels)
    shares = np.bincount(ranking.labels, right) / np.bincount(ranking.labels)
    value = float(right.mean() if name == "acc" else shares.mean())
    return Influences(value, (right - shares[ranking.labels]) * weights[ranking.labels])


def _average_precision(ranking: Ranking) -> Influences:
    """AP is the mean over fakes of the precision at their score, tp / (tp + fp).

    A fake adds the precision at its own score, and raises that of all lower ones; a real lowers that of all lower ones.
    """
    fakes, reals = ranking.fakes, ranking.reals
    tp, fp = np.cumsum(fakes), np.cumsum(reals)
    called = tp + fp
    precision = tp / called
    share = fakes / fakes.sum()
    lower = np.cumsum((share * fp / called**2)[::-1])[::-1]  # over this level and all below it, [L]
    of_fake = precision / fakes.sum() + lower
    of_real = -np.cumsum((share * tp / called**2)[::-1])[::-1]
    return Influences(average_precision(fakes, reals), _centred(ranking, of_fake, of_real))


def _equal_error_rate(ranking: Ranking) -> Influences:
    """At the EER a false alarm more and a miss more move the crossing by the ROC curve's slope there.

    EER = w FPR(t) + (1 - w) FNR(t) at its threshold t, with w the share of the true positive rate in how both rates
    move there. It is read off the curve between the points where FPR + TPR - 1 is -h and h.
    """
    fpr, tpr = ranking.curve()
    value, excess = equal_error_rate(fpr, tpr), fpr + tpr - 1
    fewest = min(ranking.fakes.sum(), ranking.reals.sum())
    h = float(np.clip(value / 2, fewest**-0.5, 0.1))
    ends = np.interp([-h, h], excess, tpr)
    w = float(np.clip((ends[1] - ends[0]) / (2 * h), 0, 1))
    after = int(np.argmax(excess >= 0))  # a point of the curve; level `after - 1` is crossed
    rise = excess[after] - excess[after - 1]
    beyond = (np.arange(len(ranking.fakes)) < after - 1).astype(np.float64)
    beyond[after - 1] = -excess[after - 1] / rise if rise > 0 else 1.0
    return Influences(
        value, _centred(ranking, -(1 - w) * beyond / ranking.fakes.sum(), w * beyond / ranking.reals.sum())
    )


def _partial_auc(ranking: Ranking) -> Influences:
    """The area up to a false positive rate c: a fake has the rates up to c at which it is beyond the threshold.

    A real with a lower false positive rate than c has the true positive rate there, less that at c, whose threshold
    it moves.
    """
    fpr, tpr = ranking.curve()
    edge, reals = float(np.interp(PARTIAL_MAX_FPR, fpr, tpr)), ranking.reals.sum()
    of_fake = np.maximum(PARTIAL_MAX_FPR - (fpr[1:] + fpr[:-1]) / 2, 0) / ranking.fakes.sum()
    of_real = np.where(fpr[1:] <= PARTIAL_MAX_FPR, (tpr[1:] + tpr[:-1]) / 2 - edge, 0) / reals
    scale = 0.5 / (PARTIAL_MAX_FPR - PARTIAL_MAX_FPR**2 / 2)
    value = float(curve_metrics(ranking.fakes, ranking.reals)["partial_auc"])
    return Influences(value, scale * _centred(ranking, of_fake, of_real))


def _centred(ranking: Ranking, of_fake: np.ndarray, of_real: np.ndarray) -> np.ndarray:
    """Each score's part, [N], from those of a fake and of a real at each level, [L]; each class sums to 0."""
    of_fake = of_fake - of_fake @ ranking.fakes / ranking.fakes.sum()
    of_real = of_real - of_real @ ranking.reals / ranking.reals.sum()
    return np.where(ranking.labels == 1, of_fake[ranking.level], of_real[ranking.level])
