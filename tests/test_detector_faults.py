"""A detector whose own code fails: an error that names it and the line, with what was raised kept behind it."""

import json

import pytest
import torch
from made import TinyDetector, made_config, made_dataset
from tiny import quick_and_slow

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.clip_zero_shot import ClipZeroShot
from resproto_fd.trainer.data import Normaliser
from resproto_fd.trainer.detector_faults import faults_of
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.scoring import ScoringOptions, score_frames
from resproto_fd.trainer.trainer import Trainer
from resproto_fd.training.cli import main

CPU = World(0, 1, torch.device("cpu"))


class Strange(Exception):
    pass


class Stranger(BaseException):
    """What no `except Exception` catches."""


class Faulty(TinyDetector):
    """Fails in one of its methods, or gives what is no score."""

    def __init__(self, where: str, error: BaseException | None = None):
        super().__init__()
        self.where, self.error = where, error

    def fail(self, where: str):
        if where == self.where and self.error is not None:
            raise self.error

    def head(self, features, labels=None, **fields):
        self.fail("head")
        output = super().head(features, labels, **fields)
        if self.where == "no output":
            return output.scores
        if self.where == "two columns":
            output.scores = output.logits
        if self.where == "no losses":
            output.losses = None
        return output

    def start_training(self, class_counts):
        self.fail("start_training")

    def start_epoch(self, epoch):
        self.fail("start_epoch")

    def after_step(self):
        self.fail("after_step")

    def diagnostics(self):
        self.fail("diagnostics")
        return {}


def train(detector, folder):
    Trainer(detector, made_dataset(made_config()), made_config(), CPU, folder, None, "f").fit()


def score(detector, keep_features=False):
    normaliser = Normaliser([0.5] * 3, [0.5] * 3, CPU.device, torch.float32, False)
    options = ScoringOptions(4, progress=False, keep_features=keep_features)
    return score_frames(detector, made_dataset(made_config(), split="test"), normaliser, CPU, options)


@pytest.mark.parametrize(
    "error", [Strange("why"), KeyError("x"), StopIteration(), SystemExit(3), Stranger("why"), OSError(5, "x")]
)
def test_what_a_detector_raises_while_it_scores_names_it_and_is_kept(error):
    with pytest.raises(UserError, match=r"detector 'Faulty' .*failed while scoring \(.*test_detector_faults") as found:
        score(Faulty("head", error))
    assert found.value.__cause__ is error


def test_the_line_is_the_detectors_where_pythons_own_code_raises():
    class Reading(TinyDetector):
        def head(self, features, labels=None, **fields):
            return json.loads("no JSON")

    with pytest.raises(UserError, match=r"\(.*test_detector_faults\.py, line \d+\): JSONDecodeError"):
        score(Reading())


@pytest.mark.parametrize("where", ["head", "start_training", "start_epoch", "after_step", "diagnostics"])
def test_what_a_detector_raises_while_it_trains_names_it_and_is_kept(where, tmp_path):
    error = Strange("why")
    with pytest.raises(UserError, match=r"detector 'Faulty' .*Strange: why") as found:
        train(Faulty(where, error), tmp_path)
    assert found.value.__cause__ is error


@pytest.mark.parametrize("keep_features", [False, True])
@pytest.mark.parametrize(
    ("what", "says"),
    [("no output", "has no attribute 'scores'"), ("two columns", r"expected scores of shape \[4\].* got \[4, 2\]")],
)
def test_what_is_no_output_of_scores_is_told(what, says, keep_features):
    with pytest.raises(UserError, match=f"detector 'Faulty' .*{says}"):
        score(Faulty(what), keep_features)


def test_a_detector_without_losses_cannot_train(tmp_path):
    with pytest.raises(UserError, match=r"detector 'Faulty' .*failed while training, step 1"):
        train(Faulty("no losses"), tmp_path)


def test_a_full_device_has_a_remedy_and_the_end_of_another_process_is_not_the_detectors_fault():
    remedy = r"memory was full while scoring; set a smaller train\.batch_size"
    with pytest.raises(UserError, match=remedy), faults_of(TinyDetector(), "scoring"):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(RuntimeError, match="gloo"), faults_of(TinyDetector(), "scoring"):
        raise RuntimeError("[gloo/transport/tcp/pair.cc] Connection closed by peer")


@pytest.mark.parametrize("images", quick_and_slow([1, 2], [1]), ids=["any picture", "several pictures"])
def test_a_command_ends_with_2_and_names_the_detector(demo, tmp_path, monkeypatch, capsys, images):
    head = ClipZeroShot.head

    def broken(self, features, *args, **fields):
        if len(features) >= images:
            raise Strange("why")
        return head(self, features, *args, **fields)

    monkeypatch.setattr(ClipZeroShot, "head", broken)
    words = ["--detector", "clip_zero_shot_tiny", "--protocol", "demo_cross", "--test_dataset", "Demo-B"]
    quick = ["run.workers=0", "run.device=cpu", "run.progress=false", f"data.root={demo}"]
    assert main(["test", *words, "--out", str(tmp_path), *quick]) == 2
    assert "error: detector 'clip_zero_shot' (resproto_fd.detectors.clip_zero_shot" in capsys.readouterr().err
