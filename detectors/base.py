"""What every detector is: images in, scores (and losses, where labels are given) out.

Legend: B batch, C classes (0 real, 1 fake), D feature size, H and W pixels.
"""

from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional as F

from ..configs.errors import UserError
from ..losses.residual import at_least_float32


@dataclass(eq=False)
class Output:
    """What a detector says about a batch.

    Attributes:
        scores: P(fake) in [0, 1], float32, [B]; never dependent on labels, batch size or order.
        logits: [B, C].
        features: What the scores are made from, [B, D].
        losses: "total", which is trained on, and its terms, scalars; None without labels.
        variants: Other scores of the same images by name, [B] each, so that an ablation of the scoring rule needs
            no second pass over the images.
    """

    scores: Tensor
    logits: Tensor
    features: Tensor
    losses: dict[str, Tensor] | None = None
    variants: dict[str, Tensor] = field(default_factory=dict)


class Detector(nn.Module):
    """Base of all detectors; a subclass gives `encode` and `head`.

    Everything that matters is in `state_dict`, loadable with `weights_only=True`; evaluation alters none of it.

    Attributes:
        requires: Further fields of the batch that the data set must provide (masks, domains, ...); they reach
            `head` as keywords.
        couples_batch: The loss is no mean over samples, so that micro-batches cannot simply be averaged: gradient
            accumulation then computes `head` on the features of the whole batch.
    """

    requires: frozenset[str] = frozenset()
    couples_batch: bool = False

    def encode(self, images: Tensor) -> Tensor:
        """Features [B, D] of normalised images [B, 3, H, W]: the costly part, each image by itself."""
        raise NotImplementedError

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        """Everything after `encode`; in training with labels [B] it may also update the detector's memory.

        Detached features serve too: their gradient can be sent through `encode` afterwards.
        """
        raise NotImplementedError

    def forward(self, images: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        """Scores of normalised images [B, 3, H, W], and losses where labels [B] are given."""
        return self.head(self.encode(images), labels, **fields)

    def start_training(self, class_counts: Tensor) -> None:
        """Called once before the first epoch with the numbers of real and fake training frames, [2]."""

    def start_epoch(self, epoch: int) -> None:
        """Called before each epoch, counting from 0, and after a resume within one."""

    def after_step(self) -> None:
        """Called after each optimiser step (a parameter kept in its range, a teacher that follows)."""

    def checkpoint_activations(self) -> None:
        """Trades time for memory: activations of the backbone are computed again in the backward pass.

        Raises:
            UserError: No part of this detector knows how.
        """
        able = [part for part in self.modules() if part is not self and hasattr(part, "set_grad_checkpointing")]
        if not able:
            raise UserError(f"train.checkpoint_activations: {type(self).__name__} has no backbone that can do it")
        try:
            able[0].set_grad_checkpointing(True)
        except (AssertionError, NotImplementedError) as error:
            raise UserError(f"train.checkpoint_activations: {type(able[0]).__name__}: {error}") from error

    def diagnostics(self) -> dict[str, Tensor]:
        """Scalars worth plotting; stays on the device."""
        return {}


def two_class_output(logits: Tensor, features: Tensor, labels: Tensor | None = None) -> Output:
    """Output of a plain classifier: softmax over (real, fake), cross-entropy where labels are given.

    Args:
        logits: [B, 2].
        features: [B, D].
        labels: 0 real, 1 fake, [B].
    """
    logits = at_least_float32(logits)
    losses = None if labels is None else {"total": F.cross_entropy(logits, labels)}
    return Output(logits.softmax(dim=-1)[:, 1].float(), logits, features, losses)
