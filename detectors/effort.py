"""Effort: CLIP, trained in the smallest singular directions of its attention projections.

Legend: O outputs, I inputs, R trained singular values.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from resproto_fd.detectors.base import Output
from resproto_fd.detectors.parts.clip_detector import ClipDetector
from resproto_fd.detectors.parts.clip_tower import Backbone
from resproto_fd.detectors.parts.lora import ATTENTION, ProjectedAttention, project_attention
from resproto_fd.detectors.parts.singular_residual import SingularResidual
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import two_outputs
from resproto_fd.losses.precision import without_autocast


@register("effort")
class Effort(ClipDetector):
    """Train the smallest singular values of CLIP's attention projections, with their vectors (Yan et al., ICML 2025).

    A linear classifier trains too. Two constraints keep the trained part orthogonal to the frozen part and preserve the
    norms of the weights. DeepfakeBench switches them off, and its checkpoints do not record where training began:
    loading one switches the constraints off here too.

    Args:
        backbone: See `clip_tower.Backbone`; a ViT of open_clip. Its embedding before the projection is classified.
        rank: Number of singular values of each matrix that train.
        constraint_weight: Weight of each constraint, a mean over all matrices; 0 removes both.
        clip: `pretrained` and `quick_gelu`, see `ClipDetector`.

    Raises:
        UserError: As `ClipDetector`; or the backbone is not a ViT of open_clip.
    """

    def __init__(
        self,
        backbone: Backbone = "ViT-L-14",
        rank: Annotated[int, Field(gt=0)] = 1,
        constraint_weight: Annotated[float, Field(ge=0)] = 1.0,
        **clip,
    ):
        super().__init__(backbone, **clip)
        self.clip.drop_text()
        visual = self.clip.require_vit("effort")
        self.clip.requires_grad_(False)
        visual.proj = None
        self.constraint_weight = constraint_weight
        project_attention(visual)
        for attention in [module for module in visual.modules() if isinstance(module, ProjectedAttention)]:
            for name in ATTENTION:
                setattr(attention, name, SingularResidual(getattr(attention, name), rank))
        self.classifier = nn.Linear(visual.class_embedding.numel(), 2)

    def from_authors(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """See `Detector.from_authors`; their face detector, and their detector of UnivFD's benchmark.

        The frozen singular vectors beside the weights have no effect on scores.
        """
        frozen = [key for key in state if key.endswith((".S_r", ".U_r", ".V_r", ".weight_original_fnorm"))]
        whole = any(key.startswith("model.vision_model.") for key in state)
        if not frozen and not whole:
            return None
        state = {key: value for key, value in state.items() if key not in frozen}
        if whole:
            state = {key.replace("model.vision_model.", "backbone."): value for key, value in state.items()}
            state = {k.replace("fc.", "head.", 1): v for k, v in state.items() if k.startswith(("backbone.", "fc."))}
            state |= {key: two_outputs(value) for key, value in state.items() if key.startswith("head.")}
        return self.from_deepfakebench(state)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        self.constraint_weight = 0.0
        for layer in self._layers():
            layer.forget_start()
        attention = {key: value for key, value in state.items() if ".self_attn." in key}
        found = self.named_here({key: value for key, value in state.items() if key not in attention})
        for key, value in attention.items():
            key = key.replace("backbone.encoder.layers.", "clip.visual.transformer.resblocks.")
            found[key.replace(".self_attn.", ".attn.")] = value
        return found

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        output = super().head(features, labels)
        if labels is not None and self.constraint_weight:
            layers, losses = self._layers(), output.losses
            with without_autocast(features):
                losses["orthogonality"] = torch.stack([layer.orthogonality() for layer in layers]).mean()
                losses["energy"] = torch.stack([layer.energy_change() for layer in layers]).mean()
            losses["total"] = losses["total"] + self.constraint_weight * (losses["orthogonality"] + losses["energy"])
        return output

    def _layers(self) -> list[SingularResidual]:
        return [module for module in self.clip.modules() if isinstance(module, SingularResidual)]
