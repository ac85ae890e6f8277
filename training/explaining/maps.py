"""Maps of what a detector looked at: attention weighted by its gradient for vision transformers, Grad-CAM for others.

A map says which places carry the evidence for "fake". In shapes, B is the number of pictures, T of tokens, h and w the
places of a map.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from unittest import mock

import numpy as np
import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.base import Detector, Output

SMALLEST = 2
"""Fewest places of a Grad-CAM layer's side."""


def evidence_map(detector: Detector, images: Tensor) -> tuple[Tensor, str]:
    """Where the evidence for "fake" lies, in [0, 1], float32 [B, H, W], and how it was found, in words.

    Args:
        detector: In evaluation mode. Its parameters and buffers are left as they are.
        images: Normalised, [B, 3, H, W].

    Raises:
        UserError: The detector has neither attention nor a layer of places; or the library for Grad-CAM is missing.
    """
    with torch.enable_grad():
        tokens = _attention_map(detector, images)
        found, how = (tokens, "gradient-weighted attention") if tokens is not None else (None, "")
        if found is None:
            found, how = _grad_cam(detector, images)
    wide = F.interpolate(found[:, None].float(), images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    low, high = wide.amin(dim=(1, 2), keepdim=True), wide.amax(dim=(1, 2), keepdim=True)
    return ((wide - low) / (high - low).clamp(min=1e-12)).detach(), how


def fake_evidence(output: Output) -> Tensor:
    """The log odds of "fake", [B]: of the logits if the score is their softmax, else of the score itself."""
    odds = output.logits[:, 1] - output.logits[:, 0]
    if torch.allclose(odds.detach().sigmoid().float(), output.scores, atol=1e-5):
        return odds
    scores = output.scores.clamp(1e-6, 1 - 1e-6)
    return scores.log() - (1 - scores).log()


def mass_inside(maps: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The share of each map's sum that lies inside its mask, [B]; NaN for an empty map or mask.

    A map that knows nothing has the mask's share of the area.

    Args:
        maps: Not negative, [B, H, W].
        masks: True inside, [B, H, W].
    """
    inside, whole = (maps * masks).sum(axis=(1, 2)), maps.sum(axis=(1, 2))
    usable = (whole > 0) & masks.any(axis=(1, 2))
    return np.where(usable, inside / np.where(whole > 0, whole, 1), np.nan)


# --- attention -------------------------------------------------------------------------------------------------------


def _attention_map(detector: Detector, images: Tensor) -> Tensor | None:
    """Relevance of each patch by Chefer et al. (CVPR 2021), [B, h, w]; None if the detector has no such attention.

    The attention weights of each block, times their gradient, without what is negative, are averaged over the heads and
    multiplied up through the blocks. The relevance of the patches for the class token is the map; without a class token
    it is their relevance for all patches.
    """
    leaf = images.detach().requires_grad_()
    with _attention_weights(detector) as blocks:
        evidence = fake_evidence(detector(leaf))
        found = [weights for weights in blocks if weights.requires_grad]
        if not found or not evidence.requires_grad:
            return None
        # The tower that reads patches has the most tokens; others (a text tower, a fusion) are left out.
        tokens = max(weights.shape[-1] for weights in found)
        found = [weights for weights in found if weights.shape[-1] == tokens == weights.shape[-2]]
        gradients = torch.autograd.grad(evidence.sum(), found, allow_unused=True)
    relevance = torch.eye(tokens, device=images.device).expand(len(images), -1, -1)
    used = False
    for weights, gradient in zip(found, gradients, strict=True):
        if gradient is None or len(weights) != len(images):
            continue
        used = True
        relevance = relevance + (gradient * weights).clamp(min=0).mean(dim=1).float() @ relevance
    side = math.isqrt(tokens)
    if not used or side < SMALLEST:
        return None
    extra = tokens - side * side  # a class token and registers come first
    rows = relevance[:, 0, extra:] if extra else (relevance - torch.eye(tokens, device=images.device)).mean(dim=1)
    return rows.reshape(-1, side, side)


@contextmanager
def _attention_weights(detector: Detector) -> Iterator[list[Tensor]]:
    """In the block, the attention weights of each block that runs are listed, [B, heads, T, T], in order."""
    found: list[Tensor] = []
    with ExitStack() as stack:
        for module in detector.modules():
            if isinstance(module, nn.MultiheadAttention):
                stack.enter_context(mock.patch.object(module, "forward", _telling(module, found)))
            elif isinstance(module, Attention):
                stack.enter_context(mock.patch.object(module, "fused_attn", False))
                hook = module.attn_drop.register_forward_hook(lambda _, given, result: _kept(found, result))
                stack.callback(hook.remove)
        yield found


def _kept(found: list[Tensor], weights: Tensor) -> None:
    if weights.ndim == 4:
        found.append(weights)


def _telling(module: nn.MultiheadAttention, found: list[Tensor]) -> Callable:
    """The module's forward, written out: torch's own returns a copy of the weights, not those that it used."""
    plain = module.forward

    def forward(query, key, value, key_padding_mask=None, need_weights=True, attn_mask=None, **options):
        if query is not key or key is not value or key_padding_mask is not None or not module._qkv_same_embed_dim:
            return plain(query, key, value, key_padding_mask, need_weights, attn_mask, **options)
        tokens = query if module.batch_first else query.transpose(0, 1)
        joined = F.linear(tokens, module.in_proj_weight, module.in_proj_bias)
        q, k, v = joined.unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, T, d] each
        odds = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if attn_mask is not None:
            odds = odds.masked_fill(attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else odds + attn_mask
        weights = odds.softmax(dim=-1)
        _kept(found, weights)
        result = module.out_proj((weights @ v).transpose(1, 2).flatten(2))
        told = weights.mean(dim=1) if options.get("average_attn_weights", True) else weights
        return (result if module.batch_first else result.transpose(0, 1)), (told if need_weights else None)

    return forward


# --- Grad-CAM --------------------------------------------------------------------------------------------------------


def _grad_cam(detector: Detector, images: Tensor) -> tuple[Tensor, str]:
    """Grad-CAM (Selvaraju et al., ICCV 2017) by the library grad-cam, [B, h, w], and its layer in words."""
    if find_spec("pytorch_grad_cam") is None:
        raise UserError("expected grad-cam installed for maps of this detector; pip install 'resproto-fd[explain]'")
    from pytorch_grad_cam import GradCAM

    name = places_layer(detector, images)
    if name is None:
        raise UserError(f"{type(detector).__name__} has no layer of places, so there is no map of it")
    before = [(parameter, parameter.grad) for parameter in detector.parameters()]
    try:
        with GradCAM(_EvidenceOf(detector), [detector.get_submodule(name)]) as cam:
            found = cam(images.detach().requires_grad_(), targets=[_Evidence()] * len(images))
    finally:
        for parameter, gradient in before:  # the library leaves its own
            parameter.grad = gradient
    return torch.from_numpy(np.asarray(found)), f"Grad-CAM of {name}"


def places_layer(detector: Detector, images: Tensor) -> str | None:
    """Name of the last layer that gives maps [B, C, h, w] of at least 2 x 2 places which the score depends on.

    None if there is none. The layer is found by running the detector, so it need not be named for each.
    """
    names, seen = {module: name for name, module in detector.named_modules() if name}, []

    def note(module, given, result) -> None:
        is_maps = isinstance(result, Tensor) and result.ndim == 4 and len(result) == len(images)
        if is_maps and min(result.shape[-2:]) >= SMALLEST and result.shape[1] > 3 and result.requires_grad:
            seen.append((module, result))

    hooks = [module.register_forward_hook(note) for module in names]
    try:
        with torch.enable_grad():
            evidence = fake_evidence(detector(images.detach().requires_grad_()))
    finally:
        for hook in hooks:
            hook.remove()
    if not seen or not evidence.requires_grad:
        return None
    gradients = torch.autograd.grad(evidence.sum(), [result for _, result in seen], allow_unused=True)
    for (module, _), gradient in reversed(list(zip(seen, gradients, strict=True))):
        if gradient is not None and gradient.abs().sum() > 0:
            return names[module]
    return None


class _EvidenceOf(nn.Module):
    """A detector whose result is the log odds of "fake", [B, 1]."""

    def __init__(self, detector: Detector):
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tensor:
        return fake_evidence(self.detector(images))[:, None]


class _Evidence:
    def __call__(self, result: Tensor) -> Tensor:
        return result[..., 0]
