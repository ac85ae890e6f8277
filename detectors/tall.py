"""TALL: four frames of a clip as one picture for a Swin transformer.

Legend: B clips, T frames, H and W pixels, D feature size.
"""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.schema import Positive
from resproto_fd.detectors.parts.clip_frames import check_frames
from resproto_fd.detectors.parts.deepfakebench_names import swin
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import pretrained_skipped

ROWS = 2
"""Frames of a row and of a column of the picture."""


@register("tall")
class TALL(TimmClassifier):
    """Classify a picture of a clip's four frames, two by two, with a Swin transformer (Xu et al., ICCV 2023).

    The picture of four frames is resized to the side of one, so that a clip costs as much as an image. In training, a
    square at one random place is masked in all frames of a clip. A learnt vector marks the patches of each frame. The
    windows of the attention are larger than Swin's own: in the first stages they reach over several frames' patches
    when shifted, and from the third stage on one window is the whole picture.

    Args:
        backbone: A Swin transformer of timm.
        mask: Side of the square, in pixels of a frame; 0 masks nothing, as in DeepfakeBench's training.
        window: Side of the windows in patches; stages with a smaller map have one window.
        pretrained, options: See `TimmClassifier`; the tables of the published windows are resized.
        timm: `dropout`, see `TimmClassifier`.
    """

    clips = True

    def __init__(
        self,
        backbone: str = "swin_base_patch4_window7_224.ms_in22k_ft_in1k",
        mask: Annotated[int, Field(ge=0)] = 16,
        window: Positive = 14,
        pretrained: bool | str | None = True,
        options: dict[str, Any] | None = None,
        **timm,
    ):
        loads = pretrained and not pretrained_skipped()
        options = {**({} if loads else {"window_size": window}), **(options or {})}
        super().__init__(backbone, pretrained, options=options, **timm)
        self.mask = mask
        if loads:
            self.backbone.set_input_size(window_size=window)
        width = self.backbone.patch_embed.proj.out_channels
        self.frame_embed = nn.Parameter(torch.randn(ROWS, ROWS, width) * 0.02)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        state = {key.removeprefix("model."): value for key, value in state.items()}
        embed = state.pop("frame_pos_embed", None)
        found = {} if embed is None else {"frame_embed": embed.view(ROWS, ROWS, -1)}
        return found | {name: value for key, value in state.items() if (name := swin(key))}

    def encode(self, images: Tensor) -> Tensor:
        """Mean of the last map: [B, T, 3, H, W] -> [B, D]"""
        check_frames(images, ROWS**2, "tall")
        if self.training and self.mask:
            images = masked(images, self.mask)
        picture = F.interpolate(thumbnail(images), images.shape[-2:], mode="bilinear", align_corners=False)
        net = self.backbone
        x = net.patch_embed(picture)
        height, width = (side // ROWS for side in x.shape[1:3])
        x = x + self.frame_embed.repeat_interleave(height, dim=0).repeat_interleave(width, dim=1)
        return net.forward_head(net.norm(net.layers(x)), pre_logits=True)


def thumbnail(images: Tensor) -> Tensor:
    """Frames side by side, row by row: [B, 4, 3, H, W] -> [B, 3, 2 H, 2 W]"""
    rows = [torch.cat(list(row.unbind(1)), dim=-1) for row in images.split(ROWS, dim=1)]
    return torch.cat(rows, dim=-2)


def masked(images: Tensor, side: int) -> Tensor:
    """Set a square to 0, the data's mean, at one random place of all frames of a clip; [B, T, 3, H, W] -> the same.

    Any pixel may be its centre, so that a part of it may lie outside.
    """
    inside = []
    for length in images.shape[-2:]:
        places = torch.arange(length, device=images.device)
        centre = torch.randint(length, (len(images), 1), device=images.device)
        inside.append((places >= centre - side // 2) & (places < centre - side // 2 + side))
    square = inside[0][:, :, None] & inside[1][:, None, :]
    return images.masked_fill(square[:, None, None], 0.0)
