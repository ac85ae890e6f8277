"""What the numbers of a test set cost, by its frames: the score table's making, and its metrics without intervals.

    python benchmarks/metrics_cost.py

Made scores of videos of 32 frames, half of them fake, drawn from two overlapping uniform distributions. Seconds are
processor time; memory is this process's peak so far, the libraries included.
"""

import resource
import time

import numpy as np
from measure import make_parser, parse, report

from resproto_fd.training.measures.metrics import table_metrics
from resproto_fd.training.scores import ScoreTable

A_VIDEO = 32


def made_table(frames: int) -> ScoreTable:
    """A score table of about so many frames."""
    rng, videos = np.random.default_rng(0), frames // A_VIDEO
    owner = np.repeat(np.arange(videos), A_VIDEO)
    label = owner % 2
    names = np.array([f"Made/{('real', 'fake')[i % 2]}/{i:08d}" for i in range(videos)])
    scores = (rng.random(len(owner)) * 0.6 + 0.3 * label).astype(np.float32)
    number = np.tile(np.arange(A_VIDEO), videos)
    return ScoreTable("Made", names[owner], number, label, np.where(label == 1, "Made", "real"), scores)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    args = parse(parser)
    rows, results = [], []
    for frames in [3200] if args.tiny else args.frames:
        clock = [time.process_time()]
        table = made_table(frames)
        clock.append(time.process_time())
        metrics = table_metrics(table)
        clock.append(time.process_time())
        making, computing = np.diff(clock).tolist()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        found = {"frames": len(table), "table_seconds": making, "metrics_seconds": computing, "peak_gib": peak}
        results.append(found | {"frame_auc": metrics["frame_auc"]})
        rows.append({"frames": f"{len(table):,}", "table, s": f"{making:.2f}", "metrics, s": f"{computing:.2f}"})
        rows[-1] |= {"ns a frame": f"{1e9 * computing / len(table):.0f}", "peak GiB": f"{peak:.2f}"}
    report("The numbers of a test set", rows, {"benchmark": "metrics_cost", "results": results}, args)


if __name__ == "__main__":
    main()
