"""Effort, UIA-ViT, Face X-ray, IID, LSDA: their losses against slow loops in float64, and what is theirs alone."""

import numpy as np
import pytest
import torch

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.effort import SingularResidual

TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"embed_dim": 12, "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}}
TINY_VIT = {"backbone": {**VIT, "text_cfg": TEXT}, "pretrained": None}
IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 1, 0, 1, 1])


# --- Effort ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_effort_starts_as_clip_and_at_no_constraint():
    torch.manual_seed(3)
    effort = create_detector("effort", **TINY_VIT).eval()
    torch.manual_seed(3)
    plain = create_detector("clip", **TINY_VIT).eval()
    plain.clip.visual.proj = None
    torch.testing.assert_close(effort.encode(IMAGES), plain.encode(IMAGES), atol=1e-5, rtol=1e-5)
    losses = effort(IMAGES, LABELS).losses
    assert losses["orthogonality"] < 1e-8
    assert losses["energy"] < 1e-3


@pytest.mark.parametrize("rank", [1, 3])
@torch.no_grad()
def test_efforts_constraints_are_those_of_all_singular_vectors(rank):
    torch.manual_seed(0)
    linear = torch.nn.Linear(9, 9).double()
    layer = SingularResidual(linear, rank)
    u, _, v = np.linalg.svd(linear.weight.numpy())
    for parameter in (layer.S_residual, layer.U_residual, layer.V_residual):
        parameter.add_(torch.randn_like(parameter) * 0.3)
    expected = 0.0
    for frozen, now in ((u[:, :-rank].T, layer.U_residual.numpy().T), (v[:-rank], layer.V_residual.numpy())):
        rows = np.concatenate([frozen, now])
        for i in range(9):
            for j in range(9):
                expected += (sum(rows[i] * rows[j]) - (i == j)) ** 2
    assert layer.orthogonality().item() == pytest.approx(expected, rel=1e-9)
    residual = layer.U_residual.numpy() @ np.diag(layer.S_residual.numpy()) @ layer.V_residual.numpy()
    whole = layer.weight_main.numpy() + residual
    change = abs((whole**2).sum() - (linear.weight.numpy() ** 2).sum())
    assert layer.energy_change().item() == pytest.approx(change, rel=1e-9)


def test_effort_leaves_clip_as_it_is():
    detector = create_detector("effort", **TINY_VIT)
    trains = {name.rpartition(".")[2] for name, p in detector.named_parameters() if p.requires_grad}
    assert trains == {"S_residual", "U_residual", "V_residual", "weight", "bias"}
    assert all("residual" in n or "classifier" in n for n, p in detector.named_parameters() if p.requires_grad)
    resnet = {"embed_dim": 12, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}, "text_cfg": TEXT}
    with pytest.raises(UserError, match="ModifiedResNet has no attention projections"):
        create_detector("effort", backbone=resnet, pretrained=None)
