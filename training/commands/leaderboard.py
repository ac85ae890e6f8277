"""`resproto leaderboard`: the page and the tables, from result files alone."""

import argparse
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folders of runs (searched through), or result files")
    parser.add_argument(
        "--out", default="leaderboard", metavar="DIR", help="where the page goes (default: leaderboard)"
    )


def run(args: argparse.Namespace) -> int:
    from resproto_fd.training.board.building import build

    summary = build(args.runs, args.out)
    for problem in summary.problems:
        print(f"left out: {problem}", file=sys.stderr)
    print(f"{summary.page}: {summary.runs} runs")
    return 0
