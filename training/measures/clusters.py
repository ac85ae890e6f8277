"""Which frames of a test set are not independent of each other: those of one video, or of one recorded person.

In shapes, N is the number of frames (or videos), V of videos, K of clusters.
"""

import re
from collections.abc import Sequence

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.training.scores import ScoreTable


class Clusters:
    """Which frames belong together, and which clusters hold real frames, fake frames or both.

    Args:
        index: Each frame's cluster, from 0, [N]; each frame is its own if None.
        labels: 0 real, 1 fake, [N].
    """

    def __init__(self, index: np.ndarray | None, labels: np.ndarray):
        index = np.arange(len(labels)) if index is None else np.asarray(index)
        if index.shape != labels.shape:
            raise ValueError(f"{len(index)} clusters, {len(labels)} labels: lengths differ")
        fakes, sizes = np.bincount(index, labels), np.bincount(index)
        if not sizes.all():  # a number without frames is no cluster
            index = (np.cumsum(sizes > 0) - 1)[index]
            fakes, sizes = fakes[sizes > 0], sizes[sizes > 0]
        self.index, self.labels, self.count = index, labels, len(sizes)
        self.fake, self.real = fakes > 0, fakes < sizes

    def same_as(self, index: np.ndarray, labels: np.ndarray) -> bool:
        """Whether these are the clusters of such frames, in their order."""
        return np.array_equal(self.index, index) and np.array_equal(self.labels, labels)

    @property
    def fewest(self) -> int:
        """Clusters of the class that has fewer of them."""
        return int(min(self.fake.sum(), self.real.sum()))

    @property
    def pairs(self) -> int:
        """A lower bound of the pairs of a real and a fake whose clusters are all different."""
        return max(min(self.fewest, self.count // 2), 1)

    @property
    def strata(self) -> np.ndarray:
        """0 real only, 1 fake only, 2 both, [K]. A test set's make-up is by design: resampling keeps it."""
        return np.where(self.fake & self.real, 2, self.fake)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum over each cluster's frames, [K]."""
        return np.bincount(self.index, values, self.count)


_FFPP = re.compile(r"(?P<target>\d{3})(_(?P<other>\d{3}))?(_[MW]\d{3})?")  # 000, 000_003; DeeperForensics 000_W010
_PERSON = (
    re.compile(r"(?P<person>id\d+)_(id\d+_)?\d{4}"),  # Celeb-DF: id0_0000 real, id0_id1_0000 fake
    re.compile(r"(?P<person>\d\d)(_\d\d)?__.+"),  # DeepFakeDetection: 01__scene real, 01_02__scene__HASH fake
    re.compile(r"(?P<person>\d{4})(_fake)?"),  # UADFV
)


def source_clusters(videos: Sequence[str]) -> np.ndarray:
    """Cluster of each video: the recorded people if its name tells who they are, otherwise the video itself.

    FaceForensics++ (and DF40, DeeperForensics and the demo data, which name alike): the pair. 000_003 is the
    recording 000 with the face of 003, 003_000 the reverse, whatever the manipulation: all of these and the originals
    000 and 003 are one cluster. Celeb-DF and DeepFakeDetection: the person recorded (id0 of id0_id1_0000). There
    every person is swapped with many others, so the face lent cannot be counted too: it would join nearly all.
    UADFV: 0000 and 0000_fake. A name of another form is a cluster of its own; if such videos share people, the
    intervals are too short, and the table should bring its own clusters.

    Args:
        videos: Video ids, whose last part is the name, [V].

    Returns:
        Cluster numbers from 0, [V].

    >>> source_clusters(["F/real/000", "F/Deepfakes/000_003", "F/FaceSwap/003_000", "C/id1_id2_0004", "C/01"]).tolist()
    [0, 0, 0, 1, 2]
    """
    keys = [_keys(str(video)) for video in videos]
    position: dict[str, int] = {}
    for first, second in keys:
        position.setdefault(first, len(position))
        position.setdefault(second, len(position))
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = np.array([(position[first], position[second]) for first, second in keys], dtype=np.int64).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(len(position),) * 2)
    component = connected_components(graph, directed=False)[1]
    return np.unique(component[edges[:, 0]], return_inverse=True)[1]


def _keys(video: str) -> tuple[str, str]:
    """Two names that this video joins into one cluster; twice the same where it joins nothing."""
    name = video.rsplit("/", 1)[-1]
    if match := _FFPP.fullmatch(name):
        target, other = f"ff {match['target']}", f"ff {match['other'] or match['target']}"
        return target, other
    for form in _PERSON:
        if match := form.fullmatch(name):
            return f"{form.pattern} {match['person']}", f"{form.pattern} {match['person']}"
    return video, video


def table_clusters(table: ScoreTable, by: str = "source") -> np.ndarray:
    """Cluster of each of a table's videos, [V]: by "source" (`source_clusters`) or by "video".

    Raises:
        UserError: Another word.
    """
    if by == "video":
        return np.arange(len(table.videos))
    if by != "source":
        raise UserError(f"clusters by {by!r}: there are 'source' and 'video'")
    return source_clusters(table.videos.tolist())
