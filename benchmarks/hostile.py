"""2,100 hostile files through the readers and commands, each in a process that may take 2 GiB.

    python benchmarks/hostile.py                       # all, some minutes on two cores
    python benchmarks/hostile.py --share 0.02 --out d  # a few of each kind; what breaks is kept in d

Files are spoiled in their bytes or values (as `fuzz.py` does it), or ask for far more than they hold: YAML, JSON, CSV,
npz, LMDB stores, pictures, videos, checkpoints, manifests, result files and submissions. Each is read in a forked
process whose data may be 2 GiB (RLIMIT_DATA). There are three good ends: the file is *refused* with exit status 2 and a
message that names it, left *out* of a board that names it, or *read*, since it is still whole or its damage is in what
nobody asks for. Anything else (a traceback, a signal, no memory, a minute) is a fault, and so is a message without the
name.

The last line is one JSON object.
"""
# ruff: noqa: E402  (threads are capped before NumPy and torch are imported)

import argparse
import io
import json
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import cv2
import fuzz
import numpy as np
import torch
from fuzz import Below

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.detectors.registry import build_detector
from resproto_fd.detectors.weights import read_state_dict
from resproto_fd.preprocessing.demo.data import make_demo
from resproto_fd.preprocessing.faces.picture_reader import UnreadableMedia, read_picture_noted
from resproto_fd.preprocessing.faces.video_reader import VideoFile
from resproto_fd.preprocessing.manifest import listed_frames
from resproto_fd.preprocessing.store.frame_store import open_store
from resproto_fd.preprocessing.store.image_codec import check_value, decode_frame, decode_mask
from resproto_fd.preprocessing.store.pack import pack
from resproto_fd.trainer import checkpoint
from resproto_fd.training import cli
from resproto_fd.training.lineage import origin_of
from resproto_fd.training.scores import ScoreTable

LIMIT, SECONDS, PATIENCE = 2 << 30, 60, 600
"""Bytes of data and seconds of processor time that a process may take, and seconds until it is ended anyway."""
OUT_OF_MEMORY = "not enough memory"
TRACEBACK = 70  # exit status of a process that would have printed one
QUICK = ["run.workers=0", "run.device=cpu", "run.progress=false"]
Read = Callable[[], int | None]
"""Reads the file; a command returns its exit status."""


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        name: Shown.
        count: How many are tried.
        make: Makes one in a folder of its own: (what the message must name, how it is read).
    """

    name: str
    count: int
    make: Callable[[Path, Below], tuple[str, Read]]


class Whole:
    """Whole files to be spoiled: demo data, a small store of each codec, a test's result, weights, pictures, a film."""

    def __init__(self, root: Path, data: Path | None):
        self.root, self.data = root, data or root / "data"
        if data is None:
            make_demo(self.data, size="tiny", workers=1)
        store, manifest = open_store(self.data / "lmdb" / "Demo-C_lmdb"), self.data / "dataset_json" / "Demo-C.json"
        for frame in listed_frames(manifest):
            target = root / "frames" / frame
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(store.read_bytes(frame))
        self.keys = sorted(str(path.relative_to(root / "frames")) for path in (root / "frames").rglob("*.png"))
        self.codecs = ("native", "png")
        for codec in self.codecs:
            pack([manifest], root / f"{codec}_lmdb", frames=root / "frames", codec=codec)
        config = loading.load("detectors", "resnet_tiny")
        state = build_detector(config).state_dict()
        checkpoint.save(root / "best.pt", {"model": state, "epoch": 0, "step": 1, "fingerprint": "f" * 16})
        torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, root / "weights.pth")
        words = ["test", "--detector", "clip_zero_shot_tiny", "--protocol", "demo_cross", "--test_dataset", "Demo-C"]
        assert cli.main([*words, "--out", str(root / "runs"), f"data.root={self.data}", *QUICK]) == 0
        (self.run,) = (path.parent for path in (root / "runs").rglob("result.json"))
        image = cv2.imread(str(root / "frames" / self.keys[0]))
        endings = ("png", "jpg", "webp", "bmp", "tiff", "ppm", "jp2")
        self.pictures = {ending: cv2.imencode(f".{ending}", image)[1].tobytes() for ending in endings}
        self.films = {ending: self._film(f"a.{ending}", code) for ending, code in (("avi", "MJPG"), ("mp4", "mp4v"))}

    def _film(self, name: str, code: str) -> bytes:
        out = cv2.VideoWriter(str(self.root / name), cv2.VideoWriter_fourcc(*code), 25, (64, 48))
        for i in range(20):
            out.write(np.full((48, 64, 3), 12 * i, np.uint8))
        out.release()
        return (self.root / name).read_bytes()


def kinds(whole: Whole) -> list[Kind]:
    """All kinds; 2,100 files."""
    found = [Kind(f"{name}, spoiled", 40, _spoiled(reader)) for name, reader in fuzz.readers().items()]
    found += [Kind(name, 2 if "zeros" in name else 4, _bomb(*each)) for name, each in bombs().items()]
    found += [
        Kind("LMDB store, spoiled", 240, lambda folder, below: _store(whole, folder, below)),
        Kind("picture, spoiled", 250, lambda folder, below: _picture(whole, folder, below)),
        Kind("video, spoiled", 80, lambda folder, below: _video(whole, folder, below)),
        Kind("checkpoint, spoiled", 120, lambda folder, below: _weights(whole, folder, below)),
        Kind("checkpoint of other contents", 60, lambda folder, below: _contents(folder, below)),
    ]
    for name, make in COMMANDS.items():
        found.append(Kind(name, 23, lambda folder, below, make=make: make(whole, folder, below)))
    return found


def _spoiled(reader: fuzz.Reader):
    def make(folder: Path, below: Below) -> tuple[str, Read]:
        (folder / reader.name).write_bytes(fuzz.spoiled(reader, below))
        # A word of the command line is its own name, and the words of the lists' reader lie in many files.
        return "" if reader.name in ("word", "list") else reader.name.partition(".")[0], lambda: reader.read(
            folder / reader.name
        )

    return make


def changed(data: bytes, below: Below, most: int = 64) -> bytes:
    """Bytes with some of them flipped, cut off, removed, repeated, zeroed, or put in from elsewhere."""
    content = bytearray(data)
    for _ in range(1 + below(4)):
        at = below(len(content) + 1)
        length = min(1 + (below(most) if below(3) else below(len(content) + 1)), len(content) - at)
        way = below(6)
        if way == 0:
            del content[at:]
        elif way == 1:
            content[at : at + length] = bytes(length)
        elif way == 2:
            del content[at : at + length]
        elif way == 3:
            content[at:at] = content[at : at + length]
        elif way == 4:
            content[at : at + length] = bytes(below(256) for _ in range(min(length, 4096)))
        elif len(content):
            content[min(at, len(content) - 1)] ^= 1 << below(8)
        if not content:
            break
    return bytes(content)


# --- files that ask for more than they hold --------------------------------------------------------------------------


def bombs() -> dict[str, tuple[Callable[[Path, Below], None], Callable[[Path], object]]]:
    """Name -> (writes it, reads it)."""
    manifest = fuzz.readers()["manifest"].read
    return {
        "YAML, aliases": (_alias_bomb, lambda path: loading.load("detectors", _as(path, ".yaml"))),
        "YAML, nested": (_nested, lambda path: loading.load("detectors", _as(path, ".yaml"))),
        "JSON, nested": (_nested, manifest),
        "JSON, many": (lambda path, below: path.write_bytes(b"[" + b"{}," * (10**7 + below(10**6)) + b"{}]"), manifest),
        "JSON, sparse": (lambda path, below: os.truncate(_touched(path), (4 + below(4)) << 30), manifest),
        "npz of zeros": (_npz_bomb, ScoreTable.load),
        "checkpoint of zeros": (_zeros, checkpoint.load),
        "weights of zeros": (_zeros, read_state_dict),
        "weights, expanded": (_expanded, read_state_dict),
        "PNG, large": (_large_png, lambda path: decode_frame(path.read_bytes(), path.name)),
        "PNG mask, large": (_large_png, lambda path: decode_mask(path.read_bytes(), path.name)),
        "PNG for faces": (_large_png, _face_picture),
        "BMP, large": (_large_bmp, _face_picture),
    }


def _face_picture(path: Path) -> None:
    """Reads a picture for `resproto faces`, which puts the name before the message."""
    try:
        read_picture_noted(path)
    except (UserError, UnreadableMedia) as error:
        raise UserError(f"{path}: {error}") from error


def _as(path: Path, suffix: str) -> str:
    """The file under a name that its reader takes."""
    return str(path.rename(path.with_suffix(suffix)))


def _touched(path: Path) -> Path:
    path.touch()
    return path


def _alias_bomb(path: Path, below: Below) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 8 + below(20))]
    path.write_text("title:\n" + "".join(f"  {line}\n" for line in lines))


def _nested(path: Path, below: Below) -> None:
    path.write_bytes([b"[", b"{a: ", b'{"a":', b"- "][below(4)] * (10**6 + below(10**6)))


def _npz_bomb(path: Path, below: Below) -> None:
    name, head = ("score.npy", "label.npy")[below(2)], {"descr": "<f8", "fortran_order": False, "shape": (5 << 26,)}
    packed = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1)
    with packed as archive, archive.open(name, "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, head)
        for _ in range(40):
            file.write(bytes(64 << 20))


def _zeros(path: Path, below: Below) -> None:
    """A packed archive of zeros, which torch.save would not write."""
    buffer = io.BytesIO()
    torch.save({"format": 1, "model": {"w": torch.zeros(8)}}, buffer)
    with zipfile.ZipFile(buffer) as given, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in given.infolist():
            with archive.open(member.filename, "w", force_zip64=True) as file:
                file.write(given.read(member))
                for _ in range(40 if "/data/" in member.filename else 0):
                    file.write(bytes(64 << 20))


def _expanded(path: Path, below: Below) -> None:
    torch.save({"w": torch.zeros(1).expand(1 << (33 + below(6)))}, path)


def _large_png(path: Path, below: Below) -> None:
    """Black, whole and of 15,000 pixels a side or so, or of up to 60,000 and cut."""
    whole = below(2)
    width = height = 12_000 + below(3_000) if whole else 20_000 + below(40_000)
    packer, row = zlib.compressobj(1), bytes(1 + 3 * width)
    data = b"".join([packer.compress(row) for _ in range(height if whole else 10)] + [packer.flush()])
    parts = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")
    chunks = (struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in parts)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def _large_bmp(path: Path, below: Below) -> None:
    size = 30_000 + below(30_000)
    header = struct.pack("<IiiHHIIiiII", 40, size, size, 1, 24, 0, 0, 2835, 2835, 0, 0)
    path.write_bytes(struct.pack("<2sIHHI", b"BM", 54 + 100, 0, 0, 54) + header + bytes(100))


def _bomb(write: Callable[[Path, Below], None], read: Callable[[Path], object]):
    def make(folder: Path, below: Below) -> tuple[str, Read]:
        write(folder / "bomb", below)
        return "bomb", lambda: read(folder / "bomb")

    return make


# --- stores, pictures, videos, weights -------------------------------------------------------------------------------


def _store(whole: Whole, folder: Path, below: Below) -> tuple[str, Read]:
    codec = whole.codecs[below(2)]
    shutil.copytree(whole.root / f"{codec}_lmdb", folder / "s_lmdb")
    path = folder / "s_lmdb" / "data.mdb"
    with open(path, "r+b") as file:  # pages and what is in them; many times, as few of them are asked for
        size = path.stat().st_size
        for _ in range(1 + below(8)):
            at = below(size) if below(4) else below(4) * 4096 + below(100)
            file.seek(at)
            file.write(bytes(below(256) for _ in range(1 + below(64))))
        if not below(4):
            file.truncate(below(size))

    def read() -> None:
        store = open_store(folder / "s_lmdb")
        store.missing(whole.keys)
        store.identity(whole.keys)
        for image in store.read_each(whole.keys):
            if isinstance(image, UserError):
                raise image

    return "s_lmdb", read


def _picture(whole: Whole, folder: Path, below: Below) -> tuple[str, Read]:
    ending = list(whole.pictures)[below(len(whole.pictures))]
    path = folder / f"picture.{ending}"
    path.write_bytes(changed(whole.pictures[ending], below))
    readers = [
        lambda: decode_frame(path.read_bytes(), path.name),
        lambda: decode_mask(path.read_bytes(), path.name),
        lambda: check_value(path.read_bytes(), path.name),
        lambda: _face_picture(path),
    ]
    return "picture", readers[below(4)]


def _video(whole: Whole, folder: Path, below: Below) -> tuple[str, Read]:
    ending = list(whole.films)[below(len(whole.films))]
    path = folder / f"video.{ending}"
    path.write_bytes(changed(whole.films[ending], below))

    def read() -> None:
        film = VideoFile(path)
        for _ in film.read(range(0, film.info.frames, 3)):
            pass

    return "", read  # `resproto faces` puts the name before the message


def _weights(whole: Whole, folder: Path, below: Below) -> tuple[str, Read]:
    name = ("best.pt", "weights.pth")[below(2)]
    (folder / name).write_bytes(changed((whole.root / name).read_bytes(), below))
    readers = [read_state_dict, origin_of, *([checkpoint.load] if name == "best.pt" else [])]
    read = readers[below(len(readers))]
    return name, lambda: read(folder / name)


class _Evil:
    def __reduce__(self):
        return os.system, ("touch ran",)


CONTENTS = [
    None, 3, "x", [], {}, [torch.zeros(2)], {"model": 3}, {"model": {}}, {"model": {1: torch.zeros(2)}}, _Evil(),
    {"model": _Evil()}, {"format": 1}, {"format": "1", "model": {"w": torch.zeros(1)}}, {"format": 10**40, "model": {}},
    {"format": 1, "model": {"w": torch.zeros(2, device="meta")}}, {"format": 1, "model": {"w": 1j * torch.ones(2)}},
    {"format": 1, "model": {"w": torch.eye(3).to_sparse()}}, {"format": 1, "model": {"w" * 10**6: torch.zeros(2)}},
    {"format": 1, "model": {"w": torch.zeros(2)}, "history": "x", "tensors_sha256": 3},
    {"format": 1, "model": {"w": torch.zeros(2)}, "history": {}, "progress": {}}, {"w": np.array([{}], object)},
    {"format": 1, "model": {"w": torch.zeros(2)}, "history": {"format": 10**30}, "progress": {"step": "x"}},
    {"format": 1, "model": {"w": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}},
    {"model": {"w": torch.zeros(0)}}, {"state_dict": {"w": torch.zeros(1).expand(1 << 40)}}, {"\ud800": torch.zeros(1)},
]  # fmt: skip


def _contents(folder: Path, below: Below) -> tuple[str, Read]:
    path = folder / "x.pt"
    try:
        torch.save(CONTENTS[below(len(CONTENTS))], path)
    except (UnicodeEncodeError, NotImplementedError):
        path.write_bytes(b"\x80\x05.")
    read = (read_state_dict, origin_of, checkpoint.load)[below(3)]

    def look() -> None:
        os.chdir(folder)
        try:
            read(path)
        finally:
            if (folder / "ran").exists():
                raise AssertionError("the file's code ran")

    return "x.pt", look


# --- commands --------------------------------------------------------------------------------------------------------


def _own_data(whole: Whole, folder: Path) -> Path:
    """The demo's manifests copied, its stores linked."""
    shutil.copytree(whole.data / "dataset_json", folder / "data" / "dataset_json")
    (folder / "data" / "lmdb").symlink_to(whole.data / "lmdb")
    return folder / "data"


def _command(*words: object) -> Read:
    return lambda: cli.main([str(word) for word in words])


def _test_weights(whole: Whole, folder: Path, below: Below) -> tuple[str, Read]:
    path = folder / "best.pt"
    path.write_bytes(changed((whole.root / "best.pt").read_bytes(), below))
    words = ["--detector", "resnet_tiny", "--protocol", "demo_cross", "--test_dataset", "Demo-C", "--weights", path]
    return "best.pt", _command("test", *words, "--out", folder / "runs", f"data.root={whole.data}", *QUICK)


def _manifest_of(whole: Whole, folder: Path, below: Below) -> Path:
    data = _own_data(whole, folder)
    path = data / "dataset_json" / "Demo-C.json"
    path.write_bytes(fuzz.spoiled(fuzz.Reader(path.name, [path.read_bytes()], lambda _: None, "json"), below))
    return data


def _check(whole: Whole, folder: Path, below: Below) -> tuple[str, Read]:
    data = _manifest_of(whole, folder, below)
    return "Demo-C", _command("check", data / "dataset_json" / "Demo-C.json", "--store", whole.root / "png_lmdb")


def _pack(whole: Whole, folder: Path, below: Below) -> tuple[str, Read]:
    data = _manifest_of(whole, folder, below)
    manifest = data / "dataset_json" / "Demo-C.json"
    return "Demo-C", _command("pack", manifest, "--frames", whole.root / "frames", "--out", folder / "s_lmdb")


def _verify(whole: Whole, folder: Path, below: Below) -> tuple[str, Read]:
    _store(whole, folder, below)
    return "s_lmdb", _command("pack", "--out", folder / "s_lmdb", "--verify")


def _submit(whole: Whole, folder: Path, below: Below) -> tuple[str, Read]:
    rows = "".join(f"Demo-C,{key},0.5\n" for key in whole.keys)
    reader = fuzz.Reader("s.csv", [f"test_set,frame,score\n{rows}".encode()], lambda _: None)
    (folder / "s.csv").write_bytes(fuzz.spoiled(reader, below))
    protocol = folder / "p.yaml"
    protocol.write_text("train: []\nselection: {rule: last}\ntest: [Demo-C]\n")
    words = ["--protocol", protocol, "--name", "x", "--out", folder / "runs", f"data.root={whole.data}"]
    return "s.csv", _command("submit", folder / "s.csv", *words)


def _run_of(whole: Whole, folder: Path, below: Below) -> Path:
    """A copy of the run with its result file or its score table spoiled."""
    shutil.copytree(whole.run, folder / "runs" / "x")
    name, kind = (("result.json", "json"), ("scores/Demo-C.npz", "npz"))[below(2)]
    path = folder / "runs" / "x" / name
    data = path.read_bytes() if kind == "npz" else json.dumps(json.loads(path.read_bytes())).encode()  # in one line
    path.write_bytes(fuzz.spoiled(fuzz.Reader(name, [data], lambda _: None, kind), below))
    return folder / "runs"


def _leaderboard(whole: Whole, folder: Path, below: Below) -> tuple[str, Read]:
    return "runs/x", _command("leaderboard", _run_of(whole, folder, below), "--out", folder / "board")


def _evaluate(whole: Whole, folder: Path, below: Below) -> tuple[str, Read]:
    return "runs/x", _command("evaluate", _run_of(whole, folder, below) / "x")


def _preset(whole: Whole, folder: Path, below: Below) -> tuple[str, Read]:
    reader = fuzz.readers()["detector"]
    (folder / "x.yaml").write_bytes(fuzz.spoiled(fuzz.Reader("x.yaml", reader.whole[2:], reader.read), below))
    words = ["--detector_path", folder / "x.yaml", "--protocol", "demo_cross", "--test_dataset", "Demo-C"]
    return "", _command("test", *words, "--out", folder / "runs", f"data.root={whole.data}", *QUICK)


COMMANDS = {
    "resproto test, weights": _test_weights,
    "resproto test, preset": _preset,
    "resproto check, manifest": _check,
    "resproto pack, manifest": _pack,
    "resproto pack --verify, store": _verify,
    "resproto submit, CSV": _submit,
    "resproto leaderboard, run": _leaderboard,
    "resproto evaluate, run": _evaluate,
}


# --- one file, one process -------------------------------------------------------------------------------------------


def tried(name: str, read: Read, log: Path) -> tuple[str, str, int]:
    """(how it ended, what was printed, peak memory in bytes)."""
    child = os.fork()
    if not child:
        _read_here(read, log)
    end, status = time.monotonic() + PATIENCE, 0
    usage = None
    while usage is None:
        done, status, found = os.wait4(child, os.WNOHANG)
        if done:
            usage = found
        elif time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            end = float("inf")
        else:
            time.sleep(0.005)
    said = log.read_text(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss * 1024
    if code < 0:
        slow = end == float("inf") or usage.ru_utime + usage.ru_stime > SECONDS - 1
        return "too slow" if slow else f"ended by {signal.Signals(-code).name}", said, peak
    if code == 2 or (code == 1 and "Traceback" not in said):  # 1: `check` has found errors, `leaderboard` no row
        if said.strip() == OUT_OF_MEMORY:
            return "no memory", said, peak
        return "refused" if name in said else "refused without its name", said, peak
    return {0: "read", TRACEBACK: "traceback"}.get(code, f"exit status {code}"), said, peak


def _read_here(read: Read, log: Path) -> None:
    """Reads in this process, which ends with it."""
    code = TRACEBACK
    try:
        out = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(out, 1), os.dup2(out, 2)
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        try:
            code = read()
            code = code if isinstance(code, int) else 0
        except (UserError, UnreadableMedia) as error:
            print(error)
            code = 2
        except MemoryError:
            print(OUT_OF_MEMORY)
            code = 2
        sys.stdout.flush(), sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(code)


GOOD = ("refused", "read")


def try_all(whole: Whole, share: float, seed: int, out: Path, only: list[str]) -> tuple[dict, dict, list[str]]:
    """Ends by kind, peak memory by kind, and what is wrong, in words."""
    ends: dict[str, Counter] = defaultdict(Counter)
    peaks: dict[str, int] = defaultdict(int)
    faults, place = [], whole.root / "one"
    for kind in kinds(whole):
        if only and not any(word in kind.name for word in only):
            continue
        for number in range(max(1, round(share * kind.count))):
            folder = place / "f"
            folder.mkdir(parents=True)
            name, read = kind.make(folder, random.Random(f"{seed} {kind.name} {number}").randrange)
            end, said, peak = tried(name, read, place / "log")
            ends[kind.name][end] += 1
            peaks[kind.name] = max(peaks[kind.name], peak)
            if end not in GOOD:
                kept = out / f"{kind.name.replace(' ', '_').replace(',', '')}_{number}"
                shutil.rmtree(kept, ignore_errors=True)
                shutil.copytree(place, kept, symlinks=True)
                faults.append(f"{kind.name}, number {number}: {end}: {said.strip()[-300:]}\n  kept as {kept}")
                print(faults[-1], flush=True)
            shutil.rmtree(place)
        print(f"{kind.name}: {dict(ends[kind.name])}, peak {peaks[kind.name] / 2**20:.0f} MiB", flush=True)
    return ends, peaks, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the files of each kind (default: %(default)s)")
    parser.add_argument("--only", metavar="WORD", nargs="+", default=[], help="kinds with one of these in their names")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, help="demo data that were made before (default: they are made, tiny)")
    parser.add_argument("--out", type=Path, default=Path("hostile"), help="where what breaks a reader is kept")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        ends, peaks, faults = try_all(Whole(Path(folder), args.data), args.share, args.seed, args.out, args.only)
    total = sum(ends.values(), Counter())
    print(f"\n{sum(total.values())} files: {dict(total)}; highest peak {max(peaks.values()) / 2**20:.0f} MiB")
    print(json.dumps({"benchmark": "hostile", "ends": ends, "peak_bytes": peaks, "faults": len(faults)}))
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
