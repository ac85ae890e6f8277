"""A backbone of timm with a linear classifier, the base of many detectors."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import timm
from torch import Tensor, nn

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.suggestions import nearest
from resproto_fd.detectors.base import Detector, Output, two_class_output
from resproto_fd.detectors.parts import deepfakebench_names
from resproto_fd.detectors.weights import fetch, load_all, pretrained_skipped, read_state_dict


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

    def encode(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        return two_class_output(self.classifier(features), features, labels)


def _build(name: str, pretrained: bool | str | None, options: dict[str, Any]) -> nn.Module:
    published = _published_weights(name) if pretrained is True else {}
    try:
        model = timm.create_model(name, num_classes=0, **published, **deepcopy(options))  # timm writes into them
    except Exception as error:
        raise UserError(f"timm cannot build '{name}' with options {options}: {error}") from error
    if isinstance(pretrained, str):
        if not Path(pretrained).is_file():
            raise UserError(f"pretrained: no file {pretrained}; set true for timm's weights, null for random ones")
        heads = model.pretrained_cfg.get("classifier") or ()
        heads = (heads,) if isinstance(heads, str) else heads
        state = read_state_dict(pretrained)
        state = {k: v for k, v in state.items() if k.rpartition(".")[0] not in heads}
        load_all(model, state, f"pretrained file {pretrained}")
    return model


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
