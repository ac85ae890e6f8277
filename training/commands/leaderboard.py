"""`resproto leaderboard`: the page and the tables, from result files alone."""

import argparse
import sys

from resproto_fd.training.commands.evaluate import add_group_arguments, group_columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folders of runs (searched through), or result files")
    parser.add_argument(
        "--out", default="leaderboard", metavar="DIR", help="where the page goes (default: leaderboard)"
    )
    parser.add_argument(
        "--paper",
        metavar="TABLE",
        help="also lay out a paper's table, printed and measured rows: table2 (of ResProto-FD), mfclip:tableIII",
    )
    add_group_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from resproto_fd.training.board.building import build

    summary = build(args.runs, args.out, args.paper, group_columns(args), args.side)
    for problem in summary.problems:
        print(f"left out: {problem}", file=sys.stderr)
    for note in summary.other_pixels:
        print(f"note: {note}", file=sys.stderr)
    for path in summary.papers:
        print(path)
    print(f"{summary.page}: {summary.runs} runs")
    return 0
