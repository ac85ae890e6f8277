"""From the frame store to a batch in memory: processor time an image, images a second, memory, and packing.

    python benchmarks/read_path.py              # 2000 frames, two minutes on two cores
    python benchmarks/read_path.py --size 256   # a detector's input as large as the stored crops: no resizing

Frames of 256 x 256 are made on the fly, their PNGs as large as those of FF++ c23 crops (93 KiB), packed in both codecs,
and read in batches of 32 by the data set and loader that training and testing use, from a warm page cache. `test` is
the plain transform on frames in order; `train` shuffles and augments. Rows of clips (of 8 frames, four in a batch) read
as many frames; `train, clips` augments by ResProto-FD's recipe. Processor time is user and system time of all
threads and of the data workers.

Beside them, DeepfakeBench's figures through its LMDB loader on the same kind of frames and machine (two shared cores),
the best of three set-ups: current packages, current packages with one BLAS thread, and the versions it pins. There the
input is 256, so that nothing is resized; and normalisation is on the host, here it is left to the device: what it costs
on this CPU, where there is no GPU, is given apart.

The last line is one JSON object; with --json-only it is the only one.
"""
# ruff: noqa: E402  (threads are capped before NumPy and torch are imported)

import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import cv2
import numpy as np
import torch
from measure import make_parser, report

from resproto_fd.configs.schema import InputConfig
from resproto_fd.preprocessing.manifest import Video, read_manifest, write_manifest
from resproto_fd.preprocessing.store.frame_store import open_store
from resproto_fd.preprocessing.store.lmdb_files import close_all
from resproto_fd.preprocessing.store.pack import pack
from resproto_fd.preprocessing.store.threads import Threads
from resproto_fd.trainer.augment.transforms import plain_transform, train_transform
from resproto_fd.trainer.batches import EvaluationBatches, TrainBatches
from resproto_fd.trainer.clip_data import ClipDataset
from resproto_fd.trainer.clip_list import ClipList
from resproto_fd.trainer.data import FrameDataset, Normaliser
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.loader import make_loader

SIDE = 256
FRAMES_OF_A_VIDEO = 32
CLIP = 8
"""Frames of a clip."""
PICTURES = 64
OF_LIBRARY = {
    "albumentations": [
        {"HorizontalFlip": {"p": 0.5}},
        {"Rotate": {"limit": 10, "border_mode": cv2.BORDER_REFLECT_101, "p": 0.5}},
        {"GaussianBlur": {"blur_limit": [3, 7], "p": 0.5}},
        {
            "OneOf": {
                "p": 0.5,
                "transforms": [
                    {"RandomBrightnessContrast": {"brightness_limit": 0.1, "contrast_limit": 0.1, "p": 1}},
                    {"FancyPCA": {"alpha": 0.1, "p": 1}},
                    {"HueSaturationValue": {"p": 1}},
                ],
            }
        },
        {"ImageCompression": {"quality_range": [40, 100], "p": 0.5}},
    ]
}
"""DeepfakeBench's recipe, written for Albumentations 2."""
TRANSFORMS = {
    "test": None,
    "train resproto_fd": "resproto_fd",
    "train deepfakebench": "deepfakebench",
    "train albumentations": OF_LIBRARY,
    "test, clips": None,
    "train, clips": "resproto_fd",
}
PEER = {
    ("test", 0): (1.3, 808),
    ("test", 2): (2.0, 986),
    ("train", 0): (2.1, 475),
    ("train", 2): (3.0, 655),
}
"""DeepfakeBench: (CPU ms an image, images a second) by mode and workers."""
PEER_PACKING = 1574


def draw_picture(rng: np.random.Generator) -> np.ndarray:
    """Smooth shapes with a grain whose PNG is as large as that of a compressed video's face."""
    layers = [(6, 60.0), (64, 6.0), (SIDE, 1.0)]
    image = np.full((SIDE, SIDE, 3), 125.0)
    for points, strength in layers:
        colours = 1 if points == SIDE else 3
        noise = rng.normal(0, strength, (points, points, colours)).astype(np.float32)
        image += cv2.resize(noise, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).reshape(SIDE, SIDE, -1)
    return image.clip(0, 255).astype(np.uint8)


def make_frames(root: Path, count: int) -> tuple[Path, float]:
    """Writes frames and their manifest; (the manifest, mean size of a PNG in KiB)."""
    rng = np.random.default_rng(0)
    pictures = [draw_picture(rng) for _ in range(min(PICTURES, count))]
    videos, size = [], 0
    for first in range(0, count, FRAMES_OF_A_VIDEO):
        label = first // FRAMES_OF_A_VIDEO % 2
        kind = ("UADFV_Real", "UADFV_Fake")[label]
        folder = f"Made/{kind}/frames/{first:06d}"
        (root / "rgb" / folder).mkdir(parents=True)
        paths = []
        for i in range(first, min(first + FRAMES_OF_A_VIDEO, count)):
            picture = np.roll(pictures[i % len(pictures)], rng.integers(0, SIDE, 2), axis=(0, 1))
            data = cv2.imencode(".png", picture)[1].tobytes()
            paths.append(f"{folder}/{i - first:03d}.png")
            (root / "rgb" / paths[-1]).write_bytes(data)
            size += len(data)
        videos.append(Video("Made", "test", f"Made/{kind}/{first:06d}", label, kind, "", "", tuple(paths)))
    manifest = root / "dataset_json" / "Made.json"
    write_manifest(manifest, "Made", videos)
    return manifest, size / count / 1024


def processor_seconds(pid: int) -> float:
    """User and system time of all threads of a process, to the nanosecond (Linux's clock of another process)."""
    return time.process_time() if pid == os.getpid() else time.clock_gettime((~pid << 3) | 2)


def own_mib(pid: int) -> float:
    """Memory that is the process's own or shared between processes: without the pages of files, the store's."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem")) / 1024


class Reading:
    """The loader of one kind of reading."""

    def __init__(self, store: Path, frames: FrameList, transform: str, workers: int, args):
        given = InputConfig(size=args.size)
        augment, stores = TRANSFORMS[transform], {"Made": open_store(store)}
        made = train_transform(augment, given, args.augment_on) if augment else plain_transform(given)
        if transform.endswith("clips"):
            clips = ClipList.within(frames, InputConfig(size=args.size, frames=CLIP))
            data = ClipDataset(clips, stores, made, draws=augment is not None)
        else:
            data = FrameDataset(frames, stores, made)
        self.pictures, batch = data.pictures, max(1, args.batch // data.pictures)
        self.batches = (
            TrainBatches(len(data), batch, 1, 0, 1, 0) if augment else EvaluationBatches(len(data), batch, 0, 1)
        )
        self.loader = make_loader(data, self.batches, workers, torch.device(args.device))
        self.epoch = 0

    def go_through(self) -> tuple[int, float, float]:
        """One epoch: (images, wall seconds, processor seconds)."""
        if isinstance(self.batches, TrainBatches):
            self.batches.start(self.epoch)
        self.epoch += 1
        before, begin = self._processor(), time.perf_counter()
        images = sum(len(batch["label"]) for batch in self.loader) * self.pictures
        return images, time.perf_counter() - begin, self._processor() - before

    def processes(self) -> list[int]:
        """This one and its workers."""
        iterator = self.loader._iterator
        return [os.getpid(), *(worker.pid for worker in (iterator._workers if iterator else []))]

    def _processor(self) -> float:
        return sum(map(processor_seconds, self.processes()))


def timed(reading: Reading, passes: int) -> dict[str, float]:
    """The best of some passes after one that warms up."""
    reading.go_through()
    runs = [reading.go_through() for _ in range(passes)]
    return {
        "cpu_ms": min(1000 * processor / images for images, _, processor in runs),
        "images_per_second": max(images / wall for images, wall, _ in runs),
    }


def memory_over(reading: Reading, epochs: int) -> list[float]:
    """MiB of this process and its workers after each epoch."""
    found = []
    for _ in range(epochs):
        reading.go_through()
        found.append(sum(map(own_mib, reading.processes())))
    return found


class MemoryWatch:
    """Samples this process's memory while something runs."""

    def __enter__(self) -> "MemoryWatch":
        self.samples, self._over = [own_mib(os.getpid())], threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def _sample(self) -> None:
        while not self._over.wait(0.02):
            self.samples.append(own_mib(os.getpid()))

    def __exit__(self, *error) -> None:
        self._over.set()
        self._thread.join()

    def halves(self) -> list[float]:
        """MiB added to the start, at most, in the first half of the time and in the second."""
        middle = len(self.samples) // 2
        return [max(part, default=0) - self.samples[0] for part in (self.samples[:middle], self.samples[middle:])]


def time_packing(root: Path, manifest: Path, jobs: int, passes: int) -> dict[str, dict]:
    """Packs in both codecs: frames a second and processor time a frame (the best of some passes), memory, size."""
    figures = {}
    for codec in ("png", "native"):
        runs = []
        for _ in range(passes):
            shutil.rmtree(root / f"{codec}_lmdb", ignore_errors=True)
            with MemoryWatch() as memory:
                begin = time.process_time()
                summary = pack([manifest], root / f"{codec}_lmdb", codec=codec, threads=Threads(jobs))
                runs.append((summary.added / summary.seconds, 1000 * (time.process_time() - begin) / summary.added))
        figures[codec] = {
            "frames_per_second": max(rate for rate, _ in runs),
            "cpu_ms": min(processor for _, processor in runs),
            "memory_mib": memory.halves(),
            "store_mib": summary.size / 2**20,
        }
    return figures


def normalisation_ms(args) -> float:
    """Processor time an image of (x / 255 - mean) / std on this CPU."""
    images = torch.zeros((args.batch, 3, args.size, args.size), dtype=torch.uint8)
    normalise = Normaliser([0.5] * 3, [0.5] * 3, torch.device("cpu"), torch.float32, False)
    normalise(images)
    times = []
    for _ in range(10):
        begin = time.process_time()
        normalise(images)
        times.append(time.process_time() - begin)
    return 1000 * min(times) / args.batch


def read_once(root: Path, frames, codec: str, transform: str, workers: int, args) -> dict:
    """The figures of one codec, transform and number of workers."""
    figures = timed(Reading(root / f"{codec}_lmdb", frames, transform, workers, args), args.passes)
    peer = None if transform.endswith("clips") else PEER.get((transform.split()[0], workers))
    return {"codec": codec, "transform": transform, "workers": workers, **figures, "peer": peer}


def read_path_parser():
    """The arguments of this benchmark."""
    parser = make_parser(__doc__.splitlines()[0])
    parser.set_defaults(device="cpu", threads=1)
    parser.add_argument("--frames", type=int, help="how many (default: 2000)")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, default=224, help="side of the detector's input")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--passes", type=int, help="the best is reported (default: 4)")
    parser.add_argument("--epochs", type=int, help="over which memory is watched (default: 10)")
    parser.add_argument(
        "--augment-on", choices=("host", "device"), default="host", help="device: drawn, not carried out"
    )
    parser.add_argument("--dir", help="where the frames are made (default: the system's folder for such)")
    return parser


def main() -> int:
    args = read_path_parser().parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    args.frames = args.frames or (96 if args.tiny else 2000)
    args.passes = args.passes or (1 if args.tiny else 4)
    args.epochs = args.epochs or (2 if args.tiny else 10)
    if args.augment_on == "device":
        del TRANSFORMS["train deepfakebench"], TRANSFORMS["train albumentations"]
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        root = Path(folder)
        manifest, kib = make_frames(root, args.frames)
        packing = time_packing(root, manifest, jobs=2, passes=args.passes)
        frames = FrameList.of(read_manifest(manifest, "Made", split="test"), None)
        results = [
            read_once(root, frames, codec, transform, workers, args)
            for codec in ("png", "native")
            for transform in TRANSFORMS
            for workers in args.workers
        ]
        watched = Reading(root / "native_lmdb", frames, "train resproto_fd", max(args.workers), args)
        memory = memory_over(watched, args.epochs)
        del watched
        close_all()
    normalising = normalisation_ms(args)
    title = (
        f"{args.frames} frames of {SIDE} x {SIDE} (PNG {kib:.0f} KiB, native 192 KiB), batch {args.batch}, input "
        f"{args.size}, augmented on the {args.augment_on}\n"
        f"packed: {'; '.join(packing_line(codec, figures) for codec, figures in packing.items())}\n"
        f"memory after each of {args.epochs} epochs, MiB: {' '.join(f'{mib:.0f}' for mib in memory)}\n"
        f"normalisation, not in the table: {normalising:.3f} ms an image on this CPU"
    )
    figures = {
        "benchmark": "read_path",
        "frames": args.frames,
        "png_kib": kib,
        "batch": args.batch,
        "size": args.size,
        "augment_on": args.augment_on,
        "results": results,
        "packing": packing,
        "memory_mib": memory,
        "normalisation_ms": normalising,
    }
    report(title, [row_of(result) for result in results], figures, args)
    return 0


def packing_line(codec: str, figures: dict) -> str:
    """For people."""
    peer = f" (peer {PEER_PACKING})" if codec == "png" else ""
    first, second = figures["memory_mib"]
    return (
        f"{codec} {figures['frames_per_second']:.0f} frames/s{peer}, {figures['cpu_ms']:.3f} ms CPU a frame, "
        f"memory +{first:.0f} MiB in the first half, +{second:.0f} in the second"
    )


def row_of(result: dict) -> dict[str, str]:
    """A line of the table."""
    peer = result["peer"] or (None, None)
    return {
        "store": result["codec"],
        "transform": result["transform"],
        "workers": str(result["workers"]),
        "CPU ms/image": f"{result['cpu_ms']:.3f}",
        "peer": f"{peer[0]:.1f}" if peer[0] else "",
        "images/s": f"{result['images_per_second']:.0f}",
        "peer's": f"{peer[1]}" if peer[1] else "",
    }


if __name__ == "__main__":
    sys.exit(main())
