"""Time and memory of building a leaderboard from score tables: metrics recomputed, marks tested, pages written.

The runs are made: people recorded and people whose faces are seen, as Celeb-DF's names tell (two-way clusters). Making
them is not timed.

    python benchmarks/board.py                              # a million frames, 20 detectors, 3 seeds
    python benchmarks/board.py --frames 100000 --seeds 1
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.special import expit

from resproto_fd.training.measures.metrics import method_metrics, table_metrics
from resproto_fd.training.results import MethodResult, RunResult, Selection, TestResult
from resproto_fd.training.scores import ScoreTable

TEST_SET = "Made"


def make_runs(folder: Path, frames: int, videos: int, people: int, detectors: int, seeds: int) -> None:
    """Write result files and score tables of detectors whose errors share recorded and seen people."""
    rng = np.random.default_rng(0)
    label = (rng.random(videos) < 0.6).astype(int)
    recorded, seen = rng.integers(0, people, (2, videos))
    people_of = zip(recorded, seen, label)
    names = [f"Made/{i // 10_000}/id{a}_{f'id{b}_' * y}{i % 10_000:04d}" for i, (a, b, y) in enumerate(people_of)]
    video = np.sort(np.concatenate([np.arange(videos), rng.integers(0, videos, frames - videos)]))
    number = np.arange(frames) - np.searchsorted(video, video)
    method = np.where(label == 1, np.array([f"swap {i}" for i in range(6)])[seen % 6], "real")
    common = (rng.standard_normal(people)[recorded] + rng.standard_normal(people)[seen])[video] * 0.4
    owners, labels, methods = np.array(names)[video], label[video], method[video]
    for detector in range(detectors):
        for seed in range(seeds):
            latent = (0.5 + 0.1 * detector + 0.05 * rng.standard_normal()) * labels + common
            latent += 0.5 * rng.standard_normal(videos)[video] + 0.7 * rng.standard_normal(frames)
            score = expit(latent - 0.5).astype(np.float32)
            table = ScoreTable(TEST_SET, owners, number, labels, methods, score, detector=f"d{detector}")
            run = folder / f"d{detector}-{seed}"
            table.save(run / "scores" / f"{TEST_SET}.npz")
            test = TestResult(
                **table_metrics(table),
                per_method={m: MethodResult(**v, forgery_type="unknown") for m, v in method_metrics(table).items()},
                frames_hash=table.frames_hash(),
                in_domain=False,
            )
            RunResult(
                detector=f"d{detector}",
                title=f"Detector {detector}",
                protocol="made",
                fingerprint="0123456789abcdef",
                seed=seed,
                config={},
                selected_on=Selection(rule="last"),
                tests={TEST_SET: test},
            ).save(run / "result.json")


def build_timed(folder: Path) -> dict[str, float]:
    """Seconds and peak memory of one board, in this process."""
    from resproto_fd.training.board.building import build

    wall, cpu = time.perf_counter(), time.process_time()
    summary = build([folder / "runs"], folder / "site")
    times = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
    marks = summary.sections[0].marks["frame_auc"]
    counts = {"runs": summary.runs, "may_be_best": len(marks.tied[TEST_SET]), "untested": len(marks.untested[TEST_SET])}
    return times | {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20} | counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--videos", type=int, default=30_000)
    parser.add_argument("--people", type=int, default=600)
    parser.add_argument("--detectors", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep the runs here, and use them again")
    parser.add_argument("--build-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build_only:
        print(json.dumps(build_timed(options.folder)))
        return
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if not (folder / "runs").is_dir():
            sizes = (options.frames, options.videos, options.people, options.detectors, options.seeds)
            make_runs(folder / "runs", *sizes)
        command = [sys.executable, __file__, "--build-only", "--folder", str(folder)]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    given = {name: getattr(options, name) for name in ("frames", "videos", "people", "detectors", "seeds")}
    print(json.dumps({"benchmark": "board"} | given | found))


if __name__ == "__main__":
    main()
