"""Any backbone of timm with a linear classifier, for the plain baselines."""

from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.registry import register


@register("timm")
class Timm(TimmClassifier):
    """Train a timm backbone and a linear classifier with cross-entropy (Wightman, timm, 2019).

    Args:
        backbone, pretrained, dropout, options: See `TimmClassifier`.
    """
