"""Finds, aligns and tracks the faces of a video or picture, for `resproto faces` and `resproto predict` alike."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from resproto_fd.preprocessing.faces import tracks as face_tracks
from resproto_fd.preprocessing.faces.sources import Options

MOST_FACES = 16  # faces of one frame that are tracked, the largest first


class Find(NamedTuple):
    """One face in one frame.

    Attributes:
        crop: RGB uint8, [size, size, 3].
        matrix: What brought the frame's pixels to the crop's, [2, 3].
        face: "box", "score", "points" in the frame, and "in_crop", the points in the crop; None without a detector.
        size: Width and height of the frame.
    """

    crop: np.ndarray
    matrix: np.ndarray
    face: dict[str, Any] | None
    size: tuple[int, int]


class Candidates(NamedTuple):
    """All faces of some frames, those of each frame the widest first.

    Attributes:
        order: The frames' numbers, ascending.
        boxes: left, top, right, bottom of each frame's faces, each [F, 4], in that order.
        sure: Whether each of them counts by itself, each [F].
        finds: The faces of each frame, by its number.
        counts: Faces of each frame that count by themselves, by its number.
        cropping: Seconds that aligning and cropping took.
    """

    order: list[int]
    boxes: list[np.ndarray]
    sure: list[np.ndarray]
    finds: dict[int, list[Find]]
    counts: dict[int, int]
    cropping: float = 0.0


class FaceFinder:
    """Finds the faces of one video after another.

    Args:
        options: What to find and to make.
        device: Device of the detector's networks.
    """

    def __init__(self, options: Options, device: str = "cpu") -> None:
        self.options = options
        self._detector = None
        if options.detector == "mtcnn":
            from resproto_fd.preprocessing.faces.mtcnn import Mtcnn

            self._detector = Mtcnn(options.min_face, min(options.weak_score, options.min_score), device)
        self._batch = 1 if device == "cpu" else 8  # on a CPU, one picture at a time fits the caches better

    def kept(self, reader, wanted: Sequence[int]) -> tuple[dict[int, Find | None], dict[int, int]]:
        """The face of each frame that is kept, None where none is; and how many faces each frame has.

        Args:
            reader: Of a video or picture, see `video_reader`.
            wanted: Numbers of the frames.
        """
        if self._detector is None:
            return dict(self._whole(reader, wanted)), {}
        found = self.candidates(reader, wanted)
        chosen = self.chosen(found)
        return {i: None if row is None else found.finds[i][row] for i, row in zip(found.order, chosen)}, found.counts

    def chosen(self, found: Candidates) -> list[int | None]:
        """The row of each frame's face that is kept, None without one."""
        choose = face_tracks.persistent_faces if self.options.track == "persistent" else face_tracks.largest_faces
        return choose(found.boxes, found.sure)

    def candidates(self, reader, wanted: Sequence[int]) -> Candidates:
        """All faces of the frames that can be read, at most `MOST_FACES` of each; arguments as in `kept`."""
        from resproto_fd.preprocessing.faces import alignment

        size = self.options.size
        target = alignment.crop_template(size, self.options.scale)
        boxes, sure, finds, counts = {}, {}, {}, {}
        cropping = 0.0
        for batch in batches(reader.read(wanted), self._batch):
            for (i, image), faces in zip(batch, self._detector.detect([image for _, image in batch])):
                widths = faces.boxes[:, 2] - faces.boxes[:, 0]
                rows = np.argsort(-widths, kind="stable")[:MOST_FACES]
                certain = faces.scores >= self.options.min_score
                counts[i] = int(certain.sum())
                boxes[i], sure[i] = faces.boxes[rows], certain[rows]
                finds[i] = []
                began = time.perf_counter()
                for row in rows:
                    matrix = alignment.similarity_transform(faces.points[row], target)
                    face = {
                        "box": [round(float(x), 1) for x in faces.boxes[row]],
                        "score": round(float(faces.scores[row]), 4),
                        "points": [[round(float(x), 2) for x in point] for point in faces.points[row]],
                        "in_crop": alignment.move_points(matrix, faces.points[row]).astype(np.float32),
                    }
                    finds[i].append(Find(alignment.warp(image, matrix, size), matrix, face, image.shape[1::-1]))
                cropping += time.perf_counter() - began
        order = sorted(boxes)
        return Candidates(order, [boxes[i] for i in order], [sure[i] for i in order], finds, counts, cropping)

    def _whole(self, reader, wanted: Sequence[int]) -> Iterator[tuple[int, Find]]:
        """Each frame resized to a crop, for pictures of faces."""
        import cv2

        size = self.options.size
        for i, image in reader.read(wanted):
            height, width = image.shape[:2]
            shrinks = width > size or height > size
            crop = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
            yield i, Find(crop, np.array([[size / width, 0, 0], [0, size / height, 0]]), None, (width, height))


def batches(items, size: int) -> Iterator[list]:
    """Yields lists of `size` items; the last may be shorter."""
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
