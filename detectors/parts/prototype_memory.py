"""Gradient-aware residual prototypes: their memory, and the score from it (ResProto-FD, equations 8 to 11)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resproto_fd.detectors.parts.kmeans import kmeans
from resproto_fd.losses.precision import without_autocast

CLASSES = ("real", "forged")
MEMBERS = 4
"""Frames that are kept of those that made a prototype."""


class PrototypeMemory(nn.Module):
    """Memory of at most M prototypes of each class, with their entry scores and dwell times.

    An update uses tensor operations of fixed shape, so that the host need not wait for the device. All state is in
    buffers, class 0 (real) first; slots from `count` on are empty: `prototypes [2, M, D]`, not normalised;
    `scores [2, M]`; `dwell [2, M]`, updates of the class since the prototype entered; `count [2]`. Where prototypes
    come from is kept beside the state, since no score depends on it: `members [2, M, MEMBERS]`, the frames of the batch
    that were nearest to each, and `entered [2, M, 2]`, the epoch and the step of the entry; -1 where it is not known.

    Args:
        capacity: M, at least 1.
        dim: D.
        gamma: Decay of a score per update of its class, in (0, 1].

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, capacity: int, dim: int, gamma: float = 0.99):
        super().__init__()
        if capacity < 1 or dim < 1 or not 0 < gamma <= 1:
            raise ValueError(f"expected capacity >= 1, dim >= 1, 0 < gamma <= 1, got {capacity}, {dim}, {gamma}")
        self.capacity, self.gamma = capacity, gamma
        self.register_buffer("prototypes", torch.zeros(2, capacity, dim))
        self.register_buffer("scores", torch.zeros(2, capacity))
        self.register_buffer("dwell", torch.zeros(2, capacity, dtype=torch.long))
        self.register_buffer("count", torch.zeros(2, dtype=torch.long))
        self.register_buffer("members", torch.full((2, capacity, MEMBERS), -1), persistent=False)
        self.register_buffer("entered", torch.full((2, capacity, 2), -1), persistent=False)

    settled: bool | None = None
    """What `ready` is while a graph of the detector is made, in which nothing may depend on a tensor's value."""

    @property
    def ready(self) -> Tensor | bool:
        """True when both classes hold a prototype, a scalar tensor."""
        return (self.count > 0).all() if self.settled is None else self.settled

    @torch.no_grad()
    def update(
        self, label: int | Tensor, candidates: Tensor, score: float | Tensor, valid: Tensor | None = None
    ) -> None:
        """Offer one class's candidates of a batch to the memory.

        They are appended while there is room. Then each in turn replaces the prototype with the smallest
        score * gamma^dwell (ties: the lowest slot) if its score is at least that (eq 9); candidates of one update do
        not evict each other. Candidates that are not finite are ignored; without candidates nothing changes.

        Args:
            label: 0 real, 1 forged.
            candidates: The more important first, [k, D].
            score: g^(c), the score of all the candidates.
            valid: False for rows of `candidates` to ignore, [k]; None means all are used.

        Raises:
            ValueError: The label is neither 0 nor 1, or a shape does not fit.
        """
        if not isinstance(label, Tensor) and label not in (0, 1):
            raise ValueError(f"expected label 0 (real) or 1 (forged), got {label!r}")
        dim = self.prototypes.shape[-1]
        if candidates.ndim != 2 or candidates.shape[1] != dim:
            raise ValueError(f"expected candidates [k, {dim}], got {list(candidates.shape)}")
        k, device = len(candidates), self.count.device
        if valid is None:
            valid = torch.ones(k, dtype=torch.bool, device=device)
        elif valid.shape != (k,):
            raise ValueError(f"expected valid [{k}], got {list(valid.shape)}")
        if not isinstance(score, Tensor):
            score = self.scores.new_full((), score)
        if k:
            own_class = torch.arange(2, device=device) == label
            self._update(candidates.expand(2, k, dim), score.expand(2), valid & own_class[:, None])

    @torch.no_grad()
    def collect(
        self,
        residual: Tensor,
        labels: Tensor,
        scores: Tensor,
        clusters: int = 4,
        frames: Tensor | None = None,
        when: tuple[int, int] = (-1, -1),
    ) -> None:
        """Update both classes from a batch: real with the mean residual feature, forged with k-means centres.

        Args:
            residual: Residual features; under data parallelism those of the global batch, [B, D].
            labels: 0 real, 1 forged, [B].
            scores: g^(c) of the batch, from `losses.residual.gradient_scores`, [2].
            clusters: Number k of k-means clusters of the forged residual features; fewer if there are fewer features.
            frames: Positions of the batch's frames in the training list, [B]; None if they are not known.
            when: Epoch and step of the batch.
        """
        residual, real = residual.detach(), labels == 0
        centres, _, valid_forged = kmeans(residual, labels == 1, clusters)
        mean = torch.where(real[:, None], residual, 0).to(centres.dtype).sum(0) / real.sum().clamp(min=1)
        valid_real = torch.arange(clusters, device=labels.device) < real.any()  # one candidate at most
        candidates = torch.stack([mean.expand_as(centres), centres])
        members = None if frames is None else _nearest(candidates, residual, labels, frames)
        self._update(candidates, scores, torch.stack([valid_real, valid_forged]), members, when)

    def similarities(self, features: Tensor) -> Tensor:
        """Cosine of features [B, D] with every slot, real first, [B, 2 * M]; -inf for an empty slot (eq 10)."""
        with without_autocast(features):
            dtype = torch.promote_types(torch.promote_types(features.dtype, self.prototypes.dtype), torch.float32)
            prototypes = F.normalize(self.prototypes.to(dtype).flatten(0, 1), dim=-1)
            cosine = F.normalize(features.to(dtype), dim=-1) @ prototypes.T
        return cosine.masked_fill(~self._filled().flatten(), -torch.inf)

    def score(self, features: Tensor, k: int = 64, temperature: float = 1.0, balanced: bool = False) -> Tensor:
        """P(fake) of each feature: the forged share of its k most similar prototypes (eqs 10, 11).

        Args:
            features: [B, D].
            k: Number of compared prototypes; fewer if fewer are stored.
            temperature: Temperature of the softmax over their cosines.
            balanced: Compare with the k / 2 most similar of each class, instead of the k most similar of both. Of a
                class that is not full the same share k / 2M of its prototypes is taken, and the mean weight counts, so
                that the score does not lean to the class that has more.

        Returns:
            [B], in [0, 1]; 0 or 1 while only one class is stored, 0.5 while none is.

        Raises:
            ValueError: k is below 1, or the temperature is not above 0.
        """
        return self.forged_share(self.similarities(features), k, temperature, balanced)

    def forged_share(
        self, similarities: Tensor, k: int = 64, temperature: float = 1.0, balanced: bool = False
    ) -> Tensor:
        """`score` from given `similarities`, so that several k or temperatures share one product."""
        if k < 1 + balanced or temperature <= 0:
            raise ValueError(f"expected k >= {1 + balanced} and temperature > 0, got {k} and {temperature}")
        if balanced:
            near = similarities.unflatten(-1, (2, self.capacity)).sort(dim=-1, descending=True).values / temperature
            kept = (self.count * min(k / (2 * self.capacity), 1.0)).ceil()[:, None]
            near = near.masked_fill(torch.arange(self.capacity, device=near.device) >= kept, -torch.inf)
            means = near.logsumexp(dim=-1) - kept[:, 0].clamp(min=1).log()
            return torch.where((self.count > 0).any(), means.softmax(-1)[..., 1], 0.5)
        # Stable, so that equal similarities keep the same order on every device.
        top, slot = similarities.sort(dim=-1, descending=True, stable=True)
        weights = (top[:, :k] / temperature).softmax(-1)
        share = torch.where(slot[:, :k] >= self.capacity, weights, 0).sum(-1)
        return torch.where((self.count > 0).any(), share, 0.5)

    @torch.no_grad()
    def diagnostics(self) -> dict[str, Tensor]:
        """Figures of each class as scalars, 0 while the class is empty.

        "count", stored prototypes; "spread", mean pairwise cosine distance in [0, 2]; "age", mean dwell time; "score",
        mean score on entering; "fresh", share that entered in the last update. Keys are "spread_real" and so on.
        """
        filled = self._filled()
        count = self.count.clamp(min=1)
        unit = torch.where(filled[..., None], F.normalize(self.prototypes.float(), dim=-1), 0)
        pairs = (self.count * (self.count - 1)).clamp(min=1)
        cosine = (unit.sum(1).square().sum(-1) - self.count) / pairs  # |sum|^2 = count + sum over pairs
        figures = {
            "count": self.count,
            "spread": torch.where(self.count > 1, 1 - cosine, 0),
            "age": torch.where(filled, self.dwell, 0).sum(1) / count,
            "score": torch.where(filled, self.scores, 0).sum(1) / count,
            "fresh": (filled & (self.dwell == 0)).sum(1) / count,
        }
        return {f"{name}_{CLASSES[c]}": values[c] for name, values in figures.items() for c in (0, 1)}

    def _filled(self) -> Tensor:
        return torch.arange(self.capacity, device=self.count.device) < self.count[:, None]

    def _update(
        self,
        candidates: Tensor,
        scores: Tensor,
        valid: Tensor,
        members: Tensor | None = None,
        when: tuple[int, int] = (-1, -1),
    ) -> None:
        """Both classes at once: candidates [2, k, D], scores [2], valid [2, k], members [2, k, MEMBERS]."""
        candidates, scores = candidates.to(self.prototypes.dtype), scores.to(self.scores.dtype)[:, None]
        valid = valid & (candidates.sum(-1) + scores).isfinite()
        slots = torch.arange(self.capacity, device=self.count.device)
        filled = slots < self.count[:, None]
        self.dwell.add_(filled & valid.any(1, keepdim=True))

        # The candidates of a class share one score and do not evict each other. In turn, the n-th candidate therefore
        # meets the n-th weakest slot. Free slots are the weakest, in their order.
        decayed = self.scores * self.gamma ** self.dwell.to(self.scores.dtype)
        weakness, weakest = torch.where(filled, decayed, -torch.inf).sort(dim=1, stable=True)
        turn = valid.cumsum(1) - 1
        opponent = turn.clamp(0, self.capacity - 1)
        enters = valid & (turn == opponent) & (scores >= weakness.gather(1, opponent))
        slot = weakest.gather(1, opponent)

        lands = enters[..., None] & (slot[..., None] == slots)  # [2, k, M]
        taken, winner = lands.any(1), lands.byte().argmax(1)
        new = candidates.gather(1, winner[..., None].expand(self.prototypes.shape))
        self.prototypes.copy_(torch.where(taken[..., None], new, self.prototypes))
        self.scores.copy_(torch.where(taken, scores, self.scores))
        self.dwell.masked_fill_(taken, 0)
        self.count.copy_((filled | taken).sum(1))
        if members is None:
            members = self.members.new_full((2, candidates.shape[1], MEMBERS), -1)
        nearest = members.gather(1, winner[..., None].expand(self.members.shape))
        self.members.copy_(torch.where(taken[..., None], nearest, self.members))
        for place, number in enumerate(when):
            self.entered[..., place].masked_fill_(taken, number)


def _nearest(candidates: Tensor, residual: Tensor, labels: Tensor, frames: Tensor) -> Tensor:
    """The frames of its class that are nearest to each candidate, the nearest first; -1 where the class has no more.

    Args:
        candidates: Of both classes, [2, k, D].
        residual: Features of the batch, [B, D].
        labels: [B].
        frames: Positions in the training list, [B].

    Returns:
        [2, k, MEMBERS]
    """
    distance = torch.cdist(candidates, residual.to(candidates.dtype).expand(2, -1, -1))  # [2, k, B]
    own = labels == torch.arange(2, device=labels.device)[:, None]
    distance = distance.masked_fill(~own[:, None], torch.inf)
    count = min(MEMBERS, len(frames))
    near, place = distance.masked_fill(distance.isnan(), torch.inf).sort(dim=-1, stable=True)
    found = torch.where(near[..., :count].isfinite(), frames[place[..., :count]], -1)
    return F.pad(found, (0, MEMBERS - count), value=-1)
