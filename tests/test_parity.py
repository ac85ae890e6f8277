"""DeepfakeBench's checkpoints: every key loads, and the numbers are those of its own code (made weights, seed 1)."""

import json

import numpy as np
import pytest
import torch
from made import PlainStep
from tiny import quick_and_slow
from torch.nn import functional as F

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector
from resproto_fd.detectors.weights import without_pretrained

TOLERANCES = {
    "xception": 6e-6,
    "efficientnetb4": 7e-6,
    "resnet34": 7e-6,
    "meso4": 3e-6,
    "meso4Inception": 3e-6,
    "tall": 3e-6,
    "stil": 3e-6,
    "timesformer": 4e-6,
    "videomae": 3e-6,
    "xclip": 3e-6,
    "spsl": 5e-6,
    "srm": 2e-5,
    "ucf": 3e-6,
    "recce": 3e-6,
    "f3net": 7e-6,
    "ffd": 9e-6,
    "sbi": 7e-6,
    "capsule_net": 3e-6,
    "multi_attention": 6e-6,
    "sia": 1e-4,
    "lrl": 4e-6,
    "clip": 3e-6,
    "core": 6e-6,
    "rfm": 6e-6,
    "pcl_xception": 6e-6,
    "sladd": 6e-6,
    "fwa": 6e-6,
    "effort": 4e-6,
    "uia_vit": 6e-6,
    "facexray": 7e-6,
    "iid": 2e-5,
    "lsda": 3e-6,
    "i3d": 3e-6,
    "altfreezing": 3e-6,
    "ftcn": 4e-6,
}
"""Detector -> largest relative difference of logits, scores and loss, from the data's own account of float32 noise."""


OWN_LOSSES = {"capsule_net", "core", "iid", "lrl", "lsda", "srm", "ucf"}
"""Those whose loss is not the cross-entropy of the logits alone."""

SAME_FEATURES = {"timesformer", "videomae", "xclip"}
"""Those whose features are the tensor that DeepfakeBench hands out as such."""

BATCH_COUPLED = {"iid", "sia"}
"""Those whose scores depend on the batch in DeepfakeBench, and here if `batch_coupled` says so."""


def test_the_presets_that_promise_it_are_those_tested_here():
    assert {name for name in loading.names("detectors") if loading.load("detectors", name).deepfakebench} == {
        *TOLERANCES
    }


def checkpoint(parity, name: str, seed: int = 1) -> dict[str, torch.Tensor]:
    folder, recipe = parity
    keys = json.loads((folder / "keys" / f"{name}.json").read_text())
    return {key: torch.from_numpy(np.array(value)) for key, value in recipe.fill(keys, seed).items()}


def apart(found, wanted) -> float:
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def second_pictures(recipe, golden) -> dict[str, torch.Tensor]:
    """What the golden numbers of a detector with two inputs were made with."""
    size, count = golden["input"]["size"], golden["input"]["n"]
    frequencies = torch.from_numpy(recipe.images(1001, count, size))[:, :1]
    return {"frequencies": frequencies} if "idct" in golden["input"] else {}


def pictures(recipe, golden) -> torch.Tensor:
    """What the golden numbers were made with: pictures, or clips of as many frames as they say."""
    size, count, frames = golden["input"]["size"], golden["input"]["n"], golden["input"].get("frames")
    images = torch.from_numpy(recipe.images(1, count * (frames or 1), size))
    return images.unflatten(0, (count, frames)) if frames else images


def logits_of(golden_scores) -> torch.Tensor:
    """Logits [B, 2] from class scores: of one column they are probabilities of "fake"."""
    scores = torch.tensor(golden_scores, dtype=torch.float64)
    return F.pad(scores.logit(), (1, 0)) if scores.shape[1] == 1 else scores


def make(name: str, **keywords):
    with without_pretrained():
        return create_detector(name, pretrained=None, **keywords)


QUICK = {"meso4", "meso4Inception"}
"""Detectors that are compared in the default tier; the others are in the slow one."""


@pytest.mark.real
@pytest.mark.parametrize("name", quick_and_slow(TOLERANCES, QUICK))
def test_a_checkpoint_loads_whole_and_gives_deepfakebenchs_numbers(parity, name):
    folder, recipe = parity
    golden = json.loads((folder / "golden" / f"{name}_seed1.json").read_text())
    images, labels = pictures(recipe, golden), torch.tensor(golden["labels"])
    detector = make(name, **({"batch_coupled": True} if name in BATCH_COUPLED else {}))
    detector.load_deepfakebench(checkpoint(parity, name)).eval()
    second = second_pictures(recipe, golden)
    with torch.no_grad():
        output, alone = detector(images, **second), detector(images[:1], **{k: v[:1] for k, v in second.items()})
    assert apart(output.logits, logits_of(golden["eval"]["cls"])) < TOLERANCES[name]
    assert apart(output.scores, np.ravel(golden["eval"]["prob"])) < TOLERANCES[name]
    assert apart(alone.logits, logits_of(golden["eval_single"]["cls"])) < 2 * TOLERANCES[name]
    if name not in OWN_LOSSES:
        assert F.cross_entropy(output.logits, labels).item() == pytest.approx(golden["eval_loss"]["overall"], rel=1e-5)
    if name in SAME_FEATURES:
        assert apart(output.features.flatten()[:8], golden["eval"]["feat"]["first"]) < TOLERANCES[name]


STEPS = {
    "effort": {},
    "uia_vit": {},
    "xception": {},
    "sbi": {},
    "capsule_net": {"train_vgg": True, "noise": 0.0, "dropout": 0.0},
    "multi_attention": {},
    "sia": {"batch_coupled": True},
    "lrl": {"drop_path": 0.0},
    "resnet34": {},
    "tall": {"mask": 0, "options": {"drop_path_rate": 0.0}},
    "stil": {},
    "timesformer": {},
    "videomae": {},
    "xclip": {},
    "meso4": {},
    "meso4Inception": {},
    "spsl": {},
    "srm": {},
    "recce": {"reconstruction": 0.0, "metric": 0.0, "noise": 0.0},
    "f3net": {},
    "ffd": {},
    "core": {"pairs": "halves"},
    "rfm": {"boxes": 0},
    "fwa": {},
    "pcl_xception": {"consistency": 1.0, "first_column_bug": True},
    "sladd": {"mask_weight": 0.0},
    "i3d": {},
    "altfreezing": {},
    "ftcn": {},
}
"""Detector -> keywords that give DeepfakeBench's training loss."""

STEP_TOLERANCES = {"srm": (9e-5, 2e-2), "i3d": (2e-5, 1e-3), "altfreezing": (2e-5, 1e-3)}
"""Detector -> relative differences of loss and gradient norm, where float32 noise is larger than elsewhere."""


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("name", quick_and_slow(STEPS, QUICK))
def test_a_training_step_has_deepfakebenchs_loss_and_gradient(parity, name):
    folder, recipe = parity
    golden = json.loads((folder / "golden" / f"{name}_seed1.json").read_text())
    size, count, images = golden["input"]["size"], golden["input"]["n"], pictures(recipe, golden)
    mask = torch.from_numpy(recipe.images(2001, count, size))[:, :1] > 0.5
    detector = make(name, **STEPS[name]).load_deepfakebench(checkpoint(parity, name)).train()
    for module in detector.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    fields = {"mask": mask.float()} if "mask" in detector.requires else {}
    fields |= second_pictures(recipe, golden)
    losses = detector.training_step(detector, PlainStep, images, torch.tensor(golden["labels"]), **fields)
    loss_tolerance, norm_tolerance = STEP_TOLERANCES.get(name, (1e-5, 2e-3))
    assert losses["total"].item() == pytest.approx(golden["train"]["overall"], rel=loss_tolerance)
    norm = torch.sqrt(sum(p.grad.square().sum() for p in detector.parameters() if p.grad is not None)).item()
    assert norm == pytest.approx(golden["train"]["grad_norm"], rel=norm_tolerance)


@pytest.mark.real
def test_prefixes_of_parallel_training_are_taken_off(parity):
    state = checkpoint(parity, "meso4")
    images = torch.from_numpy(parity[1].images(1, 2, 256))
    expected = make("meso4").load_deepfakebench(state).eval()(images).logits
    wrapped = {f"module.{key}": value for key, value in state.items()}
    assert torch.equal(make("meso4").load_deepfakebench(wrapped).eval()(images).logits, expected)


@pytest.mark.slow
@pytest.mark.real
def test_the_index_table_of_older_clip_files_is_taken_off(parity):
    clip = checkpoint(parity, "clip")
    clip["backbone.embeddings.position_ids"] = torch.arange(197)
    make("clip").load_deepfakebench(clip)


@pytest.mark.real
def test_a_checkpoint_of_another_detector_or_with_a_key_too_few_is_refused_by_name(parity):
    state = checkpoint(parity, "meso4")
    with pytest.raises(UserError, match="does not fit Timm: "):
        make("xception").load_deepfakebench(state)
    del state["backbone.fc1.bias"]
    with pytest.raises(UserError, match=r"fc1\.bias \[16\] is missing"):
        make("meso4").load_deepfakebench(state)


def test_a_detector_that_deepfakebench_lacks_says_so():
    detector = create_detector("chance")
    with pytest.raises(UserError, match="Chance has no counterpart in DeepfakeBench"):
        detector.load_deepfakebench({"a": torch.zeros(1)})


@pytest.mark.slow
@pytest.mark.real
def test_unused_adjust_channel_weights_are_left_out_and_nothing_else(parity):
    state = checkpoint(parity, "xception")
    detector = make("xception")
    used = detector.from_deepfakebench(state)
    left_out = {key for key in state if key.startswith("backbone.adjust_channel.")}
    assert len(used) == len(state) - len(left_out)
    assert set(used) == set(detector.state_dict())
