"""GenD: its losses against loops, what trains, and checkpoints under the names of its authors."""

import math

import numpy as np
import pytest
import torch
from tiny import IMAGES, LABELS, tiny
from torch.nn import functional as F

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.losses.hypersphere import alignment, uniformity

SMALL = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
LAYOUT = tiny("gend")["options"]
OTHERS = {
    "vit_pe_core_large_patch14_336": {**LAYOUT, "attn_pool_num_heads": 2, "dynamic_img_size": True},
    "vit_large_patch16_dinov3": {**LAYOUT, "global_pool": "token"},
}
"""Small forms of the other backbones."""


def units(*shape: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=1)


def squared_distance(x, y) -> float:
    return sum((a - b) ** 2 for a, b in zip(x, y, strict=True))


def test_uniformity_and_alignment_are_means_over_pairs():
    rows, labels = units(7, 5), [0, 1, 1, 0, 1, 0, 0]
    points, pairs = rows.tolist(), [(i, j) for i in range(7) for j in range(i)]
    spread = [math.exp(-2 * squared_distance(points[i], points[j])) for i, j in pairs]
    apart = [squared_distance(points[i], points[j]) for i, j in pairs if labels[i] == labels[j]]
    assert uniformity(rows).item() == pytest.approx(math.log(sum(spread) / len(spread)), abs=1e-12)
    assert alignment(rows, torch.tensor(labels)).item() == pytest.approx(sum(apart) / len(apart), abs=1e-12)


def test_uniformity_and_alignment_of_known_points():
    """Two pairs of opposite points on two axes: squared distances 4, 2, 2, 2, 2, 4."""
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert uniformity(rows).item() == pytest.approx(math.log((2 * math.exp(-8) + 4 * math.exp(-4)) / 6), abs=1e-6)
    assert alignment(rows, torch.tensor([0, 0, 1, 1])).item() == 4
    assert alignment(rows, torch.tensor([0, 1, 0, 1])).item() == 2
    same = rows[:1].expand(3, -1)
    assert uniformity(same).item() == pytest.approx(0, abs=1e-6) and alignment(same, torch.zeros(3)).item() == 0


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_units_of_half_precision_have_the_losses_of_their_values(kind):
    rows, labels = units(40, 8).to(kind), torch.arange(40) % 2
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = uniformity(rows), alignment(rows, labels)
    expected = uniformity(rows.double()), alignment(rows.double(), labels)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected).float(), atol=1e-5, rtol=1e-5)


def test_without_a_pair_the_losses_are_0_and_have_a_gradient():
    for count, labels in ((1, [0]), (2, [0, 1])):
        rows = units(count, 3).requires_grad_()
        (alignment(rows, torch.tensor(labels)) + (uniformity(rows) if count == 1 else 0)).backward()
        assert not rows.grad.any()


@pytest.mark.parametrize("weights", [(0.5, 0.1), (0.5, 0.0), (0.0, 0.0)])
def test_the_loss_is_cross_entropy_with_both_terms_of_unit_features(weights):
    torch.manual_seed(0)
    detector = create_detector("gend", **tiny("gend"), uniformity=weights[0], alignment=weights[1]).double()
    output = detector(IMAGES.double(), LABELS)
    np.testing.assert_allclose(output.features.norm(dim=1).tolist(), 1, atol=1e-12)
    expected = F.cross_entropy(detector.classifier(output.features), LABELS).item()
    expected += weights[0] * uniformity(output.features).item()
    expected += weights[1] * alignment(output.features, LABELS).item()
    assert output.losses["total"].item() == pytest.approx(expected, abs=1e-12)
    assert detector.couples_batch == any(weights)


@pytest.mark.parametrize("backbone", [tiny("gend")["backbone"], *OTHERS])
def test_only_layer_norms_and_the_classifier_train(backbone):
    keywords = {**tiny("gend"), "backbone": backbone, "options": OTHERS.get(backbone, LAYOUT)}
    detector = create_detector("gend", **keywords)
    detector(IMAGES, LABELS).losses["total"].backward()
    trains = {name for name, parameter in detector.named_parameters() if parameter.grad is not None}
    assert trains == {name for name, parameter in detector.named_parameters() if parameter.requires_grad}
    parts = {name.rpartition(".")[0] for name in trains}
    norms = {name for name, module in detector.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    assert parts == {*norms, "classifier.1"}
    assert {"backbone.blocks.0.norm1", "backbone.blocks.1.norm2", "backbone.norm"} <= parts


def test_a_backbone_without_layer_norms_is_refused():
    with pytest.raises(UserError, match=r"expected a backbone with layer norms, got test_resnet; set model\.backbone"):
        create_detector("gend", backbone="test_resnet", pretrained=None)


@pytest.mark.parametrize("name", ["gend", "gend_pe", "gend_dinov3"])
def test_three_hundredths_of_a_per_cent_train(name):
    preset = loading.load("detectors", name)
    assert 100 * preset.trainable / preset.parameters == pytest.approx(0.03, abs=0.005)
    assert preset.train.sampling == "paired"


def of_authors(encoder: dict) -> dict:
    """A checkpoint of theirs with this encoder and a drawn classifier."""
    torch.manual_seed(1)
    head = {"model.linear.weight": torch.randn(2, 32), "model.linear.bias": torch.randn(2)}
    return {f"feature_extractor.{key}": value for key, value in encoder.items()} | head


def assert_same(detector, state: dict, features: torch.Tensor) -> None:
    found, features = detector(IMAGES), F.normalize(features, dim=1)
    assert features.std(dim=0).max() > 1e-3
    torch.testing.assert_close(found.features, features, atol=1e-5, rtol=0)
    logits = features @ state["model.linear.weight"].T + state["model.linear.bias"]
    torch.testing.assert_close(found.scores, logits.softmax(dim=1)[:, 1], atol=1e-5, rtol=0)


def drawn_anew(network):
    for parameter in network.eval().parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


@pytest.mark.slow
@torch.no_grad()
def test_the_authors_checkpoint_on_clip_scores_as_in_transformers():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(0)
    tower = drawn_anew(CLIPVisionModel(CLIPVisionConfig(**SMALL, image_size=32, patch_size=8)))
    named = {f"vision_model.{key.removeprefix('vision_model.')}": v for key, v in tower.state_dict().items()}
    state = of_authors({**named, "visual_projection.weight": torch.randn(12, 32)})
    detector = create_detector("gend", **tiny("gend")).eval()
    assert detector.load_foreign(state) == "checkpoint of the method's authors"
    assert_same(detector, state, tower(IMAGES).pooler_output)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("biased", [False, True])
def test_the_authors_checkpoint_on_dinov3_scores_as_in_transformers(biased):
    """The published network's biases of queries and values are 0; timm's has none."""
    from transformers import DINOv3ViTConfig, DINOv3ViTModel

    torch.manual_seed(0)
    layout = {**SMALL, "image_size": 32, "patch_size": 8, "num_register_tokens": 4}
    tower = drawn_anew(DINOv3ViTModel(DINOv3ViTConfig(**layout)))
    for name, parameter in tower.named_parameters():
        if not biased and name.endswith(("q_proj.bias", "v_proj.bias")):
            parameter.zero_()
    state = of_authors({f"backbone.{key}": value for key, value in tower.state_dict().items()})
    name = "vit_large_patch16_dinov3"
    detector = create_detector("gend", backbone=name, pretrained=None, options=OTHERS[name]).eval()
    if biased:
        with pytest.raises(UserError, match="q_bias"):
            detector.load_foreign(state)
        return
    detector.load_foreign(state)
    assert_same(detector, state, tower(IMAGES).last_hidden_state[:, 0])


def test_the_authors_checkpoint_on_a_perception_encoder_loads():
    name = "vit_pe_core_large_patch14_336"
    made = [create_detector("gend", backbone=name, pretrained=None, options=OTHERS[name]).eval() for _ in range(2)]
    state = of_authors({f"backbone.{key}": value for key, value in made[0].backbone.state_dict().items()})
    made[1].load_foreign(state)
    with torch.no_grad():
        assert_same(made[1], state, made[0].backbone(IMAGES))
