"""RECCE: a decoder of real faces, whose errors show where a forgery is.

Legend: B batch, D feature size, n side of the middle maps, S side of the images.
"""

import re
from typing import Annotated

import torch
from pydantic import Field
from timm.models.xception import Block
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import Output
from resproto_fd.detectors.parts.graph_reasoning import GraphReasoning, GuidedAttention
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.parts.xception import MIDDLE, XCEPTION, Separable, stretch
from resproto_fd.detectors.registry import register
from resproto_fd.losses.global_batch import gather_rows
from resproto_fd.losses.precision import at_least_float32

WIDTHS = (2048, MIDDLE, 256, 128, 1)
"""Widths that `encode` joins: features of the classifier, of encoder and decoder (pooled), and the error."""


@register("recce")
class Recce(TimmClassifier):
    """Guide Xception by a decoder that learns to reconstruct only real faces (Cao et al., CVPR 2022).

    The decoder's maps and its reconstruction errors weight the classifier's maps.

    Args:
        reconstruction: Weight of the mean absolute error on real faces (paper, lambda_1); DeepfakeBench has 0.
        metric: Weight of `metric_loss` (lambda_2); DeepfakeBench has 0.
        noise: Standard deviation of the white noise added to half of the images in training.
        dropout: Dropout before the decoder, in the guidance, and before the classifier.
        timm: `pretrained` and `options`, see `TimmClassifier`.
    """

    def __init__(
        self,
        reconstruction: Annotated[float, Field(ge=0)] = 0.1,
        metric: Annotated[float, Field(ge=0)] = 0.1,
        noise: Annotated[float, Field(ge=0)] = 1e-6,
        dropout: float = 0.2,
        **timm,
    ):
        super().__init__(XCEPTION, dropout=dropout, **timm)
        self.weights = {"reconstruction": reconstruction, "metric": metric}
        self.couples_batch = bool(reconstruction or metric)
        self.noise, self.dropout = noise, nn.Dropout(dropout)
        self.decoder1, self.decoder2 = _upwards(MIDDLE, 256), Block(256, 256, 3)
        self.decoder3, self.decoder4 = _upwards(256, 128), Block(128, 128, 3)
        self.decoder5 = _upwards(128, 64)
        self.decoder6 = nn.Sequential(nn.Conv2d(64, 3, 1, bias=False), nn.Tanh())
        self.reasoning, self.attention = GraphReasoning(dropout), GuidedAttention(dropout)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Detector.from_deepfakebench`; an unused second Xception and ImageNet classifier are left out."""
        state = {key: value for key, value in state.items() if not re.match(r"backbone\.|model\.encoder\.fc\.", key)}
        state = {re.sub(r"^model\.encoder\.", "backbone.", key): value for key, value in state.items()}
        return {re.sub(r"^model\.", "", re.sub(r"^model\.fc\.", "classifier.1.", k)): v for k, v in state.items()}

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, sum of `WIDTHS`]"""
        early = stretch(self.backbone, self._disturbed(images), "conv1", "block4")
        d2 = self.decoder2(self.decoder1(self.dropout(early)))
        d4 = self.decoder4(self.decoder3(d2))
        faces = self.decoder6(self.decoder5(d4))
        errors = (images - F.interpolate(faces, images.shape[-2:], mode="bilinear", align_corners=True)).abs()

        x = stretch(self.backbone, early, "block5", "block7")
        x = stretch(self.backbone, x + self.reasoning(x, d2, d4), "block8", "block8")
        x = stretch(self.backbone, self.attention(x, errors), "block9", "act4")
        pooled = [maps.mean(dim=(2, 3)) for maps in (early, d2, d4)]
        return torch.cat([self.backbone.forward_head(x), *pooled, errors.mean(dim=(1, 2, 3))[:, None]], dim=1)

    def _disturbed(self, images: Tensor) -> Tensor:
        if not self.training:
            return images
        chosen = torch.rand(len(images), 1, 1, 1, device=images.device) > 0.5
        return (images + self.noise * torch.randn_like(images) * chosen).clamp(-1, 1)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        features, *learnt, errors = features.split(WIDTHS, dim=1)
        output = super().head(features, labels)
        if labels is not None:
            everyone = gather_rows(labels)
            errors, real = gather_rows(at_least_float32(errors)).flatten(), everyone == 0
            terms = {
                "reconstruction": (errors * real).sum() / real.sum().clamp(min=1),
                "metric": sum(metric_loss(gather_rows(one), everyone) for one in learnt),
            }
            for name, term in terms.items():
                if self.weights[name]:
                    output.add_loss(name, term, self.weights[name])
        return output


def metric_loss(features: Tensor, labels: Tensor) -> Tensor:
    """Mean distance of the pairs of reals, and mean similarity of a real and a fake (paper, eq 3, plus one).

    Similarity is (cosine + 1) / 2, and distance is 1 - similarity. A kind of pair that the batch lacks adds 0.

    Args:
        features: [B, D].
        labels: 0 real, 1 fake, [B].
    """
    unit = F.normalize(at_least_float32(features), dim=1)
    similarity = 1 - (unit[:, None] - unit).square().sum(dim=-1) / 4
    real = labels == 0
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    reals, mixed = real[:, None] & real & ~itself, real[:, None] & ~real
    apart = ((1 - similarity) * reals).sum() / reals.sum().clamp(min=1)
    return apart + (similarity * mixed).sum() / mixed.sum().clamp(min=1)


def _upwards(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=2), Separable(before, after), nn.BatchNorm2d(after), nn.ReLU())
