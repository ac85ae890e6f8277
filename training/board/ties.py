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
from resproto_fd.training.measures.intervals import Interval, failure_cost
from resproto_fd.training.results import RunResult

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
) -> dict[str, Marks]:
    """Test every row's mean over seeds against the best, on each test set and for the mean over sets.

    Metrics of `TESTED` are tested; of others, means over sets have intervals. A row without the score tables of all its
    runs, or with those of other frames, takes no part in that column; the others keep their marks.

    Args:
        rows: The runs of each row, in the order of their seeds, by the row's key.
        test_sets: Names.
        mean_sets: The test sets that the mean is over.
        reader: Reads the score tables.
        clustering: What is taken for independent, a name of `CLUSTERINGS`.
        metrics: Of `MEASURED`.

    Returns:
        By metric.
    """
    marks = {metric: Marks() for metric in metrics}
    errors: dict[str, dict[str, SetErrors]] = {metric: {} for metric in metrics}
    seeds: dict[str, dict[str, list[int]]] = {}
    fakes: dict[str, float] = {}
    for test_set in test_sets:
        facts, frames_hash, untested = _facts(rows, test_set, reader)
        seeds[test_set] = {key: list(of_row) for key, of_row in facts.items()}
        defined = any(each.errors for of_row in facts.values() for each in of_row.values())
        for metric in metrics:
            marks[metric].untested[test_set] = untested
            if defined:
                errors[metric][test_set] = _errors(facts, metric, reader.clusters(frames_hash, clustering))
                if metric in TESTED:
                    marks[metric].add(test_set, [errors[metric][test_set]])
                fakes[test_set] = next(each.fakes for of_row in facts.values() for each in of_row.values())
    for metric in metrics:
        cost = max(
            (failure_cost(metric.partition("_")[2], fakes[name]) for name in mean_sets if name in fakes), default=0.5
        )
        _test_mean(marks[metric], errors[metric], seeds, rows, mean_sets, None if metric in TESTED else cost)
    return marks


test_against_best.__test__ = False  # pytest: not a test


def _facts(
    rows: Mapping[str, Sequence[RunResult]], test_set: str, reader: ScoreReader
) -> tuple[dict[str, dict[int, ScoreFacts]], str, dict[str, str]]:
    """Facts of score tables of the same frames by row and seed, the hash of those frames, and why rows have none."""
    runs = {key: [run for run in of_row if test_set in run.tests] for key, of_row in rows.items()}
    counts = Counter(run.tests[test_set].frames_hash for of_row in runs.values() for run in of_row)
    usual = counts.most_common(1)[0][0] if counts else ""
    facts, untested = {}, {}
    for key, of_row in runs.items():
        if not of_row:
            untested[key] = "not run"
        elif other := [str(run.seed) for run in of_row if run.tests[test_set].frames_hash != usual]:
            untested[key] = f"seed {', '.join(other)} was scored on other frames"
        else:
            try:
                facts[key] = {run.seed: reader.facts(run, test_set) for run in of_row}
            except UserError:
                untested[key] = NO_TABLES
    return facts, usual, untested


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
