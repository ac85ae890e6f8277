"""Detectors of other papers: their special operations against loops in float64."""

import pytest
import torch

from resproto_fd.detectors import create_detector
from resproto_fd.detectors.gramnet import TAPS, gram_matrix


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- Gram-Net --------------------------------------------------------------------------------------------------------


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
