"""LSDA: a student taught by one teacher for each forgery method, whose features are augmented.

Legend: B batch, M forgery methods, h and w places of the last map.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.base import Detector, Output, onto, two_class_output
from resproto_fd.detectors.parts import deepfakebench_names
from resproto_fd.detectors.parts.disentangling import METHODS
from resproto_fd.detectors.parts.efficientnet_b4 import EfficientNetB4
from resproto_fd.detectors.parts.iresnet import WIDTHS, IResNet
from resproto_fd.detectors.parts.latent_augmentation import across_methods, within_method
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import load_all, pretrained_skipped, read_state_dict
from resproto_fd.losses.precision import at_least_float32

IRESNET_100 = (3, 13, 30, 3)
WIDTH = 512
TEACHING = ("encoders_f.", "encoder_c.", "fc_weights.", "mlp.")


@register("lsda")
class LSDA(Detector):
    """Teach an EfficientNet augmented features of several forgery methods (Yan et al., CVPR 2024).

    Each forgery method has a teacher that sees only forgeries of this method. The teacher's features are augmented
    within the method and mixed with those of other methods; the student learns the result. For real faces the student
    learns the features of a face recogniser. A classifier of all methods keeps the teachers' features apart.
    Augmentation and mixing stay within a micro-batch. Only the student is scored.

    DeepfakeBench has one more loss, which pulls real features away from two methods and towards two others. It has no
    lower bound and is not in the paper, so it is left out. The loss on the teachers is left out too if the batch does
    not name the methods.

    Args:
        pretrained: See `TimmClassifier`; the weights of student and teachers.
        real_weights: File of an ArcFace IResNet-100 in insightface's naming (its embedding is not used). No library
            here publishes one. "random": random weights, as in DeepfakeBench. Required if there are teachers and
            `pretrained` is not None.
        teachers: Build the teachers, and require methods.
        methods: The methods of the training data, "real" first.
        binary, domain, distillation: Weights of the losses of labels, methods and teachers.
        train_real: Train the face recogniser except its first three stages, as DeepfakeBench does; in the paper the
            recogniser is fixed.
        channel_maps: See `latent_augmentation.within_method`.
        blocks, widths: Numbers of blocks and widths of the recogniser's stages; the last width is 512.
        options: See `TimmClassifier`.

    Raises:
        UserError: As `TimmClassifier`; "real" is not the first method; `real_weights` are missing or do not fit.
    """

    keywords_from_data = {"methods": "train_methods"}

    def __init__(
        self,
        pretrained: bool | str | None = True,
        real_weights: str | None = None,
        teachers: bool = True,
        methods: Sequence[str] = METHODS,
        binary: Annotated[float, Field(ge=0)] = 0.5,
        domain: Annotated[float, Field(ge=0)] = 1.0,
        distillation: Annotated[float, Field(ge=0)] = 1.0,
        train_real: bool = False,
        channel_maps: bool = False,
        blocks: Sequence[int] = IRESNET_100,
        widths: Sequence[int] = WIDTHS,
        options: dict[str, Any] | None = None,
    ):
        super().__init__()
        if not methods or methods[0] != "real" or len(methods) < 2:
            given = ", ".join(methods) or "none"
            raise UserError(f"lsda: expected model.methods to be 'real', then forgery methods, got {given}")
        if teachers and pretrained and real_weights is None and not pretrained_skipped():
            raise UserError(
                "lsda learns real faces from a face recogniser: set model.real_weights=/path/to/backbone.pth, an "
                "ArcFace IResNet-100 of insightface's model zoo (or model.real_weights=random, or "
                "model.pretrained=null for random weights of all)"
            )
        self.weights = {"binary": binary, "domain": domain, "distillation": distillation}
        self.teachers, self.channel_maps = teachers, channel_maps
        self.requires = self.on_host = frozenset({"method"} if teachers else ())
        self.vocabulary = {"method": list(methods)}
        self.student_encoder = _Encoder(pretrained, options)
        self.binary_classifier = _classifier(WIDTH, 2)
        if teachers:
            self.encoders_f = nn.ModuleList(_Encoder(pretrained, options) for _ in methods[1:])
            self.encoder_c = IResNet(blocks, widths)
            if real_weights not in (None, "random") and not pretrained_skipped():
                state = read_state_dict(real_weights)
                state = {key: value for key, value in state.items() if not key.startswith(("fc.", "features."))}
                load_all(self.encoder_c, state, real_weights)
            if train_real:
                for layer in (self.encoder_c.layer1, self.encoder_c.layer2, self.encoder_c.layer3):
                    layer.requires_grad_(False)
            else:
                self.freeze("encoder_c")
            self.fc_weights = _fusion()
            self.mlp = _classifier(WIDTH // 2, len(methods))

    def from_deepfakebench(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """See `Detector.from_deepfakebench`; unused embeddings and ImageNet classifiers are left out.

        The teachers are left out too if this detector has none.
        """
        found = {}
        for key, value in state.items():
            key = key.removeprefix("model.")
            if re.match(r"(student_encoder|encoders_f\.\d)\.model\._fc\.|encoder_c\.(fc|features)\.", key):
                continue
            if not self.teachers and key.startswith(TEACHING):
                continue
            if match := re.match(r"(student_encoder|encoders_f\.\d)\.model\.(.*)", key):
                key = deepfakebench_names.efficientnet(f"backbone.efficientnet.{match[2]}")
                key = key.replace("backbone.", f"{match[1]}.model.", 1)
            # Theirs begin with pooling.
            key = re.sub(r"^(mlp|binary_classifier)\.([24])\.", lambda m: f"{m[1]}.{int(m[2]) - 2}.", key)
            found[key] = value
        return found

    def encode(self, images: Tensor) -> Tensor:
        return self.student_encoder(images).mean(dim=(2, 3))

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        return two_class_output(self.binary_classifier(features), features, labels)

    def forward(
        self, images: Tensor, labels: Tensor | None = None, method: Tensor | None = None, **fields: Tensor
    ) -> Output:
        """See `Detector.forward`; with methods [B], indices into the vocabulary, also the losses of the teachers."""
        maps = self.student_encoder(images)
        output = self.head(maps.mean(dim=(2, 3)), labels)
        if not self.teachers or labels is None or method is None:
            return output
        losses = {"binary": output.losses["total"], **self._teaching(images, maps, method)}
        total = sum(weight * losses[name] for name, weight in self.weights.items())
        # Includes teachers without images in the batch: data parallelism needs a gradient of every parameter.
        teachers = [*self.encoders_f.parameters(), *self.encoder_c.parameters()]
        losses["total"] = total + 0.0 * sum(p.sum() for p in teachers if p.requires_grad)
        output.losses = losses
        return output

    def _teaching(self, images: Tensor, maps: Tensor, method: Tensor) -> dict[str, Tensor]:
        """Losses "domain" and "distillation" of the student's maps [B, 512, h, w]; an absent method adds 0."""
        forged, features, varied = [], [maps[:0]], [maps[:0]]
        for kind, encoder in enumerate(self.encoders_f, start=1):
            here = onto((method == kind).nonzero()[:, 0], maps)
            if len(here):
                features.append(encoder(images[here]))
                varied.append(within_method(features[-1], self.channel_maps))
            forged.append(here)
        forged, features, varied = torch.cat(forged), torch.cat(features), torch.cat(varied)
        real = onto((method == 0).nonzero()[:, 0], maps)
        method = onto(method, maps)
        given = self.recognise(images[real]) if len(real) else maps[:0]

        seen, wanted = torch.cat([given, features]).mean(dim=(2, 3)), torch.cat([method[real], method[forged]])
        taught = self.fc_weights(torch.cat([varied, across_methods(features, method[forged])], dim=1))
        return {
            "domain": F.cross_entropy(at_least_float32(self.mlp(seen)), wanted),
            "distillation": _apart(maps[real], given) + _apart(maps[forged], taught),
        }

    def recognise(self, images: Tensor) -> Tensor:
        """The recogniser's features of real faces, [B, 3, H, W] -> [B, 512, H / 32, W / 32]."""
        return F.avg_pool2d(self.encoder_c(images), 2)


class _Encoder(nn.Module):
    """EfficientNet-B4 with a padded stem, and a convolution: images to maps [B, 512, H / 32, W / 32]."""

    def __init__(self, pretrained: bool | str | None, options: dict[str, Any] | None):
        super().__init__()
        self.model = EfficientNetB4(pretrained=pretrained, options=options).backbone
        self.conv = nn.Conv2d(self.model.num_features, WIDTH, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(self.model.forward_features(F.pad(images, (0, 1, 0, 1))))


def _classifier(hidden: int, count: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(WIDTH, hidden), nn.LeakyReLU(), nn.Linear(hidden, count))


def _fusion() -> nn.Sequential:
    """Network that joins two kinds of augmented features to what the student learns."""
    return nn.Sequential(
        nn.Conv2d(2 * WIDTH, WIDTH, 1),
        nn.LeakyReLU(),
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        nn.LeakyReLU(),
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
        nn.LeakyReLU(),
    )


def _apart(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared difference; 0 if there is no entry."""
    return (at_least_float32(found) - at_least_float32(wanted)).square().sum() / max(found.numel(), 1)
