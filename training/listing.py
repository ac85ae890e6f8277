"""`resproto list`: what there is, read from the YAML files alone."""

import argparse

from resproto_fd.configs import loading

COLUMNS = {
    "detectors": {"name": "name", "class": "detector", "title": "title", "paper": "paper"},
    "datasets": {"name": "name", "manifest": "json_file", "store": "store", "compression": "compression"},
    "protocols": {"name": "name", "title": "title", "train": "train", "test": "test", "selected on": "selection"},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=[*COLUMNS], help="only these (default: all three)")


def run(args: argparse.Namespace) -> int:
    for kind in [args.kind] if args.kind else COLUMNS:
        rows = [
            [_text(getattr(loading.load(kind, name), field)) for field in COLUMNS[kind].values()]
            for name in loading.names(kind)
        ]
        print(_table(f"{kind} ({len(rows)})", [*COLUMNS[kind]], rows))
    return 0


def _text(value) -> str:
    if isinstance(value, list):
        return " ".join(value)
    if hasattr(value, "rule"):
        return "last epoch" if value.rule == "last" else f"{value.metric} on {value.dataset} {value.split}"
    return "" if value is None else str(value)


def _table(title: str, header: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [header, *rows]]
    return "\n".join([title, *("  " + line for line in lines), ""])
