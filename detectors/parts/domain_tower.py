"""CLIP's image tower, conditioned on the data set of each image: normalisation, experts, second-order features.

Source: Lai et al., "GM-DF: Generalized Multi-Scenario Deepfake Detection", ACM MM 2025; equation numbers are the
paper's.

Legend: B batch, T tokens (the class token first), P patches, W width, H heads, K size of a domain's embedding,
N experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError


class DomainNorm(nn.Module):
    """DNorm, equation 2: (x - mu) / sigma * (gamma0 + W_gamma c) + (beta0 + W_beta c).

    At the start it equals the layer norm that it replaces, since W_gamma and W_beta are 0.

    Args:
        norm: Its weight and bias become gamma0 and beta0.
        size: K.
    """

    def __init__(self, norm: nn.LayerNorm, size: int):
        super().__init__()
        self.eps = norm.eps
        self.weight, self.bias = norm.weight, norm.bias
        self.to_weight = nn.Parameter(torch.zeros(len(norm.weight), size))
        self.to_bias = nn.Parameter(torch.zeros(len(norm.weight), size))

    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        """[B, T, W] and embeddings c [B, K] -> [B, T, W]."""
        scale = self.weight + domain @ self.to_weight.T
        shift = self.bias + domain @ self.to_bias.T
        return F.layer_norm(x, x.shape[-1:], eps=self.eps) * scale[:, None] + shift[:, None]


class Experts(nn.Module):
    """Delta F_n, equations 1, 4 and 5: a small network for each domain, and attention among their views.

    Args:
        count: N.
        width: W.
        hidden: Width within an expert.
    """

    def __init__(self, count: int, width: int, hidden: int):
        super().__init__()
        self.down = nn.Parameter(torch.randn(count, width, hidden) * width**-0.5)
        self.down_bias = nn.Parameter(torch.zeros(count, hidden))
        self.up = nn.Parameter(torch.zeros(count, hidden, width))

    def views(self, x: Tensor) -> Tensor:
        """Delta F_n(x) of every expert: [B, W] -> [B, N, W]."""
        hidden = F.gelu(torch.einsum("bw,nwh->bnh", x, self.down) + self.down_bias)
        return torch.einsum("bnh,nhw->bnw", hidden, self.up)

    def forward(self, x: Tensor) -> Tensor:
        """The aggregated view: softmax(Q K^T / sqrt(W)) V with Q = K = V the views, averaged, [B, W]."""
        views = self.views(x)
        return F.scaled_dot_product_attention(views, views, views).mean(dim=1)


@dataclass(frozen=True)
class TowerOutput:
    """Result of the image tower.

    Attributes:
        cls: The class token after the last block, [B, W].
        patches: The other tokens after the last block, [B, P, W].
        second_order: Delta_so of each chosen layer, [B, W] each.
    """

    cls: Tensor
    patches: Tensor
    second_order: list[Tensor]


def condition_on_domain(visual: nn.Module, size: int | None, conv_stem: bool = False) -> None:
    """Replace the second layer norm of each block by a `DomainNorm`.

    Args:
        visual: A ViT of open_clip; changed in place.
        size: K; None keeps the layer norms.
        conv_stem: Replace the patch embedding by convolutions (Xiao et al., Early Convolutions Help Transformers See
            Better, NeurIPS 2021), which learn from fewer images than a patch embedding.

    Raises:
        UserError: The tower is not a ViT of open_clip.
    """
    if not isinstance(visual, VisionTransformer):
        raise UserError(f"expected a ViT of open_clip, got {type(visual).__name__}; set model.backbone")
    if size is not None:
        for block in visual.transformer.resblocks:
            block.ln_2 = DomainNorm(block.ln_2, size)
    if conv_stem:
        visual.conv1 = _conv_stem(visual.conv1.out_channels, visual.patch_size[0])


def run_tower(
    visual: VisionTransformer,
    images: Tensor,
    domain: Tensor | None,
    second_order: Sequence[int] = (),
    hidden: tuple[Tensor, Tensor] | None = None,
    norm: Literal["pre", "post"] = "pre",
) -> TowerOutput:
    """Run all blocks of a conditioned tower.

    Args:
        visual: See `condition_on_domain`.
        images: Normalised, [B, 3, H, W].
        domain: c, [B, K]; None if the tower kept its layer norms.
        second_order: Layers, counted from 1, whose MLP's output the class token of the next block attends to
            (equation 7, with that block's attention weights and its value and output matrices, without biases).
        hidden: Which patches are hidden, bool [B, P], and the token [W] that stands for them.
        norm: "pre" keeps CLIP's blocks, with DNorm before the MLP. "post" follows equation 3 exactly, which changes
            what the pretrained blocks compute.
    """
    x = visual.conv1(images).flatten(2).transpose(1, 2)
    if hidden is not None:
        mask, token = hidden
        x = torch.where(mask[:, :, None], token.to(x.dtype), x)
    cls = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
    x = visual.ln_pre(torch.cat([cls, x], dim=1) + visual.positional_embedding.to(x.dtype))
    found, written = [], None
    for number, block in enumerate(visual.transformer.resblocks, start=1):
        given = block.ln_1(x) if norm == "pre" else x
        if number - 1 in second_order:
            attended, weights = block.attn(given, given, given, need_weights=True, average_attn_weights=False)
            found.append(propagated(block.attn, weights[:, :, 0], written))
        else:
            attended = block.attn(given, given, given, need_weights=False)[0]
        if norm == "pre":
            x = x + attended
            written = block.mlp(_normed(block.ln_2, x, domain))
            x = x + written
        else:
            x = block.ln_1(x + attended)
            written = block.mlp(x)
            x = x + _normed(block.ln_2, written, domain)
    return TowerOutput(x[:, 0], x[:, 1:], found)


def _normed(norm: nn.Module, x: Tensor, domain: Tensor | None) -> Tensor:
    return norm(x) if domain is None else norm(x, domain)


def propagated(attention: nn.MultiheadAttention, weights: Tensor, written: Tensor) -> Tensor:
    """Delta_so, equation 7: sum over heads and tokens of a_hi W_VO^h m_i.

    Args:
        attention: Attention of the next block.
        weights: a, its class token's attention weights, [B, H, T].
        written: m, the MLP's output of each token, [B, T, W].

    Returns:
        [B, W]
    """
    values = written @ attention.in_proj_weight.chunk(3)[2].T
    values = values.unflatten(-1, (attention.num_heads, -1))
    return torch.einsum("bht,bthd->bhd", weights, values).flatten(1) @ attention.out_proj.weight.T


def _conv_stem(width: int, patch: int) -> nn.Sequential:
    steps = patch.bit_length() - 1
    widths = [3, *(max(width >> (steps - i), 8) for i in range(1, steps)), width]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(width, width, 1))
