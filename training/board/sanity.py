"""Scores that no detector would give, or that two rows share: a reader should look twice."""

import hashlib
from collections import defaultdict

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.training.board.table import Row, Section
from resproto_fd.training.board.ties import stored_scores
from resproto_fd.training.scores import ScoreTable


def oddities(section: Section) -> list[str]:
    """Notes on the stored scores of a table's rows: equal to the labels, of two values, or ranked alike in two rows."""
    found: list[str] = []
    alike: dict[tuple[str, str, str], dict[str, Row]] = defaultdict(dict)
    for row in section.rows:
        for run in row.runs:
            for name, test in run.tests.items():
                try:
                    table = stored_scores(run, name)
                except UserError:
                    continue
                levels, order = np.unique(table.score, return_inverse=True)
                if strange := _strange(table, levels):
                    found.append(f"{name}: {row.name}, seed {run.seed}: {strange}.")
                if len(levels) > 1 and not row.control:
                    ranks = hashlib.sha256(order.astype(np.int64).tobytes()).hexdigest()
                    alike[name, test.frames_hash, ranks][row.key] = row
    for (name, *_), rows in sorted(alike.items()):
        if len(rows) > 1:
            names = ", ".join(f"{row.name} ({row.first.source})" for row in rows.values())
            found.append(f"{name}: {names} rank all frames alike: one may be a copy of the other.")
    return found


def _strange(table: ScoreTable, levels: np.ndarray) -> str:
    if np.array_equal(table.score, table.label):
        return "its scores are the labels"
    if len(levels) == 1:
        return "all its scores are the same"
    if len(levels) == 2:
        return "its scores have two values, so that its curve has one point"
    return ""
