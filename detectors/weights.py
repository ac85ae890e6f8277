"""Finds weight files, reads them without running their contents, and loads every key."""

import codecs
import pickle
import re
import urllib.error
import urllib.request
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from resproto_fd.configs.errors import UserError

ENTRIES = ("state_dict", "model_state_dict", "model", "net")
"""Names under which training scripts save the weights among other things, in the order of search."""

HARMLESS = [
    Namespace,
    codecs.encode,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""Classes that scripts save beside weights and that are safe to read: arguments and NumPy's numbers."""

_skipped = False


@contextmanager
def without_pretrained() -> Iterator[None]:
    """Build detectors inside without pretrained weights, since a checkpoint will replace them.

    Testing a trained detector then needs neither the files nor a network.
    """
    global _skipped
    before, _skipped = _skipped, True
    try:
        yield
    finally:
        _skipped = before


def pretrained_skipped() -> bool:
    """Whether `without_pretrained` is active."""
    return _skipped


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Tensors of a weight file by name: safetensors, a PyTorch checkpoint, or a TorchScript archive (OpenAI's CLIP).

    Nothing stored in the file is run. In a checkpoint, the entry that holds the weights (`ENTRIES`) is used, and the
    prefix `module.` of data-parallel training is removed.

    Raises:
        UserError: The file is missing, unreadable, or holds something other than named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such weight file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content = load_file(path)
        elif _is_torchscript(path):
            content = _read_torchscript(path)
        else:
            with torch.serialization.safe_globals(HARMLESS):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if more := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path}: cannot be read as weights: it holds {more[1]}, which is not run; save the tensors alone "
                "where it was made: torch.save(model.state_dict(), FILE)"
            ) from error
        raise UserError(
            f"{path}: cannot be read as weights (safetensors, PyTorch, TorchScript): {_first_line(error)}"
        ) from error
    for entry in ENTRIES:
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise UserError(f"{path}: holds no named tensors but {type(content).__name__}")
    # All weights have the prefix, or none; a counter beside them may lack it.
    outside = [key for key in tensors if not key.startswith("module.")]
    if len(outside) == len(tensors) or any("." in key for key in outside):
        return tensors
    return {key.removeprefix("module."): value for key, value in tensors.items() if key not in outside}


def load_all(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load every key of `state` into `module`, which must have exactly these keys.

    Shapes that differ only by axes of length 1 count as equal.

    Raises:
        UserError: A key is missing, unknown or of another shape; the message names the first ones with their shapes.
    """
    own = module.state_dict()
    state = {
        key: value.reshape(own[key].shape) if key in own and _core(value) == _core(own[key]) else value
        for key, value in state.items()
    }
    other = [key for key in own if key in state and state[key].shape != own[key].shape]
    problems = [
        *(f"{key}: expected {list(own[key].shape)}, got {list(state[key].shape)}" for key in other[:3]),
        *(f"{key} {list(own[key].shape)} is missing" for key in [k for k in own if k not in state][:3]),
        *(f"{key} {list(state[key].shape)} is unknown" for key in [k for k in state if k not in own][:3]),
    ]
    if problems:
        raise UserError(f"{source} does not fit {type(module).__name__}: {'; '.join(problems)}")
    module.load_state_dict(state)


def fetch(what: str, repository: str, names: Sequence[str], url: str, remedy: str) -> Path:
    """The file of published weights, from a cache or downloaded.

    Without a network this fails within seconds, where the hub's own client retries for most of a minute. A cached file
    needs no network.

    Args:
        what: Name of the weights, for the message.
        repository: Repository on the Hugging Face hub, "" for none.
        names: Files of the repository in order of preference; one is enough.
        url: Another address of the weights, "" for none.
        remedy: How to use a file fetched by hand, for the message.

    Raises:
        UserError: There is no copy and none can be fetched; the message names the addresses.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    for name in names if repository else ():
        cached = try_to_load_from_cache(repository, name)
        if isinstance(cached, str):
            return Path(cached)
    downloads = Path(torch.hub.get_dir()) / "checkpoints"
    file_name = url.rpartition("/")[2]
    for folder in (downloads, Path("~/.cache/clip").expanduser()) if url else ():  # OpenAI's package keeps it in .cache
        if (folder / file_name).is_file():
            return folder / file_name

    reasons = ["there is no copy in the caches"]
    if constants.HF_HUB_OFFLINE:
        reasons.append("HF_HUB_OFFLINE is set")
    else:
        for address in (f"{constants.ENDPOINT}/{repository}", url) if repository else (url,):
            if not address or not _reachable(address):
                reasons.append(f"{address} cannot be reached" if address else "no other address is known")
                continue
            try:
                if address != url:
                    return _from_hub(hf_hub_download, repository, names)
                downloads.mkdir(parents=True, exist_ok=True)
                stated = re.search(r"/([0-9a-f]{64})/", url)
                torch.hub.download_url_to_file(url, str(downloads / file_name), stated and stated[1])
                return downloads / file_name
            except Exception as error:
                reasons.append(f"{address}: {_first_line(error)}")
    addresses = [url] if url else []
    addresses += [f"{constants.ENDPOINT}/{repository}/resolve/main/{names[0]}"] if repository else []
    raise UserError(f"{what} cannot be found: {'; '.join(reasons)}. Fetch {' or '.join(addresses)} and {remedy}")


def _from_hub(download, repository: str, names: Sequence[str]) -> Path:
    from huggingface_hub.errors import EntryNotFoundError

    for name in names[:-1]:
        try:
            return Path(download(repository, name))
        except EntryNotFoundError:
            continue
    return Path(download(repository, names[-1]))


def _reachable(url: str) -> bool:
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError) as error:
        # Certificates that Python does not know may be known to the hub's client.
        return "CERTIFICATE" in str(error).upper()
    return True


def _core(tensor: Tensor) -> list[int]:
    return [size for size in tensor.shape if size != 1]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return any(name.endswith("/constants.pkl") for name in names)


def _read_torchscript(path: Path) -> dict[str, Tensor]:
    # torch.jit.load would compile and may run the archive's code, and is deprecated; the tensors alone suffice.
    with zipfile.ZipFile(path) as archive:
        pickled = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(pickled) as file:
            root = _TorchScriptUnpickler(file, archive, pickled.removesuffix("data.pkl") + "data/").load()
    return dict(_tensors_of(root, ""))


def _tensors_of(node: object, prefix: str) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(node).items():
        if isinstance(value, Tensor):
            yield prefix + name, value
        elif isinstance(value, _ScriptObject):
            yield from _tensors_of(value, f"{prefix}{name}.")


_STORAGES = {
    "BFloat16Storage": torch.bfloat16,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "ShortStorage": torch.int16,
}


class _ScriptObject:
    """Stands for any class of a TorchScript archive: a bag of attributes."""


class _TorchScriptUnpickler(pickle.Unpickler):
    """Rebuilds modules as bags of tensors; refuses every name that is not listed here."""

    def __init__(self, file, archive: zipfile.ZipFile, folder: str):
        super().__init__(file)
        self.archive, self.folder = archive, folder

    def find_class(self, module: str, name: str):
        if module.split(".")[0] == "__torch__":
            return _ScriptObject
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: torch.as_strided(storage, size, stride, offset)
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        if module == "torch.jit._pickle":
            return lambda value, *_: value
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a file of weights")

    def persistent_load(self, key):
        _, dtype, name, _, count = key
        if count == 0:
            return torch.empty(0, dtype=dtype)
        return torch.frombuffer(bytearray(self.archive.read(self.folder + name)), dtype=dtype, count=count)
