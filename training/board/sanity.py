"""Scores that no detector would give, or that two rows share: a reader should look twice."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.training.board.ties import stored_scores
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ScoreTable


def oddities(rows: Sequence[tuple[str, Sequence[RunResult]]]) -> list[str]:
    """Notes on stored scores: equal to the labels, of two values, or ranked alike in two rows.

    Args:
        rows: (name, runs) of each row of a table.
    """
    found: list[str] = []
    alike: dict[tuple[str, str, str], dict[int, str]] = defaultdict(dict)
    for place, (row, runs) in enumerate(rows):
        for run in runs:
            for name, test in run.tests.items():
                try:
                    table = stored_scores(run, name)
                except UserError:
                    continue
                levels, order = np.unique(table.score, return_inverse=True)
                if strange := _strange(table, levels):
                    found.append(f"{name}: {row}, seed {run.seed}: {strange}.")
                if len(levels) > 1 and run.role != "control":
                    ranks = hashlib.sha256(order.astype(np.int64).tobytes()).hexdigest()
                    alike[name, test.frames_hash, ranks][place] = f"{row} ({run.source})"
    for (name, *_), names in sorted(alike.items()):
        if len(names) > 1:
            found.append(f"{name}: {', '.join(names.values())} rank all frames alike: one may be a copy of the other.")
    return found


def _strange(table: ScoreTable, levels: np.ndarray) -> str:
    if np.array_equal(table.score, table.label):
        return "its scores are the labels"
    if len(levels) == 1:
        return "all its scores are the same"
    if len(levels) == 2:
        return "its scores have two values, so that its curve has one point"
    return ""
