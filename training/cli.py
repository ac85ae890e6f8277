"""The command `resproto`. It starts fast: a command's module is imported when it is given, torch when it runs."""

import argparse
import importlib
import os
import sys

from resproto_fd.configs.errors import Interrupted, UserError

COMMANDS = {
    "demo": (
        "training.commands.demo",
        "make demo data, train and test the demo detectors, build the leaderboard",
    ),
    "list": ("training.commands.listing", "list detectors, data sets and protocols"),
    "train": ("training.train", "train a detector under a protocol and test it"),
    "test": ("training.test", "test a run's or other weights under a protocol"),
    "evaluate": (
        "training.commands.evaluate",
        "evaluate stored scores: intervals, comparisons, DeepfakeBench's metrics",
    ),
    "ablate": ("training.commands.ablate", "try other ways of scoring on a run's stored scores and features"),
    "leaderboard": ("training.commands.leaderboard", "build the leaderboard from the result files of runs"),
    "submit": ("training.commands.submit", "make a result of scores that another program computed"),
    "control": (
        "training.commands.control",
        "train and test a classifier that sees only facts of the files",
    ),
    "faces": ("preprocessing.faces.extract", "cut aligned face crops out of videos and pictures"),
    "manifest": ("preprocessing.manifest_command", "write a data set's manifest from its tree of frames"),
    "pack": ("preprocessing.store.pack", "put a manifest's frames into one LMDB, and verify it"),
    "check": ("preprocessing.audit.check", "audit manifests and their frames, as a reviewer would"),
}
"""Command -> (module with `add_arguments(parser)` and `run(args)`, what the command does)."""

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 75
"""EX_TEMPFAIL of sysexits.h: run the same command again."""


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns its exit status: 0 done, 2 an error the user can mend, 75 stopped and resumable."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="resproto", description="Fair, fast, believable benchmarking of face-forgery detectors."
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    chosen = next((word for word in argv if not word.startswith("-")), None)
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == chosen:
            implementation = importlib.import_module(f"resproto_fd.{module}")
            implementation.add_arguments(sub)
            sub.set_defaults(run=implementation.run)
    args, rest = parser.parse_known_args(argv)
    if rest and hasattr(args, "settings"):  # argparse takes key=value words only where they stand together
        args.settings += [word for word in rest if "=" in word and not word.startswith("-")]
        rest = [word for word in rest if word not in args.settings]
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if args.version:
        from importlib.metadata import version

        print(version("resproto-fd"))
        return 0
    if args.command is None:
        parser.print_help()
        return 0
    try:
        return args.run(args) or 0
    except UserError as error:
        print(f"resproto {args.command}: error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Interrupted as stop:
        print(f"resproto {args.command}: {stop}; run the same command to go on from there", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        print(f"resproto {args.command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


if __name__ == "__main__":
    sys.exit(main())
