"""STIL's network: a ResNet whose blocks read inconsistencies in space and over time (Gu et al., ACM MM 2021).

Legend: B clips, T frames, C channels of half a block, H and W places of a map.
"""

from collections.abc import Sequence

import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn
from torch.nn import functional as F

REDUCTION = 16
"""Channels of a block's half for each channel in which differences over time are read."""
POOLED = 4
"""Side of the squares whose means tell a place of its surroundings."""
EXPANSION = 4


def stil_network(blocks: Sequence[int], widths: Sequence[int], frames: int) -> ResNet:
    """timm's ResNet-D of STIL's blocks: frames [B T, 3, H, W] -> features of each frame, [B T, 4 widths[3]].

    Args:
        blocks, widths: Numbers of blocks and widths of the four stages; widths are even.
        frames: T.
    """
    arguments = {"frames": frames}
    return ResNet(
        StilBlock, list(blocks), num_classes=0, stem_width=32, stem_type="deep", avg_down=True,
        channels=tuple(widths), block_args=arguments,
    )  # fmt: skip


def normed(before: int, after: int, kernel: tuple[int, int] | int, activation: bool = False) -> list[nn.Module]:
    """A convolution that keeps the map's size, its batch norm, and a ReLU if asked for."""
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    convolution = nn.Conv2d(before, after, (height, width), padding=(height // 2, width // 2), bias=False)
    return [convolution, nn.BatchNorm2d(after), *([nn.ReLU()] if activation else [])]


class StilBlock(nn.Module):
    """Bottleneck of two halves: one is calibrated in space, the other reads differences over time and the first half.

    Args:
        inplanes: Channels of the input.
        planes: Width of the stage; each half has half of it, and the output four times as many.
        stride: Stride of the block.
        downsample: The shortcut, None for the input itself.
        frames: T.
        others: What timm passes to its own blocks; unused.
    """

    expansion = EXPANSION

    def __init__(
        self,
        inplanes: int,
        planes: int,
        stride: int = 1,
        downsample: nn.Module | None = None,
        frames: int = 8,
        **others,
    ):
        super().__init__()
        half = planes // 2
        self.frames, self.downsample = frames, downsample
        self.conv1_a, self.bn1_a = normed(inplanes, half, 1)
        self.conv1_b, self.bn1_b = normed(inplanes, half, 1)
        self.scconv, self.tim = SpatialInconsistency(half), TemporalInconsistency(half, frames)
        self.ism, self.shift = InformationSupplement(), LearntShift(half, frames)
        self.k1 = nn.Sequential(*normed(half, half, 3, activation=True))
        self.pool = nn.AvgPool2d(3, stride, padding=1) if stride > 1 else nn.Identity()
        self.conv3, self.bn3 = normed(2 * half, planes * EXPANSION, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B T, inplanes, H, W] -> [B T, 4 planes, H, W], the sides divided by the stride."""
        shortcut = x if self.downsample is None else self.downsample(x)
        temporal, spatial = F.relu(self.bn1_a(self.conv1_a(x))), F.relu(self.bn1_b(self.conv1_b(x)))
        spatial, middle = self.scconv(spatial)
        temporal = self.k1(self.shift(self.tim(temporal) + self.ism(middle)))
        halves = torch.cat([self.pool(temporal), self.pool(spatial)], dim=1)
        return F.relu(self.bn3(self.conv3(halves)) + shortcut)


class SpatialInconsistency(nn.Module):
    """Weigh features by how they differ from their surroundings, read along rows and then columns: the paper's SIM."""

    def __init__(self, channels: int):
        super().__init__()
        # The first is no module of weights: it keeps the others' places, and so the names of their weights.
        self.f_w = nn.Sequential(nn.Identity(), *normed(channels, channels, (1, 3), activation=True))
        self.f_h = nn.Sequential(*normed(channels, channels, (3, 1)))
        self.k3 = nn.Sequential(*normed(channels, channels, 3))
        self.k4 = nn.Sequential(*normed(channels, channels, 3, activation=True))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B T, C, H, W] -> the calibrated features, and those before the last convolution; both of the same shape."""
        around = self.f_h(self.f_w(F.avg_pool2d(x, [min(POOLED, side) for side in x.shape[-2:]])))
        gate = torch.sigmoid(x + F.interpolate(around, x.shape[-2:], mode="nearest"))
        middle = self.k3(x) * gate
        return self.k4(middle), middle


class TemporalInconsistency(nn.Module):
    """Weigh features by their change to the next frame, read along columns and along rows: the paper's TIM."""

    def __init__(self, channels: int, frames: int):
        super().__init__()
        self.frames = frames
        few = max(1, channels // REDUCTION)
        self.conv1, self.bn1 = normed(channels, few, 1)
        for letters, view, kernel in (("ht", "htie", (3, 1)), ("tw", "vtie", (1, 3))):
            padding = (kernel[0] // 2, kernel[1] // 2)
            setattr(self, f"conv_{letters}", nn.Conv2d(few, few, kernel, padding=padding, groups=few, bias=False))
            setattr(self, f"{view}_conv1", nn.Sequential(*normed(few, few, kernel)))
            setattr(self, f"{view}_conv2", nn.Sequential(*normed(few, few, kernel)))
            setattr(self, f"{letters}_up_conv", nn.Sequential(*normed(few, channels, 1)))

    def forward(self, x: Tensor) -> Tensor:
        """[B T, C, H, W] -> the same shape"""
        few = self.bn1(self.conv1(x))
        columns = self._gate(few, self.conv_ht, self.htie_conv1, self.htie_conv2, self.ht_up_conv, (2, 1))
        rows = self._gate(few, self.conv_tw, self.vtie_conv1, self.vtie_conv2, self.tw_up_conv, (1, 2))
        return x + x * 0.5 * (columns + rows)

    def _gate(
        self, few: Tensor, ahead: nn.Module, coarse: nn.Module, fine: nn.Module, up: nn.Module, pool: tuple[int, int]
    ) -> Tensor:
        """Weights in [-0.5, 0.5] by the change to the next frame and its reading at two scales, [B T, C, H, W]."""
        following = ahead(few).unflatten(0, (-1, self.frames))[:, 1:]
        change = following - few.unflatten(0, (-1, self.frames))[:, :-1]
        change = F.pad(change, (0, 0) * 3 + (0, 1)).flatten(0, 1)
        kernel = [min(window, side) for window, side in zip(pool, change.shape[-2:])]
        wide = F.interpolate(coarse(F.avg_pool2d(change, kernel)), change.shape[-2:], mode="nearest")
        return torch.sigmoid(up((change + wide + fine(change)) / 3)) - 0.5


class InformationSupplement(nn.Module):
    """Weigh the spatial half's channels for the temporal one, [B T, C, H, W] -> the same: the paper's ISM."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.sigmoid(self.conv(x.mean(dim=(2, 3))[:, None]))
        return x * weights[:, 0, :, None, None]


class LearntShift(nn.Module):
    """Convolve each channel over time, [B T, C, H, W] -> the same.

    It starts as a shift: of the first eighth of the channels by one frame backwards, of the second forwards.
    """

    def __init__(self, channels: int, frames: int):
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv1d(channels, channels, 3, padding=1, groups=channels, bias=False)
        eighth, start = channels // 8, torch.zeros(channels, 1, 3)
        start[:eighth, 0, 2] = start[eighth : 2 * eighth, 0, 0] = start[2 * eighth :, 0, 1] = 1
        self.conv.weight.data.copy_(start)

    def forward(self, x: Tensor) -> Tensor:
        batch, places = len(x) // self.frames, x.shape[-2:]
        lines = x.unflatten(0, (batch, self.frames)).permute(0, 3, 4, 2, 1).flatten(0, 2)
        lines = self.conv(lines).unflatten(0, (batch, *places))
        return lines.permute(0, 4, 3, 1, 2).flatten(0, 1)
