"""RECCE and UCF, which reconstruct faces: against slow loops and DeepfakeBench's numbers."""

import json

import numpy as np
import pytest
import torch
from test_parity import checkpoint
from tiny import thin_detector

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.parts.graph_reasoning import GraphReasoning
from resproto_fd.detectors.recce import WIDTHS
from resproto_fd.detectors.ucf import UCF, pair_contrast, shuffled_within


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_recces_losses_are_those_of_loops_over_pairs():
    detector = thin_detector("recce", pretrained=None, reconstruction=0.3, metric=0.2).double().eval()
    features, labels = rand(5, sum(WIDTHS)), torch.tensor([0, 1, 0, 1, 0])
    losses = detector.head(features, labels).losses
    reals, fakes = [0, 2, 4], [1, 3]
    assert losses["reconstruction"].item() == pytest.approx(features[reals, -1].mean().item())
    expected = 0.0
    for part in (features[:, 2048:2776], features[:, 2776:3032], features[:, 3032:3160]):

        def similarity(i, j, part=part):
            return (torch.cosine_similarity(part[i], part[j], dim=0).item() + 1) / 2

        expected += np.mean([1 - similarity(i, j) for i in reals for j in reals if i != j])
        expected += np.mean([similarity(i, j) for i in reals for j in fakes])
    assert losses["metric"].item() == pytest.approx(expected)
    entropy = torch.nn.functional.cross_entropy(detector.classifier(features[:, :2048]), labels)
    total = entropy + 0.3 * losses["reconstruction"] + 0.2 * losses["metric"]
    assert losses["total"].item() == pytest.approx(total.item())


@pytest.mark.parametrize("label", [0, 1])
def test_recces_losses_are_finite_where_one_class_is_missing(label):
    losses = thin_detector("recce", pretrained=None).head(torch.randn(2, sum(WIDTHS)), torch.full((2,), label)).losses
    assert all(value.isfinite() for value in losses.values())
    if label:
        assert losses["reconstruction"] == losses["metric"] == 0


def test_recces_reasoning_looks_at_the_places_below_each_place():
    reasoning = GraphReasoning(0.0).double()
    x, finer = rand(1, 728, 2, 2), rand(1, 256, 4, 4, seed=1)
    a = reasoning.va_embedding(x)
    found = reasoning._below(x, a, "b", finer)
    for row in range(2):
        for column in range(2):
            places = [(2 * row + i, 2 * column + j) for i in range(2) for j in range(2)]
            below = [reasoning.vb_embedding(finer[0, :, i, j]) for i, j in places]
            shares = [reasoning.reweight_ab(torch.cat([a[0, :, row, column], one])).exp() for one in below]
            mean = sum(share * one for share, one in zip(shares, below, strict=True)) / sum(shares)
            expected = mean * (1 - reasoning.va_gated_b(x)[0, :, row, column])
            torch.testing.assert_close(found[0, :, row, column], expected, atol=1e-9, rtol=0)


@pytest.mark.slow
@pytest.mark.real
def test_recces_reconstruction_is_deepfakebenchs(shared, parity):
    golden = json.loads((shared / "parity" / "golden" / "recce_seed1.json").read_text())["other"]["reconstruction"]
    detector = create_detector("recce", pretrained=None).load_deepfakebench(checkpoint(parity, "recce")).eval()
    found = []
    detector.decoder6.register_forward_hook(lambda module, args, output: found.append(output))
    with torch.no_grad():
        detector.encode(torch.from_numpy(parity[1].images(1, 4, 256))[:1])
    faces = torch.nn.functional.interpolate(found[0], (256, 256), mode="bilinear", align_corners=True).double()
    assert faces.mean().item() == pytest.approx(golden["mean"], rel=1e-5)
    assert faces.std(correction=0).item() == pytest.approx(golden["std"], rel=1e-5)
    np.testing.assert_allclose(faces.flatten()[:8], golden["first"], atol=1e-5)


@pytest.mark.slow
@pytest.mark.real
def test_ucfs_losses_are_deepfakebenchs_where_nothing_is_shuffled(shared, parity, monkeypatch):
    golden = json.loads((shared / "parity" / "golden" / "ucf_seed1.json").read_text())["train"]
    detector = create_detector("ucf", pretrained=None, swap=0.0).load_deepfakebench(checkpoint(parity, "ucf")).train()
    for module in detector.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0

    def unshuffled(groups):  # of the classes; within a method the peer's order is turned round
        return torch.arange(4) if groups.max() == 1 else torch.tensor([1, 0, 2, 3])

    monkeypatch.setattr("resproto_fd.detectors.ucf.shuffled_within", unshuffled)
    reals, fakes = torch.from_numpy(parity[1].images(1, 4, 256)).chunk(2)
    output = detector(fakes, torch.ones(2, dtype=torch.long), partner=reals, method=torch.tensor([1, 3]))
    output.losses["total"].backward()
    np.testing.assert_allclose(output.logits.detach(), golden["cls"][2:], rtol=1e-5)
    for name in ("common", "specific", "reconstruction", "contrastive"):
        assert output.losses[name].item() == pytest.approx(golden[name], rel=1e-5), name
    assert output.losses["total"].item() == pytest.approx(golden["overall"], rel=1e-5)
    norm = torch.sqrt(sum(p.grad.square().sum() for p in detector.parameters())).item()
    assert norm == pytest.approx(golden["grad_norm"], rel=1e-3)


@pytest.mark.slow
def test_ucf_puts_each_image_beside_its_partner_whichever_is_the_fake():
    torch.manual_seed(0)
    detector = thin_detector("ucf", pretrained=None, swap=0.0, dropout=0.0).eval()
    images, partner = torch.randn(2, 4, 3, 64, 64)
    labels, method = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 2, 4, 0])
    with torch.no_grad():
        output = detector(images, labels, partner=partner, method=method)
        torch.testing.assert_close(output.logits, detector(images).logits, atol=1e-5, rtol=1e-5)
        reals = torch.stack([images[0], partner[1], partner[2], images[3]])
        fakes = torch.stack([partner[0], images[1], images[2], partner[3]])
        logits = detector(torch.cat([reals, fakes])).logits
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor([0] * 4 + [1] * 4))
        torch.testing.assert_close(output.losses["common"], expected)
        own = [detector.head_spe(detector.block_spe(detector.encoder_f(x)).mean((2, 3))) for x in (reals, fakes)]
        known = torch.nn.functional.cross_entropy(torch.cat([own[0], own[1][[1, 2]]]), torch.tensor([0, 0, 0, 0, 2, 4]))
        torch.testing.assert_close(output.losses["specific"], known)
        style = [
            torch.cat([b(detector.encoder_f(x)) for b in (detector.block_spe, detector.block_sha)], 1)
            for x in (reals, fakes)
        ]
        content = [detector.encoder_c(x) for x in (reals, fakes)]
        expected = sum(
            (detector.con_gan(style[s], content[c], (64, 64)) - (reals, fakes)[c]).abs().mean()
            for s in range(2)
            for c in range(2)
        )
        torch.testing.assert_close(output.losses["reconstruction"], expected)


@pytest.mark.slow
def test_ucfs_every_parameter_learns_from_partners_and_methods_and_either_may_be_absent():
    detector = thin_detector("ucf", pretrained=None).train()
    images, partner = torch.randn(2, 4, 3, 64, 64)
    labels = torch.tensor([0, 1, 1, 0])
    assert set(detector(images, labels).losses) == {"total"}
    assert set(detector(images, labels, partner=partner).losses) == {"total", "common", "reconstruction", "contrastive"}
    detector(images, labels, partner=partner, method=torch.tensor([0, 2, 4, 0])).losses["total"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())


def test_ucfs_contrast_is_that_of_a_loop():
    features, order = rand(6, 4), torch.tensor([2, 0, 1, 3, 5, 4])
    anchors = torch.tensor([True, True, True, True, False, True])
    terms = {0: [], 1: []}
    for i in range(6):
        negative = order[(i + 3) % 6]
        near, far = ((features[i] - features[j] + 1e-6).norm().item() for j in (order[i], negative))
        if anchors[i]:
            terms[i // 3].append(max(0.0, near - far + 3.0))
    assert pair_contrast(features, order, anchors).item() == pytest.approx(np.mean(terms[0]) + np.mean(terms[1]))


def test_shuffling_keeps_groups_and_reaches_every_member():
    groups = torch.tensor([2, 0, 2, 1, 0, 2])
    orders = torch.stack([shuffled_within(groups) for _ in range(64)])
    assert all(torch.equal(order.sort().values, torch.arange(6)) for order in orders)
    assert (groups[orders] == groups).all()
    assert set(orders[:, 0].tolist()) == {0, 2, 5}


def test_ucf_needs_real_among_its_methods():
    with pytest.raises(UserError, match=r"expected 'real' in model\.methods, got A, B"):
        UCF(None, methods=["A", "B"])
