"""`resproto predict`: real, fake, unsure or no face, for anybody's pictures and videos."""

import argparse
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.readers.text import GIB, MIB, decoded, read_text
from resproto_fd.preprocessing.picture_kinds import HEAD, kind_of
from resproto_fd.training.commands.arguments import add_device, add_trust

LARGEST_LIST, LARGEST_INPUT = 64 * MIB, 4 * GIB
STANDARD_INPUT = "-"
RULES = ("frames", "cropped", "size", "min_face", "min_side", "false_alarms", "calibration", "prior", "copies")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="pictures, videos and folders; @LIST is a file of names, one a line; - is the standard input: a picture "
        "or video, or a list of names",
    )
    parser.add_argument(
        "--run",
        dest="runs",
        action="append",
        metavar="RUN",
        required=True,
        help="a run's folder; several give opinions",
    )
    parser.add_argument("--list", dest="lists", action="append", default=[], metavar="LIST", help="same as @LIST")
    parser.add_argument(
        "--out", metavar="DIR", help="write answers.jsonl, answers.csv and report.html into this folder"
    )
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of text")
    add_rules(parser)
    parser.add_argument(
        "--pictures",
        choices=["separate", "sequence"],
        default="separate",
        help="separate: each picture by itself; sequence: a folder's pictures as one video (default: %(default)s)",
    )
    parser.add_argument(
        "--processes", type=int, help="processes that look for faces; 0 uses none (default: one a core)"
    )
    add_device(parser)
    parser.add_argument(
        "--seconds", type=float, default=600.0, help="most seconds to look for faces in a file (default: %(default)s)"
    )
    parser.add_argument("--quiet", "--no-progress", action="store_true", help="show no progress bar")
    add_trust(parser)


def add_rules(parser: argparse.ArgumentParser) -> None:
    """Adds what answers depend on: the arguments of `RULES`."""
    parser.add_argument(
        "--frames",
        type=int,
        default=32,
        metavar="N",
        help="frames of a video, evenly spaced; a run of clips takes as many clips as they fill, or input.clips "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--cropped", action="store_true", help="every picture is an already cropped face: look for none"
    )
    parser.add_argument(
        "--size",
        type=int,
        metavar="N",
        help="side of crops in pixels (default: that of the frames the run knows, or 256)",
    )
    parser.add_argument(
        "--min-face", type=int, default=40, metavar="N", help="smallest face to find, in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--min-side",
        type=int,
        default=64,
        metavar="N",
        help="narrower faces are unsure, in pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--false-alarms",
        type=float,
        default=0.05,
        metavar="RATE",
        help="share of false alarms to ask for on the selection split: 0.01, 0.05 or 0.1 (default: %(default)s)",
    )
    parser.add_argument(
        "--calibration",
        default="temperature",
        metavar="KIND",
        help="temperature, platt, isotonic or none (default: %(default)s)",
    )
    parser.add_argument(
        "--prior", type=float, metavar="SHARE", help="share of fakes you expect (default: that of the selection split)"
    )
    parser.add_argument(
        "--no-copies",
        dest="copies",
        action="store_false",
        help="score no resized and re-saved copies (a third of the time)",
    )


def run(args: argparse.Namespace) -> int:
    """Runs `resproto predict`; returns the exit status: 0 all files read, 1 some were not."""
    from resproto_fd.training.answers.records import Settings

    settings = Settings(
        **{name: getattr(args, name) for name in (*RULES, "pictures", "processes", "device", "seconds")},
        progress=not args.quiet,
        thumbnails=args.out is not None,
    )
    with _places(args.files, args.lists) as places:
        return _answer(args, places, settings)


def _answer(args: argparse.Namespace, places: Sequence[str], settings) -> int:
    from resproto_fd.configs.files import make_folder
    from resproto_fd.training.answers.answering import answer
    from resproto_fd.training.answers.judges import Judge
    from resproto_fd.training.answers.outputs import as_text, to_json_lines, write_all

    if args.out is not None:
        make_folder(args.out)  # before the work, not after it
    judges = [Judge(folder, args.device, args.trust_code) for folder in args.runs]
    answers = answer(places, judges, settings)
    written = [] if args.out is None else write_all(answers, Path(args.out))  # first: the output may be closed
    print(to_json_lines(answers) if args.json else as_text(answers), end="")
    for path in written:
        print(path, file=sys.stderr if args.json else sys.stdout)
    return int(bool(answers.unreadable))


@contextmanager
def _places(files: Sequence[str], lists: Sequence[str]) -> Iterator[list[str]]:
    """The files and folders that are meant; what came on the standard input lies in a temporary folder meanwhile.

    Raises:
        UserError: Nothing is named, a list cannot be read, or the standard input is too large.
    """
    from resproto_fd.configs.files import passing_folder

    with ExitStack() as stack:
        found: list[str] = []
        for word in files:
            if word == STANDARD_INPUT:
                found += _standard_input(stack.enter_context(passing_folder()) / "standard input")
            elif word.startswith("@"):
                found += _listed(read_text(word[1:], LARGEST_LIST, pipes=True))
            else:
                found.append(word)
        for name in lists:
            found += _listed(read_text(name, LARGEST_LIST, pipes=True))
        if not found:
            raise UserError("expected files, folders, @LIST or -, got nothing to look at")
        yield found


def _standard_input(place: Path) -> list[str]:
    """The names on the standard input; or the file that it is, put into its place."""
    source = sys.stdin.buffer
    head = source.read(HEAD)
    if not head:
        raise UserError("-: expected a picture, a video or names on the standard input, got nothing")
    if kind_of(head) is None:
        text = head + source.read(LARGEST_LIST - len(head) + 1)
        if len(text) > LARGEST_LIST:
            raise UserError(f"-: expected a picture, a video, or names of at most {LARGEST_LIST // MIB} MiB, got more")
        return _listed(decoded(text, "-") if b"\0" not in text else os.fsdecode(text))
    size = len(head)
    with open(place, "wb") as file:
        file.write(head)
        while block := source.read1(MIB):  # as much as there is: a stop signal is seen between two of them
            size += len(block)
            if size > LARGEST_INPUT:
                raise UserError(f"-: expected at most {LARGEST_INPUT // GIB} GiB, got more; name the file instead")
            file.write(block)
    return [str(place)]


def _listed(text: str) -> list[str]:
    """Names of a list: one a line, or with NUL between them, as `find -print0` writes them."""
    names = text.split("\0") if "\0" in text else re.split(r"\r?\n", text)  # other ends of lines may be in names
    return [name for name in names if name.strip()]
