"""Focal loss, which counts samples less that are right already.

Legend: B batch.
"""

import torch
from torch import Tensor

from resproto_fd.losses.precision import at_least_float32

LEAST, MOST = -5.0, -0.01
"""Range of the logarithm of a probability in the code of DFD-FCG's authors."""


def focal_loss(logits: Tensor, labels: Tensor, gamma: float) -> Tensor:
    """Mean of -(1 - p)^gamma ln p, p being the probability of the right class (Lin et al., ICCV 2017), a scalar.

    As DFD-FCG's authors compute it (CVPR 2025): ln p is held between -5 and -0.01, outside of which a sample has no
    gradient, and the factor before it is a constant.

    Args:
        logits: [B, 2].
        labels: [B].
    """
    log_right = at_least_float32(logits).log_softmax(dim=1).clamp(LEAST, MOST)
    log_right = log_right.gather(1, labels[:, None])[:, 0]
    return -((1 - torch.exp(log_right.detach())) ** gamma * log_right).mean()
