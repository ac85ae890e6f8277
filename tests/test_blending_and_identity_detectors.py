"""Face X-ray, IID and LSDA: their losses against slow loops in float64, and what is theirs alone."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector, lsda
from resproto_fd.detectors.iid import class_loss, identity_contrast, identity_loss
from resproto_fd.detectors.parts import latent_augmentation
from resproto_fd.detectors.parts.iresnet import FaceEmbedding
from resproto_fd.losses.boundary import blending_boundary

# --- Face X-ray ------------------------------------------------------------------------------------------------------


IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 1, 0, 1, 1])


@pytest.mark.slow
@pytest.mark.parametrize("paper", [True, False])
def test_facexrays_loss_is_that_of_a_loop_over_pixels(paper):
    torch.manual_seed(0)
    detector = create_detector("facexray", backbone="hrnet_w18_small", pretrained=None, size=32, paper=paper)
    detector.double().eval()
    mask = torch.rand(6, 1, 32, 32).double()
    with torch.no_grad():
        found = detector.map(IMAGES.double())
        losses = detector(IMAGES.double(), LABELS, mask=mask).losses
    total = 0.0
    for value, wanted in zip(found.flatten().tolist(), mask.flatten().tolist()):
        share = 1 / (1 + np.exp(-value))
        entropy = -wanted * np.log(share) - (1 - wanted) * np.log(1 - share)
        total += entropy if paper else (value - wanted) ** 2
    assert losses["mask"].item() == pytest.approx(total / found.numel(), rel=1e-9)
    plain = detector(IMAGES.double(), LABELS).losses["total"]
    assert losses["total"].item() == pytest.approx(plain.item() + (100 if paper else 1000) * total / found.numel())


@pytest.mark.slow
def test_facexray_makes_boundaries_of_regions_and_asks_for_masks_where_they_count():
    tiny = {"backbone": "hrnet_w18_small", "pretrained": None}
    assert create_detector("facexray", **tiny).requires == {"mask"}
    assert not create_detector("facexray", **tiny, mask_weight=0.0).requires
    region = torch.zeros(6, 1, 32, 32)
    region[:, :, 8:24, 8:24] = 1.0
    torch.manual_seed(0)
    detector = create_detector("facexray", **tiny, masks="regions").eval()
    found = detector(IMAGES, LABELS, mask=region).losses["mask"]
    expected = detector.map_loss(detector.map(IMAGES), blending_boundary(region))
    torch.testing.assert_close(found, expected)


def gradient_norm(detector) -> float:
    return torch.sqrt(sum(p.grad.square().sum() for p in detector.parameters() if p.grad is not None)).item()


@pytest.mark.slow
@pytest.mark.real
def test_facexrays_loss_and_gradient_with_masks_are_deepfakebenchs(parity_detector):
    detector, golden, recipe = parity_detector("facexray")
    images, labels = torch.from_numpy(recipe.images(1, 4, 256)), torch.tensor(golden["labels"])
    mask = torch.from_numpy(recipe.images(2001, 4, 256)[:, :1] > 0.5).float()
    losses = detector.train()(images, labels, mask=mask).losses
    losses["total"].backward()
    assert losses["mask"].item() == pytest.approx(golden["train"]["mask"], rel=1e-5)
    assert losses["total"].item() == pytest.approx(golden["train"]["overall"], rel=1e-5)
    assert gradient_norm(detector) == pytest.approx(golden["train"]["grad_norm"], rel=3e-3)
    assert detector.requires == {"mask"}


# --- IID -------------------------------------------------------------------------------------------------------------


def test_iids_losses_are_those_of_loops():
    generator = torch.Generator().manual_seed(0)
    implicit, explicit = torch.randn(2, 6, 512, generator=generator).double()
    kernel, logits = torch.randn(512, 5, generator=generator).double(), torch.randn(6, 2, generator=generator).double()
    identity = torch.tensor([0, 4, 4, 1, 2, 0])
    implicit[1] = -kernel[:, 4] * 3 + 0.01 * implicit[1]  # an angle that the margin would take past pi
    means = {0: [], 1: []}
    entropy = own_entropy = 0.0
    for i, label in enumerate(LABELS.tolist()):
        a, b = implicit[i].numpy(), explicit[i].numpy()
        means[label].append(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        shares = 8 * (1 / (1 + np.exp(-logits[i].numpy())) - 0.2 * np.eye(2)[label])
        entropy -= (shares[label] - np.log(np.exp(shares).sum())) / 6
        cosines = [a @ k / np.linalg.norm(a) / np.linalg.norm(k) for k in kernel.numpy().T]
        own = identity[i].item()
        angle = np.arccos(cosines[own])
        cosines[own] = np.cos(angle + 0.4) if angle + 0.4 < np.pi else cosines[own] - np.sin(np.pi - 0.4) * 0.4
        scaled = 64 * np.array(cosines)
        own_entropy -= (scaled[own] - scaled.max() - np.log(np.exp(scaled - scaled.max()).sum())) / 6
    assert identity_contrast(implicit, explicit, LABELS).item() == pytest.approx(np.mean(means[1]) - np.mean(means[0]))
    assert class_loss(logits, LABELS).item() == pytest.approx(entropy, rel=1e-9)
    assert identity_loss(implicit, kernel, identity).item() == pytest.approx(own_entropy, rel=1e-6)


TINY_IID = {"pretrained": None, "blocks": [1, 1, 1, 1], "widths": [8, 8, 16, 16], "identities": 5}


@pytest.mark.slow
def test_iid_with_one_class_alone_or_no_identities_still_trains():
    detector = create_detector("iid", **TINY_IID).train()
    output = detector(IMAGES, torch.zeros(6, dtype=torch.long), target_identity=torch.arange(6) % 5)
    assert output.losses["total"].isfinite()
    assert output.losses["iie"].isfinite()
    output.losses["total"].backward()
    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)
    without = create_detector("iid", **{**TINY_IID, "identities": 0})
    assert not without.requires
    assert "kernel" not in without.state_dict()


@pytest.mark.slow
def test_iids_recogniser_is_given_and_rests(tmp_path):
    with pytest.raises(UserError, match=r"model\.identity_weights=.*ArcFace"):
        create_detector("iid", **{**TINY_IID, "pretrained": True})
    file = tmp_path / "backbone.pth"
    torch.save(FaceEmbedding([1, 1, 1, 1], [8, 8, 16, 16]).state_dict(), file)
    detector = create_detector("iid", **TINY_IID, identity_weights=str(file)).train()
    wanted = torch.load(file, weights_only=True)
    assert all(torch.equal(value, wanted[key]) for key, value in detector.explicit.state_dict().items())
    before = {key: value.clone() for key, value in detector.explicit.state_dict().items()}
    detector(IMAGES, LABELS)
    assert all(torch.equal(value, before[key]) for key, value in detector.explicit.state_dict().items())


@pytest.mark.slow
@pytest.mark.real
def test_iids_training_with_identities_is_deepfakebenchs(parity_detector):
    detector, golden, recipe = parity_detector("iid", train_identity=True)
    images, labels = torch.from_numpy(recipe.images(1, 4, 256)), torch.tensor(golden["labels"])
    with torch.no_grad():  # a score is that of the batch, whatever the batch
        assert detector.eval()(images[:1]).logits.tolist()[0] == pytest.approx(golden["eval"]["cls"][0], rel=1e-5)
    losses = detector.train()(images, labels, target_identity=torch.tensor([3, 7, 3, 11])).losses
    losses["total"].backward()
    for ours, theirs in (("total", "overall"), ("classes", "loss_bce"), ("iie", "loss_iie"), ("eic", "loss_eic")):
        assert losses[ours].item() == pytest.approx(golden["train"][theirs], rel=4e-5), ours
    assert gradient_norm(detector) == pytest.approx(golden["train"]["grad_norm"], rel=1e-3)


# --- LSDA ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel_maps", [False, True])
def test_lsdas_moves_are_the_four_of_the_method(channel_maps, monkeypatch):
    monkeypatch.setattr(latent_augmentation, "_turned", lambda maps: maps.flip(-1))
    torch.manual_seed(0)
    seen = set()
    for _ in range(8):
        maps = torch.randn(5, 6, 3, 3).double()
        points = (maps.flatten(0, 1) if channel_maps else maps).flatten(1)
        found = latent_augmentation.within_method(maps, channel_maps).view_as(points)
        mean = sum(points) / len(points)
        farthest = max(points, key=lambda point: (point - mean).norm())
        for place, (before, after) in enumerate(zip(points, found)):
            last = points[0] - points[1] if channel_maps else maps[place].flip(-1).flatten() - before
            kinds = []
            for kind, move in enumerate((farthest - before, before - mean, last)):
                share = (after - before) @ move / (move @ move).clamp(min=1e-12)
                if (after - before - share * move).norm() < 1e-6 and -1e-9 <= share < 1:
                    kinds.append(kind)
            seen.add(kinds[0] if kinds else "noise")
    assert seen == {0, 1, 2, "noise"}


def test_lsda_mixes_across_methods_and_turns_maps_about_their_centre(monkeypatch):
    torch.manual_seed(0)
    maps, methods = torch.randn(6, 4, 2, 2), torch.tensor([1, 1, 2, 2, 2, 3])
    found = latent_augmentation.across_methods(maps, methods)
    for i in range(6):
        fits = []
        for j in range(6):
            move = maps[j] - maps[i]
            share = ((found[i] - maps[i]) * move).sum() / move.square().sum().clamp(min=1e-12)
            if 0 <= share <= 1 and (found[i] - maps[i] - share * move).abs().max() < 1e-5 and i != j:
                fits.append(j)
        assert any(methods[j] != methods[i] for j in fits)
    torch.testing.assert_close(latent_augmentation.across_methods(maps[:2], methods[:2]), maps[:2])
    assert len(latent_augmentation.across_methods(maps[:0], methods[:0])) == 0
    monkeypatch.setattr(latent_augmentation, "ANGLE", 0.0)
    monkeypatch.setattr(latent_augmentation, "ZOOM", 0.0)
    torch.testing.assert_close(latent_augmentation._turned(maps), maps, atol=1e-6, rtol=0)


TINY_LSDA = {"pretrained": None, "methods": ["real", "a", "b"], "blocks": [1, 1, 1, 1], "widths": [8, 8, 8, 512]}


PICTURES = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))


MADE_BY = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.slow
def test_lsdas_losses_are_those_of_loops(monkeypatch):
    monkeypatch.setattr(lsda, "within_method", lambda maps, channel_maps: 1.5 * maps)
    monkeypatch.setattr(lsda, "across_methods", lambda maps, methods: maps.flip(0))
    torch.manual_seed(0)
    detector = create_detector("lsda", **TINY_LSDA).double().eval()
    with torch.no_grad():
        pictures = PICTURES.double()
        losses = detector(pictures, (MADE_BY > 0).long(), method=MADE_BY).losses
        features = {i: detector.encoders_f[MADE_BY[i] - 1](pictures[i : i + 1]) for i in (1, 4, 2, 5)}
        mixed = dict(zip(features, reversed(features.values())))
        entropy, distances = 0.0, {"real": [], "fake": []}
        for i, method in enumerate(MADE_BY.tolist()):
            student = detector.student_encoder(pictures[i : i + 1])
            if method:
                seen = features[i]
                wanted = detector.fc_weights(torch.cat([1.5 * seen, mixed[i]], dim=1))
            else:
                seen = wanted = F.avg_pool2d(detector.encoder_c(pictures[i : i + 1]), 2)
            entropy -= detector.mlp(seen.mean(dim=(2, 3))).log_softmax(dim=1)[0, method].item() / 6
            distances["fake" if method else "real"].append((student - wanted).square().mean().item())
    assert losses["domain"].item() == pytest.approx(entropy, rel=1e-9)
    expected = np.mean(distances["real"]) + np.mean(distances["fake"])
    assert losses["distillation"].item() == pytest.approx(expected, rel=1e-9)
    total = 0.5 * losses["binary"] + losses["domain"] + losses["distillation"]
    torch.testing.assert_close(losses["total"], total)


@pytest.mark.slow
def test_lsda_trains_all_that_is_not_given_whatever_kinds_the_batch_has(tmp_path):
    file = tmp_path / "backbone.pth"
    torch.save(FaceEmbedding(TINY_LSDA["blocks"], TINY_LSDA["widths"]).state_dict(), file)
    detector = create_detector("lsda", **TINY_LSDA, real_weights=str(file)).train()
    given = {key: value.clone() for key, value in detector.encoder_c.state_dict().items()}
    for kinds in (MADE_BY, torch.ones(6, dtype=torch.long), torch.zeros(6, dtype=torch.long)):
        detector.zero_grad()
        losses = detector(PICTURES, (kinds > 0).long(), method=kinds).losses
        losses["total"].backward()
        assert all(value.isfinite() for value in losses.values())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters() if p.requires_grad)
    wanted = torch.load(file, weights_only=True)
    for key, value in detector.encoder_c.state_dict().items():
        assert torch.equal(value, given[key])
        assert torch.equal(value, wanted[key])
    alone = create_detector("lsda", pretrained=None, teachers=False)
    assert not alone.requires
    with pytest.raises(UserError, match=r"model\.real_weights=.*ArcFace"):
        create_detector("lsda", **{**TINY_LSDA, "pretrained": True})
    with pytest.raises(UserError, match=r"expected model\.methods to be 'real', then forgery methods, got a, b"):
        create_detector("lsda", pretrained=None, methods=["a", "b"])


@pytest.mark.slow
@pytest.mark.real
def test_lsdas_training_losses_and_gradient_are_deepfakebenchs(parity_detector, monkeypatch):
    def towards_the_farthest(maps, channel_maps):
        points = maps.flatten(0, 1).flatten(1)
        mean = points.mean(dim=0)
        farthest = points[(points - mean).square().sum(dim=1).argmax()]
        return (points + 0.5 * (farthest - points)).view_as(maps)

    def with_the_mirrored_method(maps, methods):
        by_method = maps.unflatten(0, (4, 2))
        return (0.25 * by_method + 0.75 * by_method.flip(0)).flatten(0, 1)

    monkeypatch.setattr(lsda, "within_method", towards_the_farthest)
    monkeypatch.setattr(lsda, "across_methods", with_the_mirrored_method)
    detector, golden, recipe = parity_detector("lsda", train_real=True)
    images, methods = torch.from_numpy(recipe.images(3001, 10, 256)), torch.arange(5).repeat(2)
    losses = detector.train()(images, (methods > 0).long(), method=methods).losses
    for ours, theirs in (("domain", "domain"), ("binary", "deepfake"), ("distillation", "distillation")):
        assert losses[ours].item() == pytest.approx(golden["train"][theirs], rel=1e-5), ours
    # The loss that is not of the paper, of each kind's pass by itself.
    real, *forged = (detector.recognise(images[methods == kind]) for kind in range(5))
    apart = [(1 - F.cosine_similarity(real, maps, dim=1)).sum() for maps in forged]
    unbounded = apart[3] + apart[1] - apart[2] - apart[0]
    assert unbounded.item() == pytest.approx(golden["train"]["real_loss"], rel=1e-5)
    (losses["total"] + unbounded).backward()
    assert (losses["total"] + unbounded).item() == pytest.approx(golden["train"]["overall"], rel=1e-5)
    assert gradient_norm(detector) == pytest.approx(golden["train"]["grad_norm"], rel=1e-3)
