"""The page of a row: curves, histograms, forgery methods, calibration, and where every number comes from.

Numbers are from the result files. Charts of single scores are from the score tables beside them. If a table is missing
or holds other frames, the page is made without it and tells so.
"""

import json
from collections.abc import Mapping
from typing import Any

from resproto_fd.configs.errors import UserError
from resproto_fd.training.board import row_charts, row_tables
from resproto_fd.training.board.cells import small_table
from resproto_fd.training.board.curves import curves
from resproto_fd.training.board.rendering import ROWS, count, map_path, render_page, row_path
from resproto_fd.training.board.run_facts import row_facts, search_text, tags
from resproto_fd.training.board.score_facts import stored_scores
from resproto_fd.training.board.table import Row, Section
from resproto_fd.training.explaining.embedding import STORED, Scatter, stored_map
from resproto_fd.training.scores import ScoreTable


def render_row(section: Section, row: Row, groups: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """The page of one row.

    Args:
        section: Its table.
        row: The row.
        groups: Facts of videos that groups are made by: each video's value, by fact and video id.
    """
    run = row.first
    embedding, fault = stored_embedding(row)
    scores = stored_tables(row)
    drawn = {name: curves(table) for name, table in scores.items()}
    bars, by_method = row_charts.method_bars(scores, row.reader), row_tables.method_tables(section, row, scores)
    parts = {
        "facts": row_facts(section, row),
        "numbers": {"table": row_tables.estimates(section, row)},
        "curves": row_charts.curve_charts(drawn),
        "scores": row_charts.histograms(drawn),
        "methods": {"charts": bars, "tables": by_method} if bars or by_method else None,
        "groups": row_tables.group_tables(row, scores, groups or {}),
        "shift": row_tables.shift(section, row, scores),
        "calibration": _calibration(section, row, row_charts.reliability(drawn)),
        "robustness": row_tables.robustness(row),
        "old": row_tables.old_metrics(scores),
        "variants": row_tables.variants(section, row, scores),
        "runs": row_tables.runs(section, row),
        "config": _config(row),
    }
    return render_page(
        "row.html",
        f"{run.title}: {section.protocol}",
        row_path(section, row),
        search=search_text(row),
        protocol=section.protocol,
        heading=run.title,
        row_tags=tags(row),
        subtitle=f"{row.name} · {section.protocol} · {count(len(row.runs), 'seed')} · {row.selection}",
        seed=run.seed,
        level=run.level,
        without_scores=[name for name in section.test_sets if name in run.tests and name not in scores],
        parts=parts,
        map_page=map_path(section, row).removeprefix(f"{ROWS}/") if embedding else "",
        map_fault=fault,
    )


def render_map(section: Section, row: Row, found: Scatter) -> str:
    """The page of a row's embedding map.

    Args:
        section, row: As for `render_row`.
        found: The map.
    """
    run = row.first
    lines = [([name, f"{number:,}"], []) for name, number in found.counts().items()]
    return render_page(
        "map.html",
        f"Embedding map of {run.title}: {section.protocol}",
        map_path(section, row),
        protocol=section.protocol,
        heading=run.title,
        row_page=row_path(section, row).removeprefix(f"{ROWS}/"),
        subtitle=f"{row.name} · {section.protocol} · seed {run.seed}",
        embedding=found,
        table=small_table(["Group", "Points"], lines, "Points by group", texts=1),
    )


def stored_embedding(row: Row) -> tuple[Scatter | None, str]:
    """The embedding map of the row's first run, and why one that lies there is not shown."""
    run = row.first
    if run.folder is None or not (run.folder / STORED).is_file():
        return None, ""
    try:
        found = stored_map(run.folder, run.checkpoint_sha256)
    except UserError as error:
        return None, f"The embedding map in the run's folder cannot be read: {error}."
    stale = "The embedding map in the run's folder is of other weights than the result. Run resproto explain again."
    return found, "" if found else stale


def _calibration(section: Section, row: Row, drawn: list) -> dict[str, Any] | None:
    tables = [row_tables.calibration(section, row), row_tables.thresholds(row)]
    found = {"charts": drawn, "tables": [table for table in tables if table]}
    return found if any(found.values()) else None


def stored_tables(row: Row) -> dict[str, ScoreTable]:
    """Score tables of the row's first run by test set, without those that its numbers were not made of."""
    tables = {}
    for name in sorted(row.first.tests):
        try:
            tables[name] = stored_scores(row.first, name)
        except UserError:
            continue
    return tables


def _config(row: Row) -> dict[str, Any]:
    flat = [_flat(run.config) for run in row.runs]
    keys = sorted({key for config in flat for key in config})
    differing = [key for key in keys if len({config.get(key) for config in flat}) > 1]
    text = json.dumps(row.first.config, indent=2, sort_keys=True, ensure_ascii=False)
    return {"differing": differing, "text": text}


def _flat(value, prefix: str = "") -> dict[str, str]:
    """{"model.lr": "5e-07"} of {"model": {"lr": 5e-7}}."""
    if not isinstance(value, dict):
        return {prefix: json.dumps(value)}
    found = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{prefix}.{key}" if prefix else key)
    return found
