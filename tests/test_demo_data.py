"""The demo data: deterministic, split by person, read like any data set, its forgeries real and free of short cuts."""

import json
import os
from collections import defaultdict
from dataclasses import replace

import cv2
import numpy as np
import pytest
from tiny import quick_and_slow

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.demo import data as demo
from resproto_fd.preprocessing.demo.camera import Frame, film
from resproto_fd.preprocessing.demo.data import DEMO_SETS, make_demo, make_pair, plan
from resproto_fd.preprocessing.demo.drawing import FRAME
from resproto_fd.preprocessing.demo.forgeries import METHODS, face_mask
from resproto_fd.preprocessing.demo.people import draw_identity
from resproto_fd.preprocessing.demo.takes import draw_take
from resproto_fd.preprocessing.manifest import read_manifest
from resproto_fd.preprocessing.store.beside_frames import landmark_path, mask_path
from resproto_fd.preprocessing.store.frame_store import open_store
from resproto_fd.preprocessing.taxonomy import load_taxonomy
from resproto_fd.preprocessing.video import SPLITS

NAMES = [demo_set.name for demo_set in DEMO_SETS]


@pytest.fixture(scope="module")
def folder(demo):
    return demo


def videos_of(folder, name):
    """Every video of a data set, read as real data is."""
    layout = json.loads((folder / "dataset_json" / f"{name}.json").read_text())[name]
    filled = {split for by_split in layout.values() for split in SPLITS if by_split[split]}
    return [
        video
        for split in SPLITS
        if split in filled
        for video in read_manifest(folder / "dataset_json" / f"{name}.json", name, split=split)
    ]


def content(folder, names):
    """Bytes of every manifest and of every frame."""
    found = {}
    for name in names:
        found[name] = (folder / "dataset_json" / f"{name}.json").read_bytes()
        store = open_store(folder / "lmdb" / f"{name}_lmdb")
        found |= {frame: store.read_bytes(frame) for video in videos_of(folder, name) for frame in video.frames}
    return found


@pytest.mark.slow
def test_the_bytes_depend_on_the_seed_and_not_on_the_number_of_processes(tmp_path, monkeypatch):
    small = replace(DEMO_SETS[0], methods=("swap", "warp"), pairs={"tiny": {"train": 1, "test": 1}})
    monkeypatch.setattr(demo, "DEMO_SETS", (small,))
    monkeypatch.setitem(demo.FRAMES, "tiny", 1)
    for workers in (1, 2):
        make_demo(tmp_path / str(workers), seed=3, size="tiny", workers=workers)
    alone, together = (content(tmp_path / name, NAMES[:1]) for name in "12")
    assert alone == together
    assert len(alone) == 1 + 2 * 2 * (2 + 2)
    monkeypatch.undo()
    mine, other = (make_pair(replace(plan(DEMO_SETS[0], seed, "tiny")[0], frames=1)) for seed in (0, 1))
    assert [made[0] for made in mine] == [made[0] for made in other]
    assert all(a != b for made, others in zip(mine, other) for a, b in zip(made[1], others[1]))


def test_every_frame_of_every_manifest_is_stored_and_decodes(folder):
    for name in NAMES:
        store = open_store(folder / "lmdb" / f"{name}_lmdb")
        frames = [frame for video in videos_of(folder, name) for frame in video.frames]
        assert store.missing(frames) == []
        assert all(store.read(frame).shape == (FRAME, FRAME, 3) for frame in frames[::5])


def test_landmarks_lie_beside_every_frame_and_masks_beside_every_forged_one(folder):
    for name in NAMES:
        store = open_store(folder / "lmdb" / f"{name}_lmdb")
        frames = {frame: video.label for video in videos_of(folder, name) for frame in video.frames}
        assert store.missing(map(landmark_path, frames)) == []
        assert store.missing(map(mask_path, frames)) == [mask_path(frame) for frame in frames if not frames[frame]]
        for frame in list(frames)[::7]:
            left, right, nose, *mouth = store.read_landmarks(frame)
            assert 70 < left[0] < nose[0] < right[0] < 180
            assert left[1] < nose[1] < min(mouth[0][1], mouth[1][1])
            assert mouth[0][0] < nose[0] < mouth[1][0]
            if frames[frame]:
                mask = store.read_mask(frame)
                assert set(np.unique(mask)) == {0, 255}
                assert 0.01 < (mask > 0).mean() < 0.7
                ys, xs = np.nonzero(mask)
                assert np.abs(np.array([xs.mean(), ys.mean()]) - nose).max() < 60


def test_labels_mean_what_the_taxonomy_says_and_every_split_has_both_classes(folder):
    for demo_set in DEMO_SETS:
        by_split = defaultdict(set)
        for video in videos_of(folder, demo_set.name):
            by_split[video.split].add(video.label_name)
            assert video.label == load_taxonomy()[video.label_name].label
        wanted = {"Demo_real", *(f"Demo_{method}" for method in demo_set.methods)}
        assert by_split == dict.fromkeys(demo_set.pairs["tiny"], wanted)


def test_the_default_size_has_no_person_and_no_recording_in_two_splits():
    people, numbers = defaultdict(set), defaultdict(set)
    for demo_set in DEMO_SETS:
        for pair in plan(demo_set, 0, "default"):
            place = (demo_set.name, pair.split)
            numbers[demo_set.name, pair.number].add(pair.split)
            for who in pair.people:
                people[who.skin.tobytes() + who.hair.tobytes()].add(place)
    assert len(people) > 100
    assert all(len(places) == 1 for places in people.values())
    assert all(len(splits) == 1 for splits in numbers.values())


def test_demo_c_has_only_methods_that_demo_a_lacks_and_demo_b_has_some():
    a, b, c = (set(demo_set.methods) for demo_set in DEMO_SETS)
    assert not a & c
    assert a & b and b - a
    assert a | b | c == set(METHODS)


@pytest.fixture
def drawn(monkeypatch) -> list:
    """Makes Demo-C the only data set and draws it once; the list holds each pair that was asked for."""
    monkeypatch.setattr(demo, "DEMO_SETS", DEMO_SETS[2:])
    asked = []
    result = make_pair(replace(plan(DEMO_SETS[2], 0, "tiny")[0], frames=1))
    monkeypatch.setattr(demo, "make_pair", lambda pair: asked.append(pair) or result)
    return asked


@pytest.mark.slow
def test_finished_data_is_reused_and_half_made_data_is_made_again(tmp_path, drawn):
    (tmp_path / "mine.txt").write_text("a file of the user's")
    make_demo(tmp_path, size="tiny")
    make_demo(tmp_path, size="tiny")
    assert len(drawn) == 1
    whole = (tmp_path / "dataset_json" / "Demo-C.json").read_bytes()
    (tmp_path / "demo.json").unlink()
    (tmp_path / "dataset_json" / "Demo-C.json").write_text("{")
    make_demo(tmp_path, size="tiny")
    assert len(drawn) == 2
    assert (tmp_path / "dataset_json" / "Demo-C.json").read_bytes() == whole
    make_demo(tmp_path, size="tiny", seed=1)
    assert len(drawn) == 3
    assert (tmp_path / "mine.txt").exists()


@pytest.mark.slow
def test_a_run_that_breaks_off_leaves_no_finished_data(tmp_path, drawn, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(demo, "write_manifest", stop)
        make_demo(tmp_path, size="tiny")
    assert not (tmp_path / "demo.json").exists()
    make_demo(tmp_path, size="tiny")
    assert (tmp_path / "demo.json").exists()
    assert videos_of(tmp_path, "Demo-C")


def die(pair):
    os._exit(3)


@pytest.mark.slow
def test_a_process_that_dies_is_reported_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "DEMO_SETS", DEMO_SETS[:1])
    monkeypatch.setattr(demo, "make_pair", die)
    with pytest.raises(UserError, match="workers=1"):
        make_demo(tmp_path, size="tiny", workers=2)
    assert list((tmp_path / "lmdb").iterdir()) == []


@pytest.fixture(scope="module")
def recordings() -> list[list[Frame]]:
    """Two people, two frames each."""
    made = []
    for person in range(2):
        rng = np.random.default_rng((11, person))
        camera = DEMO_SETS[0].camera.settings(rng)
        made.append(film(draw_take(draw_identity(rng), rng), camera, 2, rng))
    return made


def forged(method: str, recordings, seed: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    forge = METHODS[method](rng)
    return [forge(target, donor, rng) for target, donor in zip(*recordings)]


@pytest.mark.parametrize("method", METHODS)
def test_a_forgery_changes_the_face_and_nothing_around_it(method, recordings):
    for target, image in zip(recordings[0], forged(method, recordings)):
        assert image.dtype == np.uint8 and image.shape == target.image.shape
        changed = np.abs(image.astype(int) - target.image).max(-1)
        face = face_mask(target, 1.0, 1.0, 0) > 0
        around = ~cv2.dilate(face.astype(np.uint8), np.ones((41, 41))).astype(bool)
        assert around.mean() > 0.1
        assert not changed[around].any()
        assert (changed[face] > 2).mean() > 0.02


def fine_detail(image: np.ndarray, frame: Frame) -> float:
    """Spread of the finest detail in the middle of the face."""
    grey = image.astype(np.float32).mean(-1)
    return float((grey - cv2.GaussianBlur(grey, (0, 0), 1.0))[face_mask(frame, 0.7, 0.0, 0) > 0.5].std())


@pytest.mark.parametrize("method", quick_and_slow(["swap", "upsample", "bottleneck"], ["swap"]))
def test_faces_that_a_generator_made_lose_or_change_the_finest_detail(method, recordings):
    ratios = [
        fine_detail(image, frame) / fine_detail(frame.image, frame)
        for seed in range(4)
        for image, frame in zip(forged(method, recordings, seed), recordings[0])
    ]
    assert np.mean(np.abs(np.log(ratios))) > 0.1


def spectrum_peak(image: np.ndarray, factor: int) -> float:
    """Energy at the grid's frequency over that nearby, in the middle of the face."""
    patch = image[88:184, 80:176].astype(np.float32).mean(-1)  # 96 pixels: whole periods of 2, 3 and 4
    power = np.abs(np.fft.fft2(patch - cv2.GaussianBlur(patch, (0, 0), 3))) ** 2
    at = 96 // factor
    near = np.r_[power[0, at - 6 : at - 2], power[at - 6 : at - 2, 0]]
    return float((power[0, at] + power[at, 0]) / 2 / near.mean())


def test_upsampling_leaves_a_peak_in_the_spectrum(recordings):
    frame = recordings[0][0]
    excess = []
    for seed in range(6):
        image = forged("upsample", recordings, seed)[0]
        excess.append(max(spectrum_peak(image, f) / spectrum_peak(frame.image, f) for f in (2, 3, 4)))
    assert np.median(excess) > 5


@pytest.mark.slow
def test_size_of_file_mean_colour_and_border_do_not_tell_real_from_fake():
    """A fake's figure is as often above as below a real one's: the share, which is its AUC, stays near 1/2."""
    figures = defaultdict(list)
    for number in range(2):
        pair = replace(plan(DEMO_SETS[0], number, "tiny")[0], frames=1)
        for video, frames, _ in make_pair(pair):
            image = cv2.imdecode(np.frombuffer(frames[0], np.uint8), cv2.IMREAD_COLOR).astype(float)
            border = np.r_[image[:8].ravel(), image[-8:].ravel(), image[:, :8].ravel(), image[:, -8:].ravel()]
            row = [len(frames[0]), *image.mean((0, 1)), border.mean(), border.std()]
            figures[video.label].append(row)
    real, fake = np.array(figures[0]), np.array(figures[1])
    share = (fake[:, None] > real[None]).mean((0, 1)) + 0.5 * (fake[:, None] == real[None]).mean((0, 1))
    assert share.shape == (6,)
    assert (np.abs(share - 0.5) < 0.15).all(), share
