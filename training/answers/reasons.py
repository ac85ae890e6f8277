"""Why an answer is unsure: the face is too small, turned or blurred, unlike what the run knows, or its verdict flips.

Each rule looks at one face. In shapes, N is the number of frames, R of the reference's and D of features.
"""

from collections.abc import Sequence

import numpy as np

from resproto_fd.configs.errors import UserError

MIN_SIDE = 64
"""Width in pixels below which a face is too small: a crop of 256 then shows each of its pixels six times or more."""
MOST_TURN = 0.35
"""Turn, see `turn_of`, from which a face is too far turned: some 40 degrees."""
FAR, BLUR = 0.99, 0.01
"""Quantiles over the selection split: farther from it than 99 % of its own frames, or less sharp than all but 1 %."""
NEIGHBOURS = 10
COPIES = (("jpeg", 2), ("resize", 2))
"""Copies that are scored again, as corruptions: JPEG of quality 70; made smaller to 0.6 and larger again."""
COPY_WORDS = {"jpeg": "saved again as JPEG", "resize": "resized"}
WORDS = {
    "small": "the face is too small",
    "turned": "the face is turned away",
    "blurred": "the face is blurred",
    "unlike": "the face is unlike those that the run was selected on",
    "flips": "the verdict flips",
    "differ": "the runs differ",
    "short": "the face is in fewer frames than a clip takes",
    "gaps": "no clip has consecutive frames",
    "uncalibrated": "the run has no threshold of its own",
}


def turn_of(points: Sequence[Sequence[float]]) -> float:
    """How far a face is turned to a side: the nose tip's place between the eyes, 0 in the middle, 0.5 under an eye.

    Args:
        points: (x, y) of the eye on the left, the eye on the right, the nose tip and the mouth corners, [5, 2].

    >>> round(turn_of([[0, 0], [10, 0], [8, 5], [2, 10], [8, 10]]), 3)
    0.3
    """
    left, right, nose = (np.asarray(point, dtype=np.float64) for point in points[:3])
    line = right - left
    length = float(line @ line)
    return abs(float((nose - left) @ line) / length - 0.5) if length > 0 else 1.0


def sharpness(image: np.ndarray) -> float:
    """Variance of the Laplacian of a picture's grey values, which falls with blur.

    Args:
        image: RGB uint8, [H, W, 3].
    """
    import cv2

    return float(cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def of_length_one(features: np.ndarray) -> np.ndarray:
    """Features of length 1, float32 [N, D]; those of length 0 stay."""
    flat = np.asarray(features, dtype=np.float32).reshape(len(features), -1)
    length = np.linalg.norm(flat, axis=1, keepdims=True)
    return flat / np.where(length > 0, length, 1)


def distances(
    features: np.ndarray,
    reference: np.ndarray,
    neighbours: int,
    own: tuple[np.ndarray, np.ndarray] | None = None,
) -> np.ndarray:
    """Distance of features to the k-th nearest of a reference: Sun et al., ICML 2022, with the cosine.

    Args:
        features: [N, D].
        reference: Of length 1, [R, D].
        neighbours: k; fewer where there are fewer.
        own: What each feature and each of the reference belongs to, [N] and [R]: its own are no neighbours.

    Returns:
        1 - cosine in [0, 2], [N]; infinite where nothing is left to compare with.

    Raises:
        UserError: The reference is of features of another length.
    """
    unit = of_length_one(features)
    if unit.shape[1] != reference.shape[1]:
        raise UserError(
            f"the run's reference has features of {reference.shape[1]} numbers, its detector gives {unit.shape[1]}; "
            "fit it again: resproto calibrate RUN"
        )
    away = 1 - unit @ reference.T
    if own is not None:
        away = np.where(own[0][:, None] == own[1][None], np.inf, away)
    k = min(neighbours, away.shape[1]) - 1
    return np.partition(away, k, axis=1)[:, k].clip(min=0)
