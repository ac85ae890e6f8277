"""Reads each stored score table once, and keeps what the leaderboard needs of it.

A table of a million frames is read and sorted in a second; a board has hundreds. What is kept is small: metrics, what
is odd about the scores, and metrics with their errors by video, from which means over seeds have intervals and tests.

In shapes, N is the number of rows (frames or clips), V of videos, K of clusters.
"""

import contextlib
import hashlib
import os
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from resproto_fd.configs.errors import UserError, cut, shown
from resproto_fd.training.board.errors import MEASURED, Errors, closed_limits, metric_errors, rate_errors
from resproto_fd.training.measures.clusters import Clusters, table_clusters
from resproto_fd.training.measures.comparisons import aligned_scores
from resproto_fd.training.measures.intervals import Interval, degrees_of_freedom
from resproto_fd.training.measures.metrics import RankedTable
from resproto_fd.training.measures.roc import Ranking
from resproto_fd.training.measures.shift import called_fake
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
        ranks: SHA-256 of the order of the rows by score; None if all scores are the same.
        errors: By metric of `MEASURED`; empty where a class is missing or in one cluster alone. Of clips, those of
            videos.
        rates: The false and the true positive rate at each threshold that was carried here, by its rule.
        called_fake: Share of the frames, or of clips of the videos, whose score is above 0.5.
        closed: 95 % limits by metric, all in closed form; empty where the result file has no intervals to be checked.
        lists: Hash of the list of "frame"s, unless the rows are clips, and of "video"s. Scores of a level are compared
            where its lists are the same.
        short_videos: `ScoreTable.short_videos`; None where rows are frames.
        pixels: `ScoreTable.pixels_hash`.
    """

    metrics: dict[tuple[str, ...], dict[str, float | int | None]]
    strange: str
    ranks: str | None
    errors: dict[str, Errors]
    rates: dict[str, tuple[Errors, Errors]]
    called_fake: float
    closed: dict[str, Interval]
    lists: dict[str, str]
    short_videos: int | None = None
    pixels: str | None = None

    @property
    def fakes(self) -> float:
        """Share of fakes among the frames, or of clips among the videos."""
        counts, unit = self.metrics[()], "frames" if "frame" in self.lists else "videos"
        return 1 - counts[f"real_{unit}"] / counts[unit]


class TestVideos:
    """The videos of one test set in the order of the first table that was read, and their clusters.

    Attributes:
        videos: Their ids, [V].
        label: 0 real, 1 fake, [V].
        of_video: The cluster of each video, see `table_clusters`.
        clusters: The videos in clusters, by a name of `CLUSTERINGS`.
    """

    __test__ = False  # pytest: not a test class

    def __init__(self, table: ScoreTable):
        self.videos, self.label = table.videos, table.video_label
        self.of_video = of_video = table_clusters(table)
        labels = table.video_label.astype(np.int64)
        people = Clusters(of_video, labels)
        self.clusters = {"video": Clusters(None, labels), "recorded": people.main, "people": people}

    def places(self, videos: np.ndarray) -> np.ndarray:
        """Where each of the same videos in another order stands in these, [V]."""
        place = {video: i for i, video in enumerate(self.videos.tolist())}
        return np.array([place[video] for video in videos.tolist()], dtype=np.int32)


class TestRows:
    """The frames or clips of one test set in the order of the first table that was read.

    Attributes:
        table: That table.
        videos: Their videos, in an order that tables of frames and of clips share.
        video_index: Each row's place in these videos, [N].
        lists: See `ScoreFacts`.
    """

    __test__ = False  # pytest: not a test class

    def __init__(self, table: ScoreTable, videos: TestVideos, lists: dict[str, str]):
        self.table, self.videos, self.lists = table, videos, lists
        self.video_index = table.video_index
        if not np.array_equal(videos.videos, table.videos):
            self.video_index = videos.places(table.videos)[table.video_index]

    def in_order(self, table: ScoreTable, ranked: RankedTable) -> tuple[Ranking, dict[str, Ranking]]:
        """The rows of another table of the same frames or clips, and its levels, in the order of these."""
        _, scores = aligned_scores({"the first table": self.table, "this table": table})
        same_videos = np.array_equal(self.videos.videos, table.videos)
        if np.array_equal(scores["this table"], table.score) and same_videos:
            return ranked.rows, ranked.levels
        rows = Ranking(self.table.label, scores["this table"])
        means = mean_by_video(scores["this table"], self.video_index, len(self.videos.videos))
        levels = {"frame": rows, "video": Ranking(self.videos.label, means)}
        return rows, {level: levels[level] for level in table.levels}

    def errors(self, levels: Mapping[str, Ranking], metrics: Sequence[str] = MEASURED) -> dict[str, Errors]:
        """Metrics of levels in this order with their errors; empty where a class is missing or in one cluster."""
        if not levels["video"].defined or self.videos.clusters["people"].fewest < 2:
            return {}
        return metric_errors(levels, self.video_index, len(self.videos.videos), metrics)


class ScoreReader:
    """Reads the score tables of runs, each of them once.

    Attributes:
        checked: What `limits.CheckedLimits` found, by run and test set.
    """

    def __init__(self):
        self.checked: dict[tuple[int, str], tuple] = {}
        self._facts: dict[tuple, ScoreFacts | UserError] = {}
        self._rows: dict[tuple[str, str], TestRows] = {}  # by test set and hash of its frames
        self._videos: dict[tuple[str, str], TestVideos] = {}  # by test set and hash of its videos

    def facts(self, run: RunResult, test_set: str) -> ScoreFacts:
        """What a run's score table of a test set tells.

        Raises:
            UserError: See `stored_scores`.
        """
        key = run.folder, test_set
        if key not in self._facts:
            try:
                self._facts[key] = self._read(stored_scores(run, test_set), test_set, run.tests[test_set])
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
            rows = self._rows_of(test_set, run.tests[test_set].frames_hash, table)
            ranked = RankedTable(table)
            errors = rows.errors(rows.in_order(table, ranked)[1], (f"{run.level}_auc",))
            self._facts[key] = ScoreFacts({(): ranked.metrics()}, "", None, errors, {}, 0.0, {}, rows.lists)
        return self._facts[key]

    def has(self, run: RunResult, test_set: str) -> bool:
        """Whether a run's score table of a test set is at hand and can be read."""
        with contextlib.suppress(UserError):
            self.facts(run, test_set)
            return True
        return False

    def read_all(self, results: Sequence[RunResult]) -> None:
        """Read every score table of some runs, several at a time.

        The first tables of each test set, one for each list of frames, are read one after another: their order is the
        one that the others are put into, and must not depend on which thread is faster.
        """
        tables, first = [(run, name) for run in results for name in run.tests], defaultdict(dict)
        for run, name in tables:
            first[name].setdefault(run.tests[name].frames_hash, (run, name))
        parts = [list(of_set.values()) for of_set in first.values()], [[table] for table in tables]
        # Else each thread's BLAS would start threads of its own, which compete for the cores.
        with threadpool_limits(1), ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
            bar = tqdm(total=len(tables), desc="score tables", disable=None, leave=False, file=sys.stderr)
            with bar:
                for some in parts:
                    for new in pool.map(self._read_new, some):
                        bar.update(new)

    def _read_new(self, tables: Sequence[tuple[RunResult, str]]) -> int:
        """Read those of some tables that have not been read; returns how many."""
        new = [(run, name) for run, name in tables if (run.folder, name) not in self._facts]
        for run, name in new:
            with contextlib.suppress(UserError):
                self.facts(run, name)
        return len(new)

    def clustering(self, runs: Sequence[RunResult], test_set: str) -> str:
        """How the errors of a test set are clustered, in words; empty where no score table is at hand."""
        facts = {}
        for run in runs:
            with contextlib.suppress(UserError, KeyError):
                found = self.facts(run, test_set)
                facts.setdefault((found.lists.get("frame"), found.lists["video"]), []).append(found)
        if not facts:
            return ""
        (frames, videos), usual = max(facts.items(), key=lambda item: (item[0][0] is not None, len(item[1])))
        clusters, level = self.clusters(test_set, videos), "frame" if frames else "video"
        errors = [each.errors[f"{level}_auc"].by_video for each in usual if each.errors]
        free = [degrees_of_freedom(clusters.sums(by_video), clusters) for by_video in errors]
        return _clustering(clusters, free, level)

    def clusters(self, test_set: str, videos: str, clustering: str = "people") -> Clusters:
        """Videos in clusters.

        Args:
            test_set: Name.
            videos: Hash of its videos, see `ScoreFacts.lists`.
            clustering: A name of `CLUSTERINGS`.
        """
        return self._videos[test_set, videos].clusters[clustering]

    def first_table(self, test_set: str, frames_hash: str) -> ScoreTable:
        """The first table of a test set that was read of such frames."""
        return self._rows[test_set, frames_hash].table

    def of_video(self, table: ScoreTable) -> np.ndarray:
        """The cluster of each of a table's videos; see `table_clusters`."""
        for known in self._videos.values():
            if np.array_equal(known.videos, table.videos):
                return known.of_video
        return table_clusters(table)

    def _read(self, table: ScoreTable, test_set: str, test: TestResult) -> ScoreFacts:
        listed = self._rows_of(test_set, test.frames_hash, table)
        ranked = RankedTable(table)
        metrics: dict[tuple[str, ...], dict] = {(): ranked.metrics()}
        metrics |= {("per_method", method): values for method, values in ranked.method_metrics().items()}
        metrics |= {("variants", name): RankedTable(table, name).metrics() for name in table.variants}
        if (answered := table.over_answered()) is not None:
            metrics["over_answered", "answered frames"] = RankedTable(answered).metrics()
        rows, levels = listed.in_order(table, ranked)
        errors, index, clusters = listed.errors(levels), listed.video_index, listed.videos.clusters["people"]
        thresholds = {rule: each.threshold for rule, each in test.transfer.items()}
        frames = levels.get("frame")
        return ScoreFacts(
            metrics=metrics,
            strange=_strange(rows),
            ranks=_rank_digest(rows),
            errors=errors,
            rates=rate_errors(frames, thresholds, index, len(clusters.labels)) if errors and frames else {},
            called_fake=float(np.mean(called_fake(table))),
            closed=closed_limits(levels, index, clusters) if errors and test.intervals else {},
            lists=listed.lists,
            short_videos=None if table.clips is None else table.short_videos,
            pixels=table.pixels_hash(),
        )

    def _rows_of(self, test_set: str, frames_hash: str, table: ScoreTable) -> TestRows:
        # Threads may both get here; setdefault makes them agree on one order of the rows and of the videos.
        known = self._rows.get((test_set, frames_hash))
        if known is None:
            lists = {"frame": frames_hash} if "frame" in table.levels else {}
            lists["video"] = table.videos_hash()
            key = test_set, lists["video"]
            videos = self._videos.get(key) or self._videos.setdefault(key, TestVideos(table))
            known = self._rows.setdefault((test_set, frames_hash), TestRows(table, videos, lists))
        return known


def stored_scores(run: RunResult, test_set: str, kind: str = "scores", mark: str = "") -> ScoreTable:
    """The scores that a run's numbers on a test set were made of.

    Args:
        run: The run.
        test_set: Name.
        kind: The table's folder in the run's, see `table_path`.
        mark: Added to its name.

    Raises:
        UserError: The result has no folder, or the folder no such scores, or see `own_table`.
    """
    if run.folder is None or test_set not in run.tests:
        raise UserError(f"{run.detector}: no scores of {test_set}")
    return own_table(table_path(run.folder, test_set, kind, mark), test_set, run)


def own_table(path: Path, dataset: str, run: RunResult | None = None) -> ScoreTable:
    """A score table of a run's folder, refused where it is not what its place says.

    Args:
        path: Its file.
        dataset: The data set that its file is named after.
        run: The result beside it; None if there is none. Of a test set that the result lacks, the weights are compared.

    Raises:
        UserError: It cannot be read, or is of another data set, or of other frames or weights than the result, or was
            made from something else.
    """
    table = ScoreTable.load(path)
    if table.dataset != dataset:
        raise UserError(
            f"{path}: expected scores of {shown(dataset)}, got those of {shown(table.dataset)}; name the file after "
            "its data set, or test again"
        )
    if run is None:
        return table
    test, what = run.tests.get(dataset), f"{path.parent.name} of {path.stem}"
    if table.checkpoint != run.checkpoint_sha256 or (test and table.frames_hash() != test.frames_hash):
        raise UserError(f"{path.parent.parent}: {what} are not those of result.json; test again")
    as_tested = test.made_from if test and path.parent.name == "scores" else None
    if as_tested is not None and as_tested != table.made_from_hash():
        raise UserError(
            f"{path.parent.parent}: {what}: its score table was made from other weights, settings or frames than the "
            "file's; test again"
        )
    return table


def _clustering(clusters: Clusters, free: Sequence[float], level: str) -> str:
    if clusters.ways:
        recorded, seen = (way.count for way, _ in clusters.ways)
        text = f"Clustered in two ways: {recorded} people recorded, {seen} people whose face is seen"
    else:
        text = f"Clustered in one way: {clusters.count} clusters of videos or people"
    text += f"; {clusters.fewest} clusters in the class that has fewer"
    if free:
        low, high = (f"{limit:.0f}" for limit in (min(free), max(free)))
        text += f"; degrees of freedom of the {level} AUC: {low if low == high else f'{low} to {high}'}"
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
