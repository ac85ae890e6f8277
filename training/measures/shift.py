"""How scores move between data sets: a threshold carried from the source, reals of one set against fakes of another.

A detector may score all of one test set higher than all of another. An AUC within each set hides that, but a deployed
detector has one threshold. All of this is of scores of frames: of tables of clips there is none.
"""

from collections.abc import Mapping

import numpy as np

from resproto_fd.training.measures.clusters import source_clusters
from resproto_fd.training.measures.intervals import Interval, auc_interval
from resproto_fd.training.measures.roc import Ranking, point_metrics
from resproto_fd.training.measures.videos import mean_by_video
from resproto_fd.training.scores import ScoreTable

RULES = ("eer", "fpr_5")
"""Where the threshold lies on the source: as many false alarms as misses; 5 % false alarms."""


def thresholds(table: ScoreTable) -> dict[str, float]:
    """Thresholds of frame scores by rule, on the split that the checkpoint was selected on.

    A frame is called fake if its score is at least the threshold. If several thresholds serve, the one with the fewest
    false alarms is taken. There is none if a class is absent, or if the rows are clips.
    """
    if "frame" not in table.levels:
        return {}
    reals, fakes = table.score[table.label == 0], table.score[table.label == 1]
    if not len(reals) or not len(fakes):
        return {}
    cuts = _cuts(table.score)
    fpr, tpr = _rates(reals, cuts), _rates(fakes, cuts)
    at_eer = int(np.argmin(np.abs(fpr - (1 - tpr))))
    return {"eer": float(min(cuts[at_eer], 1.0)), "fpr_5": threshold_at(reals, fakes, 0.05)}


def threshold_at(reals: np.ndarray, fakes: np.ndarray, rate: float) -> float:
    """The lowest threshold that calls at most a share of the reals fake; 1 if no score serves.

    At 1, reals whose score is 1 are called fake, so that the share may be larger: many scores may be tied there.

    Args:
        reals, fakes: Scores of each class, at least one of them.
        rate: The share.

    >>> threshold_at(np.array([0.1, 0.2, 0.3, 0.9]), np.array([0.8, 0.95]), 0.25)
    0.8
    """
    cuts = _cuts(np.concatenate([reals, fakes]))
    return float(min(cuts[int(np.flatnonzero(_rates(reals, cuts) <= rate)[-1])], 1.0))


def _cuts(scores: np.ndarray) -> np.ndarray:
    """All thresholds that divide some scores, the highest first."""
    return np.append(np.unique(scores.astype(np.float64)), np.inf)[::-1]


def transferred(table: ScoreTable, threshold: float) -> tuple[float | None, float | None]:
    """(false positive rate, true positive rate) of a table's frames at a threshold; None where a class is absent."""
    rates = []
    for label in (0, 1):
        scores = table.score[table.label == label]
        rates.append(float(np.mean(scores >= threshold)) if len(scores) else None)
    return rates[0], rates[1]


def transferred_acc(table: ScoreTable, threshold: float) -> float | None:
    """Share of a table's frames that a threshold calls right; None without frames."""
    return float(np.mean((table.score >= threshold) == (table.label == 1))) if len(table.score) else None


def one_sided(table: ScoreTable) -> str:
    """A sentence if all frames are called the same at a threshold of 0.5, though there are both classes, else "".

    Of clips, it is about videos.
    """
    fake = called_fake(table)
    if len(np.unique(table.video_label)) < 2 or (fake.any() and not fake.all()):
        return ""
    side, kind = ("above", "fakes") if fake.all() else ("at most", "reals")
    return f"all scores of {table.dataset} are {side} 0.5: its accuracy is the share of {kind}"


def called_fake(table: ScoreTable) -> np.ndarray:
    """Which frames, or of clips which videos, have a score above 0.5, bool [N] or [V]."""
    if "frame" in table.levels:
        return table.score > 0.5
    return mean_by_video(table.score, table.video_index, len(table.videos)) > 0.5


def cross_aucs(tables: Mapping[str, ScoreTable]) -> dict[str, dict[str, float]]:
    """Frame AUC of the fakes of one test set against the reals of another: {reals of: {fakes of: AUC}}."""
    if not _of_frames(tables):
        return {}
    reals = {name: table.score[table.label == 0] for name, table in tables.items()}
    fakes = {name: table.score[table.label == 1] for name, table in tables.items()}
    return {
        of_real: {of_fake: _auc(real, fake) for of_fake, fake in fakes.items() if len(fake)}
        for of_real, real in reals.items()
        if len(real)
    }


def pooled_auc(tables: Mapping[str, ScoreTable]) -> float | None:
    """Frame AUC over all test sets as one; None where a class is absent, or a table is of clips."""
    if not _of_frames(tables):
        return None
    labels = np.concatenate([table.label for table in tables.values()])
    scores = np.concatenate([table.score for table in tables.values()])
    return point_metrics(Ranking(labels, scores))["auc"]


def across_intervals(tables: Mapping[str, ScoreTable]) -> tuple[Interval, dict[str, dict[str, Interval]]]:
    """`pooled_auc` and `cross_aucs` with their 95 % intervals, in closed form.

    Videos of several sets that are of one source (`source_clusters`), or are one video, are one cluster.

    Args:
        tables: Of frames, by test set.
    """
    people = {video: known for table in tables.values() for video, known in table.people().items()}
    of_video = source_clusters([video for table in tables.values() for video in table.videos.tolist()], people)
    starts = np.cumsum([0, *(len(table.videos) for table in tables.values())])
    of_frame = {name: of_video[start + table.video_index] for start, (name, table) in zip(starts, tables.items())}

    def interval(parts: list[tuple[str, np.ndarray]]) -> Interval:
        labels, scores = (
            np.concatenate([getattr(tables[name], column)[kept] for name, kept in parts])
            for column in ("label", "score")
        )
        return auc_interval(labels, scores, np.concatenate([of_frame[name][kept] for name, kept in parts]))

    of_class = [{name: table.label == label for name, table in tables.items()} for label in (0, 1)]
    reals, fakes = ({name: kept for name, kept in each.items() if kept.any()} for each in of_class)
    cross = {
        of_real: {of_fake: interval([(of_real, real), (of_fake, fake)]) for of_fake, fake in fakes.items()}
        for of_real, real in reals.items()
    }
    return interval([(name, np.ones(len(table.label), bool)) for name, table in tables.items()]), cross


def _of_frames(tables: Mapping[str, ScoreTable]) -> bool:
    return all("frame" in table.levels for table in tables.values())


def _auc(reals: np.ndarray, fakes: np.ndarray) -> float:
    labels = np.repeat([0, 1], [len(reals), len(fakes)])
    return point_metrics(Ranking(labels, np.concatenate([reals, fakes])))["auc"]


def _rates(scores: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Share of the scores at or above each cut."""
    return 1 - np.searchsorted(np.sort(scores), cuts, side="left") / len(scores)
