"""Arguments that `train` and `test` share, and the configuration they make; some are DeepfakeBench's flags."""

import argparse
import hashlib
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from resproto_fd.configs import deepfakebench, loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import DetectorConfig, ProtocolConfig, RunConfig, RunSettings
from resproto_fd.detectors.registry import class_names

DEFAULT_PROTOCOL = "ffpp_c23_cross"


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that name detector, protocol, data and settings."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--detector", metavar="NAME", help="a detector's name (see: resproto list detectors)")
    which.add_argument("--detector_path", metavar="YAML", help="a detector's YAML, ours or DeepfakeBench's")
    parser.add_argument("--protocol", metavar="NAME", help=f"a protocol's name or YAML (default: {DEFAULT_PROTOCOL})")
    parser.add_argument(
        "--train_dataset", nargs="+", metavar="SET", help="train on these sets instead of the protocol's"
    )
    parser.add_argument("--test_dataset", nargs="+", metavar="SET", help="test on these sets instead of the protocol's")
    parser.add_argument("--task_target", metavar="WORD", help="added to the run folder's name")
    parser.add_argument("--seed", type=int, help="seed of everything random (default: 0)")
    parser.add_argument("--out", metavar="DIR", help="folder of runs (default: runs)")
    parser.add_argument("--ddp", action="store_true", help=argparse.SUPPRESS)  # torchrun's environment tells
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="settings: model.*, input.*, train.*, protocol.*, data.*, run.*",
    )


def run_config(args: argparse.Namespace) -> RunConfig:
    """The resolved configuration of the shared arguments.

    If a known run made the weights, its settings and seed are the defaults; the command line may change them.

    Raises:
        UserError: No detector is named; or a named thing does not exist or does not fit the schema.
    """
    changes = _settings(args)
    name = args.detector or args.detector_path
    if not name:
        raise UserError("name a detector: --detector NAME (see: resproto list detectors)")
    if args.detector_path and args.detector_path.endswith((".yaml", ".yml")):
        path = loading.find("detectors", args.detector_path)
        # Many of DeepfakeBench's YAMLs have a key twice; ours are read again, strictly.
        values = loading.load_yaml(path, lenient=True)
        if deepfakebench.is_deepfakebench(values):
            name, given, unused = deepfakebench.translate(values, str(path))
            changes = loading.merged(given, changes)
            note = f"; without effect here: {', '.join(unused)}" if unused else ""
            print(f"{path}: read as DeepfakeBench's, detector '{name}'{note}", file=sys.stderr)
    changes = _with_flags(args, changes)
    detector = _detector(name)
    if weights := getattr(args, "weights_path", None):
        detector, changes = _as_trained(Path(weights), detector, changes, is_preset=args.detector is not None)
    protocol = args.protocol or DEFAULT_PROTOCOL
    return _own_protocol(loading.resolve(detector, protocol, changes), loading.load("protocols", protocol))


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The `key=value` words, also those that argparse put into a list of data sets before them."""
    lists = (args.settings, args.train_dataset, args.test_dataset)
    return loading.parse_overrides([word for words in lists for word in words or [] if "=" in word])


def _with_flags(args: argparse.Namespace, changes: dict[str, Any]) -> dict[str, Any]:
    """The changes with those of the flags laid over them."""
    for words, key in ((args.train_dataset, "train"), (args.test_dataset, "test")):
        if sets := [word for word in words or [] if "=" not in word]:
            changes = loading.merged(changes, {"protocol": {key: sets}})
    for value, key in ((args.out, "out"), (args.task_target, "task")):
        if value is not None:
            changes = loading.merged(changes, {"run": {key: value}})
    if args.seed is not None:
        changes = {**changes, "seed": args.seed}
    return changes


def _detector(name: str) -> str | DetectorConfig:
    """The name; or the default recipe, for a registered class without a YAML (another package's)."""
    if name not in loading.names("detectors") and name in class_names():
        return DetectorConfig(name=name, detector=name)
    return name


def _as_trained(
    weights: Path, detector: str | DetectorConfig, changes: dict[str, Any], is_preset: bool
) -> tuple[str | DetectorConfig, dict[str, Any]]:
    """Detector and changes, with the settings and the seed of the run that made the weights as defaults."""
    from resproto_fd.training.lineage import run_that_made

    known = run_that_made(weights, changes.get("run", {}).get("out", RunSettings().out))
    if known is None:
        return detector, changes
    saved = known.config.get("detector")
    name = detector if isinstance(detector, str) else detector.name
    if is_preset and isinstance(saved, dict) and saved.get("name") == name:
        detector = loading.validated(DetectorConfig, saved, f"{known.folder}/result.json: config.detector")
        if known.overrides:
            print(f"note: {weights} was made with {' '.join(known.overrides)} and is tested so", file=sys.stderr)
    return detector, {"seed": known.seed} | changes


def _own_protocol(config: RunConfig, source: ProtocolConfig) -> RunConfig:
    """Gives a changed protocol a name of its own; selects on a training set if the training sets were changed.

    The new name depends on the content, so that two changes of one protocol have a folder each.

    Args:
        config: The configuration with all changes.
        source: The protocol before the changes; used if the package has none of that name.
    """
    protocol = config.protocol
    base = _CUSTOM.sub("", protocol.name)
    if base in loading.names("protocols"):
        source = loading.load("protocols", base)
    elif protocol.name != source.name:  # named on the command line
        return config
    if protocol.model_copy(update={"name": source.name}) == source:
        return config.model_copy(update={"protocol": source})
    selection, elsewhere = protocol.selection, protocol.train != source.train
    as_before = selection == source.selection and selection.rule == "best"
    if elsewhere and as_before and selection.dataset not in protocol.train:
        selection = selection.model_copy(update={"dataset": protocol.train[0]})
        protocol = protocol.model_copy(update={"selection": selection})
    words = {"name", "title", "source", "note"}
    content = json.dumps(protocol.model_dump(exclude=words, exclude_defaults=True), sort_keys=True)
    name = f"{base}-custom-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
    return config.model_copy(update={"protocol": protocol.model_copy(update={"name": name})})


_CUSTOM = re.compile(r"-custom(-[0-9a-f]{8})?$")


def saved_config(args: argparse.Namespace) -> RunConfig:
    """The configuration saved in a run's folder, with the command line's changes.

    Without --out the results go into that folder, even if it was moved.

    Raises:
        UserError: The folder holds no readable configuration; or a change does not fit, concerns the training of the
            run's weights, or would overwrite the run; or the folder was renamed and --out is not given.
    """
    folder = Path(args.run_folder)
    path = folder / "config.yaml"
    changes = _settings(args)
    _refuse_with_run(args, changes)
    saved = loading.validated(RunConfig, loading.load_yaml(path), str(path))
    changes = _with_flags(args, changes)
    config = loading.with_changes(saved.model_dump(by_alias=True), changes)
    if config.protocol != saved.protocol:
        config = _own_protocol(config, saved.protocol)
    if "out" in changes.get("run", {}):
        return config
    config = config.model_copy(update={"run": config.run.model_copy(update={"out": str(_out_of(folder, saved))})})
    ours, theirs = config.detector, saved.detector
    if (ours.model, ours.input) != (theirs.model, theirs.input):
        raise UserError(f"{folder}: other model.* or input.* would overwrite the run's own results; set --out DIR")
    return config


def _refuse_with_run(args: argparse.Namespace, changes: dict[str, Any]) -> None:
    """Refuses changes of what a run's weights were trained with."""
    protocol = changes.get("protocol")
    given = {
        "--detector": args.detector,
        "--detector_path": args.detector_path,
        "--protocol": args.protocol,
        "--seed": args.seed,
        "--train_dataset": args.train_dataset,
        "seed=": changes.get("seed"),
        "protocol.train=": protocol.get("train") if isinstance(protocol, dict) else None,
    }
    if words := [word for word, value in given.items() if value is not None]:
        weights = args.weights_path or Path(args.run_folder) / "best.pt"
        raise UserError(
            f"{', '.join(words)}: not with --run, whose configuration has it; to test its weights otherwise, replace "
            f"--run by --weights {weights} --detector NAME --protocol NAME"
        )


def _out_of(folder: Path, saved: RunConfig) -> Path:
    """The folder of runs that a run's folder lies in.

    Raises:
        UserError: It lies elsewhere than its configuration would put it.
    """
    from resproto_fd.training.settings import folder_of

    tail = folder_of(saved.model_copy(update={"run": saved.run.model_copy(update={"out": ""})})).parts
    for place in (folder, Path(os.path.abspath(folder)), folder.resolve()):
        if place.parts[-3:] == tail:
            return place.parents[2]
    raise UserError(
        f"{folder}: expected a folder {'/'.join(tail)}, by its config.yaml; set --out DIR or rename the folder"
    )


def print_result(result, folder) -> None:
    """Prints a run's main numbers, one line for each test set."""
    print(f"{result.title}, {result.protocol}, seed {result.seed}, checkpoint: {result.selected_on.text()}")
    names = ("frame_auc", "frame_ap", "frame_eer", "frame_acc", "video_auc")
    print("  ".join([f"{'test set':24}", f"{'frames':>7}", *(f"{name:>9}" for name in names)]))
    for name, test in result.tests.items():
        numbers = [getattr(test, metric) for metric in names]
        cells = ["undefined" if number is None else f"{number:9.4f}" for number in numbers]
        print("  ".join([f"{name:24}", f"{test.frames:7d}", *cells]))
    if len(result.unseen()) > 1 and result.m_eer() is not None:
        print(f"largest frame EER (M_EER) of {', '.join(result.unseen())}: {result.m_eer():.4f}")
    print(f"{folder}/result.json")
