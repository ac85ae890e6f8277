"""The common part of the two MesoNets (Afchar et al., WIFS 2018).

DeepfakeBench's port differs from the paper: two layers share each batch norm, and inception layers have no activation.
`paper` chooses between them. Checkpoints need the port's form.
"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import Detector, Output, check_size, two_class_output
from resproto_fd.detectors.weights import load_pretrained


class MesoNet(Detector):
    """Base of both MesoNets: four stages to 16 maps of side size / 32, and two linear layers with dropout.

    Args:
        pretrained: A file of weights in this class's naming, or None for random weights (trained from scratch).
        paper: A batch norm for each layer, and rectified inception layers, as in the paper.
        size: Side of the images, a multiple of 32.
        dropout: Dropout before each linear layer.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        paper: bool = True,
        size: int = 256,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
    ):
        super().__init__()
        self.paper, self.size, self.dropout = paper, size, nn.Dropout(dropout)
        self._build()
        self.fc1, self.fc2 = nn.Linear(16 * (size // 32) ** 2, 16), nn.Linear(16, 2)
        load_pretrained(self, pretrained)

    def _build(self) -> None:
        raise NotImplementedError

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.paper:
            self.paper = False
            self._build()
        return {key.removeprefix("backbone."): value for key, value in state.items()}

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, size, size] -> [B, 16 (size / 32)^2]

        Raises:
            UserError: The images have another size.
        """
        check_size(images, self.size, "MesoNet")
        return self._stages(images).flatten(1)

    def _stages(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        x = F.leaky_relu(self.fc1(self.dropout(features)), 0.1)
        return two_class_output(self.fc2(self.dropout(x)), features, labels)
