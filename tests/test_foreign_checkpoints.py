"""Checkpoints of other codes: their prefixes, nests and names, and the published backbones in other namings."""

import json
import re
import sys
import types
import warnings
from argparse import Namespace
from pathlib import PosixPath

import pytest
import timm
import torch
from tiny import BACKBONES, IMAGES, TINY_VIT
from torch import nn

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import DetectorConfig
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.parts import timm_classifier
from resproto_fd.detectors.parts.clip_tower import load_clip
from resproto_fd.detectors.weights import load_all, read_state_dict
from resproto_fd.training import run

STAGES = (0, 2, 6, 10, 16, 22, 30)
"""First block of each stage of EfficientNet-B4, in efficientnet_pytorch's count."""
EFFICIENTNET = {
    "conv_stem": "_conv_stem", "conv_head": "_conv_head", "classifier": "_fc", "conv_dw": "_depthwise_conv",
    "se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand", "conv_pwl": "_project_conv",
}  # fmt: skip


def saved(state, path):
    torch.save(state, path)
    return read_state_dict(path)


def prefixed(state, prefix):
    return {prefix + key: value for key, value in state.items()}


def scores(detector, images=IMAGES):
    with torch.no_grad():
        return detector.eval()(images).scores


# Prefixes and nests


@pytest.mark.parametrize(
    "made",
    [
        lambda s: prefixed(s, "_orig_mod."),
        lambda s: prefixed(s, "module._orig_mod."),
        lambda s: prefixed(s, "_orig_mod.module."),
        lambda s: {key.replace("backbone.", "backbone._orig_mod."): value for key, value in s.items()},
        lambda s: {"state_dict": prefixed(s, "model."), "pytorch-lightning_version": "2.0", "loops": {}},
        lambda s: {"state_dict": prefixed(s, "model._orig_mod.")},
        lambda s: {"state_dict": prefixed(s, "model.net.")},
        lambda s: {"net": {"state_dict": s}},
        lambda s: {"model": {"model_state_dict": prefixed(s, "net.")}},
        lambda s: {"net": {"model": prefixed(s, "module.")}, "epoch": 3},
    ],
)
def test_weights_load_under_the_prefixes_and_nests_of_training_scripts(made, tmp_path):
    source, other = (create_detector("timm", backbone="test_resnet", pretrained=None) for _ in range(2))
    load_all(other, saved(made(source.state_dict()), tmp_path / "weights.pth"), "weights.pth")
    assert torch.equal(scores(other), scores(source))


def test_a_prefix_that_the_module_has_itself_is_kept():
    module = nn.Module()
    module.model = nn.Linear(2, 1)
    load_all(module, {"model.weight": torch.ones(1, 2), "model.bias": torch.ones(1)}, "weights")
    with pytest.raises(UserError, match=r"model\.weight \[1, 2\] is missing.*weight \[1, 2\] is unknown"):
        load_all(module, {"net.weight": torch.ones(1, 2), "net.bias": torch.ones(1)}, "weights")


def test_a_wrapped_checkpoint_with_a_key_too_many_is_refused_by_name(tmp_path):
    source = create_detector("timm", backbone="test_resnet", pretrained=None)
    state = saved({"state_dict": prefixed({**source.state_dict(), "odd": torch.ones(2)}, "model.")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"does not fit Timm: odd \[2\] is unknown"):
        load_all(source, state, "w.pth")


def test_a_checkpoint_that_holds_itself_ends(tmp_path):
    content = {"epoch": 1}
    content["model"] = content
    with pytest.raises(UserError, match="expected named tensors"):
        saved(content, tmp_path / "weights.pth")


@pytest.mark.parametrize("place", ["pytorch_lightning.utilities.parsing", "lightning.fabric.utilities.data"])
def test_hyper_parameters_and_paths_beside_the_weights_are_read(place, tmp_path, monkeypatch):
    module = types.ModuleType(place)
    kind = type("AttributeDict", (dict,), {"__module__": place})
    module.AttributeDict = kind
    monkeypatch.setitem(sys.modules, place, module)
    for name in place.split(".")[:-1]:
        monkeypatch.setitem(sys.modules, place[: place.index(name) + len(name)], types.ModuleType(name))
    given = {"hyper_parameters": kind(lr=1e-3), "args": Namespace(out=PosixPath("runs/one"))}
    torch.save({"state_dict": {"model.weight": torch.ones(2)}, **given}, tmp_path / "epoch.ckpt")
    monkeypatch.undo()
    assert read_state_dict(tmp_path / "epoch.ckpt").keys() == {"model.weight"}


# Checkpoints of the methods' authors


def efficientnet_pytorch(state):
    """timm's EfficientNet-B4 under the names of efficientnet_pytorch."""
    found = {}
    for key, value in state.items():
        if match := re.fullmatch(r"blocks\.(\d)\.(\d+)\.(.+)\.(\w+)", key):
            stage, block, part, tensor = int(match[1]), int(match[2]), match[3], match[4]
            if part.startswith("bn"):
                part = f"_bn{int(part[2]) - (1 if stage else 0)}"
            elif part == "conv_pw":
                part = "_expand_conv" if stage else "_project_conv"
            found[f"_blocks.{STAGES[stage] + block}.{EFFICIENTNET.get(part, part)}.{tensor}"] = value
        else:
            part, _, tensor = key.rpartition(".")
            found[f"{EFFICIENTNET.get(part, part.replace('bn', '_bn').translate({49: 48, 50: 49}))}.{tensor}"] = value
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "prefix"), [("sbi", "net."), pytest.param("efficientnetb4", "", marks=pytest.mark.slow)]
)
def test_an_efficientnet_of_efficientnet_pytorch_scores_as_there(name, prefix, tmp_path):
    theirs = timm.create_model("tf_efficientnet_b4", num_classes=2).eval()
    state = prefixed(efficientnet_pytorch(theirs.state_dict()), prefix)
    detector = create_detector(name, pretrained=None)
    assert (
        detector.load_foreign(saved({"model": state}, tmp_path / "FFc23.tar")) == "checkpoint of the method's authors"
    )
    images = IMAGES[:2].repeat(1, 1, 2, 2)[..., :60, :60]  # timm pads 60 pixels as their code pads 380
    with torch.no_grad():
        assert torch.allclose(scores(detector, images), theirs(images).softmax(dim=-1)[:, 1], atol=1e-6)
    del state[f"{prefix}_blocks.3._bn1.weight"]
    with pytest.raises(
        UserError, match=r"method's authors does not fit .*backbone\.blocks\.1\.1\.bn2\.weight .*missing"
    ):
        detector.load_deepfakebench(state)


@pytest.mark.parametrize("outputs", [1, 2])
def test_cnnspots_checkpoint_scores_as_there(outputs, tmp_path):
    theirs = timm.create_model("test_resnet", num_classes=outputs).eval()
    detector = create_detector("timm", backbone="test_resnet", pretrained=None)
    content = {"model": prefixed(theirs.state_dict(), "module."), "optimizer": {}, "total_steps": 3}
    detector.load_deepfakebench(saved(content, tmp_path / "blur_jpg_prob0.5.pth"))
    with torch.no_grad():
        logits = theirs(IMAGES)
    expected = logits.sigmoid()[:, 0] if outputs == 1 else logits.softmax(dim=-1)[:, 1]
    assert torch.allclose(scores(detector), expected, atol=1e-6)


def test_a_classifier_of_other_classes_is_refused_by_shape(tmp_path):
    theirs = timm.create_model("test_resnet", num_classes=5)
    detector = create_detector("timm", backbone="test_resnet", pretrained=None)
    with pytest.raises(UserError, match=r"classifier\.1\.weight: expected \[2, \d+\], got \[5, \d+\]"):
        detector.load_foreign(theirs.state_dict())


@pytest.mark.parametrize("prefix", ["fc.", ""])
def test_univfds_layer_alone_loads_over_the_published_clip(prefix, tmp_path):
    """`resproto test --weights fc_weights.pth` must not score random features of a tower that was never read."""
    torch.manual_seed(0)
    torch.save(load_clip(BACKBONES["tiny_vit"], None).state_dict(), tmp_path / "clip.pt")
    clip = read_state_dict(tmp_path / "clip.pt")
    clip.pop("quick_gelu")
    torch.save(clip, tmp_path / "clip.pt")
    head = nn.Linear(12, 1)
    torch.save(prefixed(head.state_dict(), prefix), tmp_path / "fc_weights.pth")
    model = {"backbone": BACKBONES["tiny_vit"], "pretrained": str(tmp_path / "clip.pt"), "quick_gelu": True}
    config = DetectorConfig.model_validate({"detector": "clip_probe", "model": model, "input": {"size": 32}})
    detector, note = run.create(config, tmp_path / "fc_weights.pth")
    assert note == "fc_weights.pth is a checkpoint of the method's authors"
    with torch.no_grad():
        features = load_clip(**model).eval()(IMAGES)
        assert torch.allclose(scores(detector), head(features).sigmoid()[:, 0], atol=1e-6)


def test_univfds_whole_checkpoint_loads_with_its_clip():
    source, detector = (create_detector("clip_probe", **TINY_VIT, quick_gelu=on) for on in (True, False))
    head = nn.Linear(12, 1)
    state = prefixed(source.clip.visual.state_dict(), "model.visual.") | prefixed(head.state_dict(), "fc.")
    state |= {"model.logit_scale": torch.ones(()), "model.token_embedding.weight": torch.ones(5, 16)}
    detector.load_foreign(state)
    with torch.no_grad():
        assert torch.allclose(scores(detector), head(source.eval().encode(IMAGES)).sigmoid()[:, 0], atol=1e-6)


def transformers_names(state):
    """An open_clip ViT under the names of transformers' image tower."""
    found = {}
    for key, value in state.items():
        key = re.sub(r"transformer\.resblocks\.", "encoder.layers.", key)
        for ours, theirs in (
            ("class_embedding", "embeddings.class_embedding"), ("conv1.", "embeddings.patch_embedding."),
            ("positional_embedding", "embeddings.position_embedding.weight"), ("ln_pre.", "pre_layrnorm."),
            ("ln_post.", "post_layernorm."), (".ln_1.", ".layer_norm1."), (".ln_2.", ".layer_norm2."),
            (".mlp.c_fc.", ".mlp.fc1."), (".mlp.c_proj.", ".mlp.fc2."), (".attn.", ".self_attn."),
            ("token_embedding.", "embeddings.token_embedding."), ("ln_final.", "final_layer_norm."),
        ):  # fmt: skip
            key = key.replace(ours, theirs) if ours != "class_embedding" or key == ours else key
        if match := re.fullmatch(r"(.*\.self_attn\.)in_proj_(weight|bias)", key):
            found |= {f"{match[1]}{n}_proj.{match[2]}": v for n, v in zip("qkv", value.chunk(3), strict=True)}
        else:
            found[key] = value
    return found


@pytest.mark.parametrize("form", ["faces", "benchmark"])
def test_efforts_checkpoints_load_without_their_frozen_singular_vectors(form):
    source, detector = (create_detector("effort", **TINY_VIT, quick_gelu=True) for _ in range(2))
    own = {key: value for key, value in source.state_dict().items() if ".start_" not in key}
    tower = {k.removeprefix("clip.visual."): v for k, v in own.items() if k.startswith("clip.visual.")}
    state = transformers_names(tower)
    for key in [key for key in state if key.endswith(".weight_main")]:
        layer = key.removesuffix("weight_main")
        state |= {f"{layer}S_r": torch.ones(31), f"{layer}U_r": torch.ones(32, 31), f"{layer}V_r": torch.ones(31, 32)}
    if form == "faces":
        state = prefixed(state, "module.backbone.") | {
            "module.head.weight": own["classifier.weight"],
            "module.head.bias": own["classifier.bias"],
        }
        expected = scores(source)
    else:
        head = nn.Linear(32, 1)
        state = prefixed(state, "model.vision_model.") | prefixed(head.state_dict(), "fc.")
        state |= {"model.text_model.final_layer_norm.weight": torch.ones(16), "model.logit_scale": torch.ones(())}
        with torch.no_grad():
            expected = head(source.eval().encode(IMAGES)).sigmoid()[:, 0]
    assert detector.load_foreign(state) == "checkpoint of the method's authors"
    assert torch.allclose(scores(detector), expected, atol=1e-6)


def test_forensics_adapters_checkpoint_is_refused_with_the_reason():
    detector = create_detector("forensics_adapter", **TINY_VIT, queries=8, width=24, heads=2, depth=3, patch=4,
                               hidden=16, out=8, joins=[1, 2], contrasted=[2, 3], mask_weight=0.0)  # fmt: skip
    state = {"rec_attn_clip.clip_intra_blocks.0.conv_first.weight": torch.ones(4, 32, 1)}
    with pytest.raises(UserError, match=r"anew in every pass.*clip_intra_blocks\.0\.conv_first\.weight \[4, 32, 1\]"):
        detector.load_foreign({**state, "clip_post_process.first_process.0.bias": torch.ones(4)})


# Published backbones in other namings


def transformers_file(source, folder, act):
    state = source.state_dict()
    visual, text = ({k.removeprefix(p): v for k, v in state.items() if k.startswith(p)} for p in ("visual.", "text."))
    found = {"visual_projection.weight": visual.pop("proj").T, "text_projection.weight": text.pop("text_projection").T}
    found |= prefixed(transformers_names(visual), "vision_model.") | prefixed(transformers_names(text), "text_model.")
    found |= {"logit_scale": state["logit_scale"], "vision_model.embeddings.position_ids": torch.arange(17)[None]}
    found.pop("text_model.attn_mask", None)
    torch.save(found, folder / "pytorch_model.bin")
    if act:
        (folder / "config.json").write_text(json.dumps({"vision_config": {"hidden_act": act}, "text_config": {}}))
    return str(folder / "pytorch_model.bin")


@pytest.mark.parametrize("act", ["quick_gelu", "gelu", None])
def test_transformers_clip_loads_into_both_towers(act, tmp_path):
    source = load_clip(BACKBONES["tiny_vit"], None, quick_gelu=act == "quick_gelu").eval()
    path = transformers_file(source, tmp_path, act)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clip = load_clip(BACKBONES["tiny_vit"], path).eval()
    assert any("model.quick_gelu=true" in str(each.message) for each in caught) == (act is None)
    assert bool(clip.quick_gelu) == (act == "quick_gelu")
    with torch.no_grad():
        assert torch.equal(clip(IMAGES), source(IMAGES))
        assert torch.equal(clip.class_features(), source.class_features())


@pytest.mark.slow
def test_transformers_own_clip_gives_the_same_features(tmp_path):
    transformers = pytest.importorskip("transformers")
    width = {"intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
    vision = {**width, "image_size": 32, "patch_size": 8}
    text = {**width, "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "max_position_embeddings": 24,
            "vocab_size": 49408, "eos_token_id": 49407}  # fmt: skip
    theirs = transformers.CLIPModel(
        transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=12)
    ).eval()
    theirs.save_pretrained(tmp_path)
    clip = load_clip(BACKBONES["tiny_vit"], str(tmp_path / "model.safetensors")).eval()
    assert clip.quick_gelu
    tokens = clip.tokenizer(["a real face", "a forged face"])
    with torch.no_grad():
        found = theirs(input_ids=tokens, pixel_values=IMAGES)
        assert torch.allclose(nn.functional.normalize(clip(IMAGES), dim=-1), found.image_embeds, atol=1e-5)
        assert torch.allclose(nn.functional.normalize(clip.text(tokens), dim=-1), found.text_embeds, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("vit_base_patch16_clip_224.openai", "vit_base_patch16_clip_quickgelu_224.openai"),
        ("vit_large_patch14_clip_336.openai", "vit_large_patch14_clip_quickgelu_336.openai"),
        ("vit_base_patch16_clip_quickgelu_224.openai", None),
        ("vit_base_patch16_clip_224.laion2b", None),
        ("vit_base_patch16_clip_224.openai_ft_in1k", None),
        ("test_resnet", None),
    ],
)
def test_a_name_of_timm_that_loses_quickgelu_is_warned_of_with_the_right_one(name, right, monkeypatch):
    def stop(*args):
        raise UserError("no network in tests")

    monkeypatch.setattr(timm_classifier, "fetch", stop)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(UserError, match="no network"):
            create_detector("timm", backbone=name, pretrained=True)
    found = [str(each.message) for each in caught if "QuickGELU" in str(each.message)]
    assert len(found) == (right is not None) and all(f"model.backbone={right}" in text for text in found)


def test_a_pretrained_file_of_a_timm_network_loads_under_lightnings_prefix(tmp_path):
    theirs = timm.create_model("test_resnet", num_classes=2)
    torch.save({"state_dict": prefixed(theirs.state_dict(), "model.")}, tmp_path / "last.ckpt")
    detector = create_detector("timm", backbone="test_resnet", pretrained=str(tmp_path / "last.ckpt"))
    assert torch.equal(detector.backbone.layer1[0].conv1.weight, theirs.layer1[0].conv1.weight)


def test_no_object_is_made_while_a_foreign_checkpoint_is_read(tmp_path):
    class Odd:
        def __reduce__(self):
            return print, ("run",)

    torch.save({"state_dict": {"model.weight": torch.ones(2)}, "hyper_parameters": Odd()}, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="expected tensors alone"):
        read_state_dict(tmp_path / "x.ckpt")
