"""I3D as a ResNet-50 (Carreira & Zisserman, CVPR 2017), in the layout that SlowFast's authors call 8x8.

Legend: B batch, T frames, H and W pixels.
"""

import re

from torch import Tensor, nn
from torch.nn import functional as F

BLOCKS = (3, 4, 6, 3)
"""Blocks of each stage."""
TIMES = ((3, 3), (3, 1), (3, 1), (1, 3))
"""Frames that the temporal kernels of a stage's even and odd blocks see."""


class I3DNetwork(nn.Module):
    """Network from clips [B, 3, T, H, W] to maps [B, 32 width, T / 2, H / 32, W / 32].

    Each block has a temporal convolution, a spatial one and one that sees a single place.

    Args:
        width: Channels of the stem.
        blocks: Blocks of each stage, of at most four.
        spatial: Whether kernels see neighbouring pixels. If not, the network is fully temporal (Zheng et al., ICCV
            2021): a max pool after the norm stands for each spatial stride, and time is not pooled. Three stages then
            give maps [B, 16 width, T, H / 16, W / 16].
    """

    def __init__(self, width: int = 64, blocks: tuple[int, ...] = BLOCKS, spatial: bool = True):
        super().__init__()
        self.stem = _Normed(3, width, 5, 7, 2, spatial)
        self.time_pool = nn.MaxPool3d((2, 1, 1)) if spatial else nn.Identity()
        self.stages, self.channels = nn.ModuleList(), width
        for stage, (count, times) in enumerate(zip(blocks, TIMES, strict=False)):
            parts = []
            for block in range(count):
                stride = 2 if stage and not block else 1
                parts.append(_Bottleneck(self.channels, width * 2**stage, times[block % 2], stride, spatial))
                self.channels = 4 * width * 2**stage
            self.stages.append(nn.Sequential(*parts))

    def forward(self, clips: Tensor) -> Tensor:
        x = F.max_pool3d(F.relu(self.stem(clips)), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        x = self.time_pool(self.stages[0](x))
        for stage in self.stages[1:]:
            x = stage(x)
        return x

    def kernels(self, temporal: bool) -> list[nn.Parameter]:
        """Weights of the convolutions along time alone, or of those over space alone; the stem's are neither."""
        sides = [(conv, *conv.kernel_size[:2]) for conv in self.modules() if isinstance(conv, nn.Conv3d)]
        return [c.weight for c, time, side in sides if (time > 1, side > 1) == (temporal, not temporal)]


def slowfast_name(key: str) -> str:
    """Name here of a tensor in the naming of SlowFast's authors, which DeepfakeBench and others keep.

    >>> slowfast_name("s3.pathway0_res0.branch2.b_bn.0.bias"), slowfast_name("s1.pathway0_stem.bn.weight")
    ('stages.1.0.b.norm.bias', 'stem.norm.weight')
    """
    key = key.replace("bn.0.", "bn.")
    if match := re.fullmatch(r"s1\.pathway0_stem\.(conv|bn)\.(\w+)", key):
        return f"stem.{'conv' if match[1] == 'conv' else 'norm'}.{match[2]}"
    if match := re.fullmatch(r"s([2-5])\.pathway0_res(\d+)\.(?:branch2\.([abc])|branch1)(_bn)?\.(\w+)", key):
        stage, block, part, norm, tensor = match.groups()
        return f"stages.{int(stage) - 2}.{block}.{part or 'shortcut'}.{'norm' if norm else 'conv'}.{tensor}"
    return key


class _Normed(nn.Sequential):
    """A convolution that keeps T and its batch norm; without spatial kernels a max pool makes the spatial stride."""

    def __init__(self, before: int, after: int, time: int, side: int, stride: int, spatial: bool):
        super().__init__()
        moved, side = (stride, side) if spatial else (1, 1)
        padding = (time // 2, side // 2, side // 2)
        self.conv = nn.Conv3d(before, after, (time, side, side), (1, moved, moved), padding, bias=False)
        self.norm = nn.BatchNorm3d(after)
        if stride > moved:
            self.pool = nn.MaxPool3d((1, stride, stride))


class _Bottleneck(nn.Module):
    """Three convolutions beside a shortcut; the spatial one has the stride."""

    def __init__(self, before: int, inner: int, time: int, stride: int, spatial: bool):
        super().__init__()
        self.a = _Normed(before, inner, time, 1, 1, spatial)
        self.b = _Normed(inner, inner, 1, 3, stride, spatial)
        self.c = _Normed(inner, 4 * inner, 1, 1, 1, spatial)
        same = before == 4 * inner and stride == 1
        self.shortcut = nn.Identity() if same else _Normed(before, 4 * inner, 1, 1, stride, spatial)

    def forward(self, x: Tensor) -> Tensor:
        found = self.c(F.relu(self.b(F.relu(self.a(x)))))
        return F.relu(found + self.shortcut(x))
