"""Detectors of clips on image networks, with attention, messages or differences over time: STIL, TALL, TimeSformer,
VideoMAE and X-CLIP. Slow loops, plain image networks and Hugging Face's networks are their oracles."""

import json
import math

import pytest
import torch
from tiny import quick_and_slow, tiny
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.parts.stil_network import LearntShift, TemporalInconsistency
from resproto_fd.detectors.parts.tube_encoder import sinusoids
from resproto_fd.detectors.tall import masked, thumbnail
from resproto_fd.detectors.weights import without_pretrained

CLIPS = torch.randn(3, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
NAMES = ["stil", "tall", "timesformer", "videomae", "xclip"]
NO_EFFECT = {"tall": (".relative_position_index", ".attn_mask"), "xclip": ("position_ids",)}
"""Ends of the names of tensors that follow from the network's sizes."""


def make(name: str, **keywords):
    torch.manual_seed(0)
    return create_detector(name, **{**tiny(name), **keywords}).eval()


def noisy(module, scale: float = 0.05):
    """The module with noise on its weights, so that none is 0 or like another."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return module


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_order_of_a_clips_frames_counts(name):
    detector = noisy(make(name), 0.05 if name == "stil" else 0.3)
    forwards, shuffled = detector.encode(CLIPS), detector.encode(CLIPS[:, [2, 0, 3, 1]])
    assert type(detector).clips
    assert (forwards - shuffled).abs().max() > 1e-3 * forwards.abs().max()


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("name", NAMES)
def test_every_key_of_deepfakebenchs_checkpoint_with_an_effect_has_one_place(parity, name):
    keys = json.loads((parity[0] / "keys" / f"{name}.json").read_text())
    effective = [key for key, _, _ in keys if not key.endswith(NO_EFFECT.get(name, ("none",)))]
    with torch.device("meta"), without_pretrained():
        detector = create_detector(name)
        named = detector.from_deepfakebench({key: torch.empty(shape) for key, shape, _ in keys})
    named.pop("backbone.embeddings.position_ids", None)  # loading leaves it out
    assert set(named) == set(detector.state_dict())
    assert sum(value.numel() for value in named.values()) == sum(
        math.prod(shape) for key, shape, _ in keys if key in effective
    )


@pytest.mark.parametrize(
    ("name", "frames", "match"),
    [
        ("stil", 6, r"stil expected clips of 4 frames, got 6; set model\.frames and input\.frames to the same"),
        ("timesformer", 8, r"timesformer expected clips of 4 frames, got 8; set model\.frames and input\.frames"),
        ("tall", 2, r"tall expected clips of 4 frames, got 2; set input\.frames=4"),
        ("xclip", 3, r"xclip expected clips of a multiple of 2 frames, got 3; set input\.frames .*model\.group"),
        (
            "videomae",
            5,
            r"videomae expected clips .*multiples of \(2, 8, 8\), got \(5, 32, 32\); set input\.frames",
        ),
    ],
)
def test_a_clip_of_another_length_is_refused_by_name(name, frames, match):
    with pytest.raises(UserError, match=match):
        make(name)(torch.zeros(1, frames, 3, 32, 32))


# --- STIL ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_stils_temporal_module_is_that_of_slices_of_time_and_one_side():
    """The paper's module looks at pictures of height and time, one for each column, and of time and width."""
    torch.manual_seed(0)
    module, few, frames = noisy(TemporalInconsistency(32, 4)).double().eval(), 2, 4
    for norm in module.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.uniform_(-0.5, 0.5)
            norm.running_var.uniform_(0.5, 1.5)
    x = torch.randn(2 * frames, 32, 7, 6).double()
    z = module.bn1(module.conv1(x)).unflatten(0, (2, frames))
    gates = []
    for side, ahead, coarse, fine, up in (
        (0, module.conv_ht, module.htie_conv1, module.htie_conv2, module.ht_up_conv),
        (1, module.conv_tw, module.vtie_conv1, module.vtie_conv2, module.tw_up_conv),
    ):
        gate = torch.zeros(2, frames, 32, 7, 6).double()
        for clip in range(2):
            for line in range((6, 7)[side]):
                picture = z[clip, ..., line] if side == 0 else z[clip, ..., line, :]  # [t, R, length]
                picture = picture.permute(1, 2, 0)[None]  # [1, R, length, t]
                following = F.conv2d(picture, ahead.weight.reshape(few, 1, 3, 1), padding=(1, 0), groups=few)
                change = torch.zeros_like(picture)
                change[..., :-1] = following[..., 1:] - picture[..., :-1]
                small = F.avg_pool2d(change, (2, 1))
                small = _line_convolution(coarse, small)
                wide = F.interpolate(small, change.shape[-2:], mode="nearest")
                read = up((change + wide + _line_convolution(fine, change)) / 3).sigmoid() - 0.5
                target = gate[clip, ..., line] if side == 0 else gate[clip, ..., line, :]
                target.copy_(read[0].permute(2, 0, 1))
        gates.append(gate.flatten(0, 1))
    torch.testing.assert_close(module(x), x + x * 0.5 * (gates[0] + gates[1]))


def _line_convolution(layers, picture):
    convolution, norm = layers
    weight = convolution.weight.flatten(2)[..., None]
    return norm(F.conv2d(picture, weight, padding=(1, 0)))


@torch.no_grad()
def test_stil_starts_with_a_shift_of_two_eighths_of_the_channels():
    x = torch.randn(2 * 5, 16, 2, 3)
    clips, found = x.unflatten(0, (2, 5)), LearntShift(16, 5)(x).unflatten(0, (2, 5))
    expected = clips.clone()
    expected[:, :, :4] = 0
    expected[:, :-1, :2] = clips[:, 1:, :2]
    expected[:, 1:, 2:4] = clips[:, :-1, 2:4]
    torch.testing.assert_close(found, expected)


def test_stil_starts_from_a_file_of_scnets_weights_and_keeps_its_own_modules(tmp_path):
    other = make("stil").backbone
    scnet = {key: torch.full_like(value, 0.5) for key, value in other.state_dict().items() if ".tim." not in key}
    scnet = {key: v for key, v in scnet.items() if not any(p in key for p in (".ism.", ".shift.", ".f_w.", ".f_h."))}
    scnet |= {"fc.weight": torch.zeros(1000, 128), "layer1.0.scconv.k2.1.weight": torch.zeros(8, 8, 3, 3)}
    torch.save(scnet, tmp_path / "scnet.pth")
    state = make("stil", pretrained=str(tmp_path / "scnet.pth")).backbone.state_dict()
    assert (state["layer2.0.scconv.k3.0.weight"] == 0.5).all() and (state["layer4.0.k1.0.weight"] == 0.5).all()
    assert torch.equal(state["layer1.0.tim.conv1.weight"], other.state_dict()["layer1.0.tim.conv1.weight"])
    del scnet["conv1.0.weight"]
    torch.save(scnet, tmp_path / "scnet.pth")
    with pytest.raises(UserError, match=r"scnet\.pth does not fit ResNet: conv1\.0\.weight .* is missing"):
        make("stil", pretrained=str(tmp_path / "scnet.pth"))


# --- TALL ------------------------------------------------------------------------------------------------------------


def test_talls_picture_has_the_frames_row_by_row():
    picture = thumbnail(CLIPS)
    assert picture.shape == (3, 3, 64, 64)
    for frame, (top, left) in enumerate([(0, 0), (0, 32), (32, 0), (32, 32)]):
        assert torch.equal(picture[:, :, top : top + 32, left : left + 32], CLIPS[:, frame])


def test_tall_masks_one_square_in_all_frames_of_a_clip_and_others_in_other_clips():
    torch.manual_seed(0)
    hidden = masked(torch.ones(64, 4, 3, 32, 32), 16) == 0
    assert (hidden == hidden[:, :1, :1]).all()
    one = hidden[:, 0, 0]
    rows, columns = one.any(dim=2).sum(dim=1), one.any(dim=1).sum(dim=1)
    assert torch.equal(one.sum(dim=(1, 2)), rows * columns)
    assert rows.max() == columns.max() == 16 and rows.min() >= 8 and columns.min() >= 8
    assert len({tuple(each.nonzero()[0].tolist()) for each in one}) > 20


@torch.no_grad()
def test_tall_masks_in_training_alone():
    detector = make("tall", mask=16).eval()
    assert torch.equal(detector.encode(CLIPS), make("tall").encode(CLIPS))
    detector.train()
    assert not torch.equal(detector.encode(CLIPS), detector.encode(CLIPS))


@pytest.mark.slow
def test_talls_windows_of_a_file_of_swins_own_windows_are_resized(tmp_path):
    import timm

    sizes = {"img_size": 64, "embed_dim": 16, "depths": [2, 1], "num_heads": [2, 2]}
    model = timm.create_model("swin_base_patch4_window7_224", window_size=4, **sizes)
    torch.save(model.state_dict(), tmp_path / "swin.pth")
    options = {**sizes, "window_size": 4}
    detector = make("tall", pretrained=str(tmp_path / "swin.pth"), options=options, window=8)
    table = detector.backbone.layers[0].blocks[0].attn.relative_position_bias_table
    assert table.shape == (15 * 15, 2)
    before = model.layers[0].blocks[0].attn.relative_position_bias_table
    torch.testing.assert_close(table.view(15, 15, 2)[7, 7], before.view(7, 7, 2)[3, 3])
    assert detector.encode(torch.zeros(1, 4, 3, 64, 64)).shape == (1, 32)


# --- TimeSformer, X-CLIP ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_timesformer_starts_as_the_image_network_for_a_clip_of_one_repeated_frame():
    detector = make("timesformer")
    still = CLIPS[:, :1].expand(-1, 4, -1, -1, -1)
    expected = detector.backbone(CLIPS[:, 0])
    torch.testing.assert_close(detector.encode(still), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(noisy(detector).encode(CLIPS), detector.backbone(CLIPS[:, 0]), atol=1e-3)


@torch.no_grad()
def test_xclips_messages_stay_within_a_group():
    detector = noisy(make("xclip"), 0.3)
    expected = detector.encode(CLIPS)
    torch.testing.assert_close(detector.encode(CLIPS[:, [2, 3, 0, 1]]), expected)
    assert not torch.allclose(detector.encode(CLIPS[:, [0, 2, 1, 3]]), expected, atol=1e-3)


@pytest.mark.parametrize("name", quick_and_slow(NAMES, ["videomae"]))
def test_activations_can_be_computed_again_without_changing_gradients(name):
    gradients = []
    for again in (False, True):
        detector = make(name).double().train()
        if again:
            detector.checkpoint_activations()
        detector(CLIPS.double(), torch.tensor([0, 1, 1])).losses["total"].backward()
        gradients.append([parameter.grad for parameter in detector.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(two, one, atol=1e-12, rtol=0)


# --- VideoMAE --------------------------------------------------------------------------------------------------------


def test_positions_are_sines_and_cosines_in_turn():
    found = sinusoids(5, 8, torch.device("cpu"))
    for place in range(5):
        for unit in range(8):
            angle = place / 10000 ** (2 * (unit // 2) / 8)
            expected = math.cos(angle) if unit % 2 else math.sin(angle)
            assert found[place, unit].item() == pytest.approx(expected, abs=1e-12)


def _as_published(detector) -> dict:
    """Weights of a tiny VideoMAE in the naming of version 4 of Hugging Face's library."""
    found = {}
    for key, value in detector.backbone.state_dict().items():
        key = key.replace("blocks.", "encoder.layer.").replace(
            "patch_embed.", "embeddings.patch_embeddings.projection."
        )
        key = key.replace(".attn.proj.", ".attention.output.dense.").replace(".attn.", ".attention.attention.")
        key = key.replace(".norm1.", ".layernorm_before.").replace(".norm2.", ".layernorm_after.")
        key = key.replace(".mlp.fc1.", ".intermediate.dense.").replace(".mlp.fc2.", ".output.dense.")
        if ".qkv." in key:
            for part, rows in zip(("query", "key", "value"), value.chunk(3)):
                found[key.replace("qkv", part)] = rows
        else:
            found[key] = value
    return {f"videomae.{key}": value.clone() for key, value in found.items()}


def test_videomae_reads_the_encoder_of_a_published_file_and_leaves_the_decoder(tmp_path):
    source = noisy(make("videomae"))
    state = _as_published(source) | {"decoder.head.bias": torch.zeros(3), "mask_token": torch.zeros(1, 1, 8)}
    torch.save(state, tmp_path / "videomae.pth")
    detector = make("videomae", pretrained=str(tmp_path / "videomae.pth"))
    assert torch.equal(detector.backbone(CLIPS), source.backbone(CLIPS))
    del state["videomae.encoder.layer.1.attention.attention.key.weight"]
    torch.save(state, tmp_path / "videomae.pth")
    with pytest.raises(UserError, match=r"videomae\.pth does not fit TubeEncoder: blocks\.1\.attn\.qkv\.weight"):
        make("videomae", pretrained=str(tmp_path / "videomae.pth"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timesformer", "videomae", "xclip"])
@torch.no_grad()
def test_the_networks_are_those_of_the_library_that_deepfakebench_uses(name):
    """Tiny networks of Hugging Face's library, whose weights load under their own names of either version."""
    library = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    sizes |= {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    if name == "timesformer":
        config = library.TimesformerConfig(num_frames=4, layer_norm_eps=1e-6, **sizes)
        network, prefix = library.TimesformerModel(config), "backbone."
    elif name == "videomae":
        config = library.VideoMAEConfig(num_frames=4, use_mean_pooling=True, **sizes)
        network, prefix = library.VideoMAEModel(config), "backbone."
    else:
        config = library.XCLIPVisionConfig(num_frames=2, drop_path_rate=0.0, **sizes)
        network, prefix = library.XCLIPVisionModel(config), "backbone."
    network = noisy(network).eval()
    detector = noisy(make(name))
    own = detector.state_dict()
    state = {prefix + key: value for key, value in network.state_dict().items()}
    head = "classifier." if name == "videomae" else "classifier.1."
    state |= {f"head.{part}": own[head + part] for part in ("weight", "bias")}
    state |= {f"fc_norm.{part}": own[f"norm.{part}"] for part in ("weight", "bias") if name != "timesformer"}
    detector.load_deepfakebench(state)
    if name == "xclip":
        pooled = network(CLIPS.flatten(0, 1)).pooler_output.unflatten(0, (3, 4)).mean(dim=1)
    else:
        hidden = network(CLIPS).last_hidden_state
        pooled = hidden[:, 0] if name == "timesformer" else hidden.mean(dim=1)
    expected = pooled if name == "timesformer" else detector.norm(pooled)
    torch.testing.assert_close(detector.encode(CLIPS), expected, atol=1e-5, rtol=1e-5)
