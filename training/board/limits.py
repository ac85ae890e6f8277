"""The 95 % intervals that the board shows: of means over seeds, and of single runs as far as their tables confirm them.

A result file's limits are compared with those of its score table. Limits that have a closed formula must be the same.
For those of a bootstrap there is a closed error, which tells whether they may be right. If a limit may be wrong, all of
them are computed again as they were made, and shown instead.
"""

from collections.abc import Sequence

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.training.board.errors import MEASURED, Errors, mean_interval
from resproto_fd.training.board.score_facts import ScoreReader, stored_scores
from resproto_fd.training.measures.intervals import Interval, failure_cost
from resproto_fd.training.results import Estimate, RunResult, interval_estimates
from resproto_fd.training.scores import ROUNDING

Limits = tuple[float, float]
NEAR = {"acc": 0.1, "balanced_acc": 0.1, "brier": 0.1, "ap": 0.1, "eer": 0.15, "partial_auc": 0.45, "ece": 0.9}
"""How far a closed error's limits may lie from those of a bootstrap, in lengths of the interval; others must agree."""


def limits_over_seeds(runs: Sequence[RunResult], test_set: str, reader: ScoreReader) -> dict[str, Limits]:
    """95 % limits of each metric's mean over runs, by metric, where their score tables are of the same frames, or for
    metrics of videos of the same videos."""
    try:
        facts = [reader.facts(run, test_set) for run in runs]
    except (UserError, KeyError):
        return {}
    if len({each.lists["video"] for each in facts}) > 1 or not facts[0].errors:
        return {}
    clusters, found = reader.clusters(test_set, facts[0].lists["video"]), {}
    for metric in MEASURED:
        level, _, name = metric.partition("_")
        lists = {each.lists.get(level) for each in facts}
        if None in lists or len(lists) > 1:
            continue
        cost = failure_cost(name, facts[0].fakes)
        interval = mean_interval([each.errors[metric] for each in facts], clusters, cost)
        if interval.low is not None:
            found[metric] = (interval.low, interval.high)
    return found


def corrupted_limits(
    runs: Sequence[RunResult], test_set: str, corruptions: Sequence[str], severity: str, reader: ScoreReader
) -> Limits | None:
    """95 % limits of the AUC of frames, or of clips' videos, under a corruption, over seeds; of several, of their mean.

    None where a score table is not at hand.
    """
    of_seeds, lists = [], set()
    for run in runs:
        found = [reader.corrupted(run, test_set, corruption, severity) for corruption in corruptions]
        errors = [each.errors.get(f"{run.level}_auc") if each else None for each in found]
        if None in errors:
            return None
        lists |= {(run.tests[test_set].frames_hash, each.lists["video"]) for each in found}
        values, parts = zip(*errors)
        of_seeds.append(Errors(float(np.mean(values)), np.mean(parts, axis=0)))
    if len(lists) != 1:
        return None
    interval = mean_interval(of_seeds, reader.clusters(test_set, lists.pop()[1]))
    return None if interval.low is None else (interval.low, interval.high)


def rate_limits(run: RunResult, test_set: str, rule: str, reader: ScoreReader) -> list[Limits | None]:
    """95 % limits of the false and true positive rates and the accuracy at a threshold that was carried to a test set.

    The threshold is taken as fixed. None where the score table is not at hand.
    """
    if not reader.has(run, test_set) or rule not in (rates := reader.facts(run, test_set).rates):
        return [None, None, None]
    clusters = reader.clusters(test_set, reader.facts(run, test_set).lists["video"])
    fpr, tpr = rates[rule]
    fakes = reader.facts(run, test_set).fakes
    acc = Errors(*(fakes * right + (1 - fakes) * wrong for right, wrong in ((tpr[0], 1 - fpr[0]), (tpr[1], -fpr[1]))))
    costs = 1.0, 1.0, failure_cost("acc", fakes)
    found = [mean_interval([each], clusters, cost) for each, cost in zip((fpr, tpr, acc), costs)]
    return [None if each.low is None else (each.low, each.high) for each in found]


class CheckedLimits:
    """The intervals of single runs: those of the result file, or others where its score table denies them."""

    def __init__(self, reader: ScoreReader):
        self._reader = reader

    def of(self, run: RunResult, test_set: str) -> dict[str, Estimate]:
        """Estimates by metric."""
        return self._checked(run, test_set)[0]

    def denied(self, run: RunResult, test_set: str) -> list[str]:
        """Metrics whose limits in the result file are not those of its score table."""
        return self._checked(run, test_set)[1]

    def _checked(self, run: RunResult, test_set: str) -> tuple[dict[str, Estimate], list[str]]:
        key = id(run), test_set  # the memory keeps the run, so that no other can have its number
        if key not in self._reader.checked:
            self._reader.checked[key] = (run, *self._check(run, test_set))
        return self._reader.checked[key][1:]

    def _check(self, run: RunResult, test_set: str) -> tuple[dict[str, Estimate], list[str]]:
        stored = run.tests[test_set].intervals
        try:
            closed = self._reader.facts(run, test_set).closed
        except UserError:
            return stored, []
        if not stored:  # an older file
            found = limits_over_seeds([run], test_set, self._reader)
            values = {metric: getattr(run.tests[test_set], metric) for metric in found}
            return {m: Estimate(value=values[m], low=low, high=high) for m, (low, high) in found.items()}, []
        if all(_may_be(stored.get(metric), interval, metric.partition("_")[2]) for metric, interval in closed.items()):
            return stored, []
        again = interval_estimates(stored_scores(run, test_set))
        return again, [name for name in stored if not _same(stored[name], again.get(name))]


def _may_be(stored: Estimate | None, closed: Interval, name: str) -> bool:
    if stored is None:
        return True
    if None in (stored.low, stored.high, closed.low, closed.high):
        return (stored.low is None) == (closed.low is None)
    allowed = max(NEAR.get(name, 0.0) * (closed.high - closed.low), ROUNDING)
    return max(abs(stored.low - closed.low), abs(stored.high - closed.high)) <= allowed


def _same(one: Estimate, other: Estimate | None) -> bool:
    pairs = [(one.low, other.low), (one.high, other.high)] if other else [(0, None)]
    return all(a is b if a is None or b is None else abs(a - b) <= ROUNDING for a, b in pairs)
