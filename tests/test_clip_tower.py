"""CLIP towers: weights of every form, the right activation, prompts, and messages where weights cannot be had."""

import json
import os
import pickle
import warnings
import zipfile
from argparse import Namespace
from datetime import datetime

import numpy as np
import open_clip
import pytest
import torch
from open_clip.model import CLIP, build_model_from_openai_state_dict
from safetensors.torch import save_file
from torch import nn

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import weights
from resproto_fd.detectors.parts import clip_tower
from resproto_fd.detectors.parts.clip_tower import FORGED_PROMPTS, REAL_PROMPTS, load_clip
from resproto_fd.detectors.weights import read_state_dict, without_pretrained

VIT = {
    "embed_dim": 16,
    "vision_cfg": {"layers": 2, "width": 64, "patch_size": 8, "image_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
RESNET = {**VIT, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}}


@pytest.fixture
def images():
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained():
    """State of a "trained" CLIP in OpenAI's naming, half precision as OpenAI published."""
    torch.manual_seed(1)
    model = CLIP(**VIT, quick_gelu=True)
    for parameter in model.parameters():
        parameter.data = (parameter.data + 0.3 * torch.randn_like(parameter)).half()
    return dict(model.state_dict())


@pytest.fixture
def openai_archive(trained, tmp_path):
    """A TorchScript archive like OpenAI's: modules as attributes, three numbers and the masks beside the weights."""

    class Tree(nn.Module):
        pass

    root = Tree()
    for key, value in trained.items():
        node, parts = root, key.split(".")
        for part in parts[:-1]:
            if not hasattr(node, part):
                node.add_module(part, Tree())
            node = getattr(node, part)
        node.register_parameter(parts[-1], nn.Parameter(value))
    for name, number in (("input_resolution", 16), ("context_length", 77), ("vocab_size", 49408)):
        root.register_buffer(name, torch.tensor(number))
    root.transformer.resblocks._modules["0"].attn_mask = torch.zeros(77, 77)
    path = tmp_path / "ViT-tiny.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(root).save(str(path))
    return path


def save(state, path):
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save(state, path)
    return str(path)


@pytest.mark.slow
def test_an_openai_archive_gives_what_open_clip_makes_of_it(openai_archive, trained, images):
    reference = build_model_from_openai_state_dict(dict(trained)).float()
    clip = load_clip(VIT, str(openai_archive)).eval()
    tokens = open_clip.tokenize(REAL_PROMPTS)
    with torch.no_grad():
        torch.testing.assert_close(clip(images), reference.encode_image(images))
        torch.testing.assert_close(clip.text(tokens), reference.encode_text(tokens))
    assert clip.logit_scale.item() == trained["logit_scale"].item()
    assert clip.logit_scale.dtype == torch.float32


def test_the_archive_reader_agrees_with_torchscript_itself(openai_archive):
    ours = read_state_dict(openai_archive)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.jit.load(str(openai_archive), map_location="cpu").state_dict()
    assert set(theirs) == {key for key in ours if not key.endswith("attn_mask")}
    assert all(torch.equal(theirs[key], ours[key]) and theirs[key].dtype == ours[key].dtype for key in theirs)


def test_views_and_shared_storages_in_an_archive_are_read_as_they_are(tmp_path):
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            whole = torch.arange(12.0)
            self.register_buffer("transposed", whole.view(3, 4).t())
            self.register_buffer("tail", whole[8:])
            self.register_buffer("empty", torch.empty(0, 3))
            self.register_buffer("flags", torch.tensor([True, False]))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Views()).save(str(tmp_path / "views.pt"))
    for key, value in Views().state_dict().items():
        assert torch.equal(read_state_dict(tmp_path / "views.pt")[key], value), key


@pytest.mark.parametrize("name", ["clip.pt", "clip.bin", "clip.safetensors"])
def test_open_clip_files_load_in_either_naming(trained, images, tmp_path, name):
    expected = load_clip(VIT, save(trained, tmp_path / name), quick_gelu=True).eval()(images)
    custom = clip_tower.convert_to_custom_text_state_dict(trained)
    again = load_clip(VIT, save(custom, tmp_path / f"custom_{name}"), quick_gelu=True).eval()(images)
    assert torch.equal(expected, again)


def test_a_training_checkpoint_is_entered_and_its_module_prefix_dropped(trained, tmp_path):
    wrapped = {"epoch": 3, "state_dict": {f"module.{key}": value for key, value in trained.items()}}
    path = save(wrapped, tmp_path / "epoch_3.pt")
    assert load_clip(VIT, path, quick_gelu=True).logit_scale.item() == trained["logit_scale"].item()


@pytest.mark.slow
def test_openai_weights_bring_quick_gelu_with_them(openai_archive, trained, images, tmp_path):
    quick = load_clip(VIT, str(openai_archive)).eval()
    state_dict_form = {**trained, "input_resolution": torch.tensor(16)}
    also_quick = load_clip(VIT, save(state_dict_form, tmp_path / "state.pt")).eval()
    plain = load_clip(VIT, str(openai_archive), quick_gelu=False).eval()
    assert quick.quick_gelu and also_quick.quick_gelu and not plain.quick_gelu
    assert torch.equal(quick(images), also_quick(images))
    assert not torch.allclose(quick(images), plain(images), atol=1e-4)


def test_a_file_that_does_not_say_its_activation_is_warned_about(trained, tmp_path):
    path = save(trained, tmp_path / "clip.pt")
    with pytest.warns(UserWarning, match=r"does not say which activation.*model\.quick_gelu=true"):
        load_clip(VIT, path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**VIT, "quick_gelu": True}}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_clip(VIT, path).quick_gelu
        assert not load_clip(VIT, path, quick_gelu=False).quick_gelu


def test_the_activation_is_restored_with_a_checkpoint(openai_archive, images):
    trained_with_quick = load_clip(VIT, str(openai_archive)).eval()
    rebuilt = load_clip(VIT, None).eval()
    assert not rebuilt.quick_gelu
    rebuilt.load_state_dict(trained_with_quick.state_dict())
    assert torch.equal(rebuilt(images), trained_with_quick(images))
    tokens = open_clip.tokenize(["a face"])
    assert torch.equal(rebuilt.text(tokens), trained_with_quick.text(tokens))
    rebuilt.load_state_dict(load_clip(VIT, None).state_dict())
    assert type(rebuilt.visual.transformer.resblocks[0].mlp.gelu) is nn.GELU


@pytest.fixture
def published(monkeypatch, trained, tmp_path):
    """open_clip knows a model "tiny" with weights "openai" (QuickGELU) and "plain", both on the hub."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", VIT)
    entry = {"url": "https://weights.test/tiny.pt", "hf_hub": "someone/tiny/"}
    tags = {"openai": {**entry, "quick_gelu": True}, "plain": entry}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny", tags)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(weights, "_reachable", lambda url: False)
    return tmp_path


def cache_on_hub(folder, state):
    """Put weights where the hub's client keeps them."""
    root = folder / "hub" / "models--someone--tiny"
    (root / "snapshots" / "abc").mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("abc")
    save(state, root / "snapshots" / "abc" / "open_clip_model.safetensors")


def test_a_tag_says_the_activation_and_its_cached_file_needs_no_network(published, trained):
    cache_on_hub(published, trained)
    assert load_clip("tiny", "openai").quick_gelu
    assert not load_clip("tiny", "plain").quick_gelu
    assert load_clip("tiny", "openai").logit_scale.item() == trained["logit_scale"].item()


def test_weights_fetched_by_openais_package_are_found(published, trained):
    (published / ".cache" / "clip").mkdir(parents=True)
    save(trained, published / ".cache" / "clip" / "tiny.pt")
    assert load_clip("tiny").logit_scale.item() == trained["logit_scale"].item()


def test_of_a_user_without_a_home_folder_it_is_said(published, monkeypatch):
    def unknown(user):
        raise KeyError(f"getpwuid(): uid not found: {user}")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(UserError, match=r"'openai' of tiny cannot be found: .*no home folder.*HOME is not set"):
        load_clip("tiny")


def test_without_a_network_the_message_says_what_to_fetch_and_where_to_put_it(published, monkeypatch):
    expected = (
        r"'openai' of tiny cannot be found: .*cannot be reached.*Fetch https://weights\.test/tiny\.pt or "
        r"https://\S+/someone/tiny/resolve/main/open_clip_model\.safetensors and set model\.pretrained=/path"
    )
    with pytest.raises(UserError, match=expected):
        load_clip("tiny")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(weights, "_reachable", lambda url: pytest.fail("asked the network though told to stay offline"))
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        load_clip("tiny")


def test_an_unreachable_hub_falls_back_to_the_other_address(published, trained, monkeypatch):
    monkeypatch.setattr(weights, "_reachable", lambda url: url.startswith("https://weights.test"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, path, digest: save(trained, published / path))
    assert load_clip("tiny").quick_gelu
    assert (published / "torch" / "checkpoints" / "tiny.pt").is_file()


def test_without_pretrained_nothing_is_read_but_the_activation_is_known(published):
    with without_pretrained():
        assert load_clip("tiny", "openai").quick_gelu
        load_clip(VIT, "/no/such/file.pt")
    with pytest.raises(UserError, match="neither"):
        load_clip(VIT, "/no/such/file.pt")


def test_unknown_tags_and_files_name_the_choices(published):
    with pytest.raises(UserError, match=r"'opena' is neither a tag of 'tiny' \(openai, plain\) nor a file.*'openai'"):
        load_clip("tiny", "opena")
    with pytest.raises(UserError, match=r"'openai' is neither a tag \(the given layout has none\) nor a file.*null"):
        load_clip(VIT)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("ViT-B16", r"no model 'ViT-B16'.*nearest is 'ViT-B-16'"),
        ("coca_ViT-B-32", "captioner"),
        ({"embed_dim": 16, "vision_cfg": {}}, "text_cfg is missing or wrong"),
        ({**VIT, "vision_cfg": {"depth": 3}}, "open_clip cannot build it: .*depth"),
        ("no/such.json", r"no/such\.json: cannot be read"),
        ({**VIT, "text_cfg": {"hf_model_name": "evil"}}, "text_cfg: hf_model_name: only with a model that open_clip"),
        ({**VIT, "text_cfg": {"tokenizer_kwargs": {}}}, "text_cfg: tokenizer_kwargs: only with a model that open_clip"),
        ({**VIT, "vision_cfg": {"timm_model_name": "local-dir:evil"}}, "timm has no model 'local-dir:evil'"),
    ],
)
def test_backbones_that_are_none_are_named(backbone, message):
    with pytest.raises(UserError, match=message):
        load_clip(backbone, None)


def test_a_layout_may_come_from_a_json_file(tmp_path, images):
    path = tmp_path / "layout.json"
    path.write_text(json.dumps({"model_cfg": VIT}))
    assert load_clip(str(path), None)(images).shape == (2, 16)


def test_weights_of_another_architecture_name_the_first_keys_and_shapes(trained, tmp_path):
    path = save(trained, tmp_path / "clip.pt")
    wider = {**VIT, "vision_cfg": {**VIT["vision_cfg"], "width": 128}}
    message = r"clip\.pt does not fit .*: visual\.class_embedding: expected \[128\], got \[64\]"
    with pytest.raises(UserError, match=message):
        load_clip(wider, path, quick_gelu=True)
    with pytest.raises(UserError, match=r"visual\.\S+ \[.*\] is missing.*visual\.\S+ \[.*\] is unknown"):
        load_clip(RESNET, path, quick_gelu=True)


class Malicious:
    def __reduce__(self):
        return os.system, ("echo run > run_by_pickle",)


def test_nothing_in_a_weight_file_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": Malicious()}, tmp_path / "checkpoint.pt")
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("archive/constants.pkl", b"")
        archive.writestr("archive/data.pkl", pickle.dumps(Malicious()))
    for name in ("checkpoint.pt", "archive.pt"):
        with pytest.raises(UserError, match="cannot be read as weights"):
            read_state_dict(tmp_path / name)
    assert not (tmp_path / "run_by_pickle").exists()


def test_files_that_hold_no_weights_are_named(tmp_path):
    (tmp_path / "page.pt").write_text("<html>moved</html>")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, message in (
        ("page.pt", "cannot be read"),
        ("cut.safetensors", "cannot be read"),
        ("list.pt", "expected named"),
    ):
        with pytest.raises(UserError, match=rf"{name}.*{message}"):
            read_state_dict(tmp_path / name)
    with pytest.raises(UserError, match=r"gone\.pt: no such weight file"):
        read_state_dict(tmp_path / "gone.pt")


WEIGHTS = {"body.weight": torch.ones(2), "scale": torch.zeros(1)}
WRAPPED = {f"module.{key}": value for key, value in WEIGHTS.items()}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        WRAPPED,
        {"model": WRAPPED},
        {"net": WEIGHTS},
        {"model_state_dict": WEIGHTS, "epoch": 3},
        {"state_dict": WRAPPED, "best": np.float64(0.5), "step": np.int64(3), "args": Namespace(lr=1e-3, sets=["a"])},
        {**WRAPPED, "epoch": torch.tensor(3)},
    ],
)
def test_weights_are_found_among_what_training_scripts_save_with_them(content, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    found = read_state_dict(tmp_path / "weights.pth")
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(value, WEIGHTS[key]) for key, value in found.items())


def test_a_file_with_other_objects_is_refused_with_their_name_and_a_remedy(tmp_path):
    torch.save({"state_dict": WEIGHTS, "when": datetime(2026, 1, 1)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"got datetime\.datetime, which could run code"):
        read_state_dict(tmp_path / "weights.pth")


def test_prompts_are_tokenised_offline_to_the_length_of_the_layout():
    layout = {**VIT, "text_cfg": {**VIT["text_cfg"], "context_length": 20}}
    tokens = load_clip(layout, None).tokenizer(REAL_PROMPTS)
    assert tokens.shape == (4, 20)
    assert torch.equal(tokens, open_clip.tokenize(REAL_PROMPTS)[:, :20])
    assert (tokens == 49407).any(dim=1).all(), "no prompt is cut"


def test_text_features_average_raw_embeddings_and_then_normalise():
    clip = load_clip(VIT, None)
    found = clip.text_features([REAL_PROMPTS, FORGED_PROMPTS[:2]])
    with torch.no_grad():
        mean = clip.text(open_clip.tokenize(FORGED_PROMPTS[:2])).sum(0) / 2
    torch.testing.assert_close(found[1], mean / mean.norm())
    assert found.shape == (2, 16)
    assert not found.requires_grad


def test_random_towers_follow_the_global_seed():
    features = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        features.append(load_clip(VIT, None).text_features([REAL_PROMPTS, FORGED_PROMPTS]))
    assert torch.equal(features[0], features[1])
    assert not torch.equal(features[0], features[2])


@pytest.mark.parametrize(("layout", "size"), [(VIT, 16), (RESNET, 32)])
def test_images_of_another_size_than_the_tower_takes_are_refused(layout, size):
    clip = load_clip(layout, None)
    assert clip(torch.zeros(2, 3, size, size)).shape == (2, 16)
    with pytest.raises(UserError, match=rf"expected images of \({size}, {size}\), got \(48, 48\); set input.size"):
        clip(torch.zeros(2, 3, 48, 48))
