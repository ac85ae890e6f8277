"""Forged clips made of real ones while training: what drifts, what stays, and how they come beside a data set's own."""

import pickle

import cv2
import numpy as np
import pytest
import torch
from made import MadeStore, TinyClipDetector, made_config, made_videos
from pydantic import ValidationError

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import InputConfig, TrainConfig
from resproto_fd.preprocessing.faces.alignment import crop_template
from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.augment.drifting import FEATURES, drifted, feature_outlines
from resproto_fd.trainer.augment.transforms import train_transform
from resproto_fd.trainer.batches import TrainBatches
from resproto_fd.trainer.blended_clips import BlendedClips
from resproto_fd.trainer.clip_data import ClipDataset
from resproto_fd.trainer.clip_list import ClipList
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.loader import make_loader
from resproto_fd.trainer.trainer import Trainer
from resproto_fd.training.samples import check_clips

CPU = World(0, 1, torch.device("cpu"))
SIDE, SMALL, FRAMES = 96, 24, 4
FIVE = crop_template(SIDE)


def grain(seed=0, side=SIDE):
    """A picture without an even area, so that whatever moves is seen."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)


def many_points(count):
    """Landmarks in the order of dlib's, near where the five points put the features."""
    points = np.full((count, 2), SIDE / 2)
    for (places, _), outline in zip(FEATURES.values(), feature_outlines(FIVE), strict=True):
        turn = np.linspace(0, 2 * np.pi, len(places), endpoint=False)
        points[places] = outline.mean(axis=0) + 5 * np.stack([np.cos(turn), np.sin(turn)], 1)
    return points


@pytest.mark.parametrize("points", [FIVE, many_points(68), many_points(81)], ids=len)
def test_features_of_a_clip_move_anew_in_each_frame_and_the_rest_stays(points):
    image = grain()
    before, near = image.copy(), np.zeros((SIDE, SIDE), np.uint8)
    for outline in feature_outlines(points):
        cv2.fillConvexPoly(near, cv2.convexHull(np.round(outline).astype(np.int32)), 1)
    near = cv2.dilate(near, np.ones((25, 25), np.uint8)) > 0
    assert near.mean() < 0.7
    for seed in range(6):
        frames = [drifted(image, points, seed, frame) for frame in range(3)]
        masks = [(frame != image).any(axis=2) for frame in frames]
        assert all(mask.any() and not mask[~near].any() for mask in masks)
        assert len({frame.tobytes() for frame in frames}) == 3
        assert all(np.array_equal(drifted(image, points, seed, at), frame) for at, frame in enumerate(frames))
        overlap = [(mask & masks[0]).sum() / (mask | masks[0]).sum() for mask in masks]
        assert min(overlap) > 0.8  # the same features in all frames
    assert np.array_equal(image, before)


def test_each_feature_drifts_in_about_half_of_the_clips_and_at_least_one_in_each():
    centres = np.round([outline.mean(axis=0) for outline in feature_outlines(FIVE)]).astype(int)
    image, moved = grain(), []
    for seed in range(60):
        apart = np.abs(drifted(image, FIVE, seed, 0).astype(int) - image)
        moved.append([apart[y - 2 : y + 3, x - 2 : x + 3].mean() > 4 for x, y in centres])
    moved = np.array(moved)
    assert moved.any(axis=1).all()
    often = moved.mean(axis=0)
    assert (np.abs(often[[0, 1, 3]] - 0.5) < 0.2).all() and often[2] < 0.9  # masks of the eyes touch the nose


def test_landmarks_that_show_no_feature_are_told():
    with pytest.raises(ValueError, match="expected 5, 68 or 81 landmarks, got 7"):
        drifted(grain(), np.zeros((7, 2)), 0, 0)
    with pytest.raises(ValueError, match="coincide"):
        drifted(grain(), np.ones((5, 2)), 0, 0)
    with pytest.raises(ValueError, match="no facial feature within the picture"):
        drifted(grain(), FIVE + 10 * SIDE, 0, 0)


# --- beside a data set's own ------------------------------------------------------------------------------------------


class Faces(MadeStore):
    """Large made frames with landmarks, which fakes lack."""

    def read(self, path):
        super().read(path)  # one that is broken cannot be read
        return grain(list(path.encode()), SMALL)

    def missing(self, paths):
        return [path for path in paths if path.endswith(".npy") and "/fake" in path]

    def read_landmarks(self, path):
        assert "/fake" not in path
        return crop_template(SMALL).astype(np.float32)


CLIPS = ClipList.within(FrameList.of(made_videos(4, 12), None), InputConfig(size=SMALL, frames=FRAMES, stride=2))


def data_of(blended=True, clips=CLIPS, augment="none", store=None, **options):
    stores = {"Made": store or Faces()}
    blends = BlendedClips.of(clips, stores) if blended else None
    transform = train_transform(augment, InputConfig(size=SMALL, frames=FRAMES, stride=2))
    return ClipDataset(blends.clips if blended else clips, stores, transform, 3, draws=True, blends=blends, **options)


def keys_of(data, epoch=0):
    return [(epoch, clip) for clip in range(len(data))]


def test_a_forgery_of_each_real_clip_stands_behind_all_clips():
    data, reals = data_of(), np.flatnonzero(CLIPS.labels == 0)
    found = data.frames
    assert len(found) == len(CLIPS) + len(reals)
    assert found.paths == [*CLIPS.paths, *(CLIPS.paths[real] for real in reals)]
    assert found.labels.tolist() == [*CLIPS.labels, *[1] * len(reals)]
    videos = [found.videos[owner] for owner in found.video_index[len(CLIPS) :]]
    assert {(video.method, video.label) for video in videos} == {("video_blended", 1)}
    assert [video.id for video in videos] == [CLIPS.videos[CLIPS.video_index[real]].id for real in reals]
    assert found.groups().tolist() == [0] * len(found)
    assert len(found.videos) == len(CLIPS.videos) + 2
    assert found.digest() != CLIPS.digest()


def test_clips_that_are_read_are_those_without_forgeries_and_a_forgery_differs_from_its_real_frames():
    data = data_of()
    batch = data.__getitems__(keys_of(data))
    plain = data_of(blended=False).__getitems__([(0, clip) for clip in range(len(CLIPS))])
    assert torch.equal(batch["image"][: len(CLIPS)], plain["image"])
    for clip in range(len(CLIPS), len(data)):
        places, real = data._frames_of(0, clip), int(data.blends.made_of[clip])
        assert CLIPS.labels[real] == 0
        assert set(CLIPS.stored.video_index[places]) == {CLIPS.video_index[real]}
        stored = np.stack([Faces().read(CLIPS.stored.paths[place]) for place in places]).transpose(0, 3, 1, 2)
        apart = (batch["image"][clip] != torch.from_numpy(stored)).any(dim=1).flatten(1).float().mean(dim=1)
        assert ((apart > 0) & (apart < 0.6)).all()


def test_forgeries_are_new_in_each_epoch_and_the_same_in_any_batch_with_any_number_of_workers():
    data = data_of(augment="flip")
    whole, later = (data.__getitems__(keys_of(data, epoch))["image"] for epoch in (0, 1))
    assert all((whole[clip] != later[clip]).any() for clip in range(len(CLIPS), len(data)))
    backwards = pickle.loads(pickle.dumps(data)).__getitems__(keys_of(data)[::-1])
    assert torch.equal(backwards["image"].flip(0), whole)
    assert torch.equal(data[0, len(data) - 1]["image"], whole[-1])


@pytest.mark.slow
def test_forgeries_are_the_same_from_workers():
    runs = []
    for workers in (0, 2):
        data = data_of(augment="flip")
        with make_loader(data, TrainBatches(len(data), 6, 1, 0, 1, 1), workers, CPU.device) as loader:
            runs.append([batch["image"] for batch in loader])
    assert all(torch.equal(here, there) for here, there in zip(*runs, strict=True))


class _Stop(Exception):
    pass


@pytest.mark.slow
def test_a_run_on_forged_clips_that_is_cut_off_resumes_to_the_same_bits(tmp_path):
    config = made_config(
        input={"frames": FRAMES, "stride": 2, "size": SMALL},
        run={"save_every": 1},
        epochs=2,
        batch_size=4,
        samples="video_blended",
        augment="flip",
    )

    def trainer(folder):
        checkpoint.seed_everything(config.seed)
        return Trainer(TinyClipDetector(dropout=0.2), data_of(augment="flip"), config, CPU, tmp_path / folder)

    whole = trainer("whole")
    whole.fit()
    cut = trainer("cut")
    step = cut._step

    def step_and_stop(micro):
        if cut.progress.step == 2:
            raise _Stop
        step(micro)

    cut._step = step_and_stop
    with pytest.raises(_Stop):
        cut.fit()
    resumed = trainer("cut")
    torch.manual_seed(99)
    resumed.fit()
    assert resumed.progress.step == whole.progress.step == 2 * (len(data_of()) // 4)
    for name, value in whole.detector.state_dict().items():
        assert torch.equal(value, resumed.detector.state_dict()[name]), name


def test_a_frame_without_a_face_gives_way_like_one_that_cannot_be_read():
    place = data_of()._frames_of(0, len(CLIPS))[2]

    class Faceless(Faces):
        def read_landmarks(self, path):
            return super().read_landmarks(path) + 1000 * (path == CLIPS.stored.paths[place])

    data = data_of(store=Faceless())
    lost = [clip for clip in range(len(CLIPS), len(data)) if place in data._frames_of(0, clip)]
    bad = data.__getitems__(keys_of(data))["bad"]
    assert lost and [each.index for each in bad] == lost
    assert "no facial feature" in bad[0].message
    kept = data_of(store=Faceless(), replace_bad=True)
    assert len(kept.__getitems__(keys_of(kept))["image"]) == len(kept)


def test_what_forged_clips_cannot_be_made_of_is_said():
    class Seven(Faces):
        def read_landmarks(self, path):
            return np.zeros((7, 2), np.float32)

    with pytest.raises(UserError, match=r"train\.samples=video_blended: .*expected 5, 68 or 81 landmarks, got 7; crop"):
        data_of(store=Seven())
    fakes = CLIPS.at(np.flatnonzero(CLIPS.labels))
    with pytest.raises(UserError, match=r"video_blended: forgeries are made from real clips.* have none"):
        data_of(clips=fakes)

    class Bare(Faces):
        def missing(self, paths):
            return [path for path in paths if path.endswith(".npy")]

    with pytest.raises(UserError, match=r"lacks the landmarks of 24 .*resproto faces"):
        data_of(store=Bare())


def test_settings_that_do_not_suit_forged_clips_are_refused():
    with pytest.raises(ValidationError, match=r"samples 'video_blended' have no known partner: set sampling: shuffled"):
        TrainConfig(samples="video_blended", sampling="paired")
    assert TrainConfig(samples="video_blended", batch_size=7).batch_size == 7
    assert not TrainConfig(samples="video_blended").in_pairs
    with pytest.raises(UserError, match=r"train\.samples=video_blended: .* the detector takes single frames"):
        check_clips(made_config(samples="video_blended"))
    check_clips(made_config(samples="video_blended", input={"frames": 4}))
    with pytest.raises(UserError, match=r"set train\.samples=frames or video_blended"):
        check_clips(made_config(samples="warped", batch_size=2, input={"frames": 4}))
