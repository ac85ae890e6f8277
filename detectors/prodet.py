"""ProDet: real faces, blended faces and deepfakes as steps of one way, each of which adds a kind of forgery.

Source: Cheng et al., "Can We Leave Deepfake Data Behind in Training Deepfake Detector?", NeurIPS 2024, and its authors'
code.

Legend: B batch, N images, W width of the maps, G their side.
"""

import re
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import Beta
from torch.nn import functional as F

from resproto_fd.configs.errors import WrongInput
from resproto_fd.detectors.base import Output
from resproto_fd.detectors.parts.deepfakebench_names import efficientnet
from resproto_fd.detectors.parts.efficientnet_b4 import EfficientNetB4
from resproto_fd.detectors.registry import register
from resproto_fd.losses.precision import at_least_float32

STEPS = 3
"""Steps from a real face to a deepfake: a blended boundary, another identity, traces of a generator."""
CLASSIFIER_WIDTH = 256
CONCENTRATION = (0.5, 2.0)
"""Range of the parameter of the Beta distribution of a bridge's share, as in the authors' code."""
_AUTHORS = (
    (r"backbone\.efficientnet\.", "backbone.efficientnet."),
    (r"adjust_feature\.", "reduce."),
    (r"blend_classifier\.(2|4)\.", "attributes.0.{0}."),
    (r"ID_inconsistency_classifier\.(2|4)\.", "attributes.1.{0}."),
    (r"deepfake_classifier\.(2|4)\.", "attributes.2.{0}."),
    (r"final_classifier\.(2|4)\.", "classifier.{0}."),
    (r"fea_att\.inverse_conv2\.(0|2|4)\.", "attention.spread.0.{1}."),
    (r"fea_att\.inverse_conv3\.(0|2|4)\.", "attention.spread.1.{1}."),
    (r"fea_att\.inverse_conv1\.(0|2|4)\.", "attention.spread.2.{1}."),
    (r"fea_att\.attention\.", "attention.weigh."),
    (r"real2sbi\.", "transitions.0."),
    (r"sbi2bi\.", "transitions.1."),
    (r"bi2fake\.", "transitions.2."),
)
"""Names of the authors' checkpoints and ours; {0} is the layer's number less 2, {1} the number itself."""
_ONLY_TRAINED = ("real2sbi.", "sbi2bi.", "bi2fake.")


class Attention(nn.Module):
    """Weighs maps by what the classifiers of the attributes say: [N, W, G, G] and STEPS logits [N, 2] -> [N, W, G, G]

    Args:
        width, side: W and G.
    """

    def __init__(self, width: int, side: int):
        super().__init__()
        self.spread = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2, CLASSIFIER_WIDTH),
                nn.LeakyReLU(),
                nn.Linear(CLASSIFIER_WIDTH, width),
                nn.Unflatten(1, (width, 1, 1)),
                nn.ConvTranspose2d(width, width, side),
            )
            for _ in range(STEPS)
        )
        self.weigh = nn.Sequential(
            nn.Conv2d((STEPS + 1) * width, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, maps: Tensor, logits: list[Tensor]) -> Tensor:
        blended, other, made = (spread(each) for spread, each in zip(self.spread, logits, strict=True))
        return maps * self.weigh(torch.cat([made, blended, other, maps], dim=1))


class Transition(nn.Module):
    """Makes the maps of the next step from those of one step and noise: [B, W, G, G] -> [B, W, G, G]"""

    def __init__(self, width: int):
        super().__init__()
        self.noise_process = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU()
        )
        self.concat_process = nn.Sequential(
            nn.Conv2d(2 * width, width, 1), nn.LeakyReLU(), nn.Conv2d(width, width, 3, padding=1), nn.LeakyReLU()
        )

    def forward(self, maps: Tensor) -> Tensor:
        return self.concat_process(torch.cat([maps, self.noise_process(torch.randn_like(maps))], dim=1))


@register("prodet")
class ProDet(EfficientNetB4):
    """Arrange real faces, two kinds of blended faces and deepfakes in steps (Cheng et al., NeurIPS 2024).

    A real face, a self-blended one, one blended with another person and a deepfake are steps; each has one attribute
    more than the one before. Three classifiers learn the attributes; what they say weighs the maps that are scored.
    Bridges, which are mixed from the maps of neighbouring steps, have the mixed attributes. Networks learn to make the
    maps of a step from those of the step before (transition loss).

    Args:
        blends: Require partners and forgeries of real frames; without, the labels alone train the score.
        transition: Weight of the transition loss.
        width: W.
        side: G, a 32nd of the side of the images.
        timm: `pretrained`, `dropout` and `options`, see `EfficientNetB4`.
    """

    def __init__(
        self,
        blends: bool = True,
        transition: Annotated[float, Field(ge=0)] = 1.0,
        width: Annotated[int, Field(gt=0)] = 512,
        side: Annotated[int, Field(gt=0)] = 8,
        **timm,
    ):
        super().__init__(**timm)
        self.reduce = nn.Conv2d(self.backbone.num_features, width, 1)
        self.attributes = nn.ModuleList(_classifier(width) for _ in range(STEPS))
        self.attention, self.classifier = Attention(width, side), _classifier(width)
        self.transitions = nn.ModuleList(Transition(width) for _ in range(STEPS)) if blends and transition else None
        self.transition, self.side = transition, side
        self.requires = frozenset({"partner", "self_blended", "cross_blended"} if blends else ())

    def from_authors(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """See `Detector.from_authors`; EfficientNet's own classifier, which is not used, is left out."""
        if not any(key.startswith("fea_att.") for key in state):
            return None
        found = {}
        for key, value in state.items():
            if key.startswith("backbone.last_layer.") or (key.startswith(_ONLY_TRAINED) and self.transitions is None):
                continue
            for theirs, ours in _AUTHORS:
                if match := re.match(theirs, key):
                    layer = match[1] if match.groups() else "0"
                    key = ours.format(int(layer) - 2, layer) + key[match.end() :]
                    break
            found[efficientnet(key)] = value
        return found

    def encode(self, images: Tensor) -> Tensor:
        """[B, W]: the mean of the weighed maps."""
        return self._read(self._maps(images))[0]

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        partner: Tensor | None = None,
        self_blended: Tensor | None = None,
        cross_blended: Tensor | None = None,
        **fields: Tensor,
    ) -> Output:
        """See `Detector.forward`.

        Args:
            images: [B, 3, H, W]
            labels: [B]
            partner: A frame of the other class for each, [B, 3, H, W].
            self_blended, cross_blended: Forgeries of the real one of the two, [B, 3, H, W].
        """
        if labels is None or partner is None or self_blended is None or cross_blended is None:
            return super().forward(images, labels)
        fake = labels[:, None, None, None] == 1
        real, made = torch.where(fake, partner, images), torch.where(fake, images, partner)
        maps = self._maps(torch.cat([real, self_blended, cross_blended, made]))
        bridges, shares = self._bridges(maps)
        steps = torch.arange(STEPS + 1, device=shares.device, dtype=shares.dtype).repeat_interleave(len(labels))
        reached = torch.cat([steps, steps[: len(shares)] + shares])
        features, attributes = self._read(torch.cat([maps, bridges]))
        output = self.head(features)
        losses = {"score": _soft_cross_entropy(output.logits, reached)}
        for number, name in enumerate(("blended", "identity", "deepfake")):
            losses[name] = _soft_cross_entropy(attributes[number], reached - number)
        total = sum(losses.values())
        if self.transitions is not None:
            found = at_least_float32(maps).chunk(STEPS + 1)
            apart = [F.mse_loss(at_least_float32(go(found[i])), found[i + 1]) for i, go in enumerate(self.transitions)]
            losses["transition"] = sum(apart)
            total = total + self.transition * losses["transition"]
        given = torch.arange(len(labels), device=labels.device) + STEPS * len(labels) * labels
        parts = (part[given] for part in (output.scores, output.logits, output.features))
        return Output(*parts, {"total": total, **losses})

    def _maps(self, images: Tensor) -> Tensor:
        maps = self.reduce(self.backbone.forward_features(images))
        if maps.shape[-2:] != (self.side, self.side):
            raise WrongInput(
                f"prodet: expected maps of {self.side} x {self.side}, got {tuple(maps.shape[-2:])}; set "
                f"model.side={maps.shape[-1]}, or input.size={32 * self.side}"
            )
        return maps

    def _read(self, maps: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Mean of the weighed maps, [N, W], and logits of the attributes, [N, 2] each."""
        pooled = maps.mean(dim=(2, 3))
        logits = [classifier(pooled) for classifier in self.attributes]
        return self.attention(maps, logits).mean(dim=(2, 3)), logits

    def _bridges(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Mix the maps [4 B, W, G, G] of neighbouring steps: [3 B, W, G, G], and shares of the later steps, [3 B]."""
        count = len(maps) // (STEPS + 1)
        before, after = maps[:-count], maps[count:]
        low, high = CONCENTRATION
        concentration = low + (high - low) * torch.rand(len(before), device=maps.device)
        shares = Beta(concentration, concentration, validate_args=False).sample()
        return torch.lerp(before, after, shares.to(maps.dtype)[:, None, None, None]), shares


def _classifier(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, CLASSIFIER_WIDTH), nn.LeakyReLU(), nn.Linear(CLASSIFIER_WIDTH, 2))


def _soft_cross_entropy(logits: Tensor, reached: Tensor) -> Tensor:
    """Cross-entropy of an attribute that is present from 1 on, in part from 0 on.

    Args:
        logits: Of absence and presence, [N, 2].
        reached: How far the step of the attribute is gone, [N].
    """
    logits, share = at_least_float32(logits), reached.clamp(0, 1)
    share = share.to(logits.dtype)
    return F.cross_entropy(logits, torch.stack([1 - share, share], dim=1))
