"""FatFormer: frozen CLIP with forgery-aware adapters, matched with texts that each image enhances.

Source: Liu et al., "Forgery-aware Adaptive Transformer for Generalizable Synthetic Image Detection", CVPR 2024, and its
authors' code; equation numbers are the paper's.

Legend: B batch, L patches, D embedding size.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from resproto_fd.configs.schema import Positive, Share
from resproto_fd.detectors.base import Output, two_class_output
from resproto_fd.detectors.parts.clip_detector import ClipDetector
from resproto_fd.detectors.parts.clip_tower import Backbone
from resproto_fd.detectors.parts.fatformer_names import MARK, from_fatformer
from resproto_fd.detectors.parts.forgery_adapter import add_adapters
from resproto_fd.detectors.parts.language_alignment import CrossAttention, EnhancedPrompts
from resproto_fd.detectors.registry import register
from resproto_fd.losses.precision import at_least_float32


@register("fatformer")
class FatFormer(ClipDetector):
    """Adapt frozen CLIP to traces of forgery in patches and their frequency bands (Liu et al., CVPR 2024).

    The score is the softmax of equation 10 over a real and a fake text: cosines of each text with the class token, plus
    the mean of its cosines with the patches, which the texts have guided. The loss is cross-entropy on it. Adapters,
    context words and the attention between images and texts train; CLIP, with its temperature, is frozen.

    Args:
        backbone: See `clip_tower.Backbone`; a ViT of open_clip with CLIP's text tower and even numbers of patches.
        adapters: Number of adapters, evenly spaced.
        context: Number of context words.
        hidden, adapter_heads, dropout: See `ForgeryAdapter`.
        heads: Heads of the attention between images and texts.
        paper: Patches alone enhance the words, and equation 9 is a mean of cosines. In the authors' code the class
            token enhances them too, and the cosine is that of the mean patch; loading one of their checkpoints sets it
            to False.
        clip: `pretrained` and `quick_gelu`, see `ClipDetector`.

    Raises:
        UserError: As `ClipDetector`, `add_adapters` and `EnhancedPrompts`; or the tower is of another kind.
    """

    def __init__(
        self,
        backbone: Backbone = "ViT-L-14",
        adapters: Positive = 3,
        context: Positive = 8,
        hidden: Positive = 64,
        adapter_heads: Positive = 8,
        heads: Positive = 12,
        dropout: Share = 0.1,
        paper: bool = True,
        **clip,
    ):
        super().__init__(backbone, **clip)
        self.clip.requires_grad_(False)
        add_adapters(self.clip.require_vit("fatformer"), adapters, hidden, adapter_heads, dropout)
        self.prompts = EnhancedPrompts(self.clip, context, heads)
        self.interact = CrossAttention(self.clip.embed_dim, heads, self.clip.embed_dim)
        self.paper = paper

    def from_authors(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """See `Detector.from_authors`."""
        if not any(key.startswith(MARK) for key in state):
            return None
        self.paper = False
        return {"clip.quick_gelu": torch.tensor(True)} | from_fatformer(state, self.prompts.after.shape[1])

    def encode(self, images: Tensor) -> Tensor:
        """The class token, the mean of the guided patches, the real text and the fake text, [B, 4 D].

        All are unit vectors, but the mean of the patches' unit vectors is shorter.
        """
        tokens = self.clip.tokens(images)
        texts = self.prompts(self.clip.text, tokens[:, 1:] if self.paper else tokens)
        patches = at_least_float32(self.interact(tokens[:, 1:], texts))
        patches = F.normalize(patches, dim=-1).mean(dim=1) if self.paper else F.normalize(patches.mean(dim=1), dim=-1)
        image, real, fake = (
            F.normalize(at_least_float32(part), dim=-1) for part in (tokens[:, 0], *texts.unbind(dim=1))
        )
        return torch.cat([image, patches, real, fake], dim=-1)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        image, patches, real, fake = at_least_float32(features).chunk(4, dim=-1)
        similar = torch.stack([((image + patches) * text).sum(dim=-1) for text in (real, fake)], dim=1)
        return two_class_output(self.clip.logit_scale.exp() * similar, features, labels)
