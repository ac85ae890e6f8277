"""Meso4: a network of four small convolutions."""

from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.parts.mesonet import MesoNet
from resproto_fd.detectors.registry import register


@register("meso4")
class Meso4(MesoNet):
    """Classify by four small convolutions, each rectified, normalised and pooled (Afchar et al., WIFS 2018)."""

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
