"""Face X-ray: find where a face was blended into another picture.

Legend: B batch, S side of the images.
"""

from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import Output
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.registry import register
from resproto_fd.losses.boundary import blending_boundary
from resproto_fd.losses.precision import at_least_float32

MAP_WEIGHTS = {True: 100.0, False: 1000.0}
"""Weight of the map's loss, in the paper (section 3.3) and in DeepfakeBench."""


@register("facexray")
class FaceXray(TimmClassifier):
    """Predict a map of the blending boundary with an HRNet and classify the map (Li et al., CVPR 2020).

    In the paper the map is a linear function of the features, turned into probabilities and trained with binary
    cross-entropy; its mean is classified. In DeepfakeBench three convolutions give an unbounded map, trained with the
    mean squared error, and three linear layers classify it at half its size. Loading one of its checkpoints switches to
    that form.

    Args:
        backbone: An HRNet of timm.
        pretrained: See `TimmClassifier`.
        options: See `TimmClassifier`.
        paper: Use the paper's map, loss and classifier; otherwise DeepfakeBench's.
        size: S; DeepfakeBench's classifier depends on it.
        mask_weight: Weight of the map's loss if the batch has masks. None means 100, or DeepfakeBench's 1000; with 0 no
            masks are required.
        masks: What the masks show: "boundaries", as cross-blended pictures have, or the forged "regions", from which
            boundaries are computed.
    """

    def __init__(
        self,
        backbone: str = "hrnet_w48.ms_in1k",
        pretrained: bool | str | None = True,
        options: dict[str, Any] | None = None,
        paper: bool = True,
        size: Annotated[int, Field(gt=0)] = 256,
        mask_weight: Annotated[float, Field(ge=0)] | None = None,
        masks: Literal["boundaries", "regions"] = "boundaries",
    ):
        super().__init__(backbone, pretrained, options=options)
        self.size, self.mask_weight, self.masks = size, mask_weight, masks
        self.requires = frozenset(() if mask_weight == 0 else {"mask"})
        # What follows the four maps is ImageNet's classifier.
        self.backbone.incre_modules = self.backbone.downsamp_modules = None
        self.backbone.final_layer = nn.Identity()
        self._build_heads(paper)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Detector.from_deepfakebench`; the ImageNet classifier in its checkpoints is left out."""
        if self.paper:
            self._build_heads(paper=False)
        unused = tuple(f"backbone.{part}." for part in ("incre_modules", "downsamp_modules", "final_layer", "fc"))
        used = {key: value for key, value in state.items() if not key.startswith(unused)}
        return {f"classifier.{key[3:]}" if key.startswith("fc.") else key: value for key, value in used.items()}

    def encode(self, images: Tensor) -> Tensor:
        """The features: the map's mean, [B, 1], or DeepfakeBench's map at half its size, [B, (S / 2)^2]."""
        return self._features(self.map(images))

    def forward(
        self, images: Tensor, labels: Tensor | None = None, mask: Tensor | None = None, **fields: Tensor
    ) -> Output:
        """See `Detector.forward`; with masks, [B, 1, S, S] in [0, 1], also the map's loss."""
        found = self.map(images)
        output = self.head(self._features(found), labels)
        weight = MAP_WEIGHTS[self.paper] if self.mask_weight is None else self.mask_weight
        if mask is not None and labels is not None and weight:
            boundary = mask if self.masks == "boundaries" else blending_boundary(mask)
            output.add_loss("mask", self.map_loss(found, boundary), weight)
        return output

    def map(self, images: Tensor) -> Tensor:
        """Map of the blending boundary, [B, 1, S, S]: logits, or DeepfakeBench's unbounded values."""
        maps = self.backbone.forward_features(images)
        side = maps[0].shape[-2:]
        maps = [maps[0], *(F.interpolate(x, side, mode="bilinear", align_corners=False) for x in maps[1:])]
        return F.interpolate(
            self.post_process(torch.cat(maps, dim=1)),
            images.shape[-2:],
            mode="bilinear",
            align_corners=not self.paper,
        )

    def predicted_map(self, images: Tensor) -> Tensor:
        """See `Detector.predicted_map`; the blending boundary."""
        found = self.map(images)[:, 0]
        return found.sigmoid() if self.paper else found.clamp(0, 1)

    def map_loss(self, found: Tensor, boundary: Tensor) -> Tensor:
        """Loss between `map` and the boundary, both [B, 1, S, S]: the mean over pixels, a scalar."""
        found = at_least_float32(found)
        if self.paper:
            return F.binary_cross_entropy_with_logits(found, boundary)
        return F.mse_loss(found, boundary)

    def _features(self, found: Tensor) -> Tensor:
        if self.paper:
            return found.sigmoid().mean(dim=(2, 3))
        return F.adaptive_avg_pool2d(found, self.size // 2).flatten(1)

    def _build_heads(self, paper: bool) -> None:
        self.paper = paper
        channels = sum(self.backbone.stage4_cfg["num_channels"])
        if paper:
            self.post_process, self.classifier = nn.Conv2d(channels, 1, 1), nn.Linear(1, 2)
            return
        self.post_process = nn.Sequential(*_convolved(channels, 256), *_convolved(256, 128), nn.Conv2d(128, 1, 1))
        self.classifier = nn.Sequential(*_linear((self.size // 2) ** 2, 1024), *_linear(1024, 128), nn.Linear(128, 2))


def _convolved(before: int, after: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()


def _linear(before: int, after: int) -> tuple[nn.Module, ...]:
    return nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()
