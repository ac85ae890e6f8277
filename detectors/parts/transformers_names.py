"""Translates tensors of transformers' networks to the names of timm and open_clip."""

import re

import torch
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from resproto_fd.detectors.weights import replaced

_TRANSFORMERS_PARTS = ("vision_model.", "text_model.", "visual_projection.", "text_projection.")
_CLIP = (
    (r"embeddings\.token_embedding\.", "token_embedding."),
    (r"final_layer_norm\.", "ln_final."),
    (r"embeddings\.class_embedding$", "class_embedding"),
    (r"embeddings\.patch_embedding\.", "conv1."),
    (r"embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"pre_layrnorm\.", "ln_pre."),
    (r"post_layernorm\.", "ln_post."),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.", r"transformer.resblocks.\1.ln_\2."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc1\.", r"transformer.resblocks.\1.mlp.c_fc."),
    (r"encoder\.layers\.(\d+)\.mlp\.fc2\.", r"transformer.resblocks.\1.mlp.c_proj."),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"transformer.resblocks.\1.attn.out_proj."),
)
_TRANSFORMERS_VIT = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^encoder\.layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.temporal_layernorm\.", ".temporal_norm."),
    (r"\.temporal_dense\.", ".temporal_project."),
    (r"\.(temporal_)?attention\.output\.dense\.", r".\1attn.proj."),
    (r"\.attention\.attention\.query\.bias$", ".attn.q_bias"),  # transformers 5
    (r"\.attention\.attention\.value\.bias$", ".attn.v_bias"),
    (r"\.(temporal_)?attention\.attention\.", r".\1attn."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
_TRANSFORMERS_XCLIP = (
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^embeddings\.patch_embedding\.", "patch_embed.proj."),
    (r"^pre_layernorm\.", "norm_pre."),
    (r"^post_layernorm\.", "norm."),
    (r"^encoder\.layers\.(\d+)\.message_fc\.", r"messages.\1.write."),
    (r"^encoder\.layers\.(\d+)\.message_ln\.", r"messages.\1.norm."),
    (r"^encoder\.layers\.(\d+)\.message_attn\.", r"messages.\1.attn."),
    (r"^encoder\.layers\.(\d+)\.self_attn\.", r"blocks.\1.attn."),
    (r"^encoder\.layers\.(\d+)\.layer_norm([12])\.", r"blocks.\1.norm\2."),
    (r"^encoder\.layers\.(\d+)\.mlp\.", r"blocks.\1.mlp."),
    (r"\.out_proj\.", ".proj."),
)
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


def clip_vit(state: dict, prefix: str = "backbone.") -> dict:
    """Tensors of a Hugging Face CLIP image tower under open_clip's names: queries, keys and values joined.

    Args:
        state: Tensors without the prefix are left out.
        prefix: Prefix of the tower's keys.
    """
    named = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    found, joined = {}, {}
    for key, value in named.items():
        if match := re.fullmatch(r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)", key):
            joined.setdefault((match[1], match[3]), {})[match[2]] = value
            continue
        for pattern, ours in _CLIP:
            key, count = re.subn(f"^{pattern}", ours, key)
            if count:
                break
        found[key] = value
    for (layer, tensor), parts in joined.items():
        if set(parts) == {"q", "k", "v"}:
            name = f"transformer.resblocks.{layer}.attn.in_proj_{tensor}"
            found[name] = torch.cat([parts[part] for part in "qkv"])
    return found


def transformers_clip(state: dict) -> dict:
    """Tensors of transformers' CLIPModel under the names of open_clip's CustomTextCLIP."""
    found = {key: value for key, value in state.items() if not key.startswith(_TRANSFORMERS_PARTS)}
    found |= {f"visual.{key}": value for key, value in clip_vit(state, "vision_model.").items()}
    found |= {f"text.{key}": value for key, value in clip_vit(state, "text_model.").items()}
    for theirs, ours in (
        ("visual_projection.weight", "visual.proj"),
        ("text_projection.weight", "text.text_projection"),
    ):
        if theirs in state:
            found[ours] = state[theirs].T
    return found


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


def transformers_vit(state: dict) -> dict:
    """Tensors of transformers' TimeSformer or VideoMAE (of version 4 or 5) under the names of timm's ViTs.

    Parts of TimeSformer's time attention keep the prefix `temporal_`.

    Args:
        state: Without a prefix; other keys are unchanged.
    """
    return joined({replaced(key, _TRANSFORMERS_VIT): value for key, value in state.items()}, "query", "key", "value")


def transformers_xclip(state: dict) -> dict:
    """Tensors of transformers' X-CLIP image tower, without prefix, under the names of timm's ViTs and `messages.N`."""
    named = {replaced(key, _TRANSFORMERS_XCLIP): value for key, value in state.items()}
    return joined(named, "q_proj", "k_proj", "v_proj")


def joined(state: dict, *parts: str) -> dict:
    """Queries, keys and values of each attention as one tensor, `qkv`; those that lack a part are unchanged."""
    found = dict(state)
    for key in state:
        start, dot, end = key.rpartition(f".{parts[0]}.")
        names = [f"{start}.{part}.{end}" for part in parts]
        if dot and all(name in state for name in names):
            found[f"{start}.qkv.{end}"] = torch.cat([found.pop(name) for name in names])
    return found
