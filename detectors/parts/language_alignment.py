"""FatFormer's language-guided alignment: prompts that an image enhances, and patches that texts guide.

Source: Liu et al., "Forgery-aware Adaptive Transformer for Generalizable Synthetic Image Detection", CVPR 2024, and its
authors' code; equation numbers are the paper's.

Legend: B batch, C context words, K tokens, T words of a text, W width of the text tower, D embedding size.
"""

import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.parts.clip_tower import Clip
from resproto_fd.detectors.parts.forgery_adapter import FeedForward, check_heads

CLASSES = ("real", "fake")
AROUND = 4
"""Words of a prompt that are not context: the start, the class, a full stop, the end."""


class CrossAttention(nn.Module):
    """Adds to tokens what they find among others, with a layer norm and an MLP as in the authors' code.

    Equations 5 to 8 write the attention without weights; Figure 3 shows that this part trains.

    Args:
        width: Width of the tokens.
        heads: Heads of the attention.
        others: Width of the others.

    Raises:
        UserError: The heads do not divide the width.
    """

    def __init__(self, width: int, heads: int, others: int):
        super().__init__()
        check_heads(width, heads, "heads")
        self.attention = nn.MultiheadAttention(width, heads, kdim=others, vdim=others, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def forward(self, tokens: Tensor, others: Tensor) -> Tensor:
        """[B, N, width] and [B, K, others] -> [B, N, width]"""
        return self.feed_forward(self.norm(tokens + self.attention(tokens, others, others, need_weights=False)[0]))


class EnhancedPrompts(nn.Module):
    """Texts of a real and of a fake image, whose context words are learnt and enhanced by the image (equations 5, 6).

    A text is read up to its end alone: CLIP's mask hides what follows.

    Args:
        clip: Its text tower is read in `forward`, and is no part of this module.
        count: C.
        heads: Heads of the enhancer.

    Raises:
        UserError: The text tower is not of CLIP's kind or holds fewer words; or the heads do not divide its width.
    """

    def __init__(self, clip: Clip, count: int, heads: int):
        super().__init__()
        text = clip.text
        if not isinstance(text, TextTransformer) or text.attn_mask is None or text.pool_type != "argmax":
            raise UserError(f"fatformer: expected CLIP's text tower, got {type(text).__name__}; set model.backbone")
        if count + AROUND > text.context_length:
            most = text.context_length - AROUND
            raise UserError(f"fatformer: expected at most {most} context words, got {count}; set model.context")
        self.context = nn.Parameter(torch.randn(count, text.width) * 0.02)
        self.enhance = CrossAttention(text.width, heads, clip.embed_dim)
        tokens = clip.tokenizer([" ".join(["X"] * count) + f" {name}." for name in CLASSES])
        words = text.token_embedding(tokens[:, : count + AROUND]).detach().clone()
        self.register_buffer("before", words[:, :1])
        self.register_buffer("after", words[:, 1 + count :])

    def forward(self, text: TextTransformer, seen: Tensor) -> Tensor:
        """Embeddings of both texts for each image, not normalised, [B, 2, D].

        Args:
            text: The text tower.
            seen: Embeddings of the image's tokens, [B, K, D].
        """
        count = len(seen)
        context = self.enhance(self.context.expand(count, -1, -1), seen)
        parts = self.before[None], context[:, None], self.after[None]
        words = torch.cat([part.expand(count, len(CLASSES), -1, -1) for part in parts], dim=2).flatten(0, 1)
        length = words.shape[1]
        words = words + text.positional_embedding[:length]
        found = text.transformer(words, attn_mask=text.attn_mask[:length, :length])
        return (text.ln_final(found[:, -1]) @ text.text_projection).unflatten(0, (count, -1))
