"""SPSL: the phase of a picture's spectrum as a fourth channel."""

from typing import Any

import torch
from torch import Tensor

from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.parts.xception import XCEPTION
from resproto_fd.detectors.registry import register


@register("spsl")
class SPSL(TimmClassifier):
    """Add a picture made of the spectrum's phase to Xception's input, as a fourth channel (Liu et al., CVPR 2021).

    The network is the whole Xception, as in DeepfakeBench; the paper shortens it.

    Args:
        options: See `TimmClassifier`.
        timm: `pretrained` and `dropout`, see `TimmClassifier`; timm spreads the weights of three channels over four.
    """

    def __init__(self, options: dict[str, Any] | None = None, **timm):
        super().__init__(XCEPTION, options={"in_chans": 4, **(options or {})}, **timm)

    def encode(self, images: Tensor) -> Tensor:
        return super().encode(torch.cat([images, phase_picture(images)], dim=1))


def phase_picture(images: Tensor) -> Tensor:
    """Inverse transform of exp(i phase) of the mean channel, its real part: [B, 3, H, W] -> [B, 1, H, W]."""
    spectrum = torch.fft.fft2(images.float().mean(dim=1, keepdim=True))
    return torch.fft.ifft2(torch.exp(1j * spectrum.angle())).real.to(images.dtype)
