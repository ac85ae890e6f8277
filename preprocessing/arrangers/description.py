"""How a data set is described: which folders hold which label, and what its own lists say."""

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
"""Names of folders that say a split, in lower case."""


@dataclass(frozen=True, slots=True)
class Clip:
    """A video or picture found in the tree of frames.

    Attributes:
        folder: The data set's folder first, without the part "frames":
            "FaceForensics++/original_sequences/youtube/c23".
        name: "000".
        frames: Canonical paths in natural order.
        parts: What the `{words}` of the source's folder stood for: {"level": "c23"}.
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
class Said:
    """What a data set's own list says of a clip. None leaves it to the folder.

    Attributes:
        split: "train", "val", "test".
        label: The label string.
        people: What the names of the clips do not tell: "identity", "target", "source", "original" (see `Source`).
    """

    split: str | None = None
    label: str | None = None
    people: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Catalogue:
    """A data set's own lists, read.

    Attributes:
        entries: What they say, by key.
        key: The key of a clip.
        where: The files, for messages.
    """

    entries: Mapping[str, Said]
    key: Callable[[Clip], str]
    where: str


@dataclass(frozen=True)
class Source:
    """Folders whose clips have one label.

    Attributes:
        folder: Below the root, the data set's folder first. `{word}` stands for any one part and is remembered;
            clips are FOLDER/frames/NAME/*.png. Ending in "/**": clips are the folders of pictures anywhere below.
        label: The label string; or label strings by the name of a folder on the way, in lower case, where the layout
            is looser: the innermost that is known counts.
        means: A label string that tells the method where `label` stands for several.
        split: The split all of them have. (Where no list is published, a folder below "/**"
            called train, val or test says it too.)
        listed: Whether the data set's lists speak of them.
        unlisted: Splits of a clip that no list names; none: it is left out. None: the data set publishes no split,
            the clip goes to the test split or as the caller's shares say.
        pictures: Each picture is a clip by itself. (Below a folder "frames", which `resproto faces` makes, each folder
            is one all the same.)
        masks: Folder whose MASKS/NAME/*.png are the clip's masks; the `{words}` of `folder` are filled in.
        names: Regular expression of a clip's whole name. Its groups tell `identity` (who is seen), or `target` (whose
            video was altered) and `source` (whose face or motion was put in), and whatever `original` needs.
        people: Prefix of identities: names of people mean the same within it and nothing outside it.
        original: Path of the real clip that was altered; `{groups}`, `{words}`, `{name}` and `{below}` (the folders
            that "/**" stood for) are filled in.
        mode: "official" or "deepfakebench": only then are they part of the data set.
        peer: Where DeepfakeBench puts clips of the split "train", "val", "test" or "unlisted", where it differs.
        required: Whether its absence is an error.
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


@dataclass(frozen=True)
class Description:
    """A data set.

    Attributes:
        name: As protocols name it; top key and name of its JSON.
        folders: The data set folders its frames are in.
        sources: Its folders and labels.
        catalogue: Reads its own lists, given the root. None: it has none.
        levels: Whether the JSON has compression levels, as the FaceForensics++ family does.
        parts: Further JSONs: name -> labels, the real videos' among them.
        peer: Whether DeepfakeBench (or DF40) has a script for it, so that there are splits `deepfakebench`.
        store: Its LMDB, for the data set's YAML.
        source: Paper.
        layout: Where the layout is described.
        verified: Whether a tree of it, real or made by DeepfakeBench's own code, has been arranged.
        note: What a user should know.
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
