"""A small ViT beside CLIP's frozen one that directs the attention of copies of CLIP's class token.

Source: Cui et al., "Forensics Adapter: Adapting CLIP for Generalizable Face Forgery Detection", CVPR 2025, and its
authors' code; after Xu et al., "Side Adapter Network for Open-Vocabulary Semantic Segmentation", CVPR 2023.

Legend: B batch, Q queries, L patches (G x G), W the adapter's width, D embedding size, H CLIP's heads.
"""

from collections.abc import Sequence

import torch
from open_clip.transformer import VisionTransformer
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

JOINED = 0.01
"""Factor of CLIP's tokens where they join the adapter's."""


class Adapter(nn.Module):
    """A small ViT over patches and queries, which some of CLIP's layers join.

    Args:
        grid: G.
        clip_width, clip_heads: Width and heads of CLIP's image tower.
        queries: Q.
        width: W.
        heads, depth: Heads and depth of the adapter.
        patch: Pixels of a patch's side.
        joins: Number of joining layers; one joins after each of the first blocks.
        hidden, out: Widths of the networks that project queries and patches.
    """

    def __init__(
        self,
        grid: int,
        clip_width: int,
        clip_heads: int,
        queries: int,
        width: int,
        heads: int,
        depth: int,
        patch: int,
        joins: int,
        hidden: int,
        out: int,
    ):
        super().__init__()
        self.side, self.clip_heads, self.out = grid * patch, clip_heads, out
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.queries = nn.Parameter(torch.randn(1, queries, width) * 0.02)
        self.position = nn.Parameter(torch.randn(1, queries + grid**2, width) * 0.02)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width, heads, qkv_bias=True) for _ in range(depth))
        self.joins = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(clip_width), nn.Linear(clip_width, width)) for _ in range(joins)
        )
        self.of_query = _network(width, hidden, out)
        self.of_patch = _network(width, hidden, out * clip_heads)
        self.scale, self.shift = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor, layers: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Bias of CLIP's attention, projected queries, and the patches after each block.

        Args:
            images: Normalised, [B, 3, ., .].
            layers: The joining patch tokens of CLIP, [B, L, .] each.

        Returns:
            [B, H, Q, L], [B, Q, out], and [B, L, W] after each block.
        """
        x = self.patches(resized(images, self.side)).flatten(2).transpose(1, 2)
        x = torch.cat([self.queries.expand(len(x), -1, -1), x], dim=1)
        count, after = self.queries.shape[1], []
        x = self.norm(x + self.position)
        for number, block in enumerate(self.blocks):
            x = block(x + self.position if number else x)
            if number < len(self.joins):
                joined = JOINED * self.joins[number](layers[number])
                x = torch.cat([x[:, :count], x[:, count:] + joined], dim=1)
            after.append(x[:, count:])
        asked = self.of_query(x[:, :count])
        shown = self.of_patch(x[:, count:]).unflatten(-1, (self.clip_heads, self.out))
        return self.scale * torch.einsum("bqd,blhd->bhql", asked, shown) + self.shift, asked, after


class BoundaryMap(nn.Module):
    """The blending boundary, from products of queries and patches: [B, Q, out] and [B, L, W] -> [B, 1, side, side]."""

    def __init__(self, grid: int, queries: int, width: int, patch: int, hidden: int, out: int):
        super().__init__()
        self.grid = grid
        self.of_patch = _network(width, hidden, out)
        layers: list[nn.Module] = []
        for before, after in ((queries, queries // 2), (queries // 2, queries // 4)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
        self.read = nn.Sequential(*layers, nn.Conv2d(queries // 4, 1, 1), nn.ConvTranspose2d(1, 1, patch, patch))

    def forward(self, asked: Tensor, patches: Tensor) -> Tensor:
        products = torch.einsum("bqd,bld->bql", asked, self.of_patch(patches))
        return self.read(products.unflatten(-1, (self.grid, self.grid)))


def first_tokens(visual: VisionTransformer, images: Tensor) -> Tensor:
    """Tokens before the first block, the class token first: [B, 3, ., .] -> [B, 1 + L, .]"""
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    cls = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
    return visual.ln_pre(torch.cat([cls, x], dim=1) + visual.positional_embedding.to(x.dtype))


@torch.no_grad()
def frozen_layers(visual: VisionTransformer, images: Tensor) -> list[Tensor]:
    """Tokens before the first block and after each, the class token first: [B, 3, ., .] -> [B, 1 + L, .] each."""
    found = [first_tokens(visual, images)]
    for block in visual.transformer.resblocks:
        found.append(block(found[-1]))
    return found


def look_where_told(visual: VisionTransformer, inputs: Sequence[Tensor], bias: Tensor) -> Tensor:
    """Run copies of the class token that attend, in every block, to themselves and to the patches, with a bias.

    No other token attends to them, so that the other tokens do not change.

    Args:
        visual: CLIP's image tower.
        inputs: Input of each block, [B, 1 + L, .] each.
        bias: Added to the copies' attention scores, [B, H, Q, L].

    Returns:
        Embeddings of the copies, projected, [B, Q, D].
    """
    count = bias.shape[2]
    alone = torch.full((count, count), float("-inf"), dtype=bias.dtype, device=bias.device).fill_diagonal_(0)
    mask = torch.cat([alone.expand(*bias.shape[:2], -1, -1), bias], dim=-1).flatten(0, 1)
    copies = inputs[0][:, :1].expand(-1, count, -1)
    for block, x in zip(visual.transformer.resblocks, inputs, strict=True):
        keys = block.ln_1(torch.cat([copies, x[:, 1:]], dim=1))
        attended = block.attn(keys[:, :count], keys, keys, need_weights=False, attn_mask=mask.to(keys.dtype))[0]
        copies = copies + block.ls_1(attended)
        copies = copies + block.ls_2(block.mlp(block.ln_2(copies)))
    return visual.ln_post(copies) @ visual.proj


def _network(before: int, hidden: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(before, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, after)
    )


def resized(images: Tensor, side: int) -> Tensor:
    """[B, C, ., .] -> [B, C, side, side]"""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", antialias=True)
