"""A map of features on a plane: test frames and prototypes, by method."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from resproto_fd.configs.errors import UserError

WIDTH, HEIGHT, EDGE = 800, 600, 20
KINDS = ("tsne", "umap")
MOST = 3000
"""Most points of a map."""


def plane(features: np.ndarray, kind: str, seed: int = 0) -> np.ndarray:
    """Places of features on a plane, in [0, 1], [N, 2]; near features by cosine are near.

    Args:
        features: [N, D], N at least 4.
        kind: "tsne" (scikit-learn) or "umap" (umap-learn, if it is installed).
        seed: Fixes the map.

    Raises:
        UserError: There are too few or too many features, all are alike or some are not finite, or umap-learn is not
            installed.
    """
    if not 4 <= len(features) <= MOST:
        raise UserError(f"--embedding: expected 4 to {MOST} points, got {len(features)}; set another --frames")
    unit = features / np.linalg.norm(features, axis=1, keepdims=True).clip(1e-12)
    if not np.isfinite(unit).all() or not np.ptp(unit, axis=0).any():  # t-SNE ends the process at these
        raise UserError("--embedding: expected features that are finite and differ; this detector's are no map")
    if kind == "umap":
        if find_spec("umap") is None:
            raise UserError("--embedding umap: expected umap-learn installed; pip install umap-learn, or set tsne")
        from umap import UMAP

        neighbours = min(15, len(unit) - 1)
        found = UMAP(n_neighbors=neighbours, metric="cosine", random_state=seed, n_jobs=1, init="random").fit_transform(
            unit
        )
    else:
        from sklearn.manifold import TSNE

        perplexity = min(30.0, (len(unit) - 1) / 3)
        init = "pca" if unit.shape[1] > 1 else "random"
        found = TSNE(perplexity=perplexity, random_state=seed, init=init).fit_transform(unit.astype(np.float32))
    low, high = found.min(axis=0), found.max(axis=0)
    return (found - low) / (high - low).clip(1e-12)


def scatter(
    features: np.ndarray, groups: Sequence[str], labels: Sequence[str], prototypes: int, kind: str
) -> dict[str, Any]:
    """What the page draws: points with their group and label.

    Args:
        features: [N, D]; the last `prototypes` are prototypes.
        groups: Of each point: a method, or a class of prototypes, [N].
        labels: Of each point, [N].
        prototypes: Number of prototypes.
        kind: See `plane`.
    """
    places = plane(features, kind)
    names = sorted(set(groups))
    points = [
        (
            round(EDGE + x * (WIDTH - 2 * EDGE), 1),
            round(EDGE + y * (HEIGHT - 2 * EDGE), 1),
            names.index(group),
            f"{group}: {label}",
            number >= len(features) - prototypes,
        )
        for number, ((x, y), group, label) in enumerate(zip(places.tolist(), groups, labels, strict=True))
    ]
    return {"how": {"tsne": "t-SNE", "umap": "UMAP"}[kind], "groups": names, "points": points, "prototypes": prototypes}
