"""Data sets of videos that stand by themselves."""

from functools import partial

from resproto_fd.preprocessing.arrangers.description import ALL, EVERYWHERE, VAL_TOO, Description, Source
from resproto_fd.preprocessing.arrangers.lists import celeb_list, dfdc_lists, dfdcp_list


def _celeb(name: str, version: str, year: str, reals: int, fakes: int) -> Description:
    """DeepfakeBench trains on all of the folder it met last of each label, its test videos too; by name that is
    YouTube-real, and Celeb-synthesis."""
    real, fake = f"CelebDF{version}_real", f"CelebDF{version}_fake"
    train_too = {"test": ALL, "unlisted": ("train",)}
    shared = {"unlisted": ("train",), "people": name}
    return Description(
        name,
        (name,),
        (
            Source(
                f"{name}/Celeb-real",
                real,
                names=r"(?P<identity>id\d+)_\d+",
                peer={**VAL_TOO, "unlisted": ()},
                required=True,
                **shared,
            ),
            Source(f"{name}/YouTube-real", real, peer=train_too, required=True, **shared),
            Source(
                f"{name}/Celeb-synthesis",
                fake,
                names=r"(?P<target>id\d+)_(?P<source>id\d+)_(?P<take>\d+)",
                original=f"{name}/Celeb-real/{{target}}_{{take}}",
                peer=train_too,
                required=True,
                **shared,
            ),
        ),
        partial(celeb_list, dataset=name),
        peer=True,
        store=f"{name}_lmdb",
        source=f"Li et al., Celeb-DF, {year}",
        layout="DeepfakeBench's preprocessing; github.com/yuezunli/celeb-deepfakeforensics",
        verified=name == "Celeb-DF-v2",
        complete={real: reals, fake: fakes},
        lists_all=True,
        note="Official: test videos by its list, the others are for training; no validation split is published. "
        "People are in both train and test.",
    )


CELEB_PP = {
    "FS": ("Celeb-DF", "BlendFace", "GHOST", "HifiFace", "InSwapper", "MobileFaceSwap", "SimSwap", "UniFace"),
    "FR": ("DaGAN", "FSRT", "HyperReenact", "LIA", "LivePortrait", "MCNET", "TPSMM"),
    "TF": ("AniTalker", "EchoMimic", "EDTalk", "FLOAT", "IP_LAP", "Real3DPortrait", "SadTalker"),
}
"""Celeb-DF++'s methods by scenario: face swap, face reenactment, talking face."""
_CELEB_PP = {name.lower(): f"CelebDFpp_{name}" for names in CELEB_PP.values() for name in names}

_KODF = {
    "original_videos": "KoDF_Real", "real": "KoDF_Real",
    "synthesized_videos": "KoDF_Fake", "fake": "KoDF_Fake",
    "faceswap": "KoDF_FaceSwap", "fs": "KoDF_FaceSwap", "dffs": "KoDF_FaceSwap",
    "deepfacelab": "KoDF_DFL", "dfl": "KoDF_DFL",
    "fsgan": "KoDF_FSGAN",
    "fomm": "KoDF_FOMM", "fo": "KoDF_FOMM",
    "audio-driven": "KoDF_AudioDriven", "audio_driven": "KoDF_AudioDriven",
    "atfhp": "KoDF_ATFHP",
    "wav2lip": "KoDF_Wav2Lip",
}  # fmt: skip

DESCRIPTIONS = (
    _celeb("Celeb-DF-v1", "v1", "2019 (v1)", reals=408, fakes=795),
    _celeb("Celeb-DF-v2", "v2", "CVPR 2020", reals=890, fakes=5639),
    Description(
        "Celeb-DF++",
        ("Celeb-DF++",),
        (
            Source(
                "Celeb-DF++/Celeb-real",
                "CelebDFpp_real",
                names=r"(?P<identity>id\d+)_\d+",
                unlisted=("train",),
                people="Celeb-DF-v2",
                required=True,
            ),
            Source(
                "Celeb-DF++/YouTube-real", "CelebDFpp_real", unlisted=("train",), people="Celeb-DF-v2", required=True
            ),
            Source(
                "Celeb-DF++/Celeb-synthesis/**",
                _CELEB_PP,
                names=r"(?P<target>id\d+)(_(?P<source>id\d+))?_(?P<take>\d{4}).*",
                original="Celeb-DF++/Celeb-real/{target}_{take}",
                unlisted=("train",),
                people="Celeb-DF-v2",
                required=True,
            ),
        ),
        partial(celeb_list, dataset="Celeb-DF++"),
        parts={
            f"Celeb-DF++-{scenario}": ("CelebDFpp_real", *(f"CelebDFpp_{name}" for name in names))
            for scenario, names in CELEB_PP.items()
        },
        store="Celeb-DF++_lmdb",
        source="Li et al., Celeb-DF++, 2025",
        layout="github.com/OUC-VAS/Celeb-DF-PP, README: Celeb-synthesis/SCENARIO/METHOD; SCENARIO may be missing",
        note="Official: test videos by its list, the others are for training. People are those of Celeb-DF-v2, and are "
        "in both train and test. Who is target and who is source in the names of its new methods is not described.",
        complete={"real": 890, "fake": 53196},
        lists_all=True,
    ),
    Description(
        "DFDC",
        ("DFDC",),
        (
            Source("DFDC/train/{part}", "DFDC_Real", peer={"train": ("train", "val")}, spare=True),
            Source("DFDC/dfdc_train_part_{part}", "DFDC_Real", peer={"train": ("train", "val")}, spare=True),
            Source("DFDC/train_sample_videos", "DFDC_Real", peer={"train": ("train", "val")}, spare=True),
            Source("DFDC/validation", "DFDC_Real", spare=True),
            Source("DFDC/test", "DFDC_Real"),
        ),
        dfdc_lists,
        peer=True,
        store="DFDC_lmdb",
        source="Dolhansky et al., The DeepFake Detection Challenge Dataset, 2020",
        layout="DeepfakeBench's preprocessing; kaggle.com/c/deepfake-detection-challenge/data. The folder validation, "
        "by analogy with test, is taken along where there is one.",
        folders_whole={("DFDC/train/{part}", "DFDC/dfdc_train_part_{part}"): 50, ("DFDC/test",): 1},
        lists_all=True,
        note="Labels are those of metadata.json and labels.csv. DeepfakeBench's val cannot be read as it writes it; "
        "with its splits val is train, as its script means.",
    ),
    Description(
        "DFDCP",
        ("DFDCP",),
        (
            Source("DFDCP/original_videos/**", "DFDCP_Real", peer=VAL_TOO),
            Source("DFDCP/method_A/**", "DFDCP_FakeA", peer=VAL_TOO),
            Source("DFDCP/method_B/**", "DFDCP_FakeB", peer=VAL_TOO),
        ),
        dfdcp_list,
        peer=True,
        store="DFDCP_lmdb",
        lists_all=True,
        source="Dolhansky et al., The Deepfake Detection Challenge Preview Dataset, 2019",
        layout="DeepfakeBench's preprocessing; dataset.json of the data set",
    ),
    Description(
        "UADFV",
        ("UADFV",),
        (
            Source(
                "UADFV/real",
                "UADFV_Real",
                listed=False,
                unlisted=None,
                names=r"(?P<identity>\d+)",
                peer=EVERYWHERE,
                required=True,
            ),
            Source(
                "UADFV/fake",
                "UADFV_Fake",
                listed=False,
                unlisted=None,
                names=r"(?P<target>\d+)(_fake)?",
                original="UADFV/real/{target}",
                peer=EVERYWHERE,
                required=True,
            ),
        ),
        peer=True,
        store="UADFV_lmdb",
        complete={"real": 49, "fake": 49},
        source="Li, Chang, Lyu, In Ictu Oculi, WIFS 2018; Yang, Li, Lyu, ICASSP 2019",
        layout="DeepfakeBench's preprocessing",
        note="No split is published: all for testing, unless shares are given.",
    ),
    Description(
        "WildDeepfake",
        ("WildDeepfake", "deepfake_in_the_wild"),
        tuple(
            Source(f"{folder}/{kind}_{split}/**", f"WildDeepfake_{kind.capitalize()}", split=split)
            for folder in ("WildDeepfake", "deepfake_in_the_wild")
            for kind in ("real", "fake")
            for split in ("train", "test")
        ),
        store="WildDeepfake_lmdb",
        complete={"real": 3805, "fake": 3509},
        source="Zi et al., WildDeepfake, ACM MM 2020",
        layout="github.com/OpenTAI/wild-deepfake, README: folders real_train, real_test, fake_train, fake_test of "
        "archives, in them one folder of face pictures a sequence",
        note="No validation split is published.",
    ),
    Description(
        "KoDF",
        ("KoDF", "kodf_release"),
        tuple(Source(f"{folder}/**", _KODF, listed=False, unlisted=None) for folder in ("KoDF", "kodf_release")),
        store="KoDF_lmdb",
        optional=tuple(set(_KODF.values()) - {"KoDF_Real"}),  # the names of the methods' folders are guessed
        source="Kwon et al., KoDF, ICCV 2021",
        layout="The two top folders original_videos and synthesized_videos are those that public loaders of it read; "
        "its methods are those of the paper, the names of their folders are not described in public and guessed.",
        note="No split is known: all for testing, unless shares or folders train, val, test are given.",
    ),
)
