"""Attention over the tokens of all layers of an image tower (SD2, equations 1 and 2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class CrossLayerAttention(nn.Module):
    """Attention over the tokens of all layers, joined to the final embedding (CLAM, equations 1 and 2).

    Args:
        widths: W of each layer's token. If they differ, as in a ResNet (the paper has a ViT), each is projected to D
            first.
        embed_dim: D.
        heads: H.
    """

    def __init__(self, widths: Sequence[int], embed_dim: int, heads: int):
        super().__init__()
        width = widths[0] if len(set(widths)) == 1 else embed_dim
        self.project = nn.ModuleList(nn.Identity() if w == width else nn.Linear(w, width) for w in widths)
        self.attention = nn.MultiheadAttention(width, heads, bias=False, batch_first=True)
        self.adapter = nn.Sequential(
            nn.Linear(width + embed_dim, embed_dim, bias=False),
            nn.GELU(),
            nn.Linear(embed_dim, embed_dim, bias=False),
        )

    def forward(self, layers: Sequence[Tensor], final: Tensor) -> Tensor:
        """L tokens [B, W] and final embeddings [B, D] -> f, [B, D]."""
        tokens = torch.stack([project(layer) for project, layer in zip(self.project, layers, strict=True)], dim=1)
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.adapter(torch.cat([attended.mean(dim=1), final], dim=-1))
