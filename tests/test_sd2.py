"""SD2: its equations against loops in float64, its adapters, its texts, its probe; LoRA and the sigmoid loss."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from tiny import IMAGES, LABELS, TINY_RESNET, TINY_TIMM_CLIP, TINY_VIT

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.parts.clip_tower import load_clip
from resproto_fd.detectors.parts.cross_layer_attention import CrossLayerAttention
from resproto_fd.detectors.parts.lora import ProjectedAttention, add_lora
from resproto_fd.detectors.sd2 import TYPES, classification_loss, text_labels
from resproto_fd.losses.siglip import siglip_loss

KINDS = torch.tensor([0, 1, 5, 0, 3, 4])
FACES = ["a man with a beard", "an old woman", "", "a child who laughs", "a man with glasses", "a man with a beard"]
PLACES = ["a studio", "", "a garden", "a street at night", "a studio", "a bright room"]
FIELDS = {"forgery_type": KINDS, "captions_facial": FACES, "captions_environmental": PLACES}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(**keywords):
    torch.manual_seed(0)
    return create_detector("sd2", **{**TINY_VIT, "lora_rank": 2, "lora_dropout": 0.0, **keywords})


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    return dot / math.sqrt(sum(float(x) ** 2 for x in a) * sum(float(y) ** 2 for y in b))


def slow_siglip(images, texts, scale, bias, present) -> float:
    total = 0.0
    images, texts = images.detach(), texts.detach()
    for i, image in enumerate(images):
        for j, text in enumerate(texts):
            if present[i] and present[j]:
                z = 1 if i == j else -1
                total -= math.log(1 / (1 + math.exp(-z * (scale * cosine(image, text) + bias))))
    return total / max(sum(present), 1)


# --- equations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("present", [[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0]])
def test_the_sigmoid_loss_is_equation_5(present):
    images, texts = draw(4, 6), draw(4, 6, seed=1)
    found = siglip_loss(images, texts, torch.tensor(3.0), torch.tensor(-2.0), torch.tensor(present))
    assert found.item() == pytest.approx(slow_siglip(images, texts, 3.0, -2.0, present), abs=1e-12)


def test_the_sigmoid_loss_has_the_gradient_of_its_differences():
    present = torch.tensor([1, 1, 0, 1])
    inputs = [draw(4, 3), draw(4, 3, seed=1), torch.tensor(3.0).double(), torch.tensor(-2.0).double()]
    inputs = [x.requires_grad_() for x in inputs]
    assert torch.autograd.gradcheck(lambda *x: siglip_loss(*x, present), inputs)


def test_classification_is_equation_3_and_an_unknown_forgery_is_any():
    types, targets = draw(6, 5) * 3, KINDS
    expected = 0.0
    for row, target in zip(types.tolist(), targets.tolist(), strict=True):
        chances = [math.exp(x) / sum(map(math.exp, row)) for x in row]
        expected -= math.log(sum(chances[1:]) if target == 5 else chances[target])
    assert classification_loss(types, targets).item() == pytest.approx(expected / 6, abs=1e-12)
    assert torch.autograd.gradcheck(classification_loss, (types.requires_grad_(), targets))


def test_cross_layer_attention_is_equations_1_and_2():
    torch.manual_seed(0)
    clam = CrossLayerAttention([6] * 5, embed_dim=4, heads=2).double()
    tokens, final = draw(3, 5, 6), draw(3, 4, seed=1)
    weights = dict(clam.named_parameters())
    q, k, v = weights["attention.in_proj_weight"].chunk(3)
    for b in range(3):
        heads = []
        for h in range(2):
            rows = slice(3 * h, 3 * h + 3)
            queries, keys, values = (tokens[b] @ part[rows].T for part in (q, k, v))
            mixed = []
            for query in queries:
                chances = torch.stack([(query * key).sum() / math.sqrt(3) for key in keys]).exp()
                mixed.append(sum(c / chances.sum() * value for c, value in zip(chances, values, strict=True)))
            heads.append(torch.stack(mixed))
        attended = torch.cat(heads, dim=1) @ weights["attention.out_proj.weight"].T
        both = torch.cat([sum(attended) / len(attended), final[b]])
        hidden = weights["adapter.0.weight"] @ both
        hidden = torch.stack([x * 0.5 * (1 + torch.erf(x / math.sqrt(2))) for x in hidden])
        torch.testing.assert_close(
            clam(tokens.unbind(1), final)[b], weights["adapter.2.weight"] @ hidden, atol=1e-12, rtol=0
        )


def test_the_whole_loss_is_equation_6():
    detector = make(alpha=3.0, separation=0.5).double().eval()
    output = detector(IMAGES.double(), LABELS, **FIELDS)
    scale = detector.clip.logit_scale.exp().item()
    texts = detector.clip.text(detector.clip.tokenizer([text_labels()[name][0] for name in TYPES]))
    texts, features = texts.detach(), output.features.detach()
    types = [[scale * cosine(f, u) for u in texts] for f in features]
    separation = sum((cosine(a, b) - (i == j)) ** 2 for i, a in enumerate(texts) for j, b in enumerate(texts))
    contrast = 0.0
    for captions in (FACES, PLACES):
        described = detector.clip.text(detector.clip.tokenizer(captions))
        present = [bool(text) for text in captions]
        contrast += slow_siglip(features, described, scale, detector.bias.item(), present)
    losses = output.losses
    classification = classification_loss(torch.tensor(types, dtype=torch.float64), KINDS)
    assert losses["classification"].item() == pytest.approx(classification.item(), abs=1e-9)
    assert losses["separation"].item() == pytest.approx(separation, abs=1e-9)
    assert losses["contrast"].item() == pytest.approx(contrast, abs=1e-9)
    assert losses["total"].item() == pytest.approx(3 * classification.item() + 0.5 * separation + contrast, abs=1e-9)


def test_the_score_is_one_minus_the_share_of_real():
    detector = make().eval()
    output = detector(IMAGES)
    texts = detector.clip.text_features([[text_labels()[name][0]] for name in TYPES])
    types = detector.clip.logit_scale.exp() * (torch.nn.functional.normalize(output.features, dim=-1) @ texts.T)
    torch.testing.assert_close(output.scores, 1 - types.softmax(dim=-1)[:, 0], atol=1e-6, rtol=0)


def test_the_argmax_variant_calls_fake_what_the_paper_does():
    torch.manual_seed(1)
    detector = make().eval()
    features = torch.randn(200, 12)
    output = detector.head(features)
    texts = torch.nn.functional.normalize(detector.clip.text(detector.label_tokens[:, 0]), dim=-1)
    highest = (torch.nn.functional.normalize(features, dim=-1) @ texts.T).argmax(dim=1)
    assert torch.equal(output.variants["argmax"] > 0.5, highest != 0)
    assert not torch.equal(output.scores > 0.5, highest != 0)


def test_matrices_are_cosines_of_texts_across_and_within_types():
    detector = make().eval()
    found = detector.matrices(IMAGES, LABELS)
    assert list(found) == ["texts across types", *(f"texts of {name}" for name in TYPES)]
    swaps = detector.clip.text(detector.clip.tokenizer(text_labels()["face swap"][:5])).detach()
    expected = [[cosine(a, b) for b in swaps] for a in swaps]
    torch.testing.assert_close(found["texts of face swap"], torch.tensor(expected), atol=1e-5, rtol=0)
    means = []
    for name in TYPES:
        texts = detector.clip.text(detector.clip.tokenizer(text_labels()[name]))
        means.append(torch.nn.functional.normalize(texts, dim=-1).mean(dim=0).detach())
    torch.testing.assert_close(
        found["texts across types"], torch.tensor([[cosine(a, b) for b in means] for a in means]), atol=1e-5, rtol=0
    )


def test_descriptions_encoded_in_portions_give_the_same_loss_and_gradients():
    found = []
    for portion in (64, 2):
        detector = make(texts_at_once=portion, labels="simple").double().train()
        detector(IMAGES.double(), LABELS, **FIELDS).losses["total"].backward()
        found.append({name: p.grad for name, p in detector.named_parameters() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


def test_the_saved_activations_of_descriptions_do_not_grow_with_their_number():
    detector = make(texts_at_once=4, lora_dropout=0.0).train()
    features, scale = torch.randn(8, 12), torch.tensor(1.0)

    def saved(count):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x, lambda x: x):
            detector._contrast(features[:count], [f"face {i}" for i in range(count)], scale)
        return sum(sizes)

    within_one_portion = saved(4)
    assert saved(8) < within_one_portion


def test_captioned_images_are_counted_exactly_in_half_precision():
    present = torch.tensor([1.0] * 509 + [0.0] * 3)
    images, texts = torch.randn(512, 8), torch.randn(512, 8)
    expected = siglip_loss(images, texts, torch.tensor(5.0), torch.tensor(-5.0), present)
    with torch.autocast("cpu", torch.bfloat16):
        found = siglip_loss(images, texts, torch.tensor(5.0), torch.tensor(-5.0), present)
    assert found.item() == expected.item()


def test_tau_starts_as_clips_and_b_as_its_negative():
    detector = make()
    assert detector.clip.logit_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-6)
    assert detector.bias.item() == pytest.approx(-1 / 0.07, rel=1e-6)


# --- texts -----------------------------------------------------------------------------------------------------------


def test_every_type_has_the_papers_texts_the_simple_one_first():
    labels = text_labels()
    assert set(labels) == set(TYPES)
    assert {name: len(texts) for name, texts in labels.items()} == {
        "real": 30, "face swap": 29, "reenactment": 25, "entire synthesis": 22, "editing": 25
    }  # fmt: skip
    assert all(texts[0].startswith("a photo of a ") and len(set(texts)) == len(texts) for texts in labels.values())


def test_in_training_every_text_of_every_type_is_drawn_and_in_testing_the_simple_one():
    detector = make(labels="all").train()
    drawn = {tuple(map(tuple, detector._drawn_labels().tolist())) for _ in range(400)}
    for index, name in enumerate(TYPES):
        tokens = {tuple(row) for row in detector.clip.tokenizer(text_labels()[name]).tolist()}
        assert {texts[index] for texts in drawn} == tokens
    simple = detector.clip.tokenizer([text_labels()[name][0] for name in TYPES])
    assert torch.equal(detector.eval()._drawn_labels(), simple)


def test_without_descriptions_their_loss_is_off_and_says_so():
    detector = make().train()
    for nothing in ({}, {"captions_facial": [""] * 6, "captions_environmental": [""] * 6}):
        output = detector(IMAGES, LABELS, forgery_type=KINDS, **nothing)
        assert output.losses["contrast"].item() == 0
        assert detector.diagnostics()["captioned"].item() == 0
    detector(IMAGES, LABELS, **FIELDS)
    assert detector.diagnostics()["captioned"].item() == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("switch", "asked"),
    [
        ({"facial": False}, {"forgery_type", "captions_environmental"}),
        ({"clam": False}, {"forgery_type", "captions_facial", "captions_environmental"}),
        *(
            pytest.param(switch, asked, marks=pytest.mark.slow)
            for switch, asked in (
                ({"environmental": False}, {"forgery_type", "captions_facial"}),
                ({"facial": False, "environmental": False}, {"forgery_type"}),
                ({"separation": 0.0}, {"forgery_type", "captions_facial", "captions_environmental"}),
                ({"alpha": 1.0}, {"forgery_type", "captions_facial", "captions_environmental"}),
                ({"scale": None}, {"forgery_type", "captions_facial", "captions_environmental"}),
            )
        ),
    ],
)
def test_each_switch_changes_the_loss_and_what_is_asked_of_the_data(switch, asked):
    plain, other = make().eval(), make(**switch).eval()
    with torch.no_grad():
        # CLIP's towers are drawn first, so that they are the same; adapters start as nought.
        losses = [d(IMAGES, LABELS, **FIELDS).losses["total"].item() for d in (plain, other)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-4) or switch == {"scale": None}
    assert other.requires == asked
    if switch == {"scale": None}:
        assert other.clip.logit_scale.item() == load_clip(TINY_VIT["backbone"], None).logit_scale.item()


# --- adapters --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [True, False])
def test_projected_attention_gives_the_numbers_of_the_attention_it_is_made_from(batch_first):
    torch.manual_seed(0)
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=batch_first).double().eval()
    torch.nn.init.normal_(attention.in_proj_bias)
    x, mask = draw(3, 3, 8), torch.full((3, 3), -torch.inf, dtype=torch.float64).triu(1)
    expected, _ = attention(x, x, x, need_weights=False, attn_mask=mask)
    torch.testing.assert_close(ProjectedAttention(attention)(x, x, x, attn_mask=mask)[0], expected)


def test_adapters_start_as_nought_and_alone_train():
    clip = load_clip(TINY_VIT["backbone"], None).eval()
    before = clip(IMAGES)
    add_lora(clip.visual, rank=2, alpha=8, dropout=0.5)
    torch.testing.assert_close(clip(IMAGES), before)
    trained = {name: p for name, p in clip.visual.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 4 * 2  # A and B of four layers of two blocks
    assert all("lora_" in name for name in trained)
    for parameter in trained.values():
        torch.nn.init.normal_(parameter, std=0.1)
    clip.eval()
    assert (clip(IMAGES) - before).abs().max() > 1e-3


def test_an_adapter_adds_alpha_by_r_times_b_a():
    clip = load_clip(TINY_VIT["backbone"], None).eval()
    add_lora(clip.visual, rank=2, alpha=8, dropout=0.0)
    layer = clip.visual.transformer.resblocks[0].attn.q_proj
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(b)
    x = draw(5, 32).float()
    torch.testing.assert_close(layer(x), layer.base_layer(x) + 8 / 2 * x @ a.T @ b.T, atol=1e-5, rtol=1e-5)


def test_wrong_towers_and_layers_are_refused_by_name():
    with pytest.raises(UserError, match="no layers called nothing_such"):
        create_detector("clip_lora", **TINY_VIT, targets=["nothing_such"])
    with pytest.raises(UserError, match="expected a ViT or ResNet of open_clip, got TimmModel"):
        create_detector("sd2", **TINY_TIMM_CLIP, lora_rank=None)


def test_of_each_tower_the_layers_end_in_its_embedding():
    for keywords, widths in ((TINY_VIT, [32, 32]), (TINY_RESNET, [8, 32, 64, 128, 256])):
        clip = load_clip(keywords["backbone"], None).eval()
        layers, embeddings = clip.layers(IMAGES)
        assert [layer.shape for layer in layers] == [(6, width) for width in widths]
        torch.testing.assert_close(embeddings, clip(IMAGES))


# --- the probe -------------------------------------------------------------------------------------------------------


def test_the_probe_takes_a_trained_encoder_and_trains_its_classifier_alone(tmp_path):
    trained = make()
    for parameter in trained.parameters():
        parameter.data += 0.01
    torch.save({"model": trained.state_dict()}, tmp_path / "best.pt")
    given = {"backbone": TINY_VIT["backbone"], "pretrained": str(tmp_path / "best.pt")}
    for clam in (False, True):
        probe = create_detector("sd2_probe", **given, sd2={"lora_rank": 2, "lora_dropout": 0.5}, clam=clam).train()
        expected = trained.eval().encode(IMAGES) if clam else trained.clip(IMAGES)
        torch.testing.assert_close(probe.encode(IMAGES), expected)
        names = [name for name, p in probe.named_parameters() if p.requires_grad]
        assert names == ["classifier.weight", "classifier.bias"]


# --- several processes -----------------------------------------------------------------------------------------------


def _loss_and_gradient(rank: int, world: int, rendezvous: str, folder: str) -> None:
    torch.set_num_threads(1)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    detector = make(labels="simple").double().train()
    share = slice(rank * 6 // world, (rank + 1) * 6 // world)
    fields = {name: value[share] for name, value in FIELDS.items()}
    loss = detector(IMAGES.double()[share], LABELS[share], **fields).losses["total"]
    loss.backward()
    gradients = {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}
    for gradient in gradients.values() if world > 1 else ():
        dist.all_reduce(gradient)
        gradient /= world
    if rank == 0:
        torch.save((loss.detach(), gradients), f"{folder}/{world}.pt")
    if world > 1:
        dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_the_loss_and_the_gradients_of_one(tmp_path):
    for world in (1, 2):
        mp.spawn(_loss_and_gradient, (world, str(tmp_path / f"meet{world}"), str(tmp_path)), nprocs=world)
    (one, expected), (two, found) = (torch.load(tmp_path / f"{world}.pt") for world in (1, 2))
    torch.testing.assert_close(two, one, atol=1e-9, rtol=1e-9)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-8, rtol=1e-8, msg=name)
