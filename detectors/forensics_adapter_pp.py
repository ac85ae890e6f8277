"""Forensics Adapter++: Forensics Adapter, taught besides by texts about the forged regions of a face.

Source: Cui et al., "Forensics Adapter: Unleashing CLIP for Generalizable Face Forgery Detection", arXiv 2411.19715v3.

Legend: B batch, D embedding size, S side of a picture, K landmarks.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor

from resproto_fd.detectors.base import Output
from resproto_fd.detectors.forensics_adapter import ForensicsAdapter
from resproto_fd.detectors.parts.region_texts import RegionTexts, forged_regions, text_alignment
from resproto_fd.detectors.registry import register


@register("forensics_adapter_pp")
class ForensicsAdapterPP(ForensicsAdapter):
    """Teach Forensics Adapter by texts with learnt words, too, and keep CLIP's text tower frozen (Cui et al., 2025).

    A further loss aligns the image with a text of a real face, or with texts of the regions that its mask says are
    forged. Texts are used only in training: the score is Forensics Adapter's. The preset says what of this is the
    paper's.

    Args:
        words: Learnt words before each text.
        text_weight: Weight of the loss; 0 removes the texts and their tower. Else masks and landmarks are required.
        adapter: See `ForensicsAdapter`.

    Raises:
        UserError: As `ForensicsAdapter`; the text tower is not open_clip's own; there are too many words.
    """

    reads_texts = True

    def __init__(
        self,
        words: Annotated[int, Field(ge=1)] = 16,
        text_weight: Annotated[float, Field(ge=0)] = 1.5,
        **adapter,
    ):
        super().__init__(**adapter)
        self.text_weight = text_weight
        self.texts = RegionTexts(self.clip, words, "forensics_adapter_pp") if text_weight else None
        if text_weight:
            self.requires |= {"mask", "landmarks"}
        else:
            self.clip.drop_text()

    def head(
        self,
        features: Tensor,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
        landmarks: Tensor | None = None,
        **fields: Tensor,
    ) -> Output:
        """See `Detector.head`; with masks, [B, 1, S, S] in [0, 1], and landmarks, [B, K, 2], also the texts' loss."""
        output = super().head(features, labels)
        if labels is None or self.texts is None:
            return output
        if mask is None or landmarks is None:
            output.losses["total"] = output.losses["total"] + 0 * self.texts.words.sum()  # for data parallelism
        else:
            scale, forged = self.clip.logit_scale.exp(), forged_regions(mask, landmarks)
            loss = text_alignment(features, self.texts(self.clip), labels, forged, scale)
            output.add_loss("text", loss, self.text_weight)
        return output
