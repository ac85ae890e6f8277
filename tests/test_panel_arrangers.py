"""Arrangers of the data sets of 2021 to 2026: small made trees, right ones and wrong ones."""

import re
import shutil

import pytest
from test_arrangers import all_videos, celeb, counts, frames, pictures, refused, resproto, text

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.loading import load
from resproto_fd.configs.schema import DataConfig
from resproto_fd.preprocessing.arrangers import DESCRIPTIONS, arrange, find
from resproto_fd.preprocessing.arrangers.benchmarks import HYDRAFAKE
from resproto_fd.preprocessing.arrangers.expectations import ALLOWANCES
from resproto_fd.preprocessing.arrangers.lists import FAKEAVCELEB
from resproto_fd.preprocessing.arrangers.panel import DEEPSPEAK, IDFORGE
from resproto_fd.preprocessing.arrangers.videos import CELEB_PP
from resproto_fd.preprocessing.manifest import read_manifest
from resproto_fd.preprocessing.side_file import read_side, side_path
from resproto_fd.preprocessing.taxonomy import load_taxonomy
from resproto_fd.training.protocols import dataset_config, resolve

META = "source,target1,target2,method,category,type,race,gender,path,\n"


def celeb_scenarios(root):
    """Celeb-DF++ with one test and one training video of each method."""
    kinds = {"FS": "FaceSwap", "FR": "FaceReenact", "TF": "TalkingFace"}
    listed = ["Celeb-real/id0_0000", "YouTube-real/00001"]
    frames(root, *(f"Celeb-DF++/Celeb-real/frames/id{i}_0000" for i in range(2)))
    frames(root, *(f"Celeb-DF++/YouTube-real/frames/0000{i}" for i in range(2)))
    for scenario, methods in CELEB_PP.items():
        for method in methods:
            place = f"Celeb-synthesis/{kinds[scenario]}/{method}"
            frames(root, *(f"Celeb-DF++/{place}/frames/id0_id1_000{i}" for i in range(2)), count=1)
            listed.append(f"{place}/id0_id1_0000")
    text(root, "Celeb-DF++/List_of_testing_videos.txt", "".join(f"1 {name}.mp4\n" for name in listed))


def ffiw(root):
    for folder in ("source", "target"):
        frames(root, f"FFIW10K/{folder}/train/frames/0001", f"FFIW10K/{folder}/val/frames/0002")
        frames(root, f"FFIW10K-v1-release-test/{folder}/frames/0003", f"FFIW10K/target_mask/{folder}/frames/9")


def dfdm(root):
    celeb(root)
    for level in ("crf0", "crf23"):
        for model in ("faceswap", "lightweight", "IAE", "dfaker", "DFL-H128"):
            frames(root, f"DFDM/DFDM_{level}/{model}/frames/id1_id2_0000_{model}", count=1)


def deepspeak_1(root):
    frames(root, *(f"DeepSpeak-1.1/real/frames/{who}-0" for who in (10, 11)))
    for engine in DEEPSPEAK["1.1"]:
        frames(root, f"DeepSpeak-1.1/fake/frames/{engine}--10-11--4100-4897--0", count=1)
    text(root, "DeepSpeak-1.1/annotations-split-def.csv", "identity,split\n10,train\n11,test\n")


def deepspeak_2(root):
    frames(root, *(f"DeepSpeak-2.0/frames/{who}-0" for who in (10, 11)))
    lines = ["video-file,identity-source,identity-target"]
    for engine in DEEPSPEAK["2.0"]:
        frames(root, f"DeepSpeak-2.0/fakes/frames/{engine}-6868-6860-playht", count=1)
        lines.append(f"{engine}-6868-6860-playht.mp4,10,11")
    text(root, "DeepSpeak-2.0/annotations-split-def.csv", "identity,split\n10,Train\n11,Test\n")
    text(root, "DeepSpeak-2.0/annotations-fake.csv", "\n".join(lines))


def fakeavceleb(root, top="FakeAVCeleb_v1.2"):
    lines = []
    for kind, method, end in (
        ("RealVideo-RealAudio", "real", ""),
        ("RealVideo-FakeAudio", "rtvc", "_fake"),
        *(("FakeVideo-FakeAudio", method, f"_2_id00002_{method}") for method in FAKEAVCELEB),
    ):
        place = f"{kind}/African/men/id00001"
        frames(root, f"{top}/{place}/frames/00109{end}", count=1)
        donor = "id00002" if "swap" in method else "-"
        lines.append(f"id00001,{donor},-,{method},A,{kind},African,men,00109{end}.mp4,FakeAVCeleb/{place}\n")
    text(root, f"{top}/meta_data.csv", META + "".join(lines))


def polyglot(root):
    frames(root, "PolyGlotFake/real/es/frames/es_1", "PolyGlotFake/fake/es2ru/frames/es_1_to_ru_Xtts")


def idforge(root):
    lines = {"train": [], "val": [], "test": []}
    for folder in ("pristine", *IDFORGE, "tts_textgen"):
        for number, split in enumerate(lines):
            frames(root, f"IDForge/main/{folder}/id0{number}/id0{number}_00/frames/id0{number}_scene_1_roop", count=1)
            lines[split].append(f"{folder}/id0{number}/id0{number}_00/id0{number}_scene_1_roop.mp4\n")
    for split, listed in lines.items():
        text(root, f"IDForge/{split}.csv", "".join(listed))


def eval_videos(root):
    frames(root, *(f"Deepfake-Eval-2024/video-data/frames/{name}" for name in "abcde"))
    rows = ["a.mp4,Real,Train", "b.mp4,Fake,Train", "c.mp4,Real,Test", "d.mp4,Fake,Test", "e.mp4,Unknown,Test"]
    header = "Filename,Video Ground Truth,Finetuning Set\n"
    text(root, "Deepfake-Eval-2024/video-metadata-publish-with-links.csv", header + "\n".join(rows))


def eval_images(root):
    pictures(root, "Deepfake-Eval-2024/image-data", "a.jpg", "b.webp")
    rows = "a.jpg,Real,Test\nb.webp,Fake,Test\n#NAME?,Fake,Test\n"
    text(root, "Deepfake-Eval-2024/image-metadata-publish.csv", f"Filename,Ground Truth,Finetuning Set\n{rows}")


def hydrafake(root, above=""):
    for level, methods in HYDRAFAKE.items():
        for method in methods:
            place = f"hydrafake/test/{level.lower() + '/' if above else ''}{method}"
            pictures(root, f"{place}/0_real", f"r{method}.png")
            pictures(root, f"{place}/1_fake", f"f{method}.png")
    pictures(root, "hydrafake/val/real", "1.png")
    pictures(root, "hydrafake/val/fake", "2.png")
    for place in ("real", "fake/FS/blendface", "fake/FR/Aniportrait", "fake/EFG/Dall-E1"):
        pictures(root, f"hydrafake/train/{place}", f"{place[-3:]}.png")


def scaledf(root):
    for split in ("train", "val"):
        pictures(root, f"ScaleDF/{split}/000000AFAD/a", f"{split}1.jpg")
        pictures(root, f"ScaleDF/{split}/AMatrix_faces", f"{split}2.jpg", f"{split}3.jpg")


SPLITS = {"train": (1, 0, 0), "val": (0, 1, 0), "test": (0, 0, 1)}
RIGHT = {
    # data set: (tree, videos of train, val, test by label)
    "Celeb-DF++": (
        celeb_scenarios,
        {"CelebDFpp_real": (2, 0, 2)} | {f"CelebDFpp_{m}": (1, 0, 1) for ms in CELEB_PP.values() for m in ms},
    ),
    "FFIW": (ffiw, {"FFIW_Real": (1, 1, 1), "FFIW_Fake": (1, 1, 1)}),
    "DFDM": (
        dfdm,
        {"DFDM_Real": (0, 0, 3)}
        | {f"DFDM_{model}": (0, 0, 2) for model in ("Faceswap", "Lightweight", "IAE", "Dfaker", "DFL-H128")},
    ),
    "DeepSpeak-1.1": (
        deepspeak_1,
        {"DeepSpeak1_Real": (1, 0, 1)} | {f"DeepSpeak1_{e}": SPLITS["test"] for e in DEEPSPEAK["1.1"]},
    ),
    "DeepSpeak-2.0": (
        deepspeak_2,
        {"DeepSpeak2_Real": (1, 0, 1)} | {f"DeepSpeak2_{e}": SPLITS["test"] for e in DEEPSPEAK["2.0"]},
    ),
    "FakeAVCeleb": (fakeavceleb, {f"FakeAVCeleb_{m}": SPLITS["test"] for m in ("Real", *FAKEAVCELEB)}),
    "PolyGlotFake": (polyglot, {f"PolyGlotFake_{kind}": SPLITS["test"] for kind in ("Real", "Fake")}),
    "IDForge": (idforge, {f"IDForge_{kind}": (1, 1, 1) for kind in ("Real", *IDFORGE)}),
    "Deepfake-Eval-2024": (eval_videos, {f"DFEval2024_{kind}": (1, 0, 1) for kind in ("Real", "Fake")}),
    "Deepfake-Eval-2024-img": (eval_images, {f"DFEval2024_{kind}": (0, 0, 1) for kind in ("Real", "Fake")}),
    "HydraFake": (
        hydrafake,
        {f"HydraFake_{level}_Real": (0, 0, len(methods)) for level, methods in HYDRAFAKE.items()}
        | {f"HydraFake_{method}": SPLITS["test"] for methods in HYDRAFAKE.values() for method in methods}
        | {"HydraFake_Real": (1, 1, 0), "HydraFake_Fake": SPLITS["val"]}
        | {f"HydraFake_{kind}": SPLITS["train"] for kind in ("FS", "FR", "EFG")},
    ),
    "ScaleDF": (scaledf, {"ScaleDF_Real": (1, 0, 1), "ScaleDF_Fake": (2, 0, 2)}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_tree_gives_its_labels_and_splits_and_is_read_back_whole(tmp_path, name):
    root = tmp_path / "rgb"
    RIGHT[name][0](root)
    arrangement = arrange(find(name)[0], root)
    assert counts(arrangement) == RIGHT[name][1]
    allowed = ("--allow", "fewer-videos", *(["one-class"] if name.startswith("DeepSpeak") else []))
    assert resproto(name, root, tmp_path, *allowed) == 0  # nothing else is odd
    config = dataset_config(name, tmp_path)
    options = {"key": config.key, "folder": config.folder, "taxonomy": load_taxonomy()}
    videos = all_videos(tmp_path / config.json_file, name, **options)
    assert {video.id: (video.split, video.label_name) for video in videos} == {
        record.id: (record.splits[0], record.label_name)
        for record in read_side(side_path(tmp_path / config.json_file)).records.values()
    }
    assert len({frame for video in videos for frame in video.frames}) == sum(len(video.frames) for video in videos)


def missing(path):
    return lambda root: (root / path).unlink()


def without(path):
    return lambda root: shutil.rmtree(root / path)


def more(folder):
    return lambda root: frames(root, folder)


def link(root):
    (root / "FFIW10K/source/train/again").symlink_to(root / "FFIW10K/source/train", target_is_directory=True)


def line(path, content):
    return lambda root: (root / path).write_text((root / path).read_text() + content)


CELEB, FAVC, EVAL = "Celeb-DF++/Celeb-synthesis", "FakeAVCeleb_v1.2", "Deepfake-Eval-2024"


WRONG = [
    ("Celeb-DF++", missing("Celeb-DF++/List_of_testing_videos.txt"), "testing_videos.txt: missing"),
    ("Celeb-DF++", without(f"{CELEB}/TalkingFace/FLOAT"), r"missing-methods: no video of 1 \(CelebDFpp_FLOAT\)"),
    ("Celeb-DF++", more(f"{CELEB}/FaceSwap/New/frames/x"), r"unknown-folders: none of its .*FaceSwap/New \(1 v"),
    ("FFIW", without("FFIW10K/source"), "one-class: split train has 0 real and 1 fake videos"),
    ("FFIW", without("FFIW10K/target/val"), "one-class: split val has 1 real and 0 fake videos"),
    ("FFIW", more("FFIW10K/target/extra/frames/x"), r"unknown-folders: no rule took 1 \(FFIW10K/target/extra"),
    ("DFDM", without("Celeb-DF-v2/Celeb-real"), "no folder Celeb-DF-v2/Celeb-real; DFDM needs it"),
    ("DFDM", more("DFDM/DFDM_crf0/other/frames/x"), r"unknown-folders: none of its folders .*crf0/other \(1 v"),
    ("DFDM", without("DFDM/DFDM_crf0"), "fewer-videos: 5 videos fake; the whole data set has 6450"),
    ("DeepSpeak-1.1", missing("DeepSpeak-1.1/annotations-split-def.csv"), "split-def.csv: missing"),
    ("DeepSpeak-1.1", line("DeepSpeak-1.1/annotations-split-def.csv", "12,dev\n"), "csv:4: expected split train"),
    ("DeepSpeak-1.1", more("DeepSpeak-1.1/fake/frames/sora--1"), r"unknown-folders: none of its folders .*fake"),
    ("DeepSpeak-2.0", missing("DeepSpeak-2.0/annotations-fake.csv"), "annotations-fake.csv: missing"),
    ("DeepSpeak-2.0", without("DeepSpeak-2.0/frames"), "one-class: 6 fake videos, none real"),
    ("DeepSpeak-2.0", without("DeepSpeak-2.0/fakes/frames/memo-6868-6860-playht"), r"no video of 1 \(DeepSp.*memo"),
    ("FakeAVCeleb", missing(f"{FAVC}/meta_data.csv"), r"meta_data.csv: missing; put FakeAVCeleb's own list"),
    (
        "FakeAVCeleb",
        line(f"{FAVC}/meta_data.csv", "id1,-,-,sora,A,FakeVideo-FakeAudio,x,y,1.mp4,F/FakeVideo-FakeAudio\n"),
        "csv:9: expected a method, a type, a file and its folder, got 'sora, ",
    ),
    ("FakeAVCeleb", without(f"{FAVC}/RealVideo-RealAudio"), "one-class: 5 fake videos, none real"),
    ("PolyGlotFake", without("PolyGlotFake/real"), "one-class: 1 fake videos, none real"),
    ("PolyGlotFake", more("PolyGlotFake/fake/frames/clip7"), "unknown-folders: none of its folders has a name"),
    ("PolyGlotFake", without("PolyGlotFake/fake"), "one-class: 1 real videos, none fake"),
    ("IDForge", missing("IDForge/val.csv"), r"val.csv: missing; put IDForge's list"),
    ("IDForge", line("IDForge/test.csv", "face_tts/id07.mp4\n"), "csv:10: expected 'face_tts/id00/id00_00/NAME"),
    ("IDForge", without("IDForge/main/face_tts/id02"), r"fewer-videos: in the lists, not .*: 1 \(face_tts"),
    (EVAL, missing(f"{EVAL}/video-metadata-publish-with-links.csv"), "video-metadata-publish.csv: missing"),
    (EVAL, line(f"{EVAL}/video-metadata-publish-with-links.csv", "\nf.mp4,Maybe,Test"), "csv:7: expected Real or"),
    (EVAL, without(f"{EVAL}/video-data/frames/d"), r"fewer-videos: in the lists, not .*: 1 \(video-data/d"),
    (f"{EVAL}-img", missing(f"{EVAL}/image-metadata-publish.csv"), "image-metadata-publish.csv: missing"),
    (f"{EVAL}-img", missing(f"{EVAL}/image-data/b.webp"), "one-class: 1 real videos, none fake"),
    (f"{EVAL}-img", more(f"{EVAL}/other/x"), r"unknown-folders: no rule took 1 \(Deepfake-Eval-2024/other"),
    ("HydraFake", without("hydrafake/test/MAGI"), r"missing-methods: no video of 1 \(HydraFake_MAGI\)"),
    ("HydraFake", more("hydrafake/test/Sora/1_fake"), r"unknown-folders: no rule took 1 \(hydrafake/test/Sora"),
    ("HydraFake", without("hydrafake/val/real"), "one-class: split val has 0 real and 1 fake videos"),
    ("ScaleDF", without("ScaleDF/val/000000AFAD"), "one-class: split test has 0 real and 2 fake videos"),
    ("ScaleDF", more("ScaleDF/Established_benchmarks/x"), r"unknown-folders: no rule took 1 \(ScaleDF/Establ"),
    ("ScaleDF", without("ScaleDF/train/AMatrix_faces"), "fewer-videos: 2 videos fake; the whole .* 8800000"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "harm", "said"), WRONG)
def test_a_wrong_tree_is_refused_with_what_was_expected(tmp_path, name, harm, said):
    root = tmp_path / "a"
    RIGHT[name][0](root)
    harm(root)
    assert re.search(said, refused(name, root))


ALLOWED = [case for case in WRONG if re.match(r"(one-class|unknown-folders|fewer-videos|missing-methods): ", case[2])]
ALLOWED = [("FFIW", link, r"linked-folders: 1 \(FFIW10K/source/train/again"), *ALLOWED]


@pytest.mark.parametrize(
    ("name", "harm", "said"), [*ALLOWED[:4], *(pytest.param(*case, marks=pytest.mark.slow) for case in ALLOWED[4:])]
)
def test_what_is_not_as_expected_is_written_if_each_difference_is_allowed(tmp_path, capsys, name, harm, said):
    root, out = tmp_path / "a", tmp_path / "out"
    RIGHT[name][0](root)
    harm(root)
    message = refused(name, root)
    allowed = message.rpartition("add --allow ")[2].split()
    assert re.search(said, message) and said.partition(":")[0] in allowed
    for one in allowed:
        left = refused(name, root, "--allow", *(other for other in ALLOWANCES if other != one))
        assert left.endswith(f"add --allow {one}")
    assert resproto(name, root, out, "--allow", *allowed) == 0
    printed = capsys.readouterr().out
    assert {*re.findall(r"allowed, ([a-z-]+): ", printed)} == {*allowed} and re.search(f"allowed, {said}", printed)
    config, arrangement = dataset_config(name, out), arrange(find(name)[0], root)
    options = {"key": config.key, "folder": config.folder, "taxonomy": load_taxonomy()}
    found = {
        (video.split, video.label_name, video.frames) for video in all_videos(out / config.json_file, name, **options)
    }
    assert found == {(video.splits[0], video.label, video.clip.frames) for video in arrangement.videos}


@pytest.mark.parametrize("name", ["oneclass", "all", "fewer-videos,one-class", ""])
def test_a_name_that_nothing_has_is_not_allowed_and_told_before_the_tree_is_looked_at(tmp_path, name):
    message = refused("HydraFake", tmp_path / "nowhere", "--allow", "fewer-videos", name)
    assert message.startswith(f"--allow: expected {', '.join(ALLOWANCES)}, got '{name}'")


def test_archives_that_were_not_unpacked_are_counted_by_suffix_and_reason(tmp_path):
    scaledf(tmp_path / "a")
    pictures(tmp_path / "a", "ScaleDF/val", "000000300VW.tar", "DiffFace_faces.tar")
    assert "passed over: 2 .tar: archives; unpack them" in refused("ScaleDF", tmp_path / "a")


def test_scenarios_and_levels_are_data_sets_of_their_own(tmp_path):
    celeb_scenarios(tmp_path / "rgb")
    hydrafake(tmp_path / "rgb", above="level")
    for name in ("Celeb-DF++", "HydraFake"):
        resproto(name, tmp_path / "rgb", tmp_path, "--allow", "fewer-videos")
    assert {path.stem for path in tmp_path.glob("*.json")} == {
        "Celeb-DF++", *(f"Celeb-DF++-{key}" for key in CELEB_PP),
        "HydraFake", *(f"HydraFake-{key}" for key in HYDRAFAKE),
    }  # fmt: skip
    for name, fakes in (("Celeb-DF++-TF", CELEB_PP["TF"]), ("HydraFake-CM", HYDRAFAKE["CM"])):
        config = load("datasets", name)
        videos = list(read_manifest(tmp_path / config.json_file, name, split="test", folder=config.folder))
        assert sum(video.label for video in videos) == len({video.method for video in videos} - {"real"}) == len(fakes)
        assert sum(not video.label for video in videos) == (2 if name.startswith("Celeb") else len(fakes))


@pytest.mark.parametrize(
    "name, made, file, line, message",
    [
        ("DeepSpeak-1.1", deepspeak_1, "DeepSpeak-1.1/annotations-split-def.csv", "10,test", "actor '10' is of train"),
        (
            "DeepSpeak-2.0",
            deepspeak_2,
            "DeepSpeak-2.0/annotations-fake.csv",
            "diff2lip-6868-6860-playht.mp4,11,10",
            "train target 10 source 11",
        ),
        (
            "FakeAVCeleb",
            fakeavceleb,
            "FakeAVCeleb_v1.2/meta_data.csv",
            "id00001,-,-,fsgan,A,FakeVideo-FakeAudio,x,y,00109_2_id00002_wav2lip.mp4,"
            "FakeAVCeleb/FakeVideo-FakeAudio/African/men/id00001",
            r"FakeAVCeleb_wav2lip target .*FakeAVCeleb_fsgan target .*; remove the wrong line",
        ),
        ("IDForge", idforge, "IDForge/test.csv", "pristine/id00/id00_00/id00_scene_1_roop.mp4", "train and test"),
        (
            "Deepfake-Eval-2024",
            eval_videos,
            "Deepfake-Eval-2024/video-metadata-publish-with-links.csv",
            "a.mp4,Fake,Train",
            "train DFEval2024_Real and train DFEval2024_Fake",
        ),
    ],
)
def test_lists_that_contradict_themselves_are_refused(tmp_path, name, made, file, line, message):
    made(tmp_path)
    path = tmp_path / file
    whole = path.read_text().rstrip("\n")
    path.write_text(f"{whole}\n{whole.splitlines()[-1]}\n")
    assert arrange(DESCRIPTIONS[name], tmp_path).videos  # a line that stands twice says the same
    path.write_text(f"{whole}\n{line}\n")
    with pytest.raises(UserError, match=message):
        arrange(DESCRIPTIONS[name], tmp_path)


def test_people_of_the_panel_are_known_by_names_and_lists(tmp_path):
    for name in ("DFDM", "DeepSpeak-1.1", "DeepSpeak-2.0", "FakeAVCeleb", "IDForge"):
        RIGHT[name][0](tmp_path)
    people = {
        video.name: (dict(video.people), video.original)
        for name in ("DFDM", "DeepSpeak-1.1", "DeepSpeak-2.0", "FakeAVCeleb", "IDForge")
        for video in arrange(DESCRIPTIONS[name], tmp_path).videos
    }
    assert people["DFDM_crf0_IAE_id1_id2_0000_IAE"] == (
        {"target": "Celeb-DF-v2/id1", "source": "Celeb-DF-v2/id2"},
        "Celeb-DF-v2/Celeb-real/id1_0000",
    )
    actors = {"target": "DeepSpeak/11", "source": "DeepSpeak/10"}
    assert people["facefusion--10-11--4100-4897--0"][0] == people["memo-6868-6860-playht"][0] == actors
    original = "FakeAVCeleb_v1.2/RealVideo-RealAudio/African/men/id00001/00109"
    assert people["00109_2_id00002_faceswap"] == (
        {"target": "FakeAVCeleb/id00001", "source": "FakeAVCeleb/id00002"}, original,
    )  # fmt: skip
    assert people["00109_2_id00002_wav2lip"] == ({"target": "FakeAVCeleb/id00001"}, original)


@pytest.mark.parametrize(
    ("protocol", "names"),
    [
        ("celeb_df_pp_gf", ["Celeb-DF++"]),
        ("celeb_df_pp_gfq", ["Celeb-DF++"]),
        ("deepfake_eval_2024", ["Deepfake-Eval-2024"]),
        ("deepfake_eval_2024_img", ["Deepfake-Eval-2024-img"]),
        ("hydrafake", ["HydraFake"]),
        ("scaledf", ["ScaleDF"]),
    ],
)
def test_a_protocol_for_tests_alone_finds_the_arranged_videos_and_no_training(tmp_path, protocol, names):
    for name in names:
        RIGHT[name][0](tmp_path / "rgb")
        resproto(name, tmp_path / "rgb", tmp_path, "--allow", "fewer-videos")
    data = DataConfig(json_dir=str(tmp_path), rgb_dir=str(tmp_path / "rgb"))
    found = resolve(load("protocols", protocol), data)
    assert (found.train, found.selection, found.config.selection.rule) == (None, None, "last")
    assert all(min(frames.class_counts()) > 0 for frames in found.tests.values())
    assert {video.split for frames in found.tests.values() for video in frames.videos} == {"test"}


def test_a_data_set_without_its_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no folder 'hydrafake'; it has no folder"):
        arrange(DESCRIPTIONS["HydraFake"], tmp_path)
