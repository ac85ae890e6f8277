"""DeepfakeBench's training augmentation, as albumentations 1.1.0 (the version that it pins) carries it out.

Later versions read the same arguments in another way: JPEG quality is always 99-100, the blur's deviation is drawn, and
the corners of a rotated picture are black. So each step is written out here, with OpenCV:

    flip                                               p 0.5
    rotation, -10 to 10 degrees about (W/2, H/2),      p 0.5    linear, corners mirrored (reflect-101)
    Gaussian blur, kernel 3, 5 or 7                    p 0.5    2 : 4 : 4, for it draws from 3..7 and adds 1 to 4 and 6;
                                                                deviation as OpenCV derives it from the kernel
    one of, a third each                               p 0.5
        brightness and contrast, each -0.1 to 0.1               brightness by the maximum
        "fancy PCA", alpha normal of deviation 0.1              with the eigenvectors transposed, as written there
        hue -20 to 20, saturation -30 to 30, value -20 to 20    uniform, not whole; of OpenCV's HSV
    JPEG, quality 40 to 100                            p 0.5    red and blue are exchanged for coding

Probabilities and limits are the defaults; a YAML may set others (`DeepfakeBenchAugment`). The recipe's isotropic resize
does nothing, because the frame already has its size. Values are truncated to bytes, not rounded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from resproto_fd.configs.schema import DeepfakeBenchAugment, InputConfig
from resproto_fd.trainer.augment.views import Viewing, mirrored, uniforms

PCA_DEVIATION = 0.1
HUE, SATURATION, VALUE = 20.0, 30.0, 20.0
DEFAULT = DeepfakeBenchAugment()


class Drawn(NamedTuple):
    """What is done to one sample. None leaves the step out.

    Attributes:
        flipped: Left and right exchanged.
        angle: Angle of the rotation in degrees, anticlockwise.
        kernel: Side of the blur's kernel.
        light: (contrast factor, brightness added, of the whole range).
        pca: Alpha of the fancy PCA.
        hsv: Added to hue (in OpenCV's steps of two degrees), saturation and value.
        quality: Quality of the JPEG.
    """

    flipped: bool = False
    angle: float | None = None
    kernel: int | None = None
    light: tuple[float, float] | None = None
    pca: float | None = None
    hsv: tuple[float, float, float] | None = None
    quality: int | None = None


@dataclass(frozen=True)
class DeepfakeBenchRecipe:
    """Resizes frames to the detector's size and carries out the recipe.

    Args:
        config: The detector's input.
        settings: Probabilities and limits of the steps.
    """

    config: InputConfig
    settings: DeepfakeBenchAugment = field(default_factory=DeepfakeBenchAugment)

    @property
    def side(self) -> int:
        """Side of the resulting square, in pixels."""
        return self.config.size

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        return carry_out(Viewing(self.config)(image), draw(seed, self.settings))

    def geometry(self, seed: int, height: int, width: int) -> np.ndarray:
        """See `views.Transform`."""
        drawn, size = draw(seed, self.settings), self.config.size
        matrix = np.vstack([Viewing(self.config).geometry(0, height, width), (0, 0, 1)])
        if drawn.flipped:
            matrix = mirrored(size) @ matrix
        return matrix[:2] if drawn.angle is None else _rotation(size, size, drawn.angle) @ matrix


def draw(seed: int, settings: DeepfakeBenchAugment = DEFAULT) -> Drawn:
    """Draws what is done to a sample from its seed."""
    u = uniforms(seed, 14)
    colour = int(3 * u[7]) if u[6] < 0.5 else None
    kernels = [side if side % 2 else side + 1 for side in range(settings.blur_limit[0], settings.blur_limit[1] + 1)]
    qualities = settings.quality_upper - settings.quality_lower + 1
    light = colour == 0
    return Drawn(
        flipped=u[0] < settings.flip_prob,
        angle=_within(u[2], settings.rotate_limit) if u[1] < settings.rotate_prob else None,
        kernel=kernels[int(len(kernels) * u[4])] if u[3] < settings.blur_prob else None,
        light=(1 + _within(u[8], settings.contrast_limit), _within(u[9], settings.brightness_limit)) if light else None,
        pca=PCA_DEVIATION * _normal(u[8], u[9]) if colour == 1 else None,
        hsv=(_around(u[8], HUE), _around(u[9], SATURATION), _around(u[10], VALUE)) if colour == 2 else None,
        quality=settings.quality_lower + int(qualities * u[12]) if u[11] < 0.5 else None,
    )


def _within(u: float, limits: Sequence[float]) -> float:
    low, high = limits
    return (low + high) / 2 + _around(u, (high - low) / 2)


def _around(u: float, limit: float) -> float:
    return (2 * u - 1) * limit


def _normal(u: float, v: float) -> float:
    """Turns two uniform numbers into a normal one (Box and Muller)."""
    return math.sqrt(-2 * math.log(1 - u)) * math.cos(2 * math.pi * v)


def carry_out(image: np.ndarray, drawn: Drawn) -> np.ndarray:
    """Carries out what was drawn on a picture (RGB uint8, [S, S, 3]), which itself is not changed."""
    if drawn.flipped:
        image = cv2.flip(image, 1)
    if drawn.angle is not None:
        image = _rotated(image, drawn.angle)
    if drawn.kernel is not None:
        image = cv2.GaussianBlur(image, (drawn.kernel, drawn.kernel), 0)
    if drawn.light is not None:
        image = _lit(image, *drawn.light)
    if drawn.pca is not None:
        image = _pca_shifted(image, drawn.pca)
    if drawn.hsv is not None:
        image = hsv_shifted(image, drawn.hsv)
    if drawn.quality is not None:
        _, encoded = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, drawn.quality))
        image = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    return image


def _rotated(image: np.ndarray, angle: float) -> np.ndarray:
    height, width = image.shape[:2]
    matrix = _rotation(height, width, angle)
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _rotation(height: int, width: int, angle: float) -> np.ndarray:
    return cv2.getRotationMatrix2D((width / 2, height / 2), angle, 1.0)


def _table(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


_BYTES = np.arange(256, dtype=np.float32)


def _lit(image: np.ndarray, contrast: float, brightness: float) -> np.ndarray:
    return cv2.LUT(image, _table(_BYTES * np.float32(contrast) + np.float32(brightness * 255)))


def _pca_shifted(image: np.ndarray, alpha: float) -> np.ndarray:
    """Shifts each channel by one number, from the colours' covariance."""
    values, vectors = np.linalg.eigh(_covariance(image))
    shift = 255 * vectors[:, ::-1].T @ (alpha * values[::-1])
    return cv2.LUT(image, _table(np.arange(256.0)[:, None] + shift)[:, None])


def _covariance(image: np.ndarray) -> np.ndarray:
    """Covariance of the three channels, values in [0, 1], [3, 3]. It sums whole numbers, so nothing is rounded."""
    planes, count = cv2.split(image), image.shape[0] * image.shape[1]
    sums = np.array(cv2.sumElems(image)[:3])
    squares = [cv2.norm(plane, cv2.NORM_L2SQR) for plane in planes]
    products = np.diag(squares)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        difference = cv2.norm(planes[i], planes[j], cv2.NORM_L2SQR)
        products[i, j] = products[j, i] = (squares[i] + squares[j] - difference) / 2
    return (products - np.outer(sums, sums) / count) / (count - 1) / 255**2


def hsv_shifted(image: np.ndarray, shifts: tuple[float, float, float]) -> np.ndarray:
    """Shifts the hue (in steps of two degrees), saturation and value of a picture (RGB uint8)."""
    hue, saturation, value = map(np.float32, shifts)
    table = np.stack([np.mod(_BYTES + hue, 180), np.clip(_BYTES + saturation, 0, 255), np.clip(_BYTES + value, 0, 255)])
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table.T.astype(np.uint8)[:, None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
