"""Maps of what a detector looked at: attention weighted by its gradient for vision transformers, Grad-CAM for others.

Detectors whose layers have other places than the picture have the gradient of the pixels.

A map says which places carry the evidence for "fake". In shapes, B is the number of pictures, T of tokens, h and w the
places of a map.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.base import Detector, Output

SMALLEST = 2
"""Fewest places of a map's side."""
SQUARES = 16
"""Places of a side of the map that is made of pixels."""
PREDICTED = "map that the method predicts"
"""Title of that map."""


def evidence_map(detector: Detector, images: Tensor) -> tuple[Tensor, str]:
    """Where the evidence for "fake" lies, in [0, 1], float32 [B, H, W], and how it was found, in words.

    Args:
        detector: In evaluation mode. Its parameters and buffers are left as they are.
        images: Normalised, [B, 3, H, W].

    Raises:
        UserError: The score depends on no place of the picture; or the library for Grad-CAM is missing.
    """
    with torch.enable_grad():
        found, how = _evidence(detector, images)
    wide = F.interpolate(found[:, None].float(), images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    low, high = wide.amin(dim=(1, 2), keepdim=True), wide.amax(dim=(1, 2), keepdim=True)
    return ((wide - low) / (high - low).clamp(min=1e-12)).detach(), how


def _evidence(detector: Detector, images: Tensor) -> tuple[Tensor, str]:
    """The first map of those that the detector allows, [B, h, w], and how it was found."""
    name, parts = type(detector).__name__, detector.map_parts
    if parts is None:
        if (found := _of_pixels(detector, images)) is None:
            raise UserError(f"{name}: its score has no gradient by the picture, so there is no map of it")
        return found, "gradient times picture"
    if not parts and (found := _attention_map(detector, images)) is not None:
        return found, "gradient-weighted attention"
    return _grad_cam(detector, images)


@torch.no_grad()
def predicted_map(detector: Detector, images: Tensor) -> Tensor | None:
    """The map that the method itself predicts, in [0, 1], float32 [B, H, W]; None if it predicts none."""
    found = detector.predicted_map(images)
    if found is None:
        return None
    return F.interpolate(found[:, None].float(), images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]


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


@dataclass(frozen=True)
class _Block:
    """Attention of one block: its weights [B, heads, T, T], and the width of a token if it is known."""

    weights: Tensor
    width: int | None


def _attention_map(detector: Detector, images: Tensor) -> Tensor | None:
    """Relevance of each patch by Chefer et al. (CVPR 2021), [B, h, w]; None if the detector has no such attention.

    The attention weights of each block, times their gradient, without what is negative, are averaged over the heads and
    multiplied up through the blocks. The map is the relevance of the patches for the tokens that the score reads: those
    of the last block that have a gradient, which are the class token, or all tokens where their mean is read.
    """
    with _attention_weights(detector, len(images)) as (blocks, grids):
        evidence = fake_evidence(detector(images.detach().requires_grad_()))
    blocks = [block for block in blocks if block.weights.requires_grad]
    tower = _tower(blocks, grids)
    if tower is None or not evidence.requires_grad:
        return None
    found, (height, width) = tower
    gradients = torch.autograd.grad(evidence.sum(), found, allow_unused=True)
    pairs = [(weights, gradient) for weights, gradient in zip(found, gradients, strict=True) if gradient is not None]
    if not pairs:
        return None
    tokens = found[0].shape[-1]
    own = torch.eye(tokens, device=images.device)
    relevance = own.expand(len(images), -1, -1)
    for weights, gradient in pairs:
        relevance = relevance + (gradient * weights).clamp(min=0).mean(dim=1).float() @ relevance
    read = (pairs[-1][1] != 0).any(dim=3).any(dim=1).float()
    rows = (read[:, :, None] * (relevance - own)).sum(dim=1) / read.sum(dim=1, keepdim=True).clamp(min=1)
    return rows[:, tokens - height * width :].unflatten(1, (height, width))  # class tokens and queries come first


def _tower(
    blocks: Sequence[_Block], grids: Sequence[tuple[int, int, int]]
) -> tuple[list[Tensor], tuple[int, int]] | None:
    """The attention of the tower that reads patches, in order, and the patches' rows and columns; None without one.

    Args:
        blocks: That ran.
        grids: Channels, rows and columns of the maps of each convolution: those of one are the patches.
    """
    for tokens in sorted({block.weights.shape[-1] for block in blocks}, reverse=True):
        own = [block for block in blocks if block.weights.shape[-1] == tokens]
        widths = {block.width for block in own if block.width is not None}
        fits = [
            (height * width, (height, width))
            for channels, height, width in grids
            if (not widths or channels in widths) and SMALLEST**2 <= height * width <= tokens
        ]
        if fits:
            return [block.weights for block in own], max(fits)[1]
    return None


@contextmanager
def _attention_weights(detector: Detector, count: int) -> Iterator[tuple[list[_Block], list[tuple[int, int, int]]]]:
    """In the block, what runs is listed in order: attention among the tokens of each picture, and grids of places.

    Attention is written out, since torch's own keeps no weights. Masked attention is that of texts, and is left out. So
    is attention that pools the last maps of a convolutional network, which Grad-CAM shows.

    Args:
        detector: Its attention is computed by `scaled_dot_product_attention` or by `F.softmax`.
        count: B.
    """
    blocks: list[_Block] = []
    grids: list[tuple[int, int, int]] = []
    pooling: list[nn.Module] = []  # those that run
    fused, softmax = F.scaled_dot_product_attention, F.softmax

    def written_out(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **options):
        alike = query.ndim == 4 and query.shape == key.shape and len(query) == count and not pooling
        if not alike or attn_mask is not None or dropout_p or is_causal:
            return fused(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **options)
        weights = (query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)).softmax(dim=-1)
        blocks.append(_Block(weights, query.shape[1] * query.shape[3]))
        return weights @ value

    def noted(values, *arguments, **options):
        weights = softmax(values, *arguments, **options)
        if pooling:
            return weights
        if weights.ndim == 3 and len(weights) % count == 0:  # heads are in the batch
            weights = weights.unflatten(0, (count, -1))
            blocks.append(_Block(weights, None))
            return weights.flatten(0, 1)
        if weights.ndim == 4 and len(weights) == count:
            blocks.append(_Block(weights, None))
        return weights

    def grid(module, given, result) -> None:
        if result.ndim == 4 and len(result) == count:
            grids.append(tuple(result.shape[1:]))

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(F, "scaled_dot_product_attention", written_out))
        stack.enter_context(mock.patch.object(F, "softmax", noted))
        for module in detector.modules():
            if hasattr(module, "fused_attn"):
                stack.enter_context(mock.patch.object(module, "fused_attn", True))
            if "AttentionPool" in type(module).__name__:  # of open_clip and timm
                stack.callback(module.register_forward_pre_hook(lambda pool, _: pooling.append(pool)).remove)
                stack.callback(module.register_forward_hook(lambda *_: pooling.clear()).remove)
            if isinstance(module, nn.Conv2d):
                stack.callback(module.register_forward_hook(grid).remove)
        yield blocks, grids
        blocks[:] = [block for block in blocks if block.weights.shape[-1] == block.weights.shape[-2]]


# --- Grad-CAM --------------------------------------------------------------------------------------------------------


def _grad_cam(detector: Detector, images: Tensor) -> tuple[Tensor, str]:
    """Grad-CAM (Selvaraju et al., ICCV 2017) by the library grad-cam, [B, h, w], and its layers in words.

    Of several layers it is the mean of their maps.
    """
    names = places_layers(detector, images)
    if not names:
        raise UserError(f"{type(detector).__name__} has no layer of places, so there is no map of it")
    if find_spec("pytorch_grad_cam") is None:
        raise UserError("expected grad-cam installed for maps of this detector; pip install 'resproto-fd[explain]'")
    from pytorch_grad_cam import GradCAM

    before = [(parameter, parameter.grad) for parameter in detector.parameters()]
    layers = [detector.get_submodule(name) for name in names]
    last = _channels_last(detector, names[0])
    try:
        with GradCAM(_EvidenceOf(detector), layers, (lambda x: x.permute(0, 3, 1, 2)) if last else None) as cam:
            found = cam(images.detach().requires_grad_(), targets=[_Evidence()] * len(images))
    finally:
        for parameter, gradient in before:  # the library leaves its own
            parameter.grad = gradient
    return torch.from_numpy(np.asarray(found)), f"Grad-CAM of {' and '.join(names)}"


def places_layers(detector: Detector, images: Tensor) -> list[str]:
    """Names of the layers that Grad-CAM reads: of each of the detector's `map_parts` the last one that can be.

    Such a layer gives maps of at least 2 x 2 places which the score depends on. It is found by running the detector, so
    it need not be named for each. A detector without `map_parts` is one part.
    """
    seen: list[tuple[str, Tensor]] = []

    def note(module, given, result, name) -> None:
        if not isinstance(result, Tensor) or result.ndim != 4 or len(result) != len(images) or not result.requires_grad:
            return
        shape = result.shape[1:]
        height, width, channels = shape if _channels_last(detector, name) else (*shape[1:], shape[0])
        if min(height, width) >= SMALLEST and channels > 3:
            seen.append((name, result))

    hooks = [m.register_forward_hook(partial(note, name=name)) for name, m in detector.named_modules() if name]
    try:
        with torch.enable_grad():
            evidence = fake_evidence(detector(images.detach().requires_grad_()))
    finally:
        for hook in hooks:
            hook.remove()
    if not seen or not evidence.requires_grad:
        return []
    gradients = torch.autograd.grad(evidence.sum(), [result for _, result in seen], allow_unused=True)
    used = [name for (name, _), g in zip(seen, gradients, strict=True) if g is not None and bool(g.abs().sum() > 0)]
    parts = [[name for name in used if f"{name}.".startswith(f"{part}.")] for part in detector.map_parts] or [used]
    return [names[-1] for names in parts if names]


def _channels_last(detector: Detector, name: str) -> bool:
    """Whether a layer's maps are [B, h, w, C], as the network around it states in timm's manner."""
    while name:
        stated = getattr(detector.get_submodule(name), "output_fmt", None)
        if stated is not None:
            return stated == "NHWC"
        name = name.rpartition(".")[0]
    return False


def _of_pixels(detector: Detector, images: Tensor) -> Tensor | None:
    """The gradient times the picture, positive parts, added up within squares, [B, h, w]; None without a gradient.

    For detectors whose layers have other places than the picture. (Shrikumar et al., arXiv 1605.01713.)
    """
    leaf = images.detach().requires_grad_()
    evidence = fake_evidence(detector(leaf))
    if not evidence.requires_grad:
        return None
    (gradient,) = torch.autograd.grad(evidence.sum(), leaf, allow_unused=True)
    if gradient is None or not gradient.any():
        return None
    return F.adaptive_avg_pool2d((gradient * leaf).detach().sum(dim=1).clamp(min=0)[:, None], SQUARES)[:, 0]


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
