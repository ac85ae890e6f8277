"""Run folder: one process works in it at a time, and TensorBoard's files lie in it."""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import DISK_FULL, make_folder
from resproto_fd.configs.locks import SoleLock
from resproto_fd.trainer.distributed import World, any_rank

EVENTS = "events.out.tfevents."
"""Beginning of the names of TensorBoard's files; the time in seconds follows, ten digits."""


@contextmanager
def exclusive(run_folder: Path, world: World) -> Iterator[None]:
    """Locks a run folder against other runs.

    Raises:
        UserError: Another process works in it, or it cannot be made.
    """
    make_folder(run_folder)
    lock = SoleLock(run_folder / ".lock") if world.is_main else None
    if any_rank(world, lock is not None and not lock.acquire()):
        raise UserError(
            f"{run_folder}: another process is at work in this run folder; wait for it, or set another run.out"
        )
    try:
        if lock:
            for unfinished in list(run_folder.rglob(".*.part")):  # what a killed process was writing
                if unfinished.is_dir() and not unfinished.is_symlink():  # a package
                    shutil.rmtree(unfinished)
                else:
                    unfinished.unlink(missing_ok=True)
        yield
    finally:
        if lock:
            lock.release()


@contextmanager
def scalar_logs(run_folder: Path, next_steps: dict[str, int], world: World) -> Iterator[list[SummaryWriter | None]]:
    """Opens TensorBoard's logs. Only the main process has them; the others get None.

    Args:
        run_folder: The logs are in its folder `tb`.
        next_steps: By the log's name, the first step that it does not have yet. Later scalars, which a killed run wrote
            after its last checkpoint, are purged.
        world: This process among the others.

    Raises:
        UserError: The disk is full.
    """
    if not world.is_main:
        yield [None] * len(next_steps)
        return
    folder = run_folder / "tb"
    for name in next_steps:
        _put_before_now(folder / name)
    began = folder.exists()  # not whether there is a checkpoint: scalars may reach the disk before the first one
    try:
        with ExitStack() as stack:
            yield [
                stack.enter_context(SummaryWriter(str(folder / name), purge_step=first if began else None))
                for name, first in next_steps.items()
            ]
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise UserError(
            f"{folder}: cannot be written ({error.strerror}); free some space and run the same command again: it goes "
            "on from the last checkpoint"
        ) from error


def _put_before_now(folder: Path) -> None:
    """Renames event files whose names tell of a later time than now, or of this second.

    TensorBoard reads a folder's files in the order of their names, which have the time, and drops what a later file
    begins anew. If the clock was set back, the file that comes now would be read before those that it goes on from.
    """
    now = int(time.time())
    late = [path for path in sorted(folder.glob(f"{EVENTS}*")) if path.name[len(EVENTS) :] >= f"{now:010d}"]
    for i, path in enumerate(late):
        _, _, rest = path.name[len(EVENTS) :].partition(".")
        path.rename(folder / f"{EVENTS}{now:010d}-{i:04d}.{rest}")  # "-" sorts before the "." of the file that comes
