"""What every registered detector must do; a new class is tested as soon as it has an entry in CASES."""

import copy
import io
from functools import lru_cache

import pytest
import torch
from timm.models.efficientnet import EfficientNet
from timm.models.xception import Xception

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector, registry
from resproto_fd.detectors.weights import without_pretrained

TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"embed_dim": 12, "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}}
RESNET = {"embed_dim": 12, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}}
TINY_VIT = {"backbone": {**VIT, "text_cfg": TEXT}, "pretrained": None}
TINY_RESNET = {"backbone": {**RESNET, "text_cfg": TEXT}, "pretrained": None}
TINY_TIMM_CLIP = {
    "backbone": {"embed_dim": 12, "vision_cfg": {"timm_model_name": "test_resnet", "image_size": 32}, "text_cfg": TEXT},
    "pretrained": None,
}

TINY_CVIT = {"size": 32, "width": 16, "channels": [4, 4, 8, 8, 8], "heads": 2}
TINY_MFCLIP = {"image_depth": 1, "image_hidden": 16, "patch": 16, "noise_depth": 1, "noise_hidden": 16}
TINY_MFCLIP |= {"text_depth": 1, "text_hidden": 16}

TINY_UIA_VIT = {"options": {"img_size": 32, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}}
TINY_UIA_VIT |= {"pretrained": None, "middle": 1, "last": 2}

TINY_ADAPTER = {"queries": 8, "width": 24, "heads": 2, "depth": 3, "patch": 4, "hidden": 16, "out": 8}
TINY_ADAPTER |= {"joins": [1, 2], "contrasted": [2, 3]}

TINY_LSDA = {"pretrained": None, "methods": ["real", "fake"], "blocks": [1, 1, 1, 1], "widths": [8, 8, 8, 512]}

CASES = {
    "resproto_fd": ("resproto_fd", {**TINY_VIT, "start_epoch": 0, "capacity": 5, "top_k": 4}),
    "resproto_fd, ResNet, dot": ("resproto_fd", {**TINY_RESNET, "start_epoch": 0, "similarity": "dot", "clusters": 2}),
    "resproto_fd, cross-entropy, no memory": ("resproto_fd", {**TINY_TIMM_CLIP, "loss": "ce", "grp": False}),
    "resproto_fd, no residual": ("resproto_fd", {**TINY_VIT, "residual": False, "keep_text_tower": True}),
    "clip": ("clip", TINY_VIT),
    "clip, sample pairs": ("clip", {**TINY_VIT, "sample_pairs": 6}),
    "clip_lora": ("clip_lora", {**TINY_VIT, "rank": 2, "dropout": 0.0}),
    "border": ("border", {"backbone": "test_resnet", "pretrained": None}),
    "capsule_net": ("capsule_net", {"pretrained": None, "noise": 0.0, "dropout": 0.0}),
    "chance": ("chance", {}),
    "core": ("core", {"pretrained": None}),
    "core, halves": ("core", {"pretrained": None, "pairs": "halves"}),
    "pcl_xception": ("pcl_xception", {"pretrained": None, "consistency": 0.0}),
    "rfm": ("rfm", {"pretrained": None}),
    "sladd": ("sladd", {"pretrained": None, "mask_weight": 0.0}),
    "clip_probe": ("clip_probe", TINY_RESNET),
    "clip_zero_shot": ("clip_zero_shot", TINY_RESNET),
    "cvit": ("cvit", {**TINY_CVIT, "depth": 1, "hidden": 32}),
    "mfclip": ("mfclip", {**TINY_CVIT, **TINY_MFCLIP}),
    "mfclip, image alone": ("mfclip", {**TINY_CVIT, **TINY_MFCLIP, "noise": False, "text": False}),
    "deepfakebench_class": ("deepfakebench_class", {"target": "made:PeerDetector", "config": {"width": 6}}),
    "efficientnetb4": ("efficientnetb4", {"pretrained": None}),
    "f3net": ("f3net", {"pretrained": None, "size": 32, "dropout": 0.0}),
    "f3net, one branch": ("f3net", {"pretrained": None, "size": 32, "dropout": 0.0, "paper": False}),
    "ffd": ("ffd", {"pretrained": None}),
    "lrl": ("lrl", {"pretrained": None, "size": 32, "segmentation": 0.0, "dropout": 0.0, "drop_path": 0.0}),
    "meso4": ("meso4", {"size": 32, "dropout": 0.0}),
    "meso4Inception": ("meso4Inception", {"size": 32, "dropout": 0.0}),
    "sia": ("sia", {"pretrained": None}),
    "spsl": ("spsl", {"pretrained": None}),
    "ucf": ("ucf", {"pretrained": None, "dropout": 0.0}),
    "ucf, cross-entropy": ("ucf", {"pretrained": None, "dropout": 0.0, "multi_task": False}),
    "recce": ("recce", {"pretrained": None, "dropout": 0.0, "noise": 0.0}),
    "recce, cross-entropy": (
        "recce",
        {"pretrained": None, "dropout": 0.0, "noise": 0.0, "reconstruction": 0.0, "metric": 0.0},
    ),
    "srm": ("srm", {"pretrained": None, "size": 32}),
    "srm, logits": ("srm", {"pretrained": None, "size": 32, "paper": False}),
    "multi_attention": ("multi_attention", {"pretrained": None, "degraded": 0.0, "dropout": 0.0}),
    "gm_df": ("gm_df", {**TINY_VIT, "second_order": [1], "mim": 0.0}),
    "gm_df, post": ("gm_df", {**TINY_VIT, "norm": "post", "conv_stem": True, "experts": False, "mim": 0.0}),
    "sbi": ("sbi", {"pretrained": None}),
    "sd2": ("sd2", {**TINY_VIT, "lora_rank": 2, "lora_dropout": 0.0, "labels": "simple"}),
    "sd2, ResNet": ("sd2", {**TINY_RESNET, "lora_rank": None, "labels": "simple"}),
    "sd2, all trains, no clam": ("sd2", {**TINY_RESNET, "lora_rank": None, "clam": False, "labels": "simple"}),
    "sd2_probe": ("sd2_probe", {**TINY_VIT, "sd2": {"lora_rank": 2}}),
    "effort": ("effort", TINY_VIT),
    "effort, two values, no constraint": ("effort", {**TINY_VIT, "rank": 2, "constraint_weight": 0.0}),
    "gramnet": ("gramnet", {"pretrained": None}),
    "freqnet": ("freqnet", {}),
    "freqnet, phase": ("freqnet", {"spectra": "amplitude and phase"}),
    "uia_vit": ("uia_vit", TINY_UIA_VIT),
    "patchcraft": ("patchcraft", {"side": 8, "places": 3, "grid": 2}),
    "c2p_clip": ("c2p_clip", {**TINY_VIT, "rank": 2, "dropout": 0.0}),
    "repdfd": ("repdfd", {**TINY_VIT, "share": 0.5}),
    "forensics_adapter": ("forensics_adapter", {**TINY_VIT, **TINY_ADAPTER, "mask_weight": 0.0}),
    "facexray": ("facexray", {"backbone": "hrnet_w18_small", "pretrained": None}),
    "facexray, DeepfakeBench's": (
        "facexray",
        {"backbone": "hrnet_w18_small", "pretrained": None, "paper": False, "size": 32},
    ),
    "iid": ("iid", {"pretrained": None, "blocks": [1, 1, 1, 1], "widths": [8, 8, 16, 16], "identities": 3}),
    "lsda": ("lsda", {"pretrained": None, "teachers": False}),
    "lsda, a teacher": ("lsda", TINY_LSDA),
    "timm": ("timm", {"backbone": "test_efficientnet", "pretrained": None}),
}
WITH_FIELDS = {
    "ucf": ("encoder_c.", "con_gan.", "block_spe.", "head_spe."),
    "iid": ("kernel",),
    "lsda, a teacher": ("encoders_f.", "fc_weights.", "mlp."),
}
"""Case -> beginnings of the names of parameters that learn only where the batch has further fields."""

IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 1, 0, 1, 1])


def build(case: str, seed: int = 0):
    name, keywords = CASES[case]
    torch.manual_seed(seed)
    return shallow(registry._construct(name, keywords, case))


def shallow(detector):
    """Without most of the blocks that networks repeat, for the time's sake.

    Of the eight in the middle of Xception two stay, of each stage of EfficientNet-B4 the first.
    """
    for module in detector.modules():
        if isinstance(module, Xception):
            for number in (4, 5, 6, 8, 9, 10):
                setattr(module, f"block{number}", torch.nn.Identity())
        if isinstance(module, EfficientNet) and module.num_features == 1792:
            for stage in module.blocks:
                for place in range(1, len(stage)):
                    stage[place] = torch.nn.Identity()
    return detector


# The tests of a case run one after another (its fixtures are the module's), so that it is built once for all of them.
_built = lru_cache(maxsize=2)(build)


def make(case: str, seed: int = 0):
    detector = copy.deepcopy(_built(case, seed))
    torch.manual_seed(seed)
    return detector


@lru_cache(maxsize=1)
@torch.no_grad()
def trained_a_little(case: str):
    """The detector after one training step's forward, in evaluation mode, so that it has all the state it may have.

    One for all tests of a case, which evaluate it and no more.
    """
    detector = make(case)
    detector.start_training(torch.tensor([2, 4]))
    detector.train().start_epoch(0)
    detector(IMAGES, LABELS)
    return detector.eval()


@pytest.fixture(params=CASES, scope="module")
def case(request):
    return request.param


@pytest.fixture(params=[case for case in CASES if case not in ("clip_zero_shot", "chance")], scope="module")
def trained_case(request):
    return request.param


def test_every_registered_class_is_among_the_cases():
    assert set(registry.MODULES) == {name for name, _ in CASES.values()}


@torch.no_grad()
def test_outputs_have_their_shapes_and_ranges(case):
    for detector in (make(case).train(), trained_a_little(case)):
        output = detector(IMAGES, LABELS)
        features = detector.encode(IMAGES)
        assert output.scores.shape == (6,)
        assert output.scores.dtype == torch.float32
        assert ((output.scores >= 0) & (output.scores <= 1)).all()
        assert output.logits.shape == (6, 2)
        assert output.features.ndim == 2
        assert len(output.features) == len(features) == 6
        assert all(v.shape == (6,) and ((v >= 0) & (v <= 1)).all() for v in output.variants.values())
        assert output.losses["total"].ndim == 0
        assert all(value.isfinite() for value in output.losses.values())
        assert detector(IMAGES).losses is None


def test_nothing_trains_zero_shot():
    assert not any(p.requires_grad for p in make("clip_zero_shot").parameters())


def test_every_trainable_parameter_gets_a_finite_gradient(trained_case):
    detector = make(trained_case).train()
    waiting = WITH_FIELDS.get(trained_case, ())
    trainable = [
        (name, p) for name, p in detector.named_parameters() if p.requires_grad and not name.startswith(waiting)
    ]
    detector(IMAGES, LABELS).losses["total"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for _, p in trainable), [
        name for name, p in trainable if p.grad is None
    ]
    assert any(p.grad.any() for _, p in trainable)


def test_the_loss_falls_when_trained_on_one_batch(trained_case):
    detector = make(trained_case).train()
    parameters = [p for p in detector.parameters() if p.requires_grad]
    detector.start_training(torch.tensor([2, 4]))
    optimizer = torch.optim.Adam(parameters, 3e-3)
    losses = []
    for _ in range(6):
        loss = detector(IMAGES, LABELS).losses["total"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        detector.after_step()
        losses.append(loss.item())
    assert min(losses[-2:]) < losses[0]


@torch.no_grad()
def test_scores_depend_on_the_image_alone(case):
    detector = trained_a_little(case)
    expected = detector(IMAGES)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    alone = torch.cat([detector(image[None]).scores for image in IMAGES])
    torch.testing.assert_close(alone, expected.scores, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(detector(IMAGES[order]).scores, expected.scores[order], atol=1e-6, rtol=1e-5)
    for labels in (LABELS, 1 - LABELS):
        labelled = detector(IMAGES, labels)
        assert torch.equal(labelled.scores, expected.scores)
        assert torch.equal(labelled.logits, expected.logits)
        assert set(labelled.variants) == set(expected.variants)
        assert all(torch.equal(labelled.variants[name], expected.variants[name]) for name in expected.variants)


@torch.no_grad()
def test_evaluation_leaves_the_state_untouched(case):
    detector = trained_a_little(case)
    before = copy.deepcopy(detector.state_dict())
    detector(IMAGES, LABELS)
    detector.diagnostics()
    after = detector.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@torch.no_grad()
def test_the_state_round_trips_through_a_file_of_plain_tensors(case):
    detector = trained_a_little(case)
    file = io.BytesIO()
    torch.save(detector.state_dict(), file)
    file.seek(0)
    with without_pretrained():
        other = make(case, seed=1).eval()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(IMAGES).scores, detector(IMAGES).scores)


@torch.no_grad()
def test_one_seed_gives_one_detector_and_two_seeds_two(case):
    once, again, other = (one.eval()(IMAGES).scores for one in (make(case), build(case), make(case, 1)))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_head_on_detached_features_then_encode_gives_the_gradients_of_forward(trained_case):
    detector = make(trained_case).double().train()
    twin, images = copy.deepcopy(detector), IMAGES.double()
    output = detector(images, LABELS)
    output.losses["total"].backward()

    leaf = twin.encode(images).detach().requires_grad_()
    in_two = twin.head(leaf, LABELS)
    in_two.losses["total"].backward()
    if output.features.requires_grad:  # a probe's encoder is frozen
        twin.encode(images).backward(leaf.grad)
    torch.testing.assert_close(in_two.losses["total"], output.losses["total"], atol=1e-9, rtol=0)
    for (name, one), (_, two) in zip(detector.named_parameters(), twin.named_parameters()):
        if one.requires_grad:
            torch.testing.assert_close(two.grad, one.grad, atol=1e-9, rtol=0, msg=name)


def test_half_precision_features_lose_nothing_in_the_head(case):
    detector = trained_a_little(case)
    with torch.no_grad():
        features = detector.encode(IMAGES).bfloat16()
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


def test_a_backbone_without_checkpointing_is_told_so():
    detector = create_detector("timm", backbone="legacy_xception", pretrained=None)
    with pytest.raises(UserError, match=r"train\.checkpoint_activations: Xception"):
        detector.checkpoint_activations()


PRESETS = loading.names("detectors")
FROM_SCRATCH = [name for name in PRESETS if not loading.load("detectors", name).model.get("pretrained", True)]


@pytest.mark.parametrize("name", FROM_SCRATCH)
def test_presets_that_need_no_weights_run_at_their_input_size(name):
    config = loading.load("detectors", name)
    detector = registry.build_detector(config).eval()
    with torch.no_grad():
        assert detector(torch.zeros(2, 3, config.input.size, config.input.size)).scores.shape == (2,)
    assert_listed_as_built(config, detector)


def assert_listed_as_built(config, detector):
    """What `resproto list` says of a preset from its YAML alone."""
    assert config.parameters == sum(p.numel() for p in detector.parameters())
    assert set(config.needs) == detector.requires


@pytest.mark.parametrize("name", sorted({*PRESETS} - {*FROM_SCRATCH}))
def test_full_size_presets_are_what_their_names_say(name):
    trainable = {
        "resproto_fd": 86_192_641,
        "resproto_fd_released": 86_192_641,
        "border": 23_512_130,
        "clip": 86_193_666,
        "clip_probe": 1_026,
        "univfd": 1_538,
        "clip_zero_shot": 0,
        "xception": 20_811_050,
        "efficientnet_b4": 17_552_202,
        "clip_lora": 1_574_402,
        "cvit": 89_009_986,
        "mfclip": 94_064_771,
        "efficientnetb4": 17_552_202,
        "f3net": 48_157_162,
        "ffd": 20_818_330,
        "gm_df": 89_841_605,
        "resnet34": 21_285_698,
        "sia": 17_569_202,
        "lrl": 48_599_984,
        "spsl": 20_811_338,
        "recce": 23_783_558,
        "ucf": 46_830_234,
        "srm": 53_238_378,
        "capsule_net": 1_571_070,
        "multi_attention": 18_641_970,
        "sbi": 17_552_202,
        "sd2": 8_323_074,
        "core": 20_811_050,
        "fwa": 20_811_050,
        "rfm": 20_811_050,
        "pcl_xception": 20_811_050 + 728 * 729,
        "sladd": 20_811_050 + 728 * 10,
        "sd2_probe": 1_538,
        "lsda": 5 * (17_548_616 + 1792 * 512 + 512) + 5_244_416 + 132_613 + 263_682,
        "iid": 20_811_050 - 4_098 + 2048 * 512 + 512 * 3 + 1026 + 512_000,
        "facexray": 65_325_120 + 721 + 4,
        "forensics_adapter": 5_832_967,
        "repdfd": 150_528,
        "c2p_clip": 886_274,
        "gramnet": 11_374_147,
        "cnnspot": 23_512_130,
        "vit_b16": 85_800_194,
        "effort": 198_754,
        "uia_vit": 85_801_733,
    }
    config = loading.load("detectors", name)
    with torch.device("meta"), without_pretrained():
        detector = create_detector(name)
        output = detector.train()(torch.zeros(2, 3, config.input.size, config.input.size))
    assert output.scores.shape == (2,)
    assert_listed_as_built(config, detector)
    assert sum(p.numel() for p in detector.parameters() if p.requires_grad) == trainable[name]


def test_unknown_timm_models_and_options_are_named():
    with pytest.raises(UserError, match=r"timm has no model 'resnet51'.*nearest is 'resnet5"):
        create_detector("timm", backbone="resnet51")
    with pytest.raises(UserError, match=r"timm cannot build 'resnet18' with options .*depht"):
        create_detector("timm", backbone="resnet18", pretrained=None, options={"depht": 3})
    with pytest.raises(UserError, match="timm has no weights of 'botnet50ts_256'"):
        create_detector("timm", backbone="botnet50ts_256")


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


def test_timm_weights_of_another_model_or_none_are_named(imagenet_file):
    path, _ = imagenet_file
    with pytest.raises(UserError, match=r"weights\.pth does not fit ResNet: .*missing"):
        create_detector("timm", backbone="test_resnet", pretrained=str(path))
    with pytest.raises(UserError, match="no file /gone"):
        create_detector("timm", backbone="test_resnet", pretrained="/gone.pth")


def test_published_timm_weights_come_from_the_cache_or_are_asked_for(imagenet_file, monkeypatch, tmp_path):
    from resproto_fd.detectors import timm as timm_backbone
    from resproto_fd.detectors import weights

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights, "_reachable", lambda url: False)
    with pytest.raises(
        UserError, match=r"of test_efficientnet cannot be had: .*test_efficientnet\.r160_in1k/resolve/main"
    ):
        create_detector("timm", backbone="test_efficientnet")
    path, model = imagenet_file
    monkeypatch.setattr(timm_backbone, "fetch", lambda *words: path)
    detector = create_detector("timm", backbone="test_efficientnet").eval()
    torch.testing.assert_close(detector.backbone.conv_stem.weight, model.conv_stem.weight)
