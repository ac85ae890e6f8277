"""Training steps, scoring, and what runs on the device, on a fake CUDA device: no GPU is needed.

PyTorch's fake tensors know device and shape and hold no data. An operation that mixes devices is an error, and so is
one whose result the host must wait for. Autograd asks the driver for a device, so backward passes are not run.
"""

import contextlib
from contextlib import contextmanager

import pytest
import torch
from tiny import CASES, images_of, make, quick_and_slow, trains
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from resproto_fd.configs.schema import InputConfig
from resproto_fd.detectors.parts.kmeans import kmeans
from resproto_fd.detectors.parts.prototype_memory import PrototypeMemory
from resproto_fd.trainer.augment.transforms import train_transform
from resproto_fd.trainer.data import Normaliser
from resproto_fd.trainer.fields import CAPTIONS

CUDA = torch.device("cuda")
COUNT, SIDE = 6, 32


class WaitedFor(AssertionError):
    pass


class NoWaits(TorchDispatchMode):
    """Raises where a tensor is copied between host and device in such a way that the host waits for it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._overloadpacket.__name__
        if name == "_to_copy" and kwargs.get("device") and not kwargs.get("non_blocking"):
            self._refuse(name, args[0].device, torch.device(kwargs["device"]))
        if name == "copy_" and not (kwargs.get("non_blocking") or (len(args) > 2 and args[2])):
            self._refuse(name, args[1].device, args[0].device)
        if name in ("index", "index_put", "index_put_"):
            for index in args[1]:
                if index is not None:
                    self._refuse(name, index.device, args[0].device)
        if self._is_on_host(args, kwargs):
            with unset_fake_temporarily():
                return function(*args, **kwargs)
        return function(*args, **kwargs)

    @staticmethod
    def _is_on_host(args, kwargs) -> bool:
        """Whether an operation concerns the host alone: its tensors are real, so that shapes may depend on them."""
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        device = torch.device(kwargs.get("device") or "cpu")
        return device.type == "cpu" and not any(isinstance(x, FakeTensor) for x in tensors)

    @staticmethod
    def _refuse(name, one, other):
        if one.type != other.type:
            raise WaitedFor(f"aten.{name} from {one.type} to {other.type} waits for the device")


def onto_device(module: torch.nn.Module) -> None:
    """Put parameters and buffers onto the fake device; shared ones stay shared."""
    known: dict[int, torch.Tensor] = {}
    for part in module.modules():
        for values in (part._parameters, part._buffers):
            for name, value in values.items():
                if value is not None and id(value) not in known:
                    empty = torch.empty(value.shape, dtype=value.dtype, device=CUDA)
                    learnt = isinstance(value, torch.nn.Parameter)
                    known[id(value)] = torch.nn.Parameter(empty, value.requires_grad) if learnt else empty
                if value is not None:
                    values[name] = known[id(value)]


def fields_of(case, detector, labels) -> dict:
    """What the trainer would hand on; facts are those of two fakes and a real one. Within the fake mode."""
    pictures = {
        "second_view": (3, SIDE, SIDE),
        "partner": (3, SIDE, SIDE),
        "mask": (1, SIDE, SIDE),
        "landmarks": (5, 2),
    }
    found = {}
    for name in detector.requires:
        if name in CAPTIONS:
            found[name] = ["a man", "", "a woman", "a room", "", "a door"]
        elif name in pictures:
            found[name] = torch.empty(*images_of(case).shape[:-3], *pictures[name], device=CUDA)
        elif name in detector.on_host:
            values = list(detector.vocabulary[name])
            real = values.index("real") if "real" in values else 0
            with unset_fake_temporarily():
                found[name] = torch.tensor([(real + label) % len(values) for label in labels])
        else:
            found[name] = torch.empty(COUNT, dtype=torch.long, device=CUDA)
    return found


class Step:
    """Without a backward pass: every parameter has a gradient."""

    def __init__(self, detector, precision):
        self.detector, self.precision = detector, precision

    def autocast(self):
        return torch.autocast("cuda", torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext()

    def backward(self, loss):
        assert loss.device.type == "cuda"
        for parameter in self.detector.parameters():
            parameter.grad = torch.zeros_like(parameter)


@contextmanager
def a_case_on_the_device(case: str):
    """A detector whose tensors are on the fake device, where nothing may wait."""
    detector = make(case)
    detector.start_training(torch.tensor([2, 4]))
    with FakeTensorMode(allow_non_fake_inputs=True), pytest.MonkeyPatch.context() as patch:
        onto_device(detector)
        gradient = lambda loss, inputs, **_: [torch.zeros_like(x) for x in tree_leaves(inputs)]  # noqa: E731
        patch.setattr(torch.autograd, "grad", gradient)
        yield detector, torch.empty(images_of(case).shape, device=CUDA)


STEPPED = [case for case in CASES if trains(case) and case != "lsda, a teacher"]
"""LSDA's teachers draw from a Dirichlet distribution and make sampling grids, for which PyTorch has no fake form."""
QUICK = ["resproto_fd", "mfclip"]
"""Cases of the default tier. The others are in the slow one."""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", quick_and_slow(STEPPED, QUICK))
def test_no_training_step_waits_for_the_device_or_mixes_devices(case, precision):
    with a_case_on_the_device(case) as (detector, images):
        labels = torch.empty(COUNT, dtype=torch.long, device=CUDA)
        fields = fields_of(case, detector, [0, 1, 1, 0, 1, 2])
        detector.train().start_epoch(99)
        with NoWaits():
            losses = detector.training_step(detector, Step(detector, precision), images, labels, **fields)
            detector.after_step()
            detector.diagnostics()
    assert losses["total"].device.type == "cuda"


SCORED = [name for name in CASES if name != "deepfakebench_class"]
"""That class checks the scores of foreign code, so it waits."""


@torch.no_grad()
@pytest.mark.parametrize("case", quick_and_slow(SCORED, ["resproto_fd"]))
def test_scoring_mixes_no_devices_and_asks_only_whether_a_memory_is_ready(case, monkeypatch):
    monkeypatch.setattr(PrototypeMemory, "ready", True)
    with a_case_on_the_device(case) as (detector, images):
        detector.eval()
        with NoWaits():
            output = detector(images)
    found = [output.scores, output.features, *output.variants.values()]
    assert {x.device.type for x in found} == {"cuda"}


@pytest.mark.parametrize("recipe", ["flip", "resproto_fd"])
def test_augmenting_on_the_device_does_not_wait(recipe):
    transform = train_transform(recipe, InputConfig(size=SIDE), "device")
    stored = torch.zeros(COUNT, 3, 40, 40, dtype=torch.uint8)
    sent = transform.batch(stored, [transform.draw(seed, 40, 40) for seed in range(COUNT)])
    with FakeTensorMode(allow_non_fake_inputs=True):
        normalise = Normaliser([0.5] * 3, [0.5] * 3, CUDA, torch.float32, False)
        with NoWaits():
            images = normalise(sent)
    assert images.shape == (COUNT, 3, SIDE, SIDE)
    assert images.device.type == "cuda"


def test_k_means_and_the_prototype_memory_do_not_wait():
    memory = PrototypeMemory(5, 8)
    with FakeTensorMode(allow_non_fake_inputs=True):
        onto_device(memory)
        points, labels = torch.empty(COUNT, 8, device=CUDA), torch.empty(COUNT, dtype=torch.long, device=CUDA)
        with NoWaits():
            centres, _, _ = kmeans(points, labels == 1, 3)
            memory.collect(points, labels, torch.empty(2, device=CUDA), 3)
            shares = memory.score(points)
            memory.diagnostics()
    assert centres.device.type == shares.device.type == "cuda"


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.to("cpu"),
        lambda x: x + torch.ones(4).to(CUDA),
        lambda x: x + torch.tensor([1.0, 2, 3, 4], device=CUDA),
        lambda x: x[[0, 1]],
        lambda x: x[x > 0],
        lambda x: x[x.argmax()],
        lambda x: x.unique(),
        lambda x: x + torch.ones(4),
    ],
)
def test_the_fake_device_sees_what_waits_or_mixes(wait):
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(4, device=CUDA)
        with NoWaits(), pytest.raises(Exception, match=r"waits for|device|_scalar_|nonzero|_unique"):
            wait(x)
