"""Views of stored frames: drawing one (`View`), and carrying it out.

The two are separate, so that the same draw can be carried out here, picture by picture, or on the device in batches
(`device_transforms`).
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import cv2
import numpy as np

from resproto_fd.configs.schema import InputConfig


class Transform(Protocol):
    """Turns a stored frame into the detector's square; one seed fixes how."""

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """(image uint8 [H, W, 3] RGB, seed) -> image uint8 [S, S, 3]"""

    def geometry(self, seed: int, height: int, width: int) -> np.ndarray:
        """Affine map, [2, 3], from the pixels (x, y) of a frame of a size to those of the square. Changes of values
        alone (blur, colour, a part set to black) are not part of it."""


class View(NamedTuple):
    """Steps from a stored frame to the detector's square, in this order.

    Attributes:
        resized: Side of the square that the whole frame is resized to first; 0 leaves it as it is.
        top, left, height, width: The part that is cropped and resized to the detector's square.
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
    """Transform that shows each frame through a `View`. This class has the plain view, without randomness.

    Args:
        config: The detector's input.
    """

    config: InputConfig

    @property
    def side(self) -> int:
        """Side of the resulting square, in pixels."""
        return self.config.size

    @property
    def resized(self) -> int:
        """Field `resized` of every view that is drawn."""
        return 0

    def draw(self, seed: int, height: int, width: int) -> View:
        """Draws the view of a frame: the whole face, or its centre.

        Args:
            seed: The sample's seed.
            height, width: Size of the stored frame.
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


def _stretched(x: float, y: float) -> np.ndarray:
    """Matrix that resizes by two factors, [3, 3]; pixels' centres have whole numbers."""
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def mirrored(width: int) -> np.ndarray:
    """Matrix that exchanges left and right of a picture, [3, 3]."""
    return np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]])


def uniforms(seed: int, count: int) -> list[float]:
    """Draws numbers in [0, 1) that depend on the seed alone. NumPy keeps its bit streams from version to version."""
    return ((np.random.PCG64(seed).random_raw(count) >> 11) * 2.0**-53).tolist()


def look(image: np.ndarray, view: View, size: int) -> np.ndarray:
    """Shows a frame through a view. The frame itself is not changed, and may be returned.

    Args:
        image: RGB uint8, [H, W, 3].
        view: Drawn for its height and width.
        size: Side S of the resulting square.

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
