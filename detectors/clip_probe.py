"""A linear probe of frozen CLIP: a control, and the method UnivFD."""

from torch import Tensor, nn

from resproto_fd.detectors.base import Detector, Output, two_class_output
from resproto_fd.detectors.parts.clip_tower import Backbone, load_clip
from resproto_fd.detectors.registry import register


@register("clip_probe")
class ClipProbe(Detector):
    """Train a linear classifier on frozen CLIP's embedding, as UnivFD does (Ojha et al., CVPR 2023).

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
