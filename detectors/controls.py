"""Controls: what a table says of detectors is worth what these do not reach.

None is a method. `chance` knows nothing, `border` sees no face, `clip_probe` sees what CLIP saw before any forgery.
"""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from resproto_fd.detectors.base import Detector, Output, two_class_output
from resproto_fd.detectors.parts.clip_tower import Backbone, load_clip
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.timm import TimmClassifier

FACE_SHARE = 1 / 1.3
"""Side of the face's box by side of the crop: DeepfakeBench's margin."""


@register("chance")
class Chance(Detector):
    """Scores spread evenly over [0, 1] that have nothing to do with the label: the digits far behind the point of one
    weighted sum of the pixels, the weight drawn at random. The same image has the same score."""

    def __init__(self, pretrained: None = None):
        super().__init__()
        self.register_buffer("step", torch.rand((), dtype=torch.float64))

    def encode(self, images: Tensor) -> Tensor:
        flat = images.flatten(1).double()
        weights = torch.arange(flat.shape[1], device=flat.device, dtype=torch.float64).mul(self.step.double()).frac()
        return (flat * weights).sum(dim=1, keepdim=True).mul(1e3).frac().abs().to(images.dtype)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        score = features[:, 0].clamp(1e-6, 1 - 1e-6)
        logits = torch.stack([(1 - score).log(), score.log()], dim=1)
        return two_class_output(logits, features, labels)


@register("clip_probe")
class ClipProbe(Detector):
    """CLIP's image tower as it is under a linear classifier, which alone trains (as UnivFD, Ojha et al., CVPR 2023).

    Args:
        backbone: See `clip_tower.Backbone`.
        pretrained: See `clip_tower.load_clip`.
        quick_gelu: See `clip_tower.load_clip`.
    """

    def __init__(
        self, backbone: Backbone = "ViT-B-16", pretrained: str | None = "openai", quick_gelu: bool | None = None
    ):
        super().__init__()
        self.clip = load_clip(backbone, pretrained, quick_gelu)
        self.clip.drop_text()
        self.clip.requires_grad_(False)
        self.classifier = nn.Linear(self.clip.embed_dim, 2)

    def train(self, mode: bool = True) -> "ClipProbe":
        super().train(mode)
        self.clip.eval()
        return self

    def encode(self, images: Tensor) -> Tensor:
        return self.clip(images)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        return two_class_output(self.classifier(features), features, labels)


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
