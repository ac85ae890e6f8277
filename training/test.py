"""`resproto test`, also `python training/test.py`: tests weights that exist already."""

import argparse
import sys
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.training.commands import arguments, submit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_shared(parser)
    parser.add_argument(
        "--run", metavar="DIR", dest="run_folder", help="a run's folder, for its configuration and best.pt"
    )
    parser.add_argument(
        "--weights_path",
        "--weights",
        metavar="FILE",
        help="weights: best.pt, a checkpoint, a .pth; a second file of one detector needs --task_target or --out",
    )
    parser.add_argument("--package", metavar="DIR", help="a package that `resproto export` made")
    parser.add_argument(
        "--callable",
        metavar="FILE.py:FUNCTION",
        help="test a function instead of a detector: from a list of RGB uint8 pictures to P(fake) of each, nan for no "
        "answer; it is imported and run",
    )
    submit.add_about(parser.add_argument_group("only with --callable"))


def run(args: argparse.Namespace) -> int:
    if args.callable:
        from resproto_fd.training.commands import callables

        return callables.run(args)
    if given := [f"--{word.replace('_', '-')}" for word in submit.ABOUT if getattr(args, word) not in (None, "")]:
        raise UserError(f"{', '.join(given)}: only with --callable")
    if args.package:
        config, weights = arguments.package_config(args)
        return _test(config, weights)
    weights = Path(args.weights_path) if args.weights_path else None
    config = arguments.saved_config(args) if args.run_folder else arguments.run_config(args)
    if args.run_folder and weights is None:
        weights = Path(args.run_folder) / "best.pt"
    return _test(config, weights)


def _test(config, weights: Path | None) -> int:
    from resproto_fd.training import run as runs
    from resproto_fd.training.settings import folder_of

    result = runs.test(config, weights)
    if result is not None:
        arguments.print_result(result, folder_of(config))
    return 0


if __name__ == "__main__":
    from resproto_fd.training.cli import main

    sys.exit(main(["test", *sys.argv[1:]]))
