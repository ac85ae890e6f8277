"""Nothing of a stranger's is code: run folders, presets, protocols, checkpoints, page texts, the current folder."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from tiny import quick_and_slow

from resproto_fd.training.cli import main
from resproto_fd.training.results import RunResult

QUICK = ["train.epochs=1", "train.batch_size=8", "run.workers=0", "run.device=cpu", "run.progress=false"]


class Evil:
    """A pickle of it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (Path(self.marker),)


@pytest.fixture(scope="module")
def run(demo, tmp_path_factory):
    """A run of resnet_tiny, which nobody changes."""
    out = tmp_path_factory.mktemp("run")
    words = ["--detector", "resnet_tiny", "--protocol", "demo_cross", f"data.root={demo}", f"run.out={out}"]
    assert main(["train", *words, *QUICK, "run.save_features=true"]) == 0
    return out / "demo_cross" / "resnet_tiny" / "seed0"


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """A file that only code of a stranger makes: by importing a module on the path, or by calling what is there."""
    path = tmp_path / "HIT"
    (tmp_path / "site").mkdir()
    code = f"import pathlib\nfrom made import PeerDetector\npathlib.Path({str(path)!r}).touch()\n"
    code += "class Net(PeerDetector): ...\n"
    (tmp_path / "site" / "strangers_module.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "strangers_module", raising=False)
    return path


@pytest.fixture
def own(run, tmp_path):
    """A copy of the run, to be forged."""
    return Path(shutil.copytree(run.parents[2], tmp_path / "runs")) / "demo_cross" / "resnet_tiny" / "seed0"


def foreign(marker):
    """Parts of a detector's configuration that would run something."""
    return [
        {"target": "strangers_module:Net", "config": {}},
        {"target": "subprocess:call", "config": {"touch": None, str(marker): None}},
        {"target": "pathlib:Path.touch", "config": {}},
    ]


def forged(folder, model):
    """Puts a class into a run's result and configuration."""
    result = json.loads((folder / "result.json").read_text())
    result["config"]["detector"] |= {"detector": "deepfakebench_class", "model": model}
    (folder / "result.json").write_text(json.dumps(result))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["detector"] |= {"detector": "deepfakebench_class", "model": model}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.mark.slow
@pytest.mark.parametrize("which", range(3))
def test_a_forged_run_names_no_class(demo, own, marker, capsys, which):
    forged(own, foreign(marker)[which])
    quick = [f"data.root={demo}", "run.device=cpu", "run.workers=0"]
    words = ["--weights", str(own / "best.pt"), "--detector", "resnet_tiny", "--protocol", "demo_cross", *quick]
    assert main(["test", *words, "--out", str(own / "again")]) == 0  # with the preset that was named
    tested = RunResult.load(next((own / "again").rglob("result.json")))
    assert tested.config["detector"]["detector"] == tested.detector_class != "deepfakebench_class"
    for command in (["test", "--run", str(own), *quick], ["ablate", str(own), "model.width=1,2"]):
        assert main(command) == 2
        assert "a file names code to import" in capsys.readouterr().err
    assert main(["leaderboard", str(own.parents[2]), "--out", str(own / "board")]) == 0
    assert main(["evaluate", str(own)]) == 0
    assert not marker.exists()


@pytest.mark.parametrize("which", range(3))
def test_a_preset_of_a_stranger_names_no_class(demo, tmp_path, marker, capsys, which):
    path = tmp_path / "evil.yaml"
    path.write_text(yaml.safe_dump({"detector": "deepfakebench_class", "model": foreign(marker)[which]}))
    rest = ["--protocol", "demo_cross", f"data.root={demo}", f"run.out={tmp_path / 'runs'}", *QUICK]
    settings = [f"data.root={demo}", "model.config={}"]
    for command in (
        ["train", "--detector", str(path), *rest],
        ["train", "--detector_path", str(path), *rest],
        ["test", "--detector_path", str(path), *rest],
        ["demo", "--size", "tiny", "--out", str(tmp_path / "demo"), "--detectors", str(path), *settings[1:]],
    ):
        assert main(command) == 2
        assert "a file names code to import" in capsys.readouterr().err
    assert not marker.exists()


@pytest.mark.parametrize(
    "step",
    [
        {"FDA": {"reference_images": ["PICTURE"], "p": 1.0}},
        {"OneOf": {"transforms": ["HorizontalFlip", {"HistogramMatching": {"reference_images": ["PICTURE"]}}]}},
        {"TextImage": {"font_path": "PICTURE"}},
    ],
)
def test_an_augmentation_of_a_stranger_opens_no_file(tmp_path, capsys, step):
    picture = tmp_path / "private.png"
    cv2.imwrite(str(picture), np.zeros((64, 64, 3), np.uint8))
    steps = json.loads(json.dumps([step]).replace("PICTURE", str(picture)))
    path = tmp_path / "evil.yaml"
    path.write_text(yaml.safe_dump({"detector": "meso4", "train": {"augment": {"albumentations": steps}}}))
    rest = ["--protocol", "demo_cross", f"data.root={tmp_path / 'nowhere'}", f"run.out={tmp_path / 'runs'}"]
    refused = "train.augment: a file names other files to open here"
    for words in (["--detector", str(path)], ["--detector_path", str(path), "train.epochs=1"]):
        assert main(["train", *words, *rest]) == 2
        assert refused in capsys.readouterr().err
    if "OneOf" in step:
        for words in (["--trust-code"], [f"train.augment={json.dumps({'albumentations': steps})}"]):
            assert main(["train", "--detector", str(path), *words, *rest]) == 2
            assert refused not in capsys.readouterr().err


@pytest.mark.slow
def test_a_class_that_was_typed_or_whose_file_is_trusted_is_imported(demo, tmp_path, marker, capsys):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "detector: deepfakebench_class\nmodel: {target: 'strangers_module:Net', config: {width: 6}}\ninput: {size: 8}\n"
    )
    rest = ["--protocol", "demo_cross", f"data.root={demo}", f"run.out={tmp_path / 'runs'}", *QUICK]
    for words in (
        ["--detector", str(path), "model.target=strangers_module:Net"],
        ["--detector", str(path), "--trust-code"],
        [
            "--detector",
            "deepfakebench_class",
            "model.target=strangers_module:Net",
            "model.config={width: 6}",
            "input.size=8",
        ],
    ):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        assert main(["train", *words, *rest]) == 0
        assert marker.exists()
        marker.unlink()
        sys.modules.pop("strangers_module")
    assert main(["train", "--detector", str(path), "model.target=subprocess:call", *rest]) == 2
    assert "expected a torch.nn.Module, got the function call" in capsys.readouterr().err


@pytest.mark.slow
def test_figures_of_a_class_of_another_package_are_drawn_if_it_is_trusted(own, marker, capsys):
    forged(own, {"target": "strangers_module:Net", "config": {"width": 6}})
    assert main(["figures", str(own)]) == 2
    assert "--trust-code" in capsys.readouterr().err and not marker.exists()
    assert main(["figures", str(own), "--untrained", "--frames", "1", "--trust-code"]) == 0
    assert marker.exists() and (own / "figures_untrained" / "heatmaps.png").is_file()


TAGS = ["!!python/object/apply:pathlib.Path.touch [{marker}]", "!!python/name:strangers_module.Net", "!own x"]


@pytest.mark.parametrize("tag", quick_and_slow(TAGS, TAGS[:1]))
@pytest.mark.parametrize("where", ["protocol", "preset", "config.yaml", "word", "data set"])
def test_no_yaml_makes_objects(demo, own, tmp_path, marker, capsys, where, tag):
    tag = tag.format(marker=marker)
    protocol, preset = tmp_path / "p.yaml", tmp_path / "d.yaml"
    test_set = "Evil" if where == "data set" else "Demo-A"
    note = tag if where == "protocol" else "x"
    protocol.write_text(f"train: []\ntest: [{test_set}]\nselection: {{rule: last}}\nnote: {note}\n")
    preset.write_text(f"detector: chance\nnote: {tag if where == 'preset' else 'x'}\n")
    shutil.copytree(demo, tmp_path / "data")
    text = f"json: Demo-A.json\nstore: Demo-A_lmdb\nsource: {tag}\n"
    (tmp_path / "data" / "dataset_json" / "Evil.yaml").write_text(text)
    words = ["test", "--detector", str(preset), "--protocol", str(protocol), f"data.root={tmp_path / 'data'}"]
    words += ["run.device=cpu", "run.workers=0", f"run.out={tmp_path / 'out'}"]
    if where == "config.yaml":
        (own / "config.yaml").write_text((own / "config.yaml").read_text() + f"\nseed: {tag}\n")
        words = ["test", "--run", str(own)]
    assert main([*words, *([f"run.task={tag}"] if where == "word" else [])]) == 2
    assert "not readable as YAML" in capsys.readouterr().err
    assert not marker.exists()


def save_pickle(path, marker):
    path.write_bytes(pickle.dumps({"model": Evil(marker)}))


def save_torch(path, marker):
    torch.save({"model": {"weight": torch.ones(1)}, "more": Evil(marker)}, path)


def save_script(path, marker):
    """As TorchScript lays it out."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickle.dumps(Evil(marker)))
        archive.writestr("x/constants.pkl", pickle.dumps(Evil(marker)))


@pytest.mark.parametrize("save", [save_pickle, save_torch, save_script])
@pytest.mark.parametrize("name", quick_and_slow(["w.pth", "w.pt", "w.safetensors", "w.bin", "w"], ["w.pth", "w"]))
def test_no_checkpoint_runs_code(demo, own, tmp_path, marker, capsys, save, name):
    save(tmp_path / name, marker)
    rest = ["--protocol", "demo_cross", f"data.root={demo}", f"run.out={tmp_path / 'out'}", "run.device=cpu"]
    assert main(["test", "--detector", "resnet_tiny", "--weights", str(tmp_path / name), *rest]) == 2
    pretrained = f"model.pretrained={tmp_path / name}"
    assert main(["train", "--detector", "resnet_tiny", pretrained, *rest, *QUICK]) == 2
    save(own / "best.pt", marker)
    assert main(["ablate", str(own), "model.dropout=0.0,0.1"]) == 2
    for checkpoint in (own / "checkpoints").iterdir():
        save(checkpoint, marker)
    main(["train", "--detector", "resnet_tiny", *rest[:-2], f"run.out={own.parents[2]}", *QUICK])
    assert "Traceback" not in capsys.readouterr().err
    assert not marker.exists()


def test_no_table_of_scores_or_features_is_unpickled(own, tmp_path, marker):
    evil = np.array([Evil(marker)], dtype=object)
    for path in [*own.rglob("*.npz")]:
        np.savez(path, features=evil, score=evil, videos=evil, format=evil)
    main(["evaluate", str(own)])
    main(["ablate", str(own), "model.dropout=0.0,0.1"])
    main(["leaderboard", str(own), "--out", str(tmp_path / "board")])
    assert not marker.exists()


MODULES = """
argparse ast collections csv ctypes cv2 encodings filelock importlib io json lmdb logging multiprocessing numpy os
pathlib pickle platform pydantic random re secrets selectors shutil signal site sitecustomize socket sklearn statistics
string struct subprocess tempfile threading timm torch tqdm types typing usercustomize uuid warnings yaml zipfile
configs detectors losses preprocessing trainer training tensorboard open_clip jinja2 av mtcnn joblib
"""


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """The current folder, full of modules that leave a file when they are imported; its marker."""
    folder, marker = tmp_path / "here", tmp_path / "HIT"
    folder.mkdir()
    code = f"open({str(marker)!r}, 'a').write(__name__ + chr(10))\n"
    for name in MODULES.split():
        (folder / f"{name}.py").write_text(code)
    (folder / "resproto_fd" / "training").mkdir(parents=True)
    for part in ("__init__", "training/__init__", "training/cli", "training/train"):
        (folder / "resproto_fd" / f"{part}.py").write_text(code)
    (folder / "evil-1.dist-info").mkdir()
    (folder / "evil-1.dist-info" / "METADATA").write_text("Name: evil\nVersion: 1\n")
    (folder / "evil-1.dist-info" / "entry_points.txt").write_text("[resproto_fd.detectors]\nevil = torch:Evil\n")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text(f"[core]\nfsmonitor = touch {marker}\nrepositoryformatversion = 0\n")
    monkeypatch.chdir(folder)
    return marker


def resproto(*words, launcher=()):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [*launcher, str(Path(sys.executable).with_name("resproto")), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_current_folder_of_a_command_holds_no_code(hostile):
    assert "resproto_fd" in resproto("list", "detectors")
    assert not hostile.exists()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    assert subprocess.run([sys.executable, "-c", "import yaml"], env=environment).returncode == 0
    assert hostile.exists()  # the fixture works


def test_a_command_that_python_runs_as_a_module_leaves_the_current_folder(tmp_path):
    """What it imports from then on; of what Python imports before, SECURITY.md tells."""
    for name in ("yaml", "torch", "pydantic"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'HIT')!r}, 'w')")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    command = [sys.executable, "-m", "resproto_fd.training.cli", "list", "detectors"]
    assert subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode == 0
    assert not (tmp_path / "HIT").exists()


@pytest.mark.slow
def test_no_command_imports_from_the_current_folder(hostile, demo, run, tmp_path):
    """Nor do the processes that it starts."""
    out, data = tmp_path / "out", f"data.root={demo}"
    quick = [
        "--protocol",
        "demo_cross",
        data,
        f"run.out={out}",
        *(word for word in QUICK if "workers" not in word),
        "run.workers=2",
        "train.compile=false",
    ]
    pictures = tmp_path / "pictures" / "Set" / "test" / "real"
    pictures.mkdir(parents=True)
    for number in range(4):
        import cv2

        cv2.imwrite(str(pictures / f"{number}.png"), np.full((64, 64, 3), 40 * number, np.uint8))
    resproto("train", "--detector", "resnet_tiny", *quick)
    words = ["--detector", "resnet_tiny", "--seed", "1", *quick]
    beside = Path(torch.__file__).parents[4] / "bin" / "torchrun"
    resproto("train", *words, launcher=(str(beside), "--standalone", "--nproc_per_node=2", "--no-python"))
    folder = out / "demo_cross" / "resnet_tiny" / "seed0"
    resproto("test", "--run", str(folder), "run.workers=2")
    resproto("evaluate", str(folder))
    resproto("ablate", str(run), "model.dropout=0.0,0.1")
    resproto("control", "--protocol", "demo_cross", data, "--out", str(out))
    resproto("submit", "--protocol", "demo_cross", "--template", str(tmp_path / "t.csv"), data)
    resproto("leaderboard", str(out), "--out", str(tmp_path / "board"))
    resproto(
        "faces", str(pictures.parents[1]), "--out", str(tmp_path / "crops"), "--detector", "none", "--processes", "2"
    )
    resproto(
        *("manifest", "folders", "--root", str(tmp_path / "crops" / "Set"), "--out", str(tmp_path / "json")),
        *("--pictures", "--allow", "one-class"),
    )
    manifest, store = demo / "dataset_json" / "Demo-A.json", demo / "lmdb" / "Demo-A_lmdb"
    resproto("pack", str(manifest), "--frames", str(store), "--out", str(tmp_path / "A_lmdb"), "--jobs", "2")
    resproto("check", str(manifest), "--store", str(store), "--html", str(tmp_path / "audit.html"))
    resproto("demo", "--size", "tiny", "--jobs", "2", "--detectors", "chance", "--out", str(tmp_path / "demo"))
    assert not hostile.exists(), hostile.read_text()
