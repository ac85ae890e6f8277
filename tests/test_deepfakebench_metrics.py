"""DeepfakeBench's numbers, bugs included, against what its own code gave on fixed inputs."""

import json
from pathlib import Path

import numpy as np
import pytest

from resproto_fd.training.measures.deepfakebench import (
    NAMES,
    NOT_IN_SCORES,
    deepfakebench_metrics,
    explained,
    video_key,
)
from resproto_fd.training.scores import ScoreTable

GOLDEN = json.loads((Path(__file__).parent / "golden" / "deepfakebench_metrics.json").read_text())["cases"]


def columns(case):
    labels, scores, paths = zip(*case["triples"])
    keys = None if case.get("img_names_are_lists") else [video_key(path) for path in paths]
    return np.array(labels), np.array(scores, dtype=case["dtype"]), keys


@pytest.mark.parametrize("name", [n for n, case in GOLDEN.items() if "auc" in case["result"]])
def test_every_golden_number_is_reproduced_bugs_included(name):
    found = deepfakebench_metrics(*columns(GOLDEN[name]))
    assert found.failure is None
    for metric in NAMES:
        assert getattr(found, metric) == pytest.approx(GOLDEN[name]["result"][metric], abs=1e-12), metric


@pytest.mark.parametrize("name", [n for n, case in GOLDEN.items() if "raises" in case["result"]])
def test_where_its_run_dies_there_is_no_number_but_its_exception(name):
    found = deepfakebench_metrics(*columns(GOLDEN[name]))
    wanted = GOLDEN[name]["result"]
    assert found[:5] == (None,) * 5
    assert found.failure.startswith(f"{wanted['raises']}: {wanted['message'][:30]}")


def test_all_golden_cases_are_covered():
    assert len(GOLDEN) >= 21
    assert all("auc" in case["result"] or "raises" in case["result"] for case in GOLDEN.values())


def test_a_key_with_one_real_frame_counts_as_real():
    labels, scores = np.array([0, 1, 1, 1, 1, 0]), np.array([0.9, 0.9, 0.9, 0.9, 0.5, 0.1])
    assert deepfakebench_metrics(labels, scores, ["c"] * 4 + ["a", "b"]).video_auc == 0.5


def test_float32_scores_pass_through_text():
    """0.1 + 0.2 > 0.15 + 0.15 in decimals read as float64, but not in the float32 scores themselves."""
    labels, scores = np.array([1, 1, 0, 0]), np.array([0.1, 0.2, 0.15, 0.15], np.float32)
    assert scores[:2].astype(float).sum() < scores[2:].astype(float).sum()
    assert deepfakebench_metrics(labels, scores, ["a", "a", "b", "b"]).video_auc == 1


def test_labels_of_the_caller_are_left_alone():
    labels, scores, keys = columns(GOLDEN["multiclass_labels"])
    before = labels.copy()
    deepfakebench_metrics(labels, scores, keys)
    assert labels.max() > 1 and (labels == before).all()


def table_of(case):
    """A score table of a golden case: the whole path names the video."""
    labels, scores, _ = columns(case)
    videos = [path.replace("\\", "/").rpartition("/")[0].replace("/frames", "") for *_, path in case["triples"]]
    method = ["swap" if label else "real" for label in labels]
    frames = np.arange(len(labels))
    return ScoreTable("golden", videos, frames, np.minimum(labels, 1), method, scores)


def row(name, metric):
    _, rows = explained(table_of(GOLDEN[name]))
    return {r.metric: r for r in rows}[metric]


def test_merged_manipulations_are_named_as_the_cause():
    found = row("ff_four_methods_same_pair_id", "video_auc")
    assert (found.deepfakebench, found.corrected) == (0.5, 0.625)
    assert "4 videos instead of 10" in found.cause and "8 share their folder's name" in found.cause
    assert "/FaceSwap/" in found.cause and "/Deepfakes/" in found.cause


def test_real_and_fake_in_one_key_are_named_as_the_cause():
    found = row("same_id_two_classes", "video_auc")
    assert (found.deepfakebench, found.corrected) == (0.5, 1.0)
    assert "hold real and fake and count as real" in found.cause


def test_the_corner_that_the_error_rate_was_read_off_is_named_as_the_cause():
    found = row("eer_on_dropped_points", "eer")
    assert (found.deepfakebench, found.corrected) == (0.0, 0.375)
    assert "0.0000 false alarms" in found.cause and "0.3750" in found.cause
    assert row("all_tied", "eer").cause.startswith("read off a corner")


def test_an_exception_is_named_as_the_cause_where_the_corrected_number_exists():
    found = row("all_videos_mixed", "auc")
    assert found.deepfakebench is None and found.corrected is not None
    assert "All-NaN slice encountered (every video is real)" in found.cause


def test_equal_numbers_have_no_cause():
    _, rows = explained(table_of(GOLDEN["base_no_collision"]))
    assert [r.metric for r in rows] == list(NAMES)
    assert all(r.deepfakebench == pytest.approx(r.corrected, abs=1e-12) and not r.cause for r in rows)


def test_another_score_of_the_table_is_explained_when_asked_for():
    table = table_of(GOLDEN["base_no_collision"])
    table.variants["inverted"] = 1 - table.score
    assert explained(table, "inverted")[0].auc == pytest.approx(1 - explained(table)[0].auc)


def test_differences_before_the_scores_are_listed():
    assert any("first n" in note for note in NOT_IN_SCORES)
