"""Do the intervals hold what they promise, and what do they cost?

    python benchmarks/statistics.py                       # coverage (hours on one core) and timing
    python benchmarks/statistics.py --simulations 200     # a rougher coverage
    python benchmarks/statistics.py --only timing         # a minute

Coverage: test sets are drawn again and again from a known population, and it is counted how often each 95 % interval
holds the population's value. A frame's score is a video's common part plus the frame's own, half of the variance
each, 8 to 32 frames a video. Scenario `video`: videos are independent. `source`: each real and one fake share part of
the video's effect, as recordings of one person do, and are one cluster. `skewed`: the videos' effects are exponential.
Beside them `naive`, DeLong's interval that takes all frames for independent, and the usual percentile bootstrap (of
clusters; in every fourth simulation).

The last line is one JSON object; with --json-only it is the only one.
"""
# ruff: noqa: E402  (threads are capped before NumPy is imported)

import argparse
import json
import math
import os
import resource
import sys
import time

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
from scipy.special import expit, ndtr, ndtri

from resproto_fd.training.measures.clusters import Clusters
from resproto_fd.training.measures.comparisons import compare_aucs, compare_tables
from resproto_fd.training.measures.intervals import (
    auc_covariance,
    auc_interval,
    cluster_components,
    degrees_of_freedom,
    metric_intervals,
    table_intervals,
)
from resproto_fd.training.measures.resampling import Resampling, bootstrap
from resproto_fd.training.measures.roc import ECE_BINS, FALSE_POSITIVE_RATES, PARTIAL_MAX_FPR, Ranking, point_metrics
from resproto_fd.training.measures.seeds import combine_seeds
from resproto_fd.training.scores import ScoreTable

SLOPE, OFFSET = 1.2, 0.6  # P(fake) = sigmoid(1.2 (x - middle) + 0.6): over-confident and leaning to "fake"
FRAME_SHARE, SOURCE_SHARE = 0.5, 0.3  # of the variance: of the video; of that, of the recorded person


class Population:
    """Where test sets are drawn from, and its true metrics."""

    def __init__(self, scenario: str, auc: float):
        self.scenario, self.shift = scenario, math.sqrt(2) * float(ndtri(auc))

    @property
    def truth(self) -> dict[str, float]:
        """The metrics of all its frames."""
        return self._drawn_truth() if self.scenario == "skewed" else self._exact_truth()

    def draw(self, videos: int, rng: np.random.Generator, frames: tuple[int, int] = (8, 32)):
        """(labels, scores, video of each frame, cluster of each video); half of the videos are real."""
        half = videos // 2
        label = np.repeat([0, 1], half)
        effect = rng.exponential(size=2 * half) - 1 if self.scenario == "skewed" else rng.standard_normal(2 * half)
        cluster = np.arange(2 * half)
        if self.scenario == "source":
            cluster = np.tile(np.arange(half), 2)
            person = rng.standard_normal(half)[cluster]
            effect = math.sqrt(SOURCE_SHARE) * person + math.sqrt(1 - SOURCE_SHARE) * effect
        video = np.repeat(np.arange(2 * half), rng.integers(frames[0], frames[1] + 1, 2 * half))
        own = rng.standard_normal(len(video))
        latent = self.shift * label[video] + math.sqrt(FRAME_SHARE) * effect[video] + math.sqrt(1 - FRAME_SHARE) * own
        return label[video], self.score(latent), video, cluster

    def score(self, latent: np.ndarray) -> np.ndarray:
        return expit(SLOPE * (latent - self.shift / 2) + OFFSET)

    def _exact_truth(self) -> dict[str, float]:
        """Of frames: two normal populations of equal size, integrated numerically."""
        x = np.linspace(-9, 9 + self.shift, 1_000_001)
        step = x[1] - x[0]
        real, fake = (np.exp(-((x - m) ** 2) / 2) / math.sqrt(2 * math.pi) * step for m in (0, self.shift))
        fpr, tpr, score = ndtr(-x), ndtr(self.shift - x), self.score(x)
        middle = (math.log(1) - OFFSET) / SLOPE + self.shift / 2  # where the score is 0.5
        rates = np.linspace(1e-9, PARTIAL_MAX_FPR, 200_001)
        area = np.sum(ndtr(self.shift + ndtri(rates))) * (rates[1] - rates[0])
        least = PARTIAL_MAX_FPR**2 / 2
        bins = np.clip(np.ceil(score * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
        truth = {
            "auc": float(ndtr(self.shift / math.sqrt(2))),
            "ap": float(np.sum(fake * tpr / np.maximum(tpr + fpr, 1e-300))),
            "eer": float(ndtr(-self.shift / 2)),
            "partial_auc": (1 + (area - least) / (PARTIAL_MAX_FPR - least)) / 2,
            "acc": float(ndtr(self.shift - middle) + ndtr(middle)) / 2,
            "brier": float(np.sum(fake * (1 - score) ** 2 + real * score**2)) / 2,
            "ece": float(np.abs(np.bincount(bins, fake * (score - 1) + real * score)).sum()) / 2,
        }
        truth["balanced_acc"] = truth["acc"]
        return truth | {n: float(ndtr(self.shift + ndtri(rate))) for n, rate in FALSE_POSITIVE_RATES.items()}

    def ap_at(self, share: float) -> float:
        """Average precision of all frames where this share of them is fake: an interval is of the set's own make-up."""
        x = np.linspace(-9, 9 + self.shift, 20_001)
        fake = np.exp(-((x - self.shift) ** 2) / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
        tp, fp = share * ndtr(self.shift - x), (1 - share) * ndtr(-x)
        return float(np.sum(fake * tp / np.maximum(tp + fp, 1e-300)))

    def _drawn_truth(self) -> dict[str, float]:
        labels, scores, *_ = self.draw(400_000, np.random.default_rng(1), (4, 6))
        return point_metrics(Ranking(labels, scores))

    @property
    def video_auc(self) -> float:
        """The AUC of the mean scores of all its videos."""
        labels, scores, video, _ = self.draw(200_000, np.random.default_rng(2))
        counts = np.bincount(video)
        means = np.bincount(video, scores) / counts
        return Ranking(labels[np.searchsorted(video, np.arange(len(counts)))], means).auc_components()[0]


def coverage(scenario: str, videos: int, auc: float, simulations: int, seed: int) -> dict[str, dict[str, float]]:
    """Share of the intervals that hold the truth, by interval; and the share lying above it, and the mean length."""
    population, rng = Population(scenario, auc), np.random.default_rng([seed, videos, round(1000 * auc)])
    easier = Population(scenario, auc)  # with videos, not frames, of about this AUC
    easier.shift *= math.sqrt(FRAME_SHARE + (1 - FRAME_SHARE) / 20)
    truth = population.truth | {"video_auc": easier.video_auc}
    counted: dict[str, list] = {}

    def count(name: str, low: float, high: float) -> None:
        true = truth[name.split(",")[0]]
        counted.setdefault(name, []).append((low <= true <= high, low > true, high - low))

    for number in range(simulations):
        labels, scores, video, cluster = population.draw(videos, rng)
        if scenario != "skewed":
            truth["ap"] = population.ap_at(labels.mean())
        ranking = Ranking(labels, scores)
        resampling = Resampling(Clusters(cluster[video], ranking.labels), seed=number)
        for name, interval in metric_intervals(ranking, resampling).items():
            count(name, interval.low, interval.high)
        count("auc, naive", *auc_interval(labels, scores)[1:3])
        if number % 4 == 0:
            draws = bootstrap(ranking, resampling)
            for name in ("auc", *FALSE_POSITIVE_RATES):
                count(f"{name}, percentile bootstrap", *np.quantile(draws.values[name], (0.025, 0.975)))
        labels, scores, video, cluster = easier.draw(videos, rng)
        means = np.bincount(video, scores) / np.bincount(video)
        count("video_auc", *auc_interval(labels[np.searchsorted(video, np.arange(len(means)))], means, cluster)[1:3])
    return {
        name: dict(zip(("coverage", "above", "length"), np.mean(np.asarray(rows, float), 0).tolist()))
        | {"truth": truth[name.split(",")[0]]}
        for name, rows in counted.items()
    }


def paired_coverage(videos: int, simulations: int, seed: int) -> dict[str, float]:
    """Two detectors whose errors are correlated: coverage of their difference; and, of six equally good ones, how
    often any is marked as worse than the best (at most 5 % is promised)."""
    rng = np.random.default_rng([seed, videos])
    shifts = [math.sqrt(2) * float(ndtri(a)) for a in (0.9, 0.88)]
    held = naive = marked = 0
    for _ in range(simulations):
        labels, _, video, _ = Population("video", 0.5).draw(videos, rng)
        common = rng.standard_normal(videos)[video]

        def detector(shift, labels=labels, video=video, common=common):
            own = rng.standard_normal(videos)[video], rng.standard_normal(len(video))
            return shift * labels + math.sqrt(0.35) * common + math.sqrt(0.15) * own[0] + math.sqrt(0.5) * own[1]

        pair = {"first": detector(shifts[0]), "second": detector(shifts[1])}
        for clusters in (video, None):
            row = compare_aucs(labels, pair, clusters).differences[0]
            hit = row.low <= 0.02 <= row.high
            held, naive = held + (hit and clusters is not None), naive + (hit and clusters is None)
        six = compare_aucs(labels, {str(i): detector(shifts[0]) for i in range(6)}, video)
        marked += len(six.ties_with_best()) < 6
    return {
        "videos": videos,
        "difference": held / simulations,
        "difference, naive": naive / simulations,
        "false marks": marked / simulations,
    }


def seed_coverage(videos: int, seeds: int, simulations: int, seed: int) -> dict[str, float]:
    """Seeds that differ in their true AUC too: coverage of the mean over all seeds and videos."""
    rng = np.random.default_rng([seed, videos, seeds])
    middle, between = math.sqrt(2) * float(ndtri(0.9)), 0.15
    # The mean AUC over seeds: a normal shift adds its variance to that of the difference of two scores.
    truth, held, alone = float(ndtr(middle / math.sqrt(2 + between**2))), 0, 0
    for _ in range(simulations):
        labels, _, video, _ = Population("video", 0.5).draw(videos, rng)
        common = rng.standard_normal(videos)[video]
        clusters = Clusters(video, labels)
        parts = []
        for _ in range(seeds):
            shift = middle + between * rng.standard_normal()
            own = rng.standard_normal(videos)[video], rng.standard_normal(len(video))
            latent = shift * labels + math.sqrt(0.35) * common + math.sqrt(0.15) * own[0] + math.sqrt(0.5) * own[1]
            parts.append(cluster_components(Ranking(labels, latent), clusters))
        covariance = auc_covariance(np.stack([p[1] for p in parts]), np.stack([p[2] for p in parts]), clusters)
        free = degrees_of_freedom(sum(p[1] + p[2] for p in parts), clusters)
        found = combine_seeds([p[0] for p in parts], covariance, free, clusters.pairs).interval
        one = combine_seeds([parts[0][0]], covariance[:1, :1], free, clusters.pairs).interval
        held, alone = held + (found.low <= truth <= found.high), alone + (one.low <= truth <= one.high)
    return {"videos": videos, "seeds": seeds, "mean": held / simulations, "one seed": alone / simulations}


def timing(frames: int, videos: int, detectors: int) -> dict[str, float]:
    """Seconds for all intervals of one table, and for a table of detectors with its pairwise tests; peak memory.

    CPU seconds too: other work on the machine does not lengthen those much.
    """
    rng = np.random.default_rng(0)
    label = (rng.random(videos) < 0.6).astype(int)
    video = np.sort(np.concatenate([np.arange(videos), rng.integers(0, videos, frames - videos)]))
    names = np.array([f"Set/{'fake' if y else 'real'}/clip-{i:06d}" for i, y in enumerate(label)])
    number = np.arange(frames) - np.searchsorted(video, video)
    common = rng.standard_normal(videos)[video]

    def table(shift: float) -> ScoreTable:
        latent = shift * label[video] + 0.6 * common + 0.3 * rng.standard_normal(videos)[video]
        latent += 0.7 * rng.standard_normal(frames)
        method = np.where(label == 1, "swap", "real")[video]
        return ScoreTable("Set", names[video], number, label[video], method, expit(latent).astype(np.float32))

    tables = {f"detector {i}": table(0.5 + 0.1 * i) for i in range(detectors)}

    def one_table() -> None:
        table_intervals(tables["detector 0"])

    def all_intervals(shared: dict) -> None:
        for each in tables.values():
            table_intervals(each, shared=shared)

    def pairwise_tests() -> None:
        for level in ("frame", "video"):
            compare_tables(tables, level=level).ties_with_best()

    result = {"frames": frames, "videos": videos, "detectors": detectors}
    for name, job in (
        ("one_table", one_table),
        ("all_intervals", lambda: all_intervals({})),
        ("tests", pairwise_tests),
    ):
        wall, cpu = time.perf_counter(), time.process_time()
        job()
        result |= {f"{name}_s": time.perf_counter() - wall, f"{name}_cpu_s": time.process_time() - cpu}
    for unit in ("s", "cpu_s"):
        result[f"full_table_{unit}"] = result[f"all_intervals_{unit}"] + result[f"tests_{unit}"]
    return result | {"peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=2000)
    parser.add_argument("--videos", type=int, nargs="+", default=[200, 500, 2000])
    parser.add_argument("--aucs", type=float, nargs="+", default=[0.6, 0.8, 0.9, 0.99])
    parser.add_argument("--scenarios", nargs="+", default=["video", "source"], choices=["video", "source", "skewed"])
    parser.add_argument("--only", choices=["coverage", "paired", "timing"])
    parser.add_argument("--frames", type=int, default=1_000_000, help="of the timing")
    parser.add_argument("--detectors", type=int, default=20, help="of the timing")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json-only", action="store_true")
    options = parser.parse_args()

    def say(text: str = "") -> None:
        print(text, file=sys.stderr if options.json_only else sys.stdout, flush=True)

    report: dict = {"benchmark": "statistics", "simulations": options.simulations}
    if options.only in (None, "coverage"):
        cells = {}
        for scenario in options.scenarios:
            for videos in options.videos:
                for auc in options.aucs:
                    key = f"{scenario} {videos} videos AUC {auc}"
                    cells[key] = coverage(scenario, videos, auc, options.simulations, options.seed)
                    say(f"\n{key}: {options.simulations} simulations")
                    say(f"  {'95 % interval of':44}   truth  coverage %  above %  length")
                    for name, row in cells[key].items():
                        share = f"{100 * row['coverage']:10.1f}  {100 * row['above']:7.1f}"
                        say(f"  {name:44} {row['truth']:7.4f}  {share}  {row['length']:.4f}")
        report["coverage"] = cells
        own = [(n, row["coverage"]) for rows in cells.values() for n, row in rows.items() if "," not in n]
        report["lowest"], report["highest"] = min(c for _, c in own), max(c for _, c in own)
        report["outside_93_97"] = [
            f"{key}: {n} {100 * row['coverage']:.1f}"
            for key, rows in cells.items()
            for n, row in rows.items()
            if "," not in n and not 0.93 <= row["coverage"] <= 0.97
        ]
        say(f"\nlowest {report['lowest']}, highest {report['highest']}, outside 93-97 %:")
        for line in report["outside_93_97"]:
            say(f"  {line}")
    if options.only in (None, "paired"):
        report["paired"] = [paired_coverage(v, options.simulations, options.seed) for v in options.videos]
        report["seeds"] = [
            seed_coverage(v, s, options.simulations, options.seed) for v in options.videos for s in (3, 5)
        ]
        for row in report["paired"] + report["seeds"]:
            say(", ".join(f"{name} {value}" for name, value in row.items()))
    if options.only in (None, "timing"):
        report["timing"] = timing(options.frames, min(30_000, options.frames // 10), options.detectors)
        say(", ".join(f"{name} {value:.4g}" for name, value in report["timing"].items()))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
