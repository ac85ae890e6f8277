"""SLADD's detector: real or fake, and where a picture was blended (Chen et al., CVPR 2022).

The paper's synthesizer, which learns by policy gradient which blend is hardest, is not here.
"""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from ..losses.residual import at_least_float32
from .base import Output
from .registry import register
from .timm_backbone import TimmClassifier
from .xception_variants import MIDDLE, XCEPTION, Separable, after_middle, through_middle

UNUSED = ("backbone.type_fc.", "backbone.mag_fc.", "synthesizer.")
"""Parts of DeepfakeBench's checkpoint that do not score."""


@register("sladd")
class SLADD(TimmClassifier):
    """Xception with a head for the forged region on its middle maps.

    Args:
        pretrained, dropout, options: See `TimmClassifier`.
        mask_weight: Of the mean squared difference between the found and the true region; 0 leaves the head out.
    """

    def __init__(
        self,
        pretrained: bool | str | None = True,
        dropout: float = 0.0,
        options: dict[str, Any] | None = None,
        mask_weight: Annotated[float, Field(ge=0)] = 0.1,
    ):
        super().__init__(XCEPTION, pretrained, dropout, options)
        self.mask_weight = mask_weight
        self.requires = frozenset({"mask"} if mask_weight else ())
        self.map = nn.ModuleDict({"c": Separable(MIDDLE, 1)}) if mask_weight else None

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        unused = UNUSED if self.map is not None else (*UNUSED, "backbone.map.")
        state = {key: value for key, value in state.items() if not key.startswith(unused)}
        return super().from_deepfakebench({key.replace("backbone.map.", "map."): value for key, value in state.items()})

    def encode(self, images: Tensor) -> Tensor:
        return after_middle(self.backbone, through_middle(self.backbone, images))

    def forward(
        self, images: Tensor, labels: Tensor | None = None, mask: Tensor | None = None, **fields: Tensor
    ) -> Output:
        """See `Detector.forward`; with masks, [B, 1, H, W] in [0, 1], also the loss of the region."""
        middle = through_middle(self.backbone, images)
        output = self.head(after_middle(self.backbone, middle), labels)
        if mask is not None and labels is not None and self.map is not None:
            wanted = F.interpolate(at_least_float32(mask), middle.shape[-2:], mode="bilinear", align_corners=False)
            output.losses["mask"] = F.mse_loss(self.region(middle), wanted)
            output.losses["total"] = output.losses["total"] + self.mask_weight * output.losses["mask"]
        return output

    def region(self, middle: Tensor) -> Tensor:
        """How forged each place is, in (0, 1): [B, MIDDLE, h, w] -> [B, 1, h, w]."""
        return torch.sigmoid(at_least_float32(self.map["c"](middle)))
