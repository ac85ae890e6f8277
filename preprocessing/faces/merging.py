"""Puts finished shards together, which gives what one run over all sources gives: `resproto faces --merge`."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.preprocessing.faces.job import (
    KINDS,
    CannotName,
    compare_options,
    publish,
    read_record,
    stands,
    temporary_folder,
)
from resproto_fd.preprocessing.faces.report import Report
from resproto_fd.preprocessing.faces.shards import ShardRecord, Share, checksum, shards_in, sole_run
from resproto_fd.preprocessing.faces.sources import STATE, Source
from resproto_fd.preprocessing.faces.video_reader import natural_key

MOST_NAMED = 5


def merge_shards(parts: Sequence[str | Path], out: str | Path, progress: bool = True) -> Report:
    """Puts the crops and records of finished shards into one folder, and writes the report there.

    Every file is compared with its shard's checksums before anything is written. On one file system the files get a
    second name (a hard link), else they are copied. A merge that was stopped goes on from there. The shards' folders
    stay as they are.

    Args:
        parts: Folders that have shards, one or several each.
        out: Folder for all of them; it may be the folder in which all shards were done.
        progress: Whether to show a bar.

    Raises:
        UserError: A shard is missing, given twice, torn, or of other sources or options; or `out` has other crops, or
            a shard is at work there.
    """
    from tqdm import tqdm

    out = Path(out)
    shards = _collected(parts)
    _compare(shards)
    pairs = [(shard, name) for shard in shards for name in shard.done]
    with sole_run(out), tqdm(total=2 * len(pairs), unit=" files", disable=not progress) as bar:
        _refuse_torn(shards, bar)
        shutil.rmtree(out / STATE / "tmp", ignore_errors=True)
        refused = {}
        for shard, name in pairs:
            if not _same(shard.folder, out):
                try:
                    _put(shard, shard.source(name), out)
                except CannotName as error:
                    refused[name] = {"source": name, "failed": str(error)}
            bar.update()
        report = _report(shards, out, refused)
        report.save(out)
        shutil.rmtree(out / STATE / "tmp", ignore_errors=True)
    return report


def _collected(parts: Sequence[str | Path]) -> list[ShardRecord]:
    """Reads the shards of all folders, by number.

    Raises:
        UserError: One is missing, or is there twice.
    """
    shards = sorted((shard for part in parts for shard in shards_in(Path(part))), key=lambda shard: shard.share.number)
    counts = sorted({shard.share.of for shard in shards})
    if len(counts) > 1:
        named = "; ".join(f"{shard.share} in {shard.folder}" for shard in shards[:MOST_NAMED])
        raise UserError(f"expected shards of one division, got {named}; merge each division by itself")
    for share, group in groupby(shards, key=lambda shard: shard.share):
        places = [str(shard.folder) for shard in group]
        if len(places) > 1:
            raise UserError(f"shard {share}: expected it once, got it in {' and in '.join(places)}; leave one out")
    present = {shard.share.number for shard in shards}
    if missing := [str(Share(n, counts[0])) for n in range(1, counts[0] + 1) if n not in present]:
        more = f" and {len(missing) - 50} more" if len(missing) > 50 else ""
        raise UserError(
            f"missing shards: {', '.join(missing[:50])}{more}; run them to their end, and name the folders that have "
            "them"
        )
    return shards


def _compare(shards: list[ShardRecord]) -> None:
    """Refuses shards that do not belong together.

    Raises:
        UserError: They had other sources or options, or do not have every source once.
    """
    first = shards[0]
    for shard in shards[1:]:
        differing = [
            f"{name} {value!r} and {shard.options.get(name)!r}"
            for name, value in first.options.items()
            if shard.options.get(name) != value
        ]
        if differing or shard.options.keys() != first.options.keys():
            raise UserError(
                f"shards {first.share} and {shard.share} were made with different options ({'; '.join(differing)}); "
                f"make one of them again with --redo: {first.folder} or {shard.folder}"
            )
        if (shard.list, shard.sources) != (first.list, first.sources):
            raise UserError(
                f"shards {first.share} and {shard.share} did not find the same files: {first.sources} sources in "
                f"{first.folder}, {shard.sources} in {shard.folder}; give every machine the same videos and --root, "
                "and run the shards again"
            )
        if shard.versions != first.versions:
            names = sorted(first.versions.items() ^ shard.versions.items())
            print(
                f"note: shards {first.share} and {shard.share} were made with different versions "
                f"({', '.join(dict.fromkeys(name for name, _ in names))}), so their crops may differ in a few bits",
                file=sys.stderr,
            )
    have = sum(len(shard.done) + len(shard.failed) for shard in shards)
    if have != first.sources:
        raise UserError(f"the shards have {have} of {first.sources} sources; run them again")


def _refuse_torn(shards: list[ShardRecord], bar) -> None:
    """Compares all files with the shards' checksums.

    Raises:
        UserError: Some differ or are missing.
    """
    torn = []
    for shard in shards:
        for name, entry in shard.done.items():
            if not _is_sound(shard, shard.source(name), entry["sha256"]):
                torn.append((shard, name))
            bar.update()
    if torn:
        named = "; ".join(f"{name} of shard {shard.share} in {shard.folder}" for shard, name in torn[:MOST_NAMED])
        more = f"; and {len(torn) - MOST_NAMED} more" if len(torn) > MOST_NAMED else ""
        raise UserError(
            f"files were lost or changed after the shard had ended: {named}{more}; copy the folder again, or run the "
            "shard again there, which makes them anew"
        )


def _is_sound(shard: ShardRecord, source: Source, sha256: str) -> bool:
    if not sha256 or checksum(shard.folder, source) != sha256:
        return False
    record = read_record(shard.folder, source)
    whole = record and record["status"] == "done" and stands(record, source, shard.folder)
    return bool(whole and record["source"] == source.name and record["options"] == shard.options)


def _put(shard: ShardRecord, source: Source, out: Path) -> None:
    """Puts what was made of a source into the output folder, if it is not there.

    Raises:
        CannotName: The file system of `out` cannot have a folder of this name.
        UserError: Its place has other crops, or `out` cannot be written.
    """
    there = read_record(out, source)
    if there is None:
        for place in (out / source.place(kind) for kind in KINDS):
            if os.path.lexists(place):
                raise UserError(f"{place}: exists and was not made by this command; set another --out")
    elif there["source"] != source.name:
        raise UserError(f"{out}: the place of {source.name} has crops of {there['source']}; set another --out")
    elif there["status"] == "done":
        compare_options(there, shard.options, out)
        if checksum(out, source) == shard.done[source.name]["sha256"]:
            return
    temporary = temporary_folder(out / STATE / "tmp")
    try:
        for kind in KINDS:
            folder = shard.folder / source.place(kind)
            if folder.is_dir():
                (temporary / kind).mkdir()
                for name in os.listdir(folder):
                    _link_or_copy(folder / name, temporary / kind / name)
        publish(out, source, temporary, read_record(shard.folder, source))
        written = os.stat(shard.folder / source.record).st_mtime_ns  # what changed since is not what the crops are of
        os.utime(out / source.record, ns=(written, written))
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _link_or_copy(path: Path, to: Path) -> None:
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _report(shards: list[ShardRecord], out: Path, refused: dict[str, dict]) -> Report:
    """The report that one run over all sources would have written; its seconds are the sum of the shards'."""
    first = shards[0]
    report = Report(
        sources=first.kinds,
        other_files=first.other_files,
        options=first.options,
        seconds=round(sum(shard.seconds for shard in shards), 2),
    )
    for name, answer in sorted(_answers(shards, out), key=lambda pair: natural_key(pair[0])):
        report.add(refused.get(name, answer))
    return report


def _answers(shards: list[ShardRecord], out: Path) -> Iterator[tuple[str, dict]]:
    for shard in shards:
        yield from shard.failed.items()
        yield from ((name, read_record(out, shard.source(name)) or {}) for name in shard.done)
