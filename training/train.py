"""`resproto train`, also `python training/train.py` and `torchrun ... training/train.py`."""

import argparse
import sys
from contextlib import suppress
from pathlib import Path

from resproto_fd.configs.errors import Interrupted, UserError, cut
from resproto_fd.configs.schema import RunConfig
from resproto_fd.training.commands import arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_shared(parser)
    parser.add_argument(
        "--no-save_ckpt", dest="save_ckpt", action="store_false", help="keep no checkpoints (the run cannot be resumed)"
    )
    parser.add_argument("--save_ckpt", action="store_true", default=True, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    config = arguments.run_config(args)
    if not args.save_ckpt:
        config.run.save_checkpoints = False
    from resproto_fd.training import run as runs
    from resproto_fd.training.settings import folder_of

    result = runs.train(config)
    if result is not None:
        arguments.print_result(result, folder_of(config))
        _calibrate(config, result.folder)
    return 0


def _calibrate(config: RunConfig, folder: Path) -> None:
    """Fits what the scores mean, which `predict` needs; whatever is wrong with that is no fault of the training."""
    from resproto_fd.configs.files import write_text
    from resproto_fd.training.answers.calibrating import calibrate
    from resproto_fd.training.answers.judges import read_config
    from resproto_fd.training.calibration import FAILED, is_due

    if not is_due(config.protocol.selection.rule):
        return
    try:
        if (folder / "config.yaml").is_file():  # it has the keywords that the run's data filled
            filled = config.detector.model_copy(update={"model": read_config(folder).detector.model})
            config = config.model_copy(update={"detector": filled})
        calibrate(config, folder, config.run.device)
    except Interrupted:
        raise
    except Exception as error:
        told = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {cut(str(error))}"
        print(f"note: the run is not calibrated: {told}; try again: resproto calibrate {folder}", file=sys.stderr)
        with suppress(OSError, UserError):
            write_text(folder / FAILED, f"{told}\n")


if __name__ == "__main__":
    from resproto_fd.training.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
