"""Arrangers: made trees of every data set, DeepfakeBench's own trees, splits, side files, and what is refused."""

import argparse
import csv
import json
import math
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.loading import load, names
from resproto_fd.preprocessing import manifest_command as command
from resproto_fd.preprocessing.arrangers import DESCRIPTIONS, arrange, describe_folders, find
from resproto_fd.preprocessing.arrangers.df40 import GROUPS, WITH_OWN_REAL
from resproto_fd.preprocessing.arrangers.lists import FORGERYNET
from resproto_fd.preprocessing.arrangers.manifest_writer import layout, write
from resproto_fd.preprocessing.manifest import read_manifest
from resproto_fd.preprocessing.manifest_command import summary
from resproto_fd.preprocessing.side_file import generator_families, read_side, side_path
from resproto_fd.preprocessing.taxonomy import load_taxonomy
from resproto_fd.training.protocols import dataset_config

FEW = ("--allow", "fewer-videos")  # made trees are small
FAKES = ("Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures")
ORIGINALS = "FaceForensics++/original_sequences/youtube/c23"
PAIRS = {"train": [["000", "003"]], "val": [["720", "672"]], "test": [["953", "974"]]}
OF_PAIRS = [name for pairs in PAIRS.values() for a, b in pairs for name in (a, b)]
FAKES_OF_PAIRS = [name for pairs in PAIRS.values() for a, b in pairs for name in (f"{a}_{b}", f"{b}_{a}")]


def frames(root, *folders, count=2, suffix=".png"):
    """Folders of numbered pictures, empty files."""
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for i in range(count):
            (root / folder / f"{9 * i:03d}{suffix}").touch()


def pictures(root, folder, *files):
    (root / folder).mkdir(parents=True, exist_ok=True)
    for file in files:
        (root / folder / file).touch()


def text(root, path, content):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(content if isinstance(content, str) else json.dumps(content))


def ffpp_real(root, level="c23"):
    for split, pairs in PAIRS.items():
        text(root, f"FaceForensics++/{split}.json", pairs)
    frames(root, *(f"FaceForensics++/original_sequences/youtube/{level}/frames/{name}" for name in OF_PAIRS))


def ffpp(root):
    ffpp_real(root)
    for fake in FAKES:
        base = f"FaceForensics++/manipulated_sequences/{fake}/c23"
        frames(root, *(f"{base}/frames/{name}" for name in FAKES_OF_PAIRS))
        frames(root, *(f"{base}/masks/{name}" for name in FAKES_OF_PAIRS), count=1)


def face_shifter(root):
    ffpp_real(root)
    frames(root, *(f"FaceForensics++/manipulated_sequences/FaceShifter/c23/frames/{n}" for n in FAKES_OF_PAIRS))


def dfd(root):
    frames(root, *(f"FaceForensics++/original_sequences/actors/c23/frames/{n}__walking" for n in ("01", "02")))
    frames(root, "FaceForensics++/manipulated_sequences/DeepFakeDetection/c23/frames/01_02__walking__YVGY8LOK")


def deeper(root):
    ffpp_real(root)
    for split, pairs in PAIRS.items():
        lines = "\n".join(f"{name}_M00{len(split)}.mp4" for pair in pairs for name in pair)
        text(root, f"DeeperForensics-1.0/lists/splits/{split}.txt", lines)
        fakes = (f"{name}_M00{len(split)}" for pair in pairs for name in pair)
        frames(root, *(f"DeeperForensics-1.0/manipulated_videos/end_to_end/frames/{name}" for name in fakes))
    frames(root, "DeeperForensics-1.0/source_videos/M004/frames/M004_light_up_happy_camera_front")


def celeb(root, name="Celeb-DF-v2"):
    frames(root, *(f"{name}/Celeb-real/frames/id{i}_0000" for i in range(3)))
    frames(root, *(f"{name}/YouTube-real/frames/0000{i}" for i in range(3)))
    frames(root, *(f"{name}/Celeb-synthesis/frames/id{i}_id{1 - i}_0000" for i in range(2)))
    listed = "1 Celeb-real/id0_0000.mp4\n1 YouTube-real/00001.mp4\n0 Celeb-synthesis/id0_id1_0000.mp4\n"
    text(root, f"{name}/List_of_testing_videos.txt", listed)


def celeb_v1(root):
    celeb(root, "Celeb-DF-v1")


def celeb_pp(root):
    frames(root, *(f"Celeb-DF++/Celeb-real/frames/id{i}_0000" for i in range(2)))
    frames(root, *(f"Celeb-DF++/YouTube-real/frames/0000{i}" for i in range(2)))
    swap, talk = "Celeb-DF++/Celeb-synthesis/FaceSwap", "Celeb-DF++/Celeb-synthesis/TalkingFace/EDTalk"
    frames(root, *(f"{swap}/{name}/frames/id0_id1_0000" for name in ("SimSwap", "Celeb-DF")))
    frames(root, f"{talk}/frames/id0_0000_x")
    names = ("Celeb-real/id0_0000", "YouTube-real/00001", "Celeb-synthesis/FaceSwap/SimSwap/id0_id1_0000")
    text(root, "Celeb-DF++/List_of_testing_videos.txt", "".join(f"1 {name}.mp4\n" for name in names))


def dfdc(root):
    part = "DFDC/train/dfdc_train_part_0"
    frames(root, f"{part}/frames/aaa", f"{part}/frames/bbb", "DFDC/test/frames/ccc", "DFDC/test/frames/ddd")
    said = {"aaa.mp4": {"label": "REAL", "split": "train"}, "bbb.mp4": {"label": "FAKE", "original": "aaa.mp4"}}
    text(root, f"{part}/metadata.json", said)
    text(root, "DFDC/test/labels.csv", "filename,label\nccc.mp4,0\nddd.mp4,1\neee.mp4,1\n")


def dfdcp(root):
    said = {}
    for number, split in ((1, "train"), (2, "test")):
        for folder, label in (("original_videos", "real"), ("method_A", "fake"), ("method_B", "fake")):
            said[f"{folder}/{number}/{number}_A_000.mp4"] = {
                "label": label, "set": split, "augmentations": [], "target_id": number,
                "swapped_id": None if label == "real" else number + 6,
            }  # fmt: skip
            below = f"{number}/" if folder == "method_B" else ""  # as `resproto faces` leaves it; else DeepfakeBench's
            frames(root, f"DFDCP/{folder}/{below}frames/{number}_A_000")
    text(root, "DFDCP/dataset.json", said)


def uadfv(root):
    frames(root, *(f"UADFV/{kind}/frames/{n:04d}{end}" for n in range(8) for kind, end in PAIR_OF_UADFV))


PAIR_OF_UADFV = (("real", ""), ("fake", "_fake"))


def wild(root):
    for split in ("train", "test"):
        for kind in ("real", "fake"):
            frames(root, *(f"WildDeepfake/{kind}_{split}/{tar}/{kind}/13" for tar in (0, 1)))


def kodf(root):
    frames(root, "KoDF/original_videos/frames/a", "KoDF/synthesized_videos/fsgan/frames/b")
    frames(root, "KoDF/synthesized_videos/audio-driven/9/frames/c", "KoDF/synthesized_videos/new/frames/d")


def df40(root):
    ffpp_real(root)
    celeb(root)
    frames(root, *(f"DF40_train/simswap/frames/{name}" for name in ("000_003", "720_672", "953_974")))
    frames(root, "DF40/simswap/ff/frames/953_974", "DF40/simswap/cdf/frames/id0_id1_0000")
    pictures(root, "DF40_train/DiT/000", "seed1.png", "seed10.png", "seed2.png")
    pictures(root, "DF40/DiT/ff/953", "seed1.png")
    pictures(root, "DF40/DiT/cdf/YouTube-real/00001", "seed1.png")
    pictures(root, "DF40/whichfaceisreal/fake", "1.jpg", "2.jpg")
    pictures(root, "DF40/whichfaceisreal/real", "3.jpg")


def genface(root):
    for split in ("train", "val", "test"):
        pictures(root, f"GenFace/{split}/real", f"{split}1.jpg", f"{split}2.jpg")
        pictures(root, f"GenFace/DDPM/{split}", f"{split}.png")
    frames(root, "GenFace/FS/DiffFace/test/frames/0001", count=1)  # as `resproto faces` leaves it
    pictures(root, "GenFace/test/NewGAN", "1.png")


def dff(root):
    for part in ("wiki", "inpainting", "text2img", "insight"):
        pictures(root, f"DFF/{part}/00", *(f"10{i}_1981-05-23_2008.jpg" for i in range(20)))


def dffd(root):
    for split in ("train", "validation", "test"):
        for source in ("ffhq", "pggan_v1", "stylegan_ffhq", "FaceSwap"):
            pictures(root, f"DFFD/{source}/{split}", "1.png", "2.png")


def forgerynet(root):
    for folder in ("Training", "Validation"):
        pictures(root, f"ForgeryNet/{folder}/image/1/a", "frame1.jpg")
        pictures(root, f"ForgeryNet/{folder}/image/19/b", "frame1.jpg", "frame2.jpg")
        lines = "1/a/frame1.jpg 1 1 2\n19/b/frame1.jpg 0 0 0\n"
        text(root, f"ForgeryNet/{folder}/image_list.txt", lines)


MADE = {
    # data set: (tree, official videos of train, val, test by label, the same with DeepfakeBench's splits)
    "FaceForensics++": (ffpp, dict.fromkeys(("FF-real", "FF-DF", "FF-F2F", "FF-FS", "FF-NT"), (2, 2, 2)), ...),
    "FaceShifter": (face_shifter, {"FF-real": (2, 2, 2), "FF-FH": (2, 2, 2)}, ...),
    "DeepFakeDetection": (
        dfd, {"DFD_real": (0, 0, 2), "DFD_fake": (0, 0, 1)}, {"DFD_real": (2, 2, 2), "DFD_fake": (1, 1, 1)},
    ),
    "DeeperForensics-1.0": (
        deeper, {"DF_real": (2, 2, 2), "DF_fake": (2, 2, 2)}, {"DF_real": (1, 1, 1), "DF_fake": (2, 2, 2)},
    ),
    "Celeb-DF-v1": (
        celeb_v1,
        {"CelebDFv1_real": (4, 0, 2), "CelebDFv1_fake": (1, 0, 1)},
        {"CelebDFv1_real": (3, 2, 2), "CelebDFv1_fake": (2, 1, 1)},
    ),
    "Celeb-DF-v2": (
        celeb,
        {"CelebDFv2_real": (4, 0, 2), "CelebDFv2_fake": (1, 0, 1)},
        {"CelebDFv2_real": (3, 2, 2), "CelebDFv2_fake": (2, 1, 1)},
    ),
    "Celeb-DF++": (
        celeb_pp,
        {
            "CelebDFpp_real": (2, 0, 2), "CelebDFpp_SimSwap": (0, 0, 1), "CelebDFpp_Celeb-DF": (1, 0, 0),
            "CelebDFpp_EDTalk": (1, 0, 0),
        },
        None,
    ),
    "DFDC": (
        dfdc, {"DFDC_Real": (1, 0, 1), "DFDC_Fake": (1, 0, 1)}, {"DFDC_Real": (1, 1, 1), "DFDC_Fake": (1, 1, 1)},
    ),
    "DFDCP": (
        dfdcp,
        {"DFDCP_Real": (1, 0, 1), "DFDCP_FakeA": (1, 0, 1), "DFDCP_FakeB": (1, 0, 1)},
        {"DFDCP_Real": (1, 1, 1), "DFDCP_FakeA": (1, 1, 1), "DFDCP_FakeB": (1, 1, 1)},
    ),
    "UADFV": (
        uadfv, {"UADFV_Real": (0, 0, 8), "UADFV_Fake": (0, 0, 8)}, {"UADFV_Real": (8, 8, 8), "UADFV_Fake": (8, 8, 8)},
    ),
    "WildDeepfake": (wild, {"WildDeepfake_Real": (2, 0, 2), "WildDeepfake_Fake": (2, 0, 2)}, None),
    "KoDF": (
        kodf,
        {"KoDF_Real": (0, 0, 1), "KoDF_FSGAN": (0, 0, 1), "KoDF_AudioDriven": (0, 0, 1), "KoDF_Fake": (0, 0, 1)},
        None,
    ),
    "simswap_ff": (
        df40,
        {"simswap_Real": (2, 2, 2), "simswap_Fake": (1, 1, 1)},
        {"simswap_Real": (2, 2, 2), "simswap_Fake": (3, 1, 1)},
    ),
    "simswap_cdf": (
        df40,
        {"simswap_Real": (0, 0, 2), "simswap_Fake": (0, 0, 1)},
        {"simswap_Real": (0, 2, 2), "simswap_Fake": (0, 1, 1)},
    ),
    "DiT_ff": (df40, {"DiT_Real": (2, 2, 2), "DiT_Fake": (1, 0, 1)}, {"DiT_Real": (2, 2, 2), "DiT_Fake": (1, 1, 1)}),
    "EFSAll_cdf": (
        df40,
        {"EFSAll_Real": (0, 0, 2), "EFSAll_Fake": (0, 0, 1)},
        {"EFSAll_Real": (0, 2, 2), "EFSAll_Fake": (0, 1, 1)},
    ),
    "whichisreal": (
        df40,
        {"whichisreal_Real": (0, 0, 1), "whichisreal_Fake": (0, 0, 2)},
        {"whichisreal_Real": (0, 1, 1), "whichisreal_Fake": (0, 2, 2)},
    ),
    "GenFace": (
        genface, {"GenFace_Real": (2, 2, 2), "GenFace_DDPM": (1, 1, 1), "GenFace_DiffFace": (0, 0, 1)}, None,
    ),
    "DFF": (
        dff, {f"DFF_{part}": (0, 0, 20) for part in ("Real", "inpainting", "text2img", "insight")}, None,
    ),
    "DFFD": (
        dffd, {f"DFFD_{part}": (2, 2, 2) for part in ("Real", "PGGAN", "StyleGAN", "FaceSwap")}, None,
    ),
    "ForgeryNet": (forgerynet, {"ForgeryNet_Real": (1, 1, 0), "ForgeryNet_FSGAN": (1, 1, 0)}, None),
}  # fmt: skip


def counts(arrangement):
    """Videos of train, val and test by label."""
    found = Counter((video.label, split) for video in arrangement.videos for split in video.splits)
    labels = {label for label, _ in found}
    return {label: tuple(found[label, split] for split in ("train", "val", "test")) for label in labels}


def made(tmp_path, name, **options):
    root = tmp_path / "rgb"
    MADE[name][0](root)
    return root, arrange(find(name)[0], root, **options)


def all_videos(path, name, **options):
    """Every split's videos as the trainer reads them."""
    found = []
    for split in ("train", "val", "test"):
        try:
            found += read_manifest(path, name, split=split, **options)
        except UserError as error:
            assert "has no video with frames" in str(error)
    return found


def comparable(node):
    """A dataset JSON without the order of its keys and lists."""
    if isinstance(node, dict):
        return {key: comparable(value) for key, value in node.items()}
    return sorted(node) if isinstance(node, list) else node


# --- DeepfakeBench's own trees and JSONs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path_form", "folder"), [("released", "dataset_json_released_style"), ("files", "dataset_json")]
)
def test_ffpp_is_arranged_as_deepfakebench_does_to_the_letter(shared, tmp_path, path_form, folder):
    fixture = shared / "fixtures/deepfakebench"
    arrangement = arrange(DESCRIPTIONS["FaceForensics++"], fixture / "datasets/rgb")
    paths = write(arrangement, fixture / "datasets/rgb", tmp_path, path_form=path_form)
    assert [path.name for path in paths] == ["FaceForensics++.json", "FF-DF.json", "FF-NT.json"]
    for path in paths:
        assert comparable(json.loads(path.read_text())) == comparable(
            json.loads((fixture / folder / path.name).read_text())
        )


def test_celeb_with_deepfakebenchs_splits_has_its_fault_too(shared, tmp_path):
    fixture = shared / "fixtures/deepfakebench"
    arrangement = arrange(DESCRIPTIONS["Celeb-DF-v2"], fixture / "datasets/rgb", splits="deepfakebench")
    (path,) = write(arrangement, fixture / "datasets/rgb", tmp_path)
    theirs = json.loads((fixture / "dataset_json_released_style/Celeb-DF-v2.json").read_text())
    assert comparable(json.loads(path.read_text())) == comparable(theirs)


def test_celebs_official_train_has_both_real_folders_and_no_test_video(shared):
    arrangement = arrange(DESCRIPTIONS["Celeb-DF-v2"], shared / "fixtures/deepfakebench/datasets/rgb")
    splits = {video.name: video.splits for video in arrangement.videos}
    assert len(splits) == 10
    assert {name for name, split in splits.items() if split == ("train",)} == {
        "00000", "00001", "id1_0001", "id1_id0_0001",
    }  # fmt: skip
    assert all(split == ("test",) for name, split in splits.items() if name.startswith(("id0", "id2", "00170")))


def test_videos_cut_by_our_faces_are_found_where_they_lie(shared):
    """The real clips' tree, with folders of frames in the places that `resproto faces` chooses for them."""
    from resproto_fd.preprocessing.faces.sources import find_sources

    sources, _ = find_sources([shared / "real/videos_native/FaceForensics++"], "out")
    assert len(sources) == 7
    patterns = {source.folder for source in DESCRIPTIONS["FaceForensics++"].sources}
    for source in sources:
        assert f"{source.folder.rpartition('/')[0]}/{{level}}" in patterns


# --- every data set --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MADE)
def test_every_data_set_is_arranged_with_its_labels_and_official_splits(tmp_path, name):
    _, arrangement = made(tmp_path, name)
    assert counts(arrangement) == MADE[name][1]


@pytest.mark.parametrize("name", MADE)
def test_no_test_video_is_in_train(tmp_path, name):
    root, arrangement = made(tmp_path, name)
    write(arrangement, root, tmp_path)
    videos = all_videos(tmp_path / f"{name}.json", name)
    by_split = {split: {f for v in videos if v.split == split for f in v.frames} for split in ("train", "val", "test")}
    assert by_split["test"] or by_split["val"]
    assert not by_split["test"] & (by_split["train"] | by_split["val"])
    assert not by_split["train"] & by_split["val"]


@pytest.mark.parametrize("name", MADE)
def test_what_is_written_is_read_back_whole_under_the_same_name(tmp_path, name):
    root, arrangement = made(tmp_path, name)
    write(arrangement, root, tmp_path)
    config = dataset_config(name, tmp_path)
    options = {"key": config.key, "folder": config.folder, "compression": config.compression}
    options["taxonomy"] = load_taxonomy().extended(config.labels)
    videos = all_videos(tmp_path / config.json_file, name, **options)
    assert len(videos) == len(arrangement.videos)
    assert {frame for video in videos for frame in video.frames} == {
        frame for video in arrangement.videos for frame in video.clip.frames
    }
    side = read_side(side_path(tmp_path / config.json_file))
    assert {video.id: (video.split,) for video in videos} == {r.id: r.splits for r in side.records.values()}
    assert {video.id: video.label for video in videos} == {r.id: r.label for r in side.records.values()}


@pytest.mark.parametrize("name", [name for name in MADE if MADE[name][2] is not None])
def test_deepfakebenchs_splits_are_made_as_its_script_makes_them(tmp_path, name):
    expected = MADE[name][1] if MADE[name][2] is ... else MADE[name][2]
    _, arrangement = made(tmp_path, name, splits="deepfakebench")
    assert counts(arrangement) == expected


@pytest.mark.parametrize("name", [name for name in MADE if MADE[name][2] is None])
def test_data_sets_without_a_script_of_deepfakebench_have_no_such_splits(tmp_path, name):
    with pytest.raises(UserError, match=re.escape(f"{name}: DeepfakeBench has no script")):
        made(tmp_path, name, splits="deepfakebench")


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_every_label_of_every_data_set_is_in_the_taxonomy(name):
    taxonomy = load_taxonomy()
    description = DESCRIPTIONS[name]
    for source in description.sources:
        for label in [source.label] if isinstance(source.label, str) else source.label.values():
            assert taxonomy[label].label == (
                "real" not in label.lower() or bool(re.search("whichisreal_F|Real3D", label))
            ), label
        assert not source.means or taxonomy[source.means].method
    labels = {label for part in description.parts.values() for label in part}
    assert all(taxonomy[label] for label in labels)
    assert description.source and description.store.endswith("_lmdb")


def test_names_that_the_package_knows_are_read_with_its_own_files():
    for name in [name for name in DESCRIPTIONS if name in names("datasets")]:
        config = load("datasets", name)
        assert config.json_file == f"{name}.json" and config.key == name
        assert config.store == DESCRIPTIONS[name].store
        known = [config.folder] if isinstance(config.folder, str) else config.folder
        assert set(DESCRIPTIONS[name].folders) <= set(known), name


def test_df40_has_a_list_for_each_of_forty_methods_and_its_groups():
    lists = find("DF40")
    stems = [stem for group in GROUPS.values() for stem in group]
    assert len(stems) + len(WITH_OWN_REAL) == 40
    expected = {f"{stem}_{domain}" for stem in (*stems, *GROUPS) for domain in ("ff", "cdf")} | set(WITH_OWN_REAL)
    assert {description.name for description in lists} == expected
    taxonomy = load_taxonomy()
    assert len({taxonomy[f"{stem}_Fake"].method for stem in (*stems, *WITH_OWN_REAL)}) == 40


def test_lists_of_several_methods_keep_each_ones_method_in_the_side_file(tmp_path):
    root, arrangement = made(tmp_path, "EFSAll_cdf")
    (path,) = write(arrangement, root, tmp_path)
    (fake,) = [r for r in read_side(side_path(path)).records.values() if r.label]
    assert (fake.method, fake.forgery_type, fake.family) == ("DiT-XL/2", "entire synthesis", "diffusion")
    assert fake.label_name == "EFSAll_Fake"


def test_a_training_tree_that_holds_a_test_video_loses_it(tmp_path):
    _, arrangement = made(tmp_path, "simswap_ff")
    ((reason, left_out),) = arrangement.left_out.items()
    assert reason == "lies in a train folder, but the lists say test"
    assert left_out == ["DF40_train/simswap/953_974"]


# --- layout ------------------------------------------------------------------------------------------------------


def test_compression_levels_stand_side_by_side_and_masks_are_those_of_c23(tmp_path):
    ffpp(tmp_path)
    base = "FaceForensics++/manipulated_sequences/Deepfakes"
    for level in ("c40", "raw"):
        frames(tmp_path, *(f"FaceForensics++/original_sequences/youtube/{level}/frames/{n}" for n in OF_PAIRS))
        frames(tmp_path, *(f"{base}/{level}/frames/{n}" for n in FAKES_OF_PAIRS))
    (tmp_path / f"{base}/masks/videos").mkdir(parents=True)  # FaceForensics++'s own folder of mask videos
    arrangement = arrange(DESCRIPTIONS["FaceForensics++"], tmp_path)
    table = layout(arrangement.videos, "X")["X"]["FF-DF"]["train"]
    assert list(table) == ["c23", "c40", "raw"]
    for level in table:
        entry = table[level]["000_003"]
        assert entry["frames"][0] == f"{base}/{level}/frames/000_003/000.png".replace("/", "\\")
        assert entry["masks"] == [f"{base}/c23/masks/000_003/000.png".replace("/", "\\")]
    only = arrange(DESCRIPTIONS["FaceForensics++"], tmp_path, levels=["c40"])
    assert {video.level for video in only.videos} == {"c40"}
    write(arrangement, tmp_path, tmp_path / "out")
    assert dataset_config("FaceForensics++_raw", tmp_path / "out").compression == "raw"
    assert not (tmp_path / "out/FaceForensics++_c40.yaml").exists()  # the package has it


def test_a_fake_without_masks_has_an_empty_list_and_face_shifter_has_none(tmp_path):
    face_shifter(tmp_path)
    frames(tmp_path, "FaceForensics++/manipulated_sequences/Deepfakes/c23/frames/000_003")
    deepfakes = arrange(DESCRIPTIONS["FaceForensics++"], tmp_path).videos[-1]
    shifter = arrange(DESCRIPTIONS["FaceShifter"], tmp_path).videos[-1]
    assert (deepfakes.masks, shifter.masks) == ((), None)
    assert "masks" not in layout([shifter], "X")["X"]["FF-FH"][shifter.splits[0]]["c23"][shifter.name]


def test_every_label_has_the_three_splits_because_deepfakebench_asks_for_each(tmp_path):
    _, arrangement = made(tmp_path, "UADFV")
    table = layout(arrangement.videos, "UADFV")["UADFV"]
    assert all(list(splits) == ["train", "val", "test"] for splits in table.values())


def test_videos_of_one_name_get_names_of_their_own(tmp_path):
    root, arrangement = made(tmp_path, "WildDeepfake")
    found = {video.name for video in arrangement.videos if video.label == "WildDeepfake_Real"}
    assert found == {f"real_{split}_{tar}_real_13" for split in ("train", "test") for tar in (0, 1)}
    (path,) = write(arrangement, root, tmp_path)
    assert len({video.id for video in all_videos(path, "WildDeepfake")}) == 8


def test_frames_come_in_the_order_of_their_numbers(tmp_path):
    _, arrangement = made(tmp_path, "DiT_ff")
    (fake,) = [v for v in arrangement.videos if v.label == "DiT_Fake" and v.splits == ("train",)]
    assert [frame.rpartition("/")[2] for frame in fake.clip.frames] == ["seed1.png", "seed2.png", "seed10.png"]
    assert "frames not named by a number, which DeepfakeBench cannot sort: 4" in summary(arrangement)


def test_genfaces_generators_and_kinds_are_data_sets_of_their_own(tmp_path):
    root, arrangement = made(tmp_path, "GenFace")
    paths = write(arrangement, root, tmp_path)
    assert {path.stem for path in paths} == {"GenFace", "GenFace-DDPM", "GenFace-DiffFace"}
    config = dataset_config("GenFace-DDPM", tmp_path)
    videos = read_manifest(tmp_path / config.json_file, "GenFace-DDPM", split="test", folder=config.folder)
    assert {video.method for video in videos} == {"real", "DDPM"}
    families = {record.method: record.family for record in read_side(side_path(paths[0])).records.values()}
    assert families == {"real": None, "DDPM": "diffusion", "DiffFace": "diffusion"}


# --- side files --------------------------------------------------------------------------------------------------


def test_the_side_file_tells_who_is_seen_and_what_was_altered(tmp_path):
    root, arrangement = made(tmp_path, "FaceForensics++")
    path = write(arrangement, root, tmp_path)[0]
    side = read_side(side_path(path))
    assert side.header["splits"] == "official" and side.header["manifest"] == "FaceForensics++.json"
    swap, puppet = (
        side.records[f"FaceForensics++/manipulated_sequences/{method}/c23/000_003"]
        for method in ("Deepfakes", "Face2Face")
    )
    assert (swap.target, swap.source, swap.identity) == tuple(f"FaceForensics++/{n}" for n in ("000", "003", "003"))
    assert puppet.identity == "FaceForensics++/000"
    assert swap.original == puppet.original == f"{ORIGINALS}/000"
    assert swap.people == {"FaceForensics++/000", "FaceForensics++/003"}
    assert (swap.family, puppet.family) == ("autoencoder", None)
    assert side.records[f"{ORIGINALS}/000"].identity == "FaceForensics++/000"


@pytest.mark.parametrize(
    ("name", "fake", "target", "source", "original"),
    [
        ("Celeb-DF-v2", "id0_id1_0000", "Celeb-DF-v2/id0", "Celeb-DF-v2/id1", "Celeb-DF-v2/Celeb-real/id0_0000"),
        ("DeepFakeDetection", "01_02__walking__YVGY8LOK", "DeepFakeDetection/01", "DeepFakeDetection/02",
         "FaceForensics++/original_sequences/actors/c23/01__walking"),
        ("DeeperForensics-1.0", "000_M005", "FaceForensics++/000", "FaceForensics++/M005", f"{ORIGINALS}/000"),
        ("DFDC", "bbb", None, None, "DFDC/train/dfdc_train_part_0/aaa"),
        ("DFDCP", "1_A_000", "DFDCP/1", "DFDCP/7", None),
        ("UADFV", "0003_fake", "UADFV/0003", None, "UADFV/real/0003"),
        ("simswap_ff", "953_974", "FaceForensics++/953", "FaceForensics++/974", f"{ORIGINALS}/953"),
        ("simswap_cdf", "id0_id1_0000", "Celeb-DF-v2/id0", "Celeb-DF-v2/id1", "Celeb-DF-v2/Celeb-real/id0_0000"),
    ],
)  # fmt: skip
def test_names_tell_people_and_originals(tmp_path, name, fake, target, source, original):
    root, arrangement = made(tmp_path, name)
    path = write(arrangement, root, tmp_path)[0]
    record = next(
        record
        for record in read_side(side_path(path)).records.values()
        if record.label and record.id.endswith(f"/{fake}") and record.splits != ("val",)
    )
    assert (record.target, record.source, record.original) == (target, source, original)


def test_a_picture_of_dff_knows_its_original_and_its_person(tmp_path):
    root, arrangement = made(tmp_path, "DFF")
    (path,) = write(arrangement, root, tmp_path)
    records = read_side(side_path(path)).records
    fake = records["DFF/insight/00/103_1981-05-23_2008"]
    assert fake.original == "DFF/wiki/00/103_1981-05-23_2008"
    assert fake.target == records[fake.original].identity == "IMDB-WIKI/103"


def test_what_faces_recorded_of_the_videos_goes_into_the_side_file(tmp_path):
    root, arrangement = made(tmp_path, "Celeb-DF-v2")
    record = {"width": 640, "height": 360, "fps": 25.0, "codec": "h264", "several": {"0": 2, "5": 3, "9": 2}}
    text(root, ".faces/records/Celeb-DF-v2/YouTube-real/00001.json", record)
    (path,) = write(arrangement, root, tmp_path)
    media = {r.id: r.media for r in read_side(side_path(path)).records.values() if r.media}
    assert media == {
        "Celeb-DF-v2/YouTube-real/00001": {"width": 640, "height": 360, "fps": 25.0, "codec": "h264", "several": [0, 9]}
    }


def test_captions_find_their_frame_or_their_video(tmp_path, capsys):
    root, _ = made(tmp_path, "Celeb-DF-v2")
    frame = "Celeb-DF-v2/YouTube-real/frames/00001/000.png"
    lines = [
        {"frame": frame.replace("/", "\\"), "facial": "a man", "environmental": "a street"},
        {"video": "Celeb-DF-v2/YouTube-real/00001", "facial": "someone"},
        {"video": "Celeb-DF-v2/YouTube-real/99999", "facial": "nobody"},
    ]
    text(tmp_path, "captions.jsonl", "\n".join(map(json.dumps, lines)))
    assert resproto("Celeb-DF-v2", root, tmp_path / "out", "--captions", tmp_path / "captions.jsonl", *FEW) == 0
    record = read_side(tmp_path / "out/Celeb-DF-v2.side.jsonl").records["Celeb-DF-v2/YouTube-real/00001"]
    assert (record.caption(frame, "facial"), record.caption(frame, "environmental")) == ("a man", "a street")
    assert record.caption(frame.replace("000.png", "009.png"), "facial") == "someone"
    assert record.caption(frame.replace("000.png", "009.png"), "environmental") is None
    assert "unknown frames or videos: 1 (Celeb-DF-v2/YouTube-real/99999)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("", "got an empty file"),
        ('{"format": "other"}', r"side\.jsonl:1: expected format 'resproto side 1', got 'other'"),
        ('{"format": "resproto side 1"}\n{"id": "a"}', "side.jsonl:2: not a whole record"),
        ('{"format": "resproto side 1"}\n{"id": "a", "colour": 1}', "unknown key 'colour'"),
        ('{"format": "resproto side 1"}\n{"id":', "side.jsonl:2: not a whole line"),
        ('{"format": "resproto side 1"}\n[]', "got list"),
    ],
)
def test_a_broken_side_file_is_refused_by_line(tmp_path, lines, message):
    text(tmp_path, "X.side.jsonl", lines)
    with pytest.raises(UserError, match=message):
        read_side(tmp_path / "X.side.jsonl")


def test_every_method_with_a_family_is_in_the_taxonomy():
    families = generator_families()
    assert set(families) <= set(load_taxonomy().types)
    assert set(families.values()) == {"diffusion", "gan", "autoencoder"}


def test_forgerynets_labels_are_its_sixteen():
    assert list(FORGERYNET) == list(range(1, 16))
    assert len(set(FORGERYNET.values())) == 15


# --- splits that are drawn -----------------------------------------------------------------------------------------


def test_shares_keep_people_apart_and_a_picture_with_its_fakes(tmp_path):
    _, arrangement = made(tmp_path, "DFF", shares=(0.5, 0.2, 0.3))
    by_person = {}
    for video in arrangement.videos:
        by_person.setdefault(next(iter(video.people.values())), set()).update(video.splits)
    assert all(len(splits) == 1 for splits in by_person.values())
    assert {split for splits in by_person.values() for split in splits} == {"train", "val", "test"}
    assert len(arrangement.videos) == 80


def test_a_fake_made_of_people_of_two_splits_is_left_out(tmp_path):
    pairs = [(a, b) for a in range(1, 9) for b in range(1, 9) if a != b]
    frames(tmp_path, *(f"FaceForensics++/original_sequences/actors/c23/frames/{a:02d}__hug" for a in range(1, 9)))
    base = "FaceForensics++/manipulated_sequences/DeepFakeDetection/c23/frames"
    frames(tmp_path, *(f"{base}/{a:02d}_{b:02d}__hug__X" for a, b in pairs))
    arrangement = arrange(DESCRIPTIONS["DeepFakeDetection"], tmp_path, shares=(0.5, 0, 0.5))
    people = {"train": set(), "test": set()}
    for video in arrangement.videos:
        people[video.splits[0]].update(video.people.values())
    assert people["train"] and people["test"] and not people["train"] & people["test"]
    left_out = arrangement.left_out["has people of different splits"]
    assert len(left_out) + len(arrangement.videos) == 64


def test_a_validation_split_is_cut_from_train_by_person_where_none_is_published(tmp_path):
    celeb(tmp_path)
    frames(tmp_path, *(f"Celeb-DF-v2/YouTube-real/frames/{i:05d}" for i in range(100, 140)))
    arrangement = arrange(DESCRIPTIONS["Celeb-DF-v2"], tmp_path, val_share=0.5)
    splits = Counter(video.splits[0] for video in arrangement.videos)
    assert splits["test"] == 3 and splits["val"] > 10 and splits["train"] > 10
    again = arrange(DESCRIPTIONS["Celeb-DF-v2"], tmp_path, val_share=0.5)
    other = arrange(DESCRIPTIONS["Celeb-DF-v2"], tmp_path, val_share=0.5, seed=1)
    assert [v.splits for v in again.videos] == [v.splits for v in arrangement.videos]
    assert [v.splits for v in other.videos] != [v.splits for v in arrangement.videos]


def test_a_published_validation_split_stays_as_it_is(tmp_path):
    _, arrangement = made(tmp_path, "FaceForensics++", val_share=0.5)
    assert counts(arrangement) == MADE["FaceForensics++"][1]


# --- what is refused, counted or left out --------------------------------------------------------------------------


FF, CELEB, DEEPER = "FaceForensics++", "Celeb-DF-v2", "DeeperForensics-1.0/lists/splits"
CELEB_LIST, DFDC_PART = f"{CELEB}/List_of_testing_videos.txt", "DFDC/train/dfdc_train_part_0/metadata.json"


@pytest.mark.parametrize(
    ("name", "path", "content", "message"),
    [
        (FF, f"{FF}/val.json", None, r"val\.json: missing; put .*pairs"),
        (FF, f"{FF}/val.json", "[[", r"val\.json: not a whole JSON"),
        (FF, f"{FF}/val.json", {}, r"val\.json: expected a list of pairs"),
        (FF, f"{FF}/test.json", [["000", "111"]], "'000' is in train.json"),
        (CELEB, CELEB_LIST, None, "testing_videos.txt: missing"),
        (CELEB, CELEB_LIST, "id0", "txt:1: expected '1 YouTube"),
        ("simswap_cdf", CELEB_LIST, None, "testing_videos.txt: missing"),
        ("DFDC", "DFDC/test/labels.csv", None, r"labels\.csv: missing"),
        ("DFDC", "DFDC/test/labels.csv", "a.mp4,2", r"labels\.csv:1: expected 'VIDEO.mp4,1'"),
        ("DFDC", DFDC_PART, {"a": 1}, "expected label REAL or FAKE"),
        ("DFDCP", "DFDCP/dataset.json", None, r"dataset\.json: missing"),
        (
            "DFDCP",
            "DFDCP/dataset.json",
            {"a/b.mp4": {"set": "training set"}},
            "expected set train, val or test, got 'training set'",
        ),
        (
            "DFDCP",
            "DFDCP/dataset.json",
            {"a/b.mp4": {"set": "train", "label": "?"}},
            "expected label 'real' or 'fake', got '\\?'",
        ),
        (
            "DFDCP",
            "DFDCP/dataset.json",
            {f"method_A/{n}/b.mp4": {"set": "train", "label": "fake", "target_id": n} for n in (1, 2)},
            "'method_A/2/b.mp4': another video b of method_A has other values",
        ),
        ("DeeperForensics-1.0", f"{DEEPER}/val.txt", None, r"val\.txt: missing"),
        ("DeeperForensics-1.0", f"{DEEPER}/val.txt", "000_M009", "has one split"),
        ("ForgeryNet", "ForgeryNet/Training/image_list.txt", "a 1 1 16", "list.txt:1: expected 'PATH"),
        (
            "ForgeryNet",
            "ForgeryNet/Training/image_list.txt",
            "a.jpg 1 1 2\na.jpg 0 0 0",
            "list.txt:2: .* train ForgeryNet_FSGAN and train ForgeryNet_Real; .*; remove the wrong line",
        ),
    ],
)
def test_a_missing_or_broken_list_is_named_with_what_is_wanted(tmp_path, name, path, content, message):
    MADE[name][0](tmp_path)
    (tmp_path / path).unlink()
    if content is not None:
        text(tmp_path, path, content)
    with pytest.raises(UserError, match=message):
        arrange(find(name)[0], tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"splits": "oficial"}, "got 'oficial'; the nearest is 'official'"),
        ({"levels": ["c24"]}, "--compression: .*got 'c24'; the nearest is 'c"),
        ({"shares": (0, 0, 0)}, "three numbers of 0 or more"),
        ({"shares": (1, -1, 1)}, "three numbers of 0 or more"),
        ({"shares": (0.5, 0.2, 0.2)}, r"whose sum is 1, got 0.5 0.2 0.2, whose sum is 0.9"),
        ({"shares": (5, 2, 3)}, "whose sum is 1, got 5 2 3, whose sum is 10"),
        ({"shares": (0.5, math.nan, 0.5)}, "whose sum is 1"),
        ({"shares": (0.5, 0.2, 0.3)}, r"--shares: every video of FaceForensics\+\+ already has a split \(official"),
        ({"val_share": 1}, "from 0 to below 1"),
    ],
)
def test_options_out_of_range_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        made(tmp_path, "FaceForensics++", **options)


@pytest.mark.parametrize("splits", ["official", "deepfakebench"])
def test_shares_where_the_splits_are_given_are_an_error_not_ignored(tmp_path, splits):
    celeb(tmp_path)
    words = ["--splits", splits, "--shares", 0.5, 0.2, 0.3]
    with pytest.raises(UserError, match=rf"--shares: every video of Celeb-DF-v2 already has a split \({splits}"):
        resproto("Celeb-DF-v2", tmp_path, tmp_path / "out", *words)
    text(tmp_path, "x.json", {"x": {}})
    with pytest.raises(UserError, match="--shares: adopt keeps the splits of its lists"):
        resproto("adopt", tmp_path, tmp_path / "out", "--list", tmp_path / "x.json", "--shares", 0, 0, 1)
    assert not (tmp_path / "out").exists()
    assert resproto("Celeb-DF-v2", tmp_path, tmp_path / "out", "--splits", splits, *FEW) == 0


@pytest.mark.parametrize("name", ["a/b", "../a", ".a", "a\\b", "a\nb", "n" * 201])
def test_a_name_that_is_none_of_a_file_is_refused_before_anything_is_written(tmp_path, name):
    frames(tmp_path, "Mine/real/a", "Mine/fake/b")
    with pytest.raises(UserError, match=r"expected a name that a file can have.*--name"):
        resproto("folders", tmp_path / "Mine", tmp_path / "out", "--name", name)
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("*.json"))


def test_an_unknown_data_set_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"'Celeb-DF-v3'; the nearest is 'Celeb-DF-v[12]'"):
        find("Celeb-DF-v3")


def test_a_root_without_the_data_set_is_named_with_what_it_has(tmp_path):
    frames(tmp_path, "Other/real/frames/a")
    with pytest.raises(UserError, match="holds no folder 'UADFV'; it has Other"):
        arrange(DESCRIPTIONS["UADFV"], tmp_path)
    with pytest.raises(UserError, match="no such folder; --root is the folder that holds UADFV"):
        arrange(DESCRIPTIONS["UADFV"], tmp_path / "nowhere")


def test_an_empty_tree_is_an_error_that_says_where_was_looked(tmp_path):
    (tmp_path / "WildDeepfake/real_train").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no video of WildDeepfake is left; looked in .*real_train.*resproto faces"):
        arrange(DESCRIPTIONS["WildDeepfake"], tmp_path)


def test_a_folder_that_must_be_there_is_named(tmp_path):
    frames(tmp_path, "UADFV/real/frames/0000")
    with pytest.raises(UserError, match="no folder UADFV/fake; UADFV needs it"):
        arrange(DESCRIPTIONS["UADFV"], tmp_path)


def test_the_data_set_folder_itself_will_do_as_root(tmp_path):
    root, arrangement = made(tmp_path, "UADFV")
    assert counts(arrange(DESCRIPTIONS["UADFV"], root / "UADFV")) == counts(arrangement)


def test_videos_without_frames_are_counted_and_named(tmp_path):
    uadfv(tmp_path)
    (tmp_path / "UADFV/real/frames/0099").mkdir()
    arrangement = arrange(DESCRIPTIONS["UADFV"], tmp_path)
    assert arrangement.empty == ["UADFV/real/0099"]
    assert "without a frame: 1 (UADFV/real/0099)" in summary(arrangement)


def test_videos_that_no_list_names_are_left_out_not_put_everywhere(tmp_path):
    ffpp(tmp_path)
    stray = "FaceForensics++/manipulated_sequences/Deepfakes/c23/frames/111_222"
    frames(tmp_path, stray, f"{ORIGINALS}/frames/111")
    arrangement = arrange(DESCRIPTIONS["FaceForensics++"], tmp_path)
    (left_out,) = arrangement.left_out.values()
    assert left_out == [f"{ORIGINALS}/111", stray.replace("frames/", "")]
    theirs = arrange(DESCRIPTIONS["FaceForensics++"], tmp_path, splits="deepfakebench")
    assert next(v.splits for v in theirs.videos if v.name == "111_222") == ("train", "val", "test")


def test_listed_videos_that_the_tree_lacks_are_counted(tmp_path):
    _, arrangement = made(tmp_path, "DFDC")
    assert arrangement.not_found == ["test/eee"]


def test_pictures_of_an_unknown_generator_are_left_out_by_name(tmp_path):
    _, arrangement = made(tmp_path, "GenFace")
    assert list(arrangement.left_out.values()) == [["GenFace/test/NewGAN/1"]]


def test_hidden_files_and_other_files_are_no_frames(tmp_path):
    uadfv(tmp_path)
    for stray in (".000.png", "notes.txt", "Thumbs.db"):
        (tmp_path / "UADFV/real/frames/0000" / stray).touch()
    arrangement = arrange(DESCRIPTIONS["UADFV"], tmp_path)
    assert {len(video.clip.frames) for video in arrangement.videos} == {2}


# --- folders and adopted lists -------------------------------------------------------------------------------------


def test_pictures_that_share_a_stem_or_have_no_suffix_are_videos_of_their_own(tmp_path):
    pictures(tmp_path, "Mine/real", "a.jpg", "a.png", "b.jfif", "c.avif", "notes.txt")
    (tmp_path / "Mine/real/d.1").write_bytes(b"\xff\xd8\xff\xe0")
    pictures(tmp_path, "Mine/fake", "a.HEIC")
    description, _ = describe_folders(tmp_path / "Mine", load_taxonomy(), pictures=True)
    names_ = {video.clip.frames[0]: video.name for video in arrange(description, tmp_path).videos}
    assert names_ == {
        "Mine/real/a.jpg": "a.jpg",
        "Mine/real/a.png": "a.png",
        "Mine/real/b.jfif": "b",
        "Mine/real/c.avif": "c",
        "Mine/real/d.1": "d.1",
        "Mine/fake/a.HEIC": "a",
    }


def test_a_folder_per_class_needs_no_explanation_where_the_names_say_it(tmp_path):
    for split in ("train", "val", "test"):
        frames(tmp_path, *(f"Mine/{split}/{kind}/clip{split}" for kind in ("real", "fake", "SimSwap")))
    description, labels = describe_folders(tmp_path / "Mine", load_taxonomy())
    arrangement = arrange(description, tmp_path / "Mine")
    assert counts(arrangement) == {f"Mine_{kind}": (1, 1, 1) for kind in ("real", "fake", "SimSwap")}
    write(arrangement, tmp_path, tmp_path, labels=labels)
    config = dataset_config("Mine", tmp_path)
    taxonomy = load_taxonomy().extended(config.labels)
    videos = all_videos(tmp_path / "Mine.json", "Mine", folder=config.folder, taxonomy=taxonomy)
    assert {(video.label, video.method) for video in videos} == {(0, "real"), (1, "fake (not told)"), (1, "SimSwap")}


@pytest.mark.parametrize(
    "shape", ["{cls}/{split}/{clip}", "{cls}/{split}/frames/{clip}", "{split}/{cls}/frames/{clip}"]
)
def test_folders_of_splits_and_classes_may_come_in_either_order(tmp_path, shape):
    for split in ("training", "Validation", "test"):
        for cls in ("0_real", "1_fake"):
            frames(tmp_path, f"Mine/{shape}".format(split=split, cls=cls, clip=f"{split}1"))
    description, _ = describe_folders(tmp_path / "Mine", load_taxonomy())
    assert counts(arrange(description, tmp_path)) == {"Mine_0_real": (1, 1, 1), "Mine_1_fake": (1, 1, 1)}


def test_pictures_may_be_videos_of_their_own_and_classes_explained(tmp_path, capsys):
    pictures(tmp_path, "Mine/photos", "a.jpg", "b.jpg")
    pictures(tmp_path, "Mine/flux", "c.webp")
    with pytest.raises(
        UserError, match=r"meaning of class 'photos' is not known.*--class photos=real.*found: flux, photos"
    ):
        resproto("folders", tmp_path / "Mine", tmp_path / "out", "--class", "flux=entire synthesis")
    words = ["--class", "photos=real", "--class", "flux=entire synthesis", "--pictures", "--shares", 0.5, 0, 0.5]
    words += ["--allow", "one-class"]  # one fake for two splits
    assert resproto("folders", tmp_path / "Mine", tmp_path / "out", *words) == 0
    assert "Mine_photos" in capsys.readouterr().out
    records = read_side(tmp_path / "out/Mine.side.jsonl").records
    assert {record.method: record.forgery_type for record in records.values()} == {
        "real": "real", "flux": "entire synthesis",
    }  # fmt: skip
    assert len(records) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--class", "real"], "expected FOLDER=real"),
        (["--class", "reel=real"], "no folder of a class 'reel'; the nearest is 'real'"),
        (["--class", "fake=SimSwop"], "nearest is 'SimSwap'"),
    ],
)
def test_a_class_that_is_not_understood_is_refused(tmp_path, words, message):
    frames(tmp_path, "Mine/real/a", "Mine/fake/b")
    with pytest.raises(UserError, match=message):
        resproto("folders", tmp_path / "Mine", tmp_path, *words)


def test_a_list_made_elsewhere_is_adopted_without_what_is_missing(tmp_path, capsys):
    df40(tmp_path)
    top = "deepfakes_detection_datasets"
    real, fake = f"{ORIGINALS}/frames/953", "DF40/uniface/ff/frames/953_974"
    frames(tmp_path, fake)
    real_frames = [f"{top}/{real}/000.png", f"{top}/{real}/018.png"]
    said = {
        "roop_Real": {"test": {"953": {"label": "roop_Real", "frames": real_frames}}},
        "roop_Fake": {
            "val": {"953_974": {"label": "roop_Fake", "frames": [f"{top}/{fake}/000.png"]}},
            "test": {
                "953_974": {"label": "roop_Fake", "frames": [f"{top}/{fake}/000.png"]},
                "974_953": {"label": "roop_Fake", "frames": [f"{top}/DF40/uniface/ff/frames/974_953/000.png"]},
            },
        },
    }  # fmt: skip
    text(tmp_path, "lists/uniface_ff.json", {"uniface_ff": said})
    words = ["--list", tmp_path / "lists/uniface_ff.json", "--allow", "one-class"]  # no real in val
    assert resproto("adopt", tmp_path, tmp_path / "out", *words) == 0
    printed = capsys.readouterr().out
    assert "in the lists, not in the tree: 2" in printed and "without a frame: 1 (roop_Fake/974_953)" in printed
    records = read_side(tmp_path / "out/uniface_ff.side.jsonl").records
    record = records["DF40/uniface/ff/953_974"]
    assert (record.method, record.splits, record.source) == ("UniFace", ("val", "test"), "FaceForensics++/974")
    assert records[f"{ORIGINALS}/953"].identity == "FaceForensics++/953"


def test_a_list_is_never_replaced_by_what_is_adopted_of_it(tmp_path):
    frames(tmp_path, "Mine/real/a")
    entry = {"label": "Demo_real", "frames": ["Mine/real/a/000.png", "Mine/real/a/001.png"]}
    said = {"Mine": {"Demo_real": {"test": {"a": entry}}}}
    for name in ("lists/Mine.json", "others/Mine.json"):
        text(tmp_path, name, said)
    before = (tmp_path / "lists/Mine.json").read_bytes()
    words = ["--allow", "one-class", "--list", tmp_path / "lists/Mine.json"]
    with pytest.raises(UserError, match=r"--out .*Mine\.json: expected a file of its own, got one that this command"):
        resproto("adopt", tmp_path, tmp_path / "lists", *words)
    assert [path.name for path in (tmp_path / "lists").iterdir()] == ["Mine.json"]
    with pytest.raises(UserError, match="--list: expected lists of different data sets, got several of 'Mine'"):
        resproto("adopt", tmp_path, tmp_path / "out", *words, tmp_path / "others/Mine.json")
    assert (tmp_path / "lists/Mine.json").read_bytes() == before and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a whole JSON"),
        ({"a": {}, "b": {}}, "expected one top key"),
        ({"a": {"FF-real": {"test": []}}}, "expected a table of videos"),
        ({"a": {"FF-real": {"test": {"x": {"frames": "y"}}}}}, "expected a list of paths"),
        ({"a": {"FF-real": {"test": {"x": {"frames": ["Elsewhere/x/0.png"]}}}}}, "does not go through"),
        ({"a": {"FF-real": {"test": {"x": {"frames": ["UADFV/x/0.png"]}}}}}, "none of its 1 frames"),
    ],
)
def test_a_list_that_cannot_be_adopted_is_refused(tmp_path, content, message):
    frames(tmp_path, "UADFV/real/frames/0000")
    text(tmp_path, "a.json", content)
    with pytest.raises(UserError, match=message):
        resproto("adopt", tmp_path, tmp_path / "out", "--list", tmp_path / "a.json")


# --- the command -----------------------------------------------------------------------------------------------


def resproto(dataset, root, out, *words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([dataset, "--root", str(root), "--out", str(out), *map(str, words)]))


def test_the_command_makes_all_of_df40_that_the_tree_allows(tmp_path, capsys):
    df40(tmp_path)
    assert resproto("DF40", tmp_path, tmp_path / "out", "--allow", "one-class", "missing-methods") == 0
    printed = capsys.readouterr()
    assert {path.stem for path in (tmp_path / "out").glob("*.json")} == {
        "simswap_ff", "simswap_cdf", "DiT_ff", "DiT_cdf", "whichisreal",
        *(f"{group}_{domain}" for group in ("FSAll", "EFSAll") for domain in ("ff", "cdf")),
    }  # fmt: skip
    assert "not made: FRAll_ff: no fakes in the tree" in printed.err
    assert "simswap_Fake  1/2" in printed.out


@pytest.mark.parametrize(
    ("dataset", "words", "message"),
    [
        ("adopt", [], "adopt needs the lists; set --list JSON"),
        ("UADFV", ["--list", "a.json"], "--list: only for DATASET adopt"),
        ("UADFV", ["--pictures"], "only for DATASET folders"),
        ("DF40", [], "none of the 77 lists can be made"),
    ],
)
def test_words_that_do_not_fit_are_refused(tmp_path, dataset, words, message):
    uadfv(tmp_path)
    with pytest.raises(UserError, match=message):
        resproto(dataset, tmp_path, tmp_path / "out", *words)


def test_help_says_for_every_data_set_whether_it_was_tried(capsys):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    shown = parser.format_help()
    for name, description in DESCRIPTIONS.items():
        if "DF40" not in description.folders:
            line = next(line for line in shown.splitlines() if line.strip().startswith(f"{name} "))
            assert line.endswith("tried on a tree of it" if description.verified else "not tried")


def test_lists_are_read_with_dos_line_ends_and_a_mark_at_the_start(tmp_path):
    celeb(tmp_path)
    path = tmp_path / "Celeb-DF-v2/List_of_testing_videos.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    dfdc(tmp_path)
    rows = list(csv.reader((tmp_path / "DFDC/test/labels.csv").open()))
    (tmp_path / "DFDC/test/labels.csv").write_bytes("\r\n".join(",".join(row) for row in rows).encode())
    assert counts(arrange(DESCRIPTIONS["Celeb-DF-v2"], tmp_path)) == MADE["Celeb-DF-v2"][1]
    assert counts(arrange(DESCRIPTIONS["DFDC"], tmp_path)) == MADE["DFDC"][1]


def test_the_page_on_data_sets_names_every_one_of_them_and_whether_it_was_tried():
    page = (Path(__file__).resolve().parents[1] / "docs/how_to/data_sets.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    for name, description in DESCRIPTIONS.items():
        if "DF40" not in description.folders:
            (row,) = [row for row in rows if re.search(rf"\b{re.escape(name)}(?![\w-])", row.split("|")[1])]
            assert ("tried" in row.split("|")[-2]) == description.verified or name == "Celeb-DF-v1"


# --- trees that are not as the data set is known ---------------------------------------------------------------


def refused(dataset, root, *words):
    """The message with which the command refuses a tree; nothing is written."""
    out = root.parent / "refused"
    with pytest.raises(UserError) as caught:
        resproto(dataset, root, out, *words)
    assert not out.exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["train/fake", "val/fake"], "one-class: 2 fake videos, none real"),
        (["train/real", "train/fake", "val/real"], "one-class: split val has 1 real and 0 fake videos"),
    ],
)
def test_a_manifest_without_a_class_is_refused_unless_allowed(tmp_path, classes, said):
    frames(tmp_path, *(f"a/Mine/{place}/{place.replace('/', '')}" for place in classes))
    message = refused("folders", tmp_path / "a/Mine")
    assert said in message and "add --allow one-class" in message and "Mine_fake" in message
    assert resproto("folders", tmp_path / "a/Mine", tmp_path / "out", "--allow", "one-class") == 0
    with pytest.raises(UserError, match=r"--allow: expected one-class, .*; the nearest is 'one-class'"):
        resproto("folders", tmp_path / "a/Mine", tmp_path / "out", "--allow", "one-clas")


def test_fewer_videos_and_missing_methods_are_said_with_what_was_expected(tmp_path):
    ffpp(tmp_path / "a")
    shutil.rmtree(tmp_path / "a/FaceForensics++/manipulated_sequences/FaceSwap")
    message = refused("FaceForensics++", tmp_path / "a")
    assert "fewer-videos: 6 videos FF-real of c23; the whole data set has 1000" in message
    assert "missing-methods: no video of 1 (FF-FS); the data set has 5 labels" in message
    assert "add --allow fewer-videos missing-methods" in message
    assert "fewer-videos" not in refused("FaceForensics++", tmp_path / "a", *FEW).split("nothing was written")[1]
    assert resproto("FaceForensics++", tmp_path / "a", tmp_path / "out", *FEW, "missing-methods") == 0


@pytest.mark.parametrize(
    ("folder", "name", "tree"),
    [
        ("UADFV/more/frames/x", "UADFV", uadfv),
        ("UADFV/fake/loose", "UADFV", uadfv),
        ("Celeb-DF-v2/Celeb-synthesis/SimSwap/frames/id0_id1_0000", "Celeb-DF-v2", celeb),
        ("FaceForensics++/manipulated_sequences/NewSwap/c23/frames/000_003", "FaceForensics++", ffpp),
        ("FaceForensics++/manipulated_sequences/Deepfakes/c23_old/frames/000_003", "FaceForensics++", ffpp),
        ("DF40/simswap/other/953_974", "simswap_ff", df40),
    ],
)
def test_a_folder_that_no_rule_took_is_named(tmp_path, folder, name, tree):
    tree(tmp_path / "a")
    frames(tmp_path / "a", folder)
    message = refused(name, tmp_path / "a").split("nothing was written")[1]
    line = next(line for line in message.splitlines() if "unknown-folders" in line)
    shown = re.search(r"\d+ \(((FaceForensics|Celeb|UADFV|DF40|GenFace)[^ ]*)", line)[1]
    assert f"{folder}/".replace("/frames/", "/").startswith(f"{shown}/")


def test_a_folder_that_another_data_set_takes_is_no_unknown_one(tmp_path):
    face_shifter(tmp_path / "a")
    dfd(tmp_path / "a")
    assert "unknown-folders" not in refused("FaceShifter", tmp_path / "a")


def test_files_passed_over_are_counted_by_suffix_and_reason(tmp_path, capsys):
    uadfv(tmp_path)
    pictures(tmp_path, "UADFV/real/frames/0000", "a.psd", "b.psd", "c.mp4")
    pictures(tmp_path, "UADFV/raw", "a.mp4", "b.zip", "c.mxf")
    assert resproto("UADFV", tmp_path, tmp_path / "out", *FEW) == 0
    printed = capsys.readouterr().out
    assert "passed over: 2 .psd: no pictures that are read" in printed
    assert "passed over: 2 .mp4: videos; `resproto faces`" in printed and "1 .zip: archives" in printed
    assert "passed over: 1 .mxf: videos; `resproto faces`" in printed


def test_links_to_one_folder_do_not_leave_splits_empty_in_silence(tmp_path):
    frames(tmp_path, "a/Mine/test/real/x", "a/Mine/test/fake/y")
    for split in ("train", "val"):
        (tmp_path / "a/Mine" / split).symlink_to(tmp_path / "a/Mine/test")
    assert "linked-folders: 2 (Mine/train, Mine/val): links to folders taken" in refused("folders", tmp_path / "a/Mine")
    uadfv(tmp_path / "b")
    shutil.rmtree(tmp_path / "b/UADFV/fake/frames/0000_fake")
    (tmp_path / "b/UADFV/fake/frames/0000_fake").symlink_to(tmp_path / "b/UADFV/real/frames/0000")
    assert "linked-folders: 1 (UADFV/fake/frames/0000_fake)" in refused("UADFV", tmp_path / "b", *FEW)


def test_a_part_of_dfdc_says_how_much_is_missing(tmp_path):
    root = tmp_path / "a"
    for part in ("DFDC/dfdc_train_part_3", "DFDC/train_sample_videos"):  # as they are unpacked
        frames(root, f"{part}/frames/aaa", f"{part}/frames/bbb")
        said = {
            "aaa.mp4": {"label": "REAL"},
            "bbb.mp4": {"label": "FAKE", "original": "aaa.mp4"},
            "c.mp4": {"label": "FAKE"},
        }
        text(root, f"{part}/metadata.json", said)
    frames(root, "DFDC/test_videos/frames/zzz")
    message = refused("DFDC", root)
    assert "1 folders DFDC/train/{part} with frames; the whole data set has 50" in message
    assert "0 folders DFDC/test with frames; the whole data set has 1" in message
    assert "in the lists, not in the tree: 2 (dfdc_train_part_3/c, train_sample_videos/c)" in message
    assert "no rule took 1 (DFDC/test_videos (2 pictures))" in message
    shutil.rmtree(root / "DFDC/train_sample_videos")
    assert resproto("DFDC", root, tmp_path / "out", *FEW, "unknown-folders") == 0
    records = read_side(tmp_path / "out/DFDC.side.jsonl").records
    assert records["DFDC/dfdc_train_part_3/bbb"].original == "DFDC/dfdc_train_part_3/aaa"
    assert {record.splits for record in records.values()} == {("train",)}


def test_df40s_other_spellings_are_found_and_counted_once(tmp_path):
    ffpp_real(tmp_path)
    celeb(tmp_path)
    pictures(tmp_path, "DF40/sd2.1_new/ff/953", "seed1.png")
    pictures(tmp_path, "DF40/simswap/frames/953_974", "1.png")  # no folders ff and cdf
    pictures(tmp_path, "DF40/simswap/frames/id0_id1_0000", "1.png")
    for empty in ("DF40/DiT/ff/953", "DF40/DiT/ff/974"):
        (tmp_path / empty).mkdir(parents=True)
    pictures(tmp_path, "DF40/DiT/ff/720", "1.png")
    found = {name: counts(arrange(find(name)[0], tmp_path)) for name in ("sd2.1_ff", "simswap_ff", "simswap_cdf")}
    assert found["sd2.1_ff"]["sd2.1_Fake"] == (0, 0, 1)
    assert found["simswap_ff"]["simswap_Fake"] == found["simswap_cdf"]["simswap_Fake"] == (0, 0, 1)
    dit = arrange(find("DiT_ff")[0], tmp_path)
    assert dit.empty == ["DF40/DiT/ff/953", "DF40/DiT/ff/974"]
    pictures(tmp_path, "DF40/sd2.1/ff/974", "seed1.png")
    both = arrange(find("sd2.1_ff")[0], tmp_path)
    assert [v.clip.path for v in both.videos if "Fake" in v.label] == ["DF40/sd2.1/ff/974"]
    assert both.left_out["lies in another spelling of a folder that is there too"] == ["DF40/sd2.1_new/ff/953"]


# --- patterns, tables, people and shares ---------------------------------------------------------------------------


@pytest.mark.parametrize("words", [[], ["--pattern", "{split}/{method}/{class}/{video}"]])
def test_method_folders_with_both_classes_in_each_are_understood(tmp_path, words):
    for split in ("train", "test"):
        for method in ("FLUX", "StyleGAN2"):
            pictures(tmp_path, f"Mine/{split}/{method}/0_real", f"{split}a.png")
            pictures(tmp_path, f"Mine/{split}/{method}/1_fake", f"{split}b.png")
    words = [*words, "--pictures", "--class", "FLUX=entire synthesis"]
    assert resproto("folders", tmp_path / "Mine", tmp_path / "out", *words) == 0
    records = read_side(tmp_path / "out/Mine.side.jsonl").records
    found = Counter((r.label, r.method, r.forgery_type, r.splits[0]) for r in records.values())
    kinds = {(0, "real", "real"): 2, (1, "FLUX", "entire synthesis"): 1, (1, "StyleGAN2", "entire synthesis"): 1}
    assert found == {(*kind, split): number for kind, number in kinds.items() for split in ("train", "test")}


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("{split}/{video}", "a path with {class} or {method}"),
        ("{video}/{class}", "{video} at its end"),
        ("{class}/{class}/{video}", "each word once"),
        ("x/{class}/{video}", "no folder is of the form x/{class}/{video}; it has "),
        ("{identity}_{class}/{video}", "{identity} in a part without"),
        ("{class}/{0}/{video}", "no folder is of the form {class}/{0}/{video}"),
        ("{class}/{1a}/{video}", "no folder is of the form {class}/{1a}/{video}"),
    ],
)
def test_a_pattern_that_cannot_be_is_refused(tmp_path, pattern, message):
    frames(tmp_path, "Mine/real/a", "Mine/fake/b")
    with pytest.raises(UserError, match=re.escape(message)):
        describe_folders(tmp_path / "Mine", load_taxonomy(), pattern=pattern)


@pytest.mark.parametrize("words", [["--identity", r"/(id\d+)_"], ["--pattern", "{class}/{identity}_{video}"]])
def test_one_persons_clips_are_not_split(tmp_path, capsys, words):
    frames(
        tmp_path, *(f"Mine/{cls}/id{who}_{take}" for cls in ("real", "fake") for who in range(6) for take in range(3))
    )
    assert resproto("folders", tmp_path / "Mine", tmp_path / "out", "--shares", 0.5, 0.2, 0.3, *words) == 0
    assert "splits: drawn by people" in capsys.readouterr().out
    splits = {}
    for record in read_side(tmp_path / "out/Mine.side.jsonl").records.values():
        assert record.identity == f"Mine/{record.id.rpartition('/')[2].partition('_')[0]}"
        splits.setdefault(record.identity, set()).update(record.splits)
    assert len(splits) == 6 and all(len(each) == 1 for each in splits.values())
    assert {split for each in splits.values() for split in each} == {"train", "val", "test"}


@pytest.mark.parametrize(("pattern", "noted"), [("{class}/{identity}_{video}", True), ("{class}/{video}", False)])
def test_names_that_do_not_fit_the_end_of_a_pattern_are_noted(tmp_path, capsys, pattern, noted):
    frames(tmp_path, "Mine/real/id1_a", "Mine/real/loose", "Mine/fake/id2_a")
    assert resproto("folders", tmp_path / "Mine", tmp_path / "out", "--pattern", pattern) == 0
    note = "taken, though the name does not fit the last part of --pattern: 1 (Mine/real/loose)"
    assert (note in capsys.readouterr().out) == noted


@pytest.mark.parametrize("identity", [r"(?P<identity>id\d+)_|clip", r"(id\d+_)?clip", r"()clip"])
def test_a_group_that_matches_nothing_tells_no_person(tmp_path, identity):
    frames(tmp_path, *(f"Mine/{cls}/clip{n}" for cls in ("real", "fake") for n in range(3)))
    assert resproto("folders", tmp_path / "Mine", tmp_path / "out", "--identity", identity) == 0
    assert {record.identity for record in read_side(tmp_path / "out/Mine.side.jsonl").records.values()} == {None}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("reals", "fakes", "shares"), [(8, 8, (0.5, 0.2, 0.3)), (4, 148, (0.6, 0.2, 0.2)), (10, 3, (0.8, 0.1, 0.1))]
)
def test_shares_hold_within_rounding_in_both_classes(tmp_path, reals, fakes, shares, seed):
    pictures(tmp_path, "Mine/real", *(f"r{i}.png" for i in range(reals)))
    pictures(tmp_path, "Mine/fake", *(f"f{i}.png" for i in range(fakes)))
    description, _ = describe_folders(tmp_path / "Mine", load_taxonomy(), pictures=True)
    arrangement = arrange(description, tmp_path / "Mine", shares=shares, seed=seed)
    assert arrangement.splits == "drawn"
    for label, total in (("Mine_real", reals), ("Mine_fake", fakes)):
        found = counts(arrangement)[label]
        assert sum(found) == total and min(found) >= 1
        assert all(abs(number - share * total) < 1 or number == 1 for number, share in zip(found, shares))


def table(tmp_path, lines):
    text(tmp_path, "table.csv", "\n".join(lines))
    return ["--csv", tmp_path / "table.csv"]


@pytest.mark.parametrize("words", [["csv", "--csv", "list.csv"], ["folders"]])
def test_a_name_of_the_package_is_no_name_of_ones_own(tmp_path, words):
    with pytest.raises(UserError, match=r"--name: 'FaceForensics\+\+' is a data set of this package"):
        resproto(words[0], tmp_path, tmp_path / "out", *words[1:], "--name", "FaceForensics++")
    assert not (tmp_path / "out").exists()


def test_a_manifest_is_made_from_a_csv(tmp_path, capsys):
    frames(tmp_path, "Mine/clips/frames/a", "Mine/clips/frames/b")
    pictures(tmp_path, "Mine/photos", "c.jpg", "d.jpg", "e.jpg")
    lines = [
        "path,label,method,type,identity,split,video",
        "clips/a.mp4,real,,,ann,train,",
        "clips/frames/b,1,SimSwap,,ben,train,",
    ]
    lines += [
        "photos\\c.jpg,fake,NewGen,entire synthesis,,test,",
        "Mine/photos/d.jpg,0,,,,test,v",
        "photos/e.jpg,0,,,,test,v",
    ]
    assert resproto("csv", tmp_path / "Mine", tmp_path / "out", *table(tmp_path, lines)) == 0
    records = {r.id: r for r in read_side(tmp_path / "out/Mine.side.jsonl").records.values()}
    assert {(r.label, r.method, r.forgery_type, r.splits, r.identity) for r in records.values()} == {
        (0, "real", "real", ("train",), "Mine/ann"), (1, "SimSwap", "face swap", ("train",), "Mine/ben"),
        (1, "NewGen", "entire synthesis", ("test",), None), (0, "real", "real", ("test",), None),
    }  # fmt: skip
    config = dataset_config("Mine", tmp_path / "out")
    videos = all_videos(
        tmp_path / "out/Mine.json", "Mine", folder=config.folder, taxonomy=load_taxonomy().extended(config.labels)
    )
    assert sorted(len(video.frames) for video in videos) == [1, 2, 2, 2]
    lines.append("photos/gone.jpg,0,,,,test,")
    assert "in the lists, not in the tree: 1 (photos/gone.jpg)" in refused(
        "csv", tmp_path / "Mine", *table(tmp_path, lines)
    )


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["path,method", "a.jpg,x"], "csv:1: expected a column 'label'"),
        (["path,label,methode", "a.jpg,real,"], "unknown column 'methode'; the nearest is 'method'"),
        (["path,label", "a.jpg,maybe"], "csv:2: expected label real or fake, 0 or 1, got 'maybe'"),
        (["path,label", "../a.jpg,real"], "csv:2: expected a path below --root"),
        (["path,label", "a.jpg"], "csv:2: expected 2 cells, got 1"),
        (["path,label,split", "a.jpg,real,tets"], "csv:2: expected split .*nearest is 'test'"),
        (["path,label,method", "a.jpg,fake,SimSwop"], "csv:2: no method is called 'SimSwop'; the nearest is 'SimSwap'"),
        (["path,label,method,type", "a.jpg,fake,X,swap"], "csv:2: expected a kind of forgery"),
        (["path,label,video", "a.jpg,real,v", "b.jpg,fake,v"], "csv:3: 'b.jpg' contradicts line 2"),
        (["path,label,split", "a.jpg,real,test", "b.jpg,fake,test"], "--shares: every line"),
        (["path,label", "x.jpg,real"], "none of its 1 paths is below --root"),
    ],
)
def test_a_csv_that_is_not_understood_is_refused_by_line(tmp_path, lines, message):
    pictures(tmp_path, "Mine", "a.jpg", "b.jpg")
    words = ["--shares", 0.5, 0, 0.5] if "--shares" in message else []
    with pytest.raises(UserError, match=message):
        resproto("csv", tmp_path / "Mine", tmp_path / "out", *table(tmp_path, lines), *words)


def test_a_manifest_that_cannot_be_read_back_leaves_the_earlier_files(tmp_path):
    pictures(tmp_path, "Mine", "a.jpg", "b.jpg")
    lines = ["path,label,video", "a.jpg,real,v", "b.jpg,fake,w"]
    assert resproto("csv", tmp_path / "Mine", tmp_path / "out", *table(tmp_path, lines)) == 0
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match=r"out/Mine\.json: .*a frame has one video; it was not written"):
        resproto("csv", tmp_path / "Mine", tmp_path / "out", *table(tmp_path, [*lines, "b.jpg,fake,x"]))
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize(
    ("given", "method", "kind"),
    [
        ("StableDiffusion", "StableDiffusion", "entire synthesis"),
        ("stable diffusion", "StableDiffusion", "entire synthesis"),
        ("sd-2.1", "SD-2.1", "entire synthesis"),
        ("FLUX", "FLUX", "unknown"),
        ("FLUX:entire synthesis", "FLUX", "entire synthesis"),
    ],
)
def test_a_class_may_be_any_method(tmp_path, given, method, kind):
    frames(tmp_path, "Mine/real/a", "Mine/fake_faces/b")
    assert resproto("folders", tmp_path / "Mine", tmp_path / "out", "--class", f"fake_faces={given}") == 0
    (fake,) = [r for r in read_side(tmp_path / "out/Mine.side.jsonl").records.values() if r.label]
    assert (fake.method, fake.forgery_type) == (method, kind)
