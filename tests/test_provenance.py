"""Scores know what they were made from: whatever changes under a kept score table is named, and scored again."""

import importlib
import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny import quick_and_slow

from resproto_fd.configs import loading
from resproto_fd.configs.schema import DetectorConfig
from resproto_fd.detectors.weights import read_state_dict, tensors_sha256
from resproto_fd.preprocessing.manifest import read_manifest
from resproto_fd.preprocessing.store.frame_store import open_store
from resproto_fd.preprocessing.store.image_codec import checksum_of, encode_native, encode_png
from resproto_fd.trainer import scoring
from resproto_fd.training import bench, provenance, recording
from resproto_fd.training.board.table import Row
from resproto_fd.training.cli import main
from resproto_fd.training.commands.ablate import _features
from resproto_fd.training.lineage import origin_of
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ScoreTable

SMALL = ["--detector", "resproto_fd_tiny"]
QUICK = ["run.workers=0", "run.device=cpu", "run.progress=false"]
LEARN = [*QUICK, "train.epochs=1", "train.batch_size=8", "run.max_steps=2", "model.start_epoch=0"]
ONE_SET = ["--protocol", "demo_cross", "--test_dataset", "Demo-B", "protocol.frames={train: 4, val: 2, test: 2}"]


def files_of(demo, folder: Path) -> Path:
    """The tiny demo data as files, those of the test set and of the training set."""
    shutil.copytree(demo / "dataset_json", folder / "dataset_json")
    for name, splits in (("Demo-A", ("train", "val")), ("Demo-B", ("test",))):
        store = open_store(demo / "lmdb" / f"{name}_lmdb")
        for split in splits:
            for video in read_manifest(demo / "dataset_json" / f"{name}.json", name, split=split):
                for frame in video.frames:
                    target = folder / "rgb" / frame
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(store.read_bytes(frame))
    return folder


@pytest.fixture(scope="module")
def made(demo, tmp_path_factory):
    """A folder with data, a trained run in `runs`, and in `given` a test of its weights as of unknown ones."""
    base = tmp_path_factory.mktemp("made")
    data = files_of(demo, base / "data")
    words = [*ONE_SET, f"data.root={data}"]
    assert main(["train", *SMALL, *words, f"run.out={base / 'runs'}", *LEARN]) == 0
    best = torch.load(run_in(base / "runs") / "best.pt", weights_only=True)
    torch.save({"model": best["model"]}, base / "given.pth")
    given = ["test", *SMALL, "--weights", str(base / "given.pth"), *words, "--out", str(base / "given"), *QUICK]
    assert main([*given, "model.start_epoch=0"]) == 0
    return base


@pytest.fixture
def own(made, tmp_path):
    """A copy of these, to be changed."""
    shutil.copytree(made, tmp_path / "own")
    return tmp_path / "own"


def run_in(out) -> Path:
    return next(Path(out).rglob("config.yaml")).parent


def edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def a_frame(own) -> Path:
    return next(path for path in sorted((own / "data/rgb/Demo-B").rglob("*.png")) if "/swap/" in str(path))


def swap_labels(own):
    def change(content):
        content["Demo-B"]["Demo_real"]["test"]["000"]["label"] = "Demo_swap"
        content["Demo-B"]["Demo_swap"]["test"]["000_001"]["label"] = "Demo_real"

    edit(own / "data/dataset_json/Demo-B.json", change)


def drop_a_frame(own):
    edit(
        own / "data/dataset_json/Demo-B.json",
        lambda content: content["Demo-B"]["Demo_real"]["test"]["000"].update(
            frames=content["Demo-B"]["Demo_real"]["test"]["000"]["frames"][:1]
        ),
    )


def other_method(own):
    edit(
        own / "data/dataset_json/Demo-B.json",
        lambda content: content["Demo-B"]["Demo_swap"]["test"]["000_001"].update(label="Demo_warp"),
    )


def flip_a_bit(own):
    path = a_frame(own)
    before = path.stat()
    image = cv2.imread(str(path))
    image[0, 0, 0] ^= 1
    data = cv2.imencode(".png", image)[1].tobytes()
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def other_code(own, monkeypatch):
    monkeypatch.setattr(scoring, "VERSION", scoring.VERSION + 1)


def other_class_code(own, monkeypatch):
    monkeypatch.setattr(provenance, "_source_hash", lambda cls: "other")


def forget_the_parts(own):
    for path in own.rglob("scores/*.npz"):
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files if name not in ("made_from", "checksums", "files")}
        np.savez_compressed(path, **arrays)


def damage_the_table(own):
    for path in own.rglob("scores/*.npz"):
        path.write_bytes(path.read_bytes()[:-200])


@pytest.fixture
def scored(monkeypatch):
    """Titles of what is scored."""
    titles, score_frames = [], bench.score_frames

    def noted(*args):
        titles.append(args[4].title)
        return score_frames(*args)

    monkeypatch.setattr(bench, "score_frames", noted)
    return titles


CHANGES = {  # what changes under a run: (how, further words, what the note says)
    "labels": (swap_labels, [], r"labels of 4 of 24 frames differ \(Demo-B/.*000 frame \d"),
    "frame list": (drop_a_frame, [], r"1 of 24 frames are gone \(Demo-B/original_sequences/camera/000 frame \d+\)"),
    "methods": (other_method, [], r"methods of 1 of 12 videos differ \(Demo-B/.*000_001\)"),
    "pixels": (flip_a_bit, [], r"frames of 1 keys hold other pixels \(Demo-B/.*/swap/.*\.png\)"),
    "scoring code": (other_code, [], r"the version of the scoring code differs: 1 -> 2"),
    "detector's code": (other_class_code, [], r"the code of the detector's class .* differs: \w+ -> \w+"),
    "re-encoding": (None, ["protocol.recode=60"], None),  # a changed protocol has a folder of its own
    "no parts": (forget_the_parts, [], "what they were made from is not known"),
    "damage": (damage_the_table, [], "not a readable score table"),
}


QUICK_CHANGES = ["labels"]


@pytest.mark.parametrize("what", quick_and_slow(CHANGES, QUICK_CHANGES))
def test_what_changed_under_a_run_is_named_and_scored_again(own, monkeypatch, capsys, scored, what):
    change, words, says = CHANGES[what]
    if change:
        change(own, monkeypatch) if "monkeypatch" in change.__code__.co_varnames else change(own)
    run, data = run_in(own / "runs"), [f"data.root={own / 'data'}", *words]
    record = (run / "config.yaml").read_bytes(), (run / "best.pt").read_bytes()
    history = RunResult.load(run / "result.json")
    capsys.readouterr()
    assert main(["test", "--run", str(run), *data]) == 0
    error = capsys.readouterr().err
    if says:
        assert re.search(rf"Demo-B\.npz: scored again, since {'.*' * (what == 'damage')}{says}", error), error
        assert "testing Demo-B" in scored
    assert ((run / "config.yaml").read_bytes(), (run / "best.pt").read_bytes()) == record
    tested = run if says else next(p.parent for p in (own / "runs").rglob("result.json") if p.parent != run)
    assert main(["test", "--run", str(run), *data, "--out", str(own / "fresh")]) == 0
    again, fresh = RunResult.load(tested / "result.json"), RunResult.load(run_in(own / "fresh") / "result.json")
    assert again.tests == fresh.tests
    assert again.tests["Demo-B"].made_from is not None
    assert (again.selected_on, again.trained_on) == (history.selected_on, history.trained_on)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["input.mean=imagenet"], "input.mean differs: half -> imagenet"),
        pytest.param(["model.top_k=2"], r"model.top_k differs: \d+ -> 2", marks=pytest.mark.slow),
        pytest.param(
            ["input.mean=[0.5,0.5,0.5]", "input.fit=resize"],
            "input.fit differs: crop -> resize",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_other_settings_of_a_detector_are_named_and_scored_again(own, capsys, words, says):
    test = ["test", *SMALL, "--weights", str(own / "given.pth"), *ONE_SET, f"data.root={own / 'data'}", *QUICK]
    test += ["model.start_epoch=0", *words]
    before = contents(own / "given")
    capsys.readouterr()
    assert main([*test, "--out", str(own / "given")]) == 2
    assert re.search(rf"results would be overwritten: {says}; set --task_target WORD", capsys.readouterr().err)
    assert contents(own / "given") == before
    (run_in(own / "given") / "result.json").unlink()  # what is left is its score table
    assert main([*test, "--out", str(own / "given")]) == 0
    assert re.search(rf"scored again, since {says}\n", capsys.readouterr().err)
    assert main([*test, "--out", str(own / "fresh")]) == 0
    again, fresh = (RunResult.load(run_in(own / name) / "result.json") for name in ("given", "fresh"))
    assert again.tests == fresh.tests
    # Of the trained run itself nothing is overwritten.
    before = contents(own / "runs")
    best = run_in(own / "runs") / "best.pt"
    test[test.index("--weights") + 1] = str(best)
    assert main([*test, "--out", str(own / "runs")]) == 2
    assert re.search(rf"the run's own results would be overwritten: {says}; set --out DIR", capsys.readouterr().err)
    assert contents(own / "runs") == before


def test_a_file_of_settings_is_known_by_its_content(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("scale: 1")
    config = DetectorConfig(detector="deepfakebench_class", model={"target": "a:B", "config": str(file)})
    before = provenance.detector_parts(config, torch.nn.Identity(), "w", 8)
    assert provenance.detector_parts(config, torch.nn.Identity(), "w", 8) == before
    file.write_text("scale: 40")
    assert provenance.detector_parts(config, torch.nn.Identity(), "w", 8) != before


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.slow
def test_unchanged_scores_are_kept_wherever_their_frames_lie_and_however_they_are_coded(own, capsys, scored):
    """The copied files have other times and places, and one PNG is compressed otherwise."""
    path = a_frame(own)
    path.write_bytes(cv2.imencode(".png", cv2.imread(str(path)), [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes())
    run = run_in(own / "runs")
    before = RunResult.load(run / "result.json").tests
    assert main(["test", "--run", str(run), f"data.root={own / 'data'}"]) == 0
    assert "scored again" not in capsys.readouterr().err
    assert scored == []
    assert RunResult.load(run / "result.json").tests == before


def test_the_code_that_scored_stays_named_while_its_scores_are_kept(own, monkeypatch, scored):
    run = run_in(own / "runs")
    before = RunResult.load(run / "result.json")
    monkeypatch.setattr(recording, "git_state", lambda: ("later", True))
    monkeypatch.setattr(recording, "versions", lambda: {"torch": "9"})
    assert main(["test", "--run", str(run), f"data.root={own / 'data'}"]) == 0
    after = RunResult.load(run / "result.json")
    assert scored == []
    assert (after.commit, after.dirty, after.versions) == (before.commit, before.dirty, before.versions)
    flip_a_bit(own)
    assert main(["test", "--run", str(run), f"data.root={own / 'data'}"]) == 0
    after = RunResult.load(run / "result.json")
    assert (after.commit, after.dirty, after.versions) == ("later", True, {"torch": "9"})


@pytest.mark.slow
def test_frames_that_were_left_out_are_scored_when_they_can_be_read(own, monkeypatch, capsys, scored):
    run, path = run_in(own / "runs"), a_frame(own)
    whole, words = path.read_bytes(), ["test", "--run", str(run), f"data.root={own / 'data'}"]
    fresh = RunResult.load(run / "result.json").tests
    path.write_bytes(whole[:200])
    assert main(words) == 2
    assert main([*words, "data.on_bad_frame=skip"]) == 0
    assert RunResult.load(run / "result.json").tests["Demo-B"].skipped == 1
    scored.clear()
    assert main([*words, "data.on_bad_frame=skip"]) == 0
    assert "testing Demo-B" not in scored
    path.write_bytes(whole)
    capsys.readouterr()
    assert main([*words, "data.on_bad_frame=skip"]) == 0
    assert "1 frames that could not be read can be read now" in capsys.readouterr().err
    assert RunResult.load(run / "result.json").tests == fresh
    with monkeypatch.context() as patch:  # the same files: the reader was too strict, or the disk was ill
        patch.setattr(provenance, "identity_of", lambda frames, stores: "same")
        path.write_bytes(whole[:200])
        shutil.rmtree(run / "scores")
        assert main([*words, "data.on_bad_frame=skip"]) == 0
        assert RunResult.load(run / "result.json").tests["Demo-B"].skipped == 1
        path.write_bytes(whole)
        assert main([*words, "data.on_bad_frame=skip"]) == 0
    assert RunResult.load(run / "result.json").tests == fresh
    path.write_bytes(whole[:200])
    assert main([*words, "data.on_bad_frame=skip"]) == 0
    path.write_bytes(whole)
    capsys.readouterr()
    assert main(words) == 0
    assert "1 unreadable frames were left out" in capsys.readouterr().err
    assert RunResult.load(run / "result.json").tests == fresh


@pytest.mark.slow
def test_what_scores_were_made_from_is_the_same_from_training_test_and_another_folder(made, tmp_path):
    run = run_in(made / "runs")
    trained = RunResult.load(run / "result.json").tests["Demo-B"].made_from
    assert main(["test", "--run", str(run), "--out", str(tmp_path)]) == 0
    assert RunResult.load(run_in(tmp_path) / "result.json").tests["Demo-B"].made_from == trained
    table = ScoreTable.load(run / "scores" / "Demo-B.npz")
    assert table.made_from_hash() == trained
    assert table.made_from["pixels"] == provenance.pixels_part(table.checksums)
    assert RunResult.load(run_in(made / "given") / "result.json").tests["Demo-B"].made_from != trained  # another file


@pytest.mark.slow
def test_the_board_leaves_out_a_result_whose_score_table_was_made_from_something_else(own, capsys):
    run = run_in(own / "runs")
    words = ["leaderboard", str(own / "runs"), "--out", str(own / "board")]
    assert main(words) == 0
    made_from = RunResult.load(run / "result.json").tests["Demo-B"].made_from
    assert any(made_from[:12] in page.read_text() for page in (own / "board").rglob("*.html"))
    edit(run / "result.json", lambda content: content["tests"]["Demo-B"].update(made_from="0" * 64))
    main(words)
    assert "its score table was made from other weights, settings or frames" in "".join(capsys.readouterr())


def test_code_that_a_detectors_file_imports_is_a_part(tmp_path, monkeypatch):
    (tmp_path / "own_net").mkdir()
    files = {
        "__init__.py": "from torch import nn\nfrom . import middle\nclass Net(nn.Module):\n    pass\n",
        "middle.py": "import json\nfrom own_net.deep import SIGN\n",
        "deep.py": "SIGN = 1\n",
    }
    for name, text in files.items():
        (tmp_path / "own_net" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    network = importlib.import_module("own_net").Net()
    before = provenance._code_of(network)
    assert before == provenance._code_of(network)
    (tmp_path / "own_net/deep.py").write_text("SIGN = -1\n")
    assert provenance._code_of(network) != before


def test_a_checksum_is_that_of_the_pixels_in_any_codec():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert checksum_of(image) == checksum_of(image, encode_native(image)) == checksum_of(image, encode_png(image))
    other = image.copy()
    other[4, 6, 2] ^= 1
    assert checksum_of(other) != checksum_of(image) != checksum_of(image.reshape(7, 5, 3))


@pytest.mark.slow
def test_features_of_other_settings_are_refused(own, capsys):
    test = ["test", *SMALL, "--weights", str(own / "given.pth"), *ONE_SET, f"data.root={own / 'data'}", *QUICK]
    test += ["model.start_epoch=0", "--out", str(own / "given")]
    assert main([*test, "run.save_features=true"]) == 0
    folder = run_in(own / "given")
    (folder / "result.json").unlink()  # it would be kept from other settings
    assert main([*test, "input.mean=imagenet"]) == 0  # keeps no features, and leaves those of before
    with pytest.raises(Exception, match="or to other settings, than the scores beside it"):
        _features(folder, {"Demo-B": ScoreTable.load(folder / "scores" / "Demo-B.npz")})


# --- records of runs ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["train.epochs=3"], ["train.batch_size=100000"], ["data.root=nowhere"]])
def test_a_refused_training_leaves_the_runs_record_as_it_was(own, capsys, words):
    before = contents(own / "runs")
    assert (
        main(["train", *SMALL, *ONE_SET, f"data.root={own / 'data'}", f"run.out={own / 'runs'}", *LEARN, *words]) == 2
    )
    assert contents(own / "runs") == before


@pytest.mark.parametrize("words", [["train.batch_size=100000"], ["data.root=nowhere"], ["run.device=nothing"]])
def test_a_refused_training_leaves_no_folder(made, tmp_path, words):
    out = tmp_path / "runs"
    assert main(["train", *SMALL, *ONE_SET, f"data.root={made / 'data'}", f"run.out={out}", *LEARN, *words]) == 2
    assert not out.exists()


def test_a_training_that_goes_on_over_other_files_says_so(own, tmp_path, capsys):
    train = ["train", *SMALL, *ONE_SET, *LEARN]
    assert main([*train, f"data.root={own / 'data'}", f"run.out={own / 'runs'}"]) == 0
    assert "over other files of its frames" in capsys.readouterr().err
    assert "over other files of its frames" in RunResult.load(run_in(own / "runs") / "result.json").note
    for _ in range(2):
        assert main([*train, f"data.root={own / 'data'}", f"run.out={tmp_path / 'new'}"]) == 0
        assert (
            "other files" not in capsys.readouterr().err + RunResult.load(run_in(tmp_path / "new") / "result.json").note
        )


@pytest.mark.parametrize("place", [-1, 0.5])
def test_a_run_whose_weights_were_changed_is_not_tested_over_its_record(own, capsys, place):
    """By the last byte, which no tensor has, or by one in the middle."""
    run = run_in(own / "runs")
    best = bytearray((run / "best.pt").read_bytes())
    best[int(place * len(best)) if place > 0 else place] ^= 1
    sha = RunResult.load(run / "result.json").checkpoint_sha256
    (run / "best.pt").write_bytes(best)
    before = contents(own / "runs")
    assert main(["test", "--run", str(run)]) == 2
    error = capsys.readouterr().err
    assert re.search(
        rf"best\.pt: was changed after its run was tested \(SHA-256 {sha}; here (?!{sha})\w{{64}}\)", error
    )
    assert contents(own / "runs") == before


@pytest.mark.slow
def test_a_run_tested_before_its_training_ended_can_be_tested_again(own):
    """Its best.pt is another one then; the file's own record tells that it is the run's."""
    run = run_in(own / "runs")
    content = torch.load(run / "best.pt", weights_only=True)
    content["model"] = {k: v + 0.1 if v.is_floating_point() else v for k, v in content["model"].items()}
    torch.save(content | {"tensors_sha256": tensors_sha256(content["model"])}, run / "best.pt")
    assert main(["test", "--run", str(run), f"data.root={own / 'data'}"]) == 0
    assert RunResult.load(run / "result.json").tensors_sha256 == tensors_sha256(content["model"])


@pytest.mark.slow
def test_weights_that_learnt_from_labels_changed_since_are_a_row_of_their_own(own, capsys):
    run = run_in(own / "runs")
    before = RunResult.load(run / "result.json")

    def change(content):
        video = content["Demo-A"]["Demo_real"]["train"]
        video[sorted(video)[0]]["label"] = "Demo_swap"

    edit(own / "data/dataset_json/Demo-A.json", change)
    assert main(["test", "--run", str(run), f"data.root={own / 'data'}", "--out", str(own / "new")]) == 0
    after = RunResult.load(run_in(own / "new") / "result.json")
    assert after.overrides == [*before.overrides, f"trained_under={before.protocol}@{before.fingerprint[:8]}"]


@pytest.mark.slow
def test_a_second_checkpoint_does_not_take_the_place_of_the_first(own, capsys):
    state = torch.load(own / "given.pth", weights_only=True)
    name = next(name for name in state["model"] if name.endswith("weight"))
    state["model"][name] = state["model"][name] + 0.1
    torch.save(state, own / "second.pth")
    before = contents(own / "given")
    test = ["test", *SMALL, "--weights", str(own / "second.pth"), *ONE_SET, f"data.root={own / 'data'}", *QUICK]
    test += ["model.start_epoch=0", "--out", str(own / "given")]
    assert main(test) == 2
    assert re.search(r"holds the result of other weights .*--task_target WORD .*--out DIR", capsys.readouterr().err)
    assert contents(own / "given") == before
    assert main([*test, "--task_target", "second"]) == 0
    assert len(list((own / "given").rglob("result.json"))) == 2
    assert main(["leaderboard", str(own / "given"), "--out", str(own / "board")]) == 0
    rows = (own / "board" / "leaderboard.csv").read_text()
    assert "resproto_fd_tiny_second" in rows
    # Nor does a training take the place of a test.
    train = ["train", *SMALL, *ONE_SET, f"data.root={own / 'data'}", f"run.out={own / 'given'}", *LEARN]
    assert main(train) == 2
    assert "holds the result of a test (given weights, choice unknown), which would be lost" in capsys.readouterr().err


def test_a_run_without_its_checkpoints_is_not_trained_over_with_other_settings(own, capsys):
    shutil.rmtree(run_in(own / "runs") / "checkpoints")
    before = contents(own / "runs")
    train = ["train", *SMALL, *ONE_SET, f"data.root={own / 'data'}", f"run.out={own / 'runs'}", *LEARN]
    assert main([*train, "train.optimizer.lr=0.5"]) == 2
    assert re.search(r"run with other settings:\n.*lr: saved with .*, now 0.5\n", capsys.readouterr().err)
    assert contents(own / "runs") == before


@pytest.mark.slow
def test_a_run_in_double_precision_can_be_tested(made, tmp_path):
    words = ["--detector", "timm", "model.backbone=test_resnet", "model.pretrained=false", "input.size=48", *ONE_SET]
    train = [f"data.root={made / 'data'}", *QUICK, "train.batch_size=8", "run.max_steps=1", "train.precision=fp64"]
    assert main(["train", *words, *train, f"run.out={tmp_path / 'a'}"]) == 0
    assert main(["test", "--run", str(run_in(tmp_path / "a")), "--out", str(tmp_path / "b")]) == 0
    a, b = (RunResult.load(run_in(tmp_path / name) / "result.json") for name in "ab")
    assert (a.tests, a.tensors_sha256) == (b.tests, b.tensors_sha256)
    assert ScoreTable.load(run_in(tmp_path / "b") / "scores" / "Demo-B.npz").score.dtype == np.float64


@pytest.mark.slow
def test_a_result_says_that_its_batches_were_computed_in_parts_and_stays_in_its_row(made, tmp_path):
    words = ["--detector", "timm", "model.backbone=test_resnet", "model.pretrained=false", "input.size=48", *ONE_SET]
    train = [f"data.root={made / 'data'}", *QUICK, "train.batch_size=8", "run.max_steps=1"]
    assert main(["train", *words, *train, f"run.out={tmp_path}", "run.split_batch=4"]) == 0
    result = RunResult.load(run_in(tmp_path) / "result.json")
    assert "computed in 4 parts for lack of memory; batch norm saw each part by itself" in result.note
    assert not any("split" in word for word in result.overrides)


# --- the history of copied weights ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oracle(made, tmp_path_factory):
    """A run whose checkpoint was chosen on a test split, seed 5."""
    out = tmp_path_factory.mktemp("oracle")
    protocol = loading.load("protocols", "demo_cross").model_dump(by_alias=True)
    protocol |= {"name": "peeking", "test": ["Demo-B"], "frames": {"train": 2, "val": 2, "test": 2}}
    protocol["selection"] |= {"dataset": "Demo-B", "split": "test", "oracle": True}
    (out / "peeking.yaml").write_text(json.dumps(protocol))
    words = ["--protocol", str(out / "peeking.yaml"), f"data.root={made / 'data'}", f"run.out={out / 'runs'}"]
    assert main(["train", *SMALL, *words, "--seed", "5", *LEARN]) == 0
    return out


WAYS = ["copied", "on another machine", "saved anew", "saved anew, bare"]


@pytest.mark.slow
@pytest.mark.parametrize("how", quick_and_slow(WAYS, WAYS[3:]))
def test_copied_weights_keep_their_history(oracle, made, tmp_path, how):
    """On another machine there are no runs; `bare` keeps the tensors alone."""
    run = run_in(oracle / "runs")
    known = RunResult.load(run / "result.json")
    copy, out = tmp_path / "x.pt", tmp_path / "runs"
    shutil.copy(run / "best.pt", copy)
    if how != "on another machine":
        shutil.copytree(oracle / "runs", out)
    if how.startswith("saved anew"):
        content = torch.load(copy, weights_only=True)
        state = {f"module.{name}": value for name, value in content["model"].items()}
        torch.save(state if how.endswith("bare") else content | {"more": 1}, copy)
    test = ["test", *SMALL, "--weights", str(copy), "--protocol", str(oracle / "peeking.yaml"), *QUICK]
    assert main([*test, "--out", str(out), f"data.root={made / 'data'}", "--task_target", "copy"]) == 0
    found = RunResult.load(next(out.rglob("resproto_fd_tiny_copy/seed5/result.json")))
    for field in ("selected_on", "overrides", "trained_on", "seed", "fingerprint"):
        assert getattr(found, field) == getattr(known, field), field
    assert found.selected_on.oracle
    assert found.tests["Demo-B"].frame_auc == known.tests["Demo-B"].frame_auc


@pytest.mark.slow
def test_weights_that_were_changed_do_not_keep_the_record_of_others(oracle, tmp_path, capsys):
    content = torch.load(run_in(oracle / "runs") / "best.pt", weights_only=True)
    assert content["tensors_sha256"] == tensors_sha256(content["model"])
    name = next(iter(content["model"]))
    content["model"][name] = content["model"][name] + 1
    torch.save(content, tmp_path / "x.pt")
    assert origin_of(tmp_path / "x.pt") is None
    assert "its record of training is of other tensors" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"history": [1]}, {"history": {"format": 99}}, {"epoch": "first"}])
def test_a_record_that_cannot_be_read_is_said_to_be_unused(oracle, tmp_path, capsys, change):
    content = torch.load(run_in(oracle / "runs") / "best.pt", weights_only=True)
    torch.save(content | change, tmp_path / "x.pt")
    assert origin_of(tmp_path / "x.pt") is None
    assert "x.pt: its record of training is not used" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Demo-A", "Mine"])
def test_weights_that_were_chosen_on_frames_which_are_tested_here_are_an_oracle(own, tmp_path, capsys, name):
    """The run chose on Demo-A val. `Mine` lists these frames as a test set of another name."""
    lists = own / "data" / "dataset_json"
    content = json.loads((lists / "Demo-A.json").read_text())["Demo-A"]
    whole = {label: {"train": {}, "val": {}, **by, "test": by["val"]} for label, by in content.items()}
    (lists / f"{name}.json").write_text(json.dumps({name: whole}))
    shutil.copy(run_in(own / "runs") / "best.pt", tmp_path / "x.pt")
    words = ["--protocol", "demo_cross", "--test_dataset", name, "protocol.frames={train: 4, val: 1, test: 3}"]
    chosen_elsewhere = ["protocol.selection={rule: last}", f"data.root={own / 'data'}", "model.start_epoch=0"]
    test = ["test", *SMALL, "--weights", str(tmp_path / "x.pt"), *words, *chosen_elsewhere, *QUICK]
    assert main([*test, "--out", str(tmp_path / "out")]) == 0
    result = RunResult.load(run_in(tmp_path / "out") / "result.json")
    assert (result.selected_on.split, result.selected_on.oracle) == ("val", True)
    assert f"frames of videos that {name} tests: its row is an oracle" in capsys.readouterr().err
    if name == "Mine":
        (lists / "Demo-A.json").unlink()
        assert main([*test, "--out", str(tmp_path / "later")]) == 0
        assert "no manifest of Demo-A val is here" in capsys.readouterr().err


@pytest.mark.slow
def test_a_steps_checkpoint_keeps_its_history_but_is_no_choice_of_the_run(made, tmp_path, capsys):
    run = run_in(made / "runs")
    known, step = RunResult.load(run / "result.json"), sorted((run / "checkpoints").glob("step_*.pt"))[-1]
    shutil.copy(step, tmp_path / "x.pt")
    found = origin_of(tmp_path / "x.pt")
    assert (found.trained_on, found.overrides, found.fingerprint) == (["Demo-A"], known.overrides, known.fingerprint)
    assert (found.selected_on.rule, found.selected_on.oracle) == ("given", False)
    assert "weights of step 2, which no rule has chosen" in found.note
    assert origin_of(tmp_path / "x.pt", made / "runs").selected_on == known.selected_on  # the same weights as best.pt's
    test = ["test", *SMALL, "--weights", str(tmp_path / "x.pt"), *ONE_SET, f"data.root={made / 'data'}", *QUICK]
    assert main([*test, "model.start_epoch=0", "--out", str(tmp_path / "out")]) == 0
    result = RunResult.load(run_in(tmp_path / "out") / "result.json")
    assert result.trained_on == ["Demo-A"] and not Row([result]).stated
    assert "x.pt: weights of step 2" in capsys.readouterr().err


@pytest.mark.slow
def test_weights_of_a_run_that_had_not_ended_say_so(made, tmp_path, capsys):
    content = torch.load(run_in(made / "runs") / "best.pt", weights_only=True)
    assert content["finished"] is True
    torch.save(content, tmp_path / "whole.pt")
    torch.save(content | {"finished": False}, tmp_path / "early.pt")
    assert "not ended" not in origin_of(tmp_path / "whole.pt").note
    assert "its run had not ended when this file was written" in origin_of(tmp_path / "early.pt").note
    test = ["test", *SMALL, "--weights", str(tmp_path / "early.pt"), *ONE_SET, f"data.root={made / 'data'}", *QUICK]
    assert main([*test, "model.start_epoch=0", "--out", str(tmp_path / "out")]) == 0
    assert "not ended" in RunResult.load(run_in(tmp_path / "out") / "result.json").note
    assert "early.pt: its run had not ended" in capsys.readouterr().err


@pytest.mark.slow
def test_older_weights_without_a_record_are_not_known(oracle, tmp_path):
    content = torch.load(run_in(oracle / "runs") / "best.pt", weights_only=True)
    torch.save({key: content[key] for key in ("format", "model", "epoch", "step", "fingerprint")}, tmp_path / "x.pt")
    assert origin_of(tmp_path / "x.pt") is None
    assert origin_of(tmp_path / "x.pt", oracle / "runs").selected_on.oracle  # but for their run's folder


@pytest.mark.slow
def test_a_record_changes_no_class_of_a_named_preset(oracle, tmp_path, made):
    content = torch.load(run_in(oracle / "runs") / "best.pt", weights_only=True)
    content["history"]["config"]["detector"] |= {"detector": "deepfakebench_class"}
    content["history"]["config"]["detector"]["model"] = {"target": "subprocess:call", "config": {"touch": None}}
    torch.save(content, tmp_path / "x.pt")
    test = ["test", *SMALL, "--weights", str(tmp_path / "x.pt"), *ONE_SET, f"data.root={made / 'data'}", *QUICK]
    assert main([*test, "model.start_epoch=0", "--out", str(tmp_path / "out")]) == 0
    assert RunResult.load(run_in(tmp_path / "out") / "result.json").detector_class == "resproto_fd"


def test_a_files_tensors_have_one_hash_in_any_form(tmp_path):
    state = {"b": torch.arange(6.0).reshape(2, 3).t(), "a": torch.tensor(3)}
    torch.save(state, tmp_path / "one.pth")
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "two.pth")
    one, two = (tensors_sha256(read_state_dict(tmp_path / name)) for name in ("one.pth", "two.pth"))
    assert one == two == tensors_sha256(state)
    state["b"][0, 0] = -0.0
    assert tensors_sha256(state) != one
