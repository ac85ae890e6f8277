"""Every registered detector in the small form of its preset, and further forms of some, for the tests that all pass."""

import copy
from contextlib import contextmanager
from functools import lru_cache
from inspect import signature
from unittest import mock

import pytest
import torch
from timm.models.efficientnet import EfficientNet
from timm.models.xception import Xception

from resproto_fd.configs import loading
from resproto_fd.detectors import create_detector, registry

TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VIT = {"embed_dim": 12, "vision_cfg": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}}
RESNET = {"embed_dim": 12, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32}}
BACKBONES = {"tiny_vit": {**VIT, "text_cfg": TEXT}, "tiny_resnet": {**RESNET, "text_cfg": TEXT}}
"""What `tiny:` of a preset calls by name."""

TINY_VIT = {"backbone": BACKBONES["tiny_vit"], "pretrained": None}
TINY_RESNET = {"backbone": BACKBONES["tiny_resnet"], "pretrained": None}
TINY_TIMM_CLIP = {
    "backbone": {"embed_dim": 12, "vision_cfg": {"timm_model_name": "test_resnet", "image_size": 32}, "text_cfg": TEXT},
    "pretrained": None,
}
TINY_LSDA = {"pretrained": None, "methods": ["real", "fake"], "blocks": [1, 1, 1, 1], "widths": [8, 8, 8, 512]}

IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 1, 0, 1, 1])


def quick_and_slow(cases, quick):
    """Test parameters: those among `quick` for the default tier, the others for the slow one."""
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow) for case in cases]


@lru_cache
def _presets() -> list:
    return [loading.load("detectors", preset) for preset in loading.names("detectors")]


def tiny(name: str) -> dict:
    """Keywords that make a class small: `tiny` of the preset of its name, else of another preset of the class."""
    own = sorted((preset for preset in _presets() if preset.detector == name), key=lambda preset: preset.name != name)
    keywords = dict(next((preset.tiny for preset in own if preset.tiny), {}))
    if keywords.get("backbone") in BACKBONES:
        keywords["backbone"] = BACKBONES[keywords["backbone"]]
    return keywords


VARIANTS = {
    "resproto_fd, ResNet, dot": {**TINY_RESNET, "start_epoch": 0, "similarity": "dot", "clusters": 2},
    "resproto_fd, cross-entropy, no memory": {**TINY_TIMM_CLIP, "loss": "ce", "grp": False},
    "resproto_fd, no residual": {**TINY_VIT, "residual": False, "keep_text_tower": True},
    "clip, sample pairs": {**TINY_VIT, "sample_pairs": 6},
    "core, halves": {**tiny("core"), "pairs": "halves"},
    "mfclip, image alone": {**tiny("mfclip"), "noise": False, "text": False},
    "f3net, one branch": {**tiny("f3net"), "paper": False},
    "ucf, cross-entropy": {**tiny("ucf"), "multi_task": False},
    "recce, cross-entropy": {**tiny("recce"), "reconstruction": 0.0, "metric": 0.0},
    "srm, logits": {**tiny("srm"), "paper": False},
    "gm_df, post": {**TINY_VIT, "norm": "post", "conv_stem": True, "experts": False, "mim": 0.0},
    "sd2, ResNet": {**TINY_RESNET, "lora_rank": None, "labels": "simple"},
    "sd2, all trains, no clam": {**TINY_RESNET, "lora_rank": None, "clam": False, "labels": "simple"},
    "effort, two values, no constraint": {**TINY_VIT, "rank": 2, "constraint_weight": 0.0},
    "freqnet, phase": {"spectra": "amplitude and phase"},
    "facexray, DeepfakeBench's": {**tiny("facexray"), "paper": False, "size": 32},
    "lsda, a teacher": TINY_LSDA,
}
"""Further forms: the class's name, what is special, and the keywords."""


def cases() -> dict[str, tuple[str, dict]]:
    """Name of each case -> (class, keywords): all registered classes, then the variants."""
    found = {name: (name, tiny(name)) for name in registry.class_names()}
    found["deepfakebench_class"] = ("deepfakebench_class", {"target": "made:PeerDetector", "config": {"width": 6}})
    return found | {case: (case.split(",")[0], keywords) for case, keywords in VARIANTS.items()}


CASES = cases()


CLIP = 4
"""Frames of the clips for detectors whose constructor has no keyword `frames`."""


def clip_frames(case: str) -> int:
    """T of a case that takes clips: `frames` of its keywords or of its constructor, else `CLIP`; 1 of other cases."""
    name, keywords = CASES[case]
    if not registry.detector_class(name).clips:
        return 1
    return keywords.get("frames", registry.defaults_of(name).get("frames", CLIP))


def images_of(case: str) -> torch.Tensor:
    """Normalised pictures for a case, [6, 3, 32, 32], or clips, [6, T, 3, 32, 32]."""
    frames = clip_frames(case)
    if frames == 1:
        return IMAGES
    return torch.randn(6, frames, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def trains(case: str) -> bool:
    """Whether a case has parameters that train, as the preset of its class tells."""
    name, _ = CASES[case]
    preset = loading.load("detectors", name) if name in loading.names("detectors") else None
    return preset is None or preset.trainable != 0


def build(case: str, seed: int = 0):
    """The detector of a case, without most of the blocks that its network repeats."""
    name, keywords = CASES[case]
    torch.manual_seed(seed)
    with thin():
        return shallow(registry._construct(name, keywords, case))


def thin_detector(name: str, **keywords):
    """A detector of any class whose network is thin and shallow."""
    with thin():
        return shallow(create_detector(name, **keywords))


@contextmanager
def thin():
    """Convolutions of many channels that are built within have eight groups, so an eighth of their weights."""
    whole = torch.nn.Conv2d.__init__

    def grouped(self, *args, **keywords):
        given = signature(whole).bind(self, *args, **keywords).arguments
        channels = given["in_channels"], given["out_channels"]
        if min(channels) >= 64 and not any(count % 8 for count in channels) and given.get("groups", 1) == 1:
            given["groups"] = 8
        whole(**given)

    with mock.patch.object(torch.nn.Conv2d, "__init__", grouped):
        yield


def shallow(detector):
    """Without most of the blocks that networks repeat, to save time.

    Of the eight blocks in the middle of Xception two stay; of each stage of EfficientNet-B4 the first.
    """
    for module in detector.modules():
        if isinstance(module, Xception):
            for number in (4, 5, 6, 8, 9, 10):
                setattr(module, f"block{number}", torch.nn.Identity())
        if isinstance(module, EfficientNet) and module.num_features == 1792:
            for stage in module.blocks:
                for place in range(1, len(stage)):
                    stage[place] = torch.nn.Identity()
    return detector


# The tests of a case run one after another (its fixtures are the module's), so that it is built once for all of them.
_built = lru_cache(maxsize=2)(build)


def make(case: str, seed: int = 0):
    """A copy of the detector of a case, which is built once."""
    detector = copy.deepcopy(_built(case, seed))
    torch.manual_seed(seed)
    return detector


@lru_cache(maxsize=1)
@torch.no_grad()
def first_step(case: str):
    """The detector after one training step's forward, in evaluation mode, and the output of that forward.

    The detector then has all the state it may have. It is one for all tests of a case, which evaluate it and no more.
    """
    detector = make(case)
    detector.start_training(torch.tensor([2, 4]))
    detector.train().start_epoch(0)
    output = detector(images_of(case), LABELS)
    return detector.eval(), output


def trained_a_little(case: str):
    """The detector of `first_step`."""
    return first_step(case)[0]
