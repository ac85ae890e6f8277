"""SBI: EfficientNet-B4, trained on self-blended images."""

from torch import Tensor, nn

from resproto_fd.detectors.parts.efficientnet_b4 import EfficientNetB4
from resproto_fd.detectors.registry import register


@register("sbi")
class SBI(EfficientNetB4):
    """Classify self-blended images by EfficientNet-B4 (Shiohara & Yamasaki, CVPR 2022).

    The method lies in the training fakes, which the preset's `train.samples` makes. DeepfakeBench's network has a third
    class without samples, which takes a share of the probability. Loading one of its checkpoints adds this class;
    `logits` are then [B, 3].

    Args:
        timm: `pretrained`, `dropout` and `options`, see `EfficientNetB4`.
    """

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        if len(state.get("backbone.last_layer.bias", ())) == 3:
            self.classifier[1] = nn.Linear(self.classifier[1].in_features, 3)
        return super().from_deepfakebench(state)
