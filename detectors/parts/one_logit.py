"""The base of detectors of clips that have one output, the logit of "fake".

Legend: B batch, T frames of a clip, D feature size.
"""

from torch import Tensor
from torch.nn import functional as F

from resproto_fd.detectors.base import Detector, Output, two_class_output


class OneLogitDetector(Detector):
    """Classify features by `self.classifier`, [B, D] -> [B, 1], and train with binary cross-entropy.

    The logit of "real" is 0, so the softmax of both is the sigmoid of the one, and cross-entropy is binary
    cross-entropy.
    """

    clips = True

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        return two_class_output(F.pad(self.classifier(features), (1, 0)), features, labels)
