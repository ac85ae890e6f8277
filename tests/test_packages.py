"""A run as a package: the same scores, no code, no path of the machine, and graphs that agree."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made import PeerDetector  # noqa: F401  (named as code by a package)

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import sha256_of, write_text
from resproto_fd.preprocessing.store.frame_store import open_store
from resproto_fd.trainer.checkpoint import seed_everything
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.run_folder import exclusive
from resproto_fd.training.calibration import Calibration
from resproto_fd.training.cli import main
from resproto_fd.training.packages import contents, hub, load, reading, writing
from resproto_fd.training.protocols import resolve
from resproto_fd.training.results import RunResult
from resproto_fd.training.run import create
from resproto_fd.training.scores import ScoreTable


@pytest.fixture(scope="session")
def package(resproto_run, made_once):
    return made_once("package", lambda folder: writing.write(resproto_run, folder))


def changed_copy(package, tmp_path, **files):
    """A copy of a package with other files, and a list that agrees with them."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in package.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    for name, text in files.items():
        (copy / name.replace("_yaml", ".yaml")).write_text(text)
    listed = json.loads((copy / "package.json").read_text())
    listed["files"] = {name: sha256_of(copy / name) for name in listed["files"]}
    write_text(copy / "package.json", json.dumps(listed))
    return copy


def stored(demo, folder):
    """The frames and scores of the run's test set."""
    config = reading.read_config(folder)
    data = loading.data_settings([f"data.root={demo}"], "test")
    frames = resolve(config.protocol, data, tests_only=True).tests["Demo-C"]
    store = open_store(demo / "lmdb" / "Demo-C_lmdb")
    return [store.read(path) for path in frames.paths]


def test_predict_gives_the_runs_own_scores(demo, resproto_run, package):
    scores = ScoreTable.load(resproto_run / "scores" / "Demo-C.npz").score
    found = load(package).predict(stored(demo, package))
    assert found.tolist() == scores.tolist()
    assert len(set(scores.tolist())) > 5


@pytest.mark.slow
def test_testing_a_package_gives_the_runs_result_with_its_history(demo, resproto_run, package, tmp_path):
    words = ["--package", str(package), "--out", str(tmp_path), "run.device=cpu", "run.progress=false"]
    assert main(["test", *words, "run.workers=0", f"data.root={demo}"]) == 0
    (path,) = tmp_path.rglob("result.json")
    own, again = RunResult.load(resproto_run / "result.json"), RunResult.load(path)
    assert again.fingerprint == own.fingerprint
    assert again.selected_on == own.selected_on
    assert (again.trained_on, again.overrides) == (own.trained_on, own.overrides)
    left = {"made_from"}
    assert again.tests["Demo-C"].model_dump(exclude=left) == own.tests["Demo-C"].model_dump(exclude=left)
    assert (path.parent / "scores" / "Demo-C.npz").is_file()


def test_a_package_holds_what_it_lists_and_no_path_of_the_machine(demo, resproto_run, package):
    names = {path.name for path in package.iterdir()}
    own = {"package.json", "config.yaml", "model.safetensors", "result.json", "README.md"}
    assert names - own in (set(), {"calibration.json"}, {"calibration.json", "calibration_reference.npz"})
    assert own <= names
    for path in package.iterdir():
        content = path.read_bytes()
        assert str(demo).encode() not in content
        assert str(resproto_run.parents[2]).encode() not in content
        assert not content.startswith((b"PK", b"\x80"))  # no ZIP, no pickle
    card = (package / "README.md").read_text()
    for text in ("## Intended use", "## Limits", "drawn by code", "## Results", "Demo-C", "Trained on: Demo-A"):
        assert text in card
    name = reading.read_config(package).protocol.name
    assert "_" in name and f"--protocol {name}`" in card  # a backslash would be shown in a span of code
    test = RunResult.load(resproto_run / "result.json").tests["Demo-C"]
    found = test.intervals["frame_auc"]
    assert f"{test.frame_auc:.4f} ({found.low:.3f} to {found.high:.3f})" in card


def test_a_calibration_goes_with_its_run(resproto_run, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "result.json", "best.pt", "calibration.json"):
        (run / name).write_bytes((resproto_run / name).read_bytes())
    writing.write(run, tmp_path / "out")
    assert (tmp_path / "out" / "calibration.json").read_bytes() == (resproto_run / "calibration.json").read_bytes()
    assert "calibration.json" in contents.check(tmp_path / "out").files
    Calibration.load(run).model_copy(update={"weights": "1" * 64}).save(run)
    writing.write(run, tmp_path / "other")
    assert "calibration.json" not in contents.check(tmp_path / "other").files


def test_a_result_of_other_weights_is_not_packaged(resproto_run, tmp_path):
    for name in ("config.yaml", "result.json"):
        (tmp_path / name).write_bytes((resproto_run / name).read_bytes())
    state = torch.load(resproto_run / "best.pt", weights_only=True)
    torch.save(state | {"epoch": 99}, tmp_path / "best.pt")
    with pytest.raises(UserError, match=r"result.json is of other weights than best.pt"):
        writing.write(tmp_path, tmp_path / "package")


def test_an_export_that_was_killed_blocks_no_later_command_in_the_run(tmp_path):
    (tmp_path / ".package.x.part" / "package").mkdir(parents=True)
    (tmp_path / ".package.x.part" / "package" / ".model.safetensors.1.part").touch()
    (tmp_path / "keep").mkdir()
    with exclusive(tmp_path, World(0, 1, torch.device("cpu"))):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "keep"]


def test_weights_that_only_the_seed_determines_are_those_of_the_run(resproto_run):
    detector = loading.load("detectors", "clip_zero_shot_tiny")
    config = reading.read_config(resproto_run).model_copy(update={"detector": detector, "seed": 7})
    nowhere, result = resproto_run / "nowhere", RunResult.load(resproto_run / "result.json")
    torch.manual_seed(1)
    found = writing._weights(nowhere, config, result)
    seed_everything(7)
    wanted = create(detector)[0].state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_no_file_of_the_machine_that_an_augmentation_names_is_named(resproto_run):
    config = reading.read_config(resproto_run)
    steps = {"albumentations": [{"X": {"font": "/home/me/a.ttf"}}]}
    train = config.detector.train.model_copy(update={"augment": steps})
    config = config.model_copy(update={"detector": config.detector.model_copy(update={"train": train})})
    for made in (
        writing.without_places(config).model_dump(mode="json"),
        writing.without_places_in(config.model_dump(mode="json")),
    ):
        assert "/home/me" not in json.dumps(made) and "a.ttf" in json.dumps(made)


def test_a_strangers_package_runs_no_code(package, tmp_path):
    text = (package / "config.yaml").read_text()
    config = loading.load_yaml(package / "config.yaml")
    config["detector"] |= {"detector": "deepfakebench_class", "model": {"target": "made:PeerDetector"}}
    import yaml

    copy = changed_copy(package, tmp_path, config_yaml=yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"names code to import, model\.target=made:PeerDetector"):
        load(copy)
    assert main(["test", "--package", str(copy)]) == 2
    assert "deepfakebench_class" not in text


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml"])
def test_a_file_that_was_changed_or_is_missing_is_named(package, tmp_path, name):
    copy = changed_copy(package, tmp_path)
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    with pytest.raises(UserError, match=f"{name}: is not the file that package.json lists"):
        load(copy)
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"{name}: is missing from the package"):
        load(copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 9, "files": {}}', "format 9, this version reads up to 1; upgrade"),
        ('{"format": 1, "files": {}}', "does not list config.yaml"),
        ('{"format": 1, "files": {"../x": "' + "0" * 64 + '"}}', "does not list config.yaml"),
        ("[]", "get the package again"),
    ],
)
def test_another_list_of_files_is_an_error(package, tmp_path, text, message):
    copy = changed_copy(package, tmp_path)
    (copy / "package.json").write_text(text)
    with pytest.raises(UserError) as caught:
        load(copy)
    assert message in str(caught.value)


def test_a_list_never_leads_out_of_the_package(package, tmp_path):
    copy = changed_copy(package, tmp_path)
    listed = json.loads((copy / "package.json").read_text())
    listed["files"]["../secret"] = "0" * 64
    (copy / "package.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match="name of a file"):
        load(copy)


def test_settings_of_a_strangers_package_that_do_not_fit_are_an_error(package, monkeypatch):
    def build(config):
        raise ValueError("embed_dim must be above 0")

    monkeypatch.setattr("resproto_fd.training.run.build_detector", build)
    with pytest.raises(UserError, match=r"with these settings \(ValueError: embed_dim must be above 0\)"):
        load(package)


def test_pictures_of_another_form_are_refused(package):
    loaded = load(package)
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8), "a.png"):
        with pytest.raises(UserError, match=r"picture 1: expected RGB uint8 \[H, W, 3\]"):
            loaded.predict([np.zeros((4, 4, 3), np.uint8), wrong])
    assert loaded.predict([]).shape == (0,)


def test_what_cannot_be_exported_is_named(resproto_run, package, tmp_path, capsys):
    assert main(["export", str(resproto_run), "--out", str(package)]) == 2
    assert "exists already; remove it, or set another --out" in capsys.readouterr().err
    assert main(["export", str(tmp_path)]) == 2
    assert "expected the folder of a run, with config.yaml in it" in capsys.readouterr().err
    assert main(["export", str(resproto_run), "--push", "no name"]) == 2
    assert "expected OWNER/NAME" in capsys.readouterr().err
    run = tmp_path / "run"
    run.mkdir()
    for name in ("config.yaml", "result.json"):
        (run / name).write_bytes((resproto_run / name).read_bytes())
    assert main(["export", str(run)]) == 2
    assert "best.pt: no such file; export the folder of the run that trained" in capsys.readouterr().err
    assert sorted(path.name for path in run.iterdir()) == ["config.yaml", "result.json"]


def test_an_export_that_another_one_overtook_says_that_the_folder_exists(resproto_run, tmp_path, monkeypatch):
    def overtaken(*args):
        (tmp_path / "package").mkdir()
        (tmp_path / "package" / "theirs").touch()
        return "a card"

    monkeypatch.setattr(writing, "model_card", overtaken)
    with pytest.raises(UserError, match="package: exists already; remove it, or set another --out"):
        writing.write(resproto_run, tmp_path / "package")
    assert [path.name for path in tmp_path.rglob("*")] == ["package", "theirs"]


class FakeApi:
    """Stands for the hub: notes what it is sent."""

    calls: list = []

    def create_repo(self, repository, **options):
        self.calls.append(("create", repository, options))
        return f"https://hub.invalid/{repository}"

    def upload_folder(self, **options):
        self.calls.append(("upload", options["repo_id"], sorted(options["allow_patterns"])))


def test_a_package_is_sent_only_if_it_is_asked_for(resproto_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.HfApi", FakeApi)
    FakeApi.calls = []
    assert main(["export", str(resproto_run), "--out", str(tmp_path / "kept")]) == 0
    assert FakeApi.calls == []
    assert main(["export", str(resproto_run), "--out", str(tmp_path / "sent"), "--push", "me/mine", "--private"]) == 0
    (made, sent) = FakeApi.calls
    assert made[:2] == ("create", "me/mine")
    assert made[2]["private"]
    assert sent == ("upload", "me/mine", sorted(path.name for path in (tmp_path / "sent").iterdir()))
    assert "https://hub.invalid/me/mine" in capsys.readouterr().out


def test_a_hub_that_cannot_be_reached_is_an_error_that_tells_where_the_package_is(package, monkeypatch):
    class NoConnection(Exception):
        """Clients of the network have errors of their own."""

    def fail(*args, **keywords):
        raise NoConnection("Connection refused")

    monkeypatch.setattr("huggingface_hub.HfApi", lambda: SimpleNamespace(create_repo=fail))
    with pytest.raises(UserError, match="--push me/mine: Connection refused; the package is in"):
        hub.push(package, "me/mine")
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(UserError, match="the hub gave no package: Connection refused"):
        hub.fetched("me/mine")


def test_a_hubs_package_is_loaded_without_the_repositorys_other_files(package, monkeypatch):
    asked = {}

    def download(repository, allow_patterns):
        asked[repository] = allow_patterns
        return str(package)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert load("me/mine").folder == package
    assert set(asked["me/mine"]) == {*contents.NEEDED}
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: (_ for _ in ()).throw(OSError("offline")))
    with pytest.raises(UserError, match="me/mine: there is no such folder, and the hub gave no package: offline"):
        hub.fetched("me/mine")
    with pytest.raises(UserError, match="expected the folder of a package, or OWNER/NAME on the hub"):
        load("no such folder")


@pytest.mark.slow
def test_graphs_give_the_detectors_scores(resproto_run, tmp_path):
    ort = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert main(["export", str(resproto_run), "--out", str(tmp_path / "p"), "--onnx", "--torch-export"]) == 0
    package = load(tmp_path / "p")
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (90, 80, 3), np.uint8) for _ in range(5)]
    scores, pixels = package.predict(pictures), package.inputs(pictures).float()
    found = ort.InferenceSession(str(tmp_path / "p" / "model.onnx")).run(None, {"images": pixels.numpy()})[0]
    assert np.abs(found - scores).max() < 1e-4
    graph = torch.export.load(tmp_path / "p" / "model.pt2").module()
    with torch.no_grad():
        assert np.abs(graph(pixels).numpy() - scores).max() < 1e-4
    assert package.detector.memory.settled is None


@pytest.mark.slow
def test_a_package_loads_in_a_clean_environment_offline(demo, resproto_run, package, tmp_path):
    """A fresh virtual environment that borrows the libraries, without a network and in an empty folder."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    place = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (Path(place) / "libraries.pth").write_text("".join(f"import site; site.addsitedir({p!r})\n" for p in libraries))
    np.savez(tmp_path / "pictures.npz", *stored(demo, package)[:8])
    code = (
        "import socket, sys, numpy as np\n"
        "def refuse(*a, **k): raise OSError('no network in this test')\n"
        "socket.socket.connect = refuse\n"
        "from resproto_fd.training.packages import load\n"
        "pictures = np.load(sys.argv[2])\n"
        "scores = load(sys.argv[1]).predict([pictures[name] for name in pictures.files])\n"
        "print(*map(float.hex, scores.tolist()))\n"
    )
    env = {"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    (tmp_path / "empty").mkdir()
    ran = subprocess.run(
        [python, "-c", code, str(package), str(tmp_path / "pictures.npz")],
        capture_output=True, text=True, cwd=tmp_path / "empty", env=env,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    scores = ScoreTable.load(resproto_run / "scores" / "Demo-C.npz").score[:8].tolist()
    assert [float.fromhex(word) for word in ran.stdout.split()] == pytest.approx(scores, abs=1e-6)
