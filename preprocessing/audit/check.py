"""Audits data sets before anything is trained on them: the command `resproto check`.

Exit status: 0 no findings, 1 findings of the severity asked for, 2 a wrong call.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resproto_fd.configs.argument_types import at_once, seed_type
from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.video import COMPRESSIONS, SPLITS

if TYPE_CHECKING:
    from resproto_fd.preprocessing.audit.case import Audit, Case, Listed
    from resproto_fd.preprocessing.store.threads import Threads

SAMPLE = 20_000
BEGINS = {"--json": b'{\n "sets":', "--html": b"<!doctype html>"}
"""How the reports begin, by option."""


def audit(
    manifests: Sequence[str | os.PathLike],
    store: str | os.PathLike | None = None,
    *,
    faces: str | os.PathLike | None = None,
    compression: str | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    threads: "Threads | None" = None,
) -> "Audit":
    """Audits data sets together, because the training data of one must not be the test data of another.

    Args:
        manifests: Dataset JSONs; side files beside them are used.
        store: LMDB, or folder that has the data set folders. None reads no frames.
        faces: Output folder of `resproto faces`, with its records. None takes the records in side files.
        compression: Compression level, for manifests that have several.
        sample: Most frames that are read, drawn evenly from all videos; 0 reads all.
        seed: Seed of the draw.
        threads: Threads that read frames; None means one, without a bar.

    Raises:
        UserError: A manifest, side file or store cannot be read at all.
    """
    from resproto_fd.preprocessing.audit.case import Audit, Case
    from resproto_fd.preprocessing.audit.checks import CHECKS
    from resproto_fd.preprocessing.audit.frame_facts import read_facts
    from resproto_fd.preprocessing.store.frame_store import open_store
    from resproto_fd.preprocessing.store.threads import Threads

    result = Audit()
    sets = [_listed(Path(path), compression, result.notes) for path in manifests]
    case = Case(sets, media=_media(sets, faces, result.notes))
    if store is None:
        result.notes.append("no frame was read: no store was given (--store)")
    else:
        result.store = open_store(store)
        frames = sorted({frame for _, video in case.videos for frame in video.frames})
        case.missing = result.store.missing(frames)
        chosen = _sampled(case, set(case.missing), sample, seed)
        case.facts = read_facts(result.store, chosen, *(threads or Threads()))
        result.notes.append(f"{len(chosen)} of {len(frames)} frames were read" + _of_sample(chosen, frames, seed))
    for check in CHECKS:
        result.findings += check(case)
    result.findings.sort(key=lambda finding: finding.severity)
    result.sets = [_row(case, listed, split) for listed in sets for split in listed.videos]
    return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `resproto check`."""
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST", help="dataset JSONs, audited together")
    parser.add_argument(
        "--store",
        metavar="DIR",
        help="LMDB, or folder that has the data set folders (default: ../rgb from the first manifest, if it exists)",
    )
    parser.add_argument("--faces", metavar="DIR", help="output folder of `resproto faces` (default: the store's)")
    parser.add_argument("--compression", choices=COMPRESSIONS, help="level, for manifests with several (default: c23)")
    parser.add_argument(
        "--sample",
        type=int,
        default=SAMPLE,
        metavar="N",
        help="largest number of frames to read; 0 means all (default: %(default)s)",
    )
    parser.add_argument("--seed", type=seed_type(), default=0, help="seed of the sample (default: %(default)s)")
    parser.add_argument("--jobs", type=at_once, help="threads (default: one for each core, at most 8)")
    parser.add_argument("--html", metavar="FILE", help="write the report as a page with pictures, in one file")
    parser.add_argument("--json", metavar="FILE", help="write the findings as JSON; - prints them instead")
    parser.add_argument(
        "--fail-on",
        choices=("error", "warning"),
        default="error",
        help="lowest severity for which the exit code is 1 (default: %(default)s)",
    )
    parser.add_argument("--no-progress", "--quiet", dest="progress", action="store_false", help="show no progress bar")


def run(args: argparse.Namespace) -> int:
    """Runs `resproto check`; returns the exit code: 0 no findings, 1 findings."""
    from resproto_fd.configs.files import write_text
    from resproto_fd.preprocessing.audit.report import as_html, as_text
    from resproto_fd.preprocessing.store.threads import Threads

    if args.sample < 0:
        raise UserError(f"--sample: expected a number of frames, or 0 for all, got {args.sample}")
    beside = Path(args.manifests[0]).absolute().parent.parent / "rgb"
    store = args.store or (beside if beside.is_dir() else None)
    _refuse_outputs(args, store)
    faces = args.faces or (store if store and (Path(store) / ".faces").is_dir() else None)
    result = audit(
        args.manifests,
        store,
        faces=faces,
        compression=args.compression,
        sample=args.sample,
        seed=args.seed,
        threads=Threads(args.jobs or min(8, os.cpu_count() or 1), args.progress),
    )
    if args.json:
        text = json.dumps(result.as_json(), indent=1, ensure_ascii=False) + "\n"
        _ = sys.stdout.write(text) if args.json == "-" else write_text(args.json, text)
    if args.html:
        write_text(args.html, as_html(result))
    if args.json != "-":
        print(as_text(result))
    return int(result.failed(args.fail_on))


def _refuse_outputs(args: argparse.Namespace, store: str | os.PathLike | None) -> None:
    """Refuses reports in the place of a file that is read, of each other, or of a file that is no earlier report."""
    from resproto_fd.configs.files import refuse_same
    from resproto_fd.preprocessing.side_file import side_path

    manifests = [Path(path) for path in args.manifests]
    read = [*manifests, *map(side_path, manifests), *(path.with_suffix(".yaml") for path in manifests)]
    outputs = {"--json": None if args.json == "-" else args.json, "--html": args.html}
    refuse_same(outputs, read if store is None else [*read, Path(store) / "data.mdb"])
    for option, path in outputs.items():
        if path is None or not os.path.isfile(path):
            continue
        with open(path, "rb") as file:
            begin = file.read(len(BEGINS[option]))
        if begin not in (b"", BEGINS[option]):
            raise UserError(
                f"{option} {path}: expected no file or an earlier report, got another file; set another {option}"
            )


def _listed(path: Path, compression: str | None, notes: list[str]) -> "Listed":
    from resproto_fd.preprocessing.audit.case import Listed
    from resproto_fd.preprocessing.manifest import EmptySplit, read_manifest
    from resproto_fd.preprocessing.side_file import read_side, side_path

    name, level, options = _meaning(path, compression)
    listed = Listed(name)
    for split in SPLITS:
        try:
            videos = read_manifest(path, name, split=split, compression=level, **options)
        except EmptySplit as error:
            if error.empty:
                listed.empty[split] = ("all of them",)
            continue
        except UserError as error:
            listed.broken[split] = str(error)
            continue
        listed.videos[split] = list(videos)
        if videos.empty:
            listed.empty[split] = videos.empty
        if videos.repeated:
            listed.repeated[split] = videos.repeated
    if not listed.videos and listed.broken:
        raise UserError(next(iter(listed.broken.values())))
    if not listed.videos and not listed.empty:
        raise UserError(f"{path}: has no video in train, val or test")
    if side_path(path).is_file():
        listed.records = read_side(side_path(path)).records
    else:
        notes.append(
            f"{name}: no side file {side_path(path).name}, so the people are not known (`resproto manifest` writes one)"
        )
    return listed


def _meaning(path: Path, compression: str | None) -> tuple[str, str | None, dict]:
    """Returns (data set, compression level to read, further options of `read_manifest`)."""
    from resproto_fd.configs.loading import load, names
    from resproto_fd.preprocessing.taxonomy import load_taxonomy

    name = path.stem
    levels = _levels(path)
    level = compression if compression in levels else "c23" if "c23" in levels else next(iter(sorted(levels)), None)
    own = path.with_suffix(".yaml")
    if not own.is_file() and name not in names("datasets"):
        return name, level, {}
    config = load("datasets", str(own) if own.is_file() else name)
    taxonomy = load_taxonomy().extended(config.labels, f"labels of {name}") if config.labels else None
    return name, level, {"key": config.key, "folder": config.folder, "taxonomy": taxonomy}


def _levels(path: Path) -> set[str]:
    """Lists a manifest's compression levels; none if it is unreadable, which `read_manifest` then reports."""
    from resproto_fd.preprocessing.manifest_layout import load_manifest

    try:
        content = load_manifest(path)
        tables = [table for labels in content.values() for splits in labels.values() for table in splits.values()]
        return {level for table in tables for level in table if level in COMPRESSIONS and "frames" not in table[level]}
    except (UserError, AttributeError, TypeError, KeyError):
        return set()


def _media(sets: Sequence["Listed"], faces: str | os.PathLike | None, notes: list[str]) -> dict:
    from resproto_fd.preprocessing.faces.media import Media

    found = {}
    recorded = Media(Path(faces)) if faces else None
    if recorded and not recorded.places:
        raise UserError(f"{faces}: has no records of `resproto faces` (.faces/records); set another --faces")
    for listed in sets:
        for videos in listed.videos.values():
            for video in videos:
                record = listed.records.get(video.id)
                media = (record and record.media) or (recorded and recorded.of(video.id, video))
                if media:
                    found[video.id] = media
    if not found:
        notes.append("nothing is known of the source videos (codec, frame rate, several faces): no records of "
                     "`resproto faces` in side files or --faces")  # fmt: skip
    return found


def _sampled(case: "Case", missing: set[str], sample: int, seed: int) -> list[str]:
    """Draws the frames to read, in the order of their paths. Each video gives one frame before any gives a second."""
    import numpy as np

    videos = {video.id: [frame for frame in video.frames if frame not in missing] for _, video in case.videos}
    if not sample or sum(map(len, videos.values())) <= sample:
        return sorted({frame for frames in videos.values() for frame in frames})
    rng = np.random.default_rng(seed)
    turns = []
    for frames in videos.values():
        turns += [(turn, rng.random(), frames[i]) for turn, i in enumerate(rng.permutation(len(frames)))]
    return sorted({frame for _, _, frame in sorted(turns)[:sample]})


def _of_sample(chosen: Sequence[str], frames: Sequence[str], seed: int) -> str:
    if len(chosen) == len(frames):
        return ""
    return f", drawn with seed {seed}; the other frames may have further faults (--sample 0 reads all)"


def _row(case: "Case", listed: "Listed", split: str) -> dict:
    videos = listed.videos[split]
    frames = [len(video.frames) for video in videos]
    fakes = sum(len(video.frames) for video in videos if video.label)
    people = {who for video in videos if video.id in listed.records for who in listed.records[video.id].people}
    sizes = {tuple(case.facts.size[i].tolist()) for video in videos for i in case.rows(video)} if case.facts else set()
    return {
        "dataset": listed.name,
        "split": split,
        "videos": len(videos),
        "frames": sum(frames),
        "frames_a_video": [min(frames), max(frames)],
        "fake_share": fakes / sum(frames),
        "methods": sorted({video.method for video in videos if video.label}),
        "people": len(people),
        "sizes": [f"{width} x {height}" for width, height in sorted(sizes)[:4]] + ["..."] * (len(sizes) > 4),
    }
