"""Feeds spoiled files to every reader for as long as you like: a reader may refuse a file, and do nothing else.

    python benchmarks/fuzz.py --minutes 5                 # each reader in turn, for five minutes in all
    python benchmarks/fuzz.py --minutes 60 --reader json  # one reader

Minutes are processor time, so that a busy machine tries as many files as a quiet one.
A file is a whole one of its kind with a few changes, of its bytes or, for JSON and npz, of its values. What breaks a
reader is printed with its traceback and kept under `--out`; put it into `BROKE` of tests/test_fuzz.py.
"""

import argparse
import contextlib
import copy
import hashlib
import io
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes

from resproto_fd.configs import deepfakebench, loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.readers.json_reader import parse_json
from resproto_fd.configs.schema import RunConfig
from resproto_fd.detectors.weights import read_state_dict
from resproto_fd.preprocessing.arrangers import lists
from resproto_fd.preprocessing.arrangers.adopt import adopt
from resproto_fd.preprocessing.faces.job import FORMAT as FACES
from resproto_fd.preprocessing.faces.job import read_record
from resproto_fd.preprocessing.faces.media import Media
from resproto_fd.preprocessing.manifest import listed_frames, read_manifest
from resproto_fd.preprocessing.side_file import FORMAT as SIDE
from resproto_fd.preprocessing.side_file import read_captions, read_side
from resproto_fd.preprocessing.store import beside_frames, image_codec
from resproto_fd.preprocessing.taxonomy import load_taxonomy
from resproto_fd.preprocessing.video import Video
from resproto_fd.trainer import checkpoint
from resproto_fd.trainer.encoded import Shelf
from resproto_fd.trainer.frame_list import FrameList
from resproto_fd.training.board.collecting import collect
from resproto_fd.training.board.index_page import render
from resproto_fd.training.board.row_page import render_row
from resproto_fd.training.board.score_facts import ScoreReader
from resproto_fd.training.board.table import sections
from resproto_fd.training.calibration import KINDS, RATES, Calibration
from resproto_fd.training.commands.submit import read_scores
from resproto_fd.training.features import load_features, save_features
from resproto_fd.training.grouping import read_groups
from resproto_fd.training.packages import contents
from resproto_fd.training.published import load_published, published_folder
from resproto_fd.training.results import RunResult, Selection, test_result
from resproto_fd.training.scores import ScoreTable
from resproto_fd.training.sweeps.cells import cells_of

LONGEST_MESSAGE = 100_000
Below = Callable[[int], int]
"""Draws a whole number from 0 up to, and without, the given one."""

WORDS = [
    b"", b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b"\n", b"\r", b"\t",
    b" ", b"{", b"}", b"[", b"]", b":", b",", b'"', b"'", b"\\", b"-", b"#", b"&a ", b"*a", b"? ", b"!!int ", b"1",
    b"!!bool ", b"<<: ", b"!!python/name:os.system ", b"!!timestamp ", b"%YAML 1.2\n---\n", b"---\n", b"0_1", b"017",
    b"1:30", b"1e400", b"-1", b"NaN", b"Infinity", b".inf", b"null", b"true", b"9" * 25, b"9" * 5000, b"..", b"/",
    b"9223372036854775808", "\u0661".encode(), b"2001-99-99", b"{}", b"[]", b"[" * 100, b"{a: " * 50, b"[" * 5000,
    b"frames", b"a" * 5000,
]  # fmt: skip
"""Put into texts."""
VALUES = [
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, "", "x", "real", "0", "/", "..", "\n",
    "a/../b", "\0", "é", "\ud800", "9" * 25, "9" * 5000, "x" * 300, [], {}, [[]], [{}], {"": {}}, {"frames": []}, [1],
    ["x"], {"label": "real", "frames": ["x"]}, {"x": 1}, "test", "c23", {"c23": {}},
]  # fmt: skip
"""Put into JSON."""
ARRAYS = [
    np.array(0), np.array(-1), np.array(2**63, np.uint64), np.array("x"), np.array(""), np.array(np.nan), np.array(1j),
    np.array([0.5]), np.zeros(0), np.zeros((2, 2)), np.zeros(6), np.zeros(6, int), np.full(6, -5), np.ones(6, bool),
    np.array([2**62] * 6), np.array(["x"] * 6), np.array([""] * 2), np.array(["a\0b", "c"]), np.array([["a", "b"]] * 2),
    np.zeros(2, "M8[s]"), np.zeros(2, "V4"), np.zeros(6, ">f8"), np.zeros(6, "<f2"), np.array([b"x"] * 6),
    np.zeros(6, np.longdouble), np.arange(6, dtype=">i4"), np.array(["\ud800", "b"]), np.zeros(6, [("a", "f4")]),
    np.zeros((6, 3), int), np.array(1), np.full((6, 3), 2**63, np.uint64), np.zeros((6, 2000), int),
    np.zeros((6, 1), int),
]  # fmt: skip
"""Put into npz files."""
PACKED = (contents.CONFIG, contents.WEIGHTS, contents.RESULT)


@dataclass(frozen=True)
class Reader:
    """A reader that is fuzzed.

    Attributes:
        name: The name of the file that it reads.
        whole: Whole files.
        read: Reads the file, in a folder of its own, and uses what it has read.
        kind: "text", "json" or "npz": how a whole file is spoiled, apart from its bytes.
    """

    name: str
    whole: list[bytes]
    read: Callable[[Path], object]
    kind: str = "text"


def spoiled(reader: Reader, below: Below) -> bytes:
    """A whole file of the reader's kind with up to four changes."""
    data = reader.whole[below(len(reader.whole))]
    if reader.kind != "text" and below(3):
        return {"json": _other_values, "npz": _other_arrays}[reader.kind](data, below)
    for _ in range(below(4) + 1):
        start = below(len(data) + 1)
        end = min(len(data), start + (below(40) if below(2) else below(len(data) + 1) // 4))
        word = WORDS[below(len(WORDS))] if below(4) else data[below(len(data) + 1) :][: below(60)]
        data = data[:start] + word + data[end if below(2) else start :]
    return data


def _other_values(data: bytes, below: Below) -> bytes:
    lines = [json.loads(line) for line in data.splitlines()] if data.count(b"\n") else [json.loads(data)]
    for _ in range(below(3) + 1):
        at = below(len(lines))
        lines[at] = _changed(lines[at], below)
    return "\n".join(json.dumps(line) for line in lines).encode()


def _changed(value, below: Below):
    """The value with one of its parts, at any depth, replaced, removed or added."""
    if isinstance(value, dict | list) and value and below(6):
        value = copy.copy(value)
        key = list(value)[below(len(value))] if isinstance(value, dict) else below(len(value))
        if not below(8):
            del value[key]
        elif isinstance(value, dict) and not below(8):
            other = VALUES[below(len(VALUES))]
            value[other if isinstance(other, str) else "new"] = value[key]
        else:
            value[key] = _changed(value[key], below)
        return value
    return copy.deepcopy(VALUES[below(len(VALUES))])


def _other_arrays(data: bytes, below: Below) -> bytes:
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    for _ in range(below(2) + 1):
        names = [*arrays, "variant/new", "new", "answered", "video_people", "clips", "short_videos"]
        name = names[below(len(names))]
        other, shape = ARRAYS[below(len(ARRAYS))], arrays.get(name, np.zeros(6)).shape
        if not below(6):
            arrays.pop(name, None)
        elif other.size and below(2):  # of the right shape
            arrays[name] = np.full(shape, other.reshape(-1)[0], other.dtype)
        else:
            arrays[name] = other
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def readers() -> dict[str, Reader]:
    """All readers by name."""
    folder = Path(str(files("resproto_fd.configs")))
    presets = [(folder / "detectors" / f"{name}.yaml").read_bytes() for name in ("resproto_fd", "ucf")]
    presets.append(b"detector: clip_tiny\nmodel: {temperature: 0.1}\ninput: {size: 32, mean: [0.5, 0.5, 0.5]}\n")
    theirs = b"model_name: ucf\noptimizer: {type: adam, adam: {lr: 2e-4, beta1: 0.9}}\nnEpochs: 9\n"
    theirs += b"frame_num: {train: 32}\n"
    protocol = [(folder / "protocols" / f"{name}.yaml").read_bytes() for name in ("demo_cross", "ffpp_c23_cross")]
    dataset = b"json: a.json\nstore: a\nlabels: {x: real, y: {method: M, type: editing}}\n"
    words = [b"model.top_k=16", b"train.optimizer.lr=1e-3", b"seed=3", b"input={size: 8}"]
    value = b'{"a": [1, 2.5, null, true, "x\\u00e9"], "b": {"c": -1}}'
    manifests = [_bytes(_manifest()), _bytes(_manifest(levels=True))]
    captions = b'{"frame": "D/a/0.png", "facial": "x"}\n{"video": "D/a", "environmental": "y"}'
    scores = b"test_set,frame,score\nD,D/r1/000.png,0.5\nD,D/r1/001.png,nan\n"
    groups = b'video,identity,note\nD/a,p1,x\nD/b,,"y, z"\n'
    sweep = b"title: s\nseeds: [0, 1]\nneeds: {cards: 0, cpus: 1}\nsettings: [train.epochs=1]\ncells:\n"
    sweep += b"  - detectors: [clip_tiny, resnet_tiny]\n    protocols: [demo_cross]\n"
    shelf_names = np.arange(6, dtype="<u8").reshape(3, 2)
    return {
        "detector": Reader("x.yaml", presets, lambda path: loading.resolve(str(path), "demo_cross")),
        "deepfakebench": Reader("x.yaml", [theirs], _read_deepfakebench),
        "protocol": Reader("x.yaml", protocol, lambda path: loading.load("protocols", str(path))),
        "dataset": Reader("x.yaml", [dataset], _read_dataset),
        "setting": Reader("word", words, _read_setting),
        "run": Reader("config.yaml", [loading.dump(loading.resolve("clip_tiny", "demo_cross")).encode()], _read_run),
        "json": Reader("x.json", [value], _read_json, "json"),
        "manifest": Reader("D.json", manifests, _read_manifest, "json"),
        "adopted": Reader("D.json", manifests, lambda path: adopt(path, path.parent), "json"),
        "side": Reader("D.side.jsonl", [_side()], _read_side, "json"),
        "captions": Reader("c.jsonl", [captions], read_captions, "json"),
        "faces": Reader("a.json", [_bytes(_record())], _read_faces, "json"),
        "lists": Reader("list", _lists(), _read_lists),
        "scores csv": Reader("s.csv", [scores], _read_csv),
        "published": Reader("gm_df.csv", [(published_folder() / "gm_df.csv").read_bytes()], _read_published),
        "features": Reader("D.npz", [_features_bytes()], lambda path: load_features(path, _table()), "npz"),
        "scores": Reader("D.npz", [_saved(each().save) for each in (_table, _clip_table)], _read_table, "npz"),
        "result": Reader("result.json", [_result_bytes(), _clip_result_bytes()], _read_result, "json"),
        "sweep": Reader("s.yaml", [sweep], _read_sweep),
        "groups": Reader("g.csv", [groups], lambda path: read_groups(["identity"], [path])),
        "calibration": Reader("calibration.json", [_calibration()], _read_calibration, "json"),
        "package": Reader("package.json", [_package()], _read_package, "json"),
        "encoded": Reader("e.npz", [_shelf(shelf_names)], partial(_read_shelf, shelf_names), "npz"),
        "frame": Reader("f", _pictures(), _read_frame),
        "landmarks": Reader("l.npy", _landmarks(), lambda path: beside_frames.decode_landmarks(path.read_bytes(), "l")),
        "weights": Reader("w.pth", _weights(), read_state_dict),
        "safetensors": Reader("w.safetensors", [safetensors_bytes(_tensors())], read_state_dict),
        "checkpoint": Reader("best.pt", [_checkpoint()], _read_checkpoint),
    }


def _lists() -> list[bytes]:
    dfdcp = {"method_A/1/v.mp4": {"label": "fake", "set": "train", "target_id": 3}}
    dfdc = {"v.mp4": {"label": "FAKE", "original": "o.mp4"}}
    texts = [b"filename,label\nv.mp4,1\n", b"1 YouTube-real/00170.mp4\n", b"image_name a b c\nx/y.png 1 1 3\n"]
    return [_bytes([["a", "b"]]), _bytes(dfdcp), _bytes(dfdc), *texts]


def _bytes(value) -> bytes:
    return json.dumps(value).encode()


def _manifest(levels: bool = False) -> dict:
    found = {}
    for kind, videos in {"real": ("r1", "r2"), "fake": ("f1", "f2")}.items():
        label = f"CelebDFv2_{kind}"
        frames = {name: [f"D\\{name}\\frames\\{name}\\{i:03d}.png" for i in range(2)] for name in videos}
        table = {name: {"label": label, "frames": paths} for name, paths in frames.items()}
        found[label] = {"train": {}, "val": {}, "test": {"c23": table} if levels else table}
    return {"D": found}


def _side() -> bytes:
    record = {"id": "D/a", "splits": ["train"], "label": 1, "label_name": "x", "method": "m", "forgery_type": "editing"}
    record |= {"target": "p", "media": {"fps": 25.0, "width": 8, "several": [1]}, "captions": {"*": {"facial": "x"}}}
    return b"\n".join(_bytes(line) for line in ({"format": SIDE, "dataset": "D"}, record, {**record, "id": "D/b"}))


def _record() -> dict:
    facts = {
        "bytes": 9,
        "frames": 3,
        "width": 8,
        "height": 8,
        "fps": 25.0,
        "codec": "h264",
        "damage": "",
        "masks": None,
    }
    numbers = {key: [0, 1] for key in ("wanted", "missed", "unreadable")}
    found = {"options": {"size": 8}, "kept": [{"frame": 0}], "several": {"0": 2}}
    return {"format": FACES, "source": "a", "status": "done", **facts, **numbers, **found}


def _table() -> ScoreTable:
    owners, kinds = ["a"] * 3 + ["b"] * 3, ["real"] * 3 + ["swap"] * 3
    scores = np.linspace(0.1, 0.9, 6)
    return ScoreTable("D", owners, [0, 1, 2] * 2, [0] * 3 + [1] * 3, kinds, scores, variants={"clip": scores[::-1]})


def _clip_table() -> ScoreTable:
    whole, starts = _table(), np.arange(6) % 3
    of_rows = {name: getattr(whole, name) for name in ("video", "label", "method", "score", "variants")}
    return ScoreTable("D", frame=starts, clips=starts[:, None] + np.arange(3), short_videos=1, **of_rows)


def _features_bytes() -> bytes:
    return _saved(lambda path: save_features(path, np.zeros((6, 3)), _table()))


def _saved(save: Callable[[Path], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "D.npz")
        return (Path(folder) / "D.npz").read_bytes()


def _result_bytes() -> bytes:
    test = test_result(_table(), in_domain=False)
    plain = {key: value for key, value in test.model_dump(mode="json").items() if value is not None}
    result = RunResult(
        detector="d", title="D", protocol="p", fingerprint="f" * 16, seed=0, tests={"D": plain},
        config={"protocol": {"train": ["T"], "test": ["D"]}, "detector": {"train": {"epochs": 3}}, "run": {}},
        selected_on=Selection(rule="best", dataset="T", split="val", metric="frame_auc", epoch=1, value=0.5),
        robustness={"D": {"blur": {"1": test.variants["clip"]}}}, cross_auc={"D": {"D": 0.5}},
        timing={"train_seconds": 3.0}, overrides=["model.top_k=3"], parameters=9, trained_on=["T"],
    )  # fmt: skip
    return _bytes(result.model_dump(mode="json"))


def _clip_result_bytes() -> bytes:
    test = test_result(_clip_table(), in_domain=False)
    result = RunResult(
        detector="d", title="D", protocol="p", fingerprint="f" * 16, seed=0, tests={"D": test},
        config={"protocol": {"train": ["T"], "test": ["D"]}, "detector": {"input": {"stride": 2, "short": "mirror"}}},
        selected_on=Selection(rule="best", dataset="T", split="val", metric="video_auc", epoch=1, value=0.5),
        robustness={"D": {"blur": {"1": test.variants["clip"]}}}, trained_on=["T"],
    )  # fmt: skip
    return _bytes(result.model_dump(mode="json"))


def _calibration() -> bytes:
    estimate = {"value": 0.1, "low": 0.0, "high": 0.3}
    threshold = {"threshold": 0.5, "false_alarms": estimate, "misses": estimate, "elsewhere": {}}
    calibrators = {"temperature": {"temperature": [2.0]}, "platt": {"intercept": [0.1], "slope": [1.0]}}
    calibrators["isotonic"] = {"scores": [0.1, 0.9], "shares": [0.0, 1.0]}
    level = {"count": 9, "reals": 4, "fakes": 0.5, "before": {"ece": 0.1, "brier": 0.2}, "calibrators": calibrators}
    level |= {"thresholds": {f"{rate:g}": threshold for rate in RATES}}
    reference = {"frames": 3, "frame_side": 8, "sharp": 0.1, "far": 0.5, "neighbours": 1, "distances": {"0.5": 0.1}}
    digests = dict.fromkeys(("weights", "tensors", "settings", "scores"), "0" * 64)
    about = {"version": 1, "dataset": "D", "split": "val", "levels": {"frame": level, "video": level}}
    return _bytes({**digests, **about, "reference": reference})


def _package() -> bytes:
    return _bytes({"format": 1, "files": {name: hashlib.sha256(b"").hexdigest() for name in PACKED}})


def _shelf(names: np.ndarray) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        Shelf(Path(folder)).put(names, torch.ones(len(names), 4))
        return next(Path(folder).glob("*.npz")).read_bytes()


def _pictures() -> list[bytes]:
    image = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)
    encoded = [cv2.imencode(kind, image)[1].tobytes() for kind in (".png", ".jpg", ".bmp", ".tiff", ".webp")]
    progressive = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    return [*encoded, progressive, image_codec.encode_native(image)]


def _landmarks() -> list[bytes]:
    out = io.BytesIO()
    np.save(out, np.zeros((5, 2)))
    return [out.getvalue(), np.zeros(beside_frames.LANDMARKS, "<i4").tobytes()]


def _tensors() -> dict[str, torch.Tensor]:
    return {"module.a": torch.zeros(2, 3), "module.b": torch.ones(2, dtype=torch.int64)}


def _weights() -> list[bytes]:
    found = []
    for zipped in (True, False):
        out = io.BytesIO()
        torch.save({"state_dict": _tensors()}, out, _use_new_zipfile_serialization=zipped)
        found.append(out.getvalue())
    return found


def _checkpoint() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder) / "best.pt", {"model": _tensors(), "history": [], "epoch": 1})
        return (Path(folder) / "best.pt").read_bytes()


def _read_deepfakebench(path: Path) -> None:
    values = loading.load_yaml(path, lenient=True)
    if deepfakebench.is_deepfakebench(values):
        name, given, _ = deepfakebench.translate(values, str(path))
        loading.resolve(name, "demo_cross", given)


def _read_dataset(path: Path) -> None:
    load_taxonomy().extended(loading.load("datasets", str(path)).labels, f"{path}: labels")


def _read_setting(path: Path) -> None:
    word = path.read_bytes().decode("utf-8", "surrogateescape")
    loading.resolve("clip_tiny", "demo_cross", loading.parse_overrides([word]))


def _read_side(path: Path) -> None:
    for record in read_side(path).records.values():
        dict(record.facts)
        hash((record.roles, record.people, record.caption("D/a/0.png", "facial")))


def _read_run(path: Path) -> None:
    config = loading.validated(RunConfig, loading.load_yaml(path), str(path))
    loading.dump(config)


def _read_json(path: Path) -> None:
    json.dumps(parse_json(path.read_bytes(), str(path)), allow_nan=False).encode()


def _read_manifest(path: Path) -> None:
    try:
        videos = read_manifest(path, "D", split="test", folder="D")
        FrameList.of(list(videos), 32).digest()
    finally:
        listed_frames(path, folder="D")


def _read_faces(path: Path) -> None:
    read_record(path.parent, SimpleNamespace(record=path.name))
    folder = path.parent / ".faces" / "records"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, folder / "a.json")
    Media(path.parent).of("a", Video("D", "test", "D/a", 0, "real", "real", "real", ("D/a/0.png",)))


def _read_lists(path: Path) -> None:
    places = {
        lists.ffpp_lists: ["FaceForensics++/train.json", "FaceForensics++/val.json", "FaceForensics++/test.json"],
        lists.dfdcp_list: ["DFDCP/dataset.json"],
        lists.dfdc_lists: ["DFDC/train/p/metadata.json", "DFDC/test/labels.csv"],
        lists.forgerynet_lists: ["ForgeryNet/Test/image_list.txt"],
        lambda root: lists.celeb_list(root, "Celeb-DF-v2"): ["Celeb-DF-v2/List_of_testing_videos.txt"],
    }
    for read, names in places.items():
        for name in names:
            (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, path.parent / name)
        with contextlib.suppress(UserError):
            read(path.parent)


def _read_csv(path: Path) -> None:
    paths = ("D/r1/000.png", "D/r1/001.png")
    read_scores(path, {"D": FrameList.of([Video("D", "test", "D/r1", 0, "real", "real", "real", paths)], None)})


def _read_published(path: Path) -> None:
    for other in published_folder().iterdir():
        if other.is_file() and other.name != path.name and not (path.parent / other.name).exists():
            shutil.copy(other, path.parent / other.name)
    for row in load_published(path.parent):
        assert len(str(row.printed)) < 40


def _read_table(path: Path) -> None:
    table = ScoreTable.load(path)
    result = test_result(table)
    run = RunResult(detector="d", title="d", protocol="p", fingerprint="f" * 16, seed=0, config={}, tests={"D": result},
                    selected_on=Selection(rule="last"))  # fmt: skip
    reader = ScoreReader()
    folder = path.parent / "run"
    (folder / "scores").mkdir(parents=True, exist_ok=True)
    shutil.copy(path, folder / "scores" / "D.npz")
    run.save(folder / "result.json")
    _render([run], reader)


def _read_result(path: Path) -> None:
    results, _ = collect([path])
    _render(results, ScoreReader())


def _read_sweep(path: Path) -> None:
    cells_of(loading.load("sweeps", str(path)), path.parent)


def _read_calibration(path: Path) -> None:
    level = Calibration.load(path.parent).levels["video"]
    for kind in KINDS:
        level.calibrator(kind)(np.linspace(0, 1, 5))


def _read_package(path: Path) -> None:
    for name in PACKED:
        (path.parent / name).touch()
    contents.check(path.parent)


def _read_shelf(names: np.ndarray, path: Path) -> None:
    with contextlib.redirect_stderr(io.StringIO()):  # a damaged file costs a note
        Shelf(path.parent).take(names)


def _read_frame(path: Path) -> None:
    data = path.read_bytes()
    for use in (image_codec.decode_frame, image_codec.decode_mask, image_codec.check_value):
        with contextlib.suppress(UserError):
            use(data, path.name)


def _read_checkpoint(path: Path) -> None:
    checkpoint.record_in(path)
    checkpoint.load(path)


def _render(results: list[RunResult], reader: ScoreReader) -> None:
    tables = sections(results, reader)
    render(tables, []).encode()
    for section in tables:
        for row in section.rows:
            render_row(section, row).encode()


def breaks(reader: Reader, data: bytes, folder: Path) -> str:
    """The traceback of what a file breaks; empty if it is read or refused."""
    path = folder / reader.name
    path.write_bytes(data)
    try:
        reader.read(path)
    except UserError as error:
        if len(str(error)) > LONGEST_MESSAGE:
            return f"a message of {len(str(error))} characters\n"
    except Exception:
        return traceback.format_exc()
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description="Feeds spoiled files to every reader.")
    parser.add_argument("--minutes", type=float, default=1.0, help="in all, of the processor (default: %(default)s)")
    parser.add_argument("--reader", choices=list(readers()), help="one reader (default: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("fuzz"), help="where what breaks a reader is kept")
    args = parser.parse_args()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    warnings.simplefilter("ignore")
    chosen = {name: each for name, each in readers().items() if args.reader in (None, name)}
    counts, sites = {}, {}
    for name, reader in chosen.items():
        rng, end = random.Random(f"{args.seed} {name}"), time.process_time() + args.minutes * 60 / len(chosen)
        counts[name] = 0
        with tempfile.TemporaryDirectory() as folder:
            while time.process_time() < end:
                data = spoiled(reader, rng.randrange)
                counts[name] += 1
                if fault := breaks(reader, data, Path(folder)):
                    site = (name, *[line for line in fault.splitlines() if line.startswith("  File")][-1:])
                    if site not in sites:
                        sites[site] = data
                        args.out.mkdir(parents=True, exist_ok=True)
                        kept = args.out / f"{name.replace(' ', '_')}_{len(sites)}"
                        kept.write_bytes(data)
                        print(f"{name}: {fault}kept as {kept}", flush=True)
        print(f"{name}: {counts[name]} files", flush=True)
    print(
        json.dumps(
            {"benchmark": "fuzz", "files": counts, "minutes_each": args.minutes / len(chosen), "faults": len(sites)}
        )
    )
    sys.exit(bool(sites))


if __name__ == "__main__":
    main()
