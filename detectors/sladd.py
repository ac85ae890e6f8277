"""SLADD: Xception that also predicts where a picture was blended.

The paper's synthesizer, which learns by policy gradient which blend is hardest, is not included.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.parts.xception import MIDDLE, MaskTaught, Separable, through_middle
from resproto_fd.detectors.registry import register
from resproto_fd.losses.precision import at_least_float32

UNUSED = ("backbone.type_fc.", "backbone.mag_fc.", "synthesizer.")
"""Parts of DeepfakeBench's checkpoint without effect on scores."""


@register("sladd")
class SLADD(MaskTaught):
    """Train Xception together with a head that predicts the forged region (Chen et al., CVPR 2022).

    Args:
        mask_weight: Weight of the mean squared error of the region; 0 removes the head.
        timm: `pretrained`, `dropout` and `options`, see `TimmClassifier`.
    """

    term = "mask"

    def __init__(self, mask_weight: Annotated[float, Field(ge=0)] = 0.1, **timm):
        super().__init__(mask_weight, **timm)
        self.map = nn.ModuleDict({"c": Separable(MIDDLE, 1)}) if mask_weight else None

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        unused = UNUSED if self.map is not None else (*UNUSED, "backbone.map.")
        state = {key: value for key, value in state.items() if not key.startswith(unused)}
        return super().from_deepfakebench({key.replace("backbone.map.", "map."): value for key, value in state.items()})

    def mask_loss(self, middle: Tensor, mask: Tensor) -> Tensor:
        wanted = F.interpolate(mask, middle.shape[-2:], mode="bilinear", align_corners=False)
        return F.mse_loss(self.region(middle), wanted)

    def predicted_map(self, images: Tensor) -> Tensor | None:
        """See `Detector.predicted_map`; the forged region."""
        return None if self.map is None else self.region(through_middle(self.backbone, images))[:, 0]

    def region(self, middle: Tensor) -> Tensor:
        """The forged region, in (0, 1): [B, MIDDLE, h, w] -> [B, 1, h, w]."""
        return torch.sigmoid(at_least_float32(self.map["c"](middle)))
