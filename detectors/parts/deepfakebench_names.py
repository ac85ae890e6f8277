"""Translates names of DeepfakeBench's checkpoint tensors to those of the same networks in timm.

Each function takes a key of a DeepfakeBench checkpoint and returns the name here, or None for a tensor without effect
on the scores. An unknown key is returned unchanged; loading then reports it.
"""

import re

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


NETWORKS = {"Xception": xception, "ResNet": resnet, "EfficientNet": efficientnet}
"""timm class -> function that translates its names."""
