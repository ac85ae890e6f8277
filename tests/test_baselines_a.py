"""F3-Net, SRM, RECCE and UCF against slow loops and against the constants that DeepfakeBench keeps."""

import json
import math

import numpy as np
import pytest
import torch
from test_parity import checkpoint, parity  # noqa: F401

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.f3net import F3Net
from resproto_fd.detectors.parts.frequency_bands import LocalStatistics, MixBlock
from resproto_fd.detectors.parts.graph_reasoning import GraphReasoning
from resproto_fd.detectors.parts.residual_streams import CrossAttention, filters
from resproto_fd.detectors.recce import WIDTHS, Recce
from resproto_fd.detectors.srm import SRMNet
from resproto_fd.detectors.ucf import UCF, pair_contrast, shuffled_within


def assert_kept(shared, name: str, constants: dict[str, torch.Tensor]) -> None:
    """The constants have the checksums of the golden's."""
    kept = json.loads((shared / "parity" / "golden" / f"{name}_seed1.json").read_text())["kept"]
    assert set(constants) <= set(kept)
    for key, tensor in constants.items():
        values, golden = tensor.double().flatten(), kept[key]
        assert list(tensor.shape) == golden["shape"]
        weights = torch.arange(len(values)) % 97 + 1
        assert values.sum().item() == pytest.approx(golden["sum"], abs=1e-4, rel=1e-6), key
        assert values.abs().sum().item() == pytest.approx(golden["sum_abs"], rel=1e-6), key
        assert (values * weights).sum().item() == pytest.approx(golden["weighted_sum"], abs=1e-3, rel=1e-6), key
        np.testing.assert_allclose(values[:8], golden["first"], atol=1e-7)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.real
def test_f3nets_matrix_and_bands_are_deepfakebenchs(shared):
    bands = create_detector("f3net", pretrained=None, paper=False).bands
    kept = {f"FAD_head.filters.{i}.base": base for i, base in enumerate(bands.base)}
    assert_kept(shared, "f3net", kept | {"FAD_head._DCT_all": bands.dct, "FAD_head._DCT_all_T": bands.dct.T})


def test_f3nets_bands_part_the_spectrum_and_untaught_give_the_picture_back():
    bands = F3Net(None, size=32).bands.double()
    assert torch.equal(bands.base.sum(dim=0), torch.ones(32, 32))
    for learnt in bands.learnt:
        learnt.data.zero_()
    images = rand(2, 3, 32, 32)
    parts = bands(images).view(2, 3, 3, 32, 32)
    torch.testing.assert_close(parts.sum(dim=1), images, atol=1e-6, rtol=0)


def test_local_statistics_are_sums_over_windows_and_bands():
    statistics = LocalStatistics(4, 2, 2).double()
    images = rand(1, 3, 8, 8)
    found = statistics(images)
    assert found.shape == (1, 2, 5, 5)
    grey = 0.299 * images[0, 0] + 0.587 * images[0, 1] + 0.114 * images[0, 2]
    padded = torch.zeros(12, 12, dtype=torch.float64)
    padded[2:10, 2:10] = grey
    wave = [
        [(math.sqrt(0.25) if k == 0 else math.sqrt(0.5)) * math.cos(math.pi * k * (n + 0.5) / 4) for n in range(4)]
        for k in range(4)
    ]
    for row, column in ((0, 0), (1, 3), (4, 2)):
        sums = [0.0, 0.0]
        for k in range(4):
            for m in range(4):
                value = sum(
                    wave[k][i] * wave[m][j] * padded[2 * row + i, 2 * column + j].item()
                    for i in range(4)
                    for j in range(4)
                )
                for b in range(2):
                    share = (k + m) // 4 == b
                    share += 2 / (1 + math.exp(-statistics.learnt[b, 4 * k + m].item())) - 1
                    sums[b] += abs(value * share)
        expected = [math.log10(s + 1e-6) for s in sums]
        assert found[0, :, row, column].tolist() == pytest.approx(expected, abs=1e-6)


def test_a_mix_block_begins_as_nothing_and_then_lets_each_branch_see_the_other():
    block, x, y = MixBlock(4).double().eval(), rand(2, 4, 3, 3), rand(2, 4, 3, 3, seed=1)
    assert torch.equal(block(x, y)[0], x)
    for norm in block.norm:
        torch.nn.init.ones_(norm.weight)
    one, other = block(x, y)
    assert not torch.allclose(one, x)
    assert not torch.allclose(block(x, y + 1)[0], one)
    assert not torch.allclose(block(x + 1, y)[1], other)


def test_f3net_says_which_size_it_takes():
    with pytest.raises(UserError, match="F3Net takes 32 x 32 here, not"):
        F3Net(None, size=32).encode(torch.zeros(1, 3, 64, 64))


@pytest.mark.real
def test_srms_filters_are_deepfakebenchs(shared):
    detector = create_detector("srm", pretrained=None, paper=False)
    bank = filters()[:, None].expand(3, 3, 5, 5)
    kept = {f"srm_conv{i}.kernel": getattr(detector, f"srm_conv{i}").kernel for i in (1, 2)}
    assert_kept(shared, "srm", kept | {"srm_conv0.kernel": bank, "srm_sa.srm.kernel": bank})


@pytest.mark.parametrize("paper", [True, False])
def test_srms_margin_is_laid_on_the_true_class(paper):
    detector = SRMNet(None, paper=paper, size=32, margin=0.3, scale=10.0).double().eval()
    features, labels = rand(3, 2048), torch.tensor([0, 1, 1])
    output = detector.head(features, labels)
    losses = []
    for feature, label in zip(features.tolist(), labels.tolist(), strict=True):
        values = []
        for i, weight in enumerate(detector.classifier[1].weight.tolist()):
            value = sum(f * w for f, w in zip(feature, weight, strict=True))
            if paper:
                value /= math.sqrt(sum(f * f for f in feature)) * math.sqrt(sum(w * w for w in weight))
                assert -1 <= value <= 1
            else:
                value += detector.classifier[1].bias[i].item()
            values.append(10.0 * (value - 0.3 * (i == label)))
        losses.append(math.log(sum(math.exp(v) for v in values)) - values[label])
    assert output.losses["total"].item() == pytest.approx(sum(losses) / 3, abs=1e-6)


def test_attention_across_branches_is_what_its_equations_say():
    attention = CrossAttention(8, 2).double()
    a, b = rand(1, 8, 2, 2), rand(1, 8, 2, 2, seed=1)
    assert torch.equal(attention(a, b)[0], a)
    attention.gamma1.data.fill_(0.5)
    attention.gamma2.data.fill_(0.25)
    p = attention.key_conv_share(attention.key_conv1(a)).flatten(2)[0].T.tolist()
    q = attention.key_conv_share(attention.key_conv2(b)).flatten(2)[0].T.tolist()
    values = [conv(x).flatten(2)[0].T for conv, x in ((attention.value_conv2, b), (attention.value_conv1, a))]
    found = [x.flatten(2)[0].T for x in attention(a, b)]
    for i in range(4):
        for rows, layer, own, gamma, which in (
            ([p[i], q], attention.linear1, a, 0.5, 0),
            ([q[i], p], attention.linear2, b, 0.25, 1),
        ):
            energy = torch.tensor([sum(x * y for x, y in zip(rows[0], other, strict=True)) for other in rows[1]])
            shares = torch.exp(layer.weight @ energy.double() + layer.bias)
            expected = own.flatten(2)[0].T[i] + gamma * sum(shares[j] * values[which][j] for j in range(4)) / sum(
                shares
            )
            torch.testing.assert_close(found[which][i], expected, atol=1e-6, rtol=0)


def test_recces_losses_are_those_of_loops_over_pairs():
    detector = Recce(None, reconstruction=0.3, metric=0.2).double().eval()
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
    losses = Recce(None).head(torch.randn(2, sum(WIDTHS)), torch.full((2,), label)).losses
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


@pytest.mark.real
def test_recces_reconstruction_is_deepfakebenchs(shared, parity):  # noqa: F811
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


@pytest.mark.real
def test_ucfs_losses_are_deepfakebenchs_where_nothing_is_shuffled(shared, parity, monkeypatch):  # noqa: F811
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


def test_ucf_puts_each_image_beside_its_partner_whichever_is_the_fake():
    torch.manual_seed(0)
    detector = UCF(None, swap=0.0, dropout=0.0).eval()
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


def test_ucfs_every_parameter_learns_from_partners_and_methods_and_either_may_be_absent():
    detector = UCF(None).train()
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
    with pytest.raises(UserError, match="'real' is not among the methods A, B"):
        UCF(None, methods=["A", "B"])


@pytest.mark.real
@pytest.mark.parametrize("name", ["f3net", "srm", "recce", "ucf"])
def test_constants_in_a_checkpoint_are_passed_over_and_unknown_tensors_are_not(parity, name):  # noqa: F811
    folder, recipe = parity
    keys = json.loads((folder / "keys" / f"{name}.json").read_text())
    state = checkpoint(parity, name)
    state |= {key: torch.zeros(shape) for key, shape, _ in keys if key in recipe.kept(keys)}
    create_detector(name, pretrained=None).load_deepfakebench(state)
    with pytest.raises(UserError, match=r"odd\.weight .* is not wanted"):
        create_detector(name, pretrained=None).load_deepfakebench({**state, "odd.weight": torch.zeros(1)})


@pytest.mark.parametrize("name", ["f3net", "srm", "recce", "ucf"])
def test_losses_and_gradients_are_finite_in_half_precision(name):
    sized = {"size": 64} if name in ("f3net", "srm") else {}
    detector = create_detector(name, pretrained=None, **sized).train()
    images, partner = torch.randn(2, 4, 3, 64, 64)
    fields = {"partner": partner, "method": torch.tensor([0, 2, 4, 0])} if name == "ucf" else {}
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(images, torch.tensor([0, 1, 1, 0]), **fields).losses
    losses["total"].backward()
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in detector.parameters())
