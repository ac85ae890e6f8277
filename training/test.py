"""`resproto test`, also `python training/test.py`: tests weights that exist already."""

import argparse
import sys
from pathlib import Path

from resproto_fd.training.commands import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_shared(parser)
    parser.add_argument(
        "--run", metavar="DIR", dest="run_folder", help="a run's folder, for its configuration and best.pt"
    )
    parser.add_argument("--weights_path", "--weights", metavar="FILE", help="weights: best.pt, a checkpoint, a .pth")


def run(args: argparse.Namespace) -> int:
    weights = Path(args.weights_path) if args.weights_path else None
    config = arguments.saved_config(args) if args.run_folder else arguments.run_config(args)
    if args.run_folder and weights is None:
        weights = Path(args.run_folder) / "best.pt"
    from resproto_fd.training import run as runs
    from resproto_fd.training.settings import folder_of

    result = runs.test(config, weights)
    if result is not None:
        arguments.print_result(result, folder_of(config))
    return 0


if __name__ == "__main__":
    from resproto_fd.training.cli import main

    sys.exit(main(["test", *sys.argv[1:]]))
