"""Graphs of a detector for other programs: ONNX, and torch.export. Each is compared with the detector itself."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from resproto_fd.configs.errors import UserError, cut
from resproto_fd.configs.files import atomic_file
from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.parts.prototype_memory import PrototypeMemory
from resproto_fd.training.packages import contents, reading
from resproto_fd.training.samples import one_sample

TOLERANCE = 1e-4
"""Largest difference of a score."""
TRIED = (1, 3)
"""Numbers of pictures that a graph is tried on."""


class Pixels(nn.Module):
    """A detector from pixels in 0 to 255, float32 [N, 3, S, S] or of clips [N, T, 3, S, S], to P(fake), [N]."""

    def __init__(self, package: reading.Package):
        super().__init__()
        self.detector, given = package.detector, package.config.detector.input
        mean, std = (
            torch.tensor(values, dtype=torch.float64) for values in (given.channel_mean(), given.channel_std())
        )
        dtype = torch.float64 if package.config.detector.train.precision == "fp64" else torch.float32
        self.register_buffer("scale", (1 / (255 * std)).view(3, 1, 1).to(dtype), persistent=False)
        self.register_buffer("shift", (mean / std).view(3, 1, 1).to(dtype), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.detector(images.to(self.scale.dtype) * self.scale - self.shift).scores


def write(package: reading.Package, folder: Path, onnx: bool, exported: bool) -> None:
    """Writes the graphs that are asked for, and compares each with the detector.

    Raises:
        UserError: A library is missing, the detector has no such graph, or the graph's scores differ by more than
            `TOLERANCE`.
    """
    if onnx:
        require("onnx", "onnxruntime", "onnxscript")
    model = Pixels(package).eval()
    pixels = [_pixels(package, count) for count in TRIED]
    with torch.no_grad():
        wanted = [model(images).numpy() for images in pixels]
    with settled(package.detector), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters about themselves
        program = _program(model, pixels[-1])
        if exported:
            _compare("torch.export", [program.module()(images).numpy() for images in pixels], wanted)
            _save_program(program, folder / contents.EXPORTED)
        if onnx:
            _write_onnx(program, pixels[-1], folder / contents.ONNX)
    if onnx:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / contents.ONNX), providers=["CPUExecutionProvider"])
        found = [session.run(None, {"images": images.numpy()})[0] for images in pixels]
        _compare("ONNX", found, wanted)


@contextmanager
def settled(detector: Detector) -> Iterator[None]:
    """In the block, the prototype memory's state is a plain value: a graph has no branch that depends on it."""
    memories = [module for module in detector.modules() if isinstance(module, PrototypeMemory)]
    for memory in memories:
        memory.settled = bool(memory.ready)
    try:
        yield
    finally:
        for memory in memories:
            memory.settled = None


def require(*names: str, extra: str = "export", flag: str = "--onnx") -> None:
    """Checks that optional libraries are installed.

    Raises:
        UserError: One is not; the message says how to install it.
    """
    if absent := [name for name in names if find_spec(name) is None]:
        raise UserError(f"{flag}: expected {', '.join(absent)} installed; pip install 'resproto-fd[{extra}]'")


def _pixels(package: reading.Package, count: int) -> Tensor:
    shape = one_sample(package.config.detector.input)[1:]
    return 255 * torch.rand(count, *shape, generator=torch.Generator().manual_seed(count))


def _program(model: Pixels, images: Tensor) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False)
    except Exception as error:
        raise UserError(
            f"{type(model.detector).__name__} has no graph: torch.export: {_first_line(error)}; export it "
            "without --onnx and --torch-export"
        ) from error


def _save_program(program: torch.export.ExportedProgram, path: Path) -> None:
    program.example_inputs = None  # they would be pickled
    with atomic_file(path) as file:
        torch.export.save(program, file)


def _write_onnx(program: torch.export.ExportedProgram, images: Tensor, path: Path) -> None:
    try:
        made = torch.onnx.export(
            program,
            (images,),
            input_names=["images"],
            output_names=["scores"],
            dynamo=True,
            verbose=False,
            custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
        )
        made.save(path, external_data=False)
    except Exception as error:
        cause = error.__cause__ or error  # the exporter's own message is advice for its developers
        raise UserError(f"--onnx: no ONNX graph can be made: {_first_line(cause)}; export it without --onnx") from error


def _stable_sort(values, stable=None, dim=-1, descending=False):
    """`torch.sort` in ONNX, which torch's exporter lacks; TopK puts the lower of equal values' places first."""
    from onnxscript import opset18 as op

    count = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)


def _compare(what: str, found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    largest = max(float(np.abs(one - other).max()) for one, other in zip(found, wanted, strict=True))
    if not largest <= TOLERANCE:
        raise UserError(
            f"{what}: scores differ by {largest:.2g} from the detector's, expected at most {TOLERANCE:g}; export "
            "the run without this graph"
        )


def _first_line(error: Exception) -> str:
    return cut((str(error).strip() or type(error).__name__).splitlines()[0])
