"""Features of tested frames, kept beside their score tables so that other ways of scoring can be tried."""

from pathlib import Path

import numpy as np

from resproto_fd.configs.errors import MissingFile, UserError
from resproto_fd.configs.files import atomic_file
from resproto_fd.configs.readers.npz_reader import Kind, read_npz
from resproto_fd.configs.readers.text import MIB
from resproto_fd.training.scores import ScoreTable

MOST_FEATURES = 16384
"""Features of a frame, at most."""


def features_path(scores: Path) -> Path:
    """The file of the features of a score table's frames, in `features/` or, of the selection split, a folder beside.

    >>> features_path(Path("run/scores_selection/Demo-A.npz")).as_posix()
    'run/features_selection/Demo-A.npz'
    """
    return scores.parent.with_name(scores.parent.name.replace("scores", "features", 1)) / scores.name


def save_features(path: Path, features: np.ndarray, table: ScoreTable) -> None:
    """Writes features, float32 [N, D], in the order of a table's frames; the file appears whole or not at all."""
    with atomic_file(path) as file:
        np.savez(
            file,
            features=features.astype(np.float32),
            frames_hash=np.array(table.frames_hash()),
            checkpoint=np.array(table.checkpoint or ""),
            made_from=np.array(table.made_from_hash() or ""),
        )


def load_features(path: Path, table: ScoreTable) -> np.ndarray:
    """Features of the frames of a table, [N, D].

    Raises:
        UserError: There are none, the file is damaged, or they belong to other frames or weights.
    """
    members = {"features": Kind("f", 2), "frames_hash": Kind("U", 0), "checkpoint": Kind("U", 0)}
    members["made_from"] = Kind("U", 0, needed=False)  # older files lack it
    largest = len(table) * MOST_FEATURES * 4 + MIB
    try:
        arrays = read_npz(path, members, "remove it and test again with run.save_features=true", largest)
    except MissingFile:
        raise MissingFile(
            f"{path}: no features were kept; test again with run.save_features=true "
            "(resproto test --run RUN run.save_features=true)"
        ) from None
    features = arrays["features"]
    owner = str(arrays["frames_hash"]), str(arrays["checkpoint"]), str(arrays.get("made_from", ""))
    belongs = owner[:2] == (table.frames_hash(), table.checkpoint or "") and len(features) == len(table)
    if not belongs or owner[2] not in ("", table.made_from_hash()):
        raise UserError(
            f"{path}: belongs to other frames or weights, or to other settings, than the scores beside it; test again "
            "with run.save_features=true"
        )
    return features
