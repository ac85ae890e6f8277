"""Makes a package of a run."""

import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

import torch
from safetensors.torch import save as as_safetensors

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import atomic_file, make_folder, scratch_folder, sha256_of, write_text
from resproto_fd.configs.schema import DataConfig, RunConfig, RunSettings
from resproto_fd.detectors.registry import build_detector
from resproto_fd.detectors.weights import read_state_dict
from resproto_fd.trainer.checkpoint import seed_everything
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.run_folder import exclusive
from resproto_fd.training.calibration import calibration_of
from resproto_fd.training.packages import contents, reading
from resproto_fd.training.packages.card import model_card
from resproto_fd.training.results import RunResult
from resproto_fd.training.run import misfits_named

LEARNT_UNDER = {"shuffle_labels", "max_steps"}
"""Settings of `run` that change what is learnt."""


def write(run: Path, out: Path, trusted: bool = False, onnx: bool = False, exported: bool = False) -> reading.Package:
    """Makes a package of a run, and loads it.

    The package appears whole or not at all. No folder of this machine is named in it.

    Args:
        run: The run folder: `config.yaml`, `result.json` and `best.pt`.
        out: The package's folder; it must not exist.
        trusted: Whether code that the run folder names may be imported.
        onnx: Whether an ONNX graph is added.
        exported: Whether a graph of torch.export is added.

    Raises:
        UserError: The run folder lacks something, `out` exists, or a graph cannot be made or gives other scores.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise UserError(f"{run}: expected the folder of a run, with config.yaml in it")
    if out.exists():
        raise _taken(out)
    config = loading.validated(RunConfig, loading.load_yaml(path), str(path))
    result = RunResult.load(run / contents.RESULT)
    if trusted:
        config = config.model_copy(update={"detector": config.detector.trusting()})
    state = _weights(run, config, result)
    make_folder(out.parent)
    inside = run.resolve() in out.resolve().parents  # where whoever locks the run removes what is half-written
    locked = exclusive(run, World(0, 1, torch.device("cpu"))) if inside else nullcontext()
    with locked, scratch_folder(out.parent, f".{out.name}.") as scratch:
        folder = scratch / out.name
        folder.mkdir()
        with atomic_file(folder / contents.WEIGHTS) as file:
            file.write(as_safetensors(state, {"format": "pt"}))
        write_text(folder / contents.CONFIG, loading.dump(without_places(config)))
        cleaned = result.model_copy(update={"config": without_places_in(result.config)})
        cleaned.save(folder / contents.RESULT)
        for name in contents.CALIBRATION if calibration_of(result) else ():  # none of other weights
            if (run / name).is_file():
                shutil.copyfile(run / name, folder / name)
        _list_files(folder)
        if onnx or exported:
            from resproto_fd.training.packages import graphs

            package = reading.load(folder, trusted=trusted)
            graphs.write(package, folder, onnx, exported)
        names = [file.name for file in folder.iterdir()]
        write_text(folder / contents.CARD, model_card(config, result, names))
        _list_files(folder)
        try:
            folder.rename(out)
        except OSError as error:
            if out.exists():  # another command made it meanwhile
                raise _taken(out) from error
            raise
    return reading.load(out, trusted=trusted)


def _taken(out: Path) -> UserError:
    return UserError(f"{out}: exists already; remove it, or set another --out")


def without_places(config: RunConfig) -> RunConfig:
    """A configuration without what names folders and files of this machine, or says how this machine runs it."""
    train = config.detector.train.model_copy(update={"augment": _plain(config.detector.train.augment)})
    detector = config.detector.model_copy(update={"model": _plain(config.detector.model), "train": train})
    run = RunSettings(**config.run.model_dump(include=LEARNT_UNDER))
    return config.model_copy(update={"detector": detector, "data": DataConfig(), "run": run})


def without_places_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same for a configuration as a result file holds it."""
    kept = {key: value for key, value in config.items() if key not in ("data", "run")}
    if isinstance(detector := kept.get("detector"), dict) and isinstance(detector.get("model"), dict):
        kept["detector"] = {**detector, "model": _plain(detector["model"]), "train": _plain(detector.get("train", {}))}
    if isinstance(run := config.get("run"), dict):
        kept["run"] = {key: value for key, value in run.items() if key in LEARNT_UNDER}
    return kept


def _plain(value: Any) -> Any:
    """A value with each path of a file replaced by the file's name; weights that were read then are not read again."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    if isinstance(value, str) and (PurePath(value).is_absolute() or Path(value).is_file()):
        return PurePath(value).name
    return value


def _weights(run: Path, config: RunConfig, result: RunResult) -> dict[str, torch.Tensor]:
    """The tensors of a run's detector, by name.

    Raises:
        UserError: The run has none of its own, or its result is of other weights.
    """
    best = run / "best.pt"
    if best.is_file():
        if result.checkpoint_sha256 not in (None, sha256_of(best)):
            raise UserError(f"{run}: result.json is of other weights than best.pt; train or test the run to its end")
        state = read_state_dict(best)
    else:
        seed_everything(config.seed)  # weights that are neither learnt nor fetched depend on it
        with misfits_named(config.detector):
            detector = build_detector(config.detector)
        if any(parameter.requires_grad for parameter in detector.parameters()):
            raise UserError(f"{best}: no such file; export the folder of the run that trained the weights")
        state = detector.state_dict()
    # Each tensor has memory of its own, as safetensors wants it.
    return {name: value.detach().clone().contiguous() for name, value in state.items()}


def _list_files(folder: Path) -> None:
    files = {path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != contents.CONTENTS}
    listed = contents.Contents(made_by=f"resproto-fd {version('resproto-fd')}", files=files)
    write_text(folder / contents.CONTENTS, listed.model_dump_json(indent=1) + "\n")
