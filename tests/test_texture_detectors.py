"""Gram-Net, FreqNet and PatchCraft: their equations against slow loops."""

import cmath
import math

import pytest
import torch

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.freqnet import CHANNELS, PLACES
from resproto_fd.detectors.gramnet import TAPS, gram_matrix
from resproto_fd.detectors.parts.spectral_convolution import SpectralConvolution, high_pass
from resproto_fd.detectors.parts.texture import SRM, srm_bank
from resproto_fd.detectors.patchcraft import smash_and_rebuild

# --- Gram-Net --------------------------------------------------------------------------------------------------------


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gram_matrices_are_products_of_channels_over_all_places():
    maps = draw(2, 3, 4, 5)
    found = gram_matrix(maps)
    for b in range(2):
        for i in range(3):
            for j in range(3):
                total = sum(float(maps[b, i, y, x] * maps[b, j, y, x]) for y in range(4) for x in range(5))
                assert found[b, i, j].item() == pytest.approx(total / (3 * 4 * 5), abs=1e-12)


def test_gram_blocks_look_at_the_images_and_before_each_halving():
    detector = create_detector("gramnet", pretrained=None).eval()
    sides = {}
    for name, block in detector.blocks.items():
        block.register_forward_pre_hook(lambda _, args, name=name: sides.update({name: args[0].shape[-1]}))
    assert detector.encode(torch.zeros(1, 3, 64, 64)).shape == (1, 704)
    assert sides == dict(zip(TAPS, (64, 32, 16, 16, 8, 4), strict=True))


# --- FreqNet ---------------------------------------------------------------------------------------------------------


def spectrum_of(line: list[complex], sign: int) -> list[complex]:
    count = len(line)
    return [
        sum(v * cmath.exp(sign * 2j * math.pi * k * n / count) for n, v in enumerate(line)) / math.sqrt(count)
        for k in range(count)
    ]


def is_low(k: int, count: int) -> bool:
    shifted = (k + count // 2) % count  # the place in a spectrum with nought in its middle
    return count // 2 - count // 4 <= shifted < count // 2 + count // 4


@pytest.mark.parametrize("count", [8, 7])
def test_high_frequencies_of_channels_are_those_of_a_slow_transform(count):
    x = draw(2, count, 2, 1)
    found = high_pass(x, CHANNELS)
    for b in range(2):
        for y in range(2):
            spectrum = spectrum_of([complex(v) for v in x[b, :, y, 0].tolist()], -1)
            kept = [0 if is_low(k, count) else v for k, v in enumerate(spectrum)]
            wanted = [max(v.real, 0) for v in spectrum_of(kept, 1)]
            torch.testing.assert_close(found[b, :, y, 0], torch.tensor(wanted, dtype=torch.float64))


def slow_spectrum(picture: list[list[complex]], sign: int) -> list[list[complex]]:
    rows = [spectrum_of(row, sign) for row in picture]
    columns = [spectrum_of(list(column), sign) for column in zip(*rows, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def test_high_frequencies_of_places_lack_a_rectangle_of_a_slow_transform():
    x = draw(1, 2, 8, 6)
    found = high_pass(x, PLACES)
    for c in range(2):
        spectrum = slow_spectrum([[complex(v) for v in row] for row in x[0, c].tolist()], -1)
        for i in range(8):
            for j in range(6):
                if is_low(i, 8) and is_low(j, 6):
                    spectrum[i][j] = 0
        wanted = [[max(v.real, 0) for v in row] for row in slow_spectrum(spectrum, 1)]
        torch.testing.assert_close(found[0, c], torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("spectra", ["amplitude and phase", "real and imaginary"])
def test_a_spectral_convolution_mixes_channels_at_each_frequency(spectra):
    torch.manual_seed(0)
    layer, x = SpectralConvolution(2, spectra).double(), draw(1, 2, 4, 6)
    one, two = (part.weight[:, :, 0, 0].tolist() for part in (layer.first, layer.second))
    given = [slow_spectrum([[complex(v) for v in row] for row in x[0, c].tolist()], -1) for c in range(2)]
    found = layer(x)
    for c in range(2):
        mixed = [[0j] * 6 for _ in range(4)]
        for i in range(4):
            for j in range(6):
                values = [given[d][i][j] for d in range(2)]
                phases = [cmath.phase(v) if abs(v.imag) > 1e-9 else math.pi * (v.real < 0) for v in values]
                parts = [(v.real, v.imag) for v in values]
                if spectra == "amplitude and phase":
                    parts = [(abs(v), phase) for v, phase in zip(values, phases, strict=True)]
                first = sum(w * p[0] for w, p in zip(one[c], parts, strict=True))
                second = sum(w * p[1] for w, p in zip(two[c], parts, strict=True))
                mixed[i][j] = complex(first, second) if spectra[0] == "r" else first * cmath.exp(1j * second)
        wanted = [[max(v.real, 0) for v in row] for row in slow_spectrum(mixed, 1)]
        torch.testing.assert_close(found[0, c], torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.slow
@pytest.mark.parametrize("spectra", ["amplitude and phase", "real and imaginary"])
def test_an_image_without_any_contrast_gives_finite_gradients(spectra):
    detector = create_detector("freqnet", spectra=spectra)
    detector(torch.zeros(2, 3, 32, 32), torch.tensor([0, 1])).losses["total"].backward()
    assert all(p.grad.isfinite().all() for p in detector.parameters())


# --- PatchCraft ------------------------------------------------------------------------------------------------------


def test_the_rich_model_has_30_different_filters_that_flat_surfaces_do_not_pass():
    bank = srm_bank().double()
    assert bank.shape == (30, 5, 5)
    assert len(bank.unique(dim=0)) == 30
    assert bank.sum(dim=(1, 2)).abs().max() < 1e-6
    assert set(bank[:, 2, 2].tolist()) == {-1.0}
    for three in (torch.tensor(square, dtype=torch.float64) for square in SRM):
        assert any(torch.allclose(three / three[2, 2].abs(), one, atol=1e-6) for one in bank)


def slow_diversity(patch: list[list[float]]) -> float:
    side, total = len(patch), 0.0
    for y in range(side):
        for x in range(side):
            for down, right in ((0, 1), (1, 0), (1, 1), (1, -1)):
                if y + down < side and 0 <= x + right < side:
                    total += abs(patch[y][x] - patch[y + down][x + right])
    return total


def test_pictures_are_rebuilt_from_the_richest_and_the_poorest_patches():
    images, side, places, grid = draw(2, 3, 17, 14), 4, 4, 2
    images[1, :, :8] *= 0.1  # much of it poor
    grey = images.sum(dim=1).mul(20).round()
    rich, poor = smash_and_rebuild(images, grey, side, places, grid)
    assert rich.shape == poor.shape == (2, 3, 8, 8)
    for b in range(2):
        corners = [(round(i * 13 / 3), round(j * 10 / 3)) for i in range(places) for j in range(places)]
        found = [slow_diversity(grey[b, y : y + side, x : x + side].tolist()) for y, x in corners]
        for picture, sign in ((rich, -1), (poor, 1)):
            ranked = sorted(range(len(corners)), key=lambda n, sign=sign, found=found: sign * found[n])
            for number, place in enumerate(ranked[: grid**2]):
                (y, x), (row, column) = corners[place], divmod(number, grid)
                part = picture[b, :, row * side : (row + 1) * side, column * side : (column + 1) * side]
                assert torch.equal(part, images[b, :, y : y + side, x : x + side])


def test_patchcraft_says_what_it_cannot_cut():
    with pytest.raises(UserError, match=r"expected model\.places of at least model\.grid=8, got 2"):
        create_detector("patchcraft", places=2)
    with pytest.raises(UserError, match=r"expected images of at least 32 pixels a side, got \(16, 32\)"):
        create_detector("patchcraft").encode(torch.zeros(1, 3, 16, 32))
