"""What a page draws from a score table: curves, histograms, calibration."""

from typing import NamedTuple

import numpy as np

from resproto_fd.training.measures.roc import Ranking
from resproto_fd.training.measures.videos import mean_by_video
from resproto_fd.training.scores import ScoreTable

ROC_POINTS = 201
HISTOGRAM_BINS = 20
RELIABILITY_BINS = 10


class Curves(NamedTuple):
    """
    Attributes:
        roc: (false positive rate, true positive rate), at most ROC_POINTS, from (0, 0) to (1, 1); empty without both
            classes.
        real: Share of the real frames in each of HISTOGRAM_BINS equal bins of the score.
        fake: The same of the fake frames.
        reliability: (mean score, share of fakes, frames) of each bin of the score that holds a frame.
        level: What is drawn: "frame", or of a table of clips "video".
    """

    roc: list[tuple[float, float]]
    real: list[float]
    fake: list[float]
    reliability: list[tuple[float, float, int]]
    level: str


def curves(table: ScoreTable) -> Curves:
    """Everything that is drawn of one table's frames; of clips, of its videos."""
    level = table.levels[0]
    if level == "frame":
        labels, scores = table.label, table.score.astype(np.float64)
    else:
        labels, scores = table.video_label, mean_by_video(table.score, table.video_index, len(table.videos))
    bins = np.minimum((scores * HISTOGRAM_BINS).astype(int), HISTOGRAM_BINS - 1)
    shares = [
        (np.bincount(bins[labels == label], minlength=HISTOGRAM_BINS) / max((labels == label).sum(), 1)).tolist()
        for label in (0, 1)
    ]
    return Curves(_roc(labels, scores), *shares, _reliability(labels, scores), level)


def _roc(labels: np.ndarray, scores: np.ndarray) -> list[tuple[float, float]]:
    ranking = Ranking(labels, scores)
    if not ranking.defined:
        return []
    fpr = np.concatenate([[0], np.cumsum(ranking.reals) / ranking.reals.sum()])
    tpr = np.concatenate([[0], np.cumsum(ranking.fakes) / ranking.fakes.sum()])
    if len(fpr) > ROC_POINTS:  # evenly along the curve's length, so that its steep start is kept
        length = fpr + tpr
        wanted = np.linspace(0, 2, ROC_POINTS)
        keep = np.unique(np.searchsorted(length, wanted - 1e-12).clip(0, len(fpr) - 1))
        fpr, tpr = fpr[keep], tpr[keep]
    return list(zip(fpr.tolist(), tpr.tolist()))


def _reliability(labels: np.ndarray, scores: np.ndarray) -> list[tuple[float, float, int]]:
    bins = np.minimum((scores * RELIABILITY_BINS).astype(int), RELIABILITY_BINS - 1)
    counts = np.bincount(bins, minlength=RELIABILITY_BINS)
    fakes = np.bincount(bins, labels, RELIABILITY_BINS)
    sums = np.bincount(bins, scores, RELIABILITY_BINS)
    return [(float(sums[b] / counts[b]), float(fakes[b] / counts[b]), int(counts[b])) for b in np.flatnonzero(counts)]
