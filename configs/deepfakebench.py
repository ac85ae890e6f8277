"""DeepfakeBench's detector YAMLs: read for the keys that mean something here, and written for its scripts."""

from collections.abc import Collection
from typing import Any

import yaml

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
"""What DeepfakeBench's registry holds of its own."""

PREFIX = "resproto_"
"""Before the name that one of our detectors has in DeepfakeBench's registry, where one of its own has that name."""

DATA_AUG = {
    "flip_prob": 0.5,
    "rotate_prob": 0.5,
    "rotate_limit": [-10, 10],
    "blur_prob": 0.5,
    "blur_limit": [3, 7],
    "brightness_prob": 0.5,
    "brightness_limit": [-0.1, 0.1],
    "contrast_limit": [-0.1, 0.1],
    "quality_lower": 40,
    "quality_upper": 100,
}
"""DeepfakeBench's augmentation, as its YAMLs have it; `trainer.deepfakebench_recipe` is the same here."""

NO_NOTE = {"epochs", "batch_size", "optimizer", "schedule", "augment"}
NO_NOTE |= {"compile", "channels_last", "checkpoint_activations", "sync_batchnorm"}
"""Parts of a recipe that are taken over or said otherwise, or change nothing that is learnt."""

THEIR_SAM_RHO = 0.05
"""The radius of DeepfakeBench's `type: sam`, which is over SGD without weight decay."""

FF_COUNTS = [1, 4]
"""Real to fake frames of its FaceForensics++: each of 720 training videos, and its four manipulations."""


def is_deepfakebench(values: dict[str, Any]) -> bool:
    """Whether a YAML's mapping is of DeepfakeBench's form."""
    return "model_name" in values


def translate(values: dict[str, Any], where: str) -> tuple[str, dict[str, Any], list[str]]:
    """Our detector, our settings and the keys left aside, of a DeepfakeBench detector YAML.

    `nEpochs: n` becomes n + 1 epochs, which is what DeepfakeBench's loop runs. Its learning-rate schedules never act,
    so none is set.

    Args:
        values: The YAML's mapping.
        where: The file, for messages.

    Returns:
        (detector name, nested settings as `loading.parse_overrides` gives them, keys without effect here)

    Raises:
        UserError: No detector here goes by that `model_name`.
    """
    values = dict(values)
    model = str(values.pop("model_name"))
    name = model if model in names("detectors") else model.removeprefix(PREFIX)
    if name not in names("detectors"):
        known = names("detectors")
        raise UserError(
            f"{where}: model_name '{model}' is no detector here{nearest(name, known)}; known: {', '.join(known)}"
        )
    settings: dict[str, Any] = {}

    def take(key: str, *path: str, change=lambda value: value) -> None:
        if (value := values.pop(key, None)) is not None:
            node: Any = change(value)
            for part in reversed(path):
                node = {part: node}
            nonlocal settings
            settings = merged(settings, node)

    as_list = lambda value: value if isinstance(value, list) else [value]  # noqa: E731
    take("train_dataset", "protocol", "train", change=as_list)
    take("test_dataset", "protocol", "test", change=as_list)
    take("nEpochs", "train", "epochs", change=lambda n: n + 1)
    take("train_batchSize", "train", "batch_size")
    take("test_batchSize", "run", "test_batch_size")
    take("workers", "run", "workers")
    take("manualSeed", "seed")
    take("model", "model")
    take("input", "input")
    take("resolution", "input", "size")
    take("mean", "input", "mean")
    take("std", "input", "std")
    take("frame_num", "protocol", "frames", change=lambda n: {s: n[t] for s, t in _SPLITS.items() if t in n})
    take("use_data_augmentation", "train", "augment", change=lambda on: "deepfakebench" if on else "none")
    take("rgb_dir", "data", "rgb_dir")
    take("lmdb_dir", "data", "lmdb_dir")
    take("dataset_json_folder", "data", "json_dir")
    take("lmdb", "data", "lmdb")
    take("optimizer", "train", "optimizer", change=_optimizer)
    return name, settings, sorted(values)


_SPLITS = {"train": "train", "val": "test", "test": "test"}


def _optimizer(values: dict[str, Any]) -> dict[str, Any]:
    kind = values.get("type", "adam")
    given = values.get(kind, {})
    # What a preset has of SAM must not stay behind another optimiser.
    ours: dict[str, Any] = {"name": kind, "sam_rho": 0.0}
    if kind == "sam":
        ours = {"name": "sgd", "sam_rho": THEIR_SAM_RHO}
    for key in ("lr", "weight_decay", "momentum"):
        if key in given and (kind, key) != ("sam", "weight_decay"):
            ours[key] = float(given[key])
    if "beta1" in given:
        ours["betas"] = [float(given["beta1"]), float(given.get("beta2", 0.999))]
    return ours


def name_there(name: str) -> str:
    """What a detector of ours is called in DeepfakeBench's registry.

    >>> name_there("resproto_fd"), name_there("xception")
    ('resproto_fd', 'resproto_xception')
    """
    return PREFIX + name if name in OWN_NAMES else name


def written(config: DetectorConfig, requires: Collection[str] = ()) -> str:
    """A preset as a YAML for DeepfakeBench's train.py and test.py (docs/how_to/deepfakebench.md).

    What its loop and its loader cannot do of the recipe is said in comments at the top.

    Args:
        config: The preset.
        requires: Fields of a batch that the detector asks for (`Detector.requires`).
    """
    recipe, given = config.train, config.input
    lacking = sorted({*requires} - {"mask"})
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
    head = [f"{config.title or config.name}, for DeepfakeBench's train.py and test.py.", *_notes(config, lacking)]
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
    """What DeepfakeBench does otherwise than the recipe says."""
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
        f"Its loader gives no {', '.join(lacking)}: what needs them is left out.": bool(lacking),
    }
    for key in sorted(TrainConfig.model_fields.keys() - NO_NOTE):
        value = getattr(recipe, key)
        notes[f"It has nothing like train.{key} (the recipe: {value})."] = value != getattr(plain, key)
    return [
        *(note for note, applies in notes.items() if applies),
        "nEpochs: n runs n + 1 epochs.",
        "class_counts: real to fake training frames; state them anew with other training sets.",
    ]
