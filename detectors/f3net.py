"""F3-Net: what the bands of a face's spectrum show, and how they are distributed (Qian et al., ECCV 2020)."""

import math
import re
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import check_size
from resproto_fd.detectors.parts.spectrum import band, dct_matrix, without_autocast
from resproto_fd.detectors.parts.texture import GREY
from resproto_fd.detectors.parts.xception import XCEPTION, stretch
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.timm import TimmClassifier

WINDOW, STRIDE, STATISTICS = 10, 2, 6
MIXED = {"block7": 728, "block12": 1024}
"""Blocks of Xception after which the two branches look at each other, and their widths (paper, section 3.3)."""
KEPT = re.compile(r"FAD_head\.(_DCT_all|_DCT_all_T|filters\.\d+\.base)")


@register("f3net")
class F3Net(TimmClassifier):
    """Two Xceptions, one of the picture's frequency bands (FAD), one of local frequency statistics (LFS), cross-linked.

    DeepfakeBench's is the first alone, with the whole spectrum as a fourth band and bands that share their borders.

    Args:
        pretrained: See `TimmClassifier`; timm spreads the weights of three channels over more.
        paper: Both branches; a DeepfakeBench checkpoint turns it off.
        size: Side of the images, for which the filters are learnt.
        dropout, options: See `TimmClassifier`.
    """

    def __init__(
        self,
        pretrained: bool | str | None = True,
        paper: bool = True,
        size: int = 256,
        dropout: float = 0.5,
        options: dict[str, Any] | None = None,
    ):
        low, middle, top = math.floor(size / 2.82), size // 2, 2 * size  # 1/16 and 1/8 of the spectrum's area
        bands = [(0, low), (low, middle), (middle, top), (0, top)]
        if paper:
            bands = [(0, low), (low + 1, middle), (middle + 1, top)]
        super().__init__(XCEPTION, pretrained, dropout, {"in_chans": 3 * len(bands), **(options or {})})
        self.paper, self.size = paper, size
        self.bands = FrequencyBands(size, bands)
        if paper:
            self.statistics = LocalStatistics(WINDOW, STRIDE, STATISTICS)
            wide = {"in_chans": STATISTICS, **(options or {})}
            self.second = TimmClassifier(XCEPTION, pretrained, dropout, wide).backbone
            self.second.conv1.stride = (1, 1)  # the windows' stride has halved the picture already
            self.mix = nn.ModuleDict({name: MixBlock(width) for name, width in MIXED.items()})
            self.classifier[1] = nn.Linear(2 * self.backbone.num_features, 2)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.paper:
            training = self.training
            self.__init__(None, paper=False, size=self.size, dropout=self.classifier[0].p)
            self.train(training)
        state = {k: v for k, v in state.items() if not KEPT.fullmatch(k)}  # constants, the same here
        state = {re.sub(r"^FAD_head\.filters\.(\d+)\.learnable$", r"bands.learnt.\1", k): v for k, v in state.items()}
        return super().from_deepfakebench(state)

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, size, size] -> [B, 4096], or 2048 of one branch.

        Raises:
            UserError: Images of another size.
        """
        check_size(images, self.size, "F3Net")
        if not self.paper:
            return self.backbone(self.bands(images))
        x, y = self.bands(images), self.statistics(images)
        for first, last in (("conv1", "block7"), ("block8", "block12"), ("conv3", "act4")):
            x, y = stretch(self.backbone, x, first, last), stretch(self.second, y, first, last)
            if last in self.mix:
                x, y = self.mix[last](x, y)
        return torch.cat([self.backbone.forward_head(x), self.second.forward_head(y)], dim=1)


class FrequencyBands(nn.Module):
    """The picture as each band of its spectrum gives it, the bands' borders softened by what is learnt (section 3.1).

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
        with without_autocast(images):  # sums over a whole side want float32
            spectrum = self.dct @ images.to(self.dct.dtype) @ self.dct.T
            shares = [base + torch.tanh(learnt / 2) for base, learnt in zip(self.base, self.learnt, strict=True)]
            return torch.cat([self.dct.T @ (spectrum * share) @ self.dct for share in shares], dim=1)


class LocalStatistics(nn.Module):
    """log10 of the sums of the DCT coefficients' sizes over bands, in windows of the grey picture (section 3.2).

    Args:
        window, stride: Of the sliding windows, pixels.
        count: Bands, equally wide.
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
            grey = sum(weight * images[:, [i]] for i, weight in enumerate(GREY)).to(self.waves.dtype)
            found = F.conv2d(grey, self.waves, stride=self.stride, padding=self.padding).abs()
            shares = (self.base + torch.tanh(self.learnt / 2)).abs()
            return torch.log10(F.conv2d(found, shares[:, :, None, None]) + 1e-6)


class MixBlock(nn.Module):
    """Each branch gets the other's map, weighed by an attention to which both contribute (section 3.3).

    Attention is within a channel, from row to row. What is added is normalised and begins at nothing.
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
