"""CORE: features that agree between two augmentations of a picture."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from resproto_fd.detectors.base import Output
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.parts.xception import XCEPTION
from resproto_fd.detectors.registry import register
from resproto_fd.losses.global_batch import gather_rows
from resproto_fd.losses.precision import at_least_float32


@register("core")
class CORE(TimmClassifier):
    """Train Xception so that two views of a frame have the same features (Ni et al., CVPRW 2022).

    The loss is cross-entropy on both views plus a penalty on the angle between their features.

    Args:
        consistency: Weight of the penalty (the paper's alpha).
        pairs: "views" of the same frame, as in the paper; or "halves" of the batch, as in DeepfakeBench. Halves pull
            unrelated pictures together, real and fake ones alike.
        timm: `pretrained`, `dropout` and `options`, see `TimmClassifier`.
    """

    def __init__(
        self,
        consistency: Annotated[float, Field(ge=0)] = 1.0,
        pairs: Literal["views", "halves"] = "views",
        **timm,
    ):
        super().__init__(XCEPTION, **timm)
        self.consistency, self.pairs = consistency, pairs
        self.couples_batch = pairs == "halves" and consistency > 0
        self.requires = frozenset({"second_view"} if pairs == "views" and consistency else ())

    def forward(
        self, images: Tensor, labels: Tensor | None = None, second_view: Tensor | None = None, **fields: Tensor
    ) -> Output:
        """See `Detector.forward`; with second views, normalised [B, 3, H, W], also the penalty."""
        if labels is None or second_view is None:
            return self.head(self.encode(images), labels)
        both = self.head(self.encode(torch.cat([images, second_view])), labels.repeat(2))
        losses = self._with_penalty(both.losses, *both.features.chunk(2))
        count = len(images)
        return Output(both.scores[:count], both.logits[:count], both.features[:count], losses)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        output = super().head(features, labels)
        if self.couples_batch and self.training and labels is not None:
            everyone = gather_rows(features)
            if half := len(everyone) // 2:
                output.losses = self._with_penalty(output.losses, everyone[:half], everyone[half : 2 * half])
        return output

    def _with_penalty(self, losses: dict[str, Tensor], one: Tensor, two: Tensor) -> dict[str, Tensor]:
        entropy, penalty = losses["total"], cosine_penalty(one, two)
        return {"total": entropy + self.consistency * penalty, "cross_entropy": entropy, "consistency": penalty}


def cosine_penalty(one: Tensor, two: Tensor) -> Tensor:
    """Mean of (1 - cos)^2 over pairs of features [B, D], scalar in [0, 4] (the paper's equation 3)."""
    return (1 - F.cosine_similarity(at_least_float32(one), at_least_float32(two))).square().mean()
