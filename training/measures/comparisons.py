"""Which differences between detectors are more than chance: paired tests on the same frames, or on the same videos.

Scores of videos are paired by the videos that all detectors scored, whatever frames or clips they were made of. So a
detector of frames is compared with one of clips.

Two detectors that scored the same frames err on the same hard videos, so their difference is far better known than
either AUC: overlapping intervals do not tell whether they differ. The test is DeLong's for paired curves with
Obuchowski's (1997) clustered covariance, with one p-value for each pair and Holm's (1979) step-down correction over all
pairs of a table. Since every pair is in that family, "not distinguishable from the best" stays right although the best
was picked by its result.

In shapes, D is the number of detectors, N of frames (or videos), K of clusters.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.training.measures.clusters import Clusters, table_clusters
from resproto_fd.training.measures.intervals import NO_ERROR, auc_covariance, cluster_components, degrees_of_freedom
from resproto_fd.training.measures.roc import Ranking
from resproto_fd.training.measures.videos import aggregate_videos
from resproto_fd.training.scores import ScoreTable

Key = TypeVar("Key", bound=Hashable)


class Difference(NamedTuple):
    """AUC of `first` minus AUC of `second`, on the same frames."""

    first: str
    second: str
    difference: float
    low: float | None  # the limits are undefined where the difference has no standard error
    high: float | None
    p: float  # of no difference, two-sided
    p_holm: float  # the same, corrected for all pairs tested


class Comparison(NamedTuple):
    """All detectors of a table against each other; `differences` is empty where the AUC or its error is undefined."""

    aucs: dict[str, float | None]
    differences: list[Difference]
    unpaired: int = 0  # videos that some detector did not score; a comparison by videos leaves them out

    @property
    def best(self) -> str | None:
        """The detector with the highest AUC."""
        known = {name: auc for name, auc in self.aucs.items() if auc is not None}
        return max(known, key=known.__getitem__) if known else None

    def ties_with_best(self, alpha: float = 0.05) -> list[str]:
        """The best detector and all that this test set cannot distinguish from it, in the table's order."""
        worse = {
            row.second if row.first == self.best else row.first
            for row in self.differences
            if self.best in (row.first, row.second) and row.p_holm < alpha
        }
        return [name for name, auc in self.aucs.items() if auc is not None and name not in worse]


def holm(p_values: Sequence[float] | np.ndarray) -> np.ndarray:
    """p-values corrected for how many there are, so that one false alarm among all has at most its stated chance.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def compare_aucs(
    labels: np.ndarray,
    scores: Mapping[str, np.ndarray],
    clusters: np.ndarray | None = None,
    confidence: float = 0.95,
) -> Comparison:
    """Test all pairs of detectors that scored the same frames.

    Args:
        labels: 0 real, 1 fake, [N].
        scores: P(fake) of the same N frames in the same order, by detector, [N] each.
        clusters: Which frames are not independent of each other, numbers from 0, [N]; all are if not given.
        confidence: Of each difference's interval, which is not corrected for the number of pairs.

    Raises:
        ValueError: Lengths differ, or a score is not finite.
    """
    from scipy.special import stdtr, stdtrit

    labels = np.asarray(labels).astype(np.int64)
    found = Clusters(clusters, labels)
    aucs: dict[str, float | None] = dict.fromkeys(scores)
    fake, real = np.zeros((2, len(scores), found.count))
    for row, (name, values) in enumerate(scores.items()):
        ranking = Ranking(labels, values)
        if ranking.defined:
            aucs[name], fake[row], real[row] = cluster_components(ranking, found)
    if None in aucs.values() or found.fewest < 2:
        return Comparison(aucs, [])
    covariance = auc_covariance(fake, real, found)
    names, errors, pairs = list(aucs), fake + real, []
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            difference = aucs[names[i]] - aucs[names[j]]
            variance = covariance[i, i] + covariance[j, j] - 2 * covariance[i, j]
            se = math.sqrt(max(variance, 0))
            free = degrees_of_freedom(errors[i] - errors[j], found)
            if abs(difference) < 1e-12:  # both that and the variance may be rounding errors
                p = 1.0
            else:
                p = float(2 * stdtr(free, -abs(difference) / se)) if se >= NO_ERROR else _least_p(found)
            limits: tuple[float | None, float | None] = None, None
            if se >= NO_ERROR:
                half = float(stdtrit(free, (1 + confidence) / 2) * se)
                limits = max(difference - half, -1.0), min(difference + half, 1.0)
            pairs.append(Difference(names[i], names[j], difference, *limits, p, p))
    return Comparison(aucs, _corrected(pairs))


def _least_p(clusters: Clusters) -> float:
    """The least p-value so many clusters can give: of all right against all wrong, where both variances are 0."""
    return 2.0 ** (1 - clusters.fewest)


def _corrected(pairs: list[Difference]) -> list[Difference]:
    return [pair._replace(p_holm=float(p)) for pair, p in zip(pairs, holm([pair.p for pair in pairs]))]


def correct_together(comparisons: Mapping[str, Comparison]) -> dict[str, Comparison]:
    """The same comparisons, Holm's correction now taken over all of them: for a table of several test sets."""
    together = _corrected([pair for comparison in comparisons.values() for pair in comparison.differences])
    result, start = {}, 0
    for name, comparison in comparisons.items():
        stop = start + len(comparison.differences)
        result[name] = comparison._replace(differences=together[start:stop])
        start = stop
    return result


def compare_tables(
    tables: Mapping[str, ScoreTable],
    *,
    level: str = "frame",
    variant: str | None = None,
    clusters: str | np.ndarray = "source",
    aggregation: str = "mean",
    confidence: float = 0.95,
) -> Comparison:
    """Test all pairs of detectors of one test set, by their score tables.

    Args:
        tables: By detector, in any order: for "frame" the same frames with the same labels; for "video" tables that
            have videos in common, of frames or of clips.
        level: Whether the AUC is of "frame" or of "video" scores.
        variant: Name of one of the tables' other scores; their main score if not given.
        clusters: "source", "video", or the cluster number of each of the first table's videos, [V].
        aggregation: How a video's score is made, see `aggregate_videos`.
        confidence: Of each difference's interval.

    Raises:
        UserError: The tables are not of the same frames (what is missing where is named) or not of the same pixels, or
            have no video in common, or scores of frames are compared where a table is of clips.
    """
    if other := tables_of_other_pixels(tables):
        raise UserError(
            f"{', '.join(other)}: the scored frames of {tables[other[0]].dataset} hold other pixels than those of "
            f"{', '.join(name for name in tables if name not in other)}; test both again on the same frames"
        )
    if level == "frame":
        for name, table in tables.items():
            if "frame" not in table.levels:
                raise UserError(f"{name} scored clips of {table.dataset}, so it has no frame AUC; set --level video")
        first, scores = aligned_scores(tables, variant)
        of_video = table_clusters(first, clusters) if isinstance(clusters, str) else np.asarray(clusters)
        return compare_aucs(first.label, scores, of_video[first.video_index], confidence)
    if level != "video":
        raise UserError(f"compare the AUC of {level!r}: there are 'frame' and 'video'")
    first, kept, videos = aligned_videos(tables, variant, aggregation)
    of_video = table_clusters(first, clusters) if isinstance(clusters, str) else np.asarray(clusters)
    unpaired = len({video for table in tables.values() for video in table.videos.tolist()}) - len(kept)
    return compare_aucs(first.video_label[kept], videos, of_video[kept], confidence)._replace(unpaired=unpaired)


def tables_of_other_pixels(tables: Mapping[str, ScoreTable]) -> list[str]:
    """Names of tables whose frames hold other pixels than those of most tables of the same frames."""
    return of_other_pixels({name: (table.frames_hash(), table.pixels_hash()) for name, table in tables.items()})


def of_other_pixels(read: Mapping[Key, tuple[str, str | None]]) -> list[Key]:
    """Those of some score tables that are of other pixels than most tables of the same frames.

    Args:
        read: The hashes of each table's frames and pixels; None, of pixels that are not known, differs from nothing.

    >>> of_other_pixels({"a": ("frames", "one"), "b": ("frames", "two"), "c": ("frames", "two"), "d": ("fewer", "one")})
    ['a']
    """
    counts: dict[str, Counter] = defaultdict(Counter)
    for frames, pixels in read.values():
        if pixels is not None:
            counts[frames][pixels] += 1
    usual = {frames: found.most_common(1)[0][0] for frames, found in counts.items()}
    return [key for key, (frames, pixels) in read.items() if pixels is not None and pixels != usual[frames]]


def aligned_videos(
    tables: Mapping[str, ScoreTable], variant: str | None = None, aggregation: str = "mean"
) -> tuple[ScoreTable, np.ndarray, dict[str, np.ndarray]]:
    """Scores of the videos that all tables have, whatever frames or clips they are made of.

    Returns:
        (the first table; which of its videos all have [K]; every table's scores of these [K] each)

    Raises:
        UserError: There is no table, or no common video, or they disagree about a label.
    """
    if not tables:
        raise UserError("no score table to compare")
    (reference, first), *_ = tables.items()
    common = set.intersection(*(set(table.videos.tolist()) for table in tables.values()))
    if not common:
        raise UserError(f"no video of {first.dataset} was scored by all of {', '.join(tables)}; score the same videos")
    kept = np.flatnonzero([video in common for video in first.videos.tolist()])
    scores = {}
    for name, table in tables.items():
        place = {video: i for i, video in enumerate(table.videos.tolist())}
        own = np.array([place[video] for video in first.videos[kept].tolist()])
        _refuse_other_labels(name, reference, first.videos[kept], table.video_label[own], first.video_label[kept])
        values = table.score if variant is None else table.variants[variant]
        scores[name] = aggregate_videos(values, table.video_index, len(table.videos), aggregation)[own]
    return first, kept, scores


def _refuse_other_labels(name: str, reference: str, videos: np.ndarray, labels: np.ndarray, first: np.ndarray) -> None:
    """Refuses labels of a table that are not those of the first one, of the same rows or videos."""
    if not np.array_equal(labels, first):
        at = int(np.argmax(labels != first))
        raise UserError(f"{name} and {reference} disagree about {videos[at]}: label {labels[at]} and {first[at]}")


def aligned_scores(
    tables: Mapping[str, ScoreTable], variant: str | None = None
) -> tuple[ScoreTable, dict[str, np.ndarray]]:
    """The first table, and every table's scores in its order, [N] each.

    Raises:
        UserError: There is no table, or they do not list the same frames, or clips, with the same labels.
    """
    if not tables:
        raise UserError("no score table to compare")
    (reference, first), *_ = tables.items()
    position = {video: i for i, video in enumerate(first.videos.tolist())}
    home = None
    scores = {}
    for name, table in tables.items():
        values = table.score if variant is None else table.variants[variant]
        same_videos = np.array_equal(table.videos, first.videos)
        if (
            same_videos
            and np.array_equal(table.video_index, first.video_index)
            and np.array_equal(table.numbers, first.numbers)
        ):
            order = slice(None)
        else:
            home = first.order(first.video_index) if home is None else home
            where = np.array([position.get(video, -1) for video in table.videos.tolist()])
            order = _order_like(first, home, reference, table, where[table.video_index], name)
        _refuse_other_labels(name, reference, first.video, table.label[order], first.label)
        scores[name] = values[order]
    return first, scores


def _order_like(
    first: ScoreTable, home: np.ndarray, reference: str, table: ScoreTable, video: np.ndarray, name: str
) -> np.ndarray:
    """Where each of the first table's rows stands in `table`, [N]; `home` sorts the first table's rows."""
    order = table.order(video)
    same = len(table) == len(first) and np.array_equal(video[order], first.video_index[home])
    if not same or not np.array_equal(table.numbers[order], first.numbers[home]):
        raise _other_rows(first, reference, table, name)
    result = np.empty(len(first), dtype=np.int64)
    result[home] = order
    return result


def _other_rows(first: ScoreTable, reference: str, table: ScoreTable, name: str) -> UserError:
    if first.numbers.shape[1] != table.numbers.shape[1]:
        one, other = (f"{t.unit}s" + f" of {t.numbers.shape[1]}" * (t.clips is not None) for t in (table, first))
        return UserError(
            f"{name} scored {one} of {first.dataset} and {reference} {other}; only their videos can be paired: set "
            "--level video"
        )
    ours, theirs = (set(zip(t.video.tolist(), map(tuple, t.numbers.tolist()))) for t in (first, table))
    lacks, extra = sorted(ours - theirs), sorted(theirs - ours)
    shown = ", ".join(f"{video} {first.unit} {numbers[0]}" for video, numbers in (lacks or extra)[:3])
    return UserError(
        f"{name} and {reference} scored different {first.unit}s of {first.dataset}: {name} lacks {len(lacks)} and has "
        f"{len(extra)} more ({shown}, ...); a paired comparison needs the same {first.unit}s, score both again"
    )
