"""A leaderboard from result files, and the score tables beside them: a site, and its tables in four formats.

Rows of different fingerprints are never in one table. A checkpoint chosen on a test set (an oracle) is shown, marked,
and never ranked. The same files give the same bytes.
"""

import csv
import io
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import atomic_file
from resproto_fd.training.board.ties import stored_scores, ties_with_best
from resproto_fd.training.results import RunResult

RESULT_FILE = "result.json"
PROBE = "clip_probe"
DIGITS = 3  # what pages print; rows that print the same number share a rank. The CSV holds every digit.


@dataclass(frozen=True)
class Metric:
    """A column of a result file, and how to speak of it."""

    name: str
    title: str
    meaning: str
    higher_is_better: bool = True
    chance: float | None = None  # what guessing gives, where that does not depend on how many fakes there are

    @property
    def level(self) -> str:
        """ "frame" or "video"."""
        return self.name.split("_")[0]


_MEANINGS = {
    "auc": ("AUC", "Area under the ROC curve, the chance that a fake scores above a real one, ties counting half"),
    "ap": ("AP", "Average precision, fake being the positive class"),
    "eer": ("EER", "Equal error rate, where false alarms equal misses on the interpolated ROC curve; lower is better"),
    "acc": ("ACC", "Share of right answers with the threshold at 0.5; depends on how many fakes the set holds"),
}
_LEVELS = {"frame": "over frames", "video": "over videos, each scored by the mean of its frames"}
METRICS = {
    f"{level}_{short}": Metric(
        name=f"{level}_{short}",
        title=f"{level.capitalize()} {title}",
        meaning=f"{meaning}; {where}",
        higher_is_better=short != "eer",
        chance=0.5 if short in ("auc", "eer") else None,
    )
    for level, where in _LEVELS.items()
    for short, (title, meaning) in _MEANINGS.items()
}
MARKDOWN_METRICS = ("frame_auc", "frame_ap", "frame_eer", "frame_acc", "video_auc")


@dataclass(frozen=True)
class Problem:
    """A result file that is not in the leaderboard."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


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
    """The runs of one detector that differ in nothing but the seed."""

    runs: list[RunResult]
    _over_seeds: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    @property
    def first(self) -> RunResult:
        return self.runs[0]

    @property
    def name(self) -> str:
        return " ".join([self.first.detector, *self.first.overrides])

    @property
    def key(self) -> str:
        """Tells the rows of a table apart."""
        return f"{self.name} | {self.first.source} | {self.selection}"

    @property
    def control(self) -> bool:
        """Stands in the table for comparison; shown, never ranked or best."""
        return self.first.role == "control"

    @property
    def ranks(self) -> bool:
        return not self.oracle and not self.control

    @property
    def oracle(self) -> bool:
        return self.first.selected_on.oracle

    @property
    def selection(self) -> str:
        """How the checkpoint was chosen, in words."""
        text = self.first.selected_on.text()
        return f"oracle (chosen on test): {text}" if self.oracle else text

    def cell(self, test_set: str, metric: str) -> Cell:
        tests = [run.tests[test_set] for run in self.runs if test_set in run.tests]
        values = [getattr(test, metric) for test in tests]
        if not tests:
            return Cell(reason="not run")
        if None in values:
            return Cell(reason=next(t.undefined or "not defined" for t, v in zip(tests, values) if v is None))
        return Cell(tuple(values))

    def limits(self, test_set: str, metric: str) -> tuple[float, float] | None:
        """95 % interval of a cell: the stored one of a lone run; of several, that of the mean of their AUCs, from their
        score tables. None where it is not known."""
        if len(self.runs) > 1:
            if test_set not in self._over_seeds:
                self._over_seeds[test_set] = _limits_over_seeds(self.runs, test_set)
            return self._over_seeds[test_set].get(metric)
        found = self.first.tests[test_set].intervals.get(metric) if test_set in self.first.tests else None
        return None if found is None or found.low is None or found.high is None else (found.low, found.high)

    def mean(self, test_sets: list[str], metric: str) -> Cell:
        """The unweighted mean over test sets, of each seed that has all of them."""
        if not test_sets:
            return Cell(reason="no test set defines it")
        values = []
        for run in self.runs:
            found = [getattr(run.tests[name], metric) if name in run.tests else None for name in test_sets]
            if None not in found:
                values.append(statistics.fmean(found))
        lacking = [name for name in test_sets if not self.cell(name, metric).values]
        return Cell(tuple(values), "" if values else f"no value on {', '.join(lacking) or 'all sets of one seed'}")


@dataclass
class Line:
    """A row in the table of one metric."""

    row: Row
    cells: list[Cell]  # one a test set, then the mean that ranks
    best: list[bool] = field(default_factory=list)  # of each cell; empty for oracles and controls, which are never best
    tied: list[bool] = field(default_factory=list)  # of each test set: not distinguishable from the best; as `best`
    rank: int | None = None  # None for oracles, controls and rows without a mean; equal printed means share a rank


@dataclass
class Section:
    """One table: all rows of one protocol and one fingerprint."""

    protocol: str
    fingerprint: str
    rows: list[Row] = field(default_factory=list)
    _ties: dict[str, dict[str, set[str]]] = field(default_factory=dict)

    @cached_property
    def train(self) -> list[str]:
        """The protocol's training sets, as the first result that tells them has them."""
        known = (run.config.get("protocol") for row in self.rows for run in row.runs)
        found = next((protocol.get("train") for protocol in known if isinstance(protocol, dict)), None)
        return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []

    @cached_property
    def in_domain(self) -> set[str]:
        """Test sets whose training split some run was trained on."""
        return {name for row in self.rows for run in row.runs for name, test in run.tests.items() if test.in_domain}

    @cached_property
    def test_sets(self) -> list[str]:
        """In-domain sets first, then by name."""
        names = {name for row in self.rows for run in row.runs for name in run.tests}
        return sorted(names, key=lambda name: (name not in self.in_domain, name))

    @cached_property
    def mean_sets(self) -> list[str]:
        """The test sets that the ranking mean is over: those nobody was trained on (all, if there is no such set),
        without those where a class is absent."""
        whole = [name for name in self.test_sets if any(row.cell(name, "frame_auc").values for row in self.rows)]
        return [name for name in whole if name not in self.in_domain] or whole

    def table(self, metric: str) -> list[Line]:
        """The section's rows by one metric, best first; then those that lack a test set, and last the oracles."""
        sets, mean_sets = self.test_sets, self.mean_sets
        sign = -1 if METRICS[metric].higher_is_better else 1
        lines = [Line(row, [*(row.cell(s, metric) for s in sets), row.mean(mean_sets, metric)]) for row in self.rows]

        def order(line: Line):
            mean = line.cells[-1].mean
            return (
                line.row.oracle,
                line.row.control,
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
        ties = self.ties(metric)
        for line in ranked:
            line.tied = [line.row.key in ties.get(name, ()) for name in sets]
        means = [line.cells[-1].shown for line in ranked]
        for line in ranked:
            line.rank = None if line.cells[-1].shown is None else means.index(line.cells[-1].shown) + 1
        return lines

    def ties(self, metric: str) -> dict[str, set[str]]:
        """Keys of the rows that each test set cannot tell from its best; oracles and controls take no part."""
        if metric not in self._ties:
            rows = {row.key: row.runs for row in self.rows if row.ranks}
            self._ties[metric] = ties_with_best(rows, self.test_sets, metric)
        return self._ties[metric]

    @cached_property
    def warnings(self) -> list[str]:
        """Controls that see no face and are above chance all the same: something else goes with the label."""
        return [
            f"{name}: {row.first.title} sees no face, and its frame AUC {above}): something beside the face goes with "
            "the label; a detector may use it."
            for row in self.rows
            if row.control and not row.first.sees_faces
            for name in self.test_sets
            if (above := _above_chance(row, name))
        ]

    def probe_mean(self, metric: str) -> float | None:
        """The frozen-CLIP probe's mean of a metric, the best if there are several; None without one."""
        probes = [row for row in self.rows if row.control and row.first.detector_class == PROBE]
        means = [mean for row in probes if (mean := row.mean(self.mean_sets, metric).mean) is not None]
        return (max if METRICS[metric].higher_is_better else min)(means, default=None)

    @cached_property
    def margins(self) -> list[str]:
        """How far each ranked row's mean frame AUC is above that of the frozen-CLIP probe, the best if several."""
        probe = self.probe_mean("frame_auc")
        if probe is None:
            return []
        ranked = [row for row in self.rows if row.ranks]
        names = Counter(row.name for row in ranked)
        parts = []
        for row in ranked:
            mean = row.mean(self.mean_sets, "frame_auc").mean
            if mean is not None:
                which = row.name if names[row.name] == 1 else f"{row.name} ({row.first.source}, {row.selection})"
                parts.append(f"{which} {mean - probe:+.{DIGITS}f}")
        text = ", ".join(parts)
        return [f"Mean frame AUC over the frozen-CLIP probe's {probe:.{DIGITS}f}: {text}."] if text else []

    @cached_property
    def notes(self) -> list[str]:
        """What a reader must know before comparing rows of this table."""
        notes = [*self.warnings, *self.margins]
        for name in self.test_sets:
            tests = [(row, run, run.tests[name]) for row in self.rows for run in row.runs if name in run.tests]
            for reason in sorted({test.undefined for *_, test in tests if test.undefined}):
                notes.append(f"{name}: {reason}, so all metrics but accuracy are undefined.")
            usual = Counter(test.frames_hash for *_, test in tests).most_common(1)[0][0]
            for row, run, test in tests:
                if test.skipped:
                    notes.append(f"{name}: {row.name}, seed {run.seed}: {test.skipped} unreadable frames left out.")
                elif test.frames_hash != usual:
                    notes.append(f"{name}: {row.name}, seed {run.seed} was not scored on the same frames as the rest.")
        for row in self.rows:
            missing = sorted({name for run in row.runs for name in self.test_sets if name not in run.tests})
            if missing:
                notes.append(f"{row.name}: at least one seed was not tested on {', '.join(missing)}.")
        return notes


@dataclass
class Summary:
    """What `build` made."""

    out_dir: Path
    runs: int
    sections: list[Section]
    problems: list[Problem]

    @property
    def page(self) -> Path:
        return self.out_dir / "index.html"


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
        twin_path, twin = seen.setdefault((*_table_key(result), *_row_key(result), result.seed), (path, result))
        if twin is result:
            results.append(result)
        elif twin.tests != result.tests:
            reason = f"same detector, protocol, selection and seed as {twin_path}, with other numbers; that one is kept"
            problems.append(Problem(str(path), reason))
    return sorted(results, key=lambda r: (*_table_key(r), *_row_key(r), r.seed)), problems


def _above_chance(row: Row, test_set: str) -> str:
    """In words, by how much a row's frame AUC on a test set is above chance for sure; empty where it is not.

    Of several seeds the interval of their mean counts, which the page prints. Of two or three it is long: that each
    seed's own interval is above chance counts too. Where there is none over seeds, one seed's is enough.
    """
    own = [
        (limits.low, run)
        for run in row.runs
        if test_set in run.tests
        and (limits := run.tests[test_set].intervals.get("frame_auc"))
        and limits.low is not None
    ]
    over = row.limits(test_set, "frame_auc") if len(row.runs) > 1 else None
    mean = row.cell(test_set, "frame_auc").mean
    if over and mean is not None and over[0] > 0.5:
        return f"is {mean:.{DIGITS}f}, the mean of {len(row.runs)} seeds (95 % interval from {over[0]:.{DIGITS}f}"
    above = [pair for pair in own if pair[0] > 0.5]
    if len(above) < (1 if over is None else len(row.runs)):
        return ""
    low, run = max(above, key=lambda pair: pair[0])
    seed = f" with seed {run.seed}" if len(row.runs) > 1 else ""
    return f"is {run.tests[test_set].frame_auc:.{DIGITS}f}{seed} (95 % interval from {low:.{DIGITS}f}"


def _limits_over_seeds(runs: list[RunResult], test_set: str) -> dict[str, tuple[float, float]]:
    from resproto_fd.training.measures.seeds import auc_over_seeds

    try:
        found = auc_over_seeds([stored_scores(run, test_set) for run in runs])
    except UserError:
        return {}
    intervals = {metric: summary.interval for metric, summary in found.items()}
    return {name: (each.low, each.high) for name, each in intervals.items() if each.low is not None}


def sections(results: Iterable[RunResult]) -> list[Section]:
    """Results as tables: one a protocol and fingerprint, with a row for runs that differ in nothing but the seed."""
    rows = defaultdict(list)
    for result in results:
        rows[_table_key(result), _row_key(result)].append(result)
    tables: dict[tuple, Section] = {}
    for (table, _), runs in sorted(rows.items()):
        section = tables.setdefault(table, Section(*table))
        section.rows.append(Row(sorted(runs, key=lambda run: run.seed)))
    return sorted(tables.values(), key=lambda section: (section.protocol, -len(section.rows), section.fingerprint))


def build(runs: Iterable[str | Path], out_dir: str | Path) -> Summary:
    """Write the site into a folder: index.html, published.html, a page a row under rows/, and the tables as
    leaderboard.csv, .md, .tex and .json.

    Args:
        runs: Result files, run folders, or folders above run folders.
        out_dir: Made when missing; files of these names in it are replaced, pages of rows that are no more removed.

    Returns:
        What was made. Broken result files are left out, named in `problems` and on the page.

    Raises:
        UserError: A path does not exist, or there is no result file that can be used; nothing is written then.
    """
    from resproto_fd.training.board.exports import to_json, to_latex
    from resproto_fd.training.board.index_page import render
    from resproto_fd.training.board.page_parts import EXPORTS, INDEX, PUBLISHED, ROWS, row_page
    from resproto_fd.training.board.published_page import render_published
    from resproto_fd.training.board.row_page import render_row
    from resproto_fd.training.published import load_published, load_sources

    results, problems = collect(runs)
    if not results:
        shown = [str(problem) for problem in problems[:5]] + ["..."] * (len(problems) > 5)
        raise UserError(
            f"no usable {RESULT_FILE} among {len(problems)}; mend them or train or test again (nothing is written to "
            f"{out_dir}):\n  " + "\n  ".join(shown)
        )
    tables = sections(results)
    out_dir = Path(out_dir)
    files = {
        EXPORTS["CSV"]: to_csv(results),
        EXPORTS["Markdown"]: to_markdown(tables, problems),
        EXPORTS["LaTeX"]: to_latex(tables),
        EXPORTS["JSON"]: to_json(tables, problems),
        PUBLISHED: render_published(load_published(), load_sources()),
    }
    files |= {row_page(section, row): render_row(section, row) for section in tables for row in section.rows}
    files[INDEX] = render(tables, problems)  # last: it links to the others
    for name, text in files.items():
        with atomic_file(out_dir / name) as file:
            file.write(text.encode())
    for stale in sorted((out_dir / ROWS).glob("*.html")):
        if f"{ROWS}/{stale.name}" not in files and _MADE in stale.read_text(encoding="utf-8", errors="replace")[:1000]:
            stale.unlink()
    return Summary(out_dir, len(results), tables, problems)


_MADE = '<meta name="generator" content="resproto leaderboard">'


def to_csv(results: Iterable[RunResult]) -> str:
    """One line a run and test set, numbers in full; an empty field is undefined, and `undefined` says why."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for run in results:
        for name in sorted(run.tests):
            test = run.tests[name]
            values = run.model_dump(exclude={"tests", "config"}) | test.model_dump(
                exclude={"per_method", "variants", "intervals"}
            )
            values |= {
                "test_set": name,
                "undefined": test.undefined,
                "overrides": " ".join(run.overrides),
                "selected_on": run.selected_on.text(),
                "oracle": run.selected_on.oracle,
            }
            for metric in LIMITS:
                estimate = test.intervals.get(metric)
                values[f"{metric}_low"] = estimate and estimate.low
                values[f"{metric}_high"] = estimate and estimate.high
            writer.writerow([_field(values[column]) for column in CSV_COLUMNS])
    return out.getvalue()


LIMITS = ("frame_auc", "frame_ap", "frame_eer", "video_auc", "video_ap", "video_eer")
"""Metrics whose 95 % limits the CSV holds."""
CSV_COLUMNS = (
    ["protocol", "fingerprint", "detector", "seed", "test_set", "source", "frames", "videos"]
    + [f"{level}_{short}" for level in _LEVELS for short in (*_MEANINGS, "balanced_acc")]
    + ["undefined", "selected_on", "oracle", "overrides", "title", "in_domain", "real_frames", "real_videos", "skipped"]
    + ["frames_hash", "parameters", "trainable_parameters", "train_images", "commit", "dirty", "checkpoint_sha256"]
    + ["role"]
    + [f"{metric}_{end}" for metric in LIMITS for end in ("low", "high")]
)


def to_markdown(tables: list[Section], problems: list[Problem]) -> str:
    """The tables of the five main metrics, ranked, best in bold."""
    lines = [
        "# Leaderboard",
        "",
        f"Rates in [0, 1]; ± is the standard deviation over seeds; {RANK_RULE} {TIE_RULE}",
        "",
    ]
    for warning in fingerprint_warnings(tables):
        lines += [f"**Note:** {_markdown(warning)}", ""]
    for section in tables:
        lines += [f"## {_markdown(section.protocol)}", "", f"Fingerprint {_markdown(section.fingerprint)}.", ""]
        for metric in MARKDOWN_METRICS:
            lines += _markdown_table(section, metric)
        lines += [f"- {_markdown(note)}" for note in section.notes] + [""] * bool(section.notes)
    if problems:
        lines += ["## Left out", ""] + [f"- {_markdown(p.path)}: {_markdown(p.reason)}" for p in problems] + [""]
    return "\n".join(lines)


TIE = "≈"
TIE_RULE = (
    "≈ marks what the test set cannot tell from its best (paired test of AUCs on the same frames, videos of one source "
    "taken as one cluster, Holm's correction over the table, 5 %)."
)
RANK_RULE = (
    "ranked by the mean over the test sets nobody was trained on; numbers that print the same share a rank; "
    "a checkpoint chosen on a test set (oracle) is never ranked, nor is a control."
)


def fingerprint_warnings(tables: list[Section]) -> list[str]:
    """One sentence for each protocol name that stands for more than one set of rules or frames."""
    counts = Counter(section.protocol for section in tables)
    return [
        f"{protocol} appears with {count} fingerprints: its rules or its frames were not the same, so its rows are in "
        f"{count} tables and must not be compared between them."
        for protocol, count in counts.items()
        if count > 1
    ]


def number(cell: Cell) -> str:
    """A cell as text: "0.873", "0.873 ± 0.012", "undefined" or "not run".

    >>> number(Cell((0.5, 0.75)))
    '0.625 ± 0.177'
    """
    if cell.mean is None:
        return "not run" if cell.reason == "not run" else "undefined"
    return f"{cell.mean:.{DIGITS}f}" + ("" if cell.sd is None else f" ± {cell.sd:.{DIGITS}f}")


def _table_key(result: RunResult) -> tuple:
    return result.protocol, result.fingerprint


def _row_key(result: RunResult) -> tuple:
    return result.detector, tuple(sorted(result.overrides)), result.source, _selection_key(result)


def _selection_key(result: RunResult) -> tuple:
    chosen = result.selected_on
    return chosen.oracle, chosen.rule, chosen.dataset or "", chosen.split or "", chosen.metric or ""


def _field(value):
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value[:1] in tuple("=+-@\t\r"):
        return "'" + value  # a spreadsheet would run it as a formula
    return value


def _markdown_table(section: Section, metric: str) -> list[str]:
    names = [f"{name} (in-domain)" if name in section.in_domain else name for name in section.test_sets]
    headers = ["#", "Detector", *names, f"Mean of {', '.join(section.mean_sets) or 'none'}", "Seeds", "Checkpoint"]
    lines = [f"### {METRICS[metric].title}", "", f"{METRICS[metric].meaning}.", ""]
    lines.append("| " + " | ".join(map(_markdown, headers)) + " |")
    lines.append("|---:|---|" + "---:|" * (len(names) + 2) + "---|")
    for line in section.table(metric):
        row = line.row
        numbers = [number(cell) for cell in line.cells]
        numbers = [f"**{text}**" if best else text for text, best in zip(numbers, line.best or [False] * len(numbers))]
        tied = [*line.tied, False] if line.tied else [False] * len(numbers)
        numbers = [f"{text} {TIE}" if tie else text for text, tie in zip(numbers, tied)]
        title = _markdown(f"{row.first.title} ({row.name})")
        fields = [str(line.rank or "–"), title, *numbers, str(len(row.runs)), _markdown(row.selection)]
        lines.append("| " + " | ".join(fields) + " |")
    return [*lines, ""]


def _markdown(text: str) -> str:
    """Text from outside, harmless in a Markdown table."""
    text = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\`*_[]|#~":
        text = text.replace(mark, "\\" + mark)
    return text
