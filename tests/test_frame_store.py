"""Frames by canonical path: LMDBs with three kinds of keys, files, other processes, and what is refused."""

import io
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import cv2
import lmdb
import numpy as np
import pytest

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.loading import load
from resproto_fd.preprocessing.manifest import read_manifest
from resproto_fd.preprocessing.store import packed_store
from resproto_fd.preprocessing.store.frame_store import FileStore, LmdbStore, MissingFrame, open_store
from resproto_fd.preprocessing.store.image_codec import UnreadableFrame, decode_frame
from resproto_fd.preprocessing.store.lmdb_files import close_all
from resproto_fd.preprocessing.store.lmdb_pages import LmdbPages
from resproto_fd.preprocessing.store.lmdb_writer import LmdbWriter

FOLDER = "FaceForensics++"
PATHS = [
    f"{FOLDER}/original_sequences/youtube/c23/frames/{video}/{i:03d}.png" for video in ("000", "003") for i in (0, 9)
]

KEYS = {
    "Windows": lambda path: path.replace("/", "\\"),
    "Linux": lambda path: path.replace("/", "\\", 1),
    "slashes": lambda path: path,
}
STORES = [*KEYS, "files", "the data set folder"]


def picture(seed, height=20, width=24):
    """A colour picture, RGB, with three unequal channels."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(image, suffix=".png"):
    """Bytes of a file; colour pictures are RGB as everywhere here."""
    return cv2.imencode(suffix, image[..., ::-1] if image.ndim == 3 else image)[1].tobytes()


FRAMES = {path: encode(picture(i)) for i, path in enumerate(PATHS)}


def write_lmdb(folder, items):
    """A plain LMDB, not written by our writer; closed again, since a process may have it open once only."""
    folder.mkdir(parents=True)
    with (
        lmdb.open(str(folder), map_size=1 << 24, lock=False) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key, data in items:
            transaction.put(key.encode(), data)
    return folder


def write_files(root, items):
    for path, data in items:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return root


def make_store(kind, folder, frames=FRAMES):
    if kind in KEYS:
        return open_store(write_lmdb(folder / "X_lmdb", [(KEYS[kind](path), data) for path, data in frames.items()]))
    root = write_files(folder / "rgb", frames.items())
    return open_store(root if kind == "files" else root / FOLDER)


def read_all(store, paths=PATHS):
    return [store.read(path) for path in paths]


def checksum(store, path):
    """For other processes: what they read."""
    return int(store.read(path).astype(np.int64).sum())


@pytest.fixture(autouse=True)
def _close():
    yield
    close_all()


@pytest.mark.parametrize("kind", STORES)
def test_every_kind_of_store_gives_the_pixels_in_rgb(tmp_path, kind):
    store = make_store(kind, tmp_path)
    for i, image in enumerate(read_all(store)):
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, picture(i))
    assert store.read_bytes(PATHS[0]) == FRAMES[PATHS[0]]


@pytest.mark.parametrize("kind", STORES)
def test_missing_frames_are_listed_in_the_order_asked(tmp_path, kind):
    store = make_store(kind, tmp_path)
    absent = [f"{FOLDER}/z/frames/1.png", f"{FOLDER}/a/frames/1.png", PATHS[0] + ".png", PATHS[0].rpartition("/")[0]]
    asked = [absent[0], PATHS[1], absent[1], PATHS[0], *absent[2:], absent[0]]
    assert store.missing(asked) == [path for path in asked if path in absent]
    assert PATHS[0] in store
    assert absent[0] not in store
    with pytest.raises(MissingFrame) as error:
        store.read(absent[0])
    assert str(store.path) in str(error.value)
    assert absent[0] in str(error.value)


def test_one_store_may_hold_keys_of_all_three_kinds(tmp_path):
    keys = list(KEYS.values())
    items = [(keys[i % 3](path), data) for i, (path, data) in enumerate(FRAMES.items())]
    store = open_store(write_lmdb(tmp_path / "X_lmdb", items))
    for path in [*PATHS, *reversed(PATHS)]:
        assert store.read_bytes(path) == FRAMES[path]


def test_a_store_that_is_not_there_is_named_with_the_nearest(tmp_path):
    (tmp_path / "FaceForensics++_lmdb").mkdir()
    with pytest.raises(UserError, match=r"no such frame store; the nearest is 'FaceForensics\+\+_lmdb'"):
        open_store(tmp_path / "FaceForensics_lmdb")
    with pytest.raises(UserError, match="no such frame store"):
        open_store(tmp_path / "no" / "such")


@pytest.mark.parametrize("kind", ["Windows", "files"])
def test_a_pickled_store_reads(tmp_path, kind):
    store = make_store(kind, tmp_path)
    checksum(store, PATHS[0])
    assert checksum(pickle.loads(pickle.dumps(store)), PATHS[0]) == checksum(store, PATHS[0])


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("Linux", "fork"),
        pytest.param("Linux", "spawn", marks=pytest.mark.slow),
        ("files", "fork"),
        pytest.param("files", "spawn", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_other_processes_read_a_store_this_one_has_open(tmp_path, kind, method):
    store = make_store(kind, tmp_path)
    expected = [checksum(store, path) for path in PATHS]
    with ProcessPoolExecutor(2, multiprocessing.get_context(method)) as pool:
        read = list(pool.map(checksum, [store] * 8, PATHS * 2))
        with pytest.raises(MissingFrame, match="no/such"):
            pool.submit(checksum, store, f"{FOLDER}/no/such.png").result()
    assert read == expected * 2
    assert [checksum(store, path) for path in PATHS] == expected


def count_entries(folder):
    """For other processes: opens the LMDB past our stores, which lmdb refuses while an inherited one is open."""
    with lmdb.open(folder, readonly=True, lock=False) as environment:
        return environment.stat()["entries"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_lets_go_of_what_it_inherits(tmp_path):
    store = make_store("Windows", tmp_path)
    store.read(PATHS[0])
    with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as pool:
        assert pool.submit(count_entries, str(store.path)).result() == len(PATHS)
    store.read(PATHS[0])


def test_threads_share_a_store(tmp_path):
    store = make_store("Linux", tmp_path)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda path: checksum(store, path), PATHS * 25))
    assert read == [checksum(store, path) for path in PATHS] * 25


def test_stores_of_one_folder_share_its_environment_whatever_its_name(tmp_path):
    first = make_store("Windows", tmp_path)
    (tmp_path / "link").symlink_to(first.path)
    stores = [first, open_store(first.path), open_store(tmp_path / "link"), open_store(first.path / "data.mdb")]
    for path in PATHS:
        assert {store.read_bytes(path) for store in stores} == {FRAMES[path]}


def test_a_closed_store_opens_again(tmp_path):
    store = make_store("Windows", tmp_path)
    store.read(PATHS[0])
    close_all()
    with lmdb.open(str(store.path), readonly=True, lock=False) as environment:  # refused were it open still
        assert environment.stat()["entries"] == len(PATHS)
    store.read(PATHS[0])


def test_a_store_made_anew_in_the_same_place_is_read_anew(tmp_path):
    with LmdbWriter(tmp_path / "X_lmdb") as writer:
        writer.put(PATHS[0], encode(picture(0)))
    old = open_store(tmp_path / "X_lmdb")
    old.read(PATHS[0])
    with LmdbWriter(tmp_path / "X_lmdb", replace=True) as writer:
        writer.put(PATHS[0], encode(picture(5)))
    np.testing.assert_array_equal(old.read(PATHS[0]), picture(5))
    np.testing.assert_array_equal(open_store(tmp_path / "X_lmdb").read(PATHS[0]), picture(5))
    assert [path.name for path in tmp_path.iterdir()] == ["X_lmdb"]


def test_a_store_another_process_replaced_is_read_anew_when_opened(tmp_path):
    store = make_store("Windows", tmp_path)
    store.read(PATHS[0])
    write_lmdb(tmp_path / "other", [(KEYS["Windows"](PATHS[0]), encode(picture(5)))])
    os.rename(tmp_path / "other" / "data.mdb", store.path / "data.mdb")
    np.testing.assert_array_equal(open_store(store.path).read(PATHS[0]), picture(5))


WHOLE = {".png": encode(picture(0, 64, 64)), ".jpg": encode(picture(0, 64, 64), ".jpg")}


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("suffix", WHOLE)
def test_a_cut_image_is_refused_not_returned_partly_grey(suffix, share):
    data = WHOLE[suffix]
    cut = int(len(data) * share)
    for bad in (data[:cut], data[:cut] + bytes(len(data) - cut)):
        with pytest.raises(UnreadableFrame, match="store: key"):
            decode_frame(bad, "store: key")


def test_a_jpeg_with_a_thumbnail_is_seen_to_be_cut():
    data, thumbnail = WHOLE[".jpg"], encode(picture(1, 8, 8), ".jpg")
    block = b"Exif\0\0" + thumbnail
    with_thumbnail = data[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + data[2:]
    assert decode_frame(with_thumbnail, "").shape == (64, 64, 3)
    with pytest.raises(UnreadableFrame, match="cut short"):
        decode_frame(with_thumbnail[:-40], "")


def test_bytes_after_the_end_of_an_image_do_no_harm():
    for suffix, data in WHOLE.items():
        np.testing.assert_array_equal(decode_frame(data + b"\0tail", suffix), decode_frame(data, suffix))


def deep(image):
    return cv2.imencode(".png", image.astype(np.uint16) * 257)[1].tobytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no bytes"),
        (b"GIF, or so it says", "not a whole image"),
        (WHOLE[".png"][:8] + WHOLE[".png"][-12:], "colour type"),
        (bytes(1000), "not a whole image"),
        (encode(picture(0)[..., 0]), r"expected a PNG of 8-bit RGB.*got .*\[8, 0\]"),
        (encode(picture(0)[..., 0], ".jpg"), r"expected an image \[H, W, 3\], got \[20, 24\]"),
        (
            cv2.imencode(".png", np.dstack([picture(0), picture(1)[..., 0]]))[1].tobytes(),
            r"expected a PNG of 8-bit RGB.*got .*\[8, 6\]",
        ),
        (deep(picture(0)), r"expected a PNG of 8-bit RGB.*got .*\[16, 2\]"),
        (WHOLE[".png"][:60] + b"\xff" + WHOLE[".png"][61:], "store: key"),
    ],
)
def test_what_is_no_rgb_image_is_refused_with_the_reason(data, message):
    with pytest.raises(UnreadableFrame, match=message) as error:
        decode_frame(data, "store: key")
    assert "store: key" in str(error.value)


@pytest.mark.parametrize("kind", ["Linux", "files"])
def test_an_unreadable_frame_names_store_and_path(tmp_path, kind):
    store = make_store(kind, tmp_path, {PATHS[0]: FRAMES[PATHS[0]][:-20]})
    assert store.missing([PATHS[0]]) == []
    with pytest.raises(UnreadableFrame) as error:
        store.read(PATHS[0])
    assert str(store.path) in str(error.value)
    assert PATHS[0] in str(error.value)
    assert isinstance(pickle.loads(pickle.dumps(error.value)), UnreadableFrame)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes of POSIX")
def test_a_pipe_in_the_place_of_a_frame_is_refused_and_not_waited_for(tmp_path):
    (tmp_path / "X").mkdir()
    os.mkfifo(tmp_path / "X/000.png")
    with pytest.raises(UnreadableFrame, match=r"X/000\.png: expected a file, got a pipe"):
        FileStore(tmp_path).read("X/000.png")


def test_a_file_that_is_no_lmdb_is_named(tmp_path):
    (tmp_path / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(UserError, match="not a readable LMDB"):
        open_store(tmp_path).missing(PATHS)


def test_a_store_cut_short_is_named_before_a_page_beyond_its_end_kills_the_process(tmp_path):
    with LmdbWriter(tmp_path / "X_lmdb") as writer:
        for path in PATHS:
            writer.put(path, os.urandom(1 << 20))
    os.truncate(tmp_path / "X_lmdb" / "data.mdb", 1 << 20)
    with pytest.raises(UserError, match="cut short"):
        open_store(tmp_path / "X_lmdb").missing(PATHS)


def in_child(work):
    """Exit status of work in a process of its own: 0, or a signal that killed it."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("missing", [1, 4096, 5 * 4096 + 7, 900_000])
def test_a_store_cut_by_less_than_a_mebibyte_is_refused_and_kills_no_process(tmp_path, missing):
    with LmdbWriter(tmp_path / "X_lmdb") as writer:
        for i in range(40):
            writer.put(f"X/frames/a/{i:03d}.png", os.urandom(50_000))
    data = tmp_path / "X_lmdb" / "data.mdb"
    os.truncate(data, data.stat().st_size - missing)

    def read():
        with pytest.raises(UserError, match=f"data.mdb is cut short, {missing} bytes are missing"):
            open_store(tmp_path / "X_lmdb").missing(["X/frames/a/039.png"])
        with pytest.raises(UserError, match="cut short"):
            packed_store.verify(tmp_path / "X_lmdb")
        os._exit(7)

    assert in_child(read) == 7


def test_a_store_cut_to_a_small_part_of_a_huge_one_is_refused_without_a_list_of_its_pages(tmp_path):
    with LmdbWriter(tmp_path / "X_lmdb") as writer:
        writer.put("X/frames/a/000.png", os.urandom(50_000))
    last = 10**12
    with open(tmp_path / "X_lmdb" / "data.mdb", "r+b") as file:
        for page in (0, 4096):
            file.seek(page + 136)
            file.write(last.to_bytes(8, "little"))
        missing = (last + 1) * 4096 - file.seek(0, os.SEEK_END)
    with pytest.raises(UserError, match=f"data.mdb is cut short, {missing} bytes are missing"):
        open_store(tmp_path / "X_lmdb").missing(["X/frames/a/000.png"])


def store_of_several_pages(folder):
    """A store whose index has a root with children; the path of its data."""
    with LmdbWriter(folder) as writer:
        for i in range(400):
            writer.put(f"X/frames/{'a' * 200}/{i:03d}.png", b"x")
    return folder / "data.mdb"


def test_an_index_that_leads_back_to_itself_is_a_fault_and_no_endless_walk(tmp_path):
    data = store_of_several_pages(tmp_path / "X_lmdb")
    with LmdbPages(data) as pages:
        root = pages._main
        assert not pages.index_faults().pages
    with open(data, "r+b") as file:
        file.seek(root * 4096 + 16)
        node = int.from_bytes(file.read(2), "little")  # the first child
        file.seek(root * 4096 + node)
        file.write(root.to_bytes(4, "little"))
    with pytest.raises(UserError, match=f"page {root} lies within itself"):
        packed_store.verify(tmp_path / "X_lmdb")


def test_an_index_with_a_page_number_beyond_any_file_is_a_fault(tmp_path):
    """Both the number of pages and a child's number are forged: their product is no place in a file."""
    data = store_of_several_pages(tmp_path / "X_lmdb")
    with LmdbPages(data) as pages:
        root = pages._main
    with open(data, "r+b") as file:
        for page in (0, 4096):
            file.seek(page + 136)
            file.write((2**64 - 2).to_bytes(8, "little"))
        file.seek(root * 4096 + 16)
        node = int.from_bytes(file.read(2), "little")
        file.seek(root * 4096 + node)
        file.write(b"\xff" * 6)
    with LmdbPages(data) as pages:
        assert pages.missing_bytes() > 0
        assert pages.index_faults().pages == [f"page {2**48 - 1} is missing"]


def test_an_index_in_which_many_pages_lead_to_one_is_walked_once(tmp_path):
    data = store_of_several_pages(tmp_path / "X_lmdb")
    with LmdbPages(data) as pages:
        root, found = pages._main, len(pages.index_faults().keys[b""])
    with open(data, "r+b") as file:
        file.seek(root * 4096 + 16)
        nodes = [int.from_bytes(file.read(2), "little") for _ in range(2)]
        file.seek(root * 4096 + nodes[0])
        child = file.read(4)
        file.seek(root * 4096 + nodes[1])
        file.write(child)
    with LmdbPages(data) as pages:
        faults = pages.index_faults()
    assert faults.pages == [f"page {int.from_bytes(child, 'little')} lies in two places"]
    assert len(faults.keys[b""]) < found


def test_a_store_whose_last_pages_were_freed_before_they_were_written_is_whole(tmp_path):
    folder = write_lmdb(tmp_path / "X_lmdb", [(KEYS["Linux"](path), data) for path, data in FRAMES.items()])
    with lmdb.open(str(folder), map_size=1 << 26, lock=False) as environment:
        for i in range(3):  # leaves free pages, which the list of free pages can use
            with environment.begin(write=True) as transaction:
                transaction.put(b"z%d" % i, bytes(100))
        with environment.begin(write=True) as transaction:
            for i in range(60):
                transaction.put(b"y%d" % i, bytes(30_000))
            for i in reversed(range(60)):
                transaction.delete(b"y%d" % i)
            for i in range(3):
                transaction.delete(b"z%d" % i)
        wanted = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    assert (folder / "data.mdb").stat().st_size < wanted - 100_000
    assert [image.shape for image in read_all(open_store(folder))] == [(20, 24, 3)] * len(PATHS)
    assert packed_store.verify(folder)["values"] == len(PATHS)


POINTS = np.arange(162).reshape(81, 2) * 3


@pytest.mark.parametrize("kind", ["int64", "int32"])
def test_landmarks_are_read_from_bare_numbers_of_either_size_and_from_npy(tmp_path, kind):
    path = PATHS[0].replace("frames", "landmarks").replace(".png", ".npy")
    bare = make_store("Linux", tmp_path, {path: POINTS.astype(kind).tobytes()})
    np.save(tmp_path / "points.npy", POINTS.astype(kind))
    files = make_store("files", tmp_path, {path: (tmp_path / "points.npy").read_bytes()})
    for store in (bare, files):
        points = store.read_landmarks(PATHS[0])
        assert points.dtype == np.float32
        np.testing.assert_array_equal(points, POINTS)


def npy(array, **options):

    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(100), "expected 648 or 1296 bytes .*got 100"),
        (npy(POINTS)[:-9], "'landmarks': its data are not as long as its shape"),
        (npy(POINTS).replace(b"(81, 2)", b"(9**9,)", 1), "cannot be read .ValueError"),
        (npy(POINTS).replace(b"(81, 2), }", b"(81, 10**9", 1), "cannot be read .TokenError"),
        (npy(POINTS).replace(b"(81, 2), }    ", b"(81, 200000000000)}", 1)[:-5], "not as long as its shape"),
        (npy(POINTS.T), r"expected numbers \[K, 2\], got int64 \[2, 81\]"),
        (npy(np.array([{}], dtype=object), allow_pickle=True), "holds pickled objects"),
    ],
)
def test_landmarks_of_another_form_are_refused(tmp_path, data, message):
    path = PATHS[0].replace("frames", "landmarks").replace(".png", ".npy")
    store = make_store("files", tmp_path, {path: data})
    with pytest.raises(UnreadableFrame, match=message):
        store.read_landmarks(PATHS[0])


def test_masks_are_one_channel_and_absent_ones_are_missing(tmp_path):
    mask = np.zeros((20, 24, 3), np.uint8)
    mask[5:9] = 255
    store = make_store("Linux", tmp_path, {PATHS[0].replace("frames", "masks"): encode(mask)})
    np.testing.assert_array_equal(store.read_mask(PATHS[0]), mask[..., 0])
    with pytest.raises(MissingFrame, match="masks"):
        store.read_mask(PATHS[1])
    with pytest.raises(MissingFrame, match="landmarks"):
        store.read_landmarks(PATHS[0])


def test_the_writers_keys_are_the_paths_of_released_jsons_and_its_values_the_files(tmp_path):
    with LmdbWriter(tmp_path / "lmdb" / "X_lmdb") as writer:
        for path, data in FRAMES.items():
            writer.put(path, data)
    assert writer.count == len(FRAMES)
    with lmdb.open(str(writer.path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        stored = {bytes(key).decode(): bytes(data) for key, data in transaction.cursor()}
    assert stored == {path.replace("/", "\\"): data for path, data in FRAMES.items()}


def test_the_writers_map_grows_with_what_is_put_in(tmp_path):
    with LmdbWriter(tmp_path / "X_lmdb", map_size=1 << 16, batch_bytes=100_000) as writer:
        for i in range(100):
            writer.put(f"X/frames/0/{i}.png", bytes([i]) * 20_000)
    store = open_store(tmp_path / "X_lmdb")
    assert all(store.read_bytes(f"X/frames/0/{i}.png") == bytes([i]) * 20_000 for i in range(100))


def test_after_an_error_the_writer_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), LmdbWriter(tmp_path / "X_lmdb", batch_bytes=1) as writer:
        writer.put("X/0.png", b"data")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_failed_replacement_leaves_the_old_store(tmp_path):
    with LmdbWriter(tmp_path / "X_lmdb") as writer:
        writer.put("X/0.png", b"old")
    with pytest.raises(UserError), LmdbWriter(tmp_path / "X_lmdb", replace=True) as writer:
        writer.put("X/0.png", b"")
    assert open_store(tmp_path / "X_lmdb").read_bytes("X/0.png") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["X_lmdb"]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([("X/0.png", b"")], "X/0.png: no bytes"),
        ([("X/" + "0" * 600, b"data")], "a key has 511 at most"),
        ([("X/0.png", b"one"), ("X/0.png", b"two")], r"X\\0.png is put twice"),
    ],
)
def test_the_writer_refuses_what_it_cannot_keep(tmp_path, items, message):
    with pytest.raises(UserError, match=message), LmdbWriter(tmp_path / "X_lmdb") as writer:
        for path, data in items:
            writer.put(path, data)
    assert list(tmp_path.iterdir()) == []


def test_the_same_bytes_may_be_put_twice(tmp_path):
    with LmdbWriter(tmp_path / "X_lmdb") as writer:
        for _ in range(2):
            writer.put("X/0.png", b"data")
    assert open_store(tmp_path / "X_lmdb").read_bytes("X/0.png") == b"data"


def test_a_store_in_the_way_is_not_overwritten(tmp_path):
    (tmp_path / "X_lmdb").mkdir()
    with pytest.raises(UserError, match="already exists"), LmdbWriter(tmp_path / "X_lmdb"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), LmdbWriter(tmp_path / "file" / "X_lmdb"):
        pass


FILE_SIZE_LIMIT = """
import resource, signal, sys
from resproto_fd.preprocessing.store.lmdb_writer import LmdbWriter, UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
try:
    with LmdbWriter(sys.argv[1], batch_bytes=50_000) as writer:
        for i in range(100):
            writer.put(f"X/{i}.png", bytes(20_000))
except UserError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the size of files as a full disk would")
def test_a_disk_that_takes_no_more_is_reported_and_leaves_no_half_store(tmp_path):
    code = [sys.executable, "-c", FILE_SIZE_LIMIT, str(tmp_path / "X_lmdb")]
    result = subprocess.run(code, capture_output=True, text=True, check=True)
    assert "cannot be written" in result.stdout
    assert list(tmp_path.iterdir()) == []


OTHER_SETS = [pytest.param(name, marks=pytest.mark.slow) for name in ("FaceForensics++", "FF-NT", "Celeb-DF-v2")]


@pytest.mark.parametrize("name", ["FF-DF", *OTHER_SETS])
@pytest.mark.parametrize(
    ("style", "place"),
    [
        ("dataset_json", "rgb"),
        ("dataset_json_released_style", "lmdb"),
        ("dataset_json", "lmdb_winkeys"),
        *(
            pytest.param("dataset_json_released_style", place, marks=pytest.mark.slow)
            for place in ("rgb", "lmdb_winkeys")
        ),
        pytest.param("dataset_json", "lmdb", marks=pytest.mark.slow),
    ],
)
def test_deepfakebenchs_own_data_reads_alike_whichever_json_goes_with_whichever_store(shared, name, style, place):
    fixture = shared / "fixtures/deepfakebench"
    config = load("datasets", name)
    store = open_store(fixture / "datasets" / place / ("" if place == "rgb" else config.store))
    assert isinstance(store, FileStore if place == "rgb" else LmdbStore)
    seen = 0
    for split in ("train", "val", "test"):
        manifest = read_manifest(
            fixture / style / f"{name}.json",
            name,
            split=split,
            key=config.key,
            compression=config.compression,
            folder=config.folder,
        )
        assert not manifest.empty
        assert not manifest.repeated
        assert store.missing(frame for video in manifest for frame in video.frames) == []
        for video in manifest:
            assert video.frame_numbers() == (0, 9, 18, 27)
            for frame in video.frames:
                file = fixture / "datasets/rgb" / frame
                np.testing.assert_array_equal(store.read(frame), cv2.imread(str(file))[..., ::-1])
                landmarks = np.load(str(file).replace("frames", "landmarks").replace(".png", ".npy"))
                np.testing.assert_array_equal(store.read_landmarks(frame), landmarks)
                if video.label_name.startswith("FF-") and video.label:
                    mask = cv2.imread(str(file).replace("frames", "masks"), cv2.IMREAD_GRAYSCALE)
                    np.testing.assert_array_equal(store.read_mask(frame), mask)
                seen += 1
    assert seen > 70


def test_a_folder_of_stores_is_not_taken_for_a_folder_of_frames(tmp_path):
    for name in ("A_lmdb", "B_lmdb"):
        with LmdbWriter(tmp_path / name) as writer:
            writer.put("A/frames/v/000.png", b"x")
    with pytest.raises(UserError, match=r"got a folder of stores .A_lmdb, B_lmdb.; set one"):
        open_store(tmp_path)
