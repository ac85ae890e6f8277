"""PCL: features of places with the same source should be similar."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.parts.xception import MIDDLE, MaskTaught
from resproto_fd.detectors.registry import register
from resproto_fd.losses.precision import at_least_float32

UNUSED = ("backbone.type_fc.", "backbone.mag_fc.", "backbone.map.", "PCL.phi.")
"""Parts of DeepfakeBench's checkpoint without effect on scores or training."""


@register("pcl_xception")
class PCLXception(MaskTaught):
    """Train Xception so that places of the same source have similar features (Zhao et al., ICCV 2021).

    Args:
        consistency: Weight of the pairwise loss (the paper's lambda, 10; DeepfakeBench has 1); 0 removes it.
        first_column_bug: Use DeepfakeBench's target of that loss, which is wrong in the first column.
        timm: `pretrained`, `dropout` and `options`, see `TimmClassifier`.
    """

    term = "consistency"

    def __init__(self, consistency: Annotated[float, Field(ge=0)] = 10.0, first_column_bug: bool = False, **timm):
        super().__init__(consistency, **timm)
        self.first_column_bug = first_column_bug
        self.theta = nn.Conv2d(MIDDLE, MIDDLE, 1) if consistency else None

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        unused = UNUSED if self.theta is not None else (*UNUSED, "PCL.")
        state = {key: value for key, value in state.items() if not key.startswith(unused)}
        return super().from_deepfakebench({key.replace("PCL.theta.", "theta."): value for key, value in state.items()})

    def mask_loss(self, middle: Tensor, mask: Tensor) -> Tensor:
        small = F.interpolate(mask, middle.shape[-2:], mode="bilinear", align_corners=True)
        target = consistency_target(small[:, 0], self.first_column_bug)
        return F.binary_cross_entropy_with_logits(pair_logits(self.theta(middle)), target)


def pair_logits(embedded: Tensor) -> Tensor:
    """Similarity of all pairs of places, before the sigmoid: [B, C, h, w] -> [B, h w, h w] (the paper's equation 1)."""
    places = at_least_float32(embedded).flatten(2)
    return places.transpose(1, 2) @ places / places.shape[1] ** 0.5


def consistency_target(mask: Tensor, first_column_bug: bool = False) -> Tensor:
    """1 - |m_p - m_q| of all pairs of places p, q of masks [B, h, w]: [B, h w, h w] (the paper's equation 2).

    Args:
        mask: In [0, 1].
        first_column_bug: As in DeepfakeBench, the target is m_q itself if p is in the first column.
    """
    flat = mask.flatten(1)
    target = 1 - (flat[:, :, None] - flat[:, None]).abs()
    if first_column_bug:
        first = torch.arange(flat.shape[1], device=mask.device) % mask.shape[-1] == 0
        target = torch.where(first[None, :, None], flat[:, None], target)
    return target
