"""Translates the names of tensors in checkpoints of FatFormer's authors."""

import re

from torch import Tensor

from resproto_fd.detectors.weights import replaced

MARK = "language_guided_alignment."
"""Beginning of names that only these checkpoints have."""
_NAMES = (
    (r"^clip_model\.(visual\.|logit_scale$)", r"clip.\1"),
    (r"^clip_model\.", "clip.text."),
    (r"\.forgery_aware_adapter\.", ".adapter."),
    (r"(\.adapter\.)first_conv_layer\.", r"\1image.0."),
    (r"(\.adapter\.)second_conv_layer\.", r"\1image.3."),
    (r"(\.adapter\.)freq_scale$", r"\1share"),
    (r"(\.adapter\.)dwt_norm\.", r"\1frequency.norm."),
    (r"(\.adapter\.)intra_band\.", r"\1frequency.inter."),  # it attends across the bands, whatever its name
    (r"(\.adapter\.)norm_intra\.", r"\1frequency.inter_norm."),
    (r"(\.adapter\.)inter_band\.", r"\1frequency.intra."),
    (r"(\.adapter\.)norm_inter\.", r"\1frequency.intra_norm."),
    (r"(\.adapter\.)(linear[12]|norm3)\.", r"\1frequency.\2."),
    (r"^language_guided_alignment\.ctx$", "prompts.context"),
    (r"^language_guided_alignment\.token_prefix$", "prompts.before"),
    (r"^language_guided_alignment\.token_suffix$", "prompts.after"),
    (r"^language_guided_alignment\.", "prompts.enhance."),
    (r"\.patch_basaed_enhancer\.", ".attention."),
    (r"^text_guided_interactor\.", "interact.attention."),
    (r"^(norm[12]|linear[12])\.", r"interact.\1."),
    (r"^(prompts\.enhance|interact)\.norm1\.", r"\1.norm."),
    (r"\.norm[23]\.(\w+)$", r".feed_forward.norm.\1"),
    (r"\.linear1\.", ".feed_forward.network.0."),
    (r"\.linear2\.", ".feed_forward.network.3."),
)
_TWICE = ("image_encoder.", "text_encoder.", "logit_scale")
"""Parts of CLIP that the checkpoints hold a second time."""


def from_fatformer(state: dict[str, Tensor], words: int) -> dict[str, Tensor]:
    """Tensors of CLIP, its adapters and both attentions under our names.

    Filters of the wavelet, which are constants, are left out.

    Args:
        words: Words of a prompt after its context, to its end; the checkpoints also hold the padding behind.
    """
    state = {key: value for key, value in state.items() if not key.startswith(_TWICE) and "dwt_transform." not in key}
    block = r"clip_model\.visual\.transformer\.resblocks\.\d+\."
    adapted = {match[0] for key in state if (match := re.match(rf"{block}(?=forgery_aware_adapter\.)", key))}
    found = {}
    for key, value in state.items():
        match = re.match(rf"{block}(?!forgery_aware_adapter\.)", key)
        if match and match[0] in adapted:
            key = f"{match[0]}block.{key[match.end() :]}"
        found[replaced(key, _NAMES)] = value
    if (after := found.get("prompts.after")) is not None and after.ndim == 3:
        found["prompts.after"] = after[:, :words]
    return found
