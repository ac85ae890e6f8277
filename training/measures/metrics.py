"""Metrics of a score table, from labels and scores alone: no detector, no configuration.

A metric is None if a class is absent and the metric needs both; the others are still computed.
"""

import numpy as np

from resproto_fd.training.measures.roc import Ranking, area_under_curve, average_precision, equal_error_rate
from resproto_fd.training.measures.videos import mean_by_video
from resproto_fd.training.scores import ScoreTable

NAMES = ("auc", "ap", "eer", "acc", "balanced_acc")


def binary_metrics(labels: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """Threshold-free and thresholded metrics of binary scores.

    Args:
        labels: 0 real, 1 fake, [N].
        scores: P(fake), [N].

    Returns:
        auc: Area under the ROC curve; a tie between a real and a fake counts one half.
        ap: Average precision, the step-wise sum, fake being the positive class.
        eer: Equal error rate, see `equal_error_rate`.
        acc: Share of right answers when a score above 0.5 (not 0.5 itself) is called fake.
        balanced_acc: Mean of the shares of right answers among real and among fake.
        All but acc are None when real or fake is absent; acc is None when there is nothing at all.

    Raises:
        ValueError: Lengths differ, a label is not 0 or 1, or a score is not finite.

    >>> binary_metrics(np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.6, 0.9]))["auc"]
    0.875
    """
    ranking = Ranking(labels, scores)
    result: dict[str, float | None] = dict.fromkeys(NAMES)
    if not len(ranking.labels):
        return result
    right, fake = (ranking.scores > 0.5) == (ranking.labels == 1), ranking.labels == 1
    result["acc"] = float(right.mean())
    if not ranking.defined:
        return result
    fpr, tpr = ranking.curve()
    result["auc"] = area_under_curve(fpr, tpr)
    result["ap"] = average_precision(ranking)
    result["eer"] = equal_error_rate(fpr, tpr)
    result["balanced_acc"] = float((right[fake].mean() + right[~fake].mean()) / 2)
    return result


def table_metrics(table: ScoreTable, variant: str | None = None) -> dict[str, float | int | None]:
    """All metrics of a table, frames and videos, by the names that a result file uses.

    Args:
        table: The scores.
        variant: Name of one of the table's other scores; its main score if not given.

    Returns:
        frames, real_frames, videos, real_videos, then frame_auc, frame_ap, frame_eer, frame_acc, frame_balanced_acc
        and the same five of videos (mean score of each).
    """
    scores = table.score if variant is None else table.variants[variant]
    means = mean_by_video(scores, table.video_index, len(table.videos))
    return _metrics(table.label, scores, table.video_label, means)


def method_metrics(table: ScoreTable, variant: str | None = None) -> dict[str, dict[str, float | int | None]]:
    """The metrics of each forgery method: its fakes against all real frames of the same test set.

    Returns:
        By method, in alphabetical order: what `table_metrics` returns, of that method's fakes and all reals.
    """
    scores = table.score if variant is None else table.variants[variant]
    means = mean_by_video(scores, table.video_index, len(table.videos))
    labels = table.label
    result = {}
    for method in sorted(set(table.video_method[table.video_label == 1].tolist())):
        videos = (table.video_label == 0) | (table.video_method == method)
        frames = videos[table.video_index]
        result[method] = _metrics(labels[frames], scores[frames], table.video_label[videos], means[videos])
    return result


def _metrics(labels, scores, video_labels, video_means) -> dict[str, float | int | None]:
    result: dict[str, float | int | None] = {
        "frames": len(labels),
        "real_frames": int((labels == 0).sum()),
        "videos": len(video_labels),
        "real_videos": int((video_labels == 0).sum()),
    }
    result |= {f"frame_{name}": value for name, value in binary_metrics(labels, scores).items()}
    result |= {f"video_{name}": value for name, value in binary_metrics(video_labels, video_means).items()}
    return result
