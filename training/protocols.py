"""Resolves a protocol's names to frame lists, frame stores and a fingerprint.

The fingerprint is a hash of the protocol's content and of the frame lists it resolved to: two results can stand in one
table only if theirs are equal.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import DataConfig, DatasetConfig, ProtocolConfig
from resproto_fd.configs.suggestions import nearest
from resproto_fd.preprocessing.manifest import Manifest, read_manifest
from resproto_fd.preprocessing.side_file import read_side, side_path
from resproto_fd.preprocessing.store.frame_store import FrameStore, open_store
from resproto_fd.preprocessing.taxonomy import load_taxonomy
from resproto_fd.preprocessing.video import COMPRESSIONS, Video
from resproto_fd.trainer.augment.corruptions import check_corruption
from resproto_fd.trainer.frame_list import FrameList


@dataclass(frozen=True)
class ResolvedProtocol:
    """A protocol on this machine's data.

    Attributes:
        config: What was resolved.
        train: Training frames of all training sets; None if only tests were asked for and a training set is absent.
        selection: Frames that the checkpoint is selected on; None if the last epoch is taken, or as for `train`.
        tests: Frames of each test set, by name.
        stores: Frame store of each data set, by name; empty if only lists were asked for.
        sides: Where the side file of each data set would lie, by name.
        fingerprint: SHA-256 in hexadecimal.
        people: The person recorded and the person whose face is seen of test videos, by video id, as side files tell.
        tested_in_selection: How many of the selection's frames are of videos that each test set has; only sets with
            such frames. A checkpoint chosen on them is an oracle.
        left_out: Frames that manifests name and stores lack, by data set (only with data.on_bad_frame=skip).
        notes: What a reader of the manifests should know: videos without frames, entries named twice.
        data: Where this machine keeps the data.
    """

    config: ProtocolConfig
    train: FrameList | None
    selection: FrameList | None
    tests: dict[str, FrameList]
    stores: dict[str, FrameStore]
    sides: dict[str, Path]
    fingerprint: str
    left_out: dict[str, int]
    notes: list[str]
    people: dict[str, tuple[str, str]] = field(default_factory=dict)
    tested_in_selection: dict[str, int] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)


def resolve(
    protocol: ProtocolConfig, data: DataConfig, *, tests_only: bool = False, lists_only: bool = False
) -> ResolvedProtocol:
    """Reads manifests, opens stores, and checks that every frame is there, before any computing.

    Args:
        protocol: The protocol.
        data: Where this machine keeps the data.
        tests_only: Training and selection sets may be absent; a note says so, since the fingerprint is then another.
        lists_only: The frames themselves may be absent; no store is opened.

    Raises:
        UserError: A data set, folder, split or label is unknown or missing; or a store lacks frames that its manifest
            names, and data.on_bad_frame is not `skip`: they are counted, and the first are named. Or it has none.
    """
    for name, severities in protocol.corruptions.items():
        for severity in severities:
            check_corruption(name, severity)
    folders = loading.data_folders(data)
    reader = _Reader(folders, data, lists_only)
    train = None
    if protocol.train:
        train = reader.frames(protocol.train, protocol.train_splits, protocol.frames.train, optional=tests_only)
    chosen = protocol.selection
    selection = None
    if chosen.rule == "best":
        wanted = getattr(protocol.frames, chosen.split)
        selection = reader.frames([chosen.dataset], [chosen.split], wanted, optional=tests_only)
    tests = {name: reader.frames([name], ["test"], protocol.frames.test) for name in protocol.test}
    if train:
        if "val" in protocol.train_splits:
            train = reader.without_tested(train, tests)
        train = _thinned(train, protocol.share)
    left_out = reader.check_frames([frames for frames in (train, selection, *tests.values()) if frames])
    if left_out:
        train = reader.stored(train, "the training sets", optional=tests_only)
        selection = reader.stored(selection, f"data set '{chosen.dataset}', {chosen.split}", optional=tests_only)
        tests = {name: reader.stored(frames, f"data set '{name}', test") for name, frames in tests.items()}
    fingerprint = _fingerprint(protocol, train, selection, tests)
    reader.note_absent()
    shared = {} if selection is None else _shared_frames(selection, tests)
    if not tests_only:  # else the tested weights were chosen elsewhere
        reader.notes += oracle_notes(shared)
    return ResolvedProtocol(
        protocol,
        train,
        selection,
        tests,
        reader.stores,
        reader.sides,
        fingerprint,
        left_out,
        reader.notes,
        people=reader.people(protocol.test),
        tested_in_selection=shared,
        data=data,
    )


def _thinned(train: FrameList, share: float) -> FrameList:
    """A share of the training frames.

    Raises:
        UserError: It is so small that none is left.
    """
    left = train.thinned(share)
    if not len(left):
        raise UserError(f"protocol.share={share:g} leaves none of the {len(train)} training frames; set a larger one")
    return left


def _shared_frames(selection: FrameList, tests: dict[str, FrameList]) -> dict[str, int]:
    """How many of the selection's frames are of videos that each test set has, by name; only sets that have some.

    A video is known by its frames' paths, whatever set lists it and whichever of its frames are taken.
    """
    counts = {}
    for name, frames in tests.items():
        tested = {path for video in frames.videos for path in video.frames}
        seen = [not tested.isdisjoint(video.frames) for video in selection.videos]
        if count := sum(seen[owner] for owner in selection.video_index.tolist()):
            counts[name] = count
    return counts


def tested_in_split(dataset: str, split: str, resolved: ResolvedProtocol) -> dict[str, int] | None:
    """How many frames of a split are of videos that each test set of a protocol has; only sets that have some.

    Returns:
        None if this machine has no manifest of the data set, or none that can be read.
    """
    chosen = resolved.config.selection
    if resolved.selection is not None and (chosen.dataset, chosen.split) == (dataset, split):
        return resolved.tested_in_selection
    try:
        reader = _Reader(loading.data_folders(resolved.data), resolved.data, lists_only=True)
        frames = reader.frames([dataset], [split], None, optional=True)
    except UserError:
        return None
    return None if frames is None else _shared_frames(frames, resolved.tests)


def oracle_notes(shared: dict[str, int]) -> list[str]:
    """What is said of a checkpoint that was selected on tested videos, see `ResolvedProtocol.tested_in_selection`."""
    return [
        f"the checkpoint is selected on {count} frames of videos that {name} tests: its row is an oracle, not ranked"
        for name, count in shared.items()
    ]


def dataset_config(name: str, json_dir: Path) -> DatasetConfig:
    """The configuration of a data set's name: a YAML of this package, or NAME.yaml or NAME.json in `json_dir`.

    NAME_c40, NAME_c23 and NAME_raw are levels of a data set that has levels, if nothing else has this name.

    Raises:
        UserError: None of these.
    """
    own = json_dir / f"{name}.json"
    if name in loading.names("datasets"):
        return loading.load("datasets", name)
    if own.with_suffix(".yaml").is_file():
        return loading.load("datasets", str(own.with_suffix(".yaml")))
    if own.is_file():
        return DatasetConfig(name=name, json_file=own.name, store=f"{name}_lmdb")
    base, _, level = name.rpartition("_")
    if level in COMPRESSIONS and base in loading.names("datasets"):
        found = loading.load("datasets", base)
        if found.compression is not None:
            return found.model_copy(update={"name": name, "compression": level})
    own_names = sorted(
        {path.stem for path in json_dir.glob("*.json")} | {path.stem for path in json_dir.glob("*.yaml")}
    )
    known = sorted({*own_names, *loading.names("datasets")})
    raise UserError(
        f"no dataset is called '{name}'{nearest(name, known)}; in {json_dir}: {', '.join(own_names) or 'none'}; known "
        f"names: {', '.join(loading.names('datasets'))}"
    )


def read_split(path: Path, name: str, split: str, config: DatasetConfig) -> Manifest:
    """The videos of a data set's split, see `read_manifest`; its configuration tells how its manifest is read."""
    taxonomy = load_taxonomy().extended(config.labels, f"labels of data set '{name}'") if config.labels else None
    options = {"compression": config.compression, "key": config.key, "folder": config.folder, "taxonomy": taxonomy}
    return read_manifest(path, name, split=split, **options)


class _Reader:
    def __init__(self, folders: dict[str, Path | None], data: DataConfig, lists_only: bool):
        self.folders, self.data, self.lists_only = folders, data, lists_only
        self.stores: dict[str, FrameStore] = {}
        self.sides: dict[str, Path] = {}
        self.missing: set[str] = set()
        self.notes: list[str] = []
        self.absent: dict[Path, None] = {}

    def frames(
        self, names: list[str], splits: list[str], per_video: int | None, optional: bool = False
    ) -> FrameList | None:
        """The frames of splits of some data sets; None when `optional` and a data set is not on this machine."""
        videos: dict[str, list[Video]] = {}
        for name, split in product(names, splits):
            config = dataset_config(name, self.folders["json"])
            path = self.folders["json"] / config.json_file
            if not path.is_file():
                if optional:
                    self.absent[path] = None
                    return None
                known = ", ".join(sorted(p.stem for p in self.folders["json"].glob("*.json"))) or "none"
                raise UserError(f"data set '{name}': no manifest {path}; manifests there: {known}")
            found = read_split(path, name, split, config)
            for what, which in (("without frames", found.empty), ("named twice, taken once", found.repeated)):
                if which:
                    self.notes.append(f"{path}, {split}: {len(which)} videos {what}: {', '.join(which[:3])}")
            for video in found:
                videos.setdefault(video.id, []).append(video)
            self.sides[name] = side_path(path)
            if not self.lists_only:
                self.stores.setdefault(name, open_store(self._store_path(name, config)))
        return FrameList.of(_one_owner(videos.values()), per_video)

    def note_absent(self) -> None:
        """Notes what it means that manifests of training or selection sets are not on this machine."""
        if self.absent:
            self.notes.append(
                f"no manifest {' and '.join(map(str, self.absent))}. The fingerprint covers its frames, so it is "
                "another one, and the result stands in a table of its own. Add the manifest to join the others"
            )

    def without_tested(self, train: FrameList, tests: dict[str, FrameList]) -> FrameList:
        """Training frames without those of videos that are tested; their number is noted."""
        tested = {video.id for frames in tests.values() for video in frames.videos}
        owners = (train.videos[owner].id for owner in train.video_index)
        shared = {path for path, owner in zip(train.paths, owners, strict=True) if owner in tested}
        if shared:
            self.notes.append(f"{len(shared)} frames of the training sets' validation splits are tested and left out")
        return train.without(shared)

    def people(self, names: list[str]) -> dict[str, tuple[str, str]]:
        """The people of the data sets' videos that side files name; see `SideRecord.roles`."""
        found = {}
        for path in {self.sides[name] for name in names}:
            if path.is_file():
                records = read_side(path).records
                found |= {key: record.roles for key, record in records.items() if any(record.roles)}
        return found

    def _store_path(self, name: str, config: DatasetConfig) -> Path:
        lmdb, rgb = self.folders["lmdb"], self.folders["rgb"]
        if self.data.lmdb and lmdb and (lmdb / config.store).is_dir():
            return lmdb / config.store
        if rgb:
            return rgb
        looked = [str(lmdb / config.store)] if lmdb else []
        raise UserError(
            f"data set '{name}': no frames found; looked for {' and '.join([*looked, 'data.rgb_dir (not given)'])}. "
            "Set data.lmdb_dir= (it holds NAME_lmdb folders) or data.rgb_dir= (it holds the data sets' frame files)"
        )

    def check_frames(self, lists: list[FrameList]) -> dict[str, int]:
        """Counts the frames that stores lack, by data set, and remembers them."""
        if self.lists_only:
            return {}
        wanted: dict[str, set[str]] = {}
        for frames in lists:
            for path, owner in zip(frames.paths, frames.video_index, strict=True):
                wanted.setdefault(frames.videos[owner].dataset, set()).add(path)
        counts, messages = {}, []
        for name, paths in wanted.items():
            absent = self.stores[name].missing(sorted(paths))
            if absent:
                counts[name] = len(absent)
                self.missing.update(absent)
                messages.append(
                    f"data set '{name}': {self.stores[name]} lacks {len(absent)} of {len(paths)} frames that its "
                    f"manifest names, first: {', '.join(absent[:3])}"
                )
        if messages and self.data.on_bad_frame == "stop":
            raise UserError("\n".join([*messages, "complete the store, or leave them out: data.on_bad_frame=skip"]))
        return counts

    def stored(self, frames: FrameList | None, what: str, optional: bool = False) -> FrameList | None:
        """A list without the frames that stores lack; None if there is no list, or none is left and it is optional.

        Raises:
            UserError: No frame is left.
        """
        kept = frames and frames.without(self.missing)
        if kept is None or len(kept):
            return kept
        if optional:
            self.notes.append(f"{what}: the store has none of the {len(frames)} frames, which are left out")
            return None
        raise UserError(f"{what}: expected frames in the store, got none of {len(frames)}; complete the store")


def _one_owner(shared: Iterable[list[Video]]) -> list[Video]:
    """Takes each video once, as the video of one of the data sets that name it.

    The FF++ sets share their real videos. Those of each class are spread evenly over the sets that share them: if the
    first set had all the reals, a frame's data set would tell its label.
    """
    turns: Counter[tuple] = Counter()
    chosen = []
    for same in shared:
        sharers = (same[0].label, *(video.dataset for video in same))
        chosen.append(same[turns[sharers] % len(same)])
        turns[sharers] += 1
    return chosen


def _fingerprint(
    protocol: ProtocolConfig, train: FrameList | None, selection: FrameList | None, tests: dict[str, FrameList]
) -> str:
    content = {
        "train": protocol.train,
        "frames": protocol.frames.model_dump(),
        "selection": protocol.selection.model_dump(),
        "test": protocol.test,
        "train_frames": train and train.digest(),
        "selection_frames": selection and selection.digest(),
        "test_frames": {name: frames.digest() for name, frames in tests.items()},
    }
    if protocol.sampling != "proportional":
        content["sampling"] = protocol.sampling
    if protocol.train_splits != ["train"]:
        content["train_splits"] = protocol.train_splits
    if protocol.recode is not None:
        content["recode"] = protocol.recode
    if protocol.corruptions:
        content["corruptions"] = protocol.corruptions
    if protocol.share != 1:
        content["share"] = protocol.share
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
