"""Cuts face crops out of videos and pictures, in DeepfakeBench's layout: the command `resproto faces`.

    OUT/FOLDER/frames/VIDEO/012.png       crop of frame 12, RGB, size x size
    OUT/FOLDER/landmarks/VIDEO/012.npy    five points in the crop: eyes, nose tip, mouth corners, (x, y), float32 [5, 2]
                                          (DeepfakeBench's own are dlib's 81 points, integers [81, 2])
    OUT/FOLDER/masks/VIDEO/012.png        manipulated area, 0 or 255, grey, if the video has a mask video
    OUT/.faces/records/FOLDER/VIDEO.json  what was found in every frame; a video with a record is done
    OUT/.faces/shards/3-of-16.json        what a finished shard made; `shards.py` tells more
    OUT/faces_report.json, .txt           the last run

Crops, landmarks, masks and records depend only on the sources and on `Options`, not on the number of processes,
machines and shards, or on how often the work was stopped and resumed.
"""

import argparse
import importlib.util
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.file_names import fault_of, folded, hashed_name
from resproto_fd.preprocessing.faces.job import KINDS, FaceJob, compare_options, is_of, read_record, stands
from resproto_fd.preprocessing.faces.merging import merge_shards
from resproto_fd.preprocessing.faces.report import Report
from resproto_fd.preprocessing.faces.shards import Share, sole_run
from resproto_fd.preprocessing.faces.sources import STATE, Options, Source, find_sources
from resproto_fd.preprocessing.faces.worker_pool import WorkerDied, run_tasks


@dataclass(frozen=True, slots=True)
class Spread:
    """How the work is spread over machines, on which the crops do not depend.

    Attributes:
        shard: "3/16" does the third of 16 shares of the sources; `merge_shards` puts the shares together.
        address: "HOST:PORT" or "auto" of a Ray cluster whose nodes do the work; they share the folders.
    """

    shard: str | None = None
    address: str | None = None


def extract_faces(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    root: str | Path | None = None,
    processes: int | None = None,
    device: str = "cpu",
    redo: bool = False,
    progress: bool = True,
    **options,
) -> Report:
    """Crops the faces of videos and pictures. Finished sources are skipped, incomplete ones are done again.

    Args:
        sources: Video and picture files, and folders that have them.
        out: Folder for crops, records and the report; see the module's text for the layout.
        root: The folder below which names begin; by default each source's parent.
        processes: Worker processes. None means one for each core, 0 works in this process.
        device: Device of the face detector: "cpu", "cuda", "cuda:1".
        redo: Whether finished sources are done again.
        progress: Whether to show a bar with rate and time left.
        options: Fields of `Options` and of `Spread`.

    Raises:
        UserError: A source does not exist, an option is out of range, `out` has crops made with other options or cannot
            be written, another run works in it, there is no such device or cluster, or the detector's weights are
            missing.
    """
    start = time.monotonic()
    chosen, spread = _options(options)
    share = Share.parsed(spread.shard) if spread.shard else None
    _check_machines(chosen, device, spread.address, processes)
    found, others = find_sources(sources, out, root, chosen.pictures)
    if not found:
        raise UserError(f"no video or picture in {', '.join(map(str, sources))}")
    out = Path(out)
    tmp = f"tmp-{share.file_name}" if share else "tmp"
    with sole_run(out, share):
        shutil.rmtree(out / STATE / tmp, ignore_errors=True)  # incomplete work of earlier runs
        found = _placed(found, out)
        before, todo, refused = _to_do(found, out, chosen, redo, share)
        records = {record["source"]: record for record in before + refused}
        records |= _do_all(todo, (out, chosen, device, tmp), processes, spread.address, progress)
        report = _summary(found, records, share)
        report.done_before, report.other_files = len(before), dict(sorted(others.items()))
        report.options, report.seconds = chosen.as_dict(), round(time.monotonic() - start, 2)
        if share:
            share.finish(out, found, records, report)
        else:
            report.save(out)
        shutil.rmtree(out / STATE / tmp, ignore_errors=True)
    return report


def _to_do(
    found: list[Source], out: Path, options: Options, redo: bool, share: Share | None
) -> tuple[list[dict], list[Source], list[dict]]:
    """Divides sources, those of other shares left out: (records of done ones, sources to do, failures)."""
    mine, refused = _first_of_places(found)
    if share:
        share.refuse_others(out)
        mine, refused = [s for s in mine if share.has(s.name)], [r for r in refused if share.has(r["source"])]
    before, todo, more = _divide(mine, out, options, redo)
    if share:
        before, todo = share.sound(out, before, todo, mine)
    if importlib.util.find_spec("av") is None and any(source.kind == "video" for source in todo):
        raise UserError("videos are read with PyAV, which is not installed: pip install 'resproto-fd[faces]'")
    return before, todo, refused + more


def _summary(found: list[Source], records: dict[str, dict], share: Share | None) -> Report:
    """Counts the sources that have a record or a failure."""
    mine = [source for source in found if source.name in records]
    report = Report(sources=dict(Counter(source.kind for source in mine)))
    report.shard = f"{share} of {len(found)} sources" if share else None
    for source in mine:
        report.add(records[source.name])
    return report


def _check_machines(options: Options, device: str, address: str | None, processes: int | None) -> None:
    least, where = (1, "at least 1 with --address") if address else (0, "0 or more")
    if processes is not None and processes < least:
        raise UserError(f"--processes: expected {where}, got {processes}")
    if address and device not in ("cpu", "cuda"):
        raise UserError(f"--device: expected cpu or cuda with --address, which chooses each node's card; got {device}")
    if options.detector == "mtcnn" and device != "cpu" and not address:
        from resproto_fd.preprocessing.faces.mtcnn import checked_device

        checked_device(device)  # a worker would tell only after the folder is made


def _do_all(
    todo: Sequence[Source], job: tuple, processes: int | None, address: str | None, progress: bool
) -> dict[str, dict]:
    """Makes the record of each source, by name; `job` has the arguments of `FaceJob`."""
    from tqdm import tqdm

    records = {}
    with tqdm(total=len(todo), unit=" files", disable=not progress, smoothing=0.05) as bar:
        for number, answer in _answers(todo, job, processes, address):
            name = todo[number].name
            if isinstance(answer, WorkerDied):
                answer = {"source": name, "failed": f"the worker process died while reading it: {answer}"}
            records[name] = answer
            bar.update()
    return records


def _answers(todo: Sequence[Source], job: tuple, processes: int | None, address: str | None) -> Iterator:
    """Yields (number, answer) of each source, from processes of this machine or from the nodes of a cluster."""
    if address is None:
        count = min(_cores() if processes is None else processes, len(todo))
        yield from run_tasks(FaceJob, job, todo, count)
        return
    from resproto_fd.preprocessing.faces.cluster_pool import Cluster, SharedFolders, run_on_cluster

    out = Path(os.path.abspath(job[0]))
    with SharedFolders.marked(out, job[3]) as shared:
        cluster = Cluster(address, processes, int(job[2] != "cpu"), shared)
        yield from run_on_cluster(FaceJob, (str(out), *job[1:]), todo, cluster)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `resproto faces`."""
    default = Options()
    parser.add_argument("sources", nargs="+", metavar="SRC", help="videos, pictures, and folders that have them")
    parser.add_argument("--out", required=True, help="folder for crops, records and the report")
    parser.add_argument("--root", help="folder that names of crops are relative to (default: the parent of each SRC)")
    parser.add_argument(
        "--frames",
        type=int,
        default=default.frames,
        help="frames a video, evenly spaced; 0 means all (default: %(default)s)",
    )
    _add_run_arguments(parser, default)
    parser.add_argument(
        "--detector",
        choices=["mtcnn", "none"],
        default=default.detector,
        help="face detector; none only resizes pictures that are already cropped (default: %(default)s)",
    )
    parser.add_argument(
        "--track",
        choices=["persistent", "largest"],
        default=default.track,
        help="face to keep if there are several: the one seen longest, or each frame's largest (default: %(default)s)",
    )
    parser.add_argument(
        "--size", type=int, default=default.size, help="side of a crop in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--scale",
        type=float,
        default=default.scale,
        help="width of a crop as a multiple of the tight crop (default: %(default)s)",
    )
    parser.add_argument(
        "--min-face", type=int, default=default.min_face, help="smallest face in pixels (default: %(default)s)"
    )
    parser.add_argument(
        "--min-score",
        type=float,
        default=default.min_score,
        help="lowest P(face) of a detection (default: %(default)s)",
    )
    parser.add_argument(
        "--weak-score",
        type=float,
        default=default.weak_score,
        help="lowest P(face) of a detection that continues a tracked face (default: %(default)s)",
    )
    parser.add_argument("--no-masks", dest="masks", action="store_false", help="do not crop mask videos")
    parser.add_argument(
        "--pictures",
        choices=["separate", "sequence"],
        default=default.pictures,
        help="separate: each picture by itself; sequence: a folder's pictures as one video (default: %(default)s)",
    )
    _add_machine_arguments(parser)
    parser.add_argument("--quiet", "--no-progress", action="store_true", help="show no progress bar")


def _add_run_arguments(parser: argparse.ArgumentParser, default: Options) -> None:
    parser.add_argument(
        "--clips",
        type=int,
        metavar="T",
        default=default.clips,
        help="keep runs of T consecutive frames too, for detectors that read clips (default: no runs)",
    )
    parser.add_argument(
        "--runs",
        type=int,
        metavar="N",
        default=default.runs,
        help="with --clips: runs a video, with evenly spaced starts (default: %(default)s)",
    )


def _add_machine_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes",
        type=int,
        help="worker processes; 0 uses none (default: one for each core); with --address: videos at a time (default: "
        "one for each processor of the cluster)",
    )
    parser.add_argument("--device", default="cpu", help="device of the face detector (default: %(default)s)")
    parser.add_argument("--redo", action="store_true", help="do finished videos again")
    parser.add_argument(
        "--shard", metavar="K/N", help="do the K-th of N shares of the videos, such as 3/16, on one of N machines"
    )
    parser.add_argument(
        "--merge", action="store_true", help="put finished shards together in --out; each SRC is a folder of shards"
    )
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        help="let the nodes of a Ray cluster do the work; auto: the cluster that runs on this machine. Needs the extra "
        "cluster, and SRC and --out in a folder that all nodes share",
    )


def run(args: argparse.Namespace) -> int:
    """Runs `resproto faces`; returns the exit code: 0 all read, 1 a file was not or no crop, 130 interrupted."""
    if args.merge:
        return _merge(args)
    options = {f.name: getattr(args, f.name) for f in (*fields(Options), *fields(Spread))}
    try:
        report = extract_faces(
            args.sources,
            args.out,
            root=args.root,
            processes=args.processes,
            device=args.device,
            redo=args.redo,
            progress=not args.quiet,
            **options,
        )
    except KeyboardInterrupt:
        print("\ninterrupted: finished videos are kept; the same command goes on from there", file=sys.stderr)
        return 130
    print(report.as_text(), end="")
    return _exit_code(report)


def _merge(args: argparse.Namespace) -> int:
    allowed = {"merge", "sources", "out", "quiet"}
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    default = vars(parser.parse_args(["SRC", "--out", "OUT"]))
    for name, value in default.items():
        if name not in allowed and getattr(args, name) != value:
            raise UserError(f"--{name.replace('_', '-')}: expected no such option beside --merge; leave it out")
    report = merge_shards(args.sources, args.out, progress=not args.quiet)
    print(report.as_text(), end="")
    return _exit_code(report)


def _exit_code(report: Report) -> int:
    return report.exit_code or int(bool(report.sources) and not report.frames_kept)


def _options(given: dict) -> tuple[Options, Spread]:
    known, spread = [f.name for f in fields(Options)], [f.name for f in fields(Spread)]
    if unknown := sorted(set(given) - set(known) - set(spread)):
        raise UserError(f"unknown option {', '.join(unknown)}; known: {', '.join(known + spread)}")
    chosen = Options(**{name: given[name] for name in known if name in given})
    return chosen, Spread(**{name: given[name] for name in spread if name in given})


def _placed(found: list[Source], out: Path) -> list[Source]:
    """The sources, each with a place whose name a folder can have on every machine, and that no other name shares.

    Where a name is too long or odd, or differs from another in case or Unicode form alone, the place's name gets a
    hash. A source whose crops lie under its plain name already keeps it.
    """
    shared = Counter(folded(str(place)) for place in {source.record for source in found})
    odd = [source for source in found if fault_of(source.stem) or shared[folded(str(source.record))] > 1]
    records = {source.name: read_record(out, source) for source in odd}
    made = {name for name, record in records.items() if record and record["source"] == name}
    moved, taken = {}, set()
    for source in sorted(odd, key=lambda source: source.name not in made):
        place = folded(str(source.record))
        if source.name in made or not (fault_of(source.stem) or place in taken):
            taken.add(place)
        else:
            moved[source.name] = replace(source, stem=hashed_name(source.stem))
    return [moved.get(source.name, source) for source in found]


def _first_of_places(found: list[Source]) -> tuple[list[Source], list[dict]]:
    """Divides sources into the first of each place and the failures of the others, whose place is taken."""
    first: dict[str, str] = {}
    mine, refused = [], []
    for source in found:
        name = first.setdefault(str(source.record), source.name)
        if name == source.name:
            mine.append(source)
        else:
            refused.append(_taken(source, f"its crops have the same place as those of {name}; rename one of the two"))
    return mine, refused


def _taken(source: Source, reason: str) -> dict:
    return {"source": source.name, "failed": reason, "place_taken": True}


def _divide(
    found: list[Source], out: Path, options: Options, redo: bool
) -> tuple[list[dict], list[Source], list[dict]]:
    """Divides sources: (records of done ones, sources to do, failures of those whose place is taken)."""
    done, todo, refused = [], [], []
    for source in found:
        record = read_record(out, source)
        if record is None:
            taken = [str(source.place(kind)) for kind in KINDS if os.path.exists(out / source.place(kind))]
            if taken:
                reason = f"{out / taken[0]} exists and was not made by this command; set another --out"
                refused.append(_taken(source, reason))
                continue
        elif not redo and record["source"] != source.name:
            reason = f"its place has crops of {record['source']}; rename it, or set --redo to replace them"
            refused.append(_taken(source, reason))
            continue
        elif not redo and record["status"] == "done":
            compare_options(record, options.as_dict(), out)
            if is_of(record, source, out) and stands(record, source, out):
                done.append(record)
                continue
        todo.append(source)
    return done, todo, refused


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
