"""I3D: a ResNet-50 whose kernels see time as well as space.

Legend: B batch, T frames of a clip, D feature size, H and W pixels.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from resproto_fd.detectors.parts.i3d_network import BLOCKS, I3DNetwork, slowfast_name
from resproto_fd.detectors.parts.one_logit import OneLogitDetector
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import load_all, pretrained_skipped, read_state_dict


@register("i3d")
class I3D(OneLogitDetector):
    """Classify clips by a ResNet-50 with temporal and spatial kernels (Carreira & Zisserman, CVPR 2017).

    The paper inflates an Inception network; this is the ResNet-50 of the same idea that DeepfakeBench and AltFreezing
    use, with temporal kernels beside spatial ones (SlowFast's layout 8x8). Maps are averaged over time and space, so
    that any number of frames from 2 and any size from 32 pixels fit.

    Args:
        pretrained: A file of this network's weights in the naming of SlowFast's authors, such as those of Kinetics-400;
            its classifier is left out. None for random weights.
        dropout: Dropout before the classifier.
        width: Channels of the stem; D is 32 times as much.
        blocks: Blocks of each of the four stages.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5,
        width: Annotated[int, Field(gt=0)] = 64,
        blocks: Annotated[Sequence[Annotated[int, Field(gt=0)]], Field(min_length=4, max_length=4)] = BLOCKS,
    ):
        super().__init__()
        self.backbone = I3DNetwork(width, tuple(blocks))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.backbone.channels, 1))
        if pretrained and not pretrained_skipped():
            state = read_state_dict(pretrained)
            body = {slowfast_name(key): value for key, value in state.items() if not key.startswith("head.")}
            load_all(self.backbone, body, f"pretrained file {pretrained}")

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        state = {key.removeprefix("resnet."): value for key, value in state.items()}
        head = {key: value for key, value in state.items() if key.startswith("head.projection.")}
        body = {f"backbone.{slowfast_name(key)}": value for key, value in state.items() if key not in head}
        return body | {key.replace("head.projection.", "classifier.1."): value for key, value in head.items()}

    def encode(self, images: Tensor) -> Tensor:
        """Features [B, D] of clips [B, T, 3, H, W]."""
        return self.backbone(images.transpose(1, 2)).mean(dim=(2, 3, 4))
