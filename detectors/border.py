"""A control that sees no face: a classifier of the border of the crop."""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.registry import register

FACE_SHARE = 1 / 1.3
"""Side of the face's box by side of the crop: DeepfakeBench's margin."""


@register("border")
class Border(TimmClassifier):
    """A classifier of the crop's border alone: what lies within the face's box is set to the images' zero.

    Where it beats chance, something beside the face goes with the label.

    Args:
        backbone, pretrained, dropout, options: See `TimmClassifier`.
        hidden: Side of the hidden square by side of the image.
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        pretrained: bool | str | None = True,
        dropout: float = 0.0,
        options: dict[str, Any] | None = None,
        hidden: Annotated[float, Field(gt=0, lt=1)] = FACE_SHARE,
    ):
        super().__init__(backbone, pretrained, dropout, options)
        self.hidden = hidden

    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images * self.visible(*images.shape[-2:]).to(images))

    def visible(self, height: int, width: int) -> Tensor:
        """1 on the border and 0 within, [H, W]."""
        mask = torch.ones(height, width)
        top, left = (round(side * (1 - self.hidden) / 2) for side in (height, width))
        mask[top : height - top, left : width - left] = 0
        return mask
