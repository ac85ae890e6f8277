"""Makes the face crops of one video: read, detect, track, align, write."""

import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from resproto_fd.configs.errors import MissingFile, UnreadableFile, UserError, shown
from resproto_fd.configs.files import atomic_file
from resproto_fd.configs.readers.json_reader import read_json_object
from resproto_fd.configs.readers.text import kind_instead
from resproto_fd.preprocessing.faces.finding import FaceFinder
from resproto_fd.preprocessing.faces.sources import OF_RUNS, STATE, Options, Source
from resproto_fd.preprocessing.faces.video_reader import PictureFile, PictureSequence, UnreadableMedia, VideoFile

FORMAT = "resproto faces 1"
PNG_LEVEL = 1  # level 6 takes five times as long for a tenth less
KINDS = ("frames", "landmarks", "masks")
NAME_REFUSED = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
ATTEMPTS = 10  # a place is filled again if another process filled it in between


class CannotWrite(UserError):
    """The output folder cannot be written, so later videos would fail too."""


class CannotName(Exception):
    """The output folder's file system cannot have a file of this name, which is the fault of one video alone."""


class FaceJob:
    """Makes the crops of one source after another, with one detector for all.

    Args:
        out: The output folder.
        options: What to make.
        device: Device of the detector's networks.
        tmp: Folder below `STATE` for half-done work.
    """

    def __init__(self, out: str | Path, options: Options, device: str = "cpu", tmp: str = "tmp") -> None:
        self.out, self.options, self.tmp = Path(out), options, tmp
        self._finder = FaceFinder(options, device)

    def __call__(self, source: Source) -> dict:
        """Makes a source's crops and returns its record. Incomplete crops of an earlier run are made again.

        An unreadable source gives {"source", "failed": reason}. No record of it is kept, so that the next run tries it
        again.

        Raises:
            CannotWrite: The output folder is full or cannot be written.
        """
        with one_thread():
            return self._make(source)

    def _make(self, source: Source) -> dict:
        temporary = temporary_folder(self.out / STATE / self.tmp)
        try:
            record = self._extract(source, temporary)
            publish(self.out, source, temporary, record)
            return record
        except CannotWrite:
            raise
        except (UnreadableMedia, CannotName) as error:
            return {"source": source.name, "failed": str(error)}
        except Exception as error:  # no fault of one video may stop the others
            return {"source": source.name, "failed": f"{type(error).__name__}: {error}"}
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _extract(self, source: Source, folder: Path) -> dict:
        reader = open_source(source)
        stamps = source.stamps(self.options.masks)
        starts = run_starts(reader.info.frames, self.options)
        wanted = wanted_frames(reader.info.frames, self.options)
        numbers = frame_numbers(source)
        finds, counts = self._finder.kept(reader, wanted)
        kept, missed = [], []
        matrices, sizes = {}, {}
        for i in sorted(finds):
            if finds[i] is None:
                missed.append(numbers(i))
                continue
            crop, matrix, face, sizes[i] = finds[i]
            self._write_picture(folder / "frames" / f"{numbers(i):03d}.png", crop)
            if face is not None:
                self._write_points(folder / "landmarks" / f"{numbers(i):03d}.npy", face.pop("in_crop"))
            matrices[i] = matrix
            kept.append({"frame": numbers(i), **(face or {})})
        info = reader.info
        note = {"note": reader.note} if reader.note else {}
        record = {
            "format": FORMAT,
            "source": source.name,
            "kind": source.kind,
            "bytes": source.size(),
            "sha256": source.sha256(self.options.masks),
            "options": self.options.as_dict(),
            "status": "done",
            "frames": info.frames,
            "width": info.width,
            "height": info.height,
            "fps": info.fps,
            "codec": info.codec,
            "damage": reader.damage,
            **note,
            **({"starts": [numbers(i) for i in starts]} if self.options.clips else {}),
            "wanted": [numbers(i) for i in wanted],
            "kept": kept,
            "missed": missed,
            "unreadable": [numbers(i) for i in wanted if i not in finds],
            "several": {str(numbers(i)): n for i, n in sorted(counts.items()) if n > 1},
            "masks": self._masks(source, folder, matrices, sizes),
        }
        if source.stamps(self.options.masks) != stamps:
            raise UnreadableMedia("was changed while it was read; run the same command again")
        return record

    def _masks(self, source: Source, folder: Path, matrices: dict, sizes: dict) -> dict | None:
        """Makes the masks and reports on them; None if the source has no mask video."""
        from resproto_fd.preprocessing.faces import alignment

        path = source.mask_video() if self.options.masks and source.kind == "video" else None
        if path is None:
            return None
        try:
            reader = VideoFile(path)
            inside = [i for i in matrices if i < reader.info.frames]
            done = set()
            for i, mask in reader.read(inside):
                (width, height), matrix = sizes[i], matrices[i]
                zoom = np.array([width / mask.shape[1], height / mask.shape[0], 1])
                crop = alignment.warp_mask(mask, matrix * zoom, self.options.size)
                self._write_picture(folder / "masks" / f"{i:03d}.png", crop)
                done.add(i)
        except (UnreadableMedia, OSError) as error:
            return {"failed": str(error)}
        return {"frames": reader.info.frames, "kept": len(done), "missing": [i for i in matrices if i not in done]}

    def _write_picture(self, path: Path, image: np.ndarray) -> None:
        import cv2

        image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
        _, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, PNG_LEVEL])
        _write(path, data.tobytes())

    def _write_points(self, path: Path, points: np.ndarray) -> None:
        import io

        data = io.BytesIO()
        np.save(data, points)
        _write(path, data.getvalue())


def temporary_folder(place: Path) -> Path:
    """Makes a folder in `place` that no other process has, on no machine.

    Raises:
        CannotWrite: It cannot be made.
    """
    try:
        place.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=place))
    except OSError as error:
        raise CannotWrite(str(_cannot_write(place, error))) from error


def publish(out: Path, source: Source, temporary: Path, record: dict) -> None:
    """Moves finished folders into their places. The record is written last and marks the source as done.

    Another process may publish the same source at the same time: one of a machine that was taken for dead.

    Args:
        out: The output folder.
        source: What the folders were made of.
        temporary: Has the folders, named as in `KINDS`; on the file system of `out`.
        record: Tells what is in them.

    Raises:
        CannotWrite: The output folder is full, cannot be written, or the temporary folder was emptied by others.
        CannotName: The file system cannot have a folder of this name.
    """
    path = out / source.record
    made = len(os.listdir(temporary / "frames")) if record["kept"] else 0
    if made != len(record["kept"]):
        raise CannotWrite(f"{temporary}: another run removed it; wait until that one has ended, and run this one again")
    _write_record(path, {**record, "status": "publishing"}, temporary)
    for kind in KINDS:
        place = out / source.place(kind)
        try:
            if (temporary / kind).exists():
                place.parent.mkdir(parents=True, exist_ok=True)
            _replace_folder(place, temporary / kind, temporary / f"old {kind}")
        except OSError as error:
            raise _cannot_write(place, error) from error
    _write_record(path, record, temporary)


def _replace_folder(place: Path, new: Path, old: Path) -> None:
    """Puts `new`, if it exists, into a place; what is there is moved to `old`, and does not half vanish."""
    for attempt in range(ATTEMPTS):
        with suppress(FileNotFoundError):
            os.rename(place, old.with_name(f"{old.name} {attempt}"))
        if not new.exists():
            return
        try:
            os.rename(new, place)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or attempt == ATTEMPTS - 1:
                raise


def sampled_frames(frames: int, wanted: int) -> list[int]:
    """Chooses frame numbers, evenly spaced from the first to the last; 0 wanted means all.

    They are DeepfakeBench's, rounding included, so that crops of one video have the same names. `evenly_spaced` chooses
    among crops and differs: it counts in whole numbers, and takes the middle frame if one is wanted.

    >>> sampled_frames(300, 4), sampled_frames(3, 32)
    ([0, 99, 199, 299], [0, 1, 2])
    """
    if wanted == 0:
        return list(range(frames))
    return sorted(set(np.linspace(0, frames - 1, wanted, dtype=int).tolist()))


def run_starts(frames: int, options: Options) -> list[int]:
    """First frames of the runs that `--clips` keeps, evenly spaced; a video that is too short has one run, of all.

    >>> run_starts(300, Options(clips=16, runs=3)), run_starts(10, Options(clips=16)), run_starts(300, Options())
    ([0, 142, 284], [0], [])
    """
    if not options.clips or frames < 2:
        return []
    return sampled_frames(max(frames - options.clips, 0) + 1, options.runs)


def wanted_frames(frames: int, options: Options) -> list[int]:
    """Numbers of the frames to keep: the evenly spaced ones, and those of the runs.

    >>> wanted_frames(100, Options(frames=3, clips=4, runs=2))
    [0, 1, 2, 3, 49, 96, 97, 98, 99]
    """
    runs = {i for start in run_starts(frames, options) for i in range(start, min(start + options.clips, frames))}
    return sorted(runs.union(sampled_frames(frames, options.frames)))


def read_record(out: str | Path, source: Source) -> dict | None:
    """Reads the record of a source that was done, or begun, before; None without one.

    Raises:
        UnreadableFile: The record is damaged or has another format.
    """
    path = Path(out) / source.record
    try:
        record = read_json_object(path, "delete this record of `resproto faces`", file_names=True)
    except MissingFile:
        return None
    except UnreadableFile as error:
        if getattr(error.__cause__, "errno", None) in NAME_REFUSED:
            return None
        raise
    if record.get("format") != FORMAT:
        raise UnreadableFile(
            f"{path}: expected format {FORMAT!r}, got {shown(record.get('format'))}; set another --out"
        )
    for key, kinds in _RECORD.items():
        if key not in record or not isinstance(record[key], kinds):
            raise UnreadableFile(
                f"{path}: expected a record of `resproto faces`, got a damaged one ({key}: {shown(record.get(key))}); "
                "delete it"
            )
    masks = record["masks"]
    if masks is not None and not ("failed" in masks or _counted(masks)):
        raise UnreadableFile(
            f"{path}: masks: expected {{'kept': number, 'missing': [...]}}, got {shown(masks)}; delete the file"
        )
    starts, length = record.get("starts", []), record["options"].get("clips", 0)
    if not isinstance(starts, list) or any(type(number) is not int for number in [length, *starts]):
        raise UnreadableFile(f"{path}: starts: expected numbers of frames, got {shown(starts)}; delete the file")
    for face in record["kept"]:
        if not isinstance(face, dict) or type(face.get("frame")) is not int:
            raise UnreadableFile(f"{path}: kept: expected {{'frame': number, ...}}, got {shown(face)}; delete the file")
    return record


def _counted(masks: dict) -> bool:
    return type(masks.get("kept")) is int and isinstance(masks.get("missing"), list)


def compare_options(record: dict, options: dict, out: str | Path) -> None:
    """Refuses crops that were made with other options.

    Raises:
        UserError: The record's options are others.
    """
    theirs, ours = {**OF_RUNS, **record["options"]}, {**OF_RUNS, **options}
    differing = [
        f"{name} {theirs.get(name)!r}, now {value!r}" for name, value in ours.items() if theirs.get(name) != value
    ]
    if differing:
        raise UserError(
            f"{out}: has crops of {record['source']} made with other options ({'; '.join(differing)}); "
            "set another --out, or set --redo to make them again"
        )


def is_of(record: dict, source: Source, out: Path) -> bool:
    """Whether a record is of the source's files as they are now.

    A file that was last changed, put or renamed before the record was written is not read again.
    """
    try:
        if record["bytes"] != source.size():
            return False
        written, masks = os.stat(out / source.record).st_mtime_ns, record["options"].get("masks", False)
        if "sha256" not in record or all(os.stat(path).st_ctime_ns < written for path in source.inputs(masks)):
            return True
        return record["sha256"] == source.sha256(masks)
    except (OSError, UnreadableFile):  # doing it anew names the fault, which costs this source alone
        return False


def stands(record: dict, source: Source, out: Path) -> bool:
    """Whether the folder has exactly the crops that the record names."""
    try:
        present = set(os.listdir(out / source.place("frames")))
    except FileNotFoundError:
        present = set()
    return present == {f"{face['frame']:03d}.png" for face in record["kept"]}


_RECORD = {
    **dict.fromkeys(("source", "status"), str),
    **dict.fromkeys(("wanted", "kept", "missed", "unreadable"), list),
    **dict.fromkeys(("options", "several"), dict),
    "bytes": int,
    "damage": str | None,
    "masks": dict | None,
}
"""What a record must have for the commands that read it, and of which types."""


@contextmanager
def one_thread():
    """Limits OpenCV and torch to one thread: other processes use the other cores."""
    import cv2

    torch = sys.modules.get("torch")  # absent where no network is at work
    before = cv2.getNumThreads(), torch and torch.get_num_threads()
    cv2.setNumThreads(1)
    if torch:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before[0])
        if torch:
            torch.set_num_threads(before[1])


def open_source(source: Source):
    """Opens a source's reader, see `video_reader`.

    Raises:
        UnreadableMedia: It cannot be read.
    """
    for path in source.files:
        with suppress(OSError):  # the reader says why
            if found := kind_instead(path):
                raise UnreadableMedia(f"{Path(path).name}: expected a file, got {found}")
    if source.kind == "video":
        return VideoFile(source.files[0])
    return PictureFile(source.files[0]) if source.kind == "picture" else PictureSequence(source.files)


def frame_numbers(source: Source) -> Callable[[int], int]:
    """Numbers the i-th picture: by its name if all names in the folder are different numbers, else by i."""
    if source.kind != "sequence":
        return int
    stems = [Path(path).stem for path in source.files]
    if all(stem.isdecimal() for stem in stems) and len(set(map(int, stems))) == len(stems):
        return lambda i: int(stems[i])
    return int


def _write_record(path: Path, record: dict, scratch: Path) -> None:
    try:
        # Not durable: there are two records a source, and a lost one is made again.
        with atomic_file(path, durable=False, scratch=scratch) as file:
            file.write((json.dumps(record) + "\n").encode())
    except UserError as error:
        if getattr(error.__cause__, "errno", None) in NAME_REFUSED:
            raise CannotName(str(error)) from error
        raise CannotWrite(str(error)) from error


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(exist_ok=True)  # not those above it: if another run removed them, crops are lost already
        path.write_bytes(data)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> CannotWrite | CannotName:
    if error.errno in NAME_REFUSED:
        return CannotName(f"{path}: cannot be written ({error.strerror}); rename the video or its folders")
    remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the output folder"
    return CannotWrite(f"{path}: cannot be written ({error.strerror}); {remedy} and run the same command again")
