"""One run: a detector fitted and tested under a protocol, from configuration to result file.

A run folder holds `config.yaml`, `checkpoints/`, `best.pt`, `tb/` (TensorBoard), `scores/TEST_SET.npz`, `result.json`.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError, WrongInput, cut
from resproto_fd.configs.file_names import refuse_twin
from resproto_fd.configs.files import write_text
from resproto_fd.configs.schema import DetectorConfig, InputConfig, RunConfig
from resproto_fd.configs.schema import Selection as SelectionRule
from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.registry import build_detector, check_model
from resproto_fd.detectors.weights import is_head_alone, load_all, read_state_dict, without_pretrained
from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.augment.transforms import check_augment, train_transform
from resproto_fd.trainer.blended_clips import VIDEO_BLENDED, BlendedClips
from resproto_fd.trainer.blended_pairs import BlendedPairs, with_blends
from resproto_fd.trainer.clip_data import ClipDataset
from resproto_fd.trainer.clip_list import ClipList
from resproto_fd.trainer.companions import Partners, find_companions, find_partners
from resproto_fd.trainer.data import FrameDataset
from resproto_fd.trainer.detector_faults import faults_of
from resproto_fd.trainer.distributed import World, joined
from resproto_fd.trainer.fields import batch_fields
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.progress import OTHER_FILES
from resproto_fd.trainer.run_folder import exclusive
from resproto_fd.trainer.trainer import Trainer
from resproto_fd.training import lineage, protocols
from resproto_fd.training.bench import Bench, change_of
from resproto_fd.training.lineage import History
from resproto_fd.training.protocols import ResolvedProtocol
from resproto_fd.training.provenance import identity_of
from resproto_fd.training.recording import test_and_record
from resproto_fd.training.results import RunResult, Selection
from resproto_fd.training.samples import check_clips, note_on_clips, one_sample, samples_of
from resproto_fd.training.settings import as_deepfakebench_fed, folder_of, with_keywords, with_methods

FAULTS_OF_SETTINGS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What settings that do not fit each other raise in a detector's constructor or pass."""


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
    named = config.detector
    check_augment(named.train.augment, named.input, config.run.augment_on, named.trusts("train.augment"))
    with joined(config.run.device) as world:
        _prepare(config)
        _refuse_no_training(config)
        resolved = protocols.resolve(config.protocol, config.data)
        config = with_methods(config, resolved.train)
        if config.detector.train.samples == "frames":
            _refuse_one_class(resolved.train)
        _print_notes(world, resolved)
        detector, _ = create(config.detector)
        trains = any(p.requires_grad for p in detector.parameters())
        bench, weights = Bench(config, resolved, world, folder), folder / "best.pt"
        if trains:
            _refuse_undefined_choice(config.protocol.selection, bench.selection)
            _refuse_no_epochs(config.detector)
        trainer = _trainer(detector, bench) if trains else None
        _note_short_videos(bench, trainer)
        with exclusive(folder, world):  # not before: a run that is refused leaves no folder
            lineage.refuse_another_run(folder, config, trains)
            if trainer is None:
                history = History(Selection(rule="none"), list(config.protocol.train))
                return test_and_record(bench, bench.placed(detector), weights, history)
            trainer.resume()
            trainer.data = bench.trained_on(trainer.data, trainer)
            encoding = bench.encodings.seconds if bench.encodings else 0.0
            if world.is_main:
                write_text(folder / "config.yaml", loading.dump(config))
            history = _history(trainer.fit(), config, resolved, trainer.detector, encoding)
            trainer.load_best()
            return test_and_record(bench, trainer.detector, weights, history)


def test(config: RunConfig, weights: Path | None) -> RunResult | None:
    """Tests given weights (or a detector that needs none) under the protocol; training data may be absent.

    If a known run made the weights, the result has that run's recipe and training sets, whatever is asked for here.

    Raises:
        UserError: See `check_model` and `protocols.resolve`; or the weights do not fit the detector; or the folder
            belongs to other weights.
    """
    known = lineage.origin_of(weights, config.run.out) if weights else None
    asked = config
    config, folder = _checked(lineage.with_recipe_of(known, config))
    with joined(config.run.device) as world:
        _prepare(config)
        resolved = protocols.resolve(config.protocol, config.data, tests_only=True)
        _print_notes(world, resolved)
        if asked.detector.train != config.detector.train and world.is_main:
            print(f"note: the recipe is that of the run that made {weights}, not the one asked for", file=sys.stderr)
        lineage.refuse_to_overwrite(folder, weights, config)
        detector, loaded = create(config.detector, weights)
        if loaded:
            config = as_deepfakebench_fed(config)
            with misfits_named(config.detector):
                _try_out(detector, config.detector.input)
        if loaded and world.is_main:
            print(f"note: {loaded}", file=sys.stderr)
        if weights is None and any(p.requires_grad for p in detector.parameters()):
            raise UserError(f"{config.detector.name} has weights to learn: name them with --weights FILE or --run DIR")
        if known and known.state and world.is_main:
            print(f"note: {weights}: {known.state}", file=sys.stderr)
        history = lineage.history_of(weights, known, config.protocol, resolved.train)
        history.note = loaded or history.note
        history.selection = _marked(history.selection, resolved, world)
        bench = Bench(config, resolved, world, folder)
        _note_short_videos(bench)
        with exclusive(folder, world):
            lineage.refuse_to_overwrite(folder, weights, config)  # again: another test may have ended meanwhile
            return test_and_record(bench, bench.placed(detector), weights or folder / "best.pt", history)


def _checked(config: RunConfig) -> tuple[RunConfig, Path]:
    """The configuration with the keywords that data fill, and its run folder; wrong settings are refused.

    Nothing is read or written yet.
    """
    config = with_keywords(config)
    check_model(config.detector)
    check_clips(config)
    folder = folder_of(config)
    refuse_twin(folder, levels=3)
    return config, folder


def _trainer(detector: Detector, bench: Bench) -> Trainer:
    """The trainer of a detector on the protocol's training data."""
    config, resolved, world = bench.config, bench.resolved, bench.world
    samples, pairs, blends = config.detector.train.samples, None, None
    if config.detector.train.from_reals_alone:
        pairs = BlendedPairs.of(samples, resolved.train, resolved.sides, resolved.stores)
        frames = pairs.frames
    else:
        frames = samples_of(resolved.train, config, resolved.stores, "training", training=True)
        if samples == VIDEO_BLENDED:
            blends = BlendedClips.of(frames, resolved.stores)
            frames = blends.clips
        _refuse_one_class(frames)
    if config.run.shuffle_labels:
        frames = frames.shuffled(np.random.default_rng(config.seed).permutation(len(frames)))
    skip = config.data.on_bad_frame == "skip"
    augment = train_transform(config.detector.train.augment, config.detector.input, config.run.augment_on)
    fields = batch_fields(detector, frames, resolved.sides)
    if pairs is None:
        companions = find_companions(detector.requires, frames, resolved.sides, resolved.stores, skip)
        companions = with_blends(companions, detector.requires, frames, resolved.sides, resolved.stores)
    else:
        companions = pairs.companions(detector.requires)
    partners = _partners(frames, bench) if config.detector.train.sampling == "paired" else None
    options = {
        "replace_bad": skip,
        "fields": fields,
        "change": change_of(config.protocol),
        "companions": companions,
        "partners": partners,
    }
    if isinstance(frames, ClipList):
        data = ClipDataset(frames, resolved.stores, augment, config.seed, draws=True, blends=blends, **options)
    else:
        data = FrameDataset(frames, resolved.stores, augment, config.seed, pairs=pairs, **options)
    validate = bench.validate if resolved.selection else None
    record = lineage.record_for(config, _selection(config, resolved), resolved)
    _note_other_metric(bench)
    files = identity_of(resolved.train, resolved.stores)
    return Trainer(detector, data, config, world, bench.folder, validate, resolved.fingerprint, record, files)


def _partners(frames: FrameList, bench: Bench) -> Partners:
    """The real frame of each fake; prints for how many it is of the video that the fake was made from."""
    partners, unit = find_partners(frames, bench.resolved.sides), frames.unit
    fakes, known = int(frames.labels.sum()), int((partners.of_fakes() >= 0).sum())
    if not known and not bench.config.run.shuffle_labels:
        raise UserError(
            "train.sampling=paired: expected fakes of which the real video is known and among the training frames, got "
            f"none of {fakes} fake {unit}s. Side files tell it (`resproto manifest` writes them), or names like "
            "FaceForensics++'s, 000_003; set train.sampling=shuffled or other training sets"
        )
    if bench.world.is_main:
        print(
            f"note: train.sampling=paired: {known} of {fakes} fake {unit}s come with a {unit} of the real video "
            f"they were made from, {fakes - known} with a random real {unit}",
            file=sys.stderr,
        )
    return partners


def _history(progress, config: RunConfig, resolved: ResolvedProtocol, detector: Detector, encoding: float) -> History:
    """The history of weights that this run has just fitted, after so many seconds of encoding its frames."""
    chosen = {"epoch": progress.best_epoch, "value": progress.best_value}
    selection = _selection(config, resolved).model_copy(update=chosen)
    images = progress.step * config.detector.train.batch_size * config.detector.input.frames
    seconds = progress.seconds + encoding
    timing = {"train_seconds": seconds}
    if seconds:
        timing["train_images_per_second"] = images / seconds
    unit = "frame" if config.detector.input.frames == 1 else "clip"
    notes = [f"{len(progress.bad_frames)} unreadable training {unit}s were replaced"] if progress.bad_frames else []
    if progress.other_files:
        notes.append(OTHER_FILES)
    if config.run.split_batch > 1:
        normed = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in detector.modules())
        apart = "; batch norm saw each part by itself" if normed else ""
        notes.append(f"each batch was computed in {config.run.split_batch} parts for lack of memory{apart}")
    return History(selection, list(config.protocol.train), timing=timing, train_images=images, note="; ".join(notes))


def _selection(config: RunConfig, resolved: ResolvedProtocol) -> Selection:
    """How the run chooses its checkpoint."""
    chosen, validated = config.protocol.selection, resolved.selection is not None
    return Selection(
        rule=chosen.rule,
        **({"dataset": chosen.dataset, "split": chosen.split, "metric": config.selection_metric} if validated else {}),
        oracle=chosen.oracle or bool(resolved.tested_in_selection),
    )


def _note_other_metric(bench: Bench) -> None:
    """Prints that checkpoints are selected by another metric than the protocol's, if the detector scores clips."""
    config, asked = bench.config, bench.config.protocol.selection.metric
    if config.selection_metric != asked and bench.resolved.selection is not None and bench.world.is_main:
        print(
            f"note: checkpoints are selected by {config.selection_metric}, as a detector of clips has no {asked}, "
            f"which protocol {config.protocol.name} names",
            file=sys.stderr,
        )


def _marked(selection: Selection, resolved: ResolvedProtocol, world: World) -> Selection:
    """The choice of weights that were chosen elsewhere, marked as an oracle if it looked at videos tested here."""
    found, notes = lineage.choice_here(selection, resolved)
    for note in notes if world.is_main else ():
        print(f"note: {note}", file=sys.stderr)
    return found


def _prepare(config: RunConfig) -> None:
    checkpoint.seed_everything(config.seed)
    if config.run.deterministic:
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def create(config: DetectorConfig, weights: Path | None = None) -> tuple[Detector, str]:
    """The configured detector, and a note on given weights.

    With weights to be loaded into it, none are fetched for its backbone, unless they are of a classifier alone. Where
    none are given, those it is made with depend on torch's seed, see `checkpoint.seed_everything`.

    Raises:
        UserError: The settings or the weights do not fit the detector.
    """
    state, wrong = read_state_dict(weights) if weights else None, None
    with misfits_named(config):
        with nullcontext() if state is None or is_head_alone(state) else without_pretrained():
            detector = build_detector(config)
        try:
            _try_out(detector, config.input)
        except WrongInput as error:
            if state is None:
                raise
            wrong = error
    if config.train.precision == "fp64":  # before weights are loaded, which would be rounded
        detector = detector.double()
    loaded = "" if state is None else _load(detector, state, weights)
    if wrong and not loaded:  # weights of others may bring another size or number of frames, and another input
        raise wrong
    return detector, loaded


@contextmanager
def misfits_named(config: DetectorConfig) -> Iterator[None]:
    """Turns what settings that do not fit each other raise in the block into a UserError that names the settings."""
    try:
        yield
    except FAULTS_OF_SETTINGS as error:
        name, size, frames = config.name or config.detector, config.input.size, config.input.frames
        what, keys = ("a picture", "") if frames == 1 else (f"a clip of {frames} pictures", ", input.frames")
        raise UserError(
            f"detector '{name}' cannot score {what} of {size} x {size} pixels with these settings "
            f"({type(error).__name__}: {cut(str(error))}); correct model.*{keys} or input.size"
        ) from error


def _try_out(detector: Detector, given: InputConfig) -> None:
    """Scores a black picture or clip, so that settings which do not fit each other are found before any work.

    Raises:
        WrongInput: The detector was built for another size or number of frames.
        Exception: One of `FAULTS_OF_SETTINGS`.
    """
    was_training, trial = detector.training, faults_of(detector, "scoring a black picture", FAULTS_OF_SETTINGS)
    doubles = any(weight.dtype == torch.float64 for weight in detector.parameters())
    picture = torch.zeros(one_sample(given), dtype=torch.float64 if doubles else torch.float32)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), trial:
            detector.eval()(picture)
    except WrongInput:
        raise
    except UserError:  # what training finds may be missing yet
        pass
    finally:
        detector.train(was_training)


def _load(detector: Detector, state: dict[str, Tensor], weights: Path) -> str:
    """Loads our own weights, or those of DeepfakeBench or the method's authors: the names of the tensors tell which."""
    try:
        load_all(detector, state, str(weights))
    except UserError as error:
        try:
            what = detector.load_foreign(state)
        except UserError as other:
            faults = [str(each).partition(": ")[2] for each in (error, other)]
            if faults[0] == faults[1]:
                raise UserError(f"{error}. The same holds for it as a DeepfakeBench checkpoint") from other
            raise UserError(f"{error}. It does not fit as a DeepfakeBench checkpoint either: {other}") from other
        return f"{weights.name} is a {what}"
    return ""


def _print_notes(world: World, resolved: ResolvedProtocol) -> None:
    """Prints what is odd about the data, and what was left out, before anything is computed."""
    left_out = [f"data set '{name}': {count} missing frames are left out" for name, count in resolved.left_out.items()]
    if world.is_main:
        for note in [*resolved.notes, *left_out]:
            print(f"note: {note}", file=sys.stderr)


def _note_short_videos(bench: Bench, trainer: Trainer | None = None) -> None:
    """Prints how many videos of each list are too short for a clip, and what becomes of them."""
    lists = {f"testing {name}": clips for name, clips in bench.tests.items()}
    lists |= {"training": trainer and trainer.data.frames, "selecting checkpoints": bench.selection}
    if bench.world.is_main:
        for what, clips in lists.items():
            if note := note_on_clips(clips, what):
                print(f"note: {note}", file=sys.stderr)


def _refuse_no_training(config: RunConfig) -> None:
    if not config.protocol.train:
        raise UserError(
            f"protocol {config.protocol.name} is for tests alone (train: []); test given weights: "
            "resproto test --weights FILE"
        )


def _refuse_undefined_choice(chosen: SelectionRule, frames: FrameList | None) -> None:
    """Refuses a selection by a metric that its frames leave undefined, before any training."""
    if frames is None or chosen.metric.endswith("_acc") or all(frames.class_counts()):
        return
    real, fake = frames.class_counts()
    raise UserError(
        f"the protocol selects checkpoints by {chosen.metric} on {chosen.dataset} {chosen.split}, which has {real} "
        f"real and {fake} fake frames; expected both classes. Set protocol.selection.dataset=, or "
        "protocol.selection.rule=last to take the last epoch"
    )


def _refuse_no_epochs(config: DetectorConfig) -> None:
    if config.train.epochs == 0:
        raise UserError(
            f"train.epochs: expected 1 or more, got 0: {config.name} has weights to learn; set train.epochs=1 "
            "or test given weights: resproto test --weights FILE"
        )


def _refuse_one_class(frames: FrameList) -> None:
    real, fake = frames.class_counts()
    if not real or not fake:
        raise UserError(f"the training frames hold {real} real and {fake} fake; expected both classes")
