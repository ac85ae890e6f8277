"""Face extraction over many machines: shards by hand, put together to the bytes of one run; and nodes of a cluster."""

import contextlib
import functools
import hashlib
import json
import operator
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import types
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from patience import PATIENCE, wait_until

from resproto_fd.configs import stop_signals
from resproto_fd.configs.errors import UnreadableFile, UserError
from resproto_fd.preprocessing.faces import cluster_pool, merging, shards
from resproto_fd.preprocessing.faces import extract as faces
from resproto_fd.preprocessing.faces import job as face_job
from resproto_fd.preprocessing.faces.cluster_pool import Cluster, SharedFolders, run_on_cluster
from resproto_fd.preprocessing.faces.merging import merge_shards
from resproto_fd.preprocessing.faces.shards import ShardRecord, Share
from resproto_fd.preprocessing.faces.sources import Source
from resproto_fd.preprocessing.faces.worker_pool import LastingWorker, WorkerDied
from resproto_fd.training.cli import main

PLAIN = {"detector": "none", "size": 16, "processes": 0, "progress": False}
NUMBERS = list(range(8))


def files(out):
    """What must not depend on how the work was divided: {path: digest}."""
    records, found = Path(out) / ".faces" / "records", {}
    for path in sorted(Path(out).rglob("*")):
        inside = path.relative_to(out)
        state = inside.parts[0] == ".faces" and not path.is_relative_to(records)
        if path.is_file() and not state and not path.name.startswith("faces_report"):
            found[str(inside)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def saved_report(out):
    """The report without what depends on the moment."""
    report = json.loads((Path(out) / "faces_report.json").read_text())
    return {key: value for key, value in report.items() if key not in ("seconds", "done_before")}


@pytest.fixture
def data(tmp_path):
    """Nine pictures, two of which want one place, two that cannot be read, and a file of another kind."""
    folder = tmp_path / "Set"
    for number in NUMBERS:
        path = folder / ("real", "fake")[number % 2] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((20, 20, 3), 20 * number, np.uint8))
    (folder / "real" / "a:b.png").write_bytes((folder / "real" / "000.png").read_bytes())
    (folder / "real" / "002.bmp").write_bytes((folder / "real" / "000.png").read_bytes())
    (folder / "real" / "empty.jpg").write_bytes(b"")
    (folder / "fake" / "text.png").write_text("no picture")
    (folder / "notes.txt").write_text("passed over")
    return folder


@pytest.fixture
def whole(data, tmp_path):
    """What one run gives."""
    faces.extract_faces([data], tmp_path / "whole", **PLAIN)
    return tmp_path / "whole"


def make_shards(data, place, of=3, numbers=None, **options):
    """Does shards in a folder each; returns the folders."""
    folders = []
    for number in numbers or range(1, of + 1):
        folders.append(place / f"part{number}")
        faces.extract_faces([data], folders[-1], shard=f"{number}/{of}", **PLAIN, **options)
    return folders


def test_every_source_is_in_one_share_whatever_others_there_are():
    names = [f"Set/{number}.mp4" for number in range(1000)]
    for of in (1, 3, 16):
        shares = [Share(number, of) for number in range(1, of + 1)]
        held = [[name for name in names if share.has(name)] for share in shares]
        assert sorted(name for share in held for name in share) == sorted(names)
        assert min(map(len, held)) > 0.5 * 1000 / of
    assert [Share(n, 16).has("Set/000_003.mp4") for n in range(1, 17)].index(True) == 7  # it must never change


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "3/16/2", "a/b", "-1/3", "1/0", "", "1/1000000", "٣/٤"])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="expected K/N"):
        Share.parsed(text)


@pytest.mark.parametrize("folder", ["one each", "shared"])
def test_shards_in_any_order_give_the_bytes_and_the_report_of_one_run(data, whole, tmp_path, folder):
    numbers = random.Random(0).sample(range(1, 6), 5)
    parts = []
    for number in numbers:
        parts.append(tmp_path / ("out" if folder == "shared" else f"part{number}"))
        report = faces.extract_faces([data], parts[-1], shard=f"{number}/5", **PLAIN)
        assert report.shard == f"{number}/5 of 12 sources" and not (parts[-1] / "faces_report.json").exists()
    report = merge_shards(dict.fromkeys(parts), tmp_path / "out", progress=False)
    assert files(tmp_path / "out") == files(whole) and len(files(whole)) == 18
    assert saved_report(tmp_path / "out") == saved_report(whole)
    assert report.exit_code == 1 and len(report.failed) == 3 and len(report.place_taken) == 1
    again = faces.extract_faces([data], tmp_path / "out", **PLAIN)
    assert again.done_before == 9 and files(tmp_path / "out") == files(whole)


def test_a_merge_goes_on_where_it_was_stopped_and_twice_is_once(data, whole, tmp_path, monkeypatch):
    parts, left = make_shards(data, tmp_path), [4]
    before = [files(part) for part in parts]
    put = merging._put

    def stopping(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return put(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(merging, "_put", stopping)
        with pytest.raises(KeyboardInterrupt):
            merge_shards(parts, tmp_path / "out", progress=False)
    (tmp_path / "out/.faces/tmp/half/frames").mkdir(parents=True)
    done = {path: (tmp_path / "out" / path).stat().st_mtime_ns for path in files(tmp_path / "out")}
    assert 0 < len(done) < len(files(whole))
    for _ in range(2):
        merge_shards(parts, tmp_path / "out", progress=False)
        assert files(tmp_path / "out") == files(whole)
        assert not (tmp_path / "out/.faces/tmp").exists()
        assert all((tmp_path / "out" / path).stat().st_mtime_ns == then for path, then in done.items())
    assert [files(part) for part in parts] == before


def test_a_source_that_is_changed_before_the_merge_is_done_anew(data, tmp_path):
    parts = make_shards(data, tmp_path)
    one, other = (data / "fake" / name for name in ("001.png", "003.png"))
    assert one.stat().st_size == other.stat().st_size
    one.write_bytes(other.read_bytes())
    merge_shards(parts, tmp_path / "out", progress=False)
    assert faces.extract_faces([data], tmp_path / "out", **PLAIN).done_before == 8
    assert faces.extract_faces([data], tmp_path / "out", **PLAIN).done_before == 9


def test_files_are_copied_where_they_cannot_be_linked(data, whole, tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    merge_shards(make_shards(data, tmp_path), tmp_path / "out", progress=False)
    assert files(tmp_path / "out") == files(whole)


def test_a_missing_shard_is_named(data, tmp_path, capsys):
    parts = make_shards(data, tmp_path, of=5, numbers=(1, 4))
    with pytest.raises(UserError, match=r"missing shards: 2/5, 3/5, 5/5"):
        merge_shards(parts, tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="no finished shard"):
        merge_shards([*parts, data], tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="no such folder"):
        merge_shards([tmp_path / "nowhere"], tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()
    assert main(["faces", "--merge", *map(str, parts), "--out", str(tmp_path / "out"), "--quiet"]) == 2
    assert "missing shards: 2/5" in capsys.readouterr().err


def test_a_shard_that_comes_twice_is_refused(data, tmp_path):
    parts = make_shards(data, tmp_path, of=2)
    shutil.copytree(parts[0], tmp_path / "copy")
    for twice in ([*parts, tmp_path / "copy"], [*parts, parts[0]]):
        with pytest.raises(UserError, match=r"shard 1/2: expected it once, got it in .*part1 and in"):
            merge_shards(twice, tmp_path / "out", progress=False)


SLOW_HARMS = [pytest.param(harm, marks=pytest.mark.slow) for harm in ("lost", "stray", "linked", "landmark")]


@pytest.mark.parametrize("harm", ["cut", "record", *SLOW_HARMS])
def test_a_torn_shard_is_refused_and_mended_by_running_it_again(data, whole, tmp_path, harm):
    parts = make_shards(data, tmp_path)
    record = sorted((parts[0] / ".faces" / "records" / "Set").rglob("*.json"))[0]
    crop = parts[0] / "Set" / record.parent.name / "frames" / record.stem / "000.png"
    if harm == "cut":
        crop.write_bytes(crop.read_bytes()[:40])
    elif harm == "lost":
        crop.unlink()
    elif harm == "stray":
        (crop.parent / "001.png").write_bytes(crop.read_bytes())
    elif harm == "linked":
        crop.rename(tmp_path / "elsewhere.png")
        crop.symlink_to(tmp_path / "elsewhere.png")
    elif harm == "record":
        record.unlink()
    else:
        stray = crop.parents[2] / "landmarks" / record.stem / "000.npy"
        stray.parent.mkdir(parents=True)
        stray.write_bytes(b"")
    with pytest.raises(UserError, match=r"lost or changed.*of shard 1/3 in .*part1"):
        merge_shards(parts, tmp_path / "out", progress=False)
    assert files(tmp_path / "out") == {}
    if harm == "record":  # crops without one are left alone, as always
        shutil.rmtree(crop.parent)
    done = len(json.loads(Share(1, 3).record(parts[0]).read_text())["done"])
    assert done > 1 and faces.extract_faces([data], parts[0], shard="1/3", **PLAIN).done_before == done - 1
    merge_shards(parts, tmp_path / "out", progress=False)
    assert files(tmp_path / "out") == files(whole)


def test_shards_that_do_not_belong_together_are_refused(data, tmp_path):
    parts = make_shards(data, tmp_path)
    other = {**PLAIN, "size": 24}
    faces.extract_faces([data], tmp_path / "large", shard="3/3", **other)
    with pytest.raises(UserError, match=r"different options .size 16 and 24.*--redo"):
        merge_shards([*parts[:2], tmp_path / "large"], tmp_path / "out", progress=False)
    with pytest.raises(UserError, match="size 16, now 24"):
        faces.extract_faces([data], parts[0], shard="1/3", **other)
    faces.extract_faces([data], tmp_path / "four", shard="3/4", **PLAIN)
    with pytest.raises(UserError, match=r"one division, got 1/3 in .*; 3/4 in"):
        merge_shards([*parts, tmp_path / "four"], tmp_path / "out", progress=False)
    with pytest.raises(UserError, match=r"has shard 3/4, now 1/3"):
        faces.extract_faces([data], tmp_path / "four", shard="1/3", **PLAIN)
    (data / "real" / "000.png").unlink()
    faces.extract_faces([data], parts[0], shard="1/3", **PLAIN)
    with pytest.raises(UserError, match=r"did not find the same files: 11 sources in .*part1, 12 in .*part2"):
        merge_shards(parts, tmp_path / "out", progress=False)


def test_a_folder_with_other_crops_is_not_merged_into(data, tmp_path):
    parts = make_shards(data, tmp_path)
    name = next(iter(ShardRecord.read(Share(1, 3).record(parts[0])).done))
    theirs = tmp_path / "out" / Path(name).parent / "frames" / Path(name).stem / "theirs.png"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(b"theirs")
    with pytest.raises(UserError, match="was not made by this command"):
        merge_shards(parts, tmp_path / "out", progress=False)
    assert theirs.read_bytes() == b"theirs"
    faces.extract_faces([data], tmp_path / "large", **{**PLAIN, "size": 24})
    with pytest.raises(UserError, match="made with other options"):
        merge_shards(parts, tmp_path / "large", progress=False)


def test_shards_work_side_by_side_in_one_folder_and_a_whole_run_does_not(data, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    out = tmp_path / "out"
    working = out / ".faces" / "tmp-2-of-3" / "half"
    working.mkdir(parents=True)
    with open(out / ".faces" / "lock-2-of-3", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        faces.extract_faces([data], out, shard="1/3", **PLAIN)
        assert working.is_dir()
        with pytest.raises(UserError, match="another run of shard 2/3 is at work"):
            faces.extract_faces([data], out, shard="2/3", **PLAIN)
        with pytest.raises(UserError, match=r"another run \(2-of-3\) is at work"):
            faces.extract_faces([data], out, **PLAIN)
    faces.extract_faces([data], out, shard="2/3", **PLAIN)
    assert not working.exists()


def test_a_folder_is_not_merged_while_one_of_its_shards_is_at_work(data, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    out = tmp_path / "out"
    for number in (1, 2):
        faces.extract_faces([data], out, shard=f"{number}/2", **PLAIN)
    with open(out / ".faces" / "lock-2-of-2", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"another run \(2-of-2\) is at work"):
            merge_shards([out], out, progress=False)
    assert not (out / "faces_report.json").exists()
    merge_shards([out], out, progress=False)


def test_a_shard_waits_for_a_moment_and_not_for_a_whole_run(data, tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(shards, "PATIENCE", 0.1)
    (tmp_path / "out" / ".faces").mkdir(parents=True)
    with open(tmp_path / "out" / ".faces" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another run is at work"):
            faces.extract_faces([data], tmp_path / "out", shard="1/3", **PLAIN)


def test_a_share_without_sources_is_done_and_no_fault(data, tmp_path, capsys):
    words = ["faces", str(data / "real" / "000.png"), "--root", str(tmp_path), "--detector", "none", "--processes", "0"]
    mine = [n for n in (1, 2) if Share(n, 2).has("Set/real/000.png")]
    for number in (1, 2):
        assert main([*words, "--out", str(tmp_path / "out"), "--shard", f"{number}/2", "--quiet"]) == 0
        shown = capsys.readouterr().out
        assert f"shard                      {number}/2 of 1 sources" in shown and "No crop" not in shown
        assert ("1 picture" in shown) == (number in mine)
    assert main(["faces", "--merge", str(tmp_path / "out"), "--out", str(tmp_path / "out"), "--quiet"]) == 0


@pytest.mark.parametrize(
    "words", [["--shard", "1/2"], ["--redo"], ["--size", "64"], ["--address", "auto"], ["--root", "x"]]
)
def test_options_that_mean_nothing_beside_merge_are_refused(words, tmp_path, capsys):
    assert main(["faces", "--merge", str(tmp_path), "--out", str(tmp_path / "out"), *words]) == 2
    assert f"{words[0]}: expected no such option beside --merge" in capsys.readouterr().err


def spoiled(content, key, value):
    changed = json.loads(json.dumps(content))
    changed[key] = value
    return json.dumps(changed)


def test_a_damaged_or_hostile_record_of_a_shard_is_an_error_that_names_it(data, tmp_path):
    (part,) = make_shards(data, tmp_path, of=1)
    path = Share(1, 1).record(part)
    content = json.loads(path.read_text())
    name, entry = next(iter(content["done"].items()))
    harms = [path.read_text()[:-40], "[]", "", "{}", spoiled(content, "format", "resproto faces shard 0")]
    for key in content.keys() - {"list", "versions"}:
        harms += [spoiled(content, key, value) for value in (None, [], {"a": None}, "x")]
    for place in ({"folder": "../../up"}, {"folder": "/etc"}, {"stem": "../up"}, {"stem": "a/b"}, {"sha256": 3}):
        harms.append(spoiled(content, "done", {name: {**entry, **place}}))
    harms.append(spoiled(content, "failed", {name: {"source": "other", "failed": "x"}}))
    harms.append(spoiled(content, "sources", 17))
    harms += [spoiled(content, "shard", value) for value in (["1/1"], ["1", "1"], [True, True], [1.0, 1])]
    harms += [spoiled(content, "versions", value) for value in ({"numpy": ["1"]}, {"numpy": 1}, "x")]
    for harm in harms:
        path.write_text(harm)
        with pytest.raises(UserError, match=r"shard|format"):
            merge_shards([part], tmp_path / "out", progress=False)
    assert not list(tmp_path.rglob("up")) and files(tmp_path / "out") == {}
    assert issubclass(UnreadableFile, UserError)


@pytest.mark.parametrize("masks", [{}, {"kept": "x", "missing": []}, {"kept": 1, "missing": 3}, {"kept": True}])
def test_a_record_whose_masks_are_damaged_is_named_and_not_counted(data, tmp_path, masks):
    (part,) = make_shards(data, tmp_path, of=1)
    shard = ShardRecord.read(Share(1, 1).record(part))
    source = shard.source(next(iter(shard.done)))
    record = part / source.record
    record.write_text(spoiled(json.loads(record.read_text()), "masks", masks))
    content = json.loads(Share(1, 1).record(part).read_text())
    content["done"][source.name]["sha256"] = shards.checksum(part, source)
    Share(1, 1).record(part).write_text(json.dumps(content))
    with pytest.raises(UnreadableFile, match=rf"{record.name}: masks: expected"):
        merge_shards([part], tmp_path / "out", progress=False)


def test_a_folder_of_crops_that_is_a_link_is_torn(data, tmp_path):
    """Else files from anywhere would be taken over with the crops."""
    (part,) = make_shards(data, tmp_path, of=1)
    shard = ShardRecord.read(Share(1, 1).record(part))
    source = shard.source(next(iter(shard.done)))
    crops = part / source.place("frames")
    crops.rename(tmp_path / "elsewhere")
    crops.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="lost or changed"):
        merge_shards([part], tmp_path / "out", progress=False)


def test_shards_of_other_versions_are_noted(data, tmp_path, capsys):
    parts = make_shards(data, tmp_path, of=2)
    path = Share(2, 2).record(parts[1])
    content = json.loads(path.read_text())
    path.write_text(spoiled(content, "versions", {**content["versions"], "numpy": "0.1"}))
    merge_shards(parts, tmp_path / "out", progress=False)
    assert "shards 1/2 and 2/2 were made with different versions (numpy)" in capsys.readouterr().err


def test_two_machines_that_publish_one_source_leave_it_whole(tmp_path):
    source, record = Source("Set/a.png", "picture", (), "Set", "a"), {"kept": [{"frame": 0}], "status": "done"}
    for number in range(3):
        made = face_job.temporary_folder(tmp_path / ".faces" / "tmp")
        (made / "frames").mkdir()
        (made / "frames" / "000.png").write_bytes(b"same")
        (made / "frames" / "001.png").write_bytes(b"same") if number == 1 else None
        if number == 1:  # something in the temporary folder that the record does not have
            with pytest.raises(face_job.CannotWrite, match="another run"):
                face_job.publish(tmp_path, source, made, record)
        else:
            face_job.publish(tmp_path, source, made, record)
    assert [path.name for path in (tmp_path / "Set/frames/a").iterdir()] == ["000.png"]


def test_a_place_that_another_fills_at_the_last_moment_is_filled_again(tmp_path, monkeypatch):
    new, place, rename, calls = tmp_path / "new", tmp_path / "place", os.rename, []
    (new / "a").mkdir(parents=True)

    def late(path, to):
        if path == new and not calls:
            calls.append(to)
            (place / "b").mkdir(parents=True)
        rename(path, to)

    monkeypatch.setattr(os, "rename", late)
    face_job._replace_folder(place, new, tmp_path / "old")
    assert calls and [path.name for path in place.iterdir()] == ["a"]


def make_worker(factor):
    def work(task):
        if task == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        return task * factor

    return work


@pytest.mark.slow
def test_signals_of_a_terminal_do_not_end_a_worker():
    """Else the files that were at work would count as unreadable."""
    worker = LastingWorker(functools.partial, (signal.raise_signal,))
    assert [worker(number) for number in (signal.SIGINT, signal.SIGHUP)] == [None, None]


@pytest.mark.slow
def test_a_lasting_worker_is_replaced_when_it_dies():
    worker = LastingWorker(make_worker, (3,))
    assert worker(2) == 6
    died = worker("die")
    assert isinstance(died, WorkerDied) and "SIGKILL" in str(died)
    assert worker(4) == 12


# --- a cluster ----------------------------------------------------------------------------------------------------

CLUSTER = """
import sys
import tempfile
from pathlib import Path

from ray.cluster_utils import Cluster

Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)  # Ray's test cluster writes its address there
small = {"object_store_memory": 80 << 20}
cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False, "temp_dir": sys.argv[1], **small})

def add(lacks, tries=5):
    try:
        return cluster.add_node(num_cpus=1, env_vars={"LACKS": lacks, "ALL_LACK": "a folder"}, **small)
    except Exception:  # Ray waits for a node for 30 seconds, which a busy machine may need longer
        if tries == 1:
            raise
        return add(lacks, tries - 1)

nodes = [add(""), add("a disk")]
print("address", cluster.address, flush=True)
for line in sys.stdin:
    if line.strip() == "kill":
        cluster.remove_node(nodes.pop(), allow_graceful=False)
    else:
        nodes.append(add("a disk"))
    print("done", flush=True)
cluster.shutdown()
"""
MARK = "RESPROTO_TEST_CLUSTER"


class TwoNodes:
    """A cluster of two nodes on this machine, in a process of its own. The second one lacks a disk in tests."""

    def __init__(self, folder):
        self.folder = str(folder)
        for attempt in range(5):
            try:
                self._start()
                break
            except ChildProcessError:  # Ray waits for a node for 30 seconds, which a busy machine may need longer
                assert attempt < 4

    def _start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER, self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, MARK: self.folder},
        )
        self.address = self._answer("address").split()[1]

    def _answer(self, word):
        for line in self.process.stdout:
            if line.startswith(word):
                return line
        raise ChildProcessError(f"the cluster ended with {self.process.wait()}")

    def tell(self, word):
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        self._answer("done")

    def workers(self):
        """Commands of the processes in which videos are read."""
        mark, found = f"{MARK}={self.folder}".encode(), []
        for place in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (place / "cmdline").read_bytes()
                if b"spawn_main" in command and mark in (place / "environ").read_bytes().split(b"\0"):
                    found.append(command)
        return found


@pytest.fixture(scope="module")
def cluster():
    pytest.importorskip("ray")
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # not tmp_path: sockets take 107 letters
        nodes = TwoNodes(folder)
        yield nodes
        nodes.process.stdin.close()
        nodes.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Ten videos, each of which takes some tenths of a second, and what one process makes of them."""
    av = pytest.importorskip("av")
    place = tmp_path_factory.mktemp("films")
    for number in range(10):
        path = place / "Set" / "real" / f"{number:03d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for level in range(100):
                image = np.full((48, 64, 3), 2 * level + 5 * number, np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
            container.mux(stream.encode())
    faces.extract_faces([place / "Set"], place / "whole", **FILMS, processes=0, progress=False)
    return place


FILMS = {"detector": "none", "size": 400, "frames": 0}


def start(films, out, cluster, folder=None):
    """`resproto faces` over the cluster, in a process of its own."""
    words = ["faces", str(films / "Set"), "--out", str(out), "--detector", "none", "--size", "400", "--frames", "0"]
    code = "import sys; from resproto_fd.training.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *words, "--quiet", "--address", cluster.address]
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}  # as the command `resproto` begins
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder, env=environment
    )


def interrupted(films, place, cluster, interrupt):
    """A run that was interrupted after its third video was begun: (its folder, its exit status, what it said)."""
    for attempt in range(10):
        out = place / f"{attempt}"
        run = start(films, out, cluster)
        wait_until(lambda run=run, out=out: run.poll() is not None or len([*out.glob(".faces/records/**/*.json")]) > 2)
        interrupt(run)
        said, _ = run.communicate(timeout=PATIENCE)
        if run.returncode != 0:
            return out, run.returncode, said
        assert files(out) == files(films / "whole")  # it was done before the interruption came
    raise AssertionError(f"no run of {attempt + 1} ended at the interruption")


@pytest.mark.slow
def test_a_dead_nodes_videos_are_done_by_others_to_the_same_bytes(cluster, films, tmp_path):
    run = start(films, tmp_path / "out", cluster)
    wait_until(lambda: run.poll() is not None or len([*tmp_path.glob("out/.faces/records/**/*.json")]) > 1)
    cluster.tell("kill")
    said, _ = run.communicate(timeout=PATIENCE)
    cluster.tell("add")
    assert run.returncode == 0, said
    assert files(tmp_path / "out") == files(films / "whole")
    assert saved_report(tmp_path / "out") == saved_report(films / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_run_over_nodes_that_was_stopped_goes_on_and_leaves_nothing_at_work(cluster, films, tmp_path, number, code):
    out, status, said = interrupted(films, tmp_path, cluster, lambda run: run.send_signal(number))
    assert status == code, said
    assert number == signal.SIGKILL or "finished videos are kept" in said
    assert len(files(out)) < len(files(films / "whole"))
    wait_until(lambda: not cluster.workers(), lambda: str(cluster.workers()))
    again = start(films, out, cluster)
    said, _ = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0 and "done before: 0" not in said, said
    assert files(out) == files(films / "whole")
    assert {path.name for path in (out / ".faces").iterdir()} <= {"records", "lock"}


@pytest.mark.slow
def test_no_node_imports_from_the_current_folder(cluster, films, tmp_path):
    """A cluster's workers begin with the driver's current folder on their path, if nobody prevents it."""
    for name in ("av", "cv2", "tqdm", "PIL", "resproto_fd", "mtcnn", "lmdb"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').write({name!r})")
    run = start(films, tmp_path / "out", cluster, folder=tmp_path)
    said, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0 and not (tmp_path / "imported").exists(), said
    assert files(tmp_path / "out") == files(films / "whole")


@pytest.mark.slow
def test_a_task_that_kills_its_process_costs_itself_alone(cluster):
    answers = dict(run_on_cluster(functools.partial, (os._exit,), [7, 8], Cluster(cluster.address)))
    assert [isinstance(answer, WorkerDied) for answer in answers.values()] == [True, True]
    assert "exit code 7" in str(answers[0]) and "exit code 8" in str(answers[1])
    answers = run_on_cluster(functools.partial, (operator.neg,), range(50), Cluster(cluster.address, processes=3))
    assert dict(answers) == {number: -number for number in range(50)}


@pytest.mark.slow
def test_a_node_that_lacks_something_is_left_out_and_named(cluster, monkeypatch, capsys):
    monkeypatch.setenv("LACKS", "")
    monkeypatch.setenv("ALL_LACK", "")
    settings = Cluster(cluster.address, fault=os.path.expandvars)
    answers = dict(run_on_cluster(functools.partial, (str.lower,), ["$LACKS"] * 20, settings))
    assert answers == dict.fromkeys(range(20), "$lacks")
    assert capsys.readouterr().err.count("gets no further videos: a disk") == 1
    with pytest.raises(UserError, match=r"no node of the cluster can do the work; node .*: a folder"):
        list(run_on_cluster(functools.partial, (str.lower,), ["$ALL_LACK"] * 3, settings))
    monkeypatch.setenv("ALL_LACK", "it lacks here, too")
    answers = run_on_cluster(functools.partial, (str.lower,), ["$ALL_LACK"], settings)
    assert list(answers) == [(0, "$all_lack")]


@pytest.mark.slow
def test_an_error_of_a_node_ends_the_run_and_names_the_node(cluster, films, tmp_path):
    out = tmp_path / "out"
    (out / "Set" / "real").mkdir(parents=True)
    (out / "Set" / "real" / "frames").write_text("a file is in the way")
    with pytest.raises(UserError, match=r"node [0-9.]+ \(.*\): .*frames.*cannot be written"):
        faces.extract_faces([films / "Set"], out, address=cluster.address, progress=False, **FILMS)


def test_what_a_node_must_have_is_told_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_pool.time, "sleep", lambda seconds: None)
    (tmp_path / "a.mp4").touch()
    source = Source("a.mp4", "video", (str(tmp_path / "a.mp4"),), ".", "a")
    with SharedFolders.marked(tmp_path / "out", "tmp-1-of-2") as shared, SharedFolders.marked(tmp_path / "out", "tmp"):
        assert shared(source) == ""
        other = replace(shared, versions=(("numpy", "0.1"),))
        assert "it has numpy" in other(source) and "not 0.1; install the same versions" in other(source)
        (tmp_path / "a.mp4").unlink()
        assert "a.mp4; mount the folder of the videos" in shared(source)
    assert f"does not see the same {tmp_path / 'out'}; mount the same folder" in shared(source)


def test_an_address_without_a_cluster_is_an_error_with_a_remedy(data, tmp_path, capsys, monkeypatch):
    words = ["faces", str(data), "--out", str(tmp_path / "out"), "--detector", "none", "--quiet", "--address"]
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(is_initialized=lambda: False))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # it is nobody else's, and nobody listens
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert main([*words, address]) == 2
    assert f"expected a running Ray cluster at '{address}', got none" in capsys.readouterr().err
    assert main([*words, "ray://127.0.0.1:1"]) == 2
    assert "expected auto or HOST:PORT, got 'ray://127.0.0.1:1'" in capsys.readouterr().err
    assert main([*words, "auto", "--processes", "0"]) == 2
    assert "--processes: expected at least 1 with --address, got 0" in capsys.readouterr().err
    assert main([*words, "auto", "--device", "cuda:1"]) == 2
    assert "expected cpu or cuda with --address" in capsys.readouterr().err


def test_without_ray_the_command_says_what_to_install(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["faces", str(data), "--out", str(tmp_path / "out"), "--detector", "none", "--quiet", "--address", "auto"]
    assert main(words) == 2
    assert "pip install 'resproto-fd[cluster]'" in capsys.readouterr().err


def test_a_library_that_sets_a_handler_of_stop_signals_does_not_keep_it():
    before = signal.getsignal(signal.SIGTERM)
    with stop_signals.kept():
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    assert signal.getsignal(signal.SIGTERM) is before


def test_odd_names_lie_in_the_same_places_from_shards(tmp_path):
    """Which of two names that differ in case alone gets a hash does not depend on the shard that does it."""
    odd = ["a" * 245, "dots...", b"\xff\xfe".decode(errors="surrogateescape"), "line\nbreak", "É", "é", "con", "#1"]
    (tmp_path / "Set").mkdir()
    for number, name in enumerate(odd):
        cv2.imwrite(str(tmp_path / "made.png"), np.full((20, 20, 3), 20 * number, np.uint8))
        (tmp_path / "made.png").rename(tmp_path / "Set" / f"{name}.png")
    faces.extract_faces([tmp_path / "Set"], tmp_path / "whole", **PLAIN)
    parts = make_shards(tmp_path / "Set", tmp_path, numbers=(3, 1, 2))
    merge_shards(parts, tmp_path / "out", progress=False)
    assert files(tmp_path / "out") == files(tmp_path / "whole") and len(files(tmp_path / "out")) == 16
    assert saved_report(tmp_path / "out") == saved_report(tmp_path / "whole")


@pytest.mark.slow
def test_manifest_side_file_and_store_are_those_of_one_machine(tmp_path, monkeypatch):
    for number, method in enumerate(["real", "fake"] * 4):
        path = tmp_path / "Own" / ("train", "val", "test", "test")[number // 2] / method / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), np.full((20, 20, 3), 20 * number, np.uint8))
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    faces.extract_faces([tmp_path / "Own"], tmp_path / "one" / "crops", **PLAIN)
    merge_shards(make_shards(tmp_path / "Own", tmp_path), tmp_path / "many" / "crops", progress=False)
    made = []
    for place in ("one", "many"):
        monkeypatch.chdir(tmp_path / place)
        assert main(["manifest", "folders", "--root", "crops/Own", "--out", "data"]) == 0
        assert main(["pack", "data/Own.json", "--frames", "crops", "--out", "store"]) == 0
        made.append(
            {
                str(path): path.read_bytes()
                for folder in ("data", "store")
                for path in sorted(Path(folder).rglob("*"))
                if path.is_file() and "lock" not in path.name
            }
        )
    assert made[0] == made[1] and len(made[0]) >= 3
