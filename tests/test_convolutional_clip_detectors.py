"""Detectors of clips with convolutions over time: I3D, AltFreezing, FTCN and LipForensics."""

import json

import numpy as np
import pytest
import torch
from made import PlainStep
from tiny import tiny
from torch import nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.weights import without_pretrained
from resproto_fd.preprocessing.faces.alignment import crop_template

CLIPS = torch.randn(3, 4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 1])
NAMES = ["i3d", "altfreezing", "ftcn", "lipforensics"]


def make(name: str, **keywords):
    torch.manual_seed(0)
    return create_detector(name, **{**tiny(name), "pretrained": None, **keywords})


@pytest.mark.parametrize("name", NAMES)
def test_a_clip_has_one_logit_whose_sigmoid_is_the_score_and_whose_loss_is_binary(name):
    detector = make(name).eval()
    with torch.no_grad():
        output = detector(CLIPS, LABELS)
        logit = detector.classifier(detector.encode(CLIPS))[:, 0]
    torch.testing.assert_close(output.scores, logit.sigmoid())
    expected = F.binary_cross_entropy_with_logits(logit, LABELS.float())
    torch.testing.assert_close(output.losses["total"], expected)
    assert output.features.shape[0] == 3 and type(detector).clips


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_a_clips_frames_counts(name):
    detector = make(name).eval()
    with torch.no_grad():
        forwards, shuffled = detector(CLIPS).scores, detector(CLIPS[:, [2, 0, 3, 1]]).scores
    assert not torch.allclose(forwards, shuffled, atol=1e-7, rtol=1e-6)


@pytest.mark.real
@pytest.mark.parametrize("name", ["i3d", "altfreezing", "ftcn"])
def test_every_key_of_deepfakebenchs_checkpoint_has_one_place(parity, name):
    keys = json.loads((parity[0] / "keys" / f"{name}.json").read_text())
    with torch.device("meta"), without_pretrained():
        detector = create_detector(name)
        named = detector.from_deepfakebench({key: torch.empty(shape) for key, shape, _ in keys})
    assert len(named) == len(keys)
    assert {key: value.shape for key, value in named.items()} == {
        key: value.shape for key, value in detector.state_dict().items()
    }


@pytest.mark.slow
@pytest.mark.real
def test_ftcns_tokens_are_deepfakebenchs(parity):
    folder, recipe = parity
    keys = json.loads((folder / "keys" / "ftcn.json").read_text())
    golden = json.loads((folder / "golden" / "ftcn_seed1.json").read_text())["eval"]["feat"]
    detector = create_detector("ftcn")
    detector.load_deepfakebench({k: torch.from_numpy(np.array(v)) for k, v in recipe.fill(keys, 1).items()}).eval()
    with torch.no_grad():
        clips = torch.from_numpy(recipe.images(1, 32, 224)).unflatten(0, (2, 16))
        tokens = detector.tokens(clips).transpose(1, 2).double()
    assert list(tokens.shape) == golden["shape"][:3]
    assert tokens.mean().item() == pytest.approx(golden["mean"], rel=4e-6)
    assert tokens.std(correction=0).item() == pytest.approx(golden["std"], rel=4e-6)
    assert tokens.flatten()[:8].tolist() == pytest.approx(golden["first"], rel=1e-5)


# I3D and AltFreezing


def kinetics(detector) -> dict[str, torch.Tensor]:
    """A backbone's tensors under the names of SlowFast's authors."""
    found = {}
    for key, value in detector.backbone.state_dict().items():
        *where, part, kind, tensor = key.split(".")
        norm = "_bn" if kind == "norm" else ""
        if part == "stem":
            found[f"s1.pathway0_stem.{'bn' if norm else 'conv'}.{tensor}"] = value
        else:
            branch = "branch1" if part == "shortcut" else f"branch2.{part}"
            found[f"s{int(where[1]) + 2}.pathway0_res{where[2]}.{branch}{norm}.{tensor}"] = value
    return found


def test_weights_of_kinetics_load_without_their_classifier(tmp_path):
    source = make("i3d")
    head = {"head.projection.weight": torch.ones(400, 128), "head.projection.bias": torch.ones(400)}
    content = {"epoch": 1, "model_state": kinetics(source) | head, "optimizer_state": {"state": {}}}
    torch.save(content, tmp_path / "I3D_8x8_R50.pyth")
    torch.manual_seed(1)
    found = create_detector("i3d", **{**tiny("i3d"), "pretrained": str(tmp_path / "I3D_8x8_R50.pyth")})
    assert torch.equal(found.eval().encode(CLIPS), source.eval().encode(CLIPS))
    del content["model_state"]["s2.pathway0_res0.branch2.a.weight"]
    torch.save(content, tmp_path / "I3D_8x8_R50.pyth")
    with pytest.raises(
        UserError, match=r"I3D_8x8_R50\.pyth does not fit .*stages\.0\.0\.a\.conv\.weight .* is missing"
    ):
        create_detector("i3d", **{**tiny("i3d"), "pretrained": str(tmp_path / "I3D_8x8_R50.pyth")})


def moved(detector, step: int) -> set[str]:
    """Names of the parameters that a step of Adam with weight decay changes."""
    optimizer = torch.optim.Adam(detector.parameters(), 1e-3, weight_decay=0.1)
    before = {name: value.detach().clone() for name, value in detector.named_parameters()}
    for number in (step, step):  # momentum of the first step may not move what the second one freezes
        detector.start_step(number, torch.arange(3))
        detector.training_step(detector, PlainStep, CLIPS, LABELS)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return {name for name, value in detector.named_parameters() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(("step", "frozen"), [(1, "temporal"), (2, "spatial"), (5, "temporal")])
def test_temporal_and_spatial_kernels_are_frozen_in_turn_and_nothing_else(step, frozen):
    detector = make("altfreezing", spatial_steps=2, temporal_steps=3).train()
    kinds = {
        "temporal": {n for n, p in detector.named_parameters() if p.ndim == 5 and p.shape[2:] == (3, 1, 1)},
        "spatial": {n for n, p in detector.named_parameters() if p.ndim == 5 and p.shape[2:] == (1, 3, 3)},
    }
    assert all(kinds.values())
    assert moved(detector, step) == {name for name, _ in detector.named_parameters()} - kinds[frozen]


def test_altfreezing_scores_as_i3d_with_its_weights():
    detector, other = make("altfreezing"), make("i3d")
    other.load_state_dict(detector.state_dict())
    assert torch.equal(detector.eval()(CLIPS).scores, other.eval()(CLIPS).scores)


# FTCN


def test_ftcn_sees_no_neighbouring_pixels_and_keeps_every_frame():
    detector = make("ftcn").eval()
    kernels = [conv.kernel_size for conv in detector.modules() if isinstance(conv, nn.Conv3d)]
    assert {side for kernel in kernels for side in kernel[1:]} == {1}
    assert {kernel[0] for kernel in kernels} == {1, 3, 5}
    assert detector.tokens(CLIPS).shape == (3, 4, 64)


def test_clips_of_another_length_are_refused_and_a_checkpoint_sets_the_length():
    detector, longer = make("ftcn"), make("ftcn", frames=6)
    with pytest.raises(UserError, match=r"expected clips of 4 frames, got 3; set model\.frames and input\.frames"):
        detector(CLIPS[:, :3])
    theirs = {"resnet.head.time_T.pos_embedding": longer.positions.detach()}
    assert detector.from_deepfakebench(theirs).keys() == {"positions"}
    assert detector.frames == 6 and detector.positions.shape == longer.positions.shape


# LipForensics


def authors(detector) -> dict[str, torch.Tensor]:
    """A tiny LipForensics' tensors under the names of its authors."""
    state, found = detector.state_dict(), {}

    def take(theirs: str, ours: str) -> None:
        taken = [key for key in state if key.startswith(ours)]
        found.update({theirs + key.removeprefix(ours): state.pop(key) for key in taken})

    for place in (0, 1, 2):
        take(f"frontend3D.{place}.", f"mouths.stem.{place}.")
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            ours, theirs = f"mouths.trunk.layer{layer}.{block}.", f"trunk.layer{layer}.{block}."
            take(f"{theirs}relu1.", f"{ours}act1.")
            take(f"{theirs}relu2.", f"{ours}act2.")
            take(theirs, ours)
    for block in range(4):
        theirs, ours = f"tcn.mb_ms_tcn.network.{block}.", f"temporal.{block}."
        for half in (0, 1):
            for scale in (0, 1, 2):
                for place, part in enumerate(("conv", "batchnorm", "non_lin")):
                    take(f"{theirs}cbcr{half}_{scale}.{part}.", f"{ours}branches.{half}.{scale}.{place}.")
        take(f"{theirs}downsample.", f"{ours}shortcut.")
        take(f"{theirs}relu_final.", f"{ours}act.")
    take("tcn.tcn_output.", "classifier.")
    assert not state
    return found


def test_the_authors_checkpoint_loads_whole():
    source, other = make("lipforensics").eval(), make("lipforensics").eval()
    nn.init.normal_(source.temporal[3].shortcut.bias)
    state = authors(source)
    assert other.load_foreign(state) == "checkpoint of the method's authors"
    assert torch.equal(other(CLIPS).scores, source(CLIPS).scores)
    del state["tcn.mb_ms_tcn.network.3.cbcr1_2.conv.bias"]
    with pytest.raises(UserError, match=r"temporal\.3\.branches\.1\.2\.0\.bias \[16\] is missing"):
        other.load_foreign(state)


def test_the_features_of_lip_reading_stay_frozen_and_its_words_are_left_out(tmp_path):
    source = make("lipforensics").eval()
    words = {"tcn.tcn_output.weight": torch.ones(500, 48), "tcn.tcn_output.bias": torch.ones(500)}
    torch.save({"model_state_dict": authors(source) | words}, tmp_path / "lips.pth")
    detector = make("lipforensics", pretrained=str(tmp_path / "lips.pth"), train_all=False)
    detector.start_training(torch.tensor([1, 2]))
    assert torch.equal(detector.eval().encode(CLIPS), source.encode(CLIPS))
    detector.train()(CLIPS, LABELS).losses["total"].backward()
    assert {n.partition(".")[0] for n, p in detector.named_parameters() if p.grad is not None} == {
        "temporal",
        "classifier",
    }
    assert all(torch.equal(v, source.mouths.state_dict()[key]) for key, v in detector.mouths.state_dict().items())


def test_random_features_are_not_frozen_without_a_word():
    with pytest.raises(UserError, match=r"lip-reading network.* got none; set model\.pretrained=FILE"):
        make("lipforensics", train_all=False).start_training(torch.tensor([1, 2]))


def test_the_box_lies_around_the_mouth_of_an_aligned_face():
    middle = crop_template(256)[3:].mean(axis=0)
    rows, columns = (torch.arange(256.0)[:, None], torch.arange(256.0))
    where = torch.stack([rows.expand(256, 256), columns.expand(256, 256), torch.zeros(256, 256)])
    detector = make("lipforensics").eval()
    red, green = (
        detector.shown(where[None, None] * torch.tensor([1.0, 0, 0])[:, None, None]) / 0.299,
        (detector.shown(where[None, None] * torch.tensor([0, 1.0, 0])[:, None, None]) / 0.587),
    )
    assert red.shape == (1, 1, 88, 88)
    assert (green.mean().item(), red.mean().item()) == pytest.approx(tuple(middle), abs=1.0)


def test_training_shows_other_parts_of_the_box_and_testing_its_middle():
    faces = torch.rand(2, 3, 1, 256, 256).expand(-1, -1, 3, -1, -1)
    detector = make("lipforensics", random_crop=True)
    middle, box = detector.eval().shown(faces), faces[:, :, 0, 144:240, 80:176]
    torch.testing.assert_close(middle, box[..., 4:92, 4:92])
    detector.train()
    places = set()
    for _ in range(4):
        for clip, whole in zip(detector.shown(faces), box, strict=True):
            ((row, column),) = torch.isclose(whole[:, :9, :9], clip[:, :1, :1]).all(dim=0).nonzero().tolist()
            torch.testing.assert_close(clip, whole[:, row : row + 88, column : column + 88])
            places.add((row, column))
    assert len(places) > 4
