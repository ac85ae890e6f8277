"""Detector classes written for DeepfakeBench's interface, run by our trainer."""

import numpy as np
import pytest
import torch
from made import SIZE, made_config, made_dataset
from torch import nn

from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.trainer.data import Normaliser
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.scoring import ScoringOptions, score_frames
from resproto_fd.trainer.trainer import Trainer

IMAGES = torch.randn(5, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 1, 0, 1])
CPU = World(0, 1, torch.device("cpu"))


def wrapped(**answers):
    torch.manual_seed(0)
    detector = create_detector("deepfakebench_class", target="made:PeerDetector", config={"width": 6})
    detector.model.answers = answers
    return detector


@pytest.mark.slow
def test_our_trainer_fits_it_and_scores_with_it(tmp_path):
    config = made_config(epochs=30)
    detector, data = wrapped(), made_dataset(config)
    Trainer(detector, data, config, CPU, tmp_path).fit()
    assert detector.model.epoch == 29
    normalise = Normaliser([0.5] * 3, [0.5] * 3, CPU.device, torch.float32, False)
    found = score_frames(
        detector, made_dataset(config, split="test"), normalise, CPU, ScoringOptions(5, progress=False)
    )
    labels = np.asarray(data.frames.labels)
    assert found.scores[labels == 1].min() > found.scores[labels == 0].max()


def test_it_is_given_labels_and_masks_in_training_alone():
    detector, mask = wrapped().train(), torch.ones(5, 1, SIZE, SIZE)
    output = detector(IMAGES, LABELS, mask=mask)
    assert {*output.losses} == {"total", "cls"}
    seen, masks, inference = detector.model.given.pop()
    assert torch.equal(seen, LABELS)
    assert masks is mask
    assert not inference
    detector(IMAGES)
    evaluated = detector.eval()(IMAGES, LABELS)
    assert torch.equal(evaluated.losses["total"], output.losses["total"])
    for seen, masks, inference in detector.model.given:
        assert not seen.any()
        assert masks is None
        assert inference
    assert create_detector(
        "deepfakebench_class", target="made:PeerDetector", config={"width": 6, "with_mask": True}
    ).requires == {"mask"}


def test_a_missing_score_is_computed_and_a_given_one_is_kept():
    output = wrapped().eval()(IMAGES)
    torch.testing.assert_close(output.scores, output.logits.softmax(1)[:, 1])
    given = torch.linspace(0, 1, 5, dtype=torch.float64)
    for form in (given, given[:, None]):
        output = wrapped(prob=form, feat=given).eval()(IMAGES)
        assert torch.equal(output.scores, given.float())
        assert output.scores.dtype == torch.float32
        assert output.features.shape == (5, 1)


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"cls": torch.zeros(5, 3)}, r"made:PeerDetector: expected cls of shape \[5, 2\] \(real, fake\), got \[5, 3\]"),
        ({"cls": torch.zeros(4, 2)}, r"expected cls of shape \[5, \.\.\.\], got \[4, 2\]"),
        ({"cls": None}, r"expected cls .*, got missing"),
        ({"feat": [1]}, r"expected feat of shape \[5, \.\.\.\], got list"),
        ({"prob": torch.zeros(5, 2)}, r"expected prob of shape \[5\], got \[5, 2\]"),
        ({"prob": torch.tensor([0.5, torch.nan, 0.5, torch.nan, 1.0])}, "other values for 2 of 5 images, first nan"),
        ({"prob": torch.tensor([0.5, 0.5, 7.0, 0.5, 0.5])}, r"other values for 1 of 5 images, first 7 where cls is \["),
    ],
)
def test_an_answer_of_another_form_is_named(answers, message):
    with pytest.raises(UserError, match=message):
        wrapped(**answers).eval()(IMAGES)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        ({"cls": torch.zeros(())}, "expected get_losses to return 'overall', got cls"),
        (None, "expected get_losses to return 'overall', got NoneType"),
        ({"overall": torch.zeros(5)}, r"expected loss 'overall' to be a scalar tensor, got \[5\]"),
        ({"overall": torch.zeros(()), "mse": 0.5}, "expected loss 'mse' to be a scalar tensor, got float"),
    ],
)
def test_a_loss_of_another_form_is_named(losses, message):
    detector = wrapped()
    detector.model.get_losses = lambda data_dict, pred_dict: losses
    with pytest.raises(UserError, match=message):
        detector(IMAGES, LABELS)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    config, detector = made_config(epochs=1), wrapped()
    detector.model.get_losses = lambda data_dict, pred_dict: {"overall": pred_dict["cls"].sum() * torch.nan}
    with pytest.raises(UserError, match="loss or gradient is not finite"):
        Trainer(detector, made_dataset(config), config, CPU, tmp_path).fit()


def test_a_checkpoint_made_there_loads():
    source, detector = wrapped().model, wrapped()
    nn.init.ones_(source.last.weight)
    state = {f"module.{key}": value for key, value in source.state_dict().items()}
    detector.load_deepfakebench(state)
    assert torch.equal(detector.model.last.weight, source.last.weight)
    with pytest.raises(UserError, match=r"model\.last\.weight \[2, 6\] is missing"):
        detector.load_deepfakebench({"body.weight": source.body.weight})


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"target": "made"}, "expected a target of the form package.module:Class, got 'made'"),
        ({"target": "maid:PeerDetector"}, "maid cannot be imported: No module named 'maid'; .* into PYTHONPATH"),
        ({"target": "made:PeerDetektor"}, "made has no PeerDetektor; the nearest is 'PeerDetector'"),
        (
            {"target": "made:PeerDetector", "config": {"depth": 1}},
            "expected 'width' in config, got depth",
        ),
        ({"target": "made:dict"}, "made has no dict"),
        ({"target": "made:made_videos", "config": {}}, "expected a torch.nn.Module, got the function made_videos"),
        ({"target": "builtins:exit", "config": {}}, "expected a torch.nn.Module, got the Quitter exit"),
    ],
)
def test_a_class_that_cannot_be_had_is_named(keywords, message):
    with pytest.raises(UserError, match=message):
        create_detector("deepfakebench_class", **keywords)


def test_the_configuration_may_be_a_file(tmp_path):
    (tmp_path / "their.yaml").write_text("width: 3\n")
    detector = create_detector("deepfakebench_class", target="made:PeerDetector", config=str(tmp_path / "their.yaml"))
    assert detector.model.last.in_features == 3


@pytest.mark.parametrize("end", ["raise SystemExit(3)", "class Own(BaseException): ...\nraise Own", "1 / 0"])
def test_a_package_that_ends_its_import_is_named(tmp_path, monkeypatch, end):
    (tmp_path / "ends_at_import.py").write_text(end + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"target 'ends_at_import:Any': ends_at_import cannot be imported"):
        create_detector("deepfakebench_class", target="ends_at_import:Any")


def test_what_is_no_module_is_refused():
    with pytest.raises(UserError, match=r"expected a torch\.nn\.Module, got OrderedDict"):
        create_detector("deepfakebench_class", target="collections:OrderedDict")


class Ends(BaseException):
    """What no `except Exception` catches."""


class Failing(nn.Module):
    """A class whose constructor raises."""

    def __init__(self, config):
        raise config["raises"]


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit("bye"), Ends("x"), ZeroDivisionError("by zero")], ids=repr)
def test_whatever_a_constructor_raises_is_named(error):
    said = f": {error}" if str(error) else ""
    with pytest.raises(UserError, match=rf"Failing: its constructor failed: {type(error).__name__}{said}; "):
        create_detector("deepfakebench_class", target=f"{__name__}:Failing", config={"raises": error})


class WithoutItsFile(nn.Module):
    """A class whose constructor reads a file of weights that is not there."""

    def __init__(self, config):
        super().__init__()
        torch.load(config["pretrained"], weights_only=True)


def test_a_class_whose_file_is_missing_is_named_with_the_file():
    with pytest.raises(UserError, match=r"finds no file gone\.pth; paths in its YAMLs are relative to the checkout"):
        create_detector("deepfakebench_class", target=f"{__name__}:WithoutItsFile", config={"pretrained": "gone.pth"})
