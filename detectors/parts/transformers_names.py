"""Translates tensors of transformers' ViTs to timm's names."""

import re

import torch
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from resproto_fd.detectors.parts.deepfakebench_names import clip_vit

_DINOV3 = (
    (r"embeddings\.cls_token$", "cls_token"),
    (r"embeddings\.register_tokens$", "reg_token"),
    (r"embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"(?:model\.)?layer\.(\d+)\.norm([12])\.", r"blocks.\1.norm\2."),
    (r"(?:model\.)?layer\.(\d+)\.attention\.o_proj\.", r"blocks.\1.attn.proj."),
    (r"(?:model\.)?layer\.(\d+)\.attention\.([qv])_proj\.bias$", r"blocks.\1.attn.\2_bias"),
    (r"(?:model\.)?layer\.(\d+)\.layer_scale([12])\.lambda1$", r"blocks.\1.gamma_\2"),
    (r"(?:model\.)?layer\.(\d+)\.mlp\.up_proj\.", r"blocks.\1.mlp.fc1."),
    (r"(?:model\.)?layer\.(\d+)\.mlp\.down_proj\.", r"blocks.\1.mlp.fc2."),
)


def clip_in_timm(state: dict[str, Tensor], vit: nn.Module) -> dict[str, Tensor]:
    """Tensors of the image tower of transformers' CLIPModel, before its projection, under timm's names.

    Args:
        state: Tensors under `vision_model.`; others are left out.
        vit: The network of timm that they are for.
    """
    tower = {f"visual.{key}": value for key, value in clip_vit(state, "vision_model.").items()}
    return checkpoint_filter_fn({k: v for k, v in tower.items() if not k.endswith("position_ids")}, vit)


def dinov3_in_timm(state: dict[str, Tensor], vit: nn.Module) -> dict[str, Tensor]:
    """Tensors of transformers' DINOv3ViTModel under timm's names, without the mask token of its pretraining.

    Biases of queries and values that are 0 everywhere are left out where `vit` has none.
    """
    found, joined = {}, {}
    for key, value in state.items():
        if match := re.search(r"layer\.(\d+)\.attention\.([qkv])_proj\.weight$", key):
            joined.setdefault(match[1], {})[match[2]] = value
            continue
        for pattern, ours in _DINOV3:
            key, count = re.subn(f"^{pattern}", ours, key)
            if count:
                break
        found[key] = value
    for layer, parts in joined.items():
        if set(parts) == {"q", "k", "v"}:
            found[f"blocks.{layer}.attn.qkv.weight"] = torch.cat([parts[part] for part in "qkv"])
    own = vit.state_dict()
    return {
        key: value
        for key, value in found.items()
        if key != "embeddings.mask_token"
        and not (key not in own and re.search(r"\.attn\.[qv]_bias$", key) and not value.any())
    }
