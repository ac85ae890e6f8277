"""Attention over the frames of a clip, which turns timm's vision transformers into networks of videos.

Legend: B clips, T frames, N patches of a frame, W width, G frames of a group.
"""

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn


class DividedAttention(nn.Module):
    """A ViT's block with time attention before its attention over a frame (TimeSformer, Bertasius et al., ICML 2021).

    Time attention compares patches of one place. It starts as a copy of the block's own attention, and a projection of
    zeros after it makes the block start as that of an image.

    Args:
        block: timm's block; it stays a module of the ViT.
    """

    def __init__(self, block: Block):
        super().__init__()
        width = block.attn.qkv.in_features
        self.norm = nn.LayerNorm(width, eps=block.norm1.eps)
        self.attn = type(block.attn)(width, block.attn.num_heads, qkv_bias=block.attn.qkv.bias is not None)
        self.norm.load_state_dict(block.norm1.state_dict())
        self.attn.load_state_dict(block.attn.state_dict())
        self.project = nn.Linear(width, width)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, block: Block, classes: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Class tokens [B, W] and patches [B, T, N, W] -> the same, after `block`.

        Each frame has a copy of the class token in the attention over it; the copies' changes are averaged.
        """
        batch, frames, count, _ = patches.shape
        places = patches.transpose(1, 2).flatten(0, 1)
        change = self.project(block.drop_path1(self.attn(self.norm(places))))
        patches = patches + change.unflatten(0, (batch, count)).transpose(1, 2)
        copies = classes[:, None, None].expand(-1, frames, -1, -1)
        tokens = torch.cat([copies, patches], dim=2).flatten(0, 1)
        change = block.drop_path1(block.ls1(block.attn(block.norm1(tokens)))).unflatten(0, (batch, frames))
        classes, patches = classes + change[:, :, 0].mean(dim=1), patches + change[:, :, 1:]
        tokens = torch.cat([classes[:, None], patches.flatten(1, 2)], dim=1)
        tokens = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
        return tokens[:, 0], tokens[:, 1:].unflatten(1, (frames, count))


class FrameMessages(nn.Module):
    """A ViT's block with a message token of each frame, which the frames exchange first (X-CLIP, Ni et al., ECCV 2022).

    Args:
        block: timm's block; it stays a module of the ViT.
    """

    def __init__(self, block: Block):
        super().__init__()
        width = block.attn.qkv.in_features
        self.write = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=block.norm1.eps)
        self.attn = type(block.attn)(width, block.attn.num_heads, qkv_bias=True)

    def forward(self, block: Block, tokens: Tensor, group: int) -> Tensor:
        """Tokens of each frame, [B T, 1 + N, W], after `block`; the frames of a group of G exchange messages."""
        messages = self.write(tokens[:, 0]).unflatten(0, (-1, group))
        messages = messages + block.drop_path1(self.attn(self.norm(messages)))
        tokens = torch.cat([tokens, messages.flatten(0, 1)[:, None]], dim=1)
        tokens = tokens + block.drop_path1(block.ls1(block.attn(block.norm1(tokens))))
        tokens = tokens[:, :-1]
        return tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
