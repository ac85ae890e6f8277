"""Networks of lip reading: features of each frame's mouth, and convolutions over time at three scales.

Both are those of Ma et al. (ICASSP 2021). Legend: B batch, T frames, D feature size, H and W pixels.
"""

import re

import torch
from timm.models.resnet import BasicBlock, downsample_conv
from torch import Tensor, nn

SCALES = (3, 5, 7)
"""Frames that the branches' kernels see, before dilation."""
DEPTH = 4

_NAMES = (
    (r"frontend3D\.", "mouths.stem."),
    (r"trunk\.(layer\d\.\d\.)relu", r"mouths.trunk.\1act"),
    (r"trunk\.", "mouths.trunk."),
    (r"tcn\.mb_ms_tcn\.network\.(\d)\.cbcr([01])_(\d)\.conv\.", r"temporal.\1.branches.\2.\3.0."),
    (r"tcn\.mb_ms_tcn\.network\.(\d)\.cbcr([01])_(\d)\.batchnorm\.", r"temporal.\1.branches.\2.\3.1."),
    (r"tcn\.mb_ms_tcn\.network\.(\d)\.cbcr([01])_(\d)\.non_lin\.", r"temporal.\1.branches.\2.\3.2."),
    (r"tcn\.mb_ms_tcn\.network\.(\d)\.downsample\.", r"temporal.\1.shortcut."),
    (r"tcn\.mb_ms_tcn\.network\.(\d)\.relu_final\.", r"temporal.\1.act."),
    (r"tcn\.tcn_output\.", "classifier."),
)


def lip_reading_name(key: str) -> str:
    """Name in `LipForensics` of a tensor of the authors' files, of lip reading and of forgeries alike.

    >>> lip_reading_name("trunk.layer2.0.relu1.weight"), lip_reading_name("tcn.mb_ms_tcn.network.3.cbcr1_0.conv.bias")
    ('mouths.trunk.layer2.0.act1.weight', 'temporal.3.branches.1.0.0.bias')
    """
    for pattern, ours in _NAMES:
        named, count = re.subn(f"^{pattern}", ours, key)
        if count:
            return named
    return key


class MouthFeatures(nn.Module):
    """Network from grey mouths [B, T, H, W] to features of the frames, [B, T, 8 width].

    A convolution over time and space, then a ResNet-18 of each frame; all activations are PReLUs.

    Args:
        width: Channels of the stem.
    """

    def __init__(self, width: int = 64):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv3d(1, width, (5, 7, 7), (1, 2, 2), (2, 3, 3), bias=False),
            nn.BatchNorm3d(width),
            nn.PReLU(width),
            nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1)),
        )
        self.trunk = nn.Sequential()
        for layer in range(4):
            before, after = width * 2 ** max(layer - 1, 0), width * 2**layer
            parts = [_basic_block(before, after), _basic_block(after, after)]
            self.trunk.add_module(f"layer{layer + 1}", nn.Sequential(*parts))

    def forward(self, mouths: Tensor) -> Tensor:
        maps = self.stem(mouths[:, None]).transpose(1, 2)
        return self.trunk(maps.flatten(0, 1)).mean(dim=(2, 3)).unflatten(0, maps.shape[:2])


def multi_scale_tcn(before: int, after: int, dropout: float) -> nn.Sequential:
    """Network over time, MS-TCN, from [B, before, T] to [B, after, T].

    Its four blocks have dilations 1, 2, 4 and 8.

    Args:
        after: A multiple of 3.
    """
    return nn.Sequential(
        *(_TemporalBlock(after if level else before, after, 2**level, dropout) for level in range(DEPTH))
    )


class _TemporalBlock(nn.Module):
    """Convolutions of three scales, twice, beside a linear shortcut."""

    def __init__(self, before: int, after: int, dilation: int, dropout: float):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.ModuleList(_branch(channels, after // len(SCALES), scale, dilation) for scale in SCALES)
            for channels in (before, after)
        )
        self.dropout = nn.Dropout(dropout)
        self.shortcut, self.act = nn.Conv1d(before, after, 1), nn.PReLU(after)

    def forward(self, x: Tensor) -> Tensor:
        found = x
        for branches in self.branches:
            found = self.dropout(torch.cat([branch(found) for branch in branches], dim=1))
        return self.act(found + self.shortcut(x))


def _branch(before: int, after: int, scale: int, dilation: int) -> nn.Sequential:
    padding = (scale - 1) // 2 * dilation
    return nn.Sequential(
        nn.Conv1d(before, after, scale, padding=padding, dilation=dilation), nn.BatchNorm1d(after), nn.PReLU(after)
    )


def _basic_block(before: int, after: int) -> BasicBlock:
    stride = after // before
    shortcut = downsample_conv(before, after, 1, stride) if stride > 1 else None
    return BasicBlock(before, after, stride, shortcut, act_layer=lambda inplace: nn.PReLU(after))
