"""Chance: a control that knows nothing about the label."""

import torch
from torch import Tensor

from resproto_fd.detectors.base import Detector, Output, two_class_output
from resproto_fd.detectors.registry import register


@register("chance")
class Chance(Detector):
    """Give each image a score that is uniform in [0, 1] and unrelated to its label; a control, of no paper.

    The score is the late digits of one weighted sum of the pixels, with a random weight. Equal images get equal scores.
    """

    fixed_encoder = ("step",)

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
