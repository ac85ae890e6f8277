"""A page for each protocol and each data set, from the YAML files."""

from functools import cache

from resproto_fd.configs import loading
from resproto_fd.preprocessing.arrangers import DESCRIPTIONS
from site_pages import published
from site_pages.markdown import block, code_list, facts, file_name, table

PROTOCOLS = """# Protocols

A protocol names the data that every detector is trained, selected and tested on. The protocol and the frame lists that
it stands for have a fingerprint. Results with different fingerprints never stand in one table.

A protocol of your own is a YAML file of the same form. Give its path: `--protocol my_protocol.yaml`.

{table}
"""
DATASETS = """# Data sets

A data set's name stands for a dataset JSON, a frame store, the folder in the JSON's paths, and a compression. A data
set of your own needs no file here: see [Prepare data sets](../how_to/data_sets.md).

{table}
"""


def pages() -> dict[str, str]:
    """The pages of all protocols and data sets, and their two indexes."""
    found = {"protocols/index.md": _protocols(), "datasets/index.md": _datasets()}
    found |= {f"protocols/{name}.md": _protocol(name) for name in loading.names("protocols")}
    return found | {f"datasets/{file_name(name)}.md": _dataset(name) for name in loading.names("datasets")}


def _protocols() -> str:
    rows = []
    for name in loading.names("protocols"):
        config = loading.load("protocols", name)
        sets = [", ".join(config.train), ", ".join(config.test)]
        rows.append([f"[`{name}`]({name}.md)", config.title, *sets, _selection(config)])
    return PROTOCOLS.format(table=table(["name", "title", "trained on", "tested on", "checkpoint chosen by"], rows))


def _protocol(name: str) -> str:
    config = loading.load("protocols", name)
    frames = ", ".join(f"{split} {count or 'all'}" for split, count in config.frames.model_dump().items())
    values = {
        "Name": f"`{name}`",
        "Trained on": _sets(config.train) or "nothing: for tests alone",
        "Tested on": _sets(config.test),
        "Checkpoint chosen by": _selection(config) if config.train else "",
        "Frames of each video": f"{frames}; evenly spaced",
        "Sampling": "balanced: each training set has an equal share" if config.sampling == "balanced" else "",
        "Share of the training frames": f"{config.share:g}" if config.share != 1 else "",
        "Every frame re-encoded": f"JPEG quality {config.recode}" if config.recode else "",
        "Corruptions": "; ".join(f"{kind} at severities {levels}" for kind, levels in config.corruptions.items()),
        "Metrics": code_list(config.metrics),
        "Source": config.source,
    }
    detector = "resproto_fd_tiny" if name.startswith("demo") else "resproto_fd"
    command = f"resproto train --detector {detector} --protocol {name} data.root=DATA"
    if not config.train:
        command = f"resproto test --weights WEIGHTS --protocol {name} data.root=DATA"
    text = [f"# {config.title or name}", "", config.note, "", facts(values), "", block("bash", command), ""]
    text += [f"`configs/protocols/{name}.yaml`:", "", _source("protocols", name), ""]
    return "\n".join([*text, *published.beside(config, "frame_auc"), *published.beside(config, "video_auc")])


def _selection(config) -> str:
    chosen = config.selection
    return "last epoch" if chosen.rule == "last" else f"best {chosen.metric} on {chosen.dataset} {chosen.split}"


def _sets(names) -> str:
    return ", ".join(f"[{name}](../datasets/{file_name(name)}.md)" for name in names)


@cache
def _users() -> dict[str, dict[str, list[str]]]:
    """Data set -> "train" and "test" -> the protocols that use it so."""
    users = {name: {"train": [], "test": []} for name in loading.names("datasets")}
    for name in loading.names("protocols"):
        config = loading.load("protocols", name)
        for use in ("train", "test"):
            for each in getattr(config, use):
                users[each][use].append(name)
    return users


def _datasets() -> str:
    rows = []
    for name in loading.names("datasets"):
        config = loading.load("datasets", name)
        files = [f"`{config.json_file}`", f"`{config.store}`", config.compression or ""]
        protocols = len({each for uses in _users()[name].values() for each in uses})
        rows.append([f"[{name}]({file_name(name)}.md)", *files, protocols])
    head = ["name", "manifest", "store", "compression", "protocols"]
    return DATASETS.format(table=table(head, rows, ["protocols"]))


def _dataset(name: str) -> str:
    config = loading.load("datasets", name)
    folders = [config.folder] if isinstance(config.folder, str) else config.folder or []
    used = {
        use: ", ".join(f"[{each}](../protocols/{each}.md)" for each in names) for use, names in _users()[name].items()
    }
    values = {
        "Manifest": f"`{config.json_file}`" + (f", key `{config.key}`" if config.key else ""),
        "Store": f"`{config.store}`",
        "Folder in the manifest's paths": code_list(folders),
        "Compression": config.compression,
        "Source": config.source,
        "Protocols that train on it": used["train"],
        "Protocols that test on it": used["test"],
    }
    text = [f"# {name}", "", config.note, "", facts(values), ""]
    if name in DESCRIPTIONS:
        text += ["This command makes the manifest from a tree of frames:", ""]
        text += [block("bash", f"resproto manifest {name} --root FRAMES --out DATA/dataset_json"), ""]
        text += ["[Prepare data sets](../how_to/data_sets.md) tells which layout it expects.", ""]
    return "\n".join([*text, f"`configs/datasets/{name}.yaml`:", "", _source("datasets", name), ""])


def _source(kind: str, name: str) -> str:
    return block("yaml", loading.find(kind, name).read_text(encoding="utf-8"))
