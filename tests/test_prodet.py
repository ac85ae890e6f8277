"""ProDet: the steps from a real face to a deepfake, their bridges and losses, and its authors' checkpoints."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from tiny import thin_detector, tiny
from torch import nn

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.parts.deepfakebench_names import efficientnet

LABELS = torch.tensor([0, 1, 1])
ATTRIBUTES = {"real": (0, 0, 0), "self_blended": (1, 0, 0), "cross_blended": (1, 1, 0), "deepfake": (1, 1, 1)}
"""Whether there is a blended boundary, another identity, a generator's traces."""


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


IMAGES, PARTNER, ONE, TWO = (draw(3, 3, 32, 32, seed=seed) for seed in range(4))


@pytest.fixture(scope="module")
def detector():
    torch.manual_seed(0)
    return thin_detector("prodet", **{**tiny("prodet"), "blends": True}).eval()


def surprise(logits: torch.Tensor, share: float) -> float:
    """Cross-entropy with absence and presence in these shares."""
    absent, present = logits.tolist()
    total = math.log(math.exp(absent) + math.exp(present))
    return (1 - share) * (total - absent) + share * (total - present)


@torch.no_grad()
def test_the_losses_are_those_of_the_attributes_of_each_step_and_of_each_bridge(detector, monkeypatch):
    shares = torch.linspace(0.1, 0.9, 9)
    mixed = draw(9, 16, 1, 1, seed=9)
    monkeypatch.setattr(detector, "_bridges", lambda maps: (mixed, shares))
    output = detector(IMAGES, LABELS, partner=PARTNER, self_blended=ONE, cross_blended=TWO)
    real, fake = torch.stack([IMAGES[0], PARTNER[1], PARTNER[2]]), torch.stack([PARTNER[0], IMAGES[1], IMAGES[2]])
    rows, wanted = [], []
    for images, attributes in zip((real, ONE, TWO, fake), ATTRIBUTES.values(), strict=True):
        rows.append(detector._maps(images))
        wanted += [attributes] * 3
    steps = list(ATTRIBUTES.values())
    for number, share in enumerate(shares.tolist()):
        before, after = steps[number // 3], steps[number // 3 + 1]
        wanted.append(tuple((1 - share) * a + share * b for a, b in zip(before, after, strict=True)))
    features, logits = detector._read(torch.cat([*rows, mixed]))
    for place, name in enumerate(("blended", "identity", "deepfake")):
        found = [surprise(logits[place][i], wanted[i][place]) for i in range(21)]
        assert output.losses[name].item() == pytest.approx(np.mean(found), abs=1e-5)
    scored = detector.classifier(features)
    expected = np.mean([surprise(scored[i], wanted[i][0]) for i in range(21)])
    assert output.losses["score"].item() == pytest.approx(expected, abs=1e-5)
    parts = sum(value.item() for name, value in output.losses.items() if name != "total")
    assert output.losses["total"].item() == pytest.approx(parts, abs=1e-5)
    torch.testing.assert_close(output.scores, detector(IMAGES).scores, atol=1e-5, rtol=0)


def test_bridges_mix_the_maps_of_neighbouring_steps(detector):
    maps = draw(8, 16, 2, 2)
    torch.manual_seed(3)
    found, shares = detector._bridges(maps)
    assert found.shape == (6, 16, 2, 2) and shares.min() >= 0 and shares.max() <= 1 and len(set(shares.tolist())) == 6
    for i, share in enumerate(shares):
        torch.testing.assert_close(found[i], (1 - share) * maps[i] + share * maps[i + 2])
    torch.manual_seed(3)
    assert torch.equal(detector._bridges(maps)[1], shares)


def test_the_transition_loss_is_the_squared_error_of_the_step_that_is_made(detector):
    detector = copy.deepcopy(detector)
    detector.transitions = nn.ModuleList(nn.Identity() for _ in range(3))
    with torch.no_grad():
        output = detector(IMAGES, LABELS, partner=PARTNER, self_blended=ONE, cross_blended=TWO)
        fake = LABELS[:, None, None, None] == 1
        steps = [torch.where(fake, PARTNER, IMAGES), ONE, TWO, torch.where(fake, IMAGES, PARTNER)]
        maps = [detector._maps(step).double() for step in steps]
    expected = sum(((maps[i] - maps[i + 1]) ** 2).mean().item() for i in range(3))
    assert output.losses["transition"].item() == pytest.approx(expected, rel=1e-4)


def test_every_parameter_learns_from_the_four_steps(detector):
    detector(IMAGES, LABELS, partner=PARTNER, self_blended=ONE, cross_blended=TWO).losses["total"].backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []
    detector.zero_grad()


def test_maps_of_another_side_are_refused_with_the_side(detector):
    with pytest.raises(UserError, match=r"expected maps of 1 x 1, got \(2, 2\); set model\.side=2, or input\.size=32"):
        detector(torch.zeros(1, 3, 64, 64))


class Theirs(nn.Module):
    """The names and shapes of the authors' network beside EfficientNet-B4, and how they are put together."""

    def __init__(self, width: int = 16, side: int = 1):
        super().__init__()
        self.adjust_feature = nn.Conv2d(1792, width, 1)
        for name in ("blend_classifier", "ID_inconsistency_classifier", "deepfake_classifier", "final_classifier"):
            setattr(self, name, self.classifier(width))
        self.fea_att = nn.Module()
        for number in (1, 2, 3):
            shaped = nn.Unflatten(1, (width, 1, 1)), nn.ConvTranspose2d(width, width, side)
            spread = nn.Sequential(nn.Linear(2, 256), nn.LeakyReLU(), nn.Linear(256, width), *shaped)
            setattr(self.fea_att, f"inverse_conv{number}", spread)
        layers = []
        for before in (4 * width, width):
            layers += [nn.Conv2d(before, width, 1), nn.BatchNorm2d(width), nn.ReLU()]
        self.fea_att.attention = nn.Sequential(*layers, nn.Conv2d(width, width, 3, padding=1), nn.Sigmoid())
        for name in ("real2sbi", "sbi2bi", "bi2fake"):
            block = nn.Module()
            block.noise_process = nn.Sequential(nn.Conv2d(width, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3))
            block.concat_process = nn.Sequential(nn.Conv2d(2 * width, width, 1), nn.ReLU(), nn.Conv2d(width, width, 3))
            setattr(self, name, block)

    @staticmethod
    def classifier(width: int) -> nn.Sequential:
        pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        return nn.Sequential(*pooled, nn.Linear(width, 256), nn.LeakyReLU(), nn.Linear(256, 2))

    def forward(self, raw: torch.Tensor) -> torch.Tensor:
        maps = self.adjust_feature(raw)
        made, blended, other = (
            each(maps) for each in (self.deepfake_classifier, self.blend_classifier, self.ID_inconsistency_classifier)
        )
        spread = [getattr(self.fea_att, f"inverse_conv{i + 1}")(x) for i, x in enumerate((made, blended, other))]
        return self.final_classifier(maps * self.fea_att.attention(torch.cat([*spread, maps], dim=1)))


@pytest.mark.slow
@torch.no_grad()
def test_a_checkpoint_of_the_authors_scores_as_their_network(shared):
    keys = json.loads((shared / "parity" / "keys" / "efficientnetb4.json").read_text())
    torch.manual_seed(0)
    theirs = Theirs().eval()
    detector = create_detector("prodet", **{**tiny("prodet"), "blends": True}).eval()
    own, state = detector.backbone.state_dict(), {f"module.{k}": v for k, v in theirs.state_dict().items()}
    for key, *_ in keys:
        name = efficientnet(key).removeprefix("backbone.")
        state[f"module.{key}"] = own[name] if name in own else torch.zeros(1)  # their classifier, which is not used
    before = detector(IMAGES).scores
    assert detector.load_foreign(state) == "checkpoint of the method's authors"
    expected = theirs(detector.backbone.forward_features(IMAGES)).softmax(dim=1)[:, 1]
    assert (expected - before).abs().max() > 1e-3
    torch.testing.assert_close(detector(IMAGES).scores, expected, atol=1e-5, rtol=0)
