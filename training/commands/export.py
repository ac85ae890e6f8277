"""`resproto export`: makes a package of a run, to be used elsewhere.

The package is a folder: weights (safetensors), configuration with the protocol, result, calibration if the run has one,
and a model card. Load it with `resproto_fd.training.packages.load`, or test it with `resproto test --package`.
"""

import argparse
import re
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.training.commands.arguments import add_run, add_trust


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--out", metavar="DIR", help="the package's folder (default: RUN/package)")
    parser.add_argument("--onnx", action="store_true", help="add an ONNX graph, checked with onnxruntime")
    parser.add_argument("--torch-export", action="store_true", help="add a graph of torch.export, checked too")
    parser.add_argument(
        "--push", metavar="OWNER/NAME", help="send the package to this repository of the Hugging Face hub"
    )
    parser.add_argument("--private", action="store_true", help="with --push: a new repository is private")
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    folder = Path(args.run_folder)
    out = Path(args.out) if args.out else folder / "package"
    if args.push and not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", args.push):
        raise UserError(f"--push {args.push[:60]!r}: expected OWNER/NAME")
    if args.private and not args.push:
        raise UserError("--private: only with --push")
    if args.onnx:
        from resproto_fd.training.packages.graphs import require

        require("onnx", "onnxruntime", "onnxscript")
    from resproto_fd.training.packages import writing

    writing.write(folder, out, args.trust_code, args.onnx, args.torch_export)
    print(f"{out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    if args.push:
        from resproto_fd.training.packages.hub import push

        print(push(out, args.push, args.private))
    return 0
