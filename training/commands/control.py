"""`resproto control`: trains and tests a classifier that sees no pixel, only facts of the files.

It is a set of trees on each stored frame's length, size, format and JPEG quality. If it beats chance on a test set, a
detector may have learnt the same facts.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from resproto_fd.configs import loading
from resproto_fd.configs.argument_types import seed_type
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import DataConfig
from resproto_fd.training.commands.arguments import add_out

NAME = "file_statistics"
LARGEST_SEED = 2**32 - 1
"""That scikit-learn takes."""
FACTS = ("bytes", "height", "width", "bytes a pixel", "JPEG", "PNG", "native", "mean of the JPEG's quantisation")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--protocol", required=True, metavar="NAME", help="a protocol's name or YAML")
    parser.add_argument("--seed", type=seed_type(LARGEST_SEED), default=0, help="seed of the trees (default: 0)")
    add_out(parser)
    parser.add_argument("settings", nargs="*", metavar="key=value", help="data.* settings: where the data are")


def run(args: argparse.Namespace) -> int:
    data = loading.data_settings(args.settings, "control")
    remedy = "remove the folder, or set another --seed or --out"
    print(fit_trees(args.protocol, data, args.out, args.seed, remedy))
    return 0


def fit_trees(
    protocol: str, data: DataConfig, out: str | Path, seed: int = 0, remedy: str = "remove the folder"
) -> Path:
    """Fits the trees on a protocol's training frames and scores its test sets: the result file.

    A finished result of the same protocol, frames and scores is left as it is.

    Args:
        protocol: Its name or YAML.
        data: Where the data are.
        out: The folder of runs.
        seed: Of the trees.
        remedy: Printed if another result is in the way.

    Raises:
        UserError: The protocol is for tests alone; or the run folder holds a result of another protocol, of other
            frames or with other scores.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    from resproto_fd.training import protocols
    from resproto_fd.training.commands.submit import Place, save_result
    from resproto_fd.training.results import Selection

    config = loading.load("protocols", protocol)
    if not config.train:
        raise UserError(
            f"protocol {config.name} is for tests alone (train: []), and the trees need training frames; set another "
            "--protocol"
        )
    resolved = protocols.resolve(config, data)
    facts = file_facts(resolved.train, resolved.stores)
    trees = HistGradientBoostingClassifier(max_iter=100, early_stopping=False, random_state=seed)
    trees.fit(facts, resolved.train.labels)
    scores = {
        name: trees.predict_proba(file_facts(frames, resolved.stores))[:, 1].tolist()
        for name, frames in resolved.tests.items()
    }
    return save_result(
        resolved,
        scores,
        Place(out, NAME, seed),
        remedy=remedy,
        take_equal=True,
        title="File statistics",
        source="measured",
        role="control",
        sees_faces=False,
        selected_on=Selection(rule="last"),
        trained_on=list(resolved.config.train),
        note=f"sees no pixel: {', '.join(FACTS)}",
    )


def file_facts(frames, stores) -> np.ndarray:
    """Facts of the stored files of a frame list, [N, facts].

    Args:
        frames: A `FrameList`.
        stores: Frame store of each data set, by name.
    """
    from tqdm import tqdm

    rows = []
    pairs = zip(frames.paths, frames.video_index, strict=True)
    for path, owner in tqdm(pairs, "file statistics", len(frames), disable=None, leave=False, file=sys.stderr):
        store = stores[frames.videos[owner].dataset]
        rows.append(_facts(bytes(store.read_bytes(path)), store.read(path).shape))
    return np.asarray(rows, dtype=np.float64)


def _facts(value: bytes, shape: tuple[int, ...]) -> list[float]:
    from resproto_fd.preprocessing.picture_kinds import JPEG_START, PNG_START
    from resproto_fd.preprocessing.store.image_codec import is_native

    height, width = shape[:2]
    kinds = [value.startswith(JPEG_START), value.startswith(PNG_START), is_native(value)]
    return [len(value), height, width, len(value) / (height * width), *map(float, kinds), _quantisation(value)]


def _quantisation(value: bytes) -> float:
    """Mean of a JPEG's first quantisation table: the larger, the lower its quality; 0 for other files."""
    at = value.find(b"\xff\xdb") if value[:2] == b"\xff\xd8" else -1
    table = np.frombuffer(value[at + 5 : at + 69], np.uint8) if at >= 0 else np.zeros(0)
    return float(table.mean()) if len(table) else 0.0
