"""DF40's forty methods: a list for each, and DF40's lists of all swaps, reenactments and syntheses.

`NAME_ff` has FaceForensics++'s real videos, and `NAME_cdf` has Celeb-DF-v2's. Nine methods, NAME alone, have their own
real pictures. Fakes for training are in DF40_train, those for testing in DF40. DF40's own JSONs may differ: some that
its script made have the label `roop_Fake`, its issue 16 reports names of files that do not exist, and the content of
its lists `NAME_save` is not described in public. `resproto manifest adopt` takes any of them as they are.
"""

from pathlib import Path

from resproto_fd.preprocessing.arrangers.description import Catalogue, Description, Source
from resproto_fd.preprocessing.arrangers.faceforensics import ORIGINALS, PAIR
from resproto_fd.preprocessing.arrangers.lists import celeb_list, ffpp_lists

# Stems of the label strings; the folders have the same names, but for letter case and SPELLINGS.
SWAPS = ("fsgan", "faceswap", "simswap", "inswap", "blendface", "uniface", "mobileswap", "e4s", "facedancer")
REENACTMENTS = ("fomm", "facevid2vid", "wav2lip", "MRAA", "one_shot_free", "pirender", "tpsm", "lia", "danet",
                "sadtalker", "mcnet", "hyperreenact")  # fmt: skip
SYNTHESES = ("VQGAN", "StyleGAN2", "StyleGAN3", "StyleGANXL", "sd2.1", "ddim", "rddm", "pixart", "DiT", "SiT")
WITH_OWN_REAL = ("deepfacelab", "heygen", "MidJourney", "whichisreal", "stargan", "starganv2", "styleclip", "e4e",
                 "CollabDiff")  # fmt: skip
SPELLINGS = {
    "whichisreal": ("whichfaceisreal", "whichisreal"),
    "CollabDiff": ("CollabDiff", "Collaborative_Diffusion"),
    "DiT": ("DiT", "DiT-XL"),
}
"""Folders of a method, the usual one first; each may also end in "_new", as parts that were published again do."""
FF_CLIP = r"\d{3}(_\d{3})?(/[^/]+)?"
CDF_CLIP = r"((Celeb|YouTube)-(real|synthesis)/)?(id\d+(_id\d+)?_\d{4}|\d{5})(/[^/]+)?"
OF_DOMAINS = r"(ff|cdf)/.+"
GROUPS = {"FSAll": SWAPS, "FRAll": REENACTMENTS, "EFSAll": SYNTHESES}
OF_PICTURES = ("MidJourney", "whichisreal", "stargan", "starganv2", "styleclip", "e4e", "CollabDiff")

_CELEB = "Celeb-DF-v2"


def spellings(stem: str) -> tuple[str, ...]:
    """Names that the folder of a method has, the usual one first."""
    usual = SPELLINGS.get(stem, (stem,))
    return (*usual, *(f"{name}_new" for name in usual))


def _folder(tree: str, stem: str, name: str, below: str) -> dict[str, object]:
    """Keywords of a source for one spelling of a method's folder: the usual one counts where there are two."""
    usual = spellings(stem)[0]
    if name == usual:
        return {"folder": f"{tree}/{name}{below}", "spare": below == "/**"}
    return {"folder": f"{tree}/{name}{below}", "spare": True, "only": ".+", "instead": f"{tree}/{usual}"}


_SHARED = {
    "store": "DF40_lmdb",
    "layout": "github.com/YZY-stack/DF40, README, and the paths of its JSONs",
    "peer": True,
}
_SOURCE = "Yan et al., DF40, NeurIPS 2024 Datasets and Benchmarks"


def _ff(name: str, stems: tuple[str, ...], label: str) -> Description:
    fakes = [
        Source(
            **{**_folder(tree, stem, name_there, below), **only},
            label=f"{label}_Fake",
            means=f"{stem}_Fake",
            split=split,
            names=PAIR,
            people="FaceForensics++",
            original=f"{ORIGINALS}/c23/{{target}}",
            peer={"test": ("val", "test")},
        )
        for stem in stems
        for name_there in spellings(stem)
        for tree, below, split, only in (
            ("DF40_train", "/**", "train", {}),
            ("DF40", "/ff/**", "test", {}),
            ("DF40", "/**", "test", {"only": FF_CLIP, "others": f"{OF_DOMAINS}|{CDF_CLIP}"}),
        )
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
        note="Official: train is DF40_train, test is DF40; FaceForensics++'s lists separate val from train, and videos "
        "that contradict them are left out. DF40 lists the same videos under val and test.",
        **_SHARED,
    )


def _celeb_real(root: Path) -> Catalogue:
    return celeb_list(root, _CELEB)


def _cdf(name: str, stems: tuple[str, ...], label: str) -> Description:
    fakes = [
        Source(
            **{**_folder("DF40", stem, name_there, below), **only},
            label=f"{label}_Fake",
            means=f"{stem}_Fake",
            split="test",
            listed=False,
            names=r"(?P<target>id\d+)_(?P<source>id\d+)_(?P<take>\d+)",
            people=_CELEB,
            original=f"{_CELEB}/Celeb-real/{{target}}_{{take}}",
            peer={"test": ("val", "test")},
        )
        for stem in stems
        for name_there in spellings(stem)
        for below, only in (
            ("/cdf/**", {}),
            ("/**", {"only": CDF_CLIP, "others": f"{OF_DOMAINS}|{FF_CLIP}"}),
        )
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
                **_folder("DF40", stem, name, f"/{kind.lower()}/**"),
                label=f"{stem}_{kind}",
                split="test",
                listed=False,
                pictures=stem in OF_PICTURES,
                peer={"test": ("val", "test")},
            )
            for name in spellings(stem)
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
