"""Region independence of attention maps (Zhao et al., Multi-attentional Deepfake Detection, CVPR 2021, eqs 5 and 6)."""

import torch
from torch import Tensor

from resproto_fd.losses.precision import at_least_float32

INNER, OUTER = (0.05, 0.1), 0.2
"""Margins: of the distance of a map's vector from its centre, for real and fake, and of one centre from another."""


def region_independence_loss(
    vectors: Tensor, centres: Tensor, labels: Tensor, rate: float, through_centres: bool = True
) -> tuple[Tensor, Tensor]:
    """Keeps what a map looks at together over pictures, and what the maps look at apart.

    Sums are means here, and the second term is divided by M and by the rate, as in the authors' code: it reaches the
    vectors through the centres' step alone, which the rate scales.

    Args:
        vectors: Features that each of M maps gathers, L2-normalised, [B, M, D].
        centres: Of each map so far, [M, D].
        labels: 0 real, 1 fake, [B].
        rate: Share of the way to the batch's mean that the centres go (the paper's alpha), in (0, 1].
        through_centres: False cuts the gradient there, as DeepfakeBench does, whose second term so teaches nothing.

    Returns:
        The loss, and the centres after their step, [M, D].
    """
    vectors = at_least_float32(vectors)
    centres = centres + rate * (vectors.mean(dim=0) - centres)
    centres = centres if through_centres else centres.detach()
    margins = vectors.new_tensor(INNER)[labels]
    inner = ((vectors - centres).norm(dim=-1) - margins[:, None]).relu().mean()
    outer = (OUTER - torch.pdist(centres)).relu().sum() / (len(centres) * rate)
    return inner + outer, centres.detach()
