"""What the trainer's loop costs beside a bare PyTorch loop on the same model, batch and optimiser.

    python benchmarks/train_step.py

The trainer trains ResProto-FD, prototypes collected, on images in memory, with everything it does in a run: batches
dealt out and normalised, schedule, gradient norm, checks and TensorBoard at the logging interval. After each burst of
its steps comes a burst of the bare loop on a copy of the model: forward, backward, optimiser, on one batch that lies
on the device ready made. Both take turns in one process, so that whatever else the machine does falls on both.
"""

import contextlib
import copy
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import Seconds, add_model_arguments, add_workers, autocast, backbone, clock, make_parser, parse, report

from resproto_fd.configs.schema import RunConfig
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.base import Detector
from resproto_fd.preprocessing.video import Video
from resproto_fd.trainer.augment.transforms import plain_transform
from resproto_fd.trainer.data import FrameDataset
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.trainer import Trainer


class OneImage:
    """A frame store in which every frame is the same."""

    def __init__(self, size: int):
        self.image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)

    def read_each(self, paths: Sequence[str]) -> Iterator[np.ndarray]:
        return (self.image for _ in paths)


class BareLoop:
    """Forward, backward and optimiser on one batch, as one would write them."""

    def __init__(self, detector: torch.nn.Module, batch: int, size: int, args: Namespace):
        self.detector, self.args = detector.to(args.device).train(), args
        detector.start_training(torch.tensor([1, 4]))
        detector.start_epoch(0)
        trained = [p for p in detector.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(trained, lr=5e-7, weight_decay=1e-6, fused=True)
        self.images = torch.randn(batch, 3, size, size, device=args.device)
        self.labels = (torch.arange(batch, device=args.device) % 5 > 0).long()

    def step(self) -> None:
        with autocast(self.args):
            loss = self.detector(self.images, self.labels).losses["total"]
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.detector.after_step()


class TimedTrainer(Trainer):
    """Takes turns with a bare loop: its own steps are timed from the end of one bare burst to the start of the next."""

    def take_turns_with(self, bare: BareLoop, burst: int) -> None:
        self.bare, self.burst = bare, burst
        self.steps_done, self.since = 0, None
        self.seconds, self.bare_seconds = Seconds(), Seconds()

    def _step(self, micro: list[dict]) -> None:
        super()._step(micro)
        self.steps_done += 1
        if self.steps_done % self.burst:
            return
        device = self.world.device.type
        begin = clock(device)
        for _ in range(self.burst):
            self.bare.step()
        end = clock(device)
        if self.since is not None:  # the first burst warms up
            self.seconds.add(self.since, begin, self.burst)
            self.bare_seconds.add(begin, end, self.burst)
        self.since = end


def subject(args: Namespace, batch: int) -> tuple[Detector, RunConfig]:
    """ResProto-FD with random weights, and the configuration of a run that trains it on images in memory."""
    detector = create_detector("resproto_fd", backbone=backbone(args), pretrained=None, start_epoch=0)
    size = detector.clip.visual.image_size
    train = {
        "epochs": 1,
        "batch_size": batch,
        "precision": args.precision,
        "optimizer": {"name": "adam", "lr": 5e-7, "weight_decay": 1e-6},
    }
    config = RunConfig.model_validate(
        {
            "detector": {
                "detector": "resproto_fd",
                "input": {"size": size[0] if isinstance(size, tuple) else size},
                "train": train,
            },
            "protocol": {"train": ["Memory"], "test": ["Memory"], "selection": {"dataset": "Memory"}},
            "run": {"workers": args.workers, "progress": False, "save_checkpoints": False},
        }
    )
    return detector, config


def frames_in_memory(count: int, config: RunConfig) -> FrameDataset:
    """One real to four forged frames, all the same image."""
    videos = [
        Video("Memory", "train", name, label, name, name, "real" if label == 0 else "face swap", frames)
        for label, name in enumerate(("real", "forged"))
        for frames in [tuple(f"{name}/{i:06d}.png" for i in range(count // 5 if label == 0 else count - count // 5))]
    ]
    given = config.detector.input
    return FrameDataset(FrameList.of(videos, None), {"Memory": OneImage(given.size)}, plain_transform(given))


def measure(args: Namespace, batch: int) -> dict[str, Any]:
    torch.manual_seed(0)
    detector, config = subject(args, batch)
    bare = BareLoop(copy.deepcopy(detector), batch, config.detector.input.size, args)
    data = frames_in_memory(batch * args.burst * (args.steps + 1), config)
    with tempfile.TemporaryDirectory() as folder:
        trainer = TimedTrainer(detector, data, config, World(0, 1, torch.device(args.device)), Path(folder))
        trainer.take_turns_with(bare, args.burst)
        with contextlib.redirect_stdout(sys.stderr):  # the trainer's line at the end of an epoch
            trainer.fit()
    ours, theirs = np.median(trainer.seconds.wall).item(), np.median(trainer.bare_seconds.wall).item()
    return {
        "batch": batch,
        "trainer_ms": ours * 1e3,
        "bare_ms": theirs * 1e3,
        **trainer.seconds.ratios(trainer.bare_seconds),
        "images_per_second": batch / ours,
    }


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    add_model_arguments(parser)
    add_workers(parser, on_gpu=4)
    args = parse(parser)
    results = [measure(args, batch) for batch in args.batch]
    rows = [
        {
            "batch": str(figures["batch"]),
            "trainer ms": f"{figures['trainer_ms']:.1f}",
            "bare loop ms": f"{figures['bare_ms']:.1f}",
            "ratio (quartiles)": "{ratio:.4f} ({ratio_low:.3f}-{ratio_high:.3f})".format(**figures),
            "CPU ratio": f"{figures['ratio_cpu']:.4f}",
            "images/s": f"{figures['images_per_second']:.1f}",
        }
        for figures in results
    ]
    figures = {"benchmark": "train_step", "model": args.model, "precision": args.precision, "rounds": args.steps}
    title = f"The trainer's step of ResProto-FD, {args.model}, {args.precision}, against a bare PyTorch loop"
    report(title, rows, {**figures, "burst": args.burst, "results": results}, args)


if __name__ == "__main__":
    main()
