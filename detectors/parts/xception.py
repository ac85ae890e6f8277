"""Detectors that put something before, into or beside Xception: SPSL, FFD, and what others are built of."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import Output
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.timm import TimmClassifier
from resproto_fd.losses.residual import at_least_float32

XCEPTION = "legacy_xception"
MIDDLE, LAST_OF_MIDDLE = 728, "block7"


@register("spsl")
class SPSL(TimmClassifier):
    """The picture that the phase of its spectrum gives, as a fourth channel (Liu et al., CVPR 2021).

    The network is whole, as DeepfakeBench's is; the paper's is cut short.

    Args:
        pretrained, dropout, options: See `TimmClassifier`; timm spreads the weights of three channels over four.
    """

    def __init__(
        self, pretrained: bool | str | None = True, dropout: float = 0.0, options: dict[str, Any] | None = None
    ):
        super().__init__(XCEPTION, pretrained, dropout, {"in_chans": 4, **(options or {})})

    def encode(self, images: Tensor) -> Tensor:
        return super().encode(torch.cat([images, phase_picture(images)], dim=1))


def phase_picture(images: Tensor) -> Tensor:
    """Inverse transform of exp(i phase) of the mean channel, its real part: [B, 3, H, W] -> [B, 1, H, W]."""
    spectrum = torch.fft.fft2(images.float().mean(dim=1, keepdim=True))
    return torch.fft.ifft2(torch.exp(1j * spectrum.angle())).real.to(images.dtype)


@register("ffd")
class FFD(TimmClassifier):
    """A map of where the forgery is, learnt within Xception, that weighs its features (Dang et al., CVPR 2020).

    Args:
        pretrained, dropout, options: See `TimmClassifier`.
        mask_weight: Of the mean absolute difference between map and mask, where the batch has masks. 0 asks for none,
            as DeepfakeBench, whose mask loss cannot run.
    """

    def __init__(
        self,
        pretrained: bool | str | None = True,
        dropout: float = 0.0,
        options: dict[str, Any] | None = None,
        mask_weight: float = 0.0,
    ):
        super().__init__(XCEPTION, pretrained, dropout, options)
        self.mask_weight = mask_weight
        self.requires = frozenset({"mask"} if mask_weight else ())
        self.map = nn.Module()
        self.map.c = Separable(MIDDLE, 1)

    def encode(self, images: Tensor) -> Tensor:
        return self._weighed(images)[0]

    def forward(
        self, images: Tensor, labels: Tensor | None = None, mask: Tensor | None = None, **fields: Tensor
    ) -> Output:
        """See `Detector.forward`; with masks, [B, 1, H, W] in [0, 1], also the map's loss."""
        features, found = self._weighed(images)
        output = self.head(features, labels)
        if mask is not None and self.mask_weight and labels is not None:
            output.losses["mask"] = (F.adaptive_avg_pool2d(mask, found.shape[-2:]) - found).abs().mean()
            output.losses["total"] = output.losses["total"] + self.mask_weight * output.losses["mask"]
        return output

    def _weighed(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, D], and the share of forgery at each place of block 7's maps, in (0, 1), [B, 1, h, w]."""
        middle = through_middle(self.backbone, images)
        found = torch.sigmoid(self.map.c(middle))
        return after_middle(self.backbone, middle * found), found


class MaskTaught(TimmClassifier):
    """Xception with a further loss of its maps after block 7, where the batch has masks.

    Args:
        pretrained, dropout, options: See `TimmClassifier`.
        weight: Of that loss; 0 asks for no masks.
    """

    term: str
    """Its name among the losses."""

    def __init__(self, pretrained: bool | str | None, dropout: float, options: dict[str, Any] | None, weight: float):
        super().__init__(XCEPTION, pretrained, dropout, options)
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
            loss = self.mask_loss(middle, at_least_float32(mask))
            output.losses |= {self.term: loss, "total": output.losses["total"] + self.weight * loss}
        return output

    def mask_loss(self, middle: Tensor, mask: Tensor) -> Tensor:
        """Scalar, of maps [B, MIDDLE, h, w] and masks [B, 1, H, W]."""
        raise NotImplementedError


def through_middle(backbone: nn.Module, images: Tensor) -> Tensor:
    """What timm's Xception has after block 7: [B, 3, H, W] -> [B, MIDDLE, H / 16, W / 16]."""
    return stretch(backbone, images, "conv1", LAST_OF_MIDDLE)


def after_middle(backbone: nn.Module, middle: Tensor) -> Tensor:
    """Pooled features [B, D] from `through_middle`'s."""
    return backbone.forward_head(stretch(backbone, middle, "block8", "act4"))


def stretch(backbone: nn.Module, x: Tensor, first: str, last: str) -> Tensor:
    """What a part of timm's Xception makes of maps, from one of its children to another, both included."""
    names = [name for name, _ in backbone.named_children()]
    for name in names[names.index(first) : names.index(last) + 1]:
        x = getattr(backbone, name)(x)
    return x


class Separable(nn.Module):
    """Depthwise 3 x 3, then pointwise."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.conv1 = nn.Conv2d(before, before, 3, padding=1, groups=before, bias=False)
        self.pointwise = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.conv1(x))
