"""The sigmoid loss of image-text pairs (Zhai et al., Sigmoid Loss for Language Image Pre-Training, ICCV 2023).

Legend: B batch, D embedding size.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from resproto_fd.losses.precision import at_least_float32, without_autocast


def siglip_loss(images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, present: Tensor) -> Tensor:
    """Sigmoid loss of each image with its own text against all texts of the batch, divided by the number of images.

    L = -1/B sum_i sum_j log sigmoid(z_ij (scale * cos(images_i, texts_j) + bias)), z_ii = 1, else -1.

    Args:
        images: Embeddings, [B, D].
        texts: Embeddings of the images' texts, [B, D].
        scale: Factor of the cosine, scalar.
        bias: Added to it, scalar.
        present: 1 for an image with a text, 0 for one without, [B]. Pairs with an absent text are left out, and B is
            the number of texts present. Without any text the loss is 0.

    Returns:
        A scalar.
    """
    images, texts = (F.normalize(at_least_float32(given), dim=-1) for given in (images, texts))
    with without_autocast(images):
        cosine = images @ texts.T
    sign = 2 * torch.eye(len(images), dtype=cosine.dtype, device=cosine.device) - 1
    pairs = F.logsigmoid(sign * (scale * cosine + bias))
    weight = present.to(cosine.dtype)
    return -(pairs * weight[:, None] * weight).sum() / weight.sum().clamp(min=1)
