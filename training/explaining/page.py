"""The page of an explanation: one HTML file that loads nothing."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from resproto_fd.training.explaining.embedding import Scatter
from resproto_fd.training.explaining.prototypes import NOT_RECORDED, Near

SIDE, SMALL = 224, 72
"""Pixels of a picture's and of a thumbnail's side."""


@dataclass
class Face:
    """One explained face.

    Attributes:
        name: Of its file or frame.
        score: P(fake).
        picture: As the detector sees it, RGB uint8 [S, S, 3].
        maps: In [0, 1] by title, [S, S] each.
        mass: By title, the share of the map inside the known forgery mask; empty without a mask.
        area: The mask's share of the picture; None without a mask.
        near: The nearest prototypes; None for a detector without prototypes.
    """

    name: str
    score: float
    picture: np.ndarray
    maps: dict[str, np.ndarray]
    mass: dict[str, float] = field(default_factory=dict)
    area: float | None = None
    near: list[Near] | None = None

    def record(self) -> dict[str, Any]:
        """Everything but the pictures, for JSON."""
        near = self.near and [vars(each) | {"frames": ["/".join(frame) for frame in each.frames]} for each in self.near]
        return {"name": self.name, "score": self.score, "mass": self.mass, "area": self.area, "near": near}


def as_html(title: str, notes: Sequence[str], faces: Sequence[Face], read, embedding: Scatter | None) -> str:
    """The page.

    Args:
        title: The run.
        notes: Sentences above the faces.
        faces: What is shown.
        read: (data set, canonical path) -> RGB uint8 or None, for thumbnails of training frames.
        embedding: See `embedding.scatter`; None leaves it out.
    """
    environment = Environment(
        loader=PackageLoader("resproto_fd.training.explaining", "."), autoescape=True, undefined=StrictUndefined
    )
    thumbs: dict[tuple[str, str], str] = {}

    def thumb(frame: tuple[str, str]) -> str:
        if frame not in thumbs:
            image = read(*frame)
            thumbs[frame] = "" if image is None else picture_data(image, SMALL)
        return thumbs[frame]

    shown = [
        {
            "face": face,
            "picture": picture_data(face.picture, SIDE),
            "maps": [
                (name, heat.any(), picture_data(overlaid(face.picture, heat), SIDE)) for name, heat in face.maps.items()
            ],
            "near": [(each, [(frame, thumb(frame)) for frame in each.frames]) for each in face.near or ()],
        }
        for face in faces
    ]
    template = environment.get_template("explain.html")
    page = template.render(title=title, notes=notes, faces=shown, embedding=embedding, not_recorded=NOT_RECORDED)
    return page.encode(errors="backslashreplace").decode()  # names that are no text


def overlaid(picture: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A picture with a map over it, RGB uint8 [H, W, 3]."""
    colours = cv2.applyColorMap((255 * heat).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[:, :, ::-1]
    return cv2.addWeighted(picture, 0.45, np.ascontiguousarray(colours), 0.55, 0)


def picture_data(picture: np.ndarray, side: int) -> str:
    """A picture as JPEG in base64, its longer side as given."""
    scale = side / max(picture.shape[:2])
    size = [max(1, round(length * scale)) for length in picture.shape[1::-1]]
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    _, data = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return base64.b64encode(data.tobytes()).decode()
