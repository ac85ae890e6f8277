"""K-means for the prototype memory: fixed shapes, no random state, nothing read back to the host."""

import torch
from torch import Tensor

STARTS = 64  # independent seedings R, all iterated in one matrix product
ITERATIONS = 4  # Lloyd iterations: a fixed number, since asking "converged?" would make the host wait


@torch.no_grad()
def kmeans(points: Tensor, mask: Tensor | None = None, k: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Centres of the k-means clusters of the points in the mask, the largest cluster first.

    k-means++ seeding from a fixed sequence instead of a random one, then Lloyd iterations, from many starts at once;
    the start with the least inertia wins. Many starts of few iterations find better clusters than few starts of many
    iterations, in fewer operations (on a GPU their number is the cost). All steps use the N x N Gram matrix in float64:
    the cost of an iteration does not grow with D, and devices agree on the clusters.

    Args:
        points: [N, D].
        mask: True for the points to cluster, [N]; None means all.
        k: Number of clusters, at least 1.

    Returns:
        (centres [k, D], sizes [k], valid [k]): clusters by size, ties by the lowest member index. With fewer than k
        distinct points the last centres are zeros, of size 0 and not valid.

    Raises:
        ValueError: k is below 1, or the shapes do not fit.
    """
    n = len(points)
    if k < 1 or points.ndim != 2 or (mask is not None and mask.shape != (n,)):
        shape = None if mask is None else list(mask.shape)
        given = f"{list(points.shape)}, {shape}, {k}"
        raise ValueError(f"kmeans expected points [N, D], a mask [N] and k >= 1, got {given}")
    device = points.device
    centres_dtype = torch.promote_types(points.dtype, torch.float32)
    if n == 0:
        sizes = torch.zeros(k, dtype=torch.long, device=device)
        return points.new_zeros(k, points.shape[1], dtype=centres_dtype), sizes, sizes > 0
    if mask is None:
        mask = torch.ones(n, dtype=torch.bool, device=device)
    # Not masked by multiplication: a NaN outside the mask would stay one. MPS has no float64.
    x = torch.where(mask[:, None], points, 0).to(torch.float32 if device.type == "mps" else torch.float64)
    cluster = torch.arange(k, device=device)
    member = (_best_labels(x @ x.T, mask, cluster)[:, None] == cluster) & mask[:, None]

    size = member.sum(0)
    lowest = member.byte().argmax(0)
    order = (size * (n + 1) - lowest).argsort(descending=True)
    size = size[order]
    centres = member[:, order].T.to(x.dtype) @ x / size.clamp(min=1)[:, None]
    return centres.to(centres_dtype), size, size > 0


def _best_labels(gram: Tensor, mask: Tensor, cluster: Tensor) -> Tensor:
    """Cluster of each point after the Lloyd iterations of the best start, [N]; meaningless outside the mask."""
    labels = _nearest_seed(gram, mask, len(cluster))
    for _ in range(ITERATIONS):
        member = ((labels[..., None] == cluster) & mask[:, None, None]).to(gram.dtype)  # [N, R, k]
        size = member.sum(0)
        weight = member / size  # a centre is this average of the points; NaN for an empty cluster
        product = (gram @ weight.flatten(1)).view_as(weight)  # <point, centre>
        centre_square = (weight * product).sum(0)  # |centre|^2, [R, k]
        distance = torch.sub(centre_square, product, alpha=2)  # |x|^2 is the same for all centres
        labels = distance.nan_to_num_(nan=torch.inf).argmin(-1)  # an empty cluster stays empty
    # Inertia before the last assignment = sum of |x|^2 - sum of size * |centre|^2
    best = (size * centre_square).nansum(-1).argmax(0, keepdim=True)
    return labels.index_select(1, best).squeeze(1)


def _nearest_seed(gram: Tensor, mask: Tensor, k: int) -> Tensor:
    """Index of the nearest of the k seeds of each start, [N, R].

    A seed is drawn with probability proportional to the squared distance from the seeds so far: it is the point with
    the largest distance / e, the e being exponential variables (Efraimidis and Spirakis 2006).
    """
    square = gram.diagonal() * (1 - 1e-12)  # rounding must not tell duplicates apart
    distance = torch.sub(square[:, None] + square, gram, alpha=2).clamp_(min=0)
    distance = torch.where(mask, distance, -1)  # never drawn
    # A Weyl sequence serves as the uniform variable: no generator state, and the same numbers on every device. It
    # counts the points in the mask, so that those outside it do not change the clusters.
    start = torch.arange(1, k * STARTS + 1, dtype=gram.dtype, device=gram.device)[:, None]
    uniform = (start * mask.cumsum(0) * 0.7548776662466927).frac().clamp_(1e-9, 1 - 1e-9)
    exponential = -uniform.log().view(k, STARTS, -1)

    seeds = [(mask / exponential[0]).argmax(1)]  # [R]
    nearest = distance[seeds[0]]  # [R, N]
    for i in range(1, k):
        seeds.append((nearest / exponential[i]).argmax(1))
        nearest = torch.minimum(nearest, distance[seeds[-1]])
    return distance[torch.stack(seeds, 1)].argmin(1).T
