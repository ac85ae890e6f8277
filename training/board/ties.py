"""Which rows of a table its test set cannot tell from the best one, by paired tests on stored scores."""

from collections.abc import Mapping, Sequence

from resproto_fd.configs.errors import UserError
from resproto_fd.training.measures.comparisons import Comparison, compare_tables, correct_together
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ScoreTable

LEVELS = {"frame_auc": "frame", "video_auc": "video"}
"""Metrics whose differences are tested."""


def ties_with_best(
    rows: Mapping[str, Sequence[RunResult]], test_sets: Sequence[str], metric: str
) -> dict[str, set[str]]:
    """The rows not distinguishable from the best of each test set, the best among them.

    Runs are paired by the lowest seed that all rows have. Holm's correction is over all pairs and test sets. A test set
    is left out where a row has no score table, or one of other frames.

    Args:
        rows: The runs of each row, by its name.
        test_sets: Names.
        metric: "frame_auc" or "video_auc"; others are not tested.

    Returns:
        Names of rows by test set.
    """
    if metric not in LEVELS or len(rows) < 2:
        return {}
    seeds = set.intersection(*({run.seed for run in runs} for runs in rows.values()))
    if not seeds:
        return {}
    chosen = {name: next(run for run in runs if run.seed == min(seeds)) for name, runs in rows.items()}
    found: dict[str, Comparison] = {}
    for test_set in test_sets:
        try:
            tables = {name: stored_scores(run, test_set) for name, run in chosen.items()}
            found[test_set] = compare_tables(tables, level=LEVELS[metric])
        except UserError:
            continue
    return {test_set: set(each.ties_with_best()) for test_set, each in correct_together(found).items()}


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
