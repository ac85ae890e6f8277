"""MFCLIP: its equations against loops in float64, homogeneity against scikit-image, its texts, its switches; CViT."""

import math

import numpy as np
import open_clip
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from skimage.feature import graycomatrix, graycoprops
from tiny import IMAGES, LABELS, TINY_VIT, tiny

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import NORMALISATIONS
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.mfclip import FIRST, KINDS, divergence
from resproto_fd.detectors.parts.cvit_backbone import ClassTokenTransformer, CViTBackbone
from resproto_fd.detectors.parts.sample_pairs import SamplePairContrast
from resproto_fd.detectors.parts.texture import SRM, SrmFilters, grey_levels, homogeneity, richest_patch
from resproto_fd.detectors.weights import load_all

FIELDS = {
    "forgery_type": torch.tensor([4, 0, 1, 4, 2, 5]),
    "family": torch.tensor([3, 1, 0, 3, 2, 3]),
    "method": torch.tensor([0, 5, 40, 0, 12, 3]),
}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(**keywords):
    torch.manual_seed(0)
    return create_detector("mfclip", **{**tiny("mfclip"), **keywords})


# --- texture ---------------------------------------------------------------------------------------------------------


def test_homogeneity_is_scikit_images():
    rng = np.random.default_rng(0)
    grey = np.stack([rng.integers(0, 256, (24, 30)), rng.integers(100, 108, (24, 30)), np.full((24, 30), 7)])
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    for image, found in zip(grey.astype(np.uint8), homogeneity(torch.from_numpy(grey).double()), strict=True):
        matrix = graycomatrix(image, [1], angles, 256, symmetric=True, normed=True)
        assert found.item() == pytest.approx(graycoprops(matrix, "homogeneity").mean(), abs=1e-12)


def test_grey_levels_are_those_of_the_picture_before_normalisation():
    rng = np.random.default_rng(0)
    pictures = torch.from_numpy(rng.integers(0, 256, (2, 3, 8, 8))).double()
    for mean, std in NORMALISATIONS.values():
        mean, std = torch.tensor(mean).double(), torch.tensor(std).double()
        images = (pictures / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        expected = (0.299 * pictures[:, 0] + 0.587 * pictures[:, 1] + 0.114 * pictures[:, 2]).round()
        assert torch.equal(grey_levels(images, mean, std), expected)


def test_the_richest_patch_is_the_one_of_least_homogeneity_and_does_not_depend_on_the_batch():
    images = torch.zeros(3, 3, 16, 16)
    places = [(0, 1), (1, 0), (1, 1)]
    for b, (row, column) in enumerate(places):
        noise = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(b))
        images[b, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = noise
    grey = grey_levels(images, torch.full((3,), 0.5), torch.full((3,), 0.5))
    found = richest_patch(images, grey, 8)
    for b, (row, column) in enumerate(places):
        assert torch.equal(found[b], images[b, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8])
        assert torch.equal(richest_patch(images[b : b + 1], grey[b : b + 1], 8)[0], found[b])


def border_energy(residuals: torch.Tensor) -> torch.Tensor:
    """Share of each filter's energy in the 2-pixel border, [3]."""
    energy = residuals.square().sum(dim=(0, 2, 3))
    return 1 - residuals[..., 2:-2, 2:-2].square().sum(dim=(0, 2, 3)) / energy


def test_residuals_have_no_border_of_their_own():
    smooth = torch.nn.functional.interpolate(draw(4, 3, 9, 9).float() + 3, (64, 64), mode="bicubic")
    area = 1 - 60**2 / 64**2
    assert (border_energy(SrmFilters()(smooth)) < 2 * area).all()
    seen = {}
    detector = make(patch=16).eval()
    detector.noise.convolutions.register_forward_pre_hook(lambda module, args: seen.update(noise=args[0]))
    detector.encode(IMAGES)
    whole = detector.noise.srm(IMAGES)
    tiles = whole.unfold(2, 16, 16).unfold(3, 16, 16).flatten(2, 3)
    for found, given in zip(seen["noise"], tiles, strict=True):
        assert any(torch.equal(found, given[:, place]) for place in range(4))


def test_srm_filters_sum_to_zero_and_are_the_published_ones():
    filters = SrmFilters()
    assert filters.filters.shape == (3, 3, 5, 5)
    torch.testing.assert_close(filters.filters.sum(dim=(2, 3)), torch.zeros(3, 3), atol=1e-6, rtol=0)
    assert [max(abs(x) for row in kernel for x in row) for kernel in SRM] == [4, 12, 2]
    images = draw(1, 3, 7, 7).float()
    expected = sum(
        SRM[1][i][j] / 12 * images[0, c, 1 + i, 1 + j].item() for i in range(5) for j in range(5) for c in range(3)
    )
    assert filters(images)[0, 1, 3, 3].item() == pytest.approx(expected, abs=1e-4)
    assert not filters(torch.ones(1, 3, 9, 9)).abs().gt(1e-5).any()


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("attention", [True, False])
def test_the_contrast_is_equations_7_to_12(place, attention):
    contrast = SamplePairContrast(5, attention, place).double()
    if attention:
        contrast.weights.data = draw(5, 5, seed=2)
    contrast.log_temperature.data.fill_(math.log(0.3))
    images, texts = draw(4, 6), draw(4, 6, seed=1)
    sigma = [
        [1 / (1 + math.exp(-contrast.weights[i, j].item())) if attention else 1.0 for j in range(4)] for i in range(4)
    ]

    def cosine(a, b):
        return float(sum(a * b) / math.sqrt(sum(a * a) * sum(b * b)))

    expected = 0.0
    for first, second in ((images, texts), (texts, images)):
        for i in range(4):
            if place == "before":
                row = [math.exp(cosine(first[i], second[j]) * sigma[i][j] / 0.3) for j in range(4)]
                expected -= math.log(row[i] / sum(row)) / 8
            else:
                row = [math.exp(cosine(first[i], second[j]) / 0.3) for j in range(4)]
                expected -= math.log(row[i] / sum(row) * sigma[i][i]) / 8
    assert contrast(images, texts).item() == pytest.approx(expected, abs=1e-12)
    assert torch.autograd.gradcheck(contrast, (images.requires_grad_(), texts.requires_grad_()))


def test_before_the_softmax_all_weights_learn_and_after_it_the_diagonal_alone():
    for place, learning in (("before", 16), ("after", 4)):
        contrast = SamplePairContrast(4, True, place).double()
        contrast(draw(4, 6), draw(4, 6, seed=1)).backward()
        assert contrast.weights.grad.abs().gt(1e-9).sum() == learning


def test_a_batch_larger_than_the_weights_is_an_error_that_says_which_key():
    with pytest.raises(UserError, match=r"a batch of at most 4 pairs, got 6.*model\.pairs"):
        make(pairs=4)(IMAGES, LABELS)


def test_clip_takes_the_contrast_as_a_plug_in():
    torch.manual_seed(0)
    detector = create_detector("clip", **TINY_VIT, sample_pairs=6).eval()
    output = detector(IMAGES, LABELS)
    ce = torch.nn.functional.cross_entropy(output.logits, LABELS)
    cmc = detector.pairs(output.features, detector.text_features[LABELS])
    assert output.losses["total"].item() == pytest.approx((ce + cmc).item(), rel=1e-6)
    assert "cmc" not in create_detector("clip", **TINY_VIT)(IMAGES, LABELS).losses


@pytest.mark.slow
def test_clip_takes_plain_infonce_and_the_sentences_of_each_level():
    plain = create_detector("clip", **TINY_VIT, sample_pairs=6, attention=False)
    assert plain.pairs.weights is None
    names = ["forgery_type", "family", "method"]
    found = []
    for levels in (1, 2, 3, 4):
        torch.manual_seed(0)
        detector = create_detector("clip", **TINY_VIT, sample_pairs=6, levels=levels).eval()
        assert detector.requires == set(names[: levels - 1])
        texts = detector.texts(LABELS, FIELDS)
        said = words(make(levels=levels), LABELS, FIELDS)
        equal = [[one == other for other in said] for one in said]
        assert ((texts[:, None] - texts).abs().amax(dim=-1) < 1e-6).tolist() == equal
        found.append(detector(IMAGES, LABELS, **FIELDS).losses["cmc"].item())
    assert len(set(found)) == 4
    with pytest.raises(UserError, match=r"model\.levels=2 needs model\.sample_pairs"):
        create_detector("clip", **TINY_VIT, levels=2)


def test_matrices_are_the_cosines_without_and_with_attention():
    detector = make().eval()
    detector.pairs.weights.data = draw(24, 24).float()
    found = detector.matrices(IMAGES, LABELS, **FIELDS)
    texts = detector.text(detector.sentences(LABELS, FIELDS))
    plain = torch.nn.functional.cosine_similarity(detector.encode(IMAGES)[:, None], texts, dim=-1)
    torch.testing.assert_close(found["cosines"], plain)
    torch.testing.assert_close(found["weighed cosines"], plain * detector.pairs.weights[:6, :6].sigmoid())
    assert make(contrast=False).matrices(IMAGES, LABELS, **FIELDS) == {}


def test_divergence_is_equation_13():
    texts, predicted = draw(3, 5), draw(3, 5, seed=1)
    expected = 0.0
    for t, p in zip(texts.tolist(), predicted.tolist(), strict=True):
        wanted = [math.exp(x / 0.5) / sum(math.exp(y / 0.5) for y in t) for x in t]
        found = [math.exp(x / 0.5) / sum(math.exp(y / 0.5) for y in p) for x in p]
        expected += sum(w * math.log(w / f) for w, f in zip(wanted, found, strict=True)) / 3
    assert divergence(texts, predicted).item() == pytest.approx(expected, abs=1e-12)
    assert torch.autograd.gradcheck(divergence, (texts.requires_grad_(), predicted.requires_grad_()))


def test_the_whole_loss_is_equation_2():
    detector = make().double().eval()
    images = IMAGES.double()
    output = detector(images, LABELS, **FIELDS)
    visual = detector.image(images) + detector.noise(images)
    texts = torch.cat([detector.text(row[None]) for row in detector.sentences(LABELS, FIELDS)])
    torch.testing.assert_close(output.features, visual)
    chances = detector.classifier(visual).softmax(-1)
    ce = -sum(math.log(chances[i, y].item()) for i, y in enumerate(LABELS.tolist())) / 6
    kl = divergence(texts, detector.predictor(visual)).item()
    cmc = detector.pairs(visual, texts).item()
    found = {name: value.item() for name, value in output.losses.items()}
    assert found == pytest.approx({"total": ce + kl + cmc, "ce": ce, "kl": kl, "cmc": cmc}, abs=1e-9)
    torch.testing.assert_close(output.scores, chances[:, 1].float())


# --- encoders --------------------------------------------------------------------------------------------------------


def test_one_token_and_a_class_token_go_through_pre_norm_blocks():
    torch.manual_seed(0)
    module = ClassTokenTransformer(8, depth=2, heads=2, hidden=12).double().eval()
    token = draw(3, 8)
    for b in range(3):
        x = torch.stack([module.cls[0, 0], token[b]]) + module.position[0]
        for block in module.blocks.layers:
            y = block.norm1(x)
            q, k, v = (y @ block.self_attn.in_proj_weight.T + block.self_attn.in_proj_bias).chunk(3, dim=-1)
            mixed = []
            for h in range(2):
                rows = slice(4 * h, 4 * h + 4)
                mixed.append((q[:, rows] @ k[:, rows].T / 2).softmax(-1) @ v[:, rows])
            x = x + block.self_attn.out_proj(torch.cat(mixed, dim=-1))
            hidden = block.linear1(block.norm2(x))
            x = x + block.linear2(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))
        torch.testing.assert_close(module(token)[b], x[0])


def test_blocks_start_with_weights_of_their_own():
    for blocks in (CViTBackbone(32, 8, [4] * 5, 3, 2, 8).transformer.blocks, make(text_depth=3).text.blocks):
        first, second, third = (block.linear1.weight for block in blocks.layers)
        assert not torch.equal(first, second)
        assert not torch.equal(second, third)


def test_cvit_has_17_convolutions_and_89_million_parameters():
    with torch.device("meta"):
        detector = create_detector("cvit")
    convolutions = [m for m in detector.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 17
    assert sum(p.numel() for p in detector.parameters()) == pytest.approx(89e6, rel=0.002)
    with pytest.raises(UserError, match=r"expected model\.size to be a multiple of 32, got 100"):
        CViTBackbone(100, width=8, channels=[4] * 5, depth=1, heads=2, hidden=8)


def test_mfclip_has_as_many_parameters_as_its_paper_says():
    with torch.device("meta"):
        detector = create_detector("mfclip")
    assert sum(p.numel() for p in detector.parameters()) == pytest.approx(93.834e6, rel=0.02)
    assert detector.text.position.shape == (308, 512)


@pytest.mark.parametrize("name", ["mfclip", "mfclip_tiny"])
def test_presets_say_the_normalisation_that_their_grey_levels_undo(name):
    config = loading.load("detectors", name)
    assert config.input.mean == config.model.get("normalisation", "half")
    assert config.input.size == config.model["size"]


# --- texts -----------------------------------------------------------------------------------------------------------


def words(detector, labels, fields) -> list[list[str]]:
    return [
        [open_clip.decode(s).split("<")[1].split(">")[1].strip() for s in row]
        for row in detector.sentences(labels, fields)
    ]


def test_each_level_says_what_the_labels_tell_and_repeats_the_first_where_they_do_not():
    detector = make()
    methods, kinds = detector.vocabulary["method"], detector.vocabulary["forgery_type"]
    fields = {
        "forgery_type": torch.tensor([kinds.index(kind) for kind in ("real", "entire synthesis", "unknown")]),
        "family": torch.tensor([3, 0, 3]),
        "method": torch.tensor([methods.index(method) for method in ("real", "DDPM", "Deepfakes")]),
    }
    assert words(detector, torch.tensor([0, 1, 1]), fields) == [
        [FIRST[0]] * 4,
        [
            FIRST[1],
            KINDS["entire synthesis"],
            "a photo generated by the diffusion - based model",
            "a photo generated by ddpm",
        ],
        [FIRST[1], FIRST[1], FIRST[1], "a photo generated by deepfakes"],
    ]
    assert words(make(levels=2), torch.tensor([1]), {"forgery_type": torch.tensor([kinds.index("face swap")])}) == [
        [FIRST[1], KINDS["face swap"]]
    ]


def test_what_is_asked_of_the_data_follows_the_levels():
    asked = [make(levels=levels).requires for levels in (1, 2, 3, 4)]
    assert asked == [set(), {"forgery_type"}, {"forgery_type", "family"}, {"forgery_type", "family", "method"}]
    assert make(text=False).requires == set()


def test_equal_texts_are_encoded_once_and_give_each_image_its_own():
    detector, seen = make().eval(), []
    detector.text.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    fields = {name: value[[0, 1, 1, 0, 0, 1]] for name, value in FIELDS.items()}
    texts = detector._texts(torch.tensor([0, 1, 1, 0, 0, 1]), fields)
    assert seen == [2]
    assert torch.equal(texts[0], texts[3])
    assert torch.equal(texts[1], texts[5])
    assert not torch.equal(texts[0], texts[1])


# --- switches --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("switch", "terms"),
    [
        ({}, {"ce", "kl", "cmc"}),
        ({"noise": False}, {"ce", "kl", "cmc"}),
        ({"text": False}, {"ce"}),
        *(
            pytest.param(switch, terms, marks=pytest.mark.slow)
            for switch, terms in (
                ({"image": False}, {"ce", "kl", "cmc"}),
                ({"predictor": False}, {"ce", "cmc"}),
                ({"contrast": False}, {"ce", "kl"}),
                ({"attention": False}, {"ce", "kl", "cmc"}),
                ({"patch": 8}, {"ce", "kl", "cmc"}),
                ({"levels": 2}, {"ce", "kl", "cmc"}),
                ({"predictor": False, "contrast": False}, {"ce"}),
            )
        ),
    ],
    ids=lambda value: ",".join(sorted(map(str, value))),
)
def test_each_switch_of_the_papers_ablations_changes_the_model(switch, terms):
    detector = make(**switch).eval()
    losses = detector(IMAGES, LABELS, **FIELDS).losses
    assert set(losses) - {"total"} == terms
    losses["total"].backward()
    missing = [name for name, p in detector.named_parameters() if p.grad is None]
    assert not missing
    if switch:
        names = {name for name, _ in detector.named_parameters()}
        plain = make().eval()
        same_parts = names == {name for name, _ in plain.named_parameters()}
        assert not same_parts or losses["total"].item() != plain(IMAGES, LABELS, **FIELDS).losses["total"].item()


def test_weights_of_an_older_version_with_an_unused_language_encoder_load():
    off = {"predictor": False, "contrast": False}
    detector, state = make(**off), make().state_dict()
    assert detector.text is None
    assert detector.requires == set()
    older = {key: value for key, value in state.items() if not key.startswith(("predictor.", "pairs."))}
    load_all(detector, older, "older")
    torch.testing.assert_close(detector.classifier.weight, state["classifier.weight"])


def test_without_eyes_it_is_refused():
    with pytest.raises(UserError, match=r"model\.noise and model\.image are both false"):
        make(noise=False, image=False)


# --- several processes -----------------------------------------------------------------------------------------------


def _three_steps(rank: int, rendezvous: str, switches: dict) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    model = torch.nn.parallel.DistributedDataParallel(make(**switches))
    for _ in range(3):
        fields = {name: FIELDS[name][3 * rank : 3 * rank + 3] for name in sorted(model.module.requires)}
        model(IMAGES[3 * rank : 3 * rank + 3], LABELS[3 * rank : 3 * rank + 3], **fields).losses["total"].backward()
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_train_with_cross_entropy_alone(tmp_path):
    mp.spawn(_three_steps, (str(tmp_path / "meet"), {"predictor": False, "contrast": False}), nprocs=2)


def _gradient(rank: int, world: int, rendezvous: str, folder: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    detector = make().double().eval()
    share = slice(rank * 6 // world, (rank + 1) * 6 // world)
    fields = {name: value[share] for name, value in FIELDS.items()}
    detector(IMAGES.double()[share], LABELS[share], **fields).losses["total"].backward()
    gradients = {name: p.grad for name, p in detector.named_parameters()}
    for gradient in gradients.values() if world > 1 else ():
        dist.all_reduce(gradient)
        gradient /= world
    if rank == 0:
        torch.save(gradients, f"{folder}/{world}.pt")
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(tmp_path):
    for world in (1, 2):
        mp.spawn(_gradient, (world, str(tmp_path / f"meet{world}"), str(tmp_path)), nprocs=world)
    one, two = (torch.load(tmp_path / f"{world}.pt") for world in (1, 2))
    for name, gradient in one.items():
        torch.testing.assert_close(two[name], gradient, atol=1e-9, rtol=1e-7, msg=name)
