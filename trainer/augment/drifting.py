"""Forged clips made from real ones in training: facial features that drift from frame to frame.

Source: Yan et al., "Generalizing Deepfake Video Detection with Plug-and-Play: Video-Level Blending and Spatiotemporal
Adapter Tuning", CVPR 2025: each frame is blended with a copy of itself in which eyes, nose or mouth were turned,
resized and shifted. The authors have not published this part of their code; constants here are ours.

In shapes, K is the number of landmarks.
"""

import cv2
import numpy as np

from resproto_fd.preprocessing.faces.alignment import ARCFACE_TEMPLATE, move_points, similarity_transform

FEATURES = {
    "left eye": ([*range(17, 22), *range(36, 42)], [[24, 40], [54, 40], [54, 60], [24, 60]]),
    "right eye": ([*range(22, 27), *range(42, 48)], [[58, 40], [88, 40], [88, 60], [58, 60]]),
    "nose": ([*range(27, 36)], [[51, 50], [61, 50], [68, 76], [56, 82], [44, 76]]),
    "mouth": ([*range(48, 68)], [[38, 92], [56, 84], [74, 92], [56, 102]]),
}
"""Each feature's landmarks among 68 or 81 (an eye has its brow), and its outline where the five landmarks are
`ARCFACE_TEMPLATE`."""
COUNTS = (len(ARCFACE_TEMPLATE), 68, 81)
"""Numbers of landmarks that are known."""

CHOSEN = 0.5
"""Probability that a feature drifts in a clip; one does if none is drawn."""
STRENGTH = (0.3, 1.0)
"""Range of a clip's share of the largest movements."""
TURN, RESIZE, SHIFT = 6.0, 0.06, 0.06
"""Largest movement in a frame: degrees, change of size, and shift in distances between the eyes."""
GROWTH = 1.3
"""Size of a mask, in sizes of its feature."""
SOFTNESS = (0.04, 0.12)
"""Range of a mask's blur, in distances between the eyes."""


def drifted(image: np.ndarray, landmarks: np.ndarray, seed: int, frame: int) -> np.ndarray:
    """Blends a frame of a clip with moved copies of its facial features.

    Which features move, how far at most, and how soft the masks are is drawn for the clip; the movements themselves are
    drawn for each frame, independent of the others.

    Args:
        image: RGB uint8, [H, W, 3].
        landmarks: (x, y), of 5, 68 or 81 points, [K, 2].
        seed: The clip's, not negative.
        frame: Number of the frame in the clip.

    Returns:
        uint8 [H, W, 3]. The given frame is not changed.

    Raises:
        ValueError: The number of landmarks is another, they coincide, or no feature that moves is in the picture.
    """
    # NumPy takes (seed, 0) for seed alone.
    of_clip, of_frame = np.random.default_rng(seed), np.random.default_rng((seed, frame + 1))
    chosen = of_clip.random(len(FEATURES)) < CHOSEN
    if not chosen.any():
        chosen[of_clip.integers(len(FEATURES))] = True
    strength, softness = of_clip.uniform(*STRENGTH), of_clip.uniform(*SOFTNESS)
    outlines = feature_outlines(landmarks)
    apart = float(np.linalg.norm(outlines[1].mean(axis=0) - outlines[0].mean(axis=0)))
    if not apart > 0:
        raise ValueError("the landmarks coincide")
    result, seen = image, False
    for points, moves in zip(outlines, chosen, strict=True):
        movement = of_frame.uniform(-1, 1, 4) * strength
        if moves:
            mask = _mask(points, softness * apart, *image.shape[:2])
            moved = _moved(image, points.mean(axis=0), movement, apart)
            result, seen = cv2.blendLinear(moved, result, mask, 1 - mask), seen or bool(mask.any())
    if not seen:
        raise ValueError("the landmarks show no facial feature within the picture")
    return result


def feature_outlines(landmarks: np.ndarray) -> list[np.ndarray]:
    """Points whose hulls are the `FEATURES`, in their order.

    Raises:
        ValueError: There are not 5, 68 or 81 landmarks.
    """
    if len(landmarks) not in COUNTS:
        raise ValueError(f"expected 5, 68 or 81 landmarks, got {len(landmarks)}")
    landmarks = np.asarray(landmarks, dtype=float)
    if len(landmarks) != len(ARCFACE_TEMPLATE):
        return [landmarks[places] for places, _ in FEATURES.values()]
    move = similarity_transform(ARCFACE_TEMPLATE, landmarks)
    return [move_points(move, np.array(outline, dtype=float)) for _, outline in FEATURES.values()]


def _moved(image: np.ndarray, centre: np.ndarray, movement: np.ndarray, apart: float) -> np.ndarray:
    """The picture, turned and resized around a point and shifted; `movement` is in shares of the largest."""
    turn, size = np.deg2rad(TURN * movement[0]), 1 + RESIZE * movement[1]
    matrix = size * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    shift = centre - matrix @ centre + SHIFT * apart * movement[2:]
    height, width = image.shape[:2]
    move = np.column_stack([matrix, shift])
    return cv2.warpAffine(image, move, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def _mask(points: np.ndarray, softness: float, height: int, width: int) -> np.ndarray:
    """Share of the moved copy, float32 [H, W] in [0, 1]: the points' hull, enlarged, with a soft edge."""
    centre = points.mean(axis=0)
    corners = np.clip(centre + GROWTH * (points - centre), -4 * width, 4 * width)
    mask = np.zeros((height, width), np.float32)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(corners).astype(np.int32)), 1.0)
    return np.clip(cv2.GaussianBlur(mask, (0, 0), max(softness, 0.5)), 0, 1)
