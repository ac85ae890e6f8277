"""Between two logging intervals the training step reads nothing back to the host, so that a GPU never waits."""

from contextlib import contextmanager

import pytest
import torch
from made import TinyDetector, made_config, made_dataset
from tiny import quick_and_slow
from torch.utils._python_dispatch import TorchDispatchMode

from resproto_fd.detectors import create_detector
from resproto_fd.trainer.distributed import World
from resproto_fd.trainer.trainer import Trainer

TEXT = {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
VISION = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 4, "image_size": 8}
READS = {"cpu", "numpy", "tolist", "item", "__bool__", "__int__", "__float__", "__index__", "__array__", "__repr__"}
WAITS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "_unique2", "unique_dim"}


class HostRead(AssertionError):
    pass


class NoReads(TorchDispatchMode):
    """Raises where an operation would hand a value to the host, or has a shape that depends on values."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._overloadpacket.__name__
        indices = [i for i in args[1] if i is not None] if name in ("index", "index_put", "index_put_") else []
        if name in WAITS or any(i.dtype in (torch.bool, torch.uint8) for i in indices):
            raise HostRead(f"aten.{name} waits for the device")
        return function(*args, **(kwargs or {}))


@contextmanager
def no_host_reads():
    """What reads a tensor raises: methods that do nothing on a CPU, and operations below them."""
    patch = pytest.MonkeyPatch()
    for name in READS:

        def refuse(*args, name=name, **kwargs):
            raise HostRead(f"Tensor.{name} waits for the device")

        patch.setattr(torch.Tensor, name, refuse)
    try:
        with NoReads():
            yield
    finally:
        patch.undo()


def resproto(**switches):
    backbone = {"embed_dim": 6, "vision_cfg": VISION, "text_cfg": TEXT}
    return create_detector("resproto_fd", backbone=backbone, pretrained=None, start_epoch=0, capacity=5, **switches)


class WatchedTrainer(Trainer):
    steps_watched = 0

    def _step(self, micro):
        with no_host_reads():
            super()._step(micro)
        self.steps_watched += 1


RECIPES = {
    "plain": {},
    "bf16, clipped, averaged": {"precision": "bf16", "grad_clip": 1.0, "ema": 0.9},
    "fp16": {"precision": "fp16", "grad_clip": 1.0},
    "accumulated": {"accumulate": 2},
    "scheduled": {"schedule": {"name": "cosine", "warmup_steps": 2}, "channels_last": True},
}


@pytest.mark.parametrize("recipe", quick_and_slow(RECIPES, ["plain", "bf16, clipped, averaged"]))
@pytest.mark.parametrize("detector", [resproto, TinyDetector], ids=["ResProto-FD collecting", "plain"])
def test_a_training_step_reads_nothing_back_to_the_host(tmp_path, recipe, detector):
    fused = {"lr": 1e-3, "fused": True}  # as on a GPU; an optimiser that is not fused reads its step count, on the CPU
    config = made_config(**{"epochs": 1, "optimizer": fused, **RECIPES[recipe]})
    world = World(0, 1, torch.device("cpu"))
    trainer = WatchedTrainer(detector(), made_dataset(config), config, world, tmp_path)
    trainer.fit()
    assert trainer.steps_watched == 4
    if detector is resproto:
        assert trainer.detector.memory.count.min() > 0


def test_collecting_fills_replaces_and_leaves_out_without_a_read():
    detector = resproto(clusters=3).train()
    detector.start_training(torch.tensor([5, 5]))
    generator = torch.Generator().manual_seed(0)
    for labels in ([0, 1, 1, 1, 0, 1], [1] * 6, [0] * 6, [0, 1, 1, 1, 1, 1]):
        images, labels = torch.randn(6, 3, 8, 8, generator=generator), torch.tensor(labels)
        with no_host_reads():
            detector(images, labels).losses["total"].backward()
            detector.after_step()
            detector.diagnostics()
    assert detector.memory.count.tolist() == [3, 5]


@pytest.mark.parametrize(
    "read",
    [
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: bool((x > 0).all()),
        lambda x: float(x.sum()),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: torch.equal(x, x),
        lambda x: x[x.argmax()],
        lambda x: range(x.argmax()),
        lambda x: f"{x.sum():.3f}",
    ],
)
def test_the_watch_sees_a_read(read):
    x = torch.arange(4.0)
    read(x)
    with pytest.raises(HostRead), no_host_reads():
        read(x)
