"""Job arrays of SLURM, run under bash with programs that stand for SLURM's."""

import os
import shlex
import signal
import subprocess
from pathlib import Path

import pytest
from patience import PATIENCE, wait_until

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.sweep_schema import Needs
from resproto_fd.training.sweeps.cells import Cell
from resproto_fd.training.sweeps.slurm import write_arrays

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SLURM's scripts are of bash")
PROGRAMS = {
    # Drops its own options, as srun does; the program gets the signals that srun gets.
    "srun": 'while [ "${1#--}" != "$1" ]; do echo "$1" >> "$NOTES/srun"; shift; done\nexec "$@"',
    "scontrol": 'if [ "$1" = show ]; then echo node1; echo node2; else echo "$@" >> "$NOTES/scontrol"; fi',
    "sbatch": 'printf "%s\\n" "$PWD" "$@" >> "$NOTES/sbatch"',
    "resproto": 'printf "%s\\n" "$@" > "$NOTES/words"\nenv > "$NOTES/env"\n'
    'trap "echo TERM >> $NOTES/signal; exit 75" TERM\ntrap "echo USR1 >> $NOTES/signal; exit 75" USR1\n'
    'touch "$NOTES/begun"\nif [ -n "$WAIT" ]; then for i in $(seq 40000); do sleep 0.05; done; fi\nexit ${STATUS:-0}',
}


def cell(seed=0, cards=0, **changes) -> Cell:
    needs = Needs(cards=cards, cpus=changes.pop("cpus", 1))
    fields = {"detector": "clip_tiny", "protocol": "demo_cross", "folder": f"p/d/seed{seed}", "overrides": ()}
    return Cell(**fields | {"seed": seed, "needs": needs, "digest": f"{seed:016d}"} | changes)


@pytest.fixture
def slurm(tmp_path):
    """A folder with the programs, and the environment of a task of an array."""
    programs, notes = tmp_path / "programs", tmp_path / "notes"
    programs.mkdir()
    notes.mkdir()
    for name, text in PROGRAMS.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "NOTES": str(notes),
        "SLURM_JOB_ID": "77",
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1",
        "SLURM_LOCALID": "1",
    }


def run(script: Path, environment: dict, **variables) -> int:
    """The exit status of a script that SLURM started elsewhere, as it does."""
    variables = {"SLURM_SUBMIT_DIR": str(script.parent)} | variables
    done = subprocess.run(["bash", str(script)], env=environment | variables, cwd="/", capture_output=True, text=True)
    return done.returncode


def notes_of(environment: dict, name: str) -> list[str]:
    path = Path(environment["NOTES"], name)
    return path.read_text().splitlines() if path.exists() else []


def test_a_task_runs_the_cell_of_its_line_with_every_word_whole(tmp_path, slurm):
    odd = ("model.prompts=[\"a 'b' $HOME `id` \\ *\", c]", "run.note=x y;z")
    cells = [cell(0), cell(1, overrides=odd)]
    script, submit = write_arrays("demo", "A title\nof two lines", cells, tmp_path / "r uns", tmp_path / "j obs")
    assert run(script, slurm, SLURM_ARRAY_TASK_ID="2") == 0
    assert notes_of(slurm, "words") == cells[1].words("../r uns")
    assert "OMP_NUM_THREADS=1" in notes_of(slurm, "env")
    assert notes_of(slurm, "scontrol") == []
    assert subprocess.run(["bash", str(submit), "--partition=a b"], env=slurm, cwd="/").returncode == 0
    assert notes_of(slurm, "sbatch") == [str(tmp_path / "j obs"), "--partition=a b", "array-1.slurm"]


def test_the_whole_folder_can_be_moved(tmp_path, slurm):
    (tmp_path / "a").mkdir()
    own = cell(detector=str(tmp_path / "a" / "mine.yaml"), settings=(f"data.root={tmp_path / 'a' / 'runs' / 'data'}",))
    write_arrays("demo", "", [own], tmp_path / "a" / "runs", tmp_path / "a" / "jobs")
    moved = (tmp_path / "a").rename(tmp_path / "b")
    assert run(moved / "jobs" / "array-1.slurm", slurm) == 0
    assert {"--out=../runs", "--detector=../mine.yaml", "data.root=../runs/data"} <= {*notes_of(slurm, "words")}


@pytest.mark.parametrize(
    "status, requeues", [(0, False), (1, False), (2, False), (137, False), (75, True), (138, True), (143, True)]
)
def test_only_a_run_that_was_stopped_is_queued_again(status, requeues, tmp_path, slurm):
    script, _ = write_arrays("demo", "", [cell()], tmp_path / "runs", tmp_path / "jobs")
    assert run(script, slurm, STATUS=str(status)) == status
    assert notes_of(slurm, "scontrol") == (["requeue 77"] if requeues else [])


@pytest.mark.parametrize("name", ["TERM", "USR1"])
def test_a_stop_signal_reaches_the_run_and_the_job_is_queued_again(name, tmp_path, slurm):
    script, _ = write_arrays("demo", "", [cell()], tmp_path / "runs", tmp_path / "jobs")
    environment = slurm | {"WAIT": "1", "SLURM_SUBMIT_DIR": str(script.parent)}
    process = subprocess.Popen(["bash", str(script)], env=environment, cwd="/")
    try:
        wait_until(Path(slurm["NOTES"], "begun").exists)
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert process.wait(PATIENCE) == 75
    finally:
        process.kill()
        process.wait()
    assert notes_of(slurm, "signal") == [name]
    assert notes_of(slurm, "scontrol") == ["requeue 77"]


def test_a_run_of_several_cards_is_one_task_a_card(tmp_path, slurm):
    cells = [cell(0, cards=2, cpus=6, workers=2)]
    script, _ = write_arrays("demo", "", cells, tmp_path / "runs", tmp_path / "jobs")
    text = script.read_text()
    assert "--ntasks-per-node=2\n" in text and "--gpus-per-node=2\n" in text and "--cpus-per-task=3\n" in text
    assert run(script, slurm) == 0
    assert notes_of(slurm, "words") == cells[0].words("../runs")
    wanted = {"RANK=1", "LOCAL_RANK=1", "WORLD_SIZE=2", "MASTER_ADDR=node1", "MASTER_PORT=20077"}
    assert wanted <= {*notes_of(slurm, "env")}


def test_each_kind_of_needs_is_an_array_of_its_own_and_old_ones_go(tmp_path):
    cells = [cell(0, cards=1), cell(1), cell(2, cards=1)]
    *scripts, submit = write_arrays("a/b c", "", cells, tmp_path / "runs", tmp_path / "jobs")
    assert [script.name for script in scripts] == ["array-1.slurm", "array-2.slurm"]
    assert "#SBATCH --job-name=a_b_c\n#SBATCH --array=1-2\n" in scripts[0].read_text()
    assert len((tmp_path / "jobs" / "array-1.tsv").read_text().splitlines()) == 2
    assert "gpus" not in scripts[1].read_text()
    own = tmp_path / "jobs" / "array-of-mine.tsv"
    own.write_text("a user's")
    write_arrays("demo", "", cells[:1], tmp_path / "runs", tmp_path / "jobs")
    assert sorted(path.name for path in (tmp_path / "jobs").iterdir()) == [
        "array-1.slurm",
        "array-1.tsv",
        "array-of-mine.tsv",
        "logs",
        "submit.sh",
    ]
    assert submit.read_text().count("sbatch") == 2  # the comment's, and one array's


def test_a_task_without_a_line_or_a_list_says_so(tmp_path, slurm):
    script, _ = write_arrays("demo", "", [cell()], tmp_path / "runs", tmp_path / "jobs")
    assert run(script, slurm, SLURM_ARRAY_TASK_ID="5") == 2
    assert run(script, slurm, SLURM_SUBMIT_DIR=str(tmp_path)) == 2
    assert notes_of(slurm, "words") == []


def test_a_word_that_a_list_cannot_hold_is_refused(tmp_path):
    with pytest.raises(UserError, match="without tabs and line breaks"):
        write_arrays("demo", "", [cell(overrides=("model.a=x\ty",))], tmp_path / "runs", tmp_path / "jobs")


def test_the_directives_come_before_any_command(tmp_path):
    """sbatch reads no directive after the first command."""
    script, _ = write_arrays("demo", "", [cell(0, cards=1)], tmp_path / "runs", tmp_path / "jobs")
    lines = script.read_text().splitlines()
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert max(directives) < first and len(directives) == 11
    assert all(len(shlex.split(lines[number], comments=False)) >= 2 for number in directives)
