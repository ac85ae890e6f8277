"""Data sets of videos that GenD's panel adds to the usual ones: FFIW, DFDM, DeepSpeak, FakeAVCeleb and others.

None was tried on a real tree. Numbers of videos that a data set's own page does not print are those that public code
counts.
"""

from functools import partial

from resproto_fd.preprocessing.arrangers.description import Description, Source
from resproto_fd.preprocessing.arrangers.lists import (
    IDFORGE_SOUND,
    deepspeak_lists,
    fakeavceleb_list,
    idforge_lists,
)

NEVER, ANY = r"(?!)", r"(?s:.*)"
"""For `only` and `others`: a folder that belongs to the data set, of which no clip is taken."""

DFDM = {
    "faceswap": "DFDM_Faceswap",
    **dict.fromkeys(("lightweight", "light-weight"), "DFDM_Lightweight"),
    "iae": "DFDM_IAE",
    "dfaker": "DFDM_Dfaker",
    **dict.fromkeys(("dfl", "dfl-h128", "dfl_h128"), "DFDM_DFL-H128"),
}
DEEPSPEAK = {
    "1.1": ("facefusion", "facefusion_gan", "facefusion_live", "retalking", "wav2lip"),
    "2.0": ("diff2lip", "facefusion", "hellomeme", "latentsync", "liveportrait", "memo"),
}
"""Engines of each version, as the names of its fakes begin."""
IDFORGE = (
    "face_audiomismatch_textmismatch",
    "face_rvc_textmismatch",
    "face_tts",
    "face_tts_textgen",
    "lip_audiomismatch_textmismatch",
    "lip_rvc_textmismatch",
    "lip_tts_textgen",
)
"""Folders of IDForge whose pictures are forged."""
_FFIW = ("FFIW10K", "FFIW10K-v1-release")


def _ffiw() -> tuple[Source, ...]:
    of = {"source": "FFIW_Real", "target": "FFIW_Fake"}
    named = [
        Source(f"{top}/{folder}/{split}/**", label, split=split, listed=False, spare=True)
        for top in _FFIW
        for folder, label in of.items()
        for split in ("train", "val", "test")
    ]
    apart = [
        Source(f"{_FFIW[1]}-test/{folder}/**", of[folder], split="test", listed=False, spare=True) for folder in of
    ]
    masks = [
        Source(f"{top}/target_mask/**", "FFIW_Fake", only=NEVER, others=ANY, listed=False, spare=True)
        for top in (*_FFIW, f"{_FFIW[1]}-test")
    ]
    return (*named, *apart, *masks)


def _deepspeak(version: str, reals: int, fakes: int) -> Description:
    name, major = f"DeepSpeak-{version}", version[0]
    between = r"--(?P<source>\d+)-(?P<target>\d+)--\d+-\d+--\d+" if major == "1" else r"-[^/]+"
    forms = {f"DeepSpeak{major}_{engine}": f"{engine}{between}" for engine in DEEPSPEAK[version]}
    forms[f"DeepSpeak{major}_Real"] = r"(?P<identity>\d+)-\d+"
    plain = {label: form.replace("?P<source>", "").replace("?P<target>", "") for label, form in forms.items()}
    plain[f"DeepSpeak{major}_Real"] = r"\d+-\d+"
    return Description(
        name,
        (name,),
        tuple(
            Source(
                f"{name}/**",
                label,
                names=form,
                only=f"(.*/)?{plain[label]}",
                others="|".join(f"(.*/)?{each}" for other, each in plain.items() if other != label),
                people="DeepSpeak",
            )
            for label, form in forms.items()
        ),
        partial(deepspeak_lists, dataset=name),
        store=f"{name}_lmdb",
        source=f"Barrington, Bohacek, Farid, The DeepSpeak Dataset, 2024 (version {version})",
        layout="Names of its videos and lists as public loaders of huggingface.co/datasets/faridlab/deepspeak_v"
        f"{version.replace('.', '_').removesuffix('_0')} read them; folders do not matter",
        note="Official: the split of the actor on screen. No validation split is published.",
        complete={"real": reals, "fake": fakes},
    )


DESCRIPTIONS = (
    Description(
        "FFIW",
        (*_FFIW, f"{_FFIW[1]}-test"),
        _ffiw(),
        store="FFIW_lmdb",
        source="Zhou et al., Face Forensics in the Wild, CVPR 2021",
        layout="github.com/tfzhou/FFIW, README: source/train, source/val, target/train, target/val; the folder of its "
        "test part as public code reads it",
        note="Source videos are real, target videos fake, with several faces each, of which few are altered: a crop of "
        "a fake video may show a real face.",
        complete={"real": 9988, "fake": 9988},
    ),
    Description(
        "DFDM",
        ("DFDM", "Celeb-DF-v2"),
        (
            Source(
                "Celeb-DF-v2/Celeb-real",
                "DFDM_Real",
                listed=False,
                unlisted=None,
                names=r"(?P<identity>id\d+)_\d+",
                people="Celeb-DF-v2",
                required=True,
            ),
            Source(
                "DFDM/**",
                DFDM,
                listed=False,
                unlisted=None,
                names=r"(?P<target>id\d+)_(?P<source>id\d+)_(?P<take>\d+).*",
                people="Celeb-DF-v2",
                original="Celeb-DF-v2/Celeb-real/{target}_{take}",
            ),
        ),
        store="DFDM_lmdb",
        source="Jia, Li, Lyu, Model Attribution of Face-swap Deepfake Videos, ICIP 2022",
        layout="github.com/shanface33/Deepfake_Model_Attribution, README: five models; their folders, in any order "
        "with those of the three qualities (DFDM_crf0, DFDM_crf10, DFDM_crf23), as public code names them",
        note="Real are all Celeb-real videos of Celeb-DF-v2. No split is published: all for testing, unless shares are "
        "given. Who is target and who is source in a name is taken as in Celeb-DF.",
        complete={"real": 590, "fake": 6450},
    ),
    _deepspeak("1.1", reals=6667, fakes=6796),
    _deepspeak("2.0", reals=9376, fakes=7209),
    Description(
        "FakeAVCeleb",
        ("FakeAVCeleb_v1.2", "FakeAVCeleb"),
        tuple(
            Source(
                f"{top}/{kind}/**",
                "FakeAVCeleb_Real" if kind == "RealVideo-RealAudio" else "FakeAVCeleb_Fake",
                unlisted=None,
                spare=True,
                **({"only": NEVER, "others": ANY} if kind == "RealVideo-FakeAudio" else {}),
            )
            for top in ("FakeAVCeleb_v1.2", "FakeAVCeleb")
            for kind in ("RealVideo-RealAudio", "FakeVideo-RealAudio", "FakeVideo-FakeAudio", "RealVideo-FakeAudio")
        ),
        fakeavceleb_list,
        store="FakeAVCeleb_lmdb",
        source="Khalid, Tariq, Kim, Woo, FakeAVCeleb, NeurIPS 2021 Datasets and Benchmarks",
        layout="Folders TYPE/RACE/GENDER/PERSON and meta_data.csv of version 1.2, as public loaders of it read them",
        note="Labels are those of meta_data.csv. RealVideo-FakeAudio is left out: its pictures are real. No split is "
        "published: all for testing, unless shares are given.",
        complete={"real": 500, "fake": 20544},
        optional=("FakeAVCeleb_Fake",),
        lists_all=True,
    ),
    Description(
        "PolyGlotFake",
        ("PolyGlotFake",),
        tuple(
            Source(
                "PolyGlotFake/**",
                label,
                listed=False,
                unlisted=None,
                names=names,
                only=f"(.*/)?{only}",
                others=f"(.*/)?{others}",
            )
            for label, names, only, others in (
                ("PolyGlotFake_Real", r"(?P<identity>[a-z]{2}_\d+)", r"[a-z]{2}_\d+", r"[a-z]{2}_\d+_to_[^/]+"),
                ("PolyGlotFake_Fake", r"(?P<target>[a-z]{2}_\d+)_to_.+", r"[a-z]{2}_\d+_to_[^/]+", r"[a-z]{2}_\d+"),
            )
        ),
        store="PolyGlotFake_lmdb",
        source="Hou et al., PolyGlotFake, 2024",
        layout="Names of its videos (es_1, es_1_to_ru_Xtts) as public code reads them; folders do not matter",
        note="No split is published: all for testing, unless shares are given. Speakers are not named: a clip and its "
        "dubbed versions count as one person.",
        complete={"real": 766, "fake": 14472},
    ),
    Description(
        "IDForge",
        ("IDForge",),
        tuple(
            Source(
                f"IDForge/main/{folder}/**",
                "IDForge_Real" if folder == "pristine" else f"IDForge_{folder}",
                names=r"(?P<identity>id\d+)_.*",
                people="IDForge",
            )
            for folder in ("pristine", *IDFORGE)
        )
        + tuple(
            Source(f"IDForge/{folder}/**", "IDForge_Real", only=NEVER, others=ANY, listed=False, spare=True)
            for folder in (*(f"main/{sound}" for sound in IDFORGE_SOUND), "ref")
        ),
        idforge_lists,
        parts={"IDForge-face_tts": ("IDForge_Real", "IDForge_face_tts")},
        store="IDForge_lmdb",
        source="Xu et al., Identity-Driven Multimedia Forgery Detection via Reference Assistance, ACM MM 2024",
        layout="github.com/xyyandxyy/IDForge, README, version 1: main/TYPE/PERSON/SOURCE; its lists IDForge_v1/*.csv",
        note="The three types with real pictures and a forged sound are left out, and so is the reference set.",
        lists_all=True,
    ),
)
