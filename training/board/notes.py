"""Notes and warnings of a table in sentences: what a reader must know before comparing rows."""

from collections import Counter

from resproto_fd.training.board.table import DIGITS, TIE, Row, Section
from resproto_fd.training.board.ties import NO_TABLES


def notes(section: Section) -> list[str]:
    """Everything that a reader must know before comparing rows of a table, the warnings first."""
    found = [*warnings(section), *margins(section)]
    for name in section.test_sets:
        tests = [(row, run, run.tests[name]) for row in section.rows for run in row.runs if name in run.tests]
        for reason in sorted({test.undefined for *_, test in tests if test.undefined}):
            found.append(f"{name}: {reason}, so only accuracy is defined.")
        if not tests:
            found.append(f"{name}: no row was tested on it, so no row has a mean; test on it.")
            continue
        usual = Counter(test.frames_hash for *_, test in tests).most_common(1)[0][0]
        for row, run, test in tests:
            if test.skipped:
                found.append(
                    f"{name}: {row.name}, seed {run.seed}: {test.skipped} frames could not be read and are left out."
                )
            elif test.frames_hash != usual:
                found.append(
                    f"{name}: {row.name}, seed {run.seed} was not scored on the same frames as the rest, so the row is "
                    "not tested."
                )
    for row in section.rows:
        missing = sorted({name for run in row.runs for name in section.test_sets if name not in run.tests})
        if missing:
            found.append(f"{row.name}: at least one seed was not tested on {', '.join(missing)}.")
        if row.group == "seen":
            found.append(f"{row.name}: was trained on {', '.join(row.seen)}, a set of the mean; not ranked.")
    return [*found, *_untested(section)]


def _untested(section: Section) -> list[str]:
    """Ranked rows without stored scores, which the marks leave out, and whether the marks know nothing of seeds."""
    marks = section.marks["frame_auc"]
    names = {row.key: row.name for row in section.rows}
    result = []
    for column, untested in marks.untested.items():
        lacking = [names[key] for key, reason in untested.items() if reason == NO_TABLES]
        if lacking:
            result.append(f"{column}: {NO_TABLES} of {', '.join(lacking)}: not recomputed, and not tested for {TIE}.")
    if marks.one_seed:
        result.append(f"Each row has one seed. The marks {TIE} do not cover what another seed would change.")
    return result


def warnings(section: Section) -> list[str]:
    """Warn of controls that see no face and are still above chance."""
    return [
        f"{name}: {row.first.title} sees no face, and its frame AUC {above}): something other than the face goes "
        "with the label. A detector may use it."
        for row in section.rows
        if row.control and not row.first.sees_faces
        for name in section.test_sets
        if (above := _above_chance(row, name))
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
    """The protocol in sentences: its title and training sets, then the note and the source from its YAML."""
    title, source, note = (str(section.protocol_content.get(key) or "") for key in ("title", "source", "note"))
    trained = f"Training sets: {', '.join(section.train)}." if section.train else ""
    first = ". ".join(filter(None, (title.rstrip("."), trained)))
    return [text for text in (first, note, f"Source: {source}" if source else "") if text]


def fingerprint_warnings(tables: list[Section]) -> list[str]:
    """Warn of protocol names that stand for more than one set of rules or frames."""
    counts = Counter(section.protocol for section in tables)
    return [
        f"{protocol} has {count} fingerprints: its rules or its frames differed between runs. Its rows are in "
        f"{count} tables; do not compare rows of different tables."
        for protocol, count in counts.items()
        if count > 1
    ]


def _above_chance(row: Row, test_set: str) -> str:
    """A row's frame AUC on a test set in words, if it is surely above chance; else empty.

    With several seeds, the interval of their mean decides; the page prints it. This interval is long for two or three
    seeds, so the row also counts as above chance if the interval of each seed is. If there is no interval over seeds,
    one seed is enough.
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
