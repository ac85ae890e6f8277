"""Effort: CLIP trained in the smallest singular directions of its attention's projections (Yan et al., ICML 2025).

Legend: O outputs, I inputs, R trained singular values.
"""

from typing import Annotated

import torch
from open_clip.transformer import VisionTransformer
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.base import Detector, Output, two_class_output
from resproto_fd.detectors.parts.clip_tower import Backbone, load_clip
from resproto_fd.detectors.parts.deepfakebench_names import clip_vit
from resproto_fd.detectors.parts.lora import ATTENTION, ProjectedAttention, project_attention
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import pretrained_skipped


class SingularResidual(nn.Module):
    """A linear layer of weight_main + U diag(S) V, of which the R smallest singular values and their vectors train.

    `start_U` [O, R], `start_S` [R] and `start_V` [R, I] are where these began: the constraints compare with them.

    Args:
        layer: As many outputs as inputs; it is taken over, and computes the same at the start.
        rank: R.
    """

    def __init__(self, layer: nn.Linear, rank: int):
        super().__init__()
        weight = layer.weight.detach()
        rank = min(rank, len(weight))
        if pretrained_skipped():  # a checkpoint follows, and the decompositions of ViT-L take a minute
            u, s, v = weight.new_zeros(len(weight), rank), weight.new_zeros(rank), weight.new_zeros(rank, len(weight))
        else:
            u, s, v = torch.linalg.svd(weight)
            u, s, v = u[:, -rank:].contiguous(), s[-rank:].contiguous(), v[-rank:].contiguous()
        self.weight_main = nn.Parameter(weight - (u * s) @ v, requires_grad=False)
        self.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
        for name, value in (("S", s), ("U", u), ("V", v)):
            setattr(self, f"{name}_residual", nn.Parameter(value))
            self.register_buffer(f"start_{name}", value.clone())

    def forward(self, x: Tensor) -> Tensor:
        trained = F.linear(F.linear(x, self.V_residual) * self.S_residual, self.U_residual)
        return F.linear(x, self.weight_main, self.bias) + trained

    def forget_start(self) -> None:
        """Without where they began, the layer cannot be constrained, and its state is DeepfakeBench's."""
        self.start_S = self.start_U = self.start_V = None

    def orthogonality(self) -> Tensor:
        """||A^T A - 1||^2 + ||B^T B - 1||^2, A and B all left and right singular vectors, frozen and trained; scalar.

        The frozen ones are orthonormal, and complete together with those the trained ones began as: what a trained
        vector has in common with them is what it has not with its start.
        """
        loss = self.S_residual.new_zeros(())
        for now, start in ((self.U_residual, self.start_U), (self.V_residual.T, self.start_V.T)):
            among_frozen = now - start @ (start.T @ now)
            among_trained = now.T @ now - torch.eye(now.shape[1], device=now.device, dtype=now.dtype)
            loss = loss + 2 * among_frozen.square().sum() + among_trained.square().sum()
        return loss

    def energy_change(self) -> Tensor:
        """| ||W||^2 - ||W at the start||^2 |, Frobenius norms of the whole weight; scalar.

        From the parts, since the difference of two large sums would be rounding.
        """
        scaled = self.U_residual * self.S_residual
        with_main = (scaled * (self.weight_main @ self.V_residual.T)).sum()
        own = ((scaled.T @ scaled) * (self.V_residual @ self.V_residual.T)).sum()
        return (2 * with_main + own - self.start_S.square().sum()).abs()


@register("effort")
class Effort(Detector):
    """Of each attention projection the smallest singular values train, with their vectors; and a linear classifier.

    Two constraints keep what trains orthogonal to what is frozen, and the norms of the weights. DeepfakeBench has them
    switched off: its checkpoints do not say where training began, and loading one switches them off here.

    Args:
        backbone: See `clip_tower.Backbone`; a ViT of open_clip. Its embedding before the projection is classified.
        pretrained: See `clip_tower.load_clip`.
        quick_gelu: See `clip_tower.load_clip`.
        rank: Singular values that train, of each matrix.
        constraint_weight: Of each constraint, a mean over all matrices; 0 leaves both out.

    Raises:
        UserError: As `load_clip`; or the backbone is no ViT of open_clip.
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
