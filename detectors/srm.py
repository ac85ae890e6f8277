"""Colours and high-frequency noise side by side, each told what matters in the other (Luo et al., CVPR 2021).

Legend beside the usual: C channels, P positions of a map.
"""

import re
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import Output, check_size
from resproto_fd.detectors.parts.texture import SRM, SRM_DIVISORS
from resproto_fd.detectors.parts.xception import MIDDLE, XCEPTION, stretch
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.timm import TimmClassifier
from resproto_fd.losses.residual import at_least_float32

WITHOUT_EFFECT = re.compile(
    r"backbone_(rgb|srm)\.adjust_channel\..*|backbone_srm\.last_linear\..*|blur\.weight|srm_(conv\d|sa\.srm)\.kernel"
)


@register("srm")
class SRMNet(TimmClassifier):
    """Two Xceptions, of the picture and of its SRM residuals, joined by attention at several depths.

    Args:
        pretrained: See `TimmClassifier`; of both.
        paper: The classifier gives cosines, which the margin wants, and each map is filtered by all three filters. A
            DeepfakeBench checkpoint turns it off: there it gives unbounded logits, and filters are dealt to maps in
            another order.
        size: Side of the images, for which the attention across branches is learnt.
        margin, scale: Of the additive margin softmax (Wang et al. 2018).
        dropout, options: See `TimmClassifier`.
    """

    def __init__(
        self,
        pretrained: bool | str | None = True,
        paper: bool = True,
        size: int = 256,
        margin: Annotated[float, Field(ge=0)] = 0.45,
        scale: Annotated[float, Field(gt=0)] = 30.0,
        dropout: float = 0.0,
        options: dict[str, Any] | None = None,
    ):
        super().__init__(XCEPTION, pretrained, dropout, options)
        self.paper, self.size, self.margin, self.scale = paper, size, margin, scale
        self.noise = TimmClassifier(XCEPTION, pretrained, dropout, options).backbone
        self.srm_sa, self.srm_sa_post = ResidualAttention(), nn.Sequential(nn.BatchNorm2d(64), nn.ReLU())
        self.srm_conv1, self.srm_conv2 = (MapResiduals(width, paper) for width in (32, 64))
        self.dual_cma0, self.dual_cma1 = (CrossAttention(MIDDLE, -(-size // 16)) for _ in range(2))
        self.fusion = Fusion(self.backbone.num_features)
        self.classifier[1] = nn.Linear(self.backbone.num_features, 2, bias=not paper)

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        if self.paper:
            self.paper, self.classifier[1] = False, nn.Linear(self.backbone.num_features, 2)
            for module in (self.srm_conv1, self.srm_conv2):
                module.deal(each_map_all=False)
        state = {key: value for key, value in state.items() if not WITHOUT_EFFECT.fullmatch(key)}
        state = {re.sub(r"^backbone_srm\.", "noise.", key): value for key, value in state.items()}
        state = {re.sub(r"^backbone_rgb\.last_linear\.", "classifier.1.", key): value for key, value in state.items()}
        return {re.sub(r"^backbone_rgb\.", "backbone.", key): value for key, value in state.items()}

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, size, size] -> [B, 2048]

        Raises:
            UserError: Images of another size.
        """
        check_size(images, self.size, "SRM")
        residuals = colour_residuals(images)
        a, b = images, residuals
        for layer, exchange in (("1", self.srm_conv1), ("2", self.srm_conv2)):
            a = stretch(self.backbone, a, f"conv{layer}", f"act{layer}")
            b = F.relu(stretch(self.noise, b, f"conv{layer}", f"act{layer}") + exchange(a))
        a = self.srm_sa_post(a * self.srm_sa(residuals) + a)
        for first, last, exchange in (("block1", "block3", self.dual_cma0), ("block4", "block7", self.dual_cma1)):
            a, b = exchange(stretch(self.backbone, a, first, last), stretch(self.noise, b, first, last))
        a, b = (stretch(backbone, x, "block8", "bn4") for backbone, x in ((self.backbone, a), (self.noise, b)))
        return self.backbone.forward_head(self.fusion(a, b))

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        """See `Detector.head`; logits are scaled cosines, or DeepfakeBench's own."""
        if self.paper:
            features, weights = at_least_float32(features), at_least_float32(self.classifier[1].weight)
            shown = self.classifier[0](features)
            cosines = (F.normalize(shown, dim=1)[:, None] * F.normalize(weights, dim=1)).sum(dim=-1)
            logits, scaled = self.scale * cosines, self.scale * cosines
        else:
            logits = at_least_float32(self.classifier(features))
            scaled = self.scale * logits
        losses = None
        if labels is not None:
            losses = {"total": F.cross_entropy(scaled - self.scale * self.margin * F.one_hot(labels, 2), labels)}
        return Output(logits.softmax(dim=-1)[:, 1].float(), logits, features, losses)


def filters() -> Tensor:
    """The three SRM filters, [3, 5, 5]."""
    return torch.tensor(SRM, dtype=torch.float32) / torch.tensor(SRM_DIVISORS, dtype=torch.float32)[:, None, None]


def colour_residuals(images: Tensor) -> Tensor:
    """Each filter's response, summed over the colours and kept within 3: [B, 3, H, W] alike."""
    kernel = filters().to(images)[:, None].expand(3, images.shape[1], 5, 5)
    return F.conv2d(images, kernel, padding=2).clamp(-3, 3)


class MapResiduals(nn.Module):
    """The filters' responses of each of C maps, joined to C again (multi-scale extraction, section 3.2).

    Args:
        width: C.
        each_map_all: See `deal`.
    """

    def __init__(self, width: int, each_map_all: bool):
        super().__init__()
        self.width = width
        self.deal(each_map_all)
        layers = nn.Conv2d(3 * width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        self.out_conv = nn.Sequential(*layers)

    def deal(self, each_map_all: bool) -> None:
        """Each map gets the three filters, or each filter is laid over C of the 3 C outputs, three of them a map's."""
        kernel = filters().repeat(self.width, 1, 1) if each_map_all else filters().repeat_interleave(self.width, dim=0)
        self.register_buffer("kernel", kernel[:, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.out_conv(F.conv2d(x, self.kernel, padding=2, groups=self.width).clamp(-3, 3))


class ResidualAttention(nn.Module):
    """Where the residuals are telling, in (0, 1): [B, 3, H, W] -> [B, 1, h, w] (section 3.3)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(
            *(nn.Conv2d(3, 32, 3, stride=2, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()),
        )
        self.pa = nn.Module()
        self.pa.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, residuals: Tensor) -> Tensor:
        x = self.conv(colour_residuals(residuals))
        return torch.sigmoid(self.pa.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], dim=1)))


class CrossAttention(nn.Module):
    """Each branch is given the other's values where both agree (dual cross-modality attention, section 3.4).

    Args:
        width: Channels of both.
        side: Of the maps.
    """

    def __init__(self, width: int, side: int):
        super().__init__()
        self.key_conv1, self.key_conv2 = (nn.Conv2d(width, width // 8, 1) for _ in range(2))
        self.key_conv_share = nn.Conv2d(width // 8, width // 8, 1)
        self.linear1, self.linear2 = (nn.Linear(side**2, side**2) for _ in range(2))
        self.value_conv1, self.value_conv2 = (nn.Conv2d(width, width, 1) for _ in range(2))
        self.gamma1, self.gamma2 = (nn.Parameter(torch.zeros(1)) for _ in range(2))

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Two of [B, C, side, side] -> two alike."""
        p = self.key_conv_share(self.key_conv1(a)).flatten(2)
        q = self.key_conv_share(self.key_conv2(b)).flatten(2)
        energy = p.transpose(1, 2) @ q  # [B, P, P]
        to_a = self.linear1(energy).softmax(dim=-1)
        to_b = self.linear2(energy.transpose(1, 2)).softmax(dim=-1)
        from_b = (self.value_conv2(b).flatten(2) @ to_a.transpose(1, 2)).view_as(a)
        from_a = (self.value_conv1(a).flatten(2) @ to_b.transpose(1, 2)).view_as(b)
        return a + self.gamma1 * from_b, b + self.gamma2 * from_a


class Fusion(nn.Module):
    """Both branches in one map of C channels, each weighed: twice [B, C, h, w] -> [B, C, h, w]."""

    def __init__(self, width: int):
        super().__init__()
        self.convblk = nn.Sequential(nn.Conv2d(2 * width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.ca = nn.Module()
        narrow, wide = nn.Conv2d(width, width // 16, 1, bias=False), nn.Conv2d(width // 16, width, 1, bias=False)
        self.ca.sharedMLP = nn.Sequential(narrow, nn.ReLU(), wide)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        x = self.convblk(torch.cat([a, b], dim=1))
        pooled = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        return x * torch.sigmoid(sum(self.ca.sharedMLP(one) for one in pooled))
