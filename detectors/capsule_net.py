"""Capsule-Forensics: ten capsules on VGG's first layers, routed to one capsule for each class.

The layout is that of its second version (arXiv 1910.12467). Legend: B batch, I capsules in, O capsules out (classes),
P = 4 components of a capsule out.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.base import Detector, Output
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import fetch, load_all, pretrained_skipped, read_state_dict
from resproto_fd.losses.precision import at_least_float32

VGG = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, 256, "pool")
"""Layers of VGG-19 in use: widths of rectified convolutions, and where the map is halved."""
CAPSULES, COMPONENTS, CLASSES, OUT = 10, 8, 2, 4
VGG_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"


@register("capsule_net")
class CapsuleNet(Detector):
    """Route capsules that read statistics of VGG's maps to one capsule a class (Nguyen et al., ICASSP 2019).

    Each component of the output capsules votes on the class. The score is the mean of the components' softmax, and the
    loss is the negative log-likelihood of that mean. DeepfakeBench instead feeds that softmax into the cross-entropy of
    each component, sums these, and applies a second softmax to the mean for its score. Loading one of its checkpoints
    switches to that form; `logits` are then the mean.

    Args:
        pretrained: True for VGG-19 with ImageNet weights, a file in torchvision's naming, or None for random weights.
        train_vgg: Train VGG's layers too, as DeepfakeBench does; otherwise they are frozen.
        noise: Standard deviation of the noise added to the routing weights in training.
        dropout: Dropout of the capsules' votes in training.

    Raises:
        UserError: The weights are not available or do not fit.
    """

    map_parts = ("vgg",)

    def __init__(
        self,
        pretrained: bool | str | None = True,
        train_vgg: bool = False,
        noise: Annotated[float, Field(ge=0)] = 0.01,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05,
    ):
        super().__init__()
        self.noise, self.dropout, self.paper = noise, dropout, True
        self.capsules = nn.ModuleList(_capsule() for _ in range(CAPSULES))
        for module in self.capsules.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
        self.route_weights = nn.Parameter(torch.randn(CLASSES, CAPSULES, OUT, COMPONENTS))
        self.vgg = _vgg(None if pretrained_skipped() else pretrained).requires_grad_(train_vgg)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        self.paper = False
        names = {"vgg_ext.vgg_1.": "vgg.", "fea_ext.": "", "routing_stats.": ""}
        for theirs, ours in names.items():
            state = {ours + k.removeprefix(theirs) if k.startswith(theirs) else k: v for k, v in state.items()}
        return state

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> the vectors of the capsules, ordered by component, [B, 8 I]"""
        maps = self.vgg(images)
        vectors = torch.stack([capsule(maps) for capsule in self.capsules], dim=-1)
        return _squash(at_least_float32(vectors), dim=-1).flatten(1)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        votes = self._route(at_least_float32(features).unflatten(1, (COMPONENTS, CAPSULES)))
        by_component = votes.softmax(dim=1)
        mean = by_component.mean(dim=2)
        logits = mean.log() if self.paper else mean
        losses = None
        if labels is not None:
            each = F.cross_entropy(by_component, labels[:, None].expand(-1, OUT))  # a mean over components too
            losses = {"total": F.nll_loss(logits, labels) if self.paper else OUT * each}
        return Output(logits.softmax(dim=-1)[:, 1].float(), logits, features, losses)

    def _route(self, vectors: Tensor) -> Tensor:
        """Two rounds of routing by agreement, component by component: [B, 8, I] -> [B, O, P]"""
        weights = self.route_weights.to(vectors.dtype)
        if self.training and self.noise:
            weights = weights + self.noise * torch.randn_like(weights)
        votes = (weights * vectors.mT[:, None, :, None]).sum(dim=-1)  # no matrix product: it would lose digits in bf16
        votes = F.dropout(votes, self.dropout, self.training)
        out = _squash(votes.mean(dim=2), dim=-1)
        shares = (votes * out[:, :, None]).softmax(dim=2)
        return _squash((shares * votes).sum(dim=2), dim=-1)


class _Statistics(nn.Module):
    """Mean and deviation of each map: [B, C, h, w] -> [B, 2, C]"""

    def forward(self, maps: Tensor) -> Tensor:
        values = maps.flatten(2)
        return torch.stack([values.mean(dim=2), values.std(dim=2)], dim=1)


def _capsule() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(256, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Conv2d(64, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
        _Statistics(),
        *(nn.Conv1d(2, COMPONENTS, 5, stride=2, padding=2), nn.BatchNorm1d(COMPONENTS)),
        *(nn.Conv1d(COMPONENTS, 1, 3, padding=1), nn.BatchNorm1d(1)),
        nn.Flatten(),
    )


def _squash(x: Tensor, dim: int) -> Tensor:
    """Same direction, length s -> s^2 / (1 + s^2)."""
    square = x.square().sum(dim=dim, keepdim=True)
    return x * square.clamp_min(1e-30).sqrt() / (1 + square)


def _vgg(pretrained: bool | str | None) -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for width in VGG:
        if width == "pool":
            layers.append(nn.MaxPool2d(2))
        else:
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU()]
            before = width
    vgg = nn.Sequential(*layers)
    if pretrained:
        remedy = "set model.pretrained=/path/to/the/file"
        path = pretrained if isinstance(pretrained, str) else fetch("VGG-19", "", (), VGG_URL, remedy)
        state = {key.removeprefix("features."): value for key, value in read_state_dict(path).items()}
        known = vgg.state_dict()
        if missing := [key for key in known if key not in state]:
            raise UserError(f"{path}: expected a VGG-19 in torchvision's naming; features.{missing[0]} is missing")
        load_all(vgg, {key: state[key] for key in known}, str(path))
    return vgg
