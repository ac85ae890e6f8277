"""Checkpoints: everything a killed run needs to go on to the same bits, whole on the disk or not there.

A run's `checkpoints/` holds `step_00001234.pt` (the last few are kept); beside the folder stands `best.pt`, the weights
of the selected epoch. Both load with `torch.load(weights_only=True)`.
"""

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import atomic_file

FORMAT = 1
TEXTS = {"title", "paper", "source", "note", "deviations"}
"""Keys of a detector or protocol that only describe it: a reworded text must not stop an interrupted run."""
_NAME = re.compile(r"^step_(\d+)\.pt$")


def rng_state(device: torch.device) -> dict[str, Any]:
    """State of every global random generator, as tensors and plain values."""
    version, keys, gauss = random.getstate()
    name, numpy_keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": [version, list(keys), gauss],
        "numpy": [name, torch.from_numpy(numpy_keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Puts `rng_state`'s result back."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, numpy_keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, numpy_keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def rng_state_kept(device: torch.device) -> Iterator[None]:
    """Within it random numbers may be drawn; afterwards the global generators are where they were."""
    state = rng_state(device)
    try:
        yield
    finally:
        set_rng_state(state, device)


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def save(path: Path, contents: dict[str, Any]) -> None:
    """Writes a checkpoint atomically.

    Raises:
        UserError: The disk is full or the folder cannot be written; an older file of that name is untouched.
    """
    with atomic_file(path) as file:
        torch.save({"format": FORMAT, **contents}, file)


def load(path: Path) -> dict[str, Any]:
    """A checkpoint's contents, on the CPU.

    Raises:
        UserError: The file is missing, damaged, of another format, or holds more than tensors and plain values.
    """
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except Exception as error:
        raise UserError(f"{path}: cannot be read as a checkpoint ({type(error).__name__}: {error})") from error
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this program (format {FORMAT})")
    return contents


def stored(folder: Path) -> list[Path]:
    """The folder's checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.match(path.name))]
    return [path for _, path in sorted(found)]


def save_step(folder: Path, step: int, contents: dict[str, Any], keep: int) -> None:
    """Saves a checkpoint of a step, then removes all but the last `keep`.

    Raises:
        UserError: As `save`; it says which older checkpoint survives.
    """
    try:
        save(folder / f"step_{step:08d}.pt", contents)
    except UserError as error:
        older = stored(folder)
        kept = f"{older[-1].name} is whole, the run will go on from it" if older else "there is no older checkpoint"
        raise UserError(f"{error}; {kept}") from error
    for path in stored(folder)[:-keep]:
        path.unlink(missing_ok=True)


def differing_keys(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """Keys, dotted, whose values differ between two nested mappings, with both values; `TEXTS` are ignored."""
    found = []
    for key in sorted(set(ours) | set(theirs)):
        if key in TEXTS and prefix in ("config.detector.", "config.protocol."):
            continue
        a, b = ours.get(key, "(absent)"), theirs.get(key, "(absent)")
        if isinstance(a, dict) and isinstance(b, dict):
            found += differing_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append(f"{prefix}{key}: saved with {b!r}, now {a!r}")
    return found
