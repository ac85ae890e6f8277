"""Score shift: thresholds carried over, pooled and cross AUC, against loops; and in a run's result."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from tiny import IMAGES, tiny

from resproto_fd.detectors import create_detector
from resproto_fd.training.cli import main
from resproto_fd.training.measures import shift
from resproto_fd.training.measures.clusters import source_clusters
from resproto_fd.training.measures.intervals import UNDEFINED, auc_interval
from resproto_fd.training.recording import operations
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ScoreTable


def table(scores, labels, name="D") -> ScoreTable:
    ids = [f"{name}/{i}" for i in range(len(scores))]
    methods = ["real" if label == 0 else "swap" for label in labels]
    return ScoreTable(name, ids, np.zeros(len(scores), int), labels, methods, np.asarray(scores, np.float64))


def draw(seed: int, n: int = 300, name: str = "D") -> ScoreTable:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    return table(np.round(np.clip(rng.normal(0.4 + 0.2 * labels + 0.1 * seed, 0.2), 0, 1), 2), labels, name)


def test_thresholds_are_where_their_rules_say():
    source = draw(0)
    found = shift.thresholds(source)
    reals, fakes = source.score[source.label == 0], source.score[source.label == 1]
    gaps = {}
    for cut in sorted(set(source.score.tolist()), reverse=True):
        gaps[cut] = abs(np.mean(reals >= cut) - np.mean(fakes < cut))
    assert gaps[found["eer"]] == min(gaps.values())
    allowed = [cut for cut in gaps if np.mean(reals >= cut) <= 0.05]
    assert found["fpr_5"] == min(allowed)


def test_cross_and_pooled_intervals_are_those_of_one_set_and_join_what_two_sets_share():
    """A and B list each other's reals, as the FF++ sets do, and their fakes are made of these."""
    rng, tables = np.random.default_rng(3), {}
    video, label = np.repeat(np.arange(40), 5), np.repeat([0, 1], 20)
    for name in ("A", "B"):
        reals = [f"F/real/{i:03d}" for i in range(20)]
        fakes = [f"F/{name}/{i:03d}_{i ^ 1:03d}" for i in range(20)]
        ids, methods = np.array(reals + fakes)[video], np.array(["real", name])[label[video]]
        scores = 1 / (1 + np.exp(-rng.normal(size=40)[video] - label[video] - 0.5 * rng.normal(size=200)))
        tables[name] = ScoreTable(name, ids, np.tile(np.arange(5), 40), label[video], methods, scores)
    pooled, cross = shift.across_intervals(tables)
    for name, each in tables.items():
        own = source_clusters(each.videos.tolist())[each.video_index]
        assert cross[name][name][:3] == pytest.approx(auc_interval(each.label, each.score, own)[:3], abs=1e-12)
        assert shift.across_intervals({name: each})[0][:3] == pytest.approx(cross[name][name][:3], abs=1e-12)
    both = list(tables.values())
    clusters = source_clusters([name for each in both for name in each.videos.tolist()])
    index = np.concatenate([clusters[:40][both[0].video_index], clusters[40:][both[1].video_index]])
    joined = [np.concatenate([getattr(each, part) for each in both]) for part in ("label", "score")]
    assert pooled[:3] == pytest.approx(auc_interval(*joined, index)[:3], abs=1e-12)
    assert pooled.value == pytest.approx(shift.pooled_auc(tables)) and pooled.low < pooled.value < pooled.high
    for real, by in shift.cross_aucs(tables).items():
        assert {fake: cross[real][fake].value for fake in by} == pytest.approx(by)
    assert shift.across_intervals({"C": table([0.3, 0.9], [1, 1], "C")}) == (UNDEFINED, {})


def test_a_carried_threshold_has_the_rates_of_counting():
    target = draw(1)
    fpr, tpr = shift.transferred(target, 0.6)
    pairs = list(zip(target.score, target.label, strict=True))
    assert fpr == sum(s >= 0.6 for s, y in pairs if y == 0) / sum(y == 0 for _, y in pairs)
    assert tpr == sum(s >= 0.6 for s, y in pairs if y == 1) / sum(y == 1 for _, y in pairs)
    assert shift.transferred(table([0.2, 0.9], [1, 1]), 0.5) == (None, 0.5)


def test_cross_and_pooled_aucs_are_scikit_learns():
    tables = {"A": draw(0, name="A"), "B": draw(3, 200, "B"), "C": table([0.3, 0.9], [1, 1], "C")}
    found = shift.cross_aucs(tables)
    assert set(found) == {"A", "B"}
    for of_real in ("A", "B"):
        for of_fake in tables:
            real = tables[of_real].score[tables[of_real].label == 0]
            fake = tables[of_fake].score[tables[of_fake].label == 1]
            labels = np.r_[np.zeros(len(real)), np.ones(len(fake))]
            assert found[of_real][of_fake] == pytest.approx(roc_auc_score(labels, np.r_[real, fake]), abs=1e-12)
    everything = [np.concatenate([getattr(t, part) for t in tables.values()]) for part in ("label", "score")]
    assert shift.pooled_auc(tables) == pytest.approx(roc_auc_score(*everything), abs=1e-12)
    assert shift.pooled_auc({"C": tables["C"]}) is None


def test_without_both_classes_there_is_no_threshold():
    assert shift.thresholds(table([0.1, 0.2], [0, 0])) == {}


@pytest.mark.slow
def test_a_run_keeps_its_shift_and_what_it_costs(demo, tmp_path):
    words = ["--detector", "resnet_tiny", "--protocol", "demo_cross", "--out", str(tmp_path / "runs")]
    quiet = [f"data.root={demo}", "run.workers=0", "run.progress=false", "run.device=cpu"]
    assert main(["train", *words, "train.epochs=1", *quiet]) == 0
    folder = tmp_path / "runs" / "demo_cross" / "resnet_tiny" / "seed0"
    result = RunResult.load(folder / "result.json")
    tables = {name: ScoreTable.load(folder / "scores" / f"{name}.npz") for name in result.tests}
    source = ScoreTable.load(folder / "scores_selection" / "Demo-A.npz")
    for rule, threshold in shift.thresholds(source).items():
        for name, each in tables.items():
            kept = result.tests[name].transfer[rule]
            assert (kept.fpr, kept.tpr) == shift.transferred(each, threshold)
    assert result.cross_auc == shift.cross_aucs(tables)
    assert result.cross_auc["Demo-B"]["Demo-B"] == pytest.approx(result.tests["Demo-B"].frame_auc)
    assert result.pooled_auc == shift.pooled_auc(tables)
    assert (result.compute.backbone, result.compute.input_size) == ("resnet10t", 128)
    assert 0 < result.compute.gflops < 1
    assert main(["test", "--run", str(folder), "--out", str(tmp_path / "again"), *quiet]) == 0
    again = RunResult.load(next((tmp_path / "again").rglob("result.json")))
    assert again.tests["Demo-B"].transfer == result.tests["Demo-B"].transfer


def test_the_operations_of_a_detector_that_passes_on_a_learnt_vector_can_be_counted():
    detector = create_detector("fatformer", **tiny("fatformer")).train()
    trained = [name for name, parameter in detector.named_parameters() if parameter.requires_grad]
    assert "prompts.context" in trained
    assert operations(detector, IMAGES[:1]) > 0
    assert detector.training
    assert [name for name, parameter in detector.named_parameters() if parameter.requires_grad] == trained


def test_a_carried_threshold_has_the_accuracy_of_counting():
    target = draw(1)
    right = [(score >= 0.6) == (label == 1) for score, label in zip(target.score, target.label, strict=True)]
    assert shift.transferred_acc(target, 0.6) == pytest.approx(sum(right) / len(right))


def test_scores_on_one_side_of_the_threshold_are_said():
    assert shift.one_sided(table([0.6, 0.9, 0.7], [0, 1, 1])) == (
        "all scores of D are above 0.5: its accuracy is the share of fakes"
    )
    assert "at most 0.5: its accuracy is the share of reals" in shift.one_sided(table([0.5, 0.1], [0, 1]))
    assert shift.one_sided(table([0.6, 0.4], [0, 1])) == ""
    assert shift.one_sided(table([0.6, 0.7], [1, 1])) == ""
