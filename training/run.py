"""One run: a detector fitted and tested under a protocol, from configuration to result file.

A run folder holds `config.yaml`, `checkpoints/`, `best.pt`, `tb/` (TensorBoard), `scores/TEST_SET.npz`, `result.json`.
"""

import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import write_text
from resproto_fd.configs.schema import DetectorConfig, RunConfig
from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.registry import build_detector, check_model
from resproto_fd.detectors.weights import load_all, read_state_dict, without_pretrained
from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.augment.transforms import train_transform
from resproto_fd.trainer.blended_pairs import BlendedPairs
from resproto_fd.trainer.companions import find_companions
from resproto_fd.trainer.data import FrameDataset
from resproto_fd.trainer.distributed import World, joined
from resproto_fd.trainer.fields import batch_fields
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.trainer import Trainer, exclusive
from resproto_fd.training import lineage, protocols
from resproto_fd.training.bench import Bench, change_of
from resproto_fd.training.lineage import History
from resproto_fd.training.protocols import ResolvedProtocol
from resproto_fd.training.recording import test_and_record
from resproto_fd.training.results import RunResult, Selection
from resproto_fd.training.settings import as_deepfakebench_fed, folder_of, with_keywords, with_methods


def train(config: RunConfig) -> RunResult | None:
    """Fits the configured detector, tests the selected checkpoint and writes the result.

    A killed run goes on from its checkpoints and keeps the score tables of the same weights.

    Returns:
        The result; None on all ranks but the main one.

    Raises:
        UserError: See `check_model`, `protocols.resolve` and `Trainer.fit`.
        Interrupted: A stop signal came; the same command goes on.
    """
    config, folder = _checked(config)
    with joined(config.run.device) as world, exclusive(folder, world):
        _prepare(config)
        _refuse_no_training(config)
        resolved = protocols.resolve(config.protocol, config.data)
        config = with_methods(config, resolved.train)
        if config.detector.train.samples == "frames":
            _refuse_one_class(resolved.train)
        _print_notes(world, resolved)
        detector, _ = _create(config.detector)
        if world.is_main:
            write_text(folder / "config.yaml", loading.dump(config))
        bench, weights = Bench(config, resolved, world, folder), folder / "best.pt"
        trained_on = list(config.protocol.train)
        if not any(p.requires_grad for p in detector.parameters()):
            history = History(Selection(rule="none"), trained_on)
            return test_and_record(bench, detector.to(world.device), weights, history)
        trainer = _trainer(detector, bench)
        history = _history(trainer.fit(), config, resolved)
        trainer.load_best()
        return test_and_record(bench, trainer.detector, weights, history)


def test(config: RunConfig, weights: Path | None) -> RunResult | None:
    """Tests given weights (or a detector that needs none) under the protocol; training data may be absent.

    If a known run made the weights, the result has that run's recipe and training sets, whatever is asked for here.

    Raises:
        UserError: See `check_model` and `protocols.resolve`; or the weights do not fit the detector; or the folder
            belongs to other weights.
    """
    known = lineage.run_that_made(weights, config.run.out) if weights else None
    asked = config
    config, folder = _checked(lineage.with_recipe_of(known, config))
    with joined(config.run.device) as world, exclusive(folder, world):
        _prepare(config)
        resolved = protocols.resolve(config.protocol, config.data, tests_only=True)
        _print_notes(world, resolved)
        if asked.detector.train != config.detector.train and world.is_main:
            print(f"note: the recipe is that of the run that made {weights}, not the one asked for", file=sys.stderr)
        detector, loaded = _create(config.detector, weights)
        if loaded:
            config = as_deepfakebench_fed(config)
        if loaded and world.is_main:
            print(f"note: {loaded}", file=sys.stderr)
        if weights is None and any(p.requires_grad for p in detector.parameters()):
            raise UserError(f"{config.detector.name} has weights to learn: name them with --weights FILE or --run DIR")
        lineage.refuse_other_weights(folder, weights)
        if world.is_main:
            write_text(folder / "config.yaml", loading.dump(config))
        history = lineage.history_of(weights, known, config.protocol)
        history.note = loaded or history.note
        bench = Bench(config, resolved, world, folder)
        return test_and_record(bench, detector.to(world.device), weights or folder / "best.pt", history)


def _checked(config: RunConfig) -> tuple[RunConfig, Path]:
    """The configuration with the keywords that data fill, and its run folder; wrong `model:` keys are refused.

    Nothing is read or written yet.
    """
    config = with_keywords(config)
    check_model(config.detector)
    return config, folder_of(config)


def _trainer(detector: Detector, bench: Bench) -> Trainer:
    """The trainer of a detector on the protocol's training data."""
    config, resolved, world = bench.config, bench.resolved, bench.world
    samples = config.detector.train.samples
    if samples == "frames":
        frames, pairs = resolved.train, None
    else:
        pairs = BlendedPairs.of(samples, resolved.train, resolved.sides, resolved.stores)
        frames = pairs.frames
    if config.run.shuffle_labels:
        frames = frames.with_labels(np.random.default_rng(config.seed).permutation(frames.labels))
    skip = config.data.on_bad_frame == "skip"
    augment = train_transform(config.detector.train.augment, config.detector.input, config.run.augment_on)
    fields = batch_fields(detector, frames, resolved.sides)
    if pairs is None:
        companions = find_companions(detector.requires, frames, resolved.sides, resolved.stores, skip)
    else:
        companions = pairs.companions(detector.requires)
    data = FrameDataset(
        frames,
        resolved.stores,
        augment,
        config.seed,
        replace_bad=skip,
        fields=fields,
        change=change_of(config.protocol),
        companions=companions,
        pairs=pairs,
    )
    validate = bench.validate if resolved.selection else None
    return Trainer(detector, data, config, world, bench.folder, validate, resolved.fingerprint)


def _history(progress, config: RunConfig, resolved: ResolvedProtocol) -> History:
    """The history of weights that this run has just fitted."""
    chosen, validated = config.protocol.selection, resolved.selection is not None
    selection = Selection(
        rule=chosen.rule,
        **({"dataset": chosen.dataset, "split": chosen.split, "metric": chosen.metric} if validated else {}),
        oracle=chosen.oracle or bool(resolved.tested_in_selection),
        epoch=progress.best_epoch,
        value=progress.best_value,
    )
    images = progress.step * config.detector.train.batch_size
    timing = {"train_seconds": progress.seconds}
    if progress.seconds:
        timing["train_images_per_second"] = images / progress.seconds
    note = f"{len(progress.bad_frames)} unreadable training frames were replaced" if progress.bad_frames else ""
    return History(selection, list(config.protocol.train), timing=timing, train_images=images, note=note)


def _prepare(config: RunConfig) -> None:
    checkpoint.seed_everything(config.seed)
    if config.run.deterministic:
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def _create(config: DetectorConfig, weights: Path | None = None) -> tuple[Detector, str]:
    """The configured detector, and a note on given weights.

    With weights to be loaded into it, none are fetched for its backbone.
    """
    with without_pretrained() if weights else nullcontext():
        detector = build_detector(config)
    return detector, _load(detector, weights) if weights else ""


def _load(detector: Detector, weights: Path) -> str:
    """Loads our own weights, or a DeepfakeBench checkpoint: the names of its tensors tell which."""
    state = read_state_dict(weights)
    try:
        load_all(detector, state, str(weights))
    except UserError as error:
        try:
            detector.load_deepfakebench(state)
        except UserError as other:
            raise UserError(f"{error}. It does not fit as a DeepfakeBench checkpoint either: {other}") from other
        return f"{weights.name} is a DeepfakeBench checkpoint"
    return ""


def _print_notes(world: World, resolved: ResolvedProtocol) -> None:
    """Prints what is odd about the data, and what was left out, before anything is computed."""
    left_out = [f"data set '{name}': {count} missing frames are left out" for name, count in resolved.left_out.items()]
    if world.is_main:
        for note in [*resolved.notes, *left_out]:
            print(f"note: {note}", file=sys.stderr)


def _refuse_no_training(config: RunConfig) -> None:
    if not config.protocol.train:
        raise UserError(
            f"protocol {config.protocol.name} is for tests alone (train: []); test given weights: "
            "resproto test --weights FILE"
        )


def _refuse_one_class(frames: FrameList) -> None:
    real, fake = frames.class_counts()
    if not real or not fake:
        raise UserError(f"the training frames hold {real} real and {fake} fake; expected both classes")
