"""Effort, UIA-ViT, Face X-ray, IID, LSDA: their losses against slow loops in float64, and what is theirs alone."""

import copy
import json
from importlib.util import module_from_spec, spec_from_file_location

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector, lsda
from resproto_fd.detectors.iid import class_loss, identity_contrast, identity_loss
from resproto_fd.detectors.parts import latent_augmentation
from resproto_fd.detectors.parts.iresnet import FaceEmbedding
from resproto_fd.detectors.parts.shrunk_gaussian import ShrunkGaussian
from resproto_fd.detectors.parts.singular_residual import SingularResidual
from resproto_fd.detectors.weights import without_pretrained
from resproto_fd.losses.boundary import blending_boundary
from resproto_fd.trainer.optimizers import memory_kept

TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"embed_dim": 12, "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}}
TINY_VIT = {"backbone": {**VIT, "text_cfg": TEXT}, "pretrained": None}
IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 1, 0, 1, 1])


@pytest.fixture(scope="module")
def parity(shared):
    """DeepfakeBench's numbers by detector, and its detectors loaded with the weights they are of."""
    folder = shared / "parity"
    spec = spec_from_file_location("recipe", folder / "recipe.py")
    recipe = module_from_spec(spec)
    spec.loader.exec_module(recipe)

    def load(name: str, **keywords):
        keys = json.loads((folder / "keys" / f"{name}.json").read_text())
        state = {key: torch.from_numpy(np.array(value)) for key, value in recipe.fill(keys, 1).items()}
        with without_pretrained():
            detector = create_detector(name, pretrained=None, **keywords).load_deepfakebench(state)
        return detector, json.loads((folder / "golden" / f"{name}_seed1.json").read_text()), recipe

    return load


def gradient_norm(detector) -> float:
    return torch.sqrt(sum(p.grad.square().sum() for p in detector.parameters() if p.grad is not None)).item()


# --- Effort ----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_effort_starts_as_clip_and_at_no_constraint():
    torch.manual_seed(3)
    effort = create_detector("effort", **TINY_VIT).eval()
    torch.manual_seed(3)
    plain = create_detector("clip", **TINY_VIT).eval()
    plain.clip.visual.proj = None
    torch.testing.assert_close(effort.encode(IMAGES), plain.encode(IMAGES), atol=1e-5, rtol=1e-5)
    losses = effort(IMAGES, LABELS).losses
    assert losses["orthogonality"] < 1e-8
    assert losses["energy"] < 1e-3


@pytest.mark.parametrize("rank", [1, 3])
@torch.no_grad()
def test_efforts_constraints_are_those_of_all_singular_vectors(rank):
    torch.manual_seed(0)
    linear = torch.nn.Linear(9, 9).double()
    layer = SingularResidual(linear, rank)
    u, _, v = np.linalg.svd(linear.weight.numpy())
    for parameter in (layer.S_residual, layer.U_residual, layer.V_residual):
        parameter.add_(torch.randn_like(parameter) * 0.3)
    expected = 0.0
    for frozen, now in ((u[:, :-rank].T, layer.U_residual.numpy().T), (v[:-rank], layer.V_residual.numpy())):
        rows = np.concatenate([frozen, now])
        for i in range(9):
            for j in range(9):
                expected += (sum(rows[i] * rows[j]) - (i == j)) ** 2
    assert layer.orthogonality().item() == pytest.approx(expected, rel=1e-9)
    residual = layer.U_residual.numpy() @ np.diag(layer.S_residual.numpy()) @ layer.V_residual.numpy()
    whole = layer.weight_main.numpy() + residual
    change = abs((whole**2).sum() - (linear.weight.numpy() ** 2).sum())
    assert layer.energy_change().item() == pytest.approx(change, rel=1e-9)


def test_effort_leaves_clip_as_it_is():
    detector = create_detector("effort", **TINY_VIT)
    trains = {name.rpartition(".")[2] for name, p in detector.named_parameters() if p.requires_grad}
    assert trains == {"S_residual", "U_residual", "V_residual", "weight", "bias"}
    assert all("residual" in n or "classifier" in n for n, p in detector.named_parameters() if p.requires_grad)
    resnet = {"embed_dim": 12, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}, "text_cfg": TEXT}
    with pytest.raises(UserError, match="ModifiedResNet has no attention projections"):
        create_detector("effort", backbone=resnet, pretrained=None)


# --- UIA-ViT ---------------------------------------------------------------------------------------------------------

TINY_UIA_VIT = {"options": {"img_size": 32, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}}
TINY_UIA_VIT |= {"pretrained": None, "middle": 1, "last": 2}


def test_a_shrunk_gaussian_is_scikit_learns_of_the_samples_in_portions():
    from sklearn.covariance import LedoitWolf

    samples = torch.randn(50, 9, generator=torch.Generator().manual_seed(0)).double() @ torch.randn(9, 9).double() + 3
    gaussian = ShrunkGaussian(9)
    for part in samples.split(20):
        counts = torch.ones(len(part) + 2, dtype=torch.bool)
        counts[:2] = False
        gaussian.add(torch.cat([torch.full((2, 9), 77.0), part]), counts)
    gaussian.fit()
    expected = LedoitWolf().fit(samples.numpy())
    np.testing.assert_allclose(gaussian.mean, expected.location_, rtol=1e-10)
    np.testing.assert_allclose(gaussian.precision, expected.precision_, rtol=1e-7)
    np.testing.assert_allclose(gaussian.distance(samples) ** 2, expected.mahalanobis(samples.numpy()), rtol=1e-3)
    assert gaussian.fitted
    assert not gaussian.count
    before = gaussian.mean.clone()
    gaussian.fit()  # of nothing
    assert torch.equal(gaussian.mean, before)


def uia_vit_at_work(**keywords):
    """A tiny UIA-ViT past its first epoch of 12 images, with Gaussians."""
    torch.manual_seed(0)
    detector = create_detector("uia_vit", **TINY_UIA_VIT, **keywords).train()
    detector.start_training(torch.tensor([4, 8]))
    for _ in range(2):
        detector(IMAGES, LABELS)
    return detector


def test_uia_vits_consistency_is_that_of_a_loop_over_pairs():
    detector = uia_vit_at_work()
    with torch.no_grad():
        detector.levels.copy_(torch.tensor([0.7, 0.5, 0.1]))
        _, patches, attention = detector._read(IMAGES)
        forged = detector.forged_patches(patches, LABELS)
        assert 0 < forged[LABELS == 1].float().mean() < 1
        assert not forged[LABELS == 0].any()
        found = detector.consistency(attention, patches, LABELS).item()
    sums = {0: [], 1: []}
    for image, label in enumerate(LABELS.tolist()):
        total = 0.0
        for i in range(64):
            for j in range(64):
                wanted = (0.7, 0.1, 0.5)[int(forged[image, i]) + int(forged[image, j])]
                total += abs(attention[image, i, j].item() - (1.0 if label == 0 and i == j else wanted))
        sums[label].append(total / (64 * 63))
    assert found == pytest.approx(np.mean(sums[0]) + np.mean(sums[1]), rel=1e-5)


def test_uia_vit_teaches_after_the_first_epoch_and_every_parameter_learns():
    detector = uia_vit_at_work()
    assert detector.progress == pytest.approx(0.1)
    assert all(gaussian.fitted for gaussian in detector.gaussians)
    output = detector(IMAGES, LABELS)
    losses = output.losses
    expected = F.cross_entropy(output.logits, LABELS) + 0.06 * losses["consistency"] + losses["levels"]
    torch.testing.assert_close(losses["total"], expected)
    losses["total"].backward()
    assert all(p.grad is not None for p in detector.parameters() if p.requires_grad)
    assert detector.levels.grad.all()
    one_class = detector.train()(IMAGES, torch.ones(6, dtype=torch.long)).losses["total"]
    assert one_class.isfinite()


def test_uia_vits_progress_and_gaussians_survive_a_resume_and_testing():
    detector = uia_vit_at_work()
    state = {key: value.clone() for key, value in detector.state_dict().items()}
    other = create_detector("uia_vit", **TINY_UIA_VIT)
    other.load_state_dict(state)
    detector.eval()(IMAGES, LABELS)
    assert detector.progress == 1.0
    assert all(torch.equal(value, state[key]) for key, value in detector.state_dict().items())
    one, two = (each.train()(IMAGES, LABELS).losses["total"] for each in (detector, other))
    assert torch.equal(one, two)


def test_a_second_look_at_a_batch_does_not_count_for_uia_vits_progress():
    detector = uia_vit_at_work().train()
    before, state = detector.progress, {key: value.clone() for key, value in detector.state_dict().items()}
    with memory_kept(detector):
        detector(IMAGES, LABELS)
        assert detector.progress > before
    assert detector.progress == before
    assert all(torch.equal(value, state[key]) for key, value in detector.state_dict().items())


def test_uia_vits_activations_can_be_checkpointed_without_changing_gradients():
    detector = create_detector("uia_vit", **TINY_UIA_VIT, warm_up=0.0).double().train()
    twin = copy.deepcopy(detector)
    twin.checkpoint_activations()
    for one in (detector, twin):
        one(IMAGES.double(), LABELS).losses["total"].backward()
    for one, two in zip(detector.parameters(), twin.parameters()):
        if one.requires_grad:
            torch.testing.assert_close(two.grad, one.grad, atol=1e-12, rtol=0)


@pytest.mark.slow
@pytest.mark.real
def test_uia_vits_second_phase_has_deepfakebenchs_loss_with_its_gaussians(parity):
    from sklearn.covariance import LedoitWolf

    detector, golden, recipe = parity("uia_vit", warm_up=0.0, epochs=1)
    images, labels = torch.from_numpy(recipe.images(1, 4, 224)), torch.tensor(golden["labels"])
    detector.train().start_training(torch.tensor([0, 17960]))
    detector._seen = 2694
    with torch.no_grad():
        grid = detector._read(images)[1].unflatten(1, (14, 14))
    for gaussian, part in zip(detector.gaussians, (grid[:2], grid[2:, 3:11, 3:11])):
        fit = LedoitWolf().fit(part.reshape(-1, 768).numpy())  # in float32, as DeepfakeBench does
        gaussian.mean.copy_(torch.from_numpy(fit.location_))
        gaussian.precision.copy_(torch.from_numpy(fit.precision_))
        gaussian.fitted.fill_(True)
    losses = detector(images, labels).losses
    losses["total"].backward()
    assert losses["consistency"].item() == pytest.approx(golden["train_phase2"]["pcl_loss"], rel=1e-5)
    assert losses["total"].item() == pytest.approx(golden["train_phase2"]["overall"], rel=1e-5)
    assert gradient_norm(detector) == pytest.approx(golden["train_phase2"]["grad_norm"], rel=1e-4)


# --- Face X-ray ------------------------------------------------------------------------------------------------------


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


@pytest.mark.slow
@pytest.mark.real
def test_facexrays_loss_and_gradient_with_masks_are_deepfakebenchs(parity):
    detector, golden, recipe = parity("facexray")
    images, labels = torch.from_numpy(recipe.images(1, 4, 256)), torch.tensor(golden["labels"])
    mask = torch.from_numpy(recipe.images(2001, 4, 256)[:, :1] > 0.5).float()
    losses = detector.train()(images, labels, mask=mask).losses
    losses["total"].backward()
    assert losses["mask"].item() == pytest.approx(golden["train"]["mask"], rel=1e-5)
    assert losses["total"].item() == pytest.approx(golden["train"]["overall"], rel=1e-5)
    assert gradient_norm(detector) == pytest.approx(golden["train"]["grad_norm"], rel=3e-3)
    assert detector.requires == {"mask"}


# --- IID -------------------------------------------------------------------------------------------------------------

TINY_IID = {"pretrained": None, "blocks": [1, 1, 1, 1], "widths": [8, 8, 16, 16], "identities": 5}


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


@pytest.mark.real
def test_iids_training_with_identities_is_deepfakebenchs(parity):
    detector, golden, recipe = parity("iid", train_identity=True)
    images, labels = torch.from_numpy(recipe.images(1, 4, 256)), torch.tensor(golden["labels"])
    with torch.no_grad():  # a score is that of the batch, whatever the batch
        assert detector.eval()(images[:1]).logits.tolist()[0] == pytest.approx(golden["eval"]["cls"][0], rel=1e-5)
    losses = detector.train()(images, labels, target_identity=torch.tensor([3, 7, 3, 11])).losses
    losses["total"].backward()
    for ours, theirs in (("total", "overall"), ("classes", "loss_bce"), ("iie", "loss_iie"), ("eic", "loss_eic")):
        assert losses[ours].item() == pytest.approx(golden["train"][theirs], rel=4e-5), ours
    assert gradient_norm(detector) == pytest.approx(golden["train"]["grad_norm"], rel=1e-3)


# --- LSDA ------------------------------------------------------------------------------------------------------------

TINY_LSDA = {"pretrained": None, "methods": ["real", "a", "b"], "blocks": [1, 1, 1, 1], "widths": [8, 8, 8, 512]}
PICTURES = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
MADE_BY = torch.tensor([0, 1, 2, 0, 1, 2])


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
    with pytest.raises(UserError, match="'real' and then those of forgeries, not a, b"):
        create_detector("lsda", pretrained=None, methods=["a", "b"])


@pytest.mark.slow
@pytest.mark.real
def test_lsdas_training_losses_and_gradient_are_deepfakebenchs(parity, monkeypatch):
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
    detector, golden, recipe = parity("lsda", train_real=True)
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
