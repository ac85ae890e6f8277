"""Test sets with the people of real ones: who was recorded, whose face is seen, and what the names tell of it.

celeb: Celeb-DF-v2's test, counted from its List_of_testing_videos.txt. 178 reals: 108 of 51 celebrities (1 to 5 each)
and 70 of YouTube, each taken for a person of its own. 340 fakes of 245 (recorded, seen) pairs: 52 recorded people (1 to
18 fakes each) and 52 seen ones (1 to 26). 54 celebrities are recorded, so that there are 124 clusters the first way.

ffpp: FaceForensics++'s test. 140 reals, 70 pairs; both directions of a pair, by 4 manipulations: 560 fakes.

dfdc: an assumed design, as the list of DFDC's actors is not public. 250 actors, of each a Poisson number of reals (mean
2) and of other recordings (mean 1), which have 2 fakes each; each fake shows another actor at random. The names tell
nothing, so that each video is a cluster.

In shapes, V is the number of videos, N of frames.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from resproto_fd.training.measures.clusters import source_clusters

CELEB_REALS = """
1 4 5 3 1 0 2 1 2 1 2 2 2 3 0 0 3 2 0 2 1 2 2 1 1 1 1 2 3 2
1 3 4 3 1 3 5 3 0 2 2 0 1 3 2 1 1 0 2 1 3 3 2 3 1 0 3 2 1
"""
"""Real test videos of id0, id1, ..., id58."""
CELEB_YOUTUBE = 70
CELEB_FAKES = """
0:1*3 3 6 16*3 21 26; 1:0 2*2 3*5 4 9 16*2 17 20*2 23; 2:0*2 1 3 6 9 16 26 28; 3:1 2 4 6 9*2 16 20 28*3;
4:0*3 1*2 2 6*2 20*3 21*2 23 26 28 30 37; 6:0 1*2 2*2 3 9 16 20 21 23*2 28; 7:10 11*2 13; 8:0 3 5 6;
9:0*2 1 2*3 3*2 6*2 16*2 20 23 26; 10:7*4 11*2 12*2 13*3; 11:7; 12:7 10*2; 13:7*2 10*2;
16:0 1 2*3 3*3 6*2 20*3 21 23 28; 17:0 1 2*3 3*2 6 9 16*2 21 23*2 26 28 31; 19:20*2 23; 20:0 1*2 9 19 31*2 37;
21:2*2 3 4 6 9 19*2 20 28*2; 22:21 25 26 27*2 28; 23:2 3*2 16 19 26 35*2; 24:19 20 21 26*2; 25:19*2 21 23 24 28*2;
26:1 2 3 16 28; 27:19 21*2 22 23 24 25 26; 28:0 3*2 4*2 6 9 20*2 21 26 35; 29:30*2 32*2 35 37*3 38;
30:3*2 4 6 20 21*2 23*2 26*2 28*3 32 34 35; 31:2 16 30 33*2; 32:31*2 33*2; 33:29 32 38; 34:29 32 33*2;
35:16*2 20 23 26 28 30 31*3 32 34; 37:1 2 3*2 4 21*2 28*2 29 31 34 35*2 38; 38:30 33 34*2; 39:44*2 47; 42:40; 43:39 40;
44:41 42 45; 45:39 47; 46:39 41 45; 47:43; 48:41 45 47; 49:52*2; 50:49 53 56; 51:50 57; 52:50 58; 53:52 57 58;
54:49 56*2 58; 55:57; 56:51 54 55 57; 57:51 53; 58:57
"""
"""Recorded person: seen people, each times the number of such fakes."""
DFDC_ACTORS = 250

SHARES = {  # of a score's variance, which sum to 1 for reals and fakes
    "celeb": {"recorded": 0.1, "seen": 0.1, "video": 0.3, "frame": 0.5},
    "celeb_lender": {"recorded": 0.1, "lender": 0.25, "video": 0.15, "frame": 0.5},
    "ffpp": {"recorded": 0.1, "seen": 0.1, "video": 0.3, "frame": 0.5},
    "dfdc": {"recorded": 0.1, "seen": 0.1, "original": 0.1, "video": 0.2, "frame": 0.5},
}
"""recorded, seen: of these people. original: of the recording that a fake is made of. lender: how visible the seen
person's forgeries are; it moves fakes alone, and a real has an effect of its own instead."""


@dataclass(frozen=True)
class Design:
    """The videos of a test set and what they share.

    Attributes:
        shares: Share of the variance of each effect.
        label: 0 real, 1 fake, [V].
        groups: Number of the recorded person, the seen person and the original recording of each video, [V] each.
        clusters: What `source_clusters` makes of the names, [V] or [V, 2].
        others: Other clusterings, for comparison, by name.
    """

    shares: Mapping[str, float]
    label: np.ndarray
    groups: Mapping[str, np.ndarray]
    clusters: np.ndarray
    others: Mapping[str, np.ndarray]

    def effect(self, video: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A new draw of all effects together, of variance 1, [N].

        Args:
            video: Number of each frame's video, [N].
            rng: Source of the draw.
        """
        count = len(self.label)
        total = math.sqrt(self.shares["video"]) * rng.standard_normal(count)
        for name, share in self.shares.items():
            if name == "lender":
                of_seen = rng.standard_normal(count)[self.groups["seen"]]
                total += math.sqrt(share) * np.where(self.label == 1, of_seen, rng.standard_normal(count))
            elif name in self.groups:
                total += math.sqrt(share) * rng.standard_normal(count)[self.groups[name]]
        return total[video] + math.sqrt(self.shares["frame"]) * rng.standard_normal(len(video))


def _celeb() -> list[tuple[str, str, str, str]]:
    videos = []
    for person, count in enumerate(CELEB_REALS.split()):
        videos += [(f"C/id{person}_{i:04d}", f"{person}", f"{person}", f"{person} {i}") for i in range(int(count))]
    videos += [(f"C/{i:05d}", f"y{i}", f"y{i}", f"y{i}") for i in range(CELEB_YOUTUBE)]
    for entry in CELEB_FAKES.replace("\n", " ").split(";"):
        recorded, lenders = entry.strip().split(":")
        for lender in lenders.split():
            seen, _, times = lender.partition("*")
            for i in range(int(times or 1)):
                name = f"id{recorded}_id{seen}_{i:04d}"
                videos.append((f"C/{name}", recorded, seen, name))
    return videos


def _ffpp() -> list[tuple[str, str, str, str]]:
    videos = [(f"F/real/{i:03d}", f"{i}", f"{i}", f"{i}") for i in range(140)]
    for manipulation in ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"):
        for i in range(140):
            other = i ^ 1  # 000 with 001, 002 with 003, ...
            videos.append((f"F/{manipulation}/{i:03d}_{other:03d}", f"{i}", f"{other}", f"{i}"))
    return videos


def _dfdc() -> list[tuple[str, str, str, str]]:
    rng, videos = np.random.default_rng(0), []
    for actor in range(DFDC_ACTORS):
        reals, originals = rng.poisson(2), rng.poisson(1)
        videos += [(f"D/r{actor}-{i}", f"{actor}", f"{actor}", f"{actor} real {i}") for i in range(reals)]
        lenders = (actor + rng.integers(1, DFDC_ACTORS, (originals, 2))) % DFDC_ACTORS
        for i in range(originals):
            videos += [(f"D/f{actor}-{i}-{j}", f"{actor}", f"{lenders[i, j]}", f"{actor} {i}") for j in (0, 1)]
    return videos


def design(scenario: str) -> Design:
    """The design of a scenario of `SHARES`.

    >>> len(design("ffpp").label), int(design("ffpp").clusters.max())
    (700, 69)
    """
    kind = scenario.split("_")[0]
    videos = {"celeb": _celeb, "ffpp": _ffpp, "dfdc": _dfdc}[kind]()
    names = [video[0] for video in videos]
    _, people = np.unique([video[1:3] for video in videos], return_inverse=True)  # one number a person in both roles
    people = people.reshape(-1, 2)
    original = np.unique([video[3] for video in videos], return_inverse=True)[1]
    groups = {"recorded": people[:, 0], "seen": people[:, 1], "original": original}
    label = (groups["recorded"] != groups["seen"]).astype(int)
    each = np.arange(len(names))
    others = {
        "celeb": {"recorded people alone": groups["recorded"], "videos": each},
        "ffpp": {"videos": each},
        "dfdc": {"originals": groups["original"], "actors": groups["recorded"], "actors and lenders": people},
    }[kind]
    return Design(SHARES[scenario], label, groups, source_clusters(names), others)
