"""What label strings mean."""

import pytest

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.taxonomy import load_taxonomy

# Labels of DeepfakeBench's own label_dict (train_config.yaml), fakes and reals.
DEEPFAKEBENCH = {
    "DFD_fake": 1, "DFD_real": 0, "FF-SH": 1, "FF-F2F": 1, "FF-DF": 1, "FF-FS": 1, "FF-NT": 1, "FF-FH": 1,
    "FF-real": 0, "CelebDFv1_real": 0, "CelebDFv1_fake": 1, "CelebDFv2_real": 0, "CelebDFv2_fake": 1, "DFDCP_Real": 0,
    "DFDCP_FakeA": 1, "DFDCP_FakeB": 1, "DFDC_Fake": 1, "DFDC_Real": 0, "DF_fake": 1, "DF_real": 0, "UADFV_Fake": 1,
    "UADFV_Real": 0, "roop_Real": 0, "roop_Fake": 1,
}  # fmt: skip

# DF40: how many methods of each kind its paper counts, and the stems of their label strings.
DF40 = {
    "face swap": "fsgan faceswap simswap inswap blendface uniface mobileswap e4s facedancer deepfacelab",
    "reenactment": "fomm facevid2vid wav2lip MRAA one_shot_free pirender tpsm lia danet sadtalker mcnet hyperreenact "
    "heygen",
    "entire synthesis": "VQGAN StyleGAN2 StyleGAN3 StyleGANXL sd2.1 ddim rddm pixart DiT SiT MidJourney whichisreal",
    "editing": "CollabDiff e4e stargan starganv2 styleclip",
}


def write(path, text):
    path.write_text(text)
    return path


def test_every_label_of_deepfakebench_has_its_class():
    taxonomy = load_taxonomy()
    assert {name: taxonomy[name].label for name in DEEPFAKEBENCH} == DEEPFAKEBENCH


def test_df40s_forty_methods_have_their_kind_and_a_name_each():
    taxonomy = load_taxonomy()
    methods = set()
    for forgery_type, stems in DF40.items():
        for stem in stems.split():
            assert taxonomy[f"{stem}_Fake"].forgery_type == forgery_type, stem
            assert taxonomy[f"{stem}_Real"].method == "real", stem
            methods.add(taxonomy[f"{stem}_Fake"].method)
    assert len(methods) == 40


def test_the_four_manipulations_of_ffpp_are_told_apart():
    taxonomy = load_taxonomy()
    names = ["FF-DF", "FF-F2F", "FF-FS", "FF-NT"]
    assert [taxonomy[name].method for name in names] == ["Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures"]
    assert [taxonomy[name].forgery_type for name in names] == ["face swap", "reenactment"] * 2


def test_an_unknown_label_is_named_with_the_nearest_and_the_remedy():
    with pytest.raises(UserError, match=r"'FF-DFF'.*nearest is 'FF-DF'.*labels: \{FF-DFF: real\}"):
        load_taxonomy()["FF-DFF"]


def test_a_data_sets_own_labels_are_laid_over_the_taxonomy():
    taxonomy = load_taxonomy()
    wider = taxonomy.extended(
        {"roop_Fake": "SimSwap", "studio": "real", "new": {"method": "MyGAN", "type": "entire synthesis"}}
    )
    assert wider["roop_Fake"].method == "SimSwap"
    assert wider["studio"].label == 0
    assert (wider["new"].label, wider["new"].forgery_type) == (1, "entire synthesis")
    assert wider["FF-DF"] == taxonomy["FF-DF"]
    assert taxonomy["roop_Fake"].method == "roop"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"a": "SimSwp"}, "nearest is 'SimSwap'"),
        ({"a": {"method": "X", "type": "swap"}}, "label 'a': key 'type'"),
        ({"a": {"method": "X"}}, "key 'type' is missing"),
        ({"a": {"method": "X", "type": "editing", "kind": 1}}, "unknown key 'kind'"),
        ({"a": {"method": "SimSwap", "type": "editing"}}, "known as face swap"),
        ({"a": {"method": "camera", "type": "real"}}, "expected method 'real'"),
        ({"a": 1}, "label 'a'"),
    ],
)
def test_a_wrong_label_of_a_data_set_is_refused_by_name(labels, message):
    with pytest.raises(UserError, match=message):
        load_taxonomy().extended(labels, "Mine.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("methods: {A: {type: editing, labels: [x]}, B: {type: editing, labels: [x]}}", "'x' is listed under two"),
        ("methods: {A: {type: swap}}", "methods.A.type"),
        ("methods: {A: {type: editing, label: [x]}}", "methods.A.label"),
        ("methods: {A: {type: real}}", "expected method 'real'"),
        ("labels: {}", "unknown key 'labels'"),
    ],
)
def test_a_wrong_taxonomy_file_is_refused_by_key(tmp_path, text, message):
    path = write(tmp_path / "taxonomy.yaml", text)
    with pytest.raises(UserError, match=message) as error:
        load_taxonomy(path)
    assert "taxonomy.yaml" in str(error.value)
