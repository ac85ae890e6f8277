"""StA: a frozen ViT of images with adapters that see space and time.

Legend: B clips, T frames, H and W pixels, D width.
"""

from collections.abc import Sequence
from functools import partial

import torch
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import Positive
from resproto_fd.detectors.parts.clip_frames import check_frames
from resproto_fd.detectors.parts.spatiotemporal_adapter import SpatiotemporalAdapter, authors_name
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.registry import register


@register("sta")
class StA(TimmClassifier):
    """Train spatiotemporal adapters after the blocks of a frozen ViT (Yan et al., CVPR 2025).

    The first blocks of an image network look at each frame by itself. An adapter after each convolves the patches over
    space and over time, and lets the two streams attend to each other. A learnt vector marks each frame's position in
    the clip. The mean of the frames' class tokens is classified and trains with cross-entropy. The adapters, the marks
    and the last layer norm train; the rest of the image network stays as it was. At first the adapters and the marks
    have no effect.

    Args:
        backbone: A ViT of timm with a class token.
        frames: T, as `input.frames`.
        layers: Blocks of the ViT that are used, from the first on; None for all.
        channels, kernels, heads: See `SpatiotemporalAdapter`.
        dropout, timm: `pretrained` (of the ViT) and `options` are further keywords, see `TimmClassifier`.

    Raises:
        UserError: As `TimmClassifier` and `SpatiotemporalAdapter`; the backbone is no such ViT or has fewer blocks.
    """

    clips = True

    def __init__(
        self,
        backbone: str = "vit_large_patch14_clip_quickgelu_224.openai",
        frames: Positive = 8,
        layers: Positive | None = 14,
        channels: Positive = 512,
        kernels: Sequence[int] = (3, 5, 7),
        heads: Positive = 2,
        dropout: float = 0.5,
        **timm,
    ):
        super().__init__(backbone, dropout=dropout, **timm)
        net = self.backbone
        if not isinstance(net, VisionTransformer) or net.cls_token is None:
            raise UserError(f"sta: expected a ViT of timm with a class token, got {backbone}; set model.backbone")
        if layers is not None and layers > len(net.blocks):
            raise UserError(f"sta: expected layers of at most {len(net.blocks)}, got {layers}; set model.layers")
        net.blocks = net.blocks[:layers]
        net.requires_grad_(False)
        net.norm.requires_grad_(True)
        self.time_embed = nn.Parameter(torch.zeros(1, frames, 1, net.embed_dim))
        self.adapters = nn.ModuleList(
            SpatiotemporalAdapter(net.embed_dim, channels, kernels, heads) for _ in net.blocks
        )

    def from_authors(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """See `Detector.from_authors`; their CLIP ViT-L/14 with adapters."""
        if "backbone.temporal_embedding" not in state:
            return super().from_authors(state)
        tower = {key: value for key, value in state.items() if key.startswith("backbone.") and ".Adapter." not in key}
        time = tower.pop("backbone.temporal_embedding")
        tower = {f"visual.{key.removeprefix('backbone.')}": value for key, value in tower.items()}
        named = {f"backbone.{key}": value for key, value in checkpoint_filter_fn(tower, self.backbone).items()}
        rest = {key: value for key, value in state.items() if not key.startswith("backbone.") or ".Adapter." in key}
        return named | {"time_embed": time[:, :, None]} | {authors_name(key): value for key, value in rest.items()}

    def encode(self, images: Tensor) -> Tensor:
        """Mean of the frames' normalised class tokens: [B, T, 3, H, W] -> [B, D]"""
        frames = self.time_embed.shape[1]
        check_frames(images, frames, "sta", "frames")
        net = self.backbone
        run = partial(checkpoint, use_reentrant=False) if net.grad_checkpointing else lambda block, x: block(x)
        tokens = net._pos_embed(net.patch_embed(images.flatten(0, 1))).unflatten(0, (-1, frames))
        tokens = net.norm_pre((tokens + self.time_embed).flatten(0, 1))
        for block, adapter in zip(net.blocks, self.adapters, strict=True):
            tokens = adapter(run(block, tokens), frames, net.patch_embed.grid_size)
        return net.norm(tokens)[:, 0].unflatten(0, (-1, frames)).mean(dim=1)
