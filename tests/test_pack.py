"""Packing: what goes in comes out, whoever reads it; killed anywhere it ends the same; what is wrong is named."""

import argparse
import json
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from patience import PATIENCE

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.manifest import listed_frames, write_manifest
from resproto_fd.preprocessing.store import pack, packed_store, threads
from resproto_fd.preprocessing.store.frame_store import open_store
from resproto_fd.preprocessing.store.image_codec import UnreadableFrame, encode_native, is_native
from resproto_fd.preprocessing.store.lmdb_files import DIGESTS, SEAL, STATEMENT_KEY, GrowingLmdb, close_all
from resproto_fd.preprocessing.store.lmdb_writer import LmdbWriter
from resproto_fd.preprocessing.store.pack import Choice
from resproto_fd.preprocessing.store.threads import Threads
from resproto_fd.preprocessing.video import Video

SIDE = 16
POINTS = np.arange(162).reshape(81, 2)


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE + 4, 3), dtype=np.uint8)


def encode(image):
    return cv2.imencode(".png", image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


def video(name, numbers, split="train", label=0):
    kind = ("UADFV_Real", "UADFV_Fake")[label]
    frames = tuple(f"Made/{kind}/frames/{name}/{number:03d}.png" for number in numbers)
    return Video("Made", split, f"Made/{kind}/{name}", label, kind, "", "", frames)


VIDEOS = [video("a", range(6)), video("b", range(5), "test"), video("c", range(6), "train", 1)]
FRAMES = sorted(path for each in VIDEOS for path in each.frames)


@pytest.fixture(autouse=True)
def _close():
    yield
    close_all()


@pytest.fixture
def data(tmp_path):
    """Frames as files, masks beside the fakes, landmarks beside all, and manifests of all, of the first two videos."""
    for i, path in enumerate(FRAMES):
        put(tmp_path / "rgb" / path, encode(picture(i)))
        landmarks = tmp_path / "rgb" / path.replace("frames", "landmarks").replace(".png", ".npy")
        landmarks.parent.mkdir(parents=True, exist_ok=True)
        np.save(landmarks, POINTS + i)
        if "Fake" in path:
            put(tmp_path / "rgb" / path.replace("frames", "masks"), encode(np.full((SIDE, SIDE + 4), 255, np.uint8)))
    write_manifest(tmp_path / "json" / "Made.json", "Made", VIDEOS)
    write_manifest(tmp_path / "json" / "Part.json", "Made", VIDEOS[:2])
    return tmp_path


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def packed(data, out="X_lmdb", manifest="Made", **options):
    return pack.pack([data / "json" / f"{manifest}.json"], data / out, data / "rgb", **options)


def contents(path):
    """Everything under keys of files."""
    close_all()
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        return {key: value for key, value in transaction.cursor() if key not in (STATEMENT_KEY, DIGESTS)}


def change(path, *edits):
    """Edits an LMDB past our writer: (key, new value or None)."""
    close_all()
    with (
        lmdb.open(str(path), map_size=1 << 28, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, value in edits:
            assert transaction.delete(key) if value is None else transaction.put(key, value)


def key_of(path):
    return path.replace("/", "\\").encode()


# --- what goes in comes out ------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["png", "native"])
def test_pixels_masks_and_landmarks_come_out_as_they_went_in(data, codec):
    summary = packed(data, codec=codec)
    store = open_store(data / "X_lmdb")
    assert store.missing(FRAMES) == []
    for i, path in enumerate(FRAMES):
        image = store.read(path)
        np.testing.assert_array_equal(image, picture(i))
        image[:] = 0  # a frame is the reader's own
        np.testing.assert_array_equal(store.read_landmarks(path), POINTS + i)
        assert is_native(store.read_bytes(path)) == (codec == "native")
    assert store.read_mask(VIDEOS[2].frames[0]).min() == 255
    counts = {"frames": 17, "masks": 6, "landmarks": 17, "left_out": 0}
    assert counts.items() <= summary.statement["sources"][0].items()
    assert (summary.statement["values"], summary.added) == (40, 40)
    assert sorted(file.name for file in (data / "X_lmdb").iterdir()) == ["data.mdb", SEAL]


def deepfakebench_reads(store, raw_path):
    """A frame as DeepfakeBench's LMDB branch gets it: the JSON's path is the key, the value is an encoded image."""
    key = raw_path.replace("./datasets\\", "") if raw_path.startswith(".") else raw_path
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(store[key.encode()], np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def test_a_png_store_is_what_deepfakebenchs_loader_expects(data):
    packed(data)
    stored = contents(data / "X_lmdb")
    listed = json.loads((data / "json" / "Made.json").read_text())["Made"]
    seen = 0
    for label in listed.values():
        for split in label.values():
            for entry in split.values():
                for raw in entry["frames"]:
                    i = FRAMES.index(raw.replace("\\", "/"))
                    np.testing.assert_array_equal(deepfakebench_reads(stored, raw), picture(i))
                    landmarks = stored[raw.replace("frames", "landmarks").replace(".png", ".npy").encode()]
                    np.testing.assert_array_equal(np.frombuffer(landmarks, np.uint32).reshape(81, 2), POINTS + i)
                    seen += 1
    assert seen == len(FRAMES)
    files = {key_of(path): (data / "rgb" / path).read_bytes() for path in FRAMES}
    assert files.items() <= stored.items()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Celeb-DF-v2", pytest.param("FaceForensics++", marks=pytest.mark.slow)])
def test_deepfakebenchs_fixture_packs_alike_from_its_files_and_from_its_lmdbs(shared, tmp_path, name):
    fixture = shared / "fixtures/deepfakebench"
    found = {}
    for source in ("rgb", "lmdb", "lmdb_winkeys"):
        frames = fixture / "datasets" / source / ("" if source == "rgb" else f"{name}_lmdb")
        out = tmp_path / source
        found[source] = pack.pack([fixture / "dataset_json" / f"{name}.json"], out, frames).statement["content"]
        stored = contents(out)
        released = json.loads((fixture / "dataset_json_released_style" / f"{name}.json").read_text())
        raws = [raw for raw in walk_strings(released) if raw.endswith(".png") and "frames" in raw]
        assert len(raws) > 30
        for raw in raws:
            file = fixture / "datasets/rgb" / raw.replace("\\", "/")
            np.testing.assert_array_equal(deepfakebench_reads(stored, raw), cv2.imread(str(file))[..., ::-1])
    assert len(set(found.values())) == 1


def walk_strings(tree):
    if isinstance(tree, str):
        yield tree
    else:
        for inner in tree.values() if isinstance(tree, dict) else tree:
            yield from walk_strings(inner)


def test_a_store_packed_from_a_store_of_the_other_codec_has_the_same_pixels(data):
    packed(data, "native_lmdb", codec="native")
    for source, codec in (("native_lmdb", "png"), ("native_lmdb", "native")):
        out = data / f"from_{source}_{codec}"
        statement = pack.pack([data / "json/Made.json"], out, data / source, codec=codec).statement
        assert statement["sources"][0]["request"]["from_content"]
        for i, path in enumerate(FRAMES):
            np.testing.assert_array_equal(open_store(out).read(path), picture(i))
    assert contents(out) == contents(data / "native_lmdb")


def test_landmarks_of_five_points_stay_the_file_they_are(data):
    path = data / "rgb" / FRAMES[0].replace("frames", "landmarks").replace(".png", ".npy")
    points = np.linspace(0, 9, 10, dtype=np.float32).reshape(5, 2)
    np.save(path, points)
    packed(data)
    np.testing.assert_array_equal(open_store(data / "X_lmdb").read_landmarks(FRAMES[0]), points)


def test_the_content_does_not_depend_on_threads_or_on_the_day(data, monkeypatch):
    monkeypatch.setattr(threads, "CHUNK", 3)
    statements = [packed(data, f"{jobs}_lmdb", codec="native", threads=Threads(jobs)).statement for jobs in (1, 2, 3)]
    assert statements[0] == statements[1] == statements[2]
    assert contents(data / "1_lmdb") == contents(data / "3_lmdb")


def test_a_stores_content_tells_its_bytes_whatever_the_order_of_packing(data):
    packed(data, "at_once_lmdb")
    packed(data, "in_parts_lmdb", manifest="Part")
    part = open_store(data / "in_parts_lmdb").content
    packed(data, "in_parts_lmdb")
    at_once = open_store(data / "at_once_lmdb").content
    assert (len(part), part != at_once, open_store(data / "in_parts_lmdb").content) == (64, True, at_once)
    put(data / "rgb" / FRAMES[0], encode(picture(99)))
    assert packed(data, "other_lmdb").statement["content"] == open_store(data / "other_lmdb").content != at_once
    assert open_store(data / "rgb").content is None


def test_only_the_chosen_splits_and_kinds_are_packed(data):
    summary = packed(data, choice=Choice(splits=["test"], without=["masks", "landmarks"]))
    assert summary.wanted == sorted(VIDEOS[1].frames)
    assert len(contents(data / "X_lmdb")) == 5


def test_listed_frames_are_found_at_any_depth_and_in_deepfakebenchs_broken_split(tmp_path):
    entry = {"label": "x", "frames": ["D\\frames\\a\\1.png", "./datasets/rgb/D/frames/a/0.png"]}
    other = {"label": "x", "frames": ["D\\frames\\raw\\2.png"]}
    tree = {"D": {"L": {"train": {"c23": {"a": entry}, "c40": {"b": other}}, "val": entry, "test": {"raw": other}}}}
    (tmp_path / "D.json").write_text(json.dumps(tree))
    both = ["D/frames/a/0.png", "D/frames/a/1.png"]
    assert listed_frames(tmp_path / "D.json") == [*both, "D/frames/raw/2.png"]
    assert listed_frames(tmp_path / "D.json", splits=["val"]) == both
    assert listed_frames(tmp_path / "D.json", splits=["train"], compressions=["c23"]) == both
    assert listed_frames(tmp_path / "D.json", splits=["test"], compressions=["c23"]) == ["D/frames/raw/2.png"]
    with pytest.raises(UserError, match="does not go through"):
        listed_frames(tmp_path / "D.json", folder="E")
    (tmp_path / "E.json").write_text('{"E": {"L": {"train": {}}}}')
    with pytest.raises(UserError, match="names no frames"):
        listed_frames(tmp_path / "E.json")


# --- appended, resumed, killed ---------------------------------------------------------------------------------


def test_a_store_is_added_to_and_what_it_has_is_left(data):
    whole = packed(data, "whole_lmdb").statement
    packed(data, manifest="Part")
    summary = packed(data)
    assert summary.added == 18  # the third video: six frames, masks, landmarks
    assert summary.statement["content"] == whole["content"]
    assert [source["request"]["manifests"][0]["name"] for source in summary.statement["sources"]] == [
        "Part.json",
        "Made.json",
    ]
    assert contents(data / "X_lmdb") == contents(data / "whole_lmdb")
    before = (data / "X_lmdb" / "data.mdb").stat().st_mtime_ns
    assert packed(data).added == 0
    assert (data / "X_lmdb" / "data.mdb").stat().st_mtime_ns == before


def die_at(monkeypatch, step):
    """The process dies when it comes to a step: a transaction, a renaming, the seal. Counted from 0."""
    count = iter(range(1000))

    def dies(module, name):
        original = getattr(module, name)

        def maybe(*args, **options):
            if next(count) == step:
                os._exit(9)
            return original(*args, **options)

        monkeypatch.setattr(module, name, maybe)

    dies(GrowingLmdb, "write")
    dies(os, "rename")
    dies(packed_store, "write_text")


def in_child(work):
    """Whether work was finished in a process of its own (it may have died)."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 9)
    return status == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("begun", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["new", "added to"])
@pytest.mark.slow
def test_killed_at_any_step_a_store_is_whole_or_not_there_and_is_finished_to_the_same(data, monkeypatch, begun):
    monkeypatch.setattr(packed_store, "BATCH_BYTES", 1500)
    whole, half_made = packed(data, "whole_lmdb", codec="native").statement, 0
    expected = contents(data / "whole_lmdb")
    for step in range(100):
        out, before = f"{step}_lmdb", {}
        if begun:
            packed(data, out, "Part", codec="native")
            before = contents(data / out)

        def work(step=step, out=out):
            die_at(monkeypatch, step)
            packed(data, out, codec="native")

        finished = in_child(work)
        partial = data / f".{out}.partial"
        if (data / out).exists():
            assert open_store(data / out).statement["complete"]
            assert not partial.exists()
        elif (partial / "data.mdb").exists() and contents(partial) not in (before, expected):
            half_made += 1
            with pytest.raises(UserError, match="only part of it is packed"):
                open_store(partial).missing(FRAMES)
        close_all()
        statement = packed(data, out, codec="native").statement
        assert statement["content"] == whole["content"]
        assert contents(data / out) == expected
        packed_store.verify(data / out)
        close_all()
        if finished:
            break
    assert finished
    assert half_made > 4
    assert step > 8


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_killed_again_and_again_at_random_moments_it_comes_to_the_same(data, monkeypatch):
    monkeypatch.setattr(packed_store, "BATCH_BYTES", 1)
    whole = packed(data, "whole_lmdb", codec="native").statement
    close_all()
    for pause in np.random.default_rng(0).uniform(0, 0.05, 12):
        pid = os.fork()
        if pid == 0:
            packed(data, codec="native")
            os._exit(0)
        time.sleep(pause)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    statement = packed(data, codec="native").statement
    assert statement == whole
    packed_store.verify(data / "X_lmdb", FRAMES)


def test_what_was_packed_before_a_stop_is_not_packed_again(data, monkeypatch):
    monkeypatch.setattr(packed_store, "BATCH_BYTES", 1)
    put_one, seen = packed_store.PackedWriter.put, []

    def stops(self, *args):
        if len(seen) == 7:
            raise KeyboardInterrupt
        seen.append(args)
        put_one(self, *args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(packed_store.PackedWriter, "put", stops)
        packed(data)
    assert not (data / "X_lmdb").exists()
    assert packed(data).added == 40 - 7


def test_the_map_grows_with_what_is_packed(data, monkeypatch):
    monkeypatch.setitem(GrowingLmdb.__init__.__kwdefaults__, "map_size", 1 << 16)
    monkeypatch.setattr(packed_store, "BATCH_BYTES", 10_000)
    packed(data, codec="native")
    packed_store.verify(data / "X_lmdb", FRAMES)


def add_and_wait(data, ours, theirs):
    """Packs the large frames in this process, which has stopped before the store is complete until it is told to."""
    ours.close()
    close_all()
    finish = packed_store.PackedWriter._finish

    def wait_then_finish(self):
        self._commit()
        self._wait()
        theirs.send("added")
        theirs.recv()
        finish(self)

    packed_store.PackedWriter._finish = wait_then_finish
    packed(data, manifest="Large", codec="native")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_in_use_can_be_added_to(data, workers):
    packed(data, codec="native")
    store = open_store(data / "X_lmdb")
    before = [store.read(path) for path in FRAMES]
    large = video("d", range(4))
    for i, path in enumerate(large.frames):
        noise = np.random.default_rng(i).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
        put(data / "rgb" / path, cv2.imencode(".png", noise, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes())
    write_manifest(data / "json" / "Large.json", "Made", [large])
    ours, theirs = multiprocessing.Pipe()
    packing = multiprocessing.get_context("fork").Process(target=add_and_wait, args=(data, ours, theirs), daemon=True)
    packing.start()
    theirs.close()

    def read_all():
        if workers:  # they open the store now, and it has another name
            with multiprocessing.get_context("fork").Pool(workers) as pool:
                return pool.map(store.read, FRAMES)
        return [image.copy() for image in store.read_each(FRAMES)]

    assert ours.poll(PATIENCE) and ours.recv() == "added"
    assert not (data / "X_lmdb").exists()
    np.testing.assert_equal(read_all(), before)
    ours.send("finish")
    packing.join(PATIENCE)
    assert packing.exitcode == 0
    np.testing.assert_equal(read_all(), before)
    assert store.missing(large.frames) == []


def test_an_incomplete_store_is_refused_by_those_who_did_not_know_it_whole(data, monkeypatch):
    packed(data, manifest="Part")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(packed_store.PackedWriter, "put", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        packed(data)
    close_all()
    with pytest.raises(UserError, match="only part of it is packed"):
        open_store(data / ".X_lmdb.partial").missing(FRAMES)


FILE_SIZE_LIMIT = """
import resource, signal, sys
from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.store import pack, packed_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
packed_store.BATCH_BYTES = 4000
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
try:
    pack.pack([sys.argv[1]], sys.argv[2], sys.argv[3])
except UserError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files as a full disk would")
def test_a_full_disk_leaves_no_store_and_is_gone_on_from(data):
    arguments = [str(data / "json/Made.json"), str(data / "X_lmdb"), str(data / "rgb")]
    code = [sys.executable, "-c", FILE_SIZE_LIMIT, *arguments]
    result = subprocess.run(code, capture_output=True, text=True, check=True)
    assert "cannot be written" in result.stdout
    assert f"goes on from {data / '.X_lmdb.partial'}" in result.stdout
    assert not (data / "X_lmdb").exists()
    summary = packed(data)
    assert 0 < summary.added < 40
    packed_store.verify(data / "X_lmdb", FRAMES)


# --- what is refused -------------------------------------------------------------------------------------------


def test_a_half_made_store_is_taken_up_only_by_the_request_that_began_it(data, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(packed_store.PackedWriter, "put", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        packed(data, manifest="Part")
    with pytest.raises(UserError, match=r"incomplete store of another request, .*Part\.json"):
        packed(data)
    with pytest.raises(UserError, match="expected frames as native, got png"):
        packed(data, manifest="Part", codec="native")
    assert packed(data, manifest="Part").added == 22


def test_a_store_of_another_codec_or_make_is_not_added_to(data):
    packed(data, codec="native")
    assert packed(data).statement["codec"] == "native"
    with pytest.raises(UserError, match="expected frames as png, got native"):
        packed(data, codec="png")
    with LmdbWriter(data / "theirs_lmdb") as writer:
        writer.put(FRAMES[0], b"data")
    with pytest.raises(UserError, match="did not make it"):
        packed(data, "theirs_lmdb")
    assert (data / "theirs_lmdb" / "data.mdb").exists()


def test_a_second_process_at_the_same_store_is_refused(data):
    with packed_store.PackedWriter(data / "X_lmdb", "png", {}, "t") as first:
        with (
            pytest.raises(UserError, match="another process is packing it"),
            packed_store.PackedWriter(data / "X_lmdb", "png", {}, "t"),
        ):
            pass
        assert first.absent(["D/a.png"]) == ["D/a.png"]


def test_missing_and_unreadable_frames_are_named_and_can_be_left_out(data):
    (data / "rgb" / FRAMES[3]).unlink()
    cut = data / "rgb" / FRAMES[5]
    cut.write_bytes(cut.read_bytes()[:-30])
    with pytest.raises(UserError, match=rf"lacks 1 of the 17 frames(.|\n)*{FRAMES[3]}(.|\n)*--skip-bad"):
        packed(data)
    summary = packed(data, skip_bad=True)
    assert [FRAMES[3] in summary.left_out[0], FRAMES[5] in summary.left_out[1]] == [True, True]
    assert summary.statement["sources"][0]["left_out"] == 2
    assert open_store(data / "X_lmdb").missing(FRAMES) == [FRAMES[3], FRAMES[5]]
    put(data / "rgb" / FRAMES[3], encode(picture(3)))
    with pytest.raises(UserError, match=rf"{FRAMES[5]}: PNG of .* bytes is cut short.*--skip-bad"):
        packed(data, "Y_lmdb")
    assert not (data / "Y_lmdb").exists()


def test_where_frames_are_looked_for_is_said(data):
    with pytest.raises(UserError, match="--frames"):
        pack.pack([data / "json/Made.json"], data / "X_lmdb", data / "json")
    os.rename(data / "rgb", data / "elsewhere")
    with pytest.raises(UserError, match="set --frames SRC to the folder or LMDB"):
        pack.pack([data / "json/Made.json"], data / "X_lmdb")


# --- verified --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", ["png", "native"])
def test_verification_names_every_planted_fault(data, codec):
    packed(data, codec=codec)
    assert packed_store.verify(data / "X_lmdb", FRAMES, jobs=2)["values"] == 40
    close_all()
    value = contents(data / "X_lmdb")
    keys = [key_of(path) for path in FRAMES]
    flipped = bytearray(value[keys[1]])
    flipped[-200] ^= 4
    landmarks = key_of(FRAMES[6].replace("frames", "landmarks").replace(".png", ".npy"))
    change(
        data / "X_lmdb",
        (keys[1], bytes(flipped)),
        (keys[2], value[keys[2]][:100]),
        (keys[3], value[keys[4]]),
        (keys[5], None),
        (landmarks, bytes(648)),
        (b"Made\\stray.png", b"data"),
    )
    with pytest.raises(UserError) as error:
        packed_store.verify(data / "X_lmdb", [*FRAMES, "Made/never.png"], jobs=2)
    lines = str(error.value).splitlines()
    assert "7 faults in 40 values" in lines[0]
    named = [keys[1], keys[2], keys[3], keys[5], landmarks, b"Made\\stray.png", b"Made/never.png"]
    for key in named:
        assert sum(line.strip().startswith(f"{key.decode()}:") for line in lines) == 1, key


def test_verification_decodes_what_deepfakebench_made_too(data):
    with LmdbWriter(data / "X_lmdb") as writer:
        writer.put(FRAMES[0], encode(picture(0)))
        broken = bytearray(encode(picture(1)))
        broken[60] ^= 0xFF
        writer.put(FRAMES[1], bytes(broken))
    with pytest.raises(UserError) as error:
        packed_store.verify(data / "X_lmdb")
    assert "1 faults in 2 values" in str(error.value)
    assert key_of(FRAMES[1]).decode() in str(error.value)


def test_a_packed_store_cut_by_a_single_page_is_named_when_opened(data):
    packed(data)
    size = (data / "X_lmdb/data.mdb").stat().st_size
    close_all()
    os.truncate(data / "X_lmdb/data.mdb", size - 4096)
    with pytest.raises(UserError, match="cut short, 4096 bytes are missing"):
        open_store(data / "X_lmdb").read(FRAMES[0])


def test_zeroed_pages_of_values_and_of_the_index_are_named_by_key(data):
    for i, path in enumerate(FRAMES[:5]):  # values longer than a page
        put(data / "rgb" / path, encode(np.kron(picture(i), np.ones((4, 4, 1), np.uint8))))
    packed(data, codec="native")
    close_all()
    file = data / "X_lmdb" / "data.mdb"
    whole = file.read_bytes()
    pages = [whole[start : start + 4096] for start in range(0, len(whole), 4096)]
    used = {2: 0, 4: 0}  # leaves of the index, overflow pages of values; some are free, and no fault
    for at, page in enumerate(pages):
        mark = page[10]
        if at < 2 or mark not in used or page[:2] != struct.pack("<H", at):
            continue
        file.write_bytes(b"".join([*pages[:at], bytes(4096), *pages[at + 1 :]]))
        try:
            packed_store.verify(data / "X_lmdb")
        except UserError as error:
            named = "Made\\UADFV_" in str(error)
            used[mark] += named
            assert named or f"page {at} " in str(error)  # one leaf has the store's own two keys alone
            assert mark == 4 or f"page {at} holds zeros" in str(error)
        close_all()
    assert used[2] >= 2 and used[4] >= 3


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("[1, 2]", "expected an object, got list"),
        ('"text"', "expected an object, got str"),
        ("null", "expected an object, got NoneType"),
        ("[" * 200_000, "damaged"),
        ('{"format": 1}', "'complete': expected bool, got NoneType"),
        ('{"format": 1, "complete": true, "codec": "png", "sources": [7], "values": 1, "content": "a"}', "'sources'"),
        ('{"format": 1, "complete": true, "codec": "png", "sources": [], "values": "1", "content": "a"}', "'values'"),
        ('{"format": 1, "complete": false, "codec": "png", "sources": []}', "'packing'"),
    ],
)
def test_a_damaged_statement_or_seal_is_a_users_error(data, statement, message):
    packed(data)
    change(data / "X_lmdb", (STATEMENT_KEY, statement.encode()))
    (data / "X_lmdb" / SEAL).unlink()
    for read in (
        open_store(data / "X_lmdb").missing,
        lambda _: packed_store.verify(data / "X_lmdb"),
        lambda _: packed(data),
    ):
        with pytest.raises(UserError, match=message) as error:
            read(FRAMES)
        assert len(str(error.value)) < 500
    (data / "X_lmdb" / SEAL).write_text(statement)
    with pytest.raises(UserError, match=r"packed\.json: damaged"):
        open_store(data / "X_lmdb").missing(FRAMES)


NO_PICTURES = {
    "a page": b"<!DOCTYPE html><html><body>404</body></html>",
    "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "a script": b"#!/bin/sh\necho hello\n",
    "one byte": b"\x89",
}
CUT = (".webp", ".bmp", ".tiff", ".png", ".jpg")


def test_what_is_no_whole_picture_is_neither_packed_nor_verified(data):
    image = np.kron(picture(0), np.ones((8, 8, 1), np.uint8))
    wrong = dict(NO_PICTURES)
    for suffix in CUT:
        whole = cv2.imencode(suffix, image)[1].tobytes()
        wrong[f"cut {suffix}"] = whole[: len(whole) * 3 // 4]
    png = bytearray(encode(image))
    png[-20] ^= 1
    wrong["a flipped bit in a PNG's end"] = bytes(png)
    jpeg = bytearray(cv2.imencode(".jpg", image)[1].tobytes())
    jpeg[-300:-200] = bytes(100)
    wrong["a JPEG with zeros in its scan"] = bytes(jpeg)
    with LmdbWriter(data / "theirs_lmdb") as writer:
        for name, value in wrong.items():
            writer.put(f"Made/frames/{name}.png", value)
            writer.put(f"Made/masks/{name}.png", value)
    with pytest.raises(UserError, match=f"{2 * len(wrong)} faults in {2 * len(wrong)} values"):
        packed_store.verify(data / "theirs_lmdb")
    for name, value in wrong.items():
        put(data / "rgb" / FRAMES[3], value)
        summary = packed(data, f"{name}_lmdb", skip_bad=True)
        assert len(summary.left_out) == 1 and FRAMES[3] in summary.left_out[0], name
        close_all()


def test_a_store_of_another_format_is_refused_with_the_tool_that_made_it(data):
    statement = packed(data).statement
    change(data / "X_lmdb", (STATEMENT_KEY, json.dumps(statement | {"format": 99, "tool": "resproto-fd 9"}).encode()))
    with pytest.raises(UserError, match=r"packed in format 99 by resproto-fd 9; this version reads format 1"):
        open_store(data / "X_lmdb").missing(FRAMES)


def native(image=None):
    return bytearray(encode_native(picture(0) if image is None else image))


def test_a_native_value_that_is_not_whole_is_refused_with_the_reason(tmp_path):
    whole = native()
    turned = native()
    turned[6:10] = turned[8:10] + turned[6:8]  # height and width exchanged: the same number of pixels
    faulty = {
        "cut short": (whole[:-1], "native frame of 975 bytes; 16 x 20 pixels need 976"),
        "too long": (whole + b"\0", "977 bytes"),
        "header alone": (whole[:9], "the header alone has 16"),
        "pixel": (whole[:500] + bytes([whole[500] ^ 1]) + whole[501:], "CRC-32 of its pixels"),
        "turned": (turned, "CRC-32 of its pixels"),
        "newer": (whole[:4] + b"\2" + whole[5:], "native format 2"),
    }
    with LmdbWriter(tmp_path / "X_lmdb") as writer:
        for name, (value, _) in faulty.items():
            writer.put(f"X/{name}", bytes(value))
        writer.put("X/whole", bytes(whole))
    store = open_store(tmp_path / "X_lmdb")
    for name, (_, message) in faulty.items():
        with pytest.raises(UnreadableFrame, match=message) as error:
            store.read(f"X/{name}")
        assert f"X/{name}" in str(error.value)
        (given,) = store.read_each([f"X/{name}"])
        assert isinstance(given, UnreadableFrame)
    np.testing.assert_array_equal(store.read("X/whole"), picture(0))


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_only_rgb_pictures_become_native(image):
    with pytest.raises(ValueError, match="expected uint8"):
        encode_native(image)


# --- the command -----------------------------------------------------------------------------------------------


def command(*words):
    parser = argparse.ArgumentParser()
    pack.add_arguments(parser)
    return pack.run(parser.parse_args([*map(str, words), "--no-progress"]))


def test_the_command_packs_verifies_and_finds_frames_beside_the_manifests(data, capsys):
    os.rename(data / "json", data / "dataset_json")
    assert command(data / "dataset_json/Made.json", "--out", data / "X_lmdb", "--codec", "native", "--verify") == 0
    said = capsys.readouterr().out
    content = json.loads((data / "X_lmdb" / SEAL).read_text())["content"]
    assert "40 values (native)" in said
    assert said.count(content) == 2
    assert command("--out", data / "X_lmdb", "--verify") == 0
    assert "40 values read, no fault" in capsys.readouterr().out
    for words, message in (
        (["--out", "X"], "expected a MANIFEST"),
        (["--out", data / "none", "--verify"], "no such store"),
        ([data / "dataset_json/Made.json", "--out", data / "Y", "--jobs", 0], "expected 1 or more"),
    ):
        with pytest.raises(UserError, match=message):
            command(*words)


def test_the_commands_module_is_light():
    code = "import sys, resproto_fd.preprocessing.store.pack\nsys.exit(bool({'cv2','lmdb','numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent).returncode == 0
