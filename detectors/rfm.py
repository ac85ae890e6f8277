"""RFM: the most telling regions are erased in training, so that the detector learns from others."""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from resproto_fd.detectors.base import Step
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.parts.xception import XCEPTION
from resproto_fd.detectors.registry import register


@register("rfm")
class RFM(TimmClassifier):
    """Train Xception on images whose most telling regions are filled with noise (Wang & Deng, CVPR 2021).

    Args:
        boxes: Number of boxes erased in each image.
        box: Largest height and width of a box, as a share of the image's (the paper: 120 of 256 pixels).
        timm: `pretrained`, `dropout` and `options`, see `TimmClassifier`.
    """

    steps_alone = True

    def __init__(
        self,
        boxes: Annotated[int, Field(ge=0)] = 3,
        box: Annotated[float, Field(gt=0, le=1)] = 120 / 256,
        **timm,
    ):
        super().__init__(XCEPTION, **timm)
        self.boxes, self.box = boxes, box

    def training_step(
        self, model: nn.Module, step: Step, images: Tensor, labels: Tensor, **fields: Tensor
    ) -> dict[str, Tensor]:
        """See `Detector.training_step`; the images are erased first."""
        images = erased(images, self.attention(images), self.boxes, self.box)
        return super().training_step(model, step, images, labels, **fields)

    def attention(self, images: Tensor) -> Tensor:
        """The forgery attention map: the largest gradient, over channels, of the difference of the two logits.

        Batch statistics and gradients of parameters do not change.

        Args:
            images: [B, 3, H, W].

        Returns:
            [B, H, W], not negative.
        """
        was_training = self.training
        self.eval()
        with torch.enable_grad():
            leaf = images.detach().requires_grad_()
            logits = self(leaf).logits
            (slope,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), leaf)
        self.train(was_training)
        return slope.abs().amax(dim=1)


def erased(images: Tensor, attention: Tensor, boxes: int, largest: float) -> Tensor:
    """Images with boxes of uniform noise in [-1, 1], each around the visible pixel of highest attention.

    Args:
        images: [B, 3, H, W].
        attention: [B, H, W].
        boxes: Number of boxes in each image.
        largest: Longest side of a box as a share of the image's.
    """
    count, _, height, width = images.shape
    device = images.device
    hidden = torch.zeros(count, height, width, dtype=torch.bool, device=device)
    rows = torch.arange(height, device=device).expand(count, -1)
    columns = torch.arange(width, device=device).expand(count, -1)
    for _ in range(boxes):
        peak = attention.masked_fill(hidden, -1).flatten(1).argmax(dim=1)
        inside = _span(rows, peak // width, largest)[:, :, None] & _span(columns, peak % width, largest)[:, None]
        hidden |= inside
    noise = torch.rand_like(images) * 2 - 1
    return torch.where(hidden[:, None], noise, images)


def _span(places: Tensor, peak: Tensor, largest: float) -> Tensor:
    """Mask [B, L] of a random interval around each peak [B], at most `largest` * L long."""
    longest = max(1, round(largest * places.shape[1]))
    length = torch.randint(1, longest + 1, peak.shape, device=peak.device)
    before = (torch.rand(peak.shape, device=peak.device) * length).long()
    start = (peak - before)[:, None]
    return (places >= start) & (places < start + length[:, None])
