"""A small trial on what is not made: CLIP's real image tower, real and generated faces, the ordinary commands.

    python benchmarks/real_weights.py --work /tmp/trial --threads 1

It needs a folder (`--shared`, default ../shared beside the checkout) with two programs: `tools/real_clip.py` writes
the weights, and `tools/real_protocol.py` lays the pictures of `real/` out as a protocol with the test sets R1
(in-domain), R2 and R3. What they made before is taken from `--clip FILE` and `--real FOLDER`. Then `resproto train`
fits each detector for a few epochs; `resproto test` scores ResProto-FD again with balanced neighbours. A table shows
the frame AUC with its 95 % interval, and the accuracy at 0.5 and at a threshold fixed on the validation split (the
equal error rate's). Training is in bf16; on a CPU, matrix products of tests round their factors to bf16 as well. A CPU
without AVX-512 is slow at that and computes in fp32 (`--precision` says otherwise).

Pictures, weights and runs stay in `--work` (a folder that is deleted at the end, if none is given). A run that is there
is not trained again. A line of JSON goes to the error stream as each row ends.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measure import make_parser, parse, report

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.weights import read_state_dict
from resproto_fd.training.cli import main as main_of_resproto
from resproto_fd.training.results import RunResult

SHARED = Path(__file__).resolve().parents[2] / "shared"
TOWER = "vit_base_patch16_clip_quickgelu_224"
"""timm's name of CLIP's image tower."""


class Row(NamedTuple):
    """A detector of the table.

    Attributes:
        detector: Its preset.
        starts: Where its weights begin, in words.
        epochs: How many; the command line can set another number for all.
        words: Settings; {clip} and {tower} stand for the files of weights.
    """

    detector: str
    starts: str
    epochs: int
    words: tuple[str, ...]


CLIP = ("model.pretrained={clip}", "model.quick_gelu=true")
SLOW = "train.optimizer.lr=1e-5"
ROWS = {
    "border_tiny": Row("border_tiny", "random", 10, ()),
    "meso4Inception": Row("meso4Inception", "random", 10, ()),
    "resproto_fd": Row("resproto_fd", "CLIP", 2, (*CLIP, SLOW, "model.start_epoch=1")),
    "clip": Row("clip", "CLIP", 2, (*CLIP, SLOW)),
    "clip_probe": Row("clip_probe", "CLIP, frozen", 4, (*CLIP, "train.batch_size=32")),
    "vit_b16": Row(
        "vit_b16",
        "CLIP's tower",
        2,
        (f"model.backbone={TOWER}", "model.pretrained={tower}", SLOW, "input.mean=clip", "input.std=clip"),
    ),
    "resnet34": Row("resnet34", "random", 4, ("model.pretrained=null",)),
}
TINY_ROWS = {
    "resproto_fd": Row(
        "resproto_fd_tiny", "random", 1, ("model.start_epoch=0", "model.capacity=4", "train.batch_size=8")
    ),
    "border_tiny": Row("border_tiny", "random", 1, ()),
}
BALANCED = "balanced"


def program(words: list[str | Path], args: argparse.Namespace) -> None:
    """Runs a program of the shared folder with this Python; what it prints goes to the error stream.

    Raises:
        UserError: It fails.
    """
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads)}
    done = subprocess.run([sys.executable, *map(str, words)], env=env, stdout=sys.stderr)
    if done.returncode:
        raise UserError(f"{words[0]} ended with {done.returncode}; see above")


def resproto(*words: str | Path) -> None:
    """Runs `resproto` with these words in this process, which spares the imports.

    Raises:
        UserError: It fails.
    """
    with contextlib.redirect_stdout(sys.stderr):
        status = main_of_resproto([str(word) for word in words])
    if status:
        raise UserError(f"resproto {' '.join(map(str, words[:3]))} ... ended with {status}; see above")


def tool(args: argparse.Namespace, name: str) -> Path:
    """A program of the shared folder.

    Raises:
        UserError: It is not there.
    """
    found = args.shared / "tools" / name
    if not found.is_file():
        raise UserError(
            f"--shared: expected a folder with tools/{name} in it, got {args.shared}; set --shared FOLDER, or "
            "--clip FILE and --real FOLDER to what these programs made before"
        )
    return found


def prepared(args: argparse.Namespace) -> tuple[dict[str, Path], Path]:
    """(Files of weights by name, folder of the protocol); made in the working folder, if they are not given.

    Raises:
        UserError: The shared folder lacks a program, or a given path does not exist.
    """
    clip, protocol = args.clip or args.work / "clip_b16.pt", args.real or args.work / "real"
    for given, found, option in ((args.clip, clip.is_file(), "--clip"), (args.real, protocol.is_dir(), "--real")):
        if given and not found:
            raise UserError(f"{option}: there is no {given}")
    if not (protocol / "real.yaml").is_file():
        script = Path(sys.executable).with_name("resproto")
        program([tool(args, "real_protocol.py"), protocol, "--resproto", script], args)
    if args.tiny:
        return {}, protocol
    if not clip.is_file():
        program([tool(args, "real_clip.py"), clip], args)
    tower = args.work / "tower.pt"
    if not tower.is_file():
        write_tower(clip, tower)
    return {"clip": clip, "tower": tower}, protocol


def write_tower(clip: Path, to: Path) -> None:
    """Writes the image tower of open_clip's file in timm's naming, without the projection to the texts' space."""
    import timm
    from timm.models.vision_transformer import checkpoint_filter_fn

    model = timm.create_model(TOWER, num_classes=0)
    state = checkpoint_filter_fn(read_state_dict(str(clip)), model)
    torch.save({key: value for key, value in state.items() if not key.startswith("head.")}, to)


def trained(row: Row, files: dict[str, Path], protocol: Path, args: argparse.Namespace) -> tuple[RunResult, float]:
    """A row's result and the seconds that training and testing took, this time."""
    folder = args.work / "runs" / protocol_name(protocol) / row.detector / f"seed{args.seed}"
    begin = time.perf_counter()
    words = [word.format(**files) for word in row.words]
    resproto(
        *("train", "--detector", row.detector, "--protocol", protocol / "real.yaml"),
        *("--out", args.work / "runs", "--seed", args.seed, f"data.root={protocol / 'data'}"),
        *(
            f"train.precision={args.precision}",
            "train.schedule.name=constant",
            f"train.epochs={args.epochs or row.epochs}",
        ),
        *(f"run.device={args.device}", "run.workers=0", "run.progress=false", "run.keep=1", *words),
    )
    return RunResult.load(folder / "result.json"), time.perf_counter() - begin


def balanced(row: Row, protocol: Path, args: argparse.Namespace) -> tuple[RunResult, float]:
    """The trained ResProto-FD, scored with the same number of neighbours of each class."""
    runs, begin = args.work / "runs" / protocol_name(protocol), time.perf_counter()
    resproto(
        *("test", "--detector", row.detector, "--protocol", protocol / "real.yaml"),
        *("--weights", runs / row.detector / f"seed{args.seed}" / "best.pt", "--out", args.work / "runs"),
        *("--task_target", BALANCED, f"data.root={protocol / 'data'}", f"model.neighbours={BALANCED}"),
        *(f"run.device={args.device}", "run.workers=0", "run.progress=false"),
    )
    result = runs / f"{row.detector}_{BALANCED}" / f"seed{args.seed}" / "result.json"
    return RunResult.load(result), time.perf_counter() - begin


def protocol_name(protocol: Path) -> str:
    """The folder of a protocol's runs."""
    from resproto_fd.configs import loading

    return loading.load("protocols", str(protocol / "real.yaml")).name


def figures_of(name: str, row: Row, result: RunResult, seconds: float) -> dict[str, Any]:
    """What the JSON line holds of a row."""
    sets = {}
    for key, test in result.tests.items():
        interval, carried = test.intervals.get("frame_auc"), test.transfer.get("eer")
        sets[key] = {
            "frames": test.frames,
            "auc": test.frame_auc,
            "low": interval and interval.low,
            "high": interval and interval.high,
            "acc": test.frame_acc,
            "carried_acc": carried and carried.acc,
        }
    selected = result.selected_on
    return {
        "row": name,
        "starts": row.starts,
        "epoch": selected.epoch,
        "val_auc": selected.value,
        "seconds": seconds,
        "note": result.note,
        "tests": sets,
    }


def cells(figures: dict[str, Any]) -> dict[str, str]:
    """A row of the table."""

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}".replace("0.", ".", 1)

    def rate(test: dict[str, Any]) -> str:
        return f"{number(test['auc'])} ({number(test['low'])}-{number(test['high'])})"

    def both(key: str) -> str:
        return " ".join(number(test[key]) for test in figures["tests"].values())

    aucs = {f"{name}, AUC": rate(test) for name, test in figures["tests"].items()}
    return {
        "detector": figures["row"],
        "starts from": figures["starts"],
        **aucs,
        "ACC at .5": both("acc"),
        "ACC, carried": both("carried_acc"),
        "s": f"{figures['seconds']:.0f}",
    }


def quick_precision(device: str) -> str:
    """The precision that a device computes quickly in: "bf16", or "fp32" for a CPU that emulates bf16."""
    if torch.device(device).type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("DEFAULT", "AVX2"):
        return "fp32"
    return "bf16"


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Figures of every row that was asked for."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if args.precision == "bf16" else before)
    try:
        return _measure(args)
    finally:
        torch.set_float32_matmul_precision(before)


def _measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = TINY_ROWS if args.tiny else ROWS
    files, protocol = prepared(args)
    found = []
    for name in args.only or rows:
        row = rows[name]
        results = {name: trained(row, files, protocol, args)}
        if name == "resproto_fd":
            results[f"{name}, {BALANCED}"] = balanced(row, protocol, args)
        for label, (result, seconds) in results.items():
            found.append(figures_of(label, row, result, seconds))
            print(json.dumps(found[-1]), file=sys.stderr)
    return found


def main() -> None:
    parser = make_parser(__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder with tools/ and real/ (default: ../shared)")
    parser.add_argument("--work", type=Path, help="folder of pictures, weights and runs (default: one that is deleted)")
    parser.add_argument("--clip", type=Path, metavar="FILE", help="what tools/real_clip.py wrote before")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="what tools/real_protocol.py wrote before")
    parser.add_argument("--only", nargs="+", choices=list(ROWS), metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--epochs", type=int, help="of every row (default: 2 to 10)")
    parser.add_argument(
        "--precision", choices=["bf16", "fp32"], help="of training (default: what the device is quick at)"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parse(parser)
    args.precision = args.precision or quick_precision(args.device)
    if args.tiny and (lacking := [name for name in args.only or () if name not in TINY_ROWS]):
        parser.error(f"--only {lacking[0]}: with --tiny there are {', '.join(TINY_ROWS)}")
    with tempfile.TemporaryDirectory() as folder:
        args.work = (args.work or Path(folder)).resolve()
        args.work.mkdir(parents=True, exist_ok=True)
        try:
            results = measure(args)
        except UserError as error:
            parser.error(str(error))
    sets = ", ".join(f"{name} {test['frames']}" for name, test in results[0]["tests"].items())
    title = f"Real pictures and CLIP's real image tower; seed {args.seed}; pictures tested: {sets}"
    figures = {"benchmark": "real_weights", "seed": args.seed, "results": results}
    report(title, [cells(each) for each in results], figures, args)


if __name__ == "__main__":
    main()
