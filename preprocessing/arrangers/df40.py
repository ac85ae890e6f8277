"""DF40's forty methods: a list for each, and DF40's lists of all swaps, reenactments and syntheses.

`NAME_ff` has FaceForensics++'s real videos, `NAME_cdf` Celeb-DF-v2's; nine methods, NAME alone, bring their own real
pictures. Fakes for training lie in DF40_train, those for testing in DF40. DF40's own JSONs may differ: of those made
by its script some carry the label `roop_Fake`, its issue 16 speaks of files that are named and not there, and what its
lists `NAME_save` hold is not said in public. `resproto manifest adopt` takes any of them as they are.
"""

from pathlib import Path

from resproto_fd.preprocessing.arrangers.description import Catalogue, Description, Source
from resproto_fd.preprocessing.arrangers.faceforensics import ORIGINALS, PAIR
from resproto_fd.preprocessing.arrangers.lists import celeb_list, ffpp_lists

# Stems of the label strings; the folders have the same names, but for letter case and FOLDERS.
SWAPS = ("fsgan", "faceswap", "simswap", "inswap", "blendface", "uniface", "mobileswap", "e4s", "facedancer")
REENACTMENTS = ("fomm", "facevid2vid", "wav2lip", "MRAA", "one_shot_free", "pirender", "tpsm", "lia", "danet",
                "sadtalker", "mcnet", "hyperreenact")  # fmt: skip
SYNTHESES = ("VQGAN", "StyleGAN2", "StyleGAN3", "StyleGANXL", "sd2.1", "ddim", "rddm", "pixart", "DiT", "SiT")
WITH_OWN_REAL = ("deepfacelab", "heygen", "MidJourney", "whichisreal", "stargan", "starganv2", "styleclip", "e4e",
                 "CollabDiff")  # fmt: skip
FOLDERS = {"whichisreal": ("whichfaceisreal", "whichisreal")}
GROUPS = {"FSAll": SWAPS, "FRAll": REENACTMENTS, "EFSAll": SYNTHESES}
OF_PICTURES = ("MidJourney", "whichisreal", "stargan", "starganv2", "styleclip", "e4e", "CollabDiff")

_CELEB = "Celeb-DF-v2"
_SHARED = {
    "store": "DF40_lmdb",
    "layout": "github.com/YZY-stack/DF40, README, and the paths of its JSONs",
    "peer": True,
}
_SOURCE = "Yan et al., DF40, NeurIPS 2024 Datasets and Benchmarks"


def _ff(name: str, stems: tuple[str, ...], label: str) -> Description:
    fakes = [
        Source(
            f"{tree}/{folder}{below}",
            f"{label}_Fake",
            means=f"{stem}_Fake",
            split=split,
            names=PAIR,
            people="FaceForensics++",
            original=f"{ORIGINALS}/c23/{{target}}",
            peer={"test": ("val", "test")},
        )
        for stem in stems
        for folder in FOLDERS.get(stem, (stem,))
        for tree, below, split in (("DF40_train", "/**", "train"), ("DF40", "/ff/**", "test"))
    ]
    real = Source(
        f"{ORIGINALS}/c23",
        f"{label}_Real",
        names=r"(?P<identity>\d+)",
        people="FaceForensics++",
        peer={"val": (), "test": ("val", "test")},
        required=True,
    )
    return Description(
        name,
        ("DF40", "DF40_train", "FaceForensics++"),
        (real, *fakes),
        ffpp_lists,
        source=f"{_SOURCE}: {', '.join(stems)}, real videos of FaceForensics++",
        note="Official: train is DF40_train, test is DF40; FaceForensics++'s lists part val from train, and what "
        "contradicts them is left out. DF40 lists the same videos under val and test.",
        **_SHARED,
    )


def _celeb_real(root: Path) -> Catalogue:
    return celeb_list(root, _CELEB)


def _cdf(name: str, stems: tuple[str, ...], label: str) -> Description:
    fakes = [
        Source(
            f"DF40/{folder}/cdf/**",
            f"{label}_Fake",
            means=f"{stem}_Fake",
            split="test",
            listed=False,
            names=r"(?P<target>id\d+)_(?P<source>id\d+)_(?P<take>\d+)",
            people=_CELEB,
            original=f"{_CELEB}/Celeb-real/{{target}}_{{take}}",
            peer={"test": ("val", "test")},
        )
        for stem in stems
        for folder in FOLDERS.get(stem, (stem,))
    ]
    real = [
        Source(
            f"{_CELEB}/{folder}",
            f"{label}_Real",
            names=r"(?P<identity>id\d+)_\d+",
            people=_CELEB,
            peer={"test": ("val", "test")},
            required=True,
        )
        for folder in ("Celeb-real", "YouTube-real")
    ]
    return Description(
        name,
        ("DF40", _CELEB),
        (*real, *fakes),
        _celeb_real,
        source=f"{_SOURCE}: {', '.join(stems)}, real videos of Celeb-DF-v2",
        note="For testing only: real videos are Celeb-DF-v2's test videos.",
        **_SHARED,
    )


def _own(stem: str) -> Description:
    return Description(
        stem,
        ("DF40",),
        tuple(
            Source(
                f"DF40/{folder}/{kind.lower()}/**",
                f"{stem}_{kind}",
                split="test",
                listed=False,
                pictures=stem in OF_PICTURES,
                peer={"test": ("val", "test")},
            )
            for folder in FOLDERS.get(stem, (stem,))
            for kind in ("Real", "Fake")
        ),
        source=f"{_SOURCE}: {stem}, with its own real pictures",
        note="For testing only.",
        **_SHARED,
    )


_KNOWN = (*SWAPS, *REENACTMENTS, *SYNTHESES)

DESCRIPTIONS = (
    *(make(f"{stem}_{domain}", (stem,), stem) for stem in _KNOWN for domain, make in (("ff", _ff), ("cdf", _cdf))),
    *(_own(stem) for stem in WITH_OWN_REAL),
    *(
        make(f"{group}_{domain}", stems, group)
        for group, stems in GROUPS.items()
        for domain, make in (("ff", _ff), ("cdf", _cdf))
    ),
)
