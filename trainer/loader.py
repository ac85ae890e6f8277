"""Loads batches in worker processes and brings them to the main process.

A wait for a batch ends early if the run is asked to stop, or if a worker died. Torch's own ways are not enough for
that: it raises the death of a worker in whatever code the main process is in, and its shutdown waits for locks that a
killed worker may have held. `_Arriving` overrides two methods of torch's iterator, which it has had since version 1.2.
"""

import gc
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from multiprocessing.connection import wait
from weakref import WeakSet

import cv2
import torch
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils import signal_handling
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from resproto_fd.configs import stop_signals
from resproto_fd.configs.errors import Interrupted, UserError
from resproto_fd.trainer.augment.device_transforms import Unaugmented
from resproto_fd.trainer.batch_memory import BatchMemory, ByValue, batch_memory
from resproto_fd.trainer.data import FrameDataset

LOOK_EVERY = 0.5
"""Seconds between two looks for stop signals and dead workers, while the next batch is awaited."""
_with_workers: WeakSet["FrameLoader"] = WeakSet()
LAST_WORDS = 2.0
"""Seconds until the death of a worker is known, after its connections broke."""


class FrameLoader(DataLoader):
    """Loader of batches. As a context manager it ends its workers with the block, whatever they are doing.

    Args:
        looks: Whether a wait for a batch raises if a stop signal was noted.
        options: See torch's DataLoader.
    """

    def __init__(self, *, looks: bool, **options):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create")  # once for each loader; see below
            super().__init__(**options)
        _note_many_workers(self.num_workers)
        self.looks = looks

    def _get_iterator(self):
        self.arriving = _Arriving(self) if self.num_workers else super()._get_iterator()
        _with_workers.add(self)
        return self.arriving

    def __enter__(self) -> "FrameLoader":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        workers = getattr(self, "arriving", None)
        if not isinstance(workers, _Arriving):
            return
        try:
            if kind is None:
                self.refuse_dead()
        finally:
            workers.end()

    def refuse_dead(self, patience: float = 0.0) -> None:
        """Raises if a worker has died, or dies within some seconds.

        Raises:
            UserError: The message names the frame that it was at.
        """
        workers = getattr(getattr(self, "arriving", None), "_workers", [])
        if patience and workers:
            wait([worker.sentinel for worker in workers], patience)
        for number, worker in enumerate(workers):
            if worker.exitcode is not None:
                raise UserError(
                    f"a data worker died ({_ending(worker.exitcode)}); the frame it was at: "
                    f"{self.dataset.frame_at(number) or 'none yet'}. Check that file and the free memory, or set "
                    "run.workers=0 to read in the main process"
                )


@cache
def _note_many_workers(number: int) -> None:
    """Says once that there are more data workers than cores, which costs memory and saves no time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if number > cores:
        print(f"note: {number} data workers on {cores} cores; run.workers={cores} needs less memory", file=sys.stderr)


class _Arriving(_MultiProcessingDataLoaderIter):
    """The batches of a loader's workers."""

    waiting = False
    """Whether this process waits for a batch."""

    def __init__(self, loader: FrameLoader):
        self._looks, self._workers = loader.looks, []
        _tame_sigchld()
        with stop_signals.blocked():
            super().__init__(loader)

    def _try_get_data(self, timeout: float = LOOK_EVERY):
        if self._looks:
            stop_signals.look("stopped while waiting for frames")
        _Arriving.waiting = True
        try:
            return super()._try_get_data(min(timeout, LOOK_EVERY))
        finally:
            _Arriving.waiting = False

    def end(self) -> None:
        """Kills the workers: they have nothing to save, and torch's shutdown may wait for what a dead one held."""
        self._shutdown = True
        if hasattr(self, "_pin_memory_thread_done_event"):
            self._pin_memory_thread_done_event.set()
        for worker in self._workers:
            worker.kill()
        for worker in self._workers:
            worker.join()
        if self._worker_pids_set:
            signal_handling._remove_worker_pids(id(self))
            self._worker_pids_set = False


class _WhileWaiting:
    """Torch's handler of SIGCHLD, which raises if a data worker died; outside a wait for a batch, it does not raise."""

    def __init__(self, handler):
        self.handler = handler

    def __call__(self, number: int, frame) -> None:
        try:
            self.handler(number, frame)
        except RuntimeError:
            if _Arriving.waiting:
                raise


def _tame_sigchld() -> None:
    """Has torch set its handler of SIGCHLD, which it does once, and wraps it."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return
    signal_handling._set_SIGCHLD_handler()
    found = signal.getsignal(signal.SIGCHLD)
    if callable(found) and not isinstance(found, _WhileWaiting):
        signal.signal(signal.SIGCHLD, _WhileWaiting(found))


def _ending(code: int) -> str:
    return f"ended by {stop_signals.name_of(-code)}" if code < 0 else f"exit code {code}"


def make_loader(dataset: FrameDataset, batches, workers: int, device: torch.device, looks: bool = True) -> FrameLoader:
    """Makes a loader of the given batches; see `FrameLoader`.

    It has its own random generator, so that the global one does not depend on how often a loader is started.
    """
    workers = 0 if dataset.in_memory else workers
    side = getattr(dataset.transform, "side", 0)
    memory = batch_memory(workers, getattr(batches, "batch_size", 0) * dataset.pictures * 3 * side * side)
    return FrameLoader(
        dataset=dataset,
        batch_sampler=batches,
        collate_fn=partial(_as_sent, memory),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        worker_init_fn=partial(_settle, memory),
        generator=torch.Generator().manual_seed(0),
        looks=looks,
    )


def watched(loader: FrameLoader) -> Iterator[dict]:
    """Yields the loader's batches.

    Raises:
        UserError: A worker process was killed or crashed. The message names the frame that it was at.
        Interrupted, KeyboardInterrupt: A stop signal was noted, and the loader looks for it.
    """
    arriving = None
    while True:
        try:
            arriving = arriving or iter(loader)
            batch = next(arriving, None)
        except (Interrupted, UserError):
            raise
        except Exception:
            loader.refuse_dead(LAST_WORDS)
            for other in list(_with_workers):  # torch tells of every loader's workers here
                other.refuse_dead()
            raise
        loader.refuse_dead()
        if loader.looks:
            stop_signals.look()
        if batch is None:
            return
        yield batch


def _settle(memory: BatchMemory | None, worker: int) -> None:
    """Prepares a worker process: one thread, stop signals ignored, an end with the main process.

    The thread pools of OpenCV, BLAS and torch would compete for the cores. Batch systems send stop signals to all
    processes, but the main process still needs its workers then.
    """
    from threadpoolctl import threadpool_limits

    gc.freeze()  # what the main process left is not collected here: a video's scaler would wait for threads for ever
    stop_signals.ignore()
    threadpool_limits(1)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)  # 1 would hang: it joins a pool's threads, which a forked process does not have
    get_worker_info().dataset.memory = memory
    threading.Thread(target=_end_with_main_process, daemon=True).start()


def _end_with_main_process() -> None:
    """Waits for the main process to end, and then ends this one.

    Torch's own watch compares process numbers. It misses a main process that was killed before the watch began, and
    such a worker would stay for ever, with the store open.
    """
    multiprocessing.parent_process().join()
    os._exit(1)


def _as_sent(memory: BatchMemory | None, batch: dict) -> dict:
    """Packs a worker's batch for its way to the main process. Without workers the batch stays as it is."""
    if memory is None or get_worker_info() is None or "image" not in batch:
        return batch
    image = batch["image"]
    if isinstance(image, Unaugmented):
        sent = replace(image, images=memory.send(image.images), views=ByValue(image.views))
    else:
        sent = memory.send(image)
    small = {name: ByValue(value) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    return batch | small | {"image": sent}
