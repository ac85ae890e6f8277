"""Clips of a face for runs that score clips: which frames to look at, and which clips to take of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.trainer.clip_list import span
from resproto_fd.training.answers.judges import Judge
from resproto_fd.training.answers.records import Clip, Settings
from resproto_fd.training.answers.search import MOST_FRAMES, FoundFace

_DONE = {
    "repeat": "its frames are repeated",
    "mirror": "its frames are mirrored",
    "leave_out": "the run leaves it out",
}


def runs_for(judges: Sequence[tuple[Judge, str]], settings: Settings) -> dict[str, int]:
    """Which runs of consecutive frames are looked at: `clips` and `runs` of `resproto faces`; none for single frames.

    They are as long as the longest clip, and as many as the clips of a video. At most `MOST_FRAMES` frames are in them.

    Args:
        judges: Runs and their names.
        settings: What is asked.

    Raises:
        UserError: Some runs score clips and others frames, or clips of other kinds.
    """
    kinds = {_kind(judge): name for judge, name in judges}
    if len(kinds) > 1:
        listed = ", ".join(f"{kind} ({name})" for kind, name in kinds.items())
        raise UserError(f"expected runs that score samples of one kind, got {listed}; ask them one by one")
    lengths = {span(judge.given) for judge, _ in judges if judge.given.frames > 1 and judge.sees_runs}
    if not lengths or max(lengths) > MOST_FRAMES:
        return {}
    wanted = max(judge.given.clips or max(1, settings.frames // judge.given.frames) for judge, _ in judges)
    return {"clips": max(lengths), "runs": min(wanted, MOST_FRAMES // max(lengths))}


def _kind(judge: Judge) -> str:
    if judge.given.frames == 1:
        return "single frames"
    return "clips of consecutive frames" if judge.sees_runs else "clips of frames spread over the video"


def samples_of(judge: Judge, face: FoundFace, budget: int, fps: float | None) -> tuple[list, dict[str, Any]]:
    """What a run scores of a face, crops or clips of crops; and what is known of these before they are scored.

    Args:
        judge: The run.
        face: The face.
        budget: See `Judge.clips_of`.
        fps: Frames of the file a second; None if it does not tell.

    Returns:
        Samples as `Judge.score` takes them; and of clips "clips", and "reasons" why an answer about them is unsure.
    """
    if judge.given.frames == 1:
        return face.crops, {}
    clips = judge.clips_of(face.numbers, budget).tolist()
    made = []
    for places in clips:
        frames = [face.frames[place] for place in places]
        seconds = [frame / fps for frame in frames] if fps else None
        made.append(Clip(min(frames), max(frames), frames, seconds))
    samples = [[face.crops[place] for place in places] for places in clips]
    return samples, {"clips": made, "reasons": _reasons(judge, face, clips)}


def _reasons(judge: Judge, face: FoundFace, clips: Sequence[Sequence[int]]) -> dict[str, str]:
    """Why clips tell less than those that the run was calibrated on: the face is in too few frames, or is missed."""
    given, frames = judge.given, len(face.frames)
    if frames < span(given):
        seen = f"{frames} frame{'s' * (frames != 1)}"
        return {
            "short": f"the face is in {seen}, and a clip takes {span(given)}: {_DONE[given.short]} "
            f"(input.short={given.short})"
        }
    steps = np.diff(np.asarray(face.numbers)[clips[0]])
    if judge.sees_runs and (steps != given.stride).any():
        return {"gaps": "no clip has consecutive frames, since frames without the face lie between those with it"}
    return {}
