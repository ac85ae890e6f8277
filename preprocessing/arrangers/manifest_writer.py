"""Writes the dataset JSONs of an arrangement, and what belongs to each.

OUT/NAME.json         DeepfakeBench's layout: nesting, label strings, splits, masks
OUT/NAME.side.jsonl   facts for which that layout has no place, see `side_file`
OUT/NAME.yaml         JSON, folders and labels of the data set, for names that this package does not know
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.file_names import plain_name
from resproto_fd.configs.files import make_folder, scratch_folder, write_text
from resproto_fd.configs.loading import load, names
from resproto_fd.preprocessing.arrangers.arranging import Arranged, Arrangement, taxonomy_of
from resproto_fd.preprocessing.faces.media import Media
from resproto_fd.preprocessing.manifest import read_manifest
from resproto_fd.preprocessing.manifest_layout import Layout
from resproto_fd.preprocessing.side_file import SideRecord, generator_families, seen_in_it, side_path, write_side
from resproto_fd.preprocessing.taxonomy import Taxonomy
from resproto_fd.preprocessing.video import SPLITS, Video

PATH_FORMS = ("released", "files")
FILES_ROOT = "./datasets/rgb/"


@dataclass
class Captions:
    """Captions by frame or video (see `read_captions`), and those that were used.

    Attributes:
        of: Captions by canonical path of a frame, or id of a video.
        used: Keys of the captions that were used.
    """

    of: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def take(self, video: Video) -> dict[str, Mapping[str, str]]:
        """Returns a video's captions by file name of the frame; "*" is the whole video's. Marks them as used."""
        found = {frame.rpartition("/")[2]: self.of[frame] for frame in video.frames if frame in self.of}
        if video.id in self.of:
            found["*"] = self.of[video.id]
        self.used.update(key for key in (video.id, *video.frames) if key in self.of)
        return found


def write(
    arrangement: Arrangement,
    root: str | os.PathLike,
    out: str | os.PathLike,
    *,
    path_form: str = "released",
    labels: Mapping | None = None,
    captions: Captions | None = None,
    made: Mapping | None = None,
) -> list[Path]:
    """Writes the JSONs of an arrangement, and what belongs to each.

    Every JSON is read back, by `read_manifest`, before an earlier one is replaced.

    Args:
        arrangement: Result of `arrange` or `adopt`.
        root: Folder of the frames; records of `resproto faces` are searched there.
        out: Folder to write into.
        path_form: See `layout`.
        labels: Meanings of label strings that the taxonomy lacks.
        captions: Captions for the side file.
        made: How the splits were made, for the side file's first line.

    Returns:
        Paths of the JSONs.

    Raises:
        UserError: A file cannot be written, a name is no plain file name, or a label string has no meaning.
    """
    check_names(arrangement)
    out, description = Path(out), arrangement.description
    make_folder(out)
    known = load("datasets", description.name) if description.name in names("datasets") else None
    own = {**(known.labels if known else {}), **description.labels, **(labels or {})}
    taxonomy = taxonomy_of(description, labels)
    media = Media(Path(root))
    paths, captions = [], captions or Captions()
    for name, wanted in {description.name: None, **description.parts}.items():
        videos = [video for video in arrangement.videos if wanted is None or video.label in wanted]
        if wanted is not None and not set(wanted) <= {video.label for video in videos}:
            continue
        path, content = out / f"{name}.json", json.dumps(layout(videos, name, path_form))
        ids = _read_back(path, content, name, arrangement, videos, taxonomy)
        write_text(path, content)
        _write_yaml(path, name, arrangement, videos, own if wanted is None else {})
        records = _records(videos, ids, taxonomy, media, captions)
        header = {"dataset": name, "manifest": path.name, "splits": arrangement.splits, **(made or {})}
        write_side(side_path(path), {**header, "source": description.source}, records)
        paths.append(path)
    return paths


def check_names(arrangement: Arrangement) -> None:
    """Refuses an arrangement whose names would put files outside the output folder.

    Raises:
        UserError: A name is no plain file name.
    """
    for name in (arrangement.description.name, *arrangement.description.parts):
        remedy = "files are named after it: with DATASET folders set --name, with adopt change the list's top key"
        plain_name(name, "data set name", remedy)


def layout(videos: Iterable[Arranged], name: str, path_form: str = "released") -> dict:
    """Lays out videos as DeepfakeBench's JSON: `{name: {label: {split: {video: entry}}}}`.

    If the videos have compression levels, there is a level of those above the videos. See `Layout` for the nesting.

    Args:
        videos: Videos of all labels and splits.
        name: The top key.
        path_form: "released": the data set folder first, backslashes, as in its LMDBs; "files": below ./datasets/rgb/,
            as its loader finds files on Linux.

    Raises:
        UserError: Two videos of a label, split and level have the same name.
    """
    videos = list(videos)
    laid_out = Layout(name, sorted({video.level for video in videos if video.level}))
    for video in videos:
        entry = {"label": video.label, "frames": [_written(frame, path_form) for frame in video.clip.frames]}
        if video.masks is not None:
            entry["masks"] = [_written(mask, path_form) for mask in video.masks]
        for split in video.splits:
            laid_out.add(video.label, split, video.level, video.name, entry)
    return {name: laid_out.tables}


def _written(path: str, path_form: str) -> str:
    return path.replace("/", "\\") if path_form == "released" else FILES_ROOT + path


def _write_yaml(path: Path, name: str, arrangement: Arrangement, videos: Sequence[Arranged], labels: Mapping) -> None:
    """Writes NAME.yaml, and NAME_LEVEL.yaml for other compressions, unless the package has one of that name."""
    description = arrangement.description
    levels = sorted({video.level for video in videos if video.level}) or [None]
    for level in levels:
        full = name if level in (None, "c23") else f"{name}_{level}"
        if full in names("datasets"):
            continue
        folders = list(dict.fromkeys(video.clip.folder.split("/")[0] for video in videos))
        values = {
            "json": path.name,
            "key": name,
            "folder": folders[0] if len(folders) == 1 else folders,
            "store": description.store,
            **({"compression": level} if level else {}),
            **({"labels": dict(labels)} if labels else {}),
            "source": description.source,
            **({"note": description.note} if description.note else {}),
        }
        write_text(path.with_name(f"{full}.yaml"), yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _read_back(
    path: Path, content: str, name: str, arrangement: Arrangement, videos: Sequence[Arranged], taxonomy: Taxonomy
) -> dict[str, Video]:
    """Reads the content of a JSON to be, from a draft elsewhere: {first frame: video}."""
    folders = tuple(dict.fromkeys(video.clip.folder.split("/")[0] for video in videos))
    found = {}
    with scratch_folder() as folder:
        draft = folder / path.name
        write_text(draft, content)
        try:
            for split in SPLITS:
                for level in sorted({video.level or "" for video in videos if split in video.splits}):
                    for video in read_manifest(
                        draft, name, split=split, key=name, compression=level or None, folder=folders, taxonomy=taxonomy
                    ):
                        found[video.frames[0]] = video
        except UserError as error:
            raise UserError(f"{str(error).replace(str(draft), str(path))}; it was not written") from error
    return found


def _records(
    videos: Sequence[Arranged],
    found: Mapping[str, Video],
    taxonomy: Taxonomy,
    media: "Media",
    captions: "Captions",
) -> Iterable[SideRecord]:
    read = {video.clip.path: found[_first(video, found)] for video in videos}
    for video in videos:
        of_reader, meaning = read[video.clip.path], taxonomy[video.means]
        target, source = video.people.get("target"), video.people.get("source")
        original = read.get(video.original)
        yield SideRecord(
            id=of_reader.id,
            splits=video.splits,
            label=of_reader.label,
            label_name=video.label,
            method=meaning.method,
            forgery_type=meaning.forgery_type,
            family=generator_families().get(meaning.method),
            compression=video.level,
            identity=video.people.get("identity") or seen_in_it(meaning.forgery_type, target, source),
            target=target,
            source=source,
            original=original.id if original else None,
            media=media.of(video.clip.path, of_reader),
            captions=captions.take(of_reader),
        )


def _first(video: Arranged, found: Mapping[str, Video]) -> str:
    """Finds the frame that the reader has first; it may sort names in another way than the tree."""
    return next(frame for frame in video.clip.frames if frame in found)
