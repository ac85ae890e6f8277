"""Gram-Net: texture from Gram matrices at six depths of a ResNet, beside the ResNet's own features.

Source: Liu et al., "Global Texture Enhancement for Fake Face Detection in the Wild", CVPR 2020.

Legend: B batch, C channels, D feature size.
"""

import torch
from torch import Tensor, nn

from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.registry import register

ALIGNED = 32
"""Number of channels of the aligned maps of every depth, and of features that each Gram block gives."""
TAPS = {"images": 3, "act1": 64, "maxpool": 64, "layer1": 64, "layer2": 128, "layer3": 256}
"""Inputs of the Gram blocks: the images and the outputs of these parts of a ResNet-18, with their channels."""


def gram_matrix(maps: Tensor) -> Tensor:
    """Products of all pairs of channels, summed over places, divided by C H W: [B, C, H, W] -> [B, C, C]."""
    flat = maps.flatten(2)
    return flat @ flat.transpose(1, 2) / flat[0].numel()


class GramBlock(nn.Module):
    """Gram matrix of aligned maps, read by two convolutions and averaged: [B, C, H, W] -> [B, 32].

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.align = _convolution(channels, ALIGNED, 1)
        self.read = nn.Sequential(_convolution(1, 16, 2), _convolution(16, ALIGNED, 2))

    def forward(self, maps: Tensor) -> Tensor:
        return self.read(gram_matrix(self.align(maps))[:, None]).mean(dim=(2, 3))


@register("gramnet")
class GramNet(TimmClassifier):
    """Add texture features from Gram matrices to a ResNet-18 (Liu et al., CVPR 2020).

    One learnt number scales the features of the six Gram blocks; they are joined to the pooled ones.

    Args:
        timm: `pretrained`, `dropout` and `options`, see `TimmClassifier`.
    """

    map_parts = ("backbone",)

    def __init__(self, **timm):
        super().__init__("resnet18.tv_in1k", **timm)
        self.blocks = nn.ModuleDict({name: GramBlock(channels) for name, channels in TAPS.items()})
        self.scale = nn.Parameter(torch.ones(()))
        self.classifier[1] = nn.Linear(self.backbone.num_features + ALIGNED * len(TAPS), 2)

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 704]"""
        found, x = [self.blocks["images"](images)], images
        for name, part in self.backbone.named_children():
            if name == "global_pool":
                break
            x = part(x)
            if name in TAPS:
                found.append(self.blocks[name](x))
        return torch.cat([self.backbone.forward_head(x), *(self.scale * y for y in found)], dim=1)


def _convolution(before: int, after: int, stride: int) -> nn.Sequential:
    layer = nn.Conv2d(before, after, 3, stride, 1, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(layer, nn.BatchNorm2d(after), nn.ReLU())
