"""Runs a detector class written for DeepfakeBench in our trainer, and checks what it returns."""

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from resproto_fd.configs.errors import UserError, cut
from resproto_fd.configs.loading import load_yaml
from resproto_fd.configs.suggestions import nearest
from resproto_fd.detectors.base import Detector, Output
from resproto_fd.detectors.registry import register
from resproto_fd.losses.precision import at_least_float32


@register("deepfakebench_class")
class ForeignDetector(Detector):
    """Run a class that has DeepfakeBench's `forward` and `get_losses` (Yan et al., DeepfakeBench, NeurIPS 2023).

    Outside training the class sees zeros instead of labels. If its `pred_dict` has no `prob`, the softmax of `cls` is
    used. Checkpoints that DeepfakeBench saved for the class can be loaded.

    Importing the class runs its package, so a file may not choose it: see `Detector.names_code`.

    Args:
        target: "package.module:Class", a subclass of `nn.Module`. For a class of a DeepfakeBench checkout, put the
            checkout's folder `training` into PYTHONPATH and give, for example,
            "detectors.xception_detector:XceptionDetector".
        config: The argument of its constructor, or a YAML file that holds it. `with_mask: true` passes masks to it.

    Raises:
        UserError: There is no such class, it is no subclass of `nn.Module`, it reads a key that `config` lacks, or its
            constructor fails. In use: it returns another form, or a score outside [0, 1].
    """

    names_code = ("target",)

    def __init__(self, target: str, config: dict[str, Any] | str | None = None):
        super().__init__()
        config = load_yaml(config, lenient=True) if isinstance(config, str) else dict(config or {})
        try:
            self.target, self.model = target, _imported(target)(config)
        except FileNotFoundError as error:
            raise UserError(
                f"{target}: its constructor finds no file {error.filename or error}; paths in its YAMLs are "
                "relative to the checkout: run this there, or set another path in config (or pretrained: null, if the "
                "class takes it)"
            ) from error
        except KeyError as error:
            raise UserError(f"{target}: expected {error} in config, got {', '.join(config) or 'nothing'}") from error
        except (UserError, MemoryError, KeyboardInterrupt):
            raise
        except BaseException as error:  # a class may raise SystemExit too
            reason = f"{type(error).__name__}: {cut(str(error))}" if str(error) else type(error).__name__
            raise UserError(
                f"{target}: its constructor failed: {reason}; correct config (model.config), or mend the class"
            ) from error
        self.requires = frozenset({"mask"} if config.get("with_mask") else ())

    def start_epoch(self, epoch: int) -> None:
        self.model.epoch = epoch

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {f"model.{key}": value for key, value in state.items()}

    def forward(self, images: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        """See `Detector.forward`."""
        trains = self.training and labels is not None
        seen = labels if trains else torch.zeros(len(images), dtype=torch.long, device=images.device)
        data_dict = {"image": images, "label": seen, "mask": fields.get("mask"), "landmark": None}
        pred_dict = self._checked(self.model(data_dict, inference=not trains), len(images))
        return self._output(pred_dict, labels, data_dict)

    def encode(self, images: Tensor) -> Tensor:
        """Logits, score and features of each image side by side, [B, 2 + 1 + D]: the class exposes no earlier stage."""
        output = self(images)
        return torch.cat([output.logits, output.scores[:, None], output.features], dim=1)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        """Splits what `encode` joined; a loss that needs images or masks cannot be computed here."""
        features = at_least_float32(features)
        pred_dict = {"cls": features[:, :2], "prob": features[:, 2], "feat": features[:, 3:]}
        return self._output(pred_dict, labels, {"image": None, "mask": None, "landmark": None})

    def _output(self, pred_dict: dict[str, Any], labels: Tensor | None, data_dict: dict[str, Any]) -> Output:
        losses = None
        if labels is not None:
            losses = self._losses(self.model.get_losses({**data_dict, "label": labels}, pred_dict))
        logits, scores = at_least_float32(pred_dict["cls"]), pred_dict["prob"].float()
        return Output(scores, logits, pred_dict["feat"].reshape(len(scores), -1), losses)

    def _checked(self, pred_dict: Any, count: int) -> dict[str, Any]:
        """`pred_dict` with `prob` [B] in it.

        Raises:
            UserError: An entry is missing or has another form.
        """
        if not isinstance(pred_dict, Mapping):
            kind = type(pred_dict).__name__
            raise UserError(f"{self.target}: expected forward to return a dict of cls, prob and feat, got {kind}")
        cls = self._rows(pred_dict, "cls", count)
        if cls.shape != (count, 2):
            raise UserError(f"{self.target}: expected cls of shape {[count, 2]} (real, fake), got {list(cls.shape)}")
        if pred_dict.get("prob") is None:
            pred_dict = {**pred_dict, "prob": at_least_float32(cls).softmax(dim=1)[:, 1]}
        prob = pred_dict["prob"]
        if not isinstance(prob, Tensor) or prob.numel() != count:
            raise UserError(f"{self.target}: expected prob of shape {[count]}, got {_form(prob)}")
        prob = prob.reshape(count)
        if not self.training and not (usable := (prob >= 0) & (prob <= 1)).all():
            first = int((~usable).nonzero()[0])
            raise UserError(
                f"{self.target}: expected prob in [0, 1], got other values for {int((~usable).sum())} of {count} "
                f"images, first {prob[first]:g} where cls is {cls[first].tolist()}"
            )
        return {**pred_dict, "prob": prob, "feat": self._rows(pred_dict, "feat", count)}

    def _rows(self, pred_dict: Mapping[str, Any], name: str, count: int) -> Tensor:
        value = pred_dict.get(name)
        if not isinstance(value, Tensor) or not value.ndim or len(value) != count:
            raise UserError(f"{self.target}: expected {name} of shape [{count}, ...], got {_form(value)}")
        return value

    def _losses(self, found: Any) -> dict[str, Tensor]:
        if not isinstance(found, Mapping) or "overall" not in found:
            has = ", ".join(found) if isinstance(found, Mapping) else type(found).__name__
            raise UserError(f"{self.target}: expected get_losses to return 'overall', got {has or 'nothing'}")
        for name, value in found.items():
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise UserError(f"{self.target}: expected loss '{name}' to be a scalar tensor, got {_form(value)}")
        terms = {name: value.reshape(()) for name, value in found.items() if name != "overall"}
        return {**terms, "total": found["overall"].reshape(())}


def _form(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else "missing" if value is None else type(value).__name__


def _imported(target: str) -> type[nn.Module]:
    """The class of a target, not called yet.

    Raises:
        UserError: It cannot be imported, or is no subclass of `nn.Module`.
    """
    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise UserError(f"expected a target of the form package.module:Class, got '{target}'; set model.target")
    try:
        module = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise SystemExit too
        raise UserError(
            f"target '{target}': {module_name} cannot be imported: {error}; for a class of a DeepfakeBench "
            "checkout, put the checkout's folder 'training' into PYTHONPATH"
        ) from error
    if not hasattr(module, name):
        raise UserError(f"target '{target}': {module_name} has no {name}{nearest(name, vars(module))}")
    found = getattr(module, name)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        kind = "" if isinstance(found, type) else f"the {type(found).__name__} "
        raise UserError(f"{target}: expected a torch.nn.Module, got {kind}{name}; set model.target to a class")
    return found
