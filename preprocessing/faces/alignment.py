"""Face crops on five points, placed as DeepfakeBench places them.

The target is ArcFace's 112 x 112 template (Deng et al., CVPR 2019), enlarged to the crop's size and then shrunk by
`scale`, which leaves room around the face.
"""

import cv2
import numpy as np

# Eye on the picture's left, eye on its right, nose tip, mouth corners left and right, in a picture of 112 x 112.
ARCFACE_TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def crop_template(size: int = 256, scale: float = 1.3) -> np.ndarray:
    """Places the five points in a crop of size x size pixels, [5, 2].

    Args:
        size: Side of the crop in pixels.
        scale: How many times wider the crop is than ArcFace's; 1 is the tight crop of face recognition.
    """
    return (ARCFACE_TEMPLATE * size / 112 + size * (scale - 1) / 2) / scale


def similarity_transform(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares rotation, uniform scale and shift that bring points to their targets, [2, 3].

    In the plane Umeyama's solution (PAMI 1991) is one complex division: target = a * point + b.

    Args:
        points: (x, y) before, [K, 2].
        target: (x, y) after, [K, 2].

    Raises:
        ValueError: All points coincide.
    """
    z, w = (np.asarray(p, np.float64) @ [1, 1j] for p in (points, target))
    dz, dw = z - z.mean(), w - w.mean()
    spread = np.vdot(dz, dz).real
    if not spread > 0:
        raise ValueError("the points coincide: no scale or rotation can be found")
    a = np.vdot(dz, dw) / spread
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def move_points(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Moves points [K, 2] by the transform [2, 3]."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def warp(image: np.ndarray, matrix: np.ndarray, size: int = 256) -> np.ndarray:
    """Cuts the crop of the transform [2, 3] out of an image, size x size, black outside the image.

    It is bilinear without a low-pass filter, as in DeepfakeBench: faces far larger than the crop alias in both.
    """
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=0)


def warp_mask(mask: np.ndarray, matrix: np.ndarray, size: int = 256, threshold: int = 16) -> np.ndarray:
    """Cuts the mask of a crop, 0 or 255, uint8 [size, size].

    Args:
        mask: A frame of the mask video, uint8 RGB [H, W, 3] or grey [H, W].
        matrix: The crop's transform, [2, 3].
        threshold: Grey level from which a pixel counts as manipulated. Lossy mask videos have a few false levels around
            edges of black and white.
    """
    grey = mask if mask.ndim == 2 else mask.max(axis=2)
    binary = np.where(grey >= threshold, np.uint8(255), np.uint8(0))
    return np.where(warp(binary, matrix, size) >= 128, np.uint8(255), np.uint8(0))
