"""What DeepfakeBench would report for the same scores, and why it differs from the corrected metrics.

For comparing with tables made by DeepfakeBench (SCLBD/DeepfakeBench at 8a4a7bf, training/metrics/utils.py), and for
nothing else: its video AUC merges videos whose folders have one name, and its equal error rate is read off a corner of
the ROC curve. Written from a description of what it computes, checked against numbers that its own code gave.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from resproto_fd.training.measures.metrics import RankedTable, binary_metrics, ranked_metrics
from resproto_fd.training.measures.roc import Ranking, equal_error_rate
from resproto_fd.training.scores import ScoreTable, factorize

NAMES = {"acc": "frame_acc", "auc": "frame_auc", "eer": "frame_eer", "ap": "frame_ap", "video_auc": "video_auc"}
"""DeepfakeBench's name of a metric -> the corrected metric's name in a result file."""

NOT_IN_SCORES = (
    "fewer frames than a video has on disk: the first n are taken, not n evenly spaced (abstract_dataset.py:217)",
    "a frame that cannot be read is silently replaced by the first of the list and its label (abstract_dataset.py:491)",
    "its README table is the mean of the three best test AUCs seen in training, chosen for each test set apart "
    "(analysis/auc_table1_fromrecord.py:47): no checkpoint has those numbers",
)
"""Differences that come before the scores: no score table shows them, and they are not undone here."""


CLIPS_ARE_FRAMES = "it takes each clip for a frame; a detector of clips scores no frame"
CLIPS_ARE_VIDEOS = "it takes each clip for a video; here a video's score is the mean of its clips' scores"


class OldMetrics(NamedTuple):
    """Its five numbers, all None with the exception that ends its run as `failure`."""

    acc: float | None = None
    auc: float | None = None
    eer: float | None = None
    ap: float | None = None
    video_auc: float | None = None
    failure: str | None = None


class Difference(NamedTuple):
    """One metric, both ways; `cause` is empty where they agree."""

    metric: str
    deepfakebench: float | None
    corrected: float | None
    cause: str


def video_key(path: str) -> str:
    r"""What it takes for the name of a frame's video: the folder the frame lies in, without what is above it.

    >>> video_key("FaceForensics++/manipulated_sequences/FaceSwap/c23/frames/000_003/012.png")
    '000_003'
    >>> video_key("FaceForensics++\\original_sequences/youtube/c23/frames/000/012.png")  # only backslashes are split
    'FaceForensics++'
    """
    return path.split("\\" if "\\" in path else "/")[-2]


def deepfakebench_metrics(
    labels: np.ndarray,
    scores: np.ndarray,
    keys: Sequence[str] | np.ndarray | None,
    ranking: Ranking | None = None,
) -> OldMetrics:
    """Its numbers for one test set.

    acc: above 0.5 is fake. auc, ap: as everywhere. eer: the false positive rate at that corner of the ROC curve, after
    points inside straight runs were dropped, where false alarms and misses are closest, the first of several.
    video_auc: of the mean score of all frames with one key, which is fake only if all of them are.

    Args:
        labels: 0 real, anything above fake, [N].
        scores: P(fake), float32 as its detectors give it, [N].
        keys: `video_key` of each frame, or numbers from 0 that stand for the keys, [N]; None for clips, where its
            video AUC is the AUC of the clips.
        ranking: The same labels and scores, if they were sorted before.

    Returns:
        Without numbers where its code raises an exception: a class is absent among the frames or the merged videos,
        a score is NaN, there is only one frame.
    """
    labels, scores = np.minimum(np.asarray(labels), 1), np.asarray(scores)
    if len(labels) == 1:
        return OldMetrics(failure="TypeError: Input should have at least 1 dimension")
    if np.isnan(scores).any():
        return OldMetrics(failure="ValueError: Input contains NaN.")
    video_labels, video_scores = (labels, scores) if keys is None else _merged_videos(labels, scores, keys)
    for called, some in (("frame", labels), ("video", video_labels)):
        if some.min() == some.max():
            failure = f"ValueError: All-NaN slice encountered (every {called} is {'fake' if some.min() else 'real'})"
            return OldMetrics(failure=failure)

    ranking = ranking or Ranking(labels, scores)
    same = ranked_metrics(ranking)  # acc, auc and ap are the same formulas
    return OldMetrics(
        acc=same["acc"],
        auc=same["auc"],
        eer=_corner(ranking)[0],
        ap=same["ap"],
        video_auc=binary_metrics(video_labels, video_scores)["auc"],
    )


def explained(table: ScoreTable, variant: str | None = None) -> tuple[OldMetrics, list[Difference]]:
    """Both numbers of each metric for a score table, and what makes them differ.

    A table's videos are named by their path; its last part is the folder that DeepfakeBench goes by. Clips are frames
    to it, and videos too.

    Args:
        table: The scores.
        variant: Name of one of the table's other scores; its main score if not given.
    """
    scores = table.score if variant is None else table.variants[variant]
    folders = np.array([video.rpartition("/")[2] for video in table.videos.tolist()])
    ranked, by_clips = RankedTable(table, variant), table.clips is not None
    keys = None if by_clips else factorize(folders)[1][table.video_index]
    old, new = deepfakebench_metrics(table.label, scores, keys, ranked.rows), ranked.metrics()
    rows = []
    for name, ours in NAMES.items():
        theirs, corrected = getattr(old, name), new[ours]
        cause = ""
        if theirs is None:
            cause = f"its run ends with {old.failure}" if corrected is not None else ""
        elif corrected is None:
            cause = CLIPS_ARE_FRAMES
        elif by_clips and abs(theirs - corrected) > 1e-9:
            cause = CLIPS_ARE_VIDEOS
        elif abs(theirs - corrected) > 1e-9:  # the others are the same formulas
            cause = _merging(table, folders) if name == "video_auc" else _thinning(table.label, scores)
        rows.append(Difference(name, theirs, corrected, cause))
    return old, rows


def _merged_videos(labels: np.ndarray, scores: np.ndarray, keys) -> tuple[np.ndarray, np.ndarray]:
    keys = np.asarray(keys)
    index = keys if keys.dtype.kind == "i" else factorize(keys)[1]
    counts = np.bincount(index)
    fakes = np.bincount(index, labels).astype(np.int64)
    means = np.bincount(index, scores) / counts
    if scores.dtype == np.float32:  # its scores pass through text: 0.1 then is 0.1, not 0.10000000149
        order = np.argsort(means)
        near = np.flatnonzero(np.diff(means[order]) < NEAR)
        moved = np.isin(index, order[np.union1d(near, near + 1)])  # other videos keep their places
        as_text = scores[moved].astype(np.str_).astype(np.float64)
        exact = np.bincount(index[moved], as_text, len(counts)) / counts
        means = np.where(np.bincount(index[moved], minlength=len(counts)) > 0, exact, means)
    return fakes // counts, means


NEAR = 1e-7
"""Means of float32 scores farther apart than this keep their order when the scores pass through text."""


def _corner(ranking: Ranking) -> tuple[float, float]:
    """False positive rate and miss rate at the corner of the curve where it reads the equal error rate."""
    fp, tp = np.cumsum(ranking.reals), np.cumsum(ranking.fakes)
    turns = (np.diff(fp, 2) != 0) | (np.diff(tp, 2) != 0)
    kept = np.concatenate([[True], turns, [True]])[: len(fp)]  # points inside straight runs are dropped
    fpr, tpr = (np.concatenate([[0.0], counts[kept]]) / counts[-1] for counts in (fp, tp))
    at = np.argmin(np.abs(1 - tpr - fpr))
    return float(fpr[at]), float(1 - tpr[at])


def _thinning(labels: np.ndarray, scores: np.ndarray) -> str:
    ranking = Ranking(labels, scores)
    false_alarms, misses = _corner(ranking)
    return (
        f"read off a corner of the curve with {false_alarms:.4f} false alarms and {misses:.4f} misses, "
        f"where the curve has as many of both at {equal_error_rate(*ranking.curve()):.4f}"
    )


def _merging(table: ScoreTable, folders: np.ndarray) -> str:
    names, index = factorize(folders)
    counts = np.bincount(index)
    fakes = np.bincount(index, table.video_label, len(names))
    merged = counts > 1
    if not merged.any():
        return "its mean of a video's scores is rounded otherwise, which makes or breaks a tie"
    mixed = (fakes > 0) & (fakes < counts)
    example = int(np.argmax(counts))
    parts = table.videos[index == example][:4].tolist()
    text = (
        f"{len(counts)} videos instead of {len(folders)}: {int(counts[merged].sum())} share their folder's name with "
        f"others and are averaged into {int(merged.sum())}, such as {' + '.join(parts)}"
    )
    return text + (f"; {int(mixed.sum())} of these hold real and fake and count as real" if mixed.any() else "")
