"""Masked image modelling with visual tokens of a Gumbel-softmax autoencoder (GM-DF, section 3.2, equation 6).

Legend: B batch, P patches, S side of a patch, W width of the tower, V visual tokens.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedModelling(nn.Module):
    """Hides patches and predicts their visual tokens and pixels from the tower's output.

    An autoencoder (Jang et al., Categorical Reparameterization with Gumbel-Softmax, ICLR 2017) assigns one of V tokens
    to each patch. The paper does not describe its training; here it trains together with the rest, by reconstruction.

    Args:
        width: W.
        patch: S.
        tokens: V.
        share: Share of the patches that are hidden.
        strategy: Hide patches at random, or "minimum": those of the least variance, which leaves the edges visible.
        hidden: Width within the autoencoder.
        temperature: Temperature of the Gumbel-softmax.
        pixels: Whether pixels are predicted too ("direct pixel-level predictions").
    """

    def __init__(
        self,
        width: int,
        patch: int,
        tokens: int = 1024,
        share: float = 0.2,
        hidden: int = 256,
        temperature: float = 1.0,
        pixels: bool = True,
        strategy: Literal["random", "minimum"] = "random",
    ):
        super().__init__()
        self.patch, self.share, self.temperature, self.strategy = patch, share, temperature, strategy
        size = 3 * patch * patch
        self.token = nn.Parameter(torch.randn(width) * 0.02)
        self.encoder = nn.Sequential(nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, tokens))
        self.codebook = nn.Parameter(torch.randn(tokens, hidden) * hidden**-0.5)
        self.decoder = nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, size))
        self.classifier = nn.Linear(width, tokens)
        self.pixels = nn.Linear(width, size) if pixels else None

    def forward(self, images: Tensor, tower: Callable[[tuple[Tensor, Tensor]], Tensor]) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            images: Normalised, [B, 3, H, W].
            tower: From (hidden patches, bool [B, P]; the token for them, [W]) to the patches' tokens, [B, P, W].

        Returns:
            "mim" (equation 6, the mean over hidden patches), "pixels" (mean squared error over them), "autoencoder".
        """
        patches = F.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        logits = self.encoder(patches)
        mask = self._hidden(patches)
        found = tower((mask, self.token))
        losses = {
            "mim": masked_mean(token_loss(self.classifier(found), logits.argmax(dim=-1)), mask),
            "autoencoder": self._autoencoder(patches, logits),
        }
        if self.pixels is not None:
            losses["pixels"] = masked_mean((self.pixels(found) - patches).square().mean(dim=-1), mask)
        return losses

    def _hidden(self, patches: Tensor) -> Tensor:
        """Which patches of [B, P, 3 S S] are hidden, bool [B, P]."""
        if self.strategy == "random":
            return torch.rand(patches.shape[:2], device=patches.device) < self.share
        least = patches.var(dim=-1).topk(round(self.share * patches.shape[1]), largest=False).indices
        return torch.zeros(patches.shape[:2], dtype=torch.bool, device=patches.device).scatter(1, least, True)

    def _autoencoder(self, patches: Tensor, logits: Tensor) -> Tensor:
        """Squared error of the reconstruction, plus the divergence of the use of tokens from a uniform one."""
        chosen = F.gumbel_softmax(logits, self.temperature, dim=-1)
        error = (self.decoder(chosen @ self.codebook) - patches).square().mean()
        use = logits.softmax(dim=-1).mean(dim=(0, 1))
        return error + (use * (use.clamp_min(1e-12).log() + math.log(len(use)))).sum() / math.log(len(use))


def token_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    """-log p(q(x) | x'), [B, P], of the tokens [B, P] under logits [B, P, V]."""
    return F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values [B, P] in the mask; 0 if the mask is empty."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
