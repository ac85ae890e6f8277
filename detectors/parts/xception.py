"""Parts of Xception, for detectors that use its maps or extend it."""

from torch import Tensor, nn

from resproto_fd.detectors.base import Output
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.losses.precision import at_least_float32

XCEPTION = "legacy_xception"
MIDDLE, LAST_OF_MIDDLE = 728, "block7"


class MaskTaught(TimmClassifier):
    """Xception with a further loss on its maps after block 7, if the batch has masks.

    Args:
        weight: Weight of that loss; with 0 no masks are required.
        timm: `pretrained`, `dropout` and `options`, see `TimmClassifier`.
    """

    term: str
    """Name of the further loss."""

    def __init__(self, weight: float, **timm):
        super().__init__(XCEPTION, **timm)
        self.weight = weight
        self.requires = frozenset({"mask"} if weight else ())

    def encode(self, images: Tensor) -> Tensor:
        return after_middle(self.backbone, through_middle(self.backbone, images))

    def forward(
        self, images: Tensor, labels: Tensor | None = None, mask: Tensor | None = None, **fields: Tensor
    ) -> Output:
        """See `Detector.forward`; with masks, [B, 1, H, W] in [0, 1], also the further loss."""
        middle = through_middle(self.backbone, images)
        output = self.head(after_middle(self.backbone, middle), labels)
        if mask is not None and labels is not None and self.weight:
            output.add_loss(self.term, self.mask_loss(middle, at_least_float32(mask)), self.weight)
        return output

    def mask_loss(self, middle: Tensor, mask: Tensor) -> Tensor:
        """The further loss, a scalar, of maps [B, MIDDLE, h, w] and masks [B, 1, H, W]."""
        raise NotImplementedError


def through_middle(backbone: nn.Module, images: Tensor) -> Tensor:
    """Maps of timm's Xception after block 7: [B, 3, H, W] -> [B, MIDDLE, H / 16, W / 16]."""
    return stretch(backbone, images, "conv1", LAST_OF_MIDDLE)


def after_middle(backbone: nn.Module, middle: Tensor) -> Tensor:
    """Pooled features [B, D] from the maps of `through_middle`."""
    return backbone.forward_head(stretch(backbone, middle, "block8", "act4"))


def stretch(backbone: nn.Module, x: Tensor, first: str, last: str) -> Tensor:
    """Run a part of timm's Xception on maps, from one of its children to another, both included."""
    names = [name for name, _ in backbone.named_children()]
    for name in names[names.index(first) : names.index(last) + 1]:
        x = getattr(backbone, name)(x)
    return x


class Separable(nn.Module):
    """A depthwise 3 x 3 convolution followed by a pointwise one."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, before, 3, padding=1, groups=before, bias=False)
        self.pointwise = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.conv1(x))
