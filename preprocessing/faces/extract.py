"""Face crops of videos and pictures, in DeepfakeBench's layout: the command `resproto faces`.

    OUT/FOLDER/frames/VIDEO/012.png       crop of frame 12, RGB, size x size
    OUT/FOLDER/landmarks/VIDEO/012.npy    five points in the crop: eyes, nose tip, mouth corners, (x, y), float32 [5, 2]
                                          (DeepfakeBench's own are dlib's 81 points, integers [81, 2])
    OUT/FOLDER/masks/VIDEO/012.png        manipulated area, 0 or 255, grey, where a mask video lies beside
    OUT/.faces/records/FOLDER/VIDEO.json  what was found in every frame; makes the video done
    OUT/faces_report.json, .txt           the last run

Crops, landmarks, masks and records depend on the sources and `Options` alone: not on the number of processes, nor on
how often the work was stopped and taken up again.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import write_text
from resproto_fd.configs.locks import SoleLock
from resproto_fd.preprocessing.faces.job import KINDS, FaceJob, read_record
from resproto_fd.preprocessing.faces.sources import STATE, Options, Source, find_sources
from resproto_fd.preprocessing.faces.worker_pool import WorkerDied, run_tasks


@dataclass
class Report:
    """What a run found and made; sums are over all its sources, done now or before.

    Attributes:
        sources: How many videos, pictures and sequences were found, by kind.
        done_before: Sources that an earlier run had finished.
        frames_wanted, frames_kept: Frames asked for, and crops that stand.
        faces_missed: Frames in which no face was found, or not the face that was followed.
        frames_unreadable: Frames that could not be decoded.
        several_faces: Frames with more than one face.
        failed: Sources that could not be read at all, with the reason.
        damaged: Sources that could be read in part, with what is wrong.
        without_faces: Sources in which no face was found.
        masks: Crops of masks that stand.
        masks_failed: Sources whose mask video could not be read, in whole or in part, with the reason.
        other_files: Files of other kinds that were passed over, by suffix.
        options: What the crops depend on.
        seconds: Run time of this run.
    """

    sources: dict[str, int] = field(default_factory=dict)
    done_before: int = 0
    frames_wanted: int = 0
    frames_kept: int = 0
    faces_missed: int = 0
    frames_unreadable: int = 0
    several_faces: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    without_faces: list[str] = field(default_factory=list)
    masks: int = 0
    masks_failed: dict[str, str] = field(default_factory=dict)
    other_files: dict[str, int] = field(default_factory=dict)
    options: dict = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def exit_code(self) -> int:
        """0: every file could be read; 1: some could not, or not wholly. A video without faces is no fault."""
        return int(bool(self.failed or self.damaged or self.masks_failed))

    def add(self, record: dict) -> None:
        """Counts one source's record or failure."""
        name = record["source"]
        if "failed" in record:
            self.failed[name] = record["failed"]
            return
        self.frames_wanted += len(record["wanted"])
        self.frames_kept += len(record["kept"])
        self.faces_missed += len(record["missed"])
        self.frames_unreadable += len(record["unreadable"])
        self.several_faces += len(record["several"])
        if record["damage"] or record["unreadable"]:
            lost = f"{len(record['unreadable'])} of {len(record['wanted'])} wanted frames lost"
            self.damaged[name] = "; ".join(filter(None, [record["damage"], lost]))
        if not record["kept"] and record["missed"]:
            self.without_faces.append(name)
        if masks := record["masks"]:
            self.masks += masks.get("kept", 0)
            if "failed" in masks:
                self.masks_failed[name] = masks["failed"]
            elif masks["missing"]:
                self.masks_failed[name] = f"the mask video lacks {len(masks['missing'])} of the frames"

    def as_text(self) -> str:
        """The report for a reader, at most 50 names of each kind."""
        share = f" ({self.frames_kept / self.frames_wanted:.1%})" if self.frames_wanted else ""
        rate = (sum(self.sources.values()) - self.done_before) / self.seconds if self.seconds else 0
        kinds = ", ".join(f"{count} {kind}{'s' * (count != 1)}" for kind, count in self.sources.items())
        others = ", ".join(f"{count} {suffix}" for suffix, count in sorted(self.other_files.items()))
        rows = [
            ("sources", f"{kinds}; done before: {self.done_before}"),
            ("frames wanted", self.frames_wanted),
            ("crops", f"{self.frames_kept}{share}"),
            ("faces missed", self.faces_missed),
            ("frames unreadable", self.frames_unreadable),
            ("frames with several faces", self.several_faces),
            ("masks", self.masks),
            ("without any face", len(self.without_faces)),
            ("damaged files", len(self.damaged)),
            ("unreadable files", len(self.failed)),
            ("trouble with masks", len(self.masks_failed)),
            ("other files passed over", others or "none"),
            ("time", f"{self.seconds:.1f} s, {rate:.2f} sources/s"),
        ]
        lines = [f"{name:<26} {value}" for name, value in rows]
        named = [
            ("Unreadable", [f"{name}: {why}" for name, why in sorted(self.failed.items())]),
            ("Damaged, used in part", [f"{name}: {why}" for name, why in sorted(self.damaged.items())]),
            ("Masks", [f"{name}: {why}" for name, why in sorted(self.masks_failed.items())]),
            ("Without any face", sorted(self.without_faces)),
        ]
        for title, entries in named:
            if entries:
                more = [f"... and {len(entries) - 50} more, in faces_report.json"] if len(entries) > 50 else []
                lines += ["", f"{title}:", *(f"  {entry}" for entry in entries[:50] + more)]
        return "\n".join(lines) + "\n"


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
    """Crops the faces of videos and pictures; finished ones are passed over, half-done ones done anew.

    Args:
        sources: Video and picture files, and folders that hold them.
        out: Where crops, records and the report go; see the module's text for the layout.
        root: The folder below which names begin; by default each source's parent.
        processes: Worker processes; None takes one for each core allowed, 0 works in this process.
        device: Where the face detector runs: "cpu", "cuda", "cuda:1".
        redo: Do finished sources anew.
        progress: Show a bar with rate and time left.
        options: Fields of `Options`.

    Raises:
        UserError: A source does not exist, an option is out of range, crops made with other options lie in `out`,
            another run is at work in it, there is no such device, the detector's weights are absent, or `out` cannot be
            written.
    """
    start = time.monotonic()
    chosen = _options(options)
    if chosen.detector == "mtcnn" and device != "cpu":
        from resproto_fd.preprocessing.faces.mtcnn import checked_device

        checked_device(device)  # here already: a worker would only tell after the folder is made
    found, others = find_sources(sources, out, root, chosen.pictures)
    if not found:
        raise UserError(f"no video or picture in {', '.join(map(str, sources))}")
    out = Path(out)
    with _sole_run(out):
        before, todo, refused = _divide(found, out, chosen, redo)
        if importlib.util.find_spec("av") is None and any(source.kind == "video" for source in todo):
            raise UserError("videos are read with PyAV, which is not installed: pip install 'resproto-fd[faces]'")
        records = {record["source"]: record for record in before + refused}
        count = min(_cores() if processes is None else processes, len(todo))
        records |= _do_all(todo, (out, chosen, device), count, progress)
        report = Report(
            sources=dict(Counter(source.kind for source in found)),
            done_before=len(before),
            other_files=dict(sorted(others.items())),
            options=chosen.as_dict(),
        )
        for source in found:
            report.add(records[source.name])
        report.seconds = round(time.monotonic() - start, 2)
        _save_report(report, out)
    return report


def _do_all(todo: Sequence, job: tuple, processes: int, progress: bool) -> dict[str, dict]:
    """The record of each source, by name; `job` are the arguments of `FaceJob`."""
    from tqdm import tqdm

    records = {}
    with tqdm(total=len(todo), unit=" files", disable=not progress, smoothing=0.05) as bar:
        for number, answer in run_tasks(FaceJob, job, todo, processes):
            name = todo[number].name
            if isinstance(answer, WorkerDied):
                answer = {"source": name, "failed": f"reading it was not survived: {answer}"}
            records[name] = answer
            bar.update()
    return records


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `resproto faces`."""
    default = Options()
    parser.add_argument("sources", nargs="+", metavar="SRC", help="videos, pictures, and folders that hold them")
    parser.add_argument("--out", required=True, help="where crops, records and the report go")
    parser.add_argument("--root", help="folder below which names begin (default: the parent of each SRC)")
    parser.add_argument(
        "--frames", type=int, default=default.frames, help="frames a video, evenly spaced; 0: all (default %(default)s)"
    )
    parser.add_argument(
        "--detector", choices=["mtcnn", "none"], default=default.detector, help="none: cropped already, only resize"
    )
    parser.add_argument(
        "--track", choices=["persistent", "largest"], default=default.track, help="which of several faces to keep"
    )
    parser.add_argument("--size", type=int, default=default.size, help="side of a crop in pixels (default %(default)s)")
    parser.add_argument("--scale", type=float, default=default.scale, help="room round the face (default %(default)s)")
    parser.add_argument(
        "--min-face", type=int, default=default.min_face, help="smallest face in pixels (default %(default)s)"
    )
    parser.add_argument(
        "--min-score", type=float, default=default.min_score, help="least P(face) (default %(default)s)"
    )
    parser.add_argument(
        "--weak-score",
        type=float,
        default=default.weak_score,
        help="the same for a face followed (default %(default)s)",
    )
    parser.add_argument("--no-masks", dest="masks", action="store_false", help="leave mask videos alone")
    parser.add_argument(
        "--pictures",
        choices=["separate", "sequence"],
        default=default.pictures,
        help="each picture by itself, or a folder's pictures as one video (default %(default)s)",
    )
    parser.add_argument("--processes", type=int, help="worker processes (default: one a core; 0: none, work here)")
    parser.add_argument("--device", default="cpu", help="where the face detector runs (default %(default)s)")
    parser.add_argument("--redo", action="store_true", help="do finished videos anew")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    """Runs `resproto faces`; the exit code: 0 all read, 1 some files could not be read, 130 interrupted."""
    options = {f.name: getattr(args, f.name) for f in fields(Options)}
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
        print("\ninterrupted: finished videos are kept, the same command goes on from here", file=sys.stderr)
        return 130
    print(report.as_text(), end="")
    return report.exit_code


def _options(given: dict) -> Options:
    known = [f.name for f in fields(Options)]
    if unknown := sorted(set(given) - set(known)):
        raise UserError(f"unknown option {', '.join(unknown)}; known: {', '.join(known)}")
    return Options(**given)


def _divide(
    found: list[Source], out: Path, options: Options, redo: bool
) -> tuple[list[dict], list[Source], list[dict]]:
    """(records of what is done, what is to do, what cannot be done because its place is taken)."""
    done, todo, refused = [], [], []
    places: dict[str, str] = {}
    for source in found:
        first = places.setdefault(str(source.record), source.name)
        if first != source.name:
            reason = f"its crops would go where those of {first} go: rename one of the two"
            refused.append({"source": source.name, "failed": reason})
            continue
        record = read_record(out, source)
        if record is None:
            taken = [str(source.place(kind)) for kind in KINDS if (out / source.place(kind)).exists()]
            if taken:
                reason = f"{out / taken[0]} exists and was not made by this command: use another output folder"
                refused.append({"source": source.name, "failed": reason})
                continue
        elif not redo and record["source"] != source.name:
            reason = f"crops of {record['source']} lie where its own would go: rename it, or --redo to replace them"
            refused.append({"source": source.name, "failed": reason})
            continue
        elif not redo and record["status"] == "done":
            _compare_options(record, options, out)
            if record["bytes"] == _size(source) and _stands(record, source, out):
                done.append(record)
                continue
        todo.append(source)
    return done, todo, refused


def _compare_options(record: dict, options: Options, out: Path) -> None:
    ours, theirs = options.as_dict(), record["options"]
    differing = [
        f"{name} {theirs.get(name)!r}, now {value!r}" for name, value in ours.items() if theirs.get(name) != value
    ]
    if differing:
        raise UserError(
            f"{out} holds crops of {record['source']} made with other options ({'; '.join(differing)}): "
            "use another output folder, or --redo to make them anew"
        )


def _stands(record: dict, source: Source, out: Path) -> bool:
    """Whether exactly the crops that the record names lie in their folder."""
    try:
        present = set(os.listdir(out / source.place("frames")))
    except FileNotFoundError:
        present = set()
    return present == {f"{face['frame']:03d}.png" for face in record["kept"]}


def _size(source: Source) -> int | None:
    try:
        return source.size()
    except OSError:
        return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _sole_run(out: Path):
    """Holds the output folder for this run, and clears what earlier ones left half done."""
    lock = SoleLock(out / STATE / "lock")
    try:
        (out / STATE).mkdir(parents=True, exist_ok=True)
        taken = not lock.acquire()
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror})") from error
    if taken:
        raise UserError(f"another run is at work in {out}: wait for it, or use another folder")
    try:
        shutil.rmtree(out / STATE / "tmp", ignore_errors=True)
        yield
        shutil.rmtree(out / STATE / "tmp", ignore_errors=True)
    finally:
        lock.release()


def _save_report(report: Report, out: Path) -> None:
    write_text(out / "faces_report.json", json.dumps(asdict(report), indent=1) + "\n")
    write_text(out / "faces_report.txt", report.as_text())
