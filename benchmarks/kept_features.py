"""Training a probe from kept features (`run.encode_once`) beside encoding every frame in every epoch.

    python benchmarks/kept_features.py

The demo's data are drawn, and a linear probe is trained and tested on them by `resproto train`: each frame encoded each
time; with features kept, the first time; and again with another seed, whose frames are all encoded already. The seconds
are those of the commands, without their imports: data, training, validation in each epoch, tests and the result.

A score's difference is the largest one between the plain run and a run of the same seed from kept features, over all
frames of all test sets; a weight's is that of the classifier.
"""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from measure import make_parser, parse, report

from resproto_fd.detectors.weights import read_state_dict
from resproto_fd.preprocessing.demo.data import make_demo
from resproto_fd.training.cli import main as resproto
from resproto_fd.training.scores import ScoreTable

RUNS = (("encoded each time", 0, False), ("kept, first run", 0, True), ("kept, another seed", 1, True))
"""Name, seed, and whether features are kept."""


def command(data: Path, out: Path, kept: Path | None, seed: int, args) -> list[str]:
    """The words of a run."""
    words = ["train", "--detector", args.detector, "--protocol", "demo_cross", "--seed", str(seed)]
    words += [f"data.root={data}", f"run.out={out}", f"run.device={args.device}", "run.progress=false", "run.workers=0"]
    words += [f"train.epochs={args.epochs}", f"train.augment={args.augment}", *args.settings]
    return words + ([f"run.encode_once={kept}"] if kept else [])


def differences(ours: Path, plain: Path) -> dict[str, float]:
    """Largest difference of a score and of a weight of two runs."""
    tables = sorted(plain.rglob("scores/*.npz"))
    scores = [
        np.abs(ScoreTable.load(next(ours.rglob(f"scores/{t.name}"))).score - ScoreTable.load(t).score) for t in tables
    ]
    one, other = (read_state_dict(next(folder.rglob("best.pt"))) for folder in (ours, plain))
    weights = [float((one[name].double() - other[name].double()).abs().max()) for name in one]
    return {"largest_score_difference": float(np.concatenate(scores).max()), "largest_weight_difference": max(weights)}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--detector", default="clip_probe_tiny")
    parser.add_argument("--data", type=Path, help="demo data that are drawn already; otherwise they are drawn first")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--augment", choices=["none", "flip"], default="flip")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="further settings of the runs")
    args = parse(parser)
    figures, rows = {}, []
    with tempfile.TemporaryDirectory() as folder:
        data, kept = args.data or Path(folder, "data"), Path(folder, "kept")
        if not args.data:
            make_demo(data, size="tiny" if args.tiny else "default", workers=1)
        for name, seed, keeps in RUNS:
            words = command(data, Path(folder, name), kept if keeps else None, seed, args)
            wall, cpu = time.perf_counter(), time.process_time()
            if resproto(words):
                raise SystemExit(f"{name}: the run failed")
            figures[name] = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
        differ = differences(Path(folder, RUNS[1][0]), Path(folder, RUNS[0][0]))
        size = sum(path.stat().st_size for path in kept.rglob("*.npz"))
    plain = figures[RUNS[0][0]]["cpu_seconds"]
    for name, found in figures.items():
        found["ratio_cpu"] = found["cpu_seconds"] / plain
        row = {"run": name, "seconds": f"{found['seconds']:.1f}", "CPU seconds": f"{found['cpu_seconds']:.1f}"}
        rows.append(row | {"of plain": f"{found['ratio_cpu']:.3f}"})
    about = {"benchmark": "kept_features", "detector": args.detector, "epochs": args.epochs, "augment": args.augment}
    report(
        "A probe with and without kept features",
        rows,
        {**about, "runs": figures, **differ, "kept_mib": size / 2**20},
        args,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
