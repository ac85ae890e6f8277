"""CLIP zero-shot: images are compared with texts of the two classes."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from resproto_fd.detectors.base import Detector, Output, two_class_output
from resproto_fd.detectors.parts.clip_tower import FORGED_PROMPTS, REAL_PROMPTS, Backbone, load_clip
from resproto_fd.detectors.registry import register
from resproto_fd.losses.precision import at_least_float32
from resproto_fd.losses.residual import temperature


@register("clip_zero_shot")
class ClipZeroShot(Detector):
    """Compare images with texts of the two classes by untrained CLIP (Radford et al., ICML 2021).

    The score is a softmax over tau * cosine. No parameter trains.

    Args:
        backbone: See `clip_tower.Backbone`.
        pretrained: See `clip_tower.load_clip`.
        quick_gelu: See `clip_tower.load_clip`.
        prompts: Texts of the two classes; None takes Table 1 of the ResProto-FD paper.
    """

    def __init__(
        self,
        backbone: Backbone = "ViT-B-16",
        pretrained: str | None = "openai",
        quick_gelu: bool | None = None,
        prompts: dict[Literal["real", "forged"], list[str]] | None = None,
    ):
        super().__init__()
        self.clip = load_clip(backbone, pretrained, quick_gelu)
        texts = {"real": REAL_PROMPTS, "forged": FORGED_PROMPTS, **(prompts or {})}
        self.register_buffer("text_features", self.clip.text_features([texts["real"], texts["forged"]]))
        self.clip.drop_text()
        self.requires_grad_(False)

    def encode(self, images: Tensor) -> Tensor:
        return self.clip(images)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        features = F.normalize(at_least_float32(features), dim=-1)
        logits = temperature(self.clip.logit_scale) * (features @ self.text_features.T)
        return two_class_output(logits, features, labels)
