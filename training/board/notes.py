"""Notes and warnings of a table in sentences: what a reader must know before comparing rows."""

from collections import Counter

from resproto_fd.configs import loading
from resproto_fd.training.board.run_facts import short_videos
from resproto_fd.training.board.table import DIGITS, TIE, Row, Section
from resproto_fd.training.board.ties import MEAN, NO_TABLES
from resproto_fd.training.measures.comparisons import holm
from resproto_fd.training.results import RunResult, TestResult

ONE_SIDE = 0.01
"""A share of the frames that is as good as none."""


def notes(section: Section) -> list[str]:
    """Everything that a reader must know before comparing rows of a table, the warnings first."""
    found = [*warnings(section), *of_other_pixels(section), *margins(section)]
    for name in section.test_sets:
        tests = [(row, run, run.tests[name]) for row in section.rows for run in row.runs if name in run.tests]
        for reason in sorted({test.undefined for *_, test in tests if test.undefined}):
            found.append(f"{name}: {reason}, so only accuracy is defined.")
        if not tests:
            found.append(f"{name}: no row was tested on it, so no row has a mean; test on it.")
            continue
        found += _other_frames(name, tests)
    for row in section.rows:
        missing = sorted({name for run in row.runs for name in section.test_sets if name not in run.tests})
        if missing:
            found.append(f"{row.name}: at least one seed was not tested on {', '.join(missing)}.")
        for name in section.test_sets:
            if (share := row.answered(name)) is not None:
                unit = "clips" if row.by_clips else "frames"
                found.append(f"{name}: {row.name}: answered {share:.1%} of the {unit}; the others count as 0.5.")
        found += _clips(row, section)
        if row.group == "seen":
            found.append(f"{row.name}: was trained on {', '.join(row.seen)}, a set of the mean; not ranked.")
    clustering = [f"{name}: {text}" for name, text in section.clustering.items()]
    return [*found, *section.oddities, *_denied_limits(section), *_untested(section), *_turned(section), *clustering]


def of_other_pixels(section: Section) -> list[str]:
    """Runs that were scored on other pixels than the rest, under the same frames' names."""
    names = {row.key: row.name for row in section.rows}
    return [
        f"{test_set}: {names[key]}, seed {', '.join(map(str, seeds))} was scored on other pixels of the same frames "
        "than the rest, so the row is not tested and its numbers are not comparable; test it again on the frames of "
        "the rest."
        for test_set, rows in section.other_pixels.items()
        for key, seeds in rows.items()
    ]


def _other_frames(test_set: str, tests: list[tuple[Row, RunResult, TestResult]]) -> list[str]:
    """Runs with frames that could not be read, or with other frames or videos than the rest."""
    frames = Counter(test.frames_hash for *_, test in tests if test.clips is None)
    videos = Counter(filter(None, (_videos(row, run, test_set) for row, run, _ in tests)))
    usual, usual_videos = (counts.most_common(1)[0][0] if counts else "" for counts in (frames, videos))
    found = []
    for row, run, test in tests:
        other_videos = (own := _videos(row, run, test_set)) is not None and own != usual_videos
        which = f"{test_set}: {row.name}, seed {run.seed}"
        if test.skipped:
            what = "frames could not be read and"
            if test.clips is not None:
                what = "clips with frames that could not be read, or videos too short for a clip,"
            found.append(f"{which}: {test.skipped} {what} are left out.")
        elif test.clips is None and test.frames_hash != usual:
            tested = "only its metrics of videos are" if own and not other_videos else "the row is not"
            found.append(f"{which} was not scored on the same frames as the rest, so {tested} tested.")
        elif test.clips is not None and other_videos:
            found.append(f"{which} was not scored on the same videos as the rest, so the row is not tested.")
    return found


def _videos(row: Row, run: RunResult, test_set: str) -> str | None:
    """The hash of the videos that were scored; None if the score table is not at hand."""
    return row.reader.facts(run, test_set).lists["video"] if row.reader.has(run, test_set) else None


def _clips(row: Row, section: Section) -> list[str]:
    """What tells a row of clips from rows of frames: its metrics, its selection, its short videos."""
    if not row.by_clips:
        return []
    found = [f"{row.name}: scored by {row.by_clips}. It has no metric of frames; compare it by videos."]
    asked = section.protocol_content.get("selection")
    asked, chosen = asked.get("metric") if isinstance(asked, dict) else None, row.first.selected_on.metric
    if chosen and asked and chosen != asked:
        found.append(f"{row.name}: its checkpoint was chosen by {chosen}, in place of the protocol's {asked}.")
    return [*found, *(f"{row.name}, {text}." for text in short_videos(row, section.test_sets))]


def _denied_limits(section: Section) -> list[str]:
    """Runs whose stored limits of intervals are not those of their score tables."""
    found = []
    for name in section.test_sets:
        tested = [(row, run) for row in section.rows for run in row.runs if name in run.tests]
        denied = [(row, run, row.checked.denied(run, name)) for row, run in tested]
        parts = [f"{row.name}, seed {run.seed} ({_listed(metrics)})" for row, run, metrics in denied if metrics]
        if parts:
            found.append(
                f"{name}: limits of intervals in the result file differ from those of its score table, which are "
                f"shown: {'; '.join(parts)}. The file is of an older version, or it was changed."
            )
    return found


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _turned(section: Section) -> list[str]:
    """Scores that are wrong more often than right, and accuracies of a threshold that calls all frames alike."""
    found = []
    for name, level in ((name, level) for name in section.test_sets for level in ("frame", "video")):
        rows = [row for row in section.rows if not row.control and row.first.level == level]
        rows = [row for row in rows if row.cell(name, row.auc).mean is not None]
        turned = [row for row in rows if (limits := row.limits(name, row.auc)) and limits[1] < 0.5]
        parts = [f"{row.name} {row.cell(name, row.auc).mean:.{DIGITS}f}" for row in turned]
        if parts:
            found.append(
                f"{name}: the {level} AUC and its whole interval are below .5: {', '.join(parts)}. The score is turned "
                "round here, not noise: fakes score lower than reals."
            )
        alike = [f"{row.name} {share:.1%}" for row in rows if (share := _called_fake(row, name)) is not None]
        if alike:
            found.append(
                f"{name}: nearly all {level}s are on one side of the threshold of .5; called fake: {', '.join(alike)}. "
                "ACC is then the share of one class and tells nothing of the detector; the AUC does."
            )
    return found


def _called_fake(row: Row, test_set: str) -> float | None:
    """The share of frames, or of clips' videos, called fake, if with some seed it is nearly 0 or 1 and that of the
    fakes is not."""
    for run in row.runs:
        test = run.tests.get(test_set)
        if test is None or test.undefined or not row.reader.has(run, test_set):
            continue
        facts = row.reader.facts(run, test_set)
        reals, share = 1 - facts.fakes, facts.called_fake
        if not ONE_SIDE < share < 1 - ONE_SIDE and 5 * ONE_SIDE <= reals <= 1 - 5 * ONE_SIDE:
            return share
    return None


def _untested(section: Section) -> list[str]:
    """Ranked rows without stored scores, which the marks leave out, and whether the marks know nothing of seeds."""
    marks, by_videos = (section.marks[metric] for metric in ("frame_auc", "video_auc"))
    names = {row.key: row.name for row in section.rows}
    result = []
    for column, untested in marks.untested.items():
        of_both = untested | {key: why for key, why in by_videos.untested[column].items() if why == NO_TABLES}
        lacking = [name for key, name in names.items() if of_both.get(key) == NO_TABLES]
        if lacking:
            result.append(f"{column}: {NO_TABLES} of {', '.join(lacking)}: not recomputed, and not tested for {TIE}.")
    if columns := sorted((marks.one_seed | by_videos.one_seed) - {MEAN}):
        result.append(
            f"{', '.join(columns)}: each row has one seed. The marks {TIE} do not cover what another seed would change."
        )
    return result


def warnings(section: Section) -> list[str]:
    """Warn of controls that see no face and whose AUC is not that of chance.

    An AUC below one half tells the classes apart as surely as one above: turn the scores round. Holm's correction is
    over all controls and test sets.
    """
    found = []
    for row in section.rows:
        if row.control and not row.first.sees_faces:
            for name in section.test_sets:
                if seen := _from_chance(row, name):
                    found.append((row, name, *seen))
    corrected = holm([p for *_, p in found])
    return [
        f"{name}: {row.first.title} sees no face, and its {row.first.level} AUC {text}): something other than the face "
        "goes with the label. A detector may use it."
        for (row, name, text, _), p in zip(found, corrected)
        if p < 0.05
    ]


def margins(section: Section) -> list[str]:
    """How far the mean frame AUC of each ranked row is above that of the best frozen-CLIP probe; empty without one."""
    probe = section.probe_mean("frame_auc")
    if probe is None:
        return []
    ranked = [row for row in section.rows if row.group in ("ranked", "unstated")]
    names = Counter(row.name for row in ranked)
    parts = []
    for row in ranked:
        mean = row.mean(section.mean_sets, "frame_auc").mean
        if mean is not None:
            which = row.name if names[row.name] == 1 else f"{row.name} ({row.first.source}, {row.selection})"
            parts.append(f"{which} {mean - probe:+.{DIGITS}f}")
    text = ", ".join(parts)
    return [f"Mean frame AUC minus that of the frozen-CLIP probe ({probe:.{DIGITS}f}): {text}."] if text else []


def about_protocol(section: Section) -> list[str]:
    """The protocol in sentences: title, training sets, frames and selection; its YAML's note and source; made data."""
    title, source, note = (str(section.protocol_content.get(key) or "") for key in ("title", "source", "note"))
    trained = f"Training sets: {', '.join(section.train)}." if section.train else ""
    first = ". ".join(filter(None, (title.rstrip("."), trained)))
    return [
        text
        for text in (
            " ".join(filter(None, (first, _frames(section.protocol_content)))),
            note,
            f"Source: {source}" if source else "",
            _made(section),
        )
        if text
    ]


def _frames(protocol: dict) -> str:
    """The number of frames of each video, and how checkpoints are chosen."""
    frames, chosen, text = protocol.get("frames"), protocol.get("selection"), []
    if isinstance(frames, dict):
        counts = ", ".join(f"{split} {'all' if many is None else many}" for split, many in frames.items())
        text.append(f"Frames of each video: {counts}.")
    if isinstance(chosen, dict):
        where = " ".join(str(chosen.get(key) or "") for key in ("metric", "dataset", "split"))
        text.append("Checkpoint: last epoch." if chosen.get("rule") == "last" else f"Checkpoint: best {where}.")
    return " ".join(text)


def _made(section: Section) -> str:
    """Says which of the data sets were drawn by code."""
    sets = [name for name in dict.fromkeys([*section.train, *section.test_sets]) if name in loading.names("datasets")]
    made = [name for name in sets if loading.load("datasets", name).made]
    if not made:
        return ""
    return f"{', '.join(made)}: drawn by code. Numbers on them say nothing about performance on real forgeries."


def fingerprint_warnings(tables: list[Section]) -> list[str]:
    """Warn of protocol names that stand for more than one set of rules or frames."""
    counts = Counter(section.protocol for section in tables)
    return [
        f"{protocol} has {count} fingerprints: its rules or its frames differed between runs. Its rows are in "
        f"{count} tables; do not compare rows of different tables."
        for protocol, count in counts.items()
        if count > 1
    ]


def _from_chance(row: Row, test_set: str) -> tuple[str, float] | None:
    """A row's main AUC on a test set in words, and the two-sided p-value of chance; None without an interval.

    With several seeds, the interval of their mean decides; the page prints it. This interval is long for two or three
    seeds, so the largest p-value of the seeds counts if it is smaller and all seeds are on one side of chance.
    """
    own = [
        (getattr(run.tests[test_set], row.auc), (limits.low, limits.high), run)
        for run in row.runs
        if test_set in run.tests
        and (limits := run.tests[test_set].intervals.get(row.auc))
        and limits.low is not None
        and limits.high is not None
    ]
    over = row.limits(test_set, row.auc) if len(row.runs) > 1 else None
    mean = row.cell(test_set, row.auc).mean
    found = []
    if over and mean is not None:
        text = f"is {mean:.{DIGITS}f}, the mean of {len(row.runs)} seeds ({_interval(over)}"
        found.append((text, _p_of_chance(mean, over)))
    sides = {value > 0.5 for value, *_ in own}
    if own and (len(own) == len(row.runs) and len(sides) == 1 if over else True):
        pick = max if over else min  # without an interval over seeds, one seed is enough
        value, limits, run = pick(own, key=lambda each: _p_of_chance(*each[:2]))
        seed = f" with seed {run.seed}" if len(row.runs) > 1 else ""
        found.append((f"is {value:.{DIGITS}f}{seed} ({_interval(limits)}", _p_of_chance(value, limits)))
    return min(found, key=lambda each: each[1], default=None)


def _interval(limits: tuple[float, float]) -> str:
    return f"95 % interval {limits[0]:.{DIGITS}f} to {limits[1]:.{DIGITS}f}"


def _p_of_chance(value: float, limits: tuple[float, float]) -> float:
    """Two-sided p-value of an AUC of one half, from a 95 % interval that is symmetric on the logit scale."""
    from scipy.special import logit, ndtr, ndtri

    near = limits[0] if value > 0.5 else limits[1]
    place, edge = (float(logit(min(max(each, 1e-9), 1 - 1e-9))) for each in (value, near))
    if abs(place - edge) < 1e-12:
        return 1.0
    return float(2 * ndtr(-abs(place / (place - edge)) * ndtri(0.975)))
