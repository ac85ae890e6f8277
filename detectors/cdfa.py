"""CDFA: a policy learns which forgery to make of each real face, and made forgeries take the place of a data set's own.

Legend: B batch, D feature size, K kinds of forgeries, H and W pixels.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import Output
from resproto_fd.detectors.parts.efficientnet_b4 import EfficientNetB4
from resproto_fd.detectors.registry import register
from resproto_fd.losses.precision import at_least_float32
from resproto_fd.losses.virtual_step import loss_after_step

KINDS = ("self_blended", "cross_blended", "self_shifted")
WIDTH = 128
"""Width of the policy's hidden layer."""


@register("cdfa")
class CDFA(EfficientNetB4):
    """Train on forgeries whose kinds a policy chooses, more of them in each epoch (Lin et al., ECCV 2024).

    In epoch t a fake is replaced with probability tanh(t / tau) by a forgery made from its real face. The policy, a
    small network, draws its kind from the features of this face. It learns to lower the loss of people who do not train
    the detector, after a step on all kinds, each weighted by its probability. The step is one of the classifier alone,
    from features in evaluation mode. Faces that do not share a micro-batch do not meet in it.

    Args:
        forgeries: Require partners, forgeries of real frames and people; without, the data set's own fakes alone train.
        epochs: Epochs of the run.
        pace: tau, as a share of the epochs.
        held_out: Of so many people, sorted by name, the last serves the policy alone. With fewer it cannot learn.
        rate: Length of the classifier's step, times its gradient.
        timm: `pretrained`, `dropout` and `options`, see `EfficientNetB4`.
    """

    keywords_from_data = {"epochs": "epochs"}

    def __init__(
        self,
        forgeries: bool = True,
        epochs: Annotated[int, Field(gt=0)] = 20,
        pace: Annotated[float, Field(gt=0)] = 0.5,
        held_out: Annotated[int, Field(ge=2)] = 10,
        rate: Annotated[float, Field(gt=0)] = 0.01,
        **timm,
    ):
        super().__init__(**timm)
        self.tau, self.held_out, self.rate = pace * epochs, held_out, rate
        self.share, self.policy_means = 0.0, None
        self.requires = frozenset({"partner", "target_identity", *KINDS} if forgeries else ())
        hidden = nn.Linear(self.classifier[1].in_features, WIDTH)
        self.policy = nn.Sequential(hidden, nn.ReLU(), nn.Linear(WIDTH, len(KINDS))) if forgeries else None

    def start_epoch(self, epoch: int) -> None:
        self.share = math.tanh(epoch / self.tau)

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        partner: Tensor | None = None,
        target_identity: Tensor | None = None,
        **fields: Tensor,
    ) -> Output:
        """See `Detector.forward`.

        Args:
            images: [B, 3, H, W]
            labels: [B]
            partner: A frame of the other class for each, [B, 3, H, W].
            target_identity: Whose video it is, [B].
            fields: Of each of `KINDS`, a forgery of the real one of the two, [B, 3, H, W].
        """
        if not self.training or labels is None or partner is None or target_identity is None:
            return super().forward(images, labels)
        kept = (target_identity % self.held_out != self.held_out - 1).float()
        made = torch.stack([fields[kind] for kind in KINDS])
        fake = labels == 1
        real = torch.where(fake[:, None, None, None], partner, images)
        seen = self._seen(torch.cat([real, images, made.flatten(0, 1)])).unflatten(0, (-1, len(images)))
        logits = at_least_float32(self.policy(seen[0]))
        chances = logits.softmax(dim=1)
        search, self.policy_means = self.search_loss(seen, labels, kept, chances), chances.detach().mean(dim=0)
        replaced = fake & (torch.rand(len(fake), device=fake.device) < self.share)
        picked = made[drawn(logits.detach()), torch.arange(len(fake), device=fake.device)]
        output = self.head(self.encode(torch.where(replaced[:, None, None, None], picked, images)))
        own = kept * F.cross_entropy(output.logits, labels, reduction="none")
        own = own.mean() * self.held_out / (self.held_out - 1)
        output.losses = {"total": own + search, "cross_entropy": own, "search": search}
        return output

    def search_loss(self, seen: Tensor, labels: Tensor, kept: Tensor, chances: Tensor) -> Tensor:
        """Loss of the people held out, after the classifier's step on real faces and forgeries of the others, a scalar.

        Args:
            seen: Features of the real faces, of the batch itself and of the forgeries of each kind, [2 + K, B, D].
            labels: Of the batch, [B].
            kept: 1 for people who train the detector, 0 for those held out, [B].
            chances: Probabilities of the kinds, [B, K]; the loss's gradient reaches them alone.
        """
        real, batch, forged = seen[0], seen[1], seen[2:]
        weights = torch.cat([torch.ones_like(chances[:, :1]), chances], dim=1).mT * kept / (2 * kept.sum()).clamp_min(1)
        classes = torch.zeros_like(weights, dtype=torch.long)
        classes[1:] = 1
        trained = torch.cat([real[None], forged]).flatten(0, 1), classes.flatten(), weights.flatten()
        return loss_after_step(self.classifier[1], trained, (batch, labels, 1 - kept), self.rate)

    def diagnostics(self) -> dict[str, Tensor]:
        """See `Detector.diagnostics`; the share of replaced fakes, and the policy's mean probabilities in a batch."""
        if self.policy_means is None:
            return {}
        means = dict(zip(KINDS, self.policy_means, strict=True))
        return {"replaced": self.policy_means.new_tensor(self.share), **means}

    @torch.no_grad()
    def _seen(self, images: Tensor) -> Tensor:
        """Features without gradient, in evaluation mode, float32."""
        self.eval()
        features = at_least_float32(self.encode(images))
        self.train()
        torch.clear_autocast_cache()  # some versions of PyTorch would train with what it keeps, without gradient
        return features


def drawn(logits: Tensor) -> Tensor:
    """Draw a kind for each row by the probabilities softmax(logits): [B, K] -> [B]"""
    return (logits - torch.empty_like(logits).exponential_().log()).argmax(dim=1)
