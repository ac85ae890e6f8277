"""Networks that separate forgery features from content and reconstruct pictures (UCF's, shared by IID and LSDA)."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.parts.xception import XCEPTION, stretch

METHODS = ("real", "Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
"""Classes of the specific features, in DeepfakeBench's order."""
FORGERY, HALF = 512, 256


class Encoder(nn.Module):
    """Xception that gives maps [B, 512, H / 32, W / 32], not negative."""

    def __init__(self, pretrained: bool | str | None, options: dict[str, Any] | None):
        super().__init__()
        self.backbone = TimmClassifier(XCEPTION, pretrained, options=options).backbone
        width = self.backbone.num_features
        self.adjust_channel = nn.Sequential(nn.Conv2d(width, FORGERY, 1), nn.BatchNorm2d(FORGERY), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.adjust_channel(stretch(self.backbone, images, "conv1", "bn4"))


class Half(nn.Module):
    """One half of the forgery's maps: [B, 512, h, w] -> [B, 256, h, w]."""

    def __init__(self):
        super().__init__()
        first, second, third = (nn.Conv2d(width, HALF, 1) for width in (FORGERY, HALF, HALF))
        self.conv2d = nn.Sequential(first, nn.LeakyReLU(), second, nn.LeakyReLU(), third)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2d(x)


class Classifier(nn.Module):
    """Classifier [B, 256] -> [B, count], with dropout before the last layer (DeepfakeBench has it after)."""

    def __init__(self, count: int, dropout: float):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(HALF, FORGERY), nn.LeakyReLU(), nn.Linear(FORGERY, count))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp[2](self.dropout(self.mlp[1](self.mlp[0](x))))


class Decoder(nn.Module):
    """Reconstructs a face: the content gets the statistics of the forgery features at three sizes (AdaIN)."""

    def __init__(self):
        super().__init__()
        self.dconv_up3, self.dconv_up2, self.dconv_up1 = _twice(512, 256), _twice(256, 128), _twice(128, 64)
        self.conv_last, self.dropout = nn.Conv2d(64, 3, 1), nn.Dropout(0.3)

    def forward(self, style: Tensor, content: Tensor, size: torch.Size) -> Tensor:
        """Twice [B, 512, h, w] -> [B, 3, *size], in [-1, 1]"""
        x = with_statistics(content, style)
        for layer in (self.dconv_up3, self.dconv_up2):
            x, style = (layer(self.dropout(_resized(maps, 2))) for maps in (x, style))
            x = with_statistics(x, style)
        x = self.conv_last(self.dconv_up1(self.dropout(_resized(x, 2))))
        return torch.tanh(F.interpolate(x, size, mode="bilinear", align_corners=True))


def with_statistics(content: Tensor, style: Tensor) -> Tensor:
    """The content with the mean and deviation of the style, map by map (AdaIN, Huang & Belongie 2017): [B, C, h, w]."""
    (mean, deviation), (mean_of_style, deviation_of_style) = (_statistics(x) for x in (content, style))
    return (content - mean) / deviation * deviation_of_style + mean_of_style


def _statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(dim=(2, 3), keepdim=True), (x.var(dim=(2, 3), keepdim=True) + 1e-5).sqrt()


def _resized(x: Tensor, times: int) -> Tensor:
    return F.interpolate(x, scale_factor=times, mode="bilinear", align_corners=True)


def _twice(before: int, after: int) -> nn.Sequential:
    first, second = nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())
