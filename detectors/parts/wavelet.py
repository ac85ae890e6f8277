"""The Haar wavelet transform of tokens on a grid, in one step (Mallat 1989).

Legend: B batch, H, W even sides of the grid, M = H W / 4 places of a band, D width.
"""

import torch
from torch import Tensor


def haar_bands(grid: Tensor) -> Tensor:
    """Frequency bands of a grid: [B, H, W, D] -> [B, 4, M, D], the places row by row.

    The bands are LL, LH, HL and HH; the first letter is the filter along a row, the second along a column. The
    transform is orthonormal.
    """
    squares = grid.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # [B, H / 2, 2, W / 2, 2, D]
    return _turned(squares.permute(0, 2, 4, 1, 3, 5).flatten(3, 4).flatten(1, 2))


def haar_grid(bands: Tensor, rows: int) -> Tensor:
    """The grid that has these bands, the inverse of `haar_bands`: [B, 4, M, D] -> [B, H, W, D].

    Args:
        rows: H / 2.
    """
    squares = _turned(bands).unflatten(2, (rows, -1)).unflatten(1, (2, 2))  # [B, 2, 2, H / 2, W / 2, D]
    return squares.permute(0, 3, 1, 4, 2, 5).flatten(3, 4).flatten(1, 2)


def _turned(four: Tensor) -> Tensor:
    """Four values of a square, row by row, as its four bands; its own inverse: [B, 4, M, D] -> the same shape."""
    a, b, c, d = four.unbind(dim=1)
    top, bottom, across, below = a + b, c + d, a - b, c - d
    return torch.stack([top + bottom, top - bottom, across + below, across - below], dim=1) / 2
