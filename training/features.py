"""Features of tested frames, kept beside their score tables so that other ways of scoring can be tried."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import atomic_file
from resproto_fd.training.scores import ScoreTable


def features_path(run_folder: Path, test_set: str) -> Path:
    """The file of a test set's features."""
    return run_folder / "features" / f"{test_set}.npz"


def save_features(path: Path, features: np.ndarray, table: ScoreTable) -> None:
    """Writes features, float32 [N, D], in the order of a table's frames; the file appears whole or not at all."""
    with atomic_file(path) as file:
        np.savez(
            file,
            features=features.astype(np.float32),
            frames_hash=np.array(table.frames_hash()),
            checkpoint=np.array(table.checkpoint or ""),
        )


def load_features(path: Path, table: ScoreTable) -> np.ndarray:
    """Features of the frames of a table, [N, D].

    Raises:
        UserError: There are none, the file is damaged, or they belong to other frames or weights.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            features, frames_hash, checkpoint = (file[name] for name in ("features", "frames_hash", "checkpoint"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no features were kept; test again with run.save_features=true "
            "(resproto test --run RUN run.save_features=true)"
        ) from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path}: not readable ({error}); remove it and test again with run.save_features=true"
        ) from None
    if str(frames_hash) != table.frames_hash() or str(checkpoint) != (table.checkpoint or ""):
        raise UserError(f"{path}: belongs to other frames or weights than the scores beside it; test again")
    return features
