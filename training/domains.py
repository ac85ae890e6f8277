"""Which test sets are in-domain: a detector has seen fakes of their training split."""

import re
from collections.abc import Iterable, Sequence

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.overlap import overlaps
from resproto_fd.configs.schema import DataConfig, DatasetConfig
from resproto_fd.preprocessing.video import COMPRESSIONS
from resproto_fd.training.protocols import dataset_config, read_split

_LEVEL = re.compile(rf"/({'|'.join(COMPRESSIONS)})/")


def in_domain(trained: Sequence[str] | None, tests: Iterable[str], data: DataConfig) -> dict[str, bool | None]:
    """Tells for each test set whether a detector was trained on it, or on a part of it.

    A set is in-domain if its name says so (see `overlaps`), or if a fake video of its training split is one of a
    training set's, at whatever compression. Manifests that are not on this machine are not asked.

    Args:
        trained: Training sets; None if they are not known.
        tests: Test sets.
        data: Where this machine keeps the manifests.

    Returns:
        None for each test set if the training sets are not known.
    """
    if trained is None:
        return dict.fromkeys(tests)
    found = {name: overlaps(trained, name) for name in tests}
    fakes: dict[str, set[str]] = {}
    for name in [name for name, seen in found.items() if not seen]:
        for other in trained:
            if _may_share(name, other, data):
                for each in (name, other):
                    if each not in fakes:
                        fakes[each] = _fakes(each, data)
                found[name] = found[name] or not fakes[name].isdisjoint(fakes[other])
    return found


def _config(name: str, data: DataConfig) -> DatasetConfig | None:
    try:
        return dataset_config(name, loading.data_folders(data)["json"])
    except UserError:
        return None


def _may_share(name: str, other: str, data: DataConfig) -> bool:
    """Whether two data sets may have a video in common: their frames lie in a data set folder of the same name."""
    configs = _config(name, data), _config(other, data)
    if None in configs:
        return False
    folders = [{each.folder} if isinstance(each.folder, str) else set(each.folder or ()) for each in configs]
    return not all(folders) or not folders[0].isdisjoint(folders[1])


def _fakes(name: str, data: DataConfig) -> set[str]:
    """Ids of the fake videos of a data set's training split, without the compression level; empty if it has none."""
    config, folder = _config(name, data), loading.data_folders(data)["json"]
    try:
        videos = read_split(folder / config.json_file, name, "train", config)
    except UserError:
        return set()
    return {_LEVEL.sub("/", video.id) for video in videos if video.label}
