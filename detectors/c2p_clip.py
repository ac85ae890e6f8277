"""C2P-CLIP: an adapted CLIP that also learns to match images with texts of their category.

Source: Tan et al., "C2P-CLIP: Injecting Category Common Prompt in CLIP to Enhance Generalization in Deepfake
Detection", AAAI 2025.

Legend: B batch, D embedding size, T tokens of a text, N images of all processes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import Output, onto, two_class_output
from resproto_fd.detectors.parts.clip_detector import LoraClip
from resproto_fd.detectors.registry import register
from resproto_fd.losses.global_batch import gather_rows
from resproto_fd.losses.precision import at_least_float32, without_autocast

PROMPTS = ("Camera", "Deepfake")
"""Category common prompts of real and fake images."""


@register("c2p_clip")
class C2PClip(LoraClip):
    """Adapt CLIP with LoRA and match images with texts that name their category (Tan et al., AAAI 2025).

    The loss is cross-entropy of a linear classifier on the unit embedding, plus a contrast between images and texts.
    The text of an image is the prompt of its category, followed by its description if there is one. Texts are used
    only in training.

    Args:
        rank, alpha, dropout, targets: See `lora.add_lora`.
        contrast: Weight of the contrast; 0 removes the texts and their tower.
        prompts: The prompts of real and of fake images.
        captions: Ask for descriptions. Without descriptions the prompts are used alone.
        clip: `backbone`, `pretrained` and `quick_gelu`, see `LoraClip`.

    Raises:
        UserError: As `LoraClip`.
    """

    def __init__(
        self,
        rank: int = 6,
        alpha: float = 6.0,
        dropout: float = 0.8,
        targets: Sequence[str] = ("q_proj", "k_proj", "v_proj"),
        contrast: float = 1.0,
        prompts: Sequence[str] = PROMPTS,
        captions: bool = True,
        **clip,
    ):
        super().__init__(rank=rank, alpha=alpha, dropout=dropout, targets=targets, **clip)
        if not contrast:
            self.clip.drop_text()
        nn.init.normal_(self.classifier.weight, std=0.02)
        self.contrast, self.prompts = contrast, list(prompts)
        self.couples_batch = bool(contrast)
        self.requires = frozenset({"captions_facial"} if captions and contrast else ())

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
        """Tokens of each image's text, [B, T], and its unit embedding, [B, D].

        Without descriptions there are two texts. The label is on the device: both texts of an image are made, and the
        device chooses.
        """
        given = captions if captions and any(captions) else [""]
        both = [self.clip.tokenizer([f"{prompt} {text}".strip() for text in given]) for prompt in self.prompts]
        both = onto(torch.stack(both), labels)  # [2, B or 1, T]
        self.clip.text.eval()
        if len(given) == 1:
            units = F.normalize(at_least_float32(self.clip.text(both[:, 0])), dim=-1)
            return both[labels, 0], units[labels]
        tokens = both[labels, torch.arange(len(labels), device=labels.device)]
        return tokens, F.normalize(at_least_float32(self.clip.text(tokens)), dim=-1)


def contrast(images: Tensor, texts: Tensor, tokens: Tensor, scale: Tensor) -> Tensor:
    """Contrast of images and texts as in CLIP, where equal texts count as one text.

    If all texts differ, it is CLIP's loss: the mean of two cross-entropies whose targets are the pairs.

    Args:
        images, texts: Unit vectors, [N, D].
        tokens: [N, T].
        scale: Factor of the cosines.
    """
    equal = (tokens[:, None] == tokens).all(dim=-1)
    place = equal.byte().argmax(dim=1)  # the first text that equals an image's own stands for all of them
    repeated = place != torch.arange(len(tokens), device=tokens.device)
    with without_autocast(images):  # half precision is too coarse at a scale of 100
        cosines = scale * images @ texts.T
    of_texts = cosines.log_softmax(dim=0).gather(1, place[:, None]).mean()
    return (F.cross_entropy(cosines.masked_fill(repeated, float("-inf")), place) - of_texts) / 2
