"""MesoNet: two small networks between pixels and semantics (Afchar et al., WIFS 2018).

DeepfakeBench's port differs from the paper: batch norms are shared by two layers each, and inception layers have no
activation. `paper` chooses; the checkpoints need the port's.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import Detector, Output, check_size, two_class_output
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import load_all, pretrained_skipped, read_state_dict


class _MesoNet(Detector):
    """What both have in common: four stages to 16 maps of a 32nd of the side, two linear layers, dropout before each.

    Args:
        pretrained: A file of weights in this class's naming; None for random ones (trained from scratch).
        paper: A batch norm for each layer, and rectified inception layers, as in the paper.
        size: Side of the images, a multiple of 32.
        dropout: Before each linear layer.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        paper: bool = True,
        size: int = 256,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    ):
        super().__init__()
        self.paper, self.size, self.dropout = paper, size, nn.Dropout(dropout)
        self._build()
        self.fc1, self.fc2 = nn.Linear(16 * (size // 32) ** 2, 16), nn.Linear(16, 2)
        if pretrained and not pretrained_skipped():
            load_all(self, read_state_dict(pretrained), pretrained)

    def _build(self) -> None:
        raise NotImplementedError

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.paper:
            self.paper = False
            self._build()
        return {key.removeprefix("backbone."): value for key, value in state.items()}

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, size, size] -> [B, 16 (size / 32)^2]

        Raises:
            UserError: Images of another size.
        """
        check_size(images, self.size, "MesoNet")
        return self._stages(images).flatten(1)

    def _stages(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        x = F.leaky_relu(self.fc1(self.dropout(features)), 0.1)
        return two_class_output(self.fc2(self.dropout(x)), features, labels)


@register("meso4")
class Meso4(_MesoNet):
    """Four convolutions, each rectified, normalised and pooled."""

    def _build(self) -> None:
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(8, 8, 5, padding=2, bias=False)
        self.conv3 = nn.Conv2d(8, 16, 5, padding=2, bias=False)
        self.conv4 = nn.Conv2d(16, 16, 5, padding=2, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(8), nn.BatchNorm2d(16)
        self.bn3 = nn.BatchNorm2d(8) if self.paper else None
        self.bn4 = nn.BatchNorm2d(16) if self.paper else None

    def _stages(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(self.bn1(F.relu(self.conv1(images))), 2)
        x = F.max_pool2d((self.bn3 or self.bn1)(F.relu(self.conv2(x))), 2)
        x = F.max_pool2d(self.bn2(F.relu(self.conv3(x))), 2)
        return F.max_pool2d((self.bn4 or self.bn2)(F.relu(self.conv4(x))), 4)


@register("meso4Inception")
class Meso4Inception(_MesoNet):
    """Two inception layers of dilated convolutions in the place of the first two convolutions."""

    def _build(self) -> None:
        for layer, before, widths in ((1, 3, (1, 4, 4, 2)), (2, 11, (2, 4, 4, 2))):
            name = f"Incption{layer}"  # DeepfakeBench's spelling
            setattr(self, f"{name}_conv1", nn.Conv2d(before, widths[0], 1, bias=False))
            for branch, dilation in ((2, 1), (3, 2), (4, 3)):
                width = widths[branch - 1]
                setattr(self, f"{name}_conv{branch}_1", nn.Conv2d(before, width, 1, bias=False))
                wide = nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
                setattr(self, f"{name}_conv{branch}_2", wide)
            setattr(self, f"{name}_bn", nn.BatchNorm2d(sum(widths)))
        self.conv1 = nn.Conv2d(12, 16, 5, padding=2, bias=False)
        self.conv2 = nn.Conv2d(16, 16, 5, padding=2, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.bn2 = nn.BatchNorm2d(16) if self.paper else None

    def _inception(self, x: Tensor, layer: int) -> Tensor:
        part = {n: getattr(self, f"Incption{layer}_{n}") for n in ("conv1", "bn")}
        branches = [part["conv1"](x)]
        for branch in (2, 3, 4):
            first, second = (getattr(self, f"Incption{layer}_conv{branch}_{n}") for n in (1, 2))
            branches.append(second(F.relu(first(x)) if self.paper else first(x)))
        joined = torch.cat(branches, dim=1)
        return F.max_pool2d(part["bn"](F.relu(joined) if self.paper else joined), 2)

    def _stages(self, images: Tensor) -> Tensor:
        x = self._inception(self._inception(images, 1), 2)
        x = F.max_pool2d(self.bn1(F.relu(self.conv1(x))), 2)
        return F.max_pool2d((self.bn2 or self.bn1)(F.relu(self.conv2(x))), 4)
