"""Methods on Xception: their further losses, against loops in float64."""

import copy
import math

import pytest
import torch
from tiny import thin_detector

from resproto_fd.detectors.core import cosine_penalty
from resproto_fd.detectors.pcl_xception import consistency_target, pair_logits
from resproto_fd.detectors.rfm import erased

IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
OTHER = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
LABELS = torch.tensor([0, 1, 1, 0])
MASKS = (torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(2)) > 0.5).float()


def make(name, **keywords):
    torch.manual_seed(0)
    return thin_detector(name, pretrained=None, **keywords)


def test_the_penalty_of_core_is_the_loop():
    one, two = torch.randn(5, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    total = 0.0
    for a, b in zip(one.tolist(), two.tolist()):
        dot = sum(x * y for x, y in zip(a, b))
        total += (1 - dot / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))) ** 2
    assert cosine_penalty(one, two).item() == pytest.approx(total / 5, rel=1e-12)


@pytest.mark.slow
def test_core_trains_on_both_views_and_pulls_their_features_together():
    detector = make("core", consistency=2.0).double().train()
    output = detector(IMAGES.double(), LABELS, second_view=OTHER.double())
    twin = make("core").double().train()
    features = twin.encode(torch.cat([IMAGES, OTHER]).double())
    entropy = torch.nn.functional.cross_entropy(twin.classifier(features), LABELS.repeat(2))
    penalty = cosine_penalty(features[:4], features[4:])
    torch.testing.assert_close(output.losses["total"], entropy + 2 * penalty)
    assert output.scores.shape == (4,)
    assert detector(IMAGES.double(), LABELS, second_view=IMAGES.double()).losses["consistency"] < 1e-9
    assert detector.requires == {"second_view"}
    assert make("core", pairs="halves").requires == set()


def test_boxes_of_rfm_cover_the_highest_visible_attention_one_after_another():
    torch.manual_seed(0)
    images, attention = torch.full((3, 3, 40, 40), 5.0), torch.rand(3, 40, 40)
    one = (erased(images, attention, 1, 0.3) != 5).any(dim=1)
    for hidden, heat in zip(one, attention):
        rows, columns = hidden.nonzero().T
        assert hidden.flatten()[heat.argmax()]
        assert hidden.sum() == (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert rows.max() - rows.min() < 12
        assert columns.max() - columns.min() < 12
    three = erased(images, attention, 3, 0.3)
    noise = three[three != 5]
    assert noise.min() >= -1
    assert noise.max() <= 1
    visible = attention.masked_fill((three != 5).any(dim=1), -1)
    assert (visible.flatten(1).max(dim=1).values < attention.flatten(1).max(dim=1).values).all()
    assert torch.equal(erased(images, attention, 0, 0.3), images)


@pytest.mark.slow
def test_attention_of_rfm_is_the_slope_and_leaves_no_trace():
    detector = make("rfm").double().train()
    before = copy.deepcopy(detector.state_dict())
    heat = detector.attention(IMAGES.double())
    assert detector.training
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert all(p.grad is None for p in detector.parameters())
    detector.eval()
    place = heat[0].argmax()
    row, column = divmod(place.item(), 64)
    slopes = []
    for channel in range(3):
        moved = IMAGES[:1].double().repeat(2, 1, 1, 1)
        moved[:, channel, row, column] += torch.tensor([1e-5, -1e-5], dtype=torch.float64)
        logits = detector(moved).logits.double()
        slopes.append(((logits[0, 1] - logits[0, 0]) - (logits[1, 1] - logits[1, 0])).item() / 2e-5)
    assert heat[0, row, column].item() == pytest.approx(max(map(abs, slopes)), rel=1e-5)


@pytest.mark.slow
def test_a_step_of_rfm_trains_on_erased_images():
    class Plainly:
        def autocast(self):
            return torch.autocast("cpu", enabled=False)

        def backward(self, loss):
            loss.backward()

    detector = make("rfm").train()
    seen = []
    detector.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    torch.manual_seed(3)
    losses = detector.training_step(detector, Plainly(), IMAGES, LABELS)
    assert losses["total"].isfinite()
    changed = (seen[-1] != IMAGES).any(dim=1).flatten(1).sum(dim=1)
    assert (changed > 0).all()
    assert (changed < 64 * 64).all()


def test_likeness_and_target_of_pcl_are_the_loops():
    embedded = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    mask = torch.rand(2, 3, 4, dtype=torch.float64)
    found, target = pair_logits(embedded), consistency_target(mask)
    bugged = consistency_target(mask, first_column_bug=True)
    places = [(i, j) for i in range(3) for j in range(4)]
    for n in range(2):
        for p, (i, j) in enumerate(places):
            for q, (h, w) in enumerate(places):
                dot = sum((embedded[n, c, i, j] * embedded[n, c, h, w]).item() for c in range(5))
                assert found[n, p, q].item() == pytest.approx(dot / math.sqrt(5))
                wanted = 1 - abs(mask[n, i, j].item() - mask[n, h, w].item())
                assert target[n, p, q].item() == pytest.approx(wanted)
                assert bugged[n, p, q].item() == pytest.approx(wanted if j else mask[n, h, w].item())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pcl_xception", "sladd", "ffd"])
def test_masks_add_a_loss_that_reaches_every_parameter(name):
    keywords = {"mask_weight": 0.5} if name == "ffd" else {}
    detector = make(name, **keywords).train()
    assert detector.requires == {"mask"}
    losses = detector(IMAGES, LABELS, mask=MASKS).losses
    extra = losses["consistency" if name == "pcl_xception" else "mask"]
    weight = {"pcl_xception": 10.0, "sladd": 0.1, "ffd": 0.5}[name]
    plain = make(name, **keywords).train()(IMAGES, LABELS).losses["total"]
    torch.testing.assert_close(losses["total"], plain + weight * extra)
    losses["total"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
