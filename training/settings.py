"""A run's configuration once its data and weights are known: its folder, the keywords that data fill, its overrides."""

from pathlib import Path
from typing import Any

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.file_names import plain_name
from resproto_fd.configs.schema import DetectorConfig, RunConfig
from resproto_fd.detectors.registry import class_names, defaults_of, detector_class
from resproto_fd.trainer.frame_list import FrameList

PLACING = ("stride", "clips", "short")
"""Settings of `input` that say where clips lie in a video, not what the detector sees."""


def folder_of(config: RunConfig) -> Path:
    """The run folder of a configuration, see `run_folder`; the task is a part of the detector's name."""
    task = f"_{config.run.task}" if config.run.task else ""
    return run_folder(config.run.out, config.protocol.name, f"{config.detector.name}{task}", config.seed)


def run_folder(out: str | Path, protocol: str, detector: str, seed: int) -> Path:
    """The run folder out/protocol/detector/seedN.

    Raises:
        UserError: A part is no name that a folder can have, so that the run would lie elsewhere.
    """
    parts = {"protocol": protocol, "detector (with run.task)": detector, "seed": f"seed{seed}"}
    return Path(out, *(plain_name(name, f"name of the {what}") for what, name in parts.items()))


def with_keywords(config: RunConfig) -> RunConfig:
    """The configuration, with the keywords that a detector takes from the protocol and the recipe.

    A detector declares them in `Detector.keywords_from_data`; what `model:` gives is kept.
    """
    known = {"train_sets": list(config.protocol.train), "epochs": _epochs(config)}
    filled = {keyword: known[what] for keyword, what in _declared(config).items() if what in known}
    return _with_model(config, filled | config.detector.model)


def with_methods(config: RunConfig, frames: FrameList) -> RunConfig:
    """The configuration, with the training frames' methods for a detector that needs to know them.

    The detector declares the keyword; its default is kept where it holds all methods that were found.
    """
    model, found = config.detector.model, {video.method for video in frames.videos}
    for keyword, what in _declared(config).items():
        default = defaults_of(config.detector.detector).get(keyword, ())
        if what != "train_methods" or keyword in model or found <= {*default}:
            continue
        methods = [*(["real"] if "real" in default else []), *sorted(found - {"real"})]
        model = {**model, keyword: methods}
    return config if model is config.detector.model else _with_model(config, model)


def _declared(config: RunConfig) -> dict[str, str]:
    return dict(getattr(detector_class(config.detector.detector), "keywords_from_data", {}))


def _epochs(config: RunConfig) -> int:
    return max(1, config.detector.train.epochs)


def _with_model(config: RunConfig, model: dict[str, Any]) -> RunConfig:
    return config.model_copy(update={"detector": config.detector.model_copy(update={"model": model})})


def as_deepfakebench_fed(config: RunConfig) -> RunConfig:
    """The configuration for a DeepfakeBench checkpoint: a preset's input gives way to what it was trained with.

    Where clips lie in a video is no matter of training: what is given of that is kept.
    """
    detector = config.detector
    theirs, is_preset = detector.deepfakebench_input, detector.name in loading.names("detectors")
    if theirs is None or not is_preset:
        return config
    preset, ours = loading.load("detectors", detector.name).input, detector.input
    placed = {key: value for key in PLACING if (value := getattr(ours, key)) != getattr(preset, key)}
    if ours != preset.model_copy(update=placed):
        return config
    theirs = theirs.model_copy(update=placed)
    return config.model_copy(update={"detector": detector.model_copy(update={"input": theirs})})


def refuse_clips(config: DetectorConfig, command: str) -> None:
    """Refuses a detector of clips where single pictures are looked at.

    Raises:
        UserError: It is one.
    """
    if config.input.frames > 1:
        raise UserError(
            f"{command}: expected a detector of single frames, got {config.name or config.detector}, which takes clips "
            f"of {config.input.frames} frames (input.frames); it can be tested (`resproto test`), and asked about "
            "videos (`resproto predict`)"
        )


def overrides_of(config: RunConfig) -> list[str]:
    """What differs from the detector's own YAML, as `key=value` words: such a run is another row of a table."""
    name = config.detector.name
    if name in loading.names("detectors"):
        preset = loading.load("detectors", name)
    elif name in class_names():
        preset = DetectorConfig(detector=name)
    else:  # a YAML of the user's own: a board compares the saved configurations
        preset = config.detector
    found, filled = [], _declared(config)
    by_data = {keyword for keyword, what in filled.items() if what != "epochs"}
    for part in ("model", "input", "train"):
        ours, theirs = _plain(getattr(config.detector, part)), _plain(getattr(preset, part))
        if part == "model":
            # As `with_keywords` fills them.
            theirs = {keyword: _epochs(config) for keyword, what in filled.items() if what == "epochs"} | theirs
        found += [f"{part}.{key}={value}" for key, value in _differences(ours, theirs) if key not in by_data]
    if config.run.shuffle_labels:
        found.append("run.shuffle_labels=True")
    if config.run.max_steps:
        found.append(f"run.max_steps={config.run.max_steps}")
    return found


def _plain(part: Any) -> dict[str, Any]:
    return part if isinstance(part, dict) else part.model_dump()


def _differences(ours: dict, theirs: dict, prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in ours.items():
        other = theirs.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            found += _differences(value, other, f"{prefix}{key}.")
        elif value != other or key not in theirs:
            found.append((f"{prefix}{key}", value))
    return found
