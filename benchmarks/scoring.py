"""From a native store to scores: what the read path gives beside what the device takes, and both together.

    python benchmarks/scoring.py

Frames are made and packed as in read_path.py. Images a second, medians of some passes after one that warms up:

- store, test and store, train: the read path alone, with the plain transform and with ResProto-FD's augmentation;
- device, test and device, train: normalisation and forward pass in full precision, and ResProto-FD's training step in
  the precision asked for, on a batch that lies on the device;
- scored: frames of the store to scores by the function that `resproto test` calls, the start of its data workers
  included.

A share is what the store gives over what the device takes: below 1 the device waits.
"""

import os
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from grp_overhead import Subject
from measure import add_model_arguments, add_workers, card_peak_mib, clock, in_turn, make_parser, parse, report
from read_path import Reading, make_frames

from resproto_fd.configs.schema import InputConfig
from resproto_fd.preprocessing.manifest import read_manifest
from resproto_fd.preprocessing.store.frame_store import open_store
from resproto_fd.preprocessing.store.lmdb_files import close_all
from resproto_fd.preprocessing.store.pack import pack
from resproto_fd.preprocessing.store.threads import Threads
from resproto_fd.trainer.augment.transforms import plain_transform
from resproto_fd.trainer.data import FrameDataset, Normaliser
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.scoring import ScoringOptions, score_frames

STORES = {"test": "test", "train": "train resproto_fd"}


def median_rate(go_through: Callable[[], int], passes: int, device: str) -> float:
    """Images a second, the median of some passes after one that warms up."""
    go_through()
    rates = []
    for _ in range(passes):
        begin, _ = clock(device)
        images = go_through()
        rates.append(images / (clock(device)[0] - begin))
    return float(np.median(rates))


def device_rates(subject: Subject, normalise: Normaliser, batch: int, args: Namespace) -> dict[str, float]:
    """Images a second that the device tests and trains on, given ready batches."""
    raw = torch.zeros((batch, 3, *subject.images.shape[2:]), dtype=torch.uint8, device=args.device)

    @torch.no_grad()
    def test() -> None:
        subject.detector.eval()
        subject.detector(normalise(raw))

    def train() -> None:
        subject.detector.train()
        subject.ours(collects=True)

    seconds = in_turn({"test": test, "train": train}, args.steps, args.burst, args.device)
    return {name: batch / float(np.median(found.wall)) for name, found in seconds.items()}


def measure(args: Namespace, batch: int, root: Path, frames: FrameList) -> dict[str, Any]:
    """Figures at one size of batch."""
    subject = Subject(args, batch)
    given = InputConfig(size=subject.images.shape[-1])
    own = Namespace(**vars(args) | {"batch": batch, "size": given.size, "augment_on": "host"})
    store = {}
    for name, transform in STORES.items():
        reading = Reading(root / "native_lmdb", frames, transform, args.workers, own)
        store[name] = median_rate(lambda reading=reading: reading.go_through()[0], args.passes, args.device)
        del reading  # its workers end
    device = torch.device(args.device)
    normalise = Normaliser(given.channel_mean(), given.channel_std(), device, torch.float32, False)
    takes = device_rates(subject, normalise, batch, args)
    data = FrameDataset(frames, {"Made": open_store(root / "native_lmdb")}, plain_transform(given))
    options = ScoringOptions(batch, args.workers, progress=False)
    world = World(0, 1, device)
    scored = median_rate(
        lambda: len(score_frames(subject.detector, data, normalise, world, options).scores), args.passes, args.device
    )
    return {
        "batch": batch,
        "store": store,
        "takes": takes,
        "share": {name: store[name] / takes[name] for name in STORES},
        "scored": scored,
        "peak_mib": card_peak_mib(args.device),
    }


def rows_of(figures: dict[str, Any]) -> list[dict[str, str]]:
    """Lines of the table for one size of batch."""
    memory = f"{figures['peak_mib']:.0f}" if figures["peak_mib"] is not None else "-"
    return [
        {
            "pass": name,
            "batch": str(figures["batch"]),
            "store images/s": f"{figures['store'][name]:.0f}",
            "device images/s": f"{figures['takes'][name]:.0f}",
            "share": f"{figures['share'][name]:.2f}",
            "scored images/s": f"{figures['scored']:.0f}" if name == "test" else "-",
            "card peak MiB": memory,
        }
        for name in STORES
    ]


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    add_model_arguments(parser)
    parser.add_argument("--frames", type=int, help="how many (default: 2000)")
    parser.add_argument("--passes", type=int, help="over the frames, timed (default: 5)")
    add_workers(parser, on_gpu=min(8, os.cpu_count() or 1))
    args = parse(parser)
    args.frames = args.frames or (64 if args.tiny else 2000)
    args.passes = args.passes or (2 if args.tiny else 5)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        manifest, _ = make_frames(root, args.frames)
        pack([manifest], root / "native_lmdb", codec="native", threads=Threads(os.cpu_count() or 1))
        frames = FrameList.of(read_manifest(manifest, "Made", split="test"), None)
        results = [measure(args, batch, root, frames) for batch in args.batch]
        close_all()
    figures = {"benchmark": "scoring", "model": args.model, "precision": args.precision, "frames": args.frames}
    title = f"{args.frames} frames of a native store, ResProto-FD, {args.model}, {args.workers} data workers"
    rows = [row for result in results for row in rows_of(result)]
    report(title, rows, {**figures, "workers": args.workers, "passes": args.passes, "results": results}, args)


if __name__ == "__main__":
    main()
