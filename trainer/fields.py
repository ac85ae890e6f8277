"""Fields that a detector may require beside images and labels, taken from the manifest and its side file."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.suggestions import nearest
from resproto_fd.detectors.base import Detector
from resproto_fd.preprocessing.side_file import generator_families
from resproto_fd.preprocessing.video import Video
from resproto_fd.trainer.clip_list import ClipList
from resproto_fd.trainer.companions import COMPANIONS
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.scenes import identity_of, side_records, target_of

NO_FAMILY = "none"
"""Family of real videos, and of fakes if the family of their generator is not known."""

FACTS: dict[str, Callable[[Video], str]] = {
    "domain": lambda video: video.dataset,
    "method": lambda video: video.method,
    "forgery_type": lambda video: video.forgery_type,
    "family": lambda video: generator_families().get(video.method, NO_FAMILY),
}
"""Field -> its value for a video. The batch holds the value's index in the detector's vocabulary, int64 [B]."""

PERSONS = {"identity": identity_of, "target_identity": target_of}
"""Field -> the person of a video that it means (see `scenes`). The batch holds the person's index, int64 [B]: in the
detector's vocabulary if that has the field, else among the names of all people in the training frames, sorted."""

CAPTIONS = {"captions_facial": "facial", "captions_environmental": "environmental"}
"""Field -> kind of description of a frame. The batch holds B texts, "" for frames without one."""


def batch_fields(detector: Detector, frames: FrameList, sides: Mapping[str, Path]) -> dict[str, np.ndarray | list[str]]:
    """Collects the fields that a detector requires for every frame of a list, except those of `companions`.

    If the data have no description of a kind, its field is left out and a note is printed.

    Args:
        detector: Has `requires` and `vocabulary`.
        frames: The training frames, or clips.
        sides: Side file of each data set, by name; the file may be absent.

    Returns:
        Numbers [N] or N texts, by field.

    Raises:
        UserError: A required field is unknown, or clips do not have it, or a value is not in the detector's vocabulary.
    """
    found: dict[str, np.ndarray | list[str]] = {}
    for name in sorted(detector.requires):
        if name in FACTS:
            found[name] = _indices(name, FACTS[name], detector.vocabulary[name], detector, frames)
        elif name in PERSONS:
            found[name] = _persons(name, detector, frames, sides)
        elif name in CAPTIONS:
            if isinstance(frames, ClipList):
                raise UserError(
                    f"{type(detector).__name__} requires '{name}' of a batch, the descriptions of single frames, which "
                    f"clips do not have (input.frames={frames.given.frames}); switch off in model.* what needs them"
                )
            texts = _captions(CAPTIONS[name], frames, sides)
            if any(texts):
                found[name] = texts
            else:
                print(
                    f"note: the side files have no {CAPTIONS[name]} descriptions; the detector works without them",
                    file=sys.stderr,
                )
        elif name not in COMPANIONS:
            known = [*FACTS, *PERSONS, *CAPTIONS, *COMPANIONS]
            raise UserError(
                f"{type(detector).__name__} requires '{name}' of a batch{nearest(name, known)}; "
                f"known: {', '.join(known)}"
            )
    return found


def _persons(name: str, detector: Detector, frames: FrameList, sides: Mapping[str, Path]) -> np.ndarray:
    records = side_records(frames, sides)
    seen = [PERSONS[name](video, records.get(video.id)) for video in frames.videos]
    values = detector.vocabulary.get(name) or sorted({seen[i] for i in np.unique(frames.video_index)})
    who = dict(zip((video.id for video in frames.videos), seen, strict=True))
    return _indices(name, lambda video: who[video.id], values, detector, frames)


def _indices(
    name: str, fact: Callable[[Video], str], values: Sequence[str], detector: Detector, frames: FrameList
) -> np.ndarray:
    places = {value: place for place, value in enumerate(values)}
    unknown: dict[str, str] = {}
    for video in (frames.videos[i] for i in np.unique(frames.video_index)):
        if fact(video) not in places:
            unknown.setdefault(fact(video), video.id)
    if unknown:
        value, video = next(iter(unknown.items()))
        raise UserError(
            f"{type(detector).__name__} knows no {name} '{value}' (video {video}"
            f"{f', and {len(unknown) - 1} other values' if len(unknown) > 1 else ''}){nearest(value, values)}; "
            f"it knows: {', '.join(values)}. Leave such videos out, or add the value to the detector's keywords"
        )
    of_video = np.asarray([places.get(fact(video), -1) for video in frames.videos], dtype=np.int64)
    return of_video[frames.fact_index]


def _captions(kind: str, frames: FrameList, sides: Mapping[str, Path]) -> list[str]:
    records = side_records(frames, sides)
    texts = []
    for path, owner in zip(frames.paths, frames.video_index, strict=True):
        record = records.get(frames.videos[owner].id)
        texts.append((record.caption(path, kind) if record else None) or "")
    return texts
