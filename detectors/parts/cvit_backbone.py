"""Convolutions followed by a transformer whose one patch is their last map (CViT, MFCLIP).

Legend: B batch, D embedding size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from resproto_fd.configs.errors import UserError

CONVOLUTIONS = (3, 3, 3, 4, 4)
"""Convolutions of each stage: 17 in all."""


def transformer(width: int, depth: int, heads: int, hidden: int) -> nn.TransformerEncoder:
    """Pre-norm blocks with GELU, without dropout and without a norm after the last; [B, T, width] -> the same."""
    settings = {"dropout": 0.0, "activation": "gelu", "batch_first": True, "norm_first": True}
    blocks = [nn.TransformerEncoderLayer(width, heads, hidden, **settings) for _ in range(depth)]
    found = nn.TransformerEncoder(blocks[0], depth, enable_nested_tensor=False)
    found.layers = nn.ModuleList(blocks)  # it would clone one block, weights included
    return found


class ClassTokenTransformer(nn.Module):
    """Transformer over a class token and one further token; it returns the class token.

    Args:
        width: D.
        depth, heads, hidden: Sizes of the transformer.
    """

    def __init__(self, width: int, depth: int, heads: int, hidden: int):
        super().__init__()
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.position = nn.Parameter(torch.randn(1, 2, width) * 0.02)
        self.blocks = transformer(width, depth, heads, hidden)

    def forward(self, token: Tensor) -> Tensor:
        """[B, D] -> [B, D]"""
        tokens = torch.cat([self.cls.expand(len(token), -1, -1), token[:, None]], dim=1)
        return self.blocks(tokens + self.position)[:, 0]


class CViTBackbone(nn.Module):
    """17 convolutions in five stages that each halve the map; a transformer reads the last map as one patch.

    Args:
        size: Side of the images, a multiple of 32.
        width: D.
        channels: Channels of the stages.
        depth, heads, hidden: Sizes of the transformer.

    Raises:
        UserError: The size is not a multiple of 32.
    """

    def __init__(self, size: int, width: int, channels: Sequence[int], depth: int, heads: int, hidden: int):
        super().__init__()
        if size % 32:
            raise UserError(f"CViT: expected model.size to be a multiple of 32, got {size}")
        layers: list[nn.Module] = []
        before = 3
        for count, after in zip(CONVOLUTIONS, channels, strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
                before = after
            layers.append(nn.MaxPool2d(2))
        self.convolutions = nn.Sequential(*layers)
        self.embed = nn.Linear(before * (size // 32) ** 2, width)
        self.transformer = ClassTokenTransformer(width, depth, heads, hidden)

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, size, size] -> [B, D]"""
        return self.transformer(self.embed(self.convolutions(images).flatten(1)))
