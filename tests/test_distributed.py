"""n processes as one: the same losses, weights, memory and scores; the same refusals, on all of them."""

import functools
import json
import multiprocessing
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
import traceback
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from made import SIZE, MadeStore, TinyClipDetector, TinyDetector, made_config, made_dataset
from patience import PATIENCE, free_port
from sklearn.metrics import roc_auc_score

from resproto_fd.configs.errors import Interrupted, UserError
from resproto_fd.detectors import create_detector
from resproto_fd.trainer import checkpoint, distributed, run_folder
from resproto_fd.trainer.companions import Partners
from resproto_fd.trainer.data import Normaliser
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.run_folder import exclusive
from resproto_fd.trainer.scoring import ScoringOptions, score_frames
from resproto_fd.trainer.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
sys.path.append(str(BENCHMARKS))

from kill_and_resume import PRELOADED, Bench, Run, differences, traces  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="forks its processes")]

CPU = torch.device("cpu")
LOOPBACK = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "")
BACKBONE = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": SIZE, "patch_size": 4, "width": 16, "layers": 1, "head_width": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
RESPROTO = {"backbone": BACKBONE, "pretrained": None, "start_epoch": 1, "capacity": 6, "clusters": 2, "top_k": 3}
DETECTORS = {
    "tiny": TinyDetector,
    "coupled": lambda: TinyDetector(coupled=True),
    "clips": TinyClipDetector,
    "paired": lambda: TinyDetector(coupled=True),
    "paired clips": TinyClipDetector,
    "resproto_fd": lambda: create_detector("resproto_fd", **RESPROTO),
}


# --- processes that join ----------------------------------------------------------------------------------------------


def environment(rank, size, port):
    """What torchrun tells a process."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return {name: str(value) for name, value in names.items()} | {"GLOO_SOCKET_IFNAME": LOOPBACK}


def join_and_work(rank, size, port, work, place, options):
    os.environ.update(environment(rank, size, port))
    with open(f"{place}/{rank}.log", "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    try:
        with distributed.joined("cpu") as world:
            result = work(world, **options)
    except Exception as error:
        traceback.print_exc()
        result = error
    Path(f"{place}/{rank}.result").write_bytes(pickle.dumps(result))


def together(size, work, place, /, **options):
    """`work(world, **options)` in so many processes, which join; what each returned, or the error it raised."""
    if size == 1:
        return [work(World(0, 1, CPU), **options)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    given = (size, free_port(), work, str(place), options)
    processes = [context.Process(target=join_and_work, args=(rank, *given)) for rank in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE)
        process.kill()
    logs = "".join((place / f"{rank}.log").read_text() for rank in range(size))
    assert [process.exitcode for process in processes] == [0] * size, logs
    return [pickle.loads((place / f"{rank}.result").read_bytes()) for rank in range(size)]


class Scalars:
    """Stands in for TensorBoard's writer: keeps what is logged, unrounded."""

    kept: list

    def __init__(self, *args, **kwargs):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def flush(self):
        pass

    def add_scalar(self, tag, value, step):
        Scalars.kept.append((step, tag, float(value)))


# --- training ---------------------------------------------------------------------------------------------------------


def fitted(world, folder, name, accumulate, batch=8, **changes):
    """Twenty steps in float64; everything they leave behind."""
    run = {"log_every": 1, "save_checkpoints": False}
    settings = {"epochs": 5, "precision": "fp64", "augment": "flip", "ema": 0.8, "run": run, **changes}
    length = 2 if "clips" in name else 1
    settings |= {"input": {"frames": length}, "sampling": "paired" if "paired" in name else "shuffled"}
    config = made_config(accumulate=accumulate, batch_size=batch, **settings)
    checkpoint.seed_everything(config.seed)
    validation = made_dataset(config, videos=5, split="test")

    def validate(detector):
        scored = score_frames(detector, validation, fitting.normalise, world, ScoringOptions(4, progress=False))
        found.append(scored.scores)
        return {"frame_auc": roc_auc_score(validation.frames.labels, scored.scores)}

    found, order, Scalars.kept = [], [], []
    with mock.patch.object(run_folder, "SummaryWriter", Scalars):
        videos = {8: 12, 12: 16}[batch]  # four steps an epoch
        data = made_dataset(config, videos=videos, frames=3 * length)
        if "paired" in name:
            known = {fake: fake - 1 for fake in range(1, videos, 4)}  # every other one is known
            data.partners = Partners(data.frames, known)
        fitting = Trainer(DETECTORS[name](), data, config, world, Path(folder), validate)
        step = fitting._step
        fitting._step = lambda micro: (order.append([i for b in micro for i in b["index"].tolist()]), step(micro))
        progress = fitting.fit()
    return {
        "scalars": [entry for entry in Scalars.kept if not entry[1].startswith("speed/")],
        "state": fitting.detector.state_dict(),
        "average": fitting.average.average,
        "validation": found,
        "order": order,
        "best": (progress.best_epoch, progress.best_value),
    }


CASES = [(name, accumulate, 8) for name in DETECTORS for accumulate in (1, 2)]
OF_THREE = [(name, accumulate, 12) for name in ("clips", "paired", "paired clips") for accumulate in (1, 2)]
OF_FOUR = [case for case in CASES if case[0] == "resproto_fd"]
BY_SIZE = {1: CASES + OF_THREE, 2: CASES, 3: OF_THREE, 4: OF_FOUR}
PAIRS = [(size, case) for size in (2, 3, 4) for case in BY_SIZE[size]]


def all_fitted(world, folder):
    cases = BY_SIZE[world.size]
    return {case: fitted(world, f"{folder}/{'-'.join(map(str, case))}", *case) for case in cases}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    (result,) = together(1, all_fitted, None, folder=str(tmp_path_factory.mktemp("alone")))
    return result


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of so many processes has, by their number."""

    @functools.cache
    def results(size):
        folder = tmp_path_factory.mktemp(f"world{size}")
        found = together(size, all_fitted, folder, folder=str(folder / "runs"))
        assert all(isinstance(result, dict) for result in found), found
        return found

    return results


@pytest.mark.parametrize(("size", "case"), PAIRS, ids=str)
def test_losses_weights_memory_and_scores_are_those_of_one_process(alone, ranks, size, case):
    one, main = alone[case], ranks(size)[0][case]
    losses = [entry for entry in main["scalars"] if entry[1] == "loss/total"]
    assert [step for step, _, _ in losses] == list(range(1, 21))
    assert [entry[:2] for entry in main["scalars"]] == [entry[:2] for entry in one["scalars"]]
    np.testing.assert_allclose([v for *_, v in main["scalars"]], [v for *_, v in one["scalars"]], rtol=0, atol=1e-9)
    assert main["state"].keys() == one["state"].keys()
    for name, value in one["state"].items():
        torch.testing.assert_close(main["state"][name], value, rtol=0, atol=1e-9, msg=name)
    np.testing.assert_allclose(main["validation"], one["validation"], rtol=0, atol=1e-7)  # scores are float32
    assert main["best"] == one["best"]


@pytest.mark.parametrize(("size", "case"), PAIRS, ids=str)
def test_all_processes_hold_the_same_bits_and_select_the_same_epoch(ranks, size, case):
    results = [result[case] for result in ranks(size)]
    for other in results[1:]:
        for part in ("state", "average", "validation", "best"):
            assert differences(results[0][part], other[part], part) == []
        assert other["scalars"] == []


def test_the_memory_of_resproto_fd_is_filled_in_these_runs(alone):
    state = alone["resproto_fd", 1, 8]["state"]
    assert state["memory.count"].tolist() == [6, 6]
    assert state["memory.dwell"].max() > 0


@pytest.mark.parametrize("size", [2, 4])
def test_each_process_takes_its_share_of_the_order_and_each_epoch_has_its_own_order(alone, ranks, size):
    shares = zip(*(result["resproto_fd", 1, 8]["order"] for result in ranks(size)))
    joined = [[index for share in step for index in share] for step in shares]
    assert joined == alone["resproto_fd", 1, 8]["order"]
    epochs = [tuple(index for step in joined[4 * e : 4 * e + 4] for index in step) for e in range(5)]
    assert len(set(epochs)) == 5
    assert all(len(set(epoch)) == 32 for epoch in epochs)


@pytest.mark.parametrize(("size", "case"), [pair for pair in PAIRS if "paired" in pair[1][0]], ids=str)
def test_each_process_takes_whole_pairs_of_the_order(alone, ranks, size, case):
    frames = {8: 36, 12: 48}[case[2]]
    fakes = {index for index in range(frames) if index // 3 % 2}
    for step, *shares in zip(alone[case]["order"], *(result[case]["order"] for result in ranks(size)), strict=True):
        assert sorted(index for share in shares for index in share) == sorted(step)
        for share in shares:
            assert [index in fakes for index in share] == [True, False] * (len(share) // 2)


# --- scoring ----------------------------------------------------------------------------------------------------------


def scored(world, shapes, broken=(), skip_bad=False):
    checkpoint.seed_everything(0)
    detector = TinyDetector()
    normaliser = Normaliser([0.5] * 3, [0.5] * 3, CPU, torch.float32, False)
    config, results = made_config(), []
    for videos, frames in shapes:
        data = made_dataset(config, videos=videos, frames=frames, split="test", store=MadeStore(broken))
        results.append(
            score_frames(detector, data, normaliser, world, ScoringOptions(4, skip_bad=skip_bad, progress=False))
        )
    return results


def as_tuple(result):
    return result.index, result.scores, result.variants, [(bad.index, bad.message) for bad in result.skipped]


@pytest.mark.parametrize("size", [2, 3])
def test_scores_are_identical_for_any_number_of_frames(tmp_path, size):
    shapes = [(1, 1), (1, 3), (3, 3), (5, 5), (2, 13)]
    one = [as_tuple(result) for result in together(1, scored, None, shapes=shapes)[0]]
    assert [len(entry[0]) for entry in one] == [1, 3, 9, 25, 26]
    for results in together(size, scored, tmp_path, shapes=shapes):
        assert differences([as_tuple(result) for result in results], one) == []


def test_frames_that_no_process_can_read_are_gathered_from_all(tmp_path):
    paths = made_dataset(made_config(), videos=5, frames=5, split="test").frames.paths
    broken = [paths[i] for i in (1, 6, 9, 20)]
    one = as_tuple(together(1, scored, None, shapes=[(5, 5)], broken=broken, skip_bad=True)[0][0])
    assert [index for index, _ in one[3]] == [1, 6, 9, 20]
    for results in together(2, scored, tmp_path, shapes=[(5, 5)], broken=broken, skip_bad=True):
        assert differences(as_tuple(results[0]), one) == []


def all_ended(errors, message):
    """Whether every process ended with a fault the user can mend, and one of them with this message."""
    assert all(isinstance(error, UserError) for error in errors), errors
    texts = [str(error) for error in errors]
    assert all(message in text or "another process of this run has ended" in text for text in texts), texts
    return any(message in text for text in texts)


def test_a_frame_that_one_process_cannot_read_ends_all_with_its_name(tmp_path):
    path = made_dataset(made_config(), videos=5, frames=5, split="test").frames.paths[6]
    assert all_ended(together(2, scored, tmp_path, shapes=[(5, 5)], broken=[path]), f"{path} is broken")


@pytest.mark.parametrize("augment", ["none", "flip", "crop", "resproto_fd", "deepfakebench"])
def test_a_data_set_can_be_sent_to_workers_that_are_not_forked(augment):
    data = made_dataset(made_config(augment=augment))
    sent = pickle.loads(ForkingPickler.dumps(data))
    assert torch.equal(sent[(1, 4)]["image"], data[(1, 4)]["image"])


# --- refusals ---------------------------------------------------------------------------------------------------------


def entered(world, folder):
    with exclusive(Path(folder), world):
        return "in"


def test_a_run_folder_in_use_is_refused_on_all_processes(tmp_path):
    with exclusive(tmp_path / "run", World(0, 1, CPU)):
        for error in together(2, entered, tmp_path, folder=str(tmp_path / "run")):
            assert isinstance(error, UserError)
            assert "another process is at work" in str(error)
    assert together(2, entered, tmp_path, folder=str(tmp_path / "run")) == ["in", "in"]


def test_resuming_with_another_number_of_processes_is_refused(tmp_path):
    options = {"folder": str(tmp_path / "run"), "name": "tiny", "accumulate": 1, "epochs": 1, "run": {}}
    together(1, fitted, None, **options)
    for error in together(2, fitted, tmp_path, **options):
        assert isinstance(error, UserError)
        assert "processes: saved with 1, now 2" in str(error)


def bad_training_frames(world, folder, replace):
    config = made_config(batch_size=12, run={"log_every": 1})
    checkpoint.seed_everything(0)
    paths = made_dataset(config).frames.paths
    data = made_dataset(config, store=MadeStore(paths[3:9]), replace_bad=replace)
    fitting = Trainer(TinyDetector(), data, config, world, Path(folder))
    return fitting.fit().bad_frames


def test_unreadable_training_frames_are_counted_over_all_processes(tmp_path):
    (one,) = together(1, bad_training_frames, None, folder=str(tmp_path / "one"), replace=True)
    assert sorted(one) == [3, 4, 5, 6, 7, 8]
    for found in together(2, bad_training_frames, tmp_path, folder=str(tmp_path / "two"), replace=True):
        assert found == sorted(one)


def test_a_training_frame_that_one_process_cannot_read_ends_all_with_a_message(tmp_path):
    errors = together(2, bad_training_frames, tmp_path, folder=str(tmp_path / "run"), replace=False)
    assert all_ended(errors, "on_bad_frame=skip")


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench(demo, tmp_path_factory):
    """Runs of a tiny ResProto-FD on the tiny demo data, in float64; one of one process is done."""
    settings = ["train.precision=fp64", "model.backbone.vision_cfg.patch_dropout=0.0"]
    bench = Bench(tmp_path_factory.mktemp("runs"), demo, forked=True, settings=settings)
    bench.left_alone()
    return bench


def start(bench, name, *settings, fuses=(None, None)):
    """Two processes of one run."""
    port = free_port()
    return [
        Run(
            bench.argv(name, *settings),
            bench.work / f"{name}.{rank}.log",
            fuse,
            forked=True,
            environment=environment(rank, len(fuses), port),
        )
        for rank, fuse in enumerate(fuses)
    ]


def statuses(runs):
    return [run.wait() for run in runs]


def said(runs):
    return "\n".join(run.output() for run in runs)


@pytest.fixture(scope="module")
def pair(bench):
    """What a run of two processes leaves that nobody interrupts."""
    runs = start(bench, "pair")
    assert statuses(runs) == [0, 0], said(runs)
    assert runs[1].output() == ""
    return traces(bench.folder("pair"))


def test_two_processes_leave_the_result_of_one(bench, pair):
    one = bench.traces
    assert pair["files"] == one["files"]
    assert pair["result"]["tests"].keys() == {"Demo-A", "Demo-B"}
    for name, test in one["result"]["tests"].items():
        for key in ("frames", "videos", "frame_auc", "frame_ap", "frame_eer", "frame_acc", "video_auc"):
            assert pair["result"]["tests"][name][key] == pytest.approx(test[key], abs=1e-9), (name, key)
        scores = [traces_[f"scores of {name}"]["score"] for traces_ in (pair, one)]
        np.testing.assert_allclose(*scores, rtol=0, atol=1e-6)
    assert pair["result"]["selected_on"]["epoch"] == one["result"]["selected_on"]["epoch"]
    for name, value in one["checkpoint"]["model"].items():
        torch.testing.assert_close(pair["checkpoint"]["model"][name], value, rtol=0, atol=1e-9, msg=name)
    assert [name for name in pair if name.startswith("tb ")] == [name for name in one if name.startswith("tb ")]


@pytest.mark.parametrize("fuse", [("write", 6000), ("score", 4)], ids=lambda fuse: fuse[0])
def test_a_run_of_two_whose_main_process_is_killed_resumes_to_the_same_bits(bench, pair, fuse):
    name = f"killed_{fuse[0]}"
    runs = start(bench, name, fuses=[fuse, None])
    assert statuses(runs) == [-signal.SIGKILL, 2], said(runs)
    assert "process 1 of 2: another process of this run has ended" in runs[1].output()
    assert "Traceback" not in runs[1].output()
    runs = start(bench, name)
    assert statuses(runs) == [0, 0], said(runs)
    assert differences(pair, traces(bench.folder(name))) == []


@pytest.mark.parametrize(
    ("fuses", "log_every"),
    [
        ([("step", 3, signal.SIGTERM), ("step", 3, signal.SIGTERM)], 1),
        ([None, ("step", 3, signal.SIGUSR1)], 1),
        ([None, ("step", 3, signal.SIGUSR1)], 20),  # they ask each other at these steps, and at the end of an epoch
        ([("score", 1, signal.SIGTERM), ("score", 1, signal.SIGTERM)], 1),
    ],
    ids=["all", "one", "one-epoch", "validating"],
)
def test_a_stop_signal_makes_all_processes_end_with_75_and_one_checkpoint(bench, pair, fuses, log_every, request):
    name = f"stopped_{request.node.callspec.id}"
    runs = start(bench, name, "run.save_every=null", f"run.log_every={log_every}", fuses=fuses)
    assert statuses(runs) == [75, 75], said(runs)
    assert "Traceback" not in said(runs)
    assert len(checkpoint.stored(bench.folder(name) / "checkpoints")) == 1
    runs = start(bench, name)
    assert statuses(runs) == [0, 0], said(runs)
    found = differences(pair, traces(bench.folder(name)))
    assert [line for line in found if log_every == 1 or not line.startswith("/tb train")] == []


def stopped_while_waiting(world):
    """The first process has frames left to score when both are asked to stop, the other waits for it."""
    pids = distributed.gather_objects(world, os.getpid())

    class Stopping(MadeStore):
        def read(self, path):
            if world.is_main and path.endswith("002.png"):
                time.sleep(0.5)  # the other one is through with its share by then
                for pid in reversed(pids):
                    os.kill(pid, signal.SIGTERM)
            return super().read(path)

    data = made_dataset(made_config(), videos=1, frames=3, split="test", store=Stopping())
    normaliser = Normaliser([0.5] * 3, [0.5] * 3, CPU, torch.float32, False)
    return score_frames(TinyDetector(), data, normaliser, world, ScoringOptions(4, progress=False))


def test_a_process_that_waits_for_the_others_scores_stops_with_them(tmp_path):
    results = together(2, stopped_while_waiting, tmp_path)
    assert [type(result) for result in results] == [Interrupted, Interrupted]


# --- launchers --------------------------------------------------------------------------------------------------------


def torchrun(bench, name, *script, options=()):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1"]
    command += [f"--master_port={free_port()}", *options, *script, *bench.argv(name)[1:]]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": LOOPBACK}
    done = subprocess.run(command, capture_output=True, text=True, cwd=bench.work, env=environment, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_torchrun_trains_two_processes_as_two(bench, pair):
    shown = torchrun(bench, "torchrun", str(ROOT / "training" / "train.py"))
    assert shown.count("test set") == 1
    assert differences(pair, traces(bench.folder("torchrun"))) == []


def test_torchrun_restarts_a_run_of_which_a_process_was_killed(bench, pair):
    fuse = json.dumps([["step", 5], str(bench.work / "restarted.log")])  # eight steps in all: it burns once
    script = [str(BENCHMARKS / "kill_and_resume.py"), "--fuse", fuse, "train"]
    torchrun(bench, "restarted", *script, options=["--max_restarts=1"])
    assert differences(pair, traces(bench.folder("restarted"))) == []


MEMBER = """
import os, sys, time
from resproto_fd.trainer.distributed import any_rank, joined
with joined("cpu", timeout_minutes=20) as world:
    any_rank(world, False)
    first = not os.path.exists("died")
    if first and sys.argv[1] == "a":
        open("died", "w").close()
        os._exit(1)
    if first:
        time.sleep(3600)  # at work on its own: it does not see that the other died
    any_rank(world, False)
    open("done_" + sys.argv[1], "w").close()
"""


def test_a_machine_whose_process_died_and_one_whose_did_not_join_again(tmp_path):
    (tmp_path / "member.py").write_text(MEMBER)
    command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--max_restarts=2"]
    command += ["--rdzv_backend=c10d", "--rdzv_id=again", f"--rdzv_endpoint=127.0.0.1:{free_port()}", "member.py"]
    environment = os.environ | {"GLOO_SOCKET_IFNAME": LOOPBACK, "OMP_NUM_THREADS": "1"}
    options = {
        "cwd": tmp_path,
        "env": environment,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    machines = [subprocess.Popen([*command, name], **options) for name in "ab"]
    shown = [machine.communicate(timeout=PATIENCE)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], shown
    assert {path.name for path in tmp_path.glob("d*")} == {"died", "done_a", "done_b"}


SRUN = """#!{python}
import os, subprocess, sys
tasks = [
    subprocess.Popen(sys.argv[1:], env=os.environ | {{"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)}}) for i in (0, 1)
]
codes = [task.wait() for task in tasks]
sys.exit(max(128 - code if code < 0 else code for code in codes))
"""
PYTHON = """#!/bin/bash
exec {python} "$@"
"""
STOPPED = """#!/bin/bash
shift
exec {python} {program} --fuse '[["step", 3, {number}], "{log}.'$RANK'"]' train "$@"
"""
SCONTROL = """#!/bin/bash
case $1 in
    show) echo 127.0.0.1; echo 127.0.0.2 ;;
    requeue) echo "$2" >> "{requeued}" ;;
esac
"""


def test_the_slurm_script_of_the_docs_requeues_a_stopped_run_until_it_is_done(bench, pair, tmp_path):
    (script,) = re.findall("```bash\n(#!/bin/bash\n.*?)```", (ROOT / "docs/how_to/several_gpus.md").read_text(), re.S)
    requeued, folder = tmp_path / "requeued", bench.folder("slurm")
    (tmp_path / "bin").mkdir()
    job = free_port() - 20_000  # the script makes the port of it
    found = os.environ | {"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "GLOO_SOCKET_IFNAME": LOOPBACK}
    found |= {"SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "a[1-2]", "SLURM_JOB_ID": str(job)}
    own = {"python": sys.executable, "requeued": requeued, "log": bench.work / "slurm.log"}
    own |= {"program": BENCHMARKS / "kill_and_resume.py", "number": int(signal.SIGUSR1)}
    for python, status in ((STOPPED, 75), (PYTHON, 0)):
        for name, text in {"srun": SRUN, "scontrol": SCONTROL, "python": python}.items():
            stub = tmp_path / "bin" / name
            stub.write_text(text.format(**own))
            stub.chmod(0o755)
        command = ["bash", "-c", script, "train.slurm", *bench.argv("slurm")[1:]]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=found, timeout=PATIENCE)
        assert done.returncode == status, done.stderr
        assert requeued.read_text() == f"{job}\n"
        assert (folder / "result.json").exists() == (status == 0)
    assert differences(pair, traces(folder)) == []
