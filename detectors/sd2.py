"""SD2: CLIP with low-rank adapters, matched with texts of five kinds of face and with descriptions.

Source: "A Rich Knowledge Space for Scalable Deepfake Detection"; equation, table and section
numbers are the paper's.

Legend: B batch, C types (real, face swap, reenactment, entire synthesis, editing), L layers, W width, D embedding size.
"""

from collections.abc import Sequence
from functools import cache, partial
from importlib.resources import files
from typing import Literal

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from resproto_fd.configs.loading import load_yaml
from resproto_fd.configs.schema import Positive
from resproto_fd.detectors.base import Output, onto
from resproto_fd.detectors.parts.clip_detector import ClipDetector
from resproto_fd.detectors.parts.clip_tower import Backbone, Clip
from resproto_fd.detectors.parts.cross_layer_attention import CrossLayerAttention
from resproto_fd.detectors.parts.lora import ATTENTION, add_lora
from resproto_fd.detectors.registry import register
from resproto_fd.losses.global_batch import gather_rows
from resproto_fd.losses.precision import at_least_float32, without_autocast
from resproto_fd.losses.siglip import siglip_loss

TYPES = ("real", "face swap", "reenactment", "entire synthesis", "editing")
UNKNOWN = "unknown"
CLIP_SCALE = 1 / 0.07
"""CLIP's tau before training."""


@cache
def text_labels() -> dict[str, list[str]]:
    """Texts of each type, the simple one first (Tables 9 to 13)."""
    return load_yaml(files("resproto_fd.configs") / "sd2_labels.yaml")


@register("sd2")
class SD2(ClipDetector):
    """Match images with texts of five forgery types and with descriptions (A Rich Knowledge Space, under review).

    The score is 1 - P(real) of the softmax over the types' simple texts. Section 5.1 calls an image real if real has
    the highest logit: the variant "argmax" is above 0.5 where it has not, so that its accuracy is the paper's. `logits`
    are those of that softmax, with the fakes' joined by log-sum-exp. An image that is only
    known to be fake (type "unknown", or no types given) trains on that sum. L_C is the mean over the batch, as in
    Algorithm 1 (equation 3 has a sum). L_S is the squared Frobenius norm over the five types (equation 4; Algorithm 1
    has a mean over a matrix of B texts). L_D is equation 5 divided by the number of images (Algorithm 1); an image
    without a description is in none of its pairs.

    Args:
        backbone: See `clip_tower.Backbone`. Adapters need a ViT of open_clip; `clam` also works with its ResNets.
        lora_rank: r of both towers; None trains all their weights.
        lora_alpha: The adapters' output is scaled by alpha / r.
        lora_dropout: Dropout of the adapters' input.
        lora_targets: Adapted layers; the paper does not name them.
        clam: Whether attention reads the class tokens of all layers (Table 5).
        clam_heads: H; None means the image tower's. The paper gives none.
        labels: "all" draws a text of each type for every batch; "simple" always uses the first.
        scale: tau before training; the default is CLIP's initial value, None means the pretrained model's.
        alpha: Weight of L_C (equation 6).
        separation: Weight of L_S; 1 in the paper, which reports that training fails without it.
        facial: Whether L_D uses descriptions of the face (Table 5).
        environmental: Whether L_D uses descriptions of the surroundings (Table 5).
        texts_at_once: Descriptions that the text tower encodes at a time. With more in a batch, its activations are
            computed again in the backward pass, one portion after the other, which saves memory.
        clip: `pretrained` and `quick_gelu`, see `ClipDetector`.

    Raises:
        UserError: As `ClipDetector`, `Clip.layers` and `add_lora`.
    """

    couples_batch = True

    def __init__(
        self,
        backbone: Backbone = "ViT-L-14",
        lora_rank: int | None = 8,
        lora_alpha: float = 32.0,
        lora_dropout: float = 0.1,
        lora_targets: Sequence[str] = ATTENTION,
        clam: bool = True,
        clam_heads: int | None = None,
        labels: Literal["all", "simple"] = "all",
        scale: float | None = CLIP_SCALE,
        alpha: float = 2.0,
        separation: float = 1.0,
        facial: bool = True,
        environmental: bool = True,
        texts_at_once: Positive = 64,
        **clip,
    ):
        super().__init__(backbone, **clip)
        if scale is not None:
            nn.init.constant_(self.clip.logit_scale, torch.tensor(scale).log())
        self.bias = nn.Parameter(-self.clip.logit_scale.detach().exp())
        self.clam = _cross_layer(self.clip, clam_heads) if clam else None
        if lora_rank is not None:
            for tower in (self.clip.visual, self.clip.text):
                add_lora(tower, lora_rank, lora_alpha, lora_dropout, lora_targets)
        self.alpha, self.separation, self.texts_at_once = alpha, separation, texts_at_once
        texts = [text_labels()[name][: None if labels == "all" else 1] for name in TYPES]
        self.register_buffer("label_counts", torch.tensor([len(part) for part in texts]), persistent=False)
        longest = max(map(len, texts))
        padded = [self.clip.tokenizer(part + part[:1] * (longest - len(part))) for part in texts]
        self.register_buffer("label_tokens", torch.stack(padded), persistent=False)
        self.vocabulary = {"forgery_type": [*TYPES, UNKNOWN]}
        self.described = [name for name, used in (("facial", facial), ("environmental", environmental)) if used]
        self.requires = frozenset(["forgery_type", *(f"captions_{name}" for name in self.described)])
        self.register_buffer("captioned", torch.zeros(()), persistent=False)

    def encode(self, images: Tensor) -> Tensor:
        return super().encode(images) if self.clam is None else self.clam(*self.clip.layers(images))

    def head(
        self,
        features: Tensor,
        labels: Tensor | None = None,
        forgery_type: Tensor | None = None,
        captions_facial: Sequence[str] | None = None,
        captions_environmental: Sequence[str] | None = None,
        **fields: Tensor,
    ) -> Output:
        """See `Detector.head`.

        Args:
            features: f, [B, D].
            labels: [B].
            forgery_type: Index into the vocabulary, [B].
            captions_facial, captions_environmental: A description of each image, "" if there is none.
        """
        scale, features = self.clip.logit_scale.exp(), at_least_float32(features)
        texts = F.normalize(at_least_float32(self.clip.text(self._drawn_labels())), dim=-1)
        with without_autocast(features):
            types, alike = scale * (F.normalize(features, dim=-1) @ texts.T), texts @ texts.T
        logits = torch.stack([types[:, 0], types[:, 1:].logsumexp(dim=1)], dim=1)
        scores = logits.softmax(dim=-1)[:, 1].float()
        variants = {"argmax": (types[:, 1:].amax(dim=1) - types[:, 0]).sigmoid().float()}
        if labels is None:
            return Output(scores, logits, features, variants=variants)
        if forgery_type is None:
            forgery_type = labels * len(TYPES)
        given = {"facial": captions_facial, "environmental": captions_environmental}
        losses = {
            "classification": classification_loss(gather_rows(types), gather_rows(forgery_type)),
            "separation": (alike - torch.eye(len(TYPES), device=alike.device)).square().sum(),
            "contrast": sum(self._contrast(features, given[name], scale) for name in self.described) + 0 * self.bias,
        }
        total = self.alpha * losses["classification"] + self.separation * losses["separation"] + losses["contrast"]
        return Output(scores, logits, features, {"total": total, **losses}, variants)

    def _drawn_labels(self) -> Tensor:
        """Tokens of a text of each type, [C, T]: a random one in training, otherwise the simple one."""
        if not self.training:
            return self.label_tokens[:, 0]
        drawn = torch.rand(len(TYPES), device=self.label_counts.device, dtype=torch.float64)
        chosen = (drawn * self.label_counts).long()
        return self.label_tokens[torch.arange(len(TYPES), device=chosen.device), chosen]

    def _contrast(self, features: Tensor, captions: Sequence[str] | None, scale: Tensor) -> Tensor:
        """L_D of one kind of description over the global batch (equation 5)."""
        if captions is None:
            return features.new_zeros(())
        present = gather_rows(onto(torch.tensor([float(bool(text)) for text in captions]), features))
        if self.training:
            self.captioned.copy_(present.mean())
        parts = onto(self.clip.tokenizer(list(captions)), features).split(self.texts_at_once)
        run = partial(checkpoint, use_reentrant=False) if len(parts) > 1 else lambda tower, part: tower(part)
        texts = gather_rows(at_least_float32(torch.cat([run(self.clip.text, part) for part in parts])))
        return siglip_loss(gather_rows(features), texts, scale, self.bias, present)

    @torch.no_grad()
    def matrices(self, images: Tensor, labels: Tensor, **fields: Tensor) -> dict[str, Tensor]:
        """Cosines of the types' mean texts (Figure 4), and of the first five texts of each type (Figure 5)."""
        found, means = {}, []
        for name, tokens, count in zip(TYPES, self.label_tokens, self.label_counts.tolist(), strict=True):
            units = F.normalize(at_least_float32(self.clip.text(tokens[:count])), dim=-1)
            means.append(units.mean(dim=0))
            found[f"texts of {name}"] = units[:5] @ units[:5].T
        across = F.normalize(torch.stack(means), dim=-1)
        return {"texts across types": across @ across.T, **found}

    def diagnostics(self) -> dict[str, Tensor]:
        return {
            "scale": self.clip.logit_scale.detach().exp(),
            "bias": self.bias.detach(),
            "captioned": self.captioned,
        }


def _cross_layer(clip: Clip, heads: int | None) -> CrossLayerAttention:
    visual = clip.visual
    if isinstance(visual, VisionTransformer):
        blocks = visual.transformer.resblocks
        return CrossLayerAttention(
            [block.attn.embed_dim for block in blocks], clip.embed_dim, heads or blocks[0].attn.num_heads
        )
    size = visual.image_size if isinstance(visual.image_size, Sequence) else (visual.image_size, visual.image_size)
    with torch.no_grad():
        layers, _ = clip.eval().layers(torch.zeros(1, 3, *size))
    clip.train()
    return CrossLayerAttention([layer.shape[1] for layer in layers], clip.embed_dim, heads or visual.attnpool.num_heads)


def classification_loss(types: Tensor, targets: Tensor) -> Tensor:
    """L_C (equation 3): mean of -log P(type); an unknown forgery uses the sum over all fakes.

    Args:
        types: Logits tau * sim, [B, C].
        targets: Type of each image, C for an unknown forgery, [B].

    Returns:
        A scalar.
    """
    chances = types.log_softmax(dim=-1)
    fake = chances[:, 1:].logsumexp(dim=1, keepdim=True)
    return -torch.cat([chances, fake], dim=1).gather(1, targets[:, None]).mean()
