"""A network beside CLIP's frozen image tower, which reads the patches of each of its layers in space and over time.

Source: Han et al., "Towards More General Video-based Deepfake Detection through Facial Component Guided Adaptation for
Foundation Model", CVPR 2025, and its authors' code.

Legend: B clips, T frames, F = B T, N patches of a frame (G x G), H heads, W width, C queries.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.parts.clip_tower import Clip
from resproto_fd.detectors.parts.side_adapter import first_tokens
from resproto_fd.losses.precision import at_least_float32, without_autocast

SHARPNESS = 100
"""Factor of the cosines before the softmax."""
SMALL = 1e-4
"""Added to norms."""


class Layer(NamedTuple):
    """Patches of one layer of CLIP: what its attention projects, [F, N, H, W / H] each, and its output, [F, N, W]."""

    query: Tensor
    key: Tensor
    value: Tensor
    tokens: Tensor


@torch.no_grad()
def clip_layers(clip: Clip, frames: Tensor) -> Iterator[Layer]:
    """The layers of CLIP's image tower, a ViT of open_clip, one after the other.

    Args:
        frames: Normalised, [F, 3, ., .].

    Raises:
        WrongInput: The tower has position embeddings for another image size.
    """
    clip.check_size(frames)
    x = first_tokens(clip.visual, frames)
    for block in clip.visual.transformer.resblocks:
        attn = block.attn
        projected = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        parts = projected.unflatten(-1, (3, attn.num_heads, -1)).unbind(dim=2)
        mixed = F.scaled_dot_product_attention(*(part.transpose(1, 2) for part in parts))
        x = x + block.ls_1(attn.out_proj(mixed.transpose(1, 2).flatten(2)))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
        yield Layer(*(part[:, 1:] for part in parts), x[:, 1:])


class SideLayer(nn.Module):
    """Reads one layer of CLIP by a spatial and by a temporal module.

    Args:
        width: W.
        heads: H.
        frames: T.
        queries: C.
        kernel: Side of the convolutions' kernels, odd.
    """

    def __init__(self, width: int, heads: int, frames: int, queries: int, kernel: int):
        super().__init__()
        pairs = frames**2
        self.queries = nn.Parameter(torch.randn(queries, width) * width**-0.5)
        self.over_time = _to_one_map(3 * heads, kernel)
        self.mix = nn.Sequential(nn.LayerNorm(pairs), nn.Linear(pairs, frames), nn.GELU(), nn.Linear(frames, pairs))
        self.over_places = _to_one_map(pairs, kernel)

    def forward(self, layer: Layer, clips: int) -> tuple[Tensor, Tensor]:
        """What the spatial module finds, [B, W], and the temporal one, [B, N], in B = `clips` clips."""
        return self.spatial(layer.key.flatten(2), layer.tokens, clips), self.temporal(layer[:3], clips)

    def spatial(self, keys: Tensor, tokens: Tensor, clips: int) -> Tensor:
        """Mean over frames and queries of the tokens to whose keys a query is like, [B, W].

        Args:
            keys, tokens: [F, N, W].
        """
        with without_autocast(keys):
            keys, tokens = at_least_float32(keys), at_least_float32(tokens)
            shares = (SHARPNESS * _unit(self.queries) @ _unit(keys).mT).softmax(dim=-1)
            return (shares @ tokens).mean(dim=1).unflatten(0, (clips, -1)).mean(dim=1)

    def temporal(self, parts: tuple[Tensor, ...], clips: int) -> Tensor:
        """A number for each place, from the likeness of its patches in each two frames of a clip, [B, N].

        Args:
            parts: [F, N, H, W / H] each.
        """
        grid = int(parts[0].shape[1] ** 0.5)
        likeness = self.over_time(torch.cat([_likeness(part.unflatten(0, (clips, -1))) for part in parts], dim=1))
        likeness = likeness.flatten(1).unflatten(0, (clips, grid, grid))
        likeness = likeness + self.mix(likeness)
        return self.over_places(likeness.permute(0, 3, 1, 2)).flatten(1)


def _likeness(part: Tensor) -> Tensor:
    """Attention of each frame's patch to those of its place in all frames: [B, T, N, H, .] -> [B N, H, T, T]"""
    part = part.permute(0, 2, 3, 1, 4).flatten(0, 1)
    return (part @ part.mT * part.shape[-1] ** -0.5).softmax(dim=-1)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / (vectors.norm(dim=-1, keepdim=True) + SMALL)


def _to_one_map(channels: int, kernel: int) -> nn.Conv2d:
    layer = nn.Conv2d(channels, 1, kernel, padding=kernel // 2)
    nn.init.normal_(layer.weight, std=0.001)
    nn.init.zeros_(layer.bias)
    return layer
