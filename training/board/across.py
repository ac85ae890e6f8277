"""What a result file says of several test sets together, beside what its score tables give."""

from collections.abc import Iterator

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.training.board.score_facts import ScoreReader, stored_scores
from resproto_fd.training.measures import shift
from resproto_fd.training.results import RunResult
from resproto_fd.training.scores import ScoreTable

Claim = tuple[str, float | None, float | None]
"""What is meant, what the file says, and what the score tables give."""


def across_sets(run: RunResult, reader: ScoreReader) -> Iterator[Claim]:
    """The thresholds, the pooled AUC and the cross AUCs of a run, as far as its score tables are at hand."""
    yield from _thresholds(run)
    if not run.cross_auc or not all(reader.has(run, name) for name in run.tests):
        return
    if len(run.tests) == 1:
        (name,) = run.tests
        auc = reader.facts(run, name).metrics[()]["frame_auc"]
        pooled, cross = auc, {} if auc is None else {name: {name: auc}}
    else:
        tables = {name: stored_scores(run, name) for name in run.tests}
        pooled, cross = shift.pooled_auc(tables), shift.cross_aucs(tables)
    yield "the AUC of all test sets as one", run.pooled_auc, pooled
    for real in sorted({*run.cross_auc, *cross}):
        said, found = run.cross_auc.get(real, {}), cross.get(real, {})
        for fake in sorted({*said, *found}):
            yield f"the AUC of fakes of {fake} against reals of {real}", said.get(fake), found.get(fake)


def chosen_on_tests(run: RunResult, reader: ScoreReader) -> list[str]:
    """Test sets that hold frames of the run's stored selection scores, though its result does not call it an oracle."""
    table = _selection_table(run) if run.selected_on.rule == "best" and not run.selected_on.oracle else None
    if table is None:
        return []
    found = []
    for name, test in run.tests.items():
        tested = reader.first_table(name, test.frames_hash) if reader.has(run, name) else None
        shared = set() if tested is None else {*table.videos.tolist()} & {*tested.videos.tolist()}
        if shared and not _keys(table, shared).isdisjoint(_keys(tested, shared)):
            found.append(name)
    return found


def _keys(table: ScoreTable, videos: set[str]) -> set[tuple[str, int]]:
    """Video and number of a table's frames that are of some videos; of clips, all frames of each."""
    kept = np.isin(table.videos, list(videos))[table.video_index]
    numbers = table.numbers[kept]
    owners = np.repeat(table.videos[table.video_index[kept]], numbers.shape[1])
    return set(zip(owners.tolist(), numbers.ravel().tolist(), strict=True))


def _thresholds(run: RunResult) -> Iterator[Claim]:
    """The thresholds that were fixed on the split which the checkpoint was selected on."""
    said = {rule: each.threshold for test in run.tests.values() for rule, each in test.transfer.items()}
    table = _selection_table(run) if said else None
    found = shift.thresholds(table) if table is not None else {}
    for name, test in run.tests.items():
        for rule, each in test.transfer.items() if table is not None else ():
            yield f"the threshold '{rule}' carried to {name}", each.threshold, found.get(rule)


def _selection_table(run: RunResult) -> ScoreTable | None:
    """The one score table of the selection split, if it was made of these weights."""
    files = sorted((run.folder / "scores_selection").glob("*.npz")) if run.folder is not None else []
    if len(files) != 1:
        return None
    try:
        table = ScoreTable.load(files[0])
    except UserError:
        return None
    return table if table.checkpoint == run.checkpoint_sha256 else None
