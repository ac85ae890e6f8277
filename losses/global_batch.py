"""Gathers the rows of all processes, for losses that are not a mean over samples."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(x: Tensor) -> Tensor:
    """The rows of all W processes in rank order, differentiable; x itself with one process.

    Every process computes the same loss from the gathered rows. Data parallelism then takes the mean of the processes'
    parameter gradients, which equals the gradient of one process with all rows.

    Args:
        x: The same shape and dtype on every process, [B, ...].

    Returns:
        [W * B, ...]
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    return _GatherRows.apply(x)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        x = x.contiguous()
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        # Each process's loss depends on these rows, so their gradients add up.
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.narrow(0, dist.get_rank() * ctx.rows, ctx.rows)


def gather_host(values: Tensor) -> Tensor:
    """`values` of all W processes, [n] in the host's memory -> [W, n]; the device is not waited for."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return values[None]
    parts = [torch.empty_like(values) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, values)
    return torch.stack(parts)


def average_over_processes(gradients: Sequence[Tensor]) -> Sequence[Tensor]:
    """The mean of each gradient over all processes; the gradients themselves with one process."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return gradients
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    parts = (flat / dist.get_world_size()).split([gradient.numel() for gradient in gradients])
    return [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
