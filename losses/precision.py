"""The precision of losses."""

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """x in float32, or unchanged if it is float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
