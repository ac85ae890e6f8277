"""CLIP zero-shot: images are compared with texts of the two classes."""

from torch import Tensor
from torch.nn import functional as F

from resproto_fd.detectors.base import Output, two_class_output
from resproto_fd.detectors.parts.clip_detector import ClipDetector
from resproto_fd.detectors.parts.clip_tower import Prompts
from resproto_fd.detectors.registry import register
from resproto_fd.losses.precision import at_least_float32
from resproto_fd.losses.residual import temperature


@register("clip_zero_shot")
class ClipZeroShot(ClipDetector):
    """Compare images with texts of the two classes by untrained CLIP (Radford et al., ICML 2021).

    The score is a softmax over tau * cosine. No parameter trains.

    Args:
        prompts: Texts of the two classes; None means Table 1 of the ResProto-FD paper.
        clip: `backbone`, `pretrained` and `quick_gelu`, see `ClipDetector`.
    """

    fixed_encoder = ("clip",)

    def __init__(self, prompts: Prompts | None = None, **clip):
        super().__init__(**clip)
        self.register_buffer("text_features", self.clip.class_features(prompts))
        self.clip.drop_text()
        self.freeze("clip")

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        features = F.normalize(at_least_float32(features), dim=-1)
        logits = temperature(self.clip.logit_scale) * (features @ self.text_features.T)
        return two_class_output(logits, features, labels)
