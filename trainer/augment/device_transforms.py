"""Augmentation on the device, in batches: the views that the host draws, carried out by matrix products.

Resizing and cutting out are linear in the rows and in the columns, so that a sample's part of it is two matrices of
cubic weights. After each step the values are rounded to bytes as OpenCV does, and the result is the host's but for
rounding. A sample's result does not depend on the rest of its batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from resproto_fd.trainer.augment.views import View, Viewing

STORED_SIDE = 256
"""Usual side of a stored face crop; larger ones only travel more slowly between processes."""
COLUMNS = (*View._fields, "stored_height", "stored_width")
CUBIC = -0.75
"""The free parameter of the cubic, as OpenCV has it."""


@dataclass(frozen=True)
class OnDevice:
    """A transform that is drawn on the host and carried out on the device.

    Args:
        viewing: What draws.
    """

    viewing: Viewing

    @property
    def side(self) -> int:
        """Of the pictures that the host hands on, in pixels."""
        return STORED_SIDE

    def draw(self, seed: int, height: int, width: int) -> tuple[float, ...]:
        """The view of a stored frame of a size, and that size."""
        return (*self.viewing.draw(seed, height, width), height, width)

    def batch(self, images: Tensor, drawn: Sequence[tuple[float, ...]]) -> "Unaugmented":
        """What the host hands on: stored frames, uint8 [B, 3, H, W], and what was drawn for each."""
        views = torch.tensor([[float(value) for value in view] for view in drawn])
        return Unaugmented(images, views, self.viewing.config.size, self.viewing.resized)


@dataclass(frozen=True)
class Unaugmented:
    """A batch of stored frames, and how each is to be looked at.

    Attributes:
        images: uint8 [B, 3, H, W], each in the upper left corner; what is beside a smaller one is undefined.
        views: Fields of its `View`, then height and width of the stored frame, [B, 13].
        size: Side S of the square that comes out.
        resized: `View.resized` of all.
    """

    images: Tensor
    views: Tensor
    size: int
    resized: int

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device, non_blocking: bool = False) -> "Unaugmented":
        """The same on a device."""
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in ("images", "views")}
        return replace(self, **moved)

    def pin_memory(self) -> "Unaugmented":
        """The same in memory from which a GPU is fed without waiting."""
        return replace(self, images=self.images.pin_memory(), views=self.views.pin_memory())

    @torch.no_grad()
    def augmented(self) -> Tensor:
        """The pictures seen through their views: uint8 [B, 3, S, S]."""
        # Whatever precision the caller works in, bytes need eight bits and more.
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
            return images.masked_fill_(_erased(views, self.size), 0).to(torch.uint8)


def _bytes(values: Tensor) -> Tensor:
    return values.round_().clamp_(0, 255)


def _cubic(first: Tensor, length: Tensor, wanted: int, available: int) -> Tensor:
    """Weights that resize a stretch of a line: [B, 1, wanted, available].

    Args:
        first, length: Of the stretch, in samples of the line, [B, 1]. Nothing beyond it is looked at.
        wanted: Samples to make of it.
        available: Samples that the line has.
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
    """A 3 x 3 Gaussian of each picture's own deviation ([B, 1]; 0 for none), mirrored at the edges as OpenCV does."""
    side = torch.exp(-0.5 / sigma.clamp_min(1e-3).square())[..., None, None]
    centre = 1 / (1 + 2 * side)
    side = side * centre
    wide = F.pad(images, (1, 1, 0, 0), mode="reflect")
    images = centre * images + side * (wide[..., :-2] + wide[..., 2:])
    high = F.pad(images, (0, 0, 1, 1), mode="reflect")
    return centre * images + side * (high[..., :-2, :] + high[..., 2:, :])


def _erased(views: dict[str, Tensor], size: int) -> Tensor:
    """Where each picture is black: [B, 1, S, S]."""
    places = torch.arange(size, device=views["top"].device)

    def within(first: Tensor, length: Tensor) -> Tensor:
        return (places >= first) & (places < first + length)

    rows = within(views["erased_top"], views["erased_height"])
    columns = within(views["erased_left"], views["erased_width"])
    return (rows[:, :, None] & columns[:, None, :])[:, None]
