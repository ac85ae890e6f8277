"""MFCLIP: an image encoder and a noise encoder, taught by texts about method, kind and generator of a forgery.

Source: "MFCLIP: Multi-modal Fine-grained CLIP for Generalizable Diffusion Face Forgery Detection"; equation, table
and section numbers are the paper's.

Legend: B batch, D embedding size, S side of a patch, T tokens of a text.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import open_clip
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import Normalisation
from resproto_fd.detectors.base import Detector, Output, onto
from resproto_fd.detectors.parts.cvit_backbone import CViTBackbone
from resproto_fd.detectors.parts.forgery_texts import FIRST as FIRST
from resproto_fd.detectors.parts.forgery_texts import KINDS, LEVELS, sentences, vocabulary
from resproto_fd.detectors.parts.noise_encoder import LanguageEncoder, NoiseEncoder
from resproto_fd.detectors.parts.sample_pairs import SamplePairContrast
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import load_pretrained
from resproto_fd.losses.global_batch import gather_rows
from resproto_fd.losses.precision import at_least_float32

SMOOTHING = 0.5
"""Temperature of the softmax of equation 13."""


@register("mfclip")
class MFCLIP(Detector):
    """Match faces and their noise with fine-grained texts about the forgery (Zhang et al., 2024).

    The losses are cross-entropy on X_v = X_i + N_n, the divergence of a language embedding predicted from X_v, and a
    contrast of images with their texts. Testing needs neither texts nor other images (equation 3).

    Decisions where the paper is silent: hidden sizes and heads are chosen here. A level that a label does not describe
    repeats the first level. A fifth kind, reenactment, and a third family, autoencoders, have sentences of the same
    form. Gradients of equation 13 flow into both distributions.

    Args:
        pretrained: A file of weights in this class's naming, or None for random weights, as in the paper.
        size: Side of the images.
        width: D.
        channels, image_depth, image_hidden: Sizes of the image encoder; the defaults are CViT's.
        patch: S (Table VII).
        noise_depth, noise_hidden: Number (B) and hidden width of the noise encoder's blocks.
        text_depth, text_hidden: Number (L) and hidden width of the language encoder's blocks.
        heads: Heads of every attention.
        levels: Levels of the texts: 4; 2 if methods have no family and generator (FF++); or as in Figure 8.
        pairs: Largest batch of sample pair attention, all processes together; set it to the training batch.
        place: See `SamplePairContrast`.
        noise, image, text, predictor, attention: Parts of Table VI: NE, IE, FTE, predictor (with L_kl, Table IX), SPA.
            Without predictor and contrast there is no language encoder either.
        contrast: Whether L_cmc is used (Table IX).
        normalisation: Name of the images' normalisation (`input.mean`).

    Raises:
        UserError: There is neither an image nor a noise encoder; or the weights do not fit.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        size: int = 224,
        width: int = 512,
        channels: Sequence[int] = (32, 64, 128, 256, 512),
        image_depth: int = 6,
        image_hidden: int = 2048,
        patch: int = 112,
        noise_depth: int = 3,
        noise_hidden: int = 512,
        text_depth: int = 6,
        text_hidden: int = 2048,
        heads: int = 8,
        levels: Annotated[int, Field(ge=1, le=4)] = 4,
        pairs: int = 24,
        place: Literal["before", "after"] = "before",
        noise: bool = True,
        image: bool = True,
        text: bool = True,
        predictor: bool = True,
        attention: bool = True,
        contrast: bool = True,
        normalisation: Normalisation = "half",
    ):
        super().__init__()
        if not (noise or image):
            raise UserError("mfclip: model.noise and model.image are both false; set one of them to true")
        self.image = CViTBackbone(size, width, channels, image_depth, heads, image_hidden) if image else None
        self.noise = NoiseEncoder(width, patch, noise_depth, heads, noise_hidden, normalisation) if noise else None
        self.classifier = nn.Linear(width, 2)
        text = text and (predictor or contrast)  # what no loss reads is not built
        self.text = LanguageEncoder(levels, width, text_depth, heads, text_hidden) if text else None
        self.predictor = nn.Linear(width, width) if text and predictor else None
        self.pairs = SamplePairContrast(pairs, attention, place) if text and contrast else None
        self.couples_batch = self.pairs is not None
        self.map_parts = ("image",) if image else None  # the noise encoder sees one patch, wherever that lies
        self.levels = levels
        self.vocabulary = vocabulary()
        self.requires = self.on_host = frozenset(LEVELS[: levels - 1] if text else ())
        for name, texts in sentences().items():
            tokens = open_clip.tokenize(texts)
            told = torch.tensor([bool(text) for text in texts])
            self.register_buffer(f"tokens_{name}", tokens * told[:, None], persistent=False)
        load_pretrained(self, pretrained)

    def from_older(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """See `Detector.from_older`: a language encoder that no loss read."""
        return state if self.text is not None else {k: v for k, v in state.items() if not k.startswith("text.")}

    def encode(self, images: Tensor) -> Tensor:
        """X_v, [B, D]."""
        return sum(part(images) for part in (self.image, self.noise) if part is not None)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        """See `Detector.head`; the fields are indices into the vocabulary, [B] each."""
        logits = at_least_float32(self.classifier(features))
        scores = logits.softmax(dim=-1)[:, 1].float()
        if labels is None:
            return Output(scores, logits, features)
        losses = {"ce": F.cross_entropy(logits, labels)}
        if self.text is not None:
            texts = at_least_float32(self._texts(labels, fields))
            if self.predictor is not None:
                losses["kl"] = divergence(texts, at_least_float32(self.predictor(features)))
            if self.pairs is not None:
                losses["cmc"] = self.pairs(gather_rows(at_least_float32(features)), gather_rows(texts))
        return Output(scores, logits, features, {"total": sum(losses.values()), **losses})

    @torch.no_grad()
    def matrices(self, images: Tensor, labels: Tensor, **fields: Tensor) -> dict[str, Tensor]:
        """Cosines of images and texts without and with sample pair attention (Figure 9a)."""
        if self.pairs is None:
            return {}
        plain, weighed = self.pairs.cosines(self.encode(images), self._texts(labels, fields))
        return {"cosines": plain, "weighed cosines": weighed}

    def sentences(self, labels: Tensor, fields: dict[str, Tensor]) -> Tensor:
        """Tokens of each image's sentences, one for each level, [B, levels, 77]."""
        first = self.tokens_label[labels]
        rows = [first]
        for name in LEVELS[: self.levels - 1]:
            if fields.get(name) is None:
                rows.append(first)
            else:
                tokens = self.get_buffer(f"tokens_{name}")[onto(fields[name], labels)]
                rows.append(torch.where(tokens[:, :1] == 0, first, tokens))
        return torch.stack(rows, dim=1)

    def _texts(self, labels: Tensor, fields: dict[str, Tensor]) -> Tensor:
        """T_l of each image, [B, D]; equal texts are encoded once.

        They are compared on the host, so that the device is not asked how many there are: a face whose kind is "real"
        has label 0, any other 1.
        """
        told = {name: fields[name].cpu() for name in LEVELS[: self.levels - 1] if fields.get(name) is not None}
        if not told:
            return self.text(self.sentences(torch.arange(2, device=labels.device), {}))[labels]
        if "forgery_type" not in told:
            return self.text(self.sentences(labels, fields))
        distinct, place = torch.stack(list(told.values()), dim=1).unique(dim=0, return_inverse=True)
        facts = dict(zip(told, distinct.unbind(dim=1), strict=True))
        of_each = (facts["forgery_type"] != list(KINDS).index("real")).long()
        return self.text(self.sentences(onto(of_each, labels), facts))[onto(place, labels)]


def divergence(texts: Tensor, predicted: Tensor) -> Tensor:
    """L_kl, equation 13: KL(delta(T_l) || delta(T_pre)), the mean over the batch; delta a softmax at temperature 0.5.

    Args:
        texts, predicted: [B, D].
    """
    wanted = (texts / SMOOTHING).log_softmax(dim=-1)
    found = (predicted / SMOOTHING).log_softmax(dim=-1)
    return F.kl_div(found, wanted, reduction="batchmean", log_target=True)
