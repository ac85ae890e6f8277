"""Two small runs on one device: the time of both at once beside that of one after the other.

    python benchmarks/sharing.py

Each run is a process of its own in which the trainer trains ResProto-FD on images in memory, the start of its data
workers included. The processes live through all rounds (`--steps`). A round times the first alone, the second alone,
and both at once; one more round warms up. A ratio of 1 is no gain, 0.5 is as if each had the device for itself.
"""

import contextlib
import multiprocessing
import sys
import tempfile
import time
from argparse import Namespace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import add_model_arguments, add_workers, card_peak_mib, make_parser, parse, report
from train_step import frames_in_memory, subject

from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.trainer import Trainer

RUNS = 2


def serve(args: Namespace, batch: int, number: int, line: Connection) -> None:
    """A process: one training run for each order that comes; the answer is its peak of memory on the card, in MiB."""
    torch.set_num_threads(args.threads)
    torch.manual_seed(number)
    detector, config = subject(args, batch)
    data = frames_in_memory(batch * args.run_steps, config)
    world = World(0, 1, torch.device(args.device))
    while line.recv():
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            Trainer(detector, data, config, world, Path(folder)).fit()
        line.send(card_peak_mib(args.device))


def seconds_of(lines: list[Connection]) -> tuple[float, list[float | None]]:
    """(Wall seconds until all of these runs are over, their peaks of memory)."""
    begin = time.perf_counter()
    for line in lines:
        line.send(True)
    peaks = [line.recv() for line in lines]
    return time.perf_counter() - begin, peaks


def measure(args: Namespace, batch: int) -> dict[str, Any]:
    """Figures at one size of batch."""
    context = multiprocessing.get_context("spawn")  # a fork cannot use CUDA
    lines, processes = [], []
    try:
        for number in range(RUNS):
            ours, theirs = context.Pipe()
            processes.append(context.Process(target=serve, args=(args, batch, number, theirs)))
            processes[-1].start()
            theirs.close()  # so that a process that dies ends the wait for its answer
            lines.append(ours)
        rounds, peaks = [], []
        for r in range(args.steps + 1):
            alone = sum(seconds_of([line])[0] for line in lines)
            both, peaks = seconds_of(lines)
            if r:
                rounds.append((alone, both))
        for line in lines:
            line.send(False)
    finally:
        for line in lines:
            line.close()
        for process in processes:
            process.join(20)
            if process.is_alive():
                process.kill()
    alone, both = np.transpose(rounds)
    low, middle, high = np.quantile(both / alone, [0.25, 0.5, 0.75]).tolist()
    return {
        "batch": batch,
        "one_after_the_other_s": float(np.median(alone)),
        "beside_s": float(np.median(both)),
        "ratio": middle,
        "ratio_low": low,
        "ratio_high": high,
        "images_per_second": RUNS * batch * args.run_steps / float(np.median(both)),
        "peak_mib": peaks,
    }


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    add_model_arguments(parser)
    add_workers(parser, on_gpu=2)  # of each run
    parser.add_argument("--run-steps", type=int, help="training steps of a run; 100 on a GPU, 10 on a CPU")
    parser.set_defaults(threads=1)
    args = parse(parser)
    args.run_steps = args.run_steps or (2 if args.tiny else 100 if args.device.startswith("cuda") else 10)
    results = [measure(args, batch) for batch in args.batch]
    rows = [
        {
            "batch": str(figures["batch"]),
            "one after the other s": f"{figures['one_after_the_other_s']:.2f}",
            "beside s": f"{figures['beside_s']:.2f}",
            "ratio (quartiles)": "{ratio:.3f} ({ratio_low:.3f}-{ratio_high:.3f})".format(**figures),
            "images/s, both": f"{figures['images_per_second']:.1f}",
            "card peak MiB, each": " ".join("-" if peak is None else f"{peak:.0f}" for peak in figures["peak_mib"]),
        }
        for figures in results
    ]
    figures = {"benchmark": "sharing", "model": args.model, "precision": args.precision, "rounds": args.steps}
    title = f"Two runs of {args.run_steps} steps each on one device, ResProto-FD, {args.model}, {args.precision}"
    report(title, rows, {**figures, "steps": args.run_steps, "workers": args.workers, "results": results}, args)


if __name__ == "__main__":
    main()
