"""From a run and anybody's files to answers: calibration, faces, verdicts with reasons, and files that mean harm."""

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from resproto_fd.configs.errors import Interrupted, UnreadableFile, UserError
from resproto_fd.configs.loading import dump
from resproto_fd.preprocessing.faces.alignment import crop_template
from resproto_fd.preprocessing.faces.finding import Candidates, FaceFinder, Find
from resproto_fd.preprocessing.faces.sources import Options
from resproto_fd.preprocessing.manifest import read_manifest
from resproto_fd.preprocessing.store.frame_store import open_store
from resproto_fd.preprocessing.video import Video
from resproto_fd.trainer.augment.corruptions import through_jpeg
from resproto_fd.trainer.augment.transforms import plain_transform
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.training import cli, train
from resproto_fd.training.answers import calibrating, outputs, reasons, verdicts
from resproto_fd.training.answers.answering import answer
from resproto_fd.training.answers.judges import Judge, read_config
from resproto_fd.training.answers.meaning import meaning_of
from resproto_fd.training.answers.records import Answers, FaceAnswer, FileAnswer, Opinion, RunFacts, Settings
from resproto_fd.training.answers.report import render_report
from resproto_fd.training.answers.search import FaceSearch, Found, is_cropped, sources_of
from resproto_fd.training.calibration import FAILED, FILE, REFERENCE, Calibration, is_tried
from resproto_fd.training.cli import main
from resproto_fd.training.commands import predict
from resproto_fd.training.measures import calibration
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ScoreTable

SMALL = ["--detector", "timm", "model.backbone=test_resnet", "model.pretrained=false", "input.size=48"]
QUICK = ["train.epochs=1", "train.batch_size=8", "run.workers=0", "run.device=cpu", "run.progress=false"]
CROPPED = Settings(cropped=True, processes=0, device="cpu")


@pytest.fixture(scope="module")
def run(demo, tmp_path_factory):
    """The folder of a run that was trained for two steps and calibrated at its end; nobody changes it."""
    out = tmp_path_factory.mktemp("answers")
    words = ["--protocol", "demo_cross", "--test_dataset", "Demo-B", f"data.root={demo}", f"run.out={out}"]
    assert main(["train", *SMALL, *words, *QUICK, "run.max_steps=2"]) == 0
    return next(out.rglob("config.yaml")).parent


@pytest.fixture(scope="module")
def frames(demo, tmp_path_factory):
    """Files of Demo-B's test frames, in the order of the frame list."""
    folder, store = tmp_path_factory.mktemp("frames"), open_store(demo / "lmdb" / "Demo-B_lmdb")
    videos = read_manifest(demo / "dataset_json" / "Demo-B.json", "Demo-B", split="test")
    paths = FrameList.of(videos, None).paths
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(store.read_bytes(path))
    return [str(folder / path) for path in paths]


# --- calibration ----------------------------------------------------------------------------------------------------


def drawn(count=4000, sharper=2.5):
    rng = np.random.default_rng(0)
    odds = 3 * rng.normal(size=count)
    labels = (rng.random(count) < 1 / (1 + np.exp(-odds))).astype(int)
    return 1 / (1 + np.exp(-sharper * odds)), labels


@pytest.mark.parametrize("kind", calibration.KINDS)
def test_a_calibrator_mends_what_was_overconfident_also_for_people_it_has_not_seen(kind):
    scores, labels = drawn(1000)
    before = calibration.errors(scores, labels)
    for made in (
        calibration.fit(kind, scores, labels)(scores),
        calibration.held_out(kind, scores, labels, np.arange(len(scores)) // 8),
    ):
        after = calibration.errors(made, labels)
        assert after["ece"] < before["ece"] / 2
        assert after["brier"] < before["brier"]


def test_the_temperature_is_the_factor_by_which_log_odds_were_too_large():
    scores, labels = drawn()
    assert calibration.fit("temperature", scores, labels).parameters["temperature"][0] == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize("kind", calibration.KINDS)
def test_calibration_never_turns_the_order_round(kind):
    scores, labels = drawn(500)
    for known in (labels, 1 - labels):  # also where scores are worse than chance
        made = calibration.fit(kind, scores, known)(np.linspace(0, 1, 101))
        assert (np.diff(made) >= 0).all() and (made >= 0).all() and (made <= 1).all()


def test_one_class_cannot_be_calibrated_and_too_few_groups_hold_nothing_out():
    with pytest.raises(ValueError, match="one class"):
        calibration.fit("platt", np.array([0.1, 0.2]), np.array([0, 0]))
    assert calibration.held_out("platt", np.array([0.1, 0.9]), np.array([0, 1]), np.array([0, 1])) is None


@pytest.mark.slow
def test_training_leaves_a_calibration_that_belongs_to_the_weights(run):
    found = Calibration.load(run)
    judge = Judge(run, "cpu")
    assert judge.calibration == found
    assert found.levels["frame"].count > found.levels["video"].count > 0
    assert list(found.levels["frame"].tests) == ["Demo-B"]
    assert found.reference.frames == found.levels["frame"].count
    assert found.features(run).shape[0] == found.reference.frames
    assert found.levels["frame"].thresholds["0.05"].false_alarms.value <= 0.05


@pytest.mark.slow
def test_a_calibration_of_other_weights_or_settings_is_not_used(run, tmp_path):
    found = Calibration.load(run)
    assert "other weights" in found.of_others("0" * 64, None, found.settings)
    assert "other settings" in found.of_others(found.weights, None, "0" * 64)
    assert found.of_others(None, found.tensors, found.settings) == ""  # the same weights in another file
    other = found.model_copy(update={"weights": "1" * 64})
    other.save(tmp_path)
    for name in ("config.yaml", "best.pt"):
        os.symlink(run / name, tmp_path / name)
    judge = Judge(tmp_path, "cpu")
    assert judge.calibration is None
    assert "other weights" in judge.notes[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made.update(version=2),
        lambda made: made.update(levels={}),
        lambda made: made.update(weights=None, tensors=None),
        lambda made: made["levels"]["frame"]["calibrators"].update(temperature={"temperature": [0.0]}),
        lambda made: made["levels"]["frame"]["calibrators"].update(isotonic={"scores": [0.5, 0.1], "shares": [0, 1]}),
        lambda made: made["levels"]["frame"]["calibrators"].update(isotonic={"scores": [0.5], "shares": []}),
        lambda made: made["levels"]["frame"]["calibrators"].update(platt={"slope": [1.0]}),
        lambda made: made["levels"]["frame"]["thresholds"]["0.05"].update(threshold=2.0),
        lambda made: made["levels"]["frame"]["thresholds"].pop("0.05"),
        lambda made: made["levels"]["video"]["calibrators"].pop("platt"),
        lambda made: made["levels"]["frame"]["calibrators"].update(isotonic={"scores": [0.5], "shares": [7.0]}),
    ],
)
def test_a_damaged_calibration_is_refused_by_name(run, tmp_path, change):
    made = json.loads((run / FILE).read_text())
    change(made)
    (tmp_path / FILE).write_text(json.dumps(made))
    with pytest.raises(UnreadableFile, match=FILE):
        Calibration.load(tmp_path)


def test_a_reference_of_another_calibration_is_refused(run, tmp_path):
    (tmp_path / FILE).write_bytes((run / FILE).read_bytes())
    np.savez(tmp_path / REFERENCE, features=np.ones((3, 4), np.float16))
    with pytest.raises(UnreadableFile, match="got another"):
        Calibration.load(tmp_path).features(tmp_path)


@pytest.mark.parametrize("features", [np.full((3, 4), np.nan, np.float16), np.ones((0, 4), np.float16)])
def test_a_reference_that_is_no_reference_is_refused(run, tmp_path, features):
    Calibration.load(run).save(tmp_path, features)
    with pytest.raises(UnreadableFile, match="features that are finite numbers"):
        Calibration.load(tmp_path).features(tmp_path)


def test_a_reference_of_features_of_another_length_is_named():
    with pytest.raises(UserError, match="features of 3 numbers, its detector gives 2"):
        reasons.distances(np.ones((2, 2)), np.ones((4, 3)), 1)


def test_sharpness_is_that_of_the_picture_that_the_detector_gets(run):
    judge, crop = Judge(run, "cpu"), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    judge.config = judge.config.model_copy(update={"protocol": judge.config.protocol.model_copy(update={"recode": 5})})
    seen = plain_transform(judge.config.detector.input)(through_jpeg(crop, 5))
    assert judge.score([crop]).sharpness.tolist() == [reasons.sharpness(seen)]


def test_a_split_that_was_tested_on_stays_marked_by_what_the_result_tells(run, tmp_path, capsys):
    for name in ("config.yaml", "best.pt", "scores", "scores_selection"):
        os.symlink(run / name, tmp_path / name)
    result = RunResult.load(run / "result.json")
    chosen = result.selected_on.model_copy(update={"oracle": True})
    result.model_copy(update={"selected_on": chosen}).save(tmp_path / "result.json")
    assert not Calibration.load(run).oracle
    assert main(["calibrate", str(tmp_path), "--device", "cpu", "data.root=nowhere"]) == 0
    assert Calibration.load(tmp_path).oracle
    assert main(["calibrate", "data.root=nowhere"]) == 2
    assert "expected the folder of a run, got settings alone" in capsys.readouterr().err


def test_frames_that_cannot_be_read_are_no_part_of_the_reference(frames):
    class Store:
        def read(self, path):
            if path.endswith("b.png"):
                raise UserError("damaged")

    video = Video("A", "val", "v", 0, "real", "real", "v", ("v/a.png", "v/b.png"))
    assert calibrating._unreadable(FrameList.of([video], None), {"A": Store()}) == {"v/b.png"}


def test_a_fault_of_the_calibration_is_no_fault_of_the_training_and_is_kept(run, monkeypatch, capsys, tmp_path):
    config = read_config(run)
    assert is_tried(run) and not is_tried(tmp_path)
    monkeypatch.setattr(calibrating, "calibrate", lambda *args: 1 / 0)
    train._calibrate(config, tmp_path)
    assert "note: the run is not calibrated: ZeroDivisionError: division by zero" in capsys.readouterr().err
    assert (tmp_path / FAILED).read_text() == "ZeroDivisionError: division by zero\n"
    assert is_tried(tmp_path)
    Calibration.load(run).save(tmp_path)
    assert is_tried(tmp_path) and not (tmp_path / FAILED).exists()

    def stop(*args):
        raise Interrupted("stopped")

    monkeypatch.setattr(calibrating, "calibrate", stop)
    with pytest.raises(Interrupted):
        train._calibrate(config, tmp_path)


def test_training_calibrates_with_the_keywords_that_its_data_filled(run, monkeypatch, tmp_path):
    config = read_config(run)
    filled = config.detector.model_copy(update={"model": {**config.detector.model, "epochs": 7}})
    (tmp_path / "config.yaml").write_text(dump(config.model_copy(update={"detector": filled})))
    given = []
    monkeypatch.setattr(calibrating, "calibrate", lambda config, *_: given.append(config.detector.model))
    train._calibrate(config, tmp_path)
    assert given == [filled.model] and "epochs" not in config.detector.model


def test_kept_scores_are_calibrated_on_only_if_their_labels_are_still_those_of_the_data(run, demo, tmp_path, capsys):
    mine, data = tmp_path / "run", tmp_path / "data"
    shutil.copytree(run, mine)
    shutil.copytree(demo / "dataset_json", data / "dataset_json")
    (data / "lmdb").symlink_to(demo / "lmdb")
    words = ["calibrate", str(mine), "--device", "cpu", f"data.root={data}", "run.progress=false"]
    scores = mine / "scores_selection" / "Demo-A.npz"
    before = scores.read_bytes()
    assert main(words) == 0 and scores.read_bytes() == before
    assert "scored again" not in capsys.readouterr().err
    manifest = data / "dataset_json" / "Demo-A.json"
    content = json.loads(manifest.read_text())
    video = next(iter(content["Demo-A"]["Demo_real"]["val"].values()))
    video["label"] = "Demo_swap"
    manifest.write_text(json.dumps(content))
    assert main(words) == 0
    assert "scored again, since labels of" in capsys.readouterr().err
    fakes = [Calibration.load(folder).levels["video"].fakes for folder in (run, mine)]
    assert fakes[0] < fakes[1]


def test_calibrate_without_scores_or_data_says_what_to_set(run, tmp_path, capsys):
    for name in ("config.yaml", "best.pt"):
        os.symlink(run / name, tmp_path / name)
    assert main(["calibrate", str(tmp_path), "--device", "cpu", "data.root=nowhere"]) == 2
    assert "no kept scores of Demo-A val" in capsys.readouterr().err


# --- the unsure rules -----------------------------------------------------------------------------------------------


def test_turn_and_sharpness_grow_as_they_should():
    front = [[30, 40], [70, 40], [50, 60], [35, 80], [65, 80]]
    side = [[30, 40], [50, 40], [49, 60], [35, 80], [48, 80]]
    assert reasons.turn_of(front) == pytest.approx(0)
    assert reasons.turn_of(side) > reasons.MOST_TURN
    assert reasons.turn_of([[1, 1]] * 5) == 1
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    assert reasons.sharpness(cv2.GaussianBlur(image, (0, 0), 2)) < reasons.sharpness(image) / 10


def test_a_distance_ignores_frames_of_the_same_video():
    features = reasons.of_length_one(np.array([[1.0, 0], [1, 0.01], [0, 1]]))
    owners = np.array([0, 0, 1])
    assert reasons.distances(features, features, 1)[0] == pytest.approx(0, abs=1e-6)
    assert reasons.distances(features, features, 1, (owners, owners))[0] == pytest.approx(1, abs=0.02)
    assert np.isinf(reasons.distances(features, features, 3, (owners, owners))).any()


def judge_with(**reference):
    level = SimpleNamespace(
        thresholds={"0.05": SimpleNamespace(threshold=0.6)}, fakes=0.5, calibrator=lambda kind: lambda scores: scores
    )
    known = SimpleNamespace(**{"far": 0.3, "sharp": 20.0, **reference})
    return SimpleNamespace(calibration=SimpleNamespace(levels={"frame": level, "video": level}, reference=known))


def judged(columns, side=200.0, turn=0.0, judges=None):
    face = FaceAnswer(1, list(range(len(columns[0]["score"]))), side, turn, "", 0.0, {}, [])
    judges = judges or [(judge_with(), f"run {i}") for i in range(len(columns))]
    verdicts.judged_face(face, list(zip(judges, columns)), Settings())
    return face


GOOD = {
    "score": [0.9, 0.8],
    "distance": [0.1, 0.1],
    "sharpness": [30.0, 30.0],
    "jpeg": [0.7, 0.7],
    "resize": [0.9, 0.9],
}


def test_a_face_without_a_reason_is_judged_by_the_threshold_of_the_run():
    assert judged([GOOD]).verdict == "fake"
    assert judged([GOOD | {"score": [0.5, 0.6], "jpeg": [0.1, 0.1], "resize": [0.2, 0.2]}]).verdict == "real"


@pytest.mark.parametrize(
    "rule, columns, keywords",
    [
        ("small", [GOOD], {"side": 63.0}),
        ("turned", [GOOD], {"turn": 0.4}),
        ("blurred", [GOOD | {"sharpness": [1.0, 19.0]}], {}),
        ("unlike", [GOOD | {"distance": [0.31, 0.5]}], {}),
        ("flips", [GOOD | {"jpeg": [0.5, 0.6]}], {}),
        ("flips", [GOOD | {"resize": [0.0, 0.0]}], {}),
        ("differ", [GOOD, {"score": [0.1, 0.1]}], {}),
        ("uncalibrated", [GOOD], {"judges": [(SimpleNamespace(calibration=None), "run")]}),
    ],
)
def test_each_rule_alone_makes_a_face_unsure(rule, columns, keywords):
    face = judged(columns, **keywords)
    assert face.verdict == "unsure"
    assert list(face.reasons) == [rule]


def test_several_runs_that_agree_give_the_mean_of_their_probabilities():
    face = judged([GOOD, GOOD | {"score": [0.7, 0.7]}])
    assert face.verdict == "fake"
    assert face.probability == pytest.approx((0.85 + 0.7) / 2)


@pytest.mark.parametrize(
    "of_faces, of_file",
    [("real fake unsure", "fake"), ("real unsure", "unsure"), ("real real", "real"), ("", "no face")],
)
def test_one_face_can_decide_a_file(of_faces, of_file):
    faces = [FaceAnswer(1, [0], 100.0, None, verdict, 0.5, {}, []) for verdict in of_faces.split()]
    assert verdicts.verdict_of_file(faces)[0] == of_file


# --- faces ----------------------------------------------------------------------------------------------------------


def candidates(points, size=(256, 256), frames=1, sure=True):
    face = {"points": points, "box": [0, 0, 100, 100]}
    find = Find(np.zeros((256, 256, 3), np.uint8), np.eye(2, 3), face, size)
    boxes = np.array([[0, 0, 100, 100.0]])
    order = list(range(frames))
    return Candidates(order, [boxes] * frames, [np.array([sure])] * frames, {i: [find] for i in order}, {})


def test_a_crop_is_told_by_its_square_and_the_places_of_its_points():
    crop = crop_template(256, 1.3)
    assert is_cropped(candidates(crop), Options())
    assert is_cropped(candidates(crop * 2, (512, 512)), Options())
    assert not is_cropped(candidates(crop, (256, 280)), Options())
    assert not is_cropped(candidates(crop + 20), Options())
    assert not is_cropped(candidates(crop * 0.7), Options())
    assert not is_cropped(candidates(crop, sure=False), Options())
    two = candidates(crop)
    assert not is_cropped(two._replace(sure=[np.array([True, True])]), Options())


class OneFace(FaceFinder):
    """Finds the same two faces in every frame, the second for half of the time."""

    def __init__(self, options, device="cpu"):
        self.options, self._detector, self._batch = options, self, 1
        self.seen = 0

    def detect(self, images):
        self.seen += 1
        height, width = images[0].shape[:2]
        boxes = np.array([[0.1, 0.1, 0.5, 0.9], [0.6, 0.3, 0.9, 0.7]]) * [width, height, width, height]
        points = np.stack([crop_template(1, 1.0) * (box[2:] - box[:2]) + box[:2] for box in boxes])
        count = 1 if self.seen % 4 == 0 else 2
        return [SimpleNamespace(boxes=boxes[:count], scores=np.ones(count), points=points[:count])]


def test_every_tracked_face_of_a_video_is_found_and_the_main_crops_are_those_of_faces(tmp_path, monkeypatch):
    from resproto_fd.preprocessing.faces import extract

    monkeypatch.setattr("resproto_fd.training.answers.search.FaceFinder", OneFace)
    monkeypatch.setattr("resproto_fd.preprocessing.faces.job.FaceFinder", OneFace)
    rng = np.random.default_rng(0)
    (tmp_path / "clip").mkdir()
    for i in range(6):
        cv2.imwrite(str(tmp_path / "clip" / f"{i}.png"), rng.integers(0, 256, (90, 120, 3), np.uint8))
    options = Options(pictures="sequence", frames=6)
    extract.extract_faces(
        [tmp_path / "clip"], tmp_path / "out", processes=0, progress=False, pictures="sequence", frames=6
    )
    [(_, source)] = sources_of([tmp_path / "clip"], "sequence")[0]
    found = FaceSearch(options, False, 60)(source)
    assert found.failed is None and not found.cropped
    assert [(face.main, face.frames) for face in found.faces] == [(True, list(range(6))), (False, [0, 1, 2, 4, 5])]
    for number, crop in zip(found.faces[0].frames, found.faces[0].crops):
        stored = cv2.imread(str(next((tmp_path / "out").rglob(f"{number:03d}.png"))))
        assert np.array_equal(stored[..., ::-1], crop)


# --- answers about files --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scores_of_stored_frames_are_those_of_resproto_test_to_the_last_bit(run, frames):
    table = ScoreTable.load(run / "scores" / "Demo-B.npz")
    found = answer(frames, [run], CROPPED)
    scores = np.array([file.faces[0].opinions[0].frames[0] for file in found.files])
    assert np.array_equal(scores.astype(table.score.dtype), table.score)
    assert {file.verdict for file in found.files} <= {"real", "fake", "unsure"}
    assert set(found.files[0].faces[0].opinions[0].copies) == {"jpeg", "resize"}


def test_a_loaded_run_can_be_asked_again_and_answers_the_same(run, frames):
    judge = Judge(run, "cpu")
    first, second = (answer(frames[:3], [judge], CROPPED) for _ in range(2))
    assert [outputs.as_dict(file) for file in first.files] == [outputs.as_dict(file) for file in second.files]


@pytest.mark.parametrize("asked", [Settings(), Settings(prior=0.1), Settings(calibration="platt")])
def test_the_threshold_is_told_as_the_probability_that_answers_have_there(run, asked):
    judge = Judge(run, "cpu")
    level = judge.calibration.levels["frame"]
    score = level.thresholds["0.05"].threshold
    there = verdicts.probability_of(score, level, asked)
    pictures = next(text for text in meaning_of(judge, asked) if text.startswith("Pictures"))
    assert f"a score of {score:.3f}, which is a probability of {there:.3f}. " in pictures
    face = FaceAnswer(1, [0], 200.0, 0.0, "", 0.0, {}, [])
    verdicts.judged_face(face, [((judge, "run"), {"score": [score]})], asked)
    assert (face.opinions[0].verdict, face.probability) == ("fake", there)


def test_without_a_calibration_the_threshold_is_a_score_alone(run):
    judge, asked = Judge(run, "cpu"), Settings(calibration="none")
    assert "probability of" not in meaning_of(judge, asked)[0]
    face = FaceAnswer(1, [0], 200.0, 0.0, "", 0.0, {}, [])
    verdicts.judged_face(face, [((judge, "run"), {"score": [0.25]})], asked)
    assert face.probability == 0.25


@pytest.fixture
def hostile(tmp_path, frames):
    """Files that are not what they seem, and one whole picture; each of them costs one row."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    picture = Path(frames[0]).read_bytes()
    whole = cv2.imencode(".png", np.zeros((40, 40, 3), np.uint8))[1].tobytes()
    header = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", b"\x00\x00\x4e\x20" * 2 + b"\x08\x02\x00\x00\x00")
    files = {
        "empty.jpg": b"",
        "cut.png": whole[: len(whole) // 2],
        "script.mp4": b"#!/bin/sh\ntouch /tmp/harm\n",
        "vector.svg": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "vector.png": b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
        "huge.png": header + _chunk(b"IDAT", b"") + _chunk(b"IEND", b""),
        "bomb.png": _bomb(),
        "a 'quoted\" <b>name\nwith a line.png": picture,
        "=1+1.png": whole[:20],
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    os.symlink("/nowhere/at/all.png", folder / "link.png")
    os.symlink("/dev/zero", folder / "device.png")
    os.mkfifo(folder / "pipe.jpg")
    return folder


def _chunk(name, data):
    import struct
    import zlib

    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _bomb():
    import zlib

    side = 30_000
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", side.to_bytes(4, "big") * 2 + b"\x08\x00\x00\x00\x00")
        + _chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
        + _chunk(b"IEND", b"")
    )


def test_a_hostile_file_costs_one_row_and_nothing_is_written_elsewhere(hostile, run, tmp_path, capsys):
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    words = [str(hostile), str(hostile / "vector.svg"), "../../nothing here", "--run", str(run), "--device", "cpu"]
    assert main(["predict", *words, "--cropped", "--processes", "0", "--out", str(tmp_path / "out"), "--quiet"]) == 1
    rows = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    by_name = {row["name"].removeprefix("hostile/"): row for row in rows}
    whole = "a 'quoted\" <b>name\nwith a line.png"
    assert [row["verdict"] == "unreadable" for name, row in by_name.items()] == [name != whole for name in by_name]
    assert len(rows) == 13 and all(row["note"] for row in rows if row["verdict"] == "unreadable")
    for name, words in {
        "empty.jpg": "0 bytes",
        "huge.png": "20000 x 20000 pixels",
        "bomb.png": "30000 x 30000 pixels",
        "device.png": "expected a file, got a device",
        "pipe.jpg": "expected a file, got a pipe",
        "link.png": "No such file",
        "../../nothing here": "no such file",
    }.items():
        assert words in by_name[name]["note"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"answers.jsonl", "answers.csv", "report.html"}
    assert {path for path in tmp_path.rglob("*") if "out" not in path.parts} == before
    text = capsys.readouterr().out
    assert "with a line.png" in text and "name\nwith" not in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>name" not in page and "alert(1)" not in page
    cells = [row["file"] for row in csv.DictReader(io.StringIO((tmp_path / "out" / "answers.csv").read_text()))]
    assert not any(cell.startswith(outputs.FORMULA) or "\n" in cell for cell in cells)


def test_a_score_beside_a_threshold_that_rounds_to_it_has_the_digits_that_differ():
    opinion = Opinion("run", 0.81704, 0.8, 0.81707, "real", {"jpeg": 0.81709, "resize": 0.5}, [0.81704], None, None)
    face = FaceAnswer(1, [0], 100.0, 0.1, "unsure", 0.8, {}, [opinion], [])
    shown = FileAnswer("<b>a.png", "picture", "unsure", 0.8, looked=1, faces=[face])
    page = render_report(Answers([shown], [RunFacts("run", "folder", None, [], [])], CROPPED))
    assert "score 0.8170, fake from 0.8171 (jpeg 0.81709, resize 0.500)" in page
    assert '<a href="#file-0">&lt;b&gt;a.png</a>' in page and "<b>a.png" not in page


def test_a_name_that_a_spreadsheet_would_compute_or_that_is_no_text_is_made_harmless():
    made = Answers(
        [FileAnswer("=cmd|' /C calc'!A0", "picture", "no face"), FileAnswer("a\udcff", "picture", "no face")],
        [],
        CROPPED,
    )
    rows = list(csv.reader(io.StringIO(outputs.to_csv(made))))
    assert rows[1][0].startswith("'=") and rows[2][0] == "a\\udcff"
    outputs.to_json_lines(made).encode()
    render_report(made).encode()


def test_texts_of_a_strangers_run_are_harmless_on_the_screen_and_in_the_page():
    made = Answers([], [RunFacts("a\x1b[2Jb", "folder", None, ["c\x1b]0;d \ud800"], ["e\x07"])], CROPPED)
    assert outputs.as_text(made).isprintable() is False  # line ends alone
    assert not set("\x1b\x07\ud800") & set(outputs.as_text(made))
    render_report(made).encode()


def test_files_are_written_before_an_output_that_may_be_closed(run, tmp_path, monkeypatch):
    def closed(*args, **keywords):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", closed)
    words = ["predict", str(tmp_path / "absent.png"), "--run", str(run), "--device", "cpu", "--cropped", "--quiet"]
    args = cli._parsed([*words, "--out", str(tmp_path / "out"), "--processes", "0"])
    with pytest.raises(BrokenPipeError):
        args.run(args)
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_only_ends_of_lines_divide_the_names_of_a_list():
    assert predict._listed("a\x0cb\x85c\r\n\u2028d\n") == ["a\x0cb\x85c", "\u2028d"]


def test_names_come_from_lists_and_from_the_standard_input(tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("a.png\n\nb c.png\n")
    (tmp_path / "zero.txt").write_bytes(b"x")
    feed = SimpleNamespace(buffer=io.BytesIO(b"one\0two\nlines\0"))
    monkeypatch.setattr(sys, "stdin", feed)
    with predict._places(["z.png", f"@{tmp_path / 'list.txt'}", "-"], [str(tmp_path / "list.txt")]) as places:
        assert places == ["z.png", "a.png", "b c.png", "one", "two\nlines", "a.png", "b c.png"]
    data = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data)))
    with predict._places(["-"], []) as [place]:
        assert Path(place).read_bytes() == data
    assert not os.path.exists(place)
    for stream in (b"", b"\n\n"):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(stream)))
        with pytest.raises(UserError, match="nothing"), predict._places(["-"], []):
            pass


def test_settings_that_mean_nothing_are_refused():
    for keywords in (
        {"frames": 0},
        {"false_alarms": 0.2},
        {"calibration": "magic"},
        {"prior": 1.0},
        {"seconds": 0},
        {"seconds": float("inf")},
        {"processes": -1},
    ):
        with pytest.raises(UserError, match="expected"):
            Settings(**keywords)


def test_a_folder_that_is_no_run_is_an_error_before_any_work(tmp_path, capsys):
    assert main(["predict", "x.png", "--run", str(tmp_path)]) == 2
    assert "expected the folder of a run" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["calibrate"], ["predict", "x.png", "--run"]])
def test_what_is_no_run_is_named_as_it_was_given(tmp_path, capsys, command):
    (tmp_path / "best.pt").touch()
    for name, found in (("best.pt", "a file"), ("", "a folder without it"), ("none", "no such folder")):
        assert main([*command, str(tmp_path / name)]) == 2
        said = f"error: {tmp_path / name}: expected the folder of a run, with config.yaml in it, got {found}; name"
        assert said in capsys.readouterr().err


def test_a_file_that_takes_too_long_costs_its_row(monkeypatch, tmp_path):
    import time

    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr("resproto_fd.training.answers.search.open_source", lambda source: time.sleep(20))
    [(_, source)] = sources_of([tmp_path / "a.png"], "separate")[0]
    assert FaceSearch(Options(), True, 0.05)(source) == Found(failed="reading it took more than 0.05 seconds")


def test_the_report_is_whole_and_shows_the_timeline_of_a_video():
    opinion = Opinion("run", 0.7, 0.8, 0.6, "fake", {"jpeg": 0.7}, [0.6, 0.8], 0.1, 0.2)
    picture = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    face = FaceAnswer(1, [0, 10], 100.0, 0.1, "fake", 0.8, {}, [opinion], [(0, picture), (1, picture)])
    film = FileAnswer("film.mp4", "video", "fake", 0.8, frames=20, fps=10.0, looked=2, width=9, height=9, faces=[face])
    page = render_report(Answers([film], [RunFacts("run", "folder", "ab" * 32, ["It means."], [])], CROPPED))
    assert "default-src &#39;none&#39;" in page and page.count("data:image/jpeg;base64,") == 2
    assert "1.0 s: 0.800" in page and "fake from 0.600" in page and "It means." in page
    assert '<a href="#file-0">film.mp4</a>' in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "") and "https://" not in page
