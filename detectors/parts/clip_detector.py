"""Detectors on CLIP: what those that fine-tune, adapt or only read its image tower share."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.parts.clip_tower import Backbone, load_clip
from resproto_fd.detectors.parts.lora import ATTENTION, add_lora
from resproto_fd.detectors.parts.transformers_names import clip_vit


class ClipDetector(Detector):
    """Detector whose features are the embeddings of CLIP's image tower, projected, not normalised.

    Args:
        backbone: See `clip_tower.Backbone`.
        pretrained, quick_gelu: See `clip_tower.load_clip`.

    Raises:
        UserError: As `load_clip`.
    """

    def __init__(
        self, backbone: Backbone = "ViT-B-16", pretrained: str | None = "openai", quick_gelu: bool | None = None
    ):
        super().__init__()
        self.clip = load_clip(backbone, pretrained, quick_gelu)

    def encode(self, images: Tensor) -> Tensor:
        return self.clip(images)

    def named_here(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of a DeepfakeBench checkpoint under our names; `backbone` is the tower, `head` the classifier."""
        own = {"clip.logit_scale": self.clip.logit_scale.data, "clip.quick_gelu": torch.tensor(True)}
        tower = {f"clip.visual.{key}": value for key, value in clip_vit(state).items()}
        rest = {key.replace("head.", "classifier."): v for key, v in state.items() if not key.startswith("backbone.")}
        return own | tower | rest


class LoraClip(ClipDetector):
    """Frozen CLIP with low-rank adapters in its image tower, under a linear classifier.

    Args:
        backbone: See `clip_tower.Backbone`; a ViT of open_clip.
        rank, alpha, dropout, targets: See `lora.add_lora`.
        clip: Further keywords of `ClipDetector`.

    Raises:
        UserError: As `ClipDetector` and `add_lora`.
    """

    def __init__(
        self,
        backbone: Backbone = "ViT-L-14",
        rank: int = 8,
        alpha: float = 32.0,
        dropout: float = 0.1,
        targets: Sequence[str] = ATTENTION,
        **clip,
    ):
        super().__init__(backbone, **clip)
        self.clip.requires_grad_(False)
        add_lora(self.clip.visual, rank, alpha, dropout, targets)
        self.classifier = nn.Linear(self.clip.embed_dim, 2)
