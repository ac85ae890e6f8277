"""C2P-CLIP: an adapted CLIP that also learns to match images with texts of their category.

Source: Tan et al., "C2P-CLIP: Injecting Category Common Prompt in CLIP to Enhance Generalization in Deepfake
Detection", AAAI 2025.

Legend: B batch, D embedding size, T tokens of a text, N images of all processes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import Detector, Output, two_class_output
from resproto_fd.detectors.parts.clip_tower import Backbone, load_clip
from resproto_fd.detectors.parts.lora import add_lora
from resproto_fd.detectors.registry import register
from resproto_fd.losses.global_batch import gather_rows
from resproto_fd.losses.precision import at_least_float32

PROMPTS = ("Camera", "Deepfake")
"""Category common prompts of real and fake images."""


@register("c2p_clip")
class C2PClip(Detector):
    """Adapt CLIP with LoRA and match images with texts that name their category (Tan et al., AAAI 2025).

    The loss is cross-entropy of a linear classifier on the unit embedding, plus a contrast between images and texts.
    The text of an image is the prompt of its category, followed by its description if there is one. Texts are used
    only in training.

    Args:
        backbone, pretrained, quick_gelu: See `clip_tower.load_clip`; a ViT of open_clip.
        rank, alpha, dropout, targets: See `lora.add_lora`.
        contrast: Weight of the contrast; 0 removes the texts and their tower.
        prompts: The prompts of real and of fake images.
        captions: Ask for descriptions. Without descriptions the prompts are used alone.

    Raises:
        UserError: As `load_clip` and `add_lora`.
    """

    def __init__(
        self,
        backbone: Backbone = "ViT-L-14",
        pretrained: str | None = "openai",
        quick_gelu: bool | None = None,
        rank: int = 6,
        alpha: float = 6.0,
        dropout: float = 0.8,
        targets: Sequence[str] = ("q_proj", "k_proj", "v_proj"),
        contrast: float = 1.0,
        prompts: Sequence[str] = PROMPTS,
        captions: bool = True,
    ):
        super().__init__()
        self.clip = load_clip(backbone, pretrained, quick_gelu)
        self.clip.requires_grad_(False)
        add_lora(self.clip.visual, rank, alpha, dropout, targets)
        if not contrast:
            self.clip.drop_text()
        self.classifier = nn.Linear(self.clip.embed_dim, 2)
        nn.init.normal_(self.classifier.weight, std=0.02)
        self.contrast, self.prompts = contrast, list(prompts)
        self.couples_batch = bool(contrast)
        self.requires = frozenset({"captions_facial"} if captions and contrast else ())

    def encode(self, images: Tensor) -> Tensor:
        return self.clip(images)

    def head(
        self,
        features: Tensor,
        labels: Tensor | None = None,
        captions_facial: Sequence[str] | None = None,
        **fields: Tensor,
    ) -> Output:
        """See `Detector.head`; descriptions are B texts, "" if there is none."""
        units = F.normalize(at_least_float32(features), dim=-1)
        output = two_class_output(self.classifier(units), features, labels)
        if labels is not None and self.contrast:
            tokens, texts = self._texts(labels, captions_facial)
            scale = self.clip.logit_scale.exp()
            found = contrast(gather_rows(units), gather_rows(texts.to(units.dtype)), gather_rows(tokens), scale)
            output.losses = {"ce": output.losses["total"], "contrast": found}
            output.losses["total"] = output.losses["ce"] + self.contrast * found
        return output

    @torch.no_grad()
    def _texts(self, labels: Tensor, captions: Sequence[str] | None) -> tuple[Tensor, Tensor]:
        """Tokens of each image's text, [B, T], and its unit embedding, [B, D]; equal texts are encoded once."""
        said = captions or [""] * len(labels)
        sentences = [
            f"{self.prompts[label]} {caption}".strip() for label, caption in zip(labels.tolist(), said, strict=True)
        ]
        tokens = self.clip.tokenizer(sentences).to(labels.device)
        distinct, place = tokens.unique(dim=0, return_inverse=True)
        self.clip.text.eval()
        return tokens, F.normalize(at_least_float32(self.clip.text(distinct)), dim=-1)[place]


def contrast(images: Tensor, texts: Tensor, tokens: Tensor, scale: Tensor) -> Tensor:
    """Contrast of images and texts as in CLIP, where equal texts count as one text.

    If all texts differ, it is CLIP's loss: the mean of two cross-entropies whose targets are the pairs.

    Args:
        images, texts: Unit vectors, [N, D].
        tokens: [N, T].
        scale: Factor of the cosines.
    """
    distinct, place = tokens.unique(dim=0, return_inverse=True)
    ours = texts.new_zeros(len(distinct), texts.shape[1]).index_put((place,), texts)
    with torch.autocast(images.device.type, enabled=False):  # half precision is too coarse at a scale of 100
        cosines = scale * images @ ours.T
    of_texts = cosines.log_softmax(dim=0).gather(1, place[:, None]).mean()
    return (F.cross_entropy(cosines, place) - of_texts) / 2
