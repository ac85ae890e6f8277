"""`resproto calibrate`: what a run's scores mean, fitted on the split that its checkpoint was selected on."""

import argparse
import sys
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.training.commands.arguments import add_device, add_trust


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folders", nargs="+", metavar="RUN", help="run folders")
    add_device(parser)
    add_trust(parser)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="where the data lie now (data.root=DATA)")


def run(args: argparse.Namespace) -> int:
    from resproto_fd.configs import loading
    from resproto_fd.training.answers.calibrating import calibrate
    from resproto_fd.training.answers.judges import read_config
    from resproto_fd.training.calibration import FILE

    words = [*args.settings, *(word for word in args.run_folders if "=" in word and not Path(word).exists())]
    folders = [Path(word) for word in args.run_folders if word not in words]
    if not folders:
        raise UserError("expected the folder of a run, got settings alone")
    changes = loading.parse_overrides(words)
    if wrong := sorted(set(changes) - {"data", "run", "protocol"}):
        raise UserError(
            f"{', '.join(wrong)}: expected data.*, run.* or protocol.selection.*; a run's detector is fixed"
        )
    failed = 0
    for folder in folders:
        try:
            saved = read_config(folder, args.trust_code)
            config = loading.with_changes(saved.model_dump(by_alias=True), changes) if changes else saved
            config = config.model_copy(update={"detector": saved.detector})
            made = calibrate(config, folder, args.device)
        except UserError as error:
            if len(folders) == 1:
                raise
            failed += 1
            print(f"left out: {error}", file=sys.stderr)
            continue
        print(f"{folder / FILE}: fitted on {made.dataset} {made.split}")
        print(summary(made))
    return int(bool(failed))


def summary(made) -> str:
    """A calibration as a table: errors before and after, and thresholds."""
    lines = [f"{'':24}{'before':>16}{'temperature':>16}{'platt':>16}{'isotonic':>16}"]
    for level, given in made.levels.items():
        rows = {f"{made.dataset} {made.split}, held out": {"before": given.before, **given.held_out}, **given.tests}
        for name, found in rows.items():
            cells = [found.get(kind) for kind in ("before", "temperature", "platt", "isotonic")]
            shown = [f"{'' if cell is None else f'{cell.ece:.3f} / {cell.brier:.3f}':>16}" for cell in cells]
            lines.append(f"{f'{name}, {level}s':<24}{''.join(shown)}")
    lines.append("(calibration error, ECE / Brier score)")
    for level, given in made.levels.items():
        for rate, threshold in given.thresholds.items():
            low, high = threshold.false_alarms.low, threshold.false_alarms.high
            limits = "" if low is None else f" ({low:.1%} to {high:.1%})"
            lines.append(
                f"{level}s, {float(rate):.0%} false alarms: fake from {threshold.threshold:.4f}; here "
                f"{threshold.false_alarms.value:.1%}{limits}, misses {threshold.misses.value:.1%}"
            )
    return "\n".join(lines)
