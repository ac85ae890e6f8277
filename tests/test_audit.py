"""The audit: a clean data set, each kind of fault planted in it, the search for near duplicates, the reports."""

import argparse
import json
import re
from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
from tiny import quick_and_slow

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.audit import check as command
from resproto_fd.preprocessing.audit.check import audit
from resproto_fd.preprocessing.audit.frame_facts import gradient_signs, jpeg_quality, read_facts
from resproto_fd.preprocessing.audit.label_leaks import cramers_v, ranked_auc
from resproto_fd.preprocessing.audit.near_duplicates import near_pairs, thumb_difference
from resproto_fd.preprocessing.audit.report import as_html, as_text
from resproto_fd.preprocessing.manifest import read_manifest
from resproto_fd.preprocessing.side_file import SideRecord, side_path, write_side
from resproto_fd.preprocessing.store.frame_store import open_store
from resproto_fd.preprocessing.store.lmdb_writer import LmdbWriter
from resproto_fd.preprocessing.store.threads import Threads
from resproto_fd.preprocessing.video import SPLITS

VIDEOS, FRAMES, SIDE = 10, 4, 64
MEDIA = {"width": 640, "height": 480, "fps": 25.0, "codec": "h264"}


@dataclass
class MadeVideo:
    """A video of the made data set."""

    split: str
    label: int
    name: str
    frames: list[bytes]
    person: str
    media: dict = field(default_factory=lambda: {**MEDIA, "several": []})
    listed: list[str] | None = None
    splits: list[str] = field(default_factory=list)

    @property
    def folder(self):
        return f"Made/{('real', 'fake')[self.label]}/frames/{self.name}"

    @property
    def label_name(self):
        return ("Demo_real", "Demo_swap")[self.label]

    def paths(self):
        if self.listed is not None:
            return self.listed
        return [f"{self.folder}/{i:03d}.png" for i in range(len(self.frames))]


def picture(seed, side=SIDE):
    """Soft colours, another picture for each seed."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC).astype(int) + rng.integers(
        -3, 4, (side, side, 3)
    )
    return image.clip(0, 255).astype(np.uint8)


def encoded(image, suffix=".png", *options):
    return cv2.imencode(suffix, image[:, :, ::-1], list(options))[1].tobytes()


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]


@pytest.fixture(scope="module")
def clean():
    """Videos of three splits, alike in everything but their label and their pictures."""
    videos = []
    for split in SPLITS:
        for label in (0, 1):
            for n in range(VIDEOS):
                name = f"{split}{n:02d}"
                images = [encoded(picture([SPLITS.index(split), label, n, i])) for i in range(FRAMES)]
                videos.append(MadeVideo(split, label, name, images, f"Made/{split}-{label}-{n}"))
    return videos


@pytest.fixture
def made(clean):
    """A copy to plant faults in, by (split, label): videos."""
    copies = [MadeVideo(v.split, v.label, v.name, list(v.frames), v.person, dict(v.media)) for v in clean]
    return {
        (split, label): [v for v in copies if (v.split, v.label) == (split, label)]
        for split in SPLITS
        for label in (0, 1)
    }


def save(made, root, name="Made", side=True):
    """The data set on disk; its manifest."""
    videos = [video for videos in made.values() for video in videos]
    layout = {}
    for video in videos:
        table = layout.setdefault(video.label_name, {split: {} for split in SPLITS})
        for split in [video.split, *video.splits]:
            table[split][video.name] = {"label": video.label_name, "frames": video.paths()}
        (root / video.folder).mkdir(parents=True, exist_ok=True)
        for i, data in enumerate(video.frames):
            (root / video.folder / f"{i:03d}.png").write_bytes(data)
    path = root / f"{name}.json"
    path.write_text(json.dumps({name: layout}))
    if side:
        records = [
            SideRecord(video.folder.replace("/frames", ""), (video.split, *video.splits), video.label, video.label_name,
                       "demo swap", "face swap", identity=video.person, media=video.media)
            for video in videos if video.paths()
        ]  # fmt: skip
        write_side(side_path(path), {}, records)
    return path


def found(made, root, **options):
    return audit([save(made, root)], root, **options)


# --- faults to plant: each alters the data set, and says what must be found -----------------------------------------


def a_missing_frame(made, root):
    video = made["test", 0][0]
    video.listed = [*video.paths(), f"{video.folder}/999.png"]
    return "missing frames", "error", "the store lacks: 1 of 81", "999.png"


def a_frame_cut_short(made, root):
    made["train", 1][3].frames[2] = made["train", 1][3].frames[2][:500]
    return "unreadable frames", "error", "cannot be read: 1 of 80", "cut short"


def a_text_file_named_png(made, root):
    made["val", 0][0].frames[0] = b"not a picture"
    return "unreadable frames", "error", "cannot be read: 1 of 80", "val00/000.png"


def a_video_in_train_and_test(made, root):
    made["train", 0][0].splits = ["test"]
    return "videos across splits", "error", r"videos in train and in test .*: 1$", "Made/real/train00"


def the_test_split_as_val(made, root):
    for label in (0, 1):
        for video in made["test", label]:
            video.splits = ["val"]
    return "videos across splits", "warning", r"videos in val and in test .*: 20$", "Made/fake/test00"


def a_person_in_train_and_test(made, root):
    made["train", 1][2].person = made["test", 0][5].person = "Made/somebody"
    return "people across splits", "warning", r"people in train and in test .*: 1$", "Made/somebody"


def a_test_frame_saved_again_in_train(made, root):
    image = decoded(made["test", 1][4].frames[1])
    again = decoded(encoded(cv2.convertScaleAbs(image, alpha=0.9, beta=6), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 60))
    made["train", 1][7].frames[0] = encoded(again)
    return (
        "near duplicates",
        "error",
        "nearly the same: 1; of videos: 1",
        "fake/train07  Made/fake/test04",
    )


def a_mirrored_test_frame_in_val(made, root):
    made["val", 0][1].frames[3] = encoded(decoded(made["test", 0][2].frames[0])[:, ::-1])
    return "near duplicates", "error", "nearly the same: 1; of videos: 1", r"real/val01  Made/real/test02 \(mirrored\)"


def a_picture_that_is_real_and_fake(made, root):
    made["train", 0][3].frames[1] = made["train", 1][8].frames[2]
    return (
        "both labels",
        "error",
        "pixel by pixel, in real and in fake videos: 1",
        "train03/001.png = Made/fake/frames/train08/002.png",
    )


def a_split_of_one_class(made, root):
    del made["val", 0]
    return "label balance", "error", "no real frame", None


def a_rare_class(made, root):
    del made["test", 1][1:]
    for video in made["test", 1]:
        del video.frames[1:]
    return "label balance", "warning", "fake frames are 2.4% of 41", None


def a_short_video(made, root):
    for label in (0, 1):
        for video in made["train", label]:
            n = int(video.name[-2:])
            video.frames += [encoded(picture([9, label, n, i])) for i in range(2)]
    del made["train", 1][0].frames[1:]
    return "short videos", "warning", "less than a quarter of the usual 6 frames: 1", r"fake/train00 \(1\)"


def an_empty_video(made, root):
    made["test", 1][0].listed = []
    return "empty videos", "error", "videos without a frame: 1", "Demo_swap/test00"


def a_frame_size_that_goes_with_the_label(made, root):
    for video in made["train", 1]:
        video.frames = [encoded(cv2.resize(decoded(data), (96, 96))) for data in video.frames]
    return "goes with the label", "error", "frame size goes with the label: Cramer's V 1.00", None


def a_codec_that_goes_with_the_label(made, root):
    for split in SPLITS:
        for video in made[split, 1]:
            video.media["codec"] = "vp9"
    return "goes with the label", "error", "codec of the source video goes with the label", None


def a_frame_rate_that_mostly_goes_with_the_label(made, root):
    for video in [*made["train", 1][1:], *made["train", 0][:1]]:
        video.media["fps"] = 30.0
    return (
        "goes with the label",
        "warning",
        r"frame rate .* Cramer's V 0\.[78].*real 25.00 fps 9.*fake 30.00 fps 9",
        None,
    )


def a_source_size_that_goes_with_the_label(made, root):
    for video in made["test", 0]:
        video.media.update(width=1920, height=1080)
    return "goes with the label", "error", "size of the source video goes with the label", None


def jpegs_of_another_quality(made, root):
    for split in SPLITS:
        for label, quality in ((0, 95), (1, 70)):
            for video in made[split, label]:
                video.frames = [encoded(decoded(d), ".jpg", cv2.IMWRITE_JPEG_QUALITY, quality) for d in video.frames]
    return "goes with the label", "error", r"JPEG quality .* AUC 0.00 \(median real 95, fake 70\)", None


def file_sizes_that_go_with_the_label(made, root):
    for video in made["train", 1]:
        video.frames = [encoded(cv2.GaussianBlur(decoded(data), (0, 0), 2)) for data in video.frames]
    return "goes with the label", "warning", "bytes a pixel goes with the label: AUC 0", None


def a_number_of_frames_that_goes_with_the_label(made, root):
    for video in made["test", 0]:
        del video.frames[2:]
    return "goes with the label", "error", "number of frames goes with the label", None


def several_faces_in_a_frame(made, root):
    made["train", 0][6].media["several"] = [2, 77]
    return "several faces", "warning", r"several faces .*: 1$", "train06/002.png"


def a_frame_of_another_size(made, root):
    made["test", 0][3].frames[0] = encoded(picture(77, side=48))
    return "odd sizes", "warning", "not 64 x 64 as the others, but 48 x 48: 1", "test03/000.png"


def a_black_frame(made, root):
    made["test", 1][3].frames[0] = encoded(np.zeros((SIDE, SIDE, 3), np.uint8))
    return "blank frames", "warning", "show nothing: 1 of 80", "test03/000.png"


FAULTS = [
    a_missing_frame, a_frame_cut_short, a_text_file_named_png, a_video_in_train_and_test, the_test_split_as_val,
    a_person_in_train_and_test, a_test_frame_saved_again_in_train, a_mirrored_test_frame_in_val,
    a_picture_that_is_real_and_fake, a_split_of_one_class, a_rare_class, a_short_video, an_empty_video,
    a_frame_size_that_goes_with_the_label, a_codec_that_goes_with_the_label,
    a_frame_rate_that_mostly_goes_with_the_label, a_source_size_that_goes_with_the_label, jpegs_of_another_quality,
    file_sizes_that_go_with_the_label, a_number_of_frames_that_goes_with_the_label, several_faces_in_a_frame,
    a_frame_of_another_size, a_black_frame,
]  # fmt: skip

# A fault may bring another that is a fault too: a video in two splits shows its person in both.
COMPANIONS = {
    a_video_in_train_and_test: {"people across splits"},
    jpegs_of_another_quality: {"bytes a pixel"},
    a_frame_size_that_goes_with_the_label: {"bytes a pixel"},
}


def test_nothing_is_found_in_a_clean_data_set(made, tmp_path):
    result = found(made, tmp_path)
    assert result.findings == []
    assert not result.failed("warning")
    assert result.notes == ["240 of 240 frames were read"]
    assert [(row["split"], row["videos"], row["frames"], row["fake_share"]) for row in result.sets] == [
        (split, 20, 80, 0.5) for split in SPLITS
    ]


@pytest.mark.parametrize("plant", quick_and_slow(FAULTS, [*FAULTS][::12]), ids=lambda plant: plant.__name__)
def test_each_planted_fault_is_found_and_nothing_else(made, tmp_path, plant):
    check, severity, text, name = plant(made, tmp_path)
    result = found(made, tmp_path)
    wanted = [f for f in result.findings if (f.check, f.severity) == (check, severity) and re.search(text, f.text)]
    assert wanted, result.findings
    assert name is None or any(re.search(name, each) for finding in wanted for each in finding.names)
    companions = COMPANIONS.get(plant, set())
    for finding in result.findings:
        assert finding.check in {check, *companions} or any(word in finding.text for word in companions), finding
    assert result.failed("error") == (severity == "error")
    assert result.failed("warning")


def test_at_least_ten_kinds_of_fault_are_planted():
    assert len(FAULTS) >= 10 and len(set(FAULTS)) == len(FAULTS)


def test_all_faults_at_once_are_all_found(made, tmp_path):
    apart = [a_missing_frame, a_frame_cut_short, a_video_in_train_and_test, a_test_frame_saved_again_in_train,
             a_picture_that_is_real_and_fake, several_faces_in_a_frame, a_codec_that_goes_with_the_label,
             a_black_frame, a_person_in_train_and_test, a_frame_of_another_size]  # fmt: skip
    checks = {plant(made, tmp_path)[0] for plant in apart}
    assert checks <= {finding.check for finding in found(made, tmp_path).findings}


@pytest.mark.slow
@pytest.mark.parametrize("plant", [a_test_frame_saved_again_in_train, a_frame_cut_short, a_missing_frame])
def test_frames_in_an_lmdb_are_audited_alike(made, tmp_path, plant):
    plant(made, tmp_path)
    path = save(made, tmp_path)
    with LmdbWriter(tmp_path / "Made_lmdb") as writer:
        for file in sorted(tmp_path.glob("Made/**/*.png")):
            writer.put(str(file.relative_to(tmp_path)), file.read_bytes())
    files, lmdb = (
        audit([path], place, threads=Threads(jobs)) for place, jobs in ((tmp_path, 1), (tmp_path / "Made_lmdb", 2))
    )
    assert [(f.check, f.where, f.text) for f in lmdb.findings] == [(f.check, f.where, f.text) for f in files.findings]


def test_two_manifests_are_audited_against_each_other(made, tmp_path):
    path = save(made, tmp_path)
    other = {key: videos for key, videos in made.items() if key[0] == "train"}
    for videos in other.values():
        for video in videos:
            video.split = "test"
    second = save(other, tmp_path, "Other")
    where = {f.where for f in audit([path, second], tmp_path).findings if f.check == "videos across splits"}
    assert where == {"Made, train; Other, test"}


def test_a_video_with_two_labels_in_two_manifests_is_found(made, tmp_path):
    path = save(made, tmp_path, side=False)
    turned = json.loads(path.read_text().replace("Demo_real", "Demo_x").replace("Demo_swap", "Demo_real"))
    (tmp_path / "Turned.json").write_text(json.dumps({"Turned": turned["Made"]}).replace("Demo_x", "Demo_swap"))
    result = audit([path, tmp_path / "Turned.json"])
    assert [f.text for f in result.findings] == ["videos called real in one place and fake in another: 60"]


def test_a_split_that_cannot_be_read_is_a_finding_not_the_end(made, tmp_path):
    path = save(made, tmp_path)
    content = json.loads(path.read_text())
    content["Made"]["Demo_real"]["val"] = {"label": "Demo_real", "frames": []}  # DFDC as DeepfakeBench writes it
    path.write_text(json.dumps(content))
    result = audit([path], tmp_path)
    assert [(f.check, f.severity, f.where) for f in result.findings] == [("manifest", "error", "Made, val")]
    assert {row["split"] for row in result.sets} == {"train", "test"}


def test_what_cannot_be_looked_at_is_said(made, tmp_path):
    result = audit([save(made, tmp_path, side=False)])
    assert result.findings == []
    assert [note.split(":")[0] for note in result.notes] == [
        "Made", "nothing is known of the source videos (codec, frame rate, several faces)", "no frame was read",
    ]  # fmt: skip


@pytest.mark.slow
def test_records_of_faces_stand_in_for_a_side_file(made, tmp_path):
    path = save(made, tmp_path, side=False)
    for label, codec in ((0, "h264"), (1, "hevc")):
        for video in made["train", label]:
            record = tmp_path / ".faces/records" / f"{video.folder.replace('/frames', '')}.json"
            record.parent.mkdir(parents=True, exist_ok=True)
            record.write_text(
                json.dumps({**video.media, "codec": codec, "several": {"1": 2} if codec == "hevc" else {}})
            )
    result = audit([path], tmp_path, faces=tmp_path)
    assert {finding.check for finding in result.findings} == {"several faces", "goes with the label"}
    assert resproto(path, "--store", tmp_path, "--fail-on", "warning") == 1  # where the frames are, they are looked for
    with pytest.raises(UserError, match="has no records"):
        audit([path], tmp_path, faces=tmp_path / "Made/real")


def test_a_sample_takes_of_every_video_and_depends_on_the_seed_alone(made, tmp_path):
    path = save(made, tmp_path)
    read = [audit([path], tmp_path, sample=60, seed=seed) for seed in (0, 0, 1)]
    assert read[0].findings == [] and "60 of 240 frames were read, drawn with seed 0" in read[0].notes[-1]
    from resproto_fd.preprocessing.audit.case import Case, Listed
    from resproto_fd.preprocessing.audit.check import _sampled

    case = Case([Listed("Made", {s: list(read_manifest(path, "Made", split=s)) for s in SPLITS})])
    samples = [_sampled(case, set(), 60, seed) for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    assert len({frame.rpartition("/")[0] for frame in samples[0]}) == 60
    assert len(_sampled(case, {samples[0][0]}, 0, 0)) == 239


@pytest.mark.slow
def test_the_faulty_splits_that_deepfakebench_gives_celeb_are_found(shared, tmp_path):
    fixture = shared / "fixtures/deepfakebench"
    result = audit([fixture / "dataset_json/Celeb-DF-v2.json"], fixture / "datasets/rgb")
    assert {finding.check for finding in result.findings} == {"videos across splits"}
    assert [(f.severity, f.count) for f in result.findings] == [("error", 4), ("error", 4), ("warning", 6)]
    assert audit([fixture / "dataset_json/FaceForensics++.json"], fixture / "datasets/rgb").findings == []


def test_a_frame_that_two_folders_of_real_pictures_share_is_found(shared):
    """Two frames of the pack of real pictures, saved apart, one under fake and one under real, are the same."""
    folder = shared / "real"
    names = ["fake_faces/ffpp_dfd_frames/fake_frame_19.jpg", "real_faces/ffpp_dfd_frames/real_frame_20/0.jpg",
             "real_faces/london/london_082/neutral.jpg", "real_faces/london/london_083/neutral.jpg"]  # fmt: skip
    facts = read_facts(open_store(folder), names)
    _, right, _ = near_pairs(facts.look[:1], facts.look[1:])
    assert right.tolist() == [0] and thumb_difference(facts.thumbs[:1], facts.thumbs[1:2])[0] < 0.01
    assert thumb_difference(facts.thumbs[2:3], facts.thumbs[3:])[0] > 0.1


# --- near duplicates ---------------------------------------------------------------------------------------------


def test_near_pairs_are_those_of_comparing_all_with_all():
    rng = np.random.default_rng(0)
    left, right = (rng.integers(0, 2**64, (n, 2), dtype=np.uint64) for n in (120, 150))
    right[:100] = left[:100]
    for row in range(100):
        for bit in rng.choice(128, row // 6, replace=False):
            right[row, bit // 64] ^= np.uint64(1 << int(bit % 64))
    right[100:110] = right[0]  # and several of one code
    for radius in (0, 5, 9):
        expected = []
        for i in range(120):
            for j in range(150):
                bits = sum(bin(int(a) ^ int(b)).count("1") for a, b in zip(left[i], right[j]))
                expected += [(i, j, bits)] if bits <= radius else []
        assert list(zip(*(each.tolist() for each in near_pairs(left, right, radius)))) == expected
        assert len(expected) > 10


def test_near_pairs_do_not_need_numpy_2(monkeypatch):
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2**64, (50, 2), dtype=np.uint64)
    expected = near_pairs(codes, codes)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert all((a == b).all() for a, b in zip(near_pairs(codes, codes), expected))


def test_many_equal_codes_end_the_search_instead_of_filling_the_memory():
    codes = np.zeros((3000, 2), np.uint64)
    left, right, bits = near_pairs(codes, codes, most=1000)
    assert len(left) == len(right) == 1000 and not bits.any()
    none = np.zeros((0, 2), np.uint64)
    assert len(near_pairs(none, codes)[0]) == len(near_pairs(codes, none)[0]) == 0


def test_too_many_duplicates_are_said_to_be_too_many(made, tmp_path, monkeypatch):
    for i in range(FRAMES):
        made["train", 1][i].frames = made["test", 1][i].frames
    monkeypatch.setattr("resproto_fd.preprocessing.audit.checks.MOST_PAIRS", 10)
    (finding,) = found(made, tmp_path).findings
    assert re.search("nearly the same: 10; of videos: [34], or more", finding.text)


def test_pictures_are_known_again_after_what_is_usually_done_to_them():
    image = picture(5, 256)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    changed = [
        decoded(encoded(image, ".jpg", cv2.IMWRITE_JPEG_QUALITY, 40)),
        cv2.resize(cv2.resize(image, (96, 96), interpolation=cv2.INTER_AREA), (256, 256)),
        cv2.convertScaleAbs(image, alpha=0.8, beta=20),
        cv2.GaussianBlur(image, (0, 0), 2),
    ]
    for other in changed:
        signs = gradient_signs(cv2.cvtColor(np.ascontiguousarray(other), cv2.COLOR_RGB2GRAY))
        assert sum(bin(a ^ b).count("1") for a, b in zip(signs, gradient_signs(grey))) <= 9
    other = gradient_signs(cv2.cvtColor(picture(6, 256), cv2.COLOR_RGB2GRAY))
    assert sum(bin(a ^ b).count("1") for a, b in zip(other, gradient_signs(grey))) > 30


# --- figures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [20, 50, 75, 90, 95])
def test_the_quality_of_a_jpeg_is_read_from_its_table(quality):
    assert jpeg_quality(encoded(picture(0), ".jpg", cv2.IMWRITE_JPEG_QUALITY, quality)) == pytest.approx(quality, abs=1)


def test_a_jpeg_without_a_table_has_no_quality():
    assert np.isnan(jpeg_quality(b"\xff\xd8\xff\xda\x00\x02"))
    assert np.isnan(jpeg_quality(b"\xff\xd8\xff\xe0"))


def test_cramers_v_is_zero_for_chance_and_one_for_certainty():
    labels = np.repeat([0, 1], 50)
    certain, p = cramers_v(["a"] * 50 + ["b"] * 50, labels)
    assert certain == pytest.approx(1, abs=0.01) and p < 1e-9
    assert cramers_v(["a", "b"] * 50, labels)[0] == 0
    assert cramers_v(["a"] * 100, labels) == (0.0, 1.0)
    rare, _ = cramers_v([str(i) for i in range(100)], labels)  # each value once: nothing can be said
    assert rare == 0


def test_the_ranked_auc_is_scikit_learns_and_its_p_scipys():
    from scipy.stats import mannwhitneyu
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80)
    values = np.round(rng.normal(size=80) + labels, 1)  # with ties
    area, p = ranked_auc(values, labels)
    assert area == pytest.approx(roc_auc_score(labels, values))
    test = mannwhitneyu(values[labels == 1], values[labels == 0], use_continuity=False, method="asymptotic")
    assert p == pytest.approx(test.pvalue)
    assert ranked_auc(np.ones(20), np.repeat([0, 1], 10)) == (0.5, 1.0)


def test_facts_of_frames_are_in_the_order_asked_and_faults_are_named(made, tmp_path):
    save(made, tmp_path)
    paths = made["train", 0][0].paths()
    (tmp_path / paths[1]).write_bytes(b"")
    facts = read_facts(open_store(tmp_path), [*paths[::-1], "Made/none.png"], jobs=2)
    assert facts.paths == (paths[3], paths[2], paths[0])
    assert set(facts.faults) == {paths[1], "Made/none.png"} and "has no bytes" in facts.faults[paths[1]]
    assert facts.size.tolist() == [[SIDE, SIDE]] * 3 and set(facts.form) == {"png"}
    assert len(set(facts.digest.tolist())) == 3
    empty = read_facts(open_store(tmp_path), [])
    assert empty.look.shape == (0, 2) and empty.thumbs.shape[0] == 0


# --- reports and the command ---------------------------------------------------------------------------------------


def resproto(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args([*map(str, words), "--no-progress"]))


@pytest.mark.slow
def test_exit_codes_tell_clean_from_found(made, tmp_path, capsys):
    assert resproto(save(made, tmp_path), "--store", tmp_path, "--fail-on", "warning") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "nothing found"
    a_black_frame(made, tmp_path)
    path = save(made, tmp_path)
    assert resproto(path, "--store", tmp_path) == 0
    assert resproto(path, "--store", tmp_path, "--fail-on", "warning") == 1
    a_video_in_train_and_test(made, tmp_path)
    assert resproto(save(made, tmp_path), "--store", tmp_path) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 error, 2 warnings"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.json"], "no such dataset JSON"),
        (["Made.json", "--store", "nowhere"], "no such frame store"),
        (["Made.json", "--sample", "-1"], "expected a number of frames"),
        (["empty.json"], "has no video in train, val or test"),
        (["broken.json"], "not a whole JSON"),
    ],
)
def test_a_fault_of_the_call_is_an_error_not_a_finding(made, tmp_path, monkeypatch, words, message):
    save(made, tmp_path)
    (tmp_path / "empty.json").write_text('{"empty": {"Demo_real": {"train": {}, "val": {}, "test": {}}}}')
    (tmp_path / "broken.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        resproto(*words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", "Made.json"], "--json Made.json: expected a file of its own, got one that this command reads"),
        (["--html", "./Made.side.jsonl"], "got one that this command reads; set another --html"),
        (["--html", "x", "--json", "x"], "--html x: expected a file of its own, got the file of --json"),
        (["--json", "Other.json"], "--json Other.json: expected no file or an earlier report, got another file"),
        (["--html", "folder"], "--html folder: expected a file, got a folder; set another --html"),
    ],
)
def test_a_report_never_takes_the_place_of_another_file(made, tmp_path, monkeypatch, words, message):
    (tmp_path / "folder").mkdir()
    save(made, tmp_path)
    (tmp_path / "Other.json").write_bytes((tmp_path / "Made.json").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "audit", lambda *args, **more: pytest.fail("the work has begun"))
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(UserError, match=re.escape(message)):
        resproto("Made.json", *words)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_an_earlier_report_is_replaced(made, tmp_path, capsys):
    path, reports = save(made, tmp_path), ["--json", tmp_path / "r.json", "--html", tmp_path / "r.html"]
    assert [resproto(path, *reports), resproto(path, *reports)] == [0, 0]
    assert resproto(path, "--json", "-") == 0


def test_frames_beside_the_manifest_are_found_without_saying(made, tmp_path, capsys):
    path = save(made, tmp_path / "rgb")
    (tmp_path / "dataset_json").mkdir()
    moved = path.rename(tmp_path / "dataset_json/Made.json")
    assert resproto(moved) == 0
    assert "240 of 240 frames were read" in capsys.readouterr().out


@pytest.mark.slow
def test_the_findings_are_written_for_a_machine(made, tmp_path, capsys):
    a_test_frame_saved_again_in_train(made, tmp_path)
    path = save(made, tmp_path)
    assert resproto(path, "--store", tmp_path, "--json", "-") == 1
    printed = json.loads(capsys.readouterr().out)
    assert resproto(path, "--store", tmp_path, "--json", tmp_path / "out.json") == 1
    assert json.loads((tmp_path / "out.json").read_text()) == printed
    (finding,) = printed["findings"]
    assert (printed["errors"], printed["warnings"]) == (1, 0)
    assert (finding["check"], finding["severity"], finding["count"]) == ("near duplicates", "error", 1)


def test_the_page_shows_the_pictures_and_needs_nothing_else(made, tmp_path):
    a_test_frame_saved_again_in_train(made, tmp_path)
    made["train", 1][2].person = made["test", 0][5].person = "<script>alert(1)</script>"
    path = save(made, tmp_path)
    assert resproto(path, "--store", tmp_path, "--html", tmp_path / "out.html") == 1
    page = (tmp_path / "out.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2
    assert "fake/frames/train07/000.png" in page and "differ by 0.0" in page
    assert "<script" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.findall(r"(?:src|href)=(?!\"data:)", page) and "http" not in page.replace("http-equiv", "")
    assert "$" not in page


def test_a_clean_data_set_has_a_page_too(made, tmp_path):
    result = found(made, tmp_path)
    page = as_html(result)
    assert 'class="verdict clean">nothing found' in page and "240 of 240 frames" in page
    text = as_text(result)
    assert re.search(r"Made +train +20 +80 +4 +50.0% +demo swap +20 +64 x 64", text)


def test_a_picture_that_cannot_be_shown_leaves_its_place_empty(made, tmp_path):
    several_faces_in_a_frame(made, tmp_path)
    result = found(made, tmp_path)
    (tmp_path / "Made/real/frames/train06/002.png").unlink()
    assert "no picture" in as_html(result)


def test_a_data_sets_own_yaml_is_used(made, tmp_path):
    path = save(made, tmp_path, "Mine", side=False)
    path.write_text(path.read_text().replace("Demo_swap", "odd label"))
    with pytest.raises(UserError, match="'odd label' is not in the taxonomy"):
        audit([path])
    path.with_suffix(".yaml").write_text(
        "{json: Mine.json, key: Mine, folder: Made, store: X_lmdb, labels: {odd label: {method: odd, type: editing}}}"
    )
    assert audit([path]).findings == []


def test_the_level_asked_for_is_audited(shared):
    json_path = shared / "fixtures/deepfakebench/dataset_json/FF-DF.json"
    assert [row["frames"] for row in audit([json_path]).sets] == [24, 24, 24]
    assert [row["frames"] for row in audit([json_path], compression="c40").sets] == [24, 24, 24]  # it has c23 alone


def black_margins_around_fakes(made, root):
    for (_, label), videos in made.items():
        for video in videos:
            for i, data in enumerate(video.frames):
                image = decoded(data)
                if label:
                    image[: image.shape[0] // 6] = 0
                video.frames[i] = encoded(image)


def test_padding_that_goes_with_the_label_is_an_error_and_background_a_warning(made, tmp_path):
    black_margins_around_fakes(made, tmp_path)
    result = found(made, tmp_path)
    by_name = {
        f.text.partition(" goes with")[0]: f.severity for f in result.findings if f.check == "goes with the label"
    }
    assert by_name["share of black pixels (padding)"] == "error"
    assert by_name["brightness of the border (background)"] == "warning"


def test_records_beside_the_crops_of_two_folders_are_found(tmp_path):
    from resproto_fd.preprocessing.faces.media import Media
    from resproto_fd.preprocessing.video import Video

    root = tmp_path / "C"
    record = {"width": 64, "height": 48, "fps": 25.0, "codec": "vp9", "several": {}}
    place = root / ".faces/records/real_faces/a.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(record))
    video = Video("C", "test", "C/real_faces/a", 0, "real", "", "", ("C/real_faces/frames/a/000.png",))
    assert Media(root).of("C/real_faces/a", video)["codec"] == "vp9"
    assert Media(root).of("C/real_faces/b", video) is None
