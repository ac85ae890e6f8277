"""DeepfakeBench's detector YAMLs, read for the keys that mean something here."""

from typing import Any

from .errors import UserError
from .loading import merged, names, nearest

PRESETS = {"efficientnetb4": "efficientnet_b4", "clip": "clip", "xception": "xception", "resproto_fd": "resproto_fd"}
"""DeepfakeBench's `model_name` where ours is called otherwise; the rest go by the same name."""


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
    name = PRESETS.get(model, model)
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
    ours: dict[str, Any] = {"name": kind}
    for key in ("lr", "weight_decay", "momentum"):
        if key in given:
            ours[key] = float(given[key])
    if "beta1" in given:
        ours["betas"] = [float(given["beta1"]), float(given.get("beta2", 0.999))]
    return ours
