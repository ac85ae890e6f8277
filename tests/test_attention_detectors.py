"""Capsule-Forensics, multi-attention and SIA: against slow loops, and what differs in DeepfakeBench."""

import json
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from test_parity import apart, checkpoint
from test_parity import make as parity_make
from tiny import IMAGES, LABELS, thin_detector
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.parts import efficientnet_b4
from resproto_fd.detectors.parts.attention_maps import degraded
from resproto_fd.detectors.sia import self_information
from resproto_fd.losses.region_independence import region_independence_loss

# --- Capsule-Forensics -----------------------------------------------------------------------------------------------


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(name: str, **keywords):
    torch.manual_seed(0)
    return thin_detector(name, pretrained=None, **keywords)


def squash(vector: np.ndarray) -> np.ndarray:
    square = (vector**2).sum()
    return square / (1 + square) * vector / np.sqrt(square)


def test_routing_is_two_rounds_of_agreement_component_by_component():
    detector = make("capsule_net").double().eval()
    vectors, weights = draw(2, 8, 10), detector.route_weights.detach().numpy()
    found = detector._route(vectors).detach().numpy()
    for image in range(2):
        for out in range(2):
            votes = np.stack([weights[out, i] @ vectors[image, :, i].numpy() for i in range(10)])
            logits = np.zeros((10, 4))
            for _ in range(2):
                shares = np.exp(logits) / np.exp(logits).sum(axis=0)
                result = squash((shares * votes).sum(axis=0))
                logits = logits + votes * result
            np.testing.assert_allclose(found[image, out], result, atol=1e-12)


def test_the_score_of_capsules_is_their_mean_vote_and_the_loss_its_likelihood():
    detector = make("capsule_net", noise=0.0, dropout=0.0).double()
    output = detector(IMAGES.double(), LABELS)
    votes = detector._route(output.features.unflatten(1, (8, 10)))
    mean = votes.softmax(dim=1).mean(dim=2)
    torch.testing.assert_close(output.scores, mean[:, 1].float())
    expected = -sum(mean[i, label].log() for i, label in enumerate(LABELS)) / len(LABELS)
    torch.testing.assert_close(output.losses["total"], expected)


def test_noise_and_dropout_of_the_routing_act_in_training_alone():
    detector = make("capsule_net")
    features = detector.encode(IMAGES).detach()
    assert not torch.equal(detector.head(features).scores, detector.head(features).scores)
    detector.eval()
    assert torch.equal(detector.head(features).scores, detector.head(features).scores)


def test_vgg_takes_a_file_in_torchvisions_naming_and_stays_as_it_is_unless_asked(tmp_path):
    vgg = create_detector("capsule_net", pretrained=None).vgg.state_dict()
    state = {f"features.{key}": value + 1 for key, value in vgg.items()}
    torch.save({**state, "classifier.0.weight": torch.zeros(3)}, tmp_path / "vgg.pth")
    detector = create_detector("capsule_net", pretrained=str(tmp_path / "vgg.pth"))
    assert torch.equal(detector.vgg[0].weight, vgg["0.weight"] + 1)
    assert not any(p.requires_grad for p in detector.vgg.parameters())
    assert all(p.requires_grad for p in create_detector("capsule_net", pretrained=None, train_vgg=True).parameters())
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    message = r"other\.pth: expected a VGG-19 in torchvision's naming; features\.0\.bias is missing"
    with pytest.raises(UserError, match=message):
        create_detector("capsule_net", pretrained=str(tmp_path / "other.pth"))


# --- multi-attention -------------------------------------------------------------------------------------------------


def test_the_region_independence_loss_is_its_sums_over_pictures_and_maps():
    vectors, centres, rate = F.normalize(draw(3, 4, 5), dim=-1), draw(4, 5, seed=1) * 0.05, 0.3
    labels = torch.tensor([0, 1, 1])
    loss, moved = region_independence_loss(vectors, centres, labels, rate)
    expected = [centres[m] + rate * (sum(vectors[b, m] for b in range(3)) / 3 - centres[m]) for m in range(4)]
    inner = sum(
        max(0.0, float((vectors[b, m] - expected[m]).norm()) - (0.05, 0.1)[labels[b]])
        for b in range(3)
        for m in range(4)
    )
    outer = sum(max(0.0, 0.2 - float((expected[j] - expected[k]).norm())) for j in range(4) for k in range(j))
    torch.testing.assert_close(moved, torch.stack(expected))
    assert outer > 0
    assert loss.item() == pytest.approx(inner / 12 + outer / 4 / rate, abs=1e-12)


def test_centres_move_in_training_alone_and_slower_with_each_epoch():
    detector = make("multi_attention", degraded=0.0)
    detector.eval()(IMAGES, LABELS)
    assert not detector.centres.any()
    detector.train().start_epoch(2)
    assert detector.rate == pytest.approx(0.05 * 0.81)
    detector(IMAGES, LABELS)
    assert detector.centres.any()


def test_pictures_are_degraded_under_their_map_and_only_that_share_of_them():
    torch.manual_seed(0)
    images = torch.randn(400, 3, 32, 32)
    maps = torch.zeros(400, 4, 8, 8)
    maps[..., :3] = 1.0
    worse = degraded(images, maps, 0.25)
    changed = (worse != images).flatten(1).any(dim=1)
    assert 0.15 < changed.float().mean() < 0.35
    torch.testing.assert_close(worse[..., 20:], images[..., 20:])
    left = worse[changed][..., :4]
    assert left.std() < 0.5 * images.std()
    assert torch.equal(degraded(images, maps, 0.0), images)


def test_degrading_takes_part_in_training_alone():
    detector = make("multi_attention", degraded=1.0, dropout=0.0)
    with torch.no_grad():
        assert not torch.equal(detector.encode(IMAGES), detector.encode(IMAGES))
        detector.eval()
        assert torch.equal(detector.encode(IMAGES), detector.encode(IMAGES))


@pytest.mark.slow
@pytest.mark.real
def test_both_scores_of_deepfakebenchs_multi_attention_and_its_second_loss_are_its_own(parity):
    folder, recipe = parity
    golden = json.loads((folder / "golden" / "multi_attention_seed1.json").read_text())
    images, labels = torch.from_numpy(recipe.images(1, 4, 256)), torch.tensor(golden["labels"])
    detector = parity_make("multi_attention", degraded=0.0, dropout=0.0)
    mask = detector.attention.mask
    state = {**checkpoint(parity, "multi_attention"), "attention_generation.mask": mask}
    detector.load_deepfakebench(state).eval()
    weighted = (mask.flatten() * (torch.arange(mask.numel()) % 97 + 1)).sum()
    kept = golden["kept"]["attention_generation.mask"]
    assert (mask.sum().item(), weighted.item()) == (kept["sum"], kept["weighted_sum"])
    with torch.no_grad():
        first = detector(images)
        detector.attend = True
        second = detector(images)
    expected = golden["other"]["phase2"]
    assert apart(second.logits, expected["cls"]) < 6e-6
    assert apart(first.variants["attention"], expected["prob"]) < 1e-5
    assert torch.equal(second.variants["backbone"], first.scores)
    losses = detector.train()(images, labels).losses
    losses["total"].backward()
    assert losses["total"].item() == pytest.approx(golden["train_phase2"]["overall"], rel=1e-5)
    assert losses["independence"].item() == pytest.approx(golden["train_phase2"]["ril_loss"], rel=1e-5)
    norm = torch.sqrt(sum(p.grad.square().sum() for p in detector.parameters() if p.grad is not None)).item()
    assert norm == pytest.approx(golden["train_phase2"]["grad_norm"], rel=1e-3)


# --- SIA -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("same_channel", [True, False])
def test_self_information_compares_with_neighbours_and_with_the_next_five_channels(same_channel):
    x = draw(2, 7, 4, 5)
    found = self_information(x, same_channel)
    for b, c, row, column in np.ndindex(*x.shape):
        around = [
            float(x[b, c, row + i, column + j])
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
            if 0 <= row + i < 4 and 0 <= column + j < 5
        ]
        within = abs(9 * float(x[b, c, row, column]) - sum(around))
        pairs = (
            [(c, s) for s in range(1, 6)] if same_channel else [(e % 7, e // 7 + 1) for e in range(5 * c, 5 * c + 5)]
        )
        between = sum(float(x[b, k, row, column] - x[b, (k + s) % 7, row, column]) for k, s in pairs)
        assert found[b, c, row, column].item() == pytest.approx(within + 0.5 * abs(between), abs=1e-12)


@pytest.mark.slow
@pytest.mark.real
def test_a_picture_among_others_scores_as_deepfakebenchs_sia_scores_it_alone(parity):
    folder, recipe = parity
    golden = json.loads((folder / "golden" / "sia_seed1.json").read_text())
    detector = parity_make("sia").load_deepfakebench(checkpoint(parity, "sia")).eval()
    with torch.no_grad():
        output = detector(torch.from_numpy(recipe.images(1, 4, 256)))
    assert apart(output.logits[:1], golden["eval_single"]["cls"]) < 1e-4


@pytest.mark.slow
def test_scores_of_sia_depend_on_the_batch_where_that_is_asked_for():
    detector = create_detector("sia", pretrained=None, batch_coupled=True).eval()
    with torch.no_grad():
        assert not torch.allclose(detector(IMAGES).logits[:1], detector(IMAGES[:1]).logits, atol=1e-4)


# --- the EfficientNet that three of them share -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("sia", {}),
        ("multi_attention", {"degraded": 0.0, "dropout": 0.0}),
        ("lrl", {"size": 32, "segmentation": 0.0, "dropout": 0.0, "drop_path": 0.0}),
    ],
)
@pytest.mark.slow
def test_activations_of_the_stages_are_checkpointed_where_asked_without_changing_gradients(name, keywords, monkeypatch):
    runs = []
    for checkpointed in (False, True):
        detector = make(name, **keywords).double().train()
        if checkpointed:
            detector.checkpoint_activations()
            used = Mock(wraps=efficientnet_b4.checkpoint_seq)
            monkeypatch.setattr(efficientnet_b4, "checkpoint_seq", used)
        detector(IMAGES.double(), LABELS).losses["total"].backward()
        runs.append([p.grad for p in detector.parameters() if p.grad is not None])
    assert used.called
    for one, two in zip(*runs, strict=True):
        torch.testing.assert_close(two, one, atol=1e-12, rtol=1e-9)
