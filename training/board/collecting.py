"""Reads result files for the leaderboard; those that cannot be used are named."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.training.board.table import row_key, table_key
from resproto_fd.training.results import RunResult

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
        twin_path, twin = seen.setdefault((*table_key(result), *row_key(result), result.seed), (path, result))
        if twin is result:
            results.append(result)
        elif twin.tests != result.tests:
            reason = f"same detector, protocol, selection and seed as {twin_path}, with other numbers; that one is kept"
            problems.append(Problem(str(path), reason))
    return sorted(results, key=lambda r: (*table_key(r), *row_key(r), r.seed)), problems
