"""TimeSformer: a ViT whose blocks compare patches over time, then over each frame.

Legend: B clips, T frames, H and W pixels, D width.
"""

import re
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from resproto_fd.configs.schema import Positive
from resproto_fd.detectors.parts.clip_frames import check_frames
from resproto_fd.detectors.parts.temporal_attention import DividedAttention
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.parts.transformers_names import transformers_vit
from resproto_fd.detectors.registry import register


@register("timesformer")
class TimeSformer(TimmClassifier):
    """Classify a clip by a ViT with divided attention over time and space (Bertasius et al., ICML 2021).

    Each block first compares the patches of one place in all frames, then the patches of one frame. A learnt vector
    marks each frame's position in the clip. The classifier reads the class token and trains with cross-entropy. The
    weights of images start the spatial part; the time attention starts as a copy of the spatial one, without effect.

    Args:
        backbone: A ViT of timm with a class token.
        frames: T, as `input.frames`.
        timm: `pretrained` (of the ViT), `dropout` and `options`, see `TimmClassifier`.
    """

    clips = True

    def __init__(self, backbone: str = "vit_base_patch16_224.orig_in21k", frames: Positive = 8, **timm):
        super().__init__(backbone, **timm)
        self.time_embed = nn.Parameter(torch.zeros(1, frames, 1, self.backbone.embed_dim))
        self.time_blocks = nn.ModuleList(DividedAttention(block) for block in self.backbone.blocks)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Detector.from_deepfakebench`; its names are those of Hugging Face's TimeSformer."""
        named = transformers_vit({key.removeprefix("backbone."): value for key, value in state.items()})
        return {_name(key): value for key, value in named.items()}

    def encode(self, images: Tensor) -> Tensor:
        """Class token of a clip: [B, T, 3, H, W] -> [B, D]"""
        check_frames(images, self.time_embed.shape[1], "timesformer", "frames")
        net = self.backbone
        run = partial(checkpoint, use_reentrant=False) if net.grad_checkpointing else lambda part, *args: part(*args)
        tokens = net._pos_embed(net.patch_embed(images.flatten(0, 1))).unflatten(0, images.shape[:2])
        classes, patches = tokens[:, 0, 0], tokens[:, :, 1:] + self.time_embed
        for block, over_time in zip(net.blocks, self.time_blocks, strict=True):
            classes, patches = run(over_time, block, classes, patches)
        return net.norm(classes)


def _name(key: str) -> str:
    """Name here of a tensor of timm's ViT, of time attention, or of DeepfakeBench's classifier."""
    if key == "embeddings.time_embeddings":
        return "time_embed"
    if key.startswith("head."):
        return key.replace("head.", "classifier.1.")
    key, over_time = re.subn(r"^blocks\.(\d+)\.temporal_", r"time_blocks.\1.", key)
    return key if over_time else f"backbone.{key}"
