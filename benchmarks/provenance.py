"""What it costs that scores know what they were made from: a fresh test, the look before a kept one is trusted.

    python benchmarks/provenance.py             # 2000 frames, some minutes on two cores

Frames of 256 x 256 are packed in both codecs. `CPU ms/frame` is the processor time of a frame of a test, from the store
through a small detector. `checksums` is what they add to reading (rounds taken in turn), `once` what a test set adds:
hashes of the frame list, of the detector's code and of the pixels; both with their share of the test's time. `trusted`
is the look at a kept score table whose files have not changed; `compared` the look at one whose files have other times,
so that every frame is read again. A training step has no part of this: what weights carry is made once an epoch.

The last line is one JSON object; with --json-only it is the only one.
"""
# ruff: noqa: E402  (threads are capped before NumPy and torch are imported)

import os
import statistics
import sys
import tempfile
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import torch
from measure import in_turn, make_parser, report
from read_path import make_frames

from resproto_fd.configs import loading
from resproto_fd.detectors.registry import build_detector
from resproto_fd.detectors.weights import tensors_sha256
from resproto_fd.preprocessing.manifest import read_manifest
from resproto_fd.preprocessing.store.frame_store import open_store
from resproto_fd.preprocessing.store.lmdb_files import close_all
from resproto_fd.preprocessing.store.pack import pack
from resproto_fd.preprocessing.store.threads import Threads
from resproto_fd.trainer.augment.transforms import plain_transform
from resproto_fd.trainer.batches import EvaluationBatches
from resproto_fd.trainer.data import FrameDataset, Normaliser
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.scoring import ScoringOptions, score_frames
from resproto_fd.training import provenance
from resproto_fd.training.scores import ScoreTable

BATCH = 64
CPU = World(0, 1, torch.device("cpu"))


class Test:
    """A test of one store by one detector."""

    def __init__(self, root: Path, codec: str, frames: FrameList, config):
        self.frames, self.config = frames, config
        self.stores = {"Made": open_store(root / f"{codec}_lmdb")}
        self.detector = build_detector(config)
        given = config.input
        self.normalise = Normaliser(given.channel_mean(), given.channel_std(), CPU.device, torch.float32, False)

    def data(self, checksums: bool) -> FrameDataset:
        """The frames, as a test reads them."""
        return FrameDataset(self.frames, self.stores, plain_transform(self.config.input), checksums=checksums)

    def read(self, checksums: bool) -> None:
        """Reads every frame."""
        data = self.data(checksums)
        for keys in EvaluationBatches(len(data), BATCH, 0, 1):
            data.__getitems__(keys)

    def score(self):
        """Scores every frame."""
        return score_frames(self.detector, self.data(True), self.normalise, CPU, ScoringOptions(BATCH, progress=False))

    def parts(self) -> dict:
        """All parts but the pixels."""
        return provenance.detector_parts(self.config, self.detector, "0" * 64, BATCH) | provenance.frame_parts(
            self.frames, {}
        )

    def table(self) -> ScoreTable:
        """The score table that a test keeps."""
        scored = self.score()
        made_from = self.parts() | {"pixels": provenance.pixels_part(scored.checksums)}
        files = provenance.identity_of(self.frames, self.stores)
        made = {"made_from": made_from, "checksums": scored.checksums, "files": files}
        return ScoreTable.of_frames("Made", self.frames, scored.scores, **made)

    def differences(self, table: ScoreTable, files: str | None) -> list[str]:
        """The look at a kept table."""
        return provenance.differences(
            table,
            self.parts(),
            self.frames,
            {},
            files or provenance.identity_of(self.frames, self.stores),
            lambda: provenance.stored_checksums(self.frames, self.stores, 1, False),
        )


def seconds(work, rounds: int) -> float:
    """Median processor time of a call, after one that warms up."""
    return statistics.median(in_turn({"work": work}, rounds, 1, "cpu")["work"].cpu)


def measure(test: Test, rounds: int) -> dict[str, float]:
    """Seconds of processor time of each part, for all frames."""
    reading = in_turn({"without": lambda: test.read(False), "with": lambda: test.read(True)}, rounds, 1, "cpu")
    added = [a - b for a, b in zip(reading["with"].cpu, reading["without"].cpu, strict=True)]
    table = test.table()

    def once() -> None:
        provenance.identity_of(test.frames, test.stores)
        test.parts()
        provenance.pixels_part(table.checksums)

    if test.differences(table, None) or test.differences(table, "other"):
        raise AssertionError("an unchanged table is said to differ")
    return {
        "test": seconds(test.score, 1 if rounds == 1 else 2),
        "checksums": statistics.median(added),
        "once": seconds(once, rounds),
        "trusted": seconds(lambda: test.differences(table, None), rounds),
        "compared": seconds(lambda: test.differences(table, "other"), rounds),
    }


def row_of(codec: str, found: dict[str, float], count: int) -> dict[str, str]:
    """A line of the table."""
    checksums, once = (f"({100 * found[name] / found['test']:.2f} %)" for name in ("checksums", "once"))
    return {
        "store": codec,
        "CPU ms/frame": f"{1000 * found['test'] / count:.3f}",
        "checksums": f"{1000 * found['checksums'] / count:.4f} ms {checksums}",
        "once": f"{1000 * found['once']:.0f} ms {once}",
        "trusted": f"{1000 * found['trusted']:.0f} ms",
        "compared": f"{found['compared']:.2f} s",
    }


def main() -> int:
    parser = make_parser(__doc__.splitlines()[0])
    parser.set_defaults(device="cpu", threads=1)
    parser.add_argument("--frames", type=int, help="how many (default: 2000)")
    parser.add_argument("--rounds", type=int, help="the median is reported (default: 15)")
    parser.add_argument("--detector", default="resnet_tiny", help="a preset, the quicker the more telling")
    parser.add_argument("--dir", help="where the frames are made (default: the system's folder for such)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    count, rounds = args.frames or (96 if args.tiny else 2000), args.rounds or (1 if args.tiny else 15)
    config = loading.load("detectors", args.detector)
    results = {}
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        root = Path(folder)
        manifest, _ = make_frames(root, count)
        frames = FrameList.of(read_manifest(manifest, "Made", split="test"), None)
        for codec in ("native", "png"):
            pack([manifest], root / f"{codec}_lmdb", codec=codec, threads=Threads(2))
            results[codec] = measure(Test(root, codec, frames, config), rounds)
        close_all()
    state = build_detector(config).state_dict()
    size = sum(value.nbytes for value in state.values()) / 2**20
    weights = seconds(lambda: tensors_sha256(state), rounds)
    rows = [row_of(codec, found, count) for codec, found in results.items()]
    title = (
        f"{count} frames of 256 x 256, {args.detector}; medians of {rounds} rounds\n"
        f"hash of {size:.1f} MiB of weights: {1000 * weights:.1f} ms an epoch"
    )
    figures = {"benchmark": "provenance", "frames": count, "rounds": rounds, "detector": args.detector}
    figures |= {"results": results, "weights_seconds": weights, "weights_mib": size}
    report(title, rows, figures, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
