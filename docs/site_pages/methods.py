"""A page for each method, from its preset, its docstrings and the numbers that papers print."""

import re
from functools import cache

from resproto_fd.configs import loading
from resproto_fd.detectors.registry import describe_detectors
from site_pages import published
from site_pages.markdown import block, code_list, facts, table
from site_pages.source import docstring, registered, source_of

NEEDS = "../how_to/data_sets.md#what-detectors-may-ask-for-in-training"
FIDELITY = {
    "faithful": "faithful: it follows all that the paper states",
    "approximate": "approximate: the differences should not matter, or the paper leaves them open",
    "deviates": "deviates: a part of the method is missing or different",
    None: "not rated: there is no paper, or this is a small copy for the demo data",
}
CHANNELS = {"clip": "mean and std of CLIP", "imagenet": "mean and std of ImageNet", "half": "mean = std = 0.5"}
LORA = re.compile(r"\badd_lora\b|\bLoraClip\b|detector_class\(.sd2.\)")  # in the source of what needs the extra
INDEX = """# Methods

Each name is what `--detector` takes. *Fidelity* states how close the code is to the paper: **faithful** in all that the
paper states, **approximate** where the differences should not matter or the paper leaves them open, **deviates** where
a part is missing or different. Each page lists the differences.

{methods}

## Controls

A control is not a method. Controls are in the table so that a reader sees what a detector gains over them. See
[Run controls](../how_to/controls.md).

{controls}

`resproto control` makes one more, `file_statistics`: trees that see no pixel.

## Published numbers alone

The board also shows what papers print about these methods. There is no code for them here.

{published}
"""


def pages() -> dict[str, str]:
    """The pages of all methods, and their index."""
    found = {"methods/index.md": _index()}
    return found | {f"methods/{name}.md": _page(name) for name in grouped()}


@cache
def grouped() -> dict[str, list[str]]:
    """Name of each page -> the presets on it: the one of that name, then its variants.

    A preset is a variant if its name adds a word to that of another of the same class, as `resproto_fd_tiny` does.
    """
    classes = {name: loading.load("detectors", name).detector for name in loading.names("detectors")}
    owners = classes | {name: name for name in registered() if name not in classes}
    found: dict[str, list[str]] = {name: [name] if name in classes else [] for name in owners}
    for name in classes:
        bases = [other for other in owners if name.startswith(f"{other}_") and owners[other] == owners[name]]
        if bases:
            found[max(bases, key=len)].append(name)
            del found[name]
    return found


@cache
def _described() -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in describe_detectors()}


def _index() -> str:
    controls = [name for name in grouped() if _is_control(name)]
    known = [row for name in grouped() for row in _published(name)]
    return INDEX.format(
        methods=_table([name for name in grouped() if name not in controls]),
        controls=_table(controls),
        published=published.without_code(known),
    )


def _table(names) -> str:
    head = ["name", "method", "network", "parameters", "needs", "fidelity", "DeepfakeBench's checkpoints"]
    rows = []
    for name in names:
        row = _described()[name]
        title = row["title"] or _idea(name).split("\n\n")[0]
        loads = "load" if row["DeepfakeBench"] == "yes" else ""
        needs = code_list(row["needs"].split())
        rows.append(
            [f"[`{name}`]({name}.md)", title, row["backbone"], row["parameters"], needs, row["fidelity"], loads]
        )
    return table(head, rows, ["parameters"])


def _page(name: str) -> str:
    presets = grouped()[name]
    preset = loading.load("detectors", name) if name in presets else None
    owner = preset.detector if preset else name
    text = [f"# {(preset and preset.title) or name}", "", _idea(owner), ""]
    if preset:
        text += [facts(_facts(name, preset)), "", "## Run it", "", block("bash", _commands(name, preset)), ""]
        text += _differences(preset, "## Differences from the paper")
        text += ["## Preset", "", f"`configs/detectors/{name}.yaml`:", "", block("yaml", _preset(name)), ""]
    for variant in presets:
        if variant != name:
            other = loading.load("detectors", variant)
            text += [f"## Variant: {variant}", "", f"{other.title}.", "", *_differences(other)]
            text += [block("yaml", _preset(variant)), ""]
    text += ["## Class", "", *_class(name, owner), ""]
    return "\n".join(text + published.tables_of(_published(name)))


def _class(page: str, name: str) -> list[str]:
    """The class and its keywords, on the page of its own name; a link to it from others."""
    module, cls = registered()[name]
    if page == name:
        return [f"::: {module}.{cls}", "    options: {members: [], show_root_heading: true}"]
    return [f"This preset is of the class [`{name}`]({name}.md#class), which lists the keywords of `model:`."]


def _idea(name: str) -> str:
    """The docstring of a class's module without its legend; the class's own if the module has several."""
    module, cls = registered()[name]
    if sum(other == module for other, _ in registered().values()) > 1:
        return docstring(module, cls).split("\n\n")[0]
    parts = docstring(module).split("\n\n")
    return "\n\n".join(re.split(r"\s+Legend[ :]", part)[0] for part in parts if not part.startswith("Legend"))


def _facts(name: str, preset) -> dict[str, str]:
    row, fed = _described()[name], preset.input
    fit = {"resize": "resized", "crop": "cropped"}[fed.fit]
    clips = f"clips of {fed.frames} frames, " if fed.frames > 1 else ""
    needs = code_list(row["needs"].split())
    return {
        "Name": f"`{name}`",
        "Role": "control: it stands in the table and is not ranked" if _is_control(name) else "",
        "Paper": preset.paper,
        "Recipe from": preset.source,
        "Network": row["backbone"],
        "Parameters": f"{preset.parameters:,}" if preset.parameters else "",
        "Parameters that train": f"{preset.trainable:,}" if preset.trainable is not None else "",
        "Input": f"{clips}{fed.size} x {fed.size} pixels, {fit}; {_channels(fed)}",
        "Pretrained weights": row["pretrained"],
        "Needs in training": f"images, labels, [{needs}]({NEEDS})" if needs else "images and labels alone",
        "Needs installed": '`pip install ".[lora]"`'
        if LORA.search(source_of(registered()[preset.detector][0]))
        else "",
        "Fidelity": FIDELITY[preset.fidelity],
        "DeepfakeBench's checkpoints": "load" if preset.deepfakebench else "do not apply",
    }


def _commands(name: str, preset) -> str:
    protocol = "demo_cross" if name.endswith("_tiny") else "ffpp_c23_cross"
    lines = [f"resproto train --detector {name} --protocol {protocol} data.root=DATA"]
    if preset.deepfakebench:
        lines.append(f"resproto test --detector {name} --weights CHECKPOINT.pth --protocol {protocol} data.root=DATA")
    return "\n".join(lines)


def _differences(preset, title: str = "") -> list[str]:
    text = [title, ""] if title and preset.deviations else []
    text += [*(f"- {each}" for each in preset.deviations), ""] if preset.deviations else []
    return text + ([preset.note, ""] if preset.note else [])


def _published(name: str) -> list:
    return published.rows_of([name, *(loading.load("detectors", preset).title for preset in grouped()[name])])


def _preset(name: str) -> str:
    return loading.find("detectors", name).read_text(encoding="utf-8")


def _is_control(name: str) -> bool:
    return name in loading.names("detectors") and loading.load("detectors", name).role == "control"


def _channels(fed) -> str:
    if isinstance(fed.mean, str) and fed.mean == fed.std:
        return CHANNELS[fed.mean]
    return f"mean {fed.mean}, std {fed.std}"
