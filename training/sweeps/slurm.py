"""Job arrays of SLURM for the cells of a sweep: a script and a list of cells for each kind of needs.

Every path is relative to the folder of the scripts, so that it can be moved together with the runs.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from resproto_fd.configs.errors import UserError, shown
from resproto_fd.configs.files import make_folder, write_text
from resproto_fd.configs.sweep_schema import Needs
from resproto_fd.training.sweeps.cells import Cell

SEPARATOR = "\t"
_ARRAY = re.compile(r"array-[0-9]+\.(slurm|tsv)")
"""Files that this module made before."""
HEAD = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=1-{cells}
#SBATCH --nodes=1
#SBATCH --ntasks-per-node={tasks}{cards}
#SBATCH --cpus-per-task={cpus}
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@180        # to this script, three minutes before the time is up
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=logs/{stem}-%a.log

"""
BODY = """\
# {title}
# Cells of a sweep, one a task of the array. Start it in this folder: bash submit.sh [options of sbatch]

cd "${{SLURM_SUBMIT_DIR:-.}}" || exit 2
list={stem}.tsv
if [ ! -f "$list" ]; then
    echo "expected $list in $PWD; submit the script from its own folder" >&2
    exit 2
fi
IFS=$'\\t' read -r -a words < <(sed -n "${{SLURM_ARRAY_TASK_ID}}p" "$list")
if [ "${{#words[@]}}" -eq 0 ]; then
    echo "expected line $SLURM_ARRAY_TASK_ID in $PWD/$list" >&2
    exit 2
fi
{threads}
child=
early=
again=
pass_on() {{  # a stop signal: the run saves its state and ends with 75
    again=1
    if [ -n "$child" ]; then kill -s "$1" "$child" 2>/dev/null; else early=$1; fi
}}
trap 'pass_on TERM' TERM
trap 'pass_on USR1' USR1

{start} &
child=$!
[ -z "$early" ] || kill -s "$early" "$child" 2>/dev/null
status=0
while again=; wait "$child"; ended=$?; [ "$ended" -eq 127 ] || status=$ended; [ -n "$again" ]; do :; done

case $status in
    75 | 138 | 143)  # saved and stopped; 138 and 143: the signal came before the run had begun
        scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$status"
"""
ONE = 'srun --ntasks=1 resproto "${words[@]}"'
MEETING = """\
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_ADDR MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
"""
SEVERAL = """\
srun bash -c '
    export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID WORLD_SIZE=$SLURM_NTASKS
    exec resproto "$@"' run "${words[@]}"\
"""
SUBMIT = """\
#!/bin/bash
# Submits every array of this sweep; its words go to sbatch: bash submit.sh --partition=gpu --time=48:00:00
cd "$(dirname "${BASH_SOURCE[0]}")" || exit 2
"""


def write_arrays(name: str, title: str, cells: Sequence[Cell], runs: str | Path, folder: str | Path) -> list[Path]:
    """Writes a job array for each kind of needs, a list of its cells, and `submit.sh`.

    Args:
        name: The sweep's, for the jobs.
        title: The sweep's, for a comment.
        cells: Those to run.
        runs: The folder of runs.
        folder: Where the files go.

    Returns:
        The scripts of the arrays, then `submit.sh`.

    Raises:
        UserError: A word has a tab or a line break; or the folder cannot be written.
    """
    folder = Path(folder)
    kinds: dict[tuple[Needs, int], list[str]] = {}
    for cell in cells:
        line = SEPARATOR.join(_words(cell, runs, folder))
        kinds.setdefault((cell.needs, cell.threads), []).append(line)
    make_folder(folder / "logs")
    for old in folder.glob("array-*"):
        if _ARRAY.fullmatch(old.name):
            old.unlink()
    scripts = []
    for number, ((needs, threads), lines) in enumerate(kinds.items(), 1):
        stem = f"array-{number}"
        write_text(folder / f"{stem}.tsv", "".join(line + "\n" for line in lines))
        write_text(folder / f"{stem}.slurm", _script(name, title, stem, needs, threads, len(lines)))
        scripts.append(folder / f"{stem}.slurm")
    submit = "".join(f'sbatch "$@" {script.name} || exit\n' for script in scripts)
    write_text(folder / "submit.sh", SUBMIT + submit)
    return [*scripts, folder / "submit.sh"]


def _script(name: str, title: str, stem: str, needs: Needs, threads: int, cells: int) -> str:
    tasks = max(1, int(needs.cards))
    cards = f"\n#SBATCH --gpus-per-node={tasks}" if needs.cards else ""
    cpus = max(1, (needs.cpus or 1) // tasks)
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    limits = f"export {' '.join(f'{name}={threads}' for name in names)}\n"
    job = re.sub(r"[^A-Za-z0-9_.-]+", "_", name) or "sweep"
    head = HEAD.format(name=job, cells=cells, tasks=tasks, cards=cards, cpus=cpus, stem=stem)
    start, before = (SEVERAL, MEETING) if tasks > 1 else (ONE, "")
    return head + BODY.format(title=" ".join(title.split()), stem=stem, threads=limits + before, start=start)


def _words(cell: Cell, runs: str | Path, folder: Path) -> list[str]:
    """The words of a cell, with paths from the folder of the scripts."""
    words = [_placed(word, runs, folder) for word in cell.words(_from(runs, folder))]
    for word in words:
        if not word or set(word) & set("\t\n\r\0"):
            raise UserError(f"{cell.folder}: expected words without tabs and line breaks for a list, got {shown(word)}")
    return words


def _placed(word: str, runs: str | Path, folder: Path) -> str:
    """A word whose path of a YAML, or of data in the folder of runs, starts from the folder of the scripts."""
    key, _, value = word.partition("=")
    within = key.startswith("data.") and Path(value).is_relative_to(os.path.abspath(runs))
    if os.path.isabs(value) and (within or key in ("--detector", "--protocol")):
        return f"{key}={_from(value, folder)}"
    return word


def _from(path: str | Path, folder: Path) -> str:
    return os.path.relpath(os.path.abspath(path), os.path.abspath(folder))
