"""Whole sweeps, on Ray, that are killed, stopped, doubled and moved; see `benchmarks/sweep.py`."""

import json
import os
import random
import shutil
import signal
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from patience import wait_until

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from sweep import COUNTER, Bench, killed  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc"),
]


@pytest.fixture(scope="module")
def bench(demo, tmp_path_factory):
    """A sweep of two tiny runs on the tiny demo data, and the same runs made alone."""
    pytest.importorskip("ray")
    return Bench(tmp_path_factory.mktemp("sweeps"), demo, seeds=2)


@pytest.fixture
def cluster(bench, monkeypatch):
    """A Ray cluster of its own, with a head of one CPU. Steps that are made on it are counted as of "cluster"."""
    utils = pytest.importorskip("ray.cluster_utils")
    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)  # Ray's test cluster writes its address there
    counts = bench.work / "cluster.steps"
    shutil.rmtree(counts, ignore_errors=True)
    counts.mkdir()
    (counts / "sitecustomize.py").write_text(COUNTER)
    monkeypatch.setenv("STEP_COUNTS", str(counts))
    monkeypatch.setenv("PYTHONPATH", str(counts))
    with tempfile.TemporaryDirectory(prefix="rc", dir="/tmp", ignore_cleanup_errors=True) as folder:
        own = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False, "temp_dir": folder}
        made = patiently(lambda: utils.Cluster(initialize_head=True, head_node_args=own))
        try:
            yield made
        finally:
            made.shutdown()


def patiently(start, tries=5):
    """Starts a part of a cluster again if Ray gives up; it waits half a minute, which a busy machine may need.

    It ignores SIGINT, as all does that a script starts in the background (`ray start --block &`).
    """
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return start()
    except Exception:  # Ray raises bare ones
        if tries == 1:
            raise
        return patiently(start, tries - 1)
    finally:
        signal.signal(signal.SIGINT, before)


def through(bench, name, *words):
    """Types a sweep to its end; its exit status and output. Nothing is left running."""
    with bench.type(name, *words) as typed:
        status = typed.wait()
        assert typed.left_over()[0] == []
        return status, typed.output()


def runs_at_work(bench, name):
    """Processes that train in a sweep's folder, on whatever node."""
    mark = f"--out={bench.work / name}".encode()
    return [path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if mark in _read(path)]


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


@contextmanager
def held(bench, name, counts, runs):
    """So many runs wait in the block, each with a checkpoint, until they are asked to stop."""
    (bench.work / f"{counts}.steps").mkdir(exist_ok=True)
    hold = bench.work / f"{counts}.steps" / "hold"
    hold.touch()

    def wait(typed):
        def there():
            assert typed.process.poll() is None, typed.output()
            return len({*(bench.work / name).glob("kill/tiny/*/checkpoints/step_00000002.pt")}) == runs

        wait_until(there, typed.output)

    try:
        yield wait
    finally:
        hold.unlink()


def logs_of(bench, name):
    """What a sweep and its cells printed at last."""
    paths = [bench.work / f"{name}.log", *sorted((bench.work / name).rglob("log.txt"))]
    return "\n".join(f"{path}:\n{path.read_text(errors='replace')[-4000:]}" for path in paths if path.is_file())


def each_once(bench, name):
    """Every run is that of `resproto train`, and no step was made twice."""
    assert bench.compare(name) == [], logs_of(bench, name)
    assert bench.steps(name) == {f"tiny-seed{seed}": bench.steps_needed() for seed in (0, 1)}, logs_of(bench, name)


def test_a_sweeps_runs_are_those_of_single_commands_and_are_not_repeated(bench):
    status, text = through(bench, "plain")
    assert status == 0, text
    each_once(bench, "plain")
    assert (bench.work / "plain" / "leaderboard" / "index.html").is_file()
    (bench.work / "plain" / bench.cells()[0].folder / "calibration.json").unlink()  # as if killed before it was made
    status, text = through(bench, "plain")
    assert status == 0, text
    each_once(bench, "plain")


def test_killed_driver_worker_and_node_leave_nothing_and_the_sweep_goes_on(bench):
    figures = killed(bench, 3, random.Random(7).randrange(1000), 30.0, print)
    assert figures["kills_by_process"] == {"driver": 1, "worker": 1, "node": 1}
    assert figures["differences"] == []
    assert figures["processes_left"] == []


def test_two_sweeps_at_once_do_every_cell_once(bench):
    with bench.type("both") as one, bench.type("both") as other:
        assert (one.wait(), other.wait()) == (0, 0), one.output()
        assert one.left_over()[0] == other.left_over()[0] == []
    each_once(bench, "both")


def test_a_stopped_sweep_saves_its_runs_and_a_moved_folder_goes_on(bench):
    with held(bench, "stopped", "stopped", 1) as wait, bench.type("stopped") as typed:
        wait(typed)
        typed.process.send_signal(signal.SIGTERM)
        assert typed.wait() == 75, typed.output()
        assert "run the same command" in typed.output()
        assert typed.left_over()[0] == []
    for name in ("", ".steps"):
        os.rename(bench.work / f"stopped{name}", bench.work / f"moved{name}")
    status, text = through(bench, "moved")
    assert status == 0, text
    each_once(bench, "moved")


def test_a_cell_that_always_fails_is_told_once_and_the_others_finish(bench):
    sweep = bench.work / "failing.yaml"
    text = bench.sweep.read_text().replace(
        "    protocols:", '    overrides: [[], ["train.batch_size=4096"]]\n    protocols:'
    )
    sweep.write_text(text.replace("seeds: [0, 1]", "seeds: [0]"))
    plain, bench.sweep = bench.sweep, sweep
    try:
        good, bad = bench.cells()
        status, text = through(bench, "failing")
        assert status == 1, text
        assert text.count(f"failed: {bad.folder}:") == 1
        status, text = through(bench, "failing")  # it is told again, and not tried again
        assert status == 1, text
        runs = bench.work / "failing"
        assert (runs / good.folder / "result.json").is_file()
        kept = json.loads(bad.failed_file(runs).read_text())
        assert "set a smaller one" in kept["text"]
        assert (runs / kept["log"]).read_text().count("--- attempt") == 1
        assert bad.folder in (runs / "leaderboard" / "index.html").read_text()
    finally:
        bench.sweep = plain


def test_a_killed_node_of_two_does_not_end_the_sweep(bench, cluster):
    node = patiently(lambda: cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20))
    with bench.type("nodes", "--address", cluster.address) as typed:
        with held(bench, "nodes", "cluster", 2) as wait:
            wait(typed)
            cluster.remove_node(node, allow_graceful=False)
            wait_until(lambda: len(runs_at_work(bench, "nodes")) == 1)
        assert typed.wait() == 0, typed.output()
        assert typed.left_over()[0] == []
    wait_until(lambda: not runs_at_work(bench, "nodes"))
    assert bench.compare("nodes") == []
    assert bench.steps("cluster") == {f"tiny-seed{seed}": bench.steps_needed() for seed in (0, 1)}
    assert typed.output().count("running: ") >= 3


def test_a_cell_of_two_cards_trains_in_two_processes(bench, cluster):
    cards = {"num_cpus": 2, "num_gpus": 2, "object_store_memory": 80 * 2**20}
    patiently(lambda: cluster.add_node(**cards))  # no real cards: it trains on the CPU
    sweep = bench.work / "wide.yaml"
    sweep.write_text(bench.sweep.read_text().replace("cards: 0", "cards: 2").replace("seeds: [0, 1]", "seeds: [0]"))
    plain, bench.sweep = bench.sweep, sweep
    try:
        words = ["--address", cluster.address, "run.device=cpu"]
        with held(bench, "wide", "cluster", 1) as wait, bench.type("wide", *words) as typed:
            wait(typed)
            typed.process.send_signal(signal.SIGTERM)
            assert typed.wait() == 75, typed.output()
            assert typed.left_over()[0] == []
            wait_until(lambda: not runs_at_work(bench, "wide"))
        status, text = through(bench, "wide", *words)
        assert status == 0, text
    finally:
        bench.sweep = plain
    assert bench.steps("cluster") == {"tiny-seed0": 2 * bench.steps_needed()}
