"""Texts of a real face and of faces forged in one of five regions, each after learnt words.

Learnt words are those of Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022.

Legend: B batch, M learnt words, R regions, T tokens of a text, W width of the text tower, D embedding size, S side of a
picture, K landmarks.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.parts.clip_tower import Clip
from resproto_fd.losses.precision import at_least_float32, without_autocast

REGIONS = {
    "eyebrows": (-1.0, 1.0, -0.6, -0.2),
    "eyes": (-1.0, 1.0, -0.2, 0.25),
    "nose": (-0.4, 0.4, 0.25, 0.75),
    "mouth": (-0.6, 0.6, 0.75, 1.25),
    "chin": (-0.6, 0.6, 1.25, 1.6),
}
"""Left, right, top and bottom of each region: (0, 0) is between the eyes, (1, 0) an eye's distance from the other
beside it, and (0, 1) the middle of the mouth."""
REAL, FORGED = "real face", "face with forged {}"
CELLS = 32
"""Places along a side at which a mask is looked at."""


class RegionTexts(nn.Module):
    """The texts' unit embeddings, [1 + R, D]: of a real face, then of each region.

    Args:
        clip: Its text tower encodes the texts.
        words: M.
        name: Name of the detector, for messages.

    Raises:
        UserError: The tower is not open_clip's own, or its texts are shorter than the words and what follows them.
    """

    def __init__(self, clip: Clip, words: int, name: str):
        super().__init__()
        width = clip.require_words(name)
        tokens = clip.tokenizer([" ".join(["X"] * words + [text]) for text in (REAL, *map(FORGED.format, REGIONS))])
        length = tokens.shape[1]
        if not tokens.is_meta and (tokens != 0).sum(dim=1).max() == length:  # a longer text was cut to this
            raise UserError(f"{name}: {words} words do not fit into the {length} tokens of a text; set model.words")
        self.register_buffer("tokens", tokens, persistent=False)
        place = torch.arange(length)
        self.register_buffer("places", (place > 0) & (place <= words), persistent=False)
        self.words = nn.Parameter(torch.randn(words, width) * 0.02)

    def forward(self, clip: Clip) -> Tensor:
        words = F.pad(self.words, (0, 0, 1, len(self.places) - 1 - len(self.words)))
        return F.normalize(at_least_float32(clip.text_with(self.tokens, self.places, words)), dim=-1)


@torch.no_grad()
def forged_regions(mask: Tensor, landmarks: Tensor) -> Tensor:
    """Whether at least half of each region is forged, [B, R]; a region outside the picture is not.

    Args:
        mask: 1 is forged, [B, 1, S, S].
        landmarks: (x, y) in pixels of the picture, [B, K, 2]: eyes, nose tip and mouth corners, or 68 points and more.

    Raises:
        UserError: There are other numbers of landmarks.
    """
    middle, across, down = _axes(landmarks)
    ticks = (torch.arange(CELLS, device=mask.device) + 0.5) * mask.shape[-1] / CELLS - 0.5
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    x, y = x - middle[:, 0, None, None], y - middle[:, 1, None, None]  # [B, CELLS, CELLS]
    (a, b), (c, d) = ((axis[:, 0, None, None], axis[:, 1, None, None]) for axis in (across, down))
    right, below = (x * d - y * c) / (a * d - b * c), (y * a - x * b) / (a * d - b * c)
    within = [(right >= x0) & (right < x1) & (below >= y0) & (below < y1) for x0, x1, y0, y1 in REGIONS.values()]
    within = torch.stack(within, dim=1).to(mask.dtype)
    forged = (within * F.adaptive_avg_pool2d(mask, CELLS)).sum(dim=(2, 3))
    return (forged >= within.sum(dim=(2, 3)) / 2) & (forged > 0)


def _axes(landmarks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The point between the eyes, and the ways from one eye to the other and from that point to the mouth, [B, 2]."""
    count = landmarks.shape[1]
    if count == 5:
        left, right, mouth = landmarks[:, 0], landmarks[:, 1], landmarks[:, 3:].mean(dim=1)
    elif count >= 68:
        left, right = landmarks[:, 36:42].mean(dim=1), landmarks[:, 42:48].mean(dim=1)
        mouth = landmarks[:, [48, 54]].mean(dim=1)
    else:
        raise UserError(
            f"expected 5 landmarks of a face, or 68 and more, got {count}; crop the frames with `resproto faces`"
        )
    middle = (left + right) / 2
    return middle, right - left, mouth - middle


def text_alignment(images: Tensor, texts: Tensor, labels: Tensor, forged: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of images with the texts: a real image's is the first, a fake's those of its forged regions alike.

    A fake of which no region is forged counts as forged in all.

    Args:
        images: [B, D].
        texts: Unit vectors, [1 + R, D].
        labels: [B].
        forged: [B, R].
        scale: Factor of the cosines.
    """
    forged = forged | ~forged.any(dim=1, keepdim=True)
    wanted = torch.cat([labels[:, None] == 0, forged & (labels[:, None] == 1)], dim=1).to(texts.dtype)
    units = F.normalize(at_least_float32(images), dim=-1)
    with without_autocast(units):
        cosines = scale * units @ texts.T
    return F.cross_entropy(cosines, wanted / wanted.sum(dim=1, keepdim=True))
