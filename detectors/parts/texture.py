"""Texture measures of patches (GLCM homogeneity, diversity) and SRM residuals.

Legend: B batch, N patches, S side of a patch; H and W pixels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.schema import NORMALISATIONS
from resproto_fd.detectors.base import onto

GREY = (0.299, 0.587, 0.114)
DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Neighbours (down, right) at 0, 45, 90 and 135 degrees, each pair once."""

SRM = (
    ((0, 0, 0, 0, 0), (0, -1, 2, -1, 0), (0, 2, -4, 2, 0), (0, -1, 2, -1, 0), (0, 0, 0, 0, 0)),
    ((-1, 2, -2, 2, -1), (2, -6, 8, -6, 2), (-2, 8, -12, 8, -2), (2, -6, 8, -6, 2), (-1, 2, -2, 2, -1)),
    ((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), (0, 1, -2, 1, 0), (0, 0, 0, 0, 0), (0, 0, 0, 0, 0)),
)
SRM_DIVISORS = (4, 12, 2)
"""The three high-pass filters of Fridrich & Kodovsky (TIFS 2012) that Zhou et al. (CVPR 2018) chose."""
COMPASS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))


def grey_levels(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Grey levels, whole numbers from 0 to 255, of normalised images.

    Args:
        images: (x - mean) / std of x in [0, 1], [B, 3, H, W].
        mean, std: [3].

    Returns:
        In the images' type, [B, H, W].
    """
    pixels = images * std.view(3, 1, 1) + mean.view(3, 1, 1)
    weights = onto(torch.tensor(GREY, dtype=images.dtype), images).view(3, 1, 1)
    return (255 * (pixels * weights).sum(dim=1)).round().clamp(0, 255)


class GreyLevels(nn.Module):
    """`grey_levels` of images of a known normalisation: [B, 3, H, W] -> [B, H, W].

    Args:
        normalisation: Name of the images' normalisation (`input.mean`).
    """

    def __init__(self, normalisation: str):
        super().__init__()
        for name, values in zip(("mean", "std"), NORMALISATIONS[normalisation], strict=True):
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return grey_levels(images, self.mean, self.std)


def homogeneity(grey: Tensor) -> Tensor:
    """Homogeneity of the normalised grey-level co-occurrence matrix, the mean over four directions at distance 1.

    sum_ij P_ij / (1 + (i - j)^2) equals the mean of 1 / (1 + (a - b)^2) over the pairs of neighbours (a, b), so that
    the matrix itself is not needed.

    Args:
        grey: Grey levels, [..., H, W].

    Returns:
        Values in (0, 1], smaller for more texture, [...].
    """
    found = [(1 / (1 + steps.square())).mean(dim=(-2, -1)) for steps in _steps(grey)]
    return torch.stack(found).mean(dim=0)


def diversity(grey: Tensor) -> Tensor:
    """Sum of the differences between neighbours in four directions (PatchCraft's l_div).

    Args:
        grey: Grey levels, [..., H, W].

    Returns:
        Values of at least 0, larger for more texture, [...].
    """
    return sum(steps.abs().sum(dim=(-2, -1)) for steps in _steps(grey))


def _steps(grey: Tensor) -> Iterator[Tensor]:
    height, width = grey.shape[-2:]
    for down, right in DIRECTIONS:
        one = grey[..., : height - down, max(-right, 0) : width - max(right, 0)]
        yield one - grey[..., down:, max(right, 0) : width + min(right, 0)]


def richest_patch(maps: Tensor, grey: Tensor, side: int) -> Tensor:
    """The least homogeneous of the patches that tile each image, cut out of its maps; the first one of several equal.

    Args:
        maps: The images or maps of them, [B, 3, H, W]; a remainder at the right and below that holds no whole patch is
            ignored.
        grey: The images' grey levels, [B, H, W].
        side: S.

    Returns:
        [B, 3, S, S]
    """
    patches = maps.unfold(2, side, side).unfold(3, side, side).flatten(2, 3)
    chosen = homogeneity(grey.unfold(1, side, side).unfold(2, side, side)).flatten(1).argmin(dim=1)
    return patches[torch.arange(len(maps), device=maps.device), :, chosen]


def srm_bank() -> Tensor:
    """The 30 linear filters of the spatial rich model, each divided by its centre's size, [30, 5, 5].

    First differences in eight directions, second in four, third in eight; squares and edges of 3 and of 5 pixels.
    """
    filters = []
    for weights, directions in (((-1, 1), COMPASS), ((1, -2, 1), COMPASS[:4]), ((1, -3, 3, -1), COMPASS)):
        centre = 0 if len(weights) == 2 else 1
        for down, right in directions:
            drawn = torch.zeros(5, 5)
            for step, weight in enumerate(weights, start=-centre):
                drawn[2 + step * down, 2 + step * right] = weight
            filters.append(drawn / abs(weights[centre]))
    for square, divisor in zip(SRM[:2], SRM_DIVISORS[:2], strict=True):
        whole = torch.tensor(square, dtype=torch.float32) / divisor
        edge = whole.clone()
        edge[3:] = 0
        filters += [whole, *(edge.rot90(turn) for turn in range(4))]
    return torch.stack(filters)


class SrmFilters(nn.Module):
    """Residuals of SRM filters, each summed over the channels: [B, 3, H, W] -> [B, 3 or 30, H, W].

    The image is mirrored at its border: beside zeros, the border's residuals would be larger than those of the picture.

    Args:
        all_filters: Use the 30 filters of `srm_bank` instead of the three of `SRM`.
    """

    def __init__(self, all_filters: bool = False):
        super().__init__()
        three = torch.tensor(SRM, dtype=torch.float32) / torch.tensor(SRM_DIVISORS).view(3, 1, 1)
        filters = srm_bank() if all_filters else three
        self.register_buffer("filters", filters[:, None].repeat(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return F.conv2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), self.filters.to(images.dtype))
