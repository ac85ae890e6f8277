"""Forgeries made of real frames while training: what they leave alone, what they change, how they come in batches."""

import pickle
import signal
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from made import TinyDetector, made_config
from test_fields import Asking, scene
from test_trainer import make_trainer, same_bits, state_of
from tiny import quick_and_slow

from resproto_fd.configs.errors import Interrupted, UserError
from resproto_fd.configs.schema import InputConfig, TrainConfig
from resproto_fd.preprocessing.faces.alignment import ARCFACE_TEMPLATE, crop_template
from resproto_fd.preprocessing.store.beside_frames import landmark_path
from resproto_fd.preprocessing.store.frame_store import FileStore, open_store
from resproto_fd.preprocessing.store.image_codec import encode_native
from resproto_fd.preprocessing.store.lmdb_files import close_all
from resproto_fd.preprocessing.store.lmdb_writer import LmdbWriter
from resproto_fd.trainer import blended_pairs
from resproto_fd.trainer.augment.blending import (
    OUTLINE,
    cross_blended,
    face_points,
    i2g,
    self_blended,
    self_shifted,
    warped,
)
from resproto_fd.trainer.augment.transforms import train_transform
from resproto_fd.trainer.batches import TrainBatches
from resproto_fd.trainer.blended_pairs import BlendedPairs, with_blends
from resproto_fd.trainer.companions import BLENDS, COMPANIONS, find_companions
from resproto_fd.trainer.data import FrameDataset
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.loader import make_loader

KINDS = ("self_blended", "cross_blended", "i2g", "warped")
ALL_KINDS = (*KINDS, "self_shifted")
SIDE = 96


def picture(seed, side=SIDE):
    """Smooth colours with a grain."""
    rng = np.random.default_rng(seed)
    smooth = cv2.resize(rng.uniform(40, 215, (5, 5, 3)), (side, side), interpolation=cv2.INTER_CUBIC)
    return (smooth + rng.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)


def five_points(seed, side=SIDE):
    return crop_template(side) + np.random.default_rng(seed).normal(0, 0.01 * side, (5, 2))


def many_points(seed):
    """81 landmarks: 68 in a ring, the others of a forehead above it."""
    turn = np.linspace(0, 2 * np.pi, 68, endpoint=False)
    ring = SIDE * (0.55 + 0.25 * np.stack([np.cos(turn) - 0.2, np.sin(turn)], 1))
    return np.vstack([ring, np.column_stack([np.linspace(0.3, 0.7, 13), np.full(13, 0.15)]) * SIDE])


def blended(kind, seed, points=five_points):
    rng = np.random.default_rng(seed)
    if kind in ("cross_blended", "i2g", "self_shifted"):
        of_two = {"cross_blended": cross_blended, "i2g": i2g, "self_shifted": self_shifted}[kind]
        return of_two(picture(1), points(1), picture(2, 120), 1.25 * points(2), rng)
    return {"self_blended": self_blended, "warped": warped}[kind](picture(1), points(1), rng)


def about_the_face(points, reach):
    """The face's hull, grown."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillConvexPoly(mask, cv2.convexHull(np.round(face_points(points)).astype(np.int32)), 1)
    return cv2.dilate(mask, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)).astype(bool)


# --- one pair --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [five_points, many_points])
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_a_forgery_differs_from_its_frame_within_the_mask_and_nowhere_else(kind, points):
    for seed in range(25):
        blend = blended(kind, seed, points)
        assert blend.fake.dtype == np.uint8 and blend.fake.shape == blend.real.shape == (SIDE, SIDE, 3)
        assert blend.mask.dtype == np.float32 and blend.mask.shape == (SIDE, SIDE)
        assert blend.mask.min() >= 0 and blend.mask.max() <= 1
        changed = (blend.fake != blend.real).any(-1)
        if kind == "cross_blended":
            edge = (blend.mask > 0).astype(np.uint8)
            contours, _ = cv2.findContours(edge, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            inside = cv2.drawContours(edge, contours, -1, 1, cv2.FILLED) > 0
            assert not changed[~about_the_face(points(1), 16)].any()
        else:
            inside = blend.mask > 0
        assert not changed[~inside].any()
        assert changed[inside].mean() > 0.3
        assert 0.05 < inside.mean() < 0.95
        middle = np.round(points(1).mean(0)).astype(int)
        assert changed[middle[1] - 8 : middle[1] + 8, middle[0] - 8 : middle[0] + 8].mean() > 0.3


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_same_seed_gives_the_same_pair_and_nothing_is_written_to(kind):
    image, other, points = picture(1), picture(2, 120), five_points(1)
    before = [part.copy() for part in (image, other, points)]
    first, again, next_one = blended(kind, 5), blended(kind, 5), blended(kind, 6)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (first.mask != next_one.mask).any()
    for array in (image, other, points):
        array.flags.writeable = False
    rng = np.random.default_rng(0)
    self_blended(image, points, rng), warped(image, points, rng), cross_blended(image, points, other, points, rng)
    for part, kept in zip((image, other, points), before, strict=True):
        np.testing.assert_array_equal(part, kept)


@pytest.mark.slow
def test_self_blending_alters_the_real_picture_as_often_as_the_inner_copy_and_blends_in_a_share():
    blends = [blended("self_blended", seed) for seed in range(300)]
    altered = np.mean([(blend.real != picture(1)).any() for blend in blends])
    assert abs(altered - 0.5) < 0.15
    shares = np.array([blend.mask.max() for blend in blends])
    found = [np.mean(np.abs(shares - share) < 0.02) for share in (0.25, 0.5, 0.75, 1)]
    assert np.abs(np.array(found) - [1 / 6, 1 / 6, 1 / 6, 1 / 2]).max() < 0.1
    assert sum(found) > 0.98


def test_the_mask_of_a_cross_blend_is_its_boundary():
    """B = 4 m (1 - m): nought well inside and outside, one where both faces have an equal share."""
    for seed in range(20):
        blend = blended("cross_blended", seed)
        middle = np.round(five_points(1).mean(0)).astype(int)
        assert blend.mask[middle[1], middle[0]] < 1e-3
        assert blend.mask[:4].max() == 0
        assert blend.mask.max() > 0.9
        np.testing.assert_array_equal(blend.real, picture(1))
        share = blended("i2g", seed)
        np.testing.assert_array_equal(share.fake, blend.fake)
        np.testing.assert_allclose(blend.mask, 4 * share.mask * (1 - share.mask), atol=1e-6)


def test_a_cross_blend_has_the_colours_of_its_background():
    image, points = picture(1), five_points(1)
    bright = (picture(2) // 4 + 190).astype(np.uint8)
    fake = cross_blended(image, points, bright, points, np.random.default_rng(0)).fake
    inside = about_the_face(points, 0)
    assert np.abs(bright[inside].mean(0) - image[inside].mean(0)).max() > 40
    assert np.abs(fake[inside].mean(0) - image[inside].mean(0)).max() < 8
    assert np.abs(fake[inside].std(0) - image[inside].std(0)).max() < 10


def test_a_foreground_is_moved_onto_the_backgrounds_landmarks():
    """A mark between the other's eyes comes to lie between the eyes."""
    points, others = five_points(1), 1.3 * five_points(2) + 9
    other = np.full((150, 150, 3), 128, np.uint8)
    cv2.circle(other, tuple(np.round(others[:2].mean(0)).astype(int).tolist()), 4, (255, 255, 255), -1)
    fake = cross_blended(np.full((SIDE, SIDE, 3), 128, np.uint8) + picture(1) // 32, points, other, others,
                         np.random.default_rng(0)).fake  # fmt: skip
    grey = fake.astype(float).mean(-1)
    ys, xs = np.nonzero((grey > 0.5 * (grey.max() + np.median(grey))) & about_the_face(points, 0))
    assert np.abs(np.array([xs.mean(), ys.mean()]) - points[:2].mean(0)).max() < 4


def test_warping_takes_detail_from_the_face():
    points = five_points(1)
    for seed in range(20):
        blend = blended("warped", seed)
        whole = blend.mask > 0.99
        grain = [
            (part.astype(float) - cv2.GaussianBlur(part, (5, 5), 0))[whole].std() for part in (blend.real, blend.fake)
        ]
        assert grain[1] < 0.75 * grain[0]
    rectangles = sum(
        np.array_equal(m := blended("warped", s).mask > 0, np.outer(m.any(1), m.any(0))) for s in range(60)
    )
    assert 15 < rectangles < 45
    assert face_points(points).shape == (5 + len(OUTLINE), 2)


def test_five_landmarks_stand_for_the_face_around_them():
    np.testing.assert_allclose(face_points(ARCFACE_TEMPLATE)[5:], OUTLINE, atol=1e-9)
    assert face_points(many_points(0)).shape == (81, 2)
    moved = face_points(2 * ARCFACE_TEMPLATE + 7)
    np.testing.assert_allclose(moved[5:], 2 * OUTLINE + 7, atol=1e-9)


@pytest.mark.parametrize("kind", ["self_blended", "warped"])
def test_landmarks_beside_the_picture_are_refused(kind):
    for points in (five_points(0) + 10 * SIDE, np.full((81, 2), 20.0)):
        with pytest.raises(ValueError, match="the landmarks span no part of the picture"):
            {"self_blended": self_blended, "warped": warped}[kind](picture(1), points, np.random.default_rng(0))


# --- pairs in batches ------------------------------------------------------------------------------------------------

VIDEOS = [
    *(scene(name, 0, count=3) for name in ("000", "003", "007", "011")),
    scene("000_003", 1, count=3),
    *(scene(name, 0, dataset="Other", count=2) for name in ("020", "021")),
]
VIDEOS = [
    replace(video, frames=tuple(path.replace("FF/", "Other/") for path in video.frames))
    if video.dataset == "Other"
    else video
    for video in VIDEOS
]
FRAMES = FrameList.of(VIDEOS, None)


@pytest.fixture(scope="module", params=["files", "native"])
def stores(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    contents = {}
    for place, path in enumerate(FRAMES.paths):
        contents[path] = picture(place)
        file = folder / landmark_path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, five_points(place).astype(np.float32))
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / path), contents[path][..., ::-1])
    if request.param == "files":
        yield dict.fromkeys(("FF", "Other"), FileStore(folder))
        return
    with LmdbWriter(folder / "all_lmdb") as writer:
        for path, image in contents.items():
            writer.put(path, encode_native(image))
            writer.put(landmark_path(path), (folder / landmark_path(path)).read_bytes())
    yield dict.fromkeys(("FF", "Other"), open_store(folder / "all_lmdb"))
    close_all()


def pairs_of(kind, stores, *wanted, augment="crop", on="host", **options):
    pairs = BlendedPairs.of(kind, FRAMES, {}, stores)
    transform = train_transform(augment, InputConfig(size=40), on)
    return FrameDataset(
        pairs.frames, stores, transform, 3, companions=pairs.companions(wanted), pairs=pairs, **options
    )  # fmt: skip


def keys_of(data, epoch=0):
    return [(epoch, index) for index in range(len(data))]


@pytest.mark.parametrize("kind", quick_and_slow(KINDS, KINDS[:2]))
def test_each_real_frame_stands_before_its_forgery_and_the_data_sets_own_are_left_out(kind, stores):
    data = pairs_of(kind, stores, "mask", augment="none")
    real = [path for path, label in zip(FRAMES.paths, FRAMES.labels, strict=True) if not label]
    assert data.frames.paths == [path for path in real for _ in range(2)]
    assert data.frames.labels.tolist() == [0, 1] * len(real)
    assert data.frames.class_counts().tolist() == [len(real)] * 2
    videos = [data.frames.videos[i] for i in data.frames.video_index]
    assert [video.method for video in videos] == ["real", kind] * len(real)
    assert [video.id for video in videos[::2]] == [video.id for video in videos[1::2]]
    batch = data.__getitems__(keys_of(data))
    assert batch["label"].tolist() == data.frames.labels.tolist()
    image, mask = batch["image"].int(), batch["mask"]
    apart = (image[::2] - image[1::2]).abs().amax(1)
    assert not mask[::2].any()
    assert (mask[1::2].flatten(1).amax(1) > 50).all()
    assert (apart.flatten(1).amax(1) > 0).all()
    if kind != "cross_blended":
        near = torch.nn.functional.max_pool2d(mask[1::2].float(), 7, 1, 3)[:, 0] > 0  # a resized picture rings
        assert not apart[~near].any()


@pytest.mark.parametrize("kind", quick_and_slow(KINDS, KINDS[:2]))
def test_both_of_a_pair_are_augmented_alike(kind, stores):
    data = pairs_of(kind, stores, "landmarks", "mask", augment="crop")
    batch = data.__getitems__(keys_of(data))
    assert torch.equal(batch["landmarks"][::2], batch["landmarks"][1::2])
    assert len(torch.unique(batch["landmarks"][::2, 0, 0])) == len(data) // 2
    apart = (batch["image"][::2].int() - batch["image"][1::2].int()).abs().amax(1)
    if kind != "cross_blended":
        assert not apart[batch["mask"][1::2, 0] == 0].float().gt(3).any()


@pytest.mark.parametrize("kind", quick_and_slow(KINDS, KINDS[:1]))
def test_forgeries_are_new_in_each_epoch_and_the_same_in_any_batch(kind, stores):
    wanted = set(COMPANIONS) - set(BLENDS)
    data = pairs_of(kind, stores, *wanted, augment="resproto_fd")
    whole = data.__getitems__(keys_of(data))
    for index in (5, 0, 3):
        alone = pairs_of(kind, stores, *wanted, augment="resproto_fd")[0, index]
        assert all(torch.equal(alone[name], whole[name][index]) for name in alone)
    later = data.__getitems__(keys_of(data, 1))
    assert all((whole["image"][i] != later["image"][i]).any() for i in range(len(data)))
    backwards = pickle.loads(pickle.dumps(data)).__getitems__(keys_of(data)[::-1])  # as a spawned worker has it
    assert torch.equal(backwards["image"].flip(0), whole["image"])


def test_a_pairs_partner_is_the_other_of_the_pair(stores):
    data = pairs_of("self_blended", stores, "partner", "second_view", augment="none")
    batch = data.__getitems__(keys_of(data))
    assert torch.equal(batch["partner"][::2], batch["image"][1::2])
    assert torch.equal(batch["partner"][1::2], batch["image"][::2])
    assert torch.equal(batch["second_view"], batch["image"])
    assert pairs_of("warped", stores).companions is None


def blends_of(stores, *wanted, augment="none", frames=None):
    frames, transform = frames or FRAMES, train_transform(augment, InputConfig(size=SIDE))
    companions = with_blends(find_companions(wanted, frames, {}, stores), wanted, frames, {}, stores)
    return FrameDataset(frames, stores, transform, 3, companions=companions)


def test_forgeries_beside_a_frame_are_made_of_the_real_one_of_it_and_its_partner(stores):
    data = blends_of(stores, "partner", *BLENDS)
    batch = data.__getitems__(keys_of(data))
    fake = batch["label"][:, None, None, None] == 1
    real = torch.where(fake, batch["partner"], batch["image"]).int()
    made = torch.where(fake, batch["image"], batch["partner"]).int()
    for name in BLENDS:
        apart = (batch[name].int() - real).abs().amax(1)
        assert (apart.flatten(1).amax(1) > 0).all()
        assert ((batch[name].int() - made).abs().amax(1).flatten(1) > 0).float().mean() > 0.5
    corners = (batch["cross_blended"].int() - real)[:, :, :3, :3]
    assert not corners.any()  # a face was blended into the real frame itself
    assert (batch["self_blended"] != batch["cross_blended"]).flatten(1).any(1).all()


@pytest.mark.slow
def test_forgeries_beside_a_frame_are_new_in_each_epoch_and_the_same_in_any_batch(stores):
    data = blends_of(stores, "partner", *BLENDS, augment="resproto_fd")
    whole, later = data.__getitems__(keys_of(data)), data.__getitems__(keys_of(data, 1))
    backwards = pickle.loads(pickle.dumps(data)).__getitems__(keys_of(data)[::-1])
    for name in BLENDS:
        assert torch.equal(backwards[name].flip(0), whole[name])
        assert all((whole[name][i] != later[name][i]).any() for i in range(len(data)))


def test_forgeries_that_cannot_be_made_beside_frames_are_refused(stores):
    with pytest.raises(UserError, match=r"train\.samples=warped: this detector trains on a data set's own fakes"):
        pairs_of("warped", stores, "partner", "self_blended")
    alone = FrameList.of([VIDEOS[0], VIDEOS[4]], None)
    with pytest.raises(UserError, match=r"the training frames show one person only"):
        blends_of(stores, "partner", *BLENDS, frames=alone)
    with pytest.raises(UserError, match=r"requires self_blended and cross_blended has to require partner too"):
        blends_of(stores, *BLENDS[:2])
    assert blends_of(stores, "partner", frames=alone).companions.blends == {}


@pytest.mark.slow
@pytest.mark.parametrize("kind", quick_and_slow(KINDS, ["self_blended"]))
def test_pairs_are_the_same_with_any_number_of_workers_and_on_the_device(kind, stores):
    runs = []
    for workers in (0, 2):
        data = pairs_of(kind, stores, "mask")
        runs.append(
            list(make_loader(data, TrainBatches(len(data), 8, 1, 0, 1, 1, pairs=True), workers, torch.device("cpu")))
        )
    for here, there in zip(*runs, strict=True):
        assert all(torch.equal(here[name], there[name]) for name in ("image", "mask", "index", "label"))
    host, device = (pairs_of(kind, stores, augment="flip", on=on) for on in ("host", "device"))
    keys = keys_of(host)
    apart = device.__getitems__(keys)["image"].augmented().int() - host.__getitems__(keys)["image"].int()
    assert apart.abs().max() <= 2


def test_the_other_face_is_another_persons_and_near(stores, monkeypatch):
    pairs = BlendedPairs.of("cross_blended", FRAMES, {}, stores)
    monkeypatch.setattr(blended_pairs, "NEAREST", 2)
    rng = np.random.default_rng(0)
    for pair in range(len(pairs.people)):
        found = {pairs.other(pair, rng) for _ in range(60)}
        others = np.flatnonzero(pairs.people != pairs.people[pair])
        distances = np.square(pairs.landmarks[others] - pairs.landmarks[pair]).sum((1, 2))
        assert found == set(others[np.argsort(distances)[:2]].tolist())
    assert len(set(pairs.people)) == 6
    monkeypatch.setattr(blended_pairs, "SEARCHED", 1)
    assert all(pairs.people[pairs.other(0, rng)] != pairs.people[0] for _ in range(50))


def test_the_neighbour_is_the_nearest_frame_of_the_video_and_of_two_the_later(stores):
    frames = FrameList.of(VIDEOS, None)
    frames.numbers[:3] = 10, 14, 18
    pairs = BlendedPairs.of("self_blended", frames, {}, stores)
    assert [pairs.neighbour(pair) for pair in range(3)] == [1, 2, 1]
    frames.numbers[:3] = 5
    alone = BlendedPairs.of("self_blended", frames, {}, stores)
    assert alone.neighbour(1) == 1


def test_a_frame_alone_in_its_video_is_shifted_against_itself():
    image, points = picture(1), five_points(1)
    for seed in range(10):
        blend = self_shifted(image, points, image, points, np.random.default_rng(seed))
        assert (blend.fake != image).any(-1)[blend.mask > 0.5].mean() > 0.3


def test_batches_hold_whole_pairs_in_any_share():
    for groups in (None, np.repeat([0, 1], [12, 28])):
        whole = TrainBatches(40, 8, 1, 0, 1, 5, groups, pairs=True)
        shares = [TrainBatches(40, 8, 2, rank, 2, 5, groups, pairs=True) for rank in range(2)]
        gathered = [list(share) for share in shares]
        for step, batch in enumerate(whole):
            indices = [index for _, index in batch]
            assert [index ^ 1 for index in indices[::2]] == indices[1::2]
            assert all(index % 2 == 0 for index in indices[::2])
            assert batch == [key for share in gathered for micro in share[2 * step : 2 * step + 2] for key in micro]
            if groups is not None:
                assert np.bincount(groups[indices]).tolist() == [4, 4]
        assert whole.steps == 5
    assert sorted(index for batch in TrainBatches(40, 8, 1, 0, 1, 5, pairs=True) for _, index in batch) == list(
        range(40)
    )
    with pytest.raises(UserError, match="x 2 pictures of a pair"):
        TrainBatches(40, 6, 1, 0, 2, 5, pairs=True)


def test_an_odd_number_of_pictures_is_refused():
    with pytest.raises(ValueError, match="come in pairs"):
        TrainConfig(batch_size=10, accumulate=2, samples="self_blended")
    assert TrainConfig(batch_size=8, accumulate=2, samples="warped").samples == "warped"


def test_a_frame_that_cannot_be_read_gives_way_to_the_next_pair(tmp_path, stores):
    broken = FRAMES.paths[3]

    class Broken(FileStore):
        def read(self, path):
            if path == broken:
                raise UserError(f"{path} is broken")
            return stores["FF"].read(path)

        def read_bytes(self, path):
            return stores["FF"].read_bytes(path)

        def missing(self, paths):
            return []

    broken_stores = dict.fromkeys(("FF", "Other"), Broken(tmp_path))
    index = pairs_of("warped", broken_stores).frames.paths.index(broken)
    data = pairs_of("warped", broken_stores, replace_bad=True)
    batch = data.__getitems__([(0, index), (0, index + 1)])
    assert [bad.index for bad in batch["bad"]] == [index, index + 1]
    assert batch["index"].tolist() == [index + 2, index + 3]
    assert batch["label"].tolist() == [0, 1]


def test_what_pairs_cannot_be_made_of_is_said(tmp_path, stores):
    fakes = FrameList.of([VIDEOS[4]], None)
    with pytest.raises(UserError, match=r"train\.samples=warped: forgeries are made from real frames.* none"):
        BlendedPairs.of("warped", fakes, {}, stores)
    alone = FrameList.of([VIDEOS[0], VIDEOS[4]], None)
    with pytest.raises(UserError, match=r"train\.samples=cross_blended: .* one person only.*self_blended or other"):
        BlendedPairs.of("cross_blended", alone, {}, stores)
    required = r"cross_blended, which the detector requires: .* one person only.*; set other training sets$"
    with pytest.raises(UserError, match=required):
        BlendedPairs.of("cross_blended", alone, {}, stores, beside=True)
    assert len(BlendedPairs.of("self_blended", alone, {}, stores).frames) == 6
    with pytest.raises(UserError, match=r"lacks the landmarks of 3 .*resproto faces"):
        BlendedPairs.of("warped", alone, {}, {"FF": FileStore(tmp_path)})


@pytest.mark.slow
@pytest.mark.parametrize("kind", quick_and_slow(KINDS, ["self_blended"]))
def test_a_run_on_pairs_goes_on_to_the_same_bits(kind, stores, tmp_path):
    def trainer(folder, **run):
        config = made_config(epochs=2, batch_size=4, samples=kind, run=run)
        pairs = BlendedPairs.of(kind, FRAMES, {}, stores)
        transform = train_transform("flip", config.detector.input)
        detector = Asking("mask", "method", method=["real", kind])
        data = FrameDataset(
            pairs.frames, stores, transform, companions=pairs.companions(detector.requires), pairs=pairs,
            fields={"method": np.arange(len(pairs.frames)) % 2},
        )  # fmt: skip
        return make_trainer(folder, config, detector, data=data)

    whole = trainer(tmp_path / "whole")
    whole.fit()
    for given in whole.detector.given:
        assert given["method"].tolist() == [0, 1, 0, 1]
        assert not given["mask"][::2].any() and given["mask"][1::2].any()
    assert isinstance(whole.detector, TinyDetector)
    halves = trainer(tmp_path / "halves", save_every=3)
    interrupted = halves._step

    def stop_after_five(micro):
        interrupted(micro)
        if halves.progress.step == 4:
            signal.raise_signal(signal.SIGTERM)

    halves._step = stop_after_five
    with pytest.raises(Interrupted):
        halves.fit()
    again = trainer(tmp_path / "halves", save_every=3)
    again.fit()
    assert same_bits(state_of(whole), state_of(again))
