"""Checkpoints: all that a killed run needs to go on to the same bits. A file is whole, or it is not there.

A run's `checkpoints/` holds `step_00001234.pt` (the last few are kept). Beside that folder is `best.pt`, the weights of
the selected epoch. Both load with `torch.load(weights_only=True)`. Both are ZIP archives with a CRC-32 of every tensor,
which `load` compares; PyTorch does not.
"""

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resproto_fd.configs.archives import check_archive
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import atomic_file
from resproto_fd.detectors.weights import odd_tensor
from resproto_fd.trainer.frame_list import FrameList

FORMAT = 1
TEXTS = {"title", "paper", "source", "note", "deviations"}
"""Keys of a detector or protocol that only describe it. A run can be resumed after one of them was reworded."""
STEP = ("identity", "progress", "model", "optimizer", "schedule", "scaler", "average", "rng")
"""What a checkpoint of a step holds."""
RECORDED = ("history", "tensors_sha256", "epoch", "value", "finished", "progress", "origins")
"""What a file of weights tells of its training, beside the weights."""
_NAME = re.compile(r"^step_(\d+)\.pt$")


class DamagedCheckpoint(UserError):
    """The file is cut short or damaged, so that an older checkpoint may take its place."""


def rng_state(device: torch.device) -> dict[str, Any]:
    """Returns the state of every global random generator, as tensors and plain values."""
    version, keys, gauss = random.getstate()
    name, numpy_keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": [version, list(keys), gauss],
        "numpy": [name, torch.from_numpy(numpy_keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any], device: torch.device) -> None:
    """Restores a state that `rng_state` returned."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    name, numpy_keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, numpy_keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])


@contextmanager
def rng_state_kept(device: torch.device) -> Iterator[None]:
    """Restores the global generators at the end of the block, whatever was drawn in it."""
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
        UserError: The disk is full or the folder cannot be written. An older file of that name is not changed.
    """
    with atomic_file(path) as file:
        torch.save({"format": FORMAT, **contents}, file)


def load(path: Path) -> dict[str, Any]:
    """Loads a checkpoint's contents, on the CPU. Every byte of them is compared with its checksum first.

    Raises:
        DamagedCheckpoint: The file is cut short or damaged.
        UserError: It is missing, of another format, or holds more than dense tensors and plain values.
    """
    try:
        check_archive(path)
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such checkpoint") from error
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise DamagedCheckpoint(f"{path}: cannot be read as a checkpoint ({type(error).__name__}: {reason})") from error
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        found = contents.get("format") if isinstance(contents, dict) else type(contents).__name__
        raise UserError(f"{path}: expected a checkpoint of this program, format {FORMAT}, got {str(found)[:80]!r}")
    if odd := odd_tensor(contents):
        raise UserError(f"{path}: expected dense tensors, got {odd}")
    model = contents.get("model")
    if not isinstance(model, dict) or not all(isinstance(name, str) for name in model):
        raise UserError(f"{path}: expected tensors by name under 'model', got {_kinds(model)}")
    return contents


def load_newest(folder: Path) -> tuple[Path, dict[str, Any], list[str]] | None:
    """Loads the newest whole checkpoint of a step; None if there is no checkpoint.

    Returns:
        (its path, its contents, the faults of newer ones, which are damaged).

    Raises:
        UserError: All are damaged, or one is whole but not a step's.
    """
    faults: list[str] = []
    for path in reversed(stored(folder)):
        try:
            contents = load(path)
        except DamagedCheckpoint as error:
            faults.append(str(error))
            continue
        if lacking := [name for name in STEP if name not in contents]:
            raise UserError(
                f"{path}: expected a checkpoint of a step, got one without {', '.join(lacking)}; best.pt is none. "
                "Remove it to go on from the one before"
            )
        return path, contents, faults
    if faults:
        raise UserError(
            f"{faults[0]}; there is no older one that is whole. Remove {folder} to begin anew, or set another run.out"
        )
    return None


def _kinds(value: Any) -> str:
    if not isinstance(value, dict):
        return type(value).__name__
    return f"keys of {', '.join(sorted({type(name).__name__ for name in value}))}"


def named_origins(origins: dict[str, torch.Tensor], frames: FrameList) -> dict[str, Any]:
    """What `Detector.origins` gives, with the frames that it speaks of by name: data set and canonical path.

    Its "members" then are positions in "frames", which are listed once each.
    """
    members = origins["members"].cpu()
    known, places = members[members >= 0].unique(return_inverse=True)
    told = members.clone()
    told[members >= 0] = places
    named = [(frames.videos[frames.video_index[i]].dataset, frames.paths[i]) for i in known.tolist()]
    kept = {name: value.detach().cpu().clone() for name, value in origins.items()}
    return kept | {"members": told, "datasets": [name for name, _ in named], "frames": [path for _, path in named]}


def record_in(path: Path) -> dict[str, Any] | None:
    """Reads what a file of weights tells of its training (`Trainer`'s `history`), without reading its tensors.

    Returns:
        "history", "tensors_sha256", of best weights also "epoch", "value" and "finished", of a step's checkpoint
        "progress"; None if the file has no history, or is no checkpoint of this program.
    """
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # other files of weights, which others read
        return None
    if not isinstance(contents, dict) or contents.get("format") != FORMAT or "history" not in contents:
        return None
    return {key: contents[key] for key in RECORDED if key in contents}


def stored(folder: Path) -> list[Path]:
    """Lists the folder's checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _NAME.match(path.name))]
    return [path for _, path in sorted(found)]


def save_step(folder: Path, step: int, contents: dict[str, Any], keep: int) -> None:
    """Saves a checkpoint of a step, then removes all but the last `keep`.

    Raises:
        UserError: As `save`. The message names the older checkpoint that remains.
    """
    try:
        save(folder / f"step_{step:08d}.pt", contents)
    except UserError as error:
        older = stored(folder)
        kept = f"the run can go on from {older[-1].name}" if older else "there is no older checkpoint"
        raise UserError(f"{error}; {kept}") from error
    for path in stored(folder)[:-keep]:
        path.unlink(missing_ok=True)


def differing_keys(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[str]:
    """Lists the dotted keys whose values differ between two nested mappings, with both values. Skips `TEXTS`."""
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
