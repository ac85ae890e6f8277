"""What every registered detector must do; a new class is tested as soon as it is registered."""

import copy
import io

import pytest
import torch
from tiny import (
    BACKBONES,
    CASES,
    IMAGES,
    LABELS,
    build,
    first_step,
    images_of,
    make,
    quick_and_slow,
    thin_detector,
    tiny,
    trained_a_little,
    trains,
)

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector, registry
from resproto_fd.detectors.base import Detector, Encoded
from resproto_fd.detectors.weights import without_pretrained
from resproto_fd.training.encode_once import encoder_tensors
from resproto_fd.training.recording import operations
from resproto_fd.training.samples import one_sample

WITH_FIELDS = {
    "ucf": ("encoder_c.", "con_gan.", "block_spe.", "head_spe."),
    "iid": ("kernel",),
    "lsda, a teacher": ("encoders_f.", "fc_weights.", "mlp."),
}
"""Case -> beginnings of the names of parameters that learn only where the batch has further fields."""


FIXED = sorted(case for case, (name, _) in CASES.items() if registry.detector_class(name).fixed_encoder)
"""Cases that encode each frame alike all the time."""

MAIN = [name for name in CASES if "," not in name or name.startswith("resproto_fd")]
"""Cases of the default tier; variants of other classes are in the slow one."""

QUICK = ["resproto_fd", "clip", "timm", "gm_df", "mfclip", "sd2", "meso4", "clip_lora"]
"""Cases and presets of the default tier in the longer tests; the others are in the slow one."""


@pytest.fixture(params=quick_and_slow(CASES, MAIN), scope="module")
def case(request):
    return request.param


COSTLY = {
    "cdfa", "core", "efficientnetb4", "f3net", "facexray", "ffd", "freqnet", "gramnet", "iid", "lipforensics", "lrl",
    "lsda", "multi_attention", "prodet", "recce", "sbi", "sia", "spsl", "srm", "stil", "ucf",
}  # fmt: skip
"""Cases whose step is among the slowest; the default tier scores them and leaves their gradients to the slow one."""


@pytest.fixture(params=quick_and_slow(filter(trains, CASES), MAIN), scope="module")
def trained_case(request):
    return request.param


def test_every_registered_class_is_among_the_cases_and_few_train_nothing():
    assert set(registry.class_names()) == {name for name, _ in CASES.values()}
    assert {case for case in CASES if not trains(case)} == {"chance", "clip_zero_shot"}
    assert {"chance", "clip_probe", "clip_zero_shot", "sd2_probe"} <= set(FIXED)


@torch.no_grad()
def test_outputs_have_their_shapes_and_ranges(case):
    images = images_of(case)
    detector, training = first_step(case)
    assert len(detector.encode(images[:2])) == 2
    for output in (training, detector(images, LABELS)):
        assert output.scores.shape == (6,)
        assert output.scores.dtype == torch.float32
        assert ((output.scores >= 0) & (output.scores <= 1)).all()
        assert output.logits.shape == (6, 2)
        assert output.features.ndim == 2
        assert len(output.features) == 6
        assert all(v.shape == (6,) and ((v >= 0) & (v <= 1)).all() for v in output.variants.values())
        assert output.losses["total"].ndim == 0
        assert all(value.isfinite() for value in output.losses.values())
    assert detector(images[:2]).losses is None


@pytest.mark.slow
def test_the_operations_of_a_class_can_be_counted(case):
    detector = make(case)
    asked = [parameter.requires_grad for parameter in detector.parameters()]
    assert (operations(detector, images_of(case)[:1]) > 0) == (case != "chance")
    assert [parameter.requires_grad for parameter in detector.parameters()] == asked


def test_a_class_is_declared_to_have_a_fixed_encoder_if_and_only_if_it_has_one(case):
    images = images_of(case)[:2]
    detector = copy.deepcopy(trained_a_little(case)).train()
    assert detector.encode(images).requires_grad != bool(detector.fixed_encoder), (
        f"{case}: freeze the encoder, or set fixed_encoder to its parts"
    )


@pytest.mark.parametrize("case", FIXED, indirect=True)
@torch.no_grad()
def test_what_a_fixed_encoder_does_depends_on_its_parts_alone_and_never_changes(case):
    images = images_of(case)
    trained = trained_a_little(case)
    detector = make(case)
    own = encoder_tensors(detector)
    assert own
    assert all(torch.equal(value, own[name]) for name, value in encoder_tensors(trained).items())
    assert (type(detector).forward, type(detector).training_step) == (Detector.forward, Detector.training_step)
    assert not detector.requires
    features = detector.train().encode(images)
    assert torch.equal(features, detector.eval().encode(images))
    torch.testing.assert_close(features[1:4], detector.encode(images[1:4]), rtol=1e-5, atol=1e-6)
    known, seen = detector(Encoded(features), LABELS), detector(images, LABELS)
    assert torch.equal(known.scores, seen.scores)
    assert torch.equal(known.losses["total"], seen.losses["total"])
    for name, value in detector.state_dict().items():
        if name not in own:
            value.copy_(torch.randn_like(value.float()))
    assert torch.equal(features, detector.encode(images))


def test_nothing_trains_zero_shot():
    assert not any(p.requires_grad for p in make("clip_zero_shot").parameters())


@pytest.mark.parametrize(
    "trained_case", quick_and_slow(filter(trains, CASES), set(MAIN) - COSTLY), indirect=True, scope="module"
)
def test_every_trainable_parameter_gets_a_finite_gradient(trained_case):
    images = images_of(trained_case)
    detector = make(trained_case).train()
    waiting = WITH_FIELDS.get(trained_case, ())
    trainable = [
        (name, p) for name, p in detector.named_parameters() if p.requires_grad and not name.startswith(waiting)
    ]
    detector(images, LABELS).losses["total"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for _, p in trainable), [
        name for name, p in trainable if p.grad is None
    ]
    assert any(p.grad.any() for _, p in trainable)


@pytest.mark.slow  # in the default tier each class, without its variants, trains on the demo
def test_the_loss_falls_when_trained_on_one_batch(trained_case):
    images = images_of(trained_case)
    detector = make(trained_case).train()
    parameters = [p for p in detector.parameters() if p.requires_grad]
    detector.start_training(torch.tensor([2, 4]))
    optimizer = torch.optim.Adam(parameters, 3e-3)
    losses = []
    for _ in range(6):
        loss = detector(images, LABELS).losses["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        detector.after_step()
        losses.append(loss.item())
    assert min(losses[-2:]) < losses[0]


@pytest.mark.parametrize("case", quick_and_slow(CASES, QUICK), indirect=True)
@torch.no_grad()
def test_scores_depend_on_the_image_alone(case):
    images = images_of(case)
    detector = trained_a_little(case)
    expected = detector(images)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    alone = torch.cat([detector(image[None]).scores for image in images])
    torch.testing.assert_close(alone, expected.scores, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(detector(images[order]).scores, expected.scores[order], atol=1e-6, rtol=1e-5)
    for labels in (LABELS, 1 - LABELS):
        labelled = detector(images, labels)
        assert torch.equal(labelled.scores, expected.scores)
        assert torch.equal(labelled.logits, expected.logits)
        assert set(labelled.variants) == set(expected.variants)
        assert all(torch.equal(labelled.variants[name], expected.variants[name]) for name in expected.variants)


@pytest.mark.parametrize("case", quick_and_slow(CASES, QUICK), indirect=True)
@torch.no_grad()
def test_evaluation_leaves_the_state_untouched(case):
    images = images_of(case)
    detector = trained_a_little(case)
    before = copy.deepcopy(detector.state_dict())
    detector(images, LABELS)
    detector.diagnostics()
    after = detector.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("case", quick_and_slow(CASES, QUICK), indirect=True)
@torch.no_grad()
def test_seed_and_state_make_the_detector(case):
    """One seed gives one detector and two seeds two, and a file of plain tensors carries all that a detector is."""
    images = images_of(case)
    once, again = make(case).eval(), build(case).eval()
    with without_pretrained():
        other = build(case, 1).eval()
    scores = once(images).scores
    assert torch.equal(again(images).scores, scores)
    assert not torch.equal(other(images).scores, scores)
    detector, file = trained_a_little(case), io.BytesIO()
    torch.save(detector.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(images).scores, detector(images).scores)


@pytest.mark.parametrize("trained_case", quick_and_slow(filter(trains, CASES), QUICK), indirect=True)
def test_head_on_detached_features_then_encode_gives_the_gradients_of_forward(trained_case):
    detector = make(trained_case).double().train()
    twin, images = copy.deepcopy(detector), images_of(trained_case).double()
    output = detector(images, LABELS)
    output.losses["total"].backward()

    features = twin.encode(images)
    leaf = features.detach().requires_grad_()
    in_two = twin.head(leaf, LABELS)
    in_two.losses["total"].backward()
    if features.requires_grad:  # a probe's encoder is frozen
        features.backward(leaf.grad)
    torch.testing.assert_close(in_two.losses["total"], output.losses["total"], atol=1e-9, rtol=0)
    for (name, one), (_, two) in zip(detector.named_parameters(), twin.named_parameters()):
        if one.requires_grad:
            torch.testing.assert_close(two.grad, one.grad, atol=1e-9, rtol=0, msg=name)


@pytest.mark.parametrize("case", quick_and_slow(CASES, QUICK), indirect=True)
def test_half_precision_features_lose_nothing_in_the_head(case):
    images = images_of(case)
    detector = trained_a_little(case)
    with torch.no_grad():
        features = detector.encode(images).bfloat16()
        expected = detector.head(features.float(), LABELS)
        with torch.autocast("cpu", torch.bfloat16):
            found = detector.head(features, LABELS)
    assert found.scores.dtype == found.losses["total"].dtype == torch.float32
    torch.testing.assert_close(found.scores, expected.scores, atol=0.02, rtol=0)


def test_diagnostics_are_finite_scalars(case):
    values = trained_a_little(case).diagnostics()
    assert all(
        isinstance(v, torch.Tensor) and v.ndim == 0 and v.isfinite() and not v.requires_grad for v in values.values()
    )


@pytest.mark.parametrize("name", ["resproto_fd", "clip", "timm"])
def test_activations_can_be_checkpointed_without_changing_gradients(name):
    detector = make(name).double().train()
    twin = copy.deepcopy(detector)
    twin.checkpoint_activations()
    for one in (detector, twin):
        one(IMAGES.double(), LABELS).losses["total"].backward()
    for one, two in zip(detector.parameters(), twin.parameters()):
        if one.requires_grad:
            torch.testing.assert_close(two.grad, one.grad, atol=1e-12, rtol=0)


@pytest.mark.slow
def test_a_backbone_without_checkpointing_is_told_so():
    detector = create_detector("timm", backbone="legacy_xception", pretrained=None)
    with pytest.raises(UserError, match=r"train\.checkpoint_activations: Xception"):
        detector.checkpoint_activations()


PRESETS = loading.names("detectors")
FROM_SCRATCH = [name for name in PRESETS if not loading.load("detectors", name).model.get("pretrained", True)]


@pytest.mark.parametrize("name", quick_and_slow(FROM_SCRATCH, ["resproto_fd_tiny", "meso4", "capsule_net"]))
def test_presets_that_need_no_weights_run_at_their_input_size(name):
    config = loading.load("detectors", name)
    detector = registry.build_detector(config).eval()
    with torch.no_grad():
        assert detector(zeros(config)).scores.shape == (2,)
    assert_listed_as_built(config, detector)


def zeros(config):
    """Two black pictures or clips of the preset's input."""
    return torch.zeros(2, *one_sample(config.input)[1:])


def assert_listed_as_built(config, detector):
    """What `resproto list` says of a preset from its YAML alone."""
    assert config.parameters == sum(p.numel() for p in detector.parameters())
    trainable = config.parameters if config.trainable is None else config.trainable
    assert trainable == sum(p.numel() for p in detector.parameters() if p.requires_grad)
    assert set(config.needs) == detector.requires


@pytest.mark.slow
@pytest.mark.parametrize("name", quick_and_slow(sorted({*PRESETS} - {*FROM_SCRATCH}), ["resproto_fd", "clip"]))
def test_full_size_presets_are_what_their_names_say(name):
    config = loading.load("detectors", name)
    with torch.device("meta"), without_pretrained():
        detector = create_detector(name)
        output = detector.train()(zeros(config))
    assert output.scores.shape == (2,)
    assert_listed_as_built(config, detector)


def test_unknown_timm_models_and_options_are_named():
    with pytest.raises(UserError, match=r"timm has no model 'resnet51'.*nearest is 'resnet5"):
        create_detector("timm", backbone="resnet51")
    with pytest.raises(UserError, match=r"timm cannot build 'resnet18' with options .*depht"):
        create_detector("timm", backbone="resnet18", pretrained=None, options={"depht": 3})
    with pytest.raises(UserError, match="timm has no weights of 'botnet50ts_256'"):
        create_detector("timm", backbone="botnet50ts_256")
    with pytest.raises(UserError, match="options: checkpoint_path: timm would read weights by itself; set pretrained"):
        create_detector("timm", backbone="resnet18", pretrained=None, options={"checkpoint_path": "evil.pth"})
    with pytest.raises(UserError, match="timm has no model 'local-dir:evil'"):
        create_detector("timm", backbone="local-dir:evil", pretrained=None)


def test_options_reach_timm_and_stay_as_they_were_given():
    blocks = [{"in_chs": 64, "out_chs": 96, "stride": 2}, {"in_chs": 96, "out_chs": 96, "stride": 2}]
    detector = create_detector("timm", backbone="xception41", pretrained=None, options={"block_cfg": blocks})
    assert detector.encode(IMAGES).shape == (6, 96)
    assert blocks[0] == {"in_chs": 64, "out_chs": 96, "stride": 2}


@pytest.fixture
def imagenet_file(tmp_path):
    """Weights of a timm model with its 1000 classes, as timm publishes them."""
    import timm

    model = timm.create_model("test_efficientnet")
    for parameter in model.parameters():
        parameter.data.normal_()
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    return tmp_path / "weights.pth", model


def test_timm_weights_load_from_a_file_without_its_classifier(imagenet_file):
    path, model = imagenet_file
    detector = create_detector("timm", backbone="test_efficientnet", pretrained=str(path)).eval()
    expected = model.eval().forward_head(model.forward_features(IMAGES), pre_logits=True)
    torch.testing.assert_close(detector.encode(IMAGES), expected)


@pytest.mark.parametrize("channels", [1, 4, 9])
def test_weights_of_three_channels_are_spread_over_another_stem_as_timm_does_it(imagenet_file, channels):
    import timm

    path, model = imagenet_file
    options = {"in_chans": channels}
    found = create_detector("timm", backbone="test_efficientnet", pretrained=str(path), options=options).backbone
    expected = timm.models.adapt_input_conv(channels, model.conv_stem.weight)
    assert torch.equal(found.conv_stem.weight, expected) and expected.shape[1] == channels


def test_weights_without_counters_of_batches_load(imagenet_file, tmp_path):
    _, model = imagenet_file
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert len(state) < len(model.state_dict())
    torch.save(state, tmp_path / "old.pth")
    found = create_detector("timm", backbone="test_efficientnet", pretrained=str(tmp_path / "old.pth"))
    assert torch.equal(found.backbone.conv_stem.weight, model.conv_stem.weight)


def test_timm_weights_of_another_model_or_none_are_named(imagenet_file):
    path, _ = imagenet_file
    with pytest.raises(UserError, match=r"weights\.pth does not fit ResNet: .*missing"):
        create_detector("timm", backbone="test_resnet", pretrained=str(path))
    with pytest.raises(UserError, match="no file /gone"):
        create_detector("timm", backbone="test_resnet", pretrained="/gone.pth")


def test_published_timm_weights_come_from_the_cache_or_are_asked_for(imagenet_file, monkeypatch, tmp_path):
    from resproto_fd.detectors import weights
    from resproto_fd.detectors.parts import timm_classifier

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "_reachable", lambda url: False)
    with pytest.raises(
        UserError, match=r"of test_efficientnet cannot be found: .*test_efficientnet\.r160_in1k/resolve/main"
    ):
        create_detector("timm", backbone="test_efficientnet")
    path, model = imagenet_file
    monkeypatch.setattr(timm_classifier, "fetch", lambda *words: path)
    detector = create_detector("timm", backbone="test_efficientnet").eval()
    torch.testing.assert_close(detector.backbone.conv_stem.weight, model.conv_stem.weight)


@pytest.mark.parametrize(
    ("name", "part"), [("clip_probe", "clip"), ("repdfd", "clip"), ("sd2_probe", "sd2"), ("iid", "explicit")]
)
def test_training_leaves_a_frozen_part_as_it_was(name, part):
    keywords = tiny(name) | ({"backbone": BACKBONES["tiny_resnet"]} if name == "repdfd" else {})
    detector = thin_detector(name, **keywords).train()
    frozen = detector.get_submodule(part)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert detector.training and not any(module.training for module in frozen.modules())
    before = copy.deepcopy(frozen.state_dict())
    detector(IMAGES, LABELS).losses["total"].backward()
    assert all(torch.equal(value, before[key]) for key, value in frozen.state_dict().items())
