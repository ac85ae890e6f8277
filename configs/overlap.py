"""Which data sets are parts of others, as their YAMLs state it (`part_of`)."""

import re
from collections.abc import Iterable

from resproto_fd.configs.loading import load, names
from resproto_fd.configs.schema import COMPRESSIONS

LEVEL = re.compile(f"_({'|'.join(COMPRESSIONS)})$")


def overlaps(trained: Iterable[str], dataset: str) -> bool:
    """Whether a detector trained on some data sets has seen fakes of another one.

    A data set overlaps with itself at any compression, with its parts, and with the whole that it is a part of. Two
    parts of one whole do not overlap: they have their reals in common, and no fake.

    >>> overlaps(["FaceForensics++"], "FF-DF"), overlaps(["FF-DF_c40"], "FaceForensics++"), overlaps(["FF-DF"], "FF-NT")
    (True, True, False)
    """
    wholes = _wholes(dataset)
    return any(_plain(name) in wholes or _plain(dataset) in _wholes(name) for name in trained)


def _wholes(dataset: str) -> set[str]:
    """The data set and all that it is a part of."""
    name, found = _plain(dataset), {_plain(dataset)}
    if name in names("datasets"):
        for whole in load("datasets", name).part_of:
            found |= _wholes(whole)
    return found


def _plain(dataset: str) -> str:
    return LEVEL.sub("", dataset)
