"""Forgeries made from real frames in training: a face is blended into a frame, and paired with the real frame.

self_blended    Shiohara and Yamasaki, Detecting Deepfakes with Self-Blended Images, CVPR 2022, section 3
cross_blended   Li et al., Face X-ray for More General Face Forgery Detection, CVPR 2020, section 3.3
i2g             Zhao et al., Learning Self-Consistency for Deepfake Detection, ICCV 2021: the same forgeries
self_shifted    Lin et al., Fake It till You Make It, ECCV 2024, names and motivates it; its form here is ours
warped          Li and Lyu, Exposing DeepFake Videos by Detecting Face Warping Artifacts, CVPR Workshops 2019, section 3

Each is a function of pictures, landmarks and a random generator. Lengths in pixels are for a crop of 256 and grow with
the frame. Constants here fix what the papers leave open.
"""

from typing import NamedTuple

import cv2
import numpy as np

from resproto_fd.preprocessing.faces.alignment import ARCFACE_TEMPLATE, move_points, similarity_transform
from resproto_fd.trainer.augment.deepfakebench_recipe import hsv_shifted

SIDE = 256
OUTLINE = np.array(
    [
        [24, 34], [56, 30], [88, 34], [98, 52], [96, 78], [84, 100], [68, 112], [56, 115], [44, 112], [28, 100],
        [16, 78], [14, 52],
    ],
    dtype=float,
)  # fmt: skip
"""Brows, temples, jaw and chin of a face whose five points are `ARCFACE_TEMPLATE`, for frames with five landmarks."""
WITHOUT_FOREHEAD = 68
"""Landmarks, the first of 81, that are not on the forehead."""

FOREHEAD_LEFT_OUT = 0.25
RATIOS = (0.25, 0.5, 0.75, 1, 1, 1)
ZOOM = (0.95, 1 / 0.95)
SHIFT = (0.03, 0.015)
RECOLOURING_PROBABILITY = 0.3
RGB, HSV, BRIGHTNESS, CONTRAST = 20.0, (6.0, 20.0, 20.0), 0.1, 0.1
COARSENINGS = (2, 4)
SHARPENING = (0.2, 0.5)
KERNELS = (5, 25)
"""Range of the kernels of Gaussian blurs that soften a mask, in pixels."""
WAVES, WAVE_HEIGHT = 16, 0.005
"""Self-blending: how a mask's edge is bent, as cells over the frame and deviation in sides of the frame."""
BENDS, BEND_HEIGHT = 4, 0.02
"""The same for cross-blending and warping."""
SHRINKING = (0.2, 0.8)
MARGIN = 0.15
"""Warping: largest share of its size by which the rectangle around the landmarks grows on each side."""


class Blend(NamedTuple):
    """A pair for training.

    Attributes:
        real: uint8 [H, W, 3].
        fake: The real picture with the blended face, uint8 [H, W, 3].
        mask: The mask that a detector gets, float32 [H, W] in [0, 1].
    """

    real: np.ndarray
    fake: np.ndarray
    mask: np.ndarray


def self_blended(image: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> Blend:
    """Blends a face with itself. One of two copies gets other colours and is sharper or coarser; the inner copy moves.

    If the outer copy was altered, the real picture of the pair is altered in the same way.

    Args:
        image: RGB uint8, [H, W, 3].
        landmarks: (x, y), of 5 points or of 68 or more, [K, 2].
        rng: Draws everything else.

    Returns:
        The pair; its mask is the share of the inner copy.

    Raises:
        ValueError: The landmarks span no part of the picture.
    """
    inner = outer = image
    if rng.random() < 0.5:
        inner = _restyled(image, rng)
    else:
        outer = _restyled(image, rng)
    if len(landmarks) > WITHOUT_FOREHEAD and rng.random() < FOREHEAD_LEFT_OUT:
        landmarks = landmarks[:WITHOUT_FOREHEAD]
    height, width = image.shape[:2]
    move = _small_move(height, width, rng)
    inner = cv2.warpAffine(inner, move, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    mask = _hull(move_points(move, face_points(landmarks)), height, width)
    mask = _softened(_eroded(_bent(mask, WAVES, WAVE_HEIGHT, rng), rng), rng) * np.float32(rng.choice(RATIOS))
    return Blend(outer, _mixed(inner, outer, mask), mask)


def cross_blended(
    image: np.ndarray,
    landmarks: np.ndarray,
    other: np.ndarray,
    other_landmarks: np.ndarray,
    rng: np.random.Generator,
) -> Blend:
    """Blends in another real face with matched colours.

    Args:
        image: Background, RGB uint8, [H, W, 3].
        landmarks: (x, y), of 5 points or of 68 or more, [K, 2].
        other: Foreground, RGB uint8, of any size.
        other_landmarks: The same points in it, [K, 2].
        rng: Draws the mask's form.

    Returns:
        The pair; its mask is the boundary, B = 4 m (1 - m) of the share m of the foreground (equation 2).

    Raises:
        ValueError: The landmarks span no part of the picture.
    """
    blend = i2g(image, landmarks, other, other_landmarks, rng)
    return blend._replace(mask=4 * blend.mask * (1 - blend.mask))


def i2g(
    image: np.ndarray,
    landmarks: np.ndarray,
    other: np.ndarray,
    other_landmarks: np.ndarray,
    rng: np.random.Generator,
) -> Blend:
    """Blends as `cross_blended`, but the mask is the share of the foreground itself."""
    height, width = image.shape[:2]
    move = similarity_transform(other_landmarks, landmarks)
    moved = cv2.warpAffine(other, move, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    hull = _hull(face_points(landmarks), height, width)
    mask = _softened(_bent(hull, BENDS, BEND_HEIGHT, rng), rng)
    return Blend(image, _mixed(_colours_matched(moved, image, hull), image, mask), mask)


def self_shifted(
    image: np.ndarray,
    landmarks: np.ndarray,
    other: np.ndarray,
    other_landmarks: np.ndarray,
    rng: np.random.Generator,
) -> Blend:
    """Blends in the same face of another moment, beside its place: faces that are forged frame by frame do not follow
    the head's movement exactly.

    Args:
        image: Background, RGB uint8, [H, W, 3].
        landmarks: (x, y), of 5 points or of 68 or more, [K, 2].
        other: Another frame of the video, RGB uint8, of any size; the background itself if there is none.
        other_landmarks: The same points in it, [K, 2].
        rng: Draws the shift and the mask's form.

    Returns:
        The pair; its mask is the share of the other frame.

    Raises:
        ValueError: The landmarks span no part of the picture.
    """
    height, width = image.shape[:2]
    shift = _small_move(height, width, rng)
    move = shift @ np.vstack([similarity_transform(other_landmarks, landmarks), [0, 0, 1]])
    inner = cv2.warpAffine(other, move, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    mask = _hull(move_points(shift, face_points(landmarks)), height, width)
    mask = _softened(_bent(mask, BENDS, BEND_HEIGHT, rng), rng)
    return Blend(image, _mixed(inner, image, mask), mask)


def warped(image: np.ndarray, landmarks: np.ndarray, rng: np.random.Generator) -> Blend:
    """Makes the face small, blurs it and fits it back, in a rectangle or in the face's form.

    Args:
        image: RGB uint8, [H, W, 3].
        landmarks: (x, y), of 5 points or of 68 or more, [K, 2].
        rng: Draws size and form.

    Returns:
        The pair; its mask is the share of the face that was fitted back.

    Raises:
        ValueError: The landmarks span no part of the picture.
    """
    height, width = image.shape[:2]
    scale = rng.uniform(*SHRINKING)
    small = cv2.resize(image, (max(1, round(width * scale)), max(1, round(height * scale))))
    coarse = cv2.resize(cv2.GaussianBlur(small, (5, 5), 0), (width, height))
    points = face_points(landmarks)
    if rng.random() < 0.5:
        first, last = points.min(0), points.max(0)
        first, last = (
            first - rng.uniform(0, MARGIN, 2) * (last - first),
            last + rng.uniform(0, MARGIN, 2) * (last - first),
        )
        points = np.array([first, (last[0], first[1]), last, (first[0], last[1])])
        mask = _hull(points, height, width)
    else:
        mask = _bent(_hull(points, height, width), BENDS, BEND_HEIGHT, rng)
    mask = _softened(mask, rng)
    return Blend(image, _mixed(coarse, image, mask), mask)


def face_points(landmarks: np.ndarray) -> np.ndarray:
    """Returns points whose hull is the face: the landmarks. Five landmarks get the outline of an average face too."""
    if len(landmarks) != len(ARCFACE_TEMPLATE):
        return np.asarray(landmarks, dtype=float)
    return np.vstack([landmarks, move_points(similarity_transform(ARCFACE_TEMPLATE, landmarks), OUTLINE)])


def _small_move(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """A small zoom about the picture's centre and a small shift, [2, 3]."""
    zoom = rng.uniform(*ZOOM)
    shift = rng.uniform(-1, 1, 2) * SHIFT * (width, height)
    centre = np.array([width - 1, height - 1]) / 2
    return np.column_stack([zoom * np.eye(2), centre + shift - zoom * centre])


def _hull(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mask of the points' convex hull, float32 0 or 1."""
    mask = np.zeros((height, width), np.float32)
    corners = np.round(np.clip(points, -4 * SIDE, 4 * SIDE)).astype(np.int32)
    cv2.fillConvexPoly(mask, cv2.convexHull(corners), 1.0)
    if mask.sum() < 0.01 * mask.size:
        raise ValueError("the landmarks span no part of the picture")
    return mask


def _bent(mask: np.ndarray, cells: int, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Bends a mask by normal displacements on a grid, which are smooth between the grid's points."""
    height, width = mask.shape
    displacements = rng.normal(0, strength, (cells + 1, cells + 1, 2)).astype(np.float32) * np.float32([width, height])
    displacements = cv2.resize(displacements, (width, height), interpolation=cv2.INTER_CUBIC)
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return cv2.remap(mask, x + displacements[..., 0], y + displacements[..., 1], cv2.INTER_LINEAR)


def _eroded(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Keeps what is far from the mask's edge; the mask itself if that is nothing. After `_softened` the edge is inside
    or outside the mask, as the two kernels were drawn."""
    inside = (_softened(mask, rng) > 0.999).astype(np.float32)
    return inside if inside.any() else mask


def _softened(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = rng.integers(KERNELS[0], KERNELS[1] + 1) * max(mask.shape) / SIDE
    kernel = max(3, 2 * int(size / 2) + 1)
    return np.clip(cv2.GaussianBlur(mask, (kernel, kernel), 0), 0, 1)


def _mixed(inner: np.ndarray, outer: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return cv2.blendLinear(inner, outer, mask, 1 - mask)


def _restyled(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Changes the colours, and makes the picture coarser or sharper."""
    changes = rng.random(3) < RECOLOURING_PROBABILITY
    shift = rng.uniform(-RGB, RGB, 3) * changes[0]
    contrast, brightness = 1 + rng.uniform(-CONTRAST, CONTRAST) * changes[1], rng.uniform(-BRIGHTNESS, BRIGHTNESS)
    values = np.arange(256.0)[:, None] * contrast + shift + 255 * brightness * changes[1]
    image = cv2.LUT(image, np.clip(np.round(values), 0, 255).astype(np.uint8)[:, None])
    turned = tuple(rng.uniform(-1, 1, 3) * HSV)
    if changes[2]:
        image = hsv_shifted(image, turned)
    if rng.random() < 0.5:
        height, width = image.shape[:2]
        coarsening = int(rng.choice(COARSENINGS))
        small = cv2.resize(image, (max(1, width // coarsening), max(1, height // coarsening)))
        return cv2.resize(small, (width, height))
    amount = rng.uniform(*SHARPENING)
    kernel = np.full((3, 3), -amount)
    kernel[1, 1] = 1 + 8 * amount
    return cv2.filter2D(image, -1, kernel)


def _colours_matched(patch: np.ndarray, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Gives a patch the mean and deviation that an image has within a mask, in Lab (Reinhard et al., Color Transfer
    between Images, 2001)."""
    inside = (mask > 0.5).astype(np.uint8)
    ours, theirs = (cv2.cvtColor(part.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for part in (patch, image))
    mean, spread = (value.ravel() for value in cv2.meanStdDev(ours, mask=inside))
    wanted_mean, wanted_spread = (value.ravel() for value in cv2.meanStdDev(theirs, mask=inside))
    gain = wanted_spread / np.maximum(spread, 1e-3)
    matched = ((ours - mean) * gain + wanted_mean).astype(np.float32)
    rgb = cv2.cvtColor(matched, cv2.COLOR_LAB2RGB)
    return np.round(np.clip(rgb, 0, 1) * 255).astype(np.uint8)
