"""CLIP as a baseline: its image tower, fine-tuned with a linear classifier."""

from typing import Annotated

import torch
from open_clip.transformer import VisionTransformer
from pydantic import Field
from torch import Tensor, nn

from resproto_fd.detectors.base import Detector, Output, two_class_output
from resproto_fd.detectors.parts.clip_tower import FORGED_PROMPTS, REAL_PROMPTS, Backbone, load_clip
from resproto_fd.detectors.parts.deepfakebench_names import clip_vit
from resproto_fd.detectors.parts.sample_pairs import SamplePairContrast
from resproto_fd.detectors.registry import register
from resproto_fd.losses.global_batch import gather_rows


@register("clip")
class ClipClassifier(Detector):
    """Fine-tune CLIP's whole image tower under a linear classifier (Radford et al., ICML 2021).

    The classifier reads the projected embedding, not normalised. DeepfakeBench classifies the embedding before the
    projection: loading one of its checkpoints removes the projection.

    Args:
        backbone: See `clip_tower.Backbone`.
        pretrained: See `clip_tower.load_clip`.
        quick_gelu: See `clip_tower.load_clip`.
        sample_pairs: Also match each image with the prompts of its class, weighted by MFCLIP's sample pair attention
            (MFCLIP, Table VIII). The value is the largest batch of all processes together; None leaves this out.
    """

    def __init__(
        self,
        backbone: Backbone = "ViT-B-16",
        pretrained: str | None = "openai",
        quick_gelu: bool | None = None,
        sample_pairs: Annotated[int, Field(gt=0)] | None = None,
    ):
        super().__init__()
        self.clip = load_clip(backbone, pretrained, quick_gelu)
        self.pairs = None
        if sample_pairs is not None:
            self.register_buffer("text_features", self.clip.text_features([REAL_PROMPTS, FORGED_PROMPTS]))
            self.pairs = SamplePairContrast(sample_pairs)
            self.couples_batch = True
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
        own = {"clip.logit_scale": self.clip.logit_scale.data, "clip.quick_gelu": torch.tensor(True)}
        tower = {f"clip.visual.{key}": value for key, value in clip_vit(state).items()}
        rest = {key.replace("head.", "classifier."): v for key, v in state.items() if not key.startswith("backbone.")}
        return own | tower | rest

    def encode(self, images: Tensor) -> Tensor:
        return self.clip(images)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        output = two_class_output(self.classifier(features), features, labels)
        if self.pairs is not None and labels is not None:
            output.losses["cmc"] = self.pairs(gather_rows(features), self.text_features[gather_rows(labels)])
            output.losses["total"] = output.losses["total"] + output.losses["cmc"]
        return output
