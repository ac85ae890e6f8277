"""Which frames of a test set are not independent of each other: those of one video, or of one recorded person.

In shapes, N is the number of frames (or videos), V of videos, K of clusters.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.training.scores import ScoreTable


class Clusters:
    """Which frames belong together, and which clusters hold real frames, fake frames or both.

    Two ways of belonging together may be given at once: the person recorded, and the person whose face is seen. The
    clusters are then the cells, of frames that share both; `ways` are the two one-way clusterings. The second is left
    out where it has a class in one cluster alone.

    Args:
        index: Each frame's cluster, from 0, [N]; in two ways, [N, 2]; each frame is its own if None.
        labels: 0 real, 1 fake, [N].

    Attributes:
        ways: Both one-way clusterings, each with the cluster that every cell lies in, [K]; empty for one way.
    """

    def __init__(self, index: np.ndarray | None, labels: np.ndarray):
        index = np.arange(len(labels)) if index is None else np.asarray(index)
        if len(index) != len(labels):
            raise ValueError(f"{len(index)} clusters, {len(labels)} labels: lengths differ")
        self.given, self.ways = index, ()
        if index.ndim == 2:
            both = index[:, 0].astype(np.int64) * (int(index[:, 1].max()) + 1) + index[:, 1]
            _, first, index = np.unique(both, return_index=True, return_inverse=True)
            ways = [Clusters(self.given[:, way], labels) for way in (0, 1)]
            if ways[1].fewest >= 2:
                self.ways = tuple((way, way.index[first]) for way in ways)
            else:
                index = ways[0].index
        fakes, sizes = np.bincount(index, labels), np.bincount(index)
        if not sizes.all():  # a number without frames is no cluster
            index = (np.cumsum(sizes > 0) - 1)[index]
            fakes, sizes = fakes[sizes > 0], sizes[sizes > 0]
        self.index, self.labels, self.count = index, labels, len(sizes)
        self.fake, self.real = fakes > 0, fakes < sizes

    def same_as(self, index: np.ndarray, labels: np.ndarray) -> bool:
        """Whether these are the clusters of such frames, in their order."""
        return np.array_equal(self.given, index) and np.array_equal(self.labels, labels)

    @property
    def main(self) -> "Clusters":
        """The first way, of the person recorded; these clusters themselves where there is one way."""
        return self.ways[0][0] if self.ways else self

    def cells(self) -> "Clusters":
        """The cells as clusters of one way."""
        return Clusters(self.index, self.labels)

    @property
    def fewest(self) -> int:
        """Clusters of the class that has fewer of them; of the way that has fewer."""
        if self.ways:
            return min(way.fewest for way, _ in self.ways)
        return int(min(self.fake.sum(), self.real.sum()))

    @property
    def strata(self) -> np.ndarray:
        """0 real only, 1 fake only, 2 both, [K]. A test set's make-up is by design: resampling keeps it."""
        return np.where(self.fake & self.real, 2, self.fake)

    def sums(self, values: np.ndarray) -> np.ndarray:
        """Sum over each cluster's frames, [K]."""
        return np.bincount(self.index, values, self.count)


def positive_part(matrix: np.ndarray) -> np.ndarray:
    """The nearest matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return (vectors * np.clip(values, 0, None)) @ vectors.T


_FFPP = re.compile(r"(?P<target>\d{3})(_(?P<other>\d{3}))?(?P<actor>_[MW]\d{3})?")  # 000, 000_003; 000_W010
_PERSON = (
    re.compile(r"(?P<person>id\d+)_((?P<other>id\d+)_)?\d{4}"),  # Celeb-DF: id0_0000 real, id0_id1_0000 fake
    re.compile(r"(?P<person>\d\d)(_(?P<other>\d\d))?__.+"),  # DeepFakeDetection: 01__scene, 01_02__scene__HASH
)
_UADFV = re.compile(r"(?P<person>\d{4})(?P<fake>_fake)?")


def source_clusters(videos: Sequence[str], people: Mapping[str, tuple[str, str]] | None = None) -> np.ndarray:
    """Cluster of each video: the people if its name or its data set's side file tells them, otherwise the video itself.

    FaceForensics++ (and DF40, DeeperForensics and the demo data, which name alike): the pair. 000_003 is the
    recording 000 with the face of 003, 003_000 the reverse, whatever the manipulation: all of these and the originals
    000 and 003 are one cluster. UADFV: 0000 and 0000_fake.

    Celeb-DF and DeepFakeDetection: two ways. First the person recorded (id0 of id0_id1_0000), second the person whose
    face is seen (id1). Every person is swapped with many others, so that joining both would join nearly all.

    A data set has such names if at least one of its videos has a form that only they have (000_003, id0_id1_0000,
    0000_fake). Numbers of other data sets are no identities and join nothing. Where names tell nothing, the side file
    does: the person recorded, or the clip that was altered, and the person whose face is seen. A video of which nothing
    is known is a cluster of its own; if such videos share people, the intervals are too short.

    Args:
        videos: Video ids, whose first part is the data set and whose last part is the name, [V].
        people: The person recorded and the person whose face is seen, by video id; "" where one is not known.

    Returns:
        Cluster numbers from 0, [V]; [V, 2] where the person whose face is seen is known of some video.

    >>> source_clusters(["F/real/000", "F/Deepfakes/000_003", "F/NT/003_000", "W/real/000", "W/fake/000"]).tolist()
    [0, 0, 0, 1, 2]
    >>> source_clusters(["C/id0_0001", "C/id1_id0_0004", "C/id1_id2_0004"]).tolist()
    [[0, 0], [1, 0], [1, 1]]
    """
    names = [str(video) for video in videos]
    telling = {(video.split("/", 1)[0], form) for video in names if (form := _telling(video.rsplit("/", 1)[-1]))}
    known = _with_originals(people or {})
    keys = [_keys(video, telling, known.get(video, ("", ""))) for video in names]
    recorded = _components([(first, second) for first, second, _ in keys])
    if not any(seen for *_, seen in keys):
        return recorded
    own = [f"cluster {number}" for number in recorded]
    face = [seen or alone for (*_, seen), alone in zip(keys, own)]
    return np.stack([recorded, _components([(name, name) for name in face])], axis=1)


def _with_originals(people: Mapping[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """The people of all videos; a clip that was altered gives its own person, or stands for that person."""
    found = dict(people)
    for recorded, _ in people.values():
        found.setdefault(recorded, (recorded, ""))
    return {
        video: (found[recorded][0] or recorded if recorded else "", seen) for video, (recorded, seen) in found.items()
    }


def _components(edges: Sequence[tuple[str, str]]) -> np.ndarray:
    """Number of the connected component of each edge, in the order of their first edges, [V]."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    position: dict[str, int] = {}
    for edge in edges:
        for name in edge:
            position.setdefault(name, len(position))
    ends = np.array([[position[name] for name in edge] for edge in edges], dtype=np.int64).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends)), ends.T), shape=(len(position),) * 2)
    component = connected_components(graph, directed=False)[1]
    return np.unique(component[ends[:, 0]], return_inverse=True)[1]


def _telling(name: str) -> str:
    """The form of a name that only data sets with identities in their names have; empty for other names."""
    if (match := _FFPP.fullmatch(name)) and (match["other"] or match["actor"]):
        return "FF++"
    if any(form.fullmatch(name) for form in _PERSON):
        return "person"
    return "UADFV" if (match := _UADFV.fullmatch(name)) and match["fake"] else ""


def _keys(video: str, telling: set[tuple[str, str]], people: tuple[str, str]) -> tuple[str, str, str]:
    """Two names that this video joins into one cluster, and the person whose face is seen; "" if that is not known."""
    dataset, name = video.split("/", 1)[0], video.rsplit("/", 1)[-1]
    if (dataset, "FF++") in telling and (match := _FFPP.fullmatch(name)):
        return f"ff {match['target']}", f"ff {match['other'] or match['target']}", ""
    for form in _PERSON:
        if match := form.fullmatch(name):
            person = f"{form.pattern} {match['person']}"
            return person, person, f"{form.pattern} {match['other'] or match['person']}"
    if (dataset, "UADFV") in telling and (match := _UADFV.fullmatch(name)):
        return f"uadfv {match['person']}", f"uadfv {match['person']}", ""
    recorded, seen = people
    if recorded or seen:
        own = f"person {recorded}" if recorded else video
        return own, own, f"person {seen}" if seen else ""
    return video, video, ""


def table_clusters(table: ScoreTable, by: str = "source") -> np.ndarray:
    """Cluster of each of a table's videos, [V] or [V, 2]: by "source" (`source_clusters`) or by "video".

    Raises:
        UserError: Another word.
    """
    if by == "video":
        return np.arange(len(table.videos))
    if by != "source":
        raise UserError(f"clusters by {by!r}: there are 'source' and 'video'")
    return source_clusters(table.videos.tolist(), table.people())
