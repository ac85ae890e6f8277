"""Translates names of DeepfakeBench's checkpoint tensors to those of the same networks in timm and open_clip.

Each function takes a key of a DeepfakeBench checkpoint and returns the name here, or None for a tensor without effect
on the scores. An unknown key is returned unchanged; loading then reports it.
"""

import re

import torch

_STAGES = {4: "layer1", 5: "layer2", 6: "layer3", 7: "layer4"}
_STAGE_STARTS = (0, 2, 6, 10, 16, 22, 30)
"""First block of each stage of EfficientNet-B4."""
_WITH_EXPANSION = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand", "_project_conv": "conv_pwl", "_bn2": "bn3",
}  # fmt: skip
_WITHOUT_EXPANSION = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand",
    "_project_conv": "conv_pw", "_bn2": "bn2",
}  # fmt: skip
_STEM_AND_HEAD = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
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


def xception(key: str) -> str | None:
    """Name in timm's legacy_xception under a linear classifier; `adjust_channel` is unused in every checkpoint.

    >>> xception("backbone.block2.rep.1.conv1.weight"), xception("backbone.last_linear.bias")
    ('backbone.block2.rep.1.conv1.weight', 'classifier.1.bias')
    """
    if key.startswith("backbone.adjust_channel."):
        return None
    return re.sub(r"^backbone\.last_linear\.(1\.)?", "classifier.1.", key)


def resnet(key: str) -> str:
    """Name in timm's ResNets.

    >>> resnet("backbone.resnet.5.0.downsample.1.weight"), resnet("backbone.fc.weight")
    ('backbone.layer2.0.downsample.1.weight', 'classifier.1.weight')
    """
    key = re.sub(r"^backbone\.fc\.", "classifier.1.", key)
    key = re.sub(r"^backbone\.resnet\.([4-7])\.", lambda m: f"backbone.{_STAGES[int(m[1])]}.", key)
    return re.sub(r"^backbone\.resnet\.([01])\.", lambda m: f"backbone.{('conv1', 'bn1')[int(m[1])]}.", key)


def efficientnet(key: str) -> str:
    """Name in timm's EfficientNet-B4.

    >>> efficientnet("backbone.efficientnet._blocks.7._se_reduce.bias")
    'backbone.blocks.2.1.se.conv_reduce.bias'
    """
    key = key.replace("backbone.last_layer.", "classifier.1.")
    if match := re.fullmatch(r"backbone\.efficientnet\._blocks\.(\d+)\.(\w+)\.(\w+)", key):
        block, part, tensor = int(match[1]), match[2], match[3]
        stage = max(i for i, start in enumerate(_STAGE_STARTS) if start <= block)
        parts = _WITH_EXPANSION if stage else _WITHOUT_EXPANSION
        return f"backbone.blocks.{stage}.{block - _STAGE_STARTS[stage]}.{parts.get(part, part)}.{tensor}"
    if match := re.fullmatch(r"backbone\.efficientnet\.(\w+)\.(\w+)", key):
        return f"backbone.{_STEM_AND_HEAD.get(match[1], match[1])}.{match[2]}"
    return key


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


def swin(key: str) -> str | None:
    """Name in timm's Swin transformers under a linear classifier; tables that follow from the sizes are left out.

    >>> swin("layers.0.downsample.norm.bias"), swin("layers.0.blocks.1.attn_mask"), swin("head.bias")
    ('backbone.layers.1.downsample.norm.bias', None, 'classifier.1.bias')
    """
    if key.endswith((".relative_position_index", ".attn_mask")):
        return None
    if key.startswith("head."):
        return key.replace("head.", "classifier.1.")
    return "backbone." + re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", key)


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


def replaced(key: str, table: tuple) -> str:
    """A name after all replacements of a table, (pattern, ours) each, one after the other."""
    for pattern, ours in table:
        key = re.sub(pattern, ours, key)
    return key


def joined(state: dict, *parts: str) -> dict:
    """Queries, keys and values of each attention as one tensor, `qkv`; those that lack a part are unchanged."""
    found = dict(state)
    for key in state:
        start, dot, end = key.rpartition(f".{parts[0]}.")
        names = [f"{start}.{part}.{end}" for part in parts]
        if dot and all(name in state for name in names):
            found[f"{start}.qkv.{end}"] = torch.cat([found.pop(name) for name in names])
    return found


NETWORKS = {"Xception": xception, "ResNet": resnet, "EfficientNet": efficientnet}
"""timm class -> function that translates its names."""
