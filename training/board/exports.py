"""The leaderboard's tables as files: CSV and JSON for other programs, Markdown for pages and mails."""

import csv
import io
import json
from collections.abc import Iterable

from resproto_fd.training.board.cells import small_texts
from resproto_fd.training.board.collecting import Problem
from resproto_fd.training.board.limits import CheckedLimits
from resproto_fd.training.board.notes import fingerprint_warnings, notes
from resproto_fd.training.board.score_facts import ScoreReader
from resproto_fd.training.board.table import (
    LEVELS,
    MEANINGS,
    METRICS,
    RANK_RULE,
    TIE,
    TIE_RULE,
    Section,
    clips_in_words,
    number,
    recipe_of,
)
from resproto_fd.training.results import BY_CLIPS, RunResult

MARKDOWN_METRICS = ("frame_auc", "frame_ap", "frame_eer", "frame_acc", "video_auc")


def to_json(tables: list[Section], problems: list[Problem]) -> str:
    """Every table with all numbers in full; null is undefined or not run."""
    content = {
        "tables": [
            {
                "protocol": section.protocol,
                "fingerprint": section.fingerprint,
                "test_sets": section.test_sets,
                "in_domain": sorted(section.in_domain),
                "mean_over": section.mean_sets,
                "clustering": section.clustering,
                "notes": notes(section),
                "metrics": {name: _rows(section, name) for name in METRICS},
            }
            for section in tables
        ],
        "left_out": [{"path": problem.path, "reason": problem.reason} for problem in problems],
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _rows(section: Section, metric: str) -> list[dict]:
    rows = []
    for line in section.table(metric):
        run = line.row.first
        best, tied = line.best or [False] * len(line.cells), line.tied or [False] * len(line.cells)
        rows.append(
            {
                "rank": line.rank,
                "detector": line.row.name,
                "title": run.title,
                "role": run.role,
                "source": run.source,
                "oracle": line.row.oracle,
                "group": line.row.group,
                "checkpoint": line.row.selection,
                "scored_by": line.row.by_clips or "frames",
                "seeds": [run.seed for run in line.row.runs],
                "parameters": run.parameters,
                "mean": line.cells[-1].mean,
                "mean_limits": line.limits[-1],
                "mean_tied": bool(line.tied and line.tied[-1]),
                "test_sets": {
                    name: {"mean": cell.mean, "sd": cell.sd, "values": list(cell.values), "best": b, "tied": t}
                    | dict(zip(("low", "high"), limits or (None, None)))
                    | {"answered": line.row.answered(name)}
                    for name, cell, b, t, limits in zip(section.test_sets, line.cells, best, tied, line.limits)
                },
            }
        )
    return rows


def to_csv(results: Iterable[RunResult], reader: ScoreReader | None = None) -> str:
    """One line a run and test set, numbers in full; an empty field is undefined, and `undefined` says why.

    Args:
        results: The runs.
        reader: Reads the score tables, which confirm the limits of intervals; one made for this call if not given.
    """
    checked = CheckedLimits(reader or ScoreReader())
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for run in results:
        for name in sorted(run.tests):
            test = run.tests[name]
            values = run.model_dump(exclude={"tests", "config"}) | test.model_dump(
                exclude={"per_method", "variants", "intervals", "over_answered"}
            )
            values |= {
                "test_set": name,
                "overrides": " ".join(run.overrides),
                "selected_on": run.selected_on.text(),
                "oracle": run.selected_on.oracle,
                "undefined": "; ".join(filter(None, [test.undefined, BY_CLIPS * (test.clips is not None)])),
                "scored_by": clips_in_words(run) or "frames",
                "recipe": recipe_of(run),
            }
            values |= {name: getattr(test, name) for name in ("clips", "clip_frames", "short_videos")}
            for metric in LIMITS:
                estimate = checked.of(run, name).get(metric)
                values[f"{metric}_low"] = estimate and estimate.low
                values[f"{metric}_high"] = estimate and estimate.high
            writer.writerow([_field(values[column]) for column in CSV_COLUMNS])
    return out.getvalue()


LIMITS = ("frame_auc", "frame_ap", "frame_eer", "video_auc", "video_ap", "video_eer")
"""Metrics whose 95 % limits the CSV holds."""
CSV_COLUMNS = (
    ["protocol", "fingerprint", "detector", "seed", "test_set", "source", "frames", "videos"]
    + [f"{level}_{short}" for level in LEVELS for short in (*MEANINGS, "balanced_acc")]
    + ["undefined", "selected_on", "oracle", "overrides", "title", "in_domain", "real_frames", "real_videos", "skipped"]
    + ["frames_hash", "parameters", "trainable_parameters", "train_images", "commit", "dirty", "checkpoint_sha256"]
    + ["role", "answered"]
    + [f"{metric}_{end}" for metric in LIMITS for end in ("low", "high")]
    + ["scored_by", "clips", "clip_frames", "short_videos", "recipe"]
)


def to_markdown(tables: list[Section], problems: list[Problem]) -> str:
    """The tables of the five main metrics, ranked, best in bold."""
    lines = [
        "# Leaderboard",
        "",
        f"Rates in [0, 1]; ± is the standard deviation over seeds, brackets are 95 % intervals; {RANK_RULE} {TIE_RULE}",
        "",
    ]
    for warning in fingerprint_warnings(tables):
        lines += [f"**Note:** {markdown(warning)}", ""]
    for section in tables:
        lines += [f"## {markdown(section.protocol)}", "", f"Fingerprint {markdown(section.fingerprint)}.", ""]
        for metric in MARKDOWN_METRICS:
            lines += _markdown_table(section, metric)
        found = notes(section)
        lines += [f"- {markdown(note)}" for note in found] + [""] * bool(found)
    if problems:
        lines += ["## Left out", ""] + [f"- {markdown(p.path)}: {markdown(p.reason)}" for p in problems] + [""]
    return "\n".join(lines)


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
    lines.append("| " + " | ".join(map(markdown, headers)) + " |")
    lines.append("|---:|---|" + "---:|" * (len(names) + 2) + "---|")
    for line in section.table(metric):
        row = line.row
        small = small_texts(line, section.test_sets)
        numbers = [number(cell) + (f" [{text}]" if text else "") for cell, text in zip(line.cells, small)]
        numbers = [f"**{text}**" if best else text for text, best in zip(numbers, line.best or [False] * len(numbers))]
        tied = line.tied or [False] * len(numbers)
        numbers = [f"{text} {TIE}" if tie else text for text, tie in zip(numbers, tied)]
        title = markdown(f"{row.first.title} ({row.name})" + (row.by_clips and f", {row.by_clips}"))
        fields = [str(line.rank or "–"), title, *numbers, str(len(row.runs)), markdown(row.selection)]
        lines.append("| " + " | ".join(fields) + " |")
    return [*lines, ""]


def markdown(text: str) -> str:
    """Text from outside, harmless in a Markdown table."""
    text = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\`*_[]|#~":
        text = text.replace(mark, "\\" + mark)
    return text
