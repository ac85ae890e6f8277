"""FreqNet: a small network of high frequencies that convolves spectra.

Source: Tan et al., "Frequency-Aware Deepfake Detection: Improving Generalizability through Frequency Space Learning",
AAAI 2024. The order of the layers is that of the authors' code, since the paper's figure is a sketch.

Legend: B batch, C channels, H and W pixels.
"""

from typing import Literal

import timm
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.parts.spectral_convolution import SpectralConvolution, high_pass
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import load_pretrained

PLACES, CHANNELS = (2, 3), (1,)


@register("freqnet")
class FreqNet(Detector):
    """Classify high frequencies by spectral convolutions and half a ResNet-50 (Tan et al., AAAI 2024).

    The network takes the high frequencies of the image, of its features and across their channels.

    Args:
        pretrained: A file of weights in this class's naming, or None for random weights, as in the paper.
        spectra: See `SpectralConvolution`.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        spectra: Literal["amplitude and phase", "real and imaginary"] = "real and imaginary",
    ):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 1, stride)
            for before, after, stride in ((3, 64, 1), (64, 64, 2), (256, 256, 1), (256, 256, 2))
        )
        self.spectral = nn.ModuleList(SpectralConvolution(width, spectra) for width in (64, 64, 256, 256))
        resnet = timm.create_model("resnet50", features_only=True, out_indices=(2,))
        self.layer1, self.layer2 = resnet.layer1, resnet.layer2
        for module in (self.convolutions, self.spectral):
            for layer in module.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        self.classifier = nn.Linear(512, 2)
        load_pretrained(self, pretrained)

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 512]"""
        x = self._step(0, images)
        x = self.spectral[0](high_pass(x, CHANNELS))
        x = self._step(1, x)
        x = self.spectral[1](high_pass(x, CHANNELS))
        x = self.layer1(F.max_pool2d(x, 3, 2, 1))
        x = self.spectral[2](self._step(2, x))
        x = self.spectral[3](self._step(3, x))
        return self.layer2(x).mean(dim=(2, 3))

    def _step(self, number: int, x: Tensor) -> Tensor:
        return F.relu(self.convolutions[number](high_pass(x, PLACES)))
