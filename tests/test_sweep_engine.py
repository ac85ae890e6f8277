"""What attends a cell's process, without Ray: how it starts, ends and is told of; and the files around a sweep."""

import io
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from made_sweeps import MadeCell, MadeEngine, MadeNeeds
from patience import wait_until

from resproto_fd.configs import ray_cluster
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.locks import SoleLock
from resproto_fd.configs.sweep_schema import SweepConfig
from resproto_fd.training.sweeps import live, ray_engine
from resproto_fd.training.sweeps import run as module
from resproto_fd.training.sweeps.cells import cells_of
from resproto_fd.training.sweeps.live import BoardKeeper, Live, _where
from resproto_fd.training.sweeps.pool import Node, Placement, Pool
from resproto_fd.training.sweeps.ray_engine import Order, attend, card_memory
from resproto_fd.training.sweeps.scheduler import Attempt, Job

pytestmark = pytest.mark.skipif(os.name == "nt", reason="sweeps run on Linux and macOS")


@pytest.fixture
def attended(tmp_path, monkeypatch):
    """Attends a small program instead of a run: `attended(program)`."""

    def go(program, **changes):
        def start(words, output, threads, processes, **options):
            options["env"] = os.environ | options["env"]
            pipes = {"stdin": subprocess.PIPE, "stdout": output, "stderr": subprocess.STDOUT}
            return subprocess.Popen([sys.executable, "-S", "-c", program], **pipes, **options)

        monkeypatch.setattr(ray_engine, "start", start)
        monkeypatch.setattr(ray_engine, "LOOK_EVERY", 0.01)
        folder, log = str(tmp_path / "run"), str(tmp_path / "log.txt")
        order = Order((), folder, log, str(tmp_path), cards=0, threads=1, title="attempt 1")
        return attend(replace(order, **changes))

    return go


@pytest.mark.parametrize(
    ("program", "ending", "words"),
    [
        ("print('fine')", "done", "fine"),
        ("raise SystemExit(75)", "stopped", "exit status 75"),
        ("import sys; print('expected a number'); sys.exit(2)", "refused", "expected a number"),
        ("raise SystemExit(1)", "crashed", "exit status 1"),
        ("import os; os.kill(os.getpid(), 9)", "crashed", "ended by SIGKILL"),
        ("raise RuntimeError('torch.OutOfMemoryError: CUDA out of memory. Tried to allocate')", "memory", "Tried"),
        ("raise RuntimeError('CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate')", "memory", "CUBLAS"),
        ("raise RuntimeError('CUDA error: out of memory')", "memory", "CUDA error"),
        ("print('CUDA out of memory')", "done", "exit status 0"),
        (
            "print('CUDA out of memory', '\\nanother tells more' * 40); raise SystemExit(1)",
            "memory",
            "tells more",
        ),
    ],
)
def test_the_exit_status_and_the_end_of_the_log_tell_how_an_attempt_ended(attended, tmp_path, program, ending, words):
    found, text, _ = attended(program)
    assert found == ending
    assert words in text
    assert f" {tmp_path}" not in text  # no place of this machine: the leaderboard shows it


def test_the_log_keeps_all_attempts_and_only_the_last_is_told(attended, tmp_path):
    attended("print('CUDA out of memory'); raise SystemExit(1)")
    ending, text, _ = attended("print('other'); raise SystemExit(1)", title="attempt 2")
    assert ending == "crashed"
    assert "out of memory" not in text
    log = (tmp_path / "log.txt").read_text()
    assert [line for line in log.splitlines() if line.startswith("---")] == ["--- attempt 1", "--- attempt 2"]


def test_the_newest_checkpoint_tells_how_far_a_run_is(attended, tmp_path):
    assert attended("")[2] is None
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for name in ("step_00000004.pt", "step_00000012.pt", ".step_00000099.pt.7.part"):
        (tmp_path / "run" / "checkpoints" / name).touch()
    assert attended("raise SystemExit(1)")[2] == 12


def test_a_run_on_the_cpu_sees_no_card_and_another_those_that_it_was_given(attended, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    shown = "import os; print(repr(os.environ['CUDA_VISIBLE_DEVICES']))"
    assert "''" in attended(shown)[1]
    assert "'3'" in attended(shown, cards=1)[1]


def test_what_a_run_leaves_in_its_process_group_is_ended(attended, tmp_path):
    program = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(3600)']);"
        "open('pid', 'w').write(str(p.pid))"
    )
    attended(program)
    pid = (tmp_path / "pid").read_text()
    wait_until(lambda: not _lives(pid))


def _lives(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_cancelled_task_has_its_run_save_and_end(attended, monkeypatch):
    """Ray cancels a task by an exception that it raises in it."""
    looks = iter([None, KeyboardInterrupt])

    def sleep(seconds):
        if raised := next(looks, None):
            raise raised
        time.sleep(0.05)

    monkeypatch.setattr(ray_engine, "time", _Time(sleep))
    ending, text, _ = attended("import sys; sys.stdin.read(); print('saved'); sys.exit(75)")
    assert ending == "stopped"
    assert "saved" in text


class _Time:
    monotonic = staticmethod(time.monotonic)

    def __init__(self, sleep):
        self.sleep = sleep


def test_nothing_is_started_while_another_process_is_at_work_in_the_folder(attended, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_engine, "GRACE", -9.9)
    (tmp_path / "run").mkdir()
    lock = SoleLock(tmp_path / "run" / ".lock")
    assert lock.acquire()
    ending, text, _ = attended("open('ran', 'w')")
    assert ending == "busy"
    assert "another process is at work" in text
    lock.release()
    assert attended("open('ran', 'w')")[0] == "done"


def test_cards_tell_what_of_their_memory_is_free(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '0, GPU-a, 81920, 1024'\necho '1, GPU-b, 81920, 40960'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(ray_engine, "_visible_cards", lambda: None)
    assert card_memory() == [79.0, 40.0]
    monkeypatch.setattr(ray_engine, "_visible_cards", lambda: ["1"])
    assert card_memory() == [40.0]
    monkeypatch.setattr(ray_engine, "_visible_cards", lambda: ["GPU-b", "GPU-a"])
    assert card_memory() == [40.0, 79.0]
    monkeypatch.setattr(ray_engine, "_visible_cards", lambda: ["MIG-c"])
    assert card_memory() == []
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert card_memory() == []


def test_a_long_temporary_folder_is_refused_before_ray_makes_sockets_in_it(tmp_path):
    with pytest.raises(UserError, match=r"--ray-temp .*: expected a path of at most 60 letters"):
        ray_cluster._checked_temporary(str(tmp_path / ("a" * 60)))


class MadeRay:
    """Ray that cannot be started the first times."""

    __file__ = ray_cluster.__file__

    def __init__(self, faults):
        self.faults, self.starts = faults, 0

    def init(self, **options):
        self.starts += 1
        if self.starts <= self.faults:
            raise Exception("The current node timed out during startup")

    def shutdown(self):
        pass

    def is_initialized(self):
        return False

    def remote(self, **options):
        return lambda function: function


@pytest.mark.parametrize(
    ("address", "faults", "starts"), [(None, 2, 3), (None, 3, None), ("auto", 0, 1), ("auto", 1, None)]
)
def test_a_start_of_ray_that_takes_too_long_is_tried_again(monkeypatch, address, faults, starts):
    made, here = MadeRay(faults), os.getcwd()
    monkeypatch.setattr(ray_cluster, "_imported", lambda: made)
    engine = ray_engine.RayEngine(None, address)
    if starts is None:
        expected = "expected a running Ray cluster at 'auto'" if address else "Ray could not be started"
        with pytest.raises(UserError, match=f"{expected}.*timed out"):
            engine.__enter__()
    else:
        assert engine.__enter__() is engine
        assert made.starts == starts
    assert os.getcwd() == here


# --- the files around a sweep ----------------------------------------------------------------------------------------


def made_cells(**changes):
    group = {"detectors": ["clip_tiny", "resnet_tiny"], "protocols": ["demo_cross"]} | changes
    config = SweepConfig(name="made", seeds=[0], needs={"cards": 0}, settings=["run.workers=0"], cells=[group])
    return config, cells_of(config, typed=["data.root=/data"])


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Runs a sweep with a made engine and files that say what it tells; (exit status, starts)."""
    done = set()
    monkeypatch.setattr(module.of_cells, "state", lambda cell, runs: _state(cell, runs, done))
    monkeypatch.setattr(module, "BoardKeeper", lambda jobs, runs, out: BoardKeeper(jobs, runs, out, build=list))

    def go(ends=lambda cell, *_: "done", runs=tmp_path / "runs", config=None, **options):
        made, cells = made_cells()

        def ended(cell, attempt, starts):
            found = ends(cell, attempt, starts)
            if found == "done":
                done.add(cell.digest)
            return found

        engine = MadeEngine(ended)
        engine.start = _with_seconds(engine.start)
        monkeypatch.setattr(module, "_connected", lambda *_: _made_connection(engine))
        status = module.run_sweep(config or made, cells, runs, **options)
        return status, [digest for _, digest, *_ in engine.starts]

    return go


def _state(cell, runs, done):
    if cell.digest in done:
        return "done"
    return "failed" if cell.failed_file(runs).is_file() else "to do"


def _with_seconds(start):
    return lambda cell, placement, attempt: start(MadeCell(cell.digest, MadeNeeds(0)), placement, attempt)


class _made_connection:
    def __init__(self, engine):
        self.engine = engine

    def __enter__(self):
        return self.engine, Pool([Node("a", (), 2)])

    def __exit__(self, *error):
        pass


def test_a_failed_cell_is_written_down_reported_and_not_tried_again_unless_asked(sweep, tmp_path, capsys):
    bad = made_cells()[1][0]
    status, starts = sweep(lambda cell, *_: "refused" if cell.digest == bad.digest else "done")
    assert status == 1
    assert len(starts) == 2
    assert capsys.readouterr().err.count(f"failed: {bad.folder}: {bad.digest} ended: refused") == 1
    kept = json.loads(bad.failed_file(tmp_path / "runs").read_text())
    assert kept["run"] == bad.folder
    assert not os.path.isabs(kept["log"])
    assert sweep() == (1, [])
    assert sweep(retry=True) == (0, [bad.digest])
    assert not bad.failed_file(tmp_path / "runs").exists()


def test_a_finished_cell_is_never_begun_again_also_after_the_folder_was_moved(sweep, tmp_path):
    assert sweep()[0] == 0
    os.rename(tmp_path / "runs", tmp_path / "moved")
    assert sweep(runs=tmp_path / "moved") == (0, [])


def test_a_spent_budget_leaves_cells_and_says_so(sweep):
    config = made_cells()[0].model_copy(update={"budget": module.SweepConfig.model_fields["budget"].annotation(runs=1)})
    status, starts = sweep(config=config)
    assert (status, len(starts)) == (75, 1)


def test_a_cell_of_more_cards_than_any_machine_has_is_refused_before_anything_begins(tmp_path):
    cell = made_cells(needs={"cards": 3})[1][0]
    with pytest.raises(UserError, match=r"needs 3 cards on one machine, and the largest has 0"):
        module._refuse_unfitting([Job(cell)], Pool([Node("a", (), 2)]))


def test_an_attempt_in_parts_says_so_to_the_run_and_keeps_the_global_batch(tmp_path):
    cell = made_cells()[1][1]
    placement = Placement("a", (), 0.0, 0.0, 1)
    plain = module.order(cell, tmp_path, placement, Attempt())
    split = module.order(cell, tmp_path, placement, Attempt(2, parts=4))
    assert [*plain.words, "run.split_batch=4"] == list(split.words)
    assert plain.threads == 1
    other = made_cells(needs={"cards": 0, "cpus": 4}, settings=["run.workers=0x1"])[1][0]
    assert module.order(other, tmp_path, placement, Attempt()).threads == 3
    assert "attempt 2 of" in split.title
    assert Path(plain.log).parent == (tmp_path / "sweep" / cell.digest)


def test_parts_of_a_batch_are_whole_and_a_step_of_its_own_has_none():
    cells = {cell.detector: cell for cell in made_cells(detectors=["clip_tiny", "rfm"])[1]}
    batch = json.loads(cells["clip_tiny"].spec)["detector"]["train"]["batch_size"]
    found = module.parts_of(cells["clip_tiny"])
    assert found
    assert all(batch % parts == 0 for parts in found)
    assert module.parts_of(cells["rfm"]) == []
    (apart,) = made_cells(detectors=["clip_tiny"], overrides=[["train.batch_size=24", "train.accumulate=2"]])[1]
    assert module.parts_of(apart) == [2, 4]
    (split,) = made_cells(detectors=["clip_tiny"], settings=["run.workers=0", "run.split_batch=4"])[1][:1]
    assert module.parts_of(split) == [parts for parts in found if parts > 4]
    pairs, beside = (
        made_cells(detectors=[name], overrides=[[f"train.samples={samples}", "train.batch_size=12"]])[1][0]
        for name, samples in (("clip_tiny", "warped"), ("i3d", "video_blended"))
    )
    assert (module.parts_of(pairs), module.parts_of(beside)) == ([2], [2, 4])


def test_a_measured_peak_counts_for_cells_of_the_same_detector_batch_and_precision(tmp_path):
    group = {"detectors": ["clip_tiny"], "protocols": ["demo_cross"], "seeds": [0, 1], "needs": {"cards": 0.5}}
    config = SweepConfig(
        name="made",
        cells=[group | {"overrides": [[], ["train.batch_size=8"], ["train.epochs=2"]]}],
        settings=["run.workers=0"],
    )
    cells = cells_of(config, typed=["data.root=/data"])
    jobs = [Job(cell) for cell in cells]
    peaks = module.Peaks(jobs, tmp_path)
    assert peaks.of(cells[0]) is None
    folder = tmp_path / cells[0].folder
    folder.mkdir(parents=True)
    result = {"timing": {"card_peak_gib": 3.5}, "config": {"run": {}}}
    (folder / "result.json").write_text(json.dumps(result))
    jobs[0].state = "done"
    peaks.changed(jobs[0])
    known = {(cell.overrides, cell.seed): peaks.of(cell) for cell in cells}
    small = ("train.batch_size=8",)
    assert {key for key, peak in known.items() if peak is None} == {(small, 0), (small, 1)}
    assert module.Peaks(jobs, tmp_path).of(cells[1]) == 3.5  # also after the command was typed again
    for peak in ("NaN", -3.5, 0.0):  # of a damaged file: as memory it would let runs share a card without end
        (folder / "result.json").write_text(json.dumps(result | {"timing": {"card_peak_gib": peak}}))
        assert module.Peaks(jobs, tmp_path).of(cells[1]) is None
    result["config"]["run"]["split_batch"] = 2
    (folder / "result.json").write_text(json.dumps(result))
    assert module.Peaks(jobs, tmp_path).of(cells[1]) is None


# --- what a person sees ----------------------------------------------------------------------------------------------


def test_lines_and_a_summary_tell_what_happens():
    jobs, out = [Job(cell) for cell in made_cells()[1]], io.StringIO()
    with Live(jobs, out) as live:
        jobs[0].state = "running"
        live.changed(jobs[0])
        jobs[0].state = "done"
        live.changed(jobs[0])
    lines = out.getvalue().splitlines()
    assert lines[0] == f"running: {jobs[0].cell.folder}"
    assert lines[1].startswith(f"done: {jobs[0].cell.folder} after ")
    assert lines[2].startswith("2 cells: 1 done, 1 to come")


def test_the_table_shows_running_cells_first():
    from rich.console import Console

    jobs = [Job(cell) for cell in made_cells()[1]]
    jobs[1].state, jobs[1].placement = "running", Placement("node1234567", (2,), 1.0, 0.0, 1)
    out = io.StringIO()
    Console(file=out, width=160).print(Live(jobs, io.StringIO()).table())
    text = out.getvalue()
    assert text.index(jobs[1].cell.folder) < text.index(jobs[0].cell.folder)
    assert "node1234 card 2" in text


def test_a_run_that_ends_while_the_table_is_drawn_does_not_end_the_table():
    class Ending:
        places = iter([Placement("node1234567", (2,), 1.0, 0.0, 1)])
        placement = property(lambda self: next(self.places, None))

    assert _where(Ending()) == "node1234 card 2"


def test_the_board_names_running_failed_and_coming_cells_and_its_fault_does_not_end_the_sweep(tmp_path):
    jobs = [Job(cell) for cell in made_cells(seeds=[0, 1])[1]]
    jobs[0].state = "done"
    jobs[1].state, jobs[1].text = "failed", "expected 3, got 4\nmore"
    jobs[2].state = "running"
    (tmp_path / jobs[0].cell.folder).mkdir(parents=True)
    (tmp_path / jobs[0].cell.folder / "result.json").touch()
    made = []

    def build(folders, out, pending):
        made.append((folders, pending))
        raise RuntimeError("no usable result.json")

    with BoardKeeper(jobs, tmp_path, tmp_path / "board", build) as keeper:
        pass
    (folders, pending), *_ = made
    assert folders == [tmp_path / jobs[0].cell.folder]
    assert [(each.state, each.text) for each in pending] == [
        ("running", ""),
        ("failed", "expected 3, got 4"),
        ("to come", ""),
    ]
    assert keeper.problem == "no usable result.json"


def test_two_sweeps_on_a_folder_make_its_board_one_after_another(tmp_path, monkeypatch):
    job = Job(made_cells()[1][0], state="done")
    (tmp_path / job.cell.folder).mkdir(parents=True)
    (tmp_path / job.cell.folder / "result.json").touch()
    order, asked, go_on, held = [], [], threading.Event(), live.held
    monkeypatch.setattr(live, "held", lambda *lock: asked.append(lock) or held(*lock))

    def build(folders, out, pending):
        order.append("begins")
        go_on.wait()
        order.append("ends")

    def make():
        with BoardKeeper([job], tmp_path, tmp_path / "board", build):
            pass

    sweeps = [threading.Thread(target=make) for _ in range(2)]
    for sweep in sweeps:
        sweep.start()
    wait_until(lambda: len(asked) == 2 and order)
    assert order == ["begins"]
    go_on.set()
    for sweep in sweeps:
        sweep.join()
    assert order == ["begins", "ends"] * 2
