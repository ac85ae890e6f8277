"""Metrics of a score table, from labels and scores alone: no detector, no configuration.

A metric is None if a class is absent and the metric needs both; the others are still computed. Metrics of frames are
None for a table of clips: a clip's score is that of no frame.
"""

from itertools import pairwise

import numpy as np

from resproto_fd.training.measures.roc import Ranking, area_under_curve, average_precision, equal_error_rate, roc_curve
from resproto_fd.training.measures.videos import aggregate_videos
from resproto_fd.training.scores import ScoreTable

NAMES = ("auc", "ap", "eer", "acc", "balanced_acc")
LEVELS = ("frame", "video")


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
    return ranked_metrics(Ranking(labels, scores))


def ranked_metrics(ranking: Ranking) -> dict[str, float | None]:
    """`binary_metrics` of scores that were sorted before."""
    right, fake = (ranking.scores > 0.5) == (ranking.labels == 1), ranking.labels == 1
    right_fakes = int(np.count_nonzero(right & fake))
    return _counted_metrics(ranking.fakes, ranking.reals, right_fakes, int(np.count_nonzero(right)) - right_fakes)


def _counted_metrics(
    fakes: np.ndarray, reals: np.ndarray, right_fakes: int, right_reals: int
) -> dict[str, float | None]:
    """The metrics from how many fakes and reals there are at each level of score, and how many are called right."""
    of_fakes, of_reals = int(fakes.sum()), int(reals.sum())
    result: dict[str, float | None] = dict.fromkeys(NAMES)
    if not of_fakes + of_reals:
        return result
    result["acc"] = (right_fakes + right_reals) / (of_fakes + of_reals)
    if not of_fakes or not of_reals:
        return result
    fpr, tpr = roc_curve(fakes, reals)
    result["auc"] = area_under_curve(fpr, tpr)
    result["ap"] = average_precision(fakes, reals)
    result["eer"] = equal_error_rate(fpr, tpr)
    result["balanced_acc"] = (right_fakes / of_fakes + right_reals / of_reals) / 2
    return result


class RankedTable:
    """A score table whose rows and videos are sorted once, for all that is computed of them.

    Args:
        table: The scores.
        variant: Name of one of the table's other scores; its main score if not given.
        aggregation: How a video's score is made, see `aggregate_videos`.

    Attributes:
        rows: The rows: frames, or clips.
        video: The videos.
        levels: What metrics are of, by name: "frame", unless the rows are clips, and "video".
    """

    def __init__(self, table: ScoreTable, variant: str | None = None, aggregation: str = "mean"):
        self.table = table
        scores = table.score if variant is None else table.variants[variant]
        self.rows = Ranking(table.label, scores)
        of_videos = aggregate_videos(scores, table.video_index, len(table.videos), aggregation)
        self.video = Ranking(table.video_label, of_videos)
        self.levels = {level: {"frame": self.rows, "video": self.video}[level] for level in table.levels}
        self._frames = table.frames_of_videos()

    def metrics(self) -> dict[str, float | int | None]:
        """See `table_metrics`."""
        result = self._counts(np.ones(len(self.table.videos), bool))
        for level in LEVELS:
            found = ranked_metrics(self.levels[level]) if level in self.levels else dict.fromkeys(NAMES)
            result |= {f"{level}_{name}": value for name, value in found.items()}
        return result

    def method_metrics(self) -> dict[str, dict[str, float | int | None]]:
        """See `method_metrics`."""
        names, of_video = np.unique(self.table.video_method, return_inverse=True)
        reals = self.table.video_label == 0
        of_video = np.where(reals, -1, of_video)
        by_level = {"video": _by_group(self.video, of_video, len(names))}
        if "frame" in self.levels:
            by_level["frame"] = _by_group(self.rows, of_video[self.table.video_index], len(names))
        result = {}
        for place, name in enumerate(names.tolist()):
            if not by_level["video"][place]:
                continue
            result[name] = self._counts(reals | (of_video == place))
            for level in LEVELS:
                found = by_level[level][place] if level in by_level else dict.fromkeys(NAMES)
                result[name] |= {f"{level}_{key}": value for key, value in found.items()}
        return result

    def _counts(self, kept: np.ndarray) -> dict[str, float | int | None]:
        """Frames and videos among some videos, `kept` [V], and how many of them are real; of clips, these too."""
        reals = kept & (self.table.video_label == 0)
        found = {
            "frames": int(self._frames[kept].sum()),
            "real_frames": int(self._frames[reals].sum()),
            "videos": int(kept.sum()),
            "real_videos": int(reals.sum()),
        }
        if self.table.clips is not None:
            found |= {"clips": int(kept[self.table.video_index].sum()), "clip_frames": self.table.clips.shape[1]}
        return found


def _by_group(ranking: Ranking, group: np.ndarray, count: int) -> list[dict[str, float | None]]:
    """Metrics of each group's fakes against all reals, none of an empty one; groups from 0, -1 for reals, [N]."""
    # NumPy sorts small whole numbers in linear time.
    group = group.astype(np.int16 if count < 2**15 else np.int64)
    order = np.argsort(group, kind="stable")
    edges = np.searchsorted(group[order], np.arange(count + 1))
    right_reals = int(np.count_nonzero((ranking.labels == 0) & (ranking.scores <= 0.5)))
    held = ranking.reals > 0
    result = []
    for start, stop in pairwise(edges.tolist()):
        if start == stop:
            result.append({})
            continue
        members = order[start:stop]
        fakes = np.bincount(ranking.level[members], minlength=len(ranking.reals))
        kept = held | (fakes > 0)
        right_fakes = int(np.count_nonzero(ranking.scores[members] > 0.5))
        result.append(_counted_metrics(fakes[kept], ranking.reals[kept], right_fakes, right_reals))
    return result


def table_metrics(table: ScoreTable, variant: str | None = None) -> dict[str, float | int | None]:
    """All metrics of a table, frames and videos, by the names that a result file uses.

    Args:
        table: The scores.
        variant: Name of one of the table's other scores; its main score if not given.

    Returns:
        frames, real_frames, videos, real_videos, then frame_auc, frame_ap, frame_eer, frame_acc, frame_balanced_acc
        and the same five of videos (mean score of each). Of a table of clips, also clips and clip_frames, T; its
        frames are those that the clips hold, each counted once.
    """
    return RankedTable(table, variant).metrics()


def method_metrics(table: ScoreTable, variant: str | None = None) -> dict[str, dict[str, float | int | None]]:
    """The metrics of each forgery method: its fakes against all real frames of the same test set.

    Returns:
        By method, in alphabetical order: what `table_metrics` returns, of that method's fakes and all reals.
    """
    return RankedTable(table, variant).method_metrics()
