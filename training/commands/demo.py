"""`resproto demo`: from nothing to a leaderboard, on data made by code.

The data show that the path works. They say nothing about performance on real forgeries.
"""

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from resproto_fd.configs import loading
from resproto_fd.configs.argument_types import at_once, seed_type
from resproto_fd.configs.errors import Interrupted, UserError
from resproto_fd.configs.locks import held
from resproto_fd.configs.schema import DataConfig
from resproto_fd.configs.stop_signals import on_stop_signal
from resproto_fd.detectors.registry import check_model
from resproto_fd.training.child_process import Children
from resproto_fd.training.commands.arguments import add_trust, with_trust

PROTOCOL = "demo_cross"
DETECTORS = ["resproto_fd_tiny", "clip_tiny", "resnet_tiny", "clip_zero_shot_tiny"]
FURTHER = [
    (PROTOCOL, "mfclip_tiny"),
    (PROTOCOL, "gm_df_tiny"),
    (PROTOCOL, "sd2_tiny"),
    (PROTOCOL, "i3d_tiny"),
    (PROTOCOL, "stil_tiny"),
    ("demo_multi", "gm_df_tiny"),
    ("demo_multi", "sd2_tiny"),
]
"""What --all adds: other papers' methods, two of them of clips, and two also on two training sets."""
CONTROLS = ["chance", "clip_probe_tiny", "border_tiny"]
"""What --controls adds; the statistics of the files come with them."""
_EPOCH = re.compile(r"epoch (\d+)/\d+: (.*)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", default=".", metavar="DIR", help="where demo_data/, runs/ and leaderboard/ go (default: here)"
    )
    parser.add_argument(
        "--detectors",
        nargs="+",
        default=DETECTORS,
        metavar="NAME",
        help=f"detectors to run (default: {' '.join(DETECTORS)})",
    )
    parser.add_argument("--all", action="store_true", help="run MFCLIP, GM-DF, SD2, I3D, STIL too (some minutes more)")
    parser.add_argument("--controls", action="store_true", help="run the controls too")
    parser.add_argument(
        "--seeds", nargs="+", type=seed_type(), default=[0], metavar="N", help="seeds; one run for each (default: 0)"
    )
    parser.add_argument(
        "--jobs", type=at_once, help="number of runs at the same time, each on one thread (default: one for each core)"
    )
    parser.add_argument(
        "--size", choices=["default", "tiny"], default="default", help="size of the data; tiny is for a short trial"
    )
    add_trust(parser)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings of every run (train.epochs=2, ...)")


def run(args: argparse.Namespace) -> int:
    # argparse takes settings that follow the names for names.
    settings = [*args.settings, *(word for word in args.detectors if "=" in word)]
    detectors = [word for word in args.detectors if "=" not in word]
    wanted = [(PROTOCOL, name) for name in detectors]
    wanted += [(PROTOCOL, name) for name in CONTROLS if args.controls and name not in detectors]
    wanted += [run for run in FURTHER if args.all and run not in wanted]
    _refuse_own(settings)
    epochs = sum(_epochs(protocol, name, settings, args.trust_code) for protocol, name in wanted) * len(args.seeds)
    out = Path(args.out)
    data = out / "demo_data"
    taken = f"{out}: another demo is at work in this folder; wait for it, or set another --out"
    with held(data / ".lock", taken), on_stop_signal(_interrupt):
        return _make(args, wanted, settings, epochs, data)


def _make(args: argparse.Namespace, wanted: list[tuple[str, str]], settings: list[str], epochs: int, data: Path) -> int:
    """Makes the data, the runs of the wanted (protocol, detector), and the leaderboard; prints what they are."""
    from resproto_fd.preprocessing.demo.data import make_demo

    out, jobs = Path(args.out), args.jobs or os.cpu_count() or 1
    make_demo(data, size=args.size, workers=jobs)
    runs = [(protocol, name, seed) for seed in args.seeds for protocol, name in wanted]
    own = [f"data.root={data}", f"run.out={out / 'runs'}", "run.progress=false", "run.workers=0", "run.device=cpu"]
    settings = loading.in_one_line([*own, *settings])
    logs = _run_all(runs, [*settings, *(["--trust-code"] if args.trust_code else [])], jobs, epochs)
    failed = [(run, log) for run, (status, log) in zip(runs, logs, strict=True) if status]
    if failed:
        (protocol, name, seed), log = failed[0]
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed; {name} ({protocol}, seed {seed}) printed:\n{log.strip()}"
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


def _refuse_own(settings: list[str]) -> None:
    """Refuses settings that the demo makes itself."""
    changes = loading.parse_overrides(settings)
    run = changes.get("run")
    for key, given, flag in (("seed", changes, "--seeds"), ("out", run if isinstance(run, dict) else {}, "--out")):
        if key in given:
            raise UserError(f"command line: expected no setting {'' if given is changes else 'run.'}{key}=; set {flag}")


def _interrupt(number: int, frame) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise Interrupted("stopped by a signal")


def _epochs(protocol: str, name: str, settings: list[str], trusted: bool) -> int:
    """The epochs of one run; wrong names and settings are refused here, before anything is made."""
    changes = loading.parse_overrides(settings)
    detector = with_trust(loading.resolve(name, protocol, changes), trusted, changes).detector
    if "model" in changes:
        check_model(detector)
    return detector.train.epochs


def _run_all(runs: Sequence[tuple], settings: Sequence[str], jobs: int, epochs: int) -> list[tuple[int, str]]:
    """Does each run, (protocol, detector, seed), in its own process: its exit status and what it printed.

    A run has one thread, so that its bits do not depend on the machine's cores. If this process ends, so do the runs.
    """
    from tqdm import tqdm

    children, pool = Children(), ThreadPoolExecutor(jobs)

    def one(run: tuple) -> tuple[int, str]:
        protocol, name, seed = run
        words = ["train", "--detector", name, "--protocol", protocol, "--seed", str(seed), *settings]
        with children.started(words) as process:
            lines = []
            for line in process.stdout:
                lines.append(line)
                if match := _EPOCH.search(line):
                    bar.update()
                    bar.set_postfix_str(f"{name}, {protocol} {match[2].strip()[:60]}", refresh=False)
            return process.wait(), "".join(lines)

    with tqdm(total=epochs, desc="training", unit="epoch") as bar:
        try:
            return list(pool.map(one, runs))
        finally:
            children.stop()
            pool.shutdown(cancel_futures=True)
