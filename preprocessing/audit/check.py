"""What is wrong with a data set before anything is trained on it: the command `resproto check`.

Exit status: 0 nothing found, 1 something was (of the severity asked for), 2 a fault of the call.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.video import COMPRESSIONS, SPLITS

if TYPE_CHECKING:
    from resproto_fd.preprocessing.audit.case import Audit, Case, Listed
    from resproto_fd.preprocessing.store.threads import Threads

SAMPLE = 20_000


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
    """Look at some data sets together: what one trains on and another tests on must not be the same.

    Args:
        manifests: Dataset JSONs; side files beside them are used.
        store: LMDB, or folder that holds the data set folders. None: the frames are not looked at.
        faces: Output folder of `resproto faces`, with its records. None: what the side files hold of them.
        compression: Which level of manifests that have several.
        sample: Frames that are read at most, drawn from all videos alike; 0 reads all.
        seed: Of the draw.
        threads: That read frames; one, without a bar, if not given.

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
        result.notes.append("no store was named: no frame was looked at (--store)")
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
    """The arguments of `resproto check`."""
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST", help="dataset JSONs, audited together")
    parser.add_argument(
        "--store",
        metavar="DIR",
        help="LMDB, or folder that holds the data set folders (default: ../rgb from the first manifest if there)",
    )
    parser.add_argument("--faces", metavar="DIR", help="output folder of `resproto faces` (default: the store's)")
    parser.add_argument("--compression", choices=COMPRESSIONS, help="of manifests with several (default: c23)")
    parser.add_argument(
        "--sample", type=int, default=SAMPLE, metavar="N", help="frames read at most; 0: all (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: %(default)s)")
    parser.add_argument("--jobs", type=int, help="threads (default: one a core, 8 at most)")
    parser.add_argument("--html", metavar="FILE", help="write a page with pictures, one file")
    parser.add_argument("--json", metavar="FILE", help="write the findings for a machine; - prints them instead")
    parser.add_argument(
        "--fail-on",
        choices=("error", "warning"),
        default="error",
        help="exit with 1 from here on (default: %(default)s)",
    )
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Runs `resproto check`; the exit code: 0 nothing found, 1 findings."""
    from resproto_fd.configs.files import write_text
    from resproto_fd.preprocessing.audit.report import as_html, as_text
    from resproto_fd.preprocessing.store.threads import Threads

    if args.sample < 0:
        raise UserError(f"--sample {args.sample}: expected a number of frames, 0 for all")
    beside = Path(args.manifests[0]).absolute().parent.parent / "rgb"
    store = args.store or (beside if beside.is_dir() else None)
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
        notes.append(f"{name}: no side file {side_path(path).name}, so who is seen is not known (`resproto manifest`)")
    return listed


def _meaning(path: Path, compression: str | None) -> tuple[str, str | None, dict]:
    """(data set, compression level to read, further options of `read_manifest`)."""
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
    """Compression levels that a manifest has; none when it cannot be read, which `read_manifest` will say."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        tables = [table for labels in content.values() for splits in labels.values() for table in splits.values()]
        return {level for table in tables for level in table if level in COMPRESSIONS and "frames" not in table[level]}
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return set()


def _media(sets: Sequence["Listed"], faces: str | os.PathLike | None, notes: list[str]) -> dict:
    from resproto_fd.preprocessing.manifest_command import Media

    found = {}
    recorded = Media(Path(faces)) if faces else None
    if recorded and not recorded.places:
        raise UserError(f"{faces}: holds no records of `resproto faces` (.faces/records)")
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
    """Frames to read, in the order of their paths. Each video gives its first before any gives a second, and so on."""
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
    return f", drawn with seed {seed}: what is found is there, what is not found may be among the others (--sample 0)"


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
