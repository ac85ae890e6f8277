"""Several processes that train as one: set-up from torchrun's environment, and the exchanges that the trainer needs."""

import os
import re
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from resproto_fd.configs import stop_signals
from resproto_fd.configs.errors import UserError, cut, shown
from resproto_fd.configs.readers.text import LARGEST_NUMBER, whole_number


@dataclass(frozen=True)
class World:
    """This process among the others: its rank, the number of processes, its device."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """Chooses the device for `auto`, `cpu`, `cuda`, `cuda:1` or `mps` (Apple's GPU).

    `auto` is CUDA or else the CPU. MPS has no float64, so that it is used only if it is named.

    Raises:
        UserError: It is no device's name, or this machine does not have the device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local_rank}"
    if not re.fullmatch(r"cpu|mps|cuda:[0-9]{1,3}", name):
        raise UserError(f"run.device: expected auto, cpu, cuda, cuda:N or mps, got {shown(name)}; set run.device=cpu")
    if name == "mps" and not torch.backends.mps.is_available():
        raise UserError("run.device: this machine has no MPS device (Apple's GPU), got 'mps'; set run.device=cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"run.device: this machine has {torch.cuda.device_count()} CUDA devices, got '{name}'; set run.device=cpu "
            "or one of them"
        )
    return device


def _agreed_name(store: dist.Store, rank: int, size: int, timeout: timedelta) -> str:
    """Agrees on a name with the other processes of this start. No process of an earlier start knows the name.

    Process 0 proposes a name, the others sign it, and process 0 lists their signatures. The name holds for a process
    that finds its own signature in the list. What an earlier process 0 left in the store lists other signatures.

    Raises:
        UserError: Not all processes came within the time.
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
    raise UserError(f"process {rank} of {size}: not all others started within {timeout}; read their messages")


def _of_environment(name: str, least: int, most: int = LARGEST_NUMBER, default: int | None = None) -> int:
    """A whole number of torchrun's environment.

    Args:
        name: The variable.
        least, most: The bounds; both are allowed.
        default: What an unset variable means; None if it must be set.

    Raises:
        UserError: It is unset without a default, or not such a number.
    """
    text = os.environ.get(name)
    if text is None and default is not None:
        return default
    try:
        value = whole_number(text or "")
    except ValueError:
        value = None
    if value is None or not least <= value <= most:
        bounds = f"{least} or more" if most == LARGEST_NUMBER else f"{least} to {most}"
        got = "got none (it is not set)" if text is None else f"got {shown(text)}"
        raise UserError(
            f"environment variable {name}: expected a whole number, {bounds}, {got}; {_REMEDY_OF_ENVIRONMENT}"
        )
    return value


_REMEDY_OF_ENVIRONMENT = "start with torchrun, which sets it, or unset WORLD_SIZE, RANK and LOCAL_RANK for one process"


def _met(size: int, timeout: timedelta) -> tuple[dist.Store, int, int]:
    """The store in which all processes meet, this one's rank, and their number.

    Raises:
        UserError: A variable of the environment is missing or wrong; or the address cannot be reached.
    """
    _of_environment("RANK", 0, size - 1)
    port = _of_environment("MASTER_PORT", 0, 65535)
    address = os.environ.get("MASTER_ADDR")
    if not address:
        raise UserError(
            f"environment variable MASTER_ADDR: expected the address of process 0, got none; {_REMEDY_OF_ENVIRONMENT}"
        )
    try:
        return next(rendezvous("env://", timeout=timeout))
    except dist.DistError as error:
        raise UserError(
            f"process 0 cannot be met at MASTER_ADDR {shown(address)}, MASTER_PORT {port}: "
            f"{cut(str(error).partition(chr(10))[0])}"
        ) from error


@contextmanager
def joined(device_name: str = "auto", timeout_minutes: int = 30):
    """Joins the other processes if torchrun's environment names them, yields the World, and leaves them at the end.

    Raises:
        UserError: The environment names no whole set of processes, or they cannot meet; or another process ended while
            this one waited for it.
    """
    size = _of_environment("WORLD_SIZE", 1, default=1)
    local_rank = _of_environment("LOCAL_RANK", 0, default=0)
    device = choose_device(device_name, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1 or dist.is_initialized():
        rank = dist.get_rank() if dist.is_initialized() else 0
        yield World(rank, dist.get_world_size() if dist.is_initialized() else 1, device)
        return
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(minutes=timeout_minutes)
    store, rank, size = _met(size, timeout)
    # torchrun's store outlives a restart and still has the addresses of the earlier processes.
    store = dist.PrefixStore(_agreed_name(store, rank, size, timeout), store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    try:
        world = World(dist.get_rank(), size, device)
        barrier(world)  # else a process that ends at once breaks the others' connection
        yield world
    except RuntimeError as error:
        if not is_of_others(error):
            raise
        raise UserError(
            f"process {dist.get_rank()} of {size}: another process of this run has ended; its message says why"
        ) from error
    finally:
        dist.destroy_process_group()


def is_of_others(error: BaseException) -> bool:
    """Whether an error tells that another process of the run has ended."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


@contextmanager
def _waiting_for_others():
    """If others end while this process waits for them, and it was asked to stop as they were, it stops."""
    try:
        yield
    except RuntimeError:
        stop_signals.look("stopped while waiting for other processes")
        raise


def gather_objects(world: World, value: Any) -> list[Any]:
    """Gathers `value` of every rank, in rank order, on every rank."""
    if world.size == 1:
        return [value]
    values = [None] * world.size
    with _waiting_for_others():
        dist.all_gather_object(values, value)
    return values


def any_rank(world: World, flag: bool) -> bool:
    """Whether the flag is true on any rank. All ranks get the same answer."""
    if world.size == 1:
        return flag
    votes = torch.tensor([int(flag)])
    with _waiting_for_others():
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return bool(votes.item())


def barrier(world: World) -> None:
    """Waits until every rank has reached this call."""
    if world.size > 1:
        any_rank(world, False)


def average_gradients(world: World, parameters: list[torch.nn.Parameter]) -> None:
    """Replaces each gradient by its mean over the ranks (for models without DistributedDataParallel)."""
    if world.size == 1:
        return
    grads = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([grad.reshape(-1) for grad in grads])
    dist.all_reduce(flat)
    flat /= world.size
    for grad, value in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
        grad.copy_(value.view_as(grad))


def copy_buffers_from_main(world: World, module: torch.nn.Module) -> None:
    """Copies the main rank's buffers to all ranks (batch norm's running statistics differ between ranks)."""
    if world.size == 1:
        return
    for buffer in module.buffers():
        dist.broadcast(buffer, src=0)
