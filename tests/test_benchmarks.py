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
def test_a_few_hostile_files_of_each_kind_are_read_or_refused_by_name(tmp_path):
    command = [sys.executable, str(FOLDER / "hostile.py"), "--share", "0.03", "--seed", "1", "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    found = json.loads(run.stdout.splitlines()[-1])
    assert (run.returncode, found["faults"]) == (0, 0), run.stdout
    assert len(found["ends"]) > 40


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["grp_overhead", "train_step", "kmeans", "provenance", "scoring", "sharing", "metrics_cost"]
)
def test_a_benchmark_is_a_program(name):
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--device", "cpu", "--threads", "1", "--tiny"]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["benchmark"] == name


@pytest.mark.slow
def test_the_price_of_the_prototypes_is_measured_for_every_kind_of_step(output):
    lines = output("grp_overhead", "--tiny")
    figures = json.loads(lines[-1])
    assert figures.keys() >= COMMON | {"model", "precision", "rounds", "burst", "results"}
    (result,) = figures["results"]
    assert result["prototypes"].keys() == RATIOS
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
    assert figures["results"][0]["prototypes"] is None  # nothing to compare with
    assert list(figures["results"][0]["kinds"]) == ["plain", "resproto_fd"]


def test_the_trainer_is_timed_against_a_bare_loop(output):
    lines = output("train_step", "--tiny", "--batch", "4", "5")
    figures = json.loads(lines[-1])
    assert figures.keys() >= COMMON | {"model", "precision", "rounds", "burst", "results"}
    assert [result["batch"] for result in figures["results"]] == [4, 5]
    keys = RATIOS | {"batch", "trainer_ms", "bare_ms", "images_per_second"}
    assert all(result.keys() == keys and result["trainer_ms"] > 0 for result in figures["results"])
    assert len(lines) == 8  # title, machine, "", table of three lines, "", JSON: the trainer's own lines are not there


@pytest.mark.slow
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


def test_the_released_recipe_is_not_compiled(output, capsys):
    with pytest.raises(SystemExit) as stop:
        output("grp_overhead", "--tiny", "--compile")
    assert stop.value.code == 2
    assert "set --kinds" in capsys.readouterr().err


@pytest.mark.slow
def test_a_tower_compiled_for_the_benchmark_is_stepped(output):
    (line,) = output("grp_overhead", "--tiny", "--compile", "--kinds", "resproto_fd", "--json-only")
    assert json.loads(line)["compiled"]


@pytest.mark.slow
def test_the_store_is_set_against_what_the_device_takes(output):
    lines = output("scoring", "--tiny", "--frames", "32")
    (result,) = json.loads(lines[-1])["results"]
    assert result["scored"] > 0
    for name in ("test", "train"):
        assert result["share"][name] == pytest.approx(result["store"][name] / result["takes"][name])
    assert result["peak_mib"] is None  # of a card


def test_a_trial_without_its_folder_says_what_to_set(output, capsys, tmp_path):
    for words, message in (
        (["--shared", str(tmp_path)], "expected a folder with tools/real_protocol.py in it"),
        (["--clip", str(tmp_path / "gone.pt")], "--clip: there is no "),
    ):
        with pytest.raises(SystemExit) as stop:
            output("real_weights", "--work", str(tmp_path / "work"), *words)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_a_trial_computes_in_bf16_where_the_device_is_quick_at_it(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    trial = importlib.import_module("real_weights")
    for capability, precision in (("AVX2", "fp32"), ("DEFAULT", "fp32"), ("AVX512", "bf16")):
        monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda capability=capability: capability)
        assert trial.quick_precision("cpu") == precision
        assert trial.quick_precision("cuda:1") == "bf16"


@pytest.mark.slow
def test_a_trial_trains_tests_and_scores_again_with_balanced_neighbours(output, demo, tmp_path):
    (tmp_path / "data").symlink_to(demo)
    (tmp_path / "real.yaml").write_text(
        "title: Made\ntrain: [Demo-A]\nselection: {rule: best, dataset: Demo-A, split: val, metric: frame_auc}\n"
        "frames: {train: null, val: null, test: null}\ntest: [Demo-A, Demo-B]\n"
    )
    lines = output("real_weights", "--tiny", "--real", str(tmp_path), "--work", str(tmp_path / "work"))
    figures = json.loads(lines[-1])
    assert [row["row"] for row in figures["results"]] == ["resproto_fd", "resproto_fd, balanced", "border_tiny"]
    for row in figures["results"]:
        assert list(row["tests"]) == ["Demo-A", "Demo-B"]
        for test in row["tests"].values():
            assert test["low"] <= test["auc"] <= test["high"] and 0 <= test["carried_acc"] <= 1
    assert any(line.startswith("resproto_fd, balanced") for line in lines)


def test_a_simulated_sweep_takes_no_less_than_its_bound_and_repeats_what_faults_lost(output):
    (line,) = output("scheduler", "--json-only", "--cells", "40", "--cards", "1", "8")
    one, eight = json.loads(line)["results"]
    assert one["calm"]["ratio"] == pytest.approx(1)
    for found in (one, eight):
        assert found["calm"]["starts"] == 40
        assert found["calm"]["lost_share"] == 0
        assert found["faults"]["ratio"] >= found["calm"]["ratio"] >= 1 - 1e-9
        assert found["faults"]["starts"] > 40
        assert 0 < found["faults"]["lost_share"] < 0.2
    assert 7 < one["calm"]["hours"] / eight["calm"]["hours"] <= 8


@pytest.mark.slow
def test_kept_features_are_measured_beside_frames_that_are_encoded_each_time(output, demo):
    words = ("--tiny", "--json-only", "--epochs", "2", "--data", str(demo), "train.batch_size=16")
    figures = json.loads(output("kept_features", *words)[-1])
    assert figures.keys() >= COMMON | {"runs", "largest_score_difference", "largest_weight_difference", "kept_mib"}
    assert figures["largest_score_difference"] == 0
    assert set(figures["runs"]) == {"encoded each time", "kept, first run", "kept, another seed"}
