"""Demo data: three small data sets made by code, in DeepfakeBench's layout.

Every video depends only on the seed and on its own place, so the number of processes does not change the bytes. Real
and forged frames come from the same recordings (person, background, light, camera, JPEG quality); only the forgery
tells them apart.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from tqdm import tqdm

from resproto_fd.configs.errors import UnreadableFile, UserError
from resproto_fd.configs.files import write_text
from resproto_fd.configs.readers.json_reader import read_json
from resproto_fd.preprocessing.demo.camera import Camera, Frame, film
from resproto_fd.preprocessing.demo.forgeries import METHODS
from resproto_fd.preprocessing.demo.people import Identity, draw_identity
from resproto_fd.preprocessing.demo.takes import draw_take
from resproto_fd.preprocessing.faces.worker_pool import CannotStart, WorkerDied, run_tasks
from resproto_fd.preprocessing.manifest import write_manifest
from resproto_fd.preprocessing.store.beside_frames import landmark_path, mask_path
from resproto_fd.preprocessing.store.lmdb_writer import LmdbWriter
from resproto_fd.preprocessing.taxonomy import load_taxonomy
from resproto_fd.preprocessing.video import Video

Size = Literal["default", "tiny"]
TAKES = 2  # recordings of each person, each in its own surroundings
STAMP = "demo.json"


@dataclass(frozen=True)
class DemoSet:
    """One data set: its camera, its forgeries, and the number of pairs of people in each split, by size."""

    name: str
    camera: Camera
    methods: tuple[str, ...]
    pairs: dict[Size, dict[str, int]]


DEMO_SETS = (
    DemoSet(
        "Demo-A",
        Camera(
            blur=(0.4, 0.8),
            shot_noise=(0.0004, 0.0014),
            read_noise=(0.002, 0.006),
            sharpening=(0.2, 0.6),
            gamma=(0.9, 1.1),
            saturation=(0.9, 1.1),
            balance=(1.0, 1.0, 1.0),
            quality=(75, 95),
        ),
        ("swap", "warp", "upsample", "inpaint"),
        {"default": {"train": 48, "val": 6, "test": 10}, "tiny": {"train": 1, "val": 1, "test": 1}},
    ),
    DemoSet(
        "Demo-B",
        Camera(
            blur=(0.8, 1.4),
            shot_noise=(0.001, 0.004),
            read_noise=(0.004, 0.012),
            sharpening=(0.0, 0.4),
            gamma=(0.95, 1.25),
            saturation=(0.75, 0.95),
            balance=(1.06, 1.0, 0.9),
            quality=(50, 80),
        ),
        ("swap", "warp", "upsample", "clone"),
        # Test comes first, so that the numbers of its videos do not depend on the other splits.
        {"default": {"test": 8, "train": 24, "val": 3}, "tiny": {"test": 1, "train": 1, "val": 1}},
    ),
    DemoSet(
        "Demo-C",
        Camera(
            blur=(0.3, 0.6),
            shot_noise=(0.0002, 0.0008),
            read_noise=(0.001, 0.004),
            sharpening=(0.5, 1.0),
            gamma=(0.8, 1.0),
            saturation=(1.05, 1.3),
            balance=(0.95, 1.0, 1.06),
            quality=(85, 97),
        ),
        ("selfblend", "bottleneck", "retouch"),
        {"default": {"test": 8}, "tiny": {"test": 1}},
    ),
)
FRAMES: dict[Size, int] = {"default": 5, "tiny": 3}  # frames a video


@dataclass(frozen=True)
class Pair:
    """Two people of similar skin, who are filmed and whose faces are swapped: one unit of work."""

    demo_set: DemoSet
    split: str
    number: int  # within the data set
    people: tuple[Identity, Identity]
    frames: int  # of each video
    seed: tuple[int, ...]


def make_demo(out_dir: str | os.PathLike, seed: int = 0, size: Size = "default", workers: int | None = None) -> None:
    """Makes Demo-A and Demo-B (train, val, test) and Demo-C (test only) under a folder.

    Writes `dataset_json/<name>.json` and `lmdb/<name>_lmdb` there. Five landmarks of each frame and a mask of each
    forged frame are stored beside the frames. Demo data that this code made with the same seed and size is kept;
    incomplete or different demo data is made again. Other files there are not touched. With more than one worker, a
    script that calls this needs the usual `if __name__ == "__main__":`.

    Args:
        out_dir: The folder; it is made if it is missing.
        seed: 0 or more; another seed gives other people.
        size: "default" for training, "tiny" for tests.
        workers: Processes that draw. None means one for each core, at most 8; for "tiny", this process alone. The
            result does not depend on it.

    Raises:
        UserError: The folder cannot be written, or a worker process died.
    """
    out_dir = Path(out_dir)
    stamp = out_dir / STAMP
    made_of = {"seed": seed, "size": size, "code": _code_digest(), "opencv": cv2.__version__, "numpy": np.__version__}
    outputs = [path for demo_set in DEMO_SETS for path in _outputs(out_dir, demo_set)]
    if _content(stamp) == made_of and all(path.exists() for path in outputs):
        return
    stamp.unlink(missing_ok=True)  # written last: without it the data counts as incomplete
    if workers is None:
        workers = 1 if size == "tiny" else min(_cores(), 8)
    pairs = {demo_set.name: plan(demo_set, seed, size) for demo_set in DEMO_SETS}
    work = [pair for of_set in pairs.values() for pair in of_set]
    total = sum(pair.frames * 2 * (TAKES + len(pair.demo_set.methods)) for pair in work)
    with _in_order(make_pair, work, workers) as made, tqdm(total=total, desc="demo data", unit="frame") as bar:
        for demo_set in DEMO_SETS:
            manifest, store = _outputs(out_dir, demo_set)
            for left_over in store.parent.glob(f".{store.name}.*.partial"):
                shutil.rmtree(left_over)
            videos = []
            with LmdbWriter(store, replace=True) as writer:
                for video, frames, beside in chain.from_iterable(islice(made, len(pairs[demo_set.name]))):
                    videos.append(video)
                    for path, data in chain(zip(video.frames, frames), beside.items()):
                        writer.put(path, data)
                    bar.update(len(frames))
            write_manifest(manifest, demo_set.name, videos)
    write_text(stamp, json.dumps(made_of))


def plan(demo_set: DemoSet, seed: int, size: Size) -> list[Pair]:
    """Draws the people of a data set. No person is in two splits or in two data sets."""
    pairs = []
    for split, count in demo_set.pairs[size].items():
        key = (seed, DEMO_SETS.index(demo_set), ("train", "val", "test").index(split))
        rng = np.random.default_rng(key)
        people = sorted((draw_identity(rng) for _ in range(2 * count)), key=lambda who: who.skin.mean())
        for k in range(count):
            couple = (people[2 * k], people[2 * k + 1])
            pairs.append(Pair(demo_set, split, len(pairs), couple, FRAMES[size], (*key, k)))
    return pairs


Filmed = tuple[Video, list[bytes], dict[str, bytes]]
"""A video, its frames as PNG files, and the landmarks and masks that are stored beside them, by path."""


def make_pair(pair: Pair) -> list[Filmed]:
    """Makes every video of two people, real and forged."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        return [video for take in range(TAKES) for video in _make_take(pair, take)]
    finally:
        cv2.setNumThreads(threads)


def _make_take(pair: Pair, take: int) -> Iterator[Filmed]:
    films, qualities = [], []
    for person, who in enumerate(pair.people):
        rng = np.random.default_rng((*pair.seed, take, person))
        camera = pair.demo_set.camera.settings(rng)
        films.append(film(draw_take(who, rng), camera, pair.frames, rng))
        qualities.append(int(camera.quality[0]))
    numbers = [f"{2 * (TAKES * pair.number + take) + person:03d}" for person in (0, 1)]
    for person, other in ((0, 1), (1, 0)):
        real = [frame.image for frame in films[person]]
        yield _video(pair, "real", numbers[person], real, films[person], qualities[person])
        for k, method in enumerate(pair.demo_set.methods):
            if k % TAKES == take:
                rng = np.random.default_rng((*pair.seed, take, person, 1 + k))
                forge = METHODS[method](rng)
                forged = [forge(target, donor, rng) for target, donor in zip(films[person], films[other])]
                name = f"{numbers[person]}_{numbers[other]}"
                yield _video(pair, method, name, forged, films[person], qualities[person])


def _video(pair: Pair, method: str, name: str, images: list[np.ndarray], recorded: list[Frame], quality: int) -> Filmed:
    dataset, label_name = pair.demo_set.name, f"Demo_{method}"
    meaning = load_taxonomy()[label_name]
    source = "original_sequences/camera" if method == "real" else f"manipulated_sequences/{method}"
    video = Video(
        dataset=dataset,
        split=pair.split,
        id=f"{dataset}/{source}/{name}",
        label=meaning.label,
        label_name=label_name,
        method=meaning.method,
        forgery_type=meaning.forgery_type,
        frames=tuple(f"{dataset}/{source}/frames/{name}/{number:03d}.png" for number in range(len(images))),
    )
    beside = {landmark_path(path): _landmarks(frame) for path, frame in zip(video.frames, recorded)}
    if video.label:
        for path, image, frame in zip(video.frames, images, recorded):
            beside[mask_path(path)] = _png(_changed(image, frame.image))
    return video, [_compressed(image, quality) for image in images], beside


def _landmarks(frame: Frame) -> bytes:
    """Encodes the landmarks as `resproto faces` does: eyes, nose tip and mouth corners, float32 [5, 2], a .npy file."""
    points, file = frame.points, io.BytesIO()
    mouth = points["mouth"]
    corners = mouth[[mouth[:, 0].argmin(), mouth[:, 0].argmax()]]
    tip = points["nose"][[1, 3]].mean(0)  # between the wings
    np.save(file, np.float32([points["left_eye"].mean(0), points["right_eye"].mean(0), tip, *corners]))
    return file.getvalue()


def _changed(image: np.ndarray, recorded: np.ndarray) -> np.ndarray:
    """Mask of the altered area, 0 or 255, [256, 256]. Small holes, where pixels are alike by chance, are closed."""
    differs = np.where((image != recorded).any(-1), np.uint8(255), np.uint8(0))
    return cv2.morphologyEx(differs, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))


def _compressed(image: np.ndarray, quality: int) -> bytes:
    """Compresses an RGB image as JPEG of a quality, then stores the result without further loss as a PNG file."""
    jpeg = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return _png(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))


def _png(image: np.ndarray) -> bytes:
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    return cv2.imencode(".png", image, options)[1].tobytes()


@contextmanager
def _in_order(work: Callable, items: Sequence, workers: int) -> Iterator[Iterator]:
    """Yields an iterator over the results, in the order of the items. The processes end with the block."""
    workers = min(workers, len(items))
    if workers == 1:
        yield map(work, items)
        return
    with closing(run_tasks(partial, (work,), items, workers)) as answers:
        try:
            yield _sorted(answers)
        except (WorkerDied, CannotStart) as error:
            raise UserError(
                f"demo data: one of {workers} processes died or could not start. A script that makes demo data must be "
                'a file with `if __name__ == "__main__":`; or set workers=1, which also needs the least memory'
            ) from error


def _sorted(answers: Iterable[tuple[int, Any]]) -> Iterator:
    """The answers of (number, answer) in the order of their numbers, each as soon as those before it are there."""
    early, due = {}, 0
    for number, answer in answers:
        if isinstance(answer, WorkerDied):
            raise answer
        early[number] = answer
        while due in early:
            yield early.pop(due)
            due += 1


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _outputs(out_dir: Path, demo_set: DemoSet) -> tuple[Path, Path]:
    """Paths of the manifest and the frame store of a data set."""
    return out_dir / "dataset_json" / f"{demo_set.name}.json", out_dir / "lmdb" / f"{demo_set.name}_lmdb"


def _content(stamp: Path) -> dict | None:
    try:
        return read_json(stamp)
    except UnreadableFile:
        return None


def _code_digest() -> str:
    """SHA-256 of this folder's code, so that demo data of another version is made again."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
