"""DeepfakeBench's training augmentation, as albumentations 1.1.0 carried it out (the version it pins).

Later versions read the same arguments otherwise: of JPEG they keep the quality at 99-100, of the blur they draw the
deviation, of the rotation they fill the corners with black. So each step is written out here, with OpenCV:

    flip                                               p 0.5
    rotation, -10 to 10 degrees about (W/2, H/2),      p 0.5    linear, corners mirrored (reflect-101)
    Gaussian blur, kernel 3, 5 or 7                    p 0.5    2 : 4 : 4, for it draws from 3..7 and adds 1 to 4 and 6;
                                                                deviation as OpenCV derives it from the kernel
    one of, a third each                               p 0.5
        brightness and contrast, each -0.1 to 0.1               brightness by the maximum
        "fancy PCA", alpha normal of deviation 0.1              with the eigenvectors transposed, as written there
        hue -20 to 20, saturation -30 to 30, value -20 to 20    uniform, not whole; of OpenCV's HSV
    JPEG, quality 40 to 100                            p 0.5    red and blue are taken for one another

Its isotropic resize does nothing, the frame having its size already. Values are cut, not rounded, to bytes.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from resproto_fd.configs.schema import InputConfig
from resproto_fd.trainer.augment.views import Viewing, mirrored, uniforms

ANGLE = 10.0
KERNELS = (3, 5, 5, 7, 7)
BRIGHTNESS = CONTRAST = 0.1
PCA_DEVIATION = 0.1
HUE, SATURATION, VALUE = 20.0, 30.0, 20.0
QUALITIES = (40, 100)


class Drawn(NamedTuple):
    """What is done to one sample; None is not at all.

    Attributes:
        flipped: Left and right exchanged.
        angle: Of the rotation, in degrees, anticlockwise.
        kernel: Side of the blur's kernel.
        light: (contrast factor, brightness added, of the whole range).
        pca: Alpha of the fancy PCA.
        hsv: Added to hue (in OpenCV's steps of two degrees), saturation and value.
        quality: Of the JPEG.
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
    """The recipe, on frames brought to the detector's size.

    Args:
        config: The detector's input.
    """

    config: InputConfig

    @property
    def side(self) -> int:
        """Of the square that comes out, in pixels."""
        return self.config.size

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        return carry_out(Viewing(self.config)(image), draw(seed))

    def geometry(self, seed: int, height: int, width: int) -> np.ndarray:
        """See `views.Transform`."""
        drawn, size = draw(seed), self.config.size
        matrix = np.vstack([Viewing(self.config).geometry(0, height, width), (0, 0, 1)])
        if drawn.flipped:
            matrix = mirrored(size) @ matrix
        return matrix[:2] if drawn.angle is None else _rotation(size, size, drawn.angle) @ matrix


def draw(seed: int) -> Drawn:
    """What a sample's seed stands for."""
    u = uniforms(seed, 14)
    colour = int(3 * u[7]) if u[6] < 0.5 else None
    return Drawn(
        flipped=u[0] < 0.5,
        angle=_around(u[2], ANGLE) if u[1] < 0.5 else None,
        kernel=KERNELS[int(5 * u[4])] if u[3] < 0.5 else None,
        light=(1 + _around(u[8], CONTRAST), _around(u[9], BRIGHTNESS)) if colour == 0 else None,
        pca=PCA_DEVIATION * _normal(u[8], u[9]) if colour == 1 else None,
        hsv=(_around(u[8], HUE), _around(u[9], SATURATION), _around(u[10], VALUE)) if colour == 2 else None,
        quality=QUALITIES[0] + int((QUALITIES[1] - QUALITIES[0] + 1) * u[12]) if u[11] < 0.5 else None,
    )


def _around(u: float, limit: float) -> float:
    return (2 * u - 1) * limit


def _normal(u: float, v: float) -> float:
    """Box and Muller."""
    return math.sqrt(-2 * math.log(1 - u)) * math.cos(2 * math.pi * v)


def carry_out(image: np.ndarray, drawn: Drawn) -> np.ndarray:
    """A picture (RGB uint8, [S, S, 3]) after what was drawn; it is not written to."""
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
    """Each channel moved by one number, from the colours' covariance."""
    values, vectors = np.linalg.eigh(_covariance(image))
    shift = 255 * vectors[:, ::-1].T @ (alpha * values[::-1])
    return cv2.LUT(image, _table(np.arange(256.0)[:, None] + shift)[:, None])


def _covariance(image: np.ndarray) -> np.ndarray:
    """Of the three channels over the pixels, values in [0, 1], [3, 3]. Sums of whole numbers, so without rounding."""
    planes, count = cv2.split(image), image.shape[0] * image.shape[1]
    sums = np.array(cv2.sumElems(image)[:3])
    squares = [cv2.norm(plane, cv2.NORM_L2SQR) for plane in planes]
    products = np.diag(squares)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        difference = cv2.norm(planes[i], planes[j], cv2.NORM_L2SQR)
        products[i, j] = products[j, i] = (squares[i] + squares[j] - difference) / 2
    return (products - np.outer(sums, sums) / count) / (count - 1) / 255**2


def hsv_shifted(image: np.ndarray, shifts: tuple[float, float, float]) -> np.ndarray:
    """A picture (RGB uint8) with something added to its hue (in steps of two degrees), saturation and value."""
    hue, saturation, value = map(np.float32, shifts)
    table = np.stack([np.mod(_BYTES + hue, 180), np.clip(_BYTES + saturation, 0, 255), np.clip(_BYTES + value, 0, 255)])
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), table.T.astype(np.uint8)[:, None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
