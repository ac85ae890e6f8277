"""`resproto list`: detectors, data sets, protocols, sweeps, forgery methods and settings, read without PyTorch."""

import argparse
import textwrap

import yaml

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.settings_reference import describe_settings
from resproto_fd.configs.suggestions import nearest
from resproto_fd.detectors.registry import describe_detectors
from resproto_fd.preprocessing.side_file import generator_families
from resproto_fd.preprocessing.taxonomy import load_taxonomy

KINDS = ("detectors", "datasets", "protocols", "sweeps", "methods", "settings")
SHORT = KINDS[:3]
CONFIGURED = KINDS[:4]
WIDTH = 100  # columns of a line
COLUMNS = {
    "detectors": {"name": 20, "title": 27, "level": 5, "backbone": 17, "parameters": 10, "fidelity": 11},
    "datasets": {"name": 24, "manifest": 28, "store": 30, "compression": 11},
    "protocols": {"name": 26, "train": 24, "test": 46},
    "sweeps": {"name": 24, "title": 46, "seeds": 10, "groups": 6},
    "methods": {"name": 24, "type": 16, "family": 11, "labels": 40},
    "settings": {"name": 29, "default": 18, "values": 48},
}
"""Columns of each table, and the most letters of each."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", nargs="?", choices=KINDS, help=f"only these (default: {', '.join(SHORT)})")
    parser.add_argument(
        "name",
        nargs="?",
        help="show all that is known of this one; of settings also the start of names (train.optimizer)",
    )


def run(args: argparse.Namespace) -> int:
    if args.name:
        print(details(args.kind, args.name))
        return 0
    for kind in [args.kind] if args.kind else SHORT:
        print(_table(kind, rows(kind)))
    print("all about one: resproto list KIND NAME (for example: resproto list detectors resproto_fd)")
    return 0


def details(kind: str, name: str) -> str:
    """All that is known of one detector, data set, protocol or sweep: its fields, source, notes and deviations.

    Of settings also a table of all whose names begin so: "train.optimizer".

    Raises:
        UserError: There is none of that name.
    """
    found = {row["name"]: row for row in rows(kind)}
    begin_so = [row for key, row in found.items() if key.startswith(name)]
    if kind == "settings" and name not in found and begin_so:
        return _table(kind, begin_so)
    if name not in found:
        known = ", ".join(found)
        raise UserError(f"no {kind[:-1]} is called '{name}'{nearest(name, found)}; known: {known}")
    values = dict(found[name])
    if kind in CONFIGURED and name in loading.names(kind):
        config = loading.load(kind, name)
        values |= {key: getattr(config, key) for key in ("source", "note") if getattr(config, key, "")}
        lists = {"deviations": getattr(config, "deviations", [])}
        settings = config.model_dump(by_alias=True, exclude_unset=True, exclude={*values, *lists, "detector"})
    else:
        lists, settings = {}, {}
    lines = [f"{key}: {value}" for key, value in values.items() if value != ""]
    out = [textwrap.fill(line, WIDTH, subsequent_indent="  ") for line in lines]
    for key, texts in lists.items():
        bullets = (textwrap.fill(f"- {text}", WIDTH, initial_indent="  ", subsequent_indent="    ") for text in texts)
        out += [f"{key}:", *bullets] if texts else []
    shown = {key: value for key, value in settings.items() if isinstance(value, dict | list) and value}
    return "\n".join(out) + "\n" + (yaml.safe_dump(shown, sort_keys=False, width=WIDTH) if shown else "")


def rows(kind: str) -> list[dict[str, str]]:
    """A row of named cells for each detector, data set, protocol, sweep, method or setting."""
    if kind == "detectors":
        return describe_detectors()
    if kind == "methods":
        return _methods()
    if kind == "settings":
        return describe_settings()
    configs = [loading.load(kind, name) for name in loading.names(kind)]
    if kind == "sweeps":
        return [
            {"name": c.name, "title": c.title, "seeds": " ".join(map(str, c.seeds)), "groups": str(len(c.cells))}
            for c in configs
        ]
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


def _methods() -> list[dict[str, str]]:
    """The taxonomy: forgery methods, their kind, their generator's family and the label strings of manifests."""
    taxonomy, families = load_taxonomy(), generator_families()
    labels: dict[str, list[str]] = {}
    for label, meaning in taxonomy.meanings.items():
        labels.setdefault(meaning.method, []).append(label)
    return [
        {"name": name, "type": kind, "family": families.get(name, ""), "labels": " ".join(labels.get(name, ()))}
        for name, kind in taxonomy.types.items()
    ]


def _table(kind: str, found: list[dict[str, str]]) -> str:
    most = COLUMNS[kind]
    lines = [list(most), *([_short(row[column], most[column]) for column in most] for row in found)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    cells = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)
    return "\n".join([f"{kind} ({len(found)})", *cells, ""])


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
