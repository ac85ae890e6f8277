"""FFD: Xception with a learnt attention map of the forged region."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import Output
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.parts.xception import MIDDLE, XCEPTION, Separable, after_middle, through_middle
from resproto_fd.detectors.registry import register


@register("ffd")
class FFD(TimmClassifier):
    """Weight Xception's features by a learnt map of the forged region (Dang et al., CVPR 2020).

    Args:
        mask_weight: Weight of the mean absolute difference between map and mask. With 0 no masks are required, as in
            DeepfakeBench, whose mask loss cannot run.
        timm: `pretrained`, `dropout` and `options`, see `TimmClassifier`.
    """

    def __init__(self, mask_weight: float = 0.0, **timm):
        super().__init__(XCEPTION, **timm)
        self.mask_weight = mask_weight
        self.requires = frozenset({"mask"} if mask_weight else ())
        self.map = nn.Module()
        self.map.c = Separable(MIDDLE, 1)

    def encode(self, images: Tensor) -> Tensor:
        return self._weighed(images)[0]

    def forward(
        self, images: Tensor, labels: Tensor | None = None, mask: Tensor | None = None, **fields: Tensor
    ) -> Output:
        """See `Detector.forward`; with masks, [B, 1, H, W] in [0, 1], also the map's loss."""
        features, found = self._weighed(images)
        output = self.head(features, labels)
        if mask is not None and self.mask_weight and labels is not None:
            loss = (F.adaptive_avg_pool2d(mask, found.shape[-2:]) - found).abs().mean()
            output.add_loss("mask", loss, self.mask_weight)
        return output

    def predicted_map(self, images: Tensor) -> Tensor:
        """See `Detector.predicted_map`; without a mask loss, what the classifier alone taught."""
        return self._weighed(images)[1][:, 0]

    def _weighed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, D], and the share of forgery at each place of block 7's maps, in (0, 1), [B, 1, h, w]."""
        middle = through_middle(self.backbone, images)
        found = torch.sigmoid(self.map.c(middle))
        return after_middle(self.backbone, middle * found), found
