"""Translates tensors of transformers' ViTs to timm's names."""

import re

from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from resproto_fd.detectors.parts.deepfakebench_names import clip_vit, joined, replaced

_DINOV3 = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.patch_embeddings\.", "patch_embed.proj."),
    (r"^(?:model\.)?layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.attention\.([qv])_proj\.bias$", r".attn.\1_bias"),
    (r"\.attention\.([qkv])_proj\.weight$", r".attn.\1.weight"),
    (r"\.layer_scale([12])\.lambda1$", r".gamma_\1"),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
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
    found = joined({replaced(key, _DINOV3): value for key, value in state.items()}, "q", "k", "v")
    own = vit.state_dict()
    return {
        key: value
        for key, value in found.items()
        if key != "embeddings.mask_token"
        and not (key not in own and re.search(r"\.attn\.[qv]_bias$", key) and not value.any())
    }
