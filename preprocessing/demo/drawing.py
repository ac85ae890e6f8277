"""Brushes of the demo data: shapes, noise and colours on a canvas that is larger than the frame.

Colours are RGB in [0, 1]. Face coordinates have the bridge of the nose near (0, 0), x to the right and y downwards; one
unit is about half the width of the face.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

FRAME = 256  # height and width of a frame
CANVAS = 384  # height and width at which a face is painted
UNIT = 112.0  # canvas pixels of one face unit
CENTRE = (192.0, 182.0)  # canvas position of the face's origin


def smooth(points, rounds: int = 3) -> np.ndarray:
    """Cuts off the corners of a closed polygon [K, 2]: [2**rounds * K, 2]."""
    points = np.asarray(points, np.float64)
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], 1).reshape(-1, 2)
    return points


def polygon_mask(points: np.ndarray, size: int, blur: float = 0.0) -> np.ndarray:
    """Fills a polygon [K, 2] (in pixels): float32 in [0, 1], [size, size]. `blur` is a sigma in pixels."""
    mask = np.zeros((size, size), np.uint8)
    cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    if blur > 0:
        mask = cv2.GaussianBlur(mask, (0, 0), blur)
    return mask.astype(np.float32) / 255


def field(rng: np.random.Generator, size: int, period: float) -> np.ndarray:
    """Draws smooth noise of unit variance, float32 [size, size]. `period` is about the size of its blobs in pixels."""
    cells = max(2, int(np.ceil(size / period)) + 2)
    coarse = rng.standard_normal((cells, cells), np.float32)
    noise = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return (noise - noise.mean()) / (noise.std() + 1e-6)


def to_canvas(points) -> np.ndarray:
    """Turns face coordinates [K, 2] into canvas pixels [K, 2]."""
    return np.asarray(points, np.float64) * UNIT + CENTRE


def mirrored(points) -> np.ndarray:
    """Closes a contour by its mirror image. The right half is given, from top to bottom."""
    points = np.asarray(points, np.float64)
    return np.concatenate([points, points[::-1] * (-1, 1)])


@cache
def grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Face coordinates (x, y) of a canvas sampled at size x size, each float32 [size, size]."""
    pixels = (np.arange(size, dtype=np.float32) + 0.5) * (CANVAS / size)
    return np.meshgrid((pixels - CENTRE[0]) / UNIT, (pixels - CENTRE[1]) / UNIT)


def bump(x, y, x0: float, y0: float, sx: float, sy: float) -> np.ndarray:
    """A Gaussian hill of height 1 around (x0, y0), in face coordinates."""
    return np.exp(-0.5 * (((x - x0) / sx) ** 2 + ((y - y0) / sy) ** 2))


def paint(canvas: np.ndarray, mask: np.ndarray, colour, strength: float = 1.0) -> None:
    """Mixes a colour into a canvas in place, in shares `mask * strength`."""
    canvas += (np.asarray(colour, np.float32) - canvas) * (mask * np.float32(strength))[..., None]


def fill(image: np.ndarray, points: np.ndarray, colour) -> None:
    """Fills a polygon [K, 2] of a uint8 image in place."""
    cv2.fillPoly(
        image, [np.round(points * 16).astype(np.int32)], [float(255 * c) for c in np.clip(colour, 0, 1)], cv2.LINE_AA, 4
    )


def stroke(image: np.ndarray, points: np.ndarray, colour, thickness: int, closed: bool = False) -> None:
    """Draws a line through points [K, 2] of a uint8 image in place."""
    colour = [float(255 * c) for c in np.clip(colour, 0, 1)]
    cv2.polylines(image, [np.round(points * 16).astype(np.int32)], closed, colour, thickness, cv2.LINE_AA, 4)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Turns values in [0, 1] into uint8, rounded."""
    return np.clip(values * 255 + 0.5, 0, 255).astype(np.uint8)
