"""The discrete cosine transform of a picture, and bands of it."""

import math

import torch
from torch import Tensor


def dct_matrix(size: int) -> Tensor:
    """Orthonormal DCT-II: D x D^T are the coefficients of x [size, size]."""
    row, column = torch.arange(size, dtype=torch.float64)[:, None], torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi * row * (column + 0.5) / size) * math.sqrt(2 / size)
    return torch.cat([waves[:1] / math.sqrt(2), waves[1:]]).float()


def band(size: int, low: float, high: float) -> Tensor:
    """1 where low <= row + column <= high, 0 elsewhere, [size, size]."""
    place = torch.arange(size)
    total = place[:, None] + place
    return ((total >= low) & (total <= high)).float()
