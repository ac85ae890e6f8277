"""Memory in which data workers lay their batches, used over and over.

A batch of pictures that travels between processes as a new block of shared memory costs as much as making it: the
kernel clears and maps every page of it, on both sides. Here each worker has a few blocks, mapped once.

A block belongs to its worker until it is sent, then to the main process until nothing there refers to it, views of it
included. A worker that finds no free block, or a batch too large for one, sends it in the ordinary way.
"""

import mmap
import multiprocessing
import os
import weakref
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

BLOCKS = 4
"""Of each worker: two wait to be fetched, one is used, one is filled."""

_memories: "weakref.WeakValueDictionary[int, BatchMemory]" = weakref.WeakValueDictionary()


def batch_memory(workers: int, block_bytes: int) -> "BatchMemory | None":
    """Memory for the workers of one loader; None without workers, or where they are not forked and cannot inherit it.

    Args:
        workers: Worker processes.
        block_bytes: Size of a batch's pictures.
    """
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if not workers or not block_bytes or method != "fork":
        return None
    return BatchMemory(workers, block_bytes)


class BatchMemory:
    """See above. Made in the main process before its workers are."""

    def __init__(self, workers: int, block_bytes: int):
        self._owner = os.getpid()
        count = workers * BLOCKS
        page = mmap.PAGESIZE
        self._block_bytes = -(-block_bytes // page) * page
        self._blocks = np.frombuffer(mmap.mmap(-1, count * self._block_bytes), np.uint8).reshape(count, -1)
        self._taken = np.frombuffer(mmap.mmap(-1, count), np.uint8)[:count]
        _memories[id(self)] = self

    def empty(self, worker: int, shape: tuple[int, ...]) -> Tensor:
        """Room for uint8 of a shape, contents undefined: in a free block of the worker's if there is one."""
        size = prod(shape)
        for block in range(worker * BLOCKS, (worker + 1) * BLOCKS):
            if not self._taken[block] and size <= self._block_bytes:
                return torch.from_numpy(self._blocks[block, :size].reshape(shape))
        return torch.empty(shape, dtype=torch.uint8)

    def send(self, tensor: Tensor) -> "_InBlock | Tensor":
        """What a worker sends for a tensor: of one in a block, where it lies. It must not touch it after that."""
        offset = tensor.data_ptr() - self._blocks.ctypes.data
        if not 0 <= offset < self._blocks.size:
            return tensor
        block = offset // self._block_bytes
        self._taken[block] = 1
        return _InBlock(id(self), block, tuple(tensor.shape))

    def receive(self, block: int, shape: tuple[int, ...]) -> Tensor:
        """The tensor that lies in a block, which is free again when the last reference to its storage goes."""
        array = self._blocks[block, : prod(shape)].reshape(shape)
        weakref.finalize(array, _release, self._taken, block, self._owner).atexit = False
        return torch.from_numpy(array)


def _release(taken: np.ndarray, block: int, owner: int) -> None:
    if os.getpid() == owner:  # another process forked meanwhile drops its copy of the reference, not the block
        taken[block] = 0


class _InBlock:
    """Stands for a tensor in a block on the way from worker to main process, and becomes it there."""

    def __init__(self, memory: int, block: int, shape: tuple[int, ...]):
        self._place = memory, block, shape

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, self._place


def _received(memory: int, block: int, shape: tuple[int, ...]) -> Tensor:
    return _memories[memory].receive(block, shape)


class ByValue:
    """A small tensor that travels as its bytes: cheaper than a block of shared memory of its own."""

    def __init__(self, tensor: Tensor):
        self._array = tensor.numpy()

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.from_numpy, (self._array,)
