"""Small things made for tests: frames in memory, a tiny detector, a configuration of a run."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import RunConfig
from resproto_fd.detectors.base import Detector, Output, two_class_output
from resproto_fd.detectors.parts.prototype_memory import PrototypeMemory
from resproto_fd.losses.residual import ResidualLoss
from resproto_fd.preprocessing.store.frame_store import FrameStore
from resproto_fd.preprocessing.video import Video
from resproto_fd.trainer.augment.transforms import plain_transform, train_transform
from resproto_fd.trainer.clip_data import ClipDataset
from resproto_fd.trainer.clip_list import ClipList
from resproto_fd.trainer.data import FrameDataset
from resproto_fd.trainer.frame_list import FrameList

SIZE = 8


class MadeStore(FrameStore):
    """Frames as a function of their path: fakes carry a faint checkerboard. Paths in `broken` cannot be read."""

    path = Path("made")

    def __init__(self, broken=()):
        self.broken = set(broken)

    def read_bytes(self, path: str) -> bytes:
        return self.read(path).tobytes()

    def __contains__(self, path: str) -> bool:
        return True

    def missing(self, paths) -> list[str]:
        return []

    def read(self, path: str) -> np.ndarray:
        if path in self.broken:
            raise UserError(f"made store: {path} is broken")
        rng = np.random.default_rng(list(path.encode()))
        image = rng.integers(60, 180, (SIZE, SIZE, 3)).astype(np.int64)
        if "/fake" in path:
            image += 40 * (np.indices((SIZE, SIZE)).sum(0) % 2)[..., None]
        return image.clip(0, 255).astype(np.uint8)


def made_videos(count: int, frames: int, split: str = "train", dataset: str = "Made") -> list[Video]:
    """Videos of both classes in turn."""
    videos = []
    for i in range(count):
        kind = ("real", "fake")[i % 2]
        paths = tuple(f"{dataset}/{kind}/{split}{i:03d}/{j:03d}.png" for j in range(frames))
        method, forgery = ("real", "real") if kind == "real" else ("Made", "editing")
        videos.append(Video(dataset, split, f"{dataset}/{kind}/{split}{i:03d}", i % 2, kind, method, forgery, paths))
    return videos


class PlainStep:
    """Lends a training step full precision and the plain gradient."""

    autocast = nullcontext
    backward = torch.Tensor.backward


class TinyDetector(Detector):
    """A convolution, the same weights each time; cross-entropy, or (`coupled`) residual loss and prototype memory."""

    def __init__(self, coupled: bool = False, dropout: float = 0.0):
        super().__init__()
        self.couples_batch = coupled
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(
                nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Linear(36, 6)
            )
            self.classifier = nn.Linear(6, 2)
        self.loss = ResidualLoss([1, 1])
        self.memory = PrototypeMemory(4, 6)

    def encode(self, images: Tensor) -> Tensor:
        return self.body(images)

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        output = two_class_output(self.classifier(features), features, labels)
        output.variants = {"flipped": 1 - output.scores}
        if not self.couples_batch or labels is None:
            return output
        from resproto_fd.losses.global_batch import gather_rows

        logits, everyone = gather_rows(output.logits), gather_rows(labels)
        output.losses = {"total": self.loss(logits, everyone)}
        if self.training:
            whole = gather_rows(features.detach())
            for label in (0, 1):
                mask = (everyone == label).to(whole.dtype)[:, None]
                mean = (whole * mask).sum(0, keepdim=True) / mask.sum().clamp_min(1)
                self.memory.update(label, mean, whole.norm())
        return output


class TinyClipDetector(Detector):
    """A convolution of each frame; the mean over a clip, and the mean change from frame to frame."""

    clips = True

    def __init__(self, width: int = 4, dropout: float = 0.0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Conv2d(3, width, 3, 2)
            self.classifier = nn.Linear(2 * width, 2)
        self.dropout = nn.Dropout(dropout)

    def encode(self, images: Tensor) -> Tensor:
        clips, frames = images.shape[:2]
        maps = self.body(images.flatten(0, 1)).relu().unflatten(0, (clips, frames))
        change = (maps[:, 1:] - maps[:, :-1]).abs()
        return self.dropout(torch.cat([maps.mean((1, 3, 4)), change.mean((1, 3, 4))], dim=1))


class PeerDetector(nn.Module):
    """Written for DeepfakeBench's interface; remembers what it was given, answers with what `answers` changes."""

    def __init__(self, config: dict):
        super().__init__()
        self.body, self.last = nn.Conv2d(3, config["width"], 4, 2), nn.Linear(config["width"], 2)
        self.given, self.answers = [], {}

    def forward(self, data_dict: dict, inference: bool = False) -> dict:
        self.given.append((data_dict["label"], data_dict["mask"], inference))
        feat = self.body(data_dict["image"]).relu()
        return {"cls": self.last(feat.mean((2, 3))), "feat": feat, **self.answers}

    def get_losses(self, data_dict: dict, pred_dict: dict) -> dict:
        loss = nn.functional.cross_entropy(pred_dict["cls"], data_dict["label"])
        return {"overall": loss, "cls": loss.detach()}


def made_config(**changes) -> RunConfig:
    """A run's configuration on made data; `changes` are train.* keys, but for `run`, `seed`, `protocol`, `input`."""
    run = {"out": "unused", "device": "cpu", "workers": 0, "progress": False, "log_every": 2, **changes.pop("run", {})}
    protocol = {"train": ["Made"], "test": ["Made"], "selection": {"dataset": "Made"}, **changes.pop("protocol", {})}
    seed = changes.pop("seed", 0)
    given = {"size": SIZE, "mean": "half", "std": "half", **changes.pop("input", {})}
    train = {"epochs": 2, "batch_size": 8, "optimizer": {"lr": 1e-2, "fused": False}, **changes}
    detector = {
        "detector": "tiny",
        "name": "tiny",
        "input": given,
        "train": train,
    }
    values = {"detector": detector, "protocol": {"name": "made", **protocol}, "run": run, "seed": seed}
    return RunConfig.model_validate(values)


def made_dataset(config: RunConfig, videos: int = 12, frames: int = 3, split: str = "train", **options) -> FrameDataset:
    """Made frames, augmented as the configuration says."""
    store = options.pop("store", None) or MadeStore()
    listed = FrameList.of(made_videos(videos, frames, split), None)
    given = config.detector.input
    transform = train_transform(config.detector.train.augment, given) if split == "train" else plain_transform(given)
    if given.frames > 1:
        clips = ClipList.within(listed, given)
        return ClipDataset(clips, {"Made": store}, transform, config.seed, draws=split == "train", **options)
    return FrameDataset(listed, {"Made": store}, transform, config.seed, **options)
