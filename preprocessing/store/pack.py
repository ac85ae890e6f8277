"""Packs frames into one LMDB and verifies them: the command `resproto pack`.

    X_lmdb/data.mdb      Values under the keys of DeepfakeBench's released stores. With `png`, the values are theirs too
                         (the bytes of the file, landmarks as bare int32), so that its loader reads them. With `native`,
                         frames are bare pixels with a checksum (see `image_codec`). Masks stay files in both. Key
                         "resproto_fd" has the store's statement about its content, JSON; that loader never reads it.
    X_lmdb/packed.json   The statement again, and the size that data.mdb must have.

The statement has the codec, the sources (SHA-256 of each manifest, choice, counts), the number of values, and
`content`, the SHA-256 over every key and the SHA-256 of its value. The same frames always give the same `content`, even
if the packing was killed and resumed. An unfinished store is in `.X_lmdb.partial`; the same command goes on from the
last transaction.
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
"""Most names that a message lists."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `resproto pack`."""
    parser.add_argument("manifests", nargs="*", metavar="MANIFEST", help="dataset JSONs; --verify alone needs none")
    parser.add_argument("--out", required=True, metavar="X_lmdb", help="store to make, extend or verify")
    parser.add_argument(
        "--frames",
        metavar="SRC",
        help="folder that has the data set folders, or another LMDB (default: ../rgb from the first manifest)",
    )
    parser.add_argument(
        "--codec",
        choices=CODECS,
        help="png: the files themselves, which DeepfakeBench reads (default); native: bare pixels, twice the size and "
        "fastest to read",
    )
    parser.add_argument("--splits", nargs="+", choices=SPLITS, help="pack only these splits (default: all)")
    parser.add_argument("--compression", nargs="+", choices=COMPRESSIONS, help="pack only these levels (default: all)")
    parser.add_argument("--folder", nargs="+", metavar="NAME", help="data set folders in the manifest's paths")
    parser.add_argument("--without", nargs="+", default=[], choices=("masks", "landmarks"), help="do not pack these")
    parser.add_argument("--skip-bad", action="store_true", help="leave out frames that are missing or unreadable")
    parser.add_argument("--verify", action="store_true", help="read every value again, after packing if any")
    parser.add_argument("--jobs", type=int, help="threads (default: one for each core, at most 8)")
    parser.add_argument("--no-progress", "--quiet", dest="progress", action="store_false", help="show no progress bar")


def run(args: argparse.Namespace) -> int:
    """Runs `resproto pack`; returns the exit code."""
    if not args.manifests and not args.verify:
        raise UserError("expected a MANIFEST to pack, got none; name one, or set --verify to read the store again")
    jobs = min(os.cpu_count() or 1, 8) if args.jobs is None else args.jobs
    if jobs < 1:
        raise UserError(f"--jobs: expected 1 or more, got {jobs}")
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
        found = (
            f"content {statement['content']}" if statement["content"] else "the store has no digests to compare with"
        )
        print(f"{args.out}: {statement['values']} values read, no fault; {found}")
    return 0


@dataclass(frozen=True)
class Choice:
    """Which parts of the manifests are packed.

    Attributes:
        splits, compressions: Only these; None means all.
        folder: Data set folders in the manifest's paths; None takes those of the data set's YAML, if there is one.
        without: Kinds that are not packed: "masks", "landmarks".
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
        statement: The store's statement.
        wanted: Every readable path that belongs in it.
        added: Values that this call wrote; the others were there already.
        left_out: Unreadable frames, with the reason.
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
        """Returns the summary for a reader."""
        rate = f", {self.added / self.seconds:.0f} a second" if self.added and self.seconds else ""
        before = len(self.wanted) - self.added
        lines = [
            f"{self.path}: {self.statement['values']} values ({self.statement['codec']}), {self.size / 2**20:.1f} MiB; "
            f"{self.added} packed now{rate}"
            + (f", {before} were there already and are not compared" if before else ""),
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
    """Packs the frames that manifests name, with their masks and landmarks, into one store.

    An existing store is extended, an incomplete one is finished, and a complete one is not changed. Values that it
    already has are not compared with the source.

    Args:
        manifests: Dataset JSONs.
        out: The store.
        frames: The folder that has the data set folders, or another LMDB; None means `../rgb` from the first manifest.
        codec: "png" or "native". None takes an existing store's codec, and "png" for a new one.
        choice: Parts of the manifests; None means everything.
        skip_bad: Whether missing and unreadable files are left out and reported; otherwise they are an error.
        threads: None means one thread, without a bar.

    Raises:
        UserError: A frame is missing or unreadable (unless `skip_bad`). See `PackedWriter` for other errors.
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
    """Writes all values that the store lacks; returns the reason for each unreadable one, by path.

    Raises:
        UserError: A value cannot be read, and `skip_bad` is off.
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
                raise UserError(f"{error}. Repair or replace the file, or set --skip-bad to leave such files out")
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
        raise UserError(f"{guess}: no such folder of frames; set --frames SRC to the folder or LMDB that has them")
    return guess


def _plan(
    manifests: Sequence[str | os.PathLike], source: "FrameStore", choice: Choice, skip_bad: bool
) -> tuple[dict[str, str], list[str]]:
    """Plans what to pack: ({canonical path: "frames", "masks" or "landmarks"} in the store's order, missing frames)."""
    from resproto_fd.preprocessing.manifest import listed_frames
    from resproto_fd.preprocessing.store.beside_frames import landmark_path, mask_path
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
            "add them, set another --frames or --folder, or set --skip-bad to leave them out"
        )
    frames -= set(missing)
    if not frames:
        raise UserError(
            f"{source}: has none of the {len(missing)} frames that the manifests name; set another --frames"
        )
    plan = dict.fromkeys(frames, "frames")
    for kind, beside in (("masks", mask_path), ("landmarks", landmark_path)):
        if kind not in choice.without:
            asked = sorted({beside(path) for path in frames} - frames)
            plan |= dict.fromkeys(set(asked).difference(source.missing(asked)), kind)
    ordered = sorted(plan, key=windows_key)
    return {path: plan[path] for path in ordered}, [f"{source}: no {path}" for path in missing]


def _folder(manifest: str | os.PathLike, choice: Choice) -> Sequence[str] | str | None:
    """Returns the data set folders in a manifest's paths: the given ones, or those of the data set's YAML."""
    from resproto_fd.configs import loading

    if choice.folder is not None:
        return choice.folder
    name = Path(manifest).stem
    return loading.load("datasets", name).folder if name in loading.names("datasets") else None


def _request(manifests: Sequence[str | os.PathLike], choice: Choice, source: "FrameStore") -> dict[str, Any]:
    """Describes the request, without a date or a folder of this machine."""
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
    """Makes the values of some paths: (path, value, SHA-256, None), or (path, None, None, error)."""

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
        from resproto_fd.preprocessing.picture_kinds import PNG_START
        from resproto_fd.preprocessing.store.beside_frames import bare_landmarks
        from resproto_fd.preprocessing.store.image_codec import (
            check_value,
            decode_frame,
            decode_mask,
            encode_native,
            encode_png,
            is_native,
        )

        data, kind, where = self.source.read_bytes(path), self.plan[path], f"{self.source}: {path}"
        if kind == "landmarks":
            return bare_landmarks(data, where)
        if kind == "masks":
            decode_mask(data, where)
            return data
        if is_native(data) == (self.codec == "native"):
            # A native value and a PNG have checksums; of other formats only decoding tells damage.
            check = check_value if is_native(data) or data.startswith(PNG_START) else decode_frame
            check(data, where)
            return data
        image = decode_frame(data, where)
        return encode_native(image) if self.codec == "native" else encode_png(image)
