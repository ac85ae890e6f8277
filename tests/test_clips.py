"""Clips: which frames they have, how they are read and augmented, and that they train and score like frames."""

import argparse
import json
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from made import SIZE, MadeStore, TinyClipDetector, TinyDetector, made_config, made_dataset, made_videos

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import DataConfig, InputConfig
from resproto_fd.detectors import register, registry
from resproto_fd.preprocessing.store.image_codec import checksum_of
from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.augment.transforms import train_transform
from resproto_fd.trainer.batches import TrainBatches
from resproto_fd.trainer.clip_data import ClipDataset
from resproto_fd.trainer.clip_list import ClipList, clip_checksum, starts
from resproto_fd.trainer.companions import find_companions
from resproto_fd.trainer.data import Normaliser
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.fields import batch_fields
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.loader import make_loader
from resproto_fd.trainer.scoring import ScoringOptions, score_frames
from resproto_fd.trainer.trainer import Trainer
from resproto_fd.training import protocols, provenance
from resproto_fd.training import run as train
from resproto_fd.training import train as train_command
from resproto_fd.training.bench import Bench
from resproto_fd.training.cli import main
from resproto_fd.training.commands.arguments import run_config
from resproto_fd.training.results import RunResult
from resproto_fd.training.samples import note_on_clips
from resproto_fd.training.scores import ScoreTable

CPU = World(0, 1, torch.device("cpu"))


def listed(lengths, budget=None, clips=None, absent=(), **given):
    """Clips of videos of some lengths, whose frames are numbered from 0."""
    videos = [made_videos(i + 1, length)[i] for i, length in enumerate(lengths)]
    return ClipList.within(FrameList.of(videos, budget), InputConfig(**given), clips, absent)


def numbers_of(found):
    return [(int(owner), numbers) for owner, numbers in zip(found.video_index, found.clip_numbers.tolist())]


# --- which frames a clip has ------------------------------------------------------------------------------------------


def test_clips_are_consecutive_frames_that_start_evenly_spaced_over_all_possible_starts():
    found = listed([10], clips=3, frames=4)
    assert numbers_of(found) == [(0, [0, 1, 2, 3]), (0, [3, 4, 5, 6]), (0, [6, 7, 8, 9])]
    assert found.numbers.tolist() == [0, 3, 6]
    assert numbers_of(listed([10], clips=2, frames=4, stride=3)) == [(0, [0, 3, 6, 9])]
    assert numbers_of(listed([10], clips=2, frames=3, stride=2)) == [(0, [0, 2, 4]), (0, [5, 7, 9])]
    assert numbers_of(listed([10], clips=1, frames=4)) == [(0, [3, 4, 5, 6])]


@pytest.mark.parametrize(("budget", "count"), [(None, 5), (8, 4), (7, 3), (1, 1)])
def test_without_a_number_of_clips_they_fill_the_protocols_frames_of_a_video(budget, count):
    assert len(listed([10], budget, frames=2)) == count


def test_a_clips_label_video_and_set_are_those_of_its_video():
    found = listed([6, 6, 6], clips=2, frames=3)
    assert found.video_index.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.labels.tolist() == [0, 0, 1, 1, 0, 0]
    assert found.class_counts().tolist() == [4, 2]
    assert found.groups().tolist() == [0] * 6
    assert found.shuffled(np.arange(6)[::-1]).fact_index.tolist() == [2, 2, 1, 1, 0, 0]
    assert found.paths == [found.stored.paths[place] for place in found.places[:, 0]]


@pytest.mark.parametrize(("short", "wanted"), [("repeat", [0, 1, 2, 0, 1, 2, 0]), ("mirror", [0, 1, 2, 1, 0, 1, 2])])
def test_a_short_video_is_repeated_or_mirrored_and_counted(short, wanted):
    found = listed([3, 9], clips=1, frames=7, short=short)
    assert numbers_of(found) == [(0, wanted), (1, [1, 2, 3, 4, 5, 6, 7])]
    assert (found.short, found.left_out) == (1, 0)
    assert numbers_of(listed([1], frames=3, short=short)) == [(0, [0, 0, 0])]


def test_a_short_video_can_be_left_out_and_is_counted_and_one_of_just_enough_frames_is_not_short():
    found = listed([3, 5, 9], clips=1, frames=3, stride=2, short="leave_out")
    assert found.video_index.tolist() == [1, 2]
    assert (found.short, found.left_out) == (1, 1)
    with pytest.raises(UserError, match=r"none of 2 videos has the 9 stored frames.*set input\.short=repeat"):
        listed([3, 5], frames=9, short="leave_out")


def test_frames_that_a_store_lacks_are_passed_over():
    absent = [made_videos(1, 6)[0].frames[2]]
    assert numbers_of(listed([6], clips=1, absent=absent, frames=5)) == [(0, [0, 1, 3, 4, 5])]


def numbered(*videos, budget=None, clips=None, **given):
    """Clips of videos whose frames have the given numbers."""
    made = [made_videos(i + 1, 1)[i] for i in range(len(videos))]
    frames = [tuple(f"Made/{video.split}{i}/{n:03d}.png" for n in videos[i]) for i, video in enumerate(made)]
    videos = [replace(video, frames=own) for video, own in zip(made, frames)]
    return ClipList.within(FrameList.of(videos, budget), InputConfig(**given), clips)


RUNS = [0, 1, 2, 9, 19, 20, 21, 22, 30]
"""A run of three and one of four, with evenly spaced frames beside them."""


def test_where_a_video_has_runs_of_consecutive_frames_a_clip_is_of_these():
    assert numbers_of(numbered(RUNS, frames=3, clips=9)) == [(0, [0, 1, 2]), (0, [19, 20, 21]), (0, [20, 21, 22])]
    assert numbers_of(numbered(RUNS, frames=3, clips=2)) == [(0, [0, 1, 2]), (0, [20, 21, 22])]
    assert numbers_of(numbered(RUNS, frames=4, clips=9)) == [(0, [19, 20, 21, 22])]
    assert numbers_of(numbered(RUNS, frames=2, stride=2, clips=9)) == [(0, [0, 2]), (0, [19, 21]), (0, [20, 22])]
    assert numbers_of(numbered(RUNS, frames=2, stride=3, clips=9)) == [(0, [19, 22])]


def test_where_no_clip_is_of_consecutive_frames_every_clip_of_stored_frames_may_be_one():
    """Each video for itself: evenly spaced frames, runs that are too short, a frame without a face in a run."""
    spaced = list(range(0, 60, 10))
    assert numbers_of(numbered(spaced, RUNS, frames=5, clips=9)) == [
        *((0, spaced[i : i + 5]) for i in range(2)),
        *((1, RUNS[i : i + 5]) for i in range(5)),
    ]
    assert numbers_of(numbered(spaced, RUNS, frames=4, clips=1)) == [(0, spaced[1:5]), (1, [19, 20, 21, 22])]
    assert numbers_of(numbered([0, 1, 3, 4], frames=3, clips=9)) == [(0, [0, 1, 3]), (0, [1, 3, 4])]
    assert numbers_of(numbered([5, 7, 9], frames=2, stride=2, clips=9)) == [(0, [5, 9])]


def test_a_clip_that_starts_elsewhere_is_of_consecutive_frames_too():
    found = numbered(RUNS, [0, 7, 14], frames=3, clips=1)
    drawn = [found.stored.numbers[found.drawn(0, share)].tolist() for share in (0.0, 0.34, 0.67, 0.999)]
    assert drawn == [[0, 1, 2], [19, 20, 21], [20, 21, 22], [20, 21, 22]]
    assert found.stored.numbers[found.drawn(1, 0.9)].tolist() == [0, 7, 14]


@pytest.mark.parametrize(
    "given", [{"frames": 4}, {"frames": 3, "stride": 2}, {"frames": 12, "short": "mirror"}], ids=str
)
def test_wholly_consecutive_and_wholly_spaced_videos_have_every_start(given):
    reach = (given["frames"] - 1) * given.get("stride", 1)
    for numbers in (np.arange(7, 17), np.arange(0, 100, 10)):
        assert starts(numbers, InputConfig(**given)).tolist() == list(range(max(1, 10 - reach)))


def test_a_video_that_the_protocol_leaves_out_has_no_clip():
    frames = FrameList.of(made_videos(3, 6), None)
    gone = {path for path, owner in zip(frames.paths, frames.video_index) if owner == 1}
    assert set(ClipList.within(frames.without(gone), InputConfig(frames=2)).video_index.tolist()) == {0, 2}


def test_a_list_of_clips_has_another_digest_if_any_frame_is_another():
    digests = {listed([9], clips=1, frames=4, stride=stride).digest() for stride in (1, 2)}
    assert len(digests) == 2
    assert listed([9], clips=2, frames=4).digest() == listed([9], clips=2, frames=4).digest()
    assert len({listed([9], clips=2, frames=4).without({path}).digest() for path in made_videos(1, 9)[0].frames}) == 3


# --- reading ----------------------------------------------------------------------------------------------------------


def config_of_clips(**changes):
    return made_config(input={"frames": 4, "stride": 2, **changes.pop("input", {})}, **changes)


def clips_of(config, **options):
    return made_dataset(config, **{"videos": 6, "frames": 20, **options})


def test_a_batch_has_the_stored_frames_of_its_clips():
    data = clips_of(config_of_clips(), split="test")
    batch, store = data.__getitems__([(0, 7), (0, 2)]), MadeStore()
    assert batch["image"].shape == (2, 4, 3, SIZE, SIZE)
    assert batch["image"].dtype == torch.uint8
    for row, clip in enumerate([7, 2]):
        paths = [data.stored.paths[place] for place in data.frames.places[clip]]
        wanted = np.stack([store.read(path) for path in paths]).transpose(0, 3, 1, 2)
        assert torch.equal(batch["image"][row], torch.from_numpy(wanted))
    assert (batch["index"].tolist(), batch["bad"]) == ([7, 2], [])
    assert batch["label"].tolist() == data.frames.labels[[7, 2]].tolist()


AUGMENTS = [
    "none",
    "flip",
    "crop",
    "resproto_fd",
    "deepfakebench",
    {"albumentations": ["HorizontalFlip", {"Rotate": {"limit": 30, "p": 1.0}}, {"GaussNoise": {"p": 1.0}}]},
]


@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
def test_all_frames_of_a_clip_are_augmented_alike(augment):
    """Frames that are equal stay equal; another clip, or the same one in another epoch, is drawn anew."""

    class OnePicture(MadeStore):
        def read(self, path):
            return super().read("Made/real/train000/000.png")

    data = clips_of(config_of_clips(augment=augment), store=OnePicture())
    images = [data[(epoch, clip)]["image"] for epoch in range(4) for clip in (0, 3)]
    assert all(torch.equal(image, image[:1].expand_as(image)) for image in images)
    assert len({image.numpy().tobytes() for image in images}) > 1 or augment in ("none", "crop")


def test_training_draws_where_a_clip_starts_from_seed_epoch_and_place():
    data, other = clips_of(config_of_clips()), clips_of(config_of_clips(seed=1))
    starts = [[data._frames_of(epoch, clip) for clip in range(len(data))] for epoch in range(30)]
    for clip, owner in enumerate(data.frames.video_index):
        first = 20 * int(owner)
        seen = {frames[clip][0] - first for frames in starts}
        assert seen <= set(range(14))
        assert all(np.diff(frames[clip]).tolist() == [2, 2, 2] for frames in starts)
    assert {frames[0][0] for frames in starts} >= {0, 13}
    assert starts[0] == [clips_of(config_of_clips())._frames_of(0, clip) for clip in range(len(data))]
    assert starts[0] != [other._frames_of(0, clip) for clip in range(len(data))]
    assert starts[0] != starts[1]
    fixed = clips_of(config_of_clips(), split="test")
    assert fixed._frames_of(5, 3) == fixed.frames.places[3].tolist()


@pytest.mark.parametrize("on", ["host", pytest.param("device", marks=pytest.mark.slow)])
def test_the_same_clips_come_with_any_number_of_workers(on):
    config = config_of_clips(augment="resproto_fd")
    data = clips_of(config)
    data.transform = train_transform("resproto_fd", config.detector.input, on)
    normalise = Normaliser([0.5] * 3, [0.5] * 3, CPU.device, torch.float32, False)
    runs = []
    for workers in (0, 2):
        batches = TrainBatches(len(data), 4, 1, 0, 1, seed=1)
        with make_loader(data, batches, workers, CPU.device) as loader:
            runs.append([(batch["index"], normalise(batch["image"])) for batch in loader])
    for (index, images), (same, others) in zip(*runs, strict=True):
        assert images.shape == (4, 4, 3, SIZE, SIZE)
        assert torch.equal(index, same)
        assert torch.equal(images, others)


def test_clips_augmented_on_the_device_are_those_of_the_host():
    config = config_of_clips(augment="resproto_fd")
    host, device = clips_of(config), clips_of(config)
    device.transform = train_transform("resproto_fd", config.detector.input, "device")
    keys = [(0, clip) for clip in range(5)]
    sent = device.__getitems__(keys)["image"]
    assert len(sent) == 5
    difference = sent.augmented().int() - host.__getitems__(keys)["image"].int()
    assert difference.abs().max() <= 2


@pytest.mark.parametrize("channels_last", [False, True])
def test_clips_are_normalised_like_their_frames(channels_last):
    images = torch.randint(256, (2, 3, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    normalise = Normaliser([0.4, 0.5, 0.6], [0.2, 0.3, 0.4], CPU.device, torch.float32, channels_last)
    found = normalise(images)
    assert found.shape == images.shape
    assert all(torch.equal(found[:, frame], normalise(images[:, frame])) for frame in range(3))
    if channels_last:
        assert found.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)


def test_landmarks_of_each_frame_move_with_it_and_other_companions_are_refused():
    class WithLandmarks(MadeStore):
        def read_landmarks(self, path):
            return np.random.default_rng(list(path.encode())).uniform(0, SIZE, (5, 2)).astype(np.float32)

    config, store = config_of_clips(augment="flip"), WithLandmarks()
    clips = clips_of(config).frames
    companions = find_companions({"landmarks"}, clips, {}, {"Made": store})
    data = clips_of(config, store=store, companions=companions)
    batch = data.__getitems__([(0, clip) for clip in range(4)])
    assert batch["landmarks"].shape == (4, 4, 5, 2)
    bare = clips_of(config).__getitems__([(0, clip) for clip in range(4)])["image"]
    assert torch.equal(batch["image"], bare)
    flips = set()
    for row in range(4):
        for frame, place in enumerate(data._frames_of(0, row)):
            own = store.read_landmarks(data.stored.paths[place])
            flipped = bool(abs(batch["landmarks"][row, frame, 0, 0] - own[0, 0]) > 1e-4)
            wanted = np.stack([SIZE - 1 - own[:, 0], own[:, 1]], 1) if flipped else own
            np.testing.assert_allclose(batch["landmarks"][row, frame], wanted, atol=1e-4)
            flips.add((row, flipped))
    assert len(flips) == 4  # one flip for a whole clip
    with pytest.raises(UserError, match=r"requires mask and partner, which clips do not have \(input\.frames=4\)"):
        find_companions({"mask", "partner", "landmarks"}, clips, {}, {"Made": store})
    on_device = train_transform("flip", config.detector.input, "device")
    with pytest.raises(UserError, match=r"run\.augment_on=device"):
        ClipDataset(clips, {"Made": store}, on_device, companions=companions)


# --- frames that cannot be read ---------------------------------------------------------------------------------------


def test_a_clip_with_an_unreadable_frame_is_left_out_of_scores_and_the_frame_is_named():
    config = config_of_clips()
    data = clips_of(config, split="test")
    path = data.stored.paths[data.frames.places[4, 2]]
    hit = np.flatnonzero((data.frames.places == data.frames.places[4, 2]).any(axis=1)).tolist()
    broken = clips_of(config, split="test", store=MadeStore([path]))
    normalise = Normaliser([0.5] * 3, [0.5] * 3, CPU.device, torch.float32, False)
    whole = score_frames(TinyClipDetector(), data, normalise, CPU, ScoringOptions(5))
    assert whole.index.tolist() == list(range(len(data)))
    with pytest.raises(UserError, match=f"{path} is broken"):
        score_frames(TinyClipDetector(), broken, normalise, CPU, ScoringOptions(5))
    part = score_frames(TinyClipDetector(), broken, normalise, CPU, ScoringOptions(5, skip_bad=True))
    assert [bad.index for bad in part.skipped] == hit
    assert all(path in bad.message for bad in part.skipped)
    kept = [clip for clip in range(len(data)) if clip not in hit]
    assert part.index.tolist() == kept
    np.testing.assert_allclose(part.scores, whole.scores[kept], atol=1e-6)


def test_training_takes_the_next_readable_clip_in_the_place_of_a_bad_one():
    config = config_of_clips(input={"stride": 1})
    videos = made_videos(6, 4)
    data = clips_of(config, frames=4, store=MadeStore([videos[2].frames[1], videos[3].frames[0]]), replace_bad=True)
    batch = data.__getitems__([(0, 1), (0, 2), (0, 5)])
    assert batch["index"].tolist() == [1, 4, 5]
    assert torch.equal(batch["image"][1], data[(0, 4)]["image"])
    assert [bad.index for bad in batch["bad"]] == [2]
    assert videos[2].frames[1] in batch["bad"][0].message
    nothing = clips_of(config, frames=4, store=MadeStore([video.frames[0] for video in videos]), replace_bad=True)
    assert set(nothing.__getitems__([(0, 1)])) == {"bad"}


# --- training and scoring ---------------------------------------------------------------------------------------------


def make_trainer(folder, config, detector=None):
    checkpoint.seed_everything(config.seed)
    return Trainer(detector or TinyClipDetector(dropout=0.2), clips_of(config), config, CPU, folder)


@pytest.mark.parametrize("recipe", [{}, {"precision": "bf16", "channels_last": True}, {"optimizer": {"sam_rho": 0.1}}])
def test_a_detector_of_clips_trains(tmp_path, recipe):
    config = config_of_clips(epochs=3, batch_size=6, **{"optimizer": {"lr": 0.03, "fused": False}, **recipe})
    trainer = make_trainer(tmp_path, config, TinyClipDetector())
    before = {name: value.clone() for name, value in trainer.detector.state_dict().items()}
    progress = trainer.fit()
    after = trainer.detector.state_dict()
    assert progress.step == 3 * (30 // 6)
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(after[name], before[name]) for name in after)


def test_parts_of_a_batch_of_clips_give_the_gradients_of_the_whole(tmp_path):
    states = []
    for parts in (1, 3):
        config = config_of_clips(epochs=1, batch_size=6, accumulate=parts, precision="fp64")
        trainer = make_trainer(tmp_path / str(parts), config, TinyClipDetector())
        trainer.fit()
        states.append(trainer.detector.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=0, atol=1e-10, msg=name)


class _Stop(Exception):
    pass


@pytest.mark.parametrize("stop_after", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_a_run_on_clips_that_is_cut_off_in_an_epoch_resumes_to_the_same_bits(tmp_path, stop_after):
    config = config_of_clips(epochs=2, batch_size=8, augment="flip", ema=0.9, run={"save_every": 1})
    whole = make_trainer(tmp_path / "whole", config)
    whole.fit()
    cut = make_trainer(tmp_path / "cut", config)
    step = cut._step

    def step_and_stop(micro):
        if cut.progress.step == stop_after:
            raise _Stop
        step(micro)

    cut._step = step_and_stop
    with pytest.raises(_Stop):
        cut.fit()
    resumed = make_trainer(tmp_path / "cut", config)
    torch.manual_seed(99)
    resumed.fit()
    assert resumed.progress.step == whole.progress.step == 6
    for name, value in whole.detector.state_dict().items():
        assert torch.equal(value, resumed.detector.state_dict()[name]), name


def test_a_checkpoint_from_before_clips_were_known_still_resumes(tmp_path):
    config = made_config(epochs=2)
    Trainer(TinyDetector(), made_dataset(config), config, CPU, tmp_path).fit()
    path, saved, _ = checkpoint.load_newest(tmp_path / "checkpoints")
    for key in ("frames", "stride", "clips", "short"):
        del saved["identity"]["config"]["detector"]["input"][key]
    checkpoint.save(path, {key: value for key, value in saved.items() if key != "format"})
    Trainer(TinyDetector(), made_dataset(config), config, CPU, tmp_path).resume()
    other = made_config(epochs=2, input={"stride": 2})
    with pytest.raises(UserError, match=r"config\.detector\.input\.stride: saved with 1, now 2"):
        Trainer(TinyDetector(), made_dataset(other), other, CPU, tmp_path).resume()


# --- through the commands ---------------------------------------------------------------------------------------------


@pytest.fixture
def registered():
    """The name of the tiny detector's class, for the test."""
    yield register("tiny_clips")(TinyClipDetector) and "tiny_clips"
    del registry._classes["tiny_clips"]


@pytest.fixture
def clip_preset(registered, tmp_path):
    """A YAML of the tiny detector of clips."""
    path = tmp_path / "tiny_clips.yaml"
    path.write_text(
        "detector: tiny_clips\ninput: {size: 16, mean: half, std: half, frames: 3, stride: 2, clips: 2}\n"
        "train: {epochs: 2, batch_size: 4, augment: flip, optimizer: {lr: 1e-2}}\n"
    )
    return path


REFUSED = [["explain", "--frames", "1"], ["figures"]]


def configuration(words):
    """The configuration that `resproto train` makes of its words."""
    parser = argparse.ArgumentParser()
    train_command.add_arguments(parser)
    args, rest = parser.parse_known_args(words)
    args.settings += rest
    return run_config(args)


QUICK = ["run.workers=0", "run.device=cpu", "run.progress=false"]
ONE_SET = ["--protocol", "demo_cross", "--test_dataset", "Demo-B", "protocol.frames={train: 4, val: 3, test: 3}"]


def test_a_detector_of_clips_is_trained_scored_and_tested_again_from_kept_scores(clip_preset, demo, tmp_path, capsys):
    words = [*ONE_SET, f"data.root={demo}", f"run.out={tmp_path / 'runs'}", *QUICK]
    assert main(["train", "--detector", str(clip_preset), *words]) == 0
    folder = next((tmp_path / "runs").rglob("result.json")).parent
    table = ScoreTable.load(folder / "scores" / "Demo-B.npz")
    resolved = protocols.resolve(loading.load("protocols", "demo_cross"), DataConfig(root=str(demo)))
    given = InputConfig(frames=3, stride=2)
    clips = ClipList.within(resolved.tests["Demo-B"], given, 2)
    assert table.video.tolist() == [clips.videos[owner].id for owner in clips.video_index]
    assert table.frame.tolist() == clips.clip_numbers[:, 0].tolist()
    store = resolved.stores["Demo-B"]
    frames = [checksum_of(store.read(clips.stored.paths[place])) for place in clips.places[1]]
    assert table.checksums[1] == zlib.crc32(np.asarray(frames, "<u4").tobytes()) == clip_checksum(frames)
    assert table.made_from["input"]["frames"] == 3
    result = RunResult.load(folder / "result.json")
    assert result.train_images == 3 * 4 * 2 * (len(resolved.train.videos) // 4)
    before = (folder / "scores" / "Demo-B.npz").read_bytes()
    capsys.readouterr()
    assert main(["test", "--run", str(folder), f"data.root={demo}", *QUICK]) == 0
    assert "scored again" not in capsys.readouterr().err
    assert (folder / "scores" / "Demo-B.npz").read_bytes() == before
    for command in REFUSED:
        assert main([*command, str(folder)]) == 2
        assert "which takes clips of 3 frames" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_can_train_on_clips_and_on_forgeries_made_of_the_real_ones(clip_preset, demo, tmp_path):
    tables = []
    for name, workers in (("a", 0), ("b", 1)):
        where = [f"data.root={demo}", f"run.out={tmp_path / name}", *QUICK[1:], f"run.workers={workers}"]
        words = [*ONE_SET, *where, "train.samples=video_blended"]
        assert main(["train", "--detector", str(clip_preset), *words]) == 0
        folder = next((tmp_path / name).rglob("result.json")).parent
        tables.append(ScoreTable.load(folder / "scores" / "Demo-B.npz"))
    assert np.array_equal(tables[0].score, tables[1].score)
    resolved = protocols.resolve(loading.load("protocols", "demo_cross"), DataConfig(root=str(demo)))
    labels = [video.label for video in resolved.train.videos]
    clips = 2 * len(labels) - sum(labels)
    assert RunResult.load(folder / "result.json").train_images == 3 * 4 * 2 * (clips // 4)


def bench_of(config, videos, store, folder):
    frames = FrameList.of(videos, 6)
    detector = config.detector.model_copy(update={"detector": "tiny_clips"})
    config = config.model_copy(update={"detector": detector})
    resolved = protocols.ResolvedProtocol(
        config.protocol, None, None, {"Made": frames}, {"Made": store}, {}, "f", {}, []
    )
    return Bench(config, resolved, CPU, folder)


def test_short_videos_that_are_left_out_are_told_and_counted_with_the_scores_which_are_kept(
    registered, tmp_path, capsys
):
    config = config_of_clips(input={"short": "leave_out"})
    videos = [made_videos(i + 1, length, "test")[i] for i, length in enumerate([9, 9, 6, 9])]
    detector, path = TinyClipDetector().eval(), tmp_path / "scores" / "Made.npz"
    bench = bench_of(config, videos, MadeStore(), tmp_path)
    assert note_on_clips(bench.tests["Made"], "testing Made") == (
        "testing Made: videos with fewer than 7 stored frames: 1; they are left out (input.short)"
    )
    table = bench.test_tables(detector, "0" * 64)["Made"]
    assert (len(table.videos), table.skipped) == (3, 1)
    before = path.read_bytes()
    bench_of(config, videos, MadeStore(), tmp_path).test_tables(detector, "0" * 64)
    assert path.read_bytes() == before
    assert "scored again" not in capsys.readouterr().err

    class OtherPixels(MadeStore):
        def read(self, path):
            return super().read(path) ^ (1 if path == changed else 0)

    clips = bench.tests["Made"]
    changed = clips.stored.paths[clips.places[1, 3]]  # not a clip's first frame
    bench_of(config, videos, OtherPixels(), tmp_path).test_tables(detector, "0" * 64)
    assert "scored again, since frames of 1 keys hold other pixels" in capsys.readouterr().err


def test_frames_that_a_store_lacks_are_an_error_or_passed_over_as_asked(tmp_path):
    videos = made_videos(2, 9, "test")
    absent = videos[1].frames[4]

    class Lacking(MadeStore):
        def missing(self, paths):
            return [path for path in paths if path == absent]

    config = config_of_clips()
    with pytest.raises(UserError, match=f"lack 1 frames that the manifests name, first: {absent}.*on_bad_frame=skip"):
        bench_of(config, videos, Lacking(), tmp_path)
    config = config.model_copy(update={"data": DataConfig(on_bad_frame="skip")})
    clips = bench_of(config, videos, Lacking(), tmp_path).tests["Made"]
    assert numbers_of(clips) == [(0, [1, 3, 5, 7]), (1, [0, 2, 5, 7])]


def test_descriptions_of_frames_are_not_given_to_clips():
    detector = TinyClipDetector()
    detector.requires = frozenset({"captions_facial"})
    with pytest.raises(UserError, match=r"requires 'captions_facial' .* which clips do not have \(input\.frames=4\)"):
        batch_fields(detector, clips_of(config_of_clips()).frames, {})
    detector.requires, detector.vocabulary = frozenset({"method"}), {"method": ["real", "Made"]}
    clips = clips_of(config_of_clips()).frames
    assert batch_fields(detector, clips, {})["method"].tolist() == clips.labels.tolist()


@pytest.mark.parametrize(
    ("detector", "words", "message"),
    [
        ("clips", ["input.frames=1"], "takes clips: expected input.frames of 2 or more, got 1"),
        ("meso4", ["input.frames=8"], "takes single frames: expected input.frames=1, got 8"),
        ("clips", ["train.samples=self_blended"], "train.samples=self_blended: forgeries are made of single frames"),
        ("clips", ["run.encode_once=true"], "run.encode_once: features are kept of single frames"),
        ("clips", ["input.short=cut"], "input.short"),
        ("clips", ["input.stride=0"], "input.stride"),
        ("clips", ["input.clips=0"], "input.clips"),
        ("meso4", ["input.stride=2"], "input.stride=2: only for clips"),
        ("meso4", ["input.clips=3"], "input.clips=3: only for clips"),
        ("meso4", ["input.short=mirror"], "input.short=mirror: only for clips"),
        ("clips", ["input.frames=0"], "input.frames"),
        ("clips", ["input.frames=2000"], "input.frames"),
    ],
)
def test_settings_that_do_not_suit_clips_are_refused_before_data_are_looked_at(
    clip_preset, tmp_path, capsys, detector, words, message
):
    name = str(clip_preset) if detector == "clips" else detector
    where = ["--protocol", "demo_cross", f"data.root={tmp_path / 'nothing'}", f"run.out={tmp_path / 'runs'}"]
    assert main(["train", "--detector", name, *where, *QUICK, *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("stil", ["input.frames=4"], "stil expected clips of 8 frames, got 4; set model.frames and input.frames"),
        ("ftcn", ["input.frames=4"], "ftcn expected clips of 32 frames, got 4; set model.frames and input.frames"),
        ("xclip", ["input.frames=3"], "xclip expected clips of a multiple of 2 frames, got 3"),
        ("videomae", ["input.frames=3"], "videomae expected clips of whose frames"),
    ],
)
def test_clips_of_a_number_of_frames_that_a_network_was_not_built_for_are_refused_before_there_is_a_folder(
    demo, tmp_path, capsys, name, words, message
):
    tiny = {key: value for key, value in loading.load("detectors", name).tiny.items() if key != "frames"}
    small = [f"model.{key}={json.dumps(value)}" for key, value in tiny.items()]
    where = ["--protocol", "demo_cross", f"data.root={demo}", f"run.out={tmp_path / 'runs'}", "input.size=32"]
    words = [*where, *QUICK, *small, "model.pretrained=null", "train.batch_size=2", *words]
    assert main(["train", "--detector", name, *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_set_whose_videos_are_all_too_short_is_named_and_a_share_of_frames_is_refused(clip_preset, demo, tmp_path):
    def refused(*words):
        with pytest.raises(UserError) as error:
            run = [*ONE_SET, f"data.root={demo}", f"run.out={tmp_path / 'runs'}", *QUICK, *words]
            train.train(configuration(["--detector", str(clip_preset), *run]))
        return str(error.value)

    assert refused("input.frames=99", "input.short=leave_out").startswith("testing Demo-B: none of ")
    assert "protocol.share=0.5: it leaves out single frames" in refused("protocol.share=0.5")
    assert not (tmp_path / "runs").exists()


def test_clips_of_another_stride_are_scored_from_something_else(registered):
    (one, other) = (config_of_clips(input={"stride": stride}).detector for stride in (2, 1))
    one, other = (config.model_copy(update={"detector": "tiny_clips"}) for config in (one, other))
    assert provenance.settings_differing(one, other) == ["input.stride differs: 2 -> 1"]


def test_what_single_frames_are_scored_from_is_told_as_before_clips_were_known():
    config = loading.load("detectors", "meso4")
    assert provenance.input_part(config) == {"size": 256, "fit": "resize", "mean": [0.5] * 3, "std": [0.5] * 3}
