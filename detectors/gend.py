"""GenD: a ViT of which only the layer norms train, with unit features that are spread over the sphere.

Legend: B batch, D feature size.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.base import Output
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.parts.transformers_names import clip_in_timm, dinov3_in_timm
from resproto_fd.detectors.registry import register
from resproto_fd.losses.global_batch import gather_rows
from resproto_fd.losses.hypersphere import alignment, uniformity
from resproto_fd.losses.precision import at_least_float32

ENCODER, HEAD = "feature_extractor.", "model.linear."
"""Prefixes of the authors' checkpoints."""


@register("gend")
class GenD(TimmClassifier):
    """Train the layer norms of a ViT and a linear classifier on its unit features (Yermakov et al., WACV 2026).

    The loss is cross-entropy, plus the uniformity of all features and the alignment of features of one class.

    Args:
        backbone: Name of a ViT of timm.
        uniformity, alignment: Weights of the two terms; 0 removes one.
        timm: `pretrained`, `dropout` and `options`, see `TimmClassifier`.

    Raises:
        UserError: As `TimmClassifier`; or the backbone has no layer norm.
    """

    def __init__(
        self,
        backbone: str = "vit_large_patch14_clip_quickgelu_224.openai",
        uniformity: Annotated[float, Field(ge=0)] = 0.5,
        alignment: Annotated[float, Field(ge=0)] = 0.1,
        **timm,
    ):
        super().__init__(backbone, **timm)
        norms = [module for module in self.backbone.modules() if isinstance(module, nn.LayerNorm)]
        if not norms:
            raise UserError(f"gend: expected a backbone with layer norms, got {backbone}; set model.backbone")
        self.backbone.requires_grad_(False)
        for norm in norms:
            norm.requires_grad_(True)
        self.uniformity, self.alignment = uniformity, alignment
        self.couples_batch = bool(uniformity or alignment)

    def from_authors(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """See `Detector.from_authors`; their detectors on CLIP, on a Perception Encoder and on DINOv3."""
        if not any(key.startswith(ENCODER) for key in state):
            return super().from_authors(state)
        encoder = {key.removeprefix(ENCODER): value for key, value in state.items() if key.startswith(ENCODER)}
        if any(key.startswith("vision_model.") for key in encoder):
            tower = clip_in_timm(encoder, self.backbone)
        else:
            tower = {key.removeprefix("backbone."): value for key, value in encoder.items()}
            if "embeddings.cls_token" in tower:
                tower = dinov3_in_timm(tower, self.backbone)
        rest = {key: value for key, value in state.items() if not key.startswith(ENCODER)}
        found = {f"backbone.{key}": value for key, value in tower.items()}
        return found | {key.replace(HEAD, "classifier.1."): value for key, value in rest.items()}

    def encode(self, images: Tensor) -> Tensor:
        """Unit features [B, D] of normalised images [B, 3, H, W]."""
        return F.normalize(at_least_float32(super().encode(images)), dim=-1)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        output = super().head(features, labels)
        if labels is not None and self.couples_batch:
            output.losses["ce"] = output.losses["total"]
            everyone, of_everyone = gather_rows(features), gather_rows(labels)
            if self.uniformity:
                output.add_loss("uniformity", uniformity(everyone), self.uniformity)
            if self.alignment:
                output.add_loss("alignment", alignment(everyone, of_everyone), self.alignment)
        return output
