"""The leaderboard as tables: one for each protocol and fingerprint, with a row for runs that differ only in the seed.

Rows of different fingerprints are never in one table. A checkpoint that was chosen on a test set (an oracle), or that
learnt from a set of the mean, is shown and marked, but never ranked. Weights of unknown history are ranked apart.
"""

import hashlib
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property

from pydantic import ValidationError

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.overlap import overlaps
from resproto_fd.configs.schema import DetectorConfig
from resproto_fd.training.board.limits import CheckedLimits, limits_over_seeds
from resproto_fd.training.board.sanity import oddities
from resproto_fd.training.board.score_facts import CLUSTERINGS, ScoreReader
from resproto_fd.training.board.ties import MEAN, Marks, other_pixels, test_against_best
from resproto_fd.training.results import BY_CLIPS, RunResult

PROBE = "clip_probe"
DIGITS = 3  # what pages print; rows that print the same number share a rank. The CSV holds every digit.


@dataclass(frozen=True)
class Metric:
    """A metric of a result file, with the words that explain it."""

    name: str
    title: str
    meaning: str
    higher_is_better: bool = True
    chance: float | None = None  # what guessing gives; None if it depends on how many fakes there are

    @property
    def level(self) -> str:
        """ "frame" or "video"."""
        return self.name.split("_")[0]

    @property
    def short(self) -> str:
        """The title without its level: "AUC"."""
        return self.title.split()[1]


MEANINGS = {
    "auc": ("AUC", "Area under the ROC curve: the probability that a fake scores above a real one (a tie counts half)"),
    "ap": ("AP", "Average precision; fake is the positive class"),
    "eer": ("EER", "Equal error rate: where false alarms equal misses on the interpolated ROC curve; lower is better"),
    "acc": ("ACC", "Share of right answers at a threshold of 0.5; it depends on how many fakes the set holds"),
}
LEVELS = {
    "frame": "over frames",
    "video": "over videos, a video's score being the mean of its frames' (or clips') scores",
}
METRICS = {
    f"{level}_{short}": Metric(
        name=f"{level}_{short}",
        title=f"{level.capitalize()} {title}",
        meaning=f"{meaning}; {where}",
        higher_is_better=short != "eer",
        chance=0.5 if short in ("auc", "eer") else None,
    )
    for level, where in LEVELS.items()
    for short, (title, meaning) in MEANINGS.items()
}


@dataclass(frozen=True)
class Cell:
    """One metric of one row on one test set (or the mean of several), over the row's seeds."""

    values: tuple[float, ...] = ()  # one a seed
    reason: str = ""  # why there is no value

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.values) if self.values else None

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds (n - 1); None for fewer than two."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def shown(self) -> float | None:
        return None if self.mean is None else round(self.mean, DIGITS)


@dataclass
class Row:
    """The runs of one detector that differ only in the seed."""

    runs: list[RunResult]
    seen: tuple[str, ...] = ()  # sets of the mean that the row was trained on, though its protocol is not
    recipe: str = ""  # tells rows of one name apart, see `recipe_of`
    reader: ScoreReader = field(default_factory=ScoreReader)
    _over_seeds: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    @property
    def first(self) -> RunResult:
        return self.runs[0]

    @property
    def name(self) -> str:
        return " ".join([self.first.detector, *self.changes])

    @property
    def changes(self) -> list[str]:
        """What its settings have of their own, in words."""
        return [*self.first.overrides, *([f"recipe={self.recipe}"] if self.recipe else [])]

    @property
    def key(self) -> str:
        """Tells the rows of a table apart."""
        clips = f" | clips of {self.first.clip_frames}" if self.by_clips else ""
        return f"{self.name} | {self.first.source} | {self.selection}{clips}"

    @property
    def control(self) -> bool:
        """Whether the row is a baseline: it is shown, but never ranked or best."""
        return self.first.role == "control"

    @property
    def ranks(self) -> bool:
        return self.group == "ranked"

    @property
    def group(self) -> str:
        """Where the row stands: "ranked", "unstated", "seen", "controls" or "oracles"."""
        if self.oracle:
            return "oracles"
        if self.control:
            return "controls"
        if self.seen:
            return "seen"
        return "ranked" if self.stated else "unstated"

    @property
    def stated(self) -> bool:
        """Whether it is known what the weights learnt from and how they were chosen."""
        known = all(test.in_domain is not None for run in self.runs for test in run.tests.values())
        return known and self.first.selected_on.rule != "given"

    @property
    def oracle(self) -> bool:
        return self.first.selected_on.oracle

    @property
    def selection(self) -> str:
        """How the checkpoint was chosen, in words."""
        text = self.first.selected_on.text()
        return f"oracle (chosen on test): {text}" if self.oracle else text

    @property
    def by_clips(self) -> str:
        """How clips are scored, in words ("clips of 16, stride 2, 4 a video"); empty for a detector of frames."""
        return clips_in_words(self.first)

    @property
    def auc(self) -> str:
        """Its main AUC: "frame_auc", or of a detector of clips "video_auc"."""
        return f"{self.first.level}_auc"

    def cell(self, test_set: str, metric: str) -> Cell:
        tests = [run.tests[test_set] for run in self.runs if test_set in run.tests]
        values = [getattr(test, metric) for test in tests]
        if not tests:
            return Cell(reason="not run")
        if None in values:
            return Cell(reason=next(test.why_none(metric) for test, value in zip(tests, values) if value is None))
        return Cell(tuple(values))

    def answered(self, test_set: str) -> float | None:
        """Share of a test set's frames that got a score, the least of the runs; None if all did."""
        shares = [run.tests[test_set].answered for run in self.runs if test_set in run.tests]
        return min((share for share in shares if share is not None), default=None)

    def limits(self, test_set: str, metric: str) -> tuple[float, float] | None:
        """95 % interval of a cell; None if it is not known.

        A lone run has it in its result file, see `limits.CheckedLimits`. For several runs it is the interval of their
        mean, computed from their score tables.
        """
        if len(self.runs) > 1:
            if test_set not in self._over_seeds:
                self._over_seeds[test_set] = limits_over_seeds(self.runs, test_set, self.reader)
            return self._over_seeds[test_set].get(metric)
        found = self.checked.of(self.first, test_set).get(metric) if test_set in self.first.tests else None
        return None if found is None or found.low is None or found.high is None else (found.low, found.high)

    @cached_property
    def checked(self) -> CheckedLimits:
        """The intervals of single runs."""
        return CheckedLimits(self.reader)

    def mean(self, test_sets: list[str], metric: str) -> Cell:
        """Unweighted mean over test sets, for each seed that has all of them."""
        if not test_sets:
            return Cell(reason="no test set defines it")
        values = []
        for run in self.runs:
            found = [getattr(run.tests[name], metric) if name in run.tests else None for name in test_sets]
            if None not in found:
                values.append(statistics.fmean(found))
        cells = {name: self.cell(name, metric) for name in test_sets}
        if not values and any(cell.reason == BY_CLIPS for cell in cells.values()):
            return Cell(reason=BY_CLIPS)
        lacking = [name for name, cell in cells.items() if not cell.values]
        return Cell(tuple(values), "" if values else f"no value on {', '.join(lacking) or 'all sets of one seed'}")


@dataclass
class Line:
    """A row in the table of one metric."""

    row: Row
    cells: list[Cell]  # one a test set, then the mean that ranks
    best: list[bool] = field(default_factory=list)  # of each cell; empty for oracles and controls, which are never best
    tied: list[bool] = field(default_factory=list)  # of each cell: it may be the best, by the test; as `best`
    rank: int | None = None  # in its group; None for rows that are not ranked or have no mean; equal means share one
    limits: list[tuple[float, float] | None] = field(default_factory=list)  # 95 % interval of each cell


@dataclass
class Section:
    """One table: all rows of one protocol and one fingerprint."""

    protocol: str
    fingerprint: str
    rows: list[Row] = field(default_factory=list)
    reader: ScoreReader = field(default_factory=ScoreReader)

    @cached_property
    def protocol_content(self) -> dict:
        """The protocol's content, as the first result that has it stores it."""
        known = (run.config.get("protocol") for row in self.rows for run in row.runs)
        return next((protocol for protocol in known if isinstance(protocol, dict) and "train" in protocol), {})

    @cached_property
    def train(self) -> list[str]:
        """The protocol's training sets; empty if no result tells them."""
        return self._listed("train")

    def _listed(self, key: str) -> list[str]:
        found = self.protocol_content.get(key)
        return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []

    @cached_property
    def in_domain(self) -> set[str]:
        """Test sets whose training split, or a part of it, the protocol trains on; where no result tells it, some run.

        Names tell it, or the manifests that a run trained under this protocol had.
        """
        if self._listed("test"):
            runs = [run for row in self.rows for run in row.runs if run.trained_on == self.train]
            found = {name for run in runs for name, test in run.tests.items() if test.in_domain}
            return found | {name for name in self.test_names if overlaps(self.train, name)}
        return {name for row in self.rows for run in row.runs for name, test in run.tests.items() if test.in_domain}

    @cached_property
    def test_names(self) -> list[str]:
        """Test sets of any run, and of the protocol."""
        return sorted({name for row in self.rows for run in row.runs for name in run.tests} | {*self._listed("test")})

    @cached_property
    def test_sets(self) -> list[str]:
        """In-domain sets first, then by name."""
        return sorted(self.test_names, key=lambda name: (name not in self.in_domain, name))

    @cached_property
    def mean_sets(self) -> list[str]:
        """Test sets that the ranking mean is over.

        The protocol fixes them, so that no row that comes or goes changes another's mean: its test sets that it does
        not train on, or all if there is no such set. Sets that lack a class are left out. Where no result tells the
        protocol, they are the sets that no row was trained on.
        """
        whole = [name for name in self._listed("test") or self.test_sets if not self._lacks_class(name)]
        return sorted(name for name in whole if name not in self.in_domain) or sorted(whole)

    def _lacks_class(self, name: str) -> bool:
        found = [run.tests[name] for row in self.rows for run in row.runs if name in run.tests]
        return bool(found) and all(test.undefined for test in found)

    def table(self, metric: str) -> list[Line]:
        """The section's rows by one metric: group by group, best first, those that lack a test set last."""
        sets, mean_sets = self.test_sets, self.mean_sets
        sign = -1 if METRICS[metric].higher_is_better else 1
        lines = [Line(row, [*(row.cell(s, metric) for s in sets), row.mean(mean_sets, metric)]) for row in self.rows]

        def order(line: Line):
            mean = line.cells[-1].mean
            return (
                GROUPS.index(line.row.group),
                mean is None,
                sign * (mean or 0),
                line.row.name,
                line.row.selection,
            )

        lines.sort(key=order)
        ranked = [line for line in lines if line.row.ranks]
        for column in range(len(sets) + 1):
            shown = [line.cells[column].shown for line in ranked if line.cells[column].shown is not None]
            best = (min if sign > 0 else max)(shown, default=None)
            for line in ranked:
                line.best.append(len(shown) > 1 and line.cells[column].shown == best)
        marks = self.marks.get(metric, Marks())
        for line in ranked:
            line.tied = [line.row.key in marks.tied.get(name, ()) for name in (*sets, MEAN)]
        for line in lines:
            line.limits = [*(line.row.limits(name, metric) for name in sets), marks.limits_of_mean(line.row.key)]
        for group in ("ranked", "unstated"):
            of_group = [line for line in lines if line.row.group == group]
            means = [line.cells[-1].shown for line in of_group]
            for line in of_group:
                line.rank = None if line.cells[-1].shown is None else means.index(line.cells[-1].shown) + 1
        return lines

    @cached_property
    def marks(self) -> dict[str, Marks]:
        """The ranked rows against the best, by metric; see `ties.test_against_best`."""
        rows = {row.key: row.runs for row in self.rows if row.ranks}
        return test_against_best(rows, self.test_sets, self.mean_sets, self.reader, other=self.other_pixels)

    @cached_property
    def by_clustering(self) -> dict[str, Marks]:
        """The ranked rows against the best by `auc`, under each of `CLUSTERINGS`; empty where they are one."""
        rows = {row.key: row.runs for row in self.rows if row.ranks}
        auc = self.auc
        if not any("two ways" in text for text in self.clustering.values()):
            return {}
        given = rows, self.test_sets, self.mean_sets, self.reader
        further = [name for name in CLUSTERINGS if name != "people"]
        found = {name: test_against_best(*given, name, [auc], self.other_pixels)[auc] for name in further}
        return found | {"people": self.marks[auc]}

    @property
    def auc(self) -> str:
        """What it leads by: "frame_auc", or "video_auc" where all rows score clips."""
        return "video_auc" if self.rows and all(row.by_clips for row in self.rows) else "frame_auc"

    @cached_property
    def other_pixels(self) -> dict[str, dict[str, list[int]]]:
        """Seeds on other pixels than most runs of the table, by test set and row's key; see `ties.other_pixels`."""
        return other_pixels({row.key: row.runs for row in self.rows}, self.test_sets, self.reader)

    @cached_property
    def oddities(self) -> list[str]:
        """Notes on stored scores; see `sanity.oddities`."""
        return oddities([(row.name, row.runs) for row in self.rows], self.reader)

    @cached_property
    def clustering(self) -> dict[str, str]:
        """How the errors of each test set are clustered, in words; see `ScoreReader.clustering`."""
        runs = [run for row in self.rows if not row.control for run in row.runs]
        found = {name: self.reader.clustering(runs, name) for name in self.test_sets}
        return {name: text for name, text in found.items() if text}

    def probe_mean(self, metric: str) -> float | None:
        """Mean of a metric of the frozen-CLIP probe, or of the best of several probes; None without one."""
        probes = [row for row in self.rows if row.control and row.first.detector_class == PROBE]
        means = [mean for row in probes if (mean := row.mean(self.mean_sets, metric).mean) is not None]
        return (max if METRICS[metric].higher_is_better else min)(means, default=None)


def sections(results: Iterable[RunResult], reader: ScoreReader | None = None) -> list[Section]:
    """Sort results into tables by protocol and fingerprint, with a row for runs that differ only in the seed.

    Args:
        results: The results.
        reader: Reads the score tables; one made for this call if not given.
    """
    reader = reader or ScoreReader()
    rows = defaultdict(list)
    for result in results:
        rows[table_key(result), row_key(result)].append(result)
    tables: dict[tuple, Section] = {}
    for (table, _), runs in sorted(rows.items()):
        section = tables.setdefault(table, Section(*table, reader=reader))
        section.rows.append(Row(sorted(runs, key=lambda run: run.seed), reader=reader))
    for section in tables.values():
        for row in section.rows:
            tests = [(name, run.tests.get(name)) for run in row.runs for name in section.mean_sets]
            known = {name for name, test in tests if test is not None and test.in_domain}
            row.seen = tuple(sorted(known - section.in_domain))
        alike = Counter(row.key for row in section.rows)
        for row in section.rows:
            if alike[row.key] > 1:
                row.recipe = recipe_of(row.first)
    return sorted(tables.values(), key=lambda section: (section.protocol, -len(section.rows), section.fingerprint))


GROUPS = ("ranked", "unstated", "seen", "controls", "oracles")
"""Groups of rows in the order of a table."""
TIE = "≈"
TIE_RULE = (
    "≈ marks the AUCs that may be the best of their column. The means over seeds are tested against the best (Hsu "
    "1981) on the same frames (AUCs of videos: on the same videos), with the spread over seeds, and videos of one "
    "source as one cluster. The marked rows contain the best one with 95 % confidence. Rows without stored scores take "
    "no part."
)
RANK_RULE = (
    "rows are ranked by the mean over the protocol's test sets that it does not train on; means that print the same "
    "share a rank; weights whose history is not stated are ranked apart; checkpoints chosen on a test set (oracles), "
    "weights trained on a set of the mean and controls are never ranked."
)


def number(cell: Cell) -> str:
    """A cell as text: "0.873", "0.873 ± 0.012", "undefined", "not run", or "–" where clips have no metric of frames.

    >>> number(Cell((0.5, 0.75))), number(Cell(reason=BY_CLIPS))
    ('0.625 ± 0.177', '–')
    """
    if cell.mean is None:
        return {"not run": "not run", BY_CLIPS: "–"}.get(cell.reason, "undefined")
    return f"{cell.mean:.{DIGITS}f}" + ("" if cell.sd is None else f" ± {cell.sd:.{DIGITS}f}")


def clips_in_words(run: RunResult) -> str:
    """How a run scores clips ("clips of 16, stride 2, 4 a video"); empty for a detector of frames.

    The number a video is the mean over all videos of the test sets.
    """
    if run.clip_frames is None:
        return ""
    detector = run.config.get("detector")
    given = detector.get("input") if isinstance(detector, dict) else None
    stride = given.get("stride") if isinstance(given, dict) else None
    counts = [(test.clips, test.videos) for test in run.tests.values()]
    mean = sum(clips for clips, _ in counts) / max(sum(videos for _, videos in counts), 1)
    words = [f"clips of {run.clip_frames}", f"stride {stride}" * (isinstance(stride, int) and stride > 1)]
    return ", ".join(filter(None, [*words, f"{mean:.3g} a video"]))


def table_key(result: RunResult) -> tuple:
    """What all results of a table share: protocol and fingerprint."""
    return result.protocol, result.fingerprint


def row_key(result: RunResult) -> tuple:
    """What all results of a row share: everything but the seed."""
    chosen, recipe = _selection_key(result), recipe_of(result)
    return result.detector, tuple(sorted(result.overrides)), result.source, chosen, result.clip_frames or 0, recipe


def recipe_of(result: RunResult) -> str:
    """Eight hex digits of what a YAML of the user's own says; empty for a preset, whose overrides tell its row."""
    given = result.config.get("detector")
    if result.source != "measured" or not isinstance(given, dict) or given.get("name") in loading.names("detectors"):
        return ""
    with suppress(ValidationError, UserError):  # as this version fills it up
        given = DetectorConfig.model_validate(given).model_dump(mode="json", by_alias=True)
    parts = {key: given.get(key) for key in ("detector", "model", "input", "train")}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def _selection_key(result: RunResult) -> tuple:
    chosen = result.selected_on
    return chosen.oracle, chosen.rule, chosen.dataset or "", chosen.split or "", chosen.metric or ""
