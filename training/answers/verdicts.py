"""Verdicts: from what runs find in a face's frames to real, fake or unsure, with the reasons."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from resproto_fd.training.answers.judges import Judge
from resproto_fd.training.answers.reasons import COPY_WORDS, MOST_TURN
from resproto_fd.training.answers.records import (
    FAKE,
    NO_FACE,
    REAL,
    UNSURE,
    FaceAnswer,
    Opinion,
    Settings,
)
from resproto_fd.training.calibration import Level
from resproto_fd.training.measures.calibration import with_prior
from resproto_fd.training.measures.videos import mean_by_video


def level_of(frames: int) -> str:
    """What a mean over some frames is calibrated as: a video's score, or one frame's."""
    return "video" if frames > 1 else "frame"


def judged_face(
    face: FaceAnswer, found: Sequence[tuple[tuple[Judge, str], dict[str, Any]]], settings: Settings
) -> None:
    """Puts the runs' opinions, their combination, the verdict and its reasons into a face's answer.

    Args:
        face: The answer.
        found: For each run, named: "score", and where there are any "distance", "sharpness" and copies, one a frame or
            clip; of a run of clips also "clips", and "reasons" of its own. A run that leaves out a face which is in
            too few frames has no "score".
        settings: What is asked.
    """
    face.opinions = [_opinion(judge, name, columns, settings) for (judge, name), columns in found if "score" in columns]
    told = [(name, columns["reasons"]) for (_, name), columns in found if "score" not in columns]
    told += [(opinion.run, opinion.reasons) for opinion in face.opinions]
    face.reasons = _of_face(face, settings) | _of_runs(told)
    if not face.opinions:
        face.verdict, face.probability = UNSURE, None
        return
    face.probability = float(np.mean([each.probability for each in face.opinions]))
    verdicts = {opinion.verdict for opinion in face.opinions}
    if len(verdicts) > 1:
        fakes = [opinion.run for opinion in face.opinions if opinion.verdict == FAKE]
        face.reasons["differ"] = f"{len(fakes)} of {len(face.opinions)} runs call it fake: {', '.join(fakes)}"
    face.verdict = UNSURE if face.reasons else verdicts.pop()


def verdict_of_file(faces: Sequence[FaceAnswer]) -> tuple[str, float | None]:
    """The verdict of a file and the probability of the face that decides it.

    A file is fake if one of its faces is fake, unsure if one is unsure and none fake, and real if all are real.
    """
    for verdict in (FAKE, UNSURE, REAL):
        of_verdict = [face.probability for face in faces if face.verdict == verdict]
        if of_verdict:
            return verdict, max((each for each in of_verdict if each is not None), default=None)
    return NO_FACE, None


def probability_of(score: float, level: Level, settings: Settings) -> float:
    """The probability that a score stands for, in [0, 1]; the score itself, if no calibration is wanted."""
    if settings.calibration == "none":
        return score
    probability = level.calibrator(settings.calibration)(np.array([score]))
    if settings.prior is not None:
        probability = with_prior(probability, level.fakes, settings.prior)
    return float(probability[0])


def _opinion(judge: Judge, name: str, columns: dict[str, Any], settings: Settings) -> Opinion:
    scores = columns["score"]
    mean, level = _mean(scores), _level(judge, len(scores))
    threshold = 0.5 if level is None else level.thresholds[f"{settings.false_alarms:g}"].threshold
    made = Opinion(name, mean, mean, threshold, FAKE if mean >= threshold else REAL)
    if "clips" in columns:
        made.clips = [replace(clip, score=score) for clip, score in zip(columns["clips"], scores, strict=True)]
    else:
        made.frames = scores
    made.reasons |= columns.get("reasons", {})
    if level is None:
        made.reasons["uncalibrated"] = "the run has no threshold of its own; run: resproto calibrate RUN"
    else:
        made.probability = probability_of(mean, level, settings)
    made.copies = {copy: _mean(columns[copy]) for copy in COPY_WORDS if copy in columns}
    flipped = [copy for copy, score in made.copies.items() if (score >= threshold) != (mean >= threshold)]
    if flipped:
        words = " and when ".join(COPY_WORDS[copy] for copy in flipped)
        first, *others = told_apart(mean, *(made.copies[copy] for copy in flipped))
        made.reasons["flips"] = f"the verdict flips when the face is {words}: {first} becomes {', '.join(others)}"
    reference = judge.calibration.reference if judge.calibration else None
    if "distance" in columns and reference is not None and reference.far is not None:
        away = np.asarray(columns["distance"])
        made.distance, made.far = float(np.median(away)), reference.far
        if made.distance > reference.far:
            far, distance = told_apart(reference.far, made.distance)
            made.reasons["unlike"] = (
                f"the face is unlike those that the run was selected on: distance {distance}; 99 % of them are nearer "
                f"than {far}"
            )
    if "sharpness" in columns and reference is not None and np.median(columns["sharpness"]) < reference.sharp:
        made.reasons["blurred"] = (
            f"the face is blurred: sharpness {np.median(columns['sharpness']):.0f}, below that of 99 % of the frames "
            f"that the run was selected on ({reference.sharp:.0f})"
        )
    return made


def _of_runs(told: Sequence[tuple[str, dict[str, str]]]) -> dict[str, str]:
    """Reasons of runs by rule; of several runs, with the names of those that share them."""
    by_text: dict[str, dict[str, list[str]]] = {}
    for run, reasons in told:
        for rule, text in reasons.items():
            by_text.setdefault(rule, {}).setdefault(text, []).append(run)
    several = len(told) > 1
    return {
        rule: "; ".join(f"{text} ({', '.join(runs)})" if several else text for text, runs in texts.items())
        for rule, texts in by_text.items()
    }


def _of_face(face: FaceAnswer, settings: Settings) -> dict[str, str]:
    """Reasons that do not depend on a run."""
    found = {}
    if face.side < settings.min_side:
        found["small"] = f"the face is {face.side:.0f} pixels wide; {settings.min_side} are needed"
    if face.turn is not None and face.turn > MOST_TURN:
        found["turned"] = f"the face is turned away: its nose is {face.turn:.2f} off the middle of its eyes"
    return found


def _level(judge: Judge, samples: int) -> Level | None:
    """What the mean of some frames or clips is calibrated as; of clips there is the level of videos alone."""
    levels = {} if judge.calibration is None else judge.calibration.levels
    return levels.get(level_of(samples), levels.get("video"))


def _mean(scores: Sequence[float]) -> float:
    """As a video's score is made everywhere in the package."""
    return float(mean_by_video(np.asarray(scores), np.zeros(len(scores), dtype=np.int64), 1)[0])


def told_apart(first: float, *others: float) -> list[str]:
    """Numbers with three digits, or as many more, up to eight, as show that the first differs from each other.

    >>> told_apart(0.8, 0.25), told_apart(0.81701, 0.81702), told_apart(0.5, 0.5)
    (['0.800', '0.250'], ['0.81701', '0.81702'], ['0.500', '0.500'])
    """
    unlike = [other for other in others if other != first]
    digits = next((n for n in range(3, 8) if all(f"{first:.{n}f}" != f"{each:.{n}f}" for each in unlike)), 8)
    return [f"{number:.{digits}f}" for number in (first, *others)]
