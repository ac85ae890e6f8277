"""Blending boundaries, and contrasts of real with forged patches and samples.

Source: Cui et al., "Forensics Adapter", CVPR 2025; the boundary is Face X-ray's (Li et al., CVPR 2020).

Legend: B batch, N samples of all processes, L patches, D feature size, S side.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from resproto_fd.losses.precision import at_least_float32, without_autocast

TEMPERATURE = 0.5
SOFT = 3.5
"""Standard deviation of the blur of a mask's edge, in pixels at a side of 256."""


def blending_boundary(mask: Tensor) -> Tensor:
    """4 M (1 - M) of the softened mask M (Li et al., Face X-ray, CVPR 2020): [B, 1, S, S] -> the same, in [0, 1]."""
    sigma = SOFT * mask.shape[-1] / 256
    reach = round(3 * sigma)
    distances = torch.arange(-reach, reach + 1, dtype=mask.dtype, device=mask.device)
    weights = (-(distances**2) / (2 * sigma**2)).softmax(dim=0)
    with without_autocast(mask):
        rows = F.conv2d(F.pad(mask, [reach] * 4, mode="reflect"), weights.view(1, 1, 1, -1))
        soft = F.conv2d(rows, weights.view(1, 1, -1, 1))
    return 4 * soft * (1 - soft)


def patch_contrast(patches: Tensor, forged: Tensor, labels: Tensor) -> Tensor:
    """Contrast of a fake's patches on the boundary with its other patches.

    It is -ln of the share that the pairs of untouched patches have among these pairs and those across the boundary. A
    pair counts exp(cosine / 0.5). The result is the mean over fakes with at least one patch on the boundary and two off
    it, or 0 without such a fake.

    Args:
        patches: [B, L, D].
        forged: Whether a patch is on the boundary, [B, L].
        labels: [B].
    """
    pairs = _cosines(patches) / TEMPERATURE
    others = ~torch.eye(pairs.shape[1], dtype=torch.bool, device=pairs.device)
    return _share(pairs, ~forged[:, :, None] & ~forged[:, None] & others, ~forged[:, :, None] & forged[:, None], labels)


def sample_contrast(features: Tensor, labels: Tensor) -> Tensor:
    """Contrast of real images with fakes; 0 if a kind of pair is absent.

    It is -ln of the share that the pairs of real images have among these pairs and those of a real image and a fake.

    Args:
        features: [N, D].
        labels: [N].
    """
    pairs, real = _cosines(features[None]) / TEMPERATURE, labels == 0
    others = ~torch.eye(len(real), dtype=torch.bool, device=real.device)
    return _share(pairs, (real[:, None] & real & others)[None], (real[:, None] & ~real)[None], labels.new_ones(1))


def _cosines(vectors: Tensor) -> Tensor:
    units = F.normalize(at_least_float32(vectors), dim=-1)
    with without_autocast(units):
        return units @ units.transpose(-2, -1)


def _share(pairs: Tensor, like: Tensor, unlike: Tensor, chosen: Tensor) -> Tensor:
    """Mean of -ln(sum of exp over like pairs / over both kinds) over chosen rows that have both kinds."""
    like, unlike = like.flatten(1), unlike.flatten(1)
    counts = (chosen == 1) & like.any(dim=1) & unlike.any(dim=1)
    pairs, others = pairs.flatten(1), ~counts[:, None]  # rows that do not count take all pairs, so that they are finite
    above, below = (pairs.masked_fill(~(which | others), float("-inf")) for which in (like, like | unlike))
    found = below.logsumexp(dim=1) - above.logsumexp(dim=1)
    return (found * counts).sum() / counts.sum().clamp(min=1)
