"""Runs that score clips: what they are calibrated on, what they answer about videos and pictures; their packages."""

import csv
import io
import json
import os
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import InputConfig
from resproto_fd.preprocessing.faces.job import wanted_frames
from resproto_fd.preprocessing.faces.sources import Options
from resproto_fd.preprocessing.faces.video_reader import VideoFile
from resproto_fd.preprocessing.manifest import read_manifest
from resproto_fd.preprocessing.store.frame_store import open_store
from resproto_fd.preprocessing.video import Video
from resproto_fd.trainer.clip_list import ClipList
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.training.answers import calibrating, clips, outputs
from resproto_fd.training.answers.answering import answer
from resproto_fd.training.answers.judges import Judge, read_config
from resproto_fd.training.answers.meaning import meaning_of
from resproto_fd.training.answers.records import Settings
from resproto_fd.training.answers.report import render_report
from resproto_fd.training.answers.search import Found, FoundFace
from resproto_fd.training.calibration import FILE, Calibration
from resproto_fd.training.cli import main
from resproto_fd.training.measures.videos import mean_by_video
from resproto_fd.training.packages import load, writing
from resproto_fd.training.scores import ScoreTable

SMALL = ["--detector", "i3d_tiny", "input.size=32", "input.frames=2", "input.clips=2"]
QUICK = ["train.epochs=1", "train.batch_size=8", "run.workers=0", "run.device=cpu", "run.progress=false"]
SEQUENCES = Settings(cropped=True, processes=0, device="cpu", pictures="sequence", copies=False, thumbnails=False)


@pytest.fixture(scope="module")
def run(demo, tmp_path_factory):
    """The folder of a run of clips of two frames that was calibrated at its end; nobody changes it."""
    out = tmp_path_factory.mktemp("clips")
    words = ["--protocol", "demo_cross", "--test_dataset", "Demo-B", f"data.root={demo}", f"run.out={out}"]
    assert main(["train", *SMALL, *words, *QUICK, "run.max_steps=2"]) == 0
    return next(out.rglob("config.yaml")).parent


@pytest.fixture(scope="module")
def judge(run):
    return Judge(run, "cpu")


@pytest.fixture(scope="module")
def folders(demo, tmp_path_factory):
    """A folder of pictures for each of Demo-B's test videos, in the order of the frame list."""
    place, store = tmp_path_factory.mktemp("folders"), open_store(demo / "lmdb" / "Demo-B_lmdb")
    found = []
    for video in read_manifest(demo / "dataset_json" / "Demo-B.json", "Demo-B", split="test"):
        folder = (place / video.frames[0]).parent
        folder.mkdir(parents=True)
        for path in video.frames:
            (place / path).write_bytes(store.read_bytes(path))
        found.append(folder)
    return found


def opinions(found):
    return [opinion for file in found.files for face in file.faces for opinion in face.opinions]


# --- calibration ------------------------------------------------------------------------------------------------------


def test_training_calibrates_a_run_of_clips_on_its_validation_clips(run, judge):
    found, table = Calibration.load(run), ScoreTable.load(next((run / "scores_selection").glob("*.npz")))
    assert judge.calibration == found
    assert list(found.levels) == ["video"] and found.levels["video"].count == len(table.videos)
    assert found.clips.count == len(table) == 2 * len(table.videos)
    assert (found.clips.frames, found.clips.consecutive) == (2, 1.0)
    assert found.reference.frames == len(table) == len(found.features(run))
    assert found.levels["video"].thresholds["0.05"].false_alarms.value <= 0.05


def test_calibrate_makes_the_same_calibration_again_from_data_or_from_kept_scores(run, demo, tmp_path, capsys):
    for name in ("config.yaml", "best.pt", "result.json", "scores", "scores_selection"):
        os.symlink(run / name, tmp_path / name)
    assert main(["calibrate", str(tmp_path), "--device", "cpu", f"data.root={demo}"]) == 0
    assert (tmp_path / FILE).read_bytes() == (run / FILE).read_bytes()
    assert "videos, 5% false alarms: fake from" in capsys.readouterr().out
    assert main(["calibrate", str(tmp_path), "--device", "cpu", "data.root=nowhere"]) == 0
    without = Calibration.load(tmp_path)
    assert without.reference is None and without.clips == Calibration.load(run).clips


@pytest.mark.parametrize(
    "numbers, stride, share",
    [
        ([[0, 1, 2], [7, 8, 9]], 1, 1.0),
        ([[0, 1, 2], [0, 9, 19]], 1, 0.5),
        ([[0, 2, 4]], 2, 1.0),
        ([[0, 1, 0], [3, 3, 3]], 1, 1.0),
        ([[0, 9, 0]], 1, 0.0),
    ],
)
def test_clips_are_consecutive_if_their_numbers_rise_by_the_stride_or_come_again(numbers, stride, share):
    table = type("Table", (), {"clips": np.array(numbers), "__len__": lambda self: len(numbers)})()
    assert calibrating._clips_of(table, stride).consecutive == share


def test_a_calibration_of_frames_has_no_key_of_clips(run, tmp_path):
    found = Calibration.load(run).model_copy(update={"clips": None, "reference": None})
    found.save(tmp_path)
    assert "clips" not in json.loads((tmp_path / FILE).read_text())
    assert Calibration.load(tmp_path).clips is None


# --- scores -----------------------------------------------------------------------------------------------------------


def test_clips_and_their_scores_are_those_of_resproto_test_to_the_last_bit(run, judge, folders):
    table = ScoreTable.load(run / "scores" / "Demo-B.npz")
    found = answer(folders, [judge], SEQUENCES)
    scored = [clip for opinion in opinions(found) for clip in opinion.clips]
    assert [clip.frames for clip in scored] == table.clips.tolist()
    assert np.array_equal(np.array([clip.score for clip in scored], table.score.dtype), table.score)
    means = mean_by_video(table.score, table.video_index, len(table.videos))
    assert [opinion.score for opinion in opinions(found)] == pytest.approx(means.tolist(), abs=1e-12)
    level = judge.calibration.levels["video"]
    assert {opinion.threshold for opinion in opinions(found)} == {level.thresholds["0.05"].threshold}
    calibrated = level.calibrator("temperature")(means)
    assert [file.probability for file in found.files] == pytest.approx(calibrated.tolist(), abs=1e-9)
    assert {file.verdict for file in found.files} <= {"real", "fake", "unsure"}
    assert all(opinion.distance is not None and not opinion.frames for opinion in opinions(found))


def test_copies_of_clips_are_scored_too(judge, folders):
    (opinion,) = opinions(answer(folders[:1], [judge], replace(SEQUENCES, copies=True)))
    assert set(opinion.copies) == {"jpeg", "resize"} and len(set(opinion.copies.values()) - {opinion.score}) == 2


def test_of_a_film_the_frames_are_looked_at_that_faces_keeps_and_clips_have_their_times(judge, folders, tmp_path):
    av = pytest.importorskip("av")
    pictures = [cv2.imread(str(path))[..., ::-1] for folder in folders[:4] for path in sorted(folder.iterdir())]
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
        container.mux(stream.encode())
    found = answer([path], [judge], replace(SEQUENCES, frames=5, thumbnails=True))
    (file,), (opinion,) = found.files, opinions(found)
    wanted = wanted_frames(len(pictures), Options(frames=5, clips=2, runs=2))
    assert file.faces[0].frames == wanted and file.looked == len(wanted) < len(pictures)
    assert [clip.frames for clip in opinion.clips] == [[0, 1], [10, 11]]
    assert [clip.seconds for clip in opinion.clips] == [[0.0, 0.04], [0.4, 0.44]]
    decoded = dict(VideoFile(path).read([0, 1, 10, 11]))
    again = judge.score([[decoded[i] for i in clip.frames] for clip in opinion.clips])
    assert [clip.score for clip in opinion.clips] == again.scores.tolist()
    assert [place for place, _ in file.faces[0].thumbnails] == [0, wanted.index(10)]


def numbered(*numbers):
    """A face in frames of some numbers."""
    crops = [np.full((8, 8, 3), i, np.uint8) for i in range(len(numbers))]
    return FoundFace(True, list(numbers), crops, [99.0] * len(numbers), [None] * len(numbers), list(numbers))


class Stub:
    """A run of clips without a detector."""

    clips_of = Judge.clips_of

    def __init__(self, sees_runs=True, **given):
        self.sees_runs, self.given = sees_runs, InputConfig(**given)


@pytest.mark.parametrize("numbers", [[0, 1, 2, 9, 19, 20, 21, 22], [0, 9, 19, 29], [4, 5], list(range(50))])
@pytest.mark.parametrize("given", [{}, {"clips": 3}, {"stride": 2}, {"frames": 4, "short": "mirror"}])
def test_a_faces_clips_are_those_of_the_list_of_clips(numbers, given):
    given = {"frames": 3, **given}
    video = Video("A", "test", "A/v", 0, "real", "real", "real", tuple(f"A/frames/v/{i:03d}.png" for i in numbers))
    listed = ClipList.within(FrameList.of([video], 6), InputConfig(**given), given.get("clips"))
    samples, known = clips.samples_of(Stub(**given), numbered(*numbers), 6, 10.0)
    assert [clip.frames for clip in known["clips"]] == listed.clip_numbers.tolist()
    assert [[int(crop[0, 0, 0]) for crop in sample] for sample in samples] == listed.places.tolist()
    assert known["clips"][0].seconds == [number / 10 for number in known["clips"][0].frames]


def test_pictures_whose_names_are_too_large_numbers_are_counted():
    _, known = clips.samples_of(Stub(frames=2), numbered(0, 1, 10**30), 32, None)
    assert [clip.frames for clip in known["clips"]] == [[0, 1]]


@pytest.mark.parametrize("share, runs", [(None, True), (1.0, True), (0.5, True), (0.4, False)])
def test_clips_are_of_runs_unless_those_that_a_run_was_calibrated_on_are_not(judge, monkeypatch, share, runs):
    known = share is not None and judge.calibration.clips.model_copy(update={"consecutive": share})
    made = judge.calibration.model_copy(update={"clips": known}) if known else None
    monkeypatch.setattr(judge, "calibration", made)
    assert judge.sees_runs == runs
    assert ("2 consecutive frames" in meaning_of(judge, SEQUENCES)[0]) == runs
    assert clips.runs_for([(judge, "run")], Settings()) == ({"clips": 2, "runs": 2} if runs else {})


# --- what is too short, and other kinds -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "short, frames, words",
    [
        ("repeat", [[4, 5, 4, 5]], "in 2 frames, and a clip takes 4: its frames are repeated (input.short=repeat)"),
        ("mirror", [[4, 5, 4, 5]], "its frames are mirrored (input.short=mirror)"),
        ("leave_out", [], "the run leaves it out (input.short=leave_out)"),
    ],
)
def test_a_face_in_too_few_frames_goes_by_the_rule_of_the_run_and_the_reason_says_so(short, frames, words):
    _, known = clips.samples_of(Stub(frames=4, short=short), numbered(4, 5), 32, None)
    assert [clip.frames for clip in known["clips"]] == frames
    assert all((clip.first, clip.last, clip.seconds) == (4, 5, None) for clip in known["clips"])
    assert list(known["reasons"]) == ["short"] and words in known["reasons"]["short"]


def test_clips_across_missed_frames_are_a_reason_for_a_run_of_consecutive_frames_alone():
    face = numbered(0, 2, 4, 6)
    assert list(clips.samples_of(Stub(frames=3), face, 32, None)[1]["reasons"]) == ["gaps"]
    assert not clips.samples_of(Stub(frames=3, sees_runs=False), face, 32, None)[1]["reasons"]
    assert not clips.samples_of(Stub(frames=3, stride=2), numbered(*range(9)), 32, None)[1]["reasons"]


@pytest.mark.parametrize("short, scored", [("repeat", 1), ("leave_out", 0)])
def test_a_photo_is_unsure_and_json_table_and_page_say_why(run, folders, short, scored):
    config = read_config(run)
    given = config.detector.input.model_copy(update={"short": short})
    config = config.model_copy(update={"detector": config.detector.model_copy(update={"input": given})})
    photo = next(folders[0].iterdir())
    found = answer([photo], [Judge(run, "cpu", config=config)], replace(SEQUENCES, pictures="separate"))
    (file,) = found.files
    row = outputs.as_dict(file)
    assert row["verdict"] == "unsure" and (row["probability"] is None) == (not scored)
    assert "in 1 frame, and a clip takes 2" in row["faces"][0]["reasons"]["short"]
    assert [len(opinion["clips"]) for opinion in row["faces"][0]["opinions"]] == [1] * scored
    (line,) = csv.DictReader(io.StringIO(outputs.to_csv(found)))
    assert "a clip takes 2" in line["reasons"] and bool(line["score"]) == bool(scored)
    assert "a clip takes 2" in render_report(found) and "a clip takes 2" in outputs.as_text(found)


def test_json_table_and_page_name_each_clip_by_its_first_and_last_frame(judge, folders):
    found = answer(folders[:2], [judge], replace(SEQUENCES, thumbnails=True))
    row, opinion = outputs.as_dict(found.files[0]), opinions(found)[0]
    (told,) = row["faces"][0]["opinions"]
    assert [(clip["first"], clip["last"]) for clip in told["clips"]] == [(0, 1), (1, 2)] and "frames" not in told
    line = next(csv.DictReader(io.StringIO(outputs.to_csv(found))))
    assert line["clips"] == "; ".join(f"{c.first}-{c.last}: {c.score:.6f}" for c in opinion.clips)
    page = render_report(found)
    assert "Clips of face 1" in page and "clip 1 to 2" in page and "scored by 2 clips" in page
    assert "A run of clips is unsure too" in page
    assert "It scores clips of 2 consecutive frames." in meaning_of(judge, SEQUENCES)[0]


def test_a_further_face_in_too_few_frames_for_a_clip_is_named_as_not_judged(judge, folders):
    crop = np.zeros((64, 64, 3), np.uint8)
    faces = [FoundFace(main, frames, [crop] * len(frames), [64.0] * len(frames), [None] * len(frames), frames)
             for main, frames in ((True, [0, 1, 2]), (False, [1]))]  # fmt: skip
    made = Found(frames=3, width=99, height=99, looked=[0, 1, 2], faces=faces, note="cut short")
    (file,) = answer([folders[0]], [judge], SEQUENCES, search=lambda source: made).files
    assert len(file.faces) == 1
    assert file.note == "cut short; 1 further face in too few frames for a clip, not judged"


def test_a_clip_that_two_runs_score_is_counted_once(judge, folders):
    page = render_report(answer(folders[:1], [judge, judge], SEQUENCES))
    assert "scored by 2 clips" in page and "scored by 4 clips" not in page


def test_runs_of_other_kinds_are_not_asked_together():
    frames, runs, spread = Stub(frames=1), Stub(frames=4, clips=3), Stub(frames=4, sees_runs=False)
    for pair in ((frames, runs), (runs, spread)):
        with pytest.raises(UserError, match=r"samples of one kind, got .* ask them one by one"):
            clips.runs_for([(judge, f"run {i}") for i, judge in enumerate(pair)], Settings())
    assert clips.runs_for([(frames, "run")], Settings()) == {}
    assert clips.runs_for([(spread, "run")], Settings()) == {}
    assert clips.runs_for([(runs, "a"), (Stub(frames=8, stride=2), "b")], Settings()) == {"clips": 15, "runs": 4}
    assert clips.runs_for([(Stub(frames=4, clips=10**6), "run")], Settings()) == {"clips": 4, "runs": 250}


# --- packages ---------------------------------------------------------------------------------------------------------


def test_a_package_of_a_run_of_clips_gives_its_scores_and_names_a_clip_of_another_length(run, folders, tmp_path):
    package = writing.write(run, tmp_path / "package")
    table = ScoreTable.load(run / "scores" / "Demo-B.npz")
    pictures = [[cv2.imread(str(path))[..., ::-1] for path in sorted(folder.iterdir())] for folder in folders]
    scored = package.predict([frames[start : start + 2] for frames in pictures for start in (0, 1)])
    assert np.abs(scored - table.score).max() < 1e-6
    for wrong, words in (
        (pictures[0], "got 3 frames"),
        (None, "got NoneType"),
        ([pictures[0][0], "b"], "frame 1: "),
    ):
        with pytest.raises(UserError, match=f"clip 1.*{words}"):
            package.predict([pictures[0][:2], wrong])
    card = (tmp_path / "package" / "README.md").read_text()
    assert "input clips of 2 frames, 32 x 32." in card and "a list of lists of 2 RGB uint8 [H, W, 3]" in card


@pytest.mark.slow
def test_graphs_of_clips_give_the_detectors_scores(run, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert main(["export", str(run), "--out", str(tmp_path / "p"), "--onnx", "--torch-export"]) == 0
    package = load(tmp_path / "p")
    rng = np.random.default_rng(0)
    made = [[rng.integers(0, 255, (40, 50, 3), np.uint8) for _ in range(2)] for _ in range(5)]
    scores, pixels = package.predict(made), package.inputs(made).float()
    assert pixels.shape == (5, 2, 3, 32, 32)
    found = onnxruntime.InferenceSession(str(tmp_path / "p" / "model.onnx")).run(None, {"images": pixels.numpy()})[0]
    assert np.abs(found - scores).max() < 1e-4
    graph = torch.export.load(tmp_path / "p" / "model.pt2").module()
    with torch.no_grad():
        assert np.abs(graph(pixels).numpy() - scores).max() < 1e-4
    assert "`images` [N, 2, 3, S, S]" in (tmp_path / "p" / "README.md").read_text()
