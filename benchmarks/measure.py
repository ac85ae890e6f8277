"""What the benchmarks share: arguments, steps taken in turn, the machine in words, the table and the JSON line."""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
"""Layout of a CLIP model that steps in milliseconds: to see that a benchmark runs."""


def make_parser(description: str) -> argparse.ArgumentParser:
    """The arguments all benchmarks have."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--tiny", action="store_true", help="a tiny configuration: only shows that it runs")
    parser.add_argument("--json-only", action="store_true", help="print the line of JSON alone")
    return parser


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of benchmarks of a training step; what is left out depends on the device (`parse`)."""
    parser.add_argument("--model", default="ViT-B-16", help="CLIP model of open_clip, random weights")
    parser.add_argument("--batch", type=int, nargs="+", help="images a step; on a GPU several are taken one by one")
    parser.add_argument("--precision", choices=("fp32", "bf16"), help="bf16 is autocast")
    parser.add_argument("--steps", type=int, help="rounds to time")
    parser.add_argument("--burst", type=int, help="steps of one kind in a row in each round")


def add_workers(parser: argparse.ArgumentParser, on_gpu: int) -> None:
    """The number of data workers, which depends on the device (`parse`)."""
    parser.add_argument("--workers", type=int, help=f"processes that load; 0 on a CPU, {on_gpu} on a GPU")
    parser.set_defaults(workers_on_gpu=on_gpu)


def parse(parser: argparse.ArgumentParser, arguments: list[str] | None = None) -> argparse.Namespace:
    """The arguments, with the device's defaults put in, and the threads set."""
    args = parser.parse_args(arguments)
    torch.set_num_threads(args.threads)
    gpu = args.device.startswith("cuda")
    if hasattr(args, "workers_on_gpu") and args.workers is None:
        args.workers = args.workers_on_gpu if gpu else 0
    if hasattr(args, "model"):
        args.model = "tiny" if args.tiny else args.model
        args.batch = args.batch or ([4] if args.tiny else [32, 256] if gpu else [8])
        args.precision = args.precision or ("bf16" if gpu else "fp32")
        args.steps = args.steps or (2 if args.tiny else 20 if gpu else 9)
        args.burst = args.burst or (10 if gpu else 1)
    return args


def backbone(args: argparse.Namespace) -> str | dict[str, Any]:
    """The `backbone` of a CLIP detector."""
    return TINY if args.tiny else args.model


def autocast(args: argparse.Namespace):
    """The context that the precision asks for."""
    return torch.autocast(args.device.split(":")[0], torch.bfloat16) if args.precision == "bf16" else nullcontext()


@dataclass
class Seconds:
    """Per step, one number a round: by the clock on the wall, and of processor time that this process used.

    The second is the steadier one on a CPU that others use too; it says nothing about a GPU.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, begin: tuple[float, float], end: tuple[float, float], steps: int) -> None:
        """Note a number of steps between two readings of `clock`."""
        self.wall.append((end[0] - begin[0]) / steps)
        self.cpu.append((end[1] - begin[1]) / steps)

    def ratios(self, base: "Seconds") -> dict[str, float]:
        """Median of the per-round ratios to the base's, its quartiles, and the median in processor time."""
        low, middle, high = np.quantile(np.divide(self.wall, base.wall), [0.25, 0.5, 0.75]).tolist()
        processor = np.median(np.divide(self.cpu, base.cpu)).item()
        return {"ratio": middle, "ratio_low": low, "ratio_high": high, "ratio_cpu": processor}


def clock(device: str) -> tuple[float, float]:
    """(wall, processor) seconds, once all that the device was given is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


def card_peak_mib(device: str) -> float | None:
    """Most MiB that this process's tensors took on the card so far; None on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.startswith("cuda") else None


def in_turn(steps: dict[str, Callable[[], None]], rounds: int, burst: int, device: str) -> dict[str, Seconds]:
    """Seconds per step of each kind.

    Every round takes each kind once, the first one changing, so that whatever else the machine does falls on all of
    them; one more round warms up.
    """
    seconds = {name: Seconds() for name in steps}
    names = list(steps)
    for r in range(rounds + 1):
        turn = r % len(names)
        for name in names[turn:] + names[:turn]:
            begin = clock(device)
            for _ in range(burst):
                steps[name]()
            if r:
                seconds[name].add(begin, clock(device), burst)
    return seconds


def machine(args: argparse.Namespace) -> str:
    """The machine in words, without its name."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    words = f"{cpu}, {os.cpu_count()} cores, {args.threads} threads used"
    if args.device.startswith("cuda"):
        words = f"{torch.cuda.get_device_name(args.device)}; {words}"
    return f"{words}; torch {torch.__version__}, Python {platform.python_version()}"


def report(title: str, rows: list[dict[str, str]], figures: dict[str, Any], args: argparse.Namespace) -> None:
    """Prints the rows as a table, and last the figures as one line of JSON (alone with --json-only)."""
    figures = {"machine": machine(args), "device": args.device, "tiny": args.tiny, **figures}
    if not args.json_only:
        widths = {key: max(len(key), *(len(row[key]) for row in rows)) for key in rows[0]}
        print(f"{title}\n{figures['machine']}\n")
        first = next(iter(widths))
        for row in [dict(zip(widths, widths, strict=True)), *rows]:
            print("  ".join(row[key].ljust(w) if key == first else row[key].rjust(w) for key, w in widths.items()))
        print()
    print(json.dumps(figures))
