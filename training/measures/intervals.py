"""Confidence intervals of every metric, from a score table, clustered by video and source.

A hundred frames of one video carry little more information than ten. A 95 % interval that counts them as independent
covers some 50 % (benchmarks/intervals.py measures it). Here the *cluster* is what is independent: the video, or the
people in it if the names tell who they are (`source_clusters`).

AUC: closed form, Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 53, 1997; with one frame
a cluster it is DeLong, DeLong & Clarke-Pearson 1988, computed by ranks as in Sun & Xu 2014. True positive rate at a
false positive rate: closed form, MOVER (Zou & Donner 2008) of two clustered binomial limits (Korn & Graubard 1998).
Everything else: standard error by cluster bootstrap. All are made symmetric on the logit scale, with a t quantile
whose degrees of freedom shrink when few clusters carry the error, and with exact limits near 0 and 1
(`logit_interval`). Each choice is the one whose simulated coverage was nearest to what it promises.

In shapes, N is the number of frames (or videos), K of clusters, L of distinct scores, R of replicates.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from resproto_fd.training.measures.clusters import Clusters, positive_part, table_clusters
from resproto_fd.training.measures.metrics import RankedTable
from resproto_fd.training.measures.resampling import DRAWS, Draws, Replicates, Resampling, bootstrap
from resproto_fd.training.measures.roc import FALSE_POSITIVE_RATES, PARTIAL_MAX_FPR, Ranking, point_metrics
from resproto_fd.training.measures.videos import aggregate_videos
from resproto_fd.training.scores import ScoreTable


class Interval(NamedTuple):
    """A metric and where its true value lies with the confidence asked for; None where that is undefined."""

    value: float | None
    low: float | None
    high: float | None
    se: float | None = None  # standard error
    df: float | None = None  # degrees of freedom of the t quantile


UNDEFINED = Interval(None, None, None)
NO_ERROR = 1e-12
"""A standard error below this counts as none: a few clusters agree by chance, others might not."""


LONGEST = 0.9
"""An interval of a rate that is at least so long tells nothing: the metric is not estimable."""


def estimable(low: float | None, high: float | None) -> bool:
    """Whether an interval of a rate tells anything.

    >>> estimable(0.25, 0.5), estimable(0.03, 0.98), estimable(None, None)
    (True, False, False)
    """
    return low is not None and high is not None and high - low < LONGEST


def metric_intervals(ranking: Ranking, resampling: Resampling, confidence: float = 0.95) -> dict[str, Interval]:
    """Every metric of `point_metrics` with its interval.

    Args:
        ranking: The scores.
        resampling: The bootstrap's draws, of the same scores' clusters.
        confidence: Share of such intervals that hold the true value.
    """
    clusters = resampling.clusters
    if not ranking.defined or clusters.fewest < 2:
        exact = point_metrics(ranking)
        return {name: UNDEFINED if value is None else Interval(value, None, None) for name, value in exact.items()}
    drawn = bootstrap(ranking, resampling)
    result = {}
    for name, value in drawn.point.items():
        if name == "ece":
            result[name] = _ece_interval(value, drawn, confidence)
        else:
            se, free = drawn.standard_error(name), drawn.degrees_of_freedom(name)
            cost = failure_cost(name, float(ranking.labels.mean()))
            result[name] = logit_interval(value, se, free, clusters.fewest, confidence, cost)
    result["auc"] = _auc_interval(ranking, clusters, confidence)
    rates = tpr_intervals(ranking, clusters.main, list(FALSE_POSITIVE_RATES.values()), confidence)
    return result | dict(zip(FALSE_POSITIVE_RATES, rates))


CALIBRATION_DRAWS = 2000


def _ece_interval(value: float, drawn: Replicates, confidence: float) -> Interval:
    """The interval of a calibration error, which noise in its bins always makes larger.

    A bin's error is a mean over clusters, normal about the true one; the calibration error adds their absolute values,
    so that it is biased upwards, most where the true one is near 0 (Kumar, Liang & Ma, "Verified uncertainty
    calibration", NeurIPS 2019). The lower limit inverts a test: of all multiples t < 1 of the bins' errors, it is the
    least that would give so large a calibration error with a chance of alpha/2. It is 0 if noise alone would. The
    upper limit is value + t se; the bias is not taken off it. Without a standard error there are no limits.
    """
    from scipy.special import stdtrit

    se, df = drawn.standard_error("ece"), drawn.degrees_of_freedom("ece")
    if se < NO_ERROR:
        return Interval(value, None, None, se, df)
    half = float(stdtrit(df, (1 + confidence) / 2)) * se
    bins, noise = drawn.bin_noise(CALIBRATION_DRAWS)
    below, above = 0.0, 1.0
    for _ in range(20):
        multiple = (below + above) / 2
        chance = np.mean(np.abs(multiple * bins + noise).sum(1) >= value)
        below, above = (multiple, above) if chance < (1 - confidence) / 2 else (below, multiple)
    unbiased = 0.0 if above < 1e-4 else value * below
    return Interval(value, max(min(unbiased, value - half), 0.0), min(value + half, 1.0), se, df)


def table_intervals(
    table: ScoreTable,
    *,
    variant: str | None = None,
    clusters: str | np.ndarray = "source",
    aggregation: str = "mean",
    confidence: float = 0.95,
    draws: Draws = DRAWS,
    shared: dict | None = None,
) -> dict[str, Interval]:
    """All metrics of a table with their intervals, of frames ("frame_auc", ...) and of videos ("video_auc", ...).

    Those of a table of clips are of videos alone. Frames and videos are both clustered by `clusters`; with "video" the
    video AUC's interval is DeLong's.

    Args:
        table: The scores.
        variant: Name of one of the table's other scores; its main score if not given.
        clusters: "source", "video", or the cluster number of each video, [V].
        aggregation: How a video's score is made, see `aggregate_videos`.
        confidence: Share of such intervals that hold the true value.
        draws: Replicates and seed of the bootstrap.
        shared: An empty dict given to every call for detectors of the same frames: draws are then made once.

    Raises:
        UserError: Unknown aggregation or clustering.
    """
    scores = table.score if variant is None else table.variants[variant]
    of_video = table_clusters(table, clusters) if isinstance(clusters, str) else np.asarray(clusters)
    levels = {
        "frame": (table.label, scores, of_video[table.video_index]),
        "video": (
            table.video_label,
            aggregate_videos(scores, table.video_index, len(table.videos), aggregation),
            of_video,
        ),
    }
    shared = {} if shared is None else shared
    result = {}
    for level in table.levels:
        labels, values, index = levels[level]
        ranking = Ranking(labels, values)
        if level not in shared or not shared[level].fits(index, ranking.labels, *draws):
            shared[level] = Resampling(Clusters(index, ranking.labels), *draws)
        found = metric_intervals(ranking, shared[level], confidence)
        result |= {f"{level}_{name}": interval for name, interval in found.items()}
    return result


def method_auc_intervals(
    table: ScoreTable,
    *,
    variant: str | None = None,
    clusters: str | np.ndarray = "source",
    aggregation: str = "mean",
    confidence: float = 0.95,
) -> dict[str, dict[str, Interval]]:
    """AUC of each forgery method with its interval: its fakes against all reals of the same test set.

    Args:
        others: As `table_intervals`.

    Returns:
        By method, in alphabetical order: "frame_auc", unless the table is of clips, and "video_auc".
    """
    of_video = table_clusters(table, clusters) if isinstance(clusters, str) else np.asarray(clusters)
    ranked, count = RankedTable(table, variant, aggregation), len(table.videos)
    real_videos, result = table.video_index[table.label == 0], {}
    for method in sorted(set(table.video_method[table.video_label == 1].tolist())):
        own = (table.video_label == 1) & (table.video_method == method)
        kept = own | (table.video_label == 0)
        found = Clusters(of_video[kept], table.video_label[kept].astype(np.int64))
        result[method] = {}
        if "frame" in ranked.levels:
            frames = np.flatnonzero(own[table.video_index])
            auc, fake, real = ranked.rows.components_of(frames)
            by_video = np.bincount(table.video_index[frames], fake, count), np.bincount(real_videos, real, count)
            sums = (found.sums(part[kept]) for part in by_video)
            result[method]["frame_auc"] = _interval_of_auc(auc, *sums, found, confidence)
        auc, fake, real = ranked.video.components_of(np.flatnonzero(own))
        by_video = np.zeros((2, count))
        by_video[0, own], by_video[1, table.video_label == 0] = fake, real
        sums = (found.sums(part[kept]) for part in by_video)
        result[method]["video_auc"] = _interval_of_auc(auc, *sums, found, confidence)
    return result


def auc_interval(
    labels: np.ndarray, scores: np.ndarray, clusters: np.ndarray | None = None, confidence: float = 0.95
) -> Interval:
    """AUC with its interval: Obuchowski's clustered one, or DeLong's where each score is its own cluster.

    Args:
        labels: 0 real, 1 fake, [N].
        scores: P(fake), [N].
        clusters: Which scores are not independent of each other, numbers from 0, [N]; all are if not given.
        confidence: Share of such intervals that hold the true AUC.

    Returns:
        Undefined without both classes; without limits where a class has only one cluster.

    Raises:
        ValueError: Lengths differ, or a score is not finite.
    """
    ranking = Ranking(labels, scores)
    return _auc_interval(ranking, Clusters(clusters, ranking.labels), confidence)


def _auc_interval(ranking: Ranking, clusters: Clusters, confidence: float) -> Interval:
    if not ranking.defined:
        return UNDEFINED
    return _interval_of_auc(*cluster_components(ranking, clusters), clusters, confidence)


def _interval_of_auc(auc: float, fake: np.ndarray, real: np.ndarray, clusters: Clusters, confidence: float) -> Interval:
    if clusters.fewest < 2:
        return Interval(auc, None, None)
    variance = auc_covariance(fake[None], real[None], clusters).item()
    free = degrees_of_freedom(fake + real, clusters)
    return logit_interval(auc, math.sqrt(max(variance, 0)), free, clusters.fewest, confidence)


def logit_interval(
    value: float, se: float, df: float, fewest: int, confidence: float = 0.95, cost: float = 0.5
) -> Interval:
    """value +- t se, on the logit scale, so that it stays within (0, 1) and is longer on the side of 0.5.

    Two things are done near 0 and 1. There the logit scale stretches a standard error that two or three clusters made
    over half of all values. So on the side of 0.5 the limit is at most the exact one of Korn & Graubard ("Confidence
    intervals for proportions with small expected number of positive counts", Survey Methodology 24, 1998): that of
    a share of as many independent trials as would have this standard error.

    And few errors do not show what an unseen one would do. The limit on the side of 0.5 is at least cost times
    `unseen_share` away from 0 or 1, as it is where nothing ever went wrong. So no further error makes it closer.

    In between, a standard error of 0 comes of few clusters that happen to agree: the limits are then undefined.

    Args:
        value: The estimate, in [0, 1].
        se: Its standard error.
        df: Degrees of freedom of the t quantile.
        fewest: Clusters of the class that has fewer, see `Clusters.fewest`.
        confidence: Share of such intervals that hold the true value.
        cost: What a share of failing videos costs this metric, for each unit of the share, see `failure_cost`.
    """
    from scipy.special import expit, logit, stdtrit

    if value < 0.5:
        other = logit_interval(1 - value, se, df, fewest, confidence, cost)
        limits = (None, None) if other.low is None else (1 - other.high, 1 - other.low)
        return Interval(value, *limits, other.se, df)
    bound = max(1 - cost * unseen_share(fewest, confidence), 0.0)
    if 1 - value < 1e-12:
        return Interval(value, bound, 1.0, 0.0, df)
    if se < NO_ERROR:
        return Interval(value, None, None, se, df)
    half = stdtrit(df, (1 + confidence) / 2) * se / (value * (1 - value))
    low, high = float(expit(logit(value) - half)), float(expit(logit(value) + half))
    exact = _exact_lower_limit(value, se, max(fewest - 1, 1), confidence)
    return Interval(value, min(max(low, exact), bound), high, se, df)


def unseen_share(fewest: int, confidence: float = 0.95) -> float:
    """The largest share of failing clusters of which n clusters show none: (1 - p)^n is alpha/2.

    >>> round(unseen_share(50), 3)
    0.071
    """
    return 1 - ((1 - confidence) / 2) ** (1 / fewest)


def failure_cost(name: str, fakes: float = 0.5) -> float:
    """What a metric loses, for each unit of the share of one class that fails, where all else is perfect.

    A video that fails is taken to score as the other class does. Half of its pairs are then misordered: for the AUC
    the cost is 1/2. (At 1, its limit is near Newcombe's score limit, Statistics in Medicine 25, 2006.)

    Args:
        name: Of `point_metrics`.
        fakes: Share of fakes, in (0, 1); the AUC, the EER and balanced accuracy do not depend on it.
    """
    if name == "eer":
        return 1.0
    if name in ("acc", "brier"):
        return max(fakes, 1 - fakes)
    if name == "ap":
        return max(0.5, (1 - fakes) / fakes)
    least = PARTIAL_MAX_FPR**2 / 2
    return 0.25 / (PARTIAL_MAX_FPR - least) if name == "partial_auc" else 0.5


def _exact_lower_limit(value: float, se: float, df: float, confidence: float) -> float:
    """Clopper and Pearson's limit of a share of as many trials as have this standard error; t as in a survey's design.

    Args:
        value: The share, in (0, 1).
        se: Its standard error, above 0.
        df: Degrees of freedom of the design.
        confidence: Of both limits.
    """
    from scipy.special import betaincinv, ndtri, stdtrit

    tail = (1 - confidence) / 2
    trials = value * (1 - value) / se**2 * (ndtri(tail) / stdtrit(df, tail)) ** 2
    return float(betaincinv(value * trials, (1 - value) * trials + 1, tail))


def auc_covariance(fake_sums: np.ndarray, real_sums: np.ndarray, clusters: Clusters) -> np.ndarray:
    """Covariance of the AUCs of D detectors on the same frames (Obuchowski 1997, equations 3 and 5).

    In two ways: V_recorded + V_seen - V_both (Cameron, Gelbach & Miller, "Robust inference with multiway clustering",
    JBES 29, 2011, equation 2.7). What the second way adds is estimated with noise; its negative eigenvalues count as 0,
    as in their section 2.3, so that two ways are never surer than the first alone.

    Args:
        fake_sums: Structural components of the fakes (`Ranking.auc_components`) summed over each cluster, [D, K].
        real_sums: Those of the reals, [D, K].
        clusters: The clusters; each class in at least two of them.

    Returns:
        [D, D]
    """
    if clusters.ways:
        parts = [
            auc_covariance(_gathered(fake_sums, cell, way), _gathered(real_sums, cell, way), way)
            for way, cell in clusters.ways
        ]
        return parts[0] + positive_part(parts[1] - auc_covariance(fake_sums, real_sums, clusters.cells()))
    fake, real, both = (n / (n - 1) for n in (clusters.fake.sum(), clusters.real.sum(), clusters.count))
    mixed = fake_sums @ real_sums.T
    return fake * fake_sums @ fake_sums.T + real * real_sums @ real_sums.T + both * (mixed + mixed.T)


def _gathered(sums: np.ndarray, cell: np.ndarray, way: Clusters) -> np.ndarray:
    """Sums over cells, [..., K], gathered into the clusters of one way."""
    rows = np.atleast_2d(sums)
    found = np.stack([np.bincount(cell, row, way.count) for row in rows])
    return found if sums.ndim == 2 else found[0]


def degrees_of_freedom(errors: np.ndarray, clusters: Clusters) -> float:
    """Satterthwaite's degrees of freedom of a sum of squared cluster errors, from how unequal these are.

    Near perfect separation a handful of clusters carries all the error; the normal quantile is then too short. About
    K for normal errors.

    Args:
        errors: What each cluster adds to the error of the estimate, [K].
    """
    if clusters.ways:
        return min(degrees_of_freedom(_gathered(errors, cell, way), way) for way, cell in clusters.ways)
    squares = errors**2
    spread = sum(np.sum((q - q.mean()) ** 2) for s in range(3) if len(q := squares[clusters.strata == s]))
    free = 2 * squares.sum() ** 2 / spread if spread > 0 else math.inf
    return float(np.clip(free, 1, clusters.fewest - 1))


def cluster_components(ranking: Ranking, clusters: Clusters) -> tuple[float, np.ndarray, np.ndarray]:
    """AUC, and its structural components summed over each cluster: of the fakes [K], of the reals [K]."""
    auc, components = ranking.auc_components()
    fake = clusters.sums(components * ranking.labels)
    return auc, fake, clusters.sums(components) - fake


DESIGN_COUNT = 10  # reals beyond a threshold from which their clustering can be measured


def tpr_intervals(
    ranking: Ranking, clusters: Clusters, rates: Sequence[float], confidence: float = 0.95
) -> list[Interval]:
    """Best true positive rate of a threshold with at most each of some false positive rates, with its interval.

    Two things are uncertain: where the threshold lies (all thresholds whose false positive rate may be `fpr`: a
    Jeffreys limit with the effective number of frames) and the rate there; MOVER joins them. The bootstrap, which
    cannot look beyond the largest real score, covers 85 % where this covers 95. With too few reals for such a rate the
    interval reaches down to 0, and covers more than it promises.

    Args:
        ranking: The scores.
        clusters: Their clusters.
        rates: False positive rates allowed, in (0, 1).
        confidence: Share of such intervals that hold the true value.
    """
    from scipy.special import betainc, betaincinv, ndtri, stdtrit

    if not ranking.defined:
        return [UNDEFINED] * len(rates)
    tail = (1 - confidence) / 2
    fakes, reals = ranking.fakes.sum(), ranking.reals.sum()
    tpr, beyond = np.cumsum(ranking.fakes) / fakes, np.cumsum(ranking.reals)
    # The threshold is not to be looked for further in than this.
    depth = min(int(np.searchsorted(beyond, max(20 * max(rates) * reals, 10 * DESIGN_COUNT))) + 1, len(beyond))
    beyond, effect = beyond[:depth], _design_effects(ranking, clusters, depth)
    settled = int(np.searchsorted(beyond, DESIGN_COUNT))

    result = []
    for rate in rates:
        at = int(np.searchsorted(beyond / reals, rate, side="right")) - 1
        value = float(tpr[at]) if at >= 0 else 0.0
        if clusters.fewest < 2:
            result.append(Interval(value, None, None))
            continue
        free = degrees_of_freedom(_errors_at(ranking, clusters, max(at, settled))[1], clusters)
        # As Korn and Graubard: fewer frames, where their effective number is itself little known.
        effective = reals / effect * (ndtri(tail) / stdtrit(free, tail)) ** 2
        seen = beyond / reals * effective
        chance = betainc(seen + 0.5, effective - seen + 0.5, rate)  # that the false positive rate is below `rate`
        possible = np.flatnonzero((chance >= tail) & (chance <= 1 - tail))
        unseen = betainc(0.5, effective[0] + 0.5, rate) <= 1 - tail  # it may lie above all reals seen
        strictest = 0.0 if unseen else tpr[possible[0]] if len(possible) else value
        mildest = tpr[possible[-1]] if len(possible) else value

        by_fake, by_real = _errors_at(ranking, clusters, at)
        trials = _effective_trials(value, by_fake, clusters)
        low, high = betaincinv(value * trials + 0.5, (1 - value) * trials + 0.5, (tail, 1 - tail))
        norm = math.sqrt((by_fake @ by_fake) * (by_real @ by_real))
        together = float(by_fake @ by_real) / norm if norm else 0.0  # a cluster that holds both moves both
        down = _joined(max(value - strictest, 0), max(value - low, 0), together)
        up = _joined(max(mildest - value, 0), max(high - value, 0), together)
        if down + up < NO_ERROR:  # both errors cancel
            result.append(Interval(value, None, None))
            continue
        result.append(Interval(value, max(value - down, 0.0), min(value + up, 1.0)))
    return result


def _joined(shift: float, own: float, correlation: float) -> float:
    """MOVER's distance, of the threshold's shift and the rate's own error, which cancel in part if correlated."""
    return math.sqrt(max(shift**2 + own**2 - 2 * correlation * shift * own, 0))


def _effective_trials(share: float, errors: np.ndarray, clusters: Clusters) -> float:
    """How many independent fakes would make the share of fakes found as uncertain as its clusters make it."""
    variance = errors @ errors * clusters.fake.sum() / (clusters.fake.sum() - 1)
    if share in (0, 1) or variance < NO_ERROR**2:
        return float(clusters.fake.sum())
    return min(share * (1 - share) / variance, float(np.count_nonzero(clusters.labels)))


def _errors_at(ranking: Ranking, clusters: Clusters, at: int) -> tuple[np.ndarray, np.ndarray]:
    """What each cluster adds to the error of the true and of the false positive rate at level `at`, [K] and [K]."""
    beyond = ranking.level <= at
    result = []
    for members in (ranking.labels == 1, ranking.labels == 0):
        share = beyond[members].mean()
        result.append(clusters.sums((beyond - share) * members) / members.sum())
    return result[0], result[1]


def _design_effects(ranking: Ranking, clusters: Clusters, depth: int) -> np.ndarray:
    """How many times larger clustering makes the variance of the false positive rate, at the first `depth` levels.

    Too few reals lie beyond the first to tell: those have the value of the level with `DESIGN_COUNT` reals beyond.
    """
    order = ranking.order[ranking.labels[ranking.order] == 0]
    level = ranking.level[order]
    order = order[: np.searchsorted(level, depth)]
    level, member = level[: len(order)], clusters.index[order]
    sizes = clusters.sums(ranking.labels == 0)
    reals, real_clusters = sizes.sum(), np.count_nonzero(sizes)
    # With c frames of a cluster beyond the threshold, of n: its squared error (c - n p)^2 summed over clusters, each
    # sum growing by one frame at a time.
    together = np.argsort(member, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(member, minlength=clusters.count))[:-1]])
    earlier = np.empty(len(member))
    earlier[together] = np.arange(len(member)) - first[member[together]]
    squares = np.cumsum(np.bincount(level, 2 * earlier + 1, depth))
    products = np.cumsum(np.bincount(level, sizes[member], depth))
    share = np.cumsum(np.bincount(level, minlength=depth)) / reals
    errors = squares - 2 * share * products + share**2 * (sizes @ sizes)
    variance = errors / reals**2 * real_clusters / max(real_clusters - 1, 1)
    independent = share * (1 - share) / reals
    effect = np.divide(variance, independent, out=np.ones(depth), where=independent > 0)
    settled = min(int(np.searchsorted(share * reals, DESIGN_COUNT)), depth - 1)
    effect[:settled] = effect[settled]
    return np.clip(effect, 1, sizes @ sizes / reals)
