"""Dataset JSONs from a tree of frames: the command `resproto manifest`.

OUT/NAME.json         DeepfakeBench's layout: nesting, label strings, splits, masks
OUT/NAME.side.jsonl   what it has no place for, see `side_file`
OUT/NAME.yaml         which JSON, folders and labels the name means, for names that this package does not know
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import write_text
from resproto_fd.configs.loading import load, names
from resproto_fd.preprocessing.arrangers import (
    ALL_TEST,
    DESCRIPTIONS,
    SPLIT_KINDS,
    Arranged,
    Arrangement,
    arrange,
    describe_folders,
    find,
)
from resproto_fd.preprocessing.arrangers.adopt import adopt
from resproto_fd.preprocessing.manifest import read_manifest
from resproto_fd.preprocessing.side_file import (
    SideRecord,
    generator_families,
    read_captions,
    seen_in_it,
    side_path,
    write_side,
)
from resproto_fd.preprocessing.taxonomy import Taxonomy, load_taxonomy
from resproto_fd.preprocessing.video import COMPRESSIONS, SPLITS, Video

PATH_FORMS = ("released", "files")
FILES_ROOT = "./datasets/rgb/"


def layout(videos: Iterable[Arranged], name: str, path_form: str = "released") -> dict:
    """DeepfakeBench's JSON of some videos: `{name: {label: {split: {video: entry}}}}`, with a level of compressions
    above the videos where they have one. Every label has the three splits, for DeepfakeBench asks for each.

    Args:
        videos: Of all labels and splits.
        name: The top key.
        path_form: "released": the data set folder first, backslashes, as its LMDBs have it; "files": below
            ./datasets/rgb/, as its loader finds files on Linux.

    Raises:
        UserError: Two videos of a label, split and level have one name.
    """
    videos = list(videos)
    levels = sorted({video.level for video in videos if video.level})
    tables: dict[str, dict] = {}
    for video in videos:
        splits = tables.setdefault(
            video.label, {split: {level: {} for level in levels} if levels else {} for split in SPLITS}
        )
        entry = {"label": video.label, "frames": [_written(frame, path_form) for frame in video.clip.frames]}
        if video.masks is not None:
            entry["masks"] = [_written(mask, path_form) for mask in video.masks]
        for split in video.splits:
            table = splits[split][video.level] if levels else splits[split]
            if video.name in table:
                raise UserError(f"{name}: two videos of {video.label}, {split} are called '{video.name}'")
            table[video.name] = entry
    return {name: tables}


@dataclass
class Captions:
    """Captions by frame or video (see `read_captions`), and those that found theirs.

    Attributes:
        of: Captions by canonical path of a frame, or id of a video.
        used: Keys of those that were taken.
    """

    of: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def take(self, video: Video) -> dict[str, Mapping[str, str]]:
        """A video's captions by file name of the frame; "*" is the whole video's."""
        found = {frame.rpartition("/")[2]: self.of[frame] for frame in video.frames if frame in self.of}
        if video.id in self.of:
            found["*"] = self.of[video.id]
        self.used.update(key for key in (video.id, *video.frames) if key in self.of)
        return found


def write(
    arrangement: Arrangement,
    root: str | os.PathLike,
    out: str | os.PathLike,
    *,
    path_form: str = "released",
    labels: Mapping | None = None,
    captions: Captions | None = None,
    made: Mapping | None = None,
) -> list[Path]:
    """Write the JSONs of an arrangement, and what belongs to each.

    Every JSON is read back, by `read_manifest`, before its side file is written.

    Args:
        arrangement: What `arrange` or `adopt` gave.
        root: Where the frames are; records of `resproto faces` are looked for there.
        out: Folder to write into.
        path_form: See `layout`.
        labels: Meanings of label strings that the taxonomy lacks.
        captions: Those that find their frame or video are added to its `used`.
        made: How the splits were made, for the side file's first line.

    Returns:
        The JSONs.

    Raises:
        UserError: A file cannot be written, a name is none of a file, or a label string has no meaning.
    """
    check_names(arrangement)
    out, description = Path(out), arrangement.description
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made: {error.strerror}") from error
    known = load("datasets", description.name) if description.name in names("datasets") else None
    own = {**(known.labels if known else {}), **(labels or {})}
    taxonomy = load_taxonomy().extended(own, f"labels of {description.name}") if own else load_taxonomy()
    media = Media(Path(root))
    paths, captions = [], captions or Captions()
    for name, wanted in {description.name: None, **description.parts}.items():
        videos = [video for video in arrangement.videos if wanted is None or video.label in wanted]
        if wanted is not None and not set(wanted) <= {video.label for video in videos}:
            continue
        path = out / f"{name}.json"
        write_text(path, json.dumps(layout(videos, name, path_form)))
        _write_yaml(path, name, arrangement, videos, own if wanted is None else {})
        ids = _read_back(path, name, arrangement, videos, taxonomy)
        records = _records(videos, ids, taxonomy, media, captions)
        header = {"dataset": name, "manifest": path.name, "splits": arrangement.splits, **(made or {})}
        write_side(side_path(path), {**header, "source": description.source}, records)
        paths.append(path)
    return paths


def check_names(arrangement: Arrangement) -> None:
    """Refuses an arrangement whose files would not lie in the output folder, by the names they are to have.

    Raises:
        UserError: A name is no plain file name.
    """
    for name in (arrangement.description.name, *arrangement.description.parts):
        plain = name.isprintable() and not name.startswith(".") and not set(name) & set("/\\")
        if not name or not plain or len(name.encode()) > 200:
            raise UserError(
                f"data set name {name!r}: expected a plain file name, since its files carry it (with DATASET folders "
                "set --name; with DATASET adopt change the list's top key)"
            )


def summary(arrangement: Arrangement, paths: Sequence[Path] = ()) -> str:
    """What was found and made, for a reader."""
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
    lines = [f"{arrangement.description.name}, splits: {arrangement.splits}"]
    lines += ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    for reason, left_out in arrangement.left_out.items():
        lines.append(f"  left out, {reason}: {_some(left_out)}")
    for what, found in (
        ("without a frame", arrangement.empty),
        ("in the lists, not in the tree", arrangement.not_found),
        ("folders that are not there", arrangement.absent),
    ):
        if found:
            lines.append(f"  {what}: {_some(found)}")
    unnumbered = sum(
        not frame.rpartition("/")[2].rpartition(".")[0].isdecimal()
        for video in arrangement.videos
        for frame in video.clip.frames
    )
    if unnumbered:
        lines.append(f"  frames whose name is no number, which DeepfakeBench's loader cannot sort: {unnumbered}")
    if arrangement.description.note:
        lines.append(f"  {arrangement.description.note}")
    return "\n".join([*lines, *(f"  {path}" for path in paths)])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `resproto manifest`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _epilog()
    parser.add_argument("dataset", metavar="DATASET", help="see below")
    parser.add_argument("--root", required=True, metavar="DIR", help="folder that holds the data set folders of frames")
    parser.add_argument(
        "--out", default="dataset_json", metavar="DIR", help="where the JSONs go (default: %(default)s)"
    )
    parser.add_argument(
        "--splits",
        choices=SPLIT_KINDS,
        default=SPLIT_KINDS[0],
        help="the data set's own, or as DeepfakeBench's script makes them, test videos in train included "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--shares",
        nargs=3,
        type=float,
        metavar=("TRAIN", "VAL", "TEST"),
        help="of a data set without published splits, by people; their sum is 1 (default: all for testing)",
    )
    parser.add_argument(
        "--val-share", type=float, default=0, metavar="X", help="share of train for val, where none is published"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws of the two (default: %(default)s)")
    parser.add_argument(
        "--compression",
        nargs="+",
        default=COMPRESSIONS,
        metavar="LEVEL",
        help=f"levels to list, of {', '.join(COMPRESSIONS)} (default: all)",
    )
    parser.add_argument(
        "--paths",
        choices=PATH_FORMS,
        default=PATH_FORMS[0],
        help=f"released: as in DeepfakeBench's LMDBs; files: {FILES_ROOT}... for its loader of files",
    )
    parser.add_argument("--captions", metavar="FILE", help="lines of captions, for the side file")
    parser.add_argument("--name", help="of the data set of DATASET folders (default: the folder's name)")
    parser.add_argument(
        "--class",
        dest="classes",
        action="append",
        default=[],
        metavar="FOLDER=WHAT",
        help="of DATASET folders: real, fake, a method, or a kind of forgery; may be repeated",
    )
    parser.add_argument("--pictures", action="store_true", help="of DATASET folders: each picture is a video by itself")
    parser.add_argument(
        "--list", dest="lists", nargs="+", default=[], metavar="JSON", help="of DATASET adopt: the lists"
    )


def run(args: argparse.Namespace) -> int:
    """Runs `resproto manifest`."""
    captions = Captions(read_captions(args.captions) if args.captions else {})
    labels: Mapping = {}
    shares = tuple(args.shares) if args.shares else None
    options = {"levels": args.compression, "shares": shares, "val_share": args.val_share, "seed": args.seed}
    drawn = {**options, "shares": shares or ALL_TEST}
    made = {key: drawn[key] for key in ("shares", "val_share", "seed")} if args.splits == "official" else {}
    if (args.dataset == "adopt") != bool(args.lists):
        raise UserError("DATASET adopt and --list JSON belong together")
    if args.dataset == "adopt":
        if shares:
            raise UserError("--shares: adopt keeps the splits of its lists; remove --shares")
        arrangements = [adopt(path, args.root) for path in args.lists]
        made = {}
    elif args.dataset == "folders":
        described, labels = describe_folders(args.root, load_taxonomy(), args.classes, args.pictures, args.name or "")
        arrangements = [arrange(described, args.root, splits=args.splits, **options)]
    else:
        if args.classes or args.pictures or args.name:
            raise UserError("--class, --pictures and --name belong to DATASET folders")
        arrangements = _arrange_all(find(args.dataset), args, options)
    for arrangement in arrangements:
        check_names(arrangement)  # of all, before one is written
    shared = {"path_form": args.paths, "labels": labels, "captions": captions, "made": made}
    for arrangement in arrangements:
        print(summary(arrangement, write(arrangement, args.root, args.out, **shared)))
    if unused := sorted(set(captions.of) - captions.used):
        print(f"captions of frames or videos that are not there: {_some(unused)}")
    return 0


def _arrange_all(descriptions, args: argparse.Namespace, options: Mapping) -> list[Arrangement]:
    """Of several lists (all of DF40) those that the tree allows; of one, an error says what is amiss."""
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
        raise UserError(f"none of the {len(descriptions)} lists could be made; the first: {faults[0]}")
    return arrangements


def _write_yaml(path: Path, name: str, arrangement: Arrangement, videos: Sequence[Arranged], labels: Mapping) -> None:
    """NAME.yaml, and NAME_LEVEL.yaml for other compressions, where the package has none of that name."""
    description = arrangement.description
    levels = sorted({video.level for video in videos if video.level}) or [None]
    for level in levels:
        full = name if level in (None, "c23") else f"{name}_{level}"
        if full in names("datasets"):
            continue
        folders = list(dict.fromkeys(video.clip.folder.split("/")[0] for video in videos))
        values = {
            "json": path.name,
            "key": name,
            "folder": folders[0] if len(folders) == 1 else folders,
            "store": description.store,
            **({"compression": level} if level else {}),
            **({"labels": dict(labels)} if labels else {}),
            "source": description.source,
            **({"note": description.note} if description.note else {}),
        }
        write_text(path.with_name(f"{full}.yaml"), yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _read_back(
    path: Path, name: str, arrangement: Arrangement, videos: Sequence[Arranged], taxonomy: Taxonomy
) -> dict[str, Video]:
    """Our reader's videos by first frame."""
    folders = tuple(dict.fromkeys(video.clip.folder.split("/")[0] for video in videos))
    found = {}
    for split in SPLITS:
        for level in sorted({video.level or "" for video in videos if split in video.splits}):
            for video in read_manifest(
                path, name, split=split, key=name, compression=level or None, folder=folders, taxonomy=taxonomy
            ):
                found[video.frames[0]] = video
    return found


def _records(
    videos: Sequence[Arranged],
    found: Mapping[str, Video],
    taxonomy: Taxonomy,
    media: "Media",
    captions: "Captions",
) -> Iterable[SideRecord]:
    read = {video.clip.path: found[_first(video, found)] for video in videos}
    for video in videos:
        of_reader, meaning = read[video.clip.path], taxonomy[video.means]
        target, source = video.people.get("target"), video.people.get("source")
        original = read.get(video.original)
        yield SideRecord(
            id=of_reader.id,
            splits=video.splits,
            label=of_reader.label,
            label_name=video.label,
            method=meaning.method,
            forgery_type=meaning.forgery_type,
            family=generator_families().get(meaning.method),
            compression=video.level,
            identity=video.people.get("identity") or seen_in_it(meaning.forgery_type, target, source),
            target=target,
            source=source,
            original=original.id if original else None,
            media=media.of(video.clip.path, of_reader),
            captions=captions.take(of_reader),
        )


def _first(video: Arranged, found: Mapping[str, Video]) -> str:
    """The frame that the reader has first; its order of names may differ from the tree's."""
    return next(frame for frame in video.clip.frames if frame in found)


class Media:
    """What `resproto faces` recorded of the videos, if the frames are its."""

    def __init__(self, root: Path):
        self.places = [folder / "records" for folder in (root / ".faces", root.parent / ".faces") if folder.is_dir()]

    def of(self, clip_path: str, video: Video) -> dict | None:
        for place in self.places:
            path = place / f"{clip_path}.json"
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                kept = {str(number) for number in video.frame_numbers()}
                media = {key: record[key] for key in ("width", "height", "fps", "codec")}
                several = sorted(int(number) for number in record["several"] if number in kept)
            except FileNotFoundError:
                continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}: not a whole record of `resproto faces` ({error!r}); delete it") from error
            return {**media, "several": several}
        return None


def _written(path: str, path_form: str) -> str:
    return path.replace("/", "\\") if path_form == "released" else FILES_ROOT + path


def _some(names_: Sequence[str]) -> str:
    shown = ", ".join(names_[:4]) + (", ..." if len(names_) > 4 else "")
    return f"{len(names_)} ({shown})"


def _epilog() -> str:
    lists = {name: description for name, description in DESCRIPTIONS.items() if "DF40" not in description.folders}
    lines = ["DATASET is one of:"]
    for name, description in lists.items():
        state = "tried on a tree of it" if description.verified else "from its documentation"
        lines.append(f"  {name:20} folders {' or '.join(description.folders)}; {state}")
    lines += [
        "  DF40                 all its lists that the tree allows, or one by name:",
        "                       METHOD_ff, METHOD_cdf, FSAll_ff, FRAll_cdf, EFSAll_ff, heygen, ...; from documentation",
        "  folders              a folder per class below --root, SPLIT/CLASS or CLASS/SPLIT or CLASS",
        "  adopt                JSONs made elsewhere (--list): what is not in the tree is dropped, a side file added",
    ]
    return "\n".join(lines)
