"""What each key of a DeepfakeBench YAML means here: it is obeyed, it has no effect on results, or it is refused."""

import os
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from resproto_fd.configs.errors import UserError, cut, shown
from resproto_fd.configs.loading import load, load_yaml, names
from resproto_fd.configs.readers.text import is_number
from resproto_fd.configs.schema import COMPRESSIONS
from resproto_fd.configs.suggestions import nearest

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
"""DeepfakeBench's augmentation, as its YAMLs have it; `trainer.augment.deepfakebench_recipe` is the same here."""
UNREAD_AUG = {"brightness_prob", "gridmask_prob", "remove_attribute", "remove_eyes_prob", "remove_nose_prob"}
"""Keys of `data_aug` that DeepfakeBench reads nowhere."""

OBEYED = {
    "train_dataset", "test_dataset", "nEpochs", "train_batchSize", "test_batchSize", "workers", "manualSeed",
    "model", "input", "resolution", "mean", "std", "frame_num", "use_data_augmentation", "data_aug", "rgb_dir",
    "lmdb_dir", "dataset_json_folder", "lmdb", "optimizer", "compression", "metric_scoring", "pretrained",
    "explicit_extractor_pretrained",
}  # fmt: skip
NO_EFFECT = {
    "all_dataset", "backbone_nEpochs", "balance_data", "batch_per_epoch", "class_counts", "clip_size", "cuda",
    "cudnn", "gradcam", "leave_out", "log_dir", "logdir", "losstype", "lr_gamma",
    "lr_step", "lr_T_max", "lr_eta_min", "mode", "ngpu", "rec_iter", "save_avg", "save_ckpt", "save_epoch",
    "save_feat", "steps_per_epoch", "student", "task_target", "teacher", "tsne", "with_landmark", "with_mask",
}  # fmt: skip
"""Keys that change no result there, or whose part of the work is done without asking here (masks, landmarks)."""
FIXED = {
    "start_epoch": 0,
    "video_mode": False,
    "dry_run": False,
    "SWA": False,
    "restore_ckpt": None,
    "real_encoder": None,
}
"""Keys that have one value here."""
CHECKED = {"label_dict", "lr_scheduler"}
MAPPINGS = ("data_aug", "frame_num", "input", "model", "optimizer")
TEXTS = ("dataset_json_folder", "lmdb_dir", "lr_scheduler", "metric_scoring", "rgb_dir")
"""Keys whose values must be mappings, and texts."""

OF_VIDEOS = {
    *("altfreezing", "ftcn", "i3d", "sta_clip", "stil", "tall", "timesformer", "time_transformer", "videomae", "xclip"),
}
"""Its detectors that read several frames at once."""

READS_FILE = {
    *("core", "efficientnetb4", "f3net", "ffd", "fwa", "iid", "lrl", "multi_attention", "pcl_xception", "rfm", "sia"),
    *("sladd", "spsl", "srm", "ucf", "xception"),
}
"""Detectors for which DeepfakeBench reads the file of `pretrained`."""
FIXED_FILES = {
    "facexray": "hrnetv2_w48_imagenet_pretrained.pth",
    "lsda": "efficientnet-b4-6ed6700e.pth",
    "resnet34": "resnet34-b627a593.pth",
    "sbi": "efficientnet-b4-6ed6700e.pth",
}
"""Files of training/pretrained/ that other detectors begin with, whatever `pretrained` says."""
METRICS = {"auc": "frame_auc", "ap": "frame_ap", "eer": "frame_eer", "acc": "frame_acc"}


@cache
def own_values() -> Mapping[str, Mapping[str, Any]]:
    """What DeepfakeBench's own YAMLs say of network and loss, by detector."""
    return load_yaml(str(files("resproto_fd.configs") / "deepfakebench_own.yaml"))


def check_keys(values: Mapping[str, Any], model: str, where: str) -> None:
    """Refuses unknown keys, and values that could not be obeyed.

    Args:
        values: The YAML's mapping.
        model: Its `model_name`.
        where: The file, for messages.

    Raises:
        UserError: See above; the message has the remedy.
    """
    own = own_values().get(model, {})
    known = OBEYED | NO_EFFECT | CHECKED | {*FIXED, *own, "model_name"}
    elsewhere = {key for each in own_values().values() for key in each}
    for key, value in values.items():
        if key in known - {*FIXED, *own}:
            continue
        if key in FIXED:
            if value not in (FIXED[key], None, "None"):
                raise UserError(f"{where}: {key}: expected {FIXED[key]}, got {value}: not done here; remove it")
        elif key in own:
            _check_own(key, value, own[key], where)
        else:
            hint = f"DeepfakeBench's {model} has no such setting" if key in elsewhere else "unknown key"
            raise UserError(f"{where}: {key}: {hint}{nearest(key, known)}; remove it, or set model.KEYWORD instead")
    _check_forms(values, where)
    _check_labels(values.get("label_dict"), where)
    if (level := values.get("compression")) not in (None, *COMPRESSIONS):
        raise UserError(f"{where}: compression: expected {', '.join(COMPRESSIONS)}, got {level!r}")


def _check_forms(values: Mapping[str, Any], where: str) -> None:
    """Refuses values of another form than what is made of them can take."""
    for key in MAPPINGS:
        if values.get(key) is not None:
            _mapping(values[key], key, where)
    for key in TEXTS:
        if not isinstance(values.get(key), str | None):
            raise UserError(f"{where}: {key}: expected a text, got {shown(values[key])}")
    for key in ("train_dataset", "test_dataset"):
        given = values.get(key)
        if not isinstance(given, str | None) and not (
            isinstance(given, list) and all(isinstance(name, str) for name in given)
        ):
            raise UserError(f"{where}: {key}: expected a data set's name or a list of names, got {shown(given)}")


def _check_own(key: str, value: Any, own: Any, where: str) -> None:
    """Refuses another value than DeepfakeBench's own; of a mapping, only what is given counts."""
    if isinstance(own, dict) and isinstance(value, dict):
        for inner, given in value.items():
            if inner not in own:
                raise UserError(
                    f"{where}: {key}: unknown key '{inner}'{nearest(str(inner), own)}; it has {', '.join(own)}"
                )
            _check_own(f"{key}.{inner}", given, own[inner], where)
    elif value is not None and _plain(value) != _plain(own):
        raise UserError(
            f"{where}: {key}: expected {own}, as in DeepfakeBench's own YAML, got {value}: this would be ignored here. "
            "Set the keyword of `model:` that means it (resproto list detectors NAME), and leave this out"
        )


def _plain(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


def _check_labels(labels: Mapping[str, Any] | None, where: str) -> None:
    """Refuses labels that call a real video fake or the other way round."""
    if not isinstance(labels, Mapping | None):
        raise UserError(f"{where}: label_dict: expected a mapping of labels to 0 or 1, got {shown(labels)}")
    methods = load_yaml(str(files("resproto_fd.configs") / "taxonomy.yaml"))["methods"]
    real = set(methods["real"]["labels"])
    known = {label for method in methods.values() for label in method.get("labels", ())}
    for label, value in (labels or {}).items():
        if label in known and bool(value) != (label not in real):
            raise UserError(
                f"{where}: label_dict: '{label}' is {'real' if label in real else 'fake'} here, got {value}; state "
                "another meaning in the data set's YAML (labels:)"
            )


def at_compression(sets: list[str], level: str | None) -> list[str]:
    """Names of data sets at a compression level; sets without levels stay.

    >>> at_compression(["FaceForensics++", "Celeb-DF-v2"], "c40")
    ['FaceForensics++_c40', 'Celeb-DF-v2']
    """

    def has_levels(name: str) -> bool:
        return name in names("datasets") and load("datasets", name).compression not in (None, level)

    return [f"{name}_{level}" if level and has_levels(name) else name for name in sets]


def augmentation(values: Mapping[str, Any], where: str) -> str | dict[str, Any] | None:
    """`train.augment` of `use_data_augmentation` and `data_aug`; None if neither is given.

    Raises:
        UserError: An unknown key, or settings without the switch.
    """
    given, on = values.get("data_aug") or {}, values.get("use_data_augmentation")
    if unknown := sorted(set(given) - set(DATA_AUG) - UNREAD_AUG):
        raise UserError(f"{where}: data_aug: unknown key '{unknown[0]}'{nearest(unknown[0], DATA_AUG)}")
    changed = {k: v for k, v in given.items() if k in DATA_AUG and k not in UNREAD_AUG and v != DATA_AUG[k]}
    if on is None:
        if changed:
            raise UserError(f"{where}: data_aug: set use_data_augmentation: true to use it")
        return None
    return "none" if not on else {"deepfakebench": changed} if changed else "deepfakebench"


def optimizer(values: Mapping[str, Any], sam_rho: float, where: str) -> dict[str, Any]:
    """`train.optimizer` of its `optimizer`.

    Raises:
        UserError: An unknown key, or a setting that cannot be obeyed.
    """
    _mapping(values, "optimizer", where)
    kind = values.get("type", "adam")
    kinds = ("adam", "sgd", "sam")
    if kind not in kinds or (unknown := sorted(set(map(str, values)) - {"type", "step", *kinds})):
        what = (
            f"type {shown(kind)}{nearest(cut(str(kind)), kinds)}"
            if kind not in kinds
            else f"unknown key '{unknown[0]}'"
        )
        raise UserError(f"{where}: optimizer: {what}; expected type: {', '.join(kinds)}, and settings under its name")
    given = _mapping(values.get(kind) or {}, f"optimizer.{kind}", where)
    known = ("lr", "weight_decay", "momentum", "beta1", "beta2", "eps", "amsgrad")
    if unknown := sorted(set(map(str, given)) - set(known)):
        raise UserError(f"{where}: optimizer.{kind}: unknown key '{unknown[0]}'{nearest(unknown[0], known)}")
    for key, only in (("eps", 1e-8), ("amsgrad", False)):
        if given.get(key, only) not in (only, None) and _number(given[key], f"{where}: optimizer.{kind}.{key}") != only:
            raise UserError(f"{where}: optimizer.{kind}.{key}: expected {only}, got {given[key]}; remove it")
    # A preset's SAM must not stay if the YAML sets another optimiser.
    ours: dict[str, Any] = {"name": kind, "sam_rho": 0.0}
    if kind == "sam":
        ours = {"name": "sgd", "sam_rho": sam_rho}
    for key in ("lr", "weight_decay", "momentum"):
        if key in given and (kind, key) != ("sam", "weight_decay"):
            ours[key] = _number(given[key], f"{where}: optimizer.{kind}.{key}")
    if "beta1" in given:
        betas = {"beta1": given["beta1"], "beta2": given.get("beta2", 0.999)}
        ours["betas"] = [_number(value, f"{where}: optimizer.{kind}.{key}") for key, value in betas.items()]
    return ours


def _mapping(value: Any, key: str, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{where}: {key}: expected a mapping, got {shown(value)}")
    if strange := [inner for inner in value if not isinstance(inner, str)]:
        raise UserError(f"{where}: {key}: expected keys that are texts, got {shown(strange[0])}; put it in quotes")
    return value


def _number(value: Any, where: str) -> float:
    """The number; older YAMLs write `2e-4` in a form that is text for some readers."""
    if isinstance(value, bool | int | float):
        return float(value)
    if not isinstance(value, str) or not is_number(value):
        raise UserError(f"{where}: expected a number, got {shown(value)}")
    return float(value)


def weights(values: Mapping[str, Any], name: str, where: str, notes: list[str]) -> dict[str, Any]:
    """Keywords of `model:` that name the files of weights which DeepfakeBench reads, where they exist.

    A file is looked for from here, from the checkout that the YAML lies in, and by its name in the checkout's
    training/pretrained/ (many of its YAMLs have a path of another machine).

    Args:
        values: The YAML's mapping.
        name: Our detector.
        where: The file, for messages.
        notes: Filled with files that do not exist.
    """
    parents = Path(where).absolute().parents
    checkout = parents[min(3, len(parents) - 1)]

    def found(key: str, file: Any, instead: str) -> str | None:
        if not isinstance(file, str):
            return None
        own_name = re.split(r"[\\/]", file)[-1]
        for path in (Path(file), checkout / file, checkout / "training/pretrained" / own_name):
            if path.is_file():
                return str(path)
        if instead:
            notes.append(f"{key}: no file {file}{instead}")
        return None

    published = ", so the published weights are used (model.pretrained=FILE sets others)"
    files = {"pretrained": found("pretrained", FIXED_FILES.get(name), "")}
    if name in READS_FILE:
        files["pretrained"] = found("pretrained", values.get("pretrained"), published)
    if name == "iid":
        key = "explicit_extractor_pretrained"
        files["identity_weights"] = found(key, values.get(key), "; set model.identity_weights=FILE")
    given = {keyword: file for keyword, file in files.items() if file}
    if name == "lsda" and "real_encoder" in values:
        # Its recogniser has random weights, and trains from its fourth stage on.
        given |= {"real_weights": "random", "train_real": True}
    return given


def data_folders(values: Mapping[str, Any], given: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """`data.*` of its folders, which its train_config.yaml overrides there: what is given here goes before.

    Args:
        values: The YAML's mapping.
        given: `data` of the command line.
        notes: Filled with folders that are not taken because they do not exist.
    """
    found = {} if values.get("lmdb") is None else {"lmdb": values["lmdb"]}
    rooted = "root" in given or "RESPROTO_DATA" in os.environ
    for key, ours in (("rgb_dir", "rgb_dir"), ("lmdb_dir", "lmdb_dir"), ("dataset_json_folder", "json_dir")):
        folder = values.get(key)
        if folder is None or rooted or ours in given:
            continue
        if Path(folder).is_dir():
            found[ours] = folder
        else:
            notes.append(f"{key}: no folder {folder}; data.{ours}= sets it")
    return found


def schedule(values: Mapping[str, Any], where: str, notes: list[str]) -> dict[str, Any]:
    """`train.schedule` as `lr_scheduler` says it; nothing where it says nothing.

    Args:
        values: The YAML's mapping.
        where: The file, for messages.
        notes: Filled with what DeepfakeBench does instead: it makes the schedule and never takes a step of it.

    Raises:
        UserError: No such schedule.
    """
    kind = values.get("lr_scheduler")
    if kind is None:
        return {}
    said = {
        "step": {"step_epochs": values.get("lr_step", 1), "gamma": values.get("lr_gamma", 0.1)},
        "cosine": {"min_lr": values.get("lr_eta_min", 0.0)},
        "linear": {},
    }
    if kind not in said:
        raise UserError(f"{where}: lr_scheduler: expected null, step, cosine or linear, got {kind!r}")
    notes.append(
        f"lr_scheduler: {kind} is obeyed. DeepfakeBench reads this key and never changes the rate; set "
        "train.schedule.name=constant for that"
    )
    return {"train": {"schedule": {"name": kind, **said[kind]}}}
