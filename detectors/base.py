"""The base class of all detectors: images in, scores out, and losses if labels are given.

Legend: B batch, C classes (0 real, 1 fake), D feature size, H and W pixels.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from resproto_fd.configs.errors import UserError
from resproto_fd.losses.precision import at_least_float32


@dataclass(eq=False)
class Output:
    """Result of a detector for a batch.

    Attributes:
        scores: P(fake) in [0, 1], float32, [B]; they never depend on labels, batch size or order.
        logits: [B, C].
        features: The features that the scores are computed from, [B, D].
        losses: "total", the training loss, and its terms, scalars; None without labels.
        variants: Other scores of the same images by name, [B] each. An ablation of the scoring rule then needs no
            second pass over the images.
    """

    scores: Tensor
    logits: Tensor
    features: Tensor
    losses: dict[str, Tensor] | None = None
    variants: dict[str, Tensor] = field(default_factory=dict)


class Step(Protocol):
    """Precision and differentiation of a training step, provided by the trainer."""

    def autocast(self) -> AbstractContextManager:
        """The context in which losses are computed."""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a scalar loss to the parameters' `grad`, scaled as the recipe requires."""


class Detector(nn.Module):
    """Base class of all detectors; a subclass defines `encode` and `head`.

    `state_dict` contains the whole state and loads with `weights_only=True`. Evaluation does not change it.

    Attributes:
        requires: Further fields of the batch that the data set must provide in training (see `trainer.fields` and
            `trainer.companions`); they reach `head` as keywords, and are absent in testing.
        vocabulary: For each such field that is a fact of the manifest ("domain", "method", "forgery_type", "family"),
            its values: the field is the index among them.
        keywords_from_data: Keywords of the constructor that a run fills in where `model:` gives none, and with what:
            "train_sets" (names of the training sets), "train_methods" (methods of the training frames, if the default
            lacks one), or "epochs" (of the recipe).
        couples_batch: The loss is no mean over samples, so that micro-batches cannot simply be averaged: gradient
            accumulation then computes `head` on the features of the whole batch.
        steps_alone: `training_step` is no mere gradient of a loss: it cannot be accumulated over micro-batches.
    """

    requires: frozenset[str] = frozenset()
    vocabulary: Mapping[str, Sequence[str]] = {}
    keywords_from_data: ClassVar[Mapping[str, str]] = {}
    couples_batch: bool = False
    steps_alone: bool = False

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

    def training_step(
        self, model: nn.Module, step: Step, images: Tensor, labels: Tensor, **fields: Tensor
    ) -> dict[str, Tensor]:
        """The gradients of one training step, left in the parameters' `grad`; the optimiser is not the detector's.

        A method that takes a step of its own (an inner update before the gradient) overrides this.

        Args:
            model: This detector as it is called in training: itself, or what makes it one of several processes.
            step: See `Step`.
            images: Normalised, [B, 3, H, W].
            labels: [B].
            fields: What `requires` asks for.

        Returns:
            "total" and its terms, scalars.
        """
        with step.autocast():
            losses = model(images, labels, **fields).losses
        step.backward(losses["total"])
        return losses

    def start_training(self, class_counts: Tensor) -> None:
        """Called once before the first epoch with the numbers of real and fake training frames, [2]."""

    def start_epoch(self, epoch: int) -> None:
        """Called before each epoch, counting from 0, and after a resume within one."""

    def after_step(self) -> None:
        """Called after each optimiser step (a parameter kept in its range, a teacher that follows)."""

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A DeepfakeBench checkpoint's tensors under this detector's own names; what has no part in it left out.

        The part of the architecture in which DeepfakeBench's differs may be changed to be as its is.

        Raises:
            UserError: DeepfakeBench has no such detector.
        """
        raise UserError(f"{type(self).__name__} has no counterpart in DeepfakeBench: its checkpoints do not fit")

    def load_deepfakebench(self, state: Mapping[str, Tensor]) -> Self:
        """Loads a DeepfakeBench checkpoint, every tensor that has an effect, and nothing else.

        Args:
            state: As DeepfakeBench saved it, with or without `module.` before its keys, and with or without the index
                tables that older versions of its libraries saved.

        Raises:
            UserError: DeepfakeBench has no such detector, or the checkpoint is of another; the first keys that do not
                fit are named.
        """
        from resproto_fd.detectors.weights import load_all

        parallel = state and all(key.startswith("module.") for key in state)
        state = {key.removeprefix("module.") if parallel else key: value for key, value in state.items()}
        state = {key: value for key, value in state.items() if not key.endswith("position_ids")}
        load_all(self, self.from_deepfakebench(state), "DeepfakeBench checkpoint")
        return self

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


def check_size(images: Tensor, size: int, name: str) -> None:
    """Check that images [B, 3, H, W] have the side for which a network was built.

    Args:
        name: Name of the network, for the message.

    Raises:
        UserError: The images have another size.
    """
    if images.shape[-2:] != (size, size):
        raise UserError(
            f"{name} expected images of {size} x {size}, got {tuple(images.shape[-2:])}; set model.size and input.size "
            "to the same number"
        )


def two_class_output(logits: Tensor, features: Tensor, labels: Tensor | None = None) -> Output:
    """Output of a plain classifier: softmax over (real, fake), and cross-entropy if labels are given.

    Args:
        logits: [B, 2].
        features: [B, D].
        labels: 0 real, 1 fake, [B].
    """
    logits = at_least_float32(logits)
    losses = None if labels is None else {"total": F.cross_entropy(logits, labels)}
    return Output(logits.softmax(dim=-1)[:, 1].float(), logits, features, losses)
