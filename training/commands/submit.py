"""`resproto submit`: makes a result of scores from elsewhere; they must cover exactly the protocol's frames.

The file is a CSV with the columns test_set, frame (the canonical path) and score (P(fake) in [0, 1], or nan for no
answer, which counts as 0.5); `--template FILE`
writes one of the protocol's frames with empty scores. Only the manifests of the data sets are needed, no pictures.
"""

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np

from resproto_fd.configs import loading
from resproto_fd.configs.argument_types import seed_type
from resproto_fd.configs.errors import UserError, cut, shown
from resproto_fd.configs.file_names import expected, fault_of, plain_name, refuse_twin
from resproto_fd.configs.files import atomic_file, refuse_same, sha256_of
from resproto_fd.configs.locks import held
from resproto_fd.configs.readers.csv_reader import read_csv
from resproto_fd.configs.readers.text import LARGEST_NUMBER, is_number
from resproto_fd.configs.schema import Metric
from resproto_fd.preprocessing.video import SPLITS
from resproto_fd.training.commands.arguments import add_out, print_result

COLUMNS = ("test_set", "frame", "score")
WRONG = ("of no frame of the protocol", "repeated", "no number in [0, 1], nor nan for no answer")
OF_LOGITS = "scores outside [0, 1] look like logits: give 1 / (1 + exp(-logit)); "
NAMED = 3  # of each kind of wrong row
CHOSEN_BY = (*get_args(Metric), *dict.fromkeys(name.partition("_")[2] for name in get_args(Metric)), "loss")
"""Metrics that --selected takes; where frames or videos are not told, the bare name."""
ABOUT = ("name", "title", "paper", "note", "trained_on", "selected", "parameters")
"""Arguments of `add_about`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scores", nargs="?", metavar="CSV", help="columns test_set, frame, score")
    parser.add_argument("--protocol", required=True, metavar="NAME", help="a protocol's name or YAML")
    parser.add_argument(
        "--template", metavar="FILE", help="write the protocol's frames with empty scores to FILE, and end"
    )
    add_about(parser)
    parser.add_argument("--seed", type=seed_type(), default=0, help="seed of its training (default: 0)")
    add_out(parser)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="data.* settings: where the manifests are")
    parse = parser.parse_known_args  # it finds CSV before the options alone
    parser.parse_known_args = lambda *words: _in_any_order(*parse(*words))


def _in_any_order(args: argparse.Namespace, rest: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Finds the CSV among the words without `=`, wherever it stands.

    Args:
        args: What was parsed.
        rest: Words that were not.
    """
    words = [*filter(None, [args.scores]), *args.settings, *(word for word in rest if not word.startswith("-"))]
    files = [word for word in words if "=" not in word]
    args.scores = files[0] if files else None
    args.settings = [word for word in words if "=" in word] + files[1:]
    return args, [word for word in rest if word.startswith("-")]


def add_about(parser) -> None:
    """Adds the arguments that tell of a method from elsewhere: its name, and how it was trained."""
    parser.add_argument("--name", metavar="NAME", help="the method's name: letters, digits, - _ . only")
    parser.add_argument("--title", type=as_text, default="", help="the name on the leaderboard (default: NAME)")
    parser.add_argument("--paper", type=as_text, default="", help="authors, title, venue")
    parser.add_argument(
        "--note", type=as_text, default="", help="for readers: how it was trained and its checkpoint chosen"
    )
    parser.add_argument("--trained-on", metavar="SETS", help="its training sets, comma-separated; protocol: its own")
    parser.add_argument(
        "--selected", metavar="HOW", help="how its checkpoint was chosen: last, or best/METRIC/SET/SPLIT"
    )
    parser.add_argument("--parameters", type=int, help="number of the model's parameters")


def as_text(word: str) -> str:
    """A word of the command line as text. Python takes it to bits where the locale has no letters beyond ASCII.

    Raises:
        ArgumentTypeError: The word is not in UTF-8.
    """
    try:
        return word if word.isprintable() else os.fsencode(word).decode()
    except UnicodeError:
        raise argparse.ArgumentTypeError("expected a text in UTF-8") from None


def run(args: argparse.Namespace) -> int:
    data = loading.data_settings(args.settings, "submit")
    protocol = loading.load("protocols", args.protocol)
    if args.template:
        _check_template(args)
    else:
        _check_words(args)

    from resproto_fd.training import protocols

    resolved = protocols.resolve(protocol, data, tests_only=True, lists_only=True)
    for note in resolved.notes:
        print(f"note: {note}", file=sys.stderr)
    if args.template:
        rows = sum(len(frames) for frames in resolved.tests.values())
        write_template(Path(args.template), resolved.tests)
        print(f"{args.template}: {rows} frames of {len(resolved.tests)} test sets; fill the column 'score'")
        return 0
    given = read_scores(Path(args.scores), resolved.tests)
    path = _save(args, resolved, given)
    from resproto_fd.training.results import RunResult

    print_result(RunResult.load(path), path.parent)
    return 0


def write_template(path: Path, tests: dict) -> None:
    """Writes a CSV of every frame of the test sets (`FrameList` by name), with empty scores."""
    with atomic_file(path) as file:
        lines = [",".join(COLUMNS)]
        for name, frames in tests.items():
            lines += [f"{_quoted(name)},{_quoted(frame)}," for frame in frames.paths]
        file.write(("\n".join(lines) + "\n").encode())


def read_scores(path: Path, tests: dict) -> dict[str, list[float]]:
    """Reads the scores of every frame, by test set, in the order of its frame list; NaN for a frame without an answer.

    Args:
        path: The CSV.
        tests: `FrameList` by test set.

    Raises:
        UserError: The file or a column is missing; or rows are missing or repeated, have a frame that the protocol
            lacks, or a score outside [0, 1]. Each kind is counted, and the first are named with their lines.
    """
    places = {name: {frame: i for i, frame in enumerate(frames.paths)} for name, frames in tests.items()}
    scores: dict[str, list[float | None]] = {name: [None] * len(frames) for name, frames in tests.items()}
    wrong: dict[str, list[str]] = {kind: [] for kind in WRONG}
    counts, hint = dict.fromkeys(WRONG, 0), ""
    header, lines = read_csv(path, COLUMNS)
    columns = [header.index(column) for column in COLUMNS]
    for line, cells in lines:
        test_set, frame, text = (cells[column] for column in columns)
        value, place = _number(text), places.get(test_set, {}).get(frame.replace("\\", "/"))
        known = place is not None
        if known and value is not None and scores[test_set][place] is None:
            scores[test_set][place] = value
            continue
        kind = WRONG[0] if not known else WRONG[2] if value is None else WRONG[1]
        counts[kind] += 1
        if counts[kind] <= NAMED:
            given = f": {shown(text)}" if kind == WRONG[2] else ""
            wrong[kind].append(f"line {line}: {cut(test_set)}, {cut(frame)}{given}")
        if known and value is None:
            scores[test_set][place] = math.nan
            hint = OF_LOGITS if is_number(text.strip()) else hint
    missing = [
        f"{name}, {tests[name].paths[i]}" for name, values in scores.items() for i, v in enumerate(values) if v is None
    ]
    faults = [_counted(counts[kind], kind, wrong[kind]) for kind in WRONG if counts[kind]]
    faults += [_counted(len(missing), "missing", missing)] if missing else []
    if faults:
        raise UserError(
            f"{path}: not exactly the protocol's frames:\n  " + "\n  ".join(faults) + "\n"
            f"nothing was written; {hint}--template FILE writes the frames that are expected"
        )
    return scores


def _number(text: str) -> float | None:
    """A score, NaN for "no answer", or None for anything else."""
    text = text.strip()
    if not is_number(text):
        return math.nan if text.lower() == "nan" else None
    value = float(text)
    return value if 0 <= value <= 1 else None


def _counted(count: int, kind: str, found: list[str]) -> str:
    more = "" if count <= NAMED else f"; and {count - NAMED} more"
    return f"{count} {kind}: {'; '.join(found[:NAMED])}{more}"


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\n') else text


def _check_words(args: argparse.Namespace) -> None:
    if not args.scores:
        raise UserError("name the CSV of scores (or --template FILE to write one to fill)")
    check_about(args)


def _check_template(args: argparse.Namespace) -> None:
    if args.scores:
        raise UserError(
            f"--template {args.template}: writes a CSV to fill and reads none, got {args.scores}; give one of the two"
        )
    path = Path(args.template)
    refuse_same({"--template": path})
    if path.exists() and not _is_unfilled(path):
        raise UserError(
            f"--template {path}: expected no file or a template without scores, got another file, which would be lost; "
            "set another --template"
        )


def _is_unfilled(path: Path) -> bool:
    """Whether a file is as `write_template` writes it, without a score, or is empty."""
    try:
        if not path.stat().st_size:
            return True
        header, lines = read_csv(path, COLUMNS)
        return header == list(COLUMNS) and not any(cells[COLUMNS.index("score")].strip() for _, cells in lines)
    except UserError:
        return False


def check_about(args: argparse.Namespace) -> None:
    """Checks the words of `add_about`.

    Raises:
        UserError: The name is missing, or a word has another form.
    """
    name = args.name
    if not name:
        raise UserError("name the method: set --name NAME; expected letters, digits, - _ and . only")
    if not all(letter.isalnum() or letter in "-_." for letter in name):
        raise UserError(f"--name {name[:60]!r}: expected letters, digits, - _ and . only (it names the run folder)")
    plain_name(name, "--name", "it names the run folder")
    _selection(args.selected)
    if args.parameters is not None and not 0 <= args.parameters <= LARGEST_NUMBER:
        raise UserError(
            f"--parameters {args.parameters}: expected the model's number of parameters, 0 to {LARGEST_NUMBER}"
        )


def _save(args: argparse.Namespace, resolved, given: dict[str, list[float]]) -> Path:
    return save_result(
        resolved,
        given,
        Place(args.out, args.name, args.seed),
        checkpoint=sha256_of(args.scores),
        source="submitted",
        **facts_about(args, resolved),
    )


def facts_about(args: argparse.Namespace, resolved) -> dict[str, Any]:
    """Fields of a result, from the words of `add_about`; prints what a reader must know of the stated choice.

    Args:
        args: The command line.
        resolved: The protocol.
    """
    from resproto_fd.training.lineage import choice_here

    selection, notes = choice_here(_selection(args.selected), resolved)
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    return {
        "title": args.title or args.name,
        "paper": args.paper,
        "note": args.note,
        "parameters": args.parameters,
        "selected_on": selection,
        "trained_on": _trained_on(args.trained_on, resolved.config.train),
    }


def _trained_on(words: str | None, of_protocol: list[str]) -> list[str] | None:
    """Training sets as stated; None if they are not."""
    if words is None or words == "protocol":
        return None if words is None else list(of_protocol)
    return [word.strip() for word in words.split(",") if word.strip()]


def _selection(words: str | None):
    """The choice of the checkpoint as stated: `last`, or `best/METRIC/SET/SPLIT`; not known if it is not.

    Raises:
        UserError: Another form, another metric, or no name of a data set.
    """
    from resproto_fd.training.results import Selection

    if words is None or words == "last":
        return Selection(rule="given" if words is None else "last")
    rule, *parts = words.split("/")
    if rule != "best" or len(parts) != 3 or parts[2] not in SPLITS:
        raise UserError(f"--selected {words!r}: expected last or best/METRIC/SET/SPLIT with SPLIT {', '.join(SPLITS)}")
    metric, dataset, split = parts
    if metric not in CHOSEN_BY:
        raise UserError(
            f"--selected {words!r}: expected METRIC {', '.join(CHOSEN_BY)}, got {shown(metric)}; where it is another "
            "one, leave --selected out and say so in --note"
        )
    if fault := fault_of(dataset):
        raise UserError(f"--selected {words!r}: SET: {expected(dataset, fault)}")
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
        given: Scores of each test set's frames, in their order; NaN for a frame without an answer.
        place: Where the run folder lies.
        checkpoint: SHA-256 of what the scores came from.
        remedy: Printed if the run folder holds a result already.
        take_equal: Whether a result of the same protocol and the same scores is kept, and no error.
        fields: Further fields of the result.

    Returns:
        The result file.

    Raises:
        UserError: The run folder holds a result already, or another process works in it.
    """
    from resproto_fd.training.domains import in_domain
    from resproto_fd.training.environment import versions
    from resproto_fd.training.results import RunResult, test_result
    from resproto_fd.training.scores import table_path
    from resproto_fd.training.settings import run_folder

    folder = run_folder(place.out, resolved.config.name, place.name, place.seed)
    refuse_twin(folder, levels=3)
    tables = _score_tables(resolved, given, place.name, checkpoint)
    with held(folder / ".lock", f"{folder}: another process is at work in this run folder; {remedy}"):
        if (folder / "result.json").exists():
            _refuse_other(folder, resolved.fingerprint, tables if take_equal else None, remedy)
            return folder / "result.json"
        seen = in_domain(fields.get("trained_on"), tables, resolved.data)
        tests = {test_set: test_result(table, in_domain=seen[test_set]) for test_set, table in tables.items()}
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
        for test_set, table in tables.items():  # after the result is found to be whole
            table.save(table_path(folder, test_set))
        result.save(folder / "result.json")
        return folder / "result.json"


def _refuse_other(folder: Path, fingerprint: str, tables: dict | None, remedy: str) -> None:
    """Refuses a run folder with a result, unless the result is of these score tables; None refuses any."""
    if tables is None:
        raise UserError(f"{folder}: holds a result already; {remedy}")
    if difference := _difference(folder, fingerprint, tables):
        raise UserError(f"{folder}: holds a result already, {difference}; {remedy}")


def _score_tables(resolved, given: dict[str, list[float]], name: str, checkpoint: str | None) -> dict:
    """A score table of each test set; a frame without an answer has the score 0.5."""
    from resproto_fd.training.provenance import frame_parts
    from resproto_fd.training.scores import ScoreTable

    tables = {}
    for test_set, frames in resolved.tests.items():
        answered = ~np.isnan(given[test_set])
        scores = np.where(answered, given[test_set], 0.5)
        # No weights, settings or pixels are known here: the scores' own file stands for them.
        made_from = {"scores": checkpoint, **frame_parts(frames, resolved.people)}
        about = {"detector": name, "checkpoint": checkpoint, "people": resolved.people, "made_from": made_from}
        about["skipped"] = resolved.left_out.get(test_set, 0)
        tables[test_set] = ScoreTable.of_frames(test_set, frames, scores, answered=answered, **about)
    return tables


def _difference(folder: Path, fingerprint: str, tables: dict) -> str:
    """How a run folder's result differs from these score tables, by test set; empty if it does not."""
    from resproto_fd.training.results import RunResult
    from resproto_fd.training.scores import ROUNDING, ScoreTable, table_path

    try:
        result = RunResult.load(folder / "result.json")
        stored = {test_set: ScoreTable.load(table_path(folder, test_set)) for test_set in result.tests}
    except UserError as error:
        return f"which cannot be read ({error})"
    if result.fingerprint != fingerprint:
        return f"of another protocol or other frames (fingerprint {result.fingerprint}, here {fingerprint})"
    if set(result.tests) != set(tables):
        return f"of other test sets ({', '.join(sorted(result.tests))})"
    for test_set, table in tables.items():
        hashes = stored[test_set].frames_hash(), result.tests[test_set].frames_hash
        # Another machine's sums may differ in the last digits.
        same = np.allclose(stored[test_set].score, table.score, 0, ROUNDING)
        if set(hashes) != {table.frames_hash()} or not same or not _same_answers(stored[test_set], table):
            return f"with other scores of {test_set}"
    return ""


def _same_answers(one, other) -> bool:
    if one.answered is None or other.answered is None:
        return one.answered is other.answered
    return np.array_equal(one.answered, other.answered)
