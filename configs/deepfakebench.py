"""DeepfakeBench's detector YAMLs: read for the keys that mean something here, and written for its scripts."""

from collections.abc import Collection, Mapping
from typing import Any

import yaml

from resproto_fd.configs import deepfakebench_keys as keys
from resproto_fd.configs.deepfakebench_keys import DATA_AUG
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.loading import merged, names
from resproto_fd.configs.schema import DetectorConfig, OptimizerConfig, TrainConfig
from resproto_fd.configs.suggestions import nearest

_OWN = """
altfreezing capsule_net clip core efficientnetb4 effort f3net facexray ffd ftcn fwa i3d iid lrl lsda meso4
meso4Inception multi_attention pcl_xception recce resnet34 rfm sbi sia sladd spsl srm stil tall timesformer ucf
uia_vit videomae xception xclip
"""
OWN_NAMES = frozenset(_OWN.split())
"""Names of the detectors in DeepfakeBench's own registry."""

PREFIX = "resproto_"
"""Put before the name of one of our detectors if DeepfakeBench has a detector of that name."""

NO_NOTE = {"epochs", "batch_size", "optimizer", "schedule", "augment"}
NO_NOTE |= {"compile", "channels_last", "checkpoint_activations", "sync_batchnorm"}
"""Parts of a recipe that get no note of `_notes`: they are translated, or do not change what is learnt."""

THEIR_SAM_RHO = 0.05
"""The radius of DeepfakeBench's `type: sam`, which is over SGD without weight decay."""

FF_COUNTS = [1, 4]
"""Real to fake frames of its FaceForensics++: each of 720 training videos, and its four manipulations."""


def is_deepfakebench(values: dict[str, Any]) -> bool:
    """Whether a YAML's mapping is of DeepfakeBench's form."""
    return "model_name" in values


def translate(
    values: dict[str, Any], where: str, given: Mapping[str, Any] | None = None, trains: bool = True
) -> tuple[str, dict[str, Any], list[str]]:
    """Our detector and our settings of a DeepfakeBench detector YAML, and notes.

    `nEpochs: n` becomes n + 1 epochs, which is what DeepfakeBench's loop runs. A key that would change results there is
    obeyed or refused (`deepfakebench_keys`).

    Args:
        values: The YAML's mapping.
        where: The file, for messages.
        given: Settings of the command line, which go before.
        trains: Whether a detector is trained; a schedule does not matter for a test.

    Returns:
        (detector name, nested settings as `loading.parse_overrides` gives them, notes for the user)

    Raises:
        UserError: No detector here goes by that `model_name`; an unknown key; or a value that cannot be obeyed.
    """
    given, values = given or {}, dict(values)
    model = str(values["model_name"])
    name = _our_name(model, where)
    keys.check_keys(values, model, where)
    notes, settings = [], {}

    def take(key: str, *path: str, change=lambda value: value) -> None:
        if (value := values.get(key)) is not None:
            node: Any = change(value)
            for part in reversed(path):
                node = {part: node}
            nonlocal settings
            settings = merged(settings, node)

    level = values.get("compression")
    as_sets = lambda value: keys.at_compression(value if isinstance(value, list) else [value], level)  # noqa: E731
    take("train_dataset", "protocol", "train", change=as_sets)
    take("test_dataset", "protocol", "test", change=as_sets)
    take("nEpochs", "train", "epochs", change=lambda n: _whole(n, "nEpochs", where) + 1)
    take("train_batchSize", "train", "batch_size")
    take("test_batchSize", "run", "test_batch_size")
    take("workers", "run", "workers")
    take("manualSeed", "seed")
    take("model", "model")
    take("input", "input")
    take("resolution", "input", "size")
    take("mean", "input", "mean")
    take("std", "input", "std")
    take("frame_num", "protocol", "frames", change=lambda n: _frames(n, where))
    take("optimizer", "train", "optimizer", change=lambda each: keys.optimizer(each, THEIR_SAM_RHO, where))
    take("metric_scoring", "protocol", "selection", change=lambda word: _selection(word, where))
    if trains and "schedule" not in given.get("train", {}):
        settings = merged(settings, keys.schedule(values, where, notes))
    if (augment := keys.augmentation(values, where)) is not None:
        settings = merged(settings, {"train": {"augment": augment}})
    if given_files := keys.weights(values, name, where, notes):
        settings = merged({"model": given_files}, settings)
    if folders := keys.data_folders(values, given.get("data", {}), notes):
        settings = merged(settings, {"data": folders})
    return name, settings, notes


def _our_name(model: str, where: str) -> str:
    known = names("detectors")
    name = model if model in known else model.removeprefix(PREFIX)
    if model in keys.OF_VIDEOS:
        remedy = (
            f"name ours instead: --detector {name}" if name in known else "resproto list detectors shows what is here"
        )
        raise UserError(
            f"{where}: model_name '{model}' is a detector of videos, whose YAMLs are not read here; {remedy}"
        )
    if name not in known:
        raise UserError(
            f"{where}: model_name '{model}' is no detector here{nearest(name, known)}; known: {', '.join(known)}"
        )
    return name


def _whole(value: Any, key: str, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(f"{where}: {key}: expected a whole number, got {value!r}")
    return value


def _frames(given: Any, where: str) -> dict[str, int]:
    if not isinstance(given, dict) or set(given) - {"train", "val", "test"}:
        raise UserError(f"{where}: frame_num: expected {{train: n, test: n}}, got {given}")
    return {split: given[theirs] for split, theirs in _SPLITS.items() if theirs in given}


def _selection(word: Any, where: str) -> dict[str, str]:
    known = keys.METRICS
    if word not in known:
        raise UserError(
            f"{where}: metric_scoring: expected {', '.join(known)}, got {word!r}{nearest(str(word), known)}"
        )
    return {} if word == "auc" else {"metric": keys.METRICS[word]}


_SPLITS = {"train": "train", "val": "test", "test": "test"}


def name_there(name: str) -> str:
    """What a detector of ours is called in DeepfakeBench's registry.

    >>> name_there("resproto_fd"), name_there("xception")
    ('resproto_fd', 'resproto_xception')
    """
    return PREFIX + name if name in OWN_NAMES else name


def written(config: DetectorConfig, requires: Collection[str] = (), untrainable: str = "") -> str:
    """A preset as a YAML for DeepfakeBench's train.py and test.py (docs/how_to/deepfakebench.md).

    Comments at the top name the parts of the recipe that its loop and its loader cannot carry out.

    Args:
        config: The preset.
        requires: Fields of a batch that the detector asks for (`Detector.requires`).
        untrainable: Why its train.py cannot train the detector; empty if it can.

    Raises:
        UserError: The preset takes clips, which our detectors do not get there.
    """
    if config.input.frames > 1:
        raise UserError(
            f"{config.name} takes clips of {config.input.frames} frames; within DeepfakeBench our detectors get single "
            "frames. Train it with `resproto train`"
        )
    recipe, given = config.train, config.input
    lacking = [] if untrainable else sorted({*requires} - {"mask"})
    values = {
        "model_name": name_there(config.name),
        **({"leave_out": lacking} if lacking else {}),
        **({"input": {"fit": "resize"}} if given.fit == "crop" else {}),
        "class_counts": FF_COUNTS,
        "train_dataset": ["FaceForensics++"],
        "test_dataset": ["Celeb-DF-v2"],
        "compression": "c23",
        "train_batchSize": recipe.batch_size,
        "test_batchSize": 32,
        "workers": 8,
        "frame_num": {"train": 32, "test": 32},
        "resolution": given.size,
        "mean": given.channel_mean(),
        "std": given.channel_std(),
        "with_mask": "mask" in requires,
        "with_landmark": False,
        "use_data_augmentation": recipe.augment != "none",
        "data_aug": DATA_AUG,
        "optimizer": _their_optimizer(recipe.optimizer),
        "lr_scheduler": None,
        "nEpochs": recipe.epochs - 1,
        "start_epoch": 0,
        "manualSeed": 1024,
        "metric_scoring": "auc",
        "cuda": True,
        "cudnn": True,
    }
    scripts = "test.py" if untrainable else "train.py and test.py"
    head = [f"{config.title or config.name}, for DeepfakeBench's {scripts}.", *_notes(config, lacking)]
    if untrainable:
        head.insert(1, f"Its train.py cannot train this: {untrainable}. Use `resproto train`.")
    return "".join(f"# {line}\n" for line in head) + yaml.safe_dump(
        values, sort_keys=False, width=120, default_flow_style=None
    )


def _their_optimizer(config: OptimizerConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {"lr": config.lr, "weight_decay": 0.0 if config.name == "adamw" else config.weight_decay}
    if _is_their_sam(config):
        return {"type": "sam", "sam": {"lr": config.lr, "momentum": config.momentum}}
    if config.name == "sgd":
        return {"type": "sgd", "sgd": settings | {"momentum": config.momentum}}
    first, second = config.betas
    return {"type": "adam", "adam": settings | {"beta1": first, "beta2": second, "eps": 1e-8, "amsgrad": False}}


def _is_their_sam(config: OptimizerConfig) -> bool:
    return config.name == "sgd" and config.sam_rho == THEIR_SAM_RHO and not config.weight_decay


def _notes(config: DetectorConfig, lacking: Collection[str]) -> list[str]:
    """Where DeepfakeBench departs from the recipe, a sentence each."""
    recipe, plain = config.train, TrainConfig()
    optimizer, schedule = recipe.optimizer, recipe.schedule
    notes = {
        f"It has no AdamW: Adam, without the recipe's decoupled weight decay of {optimizer.weight_decay:g}.": (
            optimizer.name == "adamw"
        ),
        f"It has no SAM like the recipe's: {optimizer.name} alone (the recipe: sam_rho {optimizer.sam_rho:g}).": (
            bool(optimizer.sam_rho) and not _is_their_sam(optimizer)
        ),
        "Its SAM fails with --ddp.": _is_their_sam(optimizer),
        f"Its schedules never act: the learning rate stays (the recipe: {schedule.name}).": schedule != plain.schedule,
        f"It has one augmentation, its own (the recipe: {recipe.augment}).": (
            recipe.augment not in ("none", "deepfakebench")
        ),
        "It resizes the whole face; the recipe crops its centre.": config.input.fit == "crop",
        f"Its loader gives no {', '.join(lacking)}; the parts that need them are left out.": bool(lacking),
    }
    for key in sorted(TrainConfig.model_fields.keys() - NO_NOTE):
        value = getattr(recipe, key)
        notes[f"It has nothing like train.{key} (the recipe: {value})."] = value != getattr(plain, key)
    return [
        *(note for note, applies in notes.items() if applies),
        "nEpochs: n runs n + 1 epochs.",
        "class_counts: real to fake training frames; state them anew with other training sets.",
    ]
