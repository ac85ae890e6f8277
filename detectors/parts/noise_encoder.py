"""MFCLIP's encoders of noise residuals and of sentences."""

import torch
from torch import Tensor, nn

from resproto_fd.detectors.parts.cvit_backbone import ClassTokenTransformer, transformer
from resproto_fd.detectors.parts.texture import GreyLevels, SrmFilters, richest_patch


class NoiseEncoder(nn.Module):
    """NE: SRM residuals of the most textured patch, a small CNN to 64 x 8 x 8, one token, B blocks (section III-C).

    Args:
        width: D.
        side: S.
        depth: B.
        heads, hidden: Sizes of the blocks; the paper gives neither.
        normalisation: See `GreyLevels`; homogeneity is computed on grey levels.
    """

    def __init__(self, width: int, side: int, depth: int, heads: int, hidden: int, normalisation: str):
        super().__init__()
        self.side = side
        self.grey_levels = GreyLevels(normalisation)
        self.srm = SrmFilters()
        layers: list[nn.Module] = []
        for before, after in ((3, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.convolutions = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(8))
        self.embed = nn.Linear(64 * 8 * 8, width)
        self.transformer = ClassTokenTransformer(width, depth, heads, hidden)

    def forward(self, images: Tensor) -> Tensor:
        """N_n: normalised images [B, 3, H, W] -> [B, D]."""
        # Filtered before it is cut, so that a patch's border has its true neighbours.
        noise = richest_patch(self.srm(images), self.grey_levels(images), self.side)
        return self.transformer(self.embed(self.convolutions(noise).flatten(1)))


class LanguageEncoder(nn.Module):
    """FLE: L blocks over the joined tokens of all levels' sentences, from scratch (section III-D).

    All tokens attend to each other, since the paper names no mask. The output is the last sentence's end-of-text token.

    Args:
        levels: Number of sentences of a text.
        width: D.
        depth: L.
        heads, hidden: Sizes of the blocks; the paper gives neither.
    """

    def __init__(self, levels: int, width: int, depth: int, heads: int, hidden: int):
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, width)
        nn.init.normal_(self.words.weight, std=0.02)
        self.position = nn.Parameter(torch.randn(levels * CONTEXT, width) * 0.01)
        self.blocks = transformer(width, depth, heads, hidden)

    def forward(self, tokens: Tensor) -> Tensor:
        """Sentences [B, levels, 77] -> T_l, [B, D]."""
        found = self.blocks(self.words(tokens.flatten(1)) + self.position)
        ends = tokens[:, -1].argmax(dim=-1) + (tokens.shape[1] - 1) * CONTEXT
        return found[torch.arange(len(found), device=found.device), ends]


CONTEXT = 77
VOCABULARY = 49408
