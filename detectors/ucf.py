"""UCF: forgery features, separated into common and method-specific ones."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.base import Detector, Output, two_class_output
from resproto_fd.detectors.parts.disentangling import METHODS, Classifier, Decoder, Encoder, Half
from resproto_fd.detectors.registry import register
from resproto_fd.losses.precision import at_least_float32

ONLY_FOR_TRAINING = re.compile(r"(encoder_c|con_gan|block_spe|head_spe)\..*")
UNKNOWN = -100
MARGIN = 3.0


@register("ucf")
class UCF(Detector):
    """Separate common from method-specific forgery features and score the common ones (Yan et al., ICCV 2023).

    A decoder reconstructs faces from both halves and another image's content. The three further losses need a partner
    for each image (a frame of the other class); the specific features also need the image's method. Without a partner
    the common features learn from the labels alone. The contrast stays within a micro-batch.

    Args:
        pretrained: See `TimmClassifier`; the weights of both encoders.
        multi_task: Build the networks of the further losses, and require partners and methods.
        methods: The methods of the training data, "real" among them.
        specific, reconstruction, contrastive: Weights of these losses (paper, section 3.4).
        swap: Probability that common features are exchanged within a class before faces are reconstructed.
        dropout: Dropout in the classifiers; the decoder's is 0.3.
        options: See `TimmClassifier`.

    Raises:
        UserError: `methods` does not contain "real".
    """

    keywords_from_data = {"methods": "train_methods"}

    def __init__(
        self,
        pretrained: bool | str | None = True,
        multi_task: bool = True,
        methods: Sequence[str] = METHODS,
        specific: Annotated[float, Field(ge=0)] = 0.1,
        reconstruction: Annotated[float, Field(ge=0)] = 0.3,
        contrastive: Annotated[float, Field(ge=0)] = 0.05,
        swap: Annotated[float, Field(ge=0, le=1)] = 0.7,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        options: dict[str, Any] | None = None,
    ):
        super().__init__()
        if "real" not in methods:
            raise UserError(f"ucf: expected 'real' in model.methods, got {', '.join(methods)}")
        self.multi_task, self.swap, self.real = multi_task, swap, list(methods).index("real")
        self.weights = {"specific": specific, "reconstruction": reconstruction, "contrastive": contrastive}
        self.requires = frozenset({"partner", "method"} if multi_task else ())
        self.vocabulary = {"method": list(methods)}
        self.encoder_f = Encoder(pretrained, options)
        self.block_sha, self.head_sha = Half(), Classifier(2, dropout)
        if multi_task:
            self.encoder_c, self.con_gan = Encoder(pretrained, options), Decoder()
            self.block_spe, self.head_spe = Half(), Classifier(len(methods), dropout)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        state = {key: value for key, value in state.items() if not re.match(r"encoder_[fc]\.last_linear\.", key)}
        if not self.multi_task:
            state = {key: value for key, value in state.items() if not ONLY_FOR_TRAINING.fullmatch(key)}
        own = re.compile(r"^(encoder_[fc])\.(?!adjust_channel\.)")
        return {own.sub(r"\1.backbone.", key): value for key, value in state.items()}

    def encode(self, images: Tensor) -> Tensor:
        return self.block_sha(self.encoder_f(images)).mean(dim=(2, 3))

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        return two_class_output(self.head_sha(features), features, labels)

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        partner: Tensor | None = None,
        method: Tensor | None = None,
        **fields: Tensor,
    ) -> Output:
        """See `Detector.forward`.

        Args:
            images: [B, 3, H, W]
            labels: [B]
            partner: A frame of the other class for each, [B, 3, H, W].
            method: Index into the vocabulary, [B].
        """
        if not self.multi_task or labels is None or partner is None:
            return super().forward(images, labels)
        fake = labels[:, None, None, None] == 1
        pairs = torch.cat([torch.where(fake, partner, images), torch.where(fake, images, partner)])
        classes = torch.arange(2, device=labels.device).repeat_interleave(len(labels))
        forgery, content = self.encoder_f(pairs), self.encoder_c(pairs)
        common, specific = self.block_sha(forgery), self.block_spe(forgery)
        shared, own = (at_least_float32(half.mean(dim=(2, 3))) for half in (common, specific))
        output = self.head(shared, classes)

        losses = {"common": output.losses["total"], "reconstruction": self._made_up(pairs, common, specific, content)}
        contrast = pair_contrast(shared, shuffled_within(classes))
        if method is not None:
            known = torch.cat([torch.full_like(method, self.real), method.where(labels == 1, UNKNOWN)])
            found = at_least_float32(self.head_spe(own))
            losses["specific"] = F.cross_entropy(found, known, ignore_index=UNKNOWN)
            contrast = contrast + pair_contrast(own, shuffled_within(known), known != UNKNOWN)
        losses["contrastive"] = contrast
        total = losses["common"] + sum(weight * losses[name] for name, weight in self.weights.items() if name in losses)
        given = torch.arange(len(labels), device=labels.device) + len(labels) * labels
        parts = (part[given] for part in (output.scores, output.logits, output.features))
        return Output(*parts, {"total": total, **losses})

    def _made_up(self, pairs: Tensor, common: Tensor, specific: Tensor, content: Tensor) -> Tensor:
        """Sum of four mean absolute errors: real and fake content, each with its own and with the other's forgery.

        The content determines which face is reconstructed.

        Args:
            pairs: Real images, then fakes, [2 B, 3, H, W].
            common, specific: Halves of their forgery features, [2 B, 256, h, w].
            content: [2 B, 512, h, w]
        """
        if torch.rand(()) < self.swap:
            classes = torch.arange(len(pairs), device=pairs.device) // (len(pairs) // 2)
            common = common[shuffled_within(classes)]
        style = torch.cat([specific, common], dim=1)
        crossed = style.roll(len(pairs) // 2, dims=0)
        faces = self.con_gan(torch.cat([style, crossed]), content.repeat(2, 1, 1, 1), pairs.shape[-2:])
        return 4 * (at_least_float32(faces) - pairs.repeat(2, 1, 1, 1)).abs().mean()


def shuffled_within(groups: Tensor) -> Tensor:
    """A random permutation [N] that keeps each position within its group [N]."""
    order = torch.randperm(len(groups), device=groups.device)
    members = order[groups[order].argsort(stable=True)]
    return torch.empty_like(members).scatter(0, groups.argsort(stable=True), members)


def pair_contrast(features: Tensor, order: Tensor, anchors: Tensor | None = None) -> Tensor:
    """Triplet losses of real images and of fakes: the same group should be nearer than the other class.

    Args:
        features: Features of the real images, then of the fakes, [2 B, D].
        order: Position of each positive example, [2 B]; the negative example is the partner's positive one.
        anchors: The positions that count, [2 B]; None means all.
    """
    found, total = features[order], 0.0
    for own, other in zip((slice(None, len(features) // 2), slice(len(features) // 2, None)), (1, 0), strict=True):
        negative = found.chunk(2)[other]
        losses = F.triplet_margin_loss(features[own], found[own], negative, margin=MARGIN, reduction="none")
        counts = torch.ones_like(losses) if anchors is None else anchors[own].to(losses.dtype)
        total = total + (losses * counts).sum() / counts.sum().clamp(min=1)
    return total
