"""Arguments that `train` and `test` share, DeepfakeBench's flags among them, and the configuration they make."""

import argparse
import sys

from resproto_fd.configs import deepfakebench, loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import DetectorConfig, ProtocolConfig, RunConfig
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
    parser.add_argument("--ddp", action="store_true", help=argparse.SUPPRESS)  # torchrun's environment says it already
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="settings: model.*, input.*, train.*, protocol.*, data.*, run.*",
    )


def run_config(args: argparse.Namespace) -> RunConfig:
    """The resolved configuration of the shared arguments.

    Raises:
        UserError: No detector is named, or something named does not exist or does not fit the schema.
    """
    settings = [
        word for words in (args.settings, args.train_dataset, args.test_dataset) for word in words or [] if "=" in word
    ]
    changes = loading.parse_overrides(settings)
    name = args.detector or args.detector_path
    if not name:
        raise UserError("name a detector: --detector NAME (see: resproto list detectors)")
    if args.detector_path and args.detector_path.endswith((".yaml", ".yml")):
        path = loading.find("detectors", args.detector_path)
        values = loading.load_yaml(path, lenient=True)  # many of DeepfakeBench's have a key twice; ours are read anew
        if deepfakebench.is_deepfakebench(values):
            name, given, unused = deepfakebench.translate(values, str(path))
            changes = loading.merged(given, changes)
            note = f"; without effect here: {', '.join(unused)}" if unused else ""
            print(f"{path}: read as DeepfakeBench's, detector '{name}'{note}", file=sys.stderr)
    for words, key in ((args.train_dataset, "train"), (args.test_dataset, "test")):
        if sets := [word for word in words or [] if "=" not in word]:
            changes = loading.merged(changes, {"protocol": {key: sets}})
    for value, key in ((args.out, "out"), (args.task_target, "task")):
        if value is not None:
            changes = loading.merged(changes, {"run": {key: value}})
    if args.seed is not None:
        changes["seed"] = args.seed
    return _own_protocol(loading.resolve(_detector(name), args.protocol or DEFAULT_PROTOCOL, changes))


def _detector(name: str) -> str | DetectorConfig:
    """A registered class without a YAML of its own (another package's) runs with the default recipe."""
    if name not in loading.names("detectors") and name in class_names():
        return DetectorConfig(name=name, detector=name)
    return name


def _own_protocol(config: RunConfig) -> RunConfig:
    """Renames a protocol whose data differ from the file of that name, and selects on what it trains on."""
    protocol = config.protocol
    if protocol.name not in loading.names("protocols"):
        return config
    original: ProtocolConfig = loading.load("protocols", protocol.name)
    if protocol == original:
        return config
    selection = protocol.selection
    if selection == original.selection and selection.rule == "best" and selection.dataset not in protocol.train:
        selection = selection.model_copy(update={"dataset": protocol.train[0]})
    renamed = protocol.model_copy(update={"name": f"{protocol.name}-custom", "selection": selection})
    return config.model_copy(update={"protocol": renamed})


def saved_config(args: argparse.Namespace) -> RunConfig:
    """The configuration saved in a run's folder, with what the command line changes of it.

    Raises:
        UserError: The folder holds no readable configuration, or a change does not fit.
    """
    from pathlib import Path

    path = Path(args.run_folder) / "config.yaml"
    values = loading.load_yaml(path)
    changes = loading.of_run(loading.parse_overrides([word for word in args.settings if "=" in word]))
    if args.test_dataset:
        changes = loading.merged(changes, {"protocol": {"test": args.test_dataset}})
    if args.out:
        changes = loading.merged(changes, {"run": {"out": args.out}})
    saved = loading.validated(RunConfig, values, str(path))
    return _own_protocol(
        loading.validated(RunConfig, loading.merged(saved.model_dump(by_alias=True), changes), str(path))
    )


def print_result(result, folder) -> None:
    """Prints a run's main numbers, a line a test set."""
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
