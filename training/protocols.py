"""Resolves a protocol's names to frame lists, frame stores and a fingerprint.

The fingerprint is a hash of the protocol's content and of the frame lists it resolved to: two results can stand in one
table only if theirs are equal.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.configs.schema import DataConfig, DatasetConfig, ProtocolConfig
from resproto_fd.preprocessing.manifest import read_manifest
from resproto_fd.preprocessing.side_file import side_path
from resproto_fd.preprocessing.store.frame_store import FrameStore, open_store
from resproto_fd.preprocessing.taxonomy import load_taxonomy
from resproto_fd.preprocessing.video import Video
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
        stores: Frame store of each data set, by name.
        sides: Where the side file of each data set would lie, by name.
        fingerprint: SHA-256 in hexadecimal.
        tested_in_selection: How many of the selection's frames each test set has; only sets with such frames. A
            checkpoint chosen on them is an oracle.
        left_out: Frames that manifests name and stores lack, by data set (only with data.on_bad_frame=skip).
        notes: What a reader of the manifests should know: videos without frames, entries named twice.
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
    tested_in_selection: dict[str, int] = field(default_factory=dict)


def resolve(protocol: ProtocolConfig, data: DataConfig, *, tests_only: bool = False) -> ResolvedProtocol:
    """Reads manifests, opens stores, and checks that every frame is there, before any computing.

    Args:
        protocol: The protocol.
        data: Where this machine keeps the data.
        tests_only: Training and selection sets may be absent.

    Raises:
        UserError: A data set, folder, split or label is unknown or missing; or a store lacks frames that its manifest
            names, and data.on_bad_frame is not `skip`: they are counted, and the first are named.
    """
    for name, severities in protocol.corruptions.items():
        for severity in severities:
            check_corruption(name, severity)
    folders = loading.data_folders(data)
    reader = _Reader(folders, data)
    train = None
    if protocol.train:
        train = reader.frames(protocol.train, "train", protocol.frames.train, optional=tests_only)
        train = train and train.thinned(protocol.share)
    chosen = protocol.selection
    selection = None
    if chosen.rule == "best":
        wanted = getattr(protocol.frames, chosen.split)
        selection = reader.frames([chosen.dataset], chosen.split, wanted, optional=tests_only)
    tests = {name: reader.frames([name], "test", protocol.frames.test) for name in protocol.test}
    left_out = reader.check_frames([frames for frames in (train, selection, *tests.values()) if frames])
    if left_out:
        train, selection = (frames and frames.without(reader.missing) for frames in (train, selection))
        tests = {name: frames.without(reader.missing) for name, frames in tests.items()}
    fingerprint = _fingerprint(protocol, train, selection, tests)
    shared = _shared_frames(selection, tests, reader.stores)
    for name, count in shared.items():
        reader.notes.append(
            f"the checkpoint is selected on {count} frames that {name} tests: its row is an oracle, not ranked"
        )
    return ResolvedProtocol(
        protocol, train, selection, tests, reader.stores, reader.sides, fingerprint, left_out, reader.notes, shared
    )


def _shared_frames(
    selection: FrameList | None, tests: dict[str, FrameList], stores: dict[str, FrameStore]
) -> dict[str, int]:
    """How many of the selection's frames each test set has, by name; only sets that have some."""
    if selection is None:
        return {}

    def named(frames: FrameList) -> set[tuple[str, str]]:
        owners = [str(stores[video.dataset]) for video in frames.videos]
        return {(owners[owner], path) for path, owner in zip(frames.paths, frames.video_index, strict=True)}

    chosen = named(selection)
    counts = {name: len(chosen & named(frames)) for name, frames in tests.items()}
    return {name: count for name, count in counts.items() if count}


def dataset_config(name: str, json_dir: Path) -> DatasetConfig:
    """The configuration of a data set's name: a YAML of this package, or NAME.yaml or NAME.json in `json_dir`.

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
    return loading.load("datasets", name)  # raises with the names that there are


class _Reader:
    def __init__(self, folders: dict[str, Path | None], data: DataConfig):
        self.folders, self.data = folders, data
        self.stores: dict[str, FrameStore] = {}
        self.sides: dict[str, Path] = {}
        self.missing: set[str] = set()
        self.notes: list[str] = []

    def frames(self, names: list[str], split: str, per_video: int | None, optional: bool = False) -> FrameList | None:
        """The frames of one split of some data sets; None when `optional` and a data set is not on this machine."""
        videos: dict[str, Video] = {}
        for name in names:
            config = dataset_config(name, self.folders["json"])
            path = self.folders["json"] / config.json_file
            if not path.is_file():
                if optional:
                    return None
                known = ", ".join(sorted(p.stem for p in self.folders["json"].glob("*.json"))) or "none"
                raise UserError(f"data set '{name}': no manifest {path}; manifests there: {known}")
            found = read_manifest(
                path,
                name,
                split=split,
                compression=config.compression,
                key=config.key,
                folder=config.folder,
                taxonomy=load_taxonomy().extended(config.labels, f"labels of data set '{name}'")
                if config.labels
                else None,
            )
            for what, which in (("without frames", found.empty), ("named twice, taken once", found.repeated)):
                if which:
                    self.notes.append(f"{path}, {split}: {len(which)} videos {what}: {', '.join(which[:3])}")
            # The FF++ sets share their real videos: a frame that two training sets name is trained on once.
            for video in found:
                videos.setdefault(video.id, video)
            self.sides[name] = side_path(path)
            self.stores.setdefault(name, open_store(self._store_path(name, config)))
        return FrameList.of(list(videos.values()), per_video)

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
    if protocol.recode is not None:
        content["recode"] = protocol.recode
    if protocol.corruptions:
        content["corruptions"] = protocol.corruptions
    if protocol.share != 1:
        content["share"] = protocol.share
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
