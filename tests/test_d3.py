"""D3: shuffled patches, attention between two features against loops, and its authors' head."""

import math

import pytest
import torch
from tiny import IMAGES, TINY_RESNET, TINY_VIT, tiny
from torch import nn

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.d3 import Discrepancy, shuffle_patches
from resproto_fd.detectors.weights import is_head_alone

LAYERS = ("query", "key", "value")


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return create_detector("d3", **{**tiny("d3"), "reshuffle": True})


def test_each_place_gets_the_patch_that_the_order_names():
    order = torch.tensor([2, 0, 5, 1, 4, 3])
    images = torch.randn(2, 3, 8, 12)
    found = shuffle_patches(images, order, 4)
    for place, source in enumerate(order.tolist()):
        (row, column), (from_row, from_column) = divmod(place, 3), divmod(source, 3)
        moved = images[:, :, 4 * from_row : 4 * from_row + 4, 4 * from_column : 4 * from_column + 4]
        assert torch.equal(found[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4], moved)


@torch.no_grad()
def test_attention_is_normalised_over_the_queries():
    attention, both = Discrepancy(3).double(), torch.randn(2, 2, 3, dtype=torch.float64)
    found = attention(both)
    for b in range(2):
        q, k, v = ([getattr(attention, name)(both[b, i]).tolist() for i in range(2)] for name in LAYERS)
        likeness = [[math.exp(sum(map(math.prod, zip(q[i], k[j]))) / math.sqrt(3)) for j in range(2)] for i in range(2)]
        for i in range(2):
            shares = [likeness[i][j] / (likeness[0][j] + likeness[1][j]) for j in range(2)]
            for d in range(3):
                expected = sum(shares[j] * v[j][d] for j in range(2))
                assert found[b, 3 * i + d].item() == pytest.approx(expected, abs=1e-12)


@torch.no_grad()
def test_testing_shuffles_in_one_order_and_training_in_a_new_one_each_step(detector):
    detector.eval()
    tested = [detector.encode(IMAGES) for _ in range(2)]
    assert torch.equal(*tested)
    assert detector.order.sort().values.tolist() == list(range(16)) and detector.order.tolist() != list(range(16))
    assert torch.equal(create_detector("d3", **tiny("d3")).order, detector.order)
    detector.train()
    trained = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        trained.append(detector.encode(IMAGES))
    assert torch.equal(trained[0], trained[1])
    assert not torch.equal(trained[0], trained[2]) and not torch.equal(trained[0], tested[0])
    detector.reshuffle = False
    assert torch.equal(detector.encode(IMAGES), tested[0])


def test_the_head_alone_trains(detector):
    trained = {name.partition(".")[0] for name, p in detector.named_parameters() if p.requires_grad}
    assert trained == {"attention", "classifier"}
    assert not any(module.training for module in detector.train().clip.modules())


@torch.no_grad()
def test_the_head_that_the_authors_save_gives_their_score(detector):
    layers = {name: nn.Linear(32, 32) for name in LAYERS} | {"fc": nn.Linear(64, 1)}
    state = {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}
    assert is_head_alone(state) and not is_head_alone({**state, "model.visual.proj": torch.ones(1)})
    before = detector.clip.visual.conv1.weight.clone()
    assert detector.load_foreign(state) == "checkpoint of the method's authors"
    assert torch.equal(detector.clip.visual.conv1.weight, before)

    detector.eval()
    shuffled = shuffle_patches(IMAGES, detector.order, 8)
    both = torch.stack([detector.clip(shuffled), detector.clip(IMAGES)], dim=1)
    query, key, value = (layers[name](both) for name in LAYERS)
    weights = torch.softmax(query @ key.transpose(1, 2) / 32**0.5, dim=1)
    expected = layers["fc"]((weights @ value).reshape(6, 64)).sigmoid()[:, 0]
    torch.testing.assert_close(detector(IMAGES).scores, expected)


def test_what_d3_cannot_cut_or_read_is_named():
    with pytest.raises(UserError, match=r"d3: expected a side of patches that divides 32, got 7; set model\.patch"):
        create_detector("d3", **TINY_VIT, patch=7)
    with pytest.raises(UserError, match="d3: expected a ViT of open_clip"):
        create_detector("d3", **TINY_RESNET)
