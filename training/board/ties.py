"""Which rows of a table may be the best: tests of what the table ranks, on stored scores."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.training.board.errors import MEASURED, TESTED
from resproto_fd.training.board.score_facts import ScoreFacts, ScoreReader
from resproto_fd.training.measures.against_best import SetErrors, against_best, mean_intervals
from resproto_fd.training.measures.clusters import Clusters
from resproto_fd.training.measures.comparisons import of_other_pixels
from resproto_fd.training.measures.intervals import Interval, failure_cost
from resproto_fd.training.results import BY_CLIPS, RunResult

MEAN = ""
"""The column of the mean over test sets."""
NO_TABLES = "score tables are not at hand"


@dataclass
class Marks:
    """The rows of a table against the best, by column: a test set, or `MEAN`.

    Attributes:
        tied: Keys of the rows that may be the best; absent where nothing could be tested.
        untested: Keys of the rows that are not in the test, with the reason.
        mean_limits: 95 % intervals of the means over sets, by row.
        one_seed: Columns in which no row has two seeds, so that the spread over seeds is in no test.
    """

    tied: dict[str, set[str]] = field(default_factory=dict)
    untested: dict[str, dict[str, str]] = field(default_factory=dict)
    mean_limits: dict[str, Interval] = field(default_factory=dict)
    one_seed: set[str] = field(default_factory=set)

    def add(self, column: str, sets: Sequence[SetErrors]) -> None:
        """Test the rows of one column."""
        found = against_best(sets)
        if column == MEAN:
            self.mean_limits = found.intervals
        if len(found.means) > 1:
            self.tied[column] = found.may_be_best()
            if not found.seed_variance:
                self.one_seed.add(column)

    def limits_of_mean(self, key: str) -> tuple[float, float] | None:
        """The 95 % interval of a row's mean over sets; None if it is not known."""
        found = self.mean_limits.get(key)
        return None if found is None or found.low is None or found.high is None else (found.low, found.high)


def test_against_best(
    rows: Mapping[str, Sequence[RunResult]],
    test_sets: Sequence[str],
    mean_sets: Sequence[str],
    reader: ScoreReader,
    clustering: str = "people",
    metrics: Sequence[str] = MEASURED,
    other: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
) -> dict[str, Marks]:
    """Test every row's mean over seeds against the best, on each test set and for the mean over sets.

    Metrics of `TESTED` are tested; of others, means over sets have intervals. A row without the score tables of all its
    runs takes no part in that column; nor does one with tables of other frames or of other pixels, or for metrics of
    videos of other videos. The others keep their marks. So rows of frames and of clips are tested together by videos.

    Args:
        rows: The runs of each row, in the order of their seeds, by the row's key.
        test_sets: Names.
        mean_sets: The test sets that the mean is over.
        reader: Reads the score tables.
        clustering: What is taken for independent, a name of `CLUSTERINGS`.
        metrics: Of `MEASURED`.
        other: See `other_pixels`; of these rows if not given.

    Returns:
        By metric.
    """
    other = other_pixels(rows, test_sets, reader) if other is None else other
    marks = {metric: Marks() for metric in metrics}
    errors: dict[str, dict[str, SetErrors]] = {metric: {} for metric in metrics}
    for level in dict.fromkeys(metric.partition("_")[0] for metric in metrics):
        of_level = [metric for metric in metrics if metric.startswith(level)]
        seeds: dict[str, dict[str, list[int]]] = {}
        fakes: dict[str, float] = {}
        for test_set in test_sets:
            facts, untested = _facts(rows, test_set, reader, level)
            for key, of_row in other[test_set].items():
                if facts.pop(key, None):
                    untested[key] = f"seed {', '.join(map(str, of_row))} was scored on other pixels"
            seeds[test_set] = {key: list(of_row) for key, of_row in facts.items()}
            every = [each for of_row in facts.values() for each in of_row.values()]
            for metric in of_level:
                marks[metric].untested[test_set] = untested
                if any(each.errors for each in every):
                    clusters = reader.clusters(test_set, every[0].lists["video"], clustering)
                    errors[metric][test_set] = _errors(facts, metric, clusters)
                    if metric in TESTED:
                        marks[metric].add(test_set, [errors[metric][test_set]])
                    fakes[test_set] = every[0].fakes
        for metric in of_level:
            costs = [failure_cost(metric.partition("_")[2], fakes[name]) for name in mean_sets if name in fakes]
            cost = None if metric in TESTED else max(costs, default=0.5)
            _test_mean(marks[metric], errors[metric], seeds, rows, mean_sets, cost)
    return marks


test_against_best.__test__ = False  # pytest: not a test


def other_pixels(
    rows: Mapping[str, Sequence[RunResult]], test_sets: Sequence[str], reader: ScoreReader
) -> dict[str, dict[str, list[int]]]:
    """Seeds that were scored on other pixels than most runs of the same frames, by test set and row's key."""
    result: dict[str, dict[str, list[int]]] = {}
    for test_set in test_sets:
        read = {
            (key, run.seed): (run.tests[test_set].frames_hash, reader.facts(run, test_set).pixels)
            for key, of_row in rows.items()
            for run in of_row
            if test_set in run.tests and reader.has(run, test_set)
        }
        result[test_set] = {}
        for key, seed in of_other_pixels(read):
            result[test_set].setdefault(key, []).append(seed)
    return result


def _facts(
    rows: Mapping[str, Sequence[RunResult]], test_set: str, reader: ScoreReader, level: str
) -> tuple[dict[str, dict[int, ScoreFacts]], dict[str, str]]:
    """Facts of score tables of the same frames, or of the same videos, by row and seed, and why rows have none.

    A result file tells the frames of its table, but the table alone tells its videos.
    """
    facts, lists, untested = {}, {}, {}
    for key, of_row in rows.items():
        tested = [run for run in of_row if test_set in run.tests]
        if not tested:
            untested[key] = "not run"
        elif level == "frame" and any(run.clip_frames for run in tested):
            untested[key] = BY_CLIPS
        else:
            try:
                facts[key] = {run.seed: reader.facts(run, test_set) for run in tested}
            except UserError:
                untested[key] = NO_TABLES
            if level == "frame":
                lists[key] = {run.seed: run.tests[test_set].frames_hash for run in tested}
            elif key in facts:
                lists[key] = {seed: each.lists[level] for seed, each in facts[key].items()}
    counts = Counter(each for of_row in lists.values() for each in of_row.values())
    usual = counts.most_common(1)[0][0] if counts else ""
    for key, of_row in lists.items():
        if other := [str(seed) for seed, each in of_row.items() if each != usual]:
            untested[key] = f"seed {', '.join(other)} was scored on other {level}s"
            facts.pop(key, None)
    return facts, untested


def _errors(facts: Mapping[str, Mapping[int, ScoreFacts]], metric: str, clusters: Clusters) -> SetErrors:
    """AUCs and errors of all rows and seeds."""
    found = {key: [each.errors[metric] for each in of_row.values()] for key, of_row in facts.items()}
    sums = {key: [each.summed(clusters) for each in seeds] for key, seeds in found.items()}
    return SetErrors(
        {key: np.array([each.value for each in seeds]) for key, seeds in found.items()},
        {key: np.stack([fake for fake, _ in seeds]) for key, seeds in sums.items()},
        {key: np.stack([real for _, real in seeds]) for key, seeds in sums.items()},
        clusters,
    )


def _test_mean(
    marks: Marks,
    errors: Mapping[str, SetErrors],
    seeds: Mapping[str, Mapping[str, list[int]]],
    rows: Mapping[str, Sequence[RunResult]],
    mean_sets: Sequence[str],
    cost: float | None,
) -> None:
    """Test the means over sets, or give them intervals alone where a `failure_cost` is given."""
    untested = marks.untested[MEAN] = {}
    lacking = [name for name in mean_sets if name not in errors]
    chosen: dict[str, list[int]] = {}
    for key in rows:
        gone = [name for name in mean_sets if name in lacking or key not in errors[name].values]
        common = set.intersection(*(set(seeds[name][key]) for name in mean_sets)) if mean_sets and not gone else set()
        if gone or not common:
            untested[key] = f"not tested on {', '.join(gone)}" if gone else "no seed has all sets"
        else:
            chosen[key] = sorted(common)
    if chosen:
        sets = [_restricted(errors[name], seeds[name], chosen) for name in mean_sets]
        if cost is None:
            marks.add(MEAN, sets)
        else:
            marks.mean_limits = mean_intervals(sets, cost=cost)


def _restricted(errors: SetErrors, seeds: Mapping[str, list[int]], chosen: Mapping[str, list[int]]) -> SetErrors:
    """The errors of some rows and seeds."""
    places = {key: [seeds[key].index(seed) for seed in wanted] for key, wanted in chosen.items()}
    parts: list[dict[str, np.ndarray]] = [
        {key: part[key][place] for key, place in places.items()} for part in (errors.values, errors.fake, errors.real)
    ]
    return SetErrors(*parts, errors.clusters)
