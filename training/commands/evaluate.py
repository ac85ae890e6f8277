"""`resproto evaluate`: evaluates the stored scores of runs again, without a detector, a frame or a GPU.

It prints intervals, other ways of scoring a video, DeepfakeBench's numbers with the reason why they differ, and, for
several runs, which differences between them are more than chance.
"""

import argparse
from pathlib import Path

from resproto_fd.configs.errors import UserError

SHOWN = ("frame_auc", "frame_ap", "frame_eer", "video_auc", "video_eer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or folders above them")
    parser.add_argument(
        "--metrics",
        choices=["corrected", "deepfakebench"],
        default="corrected",
        help="deepfakebench: also its numbers, faults included, each with the reason why it differs",
    )
    parser.add_argument(
        "--video",
        default="mean",
        metavar="HOW",
        help="a video's score: mean (default), median, or top-5: the mean of its five highest frames",
    )
    parser.add_argument("--clusters", choices=["source", "video"], default="source", help="what counts as independent")
    parser.add_argument("--level", choices=["frame", "video"], default="frame", help="level at which runs are compared")


def run(args: argparse.Namespace) -> int:
    tables = read_scores(args.runs)
    for name, by_set in tables.items():
        print(name)
        for test_set, table in by_set.items():
            print(_numbers(test_set, table, args))
            if args.metrics == "deepfakebench":
                print(_deepfakebench(table))
        print()
    if args.metrics == "deepfakebench":
        from resproto_fd.training.measures.deepfakebench import NOT_IN_SCORES

        print("Differences that no score shows, and that are not undone here:")
        print("\n".join(f"  - {text}" for text in NOT_IN_SCORES))
    if len(tables) > 1:
        print(_comparison(tables, args))
    return 0


def read_scores(paths: list[str]) -> dict[str, dict]:
    """Score tables of each run: {"protocol/detector/seedN": {test set: ScoreTable}}, runs in order.

    A run's name is the end of its path, as long as needed to tell two runs apart.

    Raises:
        UserError: A path does not exist, or no run with scores lies there.
    """
    from resproto_fd.training.scores import ScoreTable

    folders: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; a run's folder holds result.json and scores/")
        folders += sorted({file.parent.parent for file in path.rglob("scores/*.npz")})
    if not folders:
        raise UserError(f"no scores/*.npz under {', '.join(paths)}: train or test a detector first")
    return {
        name: {file.stem: ScoreTable.load(file) for file in sorted((folder / "scores").glob("*.npz"))}
        for folder, name in _names(folders).items()
    }


def _names(folders: list[Path]) -> dict[Path, str]:
    """A name for each folder: the last three parts of its path, or more if another folder has the same."""
    paths = list(dict.fromkeys(folder.resolve() for folder in folders))
    result = {}
    for path in paths:
        count = 3
        while count < len(path.parts) and sum(other.parts[-count:] == path.parts[-count:] for other in paths) > 1:
            count += 1
        result[path] = "/".join(path.parts[-count:]).replace("//", "/")
    return result


def _numbers(test_set: str, table, args: argparse.Namespace) -> str:
    from resproto_fd.training.measures.intervals import table_intervals

    found = table_intervals(table, clusters=args.clusters, aggregation=args.video)
    lines = [f"  {test_set}: {len(table)} frames of {len(table.videos)} videos"]
    for name in SHOWN:
        value, low, high = found[name][:3]
        how = f" (video score: {args.video})" if name.startswith("video") and args.video != "mean" else ""
        text = "undefined" if value is None else f"{value:.4f}"
        if low is not None:
            text += f"  95 % interval {low:.4f} to {high:.4f}"
        lines.append(f"    {name:10} {text}{how}")
    return "\n".join(lines)


def _deepfakebench(table) -> str:
    from resproto_fd.training.measures.deepfakebench import explained

    lines = ["    DeepfakeBench's metrics, only for comparison with its tables:"]
    for row in explained(table)[1]:
        numbers = ["undefined" if v is None else f"{v:.4f}" for v in (row.deepfakebench, row.corrected)]
        lines.append(f"      {row.metric:10} {numbers[0]}, corrected {numbers[1]}  {row.cause or 'the same'}")
    return "\n".join(lines)


def _comparison(tables: dict[str, dict], args: argparse.Namespace) -> str:
    """Compares every pair of runs on every common test set, with Holm's correction over the whole table."""
    from resproto_fd.training.measures.comparisons import compare_tables, correct_together

    common = set.intersection(*(set(by_set) for by_set in tables.values()))
    if not common:
        return "these runs have no test set in common and cannot be compared"
    found = correct_together(
        {
            test_set: compare_tables(
                {name: by_set[test_set] for name, by_set in tables.items()},
                level=args.level,
                clusters=args.clusters,
                aggregation=args.video,
            )
            for test_set in sorted(common)
        }
    )
    lines = [f"Differences of {args.level} AUC, paired on the same frames, Holm's correction over all of them:"]
    for test_set, comparison in found.items():
        lines.append(f"  {test_set}: best {comparison.best}")
        ties = [name for name in comparison.ties_with_best() if name != comparison.best]
        lines.append(f"    not distinguishable from it: {', '.join(ties) or 'none'}")
        for row in comparison.differences:
            limits = "no interval" if row.low is None else f"{row.low:+.4f} to {row.high:+.4f}"
            lines.append(
                f"    {row.first} - {row.second}: {row.difference:+.4f} ({limits}), "
                f"p {row.p:.3g}, corrected {row.p_holm:.3g}"
            )
    return "\n".join(lines)
