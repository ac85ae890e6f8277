"""EfficientNet-B4 as in DeepfakeBench."""

from resproto_fd.detectors.parts.efficientnet_b4 import EfficientNetB4
from resproto_fd.detectors.registry import register


@register("efficientnetb4")
class EfficientNetB4Classifier(EfficientNetB4):
    """Train EfficientNet-B4 and a linear classifier with cross-entropy (Tan & Le, ICML 2019).

    Args:
        timm: `pretrained`, `dropout` and `options`, see `EfficientNetB4`.
    """
