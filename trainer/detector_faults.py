"""Faults in a detector's own code: errors that name the detector and the line, and keep what was raised."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from resproto_fd.configs.errors import Interrupted, UserError, cut
from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.registry import name_of
from resproto_fd.trainer.distributed import is_of_others

_LIBRARIES = {"site-packages", "dist-packages"}
_PYTHON = Path(traceback.__file__).parent


@contextmanager
def faults_of(detector: Detector, doing: str, leaving: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns what a detector's code raises in the block, whatever it is, into a UserError `from` it.

    Args:
        detector: Whose code runs in the block.
        doing: What it does there, for the message.
        leaving: Errors that are raised as they are.
    """
    try:
        yield
    except (UserError, Interrupted, MemoryError, KeyboardInterrupt, GeneratorExit, *leaving):
        raise
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{_named(detector)}: the device's memory was full while {doing}; set a smaller train.batch_size (with "
            "train.accumulate) or run.test_batch_size"
        ) from error
    except BaseException as error:
        if is_of_others(error):
            raise
        reason = f"{type(error).__name__}: {cut(str(error))}" if str(error) else type(error).__name__
        raise UserError(
            f"{_named(detector)}: its code failed while {doing} ({_place(error)}): {reason}; mend the code, or the "
            "settings that it cannot work with"
        ) from error


def _named(detector: Detector) -> str:
    cls = type(detector)
    return f"detector '{name_of(cls) or cls.__name__}' ({cls.__module__}.{cls.__qualname__})"


def _place(error: BaseException) -> str:
    """File and line of the innermost code that is neither Python's own nor an installed library's."""
    frames = traceback.extract_tb(error.__traceback__)
    places = [(frame, Path(frame.filename)) for frame in frames]
    own = [f for f, path in places if not (_LIBRARIES & set(path.parts) or path.is_relative_to(_PYTHON))]
    frame = (own or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}"
