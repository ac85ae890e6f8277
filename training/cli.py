"""The command `resproto`. It starts fast: a command's module is imported when it is given, torch when it runs."""

import argparse
import importlib
import io
import os
import sys

from resproto_fd.configs import stop_signals
from resproto_fd.configs.errors import Interrupted, UserError
from resproto_fd.configs.files import DISK_FULL
from resproto_fd.configs.stop_signals import EXIT_INTERRUPTED

COMMANDS = {
    "demo": (
        "training.commands.demo",
        "make demo data, train and test the demo detectors, build the leaderboard",
    ),
    "list": ("training.commands.listing", "list detectors, data sets, protocols, sweeps, forgery methods and settings"),
    "train": ("training.train", "train a detector under a protocol and test it"),
    "sweep": ("training.commands.sweep", "train many detectors, seeds and protocols: one command for a table"),
    "test": ("training.test", "test a run's or other weights under a protocol"),
    "predict": ("training.commands.predict", "tell real from fake in your own pictures and videos, by runs"),
    "serve": ("training.commands.serve", "answer the same on a page of this machine, where files are dropped"),
    "calibrate": (
        "training.commands.calibrate",
        "fit what a run's scores mean, on the split that its checkpoint was selected on",
    ),
    "evaluate": (
        "training.commands.evaluate",
        "evaluate stored scores: intervals, comparisons, DeepfakeBench's metrics",
    ),
    "ablate": ("training.commands.ablate", "try other ways of scoring on a run's stored scores and features"),
    "figures": ("training.commands.figures", "draw a run's heatmaps, and write the matrices that papers show"),
    "leaderboard": ("training.commands.leaderboard", "build the leaderboard from the result files of runs"),
    "explain": ("training.commands.explain", "show why a run's detector gives its scores: maps and prototypes"),
    "export": (
        "training.commands.export",
        "make a package of a run: weights, configuration, results, model card, graphs",
    ),
    "submit": ("training.commands.submit", "make a result from scores that another program computed"),
    "control": (
        "training.commands.control",
        "train and test a classifier that sees only facts of the files",
    ),
    "faces": ("preprocessing.faces.extract", "cut aligned face crops out of videos and pictures"),
    "manifest": ("preprocessing.manifest_command", "write a data set's manifest from its tree of frames"),
    "pack": ("preprocessing.store.pack", "put a manifest's frames into one LMDB, and verify it"),
    "check": (
        "preprocessing.audit.check",
        "look for faults in manifests and their frames, such as people on both sides of a split",
    ),
}
"""Command -> (module with `add_arguments(parser)` and `run(args)`, what the command does)."""

EXIT_USER_ERROR = 2
LONGEST_MESSAGE = 20_000


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns its exit status: 0 done, 2 an error the user can mend, 75 stopped and resumable."""
    _open_closed_streams()
    _leave_current_folder()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a locale without a letter is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    with stop_signals.ending_at_once("resproto", at_end=argv is None):
        return _main(list(sys.argv[1:] if argv is None else argv))


def _main(argv: list[str]) -> int:
    try:
        try:
            return _run(_parsed(argv))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:
        _discard(sys.stdout)
        return 141
    except OSError as error:
        return _of_system(error)


def _open_closed_streams() -> None:
    """Opens the null device in the place of a standard stream that was closed before this process began (`2>&-`).

    Else the first file that is opened gets the number of that stream, and what libraries write there gets into the
    file. Python has None for such a stream, which progress bars do not take.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest number that is free: this one
        else:
            if number and not _is_writable(number):  # `1</dev/null`
                os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8", errors="backslashreplace"))  # noqa: SIM115


def _is_writable(number: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    return fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


def _leave_current_folder() -> None:
    """Keeps what lies in the current folder from being imported, also by the processes that multiprocessing starts.

    They run `python -c`, which has that folder first on its path before our code runs in them; so has `python -m`.
    """
    started = getattr(sys.modules["__main__"], "__spec__", None)  # of `python -m`
    is_ours = started is not None and started.name.startswith("resproto_fd.")
    if is_ours and not getattr(sys.flags, "safe_path", False) and sys.path[0] == os.getcwd():
        del sys.path[0]
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    if sys.version_info < (3, 11):  # has no safe path; such processes get this one's path and need no other
        from multiprocessing import util

        util._args_from_interpreter_flags = lambda: ["-I"]


def _parsed(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="resproto",
        description="Trains and tests face-forgery detectors on the same frames, and builds a leaderboard.",
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    chosen = next((word for word in argv if not word.startswith("-")), None)
    parsers = {}
    for name, (module, text) in COMMANDS.items():
        parsers[name] = sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if name == chosen:
            implementation = importlib.import_module(f"resproto_fd.{module}")
            implementation.add_arguments(sub)
            sub.set_defaults(run=implementation.run)
    args, rest = parser.parse_known_args(argv)
    if rest and hasattr(args, "settings"):  # argparse takes key=value words only if they stand together
        args.settings += [word for word in rest if "=" in word and not word.startswith("-")]
        rest = [word for word in rest if word not in args.settings]
    if rest:
        hint = "; settings are words like train.epochs=3" if hasattr(args, "settings") else ""
        parsers.get(args.command, parser).error(f"unrecognized arguments: {' '.join(rest)}{hint}")
    if args.command is None and not args.version:
        print(parser.format_help(), end="")  # argparse hides errors of the output
    return args


def _run(args: argparse.Namespace) -> int:
    if args.version:
        from importlib.metadata import version

        print(version("resproto-fd"))
        return 0
    if args.command is None:
        return 0
    try:
        return args.run(args) or 0
    except UserError as error:
        print(f"resproto {args.command}: error: {_bounded(str(error))}", file=sys.stderr)
        return EXIT_USER_ERROR
    except UnicodeEncodeError as error:
        text = f"{error.object!a}: the locale of this shell has no such letters; set LC_ALL=C.UTF-8 or PYTHONUTF8=1"
        print(f"resproto {args.command}: error: {_bounded(text)}", file=sys.stderr)
        return EXIT_USER_ERROR
    except MemoryError:
        text = "not enough memory; leave more to this command, or give it less"
        print(f"resproto {args.command}: error: {text}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Interrupted as stop:
        print(f"resproto {args.command}: {stop}; run the same command to go on from there", file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt as stop:
        saved = f"; {stop}; run the same command to go on from there" if stop.args else ""
        print(f"resproto {args.command}: interrupted{saved}", file=sys.stderr)
        return stop_signals.EXIT_CTRL_C


def _of_system(error: OSError) -> int:
    """Tells that the system refused to read or write; an error that names no file is that of the output.

    Raises:
        OSError: It is neither.
    """
    if error.filename is None and error.errno not in DISK_FULL:
        raise error
    where = "stdout, stderr or a temporary file" if error.filename is None else os.fsdecode(error.filename)
    remedy = (
        "free some space" if error.errno in DISK_FULL else "check that it exists and that you may read and write it"
    )
    try:
        print(f"resproto: error: {where}: {error.strerror}; {remedy}", file=sys.stderr)
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)
    if error.filename is None:
        _discard(sys.stdout)
    return EXIT_USER_ERROR


def _discard(stream) -> None:
    """Sends what is left in a stream nowhere: Python writes it once more at its end."""
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _bounded(message: str) -> str:
    if len(message) <= LONGEST_MESSAGE:
        return message
    return f"{message[: LONGEST_MESSAGE - 1000]} ... {message[-900:]}"


if __name__ == "__main__":
    sys.exit(main())
