"""StA: adapters that start without effect, a frozen image network, and streams of which one sees order. Convolutions of
pictures and of lines, attention by softmax, and timm's own network are the oracles."""

import copy

import pytest
import timm
import torch
from tiny import tiny
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.parts.spatiotemporal_adapter import SpatiotemporalAdapter

CLIPS = torch.randn(3, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 1])


def make(**keywords):
    torch.manual_seed(0)
    return create_detector("sta", **{**tiny("sta"), **keywords}).eval()


def noisy(module, scale: float = 0.3):
    """The module with noise on its weights and statistics, so that none is 0 or like another."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in module.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator, dtype=value.dtype) * scale
                value.add_(noise.abs() if name.endswith("running_var") else noise)
    return module


@torch.no_grad()
def test_the_untrained_network_is_the_mean_of_the_image_networks_class_tokens_after_some_blocks(tmp_path):
    options = {**tiny("sta")["options"], "depth": 3}
    torch.manual_seed(3)
    images = timm.create_model(tiny("sta")["backbone"], num_classes=0, **options).eval()
    torch.save(images.state_dict(), tmp_path / "vit.pth")
    detector = make(pretrained=str(tmp_path / "vit.pth"), options=options, layers=2)
    ((_, tokens),) = images.forward_intermediates(
        CLIPS.flatten(0, 1), indices=[1], norm=True, return_prefix_tokens=True, intermediates_only=True
    )
    expected = tokens[:, 0].unflatten(0, (3, 4)).mean(dim=1)
    torch.testing.assert_close(detector.encode(CLIPS), expected, atol=1e-5, rtol=1e-5)
    assert len(make(options=options, layers=None).adapters) == 3


def test_training_moves_adapters_marks_and_the_last_norm_and_leaves_the_image_network():
    detector = make().train()
    before = copy.deepcopy(detector.state_dict())
    parameters = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(parameters, 1e-2)
    for _ in range(2):  # the adapters' inner layers get a gradient as soon as the last one is not 0
        optimizer.zero_grad()
        detector(CLIPS, LABELS).losses["total"].backward()
        optimizer.step()
    moved = {name for name, value in detector.state_dict().items() if not torch.equal(value, before[name])}
    assert {name for name in moved if name.startswith("backbone.")} == {"backbone.norm.weight", "backbone.norm.bias"}
    parts = ("down", "spatial.0.0", "spatial.1.0", "temporal.0.0", "temporal.1.0", "up")
    assert {f"adapters.0.{part}.weight" for part in parts} <= moved
    assert {f"adapters.0.{part}.in_proj_weight" for part in ("time_asks_space", "space_asks_time")} <= moved
    assert {"time_embed", "classifier.1.weight"} <= moved


@torch.no_grad()
def test_the_order_of_frames_counts_through_the_temporal_stream_and_the_marks_alone():
    detector, shuffled = noisy(make()), CLIPS[:, [2, 0, 3, 1]]
    detector.time_embed.zero_()

    def apart():
        forwards = detector.encode(CLIPS)
        return ((forwards - detector.encode(shuffled)).abs().max() / forwards.abs().max()).item()

    assert apart() > 1e-3
    for adapter in detector.adapters:
        for branch in adapter.temporal:
            branch[-1].weight.zero_()  # the last normalisation: the stream then is its input
    assert apart() < 1e-5
    detector.time_embed.normal_(generator=torch.Generator().manual_seed(2))
    assert apart() > 1e-3


def _normalised(norm, x):
    shape = (-1, *[1] * (x.ndim - 2))
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (x - norm.running_mean.view(shape)) * scale.view(shape) + norm.bias.view(shape)


def _stream(branches, x, in_space):
    """A stream of one clip, [T, C, G, G]: pictures are convolved one by one, or the line of frames at each place."""
    found = torch.zeros_like(x)
    for branch in branches:
        y = x if in_space else x.permute(2, 3, 1, 0).flatten(0, 1)  # [G G, C, T]
        for place in range(0, len(branch), 3):
            convolution, norm = branch[place], branch[place + 1]
            size = max(convolution.kernel_size)
            convolve, weight = (
                (F.conv2d, convolution.weight[:, :, 0]) if in_space else (F.conv1d, convolution.weight[..., 0, 0])
            )
            y = _normalised(norm, convolve(y, weight, convolution.bias, padding=size // 2, groups=x.shape[1]))
            if place + 3 < len(branch):
                y = y.relu()
        found += y if in_space else y.unflatten(0, x.shape[2:]).permute(3, 2, 0, 1)
    return x + found / len(branches)


def _attended(attention, asking, asked):
    """[N, C] each -> [N, C], head by head."""
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (F.linear(x, w, b) for x, w, b in zip((asking, asked, asked), weights, biases, strict=True))
    side = q.shape[1] // attention.num_heads
    heads = [
        (q[:, at : at + side] @ k[:, at : at + side].T / side**0.5).softmax(dim=1) @ v[:, at : at + side]
        for at in range(0, q.shape[1], side)
    ]
    return attention.out_proj(torch.cat(heads, dim=1))


@torch.no_grad()
def test_an_adapter_is_two_streams_of_convolutions_that_attend_to_each_other():
    torch.manual_seed(0)
    adapter = noisy(SpatiotemporalAdapter(10, 4, (3, 5), 2).double().eval())
    tokens = torch.randn(2 * 3, 1 + 6, 10).double()
    expected = []
    for clip in tokens.unflatten(0, (2, 3)):
        inner = F.gelu(adapter.down(clip))
        volume = inner[:, 1:].transpose(1, 2).unflatten(2, (2, 3))
        space, time = (
            _stream(branches, volume, in_space).flatten(2).transpose(1, 2).flatten(0, 1)
            for branches, in_space in ((adapter.spatial, True), (adapter.temporal, False))
        )
        both = (_attended(adapter.time_asks_space, time, space) + _attended(adapter.space_asks_time, space, time)) / 2
        inner = torch.cat([inner[:, :1], F.gelu(both).unflatten(0, (3, 6))], dim=1)
        expected.append(clip + F.gelu(adapter.up(inner)))
    torch.testing.assert_close(adapter(tokens, 3, (2, 3)), torch.cat(expected), atol=1e-10, rtol=1e-10)


def _as_the_authors_name_it(detector) -> dict:
    """A tiny detector's tensors in the naming of the authors' checkpoints."""
    names = {
        "patch_embed.proj": "conv1", "norm_pre": "ln_pre", "norm": "ln_post", "cls_token": "class_embedding",
        "pos_embed": "positional_embedding",
    }  # fmt: skip
    found = {}
    for key, value in detector.state_dict().items():
        part, *rest = key.split(".")
        if part == "time_embed":
            found["backbone.temporal_embedding"] = value[:, :, 0]
        elif part == "classifier":
            found[f"head.fc_cls.{rest[-1]}"] = value
        elif part == "adapters":
            number, layer, *inner = rest
            if layer in ("spatial", "temporal"):
                place = int(inner[1])
                kind = "bn" if place % 3 else "conv"
                inner = [f"{layer[0]}_conv{int(inner[0]) + 1}", f"{kind}{place // 3 + 1}", *inner[2:]]
            elif "asks" in layer:
                first = "spatial_to_temporal" if layer == "time_asks_space" else "temporal_to_spatial"
                inner = ["cross_attention", first, *inner]
            else:
                inner = [layer, *inner]
            found[".".join(["backbone.transformer.resblocks", number, "Adapter", *inner])] = value
        elif rest[0] == "blocks":
            inner = ".".join(rest[2:]).replace("norm", "ln_").replace("attn.proj", "attn.out_proj")
            inner = inner.replace("qkv.", "in_proj_").replace("fc1", "c_fc").replace("fc2", "c_proj")
            found[f"backbone.transformer.resblocks.{rest[1]}.{inner}"] = value
        else:
            name = ".".join(rest)
            first = next(theirs for ours, theirs in names.items() if name == ours or name.startswith(f"{ours}."))
            value = value.flatten() if first == "class_embedding" else value[0] if first[:3] == "pos" else value
            found[f"backbone.{first}{'.' + rest[-1] if rest[-1] in ('weight', 'bias') else ''}"] = value
    return {key: value.clone() for key, value in found.items()}


@torch.no_grad()
def test_a_checkpoint_in_the_authors_naming_loads_and_scores_as_the_network_it_is_of():
    source, detector = noisy(make()), make()
    state = _as_the_authors_name_it(source)
    assert {"backbone.transformer.resblocks.1.Adapter.t_conv2.bn3.running_mean", "backbone.conv1.weight"} <= set(state)
    assert detector.load_foreign({f"module.{key}": value for key, value in state.items()}) == (
        "checkpoint of the method's authors"
    )
    assert torch.equal(detector(CLIPS).scores, source(CLIPS).scores)
    del state["backbone.transformer.resblocks.1.Adapter.up.bias"]
    with pytest.raises(UserError, match=r"adapters\.1\.up\.bias .*missing"):
        make().load_foreign(state)


@pytest.mark.slow
def test_activations_can_be_computed_again_without_changing_gradients_or_statistics():
    found = []
    for again in (False, True):
        detector = noisy(make().double()).train()
        if again:
            detector.checkpoint_activations()
        detector(CLIPS.double(), LABELS).losses["total"].backward()
        gradients = [parameter.grad for parameter in detector.parameters() if parameter.requires_grad]
        found.append([*gradients, *(b for name, b in detector.named_buffers() if "running" in name)])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(two, one, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize(
    ("keywords", "match"),
    [
        ({"kernels": [3, 4]}, r"expected kernels of odd sizes, got \[3, 4\]; set model\.kernels"),
        ({"kernels": []}, "expected kernels of odd sizes"),
        ({"heads": 3}, "expected channels in a multiple of 3 heads, got 8"),
        ({"layers": 5}, r"expected layers of at most 2, got 5; set model\.layers"),
        ({"backbone": "test_resnet", "options": {}}, "expected a ViT of timm with a class token, got test_resnet"),
    ],
)
def test_settings_that_make_no_network_are_named(keywords, match):
    with pytest.raises(UserError, match=f"sta: {match}"):
        make(**keywords)


def test_clips_of_another_length_are_refused():
    with pytest.raises(UserError, match=r"sta expected clips of 4 frames, got 3; set model\.frames and input\.frames"):
        make()(CLIPS[:, :3])
