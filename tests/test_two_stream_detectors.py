"""F3-Net, SRM and LRL, which see frequencies beside colours: against slow loops and DeepfakeBench's constants."""

import json
import math

import numpy as np
import pytest
import scipy.fft
import torch
from test_parity import apart, checkpoint
from test_parity import make as parity_make
from tiny import IMAGES, LABELS, thin_detector

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.lrl import likeness, mask_likeness
from resproto_fd.detectors.parts.frequency_bands import LocalStatistics, MixBlock
from resproto_fd.detectors.parts.residual_streams import CrossAttention, filters


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


@pytest.mark.slow
@pytest.mark.real
def test_f3nets_matrix_and_bands_are_deepfakebenchs(shared):
    bands = create_detector("f3net", pretrained=None, paper=False).bands
    kept = {f"FAD_head.filters.{i}.base": base for i, base in enumerate(bands.base)}
    assert_kept(shared, "f3net", kept | {"FAD_head._DCT_all": bands.dct, "FAD_head._DCT_all_T": bands.dct.T})


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_f3nets_bands_part_the_spectrum_and_untaught_give_the_picture_back():
    bands = thin_detector("f3net", pretrained=None, size=32).bands.double()
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
    with pytest.raises(UserError, match="F3Net expected images of 32 x 32, got"):
        thin_detector("f3net", pretrained=None, size=32).encode(torch.zeros(1, 3, 64, 64))


@pytest.mark.slow
@pytest.mark.real
def test_srms_filters_are_deepfakebenchs(shared):
    detector = create_detector("srm", pretrained=None, paper=False)
    bank = filters()[:, None].expand(3, 3, 5, 5)
    kept = {f"srm_conv{i}.kernel": getattr(detector, f"srm_conv{i}").kernel for i in (1, 2)}
    assert_kept(shared, "srm", kept | {"srm_conv0.kernel": bank, "srm_sa.srm.kernel": bank})


@pytest.mark.parametrize("paper", [True, False])
def test_srms_margin_is_laid_on_the_true_class(paper):
    detector = thin_detector("srm", pretrained=None, paper=paper, size=32, margin=0.3, scale=10.0).double().eval()
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


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("name", ["f3net", "srm", "recce", "ucf"])
def test_constants_in_a_checkpoint_are_passed_over_and_unknown_tensors_are_not(parity, name):
    folder, recipe = parity
    keys = json.loads((folder / "keys" / f"{name}.json").read_text())
    state = checkpoint(parity, name)
    state |= {key: torch.zeros(shape) for key, shape, _ in keys if key in recipe.kept(keys)}
    create_detector(name, pretrained=None).load_deepfakebench(state)
    with pytest.raises(UserError, match=r"odd\.weight .* is unknown"):
        create_detector(name, pretrained=None).load_deepfakebench({**state, "odd.weight": torch.zeros(1)})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["f3net", "srm", "recce", "ucf"])
def test_losses_and_gradients_are_finite_in_half_precision(name):
    sized = {"size": 64} if name in ("f3net", "srm") else {}
    detector = thin_detector(name, pretrained=None, **sized).train()
    images, partner = torch.randn(2, 4, 3, 64, 64)
    fields = {"partner": partner, "method": torch.tensor([0, 2, 4, 0])} if name == "ucf" else {}
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(images, torch.tensor([0, 1, 1, 0]), **fields).losses
    losses["total"].backward()
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in detector.parameters())


# --- LRL -------------------------------------------------------------------------------------------------------------


def make(name: str, **keywords):
    torch.manual_seed(0)
    return thin_detector(name, pretrained=None, **keywords)


def test_high_frequencies_are_what_the_inverse_transform_of_the_grey_frame_leaves():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3))
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5
    found = make("lrl", size=32, segmentation=0.0).high_frequencies(images)
    assert found.shape == (2, 1, 32, 32)
    for picture, output in zip(pixels, found, strict=True):
        grey = (picture @ [0.299, 0.587, 0.114]).round()
        spectrum = scipy.fft.dctn(grey, norm="ortho")
        for row, column in np.ndindex(32, 32):
            if row + column < 0.33 * 32:
                spectrum[row, column] = 0
        high = scipy.fft.idctn(spectrum, norm="ortho")
        np.testing.assert_allclose(output[0], (high / 255 - 0.5) / 0.5, atol=1e-4)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_likeness_of_patches_is_their_cosine_and_that_of_a_mask_its_share():
    maps, mask = draw(2, 3, 8, 8), draw(2, 1, 16, 16, seed=1).sigmoid()
    found, wanted = likeness(maps), mask_likeness(mask, torch.float64)
    for b in range(2):
        places = [(row, column) for row in range(4) for column in range(4)]
        patches = [maps[b, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten().numpy() for i, j in places]
        shares = [mask[b, 0, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4].mean().item() for i, j in places]
        for one, two in np.ndindex(16, 16):
            a, c = patches[one], patches[two]
            cosine = (a * c).sum() / np.sqrt((a * a).sum() * (c * c).sum())
            assert found[b, one, two].item() == pytest.approx((cosine + 1) / 2, abs=1e-12)
            assert wanted[b, one, two].item() == pytest.approx(1 - abs(shares[one] - shares[two]), abs=1e-12)


@pytest.mark.slow
def test_lrl_adds_up_its_three_losses_where_there_are_masks_and_teaches_all_its_parts():
    detector = make("lrl", size=32, similarity=2.0, segmentation=3.0).train()
    assert detector.requires == {"mask"}
    mask = (draw(6, 1, 32, 32) > 0).float() * LABELS.view(6, 1, 1, 1)
    losses = detector(IMAGES, LABELS, mask=mask).losses
    expected = losses["cross_entropy"] + 2 * losses["similarity"] + 3 * losses["segmentation"]
    torch.testing.assert_close(losses["total"], expected)
    losses["total"].backward()
    assert all(p.grad is not None for p in detector.parameters())
    assert set(detector(IMAGES, LABELS).losses) == {"total"}
    assert make("lrl", size=32, similarity=0.0, segmentation=0.0).requires == frozenset()


@pytest.mark.slow
@pytest.mark.real
def test_the_decoded_mask_of_lrl_and_its_losses_are_deepfakebenchs(parity):
    folder, recipe = parity
    golden = json.loads((folder / "golden" / "lrl_seed1.json").read_text())
    images, labels = torch.from_numpy(recipe.images(1, 4, 256)), torch.tensor(golden["labels"])
    frequencies = torch.from_numpy(recipe.images(1001, 4, 256))[:, :1]
    mask = (torch.from_numpy(recipe.images(2001, 4, 256))[:, :1] > 0.5).float()
    detector = parity_make("lrl").load_deepfakebench(checkpoint(parity, "lrl")).eval()
    with torch.no_grad():
        losses = detector(images, labels, mask=mask, frequencies=frequencies).losses
        found = detector.decoder(detector._maps(images, frequencies)).sigmoid()
    theirs = {"total": "overall", "cross_entropy": "ce_loss", "similarity": "sim_loss", "segmentation": "seg_loss"}
    for name, value in losses.items():
        assert value.item() == pytest.approx(golden["eval_loss"][theirs[name]], rel=1e-5)
    assert apart(found.flatten()[:8], golden["other"]["mask_pred"]["first"]) < 4e-6
    assert found.mean().item() == pytest.approx(golden["other"]["mask_pred"]["mean"], rel=1e-6)
