"""How good and how quick the K-means of the prototype memory is beside scikit-learn's (k-means++, n_init 10).

    python benchmarks/kmeans.py

On random batches of 5 to 200 features of size 512, clustered and not; 4 clusters.
"""

import time
from collections.abc import Iterator

import numpy as np
import torch
from measure import clock, make_parser, parse, report
from sklearn.cluster import KMeans

from resproto_fd.detectors.parts.kmeans import kmeans

SHAPES = ("no clusters", "few directions", "clusters", "unequal clusters on the sphere")


def random_batches(count: int, dim: int = 512, seed: int = 0) -> Iterator[tuple[str, np.ndarray]]:
    """(shape, points [N, dim]), N from 5 to 200, the shapes in turn."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        shape = SHAPES[i % 4]
        n = int(rng.integers(5, 201))
        noise = rng.normal(size=(n, dim))
        if shape == "no clusters":
            points = noise
        elif shape == "few directions":
            points = noise * np.exp(-np.arange(dim) / 4)
        elif shape == "clusters":
            centres = rng.normal(size=(int(rng.integers(2, 9)), dim)) * rng.uniform(0.2, 3)
            points = centres[rng.integers(0, len(centres), n)] + noise * rng.uniform(0.05, 1)
        else:
            points = rng.normal(size=(4, dim))[rng.choice(4, n, p=rng.dirichlet([0.5] * 4))] + 0.2 * noise
            points /= np.linalg.norm(points, axis=1, keepdims=True)
        yield shape, points


def inertia(points: np.ndarray, centres: np.ndarray) -> float:
    """Sum of the squared distances to the nearest centre."""
    return float(((points[:, None] - centres) ** 2).sum(-1).min(1).sum())


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, help="200 by default")
    args = parse(parser)
    count = args.batches or (8 if args.tiny else 200)

    found: list[tuple[str, float, float, float, bool]] = []
    for shape, points in random_batches(count):
        begin = time.perf_counter()
        reference = KMeans(4, init="k-means++", n_init=10, random_state=0).fit(points)
        theirs = time.perf_counter() - begin
        given = torch.from_numpy(points).float().to(args.device)
        kmeans(given, None, 4)  # the first call of a shape sets up
        begin, _ = clock(args.device)
        centres, sizes, valid = kmeans(given, None, 4)
        ours = clock(args.device)[0] - begin
        again, sizes_again, _ = kmeans(given.cpu(), None, 4)
        same = torch.equal(sizes.cpu(), sizes_again) and torch.allclose(centres.cpu(), again, atol=1e-5)
        ratio = inertia(points, centres[valid].cpu().numpy()) / reference.inertia_
        found.append((shape, ratio, ours * 1e3, theirs * 1e3, same))

    rows = []
    for shape in (*SHAPES, "all"):
        chosen = [row for row in found if shape in (row[0], "all")]
        ratio = [row[1] for row in chosen]
        rows.append(
            {
                "batches": shape,
                "number": str(len(chosen)),
                "inertia / sklearn, mean": f"{np.mean(ratio):.5f}",
                "max": f"{np.max(ratio):.4f}",
                "ms": f"{np.median([row[2] for row in chosen]):.2f}",
                "sklearn ms": f"{np.median([row[3] for row in chosen]):.2f}",
            }
        )
    figures = {
        "benchmark": "kmeans",
        "batches": count,
        "inertia_ratio_mean": float(np.mean([row[1] for row in found])),
        "inertia_ratio_max": float(np.max([row[1] for row in found])),
        "ms": float(np.median([row[2] for row in found])),
        "sklearn_ms": float(np.median([row[3] for row in found])),
        "same_clusters_on_cpu": all(row[4] for row in found),
    }
    report("K-means, 4 clusters, against scikit-learn (k-means++, n_init 10)", rows, figures, args)


if __name__ == "__main__":
    main()
