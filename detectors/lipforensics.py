"""LipForensics: movements of the mouth that a network of lip reading finds odd.

Legend: B batch, T frames of a clip, S side of the faces, D feature size.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.parts.lip_reading import MouthFeatures, lip_reading_name, multi_scale_tcn
from resproto_fd.detectors.parts.one_logit import OneLogitDetector
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import load_all, pretrained_skipped, read_state_dict

GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the grey of a pixel (ITU-R BT.601)."""
FACE, MOUTH, SHOWN = 256, 96, 88
"""Sides in pixels: of a face, of its mouth's box, and of the part of the box that the network sees."""
CENTRE = (0.75, 0.5)
"""Place of the mouth's middle in an aligned face, from the top and from the left, in its sides."""


@register("lipforensics")
class LipForensics(OneLogitDetector):
    """Fine-tune the temporal half of a lip-reading network on mouths (Haliassos et al., CVPR 2021).

    The network has learnt to read words from lips. A convolution over time and space with a ResNet-18 describes the
    mouth of each frame. This half stays frozen, so that the forgery cannot be found by traces in single frames. A
    multi-scale temporal convolutional network (MS-TCN) over the frames, whose mean over time is classified, trains.

    Faces are turned grey and cut to a box around the mouth: 96 pixels of a face of 256, of which the network sees 88,
    at a random place in training and in the middle otherwise. The box is the same in every face, since aligned faces
    have the mouth at one place; the authors take it from landmarks smoothed over time.

    Args:
        pretrained: A file of the lip-reading network (or of LipForensics) in the authors' naming; its classifier is
            left out. None for random weights.
        train_all: Train the whole network; otherwise the features of the mouth stay as `pretrained` has them.
        random_crop: In training show another part of each clip's box.
        dropout: Dropout within the MS-TCN.
        width: Channels of the stem; D is 12 times as much.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        train_all: bool = False,
        random_crop: bool = True,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        width: Annotated[int, Field(gt=0)] = 64,
    ):
        super().__init__()
        self.random_crop, self.reads_lips = random_crop, train_all or bool(pretrained)
        self.mouths, self.temporal = MouthFeatures(width), multi_scale_tcn(8 * width, 12 * width, dropout)
        self.classifier = nn.Linear(12 * width, 1)
        if pretrained and not pretrained_skipped():
            named = {lip_reading_name(key): value for key, value in read_state_dict(pretrained).items()}
            own = {f"classifier.{key}": value for key, value in self.classifier.state_dict().items()}
            load_all(self, named | own, f"pretrained file {pretrained}")
        if not train_all:
            self.freeze("mouths")

    def from_authors(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        if "frontend3D.0.weight" not in state:
            return None
        return {lip_reading_name(key): value for key, value in state.items()}

    def start_training(self, class_counts: Tensor) -> None:
        """See `Detector.start_training`.

        Raises:
            UserError: The features would stay random.
        """
        if not self.reads_lips:
            raise UserError(
                "LipForensics expected the weights of a lip-reading network, whose features stay frozen, got none; set "
                "model.pretrained=FILE, or model.train_all=true to train the whole network from random weights"
            )

    def encode(self, images: Tensor) -> Tensor:
        """Features [B, D] of clips of aligned faces, [B, T, 3, S, S]."""
        features = self.mouths(self.shown(images))
        return self.temporal(features.transpose(1, 2)).mean(dim=2)

    def shown(self, images: Tensor) -> Tensor:
        """The grey mouths that the network sees, 88 / 256 of S a side, of clips [B, T, 3, S, S]: [B, T, H, W]."""
        grey = sum(share * colour for share, colour in zip(GREY, images.unbind(dim=2), strict=True))
        side = grey.shape[-1]
        box, seen = round(side * MOUTH / FACE), round(side * SHOWN / FACE)
        top, left = (round(side * place - box / 2) for place in CENTRE)
        if self.training and self.random_crop:
            moves = torch.randint(box - seen + 1, (len(grey), 2)).tolist()
        else:
            moves = [[(box - seen) // 2] * 2] * len(grey)
        return torch.stack(
            [
                clip[:, top + down : top + down + seen, left + right : left + right + seen]
                for clip, (down, right) in zip(grey, moves, strict=True)
            ]
        )
