"""How scores move between data sets: a threshold carried from the source, reals of one set against fakes of another.

A detector may score all of one test set higher than all of another. An AUC within each set hides that, but a deployed
detector has one threshold.
"""

from collections.abc import Mapping

import numpy as np

from resproto_fd.training.measures.roc import Ranking, point_metrics
from resproto_fd.training.scores import ScoreTable

RULES = ("eer", "fpr_5")
"""Where the threshold lies on the source: as many false alarms as misses; 5 % false alarms."""


def thresholds(table: ScoreTable) -> dict[str, float]:
    """Thresholds of frame scores by rule, on the split that the checkpoint was selected on.

    A frame is called fake if its score is at least the threshold. If several thresholds serve, the one with the fewest
    false alarms is taken. There is none if a class is absent.
    """
    reals, fakes = table.score[table.label == 0], table.score[table.label == 1]
    if not len(reals) or not len(fakes):
        return {}
    cuts = np.append(np.unique(table.score.astype(np.float64)), np.inf)[::-1]
    fpr, tpr = _rates(reals, cuts), _rates(fakes, cuts)
    at_eer = int(np.argmin(np.abs(fpr - (1 - tpr))))
    at_5 = int(np.flatnonzero(fpr <= 0.05)[-1])
    return {"eer": float(min(cuts[at_eer], 1.0)), "fpr_5": float(min(cuts[at_5], 1.0))}


def transferred(table: ScoreTable, threshold: float) -> tuple[float | None, float | None]:
    """(false positive rate, true positive rate) of a table's frames at a threshold; None where a class is absent."""
    rates = []
    for label in (0, 1):
        scores = table.score[table.label == label]
        rates.append(float(np.mean(scores >= threshold)) if len(scores) else None)
    return rates[0], rates[1]


def cross_aucs(tables: Mapping[str, ScoreTable]) -> dict[str, dict[str, float]]:
    """Frame AUC of the fakes of one test set against the reals of another: {reals of: {fakes of: AUC}}."""
    reals = {name: table.score[table.label == 0] for name, table in tables.items()}
    fakes = {name: table.score[table.label == 1] for name, table in tables.items()}
    return {
        of_real: {of_fake: _auc(real, fake) for of_fake, fake in fakes.items() if len(fake)}
        for of_real, real in reals.items()
        if len(real)
    }


def pooled_auc(tables: Mapping[str, ScoreTable]) -> float | None:
    """Frame AUC over all test sets as one; None where a class is absent."""
    labels = np.concatenate([table.label for table in tables.values()])
    scores = np.concatenate([table.score for table in tables.values()])
    return point_metrics(Ranking(labels, scores))["auc"]


def _auc(reals: np.ndarray, fakes: np.ndarray) -> float:
    labels = np.repeat([0, 1], [len(reals), len(fakes)])
    return point_metrics(Ranking(labels, np.concatenate([reals, fakes])))["auc"]


def _rates(scores: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Share of the scores at or above each cut."""
    return 1 - np.searchsorted(np.sort(scores), cuts, side="left") / len(scores)
