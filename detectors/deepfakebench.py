"""Registers our detectors inside a DeepfakeBench checkout, by one line in its `training/detectors/__init__.py`:

    import resproto_fd.detectors.deepfakebench

Each has its own name, or `resproto_NAME` if DeepfakeBench has a detector of that name. The command
`python -m resproto_fd.detectors.deepfakebench NAME --out FILE.yaml` writes a YAML for its train.py and test.py; see
docs/how_to/deepfakebench.md.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from resproto_fd.configs.deepfakebench import PREFIX, name_there, written
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import write_text
from resproto_fd.configs.loading import load, names
from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.hosted import HostedDetector, indispensable_fields
from resproto_fd.detectors.registry import build_detector, class_names
from resproto_fd.detectors.weights import without_pretrained

FOREIGN = "deepfakebench_class"
"""Our wrapper of DeepfakeBench's classes; it is not registered there."""


def register_all(registry: Any) -> list[str]:
    """Adds all our detectors to DeepfakeBench's registry and replaces none of its own.

    Args:
        registry: Its `DETECTOR`, which has `register_module(module_name=...)` and `[...]`.

    Returns:
        Their names there.

    Raises:
        UserError: A name is taken both without and with our prefix.
    """
    registered = []
    for name in sorted({*names("detectors"), *class_names()} - {FOREIGN}):
        wished = dict.fromkeys((name_there(name), PREFIX + name))
        there = next((n for n in wished if _is_free(registry, n)), None)
        if there is None:
            raise UserError(f"DeepfakeBench's registry has other detectors called {' and '.join(wished)}")
        hosted = type(there, (HostedDetector,), {"preset": name, "__doc__": f"Our {name}; see `HostedDetector`."})
        registry.register_module(module_name=there)(hosted)
        registered.append(there)
    return registered


def _is_free(registry: Any, name: str) -> bool:
    try:
        return registry[name].__module__ == __name__
    except KeyError:
        return True


def hosts_registry() -> Any:
    """The `DETECTOR` registry of the DeepfakeBench checkout that this runs in.

    Raises:
        UserError: This does not run in a DeepfakeBench checkout.
    """
    try:
        from metrics.registry import DETECTOR
    except ImportError as error:
        raise UserError(
            f"resproto_fd.detectors.deepfakebench works inside a DeepfakeBench checkout: import it at the end of its "
            f"training/detectors/__init__.py. Here there is no metrics.registry to register detectors in ({error})"
        ) from error
    return DETECTOR


def untrainable_for(detector: Detector) -> str:
    """Why DeepfakeBench's loop cannot train a detector; empty if it can."""
    if not any(parameter.requires_grad for parameter in detector.parameters()):
        return "it has no parameter to train"
    if fields := sorted(indispensable_fields(detector) - {"mask"}):
        return f"its training step needs {', '.join(fields)}, which the loader there does not give"
    return ""


def main(argv: list[str] | None = None) -> int:
    """Writes a preset's YAML for DeepfakeBench's train.py and test.py."""
    parser = argparse.ArgumentParser(prog="python -m resproto_fd.detectors.deepfakebench", description=main.__doc__)
    parser.add_argument("name", help="a preset (see: resproto list detectors)")
    parser.add_argument("--out", type=Path, help="the file to write; without it the YAML is printed")
    args = parser.parse_args(argv)
    try:
        preset = load("detectors", args.name)
        with torch.device("meta"), without_pretrained():
            detector = build_detector(preset)
            text = written(preset, detector.requires, untrainable_for(detector))
        if args.out:
            write_text(args.out, text)
        else:
            print(text, end="")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
else:
    register_all(hosts_registry())
