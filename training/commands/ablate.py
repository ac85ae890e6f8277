"""`resproto ablate`: tries other ways of scoring on what a run has kept, in seconds, without a frame or a GPU.

From its score tables: the other scores (`Score_clip` against `Score_GRP`) and other video scores. From kept features
(`run.save_features=true`): the detector's head with other keywords, such as K and the temperature of ResProto-FD.
"""

import argparse
import csv
import io
import itertools
import json
from pathlib import Path

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import write_text

DEFAULT_SWEEP = {"top_k": [16, 32, 64, 128], "temperature": [0.1, 1.0]}
"""For detectors with these keywords: Figure 4 of the ResProto-FD paper, and the released code's temperature."""
VIDEO_SCORES = ("mean", "median", "top-5")
AGREEMENT = 1e-5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a run's folder")
    parser.add_argument(
        "sweep",
        nargs="*",
        metavar="key=v1,v2",
        help="model.* keywords of the head and their values (default: those of ResProto-FD's Figure 4)",
    )


def run(args: argparse.Namespace) -> int:
    folder = Path(args.run_folder)
    tables = _tables(folder)
    rows = _from_scores(tables)
    sweep = _parse(args.sweep)
    try:
        rows += _from_features(folder, tables, sweep)
    except UserError as error:
        if sweep:
            raise
        print(f"note: from the scores only: {error}")
    print(_printed(rows))
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / "ablation.csv", out.getvalue())
    write_text(folder / "ablation.json", json.dumps(rows, indent=1) + "\n")
    print(f"{folder / 'ablation.csv'}, {folder / 'ablation.json'}")
    return 0


def _tables(folder: Path) -> dict:
    from resproto_fd.training.scores import ScoreTable

    files = sorted((folder / "scores").glob("*.npz"))
    if not files:
        raise UserError(f"{folder}: no scores/*.npz in it; name the folder of a run that was tested")
    return {file.stem: ScoreTable.load(file) for file in files}


def _from_scores(tables: dict) -> list[dict]:
    from resproto_fd.training.measures.videos import aggregate_videos

    rows = []
    for test_set, table in tables.items():
        for variant in (None, *sorted(table.variants)):
            scores = table.score if variant is None else table.variants[variant]
            for how in VIDEO_SCORES if variant is None else VIDEO_SCORES[:1]:
                videos = aggregate_videos(scores, table.video_index, len(table.videos), how)
                what = f"score {variant or 'as tested'}, video score {how}"
                rows.append({"what": what, "test_set": test_set, **_aucs(table, scores, videos)})
    return rows


def _from_features(folder: Path, tables: dict, sweep: dict[str, list]) -> list[dict]:
    """The head on kept features under every combination of the sweep's values.

    Raises:
        UserError: No features; or the head does not give the stored scores, so that its other scores would mean
            nothing.
    """
    import numpy as np
    import torch

    from resproto_fd.configs.schema import RunConfig
    from resproto_fd.detectors.registry import build_detector, keywords_of
    from resproto_fd.detectors.weights import load_all, read_state_dict, without_pretrained
    from resproto_fd.training.features import features_path, load_features
    from resproto_fd.training.measures.videos import mean_by_video

    config = loading.validated(RunConfig, loading.load_yaml(folder / "config.yaml"), str(folder / "config.yaml"))
    features = {name: load_features(features_path(folder, name), table) for name, table in tables.items()}
    known = keywords_of(config.detector.detector)
    sweep = sweep or {key: values for key, values in DEFAULT_SWEEP.items() if key in known}
    if not sweep:
        raise UserError(
            f"detector '{config.detector.detector}' has no keyword {' or '.join(DEFAULT_SWEEP)}; "
            "set what to try: model.KEYWORD=VALUE,VALUE,..."
        )
    state = read_state_dict(folder / "best.pt")
    # As in testing: rounding depends on it, and so does which of two equally near prototypes comes first.
    batch = config.run.test_batch_size

    @torch.no_grad()
    def scores_of(changes: dict) -> dict[str, np.ndarray]:
        model = config.detector.model_copy(update={"model": {**config.detector.model, **changes}})
        with without_pretrained():
            detector = build_detector(model).eval()
        load_all(detector, state, str(folder / "best.pt"))
        return {
            name: torch.cat([detector.head(part).scores for part in torch.from_numpy(values).split(batch)])
            .clamp(0, 1)  # as score tables do
            .numpy()
            for name, values in features.items()
        }

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
            rows.append({"what": what, "test_set": name, **_aucs(table, scores, videos)})
    return rows


def _aucs(table, scores, video_scores) -> dict[str, float | None]:
    from resproto_fd.training.measures.metrics import binary_metrics

    frame, video = binary_metrics(table.label, scores), binary_metrics(table.video_label, video_scores)
    return {"frame_auc": frame["auc"], "frame_eer": frame["eer"], "video_auc": video["auc"], "video_eer": video["eer"]}


def _parse(words: list[str]) -> dict[str, list]:
    """{"top_k": [16, 32]} of ["model.top_k=16,32"].

    Raises:
        UserError: A word of another form.
    """
    found = {}
    for word in words:
        key, mark, values = word.partition("=")
        if not mark or not key.startswith("model.") or not values:
            raise UserError(f"'{word}': expected model.KEYWORD=VALUE,VALUE,...")
        parsed = loading.parse_overrides([f"{key}=[{values}]"])["model"]
        found |= parsed
    return found


def _printed(rows: list[dict]) -> str:
    width = max(len(row["what"]) for row in rows)
    names = ("frame_auc", "frame_eer", "video_auc", "video_eer")
    lines = []
    for test_set, of_set in itertools.groupby(
        sorted(rows, key=lambda row: row["test_set"]), lambda row: row["test_set"]
    ):
        lines.append(f"{test_set:{width}}  " + "  ".join(f"{name:>9}" for name in names))
        for row in of_set:
            cells = ["undefined" if row[name] is None else f"{row[name]:9.4f}" for name in names]
            lines.append(f"{row['what']:{width}}  " + "  ".join(cells))
        lines.append("")
    return "\n".join(lines)
