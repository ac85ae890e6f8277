"""Region independence of attention maps (Zhao et al., Multi-attentional Deepfake Detection, CVPR 2021, eqs 5 and 6)."""

import torch
from torch import Tensor

from resproto_fd.losses.precision import at_least_float32

INNER, OUTER = (0.05, 0.1), 0.2
"""Margins of a vector's distance from its centre, for real and fake, and of the distance between centres."""


def region_independence_loss(
    vectors: Tensor, centres: Tensor, labels: Tensor, rate: float, through_centres: bool = True
) -> tuple[Tensor, Tensor]:
    """Loss that keeps each map's features close to their centre and the centres of the maps apart.

    As in the authors' code, sums are means, and the second term is divided by M and by the rate. This term reaches the
    vectors only through the centres' step, which the rate scales.

    Args:
        vectors: Features that each of M maps gathers, L2-normalised, [B, M, D].
        centres: Current centre of each map, [M, D].
        labels: 0 real, 1 fake, [B].
        rate: Step of the centres towards the batch's mean (the paper's alpha), in (0, 1].
        through_centres: False stops the gradient at the centres, as DeepfakeBench does; its second term then has no
            effect.

    Returns:
        The loss, and the centres after their step, [M, D].
    """
    vectors = at_least_float32(vectors)
    centres = centres + rate * (vectors.mean(dim=0) - centres)
    centres = centres if through_centres else centres.detach()
    margins = torch.tensor(INNER, dtype=vectors.dtype).to(vectors.device, non_blocking=True)[labels]
    inner = ((vectors - centres).norm(dim=-1) - margins[:, None]).relu().mean()
    outer = (OUTER - torch.pdist(centres)).relu().sum() / (len(centres) * rate)
    return inner + outer, centres.detach()
