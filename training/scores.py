"""The score table: one detector's score of every frame of one test set, kept so that all numbers can be made again.

Nothing after this file needs a detector, a checkpoint or an image: metrics, tables and comparisons are functions of
score tables alone. In shapes, N is the number of frames and V of videos.
"""

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import atomic_file
from resproto_fd.trainer.frame_list import FrameList

FORMAT = 1
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
        detector: Who scored.
        checkpoint: SHA-256 of the weights, None when there was no file.
        skipped: Frames of the test set that could not be read and are not in the table.

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
        detector: str = "",
        checkpoint: str | None = None,
        skipped: int = 0,
    ):
        if forgery_type is None:
            forgery_type = ["unknown"] * len(video)
        columns = {"video": video, "frame": frame, "label": label, "method": method, "score": score}
        _same_lengths(dataset, columns | {"forgery_type": forgery_type})
        videos, index = factorize(video)
        labels = _integers(dataset, "label", label)
        self._set(
            dataset=str(dataset),
            videos=videos,
            video_index=index,
            frame=_integers(dataset, "frame", frame),
            score=score,
            variants=variants or {},
            detector=str(detector),
            checkpoint=checkpoint,
            skipped=int(skipped),
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
            others: `variants`, `detector`, `checkpoint` and `skipped`, see `ScoreTable`.
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

    def frames_hash(self) -> str:
        """SHA-256 of which frames were scored and with which labels: equal for every detector that saw the same
        frames, in whatever order."""
        rank = np.argsort(np.argsort(self.videos, kind="stable"), kind="stable")[self.video_index]
        order = np.lexsort((self.frame, rank))
        digest = hashlib.sha256("\n".join(sorted(self.videos.tolist())).encode())
        for column in (rank, self.frame, self.label):
            digest.update(np.ascontiguousarray(column[order], dtype="<i8"))
        return digest.hexdigest()

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
        with atomic_file(path) as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "ScoreTable":
        """Read a table that `save` wrote, and check it like a new one.

        Raises:
            UserError: No such file, not a score table, damaged, or written by a newer version.
        """
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except FileNotFoundError:
            raise UserError(f"{path}: no such score table") from None
        except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{path}: not a readable score table ({error}); score the test set again") from None
        try:
            if int(arrays["format"]) > FORMAT:
                raise UserError(f"{path}: score table format {arrays['format']}, this version reads up to {FORMAT}")
            index, videos = arrays["video_index"], arrays["videos"]
            if index.size and (index.min() < 0 or index.max() >= len(videos)):
                raise UserError(f"{path}: damaged: frames of videos that the table does not list")
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
                variants={n.removeprefix("variant/"): v for n, v in arrays.items() if n.startswith("variant/")},
            )
        except KeyError as error:
            raise UserError(f"{path}: not a score table: it lacks {error}") from None
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
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

    def _refuse_repeated_frames(self) -> None:
        order = np.lexsort((self.frame, self.video_index))
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
