"""One score a video, from the scores of its frames."""

import re
from collections.abc import Sequence

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.training.scores import factorize


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
    owners, ordered = _sorted_within(scores, index)
    sums = np.bincount(owners, weights=ordered.astype(np.float64), minlength=videos)
    counts = np.bincount(index, minlength=videos)
    return np.divide(sums, counts, out=np.full(videos, np.nan), where=counts > 0)


def _sorted_within(scores: np.ndarray, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frames sorted by video and within it by score: each one's video [N] and score [N]."""
    scores = np.asarray(scores)
    if scores.dtype == np.float32 and not np.signbit(scores).any():
        # The bits of such numbers are in the order of the numbers. One sort of whole numbers is ten times faster.
        keys = np.sort(np.asarray(index).astype(np.uint64) << 32 | scores.view(np.uint32))
        return (keys >> 32).astype(np.int64), keys.astype(np.uint32).view(np.float32)
    order = np.lexsort((scores, index))
    return index[order], scores[order]


def aggregate_videos(scores: np.ndarray, video_index: np.ndarray, videos: int, how: str = "mean") -> np.ndarray:
    """One score a video.

    Args:
        scores: P(fake) of each frame, [N].
        video_index: Each frame's video, [N] in [0, videos). A position, not a name: `ScoreTable` numbers its videos
            by data set, source and name, so that the four manipulations of an FF++ pair stay four videos.
        videos: How many videos, V; each with at least one frame.
        how: "mean", "median", or "top-5" (any number): the mean of the five highest, of all where there are fewer.

    Returns:
        float64 [V]

    Raises:
        UserError: There is no such aggregation.

    >>> aggregate_videos(np.array([0.5, 1.0, 0.75, 0.25]), np.array([0, 0, 0, 1]), 2, "top-2").tolist()
    [0.875, 0.25]
    """
    if how == "mean":
        return mean_by_video(scores, video_index, videos)
    order = np.lexsort((scores, video_index))
    ordered = scores[order].astype(np.float64)
    counts = np.bincount(video_index, minlength=videos)
    end = np.cumsum(counts)
    if how == "median":
        start = end - counts
        return (ordered[start + (counts - 1) // 2] + ordered[start + counts // 2]) / 2
    match = re.fullmatch(r"top-([1-9]\d*)", how)
    if not match:
        raise UserError(f"video aggregation {how!r}: there are mean, median and top-K, K a number (top-5)")
    from_top = np.repeat(end, counts) - np.arange(len(ordered))  # 1 the highest
    kept = from_top <= int(match[1])
    return mean_by_video(ordered[kept], np.repeat(np.arange(videos), counts)[kept], videos)
