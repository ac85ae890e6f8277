"""A control that knows nothing: scores spread evenly over [0, 1]."""

import torch
from torch import Tensor

from resproto_fd.detectors.base import Detector, Output, two_class_output
from resproto_fd.detectors.registry import register


@register("chance")
class Chance(Detector):
    """Scores spread evenly over [0, 1] that have nothing to do with the label: the digits far behind the point of one
    weighted sum of the pixels, the weight drawn at random. The same image has the same score."""

    def __init__(self, pretrained: None = None):
        super().__init__()
        self.register_buffer("step", torch.rand((), dtype=torch.float64))

    def encode(self, images: Tensor) -> Tensor:
        flat = images.flatten(1).double()
        weights = torch.arange(flat.shape[1], device=flat.device, dtype=torch.float64).mul(self.step.double()).frac()
        return (flat * weights).sum(dim=1, keepdim=True).mul(1e3).frac().abs().to(images.dtype)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        score = features[:, 0].clamp(1e-6, 1 - 1e-6)
        logits = torch.stack([(1 - score).log(), score.log()], dim=1)
        return two_class_output(logits, features, labels)
