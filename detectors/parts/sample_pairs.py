"""Sample pair attention of MFCLIP: learnt weights on the similarities of a batch's images and texts.

Source: equations 7 to 12 of "MFCLIP: Multi-modal Fine-grained CLIP for Generalizable Diffusion Face Forgery Detection".
Legend: B batch, D embedding size.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resproto_fd.configs.errors import UserError

FIRST_TEMPERATURE = 0.07


class SamplePairContrast(nn.Module):
    """L_cmc: the contrast of images and their texts, each pair of a batch weighted by sigma(A).

    Decisions: A is [pairs, pairs], one weight for each pair of places in a batch (the paper writes d x d, which the
    product with a b x b matrix rules out); a smaller batch takes its upper left part. sigma(A) multiplies similarities
    before the softmax (equations 7, 8). Multiplied after it, as equations 9 and 10 have it, the loss reads the diagonal
    alone and the other weights learn nothing; `place` chooses. Both softmaxes run over the second index (equation 9
    sums over the first, equation 10 over the second).

    Args:
        pairs: The largest batch, of all processes together.
        attention: Without it, the plain InfoNCE of CLIP.
        place: Where sigma(A) goes.
    """

    def __init__(self, pairs: int, attention: bool = True, place: Literal["before", "after"] = "before"):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(pairs, pairs)) if attention else None
        self.log_temperature = nn.Parameter(torch.tensor(math.log(FIRST_TEMPERATURE)))
        self.place = place

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """Loss of image i and text i, all else being negatives.

        Args:
            images: Of the global batch, [B, D].
            texts: [B, D].

        Raises:
            UserError: A batch larger than A.
        """
        similar = F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
        weights = self._weights(len(similar), similar)
        losses = []
        for matrix in (similar, similar.T):
            if self.place == "before":
                chances = (matrix * weights / self.log_temperature.exp()).log_softmax(dim=-1)
            else:
                chances = (matrix / self.log_temperature.exp()).log_softmax(dim=-1) + weights.log()
            losses.append(-chances.diagonal().mean())
        return sum(losses) / 2

    def _weights(self, count: int, like: Tensor) -> Tensor:
        if self.weights is None:
            return like.new_ones(())
        if count > len(self.weights):
            raise UserError(
                f"sample pair attention has weights for {len(self.weights)} pairs, the batch holds {count}: say the "
                "number of pairs (mfclip: model.pairs, clip: model.sample_pairs) as train.batch_size"
            )
        return self.weights[:count, :count].sigmoid()
