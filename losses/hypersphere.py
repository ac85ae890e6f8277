"""Uniformity and alignment of unit vectors.

Source: Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
Hypersphere", ICML 2020, section 4. Alignment is over pairs of one class, as in Yermakov et al., "Deepfake Detection
that Generalizes Across Benchmarks", 2025.

Legend: N samples of all processes, D feature size.
"""

import math

import torch
from torch import Tensor

from resproto_fd.losses.precision import at_least_float32, without_autocast

SHARPNESS = 2.0
"""Factor t of the squared distance in the uniformity."""


def uniformity(units: Tensor) -> Tensor:
    """ln of the mean of exp(-2 |x - y|^2) over all pairs, in [-8, 0]: the less, the more evenly spread; 0 for no pair.

    Args:
        units: Unit vectors, [N, D].
    """
    count = len(units)
    if count < 2:
        return 0 * units.sum()
    exponents = (-SHARPNESS * _squared_distances(units)).masked_fill(~_pairs(units), float("-inf"))
    return exponents.flatten().logsumexp(dim=0) - math.log(count * (count - 1))


def alignment(units: Tensor, labels: Tensor) -> Tensor:
    """Mean of |x - y|^2 over pairs of one class, in [0, 4]; 0 if there is no such pair.

    Args:
        units: Unit vectors, [N, D].
        labels: [N].
    """
    alike = (labels[:, None] == labels) & _pairs(units)
    return (_squared_distances(units) * alike).sum() / alike.sum().clamp(min=1)


def _pairs(units: Tensor) -> Tensor:
    return ~torch.eye(len(units), dtype=torch.bool, device=units.device)


def _squared_distances(units: Tensor) -> Tensor:
    units = at_least_float32(units)
    with without_autocast(units):
        return 2 - 2 * units @ units.T
