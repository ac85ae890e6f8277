"""Influences: the closed form against a changed weight, the bootstrap and simulation."""

import numpy as np
import pytest

from resproto_fd.training.measures.clusters import Clusters
from resproto_fd.training.measures.influence import INFLUENCES, influences
from resproto_fd.training.measures.intervals import auc_covariance
from resproto_fd.training.measures.resampling import Resampling, bootstrap
from resproto_fd.training.measures.roc import Ranking, curve_metrics, point_metrics


def clustered(videos, shift, seed, ties=False):
    """Labels, scores and the video of each frame; half of a score's variance is the video's."""
    rng = np.random.default_rng(seed)
    video = np.repeat(np.arange(videos), rng.integers(5, 20, videos))
    labels = (np.arange(videos) % 3 > 0).astype(np.int64)[video]
    latent = shift * labels + rng.standard_normal(videos)[video] + rng.standard_normal(len(video)) - shift / 3
    scores = 1 / (1 + np.exp(-latent))
    return labels, np.round(scores, 2) if ties else scores, video


def closed_error(ranking, name, clusters):
    fake, real = influences(ranking, name).summed(clusters)
    return float(auc_covariance(fake[None], real[None], clusters).item()) ** 0.5


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("name", INFLUENCES)
def test_the_value_is_that_of_the_metric_and_parts_sum_to_0_in_each_class(name, ties):
    labels, scores, _ = clustered(40, 1.5, 1, ties)
    ranking = Ranking(labels, scores)
    found = influences(ranking, name)
    assert found.value == pytest.approx(point_metrics(ranking)[name], abs=1e-12)
    for label in (0, 1):
        assert abs(found.parts[labels == label].sum()) < 1e-12


@pytest.mark.parametrize("name", ["auc", "ap"])
@pytest.mark.parametrize("label", [0, 1])
def test_a_part_is_what_more_weight_on_its_frame_does_to_the_metric(name, label):
    """The class keeps its total weight, so that the share of fakes is as before."""
    labels, scores, _ = clustered(60, 1.5, 2, ties=True)
    ranking, step = Ranking(labels, scores), 1e-6
    found = influences(ranking, name)
    for at in np.flatnonzero(labels == label)[::40]:
        weights = [ranking.reals.astype(float), ranking.fakes.astype(float)]
        total = weights[label].sum()
        weights[label][ranking.level[at]] += step * total
        weights[label] /= 1 + step
        moved = curve_metrics(weights[1], weights[0])[name] - found.value
        assert moved / step == pytest.approx(found.parts[at] * total, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("shift", [0.5, 2.0, 3.5])
def test_the_closed_error_is_that_of_the_bootstrap(shift):
    labels, scores, video = clustered(240, shift, 3)
    ranking, clusters = Ranking(labels, scores), Clusters(video, labels)
    drawn = bootstrap(ranking, Resampling(clusters, 500, 0))
    for name in INFLUENCES:
        assert closed_error(ranking, name, clusters) == pytest.approx(drawn.standard_error(name), rel=0.15), name


@pytest.mark.parametrize("name", ["ap", "eer"])
def test_the_closed_error_is_the_spread_over_new_test_sets(name):
    """150 test sets: a standard deviation of them is sure to 6 %."""
    values, errors = [], []
    for seed in range(150):
        labels, scores, video = clustered(120, 2.0, 100 + seed)
        ranking = Ranking(labels, scores)
        values.append(influences(ranking, name).value)
        errors.append(closed_error(ranking, name, Clusters(video, labels)))
    assert np.mean(errors) == pytest.approx(np.std(values, ddof=1), rel=0.18)


def test_perfect_and_constant_scores_have_no_spread_to_tell():
    labels = np.repeat([0, 1], 30)
    for scores in (labels * 0.8 + 0.1, np.full(60, 0.5)):
        for name in INFLUENCES:
            assert np.abs(influences(Ranking(labels, scores), name).parts).max() < 0.04
    for name in INFLUENCES:
        assert np.abs(influences(Ranking(labels, labels * 0.8 + 0.1), name).parts).max() < 1e-12
