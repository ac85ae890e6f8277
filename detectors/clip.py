"""CLIP as a baseline: its image tower, fine-tuned with a linear classifier."""

from typing import Annotated

import torch
from open_clip.transformer import VisionTransformer
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import Positive
from resproto_fd.detectors.base import Output
from resproto_fd.detectors.parts.clip_detector import ClipDetector
from resproto_fd.detectors.parts.forgery_texts import LEVELS, sentences, vocabulary
from resproto_fd.detectors.parts.sample_pairs import SamplePairContrast
from resproto_fd.detectors.registry import register
from resproto_fd.losses.global_batch import gather_rows


@register("clip")
class ClipClassifier(ClipDetector):
    """Fine-tune CLIP's whole image tower under a linear classifier (Radford et al., ICML 2021).

    The classifier reads the projected embedding, not normalised. DeepfakeBench classifies the embedding before the
    projection: loading one of its checkpoints removes the projection.

    Args:
        sample_pairs: Also match each image with the prompts of its class (MFCLIP, Table VIII). The value is the largest
            batch of all processes together; None switches this off.
        attention: Weigh these pairs by MFCLIP's sample pair attention; otherwise the contrast is CLIP's own.
        levels: Match images with the first of MFCLIP's fine-grained sentences, 1 to 4, instead (MFCLIP, Figure 8a). The
            text is the mean of the sentences' embeddings, which the paper does not say; it needs `sample_pairs`.
        clip: `backbone`, `pretrained` and `quick_gelu`, see `ClipDetector`.
    """

    def __init__(
        self,
        sample_pairs: Positive | None = None,
        attention: bool = True,
        levels: Annotated[int, Field(ge=1, le=4)] | None = None,
        **clip,
    ):
        super().__init__(**clip)
        if levels is not None and sample_pairs is None:
            raise UserError(f"clip: model.levels={levels} needs model.sample_pairs; set it to train.batch_size")
        self.pairs, self.levels = None, LEVELS[: levels - 1] if levels else None
        if sample_pairs is not None:
            self.pairs = SamplePairContrast(sample_pairs, attention)
            self.couples_batch = True
        if levels is not None:
            self.vocabulary, self.requires = vocabulary(), frozenset(self.levels)
            self._encode_sentences()
        elif sample_pairs is not None:
            self.register_buffer("text_features", self.clip.class_features())
        self.clip.drop_text()
        self.clip.logit_scale.requires_grad_(False)
        self.classifier = nn.Linear(self.clip.embed_dim, 2)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Detector.from_deepfakebench`; only for a ViT."""
        visual = self.clip.visual
        if not isinstance(visual, VisionTransformer):
            return super().from_deepfakebench(state)
        visual.proj = None
        self.classifier = nn.Linear(visual.class_embedding.numel(), 2).to(self.classifier.weight)
        return self.named_here(state)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        output = super().head(features, labels)
        if self.pairs is not None and labels is not None:
            texts = self.text_features[labels] if self.levels is None else self.texts(labels, fields)
            output.add_loss("cmc", self.pairs(gather_rows(features), gather_rows(texts)))
        return output

    def texts(self, labels: Tensor, fields: dict[str, Tensor]) -> Tensor:
        """Mean embedding of each image's sentences, [B, D]; `fields` are indices into the vocabulary, [B] each."""
        rows = [self.sentences_label[labels]]
        for name in self.levels:
            if fields.get(name) is not None:
                found = self.get_buffer(f"sentences_{name}")[fields[name]]
                rows.append(torch.where((found == 0).all(dim=-1, keepdim=True), rows[0], found))
        return sum(rows) / len(rows)

    @torch.no_grad()
    def _encode_sentences(self) -> None:
        """Keep the embeddings of all sentences as buffers; 0 stands for a sentence that is the first level's."""
        for name, texts in sentences().items():
            if name == "label" or name in self.levels:
                found = self.clip.text.eval()(self.clip.tokenizer(texts))
                told = torch.tensor([bool(text) for text in texts])
                self.register_buffer(f"sentences_{name}", F.normalize(found, dim=-1) * told[:, None])
