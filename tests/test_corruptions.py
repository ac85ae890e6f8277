"""Corruptions: parameters, what each does against a slow oracle, the same picture everywhere; tests under them."""

import os
import subprocess
import sys

import numpy as np
import pytest
import skimage.data

from resproto_fd.configs.errors import UserError
from resproto_fd.trainer.augment.corruptions import BLOCK, DEEPER_FORENSICS, GREY, PARAMETERS, SEVERITIES, corrupted
from resproto_fd.training.cli import main
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ScoreTable

pytest.importorskip("av")
FACE = np.ascontiguousarray(skimage.data.astronaut()[:256, 100:356])


def damage(image: np.ndarray) -> float:
    return float(((image.astype(float) - FACE) ** 2).mean())


@pytest.mark.parametrize("name", PARAMETERS)
def test_damage_grows_with_severity_and_the_frame_is_left_as_it_was(name):
    before = FACE.copy()
    found = [corrupted(FACE, name, severity, "a/b.png") for severity in SEVERITIES]
    assert np.array_equal(FACE, before)
    assert all(image.shape == FACE.shape and image.dtype == np.uint8 for image in found)
    harm = [damage(image) for image in found]
    assert harm == sorted(harm)
    assert harm[0] > 1


def test_the_seven_are_those_of_deeper_forensics_with_its_parameters():
    assert [PARAMETERS[name] for name in DEEPER_FORENSICS] == [
        (0.4, 0.3, 0.2, 0.1, 0.0),
        (0.85, 0.725, 0.6, 0.475, 0.35),
        (16, 32, 48, 64, 80),
        (0.001, 0.002, 0.005, 0.01, 0.05),
        (7, 9, 13, 17, 21),
        (2, 3, 4, 5, 6),
        (30, 32, 35, 38, 40),
    ]


def test_saturation_scales_the_chroma_and_leaves_the_luma():
    for severity, factor in enumerate(PARAMETERS["saturation"], 1):
        found = corrupted(FACE, "saturation", severity, "f")
        for y, x in ((10, 20), (100, 90), (200, 31)):
            r, g, b = FACE[y, x].astype(float)
            luma = 0.299 * r + 0.587 * g + 0.114 * b
            cr, cb = factor * (r - luma) * 0.713, factor * (b - luma) * 0.564
            expected = [luma + 1.403 * cr, luma - 0.714 * cr - 0.344 * cb, luma + 1.773 * cb]
            assert found[y, x] == pytest.approx(expected, abs=2)


def test_contrast_multiplies_and_cuts_off():
    assert np.array_equal(corrupted(FACE, "contrast", 3, "f"), np.floor(FACE * np.float32(0.6)).astype(np.uint8))


def test_blocks_are_grey_and_as_many_as_the_severity_says():
    found = corrupted(np.zeros((256, 256, 3), np.uint8), "block", 1, "f")
    assert set(np.unique(found)) == {0, GREY}
    assert 16 * BLOCK**2 * 0.7 < (found[..., 0] == GREY).sum() <= 16 * BLOCK**2


def test_noise_has_the_deviation_of_its_variance():
    grey = np.full((256, 256, 3), 128, np.uint8)
    for severity in (1, 3):
        luma = corrupted(grey, "noise", severity, "f").astype(float) @ [0.299, 0.587, 0.114]
        assert luma.std() == pytest.approx(255 * 255 / 219 * PARAMETERS["noise"][severity - 1] ** 0.5, rel=0.05)


def test_blur_is_a_gaussian_of_a_sixth_of_its_side():
    point = np.zeros((31, 31, 3), np.uint8)
    point[15, 15] = 255
    found = corrupted(point, "blur", 1, "f")[..., 0].astype(float)
    weights = np.exp(-((np.arange(7) - 3) ** 2) / (2 * (7 / 6) ** 2))
    weights /= weights.sum()
    assert np.abs(found[12:19, 12:19] - 255 * np.outer(weights, weights)).max() <= 2
    assert not found[:11].any()


def test_noise_depends_on_the_frame_and_not_on_process_or_order(tmp_path):
    one, other = corrupted(FACE, "noise", 2, "D/a.png"), corrupted(FACE, "noise", 2, "D/b.png")
    assert not np.array_equal(one, other)
    assert np.array_equal(one, corrupted(FACE, "noise", 2, "D/a.png"))
    code = (
        "import sys, numpy as np; from resproto_fd.trainer.augment.corruptions import corrupted;"
        "np.save(sys.argv[2], corrupted(np.load(sys.argv[1]), 'noise', 2, 'D/a.png'))"
    )
    np.save(tmp_path / "in.npy", FACE)
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    subprocess.run([sys.executable, "-c", code, tmp_path / "in.npy", tmp_path / "out.npy"], check=True, env=environment)
    assert np.array_equal(np.load(tmp_path / "out.npy"), one)


def test_odd_sides_survive_video_coding():
    assert corrupted(FACE[:33, :35], "video", 1, "f").shape == (33, 35, 3)


@pytest.mark.parametrize(
    ("name", "severity", "message"),
    [("blurr", 1, "nearest is 'blur'"), ("blur", 6, "expected a severity from 1 to 5, got 6")],
)
def test_unknown_corruptions_and_severities_are_named(name, severity, message):
    with pytest.raises(UserError, match=message):
        corrupted(FACE, name, severity, "f")


@pytest.mark.slow
def test_a_protocol_tests_under_corruptions_resumes_and_keeps_scores(demo, tmp_path, capsys):
    words = ["--detector", "resnet_tiny", "--protocol", "demo_robustness", "--out", str(tmp_path / "runs")]
    settings = [
        "train.epochs=1",
        "run.workers=0",
        "run.progress=false",
        "run.device=cpu",
        f"data.root={demo}",
    ]
    chosen = "protocol.corruptions={blur: [1, 5], noise: [1, 5]}"
    assert main(["train", *words, *settings, chosen]) == 0
    path = next((tmp_path / "runs").rglob("result.json"))
    result = RunResult.load(path)
    found = result.robustness["Demo-A"]
    assert {name: set(by) for name, by in found.items()} == {"blur": {"1", "5"}, "noise": {"1", "5"}}
    kept = sorted(file.name for file in (path.parent / "scores_corrupted").iterdir())
    assert kept == [f"Demo-A@{name}-{level}.npz" for name in ("blur", "noise") for level in (1, 5)]
    clean, blurred = (ScoreTable.load(path.parent / folder / name) for folder, name in
                      (("scores", "Demo-A.npz"), ("scores_corrupted", "Demo-A@blur-5.npz")))  # fmt: skip
    assert clean.frames_hash() == blurred.frames_hash()
    assert not np.array_equal(clean.score, blurred.score)
    stamps = {file: file.stat().st_mtime_ns for file in (path.parent / "scores_corrupted").iterdir()}
    assert main(["leaderboard", str(tmp_path / "runs"), "--out", str(tmp_path / "board")]) == 0
    page = next((tmp_path / "board" / "rows").iterdir()).read_text()
    assert "Frame AUC under corruptions on Demo-A" in page
    assert "<polyline" in page
    assert f"{found['blur']['5'].frame_auc:.3f}" in page
    path.unlink()
    assert main(["train", *words, *settings, chosen]) == 0
    assert {file: file.stat().st_mtime_ns for file in (path.parent / "scores_corrupted").iterdir()} == stamps
    assert RunResult.load(path).robustness == result.robustness
    assert main(["train", *words, *settings, "protocol.corruptions={blurr: [1]}"]) == 2
    assert "no corruption is called 'blurr'" in capsys.readouterr().err
