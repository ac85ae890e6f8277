"""Each benchmark runs, prints a table and, last, one line of JSON; how fast anything is, no test asserts."""

import importlib
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


@pytest.fixture
def output(monkeypatch, capsys):
    """Lines that a benchmark prints on the CPU, run in this process."""
    monkeypatch.syspath_prepend(FOLDER)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, "--device", "cpu", "--threads", "1", *arguments])
        importlib.import_module(name).main()
        return capsys.readouterr().out.splitlines()

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grp_overhead", "train_step", "kmeans"])
def test_a_benchmark_is_a_program(name):
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--device", "cpu", "--threads", "1", "--tiny"]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["benchmark"] == name


def test_the_price_of_the_prototypes_is_measured_for_every_kind_of_step(output):
    lines = output("grp_overhead", "--tiny")
    figures = json.loads(lines[-1])
    assert figures.keys() >= COMMON | {"model", "precision", "rounds", "burst", "results"}
    (result,) = figures["results"]
    assert list(result["kinds"]) == ["plain", "residual", "resproto_fd", "released"]
    for kind, measured in result["kinds"].items():
        assert measured.keys() == STEP | MEMORY
        assert measured["ms"] > 0
        assert any(line.startswith(kind) for line in lines)
    assert result["kinds"]["plain"]["ratio"] == 1
    assert 0 < result["kinds"]["resproto_fd"]["extra_memory"] < 0.2 < result["kinds"]["released"]["extra_memory"]


def test_with_json_only_nothing_else_is_printed_and_only_the_kinds_asked_for_are_measured(output):
    (line,) = output("grp_overhead", "--tiny", "--kinds", "resproto_fd", "--json-only", "--precision", "bf16")
    figures = json.loads(line)
    assert figures["precision"] == "bf16"
    assert list(figures["results"][0]["kinds"]) == ["plain", "resproto_fd"]


def test_the_trainer_is_timed_against_a_bare_loop(output):
    lines = output("train_step", "--tiny", "--batch", "4", "5")
    figures = json.loads(lines[-1])
    assert figures.keys() >= COMMON | {"model", "precision", "rounds", "burst", "results"}
    assert [result["batch"] for result in figures["results"]] == [4, 5]
    keys = RATIOS | {"batch", "trainer_ms", "bare_ms", "images_per_second"}
    assert all(result.keys() == keys and result["trainer_ms"] > 0 for result in figures["results"])
    assert len(lines) == 8  # title, machine, "", table of three lines, "", JSON: the trainer's own lines are not there


@pytest.mark.parametrize("arguments", [["--tiny"], pytest.param([], marks=pytest.mark.slow)])
def test_k_means_is_as_good_as_scikit_learn(output, arguments):
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
