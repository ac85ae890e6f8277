"""Any backbone of timm with a linear classifier: the plain baselines (Xception, EfficientNet, ResNet, ...)."""

from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.registry import register


@register("timm")
class Timm(TimmClassifier):
    """A timm backbone, pooled, under a linear classifier; all of it trains with cross-entropy.

    Args:
        backbone, pretrained, dropout, options: See `TimmClassifier`.
    """
