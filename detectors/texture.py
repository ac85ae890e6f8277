"""Where an image's texture is richest, and what it holds beside its content: GLCM homogeneity and SRM residuals.

Legend: B batch, N patches, S side of a patch; H and W pixels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GREY = (0.299, 0.587, 0.114)
DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Neighbours (down, right) at 0, 45, 90 and 135 degrees, each pair taken once."""

SRM = (
    ((0, 0, 0, 0, 0), (0, -1, 2, -1, 0), (0, 2, -4, 2, 0), (0, -1, 2, -1, 0), (0, 0, 0, 0, 0)),
    ((-1, 2, -2, 2, -1), (2, -6, 8, -6, 2), (-2, 8, -12, 8, -2), (2, -6, 8, -6, 2), (-1, 2, -2, 2, -1)),
    ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), (0, 1, -2, 1, 0), (0, 0, 0, 0, 0), (0, 0, 0, 0, 0)),
)
SRM_DIVISORS = (4, 12, 2)
"""The three high-pass filters of Fridrich & Kodovsky (TIFS 2012) that Zhou et al. (CVPR 2018) chose."""


def grey_levels(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Grey levels, whole numbers from 0 to 255, of normalised images.

    Args:
        images: (x - mean) / std of x in [0, 1], [B, 3, H, W].
        mean, std: [3].

    Returns:
        In the images' type, [B, H, W].
    """
    pixels = images * std.view(3, 1, 1) + mean.view(3, 1, 1)
    weights = torch.tensor(GREY, dtype=images.dtype, device=images.device).view(3, 1, 1)
    return (255 * (pixels * weights).sum(dim=1)).round().clamp(0, 255)


def homogeneity(grey: Tensor) -> Tensor:
    """Homogeneity of the normalised grey-level co-occurrence matrix, the mean over four directions at distance 1.

    sum_ij P_ij / (1 + (i - j)^2) is the mean of 1 / (1 + (a - b)^2) over the pairs of neighbours (a, b), so that no
    matrix is needed.

    Args:
        grey: Grey levels, [..., H, W].

    Returns:
        In (0, 1], the smaller the richer, [...].
    """
    height, width = grey.shape[-2:]
    found = []
    for down, right in DIRECTIONS:
        one = grey[..., : height - down, max(-right, 0) : width - max(right, 0)]
        other = grey[..., down:, max(right, 0) : width + min(right, 0)]
        found.append((1 / (1 + (one - other).square())).mean(dim=(-2, -1)))
    return torch.stack(found).mean(dim=0)


def richest_patch(images: Tensor, grey: Tensor, side: int) -> Tensor:
    """Of each image the patch of least homogeneity among those that tile it, the first of equals.

    Args:
        images: [B, 3, H, W]; what a whole number of patches does not cover at the right and below is left out.
        grey: Its grey levels, [B, H, W].
        side: S.

    Returns:
        [B, 3, S, S]
    """
    patches = images.unfold(2, side, side).unfold(3, side, side).flatten(2, 3)
    chosen = homogeneity(grey.unfold(1, side, side).unfold(2, side, side)).flatten(1).argmin(dim=1)
    return patches[torch.arange(len(images), device=images.device), :, chosen]


class SrmFilters(nn.Module):
    """Residuals of the three SRM filters, each summed over the channels: [B, 3, H, W] -> the same shape."""

    def __init__(self):
        super().__init__()
        filters = torch.tensor(SRM, dtype=torch.float32) / torch.tensor(SRM_DIVISORS).view(3, 1, 1)
        self.register_buffer("filters", filters[:, None].repeat(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(images, self.filters.to(images.dtype), padding=2)
