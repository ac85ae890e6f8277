"""PatchCraft: the noise of an image's patches of most texture against that of least texture.

Source: Zhong et al., "PatchCraft: Exploring Texture Patch for Efficient AI-generated Image Detection", 2023 (first
called "Rich and Poor Texture Contrast").

Legend: B batch, N places, S side of a patch, G patches along a rebuilt picture's side; H and W pixels.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from resproto_fd.configs.errors import UserError, WrongInput
from resproto_fd.configs.schema import Normalisation
from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.parts.texture import GreyLevels, SrmFilters, diversity
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import load_pretrained

WIDTH = 32
CONVOLUTIONS = (4, 2, 2, 2)
"""Convolutions of each block of the classifier; maps are halved between blocks."""


def smash_and_rebuild(images: Tensor, grey: Tensor, side: int, places: int, grid: int) -> tuple[Tensor, Tensor]:
    """Two pictures made of an image's patches: those of most texture, and those of least, in this order each.

    Args:
        images: [B, 3, H, W].
        grey: Its grey levels, [B, H, W].
        side: S.
        places: Number of rows and columns of candidate patches, evenly spaced; they may overlap.
        grid: G; the first and the last G^2 of the `places`^2 patches by diversity are used, equals in reading order.

    Returns:
        [B, 3, G S, G S] each.
    """
    height, width = images.shape[-2:]
    inside = torch.arange(side, device=images.device)
    rows, columns = (
        torch.linspace(0, length - side, places, device=images.device).round().long()[:, None] + inside
        for length in (height, width)
    )
    rows, columns = rows[:, None, :, None], columns[None, :, None, :]
    order = diversity(grey[:, rows, columns]).flatten(1)
    patches = images[:, :, rows, columns].flatten(2, 3)  # [B, 3, N, S, S]
    rebuilt = []
    for descending in (True, False):
        chosen = order.sort(dim=1, descending=descending, stable=True).indices[:, : grid**2]
        found = patches.gather(2, chosen[:, None, :, None, None].expand(-1, 3, -1, side, side))
        found = found.unflatten(2, (grid, grid)).permute(0, 1, 2, 4, 3, 5)
        rebuilt.append(found.reshape(len(images), 3, grid * side, grid * side))
    return rebuilt[0], rebuilt[1]


@register("patchcraft")
class PatchCraft(Detector):
    """Compare the noise of the most and the least textured patches of an image (Zhong et al., 2023).

    A learnt layer reads SRM residuals of both rebuilt pictures; a small CNN classifies the difference.

    Args:
        pretrained: A file of weights in this class's naming, or None for random weights, as in the paper.
        side: S.
        places: See `smash_and_rebuild`. 14 x 14 replace the paper's 192 random places, so that scores do not vary.
        grid: G.
        normalisation: Name of the images' normalisation; diversity is computed on grey levels.

    Raises:
        UserError: There are fewer places than patches; in `encode`, images are smaller than a patch.
    """

    map_parts = None

    def __init__(
        self,
        pretrained: str | None = None,
        side: Annotated[int, Field(ge=3)] = 32,
        places: int = 14,
        grid: Annotated[int, Field(ge=1)] = 8,
        normalisation: Normalisation = "half",
    ):
        super().__init__()
        if places < grid:
            raise UserError(f"patchcraft: expected model.places of at least model.grid={grid}, got {places}")
        self.side, self.places, self.grid = side, places, grid
        self.grey_levels = GreyLevels(normalisation)
        self.srm = SrmFilters(all_filters=True)
        self.fingerprint = nn.Sequential(*_layer(len(self.srm.filters)), nn.Hardtanh())
        layers: list[nn.Module] = []
        for number, count in enumerate(CONVOLUTIONS):
            layers += [nn.AvgPool2d(3, 2, 1)] if number else []
            layers += [part for _ in range(count) for part in (*_layer(WIDTH), nn.ReLU())]
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Linear(WIDTH, 2)
        load_pretrained(self, pretrained)

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 32]"""
        if min(images.shape[-2:]) < self.side:
            size = tuple(images.shape[-2:])
            raise WrongInput(
                f"patchcraft: expected images of at least {self.side} pixels a side, got {size}; set input.size"
            )
        grey = self.grey_levels(images)
        both = torch.cat(smash_and_rebuild(images, grey, self.side, self.places, self.grid))
        rich, poor = self.fingerprint(self.srm(both)).chunk(2)  # in one pass: batch norm sees both in training too
        return self.blocks(rich - poor).mean(dim=(2, 3))


def _layer(before: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(before, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH)
