"""What the scores of a test set are made from, in parts that can be compared: `made_from`.

The parts are the weights, the detector's class, code and settings, its input, the precision, the frames with their
labels, what is done to the frames, the frames' pixels, and the version of the scoring code. In shapes, N is the number
of frames.
"""

import ast
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import sha256_of
from resproto_fd.configs.schema import NORMALISATIONS, DetectorConfig
from resproto_fd.detectors.base import Detector
from resproto_fd.detectors.registry import defaults_of
from resproto_fd.preprocessing.store.frame_store import FrameStore
from resproto_fd.preprocessing.store.threads import in_chunks
from resproto_fd.preprocessing.video import Video
from resproto_fd.trainer import scoring
from resproto_fd.trainer.clip_list import ClipList, clip_checksum
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.training.scores import ScoreTable

NOT_KNOWN = "what they were made from is not known"
NAMED = 3
"""Most examples that a difference names."""
_WORDS = {
    "weights": "the weights (SHA-256)",
    "class": "the detector's class",
    "code": "the code of the detector's class or of what it imports",
    "precision": "the precision",
    "batch": "run.test_batch_size, on which these scores depend",
    "recode": "protocol.recode",
    "corruption": "the corruption",
    "scoring": "the version of the scoring code",
}
_OF_SETTINGS = (".yaml", ".yml", ".json", ".jsonl", ".csv", ".txt")
_LIBRARIES = ("builtins", "torch", "torchvision", "timm", "typing", "abc")
_OF_LISTS = ("frames", "labels", "methods", "people")


def detector_parts(config: DetectorConfig, detector: Detector, weights: str | None, batch_size: int) -> dict[str, Any]:
    """The parts that are the same for every test set.

    Args:
        config: Resolved. Keywords that it does not give have the class's defaults.
        detector: The detector itself.
        weights: SHA-256 of its weights, None if they are no file.
        batch_size: Frames of a batch; a part only if a score depends on the other frames of its batch.
    """
    return settings_parts(config) | {
        "weights": weights,
        "code": _code_of(detector),
        "batch": batch_size if getattr(detector, "batch_coupled", False) else None,
        "scoring": scoring.VERSION,
    }


def settings_parts(config: DetectorConfig) -> dict[str, Any]:
    """Those of `detector_parts` that a configuration alone tells."""
    return _settings_of(config) | {"precision": "fp64" if config.train.precision == "fp64" else "fp32"}


def _settings_of(config: DetectorConfig) -> dict[str, Any]:
    model, given = defaults_of(config.detector) | config.model, config.input
    shown = {"size": given.size, "fit": given.fit, "mean": given.channel_mean(), "std": given.channel_std()}
    if given.frames > 1:  # without these, what single frames are made from stays as it was
        shown |= {key: getattr(given, key) for key in ("frames", "stride", "clips", "short")}
    return {
        "class": config.detector,
        "model": _with_contents(json.loads(json.dumps(model, default=str))),
        "input": shown,
    }


def _with_contents(value: Any) -> Any:
    """Keywords in which the path of a file of settings has the hash of its content beside it."""
    if isinstance(value, dict):
        return {key: _with_contents(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_with_contents(each) for each in value]
    if isinstance(value, str) and value.endswith(_OF_SETTINGS):
        with suppress(OSError, ValueError):  # it is no file, or a name that no file can have
            return f"{value} (SHA-256 {sha256_of(value)[:12]})"
    return value


def input_part(config: DetectorConfig) -> dict[str, Any]:
    """What a detector's pictures are: side, fit, mean and deviation; and what its clips are."""
    return _settings_of(config)["input"]


def encoder_code(detector: Detector) -> str:
    """A short hash of the files that define a detector's fixed encoder, and of what they import."""
    owner = next(cls for cls in type(detector).__mro__ if "encode" in vars(cls))
    parts = [child for name, child in detector.named_children() if name in detector.fixed_encoder]
    return _code_of_classes({owner, *(cls for part in parts for each in part.modules() for cls in type(each).__mro__)})


def settings_differing(saved: DetectorConfig, asked: DetectorConfig) -> list[str]:
    """How two configurations of a detector differ in class, model and input, in words; defaults are filled in."""
    before, now = _settings_of(saved), _settings_of(asked)
    return [text for key in before for text in _setting(key, before[key], now[key])]


def frame_parts(frames: FrameList, people: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """A short hash of the frame list, of its labels, its methods and the people of its videos."""
    videos, keys = _videos_of(frames), _keys_of(frames)
    if isinstance(frames, ClipList):
        keys = [(video, numbers) for (video, _), numbers in zip(keys, frames.clip_numbers.tolist(), strict=True)]
    columns = {
        "frames": keys,
        "labels": frames.labels.tolist(),
        "methods": [[video.id, video.method, video.forgery_type] for video in videos],
        "people": [[video.id, *people.get(video.id, ("", ""))] for video in videos],
    }
    return {name: _short(json.dumps(column)) for name, column in columns.items()}


def pixels_part(checksums: np.ndarray) -> str:
    """A short hash of the checksums of the frames, uint32 [N]."""
    return _short(np.ascontiguousarray(checksums, "<u4"))


def identity_of(frames: FrameList, stores: Mapping[str, FrameStore]) -> str | None:
    """Tells the stored files of a frame list without reading them, see `FrameStore.identity`."""
    if isinstance(frames, ClipList):
        frames = frames.frames_read()[0]
    found = [stores[name].identity([frames.paths[i] for i in places]) for name, places in _by_store(frames).items()]
    return None if None in found else _short(json.dumps(found))


def differences(
    table: ScoreTable,
    parts: Mapping[str, Any],
    frames: FrameList,
    people: Mapping[str, tuple[str, str]],
    files: str | None,
    checksums: Callable[[], np.ndarray],
) -> list[str]:
    """What a score table was made from and what would be scored now, where they differ, in words; empty if nowhere.

    Args:
        table: The stored scores.
        parts: What would be scored now, without its pixels.
        frames: The frames that would be scored now.
        people: Of their videos.
        files: Identity of the stored files now, see `identity_of`.
        checksums: Gives the frames' checksums as they are stored now, [N], -1 for an unreadable frame. It is called
            only if the files are others, or may be, and nothing else differs.
    """
    made = table.made_from
    if made is None or table.checksums is None:
        return [NOT_KNOWN]
    found = []
    for key in sorted({*parts, *made} - {*_OF_LISTS, "pixels"}):
        found += _setting(key, made.get(key), parts.get(key))
    if any(made.get(key) != parts[key] for key in _OF_LISTS):
        found += _of_lists(table, frames, people)
    if found or (files is not None and files == table.files):
        return found
    return _of_pixels(table, frames, checksums())


def stored_checksums(frames: FrameList, stores: Mapping[str, FrameStore], jobs: int, progress: bool) -> np.ndarray:
    """Reads every frame again: its checksum, int64 [N]; -1 if it cannot be read. Of clips, see `clip_checksum`."""
    if isinstance(frames, ClipList):
        read, places = frames.frames_read()
        of_frames = stored_checksums(read, stores, jobs, progress)
        return np.asarray([clip_checksum(of_frames[clip]) for clip in places], dtype=np.int64)
    found = np.full(len(frames), -1, dtype=np.int64)
    for name, places in _by_store(frames).items():
        store = stores[name]

        def read(chunk: Sequence[int], store=store) -> list[tuple[int, int]]:
            images = store.read_each_with_checksum([frames.paths[i] for i in chunk])
            return [(i, -1 if isinstance(image, UserError) else image[1]) for i, image in zip(chunk, images)]

        for part in in_chunks(read, places, max(1, jobs), progress, "comparing frames"):
            for place, checksum in part:
                found[place] = checksum
    return found


def _by_store(frames: FrameList) -> dict[str, list[int]]:
    """Places of the frames by the name of their data set, in the order of their keys."""
    found: dict[str, list[int]] = {}
    for place in sorted(range(len(frames)), key=frames.paths.__getitem__):
        found.setdefault(frames.videos[frames.video_index[place]].dataset, []).append(place)
    return found


def _code_of(detector: Detector) -> str:
    """A short hash of the files that define a detector's networks, and of what they import; libraries' left out."""
    return _code_of_classes({cls for module in detector.modules() for cls in type(module).__mro__})


def _code_of_classes(classes: Iterable[type]) -> str:
    own = [cls for cls in classes if cls.__module__.partition(".")[0] not in _LIBRARIES]
    return _short("\n".join(sorted({_source_hash(cls) for cls in own} | _helper_hashes(own))))


def _helper_hashes(own: Iterable[type]) -> set[str]:
    """Hashes of the files that a detector's files import, and these in turn: a user's, and parts of our detectors."""
    waiting = {cls.__module__ for cls in own}
    packages = {name.partition(".")[0] for name in waiting} - {"resproto_fd"}
    seen, found = set(waiting), set()
    while waiting:
        module = sys.modules.get(waiting.pop())
        for name in _imported(module) - seen if module else ():
            seen.add(name)
            file = getattr(sys.modules.get(name), "__file__", None)
            if file and file.endswith(".py") and _is_helper(name, file, packages):
                found.add(_short(Path(file).read_bytes()))
                waiting.add(name)
    return found


def _is_helper(name: str, file: str, packages: set[str]) -> bool:
    top = name.partition(".")[0]
    if top == "resproto_fd":
        return name.startswith("resproto_fd.detectors.parts.")
    installed = {"site-packages", "dist-packages"} & set(Path(file).parts)
    return top in packages or not (installed or top in sys.stdlib_module_names or top in _LIBRARIES)


@cache
def _imported(module: ModuleType) -> set[str]:
    """Names of the modules that a module's file imports, anywhere in it."""
    try:
        tree, package = ast.parse(inspect.getsource(module)), module.__package__ or ""
    except (OSError, TypeError, SyntaxError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join(filter(None, [*parents, node.module]))
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


@cache
def _source_hash(cls: type) -> str:
    try:
        return _short(Path(inspect.getfile(cls)).read_bytes())
    except (OSError, TypeError):  # defined in a session, without a file
        return cls.__qualname__


def _short(content: str | bytes | np.ndarray) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:16]


def _setting(key: str, before: Any, now: Any, where: str = "") -> list[str]:
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            text
            for name in sorted({*before, *now})
            for text in _setting(name, before.get(name), now.get(name), f"{where}{key}.")
        ]
    name = f"{where}{key}" if where else _WORDS.get(key, key)
    return [f"{name} differs: {_shown(key, before)} -> {_shown(key, now)}"]


def _shown(key: str, value: Any) -> str:
    """A value as a user would write it."""
    if key in ("mean", "std"):
        column = ("mean", "std").index(key)
        value = next((name for name, pair in NORMALISATIONS.items() if pair[column] == value), value)
    text = "none" if value is None else str(value)
    if key == "weights":
        return text[:12]
    return text if len(text) <= 80 else f"{text[:77]}..."


def _videos_of(frames: FrameList) -> list[Video]:
    """The videos of a frame list, in order of first appearance."""
    return [frames.videos[owner] for owner in dict.fromkeys(frames.video_index.tolist())]


def _keys_of(frames: FrameList) -> list[tuple[str, int]]:
    owners = [frames.videos[owner].id for owner in frames.video_index.tolist()]
    return list(zip(owners, frames.numbers.tolist(), strict=True))


def _keys_of_table(table: ScoreTable) -> list[tuple[str, int]]:
    return list(zip(table.video.tolist(), table.frame.tolist(), strict=True))


def _of_lists(table: ScoreTable, frames: FrameList, people: Mapping[str, tuple[str, str]]) -> list[str]:
    """How the frames, their labels, methods and people differ."""
    keys = _keys_of(frames)
    before = dict(zip(_keys_of_table(table), table.label.tolist(), strict=True))
    now = dict(zip(keys, frames.labels.tolist(), strict=True))
    new, gone = [key for key in keys if key not in before], [key for key in before if key not in now]
    found = [f"{len(gone)} of {len(before)} frames are gone ({_some(gone)})"] if gone else []
    found += [f"{len(new)} of {len(now)} frames are new ({_some(new)})"] if len(new) > table.skipped else []
    if label := [key for key in keys if key in before and before[key] != now[key]]:
        found.append(f"labels of {len(label)} of {len(now)} frames differ ({_some(label)})")
    methods = zip(table.video_method.tolist(), table.video_type.tolist(), strict=True)
    method_of, person_of = dict(zip(table.videos.tolist(), methods, strict=True)), table.people()
    videos = [video for video in _videos_of(frames) if video.id in method_of]
    for what, other in (
        ("methods", [v.id for v in videos if method_of[v.id] != (v.method, v.forgery_type)]),
        ("people", [v.id for v in videos if person_of.get(v.id, ("", "")) != tuple(people.get(v.id, ("", "")))]),
    ):
        if other:
            found.append(f"{what} of {len(other)} of {len(videos)} videos differ ({', '.join(other[:NAMED])})")
    return found or ["the frames are in another order, or others are left out"]


def _of_pixels(table: ScoreTable, frames: FrameList, now: np.ndarray) -> list[str]:
    stored = dict(zip(_keys_of_table(table), table.checksums.tolist(), strict=True))
    before = np.asarray([stored.get(key, -1) for key in _keys_of(frames)], dtype=np.int64)
    other = np.flatnonzero(before != now)
    if not len(other):
        return []
    names = ", ".join(frames.paths[i] for i in other[:NAMED])
    if (before[other] < 0).all():
        return [f"{len(other)} frames that could not be read can be read now ({names})"]
    return [f"frames of {len(other)} keys hold other pixels ({names})"]


def _some(keys: Sequence[tuple[str, int]]) -> str:
    more = f" and {len(keys) - NAMED} more" if len(keys) > NAMED else ""
    return ", ".join(f"{video} frame {number}" for video, number in keys[:NAMED]) + more
