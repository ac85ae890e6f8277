"""`resproto submit`: makes a result of scores from elsewhere; they must cover exactly the protocol's frames.

The file is a CSV with the columns test_set, frame (the canonical path) and score (P(fake) in [0, 1]); `--template FILE`
writes one of the protocol's frames with empty scores.
"""

import argparse
import csv
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import atomic_file, sha256_of
from resproto_fd.preprocessing.video import SPLITS

COLUMNS = ("test_set", "frame", "score")
NAMED = 3  # of each kind of wrong row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scores", nargs="?", metavar="CSV", help="columns test_set, frame, score")
    parser.add_argument("--protocol", required=True, metavar="NAME", help="a protocol's name or YAML")
    parser.add_argument("--template", metavar="FILE", help="only write the protocol's frames with empty scores")
    parser.add_argument("--name", metavar="NAME", help="the method's name: letters, digits, - _ . only")
    parser.add_argument("--title", default="", help="the name on the leaderboard (default: NAME)")
    parser.add_argument("--paper", default="", help="authors, title, venue")
    parser.add_argument("--note", default="", help="how it was trained and its checkpoint chosen, for the reader")
    parser.add_argument("--trained-on", metavar="SETS", help="its training sets, comma-separated; protocol: its own")
    parser.add_argument(
        "--selected", metavar="HOW", help="how its checkpoint was chosen: last, or best/METRIC/SET/SPLIT"
    )
    parser.add_argument("--parameters", type=int, help="number of the model's parameters")
    parser.add_argument("--seed", type=int, default=0, help="seed of its training (default: 0)")
    parser.add_argument("--out", default="runs", metavar="DIR", help="folder of runs (default: runs)")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="data.* settings: where the manifests are")


def run(args: argparse.Namespace) -> int:
    if args.scores and "=" in args.scores:  # argparse takes the first setting for the file
        args.settings, args.scores = [args.scores, *args.settings], None
    data = loading.data_settings(args.settings, "submit")
    protocol = loading.load("protocols", args.protocol)
    if not args.template:
        _check_words(args)

    from resproto_fd.training import protocols

    resolved = protocols.resolve(protocol, data, tests_only=True)
    if args.template:
        rows = sum(len(frames) for frames in resolved.tests.values())
        write_template(Path(args.template), resolved.tests)
        print(f"{args.template}: {rows} frames of {len(resolved.tests)} test sets; fill the column 'score'")
        return 0
    given = read_scores(Path(args.scores), resolved.tests)
    print(_save(args, resolved, given))
    return 0


def write_template(path: Path, tests: dict) -> None:
    """Writes a CSV of every frame of the test sets (`FrameList` by name), with empty scores."""
    with atomic_file(path) as file:
        lines = [",".join(COLUMNS)]
        for name, frames in tests.items():
            lines += [f"{_quoted(name)},{_quoted(frame)}," for frame in frames.paths]
        file.write(("\n".join(lines) + "\n").encode())


def read_scores(path: Path, tests: dict) -> dict[str, list[float]]:
    """Reads the scores of every frame, by test set, in the order of its frame list.

    Args:
        path: The CSV.
        tests: `FrameList` by test set.

    Raises:
        UserError: The file or a column is missing; or rows are missing or repeated, have a frame that the protocol
            lacks, or a score outside [0, 1]. Each kind is counted, and the first are named with their lines.
    """
    places = {name: {frame: i for i, frame in enumerate(frames.paths)} for name, frames in tests.items()}
    scores: dict[str, list[float | None]] = {name: [None] * len(frames) for name, frames in tests.items()}
    wrong: dict[str, list[str]] = {"of no frame of the protocol": [], "repeated": [], "no number in [0, 1]": []}
    for line, row in _rows(path):
        test_set, frame, text = (row[column] for column in COLUMNS)
        where = f"line {line}: {test_set}, {frame}"
        place = places.get(test_set, {}).get(frame)
        if place is None:
            wrong["of no frame of the protocol"].append(where)
            continue
        if scores[test_set][place] is not None:
            wrong["repeated"].append(where)
            continue
        value = _number(text)
        if value is None:
            wrong["no number in [0, 1]"].append(f"{where}: {text!r}")
        scores[test_set][place] = math.nan if value is None else value
    missing = [
        f"{name}, {tests[name].paths[i]}" for name, values in scores.items() for i, v in enumerate(values) if v is None
    ]
    faults = [_counted(len(found), kind, found) for kind, found in [*wrong.items(), ("missing", missing)] if found]
    if faults:
        raise UserError(
            f"{path}: not exactly the protocol's frames:\n  " + "\n  ".join(faults) + "\n"
            "nothing was written; --template FILE writes the frames that are expected"
        )
    return scores


def _rows(path: Path):
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            lacking = [column for column in COLUMNS if column not in (reader.fieldnames or [])]
            if lacking:
                raise UserError(
                    f"{path}: lacks the column {', '.join(lacking)}; expected {', '.join(COLUMNS)}, "
                    f"got {', '.join(reader.fieldnames or ['nothing'])}"
                )
            for row in reader:
                if None in row or None in row.values():
                    raise UserError(f"{path}: line {reader.line_num} has more or fewer fields than the header")
                yield reader.line_num, row
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not a readable CSV: {error}") from error


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None  # not so NaN


def _counted(count: int, kind: str, found: list[str]) -> str:
    more = "" if count <= NAMED else f"; and {count - NAMED} more"
    return f"{count} {kind}: {'; '.join(found[:NAMED])}{more}"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n') else text


def _check_words(args: argparse.Namespace) -> None:
    if not args.scores:
        raise UserError("name the CSV of scores (or --template FILE to write one to fill)")
    name = args.name or ""
    if not name or name.startswith(".") or not all(letter.isalnum() or letter in "-_." for letter in name):
        raise UserError(f"--name {name!r}: expected letters, digits, - _ and . only (it names the run folder)")
    _selection(args.selected)
    if args.parameters is not None and args.parameters < 0:
        raise UserError(f"--parameters {args.parameters}: expected the model's number of parameters, 0 or more")


def _save(args: argparse.Namespace, resolved, given: dict[str, list[float]]) -> Path:
    return save_result(
        resolved,
        given,
        Place(args.out, args.name, args.seed),
        checkpoint=sha256_of(args.scores),
        title=args.title or args.name,
        source="submitted",
        paper=args.paper,
        selected_on=_selection(args.selected),
        trained_on=_trained_on(args.trained_on, resolved.config.train),
        parameters=args.parameters,
        note=args.note,
    )


def _trained_on(words: str | None, of_protocol: list[str]) -> list[str] | None:
    """Training sets as stated; None if they are not."""
    if words is None or words == "protocol":
        return None if words is None else list(of_protocol)
    return [word.strip() for word in words.split(",") if word.strip()]


def _selection(words: str | None):
    """The choice of the checkpoint as stated: `last`, or `best/METRIC/SET/SPLIT`; not known if it is not.

    Raises:
        UserError: Another form.
    """
    from resproto_fd.training.results import Selection

    if words is None or words == "last":
        return Selection(rule="given" if words is None else "last")
    rule, *parts = words.split("/")
    if rule != "best" or len(parts) != 3 or parts[2] not in SPLITS or not parts[1]:
        raise UserError(f"--selected {words!r}: expected last or best/METRIC/SET/SPLIT with SPLIT {', '.join(SPLITS)}")
    metric, dataset, split = parts
    return Selection(rule="best", metric=metric, dataset=dataset, split=split, oracle=split == "test")


class Place(NamedTuple):
    """A run folder: the folder of runs, the method's name, and the seed of its training."""

    out: str
    name: str
    seed: int


def save_result(
    resolved,
    given: dict[str, list[float]],
    place: Place,
    checkpoint: str | None = None,
    remedy: str = "give another --name or --seed, or remove the folder",
    take_equal: bool = False,
    **fields,
) -> Path:
    """Writes the score tables and the result file of scores that no detector here made, into a run folder.

    Args:
        resolved: The protocol.
        given: Scores of each test set's frames, in their order.
        place: Where the run folder lies.
        checkpoint: SHA-256 of what the scores came from.
        remedy: Printed if the run folder holds a result already.
        take_equal: Whether a result of the same protocol and the same scores is kept, and no error.
        fields: Further fields of the result.

    Returns:
        The result file.

    Raises:
        UserError: The run folder holds a result already.
    """
    from resproto_fd.training.environment import versions
    from resproto_fd.training.results import RunResult, test_result
    from resproto_fd.training.scores import ScoreTable

    folder = Path(place.out) / resolved.config.name / place.name / f"seed{place.seed}"
    tables = {
        test_set: ScoreTable.of_frames(test_set, frames, given[test_set], detector=place.name, checkpoint=checkpoint)
        for test_set, frames in resolved.tests.items()
    }
    if (folder / "result.json").exists():
        if not take_equal:
            raise UserError(f"{folder}: holds a result already; {remedy}")
        if difference := _difference(folder, resolved.fingerprint, tables):
            raise UserError(f"{folder}: holds a result already, {difference}; {remedy}")
        return folder / "result.json"
    tests, trained = {}, fields.get("trained_on")
    for test_set, table in tables.items():
        table.save(folder / "scores" / f"{test_set}.npz")
        tests[test_set] = test_result(table, in_domain=None if trained is None else test_set in trained)
    result = RunResult(
        detector=place.name,
        protocol=resolved.config.name,
        fingerprint=resolved.fingerprint,
        seed=place.seed,
        config={"protocol": resolved.config.model_dump(mode="json")},
        versions=versions(),
        checkpoint_sha256=checkpoint,
        tests=tests,
        **fields,
    )
    result.save(folder / "result.json")
    return folder / "result.json"


def _difference(folder: Path, fingerprint: str, tables: dict) -> str:
    """How a run folder's result differs from these score tables, by test set; empty if it does not."""
    from resproto_fd.training.results import RunResult
    from resproto_fd.training.scores import ROUNDING, ScoreTable

    try:
        result = RunResult.load(folder / "result.json")
        stored = {test_set: ScoreTable.load(folder / "scores" / f"{test_set}.npz") for test_set in result.tests}
    except UserError as error:
        return f"which cannot be read ({error})"
    if result.fingerprint != fingerprint:
        return f"of another protocol or other frames (fingerprint {result.fingerprint}, here {fingerprint})"
    if set(result.tests) != set(tables):
        return f"of other test sets ({', '.join(sorted(result.tests))})"
    for test_set, table in tables.items():
        hashes = stored[test_set].frames_hash(), result.tests[test_set].frames_hash
        # Another machine's sums may differ in the last digits.
        if set(hashes) != {table.frames_hash()} or not np.allclose(stored[test_set].score, table.score, 0, ROUNDING):
            return f"with other scores of {test_set}"
    return ""
