"""Effort: CLIP, trained in the smallest singular directions of its attention projections.

Legend: O outputs, I inputs, R trained singular values.
"""

from typing import Annotated

import torch
from open_clip.transformer import VisionTransformer
from pydantic import Field
from torch import Tensor, nn

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.base import Detector, Output, two_class_output
from resproto_fd.detectors.parts.clip_tower import Backbone, load_clip
from resproto_fd.detectors.parts.deepfakebench_names import clip_vit
from resproto_fd.detectors.parts.lora import ATTENTION, ProjectedAttention, project_attention
from resproto_fd.detectors.parts.singular_residual import SingularResidual
from resproto_fd.detectors.registry import register


@register("effort")
class Effort(Detector):
    """Train the smallest singular values of CLIP's attention projections, with their vectors (Yan et al., ICML 2025).

    A linear classifier trains too. Two constraints keep the trained part orthogonal to the frozen part and preserve the
    norms of the weights. DeepfakeBench switches them off, and its checkpoints do not record where training began:
    loading one switches the constraints off here too.

    Args:
        backbone: See `clip_tower.Backbone`; a ViT of open_clip. Its embedding before the projection is classified.
        pretrained: See `clip_tower.load_clip`.
        quick_gelu: See `clip_tower.load_clip`.
        rank: Number of singular values of each matrix that train.
        constraint_weight: Weight of each constraint, a mean over all matrices; 0 removes both.

    Raises:
        UserError: As `load_clip`; or the backbone is not a ViT of open_clip.
    """

    def __init__(
        self,
        backbone: Backbone = "ViT-L-14",
        pretrained: str | None = "openai",
        quick_gelu: bool | None = None,
        rank: Annotated[int, Field(gt=0)] = 1,
        constraint_weight: Annotated[float, Field(ge=0)] = 1.0,
    ):
        super().__init__()
        self.clip = load_clip(backbone, pretrained, quick_gelu)
        self.clip.drop_text()
        visual = self.clip.visual
        if not isinstance(visual, VisionTransformer):
            raise UserError(f"effort: {type(visual).__name__} has no attention projections; take a ViT of open_clip")
        self.clip.requires_grad_(False)
        visual.proj = None
        self.constraint_weight = constraint_weight
        project_attention(visual)
        for attention in [module for module in visual.modules() if isinstance(module, ProjectedAttention)]:
            for name in ATTENTION:
                setattr(attention, name, SingularResidual(getattr(attention, name), rank))
        self.classifier = nn.Linear(visual.class_embedding.numel(), 2)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        self.constraint_weight = 0.0
        for layer in self._layers():
            layer.forget_start()
        found = {"clip.logit_scale": self.clip.logit_scale.data, "clip.quick_gelu": torch.tensor(True)}
        others = {}
        for key, value in state.items():
            if ".self_attn." in key:
                key = key.replace("backbone.encoder.layers.", "clip.visual.transformer.resblocks.")
                found[key.replace(".self_attn.", ".attn.")] = value
            elif key.startswith("backbone."):
                others[key] = value
            else:
                found[key.replace("head.", "classifier.")] = value
        return found | {f"clip.visual.{key}": value for key, value in clip_vit(others).items()}

    def encode(self, images: Tensor) -> Tensor:
        return self.clip(images)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        output = two_class_output(self.classifier(features), features, labels)
        if labels is not None and self.constraint_weight:
            layers, losses = self._layers(), output.losses
            with torch.autocast(features.device.type, enabled=False):
                losses["orthogonality"] = torch.stack([layer.orthogonality() for layer in layers]).mean()
                losses["energy"] = torch.stack([layer.energy_change() for layer in layers]).mean()
            losses["total"] = losses["total"] + self.constraint_weight * (losses["orthogonality"] + losses["energy"])
        return output

    def _layers(self) -> list[SingularResidual]:
        return [module for module in self.clip.modules() if isinstance(module, SingularResidual)]
