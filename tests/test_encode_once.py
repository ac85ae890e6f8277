"""Encoding each frame once: the numbers of encoding it each time, from features of these pixels and weights alone."""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from made import MadeStore, made_config, made_videos
from tiny import TINY_RESNET, TINY_VIT, quick_and_slow

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.loading import dump
from resproto_fd.detectors.registry import create_detector
from resproto_fd.trainer.augment.transforms import train_transform
from resproto_fd.trainer.data import FrameDataset, Normaliser
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.encoded import Passing, Shelf, _digest, frame_names
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.trainer import Trainer
from resproto_fd.training import test
from resproto_fd.training.bench import Bench
from resproto_fd.training.cli import main
from resproto_fd.training.commands import arguments
from resproto_fd.training.encode_once import EncodeOnce, encoded_folder, encoder_tensors
from resproto_fd.training.protocols import ResolvedProtocol

ROOT = Path(__file__).resolve().parents[1]
HERE = World(0, 1, torch.device("cpu"))
SIDE = 32


def probe(seed: int = 0, name: str = "clip_probe", **keywords):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        detector = create_detector(name, **TINY_VIT, **keywords)
        torch.manual_seed(seed)
        for layer in detector.children():
            if isinstance(layer, torch.nn.Linear):
                layer.reset_parameters()
    return detector


def config_of(out, encode_once=True, detector="clip_probe", **changes):
    """A run of a tiny probe on made frames."""
    run = {"out": str(out), "encode_once": encode_once, "test_batch_size": 5, **changes.pop("run", {})}
    made = made_config(run=run, **changes)
    given = made.detector.input.model_copy(update={"size": SIDE})
    return made.model_copy(
        update={"detector": made.detector.model_copy(update={"detector": detector, "input": given, "name": detector})}
    )


class Counted:
    """Counts the pictures that detectors of a class encode, but for the example by which encoders are told apart."""

    def __init__(self, monkeypatch, cls):
        self.pictures, encode = 0, cls.encode

        def counting(detector, images):
            self.pictures += len(images)
            return encode(detector, images)

        monkeypatch.setattr(cls, "encode", counting)

    def taken(self) -> int:
        taken, self.pictures = self.pictures, 0
        return taken


@pytest.fixture
def counted(monkeypatch):
    from resproto_fd.detectors.parts.clip_detector import ClipDetector

    return Counted(monkeypatch, ClipDetector)


def frames_of(split: str, videos: int = 12) -> FrameList:
    return FrameList.of(made_videos(videos, 3, split), None)


def run_of(config, store=None, detector=None, world=HERE):
    """Trains and tests on made frames: (weights, test scores and checksums, the trainer)."""
    stores = {"Made": store or MadeStore()}
    resolved = ResolvedProtocol.__new__(ResolvedProtocol)
    values = {
        "fingerprint": "made", "train": frames_of("train"), "selection": frames_of("val", 6), "stores": stores,
        "tests": {"Made": frames_of("test", 7)}, "people": {}, "left_out": {}, "notes": [], "sides": {},
    }  # fmt: skip
    for name, value in values.items():
        object.__setattr__(resolved, name, value)
    folder = Path(config.run.out)
    bench = Bench(config, resolved, world, folder)
    transform = train_transform(config.detector.train.augment, config.detector.input, config.run.augment_on)
    skip = config.data.on_bad_frame == "skip"
    data = FrameDataset(resolved.train, stores, transform, config.seed, replace_bad=skip)
    trainer = Trainer(detector or probe(config.seed), data, config, world, folder, bench.validate, "made")
    trainer.resume()
    trainer.data = bench.trained_on(trainer.data, trainer)
    trainer.fit()
    trainer.load_best()
    tables = bench.test_tables(trainer.detector, "sha")
    return trainer.detector.state_dict(), tables["Made"], trainer


ROUNDING = 1e-5
"""Processors round a matrix product differently for another number of rows, by up to 1e-7; training adds to that."""


def assert_same(ours, plain):
    for name, value in plain[0].items():
        assert torch.allclose(value, ours[0][name], rtol=0, atol=ROUNDING), name
    assert np.allclose(ours[1].score, plain[1].score, rtol=0, atol=ROUNDING)
    for column in ("frame", "checksums", "video_index"):
        assert np.array_equal(getattr(ours[1], column), getattr(plain[1], column)), column
    assert ours[1].made_from == plain[1].made_from
    assert ours[2].progress.best_value == plain[2].progress.best_value


SETTINGS = {
    "plain": {},
    "flip": {"augment": "flip"},
    "flip, micro-batches, average": {"augment": "flip", "accumulate": 2, "ema": 0.5, "grad_clip": 1.0},
    "bf16": {"augment": "flip", "precision": "bf16"},
    "fp64": {"precision": "fp64"},
    "on the device": {"augment": "flip", "run": {"augment_on": "device"}},
    "recoded": {"protocol": {"recode": 70}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", quick_and_slow(SETTINGS, ["flip"]))
def test_kept_features_give_the_numbers_of_frames_that_are_encoded_each_time(name, tmp_path, counted):
    plain = run_of(config_of(tmp_path / "plain", False, **SETTINGS[name]))
    assert counted.taken() > 2 * 36
    ours = run_of(config_of(tmp_path / "ours", **SETTINGS[name]))
    assert_same(ours, plain)
    versions = 2 if "flip" in str(SETTINGS[name].get("augment")) else 1
    # 36 training frames, 18 of validation and 21 of the test, in batches of 5 that are filled up; and the example, for
    # each precision and once more after the best weights were loaded.
    examples = 6 if name == "bf16" else 4
    assert counted.taken() == 40 * versions + 20 + 25 + examples


@pytest.mark.slow
def test_heads_seeds_and_detectors_with_one_encoder_share_its_features(tmp_path, counted):
    run_of(config_of(tmp_path / "a", str(tmp_path / "kept")))
    counted.taken()
    other = config_of(tmp_path / "b", str(tmp_path / "kept"), seed=3, epochs=3)
    assert_same(run_of(other), run_of(config_of(tmp_path / "c", False, seed=3, epochs=3), detector=probe(3)))
    zero_shot = probe(name="clip_zero_shot")
    zero_shot.clip.load_state_dict(probe().clip.state_dict())
    counted.taken()
    assert len(encoder_tensors(zero_shot)) == len(encoder_tensors(probe()))
    config = config_of(tmp_path / "d", str(tmp_path / "kept"), detector="clip_zero_shot")
    kept = EncodeOnce(tmp_path / "kept", config, HERE)
    data = pictures(config)
    kept.of(data, zero_shot, passing(config))
    assert counted.taken() == 2  # the example alone


def pictures(config, store=None, augment="none", **options):
    transform = train_transform(augment, config.detector.input, config.run.augment_on)
    return FrameDataset(frames_of("train"), {"Made": store or MadeStore()}, transform, config.seed, **options)


def passing(config, **changes):
    given = config.detector.input
    normalise = Normaliser(given.channel_mean(), given.channel_std(), HERE.device, torch.float32, False)
    return Passing(normalise, {"recode": None, "corruption": None, **changes})


def encoded(config, detector=None, store=None, change=None, **options):
    """What a new process would get of the training frames."""
    kept = EncodeOnce(encoded_folder(config), config, HERE)
    return kept.of(pictures(config, store, **options), detector or probe(), passing(config, **(change or {})))


class Repainted(MadeStore):
    """The same paths with other pixels in some frames; it cannot tell its files without reading them."""

    def __init__(self, *places):
        super().__init__()
        self.painted = {frames_of("train").paths[place] for place in places}

    def read(self, path):
        image = super().read(path)
        return 255 - image if path in self.painted else image


@pytest.mark.slow
def test_features_are_never_used_for_other_pixels_or_weights(tmp_path, counted):
    config = config_of(tmp_path)
    first = encoded(config)
    assert counted.taken() == 40 + 2
    again = encoded(config)
    assert counted.taken() == 2
    assert torch.equal(first.features[False], again.features[False])
    changed = encoded(config, store=Repainted(3, 20))
    assert counted.taken() == 5 + 2  # two frames in a batch of five
    differ = (changed.features[False] != first.features[False]).any(dim=1)
    assert differ.nonzero()[:, 0].tolist() == [3, 20]
    other = probe()
    with torch.no_grad():
        other.clip.visual.conv1.weight.mul_(1.01)
    assert not torch.equal(encoded(config, detector=other).features[False], first.features[False])
    assert counted.taken() == 40 + 2
    wider = config.model_copy(
        update={
            "detector": config.detector.model_copy(
                update={"input": config.detector.input.model_copy(update={"mean": "clip"})}
            )
        }
    )
    assert not torch.equal(encoded(wider).features[False], first.features[False])
    encoded(config, change={"corruption": ["blur", 3]})
    assert counted.taken() == 2 * (40 + 2)
    head = probe(seed=9)
    encoded(config, detector=head)
    assert counted.taken() == 2  # another head


def test_an_encoder_that_changes_in_place_is_another_one_for_the_same_object(tmp_path):
    config, detector = config_of(tmp_path), probe()
    kept = EncodeOnce(tmp_path / "encoded", config, HERE)
    before = kept.of(pictures(config), detector, passing(config)).features[False]
    with torch.no_grad():
        detector.clip.visual.conv1.weight.mul_(1.01)
    assert not torch.equal(before, kept.of(pictures(config), detector, passing(config)).features[False])


def shelf_files(folder):
    return sorted((folder / "encoded").glob("*/Made/*.npz"))


@pytest.mark.parametrize("spoil", quick_and_slow(["cut", "digest", "words"], ["digest"]))
def test_a_damaged_file_of_features_is_noted_and_made_again(spoil, tmp_path, counted, capsys):
    config = config_of(tmp_path)
    first = encoded(config)
    (path,) = shelf_files(tmp_path)
    if spoil == "cut":
        path.write_bytes(path.read_bytes()[:-200])
    else:
        arrays = dict(np.load(path))
        if spoil == "digest":
            arrays["features"][2, 1] += 1
        else:
            arrays["dtype"] = np.array("int8")
        np.savez(path, **arrays)
    counted.taken()
    again = encoded(config)
    assert counted.taken() == 40 + 2
    assert torch.equal(first.features[False], again.features[False])
    assert path.name in capsys.readouterr().err
    encoded(config)
    assert counted.taken() == 2
    (other,) = (tmp_path / "encoded").glob("*/parts.json")
    for content in (other.read_bytes().replace(b'"fp32"', b'"fp16"'), b"\xff\xfe"):
        other.write_bytes(content)
        with pytest.raises(UserError, match="is not what this program wrote"):
            encoded(config)


@pytest.mark.parametrize("spoil", ["names", "size", "longdouble", "count"])
def test_a_file_of_features_of_another_shape_is_noted_and_left_out(spoil, tmp_path, capsys):
    names, features = frame_names(["a", "b", "c"], np.arange(3)), torch.arange(12.0).reshape(3, 4)
    shelf = Shelf(tmp_path)
    shelf.put(names, features)
    (good,) = tmp_path.glob("*.npz")
    theirs, values = names[:2], np.ones((2, 4), np.float32)
    if spoil == "names":
        theirs = np.hstack([theirs, theirs[:, :1]])
    elif spoil == "size":
        values = values[:, :3]
    elif spoil == "longdouble":
        values = values.astype(np.longdouble)
    else:
        values = values[:1]
    np.savez(
        tmp_path / "zzz.npz", names=theirs, features=values, dtype="float32", digest=_digest(theirs, values, "float32")
    )
    found, kept = shelf.take(names)
    assert good.name < "zzz.npz" and found.all() and torch.equal(kept, features)
    assert "zzz.npz: its features are" in capsys.readouterr().err


@pytest.mark.parametrize(("call", "doing"), [(1, "encoding two drawn pictures"), (3, "encoding")])
def test_an_encoder_whose_code_fails_is_named(call, doing, tmp_path):
    config, detector, calls = config_of(tmp_path), probe(), []

    def fails(images):
        calls.append(len(images))
        if len(calls) == call:
            raise KeyError("x")
        return type(detector).encode(detector, images)

    detector.encode = fails
    with pytest.raises(UserError, match=rf"detector 'clip_probe' .*failed while {doing} \(.*test_encode_once"):
        encoded(config, detector=detector)


def test_what_was_encoded_before_a_stop_is_not_encoded_again(tmp_path, counted, monkeypatch):
    from resproto_fd.trainer import encoded as module

    monkeypatch.setattr(module, "FRAMES_A_FILE", 10)
    config, calls = config_of(tmp_path), []

    def stops(images):
        calls.append(len(images))
        if len(calls) == 6:  # the example, then four batches of five frames
            raise KeyboardInterrupt
        return type(detector).encode(detector, images)

    detector = probe()
    detector.encode = stops
    with pytest.raises(KeyboardInterrupt):
        encoded(config, detector=detector)
    assert len(shelf_files(tmp_path)) == 2
    assert not list(tmp_path.rglob("*.part"))
    counted.taken()
    whole = encoded(config)
    assert counted.taken() == 20 + 2  # the other 16 frames
    shutil.rmtree(tmp_path / "encoded")
    assert torch.equal(whole.features[False], encoded(config).features[False])


@pytest.mark.slow
def test_unreadable_frames_are_replaced_and_counted_as_with_pictures(tmp_path):
    broken = MadeStore(broken=[frames_of("train").paths[i] for i in (4, 5, 35)])
    skip = {"on_bad_frame": "skip"}
    results = []
    for name, once in (("plain", False), ("ours", True), ("again", str(tmp_path / "ours" / "encoded"))):
        config = config_of(tmp_path / name, once, augment="flip")
        config = config.model_copy(update={"data": config.data.model_copy(update=skip)})
        results.append(run_of(config, store=broken))
    plain, *others = results
    for ours in others:
        assert_same(ours, plain)
        assert ours[2].progress.bad_frames == plain[2].progress.bad_frames == [4, 5, 35]
    with pytest.raises(UserError, match=r"training stops at step .* is broken"):
        run_of(config_of(tmp_path / "strict"), store=broken)


@pytest.mark.slow
def test_a_run_goes_on_from_its_checkpoint_with_kept_features(tmp_path):
    plain = run_of(config_of(tmp_path / "plain", False, augment="flip"))
    config = config_of(tmp_path / "ours", augment="flip")
    first = config.model_copy(update={"run": config.run.model_copy(update={"save_every": 1})})
    stopped, steps = probe(), []
    head = stopped.head

    def stops(features, labels=None, **fields):
        steps.append(labels is not None)
        if sum(steps) == 6:
            raise KeyboardInterrupt
        return head(features, labels, **fields)

    stopped.head = stops
    with pytest.raises(KeyboardInterrupt):
        run_of(first, detector=stopped)
    assert_same(run_of(config), plain)


@pytest.mark.parametrize(
    ("detector", "augment", "words"),
    [("clip", "none", "ClipClassifier trains"), ("clip_probe", "resproto_fd", "set none or flip")],
)
def test_where_a_frame_must_be_encoded_each_time_a_note_says_so(detector, augment, words, tmp_path, capsys):
    config = config_of(tmp_path)
    data = pictures(config, augment=augment)
    kept = EncodeOnce(tmp_path / "encoded", config, HERE)
    for _ in range(2):
        assert kept.of(data, probe(name=detector), passing(config)) is data
    assert capsys.readouterr().err.count(words) == 1
    assert not list(tmp_path.iterdir())


def test_a_part_that_is_declared_fixed_and_trains_is_refused(tmp_path):
    detector = probe()
    detector.clip.requires_grad_(True)
    with pytest.raises(ValueError, match="trains; freeze it"):
        encoder_tensors(detector)
    detector.fixed_encoder = ("tower",)
    with pytest.raises(ValueError, match="has no state"):
        encoder_tensors(detector)


@pytest.mark.slow
def test_an_encoder_that_rounds_by_the_size_of_a_batch_differs_by_rounding_alone(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(7)
        detector = create_detector("clip_probe", **TINY_RESNET)
    config = config_of(tmp_path)
    data = pictures(config)
    kept = encoded(config, detector=detector).features[False]
    images = torch.stack([data[0, i]["image"] for i in range(len(data))])
    with torch.no_grad():
        seen = torch.cat([detector.eval().encode(passing(config).normalise(part)) for part in images.split(1)])
    torch.testing.assert_close(kept, seen, rtol=1e-5, atol=1e-6)


WORDS = ["--detector", "clip_probe_tiny", "--protocol", "demo_cross", "run.progress=false", "run.workers=0"]
WORDS += ["train.epochs=2", "train.augment=flip", "train.batch_size=16"]


def numbers(out):
    (path,) = out.rglob("result.json")
    result = json.loads(path.read_text())
    kept = {name: result[name] for name in ("tests", "tensors_sha256", "selected_on", "fingerprint", "overrides")}
    return kept, result["timing"]


@pytest.mark.slow
def test_a_command_with_kept_features_writes_the_same_numbers(demo, tmp_path, capsys):
    words = [*WORDS, f"data.root={demo}"]
    assert main(["train", *words, f"run.out={tmp_path / 'plain'}"]) == 0
    assert main(["train", *words, f"run.out={tmp_path / 'ours'}", "run.encode_once=true"]) == 0
    assert numbers(tmp_path / "ours")[0] == numbers(tmp_path / "plain")[0]
    again = ["train", *words, f"run.out={tmp_path / 'again'}", f"run.encode_once={tmp_path / 'ours' / 'encoded'}"]
    assert main(again) == 0
    assert numbers(tmp_path / "again")[0] == numbers(tmp_path / "plain")[0]
    assert not (tmp_path / "again" / "encoded").exists()
    for name, has_rates in (("plain", True), ("ours", False), ("again", False)):
        (path,) = (tmp_path / name).rglob("result.json")
        timing = json.loads(path.read_text())["timing"]
        assert timing["test_seconds"] > 0 and any(key.endswith("per_second") for key in timing) == has_rates


@pytest.mark.slow
def test_two_processes_share_the_encoding(demo, tmp_path):
    words = [*WORDS, f"data.root={demo}", "run.device=cpu"]
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
    for name, more in (("plain", []), ("ours", ["run.encode_once=true"])):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        command += ["training/train.py", *words, f"run.out={tmp_path / name}", *more]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert numbers(tmp_path / "ours")[0] == numbers(tmp_path / "plain")[0]


def test_a_folder_that_only_a_saved_run_names_is_not_written_to(tmp_path):
    folder = tmp_path / "made" / "clip_probe" / "seed0"
    folder.mkdir(parents=True)
    config = config_of(tmp_path, str(tmp_path / "elsewhere"))
    (folder / "config.yaml").write_text(dump(config))
    for words, wanted in (([], False), (["run.encode_once=true"], True), (["run.encode_once=mine"], "mine")):
        parser = argparse.ArgumentParser()
        test.add_arguments(parser)
        args = parser.parse_args(["--run", str(folder), *words])
        assert arguments.saved_config(args).run.encode_once == wanted
