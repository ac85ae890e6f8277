"""EfficientNet-B4 as DeepfakeBench has it (Tan & Le, ICML 2019)."""

from resproto_fd.detectors.parts.efficientnet_b4 import EfficientNetB4
from resproto_fd.detectors.registry import register


@register("efficientnetb4")
class EfficientNetB4Classifier(EfficientNetB4):
    """EfficientNet-B4 under a linear classifier; all of it trains with cross-entropy.

    Args:
        pretrained, dropout, options: See `EfficientNetB4`.
    """
