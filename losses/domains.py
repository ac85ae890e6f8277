"""Losses between and within data sets: GM-DF's classification, consistency and alignment."""

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-8


def classification_loss(similar: Tensor, domain: Tensor, labels: Tensor, temperatures: Tensor) -> Tensor:
    """L_cls, equation 12: mean cross-entropy over the two prompts of each image's domain.

    Args:
        similar: Cosines with the prompts, [B, D + 1, 2].
        domain: Row of each image's domain, [B].
        labels: [B].
        temperatures: tau_d, [D + 1].
    """
    own = similar[torch.arange(len(similar), device=similar.device), domain] / temperatures[domain][:, None]
    return F.cross_entropy(own, labels)


def consistency_loss(similar: Tensor, domain: Tensor, labels: Tensor, temperatures: Tensor) -> Tensor:
    """L_sis, equation 11: each image's own prompt against the prompts of all domains and classes.

    Args:
        similar, domain, labels, temperatures: As `classification_loss`.
    """
    scaled = (similar / temperatures[domain][:, None, None]).flatten(1)
    own = scaled.gather(1, (2 * domain + labels)[:, None])[:, 0]
    # log(sum + epsilon), with the sum relative to its largest term, as in log-sum-exp
    largest = scaled.amax(dim=1).detach()
    every = ((scaled - largest[:, None]).exp().sum(dim=1) + EPSILON * largest.neg().exp()).log() + largest
    return (every - own).mean()


def alignment_loss(features: Tensor, domain: Tensor, count: int) -> Tensor:
    """Squared distances of the domains' means and covariances (Sun & Saenko, Deep CORAL, 2016).

    The mean over pairs of domains with at least two images each; 0 without such a pair.

    Args:
        features: [B, E].
        domain: Number of each image's domain, [B].
        count: Number of domains, D.
    """
    here = (domain == torch.arange(count, device=domain.device)[:, None]).to(features.dtype)  # [D, B]
    images = here.sum(dim=1)
    means = here @ features / images.clamp(min=1)[:, None]
    apart = features - means[domain]
    covariances = torch.einsum("db,be,bf->def", here / (images - 1).clamp(min=1)[:, None], apart, apart)
    first, second = torch.triu_indices(count, count, offset=1, device=domain.device)
    counts = (images[first] > 1) & (images[second] > 1)
    distances = (means[first] - means[second]).square().sum(dim=1)
    distances = distances + (covariances[first] - covariances[second]).square().sum(dim=(1, 2))
    return (distances * counts).sum() / counts.sum().clamp(min=1)
