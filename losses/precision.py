"""The precision of losses."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or unchanged if it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Context in which products are computed in the type of their factors, on the device of `x`.

    Within autocast a matrix product of float32 tensors is computed in half precision, too coarse for a cosine that is
    then scaled by 100.
    """
    return nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False)
