"""Arguments that several commands share, and the configuration that those of `train` and `test` make.

Some are DeepfakeBench's flags.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from resproto_fd.configs import deepfakebench, loading
from resproto_fd.configs.argument_types import seed_type
from resproto_fd.configs.errors import UserError, shown
from resproto_fd.configs.schema import DetectorConfig, RunConfig, RunSettings
from resproto_fd.training.overriding import configuration, detector_called, own_protocol

Content = TypeVar("Content")
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
    parser.add_argument("--task_target", metavar="WORD", help="a word added to the run folder's name")
    parser.add_argument("--seed", type=seed_type(), help="seed of everything random (default: 0)")
    parser.add_argument("--out", metavar="DIR", help="folder of runs (default: runs)")
    add_trust(parser)
    # It saves no features there either.
    parser.add_argument("--save_feat", action=argparse.BooleanOptionalAction, help=argparse.SUPPRESS)
    parser.add_argument("--ddp", action="store_true", help=argparse.SUPPRESS)  # torchrun's environment tells
    parser.add_argument("--local_rank", "--local-rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="key=value",
        help="settings: model.*, input.*, train.*, protocol.*, data.*, run.*",
    )


def readable(sources: Mapping[str, Path], read: Callable[[Path], Content]) -> dict[str, Content]:
    """What can be read of some files or folders, by name. Those that cannot be read are named and left out.

    Raises:
        UserError: None can be read.
    """
    found, faults = {}, []
    for name, path in sources.items():
        try:
            found[name] = read(path)
        except UserError as error:
            faults.append(str(error))
    if not found:
        raise UserError("\n".join(faults))
    for fault in faults:
        print(f"left out: {fault}")
    return found


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds the run folder of commands that look at one run."""
    parser.add_argument("run_folder", metavar="RUN", help="a run's folder")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Adds the device of commands that score with trained runs."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: %(default)s)")


def add_out(parser: argparse.ArgumentParser) -> None:
    """Adds the folder of runs of commands that make runs and read no configuration of one."""
    parser.add_argument("--out", default="runs", metavar="DIR", help="folder of runs (default: runs)")


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Adds the flag of every command that builds a detector of a YAML, a sweep or a run folder."""
    parser.add_argument(
        "--trust-code",
        action="store_true",
        help="import the Python code that a detector's YAML, a sweep or a run folder names (model.target of "
        "deepfakebench_class), and open the files that its augmentation names; only for files that you trust like a "
        "program",
    )


def with_trust(config: RunConfig, trusted: bool, typed: dict[str, Any] | None = None) -> RunConfig:
    """The configuration; its detector may use the code and the files that it names if that is trusted, or was typed.

    Args:
        config: Of a run.
        trusted: Whether --trust-code is set.
        typed: The words of the command line, as `parse_overrides` gives them.
    """
    typed = typed or {}
    keywords = [*(typed.get("model") or ()), *(f"train.{key}" for key in typed.get("train") or ())]
    return config.model_copy(update={"detector": config.detector.trusting(None if trusted else keywords)})


def run_config(args: argparse.Namespace) -> RunConfig:
    """The resolved configuration of the shared arguments.

    If a known run made the weights, its settings and seed are the defaults; the command line may change them.

    Raises:
        UserError: No detector is named; or a named thing does not exist or does not fit the schema.
    """
    changes = typed = _settings(args)
    name, file = args.detector or args.detector_path, ""
    if not name:
        raise UserError("name a detector: --detector NAME (see: resproto list detectors)")
    if args.detector_path and args.detector_path.endswith((".yaml", ".yml")):
        path = loading.find("detectors", args.detector_path)
        # Many of DeepfakeBench's YAMLs have a key twice; ours are read again, strictly.
        values = loading.load_yaml(path, lenient=True)
        if deepfakebench.is_deepfakebench(values):
            trains = not hasattr(args, "weights_path")
            file = str(path)
            name, given, notes = deepfakebench.translate(values, file, changes, trains)
            changes = loading.merged(given, changes)
            for note in [f"read as DeepfakeBench's, detector '{name}'", *notes]:
                print(f"{file}: {note}", file=sys.stderr)
    changes = _with_flags(args, changes)
    detector = detector_called(name)
    if weights := getattr(args, "weights_path", None):
        detector, changes = _as_trained(Path(weights), detector, changes, is_preset=args.detector is not None)
    said = _with_flags(args, typed) if file else None
    config = configuration(detector, args.protocol or DEFAULT_PROTOCOL, changes, said, file)
    return with_trust(config, args.trust_code, typed)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The `key=value` words, also those that argparse put into a list of data sets before them."""
    lists = (args.train_dataset, args.test_dataset)
    among_sets = [word for words in lists for word in words or [] if "=" in word]
    changes = loading.parse_overrides([*args.settings, *among_sets])
    _refuse_said_twice(args, changes)
    return changes


def _refuse_said_twice(args: argparse.Namespace, typed: dict[str, Any]) -> None:
    """Refuses a flag beside a `key=value` word that says something else of the same setting."""
    flags: dict[str, tuple[str, Any]] = {
        "--train_dataset": ("protocol.train", [word for word in args.train_dataset or [] if "=" not in word] or None),
        "--test_dataset": ("protocol.test", [word for word in args.test_dataset or [] if "=" not in word] or None),
        "--out": ("run.out", args.out),
        "--task_target": ("run.task", args.task_target),
        "--seed": ("seed", args.seed),
        "--no-save_ckpt": ("run.save_checkpoints", None if getattr(args, "save_ckpt", True) else False),
    }
    for flag, (key, value) in flags.items():
        said: Any = typed
        for part in key.split("."):
            said = said.get(part) if isinstance(said, dict) else None
        if None not in (value, said) and said != value:
            words = f"{flag}{'' if value is False else f' {value}'}"
            raise UserError(f"command line: {words} and {key}={shown(said)} contradict each other; give one of them")


def typed_changes(args: argparse.Namespace) -> dict[str, Any]:
    """Changes that the words and flags of `add_shared` make to a configuration."""
    return _with_flags(args, _settings(args))


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


def _as_trained(
    weights: Path, detector: str | DetectorConfig, changes: dict[str, Any], is_preset: bool
) -> tuple[str | DetectorConfig, dict[str, Any]]:
    """Detector and changes, with the settings and the seed of the run that made the weights as defaults."""
    from resproto_fd.training.lineage import origin_of

    known = origin_of(weights, changes.get("run", {}).get("out", RunSettings().out))
    if known is None:
        return detector, changes
    saved = known.config.get("detector")
    name = detector if isinstance(detector, str) else detector.name
    if is_preset and isinstance(saved, dict) and saved.get("name") == name:
        asked = loading.load("detectors", detector) if isinstance(detector, str) else detector
        if saved.get("detector") != asked.detector:
            print(
                f"note: {known.where} gives '{name}' another class than '{asked.detector}'; its settings are not used",
                file=sys.stderr,
            )
            return detector, changes
        detector = loading.validated(DetectorConfig, saved, f"{known.where}: config.detector")
        if known.overrides:
            print(f"note: {weights} was made with {' '.join(known.overrides)} and is tested so", file=sys.stderr)
    return detector, {"seed": known.seed} | changes


def saved_config(args: argparse.Namespace) -> RunConfig:
    """The configuration saved in a run's folder, with the command line's changes.

    Without --out the results go into that folder, even if it was moved.

    Raises:
        UserError: The folder holds no readable configuration; or a change does not fit, concerns the training of the
            run's weights, or would overwrite the run; or the folder was renamed and --out is not given.
    """
    folder = Path(args.run_folder)
    path = folder / "config.yaml"
    if not path.is_file():
        raise UserError(f"--run: expected the folder of a run, with config.yaml in it, got {folder}")
    changes = typed = _settings(args)
    _refuse_with_run(args, changes)
    saved = loading.validated(RunConfig, loading.load_yaml(path), str(path))
    changes = _with_flags(args, changes)
    if isinstance(saved.run.encode_once, str):  # a folder that only a file names is not written to
        saved = saved.model_copy(update={"run": saved.run.model_copy(update={"encode_once": False})})
    config = with_trust(loading.with_changes(saved.model_dump(by_alias=True), changes), args.trust_code, typed)
    if config.protocol != saved.protocol:
        config = own_protocol(config, saved.protocol)
    if "out" in changes.get("run", {}):
        return config
    config = config.model_copy(update={"run": config.run.model_copy(update={"out": str(_out_of(folder, saved))})})
    ours, theirs = config.detector, saved.detector
    if (ours.model, ours.input) != (theirs.model, theirs.input):
        raise UserError(f"{folder}: other model.* or input.* would overwrite the run's own results; set --out DIR")
    return config


def package_config(args: argparse.Namespace) -> tuple[RunConfig, Path]:
    """The configuration in a package with the command line's changes, and the package's weights.

    Raises:
        UserError: It is no whole package; or another argument names a detector, or changes its training.
    """
    from resproto_fd.training.packages import contents, reading

    named = {"--run": args.run_folder, "--weights": args.weights_path, "--detector": args.detector}
    named |= {"--detector_path": args.detector_path, "--train_dataset": args.train_dataset, "--seed": args.seed}
    if words := [word for word, value in named.items() if value is not None]:
        raise UserError(f"{', '.join(words)}: not with --package, whose configuration has it; remove it")
    folder = Path(args.package)
    if not folder.is_dir():
        raise UserError(f"--package {folder}: no such folder; expected a package that resproto export made")
    contents.check(folder)
    saved, typed = reading.read_config(folder), _settings(args)
    source = loading.load("protocols", args.protocol) if args.protocol else saved.protocol
    values = saved.model_dump(by_alias=True) | {"protocol": source.model_dump(by_alias=True)}
    config = own_protocol(loading.with_changes(values, _with_flags(args, typed)), source)
    return with_trust(config, args.trust_code, typed), folder / contents.WEIGHTS


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
    names, unit = ("frame_auc", "frame_ap", "frame_eer", "frame_acc", "video_auc"), "frames"
    if result.clip_frames:
        names, unit = ("video_auc", "video_ap", "video_eer", "video_acc"), "clips"
    print("  ".join([f"{'test set':24}", f"{unit:>7}", *(f"{name:>9}" for name in names)]))
    for name, test in result.tests.items():
        numbers = [getattr(test, metric) for metric in names]
        cells = ["undefined" if number is None else f"{number:9.4f}" for number in numbers]
        print("  ".join([f"{name:24}", f"{getattr(test, unit):7d}", *cells]))
    if len(result.unseen()) > 1 and result.m_eer() is not None:
        print(f"largest frame EER (M_EER) of {', '.join(result.unseen())}: {result.m_eer():.4f}")
    print(f"{folder}/result.json")
