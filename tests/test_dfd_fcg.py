"""DFD-FCG: what its modules read in CLIP's layers, its losses, its facial components, and its authors' names."""

import copy
import math
from functools import lru_cache

import pytest
import torch
from tiny import LABELS, TINY_RESNET, images_of, tiny
from torch import nn

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.parts import facial_components
from resproto_fd.detectors.parts.facial_components import (
    COMPONENTS,
    component_loss,
    component_points,
    on_patches,
    random_views,
)
from resproto_fd.detectors.parts.side_network import Layer, SideLayer, clip_layers
from resproto_fd.losses.focal import focal_loss

CLIPS = images_of("dfd_fcg")
FACE = torch.tensor([[9.0, 11.0], [22.0, 12.0], [15.0, 17.0], [11.0, 25.0], [21.0, 26.0]])
"""Five landmarks in a picture of 32 x 32."""
LANDMARKS = FACE.expand(6, 4, -1, -1)


@lru_cache
def built(guidance: float):
    torch.manual_seed(0)
    return create_detector("dfd_fcg", **{**tiny("dfd_fcg"), "guidance": guidance})


def make(guidance: float = 0.0):
    return copy.deepcopy(built(guidance))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(x: torch.Tensor, y: torch.Tensor) -> float:
    return (x @ y / (x.norm() + 1e-4) / (y.norm() + 1e-4)).item()


def softmax(values: list[float]) -> list[float]:
    return [math.exp(value - max(values)) / sum(math.exp(v - max(values)) for v in values) for value in values]


# --- The network beside CLIP -----------------------------------------------------------------------------------------


@torch.no_grad()
def test_layers_are_what_clip_computes():
    clip = make().double().clip
    frames = CLIPS[0].double()
    layers, expected = list(clip_layers(clip, frames)), clip.visual.forward_intermediates(frames, output_fmt="NLC")
    blocks, before = clip.visual.transformer.resblocks, None
    for layer, block, tokens in zip(layers, blocks, expected["image_intermediates"], strict=True):
        torch.testing.assert_close(layer.tokens, tokens)
        if before is not None:
            projected = block.ln_1(before) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
            parts = torch.cat([part.flatten(2) for part in layer[:3]], dim=2)
            torch.testing.assert_close(parts, projected)
            assert layer.key.shape == (4, 16, block.attn.num_heads, 16)
        before = tokens


@torch.no_grad()
def test_the_spatial_module_means_the_tokens_whose_keys_are_like_a_query():
    module, keys, tokens = SideLayer(6, 2, 2, 3, 5).double(), draw(4, 9, 6), draw(4, 9, 6, seed=1)
    found = module.spatial(keys, tokens, 2)
    expected = torch.zeros(2, 6, dtype=torch.float64)
    for frame in range(4):
        for query in module.queries:
            shares = softmax([100 * cosine(query, key) for key in keys[frame]])
            expected[frame // 2] += sum(s * t for s, t in zip(shares, tokens[frame], strict=True)) / (2 * 3)
    torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_the_temporal_module_reads_the_likeness_of_each_place_in_each_two_frames():
    frames, heads, grid = 3, 2, 3
    module = SideLayer(6, heads, frames, 1, 5).double()
    for parameter in module.parameters():
        parameter.copy_(torch.randn_like(parameter))
    parts = [draw(2 * frames, grid**2, heads, 3, seed=seed) for seed in range(3)]
    found = module.temporal(tuple(parts), 2)
    mixed = torch.zeros(2, frames**2, grid, grid, dtype=torch.float64)
    for clip in range(2):
        for place in range(grid**2):
            maps = torch.zeros(3 * heads, frames, frames, dtype=torch.float64)
            for number, part in enumerate(parts):
                for head in range(heads):
                    own = part[clip * frames : clip * frames + frames, place, head]
                    for i in range(frames):
                        scores = [(own[i] @ own[j]).item() / math.sqrt(3) for j in range(frames)]
                        maps[number * heads + head, i] = torch.tensor(softmax(scores), dtype=torch.float64)
            line = module.over_time(maps[None]).flatten()
            mixed[clip, :, place // grid, place % grid] = line + module.mix(line)
    torch.testing.assert_close(found, module.over_places(mixed).flatten(1))
    layer = Layer(*parts, tokens=parts[0].flatten(2))
    torch.testing.assert_close(module(layer, 2)[1], found)
    torch.testing.assert_close(module(layer, 2)[0], module.spatial(parts[1].flatten(2), layer.tokens, 2))


def test_the_focal_loss_holds_the_logarithm_in_its_range():
    logits = torch.tensor([[0.0, 0.5], [1.0, 0.0], [0.0, 9.0], [9.0, 0.0]], requires_grad=True)
    labels = torch.tensor([1, 1, 1, 1])
    expected = 0.0
    for real, fake in logits.tolist():
        log_right = min(max(-math.log1p(math.exp(real - fake)), -5), -0.01)
        expected -= (1 - math.exp(log_right)) ** 4 * log_right / 4
    loss = focal_loss(logits, labels, 4)
    loss.backward()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert logits.grad.abs().sum(dim=1).bool().tolist() == [True, True, False, False]


@torch.no_grad()
def test_the_score_is_the_mean_of_three_classifiers_which_all_learn():
    detector = make().eval()
    output = detector(CLIPS, LABELS)
    space, time = detector.s_ln(output.features[:, :32]), detector.t_ln(output.features[:, 32:])
    each = [detector.s_head(space), detector.t_head(time), detector.a_head(torch.cat([space, time], dim=1))]
    mean = sum(logits.softmax(dim=1)[:, 1] for logits in each) / 3
    torch.testing.assert_close(output.scores, (mean + 1e-4) / (1 + 2e-4))
    focal = sum(focal_loss(logits, LABELS, 4) for logits in each) / 3
    torch.testing.assert_close(output.losses["total"], 10 * focal)


def test_clips_and_towers_that_do_not_fit_are_named():
    with pytest.raises(UserError, match=r"dfd_fcg expected clips of 4 frames, got 3; set model\.frames and input"):
        make()(torch.zeros(1, 3, 3, 32, 32))
    with pytest.raises(UserError, match=r"this CLIP expected images of \(32, 32\), got \(40, 40\)"):
        make()(torch.zeros(1, 4, 3, 40, 40))
    with pytest.raises(UserError, match="dfd_fcg: expected a ViT of open_clip"):
        create_detector("dfd_fcg", **TINY_RESNET)


# --- Facial components -----------------------------------------------------------------------------------------------


def test_components_are_at_the_landmarks():
    many = torch.arange(2 * 81.0).view(1, 81, 2) % 32
    lips, skin, eyes, nose = component_points(many, 32)
    numbered = 2 * many[0] / 32 - 1
    assert torch.equal(lips[0], numbered[[61, 62, 63, 65, 66, 67]]) and torch.equal(skin[0], numbered[:17])
    assert torch.equal(eyes[0], numbered[36:48]) and torch.equal(nose[0], numbered[27:31])
    lips, skin, eyes, nose = ((place[0] + 1) * 16 for place in component_points(FACE[None], 32))
    assert torch.equal(lips, FACE[3:]) and torch.equal(eyes, FACE[:2]) and torch.equal(nose, FACE[2:3])
    torch.testing.assert_close(skin, torch.tensor([[10.0, 18.0], [21.5, 19.0]]))
    with pytest.raises(UserError, match="expected 5 landmarks or at least 68, got 20"):
        component_points(torch.zeros(1, 20, 2), 32)


def test_points_count_for_the_patch_they_lie_on_and_not_outside():
    points = [torch.tensor([[[-0.99, -0.99], [-0.9, -0.8], [0.1, 0.6]]]), torch.tensor([[[1.01, 0.0], [0.99, -0.01]]])]
    found = on_patches(points, 4)
    expected = torch.zeros(1, 2, 16, dtype=torch.long)
    expected[0, 0, 0], expected[0, 0, 3 * 4 + 2], expected[0, 1, 4 + 3] = 2, 1, 1
    assert torch.equal(found, expected)


def test_points_stay_on_what_they_mark_in_a_random_view():
    torch.manual_seed(0)
    places = torch.rand(40, 1, 2) - 0.5
    centres = (torch.arange(64) + 0.5) / 32 - 1
    away = (centres[None, None, :] - places[:, :, :1]) ** 2 + (centres[None, :, None] - places[:, :, 1:]) ** 2
    views, (found,) = random_views((-away / 0.005).exp()[:, None].expand(-1, 3, -1, -1), [places])
    inside = (found.abs() < 0.9).all(dim=-1)[:, 0]
    assert inside.sum() > 20
    brightest = views[:, 0].flatten(1).argmax(dim=1)
    seen = torch.stack([centres[brightest % 64], centres[brightest // 64]], dim=1)
    assert (seen - found[:, 0])[inside].abs().max() < 0.05
    assert (found[:, 0] - places[:, 0]).abs().max() > 0.5


@torch.no_grad()
def test_keys_at_the_landmarks_of_real_frames_become_queries_and_fakes_do_not_count(monkeypatch):
    monkeypatch.setattr(facial_components, "random_views", lambda pictures, points: (pictures, list(points)))
    detector = make(guidance=1.5).train()
    detector.gathering = 2
    detector(CLIPS, LABELS, landmarks=LANDMARKS)
    at = {"lips": [3 * 4 + 1, 3 * 4 + 2], "skin": [2 * 4 + 1, 2 * 4 + 2], "eyes": [4 + 1, 4 + 2], "nose": [2 * 4 + 1]}
    real = CLIPS[LABELS == 0].flatten(0, 1)
    for number, layer in enumerate(clip_layers(detector.clip, real)):
        keys = nn.functional.normalize(layer.key.flatten(2), dim=-1)
        expected = torch.stack([keys[:, at[name]].flatten(0, 1).mean(dim=0) for name in COMPONENTS])
        torch.testing.assert_close(detector.layers[number].queries.data, expected)
        torch.testing.assert_close(detector.component_keys.means()[number], expected)
    before = detector.component_keys.means()
    detector.start_step(1, torch.zeros(6))
    detector(CLIPS.flip(0), LABELS, landmarks=LANDMARKS)
    assert not torch.equal(detector.component_keys.means(), before)
    before = detector.component_keys.means()
    detector.start_step(2, torch.zeros(6))
    detector(CLIPS, LABELS, landmarks=LANDMARKS)
    detector.eval().start_step(0, torch.zeros(6))
    detector(CLIPS, LABELS, landmarks=LANDMARKS)
    assert torch.equal(detector.component_keys.means(), before)


def test_guidance_asks_each_query_for_its_own_component():
    queries, components = draw(2, 4, 6), draw(2, 4, 6, seed=1)
    expected = 0.0
    for layer in range(2):
        for own in range(4):
            scores = [30 * cosine(queries[layer, own], components[layer, other]) for other in range(4)]
            expected -= math.log(softmax(scores)[own]) / 8
    assert component_loss(queries, components).item() == pytest.approx(expected, rel=1e-3)  # they add 1e-4 to norms
    detector = make(guidance=1.5).train()
    losses = detector(CLIPS, LABELS, landmarks=LANDMARKS).losses
    torch.testing.assert_close(losses["total"], 10 * losses["focal"] + 1.5 * losses["guidance"])
    assert detector.requires == {"landmarks"} and make().requires == frozenset()


def test_a_file_of_components_takes_the_place_of_landmarks(tmp_path):
    made = {name: torch.randn(2, 32) for name in COMPONENTS}
    torch.save(made, tmp_path / "made.pth")
    detector = create_detector("dfd_fcg", **{**tiny("dfd_fcg"), "guidance": 1.5}, components=str(tmp_path / "made.pth"))
    assert not detector.requires
    for number, layer in enumerate(detector.layers):
        assert torch.equal(layer.queries, torch.stack([made[name][number] for name in COMPONENTS]))
    assert "guidance" in detector(CLIPS, LABELS).losses
    torch.save({**made, "eyes": torch.zeros(2, 31)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"other\.pth: expected a tensor eyes of \[2, 32\].*got \[2, 31\]"):
        detector.component_keys.read(str(tmp_path / "other.pth"))
    torch.save({"lips": made["lips"]}, tmp_path / "less.pth")
    with pytest.raises(UserError, match=r"less\.pth: expected a tensor skin of \[2, 32\].*got none"):
        detector.component_keys.read(str(tmp_path / "less.pth"))


@torch.no_grad()
def test_the_names_of_the_authors_code_are_read():
    source, other = make(guidance=1.5).eval(), make().eval()
    names = {"queries": "syno_embedding", "over_time": "t_conv", "mix": "t_proj", "over_places": "p_conv"}
    theirs = {}
    for key, value in source.state_dict().items():
        value = value + 0.1 if value.is_floating_point() else value
        if key.startswith("clip.visual."):
            theirs[f"model.encoder.model.{key.removeprefix('clip.visual.')}"] = value
        elif key.startswith("layers."):
            _, number, part, *rest = key.split(".")
            theirs[".".join(["model.encoder.decoder.decoder_layers", number, names[part], *rest])] = value
        elif key[:2] in ("s_", "t_", "a_"):
            theirs[f"model.{key}"] = value
    assert other.load_foreign(theirs) == "checkpoint of the method's authors"
    for key, value in source.state_dict().items():
        if not key.startswith(("clip.logit_scale", "clip.quick_gelu", "component_keys.")):
            torch.testing.assert_close(other.state_dict()[key], value + 0.1)
    assert bool(other.clip.quick_gelu)
