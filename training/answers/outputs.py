"""Answers as JSON lines, as CSV and as lines for a reader. Names that are no text are escaped."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from resproto_fd.configs.files import make_folder, write_text
from resproto_fd.training.answers.records import VERDICTS, Answers, FaceAnswer, FileAnswer, Opinion
from resproto_fd.training.answers.report import render_report

JSON_LINES, CSV, REPORT = "answers.jsonl", "answers.csv", "report.html"
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would compute; a quote before it makes it text."""
COLUMNS = (
    *("file", "kind", "verdict", "probability", "face", "face_verdict", "face_probability", "frames", "side", "turn"),
    *("reasons", "run", "score", "run_probability", "threshold", "run_verdict", "note"),
)
OF_CLIPS = ("clips",)
"""Columns that a table of runs of clips has besides."""
DIGITS = 6


def write_all(answers: Answers, out: Path) -> list[Path]:
    """Writes `answers.jsonl`, `answers.csv` and `report.html` into a folder; each appears whole or not at all.

    Raises:
        UserError: The folder cannot be written.
    """
    make_folder(out)
    texts = {JSON_LINES: to_json_lines(answers), CSV: to_csv(answers), REPORT: render_report(answers)}
    for name, text in texts.items():
        write_text(out / name, text)
    return [out / name for name in texts]


def to_json_lines(answers: Answers) -> str:
    """One JSON object a file, in the order in which they were given."""
    return "".join(json.dumps(as_dict(file), allow_nan=False) + "\n" for file in answers.files)


def as_dict(file: FileAnswer) -> dict[str, Any]:
    """A file's answer for JSON, without its pictures."""
    found = asdict(file)
    for face in found["faces"]:
        del face["thumbnails"]
        for opinion in face["opinions"]:
            del opinion["frames" if opinion["clips"] else "clips"]
    return _printable(found)


def to_csv(answers: Answers) -> str:
    """One line a face and run; a file without a face has one line. An empty field is not known.

    Runs of clips have a further column: each clip's first and last frame, and its score.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    of_clips = any(run.of_clips for run in answers.runs)
    writer.writerow([*COLUMNS, *(OF_CLIPS if of_clips else ())])
    for file in answers.files:
        for face, opinion in _rows(file):
            own: list[Any] = [file.name, file.kind, file.verdict, file.probability]
            if face is not None:
                reasons = "; ".join(face.reasons.values())
                own += [face.number, face.verdict, face.probability, len(face.frames), face.side, face.turn, reasons]
            if opinion is not None:
                own += [opinion.run, opinion.score, opinion.probability, opinion.threshold, opinion.verdict]
            own += [None] * (len(COLUMNS) - 1 - len(own)) + [file.note]
            own += [_clips(opinion)] if of_clips else []
            writer.writerow([_cell(value) for value in own])
    return out.getvalue()


def as_text(answers: Answers) -> str:
    """One line a file for a reader, then what the thresholds mean."""
    lines = []
    for file in answers.files:
        shown = "" if file.probability is None else f"{file.probability:.3f}"
        reasons = "; ".join(dict.fromkeys(text for face in file.faces for text in face.reasons.values()))
        lines.append(f"{file.verdict:<10}  {shown:>5}  {_plain(file.name)}" + _plain(_after(reasons or file.note)))
    counts = Counter(file.verdict for file in answers.files)
    lines.append(", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name]))
    for run in answers.runs:
        lines += [
            "",
            f"{_plain(run.name)}:",
            *(f"  {_plain(text)}" for text in run.meaning),
            *(f"  note: {_plain(text)}" for text in run.notes),
        ]
    return "\n".join(lines) + "\n"


def _after(text: str) -> str:
    return f"  ({text})" if text else ""


def _rows(file: FileAnswer) -> Iterator[tuple[FaceAnswer | None, Opinion | None]]:
    if not file.faces:
        yield None, None
    for face in file.faces:
        for opinion in face.opinions or [None]:
            yield face, opinion


def _clips(opinion: Opinion | None) -> str | None:
    """The clips of an opinion: "0-15: 0.812345; 142-157: 0.701234"."""
    clips = [] if opinion is None else opinion.clips
    return "; ".join(f"{clip.first}-{clip.last}: {clip.score:.{DIGITS}f}" for clip in clips) or None


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{DIGITS}f}"
    text = _plain(str(value))
    return f"'{text}" if text.startswith(FORMULA) else text


def _plain(text: str) -> str:
    """A text on one line: what cannot be printed, a line's end too, is escaped."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _printable(value: Any) -> Any:
    """The value with every text free of lone surrogates, which are bytes of names that are no text."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _printable(inner) for key, inner in value.items()}
    return [_printable(inner) for inner in value] if isinstance(value, list | tuple) else value
