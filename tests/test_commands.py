"""The commands end to end on the tiny demo data, and what they say when something is wrong."""

import csv
import json
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from resproto_fd.configs import loading
from resproto_fd.preprocessing.manifest import read_manifest
from resproto_fd.preprocessing.store.frame_store import open_store
from resproto_fd.preprocessing.store.lmdb_files import close_all
from resproto_fd.training import cli
from resproto_fd.training.calibration import calibration_of
from resproto_fd.training.cli import main
from resproto_fd.training.commands.arguments import run_config
from resproto_fd.training.lineage import run_that_made
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ScoreTable

SMALL = ["--detector", "timm", "model.backbone=test_resnet", "model.pretrained=false", "input.size=48"]
QUICK = ["train.epochs=1", "train.batch_size=8", "run.workers=0", "run.device=cpu", "run.progress=false"]


@pytest.fixture
def own_demo(demo, tmp_path):
    """A copy of the tiny demo data, as files, to be damaged."""
    folder = tmp_path / "data"
    shutil.copytree(demo / "dataset_json", folder / "dataset_json")
    for path in (demo / "dataset_json").glob("*.json"):
        store = open_store(demo / "lmdb" / f"{path.stem}_lmdb")
        for split in ("train", "val", "test"):
            try:
                videos = read_manifest(path, path.stem, split=split)
            except Exception:
                continue
            for frame in (frame for video in videos for frame in video.frames):
                target = folder / "rgb" / frame
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(store.read_bytes(frame))
    return folder


def train(data, out, *words, detector=SMALL):
    settings = loading.in_one_line([f"data.root={data}", f"run.out={out}", *QUICK, *words])
    return main(["train", *detector, "--protocol", "demo_cross", *settings])


@pytest.fixture(scope="module")
def whole(demo, tmp_path_factory):
    """The folder of a finished run, which nobody changes."""
    out = tmp_path_factory.mktemp("whole")
    assert train(demo, out) == 0
    return run_folder(out)


def run_folder(out) -> Path:
    return next(Path(out).rglob("config.yaml")).parent


def test_train_leaves_a_whole_run_and_test_repeats_its_numbers(demo, tmp_path, capsys):
    assert train(demo, tmp_path / "runs", "train.epochs=2") == 0
    folder = run_folder(tmp_path / "runs")
    assert folder == tmp_path / "runs" / "demo_cross" / "timm" / "seed0"
    result = RunResult.load(folder / "result.json")
    assert result.selected_on.text() == "best frame_auc on Demo-A val"
    assert set(result.tests) == {"Demo-A", "Demo-B", "Demo-C"}
    assert [test.in_domain for test in result.tests.values()] == [True, False, False]
    assert result.parameters >= result.trainable_parameters > 0
    assert result.commit is None or re.fullmatch("[0-9a-f]{40}", result.commit)
    assert "model.backbone=test_resnet" in result.overrides
    table = ScoreTable.load(folder / "scores" / "Demo-B.npz")
    assert len(table) == result.tests["Demo-B"].frames
    shown = capsys.readouterr().out

    assert main(["test", "--run", str(folder), "--out", str(tmp_path / "again")]) == 0
    again = RunResult.load(run_folder(tmp_path / "again") / "result.json")
    assert again.tests == result.tests
    assert again.selected_on == result.selected_on
    assert again.checkpoint_sha256 == result.checkpoint_sha256
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("Demo-")] == [
        line for line in shown.splitlines() if line.startswith("Demo-")
    ]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(demo, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert train(demo, tmp_path / name, f"seed={seed}", "--test_dataset", "Demo-A", "run.max_steps=2") == 0
    a, b, c = (ScoreTable.load(run_folder(tmp_path / name) / "scores" / "Demo-A.npz").score for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)


@pytest.mark.slow
def test_a_run_can_train_on_forgeries_made_from_the_real_frames(demo, own_demo, tmp_path, capsys):
    words = ["train.samples=cross_blended", "--test_dataset", "Demo-A"]
    assert train(demo, tmp_path / "a", *words) == 0
    result = RunResult.load(run_folder(tmp_path / "a") / "result.json")
    assert "train.samples=cross_blended" in result.overrides
    real = sum(len(video.frames) for video in read_manifest(demo / "dataset_json/Demo-A.json", "Demo-A", split="train")
               if not video.label)  # fmt: skip
    assert result.train_images == (2 * real // 8) * 8
    assert train(demo, tmp_path / "b", *words, "run.workers=1") == 0
    a, b = (ScoreTable.load(run_folder(tmp_path / name) / "scores" / "Demo-A.npz").score for name in "ab")
    assert np.array_equal(a, b)
    assert train(own_demo, tmp_path / "c", "train.samples=warped") == 2
    assert re.search(r"lacks the landmarks of \d+ training frames.*`resproto faces` writes", capsys.readouterr().err)


@pytest.mark.slow
def test_a_run_can_train_on_pairs_of_a_fake_and_its_source(demo, tmp_path, capsys):
    words = ["train.sampling=paired", "--test_dataset", "Demo-A"]
    assert train(demo, tmp_path / "a", *words) == 0
    shown = re.search(r"paired: (\d+) of (\d+) fake frames come with a frame of the real", capsys.readouterr().err)
    assert 0 < int(shown[1]) <= int(shown[2])
    assert train(demo, tmp_path / "b", *words, "run.workers=1") == 0
    a, b = (ScoreTable.load(run_folder(tmp_path / name) / "scores" / "Demo-A.npz").score for name in "ab")
    assert np.array_equal(a, b)
    assert train(demo, tmp_path / "c", *words, "train.batch_size=9") == 2
    assert "come in pairs: expected an even batch_size / accumulate, got 9 / 1" in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_run_is_not_trained_again(demo, whole):
    best = whole / "best.pt"
    before = best.stat().st_mtime_ns
    assert train(demo, whole.parents[2]) == 0
    assert best.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_test_set_scored_before_is_not_scored_again(demo, whole, tmp_path, monkeypatch):
    shutil.copytree(whole.parents[2], tmp_path, dirs_exist_ok=True)
    scores = run_folder(tmp_path) / "scores"
    (scores / "Demo-C.npz").unlink()
    titles = []
    from resproto_fd.training import bench as runs

    score_frames = runs.score_frames
    monkeypatch.setattr(runs, "score_frames", lambda *a, **k: titles.append(a[4].title) or score_frames(*a, **k))
    assert train(demo, tmp_path) == 0
    assert titles == ["testing Demo-C"]


@pytest.mark.slow
def test_deepfakebench_flags_work(demo, tmp_path):
    words = [
        "--train_dataset",
        "Demo-A",
        "--test_dataset",
        "Demo-B",
        "Demo-C",
        "--task_target",
        "mine",
        "--no-save_ckpt",
    ]
    assert train(demo, tmp_path, *words) == 0
    folder = run_folder(tmp_path)
    assert re.fullmatch("demo_cross-custom-[0-9a-f]{8}", folder.parts[-3])
    assert folder.parts[-2:] == ("timm_mine", "seed0")
    assert set(RunResult.load(folder / "result.json").tests) == {"Demo-B", "Demo-C"}
    assert not list(folder.rglob("*.pt"))


@pytest.mark.slow
def test_a_selection_split_of_one_class_stops_before_training(own_demo, tmp_path, capsys):
    path = own_demo / "dataset_json" / "Demo-A.json"
    content = json.loads(path.read_text())
    for label, splits in content["Demo-A"].items():
        if label != "Demo_real":
            splits["val"] = {}
    path.write_text(json.dumps(content))
    assert train(own_demo, tmp_path) == 2
    error = capsys.readouterr().err
    assert "selects checkpoints by frame_auc on Demo-A val, which has" in error and "and 0 fake frames" in error
    assert not list(tmp_path.rglob("*.pt")) and not list(tmp_path.rglob("result.json"))
    assert train(own_demo, tmp_path, "protocol.selection.metric=frame_acc") == 0


def test_a_part_of_a_training_set_is_in_domain_by_name_and_by_its_videos(own_demo, tmp_path):
    from resproto_fd.configs.schema import DataConfig
    from resproto_fd.training.domains import in_domain

    data = DataConfig(root=str(own_demo))
    named = in_domain(["FaceForensics++"], ["FF-DF", "FF-DF_c40", "FaceShifter", "Celeb-DF-v2"], data)
    assert named == {"FF-DF": True, "FF-DF_c40": True, "FaceShifter": False, "Celeb-DF-v2": False}
    assert in_domain(["FF-DF"], ["FaceForensics++", "FF-NT"], data) == {"FaceForensics++": True, "FF-NT": False}
    assert in_domain(["GenFace"], ["GenFace-DDPM"], data) == {"GenFace-DDPM": True}
    assert in_domain(None, ["FF-DF"], data) == {"FF-DF": None}
    scenarios = ("Celeb-DF++", "Celeb-DF++-FS", "Celeb-DF++-FR")  # FS has the fakes of Celeb-DF-v2
    assert [*in_domain(["Celeb-DF-v2"], scenarios, data).values()] == [True, True, False]
    levels = ("HydraFake-ID", "HydraFake-CM", "HydraFake-CF", "HydraFake-CD")
    for trained, seen in (("HydraFake", "ID"), ("FF-DF", "ID"), ("FFIW", "CD"), ("FaceShifter", "none")):
        assert in_domain([trained], levels, data) == {level: level.endswith(seen) for level in levels}, trained
    folder = own_demo / "dataset_json"
    labels = json.loads((folder / "Demo-A.json").read_text())["Demo-A"]
    one = next(name for name in labels if name != "Demo_real")
    for name, kept in (("One", ["Demo_real", one]), ("Reals", ["Demo_real"])):
        (folder / f"{name}.json").write_text(json.dumps({name: {label: labels[label] for label in kept}}))
        (folder / f"{name}.yaml").write_text(f"json: {name}.json\nfolder: Demo-A\nstore: Demo-A_lmdb\n")
    # Reals in common do not make a set in-domain: its fakes may be new.
    assert in_domain(["Demo-A"], ["One", "Reals", "Demo-B"], data) == {"One": True, "Reals": False, "Demo-B": False}
    assert in_domain(["One"], ["Demo-A"], data) == {"Demo-A": True}


@pytest.mark.slow
def test_weights_from_outside_are_tested_and_said_to_be(demo, whole, tmp_path):
    best = torch.load(whole / "best.pt", weights_only=True)
    foreign = tmp_path / "ckpt_best.pth"
    torch.save({f"module.{name}": value for name, value in best["model"].items()}, foreign)
    words = ["test", *SMALL, "--protocol", "demo_cross", "--weights_path", str(foreign), f"data.root={demo}"]
    assert main([*words, f"run.out={tmp_path / 'out'}", "run.device=cpu", "run.workers=0"]) == 0
    result = RunResult.load(run_folder(tmp_path / "out") / "result.json")
    assert result.selected_on.rule == "given"
    assert (result.trained_on, [test.in_domain for test in result.tests.values()]) == (None, [None] * 3)
    assert result.tests["Demo-B"].frame_auc == pytest.approx(
        RunResult.load(whole / "result.json").tests["Demo-B"].frame_auc, abs=1e-9
    )


@pytest.mark.slow
def test_a_deepfakebench_checkpoint_is_known_by_its_names_and_tested(demo, tmp_path, capsys):
    from resproto_fd.detectors import create_detector

    torch.manual_seed(0)
    theirs = create_detector("meso4", paper=False).state_dict()  # batch norms shared by two layers each, as theirs
    torch.save({f"module.backbone.{name}": value for name, value in theirs.items()}, tmp_path / "ckpt_best.pth")
    words = ["test", "--detector", "meso4", "--protocol", "demo_cross", f"data.root={demo}", "run.device=cpu"]
    words += ["--weights", str(tmp_path / "ckpt_best.pth"), f"run.out={tmp_path / 'out'}", "run.workers=0"]
    words += ["protocol.frames.test=1"]
    assert main(words) == 0
    assert "ckpt_best.pth is a DeepfakeBench checkpoint" in capsys.readouterr().err
    result = RunResult.load(run_folder(tmp_path / "out") / "result.json")
    assert result.note == "ckpt_best.pth is a DeepfakeBench checkpoint"
    assert result.parameters == 27_898
    assert {test.in_domain for test in result.tests.values()} == {None}  # what it was trained on is not known
    assert main(["leaderboard", str(tmp_path / "out"), "--out", str(tmp_path / "board")]) == 0
    rows = list(csv.DictReader((tmp_path / "board" / "leaderboard.csv").open()))
    assert {row["in_domain"] for row in rows} == {""}
    assert list((tmp_path / "board" / "rows").glob("*.html"))


@pytest.mark.slow
def test_a_detector_with_nothing_to_train_is_tested_as_it_is(demo, tmp_path):
    assert train(demo, tmp_path, "protocol.frames.test=1", detector=["--detector", "clip_zero_shot_tiny"]) == 0
    result = RunResult.load(run_folder(tmp_path) / "result.json")
    assert result.selected_on.rule == "none"
    assert result.trainable_parameters == 0
    assert result.tests["Demo-B"].in_domain is False


def test_a_test_without_weights_does_not_overwrite_the_result_of_other_settings(demo, tmp_path, capsys):
    words = ["test", "--detector", "chance", "--protocol", "demo_cross", "--out", str(tmp_path), f"data.root={demo}"]
    words += ["run.workers=0", "run.device=cpu", "run.progress=false", "protocol.frames.test=1"]
    assert main(words) == 0
    before = contents(tmp_path)
    assert main([*words, "input.size=48"]) == 2
    assert "would be overwritten" in capsys.readouterr().err and contents(tmp_path) == before
    assert main(words) == 0


def test_a_calibration_of_other_settings_is_not_that_of_a_run_without_weights(demo, tmp_path):
    words = ["test", "--detector", "chance", "--protocol", "demo_cross", "--out", str(tmp_path), f"data.root={demo}"]
    assert main([*words, "run.workers=0", "run.device=cpu", "run.progress=false", "--test_dataset", "Demo-B"]) == 0
    (file,) = tmp_path.rglob("result.json")
    assert main(["calibrate", str(file.parent)]) == 0
    assert calibration_of(RunResult.load(file)) is not None
    edit(file, lambda content: content["config"]["detector"]["input"].update(size=48))
    assert calibration_of(RunResult.load(file)) is None


@pytest.mark.slow
def test_resproto_fd_stores_both_its_scores(demo, tmp_path):
    detector = ["--detector", "resproto_fd_tiny"]
    assert (
        train(demo, tmp_path, "model.start_epoch=0", "run.max_steps=2", "--test_dataset", "Demo-A", detector=detector)
        == 0
    )
    table = ScoreTable.load(run_folder(tmp_path) / "scores" / "Demo-A.npz")
    assert set(table.variants) == {"clip", "grp"}
    assert np.array_equal(table.score, table.variants["grp"])
    assert not np.array_equal(table.score, table.variants["clip"])


def test_the_leaderboard_stands_on_result_files_alone(whole, tmp_path):
    shutil.copytree(whole.parents[2], tmp_path / "runs")
    close_all()
    for path in [*(tmp_path / "runs").rglob("*.pt"), *(tmp_path / "runs").rglob("*.npz")]:
        path.unlink()
    assert main(["leaderboard", str(tmp_path / "runs"), "--out", str(tmp_path / "board")]) == 0
    rows = list(csv.DictReader((tmp_path / "board" / "leaderboard.csv").open()))
    assert {row["test_set"] for row in rows} == {"Demo-A", "Demo-B", "Demo-C"}
    wanted = "protocol detector seed test_set source frames videos frame_auc frame_ap frame_eer frame_acc video_auc"
    assert set(wanted.split()) <= set(rows[0])


def test_figures_draws_a_heatmap_of_each_frame_and_says_what_is_missing(whole, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    assert main(["figures", str(run), "--frames", "2"]) == 0
    picture = cv2.imread(str(run / "figures" / "heatmaps.png"))
    assert picture.shape == (3 * 4 * 48, 2 * 48, 3)  # three test sets, two frames of each class
    assert main(["figures", str(run), "--frames", "1", "--untrained"]) == 0
    untrained = cv2.imread(str(run / "figures_untrained" / "heatmaps.png"))
    assert untrained.shape == (3 * 2 * 48, 2 * 48, 3)
    fails(capsys, main(["figures", str(tmp_path)]), r"no config\.yaml in it")


def test_figures_are_drawn_in_the_precision_of_the_run(whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    text = (run / "config.yaml").read_text()
    assert "precision: fp32" in text
    (run / "config.yaml").write_text(text.replace("precision: fp32", "precision: fp64"))
    assert main(["figures", str(run), "--frames", "1"]) == 0
    assert (run / "figures" / "heatmaps.png").is_file()


# --- weights tested again: under another protocol, from a folder that was moved, on other sets ----------------------


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory):
    """The folder of a run on two training sets, seed 3, with settings of its own."""
    out = tmp_path_factory.mktemp("trained")
    words = [f"data.root={demo}", f"run.out={out}", "--seed", "3", *QUICK, "train.epochs=1", "run.max_steps=2"]
    assert main(["train", *SMALL, "--protocol", "demo_multi", *words]) == 0
    return out / "demo_multi" / "timm" / "seed3"


def contents(folder):
    return {path: path.read_bytes() for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.slow
def test_weights_of_another_protocol_are_known_by_the_run_beside_them(demo, trained, tmp_path, capsys):
    before = RunResult.load(trained / "result.json")
    words = ["test", "--detector", "timm", "--protocol", "demo_cross", "--weights", str(trained / "best.pt")]
    assert main([*words, "--out", str(tmp_path), f"data.root={demo}", "run.device=cpu", "run.workers=0"]) == 0
    assert "and is tested so" in capsys.readouterr().err
    after = RunResult.load(tmp_path / "demo_cross" / "timm" / "seed3" / "result.json")
    assert {name: test.in_domain for name, test in after.tests.items()} == {
        "Demo-A": True,
        "Demo-B": True,  # though demo_cross does not train on it
        "Demo-C": False,
    }
    assert after.trained_on == before.trained_on == ["Demo-A", "Demo-B"]
    assert {"train.epochs=1", "run.max_steps=2", "model.backbone=test_resnet"} <= {*after.overrides}
    assert after.overrides == [*before.overrides, "trained_under=demo_multi"]  # a row of its own on demo_cross's board
    assert after.config["detector"]["train"] == before.config["detector"]["train"]
    assert after.note == "weights trained under demo_multi (on Demo-A, Demo-B)"
    assert after.tests["Demo-C"].frame_auc == before.tests["Demo-C"].frame_auc
    assert after.unseen() == ["Demo-C"]
    # With the weights beside it the result tells the same of them again.
    folder = tmp_path / "demo_cross" / "timm" / "seed3"
    shutil.copy(trained / "best.pt", folder)
    assert main(["test", "--run", str(folder)]) == 0
    again = RunResult.load(folder / "result.json")
    assert (again.overrides, again.trained_on, again.tests) == (after.overrides, after.trained_on, after.tests)


@pytest.mark.slow
def test_the_recipe_of_known_weights_is_theirs_whatever_is_asked_for(demo, trained, tmp_path, capsys):
    words = ["test", *SMALL, "--protocol", "demo_multi", "--weights", str(trained / "best.pt"), "--out", str(tmp_path)]
    assert main([*words, "--seed", "4", f"data.root={demo}", *QUICK[1:], "train.epochs=7"]) == 0
    assert "the recipe is that of the run that made" in capsys.readouterr().err
    after = RunResult.load(tmp_path / "demo_multi" / "timm" / "seed4" / "result.json")
    assert after.overrides == RunResult.load(trained / "result.json").overrides
    assert after.note == ""


@pytest.mark.slow
def test_a_result_file_from_before_training_sets_were_stored_tells_them_by_its_protocol(demo, trained, tmp_path):
    shutil.copytree(trained, tmp_path / "a" / "demo_multi" / "timm" / "seed3")
    folder = tmp_path / "a" / "demo_multi" / "timm" / "seed3"
    edit(folder / "result.json", lambda content: content.pop("trained_on"))
    assert main(["test", "--run", str(folder)]) == 0
    assert RunResult.load(folder / "result.json").trained_on == ["Demo-A", "Demo-B"]


OTHER_WAYS = [pytest.param(how, marks=pytest.mark.slow) for how in ("absolute", "relative", "link")]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["inside", *OTHER_WAYS])
def test_a_moved_run_is_tested_where_it_is_now(demo, trained, tmp_path, monkeypatch, how):
    untouched = contents(trained)
    moved = tmp_path / "elsewhere" / "demo_multi" / "timm" / "seed3"
    shutil.copytree(trained, moved)
    (tmp_path / "link").symlink_to(moved)
    shutil.rmtree(moved / "scores")
    monkeypatch.chdir(moved if how == "inside" else tmp_path)
    named = {"absolute": str(moved), "relative": str(moved.relative_to(tmp_path)), "inside": ".", "link": "link"}[how]
    assert main(["test", "--run", named]) == 0
    assert len(list((moved / "scores").glob("*.npz"))) == 3
    assert contents(trained) == untouched
    assert {path.name for path in tmp_path.iterdir()} == {"elsewhere", "link"}


@pytest.mark.slow
def test_of_a_run_whose_folder_was_renamed_the_place_must_be_named(trained, tmp_path, capsys):
    renamed = tmp_path / "demo_multi" / "timm" / "best_one"
    shutil.copytree(trained, renamed)
    before = contents(tmp_path), contents(trained)
    fails(capsys, main(["test", "--run", str(renamed)]), r"best_one: .*demo_multi/timm/seed3.*set --out DIR")
    assert (contents(tmp_path), contents(trained)) == before
    assert main(["test", "--run", str(renamed), "--out", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "demo_multi" / "timm" / "seed3" / "result.json").is_file()


@pytest.mark.slow
def test_a_run_of_other_weights_is_never_overwritten(demo, trained, tmp_path, capsys):
    other = tmp_path / "demo_multi" / "timm" / "seed3"
    shutil.copytree(trained, other)
    best = torch.load(other / "best.pt", weights_only=True)
    torch.save(best | {"another": 1}, other / "best.pt")
    before = contents(other)
    refused = r"seed3: holds a run whose best\.pt is other weights than .*--out DIR"
    fails(capsys, main(["test", "--run", str(trained), "--out", str(tmp_path)]), refused)
    fails(capsys, main(["test", "--run", str(other), "--weights", str(trained / "best.pt")]), refused)
    assert contents(other) == before


@pytest.mark.slow
def test_a_runs_own_results_are_not_replaced_by_those_of_other_settings(trained, tmp_path, capsys):
    before = contents(trained)
    fails(
        capsys, main(["test", "--run", str(trained), "input.size=32"]), "overwrite the run's own results; set --out DIR"
    )
    assert contents(trained) == before
    assert main(["test", "--run", str(trained), "input.size=32", "--out", str(tmp_path)]) == 0


@pytest.mark.slow
def test_two_changes_of_a_runs_protocol_have_a_folder_each(trained, tmp_path):
    folder = tmp_path / "demo_multi" / "timm" / "seed3"
    shutil.copytree(trained, folder)

    def tested(*words):
        assert main(["test", "--run", str(folder), *words]) == 0
        found = tmp_path.glob("demo_multi-custom-*/timm/seed3/result.json")
        return {path.parts[-4]: list(RunResult.load(path).tests) for path in found}

    before = contents(folder)
    first = tested("--test_dataset", "Demo-B")
    both = tested("--test_dataset", "Demo-C", "Demo-A")
    assert list(first.values()) == [["Demo-B"]]
    assert len(both) == 2
    assert both.items() > first.items()
    assert tested("--test_dataset", "Demo-B") == both
    third = tested(
        "--test_dataset", "Demo-B", "protocol.frames.test=2", "run.test_batch_size=8"
    )  # words after the sets
    assert len(third) == 3
    assert contents(folder) == before


def test_a_changed_protocol_of_the_users_own_has_a_name_of_its_own_too(demo, tmp_path):
    from argparse import ArgumentParser

    from resproto_fd.training import test
    from resproto_fd.training.commands import arguments

    def config(*words):
        parser = ArgumentParser()
        test.add_arguments(parser)
        args = parser.parse_args([*SMALL[:2], *words])
        return arguments.saved_config(args) if args.run_folder else arguments.run_config(args)

    own = tmp_path / "mine.yaml"
    own.write_text(loading.dump(loading.load("protocols", "demo_cross").model_copy(update={"name": "mine"})))
    names = [
        config("--protocol", str(own), *words).protocol.name
        for words in ([], ["--test_dataset", "Demo-B"], ["--test_dataset", "Demo-C"], ["protocol.frames.test=2"])
    ]
    assert names[0] == "mine"
    assert len({*names}) == 4
    assert all(re.fullmatch("mine-custom-[0-9a-f]{8}", name) for name in names[1:])
    # The same change has the same name, whichever way it came about; the sets of another file choose the selection's.
    assert config("--protocol", str(own), "--test_dataset", "Demo-B").protocol.name == names[1]
    assert (
        config("--protocol", "demo_cross", "--test_dataset", "Demo-A", "Demo-B", "Demo-C").protocol.name == "demo_cross"
    )
    moved = config("--protocol", "demo_cross", "--train_dataset", "Demo-B").protocol
    assert (moved.selection.dataset, moved.train) == ("Demo-B", ["Demo-B"])
    # A protocol with other training sets does not go by the name, title and source of the one that was changed.
    assert re.fullmatch("Demo-B-custom-[0-9a-f]{8}", moved.name)
    assert (moved.title, moved.source) == ("Demo-B to Demo-A, Demo-B, Demo-C", "")
    assert "train: Demo-B instead of Demo-A; selection: dataset Demo-B instead of dataset Demo-A" in moved.note


@pytest.mark.parametrize(
    "words",
    [
        ["--detector", "xception"],
        ["--detector_path", "xception.yaml"],
        ["--protocol", "demo_cross"],
        ["--seed", "1"],
        ["--train_dataset", "Demo-C"],
        ["seed=1"],
        ["protocol.train=[Demo-C]"],
    ],
)
def test_what_made_a_run_is_not_changed_by_testing_it(trained, tmp_path, capsys, words):
    status = main(["test", "--run", str(trained), "--out", str(tmp_path), *words])
    needle = re.escape(words[0].split("=")[0])
    fails(capsys, status, rf"{needle}.*: not with --run.*--weights {trained}/best\.pt --detector NAME --protocol NAME")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_can_be_tested_under_a_task_of_its_own(trained, tmp_path):
    assert main(["test", "--run", str(trained), "--out", str(tmp_path), "--task_target", "again"]) == 0
    assert run_folder(tmp_path) == tmp_path / "demo_multi" / "timm_again" / "seed3"


# --- bad input: exit status 2, a message that helps, no traceback ---------------------------------------------------


def fails(capsys, status, *needles):
    error = capsys.readouterr().err
    assert status == 2, error
    assert "Traceback" not in error
    for needle in needles:
        assert re.search(needle, error), error


def test_unknown_names_are_refused_with_the_nearest(demo, tmp_path, capsys):
    fails(capsys, train(demo, tmp_path, detector=["--detector", "resproto_df"]), "the nearest is 'resproto_fd'")
    fails(capsys, main(["train", *SMALL, "--protocol", "demo_cros"]), "the nearest is 'demo_cross'")
    fails(capsys, main(["train", "--protocol", "demo_cross"]), "name a detector")
    fails(capsys, train(demo, tmp_path, "--test_dataset", "Demo-D"), "no dataset is called 'Demo-D'.*Demo-")
    fails(capsys, train(demo, tmp_path, "train.epochs=0"), r"train\.epochs: expected 1 or more, got 0.*resproto test")
    assert not list(tmp_path.rglob("config.yaml"))
    fails(capsys, train(demo, tmp_path, "train.epoch=3"), r"unknown key '.*train\.epoch'; the nearest is 'epochs'")
    fails(capsys, train(demo, tmp_path, "model.backbon=x"), "backbon.*nearest is 'backbone'")
    fails(capsys, train(demo, tmp_path, "train.optimizer.lr=fast"), r"train\.optimizer\.lr.*got 'fast'")
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seed", "1", "seed=2"], "--seed 1 and seed=2"),
        (["--out", "a", "run.out=b"], "--out a and run.out='b'"),
        (["--task_target", "a", "run.task=b"], "--task_target a and run.task='b'"),
        (["--test_dataset", "A", "--seed", "1", "protocol.test=[B]"], "--test_dataset ['A'] and protocol.test=['B']"),
        (["--train_dataset", "A", "protocol={train: [B]}"], "--train_dataset ['A'] and protocol.train=['B']"),
        (["--no-save_ckpt", "run.save_checkpoints=true"], "--no-save_ckpt and run.save_checkpoints=True"),
        (["train.epochs=3", "--seed", "1", "train.epochs=1"], "'train.epochs=3' and 'train.epochs=1'"),
    ],
)
def test_a_flag_and_a_setting_that_contradict_each_other_are_refused(words, said, capsys):
    told = re.escape(f"{said} contradict each other; give one of them")
    fails(capsys, main(["train", "--detector", "chance", "--protocol", "demo_cross", *words]), told)


def test_a_flag_and_a_setting_that_say_the_same_are_taken():
    words = ["--detector", "chance", "--seed", "1", "seed=1", "--out", "a", "run.out=a", "--test_dataset", "B"]
    config = run_config(cli._parsed(["train", *words, "protocol.test=[B]"]))
    assert (config.seed, config.run.out, config.protocol.test) == (1, "a", ["B"])


def test_a_missing_data_root_is_named(tmp_path, capsys):
    fails(capsys, train(tmp_path / "nowhere", tmp_path), r"data\.root: no folder .*nowhere")
    fails(capsys, train(tmp_path, tmp_path), "holds no dataset_json")


def test_a_missing_manifest_is_named_with_those_there_are(own_demo, tmp_path, capsys):
    (own_demo / "dataset_json" / "Demo-B.json").unlink()
    fails(capsys, train(own_demo, tmp_path / "r"), r"no manifest .*Demo-B\.json; manifests there: Demo-A, Demo-C")


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_manifest_without_the_split_is_named(own_demo, tmp_path, capsys):
    path = own_demo / "dataset_json" / "Demo-A.json"
    edit(path, lambda content: [label.update(val={}) for label in content["Demo-A"].values()])
    fails(capsys, train(own_demo, tmp_path / "r"), r"Demo-A\.json.*split 'val'")


def test_a_label_outside_the_taxonomy_is_named(own_demo, tmp_path, capsys):
    path = own_demo / "dataset_json" / "Demo-B.json"
    path.write_text(path.read_text().replace("Demo_swap", "Demo_swop"))
    fails(capsys, train(own_demo, tmp_path / "r"), r"Demo-B\.json.*Demo_swop")


@pytest.mark.slow
def test_frames_that_the_store_lacks_are_counted_and_named_before_training(own_demo, tmp_path, capsys):
    gone = sorted((own_demo / "rgb" / "Demo-A").rglob("*.png"))[:2]
    for path in gone:
        path.unlink()
    fails(capsys, train(own_demo, tmp_path / "r"), "lacks 2 of", gone[0].name, "on_bad_frame=skip")
    assert not list((tmp_path / "r").rglob("*.pt"))
    assert train(own_demo, tmp_path / "r", "data.on_bad_frame=skip") == 0
    assert "2 missing frames are left out" in capsys.readouterr().err
    whole = RunResult.load(run_folder(tmp_path / "r") / "result.json")
    assert sum(test.skipped for test in whole.tests.values()) <= 2


def test_a_set_of_which_the_store_has_no_frame_is_named(own_demo, tmp_path, capsys):
    words = ["--callable", "os:getcwd", "--name", "x", "--protocol", "demo_cross", "data.on_bad_frame=skip"]
    words += ["--out", str(tmp_path), f"data.root={own_demo}"]
    for path in (own_demo / "rgb" / "Demo-B").rglob("*.png"):
        path.write_bytes(b"")
    status = main(["test", *words, "--test_dataset", "Demo-B"])
    fails(capsys, status, "data set 'Demo-B': expected frames that can be read, got none of")
    shutil.rmtree(own_demo / "rgb" / "Demo-B")
    fails(capsys, main(["test", *words]), "data set 'Demo-B', test: expected frames in the store, got none of")
    shutil.rmtree(own_demo / "rgb" / "Demo-A")
    fails(capsys, train(own_demo, tmp_path, "data.on_bad_frame=skip"), "the training sets: expected frames in the")


@pytest.mark.slow
def test_a_truncated_test_frame_stops_the_test_or_is_counted(own_demo, tmp_path, capsys):
    path = sorted((own_demo / "rgb" / "Demo-B").rglob("*.png"))[0]
    path.write_bytes(path.read_bytes()[:-500])
    fails(capsys, train(own_demo, tmp_path / "a"), path.name)
    assert train(own_demo, tmp_path / "b", "data.on_bad_frame=skip") == 0
    result = RunResult.load(run_folder(tmp_path / "b") / "result.json")
    assert (result.tests["Demo-A"].skipped, result.tests["Demo-B"].skipped) == (0, 1)
    # Nothing of the first try is lost: after mending, only what was not scored is scored.
    assert (run_folder(tmp_path / "a") / "scores" / "Demo-A.npz").is_file()


@pytest.mark.slow
def test_a_class_absent_from_a_test_set_is_undefined_and_the_run_goes_on(own_demo, tmp_path, capsys):
    def drop_reals(content):
        content["Demo-B"]["Demo_real"]["test"] = {}

    edit(own_demo / "dataset_json" / "Demo-B.json", drop_reals)
    assert train(own_demo, tmp_path / "r") == 0
    assert "undefined" in capsys.readouterr().out
    result = RunResult.load(run_folder(tmp_path / "r") / "result.json")
    assert result.tests["Demo-B"].frame_auc is None
    assert result.tests["Demo-C"].frame_auc is not None


def test_a_training_set_of_one_class_is_refused(own_demo, tmp_path, capsys):
    edit(own_demo / "dataset_json" / "Demo-A.json", lambda c: c["Demo-A"]["Demo_real"].update(train={}))
    fails(capsys, train(own_demo, tmp_path / "r"), "hold 0 real and .* fake")


def test_weights_of_another_detector_are_refused_with_the_differences(demo, tmp_path, capsys):
    foreign = tmp_path / "other.pth"
    torch.save({"a.weight": torch.zeros(2)}, foreign)
    words = ["test", *SMALL, "--protocol", "demo_cross", f"data.root={demo}", f"run.out={tmp_path / 'o'}"]
    fails(
        capsys,
        main([*words, "--weights", str(foreign)]),
        r"does not fit Timm\b.*is missing.*a\.weight .* is unknown",
    )
    foreign.write_bytes(b"no weights")
    fails(capsys, main([*words, "--weights", str(foreign)]), "cannot be read as weights")
    fails(capsys, main([*words, "--weights", str(tmp_path / "absent")]), "no such weight file")
    fails(capsys, main(words), "has weights to learn")


def test_a_fingerprint_changes_with_frames_and_rules_and_with_nothing_else(demo, own_demo):
    from resproto_fd.configs.schema import DataConfig
    from resproto_fd.training.protocols import resolve

    def fingerprint(data, **changes):
        protocol = loading.load("protocols", "demo_cross")
        return resolve(protocol.model_copy(update=changes), DataConfig(root=str(data))).fingerprint

    reference = fingerprint(demo)
    assert fingerprint(own_demo) == reference
    assert fingerprint(demo, title="other words") == reference
    assert fingerprint(demo, test=["Demo-A", "Demo-B"]) != reference
    frames = loading.load("protocols", "demo_cross").frames.model_copy(update={"test": 2})
    assert fingerprint(demo, frames=frames) != reference
    edit(own_demo / "dataset_json" / "Demo-C.json", lambda c: c["Demo-C"]["Demo_real"]["test"].popitem())
    assert fingerprint(own_demo) != reference


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("model.topk=3", "unknown key 'model.topk'; the nearest is 'top_k'"),
        ("model.top_k=many", "key 'model.top_k'"),
        ("train.epoch=3", "unknown key 'train.epoch'; the nearest is 'epochs'"),
        ("train.optimizer.lrr=1", "unknown key 'train.optimizer.lrr'; the nearest is 'lr'"),
        ("input.sise=3", "unknown key 'input.sise'; the nearest is 'size'"),
        ("data.rooot=x", "unknown key 'data.rooot'; the nearest is 'root'"),
        ("run.worker=1", "unknown key 'run.worker'; the nearest is 'workers'"),
        ("protocol.tests=[A]", "unknown key 'protocol.tests'; the nearest is 'test'"),
    ],
)
@pytest.mark.parametrize("command", ["train", "test", "demo"])
def test_a_wrong_key_is_reported_as_typed_before_data_or_folders_are_touched(
    command, word, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    which = ["--detectors", "resproto_fd_tiny"]
    if command != "demo":
        which = ["--detector", "resproto_fd_tiny", "--protocol", "demo_cross", "data.root=nowhere"]
    assert main([command, *which, word]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["train.epochs", "3"], ["model.top_k"], ["train.epochs=3", "fast"]])
@pytest.mark.parametrize("command", ["train", "test", "demo"])
def test_a_setting_without_its_equals_sign_is_refused_and_not_ignored(command, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    which = [] if command == "demo" else ["--detector", "resproto_fd_tiny", "--protocol", "demo_cross"]
    status = main([command, *which, *words])
    word = next(word for word in words if "=" not in word)
    fails(capsys, status, rf"'{re.escape(word)}' is not of the form key=value")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--set", "train.epochs=3"], ["--lr", "0.1"]])
def test_an_unknown_flag_is_answered_with_the_form_of_settings(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--detector", "resproto_fd_tiny", *words])
    fails(capsys, stop.value.code, f"{words[0]}.*settings are words like train.epochs=3")


@pytest.mark.parametrize("word", ["train.epoch=3", "model.backbon=x", "input.sise=3", "data.rooot=x"])
def test_a_wrong_key_is_reported_as_typed_when_a_run_is_tested_again(trained, tmp_path, capsys, word):
    before = contents(trained)
    status = main(["test", "--run", str(trained), "--out", str(tmp_path / "out"), word])
    fails(capsys, status, rf": unknown key '{re.escape(word.partition('=')[0])}'")
    assert contents(trained) == before
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [["submit", "scores.csv"], ["control"]])
def test_a_wrong_data_key_is_reported_as_typed_before_anything_is_read(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status = main([*command, "--protocol", "demo_cross", "data.rooot=x"])
    fails(capsys, status, r"command line: unknown key 'data\.rooot'; the nearest is 'root'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_copy_of_a_runs_weights_keeps_its_history(trained, tmp_path):
    """Copied under another name and into another place, weights are known by their SHA-256."""
    runs = trained.parents[2]
    copied = tmp_path / "away" / "x.pt"
    copied.parent.mkdir()
    shutil.copy(trained / "best.pt", copied)
    known = RunResult.load(trained / "result.json")
    assert run_that_made(copied, runs).selected_on == known.selected_on
    assert run_that_made(copied, tmp_path) is None
    assert run_that_made(copied) is None
    shutil.copytree(runs, tmp_path / "runs")
    words = ["--weights", str(copied), "--protocol", "demo_cross", "--out", str(tmp_path / "runs"), *QUICK[2:]]
    data = f"data.root={known.config['data']['root']}"
    assert main(["test", *SMALL, *words, data]) == 0
    tested = RunResult.load(next((tmp_path / "runs" / "demo_cross").rglob("result.json")))
    assert tested.selected_on == known.selected_on
    assert tested.trained_on == known.trained_on
    assert "trained_under=demo_multi" in tested.overrides


@pytest.mark.slow
def test_a_validation_split_that_is_the_test_set_makes_an_oracle(demo, tmp_path, capsys):
    """Demo-B's test list under the name of a val split: what choosing on such a set is, whatever it is called."""
    own = tmp_path / "data"
    shutil.copytree(demo, own)
    path = own / "dataset_json" / "Demo-B.json"
    manifest = json.loads(path.read_text())
    for label in manifest["Demo-B"].values():
        label["val"] = label["test"]
    path.write_text(json.dumps(manifest))
    assert train(own, tmp_path / "runs", "protocol.selection.dataset=Demo-B") == 0
    assert "tests: its row is an oracle, not ranked" in capsys.readouterr().err
    (result,) = [RunResult.load(path) for path in (tmp_path / "runs").rglob("result.json")]
    assert result.selected_on.split == "val"
    assert result.selected_on.oracle


@pytest.mark.slow
def test_a_protocol_for_tests_alone_tests_and_does_not_train(demo, tmp_path, capsys):
    protocol = tmp_path / "only_tests.yaml"
    protocol.write_text("train: []\nselection: {rule: last}\ntest: [Demo-A, Demo-B]\nframes: {test: 2}\n")
    words = ["--protocol", str(protocol), "--out", str(tmp_path / "runs"), f"data.root={demo}", *QUICK[2:]]
    assert main(["test", "--detector", "clip_zero_shot_tiny", *words]) == 0
    (result,) = [RunResult.load(path) for path in (tmp_path / "runs").rglob("result.json")]
    assert {test.in_domain for test in result.tests.values()} == {False}
    assert main(["train", "--detector", "clip_tiny", *words]) == 2
    assert r"only_tests is for tests alone (train: [])" in capsys.readouterr().err


@pytest.mark.slow
def test_a_protocol_for_tests_alone_takes_weights_and_scores_and_calls_no_column_in_domain(demo, trained, tmp_path):
    protocol, runs = tmp_path / "only_tests.yaml", tmp_path / "runs"
    protocol.write_text("train: []\nselection: {rule: last}\ntest: [Demo-A, Demo-B]\nframes: {test: 2}\n")
    words = ["--protocol", str(protocol), f"data.root={demo}"]
    weights = ["--weights", str(trained / "best.pt"), "--out", str(runs), *QUICK[2:]]
    assert main(["test", *SMALL, *words, *weights]) == 0
    assert main(["submit", *words, "--template", str(tmp_path / "t.csv")]) == 0
    scores = (tmp_path / "t.csv").read_text().splitlines()
    (tmp_path / "s.csv").write_text(
        "\n".join([scores[0], *(f"{line}{i % 9 / 9}" for i, line in enumerate(scores[1:]))])
    )
    theirs = ["--name", "theirs", "--out", str(runs), "--trained-on", "protocol"]
    assert main(["submit", str(tmp_path / "s.csv"), *words, *theirs]) == 0
    found = {result.detector: result for result in map(RunResult.load, runs.rglob("result.json"))}
    assert set(found) == {"timm", "theirs"} and len({result.fingerprint for result in found.values()}) == 1
    assert found["theirs"].trained_on == [] and not any(test.in_domain for test in found["theirs"].tests.values())
    assert found["timm"].trained_on == ["Demo-A", "Demo-B"]  # the row says what it has seen
    assert main(["leaderboard", str(runs), "--out", str(tmp_path / "board")]) == 0
    (table,) = json.loads((tmp_path / "board" / "leaderboard.json").read_text())["tables"]
    assert table["in_domain"] == [] and len(table["metrics"]["frame_auc"]) == 2


def test_the_users_own_names_are_among_the_nearest(own_demo, tmp_path, capsys, monkeypatch):
    from resproto_fd.training import overriding

    monkeypatch.setattr(overriding, "class_names", lambda: ["mine", "timm"])
    assert train(own_demo, tmp_path, detector=["--detector", "minee"]) == 2
    assert "no detector is called 'minee'; the nearest is 'mine'" in capsys.readouterr().err
    shutil.copy(own_demo / "dataset_json/Demo-B.json", own_demo / "dataset_json/MyVideos.json")
    assert train(own_demo, tmp_path, "protocol.test=[MyVideo]") == 2
    assert "no dataset is called 'MyVideo'; the nearest is 'MyVideos'; in " in capsys.readouterr().err


def test_deepfakebenchs_flags_about_features_are_taken_and_others_refused_by_the_command(capsys):
    import argparse

    from resproto_fd.training.commands import arguments

    parser = argparse.ArgumentParser()
    arguments.add_shared(parser)
    assert parser.parse_args(["--detector", "timm", "--no-save_feat"]).save_feat is False
    with pytest.raises(SystemExit):
        main(["train", "--detector", "timm", "--no-save_feats"])
    assert "usage: resproto train" in capsys.readouterr().err
