"""A ViT over tubes: patches of some pixels and some frames (VideoMAE, Tong et al., NeurIPS 2022).

Legend: B clips, T frames, H and W pixels, N tubes, D width.
"""

from functools import partial

import torch
from timm.models import checkpoint_seq
from timm.models.beit import Block
from torch import Tensor, nn

from resproto_fd.configs.errors import WrongInput

EPSILON = 1e-12
"""Of the layer norms of Hugging Face's VideoMAE."""


class TubeEncoder(nn.Module):
    """Embed tubes, add fixed positions, and let all tubes of a clip attend to each other; without a norm at the end.

    Its blocks are BEiT's: the queries and values have biases, the keys have none.

    Args:
        width: D.
        depth, heads: Sizes of the transformer.
        patch: Side of a tube, in pixels.
        tube: Length of a tube, in frames.
    """

    def __init__(self, width: int, depth: int, heads: int, patch: int, tube: int):
        super().__init__()
        self.shape = (tube, patch, patch)
        self.patch_embed = nn.Conv3d(3, width, self.shape, self.shape)
        norm = partial(nn.LayerNorm, eps=EPSILON)
        self.blocks = nn.Sequential(*(Block(width, heads, qkv_bias=True, norm_layer=norm) for _ in range(depth)))
        self.grad_checkpointing = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute the blocks' activations again in the backward pass."""
        self.grad_checkpointing = enable

    def forward(self, clips: Tensor) -> Tensor:
        """[B, T, 3, H, W] -> [B, N, D]

        Raises:
            WrongInput: A side of the clip is no multiple of a tube's.
        """
        sides = (clips.shape[1], *clips.shape[-2:])
        if any(side % part for side, part in zip(sides, self.shape)):
            raise WrongInput(
                f"videomae expected clips of whose frames, height and width are multiples of {self.shape}, got "
                f"{sides}; set input.frames and input.size to such numbers"
            )
        tubes = self.patch_embed(clips.transpose(1, 2)).flatten(2).transpose(1, 2)
        tubes = tubes + sinusoids(tubes.shape[1], tubes.shape[2], tubes.device).to(tubes.dtype)
        return checkpoint_seq(self.blocks, tubes) if self.grad_checkpointing else self.blocks(tubes)


def sinusoids(count: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines of positions in turn (Vaswani et al., NeurIPS 2017), float64 [count, width]; width is even."""
    rates = 10000.0 ** (-torch.arange(0, width, 2, dtype=torch.float64, device=device) / width)
    angles = torch.arange(count, dtype=torch.float64, device=device)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
