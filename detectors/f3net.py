"""F3-Net: the frequency bands of a picture and their local statistics."""

import math
import re
from typing import Any

import torch
from torch import Tensor, nn

from resproto_fd.detectors.base import check_size
from resproto_fd.detectors.parts.frequency_bands import FrequencyBands, LocalStatistics, MixBlock
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.parts.xception import XCEPTION, stretch
from resproto_fd.detectors.registry import register

WINDOW, STRIDE, STATISTICS = 10, 2, 6
MIXED = {"block7": 728, "block12": 1024}
"""Blocks of Xception after which the two branches look at each other, and their widths (paper, section 3.3)."""
KEPT = re.compile(r"FAD_head\.(_DCT_all|_DCT_all_T|filters\.\d+\.base)")


@register("f3net")
class F3Net(TimmClassifier):
    """Classify frequency bands (FAD) and local frequency statistics (LFS) by two Xceptions (Qian et al., ECCV 2020).

    The two networks exchange their maps at two depths. DeepfakeBench has the first network alone, with the whole
    spectrum as a fourth band and with bands that share their borders.

    Args:
        paper: Use both branches; loading a DeepfakeBench checkpoint sets it to False.
        size: Side of the images; the learnt filters depend on it.
        dropout, options: See `TimmClassifier`.
        timm: `pretrained`, see `TimmClassifier`; timm spreads the weights of three channels over more.
    """

    map_parts = ("backbone", "second")

    def __init__(
        self,
        paper: bool = True,
        size: int = 256,
        dropout: float = 0.5,
        options: dict[str, Any] | None = None,
        **timm,
    ):
        low, middle, top = math.floor(size / 2.82), size // 2, 2 * size  # 1/16 and 1/8 of the spectrum's area
        bands = [(0, low), (low, middle), (middle, top), (0, top)]
        if paper:
            bands = [(0, low), (low + 1, middle), (middle + 1, top)]
        options = options or {}
        super().__init__(XCEPTION, dropout=dropout, options={"in_chans": 3 * len(bands), **options}, **timm)
        self.paper, self.size = paper, size
        self.bands = FrequencyBands(size, bands)
        if paper:
            self.statistics = LocalStatistics(WINDOW, STRIDE, STATISTICS)
            self.second = TimmClassifier(XCEPTION, options={"in_chans": STATISTICS, **options}, **timm).backbone
            self.second.conv1.stride = (1, 1)  # the windows' stride has halved the picture already
            self.mix = nn.ModuleDict({name: MixBlock(width) for name, width in MIXED.items()})
            self.classifier[1] = nn.Linear(2 * self.backbone.num_features, 2)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.paper:
            training = self.training
            self.__init__(paper=False, size=self.size, dropout=self.classifier[0].p, pretrained=None)
            self.train(training)
        state = {k: v for k, v in state.items() if not KEPT.fullmatch(k)}  # constants, the same here
        state = {re.sub(r"^FAD_head\.filters\.(\d+)\.learnable$", r"bands.learnt.\1", k): v for k, v in state.items()}
        return super().from_deepfakebench(state)

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, size, size] -> [B, 4096], or [B, 2048] with one branch.

        Raises:
            UserError: The images have another size.
        """
        check_size(images, self.size, "F3Net")
        if not self.paper:
            return self.backbone(self.bands(images))
        x, y = self.bands(images), self.statistics(images)
        for first, last in (("conv1", "block7"), ("block8", "block12"), ("conv3", "act4")):
            x, y = stretch(self.backbone, x, first, last), stretch(self.second, y, first, last)
            if last in self.mix:
                x, y = self.mix[last](x, y)
        return torch.cat([self.backbone.forward_head(x), self.second.forward_head(y)], dim=1)
