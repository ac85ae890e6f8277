"""Which rows of a table may be the best: tests of what the table ranks, on stored scores."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.training.measures.against_best import SetErrors, against_best
from resproto_fd.training.measures.clusters import table_clusters
from resproto_fd.training.measures.comparisons import aligned_scores
from resproto_fd.training.measures.intervals import Interval
from resproto_fd.training.measures.videos import aggregate_videos
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ScoreTable

LEVELS = {"frame_auc": "frame", "video_auc": "video"}
"""Metrics whose means are tested."""
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
    rows: Mapping[str, Sequence[RunResult]], test_sets: Sequence[str], mean_sets: Sequence[str]
) -> dict[str, Marks]:
    """Test every row's mean over seeds against the best, on each test set and for the mean over sets.

    A row without the score tables of all its runs, or with those of other frames, takes no part in that column; the
    others keep their marks.

    Args:
        rows: The runs of each row, in the order of their seeds, by the row's key.
        test_sets: Names.
        mean_sets: The test sets that the mean is over.

    Returns:
        By metric: "frame_auc" and "video_auc".
    """
    marks = {metric: Marks() for metric in LEVELS}
    errors: dict[str, dict[str, SetErrors]] = {metric: {} for metric in LEVELS}
    seeds: dict[str, dict[str, list[int]]] = {}
    for test_set in test_sets:
        tables, untested = _tables(rows, test_set)
        seeds[test_set] = {key: list(of_row) for key, of_row in tables.items()}
        for metric, level in LEVELS.items():
            marks[metric].untested[test_set] = untested
            found = _errors(tables, level) if tables else None
            if found is not None:
                errors[metric][test_set] = found
                marks[metric].add(test_set, [found])
    for metric in LEVELS:
        _test_mean(marks[metric], errors[metric], seeds, rows, mean_sets)
    return marks


test_against_best.__test__ = False  # pytest: not a test


def _tables(
    rows: Mapping[str, Sequence[RunResult]], test_set: str
) -> tuple[dict[str, dict[int, ScoreTable]], dict[str, str]]:
    """Score tables of the same frames, by row and seed, and why rows have none."""
    runs = {key: [run for run in of_row if test_set in run.tests] for key, of_row in rows.items()}
    counts = Counter(run.tests[test_set].frames_hash for of_row in runs.values() for run in of_row)
    usual = counts.most_common(1)[0][0] if counts else None
    tables, untested = {}, {}
    for key, of_row in runs.items():
        if not of_row:
            untested[key] = "not run"
        elif other := [str(run.seed) for run in of_row if run.tests[test_set].frames_hash != usual]:
            untested[key] = f"seed {', '.join(other)} was scored on other frames"
        else:
            try:
                tables[key] = {run.seed: stored_scores(run, test_set) for run in of_row}
            except UserError:
                untested[key] = NO_TABLES
    return tables, untested


def _errors(tables: Mapping[str, Mapping[int, ScoreTable]], level: str) -> SetErrors | None:
    """AUCs and errors of all rows and seeds, whose tables list the same frames."""
    flat = {f"{key}, seed {seed}": table for key, of_row in tables.items() for seed, table in of_row.items()}
    first, scores = aligned_scores(flat)
    of_video = table_clusters(first)
    labels, clusters = first.label, of_video[first.video_index]
    if level == "video":
        labels, clusters = first.video_label, of_video
        scores = {name: aggregate_videos(v, first.video_index, len(first.videos)) for name, v in scores.items()}
    grouped = {key: [scores[f"{key}, seed {seed}"] for seed in of_row] for key, of_row in tables.items()}
    return SetErrors.of(labels, grouped, clusters)


def _test_mean(
    marks: Marks,
    errors: Mapping[str, SetErrors],
    seeds: Mapping[str, Mapping[str, list[int]]],
    rows: Mapping[str, Sequence[RunResult]],
    mean_sets: Sequence[str],
) -> None:
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
        marks.add(MEAN, [_restricted(errors[name], seeds[name], chosen) for name in mean_sets])


def _restricted(errors: SetErrors, seeds: Mapping[str, list[int]], chosen: Mapping[str, list[int]]) -> SetErrors:
    """The errors of some rows and seeds."""
    places = {key: [seeds[key].index(seed) for seed in wanted] for key, wanted in chosen.items()}
    parts: list[dict[str, np.ndarray]] = [
        {key: part[key][place] for key, place in places.items()} for part in (errors.values, errors.fake, errors.real)
    ]
    return SetErrors(*parts, errors.clusters)


def stored_scores(run: RunResult, test_set: str) -> ScoreTable:
    """The scores that a run's numbers on a test set were made of.

    Raises:
        UserError: The result has no folder, or the folder no such scores, or they are of other frames or weights.
    """
    if run.folder is None or test_set not in run.tests:
        raise UserError(f"{run.detector}: no scores of {test_set}")
    table = ScoreTable.load(run.folder / "scores" / f"{test_set}.npz")
    if table.frames_hash() != run.tests[test_set].frames_hash or table.checkpoint != run.checkpoint_sha256:
        raise UserError(f"{run.folder}: scores of {test_set} are not those of result.json")
    return table
