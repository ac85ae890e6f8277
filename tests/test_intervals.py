"""Confidence intervals: oracles written as plainly as possible, scikit-learn, and simulated coverage."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from sklearn import metrics as sk

from resproto_fd.configs.errors import UserError
from resproto_fd.training.measures.clusters import Clusters, source_clusters
from resproto_fd.training.measures.comparisons import compare_aucs
from resproto_fd.training.measures.intervals import (
    _design_effects,
    auc_covariance,
    auc_interval,
    cluster_components,
    degrees_of_freedom,
    failure_cost,
    logit_interval,
    method_auc_intervals,
    metric_intervals,
    table_intervals,
    tpr_intervals,
)
from resproto_fd.training.measures.metrics import binary_metrics
from resproto_fd.training.measures.resampling import Draws, Resampling, bootstrap
from resproto_fd.training.measures.roc import Ranking, curve_metrics, point_metrics
from resproto_fd.training.measures.videos import aggregate_videos
from resproto_fd.training.scores import ScoreTable


def all_intervals(labels, scores, clusters=None, replicates=1000, seed=0):
    ranking = Ranking(labels, scores)
    return metric_intervals(ranking, Resampling(Clusters(clusters, ranking.labels), replicates, seed))


def tpr_interval(labels, scores, fpr, clusters=None):
    ranking = Ranking(labels, scores)
    return tpr_intervals(ranking, Clusters(clusters, ranking.labels), [fpr])[0]


def tied(rng, n=400, values=40, clusters=30):
    """Labels, scores with many ties that tell something, and clusters of both classes."""
    labels = rng.integers(0, 2, n)
    scores = np.round((labels * 0.3 + rng.random(n) * 0.7) * values) / values
    return labels, scores, rng.integers(0, clusters, n)


def clustered(rng, videos, auc_shift=1.8, frames=10):
    """Frames that share half of their variance with the others of their video."""
    video = np.repeat(np.arange(videos), frames)
    labels = (video % 2).astype(int)
    latent = auc_shift * labels + (rng.standard_normal(videos)[video] + rng.standard_normal(len(video))) / math.sqrt(2)
    return labels, 1 / (1 + np.exp(-latent)), video


def kernel_auc(labels, scores):
    fake, real = scores[labels == 1], scores[labels == 0]
    return ((fake[:, None] > real).sum() + (fake[:, None] == real).sum() / 2) / (len(fake) * len(real))


# ------------------------------------------------------------------------------------------------------- the metrics


@pytest.mark.parametrize("seed", range(5))
def test_point_metrics_agree_with_scikit_learn_to_1e_12_on_data_with_ties(seed):
    rng = np.random.default_rng(seed)
    labels, scores, _ = tied(rng, n=int(rng.integers(50, 3000)), values=int(rng.integers(5, 200)))
    found = point_metrics(Ranking(labels, scores))
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    wanted = {
        "auc": sk.roc_auc_score(labels, scores),
        "ap": sk.average_precision_score(labels, scores),
        "partial_auc": sk.roc_auc_score(labels, scores, max_fpr=0.1),
        "tpr_at_fpr_1_in_100": tpr[fpr <= 0.01].max(),
        "tpr_at_fpr_1_in_1000": tpr[fpr <= 0.001].max(),
        "acc": sk.accuracy_score(labels, scores > 0.5),
        "balanced_acc": sk.balanced_accuracy_score(labels, scores > 0.5),
        "brier": sk.brier_score_loss(labels, scores),
    }
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


def test_point_metrics_are_those_of_the_metrics_module():
    labels, scores, _ = tied(np.random.default_rng(1))
    found = point_metrics(Ranking(labels, scores))
    for name, value in binary_metrics(labels, scores).items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


def test_calibration_error_agrees_with_a_loop_over_the_bins():
    labels, scores, _ = tied(np.random.default_rng(2), values=33)
    error = 0.0
    for b in range(15):
        inside = (scores > b / 15) & (scores <= (b + 1) / 15) if b else scores <= 1 / 15
        if inside.any():
            error += inside.sum() * abs(scores[inside].mean() - labels[inside].mean())
    assert point_metrics(Ranking(labels, scores))["ece"] == pytest.approx(error / len(labels), abs=1e-12)


def test_a_false_positive_rate_reached_exactly_is_allowed():
    labels, scores = np.repeat([0, 1], [100, 4]), np.concatenate([np.linspace(0, 0.5, 99), [0.9, 0.8, 0.95, 0.6, 0.1]])
    assert point_metrics(Ranking(labels, scores))["tpr_at_fpr_1_in_100"] == 0.75  # above the second highest real
    assert point_metrics(Ranking(labels, scores))["tpr_at_fpr_1_in_1000"] == 0.25


def test_the_coarse_grid_is_fine_where_small_false_positive_rates_are_read():
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 100_000)
    ranking = Ranking(labels, rng.random(100_000))
    level = ranking.coarse(2048)
    assert level.max() < 2048 * 1.1
    top = np.sort(level[labels == 0])[:1000]  # the reals taken for the most fake, 2 % of them
    assert len(np.unique(top)) > 100 and len(np.unique(top[:10])) == 10
    order = np.argsort(-ranking.scores)
    assert (np.diff(level[order]) >= 0).all()


def test_weighted_curves_are_those_of_repeated_frames():
    rng = np.random.default_rng(3)
    labels, scores, _ = tied(rng, n=200)
    weights = rng.integers(0, 4, (5, 200))
    levels, place = np.unique(-scores, return_inverse=True)
    fakes, reals = (
        np.stack([np.bincount(place, w * (labels == c), len(levels)) for w in weights]) for c in (1, 0)
    )  # fmt: skip
    together = curve_metrics(fakes, reals)
    for row, w in enumerate(weights):
        alone = point_metrics(Ranking(np.repeat(labels, w), np.repeat(scores, w)))
        for name, values in together.items():
            assert values[row] == pytest.approx(alone[name], abs=1e-12), name


def test_a_class_that_is_absent_leaves_only_what_is_defined():
    found = all_intervals(np.ones(4, int), np.array([0.1, 0.2, 0.7, 0.9]))
    assert found["auc"].value is None and found["eer"].low is None
    assert found["acc"].value == 0.5 and found["acc"].low is None


@pytest.mark.parametrize(
    "labels, scores",
    [([0, 1], [0.1]), ([0, 2], [0.1, 0.2]), ([0, 1], [0.1, math.nan]), ([[0, 1]], [[0.1, 0.2]])],
    ids=["lengths", "label", "nan", "shape"],
)
def test_bad_columns_are_refused(labels, scores):
    with pytest.raises(ValueError):
        auc_interval(np.array(labels), np.array(scores))


# ------------------------------------------------------------------------------------------------ the closed variance


def obuchowski_loops(labels, scores, clusters):
    """Obuchowski (1997) as printed: structural components from all pairs, sums over clusters, in plain loops."""
    fakes, reals = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    order = lambda i, j: 1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0  # noqa: E731
    v10 = {i: np.mean([order(i, j) for j in reals]) for i in fakes}
    v01 = {j: np.mean([order(i, j) for i in fakes]) for j in reals}
    auc = np.mean(list(v10.values()))
    groups = np.unique(clusters)
    a = [sum(v10[i] - auc for i in fakes if clusters[i] == g) for g in groups]
    b = [sum(v01[j] - auc for j in reals if clusters[j] == g) for g in groups]
    m, n, total = len(fakes), len(reals), len(groups)
    with_fake, with_real = len(set(clusters[fakes])), len(set(clusters[reals]))
    s10 = with_fake / ((with_fake - 1) * m) * sum(x * x for x in a)
    s01 = with_real / ((with_real - 1) * n) * sum(x * x for x in b)
    s11 = total / (total - 1) * sum(x * y for x, y in zip(a, b))
    return auc, s10 / m + s01 / n + 2 * s11 / (m * n)


@pytest.mark.parametrize("seed", range(4))
def test_the_clustered_variance_is_obuchowskis_formula_in_loops(seed):
    rng = np.random.default_rng(seed)
    labels, scores, clusters = tied(rng, n=120, values=15, clusters=20)
    clusters[labels == 1] += rng.integers(0, 8, (labels == 1).sum())  # some clusters hold one class only
    auc, variance = obuchowski_loops(labels, scores, clusters)
    found = auc_interval(labels, scores, np.unique(clusters, return_inverse=True)[1])
    assert found.value == pytest.approx(auc, abs=1e-12)
    assert found.se**2 == pytest.approx(variance, rel=1e-10)


def test_with_one_frame_a_cluster_the_variance_is_delongs():
    labels, scores, _ = tied(np.random.default_rng(5), n=150)
    fake, real = scores[labels == 1], scores[labels == 0]
    kernel = (fake[:, None] > real) + (fake[:, None] == real) / 2
    variance = kernel.mean(1).var(ddof=1) / len(fake) + kernel.mean(0).var(ddof=1) / len(real)
    assert auc_interval(labels, scores).se ** 2 == pytest.approx(variance, rel=1e-12)


@pytest.mark.slow
def test_the_cluster_bootstrap_confirms_the_closed_variance():
    labels, scores, video = clustered(np.random.default_rng(6), 150)
    for clusters in (video, video // 2):  # of one class each, and of both
        drawn = bootstrap(Ranking(labels, scores), Resampling(Clusters(clusters, labels), 2000))
        closed = auc_interval(labels, scores, clusters)
        assert drawn.standard_error("auc") == pytest.approx(closed.se, rel=0.08)


def test_degrees_of_freedom_are_the_clusters_that_carry_the_error():
    rng = np.random.default_rng(27)
    clusters = Clusters(None, np.arange(8000) % 2)
    assert degrees_of_freedom(rng.standard_normal(8000), clusters) > 3500
    few = np.where(rng.random(8000) < 0.01, 1.0, 0.01) * rng.standard_normal(8000)
    assert 20 < degrees_of_freedom(few, clusters) < 100
    assert degrees_of_freedom(np.zeros(8000), clusters) == 3999


def test_degrees_of_freedom_read_off_replicates_are_near_those_of_the_closed_form():
    labels, scores, video = clustered(np.random.default_rng(28), 400, auc_shift=3.0)
    clusters = Clusters(video, labels)
    _, fake, real = cluster_components(Ranking(labels, scores), clusters)
    closed = degrees_of_freedom(fake + real, clusters)
    drawn = bootstrap(Ranking(labels, scores), Resampling(clusters)).degrees_of_freedom("auc")
    assert closed < 100 and drawn == pytest.approx(closed, rel=0.3)


def test_the_bias_of_a_calibration_error_is_taken_off_its_lower_limit_only():
    """Calibrated scores, and scores that are too high by .2: noise explains the first error, and not the second."""
    rng = np.random.default_rng(31)
    chance = np.repeat(rng.random(200), 5)  # five frames a cluster
    labels = (rng.random(1000) < chance).astype(np.int64)
    clusters = np.repeat(np.arange(200), 5)
    calibrated, high = (all_intervals(labels, s, clusters)["ece"] for s in (chance, 0.2 + 0.8 * chance))
    assert calibrated.low == 0 < calibrated.value < calibrated.high
    assert 0.03 < high.low < 0.1 < high.value < high.high
    half = high.high - high.value
    assert high.value - high.low >= half - 1e-9


def test_repeating_every_frame_changes_the_naive_interval_but_not_the_clustered_one():
    labels, scores, video = clustered(np.random.default_rng(7), 60)
    once, thrice = (auc_interval(np.tile(labels, k), np.tile(scores, k), np.tile(video, k)) for k in (1, 3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), abs=1e-9)
    assert auc_interval(np.tile(labels, 3), np.tile(scores, 3)).se < 0.7 * auc_interval(labels, scores).se


def test_order_and_numbering_of_clusters_do_not_matter():
    rng = np.random.default_rng(8)
    labels, scores, video = clustered(rng, 40)
    order, names = rng.permutation(len(labels)), rng.permutation(100)[:40]  # with gaps
    first, second = auc_interval(labels, scores, video), auc_interval(labels[order], scores[order], names[video][order])
    assert second == pytest.approx(first, rel=1e-9)


def test_perfect_separation_has_the_limit_of_a_failure_never_seen():
    labels, share = np.repeat([0, 1], 40), 1 - 0.025 ** (1 / 20)
    costs = {"auc": 0.5, "ap": 1.0, "balanced_acc": 0.5, "acc": 0.5, "partial_auc": 0.25 / 0.095}
    for clusters in (np.arange(80) // 2, np.tile(np.arange(20), 4)):  # 20 of each class, and 20 of both
        found = all_intervals(labels, labels * 0.8 + 0.1, clusters, replicates=100)
        for name, cost in costs.items():
            assert found[name].high == 1 and found[name].low == pytest.approx(1 - cost * share, abs=1e-9), name
        assert found["eer"].low == 0 and found["eer"].high == pytest.approx(share)
    assert found["tpr_at_fpr_1_in_100"].low < 0.9


@pytest.mark.parametrize("name", ["auc", "ap", "eer", "acc", "balanced_acc", "partial_auc"])
@pytest.mark.parametrize("fakes", [500, 1500])
def test_the_cost_of_a_failure_is_what_the_metric_loses_if_reals_score_as_fakes(name, fakes):
    """2 % of the reals take the place of fakes; all else is perfect."""
    reals, failing = 2000 - fakes, (2000 - fakes) // 50
    labels = np.repeat([0, 1], [reals, fakes])
    scores = np.concatenate([np.linspace(0.1, 0.4, reals), np.linspace(0.6, 0.9, fakes)])
    scores[:failing] = np.linspace(0.6, 0.9, failing + 2)[1:-1]
    found = point_metrics(Ranking(labels, scores))[name]
    lost = found if name == "eer" else 1 - found
    most = failure_cost(name, fakes / 2000) * 0.02  # of the class that it costs more
    assert lost <= most * 1.02
    if name != "acc" or fakes == 500:
        assert lost == pytest.approx(most, rel=0.12) or name == "ap"


def _with_misordered_pairs(count: int, size: int, one_real: bool) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of `size` frames a class: one real is above `count` fakes, or many reals are above a few."""
    labels, place = np.repeat([0, 1], size), np.arange(2.0 * size)
    if one_real:
        place[size - 1] += count + 0.5
    else:
        real = 0
        while count > 0:
            above = min(count, real + 1)
            place[size - 1 - real] = size - 1 + above + 0.5 - 0.001 * real
            count, real = count - above, real + 1
    return labels, (place + 1) / (2 * size + 2)


@pytest.mark.parametrize("size", [20, 50, 200])
@pytest.mark.parametrize("one_real", [True, False])
def test_limits_of_the_auc_fall_with_each_misordered_pair_and_never_jump(size, one_real):
    found = [auc_interval(*_with_misordered_pairs(count, size, one_real)) for count in range(size)]
    low, high = np.array([each.low for each in found]), np.array([each.high for each in found])
    assert found[0].value == 1 and found[1].value == pytest.approx(1 - 1 / size**2)
    assert low[0] == pytest.approx(1 - (1 - 0.025 ** (1 / size)) / 2)
    assert (np.diff(low) <= 1e-12).all() and (np.diff(high) <= 1e-12).all()
    assert np.abs(np.diff(low)).max() < 0.02 and np.abs(np.diff(high)).max() < 0.02


@pytest.mark.parametrize("metric", ["ap", "eer", "acc", "balanced_acc"])
def test_no_metric_is_surer_with_an_error_than_without_one(metric):
    """From 0 to 6 misordered videos of 50 a class, each with four frames."""
    limits = []
    for wrong in range(7):
        labels, scores = np.repeat([0, 1], 200), np.repeat([0.2, 0.8], 200) + np.tile(np.arange(200) / 2000, 2)
        scores[: 4 * wrong] = 0.85
        interval = all_intervals(labels, scores, np.arange(400) // 4, replicates=300)[metric]
        limits.append(interval.high if metric == "eer" else 1 - interval.low)
    assert (np.diff(limits) >= -1e-9).all() and max(np.diff(limits)) < 0.12, limits


def test_a_small_equal_error_rate_has_a_plausible_interval():
    """One of 40 real videos scores as a fake does; the exact limit of one error in 40 trials is .132."""
    labels, scores = np.repeat([0, 1], 40), np.concatenate([np.linspace(0.05, 0.4, 40), np.linspace(0.6, 0.95, 40)])
    scores[0] = 0.93
    found = all_intervals(labels, scores)["eer"]
    assert 0 < found.low < found.value < 0.05 and found.high < 0.15
    assert logit_interval(0.0071, 0.0072, 2, 70).high < 0.05  # two degrees of freedom stretched it to .21


def test_a_constant_classifier_is_at_chance_without_limits():
    found = all_intervals(np.arange(40) % 2, np.full(40, 0.3), replicates=100)
    assert found["auc"][:3] == (0.5, None, None) and found["eer"].value == 0.5


def test_clusters_that_happen_to_agree_make_no_interval_of_width_0():
    """Two people, each with the same right and wrong answers: no spread is seen, and none is promised."""
    labels, scores = np.tile([0, 0, 0, 1, 1, 1], 2), np.tile([0.1, 0.2, 0.7, 0.3, 0.8, 0.9], 2)
    people = np.repeat([0, 1], 6)
    found = all_intervals(labels, scores, people, replicates=200)
    assert found["auc"].value == pytest.approx(8 / 9) and found["acc"].value == pytest.approx(2 / 3)
    for name in ("auc", "acc", "eer", "ece", "brier"):
        assert found[name].value is not None and found[name][1:3] == (None, None), name
    for name, interval in found.items():
        assert interval.low is None or interval.high - interval.low > 1e-6, name
    assert auc_interval(labels, scores, people)[1:3] == (None, None)


def test_an_error_that_is_only_rounding_is_no_error():
    assert logit_interval(0.3125, 1e-17, 1, 1)[:3] == (0.3125, None, None)
    assert logit_interval(0.3125, 1e-3, 1, 1).low < 0.3125
    # Where nothing ever went wrong there is a limit all the same.
    assert logit_interval(1.0, 0.0, 1, 4).low == pytest.approx(1 - (1 - 0.025**0.25) / 2)


def test_one_cluster_a_class_gives_no_limits():
    found = all_intervals(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.3, 0.9]), np.array([0, 0, 1, 1]))
    assert found["auc"].value == 0.75
    assert all(interval.low is None and interval.high is None for interval in found.values())


def test_the_logit_interval_stays_inside_and_leans_to_the_middle():
    found = logit_interval(0.9, 0.02, 50, 300)
    assert 0 < found.low < 0.9 < found.high < 1
    assert 0.9 - found.low > found.high - 0.9
    assert logit_interval(0.9, 0.02, 20, 300).high > found.high  # fewer degrees of freedom, longer
    assert logit_interval(0.1, 0.02, 50, 300)[1:3] == pytest.approx((1 - found.high, 1 - found.low))


# -------------------------------------------------------------------------------- true positive rate at a fixed rate


def test_design_effects_are_those_of_a_loop_over_thresholds():
    labels, scores, video = clustered(np.random.default_rng(25), 30, frames=7)
    scores = np.round(scores, 2)
    ranking, clusters = Ranking(labels, scores), Clusters(video, labels)
    depth = 60
    found = _design_effects(ranking, clusters, depth)
    thresholds = np.unique(scores)[::-1][:depth]
    real, reals = labels == 0, (labels == 0).sum()
    wanted, counts = [], []
    for threshold in thresholds:
        beyond = real & (scores >= threshold)
        share = max(beyond.sum(), 1) / reals
        errors = [beyond[video == v].sum() - share * real[video == v].sum() for v in range(0, 30, 2)]
        variance = 15 / 14 * np.sum(np.square(errors)) / reals**2
        wanted.append(np.clip(variance / (share * (1 - share) / reals), 1, 7))
        counts.append(beyond.sum())
    settled = int(np.argmax(np.array(counts) >= 10))
    assert settled > 1 and max(wanted[settled:]) > 2
    assert found[settled:] == pytest.approx(wanted[settled:])
    assert found[:settled] == pytest.approx([wanted[settled]] * settled)  # too few to tell


def test_independent_frames_have_the_binomial_limits_of_both_rates():
    """Where the threshold is not in doubt (all fakes above all reals but the top ones), only the own error is left."""
    reals, fakes = np.linspace(0, 0.5, 4000), np.concatenate([np.linspace(0.6, 1, 300), np.full(100, 0.01)])
    labels, scores = np.repeat([0, 1], [4000, 400]), np.concatenate([reals, fakes])
    found = tpr_interval(labels, scores, 0.1)
    low, high = scipy.stats.beta.ppf([0.025, 0.975], 300.5, 100.5)
    assert found.value == 0.75
    assert (found.low, found.high) == pytest.approx((low, high), abs=2e-3)


def test_clusters_that_hold_both_classes_move_both_rates_together():
    """The same scores, each real video in one cluster with a fake that errs as it does: less uncertain than apart."""
    rng = np.random.default_rng(26)
    video = np.repeat(np.arange(200), 10)
    labels = video % 2
    latent = 1.8 * labels + 0.9 * rng.standard_normal(100)[video // 2] + 0.4 * rng.standard_normal(2000)
    scores = 1 / (1 + np.exp(-latent))
    apart, together = (tpr_interval(labels, scores, 0.1, clusters) for clusters in (video, video // 2))
    assert together.high - together.low < 0.85 * (apart.high - apart.low)


# ------------------------------------------------------------------------------------------------------- resampling


def test_replicates_are_those_of_a_loop_over_the_drawn_clusters():
    labels, scores, video = clustered(np.random.default_rng(9), 24)
    scores = np.round(scores, 3)
    resampling = Resampling(Clusters(video, labels), 5, seed=3)
    drawn = bootstrap(Ranking(labels, scores), resampling, levels=10**6)
    weights = next(resampling.batches())[video].astype(int)
    assert (np.bincount(video % 2, weights[:, 0]) == np.bincount(video % 2)).all()  # each class keeps its size
    for replicate in range(5):
        w = weights[:, replicate]
        alone = point_metrics(Ranking(np.repeat(labels, w), np.repeat(scores, w)))
        for name, values in drawn.values.items():
            assert values[replicate] == pytest.approx(alone[name], abs=1e-5), name


def test_the_share_of_fakes_is_the_same_in_every_replicate():
    """Clusters of both classes hold very different shares of fakes, as Celeb-DF's people do."""
    rng = np.random.default_rng(21)
    fakes = rng.integers(1, 30, 40)
    labels = np.concatenate([np.repeat([0, 1], [2, count]) for count in fakes])
    clusters = np.repeat(np.arange(40), fakes + 2)
    resampling = Resampling(Clusters(clusters, labels), 50)
    called_fake = bootstrap(Ranking(labels, np.full(len(labels), 0.9)), resampling)
    assert called_fake.values["acc"] == pytest.approx(np.full(50, labels.mean()), abs=1e-6)
    assert called_fake.values["ap"] == pytest.approx(np.full(50, labels.mean()), abs=1e-6)
    scores = np.clip(0.5 + 0.2 * (labels - 0.5) + 0.2 * rng.normal(size=len(labels)), 0, 1)
    drawn = bootstrap(Ranking(labels, scores), resampling, levels=10**6)
    weights = next(resampling.batches())[clusters, 0].astype(np.float64)
    for label in (0, 1):
        weights[labels == label] *= (labels == label).sum() / weights[labels == label].sum()
    right = (scores > 0.5) == labels
    assert drawn.values["acc"][0] == pytest.approx((weights * right).sum() / weights.sum(), abs=1e-5)
    assert drawn.values["brier"][0] == pytest.approx((weights * (scores - labels) ** 2).sum() / weights.sum(), abs=1e-5)
    expected = sk.average_precision_score(labels, scores, sample_weight=weights)
    assert drawn.values["ap"][0] == pytest.approx(expected, abs=1e-4)


def test_a_coarse_grid_of_scores_hardly_moves_the_replicates():
    labels, scores, video = clustered(np.random.default_rng(10), 300, frames=30)
    resampling = Resampling(Clusters(video, labels), 60)
    exact = bootstrap(Ranking(labels, scores), resampling, levels=10**6)
    coarse = bootstrap(Ranking(labels, scores), resampling)
    for name, values in exact.values.items():
        assert np.abs(coarse.values[name] - values).max() < 0.1 * values.std() + 1e-6, name


def test_the_same_seed_gives_the_same_intervals_and_another_seed_others():
    labels, scores, video = clustered(np.random.default_rng(11), 40)
    first, again, other = (all_intervals(labels, scores, video, replicates=200, seed=s) for s in (0, 0, 1))
    assert first == again
    assert first["eer"] != other["eer"] and first["auc"] == other["auc"]


def test_draws_are_made_once_and_are_those_that_another_object_makes():
    labels, _, video = clustered(np.random.default_rng(12), 30)
    first, second = (Resampling(Clusters(video, labels), 150, seed=5) for _ in range(2))
    drawn = [batch.tolist() for batch in first.batches()]
    assert drawn == [batch.tolist() for batch in first.batches()] == [batch.tolist() for batch in second.batches()]
    assert sum(len(batch[0]) for batch in drawn) == 150


@pytest.mark.slow
def test_random_groups_of_very_many_clusters_tell_the_same_error(monkeypatch):
    labels, scores, video = clustered(np.random.default_rng(23), 3000, frames=2)
    one_by_one = bootstrap(Ranking(labels, scores), Resampling(Clusters(video, labels)))
    monkeypatch.setattr("resproto_fd.training.measures.resampling.MOST_UNITS", 600)
    resampling = Resampling(Clusters(video, labels))
    assert resampling.units.count == 600 and not (resampling.units.strata == 2).any()
    grouped = bootstrap(Ranking(labels, scores), resampling)
    for name in ("auc", "ap", "brier", "balanced_acc"):
        assert grouped.standard_error(name) == pytest.approx(one_by_one.standard_error(name), rel=0.15), name


def test_influences_of_replicates_are_those_of_the_closed_form():
    labels, scores, video = clustered(np.random.default_rng(13), 60)
    clusters = Clusters(video, labels)
    drawn = bootstrap(Ranking(labels, scores), Resampling(clusters, 4000))
    _, fake, real = cluster_components(Ranking(labels, scores), clusters)
    assert np.corrcoef(drawn.influence["auc"], fake + real)[0, 1] > 0.99
    assert auc_covariance(fake[None], real[None], clusters).shape == (1, 1)


# -------------------------------------------------------------------------------------------------------- clusters


def test_names_of_the_known_data_sets_tell_who_was_recorded():
    together = [
        ["F/original_sequences/youtube/c23/953", "F/original_sequences/youtube/c23/974"]
        + [f"F/manipulated_sequences/{m}/c23/{n}" for m in ("Deepfakes", "FaceSwap") for n in ("953_974", "974_953")],
        ["C/Celeb-real/id3_0002", "C/Celeb-synthesis/id3_id9_0002", "C/Celeb-synthesis/id3_id17_0005"],
        ["C/Celeb-real/id9_0001", "C/Celeb-synthesis/id9_id3_0001"],
        ["D/original_sequences/actors/c23/01__exit_phone_room", "D/x/c23/01_02__exit_phone_room__YVGY8LOK"],
        ["U/real/0004", "U/fake/0004_fake"],
        ["C/YouTube-real/00004"],
        ["DFDC/test/aassnaulhq"],
        ["DFDC/test/aayfryxljh"],
    ]
    found = source_clusters([video for group in together for video in group])
    wanted = np.repeat(np.arange(len(together)), [len(group) for group in together])
    assert found[:, 0].tolist() == wanted.tolist()


def test_the_person_whose_face_is_seen_is_the_second_way():
    names = ["C/Celeb-real/id9_0001", "C/Celeb-synthesis/id3_id9_0002", "C/Celeb-synthesis/id5_id9_0000"]
    assert source_clusters(names).tolist() == [[0, 0], [1, 0], [2, 0]]
    dfd = ["D/a/01__walk", "D/b/02_01__walk__X", "D/b/02_03__walk__Y"]
    assert source_clusters(dfd).tolist() == [[0, 0], [1, 0], [1, 1]]
    assert source_clusters(["F/000", "F/000_003"]).ndim == 1


def test_numbers_that_are_no_identities_join_nothing():
    """WildDeepfake numbers its real and its fake clips apart; UADFV and FF++ do not."""
    assert source_clusters(["W/real/100", "W/fake/100", "W/fake/101"]).tolist() == [0, 1, 2]
    assert source_clusters(["X/real/0100", "X/fake/0100"]).tolist() == [0, 1]
    assert source_clusters(["U/real/0100", "U/fake/0100_fake"]).tolist() == [0, 0]


def two_way(rng, people=30, videos=8, lender=1.0):
    """Fakes of random pairs of people, whose faces shift the score of every video that shows them; and reals."""
    recorded = np.concatenate([np.repeat(np.arange(people), 2), np.repeat(np.arange(people), videos)])
    seen = np.concatenate([np.repeat(np.arange(people), 2), rng.integers(0, people, people * videos)])
    labels = (np.arange(len(seen)) >= 2 * people).astype(np.int64)
    face = lender * rng.normal(size=people)
    scores = 1.2 * labels + face[seen] * labels + 0.5 * rng.normal(size=people)[recorded] + rng.normal(size=len(seen))
    return labels, scores, np.stack([recorded, seen], axis=1)


def test_the_two_way_variance_is_the_sum_of_both_ways_less_the_cells():
    labels, scores, index = two_way(np.random.default_rng(23))
    ranking = Ranking(labels, scores)

    def variance(clusters):
        found = Clusters(clusters, labels)
        _, fake, real = cluster_components(ranking, found)
        return auc_covariance(fake[None], real[None], found).item()

    cells = index[:, 0] * 30 + index[:, 1]
    first, second, both = (variance(each) for each in (index[:, 0], index[:, 1], cells))
    assert second > both
    assert variance(index) == pytest.approx(first + second - both)
    assert auc_interval(labels, scores, index).se == pytest.approx(np.sqrt(first + second - both))
    one = auc_interval(labels, scores, index[:, 0])
    assert auc_interval(labels, scores, np.stack([index[:, 0], np.arange(len(labels))], axis=1)).se >= one.se


def test_metrics_of_the_bootstrap_have_both_ways_too():
    labels, scores, index = two_way(np.random.default_rng(25), lender=2.0)
    ranking = Ranking(labels, 1 / (1 + np.exp(-scores)))
    both = metric_intervals(ranking, Resampling(Clusters(index, labels)))
    one = metric_intervals(ranking, Resampling(Clusters(index[:, 0], labels)))
    for name in ("auc", "ap", "eer", "acc", "brier"):
        assert both[name].se > 1.1 * one[name].se, name
        assert both[name].value == one[name].value


@pytest.mark.slow
def test_simulated_faces_lent_to_many_videos_are_held_by_two_ways_and_not_by_one():
    rng, truth = np.random.default_rng(27), []
    for _ in range(300):
        labels, scores, _ = two_way(rng)
        truth.append(Ranking(labels, scores).auc_components()[0])
    auc, held, held_by_one = np.mean(truth), 0, 0
    for _ in range(300):
        labels, scores, index = two_way(rng)
        two, one = auc_interval(labels, scores, index), auc_interval(labels, scores, index[:, 0])
        held += two.low <= auc <= two.high
        held_by_one += one.low <= auc <= one.high
    assert held / 300 > 0.91
    assert held_by_one / 300 < 0.85


def test_real_ff_recordings_are_joined_only_where_a_fake_joins_them():
    assert source_clusters(["F/953", "F/974", "F/012"]).tolist() == [0, 1, 2]
    assert source_clusters([]).tolist() == []


# ------------------------------------------------------------------------------------------------------------ videos


def test_video_aggregations_are_those_of_a_loop():
    rng = np.random.default_rng(14)
    video = np.sort(rng.integers(0, 30, 200))
    video = np.unique(video, return_inverse=True)[1]
    order = rng.permutation(200)
    scores = rng.random(200)
    groups = [scores[video == v] for v in range(video.max() + 1)]
    wanted = {
        "mean": [g.mean() for g in groups],
        "median": [np.median(g) for g in groups],
        "top-3": [np.sort(g)[-3:].mean() for g in groups],
        "top-1": [g.max() for g in groups],
    }
    for how, values in wanted.items():
        found = aggregate_videos(scores[order], video[order], len(groups), how)
        np.testing.assert_allclose(found, values, atol=1e-12, err_msg=how)


@pytest.mark.parametrize("how", ["max", "top-0", "top-", "Mean"])
def test_an_unknown_aggregation_is_named_with_the_choices(how):
    with pytest.raises(UserError, match=rf"'{how}'.*mean, median and top-K"):
        aggregate_videos(np.zeros(2), np.array([0, 1]), 2, how)


def ff_table(rng, scores=None):
    """One real and four manipulations of each of six recordings, 5 frames each, all named by the same pair."""
    pairs = [("000", "003"), ("003", "000"), ("010", "011"), ("011", "010"), ("020", "021"), ("021", "020")]
    methods = ["Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"]
    videos = [(f"FaceForensics++/original_sequences/youtube/c23/{a}", 0, "real") for a, _ in pairs]
    videos += [(f"FaceForensics++/manipulated_sequences/{m}/c23/{a}_{b}", 1, m) for m in methods for a, b in pairs]
    video, label, method = (np.repeat(np.array(column), 5) for column in zip(*videos))
    frame = np.tile(np.arange(5), len(videos))
    scores = np.clip(0.3 * label + rng.random(len(label)) * 0.7, 0, 1) if scores is None else scores
    return ScoreTable("FaceForensics++", video, frame, label, method, scores, variants={"clip": 1 - scores})


def test_the_four_manipulations_of_one_pair_stay_four_videos():
    table = ff_table(np.random.default_rng(15))
    found = table_intervals(table, draws=Draws(100))
    labels, means = table.video_label, table.score.reshape(-1, 5).mean(1)
    assert len(means) == 30
    assert found["video_auc"].value == pytest.approx(kernel_auc(labels, means), abs=1e-6)
    assert found["frame_auc"].value == pytest.approx(kernel_auc(table.label, table.score), abs=1e-12)


def test_clusters_by_source_by_video_and_given_are_used():
    table = ff_table(np.random.default_rng(16))
    by_source, by_video = (
        table_intervals(table, clusters=c, draws=Draws(50))["frame_auc"] for c in ("source", "video")
    )
    given = table_intervals(table, clusters=np.tile([0, 0, 1, 1, 2, 2], 5), draws=Draws(50))["frame_auc"]
    assert given == by_source and by_source != by_video
    assert by_source.df <= 2
    with pytest.raises(UserError, match="'source' and 'video'"):
        table_intervals(table, clusters="person")


def test_variants_and_aggregations_of_a_table_have_their_own_intervals():
    table = ff_table(np.random.default_rng(17))
    main, clip = (table_intervals(table, variant=v, draws=Draws(50)) for v in (None, "clip"))
    assert clip["frame_auc"].value == pytest.approx(1 - main["frame_auc"].value)
    median = table_intervals(table, aggregation="median", draws=Draws(50))
    assert median["frame_auc"] == main["frame_auc"] and median["video_brier"] != main["video_brier"]


def test_each_method_has_its_own_fakes_and_all_reals():
    table = ff_table(np.random.default_rng(24))
    found = method_auc_intervals(table)
    assert list(found) == ["Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"]
    kept = (table.method == "FaceSwap") | (table.label == 0)
    alone = ScoreTable("T", *(c[kept] for c in (table.video, table.frame, table.label, table.method, table.score)))
    wanted = table_intervals(alone, draws=Draws(20))
    for name in ("frame_auc", "video_auc"):
        assert found["FaceSwap"][name] == pytest.approx(wanted[name], abs=1e-12), name


def test_shared_draws_give_what_own_draws_give_and_are_not_used_for_other_frames():
    tables = [ff_table(np.random.default_rng(s)) for s in (18, 19)]
    shared = {}
    for table in tables:
        assert table_intervals(table, draws=Draws(60), shared=shared) == table_intervals(table, draws=Draws(60))
    kept = shared["frame"]
    small = ScoreTable("T", ["a", "b", "c", "d"], [0] * 4, [0, 0, 1, 1], ["real"] * 2 + ["x"] * 2, [0.1, 0.5, 0.4, 0.9])
    assert table_intervals(small, draws=Draws(60), shared=shared) == table_intervals(small, draws=Draws(60))
    assert shared["frame"] is not kept


# ----------------------------------------------------------------------------------------------------------- coverage


@pytest.mark.slow
def test_simulated_intervals_hold_the_truth_and_naive_ones_do_not():
    """400 test sets of 120 videos: 95 % intervals hold between 92 and 98 % (three standard errors), naive ones 60 %."""
    rng = np.random.default_rng(20)
    shift = 1.8
    truth = 0.5 * (1 + math.erf(shift / 2))
    held = naive = 0
    for _ in range(400):
        labels, scores, video = clustered(rng, 120, shift)
        own, wrong = auc_interval(labels, scores, video), auc_interval(labels, scores)
        held += own.low <= truth <= own.high
        naive += wrong.low <= truth <= wrong.high
    assert 0.92 <= held / 400 <= 0.98
    assert naive / 400 < 0.7


@pytest.mark.slow
def test_simulated_true_positive_rates_at_one_percent_are_held():
    rng = np.random.default_rng(21)
    truth = 0.5 * math.erfc((2.3263478740408408 - 1.8) / math.sqrt(2))
    held = 0
    for _ in range(300):
        found = tpr_interval(*(c := clustered(rng, 200, 1.8))[:2], 0.01, c[2])
        held += found.low <= truth <= found.high
    assert 0.91 <= held / 300 <= 0.985


def test_too_few_reals_for_a_false_positive_rate_leave_the_rate_open():
    labels, scores, video = clustered(np.random.default_rng(22), 40)
    assert tpr_interval(labels, scores, 0.001, video).low == 0
    assert tpr_interval(labels, scores, 0.1, video).low > 0.1


def _benchmark():
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "intervals.py"
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # it imports people.py beside it
    spec = importlib.util.spec_from_file_location("statistics_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_people_of_celeb_df_are_counted_as_in_its_list():
    people = _benchmark().design("celeb")
    recorded, seen = people.groups["recorded"], people.groups["seen"]
    fake = people.label == 1
    assert (fake.sum(), (~fake).sum()) == (340, 178)
    assert [len(np.unique(each[fake])) for each in (recorded, seen)] == [52, 52]
    assert [np.bincount(each[fake]).max() for each in (recorded, seen)] == [18, 26]
    assert len(np.unique(np.stack([recorded, seen])[:, fake], axis=1).T) == 245
    assert len(np.unique(recorded[~fake])) == 51 + 70
    assert (recorded[~fake] == seen[~fake]).all()
    clusters = Clusters(people.clusters, people.label)
    assert [way.count for way, _ in clusters.ways] == [124, 126]


@pytest.mark.parametrize("scenario, reals, fakes, clusters", [("ffpp", 140, 560, 70), ("dfdc", 537, 498, 1035)])
def test_the_clusters_of_a_scenario_are_what_its_names_tell(scenario, reals, fakes, clusters):
    people = _benchmark().design(scenario)
    assert ((people.label == 0).sum(), (people.label == 1).sum()) == (reals, fakes)
    assert people.clusters.ndim == 1 and len(np.unique(people.clusters)) == clusters
    if scenario == "ffpp":
        pair = people.groups["recorded"][:, None] == people.groups["recorded"][people.label == 0]
        assert (pair.sum(axis=0) == 5).all()  # the original and its four manipulations


OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in ("celeb_lender", "dfdc")]


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["celeb", pytest.param("ffpp", marks=pytest.mark.slow), *OTHERS])
def test_a_score_has_variance_1_in_both_classes_and_people_share_what_is_documented(scenario):
    """10 000 draws of all effects of a few videos: their variances are sure to .014, their covariances to .01."""
    people, rng = _benchmark().design(scenario), np.random.default_rng(0)
    shares, label, groups = people.shares, people.label, people.groups
    assert sum(shares.values()) == pytest.approx(1)
    fake = np.flatnonzero(label == 1)
    one = next(i for i in fake if groups["recorded"][i] in groups["recorded"][label == 0])
    apart = [
        i
        for i in np.flatnonzero(groups["seen"] == groups["seen"][one])
        if groups["recorded"][i] != groups["recorded"][one]
    ]
    seen = apart[-1]
    recorded = next(i for i in np.flatnonzero(label == 0) if groups["recorded"][i] == groups["recorded"][one])
    video = np.array([one, one, seen, recorded, recorded])
    drawn = np.stack([people.effect(video, rng) for _ in range(10_000)])
    found = np.cov(drawn.T)
    assert np.diag(found) == pytest.approx(1, abs=0.06)
    assert found[[0, 3], [1, 4]] == pytest.approx(1 - shares["frame"], abs=0.05)
    of_lender = shares.get("lender", 0) if label[seen] else 0
    assert found[0, 2] == pytest.approx(shares.get("seen", 0) + of_lender, abs=0.05)
    same = groups["original"][one] == groups["original"][recorded]
    assert found[0, 3] == pytest.approx(shares["recorded"] + same * shares.get("original", 0), abs=0.05)


def test_the_truth_at_a_share_of_fakes_is_that_of_a_large_draw():
    population = _benchmark().Population("celeb", 0.8)
    rng = np.random.default_rng(0)
    labels = (rng.random(400_000) < 0.65).astype(int)
    drawn = point_metrics(Ranking(labels, population.score(population.shift * labels + rng.standard_normal(400_000))))
    for name, value in population.truth_at(0.65).items():
        assert value == pytest.approx(drawn[name], abs=0.003), name


def test_pairs_of_rows_with_one_seed_are_tested_as_in_a_comparison_and_seeds_make_them_less_sure():
    benchmark, rng = _benchmark(), np.random.default_rng(0)
    labels, _, clusters = clustered(rng, 60)
    scores = {name: [labels + rng.standard_normal(len(labels)) * 2 for _ in range(3)] for name in "abc"}
    one = {name: seeds[:1] for name, seeds in scores.items()}
    p = benchmark.pairwise_p(benchmark.SetErrors.of(labels, one, clusters))
    rows = compare_aucs(labels, {name: seeds[0] for name, seeds in one.items()}, clusters).differences
    assert p[np.triu_indices(3, 1)] == pytest.approx([row.p for row in rows])
    alike = {name: [seeds[0]] * 3 for name, seeds in scores.items()}
    apart = {n: [s[0] + shift * labels for shift in (-0.4, 0, 0.4)] for n, s in scores.items()}
    p_alike, p_apart = (benchmark.pairwise_p(benchmark.SetErrors.of(labels, each, clusters)) for each in (alike, apart))
    assert p_alike[np.triu_indices(3, 1)] == pytest.approx([row.p for row in rows])
    assert (p_apart[np.triu_indices(3, 1)] > p_alike[np.triu_indices(3, 1)]).all()


@pytest.mark.slow
def test_marks_are_rare_among_equal_detectors_and_find_a_better_one():
    """40 simulations of 6 detectors: the rate of 5 % is sure to 3.4 points (one standard error)."""
    benchmark = _benchmark()
    equal, better = (benchmark.marks("celeb", 3, 0.01, gap, 40, 1, rows=6) for gap in (0, 0.08))
    assert equal["against the best: best lost"] <= 0.16 and equal["holm of all pairs: any"] <= 0.16
    assert better["against the best: marked"] >= better["holm of all pairs: marked"] > 0.5
    assert better["against the best: best lost"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("scenario, auc", [("video", 0.6), ("source", 0.9), ("video", 0.99)])
def test_simulated_coverage_of_every_interval(scenario, auc):
    """300 simulations of 300 videos: three standard errors about 95 % are 3.8 %. A true positive rate at 1 in 1000
    cannot be known from 150 real videos; its interval may hold the truth more often; so may each near perfection."""
    found = _benchmark().coverage(scenario, 300, auc, simulations=300, seed=1)
    for name, row in found.items():
        if "," not in name:
            assert row["coverage"] >= 0.91, name
            assert row["coverage"] <= (1 if "1000" in name else 0.985 if auc < 0.99 else 0.995), name
    assert found["auc, naive"]["coverage"] < 0.75


@pytest.mark.slow
def test_the_benchmark_runs_and_ends_with_one_line_of_json(capsys, monkeypatch):
    arguments = "--simulations 2 --videos 40 --aucs 0.8 --scenarios source ffpp --frames 2000 --detectors 2 --json-only"
    monkeypatch.setattr("sys.argv", ["intervals.py", *arguments.split()])
    _benchmark().main()
    report = json.loads(capsys.readouterr().out)
    assert set(report) >= {"coverage", "marks", "paired", "seeds", "timing"}
    assert {"source 40 videos AUC 0.8", "ffpp AUC 0.8"} == set(report["coverage"])
    assert report["timing"]["full_table_s"] > 0


def test_people_of_a_side_file_join_videos_whose_names_tell_nothing():
    names = ["DFDC/part0/aaa", "DFDC/part0/bbb", "DFDC/part1/ccc", "DFDC/part1/ddd"]
    original = {"DFDC/part0/bbb": ("DFDC/part0/aaa", ""), "DFDC/part1/ccc": ("DFDC/part0/aaa", "")}
    assert source_clusters(names, original).tolist() == [0, 0, 0, 1]
    assert source_clusters(names[1:], original).tolist() == [0, 0, 1]  # the clip itself is in another split
    person = original | {"DFDC/part0/aaa": ("P1", "P1"), "DFDC/part1/ddd": ("P1", "P1")}
    assert source_clusters(names, person)[:, 0].tolist() == [0, 0, 0, 0]


def test_people_of_a_side_file_are_two_ways_where_the_face_is_known_too():
    names = ["DFDCP/method_A/x_0", "DFDCP/method_A/y_0", "DFDCP/original/z_0"]
    people = {names[0]: ("P1", "P2"), names[1]: ("P3", "P2"), names[2]: ("P1", "P1")}
    assert source_clusters(names, people).tolist() == [[0, 0], [1, 0], [0, 1]]


def test_names_that_tell_their_people_come_before_a_side_file():
    names = ["F/Deepfakes/000_003", "F/Deepfakes/003_000"]
    assert source_clusters(names, {names[0]: ("A", "B"), names[1]: ("C", "D")}).tolist() == [0, 0]


def test_logits_are_no_scores():
    labels = np.arange(20) % 2
    ranking = Ranking(labels, np.linspace(-3, 3, 20))
    resampling = Resampling(Clusters(None, labels), 20)
    with pytest.raises(ValueError, match=r"score -3 at position 0: expected P\(fake\) in \[0, 1\]"):
        metric_intervals(ranking, resampling)
