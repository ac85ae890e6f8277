"""`resproto evaluate`: evaluates the stored scores of runs again, without a detector, a frame or a GPU.

It prints intervals, other ways of scoring a video, DeepfakeBench's numbers with the reason why they differ, and, for
several runs, which differences between them are more than chance.
"""

import argparse
from pathlib import Path

from resproto_fd.configs.errors import MissingFile, UserError
from resproto_fd.training.commands.arguments import readable

SHOWN = ("frame_auc", "frame_ap", "frame_eer", "video_auc", "video_eer")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders, or folders above them")
    parser.add_argument(
        "--metrics",
        choices=["corrected", "deepfakebench"],
        default="corrected",
        help="deepfakebench: print DeepfakeBench's numbers too, and why each differs (default: %(default)s)",
    )
    parser.add_argument(
        "--video",
        default="mean",
        metavar="HOW",
        help="how frame scores make a video's score: mean (default), median, or top-5, the mean of the five highest",
    )
    parser.add_argument(
        "--clusters",
        choices=["source", "video"],
        default="source",
        help="unit that intervals take as independent: people or source video, or each video (default: %(default)s)",
    )
    parser.add_argument(
        "--level",
        choices=["frame", "video"],
        default="frame",
        help="whether runs are compared, and groups made, by scores of frames or of videos; where a run scored clips, "
        "it is by those of videos (default: %(default)s)",
    )
    add_group_arguments(parser)


def add_group_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that name facts of videos to make groups by."""
    parser.add_argument(
        "--groups",
        default="",
        metavar="COLUMNS",
        help="AUC and EER of groups of videos, and the largest gap between groups: columns of the side files, "
        "separated by commas (gender,compression,identity)",
    )
    parser.add_argument(
        "--side",
        nargs="+",
        default=[],
        metavar="PATH",
        help="side files with these columns, or a CSV with a column 'video' (default: beside the runs' manifests)",
    )


def run(args: argparse.Namespace) -> int:
    tables, grouped = read_scores(args.runs), read_columns(args)
    for name, by_set in tables.items():
        print(name)
        for test_set, table in by_set.items():
            if table is None:
                continue
            print(_numbers(test_set, table, args))
            for column, facts in grouped.items():
                print(_groups(column, table, facts, args))
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


def group_columns(args: argparse.Namespace) -> list[str]:
    """The columns that --groups names.

    Raises:
        UserError: --side is given without --groups.
    """
    columns = [name.strip() for name in args.groups.split(",") if name.strip()]
    if args.side and not columns:
        raise UserError("--side: expected --groups too, which names the columns to make groups by")
    return columns


def read_columns(args: argparse.Namespace) -> dict[str, dict[str, str]]:
    """Each video's value of every column that --groups names; see `grouping.read_groups`.

    Without --side the results tell where side files are. One that cannot be read is left out and named.
    """
    from resproto_fd.training.grouping import read_groups, side_folders
    from resproto_fd.training.results import RunResult

    if not (columns := group_columns(args)):
        return {}
    paths = args.side
    if not paths:
        files = sorted({file for path in map(Path, args.runs) for file in path.rglob("result.json")})
        results = readable({str(file): file for file in files}, RunResult.load) if files else {}
        paths = side_folders(result.config for result in results.values())
    return read_groups(columns, paths)


def _groups(column: str, table, facts: dict[str, str], args: argparse.Namespace) -> str:
    from resproto_fd.training.measures.groups import group_metrics

    found = group_metrics(table, facts, args.level, args.clusters)
    level = args.level if args.level in table.levels else "video"
    lines = [f"    groups by {column}, {level} scores" + found.all_reals * ", each against all reals"]
    for group in found.groups:
        numbers = [
            f"{name.upper()} {each.value:.4f}" + ("" if each.low is None else f" ({each.low:.4f} to {each.high:.4f})")
            for name, each in group.estimates.items()
        ]
        counts = f"{group.real_videos} real and {group.fake_videos} fake videos"
        lines.append(f"      {group.name}: {', '.join(numbers) or 'not estimable'}; {counts}")
    for name, gap in found.gaps.items():
        lines.append(
            f"      largest gap of {name.upper()}: {gap.value:.4f} ({gap.low:.4f} to {gap.high:.4f}, p {gap.p:.3g}), "
            f"{gap.highest} above {gap.lowest}"
        )
    if not found.gaps:
        lines.append("      no gap: fewer than two groups are estimable")
    if found.unknown:
        lines.append(f"      {found.unknown} videos have no value of it")
    return "\n".join(lines)


def read_scores(paths: list[str]) -> dict[str, dict]:
    """Score tables of each run: {"protocol/detector/seedN": {test set: ScoreTable or None}}, runs in order.

    A run's name is the end of its path, as long as needed to tell two runs apart. A table that cannot be read, or is
    not the run's own (see `own_table`), is None and named; a run without any other is left out.

    Raises:
        UserError: A path does not exist, or no run with readable scores lies there.
    """
    folders: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            raise UserError(f"{path}: no such folder; a run's folder holds result.json and scores/")
        folders += sorted({file.parent.parent for file in path.rglob("scores/*.npz")})
    if not folders:
        raise UserError(f"no scores/*.npz under {', '.join(paths)}: train or test a detector first")

    def tables_in(folder: Path) -> dict:
        found = own_tables(folder)
        return {file.stem: found.get(file.stem) for file in sorted((folder / "scores").glob("*.npz"))}

    return readable({name: folder for folder, name in _names(folders).items()}, tables_in)


def own_tables(folder: Path) -> dict:
    """The score tables in a run's folder by test set. Those that cannot be read or are not its own are named.

    They are compared with the result beside them. Where there is none, or none that can be read, with their files'
    names alone.

    Raises:
        UserError: There is no table, or none is its own.
    """
    from resproto_fd.training.board.score_facts import own_table
    from resproto_fd.training.results import RunResult

    files, result = sorted((folder / "scores").glob("*.npz")), None
    if not files:
        raise UserError(f"{folder}: no scores/*.npz in it; name the folder of a run that was tested")
    try:
        result = RunResult.load(folder / "result.json")
    except MissingFile:
        pass
    except UserError as error:
        print(f"note: {error}; the scores beside it are not compared with it")
    return readable({file.stem: file for file in files}, lambda file: own_table(file, file.stem, result))


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
    from resproto_fd.training.measures.intervals import estimable, table_intervals
    from resproto_fd.training.results import BY_CLIPS

    found = table_intervals(table, clusters=args.clusters, aggregation=args.video)
    lines = [f"  {test_set}: {len(table)} {table.unit}s of {len(table.videos)} videos"]
    for name in SHOWN:
        if name not in found:
            lines.append(f"    {name:10} -  {BY_CLIPS}")
            continue
        value, low, high = found[name][:3]
        how = f" (video score: {args.video})" if name.startswith("video") and args.video != "mean" else ""
        text = "undefined" if value is None else f"{value:.4f}"
        if estimable(low, high):
            text += f"  95 % interval {low:.4f} to {high:.4f}"
        elif value is not None:
            text += "  95 % interval not estimable"
        lines.append(f"    {name:10} {text}{how}")
    return "\n".join(lines)


def _deepfakebench(table) -> str:
    from resproto_fd.training.measures.deepfakebench import explained

    lines = ["    DeepfakeBench's metrics, only for comparison with its tables:"]
    for row in explained(table)[1]:
        none = "undefined" if table.clips is None else "-"
        numbers = [none if v is None else f"{v:.4f}" for v in (row.deepfakebench, row.corrected)]
        lines.append(f"      {row.metric:10} {numbers[0]}, corrected {numbers[1]}  {row.cause or 'the same'}")
    return "\n".join(lines)


def _comparison(tables: dict[str, dict], args: argparse.Namespace) -> str:
    """Compares every pair of runs on every common test set, with Holm's correction over the whole table.

    Where a run scored clips, all are compared by videos. A test set that cannot be compared is named with its reason.
    A run whose table of a test set was left out, or is of other pixels than most of the others, takes no part there.

    Raises:
        UserError: No test set can be compared.
    """
    common = set.intersection(*(set(by_set) for by_set in tables.values()))
    if not common:
        return "these runs have no test set in common and cannot be compared"
    by_set = {
        each: {name: of_run[each] for name, of_run in tables.items() if of_run[each] is not None}
        for each in sorted(common)
    }
    by_clips = sorted({name for of_set in by_set.values() for name, table in of_set.items() if table.clips is not None})
    level = "video" if by_clips else args.level
    by_set, other = _of_same_pixels(by_set)
    found, faults = _compared(by_set, level, args)
    if not found:
        raise UserError("\n".join(f"{test_set}: {fault}" for test_set, fault in faults.items()))
    lines = [f"Differences of {level} AUC, paired on the same {level}s, Holm's correction over all of them:"]
    if level != args.level:
        lines.append(f"  (by videos, as {', '.join(by_clips)} scored clips)")
    for test_set, comparison in found.items():
        left_out = f"; {comparison.unpaired} videos that not all scored are left out" if comparison.unpaired else ""
        lines.append(f"  {test_set}: best {comparison.best}{left_out}")
        ties = [name for name in comparison.ties_with_best() if name != comparison.best]
        lines.append(f"    not distinguishable from it: {', '.join(ties) or 'none'}")
        for row in comparison.differences:
            limits = "no interval" if row.low is None else f"{row.low:+.4f} to {row.high:+.4f}"
            lines.append(
                f"    {row.first} - {row.second}: {row.difference:+.4f} ({limits}), "
                f"p {row.p:.3g}, corrected {row.p_holm:.3g}"
            )
    lines += [f"  {test_set}: left out: {fault}" for test_set, fault in faults.items()]
    lines += [
        f"  {test_set}: left out: {name}, whose frames hold other pixels than those of the rest; test it again on the "
        "same frames"
        for test_set, names in other.items()
        for name in names
    ]
    return "\n".join(lines)


def _of_same_pixels(by_set: dict[str, dict]) -> tuple[dict[str, dict], dict[str, list[str]]]:
    """Each test set's tables that are of the same pixels, and the names of the others, where two or more are."""
    from resproto_fd.training.measures.comparisons import tables_of_other_pixels

    kept, other = {}, {}
    for test_set, tables in by_set.items():
        names = tables_of_other_pixels(tables)
        same = {name: table for name, table in tables.items() if name not in names}
        kept[test_set], other[test_set] = (same, names) if len(same) > 1 else (tables, [])
    return kept, other


def _compared(by_set: dict[str, dict], level: str, args: argparse.Namespace) -> tuple[dict, dict[str, str]]:
    """The comparison of each test set's tables, corrected together; and why those that are left out have none."""
    from resproto_fd.training.measures.comparisons import compare_tables, correct_together

    found, faults = {}, {}
    for test_set, tables in by_set.items():
        try:
            if len(tables) < 2:
                raise UserError("fewer than two runs have scores of it; test again those that are left out")
            found[test_set] = compare_tables(tables, level=level, clusters=args.clusters, aggregation=args.video)
        except UserError as error:
            faults[test_set] = str(error)
    return correct_together(found), faults
