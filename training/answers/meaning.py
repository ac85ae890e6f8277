"""What a threshold means, in words, from a run's own frames."""

from resproto_fd.configs import loading
from resproto_fd.training.answers.judges import Judge
from resproto_fd.training.answers.records import Settings
from resproto_fd.training.answers.verdicts import probability_of
from resproto_fd.training.calibration import LEVELS, Threshold
from resproto_fd.training.results import Estimate


def meaning_of(judge: Judge, settings: Settings) -> list[str]:
    """Sentences about the threshold of a run, for pictures and for videos, and about its probabilities."""
    made, found = judge.calibration, _of_clips(judge)
    if made is None:
        return [*found, "This run has no calibration: its scores are no probabilities, and every answer is unsure."]
    where = f"{made.dataset} {made.split}"
    levels = {level: made.levels[level] for level in LEVELS if level in made.levels}
    for level, given in levels.items():
        what = "Pictures" if level == "frame" else "Videos"
        threshold = given.thresholds[f"{settings.false_alarms:g}"]
        calibrated = None if settings.calibration == "none" else probability_of(threshold.threshold, given, settings)
        found.append(_of_threshold(what, f"{level}s", where, threshold, calibrated))
    share = next(iter(levels.values())).fakes
    if settings.calibration == "none":
        found.append("The probability is the score itself.")
    elif settings.prior is None:
        found.append(
            f"The probability ({settings.calibration}) holds where {share:.0%} are fake, as of {where}; --prior says "
            "otherwise."
        )
    else:
        found.append(f"The probability ({settings.calibration}) is for files of which {settings.prior:.0%} are fake.")
    if drawn := [name for name in judge.config.protocol.train if _is_drawn(name)]:
        found.append(
            f"It learnt from data drawn by code ({', '.join(drawn)}): on real pictures its verdicts mean nothing."
        )
    if made.oracle:
        found.append(f"{where} is tested on too: nothing shows that the threshold holds elsewhere.")
    if made.reference is None:
        found.append("Nothing is known of what its frames look like, so that no face is unlike them or blurred.")
    return found


def _of_clips(judge: Judge) -> list[str]:
    """A sentence about what a run of clips scores; none of a run of frames."""
    given = judge.given
    if given.frames == 1:
        return []
    kind = f"{given.frames} consecutive frames" if judge.sees_runs else f"{given.frames} frames spread over the video"
    if given.stride > 1:
        kind = f"{given.frames} frames, every {given.stride} of " + ("a run" if judge.sees_runs else "those looked at")
    return [f"It scores clips of {kind}. A video's score is the mean of its clips'."]


def _is_drawn(name: str) -> bool:
    return name in loading.names("datasets") and loading.load("datasets", name).made


def _of_threshold(what: str, noun: str, where: str, given: Threshold, probability: float | None) -> str:
    also = "" if probability is None else f", which is a probability of {probability:.3f}"
    text = (
        f"{what} are called fake from a score of {given.threshold:.3f}{also}. At this threshold "
        f"{_shown(given.false_alarms)} of the real {noun} of {where}, on which it was set, were called fake, and "
        f"{_shown(given.misses)} of the fake ones real."
    )
    alarms = [f"{rates.fpr:.1%} of {name}" for name, rates in given.elsewhere.items() if rates.fpr is not None]
    return text + (f" Of the real {noun} of test sets: {', '.join(alarms)}." if alarms else "")


def _shown(rate: Estimate) -> str:
    limits = "" if rate.low is None else f" (95 % limits {rate.low:.1%} to {rate.high:.1%})"
    return f"{rate.value:.1%}{limits}"
