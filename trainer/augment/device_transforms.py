"""Augmentation on the device, in batches: the host draws the views, and matrix products carry them out.

Resizing and cropping are linear in the rows and in the columns, so two matrices of cubic weights do both for a sample.
After each step the values are rounded to bytes, as OpenCV does. The result equals the host's up to rounding. A sample's
result does not depend on the rest of its batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from resproto_fd.trainer.augment.views import View, Viewing

STORED_SIDE = 256
"""Usual side of a stored face crop. Larger ones work too; they only take longer between processes."""
COLUMNS = (*View._fields, "stored_height", "stored_width")
CUBIC = -0.75
"""Free parameter of the cubic, with OpenCV's value."""


@dataclass(frozen=True)
class OnDevice:
    """Transform that is drawn on the host and carried out on the device.

    Args:
        viewing: Draws the views.
    """

    viewing: Viewing

    @property
    def side(self) -> int:
        """Side of the pictures that the host sends, in pixels."""
        return STORED_SIDE

    def draw(self, seed: int, height: int, width: int) -> tuple[float, ...]:
        """Draws the view of a stored frame of a size; returns it and that size."""
        return (*self.viewing.draw(seed, height, width), height, width)

    def batch(self, images: Tensor, drawn: Sequence[tuple[float, ...]]) -> "Unaugmented":
        """Makes what the host sends: stored frames, uint8 [B, 3, H, W], and what was drawn for each."""
        views = torch.tensor([[float(value) for value in view] for view in drawn])
        return Unaugmented(images, views, self.viewing.config.size, self.viewing.resized)


@dataclass(frozen=True)
class Unaugmented:
    """Batch of stored frames, and the view of each.

    Attributes:
        images: uint8 [B, 3, H, W], each in the upper left corner. Pixels beside a smaller one are undefined.
        views: Fields of its `View`, then height and width of the stored frame, [B, 13].
        size: Side S of the resulting square.
        resized: `View.resized` of all.
        frames: Frames of a clip, T, if the frames are those of clips, one clip after another.
    """

    images: Tensor
    views: Tensor
    size: int
    resized: int
    frames: int = 1

    def __len__(self) -> int:
        return len(self.images) // self.frames

    def to(self, device: torch.device, non_blocking: bool = False) -> "Unaugmented":
        """Moves it to a device."""
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in ("images", "views")}
        return replace(self, **moved)

    def pin_memory(self) -> "Unaugmented":
        """Copies it to pinned memory, from which a GPU is fed without waiting."""
        return replace(self, images=self.images.pin_memory(), views=self.views.pin_memory())

    @torch.no_grad()
    def augmented(self) -> Tensor:
        """Carries out the views: uint8 [B, 3, S, S], or [B / T, T, 3, S, S] of clips."""
        # Bytes need more bits than bf16 has, whatever precision the caller uses.
        with torch.autocast(self.images.device.type, enabled=False):
            views = {name: self.views[:, i, None] for i, name in enumerate(COLUMNS)}
            images = self.images.float()
            nought = torch.zeros_like(views["top"])
            if self.resized:
                rows = _cubic(nought, views["stored_height"], self.resized, images.shape[2])
                columns = _cubic(nought, views["stored_width"], self.resized, images.shape[3])
                images = _bytes(rows @ images @ columns.mT)
            rows = _cubic(views["top"], views["height"], self.size, images.shape[2])
            columns = _cubic(views["left"], views["width"], self.size, images.shape[3])
            columns = torch.where(views["flipped"][..., None, None] > 0, columns.flip(2), columns)
            images = _bytes(rows @ images @ columns.mT)
            images = _bytes(_blurred(images, views["sigma"]))
            images = images.masked_fill_(_erased(views, self.size), 0).to(torch.uint8)
            return images if self.frames == 1 else images.unflatten(0, (-1, self.frames))


def _bytes(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255)


def _cubic(first: Tensor, length: Tensor, wanted: int, available: int) -> Tensor:
    """Weights that resize a part of a line: [B, 1, wanted, available].

    Args:
        first, length: First sample and length of the part, [B, 1]. Samples outside it have no weight.
        wanted: Samples of the result.
        available: Samples of the line.
    """
    places = torch.arange(wanted, device=first.device)
    position = first + (places + 0.5) * (length / wanted) - 0.5
    below = position.floor()
    x = position - below
    outer = ((CUBIC * (x + 1) - 5 * CUBIC) * (x + 1) + 8 * CUBIC) * (x + 1) - 4 * CUBIC
    inner = ((CUBIC + 2) * x - (CUBIC + 3)) * x * x + 1
    y = 1 - x
    inner_above = ((CUBIC + 2) * y - (CUBIC + 3)) * y * y + 1
    samples = torch.arange(available, device=first.device)
    weights = torch.zeros((), device=first.device)
    for step, weight in enumerate((outer, inner, inner_above, 1 - outer - inner - inner_above), start=-1):
        place = torch.minimum(torch.maximum(below + step, first), first + length - 1)
        weights = weights + weight[..., None] * (place[..., None] == samples)
    return weights[:, None]


def _blurred(images: Tensor, sigma: Tensor) -> Tensor:
    """Blurs each picture by a 3 x 3 Gaussian of its own deviation ([B, 1]; 0 for none), mirrored at the edges."""
    side = torch.exp(-0.5 / sigma.clamp_min(1e-3).square())[..., None, None]
    centre = 1 / (1 + 2 * side)
    side = side * centre
    wide = F.pad(images, (1, 1, 0, 0), mode="reflect")
    images = centre * images + side * (wide[..., :-2] + wide[..., 2:])
    high = F.pad(images, (0, 0, 1, 1), mode="reflect")
    return centre * images + side * (high[..., :-2, :] + high[..., 2:, :])


def _erased(views: dict[str, Tensor], size: int) -> Tensor:
    """Mask of the part of each picture that is set to black: [B, 1, S, S]."""
    places = torch.arange(size, device=views["top"].device)

    def within(first: Tensor, length: Tensor) -> Tensor:
        return (places >= first) & (places < first + length)

    rows = within(views["erased_top"], views["erased_height"])
    columns = within(views["erased_left"], views["erased_width"])
    return (rows[:, :, None] & columns[:, None, :])[:, None]
