"""FreqNet: a small network that is kept at high frequencies and convolves spectra.

Source: Tan et al., "Frequency-Aware Deepfake Detection: Improving Generalizability through Frequency Space Learning",
AAAI 2024; the order of the layers is that of its authors' code, the paper's figure being a sketch.

Legend: B batch, C channels, H and W pixels.
"""

from collections.abc import Sequence
from typing import Literal

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import Detector, Output, two_class_output
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import load_all, pretrained_skipped, read_state_dict
from resproto_fd.losses.residual import at_least_float32

PLACES, CHANNELS = (2, 3), (1,)


def high_pass(x: Tensor, axes: Sequence[int]) -> Tensor:
    """HFRI and HFRF: x without its low frequencies, rectified; those are the half of the band around nought.

    Of n frequencies along an axis, those from -n/4 to below n/4 are low; of several axes, all must be.

    Args:
        x: [B, C, H, W].
        axes: Over which the spectrum is taken: `PLACES` or `CHANNELS`.
    """
    low = torch.ones((), dtype=torch.bool, device=x.device)
    for axis in axes:
        count = x.shape[axis]
        frequencies = torch.arange(count, device=x.device)
        frequencies = torch.where(frequencies < (count + 1) // 2, frequencies, frequencies - count)
        here = (frequencies >= -(count // 4)) & (frequencies < count // 4)
        low = low & here.view([-1 if i == axis else 1 for i in range(x.ndim)])
    spectrum = torch.fft.fftn(at_least_float32(x), dim=axes, norm="ortho").masked_fill(low, 0)
    return F.relu(torch.fft.ifftn(spectrum, dim=axes, norm="ortho").real)


class SpectralConvolution(nn.Module):
    """FCL: 1 x 1 convolutions of an image's two spectra, the result back among pixels, rectified.

    Args:
        channels: C.
        spectra: "real and imaginary", as the authors' code does; "amplitude and phase", as their paper says: of
            frequencies that hardly occur the phase is rounding noise, and the convolution spreads it.
    """

    def __init__(self, channels: int, spectra: str):
        super().__init__()
        self.spectra = spectra
        self.first, self.second = (nn.Conv2d(channels, channels, 1, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):  # there is no Fourier transform in bfloat16
            spectrum = torch.fft.fft2(at_least_float32(x), norm="ortho")
            if self.spectra == "real and imaginary":
                changed = torch.complex(self.first(spectrum.real), self.second(spectrum.imag))
            else:
                # Four frequencies are real: a negative one's phase is pi, and not minus pi by a rounding error.
                phase = torch.where(_real_frequencies(x), spectrum.angle().abs(), spectrum.angle())
                amplitude, phase = self.first(spectrum.abs()), self.second(phase)
                changed = torch.complex(amplitude * phase.cos(), amplitude * phase.sin())
            return F.relu(torch.fft.ifft2(changed, norm="ortho").real)


def _real_frequencies(x: Tensor) -> Tensor:
    """Which frequencies of pictures [B, C, H, W] are their own mirror images, [H, W]."""
    height, width = (2 * torch.arange(count, device=x.device) % count == 0 for count in x.shape[-2:])
    return height[:, None] & width


@register("freqnet")
class FreqNet(Detector):
    """High frequencies of images, features and channels, spectral convolutions, two stages of a ResNet-50.

    Args:
        pretrained: A file of weights in this class's naming; None for random ones (the paper trains from scratch).
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
        if pretrained and not pretrained_skipped():
            load_all(self, read_state_dict(pretrained), pretrained)

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

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        return two_class_output(self.classifier(features), features, labels)
