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


NETWORKS = {"Xception": xception, "ResNet": resnet, "EfficientNet": efficientnet}
"""timm class -> function that translates its names."""
