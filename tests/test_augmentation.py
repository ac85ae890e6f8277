"""Augmentations: DeepfakeBench's as albumentations 1.1.0 drew and did it, ResProto-FD's as the paper says, and the
device's pictures as the host's."""

import math
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made import TinyDetector, made_config, made_dataset

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import InputConfig
from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.augment.deepfakebench_recipe import Drawn, carry_out, draw
from resproto_fd.trainer.augment.transforms import plain_transform, train_transform
from resproto_fd.trainer.augment.views import View, look, uniforms
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.trainer import Trainer

GOLDEN = Path(__file__).parent / "golden" / "albumentations_1_1_0.npz"
INPUT = InputConfig(size=32)
SEEDS = range(6000)


def face(height=48, width=48, seed=0):
    """A smooth picture with some grain."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([120 + 80 * np.sin(x / 5) + y, 100 + 70 * np.cos(y / 4 + x / 9), 60 + 3 * x - y], -1)
    return (waves + np.random.default_rng(seed).normal(0, 4, waves.shape)).clip(0, 255).astype(np.uint8)


def is_about(share, wanted, count):
    """Within five standard deviations of a share of independent draws."""
    return abs(share - wanted) < 5 * math.sqrt(wanted * (1 - wanted) / count)


def is_uniform(values, low, high):
    """Kolmogorov's distance from the uniform distribution, at a level of one in a million."""
    ranks = (np.sort(np.asarray(values, dtype=float)) - low) / (high - low)
    distance = np.abs(ranks - (np.arange(len(ranks)) + 0.5) / len(ranks)).max()
    return ranks[0] >= 0 and ranks[-1] <= 1 and distance < 2.7 / math.sqrt(len(ranks))


# --- DeepfakeBench's recipe ------------------------------------------------------------------------------------


def golden_cases():
    with np.load(GOLDEN) as golden:
        return [name for name in golden.files if name != "image"]


@pytest.mark.parametrize("name", golden_cases())
def test_each_step_does_what_albumentations_1_1_0_did(name):
    """Outputs of that version's own functions, by OpenCV 4.11; builds of OpenCV differ by a level in some pixels."""
    with np.load(GOLDEN) as golden:
        image, expected = golden["image"], golden[name].astype(int)
    step, *numbers = name.split("_")
    numbers = [float(number) for number in numbers]
    if step in ("kernel", "quality"):
        value = int(numbers[0])
    else:
        value = numbers[0] if len(numbers) == 1 else tuple(numbers)
    error = np.abs(carry_out(image, Drawn(**{step: value})) - expected)
    assert error.max() <= (2 if step == "quality" else 1)
    assert error.mean() < 0.15
    assert np.abs(expected - image).mean() > 0.3


@pytest.fixture(scope="module")
def draws():
    return [draw(seed) for seed in SEEDS]


def test_flip_rotation_blur_and_jpeg_are_drawn_half_the_time(draws):
    assert is_about(np.mean([each.flipped for each in draws]), 0.5, len(draws))
    for name in ("angle", "kernel", "quality"):
        assert is_about(np.mean([getattr(each, name) is not None for each in draws]), 0.5, len(draws)), name


def test_angles_and_qualities_are_uniform_with_both_ends(draws):
    assert is_uniform([each.angle for each in draws if each.angle is not None], -10, 10)
    qualities = [each.quality for each in draws if each.quality is not None]
    assert set(qualities) == set(range(40, 101))
    assert is_uniform([quality + 0.5 for quality in qualities], 40, 101)


def test_blur_kernels_are_3_5_and_7_as_1_to_2_to_2(draws):
    kernels = [each.kernel for each in draws if each.kernel is not None]
    assert set(kernels) == {3, 5, 7}
    for kernel, share in ((3, 0.2), (5, 0.4), (7, 0.4)):
        assert is_about(np.mean(np.equal(kernels, kernel)), share, len(kernels))


def test_at_most_one_change_of_colour_is_drawn_each_as_often(draws):
    drawn = np.array([[value is not None for value in (each.light, each.pca, each.hsv)] for each in draws])
    assert drawn.sum(1).max() == 1
    for share in drawn.mean(0):
        assert is_about(share, 1 / 6, len(draws))


def test_colours_change_within_their_limits(draws):
    contrast, brightness = np.array([each.light for each in draws if each.light]).T
    assert is_uniform(contrast, 0.9, 1.1)
    assert is_uniform(brightness, -0.1, 0.1)
    for values, limit in zip(np.array([each.hsv for each in draws if each.hsv]).T, (20, 30, 20), strict=True):
        assert is_uniform(values, -limit, limit)
    alpha = np.array([each.pca for each in draws if each.pca is not None])
    normal = np.array([0.5 * (1 + math.erf(value / 0.1 / math.sqrt(2))) for value in alpha])
    assert is_uniform(normal, 0, 1)


def test_the_steps_of_a_sample_are_drawn_independently(draws):
    chosen = np.array(
        [[d.flipped, *(getattr(d, n) is not None for n in ("angle", "kernel", "quality"))] for d in draws]
    )
    values = [[each.angle, each.quality] for each in draws if None not in (each.angle, each.quality)]
    for table in (chosen.astype(float), np.array(values, dtype=float)):
        correlation = np.corrcoef(table.T)
        assert np.abs(correlation - np.eye(len(correlation))).max() < 5 / math.sqrt(len(table))


def test_the_jpeg_really_loses_and_more_the_lower_its_quality():
    image = face()
    losses = [np.abs(carry_out(image, Drawn(quality=q)).astype(int) - image).mean() for q in (100, 90, 70, 40)]
    assert losses == sorted(losses)
    assert losses[-1] > 3
    assert np.mean(losses[1:]) > 1.5


def test_a_rotation_mirrors_the_picture_into_its_corners():
    bright = np.full((40, 40, 3), 200, np.uint8)
    assert carry_out(bright, Drawn(angle=10.0)).min() == 200
    image = face(40, 40)
    turned = carry_out(image, Drawn(angle=10.0)).astype(int)
    matrix = cv2.getRotationMatrix2D((20, 20), 10.0, 1.0)
    x, y = np.linalg.solve(matrix[:, :2], np.array([1.0, 0.0]) - matrix[:, 2])  # what lands near the upper left corner
    assert min(x, y) < -2
    mirrored = image[round(abs(y)), round(abs(x))].astype(int)
    assert np.abs(turned[0, 1] - mirrored).max() < 40


def test_the_recipes_probabilities_and_limits_can_be_set():
    given = {
        "rotate_prob": 0.0,
        "flip_prob": 1.0,
        "quality_lower": 90,
        "blur_limit": [5, 5],
        "brightness_limit": [0, 0.2],
    }
    settings = train_transform({"deepfakebench": given}, INPUT).settings
    found = [draw(seed, settings) for seed in range(400)]
    assert all(each.flipped and each.angle is None and each.kernel in (None, 5) for each in found)
    assert {each.quality for each in found} == {None, *range(90, 101)}
    added = [each.light[1] for each in found if each.light]
    assert 0 <= min(added) < 0.02 and 0.18 < max(added) <= 0.2
    assert [draw(seed, train_transform({"deepfakebench": {}}, INPUT).settings) for seed in range(50)] == [
        draw(seed) for seed in range(50)
    ]


def test_the_recipe_leaves_frame_and_size_alone():
    image = face(64, 64)
    before = image.copy()
    transform = train_transform("deepfakebench", InputConfig(size=64))
    made = [transform(image, seed) for seed in range(60)]
    assert all(each.shape == image.shape and each.dtype == np.uint8 for each in made)
    np.testing.assert_array_equal(image, before)
    assert len({each.tobytes() for each in made}) > 50
    assert train_transform("deepfakebench", INPUT)(image, 3).shape == (32, 32, 3)


# --- ResProto-FD's recipe --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def views():
    transform = train_transform("resproto_fd", InputConfig(size=224))
    return [transform.draw(seed, 256, 256) for seed in SEEDS]


def test_half_of_the_views_are_crops_of_224_from_300_and_half_parts_of_its_area(views):
    assert {view.resized for view in views} == {300}
    crops = [view for view in views if (view.height, view.width) == (224, 224)]
    parts = [view for view in views if (view.height, view.width) != (224, 224)]
    assert is_about(len(crops) / len(views), 0.5, len(views))
    for view in views:
        assert min(view.top, view.left) >= 0
        assert max(view.top + view.height, view.left + view.width) <= 300
    assert {view.top for view in crops} == {view.left for view in crops} == set(range(77))
    areas = np.array([view.height * view.width for view in parts]) / 300**2
    ratios = np.array([view.width / view.height for view in parts])
    assert areas.min() > 0.795
    assert areas.max() <= 1
    assert areas.std() > 0.03
    assert ratios.min() > 0.745
    assert ratios.max() < 1.34
    assert abs(np.log(ratios).mean()) < 0.02


def test_blur_and_erasing_are_drawn_as_the_paper_says(views):
    sigma = np.array([view.sigma for view in views])
    assert is_about(np.mean(sigma > 0), 0.3, len(views))
    assert is_uniform(sigma[sigma > 0], 0.1, 1.5)
    erased = [view for view in views if view.erased_height]
    assert is_about(len(erased) / len(views), 0.3, len(views))
    areas = np.array([view.erased_height * view.erased_width for view in erased]) / 224**2
    ratios = np.array([view.erased_width / view.erased_height for view in erased])
    assert is_uniform(areas.clip(0.02, 0.2), 0.02, 0.2)
    assert np.abs(areas - areas.clip(0.02, 0.2)).max() < 0.002
    assert 0.28 < ratios.min() < 0.35
    assert 2.8 < ratios.max() < 3.5
    for view in erased:
        assert view.erased_top + view.erased_height <= 224
        assert view.erased_left + view.erased_width <= 224


def test_a_view_is_resized_cut_flipped_blurred_and_erased_in_this_order():
    image = face()
    view = View(40, 3, 5, 30, 34, True, 0.8, 2, 4, 10, 6)
    expected = cv2.resize(image, (40, 40), interpolation=cv2.INTER_CUBIC)[3:33, 5:39]
    expected = cv2.resize(np.ascontiguousarray(expected), (32, 32), interpolation=cv2.INTER_CUBIC)[:, ::-1]
    expected = cv2.GaussianBlur(np.ascontiguousarray(expected), (3, 3), 0.8)
    assert expected[2:12, 4:10].min() > 0
    expected[2:12, 4:10] = 0
    np.testing.assert_array_equal(look(image, view, 32), expected)


def test_a_frame_is_never_written_to():
    image = face(32, 32)
    image.setflags(write=False)
    seen = look(image, View(0, 0, 0, 32, 32, erased_height=8, erased_width=8), 32)
    assert seen[:8, :8].max() == 0
    assert image[:8, :8].max() > 0


@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_flips_and_crops_are_the_plain_view_or_parts_of_the_frame(fit):
    image, given = face(48, 40), InputConfig(size=32, fit=fit)
    plain = plain_transform(given)(image)
    flips = [train_transform("flip", given)(image, seed) for seed in range(200)]
    flipped = [np.array_equal(each, plain[:, ::-1]) for each in flips]
    assert all(turned or np.array_equal(each, plain) for turned, each in zip(flipped, flips, strict=True))
    assert is_about(np.mean(flipped), 0.5, len(flips))
    drawn = [train_transform("crop", given).draw(seed, 48, 40) for seed in range(500)]
    assert {view.top for view in drawn} == set(range(17))
    assert {view.left for view in drawn} == set(range(9))
    assert {(view.height, view.width) for view in drawn} == {(32, 32)}
    assert train_transform("crop", InputConfig(size=64))(image, 0).shape == (64, 64, 3)


@pytest.mark.parametrize("fit", ["resize", "crop"])
@pytest.mark.parametrize("name", ["none", "flip", "crop", "resproto_fd", "deepfakebench"])
def test_the_geometry_says_where_a_point_of_the_frame_goes(name, fit):
    """A bright spot, followed through the augmentation; other steps than the geometric ones do not move its middle."""
    transform = train_transform(name, InputConfig(size=64, fit=fit))
    followed = 0
    for seed in range(60):
        spot = np.array([30 + seed % 11, 40 - seed % 7], dtype=float)
        frame = np.zeros((72, 80, 3), np.uint8)
        y, x = np.mgrid[:72, :80]
        frame[:] = (250 * np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / 18))[..., None]
        matrix = transform.geometry(seed, 72, 80)
        assert matrix.shape == (2, 3)
        where = matrix[:, :2] @ spot + matrix[:, 2]
        image = transform(frame, seed).astype(float).max(-1)
        bright = np.where(image > 0.5 * image.max(), image, 0)
        if image.max() < 150 or min(where) < 8 or max(where) > 55:
            continue  # erased, or cut off
        rows, columns = np.indices(bright.shape)
        found = np.array([(columns * bright).sum(), (rows * bright).sum()]) / bright.sum()
        assert np.abs(found - where).max() < 0.4
        followed += 1
    assert followed > 30


def test_draws_are_the_same_with_every_version_of_numpy():
    assert uniforms(0, 2) == [0.6369616873214543, 0.2697867137638703]
    assert uniforms(4294967295, 1) == [0.2519435680449965]
    assert draw(2) == Drawn(True, pytest.approx(6.28451481), 7, pytest.approx((0.95499387, 0.0314866)), None, None, 66)
    recipe = train_transform("resproto_fd", InputConfig(size=224))
    assert recipe.draw(3, 256, 256) == (300, 11, 5, 277, 266, False, pytest.approx(0.43153471), 0, 0, 0, 0)
    assert recipe.draw(8, 256, 256) == (300, 60, 66, 224, 224, False, 0, 0, 0, 0, 0)


# --- on the device ---------------------------------------------------------------------------------------------


def on_device(name, images, seeds, given=INPUT):
    """Pictures (RGB uint8 [H, W, 3], perhaps of several sizes) augmented in one batch: uint8 [B, S, S, 3]."""
    transform = train_transform(name, given, on="device")
    height, width = (max(image.shape[i] for image in images) for i in (0, 1))
    canvas = torch.full((len(images), 3, height, width), 255, dtype=torch.uint8)
    for place, image in zip(canvas, images, strict=True):
        place[:, : image.shape[0], : image.shape[1]] = torch.from_numpy(image).permute(2, 0, 1)
    drawn = [transform.draw(seed, *image.shape[:2]) for seed, image in zip(seeds, images, strict=True)]
    return transform.batch(canvas, drawn).augmented().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize("name", ["none", "flip", "crop", "resproto_fd"])
@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_the_device_gives_the_hosts_pictures_but_for_rounding(name, fit):
    given = InputConfig(size=32, fit=fit)
    images = [face(48, 48, seed) if seed % 3 else face(37, 53, seed) for seed in range(40)]
    host = [train_transform(name, given)(image, seed) for seed, image in enumerate(images)]
    error = np.abs(on_device(name, images, range(40), given).astype(int) - np.array(host))
    assert error.max() <= 2
    assert error.mean() < 0.1


def test_a_samples_picture_does_not_depend_on_the_rest_of_its_batch():
    images = [face(48 + seed % 5, 48, seed) for seed in range(12)]
    together = on_device("resproto_fd", images, range(12))
    for seed, image in enumerate(images):
        np.testing.assert_array_equal(on_device("resproto_fd", [image], [seed])[0], together[seed])


def test_the_device_does_not_lose_bits_under_autocast():
    images = [face(seed=seed) for seed in range(8)]
    exact = on_device("resproto_fd", images, range(8))
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_array_equal(on_device("resproto_fd", images, range(8)), exact)


def test_jpeg_stays_on_the_host():
    with pytest.raises(UserError, match=r"run\.augment_on=host"):
        train_transform("deepfakebench", INPUT, on="device")


@pytest.mark.parametrize("name", ["none", "flip", "crop", "resproto_fd", "deepfakebench"])
def test_transforms_can_be_sent_to_another_process(name):
    for on in ("host", "device")[: 1 if name == "deepfakebench" else 2]:
        transform = train_transform(name, INPUT, on)
        assert pickle.loads(pickle.dumps(transform)) == transform


@pytest.mark.slow
def test_training_with_the_device_learns_what_the_host_would_whatever_the_workers(tmp_path):
    states = {}
    for on, workers in (("host", 0), ("device", 0), ("device", 1)):
        config = made_config(augment="resproto_fd", precision="fp64", run={"workers": workers})
        data = made_dataset(config)
        data.transform = train_transform("resproto_fd", config.detector.input, on)
        checkpoint.seed_everything(0)
        trainer = Trainer(TinyDetector(), data, config, World(0, 1, torch.device("cpu")), tmp_path / f"{on}{workers}")
        trainer.fit()
        states[on, workers] = trainer.detector.state_dict()
    for name, value in states["device", 0].items():
        assert torch.equal(value, states["device", 1][name]), name
        torch.testing.assert_close(value, states["host", 0][name], rtol=0.05, atol=0.01)
