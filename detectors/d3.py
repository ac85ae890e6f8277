"""D3: what frozen CLIP sees in a picture, beside what it sees in the same picture with shuffled patches.

Source: Yang et al., "D^3: Scaling Up Deepfake Detection by Learning from Discrepancy", CVPR 2025; its authors' code.

Legend: B batch, D width of CLIP's image tower, G patches along a picture's side, S side of a patch; H and W pixels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import Positive
from resproto_fd.detectors.parts.clip_detector import ClipDetector
from resproto_fd.detectors.parts.clip_tower import Backbone
from resproto_fd.detectors.registry import register
from resproto_fd.detectors.weights import is_head_alone, two_outputs

INITIAL = 0.02
"""Standard deviation of the normal distribution from which the authors draw all weights that train."""


def shuffle_patches(images: Tensor, order: Tensor, side: int) -> Tensor:
    """Move the patches of images [B, 3, H, W] to other places.

    Args:
        images: H and W are multiples of S.
        order: For each place, in reading order, the patch that comes to it, [G * G].
        side: S.
    """
    patches = F.unfold(images, side, stride=side)[:, :, order]
    return F.fold(patches, images.shape[-2:], side, stride=side)


class Discrepancy(nn.Module):
    """Attention between the two features of a picture.

    The weights are normalised over the queries, as in the authors' code, not over the keys as is usual.
    """

    def __init__(self, width: int):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))

    def forward(self, both: Tensor) -> Tensor:
        """[B, 2, D] -> [B, 2 D]"""
        scores = self.query(both) @ self.key(both).mT * both.shape[-1] ** -0.5
        return (scores.softmax(dim=1) @ self.value(both)).flatten(1)


@register("d3")
class D3(ClipDetector):
    """Attend between frozen CLIP's features of a picture and of its shuffled patches (Yang et al., CVPR 2025).

    The features are the class token after the last layer norm. The attention and a linear classifier train. All
    pictures of a training step are shuffled alike, in a new order each step, which torch's seed decides. In testing the
    order is always the same: it is drawn once, with the seed 0, and kept with the weights.

    Args:
        backbone: See `clip_tower.Backbone`; a ViT of open_clip.
        patch: S; it divides the side of CLIP's pictures.
        reshuffle: Draw a new order in each training step; otherwise that of testing is used.
        clip: `pretrained` and `quick_gelu`, see `ClipDetector`.

    Raises:
        UserError: As `ClipDetector`; or the backbone is not a ViT of open_clip, or `patch` does not divide the side.
    """

    map_parts = None

    def __init__(self, backbone: Backbone = "ViT-L-14", patch: Positive = 14, reshuffle: bool = True, **clip):
        super().__init__(backbone, **clip)
        self.clip.drop_text()
        visual = self.clip.require_vit("d3")
        size = visual.image_size[0]
        if size % patch:
            raise UserError(f"d3: expected a side of patches that divides {size}, got {patch}; set model.patch")
        visual.proj = None
        self.freeze("clip")
        width = visual.class_embedding.numel()
        self.attention, self.classifier = Discrepancy(width), nn.Linear(2 * width, 2)
        for parameter in (*self.attention.parameters(), *self.classifier.parameters()):
            nn.init.normal_(parameter, std=INITIAL)
        self.patch, self.reshuffle = patch, reshuffle
        places = (size // patch) ** 2
        self.register_buffer("order", torch.randperm(places, generator=torch.Generator().manual_seed(0), device="cpu"))

    def from_authors(self, state: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """See `Detector.from_authors`; the trained part alone, as they publish it. CLIP stays as it is."""
        if not is_head_alone(state) or "query.weight" not in state:
            return None
        found = {key: value for key, value in self.state_dict().items() if key.startswith("clip.") or key == "order"}
        for key, value in state.items():
            layer, _, kind = key.partition(".")
            found |= {f"classifier.{kind}": two_outputs(value)} if layer == "fc" else {f"attention.{key}": value}
        return found

    def encode(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 2 D]"""
        order = self.order
        if self.training and self.reshuffle:
            order = torch.randperm(len(order), device=order.device)
        both = self.clip(torch.cat([shuffle_patches(images, order, self.patch), images]))
        return self.attention(torch.stack(both.chunk(2), dim=1))
