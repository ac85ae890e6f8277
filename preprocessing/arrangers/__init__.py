"""Arrangers: they give labels and splits to a tree of frames.

`resproto faces` or DeepfakeBench's preprocessing has made the tree. A data set is a description; `arrange` is the same
for all.
"""

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.suggestions import nearest
from resproto_fd.preprocessing.arrangers import benchmarks, df40, faceforensics, panel, pictures, videos
from resproto_fd.preprocessing.arrangers.arranging import ALL_TEST, SPLIT_KINDS, Arranged, Arrangement, arrange
from resproto_fd.preprocessing.arrangers.description import Description
from resproto_fd.preprocessing.arrangers.folders import describe_folders

DESCRIPTIONS: dict[str, Description] = {
    description.name: description
    for family in (faceforensics, videos, panel, benchmarks, pictures, df40)
    for description in family.DESCRIPTIONS
}


def find(name: str) -> tuple[Description, ...]:
    """Finds the description of a name; "DF40" means all of DF40's.

    Raises:
        UserError: There is no such data set.
    """
    if name == "DF40":
        return df40.DESCRIPTIONS
    if name not in DESCRIPTIONS:
        raise UserError(
            f"no arranger is called '{name}'{nearest(name, [*DESCRIPTIONS, 'DF40', 'folders', 'adopt'])}; there are "
            f"{', '.join(known for known in DESCRIPTIONS if DESCRIPTIONS[known] not in df40.DESCRIPTIONS)}, DF40 or "
            "one of its lists (simswap_ff, ...), folders (a folder a class), adopt (lists made elsewhere)"
        )
    return (DESCRIPTIONS[name],)


__all__ = [
    "ALL_TEST",
    "DESCRIPTIONS",
    "SPLIT_KINDS",
    "Arranged",
    "Arrangement",
    "Description",
    "arrange",
    "describe_folders",
    "find",
]
