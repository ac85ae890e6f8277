"""Paired tests, marks of ties with the best, and intervals over seeds."""

import math

import numpy as np
import pytest

from resproto_fd.configs.errors import UserError
from resproto_fd.training.measures.clusters import Clusters
from resproto_fd.training.measures.comparisons import (
    aligned_scores,
    compare_aucs,
    compare_tables,
    correct_together,
    holm,
)
from resproto_fd.training.measures.intervals import auc_covariance, auc_interval, cluster_components, degrees_of_freedom
from resproto_fd.training.measures.roc import Ranking
from resproto_fd.training.measures.seeds import combine_seeds, over_seeds
from resproto_fd.training.scores import ScoreTable


def drawn(rng, videos=60, frames=8, shifts=(1.5, 1.5)):
    """Detectors that err on the same videos: (labels, scores by name, video of each frame)."""
    video = np.repeat(np.arange(videos), frames)
    labels = (video % 2).astype(int)
    common = rng.standard_normal(videos)[video]
    scores = {}
    for number, shift in enumerate(shifts):
        own = rng.standard_normal(videos)[video], rng.standard_normal(len(video))
        latent = shift * labels + math.sqrt(0.35) * common + math.sqrt(0.15) * own[0] + math.sqrt(0.5) * own[1]
        scores[f"detector {number}"] = 1 / (1 + np.exp(-latent))
    return labels, scores, video


def tables_of(labels, scores, video, dataset="T"):
    names = np.array([f"{dataset}/{'fake' if v % 2 else 'real'}/clip {v}" for v in range(video.max() + 1)])
    method = np.where(labels == 1, "swap", "real")
    frame = np.arange(len(video)) % 8
    return {n: ScoreTable(dataset, names[video], frame, labels, method, s, detector=n) for n, s in scores.items()}


# ------------------------------------------------------------------------------------------------------- differences


def test_the_difference_and_its_error_are_those_of_the_paired_clusters():
    """Against the delete-one-cluster jackknife of the difference, which knows nothing of structural components."""
    labels, scores, video = drawn(np.random.default_rng(0), shifts=(1.5, 1.0))
    first, second = scores.values()
    row = compare_aucs(labels, scores, video).differences[0]

    def difference(keep):
        return auc_interval(labels[keep], first[keep]).value - auc_interval(labels[keep], second[keep]).value

    without = np.array([difference(video != v) for v in range(60)])
    variance = sum(29 / 30 * np.sum((g - g.mean()) ** 2) for g in (without[::2], without[1::2]))
    assert row.difference == pytest.approx(difference(video >= 0), abs=1e-12)
    assert ((row.high - row.low) / 2 / 2.0) ** 2 == pytest.approx(variance, rel=0.1)


def test_pairing_finds_a_difference_that_separate_intervals_hide():
    labels, scores, video = drawn(np.random.default_rng(1), shifts=(1.5,))
    first = scores["detector 0"]
    odds = np.log(first / (1 - first)) - labels * 0.3 * np.random.default_rng(2).random(len(labels))
    second = 1 / (1 + np.exp(-odds))  # a little less sure of every fake
    apart = [auc_interval(labels, s, video) for s in (first, second)]
    assert apart[1].high > apart[0].value
    row = compare_aucs(labels, {"first": first, "second": second}, video).differences[0]
    assert row.p < 0.001 and row.low > 0


def test_frames_taken_for_independent_find_differences_that_are_not_there():
    rng = np.random.default_rng(2)
    false = {"clustered": 0, "naive": 0}
    for _ in range(300):
        labels, scores, video = drawn(rng, videos=80)
        for name, clusters in (("clustered", video), ("naive", None)):
            false[name] += compare_aucs(labels, scores, clusters).differences[0].p < 0.05
    assert false["clustered"] / 300 < 0.09
    assert false["naive"] / 300 > 0.12


def test_swapping_the_detectors_turns_the_sign_and_keeps_the_p_value():
    labels, scores, video = drawn(np.random.default_rng(3), shifts=(1.5, 1.3))
    row = compare_aucs(labels, scores, video).differences[0]
    turned = compare_aucs(labels, dict(reversed(scores.items())), video).differences[0]
    assert turned.difference == pytest.approx(-row.difference)
    assert (turned.low, turned.high) == pytest.approx((-row.high, -row.low))
    assert turned.p == pytest.approx(row.p)


def test_equal_scores_do_not_differ_and_a_monotone_change_makes_no_difference():
    labels, scores, video = drawn(np.random.default_rng(4), shifts=(1.5,))
    values = scores["detector 0"]
    found = compare_aucs(labels, {"a": values, "same": values.copy(), "squared": values**2}, video)
    assert [row.p for row in found.differences] == [1.0, 1.0, 1.0]
    assert found.ties_with_best() == ["a", "same", "squared"]


def test_all_right_against_all_wrong_is_as_sure_as_the_clusters_allow():
    labels = np.repeat([0, 1], 6)
    row = compare_aucs(labels, {"right": labels * 1.0, "wrong": 1.0 - labels}).differences[0]
    assert row.difference == 1 and row.p == pytest.approx(2.0**-5)
    assert row.low is None and row.high is None  # no spread is seen, which promises none of width 0


def test_a_difference_that_every_cluster_shows_alike_is_no_surer_than_the_clusters_allow():
    """Its standard error is 0 up to rounding, which must not make a p-value of 0."""
    labels, people = np.tile([0, 0, 0, 1, 1, 1], 3), np.repeat([0, 1, 2], 6)
    better, worse = np.tile([0.1, 0.2, 0.7, 0.3, 0.8, 0.9], 3), np.tile([0.1, 0.7, 0.8, 0.2, 0.3, 0.9], 3)
    row = compare_aucs(labels, {"better": better, "worse": worse}, people).differences[0]
    assert row.difference > 0.2 and row.p == pytest.approx(2.0**-2) and (row.low, row.high) == (None, None)


def test_an_absent_class_or_a_single_cluster_leaves_no_test():
    scores = {"a": np.array([0.1, 0.2, 0.3, 0.4]), "b": np.array([0.4, 0.2, 0.1, 0.3])}
    absent = compare_aucs(np.zeros(4, int), scores)
    assert absent.aucs == {"a": None, "b": None} and absent.differences == [] and absent.best is None
    single = compare_aucs(np.array([0, 0, 1, 1]), scores, np.zeros(4, int))
    assert single.aucs["a"] == 1 and single.differences == [] and single.ties_with_best() == ["a", "b"]


# --------------------------------------------------------------------------------------------------------- the table


def test_holm_is_the_step_down_procedure():
    rng = np.random.default_rng(5)
    p = rng.random(20) ** 3
    adjusted = holm(p)
    for alpha in (0.01, 0.05, 0.2, 0.5):
        rejected = set()
        for step, i in enumerate(np.argsort(p)):
            if p[i] * (20 - step) >= alpha:
                break
            rejected.add(i)
        assert rejected == set(np.flatnonzero(adjusted < alpha))
    assert holm([]).tolist() == [] and holm([0.6, 0.9]).tolist() == [1.0, 1.0]


def test_marks_separate_the_clearly_worse_from_those_that_tie():
    labels, scores, video = drawn(np.random.default_rng(6), videos=200, shifts=(1.5, 1.48, 0.9, 0.2))
    found = compare_aucs(labels, scores, video)
    assert found.best in ("detector 0", "detector 1")
    assert found.ties_with_best() == ["detector 0", "detector 1"]
    assert found.ties_with_best(alpha=0) == list(scores)


@pytest.mark.slow
def test_equally_good_detectors_are_rarely_marked_as_worse_than_the_best():
    """The best was picked by its result: that selection must not make false marks. 5 % at most, 200 tries."""
    rng = np.random.default_rng(7)
    marked = 0
    for _ in range(200):
        labels, scores, video = drawn(rng, videos=60, frames=4, shifts=(1.5,) * 5)
        marked += len(compare_aucs(labels, scores, video).ties_with_best()) < 5
    assert marked / 200 < 0.1


def test_a_table_of_several_test_sets_is_corrected_as_one_family():
    rng = np.random.default_rng(8)
    apart = {name: compare_aucs(*drawn(rng, shifts=(1.5, 1.2, 1.0))) for name in ("A", "B")}
    together = correct_together(apart)
    raw = [row.p for name in apart for row in apart[name].differences]
    found = [row.p_holm for name in apart for row in together[name].differences]
    assert found == pytest.approx(holm(raw).tolist())
    assert all(t.p_holm >= a.p_holm for n in apart for t, a in zip(together[n].differences, apart[n].differences))
    assert [row.second for row in together["B"].differences] == [row.second for row in apart["B"].differences]


def test_tables_are_compared_by_frame_and_by_video():
    labels, scores, video = drawn(np.random.default_rng(9), shifts=(1.5, 1.0))
    tables = tables_of(labels, scores, video)
    by_frame, by_video = (compare_tables(tables, level=level) for level in ("frame", "video"))
    assert by_frame == compare_aucs(labels, {n: t.score for n, t in tables.items()}, video)
    means = {name: table.score.reshape(-1, 8).astype(float).mean(1) for name, table in tables.items()}
    assert by_video.aucs == pytest.approx(compare_aucs(labels[::8], means).aucs, abs=1e-9)
    with pytest.raises(UserError, match="'frame' and 'video'"):
        compare_tables(tables, level="clip")


def test_frames_in_another_order_are_put_into_the_same():
    labels, scores, video = drawn(np.random.default_rng(10), shifts=(1.5, 1.0))
    tables = tables_of(labels, scores, video)
    name, table = "detector 1", tables["detector 1"]
    order = np.random.default_rng(11).permutation(len(labels))
    shuffled = ScoreTable(
        "T", table.video[order], table.frame[order], table.label[order], table.method[order], table.score[order]
    )
    assert shuffled.videos.tolist() != table.videos.tolist()
    first, aligned = aligned_scores({"detector 0": tables["detector 0"], name: shuffled})
    assert (aligned[name] == table.score).all() and first is tables["detector 0"]
    assert compare_tables({"detector 0": tables["detector 0"], name: shuffled}) == compare_tables(tables)


def test_other_frames_are_refused_and_the_missing_are_named():
    labels, scores, video = drawn(np.random.default_rng(12))
    tables = tables_of(labels, scores, video)
    table = tables["detector 1"]
    keep = np.arange(len(labels)) != 3
    fewer = ScoreTable(
        "T", table.video[keep], table.frame[keep], table.label[keep], table.method[keep], table.score[keep]
    )
    with pytest.raises(UserError, match=r"detector 1 lacks 1 and has 0 more \(T/real/clip 0 frame 3"):
        compare_tables({"detector 0": tables["detector 0"], "detector 1": fewer})
    moved = ScoreTable("T", table.video, table.frame + 1, table.label, table.method, table.score)
    with pytest.raises(UserError, match="lacks 60 and has 60 more"):
        compare_tables({"detector 0": tables["detector 0"], "detector 1": moved})
    turned = ScoreTable("T", table.video, table.frame, 1 - table.label, ["x"] * len(labels), table.score)
    with pytest.raises(UserError, match="disagree about T/real/clip 0: label 1 and 0"):
        compare_tables({"detector 0": tables["detector 0"], "detector 1": turned})
    with pytest.raises(UserError, match="no score table"):
        compare_tables({})


# ------------------------------------------------------------------------------------------------------------- seeds


def test_the_variance_over_seeds_is_the_stated_formula():
    covariance = np.array([[4.0, 2.0, 3.0], [2.0, 4.0, 1.0], [3.0, 1.0, 4.0]]) * 1e-4
    values = [0.80, 0.83, 0.86]
    found = combine_seeds(values, covariance, 100, 50)
    assert found.mean == pytest.approx(0.83) and found.sd == pytest.approx(0.03)
    assert found.between == pytest.approx(0.03 / math.sqrt(3)) and found.within == pytest.approx(math.sqrt(2e-4))
    assert found.interval.se == pytest.approx(math.sqrt(9e-4 / 3 + 2e-4))
    assert found.interval.df == pytest.approx(5e-4**2 / (3e-4**2 / 2 + 2e-4**2 / 100))


def test_seeds_that_agree_on_clusters_that_agree_have_no_interval():
    found = combine_seeds([0.7, 0.7], np.zeros((2, 2)), 1, 1)
    assert found.mean == 0.7 and found.interval[:3] == (0.7, None, None)


def test_one_seed_has_the_interval_of_its_sampling_error_alone():
    labels, scores, video = drawn(np.random.default_rng(13), shifts=(1.5,))
    found = over_seeds(list(tables_of(labels, scores, video).values()), replicates=50)["frame_auc"]
    assert found.sd is None and found.between is None
    assert found.interval == pytest.approx(auc_interval(labels, scores["detector 0"].astype(np.float32), video))


def test_equal_seeds_leave_only_the_sampling_error():
    labels, scores, video = drawn(np.random.default_rng(14), shifts=(1.5,))
    table = tables_of(labels, scores, video)["detector 0"]
    alone, three = (over_seeds([table] * n, replicates=100) for n in (1, 3))
    assert set(three) >= {"frame_auc", "frame_eer", "video_ap", "video_brier"}
    for name, summary in three.items():
        assert summary.sd == pytest.approx(0, abs=1e-12), name
        assert summary.interval.se == pytest.approx(alone[name].interval.se, rel=1e-6), name


@pytest.mark.slow
def test_simulated_means_over_seeds_are_held_where_one_seed_alone_is_not():
    rng = np.random.default_rng(15)
    middle, between = 1.5, 0.25
    truth = 0.5 * math.erfc(-middle / math.sqrt(2 + between**2) / math.sqrt(2))
    held = alone = 0
    for _ in range(300):
        shifts = middle + between * rng.standard_normal(4)
        labels, scores, video = drawn(rng, videos=200, frames=3, shifts=shifts)
        clusters = Clusters(video, labels)
        parts = [cluster_components(Ranking(labels, s), clusters) for s in scores.values()]
        covariance = auc_covariance(np.stack([p[1] for p in parts]), np.stack([p[2] for p in parts]), clusters)
        free = degrees_of_freedom(sum(p[1] + p[2] for p in parts), clusters)
        found = combine_seeds([p[0] for p in parts], covariance, free, clusters.fewest).interval
        one = combine_seeds([parts[0][0]], covariance[:1, :1], free, clusters.fewest).interval
        held += found.low <= truth <= found.high
        alone += one.low <= truth <= one.high
    assert 0.91 <= held / 300 <= 0.985
    assert alone / 300 < held / 300


def test_over_seeds_a_second_way_of_clustering_widens_every_metric():
    """Every recorded person's videos show many faces, and a face moves the score of each video that shows it."""
    rng, people = np.random.default_rng(31), 20
    recorded, seen = np.divmod(np.arange(people**2), people)
    label, face = (recorded != seen).astype(int), rng.normal(size=people)
    names = [f"C/x/id{a}_id{b}_0000" if a != b else f"C/real/id{a}_0000" for a, b in zip(recorded, seen)]
    method = np.where(label == 1, "swap", "real")

    def table():
        latent = 1.2 * label + 2 * face[seen] * label + rng.normal(size=len(label))
        return ScoreTable("C", names, np.zeros(len(label), int), label, method, 1 / (1 + np.exp(-latent)))

    tables = [table(), table()]
    two = over_seeds(tables, replicates=200)
    one = over_seeds(tables, replicates=200, clusters=recorded)
    for name in ("frame_auc", "frame_ap", "frame_acc"):
        assert two[name].within > 1.1 * one[name].within, name
        assert two[name].mean == one[name].mean


def test_metrics_without_both_classes_are_left_out_over_seeds():
    table = ScoreTable("T", ["a", "b"], [0, 0], [1, 1], ["x", "x"], [0.2, 0.9])
    assert over_seeds([table, table]) == {}
