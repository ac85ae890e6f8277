"""ROC curves and every metric of binary scores, in NumPy; also for weighted scores and many weightings at once.

`area_under_curve`, `average_precision` and `equal_error_rate` read the points of one curve. `curve_metrics` computes
the same metrics from counts, for many curves at once; it rounds in another order, so that the last bit may differ.

In shapes, N is the number of frames (or videos), K of clusters, L of distinct scores, R of weightings.
"""

import numpy as np

from resproto_fd.training.measures.clusters import Clusters

FALSE_POSITIVE_RATES = {"tpr_at_fpr_1_in_100": 0.01, "tpr_at_fpr_1_in_1000": 0.001}
PARTIAL_MAX_FPR = 0.1
ECE_BINS = 15


class Ranking:
    """Sorts scores once, from the most to the least fake; equal scores share one level.

    Args:
        labels: 0 real, 1 fake, [N].
        scores: P(fake), [N].

    Raises:
        ValueError: Lengths differ, a label is not 0 or 1, or a score is not finite.
    """

    def __init__(self, labels: np.ndarray, scores: np.ndarray):
        labels, scores = np.asarray(labels), np.asarray(scores)
        _check(labels, scores)
        self.labels, self.scores = labels.astype(np.int64), scores
        self.order = np.argsort(-self.scores)
        ordered = self.scores[self.order]
        rank = np.cumsum(np.concatenate([[False], ordered[1:] != ordered[:-1]])[: len(ordered)])
        self.level = np.empty(len(rank), dtype=np.int64)  # of each frame, 0 the most fake
        self.level[self.order] = rank
        total = np.bincount(self.level)
        self.fakes = np.bincount(self.level, self.labels, len(total))  # at each level, [L]
        self.reals = total - self.fakes

    @property
    def defined(self) -> bool:
        """Whether both classes are present."""
        return 0 < self.fakes.sum() < len(self.labels)

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """All points of the ROC curve, from (0, 0) to (1, 1): false and true positive rates, [L + 1] each."""
        return roc_curve(self.fakes, self.reals)

    def auc_components(self) -> tuple[float, np.ndarray]:
        """AUC, and what each frame's place among the other class adds to its error, [N] (their sum is 0 per class).

        For a fake: (share of reals below it - AUC) / fakes; for a real: (share of fakes above it - AUC) / reals; ties
        count one half. These are DeLong's structural components, centred and divided by the class size.
        """
        fakes, reals = self.fakes.sum(), self.reals.sum()
        below = 1 - (np.cumsum(self.reals) - self.reals / 2) / reals
        above = (np.cumsum(self.fakes) - self.fakes / 2) / fakes
        auc = float(self.fakes @ below / fakes)
        of_fake, of_real = (below - auc) / fakes, (above - auc) / reals
        return auc, np.where(self.labels == 1, of_fake[self.level], of_real[self.level])

    def components_of(self, fakes: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """`auc_components` of some of the fakes against all reals, without sorting again.

        Args:
            fakes: Positions of these fakes, [M].

        Returns:
            (AUC, components of these fakes [M], components of the reals in the order of their positions)
        """
        counts, reals = np.bincount(self.level[fakes], minlength=len(self.reals)), self.reals.sum()
        below = 1 - (np.cumsum(self.reals) - self.reals / 2) / reals
        above = (np.cumsum(counts) - counts / 2) / len(fakes)
        auc = float(counts @ below / len(fakes))
        return (
            auc,
            (below[self.level[fakes]] - auc) / len(fakes),
            (above[self.level[self.labels == 0]] - auc) / reals,
        )

    def coarse(self, levels: int) -> np.ndarray:
        """Groups the levels into about `levels` coarser ones; returns each frame's, [N].

        The groups are even in both rates. Among the highest-scored reals, where small false positive rates are read,
        they are almost as fine as the scores themselves.
        """
        if len(self.fakes) <= levels:
            return self.level
        tp, fp = np.cumsum(self.fakes), np.cumsum(self.reals)
        even = 0.4375 * tp / tp[-1] + 0.4375 * fp / fp[-1] + 0.125 * np.log1p(fp) / np.log1p(fp[-1])
        cell = np.floor(even * levels)
        return np.cumsum(np.concatenate([[False], cell[1:] != cell[:-1]]))[self.level]


def roc_curve(fakes: np.ndarray, reals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All points of a ROC curve, from (0, 0) to (1, 1).

    Args:
        fakes: How many fakes have each score, the highest score first, [L].
        reals: How many reals have it, [L].

    Returns:
        (false positive rates [L + 1], true positive rates [L + 1])
    """
    fp, tp = np.cumsum(reals), np.cumsum(fakes)
    return np.concatenate([[0], fp / fp[-1]]), np.concatenate([[0], tp / tp[-1]])


def area_under_curve(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """Area under a ROC curve, by trapezoids: a tie between a real and a fake counts one half.

    Args:
        fpr: False positive rates from 0 to 1, all points of the curve, [P].
        tpr: True positive rates at the same thresholds, [P].
    """
    area = float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2.0))
    return min(1.0, area)  # sums of rounded shares can end at 1.0000000000000002


def average_precision(fakes: np.ndarray, reals: np.ndarray) -> float:
    """Average precision, the step-wise sum of precision over recall; fake is the positive class.

    Args:
        fakes: How many fakes have each score, the highest score first, [L].
        reals: How many reals have it, [L].
    """
    tp, fp = np.cumsum(fakes), np.cumsum(reals)
    # From the lowest threshold up, as scikit-learn adds them: the sum has the same last bit.
    recall, precision = np.append((tp / tp[-1])[::-1], 0.0), (tp / (tp + fp))[::-1]
    return min(1.0, max(0.0, -float(np.sum(np.diff(recall) * precision))))


def equal_error_rate(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """Where the ROC curve, its points joined by straight lines, has as many false alarms as misses.

    Args:
        fpr: False positive rates from 0 to 1, all points of the curve, [P].
        tpr: True positive rates at the same thresholds, [P].

    >>> equal_error_rate(np.array([0.0, 1.0]), np.array([0.0, 1.0]))  # a constant score
    0.5
    """
    gap = 1 - tpr - fpr  # falls from 1 to -1
    after = int(np.argmax(gap <= 0))
    before = max(after - 1, 0)
    share = 0.0 if gap[before] == gap[after] else gap[before] / (gap[before] - gap[after])
    return float(fpr[before] + share * (fpr[after] - fpr[before]))


def curve_metrics(fakes: np.ndarray, reals: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of ROC curves given as counts (or weights) per level of score.

    Args:
        fakes: Weight of the fakes at each level, the highest score first, [L] or [R, L] for R curves at once.
        reals: Weight of the reals, likewise.

    Returns:
        auc; ap, the step-wise average precision; eer, on the polyline through the points of the curve; partial_auc, up
        to a false positive rate of 0.1, rescaled so that chance is 0.5 and perfect 1 (McClish 1989);
        tpr_at_fpr_1_in_100 and _1_in_1000, the best rate of a threshold whose false positive rate is not above it. Each
        [R], or [] for one curve.

    >>> float(curve_metrics(np.array([1, 1, 0]), np.array([0, 1, 1]))["auc"])
    0.875
    """
    fakes, reals = np.asarray(fakes, np.float64), np.asarray(reals, np.float64)
    tp, fp = np.cumsum(fakes, -1), np.cumsum(reals, -1)
    positives, negatives = tp[..., -1], fp[..., -1]
    tpr, fpr = tp / positives[..., None], fp / negatives[..., None]
    called = tp + fp
    precision = np.divide(tp, called, out=np.zeros_like(tp), where=called > 0)
    result = {
        "auc": np.sum(reals * (tp - fakes / 2), -1) / positives / negatives,
        "ap": np.sum(fakes * precision, -1) / positives,
    }
    excess = fpr + tpr - 1  # false alarms minus misses: rises from -1 to 1
    crossing = np.sum(excess < 0, -1)
    after, rate_after = _at(excess, crossing), _at(fpr, crossing)
    before, rate_before = _at(excess, crossing - 1, -1.0), _at(fpr, crossing - 1)
    result["eer"] = rate_before - before / (after - before) * (rate_after - rate_before)

    # The area under the points up to the limit, and of the segment that crosses it.
    inside = fpr <= PARTIAL_MAX_FPR
    last = np.sum(inside, -1) - 1
    area = np.sum(reals * (tp - fakes / 2) * inside, -1) / (positives * negatives)
    start, low = _at(fpr, last), _at(tpr, last)
    rise, run = _at(tpr, last + 1) - low, _at(fpr, last + 1) - start
    width = PARTIAL_MAX_FPR - start
    area += width * (low + rise / run * width / 2)
    least = PARTIAL_MAX_FPR**2 / 2
    result["partial_auc"] = (1 + (area - least) / (PARTIAL_MAX_FPR - least)) / 2
    for name, rate in FALSE_POSITIVE_RATES.items():
        result[name] = _at(tpr, np.sum(fpr <= rate, -1) - 1)
    return result


def _at(values: np.ndarray, index: np.ndarray, before: float = 0.0) -> np.ndarray:
    """values[..., index], and `before` where the index is -1."""
    found = np.take_along_axis(values, np.maximum(index, 0)[..., None], -1)[..., 0]
    return np.where(index >= 0, found, before)


def threshold_sums(ranking: Ranking, clusters: Clusters) -> np.ndarray:
    """What acc, balanced_acc, ece and brier are ratios of, summed over each cluster, [6 + 2 ECE_BINS, K].

    Fakes and reals, those called right, squared errors of each class, and errors by bin of each class.

    Raises:
        ValueError: A score is outside [0, 1], as a logit is.
    """
    labels, scores = ranking.labels, ranking.scores.astype(np.float64)
    wrong = np.flatnonzero((scores < 0) | (scores > 1))
    if len(wrong):
        raise ValueError(f"score {scores[wrong[0]]:g} at position {wrong[0]}: expected P(fake) in [0, 1], not a logit")
    called_fake = scores > 0.5
    right_fake, right_real = called_fake & (labels == 1), ~called_fake & (labels == 0)
    squares = (scores - labels) ** 2
    of_class = (squares * labels, squares * (1 - labels))
    columns = [clusters.sums(c) for c in (labels, 1 - labels, right_fake, right_real, *of_class)]
    bins = np.clip(np.ceil(scores * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
    cells = [
        np.bincount(clusters.index * ECE_BINS + bins, (scores - labels) * (labels == label), clusters.count * ECE_BINS)
        for label in (1, 0)
    ]
    return np.concatenate([columns, *(each.reshape(-1, ECE_BINS).T for each in cells)])


def threshold_metrics(sums: np.ndarray, make_up: tuple[float, float] | None = None) -> dict[str, np.ndarray]:
    """acc and balanced_acc (fake above 0.5), brier, and ece: P(fake) against the share of fakes in equal-width bins.

    Args:
        sums: See `threshold_sums`, [6 + 2 ECE_BINS, ...].
        make_up: Fakes and reals that each class is weighted to; as many as there are if not given.
    """
    fakes, reals, right_fakes, right_reals, fake_squares, real_squares = sums[:6]
    of_fakes, of_reals = _weights(sums, make_up)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = of_fakes * fakes + of_reals * reals
        return {
            "acc": (of_fakes * right_fakes + of_reals * right_reals) / total,
            "balanced_acc": (right_fakes / fakes + right_reals / reals) / 2,
            "ece": np.abs(bin_errors(sums, make_up)).sum(0),
            "brier": (of_fakes * fake_squares + of_reals * real_squares) / total,
        }


def bin_errors(sums: np.ndarray, make_up: tuple[float, float] | None = None) -> np.ndarray:
    """What each bin adds to the ECE, with its sign: above 0 where scores are too high, [ECE_BINS, ...].

    Args:
        sums: See `threshold_sums`, [6 + 2 ECE_BINS, ...].
        make_up: As in `threshold_metrics`.
    """
    of_fakes, of_reals = _weights(sums, make_up)
    errors = of_fakes * sums[6 : 6 + ECE_BINS] + of_reals * sums[6 + ECE_BINS :]
    with np.errstate(divide="ignore", invalid="ignore"):
        return errors / (of_fakes * sums[0] + of_reals * sums[1])


def _weights(sums: np.ndarray, make_up: tuple[float, float] | None) -> tuple[np.ndarray | float, np.ndarray | float]:
    """The weight of each fake and of each real."""
    return (1.0, 1.0) if make_up is None else (make_up[0] / sums[0], make_up[1] / sums[1])


def point_metrics(ranking: Ranking) -> dict[str, float | None]:
    """Every metric that has an interval, by name; None where the data do not define it.

    >>> point_metrics(Ranking(np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.6, 0.9])))["balanced_acc"]
    0.75
    """
    whole = Clusters(np.zeros(len(ranking.labels), np.int64), ranking.labels)
    if ranking.defined:
        curve = curve_metrics(ranking.fakes, ranking.reals)
    else:
        curve = dict.fromkeys(("auc", "ap", "eer", "partial_auc", *FALSE_POSITIVE_RATES), np.nan)
    found = curve | threshold_metrics(threshold_sums(ranking, whole).sum(1))
    return {name: None if np.isnan(value) else float(value) for name, value in found.items()}


def _check(labels: np.ndarray, scores: np.ndarray) -> None:
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape}: expected two columns of one length")
    wrong = np.flatnonzero((labels != 0) & (labels != 1))
    if len(wrong):
        raise ValueError(f"label {labels[wrong[0]]} at position {wrong[0]}: expected 0 (real) or 1 (fake)")
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise ValueError(f"score {scores[wrong[0]]} at position {wrong[0]}: expected a finite number")
