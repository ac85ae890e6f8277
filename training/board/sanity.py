"""Scores that no detector would give, or that two rows share: a reader should look twice."""

from collections import defaultdict
from collections.abc import Sequence

from resproto_fd.configs.errors import UserError
from resproto_fd.training.board.score_facts import ScoreReader
from resproto_fd.training.results import RunResult


def oddities(rows: Sequence[tuple[str, Sequence[RunResult]]], reader: ScoreReader) -> list[str]:
    """Notes on stored scores: equal to the labels, of two values, or ranked alike in two rows.

    Args:
        rows: (name, runs) of each row of a table.
        reader: Reads the score tables.
    """
    found: list[str] = []
    alike: dict[tuple[str, str, str, str], dict[int, str]] = defaultdict(dict)
    seeds: dict[tuple[str, str, str, str, str], list[int]] = defaultdict(list)
    for place, (row, runs) in enumerate(rows):
        for run in runs:
            for name, test in run.tests.items():
                try:
                    facts = reader.facts(run, name)
                except UserError:
                    continue
                if facts.strange:
                    found.append(f"{name}: {row}, seed {run.seed}: {facts.strange}.")
                if facts.ranks and run.role != "control":
                    unit = "frames" if test.clips is None else "clips"
                    alike[name, test.frames_hash, facts.ranks, unit][place] = f"{row} ({run.source})"
                    if run.selected_on.rule != "none":
                        seeds[name, f"{row} ({run.source})", test.frames_hash, facts.ranks, unit].append(run.seed)
    for (name, *_, unit), names in sorted(alike.items()):
        if len(names) > 1:
            found.append(f"{name}: {', '.join(names.values())} rank all {unit} alike: one may be a copy of the other.")
    for (name, row, *_, unit), same in sorted(seeds.items()):
        if len(same) > 1:
            found.append(
                f"{name}: {row}: seeds {', '.join(map(str, sorted(same)))} rank all {unit} alike: one may be a copy of "
                "the other. The spread over seeds is then too small."
            )
    return found
