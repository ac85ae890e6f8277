"""Shared memory for the batches of data workers, used again and again.

Sending a batch of pictures to another process in a new block of shared memory costs as much as making the batch: the
kernel clears and maps every page of it, on both sides. Here each worker has a few blocks, which are mapped once.

A block belongs to its worker until it is sent. It then belongs to the main process until nothing there refers to it or
to a view of it. If no block is free, or the batch is too large for one, the batch is sent in the ordinary way.
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
"""Blocks of each worker: two wait to be fetched, one is used, one is filled."""

_memories: "weakref.WeakValueDictionary[int, BatchMemory]" = weakref.WeakValueDictionary()


def batch_memory(workers: int, block_bytes: int) -> "BatchMemory | None":
    """Makes the memory for the workers of one loader; None if there are none, or if they are not forked.

    Args:
        workers: Number of worker processes. Only forked ones inherit the memory.
        block_bytes: Bytes of a batch's pictures.
    """
    method = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if not workers or not block_bytes or method != "fork":
        return None
    return BatchMemory(workers, block_bytes)


class BatchMemory:
    """Blocks of shared memory, see above. The main process makes it before its workers."""

    def __init__(self, workers: int, block_bytes: int):
        self._owner = os.getpid()
        count = workers * BLOCKS
        page = mmap.PAGESIZE
        self._block_bytes = -(-block_bytes // page) * page
        self._blocks = np.frombuffer(mmap.mmap(-1, count * self._block_bytes), np.uint8).reshape(count, -1)
        self._taken = np.frombuffer(mmap.mmap(-1, count), np.uint8)[:count]
        _memories[id(self)] = self

    def empty(self, worker: int, shape: tuple[int, ...]) -> Tensor:
        """Allocates uint8 of a shape, contents undefined, in a free block of the worker's if there is one."""
        size = prod(shape)
        for block in range(worker * BLOCKS, (worker + 1) * BLOCKS):
            if not self._taken[block] and size <= self._block_bytes:
                return torch.from_numpy(self._blocks[block, :size].reshape(shape))
        return torch.empty(shape, dtype=torch.uint8)

    def send(self, tensor: Tensor) -> "_InBlock | Tensor":
        """Returns what a worker sends for a tensor: its place if it is in a block. The worker must not use it again."""
        offset = tensor.data_ptr() - self._blocks.ctypes.data
        if not 0 <= offset < self._blocks.size:
            return tensor
        block = offset // self._block_bytes
        self._taken[block] = 1
        return _InBlock(id(self), block, tuple(tensor.shape))

    def receive(self, block: int, shape: tuple[int, ...]) -> Tensor:
        """Returns the tensor in a block. The block is free again when nothing refers to the tensor's storage."""
        array = self._blocks[block, : prod(shape)].reshape(shape)
        weakref.finalize(array, _release, self._taken, block, self._owner).atexit = False
        return torch.from_numpy(array)


def _release(taken: np.ndarray, block: int, owner: int) -> None:
    if os.getpid() == owner:  # a process forked meanwhile drops its copy of the reference only
        taken[block] = 0


class _InBlock:
    """Stands for a tensor in a block on its way to the main process, where it becomes that tensor."""

    def __init__(self, memory: int, block: int, shape: tuple[int, ...]):
        self._place = memory, block, shape

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, self._place


def _received(memory: int, block: int, shape: tuple[int, ...]) -> Tensor:
    return _memories[memory].receive(block, shape)


class ByValue:
    """Small tensor that is sent as bytes, which is cheaper than its own block of shared memory."""

    def __init__(self, tensor: Tensor):
        self._array = tensor.numpy()

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.from_numpy, (self._array,)
