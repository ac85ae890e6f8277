"""ResProto-FD as a whole: the paper's equations through `head`, its switches, its memory and its temperature."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn import functional as F

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.parts.clip_tower import FORGED_PROMPTS, REAL_PROMPTS
from resproto_fd.detectors.parts.kmeans import kmeans
from resproto_fd.detectors.parts.prototype_memory import PrototypeMemory

GOLDEN = json.loads((Path(__file__).parent / "golden" / "resproto_fd.json").read_text())
IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 1, 0, 1, 1, 1, 0])


def make(embed_dim: int = 6, seed: int = 0, **switches):
    text = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16}
    torch.manual_seed(seed)
    backbone = {"embed_dim": embed_dim, "vision_cfg": vision, "text_cfg": text}
    return create_detector("resproto_fd", backbone=backbone, pretrained=None, **{"start_epoch": 0, **switches})


def golden_detector(case: dict, **switches):
    detector = make(
        len(case["image_features"][0]),
        residual_weight=case["lam"],
        similarity=case["similarity"],
        omega1=case["omega1"],
        omega2=case["omega2"],
        **switches,
    ).double()
    detector.text_features.copy_(torch.tensor(case["text_features"], dtype=torch.float64))
    detector.clip.logit_scale.data.fill_(math.log(case["tau"]))
    detector.start_training(torch.tensor(case["class_counts"]))
    return detector


class LookUp(nn.Module):
    """A text tower that knows the embedding of each prompt by heart."""

    def __init__(self, embeddings: Tensor):
        super().__init__()
        self.embeddings = embeddings

    def forward(self, tokens: Tensor) -> Tensor:
        return self.embeddings[tokens]


@pytest.mark.parametrize("case", GOLDEN["loss"], ids=lambda case: case["name"])
def test_head_reproduces_the_golden_vectors_of_the_loss(case):
    detector = golden_detector(case).train()
    features = torch.tensor(case["image_features"], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor(case["labels"])
    exact = {"atol": 1e-9, "rtol": 1e-9}
    output = detector.head(features, labels)
    torch.testing.assert_close(output.logits, torch.tensor(case["logits"], dtype=torch.float64), **exact)
    torch.testing.assert_close(output.losses["total"].item(), case["loss"], **exact)
    for label, score in enumerate(case["grad_score"]):
        if label in case["labels"]:
            torch.testing.assert_close(detector.memory.scores[label, 0].item(), score, **exact)

    offset = case["lam"] if case["similarity"] == "dot" else 0.0
    expected = (torch.tensor(case["clip_score"]) + offset + 1) / 2
    torch.testing.assert_close(output.variants["clip"], expected, atol=1e-6, rtol=0)
    in_float32 = golden_detector(case).float().train().head(features.float(), labels)
    torch.testing.assert_close(in_float32.losses["total"].item(), case["loss"], atol=0, rtol=1e-4)


@pytest.mark.parametrize("case", GOLDEN["loss"], ids=lambda case: case["name"])
def test_text_features_reproduce_the_golden_vectors(case):
    detector = make(6, keep_text_tower=True)
    embeddings = torch.tensor(case["prompt_embeddings"], dtype=torch.float64)
    detector.clip.text = LookUp(embeddings.flatten(0, 1))
    count = embeddings.shape[1]
    detector.clip.tokenizer = lambda texts: torch.tensor([int(text) for text in texts])
    found = detector.clip.text_features([[str(i) for i in range(count)], [str(count + i) for i in range(count)]])
    torch.testing.assert_close(found, torch.tensor(case["text_features"], dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("case", GOLDEN["inference"], ids=lambda case: case["name"])
def test_evaluation_reproduces_the_golden_vectors_of_the_memory(case):
    prototypes = torch.tensor(case["prototypes"], dtype=torch.float64)
    labels = torch.tensor(case["prototype_labels"])
    detector = make(
        prototypes.shape[1], top_k=case["k"], temperature=case["temperature"], capacity=len(labels)
    ).double()
    for label in (0, 1):
        own = prototypes[labels == label]
        detector.memory.prototypes[label, : len(own)] = own
        detector.memory.count[label] = len(own)
    output = detector.eval().head(torch.tensor(case["image_features"], dtype=torch.float64))
    if len(labels.unique()) == 2:
        torch.testing.assert_close(output.variants["grp"], torch.tensor(case["score"]), atol=1e-6, rtol=0)
        assert torch.equal(output.scores, output.variants["grp"])
    else:
        assert set(output.variants) == {"clip"}
        assert torch.equal(output.scores, output.variants["clip"])


def test_only_the_image_tower_and_the_temperature_train():
    detector = make(keep_text_tower=True)
    trainable = {name for name, p in detector.named_parameters() if p.requires_grad}
    assert trainable == {f"clip.visual.{name}" for name, _ in detector.clip.visual.named_parameters()} | {
        "clip.logit_scale"
    }


def test_the_text_tower_is_dropped_unless_it_is_to_be_kept():
    dropped, kept = make(seed=1), make(seed=1, keep_text_tower=True)
    assert dropped.clip.text is None
    assert not any(key.startswith("clip.text") for key in dropped.state_dict())
    assert torch.equal(kept.clip.text_features([REAL_PROMPTS, FORGED_PROMPTS]), kept.text_features)
    assert torch.equal(dropped.text_features, kept.text_features)


def test_prompts_may_be_given_for_either_class():
    other = make(prompts={"forged": ["a mask"]}).text_features
    torch.testing.assert_close(other[0], make().text_features[0])
    assert not torch.allclose(other[1], make().text_features[1], atol=1e-3)


def test_the_loss_in_evaluation_is_that_of_training():
    detector = make()
    detector.start_training(torch.tensor([30, 50]))
    trained = detector.train()(IMAGES, LABELS).losses
    validated = detector.eval()(IMAGES, LABELS).losses
    torch.testing.assert_close(validated, trained)


def test_without_residual_the_features_themselves_are_compared():
    detector = make(residual=False).train()
    output = detector(IMAGES, LABELS)
    f = F.normalize(detector.encode(IMAGES), dim=-1)
    cosine = f @ detector.text_features.T
    torch.testing.assert_close(output.logits, detector.clip.logit_scale.exp() * cosine)
    torch.testing.assert_close(output.scores, (cosine[:, 1] + 1) / 2)
    torch.testing.assert_close(detector.memory.prototypes[0, 0], f[LABELS == 0].mean(0))


def test_cross_entropy_is_plain_and_knows_no_prior():
    detector = make(loss="ce").train()
    detector.start_training(torch.tensor([1, 99]))
    output = detector(IMAGES, LABELS)
    torch.testing.assert_close(output.losses["total"], F.cross_entropy(output.logits, LABELS))
    assert not make(loss="ce", grp=False).couples_batch
    assert make(loss="ce").couples_batch
    assert make(grp=False).couples_batch


def test_a_training_set_of_one_class_is_refused():
    with pytest.raises(UserError, match=r"real and fake frames.*\[10, 0\]"):
        make().start_training(torch.tensor([10, 0]))


def test_prototypes_are_collected_in_training_with_labels_from_the_epoch_on():
    detector = make(start_epoch=2)
    for epoch in (0, 1):
        detector.train().start_epoch(epoch)
        detector(IMAGES, LABELS)
    assert detector.memory.count.tolist() == [0, 0]
    detector.start_epoch(2)
    detector(IMAGES)
    detector.eval()(IMAGES, LABELS)
    assert detector.memory.count.tolist() == [0, 0]
    detector.train()(IMAGES, LABELS)
    assert detector.memory.count.tolist() == [1, 4]
    detector(IMAGES, LABELS)
    assert detector.memory.count.tolist() == [2, 8]


def test_the_prototypes_entered_are_of_the_residual_features_with_their_gradient_norms():
    detector = make(embed_dim=5).double().train()
    detector.start_training(torch.tensor([3, 5]))
    output = detector(IMAGES.double(), LABELS)
    residual = (output.features - 0.3 * detector.text_features[LABELS]).detach().requires_grad_()
    tau = detector.clip.logit_scale.exp().detach()
    logits = tau * F.normalize(residual, dim=-1) @ detector.text_features.T
    torch.testing.assert_close(detector.memory.prototypes[0, 0], residual[LABELS == 0].mean(0).detach())
    centres, _, _ = kmeans(residual.detach()[LABELS == 1])
    torch.testing.assert_close(detector.memory.prototypes[1, :4], centres)
    for label in (0, 1):
        (gradient,) = torch.autograd.grad(detector.loss.per_class(logits, LABELS)[label], residual, retain_graph=True)
        rows = gradient[LABELS.eq(label)]
        torch.testing.assert_close(detector.memory.scores[label, 0], rows.norm(), atol=1e-9, rtol=0)


def test_the_prototype_scores_under_mixed_precision_are_those_without():
    plain = make(embed_dim=16).train()
    mixed = copy.deepcopy(plain)
    plain(IMAGES, LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        mixed(IMAGES, LABELS)
    torch.testing.assert_close(mixed.memory.scores[:, 0], plain.memory.scores[:, 0], atol=0, rtol=1e-2)
    assert mixed.memory.prototypes.dtype == torch.float32


def test_collecting_prototypes_changes_neither_loss_nor_gradients():
    losses, gradients = [], []
    for grp in (True, False):
        detector = make(grp=grp).double().train()
        loss = detector(IMAGES.double(), LABELS).losses["total"]
        loss.backward()
        losses.append(loss)
        gradients.append([p.grad for p in detector.parameters() if p.requires_grad])
    assert torch.equal(*losses)
    assert all(torch.equal(one, two) for one, two in zip(*gradients, strict=True))


@pytest.mark.slow
def test_a_training_step_never_waits_for_the_device():
    """Fake tensors have no values: whatever reads one back to the host fails."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        detector = make().train()
        images, labels = mode.from_tensor(IMAGES), mode.from_tensor(LABELS)
        detector(images, labels).losses["total"].backward()
        detector.after_step()
        detector.diagnostics()
        assert detector.collects
        with pytest.raises(DataDependentOutputException):
            labels.sum().item()


@pytest.mark.parametrize("start", [4.0, math.log(100) - 1e-4])
def test_the_temperature_stays_within_clips_bound_and_can_leave_it(start):
    detector = make(seed=2).train()
    detector.clip.logit_scale.data.fill_(start)
    scale = detector.clip.logit_scale
    for sign in (-1, 1):
        optimizer = torch.optim.SGD([scale], lr=1.0)
        scale.grad = torch.tensor(float(sign))
        optimizer.step()
        detector.after_step()
        assert scale.exp().item() <= 100 * (1 + 1e-6)
        detector(IMAGES, LABELS).losses["total"].backward()
        assert scale.grad.abs() > 0
        assert detector.diagnostics()["tau"].item() <= 100
    assert scale.item() == pytest.approx(min(start + 1, math.log(100)) - 1, abs=1e-5)


def test_a_temperature_beyond_the_bound_is_used_as_the_bound():
    detector = make().eval()
    detector.clip.logit_scale.data.fill_(6.0)
    output = detector(IMAGES)
    ceiling = make().eval()
    ceiling.clip.logit_scale.data.fill_(math.log(100))
    torch.testing.assert_close(output.logits, ceiling(IMAGES).logits)


def test_the_memory_is_restored_with_the_state():
    detector = make().train()
    detector(IMAGES, LABELS)
    other = make(seed=3)
    other.load_state_dict(detector.state_dict())
    assert torch.equal(other.memory.prototypes, detector.memory.prototypes)
    assert "grp" in other.eval()(IMAGES).variants


def test_the_released_preset_carries_the_released_codes_choices():
    model = loading.load("detectors", "resproto_fd_released").model
    assert model["similarity"] == "dot"
    assert model["temperature"] == 0.1
    assert model["start_epoch"] == 2
    assert model["gamma"] == pytest.approx(0.99**2)


def test_storing_decayed_scores_and_decaying_again_is_decaying_by_the_square():
    """Why gamma^2 stands for the released memory, which stores g * gamma each update and compares g * gamma^t."""
    generator = torch.Generator().manual_seed(0)
    memory = PrototypeMemory(4, 3, gamma=0.9**2)
    stored: list[list] = []  # [prototype, decayed score, age]
    for _ in range(60):
        candidate, g = torch.randn(3, generator=generator), torch.rand((), generator=generator).item() + 0.1
        memory.update(1, candidate[None], g)
        for entry in stored:
            entry[1] *= 0.9
            entry[2] += 1
        if len(stored) < 4:
            stored.append([candidate, g, 0])
            continue
        weakest = min(range(4), key=lambda i: stored[i][1] * 0.9 ** stored[i][2])
        if g >= stored[weakest][1] * 0.9 ** stored[weakest][2]:
            stored[weakest] = [candidate, g, 0]
    torch.testing.assert_close(memory.prototypes[1], torch.stack([entry[0] for entry in stored]))


def filled(real: int, forged: int, **switches):
    detector = make(capacity=6, top_k=8, **switches).eval()
    generator = torch.Generator().manual_seed(0)
    for label, count in ((0, real), (1, forged)):
        for _ in range(count):
            detector.memory.update(label, torch.randn(1, 6, generator=generator), 1.0)
    return detector


def test_balanced_neighbours_are_the_nearest_of_each_class():
    torch.manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(20, 6), dim=-1)
    detector = filled(6, 6, neighbours="balanced")
    found = detector.head(features).variants["grp"]
    unit = torch.nn.functional.normalize(detector.memory.prototypes, dim=-1)
    for feature, score in zip(features, found, strict=True):
        sums = [sorted(math.exp(float(feature @ p)) for p in unit[label])[-4:] for label in (0, 1)]
        assert score.item() == pytest.approx(sum(sums[1]) / sum(map(sum, sums)), abs=1e-6)


def test_a_lopsided_memory_leans_and_balanced_neighbours_do_not():
    torch.manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(200, 6), dim=-1)
    nearest = filled(2, 6).head(features).scores
    balanced = filled(2, 6, neighbours="balanced").head(features).scores
    assert nearest.mean() > 0.7
    assert balanced.mean() == pytest.approx(0.5, abs=0.06)
    with pytest.raises(UserError, match=r"model\.top_k of at least 2, got 1"):
        make(top_k=1, neighbours="balanced")


def test_a_memory_that_is_not_full_is_noted():
    assert filled(6, 6).notes() == []
    (note,) = filled(1, 6).notes()
    assert "holds 1 of 6 real and 6 of 6 forged prototypes; Score_GRP leans" in note
    (note,) = filled(1, 6, neighbours="balanced").notes()
    assert "leans" not in note
    (note,) = filled(0, 2).notes()
    assert "scores are Score_clip" in note
    assert make(grp=False).notes() == []
