"""A Gaussian fitted to samples that arrive in portions, with Ledoit-Wolf shrinkage.

Legend: N samples, D their size.
"""

import torch
from torch import Tensor, nn

from resproto_fd.losses.global_batch import gather_rows
from resproto_fd.losses.precision import without_autocast


class ShrunkGaussian(nn.Module):
    """Mean and precision of the samples added between two fits; only sums are stored, as part of the state.

    Source: Ledoit & Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004.

    Attributes:
        fitted: Whether `fit` has succeeded, bool scalar.

    Args:
        size: D.
    """

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("fitted", torch.tensor(False))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("precision", torch.eye(size, dtype=torch.float64))
        # Sums of 1, x, x x^T, |x|^2 x and |x|^4, which the formula needs.
        for name, shape in (("count", ()), ("first", (size,)), ("second", (size, size)), ("third", (size,))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("fourth", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def add(self, samples: Tensor, counts: Tensor) -> None:
        """Add samples [N, D] for the next fit; only those with `counts` [N] True are used."""
        samples = samples.double() * counts[:, None]
        squares = samples.square().sum(dim=1)
        self.count += counts.sum()
        self.first += samples.sum(dim=0)
        self.second += samples.T @ samples
        self.third += squares @ samples
        self.fourth += squares.square().sum()

    @torch.no_grad()
    def fit(self) -> None:
        """Fit to the samples that all processes added, then clear the sums; with fewer than two samples do nothing.

        Samples whose shrunk covariance has no inverse, such as equal ones, leave mean and precision as they were. The
        device decides both, so that the host need not wait for it.
        """
        sums = (self.count, self.first, self.second, self.third, self.fourth)
        count, first, second, third, fourth = (gather_rows(value[None].double()).sum(dim=0) for value in sums)
        enough = count >= 2
        mean = first / count
        covariance = second / count - torch.outer(mean, mean)
        # The sum of |x - mean|^4, from sums of powers of x.
        norm = mean @ mean
        fourth = (
            fourth
            - 4 * (third @ mean)
            + 4 * (mean @ second @ mean)
            + 2 * norm * second.trace()
            - 4 * norm * (first @ mean)
            + count * norm**2
        )
        size = len(mean)
        scale = covariance.trace() / size
        spread = covariance.square().sum()
        error = (fourth / count - spread) / count
        away = spread - size * scale**2
        share = (error.clamp(min=0) / away.clamp(min=1e-300)).clamp(max=1.0)
        covariance = (1 - share) * covariance + share * scale * torch.eye(
            size, dtype=covariance.dtype, device=covariance.device
        )
        factor, failure = torch.linalg.cholesky_ex(covariance)
        precision = torch.cholesky_inverse(factor)
        usable = enough & (failure == 0) & precision.isfinite().all()
        self.mean.copy_(torch.where(usable, mean, self.mean))
        self.precision.copy_(torch.where(usable, precision, self.precision))
        self.fitted.logical_or_(usable)
        for value in sums:
            value.mul_(~enough)

    @torch.no_grad()
    def distance(self, samples: Tensor) -> Tensor:
        """Mahalanobis distance of samples [..., D], [...]."""
        apart = samples.float() - self.mean.float()
        with without_autocast(apart):
            return ((apart @ self.precision.float()) * apart).sum(dim=-1).clamp(min=0).sqrt()
