"""Metrics against scikit-learn, against loops, and against DeepfakeBench's own results on fixed inputs."""

import json
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, roc_auc_score

from resproto_fd.configs.errors import UserError
from resproto_fd.training.measures.metrics import binary_metrics, method_metrics, table_metrics
from resproto_fd.training.measures.roc import equal_error_rate
from resproto_fd.training.measures.videos import video_scores
from resproto_fd.training.scores import ScoreTable

GOLDEN = json.loads((Path(__file__).parent / "golden" / "deepfakebench_metrics.json").read_text())["cases"]


def random_table(seed, videos=40, ties=False):
    """A table with videos of unequal length, three methods, and names that repeat between methods."""
    rng = np.random.default_rng(seed)
    video, label, method = [], [], []
    for i in range(videos):
        how = ["real", "swap", "warp", "gan"][i if i < 4 else rng.integers(4)]
        frames = rng.integers(1, 9)
        video += [f"D/{how}/{i // 4}"] * frames
        label += [int(how != "real")] * frames
        method += [how] * frames
    label = np.array(label)
    score = np.clip(rng.normal(0.4 + 0.2 * label, 0.25), 0, 1)
    score = np.round(score, 1) if ties else score
    return ScoreTable("D", video, np.arange(len(video)), label, method, score, variants={"clip": 1 - score})


def eer_by_bisection(labels, scores):
    """Where the polygon through all ROC points crosses false alarms = misses, by bisection along it, exact counts."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(scores.tolist()), reverse=True):
        called = scores >= threshold
        points.append((called[labels == 0].mean(), called[labels == 1].mean()))
    low, high = 0.0, float(len(points) - 1)
    for _ in range(200):
        middle = (low + high) / 2
        i = min(int(middle), len(points) - 2)
        (x0, y0), (x1, y1) = points[i], points[i + 1]
        x, y = x0 + (middle - i) * (x1 - x0), y0 + (middle - i) * (y1 - y0)
        low, high = (middle, high) if 1 - y > x else (low, middle)
    return x


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_frame_metrics_agree_with_scikit_learn(seed, ties):
    table = random_table(seed, ties=ties)
    found, labels, scores = table_metrics(table), table.label, table.score
    assert found["frame_auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found["frame_ap"] == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert found["frame_acc"] == pytest.approx(accuracy_score(labels, scores > 0.5), abs=1e-12)
    assert found["frame_balanced_acc"] == pytest.approx(balanced_accuracy_score(labels, scores > 0.5), abs=1e-12)
    assert found["frame_eer"] == pytest.approx(eer_by_bisection(labels, scores), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_auc_counts_pairs_and_gives_half_for_a_tie(seed, ties):
    table = random_table(seed, ties=ties)
    fake, real = table.score[table.label == 1], table.score[table.label == 0]
    pairs = [1.0 if f > r else 0.5 if f == r else 0.0 for f in fake for r in real]
    assert table_metrics(table)["frame_auc"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_video_metrics_are_those_of_plain_means_in_a_loop(seed):
    table = random_table(seed)
    frames = defaultdict(list)
    for video, label, score in zip(table.video.tolist(), table.label.tolist(), table.score.tolist()):
        frames[video, label].append(score)
    labels = np.array([label for _, label in frames])
    means = np.array([sum(scores) / len(scores) for scores in frames.values()])
    found = table_metrics(table)
    assert (found["videos"], found["real_videos"]) == (len(labels), int((labels == 0).sum()))
    assert found["video_auc"] == pytest.approx(roc_auc_score(labels, means), abs=1e-12)
    assert found["video_ap"] == pytest.approx(average_precision_score(labels, means), abs=1e-12)
    assert found["video_acc"] == pytest.approx(accuracy_score(labels, means > 0.5), abs=1e-12)
    assert found["video_eer"] == pytest.approx(eer_by_bisection(labels, means), abs=1e-12)
    scores, of_videos = video_scores(table.score, table.label, table.video)
    np.testing.assert_allclose(scores, means, atol=1e-15)
    assert of_videos.tolist() == labels.tolist()


def test_each_method_is_measured_against_all_reals_of_the_test_set():
    table = random_table(3)
    found = method_metrics(table)
    assert list(found) == ["gan", "swap", "warp"]
    for method, metrics in found.items():
        kept = (table.label == 0) | (table.method == method)
        alone = ScoreTable("D", *(c[kept] for c in (table.video, table.frame, table.label, table.method, table.score)))
        assert metrics == table_metrics(alone)


def test_a_variant_is_measured_in_the_place_of_the_score():
    table = random_table(4)
    found, other = table_metrics(table), table_metrics(table, "clip")
    assert other["frame_auc"] == pytest.approx(1 - found["frame_auc"], abs=1e-12)
    assert method_metrics(table, "clip")["swap"]["frame_auc"] == pytest.approx(
        1 - method_metrics(table)["swap"]["frame_auc"], abs=1e-12
    )


def test_the_order_of_the_frames_changes_nothing():
    table = random_table(5, ties=True)
    order = np.random.default_rng(0).permutation(len(table))
    columns = (table.video, table.frame, table.label, table.method, table.score)
    assert table_metrics(ScoreTable("D", *(c[order] for c in columns))) == table_metrics(table)


def test_two_videos_with_the_same_scores_in_another_order_are_tied():
    scores = np.array([0.1, 0.2, 0.3, 0.3, 0.2, 0.1])
    means, _ = video_scores(scores, np.array([0, 0, 0, 1, 1, 1]), list("aaabbb"))
    assert means[0] == means[1]


def test_a_score_of_one_half_is_called_real():
    assert binary_metrics(np.array([0, 1]), np.array([0.5, 0.5]))["acc"] == 0.5
    assert binary_metrics(np.array([0, 0]), np.array([0.5, 0.5]))["acc"] == 1.0


@pytest.mark.parametrize("label", [0, 1])
def test_with_one_class_absent_only_accuracy_is_defined(label):
    video = np.repeat(["a", "b"], 2)
    table = ScoreTable("D", video, [0, 1, 0, 1], [label] * 4, ["m"] * 4, [0.2, 0.6, 0.7, 0.9])
    found = table_metrics(table)
    assert found["frame_acc"] == (0.75 if label else 0.25)
    for level in ("frame", "video"):
        assert [found[f"{level}_{name}"] for name in ("auc", "ap", "eer", "balanced_acc")] == [None] * 4
    assert len(method_metrics(table)) == label


def test_nothing_at_all_is_undefined_and_no_error():
    assert set(binary_metrics(np.array([]), np.array([])).values()) == {None}


def test_equal_error_rate_of_known_curves():
    assert equal_error_rate(np.array([0.0, 0.0, 1.0]), np.array([0.0, 1.0, 1.0])) == 0.0
    assert equal_error_rate(np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0])) == 1.0
    assert equal_error_rate(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0.5
    assert equal_error_rate(np.array([0.0, 0.2, 1.0]), np.array([0.0, 0.8, 1.0])) == pytest.approx(0.2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_refused_with_its_position(bad):
    with pytest.raises(ValueError, match="at position 1"):
        binary_metrics(np.array([0, 1]), np.array([0.5, bad]))


def test_labels_other_than_0_and_1_are_refused():
    with pytest.raises(ValueError, match="label 2 at position 1"):
        binary_metrics(np.array([0, 2]), np.array([0.5, 0.5]))


def test_video_scores_refuse_different_lengths_and_two_labels():
    with pytest.raises(ValueError, match="lengths differ"):
        video_scores(np.zeros(3), np.zeros(3, int), ["a", "b"])
    with pytest.raises(ValueError, match="video a carries two labels"):
        video_scores(np.zeros(2), np.array([0, 1]), ["a", "a"])


def golden_table(case):
    """The case's triples as a table; a video is everything above the frame's file name, whatever the separator."""
    labels, scores, paths = zip(*case["triples"])
    paths = [PurePosixPath(path.replace("\\", "/")) for path in paths]
    videos = [str(path.parent if path.suffix else path) for path in paths]
    label = [int(label > 0) for label in labels]  # UCF's labels 1..4 are all fake
    score = np.array(scores, dtype=case["dtype"])
    return ScoreTable(
        "golden", videos, np.arange(len(videos)), label, ["real" if v == 0 else "m" for v in label], score
    )


@pytest.mark.parametrize("name", [name for name, case in GOLDEN.items() if case["bug"] is None])
def test_deepfakebench_gives_the_same_numbers_where_it_is_right(name):
    case, found = GOLDEN[name], table_metrics(golden_table(GOLDEN[name]))
    for metric in ("acc", "auc", "ap"):
        assert found[f"frame_{metric}"] == pytest.approx(case["result"][metric], abs=1e-11)
    assert found["video_auc"] == pytest.approx(case["result"]["video_auc"], abs=1e-11)
    if name != "ties":  # its EER is that of the nearest vertex (0.25); the interpolated one is the stated reference
        assert found["frame_eer"] == pytest.approx(case["result"]["eer"], abs=1e-11)


@pytest.mark.parametrize("name", [name for name, case in GOLDEN.items() if case["reference_not_theirs"]])
def test_the_corrected_reference_holds_in_every_golden_case(name):
    reference, found = GOLDEN[name]["reference_not_theirs"], table_metrics(golden_table(GOLDEN[name]))
    assert found["frame_eer"] == pytest.approx(reference["eer_interpolated"], abs=1e-11)
    assert found["videos"] == reference["n_videos_full_parent_path"]
    assert found["video_auc"] == pytest.approx(reference["video_auc_full_parent_path"], abs=1e-11)


@pytest.mark.parametrize("name", ["only_fake", "only_real", "single_frame"])
def test_golden_cases_that_end_deepfakebench_run_are_undefined_here(name):
    assert GOLDEN[name]["result"]["raises"]
    found = table_metrics(golden_table(GOLDEN[name]))
    assert (found["frame_auc"], found["video_auc"], found["frame_eer"]) == (None, None, None)


def test_the_golden_nan_score_is_refused_by_name():
    with pytest.raises(UserError, match=r"score refused.*FaceForensics\+\+.* frame \d+: nan"):
        golden_table(GOLDEN["nan_score"])


def test_all_golden_cases_are_looked_at():
    assert len(GOLDEN) == 21
    references = sum(bool(case["reference_not_theirs"]) for case in GOLDEN.values())
    assert references + len(["only_fake", "only_real", "single_frame", "nan_score"]) == 21


def test_perfect_scores_of_any_number_of_videos_do_not_exceed_one_by_rounding():
    """Average precision of perfect scores is 1.0000000000000002 for some counts; a result refuses that."""
    from sklearn.metrics import average_precision_score

    beyond = 0
    for fakes in range(1, 60):
        labels = np.repeat([0, 1], [3, fakes])
        scores = np.linspace(0, 1, len(labels))
        beyond += average_precision_score(labels, scores) > 1
        metrics = binary_metrics(labels, scores)
        assert metrics["ap"] <= 1
        assert metrics["auc"] <= 1
    assert beyond


def test_numbers_of_older_result_files_keep_their_last_bit():
    """Made with scikit-learn 1.9.1, whose order of summing the metrics keep."""
    names = [f"{level}_{name}" for level in ("frame", "video") for name in ("auc", "ap", "eer")]
    plain, ties = (table_metrics(random_table(seed, ties=bool(seed))) for seed in (0, 1))
    assert [plain[name] for name in names] == [
        0.6736099156481323,
        0.8975067226810641,
        0.356687898089172,
        0.8761904761904762,
        0.9679504435895896,
        0.2,
    ]
    assert [ties[name] for name in names] == [
        0.738134475939354,
        0.8847046939315217,
        0.31218274111675126,
        0.8412698412698413,
        0.8985100266336445,
        0.16666666666666666,
    ]
