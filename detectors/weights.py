"""Finds weight files, reads them without running their contents, and loads every key."""

import codecs
import hashlib
import os
import pickle
import re
import urllib.error
import urllib.request
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import torch
from torch import Tensor, nn

from resproto_fd.configs.archives import check_archive
from resproto_fd.configs.errors import UserError, cut

ENTRIES = ("state_dict", "model_state_dict", "model_state", "model", "net")
"""Names under which training scripts save the weights among other things, in the order of search."""

WRAPPERS = ("module.", "model.", "net.")
"""Prefixes that wrappers give to all names: data parallelism, Lightning's modules, training scripts."""

HARMLESS = [
    Namespace,
    *(
        (OrderedDict, f"{place}.AttributeDict")
        for place in (
            "lightning.fabric.utilities.data",
            "lightning_fabric.utilities.data",
            "lightning.pytorch.utilities.parsing",
            "pytorch_lightning.utilities.parsing",
        )
    ),
    *((PurePosixPath, f"{module}.PosixPath") for module in ("pathlib", "pathlib._local")),
    *((PureWindowsPath, f"{module}.WindowsPath") for module in ("pathlib", "pathlib._local")),
    codecs.encode,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")),
    *((np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]
"""Classes that scripts save beside weights and that are safe to read: arguments, paths and NumPy's numbers."""

HEADS = (("fc.",), ("",), ("query.", "key.", "value.", "fc."))
"""Layers of files that hold no backbone: UnivFD's, the same without a name, and D3's."""

REPEATED = 2**24
"""Most bytes of a tensor that repeats stored values (an expanded one)."""

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
    prefixes `module.` of data-parallel training and `_orig_mod.` of torch.compile are removed.

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
        else:
            zipped = zipfile.is_zipfile(path)
            if zipped:
                check_archive(path)
            if zipped and _is_torchscript(path):
                content = _read_torchscript(path)
            else:
                with torch.serialization.safe_globals(HARMLESS):
                    content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if more := re.search(r"GLOBAL (\S+)", str(error)):
            raise UserError(
                f"{path}: cannot be read as weights: expected tensors alone, got {more[1]}, which could run code; save "
                "only the tensors where the file was made: torch.save(model.state_dict(), FILE)"
            ) from error
        raise UserError(
            f"{path}: cannot be read as weights (safetensors, PyTorch, TorchScript): {_first_line(error)}"
        ) from error
    content = _entry(content)
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise UserError(f"{path}: expected named tensors, got {type(content).__name__}")
    if unnamed := [key for key in tensors if not isinstance(key, str)]:
        raise UserError(f"{path}: expected named tensors, got one under the {type(unnamed[0]).__name__} {unnamed[0]!r}")
    if odd := odd_tensor(tensors):
        raise UserError(f"{path}: expected dense tensors, got {odd}")
    compiled = {key: re.sub(r"(^|\.)(_orig_mod\.)+", r"\1", key) for key in tensors}
    if len(set(compiled.values())) == len(compiled):
        tensors = {compiled[key]: value for key, value in tensors.items()}
    # All weights have the prefix, or none; a counter beside them may lack it.
    outside = [key for key in tensors if not key.startswith("module.")]
    if len(outside) == len(tensors) or any("." in key for key in outside):
        return tensors
    return {key.removeprefix("module."): value for key, value in tensors.items() if key not in outside}


def _entry(content: object) -> object:
    """The weights of a checkpoint's content, which may lie some levels deep."""
    for _ in range(8):  # a file's dictionary may hold itself
        inner = (content.get(entry) for entry in ENTRIES) if isinstance(content, Mapping) else ()
        found = next((value for value in inner if isinstance(value, Mapping)), None)
        if found is None:
            break
        content = found
    return content


def unwrapped(state: Mapping[str, Tensor], own: Iterable[str]) -> Mapping[str, Tensor]:
    """Tensors without the prefixes (`WRAPPERS`) that all of them have.

    Args:
        own: Names of the module's tensors. A prefix that is part of one of them is kept.
    """
    own = [f".{key}" for key in own]
    while state:
        prefix = next((each for each in WRAPPERS if all(key.startswith(each) for key in state)), None)
        if prefix is None or any(f".{prefix}" in key for key in own):
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def two_outputs(rows: Tensor) -> Tensor:
    """A classifier's weight or bias for (real, fake), [2, ...], from that of one logit of "fake", [1, ...].

    The softmax of the two is the sigmoid of the one. Other numbers of rows are unchanged.
    """
    return torch.cat([torch.zeros_like(rows), rows]) if rows.ndim and len(rows) == 1 else rows


def replaced(key: str, table: Iterable[tuple[str, str | Callable]]) -> str:
    """A name after all replacements of a table, (pattern, ours) each as `re.sub` takes them, one after the other."""
    for pattern, ours in table:
        key = re.sub(pattern, ours, key)
    return key


def is_head_alone(state: Mapping[str, Tensor]) -> bool:
    """Whether a file holds what trains on a backbone and not the backbone: the published one must then be read."""
    return any(set(state) == {f"{layer}{kind}" for layer in layers for kind in ("weight", "bias")} for layers in HEADS)


def odd_tensor(content: object) -> str | None:
    """Finds a tensor that has no plain real values of its own in nested mappings and lists.

    Such are sparse, nested, quantised and complex ones, those without data, and those that repeat stored values (a file
    of some bytes could ask for any memory).

    Returns:
        Its place and kind; None if all tensors are dense.
    """
    waiting, seen = [("", content)], set()
    while waiting:
        place, value = waiting.pop()
        if id(value) in seen:  # a list may hold itself
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            kind = "meta" if value.is_meta else str(value.layout).removeprefix("torch.")
            if kind != "strided" or value.is_quantized or value.is_nested:
                return f"{place} ({'quantized' if kind == 'strided' else kind})"
            if value.is_complex():
                return f"{place} (complex)"
            if value.nbytes > max(value.untyped_storage().nbytes(), REPEATED):
                return f"{place} (of {value.nbytes} bytes, for which the file has {value.untyped_storage().nbytes()})"
        elif isinstance(value, Mapping):
            waiting += [(f"{place}.{key}"[:200].lstrip("."), inner) for key, inner in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(place, inner) for inner in value if isinstance(inner, Tensor | Mapping | list | tuple)]
    return None


def tensors_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values of tensors: the same in whatever file they are saved."""
    hasher = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        hasher.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        hasher.update(value.reshape(-1).view(torch.uint8).numpy())
    return hasher.hexdigest()


def load_pretrained(module: nn.Module, path: str | None) -> None:
    """Load a file of weights in the module's own naming; do nothing for None or if a checkpoint will follow.

    Raises:
        UserError: As `read_state_dict` and `load_all`.
    """
    if path and not pretrained_skipped():
        load_all(module, read_state_dict(path), path)


def load_all(module: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load every key of `state` into `module`, which must have exactly these keys.

    A wrapper's prefix is removed, see `unwrapped`. Shapes that differ only by axes of length 1 count as equal. Batch
    normalisation's `num_batches_tracked` may be missing, as in files of old versions of PyTorch: it has no effect on
    scores.

    Raises:
        UserError: A key is missing, unknown or of another shape, or holds whole numbers (of a quantised copy) for
            fractions; the message names the first ones.
    """
    own = module.state_dict()
    state = unwrapped(state, own)
    counters = {key: value for key, value in own.items() if key.endswith(".num_batches_tracked")}
    state = {**counters, **state}
    if from_older := getattr(module, "from_older", None):
        state = from_older(state)
    state = {
        key: value.reshape(own[key].shape) if key in own and _core(value) == _core(own[key]) else value
        for key, value in state.items()
    }
    other = [key for key in own if key in state and state[key].shape != own[key].shape]
    whole = [k for k in own if k in state and own[k].is_floating_point() and not state[k].is_floating_point()]
    problems = [
        *(f"{key}: expected fractions ({own[key].dtype}), got whole numbers ({state[key].dtype})" for key in whole[:3]),
        *(f"{key}: expected {list(own[key].shape)}, got {list(state[key].shape)}" for key in other[:3]),
        *(f"{key} {list(own[key].shape)} is missing" for key in [k for k in own if k not in state][:3]),
        *(f"{cut(key)} {list(state[key].shape)} is unknown" for key in [k for k in state if k not in own][:3]),
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
    home = os.path.expanduser("~")  # stays "~" for a user without one, as in some containers
    for folder in (downloads, Path(home, ".cache", "clip")) if url else ():  # OpenAI's package keeps it in .cache
        if (folder / file_name).is_file():
            return folder / file_name

    reasons = ["there is no copy in the caches"]
    if home == "~":
        reasons.append("no home folder with caches is known (HOME is not set)")
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
