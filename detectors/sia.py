"""Self-information attention: attention to features that differ from their surroundings.

Legend: B batch, C channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.parts.efficientnet_b4 import EfficientNetB4, stages
from resproto_fd.detectors.registry import register
from resproto_fd.losses.precision import at_least_float32

SHIFTS, BETWEEN, FLOOR = 5, 0.5, 0.1
"""Channels that each channel is compared with, weight of that comparison, and floor of the logarithm."""
UNUSED = ("att0conv.", "att1conv.", "att2conv.", "att3conv.", "att4conv.", "att5conv.", "att6conv.", "linear.")


@register("sia")
class SIA(EfficientNetB4):
    """Weight EfficientNet-B4's features by their self-information at three depths (Sun et al., ECCV 2022).

    The maps of earlier attentions are added to later features. DeepfakeBench compares the wrong channels with each
    other; loading one of its checkpoints switches to this.

    Args:
        batch_coupled: Divide the attention by the mean of the whole batch, as DeepfakeBench does; scores then depend on
            the other pictures of the batch. Otherwise each picture has its own mean.
        timm: `pretrained`, `dropout` and `options`, see `EfficientNetB4`.
    """

    def __init__(self, batch_coupled: bool = False, **timm):
        super().__init__(**timm)
        self.paper, self.batch_coupled = True, batch_coupled
        self.conv1, self.conv2, self.conv3 = _adapted(32, 56), _adapted(32, 160), _adapted(56, 160)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        self.paper = False
        return super().from_deepfakebench({k: v for k, v in state.items() if not k.startswith(UNUSED)})

    def encode(self, images: Tensor) -> Tensor:
        x = self.backbone.bn1(self.backbone.conv_stem(images))
        x, early = self._attend(stages(self.backbone, x, 0, 2))
        x = stages(self.backbone, x, 2, 3)
        x, middle = self._attend(x + _pooled(self.conv1(early), x))
        x = stages(self.backbone, x, 3, 5)
        x, _ = self._attend(x + _pooled(self.conv3(middle), x) + _pooled(self.conv2(early), x))
        x = stages(self.backbone, x, 5)
        return self.backbone.forward_head(self.backbone.bn2(self.backbone.conv_head(x)))

    def _attend(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted features, and the attention without gradient; both [B, C, H, W]."""
        with torch.no_grad():
            values = at_least_float32(x)
            surprise = self_information(values, self.paper)
            mean = surprise.mean() if self.batch_coupled else surprise.mean(dim=(1, 2, 3), keepdim=True)
            place = surprise / mean.clamp_min(1e-12) / 2
            channel = 1 - torch.log(torch.exp(-place) + FLOOR).mean(dim=(2, 3), keepdim=True)
            weights, place = ((place.sigmoid() + 1) * channel).to(x.dtype), place.to(x.dtype)
        return x * weights, place


def self_information(x: Tensor, same_channel: bool = True) -> Tensor:
    """Distance of features from their eight neighbours and from the next five channels, [B, C, H, W], >= 0.

    Args:
        x: [B, C, H, W]; places outside are zero, and the first channel follows the last.
        same_channel: Add up the comparisons of each channel. Otherwise, as in DeepfakeBench, add up groups of five in
            the list of all comparisons, ordered by shift and then by channel.
    """
    within = 9 * (x - F.avg_pool2d(x, 3, stride=1, padding=1))
    differences = torch.stack([x - x.roll(-shift, dims=1) for shift in range(1, SHIFTS + 1)], dim=1)
    if same_channel:
        between = differences.sum(dim=1)
    else:
        between = differences.flatten(1, 2).unflatten(1, (-1, SHIFTS)).sum(dim=2)
    return within.abs() + BETWEEN * between.abs()


def _adapted(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, 1), nn.BatchNorm2d(after), nn.ReLU())


def _pooled(maps: Tensor, like: Tensor) -> Tensor:
    return F.adaptive_max_pool2d(maps, like.shape[-2:])
