"""CViT: a convolutional network followed by a transformer (arXiv 2102.11126).

Legend: B batch, D embedding size.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.parts.cvit_backbone import CViTBackbone
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import load_pretrained


@register("cvit")
class CViT(Detector):
    """Classify the map of a convolutional network by a transformer (Wodajo & Atnafu, 2021).

    A head of two layers reads the class token and trains with cross-entropy.

    Args:
        pretrained: A file of weights in this class's naming, or None for random weights (CViT is trained from scratch).
        size, width, channels, depth, heads, hidden: See `CViTBackbone`.

    Raises:
        UserError: As `CViTBackbone`; or the weights do not fit.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        size: int = 224,
        width: int = 1024,
        channels: Sequence[int] = (32, 64, 128, 256, 512),
        depth: int = 6,
        heads: int = 8,
        hidden: int = 2048,
    ):
        super().__init__()
        self.backbone = CViTBackbone(size, width, channels, depth, heads, hidden)
        self.classifier = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, 2))
        load_pretrained(self, pretrained)

    def encode(self, images: Tensor) -> Tensor:
        return self.backbone(images)
