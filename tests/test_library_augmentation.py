"""Albumentations in a YAML: what is refused, what a seed fixes, masks and landmarks, and the built-in recipes."""

import os
import pickle
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from made import TinyDetector, made_config, made_dataset

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import InputConfig
from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.augment.deepfakebench_recipe import Drawn, carry_out
from resproto_fd.trainer.augment.library import LibraryTransform
from resproto_fd.trainer.augment.transforms import check_augment, train_transform
from resproto_fd.trainer.companions import Companions, carried
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.trainer import Trainer

INPUT = InputConfig(size=48)
STEPS = [
    "HorizontalFlip",
    {"Affine": {"rotate": [-20, 20], "scale": [0.8, 1.2], "p": 0.9}},
    {"OneOf": {"p": 0.8, "transforms": [{"GaussianBlur": {"blur_limit": [3, 7]}}, {"GaussNoise": {"p": 1}}]}},
    {"ImageCompression": {"quality_range": [40, 100], "p": 0.5}},
]


def face(height=48, width=48, seed=0):
    """A smooth picture with some grain."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([120 + 80 * np.sin(x / 5) + y, 100 + 70 * np.cos(y / 4 + x / 9), 60 + 3 * x - y], -1)
    return (waves + np.random.default_rng(seed).normal(0, 4, waves.shape)).clip(0, 255).astype(np.uint8)


def of_library(*steps, given=INPUT):
    return train_transform({"albumentations": list(steps)}, given)


def checked(*steps, given=INPUT):
    check_augment({"albumentations": list(steps)}, given)


# --- what is refused before anything runs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            ["GaussianBlurr"],
            r"albumentations\[0\]: Albumentations 2.* no transform 'GaussianBlurr'; the nearest is 'Gaus",
        ),
        (
            ["HorizontalFlip", {"Rotate": {"limits": 5}}],
            r"\[1\]: Rotate has no argument 'limits'; the nearest is 'limit'",
        ),
        ([{"GaussianBlur": {"p": 2}}], r"\[0\]: GaussianBlur: .*less than or equal to 1"),
        ([{"Rotate": {"limit": "far"}}], r"\[0\]: Rotate: "),
        ([{"OneOf": {"p": 1}}], "OneOf needs a list of transforms"),
        ([{"OneOf": {"transforms": [{"Blurr": None}]}}], r"OneOf.transforms\[0\]: .*no transform 'Blurr'"),
        (["Normalize"], "expected RGB pictures of bytes"),
        (["ToTensorV2"], "no transform 'ToTensorV2'"),
        ([{"Lambda": {"image": "eval"}}], "no transform 'Lambda'"),
        ([{"RandomCrop": {"height": 9999, "width": 9999}}], "cannot be carried out"),
        ([{"RandomCrop": {"height": 9999, "width": 9999, "p": 1e-6}}], "cannot be carried out"),
        ([{"ToGray": {"num_output_channels": 1, "p": 1}}], "expected RGB pictures of bytes"),
    ],
)
def test_a_list_is_refused_by_its_step(steps, message):
    with pytest.raises(UserError, match=message):
        checked(*steps)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train.augment=flop"], "expected none, flip, .* got 'flop'; the nearest is 'flip'"),
        (["train.augment={albumentation: [HorizontalFlip]}"], "expected {albumentations:"),
        (["train.augment={albumentations: []}"], "expected {albumentations:"),
        (["train.augment={albumentations: [{Rotate: 5}]}"], "expected NAME or {NAME:"),
        (["train.augment={albumentations: [{Rotate: {}, Blur: {}}]}"], "expected NAME or {NAME:"),
    ],
)
def test_another_form_is_refused_by_the_schema(words, message):
    with pytest.raises(UserError, match=message):
        loading.resolve("clip_tiny", "demo_cross", loading.parse_overrides(words))


def test_a_crop_may_be_as_large_as_a_stored_frame():
    LibraryTransform(INPUT, [{"RandomCrop": {"height": 224, "width": 224}}]).check()


def test_the_list_stays_on_the_host_and_is_kept_in_the_configuration():
    with pytest.raises(UserError, match=r"run\.augment_on=host"):
        train_transform({"albumentations": STEPS}, INPUT, on="device")
    words = ["train.augment={albumentations: [{Rotate: {limit: 5}}]}"]
    config = loading.resolve("clip_tiny", "demo_cross", loading.parse_overrides(words))
    again = loading.parse_yaml(loading.dump(config), "dump")
    assert again["detector"]["train"]["augment"] == {"albumentations": [{"Rotate": {"limit": 5}}]}


@pytest.mark.slow
def test_importing_the_library_asks_no_server():
    code = (
        "import socket, urllib.request\n"
        "def refuse(*a, **k): raise SystemExit('asked a server')\n"
        "urllib.request.urlopen = socket.create_connection = socket.socket.connect = refuse\n"
        "from resproto_fd.trainer.augment.transforms import check_augment\n"
        "from resproto_fd.configs.schema import InputConfig\n"
        "import sys; assert 'albumentations' not in sys.modules\n"
        "check_augment({'albumentations': ['HorizontalFlip']}, InputConfig())\n"
    )
    there = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=there)
    assert (done.returncode, done.stderr) == (0, "")


# --- what a seed fixes ----------------------------------------------------------------------------------------------


def test_a_sample_depends_on_its_seed_alone():
    checked(*STEPS)
    images = [face(48, 48, seed) if seed % 3 else face(37, 53, seed) for seed in range(20)]
    one, other = of_library(*STEPS), pickle.loads(pickle.dumps(of_library(*STEPS)))
    forwards = [one(image, seed) for seed, image in enumerate(images)]
    backwards = [other(image, seed) for seed, image in reversed(list(enumerate(images)))][::-1]
    np.random.default_rng(3)
    np.testing.assert_array_equal(forwards, backwards)
    assert {made.shape for made in forwards} == {(48, 48, 3)}
    assert len({one(images[0], seed).tobytes() for seed in range(20)}) > 15


def test_a_stored_frame_is_never_written_to():
    image = face()
    image.flags.writeable = False
    before = image.copy()
    for step in ("HorizontalFlip", "CoarseDropout", "RandomBrightnessContrast", "GridDropout", "PixelDropout", "Blur"):
        of_library({step: {"p": 1}})(image, 3)
    np.testing.assert_array_equal(image, before)


@pytest.mark.slow
def test_training_is_the_same_with_workers_and_after_a_resume(tmp_path):
    def trainer(name, workers=0):
        run = {"workers": workers, "save_every": 1}
        config = made_config(augment={"albumentations": STEPS}, precision="fp64", run=run)
        checkpoint.seed_everything(0)
        world = World(0, 1, torch.device("cpu"))
        return Trainer(TinyDetector(), made_dataset(config), config, world, tmp_path / name)

    whole, with_worker, cut = trainer("whole"), trainer("workers", 1), trainer("cut")
    whole.fit()
    with_worker.fit()
    step = cut._step

    def step_and_stop(micro):
        if cut.progress.step == 3:
            raise KeyboardInterrupt
        return step(micro)

    cut._step = step_and_stop
    with pytest.raises(KeyboardInterrupt):
        cut.fit()
    resumed = trainer("cut")
    resumed.fit()
    for other in (with_worker, resumed):
        for name, value in whole.detector.state_dict().items():
            assert torch.equal(value, other.detector.state_dict()[name]), name


# --- masks, landmarks, second views ---------------------------------------------------------------------------------


def spot(points, side):
    """A mask with a disc at each point."""
    mask = np.zeros((side, side), np.uint8)
    for x, y in points:
        cv2.circle(mask, (round(x), round(y)), 4, 255, -1)
    return mask


@pytest.mark.parametrize("fit", ["resize", "crop"])
def test_masks_and_landmarks_go_where_the_picture_goes(fit):
    points, followed = np.array([[20.0, 30.0], [60.0, 50.0]]), 0
    mask = spot(points, 96)
    image = np.repeat(mask[..., None], 3, 2)
    transform = of_library(
        "HorizontalFlip",
        {"Affine": {"rotate": [-15, 15], "scale": [0.9, 1.1], "p": 1}},
        given=InputConfig(size=64, fit=fit),
    )
    for seed in range(10):
        shown, moved, where = carried(transform, image, seed, mask, points)
        assert (shown.dtype, moved.dtype, where.dtype) == (np.uint8, np.uint8, np.float32)
        assert shown.shape == (64, 64, 3) and moved.shape == (64, 64) and where.shape == (2, 2)
        assert np.abs(shown[..., 0].astype(int) - moved).mean() < 3
        for x, y in where:
            if 6 < x < 58 and 6 < y < 58:
                assert moved[round(y), round(x)] > 200
                followed += 1
    assert followed > 8


def test_a_picture_is_the_same_with_and_without_its_companions():
    transform = of_library(*STEPS)
    for seed in range(10):
        shown, _, _ = carried(transform, face(), seed, spot([(20, 20)], 48), np.array([[20.0, 20.0]]))
        np.testing.assert_array_equal(shown, transform(face(), seed))


def test_second_views_and_partners_are_augmented_by_the_list_too():
    config = made_config(augment={"albumentations": STEPS})
    wanted = Companions(second_view=True, partner_of=lambda index, seed: index ^ 1)
    batch = made_dataset(config, companions=wanted).__getitems__([(0, 2), (0, 3)])
    plain = made_dataset(made_config(augment="none"), companions=wanted).__getitems__([(0, 2), (0, 3)])
    for name in ("image", "second_view", "partner"):
        assert batch[name].shape == plain[name].shape and not torch.equal(batch[name], plain[name])
    assert not torch.equal(batch["image"], batch["second_view"])


# --- beside the built-in recipes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drawn", "step", "most"),
    [
        (Drawn(flipped=True), {"HorizontalFlip": {"p": 1}}, 0),
        (Drawn(kernel=5), {"GaussianBlur": {"blur_limit": [5, 5], "sigma_limit": [1.1, 1.1], "p": 1}}, 1),
        (
            Drawn(light=(1.05, 0.05)),
            {"RandomBrightnessContrast": {"brightness_limit": [0.05, 0.05], "contrast_limit": [0.05, 0.05], "p": 1}},
            1,
        ),
        (
            Drawn(hsv=(10.0, 15.0, -10.0)),
            {"HueSaturationValue": {
                "hue_shift_limit": [10, 10], "sat_shift_limit": [15, 15], "val_shift_limit": [-10, -10], "p": 1,
            }},
            1,
        ),
        (Drawn(quality=60), {"ImageCompression": {"quality_range": [60, 60], "p": 1}}, 2),
    ],
)  # fmt: skip
def test_the_built_in_steps_are_the_librarys_where_version_2_still_does_the_same(drawn, step, most):
    """Its rotation is about another centre now, and its blur's deviation must be told."""
    built_in, library = carry_out(face(), drawn).astype(int), of_library(step)(face(), 1)
    assert np.abs(built_in - library).max() <= most
    assert np.abs(built_in - face()).mean() > 0.3


def test_no_step_at_all_is_the_plain_view():
    for fit in ("resize", "crop"):
        given = InputConfig(size=40, fit=fit)
        np.testing.assert_array_equal(
            LibraryTransform(given, ["NoOp"])(face(), 0), train_transform("none", given)(face(), 0)
        )
