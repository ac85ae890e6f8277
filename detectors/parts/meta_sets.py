"""Meta-train and meta-test set of a batch of several domains (GM-DF, section 3.3).

Legend: B images of this process, D domains.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from resproto_fd.losses.global_batch import gather_host


class MetaSet(NamedTuple):
    """Part of this process's batch.

    Attributes:
        rows: Positions of its images, in the host's memory.
        weight: Factor of the mean loss over them, so that the mean over processes is the mean over all images.
    """

    rows: Tensor
    weight: float


def meta_sets(domain: Tensor, count: int) -> tuple[MetaSet, MetaSet]:
    """Draw the domain that is the meta-test set, the same one for all processes; the others are the meta-train set.

    With one domain, every other image is meta-train and all images are meta-test. A process that has none of a set's
    images takes its first image, with weight 0.

    Args:
        domain: Number of each image's domain, in the host's memory, [B].
        count: D.

    Returns:
        The meta-train set and the meta-test set.
    """
    drawn = torch.randint(2**31, (1,))
    everyone = gather_host(torch.cat([domain.bincount(minlength=count), drawn]))
    images = everyone[:, :-1].sum(dim=0)
    present = images.nonzero()[:, 0]
    if len(present) < 2:
        return MetaSet(torch.arange(0, len(domain), 2), 1.0), MetaSet(torch.arange(len(domain)), 1.0)
    held = present[everyone[0, -1] % len(present)]  # the first process decides
    tested = int(images[held])
    train = _part(domain != held, len(everyone) / (int(images.sum()) - tested))
    return train, _part(domain == held, len(everyone) / tested)


def _part(chosen: Tensor, share: float) -> MetaSet:
    rows = chosen.nonzero()[:, 0]
    return MetaSet(rows, len(rows) * share) if len(rows) else MetaSet(torch.zeros(1, dtype=torch.long), 0.0)
