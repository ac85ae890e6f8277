"""Description of a data set: the labels of its folders, and the content of its own lists."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ALL = ("train", "val", "test")
VAL_TOO = {"test": ("val", "test")}
EVERYWHERE = {"train": ALL, "val": ALL, "test": ALL, "unlisted": ALL}
LEAVE_OUT: tuple[str, ...] = ()
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Folder names that mean a split, in lower case."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Video or picture that was found in the tree of frames.

    Attributes:
        folder: The data set's folder first, without the part "frames":
            "FaceForensics++/original_sequences/youtube/c23".
        name: "000".
        frames: Canonical paths in natural order.
        parts: Values of the `{words}` of the source's folder: {"level": "c23"}.
    """

    folder: str
    name: str
    frames: tuple[str, ...]
    parts: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Folder and name."""
        return f"{self.folder}/{self.name}"


@dataclass(frozen=True, slots=True)
class ListEntry:
    """Entry of a data set's own list for a clip. If a value is None, it comes from the folder.

    Attributes:
        split: "train", "val", "test".
        label: The label string.
        people: "identity", "target", "source" and "original" (see `Source`), if the names of clips do not give them.
    """

    split: str | None = None
    label: str | None = None
    people: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Catalogue:
    """Content of a data set's own lists.

    Attributes:
        entries: The entries, by key.
        key: Returns the key of a clip.
        where: The files, for messages.
    """

    entries: Mapping[str, ListEntry]
    key: Callable[[Clip], str]
    where: str


@dataclass(frozen=True)
class Source:
    """Folders whose clips have one label.

    Attributes:
        folder: Path below the root; the data set's folder is first. `{word}` matches any one part and is remembered.
            Clips are FOLDER/frames/NAME/*.png. If it ends in "/**", clips are the folders of pictures anywhere below.
        label: The label string. For a looser layout, label strings by the name of a folder on the path, in lower case;
            the innermost known folder counts.
        means: A label string that tells the method, if `label` stands for several methods.
        split: The split of all clips. (If no list is published, a folder below "/**" called train, val or test tells
            it too.)
        listed: Whether the data set's lists name these clips.
        unlisted: Splits of a clip that no list names; if empty, it is left out. None means that the data set publishes
            no split: the clip goes to the test split, or the caller's shares decide.
        pictures: Whether each picture is a clip by itself. (Below a folder "frames", which `resproto faces` makes, each
            folder is still one clip.)
        masks: Folder whose MASKS/NAME/*.png are the clip's masks; the `{words}` of `folder` are filled in.
        names: Regular expression of a clip's whole name. Its groups are `identity` (who is seen), or `target` (whose
            video was altered) and `source` (whose face or motion was used), and those that `original` needs.
        people: Prefix of identities. A name means the same person wherever the prefix is the same.
        original: Path of the real clip that was altered; `{groups}`, `{words}`, `{name}` and `{below}` (the folders
            that "/**" matched) are filled in.
        mode: "official" or "deepfakebench", if the clips are part of the data set only under these splits.
        peer: DeepfakeBench's splits for clips of the split "train", "val", "test" or "unlisted", if they differ.
        required: Whether it is an error if the folder is missing.
        only: Regular expression of the whole path, below the folder, of the clips that are taken ("/**" alone).
        others: The same of clips that belong to other data sets. Those that fit neither are left out by name.
        instead: Folder of the usual spelling: if it exists, these clips are left out.
        spare: Whether nothing is missing if the folder is.
        identity: Regular expression searched in a clip's path below the data set folder; its group `identity`, or its
            first group, is who is seen.
    """

    folder: str
    label: str | Mapping[str, str]
    means: str = ""
    split: str | None = None
    listed: bool = True
    unlisted: tuple[str, ...] | None = LEAVE_OUT
    pictures: bool = False
    masks: str = ""
    names: str = ""
    people: str = ""
    original: str = ""
    mode: str = ""
    peer: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    required: bool = False
    only: str = ""
    others: str = ""
    instead: str = ""
    spare: bool = False
    identity: str = ""


@dataclass(frozen=True)
class Description:
    """A data set.

    Attributes:
        name: As protocols name it; top key and name of its JSON.
        folders: The data set folders its frames are in.
        sources: Its folders and labels.
        catalogue: Reads its own lists, given the root; None if it has none.
        levels: Whether the JSON has compression levels, as in the FaceForensics++ family.
        parts: Further JSONs: name -> labels, including that of the real videos.
        peer: Whether DeepfakeBench (or DF40) has a script for it, so that there are splits `deepfakebench`.
        store: Its LMDB, for the data set's YAML.
        source: Paper.
        layout: Source of the description of its layout.
        verified: Whether it was tried on a real tree, or on one made by DeepfakeBench's own code.
        note: Note for users.
        complete: Number of clips of the whole data set, for each compression level, by label; or by "real" and "fake",
            for all of a class.
        folders_whole: Number of folders of the whole data set, by the patterns of its sources.
        lists_all: Whether the data set's lists name all clips of a split, so that a name without a clip is a gap.
        optional: Labels that the whole data set may lack, because the names of its folders are guessed.
        labels: Meanings of label strings that the taxonomy lacks.
    """

    name: str
    folders: tuple[str, ...]
    sources: tuple[Source, ...]
    catalogue: Callable[[Path], Catalogue] | None = None
    levels: bool = False
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    peer: bool = False
    store: str = ""
    source: str = ""
    layout: str = ""
    verified: bool = False
    note: str = ""
    complete: Mapping[str, int] = field(default_factory=dict)
    folders_whole: Mapping[tuple[str, ...], int] = field(default_factory=dict)
    lists_all: bool = False
    optional: tuple[str, ...] = ()
    labels: Mapping = field(default_factory=dict)
