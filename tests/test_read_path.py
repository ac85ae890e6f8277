"""From store to batch: every sample in its place, whatever the order of reading, the workers and the memory used."""

import importlib
import json
import multiprocessing
import os
import pickle
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from made import made_videos

from resproto_fd.configs.schema import InputConfig
from resproto_fd.preprocessing.store.frame_store import LmdbStore, MissingFrame, open_store
from resproto_fd.preprocessing.store.image_codec import encode_native, encode_png
from resproto_fd.preprocessing.store.lmdb_files import close_all
from resproto_fd.preprocessing.store.lmdb_writer import LmdbWriter
from resproto_fd.trainer import batch_memory as memories
from resproto_fd.trainer.augment.device_transforms import Unaugmented
from resproto_fd.trainer.augment.transforms import plain_transform, train_transform
from resproto_fd.trainer.augment.views import Viewing
from resproto_fd.trainer.batch_memory import BLOCKS, BatchMemory, batch_memory
from resproto_fd.trainer.batches import EvaluationBatches, TrainBatches
from resproto_fd.trainer.data import FrameDataset, Normaliser
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.loader import make_loader

CPU = torch.device("cpu")
INPUT = InputConfig(size=12)
FRAMES = FrameList.of([*made_videos(5, 7), *made_videos(3, 4, dataset="Other")], None)
FORKS = pytest.mark.skipif(multiprocessing.get_all_start_methods()[0] != "fork", reason="workers are not forked here")


def picture(path, side=16):
    """A picture as a function of its path."""
    small = np.random.default_rng(list(path.encode())).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(small, (side, side), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(autouse=True)
def _close():
    yield
    close_all()


@pytest.fixture
def stores(tmp_path):
    return write_stores(tmp_path, encode_native)


def write_stores(folder, encode, paths=FRAMES.paths):
    for name in ("Made", "Other"):
        with LmdbWriter(folder / f"{name}_lmdb") as writer:
            for path in paths:
                if path.startswith(name):
                    writer.put(path, encode(picture(path)))
    return {name: open_store(folder / f"{name}_lmdb") for name in ("Made", "Other")}


def dataset(stores, augment="resproto_fd", on="host", **options):
    return FrameDataset(FRAMES, stores, train_transform(augment, INPUT, on), **options)


def expected(keys, augment="resproto_fd"):
    """The batch's images, made one by one without a store."""
    transform = train_transform(augment, INPUT)
    seeds = [int(np.random.SeedSequence((0, *key)).generate_state(1)[0]) for key in keys]
    made = [transform(picture(FRAMES.paths[index]), seed) for (_, index), seed in zip(keys, seeds, strict=True)]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2)


KEYS = [(3, index) for index in (30, 2, 40, 2, 0, 33, 17)]


@pytest.mark.parametrize("encode", [encode_native, encode_png])
def test_samples_stand_in_the_order_asked_whatever_the_order_of_reading(tmp_path, encode):
    batch = dataset(write_stores(tmp_path, encode)).__getitems__(KEYS)
    assert torch.equal(batch["image"], expected(KEYS))
    assert batch["index"].tolist() == [index for _, index in KEYS]
    assert batch["label"].tolist() == FRAMES.labels[batch["index"]].tolist()
    assert (batch["label"].dtype, batch["bad"]) == (torch.int64, [])
    assert batch["image"].is_contiguous()


def test_a_batch_reads_each_store_once_and_in_the_order_of_its_keys(stores, monkeypatch):
    asked, read_each = [], LmdbStore.read_each
    monkeypatch.setattr(LmdbStore, "read_each", lambda self, paths: asked.append(list(paths)) or read_each(self, paths))
    dataset(stores).__getitems__(KEYS)
    assert [len(paths) for paths in asked] == [5, 1]  # one is asked for twice
    assert asked == [sorted(paths) for paths in asked]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encode", "on"),
    [
        (encode_native, "host"),
        (encode_png, "device"),
        pytest.param(encode_native, "device", marks=pytest.mark.slow),
        pytest.param(encode_png, "host", marks=pytest.mark.slow),
    ],
)
def test_the_same_bytes_come_with_any_number_of_workers(tmp_path, encode, on):
    stores = write_stores(tmp_path, encode)
    batches = TrainBatches(len(FRAMES), 5, 1, 0, 1, seed=1)
    runs = []
    for workers in (0, 1, 2):
        loader = make_loader(dataset(stores, on=on), batches, workers, CPU)
        runs.append([batch["image"] for _ in range(2) for batch in loader])  # all kept: no memory may be used twice
    plain = Normaliser([0.5] * 3, [0.5] * 3, CPU, torch.float32, False)
    for a, b, c in zip(*runs, strict=True):
        assert torch.equal(plain(a), plain(b))
        assert torch.equal(plain(a), plain(c))
    keys = [key for _ in range(2) for batch in batches for key in batch]
    if on == "host":
        assert torch.equal(torch.cat(runs[2]), expected(keys))


def test_frames_that_cannot_be_read_are_reported_and_the_rest_is_in_order(tmp_path):
    gone = {FRAMES.paths[2], FRAMES.paths[40]}
    stores = write_stores(tmp_path, encode_native, [path for path in FRAMES.paths if path not in gone])
    batch = dataset(stores).__getitems__(KEYS)
    assert [frame.index for frame in batch["bad"]] == [2, 40, 2]
    assert all(FRAMES.paths[frame.index] in frame.message for frame in batch["bad"])
    readable = [key for key in KEYS if key[1] not in (2, 40)]
    assert batch["index"].tolist() == [index for _, index in readable]
    assert torch.equal(batch["image"], expected(readable))
    assert dataset(stores).__getitems__([(0, 2)]).keys() == {"bad"}
    replacing = dataset(stores, replace_bad=True).__getitems__(KEYS)
    following = [(epoch, {2: 3, 40: 41}.get(index, index)) for epoch, index in KEYS]
    assert torch.equal(replacing["image"], expected(following))
    assert [frame.index for frame in replacing["bad"]] == [2, 40, 2]


def test_frames_read_in_a_row_are_those_read_one_by_one_and_errors_come_in_their_place(stores):
    store, paths = stores["Made"], [FRAMES.paths[3], "Made/no/such.png", FRAMES.paths[1]]
    first, error, second = (image if isinstance(image, Exception) else image.copy() for image in store.read_each(paths))
    np.testing.assert_array_equal(first, store.read(paths[0]))
    np.testing.assert_array_equal(second, store.read(paths[2]))
    assert isinstance(error, MissingFrame)


class Uneven(LmdbStore):
    """Pictures whose size depends on their path."""

    def read_each(self, paths):
        return iter([picture(path, 12 + len(path) % 3 + int(path[-5])) for path in paths])


def test_stored_frames_of_several_sizes_go_to_the_device_together(stores):
    uneven = {name: Uneven(store.path) for name, store in stores.items()}
    on_device = dataset(uneven, on="device")
    batch = on_device.__getitems__(KEYS)["image"]
    assert len({tuple(view[-2:].tolist()) for view in batch.views}) > 2
    host = dataset(uneven).__getitems__(KEYS)["image"]
    assert (batch.augmented().int() - host.int()).abs().max() <= 2


def test_what_is_sent_to_workers_can_be_pickled(stores):
    for on in ("host", "device"):
        loader = make_loader(dataset(stores, on=on), EvaluationBatches(len(FRAMES), 5, 0, 1), 0, CPU)
        for part in (loader.dataset.transform, loader.dataset.stores, loader.collate_fn, loader.worker_init_fn):
            pickle.loads(pickle.dumps(part))


# --- workers ---------------------------------------------------------------------------------------------------


class Threads(Viewing):
    """A transform whose picture says how many threads OpenCV, torch and BLAS use."""

    def __call__(self, image, seed=0):
        from threadpoolctl import threadpool_info

        blas = max((pool["num_threads"] for pool in threadpool_info()), default=1)
        return np.full((12, 12, 3), (cv2.getNumThreads(), torch.get_num_threads(), blas), np.uint8)


@pytest.mark.slow
@FORKS
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_workers_have_one_thread_even_after_opencv_used_more_before_the_fork(stores):
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        cv2.GaussianBlur(np.zeros((2000, 2000, 3), np.uint8), (7, 7), 2)  # brings OpenCV's pool to life
        data = FrameDataset(FRAMES, stores, Threads(INPUT))
        (batch, *_) = make_loader(data, EvaluationBatches(len(FRAMES), 5, 0, 1), 1, CPU)
        assert batch["image"][0, :, 0, 0].tolist() == [1, 1, 1]
    finally:
        cv2.setNumThreads(before)


@pytest.mark.slow
@FORKS
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_batches_of_workers_lie_in_memory_that_is_used_again_when_nothing_refers_to_it(stores, monkeypatch):
    made = []
    original = memories.batch_memory
    monkeypatch.setattr(
        "resproto_fd.trainer.loader.batch_memory", lambda *given: made.append(original(*given)) or made[-1]
    )
    batches = EvaluationBatches(len(FRAMES), 2, 0, 1)
    loader = make_loader(dataset(stores), batches, 2, CPU)
    for _ in range(3):
        for batch in loader:
            first, last = made[0]._blocks.ctypes.data, made[0]._blocks.ctypes.data + made[0]._blocks.size
            assert first <= batch["image"].data_ptr() < last
    del batch
    assert not made[0]._taken.any()
    view = next(iter(loader))["image"][1, 0]
    seen = view.clone()
    for _ in loader:
        pass
    assert torch.equal(view, seen)


@pytest.mark.slow
@FORKS
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_pass_that_is_given_up_halfway_does_not_disturb_the_next(stores):
    batches = EvaluationBatches(len(FRAMES), 3, 0, 1)
    loader = make_loader(dataset(stores), batches, 2, CPU)
    for stop in (1, 4):
        for _, _batch in zip(range(stop), loader, strict=False):
            pass
    images = torch.cat([batch["image"] for batch in loader])
    assert torch.equal(images, expected([(0, index) for index in range(len(FRAMES))]))


def test_a_block_is_free_only_when_the_last_view_of_it_is_gone():
    memory = BatchMemory(1, 100)
    tensor = memory.empty(0, (2, 30))
    tensor.fill_(7)
    received = pickle.loads(pickle.dumps(memory.send(tensor)))
    assert memory._taken.tolist() == [1, 0, 0, 0]
    assert received.data_ptr() == tensor.data_ptr()
    row = received[1]
    del received
    assert memory._taken[0]
    assert memory.empty(0, (2, 30)).data_ptr() != tensor.data_ptr()
    array = row.numpy()
    del row
    assert memory._taken[0]
    assert array.tolist() == [7] * 30
    del array
    assert not memory._taken.any()


def test_without_a_free_block_or_with_too_large_a_batch_memory_is_taken_as_usual():
    memory = BatchMemory(2, 4096)
    kept = []
    for _ in range(BLOCKS):
        kept.append(pickle.loads(pickle.dumps(memory.send(memory.empty(0, (10,))))))
    for tensor in (memory.empty(0, (10,)), memory.empty(1, (5000,))):
        assert memory.send(tensor) is tensor
    assert isinstance(memory.empty(1, (10,)), torch.Tensor)
    assert memory.send(memory.empty(1, (10,))) is not None
    assert memory._taken.sum() == BLOCKS + 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_that_drops_a_batch_does_not_free_its_block():
    memory = BatchMemory(1, 100)
    received = pickle.loads(pickle.dumps(memory.send(memory.empty(0, (10,)))))
    pid = os.fork()
    if pid == 0:
        del received
        os._exit(0)
    os.waitpid(pid, 0)
    assert memory._taken[0]
    del received
    assert not memory._taken[0]


def test_there_is_no_such_memory_where_workers_are_not_forked(monkeypatch):
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: "spawn")
    assert batch_memory(2, 100) is None
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda allow_none: "fork")
    assert batch_memory(2, 100) is not None
    assert batch_memory(0, 100) is None


# --- to the detector -------------------------------------------------------------------------------------------


def test_normalisation_augments_first_what_was_left_to_the_device(stores):
    plain = Normaliser([0.4, 0.5, 0.6], [0.2, 0.25, 0.3], CPU, torch.float64, False)
    staged = dataset(stores, "flip", on="device").__getitems__(KEYS)["image"]
    assert isinstance(staged, Unaugmented)
    assert (len(staged), staged.images.shape) == (7, (7, 3, 16, 16))
    host = expected(KEYS, "flip").double()
    wanted = (host / 255 - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.3]).view(3, 1, 1)
    assert (plain(staged) - wanted).abs().max() < 2.1 / 255 / 0.2
    torch.testing.assert_close(plain(expected(KEYS, "flip")), wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("side", [12, 16])
def test_a_frame_of_the_detectors_size_is_copied_and_another_resized(stores, side):
    given = InputConfig(size=side)
    data = FrameDataset(FRAMES, stores, plain_transform(given))
    image = data[(0, 4)]["image"].permute(1, 2, 0).numpy()
    stored = picture(FRAMES.paths[4])
    wanted = stored if side == 16 else cv2.resize(stored, (12, 12), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(image, wanted)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the processor time of other processes")
def test_the_benchmark_prints_a_table_and_last_a_line_of_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    arguments = ["--tiny", "--frames", "64", "--size", "32", "--workers", "0", "1", "--dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["read_path.py", *arguments])
    assert importlib.import_module("read_path").main() == 0
    lines = capsys.readouterr().out.splitlines()
    figures = json.loads(lines[-1])
    assert len(figures["results"]) == 2 * 6 * 2
    assert all(result["cpu_ms"] > 0 and result["images_per_second"] > 0 for result in figures["results"])
    assert sum(line.startswith(("png ", "native ")) for line in lines) == 24
    assert len(figures["memory_mib"]) == 2
    assert figures["packing"]["png"]["frames_per_second"] > 0
    assert not list(tmp_path.iterdir())
