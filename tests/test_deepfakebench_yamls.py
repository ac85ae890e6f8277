"""Each image detector of DeepfakeBench trains a step from RESPROTO_DATA and the files of its training/pretrained/."""

import json

import pytest
import timm
import torch
import yaml

from resproto_fd.configs.deepfakebench_keys import DATA_AUG, own_values
from resproto_fd.training.cli import main
from resproto_fd.training.results import RunResult

DOWNLOADS = {"capsule_net", "clip", "effort", "recce", "uia_vit"}
"""DeepfakeBench downloads the weights of these, so random ones take their place here."""
FILES = {
    "xception-b5690688": ("xception", "backbone."),
    "efficientnet-b4-6ed6700e": ("efficientnetb4", "backbone.efficientnet."),
    "backbone": ("iid", "explicit_extractor."),
}
"""File of training/pretrained/ -> detector whose checkpoint holds its tensors, and their prefix there."""
TIMM = {"hrnetv2_w48_imagenet_pretrained": "hrnet_w48", "resnet34-b627a593": "resnet34"}
FOREIGN = {"lmdb_dir": "I:\\transform_2_lmdb", "dataset_json_folder": "/workspace/someone/dataset_json"}
EFFICIENT = {"efficientnetb4", "facexray", "lrl", "lsda", "multi_attention", "sia"}


def write_weights(shared, folder) -> None:
    """Writes the files of training/pretrained/, of made weights, in the naming that the published ones have."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for file, (detector, prefix) in FILES.items():
        state = {}
        for key, shape, dtype in json.loads((shared / "parity/keys" / f"{detector}.json").read_text()):
            if not key.startswith(prefix) or "adjust_channel" in key:
                continue
            value = torch.randn(shape, generator=generator) * 0.02 + ("running_var" in key)
            state[key.removeprefix(prefix).replace("last_linear", "fc")] = value.to(getattr(torch, dtype))
        if file.startswith("xception"):
            state |= {"fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
        elif file.startswith("efficientnet"):
            state |= {"_fc.weight": torch.zeros(1000, 1792), "_fc.bias": torch.zeros(1000)}
        torch.save(state, folder / f"{file}.pth")
    for file, name in TIMM.items():
        torch.save(timm.create_model(name).state_dict(), folder / f"{file}.pth")


@pytest.fixture(scope="module")
def layout(shared, made_once):
    """(A checkout with training/pretrained/, a folder for RESPROTO_DATA)."""

    def make(folder) -> None:
        write_weights(shared, folder / "checkout/training/pretrained")
        made = shared / "fixtures/deepfakebench"
        (folder / "data").mkdir()
        for name, place in (("dataset_json", "dataset_json"), ("lmdb", "datasets/lmdb"), ("rgb", "datasets/rgb")):
            (folder / "data" / name).symlink_to(made / place)

    folder = made_once("deepfakebench_layout", make)
    return folder / "checkout", folder / "data"


def their_yaml(name: str) -> dict:
    """A YAML of DeepfakeBench's form, with paths of another machine where its own has such."""
    file = "efficientnet-b4-6ed6700e" if name in EFFICIENT else "xception-b5690688"
    return {
        **own_values()[name],
        **FOREIGN,
        "model_name": name,
        "log_dir": "/data/someone/logs",
        "pretrained": f"/home/someone/DeepfakeBench/training/pretrained/{file}.pth",
        "restore_ckpt": "None",
        "train_dataset": ["FaceForensics++"],
        "test_dataset": ["Celeb-DF-v2"],
        "compression": "c23",
        "train_batchSize": 4,
        "test_batchSize": 8,
        "workers": 0,
        "frame_num": {"train": 1, "test": 1},
        "resolution": 224 if name in ("clip", "effort", "uia_vit") else 256,
        "use_data_augmentation": True,
        "data_aug": DATA_AUG,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "optimizer": {"type": "adam", "adam": {"lr": 2e-4, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}},
        "lr_scheduler": None,
        "nEpochs": 0,
        "manualSeed": 1024,
        "metric_scoring": "auc",
        "cuda": True,
        **({"explicit_extractor_pretrained": "./training/pretrained/backbone.pth"} if name == "iid" else {}),
        **({"teacher": "efficientnetb4", "student": "efficientnetb4", "real_encoder": None} if name == "lsda" else {}),
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(own_values()))
def test_a_yaml_trains_a_step_from_the_data_folder_alone(name, layout, tmp_path, monkeypatch, capsys):
    checkout, data = layout
    path = checkout / "training/config/detector" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(their_yaml(name)))
    monkeypatch.setenv("RESPROTO_DATA", str(data))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["run.max_steps=1", "run.progress=false", "run.save_checkpoints=false", "run.device=cpu"]
    if name in DOWNLOADS:
        words.append("model.pretrained=null")
    assert main(["train", "--detector_path", str(path), "--out", str(tmp_path), *words]) == 0, capsys.readouterr().err
    (file,) = tmp_path.rglob("result.json")
    result = RunResult.load(file)
    model = result.config["detector"]["model"]
    assert result.detector == name and result.train_images == 4
    if name not in {*DOWNLOADS, "meso4", "meso4Inception"}:
        assert model["pretrained"].startswith(str(checkout / "training/pretrained"))
    if name == "iid":
        assert model["identity_weights"] == str(checkout / "training/pretrained/backbone.pth")
