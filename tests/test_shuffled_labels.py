"""Trained on shuffled labels, SD2 and MFCLIP learn nothing: what they are told of a frame goes with its label."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from made import MadeStore, made_config, made_videos
from sklearn.metrics import roc_auc_score
from tiny import TINY_RESNET, tiny

from resproto_fd.detectors import registry
from resproto_fd.trainer.augment.transforms import plain_transform
from resproto_fd.trainer.data import FrameDataset, Normaliser
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.fields import batch_fields
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.trainer.scoring import ScoringOptions, score_frames
from resproto_fd.trainer.trainer import Trainer

SIDE = 32
KINDS = {"DDPM": "entire synthesis", "Deepfakes": "face swap"}
KEYWORDS = {
    "sd2": {**TINY_RESNET, "lora_rank": None, "labels": "simple"},
    "mfclip": {**tiny("mfclip"), "width": 32, "channels": [8, 16, 24, 32, 48], "heads": 4},
}
RECIPES = {
    "sd2": {"epochs": 3, "optimizer": {"lr": 3e-3, "fused": False}},
    "mfclip": {"epochs": 6, "optimizer": {"name": "adamw", "lr": 2e-3, "fused": False}},
}
WORLD = World(0, 1, torch.device("cpu"))


class Marked(MadeStore):
    """Noise; fakes are brighter, so that the classes are easily told apart."""

    def read(self, path: str) -> np.ndarray:
        rng = np.random.default_rng(list(path.encode()))
        image = rng.integers(60, 160, (SIDE, SIDE, 3)) + 60 * ("/fake" in path)
        return image.astype(np.uint8)


def frames_of(split: str) -> FrameList:
    """64 real and 64 fake frames, the fakes by two methods in turn."""
    videos, methods = made_videos(64, 2, split), list(KINDS)
    for place, video in enumerate(videos):
        if video.label:
            method = methods[place // 2 % 2]
            videos[place] = replace(video, method=method, forgery_type=KINDS[method])
    return FrameList.of(videos, None)


def crossed(frames: FrameList, seed: int) -> np.ndarray:
    """A permutation after which half of each class has facts of the other, so that labels tell nothing of pictures."""
    rng = np.random.default_rng(seed)
    real, fake = (rng.permutation(np.flatnonzero(frames.labels == label)) for label in (0, 1))
    order, half = np.arange(len(frames)), len(real) // 2
    order[real[:half]], order[fake[:half]] = fake[:half], real[:half]
    return order


def trained(name: str, frames: FrameList, folder, seed: int) -> tuple[float, float]:
    """Of frames that were not trained on, by their true labels: mean P(fake) of fakes minus that of reals, and AUC."""
    config = made_config(batch_size=16, seed=seed, **RECIPES[name])
    given = config.detector.input.model_copy(update={"size": SIDE})
    torch.manual_seed(seed)
    detector = registry._construct(name, KEYWORDS[name], name)
    stores, plain = {"Made": Marked()}, plain_transform(given)
    data = FrameDataset(frames, stores, plain, seed, fields=batch_fields(detector, frames, {}))
    Trainer(detector, data, config, WORLD, folder).fit()
    test = frames_of("test")
    normalise = Normaliser(given.channel_mean(), given.channel_std(), WORLD.device, torch.float32, False)
    options = ScoringOptions(64, 0, progress=False)
    scores = score_frames(detector, FrameDataset(test, stores, plain), normalise, WORLD, options).scores
    return scores[test.labels == 1].mean() - scores[test.labels == 0].mean(), roc_auc_score(test.labels, scores)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd2", "mfclip"])
def test_shuffled_labels_give_chance(name, tmp_path):
    # The AUC alone would not do: a network that answers .500 and .501 has one of 0 or 1.
    frames = frames_of("train")
    order = crossed(frames, seed=0)
    gap, auc = trained(name, frames.shuffled(order), tmp_path / "shuffled", 0)
    print(f"{name}: shuffled labels: P(fake) of fakes minus reals {gap:.3f} (AUC {auc:.3f})")
    assert abs(gap) < 0.15
    # The control can fail. Were labels alone shuffled, SD2 would learn the classes from the true facts. MFCLIP scores
    # by a classifier that labels alone teach: it learns the classes from true ones.
    if name == "sd2":
        what, other = "shuffled labels and true facts", replace(frames, labels=frames.labels[order])
    else:
        what, other = "true labels", frames
    learnt, auc = trained(name, other, tmp_path / "learnt", 0)
    print(f"{name}: {what}: {learnt:.3f} (AUC {auc:.3f})")
    assert learnt > 0.3  # .49 and more, by the machine
