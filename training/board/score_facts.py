"""Reads each stored score table once, and keeps what the leaderboard needs of it.

A table of a million frames is read and sorted in a second; a board has hundreds. What is kept is small: metrics, what
is odd about the scores, and metrics with their errors by video, from which means over seeds have intervals and tests.

In shapes, N is the number of frames, V of videos, K of clusters.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from resproto_fd.configs.errors import UserError, cut
from resproto_fd.training.board.errors import MEASURED, Errors, closed_limits, metric_errors, rate_errors
from resproto_fd.training.measures.clusters import Clusters, table_clusters
from resproto_fd.training.measures.comparisons import aligned_scores
from resproto_fd.training.measures.intervals import Interval, degrees_of_freedom
from resproto_fd.training.measures.metrics import RankedTable
from resproto_fd.training.measures.roc import Ranking
from resproto_fd.training.measures.videos import mean_by_video
from resproto_fd.training.results import RunResult, TestResult
from resproto_fd.training.scores import ScoreTable, table_path

CLUSTERINGS = {
    "video": "Videos",
    "recorded": "People recorded",
    "people": "People recorded and people whose face is seen",
}
"""What may be taken for independent. Where names and side files tell no people, the three are one."""
THREADS = 8
"""Tables read at a time, if there are as many cores. Each needs some 100 MB for a million frames."""


@dataclass(frozen=True)
class ScoreFacts:
    """What the leaderboard needs of one score table.

    Attributes:
        metrics: Metrics recomputed: of all frames under (), of a method under ("per_method", name), of other scores
            under ("variants", name), of the answered frames alone under ("over_answered", "answered frames").
        strange: What no detector's scores would be, in words; empty if nothing is.
        ranks: SHA-256 of the order of the frames by score; None if all scores are the same.
        errors: By metric of `MEASURED`; empty where a class is missing or in one cluster alone.
        rates: The false and the true positive rate at each threshold that was carried here, by its rule.
        called_fake: Share of the frames whose score is above 0.5.
        closed: 95 % limits by metric, all in closed form; empty where the result file has no intervals to be checked.
        made_from: `ScoreTable.made_from_hash`.
    """

    metrics: dict[tuple[str, ...], dict[str, float | int | None]]
    strange: str
    ranks: str | None
    errors: dict[str, Errors]
    rates: dict[str, tuple[Errors, Errors]]
    called_fake: float
    closed: dict[str, Interval]
    made_from: str | None = None

    @property
    def fakes(self) -> float:
        """Share of fakes among the frames."""
        counts = self.metrics[()]
        return 1 - counts["real_frames"] / counts["frames"]


class TestFrames:
    """The frames of one test set in the order of the first table that was read, and their clusters.

    Attributes:
        table: That table.
        of_video: The cluster of each video, see `table_clusters`.
        clusters: The videos in clusters, by a name of `CLUSTERINGS`.
    """

    __test__ = False  # pytest: not a test class

    def __init__(self, table: ScoreTable):
        self.table = table
        self.of_video = of_video = table_clusters(table)
        labels = table.video_label.astype(np.int64)
        people = Clusters(of_video, labels)
        self.clusters = {"video": Clusters(None, labels), "recorded": people.main, "people": people}

    def in_order(self, table: ScoreTable, ranked: RankedTable) -> tuple[Ranking, Ranking]:
        """Frames and videos of another table of the same frames, in the order of these."""
        first = self.table
        _, scores = aligned_scores({"the first table": first, "this table": table})
        if np.array_equal(scores["this table"], table.score) and np.array_equal(first.videos, table.videos):
            return ranked.frame, ranked.video
        means = mean_by_video(scores["this table"], first.video_index, len(first.videos))
        return Ranking(first.label, scores["this table"]), Ranking(first.video_label, means)

    def errors(self, frame: Ranking, video: Ranking, metrics: Sequence[str] = MEASURED) -> dict[str, Errors]:
        """Metrics of rankings in this order with their errors; empty where a class is missing or in one cluster."""
        if not frame.defined or self.clusters["people"].fewest < 2:
            return {}
        return metric_errors(frame, video, self.table.video_index, len(self.table.videos), metrics)


class ScoreReader:
    """Reads the score tables of runs, each of them once.

    Attributes:
        checked: What `limits.CheckedLimits` found, by run and test set.
    """

    def __init__(self):
        self.checked: dict[tuple[int, str], tuple] = {}
        self._facts: dict[tuple, ScoreFacts | UserError] = {}
        self._frames: dict[str, TestFrames] = {}

    def facts(self, run: RunResult, test_set: str) -> ScoreFacts:
        """What a run's score table of a test set tells.

        Raises:
            UserError: See `stored_scores`.
        """
        key = run.folder, test_set
        if key not in self._facts:
            try:
                self._facts[key] = self._read(stored_scores(run, test_set), run.tests[test_set])
            except UserError as error:
                self._facts[key] = error
            except (ArithmeticError, LookupError, MemoryError, TypeError, ValueError) as error:
                # One table costs one row, whatever is wrong with it.
                reason = f"scores of {test_set} cannot be evaluated ({type(error).__name__}: {cut(str(error))})"
                self._facts[key] = UserError(f"{run.folder}: {reason}")
        found = self._facts[key]
        if isinstance(found, UserError):
            raise found
        return found

    def corrupted(self, run: RunResult, test_set: str, corruption: str, severity: str) -> ScoreFacts | None:
        """Metrics and errors of a run's score table under a corruption; None where there is no such table.

        Raises:
            UserError: It cannot be read, or is of other frames or weights.
        """
        if run.folder is None:
            return None
        key = run.folder, test_set, corruption, severity
        if key not in self._facts:
            if not corruption.isidentifier() or not severity.isdecimal():
                raise UserError(f"{run.folder}: robustness names '{corruption} {severity}'; no table has such a name")
            kind, mark = "scores_corrupted", f"@{corruption}-{severity}"
            if not table_path(run.folder, test_set, kind, mark).is_file():
                return None
            table = stored_scores(run, test_set, kind, mark)
            frames = self._of_frames(run.tests[test_set].frames_hash, table)
            ranked = RankedTable(table)
            frame, video = frames.in_order(table, ranked)
            errors = frames.errors(frame, video, ("frame_auc",))
            self._facts[key] = ScoreFacts({(): ranked.metrics()}, "", None, errors, {}, 0.0, {})
        return self._facts[key]

    def has(self, run: RunResult, test_set: str) -> bool:
        """Whether a run's score table of a test set is at hand and can be read."""
        with contextlib.suppress(UserError):
            self.facts(run, test_set)
            return True
        return False

    def read_all(self, results: Sequence[RunResult]) -> None:
        """Read every score table of some runs, several at a time.

        The first table of each list of frames is read alone: its order is the one that the others are put into, and
        must not depend on which thread is faster.
        """
        tables = [(run, name) for run in results for name in run.tests]
        first = {run.tests[name].frames_hash: (run, name) for run, name in reversed(tables)}
        # Else each thread's BLAS would start threads of its own, which compete for the cores.
        with threadpool_limits(1), ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
            bar = tqdm(total=len(tables), desc="score tables", disable=None, leave=False, file=sys.stderr)
            with bar:
                for some in (first.values(), tables):
                    for new in pool.map(self._is_new, *zip(*some)):
                        bar.update(new)

    def _is_new(self, run: RunResult, test_set: str) -> bool:
        """Read a table unless it has been read."""
        if (run.folder, test_set) in self._facts:
            return False
        with contextlib.suppress(UserError):
            self.facts(run, test_set)
        return True

    def clustering(self, runs: Sequence[RunResult], test_set: str) -> str:
        """How the errors of a test set are clustered, in words; empty where no score table is at hand."""
        facts = {}
        for run in runs:
            with contextlib.suppress(UserError, KeyError):
                found = self.facts(run, test_set)
                facts.setdefault(run.tests[test_set].frames_hash, []).append(found)
        if not facts:
            return ""
        frames_hash, usual = max(facts.items(), key=lambda item: len(item[1]))
        clusters = self.clusters(frames_hash)
        errors = [each.errors["frame_auc"].by_video for each in usual if each.errors]
        free = [degrees_of_freedom(clusters.sums(by_video), clusters) for by_video in errors]
        return _clustering(clusters, free)

    def clusters(self, frames_hash: str, clustering: str = "people") -> Clusters:
        """The videos of tables of such frames in clusters; `clustering` is a name of `CLUSTERINGS`."""
        return self._frames[frames_hash].clusters[clustering]

    def first_table(self, frames_hash: str) -> ScoreTable:
        """The first table that was read of such frames."""
        return self._frames[frames_hash].table

    def of_video(self, table: ScoreTable) -> np.ndarray:
        """The cluster of each of a table's videos; see `table_clusters`."""
        for frames in self._frames.values():
            if np.array_equal(frames.table.videos, table.videos):
                return frames.of_video
        return table_clusters(table)

    def _read(self, table: ScoreTable, test: TestResult) -> ScoreFacts:
        frames = self._of_frames(test.frames_hash, table)
        ranked = RankedTable(table)
        metrics: dict[tuple[str, ...], dict] = {(): ranked.metrics()}
        metrics |= {("per_method", method): values for method, values in ranked.method_metrics().items()}
        metrics |= {("variants", name): RankedTable(table, name).metrics() for name in table.variants}
        if (answered := table.over_answered()) is not None:
            metrics["over_answered", "answered frames"] = RankedTable(answered).metrics()
        frame, video = frames.in_order(table, ranked)
        rates, closed, called_fake = {}, {}, float(np.mean(table.score > 0.5))
        errors = frames.errors(frame, video)
        if errors:
            thresholds = {rule: each.threshold for rule, each in test.transfer.items()}
            rates = rate_errors(frame, thresholds, frames.table.video_index, len(frames.table.videos))
        if errors and test.intervals:
            closed = closed_limits(frame, video, frames.table.video_index, frames.clusters["people"])
        strange, ranks, made_from = _strange(frame), _rank_digest(frame), table.made_from_hash()
        return ScoreFacts(metrics, strange, ranks, errors, rates, called_fake, closed, made_from)

    def _of_frames(self, frames_hash: str, table: ScoreTable) -> TestFrames:
        # Threads may both get here; setdefault makes them agree on one order of the frames.
        return self._frames.get(frames_hash) or self._frames.setdefault(frames_hash, TestFrames(table))


def stored_scores(run: RunResult, test_set: str, kind: str = "scores", mark: str = "") -> ScoreTable:
    """The scores that a run's numbers on a test set were made of.

    Args:
        run: The run.
        test_set: Name.
        kind: The table's folder in the run's, see `table_path`.
        mark: Added to its name.

    Raises:
        UserError: The result has no folder, or the folder no such scores, or they are of other frames or weights.
    """
    if run.folder is None or test_set not in run.tests:
        raise UserError(f"{run.detector}: no scores of {test_set}")
    table = ScoreTable.load(table_path(run.folder, test_set, kind, mark))
    if table.frames_hash() != run.tests[test_set].frames_hash or table.checkpoint != run.checkpoint_sha256:
        raise UserError(f"{run.folder}: {kind} of {test_set}{mark} are not those of result.json")
    return table


def _clustering(clusters: Clusters, free: Sequence[float]) -> str:
    if clusters.ways:
        recorded, seen = (way.count for way, _ in clusters.ways)
        text = f"Clustered in two ways: {recorded} people recorded, {seen} people whose face is seen"
    else:
        text = f"Clustered in one way: {clusters.count} clusters of videos or people"
    text += f"; {clusters.fewest} clusters in the class that has fewer"
    if free:
        low, high = (f"{limit:.0f}" for limit in (min(free), max(free)))
        text += f"; degrees of freedom of the frame AUC: {low if low == high else f'{low} to {high}'}"
    return f"{text}."


def _strange(ranking: Ranking) -> str:
    if np.array_equal(ranking.scores, ranking.labels):
        return "its scores are the labels"
    if len(ranking.fakes) == 1:
        return "all its scores are the same"
    if len(ranking.fakes) == 2:
        return "its scores have two values, so that its curve has one point"
    return ""


def _rank_digest(ranking: Ranking) -> str | None:
    return hashlib.sha256(ranking.level.tobytes()).hexdigest() if len(ranking.fakes) > 1 else None
