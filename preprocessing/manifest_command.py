"""Makes dataset JSONs from a tree of frames: the command `resproto manifest`. See `arrangers.manifest_writer`."""

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from resproto_fd.configs.argument_types import seed_type
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import refuse_same
from resproto_fd.configs.loading import names
from resproto_fd.preprocessing.arrangers import (
    ALL_TEST,
    DESCRIPTIONS,
    SPLIT_KINDS,
    Arrangement,
    arrange,
    describe_folders,
    find,
)
from resproto_fd.preprocessing.arrangers.adopt import adopt
from resproto_fd.preprocessing.arrangers.expectations import ALLOWANCES, check_allowed, differences, look_around, refuse
from resproto_fd.preprocessing.arrangers.manifest_writer import FILES_ROOT, PATH_FORMS, Captions, check_names, write
from resproto_fd.preprocessing.arrangers.table import COLUMNS, arrange_table
from resproto_fd.preprocessing.arrangers.tree import words_of
from resproto_fd.preprocessing.side_file import read_captions, side_path
from resproto_fd.preprocessing.taxonomy import load_taxonomy
from resproto_fd.preprocessing.video import COMPRESSIONS, SPLITS


def summary(arrangement: Arrangement, paths: Sequence[Path] = ()) -> str:
    """Describes what was found and made, for a reader."""
    counts: Counter = Counter()
    for video in arrangement.videos:
        for split in video.splits:
            counts[video.label, split, "videos"] += 1
            counts[video.label, split, "frames"] += len(video.clip.frames)
    rows = [["label", *(f"{split} videos/frames" for split in SPLITS)]]
    for label in dict.fromkeys(video.label for video in arrangement.videos):
        cells = (f"{counts[label, split, 'videos']}/{counts[label, split, 'frames']}" for split in SPLITS)
        rows.append([label, *cells])
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = [f"{arrangement.description.name}, splits: {_splits_of(arrangement)}"]
    lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    for reason, left_out in arrangement.left_out.items():
        lines.append(f"  left out, {reason}: {_some(left_out)}")
    for what, found in (
        ("without a frame", arrangement.empty),
        ("in the lists, not in the tree", arrangement.not_found),
        ("missing folders", arrangement.absent),
    ):
        if found:
            lines.append(f"  {what}: {_some(found)}")
    for (suffix, reason), count in sorted(arrangement.passed_over.items()):
        lines.append(f"  passed over: {count} {suffix or 'without a suffix'}: {reason}")
    if misfits := _outside_pattern(arrangement):
        lines.append(f"  taken, though the name does not fit the last part of --pattern: {_some(misfits)}")
    if paths:
        lines += [f"  allowed, {each.name}: {each.text}" for each in differences(arrangement)]
    unnumbered = sum(
        not frame.rpartition("/")[2].rpartition(".")[0].isdecimal()
        for video in arrangement.videos
        for frame in video.clip.frames
    )
    if unnumbered:
        lines.append(f"  frames not named by a number, which DeepfakeBench cannot sort: {unnumbered}")
    if arrangement.description.note:
        lines.append(f"  {arrangement.description.note}")
    return "\n".join([*lines, *(f"  {path}" for path in paths)])


def _outside_pattern(arrangement: Arrangement) -> list[str]:
    """Paths of videos whose names do not fit the end of --pattern, so that its words are not known of them."""
    name = words_of(arrangement.description.layout.rpartition("/")[2])
    if name is None or all(source.names != name.pattern for source in arrangement.description.sources):
        return []
    return [video.clip.path for video in arrangement.videos if not name.fullmatch(video.clip.name)]


def _splits_of(arrangement: Arrangement) -> str:
    """The origin of the splits, and by what they were drawn."""
    if arrangement.splits != "drawn":
        return arrangement.splits
    known = sum(bool(video.people) for video in arrangement.videos)
    by = "people" if known else "videos, because no people are known (--identity tells them)"
    rest = len(arrangement.videos) - arrangement.drawn
    return f"drawn by {by}{f', for {arrangement.drawn} videos; {rest} have a split of their own' if rest else ''}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `resproto manifest`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _epilog()
    parser.add_argument("dataset", metavar="DATASET", help="a data set's name, DF40, folders, csv or adopt; see below")
    parser.add_argument("--root", required=True, metavar="DIR", help="folder that has the data set folders of frames")
    parser.add_argument(
        "--out", default="dataset_json", metavar="DIR", help="folder for the JSONs (default: %(default)s)"
    )
    parser.add_argument(
        "--splits",
        choices=SPLIT_KINDS,
        default=SPLIT_KINDS[0],
        help="official: the data set's own; deepfakebench: as its script makes them, with test videos in train too "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--shares",
        nargs=3,
        type=float,
        metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the splits, drawn by people and the same for reals and fakes, for videos without a published "
        "split; their sum is 1 (default: all for testing)",
    )
    parser.add_argument(
        "--val-share",
        type=float,
        default=0,
        metavar="X",
        help="share of train that becomes val, if no val is published (default: %(default)s)",
    )
    parser.add_argument("--seed", type=seed_type(), default=0, help="seed of both draws (default: %(default)s)")
    parser.add_argument(
        "--compression",
        nargs="+",
        default=COMPRESSIONS,
        metavar="LEVEL",
        help=f"compression levels to list, some of {', '.join(COMPRESSIONS)} (default: all)",
    )
    parser.add_argument(
        "--paths",
        choices=PATH_FORMS,
        default=PATH_FORMS[0],
        help=f"form of paths. released: as in DeepfakeBench's LMDBs; files: {FILES_ROOT}... for its loader of files "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--allow",
        nargs="+",
        default=[],
        metavar="NAME",
        help="write the manifest although something is not as expected: "
        + "; ".join(f"{name}, {what}" for name, what in ALLOWANCES.items()),
    )
    parser.add_argument("--captions", metavar="FILE", help="captions for the side file, one JSON object a line")
    _add_arguments_of_kinds(parser)


def run(args: argparse.Namespace) -> int:
    """Runs `resproto manifest`."""
    check_allowed(args.allow)
    captions = Captions(read_captions(args.captions) if args.captions else {})
    labels: Mapping = {}
    shares = tuple(args.shares) if args.shares else None
    options = {"levels": args.compression, "shares": shares, "val_share": args.val_share, "seed": args.seed}
    drawn = {**options, "shares": shares or ALL_TEST}
    made = {key: drawn[key] for key in ("shares", "val_share", "seed")} if args.splits == "official" else {}
    _check_kind(args)
    if args.dataset == "adopt":
        if shares:
            raise UserError("--shares: adopt keeps the splits of its lists; remove --shares")
        arrangements = [adopt(path, args.root) for path in args.lists]
        made = {}
    elif args.dataset == "csv":
        named = {"name": args.name or "", "shares": shares, "seed": args.seed}
        arrangements = [arrange_table(args.csv, args.root, load_taxonomy(), **named)]
    elif args.dataset == "folders":
        described, labels = describe_folders(
            args.root, load_taxonomy(), args.classes, args.pictures, args.name or "", args.pattern, args.identity
        )
        arrangements = [arrange(described, args.root, splits=args.splits, **options)]
    else:
        arrangements = _arrange_all(find(args.dataset), args, options)
    if args.dataset not in ("adopt", "csv"):
        for arrangement in arrangements:
            look_around(arrangement, args.root, () if args.dataset == "folders" else DESCRIPTIONS.values())
    for arrangement in arrangements:
        check_names(arrangement)  # all are checked before one is written
    _refuse_loss(args, arrangements)
    refuse(arrangements, args.allow, "\n".join(map(summary, arrangements)))
    shared = {"path_form": args.paths, "labels": labels, "captions": captions, "made": made}
    for arrangement in arrangements:
        print(summary(arrangement, write(arrangement, args.root, args.out, **shared)))
    if unused := sorted(set(captions.of) - captions.used):
        print(f"captions of unknown frames or videos: {_some(unused)}")
    return 0


def _refuse_loss(args: argparse.Namespace, arrangements: Sequence[Arrangement]) -> None:
    """Refuses to write over what was read, or the manifest of one list over that of another."""
    read = [*args.lists, *filter(None, [args.csv, args.captions])]
    for arrangement in arrangements:
        for name in (arrangement.description.name, *arrangement.description.parts):
            path = Path(args.out, f"{name}.json")
            for file in (path, side_path(path), path.with_suffix(".yaml")):
                refuse_same({"--out": file}, read)
    given = [arrangement.description.name for arrangement in arrangements]
    if twice := sorted({name for name in given if given.count(name) > 1}):
        raise UserError(f"--list: expected lists of different data sets, got several of '{twice[0]}'; name one of them")


def _add_arguments_of_kinds(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that only DATASET folders, csv and adopt have."""
    parser.add_argument("--name", help="with DATASET folders or csv: name of the data set (default: the folder's name)")
    parser.add_argument(
        "--csv",
        metavar="FILE",
        help="with DATASET csv: the table, with the columns path and label and, if you like, "
        + ", ".join(list(COLUMNS)[2:]),
    )
    parser.add_argument(
        "--pattern",
        default="",
        help="with DATASET folders: paths below --root, if they are not SPLIT/CLASS, CLASS/SPLIT, CLASS or "
        "SPLIT/METHOD/CLASS, for example {split}/{method}/{class}/{video}; {identity} and other words may be there",
    )
    parser.add_argument(
        "--identity",
        default="",
        metavar="REGEX",
        help="with DATASET folders: who is seen, a group of a regular expression searched in the path of each video; "
        "videos of one person get one split",
    )
    parser.add_argument(
        "--class",
        dest="classes",
        action="append",
        default=[],
        metavar="FOLDER=WHAT",
        help="with DATASET folders: meaning of a folder: real, fake, a method (`resproto list methods`), METHOD:TYPE "
        "for a new one, or a kind of forgery; may be repeated",
    )
    parser.add_argument(
        "--pictures", action="store_true", help="with DATASET folders: each picture is a video by itself"
    )
    parser.add_argument(
        "--list", dest="lists", nargs="+", default=[], metavar="JSON", help="with DATASET adopt: the lists"
    )


def _check_kind(args: argparse.Namespace) -> None:
    """Refuses arguments of another kind of DATASET."""
    for kind, given, flag in (("adopt", bool(args.lists), "--list JSON"), ("csv", bool(args.csv), "--csv FILE")):
        if (args.dataset == kind) != given:
            name = flag.partition(" ")[0]
            raise UserError(
                f"{name}: only for DATASET {kind}, got {args.dataset}; remove {name}"
                if given
                else f"DATASET {kind} needs {'the lists' if kind == 'adopt' else 'the table'}; set {flag}"
            )
    only_folders = args.classes or args.pictures or args.pattern or args.identity
    if (only_folders and args.dataset != "folders") or (args.name and args.dataset not in ("folders", "csv")):
        raise UserError(
            f"--class, --pictures, --pattern, --identity and --name: only for DATASET folders, got {args.dataset}; "
            "remove them"
        )
    if args.name in names("datasets"):
        raise UserError(
            f"--name: '{args.name}' is a data set of this package, with folders and labels of its own; set another name"
        )
    if args.dataset in ("adopt", "csv") and args.val_share:
        raise UserError(f"--val-share: not with DATASET {args.dataset}; remove it")


def _arrange_all(descriptions, args: argparse.Namespace, options: Mapping) -> list[Arrangement]:
    """Makes those of several lists (all of DF40) for which the tree has frames. A single list must succeed."""
    if len(descriptions) == 1:
        return [arrange(descriptions[0], args.root, splits=args.splits, **options)]
    arrangements, faults = [], []
    for description in descriptions:
        try:
            made = arrange(description, args.root, splits=args.splits, **options)
        except UserError as error:
            faults.append(f"{description.name}: {error}")
            continue
        if any(video.label.endswith("_Fake") for video in made.videos):
            arrangements.append(made)
        else:
            faults.append(f"{description.name}: no fakes in the tree")
    for fault in faults:
        print(f"not made: {fault}", file=sys.stderr)
    if not arrangements:
        raise UserError(f"none of the {len(descriptions)} lists can be made; the first: {faults[0]}")
    return arrangements


def _some(names_: Sequence[str]) -> str:
    shown = ", ".join(names_[:4]) + (", ..." if len(names_) > 4 else "")
    return f"{len(names_)} ({shown})"


def _epilog() -> str:
    lists = {name: description for name, description in DESCRIPTIONS.items() if "DF40" not in description.folders}
    lines = ["DATASET is one of:"]
    for name, description in lists.items():
        state = "tried on a tree of it" if description.verified else "not tried"
        lines.append(f"  {name:20} folders {' or '.join(description.folders)}; {state}")
    lines += [
        "  DF40                 all its lists for which the tree has frames, or one list by its name:",
        "                       METHOD_ff, METHOD_cdf, FSAll_ff, FRAll_cdf, EFSAll_ff, heygen, ...; not tried",
        "  folders              a folder for each class below --root: SPLIT/CLASS, CLASS/SPLIT or CLASS;",
        "                       SPLIT/METHOD/CLASS; or as --pattern says",
        "  csv                  videos or pictures that a table lists (--csv)",
        "  adopt                JSONs made elsewhere (--list): drops what is not in the tree, adds a side file",
    ]
    return "\n".join(lines)
