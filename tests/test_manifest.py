"""Dataset JSONs: nestings, forms of paths, order, ids, and what is refused."""

import json
from itertools import pairwise

import pytest

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.loading import load, names
from resproto_fd.preprocessing.frame_paths import canonical_path
from resproto_fd.preprocessing.manifest import read_manifest, write_manifest
from resproto_fd.preprocessing.taxonomy import load_taxonomy
from resproto_fd.preprocessing.video import Video, evenly_spaced

FAMILY = "FaceForensics++/manipulated_sequences"

PATH_FORMS = {
    "released": "Celeb-DF-v2\\YouTube-real\\frames\\00000\\027.png",
    "Linux": "./datasets/rgb/Celeb-DF-v2/YouTube-real/frames/00000/027.png",
    "from preprocessing/": "../datasets/rgb/Celeb-DF-v2/YouTube-real/frames/00000/027.png",
    "absolute Linux": "/mnt/Celeb-DF-v2/data//rgb/Celeb-DF-v2/YouTube-real/frames/00000/027.png",
    "absolute Windows": "D:\\data\\rgb\\Celeb-DF-v2\\YouTube-real\\frames\\00000\\027.png",
    "a share of Windows": "\\\\server\\rgb\\Celeb-DF-v2\\YouTube-real\\frames\\00000\\027.png",
    "mixed": ".\\datasets/rgb\\Celeb-DF-v2/YouTube-real\\frames/00000\\027.png",
    "key of a Linux LMDB": "Celeb-DF-v2\\YouTube-real/frames/00000/027.png",
}


def entry(label, *frames):
    return {"label": label, "frames": list(frames)}


def save(folder, content, name="Set.json"):
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def celeb(**splits):
    """A JSON of one label, Celeb-DF's nesting."""
    return {"Celeb-DF-v2": {"CelebDFv2_real": splits}}


def ffpp(**levels):
    """A JSON of one label, FaceForensics++'s nesting: compression level -> videos of the split test."""
    return {"FF-DF": {"FF-DF": {"test": levels}}}


def made_video(name="000_003", split="test", source=f"{FAMILY}/Deepfakes/c23", label="FF-DF", frames=3):
    paths = tuple(f"{source}/frames/{name}/{i:03d}.png" for i in range(frames))
    meaning = load_taxonomy()[label]
    return Video("FF-DF", split, f"{source}/{name}", meaning.label, label, meaning.method, meaning.forgery_type, paths)


@pytest.mark.parametrize("form", PATH_FORMS)
def test_every_form_of_path_becomes_the_same(form):
    expected = "Celeb-DF-v2/YouTube-real/frames/00000/027.png"
    assert canonical_path(PATH_FORMS[form], "Celeb-DF-v2") == expected


@pytest.mark.parametrize("form", PATH_FORMS)
def test_a_manifest_reads_alike_in_every_form_of_path(tmp_path, form):
    path = save(tmp_path, celeb(test={"00000": entry("CelebDFv2_real", PATH_FORMS[form])}))
    for folder in ("Celeb-DF-v2", None):
        (video,) = read_manifest(path, "CDF", split="test", folder=folder)
        assert video == Video(
            "CDF", "test", "Celeb-DF-v2/YouTube-real/00000", 0, "CelebDFv2_real", "real", "real",
            ("Celeb-DF-v2/YouTube-real/frames/00000/027.png",),
        )  # fmt: skip


def test_a_list_may_borrow_frames_of_another_data_set():
    folders = ["DF40", "DF40_train", "FaceForensics++"]
    root = "deepfakes_detection_datasets"
    for path in ("DF40/simswap/ff/frames/000_003/000.png", "DF40_train/simswap/frames/001_870/000.png",
                 "FaceForensics++/original_sequences/youtube/c23/frames/000/000.png"):  # fmt: skip
        assert canonical_path(f"{root}/{path}", folders) == path


@pytest.mark.parametrize(
    ("raw", "folder", "message"),
    [
        ("./datasets/rgb/UADFV/real/frames/0008/141.png", "DFDC", "does not go through a folder 'DFDC'"),
        ("C:\\data\\UADFV\\real\\frames\\0008\\141.png", None, "does not begin with its data set folder"),
        ("/data/UADFV/real/frames/0008/141.png", None, "does not begin with its data set folder"),
        ("UADFV/real/../../secret.png", "UADFV", "names no file inside"),
        ("data/UADFV", "UADFV", "does not go through"),
        ("", None, "names no file inside"),
    ],
)
def test_a_path_outside_its_data_set_is_refused(raw, folder, message):
    with pytest.raises(UserError, match=message):
        canonical_path(raw, folder)


def test_the_compression_level_asked_for_is_read(tmp_path):
    levels = {
        level: {"000_003": entry("FF-DF", f"{FAMILY}/Deepfakes/{level}/frames/000_003/000.png")}
        for level in ("c23", "c40")
    }
    path = save(tmp_path, ffpp(**levels))
    for level in levels:
        (video,) = read_manifest(path, "FF-DF", split="test", compression=level, folder="FaceForensics++")
        assert video.id == f"{FAMILY}/Deepfakes/{level}/000_003"
    with pytest.raises(UserError, match=r"Set\.json.*FF-DF, test: several compression levels.*'c23', 'c40'"):
        read_manifest(path, "FF-DF", split="test", folder="FaceForensics++")
    with pytest.raises(UserError, match=r"no compression level 'raw'.*'c23', 'c40'"):
        read_manifest(path, "FF-DF", split="test", compression="raw", folder="FaceForensics++")


def test_a_single_compression_level_needs_no_asking(tmp_path):
    path = save(tmp_path, ffpp(c23={"000_003": entry("FF-DF", f"{FAMILY}/Deepfakes/c23/frames/000_003/000.png")}))
    assert len(read_manifest(path, "FF-DF", split="test", folder="FaceForensics++")) == 1


def test_a_label_that_lacks_the_compression_level_is_an_error_not_an_absent_class(tmp_path):
    frame = f"{FAMILY}/Deepfakes/c23/frames/000_003/000.png"
    both = {"c23": {"a": entry("FF-DF", frame)}, "c40": {"a": entry("FF-DF", frame)}}
    content = {"FF-DF": {"FF-DF": {"test": both}, "FF-real": {"test": {"c23": both["c23"]}}}}
    with pytest.raises(UserError, match="FF-real, test: no compression level 'c40'"):
        read_manifest(save(tmp_path, content), "FF-DF", split="test", compression="c40", folder="FaceForensics++")


def test_compression_asked_of_a_json_without_levels_is_an_error(tmp_path):
    path = save(tmp_path, celeb(test={"00000": entry("CelebDFv2_real", PATH_FORMS["released"])}))
    with pytest.raises(UserError, match=r"no compression levels.*compression: null"):
        read_manifest(path, "Celeb-DF-v2", split="test", compression="c23", folder="Celeb-DF-v2")


def test_the_top_key_may_differ_from_the_name_asked_for(tmp_path):
    level = {"c40": {"000_003": entry("FF-DF", f"{FAMILY}/Deepfakes/c40/frames/000_003/000.png")}}
    path = save(tmp_path, ffpp(**level), "FF-DF_c40.json")
    for key in ("FF-DF", None):
        (video,) = read_manifest(path, "FF-DF_c40", split="test", key=key, compression="c40", folder="FaceForensics++")
        assert video.dataset == "FF-DF_c40"
    with pytest.raises(UserError, match=r"no data set 'FF-DFF' in it; the nearest is 'FF-DF'.*`key:`"):
        read_manifest(path, "FF-DF_c40", split="test", key="FF-DFF")


def test_frames_are_sorted_by_number_whatever_the_order_of_the_scan(tmp_path):
    frames = [f"Celeb-DF-v2\\YouTube-real\\frames\\00000\\{n}.png" for n in ("1000", "27", "100", "000")]
    path = save(tmp_path, celeb(test={"00000": entry("CelebDFv2_real", *frames)}))
    (video,) = read_manifest(path, "Celeb-DF-v2", split="test", folder="Celeb-DF-v2")
    assert video.frame_numbers() == (0, 27, 100, 1000)


@pytest.mark.parametrize(
    ("stems", "ordered"),
    [
        (["seed10", "seed0010", "seed2"], ["seed2", "seed0010", "seed10"]),
        (["b9f", "0a1", "77"], ["0a1", "77", "b9f"]),
        (["1", "001", "2"], ["001", "1", "2"]),
        (["²", "3"], ["3", "²"]),
    ],
)
def test_names_that_are_no_numbers_are_in_natural_order_and_numbered_by_position(tmp_path, stems, ordered):
    frames = [f"DF40/StyleGAN2/ff/001/{stem}.png" for stem in stems]
    path = save(tmp_path, {"X": {"StyleGAN2_Fake": {"test": {"001": entry("StyleGAN2_Fake", *frames)}}}})
    (video,) = read_manifest(path, "X", split="test", folder="DF40")
    assert [frame.rpartition("/")[2] for frame in video.frames] == [f"{stem}.png" for stem in ordered]
    assert video.frame_numbers() == tuple(range(len(stems)))


def test_one_pair_in_four_manipulations_is_four_videos(tmp_path):
    methods = {"FF-DF": "Deepfakes", "FF-F2F": "Face2Face", "FF-FS": "FaceSwap", "FF-NT": "NeuralTextures"}
    labels = {
        label: {"test": {"c23": {"000_003": entry(label, f"{FAMILY}/{method}/c23/frames/000_003/000.png")}}}
        for label, method in methods.items()
    }
    manifest = read_manifest(
        save(tmp_path, {"FaceForensics++": labels}), "FaceForensics++", split="test", folder="FaceForensics++"
    )
    assert [video.id for video in manifest] == [f"{FAMILY}/{method}/c23/000_003" for method in sorted(methods.values())]
    assert {video.method for video in manifest} == set(methods.values())


def test_one_number_in_two_sources_is_two_videos(tmp_path):
    table = {
        "00000": entry("CelebDFv2_real", "Celeb-DF-v2/YouTube-real/frames/00000/000.png"),
        "id0": entry("CelebDFv2_real", "Celeb-DF-v2/Celeb-real/frames/00000/000.png"),
    }
    manifest = read_manifest(save(tmp_path, celeb(test=table)), "CDF", split="test", folder="Celeb-DF-v2")
    assert [video.id for video in manifest] == ["Celeb-DF-v2/Celeb-real/00000/id0", "Celeb-DF-v2/YouTube-real/00000"]


def test_videos_that_share_a_folder_are_told_apart_by_name(tmp_path):
    table = {name: entry("MidJourney_Fake", f"DF40/MidJourney/fake/{name}.png") for name in ("a81f", "b204")}
    path = save(tmp_path, {"MidJourney": {"MidJourney_Fake": {"test": table}}})
    manifest = read_manifest(path, "MidJourney", split="test", folder="DF40")
    assert [video.id for video in manifest] == ["DF40/MidJourney/fake/a81f", "DF40/MidJourney/fake/b204"]


def test_the_order_of_videos_does_not_hang_on_the_json(tmp_path):
    table = {name: entry("CelebDFv2_real", f"Celeb-DF-v2/YouTube-real/frames/{name}/000.png") for name in "cab"}
    backwards = dict(reversed(table.items()))
    first, second = (
        read_manifest(save(tmp_path, celeb(test=videos)), "CDF", split="test", folder="Celeb-DF-v2")
        for videos in (table, backwards)
    )
    assert first == second
    assert [video.id[-1] for video in first] == ["a", "b", "c"]


def test_videos_without_frames_are_left_out_and_counted(tmp_path):
    table = {"00000": entry("CelebDFv2_real", PATH_FORMS["released"]), "00001": entry("CelebDFv2_real")}
    manifest = read_manifest(save(tmp_path, celeb(test=table)), "CDF", split="test", folder="Celeb-DF-v2")
    assert len(manifest) == 1
    assert manifest.empty == ("CelebDFv2_real/00001",)


def test_what_is_named_twice_alike_is_kept_once_and_counted(tmp_path):
    frame = "Celeb-DF-v2/YouTube-real/frames/00000/027.png"
    content = {
        "CDF": {
            "CelebDFv2_real": {"test": {"00000": entry("CelebDFv2_real", frame, frame.replace("/", "\\"))}},
            "again": {"test": {"00000": entry("CelebDFv2_real", frame)}},
        }
    }
    manifest = read_manifest(save(tmp_path, content), "CDF", split="test", folder="Celeb-DF-v2")
    assert [video.frames for video in manifest] == [(frame,)]
    assert manifest.repeated == ("CelebDFv2_real/00000: 1 frames", "again/00000")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (("00000", "CelebDFv2_fake", "frames/00000/000.png"), "named twice.*'CelebDFv2_real', 'CelebDFv2_fake'"),
        (("00000", "CelebDFv2_real", "frames/00000/001.png"), "named twice with other frames"),
        (("other", "CelebDFv2_real", "frames/00000/000.png"), "belongs to 'Celeb-DF-v2/YouTube-real/00000' already"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path, second, message):
    name, label, frame = second
    content = {
        "CDF": {
            "one": {"test": {"00000": entry("CelebDFv2_real", "Celeb-DF-v2/YouTube-real/frames/00000/000.png")}},
            "two": {"test": {name: entry(label, f"Celeb-DF-v2/YouTube-real/{frame}")}},
        }
    }
    with pytest.raises(UserError, match=message):
        read_manifest(save(tmp_path, content), "CDF", split="test", folder="Celeb-DF-v2")


def dfdc():
    """DFDC as DeepfakeBench's script leaves it: val overwritten by an entry, train videos added beside its keys."""

    def splits(label, k):
        videos = {split: entry(label, f"DFDC/{split}/frames/v{k}/000.png") for split in ("train", "test")}
        broken = {**videos["test"], f"v{k}": videos["train"]}
        return {"train": {f"v{k}": videos["train"]}, "test": {f"v{k}": videos["test"]}, "val": broken}

    return {"DFDC": {label: splits(label, k) for k, label in enumerate(("DFDC_Real", "DFDC_Fake"))}}


def test_dfdcs_broken_val_split_is_named_and_does_no_harm_to_the_others(tmp_path):
    path = save(tmp_path, dfdc(), "DFDC.json")
    for split in ("train", "test"):
        assert len(read_manifest(path, "DFDC", split=split, folder="DFDC")) == 2
    with pytest.raises(UserError, match=r"DFDC\.json: DFDC_Real, val: expected a table of videos.*Use another split"):
        read_manifest(path, "DFDC", split="val", folder="DFDC")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (celeb(train={}, test={}), "'CelebDFv2_real' has no split 'val'; it has 'train', 'test'"),
        (celeb(val={}), "split 'val' has no video with frames; splits with videos: none"),
        (celeb(val={}, test={"0": entry("CelebDFv2_real", "Celeb-DF-v2/a/0.png")}), "splits with videos: 'test'"),
        (celeb(val={"0": entry("CelebDFv2_reel", "Celeb-DF-v2/a/0.png")}), "video '0': label 'CelebDFv2_reel' is not"),
        (celeb(val={"0": {"label": "CelebDFv2_real", "frames": "x.png"}}), "expected a list of paths under 'frames'"),
        (celeb(val={"0": {"label": "CelebDFv2_real"}}), "expected a table of videos"),
        (celeb(val={"0": entry("CelebDFv2_real", "DFDC/a/0.png")}), "does not go through a folder 'Celeb-DF-v2'"),
        (celeb(val={"0": entry("CelebDFv2_real", "Celeb-DF-v2/a/")}), "names no file"),
        (celeb(val=[]), "expected a table of videos"),
        ({"Celeb-DF-v2": []}, "holds no labels"),
        ({"a": {}, "b": {}}, "no data set 'Celeb-DF-v2' in it; it has 'a', 'b'"),
        ([], "got list"),
        ('{"Celeb-DF-v2": {"CelebDFv2_real": {"val"', "not a whole JSON.*line 1"),
        ("", "not a whole JSON"),
    ],
)
def test_a_json_that_cannot_be_used_is_named_with_the_reason(tmp_path, content, message):
    path = save(tmp_path, content)
    with pytest.raises(UserError, match=message) as error:
        read_manifest(path, "Celeb-DF-v2", split="val", folder="Celeb-DF-v2")
    assert str(error.value).startswith(str(path))


def test_a_missing_json_is_named_with_those_that_are_there(tmp_path):
    save(tmp_path, {}, "Celeb-DF-v2.json")
    with pytest.raises(UserError, match=r"nearest is 'Celeb-DF-v2\.json'"):
        read_manifest(tmp_path / "Celeb-DF-v1.json", "Celeb-DF-v1", split="test")


@pytest.mark.parametrize("n", [1, 2, 5, 32, 33, 110])
def test_frames_are_spaced_evenly_with_first_and_last(n):
    for wanted in range(2, n):
        chosen = evenly_spaced(n, wanted)
        gaps = {b - a for a, b in pairwise(chosen)}
        assert len(chosen) == wanted
        assert (chosen[0], chosen[-1]) == (0, n - 1)
        assert min(gaps) >= 1
        assert max(gaps) - min(gaps) <= 1
    assert evenly_spaced(n, 1) == [(n - 1) // 2]
    assert evenly_spaced(n, None) == evenly_spaced(n, n) == evenly_spaced(n, n + 7) == list(range(n))
    with pytest.raises(ValueError, match="at least 1"):
        evenly_spaced(n, 0)


@pytest.mark.parametrize("compression", [None, "c23"])
def test_a_manifest_is_written_in_deepfakebenchs_layout_and_read_back(tmp_path, compression):
    path = tmp_path / "new" / "FF-DF.json"
    videos = [
        made_video(),
        made_video("003_000"),
        made_video("001", "train", label="FF-real", source="FaceForensics++/o/y"),
    ]
    write_manifest(path, "FF-DF", videos, compression)
    content = json.loads(path.read_text())
    table = content["FF-DF"]["FF-DF"]["test"]
    table = table if compression is None else table[compression]
    assert (
        table["000_003"]["frames"][0] == r"FaceForensics++\manipulated_sequences\Deepfakes\c23\frames\000_003\000.png"
    )
    absent = {} if compression is None else {compression: {}}
    assert content["FF-DF"]["FF-real"]["test"] == content["FF-DF"]["FF-DF"]["val"] == absent
    for split in ("train", "test"):
        read = read_manifest(path, "FF-DF", split=split, compression=compression, folder="FaceForensics++")
        assert list(read) == [video for video in videos if video.split == split]


def test_a_manifest_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(UserError, match="are called '000_003'"):
        write_manifest(tmp_path / "a.json", "X", [made_video(), made_video(source=f"{FAMILY}/Deepfakes/c40")])
    with pytest.raises(UserError, match="no videos to write"):
        write_manifest(tmp_path / "a.json", "X", [])
    (tmp_path / "taken.json").mkdir()
    with pytest.raises(UserError, match=r"taken\.json: expected a file, got a folder"):
        write_manifest(tmp_path / "taken.json", "X", [made_video()])
    assert [path.name for path in tmp_path.iterdir()] == ["taken.json"]


def test_every_data_set_of_the_configs_says_where_it_is_and_what_its_labels_mean():
    assert len(names("datasets")) > 30
    for name in names("datasets"):
        config = load("datasets", name)
        assert config.json_file.endswith(".json"), name
        assert config.store.endswith("_lmdb"), name
        assert config.key and config.folder and config.source, name
        load_taxonomy().extended(config.labels, name)


@pytest.mark.parametrize("name", ["FaceForensics++", "FF-DF", "FF-NT", "Celeb-DF-v2"])
def test_deepfakebenchs_own_json_survives_reading_and_writing(shared, tmp_path, name):
    source = shared / "fixtures/deepfakebench/dataset_json_released_style" / f"{name}.json"
    config = load("datasets", name)
    videos = [
        video
        for split in ("train", "val", "test")
        for video in read_manifest(
            source, name, split=split, key=config.key, compression=config.compression, folder=config.folder
        )
    ]
    write_manifest(tmp_path / "again.json", name, videos, config.compression)

    def comparable(path):
        """Without the order of frames, which is that of a folder scan, and the lists of masks, which nothing reads."""
        text = json.loads(path.read_text())
        stack = [text]
        while stack:
            node = stack.pop()
            if "frames" in node:
                node["frames"].sort()
                node.pop("masks", None)
            else:
                stack.extend(node.values())
        return text

    assert comparable(tmp_path / "again.json") == comparable(source)
