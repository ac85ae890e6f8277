"""FaceForensics++ and the data sets that are distributed with it or made from its videos."""

from resproto_fd.preprocessing.arrangers.description import EVERYWHERE, Description, Source
from resproto_fd.preprocessing.arrangers.lists import deeperforensics_lists, ffpp_lists

ORIGINALS = "FaceForensics++/original_sequences/youtube"
PAPER = "Rössler et al., FaceForensics++, ICCV 2019"
LAYOUT = "DeepfakeBench's preprocessing; github.com/ondyari/FaceForensics, dataset/README.md"
FAKES = {"Deepfakes": "FF-DF", "Face2Face": "FF-F2F", "FaceSwap": "FF-FS", "NeuralTextures": "FF-NT"}
PAIR = r"(?P<target>\d+)_(?P<source>\d+)"

REAL = Source(
    f"{ORIGINALS}/{{level}}", "FF-real", names=r"(?P<identity>\d+)", people="FaceForensics++", required=True
)  # fmt: skip


def _fakes(folder: str, label: str, masks: bool = True) -> Source:
    base = f"FaceForensics++/manipulated_sequences/{folder}"
    return Source(
        f"{base}/{{level}}",
        label,
        masks=f"{base}/c23/masks" if masks else "",  # one set of masks for all compressions, as in DeepfakeBench
        names=PAIR,
        people="FaceForensics++",
        original=f"{ORIGINALS}/{{level}}/{{target}}",
        peer={"unlisted": EVERYWHERE["unlisted"]} if masks else {},
    )


_ALL_OPEN = {"listed": False, "unlisted": None, "people": "DeepFakeDetection", "peer": EVERYWHERE}

DESCRIPTIONS = (
    Description(
        "FaceForensics++",
        ("FaceForensics++",),
        (REAL, *(_fakes(folder, label) for folder, label in FAKES.items())),
        ffpp_lists,
        levels=True,
        parts={label: ("FF-real", label) for label in FAKES.values()},
        complete=dict.fromkeys(("FF-real", *FAKES.values()), 1000),
        peer=True,
        store="FaceForensics++_lmdb",
        source=PAPER,
        layout=LAYOUT,
        verified=True,
    ),
    Description(
        "FaceShifter",
        ("FaceForensics++",),
        (REAL, _fakes("FaceShifter", "FF-FH", masks=False)),
        ffpp_lists,
        levels=True,
        peer=True,
        store="FaceForensics++_lmdb",
        complete={"FF-real": 1000, "FF-FH": 1000},
        source="Li et al., FaceShifter, CVPR 2020; fakes as distributed with FaceForensics++",
        layout=LAYOUT,
    ),
    Description(
        "DeepFakeDetection",
        ("FaceForensics++",),
        (
            Source(
                "FaceForensics++/original_sequences/actors/{level}",
                "DFD_real",
                names=r"(?P<identity>\d+)__.*",
                required=True,
                **_ALL_OPEN,
            ),
            Source(
                "FaceForensics++/manipulated_sequences/DeepFakeDetection/{level}",
                "DFD_fake",
                masks="FaceForensics++/manipulated_sequences/DeepFakeDetection/c23/masks",
                names=r"(?P<target>\d+)_(?P<source>\d+)__(?P<scene>.+)__\w+",
                original="FaceForensics++/original_sequences/actors/{level}/{target}__{scene}",
                **_ALL_OPEN,
            ),
        ),
        levels=True,
        peer=True,
        store="FaceForensics++_lmdb",
        complete={"DFD_real": 363, "DFD_fake": 3068},
        source="Dufour, Gully, Contributing Data to Deepfake Detection Research, Google and Jigsaw 2019",
        layout=LAYOUT,
        note="No split is published: all for testing, unless shares are given. Names begin with the numbers of actors.",
    ),
    Description(
        "DeeperForensics-1.0",
        ("DeeperForensics-1.0", "FaceForensics++"),
        (
            Source(
                f"{ORIGINALS}/c23",
                "DF_real",
                names=r"(?P<identity>\d+)",
                people="FaceForensics++",
                mode="official",
                required=True,
            ),
            Source(
                "DeeperForensics-1.0/source_videos/{actor}",
                "DF_real",
                listed=False,
                names=r"(?P<identity>[MW]\d+)_.*",
                mode="deepfakebench",
                peer=EVERYWHERE,
            ),
            Source(
                "DeeperForensics-1.0/manipulated_videos/end_to_end",
                "DF_fake",
                names=r"(?P<target>\d+)_(?P<source>[MW]\d+)",
                people="FaceForensics++",
                original=f"{ORIGINALS}/c23/{{target}}",
                required=True,
            ),
        ),
        deeperforensics_lists,
        peer=True,
        store="DeeperForensics-1.0_lmdb",
        complete={"DF_fake": 1000},
        source="Jiang et al., DeeperForensics-1.0, CVPR 2020",
        layout="github.com/EndlessSora/DeeperForensics-1.0, dataset/README.md",
        note="Real are FaceForensics++'s c23 videos, as its README says (official); DeepfakeBench takes the source "
        "videos of the actors. Of the eleven variants of fakes: end_to_end.",
    ),
)
