"""Processes that train as one: set-up from torchrun's environment, and the few exchanges the trainer needs."""

import os
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from resproto_fd.configs.errors import UserError


@dataclass(frozen=True)
class World:
    """This process among the others: its rank, how many there are, its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device that `auto`, `cpu`, `cuda` or `cuda:1` stands for.

    Raises:
        UserError: CUDA was asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"run.device: expected auto, cpu, cuda or cuda:N, got '{name}'") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"run.device: '{name}' asked for, {torch.cuda.device_count()} CUDA devices are here")
    return device


def _agreed_name(store: dist.Store, rank: int, size: int, timeout: timedelta) -> str:
    """A name on which the processes of this start have agreed, and which none of an earlier start knows.

    Process 0 proposes one; it holds when everyone who signed under it is named back. What an earlier process 0 left in
    the store names others.

    Raises:
        UserError: Not all came within the time.
    """
    own, deadline = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    if rank == 0:
        store.set("proposed", own)
    while time.monotonic() < deadline:
        if store.check(["proposed"]):
            name = store.get("proposed").decode()
            signatures = [f"{name}/{other}" for other in range(1, size)]
            if rank == 0 and store.check(signatures):
                store.set(f"{name}/agreed", ",".join(store.get(signature).decode() for signature in signatures))
                return name
            if rank:
                store.set(f"{name}/{rank}", own)
                if store.check([f"{name}/agreed"]) and own in store.get(f"{name}/agreed").decode().split(","):
                    return name
        time.sleep(0.02)
    raise UserError(f"process {rank} of {size}: not all others started within {timeout}; their messages tell why")


@contextmanager
def joined(device_name: str = "auto", timeout_minutes: int = 30):
    """The World of this process; joins the others when torchrun's environment names them, leaves them at the end.

    Raises:
        UserError: Another process left while this one was waiting for it.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = choose_device(device_name, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1 or dist.is_initialized():
        rank = dist.get_rank() if dist.is_initialized() else 0
        yield World(rank, dist.get_world_size() if dist.is_initialized() else 1, device)
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(minutes=timeout_minutes)
    store, rank, size = next(rendezvous("env://", timeout=timeout))
    # Processes that torchrun starts again find the addresses of those before them in its store.
    store = dist.PrefixStore(_agreed_name(store, rank, size, timeout), store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    try:
        world = World(dist.get_rank(), size, device)
        barrier(world)  # a process that leaves at once would break the connecting of the others
        yield world
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise UserError(
            f"process {dist.get_rank()} of {size}: another process of this run has ended; its message says why"
        ) from error
    finally:
        dist.destroy_process_group()


def gather_objects(world: World, value: Any) -> list[Any]:
    """`value` of every rank, in rank order, on every rank."""
    if world.size == 1:
        return [value]
    values = [None] * world.size
    dist.all_gather_object(values, value)
    return values


def any_rank(world: World, flag: bool) -> bool:
    """Whether the flag is up on any rank; the same answer on all of them."""
    if world.size == 1:
        return flag
    votes = torch.tensor([int(flag)])
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


def barrier(world: World) -> None:
    """Waits until every rank has come here."""
    if world.size > 1:
        any_rank(world, False)


def average_gradients(world: World, parameters: list[torch.nn.Parameter]) -> None:
    """Replaces each gradient by its mean over the ranks (where DistributedDataParallel is not in the way)."""
    if world.size == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat)
    flat /= world.size
    for grad, value in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(value.view_as(grad))


def copy_buffers_from_main(world: World, module: torch.nn.Module) -> None:
    """Gives every rank the main rank's buffers (running statistics of batch norm differ between ranks)."""
    if world.size == 1:
        return
    for buffer in module.buffers():
        dist.broadcast(buffer, src=0)
