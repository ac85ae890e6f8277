"""`resproto demo`: from nothing to a leaderboard, on data made by code.

The data show that the path works. They say nothing about performance on real forgeries.
"""

import argparse
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import DataConfig
from resproto_fd.detectors.registry import check_model

PROTOCOL = "demo_cross"
DETECTORS = ["resproto_fd_tiny", "clip_tiny", "resnet_tiny", "clip_zero_shot_tiny"]
FURTHER = [
    (PROTOCOL, "mfclip_tiny"),
    (PROTOCOL, "gm_df_tiny"),
    (PROTOCOL, "sd2_tiny"),
    ("demo_multi", "gm_df_tiny"),
    ("demo_multi", "sd2_tiny"),
]
"""What --all adds: the other papers' methods, two of them also on two training sets."""
CONTROLS = ["chance", "clip_probe_tiny", "border_tiny"]
"""What --controls adds; the statistics of the files come with them."""
_EPOCH = re.compile(r"epoch (\d+)/\d+: (.*)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", default=".", metavar="DIR", help="where demo_data/, runs/ and leaderboard/ go (default: here)"
    )
    parser.add_argument(
        "--detectors", nargs="+", default=DETECTORS, metavar="NAME", help="which (default: %(default)s)"
    )
    parser.add_argument("--all", action="store_true", help="also MFCLIP, GM-DF and SD2 (some minutes more)")
    parser.add_argument("--controls", action="store_true", help="also the controls that a table should carry")
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[0], metavar="N", help="seeds; one run for each (default: 0)"
    )
    parser.add_argument("--jobs", type=int, help="runs at a time, each on one thread (default: one for each core)")
    parser.add_argument("--size", choices=["default", "tiny"], default="default", help="tiny: a short trial")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of every run (train.epochs=2, ...)")


def run(args: argparse.Namespace) -> int:
    # argparse takes settings that follow the names for names.
    settings = [*args.settings, *(word for word in args.detectors if "=" in word)]
    detectors = [word for word in args.detectors if "=" not in word]
    wanted = [(PROTOCOL, name) for name in detectors]
    wanted += [(PROTOCOL, name) for name in CONTROLS if args.controls and name not in detectors]
    wanted += [run for run in FURTHER if args.all and run not in wanted]
    epochs = sum(_epochs(protocol, name, settings) for protocol, name in wanted) * len(args.seeds)
    out = Path(args.out)
    data = out / "demo_data"
    jobs = args.jobs or os.cpu_count() or 1

    from resproto_fd.preprocessing.demo.data import make_demo

    make_demo(data, size=args.size, workers=jobs)
    runs = [(protocol, name, seed) for seed in args.seeds for protocol, name in wanted]
    from tqdm import tqdm

    with tqdm(total=epochs, desc="training", unit="epoch") as bar, ThreadPoolExecutor(jobs) as pool:
        logs = list(pool.map(lambda run: _one(*run, data, out, settings, bar), runs))
    failed = [(run, log) for run, (status, log) in zip(runs, logs, strict=True) if status]
    if failed:
        (protocol, name, seed), log = failed[0]
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed; {name} ({protocol}, seed {seed}) said:\n{log.strip()}"
        )
    for _, log in logs:
        print(log[log.rfind("\n", 0, log.find("test set")) + 1 :] if "test set" in log else log)

    if args.controls:
        from resproto_fd.training.commands.control import fit_trees

        remedy = "remove the folder, or set another --out"
        print(fit_trees(PROTOCOL, DataConfig(root=str(data)), out / "runs", remedy=remedy))

    from resproto_fd.training.board.building import build

    folders = [out / "runs" / protocol for protocol in dict.fromkeys(protocol for protocol, _ in wanted)]
    summary = build(folders, out / "leaderboard")
    for problem in summary.problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(f"leaderboard: {summary.page}  (made data: it says nothing about performance on real forgeries)")
    return 0


def _epochs(protocol: str, name: str, settings: list[str]) -> int:
    """The epochs of one run; wrong names and settings are refused here, before anything is made."""
    changes = loading.parse_overrides(settings)
    detector = loading.resolve(name, protocol, changes).detector
    if "model" in changes:
        check_model(detector)
    return detector.train.epochs


def _one(protocol: str, name: str, seed: int, data: Path, out: Path, settings: list[str], bar) -> tuple[int, str]:
    """One run in its own process, on one thread, so that its bits do not depend on the machine's cores."""
    own = [f"data.root={data}", f"run.out={out / 'runs'}", "run.progress=false", "run.workers=0", "run.device=cpu"]
    command = [sys.executable, "-m", "resproto_fd.training.cli", "train", "--detector", name, "--protocol", protocol]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [*command, "--seed", str(seed), *own, *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if match := _EPOCH.search(line):
            bar.update()
            bar.set_postfix_str(f"{name}, {protocol} {match[2].strip()[:60]}", refresh=False)
    return process.wait(), "".join(lines)
