"""Face extraction on real videos and pictures: faces found, time, and whether the bytes depend on how it was run.

    python benchmarks/faces.py ../shared/real --kills 10

Runs `resproto faces` with one process, with two, and once more with SIGKILLs at random moments of the work (the parent
alone: its workers must end by themselves), and compares every crop, landmark file, mask and record. Then the reading of
32 frames of each video, by this project's reader and by decoding every frame with OpenCV, as DeepfakeBench does.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
from measure import make_parser, report

from resproto_fd.preprocessing.faces.job import sampled_frames
from resproto_fd.preprocessing.faces.sources import Source, find_sources
from resproto_fd.preprocessing.faces.video_reader import UnreadableMedia, VideoFile

CLI = Path(__file__).resolve().parents[1] / "training" / "cli.py"


def command(args: argparse.Namespace, out: Path, processes: int) -> list[str]:
    """The command line of one run."""
    options = ["--out", str(out), "--processes", str(processes), "--quiet"]
    return [sys.executable, str(CLI), "faces", *args.sources, *options]


def extract(args: argparse.Namespace, out: Path, processes: int) -> dict:
    """A whole run: its report."""
    subprocess.run(command(args, out, processes), stdout=subprocess.DEVNULL, check=False)
    return json.loads((out / "faces_report.json").read_text())


def kill_and_go_on(args: argparse.Namespace, out: Path, longest: float) -> int:
    """Kills a run with two processes at random moments, at most `longest` seconds after its work began; the kills."""
    chance, kills = random.Random(args.seed), 0
    for _ in range(args.kills):
        run = subprocess.Popen(command(args, out, 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        work = out / ".faces" / "tmp"
        while run.poll() is None and not (work.is_dir() and any(work.iterdir())):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, longest))
        run.send_signal(signal.SIGKILL)
        kills += run.wait(timeout=300) == -signal.SIGKILL
    extract(args, out, 2)
    return kills


def digest(out: Path) -> tuple[int, str]:
    """(files, SHA-256 of their names and bytes), without the reports, which hold times."""
    sha, count = hashlib.sha256(), 0
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        if path.name != "lock" and not path.name.startswith("faces_report"):
            sha.update(f"{path.relative_to(out)}\0".encode() + path.read_bytes() + b"\0")
            count += 1
    return count, sha.hexdigest()[:16]


def reading(videos: list[Source]) -> dict[str, float]:
    """CPU seconds for 32 frames of every video, and whether both readers give the same pixels."""
    ours = theirs = 0.0
    same = True
    cv2.setNumThreads(1)
    for video in videos:
        start = time.process_time()
        try:
            reader = VideoFile(video.files[0])
        except UnreadableMedia:
            continue
        wanted = sampled_frames(reader.info.frames, 32)
        found = dict(reader.read(wanted))
        ours += time.process_time() - start
        start = time.process_time()
        capture, frames = cv2.VideoCapture(video.files[0]), {}
        for i in range(reader.info.frames):
            shown, image = capture.read()
            if shown and i in wanted:
                frames[i] = image
        theirs += time.process_time() - start
        same &= all(np.array_equal(found[i], frames[i][..., ::-1]) for i in found if i in frames)
    return {"ours_cpu_s": round(ours, 2), "opencv_cpu_s": round(theirs, 2), "same_pixels": bool(same)}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("sources", nargs="+", help="videos, pictures, and folders that hold them")
    parser.add_argument("--kills", type=int, default=10, help="SIGKILLs of the interrupted run")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.kills = min(args.kills, 1) if args.tiny else args.kills
    with tempfile.TemporaryDirectory() as folder:
        outs = {name: Path(folder) / name for name in ("one process", "two processes", "killed")}
        results = {"one process": extract(args, outs["one process"], 1)}
        results["two processes"] = extract(args, outs["two processes"], 2)
        kills = kill_and_go_on(args, outs["killed"], results["two processes"]["seconds"] / max(args.kills, 1))
        digests = {name: digest(out) for name, out in outs.items()}
    sources, _ = find_sources(args.sources, folder)
    videos = [source for source in sources if source.kind == "video"]
    one = results["one process"]
    found = one["frames_kept"] / max(one["frames_wanted"], 1)
    rows = [
        {
            "run": name,
            "files": str(files),
            "sha256": sha,
            "seconds": str(results[name]["seconds"]) if name in results else "-",
        }
        for name, (files, sha) in digests.items()
    ]
    figures = {
        "sources": one["sources"],
        "frames_wanted": one["frames_wanted"],
        "frames_with_a_crop": one["frames_kept"],
        "share": round(found, 4),
        "without_faces": len(one["without_faces"]),
        "frames_with_several_faces": one["several_faces"],
        "unreadable": one["failed"],
        "damaged": one["damaged"],
        "seconds": {name: result["seconds"] for name, result in results.items()},
        "kills": kills,
        "same_bytes": len(set(digests.values())) == 1,
        "reading": reading(videos),
    }
    report("Face extraction", rows, figures, args)


if __name__ == "__main__":
    main()
