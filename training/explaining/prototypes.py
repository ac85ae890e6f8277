"""The prototypes that a face is like, when they entered the memory, and the training frames that made them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.parts.prototype_memory import CLASSES, PrototypeMemory
from resproto_fd.trainer import checkpoint

NOT_RECORDED = "not recorded"


@dataclass(frozen=True)
class Near:
    """A prototype beside a face.

    Attributes:
        label: "real" or "forged".
        slot: Its place in the memory of its class.
        similarity: Cosine of the face's feature and the prototype, in [-1, 1].
        epoch, step: When it entered, counting from 0; None if that was not recorded.
        frames: Data set and canonical path of the training frames that were nearest to it when it entered; empty if
            that was not recorded.
    """

    label: str
    slot: int
    similarity: float
    epoch: int | None = None
    step: int | None = None
    frames: list[tuple[str, str]] = field(default_factory=list)


def memory_of(detector: Detector) -> PrototypeMemory | None:
    """The detector's prototype memory; None if it has none, or none is filled."""
    found = next((module for module in detector.modules() if isinstance(module, PrototypeMemory)), None)
    return found if found is not None and found.count.any() else None


def origins_in(weights: Path) -> dict[str, Any]:
    """What a file of weights tells of the origin of its prototypes; empty if it tells nothing usable."""
    told = (checkpoint.record_in(weights) or {}).get("origins")
    if not isinstance(told, dict):
        return {}
    members, entered, frames, sets = (told.get(key) for key in ("members", "entered", "frames", "datasets"))
    tensors = [value for value in (members, entered) if isinstance(value, Tensor) and value.dtype == torch.int64]
    whole = len(tensors) == 2 and members.ndim == 3 and entered.shape == (*members.shape[:2], 2)
    named = all(isinstance(value, list) and all(isinstance(text, str) for text in value) for value in (frames, sets))
    if not whole or not named or len(frames) != len(sets):
        return {}
    return told if (members < len(frames)).all() else {}


def nearest(memory: PrototypeMemory, features: Tensor, count: int, origins: dict[str, Any]) -> list[list[Near]]:
    """The prototypes most like each face, the most similar first.

    Args:
        memory: Filled.
        features: Of the faces, as the detector scores them, [B, D].
        count: Most prototypes of a face.
        origins: See `origins_in`.

    Raises:
        UserError: `count` is below 1.
    """
    if count < 1:
        raise UserError(f"--prototypes: expected at least 1, got {count}")
    with torch.no_grad():
        top, slots = memory.similarities(features).sort(dim=-1, descending=True, stable=True)
    kept = min(count, int(memory.count.sum()))
    return [
        [_near(memory, int(slot), float(cosine), origins) for cosine, slot in zip(row[:kept], places[:kept])]
        for row, places in zip(top.cpu(), slots.cpu())
    ]


def residual_map(detector: Detector, images: Tensor) -> np.ndarray | None:
    """The residual map of one face in [0, 1], [H, W]; None for a detector that has none."""
    if not hasattr(detector, "residual_map"):
        return None
    try:
        found = detector.residual_map(images)
    except UserError:  # a tower without patch tokens
        return None
    wide = F.interpolate(found[:, None].float(), images.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
    return ((wide - wide.min()) / (wide.max() - wide.min()).clamp(min=1e-12)).cpu().numpy()


def _near(memory: PrototypeMemory, place: int, similarity: float, origins: dict[str, Any]) -> Near:
    label, slot = divmod(place, memory.capacity)
    epoch, step, frames = None, None, []
    if origins and origins["members"].shape[:2] == (2, memory.capacity):
        when = origins["entered"][label, slot].tolist()
        epoch, step = (number if number >= 0 else None for number in when)
        known = [number for number in origins["members"][label, slot].tolist() if number >= 0]
        frames = [(origins["datasets"][number], origins["frames"][number]) for number in known]
    return Near(CLASSES[label], slot, similarity, epoch, step, frames)
