"""Controls: what they can and cannot see."""

import shutil

import numpy as np
import pytest
import torch
from tiny import TINY_RESNET

from resproto_fd.detectors import create_detector
from resproto_fd.training.cli import main
from resproto_fd.training.commands import demo as command
from resproto_fd.training.commands.control import FACTS, _facts
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ScoreTable


@torch.no_grad()
def test_chance_spreads_over_the_unit_interval_and_gives_an_image_its_own_score():
    torch.manual_seed(0)
    detector, images = create_detector("chance").eval(), torch.randn(2000, 3, 8, 8)
    scores = detector(images).scores
    counts, _ = np.histogram(scores, 10, (0, 1))
    assert counts.min() > 140
    torch.testing.assert_close(detector(images[7:8]).scores, scores[7:8])


@pytest.mark.slow
@torch.no_grad()
def test_the_border_control_does_not_see_the_face():
    torch.manual_seed(0)
    detector = create_detector("border", backbone="test_resnet", pretrained=None).eval()
    images = torch.randn(2, 3, 52, 52)
    inside, outside = images.clone(), images.clone()
    inside[:, :, 6:46, 6:46] += 5
    outside[:, :, :6] += 5
    assert torch.equal(detector(images).scores, detector(inside).scores)
    assert not torch.equal(detector(images).scores, detector(outside).scores)
    mask = detector.visible(52, 52)
    assert mask[:6].all()
    assert not mask[6:46, 6:46].any()


def test_the_probe_trains_its_classifier_alone_and_its_tower_keeps_its_statistics():
    torch.manual_seed(0)
    detector = create_detector("clip_probe", **TINY_RESNET).train()
    before = {name: value.clone() for name, value in detector.clip.state_dict().items()}
    detector(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 0, 1])).losses["total"].backward()
    assert [name for name, p in detector.named_parameters() if p.grad is not None] == [
        "classifier.weight",
        "classifier.bias",
    ]
    assert all(torch.equal(value, before[name]) for name, value in detector.clip.state_dict().items())


def test_file_facts_tell_formats_and_qualities_apart():
    import cv2

    image = np.random.default_rng(0).integers(0, 256, (16, 20, 3)).astype(np.uint8)
    png = cv2.imencode(".png", image)[1].tobytes()
    jpegs = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, q])[1].tobytes() for q in (30, 90)]
    rows = [dict(zip(FACTS, _facts(value, image.shape), strict=True)) for value in (png, *jpegs)]
    assert [row["PNG"] for row in rows] == [1, 0, 0]
    assert [row["JPEG"] for row in rows] == [0, 1, 1]
    assert rows[1]["mean of the JPEG's quantisation"] > rows[2]["mean of the JPEG's quantisation"] > 0
    assert rows[0]["bytes"] == len(png)
    assert (rows[0]["height"], rows[0]["width"]) == (16, 20)


@pytest.mark.slow
def test_file_statistics_are_a_control_under_the_protocol(demo, tmp_path, capsys):
    words = ["control", "--protocol", "demo_cross", "--out", str(tmp_path / "runs"), f"data.root={demo}"]
    assert main(words) == 0
    result = RunResult.load(tmp_path / "runs/demo_cross/file_statistics/seed0/result.json")
    assert (result.role, result.sees_faces, result.source) == ("control", False, "measured")
    assert set(result.tests) == {"Demo-A", "Demo-B", "Demo-C"}
    assert main([*words, "train.epochs=2"]) == 2
    assert "command line: control takes data.* settings alone, not train" in capsys.readouterr().err


def test_a_control_under_a_protocol_for_tests_alone_is_refused_before_data_are_read(tmp_path, capsys):
    (tmp_path / "p.yaml").write_text("title: T\ntrain: []\ntest: [Demo-B]\nselection: {rule: last}\n")
    assert main(["control", "--protocol", str(tmp_path / "p.yaml"), "--out", str(tmp_path / "runs")]) == 2
    assert "protocol p is for tests alone (train: [])" in capsys.readouterr().err


@pytest.mark.slow
def test_an_equal_finished_control_is_taken_over_and_another_is_an_error(demo, tmp_path, capsys):
    words = ["control", "--protocol", "demo_cross", "--out", str(tmp_path / "runs"), f"data.root={demo}"]
    folder = tmp_path / "runs/demo_cross/file_statistics/seed0"
    assert main(words) == 0
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
    assert main(words) == 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert str(folder / "result.json") in capsys.readouterr().out

    scores = folder / "scores" / "Demo-B.npz"
    table = ScoreTable.load(scores)
    table.score[0] = (table.score[0] + 0.5) % 1
    table.save(scores)
    result = folder / "result.json"
    text = result.read_text()
    fingerprint = RunResult.load(result).fingerprint
    for spoilt, message in (
        (text, "with other scores of Demo-B"),
        (text.replace(fingerprint, "f" * len(fingerprint)), "of another protocol or other frames"),
        (text[:-30], "which cannot be read"),
    ):
        result.write_text(spoilt)
        assert main(words) == 2
        said = capsys.readouterr().err
        assert message in said and "remove the folder, or set another --seed or --out" in said
        assert "--name" not in said
        assert result.read_text() == spoilt
    assert main([*words, "--seed", "1"]) == 0


@pytest.mark.slow
def test_the_demo_with_controls_runs_a_second_time(demo, tmp_path, capsys, monkeypatch):
    shutil.copytree(demo, tmp_path / "demo_data")
    monkeypatch.setattr(command, "_run_all", lambda runs, *_: [(0, "already trained")] * len(runs))  # the control alone
    words = ["demo", "--size", "tiny", "--controls", "--detectors", "chance", "--out", str(tmp_path), "--jobs", "2"]
    assert main([*words, "train.epochs=1"]) == 0
    assert main([*words, "train.epochs=1"]) == 0
    board = tmp_path / "leaderboard" / "leaderboard.md"
    assert board.read_text().count("(file\\_statistics)") > 0

    result = tmp_path / "runs/demo_cross/file_statistics/seed0/result.json"
    fingerprint = RunResult.load(result).fingerprint
    result.write_text(result.read_text().replace(fingerprint, "f" * len(fingerprint)))
    assert main([*words, "train.epochs=1"]) == 2
    assert "remove the folder, or set another --out" in capsys.readouterr().err


@pytest.mark.slow
def test_recoded_frames_are_another_protocol_with_other_scores(demo, tmp_path):
    results, scores = [], []
    for protocol in ("demo_cross", "demo_recoded"):
        words = ["--detector", "chance", "--protocol", protocol, "--out", str(tmp_path), f"data.root={demo}"]
        assert main(["train", *words, "run.workers=0", "run.progress=false", "run.device=cpu"]) == 0
        folder = tmp_path / protocol / "chance" / "seed0"
        results.append(RunResult.load(folder / "result.json"))
        scores.append(ScoreTable.load(folder / "scores" / "Demo-A.npz").score)
    assert results[0].fingerprint != results[1].fingerprint
    assert not np.array_equal(*scores)
    assert results[0].role == "control"
