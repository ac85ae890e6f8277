"""One video to its face crops: read, detect, follow, align, write."""

import errno
import json
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from resproto_fd.configs.errors import UserError
from resproto_fd.configs.files import atomic_file
from resproto_fd.preprocessing.faces.sources import STATE, Options, Source
from resproto_fd.preprocessing.faces.video_reader import PictureFile, PictureSequence, UnreadableMedia, VideoFile

FORMAT = "resproto faces 1"
PNG_LEVEL = 1  # level 6 takes five times as long for a tenth less
KINDS = ("frames", "landmarks", "masks")
MOST_FACES = 16  # of a crowd's faces in one frame, so many of the largest are followed


class CannotWrite(UserError):
    """The output folder cannot be written: no later video would fare better."""


class FaceJob:
    """Makes the crops of one source after another; its one detector serves them all.

    Args:
        out: The output folder.
        options: What to make.
        device: Where the detector's networks run.
    """

    def __init__(self, out: str | Path, options: Options, device: str = "cpu") -> None:
        self.out, self.options = Path(out), options
        self._detector = None
        if options.detector == "mtcnn":
            from resproto_fd.preprocessing.faces.mtcnn import Mtcnn

            self._detector = Mtcnn(options.min_face, min(options.weak_score, options.min_score), device)
        self._batch = 1 if device == "cpu" else 8  # on a CPU the caches like one picture at a time better

    def __call__(self, source: Source) -> dict:
        """The source's record. Its crops are in place when this returns; what ended early before is made anew.

        A source that cannot be read gives {"source", "failed": reason}; no record of it is kept, so that the next run
        tries it again.

        Raises:
            CannotWrite: The output folder is full or closed to us.
        """
        with _one_thread():
            return self._make(source)

    def _make(self, source: Source) -> dict:
        temporary = self.out / STATE / "tmp" / f"{os.getpid()}"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            record = self._extract(source, temporary)
            self._publish(source, temporary, record)
            return record
        except CannotWrite:
            raise
        except UnreadableMedia as error:
            return {"source": source.name, "failed": str(error)}
        except Exception as error:  # one video's trouble, whatever it is, must not end the others' work
            return {"source": source.name, "failed": f"{type(error).__name__}: {error}"}
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _extract(self, source: Source, folder: Path) -> dict:
        reader = _open(source)
        wanted = sampled_frames(reader.info.frames, self.options.frames)
        numbers = _frame_numbers(source)
        finds, counts = self._find(reader, wanted)
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
        return {
            "format": FORMAT,
            "source": source.name,
            "kind": source.kind,
            "bytes": source.size(),
            "options": self.options.as_dict(),
            "status": "done",
            "frames": info.frames,
            "width": info.width,
            "height": info.height,
            "fps": info.fps,
            "codec": info.codec,
            "damage": reader.damage,
            "wanted": [numbers(i) for i in wanted],
            "kept": kept,
            "missed": missed,
            "unreadable": [numbers(i) for i in wanted if i not in finds],
            "several": {str(numbers(i)): n for i, n in sorted(counts.items()) if n > 1},
            "masks": self._masks(source, folder, matrices, sizes),
        }

    def _find(self, reader, wanted: list[int]) -> tuple[dict, dict]:
        """({frame: (crop, matrix, face, frame's size) or None where no face is chosen}, {frame: number of faces})."""
        import cv2

        from resproto_fd.preprocessing.faces import alignment
        from resproto_fd.preprocessing.faces import tracks as face_tracks

        size = self.options.size
        if self._detector is None:
            finds = {}
            for i, image in reader.read(wanted):
                height, width = image.shape[:2]
                shrinks = width > size or height > size
                crop = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
                finds[i] = (crop, np.array([[size / width, 0, 0], [0, size / height, 0]]), None, (width, height))
            return finds, {}

        target = alignment.crop_template(size, self.options.scale)
        boxes, sure, candidates, counts = {}, {}, {}, {}
        for batch in _batches(reader.read(wanted), self._batch):
            for (i, image), faces in zip(batch, self._detector.detect([image for _, image in batch])):
                widths = faces.boxes[:, 2] - faces.boxes[:, 0]
                rows = np.argsort(-widths, kind="stable")[:MOST_FACES]
                certain = faces.scores >= self.options.min_score
                counts[i] = int(certain.sum())
                boxes[i], sure[i] = faces.boxes[rows], certain[rows]
                candidates[i] = []
                for row in rows:
                    matrix = alignment.similarity_transform(faces.points[row], target)
                    face = {
                        "box": [round(float(x), 1) for x in faces.boxes[row]],
                        "score": round(float(faces.scores[row]), 4),
                        "points": [[round(float(x), 2) for x in point] for point in faces.points[row]],
                        "in_crop": alignment.move_points(matrix, faces.points[row]).astype(np.float32),
                    }
                    candidates[i].append((alignment.warp(image, matrix, size), matrix, face, image.shape[1::-1]))
        order = sorted(boxes)
        choose = face_tracks.persistent_faces if self.options.track == "persistent" else face_tracks.largest_faces
        chosen = choose([boxes[i] for i in order], [sure[i] for i in order])
        return {i: None if row is None else candidates[i][row] for i, row in zip(order, chosen)}, counts

    def _masks(self, source: Source, folder: Path, matrices: dict, sizes: dict) -> dict | None:
        """What became of the masks; None where the source has no mask video."""
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

    def _publish(self, source: Source, temporary: Path, record: dict) -> None:
        """Moves the finished folders into place; the record, written last, is what makes the source done."""
        path = self.out / source.record
        _write_record(path, {**record, "status": "publishing"})
        for kind in KINDS:
            place = self.out / source.place(kind)
            try:
                if place.exists():
                    shutil.rmtree(place)
                if (temporary / kind).exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    os.rename(temporary / kind, place)
            except OSError as error:
                raise _cannot_write(place, error) from error
        _write_record(path, record)


def sampled_frames(frames: int, wanted: int) -> list[int]:
    """Frame numbers, evenly spaced from the first to the last, as DeepfakeBench takes them; all where wanted is 0.

    >>> sampled_frames(300, 4), sampled_frames(3, 32)
    ([0, 99, 199, 299], [0, 1, 2])
    """
    if wanted == 0:
        return list(range(frames))
    return sorted(set(np.linspace(0, frames - 1, wanted, dtype=int).tolist()))


def read_record(out: str | Path, source: Source) -> dict | None:
    """The record of a source that was done or half done before, or None.

    Raises:
        UserError: The record is not one of ours.
    """
    path = Path(out) / source.record
    try:
        record = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{path} is not a record of face extraction ({error}): delete it") from error
    if record.get("format") != FORMAT:
        raise UserError(f"{path} has format {record.get('format')!r}, wanted {FORMAT!r}: use another output folder")
    return record


@contextmanager
def _one_thread():
    """Work is shared out by videos: threads inside one would only quarrel with the other processes."""
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


def _open(source: Source):
    if source.kind == "video":
        return VideoFile(source.files[0])
    return PictureFile(source.files[0]) if source.kind == "picture" else PictureSequence(source.files)


def _frame_numbers(source: Source):
    """Frame number of the i-th picture: its own name's, if all names in the folder are different numbers, else i."""
    if source.kind != "sequence":
        return int
    stems = [Path(path).stem for path in source.files]
    if all(stem.isdecimal() for stem in stems) and len(set(map(int, stems))) == len(stems):
        return lambda i: int(stems[i])
    return int


def _batches(items, size: int):
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _write_record(path: Path, record: dict) -> None:
    try:
        with atomic_file(path, durable=False) as file:  # two for each source, and a lost one is made again
            file.write((json.dumps(record) + "\n").encode())
    except UserError as error:
        raise CannotWrite(str(error)) from error


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> CannotWrite:
    remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "see to the output folder"
    return CannotWrite(f"{path} cannot be written ({error.strerror}): {remedy} and run the same command again")
