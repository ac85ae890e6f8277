"""The base class of all detectors: images in, scores out, and losses if labels are given.

Legend: B batch, C classes (0 real, 1 fake), D feature size, H and W pixels, T frames of a clip.

A detector of clips (`Detector.clips`) gets images [B, T, 3, H, W] wherever others get [B, 3, H, W]; B counts clips.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from resproto_fd.configs.errors import UserError, WrongInput
from resproto_fd.detectors.weights import load_all, unwrapped
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

    def add_loss(self, name: str, loss: Tensor, weight: float = 1.0) -> None:
        """Note a further term of the training loss, a scalar, and add it to "total", times its weight."""
        self.losses[name] = loss
        self.losses["total"] = self.losses["total"] + weight * loss

    def add_losses(self, losses: "Losses") -> None:
        """Note what `Detector.encode_with_losses` gave, and add its weighted sum to "total"."""
        self.losses |= {name: loss for name, (loss, _) in losses.items()}
        if losses:
            self.losses["total"] = self.losses["total"] + weighted_sum(losses)


Losses = Mapping[str, tuple[Tensor, float]]
"""Terms of a loss, scalars, and their weights."""


def weighted_sum(losses: Losses) -> Tensor:
    """Sum of the terms times their weights."""
    return sum(weight * loss for loss, weight in losses.values())


@dataclass(eq=False)
class Encoded:
    """Images whose features are known already: it stands for them where a detector is called.

    Attributes:
        features: What `Detector.encode` gave for the images, [B, D].
    """

    features: Tensor

    def __len__(self) -> int:
        return len(self.features)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Encoded":
        """Moves it to a device."""
        return Encoded(self.features.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "Encoded":
        """Copies it to pinned memory, from which a GPU is fed without waiting."""
        return Encoded(self.features.pin_memory())


class Step(Protocol):
    """Precision and differentiation of a training step, provided by the trainer."""

    def autocast(self) -> AbstractContextManager:
        """The context in which losses are computed."""

    def backward(self, loss: Tensor) -> None:
        """Adds the gradient of a scalar loss to the parameters' `grad`, scaled as the recipe requires."""


class Detector(nn.Module):
    """Base class of all detectors; a subclass defines `encode`, and a `classifier` or a `head` of its own.

    `state_dict` contains the whole state and loads with `weights_only=True`. Evaluation does not change it.

    Attributes:
        clips: Whether the detector takes clips, images [B, T, 3, H, W]; T is `input.frames`, at least 2. The facts of a
            clip are those of its video; of the companions a clip has landmarks alone, [B, T, K, 2].
        names_code: Keywords of the constructor that name code to import. They are taken from the command line alone;
            from a YAML, a run folder or a checkpoint only with --trust-code.
        requires: Further fields of the batch that the data set must provide in training (see `trainer.fields` and
            `trainer.companions`); they reach `head` as keywords, and are absent in testing.
        vocabulary: For each such field that is a fact of the manifest ("domain", "method", "forgery_type", "family"),
            its values: the field is the index among them.
        on_host: Those of `requires` that stay in the host's memory, so that shapes may depend on their values without
            waiting for the device.
        keywords_from_data: Keywords of the constructor that a run fills in where `model:` gives none, and with what:
            "train_sets" (names of the training sets), "train_methods" (methods of the training frames, if the default
            lacks one), or "epochs" (of the recipe).
        couples_batch: The loss is not a mean over samples, so that micro-batches cannot simply be averaged: gradient
            accumulation then computes `head` on the features of the whole batch. A class that has further losses in
            its `forward` returns them from `encode_with_losses`.
        steps_alone: `training_step` is more than the gradient of a loss, so that it cannot be accumulated over
            micro-batches.
        frozen: Names of the parts that `freeze` has stopped.
        fixed_encoder: Names of the parts and tensors that `encode` reads, if none of them ever changes and `encode`
            does the same in training and evaluation: an image then needs to be encoded only once (`run.encode_once`).
            `forward` and `training_step` must be those of this class. Empty: the encoder trains.
        map_parts: Names of the parts that read the picture side by side; an explanation shows the last maps of each.
            Empty: of the whole. None: no layer's maps have the places of the picture.
    """

    clips: ClassVar[bool] = False
    names_code: ClassVar[tuple[str, ...]] = ()
    requires: frozenset[str] = frozenset()
    vocabulary: Mapping[str, Sequence[str]] = {}
    on_host: frozenset[str] = frozenset()
    keywords_from_data: ClassVar[Mapping[str, str]] = {}
    couples_batch: bool = False
    steps_alone: bool = False
    frozen: tuple[str, ...] = ()
    fixed_encoder: tuple[str, ...] = ()
    map_parts: tuple[str, ...] | None = ()

    def encode(self, images: Tensor) -> Tensor:
        """Features [B, D] of normalised images [B, 3, H, W]: the costly part, each image (or clip) by itself."""
        raise NotImplementedError

    def encode_with_losses(self, images: Tensor, labels: Tensor, **fields: Tensor) -> tuple[Tensor, Losses]:
        """What `encode` gives, and the terms of the training loss that need more of the images than these features.

        They are means over samples, each with its weight in the sum: name -> (scalar, weight).
        """
        return self.encode(images), {}

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        """Everything after `encode`; in training with labels [B] it may also update the detector's memory.

        This one classifies the features by `self.classifier`, [B, D] -> [B, 2], and trains with cross-entropy. The
        features may be detached: their gradient can be sent through `encode` afterwards.
        """
        return two_class_output(self.classifier(features), features, labels)

    def forward(self, images: Tensor | Encoded, labels: Tensor | None = None, **fields: Tensor) -> Output:
        """Scores of normalised images [B, 3, H, W], and losses where labels [B] are given."""
        return self.head(features_of(self, images), labels, **fields)

    def training_step(
        self, model: nn.Module, step: Step, images: Tensor, labels: Tensor, **fields: Tensor
    ) -> dict[str, Tensor]:
        """Compute the gradients of one training step and leave them in the parameters' `grad`; the trainer then steps.

        A method that takes a step of its own (an inner update before the gradient) overrides this.

        Args:
            model: This detector, or its wrapper for data parallelism.
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

    def freeze(self, part: str) -> None:
        """Stop a part from training: no gradients, and always in evaluation mode.

        Args:
            part: Name of a child module.
        """
        self.get_submodule(part).requires_grad_(False).eval()
        self.frozen = (*self.frozen, part)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self.frozen:
            self.get_submodule(part).eval()
        return self

    def start_training(self, class_counts: Tensor) -> None:
        """Called once before the first epoch with the numbers of real and fake training frames, [2]."""

    def start_epoch(self, epoch: int) -> None:
        """Called before each epoch, counting from 0, and after a resume within one."""

    def start_step(self, step: int, frames: Tensor) -> None:
        """Called before each training step.

        Args:
            step: Its number in the run, counting from 0.
            frames: Positions in the training list of this process's frames, in the order of the batch, [B].
        """

    def origins(self) -> dict[str, Tensor]:
        """Where the parts of the memory come from, as whole numbers; empty for a detector without a memory.

        "members": positions in the training list, -1 for none. No score depends on it, and it is no part of the state:
        checkpoints keep it beside.
        """
        return {}

    def set_origins(self, origins: Mapping[str, Tensor]) -> None:
        """Take what `origins` gave. Parts of another shape, or of a detector without a memory, are ignored."""

    def after_step(self) -> None:
        """Called after each optimiser step (a parameter kept in its range, a teacher that follows)."""

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename a DeepfakeBench checkpoint's tensors for this detector, without those that have no effect.

        Where DeepfakeBench's architecture differs, this may change the detector to that form.

        Raises:
            UserError: DeepfakeBench has no such detector.
        """
        raise UserError(f"{type(self).__name__} has no counterpart in DeepfakeBench: its checkpoints do not fit")

    def from_older(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Tensors of a checkpoint without those that an older version of this class saved and this one lacks."""
        return state

    def from_authors(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """Rename the tensors of a checkpoint that the method's own authors published, or of the plain network.

        Where their architecture differs, this may change the detector to that form.

        Returns:
            None if the names are not those of such a checkpoint.

        Raises:
            UserError: The checkpoint is recognised, and this detector cannot take it.
        """
        return None

    def load_foreign(self, state: Mapping[str, Tensor]) -> str:
        """Load all tensors of another code's checkpoint that have an effect, and no others.

        Args:
            state: As DeepfakeBench or the method's authors saved it, with or without the prefixes of wrappers before
                its keys, and with or without the index tables that older versions of its libraries saved.

        Returns:
            What it is, in words.

        Raises:
            UserError: There is no such detector there, or the checkpoint is of another detector; the message names
                the first keys that do not fit.
        """
        state = {key: v for key, v in unwrapped(state, self.state_dict()).items() if not key.endswith("position_ids")}
        what, named = "checkpoint of the method's authors", self.from_authors(state)
        if named is None:
            what, named = "DeepfakeBench checkpoint", self.from_deepfakebench(state)
        load_all(self, named, what)
        return what

    def load_deepfakebench(self, state: Mapping[str, Tensor]) -> Self:
        """Load a checkpoint of DeepfakeBench or of the method's authors; see `load_foreign`."""
        self.load_foreign(state)
        return self

    def checkpoint_activations(self) -> None:
        """Save memory: compute the backbone's activations again in the backward pass.

        Raises:
            UserError: No part of this detector can do this.
        """
        able = [part for part in self.modules() if part is not self and hasattr(part, "set_grad_checkpointing")]
        if not able:
            raise UserError(
                f"train.checkpoint_activations: no backbone of {type(self).__name__} can recompute activations; "
                "set it to false"
            )
        try:
            able[0].set_grad_checkpointing(True)
        except (AssertionError, NotImplementedError) as error:
            raise UserError(f"train.checkpoint_activations: {type(able[0]).__name__}: {error}") from error

    def notes(self) -> list[str]:
        """What a reader of this detector's scores must know about its state, one sentence each."""
        return []

    def matrices(self, images: Tensor, labels: Tensor, **fields: Tensor) -> dict[str, Tensor]:
        """Matrices that the method's paper shows as a picture, by title, [M, N] each; arguments as in `forward`."""
        return {}

    def predicted_map(self, images: Tensor) -> Tensor | None:
        """Where the method itself finds a forgery, or its boundary, in [0, 1], [B, h, w]; None if it predicts no map.

        Args:
            images: Normalised, [B, 3, H, W].
        """
        return None

    def diagnostics(self) -> dict[str, Tensor]:
        """Scalars for the log, by name, as tensors on the detector's device."""
        return {}


def features_of(detector: Detector, images: Tensor | Encoded) -> Tensor:
    """Features [B, D] of normalised images [B, 3, H, W], encoded by the detector if they are not known already."""
    return images.features if isinstance(images, Encoded) else detector.encode(images)


def onto(values: Tensor, like: Tensor) -> Tensor:
    """`values` on the device of `like`; the host does not wait for the copy."""
    return values.to(like.device, non_blocking=True)


def check_size(images: Tensor, size: int, name: str) -> None:
    """Check that images [B, 3, H, W] have the side for which a network was built.

    Args:
        name: Name of the network, for the message.

    Raises:
        WrongInput: The images have another size.
    """
    if images.shape[-2:] != (size, size):
        raise WrongInput(
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
