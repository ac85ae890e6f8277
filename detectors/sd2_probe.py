"""A linear probe of SD2's frozen image encoder: the paper's test on images without faces (Table 4)."""

from typing import Any

from torch import Tensor, nn

from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.parts.clip_tower import Backbone
from resproto_fd.detectors.registry import detector_class, register
from resproto_fd.detectors.weights import load_pretrained


@register("sd2_probe")
class SD2Probe(Detector):
    """Train a linear classifier on a frozen SD2 image tower (A Rich Knowledge Space, under review).

    Args:
        backbone: See `clip_tower.Backbone`.
        pretrained: Weights of an SD2 (`best.pt` of a run), or None for random weights.
        sd2: Other keywords with which that SD2 was trained.
        clam: Whether to classify the output of the cross-layer attention; the paper names the "vision encoder".

    Raises:
        UserError: The weights cannot be read or do not fit.
    """

    fixed_encoder = ("sd2",)

    def __init__(
        self,
        backbone: Backbone = "ViT-L-14",
        pretrained: str | None = "sd2.pt",
        sd2: dict[str, Any] | None = None,
        clam: bool = False,
    ):
        super().__init__()
        self.sd2 = detector_class("sd2")(backbone=backbone, pretrained=None, **(sd2 or {}))
        load_pretrained(self.sd2, pretrained)
        self.sd2.clip.drop_text()
        self.freeze("sd2")
        self.clam = clam
        self.classifier = nn.Linear(self.sd2.clip.embed_dim, 2)

    def encode(self, images: Tensor) -> Tensor:
        return self.sd2.encode(images) if self.clam else self.sd2.clip(images)
