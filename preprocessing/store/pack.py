"""Frames into one LMDB, and proof that they are there: the command `resproto pack`.

    X_lmdb/data.mdb      values under the keys of DeepfakeBench's released stores. `png`: its values too (the bytes of
                         the file, landmarks as bare int32), so that its loader reads them; `native`: frames as bare
                         pixels with a checksum (see `image_codec`). Masks stay the files they are in both.
                         Key "resproto_fd": the store's statement of what it holds, JSON; that loader never asks for it
    X_lmdb/packed.json   the statement once more, and the size that data.mdb must have

The statement has the codec, the sources (SHA-256 of each manifest, what was chosen of it, counts), the number of values
and `content`, the SHA-256 over every key and the SHA-256 of its value: the same frames give the same `content`, however
often the packing was killed and on whatever day. While a store is being made or added to it lies in `.X_lmdb.partial`;
stopped there, the same command goes on from the last transaction.
"""

import argparse
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.video import COMPRESSIONS, SPLITS

if TYPE_CHECKING:
    from resproto_fd.preprocessing.store.frame_store import FrameStore
    from resproto_fd.preprocessing.store.threads import Threads

CODECS = ("png", "native")
KINDS = ("frames", "masks", "landmarks")
SHOWN = 20
"""Names that a message lists."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "manifests", nargs="*", metavar="MANIFEST", help="dataset JSON; with --verify alone none is needed"
    )
    parser.add_argument("--out", required=True, metavar="X_lmdb", help="the store to make, add to or verify")
    parser.add_argument(
        "--frames",
        metavar="SRC",
        help="folder that holds the data set folders, or another LMDB (default: ../rgb from the first manifest)",
    )
    parser.add_argument(
        "--codec",
        choices=CODECS,
        help="png: files as they are, which DeepfakeBench reads (default); native: bare pixels, twice the size, the "
        "fastest to read",
    )
    parser.add_argument("--splits", nargs="+", choices=SPLITS, help="only these (default: all)")
    parser.add_argument("--compression", nargs="+", choices=COMPRESSIONS, help="only these levels")
    parser.add_argument("--folder", nargs="+", metavar="NAME", help="data set folder in the manifest's paths")
    parser.add_argument("--without", nargs="+", default=[], choices=("masks", "landmarks"), help="leave these out")
    parser.add_argument("--skip-bad", action="store_true", help="leave out frames that are missing or unreadable")
    parser.add_argument("--verify", action="store_true", help="re-read every value, after packing if there is any")
    parser.add_argument("--jobs", type=int, help="threads (default: one a core, 8 at most)")
    parser.add_argument("--no-progress", dest="progress", action="store_false", help="no progress bar")


def run(args: argparse.Namespace) -> int:
    if not args.manifests and not args.verify:
        raise UserError("name a MANIFEST to pack, or set --verify to re-read the store")
    jobs = min(os.cpu_count() or 1, 8) if args.jobs is None else args.jobs
    if jobs < 1:
        raise UserError(f"--jobs {jobs}: expected 1 or more")
    from resproto_fd.preprocessing.store.packed_store import verify
    from resproto_fd.preprocessing.store.threads import Threads

    wanted = None
    if args.manifests:
        summary = pack(
            args.manifests,
            args.out,
            args.frames,
            codec=args.codec,
            choice=Choice(args.splits, args.compression, args.folder, args.without),
            skip_bad=args.skip_bad,
            threads=Threads(jobs, args.progress),
        )
        print(summary.text())
        wanted = summary.wanted
    if args.verify:
        statement = verify(args.out, wanted, jobs=jobs, progress=args.progress)
        found = f"content {statement['content']}" if statement["content"] else "it keeps no record to compare them with"
        print(f"{args.out}: {statement['values']} values read, no fault; {found}")
    return 0


@dataclass(frozen=True)
class Choice:
    """What of the manifests is packed.

    Attributes:
        splits, compressions: Only these; None is all.
        folder: Data set folders in the manifest's paths; None takes the data set's YAML at its word, if there is one.
        without: "masks", "landmarks".
    """

    splits: Sequence[str] | None = None
    compressions: Sequence[str] | None = None
    folder: Sequence[str] | None = None
    without: Sequence[str] = ()


@dataclass(frozen=True)
class Summary:
    """What a call of `pack` did.

    Attributes:
        path: The store.
        statement: What the store says of itself.
        wanted: Every path that the manifests want in it and that could be read.
        added: Values written by this call; the others were there already.
        left_out: Frames that could not be read, with the reason.
        size: Bytes of data.mdb.
        seconds: Time of this call.
    """

    path: Path
    statement: dict[str, Any]
    wanted: list[str]
    added: int
    left_out: list[str]
    size: int
    seconds: float

    def text(self) -> str:
        """For people."""
        rate = f", {self.added / self.seconds:.0f} a second" if self.added and self.seconds else ""
        before = len(self.wanted) - self.added
        lines = [
            f"{self.path}: {self.statement['values']} values ({self.statement['codec']}), {self.size / 2**20:.1f} MiB; "
            f"{self.added} packed now{rate}" + (f", {before} were there and are not compared" if before else ""),
            f"content {self.statement['content']}",
        ]
        if self.left_out:
            lines += [f"left out: {len(self.left_out)}", *_some(self.left_out)]
        return "\n".join(lines)


def pack(
    manifests: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    frames: str | os.PathLike | None = None,
    *,
    codec: str | None = None,
    choice: Choice | None = None,
    skip_bad: bool = False,
    threads: "Threads | None" = None,
) -> Summary:
    """Packs the frames that manifests name, and the masks and landmarks that lie beside them, into one store.

    A store that is there is added to, one left half made is finished, and one that has everything is left alone. What
    is in it already is not compared with the source.

    Args:
        manifests: Dataset JSONs.
        out: The store.
        frames: The folder that holds the data set folders, or another LMDB; `../rgb` from the first manifest if None.
        codec: "png" or "native"; of a store that is there already, its own if None, of a new one "png".
        choice: What of the manifests; everything if None.
        skip_bad: Leave out, and report, what is missing or unreadable.
        threads: One, without a bar, if not given.

    Raises:
        UserError: A frame is missing or unreadable (unless `skip_bad`); see `PackedWriter` for the rest.
    """
    import time

    from resproto_fd.preprocessing.store.frame_store import LmdbStore, open_store
    from resproto_fd.preprocessing.store.packed_store import PackedWriter, statement_of
    from resproto_fd.preprocessing.store.threads import Threads

    start = time.perf_counter()
    choice = choice or Choice()
    source = open_store(_frames_root(manifests, frames))
    plan, left_out = _plan(manifests, source, choice, skip_bad)
    request = _request(manifests, choice, source)
    standing = statement_of(out)
    codec = codec or (standing or {}).get("codec", "png")
    done = standing and standing["codec"] == codec and any(past["request"] == request for past in standing["sources"])
    if done and not LmdbStore(out).missing(plan):
        return _summary(out, standing, list(plan), 0, left_out, start)
    with PackedWriter(out, codec, request, _tool()) as writer:
        unread = _put_all(writer, _Values(source, codec, plan), plan, threads or Threads(), skip_bad)
        left_out += unread.values()
        kinds = [kind for path, kind in plan.items() if path not in unread]
        writer.counts = {kind: kinds.count(kind) for kind in KINDS} | {"left_out": len(left_out)}
    wanted = [path for path in plan if path not in unread]
    return _summary(out, writer.statement, wanted, writer.added, left_out, start)


def _put_all(writer, values, plan, threads, skip_bad: bool) -> dict[str, str]:
    """Writes all values that the store lacks; returns why some could not be read, by path.

    Raises:
        UserError: One cannot be read, and `skip_bad` is off.
    """
    from resproto_fd.preprocessing.store.threads import in_chunks

    unread = {}
    for chunk in in_chunks(values, writer.absent(plan), *threads, f"packing {writer.path.name}"):
        for path, value, digest, error in chunk:
            if error is None:
                writer.put(path, value, digest)
            elif skip_bad:
                unread[path] = error
            else:
                raise UserError(f"{error}. Mend or replace the file, or leave such files out with --skip-bad")
    return unread


def _summary(out, statement: dict, wanted: list[str], added: int, left_out: list[str], start: float) -> Summary:
    import time

    size = (Path(out) / "data.mdb").stat().st_size
    return Summary(Path(out), statement, wanted, added, left_out, size, time.perf_counter() - start)


def _frames_root(manifests: Sequence[str | os.PathLike], frames: str | os.PathLike | None) -> Path:
    if frames is not None:
        return Path(frames)
    guess = Path(manifests[0]).absolute().parent.parent / "rgb"
    if not guess.is_dir():
        raise UserError(f"no frames in {guess}; set --frames SRC to the folder or LMDB that holds them")
    return guess


def _plan(
    manifests: Sequence[str | os.PathLike], source: "FrameStore", choice: Choice, skip_bad: bool
) -> tuple[dict[str, str], list[str]]:
    """What to pack, {canonical path: "frames", "masks" or "landmarks"} in the store's order; and the frames missing."""
    from resproto_fd.preprocessing.manifest import listed_frames
    from resproto_fd.preprocessing.store.frame_store import landmark_path, mask_path
    from resproto_fd.preprocessing.store.lmdb_files import windows_key

    frames = {
        path
        for manifest in manifests
        for path in listed_frames(
            manifest, splits=choice.splits, compressions=choice.compressions, folder=_folder(manifest, choice)
        )
    }
    missing = source.missing(sorted(frames))
    if missing and not skip_bad:
        names = "\n".join(_some(missing))
        raise UserError(
            f"{source}: lacks {len(missing)} of the {len(frames)} frames that the manifests name:\n{names}\n"
            "complete it, see --frames and --folder, or leave them out with --skip-bad"
        )
    frames -= set(missing)
    if not frames:
        raise UserError(f"{source}: holds none of the {len(missing)} frames that the manifests name; see --frames")
    plan = dict.fromkeys(frames, "frames")
    for kind, beside in (("masks", mask_path), ("landmarks", landmark_path)):
        if kind not in choice.without:
            asked = sorted({beside(path) for path in frames} - frames)
            plan |= dict.fromkeys(set(asked).difference(source.missing(asked)), kind)
    ordered = sorted(plan, key=windows_key)
    return {path: plan[path] for path in ordered}, [f"{source}: no {path}" for path in missing]


def _folder(manifest: str | os.PathLike, choice: Choice) -> Sequence[str] | str | None:
    """The data set folder in a manifest's paths, as given, or as the data set's YAML says."""
    from resproto_fd.configs import loading

    if choice.folder is not None:
        return choice.folder
    name = Path(manifest).stem
    return loading.load("datasets", name).folder if name in loading.names("datasets") else None


def _request(manifests: Sequence[str | os.PathLike], choice: Choice, source: "FrameStore") -> dict[str, Any]:
    """What is asked for, without a date or a folder of this machine."""
    from resproto_fd.configs.files import sha256_of

    request: dict[str, Any] = {
        "manifests": [{"name": Path(manifest).name, "sha256": sha256_of(manifest)} for manifest in manifests]
    }
    request |= {name: list(given) for name, given in vars(choice).items() if given}
    if source.statement:
        request["from_content"] = source.statement["content"]
    return request


def _tool() -> str:
    from importlib.metadata import version

    return f"resproto-fd {version('resproto-fd')}"


def _some(names: Sequence[str]) -> list[str]:
    more = [f"  and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [*(f"  {name}" for name in names[:SHOWN]), *more]


class _Values:
    """What is stored for some paths: (path, value, SHA-256, None), or (path, None, None, what is wrong)."""

    def __init__(self, source: "FrameStore", codec: str, plan: dict[str, str]):
        self.source, self.codec, self.plan = source, codec, plan

    def __call__(self, paths: Iterable[str]) -> list[tuple[str, bytes | None, bytes | None, str | None]]:
        import hashlib

        made = []
        for path in paths:
            try:
                value = self._value(path)
                made.append((path, value, hashlib.sha256(value).digest(), None))
            except UserError as error:
                made.append((path, None, None, str(error)))
        return made

    def _value(self, path: str) -> bytes:
        from resproto_fd.preprocessing.store.frame_store import bare_landmarks
        from resproto_fd.preprocessing.store.image_codec import (
            check_value,
            check_whole,
            decode_frame,
            encode_native,
            encode_png,
            is_native,
        )

        data, kind, where = self.source.read_bytes(path), self.plan[path], f"{self.source}: {path}"
        if kind == "landmarks":
            return bare_landmarks(data, where)
        if kind == "masks":
            check_whole(data, where)
            return data
        if is_native(data) == (self.codec == "native"):
            check_value(data, where)
            return data
        image = decode_frame(data, where)
        return encode_native(image) if self.codec == "native" else encode_png(image)
