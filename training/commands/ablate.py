"""`resproto ablate`: tries other ways of scoring on what a run has kept, in seconds, without a frame or a GPU.

From its score tables: the other scores (`Score_clip` against `Score_GRP`) and other video scores. From kept features
(`run.save_features=true`): the detector's head with other keywords, such as K and the temperature of ResProto-FD.

Beside each test's values stands that of the selection split. A variant that is chosen by the tests is an oracle: its
numbers are no results on unseen data.
"""

import argparse
import csv
import io
import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import write_text
from resproto_fd.training.commands.arguments import add_run, add_trust, with_trust
from resproto_fd.training.commands.evaluate import own_tables

DEFAULT_SWEEP = {"top_k": [16, 32, 64, 128], "temperature": [0.1, 1.0]}
"""For detectors with these keywords: Figure 4 of the ResProto-FD paper, and the released code's temperature."""
VIDEO_SCORES = ("mean", "median", "top-5")
AS_TESTED = "score as tested, video score mean"
SELECTION = ""
"""Stands for the selection split among the names of test sets."""
SHOWN = ("frame_auc", "frame_eer", "video_auc", "video_eer")
AGREEMENT = 1e-5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_trust(parser)
    parser.add_argument(
        "sweep",
        nargs="*",
        metavar="key=v1,v2",
        help="model.* keywords of the head and their values (default: the K of Figure 4; temperature 0.1 and 1)",
    )


def run(args: argparse.Namespace) -> int:
    folder = Path(args.run_folder)
    tables = own_tables(folder)
    chosen = _selection(folder, tables)
    everything = tables if chosen.table is None else {**tables, SELECTION: chosen.table}
    shown = [name for name in SHOWN if any(name.startswith(table.levels) for table in tables.values())]
    names = tuple(dict.fromkeys((*shown, *filter(None, [chosen.metric]))))
    rows = _from_scores(everything, names)
    sweep = _parse(args.sweep)
    try:
        rows += _from_features(folder, everything, sweep, names, args.trust_code)
    except UserError as error:
        if sweep:
            raise
        print(f"note: from the scores only: {error}")
    rows = _beside(rows, chosen)
    print(_printed(rows, names))
    print(_verdict(rows, chosen))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "ablation.csv", out.getvalue())
    write_text(folder / "ablation.json", json.dumps(rows, indent=1) + "\n")
    print(f"{folder / 'ablation.csv'}, {folder / 'ablation.json'}")
    return 0


class Chosen(NamedTuple):
    """What a run keeps of the split that its checkpoint was selected on."""

    where: str = ""  # "Demo-A val"
    metric: str = ""
    value: float | None = None  # of the run's own scores
    table: Any = None  # its scores; None where `missing` says why
    missing: str = ""
    oracle: bool = False


def _selection(folder: Path, tables: dict) -> Chosen:
    from resproto_fd.training.board.score_facts import own_table
    from resproto_fd.training.results import RunResult
    from resproto_fd.training.scores import table_path

    if not (folder / "result.json").is_file():
        return Chosen(missing=f"no value is stored ({folder / 'result.json'} is missing)")
    try:
        found = RunResult.load(folder / "result.json").selected_on
    except UserError as error:
        return Chosen(missing=f"no value is stored ({error})")
    if found.rule != "best":
        return Chosen(missing=f"no value is stored ({found.text()})")
    chosen = Chosen(f"{found.dataset} {found.split}", found.metric, found.value, oracle=found.oracle)
    path = table_path(folder, found.dataset, "scores_selection")
    again = f"run `resproto test --run {folder}` where {found.dataset} is"
    if not path.is_file():
        return chosen._replace(missing=f"no scores of {chosen.where} are kept in {path.parent}; {again}")
    try:
        table = own_table(path, found.dataset)
    except UserError as error:
        return chosen._replace(missing=f"{error}; {again}")
    if table.checkpoint != next(iter(tables.values())).checkpoint:
        return chosen._replace(missing=f"{path} is of other weights than the tests' scores; {again}")
    return chosen._replace(table=table)


def _from_scores(tables: dict, names: tuple[str, ...]) -> list[dict]:
    from resproto_fd.training.measures.videos import aggregate_videos

    rows = []
    for test_set, table in tables.items():
        for variant in (None, *sorted(table.variants)):
            scores = table.score if variant is None else table.variants[variant]
            for how in VIDEO_SCORES if variant is None else VIDEO_SCORES[:1]:
                videos = aggregate_videos(scores, table.video_index, len(table.videos), how)
                what = f"score {variant or 'as tested'}, video score {how}"
                rows.append({"what": what, "test_set": test_set, **_metrics(table, scores, videos, names)})
    return rows


def _from_features(
    folder: Path, tables: dict, sweep: dict[str, list], names: tuple[str, ...], trusted: bool
) -> list[dict]:
    """The head on kept features under every combination of the sweep's values.

    Raises:
        UserError: No features; or the head does not give the stored scores, so that its other scores would mean
            nothing.
    """
    import numpy as np

    from resproto_fd.configs.schema import RunConfig
    from resproto_fd.detectors.registry import keywords_of
    from resproto_fd.training.measures.videos import mean_by_video

    config = loading.validated(RunConfig, loading.load_yaml(folder / "config.yaml"), str(folder / "config.yaml"))
    config = with_trust(config, trusted)
    features = _features(folder, tables)
    known = keywords_of(config.detector.detector)
    sweep = sweep or {key: values for key, values in DEFAULT_SWEEP.items() if key in known}
    if not sweep:
        raise UserError(
            f"detector '{config.detector.detector}' has no keyword {' or '.join(DEFAULT_SWEEP)}; "
            "set what to try: model.KEYWORD=VALUE,VALUE,..."
        )
    scores_of = _scorer(folder, config, features)
    for name, scores in scores_of({}).items():
        apart = float(np.abs(scores - tables[name].score).max(initial=0))
        if apart > AGREEMENT:
            raise UserError(
                f"{config.detector.detector}: on the kept features its head gives scores {apart:.2g} off the stored "
                "ones, so that other keywords cannot be tried"
            )
    rows = []
    for values in itertools.product(*sweep.values()):
        changes = dict(zip(sweep, values))
        what = " ".join(f"model.{key}={value}" for key, value in changes.items())
        for name, scores in scores_of(changes).items():
            table = tables[name]
            videos = mean_by_video(scores, table.video_index, len(table.videos))
            rows.append({"what": what, "test_set": name, **_metrics(table, scores, videos, names)})
    return rows


def _features(folder: Path, tables: dict) -> dict:
    """Features of each table's frames; those of the selection split may be absent."""
    from resproto_fd.training.features import features_path, load_features
    from resproto_fd.training.scores import table_path

    found = {}
    for name, table in tables.items():
        scores = table_path(folder, name or table.dataset, "scores" if name != SELECTION else "scores_selection")
        path = features_path(scores)
        if name == SELECTION and not path.is_file():
            print(
                f"note: {path}: no features of the selection split were kept, so that it cannot choose among the "
                "head's keywords; test again with run.save_features=true"
            )
            continue
        found[name] = load_features(path, table)
    return found


def _scorer(folder: Path, config, features: dict):
    """A function from changed keywords of the head to its scores of each set of features."""
    import torch

    from resproto_fd.detectors.registry import build_detector
    from resproto_fd.detectors.weights import load_all, read_state_dict, without_pretrained
    from resproto_fd.trainer.detector_faults import faults_of
    from resproto_fd.training.run import misfits_named

    state = read_state_dict(folder / "best.pt")
    # As in testing: rounding depends on it, and so does which of two equally near prototypes comes first.
    batch = config.run.test_batch_size

    @torch.no_grad()
    def scores_of(changes: dict) -> dict:
        model = config.detector.model_copy(update={"model": {**config.detector.model, **changes}})
        with misfits_named(model), without_pretrained():
            detector = build_detector(model).eval()
        load_all(detector, state, str(folder / "best.pt"))
        found = {}
        with faults_of(detector, "scoring features"):
            for name, values in features.items():
                parts = [detector.head(part).scores for part in torch.from_numpy(values).split(batch)]
                found[name] = torch.cat(parts).clamp(0, 1).numpy()  # clamped as score tables do
        return found

    return scores_of


def _metrics(table, scores, video_scores, names: tuple[str, ...]) -> dict[str, float | None]:
    from resproto_fd.training.measures.metrics import binary_metrics

    levels = {"frame": (table.label, scores), "video": (table.video_label, video_scores)}
    found = {f"{level}_{k}": v for level in table.levels for k, v in binary_metrics(*levels[level]).items()}
    return {name: found.get(name) for name in names}  # of clips there is no metric of frames


def _beside(rows: list[dict], chosen: Chosen) -> list[dict]:
    """The tests' rows, each with its variant's value on the selection split, and marked."""
    values = {row["what"]: row[chosen.metric] for row in rows if row["test_set"] == SELECTION}
    if chosen.table is None and chosen.value is not None:
        values[AS_TESTED] = chosen.value
    where = chosen.where and f"{chosen.metric} on {chosen.where}"
    rows = [
        {**row, "selected_on": where, "selection_value": values.get(row["what"]), "mark": ""}
        for row in rows
        if row["test_set"] != SELECTION
    ]
    if chosen.table is not None:
        mark_rows(rows, chosen.metric)
    return rows


def mark_rows(rows: list[dict], metric: str) -> None:
    """Set "mark": "chosen" for what the selection split would have chosen, "oracle" for a better row of a test set.

    Args:
        rows: With "what", "test_set", "selection_value" and the metric. Of equal rows the first is taken.
        metric: Name of the metric that is selected on.
    """
    from resproto_fd.trainer.progress import LOWER_IS_BETTER

    sign = -1 if metric in LOWER_IS_BETTER else 1
    valued = [row for row in rows if row["selection_value"] is not None]
    chosen = max(valued, key=lambda row: sign * row["selection_value"])["what"] if valued else None
    for row in rows:
        row["mark"] = "chosen" if row["what"] == chosen else ""
    for test_set in {row["test_set"] for row in rows} if valued else ():
        of_set = [row for row in rows if row["test_set"] == test_set and row[metric] is not None]
        best = max(of_set, key=lambda row: (sign * row[metric], row["mark"] == "chosen"), default=None)
        if best and not best["mark"]:
            best["mark"] = "oracle"


def _parse(words: list[str]) -> dict[str, list]:
    """{"top_k": [16, 32]} of ["model.top_k=16,32"].

    Raises:
        UserError: A word of another form, or a keyword twice.
    """
    found = {}
    for word in words:
        key, mark, values = word.partition("=")
        if not mark or not key.startswith("model.") or not values:
            raise UserError(f"'{word}': expected model.KEYWORD=VALUE,VALUE,...")
        parsed = loading.parse_overrides([f"{key}=[{values}]"])["model"]
        if twice := sorted(set(parsed) & set(found)):
            raise UserError(
                f"'{word}': model.{twice[0]} has values already; give all of them in one word, set apart by ','"
            )
        found |= parsed
    return found


def _printed(rows: list[dict], names: tuple[str, ...]) -> str:
    width = max(len(row["what"]) for row in rows)
    lines = []
    for test_set, of_set in itertools.groupby(
        sorted(rows, key=lambda row: row["test_set"]), lambda row: row["test_set"]
    ):
        lines.append(f"{test_set:{width}}  " + "  ".join(f"{name:>9}" for name in (*names, "selection")))
        for row in of_set:
            cells = ["undefined" if row[name] is None else f"{row[name]:9.4f}" for name in names]
            value = row["selection_value"]
            cells += [f"{'-':>9}" if value is None else f"{value:9.4f}", row["mark"]]
            lines.append(f"{row['what']:{width}}  {'  '.join(cells)}".rstrip())
        lines.append("")
    return "\n".join(lines)


def _verdict(rows: list[dict], chosen: Chosen) -> str:
    """Which variant the selection split would have chosen, and what another choice is."""
    lines = []
    if chosen.table is None:
        lines.append(f"selection split: {chosen.missing}, so that it chooses no variant")
    else:
        what = next((row["what"] for row in rows if row["mark"] == "chosen"), "none, as it is undefined there")
        lines.append(f"column 'selection': {chosen.metric} on {chosen.where}")
        lines.append(f"{chosen.metric} on {chosen.where} would have chosen: {what}")
    if chosen.oracle:
        lines.append(f"{chosen.where} holds test frames: its choice is an oracle choice too")
    lines.append("A choice by the tests' columns is an oracle choice: its numbers are no results on unseen data.")
    return "\n".join(lines)
