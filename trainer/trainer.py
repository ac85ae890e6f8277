"""Training loop that fits any detector. One process or many, interrupted or not, give the same bits.

The detector computes its own loss; nothing here knows a detector by name.
"""

import inspect
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from resproto_fd.configs import stop_signals
from resproto_fd.configs.errors import Interrupted, UserError
from resproto_fd.configs.schema import RunConfig
from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.weights import tensors_sha256
from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.batches import PairedBatches, TrainBatches
from resproto_fd.trainer.companions import MASK, PICTURES
from resproto_fd.trainer.data import FrameDataset, Normaliser
from resproto_fd.trainer.detector_faults import faults_of
from resproto_fd.trainer.distributed import (
    World,
    any_rank,
    average_gradients,
    barrier,
    copy_buffers_from_main,
    gather_objects,
)
from resproto_fd.trainer.gradient_caching import backward_whole_batch
from resproto_fd.trainer.loader import make_loader, watched
from resproto_fd.trainer.optimizers import WeightAverage, climbed, make_optimizer, make_schedule, memory_kept
from resproto_fd.trainer.progress import OTHER_FILES, LatestSteps, Progress
from resproto_fd.trainer.run_folder import scalar_logs

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Memory order by the number of a tensor's dimensions: of convolutions over pictures, and over clips."""

Validate = Callable[[Detector], dict[str, float | None]]
"""Scores the validation split and returns its metrics by name. The selection metric is one of them."""


@dataclass(frozen=True)
class _Step:
    """See `detectors.base.Step`."""

    autocast: Callable[[], AbstractContextManager]
    backward: Callable[[Tensor], None]


class Trainer:
    """Fits a detector.

    Args:
        detector: The detector, on any device; it is moved to `world.device`.
        data: The training frames; with partners, if the recipe's `sampling` is "paired".
        config: The resolved configuration of the run.
        world: This process among the others.
        folder: The run folder, for checkpoints, best weights and TensorBoard's files.
        validate: Called at the end of each epoch. None selects the last epoch.
        fingerprint: The protocol's. A run under another fingerprint is not resumed.
        history: What the best weights' file tells of this training, as plain values.
        files: Identity of the files of the training frames. A run over other files goes on, with a note.
    """

    def __init__(
        self,
        detector: Detector,
        data: FrameDataset,
        config: RunConfig,
        world: World,
        folder: Path,
        validate: Validate | None = None,
        fingerprint: str = "",
        history: dict[str, Any] | None = None,
        files: str | None = None,
    ):
        self.recipe, self.settings = config.detector.train, config.run
        self.config, self.world, self.folder = config, world, Path(folder)
        self.validate, self.fingerprint, self.history = validate, fingerprint, history
        self.metric = config.selection_metric
        self.data = data
        self.parts = self.recipe.accumulate * self.settings.split_batch
        if detector.steps_alone:
            self._refuse_what_a_step_of_its_own_excludes(type(detector).__name__)
        dtype = torch.float64 if self.recipe.precision == "fp64" else torch.float32
        self.normalise = Normaliser(
            config.detector.input.channel_mean(),
            config.detector.input.channel_std(),
            world.device,
            dtype,
            self.recipe.channels_last,
        )
        self.detector = self._prepared(detector, dtype)
        self.trained = [p for p in self.detector.parameters() if p.requires_grad]
        self.batches = self._batches(data)
        self.optimizer = make_optimizer(self.recipe.optimizer, self.trained, world.device)
        self.schedule = make_schedule(
            self.recipe.schedule, self.optimizer, self.recipe.optimizer.lr, self.batches.steps, self.recipe.epochs
        )
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.recipe.precision == "fp16")
        self.average = WeightAverage(self.trained, self.recipe.ema) if self.recipe.ema else None
        self.progress = Progress(files=files)
        self.best_state: dict[str, Tensor] | None = None
        self.model = self._data_parallel()
        self._saved_step = 0
        self._steps = LatestSteps(data.frames.paths, self.folder / "checkpoints", self.scaler.is_enabled())
        self._latest, self._resumed = "resumed", False

    # --- preparation -------------------------------------------------------------------------------------------

    def _refuse_what_a_step_of_its_own_excludes(self, name: str) -> None:
        if self.parts > 1:
            key = "train.accumulate" if self.recipe.accumulate > 1 else "run.split_batch"
            raise UserError(
                f"{key}={self.parts}: {name} takes a step of its own on each batch, so gradients cannot be "
                f"accumulated; set {key}=1 and a smaller train.batch_size"
            )
        if self.recipe.optimizer.sam_rho:
            raise UserError(
                f"train.optimizer.sam_rho={self.recipe.optimizer.sam_rho:g}: {name} takes a step of its own on each "
                "batch, which cannot be repeated; set train.optimizer.sam_rho=0"
            )

    def _batches(self, data: FrameDataset) -> TrainBatches:
        groups = data.frames.groups() if self.config.protocol.sampling == "balanced" else None
        world = self.world
        dealt = (self.recipe.batch_size, self.parts, world.rank, world.size, self.config.seed, groups)
        if self.recipe.sampling == "paired":
            return PairedBatches(data.frames.labels, data.partners.of_fakes(), data.partners.of, *dealt)
        return TrainBatches(len(data), *dealt, pairs=data.pairs is not None)

    def _prepared(self, detector: Detector, dtype: torch.dtype) -> Detector:
        recipe = self.recipe
        if recipe.sync_batchnorm and self.world.size > 1 and self.world.device.type == "cuda":
            detector = nn.SyncBatchNorm.convert_sync_batchnorm(detector)
        if recipe.channels_last:
            for values in (*detector.parameters(), *detector.buffers()):
                if values.ndim in CHANNELS_LAST:
                    values.data = values.data.to(memory_format=CHANNELS_LAST[values.ndim])
        detector = detector.to(self.world.device, dtype)
        with faults_of(detector, "beginning its training"):
            detector.start_training(torch.as_tensor(self.data.frames.class_counts()))
        if recipe.checkpoint_activations:
            detector.checkpoint_activations()
        if recipe.compile:
            detector.encode = torch.compile(detector.encode)
        return detector

    @property
    def _whole_batch_loss(self) -> bool:
        """Whether the batch comes in micro-batches, but the loss needs the features of the whole batch."""
        return self.parts > 1 and self.detector.couples_batch

    def _data_parallel(self) -> nn.Module:
        if self.world.size == 1 or self._whole_batch_loss:
            return self.detector
        # torch renamed this argument; a version with the new name warns if it gets the old one.
        names = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        # Without device_ids it leaves its inputs where they are: some belong on the host (see `Detector.on_host`).
        return DistributedDataParallel(self.detector, **{name: False})

    # --- the loop ----------------------------------------------------------------------------------------------

    @stop_signals.noted()
    def fit(self) -> Progress:
        """Trains to the last epoch. If the run folder has checkpoints, training goes on from the newest whole one.

        Raises:
            UserError: The loss or a gradient is not finite, a frame cannot be read, the disk is full, or the checkpoint
                was made with another configuration.
            Interrupted, KeyboardInterrupt: A stop signal came. The state is saved.
        """
        self.resume()
        alone = self.world.size == 1  # several processes stop at the same step
        loader = make_loader(self.data, self.batches, self.settings.workers, self.world.device, looks=alone)
        with self._logs() as (train_log, val_log), loader:
            while self.progress.unvalidated or not self._done():
                if not self.progress.unvalidated:
                    self._one_epoch(loader, train_log)
                self._end_epoch(train_log, val_log)
        self._mark_finished()
        return self.progress

    def _done(self) -> bool:
        return self.progress.epoch >= self.recipe.epochs or self._enough()

    def _enough(self) -> bool:
        return self.settings.max_steps is not None and self.progress.step >= self.settings.max_steps

    def _one_epoch(self, loader, log: SummaryWriter | None) -> None:
        progress = self.progress
        with faults_of(self.detector, "beginning an epoch"):
            self.detector.train()
            self.detector.start_epoch(progress.epoch)
        self.batches.start(progress.epoch, progress.step_in_epoch)
        arriving = watched(loader)
        bar = tqdm(
            total=self.batches.steps,
            initial=progress.step_in_epoch,
            desc=f"epoch {progress.epoch + 1}/{self.recipe.epochs}",
            unit="step",
            disable=None if self.settings.progress and self.world.is_main else True,  # None: only on a terminal
            leave=False,
        )
        last_log, last_time = progress.step, time.perf_counter()
        with bar:
            for _ in range(progress.step_in_epoch, self.batches.steps):
                micro = self._next_batches(arriving, log)
                self._step(micro)
                progress.step += 1
                progress.step_in_epoch += 1
                bar.update()
                finished = progress.step_in_epoch == self.batches.steps or self._enough()
                if progress.step % self.settings.log_every == 0 or finished:
                    now = time.perf_counter()
                    progress.seconds += now - last_time
                    shown = (progress.step - last_log) * self.recipe.batch_size * self.data.pictures
                    rate = shown / max(now - last_time, 1e-9)
                    self._latest = self._check_and_log(log, rate) or self._latest
                    bar.set_postfix_str(self._latest, refresh=False)
                    last_log, last_time = progress.step, now
                if self.settings.save_every and progress.step % self.settings.save_every == 0 and not finished:
                    self._save(log)
                if self._asked_to_stop():
                    self._save(log)
                    raise stop_signals.stopped(f"stopped after step {progress.step}")
                if finished:
                    break

    def _next_batches(self, arriving: Iterator[dict], log: SummaryWriter | None) -> list[dict]:
        """Returns the next step's batches. If a stop signal comes before them, the steps so far are saved."""
        try:
            return [self._readable(next(arriving)) for _ in range(self.parts)]
        except (Interrupted, KeyboardInterrupt):
            if self.progress.step > self._saved_step:
                self._save(log)
            raise stop_signals.stopped(f"stopped after step {self.progress.step}") from None

    def _end_epoch(self, train_log: SummaryWriter | None, val_log: SummaryWriter | None) -> None:
        """Saves, validates, keeps the best weights and saves again. A run killed in between validates once more."""
        progress = self.progress
        if not progress.unvalidated:
            progress.unvalidated = True
            self._save(train_log)
        if any_rank(self.world, stop_signals.asked()):
            raise stop_signals.stopped(f"stopped after step {progress.step}")
        self._validate(val_log)
        progress.epoch, progress.step_in_epoch, progress.unvalidated = progress.epoch + 1, 0, False
        self._save(train_log, val_log)
        if any_rank(self.world, stop_signals.asked()):
            raise stop_signals.stopped(f"stopped after epoch {progress.epoch}")

    def _validate(self, log: SummaryWriter | None) -> None:
        progress = self.progress
        copy_buffers_from_main(self.world, self.detector)
        # A library first imported during validation may consume random numbers; a resumed run imports it again.
        with self._averaged_weights(), checkpoint.rng_state_kept(self.world.device):
            metrics = self.validate(self.detector) if self.validate else {}
            value = metrics.get(self.metric)
            # The newest weights are kept if there is no value: the rule is `last`, or the split lacks a class.
            if progress.is_better(value, self.metric) or progress.best_value is None:
                progress.best_value, progress.best_epoch = value, progress.epoch
                self._keep_best()
        for name, number in metrics.items():
            if log and number is not None:
                log.add_scalar(f"val/{name}", number, progress.step)
        if self.world.is_main:
            shown = ", ".join(f"{name} {number:.4f}" for name, number in metrics.items() if number is not None)
            tqdm.write(
                f"epoch {progress.epoch + 1}/{self.recipe.epochs}: {self._latest}{', val ' if shown else ''}{shown}"
            )

    def _readable(self, batch: dict) -> dict:
        """Returns the batch. An unreadable frame ends the run, or is counted if the data set replaced it."""
        if self.data.replace_bad and "image" not in batch:
            raise UserError(
                f"training stops at step {self.progress.step}: expected training frames that can be read, got none "
                f"that could replace others; the first: {batch['bad'][0].message}"
            )
        for bad in batch["bad"]:
            if not self.data.replace_bad:
                raise UserError(
                    f"training stops at step {self.progress.step}: {bad.message}. Repair the file, or set "
                    "data.on_bad_frame=skip to replace, count and name unreadable frames"
                )
            if bad.index not in self.progress.bad_frames:
                self.progress.bad_frames.append(bad.index)
                unit = self.data.frames.unit
                by = "the next one" if self.data.partners is None else "the next pair, with its partner"
                tqdm.write(f"unreadable {unit} replaced by {by}: {bad.message}")
        return batch

    # --- one optimiser step ------------------------------------------------------------------------------------

    def _step(self, micro: list[dict]) -> None:
        self.detector.start_step(self.progress.step, torch.cat([batch["index"] for batch in micro]))
        with faults_of(self.detector, f"training, step {self.progress.step + 1}"):
            losses = self._backward(micro)
        self.scaler.unscale_(self.optimizer)
        limit = self.recipe.grad_clip
        norm = nn.utils.get_total_norm([p.grad for p in self.trained if p.grad is not None])
        if limit is not None:
            nn.utils.clip_grads_with_norm_(self.trained, limit, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        with faults_of(self.detector, "ending a step"):
            self.detector.after_step()
        self.schedule.step()
        if self.average:
            self.average.update()
        self._steps.add(self.progress.step, norm, losses, [batch["index"] for batch in micro])

    def _backward(self, micro: list[dict]) -> dict[str, Tensor]:
        backward = self._backward_whole_batch if self._whole_batch_loss else self._backward_micro_batches
        if not self.recipe.optimizer.sam_rho:
            return backward(micro)
        before = checkpoint.rng_state(self.world.device)
        losses = backward(micro)
        # The second pass sees the same batch under the same random numbers, and leaves no trace in buffers.
        with climbed(self.trained, self.recipe.optimizer.sam_rho), memory_kept(self.detector):
            checkpoint.set_rng_state(before, self.world.device)
            backward(micro)
        return losses

    def autocast(self) -> AbstractContextManager:
        """Makes the context of the recipe's precision, in which the detector runs in training."""
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.recipe.precision)
        return torch.autocast(self.world.device.type, kind) if kind else nullcontext()

    def _fields(self, batch: dict) -> dict[str, Tensor | list[str]]:
        found = {name: batch[name] for name in sorted(self.detector.requires) if name in batch}
        return {
            name: self._on_device(name, value) if isinstance(value, Tensor) else value for name, value in found.items()
        }

    def _on_device(self, name: str, value: Tensor) -> Tensor:
        if name in self.detector.on_host:
            return value
        if name in PICTURES:
            return self.normalise(value)
        value = value.to(self.world.device, non_blocking=True)
        return value.to(self.normalise.dtype) / 255 if name == MASK else value

    def _labels(self, batch: dict) -> Tensor:
        return batch["label"].to(self.world.device, non_blocking=True)

    def _backward_micro_batches(self, micro: list[dict]) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        step = _Step(self.autocast, lambda loss: self.scaler.scale(loss / len(micro)).backward())
        for position, batch in enumerate(micro):
            waits = position < len(micro) - 1 and isinstance(self.model, DistributedDataParallel)
            with self.model.no_sync() if waits else nullcontext():
                losses = self.detector.training_step(
                    self.model, step, self.normalise(batch["image"]), self._labels(batch), **self._fields(batch)
                )
            for name, value in losses.items():
                total[name] = total.get(name, 0) + value.detach() / len(micro)
        return total

    def _backward_whole_batch(self, micro: list[dict]) -> dict[str, Tensor]:
        images = [self.normalise(batch["image"]) for batch in micro]
        labels = [self._labels(batch) for batch in micro]
        fields = [self._fields(batch) for batch in micro]
        step = _Step(self.autocast, lambda loss: self.scaler.scale(loss).backward())
        losses = backward_whole_batch(self.detector, images, labels, fields, step, self.world.device)
        average_gradients(self.world, self.trained)
        return losses

    # --- checks and logs ---------------------------------------------------------------------------------------

    def _check_and_log(self, log: SummaryWriter | None, rate: float) -> str:
        """Checks and logs the steps since the last log. Only here the loop waits for the device."""
        self._steps.check(self.progress)
        latest = self._steps.take_last()
        if latest is None:
            return ""
        everyone = gather_objects(self.world, {name: float(value) for name, value in latest["losses"].items()})
        losses = {name: sum(part[name] for part in everyone) / len(everyone) for name in everyone[0]}
        if log:
            step = self.progress.step
            for name, value in losses.items():
                log.add_scalar(f"loss/{name}", value, step)
            log.add_scalar("train/lr", self.optimizer.param_groups[0]["lr"], step)
            log.add_scalar("train/gradient_norm", float(latest["norm"]), step)
            log.add_scalar("train/skipped_steps", self.progress.skipped_steps, step)
            log.add_scalar("speed/images_per_second", rate, step)
            with faults_of(self.detector, "giving its diagnostics"):
                diagnostics = {name: float(value) for name, value in self.detector.diagnostics().items()}
            for name, value in diagnostics.items():
                log.add_scalar(f"detector/{name}", value, step)
        return f"loss {losses['total']:.4f}, {rate:.0f} img/s"

    def _asked_to_stop(self) -> bool:
        if self.world.size > 1 and self.progress.step % min(10, self.settings.log_every):
            return False
        return any_rank(self.world, stop_signals.asked())

    def _logs(self) -> AbstractContextManager[list[SummaryWriter | None]]:
        """Opens the logs of training and of validation."""
        step = self.progress.step
        return scalar_logs(
            self.folder, {"train": step + 1, "val": step if self.progress.unvalidated else step + 1}, self.world
        )

    # --- checkpoints -------------------------------------------------------------------------------------------

    @contextmanager
    def _averaged_weights(self):
        if not self.average:
            yield
            return
        self.average.swap()
        try:
            yield
        finally:
            self.average.swap()

    def _keep_best(self) -> None:
        state = {name: value.detach().cpu().clone() for name, value in self.detector.state_dict().items()}
        if not self.settings.save_checkpoints:
            self.best_state = state
        elif self.world.is_main:
            about = {"epoch": self.progress.epoch, "step": self.progress.step, "fingerprint": self.fingerprint}
            if self.history is not None:
                about |= {"value": self.progress.best_value, "finished": False}
                about |= {"tensors_sha256": tensors_sha256(state), "history": self.history}
            if origins := self.detector.origins():
                about["origins"] = checkpoint.named_origins(origins, self.data.frames)
            checkpoint.save(self.folder / "best.pt", {"model": state, **about})
        barrier(self.world)

    def _mark_finished(self) -> None:
        """Has the best weights' file say that training came to its end, which it could not know before.

        Raises:
            UserError: The file is damaged.
        """
        best = self.folder / "best.pt"
        if self.settings.save_checkpoints and self.world.is_main and best.is_file():
            contents = checkpoint.load(best)
            if contents.get("finished") is False:  # older files have no such word, and stay as they are
                checkpoint.save(best, contents | {"finished": True})
        barrier(self.world)

    def _identity(self) -> dict[str, Any]:
        """Settings that a resumed run must share with the interrupted one."""
        return {"config": _learning(self.config), "fingerprint": self.fingerprint, "processes": self.world.size}

    def _save(self, *logs: SummaryWriter | None) -> None:
        """Saves a checkpoint. Scalars logged so far are written to the disk before it."""
        self._saved_step = self.progress.step
        self._steps.check(self.progress)
        everyone = gather_objects(self.world, self.progress.bad_frames)
        self.progress.bad_frames = sorted({index for part in everyone for index in part})
        if not self.settings.save_checkpoints:
            return
        for log in logs:
            if log:
                log.flush()
        states = gather_objects(self.world, checkpoint.rng_state(self.world.device))
        if self.world.is_main:
            contents = {
                "identity": self._identity(),
                "progress": asdict(self.progress),
                "model": self.detector.state_dict(),
                "origins": self.detector.origins(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "average": self.average.state_dict() if self.average else None,
                "rng": states,
            }
            if self.history is not None:
                contents |= {"tensors_sha256": tensors_sha256(contents["model"]), "history": self.history}
            checkpoint.save_step(self.folder / "checkpoints", self.progress.step, contents, self.settings.keep)
        barrier(self.world)

    def resume(self) -> None:
        """Takes up the state of the run folder's newest checkpoint, if there is one; once.

        Raises:
            UserError: The checkpoint was made with other settings, all of them are damaged, or `run.resume` is off.
        """
        if not self._resumed and checkpoint.stored(self.folder / "checkpoints"):
            self._go_on()
        self._resumed = True

    def _go_on(self) -> None:
        if not self.settings.resume:
            raise UserError(
                f"{self.folder}: already holds a run, and run.resume is off; remove the folder, or set another run.out"
            )
        path, saved, faults = checkpoint.load_newest(self.folder / "checkpoints")
        differing = checkpoint.differing_keys(self._identity(), _with_defaults(saved["identity"]))
        if differing:
            raise UserError(
                f"{path}: saved by a run with other settings:\n  " + "\n  ".join(differing) + "\n"
                "set the same values to go on, or set another run.out to start a new run"
            )
        try:
            self._restore(saved)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}: does not fit this run ({type(error).__name__}: {str(error)[:300]}); remove it to go on from "
                "the one before, or set another run.out"
            ) from error
        for fault in faults if self.world.is_main else ():
            print(f"note: {fault}; the run goes on from {path.name}, the one before", file=sys.stderr)
        if self.progress.other_files and self.world.is_main:
            print(f"note: {OTHER_FILES}", file=sys.stderr)
        if self.world.is_main:
            print(f"goes on from {path}: epoch {self.progress.epoch + 1}, step {self.progress.step}")

    def _restore(self, saved: dict[str, Any]) -> None:
        self.detector.load_state_dict(saved["model"])
        self.detector.set_origins(saved.get("origins") or {})  # older checkpoints have none
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.average:
            self.average.load_state_dict(saved["average"])
        files = self.progress.files
        self.progress = Progress(**saved["progress"])
        if None not in (files, self.progress.files) and files != self.progress.files:
            self.progress.other_files = True
        self.progress.files = files
        self._saved_step = self.progress.step
        checkpoint.set_rng_state(saved["rng"][self.world.rank], self.world.device)

    def load_best(self) -> None:
        """Loads the selected epoch's weights into the detector.

        Raises:
            UserError: best.pt is missing, damaged, or of another detector.
        """
        if self.best_state is not None:
            self.detector.load_state_dict(self.best_state)
            return
        best = self.folder / "best.pt"
        if not best.is_file():
            raise UserError(
                f"{best}: no such checkpoint, although the run has come to its end; set another run.out to train again"
            )
        try:
            self.detector.load_state_dict(checkpoint.load(best)["model"])
        except (RuntimeError, TypeError) as error:
            raise UserError(f"{best}: does not fit this detector ({str(error)[:300]})") from error


def _learning(config: RunConfig) -> dict[str, Any]:
    """What of a configuration changes what is learnt."""
    found = config.model_dump(by_alias=True, exclude={"run": True, "data": True})
    found["run"] = config.run.model_dump(include={"max_steps", "shuffle_labels", "deterministic"})
    found["data"] = config.data.model_dump(include={"on_bad_frame"})
    return found


def _with_defaults(identity: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of its run; settings that are newer than the checkpoint have their defaults."""
    try:
        return {**identity, "config": _learning(RunConfig.model_validate(identity["config"]))}
    except (TypeError, ValueError):  # of a version whose settings this one does not know: they are compared as they are
        return identity
