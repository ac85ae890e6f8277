"""Wraps a detector of ours in DeepfakeBench's interface, as its train.py and test.py call it."""

import inspect
import sys
import weakref
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score, average_precision_score, roc_auc_score, roc_curve
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.loading import load, merged, names, validated
from resproto_fd.configs.schema import DetectorConfig
from resproto_fd.detectors.base import Detector, Output
from resproto_fd.detectors.registry import build_detector
from resproto_fd.detectors.weights import without_pretrained
from resproto_fd.losses.global_batch import gather_rows


class HostedDetector(nn.Module):
    """One of our detectors with DeepfakeBench's interface; a subclass names it in `preset`.

    It gets labels only in training. Its state dict is that of the detector within, so that checkpoints fit both.

    Args:
        config: DeepfakeBench's merged configuration. The keys `resolution`, `mean`, `std` and `weights_path` are read,
            and our own keys: `model` and `input`, changes of the preset; `class_counts`, numbers of real and fake
            training frames, or their ratio; `leave_out`, names of fields in `Detector.requires` that training omits;
            `steps_per_epoch`, for --ddp, where DeepfakeBench sets the epoch on another object.

    Attributes:
        epoch: Set by DeepfakeBench's trainer before each epoch.

    Raises:
        UserError: The configured images do not fit the preset; or as `build_detector`.
    """

    preset: str
    epoch: int | None = None

    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config, self.settings = config, _settings(self.preset, config)
        own = [self.settings.input.channel_mean(), self.settings.input.channel_std()]
        given = [config.get("mean", own[0]), config.get("std", own[1])]
        self.renormalises = given != own
        own, given = (torch.tensor(pair, dtype=torch.float64).view(2, 3, 1, 1) for pair in (own, given))
        self.register_buffer("scale", (given[1] / own[1]).float(), persistent=False)
        self.register_buffer("shift", ((given[0] - own[0]) / own[1]).float(), persistent=False)
        self.detector, self.loss = self.build_backbone(config), self.build_loss(config)
        self.steps, self.begun = 0, None
        reference = weakref.ref(self)  # the loop has no call after an optimiser's step
        handle = register_optimizer_step_post_hook(lambda optimizer, *_: _stepped(reference(), optimizer))
        weakref.finalize(self, handle.remove)

    def build_backbone(self, config: dict[str, Any]) -> Detector:
        """The detector within; pretrained weights are not read if a checkpoint follows."""
        with without_pretrained() if config.get("weights_path") else nullcontext():
            return build_detector(self.settings)

    def build_loss(self, config: dict[str, Any]) -> nn.Module:
        """Loss of test batches; in training the detector computes its own."""
        return nn.CrossEntropyLoss()

    def features(self, data_dict: dict[str, Any]) -> Tensor:
        """Features that the scores are computed from, [B, D]."""
        return self.detector.encode(self._images(data_dict))

    def classifier(self, features: Tensor) -> Tensor:
        """Logits of features, [B, 2]."""
        return self.detector.head(features).logits

    def forward(self, data_dict: dict[str, Any], inference: bool = False) -> dict[str, Any]:
        """`cls` [B, 2], `prob` [B] and `feat` [B, D]; in training also `losses`, the only values with a gradient.

        Raises:
            UserError: The input holds clips. In training: a required field is missing, or the detector takes a step
                that DeepfakeBench's loop cannot take.
        """
        images = self._images(data_dict)
        if inference or not self.training:
            output, told = self.detector(images), {}
        else:
            output, losses = self._training_step(images, data_dict)
            told = {"losses": losses}
        values = {"cls": output.logits, "prob": output.scores, "feat": output.features}
        return told | {name: value.detach() for name, value in values.items()}

    def get_losses(self, data_dict: dict[str, Any], pred_dict: dict[str, Any]) -> dict[str, Tensor]:
        """`overall`, the training loss, and its terms; for a test batch the cross-entropy of `cls`."""
        if "losses" in pred_dict:
            return pred_dict["losses"]
        return {"overall": self.loss(pred_dict["cls"], _labels(data_dict))}

    def get_train_metrics(self, data_dict: dict[str, Any], pred_dict: dict[str, Any]) -> dict[str, float | None]:
        """acc, auc, eer and ap of a batch, as DeepfakeBench's log shows them; None if a class is absent.

        Uses `prob`, since `cls` may depend on labels in training.
        """
        labels, scores = _labels(data_dict).cpu().numpy(), pred_dict["prob"].cpu().numpy()
        found: dict[str, float | None] = dict.fromkeys(("acc", "auc", "eer", "ap"))
        found["acc"] = accuracy_score(labels, scores > 0.5)
        if 0 < labels.sum() < len(labels):
            fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
            found["auc"], found["ap"] = roc_auc_score(labels, scores), average_precision_score(labels, scores)
            found["eer"] = float(np.interp(0.0, fpr + tpr - 1, fpr))
        return found

    def state_dict(self, *args, **kwargs) -> dict[str, Tensor]:
        """State dict of the detector within."""
        return self.detector.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any], *args, **kwargs) -> Any:
        """Load a state dict; our own `best.pt`, DeepfakeBench's files of --ddp and checkpoints of its own class too."""
        state = state_dict.get("model", state_dict)
        if all(key.startswith("module.") for key in state):
            state = {key.removeprefix("module."): value for key, value in state.items()}
        try:
            return self.detector.load_state_dict(state, *args, **kwargs)
        except RuntimeError:
            try:  # a checkpoint of DeepfakeBench's detector of this name
                return self.detector.load_deepfakebench(state)
            except UserError:
                pass
            raise

    def _images(self, data_dict: dict[str, Any]) -> Tensor:
        images = data_dict["image"]
        if images.ndim != 4:
            found = list(images.shape)
            raise UserError(f"{self.preset} expected images [B, 3, H, W], got {found}; set video_mode: false")
        return images * self.scale + self.shift if self.renormalises else images

    def _training_step(self, images: Tensor, data_dict: dict[str, Any]) -> tuple[Output, dict[str, Tensor]]:
        """Run the detector's own training step; its loss is kept for DeepfakeBench's loop to differentiate."""
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise UserError(f"{self.preset} has no parameter to train; use DeepfakeBench's test.py")
        labels, fields = _labels(data_dict), self._fields(data_dict)
        self._begin(labels)
        outputs: list[Output] = []

        def model(*args, **kwargs) -> Output:
            outputs.append(self.detector(*args, **kwargs))
            return outputs[-1]

        step = _HeldBack()
        losses = self.detector.training_step(model, step, images, labels, **fields)
        if len(step.losses) != 1 or len(outputs) != 1:
            raise UserError(
                f"{self.preset}: DeepfakeBench's loop expected one backward pass a training step, got "
                f"{len(step.losses)}; train it with `resproto train` (testing works here)"
            )
        terms = {name: value.detach() for name, value in losses.items() if name != "total"}
        return outputs[0], {"overall": step.losses[0], **terms}

    def _fields(self, data_dict: dict[str, Any]) -> dict[str, Tensor]:
        wanted = self.detector.requires
        found = {"mask": _mask(data_dict["mask"])} if "mask" in wanted and data_dict.get("mask") is not None else {}
        indispensable = indispensable_fields(self.detector)
        lacking = sorted(wanted - found.keys() - (set(self.config.get("leave_out") or ()) - indispensable))
        if lacking:
            remedy = "set with_mask: true, or " if "mask" in lacking else ""
            remedy += "" if indispensable & {*lacking} else f"set leave_out: [{', '.join(lacking)}], or "
            raise UserError(
                f"{self.preset} requires {', '.join(lacking)} in training, which DeepfakeBench's loader does not give; "
                f"{remedy}train it with `resproto train`"
            )
        return found

    def _begin(self, labels: Tensor) -> None:
        """Call `start_training` and `start_epoch` of the detector, as our trainer does."""
        if self.begun is None:
            self.detector.start_training(self._class_counts(labels))
        if (epoch := self._epoch()) != self.begun:
            self.detector.start_epoch(epoch)
            self.begun = epoch

    def _class_counts(self, labels: Tensor) -> Tensor:
        if given := self.config.get("class_counts"):
            return torch.tensor(given)
        counts = torch.bincount(gather_rows(labels), minlength=2).cpu()
        print(
            f"note: {self.preset}: class_counts: [real, fake] is not set; using the counts of the first batch, "
            f"{counts.tolist()}",
            file=sys.stderr,
        )
        return counts.clamp_min(1)

    def _epoch(self) -> int:
        if self.epoch is not None or type(self.detector).start_epoch is Detector.start_epoch:
            return self.epoch or 0
        if not (steps := self.config.get("steps_per_epoch")):
            raise UserError(
                f"{self.preset} does not know the epoch: DeepfakeBench under --ddp sets it on another object; set "
                "steps_per_epoch: N, which is training frames / train_batchSize / processes, rounded up"
            )
        return self.steps // steps


def indispensable_fields(detector: Detector) -> set[str]:
    """Fields of a batch without which a detector takes no training step."""
    parameters = inspect.signature(detector.training_step).parameters.values()
    return {p.name for p in parameters if p.default is p.empty} & detector.requires


class _HeldBack:
    """A `base.Step` that keeps the losses instead of differentiating them."""

    def __init__(self):
        self.losses: list[Tensor] = []
        self.autocast, self.backward = nullcontext, self.losses.append


def _stepped(hosted: HostedDetector | None, optimizer: Optimizer) -> None:
    """Call `after_step` of a detector if the optimiser's step changed its parameters."""
    if hosted is None:
        return
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if any(id(p) in stepped for p in hosted.parameters()):
        hosted.steps += 1
        hosted.detector.after_step()


def _labels(data_dict: dict[str, Any]) -> Tensor:
    """Labels 0 real and 1 fake, from labels that may number the manipulations."""
    return (data_dict["label"] != 0).long()


def _mask(mask: Tensor) -> Tensor:
    """float32 [B, 1, S, S] in [0, 1], 1 forged.

    Args:
        mask: As DeepfakeBench's loader may give it: [B, S, S], [B, S, S, 1 or 3] or [B, S, S, 1, 3], to 1 or to 255.
    """
    mask = mask.float()
    while mask.ndim > 3:
        mask = mask.amax(-1)
    return mask[:, None] / (255 if mask.max() > 1 else 1)


def _settings(name: str, config: dict[str, Any]) -> DetectorConfig:
    """The preset, or a class without a preset, with the changes of the host's configuration."""
    if name in names("detectors"):
        values = load("detectors", name).model_dump(exclude_unset=True)
    else:
        own = {"size": "resolution", "mean": "mean", "std": "std"}
        values = {"name": name, "detector": name, "input": {key: config[there] for key, there in own.items()}}
    changes = {key: config[key] for key in ("model", "input") if config.get(key)}
    settings = validated(DetectorConfig, merged(values, changes), f"DeepfakeBench's YAML, detector '{name}'")
    if settings.input.frames > 1:
        raise UserError(f"{name} takes clips of {settings.input.frames} frames; its host gives single frames")
    size, given = settings.input.size, config.get("resolution", settings.input.size)
    if given != size:
        raise UserError(
            f"{name} expected images of {size} pixels, got {given}; set resolution: {size}, or input: "
            f"{{size: {given}}} if the detector supports it"
        )
    if settings.input.fit == "crop":
        raise UserError(
            f"{name} expected the centre of a face, got the whole face from DeepfakeBench; set input: {{fit: resize}} "
            "to use the whole face"
        )
    return settings
