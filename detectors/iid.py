"""IID: the identity that a face shows, compared with the identity that a recogniser finds.

Legend: B batch, D = 512, I identities.
"""

import math
import re
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.base import Detector, Output, two_class_output
from resproto_fd.detectors.parts.disentangling import FORGERY as WIDTH
from resproto_fd.detectors.parts.disentangling import Encoder
from resproto_fd.detectors.parts.iresnet import WIDTHS, FaceEmbedding
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import load_pretrained, pretrained_skipped
from resproto_fd.losses.global_batch import gather_rows
from resproto_fd.losses.precision import at_least_float32, without_autocast

IRESNET_50 = (3, 4, 14, 3)
FACE = 112
"""Side of the faces that the recogniser sees."""
SCALE, MARGIN = 64.0, 0.4
"""Scale and margin of the implicit identity loss."""
CLASS_SCALE, CLASS_MARGIN = 8.0, 0.2
"""Scale and margin of the classification loss."""


@register("iid")
class IID(Detector):
    """Classify the difference between Xception's embedding and a face recogniser's (Huang et al., CVPR 2023).

    Xception gives the implicit identity, the recogniser the explicit one. Two further losses act in training. EIC makes
    the two identities agree for a real face and differ for a fake. IIE brings the implicit identities of one person
    together; a fake counts as the person whose face was covered. DeepfakeBench takes the person swapped in.

    DeepfakeBench skips the recogniser's last batch norm if a batch has one picture, so that the score of this picture
    differs from its score in a larger batch. Here the norm is never skipped, and scores equal those of DeepfakeBench's
    larger batches. `batch_coupled` skips it as DeepfakeBench does.

    Args:
        pretrained: See `TimmClassifier`; the weights of Xception.
        identity_weights: File of an ArcFace IResNet-50 in insightface's naming. No library here publishes one. Required
            if `pretrained` is not None.
        identities: I, at least the number of persons in the training data. With 0 there is no IIE and no identities are
            required.
        eic, iie: Weights of the losses.
        train_identity: Train the recogniser too, as DeepfakeBench does; in the paper it is fixed.
        batch_coupled: See above.
        blocks, widths: Numbers of blocks and widths of the recogniser's stages.
        options: See `TimmClassifier`.

    Raises:
        UserError: As `TimmClassifier`; or `identity_weights` are missing or do not fit.
    """

    couples_batch = True
    map_parts = ("encoder", "explicit")

    def __init__(
        self,
        pretrained: bool | str | None = True,
        identity_weights: str | None = None,
        identities: Annotated[int, Field(ge=0)] = 1000,
        eic: Annotated[float, Field(ge=0)] = 0.1,
        iie: Annotated[float, Field(ge=0)] = 0.05,
        train_identity: bool = False,
        batch_coupled: bool = False,
        blocks: Sequence[int] = IRESNET_50,
        widths: Sequence[int] = WIDTHS,
        options: dict[str, Any] | None = None,
    ):
        super().__init__()
        if pretrained and identity_weights is None and not pretrained_skipped():
            raise UserError(
                "iid compares with a face recogniser: set model.identity_weights=/path/to/backbone.pth, an ArcFace "
                "IResNet-50 of insightface's model zoo (or model.pretrained=null for random weights of all)"
            )
        self.eic, self.iie, self.batch_coupled = eic, iie, batch_coupled
        self.requires = frozenset({"target_identity"} if identities else ())
        self.encoder = Encoder(pretrained, options)
        self.explicit = FaceEmbedding(blocks, widths, FACE)
        load_pretrained(self.explicit, identity_weights)
        if not train_identity:
            self.freeze("explicit")
        self.classifier = nn.Linear(WIDTH, 2)
        self.kernel = nn.Parameter(torch.randn(WIDTH, identities) * 0.01) if identities else None

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Detector.from_deepfakebench`; the checkpoint sets the number of identities, unless it is 0 here."""
        found = {}
        for key, value in state.items():
            if key == "IIE_LOSS.kernel":
                if self.kernel is None:
                    continue
                self.kernel = nn.Parameter(torch.empty_like(value))
                key = "kernel"
            key = re.sub(r"^backbone\.(?=adjust_channel)", "encoder.", key)
            key = re.sub(r"^backbone\.last_linear\.", "classifier.", key)
            key = re.sub(r"^backbone\.", "encoder.backbone.", key)
            found[re.sub(r"^explicit_extractor\.", "explicit.", key)] = value
        return found

    def encode(self, images: Tensor) -> Tensor:
        """[B, 2 D]: implicit and explicit identity, neither of unit length."""
        implicit = self.encoder(images).mean(dim=(2, 3))
        faces = F.interpolate(images, (FACE, FACE), mode="bilinear", align_corners=False)
        explicit = self.explicit(faces, normalise=len(images) > 1 or not self.batch_coupled)
        return torch.cat([implicit, explicit], dim=1)

    def head(
        self, features: Tensor, labels: Tensor | None = None, target_identity: Tensor | None = None, **fields: Tensor
    ) -> Output:
        """See `Detector.head`; `target_identity`, the person whose video it is, is an index below I, [B]."""
        implicit, explicit = at_least_float32(features).chunk(2, dim=1)
        output = two_class_output(self.classifier(implicit - explicit), features)
        if labels is None:
            return output
        losses = {"classes": class_loss(output.logits, labels)}
        losses["eic"] = identity_contrast(gather_rows(implicit), gather_rows(explicit), gather_rows(labels))
        losses["total"] = losses["classes"] + self.eic * losses["eic"]
        if target_identity is not None and self.kernel is not None:
            losses["iie"] = identity_loss(implicit, self.kernel, target_identity)
            losses["total"] = losses["total"] + self.iie * losses["iie"]
        output.losses = losses
        return output


def class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of scaled sigmoids of logits [B, 2], with a margin taken off the right one; scalar."""
    shares = logits.sigmoid() - CLASS_MARGIN * F.one_hot(labels, 2).to(logits)
    return F.cross_entropy(CLASS_SCALE * shares, labels)


def identity_contrast(implicit: Tensor, explicit: Tensor, labels: Tensor) -> Tensor:
    """Mean cosine of the two identities [B, D] over fakes minus that over reals; an absent class adds 0."""
    cosines = F.cosine_similarity(implicit, explicit)
    means = [(cosines * (labels == kind)).sum() / (labels == kind).sum().clamp(min=1) for kind in (0, 1)]
    return means[1] - means[0]


def identity_loss(embeddings: Tensor, kernel: Tensor, identity: Tensor) -> Tensor:
    """ArcFace (Deng et al., CVPR 2019): cross-entropy of cosines, with a margin added to the right angle; scalar.

    Args:
        embeddings: [B, D].
        kernel: A centre for each identity, [D, I].
        identity: [B].
    """
    with without_autocast(embeddings):
        cosines = F.normalize(embeddings, dim=1) @ F.normalize(at_least_float32(kernel), dim=0)
    own = cosines.gather(1, identity[:, None]).clamp(-1 + 1e-7, 1 - 1e-7)
    grown = own * math.cos(MARGIN) - (1 - own.square()).sqrt() * math.sin(MARGIN)
    # Beyond pi the angle cannot grow: there the cosine falls by as much as at the edge.
    beyond = own - math.sin(math.pi - MARGIN) * MARGIN
    grown = torch.where(own > math.cos(math.pi - MARGIN), grown, beyond)
    return F.cross_entropy(SCALE * cosines.scatter(1, identity[:, None], grown), identity)
