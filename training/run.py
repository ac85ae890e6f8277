"""One run: a detector fitted and tested under a protocol, from configuration to result file.

A run folder holds `config.yaml`, `checkpoints/`, `best.pt`, `tb/` (TensorBoard), `scores/TEST_SET.npz`, `result.json`.
"""

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import sha256_of, write_text
from resproto_fd.configs.schema import DetectorConfig, ProtocolConfig, RunConfig, RunSettings, TrainConfig
from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.registry import backbone_title, build_detector, class_names, defaults_of, keywords_of
from resproto_fd.detectors.weights import load_all, read_state_dict, without_pretrained
from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.augment.corruptions import corrupted, through_jpeg
from resproto_fd.trainer.augment.transforms import plain_transform, train_transform
from resproto_fd.trainer.blended_pairs import BlendedPairs
from resproto_fd.trainer.companions import find_companions
from resproto_fd.trainer.data import FrameDataset, Normaliser
from resproto_fd.trainer.distributed import World, barrier, joined
from resproto_fd.trainer.fields import batch_fields
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.scoring import Scored, score_frames
from resproto_fd.trainer.trainer import Trainer, exclusive
from resproto_fd.training import protocols
from resproto_fd.training.features import features_path, save_features
from resproto_fd.training.measures import shift
from resproto_fd.training.measures.metrics import table_metrics
from resproto_fd.training.protocols import ResolvedProtocol
from resproto_fd.training.results import (
    Compute,
    Metrics,
    RunResult,
    Selection,
    Transfer,
    git_state,
    run_that_made,
    test_result,
    versions,
)
from resproto_fd.training.scores import ScoreTable


def folder_of(config: RunConfig) -> Path:
    """The run folder of a configuration: out/protocol/detector[_task]/seedN."""
    task = f"_{config.run.task}" if config.run.task else ""
    return Path(config.run.out) / config.protocol.name / f"{config.detector.name}{task}" / f"seed{config.seed}"


def with_keywords(config: RunConfig) -> RunConfig:
    """The configuration, the protocol's training sets as `model.domains` and the recipe's epochs as `model.epochs` of a
    detector that has such keywords."""
    known = {"domains": list(config.protocol.train), "epochs": _epochs(config)}
    wanted = keywords_of(config.detector.detector)
    return _with_model(config, {name: value for name, value in known.items() if name in wanted} | config.detector.model)


def _epochs(config: RunConfig) -> int:
    return max(1, config.detector.train.epochs)


def _with_model(config: RunConfig, model: dict[str, Any]) -> RunConfig:
    return config.model_copy(update={"detector": config.detector.model_copy(update={"model": model})})


def with_methods(config: RunConfig, frames: FrameList) -> RunConfig:
    """The configuration, the training frames' methods as `model.methods` of a detector whose own are others."""
    model, given = config.detector.model, defaults_of(config.detector.detector)
    found = {video.method for video in frames.videos}
    if "methods" in model or "methods" not in given or found <= {*given["methods"]}:
        return config
    methods = [*(["real"] if "real" in given["methods"] else []), *sorted(found - {"real"})]
    return _with_model(config, {**model, "methods": methods})


def as_deepfakebench_fed(config: RunConfig) -> RunConfig:
    """The configuration for a DeepfakeBench checkpoint: a preset's input gives way to what it was trained with."""
    detector = config.detector
    theirs, is_preset = detector.deepfakebench_input, detector.name in loading.names("detectors")
    if theirs is None or not is_preset or detector.input != loading.load("detectors", detector.name).input:
        return config
    return config.model_copy(update={"detector": detector.model_copy(update={"input": theirs})})


def train(config: RunConfig) -> RunResult | None:
    """Fits the configured detector, tests the selected checkpoint, writes the result; only the main rank returns it.

    What a killed run had finished is taken over: checkpoints, and score tables of the same weights.

    Raises:
        UserError: See `protocols.resolve` and `Trainer.fit`.
        Interrupted: A stop signal came; the same command goes on.
    """
    config, folder = with_keywords(config), folder_of(config)
    with joined(config.run.device) as world, exclusive(folder, world):
        _prepare(config)
        resolved = protocols.resolve(config.protocol, config.data)
        config = with_methods(config, resolved.train)
        samples = config.detector.train.samples
        if samples == "frames":
            _refuse_one_class(resolved.train)
        _say(world, resolved)
        detector, _ = _create(config.detector)
        if world.is_main:
            write_text(folder / "config.yaml", loading.dump(config))
        bench = _Bench(config, resolved, world, folder)
        if not any(p.requires_grad for p in detector.parameters()):
            return bench.test(detector.to(world.device), Selection(rule="none"), {})
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
            change=_changed(config.protocol),
            companions=companions,
            pairs=pairs,
        )
        validate = bench.validate if resolved.selection else None
        trainer = Trainer(detector, data, config, world, folder, validate, resolved.fingerprint)
        progress = trainer.fit()
        trainer.load_best()
        chosen = config.protocol.selection
        selection = Selection(
            rule=chosen.rule,
            **({"dataset": chosen.dataset, "split": chosen.split, "metric": chosen.metric} if validate else {}),
            oracle=chosen.oracle,
            epoch=progress.best_epoch,
            value=progress.best_value,
        )
        images = progress.step * config.detector.train.batch_size
        timing = {"train_seconds": progress.seconds}
        if progress.seconds:
            timing["train_images_per_second"] = images / progress.seconds
        note = f"{len(progress.bad_frames)} unreadable training frames were replaced" if progress.bad_frames else ""
        return bench.test(trainer.detector, selection, timing, train_images=images, note=note)


def test(config: RunConfig, weights: Path | None) -> RunResult | None:
    """Tests given weights (or a detector that needs none) under the protocol; training data may be absent.

    Of weights that a known run made the result tells that run's recipe and training sets, whatever is asked for here.

    Raises:
        UserError: See `protocols.resolve`; or the weights do not fit the detector; or the folder is that of other
            weights.
    """
    known = run_that_made(weights) if weights else None
    asked, config = config, _with_recipe_of(known, config)
    config, folder = with_keywords(config), folder_of(config)
    with joined(config.run.device) as world, exclusive(folder, world):
        _prepare(config)
        resolved = protocols.resolve(config.protocol, config.data, tests_only=True)
        _say(world, resolved)
        if asked.detector.train != config.detector.train and world.is_main:
            print(f"note: the recipe is that of the run that made {weights}, not the one asked for", file=sys.stderr)
        detector, said = _create(config.detector, weights)
        if said:
            config = as_deepfakebench_fed(config)
        if said and world.is_main:
            print(f"note: {said}", file=sys.stderr)
        if weights is None and any(p.requires_grad for p in detector.parameters()):
            raise UserError(f"{config.detector.name} has weights to learn: say which with --weights FILE or --run DIR")
        _refuse_other_weights(folder, weights)
        if world.is_main:
            write_text(folder / "config.yaml", loading.dump(config))
        selection, timing, images, note = _history_of(weights, known, config.protocol)
        bench = _Bench(config, resolved, world, folder, weights, known)
        return bench.test(detector.to(world.device), selection, timing, images, said or note)


def _history_of(
    weights: Path | None, known: RunResult | None, protocol: ProtocolConfig
) -> tuple[Selection, dict[str, float], int | None, str]:
    """How given weights came about: selection, timing, images and note, from the run that made them, if it is known."""
    if weights is None:
        return Selection(rule="none"), {}, None, ""
    if known is None:
        return Selection(rule="given"), {}, None, f"weights from {weights.name}"
    timing = {name: value for name, value in known.timing.items() if name.startswith("train")}
    sets = _training_sets(known)
    notes = [known.note] if known.note else []
    if known.protocol != protocol.name or sets != protocol.train:
        notes.append(f"weights trained under {known.protocol}" + (f" (on {', '.join(sets)})" if sets else ""))
    return known.selected_on, timing, known.train_images, "; ".join(notes)


def _training_sets(known: RunResult | None) -> list[str] | None:
    """What a run trained on; None where it is not known."""
    if known is None or known.trained_on is not None:
        return known and known.trained_on
    protocol = known.config.get("protocol")  # of an older file
    sets = protocol.get("train") if isinstance(protocol, dict) else None
    return [str(name) for name in sets] if isinstance(sets, list) else None


def _trained_under(known: RunResult | None, protocol: ProtocolConfig) -> list[str]:
    """`trained_under=NAME` for weights that learnt from other frames than the protocol's: they are another row."""
    if known is None:
        return []
    earlier = [word for word in known.overrides if word.startswith("trained_under=")]
    theirs = known.config.get("protocol")
    if earlier or not isinstance(theirs, dict):
        return [word for word in earlier if word != f"trained_under={protocol.name}"]
    ours = protocol.model_dump(mode="json", by_alias=True)
    same = all(theirs.get(key, ours[key]) == ours[key] for key in ("train", "sampling", "share", "recode"))
    theirs = theirs.get("frames") or {}
    return [] if same and theirs.get("train") == protocol.frames.train else [f"trained_under={known.protocol}"]


def _with_recipe_of(known: RunResult | None, config: RunConfig) -> RunConfig:
    """The configuration, all that training depends on as it was in the run that made the weights.

    Raises:
        UserError: That run's result holds settings that this version does not know.
    """
    if known is None:
        return config
    where = f"{known.folder}/result.json: config"
    detector = known.config.get("detector")
    if isinstance(detector, dict) and "train" in detector:
        recipe = loading.validated(TrainConfig, detector["train"], f"{where}.detector.train")
        config = config.model_copy(update={"detector": config.detector.model_copy(update={"train": recipe})})
    if isinstance(settings := known.config.get("run"), dict):
        changed = {name: settings[name] for name in ("shuffle_labels", "max_steps") if name in settings}
        run = loading.validated(RunSettings, config.run.model_dump() | changed, f"{where}.run")
        config = config.model_copy(update={"run": run})
    return config


def _refuse_other_weights(folder: Path, weights: Path | None) -> None:
    """Stops before the record of another run is overwritten: it cannot be remade without training again."""
    best = folder / "best.pt"
    if best.is_file() and (weights is None or sha256_of(best) != sha256_of(weights)):
        what = f"other weights than {weights}" if weights else "weights that this test does not use"
        raise UserError(f"{folder}: holds a run whose best.pt is {what}; name another place: --out DIR")


def _prepare(config: RunConfig) -> None:
    checkpoint.seed_everything(config.seed)
    if config.run.deterministic:
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def _create(config: DetectorConfig, weights: Path | None = None) -> tuple[Detector, str]:
    """The configured detector, and what is to be said of given weights.

    With weights to be loaded into it, none are fetched for its backbone.
    """
    with without_pretrained() if weights else nullcontext():
        detector = build_detector(config)
    return detector, _load(detector, weights) if weights else ""


def _load(detector: Detector, weights: Path) -> str:
    """Weights of our own making, or a DeepfakeBench checkpoint: the names of its tensors tell which."""
    state = read_state_dict(weights)
    try:
        load_all(detector, state, str(weights))
    except UserError as error:
        try:
            detector.load_deepfakebench(state)
        except UserError as other:
            raise UserError(f"{error}. Nor does it as a DeepfakeBench checkpoint: {other}") from other
        return f"{weights.name} is a DeepfakeBench checkpoint"
    return ""


def _say(world: World, resolved: ResolvedProtocol) -> None:
    """Tells what is odd about the data, and what was left out of it, before it is computed on."""
    left_out = [f"data set '{name}': {count} missing frames are left out" for name, count in resolved.left_out.items()]
    if world.is_main:
        for note in [*resolved.notes, *left_out]:
            print(f"note: {note}", file=sys.stderr)


def _refuse_one_class(frames: FrameList) -> None:
    real, fake = frames.class_counts()
    if not real or not fake:
        raise UserError(f"the training frames hold {real} real and {fake} fake; both classes are needed")


Change = Callable[[np.ndarray, str], np.ndarray] | None


def _changed(protocol: ProtocolConfig, corruption: str | None = None, severity: int = 0) -> Change:
    """What is done to each stored frame: made alike, if the protocol wants it, then corrupted; None for nothing."""
    if protocol.recode is None and corruption is None:
        return None
    return partial(_change, protocol.recode, corruption, severity)


def _change(quality: int | None, corruption: str | None, severity: int, image: np.ndarray, frame: str) -> np.ndarray:
    image = image if quality is None else through_jpeg(image, quality)
    return image if corruption is None else corrupted(image, corruption, severity, frame)


class _Bench:
    """What validation and testing share: the stores, the input, the batch size."""

    def __init__(
        self,
        config: RunConfig,
        resolved: ResolvedProtocol,
        world: World,
        folder: Path,
        weights: Path | None = None,
        known: RunResult | None = None,
    ):
        self.config, self.resolved, self.world, self.folder = config, resolved, world, folder
        # Weights of this run come from its protocol; given ones from elsewhere.
        self.trained_on = _training_sets(known) if weights else list(config.protocol.train)
        self.trained_under = _trained_under(known, config.protocol)
        self.weights = weights or folder / "best.pt"
        dtype = torch.float64 if config.detector.train.precision == "fp64" else torch.float32
        given = config.detector.input
        channels_last = config.detector.train.channels_last
        self.normalise = Normaliser(given.channel_mean(), given.channel_std(), world.device, dtype, channels_last)

    def _score(
        self, detector: Detector, frames: FrameList, title: str, keep_features: bool = False, change: Change = None
    ) -> tuple[Scored, FrameDataset]:
        run, change = self.config.run, change or _changed(self.config.protocol)
        transform = plain_transform(self.config.detector.input)
        dataset = FrameDataset(frames, self.resolved.stores, transform, change=change)
        scored = score_frames(
            detector,
            dataset,
            self.normalise,
            self.world,
            batch_size=run.test_batch_size,
            workers=run.workers,
            skip_bad=self.config.data.on_bad_frame == "skip",
            title=title,
            progress=run.progress,
            keep_features=keep_features,
        )
        return scored, dataset

    def _table(self, name: str, scored: Scored, frames: FrameList, sha: str | None) -> ScoreTable:
        owners = [frames.videos[i] for i in frames.video_index[scored.index]]
        return ScoreTable(
            name,
            [video.id for video in owners],
            frames.numbers[scored.index],
            frames.labels[scored.index],
            [video.method for video in owners],
            scored.scores,
            forgery_type=[video.forgery_type for video in owners],
            variants=scored.variants,
            detector=self.config.detector.name,
            checkpoint=sha,
            skipped=len(scored.skipped) + self.resolved.left_out.get(name, 0),
        )

    def validate(self, detector: Detector) -> dict[str, float | None]:
        frames = self.resolved.selection
        scored, _ = self._score(detector, frames, "validating")
        table = self._table(self.config.protocol.selection.dataset, scored, frames, None)
        wanted = {*self.config.protocol.metrics, self.config.protocol.selection.metric}
        return {name: value for name, value in table_metrics(table).items() if name in wanted}

    def test(
        self,
        detector: Detector,
        selection: Selection,
        timing: dict[str, float],
        train_images: int | None = None,
        note: str = "",
    ) -> RunResult | None:
        """Scores every test set and writes the result file; a set already scored with these weights is not redone."""
        sha = sha256_of(self.weights) if self.weights.is_file() else None
        tables, seconds, scored_now = {}, 0.0, 0
        for name, frames in self.resolved.tests.items():
            path = self.folder / "scores" / f"{name}.npz"
            table = self._finished(path, frames, sha)
            if table is None:
                began = time.perf_counter()
                scored, _ = self._score(detector, frames, f"testing {name}", self.config.run.save_features)
                seconds, scored_now = seconds + time.perf_counter() - began, scored_now + len(scored.index)
                table = self._table(name, scored, frames, sha)
                if self.world.is_main:
                    if scored.features is not None:
                        save_features(features_path(self.folder, name), scored.features, table)
                    table.save(path)
            tables[name] = table
        robustness = self._corrupted(detector, sha)
        source = self._selection_scores(detector, sha)
        barrier(self.world)
        if not self.world.is_main:
            return None
        if seconds:
            timing = timing | {"test_seconds": seconds, "test_images_per_second": scored_now / seconds}
        result = self._result(detector, selection, tables, timing, sha, train_images, note)
        result.robustness = robustness
        result.pooled_auc, result.cross_auc = shift.pooled_auc(tables), shift.cross_aucs(tables)
        result.compute = self._compute(detector)
        for rule, threshold in (shift.thresholds(source) if source is not None else {}).items():
            for name, table in tables.items():
                fpr, tpr = shift.transferred(table, threshold)
                result.tests[name].transfer[rule] = Transfer(threshold=threshold, fpr=fpr, tpr=tpr)
        result.save(self.folder / "result.json")
        return result

    def _selection_scores(self, detector: Detector, sha: str | None) -> ScoreTable | None:
        """Scores of the split that checkpoints are selected on, if it is on this machine; kept like those of tests."""
        frames, name = self.resolved.selection, self.config.protocol.selection.dataset
        if frames is None or name is None:
            return None
        path = self.folder / "scores_selection" / f"{name}.npz"
        table = self._finished(path, frames, sha, features=False)
        if table is None:
            scored, _ = self._score(detector, frames, f"scoring {name} {self.config.protocol.selection.split}")
            table = self._table(name, scored, frames, sha)
            if self.world.is_main:
                table.save(path)
        return table

    def _compute(self, detector: Detector) -> Compute:
        from torch.utils.flop_counter import FlopCounterMode

        config = self.config.detector
        size = config.input.size
        image = self.normalise(torch.full((1, 3, size, size), 128, dtype=torch.uint8))
        was_training = detector.training
        detector.eval()
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            detector(image)
        detector.train(was_training)
        gflops = round(counter.get_total_flops() / 1e9, 3)
        backbone = config.backbone or backbone_title(config.model.get("backbone"))
        return Compute(backbone=backbone, input_size=size, gflops=gflops)

    def _corrupted(self, detector: Detector, sha: str | None) -> dict[str, dict[str, dict[str, Metrics]]]:
        """Metrics under the protocol's corruptions, by test set, corruption and severity; scores are kept as well."""
        found: dict[str, dict[str, dict[str, Metrics]]] = {}
        for name, frames in self.resolved.tests.items():
            for corruption, severities in self.config.protocol.corruptions.items():
                for severity in severities:
                    path = self.folder / "scores_corrupted" / f"{name}@{corruption}-{severity}.npz"
                    table = self._finished(path, frames, sha, features=False)
                    if table is None:
                        change = _changed(self.config.protocol, corruption, severity)
                        title = f"testing {name}, {corruption} {severity}"
                        scored, _ = self._score(detector, frames, title, change=change)
                        table = self._table(name, scored, frames, sha)
                        if self.world.is_main:
                            table.save(path)
                    severity_metrics = found.setdefault(name, {}).setdefault(corruption, {})
                    severity_metrics[str(severity)] = Metrics(**table_metrics(table))
        return found

    def _finished(self, path: Path, frames: FrameList, sha: str | None, features: bool = True) -> ScoreTable | None:
        """The score table of these weights on these frames, when an earlier run got that far."""
        if sha is None or not path.is_file():
            return None
        if features and self.config.run.save_features and not features_path(self.folder, path.stem).is_file():
            return None
        table = ScoreTable.load(path)
        same = table.checkpoint == sha and len(table) + table.skipped >= len(frames)
        return table if same else None

    def _result(
        self,
        detector: Detector,
        selection: Selection,
        tables: dict[str, ScoreTable],
        timing: dict[str, float],
        sha: str | None,
        train_images: int | None,
        note: str,
    ) -> RunResult:
        config = self.config
        commit, dirty = git_state()
        trained = [] if selection.rule == "none" else self.trained_on
        seen = {name: None if trained is None else name in trained for name in tables}
        return RunResult(
            detector=config.detector.name + (f"_{config.run.task}" if config.run.task else ""),
            title=config.detector.title or config.detector.name,
            paper=config.detector.paper,
            detector_class=config.detector.detector,
            role=config.detector.role,
            sees_faces=config.detector.sees_faces,
            overrides=overrides_of(config) + self.trained_under,
            protocol=config.protocol.name,
            fingerprint=self.resolved.fingerprint,
            seed=config.seed,
            config=config.model_dump(mode="json", by_alias=True),
            commit=commit,
            dirty=dirty,
            versions=versions(),
            checkpoint_sha256=sha,
            selected_on=selection,
            tests={name: test_result(table, in_domain=seen[name]) for name, table in tables.items()},
            parameters=sum(p.numel() for p in detector.parameters()),
            trainable_parameters=sum(p.numel() for p in detector.parameters() if p.requires_grad),
            train_images=train_images,
            trained_on=trained,
            timing={name: round(value, 3) for name, value in timing.items()},
            note=note,
        )


FROM_DATA = ("domains", "methods")
"""Keywords that the protocol's data decide, where nobody said them."""


def overrides_of(config: RunConfig) -> list[str]:
    """What differs from the detector's own YAML, as `key=value` words: such a run is another row of a table."""
    name = config.detector.name
    if name in loading.names("detectors"):
        preset = loading.load("detectors", name)
    elif name in class_names():
        preset = DetectorConfig(detector=name)
    else:  # a YAML of the user's own: what it says is in the saved configuration
        return []
    found = []
    for part in ("model", "input", "train"):
        ours, theirs = _plain(getattr(config.detector, part)), _plain(getattr(preset, part))
        if part == "model":
            theirs = {"epochs": _epochs(config)} | theirs  # as `with_keywords` has it
        found += [f"{part}.{key}={value}" for key, value in _differences(ours, theirs) if key not in FROM_DATA]
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
