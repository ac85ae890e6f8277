"""From a stored face crop to the square the detector is fed; random parts are a function of one seed per sample."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import cv2
import numpy as np

from resproto_fd.configs.schema import InputConfig

Transform = Callable[[np.ndarray, int], np.ndarray]
"""(image uint8 [H, W, 3] RGB, seed) -> image uint8 [S, S, 3]"""


def plain_transform(config: InputConfig) -> Transform:
    """No randomness: the whole face resized (bicubic, as DeepfakeBench does), or its centre cropped."""

    return partial(_plain, config)


def _plain(config: InputConfig, image: np.ndarray, seed: int = 0) -> np.ndarray:
    return _fit(image, config)


def _fit(image: np.ndarray, config: InputConfig) -> np.ndarray:
    height, width = image.shape[:2]
    size = config.size
    if config.fit == "crop" and min(height, width) >= size:
        top, left = (height - size) // 2, (width - size) // 2
        return np.ascontiguousarray(image[top : top + size, left : left + size])
    if (height, width) == (size, size):
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)


def train_transform(name: str, config: InputConfig) -> Transform:
    """The named augmentation.

    Args:
        name: `none` (the test transform), `flip`, `crop` (a random crop of the input's size, and a flip), `resproto_fd`
            (the paper's), or `deepfakebench` (its default recipe, parameters meant as in albumentations 1.1.0).
        config: The detector's input; its size is what comes out.
    """
    if name == "none":
        return plain_transform(config)
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations as A

    # No inner function: data workers that are not forked (macOS, Windows, Python 3.14) are sent it.
    return partial(_augmented, A.Compose(_recipe(A, name, config)), config)


def _augmented(pipeline: Any, config: InputConfig, image: np.ndarray, seed: int) -> np.ndarray:
    pipeline.set_random_seed(seed)
    return _fit(pipeline(image=image)["image"], config)


def _recipe(A: Any, name: str, config: InputConfig) -> list:
    size = config.size
    if name == "flip":
        return [A.HorizontalFlip(p=0.5)]
    if name == "crop":
        return [A.RandomCrop(size, size), A.HorizontalFlip(p=0.5)]
    if name == "resproto_fd":
        large = round(size * 300 / 224)
        crops = [
            A.RandomCrop(size, size),
            A.RandomResizedCrop((size, size), scale=(0.8, 1.0), interpolation=cv2.INTER_CUBIC),
        ]
        return [
            A.Resize(large, large, interpolation=cv2.INTER_CUBIC),
            A.OneOf(crops, p=1.0),
            A.GaussianBlur(blur_limit=(3, 3), sigma_limit=(0.1, 1.5), p=0.3),
            A.Erasing(scale=(0.02, 0.2), ratio=(0.3, 3.3), p=0.3),
        ]
    if name == "deepfakebench":
        colour = [
            A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.1),
            A.FancyPCA(alpha=0.1),
            A.HueSaturationValue(hue_shift_limit=20, sat_shift_limit=30, val_shift_limit=20),
        ]
        return [
            A.HorizontalFlip(p=0.5),
            A.Rotate(limit=10, border_mode=cv2.BORDER_REFLECT_101, p=0.5),
            A.OneOf([_blur(A, size) for size in (3, 5, 7)], p=0.5),
            A.OneOf(colour, p=0.5),
            A.ImageCompression(quality_range=(40, 100), p=0.5),
        ]
    raise ValueError(f"no augmentation is called '{name}'")


def _blur(A: Any, kernel: int) -> Any:
    """Gaussian blur of one kernel size with the deviation that OpenCV derives from it, as albumentations 1.1.0 did."""
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    return A.GaussianBlur(blur_limit=(kernel, kernel), sigma_limit=(sigma, sigma))
