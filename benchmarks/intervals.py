"""Do the intervals hold what they promise, and what do they cost?

    python benchmarks/intervals.py                       # coverage, marks, pairs and timing (an hour on one core)
    python benchmarks/intervals.py --simulations 200     # a rougher coverage
    python benchmarks/intervals.py --only timing         # a minute

Coverage: test sets are drawn again and again from a known population, and it is counted how often each 95 % interval
holds the population's value. A frame's score is the sum of the effects of people, of the video and of the frame, the
last of which is half of the variance. A video has 8 to 32 frames. Scenarios:

- `celeb`, `celeb_lender`, `ffpp`, `dfdc`: the people of real test sets, see people.py. The clusters are what the names
  tell.
- `video`: videos are independent.
- `source`: each real and one fake share part of the video's effect, as recordings of one person do, and one cluster.
- `skewed`: as `video`, but the videos' effects are exponential.

Beside them stand `naive`, DeLong's interval that takes all frames for independent; other clusterings; and the usual
percentile bootstrap (of clusters, the first way; in every fourth simulation).

Marks: 20 detectors on the people of Celeb-DF, all equal or one better by .03, and how often each rule marks them.

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
from collections import Counter

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

from functools import cached_property

import numpy as np
from people import SHARES, design
from scipy.special import expit, ndtr, ndtri, stdtr

from resproto_fd.training.measures.against_best import SetErrors, against_best
from resproto_fd.training.measures.clusters import Clusters
from resproto_fd.training.measures.comparisons import compare_aucs, compare_tables, holm
from resproto_fd.training.measures.influence import influences
from resproto_fd.training.measures.intervals import (
    auc_interval,
    degrees_of_freedom,
    failure_cost,
    metric_intervals,
    table_intervals,
)
from resproto_fd.training.measures.resampling import Resampling, bootstrap
from resproto_fd.training.measures.roc import ECE_BINS, FALSE_POSITIVE_RATES, PARTIAL_MAX_FPR, Ranking, point_metrics
from resproto_fd.training.measures.seeds import mean_over_seeds
from resproto_fd.training.scores import ScoreTable

SLOPE, OFFSET = 1.2, 0.6  # P(fake) = sigmoid(1.2 (x - middle) + 0.6): over-confident and leaning to "fake"
FRAME_SHARE, SOURCE_SHARE = 0.5, 0.3  # of the variance: of the video; of that, of the recorded person


class Population:
    """Where test sets are drawn from, and its true metrics."""

    def __init__(self, scenario: str, auc: float):
        self.scenario, self.shift = scenario, math.sqrt(2) * float(ndtri(auc))
        self.design = design(scenario) if scenario in SHARES else None

    @property
    def truth(self) -> dict[str, float]:
        """The metrics of all its frames."""
        return self._drawn_truth() if self.scenario == "skewed" else self._exact_truth()

    def draw(self, videos: int, rng: np.random.Generator, frames: tuple[int, int] = (8, 32)):
        """(labels, scores, video of each frame, cluster of each video).

        Half of the videos are real; a test set with people has its own number of videos.
        """
        if self.design:
            label = self.design.label
            video = np.repeat(np.arange(len(label)), rng.integers(frames[0], frames[1] + 1, len(label)))
            latent = self.shift * label[video] + self.design.effect(video, rng)
            return label[video], self.score(latent), video, self.design.clusters
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
        """Of frames: two normal populations, integrated numerically."""
        rates = np.linspace(1e-9, PARTIAL_MAX_FPR, 200_001)
        area = np.sum(ndtr(self.shift + ndtri(rates))) * (rates[1] - rates[0])
        least = PARTIAL_MAX_FPR**2 / 2
        truth = {
            "auc": float(ndtr(self.shift / math.sqrt(2))),
            "eer": float(ndtr(-self.shift / 2)),
            "partial_auc": (1 + (area - least) / (PARTIAL_MAX_FPR - least)) / 2,
            **self.truth_at(0.5),
        }
        truth["balanced_acc"] = truth["acc"]
        return truth | {n: float(ndtr(self.shift + ndtri(rate))) for n, rate in FALSE_POSITIVE_RATES.items()}

    def truth_at(self, share: float) -> dict[str, float]:
        """The metrics that hang on the share of fakes, where it is this: an interval is of the set's own make-up."""
        real, fake, fpr, tpr, score, bins = self._curves
        tp, fp = share * tpr, (1 - share) * fpr
        middle = -OFFSET / SLOPE + self.shift / 2  # where the score is 0.5
        apart = share * fake * (score - 1) + (1 - share) * real * score
        return {
            "ap": float(np.sum(fake * tp / np.maximum(tp + fp, 1e-300))),
            "acc": float(share * ndtr(self.shift - middle) + (1 - share) * ndtr(middle)),
            "brier": float(np.sum(share * fake * (1 - score) ** 2 + (1 - share) * real * score**2)),
            "ece": float(np.abs(np.bincount(bins, apart)).sum()),
        }

    @cached_property
    def _curves(self) -> tuple[np.ndarray, ...]:
        """Mass of the reals and of the fakes, FPR, TPR, score and calibration bin, on a grid."""
        x = np.linspace(-9, 9 + self.shift, 200_001)
        real, fake = (np.exp(-((x - m) ** 2) / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0]) for m in (0, self.shift))
        score = self.score(x)
        bins = np.clip(np.ceil(score * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
        return real, fake, ndtr(-x), ndtr(self.shift - x), score, bins

    def _drawn_truth(self) -> dict[str, float]:
        labels, scores, *_ = self.draw(400_000, np.random.default_rng(1), (4, 6))
        return point_metrics(Ranking(labels, scores))

    @property
    def video_auc(self) -> float:
        """The AUC of the mean scores of all its videos."""
        whole = self
        if self.design:  # each of its videos has the distribution of an independent one
            whole = Population("video", 0.5)
            whole.shift = self.shift
        labels, scores, video, _ = whole.draw(200_000, np.random.default_rng(2))
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
            truth |= population.truth_at(labels.mean())
        ranking = Ranking(labels, scores)
        resampling = Resampling(Clusters(cluster[video], ranking.labels), seed=number)
        for name, interval in metric_intervals(ranking, resampling).items():
            count(name, interval.low, interval.high)
        count("auc, naive", *auc_interval(labels, scores)[1:3])
        for name, other in population.design.others.items() if population.design else ():
            count(f"auc, clusters by {name}", *auc_interval(labels, scores, other[video])[1:3])
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


SEEDS_MIDDLE, SEEDS_SPREAD = math.sqrt(2) * float(ndtri(0.9)), 0.15  # mean and standard deviation of a seed's shift


def seed_truth() -> dict[str, float]:
    """The mean of each metric over all seeds, whose shifts are normal."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(21)
    x = np.linspace(-9, 12, 20_001)
    metrics = []
    for shift in SEEDS_MIDDLE + SEEDS_SPREAD * nodes:
        tpr, fpr = ndtr(shift - x), ndtr(-x)
        fake = np.exp(-((x - shift) ** 2) / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
        ap = float(np.sum(fake * tpr / np.maximum(tpr + fpr, 1e-300)))
        right = (ndtr(shift - SEEDS_MIDDLE / 2) + ndtr(SEEDS_MIDDLE / 2)) / 2
        metrics.append((ndtr(shift / math.sqrt(2)), ap, ndtr(-shift / 2), right))
    return dict(zip(("auc", "ap", "eer", "acc"), (weights @ np.array(metrics) / weights.sum()).tolist()))


def seed_coverage(videos: int, seeds: int, simulations: int, seed: int) -> dict[str, float]:
    """Seeds that differ in their true AUC too: coverage of the mean over all seeds and videos, of each metric.

    "one seed" is the AUC's interval of the first seed alone, which knows nothing of the others.
    """
    rng = np.random.default_rng([seed, videos, seeds])
    truth, held = seed_truth(), Counter()
    for _ in range(simulations):
        labels, _, video, _ = Population("video", 0.5).draw(videos, rng)
        common = rng.standard_normal(videos)[video]
        clusters, rankings = Clusters(video, labels), []
        for _ in range(seeds):
            shift = SEEDS_MIDDLE + SEEDS_SPREAD * rng.standard_normal()
            own = rng.standard_normal(videos)[video], rng.standard_normal(len(video))
            latent = shift * labels + math.sqrt(0.35) * common + math.sqrt(0.15) * own[0] + math.sqrt(0.5) * own[1]
            rankings.append(Ranking(labels, expit(latent - SEEDS_MIDDLE / 2)))
        for name, value in truth.items():
            found = [influences(ranking, name) for ranking in rankings]
            values, fake, real = [each.value for each in found], *zip(*(each.summed(clusters) for each in found))
            cost = failure_cost(name, float(labels.mean()))
            mean = mean_over_seeds(values, fake, real, clusters, cost=cost).interval
            held[name] += mean.low <= value <= mean.high
            if name == "auc":
                one = mean_over_seeds(values[:1], fake[:1], real[:1], clusters).interval
                held["one seed"] += one.low <= value <= one.high
    return {"videos": videos, "seeds": seeds} | {name: count / simulations for name, count in held.items()}


SHARED, OF_DETECTOR = 0.8, 0.1  # of the variance: of the video for all detectors; of one detector for all its seeds


def marks(
    scenario: str, seeds: int, seed_sd: float, gap: float, simulations: int, seed: int, rows: int = 20
) -> dict[str, float]:
    """How often detectors are marked as worse than the best of a table.

    All have a frame AUC of .80, but the first, which has `gap` more. Four rules: the paired test without a correction,
    Holm's over all pairs, Holm's over the pairs with the best, and the test against the best.

    Args:
        scenario: Of `people.SHARES`.
        seeds: Seeds of each detector.
        seed_sd: Standard deviation of the seeds' true AUC.
        gap: How much better the first is; 0 for detectors that are all equal.
        simulations: Test sets drawn.
        seed: Of the draws.
        rows: Detectors.

    Returns:
        Of the rules: share of the other detectors marked ("marked"), of test sets where any of them is ("any"), and of
        test sets where the first is, which is never right ("best lost"). "pairs": p-values below .05 among all pairs.
    """
    rng = np.random.default_rng([seed, seeds, round(1000 * gap)])
    people = design(scenario)
    middle = math.sqrt(2) * ndtri(np.where(np.arange(rows) == 0, 0.8 + gap, 0.8))
    spread = seed_sd * 2 * math.sqrt(math.pi) * math.exp(ndtri(0.8) ** 2 / 2)  # of the shift, by the delta method
    counted, pairs = [], 0.0
    for _ in range(simulations):
        video = np.repeat(np.arange(len(people.label)), rng.integers(8, 33, len(people.label)))
        labels, common = people.label[video], math.sqrt(SHARED) * people.effect(video, rng)
        scores = {}
        for row in range(rows):
            own = common + math.sqrt(OF_DETECTOR) * people.effect(video, rng)
            shifts = middle[row] + spread * rng.standard_normal(seeds)
            of_seed = math.sqrt(1 - SHARED - OF_DETECTOR)
            scores[f"{row}"] = [own + of_seed * people.effect(video, rng) + shift * labels for shift in shifts]
        errors = SetErrors.of(labels, scores, people.clusters[video])
        p = pairwise_p(errors)
        counted.append(_marked(errors, p))
        pairs += float(np.mean(p[np.triu_indices(rows, 1)] < 0.05)) / simulations
    stack = np.array(counted, dtype=float)  # [simulations, rules, rows]
    result = {"scenario": scenario, "seeds": seeds, "seed_sd": seed_sd, "gap": gap, "pairs": pairs}
    for place, rule in enumerate(("unadjusted", "holm of all pairs", "holm with the best", "against the best")):
        result[f"{rule}: marked"] = float(stack[:, place, 1:].mean())
        result[f"{rule}: any"] = float(stack[:, place, 1:].any(axis=1).mean())
        result[f"{rule}: best lost"] = float(stack[:, place, 0].mean())
    return result


def pairwise_p(errors: SetErrors) -> np.ndarray:
    """Two-sided p-values of equal means over seeds, of each two rows, [D, D]; with one seed those of `compare_aucs`."""
    names = list(errors.values)
    data, result = errors.covariance(names), np.ones((len(names), len(names)))
    sizes = [len(errors.values[name]) for name in names]
    between = [float(np.var(errors.values[n], ddof=1)) / s if s > 1 else 0.0 for n, s in zip(names, sizes)]
    for i in range(len(names)):
        for j in range(i):
            apart = float(errors.values[names[i]].mean() - errors.values[names[j]].mean())
            shared = max(data[i, i] + data[j, j] - 2 * data[i, j], 0)
            free = degrees_of_freedom(errors.errors(names[i]) - errors.errors(names[j]), errors.clusters)
            total = shared + between[i] + between[j]
            spread = shared**2 / free + sum(between[k] ** 2 / (sizes[k] - 1) for k in (i, j) if sizes[k] > 1)
            result[i, j] = result[j, i] = 2 * stdtr(total**2 / spread, -abs(apart) / math.sqrt(total))
    return result


def _marked(errors: SetErrors, p: np.ndarray) -> list[np.ndarray]:
    """Which rows each of the four rules marks, [D] each."""
    names = list(errors.values)
    best = int(np.argmax([errors.values[name].mean() for name in names]))
    rest = np.arange(len(names)) != best
    upper = np.triu_indices(len(names), 1)
    all_pairs, with_best = np.ones_like(p), np.ones(len(names))
    all_pairs[upper] = holm(p[upper])
    with_best[rest] = holm(p[best, rest])
    may_be = against_best([errors]).may_be_best()
    of_best = np.minimum(all_pairs[best], all_pairs[:, best])
    return [rest & (p[best] < 0.05), of_best < 0.05, with_best < 0.05, np.array([name not in may_be for name in names])]


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


MARKS = [  # scenario, seeds, standard deviation of the seeds' AUC, how much better the first detector is
    ("celeb", 1, 0.0, 0.0),
    ("celeb_lender", 1, 0.0, 0.0),
    ("celeb", 1, 0.01, 0.0),
    ("celeb", 3, 0.01, 0.0),
    ("celeb_lender", 3, 0.01, 0.0),
    ("celeb", 1, 0.0, 0.03),
    ("celeb", 3, 0.01, 0.03),
]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=400)
    parser.add_argument("--videos", type=int, nargs="+", default=[200, 500, 2000], help="where no people are given")
    parser.add_argument("--aucs", type=float, nargs="+", default=[0.6, 0.8, 0.95, 0.99])
    parser.add_argument("--scenarios", nargs="+", default=list(SHARES), choices=[*SHARES, "video", "source", "skewed"])
    parser.add_argument("--only", choices=["coverage", "marks", "paired", "timing"])
    parser.add_argument("--frames", type=int, default=1_000_000, help="of the timing")
    parser.add_argument("--detectors", type=int, default=20, help="of the timing and of the marks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json-only", action="store_true")
    return parser.parse_args()


def report_coverage(options: argparse.Namespace, say) -> dict:
    """Run and print every scenario at every AUC."""
    cells = {}
    for scenario in options.scenarios:
        for videos in [0] if scenario in SHARES else options.videos:
            for auc in options.aucs:
                key = f"{scenario} AUC {auc}" if scenario in SHARES else f"{scenario} {videos} videos AUC {auc}"
                cells[key] = coverage(scenario, videos, auc, options.simulations, options.seed)
                say(f"\n{key}: {options.simulations} simulations")
                say(f"  {'95 % interval of':44}   truth  coverage %  above %  length")
                for name, row in cells[key].items():
                    share = f"{100 * row['coverage']:10.1f}  {100 * row['above']:7.1f}"
                    say(f"  {name:44} {row['truth']:7.4f}  {share}  {row['length']:.4f}")
    own = {key: {n: r["coverage"] for n, r in rows.items() if "," not in n} for key, rows in cells.items()}
    every = [c for rows in own.values() for c in rows.values()]
    outside = [
        f"{key}: {n} {100 * c:.1f}" for key, rows in own.items() for n, c in rows.items() if not 0.93 <= c <= 0.97
    ]
    say(f"\nlowest {min(every)}, highest {max(every)}, outside 93-97 %:")
    for line in outside:
        say(f"  {line}")
    return {"coverage": cells, "lowest": min(every), "highest": max(every), "outside_93_97": outside}


def report_marks(options: argparse.Namespace, say) -> list[dict]:
    """Run and print every setting of `MARKS`."""
    rows = []
    for scenario, seeds, seed_sd, gap in MARKS:
        row = marks(scenario, seeds, seed_sd, gap, options.simulations, options.seed, options.detectors)
        say(f"\n{options.detectors} detectors, {scenario}, {seeds} seeds, sd of their AUC {seed_sd}, gap {gap}")
        for name in list(row)[4:]:
            say(f"  {name:44} {100 * row[name]:6.1f} %")
        rows.append(row)
    return rows


def main() -> None:
    options = _arguments()

    def say(text: str = "") -> None:
        print(text, file=sys.stderr if options.json_only else sys.stdout, flush=True)

    report: dict = {"benchmark": "intervals", "simulations": options.simulations}
    if options.only in (None, "coverage"):
        report |= report_coverage(options, say)
    if options.only in (None, "marks"):
        report["marks"] = report_marks(options, say)
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
