"""Benchmarks of 2024 and 2025 that detectors are tested on: Deepfake-Eval-2024, HydraFake, ScaleDF.

None was tried on a real tree.
"""

from functools import partial

from resproto_fd.preprocessing.arrangers.description import Description, Source
from resproto_fd.preprocessing.arrangers.lists import deepfake_eval_list

HYDRAFAKE = {
    "ID": ("FaceForensics++", "facevid2vid", "Hallo2", "StyleGAN", "Midjourney"),
    "CM": ("AdobeFirefly", "Flux11Pro", "StarryAI", "MAGI", "HART", "Infinity"),
    "CF": ("StarGANv2", "ICLight", "CodeFormer", "InfiniteYou", "PuLID", "FaceAdapter"),
    "CD": ("deepfacelab", "InfiniteYou-CD", "dreamina", "hailuo", "gpt4o", "FFIW"),
}
"""HydraFake's test sets by level: in domain, other models, other kinds of forgery, other domains."""
_SCALEDF_REAL = "000000"  # the names of real faces' archives begin so


def _eval_2024(kind: str, end: str, folder: str, **further) -> Description:
    return Description(
        f"Deepfake-Eval-2024{end}",
        ("Deepfake-Eval-2024",),
        (Source(folder, "DFEval2024_Real", **further),),
        partial(deepfake_eval_list, kind=kind),
        store=f"Deepfake-Eval-2024{end}_lmdb",
        source="Chandra et al., Deepfake-Eval-2024, 2025",
        layout=f"{kind}-data and the data set's CSV beside it, as public code of "
        "huggingface.co/datasets/nuriachandra/Deepfake-Eval-2024 reads them",
        note="Found on the internet. Official: the column Finetuning Set. What it calls unknown is left out.",
        lists_all=True,
    )


def _hydrafake() -> tuple[Source, ...]:
    shared = {"listed": False, "pictures": True}
    tests = [
        Source(f"hydrafake/test/{above}{method}/{folder}/**", label, split="test", spare=True, **shared)
        for level, methods in HYDRAFAKE.items()
        for method in methods
        for above in ("", f"{level.lower()}/")
        for folder, label in (("0_real", f"HydraFake_{level}_Real"), ("1_fake", f"HydraFake_{method}"))
    ]
    others = [
        Source(f"hydrafake/{split}/{folder}/**", label, split=split, spare=True, **shared)
        for split, folder, label in (
            ("val", "real", "HydraFake_Real"),
            ("val", "fake", "HydraFake_Fake"),
            ("train", "real", "HydraFake_Real"),
            ("train", "fake", {"fs": "HydraFake_FS", "fr": "HydraFake_FR", "efg": "HydraFake_EFG"}),
        )
    ]
    return (*tests, *others)


DESCRIPTIONS = (
    _eval_2024("video", "", "Deepfake-Eval-2024/video-data"),
    _eval_2024("image", "-img", "Deepfake-Eval-2024/image-data/**", pictures=True),
    Description(
        "HydraFake",
        ("hydrafake",),
        _hydrafake(),
        parts={
            f"HydraFake-{level}": (f"HydraFake_{level}_Real", *(f"HydraFake_{method}" for method in methods))
            for level, methods in HYDRAFAKE.items()
        },
        store="HydraFake_lmdb",
        optional=("HydraFake_Real", "HydraFake_Fake", "HydraFake_FS", "HydraFake_FR", "HydraFake_EFG"),
        source="Tan et al., Veritas: Generalizable Deepfake Detection via Pattern-Aware Reasoning, ICLR 2026",
        layout="github.com/EricTan7/Veritas, README: test/METHOD/0_real, 1_fake (a folder of the level may be above "
        "METHOD), val/real, val/fake, train/fake/FS, FR, EFG; its 23 methods as its hydrafake.yaml lists them",
        note="Every test set has real pictures of its own. Kinds of forgery are those of the methods' own papers; of "
        "the training pictures, those of their folders.",
    ),
    Description(
        "ScaleDF",
        ("ScaleDF",),
        tuple(
            Source(
                f"ScaleDF/{folder}/**",
                label,
                split=split,
                listed=False,
                pictures=True,
                only=own,
                others=other,
            )
            for folder, split in (("train", "train"), ("val", "test"))
            for label, own, other in (
                ("ScaleDF_Real", f"{_SCALEDF_REAL}[^/]*/.+", f"(?!{_SCALEDF_REAL})[^/]+/.+"),
                ("ScaleDF_Fake", f"(?!{_SCALEDF_REAL})[^/]+/.+", f"{_SCALEDF_REAL}[^/]*/.+"),
            )
        ),
        store="ScaleDF_lmdb",
        source="Wang et al., Scaling Laws for Deepfake Detection, 2025",
        layout="huggingface.co/datasets/WenhaoWang/ScaleDF, README: train/*.tar and val/*.tar, those of real faces "
        "called 000000NAME.tar; each is unpacked into a folder of its name. What is inside them is not described",
        note="Its val is taken for testing. The methods' kinds of forgery are not told.",
        complete={"real": 5_800_000, "fake": 8_800_000},
    ),
)
