"""CLIP-LoRA: CLIP's image tower with low-rank adapters and a linear classifier, a baseline of the SD2 paper."""

from resproto_fd.detectors.parts.clip_detector import LoraClip
from resproto_fd.detectors.registry import register


@register("clip_lora")
class ClipLora(LoraClip):
    """Train low-rank adapters in CLIP's frozen image tower and a linear classifier (LoRA: Hu et al., ICLR 2022).

    The loss is cross-entropy on the projected embedding.

    Args:
        lora: `backbone`, `pretrained`, `quick_gelu`, `rank`, `alpha`, `dropout` and `targets`, see `LoraClip`.

    Raises:
        UserError: As `LoraClip`.
    """

    def __init__(self, **lora):
        super().__init__(**lora)
        self.clip.drop_text()
