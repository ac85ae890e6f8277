"""The score table: one detector's score of every frame of one test set, kept so that all numbers can be made again.

A detector that scores clips has a row for each clip. Its table has scores of videos, and none of frames.

Nothing after this file needs a detector, a checkpoint or an image: metrics, tables and comparisons are functions of
score tables alone. In shapes, N is the number of rows (frames, or clips), V of videos, T of the frames of a clip.
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
from resproto_fd.configs.schema import LONGEST_CLIP
from resproto_fd.trainer.frame_list import FrameList

OF_FRAMES, OF_CLIPS = 1, 2
"""Formats of the file. Versions that know frames alone refuse the second, so that none takes clips for frames."""


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
    """P(fake) of every frame, or of clips, of one test set, by one detector.

    Built from one value per row. Held without repetition: what belongs to a video (its label, method and
    forgery type) is stored once a video, so that a million frames are some 20 MB and a video cannot have two labels.

    Args:
        dataset: Name of the test set, as the protocol calls it.
        video: Each frame's video id, unique in the whole test set: data set, source and name
            ("FaceForensics++/manipulated_sequences/Deepfakes/c23/000_003"), never the name alone, [N].
        frame: Frame numbers within the video; of a clip, that of its first frame, [N].
        label: 0 real, 1 fake; one value for all rows of a video, [N].
        method: How the fakes were made ("Deepfakes"); "real" for real videos, [N].
        score: P(fake), in [0, 1], [N]. float64 stays so, everything else becomes float32.
        forgery_type: "face swap", "reenactment", ...; [N]. Unknown if not given.
        variants: Other scores of the same rows by name ({"clip": ..., "grp": ...}), each in [0, 1], [N].
        answered: Whether the detector gave each row a score, [N]; all if not given. A row without an answer has the
            score 0.5.
        people: The person recorded and the person whose face is seen, by video id; "" or absent if not known.
        detector: Who scored.
        checkpoint: SHA-256 of the weights, None when there was no file.
        skipped: Frames of the test set that could not be read and are not in the table.
        made_from: What the scores were made from, in parts that JSON can hold (see `provenance`); None if not known.
        checksums: CRC-32 of what is stored for each row (see `checksum_of`), uint32 [N]; None if not known.
        files: Identity of the stored files that were read (see `FrameStore.identity`); None if not known.
        clips: Numbers of the frames of each row's clip in the order in which the detector got them, [N, T] with T from
            2 to `LONGEST_CLIP`; a frame may be in it twice, and in several clips. None for a table of single frames.
        short_videos: Videos of the test set with fewer frames than a clip takes, whatever became of them.

    Raises:
        UserError: Columns of different lengths, no row at all, a frame or clip listed twice, a label that is not 0 or
            1, a video with two labels or methods, a score that is NaN, infinite or outside [0, 1], a clip that does not
            begin with its row's frame. The message names the first offenders.
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
        clips: np.ndarray | None = None,
        short_videos: int = 0,
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
            clips=clips,
            short_videos=int(short_videos),
            video_label=_one_per_video(dataset, "label", labels, videos, index),
            video_method=_one_per_video(dataset, "method", _text(method), videos, index),
            video_type=_one_per_video(dataset, "forgery type", _text(forgery_type), videos, index),
        )

    @classmethod
    def of_frames(
        cls, dataset: str, frames: FrameList, scores: np.ndarray, *, index: np.ndarray | None = None, **others
    ) -> "ScoreTable":
        """The table of the scores of a frame list, or of a list of clips.

        Args:
            dataset: Name of the test set, as the protocol calls it.
            frames: The frames; or the clips, which have `clip_numbers` [N, T] and `short`, their number of short
                videos, beside a frame list's columns.
            scores: P(fake), [N].
            index: Which of the frames have the scores, [N]; all if not given.
            others: `variants`, `answered`, `people`, `detector`, `checkpoint`, `skipped`, `made_from`, `checksums` and
                `files`, see `ScoreTable`.
        """
        index = slice(None) if index is None else index
        clips = getattr(frames, "clip_numbers", None)
        owners = [frames.videos[i] for i in frames.video_index[index]]
        return cls(
            dataset,
            [video.id for video in owners],
            frames.numbers[index],
            frames.labels[index],
            [video.method for video in owners],
            scores,
            forgery_type=[video.forgery_type for video in owners],
            clips=None if clips is None else clips[index],
            short_videos=getattr(frames, "short", 0),
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
        self.clips: np.ndarray | None = self._checked_clips(fields["clips"])  # int64 [N, T]; None: rows are frames
        self.short_videos: int = fields["short_videos"]
        labels = fields["video_label"]
        self._refuse((labels != 0) & (labels != 1), labels, "label", "0 (real) or 1 (fake)", of_videos=True)
        self.video_label: np.ndarray = labels.astype(np.int8, copy=False)  # [V]
        self._refuse_repeated_rows()
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
        rows = f"{len(self)} {self.unit}s of {len(self.videos)} videos"
        return f"ScoreTable({self.dataset!r}, {rows}, by {self.detector!r})"

    @property
    def unit(self) -> str:
        """What a row is: "frame" or "clip"."""
        return "frame" if self.clips is None else "clip"

    @property
    def levels(self) -> tuple[str, ...]:
        """What the table has scores of: frames and videos, or of clips videos alone."""
        return ("frame", "video") if self.clips is None else ("video",)

    @property
    def numbers(self) -> np.ndarray:
        """Numbers of the frames of each row, [N, 1] or [N, T]."""
        return self.frame[:, None] if self.clips is None else self.clips

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
        """The table of the rows that were answered; None if all were, or none."""
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
            clips=None if self.clips is None else self.clips[kept],
            short_videos=self.short_videos,
        )

    def frames_of_videos(self) -> np.ndarray:
        """Number of each video's frames that were scored, [V]; a frame of several clips counts once."""
        if self.clips is None:
            return np.bincount(self.video_index, minlength=len(self.videos))
        owner, number = np.repeat(self.video_index, self.clips.shape[1]), self.clips.ravel()
        order = np.lexsort((number, owner))
        owner, number = owner[order], number[order]
        new = np.concatenate([[True], (np.diff(owner) != 0) | (np.diff(number) != 0)])
        return np.bincount(owner[new], minlength=len(self.videos))

    def people(self) -> dict[str, tuple[str, str]]:
        """The person recorded and the person whose face is seen, by video id, as they were given."""
        if self.video_people is None:
            return {}
        return {
            video: (recorded, seen) for video, (recorded, seen) in zip(self.videos.tolist(), self.video_people.tolist())
        }

    def frames_hash(self) -> str:
        """SHA-256 of which frames were scored and with which labels: equal for every detector that saw the same
        frames, in whatever order. Of clips, it holds the frames of each clip."""
        rank = self._video_rank()
        order = self.order(rank)
        digest = hashlib.sha256("\n".join(sorted(self.videos.tolist())).encode())
        of_clips = [] if self.clips is None else list(self.clips.T)
        for column in (rank, self.frame, self.label, *of_clips):
            digest.update(np.ascontiguousarray(column[order], dtype="<i8"))
        return digest.hexdigest()

    def pixels_hash(self) -> str | None:
        """SHA-256 of the checksums of all rows: of tables with one `frames_hash`, equal where they are of the same
        pixels, in whatever order and codec; None if they are not known."""
        if self.checksums is None:
            return None
        order = self.order(self._video_rank())
        return hashlib.sha256(np.ascontiguousarray(self.checksums[order], dtype="<u4")).hexdigest()

    def videos_hash(self) -> str:
        """SHA-256 of which videos were scored and with which labels: equal for detectors of frames and of clips."""
        lines = sorted(f"{video}\n{label}\n" for video, label in zip(self.videos.tolist(), self.video_label.tolist()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def made_from_hash(self) -> str | None:
        """SHA-256 of all that the scores were made from; None if it is not known."""
        if self.made_from is None:
            return None
        return hashlib.sha256(json.dumps(self.made_from, sort_keys=True).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the table as one .npz without pickled objects; the file appears whole or not at all."""
        arrays = {
            "format": np.array(OF_FRAMES if self.clips is None else OF_CLIPS),
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
        if self.clips is not None:
            further |= {"clips": self.clips, "short_videos": np.array(self.short_videos)}
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
            if arrays["format"] > OF_CLIPS:
                raise UserError(f"score table format {arrays['format']}, this version reads up to {OF_CLIPS}")
            if {name in arrays for name in _CLIP_ARRAYS} != {bool(arrays["format"] == OF_CLIPS)}:
                raise UserError(
                    f"damaged: a score table of format {arrays['format']} with {_listed(arrays)}; expected "
                    f"{' and '.join(_CLIP_ARRAYS)} in format {OF_CLIPS} and in no other; score the test set again"
                )
            if any(not _fits(arrays[name]) for name in ("skipped", "short_videos") if name in arrays) or any(
                (arrays[name] > LARGEST_NUMBER).any() for name in ("frame", "clips") if name in arrays
            ):
                raise UserError("counts or frame numbers that do not fit 64 bits; score the test set again")
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
                clips=arrays.get("clips"),
                short_videos=int(arrays.get("short_videos", 0)),
                variants={n.removeprefix("variant/"): v for n, v in arrays.items() if n.startswith("variant/")},
            )
        except UserError as error:
            raise UnreadableFile(f"{path}: {error}") from None
        return table

    def _video_rank(self) -> np.ndarray:
        """Place of each row's video among the sorted ids, [N]."""
        return np.argsort(np.argsort(self.videos, kind="stable"), kind="stable")[self.video_index]

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
        self._refuse(~answered & (self.score != 0.5), self.score, f"score of a {self.unit} without an answer", "0.5")
        return None if answered.all() else answered

    def _checked_clips(self, clips) -> np.ndarray | None:
        if clips is None:
            return None
        clips = np.asarray(clips)
        longest = clips.shape[1] if clips.ndim == 2 else 0
        if clips.dtype.kind not in "iu" or len(clips) != len(self) or not 2 <= longest <= LONGEST_CLIP:
            raise UserError(
                f"score table of {self.dataset}: clips: expected whole numbers [{len(self)}, 2 to {LONGEST_CLIP}], got "
                f"{clips.dtype} {list(clips.shape)}; score it again"
            )
        clips = clips.astype(np.int64, copy=False)
        self._refuse((clips < 0).any(1), clips.min(1), "frames of a clip", "numbers of 0 or more")
        self._refuse(clips[:, 0] != self.frame, clips[:, 0], "first frame of a clip", "the frame of its row")
        return clips

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

    def order(self, owner: np.ndarray) -> np.ndarray:
        """What sorts the rows by a number of their video [N], then by the numbers of their frames, [N]."""
        if self.clips is not None:
            return np.lexsort((*self.clips.T[::-1], owner))
        width = int(self.frame.max()) + 1
        if self.frame.min() < 0 or width > 2**62 // (len(self.videos) + 1):
            return np.lexsort((self.frame, owner))
        return np.argsort(owner.astype(np.int64) * width + self.frame)  # one key sorts several times faster than two

    def _refuse_repeated_rows(self) -> None:
        order = self.order(self.video_index)
        same = (np.diff(self.video_index[order]) == 0) & (np.diff(self.numbers[order], axis=0) == 0).all(1)
        repeated = np.zeros(len(self), bool)
        repeated[order[1:][same]] = True
        self._refuse(repeated, self.frame, self.unit, f"each {self.unit} once")

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
    "clips": Kind("iu", 2, needed=False),
    "short_videos": Kind("iu", 0, needed=False),
}
"""Arrays of a stored score table."""
_CLIP_ARRAYS = ("clips", "short_videos")
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


def _fits(count: np.ndarray) -> bool:
    return bool(0 <= count <= LARGEST_NUMBER)


def _listed(arrays: Mapping) -> str:
    return " and ".join(name for name in _CLIP_ARRAYS if name in arrays) or f"no {' or '.join(_CLIP_ARRAYS)}"


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
    """The value that all rows of a video share, [V]."""
    per_video = np.zeros(len(videos), dtype=values.dtype)
    per_video[index] = values
    differs = np.flatnonzero(per_video[index] != values)
    if len(differs):
        video = index[differs[0]]
        found = sorted(set(values[index == video].tolist()))
        raise UserError(f"score table of {dataset}: video {videos[video]} has more than one {what}: {found}")
    return per_video
