"""A linear probe of frozen CLIP: a control, and the method UnivFD."""

import torch
from torch import Tensor, nn

from resproto_fd.detectors.parts.clip_detector import ClipDetector
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import is_head_alone, two_outputs


@register("clip_probe")
class ClipProbe(ClipDetector):
    """Train a linear classifier on frozen CLIP's embedding, as UnivFD does (Ojha et al., CVPR 2023).

    Args:
        clip: `backbone`, `pretrained` and `quick_gelu`, see `ClipDetector`.
    """

    fixed_encoder = ("clip",)

    def __init__(self, **clip):
        super().__init__(**clip)
        self.clip.drop_text()
        self.freeze("clip")
        self.classifier = nn.Linear(self.clip.embed_dim, 2)

    def from_authors(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """See `Detector.from_authors`; UnivFD's layer `fc` alone, under which CLIP stays as it is, or with its CLIP."""
        if is_head_alone(state):
            found = {key: value for key, value in self.state_dict().items() if key.startswith("clip.")}
        elif "fc.weight" in state and "model.visual.class_embedding" in state:
            tower = {key.removeprefix("model."): v for key, v in state.items() if key.startswith("model.visual.")}
            found = {f"clip.{key}": value for key, value in tower.items()}
            found |= {"clip.quick_gelu": torch.tensor(True), "clip.logit_scale": self.clip.logit_scale.data}
        else:
            return None
        head = {key: value for key, value in state.items() if not key.startswith("model.")}
        return found | {f"classifier.{key.removeprefix('fc.')}": two_outputs(value) for key, value in head.items()}
