"""The script for a machine with a card: every part runs in tiny sizes, is bounded in time, and says what it lacked."""

import importlib
import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from patience import PATIENCE

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
PARTS = ["tests", "kmeans", "prototypes", "trainer", "large", "scoring", "sharing", "compiled", "large_compiled"]


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("gpu")


@pytest.fixture
def run(gpu):
    """Runs Python code as a part; its record."""

    def run(code, limit=PATIENCE, left=PATIENCE, rows=lambda figures: []):
        with gpu.Runner(time.monotonic() + left, dry_run=True) as runner:
            return runner.run(gpu.Part("made", ["-c", code], limit, rows))

    return run


@pytest.mark.slow
def test_a_dry_run_runs_every_part(tmp_path):
    out = tmp_path / "gpu.jsonl"
    bounds = ["--minutes", "60", "--limit-factor", "60"]  # a busy machine takes long
    command = [str(FOLDER / "gpu.sh"), "--dry-run", *bounds, "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable})
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout.splitlines()
    records = [json.loads(line) for line in printed if line.startswith("{")]
    assert [json.loads(line) for line in out.read_text().splitlines()] == records
    assert [record["part"] for record in records] == ["machine", *PARTS]
    assert all(record["dry_run"] for record in records)
    assert all(record["state"] == "done" and record["figures"] and record["rows"] for record in records[1:])
    assert records[1]["figures"] == {"passed": 0, "failed": 0, "skipped": 2, "error": 0}
    table = [line.split()[0] for line in printed[printed.index("") :] if line]
    assert set(table) >= set(PARTS)
    assert any("These figures mean nothing." in line for line in printed)


def test_without_a_card_the_script_says_what_to_set(gpu, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as stop:
        gpu.main()
    assert stop.value.code == 2
    assert "set --dry-run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_part_over_its_limit_is_ended_with_its_own_processes(gpu, run, tmp_path):
    os.mkfifo(tmp_path / "open")
    child = f"import time; file = open({str(tmp_path / 'open')!r}, 'w'); time.sleep(3600)"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}])"
    with os.fdopen(os.open(tmp_path / "open", os.O_RDONLY | os.O_NONBLOCK)) as ours:
        record = run(code, limit=2)
        assert (record["state"], record["why"]) == ("too long", "ended after 2 s")
        os.set_blocking(ours.fileno(), True)
        assert ours.read() == ""  # it comes to its end when no process has it open
    assert gpu.table([record], dry_run=False)[-1].split()[:3] == ["made", "(TOO", "LONG)"]


def test_what_runs_ends_with_the_script(gpu):
    part = gpu.Part("made", ["-c", "import time; time.sleep(3600)"], 3600, lambda figures: [])
    with ThreadPoolExecutor(1) as pool, gpu.Runner(time.monotonic() + 3600, dry_run=True) as runner:
        waits = pool.submit(runner.run, part)
    assert waits.result()["state"] != "done"


def test_a_part_for_which_no_time_is_left_is_not_begun_and_named(gpu, run, tmp_path):
    begun = tmp_path / "begun"
    record = run(f"open({str(begun)!r}, 'w')", left=5)
    assert (record["state"], record["why"]) == ("no time left", "not begun")
    assert not begun.exists()
    assert "(NO TIME LEFT)" in gpu.table([record], dry_run=False)[-1]


@pytest.mark.parametrize(
    ("code", "why"),
    [("raise ValueError('out of memory')", "exit status 1: ValueError: out of memory"), ("pass", "printed no figures")],
)
def test_a_part_that_fails_says_why(run, code, why):
    record = run(code)
    assert record["state"] == "failed"
    assert record["why"].startswith(why)


def test_a_goal_is_judged_on_a_card_and_not_in_a_dry_run(gpu, run):
    record = run("print('{}')", rows=lambda figures: [gpu.Row("ratio", "1.2", "<= 1.03", False)])
    assert record["state"] == "done"
    assert gpu.table([record], dry_run=False)[-1].endswith("NO")
    assert gpu.table([record], dry_run=True)[-1].endswith("1.03")


def test_tests_that_were_skipped_or_failed_miss_their_goal(gpu):
    for line, met in [("2 passed in 1s", True), ("1 failed, 1 passed in 1s", False), ("1 passed, 1 skipped", False)]:
        (row,) = gpu.test_rows(gpu.read_pytest(f"..\n{line}\n"))
        assert row.met is met
    with pytest.raises(ValueError, match="counts"):
        gpu.read_pytest("no such file")


def test_the_limits_of_the_wanted_parts_fit_into_eight_minutes(gpu):
    parts = gpu.parts(False, 256)
    assert [part.name for part in parts] == PARTS
    assert sum(part.limit for part in parts[:7]) < 8 * 60
    assert all("--tiny" not in part.command for part in parts)


def test_the_peak_of_a_card_is_in_a_table_or_measured_and_said(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    overhead = importlib.import_module("grp_overhead")
    args = Namespace(peak_tflops=None, precision="bf16", device="cuda:0")
    monkeypatch.setattr(overhead, "measured_tflops", lambda device: 12.5)
    for card, expected in {
        "NVIDIA H200": (989, "table"),
        "NVIDIA H200 NVL": (835, "table"),
        "NVIDIA A100-SXM4-80GB": (312, "table"),
        "NVIDIA GeForce RTX 4090": (165.2, "table"),
        "Some Card": (12.5, "measured"),
    }.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, card=card: card)
        assert overhead.peak_tflops(args) == expected
    assert overhead.peak_tflops(Namespace(**vars(args) | {"device": "cpu"})) == (None, "unknown")
    assert overhead.peak_tflops(Namespace(**vars(args) | {"peak_tflops": 7.0})) == (7.0, "given")


def test_a_peak_is_measured_by_a_matrix_product(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    assert importlib.import_module("grp_overhead").measured_tflops("cpu", size=32, rounds=2, burst=1) > 0
