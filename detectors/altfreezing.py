"""AltFreezing: I3D, trained on spatial and on temporal traces in turn.

Legend: B batch, T frames of a clip, H and W pixels.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from resproto_fd.detectors.base import Step
from resproto_fd.detectors.i3d import I3D
from resproto_fd.detectors.registry import register


@register("altfreezing")
class AltFreezing(I3D):
    """Freeze I3D's temporal and its spatial kernels in turn while it trains (Wang et al., CVPR 2023).

    A clip network may rely on one kind of trace alone. So for some steps only the spatial kernels change, then for some
    only the temporal ones. Frozen are the weights of convolutions along time alone (3 x 1 x 1) or over space alone
    (1 x 3 x 3); all other weights (the stem, 1 x 1 x 1 kernels, norms, classifier) train in every step. The optimiser
    sees no gradient of a frozen weight, so that neither momentum nor weight decay moves it. The phase follows from the
    number of the step, and a resumed run keeps it.

    Args:
        spatial_steps: Steps in which the temporal kernels are frozen.
        temporal_steps: Steps after these in which the spatial kernels are frozen.
        i3d: `pretrained`, `dropout`, `width` and `blocks`, see `I3D`.
    """

    def __init__(
        self,
        spatial_steps: Annotated[int, Field(ge=0)] = 1,
        temporal_steps: Annotated[int, Field(gt=0)] = 20,
        **i3d,
    ):
        super().__init__(**i3d)
        self.spatial_steps, self.temporal_steps = spatial_steps, temporal_steps
        self._step = 0

    def start_step(self, step: int, frames: Tensor) -> None:
        self._step = step

    def frozen_kernels(self, step: int) -> list[nn.Parameter]:
        """Weights that do not change in a training step, counting from 0."""
        place = step % (self.spatial_steps + self.temporal_steps)
        return self.backbone.kernels(temporal=place < self.spatial_steps)

    def training_step(
        self, model: nn.Module, step: Step, images: Tensor, labels: Tensor, **fields: Tensor
    ) -> dict[str, Tensor]:
        """See `Detector.training_step`; images are clips [B, T, 3, H, W]."""
        losses = super().training_step(model, step, images, labels, **fields)
        # Taken away after the backward pass: data parallelism needs a gradient of every parameter in every step.
        for weight in self.frozen_kernels(self._step):
            weight.grad = None
        return losses
