"""The score table: one detector's score of every frame of one test set, kept so that all numbers can be made again.

Nothing after this file needs a detector, a checkpoint or an image: metrics, tables and comparisons are functions of
score tables alone. In shapes, N is the number of frames and V of videos.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resproto_fd.configs.errors import MissingFile, UnreadableFile, UserError, shown
from resproto_fd.configs.file_names import plain_name
from resproto_fd.configs.files import atomic_file
from resproto_fd.configs.readers.json_reader import parse_json
from resproto_fd.configs.readers.npz_reader import Kind, read_npz
from resproto_fd.configs.readers.text import LARGEST_NUMBER
from resproto_fd.trainer.frame_list import FrameList

FORMAT = 1


def table_path(folder: Path, test_set: str, kind: str = "scores", mark: str = "") -> Path:
    """The file of a test set's score table in a run folder.

    Args:
        folder: The run folder.
        test_set: Name of the test set.
        kind: The folder in it: "scores", "scores_selection" or "scores_corrupted".
        mark: Added to the name, for tables of changed frames.

    Raises:
        UserError: The test set's name cannot be that of a file.
    """
    return folder / kind / f"{plain_name(test_set, 'name of the test set')}{mark}.npz"


ROUNDING = 1e-6  # a float32 softmax or a sum of its parts may leave [0, 1] by this much; it is put back


class ScoreTable:
    """P(fake) of every frame of one test set, by one detector.

    Built from one value per frame. Held without repetition: what belongs to a video (its label, method and
    forgery type) is stored once a video, so that a million frames are some 20 MB and a video cannot have two labels.

    Args:
        dataset: Name of the test set, as the protocol calls it.
        video: Each frame's video id, unique in the whole test set: data set, source and name
            ("FaceForensics++/manipulated_sequences/Deepfakes/c23/000_003"), never the name alone, [N].
        frame: Frame numbers within the video, [N].
        label: 0 real, 1 fake; one value for all frames of a video, [N].
        method: How the fakes were made ("Deepfakes"); "real" for real videos, [N].
        score: P(fake), in [0, 1], [N]. float64 stays so, everything else becomes float32.
        forgery_type: "face swap", "reenactment", ...; [N]. Unknown if not given.
        variants: Other scores of the same frames by name ({"clip": ..., "grp": ...}), each in [0, 1], [N].
        answered: Whether the detector gave each frame a score, [N]; all if not given. A frame without an answer has the
            score 0.5.
        people: The person recorded and the person whose face is seen, by video id; "" or absent if not known.
        detector: Who scored.
        checkpoint: SHA-256 of the weights, None when there was no file.
        skipped: Frames of the test set that could not be read and are not in the table.
        made_from: What the scores were made from, in parts that JSON can hold (see `provenance`); None if not known.
        checksums: CRC-32 of each stored frame (see `checksum_of`), uint32 [N]; None if not known.
        files: Identity of the stored files that were read (see `FrameStore.identity`); None if not known.

    Raises:
        UserError: Columns of different lengths, no frame at all, a frame listed twice, a label that is not 0 or 1,
            a video with two labels or methods, a score that is NaN, infinite or outside [0, 1]. The message names
            the first offenders.
    """

    def __init__(
        self,
        dataset: str,
        video: Sequence[str] | np.ndarray,
        frame: Sequence[int] | np.ndarray,
        label: Sequence[int] | np.ndarray,
        method: Sequence[str] | np.ndarray,
        score: Sequence[float] | np.ndarray,
        *,
        forgery_type: Sequence[str] | np.ndarray | None = None,
        variants: Mapping[str, np.ndarray] | None = None,
        answered: np.ndarray | None = None,
        people: Mapping[str, tuple[str, str]] | None = None,
        detector: str = "",
        checkpoint: str | None = None,
        skipped: int = 0,
        made_from: Mapping[str, Any] | None = None,
        checksums: np.ndarray | None = None,
        files: str | None = None,
    ):
        if forgery_type is None:
            forgery_type = ["unknown"] * len(video)
        columns = {"video": video, "frame": frame, "label": label, "method": method, "score": score}
        _same_lengths(dataset, columns | {"forgery_type": forgery_type})
        videos, index = factorize(video)
        labels = _integers(dataset, "label", label)
        known = [(people or {}).get(name, ("", "")) for name in videos.tolist()]
        self._set(
            dataset=str(dataset),
            videos=videos,
            video_index=index,
            frame=_integers(dataset, "frame", frame),
            score=score,
            variants=variants or {},
            answered=answered,
            video_people=_text(known) if any(map(any, known)) else None,
            detector=str(detector),
            checkpoint=checkpoint,
            skipped=int(skipped),
            made_from=made_from,
            checksums=checksums,
            files=files,
            video_label=_one_per_video(dataset, "label", labels, videos, index),
            video_method=_one_per_video(dataset, "method", _text(method), videos, index),
            video_type=_one_per_video(dataset, "forgery type", _text(forgery_type), videos, index),
        )

    @classmethod
    def of_frames(
        cls, dataset: str, frames: FrameList, scores: np.ndarray, *, index: np.ndarray | None = None, **others
    ) -> "ScoreTable":
        """The table of a frame list's scores.

        Args:
            dataset: Name of the test set, as the protocol calls it.
            frames: The frames.
            scores: P(fake), [N].
            index: Which of the frames have the scores, [N]; all if not given.
            others: `variants`, `answered`, `people`, `detector`, `checkpoint`, `skipped`, `made_from`, `checksums` and
                `files`, see `ScoreTable`.
        """
        index = slice(None) if index is None else index
        owners = [frames.videos[i] for i in frames.video_index[index]]
        return cls(
            dataset,
            [video.id for video in owners],
            frames.numbers[index],
            frames.labels[index],
            [video.method for video in owners],
            scores,
            forgery_type=[video.forgery_type for video in owners],
            **others,
        )

    def _set(self, **fields) -> None:
        self.dataset: str = fields["dataset"]
        self.detector: str = fields["detector"]
        self.checkpoint: str | None = fields["checkpoint"]
        self.skipped: int = fields["skipped"]
        self.videos: np.ndarray = fields["videos"]  # ids [V], in order of first appearance
        self.video_method: np.ndarray = fields["video_method"]  # [V]
        self.video_type: np.ndarray = fields["video_type"]  # [V]
        self.video_people: np.ndarray | None = fields["video_people"]  # recorded and seen [V, 2]; None: not known
        if self.video_people is not None and self.video_people.shape != (len(self.videos), 2):
            raise UserError(f"score table of {self.dataset}: expected two people of each video; score it again")
        self.video_index: np.ndarray = fields["video_index"].astype(np.int32, copy=False)  # each frame's video, [N]
        self.frame: np.ndarray = fields["frame"].astype(np.int64, copy=False)  # [N]
        if len(self.video_index) == 0:
            raise UserError(f"score table of {self.dataset}: it has no frame (skipped: {self.skipped})")
        labels = fields["video_label"]
        self._refuse((labels != 0) & (labels != 1), labels, "label", "0 (real) or 1 (fake)", of_videos=True)
        self.video_label: np.ndarray = labels.astype(np.int8, copy=False)  # [V]
        self._refuse_repeated_frames()
        self.score: np.ndarray = self._checked_scores("score", fields["score"])  # [N]
        self.variants: dict[str, np.ndarray] = {
            str(name): self._checked_scores(f"score variant {name!r}", values)
            for name, values in fields["variants"].items()
        }
        self.answered: np.ndarray | None = self._checked_answers(fields["answered"])  # bool [N]; None: all
        self.made_from: dict[str, Any] | None = fields["made_from"] and dict(fields["made_from"])
        self.checksums: np.ndarray | None = self._checked_column("checksums", fields["checksums"], np.uint32)
        self.files: str | None = fields["files"]

    def __len__(self) -> int:
        return len(self.frame)

    def __repr__(self) -> str:
        return f"ScoreTable({self.dataset!r}, {len(self)} frames of {len(self.videos)} videos, by {self.detector!r})"

    @property
    def video(self) -> np.ndarray:
        """Video id of each frame, [N]."""
        return self.videos[self.video_index]

    @property
    def label(self) -> np.ndarray:
        """Label of each frame, int8, [N]."""
        return self.video_label[self.video_index]

    @property
    def method(self) -> np.ndarray:
        """Forgery method of each frame, [N]."""
        return self.video_method[self.video_index]

    @property
    def forgery_type(self) -> np.ndarray:
        """Forgery type of each frame, [N]."""
        return self.video_type[self.video_index]

    def over_answered(self) -> "ScoreTable | None":
        """The table of the frames that were answered; None if all were, or none."""
        if self.answered is None or not self.answered.any():
            return None
        kept = self.answered
        return ScoreTable(
            self.dataset,
            self.video[kept],
            self.frame[kept],
            self.label[kept],
            self.method[kept],
            self.score[kept],
            forgery_type=self.forgery_type[kept],
            people=self.people(),
            detector=self.detector,
            checkpoint=self.checkpoint,
        )

    def people(self) -> dict[str, tuple[str, str]]:
        """The person recorded and the person whose face is seen, by video id, as they were given."""
        if self.video_people is None:
            return {}
        return {
            video: (recorded, seen) for video, (recorded, seen) in zip(self.videos.tolist(), self.video_people.tolist())
        }

    def frames_hash(self) -> str:
        """SHA-256 of which frames were scored and with which labels: equal for every detector that saw the same
        frames, in whatever order."""
        rank = np.argsort(np.argsort(self.videos, kind="stable"), kind="stable")[self.video_index]
        order = self._order(rank)
        digest = hashlib.sha256("\n".join(sorted(self.videos.tolist())).encode())
        for column in (rank, self.frame, self.label):
            digest.update(np.ascontiguousarray(column[order], dtype="<i8"))
        return digest.hexdigest()

    def made_from_hash(self) -> str | None:
        """SHA-256 of all that the scores were made from; None if it is not known."""
        if self.made_from is None:
            return None
        return hashlib.sha256(json.dumps(self.made_from, sort_keys=True).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the table as one .npz without pickled objects; the file appears whole or not at all."""
        arrays = {
            "format": np.array(FORMAT),
            "dataset": np.array(self.dataset),
            "detector": np.array(self.detector),
            "checkpoint": np.array(self.checkpoint or ""),
            "skipped": np.array(self.skipped),
            "videos": self.videos,
            "video_label": self.video_label,
            "video_method": self.video_method,
            "video_type": self.video_type,
            "video_index": self.video_index,
            "frame": self.frame,
            "score": self.score,
        }
        arrays |= {f"variant/{name}": values for name, values in self.variants.items()}
        further = {"answered": self.answered, "video_people": self.video_people, "checksums": self.checksums}
        if self.made_from is not None:
            further["made_from"] = np.array(json.dumps(self.made_from, sort_keys=True))
        if self.files is not None:
            further["files"] = np.array(self.files)
        arrays |= {name: values for name, values in further.items() if values is not None}
        with atomic_file(path) as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "ScoreTable":
        """Read a table that `save` wrote, and check it like a new one.

        Raises:
            UnreadableFile: No such file, not a score table, damaged, or written by a newer version.
        """
        path = Path(path)
        try:
            arrays = read_npz(path, MEMBERS, "score the test set again")
        except MissingFile:
            raise MissingFile(f"{path}: no such score table") from None
        except UnreadableFile as error:
            raise UnreadableFile(str(error).replace(f"{path}: ", f"{path}: not a readable score table: ", 1)) from error
        try:
            if arrays["format"] > FORMAT:
                raise UserError(f"score table format {arrays['format']}, this version reads up to {FORMAT}")
            if not 0 <= arrays["skipped"] <= LARGEST_NUMBER or (arrays["frame"] > LARGEST_NUMBER).any():
                raise UserError("skipped frames or frame numbers that do not fit 64 bits; score the test set again")
            index, videos = arrays["video_index"], arrays["videos"]
            if index.size and (index.min() < 0 or index.max() >= len(videos)):
                raise UserError("damaged: frames of videos that the table does not list; score the test set again")
            _same_lengths(path, {name: arrays[name] for name in _FRAME_ARRAYS})
            _same_lengths(
                path, {name: arrays[name] for name in ("videos", "video_label", "video_method", "video_type")}
            )
            table = cls.__new__(cls)
            table._set(
                **{name: arrays[name] for name in _STORED_ARRAYS},
                dataset=str(arrays["dataset"]),
                detector=str(arrays["detector"]),
                checkpoint=str(arrays["checkpoint"]) or None,
                skipped=int(arrays["skipped"]),
                answered=arrays.get("answered"),
                video_people=arrays.get("video_people"),
                made_from=_parts(path, arrays.get("made_from")),
                checksums=arrays.get("checksums"),
                files=str(arrays["files"]) if "files" in arrays else None,
                variants={n.removeprefix("variant/"): v for n, v in arrays.items() if n.startswith("variant/")},
            )
        except UserError as error:
            raise UnreadableFile(f"{path}: {error}") from None
        return table

    def _checked_scores(self, what: str, values) -> np.ndarray:
        values = np.asarray(values)
        if values.shape != self.frame.shape:
            raise UserError(f"score table of {self.dataset}: {what} has shape {values.shape}, expected [{len(self)}]")
        values = values.astype(np.float64 if values.dtype == np.float64 else np.float32, copy=False)
        with np.errstate(invalid="ignore"):
            bad = ~((values >= -ROUNDING) & (values <= 1 + ROUNDING))
        self._refuse(bad, values, what, "a number in [0, 1]")
        return np.clip(values, 0, 1)

    def _checked_answers(self, answered) -> np.ndarray | None:
        answered = self._checked_column("answered", answered, np.bool_)
        if answered is None:
            return None
        self._refuse(~answered & (self.score != 0.5), self.score, "score of a frame without an answer", "0.5")
        return None if answered.all() else answered

    def _checked_column(self, what: str, values, kind: type) -> np.ndarray | None:
        """A column of exactly this type with a value for each frame; None if there is none."""
        if values is None:
            return None
        values = np.asarray(values)
        if values.shape != self.frame.shape or values.dtype != kind:
            raise UserError(
                f"score table of {self.dataset}: {what}: expected {np.dtype(kind)} [{len(self)}], got {values.dtype} "
                f"{list(values.shape)}; score it again"
            )
        return values

    def _order(self, owner: np.ndarray) -> np.ndarray:
        """What sorts the frames by a number of their video [N], then by their own, [N]."""
        width = int(self.frame.max()) + 1
        if self.frame.min() < 0 or width > 2**62 // (len(self.videos) + 1):
            return np.lexsort((self.frame, owner))
        return np.argsort(owner.astype(np.int64) * width + self.frame)  # one key sorts several times faster than two

    def _refuse_repeated_frames(self) -> None:
        order = self._order(self.video_index)
        same = (np.diff(self.video_index[order]) == 0) & (np.diff(self.frame[order]) == 0)
        repeated = np.zeros(len(self), bool)
        repeated[order[1:][same]] = True
        self._refuse(repeated, self.frame, "frame", "each frame once")

    def _refuse(self, bad: np.ndarray, values: np.ndarray, what: str, wanted: str, of_videos: bool = False) -> None:
        if not bad.any():
            return
        first = np.flatnonzero(bad)[:3]
        if of_videos:
            names = [f"{self.videos[i]}: {values[i]}" for i in first]
        else:
            names = [f"{self.videos[self.video_index[i]]} frame {self.frame[i]}: {values[i]}" for i in first]
        more = "" if bad.sum() <= 3 else f" and {bad.sum() - 3} more"
        raise UserError(f"score table of {self.dataset}: {what} refused, expected {wanted}: {'; '.join(names)}{more}")


_FRAME_ARRAYS = ("video_index", "frame", "score")
MEMBERS = {
    **dict.fromkeys(("dataset", "detector", "checkpoint"), Kind("U", 0)),
    **dict.fromkeys(("format", "skipped"), Kind("iu", 0)),
    **dict.fromkeys(("videos", "video_method", "video_type"), Kind("U", 1)),
    **dict.fromkeys(("video_label", "video_index", "frame"), Kind("iu", 1)),
    "score": Kind("f", 1),
    "variant/": Kind("f", 1),
    "answered": Kind("b", 1, needed=False),
    "video_people": Kind("U", 2, needed=False),
    "made_from": Kind("U", 0, needed=False),
    "files": Kind("U", 0, needed=False),
    "checksums": Kind("u", 1, needed=False),
}
"""Arrays of a stored score table."""
_STORED_ARRAYS = ("videos", "video_label", "video_method", "video_type", *_FRAME_ARRAYS)


def factorize(names: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct names in order of first appearance, and which of them each entry is.

    Returns:
        (distinct names, unicode [V]; positions, int32 [N])

    >>> factorize(["b", "a", "b"])
    (array(['b', 'a'], dtype='<U1'), array([0, 1, 0], dtype=int32))
    """
    # A dict is several times faster here than sorting a million long strings with np.unique.
    names = [str(name) for name in (names.tolist() if isinstance(names, np.ndarray) else names)]
    position = {name: i for i, name in enumerate(dict.fromkeys(names))}
    index = np.fromiter(map(position.__getitem__, names), dtype=np.int32, count=len(names))
    return _text(list(position)), index


def _same_lengths(where: str | Path, columns: Mapping) -> None:
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"score table of {where}: columns of different lengths: {lengths}")


def _parts(path: Path, stored: np.ndarray | None) -> dict[str, Any] | None:
    """What a stored table was made from; None for an older table."""
    if stored is None:
        return None
    remedy = "score the test set again"
    parts = parse_json(str(stored), f"{path}: made_from", remedy)
    if not isinstance(parts, dict):
        raise UnreadableFile(f"{path}: made_from: expected an object as JSON, got {shown(parts)}; {remedy}")
    return parts


def _integers(dataset: str, what: str, values) -> np.ndarray:
    values = np.asarray(values)
    if values.size and values.dtype.kind not in "iub":
        raise UserError(f"score table of {dataset}: {what}: expected whole numbers, got {values.dtype}")
    return values.astype(np.int64)


def _text(values) -> np.ndarray:
    return np.asarray(values, dtype=np.str_)


def _one_per_video(dataset, what: str, values: np.ndarray, videos: np.ndarray, index: np.ndarray) -> np.ndarray:
    """The value that all frames of a video share, [V]."""
    per_video = np.zeros(len(videos), dtype=values.dtype)
    per_video[index] = values
    differs = np.flatnonzero(per_video[index] != values)
    if len(differs):
        video = index[differs[0]]
        found = sorted(set(values[index == video].tolist()))
        raise UserError(f"score table of {dataset}: video {videos[video]} has more than one {what}: {found}")
    return per_video
