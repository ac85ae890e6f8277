"""Attention maps, the texture they gather, and pictures degraded where they attend (Zhao et al., CVPR 2021).

Legend: B batch, M maps, h, w sides of a map.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SHALLOW, MIDDLE, MAPS = 32, 160, 4
"""Channels of the inputs of texture and maps, and M."""
TEXTURE = 4 * SHALLOW
BORDER, SIDE = 2, 24
"""Width of the border of the maps that is set to 0, at this side of the maps."""
TAPS, SIGMA, NOISE = 11, 7.0, 0.1
THRESHOLD, SLOPE = (0.4, 0.6), (3.0, 5.0)
"""Blur, noise, and ranges of the ramp over a map, of `degraded`."""


class AttentionMaps(nn.Module):
    """Attention maps, not negative, zero at the border: [B, 160, h, w] -> [B, M, h, w]"""

    def __init__(self):
        super().__init__()
        self.conv_extract, self.bn1 = nn.Conv2d(MIDDLE, MIDDLE, 3, padding=1), nn.BatchNorm2d(MIDDLE)
        self.conv2, self.bn2 = nn.Conv2d(MIDDLE, MAPS, 1, bias=False), nn.BatchNorm2d(MAPS)
        inner = torch.ones(1, 1, SIDE - 2 * BORDER, SIDE - 2 * BORDER)
        self.register_buffer("mask", F.pad(inner, (BORDER,) * 4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv_extract(x)))
        maps = F.elu(self.bn2(self.conv2(x))) + 1
        return maps * F.interpolate(self.mask, maps.shape[-2:], mode="nearest")


class Texture(nn.Module):
    """Texture: features minus their local means, read by four densely connected layers."""

    def __init__(self):
        super().__init__()
        self.conv0, self.conv_last = nn.Conv2d(SHALLOW, SHALLOW, 1), nn.Conv2d(TEXTURE, TEXTURE, 1)
        for layer in (1, 2, 3):
            setattr(self, f"conv{layer}", nn.Conv2d(layer * SHALLOW, SHALLOW, 3, padding=1))
            setattr(self, f"bn{layer}", nn.BatchNorm2d(layer * SHALLOW))
        self.bn4, self.bn_last = nn.BatchNorm2d(TEXTURE), nn.BatchNorm2d(TEXTURE)

    def forward(self, shallow: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """[B, 32, H, W] -> texture [B, 128, H, W] and the means of `size` places [B, 32, h, w]"""
        low = F.adaptive_avg_pool2d(shallow, size)
        x = self.conv0(shallow - F.interpolate(low, shallow.shape[-2:], mode="nearest"))
        for convolution, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            x = torch.cat([x, convolution(F.relu(norm(x)))], dim=1)
        return self.bn_last(self.conv_last(F.relu(self.bn4(x)))), low


def degraded(images: Tensor, maps: Tensor, share: float) -> Tensor:
    """Blend each picture with a blurred copy of half its size, under a random one of its attention maps.

    Args:
        images: Normalised, [B, 3, H, W]; half their sides must be more than 5.
        maps: Not negative, [B, M, h, w]; a map that covers more is drawn more often.
        share: Share of the pictures that change, in [0, 1].

    Returns:
        [B, 3, H, W]
    """
    maps = maps.float()
    drawn = torch.multinomial((maps.sum(dim=(2, 3)) + 1).sqrt(), 1)
    chosen = maps.gather(1, drawn[..., None, None].expand(-1, -1, *maps.shape[-2:]))
    chosen = F.interpolate(chosen, images.shape[-2:], mode="bilinear", align_corners=True)
    chosen = chosen / (chosen.amax(dim=(1, 2, 3), keepdim=True) + 1e-8)
    ones = chosen.new_ones(len(images), 1, 1, 1)
    threshold, slope = (ones * low + (high - low) * torch.rand_like(ones) for low, high in (THRESHOLD, SLOPE))
    start = (-threshold * slope).sigmoid()
    strength = (((chosen - threshold) * slope).sigmoid() - start) / (1 - start) * (torch.rand_like(ones) < share)
    return images + strength.to(images.dtype) * (_worse(images) - images)


def _worse(images: Tensor) -> Tensor:
    channels = images.shape[1]
    half = F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=True)
    places = torch.arange(TAPS, device=images.device, dtype=images.dtype) - TAPS // 2
    taps = torch.softmax(-places.square() / (2 * SIGMA**2), dim=0).expand(channels, 1, 1, TAPS)
    half = F.pad(half, (TAPS // 2,) * 4, mode="reflect")
    half = F.conv2d(F.conv2d(half, taps, groups=channels), taps.mT, groups=channels)
    half = half + NOISE * torch.randn_like(half)
    return F.interpolate(half, images.shape[-2:], mode="bilinear", align_corners=True)
