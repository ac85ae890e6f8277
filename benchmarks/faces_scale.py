"""Face extraction on one process, on two, in shards and over a Ray cluster: seconds a video, and what dividing costs.

    python benchmarks/faces_scale.py ../shared/real/videos

The cluster has two nodes of one processor each, both on this machine. Every way must give the same bytes. Then what a
task costs beside its work, by tasks that do nothing.
"""

import argparse
import functools
import json
import operator
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from faces import CLI, digest
from measure import make_parser, report

from resproto_fd.preprocessing.faces.cluster_pool import Cluster, run_on_cluster
from resproto_fd.preprocessing.faces.worker_pool import run_tasks

MEMORY = 80 << 20
"""Bytes of a node's object store: tasks and answers are small."""
ATTEMPTS = 10


def run(args: argparse.Namespace, out: Path, *words: str) -> tuple[float, float]:
    """Runs `resproto faces`: (seconds on the wall, processor seconds of it and of its own processes)."""
    command = [sys.executable, str(CLI), "faces", *args.sources, "--out", str(out), "--quiet", *words]
    command += ["--frames", str(args.frames)]
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, used


def merge(parts: list[Path], out: Path) -> float:
    """Puts shards together; returns the seconds."""
    start = time.monotonic()
    words = ["faces", "--merge", *map(str, parts), "--out", str(out), "--quiet"]
    subprocess.run([sys.executable, str(CLI), *words], stdout=subprocess.DEVNULL, check=False)
    return time.monotonic() - start


def empty_tasks(count: int, address: str) -> dict[str, float]:
    """Milliseconds a task that does nothing, in processes of this machine and over the cluster; and of the first."""
    figures = {}
    for name, answers in (
        ("processes", run_tasks(functools.partial, (operator.neg,), range(count), 2)),
        ("cluster", run_on_cluster(functools.partial, (operator.neg,), range(count), Cluster(address))),
    ):
        start = time.monotonic()
        next(answers)
        begun = time.monotonic()
        left = len(list(answers))
        figures[f"{name}_first_s"] = round(begun - start, 2)
        figures[f"{name}_ms_a_task"] = round(1000 * (time.monotonic() - begun) / max(left, 1), 2)
    return figures


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("sources", nargs="+", help="videos, pictures, and folders that hold them")
    parser.add_argument("--frames", type=int, default=32, help="frames a video")
    parser.add_argument("--tasks", type=int, default=500, help="tasks that do nothing")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows, figures = measure(args, Path(folder))
    report("Face extraction over many machines", rows, figures, args)


@contextmanager
def two_nodes() -> Iterator[str]:
    """Starts a cluster of two nodes on this machine; yields its address."""
    from ray.cluster_utils import Cluster as Nodes

    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # sockets have short paths: not below the other one
        for attempt in range(ATTEMPTS):
            head = {"num_cpus": 0, "include_dashboard": False, "temp_dir": f"{folder}/{attempt}"}
            try:
                nodes = Nodes(True, head_node_args=head)
                for _ in range(2):
                    nodes.add_node(num_cpus=1, object_store_memory=MEMORY)
                break
            except Exception as error:  # Ray waits for 30 seconds, which a busy machine may need longer
                if attempt == ATTEMPTS - 1:
                    raise
                print(f"the cluster did not start: {error}", file=sys.stderr)
        try:
            yield nodes.address
        finally:
            nodes.shutdown()


def measure(args: argparse.Namespace, folder: Path) -> tuple[list[dict], dict]:
    """Does the same sources in every way: (rows, figures)."""
    ways = {
        "one process": [("one", "--processes", "1")],
        "two processes": [("two", "--processes", "2")],
        "two shards, one after the other": [(f"shard{n}", "--processes", "1", "--shard", f"{n}/2") for n in (1, 2)],
    }
    times = {}
    for name, commands in ways.items():
        pairs = [run(args, folder / out, *words) for out, *words in commands]
        times[name] = [sum(column) for column in zip(*pairs)]
    with two_nodes() as address:
        times["cluster, two nodes"] = run(args, folder / "cluster", "--address", address)
        empty = empty_tasks(args.tasks, address)
    merged = merge([folder / "shard1", folder / "shard2"], folder / "merged")
    digests = {name: digest(folder / name)[1] for name in ("one", "two", "merged", "cluster")}
    found = json.loads((folder / "one" / "faces_report.json").read_text())
    count = sum(found["sources"].values())
    rows = [
        {
            "way": name,
            "s a source": f"{wall / count:.3f}",
            "CPU s a source": "-" if name.startswith("cluster") else f"{used / count:.3f}",
        }
        for name, (wall, used) in times.items()
    ]
    figures = {
        "benchmark": "faces_scale",
        "sources": found["sources"],
        "crops": found["frames_kept"],
        "seconds": {name: round(wall, 2) for name, (wall, _) in times.items()},
        "cpu_seconds": {name: round(used, 2) for name, (_, used) in times.items() if not name.startswith("cluster")},
        "merge_ms_a_source": round(1000 * merged / count, 2),
        "same_bytes": len(set(digests.values())) == 1,
        **empty,
    }
    return rows, figures


if __name__ == "__main__":
    main()
