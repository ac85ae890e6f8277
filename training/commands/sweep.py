"""`resproto sweep`: the runs of a table, planned, run on what machines there are, and taken up again.

The files are the state: typing the command again goes on where the files are, whatever ended it.
"""

import argparse
import importlib.util
import os
import sys
import time
from pathlib import Path

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import make_folder
from resproto_fd.configs.locks import SoleLock
from resproto_fd.configs.schema import DataConfig
from resproto_fd.configs.sweep_schema import Budget, SweepConfig
from resproto_fd.training.commands.arguments import add_out, add_trust

ENGINE = ("ray", "rich")
"""Libraries of the extra `cluster`: without them a sweep can be planned, but not run here."""
MADE = "demo_data"
"""Folder in the folder of runs for the demo's data, made where no data are named and no others are needed."""
PATHS = ("root", "json_dir", "lmdb_dir", "rgb_dir")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="SWEEP", help="a sweep's name (see: resproto list sweeps) or its YAML")
    add_out(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry-run", action="store_true", help="print the plan and what it costs; start nothing")
    what.add_argument(
        "--status",
        action="store_true",
        help="print what the files say; exit status 0 if all is done, 1 if some failed, 75 if some are to do",
    )
    what.add_argument(
        "--slurm", metavar="DIR", help="write job arrays of SLURM for what is to do into this folder; start nothing"
    )
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="a Ray cluster to run on, or auto (default: this machine alone)"
    )
    parser.add_argument("--ray-temp", metavar="DIR", help="folder for Ray's temporary files (default: Ray's own)")
    parser.add_argument("--hours", type=float, metavar="H", help="begin no run after so many hours")
    parser.add_argument("--runs", type=int, metavar="N", help="begin at most so many runs")
    parser.add_argument("--retry-failed", action="store_true", help="run the cells again that failed before")
    add_trust(parser)
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="settings of every run (data.root=FOLDER, ...)"
    )


def run(args: argparse.Namespace) -> int:
    from resproto_fd.training.sweeps.cells import cells_of
    from resproto_fd.training.sweeps.plan import plan_of, text_of

    path, config, runs = loading.find("sweeps", args.file), loading.load("sweeps", args.file), Path(args.out)
    if runs.exists() and not runs.is_dir():
        raise UserError(f"--out {runs}: expected a folder of runs, got a file; set another --out")
    config = _with_budget(config, args)
    data, words = _machine_words(args.settings, runs)
    plan = plan_of(config, cells_of(config, path.parent, words, args.trust_code), runs, data)
    print(text_of(plan, runs, _at_work(plan, runs)), flush=True)
    if args.status:
        return plan.status()
    if args.dry_run:
        return 0
    if not args.slurm:
        _need_engine()
    if lacking := _lacking(plan, data, runs):
        text = f"{lacking}\nset data.root=FOLDER or RESPROTO_DATA to where they are"
        if not args.slurm:
            raise UserError(text)
        print(f"note: on this machine: {text}", file=sys.stderr)
    if args.slurm:
        return _write_arrays(plan, runs, args.slurm, args.retry_failed)
    from resproto_fd.training.sweeps.run import run_sweep

    cells = [row.cell for row in plan.rows]
    more = {"temporary": args.ray_temp, "retry": args.retry_failed, "seconds_of": plan.seconds_of}
    return run_sweep(config, cells, runs, args.address, **more)


def _with_budget(config: SweepConfig, args: argparse.Namespace) -> SweepConfig:
    """The sweep with the command line's budget laid over its own."""
    given = {name: getattr(args, name) for name in ("hours", "runs") if getattr(args, name) is not None}
    budget = loading.validated(Budget, config.budget.model_dump() | given, "command line", "--")
    return config.model_copy(update={"budget": budget})


def _machine_words(settings: list[str], runs: Path) -> tuple[DataConfig, list[str]]:
    """Where the data are, and the command line's words with whole paths, which mean the same in every process.

    Without a folder of data, that of the made data in the folder of runs is taken.
    """
    data_words = [word for word in settings if word.partition("=")[0].split(".")[0] == "data"]
    data = loading.data_settings(data_words, "sweep")
    others = [word for word in settings if word not in data_words]
    changes = {name: os.path.abspath(value) for name in PATHS if (value := getattr(data, name)) is not None}
    if not changes:
        changes["root"] = os.path.abspath(os.environ.get("RESPROTO_DATA") or runs / MADE)
    data = data.model_copy(update=changes)
    given = data.model_dump(exclude_defaults=True)
    return data, [*others, *(loading.as_word(f"data.{name}", value) for name, value in given.items())]


def _at_work(plan, runs: Path) -> list[str]:
    """Digests of the cells that living sweeps have; one on another machine counts as living."""
    from resproto_fd.training.sweeps.cells import SIDE
    from resproto_fd.training.sweeps.claims import Claims

    claims = Claims(runs / SIDE / "claims")
    waiting = [row.cell.digest for row in plan.rows if row.state in ("to do", "broken")]
    return [digest for digest in waiting if claims.owner_of(digest)] if claims.folder.is_dir() else []


def _need_engine() -> None:
    """Refuses to start without the engine's libraries.

    Raises:
        UserError: One is not installed.
    """
    if absent := [name for name in ENGINE if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"expected {' and '.join(absent)} installed; pip install 'resproto-fd[cluster]'. The plan, --status and "
            "--slurm work without"
        )


def _lacking(plan, data: DataConfig, runs: Path) -> str:
    """The data of cells to run that are absent here, "" if none are; made data are made."""
    from resproto_fd.training.sweeps.plan import missing_data

    cells = [row.cell for row in plan.rows if row.state != "done"]
    if not cells:
        return ""
    if data.root == os.path.abspath(runs / MADE):
        _make_data(cells, Path(data.root))
    return "\n".join(missing_data(cells, data))


def _make_data(cells: list, folder: Path) -> None:
    """Makes the demo's data sets, if the cells need no others. Another sweep that makes them is waited for."""
    from resproto_fd.preprocessing.demo.data import make_demo
    from resproto_fd.training.sweeps.plan import datasets_of

    names = datasets_of(cells)
    if not all(name in loading.names("datasets") and loading.load("datasets", name).made for name in names):
        raise UserError("neither data.root is given nor RESPROTO_DATA is set: name the folder of the data sets")
    lock = SoleLock(make_folder(folder) / ".lock")
    while not lock.acquire():
        time.sleep(1.0)
    try:
        make_demo(folder)
    finally:
        lock.release()


def _write_arrays(plan, runs: Path, folder: str, retry: bool) -> int:
    """Writes SLURM's job arrays for what is to do, and with `retry` for what failed."""
    from resproto_fd.training.sweeps.slurm import write_arrays

    states = ("to do", "broken", "failed") if retry else ("to do", "broken")
    cells = [row.cell for row in plan.rows if row.state in states]
    if not cells:
        print("nothing is to do: no array is written")
        return 0
    for script in write_arrays(plan.config.name, plan.config.title, cells, runs, folder):
        print(script)
    return 0
