"""Reads result files for the leaderboard; those that cannot be used are named."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.training.board.table import row_key, table_key
from resproto_fd.training.board.ties import stored_scores
from resproto_fd.training.measures.metrics import method_metrics, table_metrics
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ROUNDING

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class Problem:
    """A result file that is not in the leaderboard."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def collect(paths: Iterable[str | Path]) -> tuple[list[RunResult], list[Problem]]:
    """Read result files.

    Args:
        paths: Result files, run folders, or folders above run folders.

    Returns:
        (results in order of protocol, fingerprint, detector and seed; files that cannot be used, with the reason). Of
        two files with one detector, protocol, selection and seed the second is left out, and named if it differs.

    Raises:
        UserError: A path does not exist, or there is no result file at all.
    """
    paths = [Path(path) for path in paths]
    files = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder of runs")
        files += path.rglob(RESULT_FILE) if path.is_dir() else [path]
    if not files:
        raise UserError(f"no {RESULT_FILE} under {', '.join(map(str, paths))}: train or test a detector first")
    results, problems, seen = [], [], {}
    for path in sorted(set(files)):
        try:
            result = RunResult.load(path)
        except UserError as error:
            problems.append(Problem(str(path), str(error).removeprefix(f"{path}: ")))
            continue
        if reason := contradiction(result):
            problems.append(Problem(str(path), reason))
            continue
        twin_path, twin = seen.setdefault((*table_key(result), *row_key(result), result.seed), (path, result))
        if twin is result:
            results.append(result)
        elif twin.tests != result.tests:
            reason = f"same detector, protocol, selection and seed as {twin_path}, with other numbers; that one is kept"
            problems.append(Problem(str(path), reason))
    return sorted(results, key=lambda r: (*table_key(r), *row_key(r), r.seed)), problems


def contradiction(result: RunResult) -> str:
    """What a result file says that its own score tables deny; empty where they agree, or no table is at hand.

    Metrics of all frames, of each forgery method and of other scores are computed again, and the values that intervals
    stand around are compared. The limits of intervals are not: they cost a bootstrap each.
    """
    for name, test in result.tests.items():
        if result.folder is None or not (result.folder / "scores" / f"{name}.npz").is_file():
            continue
        try:
            table = stored_scores(result, name)
        except UserError as error:
            return f"{error}; test again"
        found = {(): table_metrics(table)}
        found |= {("per_method", method): values for method, values in method_metrics(table).items()}
        found |= {("variants", variant): table_metrics(table, variant) for variant in table.variants}
        said = {("per_method", method): values for method, values in test.per_method.items()}
        said |= {("variants", variant): values for variant, values in test.variants.items()} | {(): test}
        if said.keys() != found.keys():
            return f"{name}: other methods or scores in the file than in its score table; test again"
        for part, values in found.items():
            for metric, value in values.items():
                claims = [getattr(said[part], metric)]
                claims += [test.intervals[metric].value] if not part and metric in test.intervals else []
                for claim in claims:
                    if not _same(claim, value):
                        where = " ".join([name, *part[1:]])
                        return f"{metric} of {where} is {claim} in the file; its score table gives {value}; test again"
    return ""


def _same(one: float | None, other: float | None) -> bool:
    return one is other if one is None or other is None else abs(one - other) <= ROUNDING
