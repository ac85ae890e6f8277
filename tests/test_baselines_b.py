"""Capsule-Forensics, multi-attention, SIA, LRL: their equations against slow loops, what differs in DeepfakeBench."""

import numpy as np
import pytest
import torch
from test_detectors import IMAGES, LABELS

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(name: str, **keywords):
    torch.manual_seed(0)
    return create_detector(name, pretrained=None, **keywords)


# --- Capsule-Forensics -----------------------------------------------------------------------------------------------


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
    vgg = make("capsule_net").vgg.state_dict()
    state = {f"features.{key}": value + 1 for key, value in vgg.items()}
    torch.save({**state, "classifier.0.weight": torch.zeros(3)}, tmp_path / "vgg.pth")
    detector = create_detector("capsule_net", pretrained=str(tmp_path / "vgg.pth"))
    assert torch.equal(detector.vgg[0].weight, vgg["0.weight"] + 1)
    assert not any(p.requires_grad for p in detector.vgg.parameters())
    assert all(p.requires_grad for p in make("capsule_net", train_vgg=True).parameters())
    torch.save({"features.0.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: no VGG-19 of torchvision's, features\.0\.bias is missing"):
        create_detector("capsule_net", pretrained=str(tmp_path / "other.pth"))
