"""Data sets of pictures: every picture is a video of one frame."""

from resproto_fd.preprocessing.arrangers.description import Description, Source
from resproto_fd.preprocessing.arrangers.lists import forgerynet_lists

# Kinds and families of generators as MFCLIP's tables group them.
GENFACE = {
    "EFS": ("DDPM", "LatDiff", "CollDiff"),
    "AM": ("Diffae", "LatTrans", "IAFaces"),
    "FS": ("DiffFace", "FSLSD", "FaceSwapper"),
}
_GENFACE = {
    **dict.fromkeys(("real", "celeba-hq", "celebahq", "celeba_hq", "ffhq"), "GenFace_Real"),
    **{name.lower(): f"GenFace_{name}" for names in GENFACE.values() for name in names},
}

_DFFD = {
    **dict.fromkeys(("youtube", "ffhq", "celeba", "celeba_2w", "celeba-hq", "real"), "DFFD_Real"),
    "faceapp": "DFFD_FaceApp",
    "stargan": "DFFD_StarGAN",
    **dict.fromkeys(("pggan", "pggan_v1", "pggan_v2"), "DFFD_PGGAN"),
    **dict.fromkeys(("stylegan", "stylegan_celeba", "stylegan_ffhq"), "DFFD_StyleGAN"),
    "deepfakes": "DFFD_Deepfakes",
    "faceswap": "DFFD_FaceSwap",
    "face2face": "DFFD_Face2Face",
    "dfl": "DFFD_DFL",
}

_PERSON = r"_.*"  # IMDB-WIKI: PERSON_BIRTH_YEAR

DESCRIPTIONS = (
    Description(
        "GenFace",
        ("GenFace",),
        (Source("GenFace/**", _GENFACE, listed=False, unlisted=None, pictures=True),),
        parts={
            **{f"GenFace-{name}": ("GenFace_Real", f"GenFace_{name}") for names in GENFACE.values() for name in names},
            **{
                f"GenFace-{kind}": ("GenFace_Real", *(f"GenFace_{name}" for name in names))
                for kind, names in GENFACE.items()
            },
        },
        store="GenFace_lmdb",
        source="Zhang et al., GenFace, TIFS 2024",
        layout="Not described in public; folders called as the generators in MFCLIP's tables, real, train, val, test "
        "are understood in any order.",
    ),
    Description(
        "DFF",
        ("DFF", "DeepFakeFace"),
        tuple(
            Source(
                f"{folder}/{part}/**",
                label,
                listed=False,
                unlisted=None,
                pictures=True,
                names=rf"(?P<{'target' if original else 'identity'}>[^_]+){_PERSON}",
                people="IMDB-WIKI",
                original=f"{folder}/wiki/{{below}}/{{name}}" if original else "",
            )
            for folder in ("DFF", "DeepFakeFace")
            for part, label, original in (
                ("wiki", "DFF_Real", False),
                ("inpainting", "DFF_inpainting", True),
                ("text2img", "DFF_text2img", True),
                ("insight", "DFF_insight", True),
            )
        ),
        store="DFF_lmdb",
        complete=dict.fromkeys(("DFF_Real", "DFF_inpainting", "DFF_text2img", "DFF_insight"), 30000),
        source="Song et al., Robustness and Generalizability of Deepfake Detection (DeepFakeFace), 2023",
        layout="huggingface.co/datasets/OpenRL/DeepFakeFace: four archives with IMDB-WIKI's folders in each",
        note="No split is published: all for testing, unless shares are given; a picture and its fakes stay together.",
    ),
    Description(
        "DFFD",
        ("DFFD",),
        (Source("DFFD/**", _DFFD, listed=False, unlisted=None, pictures=True),),
        store="DFFD_lmdb",
        source="Dang et al., On the Detection of Digital Face Manipulation, CVPR 2020",
        layout="Folders as public loaders of it read them: SOURCE/train, validation, test",
    ),
    Description(
        "ForgeryNet",
        ("ForgeryNet",),
        tuple(
            Source(f"ForgeryNet/{name}/image/**", "ForgeryNet_Real", pictures=True)
            for name in ("Training", "Validation", "Test")
        ),
        forgerynet_lists,
        lists_all=True,
        store="ForgeryNet_lmdb",
        source="He et al., ForgeryNet, CVPR 2021",
        layout="The Readme.txt of its repository, github.com/yinanhe/ForgeryNet: the pictures, with their list in each "
        "of the folders. Order of the 16 labels as public code has it.",
        note="Pictures only; its videos are not arranged.",
    ),
)
