"""Tracks of faces: they choose which of the faces in each frame is kept."""

from collections.abc import Sequence

import numpy as np

MIN_OVERLAP = 0.2  # intersection over union of one face in two sampled frames, about half a second apart
MAX_GAP = 3  # sampled frames in which a tracked face may be missed


def largest_faces(boxes: Sequence[np.ndarray], sure: Sequence[np.ndarray]) -> list[int | None]:
    """Chooses the row of the largest sure box of each frame; None without one. Arguments as in `persistent_faces`."""
    chosen: list[int | None] = []
    for frame, certain in zip(boxes, sure):
        chosen.append(int(np.argmax(np.where(certain, _sides(frame), -1))) if np.any(certain) else None)
    return chosen


def persistent_faces(boxes: Sequence[np.ndarray], sure: Sequence[np.ndarray]) -> list[int | None]:
    """Chooses the row of the box in each frame that belongs to the face that lasts; None if it is not seen.

    Boxes are linked into tracks by overlap. A track counts if at least one of its boxes is sure, so that a face is
    tracked through frames in which it is hard to see. The track with the largest sum of box sides is kept (a large and
    lasting face), then the next one that shares no moment with it, and so on. After a cut, the new shot's main face is
    taken. A second person or a false find beside the main face is never taken, not even if the main face is missed.

    Args:
        boxes: left, top, right, bottom of the faces of each frame, in time order, each [N, 4].
        sure: Whether each of them counts by itself, each [N].
    """
    chosen: list[int | None] = [None] * len(boxes)
    taken: list[tuple[int, int]] = []
    sides = [_sides(frame) for frame in boxes]
    tracks = [track for track in link_boxes(boxes) if any(sure[frame][row] for frame, row in track)]
    shortest = min(2, max(map(len, tracks), default=0))  # a find in a single frame is chance if others last
    for track in sorted(tracks, key=lambda track: (-sum(sides[f][i] for f, i in track), track)):
        first, last = track[0][0], track[-1][0]
        if len(track) < shortest or any(first <= b and a <= last for a, b in taken):
            continue
        taken.append((first, last))
        for frame, row in track:
            chosen[frame] = row
    return chosen


def link_boxes(boxes: Sequence[np.ndarray]) -> list[list[tuple[int, int]]]:
    """Links boxes into tracks: lists of (frame, row), each frame at most once. Pairs that overlap most come first.

    Args:
        boxes: left, top, right, bottom of the faces of each frame, in time order, each [N, 4].
    """
    tracks: list[list[tuple[int, int]]] = []
    for frame, here in enumerate(boxes):
        open_tracks = [t for t in tracks if frame - t[-1][0] <= MAX_GAP]
        last = np.array([boxes[t[-1][0]][t[-1][1]] for t in open_tracks]).reshape(-1, 4)
        overlap = overlaps(last, np.asarray(here, float).reshape(-1, 4))
        linked = set()
        for pair in np.argsort(-overlap, axis=None, kind="stable"):
            track, row = divmod(int(pair), len(here))
            if overlap[track, row] < MIN_OVERLAP:
                break
            if row in linked or open_tracks[track][-1][0] == frame:
                continue
            open_tracks[track].append((frame, row))
            linked.add(row)
        tracks += [[(frame, row)] for row in range(len(here)) if row not in linked]
    return tracks


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every box of a [N, 4] with every box of b [M, 4], in [0, 1], [N, M]."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    area_a, area_b = (np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (a, b))
    union = area_a[:, None] + area_b[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _sides(boxes: np.ndarray) -> np.ndarray:
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    return np.sqrt(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1))
