"""Face extraction as a whole: layout, resuming, processes that die, faults named; mostly without a detector."""

import argparse
import errno
import importlib.util
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from resproto_fd.configs.errors import UnreadableFile, UserError
from resproto_fd.configs.file_names import fault_of, folded
from resproto_fd.preprocessing.faces import extract as faces
from resproto_fd.preprocessing.faces import job as face_job
from resproto_fd.preprocessing.faces.finding import FaceFinder
from resproto_fd.preprocessing.faces.job import sampled_frames
from resproto_fd.preprocessing.faces.merging import merge_shards
from resproto_fd.preprocessing.faces.sources import Options, find_sources
from resproto_fd.preprocessing.faces.worker_pool import WorkerDied, run_tasks
from resproto_fd.training.cli import main

av = pytest.importorskip("av")

PLAIN = {"detector": "none", "size": 32, "frames": 4, "processes": 0, "progress": False}


def film(path, images):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt, stream.gop_size = "yuv420p", 10
        for image in images:
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def grey(level, height=48, width=64):
    return np.full((height, width, 3), level, np.uint8)


def clip(path, frames=12, first=10):
    film(path, [grey(first + 10 * i) for i in range(frames)])


def files(out):
    """Everything a run makes that must not depend on how it ran: {path: bytes}."""
    varying = ("faces_report", "lock")
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(Path(out).rglob("*"))
        if path.is_file() and not path.name.startswith(varying)
    }


@pytest.fixture
def data(tmp_path):
    """A data set of four videos in two folders."""
    for name in ("real/videos/001", "real/videos/002", "fake/c23/videos/001_002", "fake/c23/videos/002_001"):
        clip(tmp_path / "Set" / f"{name}.mp4", first=10 + 3 * len(name))
    return tmp_path / "Set"


def test_crops_lie_where_deepfakebench_looks_and_carry_the_frames_own_numbers(data, tmp_path):
    report = faces.extract_faces([data], tmp_path / "out", **PLAIN)
    assert report.frames_wanted == report.frames_kept == 16 and report.exit_code == 0
    folder = tmp_path / "out" / "Set" / "fake" / "c23" / "frames" / "001_002"
    assert sorted(path.name for path in folder.iterdir()) == ["000.png", "003.png", "007.png", "011.png"]
    for path in folder.iterdir():
        image = cv2.imread(str(path))
        assert image.shape == (32, 32, 3)
        assert abs(image.mean() - (10 + 3 * len("fake/c23/videos/001_002") + 10 * int(path.stem))) < 3


def test_frames_are_sampled_as_deepfakebench_samples_them():
    assert sampled_frames(300, 32) == np.linspace(0, 299, 32, dtype=int).tolist()
    assert sampled_frames(5, 32) == [0, 1, 2, 3, 4]
    assert sampled_frames(5, 0) == [0, 1, 2, 3, 4]
    assert sampled_frames(9, 1) == [0]


def test_runs_of_consecutive_frames_are_kept_beside_the_evenly_spaced_ones(data, tmp_path):
    film(data / "real/videos/003.mp4", [grey(8 * i) for i in range(30)])
    clip(data / "real/videos/004.mp4", frames=3)
    report = faces.extract_faces([data], tmp_path / "out", **PLAIN, clips=5, runs=2)
    folder, records = tmp_path / "out/Set/real", tmp_path / "out/.faces/records/Set/real"
    numbers = sorted(int(path.stem) for path in (folder / "frames/003").iterdir())
    assert numbers == [0, 1, 2, 3, 4, 9, 19, 25, 26, 27, 28, 29]  # 9 and 19 stand alone
    record = json.loads((records / "003.json").read_text())
    assert record["starts"] == [0, 25] and (record["options"]["clips"], record["options"]["runs"]) == (5, 2)
    assert json.loads((records / "004.json").read_text())["starts"] == [0]
    assert len(list((folder / "frames/004").iterdir())) == 3
    assert (report.runs, report.runs_whole) == (11, 10)  # the video of three frames has no whole one
    assert "runs of frames             11, 10 whole" in report.as_text()


def test_runs_are_the_same_bytes_from_shards_and_again(data, tmp_path):
    options = {**PLAIN, "clips": 3}
    faces.extract_faces([data], tmp_path / "whole", **options)
    for number in (2, 1):
        faces.extract_faces([data], tmp_path / f"part{number}", shard=f"{number}/2", **options)
    merged = merge_shards([tmp_path / "part1", tmp_path / "part2"], tmp_path / "out", progress=False)
    assert files(tmp_path / "out" / "Set") == files(tmp_path / "whole" / "Set") != {}
    assert merged.runs == merged.runs_whole == 16
    assert faces.extract_faces([data], tmp_path / "whole", **options).done_before == 4


def test_records_without_runs_stand_and_those_with_runs_are_other_crops(data, tmp_path):
    faces.extract_faces([data], tmp_path / "plain", **PLAIN)
    record = json.loads((tmp_path / "plain/.faces/records/Set/real/001.json").read_text())
    assert not {"clips", "runs"} & record["options"].keys() and "starts" not in record  # as before there were runs
    with pytest.raises(UserError, match=r"other options .clips 0, now 3"):
        faces.extract_faces([data], tmp_path / "plain", **PLAIN, clips=3)
    faces.extract_faces([data], tmp_path / "runs", **PLAIN, clips=3)
    with pytest.raises(UserError, match=r"other options .clips 3, now 0"):
        faces.extract_faces([data], tmp_path / "runs", **PLAIN)
    path = tmp_path / "runs/.faces/records/Set/real/001.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "starts": "0"}))
    with pytest.raises(UserError, match=r"001.json: starts: expected numbers of frames, got '0'"):
        faces.extract_faces([data], tmp_path / "runs", **PLAIN, clips=3)


def test_a_record_tells_what_was_found(data, tmp_path):
    faces.extract_faces([data], tmp_path / "out", **PLAIN)
    path = tmp_path / "out" / ".faces" / "records" / "Set" / "real" / "001.json"
    record = json.loads(path.read_text())
    assert record["source"] == "Set/real/videos/001.mp4" and record["status"] == "done"
    assert (record["frames"], record["width"], record["height"], record["codec"]) == (12, 64, 48, "h264")
    assert record["wanted"] == [0, 3, 7, 11] == [face["frame"] for face in record["kept"]]


def test_a_negative_number_of_processes_is_refused(data, tmp_path, capsys):
    assert main(["faces", str(data), "--out", str(tmp_path / "out"), "--processes", "-1"]) == 2
    assert "--processes: expected 0 or more, got -1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_and_none_give_the_same_bytes(data, tmp_path):
    for processes in (0, 1, 2):
        faces.extract_faces([data], tmp_path / f"{processes}", **{**PLAIN, "processes": processes})
    assert files(tmp_path / "0") == files(tmp_path / "1") == files(tmp_path / "2")
    assert len(files(tmp_path / "0")) == 4 * 4 + 4


def test_finished_videos_are_not_done_again(data, tmp_path, monkeypatch):
    faces.extract_faces([data / "real"], tmp_path / "out", root=tmp_path, **PLAIN)
    done = []
    make = face_job.FaceJob._make
    monkeypatch.setattr(face_job.FaceJob, "_make", lambda job, source: done.append(source.name) or make(job, source))
    report = faces.extract_faces([data], tmp_path / "out", **PLAIN)
    assert report.done_before == 2 and report.frames_kept == 16
    assert done == ["Set/fake/c23/videos/001_002.mp4", "Set/fake/c23/videos/002_001.mp4"]


@pytest.mark.parametrize("harm", ["half published", "crop lost", "source changed", "leftovers"])
def test_what_is_not_whole_is_done_anew_to_the_same_bytes(data, tmp_path, harm):
    out = tmp_path / "out"
    faces.extract_faces([data], out, **PLAIN)
    whole = files(out)
    record = out / ".faces" / "records" / "Set" / "real" / "001.json"
    crop = out / "Set" / "real" / "frames" / "001" / "003.png"
    if harm == "half published":
        record.write_text(json.dumps({**json.loads(record.read_text()), "status": "publishing"}))
        (crop.parent / "stray.png").write_bytes(b"")
    elif harm == "crop lost":
        crop.unlink()
    elif harm == "source changed":
        clip(data / "real" / "videos" / "001.mp4", frames=5)
        faces.extract_faces([data], out, **PLAIN)
        assert sorted(path.name for path in crop.parent.iterdir()) == ["000.png", "001.png", "002.png", "004.png"]
        clip(data / "real" / "videos" / "001.mp4", first=10 + 3 * len("real/videos/001"))
    else:
        (out / ".faces" / "tmp" / "77" / "frames").mkdir(parents=True)
        (out / ".faces" / "tmp" / "77" / "frames" / "000.png").write_bytes(b"half")
        (out / ".faces_report.json.77.part").write_text("{")
        (record.parent / ".001.json.77.part").write_text("{")  # an earlier version left it
        (record.parent / ".a.json.b.part").mkdir()  # named so by the user
    faces.extract_faces([data], out, **PLAIN)
    assert files(out) == whole


DYING_RUN = """
import os, signal, sys
from resproto_fd.preprocessing.faces import extract as faces, job as face_job
write, replace, left, records_left = face_job._write, os.replace, [int(sys.argv[3])], [int(sys.argv[4])]
def dying(path, data):
    left[0] -= 1
    if not left[0]:
        write(path, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    write(path, data)
def dying_before_a_record_has_its_name(old, new):
    if new.parent.name != "out":  # it is a record, and no report
        records_left[0] -= 1
        if not records_left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
    replace(old, new)
face_job._write, os.replace = dying, dying_before_a_record_has_its_name
faces.extract_faces([sys.argv[1]], sys.argv[2], detector="none", size=32, frames=4, processes=0, progress=False)
"""


@pytest.mark.slow
def test_a_run_killed_again_and_again_goes_on_to_the_same_bytes(data, tmp_path):
    faces.extract_faces([data], tmp_path / "whole", **PLAIN)
    out = tmp_path / "out"
    for write, record in ((1, 0), (0, 1), (6, 0), (0, 2), (3, 0)):  # each video has four frames and two records
        run = subprocess.run([sys.executable, "-c", DYING_RUN, *map(str, (data, out, write, record))])
        assert run.returncode == -signal.SIGKILL
    faces.extract_faces([data], out, **PLAIN)
    assert files(out) == files(tmp_path / "whole")


def test_unreadable_files_are_named_and_nothing_else_is_lost(data, tmp_path):
    videos = data / "real" / "videos"
    (videos / "empty.mp4").write_bytes(b"")
    (videos / "text.mp4").write_text("not a video\n")
    whole = (videos / "001.mp4").read_bytes()
    (videos / "damaged.mp4").write_bytes(
        whole.replace(b"mdat" + whole[whole.index(b"mdat") + 4 :][:400], b"mdat" + bytes(400))
    )
    (data / "notes.txt").write_text("passed over")
    (data / "real" / "picture.jpg").write_bytes(b"\xff\xd8\xff broken")
    report = faces.extract_faces([data], tmp_path / "out", **PLAIN)
    assert sorted(report.failed) == ["Set/real/picture.jpg", "Set/real/videos/empty.mp4", "Set/real/videos/text.mp4"]
    assert "0 bytes" in report.failed["Set/real/videos/empty.mp4"]
    assert list(report.damaged) == ["Set/real/videos/damaged.mp4"]
    assert report.other_files == {".txt": 1}
    assert report.exit_code == 1
    for name in ("001", "002"):
        assert len(list((tmp_path / "out" / "Set" / "real" / "frames" / name).iterdir())) == 4
    assert "text.mp4: not a video" in (tmp_path / "out" / "faces_report.txt").read_text()
    saved = json.loads((tmp_path / "out" / "faces_report.json").read_text())
    assert saved["failed"] == report.failed and saved["frames_kept"] == report.frames_kept
    clip(videos / "empty.mp4")
    (videos / "text.mp4").unlink()
    (data / "real" / "picture.jpg").unlink()
    again = faces.extract_faces([data], tmp_path / "out", **PLAIN)
    assert again.failed == {} and again.frames_kept == report.frames_kept + 4


def test_a_changed_file_of_equal_length_is_done_anew_and_a_touched_one_is_not(data, tmp_path):
    out, video = tmp_path / "out", data / "real" / "videos" / "001.mp4"
    faces.extract_faces([data], out, **PLAIN)
    content = video.read_bytes()
    video.write_bytes(content)  # as a copy back from another disk
    assert faces.extract_faces([data], out, **PLAIN).done_before == 4
    video.write_bytes(content.replace(b"isomiso2", b"isomiso3"))
    earlier = video.stat().st_mtime - 3600
    os.utime(video, (earlier, earlier))  # as `cp -p` leaves it
    assert len(content) == video.stat().st_size
    assert faces.extract_faces([data], out, **PLAIN).done_before == 3
    assert faces.extract_faces([data], out, **PLAIN).done_before == 4


def test_a_source_that_can_no_longer_be_read_costs_itself_alone(data, tmp_path, monkeypatch):
    faces.extract_faces([data], tmp_path / "out", **PLAIN)
    video = data / "real" / "videos" / "001.mp4"
    video.write_bytes(video.read_bytes())

    def refuse(path):
        raise UnreadableFile(f"{path}: cannot be read to its end")

    monkeypatch.setattr("resproto_fd.preprocessing.faces.sources.sha256_of", refuse)
    report = faces.extract_faces([data], tmp_path / "out", **PLAIN)
    assert report.done_before == 3 and "cannot be read" in report.failed["Set/real/videos/001.mp4"]


def test_a_source_that_is_changed_while_it_is_read_is_done_in_the_next_run(data, tmp_path, monkeypatch):
    video = data / "real" / "videos" / "001.mp4"
    whole, of_source = video.read_bytes(), face_job.frame_numbers

    def change(source):
        if source.files[0] == str(video):
            video.write_bytes(whole.replace(b"isomiso2", b"isomiso3"))
        return of_source(source)

    monkeypatch.setattr(face_job, "frame_numbers", change)
    report = faces.extract_faces([data], tmp_path / "out", **PLAIN)
    assert list(report.failed.values()) == ["was changed while it was read; run the same command again"]
    monkeypatch.undo()
    report = faces.extract_faces([data], tmp_path / "out", **PLAIN)
    assert report.failed == {} and report.done_before == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_pipes_and_devices_among_videos_cost_themselves_alone(data, tmp_path, capsys):
    for name in ("no suffix", "a.png", "b.mp4"):
        os.mkfifo(data / "real" / name)
    (data / "real" / "c.png").symlink_to("/dev/zero")
    (data / "real" / "d.mp4").symlink_to("/dev/zero")
    report = faces.extract_faces([data], tmp_path / "out", **PLAIN)
    reasons = {name.rpartition("/")[2]: reason for name, reason in report.failed.items()}
    assert reasons == {name: f"{name}: expected a file, got a pipe" for name in ("a.png", "b.mp4")} | {
        name: f"{name}: expected a file, got a device" for name in ("c.png", "d.mp4")
    }
    assert report.frames_kept == 16 and report.other_files["no suffix"] == 1


def test_other_options_are_refused_until_redo_is_asked_for(data, tmp_path):
    faces.extract_faces([data], tmp_path / "out", **PLAIN)
    with pytest.raises(UserError, match="frames 4, now 3"):
        faces.extract_faces([data], tmp_path / "out", **{**PLAIN, "frames": 3})
    report = faces.extract_faces([data], tmp_path / "out", **{**PLAIN, "frames": 3, "redo": True})
    assert report.frames_kept == 12
    assert len(list((tmp_path / "out" / "Set" / "real" / "frames" / "001").iterdir())) == 3


def test_folders_that_others_made_are_left_alone(data, tmp_path):
    theirs = tmp_path / "out" / "Set" / "real" / "frames" / "001" / "000.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    report = faces.extract_faces([data], tmp_path / "out", **PLAIN)
    assert "was not made by this command" in report.failed["Set/real/videos/001.mp4"]
    assert theirs.read_bytes() == b"theirs" and report.frames_kept == 12


def test_two_files_that_want_one_place_are_told_apart(data, tmp_path):
    clip(data / "real" / "videos" / "001.mkv")
    report = faces.extract_faces([data], tmp_path / "out", **PLAIN)
    assert list(report.failed) == ["Set/real/videos/001.mp4"]
    assert "those of Set/real/videos/001.mkv" in report.failed["Set/real/videos/001.mp4"]
    assert report.place_taken == ["Set/real/videos/001.mp4"]
    said = report.as_text()
    assert "Not done, place taken:\n  Set/real/videos/001.mp4" in said and "Unreadable:" not in said
    (data / "real" / "videos" / "001.mkv").unlink()
    report = faces.extract_faces([data], tmp_path / "out", **PLAIN)
    assert "its place has crops of Set/real/videos/001.mkv" in report.failed["Set/real/videos/001.mp4"]


@pytest.mark.parametrize("place", [".", "Set", "Set/out"])
def test_crops_that_lie_among_the_videos_are_no_sources_of_the_next_run(data, tmp_path, place):
    first = faces.extract_faces([data], tmp_path / place, **PLAIN)
    again = faces.extract_faces([data], tmp_path / place, **PLAIN)
    assert again.sources == first.sources == {"video": 4} and again.done_before == 4


def test_a_second_run_in_the_same_folder_is_refused(data, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "out" / ".faces").mkdir(parents=True)
    with open(tmp_path / "out" / ".faces" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is at work"):
            faces.extract_faces([data], tmp_path / "out", **PLAIN)


def test_a_full_disk_ends_the_run_and_keeps_what_is_finished(data, tmp_path, monkeypatch):
    write, left = Path.write_bytes, [9]

    def limited(path, content):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", limited)
    with pytest.raises(UserError, match=r"No space left.*free some space"):
        faces.extract_faces([data], tmp_path / "out", **PLAIN)
    monkeypatch.setattr(Path, "write_bytes", write)
    report = faces.extract_faces([data], tmp_path / "out", **PLAIN)
    assert report.done_before == 2 and report.frames_kept == 16


def test_a_record_that_cannot_be_written_ends_the_run(data, tmp_path, monkeypatch):
    def full(source, place):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match=r"records/.*cannot be written \(No space left.*free some space"):
        faces.extract_faces([data], tmp_path / "out", **PLAIN)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"frams": 4}, "unknown option frams"),
        ({"detector": "dlib"}, "expected mtcnn or none, got 'dlib'"),
        ({"track": "first"}, "expected persistent or largest, got 'first'"),
        ({"min_score": 1.5}, "expected 0 to 1, got 1.5"),
        ({"frames": -1}, "frames: expected 0 to .*, got -1"),
        ({"clips": 5000}, "clips: expected 0 to 1024, got 5000"),
        ({"clips": 1}, "clips: expected 0 or at least 2 frames of a run, got 1"),
        ({"runs": 9}, "runs: expected no such option without clips, got 9; set clips too"),
    ],
)
def test_a_wrong_option_is_named(data, tmp_path, given, message):
    with pytest.raises(UserError, match=message):
        faces.extract_faces([data], tmp_path / "out", **given)


@pytest.mark.parametrize(
    ("device", "here", "message"),
    [
        ("cuda", 0, "--device cuda: this machine has 0 CUDA devices; set one of cpu"),
        ("cuda:2", 2, "--device cuda:2: this machine has 2 CUDA devices; set one of cpu, cuda:0, cuda:1"),
        ("cuda9", 0, "--device cuda9: no device of this machine"),
        ("gpu", 0, "--device gpu: no device of this machine"),
        ("xla", 0, "--device xla: no device of this machine"),
        ("meta", 0, "--device meta: this device has no numbers"),
    ],
)
def test_a_device_that_is_not_here_is_an_error_before_anything_is_made(
    data, tmp_path, monkeypatch, capsys, device, here, message
):
    monkeypatch.setattr("torch.cuda.device_count", lambda: here)
    for processes in ("0", "1"):
        words = ["faces", str(data), "--out", str(tmp_path / "out"), "--device", device, "--processes", processes]
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_places_that_hold_nothing_or_do_not_exist_are_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        faces.extract_faces([tmp_path / "absent"], tmp_path / "out", **PLAIN)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no video or picture"):
        faces.extract_faces([tmp_path / "empty"], tmp_path / "out", **PLAIN)


def test_hidden_files_and_mask_videos_are_no_sources(tmp_path):
    for name in ("a/c23/videos/1.mp4", "a/masks/videos/1.mp4", "a/c23/videos/._1.mp4", "a/.trash/1.mp4", "a/b.PNG"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    found, _ = find_sources([tmp_path / "a"], tmp_path / "out")
    assert [(source.name, source.kind) for source in found] == [("a/b.PNG", "picture"), ("a/c23/videos/1.mp4", "video")]


def test_masks_of_faceforensics_videos_are_cropped_beside_them(tmp_path):
    base = tmp_path / "FaceForensics++" / "manipulated_sequences" / "Deepfakes"
    clip(base / "c23" / "videos" / "001_002.mp4")
    masks = [grey(0) for _ in range(8)]
    for mask in masks:
        mask[:, 32:] = 255
    film(base / "masks" / "videos" / "001_002.mp4", masks)
    report = faces.extract_faces([tmp_path / "FaceForensics++"], tmp_path / "out", **PLAIN)
    assert report.sources == {"video": 1} and report.masks == 3
    folder = tmp_path / "out" / "FaceForensics++" / "manipulated_sequences" / "Deepfakes" / "c23" / "masks" / "001_002"
    assert sorted(path.name for path in folder.iterdir()) == ["000.png", "003.png", "007.png"]
    mask = cv2.imread(str(folder / "003.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (32, 32) and set(np.unique(mask)) == {0, 255}
    assert np.all(mask[:, :15] == 0) and np.all(mask[:, 17:] == 255)
    assert "lacks 1 of the frames" in next(iter(report.masks_failed.values()))
    without = faces.extract_faces([tmp_path / "FaceForensics++"], tmp_path / "bare", **{**PLAIN, "masks": False})
    assert without.masks == 0 and without.exit_code == 0


def test_pictures_are_videos_of_one_frame_or_the_frames_of_one_video(tmp_path):
    for number in (3, 20, 100):
        path = tmp_path / "Set" / "0007" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), grey(number))
    faces.extract_faces([tmp_path / "Set"], tmp_path / "separate", **PLAIN)
    crops = sorted(
        path.relative_to(tmp_path / "separate").as_posix() for path in (tmp_path / "separate").rglob("*.png")
    )
    assert crops == [f"Set/0007/frames/{number}/000.png" for number in (100, 20, 3)]
    options = {**PLAIN, "pictures": "sequence", "frames": 2}
    report = faces.extract_faces([tmp_path / "Set"], tmp_path / "sequence", **options)
    crops = sorted(
        path.relative_to(tmp_path / "sequence").as_posix() for path in (tmp_path / "sequence").rglob("*.png")
    )
    assert crops == ["Set/frames/0007/003.png", "Set/frames/0007/100.png"] and report.sources == {"sequence": 1}


def test_sixteen_bits_are_scaled_and_the_report_says_so(tmp_path):
    (tmp_path / "Set").mkdir()
    levels = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (64, 1))
    cv2.imwrite(str(tmp_path / "Set" / "deep.png"), levels)
    report = faces.extract_faces([tmp_path / "Set"], tmp_path / "out", **{**PLAIN, "size": 64})
    crop = cv2.imread(str(tmp_path / "out/Set/frames/deep/000.png"))
    assert np.abs(crop.astype(int) - levels[:, :, None] // 257).max() <= 1
    assert (
        report.notes == {"Set/deep.png": "grey of more than 8 bits, scaled from 0 to 65535"} and report.exit_code == 0
    )
    assert "Changed to be read:\n  Set/deep.png: grey of more" in report.as_text()
    again = faces.extract_faces([tmp_path / "Set"], tmp_path / "out", **{**PLAIN, "size": 64})
    assert again.done_before == 1 and again.notes == report.notes


def test_links_to_one_folder_are_all_followed_and_a_circle_is_not(tmp_path):
    clip(tmp_path / "all" / "001.mp4")
    for split in ("train", "val", "test"):
        (tmp_path / "Set").mkdir(exist_ok=True)
        (tmp_path / "Set" / split).symlink_to(tmp_path / "all")
    (tmp_path / "all" / "above").symlink_to(tmp_path / "Set")
    found, _ = find_sources([tmp_path / "Set"], tmp_path / "out")
    assert {f"Set/{split}/001.mp4" for split in ("train", "val", "test")} <= {source.name for source in found}
    assert len(found) < 20


def make_worker(factor):
    if factor == 0:
        raise UserError("no factor")

    def work(task):
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if task == "fail":
            raise UserError("it cannot go on")
        return task * factor

    return work


@pytest.mark.slow
def test_a_process_that_dies_costs_only_its_own_task():
    answers = dict(run_tasks(make_worker, (3,), [1, "die", 2, "die", 4], 2))
    assert {number: answers[number] for number in (0, 2, 4)} == {0: 3, 2: 6, 4: 12}
    assert all(isinstance(answers[number], WorkerDied) and "SIGKILL" in str(answers[number]) for number in (1, 3))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [0, 1])
def test_an_error_in_a_worker_ends_the_run(processes):
    with pytest.raises(UserError, match="cannot go on"):
        list(run_tasks(make_worker, (3,), [1, "fail", 2], processes))
    with pytest.raises(UserError, match="no factor"):
        list(run_tasks(make_worker, (0,), [1], processes))


def test_the_module_is_light_to_import():
    code = "import sys, resproto_fd.preprocessing.faces.extract; print({'torch','cv2','av','PIL'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


@pytest.mark.slow
def test_the_command_prints_the_report_and_tells_trouble_by_its_exit_code(data, tmp_path, capsys):
    parser = argparse.ArgumentParser()
    faces.add_arguments(parser)
    arguments = [str(data), "--out", str(tmp_path / "out"), "--detector", "none", "--processes", "0", "--quiet"]
    assert faces.run(parser.parse_args(arguments)) == 0
    assert "4 videos" in capsys.readouterr().out
    (data / "real" / "videos" / "text.mp4").write_text("no video")
    assert faces.run(parser.parse_args(arguments)) == 1
    assert "Set/real/videos/text.mp4: not a video" in capsys.readouterr().out


def test_a_run_without_a_single_crop_is_no_success(tmp_path, capsys, monkeypatch):
    clip(tmp_path / "Set" / "a.mp4")
    monkeypatch.setattr(FaceFinder, "kept", lambda self, reader, wanted: (dict.fromkeys(wanted), {}))
    words = ["faces", str(tmp_path / "Set"), "--out", str(tmp_path / "out"), "--detector", "none", "--processes", "0"]
    assert main([*words, "--quiet"]) == 1
    assert "No crop was made" in capsys.readouterr().out


@pytest.mark.slow
def test_the_documented_way_from_videos_to_a_store_runs_as_printed(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[1] / "docs/how_to/data_sets.md").read_text(encoding="utf-8")
    block = page.partition("Celeb-DF-v2 is the example:")[2].split("```")[1]
    commands = [shlex.split(line, comments=True) for line in block.splitlines()[1:]]
    assert [words[:2] for words in commands if words[0] == "resproto"] == [
        ["resproto", name] for name in ("faces", "manifest", "pack", "check")
    ]
    fakes = ("Celeb-synthesis/id0_id1_0000", "Celeb-synthesis/id1_id2_0000")
    for name in ("Celeb-real/id0_0000", "Celeb-real/id1_0000", "YouTube-real/00000", *fakes):
        clip(tmp_path / "videos" / "Celeb-DF-v2" / f"{name}.mp4")
    listed = "1 Celeb-real/id0_0000.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n"
    (tmp_path / "videos/Celeb-DF-v2/List_of_testing_videos.txt").write_text(listed)
    monkeypatch.chdir(tmp_path)
    for words in commands:
        if words[0] == "resproto":
            plain = ["--detector", "none", "--processes", "0", "--quiet"] if words[1] == "faces" else []
            assert main([*words[1:], *plain]) in ((0, 1) if words[1] == "check" else (0,)), words  # grey is no face
        else:
            subprocess.run(words, check=True)
    assert (tmp_path / "audit.html").is_file()


def test_every_option_can_be_given_on_the_command_line():
    parser = argparse.ArgumentParser()
    faces.add_arguments(parser)
    args = vars(parser.parse_args(["a", "--out", "b"]))
    assert {name: args[name] for name in Options().as_dict()} == Options().as_dict()


@pytest.fixture(scope="module")
def portrait():
    """A face that wanders through a scene, then two frames without it, then it again; the scene holds a second face."""
    if any(importlib.util.find_spec(name) is None for name in ("mtcnn", "joblib", "lz4")):
        pytest.skip("the package mtcnn, which carries the weights, is not installed")
    astronaut = pytest.importorskip("skimage.data").astronaut()
    face = astronaut[30:230, 120:320]
    small = cv2.resize(face, (90, 90), interpolation=cv2.INTER_AREA)
    images = []
    for i in range(10):
        scene = np.full((240, 400, 3), 128, np.uint8)
        scene[120:210, 300:390] = small
        if i not in (4, 5):
            scene[20:220, 10 + 6 * i : 210 + 6 * i] = face
        images.append(scene)
    return images


@pytest.mark.slow
def test_the_lasting_face_is_cropped_upright_in_the_templates_place(portrait, tmp_path):
    film(tmp_path / "Set" / "videos" / "a.mp4", portrait)
    report = faces.extract_faces([tmp_path / "Set"], tmp_path / "out", frames=0, processes=0, progress=False)
    assert (report.frames_kept, report.faces_missed, report.several_faces) == (8, 2, 8)
    from resproto_fd.preprocessing.faces.alignment import crop_template

    folder = tmp_path / "out" / "Set"
    for path in sorted((folder / "landmarks" / "a").iterdir()):
        points = np.load(path)
        assert points.shape == (5, 2) and points.dtype == np.float32
        assert np.abs(points - crop_template()).max() < 16
        assert cv2.imread(str(folder / "frames" / "a" / f"{path.stem}.png")).shape == (256, 256, 3)
    record = json.loads((tmp_path / "out" / ".faces" / "records" / "Set" / "a.json").read_text())
    assert record["missed"] == [4, 5]
    assert all(face["box"][0] < 180 and face["score"] > 0.9 for face in record["kept"])


def test_a_video_without_faces_is_reported_and_is_no_fault(portrait, tmp_path):
    film(tmp_path / "Set" / "videos" / "a.mp4", [grey(90, 120, 160)] * 3)
    report = faces.extract_faces([tmp_path / "Set"], tmp_path / "out", processes=0, progress=False)
    assert report.without_faces == ["Set/videos/a.mp4"] and report.exit_code == 0
    assert faces.extract_faces([tmp_path / "Set"], tmp_path / "out", processes=0, progress=False).done_before == 1


@pytest.mark.slow
def test_faces_of_a_real_video_are_all_found(shared, portrait, tmp_path):
    videos = sorted((shared / "real" / "videos" / "real").glob("ffpp_*.mp4"))[:1]
    report = faces.extract_faces(videos, tmp_path / "out", frames=8, processes=0, progress=False)
    assert report.frames_kept == 8 and report.exit_code == 0


def test_a_name_too_long_or_odd_for_a_folder_costs_no_video(tmp_path):
    """The crops lie under a shortened name with a hash; other videos keep theirs."""
    names = ["a" * 245, "a" * 244 + "b", "dots...", "ok", "é" * 110, b"\xff\xfe".decode(errors="surrogateescape")]
    for number, name in enumerate(names):
        clip(tmp_path / f"{number}.mp4")
        (tmp_path / "Set").mkdir(exist_ok=True)
        (tmp_path / f"{number}.mp4").rename(tmp_path / "Set" / f"{name}.mp4")
    report = faces.extract_faces([tmp_path / "Set"], tmp_path / "out", **PLAIN)
    assert (report.failed, report.frames_kept, report.exit_code) == ({}, 24, 0)
    places = sorted(path.name for path in (tmp_path / "out" / "Set" / "frames").iterdir())
    assert len(places) == 6 and "ok" in places and not any(fault_of(place) for place in places)
    assert faces.extract_faces([tmp_path / "Set"], tmp_path / "out", **PLAIN).done_before == 6
    report.without_faces.append(names[-1])
    assert r"\udcff\udcfe" in report.as_text()


def test_two_names_that_some_machines_take_for_one_get_two_places(tmp_path):
    for folder, name in (("one", "É"), ("two", "é"), ("three", "e\u0301")):
        clip(tmp_path / folder / "Set" / f"{name}.mp4")
    sources = [tmp_path / folder / "Set" for folder in ("one", "two", "three")]
    report = faces.extract_faces(sources, tmp_path / "out", **PLAIN)
    places = [path.name for path in (tmp_path / "out" / "Set" / "frames").iterdir()]
    assert len(places) == len({folded(place) for place in places}) == 3 and report.failed == {}


def test_crops_under_a_name_of_an_earlier_version_are_kept(tmp_path, monkeypatch):
    clip(tmp_path / "Set" / "a:b.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(faces, "fault_of", lambda name: "")
        faces.extract_faces([tmp_path / "Set"], tmp_path / "out", **PLAIN)
    before = files(tmp_path / "out")
    assert faces.extract_faces([tmp_path / "Set"], tmp_path / "out", **PLAIN).done_before == 1
    assert files(tmp_path / "out") == before


def test_a_folder_that_the_output_cannot_have_costs_one_video(tmp_path, data):
    """The path of its crops is longer than the system takes; that of the video is not."""
    deep = tmp_path.joinpath("deep", *["d" * 250] * ((4096 - len(str(tmp_path)) - 270) // 251))
    clip(deep / "v.mp4")
    out = tmp_path.joinpath(*["o" * 200] * 4)
    report = faces.extract_faces([tmp_path / "deep", data], out, **PLAIN)
    assert list(report.failed) == [str((deep / "v.mp4").relative_to(tmp_path))] and report.frames_kept == 16
    assert "too long" in next(iter(report.failed.values()))
