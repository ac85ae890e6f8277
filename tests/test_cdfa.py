"""CDFA: how many fakes are replaced in which epoch, what the policy learns, and who trains what."""

import copy
import math
import signal

import pytest
import torch
from made import made_config
from test_blending import FRAMES, stores  # noqa: F401
from test_trainer import make_trainer, same_bits, state_of
from tiny import thin_detector, tiny
from torch import nn
from torch.nn import functional as F

from resproto_fd.configs.errors import Interrupted
from resproto_fd.configs.loading import load
from resproto_fd.configs.schema import RunConfig
from resproto_fd.detectors.cdfa import KINDS, drawn
from resproto_fd.losses.virtual_step import loss_after_step
from resproto_fd.trainer.augment.transforms import train_transform
from resproto_fd.trainer.blended_pairs import with_blends
from resproto_fd.trainer.companions import find_companions
from resproto_fd.trainer.data import FrameDataset
from resproto_fd.trainer.fields import batch_fields
from resproto_fd.training.settings import with_keywords

KEYWORDS = {**tiny("cdfa"), "forgeries": True, "held_out": 2, "epochs": 10}
REAL, FAKE, FIRST_KIND = 0, 1, 2
"""Grey values of made pictures: of real faces, of the data set's fakes, and of the first of the kinds."""


@pytest.fixture(scope="module")
def built():
    torch.manual_seed(0)
    return thin_detector("cdfa", **KEYWORDS)


@pytest.fixture
def detector(built):
    return copy.deepcopy(built).train()


@pytest.fixture(scope="module")
def headless(built):
    detector = copy.deepcopy(built)
    detector.backbone = nn.Identity()
    return detector


@pytest.fixture
def plain(headless):
    """The detector with means of pictures as features, and the pictures that each call of `encode` got."""
    detector = copy.deepcopy(headless).train()
    spread = torch.randn(3, 1792, generator=torch.Generator().manual_seed(1))
    detector.given = []

    def encode(images):
        detector.given.append(images)
        return images.mean(dim=(2, 3)) @ spread.to(images.dtype)

    detector.encode = encode
    return detector


def grey(values, side=2):
    return torch.as_tensor(values, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, side, side)


def batch(count, side=2):
    """Fakes and real faces in turn, each two of one person."""
    labels = 1 - torch.arange(count) % 2
    partner = grey(1 - labels, side)
    kinds = {kind: grey([FIRST_KIND + place] * count, side) for place, kind in enumerate(KINDS)}
    return grey(labels, side), labels, {"partner": partner, "target_identity": torch.arange(count) // 2, **kinds}


def noise(count, side=32):
    """The same with pictures that all differ."""
    _, labels, fields = batch(count, side)
    draw = torch.Generator().manual_seed(3)
    shown = {name: torch.randn(count, 3, side, side, generator=draw) for name in ("image", "partner", *KINDS)}
    return shown.pop("image"), labels, {**fields, **shown}


def test_the_first_epoch_replaces_no_fake_and_later_ones_more_and_more(plain):
    images, labels, fields = batch(600)
    found = []
    for epoch, expected in ((0, 0.0), (5, math.tanh(1)), (9, math.tanh(1.8)), (1000, 1.0)):
        torch.manual_seed(epoch)
        plain.start_epoch(epoch)
        plain(images, labels, **fields)
        shown = plain.given[-1][:, 0, 0, 0]
        assert (shown[labels == 0] == REAL).all()
        found.append((shown[labels == 1] != FAKE).float().mean().item())
        assert found[-1] == pytest.approx(expected, abs=0.08)
    assert found == sorted(found) and found[0] == 0 and found[-1] == 1


def test_a_run_tells_the_curriculum_how_many_epochs_it_has():
    config = RunConfig.model_validate(
        {"detector": load("detectors", "cdfa").model_dump(), "protocol": load("protocols", "demo_cross").model_dump()}
    )
    config.detector.train.epochs = 7
    assert with_keywords(config).detector.model["epochs"] == 7


def test_kinds_are_drawn_by_the_policys_probabilities_and_again_by_the_same_seed(plain):
    chances = torch.tensor([0.5, 0.3, 0.2])
    with torch.no_grad():
        plain.policy[2].weight.zero_()
        plain.policy[2].bias.copy_(chances.log())
    plain.start_epoch(1000)
    images, labels, fields = batch(800)
    shown = []
    for _ in range(2):
        torch.manual_seed(5)
        plain(images, labels, **fields)
        shown.append(plain.given[-1][labels == 1, 0, 0, 0])
    assert torch.equal(*shown)
    counts = torch.bincount(shown[0].long() - FIRST_KIND, minlength=3) / 400
    torch.testing.assert_close(counts, chances, atol=0.08, rtol=0)
    torch.testing.assert_close(torch.stack([plain.diagnostics()[kind] for kind in KINDS]), chances)
    assert drawn(torch.tensor([[0.0, -1e9, -1e9]] * 50)).tolist() == [0] * 50


def test_the_policy_sees_the_real_face_of_each_sample(plain):
    images, labels, fields = batch(6)
    seen = []
    plain.policy.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    plain(images, labels, **fields)
    assert torch.equal(seen[0], torch.full((6, 1792), 0.0))  # features of real faces, which are black


def stepped(classifier, trained, looked_at, rate):
    """The loss after one step, by differentiating twice."""
    weight, bias = classifier.weight.detach().requires_grad_(), classifier.bias.detach().requires_grad_()
    features, labels, weights = trained
    inner = (weights * F.cross_entropy(F.linear(features, weight, bias), labels, reduction="none")).sum()
    gradients = torch.autograd.grad(inner, (weight, bias), create_graph=True)
    weight, bias = (part - rate * gradient for part, gradient in zip((weight, bias), gradients, strict=True))
    features, labels, weights = looked_at
    losses = F.cross_entropy(F.linear(features, weight, bias), labels, reduction="none")
    return (weights * losses).sum() / weights.sum()


def test_the_loss_after_a_step_and_its_gradient_are_those_of_differentiating_twice():
    torch.manual_seed(0)
    classifier = nn.Linear(5, 2).double()
    weights = torch.rand(8, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 1, 0, 1, 1, 0, 1])
    trained = torch.randn(8, 5, dtype=torch.float64), labels, weights
    looked_at = torch.randn(4, 5, dtype=torch.float64), labels[:4], torch.tensor([1.0, 0.0, 2.0, 1.0]).double()
    found = []
    for loss_of in (loss_after_step, stepped):
        loss = loss_of(classifier, trained, looked_at, 0.3)
        found.append((loss, *torch.autograd.grad(loss, weights)))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
    none = loss_after_step(classifier, trained, (*looked_at[:2], torch.zeros(4).double()), 0.3)
    assert none.item() == 0


def test_the_policy_comes_to_make_the_forgeries_that_help_with_people_held_out(plain):
    images, labels, fields = batch(8)
    fields |= {"self_blended": grey([-1.0] * 8), "cross_blended": grey([0.0] * 8), "self_shifted": grey([1.0] * 8)}
    optimizer = torch.optim.Adam(plain.policy.parameters(), 0.1)
    with torch.no_grad():
        plain.classifier[1].weight.zero_()
    for _ in range(25):
        optimizer.zero_grad()
        plain(images, labels, **fields).losses["search"].backward()
        optimizer.step()
    assert plain.policy_means.argmax() == 2  # fakes of people held out are 1, as this kind is
    assert plain.policy_means[2] > 0.6


def test_the_search_trains_the_policy_and_the_labels_train_the_rest(detector):
    images, labels, fields = noise(4)
    losses = detector(images, labels, **fields).losses
    losses["search"].backward(retain_graph=True)
    assert {name.split(".")[0] for name, p in detector.named_parameters() if p.grad is not None} == {"policy"}
    assert all(p.grad.any() for p in detector.policy.parameters() if p.ndim == 1)
    detector.zero_grad()
    losses["cross_entropy"].backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None and "policy" not in name] == []
    assert all(p.grad is None for p in detector.policy.parameters())
    assert losses["total"].item() == pytest.approx((losses["search"] + losses["cross_entropy"]).item())


def test_people_held_out_do_not_train_the_detector(plain):
    images, labels, fields = noise(8, side=2)
    held = fields["target_identity"] % 2 == 1
    found = []
    for shift in (0.0, 1.0):
        plain.zero_grad()
        torch.manual_seed(0)
        moved = images + shift * held[:, None, None, None]
        losses = plain(moved, labels, **fields).losses
        losses["cross_entropy"].backward()
        found.append((losses["cross_entropy"].item(), plain.classifier[1].weight.grad.clone(), losses["search"].item()))
    assert found[0][0] == found[1][0] and torch.equal(found[0][1], found[1][1])
    assert found[0][2] != found[1][2]
    own = F.cross_entropy(plain(images, labels, **fields).logits, labels, reduction="none")
    assert found[0][0] == pytest.approx(own[~held].mean().item(), rel=1e-5)


def test_looking_at_forgeries_leaves_no_trace_in_the_networks_statistics(detector):
    images, labels, fields = noise(4)
    twin = copy.deepcopy(detector)
    detector(images, labels, **fields)
    twin.encode(images)  # in the first epoch these pictures alone train
    assert same_bits(dict(detector.named_buffers()), dict(twin.named_buffers()))
    assert all(module.training for module in detector.modules())


@pytest.mark.slow
def test_every_weight_learns_under_autocast_although_it_was_used_without_gradient_before(detector):
    images, labels, fields = noise(4)
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(images, labels, **fields).losses
    losses["total"].backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []
    assert losses["search"].dtype == torch.float32


@torch.no_grad()
def test_scores_in_evaluation_do_not_depend_on_the_forgeries(plain):
    images, labels, fields = noise(4, side=2)
    assert torch.equal(plain.eval()(images, labels, **fields).scores, plain(images).scores)


@pytest.mark.slow
@pytest.mark.parametrize("stores", ["files"], indirect=True)
def test_a_run_goes_on_to_the_same_bits_policy_included(built, stores, tmp_path):  # noqa: F811
    def trainer(folder, **run):
        config = made_config(epochs=3, batch_size=4, input={"size": 32}, run=run)
        detector = copy.deepcopy(built)
        detector.tau = 0.5
        companions = find_companions(detector.requires, FRAMES, {}, stores)
        companions = with_blends(companions, detector.requires, FRAMES, {}, stores)
        transform = train_transform("flip", config.detector.input)
        fields = batch_fields(detector, FRAMES, {})
        data = FrameDataset(FRAMES, stores, transform, companions=companions, fields=fields)
        return make_trainer(folder, config, detector, data=data)

    whole = trainer(tmp_path / "whole")
    whole.fit()
    cut = trainer(tmp_path / "cut")
    step = cut._step

    def stop_after_six(micro):
        step(micro)
        if cut.progress.step == 5:
            signal.raise_signal(signal.SIGTERM)

    cut._step = stop_after_six
    with pytest.raises(Interrupted):
        cut.fit()
    resumed = trainer(tmp_path / "cut")
    resumed.fit()
    assert same_bits(state_of(whole), state_of(resumed))
    assert not torch.equal(state_of(whole)["policy.0.weight"], built.state_dict()["policy.0.weight"])
