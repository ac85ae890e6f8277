"""MesoInception-4: MesoNet with inception layers."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.parts.mesonet import MesoNet
from resproto_fd.detectors.registry import register


@register("meso4Inception")
class Meso4Inception(MesoNet):
    """Replace Meso4's first two convolutions by inception layers with dilation (Afchar et al., WIFS 2018)."""

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
