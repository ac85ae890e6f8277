"""Answers about files: faces found, judged by runs, and turned into verdicts. The command adds nothing but words."""

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.faces.sources import Options, Source
from resproto_fd.preprocessing.faces.worker_pool import WorkerDied, run_tasks
from resproto_fd.trainer.clip_list import span
from resproto_fd.training.answers.clips import runs_for, samples_of
from resproto_fd.training.answers.judges import Judge
from resproto_fd.training.answers.meaning import meaning_of
from resproto_fd.training.answers.reasons import COPIES
from resproto_fd.training.answers.records import (
    NO_FACE,
    UNREADABLE,
    Answers,
    FaceAnswer,
    FileAnswer,
    RunFacts,
    Settings,
)
from resproto_fd.training.answers.search import FaceSearch, Found, FoundFace, sources_of
from resproto_fd.training.answers.verdicts import judged_face, verdict_of_file

SIDE = 256
STAGES = ("read", "find", "crop", "score", "copies")
THUMBNAIL, MOST_THUMBNAILS = 96, 32
LARGEST_CHUNK = 1024
AHEAD = 4
"""Files for each process that may be read before an earlier one is done: their crops are in memory meanwhile."""
DEFAULT = Settings()


def answer(
    files: Sequence[str | Path],
    runs: Sequence[str | Path | Judge],
    settings: Settings = DEFAULT,
    search: FaceSearch | None = None,
) -> Answers:
    """Looks for faces in files, lets runs judge them, and gives one answer a file.

    A file's answer does not depend on the other files, but for rounding: the last bits of a score may depend on the
    batch that a crop is in.

    Args:
        files: Pictures, videos and folders.
        runs: Folders of runs; or runs that were loaded before.
        settings: What is asked.
        search: What `search_for` made of such runs and settings; it looks for the faces in this process.

    Raises:
        UserError: There is no file or no run; a run cannot be loaded; runs need crops of different sizes, or some
            score frames and others clips; or the face detector is not installed.
    """
    began = time.perf_counter()
    if not files or not runs:
        raise UserError(f"expected at least one file and one run, got {len(files)} files and {len(runs)} runs")
    judges = [run if isinstance(run, Judge) else Judge(run, settings.device) for run in runs]
    judges = _named_apart(judges)
    settings = _with_size(judges, settings)
    asked = _search_arguments(judges, settings)
    sources, others = sources_of(files, settings.pictures)
    answers = Answers([], [_facts(judge, name, settings) for judge, name in judges], settings, others)
    work = _Work(judges, settings, answers)
    for name, source, found in _found(sources, asked, settings, search):
        work.add(name, source, found)
    work.end()
    answers.seconds["all"] = time.perf_counter() - began
    return answers


def search_for(judges: Sequence[Judge], settings: Settings) -> FaceSearch:
    """The search for faces that runs and settings need, for many calls of `answer`.

    Raises:
        UserError: The runs need crops of different sizes, some score frames and others clips, or the face detector is
            not installed.
    """
    named = _named_apart(judges)
    return FaceSearch(*_search_arguments(named, _with_size(named, settings)))


def _named_apart(judges: Sequence[Judge]) -> list[tuple[Judge, str]]:
    names = [judge.name for judge in judges]
    return [
        (judge, judge.name if names.count(judge.name) == 1 else f"{judge.name} ({judge.folder})") for judge in judges
    ]


def _with_size(judges: Sequence[tuple[Judge, str]], settings: Settings) -> Settings:
    return replace(settings, size=settings.size or _crop_size(judges))


def _search_arguments(judges: Sequence[tuple[Judge, str]], settings: Settings) -> tuple[Options, bool, float]:
    options = Options(
        frames=settings.frames,
        size=settings.size,
        min_face=settings.min_face,
        pictures=settings.pictures,
        **runs_for(judges, settings),
    )
    return options, settings.cropped, settings.seconds


def _crop_size(judges: Sequence[tuple[Judge, str]]) -> int:
    """The side of the frames that the runs know."""
    known = {
        judge.calibration.reference.frame_side: name
        for judge, name in judges
        if judge.calibration and judge.calibration.reference
    }
    if len(known) > 1:
        sides = ", ".join(f"{side} ({name})" for side, name in sorted(known.items()))
        raise UserError(f"the runs know frames of different sides: {sides}; ask them one by one, or set --size")
    return next(iter(known), SIDE)


def _facts(judge: Judge, name: str, settings: Settings) -> RunFacts:
    of_clips = judge.given.frames > 1
    return RunFacts(name, str(judge.folder), judge.weights, meaning_of(judge, settings), list(judge.notes), of_clips)


def _found(
    sources: Sequence[tuple[str, Source | str]],
    asked: tuple[Options, bool, float],
    settings: Settings,
    search: FaceSearch | None,
) -> Iterator[tuple[str, Source | None, Found]]:
    """What is in each source, in their order, whichever is done first."""
    from tqdm import tqdm

    tasks = [source for _, source in sources if isinstance(source, Source)]
    count = min(os.cpu_count() or 1 if settings.processes is None else settings.processes, len(tasks))
    count = 0 if settings.processes is None and len(tasks) == 1 else count
    make, arguments = (FaceSearch, asked) if search is None else (lambda: search, ())
    count = count if search is None else 0
    waiting: dict[int, Found] = {}
    with tqdm(total=len(sources), unit=" files", disable=None if settings.progress else True) as bar:
        results = run_tasks(make, arguments, tasks, count, ahead=AHEAD * count)
        task = 0
        for name, source in sources:
            if isinstance(source, str):
                found, source = Found(failed=source), None
            else:
                while task not in waiting:
                    number, made = next(results)
                    died = isinstance(made, WorkerDied)
                    waiting[number] = Found(failed=f"the process that read it died: {made}") if died else made
                found = waiting.pop(task)
                task += 1
            yield name, source, found
            bar.update()
        results.close()


@dataclass
class _Open:
    """A file whose faces are not all judged yet.

    Attributes:
        scores: By face and run, what was found for each crop or clip, see `verdicts.judged_face`.
        left: Crops or clips, of all runs, that are not judged yet.
    """

    answer: FileAnswer
    scores: list[list[dict[str, Any]]] = field(default_factory=list)
    left: int = 0


class _Work:
    """Collects crops, lets the runs judge them in whole batches, and finishes files as their last crop is judged.

    Crops are judged in the order of files, faces and frames, so that batches are those of a test on the same frames. Of
    a run of clips, so are clips.
    """

    def __init__(self, judges: Sequence[tuple[Judge, str]], settings: Settings, answers: Answers) -> None:
        self.judges, self.settings, self.answers = judges, settings, answers
        sizes = [judge.batch_size for judge, _ in judges]
        common = int(np.lcm.reduce(sizes))
        self._chunk = common if common <= LARGEST_CHUNK else max(sizes)
        self._waiting: list[list[tuple[_Open, int, Any]]] = [[] for _ in judges]
        self._open: list[_Open] = []
        answers.seconds |= dict.fromkeys(STAGES, 0.0)
        answers.counts |= dict.fromkeys(STAGES, 0)

    def add(self, name: str, source: Source | None, found: Found) -> None:
        """Takes what was found in one file."""
        made = _file_answer(name, source, found)
        self.answers.files.append(made)
        for stage, seconds in found.seconds.items():
            self.answers.seconds[stage] += seconds
            self.answers.counts[stage] += len(found.looked) - len(found.unreadable)
        if not found.faces:
            return
        judged = [face for face in found.faces if self._lasts(face)]
        if left := len(found.faces) - len(judged):
            brief = f"{left} further face{'s' * (left != 1)} in too few frames for a clip, not judged"
            made.note = "; ".join(filter(None, [made.note, brief]))
        opened = _Open(made)
        self._open.append(opened)
        for number, face in enumerate(judged):
            opened.scores.append([])
            for waiting, (judge, _) in zip(self._waiting, self.judges):
                samples, columns = samples_of(judge, face, self.settings.frames, found.fps)
                opened.scores[number].append(columns)
                opened.left += len(samples)
                waiting += [(opened, number, sample) for sample in samples]
            made.faces.append(_face_answer(number, face, opened.scores[number], self.settings))
            face.crops = []  # held by the waiting crops alone
        for place, waiting in enumerate(self._waiting):
            while len(waiting) >= self._chunk:
                self._judge(place)
        self._finish_done()

    def _lasts(self, face: FoundFace) -> bool:
        """Whether a face is judged: the main one always, a further one if a run has a whole clip of it."""
        return face.main or any(len(face.frames) >= span(judge.given) for judge, _ in self.judges)

    def end(self) -> None:
        """Judges what is left."""
        for place, waiting in enumerate(self._waiting):
            while waiting:
                self._judge(place)
        self._finish_done()

    def _judge(self, place: int) -> None:
        """Lets a run judge its next samples."""
        chunk = self._waiting[place][: self._chunk]
        del self._waiting[place][: self._chunk]
        columns = self._columns(self.judges[place][0], [sample for _, _, sample in chunk])
        for i, (opened, number, _) in enumerate(chunk):
            kept = opened.scores[number][place]
            for what, values in columns.items():
                kept.setdefault(what, []).append(float(values[i]))
            opened.left -= 1

    def _finish_done(self) -> None:
        """Finishes the files of which everything is judged."""
        for opened in [each for each in self._open if not each.left]:
            self._finish(opened)
        self._open = [each for each in self._open if each.left]

    def _columns(self, judge: Judge, samples: Sequence[Any]) -> dict[str, np.ndarray]:
        """What a run finds in crops or clips, by name, [N] each."""
        began, pictures = time.perf_counter(), len(samples) * judge.given.frames
        found = judge.score(samples)
        columns = {"score": found.scores, "distance": found.distances, "sharpness": found.sharpness}
        self._spend("score", began, pictures)
        began = time.perf_counter()
        for copy in COPIES if self.settings.copies else ():
            columns[copy[0]] = judge.score(samples, copy).scores
        if self.settings.copies:
            self._spend("copies", began, pictures * len(COPIES))
        return {what: values for what, values in columns.items() if values is not None}

    def _spend(self, stage: str, began: float, frames: int) -> None:
        self.answers.seconds[stage] += time.perf_counter() - began
        self.answers.counts[stage] += frames

    def _finish(self, opened: _Open) -> None:
        made = opened.answer
        for face, columns in zip(made.faces, opened.scores):
            judged_face(face, list(zip(self.judges, columns)), self.settings)
        made.verdict, made.probability = verdict_of_file(made.faces)


def _file_answer(name: str, source: Source | None, found: Found) -> FileAnswer:
    kind = source.kind if source else "file"
    if found.failed is not None:
        return FileAnswer(name, kind, UNREADABLE, note=found.failed)
    return FileAnswer(
        name,
        kind,
        NO_FACE,
        note=found.note,
        frames=found.frames,
        width=found.width,
        height=found.height,
        fps=found.fps,
        looked=len(found.looked),
        without=len(found.without),
        unreadable=len(found.unreadable),
        cropped=found.cropped,
    )


def _face_answer(number: int, face: FoundFace, known: Sequence[dict[str, Any]], settings: Settings) -> FaceAnswer:
    turns = [turn for turn in face.turns if turn is not None]
    shown: list[tuple[int, bytes]] = []
    if settings.thumbnails:
        clips = next((each["clips"] for each in known if each.get("clips")), None)
        firsts = [face.frames.index(clip.frames[0]) for clip in clips] if clips else range(len(face.crops))
        chosen = np.unique(np.linspace(0, len(firsts) - 1, MOST_THUMBNAILS).round().astype(int)).tolist()
        shown = [(firsts[place], _thumbnail(face.crops[firsts[place]])) for place in chosen]
    turn = float(np.median(turns)) if turns else None
    return FaceAnswer(number + 1, face.frames, float(np.median(face.sides)), turn, "", 0.0, {}, [], shown)


def _thumbnail(crop: np.ndarray) -> bytes:
    import cv2
    import simplejpeg

    height, width = crop.shape[:2]
    shrink = THUMBNAIL / max(height, width)
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA if shrink < 1 else cv2.INTER_LINEAR)
    return simplejpeg.encode_jpeg(np.ascontiguousarray(small), 80)
