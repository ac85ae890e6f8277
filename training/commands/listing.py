"""`resproto list`: what there is, read from the YAML files alone."""

import argparse

from resproto_fd.configs import loading
from resproto_fd.detectors.registry import describe_detectors

KINDS = ("detectors", "datasets", "protocols")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=KINDS, help="only these (default: all three)")


def run(args: argparse.Namespace) -> int:
    for kind in [args.kind] if args.kind else KINDS:
        print(_table(kind, rows(kind)))
        if kind == "detectors":
            print(deviations())
    return 0


def deviations() -> str:
    """Where detectors are not, or not certainly, what their papers say: a paragraph each."""
    lines = ["where they are not what their papers say"]
    for name in loading.names("detectors"):
        config = loading.load("detectors", name)
        if config.deviations:
            lines += [f"  {name} ({config.fidelity})", *(f"    - {text}" for text in config.deviations)]
    return "\n".join([*lines, ""])


def rows(kind: str) -> list[dict[str, str]]:
    """A row of named cells for each detector, data set or protocol."""
    if kind == "detectors":
        return describe_detectors()
    configs = [loading.load(kind, name) for name in loading.names(kind)]
    if kind == "datasets":
        return [
            {"name": c.name, "manifest": c.json_file, "store": c.store, "compression": c.compression or ""}
            for c in configs
        ]
    return [
        {
            "name": c.name,
            "title": c.title,
            "train": " ".join(c.train),
            "test": " ".join(c.test),
            "selected on": c.selection.rule
            if c.selection.rule == "last"
            else f"{c.selection.metric}, {c.selection.dataset} {c.selection.split}",
        }
        for c in configs
    ]


def _table(title: str, found: list[dict[str, str]]) -> str:
    lines = [list(found[0]), *(list(row.values()) for row in found)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    cells = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
    return "\n".join([f"{title} ({len(found)})", *(f"  {line}" for line in cells), ""])
