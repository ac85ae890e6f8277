"""Visual-language residual learning: residual features, logits and the loss (ResProto-FD, eqs 1-8 and 12).

Class 0 is real, class 1 forged. All computations are in at least float32, also under autocast: the formulas avoid
matrix products, which autocast would run in half precision and TF32 would round.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resproto_fd.losses.precision import at_least_float32

SIMILARITIES = ("cosine", "dot")
MAX_TEMPERATURE = 100.0  # CLIP's bound on tau


def residual_features(features: Tensor, text: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Residual feature of each image, f - weight * t_y, not normalised again (eq 1; eq 12 with all labels 1).

    Args:
        features: L2-normalised image features f, [B, D].
        text: L2-normalised text features t_0 (real) and t_1 (forged), [2, D].
        labels: 0 real, 1 forged, [B].
        weight: lambda of the paper.

    Returns:
        [B, D]
    """
    return at_least_float32(features) - weight * at_least_float32(text)[labels]


def similarity(features: Tensor, text: Tensor, kind: str = "cosine") -> Tensor:
    """Similarity of features [..., B, D] with the unit text features [2, D], [..., B, 2].

    Args:
        kind: "cosine" (the paper) or "dot", which does not divide by |features| (the released code).

    Raises:
        ValueError: The kind is unknown.
    """
    if kind not in SIMILARITIES:
        raise ValueError(f"expected similarity {' or '.join(SIMILARITIES)}, got {kind!r}")
    features = at_least_float32(features)
    if kind == "cosine":
        features = F.normalize(features, dim=-1)
    return (features[..., None, :] * at_least_float32(text)).sum(-1)


def temperature(logit_scale: Tensor) -> Tensor:
    """tau = exp(logit_scale), at most 100, as CLIP bounds it.

    The gradient is that of exp also at the bound. OpenAI's weights are at the bound, and a plain clamp would keep
    logit_scale there for ever.
    """
    tau = at_least_float32(logit_scale).exp()
    return tau - (tau.detach() - MAX_TEMPERATURE).clamp(min=0)


def similarity_logits(residual: Tensor, text: Tensor, tau: Tensor | float, kind: str = "cosine") -> Tensor:
    """Logits z_k = tau * sim(f_res, t_k) of residual features [..., B, D], [..., B, 2] (eq 2)."""
    return tau * similarity(residual, text, kind)


class ResidualLoss(nn.Module):
    """Cross-entropy with the class prior, and a regulariser that pulls the class logits apart (eqs 3-7).

    With equal class counts and omega2 = 0 it is plain cross-entropy.

    Args:
        class_counts: N^(c), training frames of each class, real first; whole numbers, both above 0.
        omega1: Weight of the square of the negative term.
        omega2: Weight of the regulariser.

    Raises:
        ValueError: A class count is missing, not whole or not above 0.
    """

    def __init__(self, class_counts: Sequence[float] | Tensor, omega1: float = 0.1, omega2: float = 0.1):
        super().__init__()
        self.omega1, self.omega2 = omega1, omega2
        # Whole numbers, so that .half() or .double() of the model cannot change the prior.
        self.register_buffer("class_counts", torch.ones(2, dtype=torch.long))
        self.set_class_counts(class_counts)

    def set_class_counts(self, class_counts: Sequence[float] | Tensor) -> None:
        """Set N^(c).

        Raises:
            ValueError: As the constructor.
        """
        counts = class_counts.tolist() if isinstance(class_counts, Tensor) else list(class_counts)
        if len(counts) != 2 or any(not math.isfinite(n) or n != int(n) or n <= 0 for n in counts):
            raise ValueError(f"expected class_counts of training frames [real, forged], both above 0, got {counts}")
        self.class_counts.copy_(torch.tensor(counts))

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The training loss, a scalar: mean CE of the batch + omega2 * sum of p^(c) * L_reg^(c).

        Args:
            logits: z, [B, 2]; under data parallelism those of the global batch.
            labels: 0 real, 1 forged, [B].
        """
        return self.terms(logits, labels)["total"]

    def terms(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The training loss "total" and its terms "cross_entropy" and "regulariser" (before omega2), scalars."""
        z, log_prior, member = self._prepared(logits, labels)
        cross_entropy = F.cross_entropy(z + log_prior, labels)
        regulariser = (self._regulariser(z, log_prior, member) * log_prior.exp()).sum(-1)
        total = cross_entropy + self.omega2 * regulariser
        return {"total": total, "cross_entropy": cross_entropy, "regulariser": regulariser}

    def per_class(self, logits: Tensor, labels: Tensor) -> Tensor:
        """L^(c) = L_ce^(c) + omega2 * L_reg^(c), for the prototype score (eq 7), [2]; 0 for a class not in the batch.

        Args:
            logits: z, [B, 2].
            labels: 0 real, 1 forged, [B].
        """
        z, log_prior, member = self._prepared(logits, labels)
        log_likelihood = torch.log_softmax(z + log_prior, dim=-1)
        cross_entropy = -(log_likelihood * member).sum(0) / member.sum(0).clamp(min=1)
        return cross_entropy + self.omega2 * self._regulariser(z, log_prior, member)

    def own_gradient(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Gradient of `per_class` of each sample's own class with respect to its logits, in closed form, [B, 2].

        Row i is d L^(c) / d z_i with c = y_i. Arguments as for `per_class`.
        """
        z, log_prior, member = self._prepared(logits, labels)
        count = member.sum(0)
        slope = 1 + 2 * self.omega1 * self._z_neg(z, log_prior)
        regulariser = slope * torch.softmax(z - log_prior, dim=0) - 1 / (count + 1e-9)  # of the class's own column
        cross_entropy = (torch.softmax(z + log_prior, dim=-1) - member) / count[labels, None]
        return cross_entropy + self.omega2 * member * regulariser

    def _prepared(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z [B, 2], log p [2] and the membership of the classes [B, 2]."""
        if logits.shape != (len(labels), 2):
            raise ValueError(f"expected logits [{len(labels)}, 2] for {len(labels)} labels, got {list(logits.shape)}")
        z = at_least_float32(logits)
        log_prior = self.class_counts.to(z.dtype).log().log_softmax(0)  # a softmax of logarithms is a share
        return z, log_prior, _membership(labels, z.dtype)

    def _z_neg(self, z: Tensor, log_prior: Tensor) -> Tensor:
        return torch.logsumexp(z - log_prior, dim=0) - math.log(2 * len(z))  # 2 is 1 / b

    def _regulariser(self, z: Tensor, log_prior: Tensor, member: Tensor) -> Tensor:
        """L_reg^(c), [2]."""
        count = member.sum(0)
        z_pos = (z * member).sum(0) / (count + 1e-9)
        z_neg = self._z_neg(z, log_prior)
        return (z_neg + self.omega1 * z_neg.square() - z_pos) * (count > 0)


def _membership(labels: Tensor, dtype: torch.dtype) -> Tensor:
    return (labels[:, None] == torch.arange(2, device=labels.device)).to(dtype)


@torch.no_grad()
def gradient_scores(
    residual: Tensor, text: Tensor, tau: Tensor | float, labels: Tensor, loss: ResidualLoss, kind: str = "cosine"
) -> Tensor:
    """Prototype score g^(c) = || dL^(c) / dF_res || over the rows of class c; 0 for a class not in the batch (eq 8).

    The closed form needs no second pass through the encoder and no backward pass, and the host need not wait.

    Args:
        residual: Residual features, [B, D].
        text: Text features, [2, D].
        tau: The temperature itself, not its logarithm.
        labels: 0 real, 1 forged, [B].
        loss: The loss whose `per_class` is differentiated.
        kind: Similarity, "cosine" or "dot".

    Returns:
        [2], without gradient.
    """
    residual, text = at_least_float32(residual), at_least_float32(text)
    by_class = tau * loss.own_gradient(similarity_logits(residual, text, tau, kind), labels)  # dL / d sim, [B, 2]
    gradient = (by_class[..., None] * text).sum(1)  # [B, D]
    if kind == "cosine":  # the part along the feature does not change a cosine
        length = torch.linalg.vector_norm(residual, dim=-1, keepdim=True).clamp(min=1e-12)
        direction = residual / length
        gradient = (gradient - (gradient * direction).sum(-1, keepdim=True) * direction) / length
    square = gradient.square().sum(-1, keepdim=True)
    return (square * _membership(labels, square.dtype)).sum(0).sqrt()
