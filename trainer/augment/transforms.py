"""From a stored face crop to the square the detector is fed; random parts are a function of one seed per sample.

What is drawn (`View`) is apart from what is done with it, so that the same draw can be carried out here, picture by
picture, or on the device in batches (`device_transforms`).
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import cv2
import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import InputConfig

if TYPE_CHECKING:
    from resproto_fd.trainer.augment.device_transforms import OnDevice


class Transform(Protocol):
    """From a stored frame to the detector's square, as one seed decides."""

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """(image uint8 [H, W, 3] RGB, seed) -> image uint8 [S, S, 3]"""

    def geometry(self, seed: int, height: int, width: int) -> np.ndarray:
        """Where a frame of a size goes: the affine map, [2, 3], from its pixels (x, y) to those of the square. What is
        done to values alone (blur, colour, a part set to black) is no part of it."""


RESIZED = 300 / 224
"""ResProto-FD: side of the resized face by side of the crop."""
CROP_SCALE = (0.8, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_ATTEMPTS = 10
BLUR_SIGMA = (0.1, 1.5)
BLUR_PROBABILITY = 0.3
ERASED_SCALE = (0.02, 0.2)
ERASED_RATIO = (0.3, 3.3)
ERASING_PROBABILITY = 0.3


class View(NamedTuple):
    """How a stored frame is looked at, in this order.

    Attributes:
        resized: Side of the square that the whole frame is resized to first; 0 leaves it as it is.
        top, left, height, width: The part that is cut out, and resized to the detector's square.
        flipped: Left and right exchanged.
        sigma: Deviation of a 3 x 3 Gaussian blur, in pixels; 0 for none.
        erased_top, erased_left, erased_height, erased_width: The part set to black.
    """

    resized: int
    top: int
    left: int
    height: int
    width: int
    flipped: bool = False
    sigma: float = 0.0
    erased_top: int = 0
    erased_left: int = 0
    erased_height: int = 0
    erased_width: int = 0


@dataclass(frozen=True)
class Viewing:
    """A transform that looks at each frame through a `View`; of this class, a plain one: no randomness.

    Args:
        config: The detector's input.
    """

    config: InputConfig

    @property
    def side(self) -> int:
        """Of the square that comes out, in pixels."""
        return self.config.size

    @property
    def resized(self) -> int:
        """`View.resized` of every view that is drawn."""
        return 0

    def draw(self, seed: int, height: int, width: int) -> View:
        """The view of a frame of a size: the whole face, or its centre.

        Args:
            seed: The sample's.
            height, width: Of the stored frame.
        """
        size = self.config.size
        if self.config.fit == "crop" and min(height, width) >= size:
            return View(0, (height - size) // 2, (width - size) // 2, size, size)
        return View(0, 0, 0, height, width)

    def __call__(self, image: np.ndarray, seed: int = 0) -> np.ndarray:
        return look(image, self.draw(seed, *image.shape[:2]), self.config.size)

    def geometry(self, seed: int, height: int, width: int) -> np.ndarray:
        """See `Transform`."""
        view, size = self.draw(seed, height, width), self.config.size
        matrix = np.eye(3)
        if view.resized:
            matrix = _stretched(view.resized / width, view.resized / height)
        cut = np.array([[1.0, 0, -view.left], [0, 1, -view.top], [0, 0, 1]])
        matrix = _stretched(size / view.width, size / view.height) @ cut @ matrix
        if view.flipped:
            matrix = mirrored(size) @ matrix
        return matrix[:2]


def plain_transform(config: InputConfig) -> Viewing:
    """No randomness: the whole face resized (bicubic, as DeepfakeBench does), or its centre cropped."""
    return Viewing(config)


def train_transform(name: str, config: InputConfig, on: str = "host") -> "Transform | OnDevice":
    """The named augmentation.

    Args:
        name: `none` (the test transform), `flip`, `crop` (a random crop of the input's size, and a flip), `resproto_fd`
            (the paper's), or `deepfakebench` (its default recipe, see `deepfakebench_recipe`).
        config: The detector's input; its size is what comes out.
        on: Carried out on the `host`, picture by picture, or on the `device` in batches: the same draws, and the same
            pictures but for rounding.

    Raises:
        UserError: `deepfakebench` on the device.
    """
    if name == "deepfakebench":
        from resproto_fd.trainer.augment.deepfakebench_recipe import DeepfakeBenchRecipe

        if on == "device":
            raise UserError(
                "train.augment 'deepfakebench' ends in JPEG, which is OpenCV's and on the host; say run.augment_on=host"
            )
        return DeepfakeBenchRecipe(config)
    viewing = {"none": Viewing, "flip": Flip, "crop": Crop, "resproto_fd": ResProtoFD}[name](config)
    if on == "host":
        return viewing
    from resproto_fd.trainer.augment.device_transforms import OnDevice

    return OnDevice(viewing)


class Flip(Viewing):
    """The plain view, flipped half the time."""

    def draw(self, seed: int, height: int, width: int) -> View:
        return super().draw(seed, height, width)._replace(flipped=uniforms(seed, 1)[0] < 0.5)


class Crop(Viewing):
    """A random crop of the input's size, flipped half the time; a frame smaller than that is resized to it."""

    def draw(self, seed: int, height: int, width: int) -> View:
        u, size = uniforms(seed, 3), self.config.size
        if min(height, width) < size:
            return View(0, 0, 0, height, width, u[0] < 0.5)
        return View(0, _below(u[1], height - size + 1), _below(u[2], width - size + 1), size, size, u[0] < 0.5)


class ResProtoFD(Viewing):
    """ResProto-FD's recipe: the face resized to 300 (for an input of 224), then a random crop of 224 or, as often, a
    random part of 0.8 to 1 of the area resized to 224; blurred and erased each with probability 0.3.
    """

    @property
    def resized(self) -> int:
        return round(self.config.size * RESIZED)

    def draw(self, seed: int, height: int, width: int) -> View:
        u, size = iter(uniforms(seed, 9 + 4 * CROP_ATTEMPTS)), self.config.size
        resized = self.resized
        sigma = _between(next(u), BLUR_SIGMA) if next(u) < BLUR_PROBABILITY else 0.0
        erased = (0, 0, 0, 0)
        if next(u) < ERASING_PROBABILITY:
            erased = _part(size, next(u), next(u), ERASED_SCALE, ERASED_RATIO, next(u), next(u))
        if next(u) < 0.5:
            top, left = _below(next(u), resized - size + 1), _below(next(u), resized - size + 1)
            return View(resized, top, left, size, size, False, sigma, *erased)
        for _ in range(CROP_ATTEMPTS):
            part = _part(resized, next(u), next(u), CROP_SCALE, CROP_RATIO, next(u), next(u))
            if max(part[2:]) <= resized:
                return View(resized, *part, False, sigma, *erased)
        return View(resized, 0, 0, resized, resized, False, sigma, *erased)


def _stretched(x: float, y: float) -> np.ndarray:
    """Resizing by two factors, [3, 3]; whole numbers are the pixels' centres."""
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def mirrored(width: int) -> np.ndarray:
    """Left and right of a picture exchanged, [3, 3]."""
    return np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]])


def uniforms(seed: int, count: int) -> list[float]:
    """Numbers in [0, 1), a function of the seed alone: NumPy keeps its bit streams from version to version."""
    return ((np.random.PCG64(seed).random_raw(count) >> 11) * 2.0**-53).tolist()


def _between(u: float, limits: tuple[float, float]) -> float:
    return limits[0] + u * (limits[1] - limits[0])


def _below(u: float, count: int) -> int:
    return min(int(u * count), count - 1)


def _part(
    side: int, scale: float, ratio: float, scales: tuple, ratios: tuple, down: float, right: float
) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a part of a square: its share of the area uniform, its width by height uniform in
    the logarithm, its place uniform. It may be too large; its place is then nought."""
    area = side * side * _between(scale, scales)
    aspect = math.exp(_between(ratio, (math.log(ratios[0]), math.log(ratios[1]))))
    height, width = max(1, round(math.sqrt(area / aspect))), max(1, round(math.sqrt(area * aspect)))
    return _below(down, max(side - height, 0) + 1), _below(right, max(side - width, 0) + 1), height, width


def look(image: np.ndarray, view: View, size: int) -> np.ndarray:
    """A frame through a view. It is not written to, and may be what is returned.

    Args:
        image: RGB uint8, [H, W, 3].
        view: Drawn for its height and width.
        size: Side S of the square that comes out.

    Returns:
        uint8 [S, S, 3], not always contiguous.
    """
    stored = image
    if view.resized:
        image = _resized(image, view.resized)
    part = image[view.top : view.top + view.height, view.left : view.left + view.width]
    image = _resized(part, size)
    if view.flipped:
        image = cv2.flip(image, 1)
    if view.sigma:
        image = cv2.GaussianBlur(image, (3, 3), view.sigma)
    if view.erased_height:
        image = image.copy() if np.shares_memory(image, stored) else image
        bottom, right = view.erased_top + view.erased_height, view.erased_left + view.erased_width
        image[view.erased_top : bottom, view.erased_left : right] = 0
    return image


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    if image.shape[:2] == (side, side):
        return image
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
