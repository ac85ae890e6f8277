"""An adapter with two streams of 3D convolutions, which lets a network of images see a clip.

Source: Yan et al., "Generalizing Deepfake Video Detection with Plug-and-Play: Video-Level Blending and Spatiotemporal
Adapter Tuning", CVPR 2025, and the authors' published code, of which nothing is copied.

Legend: B clips, T frames, P tokens before the patches of a frame, G x G patches, W width, C the adapter's width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.weights import replaced

LAYERS = 3
"""Convolutions of a branch, one after the other."""

AUTHORS = (
    (r"^backbone\.transformer\.resblocks\.(\d+)\.Adapter\.", r"adapters.\1."),
    (r"\.s_conv(\d)\.", lambda match: f".spatial.{int(match[1]) - 1}."),
    (r"\.t_conv(\d)\.", lambda match: f".temporal.{int(match[1]) - 1}."),
    (r"\.(conv|bn)(\d)\.", lambda match: f".{3 * (int(match[2]) - 1) + (match[1] == 'bn')}."),
    (r"\.cross_attention\.spatial_to_temporal\.", ".time_asks_space."),
    (r"\.cross_attention\.temporal_to_spatial\.", ".space_asks_time."),
    (r"head\.fc_cls\.", "classifier.1."),
)
"""Names of an adapter's tensors in the authors' checkpoints, and here."""


class SpatiotemporalAdapter(nn.Module):
    """Adds to the tokens of a clip's frames what convolutions over space and over time find in them.

    The tokens are projected to C channels. One stream convolves the patches of each frame, the other those of each
    place in all frames. A stream has one branch for each kernel size; the branches' mean is added to its input. Each
    patch of a stream then attends to all patches of the clip in the other stream, and the streams' mean is projected
    back. This projection starts at 0, so that the adapter starts without effect.

    Args:
        width: W.
        channels: C.
        kernels: Sizes N of the kernels, 1 x N x N in space and N x 1 x 1 in time; odd.
        heads: Heads of the attention between the streams.

    Raises:
        UserError: A kernel has an even size, or C is no multiple of `heads`.
    """

    def __init__(self, width: int, channels: int, kernels: Sequence[int], heads: int):
        super().__init__()
        if not kernels or any(size < 1 or size % 2 == 0 for size in kernels):
            raise UserError(f"sta: expected kernels of odd sizes, got {list(kernels)}; set model.kernels")
        if channels % heads:
            raise UserError(
                f"sta: expected channels in a multiple of {heads} heads, got {channels}; set model.channels"
            )
        self.down = nn.Linear(width, channels)
        self.spatial = nn.ModuleList(_branch(channels, (1, size, size)) for size in kernels)
        self.temporal = nn.ModuleList(_branch(channels, (size, 1, 1)) for size in kernels)
        self.time_asks_space = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.space_asks_time = nn.MultiheadAttention(channels, heads, batch_first=True)
        self.up = nn.Linear(channels, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor, frames: int, grid: tuple[int, int]) -> Tensor:
        """Tokens of each frame, the patches last, row by row: [B T, P + G G, W] -> the same.

        Args:
            frames: T.
            grid: Rows and columns of patches.
        """
        inner = F.gelu(self.down(tokens))
        before, patches = inner.tensor_split([inner.shape[1] - grid[0] * grid[1]], dim=1)
        volume = patches.unflatten(0, (-1, frames)).unflatten(2, grid).movedim(-1, 1)
        space, time = (_convolved(volume, stream) for stream in (self.spatial, self.temporal))
        from_space, _ = self.time_asks_space(time, space, space, need_weights=False)
        from_time, _ = self.space_asks_time(space, time, time, need_weights=False)
        mixed = F.gelu((from_space + from_time) / 2).unflatten(1, (frames, -1)).flatten(0, 1)
        return tokens + F.gelu(self.up(torch.cat([before, mixed], dim=1)))


def _branch(channels: int, kernel: tuple[int, int, int]) -> nn.Sequential:
    """Depthwise convolutions that keep the size, each with batch normalisation, and ReLU between them."""
    layers: list[nn.Module] = []
    for _ in range(LAYERS):
        padding = tuple(side // 2 for side in kernel)
        layers += [nn.Conv3d(channels, channels, kernel, padding=padding, groups=channels), nn.BatchNorm3d(channels)]
        layers.append(nn.ReLU())
    return nn.Sequential(*layers[:-1])


def _convolved(volume: Tensor, branches: nn.ModuleList) -> Tensor:
    """[B, C, T, G, G] -> a token for each patch of the clip, [B, T G G, C]"""
    found = volume + sum(branch(volume) for branch in branches) / len(branches)
    return found.flatten(2).transpose(1, 2)


def authors_name(key: str) -> str:
    """Name in `sta` of a tensor of an adapter or of the classifier in the authors' checkpoints.

    >>> authors_name("backbone.transformer.resblocks.3.Adapter.t_conv2.bn1.weight")
    'adapters.3.temporal.1.1.weight'
    """
    return replaced(key, AUTHORS)
