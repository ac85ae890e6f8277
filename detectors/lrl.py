"""LRL: the similarity of a face's patches, in pixels and in high frequencies.

Legend: B batch, C channels, S side of the images, P = 16 patches of the last map.
"""

import re
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.schema import Normalisation
from resproto_fd.detectors.base import Detector, Output, check_size
from resproto_fd.detectors.parts import deepfakebench_names
from resproto_fd.detectors.parts.efficientnet_b4 import EfficientNetB4, stages
from resproto_fd.detectors.parts.spectrum import band, dct_matrix
from resproto_fd.detectors.parts.texture import GreyLevels
from resproto_fd.detectors.registry import register
from resproto_fd.losses.precision import at_least_float32, without_autocast

PARTS = ((0, 3, 56), (3, 5, 160), (5, None, 1792))
"""Stages of EfficientNet-B4 before each fusion, and their channels."""
GRID, CUT = 4, 0.33
"""Patches a side; lowest frequency (row + column, divided by the side) that the second input keeps."""
WIDTHS = (256, 256, 128, 64)
"""Widths of the decoder."""


@register("lrl")
class LRL(Detector):
    """Classify the similarities between patches of a face, from pixels and high frequencies (Chen et al., AAAI 2021).

    Two EfficientNets, one of the picture and one of its high frequencies, weight each other's maps at three depths.

    Args:
        pretrained: See `EfficientNetB4`.
        size: Side of the images.
        normalisation: Name of the images' normalisation (`input.mean`); frequencies are taken of whole grey levels.
        similarity: Weight of the mean squared error of the patches' similarity, if the batch has masks.
        segmentation: Weight of the cross-entropy of a decoded mask, if the batch has masks; 0 builds no decoder.
        dropout: Dropout within the classifier.
        drop_path: Share of the last block's residual branches that training drops.
    """

    map_parts = ("rgb", "frequency")

    def __init__(
        self,
        pretrained: bool | str | None = True,
        size: int = 256,
        normalisation: Normalisation = "half",
        similarity: Annotated[float, Field(ge=0)] = 1.0,
        segmentation: Annotated[float, Field(ge=0)] = 1.0,
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2,
        drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    ):
        super().__init__()
        self.size, self.weights = size, {"similarity": similarity, "segmentation": segmentation}
        self.requires = frozenset({"mask"} if similarity or segmentation else ())
        options = {"drop_path_rate": drop_path}
        self.rgb = EfficientNetB4(pretrained=pretrained, options=options).backbone
        self.frequency = EfficientNetB4(pretrained=pretrained, options={**options, "in_chans": 1}).backbone
        self.fusions = nn.ModuleList(_fusion(channels) for _, _, channels in PARTS)
        pairs = (GRID**2) * (GRID**2 - 1)
        self.classifier = nn.Sequential(nn.Linear(pairs, 128), nn.ReLU(), nn.Dropout(dropout), nn.Linear(128, 2))
        self.decoder = _decoder(sum(channels for _, _, channels in PARTS)) if segmentation else None
        self.grey_levels = GreyLevels(normalisation)
        self.register_buffer("dct", dct_matrix(size), persistent=False)
        self.register_buffer("kept", band(size, CUT * size, 2 * size), persistent=False)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Detector.from_deepfakebench`; the decoder's tensors are left out if this detector has no decoder."""
        found = {_ours(key): value for key, value in state.items() if not re.match(r"encoder_\w+\.last_layer\.", key)}
        return {key: value for key, value in found.items() if self.decoder is not None or key[:8] != "decoder."}

    def checkpoint_activations(self) -> None:
        self.rgb.set_grad_checkpointing(True)
        self.frequency.set_grad_checkpointing(True)

    def high_frequencies(self, images: Tensor) -> Tensor:
        """The grey picture without its low frequencies, in the same scale, [B, 1, S, S]."""
        with torch.no_grad(), without_autocast(images):
            grey = self.grey_levels(at_least_float32(images))
            dct = self.dct.to(grey.dtype)
            high = dct.mT @ (self.kept * (dct @ grey @ dct.mT)) @ dct
            return (high[:, None] / 127.5 - 1).to(images.dtype)

    def encode(self, images: Tensor, frequencies: Tensor | None = None) -> Tensor:
        """Similarity of each patch to each other patch, in [0, 1], row by row, [B, P (P - 1)].

        Args:
            images: [B, 3, S, S].
            frequencies: Input of the second network, [B, 1, S, S]; computed from the images if not given.
        """
        return _others(likeness(self._maps(images, frequencies)))

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
        frequencies: Tensor | None = None,
        **fields: Tensor,
    ) -> Output:
        """See `Detector.forward` and `encode`; with masks, [B, 1, S, S], 1 where forged, all three losses."""
        maps = self._maps(images, frequencies)
        alike = likeness(maps)
        output = self.head(_others(alike), labels)
        if labels is not None and mask is not None:
            terms = {"similarity": F.mse_loss(alike, mask_likeness(mask, alike.dtype))}
            if self.decoder is not None:
                found = at_least_float32(self.decoder(maps))
                wanted = F.adaptive_avg_pool2d(mask.to(found.dtype), found.shape[-2:])
                terms["segmentation"] = F.binary_cross_entropy_with_logits(found, wanted)
            entropy = output.losses["total"]
            total = entropy + sum(self.weights[name] * term for name, term in terms.items())
            output.losses = {"total": total, "cross_entropy": entropy, **terms}
        return output

    def predicted_map(self, images: Tensor) -> Tensor | None:
        """See `Detector.predicted_map`; the decoded mask."""
        return None if self.decoder is None else self.decoder(self._maps(images, None)).sigmoid()[:, 0]

    def _maps(self, images: Tensor, frequencies: Tensor | None) -> Tensor:
        """Maps of all three levels, in the size of the last one rounded to a multiple of the grid: [B, C, h, w]"""
        check_size(images, self.size, "LRL")
        x, y = images, self.high_frequencies(images) if frequencies is None else frequencies
        levels = []
        for (start, stop, _), fusion in zip(PARTS, self.fusions, strict=True):
            x, y = (_part(network, z, start, stop) for network, z in ((self.rgb, x), (self.frequency, y)))
            weights = fusion(torch.cat([x, y], dim=1)).sigmoid()
            x, y = x * weights[:, :1], y * weights[:, 1:]
            levels.append(x + y)
        side = max(GRID, x.shape[-1] // GRID * GRID)
        return torch.cat([F.interpolate(level, (side, side), mode="nearest") for level in levels], dim=1)


def likeness(maps: Tensor) -> Tensor:
    """(1 + cosine) / 2 of each pair of patches: [B, C, h, w] -> [B, P, P]"""
    patches = maps.unflatten(3, (GRID, -1)).unflatten(2, (GRID, -1)).permute(0, 2, 4, 1, 3, 5)
    vectors = F.normalize(at_least_float32(patches.flatten(3).flatten(1, 2)), dim=-1)
    with without_autocast(vectors):
        return (vectors @ vectors.mT + 1) / 2


def mask_likeness(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """1 - the difference of the forged shares of each pair of patches: [B, 1, S, S] -> [B, P, P]"""
    shares = F.adaptive_avg_pool2d(mask.to(dtype), GRID).flatten(1)
    return 1 - (shares[:, :, None] - shares[:, None]).abs()


def _others(alike: Tensor) -> Tensor:
    """All but the diagonal, row by row: [B, P, P] -> [B, P (P - 1)]"""
    count = alike.shape[-1]
    return alike.flatten(1)[:, :-1].unflatten(1, (count - 1, count + 1))[..., 1:].flatten(1)


def _part(network: nn.Module, x: Tensor, start: int, stop: int | None) -> Tensor:
    x = x if start else network.bn1(network.conv_stem(x))
    x = stages(network, x, start, stop)
    return x if stop else network.bn2(network.conv_head(x))


def _fusion(channels: int) -> nn.Sequential:
    """Network that weights two maps at each place (RFAM); logits: [B, 2 C, h, w] -> [B, 2, h, w]"""
    first = nn.Conv2d(2 * channels, channels, 1)
    return nn.Sequential(first, nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, 2, 3, padding=1))


def _decoder(before: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for after in WIDTHS:
        layers.append(nn.Upsample(scale_factor=2))
        for width in (before, after):
            layers += [nn.Conv2d(width, after, 3, padding=1), nn.InstanceNorm2d(after), nn.ReLU()]
        before = after
    widened = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
    return nn.Sequential(*layers, widened, nn.Conv2d(before, 1, 1, bias=False))


def _ours(key: str) -> str:
    """Our name of a tensor of DeepfakeBench's.

    >>> _ours("decoder.decoder_stages.3.layer.1.bias"), _ours("rfam2.attention.0.bias"), _ours("final.weight")
    ('decoder.1.bias', 'fusions.1.0.bias', 'decoder.29.weight')
    """
    for theirs, ours in (("encoder_rgb.", "rgb."), ("encoder_idct.", "frequency.")):
        if key.startswith(theirs):
            named = deepfakebench_names.efficientnet("backbone." + key.removeprefix(theirs))
            return ours + named.removeprefix("backbone.")
    per_stage = 7
    key = re.sub(r"^rfam(\d)\.attention\.", lambda m: f"fusions.{int(m[1]) - 1}.", key)
    key = re.sub(r"^overall_classifier\.", "classifier.", key)
    key = re.sub(r"^final\.", f"decoder.{per_stage * len(WIDTHS) + 1}.", key)
    key = re.sub(r"^decoder\.decoder_stages\.(\d)\.layer\.1\.", lambda m: f"decoder.{7 * (3 - int(m[1])) + 1}.", key)
    return re.sub(r"^decoder\.bottlenecks\.(\d)\.seq\.0\.", lambda m: f"decoder.{7 * int(m[1]) + 4}.", key)
