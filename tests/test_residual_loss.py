import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from resproto_fd.losses.residual import (
    ResidualLoss,
    gradient_scores,
    residual_features,
    similarity,
    similarity_logits,
    temperature,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "resproto_fd.json").read_text())["loss"]
PRECISION = {torch.float64: {"rtol": 1e-9, "atol": 1e-9}, torch.float32: {"rtol": 1e-4, "atol": 1e-4}}


@pytest.mark.parametrize("dtype", PRECISION, ids=str)
@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: case["name"])
def test_every_quantity_of_the_golden_cases_is_reproduced(case, dtype):
    def tensor(name):
        return torch.tensor(case[name], dtype=dtype)

    def check(name, value):
        assert value.dtype == dtype, name
        torch.testing.assert_close(value, tensor(name), **PRECISION[dtype], msg=lambda text: f"{name}: {text}")

    labels, tau, kind = torch.tensor(case["labels"]), case["tau"], case["similarity"]
    loss = ResidualLoss(case["class_counts"], case["omega1"], case["omega2"])
    text = F.normalize(tensor("prompt_embeddings").mean(1), dim=-1)
    residual = residual_features(tensor("image_features"), text, labels, case["lam"])
    logits = similarity_logits(residual, text, tau, kind)
    check("text_features", text)
    check("residual", residual)
    check("logits", logits)
    check("loss_per_class", loss.per_class(logits, labels))
    check("loss", loss(logits, labels))
    check("grad_score", gradient_scores(residual, text, tau, labels, loss, kind))
    if_forged = residual_features(tensor("image_features"), text, torch.ones_like(labels), case["lam"])
    check("clip_score", similarity(if_forged, text, kind)[:, 1])

    if case["omega2"] > 0:  # the regulariser alone, as the difference that omega2 makes
        plain = ResidualLoss(case["class_counts"], case["omega1"], 0.0).per_class(logits, labels)
        check("reg_per_class", (loss.per_class(logits, labels) - plain) / case["omega2"])


def test_the_golden_file_holds_the_nine_cases():
    assert len(GOLDEN) == 9
    assert {case["similarity"] for case in GOLDEN} == {"cosine", "dot"}


def example(batch=12, dim=16, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, 5, generator=generator, dtype=dtype)
    weight = torch.randn(dim, 5, generator=generator, dtype=dtype)
    text = F.normalize(torch.randn(2, dim, generator=generator, dtype=dtype), dim=-1)
    labels = torch.arange(batch) % 3 % 2  # two of three are real
    return images, weight, text, labels


def test_the_terms_add_up_to_the_loss():
    images, weight, text, labels = example()
    logits = similarity_logits(images @ weight.T, text, 7.0)
    loss = ResidualLoss([3, 5], omega2=0.2)
    terms = loss.terms(logits, labels)
    assert terms["total"] == loss(logits, labels)
    torch.testing.assert_close(terms["total"], terms["cross_entropy"] + 0.2 * terms["regulariser"])
    log_prior = torch.tensor([3 / 8, 5 / 8]).double().log()
    torch.testing.assert_close(terms["cross_entropy"], F.cross_entropy(logits + log_prior, labels))


def test_equal_counts_without_the_regulariser_are_plain_cross_entropy():
    images, weight, text, labels = example()
    logits = similarity_logits(images @ weight.T, text, 7.0)
    torch.testing.assert_close(ResidualLoss([1, 1], omega2=0)(logits, labels), F.cross_entropy(logits, labels))


@pytest.mark.parametrize("present", [0, 1])
def test_a_class_absent_from_the_batch_adds_no_loss_and_no_score(present):
    images, weight, text, _ = example()
    labels = torch.full((12,), present)
    residual = residual_features(F.normalize(images @ weight.T, dim=-1), text, labels, 0.3)
    loss = ResidualLoss([10, 40])
    per_class = loss.per_class(similarity_logits(residual, text, 100.0), labels)
    scores = gradient_scores(residual, text, 100.0, labels, loss)
    assert per_class[1 - present] == 0
    assert scores[1 - present] == 0
    assert per_class[present] > 0
    assert scores[present] > 0


@pytest.mark.parametrize("tau", [5.0, 100.0])
def test_the_loss_has_the_gradient_that_finite_differences_have(tau):
    images, weight, text, labels = example(batch=5, dim=4)
    residual = (images @ weight.T)[:5].requires_grad_()
    loss = ResidualLoss([3, 9])
    assert torch.autograd.gradcheck(lambda r: loss(similarity_logits(r, text, tau), labels[:5]), residual)


@pytest.mark.parametrize("kind", ["cosine", "dot"])
@pytest.mark.parametrize("tau", [5.0, 100.0])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_gradient_score_is_that_of_autograd_through_the_whole_graph(kind, tau, autocast):
    dtype, tolerance = (torch.float32, 1e-2) if autocast else (torch.float64, 1e-9)
    images, _, text, labels = example(dtype=dtype)
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.GELU(), torch.nn.Linear(8, 16)).to(dtype)
    loss = ResidualLoss([100, 400])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        encoded = encoder(images)
        residual = residual_features(F.normalize(encoded, dim=-1), text, labels, 0.3)
        per_class = loss.per_class(similarity_logits(residual, text, tau, kind), labels)
        scores = gradient_scores(residual, text, tau, labels, loss, kind)
    assert encoded.dtype == (torch.bfloat16 if autocast else torch.float64)
    for c in (0, 1):
        (gradient,) = torch.autograd.grad(per_class[c], residual, retain_graph=True)
        torch.testing.assert_close(scores[c], gradient[labels == c].norm(), rtol=tolerance, atol=0)
    assert not scores.requires_grad
    assert all(p.grad is None for p in encoder.parameters())


@pytest.mark.parametrize("omegas", [(0.1, 0.1), (0.7, 2.0), (0.0, 0.5), (0.3, 0.0)])
@pytest.mark.parametrize("present", [(0, 1), (0,), (1,)])
def test_the_closed_gradient_of_the_own_class_is_that_of_autograd(omegas, present):
    images, weight, text, _ = example()
    labels = torch.tensor(present).repeat(12)[:12]
    logits = similarity_logits(images @ weight.T, text, 30.0).requires_grad_()
    loss = ResidualLoss([7, 2], *omegas)
    per_class = loss.per_class(logits, labels)
    both = torch.stack([torch.autograd.grad(per_class[c], logits, retain_graph=True)[0] for c in (0, 1)])
    torch.testing.assert_close(loss.own_gradient(logits, labels), both[labels, torch.arange(12)], rtol=1e-9, atol=1e-9)


def test_the_gradient_score_needs_no_gradient_mode_of_its_caller():
    images, weight, text, labels = example(dtype=torch.float32)
    residual = residual_features(F.normalize(images @ weight.T, dim=-1), text, labels, 0.3)
    exact = gradient_scores(residual, text, 20.0, labels, ResidualLoss([1, 4]))
    tau = torch.tensor(20.0, requires_grad=True)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = gradient_scores(residual, text, tau, labels, ResidualLoss([1, 4]))
    assert exact.dtype == torch.float32
    assert torch.equal(scores, exact)
    assert tau.grad is None


def test_half_precision_features_give_a_float32_loss_and_a_gradient_of_their_own_type():
    images, weight, text, labels = example(dtype=torch.float32)
    features = F.normalize(images @ weight.T, dim=-1).bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        logits = similarity_logits(residual_features(features, text, labels, 0.3), text, 100.0)
        total = ResidualLoss([1, 4])(logits, labels)
    assert logits.dtype == total.dtype == torch.float32
    total.backward()
    assert features.grad.dtype == torch.bfloat16
    assert features.grad.abs().sum() > 0


def test_huge_logits_stay_finite():
    logits = torch.tensor([[900.0, -900.0], [-900.0, 900.0], [900.0, 900.0]], requires_grad=True)
    total = ResidualLoss([1, 4], omega1=0.1)(logits, torch.tensor([0, 1, 1]))
    total.backward()
    assert total.isfinite()
    assert logits.grad.isfinite().all()


def test_the_temperature_is_bounded_by_100_and_keeps_its_gradient_at_the_bound():
    for logit_scale, tau in [(math.log(5), 5), (math.log(100), 100), (4.6055, 100), (9.0, 100)]:
        parameter = torch.tensor(logit_scale, requires_grad=True)
        value = temperature(parameter)
        value.backward()
        assert value.item() == pytest.approx(tau, rel=1e-5)
        assert parameter.grad.item() == pytest.approx(math.exp(logit_scale), rel=1e-5)


def test_the_class_counts_are_exact_state_whatever_the_type_of_the_model():
    loss = ResidualLoss([200_000, 800_001])
    copy = ResidualLoss([1, 1])
    copy.load_state_dict(loss.half().state_dict())
    assert copy.class_counts.tolist() == [200_000, 800_001]
    copy.set_class_counts(torch.tensor([7, 2]))
    assert copy.class_counts.tolist() == [7, 2]


@pytest.mark.parametrize("counts", [[0, 5], [5], [1, 2, 3], [0.2, 0.8], [float("nan"), 1]])
def test_class_counts_that_are_no_prior_are_refused(counts):
    with pytest.raises(ValueError, match="class_counts"):
        ResidualLoss(counts)


def test_logits_that_do_not_fit_the_labels_are_refused():
    with pytest.raises(ValueError, match=r"expected logits \[4, 2\] for 4 labels, got \[4, 3\]"):
        ResidualLoss([1, 1])(torch.zeros(4, 3), torch.zeros(4))
    with pytest.raises(ValueError, match="dott"):
        similarity(torch.zeros(1, 2), torch.zeros(2, 2), "dott")
