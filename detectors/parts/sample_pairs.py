"""Sample pair attention of MFCLIP: learnt weights for the similarities of a batch's images and texts.

Source: equations 7 to 12 of "MFCLIP: Multi-modal Fine-grained CLIP for Generalizable Diffusion Face Forgery Detection".
Legend: B batch, D embedding size.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError
from resproto_fd.losses.precision import at_least_float32, without_autocast

FIRST_TEMPERATURE = 0.07


class SamplePairContrast(nn.Module):
    """L_cmc: contrast of images and their texts, with a weight sigma(A) for each pair of a batch.

    Decisions: A is [pairs, pairs], one weight for each pair of positions in a batch (the paper has d x d, which does
    not fit the product with a b x b matrix). A smaller batch uses the upper left part. sigma(A) multiplies similarities
    before the softmax (equations 7, 8). Equations 9 and 10 multiply after it: the loss then uses the diagonal alone,
    and the other weights do not learn. `place` chooses. Both softmaxes run over the second index (equation 9 sums over
    the first, equation 10 over the second).

    Args:
        pairs: The largest batch, of all processes together.
        attention: Use the weights; otherwise this is CLIP's plain InfoNCE.
        place: Whether sigma(A) multiplies before or after the softmax.
    """

    def __init__(self, pairs: int, attention: bool = True, place: Literal["before", "after"] = "before"):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(pairs, pairs)) if attention else None
        self.log_temperature = nn.Parameter(torch.tensor(math.log(FIRST_TEMPERATURE)))
        self.place = place

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """Loss whose positives are image i and text i; all other pairs are negatives.

        Args:
            images: Embeddings of the global batch, [B, D].
            texts: [B, D].

        Raises:
            UserError: The batch is larger than A.
        """
        similar, _ = self.cosines(images, texts)
        weights = self._weights(len(similar), similar)
        losses = []
        for matrix in (similar, similar.T):
            if self.place == "before":
                chances = (matrix * weights / self.log_temperature.exp()).log_softmax(dim=-1)
            else:
                chances = (matrix / self.log_temperature.exp()).log_softmax(dim=-1) + weights.log()
            losses.append(-chances.diagonal().mean())
        return sum(losses) / 2

    def cosines(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines of images and texts [B, D], and the same times sigma(A), [B, B] each."""
        images, texts = (F.normalize(at_least_float32(given), dim=-1) for given in (images, texts))
        with without_autocast(images):
            similar = images @ texts.T
        return similar, similar * self._weights(len(similar), similar)

    def _weights(self, count: int, like: Tensor) -> Tensor:
        if self.weights is None:
            return like.new_ones(())
        if count > len(self.weights):
            raise UserError(
                f"sample pair attention expected a batch of at most {len(self.weights)} pairs, got {count}; set the "
                "number of pairs (mfclip: model.pairs, clip: model.sample_pairs) to train.batch_size"
            )
        return self.weights[:count, :count].sigmoid()
