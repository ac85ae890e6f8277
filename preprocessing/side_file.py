"""What a dataset JSON cannot say of its videos: a side file beside it, NAME.side.jsonl.

DeepfakeBench's layout has no place for identities, generators or captions, and its tools trip over additions. The side
file's first line says of what manifest it is and how the splits were made; each further line is one video:

    {"format": "resproto side 1", "dataset": "FF-DF", "manifest": "FF-DF.json", "splits": "official", ...}
    {"id": "FaceForensics++/manipulated_sequences/Deepfakes/c23/000_003", "splits": ["train"], "label": 1, ...}
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.resources import files
from pathlib import Path

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import atomic_file
from resproto_fd.configs.loading import load_yaml

FORMAT = "resproto side 1"
CAPTIONS = ("facial", "environmental")


@dataclass(frozen=True)
class SideRecord:
    """One video.

    Attributes:
        id: As `manifest.Video.id`.
        splits: "train", "val", "test"; several where the manifest has it in several.
        label: 0 real, 1 fake.
        label_name: The manifest's label string.
        method: What made it; more exact than the label string where that stands for several methods.
        forgery_type: Kind of forgery.
        family: Family of the generator, "diffusion", "gan", "autoencoder"; None if another or not told.
        compression: "c23", ... or None.
        identity: Who is seen, "FaceForensics++/003": of a swap the person swapped in. None if not known.
        target: Whose video was altered.
        source: Whose face was swapped in, or whose motion drives it.
        original: Id of the real video that was altered, where it is in the manifest.
        media: Of the video the frames are from, as `resproto faces` recorded it: width, height, fps, codec, and
            `several`, the numbers of the kept frames with several faces. None if not known.
        captions: By the frame's file name, or "*" for all frames: {"facial": ..., "environmental": ...}.
    """

    id: str
    splits: tuple[str, ...]
    label: int
    label_name: str
    method: str
    forgery_type: str
    family: str | None = None
    compression: str | None = None
    identity: str | None = None
    target: str | None = None
    source: str | None = None
    original: str | None = None
    media: Mapping | None = None
    captions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def people(self) -> frozenset[str]:
        """Everyone who has a part in it."""
        return frozenset(who for who in (self.identity, self.target, self.source) if who)

    def caption(self, frame: str, kind: str) -> str | None:
        """The caption of a frame, by its path; kind "facial" or "environmental"."""
        name = frame.rpartition("/")[2]
        return (self.captions.get(name) or self.captions.get("*") or {}).get(kind)


@dataclass(frozen=True)
class SideFile:
    """A side file's records by video id, and its first line."""

    header: Mapping
    records: Mapping[str, SideRecord]


def side_path(manifest: str | os.PathLike) -> Path:
    """The side file of a dataset JSON.

    >>> side_path("json/FF-DF.json").name
    'FF-DF.side.jsonl'
    """
    return Path(manifest).with_suffix(".side.jsonl")


def write_side(path: str | os.PathLike, header: Mapping, records: Iterable[SideRecord]) -> None:
    """Write a side file, whole or not at all. `header` is added to the line that says the format."""
    with atomic_file(path) as file:
        file.write((json.dumps({"format": FORMAT, **header}, ensure_ascii=False) + "\n").encode())
        for record in records:
            said = {key: value for key, value in asdict(record).items() if value not in (None, {}, ())}
            file.write((json.dumps(said, ensure_ascii=False) + "\n").encode())


def read_side(path: str | os.PathLike) -> SideFile:
    """A side file.

    Raises:
        UserError: It is missing, of another format, or a line is not whole; file and line are named.
    """
    known = {each.name for each in fields(SideRecord)}
    header, records = {}, {}
    for number, line in enumerate(_lines(path), 1):
        where = f"{path}:{number}"
        if number == 1:
            header = line
            if line.get("format") != FORMAT:
                raise UserError(f"{where}: format {line.get('format')!r}, expected {FORMAT!r}: make it again")
            continue
        if unknown := sorted(set(line) - known):
            raise UserError(f"{where}: unknown key '{unknown[0]}'; known: {', '.join(sorted(known))}")
        try:
            record = SideRecord(**{**line, "splits": tuple(line["splits"])})
        except (KeyError, TypeError) as error:
            raise UserError(f"{where}: not a whole record ({error})") from error
        if record.id in records:
            raise UserError(f"{where}: video '{record.id}' a second time")
        records[record.id] = record
    if not header:
        raise UserError(f"{path}: is empty, expected a line with the format {FORMAT!r}")
    return SideFile(header, records)


def read_captions(path: str | os.PathLike) -> dict[str, dict[str, str]]:
    """Captions by frame or video: lines {"frame": PATH or "video": ID, "facial": ..., "environmental": ...}.

    Raises:
        UserError: The file is missing, or a line has another form.
    """
    found = {}
    for number, line in enumerate(_lines(path), 1):
        key = line.get("frame") or line.get("video")
        said = {kind: line[kind] for kind in CAPTIONS if kind in line}
        strange = set(line) - {"frame", "video", *CAPTIONS}
        if not isinstance(key, str) or not said or strange or not all(isinstance(text, str) for text in said.values()):
            raise UserError(
                f'{path}:{number}: expected {{"frame": path or "video": id, "facial": text, "environmental": text}}'
            )
        found[key.replace("\\", "/")] = said
    return found


@cache
def generator_families() -> dict[str, str]:
    """Family of the generator by method, from `configs/generators.yaml`."""
    path = str(files("resproto_fd.configs") / "generators.yaml")
    return {method: family for family, methods in load_yaml(path).items() for method in methods}


def seen_in_it(forgery_type: str, target: str | None, source: str | None) -> str | None:
    """Whose face a fake shows: the source's after a swap, else the target's."""
    return source if forgery_type == "face swap" else target


def _lines(path: str | os.PathLike) -> Iterable[dict]:
    try:
        with open(path, encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                if not text.strip():
                    continue
                try:
                    line = json.loads(text)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}:{number}: not a whole line of JSON ({error})") from error
                if not isinstance(line, dict):
                    raise UserError(f"{path}:{number}: expected {{...}}, got {type(line).__name__}")
                yield line
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
