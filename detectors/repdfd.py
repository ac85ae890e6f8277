"""RepDFD: frozen CLIP, reprogrammed by a learnt border around the face and by texts that contain the face.

Source: Lin et al., "Standing on the Shoulders of Giants: Reprogramming Visual-Language Model for General Deepfake
Detection", AAAI 2025.

Legend: B batch, D embedding size, W width of the text tower, T tokens of a text, S CLIP's side in pixels.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.base import Output, two_class_output
from resproto_fd.detectors.parts.clip_detector import ClipDetector
from resproto_fd.detectors.parts.clip_tower import Backbone
from resproto_fd.detectors.registry import register
from resproto_fd.losses.precision import at_least_float32

WORD = "*"
"""The word of a text that the face replaces."""


@register("repdfd")
class RepDFD(ClipDetector):
    """Reprogram frozen CLIP by a learnt border and texts that contain the face (Lin et al., AAAI 2025).

    The score is a softmax over the cosines of the bordered image with two texts: one of a real face, and one of this
    face as a fake. Only the border trains. The paper embeds the face with a face recogniser (TransFace); here CLIP's
    embedding of the plain image replaces it. A fixed random projection turns the embedding into a word.

    Args:
        backbone: See `clip_tower.Backbone`; the text tower must be open_clip's own.
        share: Side of the face within the border, as a share of S.
        real: The text of a real face.
        fake: The text of a fake face; the face replaces its `*`.
        clip: `pretrained` and `quick_gelu`, see `ClipDetector`.

    Raises:
        UserError: As `ClipDetector`; the text tower is of another kind; or `fake` has no `*` or several.
    """

    def __init__(
        self,
        backbone: Backbone = "ViT-L-14",
        share: Annotated[float, Field(gt=0, lt=1)] = 0.7,
        real: str = "A real photo of a person",
        fake: str = f"A fake photo of a {WORD} person",
        **clip,
    ):
        super().__init__(backbone, **clip)
        self.freeze("clip")
        width = self.clip.require_words("repdfd")
        tokens = self.clip.tokenizer([real, fake])
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("word", tokens[1] == self.clip.tokenizer([WORD])[0, 1], persistent=False)
        if fake.split().count(WORD) != 1:
            raise UserError(f"repdfd: expected model.fake with one {WORD}, in the place of the face, got '{fake}'")
        self.register_buffer("projection", torch.randn(width, self.clip.embed_dim) / width)
        side = self.clip.visual.image_size
        side = side if isinstance(side, int) else side[0]
        self.inner = int(side * share)
        self.margin = (side - self.inner + 1) // 2
        self.border = nn.Parameter(torch.zeros(3, side, side))

    def encode(self, images: Tensor) -> Tensor:
        """Unit embeddings of the bordered image, the real text and the fake text: [B, 3, S, S] -> [B, 3 D]"""
        with torch.no_grad():
            real, fake = self.texts(self.clip(images))
        parts = self.clip(self.bordered(images)), real, fake
        return torch.cat([F.normalize(at_least_float32(part), dim=-1) for part in parts], dim=-1)

    def bordered(self, images: Tensor) -> Tensor:
        """The shrunk image within the border: [B, 3, S, S] -> the same shape."""
        small = F.interpolate(images, (self.inner, self.inner), mode="bilinear", antialias=True)
        after = images.shape[-1] - self.inner - self.margin
        padding = (self.margin, after, self.margin, after)
        return F.pad(small, padding) + self.border * (1 - F.pad(torch.ones_like(small[0]), padding))

    def texts(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of the texts of a real and of a fake face, [B, D] each.

        Args:
            faces: Embeddings of the faces, [B, D].
        """
        words = faces @ self.projection.T.to(faces.dtype)
        real = self.clip.text(self.tokens[:1]).expand(len(faces), -1)
        return real, self.clip.text_with(self.tokens[1:].expand(len(faces), -1), self.word, words[:, None])

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        image, real, fake = at_least_float32(features).chunk(3, dim=-1)
        cosines = torch.stack([(image * real).sum(dim=-1), (image * fake).sum(dim=-1)], dim=1)
        return two_class_output(self.clip.logit_scale.exp() * cosines, features, labels)
