"""What a detector may ask of a batch; balanced sampling; a step of a detector's own."""

import pickle
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from made import MadeStore, TinyDetector, made_config, made_dataset, made_videos
from test_trainer import CPU, make_trainer, same_bits, state_of
from tiny import tiny

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import InputConfig
from resproto_fd.detectors import registry
from resproto_fd.detectors.registry import class_names, detector_class, keywords_of
from resproto_fd.preprocessing.side_file import SideRecord, write_side
from resproto_fd.preprocessing.store.beside_frames import landmark_path, mask_path
from resproto_fd.preprocessing.store.frame_store import FileStore
from resproto_fd.preprocessing.video import Video
from resproto_fd.trainer.augment.transforms import plain_transform, train_transform
from resproto_fd.trainer.batches import TrainBatches
from resproto_fd.trainer.companions import BLENDS, COMPANIONS, Partners, find_companions
from resproto_fd.trainer.data import FrameDataset
from resproto_fd.trainer.fields import FACTS, NO_FAMILY, batch_fields
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.loader import make_loader
from resproto_fd.trainer.scenes import originals
from resproto_fd.training.settings import as_deepfakebench_fed, overrides_of, with_keywords, with_methods

VIDEOS = made_videos(4, 3) + made_videos(6, 2, dataset="Other")
FRAMES = FrameList.of(VIDEOS, None)
FOUND = [name for name in COMPANIONS if name not in BLENDS]
"""Those that `find_companions` finds."""


class Asking(TinyDetector):
    """Keeps what it is given beside images and labels."""

    def __init__(self, *requires, **vocabulary):
        super().__init__()
        self.requires, self.vocabulary, self.given = frozenset(requires), vocabulary, []

    def head(self, features, labels=None, **fields):
        if labels is not None:
            self.given.append(fields)
        return super().head(features, labels)


# --- facts and texts -------------------------------------------------------------------------------------------------


def test_facts_are_indices_in_the_detectors_vocabulary():
    detector = Asking(
        "domain", "forgery_type", "method", "family",
        domain=["Other", "Made"], forgery_type=["real", "editing"], method=["real", "x", "Made"], family=[NO_FAMILY],
    )  # fmt: skip
    fields = batch_fields(detector, FRAMES, {})
    for i, owner in enumerate(FRAMES.video_index):
        video = VIDEOS[owner]
        assert fields["domain"][i] == ["Other", "Made"].index(video.dataset)
        assert fields["forgery_type"][i] == video.label
        assert fields["method"][i] == 2 * video.label
        assert fields["family"][i] == 0


def test_a_value_that_the_detector_does_not_know_is_named_with_its_video():
    with pytest.raises(UserError, match=r"Asking knows no forgery_type 'editing' \(video Made/fake/train001\).*real"):
        batch_fields(Asking("forgery_type", forgery_type=["real", "face swap"]), FRAMES, {})


def test_a_field_that_no_data_set_has_is_named():
    with pytest.raises(UserError, match=r"requires 'domian' of a batch; nearest is 'domain'|requires 'domian'"):
        batch_fields(Asking("domian"), FRAMES, {})


def test_captions_come_from_the_side_file_and_are_left_out_where_there_are_none(tmp_path, capsys):
    video = VIDEOS[1]
    name = video.frames[1].rpartition("/")[2]
    said = {"*": {"facial": "a man", "environmental": "a room"}, name: {"facial": "a man who laughs"}}
    record = SideRecord(video.id, ("train",), 1, "fake", "Made", "editing", captions=said)
    write_side(tmp_path / "Made.side.jsonl", {}, [record])
    sides = {"Made": tmp_path / "Made.side.jsonl", "Other": tmp_path / "Other.side.jsonl"}
    fields = batch_fields(Asking("captions_facial", "captions_environmental"), FRAMES, sides)
    texts = dict(zip(FRAMES.paths, fields["captions_facial"], strict=True))
    assert {text for path, text in texts.items() if path not in video.frames} == {""}
    assert [texts[path] for path in video.frames] == ["a man", "a man who laughs", "a man"]
    assert batch_fields(Asking("captions_facial"), FRAMES, {}) == {}
    assert "no facial descriptions" in capsys.readouterr().err


def scene(name, label, forgery_type="face swap", dataset="FF", count=2):
    """A video called as FaceForensics++ calls it."""
    folder = f"FF/{'fakes' if label else 'originals'}"
    frames = tuple(f"{folder}/frames/{name}/{number:03d}.png" for number in range(count))
    kind, method = (forgery_type, "Fakes") if label else ("real", "real")
    return Video(dataset, "train", f"{folder}/{name}", label, method, method, kind, frames)


def test_an_identity_is_the_index_of_the_person_seen(tmp_path):
    videos = [scene("000", 0), scene("003", 0), scene("000_003", 1), scene("003_000", 1, "reenactment")]
    frames = FrameList.of([*videos, scene("holiday", 1)], None)
    assert batch_fields(Asking("identity"), frames, {})["identity"].tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 2, 2]
    write_side(tmp_path / "FF.side.jsonl", {}, [
        SideRecord("FF/fakes/holiday", ("train",), 1, "Fakes", "Fakes", "face swap", identity="FF/000"),
    ])  # fmt: skip
    sides = {"FF": tmp_path / "FF.side.jsonl"}
    asked = batch_fields(Asking("identity"), frames, sides)["identity"]
    assert (asked.dtype, asked.tolist()) == (np.int64, [0, 0, 1, 1, 1, 1, 1, 1, 0, 0])
    covered = batch_fields(Asking("target_identity"), frames, {})["target_identity"]
    assert covered.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2]
    named = batch_fields(Asking("identity", identity=["FF/003", "x", "FF/000"]), frames, sides)["identity"]
    assert named.tolist() == [2, 2, 0, 0, 0, 0, 0, 0, 2, 2]
    with pytest.raises(UserError, match=r"knows no identity 'FF/000' \(video FF/originals/000"):
        batch_fields(Asking("identity", identity=["FF/003"]), frames, sides)


@pytest.mark.parametrize("workers", [0, 2])
def test_fields_stand_beside_the_samples_they_belong_to(workers):
    facts, texts = np.arange(len(FRAMES)) * 10, [f"text {i}" for i in range(len(FRAMES))]
    broken = FRAMES.paths[3]
    data = FrameDataset(
        FRAMES,
        {name: MadeStore([broken]) for name in ("Made", "Other")},
        plain_transform(made_config().detector.input),
        replace_bad=True,
        fields={"fact": facts, "text": texts},
    )
    batches = TrainBatches(len(FRAMES), 4, 1, 0, 1, seed=1)
    for batch in make_loader(data, batches, workers, torch.device("cpu")):
        assert torch.equal(batch["fact"], batch["index"] * 10)
        assert batch["text"] == [f"text {i}" for i in batch["index"].tolist()]
        assert 3 not in batch["index"]
    assert data[0, 5]["fact"] == 50
    assert data[0, 5]["text"] == "text 5"


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("coupled", [False, True])
def test_the_trainer_hands_on_what_was_asked_for(tmp_path, accumulate, coupled):
    config = made_config(epochs=1, accumulate=accumulate)
    detector = Asking("method", "text", "absent")
    detector.couples_batch = coupled
    facts = np.arange(36)
    data = made_dataset(config, fields={"method": facts, "text": [str(i) for i in facts], "ignored": facts})
    make_trainer(tmp_path, config, detector, data=data).fit()
    assert all(set(fields) == {"method", "text"} for fields in detector.given)
    assert all(fields["text"] == [str(i) for i in fields["method"].tolist()] for fields in detector.given)
    assert sum(len(fields["text"]) for fields in detector.given) == 32


# --- masks, landmarks, other pictures --------------------------------------------------------------------------------

SCENES = [
    *(scene(name, 0, count=3) for name in ("000", "003", "007")),
    *(scene(name, 1, count=3) for name in ("000_003", "003_000")),
    replace(scene("000_003", 1, count=3), id="FF/others/000_003", frames=("FF/others/frames/000_003/002.png",)),
    replace(scene("made", 1, "entire synthesis"), method="Made up"),
]
LISTED = FrameList.of(SCENES, None)
SIDE = 24


def write_picture(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Frames as files, whose mask is their blue channel, and their landmarks; one mask is smaller than its frame."""
    folder = tmp_path_factory.mktemp("kept")
    for path in LISTED.paths:
        rng = np.random.default_rng(list(path.encode()))
        image = cv2.resize(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8), (SIDE, SIDE))
        write_picture(folder / path, image)
        (folder / landmark_path(path)).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / landmark_path(path), rng.uniform(0, SIDE, (5, 2)).astype(np.float32))
        if "originals" not in path and "made" not in path:
            write_picture(folder / mask_path(path), image[..., 0])
    return FileStore(folder)


def beside(kept, *wanted, augment="crop", frames=LISTED, **options):
    companions = find_companions(wanted, frames, {}, {"FF": kept})
    transform = train_transform(augment, InputConfig(size=12))
    return FrameDataset(frames, {"FF": kept}, transform, 7, companions=companions, **options)


KEYS = [(epoch, index) for epoch in (0, 5) for index in range(len(LISTED))]


@pytest.mark.parametrize("augment", ["none", "flip", "crop"])
def test_a_mask_follows_its_picture(kept, augment):
    batch = beside(kept, "mask", augment=augment).__getitems__(KEYS)
    assert batch["mask"].shape == (len(KEYS), 1, 12, 12)
    for image, mask, index in zip(batch["image"], batch["mask"], batch["index"].tolist(), strict=True):
        if "originals" in LISTED.paths[index]:
            assert not mask.any()
        elif "made" in LISTED.paths[index]:
            assert (mask == 255).all()
        else:
            apart = (image[2].int() - mask[0].int()).abs()
            assert apart.max() <= (2 if augment == "crop" else 12)  # resized by a cubic; a mask by straight lines
            assert mask.float().std() > 10


@pytest.mark.parametrize("augment", ["crop", "resproto_fd", "deepfakebench"])
def test_landmarks_follow_their_picture(kept, augment):
    data = beside(kept, "landmarks", augment=augment)
    batch = data.__getitems__(KEYS)
    assert (batch["landmarks"].dtype, batch["landmarks"].shape) == (torch.float32, (len(KEYS), 5, 2))
    for key, points in zip(KEYS, batch["landmarks"].numpy(), strict=True):
        seed = int(np.random.SeedSequence((7, *key)).generate_state(1)[0])
        matrix = data.transform.geometry(seed, SIDE, SIDE)
        stored = kept.read_landmarks(LISTED.paths[key[1]])
        np.testing.assert_allclose(points, stored @ matrix[:, :2].T + matrix[:, 2], rtol=1e-5, atol=1e-4)


def test_a_second_view_is_the_same_frame_under_another_augmentation(kept):
    batch = beside(kept, "second_view", augment="resproto_fd").__getitems__(KEYS)
    plain = beside(kept, augment="resproto_fd").__getitems__(KEYS)
    assert torch.equal(batch["image"], plain["image"])
    assert batch["second_view"].shape == batch["image"].shape
    apart = (batch["image"].int() - batch["second_view"].int()).abs().flatten(1).max(1).values
    assert (apart > 0).float().mean() > 0.9
    half = len(LISTED)
    assert not torch.equal(batch["second_view"][:half], batch["second_view"][half:])
    alike = beside(kept, "second_view", augment="none").__getitems__(KEYS)
    assert torch.equal(alike["second_view"], alike["image"])


def test_a_partner_is_of_the_other_class_and_of_the_same_scene_where_it_is_known(kept):
    partners = Partners(LISTED, originals(LISTED, {}))
    of = {path: {LISTED.paths[partners.of(i, seed)] for seed in range(200)} for i, path in enumerate(LISTED.paths)}
    frame = "FF/{}/frames/{}/{:03d}.png".format
    for number in range(3):
        assert of[frame("fakes", "000_003", number)] == {frame("originals", "000", number)}
        assert of[frame("fakes", "003_000", number)] == {frame("originals", "003", number)}
        assert of[frame("originals", "003", number)] == {frame("fakes", "003_000", number)}
        both = {frame("fakes", "000_003", number), frame("others", "000_003", 2)}  # which has no other frame
        assert of[frame("originals", "000", number)] == both
    fakes = {path for path, label in zip(LISTED.paths, LISTED.labels, strict=True) if label}
    assert of[frame("originals", "007", 1)] == fakes
    assert of[frame("fakes", "made", 1)] == set(LISTED.paths) - fakes
    data = beside(kept, "partner", augment="none")
    batch = data.__getitems__(KEYS)
    for key, image in zip(KEYS, batch["partner"], strict=True):
        seed = int(np.random.SeedSequence((7, *key, 2)).generate_state(1)[0])
        assert torch.equal(image, data[0, partners.of(key[1], seed)]["image"])


def test_partners_come_from_the_same_data_set_and_follow_the_side_file(tmp_path):
    videos = [*made_videos(4, 3), *made_videos(4, 3, dataset="Other"), *made_videos(1, 3, dataset="Real only")]
    write_side(tmp_path / "Made.side.jsonl", {}, [
        SideRecord("Made/fake/train001", ("train",), 1, "fake", "Made", "editing", original="Made/real/train002"),
    ])  # fmt: skip
    frames = FrameList.of(videos, None)
    found = find_companions(["partner"], frames, {"Made": tmp_path / "Made.side.jsonl"}, {}).partner_of
    for i, path in enumerate(frames.paths):
        partners = {frames.paths[found(i, seed)] for seed in range(100)}
        if "fake/train001" in path and path.startswith("Made"):
            assert partners == {path.replace("fake/train001", "real/train002")}
        elif path.startswith("Real only"):
            assert {partner.partition("/")[0] for partner in partners} == {"Made", "Other"}
        else:
            assert {partner.partition("/")[0] for partner in partners} == {path.partition("/")[0]}
        assert {frames.labels[frames.paths.index(partner)] for partner in partners} == {1 - frames.labels[i]}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_stands_beside_pictures_is_the_same_with_any_number_of_workers(kept, workers):
    batches = TrainBatches(len(LISTED), 4, 1, 0, 1, seed=1)
    runs = []
    for count in (0, workers):
        data = pickle.loads(pickle.dumps(beside(kept, *FOUND, augment="resproto_fd")))  # as if it were spawned
        runs.append(list(make_loader(data, batches, count, torch.device("cpu"))))
    for here, there in zip(*runs, strict=True):
        assert set(here) == {"image", "label", "index", "bad", *FOUND}
        assert all(torch.equal(here[name], there[name]) for name in here if name != "bad")


def test_the_trainer_hands_on_pictures_normalised_and_masks_from_0_to_1(kept, tmp_path):
    config = made_config(epochs=1, batch_size=4, run={"max_steps": 2})
    companions = find_companions(FOUND, LISTED, {}, {"FF": kept})
    transform = train_transform("none", config.detector.input)
    data = FrameDataset(LISTED, {"FF": kept}, transform, companions=companions)
    detector = Asking(*FOUND)
    images = []
    detector.encode = lambda image: images.append(image) or TinyDetector.encode(detector, image)
    make_trainer(tmp_path, config, detector, data=data).fit()
    for image, given in zip(images, detector.given, strict=True):
        assert set(given) == set(FOUND)
        assert torch.equal(given["second_view"], image)
        assert (given["partner"].dtype, given["partner"].shape) == (torch.float32, image.shape)
        assert -1 <= given["partner"].min() < 0 < given["partner"].max() <= 1
        assert (given["mask"].dtype, given["mask"].shape) == (torch.float32, (4, 1, 8, 8))
        assert (given["landmarks"].dtype, given["landmarks"].shape) == (torch.float32, (4, 5, 2))
    masks = torch.cat([given["mask"] for given in detector.given])
    assert masks.min() >= 0 and 0.5 < masks.max() <= 1


def test_missing_masks_and_landmarks_are_refused_with_the_first_file_and_a_remedy(tmp_path):
    video = scene("000_003", 1)
    for path in video.frames:
        write_picture(tmp_path / path, np.zeros((8, 8, 3), np.uint8))
    frames, stores = FrameList.of([scene("000", 0), video], None), {"FF": FileStore(tmp_path)}
    with pytest.raises(UserError) as error:
        find_companions(["mask"], frames, {}, stores)
    assert f"data set 'FF': {tmp_path} lacks the masks of 2 training frames, first: FF/fakes/masks" in str(error.value)
    assert "`resproto faces`" in str(error.value)
    with pytest.raises(
        UserError, match=r"lacks the landmarks of 4 .* FF/originals/landmarks/000/000\.npy.*resproto faces"
    ):
        find_companions(["landmarks"], frames, {}, stores)
    for path, count in zip(frames.paths, (5, 5, 5, 81), strict=True):
        (tmp_path / landmark_path(path)).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / landmark_path(path), np.zeros((count, 2)))
    with pytest.raises(
        UserError, match=r"000_003/001\.npy: expected 5 landmarks, as FF/originals/frames/000/000\.png has, got 81"
    ):
        find_companions(["landmarks"], frames, {}, stores)
    assert find_companions(["method", "identity"], frames, {}, stores) is None


def test_where_only_some_masks_are_missing_their_frames_can_be_replaced(kept, tmp_path):
    shutil.copytree(kept.path, tmp_path, dirs_exist_ok=True)
    broken = LISTED.paths.index(SCENES[3].frames[1])
    (tmp_path / mask_path(LISTED.paths[broken])).unlink()
    stores = {"FF": FileStore(tmp_path)}
    with pytest.raises(UserError, match=r"lacks the masks of 1 training frames.*data\.on_bad_frame=skip"):
        find_companions(["mask"], LISTED, {}, stores)
    companions = find_companions(["mask"], LISTED, {}, stores, some_missing=True)
    transform = plain_transform(InputConfig(size=12))
    data = FrameDataset(LISTED, stores, transform, replace_bad=True, companions=companions)
    batch = data.__getitems__([(0, broken), (0, 0)])
    assert ([bad.index for bad in batch["bad"]], batch["index"].tolist()) == ([broken], [broken + 1, 0])
    shutil.rmtree(tmp_path / "FF/fakes/masks")
    shutil.rmtree(tmp_path / "FF/others/masks")
    with pytest.raises(UserError, match="lacks the masks of 7 training frames"):
        find_companions(["mask"], LISTED, {}, stores, some_missing=True)


def test_a_mask_that_cannot_be_read_makes_its_frame_unreadable(kept, tmp_path):
    shutil.copytree(kept.path, tmp_path, dirs_exist_ok=True)
    broken = LISTED.paths.index(SCENES[3].frames[1])
    (tmp_path / mask_path(LISTED.paths[broken])).write_bytes(b"no picture")
    batch = beside(FileStore(tmp_path), "mask").__getitems__([(0, broken), (0, 0)])
    assert [bad.index for bad in batch["bad"]] == [broken]
    assert batch["index"].tolist() == [0]
    assert len(batch["mask"]) == 1
    batch = beside(FileStore(tmp_path), "mask", replace_bad=True).__getitems__([(0, broken), (0, 0)])
    assert batch["index"].tolist() == [broken + 1, 0]


def test_what_is_made_on_the_host_is_refused_with_augmentation_on_the_device(kept):
    companions = find_companions(["second_view"], LISTED, {}, {"FF": kept})
    transform = train_transform("flip", InputConfig(size=12), "device")
    with pytest.raises(UserError, match=r"run\.augment_on=host"):
        FrameDataset(LISTED, {"FF": kept}, transform, companions=companions)


# --- balanced sampling -----------------------------------------------------------------------------------------------


def test_balanced_batches_hold_an_equal_share_of_each_group():
    groups = np.array([0] * 50 + [1] * 20 + [2] * 10)
    batches = TrainBatches(80, 6, 1, 0, 1, 3, groups)
    found = [[index for _, index in batch] for batch in batches]
    assert len(found) == 80 // 6
    assert all(np.bincount(groups[batch]).tolist() == [2, 2, 2] for batch in found)
    small = [index for batch in found for index in batch if groups[index] == 2]
    assert set(small[:10]) == set(small[10:20]) == set(range(70, 80))
    assert len({index for batch in found for index in batch if groups[index] == 0}) == 26


def test_places_that_groups_do_not_divide_go_round():
    groups = np.array([0] * 40 + [1] * 40 + [2] * 40)
    found = [groups[[index for _, index in batch]] for batch in TrainBatches(120, 4, 1, 0, 1, 0, groups)]
    assert np.bincount(np.concatenate(found)).tolist() == [40, 40, 40]
    assert all(np.bincount(batch, minlength=3).min() >= 1 for batch in found)


def test_balanced_batches_differ_by_epoch_and_are_shared_by_ranks():
    groups = np.array([0] * 30 + [1] * 10)
    whole = TrainBatches(40, 8, 1, 0, 1, 5, groups)
    shares = [TrainBatches(40, 8, 2, rank, 2, 5, groups) for rank in range(2)]
    first = list(whole)
    gathered = [list(share) for share in shares]
    for step, batch in enumerate(first):
        assert batch == [key for share in gathered for micro in share[2 * step : 2 * step + 2] for key in micro]
    whole.start(1)
    assert [key[1] for batch in whole for key in batch] != [key[1] for batch in first for key in batch]
    whole.start(0, first_step=3)
    assert list(whole) == first[3:]


def test_a_protocol_can_ask_for_balanced_sampling(tmp_path):
    listed = FrameList.of(VIDEOS, None)
    stores = {name: MadeStore() for name in ("Made", "Other")}
    config = made_config(epochs=1, batch_size=4, protocol={"sampling": "balanced"})
    detector = Asking("domain", domain=["Made", "Other"])
    transform = plain_transform(config.detector.input)
    data = FrameDataset(listed, stores, transform, fields=batch_fields(detector, listed, {}))
    make_trainer(tmp_path, config, detector, data=data).fit()
    assert [fields["domain"].tolist() for fields in detector.given] == [[0, 1, 0, 1]] * 6


# --- a step of a detector's own --------------------------------------------------------------------------------------


class Inner(TinyDetector):
    """Moves its classifier against the loss of the first half by hand, the rest by the second half's gradient."""

    steps_alone = True
    rate = 0.5

    def training_step(self, model, step, images, labels, **fields):
        half = len(images) // 2
        own = list(self.classifier.parameters())
        with step.autocast():
            inner = self(images[:half], labels[:half]).losses["total"]
        for parameter, gradient in zip(own, torch.autograd.grad(inner, own), strict=True):
            parameter.data -= self.rate * gradient
        with step.autocast():
            losses = model(images[half:], labels[half:]).losses
        step.backward(losses["total"])
        for parameter in own:
            parameter.grad = None
        return {**losses, "inner": inner}


def test_a_detectors_own_step_is_taken_and_the_optimiser_moves_the_rest(tmp_path):
    config = made_config(epochs=1, run={"max_steps": 1}, optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.0})
    detector = Inner()
    trainer = make_trainer(tmp_path, config, detector)
    start = state_of(trainer)
    batch = next(iter(make_loader(trainer.data, trainer.batches, 0, CPU.device)))
    trainer.fit()

    by_hand = Inner()
    images, labels = trainer.normalise(batch["image"]), batch["label"]
    inner = by_hand(images[:4], labels[:4]).losses["total"]
    own = list(by_hand.classifier.parameters())
    gradients = torch.autograd.grad(inner, own)
    for parameter, gradient in zip(own, gradients, strict=True):
        parameter.data -= 0.5 * gradient
    rest = list(by_hand.body.parameters())
    outer = torch.autograd.grad(by_hand(images[4:], labels[4:]).losses["total"], rest)
    for parameter, gradient in zip(rest, outer, strict=True):
        parameter.data -= 0.1 * gradient
    for name, value in by_hand.state_dict().items():
        torch.testing.assert_close(detector.state_dict()[name], value, atol=1e-7, rtol=1e-6)
    assert not same_bits(start, state_of(trainer))


def test_a_step_of_its_own_cannot_be_accumulated(tmp_path):
    with pytest.raises(UserError, match=r"train\.accumulate=2: Inner takes a step of its own"):
        make_trainer(tmp_path, made_config(accumulate=2), Inner())
    with pytest.raises(UserError, match=r"run\.split_batch=2: Inner takes a step of its own"):
        make_trainer(tmp_path, made_config(run={"split_batch": 2}), Inner())


# --- shares of the training frames -----------------------------------------------------------------------------------


def test_a_smaller_share_of_the_frames_lies_within_a_larger_one():
    frames = FrameList.of(made_videos(40, 20), None)
    small, large = frames.thinned(0.1), frames.thinned(0.4)
    assert set(small.paths) < set(large.paths) < set(frames.paths)
    assert 0.05 < len(small) / 800 < 0.15
    assert 0.33 < len(large) / 800 < 0.47
    assert frames.thinned(1.0) is frames
    assert frames.thinned(0.1).paths == small.paths


def test_training_sets_and_epochs_reach_the_detectors_that_ask_for_them():
    def model(name, **given):
        config = made_config(epochs=7)
        detector = config.detector.model_copy(update={"detector": name, "model": given})
        return with_keywords(config.model_copy(update={"detector": detector})).detector.model

    assert model("uia_vit") == {"epochs": 7}
    assert model("uia_vit", epochs=3) == {"epochs": 3}
    assert model("gm_df") == {"domains": ["Made"]}
    assert model("clip", pretrained=None) == {"pretrained": None}


@pytest.mark.parametrize("name", ["uia_vit", "gm_df", "ucf", "clip"])
def test_what_a_run_fills_in_is_no_change_of_the_preset_and_what_is_said_is(name):
    plain = loading.resolve(name, "ffpp_c23_cross", {})
    assert overrides_of(with_keywords(plain)) == []
    shorter = loading.resolve(name, "ffpp_c23_cross", {"train": {"epochs": 3}})
    assert overrides_of(with_keywords(shorter)) == ["train.epochs=3"]
    if name == "uia_vit":
        said = loading.resolve(name, "ffpp_c23_cross", {"model": {"epochs": 4}})
        assert overrides_of(with_keywords(said)) == ["model.epochs=4"]


def test_a_deepfakebench_checkpoint_is_fed_as_it_was_trained_unless_the_input_is_given():
    def fed(name, **given):
        config = made_config()
        preset = loading.load("detectors", name)
        preset = preset.model_copy(update={"input": preset.input.model_copy(update=given)})
        return as_deepfakebench_fed(config.model_copy(update={"detector": preset})).detector.input

    assert (fed("clip").mean, fed("clip").std, fed("clip").size) == ("half", "half", 224)
    assert fed("clip", mean="imagenet").mean == "imagenet"
    altfreezing = fed("altfreezing", clips=4, short="leave_out")
    assert (altfreezing.mean, altfreezing.frames) == ("half", 16)
    assert (altfreezing.clips, altfreezing.short) == (4, "leave_out")
    assert fed("altfreezing", clips=4, frames=8) == fed("altfreezing", frames=8).model_copy(update={"clips": 4})
    assert fed("altfreezing", frames=8).mean == "imagenet"
    assert fed("xception") == loading.load("detectors", "xception").input


def test_methods_that_a_detector_does_not_know_are_taken_from_the_training_frames():
    from made import made_config, made_videos

    def methods(name, frames, **model):
        config = made_config()
        detector = config.detector.model_copy(update={"detector": name, "model": model})
        return with_methods(config.model_copy(update={"detector": detector}), frames).detector.model.get("methods")

    frames = FrameList.of(made_videos(4, 1), None)
    assert methods("ucf", frames) == methods("lsda", frames) == ["real", "Made"]
    assert methods("ucf", frames, methods=["real", "A"]) == ["real", "A"]
    assert methods("clip", frames) is None
    known = [video if video.method == "real" else replace(video, method="Deepfakes") for video in made_videos(4, 1)]
    assert methods("ucf", FrameList.of(known, None)) is None


@pytest.mark.parametrize("name", class_names())
def test_keywords_that_data_fill_are_the_constructors_and_filled_with_something_known(name):
    declared = getattr(detector_class(name), "keywords_from_data", {})
    assert {*declared} <= {*keywords_of(name)}
    assert {*declared.values()} <= {"train_sets", "train_methods", "epochs"}


# --- shuffled labels -------------------------------------------------------------------------------------------------


def test_facts_go_with_shuffled_labels(kept):
    detector = Asking(
        "domain", "forgery_type", "method", "family", "identity",
        domain=["Other", "Made"], forgery_type=["real", "editing"], method=["real", "Made"], family=[NO_FAMILY],
    )  # fmt: skip
    order = np.random.default_rng(3).permutation(len(FRAMES))
    told = FRAMES.shuffled(order)
    assert told.paths == FRAMES.paths
    assert np.array_equal(told.labels, FRAMES.labels[order])
    true, found = batch_fields(detector, FRAMES, {}), batch_fields(detector, told, {})
    assert set(found) == detector.requires
    for name, values in found.items():
        assert np.array_equal(values, true[name][order]), name
    assert np.array_equal(found["forgery_type"], told.labels)


def test_masks_and_partners_go_with_shuffled_labels(kept):
    order = np.random.default_rng(1).permutation(len(LISTED))
    told = LISTED.shuffled(order)
    plain = beside(kept, "mask", augment="none").__getitems__([(0, i) for i in range(len(LISTED))])
    found = beside(kept, "mask", augment="none", frames=told).__getitems__([(0, i) for i in range(len(LISTED))])
    assert torch.equal(found["image"], plain["image"])
    assert torch.equal(found["mask"], plain["mask"][torch.from_numpy(order)])
    partner_of = find_companions(["partner"], told, {}, {"FF": kept}).partner_of
    assert all(told.labels[partner_of(i, seed)] != told.labels[i] for i in range(len(told)) for seed in range(4))


@pytest.mark.parametrize("name", ["mfclip", pytest.param("sd2", marks=pytest.mark.slow)])
def test_the_kind_that_a_detector_is_told_agrees_with_the_shuffled_label(name):
    detector = registry._construct(name, tiny(name), name)
    detector.requires = detector.requires & set(FACTS)
    methods = ["DDPM" if video.label else "real" for video in VIDEOS]
    named = [replace(video, method=method) for video, method in zip(VIDEOS, methods, strict=True)]
    frames = replace(FRAMES, videos=named).shuffled(np.random.default_rng(3).permutation(len(FRAMES)))
    real = list(detector.vocabulary["forgery_type"]).index("real")
    assert np.array_equal(batch_fields(detector, frames, {})["forgery_type"] != real, frames.labels == 1)
    assert not np.array_equal(frames.labels, FRAMES.labels)
