"""SBI: the network of self-blended images (Shiohara & Yamasaki, CVPR 2022)."""

from torch import Tensor, nn

from resproto_fd.detectors.parts.efficientnet_b4 import EfficientNetB4
from resproto_fd.detectors.registry import register


@register("sbi")
class SBI(EfficientNetB4):
    """The network of self-blended images (Shiohara & Yamasaki, CVPR 2022); the method lies in the fakes it is fed.

    DeepfakeBench's has a third class without samples, which takes its share of the probability: its checkpoints bring
    it along, and logits are [B, 3] then.

    Args:
        pretrained, dropout, options: See `EfficientNetB4`.
    """

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        if len(state.get("backbone.last_layer.bias", ())) == 3:
            self.classifier[1] = nn.Linear(self.classifier[1].in_features, 3)
        return super().from_deepfakebench(state)
