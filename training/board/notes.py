"""What a reader must know before comparing rows: notes and warnings of a table, in sentences."""

from collections import Counter

from resproto_fd.training.board.table import DIGITS, Row, Section


def notes(section: Section) -> list[str]:
    """What a reader must know before comparing rows of this table."""
    found = [*warnings(section), *margins(section)]
    for name in section.test_sets:
        tests = [(row, run, run.tests[name]) for row in section.rows for run in row.runs if name in run.tests]
        for reason in sorted({test.undefined for *_, test in tests if test.undefined}):
            found.append(f"{name}: {reason}, so all metrics but accuracy are undefined.")
        usual = Counter(test.frames_hash for *_, test in tests).most_common(1)[0][0]
        for row, run, test in tests:
            if test.skipped:
                found.append(f"{name}: {row.name}, seed {run.seed}: {test.skipped} unreadable frames left out.")
            elif test.frames_hash != usual:
                found.append(f"{name}: {row.name}, seed {run.seed} was not scored on the same frames as the rest.")
    for row in section.rows:
        missing = sorted({name for run in row.runs for name in section.test_sets if name not in run.tests})
        if missing:
            found.append(f"{row.name}: at least one seed was not tested on {', '.join(missing)}.")
    return found


def warnings(section: Section) -> list[str]:
    """Controls that see no face and are above chance all the same: something else goes with the label."""
    return [
        f"{name}: {row.first.title} sees no face, and its frame AUC {above}): something beside the face goes with "
        "the label; a detector may use it."
        for row in section.rows
        if row.control and not row.first.sees_faces
        for name in section.test_sets
        if (above := _above_chance(row, name))
    ]


def margins(section: Section) -> list[str]:
    """How far each ranked row's mean frame AUC is above that of the frozen-CLIP probe, the best if several."""
    probe = section.probe_mean("frame_auc")
    if probe is None:
        return []
    ranked = [row for row in section.rows if row.ranks]
    names = Counter(row.name for row in ranked)
    parts = []
    for row in ranked:
        mean = row.mean(section.mean_sets, "frame_auc").mean
        if mean is not None:
            which = row.name if names[row.name] == 1 else f"{row.name} ({row.first.source}, {row.selection})"
            parts.append(f"{which} {mean - probe:+.{DIGITS}f}")
    text = ", ".join(parts)
    return [f"Mean frame AUC over the frozen-CLIP probe's {probe:.{DIGITS}f}: {text}."] if text else []


def about_protocol(section: Section) -> list[str]:
    """The protocol in words: its title, training sets, and what its YAML says of source and purpose."""
    title, source, note = (str(section.protocol_content.get(key) or "") for key in ("title", "source", "note"))
    trained = f"Training sets: {', '.join(section.train)}." if section.train else ""
    first = ". ".join(filter(None, (title.rstrip("."), trained)))
    return [text for text in (first, note, f"Source: {source}" if source else "") if text]


def fingerprint_warnings(tables: list[Section]) -> list[str]:
    """One sentence for each protocol name that stands for more than one set of rules or frames."""
    counts = Counter(section.protocol for section in tables)
    return [
        f"{protocol} has {count} fingerprints: its rules or its frames differed between runs. Its rows are in "
        f"{count} tables; do not compare rows of different tables."
        for protocol, count in counts.items()
        if count > 1
    ]


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
