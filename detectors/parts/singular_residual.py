"""A linear layer whose largest singular directions are frozen (Effort, Yan et al., ICML 2025)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.weights import pretrained_skipped


class SingularResidual(nn.Module):
    """Linear layer weight_main + U diag(S) V whose R smallest singular values train, with their vectors.

    `start_U` [O, R], `start_S` [R] and `start_V` [R, I] are the initial values; the constraints compare with them.

    Args:
        layer: A layer with as many outputs as inputs; the new layer computes the same at the start.
        rank: R.
    """

    def __init__(self, layer: nn.Linear, rank: int):
        super().__init__()
        weight = layer.weight.detach()
        rank = min(rank, len(weight))
        if pretrained_skipped():  # a checkpoint follows, and the decompositions of ViT-L take a minute
            u, s, v = weight.new_zeros(len(weight), rank), weight.new_zeros(rank), weight.new_zeros(rank, len(weight))
        else:
            u, s, v = torch.linalg.svd(weight)
            u, s, v = u[:, -rank:].contiguous(), s[-rank:].contiguous(), v[-rank:].contiguous()
        self.weight_main = nn.Parameter(weight - (u * s) @ v, requires_grad=False)
        self.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
        for name, value in (("S", s), ("U", u), ("V", v)):
            setattr(self, f"{name}_residual", nn.Parameter(value))
            self.register_buffer(f"start_{name}", value.clone())

    def forward(self, x: Tensor) -> Tensor:
        trained = F.linear(F.linear(x, self.V_residual) * self.S_residual, self.U_residual)
        return F.linear(x, self.weight_main, self.bias) + trained

    def forget_start(self) -> None:
        """Remove the initial values: the state is then DeepfakeBench's, without constraints."""
        self.start_S = self.start_U = self.start_V = None

    def orthogonality(self) -> Tensor:
        """||A^T A - 1||^2 + ||B^T B - 1||^2, A and B all left and right singular vectors, frozen and trained; scalar.

        The frozen vectors and the initial values of the trained ones form an orthonormal basis. The part of a trained
        vector along the frozen ones is therefore its part outside the initial ones.
        """
        loss = self.S_residual.new_zeros(())
        for now, start in ((self.U_residual, self.start_U), (self.V_residual.T, self.start_V.T)):
            among_frozen = now - start @ (start.T @ now)
            among_trained = now.T @ now - torch.eye(now.shape[1], device=now.device, dtype=now.dtype)
            loss = loss + 2 * among_frozen.square().sum() + among_trained.square().sum()
        return loss

    def energy_change(self) -> Tensor:
        """| ||W||^2 - ||W at the start||^2 |, Frobenius norms of the whole weight; scalar.

        Computed from the parts, since the difference of two large sums would lose precision.
        """
        scaled = self.U_residual * self.S_residual
        with_main = (scaled * (self.weight_main @ self.V_residual.T)).sum()
        own = ((scaled.T @ scaled) * (self.V_residual @ self.V_residual.T)).sum()
        return (2 * with_main + own - self.start_S.square().sum()).abs()
