"""FatFormer's adapters: small networks in a frozen ViT that read its tokens and their frequency bands.

Source: Liu et al., "Forgery-aware Adaptive Transformer for Generalizable Synthetic Image Detection", CVPR 2024, and its
authors' code; equation and section numbers are the paper's.

Legend: B batch, T tokens, L patches, M = L / 4 places of a band, W width.
"""

import math

import torch
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.parts.wavelet import haar_bands, haar_grid

IMAGE_SHARE = 0.1
"""Factor of the image extractor's output, as in the authors' code."""
NORM_GROUPS = 128
"""Groups of channels in which bands are normalised, or fewer if they do not divide the width."""


class FeedForward(nn.Module):
    """x plus a network of x, normalised: [..., W] -> the same shape."""

    def __init__(self, width: int, dropout: float = 0.0):
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(width, 4 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(4 * width, width),
            nn.Dropout(dropout),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.network(x))


class FrequencyExtractor(nn.Module):
    """Attention among the frequency bands of patches, section 3.2: [B, L, W] -> the same shape.

    First the four bands of a place attend to each other (inter-band), then the places of a band (intra-band).

    Args:
        width: W.
        rows: Rows of patches.
        heads: Heads of both attentions.
        dropout: Dropout of what is added.
    """

    def __init__(self, width: int, rows: int, heads: int, dropout: float):
        super().__init__()
        self.rows = rows
        self.norm = nn.GroupNorm(math.gcd(NORM_GROUPS, width), width)
        self.inter, self.intra = (nn.MultiheadAttention(width, heads, batch_first=True) for _ in range(2))
        self.inter_norm, self.intra_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.feed_forward = FeedForward(width, dropout)

    def forward(self, patches: Tensor) -> Tensor:
        bands = haar_bands(patches.unflatten(1, (self.rows, -1)))
        x = self.norm(bands.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # [B, 4, M, W]
        count, four, places, _ = x.shape
        across = attend(self.inter, x.transpose(1, 2).flatten(0, 1)).unflatten(0, (count, places)).transpose(1, 2)
        x = self.inter_norm(x + self.dropout(across))
        within = attend(self.intra, x.flatten(0, 1)).unflatten(0, (count, four))
        x = self.feed_forward(self.intra_norm(x + self.dropout(within)))
        return haar_grid(x, self.rows // 2).flatten(1, 2)


class ForgeryAdapter(nn.Module):
    """FAA, equations 3 and 4: the image extractor's output plus lambda times the frequency extractor's.

    lambda starts at 0. The class token has no place on the grid, and so no frequency.

    Args:
        width, rows, heads, dropout: See `FrequencyExtractor`.
        hidden: Width within the image extractor, whose convolutions cover one patch (appendix).
    """

    def __init__(self, width: int, rows: int, hidden: int, heads: int, dropout: float):
        super().__init__()
        self.image = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, width))
        self.frequency = FrequencyExtractor(width, rows, heads, dropout)
        self.share = nn.Parameter(torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        """[B, 1 + L, W], the class token first -> what is added to them."""
        frequency = F.pad(self.frequency(tokens[:, 1:]), (0, 0, 1, 0))
        return IMAGE_SHARE * self.image(tokens) + self.share * frequency


class AdaptedBlock(nn.Module):
    """A block of open_clip's ViT with an adapter beside its MLP: [B, 1 + L, W] -> the same shape.

    Both read what the block's attention left (section 3.2).
    """

    def __init__(self, block: ResidualAttentionBlock, adapter: ForgeryAdapter):
        super().__init__()
        self.block, self.adapter = block, adapter

    def forward(self, x: Tensor, k_x: None = None, v_x: None = None, attn_mask: Tensor | None = None) -> Tensor:
        block = self.block
        x = x + block.ls_1(block.attention(block.ln_1(x), attn_mask=attn_mask))
        return x + block.ls_2(block.mlp(block.ln_2(x))) + self.adapter(x)


def add_adapters(visual: VisionTransformer, count: int, hidden: int, heads: int, dropout: float) -> None:
    """Cut a ViT into equal stages and add an adapter to the last block of each, in place.

    Args:
        visual: Its grid of patches must have even sides.
        count: Number of stages.
        hidden, heads, dropout: See `ForgeryAdapter`.

    Raises:
        UserError: The blocks cannot be divided so, are of another kind, or the grid has an odd side; or the heads do
            not divide the width.
    """
    blocks, (rows, columns) = visual.transformer.resblocks, visual.grid_size
    if len(blocks) % count:
        raise UserError(f"fatformer: expected a divisor of {len(blocks)} layers, got {count}; set model.adapters")
    if not all(type(block) is ResidualAttentionBlock for block in blocks):
        kind = type(blocks[0]).__name__
        raise UserError(f"fatformer: expected plain blocks of a ViT, got {kind}; set model.backbone")
    if rows % 2 or columns % 2:
        raise UserError(
            f"fatformer: expected even numbers of patches, got {rows} x {columns}, which have no wavelet bands; "
            "set model.backbone"
        )
    width = visual.transformer.width
    check_heads(width, heads, "adapter_heads")
    for last in range(len(blocks) // count - 1, len(blocks), len(blocks) // count):
        blocks[last] = AdaptedBlock(blocks[last], ForgeryAdapter(width, rows, hidden, heads, dropout))


def attend(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """Self-attention, [B, T, W] -> the same shape."""
    return attention(x, x, x, need_weights=False)[0]


def check_heads(width: int, heads: int, key: str) -> None:
    """Check that heads divide a width.

    Raises:
        UserError: They do not; the message names `model.KEY`.
    """
    if width % heads:
        raise UserError(f"fatformer: expected a divisor of the width {width}, got {heads} heads; set model.{key}")
