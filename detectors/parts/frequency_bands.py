"""Frequency bands as pictures, local frequency statistics, and attention between two streams (F3-Net)."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.parts.spectrum import band, dct_matrix
from resproto_fd.detectors.parts.texture import GREY
from resproto_fd.losses.precision import without_autocast


class FrequencyBands(nn.Module):
    """One picture for each band of the spectrum, with learnt softening of the bands' borders (section 3.1).

    Args:
        size: Side of the picture.
        bands: (lowest, highest) sum of row and column.
    """

    def __init__(self, size: int, bands: list[tuple[int, int]]):
        super().__init__()
        self.register_buffer("dct", dct_matrix(size), persistent=False)
        self.register_buffer("base", torch.stack([band(size, *one) for one in bands]), persistent=False)
        self.learnt = nn.ParameterList([nn.Parameter(0.1 * torch.randn(size, size)) for _ in bands])

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, 3 bands, S, S], band by band."""
        with without_autocast(images):  # sums over a whole side need float32
            spectrum = self.dct @ images.to(self.dct.dtype) @ self.dct.T
            shares = [base + torch.tanh(learnt / 2) for base, learnt in zip(self.base, self.learnt, strict=True)]
            return torch.cat([self.dct.T @ (spectrum * share) @ self.dct for share in shares], dim=1)


class LocalStatistics(nn.Module):
    """log10 of the sums of the DCT coefficients' sizes over bands, in windows of the grey picture (section 3.2).

    Args:
        window, stride: Side and stride of the sliding windows, in pixels.
        count: Number of bands, equally wide.
    """

    def __init__(self, window: int, stride: int, count: int):
        super().__init__()
        dct, edges = dct_matrix(window), [2 * window * i / count for i in range(count + 1)]
        waves = (dct[:, None, :, None] * dct[None, :, None, :]).reshape(-1, 1, window, window)
        base = torch.stack([band(window, low, high - 1e-6) for low, high in pairwise(edges)])
        self.register_buffer("waves", waves, persistent=False)
        self.register_buffer("base", base.flatten(1), persistent=False)
        self.learnt = nn.Parameter(0.1 * torch.randn(count, window**2))
        self.stride, self.padding = stride, window // 2

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, count, H / 2 + 1, W / 2 + 1]"""
        with without_autocast(images):
            grey = sum(weight * images[:, i : i + 1] for i, weight in enumerate(GREY)).to(self.waves.dtype)
            found = F.conv2d(grey, self.waves, stride=self.stride, padding=self.padding).abs()
            shares = (self.base + torch.tanh(self.learnt / 2)).abs()
            return torch.log10(F.conv2d(found, shares[:, :, None, None]) + 1e-6)


class MixBlock(nn.Module):
    """Adds to each branch the other's map, weighted by an attention that both determine (section 3.3).

    Attention is within a channel, from row to row. The added part is normalised and starts at 0.
    """

    def __init__(self, width: int):
        super().__init__()
        self.query = nn.ModuleList([nn.Conv2d(width, width, 1) for _ in range(2)])
        self.key = nn.ModuleList([nn.Conv2d(width, width, 1) for _ in range(2)])
        self.convolution = nn.ModuleList([nn.Conv2d(width, width, 1, groups=width) for _ in range(2)])
        self.norm = nn.ModuleList([nn.BatchNorm2d(width) for _ in range(2)])
        for norm in self.norm:
            nn.init.zeros_(norm.weight)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Two of [B, C, S, S] -> two alike."""
        queries = torch.cat([self.query[0](x), self.query[1](y)], dim=-1)
        keys = torch.cat([self.key[0](x), self.key[1](y)], dim=-1)
        attention = (queries @ keys.transpose(-2, -1)).softmax(dim=-1)
        return (
            x + self.norm[0](self.convolution[0](y * attention)),
            y + self.norm[1](self.convolution[1](x * attention)),
        )
