"""High frequencies of pictures and maps, and convolution of their spectra (FreqNet)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.losses.precision import at_least_float32, without_autocast

MARGIN = 1e-3
"""Phases as close to -pi as this count as pi."""


def high_pass(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Remove the low frequencies of x, the half of the band around 0, and rectify the rest (HFRI and HFRF).

    Along an axis with n frequencies, those from -n/4 to below n/4 are low. With several axes, a frequency must be low
    along each of them.

    Args:
        x: [B, C, H, W].
        axes: Axes of the spectrum: `PLACES` or `CHANNELS` of `freqnet`.
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
    """Convolve the two spectra of maps with 1 x 1 kernels, transform back and rectify (FCL).

    Args:
        channels: C.
        spectra: "real and imaginary", as in the authors' code, or "amplitude and phase", as in their paper. The phase
            of a frequency that hardly occurs is rounding noise, and the convolution spreads this noise.
    """

    def __init__(self, channels: int, spectra: str):
        super().__init__()
        self.spectra = spectra
        self.first, self.second = (nn.Conv2d(channels, channels, 1, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        with without_autocast(x):  # there is no Fourier transform in bfloat16
            spectrum = torch.fft.fft2(at_least_float32(x), norm="ortho")
            if self.spectra == "real and imaginary":
                changed = torch.complex(self.first(spectrum.real), self.second(spectrum.imag))
            else:
                amplitude, phase = self.first(spectrum.abs()), self.second(_phase(spectrum))
                changed = torch.complex(amplitude * phase.cos(), amplitude * phase.sin())
            return F.relu(torch.fft.ifft2(changed, norm="ortho").real)


def _phase(spectrum: Tensor) -> Tensor:
    """Angle from just above -pi to pi.

    A map with one place that is not 0 has many negative real frequencies. Rounding, which differs with the batch
    size, would make their phase pi or minus pi.
    """
    angle = spectrum.angle()
    return torch.where(angle < MARGIN - math.pi, angle + 2 * math.pi, angle)
