"""The worker of a server: answers one file after another in a process of its own, which may be killed at any moment."""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from resproto_fd.configs.errors import UserError, cut
from resproto_fd.configs.readers.text import MIB
from resproto_fd.preprocessing.faces.video_reader import UnreadableMedia, VideoFile
from resproto_fd.preprocessing.picture_kinds import TooManyPixels, kind_of_file, max_pixels, picture_header
from resproto_fd.training.answers.answering import answer, search_for
from resproto_fd.training.answers.judges import Judge
from resproto_fd.training.answers.meaning import meaning_of
from resproto_fd.training.answers.outputs import as_dict
from resproto_fd.training.answers.records import UNREADABLE, Settings
from resproto_fd.training.answers.report import render_report
from resproto_fd.training.serving.limits import Limits
from resproto_fd.training.serving.tasks import Opinionated, Outcome, Task

SIDE = 64
USUAL_RATE = 25.0
"""Frames a second of a film that does not tell."""
LARGEST_WRITTEN = MIB
"""Bytes of a file that a worker may write. It means to write none; but libraries share small memory as files."""
SPARE = 4
"""A process ends itself after so many times the seconds of CPU that a file may take, should nobody end it."""


class Answerer:
    """Runs that are loaded once, and answer files or, asked for None, tell about themselves.

    Args:
        runs: Their folders.
        trusted: Whether code that their configurations name may be imported.
        settings: What is asked of every file.
        limits: What a file may take.

    Raises:
        UserError: As `answering.answer`.
    """

    def __init__(self, runs: Sequence[str], trusted: bool, settings: Settings, limits: Limits) -> None:
        tqdm.set_lock(threading.RLock())  # its own is of all processes, and left behind by one that is killed
        os.environ["RESPROTO_MAX_PIXELS"] = str(min(max_pixels(), limits.pixels))
        self._judges = [Judge(folder, settings.device, trusted) for folder in runs]
        # One process; its server measures the time.
        self._settings = replace(settings, processes=0, progress=False, thumbnails=True, seconds=SPARE * limits.seconds)
        self._limits = limits
        self._search = search_for(self._judges, self._settings)
        for judge in self._judges:  # the first is slow, and a run that cannot score is told before files come
            judge.score([judge.still(np.zeros((SIDE, SIDE, 3), np.uint8))])
        _confine(limits)

    def __call__(self, task: Task | None) -> Outcome | list[Opinionated]:
        """Answers a file; what is wrong with it is the outcome's `text`."""
        if task is None:
            settings = self._settings
            return [Opinionated(each.name, meaning_of(each, settings), list(each.notes)) for each in self._judges]
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, SPARE * self._limits.seconds)
        try:
            too_much = _excess(task.path, self._limits)
            if too_much:
                return Outcome(413, too_much)
            return self._answered(task)
        except UserError as error:  # of the run, such as a score that is no number
            return Outcome(500, cut(str(error)))
        finally:
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_PROF, 0)

    def _answered(self, task: Task) -> Outcome:
        answers = answer([task.path], self._judges, self._settings, self._search)
        (file,) = answers.files
        file.name, file.note = task.name, file.note.replace(task.path, "the file")
        if file.verdict == UNREADABLE:
            return Outcome(422, f"The file cannot be read: {file.note}.")
        return Outcome(200, row=as_dict(file), report=render_report(answers))


def _excess(path: str, limits: Limits) -> str:
    """A sentence about what a file has too much of, "" if nothing. Other faults are found when it is read."""
    try:
        if kind_of_file(path) == "picture":
            picture_header(Path(path).read_bytes())
            return ""
        info = VideoFile(path).info
    except TooManyPixels as error:
        return _of_pixels(error)
    except UnreadableMedia as error:
        return _of_pixels(error.__cause__) if isinstance(error.__cause__, TooManyPixels) else ""
    except Exception:  # decoders raise many kinds
        return ""
    lasts = info.frames / (info.fps or USUAL_RATE)
    if lasts <= limits.film:
        return ""
    return f"The film lasts {lasts:,.0f} seconds; expected at most {limits.film:g}. Send a part of it."


def _of_pixels(error: Exception) -> str:
    found = str(error).split(";")[0]
    return f"The picture is too large: {found}; expected at most {max_pixels():,} pixels. Send a smaller one."


def _confine(limits: Limits) -> None:
    """From now on this process fills no disk, prints nothing, leaves no core, and takes bounded memory.

    Decoders print what they meet in a file, and a core would hold the file.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush(), sys.stderr.flush()
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_WRITTEN, LARGEST_WRITTEN))
    taken = _data_bytes()
    if taken is not None:
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        wanted = taken + int(limits.memory * (1 << 30))
        resource.setrlimit(
            resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most)
        )


def _data_bytes() -> int | None:
    """Bytes of this process that RLIMIT_DATA counts; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:")), None)
