"""The connection to Ray, which the extra `cluster` brings."""

import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from resproto_fd.configs import stop_signals
from resproto_fd.configs.errors import UserError, shown
from resproto_fd.configs.files import make_folder

PATIENCE = 10
"""Seconds in which the head of a cluster must answer."""
STARTS = 3
"""Tries to start Ray: it gives up after half a minute, which a busy machine may need."""
LONGEST_TEMPORARY = 60
"""Letters of Ray's temporary folder: sockets in it have paths of at most 107."""
STORE_BYTES = 80 * 2**20
"""Ray's store of objects is not used; this is about the smallest that it makes."""


@contextmanager
def connected(address: str | None, temporary: str | None = None) -> Iterator[ModuleType]:
    """Connects this process to Ray in the block; yields the module `ray`.

    A process that is connected already stays so. Tasks of this process that are at work when the block ends are ended.
    The process keeps its own handlers of stop signals; Ray would put one in their place. Nothing of the current folder
    can be imported by Ray's workers.

    Args:
        address: "HOST:PORT" of a cluster's head; "auto" for the cluster that runs on this machine; None starts Ray on
            this machine for the block alone.
        temporary: Folder for Ray's own files if it is started here; None leaves it to Ray.

    Raises:
        UserError: Ray is not installed or cannot be started, or there is no such cluster.
    """
    with stop_signals.kept():
        ray = _imported()
        ours = not ray.is_initialized()
        if ours and address is None:
            _start(ray, temporary)
        elif ours:
            _reach(address)
            _connect(ray, address)
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


def _imported() -> ModuleType:
    # Before Ray is imported: by default it reports its use to its makers, hides cards from tasks that ask for none, and
    # gives its workers, and so the runs, the lowest priority but four.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("expected Ray installed; pip install 'resproto-fd[cluster]'") from error
    return ray


def _start(ray: ModuleType, temporary: str | None) -> None:
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    options = {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    if temporary is not None:
        options["_temp_dir"] = _checked_temporary(temporary)
    for left in reversed(range(STARTS)):
        try:
            _init(ray, address="local", **options)
            return
        except Exception as error:  # Ray raises bare ones
            ray.shutdown()
            if not left:
                raise UserError(
                    f"Ray could not be started: {error}; set another --ray-temp, or free some memory"
                ) from error


def _connect(ray: ModuleType, address: str) -> None:
    try:
        _init(ray, address=address)
    except Exception as error:  # ConnectionError, RuntimeError or ValueError, whatever is wrong with the address
        ray.shutdown()
        raise _no_cluster(address, str(error).strip().partition("\n")[0]) from error


def _init(ray: ModuleType, **options: Any) -> None:
    """Initialises Ray; the current folder is for the time one whose modules can be imported anyway.

    Ray puts the current folder first on the import path of the workers.
    """
    here = os.getcwd()
    try:
        os.chdir(Path(ray.__file__).parents[1])
        ray.init(namespace="resproto", log_to_driver=False, logging_level="ERROR", **options)
    finally:
        os.chdir(here)


def _checked_temporary(folder: str) -> str:
    path = os.path.abspath(folder)
    if len(os.fsencode(path)) > LONGEST_TEMPORARY and sys.platform != "win32":
        raise UserError(
            f"--ray-temp {path}: expected a path of at most {LONGEST_TEMPORARY} letters, got {len(path)}, since Ray "
            "makes sockets in it; set a shorter one"
        )
    return str(make_folder(path))


def _reach(address: str) -> None:
    """Looks whether something answers at "HOST:PORT": Ray itself tries for minutes."""
    if address == "auto":
        return
    parts = re.fullmatch(r"\[?([^/\[\]]+)\]?:(\d{1,5})", address)
    if parts is None:
        raise UserError(f"--address: expected auto or HOST:PORT, got {shown(address)}")
    try:
        socket.create_connection((parts[1], int(parts[2])), PATIENCE).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise _no_cluster(address, str(error)) from error


def _no_cluster(address: str, reason: str) -> UserError:
    return UserError(
        f"--address: expected a running Ray cluster at {shown(address)}, got none ({reason}); start one with "
        "`ray start --head`, and on each other machine `ray start --address=HOST:PORT`"
    )
