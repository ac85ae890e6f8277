"""ResProto-FD: visual-language residual learning with gradient-aware residual prototypes (equations 1 to 12).

Legend: B batch, D embedding size, H and W pixels; class 0 real, 1 forged.
"""

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import NonNegative, Positive
from resproto_fd.detectors.base import Detector, Output
from resproto_fd.detectors.parts.clip_tower import FORGED_PROMPTS, REAL_PROMPTS, Backbone, load_clip
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


@register("resproto_fd")
class ResProtoFD(Detector):
    """Train CLIP on the residual of image and text features, and score by stored prototypes (Jing, Zheng and Peng).

    The residual is the image feature minus the text feature of its class. The defaults are the paper's. Only the image
    tower and logit_scale train.

    Args:
        backbone: See `clip_tower.Backbone`.
        pretrained: See `clip_tower.load_clip`.
        quick_gelu: See `clip_tower.load_clip`.
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
        keep_text_tower: Keep the frozen text tower in memory and in checkpoints; scoring does not need it.
    """

    def __init__(
        self,
        backbone: Backbone = "ViT-B-16",
        pretrained: str | None = "openai",
        quick_gelu: bool | None = None,
        prompts: dict[Literal["real", "forged"], list[str]] | None = None,
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
        keep_text_tower: bool = False,
    ):
        super().__init__()
        self.clip = load_clip(backbone, pretrained, quick_gelu)
        self.clip.text.requires_grad_(False)
        texts = {"real": REAL_PROMPTS, "forged": FORGED_PROMPTS, **(prompts or {})}
        self.register_buffer("text_features", self.clip.text_features([texts["real"], texts["forged"]]))
        if not keep_text_tower:
            self.clip.drop_text()

        self.residual_weight = residual_weight if residual else 0.0
        self.similarity = similarity
        self.prior = loss == "rl"
        # With equal class counts and no regulariser the residual loss is plain cross-entropy.
        self.loss = ResidualLoss([1, 1], omega1, omega2 if loss == "rl" else 0.0)
        self.memory = PrototypeMemory(capacity, self.clip.embed_dim, gamma) if grp else None
        self.clusters, self.top_k, self.temperature = clusters, top_k, temperature
        self.first_epoch = start_epoch
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
        self.collects = self.memory is not None and epoch >= self.first_epoch

    @torch.no_grad()
    def after_step(self) -> None:
        self.clip.logit_scale.clamp_(max=math.log(MAX_TEMPERATURE))

    def encode(self, images: Tensor) -> Tensor:
        """Image embeddings, not normalised, [B, D]."""
        return self.clip(images)

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
            variants["grp"] = self.memory.score(features, self.top_k, self.temperature).float()
        return Output(variants.get("grp", variants["clip"]), logits, features, losses, variants)

    def diagnostics(self) -> dict[str, Tensor]:
        """tau, its inverse, and the memory's figures (`PrototypeMemory.diagnostics`)."""
        tau = temperature(self.clip.logit_scale.detach())
        memory = {} if self.memory is None else self.memory.diagnostics()
        return {"tau": tau, "text_image_temperature": 1 / tau, **{f"memory/{k}": v for k, v in memory.items()}}

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
            self.memory.collect(everyone, all_labels, scores, self.clusters)
        return self.loss.terms(gather_rows(logits), all_labels)
