"""Border: a control that sees only the border of the crop, not the face."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from resproto_fd.detectors.base import onto
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.registry import register

FACE_SHARE = 1 / 1.3
"""Side of the face's box by side of the crop: DeepfakeBench's margin."""


@register("border")
class Border(TimmClassifier):
    """Classify the border of the crop alone; a control, of no paper.

    Pixels within the face's box are set to zero. If this control beats chance, something outside the face reveals the
    label.

    Args:
        backbone: See `TimmClassifier`.
        hidden: Side of the hidden square divided by the side of the image.
        timm: `pretrained`, `dropout` and `options`, see `TimmClassifier`.
    """

    def __init__(self, backbone: str = "resnet50", hidden: Annotated[float, Field(gt=0, lt=1)] = FACE_SHARE, **timm):
        super().__init__(backbone, **timm)
        self.hidden = hidden

    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images * onto(self.visible(*images.shape[-2:]), images).to(images.dtype))

    def visible(self, height: int, width: int) -> Tensor:
        """1 on the border and 0 within, [H, W]."""
        mask = torch.ones(height, width)
        top, left = (round(side * (1 - self.hidden) / 2) for side in (height, width))
        mask[top : height - top, left : width - left] = 0
        return mask
