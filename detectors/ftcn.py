"""FTCN: kernels that see time alone, and a transformer over the frames.

Legend: B batch, T frames of a clip, D feature size, H and W pixels.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from resproto_fd.detectors.parts.clip_frames import check_frames
from resproto_fd.detectors.parts.i3d_network import BLOCKS, I3DNetwork, slowfast_name
from resproto_fd.detectors.parts.one_logit import OneLogitDetector
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import load_pretrained

NAMES = {
    "head.time_T.pos_embedding": "positions",
    "head.time_T.cls_token": "class_token",
    "head.time_T.transformer.layers.0.0.fn.norm.": "layer.norm1.",
    "head.time_T.transformer.layers.0.0.fn.fn.to_qkv.": "layer.attn.qkv.",
    "head.time_T.transformer.layers.0.0.fn.fn.to_out.0.": "layer.attn.proj.",
    "head.time_T.transformer.layers.0.1.fn.norm.": "layer.norm2.",
    "head.time_T.transformer.layers.0.1.fn.fn.net.0.": "layer.mlp.fc1.",
    "head.time_T.transformer.layers.0.1.fn.fn.net.3.": "layer.mlp.fc2.",
    "head.time_T.mlp_head.": "classifier.",
}
"""Beginnings of DeepfakeBench's names, and of those here."""


@register("ftcn")
class FTCN(OneLogitDetector):
    """Find what does not hang together over time, by temporal kernels and a transformer (Zheng et al., ICCV 2021).

    The network is I3D's ResNet-50 without its last stage. All spatial kernels are cut to 1 x 1, so that a feature
    depends on one place of each frame and spatial traces are of little use. The maps' means over space are T tokens.
    One transformer layer with a class token reads them, and the class token is classified.

    A checkpoint of DeepfakeBench has 16 frames. Loading one sets `frames` to its number.

    Args:
        pretrained: A file of weights in this class's naming. None for random weights, as in the paper.
        frames: T; the transformer has a position for each.
        dropout: Dropout of the positions' sum and within the transformer layer.
        width: Channels of the stem, a multiple of 4; D is 16 times as much. A head of the attention has 64 of D.
        blocks: Blocks of each of the three stages.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        frames: Annotated[int, Field(gt=0)] = 32,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        width: Annotated[int, Field(gt=0, multiple_of=4)] = 64,
        blocks: Annotated[Sequence[Annotated[int, Field(gt=0)]], Field(min_length=3, max_length=3)] = BLOCKS[:3],
    ):
        super().__init__()
        self.frames = frames
        self.backbone = I3DNetwork(width, tuple(blocks), spatial=False)
        size = self.backbone.channels
        self.class_token = nn.Parameter(torch.randn(1, 1, size))
        self.positions = nn.Parameter(torch.randn(1, frames + 1, size))
        self.dropout = nn.Dropout(dropout)
        self.layer = Block(size, size // 64, mlp_ratio=2.0, proj_drop=dropout, norm_layer=nn.LayerNorm)
        self.classifier = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, 1))
        load_pretrained(self, pretrained)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        renamed = {}
        for key, value in state.items():
            key = key.removeprefix("resnet.")
            start = next((start for start in NAMES if key.startswith(start)), None)
            named = f"backbone.{slowfast_name(key)}" if start is None else NAMES[start] + key.removeprefix(start)
            renamed[named] = value
        positions = renamed.get("positions", self.positions)
        if positions.ndim == 3 and positions.shape[1] > 1 and positions.shape[1] != self.frames + 1:
            self.frames = positions.shape[1] - 1
            self.positions = nn.Parameter(torch.zeros(1, self.frames + 1, self.positions.shape[2]))
        return renamed

    def encode(self, images: Tensor) -> Tensor:
        """Features of clips [B, T, 3, H, W]: the class token, [B, D].

        Raises:
            WrongInput: The clips have another number of frames.
        """
        check_frames(images, self.frames, "ftcn", "frames")
        tokens = self.tokens(images)
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1)
        return self.layer(self.dropout(tokens + self.positions))[:, 0]

    def tokens(self, images: Tensor) -> Tensor:
        """Tokens of clips [B, T, 3, H, W]: the maps' means over space, [B, T, D]."""
        return self.backbone(images.transpose(1, 2)).mean(dim=(3, 4)).transpose(1, 2)
