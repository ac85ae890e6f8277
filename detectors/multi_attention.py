"""Multi-attentional detection: attention maps over EfficientNet that each gather texture.

Legend: B batch, M maps, h, w sides of a map.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import Output, two_class_output
from resproto_fd.detectors.parts.attention_maps import MAPS, SHALLOW, TEXTURE, AttentionMaps, Texture, degraded
from resproto_fd.detectors.parts.efficientnet_b4 import EfficientNetB4, stages
from resproto_fd.detectors.registry import register
from resproto_fd.losses.global_batch import gather_rows
from resproto_fd.losses.precision import at_least_float32
from resproto_fd.losses.region_independence import region_independence_loss

DEEP = 1792
"""Channels of the deep features."""
SIZES = (MAPS * TEXTURE, MAPS * SHALLOW, DEEP, DEEP)
THEIRS = {
    "attention_generation.": "attention.",
    "texture_enhance.": "texture.",
    "projection_local.": "local.",
    "projection_final.": "whole.",
    "ensemble_classifier_fc.": "ensemble.",
}


@register("multi_attention")
class MultiAttention(EfficientNetB4):
    """Classify texture gathered by four attention maps, together with the deep features (Zhao et al., CVPR 2021).

    DeepfakeBench's network differs: it has no swish after stem and head, and two after the projection of the deep
    features. Its score differs too: it uses the attention only after 35 910 batches of a process, in training or
    testing, and a linear classifier on the backbone before. Loading one of its checkpoints switches to both. `attend`
    chooses the score, and `variants` has the other one.

    Args:
        dropout: Dropout of the gathered texture.
        independence: Weight of the region independence loss (the paper's lambda).
        rate: Step of the centres in that loss (the paper's alpha); each epoch multiplies it by 0.9.
        degraded: Share of the training pictures that are blurred where one of their maps attends (the paper's AGDA).
        timm: `pretrained` and `options`, see `EfficientNetB4`.
    """

    couples_batch = True
    map_parts = ("texture", "backbone")

    def __init__(
        self,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.25,
        independence: Annotated[float, Field(ge=0)] = 1.0,
        rate: Annotated[float, Field(gt=0, le=1)] = 0.05,
        degraded: Annotated[float, Field(ge=0, le=1)] = 0.5,
        **timm,
    ):
        super().__init__(**timm)
        self.paper = self.attend = True
        self.classifier = None
        self.dropout, self.independence, self.degraded = nn.Dropout(dropout), independence, degraded
        self.first_rate = self.rate = rate
        self.attention, self.texture = AttentionMaps(), Texture()
        self.local = nn.Sequential(nn.Linear(MAPS * TEXTURE, 256), nn.Hardswish(), nn.Linear(256, 256), nn.Hardswish())
        self.whole = nn.Sequential(nn.Linear(DEEP, 256), nn.Hardswish())
        self.ensemble = nn.Sequential(nn.Linear(512, 256), nn.Hardswish(), nn.Linear(256, 2))
        self.register_buffer("centres", torch.zeros(MAPS, SHALLOW))

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        self.paper = self.attend = False
        self.backbone.bn1.act = self.backbone.bn2.act = nn.Identity()
        self.classifier = nn.Sequential(nn.Identity(), nn.Linear(DEEP, 2))
        state = {key: value for key, value in state.items() if key != "attention_generation.mask"}
        for theirs, ours in THEIRS.items():
            state = {ours + k.removeprefix(theirs) if k.startswith(theirs) else k: v for k, v in state.items()}
        return {**super().from_deepfakebench(state), "centres": self.centres}

    def start_epoch(self, epoch: int) -> None:
        self.rate = self.first_rate * 0.9**epoch

    def encode(self, images: Tensor) -> Tensor:
        """Texture and shallow features of each map, attended and plain deep features: [B, 3, H, W] -> [B, D]"""
        if self.training and self.degraded and self.attend:
            with torch.no_grad():
                images = degraded(images, self._maps(images)[1], self.degraded)
            torch.clear_autocast_cache()  # some versions of PyTorch would train with what it keeps, without gradient
        (shallow, middle), maps = self._maps(images)
        deep = self.backbone.bn2(self.backbone.conv_head(stages(self.backbone, middle, 5)))
        texture, low = self.texture(shallow, maps.shape[-2:])
        weights = _resized(maps.sum(dim=1, keepdim=True), deep) + 1e-8
        whole = _gathered(weights, deep) / weights.sum(dim=(2, 3))[..., None]
        parts = [F.normalize(_gathered(maps, texture), dim=-1), F.normalize(_gathered(maps, low), dim=-1), whole]
        return torch.cat([part.flatten(1) for part in parts] + [self.backbone.global_pool(deep)], dim=1)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        texture, low, whole, mean = at_least_float32(features).split(SIZES, dim=1)
        whole = self.whole(whole)
        whole = whole if self.paper else F.hardswish(whole)
        attentive = self.ensemble(torch.cat([self.local(self.dropout(texture)), whole], dim=1))
        if self.classifier is None:
            output = two_class_output(attentive, features, labels)
        else:
            logits = attentive, self.classifier(mean)
            output, other = (two_class_output(x, features, labels) for x in (logits if self.attend else logits[::-1]))
            output.variants = {"backbone" if self.attend else "attention": other.scores}
        if labels is not None and self.attend and self.independence:
            output.losses = self._with_independence(output.losses["total"], low.unflatten(1, (MAPS, SHALLOW)), labels)
        return output

    def _with_independence(self, entropy: Tensor, vectors: Tensor, labels: Tensor) -> dict[str, Tensor]:
        if self.training:
            vectors, labels = gather_rows(vectors), gather_rows(labels)
        loss, centres = region_independence_loss(vectors, self.centres, labels, self.rate, self.paper)
        if self.training:
            self.centres.copy_(centres)
        return {"total": entropy + self.independence * loss, "cross_entropy": entropy, "independence": loss}

    def _maps(self, images: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Features after the second and the fifth stage, and the maps of the latter, [B, M, h, w]."""
        x = self.backbone.bn1(self.backbone.conv_stem(images))
        shallow = stages(self.backbone, x, 0, 2)
        middle = stages(self.backbone, shallow, 2, 5)
        return (shallow, middle), self.attention(middle)


def _resized(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, like.shape[-2:], mode="bilinear", align_corners=True)


def _gathered(maps: Tensor, features: Tensor) -> Tensor:
    """Sum of the features [B, C, H, W] over places, weighted by each map: [B, M, C]"""
    return torch.einsum("bmhw,bchw->bmc", _resized(maps, features), features)
