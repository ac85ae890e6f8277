"""What answers cost and are worth: errors before and after calibration, risk against coverage, flips of copies.

Frames of a run's test sets are judged as already cropped faces, as `resproto predict --cropped` judges them. With
--files it answers about a folder of pictures and videos instead, and tells frames a second by stage.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

from resproto_fd.training.answers.answering import answer
from resproto_fd.training.answers.judges import Judge, read_config
from resproto_fd.training.answers.outputs import write_all
from resproto_fd.training.answers.reasons import COPIES
from resproto_fd.training.answers.records import Settings
from resproto_fd.training.protocols import resolve


def main() -> None:
    """Prints a table for each run and, last, one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="calibrated runs, on their own data")
    parser.add_argument(
        "--frames", type=int, default=400, metavar="N", help="frames of a test set (default: %(default)s)"
    )
    parser.add_argument("--files", metavar="DIR", help="a folder of pictures and videos: time each stage instead")
    parser.add_argument("--json-only", action="store_true", help="print the line of JSON alone")
    args = parser.parse_args()
    if args.files:
        print(json.dumps({"benchmark": "answers", "files": args.files, "stages": _stages(args.runs, args.files)}))
        return
    found = {folder: _of_run(Path(folder), args.frames) for folder in args.runs}
    if not args.json_only:
        for folder, by_set in found.items():
            print(folder)
            for name, row in by_set.items():
                print(f"  {name:12}", "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
    print(json.dumps({"benchmark": "answers", "runs": found}))


def _stages(runs: list[str], files: str) -> dict[str, dict[str, float]]:
    """Frames, seconds of all processes and frames a second of each stage, with one process that looks for faces.

    The report counts faces; it is written into a temporary folder.
    """
    answers = answer([files], runs, Settings(processes=1, device="cpu", thumbnails=True))
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        write_all(answers, Path(folder))
    seconds, counts = dict(answers.seconds), dict(answers.counts)
    seconds["report"], counts["report"] = time.perf_counter() - began, sum(len(file.faces) for file in answers.files)
    return {
        stage: {"frames": n, "seconds": round(seconds[stage], 2), "a_second": round(n / max(seconds[stage], 1e-9), 1)}
        for stage, n in counts.items()
    }


def _of_run(folder: Path, most: int) -> dict[str, dict[str, float]]:
    judge, config = Judge(folder, "cpu"), read_config(folder)
    tests = resolve(config.protocol, config.data, tests_only=True)
    return {name: _of_set(judge, frames, tests.stores, most) for name, frames in tests.tests.items()}


def _of_set(judge: Judge, frames, stores, most: int) -> dict[str, float]:
    """Shares of frames; "risk" is the share of wrong verdicts, -1 where there are none."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, most).round().astype(int))
    crops = [stores[frames.videos[frames.video_index[i]].dataset].read(frames.paths[i]).copy() for i in chosen]
    labels, made = frames.labels[chosen], judge.calibration
    level = made.levels["frame"]
    cut = level.thresholds["0.05"].threshold
    found = judge.score(crops)
    fake = found.scores >= cut
    row: dict[str, float] = {}
    flips = np.zeros(len(crops), bool)
    for copy in COPIES:
        flipped = (judge.score(crops, copy).scores >= cut) != fake
        row[f"flips_{copy[0]}"] = float(flipped.mean())
        flips |= flipped
    unlike = np.zeros_like(flips) if found.distances is None else found.distances > made.reference.far
    blurred = found.sharpness < made.reference.sharp
    unsure = flips | unlike | blurred
    wrong = fake != (labels == 1)
    row |= {"flips": float(flips.mean()), "unlike": float(unlike.mean()), "blurred": float(blurred.mean())}
    row |= {"coverage": float(1 - unsure.mean()), "risk_of_all": float(wrong.mean())}
    row["risk_of_sure"] = float(wrong[~unsure].mean()) if (~unsure).any() else -1.0
    row["risk_of_unsure"] = float(wrong[unsure].mean()) if unsure.any() else -1.0
    return {key: round(value, 4) for key, value in row.items()}


if __name__ == "__main__":
    main()
