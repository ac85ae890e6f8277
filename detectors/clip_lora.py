"""CLIP-LoRA: CLIP's image tower with low-rank adapters and a linear classifier, a baseline of the SD2 paper."""

from collections.abc import Sequence

from torch import Tensor, nn

from resproto_fd.detectors.base import Detector, Output, two_class_output
from resproto_fd.detectors.parts.clip_tower import Backbone, load_clip
from resproto_fd.detectors.parts.lora import ATTENTION, add_lora
from resproto_fd.detectors.registry import register


@register("clip_lora")
class ClipLora(Detector):
    """Train low-rank adapters in CLIP's frozen image tower and a linear classifier (LoRA: Hu et al., ICLR 2022).

    The loss is cross-entropy on the projected embedding.

    Args:
        backbone: See `clip_tower.Backbone`; a ViT of open_clip.
        pretrained: See `clip_tower.load_clip`.
        quick_gelu: See `clip_tower.load_clip`.
        rank, alpha, dropout, targets: See `lora.add_lora`.

    Raises:
        UserError: As `load_clip` and `add_lora`.
    """

    def __init__(
        self,
        backbone: Backbone = "ViT-L-14",
        pretrained: str | None = "openai",
        quick_gelu: bool | None = None,
        rank: int = 8,
        alpha: float = 32.0,
        dropout: float = 0.1,
        targets: Sequence[str] = ATTENTION,
    ):
        super().__init__()
        self.clip = load_clip(backbone, pretrained, quick_gelu)
        self.clip.drop_text()
        self.clip.logit_scale.requires_grad_(False)
        add_lora(self.clip.visual, rank, alpha, dropout, targets)
        self.classifier = nn.Linear(self.clip.embed_dim, 2)

    def encode(self, images: Tensor) -> Tensor:
        return self.clip(images)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        return two_class_output(self.classifier(features), features, labels)
