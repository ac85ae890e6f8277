"""Metrics of a score table: NumPy and scikit-learn on labels and scores, no detector, no configuration.

A metric that the data do not define (a class is absent) is None, and the others are still computed.
"""

from collections.abc import Sequence

import numpy as np

from resproto_fd.training.scores import ScoreTable, factorize

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
    from sklearn.metrics import auc, average_precision_score, roc_curve

    labels, scores = np.asarray(labels), np.asarray(scores)
    _check(labels, scores)
    result: dict[str, float | None] = dict.fromkeys(NAMES)
    if not len(labels):
        return result
    right = (scores > 0.5) == (labels == 1)
    result["acc"] = float(right.mean())
    fake = labels == 1
    if fake.all() or not fake.any():
        return result
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    # Sums of rounded shares can end at 1.0000000000000002.
    result["auc"] = min(1.0, float(auc(fpr, tpr)))
    result["ap"] = min(1.0, float(average_precision_score(labels, scores)))
    result["eer"] = equal_error_rate(fpr, tpr)
    result["balanced_acc"] = float((right[fake].mean() + right[~fake].mean()) / 2)
    return result


def equal_error_rate(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """Where the ROC curve, its points joined by straight lines, has as many false alarms as misses.

    Args:
        fpr: False positive rates from 0 to 1, all points of the curve, [P].
        tpr: True positive rates at the same thresholds, [P].

    >>> equal_error_rate(np.array([0.0, 1.0]), np.array([0.0, 1.0]))  # a constant score
    0.5
    """
    gap = 1 - tpr - fpr  # falls from 1 to -1
    after = int(np.argmax(gap <= 0))
    before = max(after - 1, 0)
    share = 0.0 if gap[before] == gap[after] else gap[before] / (gap[before] - gap[after])
    return float(fpr[before] + share * (fpr[after] - fpr[before]))


def video_scores(
    scores: np.ndarray, labels: np.ndarray, video_ids: Sequence[str] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean frame score of each video.

    Args:
        scores: P(fake) of each frame, in [0, 1], [N].
        labels: 0 real, 1 fake, [N].
        video_ids: Each frame's video, unique in the whole data set: "FF-DF/000_003", not "000_003", which names one
            video in each of the four FF++ manipulations, [N].

    Returns:
        (scores [V], labels [V]), videos in order of first appearance.

    Raises:
        ValueError: The three lengths differ, or frames of one video carry two labels.

    >>> scores, labels = video_scores(np.array([0.2, 0.6, 0.9]), np.array([0, 0, 1]), ["a", "a", "b"])
    >>> scores.tolist(), labels.tolist()
    ([0.4, 0.9], [0, 1])
    """
    scores, labels = np.asarray(scores), np.asarray(labels)
    if not len(scores) == len(labels) == len(video_ids):
        raise ValueError(f"{len(scores)} scores, {len(labels)} labels, {len(video_ids)} video ids: lengths differ")
    videos, index = factorize(video_ids)
    video_labels = np.zeros(len(videos), dtype=labels.dtype)
    video_labels[index] = labels
    mixed = np.flatnonzero(video_labels[index] != labels)
    if len(mixed):
        raise ValueError(f"video {videos[index[mixed[0]]]} carries two labels")
    return mean_by_video(scores, index, len(videos)), video_labels


def mean_by_video(scores: np.ndarray, index: np.ndarray, videos: int) -> np.ndarray:
    """Mean score of each video, float64 [V], from each frame's video position [N]; NaN for a video without frames."""
    # Summed from the smallest score up, so that the order of the frames cannot break a tie between two videos.
    order = np.lexsort((scores, index))
    sums = np.bincount(index[order], weights=scores[order].astype(np.float64), minlength=videos)
    counts = np.bincount(index, minlength=videos)
    return np.divide(sums, counts, out=np.full(videos, np.nan), where=counts > 0)


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


def _check(labels: np.ndarray, scores: np.ndarray) -> None:
    if labels.shape != scores.shape or labels.ndim != 1:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape}: wanted two columns of one length")
    wrong = np.flatnonzero((labels != 0) & (labels != 1))
    if len(wrong):
        raise ValueError(f"label {labels[wrong[0]]} at position {wrong[0]}: wanted 0 (real) or 1 (fake)")
    wrong = np.flatnonzero(~np.isfinite(scores))
    if len(wrong):
        raise ValueError(f"score {scores[wrong[0]]} at position {wrong[0]}: wanted a finite number")
