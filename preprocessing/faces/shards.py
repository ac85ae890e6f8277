"""Shards: shares of the sources that several machines do, each by itself.

A source's share follows from its name alone, so it is the same on every machine and in every run, whatever other
sources there are. Shards may share one output folder, or have one each. When a shard has ended, it leaves a record:

    OUT/.faces/shards/3-of-16.json        its sources, with a checksum of each one's files, and what it could not read
    OUT/.faces/lock-3-of-16, tmp-3-of-16  while it is at work

`merging.py` puts the shards together.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from resproto_fd.configs.errors import MissingFile, UnreadableFile, UserError, shown
from resproto_fd.configs.file_names import folded
from resproto_fd.configs.files import sha256_of, write_text
from resproto_fd.configs.locks import held
from resproto_fd.configs.readers.json_reader import LARGEST_MANIFEST, read_json_object
from resproto_fd.preprocessing.faces.job import KINDS
from resproto_fd.preprocessing.faces.report import Report
from resproto_fd.preprocessing.faces.sources import STATE, Source

FORMAT = "resproto faces shard 1"
MOST_SHARDS = 100_000
PATIENCE = 10.0
"""Seconds in which shards that begin at the same time get out of each other's way."""
LIBRARIES = ("resproto-fd", "av", "mtcnn", "numpy", "opencv-python-headless", "pillow", "torch")
"""Libraries on which the bytes of crops depend."""


@dataclass(frozen=True, slots=True)
class Share:
    """The share `number`, from 1, of `of` shares.

    >>> Share.parsed("3/16")
    Share(number=3, of=16)
    """

    number: int
    of: int

    @classmethod
    def parsed(cls, text: str) -> "Share":
        """Reads "3/16".

        Raises:
            UserError: It is no share.
        """
        found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", text)
        number, of = map(int, found.groups()) if found else (0, 0)
        if not 1 <= number <= of <= MOST_SHARDS:
            raise UserError(f"--shard: expected K/N with K from 1 to N, such as 3/16, got {shown(text)}")
        return cls(number, of)

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def file_name(self) -> str:
        """The share in names of files, "3-of-16"."""
        return f"{self.number}-of-{self.of}"

    def has(self, name: str) -> bool:
        """Whether a source belongs to the share.

        Names that differ in case or Unicode form alone belong to one share: some file systems take them for one.
        """
        digest = hashlib.sha256(folded(name).encode("utf-8", "surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") % self.of == self.number - 1

    def lock(self, out: Path) -> Path:
        """The lock of those that do this share in the folder."""
        return out / STATE / f"lock-{self.file_name}"

    def record(self, out: Path) -> Path:
        """The file that tells that the share was done in the folder."""
        return out / STATE / "shards" / f"{self.file_name}.json"

    def refuse_others(self, out: Path) -> None:
        """Refuses a folder in which the sources were divided into another number of shares.

        Raises:
            UserError: They were.
        """
        for path in sorted((out / STATE / "shards").glob("*-of-*.json")):
            if not path.name.endswith(f"-of-{self.of}.json"):
                raise UserError(
                    f"{out}: has shard {path.stem.replace('-of-', '/')}, now {self}; divide by the same number, or "
                    f"delete {path.parent}"
                )

    def sound(
        self, out: Path, before: list[dict], todo: list[Source], mine: Sequence[Source]
    ) -> tuple[list[dict], list[Source]]:
        """Takes done sources whose files differ from the share's record out of `before`, and appends them to `todo`."""
        try:
            known = ShardRecord.read(self.record(out)).done
        except UnreadableFile:
            return before, todo
        sources = {source.name: source for source in mine}
        torn = {
            record["source"]
            for record in before
            if record["source"] in known
            and known[record["source"]]["sha256"] != checksum(out, sources[record["source"]])
        }
        kept = [record for record in before if record["source"] not in torn]
        return kept, todo + [source for source in mine if source.name in torn]

    def finish(self, out: Path, found: Sequence[Source], records: dict[str, dict], report: Report) -> None:
        """Writes the share's record.

        Args:
            out: The output folder.
            found: All sources, those of other shares too.
            records: What was made of the share's sources, or why nothing was, by name.
            report: The share's report.
        """
        done, failed = {}, {}
        for source in found:
            answer = records.get(source.name)
            if answer and "failed" in answer:
                failed[source.name] = answer
            elif answer:
                place = {"folder": source.folder, "stem": source.stem}
                done[source.name] = {**place, "sha256": checksum(out, source)}
        content = {
            "format": FORMAT,
            "shard": [self.number, self.of],
            "options": report.options,
            "sources": len(found),
            "list": digest_of_list(found),
            "kinds": dict(Counter(source.kind for source in found)),
            "other_files": report.other_files,
            "versions": versions(),
            "seconds": report.seconds,
            "done": done,
            "failed": failed,
        }
        write_text(self.record(out), json.dumps(content) + "\n")


@contextmanager
def sole_run(out: Path, share: Share | None = None) -> Iterator[None]:
    """Keeps others out of an output folder in the block. Different shards may be at work side by side.

    Raises:
        UserError: Another run is at work there, or the folder cannot be made.
    """
    taken = f"{out}: another run is at work in this folder; wait for it, or set another --out"
    whole = out / STATE / "lock"
    if share:
        with held(whole, taken, PATIENCE):  # other shards hold it for a moment only
            pass
        taken = f"{out}: another run of shard {share} is at work in this folder; wait for it, or set another --out"
        with held(share.lock(out), taken):
            record = share.record(out)
            _remove_unfinished(record.parent.glob(f".{record.name}.*.part"))
            yield
        return
    with held(whole, taken), ExitStack() as stack:
        for path in sorted(whole.parent.glob("lock-*")):
            stack.enter_context(held(path, taken.replace("another run", f"another run ({path.name[5:]})")))
        _remove_unfinished(out.glob(".faces_report.*.part"))
        for kind in ("records", "shards"):
            _remove_unfinished((whole.parent / kind).rglob(".*.json.*.part"))
        yield


def _remove_unfinished(found: Iterable[Path]) -> None:
    """Removes files that a killed process had not finished. One that cannot be removed does no harm."""
    for path in list(found):
        with suppress(OSError):  # among them: it is a folder of the user's, named so
            path.unlink()


@dataclass(frozen=True)
class ShardRecord:
    """What a finished shard says of itself; fields as in `Share.finish`."""

    folder: Path
    share: Share
    options: dict
    sources: int
    list: str
    kinds: dict
    other_files: dict
    versions: dict
    seconds: float
    done: dict[str, dict]
    failed: dict[str, dict]

    @classmethod
    def read(cls, path: Path) -> "ShardRecord":
        """Reads a record.

        Raises:
            MissingFile: There is none.
            UnreadableFile: It is damaged or has another format.
        """
        remedy = "run the shard again"
        content = read_json_object(path, remedy, LARGEST_MANIFEST, file_names=True)
        if content.get("format") != FORMAT:
            raise UnreadableFile(f"{path}: expected format {FORMAT!r}, got {shown(content.get('format'))}; {remedy}")
        try:
            fault = _fault(content, path)
        except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
            fault = f"{type(error).__name__}: {error}"
        if fault:
            raise UnreadableFile(f"{path}: expected a record of a shard, got a damaged one ({fault}); {remedy}")
        number, of = content.pop("shard")
        content.pop("format")
        return cls(folder=path.parents[2], share=Share(number, of), **content)

    def source(self, name: str) -> Source:
        """The place of a source that was done."""
        return Source(name, "", (), self.done[name]["folder"], self.done[name]["stem"])


_KEYS = {
    **dict.fromkeys(("options", "kinds", "other_files", "versions", "done", "failed"), dict),
    **dict.fromkeys(("format", "list"), str),
    "shard": list,
    "sources": int,
    "seconds": int | float,
}


def _fault(content: dict, path: Path) -> str:
    """Tells what is wrong with a record's content; "" if nothing."""
    if content.keys() != _KEYS.keys():
        return f"keys {shown(sorted(content))}"
    for key, kinds in _KEYS.items():
        if not isinstance(content[key], kinds):
            return f"{key}: {shown(content[key])}"
    if [type(number) for number in content["shard"]] != [int, int]:
        return f"shard: {shown(content['shard'])}"
    share = Share.parsed("/".join(map(str, content["shard"])))
    if path.name != f"{share.file_name}.json":
        return f"it is of shard {share}"
    if content["done"].keys() & content["failed"].keys():
        return "a source was done and failed"
    counts = [content["sources"], *content["kinds"].values(), *content["other_files"].values()]
    if not all(type(count) is int and count >= 0 for count in counts):
        return f"counts {shown(counts)}"
    if not all(isinstance(version, str) for version in content["versions"].values()):
        return f"versions: {shown(content['versions'])}"
    foreign = {"\0", *("\\:" if os.name == "nt" else "")}
    for name, entry in content["done"].items():
        place = PurePosixPath(entry["folder"], "frames", entry["stem"])
        inside = not place.is_absolute() and ".." not in place.parts and len(PurePosixPath(entry["stem"]).parts) == 1
        if not (inside and not foreign & set(str(place)) and share.has(name) and isinstance(entry["sha256"], str)):
            return f"{name}: {shown(entry)}"
    for name, entry in content["failed"].items():
        if not (isinstance(entry["failed"], str) and entry["source"] == name and share.has(name)):
            return f"{name}: {shown(entry)}"
    return ""


def checksum(out: Path, source: Source) -> str:
    """SHA-256 over all files that were made of a source, the record too; "" if one cannot be read or is a link."""
    digest = hashlib.sha256()
    try:
        files = [out / source.record]
        for kind in KINDS:
            folder = out / source.place(kind)
            if os.path.lexists(folder):
                if not stat.S_ISDIR(os.lstat(folder).st_mode):
                    return ""
                files += [folder / name for name in sorted(os.listdir(folder))]
        for path in files:
            if not stat.S_ISREG(os.lstat(path).st_mode):
                return ""
            digest.update(
                f"{path.parent.parent.name}/{path.name}\0{sha256_of(path)}\n".encode("utf-8", "surrogatepass")
            )
    except OSError:
        return ""
    return digest.hexdigest()


def digest_of_list(found: Sequence[Source]) -> str:
    """SHA-256 of the names and kinds of all sources."""
    text = "".join(sorted(f"{source.kind}\0{source.name}\n" for source in found))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@cache
def versions() -> dict[str, str]:
    """Versions of what the bytes of crops depend on; local parts, such as torch's "+cpu", are left out."""
    found = {"processor": platform.machine()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def shards_in(folder: Path) -> list[ShardRecord]:
    """The shards that were done in a folder.

    Raises:
        UserError: There is none, or the record of one is damaged.
    """
    places = sorted((folder / STATE / "shards").glob("*-of-*.json"))
    if not places:
        why = "no such folder" if not folder.is_dir() else "no finished shard in it"
        raise MissingFile(f"{folder}: {why}; run `resproto faces SRC --out {folder} --shard K/N` to its end")
    return [ShardRecord.read(path) for path in places]
