"""STIL: a ResNet that reads inconsistencies in space and over time.

Legend: B clips, T frames, H and W pixels, D feature size.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from resproto_fd.configs.schema import Positive
from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.parts.clip_frames import check_frames
from resproto_fd.detectors.parts.stil_network import stil_network
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import fetch, load_all, pretrained_skipped, read_state_dict

SCNET = "https://backseason.oss-cn-beijing.aliyuncs.com/scnet/scnet50_v1d-4109d1e1.pth"
"""ImageNet weights that SCNet's authors publish."""
SCNET_ALONE = ("fc.", ".scconv.k2.")
STIL_ALONE = (".tim.", ".ism.", ".shift.", ".scconv.f_w.", ".scconv.f_h.")
"""Parts of one network that the other lacks."""


@register("stil")
class STIL(Detector):
    """Read where a face differs from its surroundings and changes oddly over time (Gu et al., ACM MM 2021).

    The network is SCNet-50 (Liu et al., CVPR 2020), whose blocks have two halves. One half weighs features by their
    surroundings (SIM). The other weighs them by their change to the next frame, read along columns and along rows
    (TIM), takes information from the first half (ISM), and mixes frames by a learnt shift. A linear classifier reads
    the mean of the frames' features, and trains with cross-entropy.

    Args:
        pretrained: True for SCNet's published ImageNet weights, or a file of them; they start the parts that SCNet has.
            False or None for random weights.
        frames: T, as `input.frames`.
        blocks, widths: See `stil_network`.

    Raises:
        UserError: The weights are not available or do not fit.
    """

    clips = True

    def __init__(
        self,
        pretrained: bool | str | None = True,
        frames: Positive = 8,
        blocks: Sequence[int] = (3, 4, 6, 3),
        widths: Sequence[int] = (64, 128, 256, 512),
    ):
        super().__init__()
        self.frames = frames
        self.backbone = stil_network(blocks, widths, frames)
        self.classifier = nn.Linear(self.backbone.num_features, 2)
        if pretrained and not pretrained_skipped():
            self._start_from(pretrained)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        state = {key.removeprefix("model.").removeprefix("base_model."): value for key, value in state.items()}
        head = {f"fc.{part}": f"classifier.{part}" for part in ("weight", "bias")}
        return {head.get(key, f"backbone.{key}"): value for key, value in state.items()}

    def encode(self, images: Tensor) -> Tensor:
        """Mean of the frames' features: [B, T, 3, H, W] -> [B, D]"""
        check_frames(images, self.frames, "stil", "frames")
        return self.backbone(images.flatten(0, 1)).unflatten(0, images.shape[:2]).mean(dim=1)

    def _start_from(self, pretrained: bool | str) -> None:
        path = pretrained
        if pretrained is True:
            path = fetch("SCNet's ImageNet weights", "", (), SCNET, "set model.pretrained=/path/to/the/file")
        theirs = {k: v for k, v in read_state_dict(path).items() if not any(part in k for part in SCNET_ALONE)}
        ours = {k: v for k, v in self.backbone.state_dict().items() if any(part in k for part in STIL_ALONE)}
        load_all(self.backbone, theirs | ours, str(path))
