"""The loss that a linear classifier would have after one step of gradient descent.

Legend: N samples of the step, M samples that are looked at after it, D feature size, C classes.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from resproto_fd.losses.precision import at_least_float32, without_autocast


def loss_after_step(
    classifier: torch.nn.Linear,
    trained: tuple[Tensor, Tensor, Tensor],
    looked_at: tuple[Tensor, Tensor, Tensor],
    rate: float,
) -> Tensor:
    """Cross-entropy of some samples after one step on others; differentiable in the weights of the step's samples.

    This is the upper level of a bi-level problem whose lower level is one step. The classifier itself gets no gradient.
    The gradient of cross-entropy in a linear classifier is known, (p - y) f, so that nothing is differentiated twice.

    Args:
        classifier: D -> C.
        trained: Features [N, D], labels [N] and weights [N] of the step's samples; their weighted sum is descended.
        looked_at: Features [M, D], labels [M] and weights [M] >= 0 of the others.
        rate: Length of the step, times the gradient.

    Returns:
        The weighted mean, a scalar; 0 if all weights are 0.
    """
    features, labels, weights = trained
    with without_autocast(features):
        weight, bias = (at_least_float32(part.detach()) for part in (classifier.weight, classifier.bias))
        features = at_least_float32(features)
        errors = F.linear(features, weight, bias).softmax(1) - F.one_hot(labels, len(bias)).to(weight.dtype)
        errors = weights[:, None] * errors
        weight, bias = weight - rate * errors.mT @ features, bias - rate * errors.sum(0)
        features, labels, weights = looked_at
        loss = F.cross_entropy(F.linear(at_least_float32(features), weight, bias), labels, reduction="none")
    return (weights * loss).sum() / weights.sum().clamp_min(1e-12)
