"""Reads result files for the leaderboard; those that cannot be used are named."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.training.board.across import across_sets, chosen_on_tests
from resproto_fd.training.board.score_facts import ScoreReader
from resproto_fd.training.board.table import row_key, table_key
from resproto_fd.training.results import RunResult, TestResult
from resproto_fd.training.scores import ROUNDING, table_path

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class Problem:
    """A result file that is not in the leaderboard."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Pending:
    """A run of a sweep that has no result yet.

    Attributes:
        name: Its run folder, from the folder of runs.
        state: "running", "failed" or "to come".
        text: Why it failed.
    """

    name: str
    state: str
    text: str = ""


def collect(paths: Iterable[str | Path], reader: ScoreReader | None = None) -> tuple[list[RunResult], list[Problem]]:
    """Read result files.

    Args:
        paths: Result files, run folders, or folders above run folders.
        reader: Reads the score tables; one made for this call if not given.

    Returns:
        (results in order of protocol, fingerprint, detector and seed; files that cannot be used, with the reason). Of
        two files with one detector, protocol, selection and seed the second is left out, and named if it differs. So
        is one of another seed with the same weights. A result whose stored selection scores are of tested frames is
        marked as an oracle, whatever its file says.

    Raises:
        UserError: A path does not exist, or there is no result file at all.
    """
    reader = reader or ScoreReader()
    paths = [Path(path) for path in paths]
    files = []
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder of runs")
        files += path.rglob(RESULT_FILE) if path.is_dir() else [path]
    if not files:
        raise UserError(f"no {RESULT_FILE} under {', '.join(map(str, paths))}: train or test a detector first")
    read, problems = {}, []
    for path in sorted(set(files)):
        try:
            read[path] = RunResult.load(path)
        except UserError as error:
            problems.append(Problem(str(path), str(error).removeprefix(f"{path}: ")))
    reader.read_all(list(read.values()))
    results, seen, by_weights = [], {}, {}
    for path, result in read.items():
        if reason := contradiction(result, reader):
            problems.append(Problem(str(path), reason))
            continue
        if chosen_on_tests(result, reader):
            result.selected_on = result.selected_on.model_copy(update={"oracle": True})
        twin_path, twin = seen.setdefault((*table_key(result), *row_key(result), result.seed), (path, result))
        if twin is result:
            if reason := _known_weights(path, result, by_weights):
                problems.append(Problem(str(path), reason))
            else:
                results.append(result)
        elif _numbers(twin) != _numbers(result):
            reason = f"same detector, protocol, selection and seed as {twin_path}, with other numbers; that one is kept"
            problems.append(Problem(str(path), reason))
    problems.sort(key=lambda problem: problem.path)
    return sorted(results, key=lambda r: (*table_key(r), *row_key(r), r.seed)), problems


def _known_weights(path: Path, result: RunResult, known: dict[tuple, tuple[Path, int]]) -> str:
    """Why a result is no other seed of its row: another one has its weights; empty if none has, or it has none.

    Args:
        path: Its file.
        result: It.
        known: File and seed of the first result of each row and weights; this one is added.
    """
    if result.source != "measured" or result.selected_on.rule == "none":
        return ""
    for weights in filter(None, (result.tensors_sha256, result.checkpoint_sha256)):
        first, seed = known.setdefault((*table_key(result), *row_key(result), weights), (path, result.seed))
        if first != path:
            return (
                f"has the weights of seed {seed} ({first}), so it is no run of seed {result.seed}; train with that "
                "seed, or remove the file"
            )
    return ""


def contradiction(result: RunResult, reader: ScoreReader) -> str:
    """What a result file says that its own score tables deny; empty where they agree, or no table is at hand.

    Metrics of all frames, of each forgery method, of other scores and under corruptions are computed again, and so are
    transferred thresholds and rates, and AUCs across test sets. The values that intervals stand around are compared;
    their limits are looked at by `limits.CheckedLimits`.
    """
    return _in_metrics(result, reader) or _under_corruptions(result, reader) or _across_sets(result, reader)


def _in_metrics(result: RunResult, reader: ScoreReader) -> str:
    for name, test in result.tests.items():
        if result.folder is None:
            continue
        try:
            if not table_path(result.folder, name).is_file():
                continue
            facts = reader.facts(result, name)
        except UserError as error:
            return _with_remedy(error)
        found = facts.metrics
        if (test.clips, test.short_videos) != (found[()].get("clips"), facts.short_videos):
            return f"{name}: other counts of clips or short videos in the file than in its score table; test again"
        said = {("per_method", method): values for method, values in test.per_method.items()}
        said |= {("variants", variant): values for variant, values in test.variants.items()} | {(): test}
        if test.over_answered is not None:
            said["over_answered", "answered frames"] = test.over_answered
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


def _under_corruptions(result: RunResult, reader: ScoreReader) -> str:
    for name, by_corruption in result.robustness.items():
        for corruption, by_severity in by_corruption.items():
            for severity, said in by_severity.items():
                try:
                    found = reader.corrupted(result, name, corruption, severity) if name in result.tests else None
                except UserError as error:
                    return _with_remedy(error)
                for metric, value in found.metrics[()].items() if found else ():
                    if not _same(claim := getattr(said, metric), value):
                        where = f"{name} under {corruption} {severity}"
                        return f"{metric} of {where} is {claim} in the file; its score table gives {value}; test again"
    return ""


def _across_sets(result: RunResult, reader: ScoreReader) -> str:
    """Transferred rates and thresholds, the pooled AUC, and the AUC of one set's fakes against another's reals."""
    for name, test in result.tests.items():
        rates = reader.facts(result, name).rates if reader.has(result, name) else {}
        for rule, errors in rates.items():
            fpr, tpr, reals = errors[0].value, errors[1].value, test.real_frames / test.frames
            given = test.transfer[rule]
            found = {"fpr": fpr, "tpr": tpr, "acc": given.acc and reals * (1 - fpr) + (1 - reals) * tpr}
            for what, value in found.items():
                if not _same(claim := getattr(given, what), value):
                    where = f"{what} of {name} at the threshold '{rule}'"
                    return f"{where} is {claim} in the file; its score table gives {value}; test again"
    for name, claim, value in across_sets(result, reader):
        if not _same(claim, value):
            return f"{name} is {claim} in the file; the score tables give {value}; test again"
    return ""


def _with_remedy(error: UserError) -> str:
    return str(error) if str(error).endswith(" again") else f"{error}; test again"


def _numbers(result: RunResult) -> dict[str, TestResult]:
    """The tests without what they were made from, which older files do not tell."""
    return {name: test.model_copy(update={"made_from": None}) for name, test in result.tests.items()}


def _same(one: float | None, other: float | None) -> bool:
    return one is other if one is None or other is None else abs(one - other) <= ROUNDING
