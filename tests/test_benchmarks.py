"""Each benchmark runs, prints a table and, last, one line of JSON; how fast anything is, no test asserts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
COMMON = {"benchmark", "machine", "device", "tiny"}
RATIOS = {"ratio", "ratio_low", "ratio_high", "ratio_cpu"}
STEP = RATIOS | {"ms", "images_per_second", "model_tflops_per_second", "mfu"}
MEMORY = {"peak_mib", "extra_memory"}


def output(name, *arguments):
    """Lines that a benchmark prints on the CPU."""
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--device", "cpu", "--threads", "1", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_the_price_of_the_prototypes_is_measured_for_every_kind_of_step():
    lines = output("grp_overhead", "--tiny", "--memory-runs", "0")
    figures = json.loads(lines[-1])
    assert figures.keys() >= COMMON | {"model", "precision", "rounds", "burst", "results"}
    (result,) = figures["results"]
    assert list(result["kinds"]) == ["plain", "residual", "resproto_fd", "released"]
    for kind, measured in result["kinds"].items():
        assert measured.keys() == STEP | MEMORY
        assert measured["ms"] > 0
        assert any(line.startswith(kind) for line in lines)
    assert result["kinds"]["plain"]["ratio"] == 1
    assert result["kinds"]["plain"]["peak_mib"] is None


@pytest.mark.parametrize("kinds", [["plain"], pytest.param(["plain", "resproto_fd"], marks=pytest.mark.slow)])
def test_peak_memory_is_that_of_fresh_processes(kinds):
    (line,) = output("grp_overhead", "--tiny", "--kinds", *kinds, "--json-only", "--precision", "bf16")
    measured = json.loads(line)["results"][0]["kinds"]
    assert list(measured) == kinds
    assert all(figures["peak_mib"] > 0 for figures in measured.values())
    for figures in measured.values():
        assert figures["extra_memory"] == pytest.approx(figures["peak_mib"] / measured["plain"]["peak_mib"] - 1)


def test_the_trainer_is_timed_against_a_bare_loop():
    lines = output("train_step", "--tiny", "--batch", "4", "5")
    figures = json.loads(lines[-1])
    assert figures.keys() >= COMMON | {"model", "precision", "rounds", "burst", "results"}
    assert [result["batch"] for result in figures["results"]] == [4, 5]
    keys = RATIOS | {"batch", "trainer_ms", "bare_ms", "images_per_second"}
    assert all(result.keys() == keys and result["trainer_ms"] > 0 for result in figures["results"])
    assert len(lines) == 8  # title, machine, "", table of three lines, "", JSON: the trainer's own lines are not there


@pytest.mark.parametrize("arguments", [["--tiny"], pytest.param([], marks=pytest.mark.slow)])
def test_k_means_is_as_good_as_scikit_learn(arguments):
    lines = output("kmeans", *arguments)
    figures = json.loads(lines[-1])
    assert figures.keys() == COMMON | {
        "batches",
        "inertia_ratio_mean",
        "inertia_ratio_max",
        "ms",
        "sklearn_ms",
        "same_clusters_on_cpu",
    }
    assert figures["batches"] == (8 if arguments else 200)
    assert 0.9 < figures["inertia_ratio_mean"] < 1.01
    assert figures["same_clusters_on_cpu"]
