"""C2P-CLIP, RepDFD, Forensics Adapter and Forensics Adapter++: their equations against slow loops."""

import contextlib
import copy
import math

import pytest
import torch
from tiny import IMAGES, LABELS, TINY_RESNET, TINY_VIT, tiny
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.c2p_clip import contrast
from resproto_fd.detectors.parts.region_texts import REGIONS, forged_regions, text_alignment
from resproto_fd.detectors.parts.side_adapter import frozen_layers, look_where_told
from resproto_fd.losses.boundary import blending_boundary, patch_contrast, sample_contrast
from resproto_fd.trainer.gradient_caching import backward_whole_batch
from resproto_fd.trainer.trainer import _Step

# --- C2P-CLIP --------------------------------------------------------------------------------------------------------


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_contrast(images, texts, names: list[str], scale: float) -> float:
    """Of each image the surprise at its text among the different texts, of its text at it among the images."""
    kinds = sorted(set(names))
    texts = {name: texts[names.index(name)].tolist() for name in kinds}
    total = 0.0
    for image, name in zip(images.tolist(), names, strict=True):
        cosine = {k: scale * sum(a * b for a, b in zip(image, texts[k], strict=True)) for k in kinds}
        others = [scale * sum(a * b for a, b in zip(other, texts[name], strict=True)) for other in images.tolist()]
        total += math.log(sum(math.exp(c) for c in cosine.values())) - cosine[name]
        total += math.log(sum(math.exp(c) for c in others)) - cosine[name]
    return total / (2 * len(names))


@pytest.mark.parametrize("names", [["a", "b", "c", "d"], ["a", "b", "a", "b"], ["a", "a", "a", "a"]])
def test_images_are_contrasted_with_the_different_texts(names):
    images = F.normalize(draw(4, 5), dim=1)
    texts = F.normalize(draw(4, 5, seed=1), dim=1)[[names.index(name) for name in names]]
    tokens = torch.tensor([[ord(name), 0] for name in names])
    found = contrast(images, texts, tokens, torch.tensor(3.0, dtype=torch.float64))
    assert found.item() == pytest.approx(slow_contrast(images, texts, names, 3.0), abs=1e-12)
    if len(set(names)) == 4:
        cosines, pairs = 3.0 * images @ texts.T, torch.arange(4)
        clips = (F.cross_entropy(cosines, pairs) + F.cross_entropy(cosines.T, pairs)) / 2
        assert found.item() == pytest.approx(clips.item(), abs=1e-12)


def test_the_loss_is_the_labels_and_the_contrast_with_prompts_before_descriptions():
    torch.manual_seed(0)
    detector = create_detector("c2p_clip", **{**TINY_VIT, "dropout": 0.0, "contrast": 0.5})
    assert detector.requires == {"captions_facial"}
    captions = ["an old man", "", "an old man", "a child", "", ""]
    losses = detector(IMAGES, LABELS, captions_facial=captions).losses
    assert losses["total"].item() == pytest.approx(losses["ce"].item() + 0.5 * losses["contrast"].item())
    sentences = [f"{('Camera', 'Deepfake')[y]} {c}".strip() for y, c in zip(LABELS.tolist(), captions, strict=True)]
    with torch.no_grad():
        texts = F.normalize(detector.clip.text(detector.clip.tokenizer(sentences)), dim=1)
        units = F.normalize(detector.encode(IMAGES), dim=1)
    scale = detector.clip.logit_scale.exp().item()
    assert losses["contrast"].item() == pytest.approx(slow_contrast(units, texts, sentences, scale), rel=1e-5)


def test_without_a_contrast_there_is_no_text_tower_and_nothing_is_asked_for():
    detector = create_detector("c2p_clip", **{**TINY_VIT, "contrast": 0.0})
    assert detector.clip.text is None
    assert not detector.requires
    assert set(detector(IMAGES, LABELS).losses) == {"total"}


# --- RepDFD ----------------------------------------------------------------------------------------------------------


def reprogrammed(**keywords):
    torch.manual_seed(0)
    return create_detector("repdfd", **{**TINY_VIT, "share": 0.7, **keywords}).double()


def test_the_border_surrounds_the_smaller_image_and_never_covers_it():
    detector = reprogrammed()
    with torch.no_grad():
        detector.border.copy_(draw(3, 32, 32))
        found = detector.bordered(IMAGES.double())
    inner = int(0.7 * 32)
    wanted = F.interpolate(IMAGES.double(), (inner, inner), mode="bilinear", antialias=True)
    for y in range(32):
        for x in range(32):
            inside = 5 <= y < 5 + inner and 5 <= x < 5 + inner
            pixel = wanted[:, :, y - 5, x - 5] if inside else detector.border[:, y, x].expand(6, 3)
            torch.testing.assert_close(found[:, :, y, x], pixel)


def test_each_text_of_a_fake_holds_its_own_face_in_the_place_of_one_word():
    detector = reprogrammed()
    faces = draw(3, 12)
    real, fake = detector.texts(faces)
    text = detector.clip.text
    place = detector.tokens[1].tolist().index(detector.clip.tokenizer(["*"])[0, 1].item())
    for b in range(3):
        words = text.token_embedding(detector.tokens[1])
        face = [sum(float(p * f) for p, f in zip(row, faces[b], strict=True)) for row in detector.projection]
        words = torch.stack([torch.tensor(face).double() if i == place else word for i, word in enumerate(words)])
        x = text.transformer((words + text.positional_embedding)[None], attn_mask=text.attn_mask)
        end = detector.tokens[1].argmax()
        torch.testing.assert_close(fake[b], text.ln_final(x)[0, end] @ text.text_projection)
        torch.testing.assert_close(real[b], text(detector.tokens[:1])[0])
    assert not text.token_embedding._forward_hooks


def test_the_border_alone_trains_and_only_where_it_shows():
    detector = reprogrammed()
    assert [name for name, p in detector.named_parameters() if p.requires_grad] == ["border"]
    detector(IMAGES.double(), LABELS).losses["total"].backward()
    assert not detector.border.grad[:, 5:27, 5:27].any()
    assert detector.border.grad[:, :5].any()


def test_the_text_of_a_fake_wants_one_place_for_the_face():
    for fake in ("A fake photo of a person", "A * photo of a * person"):
        with pytest.raises(UserError, match=r"expected model\.fake with one \*"):
            reprogrammed(fake=fake)


# --- Forensics Adapter -----------------------------------------------------------------------------------------------


def adapter(**keywords):
    torch.manual_seed(0)
    return create_detector("forensics_adapter", **{**tiny("forensics_adapter"), "mask_weight": 200.0, **keywords})


def test_copies_of_the_class_token_see_what_they_would_among_all_tokens():
    """Against all tokens together under one mask, as the side adapter's paper writes it."""
    visual = adapter().double().clip.visual
    inputs, bias = frozen_layers(visual, IMAGES.double()), draw(6, 2, 3, 16)
    found = look_where_told(visual, inputs[:-1], bias)
    mask = torch.zeros(6, 2, 20, 20, dtype=torch.float64)
    mask[:, :, :, :3] = float("-inf")  # nothing sees the copies
    for place in range(3):
        mask[:, :, place, place] = 0  # but each itself
    mask[:, :, :3, 3] = float("-inf")  # nor do they see the class token
    mask[:, :, :3, 4:] = bias
    x = torch.cat([inputs[0][:, :1].expand(-1, 3, -1), inputs[0]], dim=1)
    for block in visual.transformer.resblocks:
        x = block(x, attn_mask=mask.flatten(0, 1))
    torch.testing.assert_close(found, visual.ln_post(x[:, :3]) @ visual.proj)
    torch.testing.assert_close(x[:, 3:], inputs[-1])
    torch.testing.assert_close(visual.ln_post(inputs[-1][:, 0]) @ visual.proj, visual(IMAGES.double()))


def test_the_boundary_is_4_m_1_minus_m_of_the_softened_mask():
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    mask[:, :, 20:50, 10:40] = 1
    found = blending_boundary(mask)[0, 0]
    sigma = 3.5 * 64 / 256
    weights = [math.exp(-(d**2) / (2 * sigma**2)) for d in range(-3, 4)]
    weights = [w / sum(weights) for w in weights]
    for y, x in ((20, 25), (19, 25), (35, 25), (19, 9), (50, 39), (5, 5), (47, 38)):
        soft = sum(
            weights[i + 3] * weights[j + 3] * mask[0, 0, y + i, x + j].item()
            for i in range(-3, 4)
            for j in range(-3, 4)
        )
        assert found[y, x].item() == pytest.approx(4 * soft * (1 - soft), abs=1e-9)
    assert found[35, 25] < 1e-9
    for plain in (torch.zeros_like(mask), torch.ones_like(mask)):
        assert blending_boundary(plain).abs().max() < 1e-9


def slow_share(vectors, like: set, unlike: set) -> float | None:
    def total(pairs):
        return sum(math.exp(F.cosine_similarity(vectors[i], vectors[j], dim=0).item() / 0.5) for i, j in pairs)

    return math.log((total(like) + total(unlike)) / total(like)) if like and unlike else None


def test_patches_of_each_fake_are_contrasted_across_its_boundary():
    patches = draw(5, 4, 6)
    forged = torch.tensor([[0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0]]).bool()
    labels = torch.tensor([1, 1, 1, 1, 0])
    found = []
    for i in range(4):
        off = [n for n in range(4) if not forged[i, n]]
        like = {(a, b) for a in off for b in off if a != b}
        unlike = {(a, b) for a in off for b in range(4) if forged[i, b]}
        found.append(slow_share(patches[i], like, unlike))
    assert found[2] is None  # no boundary
    assert found[3] is None  # a single patch off it
    wanted = (found[0] + found[1]) / 2
    assert patch_contrast(patches, forged, labels).item() == pytest.approx(wanted, abs=1e-9)
    assert patch_contrast(patches, forged, torch.zeros(5, dtype=torch.long)).item() == 0


def test_real_samples_are_contrasted_with_fakes():
    features, labels = draw(5, 6), torch.tensor([0, 1, 0, 1, 0])
    like = {(a, b) for a in (0, 2, 4) for b in (0, 2, 4) if a != b}
    unlike = {(a, b) for a in (0, 2, 4) for b in (1, 3)}
    found = sample_contrast(features, labels)
    assert found.item() == pytest.approx(slow_share(features, like, unlike), abs=1e-9)
    for same in (torch.zeros(5, dtype=torch.long), torch.ones(5, dtype=torch.long)):
        assert sample_contrast(features, same).item() == 0
    features.requires_grad_()
    sample_contrast(features, torch.ones(5, dtype=torch.long)).backward()
    assert not features.grad.any()


def test_the_four_losses_are_weighed_and_masks_teach_the_boundary_map():
    detector = adapter().train()
    assert detector.requires == {"mask"}
    mask = torch.zeros(6, 1, 32, 32)
    mask[LABELS == 1, :, 8:24, 4:20] = 1
    losses = detector(IMAGES, LABELS, mask=mask).losses
    terms = 10 * losses["ce"] + 200 * losses["mask"] + 20 * losses["patch"] + 10 * losses["sample"]
    assert losses["total"].item() == pytest.approx(terms.item(), rel=1e-6)
    assert losses["patch"] > 0
    losses["total"].backward()
    assert all(p.grad is not None and p.grad.any() for name, p in detector.boundary.named_parameters())
    assert not any(name.startswith("clip.") for name, p in detector.named_parameters() if p.requires_grad)


def test_without_masks_the_labels_alone_teach():
    detector = adapter().train()
    losses = detector(IMAGES, LABELS).losses
    assert set(losses) == {"total", "ce", "sample"}
    losses["total"].backward()
    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)
    assert not adapter(mask_weight=0.0, patch_weight=0.0).requires


@pytest.mark.parametrize("name", ["forensics_adapter", "forensics_adapter_pp"])
def test_parts_of_a_batch_give_the_losses_and_gradients_of_the_whole(name):
    # In evaluation mode: in training each part has batch statistics of its own.
    whole = (adapter() if name == "forensics_adapter" else plus_plus()).double().eval()
    fields = {field: forged_mask()[field].double() for field in sorted(whole.requires)}
    in_parts, halves = copy.deepcopy(whole), [slice(0, 3), slice(3, 6)]
    losses = whole(IMAGES.double(), LABELS, **fields).losses
    losses["total"].backward()
    found = backward_whole_batch(
        in_parts,
        [IMAGES[half].double() for half in halves],
        [LABELS[half] for half in halves],
        [{field: value[half] for field, value in fields.items()} for half in halves],
        _Step(contextlib.nullcontext, torch.Tensor.backward),
        torch.device("cpu"),
    )
    assert found.keys() == losses.keys() >= {"mask", "patch", "sample"}
    for name, value in losses.items():
        torch.testing.assert_close(found[name], value.detach(), rtol=1e-9, atol=0)
    for (name, one), two in zip(whole.named_parameters(), in_parts.parameters(), strict=True):
        if one.requires_grad:
            torch.testing.assert_close(two.grad, one.grad, rtol=1e-7, atol=1e-9, msg=name)


def test_the_adapter_runs_under_autocast():
    detector = adapter().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(IMAGES, LABELS, mask=torch.rand(6, 1, 32, 32).round()).losses
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())


def test_layers_that_there_are_not_are_named():
    with pytest.raises(UserError, match=r"at most 3 joins between 1 and 2, got \[1, 8\]"):
        adapter(joins=[1, 8])
    with pytest.raises(UserError, match=r"at most 3 contrasted between 1 and 3, got \[4\]"):
        adapter(contrasted=[4])
    with pytest.raises(UserError, match="expected a ViT of open_clip, got ModifiedResNet"):
        create_detector("forensics_adapter", **TINY_RESNET)


# --- Forensics Adapter++ ---------------------------------------------------------------------------------------------

POINTS = torch.tensor([[24.0, 24], [40, 24], [32, 34], [26, 44], [38, 44]])
"""A face in a picture of 64: eyes 16 pixels apart, and the mouth 20 pixels below them."""


def plus_plus(**keywords):
    torch.manual_seed(0)
    return create_detector("forensics_adapter_pp", **{**tiny("forensics_adapter_pp"), "mask_weight": 200.0, **keywords})


def forged_mask():
    mask = torch.zeros(6, 1, 32, 32)
    mask[LABELS == 1, :, 8:24, 4:20] = 1
    return {"mask": mask, "landmarks": (POINTS / 2).repeat(6, 1, 1)}


def test_the_texts_add_a_loss_to_forensics_adapter_and_change_nothing_else():
    plain, detector, without = adapter().train(), plus_plus().train(), plus_plus(text_weight=0.0).train()
    assert (detector.requires, without.requires) == ({"mask", "landmarks"}, {"mask"})
    assert without.state_dict().keys() == plain.state_dict().keys()
    wanted = plain(IMAGES, LABELS, **forged_mask())
    found, same = detector(IMAGES, LABELS, **forged_mask()), without(IMAGES, LABELS, **forged_mask())
    assert torch.equal(found.scores, wanted.scores)
    assert {name: value.item() for name, value in same.losses.items()} == {
        name: value.item() for name, value in wanted.losses.items()
    }
    total = wanted.losses["total"] + 1.5 * found.losses["text"]
    assert found.losses["total"].item() == pytest.approx(total.item(), rel=1e-6)
    found.losses["total"].backward()
    assert detector.texts.words.grad.any(dim=1).all()
    assert not any(p.requires_grad for p in detector.clip.parameters())


def test_learnt_words_stand_between_a_texts_start_and_its_words():
    detector = plus_plus().double()
    text, tokens = detector.clip.text, detector.clip.tokenizer(["face with forged mouth"])[0]
    end = tokens.argmax()
    words = text.token_embedding(tokens)
    words = torch.cat([words[:1], detector.texts.words, words[1 : 24 - 4]])
    x = text.transformer((words + text.positional_embedding)[None], attn_mask=text.attn_mask)
    wanted = F.normalize(text.ln_final(x)[0, end + 4] @ text.text_projection, dim=0)
    found = detector.texts(detector.clip)
    torch.testing.assert_close(found[1 + list(REGIONS).index("mouth")], wanted)
    assert found.shape == (6, 12)
    assert len({tuple(row) for row in found.tolist()}) == 6


def of_68_points(five):
    points = torch.full((68, 2), 99.0)
    points[36:42], points[42:48], points[48], points[54] = five[0], five[1], five[3], five[4]
    return points


@pytest.mark.parametrize(
    ("box", "wanted"),
    [
        ((39, 49, 0, 64), {"mouth"}),
        ((42, 49, 0, 64), {"mouth"}),  # 7 of its 10 rows
        ((46, 49, 0, 64), set()),  # 3 of its 10 rows
        ((12, 64, 0, 64), set(REGIONS)),
        ((12, 64, 0, 30), set()),  # less than half of each
        ((12, 64, 0, 34), set(REGIONS)),
        ((0, 64, 0, 10), set()),
    ],
)
def test_a_region_is_forged_if_half_of_it_is(box, wanted):
    mask = torch.zeros(1, 1, 64, 64)
    mask[:, :, box[0] : box[1], box[2] : box[3]] = 1
    for points in (POINTS, of_68_points(POINTS)):
        found = forged_regions(mask, points[None])[0]
        assert {name for name, forged in zip(REGIONS, found, strict=True) if forged} == wanted
    turned = torch.stack([63 - POINTS[:, 1], POINTS[:, 0]], dim=1)
    assert torch.equal(forged_regions(mask.rot90(-1, (2, 3)), turned[None])[0], found)


def test_regions_that_landmarks_do_not_show_are_not_forged():
    mask = torch.ones(2, 1, 64, 64)
    nowhere = torch.stack([POINTS + 500, torch.full((5, 2), 30.0)])
    assert not forged_regions(mask, nowhere).any()
    with pytest.raises(UserError, match="expected 5 landmarks of a face, or 68 and more, got 7"):
        forged_regions(mask, torch.zeros(2, 7, 2))


def test_an_image_is_aligned_with_the_text_of_its_class_or_those_of_its_forged_regions():
    images, texts = draw(4, 6), F.normalize(draw(6, 6), dim=-1)
    labels, forged = torch.tensor([0, 1, 1, 0]), torch.zeros(4, 5, dtype=torch.bool)
    forged[1, [0, 3]] = True
    forged[3, 2] = True  # a real image's regions do not count
    total = 0.0
    for image, chosen in zip(images, ([0], [1, 4], [1, 2, 3, 4, 5], [0]), strict=True):
        cosines = [7 * F.cosine_similarity(image, text, dim=0).item() for text in texts]
        below = math.log(sum(math.exp(cosine) for cosine in cosines))
        total += sum(below - cosines[place] for place in chosen) / len(chosen)
    found = text_alignment(images, texts, labels, forged, torch.tensor(7.0))
    assert found.item() == pytest.approx(total / 4, abs=1e-9)


def test_the_texts_run_under_autocast_and_too_many_words_are_refused():
    detector = plus_plus().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = detector(IMAGES, LABELS, **forged_mask()).losses
    assert all(value.dtype == torch.float32 and value.isfinite() for value in losses.values())
    with pytest.raises(UserError, match=r"18 words do not fit into the 24 tokens of a text; set model\.words"):
        plus_plus(words=18)
