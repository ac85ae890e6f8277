"""The loop that fits any detector: one process or many, interrupted or not, to the same bits.

The detector computes its loss in `forward`; nothing here knows a detector by name.
"""

import inspect
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from resproto_fd.configs.errors import Interrupted, UserError
from resproto_fd.configs.files import DISK_FULL
from resproto_fd.configs.locks import SoleLock
from resproto_fd.configs.schema import RunConfig
from resproto_fd.detectors.base import Detector, Output
from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.companions import MASK, PICTURES
from resproto_fd.trainer.data import FrameDataset, Normaliser, TrainBatches, make_loader, on_stop_signal, watched
from resproto_fd.trainer.distributed import (
    World,
    any_rank,
    average_gradients,
    barrier,
    copy_buffers_from_main,
    gather_objects,
)
from resproto_fd.trainer.optimizers import WeightAverage, climbed, make_optimizer, make_schedule, memory_kept

Validate = Callable[[Detector], dict[str, float | None]]
"""Scores the validation split and returns its metrics, by name, the selection metric among them."""

LOWER_IS_BETTER = ("frame_eer", "video_eer")
PATIENCE_WITH_FP16 = 50


@dataclass
class Progress:
    """Where a run stands, and the best it has seen."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    unvalidated: bool = False
    best_value: float | None = None
    best_epoch: int | None = None
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    bad_frames: list[int] = field(default_factory=list)
    seconds: float = 0.0


@contextmanager
def exclusive(run_folder: Path, world: World):
    """Holds a run folder against a second process.

    Raises:
        UserError: Another process is at work in it.
    """
    run_folder.mkdir(parents=True, exist_ok=True)
    lock = SoleLock(run_folder / ".lock") if world.is_main else None
    if any_rank(world, lock is not None and not lock.acquire()):
        raise UserError(
            f"{run_folder}: another process is at work in this run folder; wait for it, or set another run.out"
        )
    try:
        if lock:
            for unfinished in run_folder.rglob(".*.part"):  # what a killed process was writing
                unfinished.unlink()
        yield
    finally:
        if lock:
            lock.release()


@dataclass(frozen=True)
class _Step:
    """See `detectors.base.Step`."""

    autocast: Callable[[], AbstractContextManager]
    backward: Callable[[Tensor], None]


class Trainer:
    """Fits a detector.

    Args:
        detector: On any device; it is moved.
        data: The training frames.
        config: The resolved configuration of the run.
        world: This process among the others.
        folder: The run folder: checkpoints, best weights and TensorBoard files go there.
        validate: Called at the end of each epoch; None when the last epoch is the selected one.
        fingerprint: Of the protocol; a resume under another is refused.
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
    ):
        self.recipe, self.settings = config.detector.train, config.run
        self.config, self.world, self.folder = config, world, Path(folder)
        self.validate, self.fingerprint = validate, fingerprint
        self.metric = config.protocol.selection.metric
        self.data = data
        if detector.steps_alone and self.recipe.accumulate > 1:
            raise UserError(
                f"train.accumulate={self.recipe.accumulate}: {type(detector).__name__} takes a step of its own on each "
                "batch, which cannot be accumulated; set train.accumulate=1 and a smaller train.batch_size"
            )
        if detector.steps_alone and self.recipe.optimizer.sam_rho:
            raise UserError(
                f"train.optimizer.sam_rho={self.recipe.optimizer.sam_rho:g}: {type(detector).__name__} takes a step of "
                "its own on each batch, which cannot be taken twice; set train.optimizer.sam_rho=0"
            )
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
        self.batches = TrainBatches(
            len(data),
            self.recipe.batch_size,
            self.recipe.accumulate,
            world.rank,
            world.size,
            config.seed,
            data.frames.groups() if config.protocol.sampling == "balanced" else None,
            pairs=data.pairs is not None,
        )
        self.optimizer = make_optimizer(self.recipe.optimizer, self.trained, world.device)
        self.schedule = make_schedule(
            self.recipe.schedule, self.optimizer, self.recipe.optimizer.lr, self.batches.steps, self.recipe.epochs
        )
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.recipe.precision == "fp16")
        self.average = WeightAverage(self.trained, self.recipe.ema) if self.recipe.ema else None
        self.progress = Progress()
        self.best_state: dict[str, Tensor] | None = None
        self.model = self._data_parallel()
        self._stop = False
        self._since_check: list[dict[str, Any]] = []
        self._latest = "resumed"
        self._looked_at = 0

    # --- preparation -------------------------------------------------------------------------------------------

    def _prepared(self, detector: Detector, dtype: torch.dtype) -> Detector:
        recipe = self.recipe
        if recipe.sync_batchnorm and self.world.size > 1 and self.world.device.type == "cuda":
            detector = nn.SyncBatchNorm.convert_sync_batchnorm(detector)
        if recipe.channels_last:
            detector = detector.to(memory_format=torch.channels_last)
        detector = detector.to(self.world.device, dtype)
        detector.start_training(torch.as_tensor(self.data.frames.class_counts()))
        if recipe.checkpoint_activations:
            detector.checkpoint_activations()
        if recipe.compile:
            detector.encode = torch.compile(detector.encode)
        return detector

    @property
    def _whole_batch_loss(self) -> bool:
        """Whether the loss must see the whole batch's features at once although it comes in micro-batches."""
        return self.recipe.accumulate > 1 and self.detector.couples_batch

    def _data_parallel(self) -> nn.Module:
        if self.world.size == 1 or self._whole_batch_loss:
            return self.detector
        devices = [self.world.device] if self.world.device.type == "cuda" else None
        # torch renamed the switch, and warns of the old name where it has the new one.
        names = inspect.signature(DistributedDataParallel).parameters
        name = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
        return DistributedDataParallel(self.detector, device_ids=devices, **{name: False})

    # --- the loop ----------------------------------------------------------------------------------------------

    def fit(self) -> Progress:
        """Trains to the last epoch, from the newest checkpoint in the run folder when there is one.

        Raises:
            UserError: The loss or a gradient is not finite, a frame cannot be read, the disk is full, or the checkpoint
                there was made with another configuration.
            Interrupted: A stop signal came; the state is saved.
        """
        self._resume()
        loader = make_loader(self.data, self.batches, self.settings.workers, self.world.device)
        with self._writers() as (train_log, val_log), on_stop_signal(self._note_stop):
            while self.progress.unvalidated or not self._done():
                if not self.progress.unvalidated:
                    self._one_epoch(loader, train_log)
                self._end_epoch(train_log, val_log)
        return self.progress

    def _done(self) -> bool:
        return self.progress.epoch >= self.recipe.epochs or self._enough()

    def _enough(self) -> bool:
        return self.settings.max_steps is not None and self.progress.step >= self.settings.max_steps

    def _one_epoch(self, loader, log: SummaryWriter | None) -> None:
        progress, accumulate = self.progress, self.recipe.accumulate
        self.detector.train()
        self.detector.start_epoch(progress.epoch)
        self.batches.start(progress.epoch, progress.step_in_epoch)
        arriving = watched(loader)
        bar = tqdm(
            total=self.batches.steps,
            initial=progress.step_in_epoch,
            desc=f"epoch {progress.epoch + 1}/{self.recipe.epochs}",
            unit="step",
            disable=None if self.settings.progress and self.world.is_main else True,  # None: off where no one watches
            leave=False,
        )
        last_log, last_time = progress.step, time.perf_counter()
        with bar:
            for _ in range(progress.step_in_epoch, self.batches.steps):
                micro = [self._readable(next(arriving)) for _ in range(accumulate)]
                self._step(micro)
                progress.step += 1
                progress.step_in_epoch += 1
                bar.update()
                finished = progress.step_in_epoch == self.batches.steps or self._enough()
                if progress.step % self.settings.log_every == 0 or finished:
                    now = time.perf_counter()
                    progress.seconds += now - last_time
                    rate = (progress.step - last_log) * self.recipe.batch_size / max(now - last_time, 1e-9)
                    self._latest = self._check_and_log(log, rate) or self._latest
                    bar.set_postfix_str(self._latest, refresh=False)
                    last_log, last_time = progress.step, now
                if self.settings.save_every and progress.step % self.settings.save_every == 0 and not finished:
                    self._save(log)
                if self._asked_to_stop():
                    self._save(log)
                    raise Interrupted(f"stopped after step {progress.step}")
                if finished:
                    break

    def _end_epoch(self, train_log: SummaryWriter | None, val_log: SummaryWriter | None) -> None:
        """Saves, validates, keeps the best, saves again; killed in between, a run validates once more."""
        progress = self.progress
        if not progress.unvalidated:
            progress.unvalidated = True
            self._save(train_log)
        if any_rank(self.world, self._stop):
            raise Interrupted(f"stopped after step {progress.step}")
        self._validate(val_log)
        progress.epoch, progress.step_in_epoch, progress.unvalidated = progress.epoch + 1, 0, False
        self._save(train_log, val_log)
        if any_rank(self.world, self._stop):
            raise Interrupted(f"stopped after epoch {progress.epoch}")

    def _validate(self, log: SummaryWriter | None) -> None:
        progress = self.progress
        copy_buffers_from_main(self.world, self.detector)
        # Libraries loaded for the first time in validation may draw: a resumed run would load them again.
        with self._averaged_weights(), checkpoint.rng_state_kept(self.world.device):
            metrics = self.validate(self.detector) if self.validate else {}
            value = metrics.get(self.metric)
            better = value is not None and (
                progress.best_value is None
                or (value < progress.best_value if self.metric in LOWER_IS_BETTER else value > progress.best_value)
            )
            # Without a usable value (`last` is the rule, or the split lacks a class) the newest weights are kept.
            if better or progress.best_value is None:
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
        """The batch; unreadable frames end the run, or are counted where the data set replaced them."""
        for bad in batch["bad"]:
            if not self.data.replace_bad:
                raise UserError(
                    f"training stops at step {self.progress.step}: {bad.message}. Repair the file, or set "
                    "data.on_bad_frame=skip (unreadable frames are then replaced, counted and named)"
                )
            if bad.index not in self.progress.bad_frames:
                self.progress.bad_frames.append(bad.index)
                tqdm.write(f"unreadable frame replaced by the next one: {bad.message}")
        return batch

    # --- one optimiser step ------------------------------------------------------------------------------------

    def _step(self, micro: list[dict]) -> None:
        backward = self._backward_whole_batch if self._whole_batch_loss else self._backward_micro_batches
        if self.recipe.optimizer.sam_rho:
            before = checkpoint.rng_state(self.world.device)
            losses = backward(micro)
            # The second look is at the same batch under the same random numbers, and nothing remembers it.
            with climbed(self.trained, self.recipe.optimizer.sam_rho), memory_kept(self.detector):
                checkpoint.set_rng_state(before, self.world.device)
                backward(micro)
        else:
            losses = backward(micro)
        self.scaler.unscale_(self.optimizer)
        limit = self.recipe.grad_clip
        norm = nn.utils.get_total_norm([p.grad for p in self.trained if p.grad is not None])
        if limit is not None:
            nn.utils.clip_grads_with_norm_(self.trained, limit, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.detector.after_step()
        self.schedule.step()
        if self.average:
            self.average.update()
        self._since_check.append(
            {"step": self.progress.step, "norm": norm, "losses": losses, "frames": [b["index"] for b in micro]}
        )

    def _autocast(self):
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.recipe.precision)
        return torch.autocast(self.world.device.type, kind) if kind else nullcontext()

    def _fields(self, batch: dict) -> dict[str, Tensor | list[str]]:
        found = {name: batch[name] for name in sorted(self.detector.requires) if name in batch}
        return {
            name: self._on_device(name, value) if isinstance(value, Tensor) else value for name, value in found.items()
        }

    def _on_device(self, name: str, value: Tensor) -> Tensor:
        if name in PICTURES:
            return self.normalise(value)
        value = value.to(self.world.device, non_blocking=True)
        return value.to(self.normalise.dtype) / 255 if name == MASK else value

    def _labels(self, batch: dict) -> Tensor:
        return batch["label"].to(self.world.device, non_blocking=True)

    def _backward_micro_batches(self, micro: list[dict]) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        step = _Step(self._autocast, lambda loss: self.scaler.scale(loss / len(micro)).backward())
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
        """Gradients of a loss over the whole batch, the encoder run on one micro-batch at a time.

        The features of all micro-batches are computed without a graph, the head's loss is differentiated with respect
        to them, and each micro-batch is encoded again to carry its share of that gradient back (gradient caching, Gao
        et al. 2021). Exact but for batch norm, whose statistics are each micro-batch's own.
        """
        images = [self.normalise(batch["image"]) for batch in micro]
        states, features = [], []
        for part in images:
            states.append(self._random_state())
            with torch.no_grad(), self._autocast():
                features.append(self.detector.encode(part))
        after = self._random_state()
        leaf = torch.cat(features).detach().requires_grad_()
        fields = [self._fields(batch) for batch in micro]
        whole = {
            name: torch.cat([part[name] for part in fields])
            if isinstance(value, Tensor)
            else [text for part in fields for text in part[name]]
            for name, value in fields[0].items()
        }
        with self._autocast():
            output: Output = self.detector.head(leaf, torch.cat([self._labels(batch) for batch in micro]), **whole)
        self.scaler.scale(output.losses["total"]).backward()
        for part, state, gradient in zip(images, states, leaf.grad.split([len(p) for p in images]), strict=True):
            self._set_random_state(state)
            with self._autocast():
                encoded = self.detector.encode(part)
            encoded.backward(gradient.to(encoded.dtype))
        self._set_random_state(after)
        average_gradients(self.world, self.trained)
        return {name: value.detach() for name, value in output.losses.items()}

    def _random_state(self) -> Tensor:
        cuda = self.world.device.type == "cuda"
        return torch.cuda.get_rng_state(self.world.device) if cuda else torch.get_rng_state()

    def _set_random_state(self, state: Tensor) -> None:
        if self.world.device.type == "cuda":
            torch.cuda.set_rng_state(state, self.world.device)
        else:
            torch.set_rng_state(state)

    # --- checks and logs ---------------------------------------------------------------------------------------

    def _check_and_log(self, log: SummaryWriter | None, rate: float) -> str:
        """Looks at the steps since the last look: the one place where the loop waits for the device."""
        self._refuse_non_finite()
        latest = self._since_check[-1] if self._since_check else None
        self._since_check.clear()
        self._looked_at = 0
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
            for name, value in self.detector.diagnostics().items():
                log.add_scalar(f"detector/{name}", float(value), step)
        return f"loss {losses['total']:.4f}, {rate:.0f} img/s"

    def _refuse_non_finite(self) -> None:
        """Counts the steps that fp16's scaler skipped; any other loss or gradient that is not finite ends the run.

        Raises:
            UserError: Step, loss terms and frames of the first such step.
        """
        steps = self._since_check[self._looked_at :]
        self._looked_at = len(self._since_check)
        if not steps:
            return
        finite = [entry["losses"]["total"].isfinite() & entry["norm"].isfinite() for entry in steps]
        misses = (~torch.stack(finite).cpu()).nonzero().flatten().tolist()
        if not misses:
            self.progress.skipped_in_a_row = 0
            return
        if self.scaler.is_enabled():
            self.progress.skipped_steps += len(misses)
            before = self.progress.skipped_in_a_row if len(misses) == len(steps) else 0
            self.progress.skipped_in_a_row = before + len(misses)
            if self.progress.skipped_in_a_row < PATIENCE_WITH_FP16:
                return
        entry = steps[misses[0]]
        terms = ", ".join(f"{name} {float(value):g}" for name, value in entry["losses"].items())
        frames = [self.data.frames.paths[i] for part in entry["frames"] for i in part.tolist()]
        kept = checkpoint.stored(self.folder / "checkpoints")
        raise UserError(
            f"step {entry['step']}: loss or gradient is not finite ({terms}, gradient norm {float(entry['norm']):g}); "
            f"frames of the batch: {', '.join(frames[:8])}{', ...' if len(frames) > 8 else ''}. "
            f"The last good checkpoint is {kept[-1] if kept else 'none, it came before the first'}; "
            "try a lower train.optimizer.lr, train.grad_clip=1 or train.precision=fp32"
        )

    def _asked_to_stop(self) -> bool:
        if self.world.size > 1 and self.progress.step % min(10, self.settings.log_every):
            return False
        return any_rank(self.world, self._stop)

    def _note_stop(self, number, frame) -> None:
        self._stop = True

    @contextmanager
    def _writers(self):
        """TensorBoard's writers, of training and validation; what a killed run wrote past its checkpoint is purged."""
        if not self.world.is_main:
            yield None, None
            return
        step = self.progress.step
        began = (self.folder / "tb").exists()  # also without a checkpoint: scalars may have come to the disk before it
        purge = {"train": step + 1, "val": step if self.progress.unvalidated else step + 1}
        try:
            with ExitStack() as stack:
                yield [
                    stack.enter_context(
                        SummaryWriter(str(self.folder / "tb" / name), purge_step=first if began else None)
                    )
                    for name, first in purge.items()
                ]
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise UserError(
                f"{self.folder / 'tb'}: cannot be written ({error.strerror}); "
                "free some space and run the same command again: it goes on from the last checkpoint"
            ) from error

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
            checkpoint.save(self.folder / "best.pt", {"model": state, **about})
        barrier(self.world)

    def _identity(self) -> dict[str, Any]:
        """What a resumed run must share with the interrupted one."""
        config = self.config.model_dump(by_alias=True, exclude={"run": True, "data": True})
        learning = {"max_steps", "shuffle_labels", "deterministic"}
        config["run"] = self.config.run.model_dump(include=learning)
        config["data"] = self.config.data.model_dump(include={"on_bad_frame"})
        return {"config": config, "fingerprint": self.fingerprint, "processes": self.world.size}

    def _save(self, *logs: SummaryWriter | None) -> None:
        """A checkpoint of this moment; scalars logged so far reach the disk first."""
        self._refuse_non_finite()
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
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "average": self.average.state_dict() if self.average else None,
                "rng": states,
            }
            checkpoint.save_step(self.folder / "checkpoints", self.progress.step, contents, self.settings.keep)
        barrier(self.world)

    def _resume(self) -> None:
        found = checkpoint.stored(self.folder / "checkpoints")
        if not found:
            return
        if not self.settings.resume:
            raise UserError(
                f"{self.folder}: holds a run already and run.resume is off; remove it, or name another run.out"
            )
        saved = checkpoint.load(found[-1])
        differing = checkpoint.differing_keys(self._identity(), saved["identity"])
        if differing:
            raise UserError(
                f"{found[-1]}: made by a run that differs from this one:\n  " + "\n  ".join(differing) + "\n"
                "run with the same values to go on, or name another run.out to start anew"
            )
        self.detector.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.schedule.load_state_dict(saved["schedule"])
        self.scaler.load_state_dict(saved["scaler"])
        if self.average:
            self.average.load_state_dict(saved["average"])
        self.progress = Progress(**saved["progress"])
        checkpoint.set_rng_state(saved["rng"][self.world.rank], self.world.device)

    def load_best(self) -> None:
        """Puts the selected epoch's weights into the detector."""
        if self.best_state is not None:
            self.detector.load_state_dict(self.best_state)
        else:
            self.detector.load_state_dict(checkpoint.load(self.folder / "best.pt")["model"])
