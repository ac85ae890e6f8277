"""A map of features on a plane: test frames and prototypes, by method."""

import json
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from markupsafe import Markup
from pydantic import Field, ValidationError, model_validator

from resproto_fd.configs.errors import UnreadableFile, UserError, cut
from resproto_fd.configs.readers.json_reader import read_json_object
from resproto_fd.training.results import Record, Sha256

WIDTH, HEIGHT, EDGE = 800, 600, 20
KINDS = ("tsne", "umap")
MOST = 3000
"""Most points of a map."""
STORED = "explain/embedding.json"
"""Where a run's folder holds its map."""
COLOURS = ("#1d6b3a", "#b3261e", "#8a5a00", "#2f5fb3", "#7b3fa0", "#00808a", "#9c4f6b", "#5c6b00", "#444b53")
SHAPES = ("m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", "m-3.5 -3.5h7v7h-7z", "m0 -4.5l4.5 8h-9z")
DIAMOND = "m0 -7l7 7l-7 7l-7 -7z"
"""Marks: circle, square and triangle, each for as many groups as there are colours; and a prototype's."""
Point = tuple[
    Annotated[float, Field(ge=0, le=WIDTH)], Annotated[float, Field(ge=0, le=HEIGHT)], Annotated[int, Field(ge=0)], str
]


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


class Scatter(Record):
    """A map of features on a plane.

    Attributes:
        how: "t-SNE" or "UMAP".
        groups: Names: methods, and classes of prototypes.
        points: Place in pixels from the upper left, place of the group among `groups`, and label, of each point.
        prototypes: How many of the last points are prototypes.
        weights: SHA-256 of the file of the weights that the features are of; None for a detector without one.
    """

    how: Literal["t-SNE", "UMAP"]
    groups: list[str]
    points: Annotated[list[Point], Field(max_length=MOST)]
    prototypes: Annotated[int, Field(ge=0)]
    weights: Sha256 | None = None

    @model_validator(mode="after")
    def _is_whole(self):
        if self.prototypes > len(self.points) or any(group >= len(self.groups) for _, _, group, _ in self.points):
            raise ValueError("more prototypes than points, or a point of no group")
        return self

    def counts(self) -> dict[str, int]:
        """Number of points by group."""
        numbers = Counter(group for _, _, group, _ in self.points)
        return {name: numbers[place] for place, name in enumerate(self.groups)}

    def drawing(self) -> Markup:
        """The points as SVG, in their group's colour and shape; a point's group and label are its title."""
        marks, first = [], len(self.points) - self.prototypes
        for number, (x, y, group, label) in enumerate(self.points):
            title = Markup("<title>{}: {}</title>").format(self.groups[group], label)
            marks.append(_mark(x, y, group, number >= first, title))
        frame = (
            f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="Embedding map"'
        )
        return Markup(f"<svg {frame}>\n{{}}\n</svg>").format(Markup("\n").join(marks))

    def key(self) -> Markup:
        """The mark and number of points of each group, as items of a list."""
        of_prototypes = {group for _, _, group, _ in self.points[len(self.points) - self.prototypes :]}
        item = (
            '<li><svg class="key" viewBox="0 0 16 16" width="14" height="14" aria-hidden="true">{}</svg> {} ({})</li>'
        )
        return Markup("\n").join(
            Markup(item).format(_mark(8, 8, place, place in of_prototypes), name, number)
            for place, (name, number) in enumerate(self.counts().items())
        )


def _mark(x: float, y: float, group: int, prototype: bool, inside: str = "") -> Markup:
    """A point: a diamond with a line around it for a prototype, else the shape of its group."""
    shape = DIAMOND if prototype else SHAPES[group // len(COLOURS) % len(SHAPES)]
    edge = 'stroke="currentColor"' if prototype else 'fill-opacity=".75"'
    mark = Markup('<path d="M{} {}{}" fill="{}" {}>{}</path>')
    return mark.format(x, y, shape, COLOURS[group % len(COLOURS)], Markup(edge), inside)


def scatter(
    features: np.ndarray,
    groups: Sequence[str],
    labels: Sequence[str],
    prototypes: int,
    kind: str,
    weights: str | None = None,
) -> Scatter:
    """The map of features.

    Args:
        features: [N, D]; the last `prototypes` are prototypes.
        groups: Of each point: a method, or a class of prototypes, [N].
        labels: Of each point, [N].
        prototypes: Number of prototypes.
        kind: See `plane`.
        weights: See `Scatter`.
    """
    places = plane(features, kind)
    names = sorted(set(groups))
    points = [
        (
            round(EDGE + x * (WIDTH - 2 * EDGE), 1),
            round(EDGE + y * (HEIGHT - 2 * EDGE), 1),
            names.index(group),
            label.encode(errors="backslashreplace").decode(),  # names of files that are no text
        )
        for (x, y), group, label in zip(places.tolist(), groups, labels, strict=True)
    ]
    how = {"tsne": "t-SNE", "umap": "UMAP"}[kind]
    return Scatter(how=how, groups=names, points=points, prototypes=prototypes, weights=weights)


def stored_map(folder: Path, weights: str | None) -> Scatter | None:
    """The map that `resproto explain` left in a run's folder; None if there is none, or it is of other weights.

    Args:
        folder: The run's.
        weights: SHA-256 of the run's weights; None for a run without, whose map cannot be checked.

    Raises:
        UnreadableFile: The file is no such map.
    """
    path, remedy = folder / STORED, "explain the run again"
    if weights is None or not path.is_file():
        return None
    try:
        found = Scatter.model_validate_json(json.dumps(read_json_object(path, remedy)))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        where = cut(".".join(map(str, fault["loc"])) or "file")
        raise UnreadableFile(f"{path}: no map: {where}: {cut(fault['msg'])}; {remedy}") from None
    return found if found.weights == weights else None
