"""Blocks of two streams, colours and noise residuals, that attend to each other (Luo et al., CVPR 2021)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import onto
from resproto_fd.detectors.parts.texture import SRM, SRM_DIVISORS


class MapResiduals(nn.Module):
    """SRM residuals of C maps, joined to C maps again (multi-scale extraction, section 3.2).

    Args:
        width: C.
        each_map_all: See `deal`.
    """

    def __init__(self, width: int, each_map_all: bool):
        super().__init__()
        self.width = width
        self.deal(each_map_all)
        layers = nn.Conv2d(3 * width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        self.out_conv = nn.Sequential(*layers)

    def deal(self, each_map_all: bool) -> None:
        """Apply all three filters to each map, or each filter to C of the 3 C outputs in DeepfakeBench's order."""
        kernel = filters().repeat(self.width, 1, 1) if each_map_all else filters().repeat_interleave(self.width, dim=0)
        self.register_buffer("kernel", kernel[:, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_conv(F.conv2d(x, self.kernel, padding=2, groups=self.width).clamp(-3, 3))


class ResidualAttention(nn.Module):
    """Spatial attention from residuals, in (0, 1): [B, 3, H, W] -> [B, 1, h, w] (section 3.3)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Conv2d(3, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        )
        self.pa = nn.Module()
        self.pa.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, residuals: Tensor) -> Tensor:
        x = self.conv(colour_residuals(residuals))
        return torch.sigmoid(self.pa.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)))


class CrossAttention(nn.Module):
    """Adds to each branch the other's values where both agree (dual cross-modality attention, section 3.4).

    Args:
        width: Channels of both branches.
        side: Side of the maps.
    """

    def __init__(self, width: int, side: int):
        super().__init__()
        self.key_conv1, self.key_conv2 = (nn.Conv2d(width, width // 8, 1) for _ in range(2))
        self.key_conv_share = nn.Conv2d(width // 8, width // 8, 1)
        self.linear1, self.linear2 = (nn.Linear(side**2, side**2) for _ in range(2))
        self.value_conv1, self.value_conv2 = (nn.Conv2d(width, width, 1) for _ in range(2))
        self.gamma1, self.gamma2 = (nn.Parameter(torch.zeros(1)) for _ in range(2))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Two of [B, C, side, side] -> two alike."""
        p = self.key_conv_share(self.key_conv1(a)).flatten(2)
        q = self.key_conv_share(self.key_conv2(b)).flatten(2)
        energy = p.transpose(1, 2) @ q  # [B, P, P]
        to_a = self.linear1(energy).softmax(dim=-1)
        to_b = self.linear2(energy.transpose(1, 2)).softmax(dim=-1)
        from_b = (self.value_conv2(b).flatten(2) @ to_a.transpose(1, 2)).view_as(a)
        from_a = (self.value_conv1(a).flatten(2) @ to_b.transpose(1, 2)).view_as(b)
        return a + self.gamma1 * from_b, b + self.gamma2 * from_a


class Fusion(nn.Module):
    """Joins both branches in a map of C weighted channels: twice [B, C, h, w] -> [B, C, h, w]."""

    def __init__(self, width: int):
        super().__init__()
        self.convblk = nn.Sequential(nn.Conv2d(2 * width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.ca = nn.Module()
        narrow, wide = nn.Conv2d(width, width // 16, 1, bias=False), nn.Conv2d(width // 16, width, 1, bias=False)
        self.ca.sharedMLP = nn.Sequential(narrow, nn.ReLU(), wide)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.convblk(torch.cat([a, b], dim=1))
        pooled = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        return x * torch.sigmoid(sum(self.ca.sharedMLP(one) for one in pooled))


def filters() -> Tensor:
    """The three SRM filters, [3, 5, 5]."""
    return torch.tensor(SRM, dtype=torch.float32) / torch.tensor(SRM_DIVISORS, dtype=torch.float32)[:, None, None]


def colour_residuals(images: Tensor) -> Tensor:
    """Response of each filter, summed over the colours and clamped to [-3, 3]: [B, 3, H, W] -> the same."""
    kernel = onto(filters(), images).to(images.dtype)[:, None].expand(3, images.shape[1], 5, 5)
    return F.conv2d(images, kernel, padding=2).clamp(-3, 3)
