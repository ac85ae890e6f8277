"""Effort and UIA-ViT: their losses against slow loops in float64, and what is theirs alone."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.parts.shrunk_gaussian import ShrunkGaussian
from resproto_fd.detectors.parts.singular_residual import SingularResidual
from resproto_fd.trainer.optimizers import memory_kept

# --- Effort ----------------------------------------------------------------------------------------------------------


TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}


VIT = {"embed_dim": 12, "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}}


TINY_VIT = {"backbone": {**VIT, "text_cfg": TEXT}, "pretrained": None}


IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))


LABELS = torch.tensor([0, 1, 1, 0, 1, 1])


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
    with pytest.raises(UserError, match=r"expected a ViT of open_clip, got ModifiedResNet; set model.backbone"):
        create_detector("effort", backbone=resnet, pretrained=None)


# --- UIA-ViT ---------------------------------------------------------------------------------------------------------


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


TINY_UIA_VIT = {"options": {"img_size": 32, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}}
TINY_UIA_VIT |= {"pretrained": None, "middle": 1, "last": 2}


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


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_uia_vit_loads_where_every_name_of_a_checkpoint_has_the_prefix_of_a_wrapper(wrapper):
    """DeepfakeBench keeps the whole network as `model`, which is also what Lightning puts before all names."""
    detector, other = (create_detector("uia_vit", **TINY_UIA_VIT) for _ in range(2))
    state = other.state_dict()
    named = {key.replace("backbone.", "model."): value for key, value in state.items() if key.startswith("backbone.")}
    named |= {f"model.norm_middle.{kind}": state[f"norm_middle.{kind}"] for kind in ("weight", "bias")}
    named |= {f"model.head.{kind}": state[f"classifier.1.{kind}"] for kind in ("weight", "bias")}
    named |= {f"model.c_{kind}": state["levels"][i] + 1 for i, kind in enumerate(("real", "fake", "cross"))}
    detector.load_deepfakebench({wrapper + key: value for key, value in named.items()})
    assert torch.equal(detector.levels, other.levels + 1)
    assert torch.equal(detector.classifier[1].weight, other.classifier[1].weight)


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


def gradient_norm(detector) -> float:
    return torch.sqrt(sum(p.grad.square().sum() for p in detector.parameters() if p.grad is not None)).item()


@pytest.mark.slow
@pytest.mark.real
def test_uia_vits_second_phase_has_deepfakebenchs_loss_with_its_gaussians(parity_detector):
    from sklearn.covariance import LedoitWolf

    detector, golden, recipe = parity_detector("uia_vit", warm_up=0.0, epochs=1)
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
