"""Attention between the maps of decoder and encoder, and by reconstruction errors (RECCE)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.parts.xception import MIDDLE


class GraphReasoning(nn.Module):
    """Gathers, for each place of the encoder's maps, the decoder's finer places below it (section 3.3).

    Args:
        dropout: Dropout of the gathered features.
    """

    def __init__(self, dropout: float):
        super().__init__()
        self.va_embedding = nn.Sequential(
            nn.Conv2d(MIDDLE, 256, 1, bias=False), nn.ReLU(), nn.Conv2d(256, 256, 1, bias=False)
        )
        for name, width in (("b", 256), ("c", 128)):
            embedding = nn.Linear(width, 256, bias=False), nn.ReLU(), nn.Linear(256, 256, bias=False)
            setattr(self, f"v{name}_embedding", nn.Sequential(*embedding))
            setattr(self, f"va_gated_{name}", nn.Sequential(nn.Conv2d(MIDDLE, 256, 1, bias=False), nn.Sigmoid()))
            setattr(self, f"reweight_a{name}", nn.Sequential(nn.Linear(512, 1, bias=False), nn.ReLU()))
        self.reproject = nn.Sequential(
            *(nn.Conv2d(3 * 256, MIDDLE, 1, bias=False), nn.ReLU()),
            *(nn.Conv2d(MIDDLE, MIDDLE, 1, bias=False), nn.Dropout(dropout)),
        )

    def forward(self, x: Tensor, d2: Tensor, d4: Tensor) -> Tensor:
        """[B, 728, n, n], [B, 256, 2 n, 2 n], [B, 128, 4 n, 4 n] -> [B, 728, n, n]"""
        a = self.va_embedding(x)
        found = [self._below(x, a, "b", d2), self._below(x, a, "c", d4), a]
        return self.reproject(torch.sigmoid(torch.cat(found, dim=1)))

    def _below(self, x: Tensor, a: Tensor, name: str, finer: Tensor) -> Tensor:
        """Weighted mean of the embedded places of a finer map below each place, gated: [B, 256, n, n]."""
        embedding, gate, reweight = (
            getattr(self, f"{part}{name}{end}")
            for part, end in (("v", "_embedding"), ("va_gated_", ""), ("reweight_a", ""))
        )
        side, times = x.shape[-1], finer.shape[-1] // x.shape[-1]
        below = finer.unflatten(3, (side, times)).unflatten(2, (side, times))  # [B, C, n, times, n, times]
        below = embedding(below.permute(0, 2, 4, 3, 5, 1).flatten(3, 4))  # [B, n, n, times^2, 256]
        above = a.permute(0, 2, 3, 1)[:, :, :, None].expand_as(below)
        shares = reweight(torch.cat([above, below], dim=-1)).softmax(dim=3)
        return (shares * below).sum(dim=3).permute(0, 3, 1, 2) * (1 - gate(x))


class GuidedAttention(nn.Module):
    """Adds to a map its features where the reconstruction fails (section 3.4)."""

    def __init__(self, dropout: float):
        super().__init__()
        self.gated = nn.Sequential(
            *(nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.ReLU()),
            *(nn.Conv2d(3, 1, 1, bias=False), nn.Sigmoid()),
        )
        self.h = nn.Sequential(nn.Conv2d(MIDDLE, MIDDLE, 1, bias=False), nn.BatchNorm2d(MIDDLE), nn.ReLU())
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, errors: Tensor) -> Tensor:
        """[B, 728, n, n], [B, 3, S, S] -> [B, 728, n, n]"""
        errors = F.interpolate(errors, x.shape[-2:], mode="bilinear", align_corners=True)
        return self.gated(errors) * self.h(x) + self.dropout(x)
