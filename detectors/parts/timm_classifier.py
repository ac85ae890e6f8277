"""A backbone of timm with a linear classifier, the base of many detectors."""

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

import timm
from timm.models import adapt_input_conv
from torch import Tensor, nn

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.suggestions import nearest
from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.parts import deepfakebench_names
from resproto_fd.detectors.weights import (
    fetch,
    load_all,
    pretrained_skipped,
    read_state_dict,
    two_outputs,
    unwrapped,
)


class TimmClassifier(Detector):
    """A pooled timm backbone with a linear classifier; all parameters train with cross-entropy.

    Args:
        backbone: Name of a timm model, with or without the tag of its weights ("resnet50", "resnet50.a1_in1k").
        pretrained: True for timm's published weights; a file of weights in timm's naming (its classifier is left out);
            False or None for random weights.
        dropout: Dropout before the classifier.
        options: Further keywords of `timm.create_model`, for layouts that timm does not name.

    Raises:
        UserError: timm has no such model or refuses the options, or the weights are not available or do not fit.
    """

    def __init__(
        self,
        backbone: str,
        pretrained: bool | str | None = True,
        dropout: float = 0.0,
        options: dict[str, Any] | None = None,
    ):
        super().__init__()
        if not timm.is_model(backbone):
            known = timm.list_models()
            raise UserError(f"timm has no model '{backbone}' among its {len(known)}{nearest(backbone, known)}")
        self.backbone = _build(backbone, None if pretrained_skipped() else pretrained, options or {})
        size = getattr(self.backbone, "head_hidden_size", None) or self.backbone.num_features
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(size, 2))

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Detector.from_deepfakebench`; for the timm networks that DeepfakeBench has too."""
        rename = deepfakebench_names.NETWORKS.get(type(self.backbone).__name__)
        if rename is None:
            return super().from_deepfakebench(state)
        names = {key: rename(key) for key in state}
        return {names[key]: value for key, value in state.items() if names[key] is not None}

    def from_authors(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """See `Detector.from_authors`; the plain network in timm's or torchvision's naming, with 1 or 2 outputs."""
        if any(not key.startswith(("backbone.", "classifier.")) for key in self.state_dict()):
            return None  # a method that adds tensors to the network
        heads = _heads(self.backbone)
        if not any(f"{head}.weight" in state for head in heads):
            return None
        found = {f"backbone.{key}": value for key, value in state.items() if key.rpartition(".")[0] not in heads}
        rest = {key: value for key, value in state.items() if f"backbone.{key}" not in found}
        return found | {f"classifier.1.{key.rpartition('.')[2]}": two_outputs(value) for key, value in rest.items()}

    def encode(self, images: Tensor) -> Tensor:
        return self.backbone(images)


WEIGHT_OPTIONS = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
"""Keywords of `timm.create_model` that make it read weights itself, some versions of it with pickle."""


def _build(name: str, pretrained: bool | str | None, options: dict[str, Any]) -> nn.Module:
    if reading := sorted(set(options) & set(WEIGHT_OPTIONS)):
        raise UserError(
            f"options: {', '.join(reading)}: timm would read weights by itself; set pretrained: FILE instead"
        )
    if pretrained:
        _warn_of_gelu(name)
    published = _published_weights(name) if pretrained is True else {}
    try:
        model = timm.create_model(name, num_classes=0, **published, **deepcopy(options))  # timm writes into them
    except Exception as error:
        raise UserError(f"timm cannot build '{name}' with options {options}: {error}") from error
    if isinstance(pretrained, str):
        if not Path(pretrained).is_file():
            raise UserError(f"pretrained: no file {pretrained}; set true for timm's weights, null for random ones")
        state = dict(unwrapped(read_state_dict(pretrained), model.state_dict()))
        load_all(model, _as_timm(model, state, _heads(model)), f"pretrained file {pretrained}")
    return model


def _heads(model: nn.Module) -> tuple[str, ...]:
    """Names of a timm model's classifiers."""
    heads = model.pretrained_cfg.get("classifier") or ()
    return (heads,) if isinstance(heads, str) else tuple(heads)


def _warn_of_gelu(name: str) -> None:
    """Warns of a name that builds GELU for weights trained with QuickGELU, which have no parameter to tell it."""
    config = timm.get_pretrained_cfg(name)
    right = f"{name.partition('.')[0].replace('_clip_', '_clip_quickgelu_')}.{config.tag if config else ''}"
    if "_clip_" in name and "quickgelu" not in name and right in timm.list_pretrained(right):
        warnings.warn(
            f"timm's '{name}' computes GELU, and its weights were trained with QuickGELU: the features differ from "
            f"CLIP's. Set model.backbone={right}",
            stacklevel=2,
        )


def _as_timm(model: nn.Module, state: dict[str, Tensor], heads: tuple[str, ...]) -> dict[str, Tensor]:
    """Weights of the body in timm's naming; a stem of three channels is spread over more, or summed, as timm does it.

    EfficientNet-B4's may be in the naming of efficientnet_pytorch, which DeepfakeBench uses.
    """
    if "_conv_stem.weight" in state and type(model).__name__ == "EfficientNet":
        named = {
            deepfakebench_names.efficientnet(f"backbone.efficientnet.{key}"): value for key, value in state.items()
        }
        state = {key.removeprefix("backbone."): value for key, value in named.items()}
        heads = (*heads, "_fc")
    state = {key: value for key, value in state.items() if key.rpartition(".")[0] not in heads}
    own = model.state_dict()
    for layer in _stems(model):
        key = f"{layer}.weight"
        if key in state and key in own and state[key].shape[1] == 3 != own[key].shape[1]:
            state[key] = adapt_input_conv(own[key].shape[1], state[key])
    return state


def _stems(model: nn.Module) -> tuple[str, ...]:
    first = model.pretrained_cfg.get("first_conv") or ()
    return (first,) if isinstance(first, str) else tuple(first)


def _published_weights(name: str) -> dict[str, Any]:
    """Keywords of `timm.create_model` that load the published weights; fetches them."""
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise UserError(f"timm has no weights of '{name}'; set pretrained: null for random ones, or a file")
    repository = config.hf_hub_id or ""
    if repository.endswith("/"):
        repository += f"{config.architecture}.{config.tag}" if config.tag else config.architecture
    names = [config.hf_hub_filename] if config.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    url = config.url if isinstance(config.url, str) else ""
    path = fetch(f"pretrained weights of {name}", repository, names, url, "set model.pretrained=/path/to/the/file")
    return {"pretrained": True, "pretrained_cfg_overlay": {"file": str(path)}}
