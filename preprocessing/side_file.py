"""Side file, NAME.side.jsonl: facts of videos for which a dataset JSON has no place.

DeepfakeBench's layout has no place for identities, generators or captions, and its tools fail on additions. The side
file's first line names its manifest and tells how the splits were made. Each further line is one video:

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

from resproto_fd.configs.errors import UnreadableFile, shown
from resproto_fd.configs.files import atomic_file
from resproto_fd.configs.loading import load_yaml
from resproto_fd.configs.readers.json_reader import read_json_lines
from resproto_fd.preprocessing.video import SPLITS

FORMAT = "resproto side 1"
CAPTIONS = ("facial", "environmental")


@dataclass(frozen=True)
class SideRecord:
    """One video.

    Attributes:
        id: As `manifest.Video.id`.
        splits: "train", "val", "test"; several if the manifest has the video in several.
        label: 0 real, 1 fake.
        label_name: The manifest's label string.
        method: The method that made it; more exact than a label string that stands for several methods.
        forgery_type: Kind of forgery.
        family: Family of the generator, "diffusion", "gan", "autoencoder"; None if another or unknown.
        compression: "c23", ... or None.
        identity: The person who is seen, "FaceForensics++/003"; in a swap, the person swapped in. None if unknown.
        target: The person whose video was altered.
        source: The person whose face was swapped in, or whose motion was used.
        original: Id of the real video that was altered, if it is in the manifest.
        media: Facts of the source video that `resproto faces` recorded: width, height, fps, codec, and `several`, the
            numbers of the kept frames with several faces. None if unknown.
        facts: Further facts that groups can be made by: {"gender": "female", "skin_tone": "5"}.
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
    facts: Mapping[str, str] = field(default_factory=dict)
    captions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def people(self) -> frozenset[str]:
        """All people in it: identity, target and source."""
        return frozenset(who for who in (self.identity, self.target, self.source) if who)

    @property
    def roles(self) -> tuple[str, str]:
        """The person recorded and the person whose face is seen; "" where one is not known.

        A video altered from a clip whose people are not known has the clip in the place of the person recorded.
        """
        recorded = self.target or ("" if self.source else self.identity) or self.original or ""
        return recorded, self.source or self.identity or ""

    def caption(self, frame: str, kind: str) -> str | None:
        """Returns the caption of a frame, by its path; the kind is "facial" or "environmental"."""
        name = frame.rpartition("/")[2]
        return (self.captions.get(name) or self.captions.get("*") or {}).get(kind)


@dataclass(frozen=True)
class SideFile:
    """A side file's records by video id, and its first line."""

    header: Mapping
    records: Mapping[str, SideRecord]


def side_path(manifest: str | os.PathLike) -> Path:
    """Returns the path of a dataset JSON's side file.

    >>> side_path("json/FF-DF.json").name
    'FF-DF.side.jsonl'
    """
    return Path(manifest).with_suffix(".side.jsonl")


def write_side(path: str | os.PathLike, header: Mapping, records: Iterable[SideRecord]) -> None:
    """Writes a side file, whole or not at all. `header` is added to the first line, which has the format."""
    with atomic_file(path) as file:
        file.write((json.dumps({"format": FORMAT, **header}, ensure_ascii=False) + "\n").encode())
        for record in records:
            values = {key: value for key, value in asdict(record).items() if value not in (None, {}, ())}
            file.write((json.dumps(values, ensure_ascii=False) + "\n").encode())


def read_side(path: str | os.PathLike) -> SideFile:
    """Reads a side file.

    Raises:
        UnreadableFile: It is missing or has another format, or a line is damaged. The message names file and line.
    """
    known = {each.name for each in fields(SideRecord)}
    header, records = {}, {}
    for number, line in read_json_lines(path):
        where = f"{path}:{number}"
        if not header:
            header = line
            if line.get("format") != FORMAT:
                raise UnreadableFile(
                    f"{where}: expected format {FORMAT!r}, got {shown(line.get('format'))}; make it again"
                )
            continue
        if unknown := sorted(set(line) - known):
            raise UnreadableFile(f"{where}: unknown key {shown(unknown[0])}; known: {', '.join(sorted(known))}")
        if fault := _fault(line):
            raise UnreadableFile(f"{where}: not a whole record ({fault}); make the file again")
        record = SideRecord(**{**line, "splits": tuple(line["splits"])})
        if record.id in records:
            raise UnreadableFile(f"{where}: video {shown(record.id)} has two lines; remove one")
        records[record.id] = record
    if not header:
        raise UnreadableFile(f"{path}: expected a line with the format {FORMAT!r}, got an empty file; make it again")
    return SideFile(header, records)


def read_captions(path: str | os.PathLike) -> dict[str, dict[str, str]]:
    """Reads captions by frame or video: lines {"frame": PATH or "video": ID, "facial": ..., "environmental": ...}.

    Raises:
        UnreadableFile: The file is missing, or a line has another form.
    """
    found = {}
    for number, line in read_json_lines(path):
        key = line.get("frame") or line.get("video")
        captions = {kind: line[kind] for kind in CAPTIONS if kind in line}
        strange = set(line) - {"frame", "video", *CAPTIONS}
        texts = captions and all(isinstance(text, str) for text in captions.values())
        if not isinstance(key, str) or strange or not texts:
            raise UnreadableFile(
                f'{path}:{number}: expected {{"frame": path or "video": id, "facial": text, "environmental": text}}'
            )
        found[key.replace("\\", "/")] = captions
    return found


@cache
def generator_families() -> dict[str, str]:
    """Loads the generator's family of each method from `configs/generators.yaml`."""
    path = str(files("resproto_fd.configs") / "generators.yaml")
    return {method: family for family, methods in load_yaml(path).items() for method in methods}


def seen_in_it(forgery_type: str, target: str | None, source: str | None) -> str | None:
    """Returns the person whose face a fake shows: the source after a swap, else the target."""
    return source if forgery_type == "face swap" else target


_TEXTS = ("id", "label_name", "method", "forgery_type")
_OPTIONAL_TEXTS = ("family", "compression", "identity", "target", "source", "original")


def _fault(line: Mapping) -> str:
    """What is wrong with a video's line, of which the keys are known; empty if nothing is."""
    for key in _TEXTS:
        if not isinstance(line.get(key), str):
            return f"{key}: expected a text, got {shown(line.get(key))}"
    for key in _OPTIONAL_TEXTS:
        if not isinstance(line.get(key), str | None):
            return f"{key}: expected a text or null, got {shown(line[key])}"
    splits, label, media, captions = (line.get(key) for key in ("splits", "label", "media", "captions"))
    if not isinstance(splits, list) or not all(isinstance(split, str) and split in SPLITS for split in splits):
        return f"splits: expected a list of {', '.join(SPLITS)}, got {shown(splits)}"
    if not isinstance(label, int) or label not in (0, 1):
        return f"label: expected 0 or 1, got {shown(label)}"
    if media is not None and (fault := media_fault(media)):
        return f"media: {fault}"
    facts = line.get("facts", {})
    if not isinstance(facts, dict) or not all(isinstance(value, str | int | float) for value in facts.values()):
        return f"facts: expected {{name: text}}, got {shown(facts)}"
    if "captions" in line and not _are_captions(captions):
        return f"captions: expected {{frame: {{kind: text}}}}, got {shown(captions)}"
    return ""


def _are_captions(captions: object) -> bool:
    return isinstance(captions, dict) and all(
        isinstance(texts, dict) and all(isinstance(text, str) for text in texts.values()) for texts in captions.values()
    )


MEDIA: dict[str, tuple] = {"width": (int,), "height": (int,), "fps": (int, float), "codec": (str,)}
"""Facts of a source video and their types."""


def media_fault(media: object) -> str:
    """What is wrong with the facts of a source video; empty if nothing is."""
    if not isinstance(media, Mapping):
        return f"expected {{width, height, fps, codec, several}}, got {shown(media)}"
    for key, value in media.items():
        if key == "several":
            if not isinstance(value, list) or not all(type(number) is int for number in value):
                return f"several: expected a list of frame numbers, got {shown(value)}"
        elif value is not None and (key not in MEDIA or type(value) not in MEDIA[key]):
            return f"{shown(key)}: {shown(value)} is no {' or '.join(kind.__name__ for kind in MEDIA.get(key, ()))}"
    return ""
