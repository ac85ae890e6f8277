"""ResProto-FD: visual-language residual learning with gradient-aware residual prototypes (equations 1 to 12).

Legend: B batch, D embedding size, H and W pixels; class 0 real, 1 forged.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import NonNegative, Positive
from resproto_fd.detectors.base import Output, onto
from resproto_fd.detectors.parts.clip_detector import ClipDetector
from resproto_fd.detectors.parts.clip_tower import Prompts
from resproto_fd.detectors.parts.prototype_memory import PrototypeMemory
from resproto_fd.detectors.registry import register
from resproto_fd.losses.global_batch import gather_rows
from resproto_fd.losses.precision import at_least_float32
from resproto_fd.losses.residual import (
    MAX_TEMPERATURE,
    ResidualLoss,
    gradient_scores,
    residual_features,
    similarity,
    similarity_logits,
    temperature,
)

ORIGINS = ("members", "entered")


@register("resproto_fd")
class ResProtoFD(ClipDetector):
    """Train CLIP on the residual of image and text features, and score by stored prototypes (Jing, Zheng and Peng).

    The residual is the image feature minus the text feature of its class. The defaults are the paper's. Only the image
    tower and logit_scale train.

    Args:
        prompts: Texts of the two classes; None means Table 1 of the paper.
        residual: Use f_res = f - lambda * t_y (equation 1); False uses f itself everywhere.
        residual_weight: lambda.
        similarity: "cosine", or "dot" as the released code does.
        loss: "rl" (eqs 3-7), or "ce", plain cross-entropy on the same logits.
        omega1: Weight of the squared negative term in the regulariser.
        omega2: Weight of the regulariser.
        grp: Collect prototypes and score with them.
        capacity: M, prototypes kept of each class.
        clusters: K-means centres of a batch's forged residual features.
        gamma: Decay of a prototype's score per update of its class.
        start_epoch: First epoch that collects prototypes, counting from 0; 2 in the released code, not in the paper.
        top_k: K, the number of prototypes that an image is compared with.
        temperature: Temperature of the softmax over those K; 0.1 in the released code.
        neighbours: Whether these K are the most similar of both classes ("nearest", the paper), or the K / 2 most
            similar of each class ("balanced"). While the memory is not full, nearest leans to the class that has more
            prototypes (see `PrototypeMemory.score`).
        keep_text_tower: Keep the frozen text tower in memory and in checkpoints; scoring does not need it.
        clip: `backbone`, `pretrained` and `quick_gelu`, see `ClipDetector`.
    """

    def __init__(
        self,
        prompts: Prompts | None = None,
        residual: bool = True,
        residual_weight: float = 0.3,
        similarity: Literal["cosine", "dot"] = "cosine",
        loss: Literal["rl", "ce"] = "rl",
        omega1: float = 0.1,
        omega2: float = 0.1,
        grp: bool = True,
        capacity: Positive = 64,
        clusters: Positive = 4,
        gamma: Annotated[float, Field(gt=0, le=1)] = 0.99,
        start_epoch: NonNegative = 2,
        top_k: Positive = 64,
        temperature: Annotated[float, Field(gt=0)] = 1.0,
        neighbours: Literal["nearest", "balanced"] = "nearest",
        keep_text_tower: bool = False,
        **clip,
    ):
        super().__init__(**clip)
        self.clip.text.requires_grad_(False)
        self.register_buffer("text_features", self.clip.class_features(prompts))
        if not keep_text_tower:
            self.clip.drop_text()

        self.residual_weight = residual_weight if residual else 0.0
        self.similarity = similarity
        self.prior = loss == "rl"
        # With equal class counts and no regulariser the residual loss is plain cross-entropy.
        self.loss = ResidualLoss([1, 1], omega1, omega2 if loss == "rl" else 0.0)
        self.memory = PrototypeMemory(capacity, self.clip.embed_dim, gamma) if grp else None
        if neighbours == "balanced" and top_k < 2:
            raise UserError(f"model.neighbours=balanced: expected model.top_k of at least 2, got {top_k}")
        self.clusters, self.top_k, self.temperature = clusters, top_k, temperature
        self.balanced = neighbours == "balanced"
        self.first_epoch = start_epoch
        self.batch_frames: Tensor | None = None
        self.epoch, self.step = 0, -1
        self.couples_batch = loss == "rl" or grp
        self.start_epoch(0)

    def start_training(self, class_counts: Tensor) -> None:
        """Set the class prior of the loss; see `Detector.start_training`.

        Raises:
            UserError: A class has no training frame, so that the residual loss has no prior for it.
        """
        if self.prior:
            try:
                self.loss.set_class_counts(class_counts)
            except ValueError as error:
                raise UserError(f"ResProto-FD trains on real and fake frames: {error}") from error

    def start_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.collects = self.memory is not None and epoch >= self.first_epoch

    def start_step(self, step: int, frames: Tensor) -> None:
        self.step, self.batch_frames = step, onto(frames, self.text_features)

    def origins(self) -> dict[str, Tensor]:
        """`members` and `entered` of the memory, see `PrototypeMemory`."""
        return {} if self.memory is None else {name: getattr(self.memory, name) for name in ORIGINS}

    def set_origins(self, origins: Mapping[str, Tensor]) -> None:
        for name, own in self.origins().items():
            found = origins.get(name)
            if isinstance(found, Tensor) and found.shape == own.shape and not found.is_floating_point():
                own.copy_(found)

    @torch.no_grad()
    def after_step(self) -> None:
        self.clip.logit_scale.clamp_(max=math.log(MAX_TEMPERATURE))

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        """Scores, and with labels also the loss; training may update the memory.

        In training with labels, `logits` are those of equation 2, from the residual of the given class. Otherwise they
        use no label and try each class k: tau * sim(f - lambda * t_k, t_k); k = 1 is Score_clip (equation 12). In
        evaluation, `scores` are Score_GRP as soon as the memory holds both classes. Before that they are Score_clip,
        mapped linearly to [0, 1]. `variants` has "clip", and "grp" if it exists.
        """
        features = F.normalize(at_least_float32(features), dim=-1)
        tau = temperature(self.clip.logit_scale)
        similarities = self._similarity_if(features)
        logits, losses = tau * similarities, None
        if labels is not None:
            residual = residual_features(features, self.text_features, labels, self.residual_weight)
            own_logits = similarity_logits(residual, self.text_features, tau, self.similarity)
            if self.training:
                logits = own_logits
                losses = self._train_on(residual, own_logits, labels, tau)
            else:
                losses = self.loss.terms(own_logits, labels)

        offset = self.residual_weight if self.similarity == "dot" else 0.0
        variants = {"clip": ((similarities[:, 1] + offset + 1) / 2).clamp(0, 1).float()}
        if not self.training and self.memory is not None and self.memory.ready:
            variants["grp"] = self.memory.score(features, self.top_k, self.temperature, self.balanced).float()
        return Output(variants.get("grp", variants["clip"]), logits, features, losses, variants)

    def diagnostics(self) -> dict[str, Tensor]:
        """tau, its inverse, and the memory's figures (`PrototypeMemory.diagnostics`)."""
        tau = temperature(self.clip.logit_scale.detach())
        memory = {} if self.memory is None else self.memory.diagnostics()
        return {"tau": tau, "text_image_temperature": 1 / tau, **{f"memory/{k}": v for k, v in memory.items()}}

    def notes(self) -> list[str]:
        """See `Detector.notes`: whether the memory is full."""
        if self.memory is None:
            return []
        (real, forged), size = self.memory.count.tolist(), self.memory.capacity
        if min(real, forged) == size:
            return []
        if not (real and forged):
            return [f"no prototypes of both classes are stored ({real} real, {forged} forged): scores are Score_clip"]
        lopsided = (
            "; Score_GRP leans to the larger class, so read AUC rather than accuracy, or set model.neighbours=balanced"
        )
        return [
            f"the prototype memory holds {real} of {size} real and {forged} of {size} forged prototypes"
            f"{lopsided if real != forged and not self.balanced else ''}"
        ]

    @torch.no_grad()
    def residual_map(self, images: Tensor) -> Tensor:
        """How much more each patch is like a forged face than like a real one, [B, h, w].

        Of each patch token of a ViT, projected as the class token is, the residual for either class is compared with
        that class's text: sim(f - lambda * t_1, t_1) - sim(f - lambda * t_0, t_0), as equation 2 does with the face.

        Raises:
            UserError: The image tower is no ViT of open_clip.
        """
        tower = self.clip.require_vit("the residual map")
        tokens = tower.forward_intermediates(images, indices=1, normalize_intermediates=True, intermediates_only=True)
        maps = tokens["image_intermediates"][-1].flatten(2).transpose(1, 2)  # [B, N, W]
        features = F.normalize(at_least_float32(maps if tower.proj is None else maps @ tower.proj), dim=-1)
        similarities = self._similarity_if(features.flatten(0, 1))
        side = math.isqrt(features.shape[1])
        return (similarities[:, 1] - similarities[:, 0]).view(len(images), side, -1)

    def _similarity_if(self, features: Tensor) -> Tensor:
        """sim(f - lambda * t_k, t_k) of each image under the assumption of each class k, [B, 2]."""
        residual = features[:, None] - self.residual_weight * self.text_features
        return similarity(residual, self.text_features, self.similarity).diagonal(dim1=1, dim2=2)

    def _train_on(self, residual: Tensor, logits: Tensor, labels: Tensor, tau: Tensor) -> dict[str, Tensor]:
        # The loss and the prototypes are those of the global batch.
        all_labels = gather_rows(labels)
        if self.collects:
            everyone = gather_rows(residual.detach())
            scores = gradient_scores(everyone, self.text_features, tau, all_labels, self.loss, self.similarity)
            frames = None if self.batch_frames is None else gather_rows(self.batch_frames)
            self.memory.collect(everyone, all_labels, scores, self.clusters, frames, (self.epoch, self.step))
        self.batch_frames = None  # of this batch alone
        return self.loss.terms(gather_rows(logits), all_labels)
