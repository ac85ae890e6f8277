"""K-means for the prototype memory: fixed shapes, no random state, nothing read back to the host."""

import torch
from torch import Tensor

RESTARTS = 16  # independent starts R, all iterated in one matrix product
TRIALS = 4  # points weighed for each further seed
ITERATIONS = 10  # Lloyd iterations: a fixed number, since asking "converged?" would make the host wait


@torch.no_grad()
def kmeans(points: Tensor, mask: Tensor | None = None, k: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Centres of the k-means clusters of the points in the mask, the largest cluster first.

    Greedy k-means++ seeding from a fixed sequence in place of a random one, then Lloyd iterations, from several starts
    at once; the start with the least inertia wins. All of it works on the N x N Gram matrix in float64, so that an
    iteration costs nothing that grows with D and devices agree on the clusters.

    Args:
        points: [N, D].
        mask: True for the points to cluster, [N]; None takes all.
        k: Clusters wanted, at least 1.

    Returns:
        (centres [k, D], sizes [k], valid [k]): clusters by size, ties by the lowest member index. With fewer than k
        distinct points the last centres are zeros, of size 0 and not valid.

    Raises:
        ValueError: k is below 1, or the shapes do not fit.
    """
    n = len(points)
    if k < 1 or points.ndim != 2 or (mask is not None and mask.shape != (n,)):
        shape = None if mask is None else list(mask.shape)
        raise ValueError(f"kmeans wants points [N, D], a mask [N] and k >= 1, not {list(points.shape)}, {shape}, {k}")
    device = points.device
    centres_dtype = torch.promote_types(points.dtype, torch.float32)
    if n == 0:
        sizes = torch.zeros(k, dtype=torch.long, device=device)
        return points.new_zeros(k, points.shape[1], dtype=centres_dtype), sizes, sizes > 0
    if mask is None:
        mask = torch.ones(n, dtype=torch.bool, device=device)
    # Not masked by multiplication: a NaN outside the mask would stay one. MPS has no float64.
    x = torch.where(mask[:, None], points, 0).to(torch.float32 if device.type == "mps" else torch.float64)
    gram = x @ x.T
    cluster = torch.arange(k, device=device)
    labels = _nearest_seed(gram, mask, k)
    for _ in range(ITERATIONS):
        _, size, product, centre_square = _clusters(gram, mask, labels, cluster)
        centre_square = torch.where(size > 0, centre_square, torch.inf)  # an empty cluster stays empty
        labels = torch.sub(centre_square, product, alpha=2).argmin(-1)  # |x|^2 is the same for all centres
    member, size, _, centre_square = _clusters(gram, mask, labels, cluster)

    best = (size * centre_square).sum(-1).argmax(0, keepdim=True)  # inertia = sum |x|^2 - sum of size * |centre|^2
    member, size = member.index_select(1, best).squeeze(1), size.index_select(0, best).squeeze(0)
    lowest = torch.where(member, torch.arange(n, device=device)[:, None], n).amin(0)
    order = (size * (n + 1) - lowest).argsort(descending=True)
    member, size = member.index_select(1, order), size.index_select(0, order)
    centres = member.T.to(x.dtype) @ x / size.clamp(min=1)[:, None]
    return centres.to(centres_dtype), size, size > 0


def _clusters(gram: Tensor, mask: Tensor, labels: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(membership [N, R, k], sizes [R, k], <point, centre> [N, R, k], |centre|^2 [R, k]) of the labels [N, R]."""
    member = (labels[..., None] == cluster) & mask[:, None, None]
    size = member.sum(0)
    weight = member / size.clamp(min=1).to(gram.dtype)  # a centre is this average of the points
    product = (gram @ weight.flatten(1)).view_as(weight)
    return member, size, product, (weight * product).sum(0)


def _nearest_seed(gram: Tensor, mask: Tensor, k: int) -> Tensor:
    """Index of the nearest of the k seeds of each start, [N, R].

    A seed is the best of TRIALS points drawn with probability proportional to the squared distance from the seeds so
    far: those with the largest distance * noise, the noise being 1 / an exponential variable (Efraimidis and
    Spirakis 2006).
    """
    n, device = len(gram), gram.device
    square = gram.diagonal()
    scale = square[:, None] + square
    distance = torch.sub(scale, gram, alpha=2)
    # Rounding must not tell duplicates apart; points outside the mask must not weigh.
    distance = torch.where((distance > 1e-12 * scale) & mask, distance, 0)
    # A Weyl sequence serves as the uniform variable: no generator state, and the same numbers on every device. It
    # counts the points in the mask, so that those outside it do not change the clusters.
    step = torch.arange(1, k * RESTARTS + 1, device=device).to(gram.dtype).mul(0.7548776662466927).frac()
    uniform = (step[:, None] * mask.cumsum(0)).frac().clamp(1e-9, 1 - 1e-9)
    noise = (-1 / uniform.log()).view(k, RESTARTS, n)

    seeds = [torch.where(mask, noise[0], -1).argmax(1, keepdim=True)]  # [R, 1]
    nearest = distance[seeds[0][:, 0]]  # [R, N]
    for i in range(1, k):
        trials = torch.where(mask, nearest * noise[i], -1).topk(min(TRIALS, n)).indices  # [R, TRIALS]
        cost = torch.minimum(distance[trials], nearest[:, None]).sum(-1)
        seeds.append(trials.gather(1, cost.argmin(1, keepdim=True)))
        nearest = torch.minimum(nearest, distance[seeds[-1][:, 0]])
    return distance[torch.cat(seeds, 1)].argmin(1).T
