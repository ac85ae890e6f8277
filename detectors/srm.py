"""SRM: colours and high-frequency noise in two streams that attend to each other.

Legend: B batch, C channels, P positions of a map.
"""

import re
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.detectors.base import Output, check_size
from resproto_fd.detectors.parts.residual_streams import (
    CrossAttention,
    Fusion,
    MapResiduals,
    ResidualAttention,
    colour_residuals,
)
from resproto_fd.detectors.parts.timm_classifier import TimmClassifier
from resproto_fd.detectors.parts.xception import MIDDLE, XCEPTION, stretch
from resproto_fd.detectors.registry import register
from resproto_fd.losses.precision import at_least_float32

WITHOUT_EFFECT = re.compile(
    r"backbone_(rgb|srm)\.adjust_channel\..*|backbone_srm\.last_linear\..*|blur\.weight|srm_(conv\d|sa\.srm)\.kernel"
)


@register("srm")
class SRMNet(TimmClassifier):
    """Join two Xceptions, of a picture and of its SRM residuals, by attention (Luo et al., CVPR 2021).

    Args:
        paper: The classifier gives cosines, as the margin requires, and all three filters are applied to each map. A
            DeepfakeBench checkpoint sets it to False: the classifier then gives unbounded logits, and the filters are
            assigned to maps in another order.
        size: Side of the images; the attention between the networks depends on it.
        margin, scale: Parameters of the additive margin softmax (Wang et al., 2018).
        timm: `pretrained` (the weights of both networks), `dropout` and `options`, see `TimmClassifier`.
    """

    def __init__(
        self,
        paper: bool = True,
        size: int = 256,
        margin: Annotated[float, Field(ge=0)] = 0.45,
        scale: Annotated[float, Field(gt=0)] = 30.0,
        **timm,
    ):
        super().__init__(XCEPTION, **timm)
        self.paper, self.size, self.margin, self.scale = paper, size, margin, scale
        self.noise = TimmClassifier(XCEPTION, **timm).backbone
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
            UserError: The images have another size.
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
        """See `Detector.head`; logits are scaled cosines, or DeepfakeBench's logits."""
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
